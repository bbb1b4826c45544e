"""Files given with --weights that are made to break their reader: a sentence that names the file, at once."""

import argparse
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rales.models import M2D, ViT, load_m2d
from rales.models.m2d_checkpoints import load_m2d_finetuned
from rales.models.pretrained_backbones import ast_tensors, cnn_tensors, resnest_tensors, resnet_tensors
from tests import tiny
from tests.attack.forked import commands

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], object]
LARGEST = 99_999_999


def encoder() -> Tensors:
    """-> an encoder of width 16 and depth 2, as public files have it."""
    torch.manual_seed(0)
    return dict(ViT(16, 2, 2, unit_frames=64, patch=(16, 16)).state_dict())


def put(name: str, value: Tensor) -> Change:
    return lambda tensors: tensors.update({name: value})


def spread(name: str) -> Change:
    """A tensor of few values that claims a million million."""
    return lambda tensors: tensors.update({name: torch.zeros(1).expand(10**12)})


ENCODERS: dict[str, Change] = {
    "pos0d": put("pos_embed", torch.tensor(1.0)),
    "pos1d": put("pos_embed", torch.zeros(3)),
    "pos_none": put("pos_embed", torch.zeros(1, 0, 16)),
    "patch0": put("patch_embed.proj.weight", torch.zeros(16, 1, 0, 16)),
    "patch1d": put("patch_embed.proj.weight", torch.zeros(16)),
    "patch_high": put("patch_embed.proj.weight", torch.zeros(16, 1, 999, 1)),
    "cls0d": put("cls_token", torch.tensor(1.0)),
    "cls1d": put("cls_token", torch.zeros(16)),
    "cls_none": put("cls_token", torch.zeros(1, 1, 0)),
    "cls_odd": put("cls_token", torch.zeros(1, 1, 17)),
    "cls_wide": put("cls_token", torch.zeros(1, 1, 1_000_000)),
    "fc1_1d": put("blocks.0.mlp.fc1.weight", torch.zeros(64)),
    "fc1_long": put("blocks.0.mlp.fc1.weight", torch.zeros(1_000_000, 1)),
    "depth": put(f"blocks.{LARGEST}.mlp.fc1.weight", torch.zeros(1)),
    "block_in_words": put("blocks.last.mlp.fc1.weight", torch.zeros(1)),
    "block_negative": put("blocks.-1.mlp.fc1.weight", torch.zeros(1)),
    "block_digits": put(f"blocks.{'9' * 5000}.mlp.fc1.weight", torch.zeros(1)),
    "block_gone": lambda t: [t.pop(name) for name in list(t) if name.startswith("blocks.0.attn")],
    "whole_numbers": lambda t: t.update({name: value.long() for name, value in t.items()}),
    "nan": put("norm.weight", torch.full((16,), float("nan"))),
}
PREDICTORS: dict[str, Change] = {
    "decoder0d": put("decoder_embed.weight", torch.tensor(1.0)),
    "decoder_other": put("decoder_embed.weight", torch.zeros(8, 7)),
    "decoder_wide": put("decoder_embed.weight", torch.zeros(100_000, 16)),
    "decoder_depth": put(f"decoder_blocks.{LARGEST}.norm1.weight", torch.zeros(8)),
    "decoder_gone": lambda t: [t.pop(name) for name in list(t) if name.startswith("decoder_blocks.")],
    "decoder_partly": lambda t: t.pop("decoder_pred.weight"),
    "target_partly": lambda t: t.pop("target_norm.weight"),
}
METADATA = {
    "heads0": {"heads": "0"},
    "heads7": {"heads": "7"},
    "heads_words": {"heads": "many"},
    "heads_digits": {"heads": "9" * 5000},
    "unit0": {"unit_frames": "0"},
    "unit_long": {"unit_frames": "999999999"},
    "long_input": {"long_input": "sideways"},
    "record_list": {"rales": "[]"},
    "record_nested": {"rales": "[" * 100_000},
    "record_config": {"rales": '{"config": [1]}'},
    "record_sections": {"rales": '{"config": {"encoder": {"heads": [1]}, "model": 5}}'},
}


def write_encoder(path: Path, change: Change, metadata: dict[str, str] | None = None) -> Path:
    tensors = encoder()
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata=metadata)
    return path


def write_full(path: Path, change: Change) -> Path:
    """A full pre-training file with something wrong."""
    torch.manual_seed(0)
    network = M2D(ViT(16, 2, 2, unit_frames=64), decoder_dim=8, decoder_depth=1, decoder_heads=2)
    tensors = dict(network.state_dict())
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def nothing(tensors: Tensors) -> None:
    pass


def write_pickle(path: Path, kind: str) -> Path:
    """A file of torch's own form with something wrong."""
    whole: Any = {"model": encoder(), "args": argparse.Namespace()}
    if kind == "bomb":
        torch.save(whole, path.with_suffix(".plain"))
        with zipfile.ZipFile(path.with_suffix(".plain")) as plain, zipfile.ZipFile(path, "w", 8) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name) + bytes(50_000_000 * name.endswith("/data/0")))
        return path
    if kind == "expanded":
        spread("pos_embed")(whole["model"])
    if kind == "numbers_for_names":
        whole = {5: torch.zeros(1), None: torch.zeros(1)}
    if kind == "sparse":
        whole["model"]["norm.weight"] = torch.zeros(16).to_sparse()
    if kind == "nested":
        for _ in range(300):
            whole = {"model": whole}
    if kind == "cut":
        torch.save(whole, path)
        path.write_bytes(path.read_bytes()[:2000])
        return path
    if kind == "code":
        path.write_bytes(pickle.dumps({"model": Code()}))
        return path
    torch.save(whole, path)
    return path


class Code:
    """What a pickle would run when it is opened."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("exit 1",)


PICKLES = ("bomb", "expanded", "numbers_for_names", "sparse", "nested", "cut", "code")


def every_file(folder: Path) -> list[Path]:
    """-> all of them as files."""
    folder.mkdir()
    found = [write_encoder(folder / f"{name}.safetensors", change) for name, change in ENCODERS.items()]
    found += [write_encoder(folder / f"{name}.safetensors", nothing, about) for name, about in METADATA.items()]
    return found + [write_pickle(folder / f"{kind}.pth", kind) for kind in PICKLES]


def test_what_is_changed_here_can_be_read_unchanged(tmp_path: Path) -> None:
    assert load_m2d(write_encoder(tmp_path / "e.safetensors", nothing)).depth == 2
    assert M2D.from_checkpoint(write_full(tmp_path / "f.safetensors", nothing)).decoder_heads == 1
    torch.save({"model": encoder()}, tmp_path / "e.pth")
    assert load_m2d(tmp_path / "e.pth").dim == 16


def test_hostile_encoders_are_sentences(tmp_path: Path) -> None:
    for path in every_file(tmp_path / "files"):
        for read in (load_m2d, M2D.from_checkpoint):
            with pytest.raises(ValueError, match=f"{path.name}: "):
                pytest.fail(f"{path.name} was read: {read(path)}")


@pytest.mark.parametrize("name", PREDICTORS)
def test_hostile_predictors_are_sentences(name: str, tmp_path: Path) -> None:
    path = write_full(tmp_path / f"{name}.safetensors", PREDICTORS[name])
    with pytest.raises(ValueError, match=f"{name}.safetensors: "):
        M2D.from_checkpoint(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1, 2, 64), "blocks.0.x": torch.zeros(1)},
        {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1, 14, 0), "blocks.0.x": torch.zeros(1)},
        {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1, 14, 64), f"blocks.{LARGEST}.x": torch.zeros(1)},
        {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1, 14, 64), "blocks.x": torch.zeros(1)},
        {f"blocks.0.attn.{part}.weight": torch.zeros(size) for part, size in (("q", 1), ("k", 2), ("v", 3))},
        {f"blocks.0.attn.{part}.weight": torch.tensor(1.0) for part in "qkv"},
        {"module.head.mlp.mlp.0.weight": torch.zeros(1), "module.head.norm.running_mean": torch.zeros(1)},
        {"conv1.weight": torch.zeros(3)},
    ],
)
def test_hostile_files_of_other_systems_are_sentences(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    readers: list[Callable[[Path], object]] = [ast_tensors, cnn_tensors, resnest_tensors, load_m2d_finetuned]
    for read in [*readers, lambda path: resnet_tensors(path, 34)]:
        with pytest.raises(ValueError, match=r"x\.safetensors: "):
            read(path)


@pytest.mark.slow
def test_the_commands_on_hostile_weights(tmp_path: Path) -> None:
    data, files = tiny.write_folder(tmp_path / "data"), every_file(tmp_path / "files")
    wrong = []
    with commands(tmp_path, tmp_path / "cache") as run:
        for words in (["train", "m2d_fusion"], ["pretrain"], ["layers"]):
            for path in files:
                ended = run.run(*words, "--data", data, "--weights", path, "--out", tmp_path / "out")
                if ended.how != "sentence" or path.name not in ended.sentence:
                    wrong.append(f"{words[0]} {path.name}: {ended.how}: {ended.err[-500:]}")
    print(f"\n--weights: {3 * len(files)} commands on {len(files)} hostile files, {len(wrong)} not a sentence")
    assert not wrong, "\n".join(wrong)
