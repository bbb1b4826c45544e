"""BEATs: a transformer with a gated relative position bias and deep norm, pre-trained with acoustic tokenizers.

Source: Chen et al. 2023, "BEATs: audio pre-training with acoustic tokenizers" (arXiv 2212.09058); microsoft/unilm,
beats/.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.models.vit import Layout, compute_block

MELS = 128
GROUPS = 16  # of the convolution of positions


class BEATsSize(NamedTuple):
    """Sizes of the network; those of the public checkpoints are the defaults."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    patch_dim: int = 512
    """Width of the patch projection, before it becomes `dim`."""
    patch: int = 16
    buckets: int = 320
    """Distances between tokens that the position bias tells apart, of both directions."""
    farthest: int = 800
    """Tokens from which on all distances are one."""


class BEATs(nn.Module):
    """(B, 1, 128, frames) standardised filter bank -> list of `depth` outputs (B, T, D), one of each block.

    T counts patches of 16 x 16, time-major as in the public code (patch = column * 8 + row); frames that do not fill a
    patch are dropped. With layout "stacked" the patches of a column stand side by side, (B, columns, 8 * D). `forward`
    computes no layer behind `last_layer`, if it is given.

    Parameters
    ----------
    size
        Sizes of the network.
    layer_drop
        Probability that training leaves a block out, as in the public code.
    """

    def __init__(self, size: BEATsSize = BEATsSize(), *, layer_drop: float = 0.0) -> None:
        super().__init__()
        self.size, self.dim, self.depth, self.layer_drop = size, size.dim, size.depth, layer_drop
        self.rows = MELS // size.patch
        self.patch_embed = nn.Conv2d(1, size.patch_dim, size.patch, stride=size.patch, bias=False)
        self.patch_norm = nn.LayerNorm(size.patch_dim)
        self.patch_proj = nn.Linear(size.patch_dim, size.dim) if size.patch_dim != size.dim else nn.Identity()
        self.pos_conv = nn.Conv1d(size.dim, size.dim, 128, padding=64, groups=GROUPS)
        self.norm = nn.LayerNorm(size.dim)
        self.relative_bias = nn.Embedding(size.buckets, size.heads)
        self.blocks = nn.ModuleList(DeepNormBlock(size) for _ in range(size.depth))
        init_beats_weights(self)

    def forward(self, fbank: Tensor, layout: Layout = "flat", last_layer: int | None = None) -> list[Tensor]:
        patches = self.patch_embed(fbank.transpose(2, 3)).flatten(2).transpose(1, 2)  # (B, T, patch_dim)
        x = self.patch_proj(self.patch_norm(patches))
        positions = F.gelu(self.pos_conv(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        x = self.norm(x + positions)

        numbers = number_distances(x.shape[1], self.size.buckets, self.size.farthest).to(x.device, non_blocking=True)
        bias = self.relative_bias(numbers).permute(2, 0, 1)  # (heads, T, T)
        # One number a block, also of those that are not computed, so that what is drawn next stays the same
        drops = self.training and self.layer_drop > 0
        dropped = [drops and bool(torch.rand(()) < self.layer_drop) for _ in self.blocks]
        outputs = []
        for block, left_out in zip(self.blocks[:last_layer], dropped, strict=False):
            if not left_out:
                x = block(x, bias)
            outputs.append(x.unflatten(1, (-1, self.rows)).flatten(2) if layout == "stacked" else x)
        return outputs

    def layer_widths(self, layout: Layout = "flat") -> list[int]:
        """-> D of every layer."""
        return [self.dim * (self.rows if layout == "stacked" else 1)] * self.depth


class DeepNormBlock(nn.Module):
    """(B, T, D), position bias (heads, T, T) -> (B, T, D): attention and MLP, each LayerNorm(alpha x + f(x))."""

    recompute = False  # see `recompute_activations`

    def __init__(self, size: BEATsSize) -> None:
        super().__init__()
        self.alpha = (2 * size.depth) ** 0.25
        self.attn = GatedAttention(size.dim, size.heads)
        self.norm1 = nn.LayerNorm(size.dim)
        self.fc1, self.fc2 = nn.Linear(size.dim, size.hidden), nn.Linear(size.hidden, size.dim)
        self.norm2 = nn.LayerNorm(size.dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return compute_block(self, x, bias)

    def compute(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(self.alpha * x + self.attn(x, bias))
        result: Tensor = self.norm2(self.alpha * x + self.fc2(F.gelu(self.fc1(x))))
        return result


class GatedAttention(nn.Module):
    """(B, T, D), position bias (heads, T, T) -> (B, T, D): each query opens or closes the bias of its row.

    Two gates of a query are sigmoids of sums of four linear features of it; the bias is multiplied by
    a (b * g - 1) + 2 with g learned per head.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.gate_proj = nn.Linear(dim // heads, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        gates = self.gate_proj(q).unflatten(3, (2, 4)).sum(dim=4).sigmoid()  # (B, heads, T, 2)
        a, b = gates.split(1, dim=3)
        opened = (a * (b * self.gate_scale - 1) + 2) * bias
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=opened.to(q.dtype))
        result: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return result


def number_distances(tokens: int, buckets: int, farthest: int) -> Tensor:
    """Tokens -> (T, T) numbers of the distance from each query (row) to each key: half of the buckets for keys behind
    the query; in each half the first half counts single tokens, the rest grows with the logarithm up to `farthest`."""
    place = torch.arange(tokens)
    distance = place[None, :] - place[:, None]
    half = buckets // 2
    exact, size = half // 2, distance.abs()
    far = (size.clamp(min=1).float() / exact).log() / math.log(farthest / exact) * (half - exact)
    number = torch.where(size < exact, size, (exact + far.long()).clamp(max=half - 1))
    return number + half * (distance > 0)


def init_beats_weights(beats: BEATs) -> None:
    """Random start of the public code: Xavier-normal with deep norm's gain for what the residual adds, N(0, 0.02) for
    other linear layers and the bias table, zero biases."""
    for module in beats.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    nn.init.normal_(beats.relative_bias.weight, std=0.02)
    nn.init.normal_(beats.pos_conv.weight, std=math.sqrt(4 / (128 * beats.dim)))
    assert beats.pos_conv.bias is not None
    nn.init.zeros_(beats.pos_conv.bias)
    small = (8 * beats.depth) ** -0.25
    for block in beats.blocks:
        assert isinstance(block, DeepNormBlock)
        for layer, gain in (
            *((each, 1.0) for each in (block.attn.q_proj, block.attn.k_proj)),
            *((each, small) for each in (block.attn.v_proj, block.attn.out_proj, block.fc1, block.fc2)),
        ):
            nn.init.xavier_normal_(layer.weight, gain=gain)
