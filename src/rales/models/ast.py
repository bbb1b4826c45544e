"""The audio spectrogram transformer (AST) on the blocks of our ViT, and Patch-Mix of its patches.

Sources: Gong et al. 2021, YuanGongND/ast; Bae et al. 2023, raymin0223/patch-mix_contrastive_learning.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.models.vit import Block, PatchEmbed, ViTSize

SIZES = {"base": ViTSize(768, 12, 12), "tiny": ViTSize(64, 2, 2)}
ROWS = 12  # patches over 128 mel bands

PositionLayout = Literal["aligned", "original"]


class PatchMix(NamedTuple):
    """Patches at `positions` (n,), the same in every clip, come from the clip that `order` (B,) names; `kept` is the
    share of the others, 1 - n / patches."""

    order: Tensor
    positions: Tensor
    kept: float


class AST(nn.Module):
    """(B, 1, 128, frames) standardised filter bank -> (B, D): mean of the class and the distillation token.

    16 x 16 patches every 10 bands and frames, frequency-major: 798 frames are 12 x 79 = 948 of them. Tokens in front:
    class, distillation. `mix` replaces patches after the projection, before positions are added. Errors: another number
    of frames than the table of positions is for.
    """

    def __init__(self, dim: int = 768, depth: int = 12, heads: int = 12, *, frames: int = 798) -> None:
        super().__init__()
        self.dim, self.columns = dim, count_patch_columns(frames)
        self.patch_embed = PatchEmbed(dim, (16, 16))
        self.patch_embed.proj.stride = (10, 10)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + ROWS * self.columns, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=4) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for start in (self.cls_token, self.dist_token, self.pos_embed):
            nn.init.trunc_normal_(start, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, fbank: Tensor, mix: PatchMix | None = None) -> Tensor:
        tokens = self.norm(self.tokens(fbank, mix))
        features: Tensor = (tokens[:, 0] + tokens[:, 1]) / 2
        return features

    def tokens(self, fbank: Tensor, mix: PatchMix | None = None) -> Tensor:
        """(B, 1, 128, frames) -> (B, 2 + patches, D), the output of the last block before the final norm."""
        patches = self.patch_embed(fbank).flatten(2).transpose(1, 2)  # (B, patches, D)
        if patches.shape[1] != ROWS * self.columns:
            raise ValueError(
                f"{fbank.shape[3]} frames of {fbank.shape[2]} bands make {patches.shape[1]} patches; this network is "
                f"for 128 bands and {ROWS} x {self.columns} patches"
            )
        if mix is not None:
            patches = mix_patches(patches, mix)
        front = torch.cat([self.cls_token, self.dist_token], dim=1).expand(len(patches), -1, -1)
        tokens = torch.cat([front, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, [tokens.shape[1]])
        return tokens


class ASTClassifier(nn.Module):
    """(B, 1, 128, frames) -> (B, classes) logits: AST, layer-norm, linear (4,612 parameters at base size).

    `projector` stands on the mixed features of Patch-Mix contrastive learning, in training only.
    """

    def __init__(self, encoder: AST, classes: int = 4, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.LayerNorm(encoder.dim), nn.Linear(encoder.dim, classes))
        self.projector = projector

    def forward(self, fbank: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(fbank))
        return logits

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, 1, 128, frames) -> (B, D), what the head sees."""
        features: Tensor = self.encoder(fbank)
        return features

    def clean_and_mixed(self, fbank: Tensor, mix: PatchMix) -> tuple[Tensor, Tensor, Tensor]:
        """-> logits (B, classes), features (B, D), and projected features of the mixed clips (B, D): two passes."""
        if self.projector is None:
            raise ValueError("this network has no projector; make it with one for Patch-Mix contrastive learning")
        features = self.encoder(fbank)
        return self.head(features), features, self.projector(self.encoder(fbank, mix))


def count_patch_columns(frames: int) -> int:
    """Frames -> columns of 16-frame patches that start every 10 frames."""
    return (frames - 16) // 10 + 1


def draw_patch_mix(
    batch: int, columns: int, *, rows: int = ROWS, whole_columns: bool = False, generator: torch.Generator
) -> PatchMix:
    """Batch size and patch columns (of 12 patches if not of `rows`) -> what Patch-Mix does with this batch.

    The share to keep is Beta(1, 1), which is uniform; n = floor(patches * (1 - share)) random places are replaced, and
    the share becomes 1 - n / patches. `whole_columns` draws columns of the grid in place of single patches.
    """
    patches = rows * columns
    share = float(torch.rand((), generator=generator))
    order = torch.randperm(batch, generator=generator)
    if whole_columns:
        chosen = torch.randperm(columns, generator=generator)[: math.floor(columns * (1 - share))]
        positions = (torch.arange(rows)[:, None] * columns + chosen).flatten()
    else:
        positions = torch.randperm(patches, generator=generator)[: math.floor(patches * (1 - share))]
    return PatchMix(order, positions, 1 - len(positions) / patches)


def mix_patches(patches: Tensor, mix: PatchMix) -> Tensor:
    """(B, patches, D) -> new (B, patches, D) with some places taken from another clip of the batch."""
    order, positions = (each.to(patches.device, non_blocking=True) for each in mix[:2])
    result = patches.clone()
    result[:, positions] = patches[order][:, positions]
    return result


def mix_picture_patches(picture: Tensor, patch: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, PatchMix]:
    """(B, C, F, T), height and width of a patch -> the pictures with some patches taken from another one of the batch,
    and which. To a network whose own patches are these it is as if its tokens had been mixed."""
    height, width = picture.shape[2:]
    rows, columns = -(-height // patch[0]), -(-width // patch[1])
    mix = draw_patch_mix(len(picture), columns, rows=rows, generator=generator)
    replaced = torch.zeros(rows * columns, dtype=torch.bool)
    replaced[mix.positions] = True
    mask = replaced.view(rows, columns).repeat_interleave(patch[0], 0).repeat_interleave(patch[1], 1)[:height, :width]
    order = mix.order.to(picture.device, non_blocking=True)
    return torch.where(mask.to(picture.device, non_blocking=True), picture[order], picture), mix


def fit_positions(table: Tensor, columns: int, layout: PositionLayout = "aligned") -> Tensor:
    """(1, 2 + 12 * c, D) positions of a checkpoint -> (1, 2 + 12 * columns, D) for another length.

    aligned: the middle columns of the time axis, or the time axis stretched (bilinear) where it is too short.
    original: what the published Patch-Mix code does, which builds the grid with height and width exchanged: time is cut
    to 12, frequency stretched to the number of columns, and the result meets tokens in the other order.
    """
    front, grid = table[:, :2], table[:, 2:].unflatten(1, (ROWS, -1)).permute(0, 3, 1, 2)  # (1, D, 12, c)
    height, width = (ROWS, columns) if layout == "aligned" else (columns, ROWS)
    if width <= grid.shape[3]:
        start = grid.shape[3] // 2 - width // 2
        grid = grid[..., start : start + width]
    else:
        grid = F.interpolate(grid, size=(ROWS, width), mode="bilinear")
    if height < ROWS:
        grid = grid[:, :, ROWS // 2 - height // 2 :][:, :, :height]
    elif height > ROWS:
        grid = F.interpolate(grid, size=(height, width), mode="bilinear")
    return torch.cat([front, grid.flatten(2).transpose(1, 2)], dim=1)
