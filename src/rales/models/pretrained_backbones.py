"""Convert public weight files of the earlier systems to state dicts of our networks, complete or refused.

Every function reads a file (torch pickle without code, or safetensors), brings the known layouts to our names, and
compares names and shapes with those of our network. Errors are sentences that name the first differing keys.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rales.errors import UsageError
from rales.models.ast import AST, ROWS, PositionLayout, count_patch_columns, fit_positions
from rales.models.beats import BEATs, BEATsSize
from rales.models.cnn import Cnn, CnnSize
from rales.models.m2d_checkpoints import (
    count_blocks,
    default_heads,
    describe_tensor,
    matches_shape_and_kind,
    name_few,
    read_tensors,
)
from rales.models.mobilenet import BLOCKS, MobileNet
from rales.models.resnest import ResNeSt
from rales.models.resnet import ResNet

# What PANNs files hold beside the convolutions: their own front-end, input batch-norm, embedding and AudioSet head.
PANNS_REST = ("spectrogram_extractor.", "logmel_extractor.", "bn0.", "fc1.", "fc_audioset.")
AST_PREFIXES = ("module.v.", "v.", "audio_spectrogram_transformer.", "")
AST_LANDMARKS = ("cls_token", "embeddings.cls_token")  # original, Hugging Face
AST_HEADS = ("module.mlp_head.", "mlp_head.", "classifier.")
# Names that the original AST kept from DeiT and does not use.
AST_UNUSED = ("head.", "head_dist.", "pre_logits.")
MOBILENET_PREFIXES = ("", "encoder.", "encoder.network.")  # public, run of one view, run of two
MOBILENET_LANDMARK = "features.0.0.weight"
# Hugging Face: the names in the published file, then those that transformers has had since version 5.
HUGGING_FACE = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.q."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.k."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.v."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
)

BEATS_NAMES = (
    (r"patch_embedding\.", "patch_embed."),
    (r"post_extract_proj\.", "patch_proj."),
    (r"layer_norm\.", "patch_norm."),
    (r"encoder\.pos_conv\.0\.", "pos_conv."),
    (r"encoder\.layer_norm\.", "norm."),
    (r"encoder\.layers\.0\.self_attn\.relative_attention_bias\.", "relative_bias."),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.", r"blocks.\1.attn.gate_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_a", r"blocks.\1.attn.gate_scale"),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"blocks.\1.norm1."),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"blocks.\1.norm2."),
    (r"encoder\.layers\.(\d+)\.", r"blocks.\1."),
)


def resnet_tensors(path: str | Path, depth: int, *, classes: int = 0) -> dict[str, Tensor]:
    """torchvision or timm ResNet file -> state dict of `ResNet(depth, classes=classes)`; classes=0 drops its `fc`."""
    with torch.device("meta"):
        ours = ResNet(depth, classes=classes)
    return match_state_dict(path, read_tensors(path)[0], ours, f"ResNet-{depth}", beside=() if classes else ("fc.",))


def resnest_tensors(path: str | Path, depth: int = 50, *, classes: int = 0) -> dict[str, Tensor]:
    """timm or original ResNeSt file -> state dict of `ResNeSt(depth, classes=classes)`; classes=0 drops its `fc`."""
    with torch.device("meta"):
        ours = ResNeSt(depth, classes=classes)
    return match_state_dict(path, read_tensors(path)[0], ours, f"ResNeSt-{depth}", beside=() if classes else ("fc.",))


def cnn_tensors(path: str | Path, size: CnnSize = "cnn6") -> dict[str, Tensor]:
    """PANNs file (Zenodo 3987831) -> state dict of `Cnn(size)`; what is not a convolution block is dropped."""
    with torch.device("meta"):
        ours = Cnn(size)
    return match_state_dict(path, read_tensors(path)[0], ours, size.capitalize(), beside=PANNS_REST)


def ast_tensors(path: str | Path, *, frames: int = 798, layout: PositionLayout = "aligned") -> dict[str, Tensor]:
    """Original or Hugging Face AST file -> state dict of an `AST` of the file's width and depth for so many frames."""
    tensors, _ = read_tensors(path)
    prefix = next((p for p in AST_PREFIXES if any(f"{p}{name}" in tensors for name in AST_LANDMARKS)), "")
    kept = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and not name.startswith(AST_HEADS)
    }
    outside = [name for name in tensors if not name.startswith((prefix, *AST_HEADS))]
    if outside:
        raise ValueError(f"{path}: not an AST file: {name_few(outside)} beside the tensors that start with {prefix}")
    renamed = {hugging_face_name(name): value for name, value in kept.items() if not name.startswith(AST_UNUSED)}
    joined = join_qkv(renamed)
    table, depth = joined.get("pos_embed"), count_blocks(joined, "blocks.", path)
    if (
        table is None
        or table.ndim != 3
        or table.shape[1] < 2 + ROWS
        or (table.shape[1] - 2) % ROWS
        or not depth
        or not table.numel()
    ):
        raise ValueError(
            f"{path}: not an AST file: it starts with {name_few(tensors)}; expected positions for 2 tokens and {ROWS} "
            "rows of patches, and blocks"
        )
    joined["pos_embed"] = fit_positions(table, count_patch_columns(frames), layout)
    dim = table.shape[2]
    with torch.device("meta"):
        ours = AST(dim, depth, default_heads(dim), frames=frames)
    return match_state_dict(path, joined, ours, f"AST of width {dim} and depth {depth}")


def beats_tensors(path: str | Path) -> tuple[BEATsSize, dict[str, Tensor]]:
    """Public BEATs file (.pt, pre-trained or fine-tuned) -> sizes and state dict of `BEATs` of these sizes.

    Its convolution of positions is stored as direction and length, and becomes the plain weight; the table of
    distances, which all blocks share, is that of the first. The head of AudioSet is dropped.
    """
    found, _ = read_tensors(path)
    tensors = {
        rename_tensor(name, BEATS_NAMES): value for name, value in found.items() if not name.startswith("predictor.")
    }
    tensors = {name: value for name, value in tensors.items() if not re.search(r"blocks\.\d+\.attn\.relative_", name)}
    length, direction = (tensors.pop(f"pos_conv.weight_{part}", None) for part in ("g", "v"))
    table, first = tensors.get("relative_bias.weight"), tensors.get("patch_embed.weight")
    fc1, depth = tensors.get("blocks.0.fc1.weight"), count_blocks(tensors, "blocks.", path)
    known = (length, direction, table, first, fc1)
    if any(each is None for each in known) or not depth:
        raise ValueError(
            f"{path}: not a BEATs file: it starts with {name_few(found)}; expected a patch embedding, a convolution of "
            "positions, a table of distances and layers"
        )
    assert length is not None
    assert direction is not None
    assert table is not None
    assert first is not None
    assert fc1 is not None
    if table.ndim != 2 or first.ndim != 4 or fc1.ndim != 2 or direction.ndim != 3:
        raise ValueError(f"{path}: not a BEATs file: its tensors have other shapes; fetch or copy it again")
    tensors["pos_conv.weight"] = direction * (length / direction.norm(dim=(0, 1), keepdim=True))
    size = BEATsSize(
        dim=fc1.shape[1],
        depth=depth,
        heads=table.shape[1],
        hidden=fc1.shape[0],
        patch_dim=first.shape[0],
        patch=first.shape[2],
        buckets=table.shape[0],
    )
    with torch.device("meta"):
        ours = BEATs(size)
    return size, match_state_dict(path, tensors, ours, f"BEATs of width {size.dim} and depth {depth}")


def mobilenet_tensors(path: str | Path, *, classes: int = 0) -> tuple[float, int, dict[str, Tensor]]:
    """EfficientAT file of a MobileNet (mn01 to mn40), or a run of mn04_fusion -> width, layers, and state dict of
    `MobileNet(width, layers - 1, classes=classes)`; classes=0 drops the head."""
    tensors, _ = read_tensors(path)
    prefix = find_mobilenet_prefix(tensors)
    if prefix is None and {"fusion.weight", "head.weight"} <= set(tensors):
        raise UsageError(f"{path}: heads without their encoder, which is a public one: give that, --weights mn04_as")
    beside = () if classes else ("classifier.",)
    if prefix is not None:
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        blocks = count_blocks(inside, "features.", path) - 2  # without the convolutions before and behind them
        for width in (tenths / 10 for tenths in range(1, 41) if 1 <= blocks <= len(BLOCKS)):
            with torch.device("meta"):
                ours = MobileNet(width, blocks, classes=classes)
            if has_shapes_of(inside, ours):
                what = f"a MobileNet of width {width:g}"
                return width, blocks + 1, match_state_dict(path, inside, ours, what, beside=beside)
    raise ValueError(
        f"{path}: not a MobileNet of EfficientAT of a width of 0.1 to 4.0: it starts with {name_few(tensors)}; "
        f"expected all of features.0 to features.{len(BLOCKS) + 1}"
    )


def find_mobilenet_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """Tensors of a file -> what stands before the names of its MobileNet; None where it holds no such network."""
    return next((prefix for prefix in MOBILENET_PREFIXES if f"{prefix}{MOBILENET_LANDMARK}" in tensors), None)


def has_shapes_of(tensors: Mapping[str, Tensor], ours: MobileNet) -> bool:
    """Whether the convolutions of a file are as wide as those of our network."""
    widths = {name: value.shape for name, value in ours.state_dict().items() if value.ndim == 4}
    return all(name in tensors and tensors[name].shape == shape for name, shape in widths.items())


def rename_tensor(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    """Name of a tensor -> ours, by the first pattern that it begins with; its own where none does."""
    for theirs, ours in patterns:
        if re.match(theirs, name):
            return re.sub(f"^{theirs}", ours, name)
    return name


def hugging_face_name(name: str) -> str:
    """Hugging Face name -> the original's; any other name stays."""
    return rename_tensor(name, HUGGING_FACE)


def join_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value projections -> one; where one is missing the others keep their names."""
    joined = dict(tensors)
    for name in tensors:
        if ".attn.q." in name:
            three = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
            parts = [tensors[part].shape for part in three if part in tensors]
            if len(parts) == 3 and parts[0] and len(set(parts)) == 1:
                joined[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([joined.pop(part) for part in three])
    return joined


def match_state_dict(
    path: str | Path, tensors: Mapping[str, Tensor], ours: nn.Module, what: str, *, beside: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Tensors of a file -> the state dict of `ours`, every one of it, nothing left over but names that start with
    `beside`. `num_batches_tracked`, which files of 2018 lack, is taken as 0."""
    expected = ours.state_dict()
    own = {name: value for name, value in tensors.items() if not (beside and name.startswith(beside))}
    for name in expected:
        if name.endswith("num_batches_tracked"):
            own.setdefault(name, torch.tensor(0))
    wrong = [f"{name} missing" for name in expected if name not in own]
    wrong += [f"{name} not expected" for name in own if name not in expected]
    wrong += [
        f"{name} {describe_tensor(own[name])}, expected {describe_tensor(value)}"
        for name, value in expected.items()
        if name in own and not matches_shape_and_kind(own[name], value)
    ]
    if wrong:
        raise ValueError(f"{path}: not the weights of {what}: {name_few(wrong)}")
    return {name: own[name] for name in expected}
