"""Multi-layer feature fusion (paper eq. 1) and temporal pooling (eq. 2)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["mean_max", "mean", "max"]


class LayerFusion(nn.Module):
    """Weight layers (eq. 1 before its concatenation): L outputs (B, T, D) -> n weighted layers w_i z_i.

    The concatenation over D is left to the caller: pooling works feature by feature, so pooling the parts and
    concatenating the small results is the same numbers without the (B, T, D * n) tensor (`concatenate_layers` builds
    it). So T and D may also differ from layer to layer, as in a convolutional network.

    Parameters
    ----------
    layers
        Layers to fuse, numbered from 1 as in the paper.
    learned
        Let the optimiser learn `weight` (n,), which starts at 1.0; else it is fixed.
    norm
        Put a LayerNorm without parameters on every layer first, since raw residual streams grow with depth and a scalar
        weight otherwise mixes importance with scale.
    """

    weight: Tensor

    def __init__(self, layers: Sequence[int], *, learned: bool, norm: bool = False) -> None:
        super().__init__()
        if not layers or min(layers) < 1 or len(set(layers)) < len(layers):
            raise ValueError(f"layers to fuse are {list(layers)}; expected distinct numbers from 1 (1 = first block)")
        self.layers, self.learned, self.norm = list(layers), learned, norm
        start = torch.ones(len(self.layers))
        if learned:
            self.weight = nn.Parameter(start)
        else:
            self.register_buffer("weight", start)

    def forward(self, outputs: list[Tensor]) -> list[Tensor]:
        chosen = self.choose(outputs)
        if not self.learned:
            return chosen  # every w_i is 1.0
        return [w * z for w, z in zip(self.weight, chosen, strict=True)]

    def choose(self, outputs: list[Tensor]) -> list[Tensor]:
        """L outputs (B, T, D) -> the n that are fused, not yet weighted."""
        chosen = [outputs[layer - 1] for layer in self.layers]
        if self.norm:
            chosen = [nn.functional.layer_norm(z, z.shape[-1:], eps=1e-6) for z in chosen]
        return chosen


def concatenate_layers(weighted: list[Tensor]) -> Tensor:
    """list of n (B, T, D) -> (B, T, D * n): the concatenation of eq. 1."""
    return torch.cat(weighted, dim=-1)


def pool_over_time(z: Tensor, pool: Pool = "mean_max") -> Tensor:
    """Pool a weighted layer over time: (B, T, D) -> (B, D), mean + maximum (eq. 2) or one of them alone."""
    if pool == "mean_max":
        return mean_plus_max(z)
    return z.mean(dim=1) if pool == "mean" else z.amax(dim=1)


def mean_plus_max(z: Tensor) -> Tensor:
    """Pool over time (eq. 2), mean + maximum: (B, T, D) -> (B, D).

    Parameters
    ----------
    z
        Weighted layer (B, T, D).
    """
    return z.mean(dim=1) + z.amax(dim=1)
