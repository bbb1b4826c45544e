"""Optimisers and schedules."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rales.errors import UsageError
from rales.settings import RunSettings


def make_adam(parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> torch.optim.Adam:
    """Trainable parameters -> Adam with coupled (L2) weight decay (paper 4.3)."""
    return torch.optim.Adam([p for p in parameters if p.requires_grad], lr=lr, weight_decay=weight_decay, fused=True)


def make_adamw(
    named: Iterable[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Names and parameters -> AdamW over the trainable ones; vectors and biases do not decay, tokens do (MAE, M2D)."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in named:
        if parameter.requires_grad:
            groups[parameter.ndim > 1 and not name.endswith(".bias")].append(parameter)
    chosen = [{"params": some, "weight_decay": weight_decay * decays} for decays, some in groups.items()]
    return torch.optim.AdamW(chosen, lr=lr, betas=betas, fused=True)


@torch.no_grad()
def largest_weight(model: nn.Module) -> float:
    """Network -> the largest absolute value among its weights and statistics; NaN or infinite if any of them is."""
    tensors = [t for t in model.state_dict().values() if t.is_floating_point() and t.numel()]
    return float(torch.stack([norm.float() for norm in torch._foreach_norm(tensors, math.inf)]).max())


def warmup_cosine_lr(epoch: float, *, lr: float, warmup_epochs: float, epochs: int, floor: float = 0.0) -> float:
    """Epochs done, with fractions -> learning rate: a rise from 0, then half a cosine down to `floor` (MAE, M2D)."""
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    return cosine_lr(epoch - warmup_epochs, lr=lr, floor=floor, half_period=max(epochs - warmup_epochs, 1e-9))


def ema_decay(step: int, steps: int, *, start: float, end: float) -> float:
    """Step (from 0) of all steps -> share of itself that the target keeps, from start to end in a line (M2D)."""
    return start + (end - start) * step / max(steps - 1, 1)


def make_sgd(
    parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> torch.optim.SGD:
    """Trainable parameters -> SGD with momentum and coupled weight decay."""
    trained = [p for p in parameters if p.requires_grad]
    return torch.optim.SGD(trained, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=True)


def set_lr_factors(optimiser: torch.optim.Optimizer, factors: Mapping[nn.Parameter, float]) -> None:
    """Move parameters to groups of their own, whose learning rates `set_lr` multiplies with their factors."""
    (group,) = optimiser.param_groups
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in group["params"]:
        by_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    group["params"], group["factor"] = by_factor.pop(1.0), 1.0
    for factor, some in by_factor.items():
        optimiser.add_param_group({**group, "params": some, "lr": group["lr"] * factor, "factor": factor})


def step_lr(epoch: int, *, lr: float, every: int, factor: float) -> float:
    """Epoch (from 0) -> learning rate, multiplied with `factor` after every so many epochs."""
    return float(lr * factor ** (epoch // every))


@torch.no_grad()
def average_with_previous_weights(model: nn.Module, previous: Mapping[str, Tensor], new_fraction: float) -> None:
    """Model after a step, its state before it -> the model holds `new_fraction` of the new and the rest of the old.

    Whole numbers (counters of batch-norm) stay new. Source: raymin0223/patch-mix_contrastive_learning, fraction 0.5.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(previous[name].lerp(value, new_fraction))


def cosine_lr(epoch: float, *, lr: float, floor: float, half_period: float) -> float:
    """Epoch (from 0) -> learning rate, from `lr` down to `floor` at `half_period` epochs, then up again.

    Source: paper 4.3 ("cosine scheduled"); with half_period 40 the published code of [11].
    """
    return floor + (lr - floor) * (1 + math.cos(math.pi * epoch / half_period)) / 2


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate, times the factor of the group if it has one."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


def state_tensors(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Optimiser -> flat names to tensors, for a safetensors file."""
    state = optimiser.state_dict()["state"]
    return {
        f"{prefix}{i}.{name}": value
        for i, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)  # SGD keeps None before its first step
    }


def load_state_tensors(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str, path: str | os.PathLike[str]
) -> None:
    """Undo `state_tensors`. Errors: entries of the file `path` that are not of these parameters, or not finite."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(prefix):
            continue
        number, _, entry = name.removeprefix(prefix).partition(".")
        place = int(number) if re.fullmatch("[0-9]{1,9}", number) else len(parameters)
        fitting = place < len(parameters) and (value.ndim == 0 or value.shape == parameters[place].shape)
        if not fitting or not value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"{path}: {name} is of no weight of this network, or not finite; the file is damaged")
        state.setdefault(place, {})[entry] = value
    if len({frozenset(entries) for entries in state.values()}) > 1:
        raise ValueError(f"{path}: some of {prefix}… are missing; the file is damaged")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


HEADS = ("head.", "target.", "fc.")  # what a new classification layer is called in our networks
FUSION = ("fusion.",)  # and what weighs layers


def make_optimisers(
    model: nn.Module, settings: RunSettings, epoch_parameters: Sequence[str] = ()
) -> dict[str, torch.optim.Optimizer]:
    """Model -> the optimiser of every step and, if there are some, one of every epoch for the parameters so named."""
    train = settings.train

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if train.optimiser == "adam":
            return make_adam(parameters, lr=train.lr, weight_decay=train.weight_decay)
        how = {"momentum": train.momentum, "nesterov": train.nesterov, "weight_decay": train.weight_decay}
        return make_sgd(parameters, lr=train.lr, **how)  # type: ignore[arg-type]

    later = [p for name, p in model.named_parameters() if name in epoch_parameters]
    often = [p for p in model.parameters() if not any(p is q for q in later)]
    optimisers = {"step": make(often)}
    if train.head_lr_factor != 1 or train.layer_decay != 1:
        set_lr_factors(optimisers["step"], lr_factors(model, train.head_lr_factor, train.layer_decay))
    if later:
        optimisers["epoch"] = make(later)
    return optimisers


def lr_factors(model: nn.Module, head_factor: float, layer_decay: float) -> dict[nn.Parameter, float]:
    """Network, factor of its head and what a block has of the rate of the one above it -> each parameter's factor.

    Errors: a decay for a network without a list of blocks.
    """
    factors = {p: head_factor if name.startswith(HEADS) else 1.0 for name, p in model.named_parameters()}
    if layer_decay == 1:
        return factors
    numbers = number_blocks(model)
    if not numbers:
        raise UsageError(f"train.layer_decay={layer_decay:g}: the network of this recipe {NO_BLOCKS}; leave it out")
    top = max(numbers.values())
    return {p: factors[p] * layer_decay ** (top - numbers[name]) for name, p in model.named_parameters()}


NO_BLOCKS = "has no list of blocks (`blocks`), one on the other"


BLOCK_LISTS = {"blocks": 1, "features": 0}
"""Name of the module that lists an encoder's blocks, and the number of its first: a MobileNet's begin with the stem."""


def number_blocks(model: nn.Module) -> dict[str, int]:
    """Network -> name of each parameter -> its depth: 0 below the first block of the encoder, i in block i of L, L + 1
    above them and outside of the encoder; {} for a network without a list of BLOCK_LISTS.

    Below the blocks is what their module holds itself (tokens, positions), and the modules that it was given first.
    """
    lists = (nn.ModuleList, nn.Sequential)
    found = [name for name, m in model.named_modules() if name.split(".")[-1] in BLOCK_LISTS and isinstance(m, lists)]
    if not found:
        return {}
    where, dot, last = found[0].rpartition(".")
    blocks, where, begin = found[0], where + dot, BLOCK_LISTS[last]
    depth = len(list(model.get_submodule(blocks).children())) - 1 + begin
    siblings = [name for name, _ in model.get_submodule(where.rstrip(".")).named_children()]
    below = siblings[: siblings.index(last)]

    numbers = {}
    for name, _ in model.named_parameters():
        first, _, rest = name.removeprefix(where).partition(".")
        numbers[name] = depth + 1
        if name.startswith(f"{blocks}."):
            numbers[name] = begin + int(rest.partition(".")[0])
        elif name.startswith(where) and (not rest or first in below):
            numbers[name] = 0
    return numbers


def freeze_parameters(model: nn.Module, freeze: str) -> None:
    """Network, and what stays as it starts (`RunSettings.freeze`) -> these parameters take no gradient.

    Errors: a network that has no such part.
    """
    if freeze == "none":
        return
    if freeze == "encoder":
        stays = [p for name, p in model.named_parameters() if not name.startswith((*HEADS, *FUSION))]
        if len(stays) == len(list(model.parameters())):
            raise UsageError("freeze=encoder: the network of this recipe has no classification layer of its own")
    else:
        stays = list_lower_parameters(model, int(freeze))
    for parameter in stays:
        parameter.requires_grad_(False)


def list_lower_parameters(model: nn.Module, count: int) -> list[nn.Parameter]:
    """Network -> the parameters of its first `count` blocks and of what is below. Errors: it has fewer, or none."""
    numbers = number_blocks(model)
    if not numbers:
        raise UsageError(f"freeze={count}: the network of this recipe {NO_BLOCKS}; expected none or encoder")
    depth = max(numbers.values()) - 1
    if count > depth:
        raise UsageError(f"freeze={count}: the encoder has {depth} blocks")
    return [p for name, p in model.named_parameters() if numbers[name] <= count]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moving average of a network, the network after step `step` (from 1) -> the average has moved towards it.

    It keeps `decay` of itself, or (1 + step) / (10 + step) where that is less. Whole numbers (counters of batch-norm)
    are those of the network.
    """
    kept = min(decay, (1 + step) / (10 + step))
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        old.lerp_(new, 1 - kept) if old.is_floating_point() else old.copy_(new)


@torch.no_grad()
def climb_gradient(model: nn.Module, rho: float) -> dict[Tensor, Tensor]:
    """Network with gradients -> its weights before they moved by `rho` along the gradient of all of them together.

    Source: Foret et al. 2021, eq. 2, in the Euclidean norm.
    """
    moving = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad.float() for p in moving if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm().clamp_min(1e-12)
    before: dict[Tensor, Tensor] = {p: p.detach().clone() for p in moving}
    for parameter, gradient in zip(moving, gradients, strict=True):
        parameter.add_(gradient * (rho / norm))
    return before


@torch.no_grad()
def put_back(tensors: Mapping[Tensor, Tensor]) -> None:
    """Tensors and what they were -> they are that again, to the last bit."""
    for tensor, value in tensors.items():
        tensor.copy_(value)


def scheduled_lr(epoch: int, settings: RunSettings) -> float:
    """Epoch (from 0) -> learning rate without warm-up."""
    train = settings.train
    if train.schedule == "step":
        return step_lr(epoch, lr=train.lr, every=train.step_epochs, factor=train.step_factor)
    if train.schedule == "constant":
        return train.lr
    place = epoch + train.cosine_start_epoch
    return cosine_lr(place, lr=train.lr, floor=train.lr_floor, half_period=train.cosine_epochs or train.epochs)
