"""Every kind of broken input through the command itself: a sentence that names the file, the right exit code, no
traceback, and the other recordings unaffected."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from rales.cli import main
from rales.training import run_folder
from tests.command import command

GOOD = ("101_1b1_Al_sc_Meditron", "102_1b1_Ar_sc_Litt3200", "103_2b2_Ar_mc_LittC2SE", "104_1b1_Al_sc_AKGC417L")
BAD = GOOD[0]
TINY = ["--size", "tiny", "--epochs", "1", "--set", "model.dim=24", "--set", "model.depth=2", "--set", "model.heads=2",
        "--set", "model.layers=1,2", "--set", "audio.duration_s=2"]  # fmt: skip


def good_folder(base: Path) -> Path:
    """Four recordings of two cycles (normal, crackle) in the official layout, two of them train."""
    data = base / "data"
    data.mkdir()
    for name in GOOD:
        noise = 0.1 * np.random.default_rng(len(name)).standard_normal(16000)
        soundfile.write(data / f"{name}.wav", noise, 4000, subtype="PCM_16")
        (data / f"{name}.txt").write_text("0\t2.0\t0\t0\n2.0\t4.0\t1\t0\n")
    lines = [f"{name}\t{side}\r\n" for name, side in zip(GOOD, ("train", "train", "test", "test"), strict=True)]
    (data / "ICBHI_challenge_train_test.txt").write_text("".join(lines))
    return data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    return good_folder(tmp_path)


def annotate(text: str, suffix: str = ".txt") -> Callable[[Path], object]:
    return lambda data: (data / f"{BAD}{suffix}").write_text(text)


def with_nan(data: Path) -> None:
    sound = np.zeros(16000, np.float32)
    sound[5000] = np.nan
    soundfile.write(data / f"{BAD}.wav", sound, 4000, subtype="FLOAT")


def truncate(data: Path) -> None:
    file = data / f"{BAD}.wav"
    file.write_bytes(file.read_bytes()[:9000])


def no_samples(data: Path) -> None:
    soundfile.write(data / f"{BAD}.wav", np.zeros(0), 4000, subtype="PCM_16")


def unknown_device(data: Path) -> None:
    for suffix in (".wav", ".txt"):
        (data / f"{BAD}{suffix}").rename(data / f"101_1b1_Al_sc_Phone{suffix}")


def no_split(data: Path) -> None:
    split = data / "ICBHI_challenge_train_test.txt"
    split.write_text("".join(line + "\n" for line in split.read_text().splitlines() if line and BAD not in line))


def duplicate(data: Path) -> None:
    sound, rate = soundfile.read(data / f"{BAD}.wav")
    soundfile.write(data / f"{BAD}.flac", sound, rate)


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing txt": (lambda data: (data / f"{BAD}.txt").unlink(), BAD),
    "3 columns": (annotate("0\t2.0\t0\n2.0\t4.0\t1\t0\n"), f"{BAD}.txt, line 1"),
    "text in a number": (annotate("0\t2.0\t0\t0\n2.0\tfour\t1\t0\n"), f"{BAD}.txt, line 2"),
    "end before start": (annotate("2.0\t1.0\t0\t0\n"), f"{BAD}.txt, line 1"),
    "end far past the file": (annotate("0\t2.0\t0\t0\n2.0\t40.0\t1\t0\n"), f"{BAD}.txt, line 2"),
    "NaN samples": (with_nan, f"{BAD}.wav"),
    "zero-length wav": (no_samples, f"{BAD}.wav"),
    "truncated wav": (truncate, f"{BAD}.wav"),
    "a txt as wav": (annotate("hello\n", ".wav"), f"{BAD}.wav"),
    "unknown device": (unknown_device, "101_1b1_Al_sc_Phone"),
    "in no split": (no_split, BAD),
    "duplicate": (duplicate, BAD),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_check_names_the_file_and_counts_the_others(
    breakage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, named = BREAKAGES[breakage]
    break_it(folder)
    code, out, _ = command(capsys, "check", folder, "--json")
    found = json.loads(out)
    assert code == 1
    assert any(named in problem for problem in found["problems"]), found["problems"]
    assert found["recordings"] >= 3
    assert found["splits"]["test"]["cycles"] == 4


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_training_stops_with_a_sentence_unless_told_to_leave_it_out(
    breakage: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, named = BREAKAGES[breakage]
    break_it(folder)
    code, out, err = command(capsys, "train", "m2d_fusion", "--data", folder, "--out", tmp_path / "run", *TINY)
    assert code == 1
    assert named in err
    assert out == ""
    assert not (tmp_path / "run" / "done").exists()
    words = ["train", "m2d_fusion", "--data", folder, "--out", tmp_path / "run", *TINY, "--skip-damaged"]
    code, _, err = command(capsys, *words)
    assert (code, (tmp_path / "run" / "done").exists()) == (0, True), err


@pytest.mark.parametrize("breakage", ["NaN samples", "zero-length wav", "truncated wav", "a txt as wav", "3 columns"])
def test_predict_lists_the_bad_recording_and_answers_for_the_others(
    breakage: str, folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, named = BREAKAGES[breakage]
    break_it(folder)
    code, _, err = command(capsys, "predict", folder, "--model", trained, "--out", tmp_path / "cycles.csv")
    assert code == 1
    assert named in err
    text = (tmp_path / "cycles.csv").read_text()
    assert BAD not in text
    assert all(name in text for name in GOOD[1:])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a good folder."""
    base = tmp_path_factory.mktemp("trained")
    words = ["train", "m2d_fusion", "--data", str(good_folder(base)), "--out", str(base / "run"), *TINY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(base / "cache"))
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert not ended.value.code
    return base / "run"


def test_empty_and_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for word, where in (("check", "empty"), ("check", "nowhere")):
        code, _, err = command(capsys, word, tmp_path / where)
        assert code == 1
        assert where in err


def test_unwritable_output_folder(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = command(capsys, "train", "m2d_fusion", "--data", folder, "--out", tmp_path / "file" / "run", *TINY)
    assert (code, str(tmp_path / "file" / "run") in err) == (1, True), err
    out = tmp_path / "file" / "cycles.csv"
    code, _, err = command(capsys, "predict", folder, "--model", trained, "--out", out)
    assert (code, str(tmp_path / "file") in err) == (1, True), err


def test_full_disk_while_writing_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "m2d_fusion", "--data", folder, "--out", tmp_path / "run", *TINY, "--set", "train.epochs=2"]

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_file", full)
        code, _, err = command(capsys, *words)
    assert (code, "the disk is full" in err, "safetensors" in err) == (1, True, True), err
    assert not list((tmp_path / "run").glob(".*.part"))
    code, _, err = command(capsys, *words)  # room was made: the same command goes on
    assert (code, (tmp_path / "run" / "done").exists()) == (0, True), err


def test_full_disk_while_writing_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    code, _, err = command(capsys, "train", "m2d_fusion", "--data", folder, "--out", tmp_path / "run", *TINY)
    assert (code, "RALES_CACHE" in err) == (1, True), err
    assert not list((tmp_path / "cache").rglob("waves.npy"))


def test_checkpoints_that_are_none_of_ours(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(marker),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "resnet.pth")
    save_file({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "resnet.safetensors")
    for name in ("evil.pth", "resnet.pth", "resnet.safetensors"):
        words = ["train", "m2d_fusion", "--data", folder, "--out", tmp_path / "run", "--weights", tmp_path / name]
        code, _, err = command(capsys, *words, "--epochs", "1")
        assert (code, name in err) == (1, True), err
    assert not marker.exists()
    code, _, err = command(capsys, "predict", folder, "--model", tmp_path / "resnet.safetensors")
    assert (code, "resnet.safetensors" in err) == (1, True), err

    tensors, record = run_folder.read_checkpoint(trained / "best.safetensors")
    record["config"]["model"]["depth"] = 3
    run_folder.save_tensors(tmp_path / "mixed.safetensors", tensors, record)
    code, _, err = command(capsys, "predict", folder, "--model", tmp_path / "mixed.safetensors")
    assert (code, "mixed.safetensors" in err) == (1, True), err
