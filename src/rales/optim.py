"""Optimisers and schedules: parameters and numbers only."""

import math
from collections.abc import Iterable

import torch
from torch import nn


def adam(parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> torch.optim.Adam:
    """Trainable parameters -> Adam with coupled (L2) weight decay (paper 4.3)."""
    return torch.optim.Adam([p for p in parameters if p.requires_grad], lr=lr, weight_decay=weight_decay, fused=True)


def cosine_lr(epoch: int, *, lr: float, floor: float, half_period: int) -> float:
    """Epoch (from 0) -> learning rate, from `lr` down to `floor` at `half_period` epochs, then up again.

    Source: paper 4.3 ("cosine scheduled"); with half_period 40 the published code of [11].
    """
    return floor + (lr - floor) * (1 + math.cos(math.pi * epoch / half_period)) / 2


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def state_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """Optimiser -> flat names to tensors, for a safetensors file."""
    state = optimiser.state_dict()["state"]
    return {f"{prefix}{i}.{name}": value for i, entries in state.items() for name, value in entries.items()}


def load_state_tensors(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], prefix: str) -> None:
    """Undo `state_tensors`."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            number, _, entry = name.removeprefix(prefix).partition(".")
            state.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
