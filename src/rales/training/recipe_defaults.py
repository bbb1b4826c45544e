"""A step of the training: loss and augmentation of most systems (the others have their own), optimiser, rate."""

import torch
from torch import Tensor, nn

from rales.audio.spec_augment import spec_augment
from rales.config import Config, Step
from rales.training.losses import weighted_cross_entropy
from rales.training.optim import cosine_lr, make_adam, make_sgd, set_lr_factor, step_lr


def weighted_loss(model: nn.Module, features: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of one piece of a batch (paper 4.3), and its logits."""
    logits = model(features)
    return weighted_cross_entropy(logits, step.label, step.whole_label, step.weight), logits


BELOW_ONE = 0.8413  # share of normal deviates below 1, which the published gates compare


def masked(
    config: Config, features: Tensor, fill: float | Tensor, generator: torch.Generator, *, gate_each: bool = False
) -> Tensor:
    """(B, 1, F, T) -> the same, masked with `fill` as config.augment says; `gate_each`: a published gate draws for
    every sample, not for the batch."""
    numbers = config.augment
    return spec_augment(
        features,
        frequency_masks=numbers.frequency_masks,
        frequency_width=numbers.frequency_width,
        time_masks=numbers.time_masks,
        time_width=numbers.time_width,
        probability=BELOW_ONE if numbers.published_gate and gate_each else 1.0,
        published_gate=numbers.published_gate and not gate_each,
        fill=fill,
        generator=generator,
    )


def unchanged(config: Config, features: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation of the features."""
    return features


HEADS = ("head.", "target.", "fc.")  # what a new classification layer is called in our networks


def make_optimisers(model: nn.Module, config: Config) -> dict[str, torch.optim.Optimizer]:
    """Model -> the optimiser of every step and, if asked for, one of every epoch for the layer weights."""
    train = config.train

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if train.optimiser == "adam":
            return make_adam(parameters, lr=train.lr, weight_decay=train.weight_decay)
        how = {"momentum": train.momentum, "nesterov": train.nesterov, "weight_decay": train.weight_decay}
        return make_sgd(parameters, lr=train.lr, **how)  # type: ignore[arg-type]

    later = []
    if config.model.learned and config.model.layer_weight_update == "per_epoch":
        later = [p for name, p in model.named_parameters() if name == "fusion.weight"]
    often = [p for p in model.parameters() if not any(p is q for q in later)]
    optimisers = {"step": make(often)}
    if train.head_lr_factor != 1:
        heads = [p for name, p in model.named_parameters() if name.startswith(HEADS)]
        set_lr_factor(optimisers["step"], heads, train.head_lr_factor)
    if later:
        optimisers["epoch"] = make(later)
    return optimisers


def scheduled_lr(epoch: int, config: Config) -> float:
    """Epoch (from 0) -> learning rate without warm-up."""
    train = config.train
    if train.schedule == "step":
        return step_lr(epoch, lr=train.lr, every=train.step_epochs, factor=train.step_factor)
    if train.schedule == "constant":
        return train.lr
    place = epoch + train.cosine_start_epoch
    return cosine_lr(place, lr=train.lr, floor=train.lr_floor, half_period=train.cosine_epochs or train.epochs)
