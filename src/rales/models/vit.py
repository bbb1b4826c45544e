"""The M2D vision transformer: takes a normalised log-mel and returns the output of every layer.

Sizes, token order, position table and layer outputs follow the public M2D implementation (nttcslab/m2d), so that its
checkpoints load key by key. Letters in shapes: B clips, T patches or time columns, D features, L layers.
"""

import math
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Layout = Literal["flat", "stacked"]
LongInput = Literal["chunks", "resample_positions"]


class ViTSize(NamedTuple):
    """Width D, depth L and attention heads of a ViT."""

    dim: int
    depth: int
    heads: int


class ViT(nn.Module):
    """The ViT of M2D: normalised log-mel (B, 1, mel bins, frames) -> list of L layer outputs (B, T, D), no cls token.

    `forward` takes the layout of the tokens, and `last_layer` behind which nothing is computed. With "flat" T counts
    patches, frequency-major inside a chunk, chunks one after another: 8 s -> (B, 255, 768). With "stacked" T counts
    16-frame columns, the patches of one column side by side: 8 s -> (B, 51, 3840). Layers 1 .. L-1 are the raw block
    outputs, layer L is taken after the final LayerNorm as in M2D. Source: nttcslab/m2d, runtime and PortableM2D; paper
    section 3.

    Parameters
    ----------
    dim, depth, heads
        Width D, number of blocks L and attention heads.
    mel_bins
        Mel bins of the input.
    unit_frames
        Frames of one chunk, which is the length of the position table.
    patch
        Mel bins and frames of a patch.
    mlp_ratio
        Width of the MLP's hidden layer over D.
    norm_stats
        Mean and standard deviation with which the caller normalises the log-mel.
    long_input
        How input longer than `unit_frames` is encoded: "chunks", each attending to itself only, as M2D does; or
        "resample_positions", in one pass with the position table stretched.
    raw_last
        Take layer L before the final LayerNorm.
    """

    pos_embed: Tensor
    norm_stats: Tensor

    def __init__(
        self,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        mel_bins: int = 80,
        unit_frames: int = 608,
        patch: tuple[int, int] = (16, 16),
        mlp_ratio: float = 4.0,
        norm_stats: tuple[float, float] = (-7.1, 4.2),
        long_input: LongInput = "chunks",
        raw_last: bool = False,
    ) -> None:
        super().__init__()
        if dim % 4 or dim % heads:
            raise ValueError(
                f"a ViT of width {dim} with {heads} heads; the width must be a multiple of 4 and of the heads"
            )
        self.dim, self.depth, self.heads, self.mlp_ratio = dim, depth, heads, mlp_ratio
        self.mel_bins, self.unit_frames, self.patch = mel_bins, unit_frames, patch
        self.long_input, self.raw_last = long_input, raw_last
        self.rows, self.columns = mel_bins // patch[0], unit_frames // patch[1]
        if not self.rows or not self.columns:
            raise ValueError(
                f"no patch of {patch[0]} x {patch[1]} fits into {mel_bins} mel bands x {unit_frames} frames"
            )
        self.register_buffer("norm_stats", torch.tensor(norm_stats))
        self.register_buffer("pos_embed", sincos_positions(dim, self.rows, self.columns))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = PatchEmbed(dim, patch)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        init_vit_weights(self)

    def forward(self, logmel: Tensor, layout: Layout = "flat", last_layer: int | None = None) -> list[Tensor]:
        units = self.units(logmel)
        tokens, lengths = self.tokens(units)  # (B, sum of 1 + patches of each unit, D)
        outputs = []
        for number, block in enumerate(self.blocks[:last_layer], start=1):
            tokens = block(tokens, lengths)
            last = number == self.depth and not self.raw_last
            outputs.append(self.arrange(self.norm(tokens) if last else tokens, lengths, layout))
        return outputs

    def layer_widths(self, layout: Layout = "flat") -> list[int]:
        """-> D of every layer."""
        return [self.dim * (self.rows if layout == "stacked" else 1)] * self.depth

    def units(self, logmel: Tensor) -> list[Tensor]:
        """(B, 1, F, frames) -> list of (B, 1, F, unit frames); the tail is zero-padded to whole patches."""
        frames, width = logmel.shape[-1], self.patch[1]
        if self.long_input == "resample_positions":
            return [logmel]
        pad = -(frames % self.unit_frames) % width
        whole = -(-frames // self.unit_frames) * self.unit_frames  # a unit that is no multiple of a patch stays a unit
        return list(F.pad(logmel, (0, pad))[..., :whole].split(self.unit_frames, dim=-1))

    def tokens(self, units: list[Tensor]) -> tuple[Tensor, list[int]]:
        """Units -> tokens (B, sum of 1 + patches, D) with positions and a cls token each, and the length of each unit.

        All units stand in one tensor so that every linear layer is one large product; only attention looks at the
        lengths and keeps the units apart.
        """
        tokens = []
        for unit in units:
            grid = self.patch_embed(unit)  # (B, D, rows, columns)
            cls = (self.cls_token + self.pos_embed[:, :1]).expand(unit.shape[0], -1, -1)
            patches = grid.flatten(2).transpose(1, 2) + self.positions(grid.shape[-1])
            tokens += [cls, patches]
        lengths = [1 + patches.shape[1] for patches in tokens[1::2]]
        return torch.cat(tokens, dim=1), lengths

    def positions(self, columns: int) -> Tensor:
        """Number of time columns -> (1, rows * columns, D): the table cut, or stretched if it is too short."""
        table = self.pos_embed[:, 1:].unflatten(1, (self.rows, self.columns))
        if columns > self.columns:
            table = table.permute(0, 3, 1, 2)  # (1, D, rows, columns)
            stretched: Tensor = F.interpolate(table, size=(self.rows, columns), mode="bicubic", align_corners=False)
            return stretched.flatten(2).transpose(1, 2)
        cut: Tensor = table[:, :, :columns]
        return cut.flatten(1, 2)

    def arrange(self, tokens: Tensor, lengths: list[int], layout: Layout) -> Tensor:
        """(B, tokens of all units, D) -> (B, T, D) flat or (B, T, rows * D) stacked, without the cls tokens."""
        ends = list(accumulate(lengths))
        units = [tokens[:, end - length + 1 : end] for end, length in zip(ends, lengths, strict=True)]
        if layout == "stacked":
            units = [unit.unflatten(1, (self.rows, -1)).transpose(1, 2).flatten(2) for unit in units]
        return torch.cat(units, dim=1)


class PatchEmbed(nn.Module):
    """(B, 1, F, frames) -> (B, D, F / patch height, frames // patch width)."""

    def __init__(self, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel_size=patch, stride=patch)

    def forward(self, logmel: Tensor) -> Tensor:
        grid: Tensor = self.proj(logmel)
        return grid


class Block(nn.Module):
    """(B, T, D) -> (B, T, D): pre-norm attention and MLP; `lengths` are the units that do not see each other."""

    recompute = False  # see `recompute_activations`

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)  # M2D's eps: 1e-5 moves base-size outputs by 7e-3
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        return compute_block(self, tokens, lengths)

    def compute(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), lengths)
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D): multi-head self-attention inside each unit of the given lengths."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        # Parts by features, not by a permuted axis in front: one copy less on the way back
        parts = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2)]
        units = zip(*(part.split(lengths, dim=2) for part in parts), strict=True)  # each (B, heads, T, D / heads)
        mixed = [F.scaled_dot_product_attention(q, k, v) for q, k, v in units]
        together = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=2)
        result: Tensor = self.proj(together.transpose(1, 2).flatten(2))
        return result


class MLP(nn.Module):
    """(B, T, D) -> (B, T, D) with exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return result


def recompute_activations(network: nn.Module, wanted: bool) -> None:
    """Whether every transformer block of a network keeps its input alone for the way back and computes the rest again
    there: the same numbers, without some 14 D values a token and block in memory meanwhile."""
    for module in network.modules():
        if hasattr(module, "recompute"):
            module.recompute = wanted  # type: ignore[assignment]


def compute_block(block: Any, *inputs: Any) -> Tensor:
    """Block and its inputs -> its output; with `recompute` a backward pass finds the inputs alone."""
    if block.recompute and torch.is_grad_enabled():
        # Nothing in a block is random, so no state of generators has to be put back
        again: Tensor = checkpoint(block.compute, *inputs, use_reentrant=False, preserve_rng_state=False)
        return again
    result: Tensor = block.compute(*inputs)
    return result


def sincos_positions(dim: int, rows: int, columns: int) -> Tensor:
    """Grid size -> (1, 1 + rows * columns, D) fixed table, frequency-major; row 0 (cls) is zero.

    The first half of the features encodes the time column, the second half the frequency row, each as sines then
    cosines of D / 4 frequencies; computed in float64, stored in float32. Source: nttcslab/m2d.
    """
    if torch.get_default_device().type == "meta":  # shapes alone; there torch.arange imports torch's compiler, a second
        return torch.empty(1, 1 + rows * columns, dim)
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    column = torch.arange(columns, dtype=torch.float64).repeat(rows)
    halves = [torch.cat([(p[:, None] * omega).sin(), (p[:, None] * omega).cos()], dim=1) for p in (column, row)]
    table = torch.cat(halves, dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table])[None].float()


def init_vit_weights(vit: ViT) -> None:
    """Random start of M2D: Xavier-uniform linear layers and patch projection, zero biases, cls ~ N(0, 0.02)."""
    if vit.cls_token.is_meta:  # shapes alone
        return
    nn.init.normal_(vit.cls_token, std=0.02)
    init_linear_weights(vit)
    projection = vit.patch_embed.proj.weight
    fan_in, fan_out = projection[0].numel(), projection.shape[0]
    bound = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(projection, -bound, bound)
    if vit.patch_embed.proj.bias is not None:
        nn.init.zeros_(vit.patch_embed.proj.bias)


def init_linear_weights(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer in the module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
