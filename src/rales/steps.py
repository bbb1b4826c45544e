"""What most systems do alike in a step of the training; the others have their own in the recipe's file."""

import torch
from torch import Tensor, nn

from rales.config import Config, Step
from rales.losses import weighted_cross_entropy


def weighted_loss(model: nn.Module, features: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of one piece of a batch (paper 4.3), and its logits."""
    logits = model(features)
    return weighted_cross_entropy(logits, step.label, step.whole_label, step.weight), logits


def unchanged(config: Config, features: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation of the features."""
    return features
