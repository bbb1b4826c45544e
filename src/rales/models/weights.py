"""Public M2D checkpoint files -> our encoder; reading strangers' files is this module's job.

Formats (reference implementation nttcslab/m2d): full pre-training file, its 2022 form without `norm_stats`,
encoder-only file, fine-tuned file of the evaluation package (prefix `module.ar.runtime.backbone.`), each as torch
pickle or safetensors; and our own run checkpoints (prefix `encoder.`).
"""

import argparse
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rales.models.vit import Layout, LongInput, ViT
from rales.writing import replacing

PREFIXES = ("module.ar.runtime.backbone.", "backbone.", "encoder.")
NORM_STATS_2022 = (-7.1, 4.2)  # what the reference assumes for files that hold no norm_stats


def load_m2d(
    path: str | os.PathLike[str],
    *,
    heads: int | None = None,
    mel_bins: int = 80,
    long_input: LongInput | None = None,
    raw_last: bool | None = None,
) -> ViT:
    """Checkpoint file -> encoder in evaluation mode; sizes come from the tensors' shapes.

    What shapes do not say is taken, in this order, from the arguments, the file's own metadata and the record of the
    run that wrote it, the folder or file name of the public releases (`…-80x1001p16x16-…`), and M2D's habits (64
    features a head). Errors are sentences: a missing file, a file of another architecture, a pickle that holds more
    than tensors, values that are not finite.
    """
    tensors, metadata = read_tensors(path)
    vit = encoder_of(tensors, metadata, path, heads=heads, mel_bins=mel_bins, long_input=long_input, raw_last=raw_last)
    return vit.eval()


def encoder_of(
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    path: str | os.PathLike[str],
    *,
    heads: int | None = None,
    mel_bins: int = 80,
    long_input: LongInput | None = None,
    raw_last: bool | None = None,
) -> ViT:
    """What `read_tensors` found in a file -> its encoder; see `load_m2d`."""
    encoder = encoder_tensors(tensors, path)
    stated = stated_settings(metadata, path)
    dim = encoder["cls_token"].shape[-1]
    patch = encoder["patch_embed.proj.weight"].shape[-2:]
    depth = 1 + max(int(key.split(".")[1]) for key in encoder if key.startswith("blocks."))
    rows = mel_bins // patch[0]
    columns = (encoder["pos_embed"].shape[1] - 1) // rows
    vit = ViT(
        dim,
        depth,
        heads or stated_number(stated, "heads", path) or default_heads(dim),
        mel_bins=mel_bins,
        unit_frames=stated_number(stated, "unit_frames", path) or unit_frames_of_name(path, columns, patch[1]),
        patch=(patch[0], patch[1]),
        mlp_ratio=encoder["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        long_input=long_input or stated.get("long_input", "chunks"),
        raw_last=bool(stated.get("raw_last")) if raw_last is None else raw_last,
    )
    expected = vit.state_dict()
    encoder.setdefault("norm_stats", torch.tensor(NORM_STATS_2022))
    wrong = [
        f"{key} {tuple(encoder[key].shape) if key in encoder else 'missing'}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key not in encoder or encoder[key].shape != value.shape
    ]
    if wrong:
        raise ValueError(f"{path}: not a checkpoint of an M2D encoder of width {dim} and depth {depth}: {named(wrong)}")
    vit.load_state_dict({key: encoder[key] for key in expected})
    return vit


class FineTunedM2D(nn.Module):
    """(B, 1, mel bins, frames) normalised log-mel -> (B, classes) logits of a fine-tuned file of the M2D evaluation
    package: mean over T, batch-norm with running statistics (no affine), linear."""

    def __init__(self, encoder: ViT, layout: Layout, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.layout = encoder, layout
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.linear = nn.Linear(width, classes)

    def forward(self, logmel: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(self.encoder(logmel, self.layout)[-1].mean(dim=1)))
        return logits


def load_m2d_finetuned(path: str | os.PathLike[str], *, heads: int | None = None) -> FineTunedM2D:
    """Fine-tuned checkpoint -> encoder with its head, in evaluation mode; the head's width tells the layout.

    Errors: a file without `module.head.*` is a sentence.
    """
    tensors, _ = read_tensors(path)
    names = {
        "norm.running_mean": "module.head.norm.running_mean",
        "norm.running_var": "module.head.norm.running_var",
        "linear.weight": "module.head.mlp.mlp.0.weight",
        "linear.bias": "module.head.mlp.mlp.0.bias",
    }
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise ValueError(f"{path}: no fine-tuned head ({', '.join(missing)} missing); load_m2d reads the encoder alone")
    encoder = load_m2d(path, heads=heads)
    classes, width = tensors[names["linear.weight"]].shape
    model = FineTunedM2D(encoder, "flat" if width == encoder.dim else "stacked", width, classes)
    model.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, strict=False)
    return model.eval()


def fingerprint(encoder: nn.Module) -> str:
    """Encoder -> SHA-256 over names and values of its tensors, whatever file they came from."""
    found = hashlib.sha256()
    for key, value in encoder.state_dict().items():
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()


def record_of(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a checkpoint -> the record of the run of ours that wrote it; {} of anybody else's file."""
    try:
        record = json.loads(metadata.get("rales", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its record is no JSON ({error}); the file is damaged, copy it again") from error
    if not isinstance(record, dict) or not isinstance(record.get("config", {}), dict):
        raise ValueError(f"{path}: its record has no settings; the file is damaged, copy it again")  # noqa: TRY004
    return record


def stated_settings(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a checkpoint -> what it and the record of its run say of the encoder: heads, unit_frames, …"""
    config = record_of(metadata, path).get("config", {})
    sections = [config[name] for name in ("encoder", "model") if isinstance(config.get(name), dict)]
    return {**(sections[0] if sections else {}), **metadata}


def stated_number(stated: Mapping[str, Any], name: str, path: str | os.PathLike[str]) -> int | None:
    """`stated_settings` and a name -> the whole number above 0 of that name, None if it is not there."""
    if name not in stated:
        return None
    if not str(stated[name]).isdecimal() or int(stated[name]) < 1:
        raise ValueError(
            f"{path}: says {name} = {stated[name]!r}, expected a whole number above 0; the file is damaged"
        )
    return int(stated[name])


def check_finite(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Tensors of a file: ValueError that names one with values that are NaN or infinite, as its answers would be."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            wrong = int((~value.isfinite()).sum())
            raise ValueError(
                f"{path}: tensor {name} holds {wrong} of {value.numel()} values that are NaN or infinite; the file is "
                "damaged, or its training diverged: copy it again, or train again in an empty folder"
            )


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """File -> (name -> tensor, metadata), every value finite; pickles are read with `weights_only=True`, so that they
    cannot run code."""
    path = Path(path)
    tensors, metadata = stored_tensors(path)
    check_finite(tensors, path)
    return tensors, metadata


def stored_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `read_tensors` reads, whatever its values are."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on pickle protocols; full M2D files hold a Namespace
            stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of strange bytes torch.load makes nearly anything: IndexError, TypeError, struct.error
        asks_for = re.search(r"GLOBAL (\S+)", str(error))
        if asks_for:
            raise ValueError(
                f"{path}: this pickle asks for {asks_for[1]}, which could run code when opened, so it was not read; "
                "ask its maker for a safetensors file or bare state dict"
            ) from error
        raise ValueError(
            f"{path}: damaged or not a torch checkpoint ({type(error).__name__}); fetch or copy it again"
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("model"), dict):
        stored = stored["model"]
    if not isinstance(stored, dict) or not any(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"{path}: holds {type(stored).__name__} without tensors, expected a state dict")
    return {name: value for name, value in stored.items() if isinstance(value, Tensor)}, {}


def write_reference_file(
    folder: Path, tensors: dict[str, Tensor], epoch: int, *, unit: tuple[int, int], patch: tuple[int, int]
) -> Path:
    """State dict of an M2D network -> a full pre-training file as nttcslab/m2d saves it, without optimiser state.

    That code takes the sizes of input and patch from the folder's name. -> the file.
    """
    name = f"m2d_vit-{unit[0]}x{unit[1]}p{patch[0]}x{patch[1]}-rales"
    path = folder / name / f"checkpoint-{epoch}.pth"
    model = {key: value.detach().cpu().clone() for key, value in tensors.items()}
    about = {"epoch": epoch, "args": argparse.Namespace(input_size=unit, patch_size=patch)}
    with replacing(path) as beside, beside.open("wb") as file:  # given a name, torch would keep it inside
        torch.save({"model": model, **about}, file)
    return path


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Safetensors file -> (name -> tensor, metadata)."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut safetensors file ({error}); copy it again") from error


def encoder_tensors(tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Any accepted naming -> the encoder's own names; a file without the landmarks of a ViT is a sentence."""
    prefix = next((p for p in PREFIXES if f"{p}cls_token" in tensors), "")
    encoder = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    landmarks = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in landmarks if name not in encoder]
    if missing:
        raise ValueError(
            f"{path}: a checkpoint of another architecture: {', '.join(missing)} missing among its {len(tensors)} "
            f"tensors (it starts with {', '.join(list(tensors)[:3])}); expected an M2D encoder (see `rales weights`)"
        )
    return encoder


def default_heads(dim: int) -> int:
    """Width -> heads where a file says nothing: ViTs have 64 features a head, miniatures 16."""
    return dim // 64 if dim % 64 == 0 else max(dim // 16, 1)


def unit_frames_of_name(path: str | os.PathLike[str], columns: int, patch_frames: int) -> int:
    """Frames of one input unit: from the name of a public release if it fits the table's columns, else from them.

    Only the name tells 80x1001 from 80x992, both 62 columns of 16 frames.
    """
    path = Path(path)
    for name in (path.parent.name, path.stem):
        found = re.search(r"-(\d+)x(\d+)p(\d+)x(\d+)", name)
        if found and int(found[2]) // patch_frames == columns:
            return int(found[2])
    return columns * patch_frames


def named(names: Iterable[str]) -> str:
    """Names -> the first three of them in words."""
    names = list(names)
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
