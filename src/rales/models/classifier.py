"""The whole classifier of the paper: encoder, layer fusion, pooling, linear head."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rales.models.layer_fusion import LayerFusion, Pool, pool_over_time
from rales.models.vit import Layout


class FusionClassifier(nn.Module):
    """The classifier of the paper: normalised log-mel (B, 1, 80, frames) -> (B, classes) logits.

    Eq. 1 (layer fusion), eq. 2 (mean + maximum over time) and a linear layer.

    Parameters
    ----------
    encoder
        Encoder that returns the output (B, T, D) of every layer, T and D its own; see `find_layer_widths`. One whose
        `forward` takes `last_layer`, as those of Rales do, computes nothing behind the last fused layer.
    layers
        Layers to fuse, numbered from 1; `[12]` is the vanilla M2DViT of the paper.
    learned
        Learn a weight per layer; else all are 1.
    classes
        Number of classes.
    layout
        Arrangement of the encoder's tokens, see `ViT`.
    norm_layers
        Put a LayerNorm without parameters on every layer before it is weighted.
    head_start
        Start of the linear layer: zeros, or torch's default.
    pool
        What is taken over time: mean + maximum (eq. 2), or one of them alone.

    Raises
    ------
    ValueError
        A layer that the encoder lacks.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: Sequence[int],
        learned: bool,
        classes: int = 4,
        *,
        layout: Layout = "flat",
        norm_layers: bool = False,
        head_start: Literal["zero", "default"] = "zero",
        pool: Pool = "mean_max",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling: Pool = pool
        self.layout: Layout = layout
        self.fusion = LayerFusion(layers, learned=learned, norm=norm_layers)
        widths = find_layer_widths(encoder, layout)
        if max(self.fusion.layers) > len(widths):
            raise ValueError(
                f"layer {max(self.fusion.layers)} is to be fused, but the encoder has {len(widths)} layers"
            )
        self.stop = stop_after(encoder, max(self.fusion.layers))
        self.widths = [widths[layer - 1] for layer in self.fusion.layers]
        self.head = nn.Linear(sum(self.widths), classes)
        if head_start == "zero":
            # As M2D's runtime starts its heads: max-pooled raw layers are large, and random logits of their size cost
            # a random start its first epochs. The ICBHI code of the paper's base and of M2D leaves torch's start.
            nn.init.trunc_normal_(self.head.weight, std=2e-5)
            nn.init.zeros_(self.head.bias)

    def forward(self, logmel: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(logmel))
        return logits

    def embed(self, logmel: Tensor) -> Tensor:
        """(B, 1, 80, frames), or what `pool` made of it -> (B, sum of the layers' D): the fused vector z' that the head
        sees."""
        if logmel.ndim == 3:
            return self.fuse_pooled(logmel)
        weighted = self.fusion(self.encoder(logmel, self.layout, **self.stop))
        return torch.cat([pool_over_time(z, self.pooling) for z in weighted], dim=-1)

    def pool(self, logmel: Tensor) -> Tensor:
        """(B, 1, 80, frames) -> (B, 3, sum of D): mean, maximum and minimum over time of the fused layers, unweighted.

        All that a frozen encoder has to say to the layer weights and the head, a thousandth of its output.
        """
        chosen = self.fusion.choose(self.encoder(logmel, self.layout, **self.stop))
        pooled = [torch.stack([z.mean(dim=1), z.amax(dim=1), z.amin(dim=1)], dim=1) for z in chosen]
        return torch.cat(pooled, dim=2)

    def fuse_pooled(self, pooled: Tensor) -> Tensor:
        """(B, 3, sum of D) -> (B, sum of D): eq. 1 and 2, to rounding as of the layers themselves."""
        mean, high, low = pooled.unbind(dim=1)
        weight = torch.cat([w.expand(width) for w, width in zip(self.fusion.weight, self.widths, strict=True)])
        largest = torch.maximum(weight * high, weight * low)  # a negative w_i turns low into high
        return {"mean_max": weight * mean + largest, "mean": weight * mean, "max": largest}[self.pooling]


def stop_after(encoder: Any, layer: int) -> dict[str, int]:
    """Encoder, the last layer that is wanted -> arguments of its `forward` by which it stops there, none if it takes no
    `last_layer`."""
    return {"last_layer": layer} if "last_layer" in inspect.signature(encoder.forward).parameters else {}


def find_layer_widths(encoder: Any, layout: Layout = "flat") -> list[int]:
    """Encoder -> D of each of its layers: what its `layer_widths(layout)` says, or its `dim` for all of its `depth`."""
    if hasattr(encoder, "layer_widths"):
        return list(encoder.layer_widths(layout))
    return [encoder.dim] * encoder.depth
