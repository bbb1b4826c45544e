"""Losses: tensors and plain numbers in, a scalar out."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(counts: Sequence[int]) -> Tensor:
    """Cycles per class -> (classes,) weights 1 / frequency, summing to 1 (public code of [11]).

    A class without cycles gets weight 0: it cannot appear in the loss.
    """
    count = torch.tensor(counts, dtype=torch.float64)
    inverse = torch.where(count > 0, count.sum() / count.clamp(min=1), 0.0)
    return (inverse / inverse.sum()).float()


def weighted_cross_entropy(logits: Tensor, label: Tensor, whole_label: Tensor, weight: Tensor) -> Tensor:
    """(b, classes) logits, (b,) labels of one piece, (B,) labels of the whole batch, (classes,) -> scalar.

    The weighted mean of torch, but divided by the weights of the whole batch: the pieces of a batch (gradient
    accumulation, several devices) then add up to the loss of the batch in one piece.
    """
    total = F.cross_entropy(logits.float(), label, weight, reduction="sum")
    return total / weight[whole_label].sum()
