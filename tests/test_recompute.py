"""Activations that are computed again on the way back: the same bits of loss and gradients, less in memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rales.jobs.gpu_estimate import count_step
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from tests import tiny


def take_step(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[list[Tensor], int]:
    """Network and its loss -> loss and gradients, and the bytes that the backward pass needed of the forward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    kept.clear()
    value.backward()
    return [value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)], size


def check_equal(plain: tuple[list[Tensor], int], again: tuple[list[Tensor], int]) -> None:
    assert len(plain[0]) == len(again[0]) > 20
    assert all(torch.equal(one, two) for one, two in zip(plain[0], again[0], strict=True))
    assert again[1] < 0.7 * plain[1]


@pytest.mark.parametrize("name", ["m2d_fusion", "ast_ft", "beats_pafa"])
def test_recipes_take_the_same_step(name: str) -> None:
    def step(*words: str) -> tuple[list[Tensor], int]:
        made = make_recipe(name, ["audio.duration_s=2", *words], size="tiny")
        torch.manual_seed(0)
        model = made.build_model(made.settings).train()
        features = made.build_frontend(made.settings)(torch.randn(4, round(made.audio.rate_hz * 2)))
        return take_step(model, lambda: model(features).square().mean())

    check_equal(step(), step("model.recompute=yes"))


def test_pre_training_takes_the_same_step() -> None:
    def step(*words: str) -> tuple[list[Tensor], int]:
        torch.manual_seed(0)
        model = m2d_pretrain.build_model(tiny.pretraining("encoder.decoder_depth=2", *words), None)
        logmel, noise = torch.randn(8, 1, 80, 96), torch.rand(8, 30)
        return take_step(model, lambda: model(logmel, noise).loss)

    check_equal(step(), step("encoder.recompute=yes"))


def test_the_estimate_of_a_dry_run_counts_it() -> None:
    plain, again = (count_step(tiny.recipe(*words)) for words in ((), ("model.recompute=yes",)))
    assert again.memory_bytes < plain.memory_bytes
    assert 1.2 < again.train_flop / plain.train_flop < 1.4
    assert again.score_flop == plain.score_flop
