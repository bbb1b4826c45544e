"""Masked Modeling Duo (M2D): pre-train a ViT by predicting the target encoder's view of the masked patches.

The online encoder sees a few patches, a predictor guesses from them what the target encoder, a slow average of the
online one, makes of the others. Source: Niizumi et al., nttcslab/m2d. Letters: B clips, T patches, D features.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.models.m2d_checkpoints import (
    PREFIXES,
    build_encoder,
    count_blocks,
    describe_tensor,
    name_few,
    read_tensors,
    stated_number,
    stated_settings,
)
from rales.models.vit import Block, ViT, ViTSize, init_linear_weights, sincos_positions

Init = Literal["random", "online"]
Kind = Literal["norm_mse", "mse"]


class M2DOutput(NamedTuple):
    """What one masked step gives; masked patches stand in the order of their noise."""

    loss: Tensor  # scalar
    prediction: Tensor  # (B, masked, D)
    target: Tensor  # (B, masked, D) of the target encoder, as it comes from its final LayerNorm
    m2d_loss: Tensor  # scalar, detached
    teacher_loss: Tensor  # scalar, detached; 0 without a teacher


class M2D(nn.Module):
    """One step of M2D pre-training: normalised log-mel (B, 1, mel bins, unit frames) -> `M2DOutput` with its loss.

    Only the target encoder's blocks and LayerNorm are its own; patch embedding, cls token and positions are the online
    encoder's. Names in the state dict are those of the reference's full checkpoints. `forward` takes `noise` (B,
    patches), which says what is masked: the int(patches * (1 - mask_ratio)) smallest of each clip stay visible; without
    it the noise is drawn from torch's generator.

    With `teacher_dim` the network has the linear `offline_predictor` of M2D-X, which predicts a frozen teacher's
    features (B, time columns, teacher_dim), given to `forward`, of every column from what the online side knows of the
    whole grid: latents of visible and predictions of masked patches, the patches of a column side by side. The sum is
    m2d_weight * loss + teacher_weight * the same kind of loss over all columns. That is how the published code has it,
    name included. Features (B, 1, teacher_dim) of whole clips are predicted from the mean over columns (ours).

    Parameters
    ----------
    encoder
        The online encoder.
    mask_ratio
        Fraction of the patches that are masked.
    decoder_dim, decoder_depth, decoder_heads
        Width, blocks and attention heads of the predictor.
    standardise
        Bring the target's features of each patch to mean 0 and variance 1.
    loss
        "norm_mse" is the error between features of length 1, "mse" between features as they are.
    target_init
        "random" gives the target a random start of its own, as in the reference; "online" copies the online encoder.
    teacher_dim
        Width of a teacher's features, 0 without a teacher.
    m2d_weight, teacher_weight
        Weights of the two losses with a teacher.
    """

    pos_embed: Tensor
    norm_stats: Tensor
    decoder_pos_embed: Tensor

    def __init__(
        self,
        encoder: ViT,
        *,
        mask_ratio: float = 0.7,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        standardise: bool = True,
        loss: Kind = "norm_mse",
        target_init: Init = "random",
        teacher_dim: int = 0,
        m2d_weight: float = 1.0,
        teacher_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.size = ViTSize(encoder.dim, encoder.depth, encoder.heads)
        self.rows, self.columns, self.patch = encoder.rows, encoder.columns, encoder.patch
        self.mel_bins, self.unit_frames, self.mlp_ratio = encoder.mel_bins, encoder.unit_frames, encoder.mlp_ratio
        self.mask_ratio, self.visible = mask_ratio, visible_patches(encoder.rows * encoder.columns, mask_ratio)
        self.standardise, self.loss, self.decoder_heads = standardise, loss, decoder_heads
        self.m2d_weight, self.teacher_weight = m2d_weight, teacher_weight

        # Online encoder, part by part, so that the names are the reference's
        self.register_buffer("norm_stats", encoder.norm_stats)
        self.register_buffer("pos_embed", encoder.pos_embed)
        self.cls_token = encoder.cls_token
        self.patch_embed, self.blocks, self.norm = encoder.patch_embed, encoder.blocks, encoder.norm
        dim = encoder.dim

        self.target_blocks = nn.ModuleList(Block(dim, encoder.heads, encoder.mlp_ratio) for _ in range(encoder.depth))
        self.target_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder_dim, self.rows, self.columns))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_dim, decoder_heads, encoder.mlp_ratio) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, dim)
        self.offline_predictor = nn.Linear(self.rows * dim, teacher_dim) if teacher_dim else None

        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.target_blocks, self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            init_linear_weights(part)
        if self.offline_predictor is not None:
            init_linear_weights(self.offline_predictor)
        if target_init == "online":
            self.copy_online_to_target()
        self.target_blocks.requires_grad_(False)
        self.target_norm.requires_grad_(False)

    @classmethod
    def from_checkpoint(
        cls, path: str | os.PathLike[str], mask_ratio: float = 0.7, *, heads: int | None = None, **options: Any
    ) -> "M2D":
        """Checkpoint of any form that `load_m2d` reads -> the network with all that the file holds.

        `options` are those of the network. What the file lacks keeps its start: of an encoder-only file the predictor
        and the target, and `offline_predictor` unless the file has one of that width. Numbers of heads are those of
        the arguments, else of the file's metadata or record, else M2D's habits (32 features a head in the predictor).
        Errors: a width or depth of the predictor that is not the file's.
        """
        tensors, metadata = read_tensors(path)
        encoder = build_encoder(tensors, metadata, path, heads=heads)
        prefix = next((p for p in PREFIXES if f"{p}cls_token" in tensors), "")
        stored = {name.removeprefix(prefix): value for name, value in tensors.items()}

        if "decoder_embed.weight" in stored:
            own = decoder_sizes(stored, encoder.dim, path)
            for name, value in own.items():
                if options.setdefault(name, value) != value:
                    raise ValueError(f"{path}: its {name} is {value}, {options[name]} was asked for; leave {name} out")
            heads_there = stated_number(stated_settings(metadata, path), "decoder_heads", path)
            options.setdefault("decoder_heads", heads_there or default_decoder_heads(own["decoder_dim"]))
        if "decoder_heads" in options and options.get("decoder_dim", 512) % options["decoder_heads"]:
            raise ValueError(
                f"{path}: a predictor of width {options['decoder_dim']} with {options['decoder_heads']} heads; the "
                "width must be a multiple of the heads"
            )

        # what the file has begun to hold, predictor or target, it must hold whole
        model = cls(encoder, mask_ratio=mask_ratio, **options)
        ours = model.state_dict()
        fitting = {name: value for name, value in stored.items() if name in ours and ours[name].shape == value.shape}
        begun = tuple(part for part in ("decoder_", "target_") if any(name.startswith(part) for name in stored))
        wrong = [
            name
            for name in ours.keys() - fitting.keys()
            if "offline_predictor" not in name and (name in stored or name.startswith(begun))
        ]
        if wrong:
            raise ValueError(
                f"{path}: {min(wrong)} is {describe_tensor(stored.get(min(wrong)))}, expected "
                f"{describe_tensor(ours[min(wrong)])}; the file is damaged or of another architecture"
            )
        model.load_state_dict(fitting, strict=False)
        if options.get("target_init") == "online" and "target_norm.weight" not in fitting:
            model.copy_online_to_target()
        return model

    def forward(self, logmel: Tensor, noise: Tensor | None = None, teacher: Tensor | None = None) -> M2DOutput:
        patches = self.patch_embed(logmel).flatten(2).transpose(1, 2)  # (B, T, D)
        if patches.shape[1] != self.rows * self.columns:
            raise ValueError(
                f"a log-mel of shape {tuple(logmel.shape)} gives {patches.shape[1]} patches, expected "
                f"(B, 1, {self.mel_bins}, {self.unit_frames}) with {self.rows * self.columns}"
            )
        if noise is None:
            noise = torch.rand(patches.shape[:2], device=patches.device)
        order = noise.argsort(dim=1)  # (B, T): the first are visible
        patches = (patches + self.pos_embed[:, 1:]).take_along_dim(order[:, :, None], dim=1)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        latent = run_blocks(self.blocks, self.norm, torch.cat([cls, patches[:, : self.visible]], dim=1))
        prediction = self.predict(latent, order)
        with torch.no_grad():
            masked = torch.cat([cls, patches[:, self.visible :]], dim=1)
            target = run_blocks(self.target_blocks, self.target_norm, masked)[:, 1:]

        m2d_loss = masked_prediction_loss(prediction, target, kind=self.loss, standardise=self.standardise)
        if teacher is None or self.offline_predictor is None:
            loss = m2d_loss if self.m2d_weight == 1 else self.m2d_weight * m2d_loss
            return M2DOutput(loss, prediction, target, m2d_loss.detach(), torch.zeros_like(m2d_loss))
        columns = self.columns_of(latent, prediction, order)
        if teacher.shape[1] == 1 < self.columns:  # one vector a clip
            columns = columns.mean(dim=1, keepdim=True)
        features = self.offline_predictor(columns)
        teacher_loss = masked_prediction_loss(features, teacher, kind=self.loss, standardise=self.standardise)
        loss = self.m2d_weight * m2d_loss + self.teacher_weight * teacher_loss
        return M2DOutput(loss, prediction, target, m2d_loss.detach(), teacher_loss.detach())

    def predict(self, latent: Tensor, order: Tensor) -> Tensor:
        """Latents (B, 1 + visible, D) and the order of patches (B, T) -> predictions (B, masked, D).

        The reference puts the tokens back into the order of the grid first. Attention does not see an order, so here
        they stay as they are and each takes its own position with it: the same numbers without two more copies.
        """
        known = self.decoder_embed(latent)  # (B, 1 + visible, decoder D)
        unknown = self.mask_token.to(known.dtype).expand(len(known), order.shape[1] - self.visible, -1)
        places = self.decoder_pos_embed[0, 1:][order]  # (B, T, decoder D)
        cls, visible = known[:, :1] + self.decoder_pos_embed[:, :1], known[:, 1:] + places[:, : self.visible]
        tokens = torch.cat([cls, visible, unknown + places[:, self.visible :]], dim=1)
        for block in self.decoder_blocks[:-1]:
            tokens = block(tokens, [tokens.shape[1]])
        tokens = last_block_masked_only(self.decoder_blocks[-1], tokens, order.shape[1] - self.visible)
        prediction: Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return prediction

    def columns_of(self, latent: Tensor, prediction: Tensor, order: Tensor) -> Tensor:
        """Latents of visible and predictions of masked patches -> (B, columns, rows * D) in the order of time."""
        tokens = torch.cat([latent[:, 1:].to(prediction.dtype), prediction], dim=1)
        grid = tokens.take_along_dim(order.argsort(dim=1)[:, :, None], dim=1).unflatten(1, (self.rows, self.columns))
        columns: Tensor = grid.transpose(1, 2).flatten(2)
        return columns

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Move the target encoder towards the online one: target = decay * target + (1 - decay) * online."""
        for target, online in zip(*self.pairs(), strict=True):
            target.mul_(decay).add_(online * (1 - decay))  # lerp and fused additions round otherwise than the reference

    @torch.no_grad()
    def copy_online_to_target(self) -> None:
        """Give the target encoder the online encoder's weights."""
        target, online = self.pairs()
        torch._foreach_copy_(target, online)

    def pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """-> the target encoder's parameters and the online encoder's, one for one."""
        target: list[Tensor] = [*self.target_blocks.parameters(), *self.target_norm.parameters()]
        online: list[Tensor] = [*self.blocks.parameters(), *self.norm.parameters()]
        return target, online

    def encoder(self) -> ViT:
        """-> the online encoder as a ViT; it shares all weights."""
        with torch.device("meta"):
            vit = ViT(
                *self.size,
                mel_bins=self.mel_bins,
                unit_frames=self.unit_frames,
                patch=self.patch,
                mlp_ratio=self.mlp_ratio,
            )
        vit.cls_token, vit.patch_embed, vit.blocks, vit.norm = self.cls_token, self.patch_embed, self.blocks, self.norm
        vit.pos_embed, vit.norm_stats = self.pos_embed, self.norm_stats
        return vit

    def metadata(self) -> dict[str, str]:
        """What a file of this network must carry beside its tensors, since shapes do not say it."""
        known = {"heads": self.size.heads, "decoder_heads": self.decoder_heads, "unit_frames": self.unit_frames}
        return {name: str(value) for name, value in known.items()}


def run_blocks(blocks: nn.ModuleList, norm: nn.Module, tokens: Tensor) -> Tensor:
    """(B, T, D) -> (B, T, D): blocks and the LayerNorm after them."""
    for block in blocks:
        tokens = block(tokens, [tokens.shape[1]])
    result: Tensor = norm(tokens)
    return result


def last_block_masked_only(block: nn.Module, tokens: Tensor, number: int) -> Tensor:
    """Block, (B, T, D) -> (B, number, D): what the block makes of the last tokens, which see all of them.

    Of the others only keys and values are computed: 1 % of a whole step of ViT-base.
    """
    assert isinstance(block, Block)
    normed, dim = block.norm1(tokens), tokens.shape[2]
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    q = F.linear(normed[:, -number:], weight[:dim], bias[:dim]).unflatten(2, (block.attn.heads, -1)).transpose(1, 2)
    kv = F.linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=2)
    k, v = (part.unflatten(2, (block.attn.heads, -1)).transpose(1, 2) for part in kv)  # (B, heads, T, D / heads)
    mixed = F.scaled_dot_product_attention(q, k, v)
    result: Tensor = tokens[:, -number:] + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    more: Tensor = block.mlp(block.norm2(result))
    return result + more


def masked_prediction_loss(prediction: Tensor, target: Tensor, *, kind: Kind, standardise: bool) -> Tensor:
    """Predictions and targets (B, T, D) -> scalar, in float32: the mean over clips and tokens.

    `standardise` brings every target token to mean 0 and (unbiased) variance 1. norm_mse is the squared distance of
    both at unit length, 2 - 2 cos; mse the mean over features of the squared difference.
    """
    prediction, target = prediction.float(), target.float()
    if standardise:
        centred = target - target.mean(dim=-1, keepdim=True)
        target = centred / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    if kind == "mse":
        return F.mse_loss(prediction, target)
    cosine = (F.normalize(prediction, dim=-1) * F.normalize(target, dim=-1)).sum(dim=-1)
    return (2 - 2 * cosine).mean()


def visible_patches(patches: int, mask_ratio: float) -> int:
    """Number of patches and masking ratio -> how many stay visible, rounded down as in the reference.

    Errors: a ratio that leaves nothing to see or nothing to predict.
    """
    visible = int(patches * (1 - mask_ratio))
    if not 0 < visible < patches:
        raise ValueError(
            f"masking ratio {mask_ratio} of {patches} patches leaves {visible} visible; expected a ratio between 0 and "
            "1 that leaves some visible and some masked"
        )
    return visible


def decoder_sizes(tensors: Mapping[str, Tensor], dim: int, path: str | os.PathLike[str]) -> dict[str, int]:
    """Tensors of a full checkpoint and the encoder's width -> width and depth of the predictor. Errors: blocks that are
    not of that width, before anything of it is made."""
    shape = tuple(tensors["decoder_embed.weight"].shape)
    width, depth = shape[0] if shape else 0, count_blocks(tensors, "decoder_blocks.", path)
    found = {"decoder_embed.weight": shape}
    expected = {"decoder_embed.weight": (width, dim)}
    for number in range(max(depth, 1)):
        name = f"decoder_blocks.{number}.attn.qkv.weight"
        found[name] = tuple(tensors[name].shape) if name in tensors else ()
        expected[name] = (3 * width, width)
    wrong = [f"{name} is {found[name]}, expected {expected[name]}" for name in found if found[name] != expected[name]]
    if wrong or width == 0 or width % 4:
        raise ValueError(
            f"{path}: its predictor of width {width} and depth {depth} is not whole ({name_few(wrong)}); the file is "
            "damaged or of another architecture"
        )
    return {"decoder_dim": width, "decoder_depth": depth}


def default_decoder_heads(dim: int) -> int:
    """Width of a predictor -> heads where a file says nothing: 32 features a head, miniatures 8."""
    return dim // 32 if dim % 32 == 0 and dim >= 128 else max(dim // 8, 1)
