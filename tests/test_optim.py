"""Learning-rate schedule, and the optimiser's memory through a file."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rales.settings import RunSettings, Training
from rales.training.optim import (
    average_with_previous_weights,
    cosine_lr,
    largest_weight,
    load_state_tensors,
    make_adam,
    make_sgd,
    scheduled_lr,
    set_lr,
    set_lr_factors,
    state_tensors,
    step_lr,
)


def rate(epoch: int, half_period: int) -> float:
    return cosine_lr(epoch, lr=1e-3, floor=1e-5, half_period=half_period)


def test_cosine_by_hand() -> None:
    assert rate(0, 100) == pytest.approx(1e-3)
    assert rate(50, 100) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate(100, 100) == pytest.approx(1e-5)
    assert rate(25, 100) == pytest.approx(1e-5 + 0.99e-3 * (1 + math.cos(math.pi / 4)) / 2)
    rates = [rate(epoch, 100) for epoch in range(101)]
    assert rates == sorted(rates, reverse=True)


def test_with_the_published_half_period_the_rate_goes_up_again() -> None:
    assert rate(40, 40) == pytest.approx(1e-5)
    assert rate(41, 40) > rate(40, 40)
    assert rate(80, 40) == pytest.approx(1e-3)
    assert rate(120, 40) == pytest.approx(1e-5)


def test_it_is_the_schedule_of_torch() -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=40, eta_min=1e-5)
    for epoch in range(60):
        assert rate(epoch, 40) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        schedule.step()


def test_a_cosine_that_counts_epochs_from_one() -> None:
    train = Training(epochs=50, lr=5e-5, lr_floor=5e-8)
    late = RunSettings(train=replace(train, cosine_start_epoch=1))
    middle, half = (5e-5 + 5e-8) / 2, (5e-5 - 5e-8) / 2
    assert scheduled_lr(0, RunSettings(train=train)) == pytest.approx(5e-5, rel=1e-12)
    assert scheduled_lr(0, late) == pytest.approx(middle + half * math.cos(math.pi / 50), rel=1e-12)
    assert scheduled_lr(24, late) == pytest.approx(middle, rel=1e-12)
    assert scheduled_lr(49, late) == pytest.approx(5e-8, rel=1e-9)
    assert scheduled_lr(49, RunSettings(train=train)) > 9e-8


def test_set_lr_reaches_every_group() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimiser = torch.optim.Adam([{"params": [p]} for p in parameters], lr=1)
    set_lr(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]


def test_weight_decay_is_coupled() -> None:
    """The decay is part of the gradient, so Adam's first step is lr times its sign, whatever its size."""
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    weight.grad = torch.zeros(2)
    make_adam([weight], lr=0.1, weight_decay=1e-2).step()
    assert weight.tolist() == pytest.approx([1.9, -2.9], abs=1e-5)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = make_adam(model.parameters(), lr=1, weight_decay=0).param_groups
    assert [p.shape for p in groups[0]["params"]] == [(2,)]


def steps(model: nn.Module, optimiser: torch.optim.Adam, first: int, last: int) -> Tensor:
    for step in range(first, last):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        model(x).square().sum().backward()
        optimiser.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_going_on_from_a_file_equals_never_having_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    optimiser = make_adam(model.parameters(), lr=1e-2, weight_decay=1e-4)
    steps(model, optimiser, first=0, last=3)
    file = tmp_path / "state.safetensors"
    save_file({**model.state_dict(), **state_tensors(optimiser, "optimiser.step.")}, file)
    undisturbed = steps(model, optimiser, first=3, last=6)

    tensors = load_file(file)
    names = {name for name in tensors if name.startswith("optimiser.")}
    assert names == {f"optimiser.step.{i}.{entry}" for i in (0, 1) for entry in ("step", "exp_avg", "exp_avg_sq")}
    again = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    again.load_state_dict({name: value for name, value in tensors.items() if name not in names})
    again[0].requires_grad_(False)
    other = make_adam(again.parameters(), lr=1e-2, weight_decay=1e-4)
    load_state_tensors(other, tensors, "optimiser.step.", "x")
    assert torch.equal(steps(again, other, first=3, last=6), undisturbed)
    forgetful = make_adam(again.parameters(), lr=1e-2, weight_decay=1e-4)
    again.load_state_dict({name: value for name, value in tensors.items() if name not in names})
    assert not torch.equal(steps(again, forgetful, first=3, last=6), undisturbed)


def test_sgd_steps_and_a_head_that_learns_faster() -> None:
    body, head = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimiser = make_sgd([body, head], lr=0.1, momentum=0, nesterov=False, weight_decay=0)
    set_lr_factors(optimiser, {head: 10})
    for _ in range(2):
        set_lr(optimiser, 0.01)
        (body + head).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert (body.item(), head.item()) == pytest.approx((1 - 2 * 0.01, 1 - 2 * 0.1))


def test_momentum_survives_a_file() -> None:
    parameter = nn.Parameter(torch.ones(1))
    made = [make_sgd([parameter], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0) for _ in range(2)]
    assert state_tensors(made[0], "") == {}
    parameter.grad = torch.ones(1)
    made[0].step()
    stored = state_tensors(made[0], "o.")
    load_state_tensors(made[1], stored, "o.", "x")
    assert state_tensors(made[1], "o.") == stored == {"o.0.momentum_buffer": torch.ones(1)}


def test_step_schedule() -> None:
    rates = [step_lr(epoch, lr=1.0, every=50, factor=0.1) for epoch in (0, 49, 50, 99, 100)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_interpolation_halves_a_step() -> None:
    model = nn.BatchNorm1d(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name, moved in (("weight", 1), ("running_mean", 4), ("num_batches_tracked", 1)):
        model.state_dict()[name] += moved
    average_with_previous_weights(model, before, 0.5)
    after = model.state_dict()
    assert after["weight"].tolist() == [1.5, 1.5]
    assert after["running_mean"].tolist() == [2, 2]
    assert after["num_batches_tracked"] == 1


@pytest.mark.parametrize("name", ["0.weight", "2.bias", "1.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_none_is_seen_wherever_it_stands(name: str, value: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert largest_weight(model) == 1.0  # of the variance that batch-norm begins with
    model.state_dict()[name].view(-1)[-1] = value
    assert not math.isfinite(largest_weight(model))
