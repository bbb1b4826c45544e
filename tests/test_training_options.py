"""Layer-wise learning rates, averaged weights, mixup, label smoothing, sharpness-aware steps: by hand, and resumed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.data import read_cycles
from rales.errors import UsageError
from rales.models.ast import AST, ASTClassifier
from rales.recipes.registry import make_recipe
from rales.settings import RunSettings, Training
from rales.training import finetune, optim
from rales.training.distributed import DistributedContext
from rales.training.losses import weighted_cross_entropy, weighted_loss
from rales.training.optim import climb_gradient, make_optimisers, number_blocks, put_back, update_average
from rales.training.recipe import LossContext, Mixture
from tests import tiny
from tests.run_folders import lines, tensors, train_in_two_processes

OPTIONS = ("train.layer_decay=0.5", "train.ema=0.9", "train.mixup=0.4", "train.label_smoothing=0.1")
ALL = (*OPTIONS, "train.sam_rho=0.05")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    tiny.write_folder(folder / "data")
    return folder


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data")


@pytest.fixture(scope="module")
def train(place: Path, cycles: pd.DataFrame) -> Callable[..., Path]:
    def train(out: Path, *words: str) -> Path:
        finetune.run(tiny.recipe(*words), cycles, out, cache_folder=place / "cache")
        return out

    return train


# Layer-wise learning rates


def test_depths_in_the_classifier_of_the_paper() -> None:
    settings = tiny.recipe().settings
    model = tiny.recipe().build_model(settings)
    numbers = number_blocks(model)
    assert numbers.keys() == dict(model.named_parameters()).keys()
    assert {numbers[name] for name in numbers if name.startswith("encoder.patch_embed.")} == {0}
    assert {numbers[name] for name in numbers if name.startswith("encoder.blocks.0.")} == {1}
    assert {numbers[name] for name in numbers if name.startswith("encoder.blocks.1.")} == {2}
    assert {numbers[name] for name in ("encoder.norm.weight", "fusion.weight", "head.weight", "head.bias")} == {3}


def test_tokens_and_positions_are_below_the_blocks() -> None:
    numbers = number_blocks(ASTClassifier(AST(24, 3, 2, frames=100)))
    below = {"cls_token", "dist_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert {name.removeprefix("encoder.") for name, number in numbers.items() if number == 0} == below
    assert numbers["encoder.norm.weight"] == numbers["head.1.weight"] == 4


class Stack(nn.Module):
    """A stem, three blocks of a number each, and a head: y = head * sum of all * x."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(1, 1, bias=False)
        self.blocks = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
        self.head = nn.Linear(1, 1, bias=False)


def test_rates_of_blocks_by_hand() -> None:
    model = Stack()
    train = Training(optimiser="sgd", momentum=0, weight_decay=0, lr=1.0, layer_decay=0.5, head_lr_factor=3.0)
    optimiser = make_optimisers(model, RunSettings(train=train))["step"]
    before = {name: p.item() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optim.set_lr(optimiser, 0.1)
    optimiser.step()
    moved = {name: before[name] - p.item() for name, p in model.named_parameters()}
    expected = {"stem.weight": 0.1 / 16, "head.weight": 0.3}
    expected |= {f"blocks.{i}.weight": 0.1 / 2 ** (3 - i) for i in range(3)}
    assert moved == pytest.approx(expected, rel=1e-4)
    assert optimiser.param_groups[0]["factor"] == 1.0  # whose rate is the run's


@pytest.mark.parametrize("name", ["respirenet", "moummad_ce", "lungattn"])
def test_a_network_without_a_list_of_blocks_is_told(name: str) -> None:
    recipe = make_recipe(name, {"train.layer_decay": 0.5}, size="tiny")
    with pytest.raises(UsageError, match=r"train.layer_decay=0.5: the network of this recipe has no list of blocks"):
        make_optimisers(recipe.build_model(recipe.settings), recipe.settings)


# Average of the weights


def test_average_by_hand() -> None:
    model, average = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    for step, value in enumerate([4.0, 8.0], start=1):
        nn.init.constant_(model.weight, value)
        cast(Tensor, model.running_mean).fill_(value)
        cast(Tensor, model.num_batches_tracked).fill_(step)
        update_average(average, model, 0.2, step)
    # step 1 keeps 2 / 11 of the start, which is less than 0.2; step 2 could keep 3 / 12, which is more
    first = 1 * 2 / 11 + 4 * 9 / 11
    assert average.weight.item() == pytest.approx(0.2 * first + 0.8 * 8)
    assert cast(Tensor, average.running_mean).item() == pytest.approx(0.2 * (4 * 9 / 11) + 0.8 * 8)
    assert cast(Tensor, average.running_var).item() == 1
    assert cast(Tensor, average.num_batches_tracked).item() == 2


def test_the_average_is_what_is_scored_and_kept(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def watched(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
        update_average(average, model, decay, step)
        assert step == len(seen) + 1  # over the epochs
        seen.append(model.get_parameter("fusion.weight").detach().clone())

    monkeypatch.setattr(finetune, "update_average", watched)
    out = train(tmp_path / "averaged", "train.ema=0.5", "train.epochs=2")
    expected = torch.ones(2)
    for step, weight in enumerate(seen, start=1):
        kept = min(0.5, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * weight
    for name in ("last", "best"):
        assert torch.allclose(tensors(out, name)["fusion.weight"], expected, atol=1e-6)
    assert not torch.allclose(expected, seen[-1], atol=1e-6)

    plain = train(tmp_path / "plain", "train.epochs=2")
    assert torch.equal(tensors(plain)["fusion.weight"], seen[-1])  # training itself is the same
    of_training = [[line["loss"] for line in lines(run) if line["split"] == "train"] for run in (out, plain)]
    assert of_training[0] == of_training[1]
    of_test = [[line["loss"] for line in lines(run) if line["split"] == "test"] for run in (out, plain)]
    assert of_test[0] != of_test[1]


# Mixup and label smoothing


def test_clips_are_mixed_as_drawn() -> None:
    features, label = torch.tensor([1.0, 10.0, 100.0]), torch.tensor([0, 1, 2])
    mixed, mixture = finetune.mix_clips(features, label, 0.4, torch.Generator().manual_seed(3))
    again, same = finetune.mix_clips(features, label, 0.4, torch.Generator().manual_seed(3))
    assert torch.equal(mixed, again)
    assert same.kept == mixture.kept
    assert 0.5 <= mixture.kept < 1
    assert sorted(mixture.label.tolist()) == [0, 1, 2]  # each clip is mixed in once
    assert mixed.tolist() == pytest.approx(
        [
            mixture.kept * one + (1 - mixture.kept) * 10.0**other
            for one, other in zip(features.tolist(), mixture.label.tolist(), strict=True)
        ]
    )


def test_shares_are_those_of_beta() -> None:
    """The larger of B and 1 - B for Beta(1, 1), which is uniform: 3/4 in the mean."""
    draws = torch.Generator().manual_seed(0)
    kept = [finetune.mix_clips(torch.zeros(2), torch.zeros(2), 1.0, draws)[1].kept for _ in range(1000)]
    assert np.mean(kept) == pytest.approx(0.75, abs=0.02)
    assert max(kept) <= 1


class Scores(nn.Module):
    """Logits that do not depend on the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.0, math.log(2), math.log(3), math.log(4)]))

    def forward(self, features: Tensor) -> Tensor:
        return self.logits.expand(len(features), -1)


def loss_of(label: list[int], mixed: list[int] | None, *, kept: float = 1, smoothing: float = 0) -> float:
    settings = RunSettings(train=Training(label_smoothing=smoothing))
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    whole = torch.tensor(label)
    step = LossContext(settings, whole, whole, weight, {}, torch.Generator())
    if mixed is not None:
        step = replace(step, mixture=Mixture(torch.tensor(mixed), kept))
    return weighted_loss(Scores(), torch.zeros(len(label), 1), step)[0].item()


def test_losses_by_hand() -> None:
    """Probabilities 0.1, 0.2, 0.3, 0.4, weights the same."""
    assert loss_of([1, 3], None) == pytest.approx(-(0.2 * math.log(0.2) + 0.4 * math.log(0.4)) / 0.6)
    own, other = 0.2 * math.log(0.2) + 0.4 * math.log(0.4), 0.4 * math.log(0.4) + 0.2 * math.log(0.2)
    assert loss_of([1, 3], [3, 1], kept=0.7) == pytest.approx(-(0.7 * own + 0.3 * other) / 0.6)
    assert loss_of([1, 3], [1, 1], kept=0.7) == pytest.approx(-(0.7 * own + 0.3 * 2 * 0.2 * math.log(0.2)) / 0.6)
    even = sum(p * math.log(p) for p in (0.1, 0.2, 0.3, 0.4)) / 4
    assert loss_of([1, 3], None, smoothing=0.2) == pytest.approx(-(0.8 * own + 2 * 0.2 * even) / 0.6)


def test_mixed_and_smoothed_loss_is_that_of_soft_targets() -> None:
    draws = torch.Generator().manual_seed(1)
    logits, weight = torch.randn(6, 4, generator=draws), torch.rand(4, generator=draws)
    label, order = torch.randint(4, (6,), generator=draws), torch.randperm(6, generator=draws)
    target = 0.7 * F.one_hot(label, 4) + 0.3 * F.one_hot(label[order], 4)
    target = 0.9 * target + 0.1 / 4
    by_hand = -(target * weight * logits.log_softmax(1)).sum() / (target_weights := weight[label].sum())
    assert target_weights == pytest.approx(
        float((weight * (0.7 * F.one_hot(label, 4) + 0.3 * F.one_hot(label[order], 4))).sum())
    )
    ours = 0.7 * weighted_cross_entropy(logits, label, label, weight, 0.1)
    ours = ours + 0.3 * weighted_cross_entropy(logits, label[order], label, weight, 0.1)
    assert float(ours) == pytest.approx(float(by_hand), rel=1e-5)


# Sharpness-aware steps


def test_a_climb_and_back_by_hand() -> None:
    model = nn.Linear(2, 1, bias=True)
    model.bias.requires_grad_(False)
    nn.init.constant_(model.weight, 1.0)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    before = climb_gradient(model, 0.5)
    assert model.weight.tolist() == [pytest.approx([1 + 0.5 * 3 / 5, 1 + 0.5 * 4 / 5])]
    put_back(before)
    assert model.weight.tolist() == [[1.0, 1.0]]
    model.weight.grad.zero_()
    climb_gradient(model, 0.5)  # nowhere
    assert model.weight.tolist() == [[1.0, 1.0]]


class Parabola(nn.Module):
    """w -> logits; a batch-norm counts the passes, dropout draws."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0]))
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.drop = nn.Dropout(0.5)


def test_the_gradient_is_that_of_the_place_uphill() -> None:
    """f(w) = k w^2 / 2 with k of the draws: g = k w, and at w + rho sign(g) it is k (w + rho)."""
    model, draws = Parabola(), list[tuple[float, float]]()

    context = DistributedContext(torch.device("cpu"), 0, 1, None)
    job = SimpleNamespace(
        recipe=SimpleNamespace(settings=RunSettings(train=Training(sam_rho=0.5, micro_batch=2))),
        model=model,
        optimisers={"step": torch.optim.SGD(model.parameters(), lr=1.0)},
        run=SimpleNamespace(context=context),
    )
    features = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    passes, losses = [], []
    for rows, last, counts in finetune.take_passes(cast(Any, job), 4, generator):
        draws.append((float(torch.rand((), generator=generator)), float(model.drop(torch.ones(1)))))
        model.norm(features[rows])
        loss = features[rows].mean() * model.w.square().sum() / 2
        loss.backward()
        passes.append((rows.start, rows.stop, last, counts))
        losses.append(loss.item())

    assert passes == [(0, 2, False, True), (2, 4, True, True), (0, 2, False, False), (2, 4, True, False)]
    assert losses == [1.5 * 2, 4.5 * 2, 1.5 * 2.5**2 / 2, 4.5 * 2.5**2 / 2]
    assert cast(Tensor, model.w.grad).tolist() == pytest.approx([(1.5 + 4.5) * 2.5])
    assert model.w.tolist() == [2.0]
    assert draws[:2] == draws[2:]
    assert draws[0] != draws[1]
    assert model.norm.num_batches_tracked == 2
    assert cast(Tensor, model.norm.running_mean).item() == pytest.approx(0.9 * 0.1 * 1.5 + 0.1 * 4.5)


# What does not go together


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_a_loss_of_its_own_knows_no_mixed_labels(name: str) -> None:
    recipe = make_recipe(name, {"train.mixup": 0.2}, size="tiny")
    if recipe.loss is weighted_loss:
        finetune.check_options(recipe)
    else:
        with pytest.raises(
            UsageError, match=f"train.mixup=0.2: goes with the plain weighted cross-entropy, and {name}"
        ):
            finetune.check_options(recipe)
        with pytest.raises(UsageError, match=r"train.label_smoothing=0.1: goes with"):
            finetune.check_options(make_recipe(name, {"train.label_smoothing": 0.1}, size="tiny"))


@pytest.mark.parametrize("word", ["train.ema=0.9", "train.sam_rho=0.1"])
def test_weights_that_move_once_an_epoch_are_told(word: str) -> None:
    with pytest.raises(UsageError, match=r"m2d_fusion moves fusion.weight once an epoch here; leave it out"):
        finetune.check_options(tiny.recipe("model.learned=yes", "model.layer_weight_update=per_epoch", word))


@pytest.mark.parametrize("word", ["train.ema=1", "train.ema=-1", "train.layer_decay=0", "train.label_smoothing=1.5"])
def test_values_that_cannot_be(word: str) -> None:
    with pytest.raises(UsageError, match=f"--set {word}: expected"):
        tiny.recipe(word)


# In a run


def test_each_option_makes_another_run(train: Callable[..., Path], tmp_path: Path) -> None:
    runs = {word: train(tmp_path / word, "train.epochs=1", word) for word in ("seed=0", *ALL)}
    found = [tensors(run)["fusion.weight"].tolist() for run in runs.values()]
    assert len({tuple(weight) for weight in found}) == len(runs)


def test_a_stopped_run_with_all_of_them_ends_as_an_undisturbed_one(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = train(tmp_path / "one", *ALL)
    save = finetune.save_epoch

    def stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "save_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "two", *ALL)
    monkeypatch.undo()
    two = train(tmp_path / "two", *ALL)
    assert lines(one) == lines(two)
    for name in ("best", "last"):
        first, second = tensors(one, name), tensors(two, name)
        assert first.keys() == second.keys()
        assert not any(key.startswith(finetune.AVERAGE) for key in first)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert (one / "predictions.csv").read_bytes() == (two / "predictions.csv").read_bytes()


TOGETHER = """
import sys
from pathlib import Path
import torch
from rales.training import finetune
from rales.data import read_cycles
from tests import tiny

torch.set_num_threads(1)
data, out, *words = sys.argv[1:]
finetune.run(tiny.recipe(*words), read_cycles(data), Path(out), cache_folder=Path(out).parent / "cache")
"""


@pytest.mark.slow
def test_two_processes_take_the_same_steps(train: Callable[..., Path], place: Path, tmp_path: Path) -> None:
    """Without what is drawn for each process: masks, mixtures."""
    words = ["train.ema=0.9", "train.sam_rho=0.05", "train.label_smoothing=0.1", "train.layer_decay=0.5"]
    words += ["augment.frequency_width=0", "augment.time_width=0", "augment.time_warp_frames=0"]
    one = train(tmp_path / "one", *words)
    train_in_two_processes(TOGETHER, place / "data", tmp_path / "two", *words)
    for key, value in tensors(one).items():
        assert torch.allclose(value, tensors(tmp_path / "two")[key], atol=2e-3), key
