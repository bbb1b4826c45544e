"""What is not a number is no loss, no weight, no option, no label: it stops the training, or fails that recording."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import rales
from rales.data import read_cycles
from rales.data.corpus import read_corpus
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.inference import attribution
from rales.inference.evaluate import evaluate_run
from rales.inference.predictor import Predictor
from rales.models import load_m2d
from rales.models.pretrained_backbones import resnet_tensors
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from rales.training import finetune, pretrain, run_folder
from rales.training.recipe import LossContext, Recipe
from rales.web import model_answers
from tests import tiny
from tests.command import command
from tests.run_folders import lines, tensors

Train = Callable[..., dict[str, Any]]
STEPS = 3  # an epoch: 20 train cycles in batches of 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, a finished `run` on it and the `cache`."""
    folder = tmp_path_factory.mktemp("not_a_number")
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    finetune.run(tiny.recipe(), cycles, folder / "run", cache_folder=folder / "cache")
    return folder


@pytest.fixture(scope="module")
def train(place: Path) -> Train:
    """(run folder, words or a recipe) -> figures."""

    def train(out: Path, *words: str, recipe: Recipe | None = None) -> dict[str, Any]:
        cycles = read_cycles(place / "data")
        return finetune.run(recipe or tiny.recipe(*words), cycles, out, cache_folder=place / "cache")

    return train


def check_same(one: Path, two: Path) -> None:
    assert lines(one) == lines(two)
    for name in ("best", "last"):
        first, second = tensors(one, name), tensors(two, name)
        assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())


def spoiled(at: int, spoil: Callable[[Tensor, Tensor], Tensor], *words: str) -> Recipe:
    """The plain recipe, whose loss in step `at` (from 1) is what `spoil` makes of loss and logits."""
    recipe, steps = tiny.recipe(*words), 0

    def batch_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
        nonlocal steps
        steps += 1
        loss, logits = recipe.loss(model, features, step)
        return (spoil(loss, logits) if steps == at else loss), logits

    return replace(recipe, loss=batch_loss)


def infinite_gradient(loss: Tensor, logits: Tensor) -> Tensor:
    """The same loss, whose gradient is not a number."""
    return loss + 0 * (logits - logits.detach()).abs().sqrt().sum()


# A training


def test_a_diverged_training_stops_at_once_and_leaves_the_folder_free(
    tmp_path: Path, place: Path, train: Train
) -> None:
    sentence = (
        r"run: the loss is nan in epoch 1, step \d; use a lower train.lr than 1e\+\d+ \(this folder can be used again"
    )
    for _ in range(2):  # the same again is the same sentence
        with pytest.raises(ValueError, match=sentence):
            train(tmp_path / "run", "train.lr=1e30", "train.select=test_best")
    assert {path.name for path in (tmp_path / "run").glob("[!.]*")} <= {"config.json", "metrics.jsonl"}
    assert lines(tmp_path / "run") == []
    train(tmp_path / "run")
    check_same(tmp_path / "run", place / "run")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_loss_that_is_no_number_in_a_later_epoch_keeps_the_epochs_before(
    tmp_path: Path, place: Path, train: Train, value: float
) -> None:
    out = tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"the loss is .* in epoch 2, step 2; .* \(with another --out, or without this"
    ):
        train(out, recipe=spoiled(STEPS + 2, lambda loss, _: loss * value))
    assert {line["epoch"] for line in lines(out)} == {1}
    assert run_folder.read_checkpoint(out / "resume.safetensors")[1]["epoch"] == 1
    with pytest.raises(
        ValueError, match=r"holds a run of other settings \(config.train.lr .*; choose another --out or"
    ):
        train(out, "train.lr=0.0001")
    train(out)  # where it was chance (another GPU, another library), the run goes on
    check_same(out, place / "run")


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path, place: Path, train: Train) -> None:
    out = tmp_path / "run"  # no evaluation of this epoch would notice
    with pytest.raises(ValueError, match=r"a weight is nan in epoch 2, step 3; use a lower train.lr"):
        train(out, recipe=spoiled(2 * STEPS, infinite_gradient, "train.evaluate_every=3"))
    assert {line["epoch"] for line in lines(out)} == {1}
    assert all(value.isfinite().all() for value in tensors(out, "resume").values())


def test_a_score_of_answers_that_are_no_numbers_is_never_written(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "largest_weight", lambda network: 1.0)
    with pytest.raises(ValueError, match=r"10\d_.*, cycle \d: the model's answer is not a number.*lower train.lr"):
        train(tmp_path / "run", recipe=spoiled(STEPS, infinite_gradient, "train.select=test_best"))
    assert lines(tmp_path / "run") == []
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_poisoned_resume_is_named(tmp_path: Path, place: Path, train: Train) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="the loss is nan in epoch 2"):
        train(out, recipe=spoiled(STEPS + 1, lambda loss, _: loss * math.nan))
    plain, record = run_folder.read_checkpoint(out / "resume.safetensors")
    run_folder.save_tensors(out / "resume.safetensors", {**plain, "head.bias": torch.full((4,), math.nan)}, record)
    with pytest.raises(ValueError, match=r"resume.safetensors: tensor head.bias holds 4 of 4 values that are NaN"):
        train(out)


def test_pretraining_keeps_no_weights_that_are_no_numbers(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, clip = 0, torch.nn.utils.clip_grad_norm_

    def spoil(parameters: Any, most: float) -> Tensor:
        nonlocal steps
        steps, chosen = steps + 1, list(parameters)
        if steps == STEPS:
            chosen[0].grad.fill_(math.nan)
        return clip(chosen, most)

    monkeypatch.setattr(pretrain, "clip_grad_norm_", spoil)
    data = read_corpus([place / "data"])
    with pytest.raises(ValueError, match=r"a weight is nan in epoch 1, step 3; use a lower pretrain.lr.*be used again"):
        m2d_pretrain.run(tiny.pretraining(), data, tmp_path / "run")
    assert lines(tmp_path / "run") == []
    assert not list((tmp_path / "run").glob("*.safetensors"))


# An option


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "-1", "many", ""])
@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ("nguyen_cotuning", "trade_off"),
        ("respirenet", "joined"),
        ("respirenet", "device_epochs"),
        ("moummad_scl", "probe_epochs"),
        ("moummad_mscl", "probe_epochs"),
    ],
)
def test_numbers_given_as_text_are_finite_numbers(recipe: str, option: str, text: str) -> None:
    make_recipe(recipe, [f"{option}=2"], size="tiny")
    with pytest.raises(UsageError, match=rf"{option}={text}: expected a (finite |whole )?number"):
        make_recipe(recipe, [f"{option}={text}"], size="tiny")


@pytest.mark.parametrize("text", ["²", "9" * 400])
def test_digits_that_are_no_number_of_epochs(text: str) -> None:
    for recipe, option in (("respirenet", "device_epochs"), ("respirenet", "joined"), ("moummad_scl", "probe_epochs")):
        with pytest.raises(UsageError, match=rf"{option}={text}: expected a (finite |whole )?number"):
            make_recipe(recipe, [f"{option}={text}"], size="tiny")


# A file of weights


def test_loaded_weights_that_are_no_numbers_are_named(place: Path, tmp_path: Path, golden: Path) -> None:
    plain, record = run_folder.read_checkpoint(place / "run" / "best.safetensors")
    for value in (math.nan, math.inf):
        bias = plain["head.bias"].clone()
        bias[2] = value
        run_folder.save_tensors(tmp_path / "x.safetensors", {**plain, "head.bias": bias}, record)
        with pytest.raises(
            ValueError, match=r"x.safetensors: tensor head.bias holds 1 of 4 values that are NaN or inf"
        ):
            rales.load(tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=r"x.safetensors: tensor head.bias holds 1 of 4"):
            make_recipe("m2d_fusion", weights=str(tmp_path / "x.safetensors"))
    encoder = dict(load_m2d(golden / "checkpoints" / "full.safetensors").state_dict())
    encoder["norm.weight"][0] = -math.inf
    torch.save(encoder, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: tensor norm.weight holds 1 of 48 values that are NaN or infinite"):
        load_m2d(tmp_path / "x.pth")
    save_file({"conv1.weight": torch.full((3,), math.nan)}, tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match=r"r.safetensors: tensor conv1.weight holds 3 of 3"):
        resnet_tensors(tmp_path / "r.safetensors", 34)


# An answer


def overflowing(model: Predictor, stem: str, place: Path) -> Predictor:
    """The model, that has no answer to the cycles of one recording."""
    lost = {row.tobytes() for row in waves_of(model, place / "data" / f"{stem}.wav")}
    inner = model.engine

    def engine(waves: np.ndarray) -> np.ndarray:
        answers = inner(waves)
        answers[[row.tobytes() in lost for row in waves][: len(answers)]] = math.nan
        return answers

    return model.with_engine(engine)


def waves_of(model: Predictor, path: Path) -> np.ndarray:
    return np.concatenate(
        [piece.waveforms for piece in rales.inference.audio_reader.read_chunks(str(path), model.recipe.settings.audio)]
    )


def test_a_recording_without_an_answer_fails_and_the_others_do_not(place: Path) -> None:
    paths = sorted((place / "data").glob("*.wav"))
    stem = paths[3].stem
    plain = rales.load(place / "run").predict(place / "data")
    model = overflowing(rales.load(place / "run"), stem, place)
    problems: list[str] = []
    ((table, status),) = list(model.tables([str(path) for path in paths], problems))
    (problem,) = problems
    assert problem.startswith(f"{paths[3]}: the model's answer to one of its cycles is not a number")
    assert "so none of them has a label" in problem
    assert set(table["recording"]) == {path.stem for path in paths} - {stem}
    assert table["label"].tolist() == plain.loc[plain["recording"] != stem, "label"].tolist()
    assert status.loc[status["status"] == "failed", "path"].tolist() == [str(paths[3])]
    assert status.loc[3, "sentence"] == problem
    with pytest.raises(ValueError, match="is not a number, so none of them has a label"):
        model.predict(place / "data")


def test_a_system_that_prepares_its_own_rows_has_no_label_either(place: Path) -> None:
    recipe = make_recipe("lungrn_nl", size="tiny")
    record = {"recipe": recipe.name, "classes": ["normal", "crackle", "wheeze", "both"], "config": {}}
    torch.manual_seed(0)
    model = Predictor.from_network(recipe, recipe.build_model(recipe.settings), record)
    model = model.with_engine(lambda waves: np.full((len(waves), 4), math.nan))
    problems: list[str] = []
    table = model.predict(place / "data", problems)
    assert (len(table), len(problems)) == (0, 8)
    assert all("is not a number, so none of them has a label" in problem for problem in problems)


@pytest.fixture
def overflow(place: Path, tmp_path: Path) -> Path:
    """A run folder whose weights are numbers, though so large that no answer is."""
    out = tmp_path / "overflow"
    out.mkdir()
    for file in (place / "run").glob("[!.]*"):
        (out / file.name).write_bytes(file.read_bytes())
    plain, record = run_folder.read_checkpoint(out / "best.safetensors")
    huge = torch.full_like(plain["head.weight"], 3e38)
    run_folder.save_tensors(out / "best.safetensors", {**plain, "head.weight": huge}, record)
    return out


def test_the_command_writes_no_label_that_is_none(
    overflow: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, summary = tmp_path / "cycles.csv", tmp_path / "summary.csv"
    words = ["predict", place / "data", "--model", overflow]
    code, _, err = command(capsys, *words, "--out", table, "--summary", summary)
    assert code == 1
    assert err.count("is not a number, so none of them has a label") == 8
    assert not any(file.exists() and len(pd.read_csv(file)) for file in (table, summary))
    code, out, err = command(capsys, *words)
    assert (code, "normal" in out.lower().replace("p_normal", "")) == (1, False)


def test_evaluation_stops_with_the_cycle(overflow: Path, place: Path) -> None:
    with pytest.raises(ValueError, match=r"106_\w+, cycle 1: the model's answer is not a number"):
        evaluate_run(overflow, read_cycles(place / "data"), cache_folder=place / "cache")


def test_what_is_scored_or_explained_alone_has_no_label_either(overflow: Path, place: Path) -> None:
    model, path = rales.load(overflow), sorted((place / "data").glob("*.wav"))[0]
    with pytest.raises(ValueError, match="this recording, cycle 1: the model's answer is not a number"):
        model_answers.score_spans(model, path, [(0.0, 1.0), (1.0, 2.0)])
    with pytest.raises(
        ValueError, match="the model's answer to this cycle is not a number, so there is nothing to expl"
    ):
        attribution.explain_cycle(model, str(path), 1)


def test_sound_of_huge_numbers_has_no_label(place: Path, tmp_path: Path) -> None:
    sound = np.random.default_rng(0).standard_normal(3 * tiny.RATE_HZ)
    for name, level in (("quiet", 0.01), ("huge", 1e25)):
        soundfile.write(tmp_path / f"{name}.wav", (sound * level).astype(np.float32), tiny.RATE_HZ, subtype="FLOAT")
    problems: list[str] = []
    model = rales.load(place / "run")
    table = model.predict(tmp_path, problems, cycles="windows")
    assert set(table["recording"]) == {"quiet"}
    assert [Path(problem.split(":")[0]).name for problem in problems] == ["huge.wav"]
    problems.clear()
    vectors = model.embed_table(tmp_path, problems, cycles="windows", quality=False)
    assert set(vectors["recording"]) == {"quiet"}
    assert [Path(problem.split(":")[0]).name for problem in problems] == ["huge.wav"]


def test_the_first_answer_that_is_no_number_is_named() -> None:
    rows = pd.DataFrame({"recording": ["a", "a", "b"], "cycle": [1, 2, 1]})
    good = np.full((3, 4), 0.25)
    predictions.check_numbers(rows, good)
    for value in (math.nan, math.inf, -math.inf):
        wrong = good.copy()
        wrong[1, 3] = wrong[2, 0] = value
        with pytest.raises(ValueError, match="a, cycle 2: the model's answer is not a number, one of 2 such"):
            predictions.check_numbers(rows, wrong)
