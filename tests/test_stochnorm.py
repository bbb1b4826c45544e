"""Stochastic normalisation is batch-norm at both ends of its probability and in evaluation."""

import pytest
import torch
from torch import nn

from rales.models.stochnorm import StochNorm2d


def pair(probability: float) -> tuple[StochNorm2d, nn.BatchNorm2d]:
    ours, batch = StochNorm2d(6, probability), nn.BatchNorm2d(6)
    nn.init.normal_(batch.weight)
    nn.init.normal_(batch.bias)
    assert batch.running_mean is not None
    assert batch.running_var is not None
    batch.running_mean.normal_()
    batch.running_var.uniform_(0.5, 2)
    ours.load_state_dict(batch.state_dict())
    return ours, batch


def test_keys_are_those_of_batch_norm() -> None:
    assert list(StochNorm2d(3).state_dict()) == list(nn.BatchNorm2d(3).state_dict())


def test_probability_one_is_batch_norm() -> None:
    ours, batch = pair(1.0)
    x = torch.randn(4, 6, 5, 5)
    assert torch.equal(ours(x), batch(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), batch.state_dict().values(), strict=True))


def test_probability_zero_is_the_statistics_before_the_update() -> None:
    ours, batch = pair(0.0)
    x = 3 + torch.randn(4, 6, 5, 5)
    wanted = batch.eval()(x)  # frozen
    assert torch.allclose(ours(x), wanted, atol=1e-6)
    batch.train()(x)
    assert ours.running_mean is not None
    assert batch.running_mean is not None
    assert torch.equal(ours.running_mean, batch.running_mean)  # the running ones moved all the same
    assert not torch.allclose(ours(x), wanted)


def test_evaluation_is_batch_norm() -> None:
    ours, batch = pair(0.5)
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(ours.eval()(x), batch.eval()(x))


@pytest.mark.parametrize("seed", range(3))
def test_each_channel_is_one_or_the_other_for_the_whole_batch(seed: int) -> None:
    x = torch.randn(4, 6, 5, 5)
    torch.manual_seed(100)
    ours, batch = pair(0.5)
    frozen = nn.BatchNorm2d(6)
    frozen.load_state_dict(batch.state_dict())
    torch.manual_seed(seed)
    found = ours(x)
    a, b = batch(x), frozen.eval()(x)
    for channel in range(6):
        is_batch = torch.allclose(found[:, channel], a[:, channel], atol=1e-6)
        is_frozen = torch.allclose(found[:, channel], b[:, channel], atol=1e-6)
        assert is_batch != is_frozen


def test_gradient_of_a_frozen_channel_does_not_pass_through_statistics() -> None:
    ours, batch = pair(0.0)
    x = torch.randn(4, 6, 5, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x).sum(), x)
    assert batch.running_var is not None
    wanted = (batch.weight / (batch.running_var + batch.eps).sqrt()).detach()
    assert torch.allclose(gradient, wanted[None, :, None, None].expand_as(gradient), atol=1e-6)
