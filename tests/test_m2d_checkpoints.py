"""Checkpoint files: every published layout loads to the same encoder, everything else is a sentence."""

import argparse
import contextlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from rales.audio import M2DLogMel
from rales.models import load_m2d, load_m2d_finetuned

FULL = "m2d_vit_tiny48-80x608p16x16-250101-mr7/checkpoint-1.pth"
LEGACY = "m2d_vit_tiny48-80x608p16x16-221006-mr7_legacy/checkpoint-1.pth"
ENCODER_ONLY = "m2d_vit_tiny48-80x608p16x16-250101-mr7_enconly/checkpoint-1.pth"
STACKED = "m2d_vit_tiny48-80x608p16x16-250101-mr7_ft_stacked/weights_ep1.pth"
FLAT = "m2d_vit_tiny48-80x608p16x16-250101-mr7_ft_flat/weights_ep1.pth"
LAYOUTS = (FULL, LEGACY, ENCODER_ONLY, STACKED, FLAT, "full.safetensors", "enconly.safetensors")
WAVES = ("breath_2p7s", "noise_8s", "clicks_0p2s")


@pytest.fixture(scope="module")
def checkpoints(golden: Path) -> Path:
    return golden / "checkpoints"


@pytest.fixture(scope="module")
def plain(checkpoints: Path) -> dict[str, Tensor]:
    return load_file(checkpoints / "enconly.safetensors")


# What loads


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_encoder(checkpoints: Path, plain: dict[str, Tensor], name: str) -> None:
    encoder = load_m2d(checkpoints / name)
    stats = (-7.1, 4.2) if name == LEGACY else (-6.8, 4.1)
    assert (encoder.dim, encoder.depth, encoder.heads, encoder.mlp_ratio) == (48, 3, 3, 4)
    assert (encoder.mel_bins, encoder.unit_frames, encoder.patch) == (80, 608, (16, 16))
    assert not encoder.training
    assert encoder.norm_stats.tolist() == pytest.approx(stats)
    loaded = encoder.state_dict()
    assert set(loaded) == set(plain)
    assert all(torch.equal(loaded[key], plain[key]) for key in plain if key != "norm_stats")


@pytest.mark.parametrize("name", [FULL, ENCODER_ONLY])
def test_a_file_that_was_renamed_and_moved(checkpoints: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(checkpoints / name, tmp_path / "weights.bin")
    encoder = load_m2d(tmp_path / "weights.bin")
    assert (encoder.unit_frames, encoder.heads) == (608, 3)
    assert torch.equal(encoder.state_dict()["cls_token"], load_m2d(checkpoints / name).state_dict()["cls_token"])


def test_a_safetensors_file_under_another_ending(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoints / "enconly.safetensors", tmp_path / "checkpoint.pth")
    assert load_m2d(str(tmp_path / "checkpoint.pth")).depth == 3


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "module.ar.runtime.backbone."])
def test_prefixes_are_taken_off(plain: dict[str, Tensor], tmp_path: Path, prefix: str) -> None:
    tensors = {prefix + key: value for key, value in plain.items()} | {"head.weight": torch.zeros(4, 48)}
    save_file(tensors, tmp_path / "prefixed.safetensors")
    loaded = load_m2d(tmp_path / "prefixed.safetensors").state_dict()
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)


def test_only_the_name_tells_1001_frames_from_992(plain: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {**plain, "pos_embed": torch.zeros(1, 1 + 5 * 62, 48)}
    folder = tmp_path / "m2d_vit_tiny48-80x1001p16x16-250101-mr7"
    folder.mkdir()
    for path, unit_frames in (
        (folder / "checkpoint-1.safetensors", 1001),
        (tmp_path / "tiny-80x1001p16x16.safetensors", 1001),
        (tmp_path / "tiny-80x608p16x16.safetensors", 992),  # a name that does not fit the tensors
        (tmp_path / "plain.safetensors", 992),
    ):
        save_file(tensors, path)
        encoder = load_m2d(path)
        assert (encoder.unit_frames, encoder.columns) == (unit_frames, 62)
        assert encoder(torch.zeros(1, 1, 80, 1000))[-1].shape[1] % 5 == 0


def test_heads_come_from_argument_metadata_or_habit(plain: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(plain, path)
    assert load_m2d(path).heads == 3
    assert load_m2d(path, heads=6).heads == 6
    save_file(plain, path, metadata={"heads": "4"})
    assert load_m2d(path).heads == 4


# Fine-tuned files with their head


@pytest.mark.parametrize(("name", "layout"), [(STACKED, "stacked"), (FLAT, "flat")])
def test_finetuned_logits_equal_the_reference(checkpoints: Path, golden: Path, name: str, layout: str) -> None:
    model = load_m2d_finetuned(checkpoints / name)
    assert model.layout == layout
    wanted = load_file(golden / "encoder" / "outputs.safetensors")
    mean, std = model.encoder.norm_stats
    for wave_name in WAVES:
        wave = torch.from_numpy(np.load(golden / "frontend" / "waveforms.npz")[wave_name])[None]
        with torch.inference_mode():
            logits = model((M2DLogMel()(wave) - mean) / std)
        found = float((logits - wanted[f"finetuned_{layout}.{wave_name}.logits"]).abs().max())
        assert found < 5e-6, wave_name


def test_a_file_without_a_head_is_a_sentence(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match=r"enconly.*no fine-tuned head \(module.head.*load_m2d reads the encoder"):
        load_m2d_finetuned(checkpoints / ENCODER_ONLY)


# What does not load


class Bomb:
    """Pickled, it asks to run code when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_cannot_run_code(plain: dict[str, Tensor], tmp_path: Path, by_torch: bool, protocol: int) -> None:
    path, marker = tmp_path / "checkpoint-1.pth", tmp_path / "it ran"
    value = {"model": plain, "args": argparse.Namespace(), "extra": Bomb(marker)}
    if by_torch:
        torch.save(value, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(value, protocol=protocol))
    with pytest.raises(ValueError, match=r"checkpoint-1.pth: ") as told:
        load_m2d(path)
    assert not marker.exists()
    if by_torch and protocol == 2:
        assert "could run code when opened, so it was not read" in str(told.value)
    if by_torch:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists()  # so the file was one that would have


@pytest.mark.parametrize("how", ["cut", "page", "words", "sound", "zeros", "empty"])
@pytest.mark.parametrize("name", [FULL, "enconly.safetensors"])
def test_a_damaged_file_is_a_sentence_that_names_it(checkpoints: Path, tmp_path: Path, name: str, how: str) -> None:
    content = (checkpoints / name).read_bytes()
    path = tmp_path / f"weights{Path(name).suffix}"
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "page": b"<html>404: not found</html>\n",
            "words": b"abc def\n",
            "sound": b"RIFF" + bytes(100),
            "zeros": bytes(len(content)),
            "empty": b"",
        }[how]
    )
    with pytest.raises(ValueError, match=r"weights\.(pth|safetensors): damaged"):
        load_m2d(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 440_000), value=st.integers(0, 255))
def test_one_wrong_byte_never_escapes_as_anything_but_a_sentence(
    checkpoints: Path, tmp_path: Path, place: int, value: int
) -> None:
    content = bytearray((checkpoints / ENCODER_ONLY).read_bytes())
    content[place % len(content)] = value
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):  # a byte in the middle of a tensor is not noticed
        load_m2d(path)


def test_a_missing_file_and_a_folder(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.pth: no such checkpoint file"):
        load_m2d(tmp_path / "nothing.pth")
    with pytest.raises((FileNotFoundError, IsADirectoryError), match=tmp_path.name):
        load_m2d(tmp_path)


def test_another_architecture_is_a_sentence(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"linear.pth: a checkpoint of another architecture: cls_token.*weight, bias"):
        load_m2d(tmp_path / "linear.pth")


@pytest.mark.parametrize("value", [{"epoch": 3}, [1, 2], torch.zeros(3)])
def test_a_pickle_without_a_state_dict_is_a_sentence(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: holds \w+ without tensors, expected a state dict"):
        load_m2d(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("blocks.1.attn.qkv.weight", None),
        ("norm.weight", torch.zeros(47)),
        ("pos_embed", torch.zeros(1, 77, 48)),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(
    plain: dict[str, Tensor], tmp_path: Path, key: str, value: Tensor | None
) -> None:
    tensors = {name: tensor for name, tensor in plain.items() if name != key}
    save_file(tensors | ({key: value} if value is not None else {}), tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=rf"odd.safetensors: not a checkpoint of an M2D encoder.*{key}"):
        load_m2d(tmp_path / "odd.safetensors")
