"""Read public M2D checkpoint files, and our own, into our encoder.

Formats (reference implementation nttcslab/m2d): full pre-training file, its 2022 form without `norm_stats`,
encoder-only file, fine-tuned file of the evaluation package (prefix `module.ar.runtime.backbone.`), each as torch
pickle or safetensors; and our own run checkpoints (prefix `encoder.`).
"""

import argparse
import hashlib
import os
import re
import typing
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rales.files import seals
from rales.files.atomic import atomic_write
from rales.files.json_files import parse_json
from rales.models.low_rank import merge_low_rank_updates
from rales.models.vit import Layout, LongInput, ViT

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
    """Load the encoder of an M2D checkpoint, in evaluation mode; sizes come from the tensors' shapes.

    What shapes do not say is taken, in this order, from the arguments, the file's own metadata and the record of the
    run that wrote it, the folder or file name of the public releases (`…-80x1001p16x16-…`), and M2D's habits.

    Parameters
    ----------
    path
        Checkpoint file of any form in the head of this module.
    heads
        Attention heads; M2D's habit is one per 64 features.
    mel_bins
        Mel bins of the input.
    long_input, raw_last
        As for `ViT`.

    Raises
    ------
    ValueError, OSError
        A missing file, a file of another architecture, a pickle that holds more than tensors, values that are not
        finite.
    """
    tensors, metadata = read_tensors(path)
    vit = build_encoder(
        tensors, metadata, path, heads=heads, mel_bins=mel_bins, long_input=long_input, raw_last=raw_last
    )
    return vit.eval()


def build_encoder(
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
    dim, patch = encoder["cls_token"].shape[-1], encoder["patch_embed.proj.weight"].shape[-2:]
    depth = count_blocks(encoder, "blocks.", path)
    rows = mel_bins // patch[0]
    if rows == 0:
        raise ValueError(f"{path}: its patches are {patch[0]} mel bands high, of {mel_bins}; expected an M2D encoder")
    columns = (encoder["pos_embed"].shape[1] - 1) // rows
    long_input = long_input or stated.get("long_input", "chunks")
    if long_input not in typing.get_args(LongInput):
        raise ValueError(
            f"{path}: says long_input = {long_input!r}, expected {' or '.join(typing.get_args(LongInput))}"
        )

    def empty() -> ViT:
        return ViT(
            dim,
            depth,
            heads or stated_number(stated, "heads", path) or default_heads(dim),
            mel_bins=mel_bins,
            unit_frames=stated_number(stated, "unit_frames", path) or unit_frames_of_name(path, columns, patch[1]),
            patch=(patch[0], patch[1]),
            mlp_ratio=encoder["blocks.0.mlp.fc1.weight"].shape[0] / dim,
            long_input=long_input,
            raw_last=bool(stated.get("raw_last")) if raw_last is None else raw_last,
        )

    encoder.setdefault("norm_stats", torch.tensor(NORM_STATS_2022))
    architecture = f"an M2D encoder of width {dim} and depth {depth}"
    vit = build_from_tensors(empty, encoder, path, architecture)
    vit.load_state_dict({key: encoder[key] for key in vit.state_dict()})
    return vit


Network = TypeVar("Network", bound=nn.Module)
Made = TypeVar("Made")


def build_from_tensors(
    empty: Callable[[], Network], tensors: Mapping[str, Tensor], path: str | os.PathLike[str], architecture: str
) -> Network:
    """Function that makes a network, and a file's tensors -> the network, its weights not yet those of the file.

    It is made without memory first, and made at all only if the file has every tensor of it in its size: what a damaged
    file says of sizes costs nothing. Errors: a tensor that is missing, of another shape or of whole numbers where the
    network has fractions, and sizes that no network can have.
    """
    expected = build_without_memory(empty, path).state_dict()
    wrong = [
        f"{key} {describe_tensor(tensors.get(key))}, expected {describe_tensor(value)}"
        for key, value in expected.items()
        if not matches_shape_and_kind(tensors.get(key), value)
    ]
    if wrong:
        raise ValueError(f"{path}: not a checkpoint of {architecture}: {name_few(wrong)}")
    return empty()


def build_without_memory(make: Callable[[], Made], path: str | os.PathLike[str]) -> Made:
    """Function that makes a network of the sizes that a file states -> it, with shapes and without values. Errors:
    sizes that no network can have."""
    with size_errors_as_sentences(path), torch.device("meta"):
        return make()


@contextmanager
def size_errors_as_sentences(path: str | os.PathLike[str]) -> Iterator[None]:
    """While networks are made as a file says: what torch and numpy say of impossible sizes -> a sentence."""
    try:
        yield
    except (ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        raise ValueError(f"{path}: states sizes that no network has ({str(error).splitlines()[0]})") from error


def describe_tensor(value: Tensor | None) -> str:
    """Tensor -> its shape, and its kind of number if that is not the usual one."""
    if value is None:
        return "missing"
    kind = "" if value.dtype == torch.float32 else f" {str(value.dtype).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{kind}"


def count_blocks(tensors: Iterable[str], prefix: str, path: str | os.PathLike[str]) -> int:
    """Names of tensors -> how many blocks they have behind a prefix. Errors: numbers that are not 0, 1, 2, …"""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    if odd := numbers ^ {str(number) for number in range(len(numbers))}:
        raise ValueError(
            f"{path}: has {len(numbers)} blocks ({prefix}…), not numbered from 0 on ({name_few(sorted(odd))}); "
            "the file is damaged or of another architecture"
        )
    return len(numbers)


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
    """Load the encoder and the head of a fine-tuned checkpoint of the M2D evaluation package, in evaluation mode.

    Parameters
    ----------
    path
        Checkpoint file; the width of its head tells the layout of the tokens.
    heads
        Attention heads, as for `load_m2d`.

    Raises
    ------
    ValueError
        A file without `module.head.*`.
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
    shapes = {ours: tuple(tensors[theirs].shape) for ours, theirs in names.items()}
    classes, width = (*shapes["linear.weight"], 0, 0)[:2]
    layouts: dict[int, Layout] = {encoder.dim * encoder.rows: "stacked", encoder.dim: "flat"}
    fitting = {"norm.running_mean": (width,), "norm.running_var": (width,), "linear.bias": (classes,)}
    if width not in layouts or shapes != {**fitting, "linear.weight": (classes, width)}:
        raise ValueError(f"{path}: its head does not fit its encoder of width {encoder.dim}: {shapes}; copy it again")
    model = FineTunedM2D(encoder, layouts[width], width, classes)
    model.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, strict=False)
    return model.eval()


def fingerprint_encoder(encoder: nn.Module) -> str:
    """Encoder -> SHA-256 over names and values of its tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for key, value in encoder.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def record_of(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a checkpoint -> the record of the run of ours that wrote it; {} of anybody else's file."""
    record = parse_json(metadata.get("rales", "{}"), f"{path}: its record")
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
    if not re.fullmatch(r"[0-9]{1,9}", str(stated[name])) or int(stated[name]) < 1:
        raise ValueError(
            f"{path}: says {name} = {stated[name]!r}, expected a whole number above 0; the file is damaged"
        )
    return int(stated[name])


def check_complete(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Tensors of a file, and those of the network that it is to fill: ValueError for another set of names, other
    shapes, whole numbers for fractions, and values that are not finite."""
    wrong = [
        f"{name} {describe_tensor(tensors.get(name))}, expected "
        f"{describe_tensor(expected[name]) if name in expected else 'none'}"
        for name in sorted(expected.keys() | tensors.keys())
        if name not in expected
        or not matches_shape_and_kind(tensors.get(name), expected[name])
        or tensors[name].dtype not in (expected[name].dtype, torch.float16)  # half is that of the shipped model
    ]
    if wrong:
        raise ValueError(
            f"{path}: its tensors do not fit the architecture that its record names ({name_few(wrong)}); the file was "
            "put together from two models, or is damaged"
        )
    check_finite(tensors, path)


def matches_shape_and_kind(value: Tensor | None, expected: Tensor) -> bool:
    """Whether a file's tensor is there and has the shape and the kind of number (whole, fraction) of a network's."""
    if value is None or value.shape != expected.shape:
        return False
    return value.is_floating_point() == expected.is_floating_point()


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

    seals.check_seal(path, "a checkpoint of Rales", needed=False)
    check_unpacked_size(path)
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
    tensors = {}
    if isinstance(stored, dict):
        tensors = {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds {type(stored).__name__} without tensors, expected a state dict")

    # a pickle may state any layout and size of a tensor, whatever it stores
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError(f"{path}: tensor {name} is sparse, quantized or without values; expected plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: tensor {name} claims {value.numel()} values and holds fewer; it was not read")
    return tensors, {}


def check_unpacked_size(path: Path) -> None:
    """Pickle of torch: ValueError for a zip that unpacks to much more than itself, as torch packs nothing."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(member.file_size for member in packed.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged or not a torch checkpoint ({error}); fetch or copy it again") from error
    if unpacked > 2 * path.stat().st_size + 2**20:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes that unpack to {unpacked}, so it was not read; torch packs nothing: "
            "ask its maker for a safetensors file or bare state dict"
        )


def write_reference_file(
    folder: Path, tensors: dict[str, Tensor], epoch: int, *, unit: tuple[int, int], patch: tuple[int, int]
) -> Path:
    """State dict of an M2D network -> a full pre-training file as nttcslab/m2d saves it, without optimiser state.

    It is sealed as zip files are. That code takes the sizes of input and patch from the folder's name. -> the file.
    """
    name = f"m2d_vit-{unit[0]}x{unit[1]}p{patch[0]}x{patch[1]}-rales"
    path = folder / name / f"checkpoint-{epoch}.pth"
    model = {key: value.detach().cpu().clone() for key, value in tensors.items()}
    about = {"epoch": epoch, "args": argparse.Namespace(input_size=unit, patch_size=patch)}
    with atomic_write(path) as beside:
        with beside.open("wb") as file:  # given a name, torch would keep it inside
            torch.save({"model": model, **about}, file)
        seals.seal_zip(beside)
    return path


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Safetensors file -> (name -> tensor, metadata); one that Rales wrote must still be what it wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            seals.check_seal(path, "a checkpoint of Rales", needed="rales" in metadata)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or cut safetensors file ({error}); copy it again") from error


def encoder_tensors(tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Any accepted naming -> the encoder's own names, low-rank updates added to what they change; a file without the
    landmarks of a ViT is a sentence."""
    prefix = next((p for p in PREFIXES if f"{p}cls_token" in tensors), "")
    encoder = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    landmarks = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}
    missing = [name for name in landmarks if name not in encoder]
    if missing:
        raise ValueError(
            f"{path}: a checkpoint of another architecture: {', '.join(missing)} missing among its {len(tensors)} "
            f"tensors (it starts with {', '.join(list(tensors)[:3])}); expected an M2D encoder (see `rales weights`)"
        )
    for name, axes in landmarks.items():
        shape = tuple(encoder[name].shape)
        if len(shape) != axes or 0 in shape:
            raise ValueError(
                f"{path}: {name} has the shape {shape}, expected {axes} sizes above 0 as in an M2D encoder; the file "
                "is damaged or of another architecture"
            )
    return merge_low_rank_updates(encoder)


def default_heads(dim: int) -> int:
    """Width -> heads where a file says nothing: ViTs have 64 features a head, miniatures 16."""
    return dim // 64 if dim % 64 == 0 else max(dim // 16, 1)


def unit_frames_of_name(path: str | os.PathLike[str], columns: int, patch_frames: int) -> int:
    """Frames of one input unit: from the name of a public release if it fits the table's columns, else from them.

    Only the name tells 80x1001 from 80x992, both 62 columns of 16 frames.
    """
    path = Path(path)
    for name in (path.parent.name, path.stem):
        match = re.search(r"-(\d+)x(\d+)p(\d+)x(\d+)", name)
        if match and int(match[2]) // patch_frames == columns:
            return int(match[2])
    return columns * patch_frames


def name_few(names: Iterable[str]) -> str:
    """Names -> the first three of them in words."""
    names = list(names)
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
