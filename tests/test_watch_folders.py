"""`rales predict --watch`: whole recordings, each once, also after a stop; and a recording from standard input."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from rales.cli import main
from rales.data import read_cycles
from rales.errors import FileError
from rales.evaluation.predictions import Decision
from rales.inference.predictor import Predictor
from rales.jobs import watch_folders
from tests import tiny
from tests.command import command


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tiny.write_folder(tmp_path_factory.mktemp("arriving") / "data")
    return [Path(path) for path in read_cycles(folder)["path"].unique()[:3]]


Look = Callable[[], object]


def watch(
    model: Predictor, folder: Path, out: Path, looks: list[Look | None], **how: Any
) -> tuple[dict[str, Any], list[str]]:
    """Run a watch in which each of `looks` happens between two looks into the folder, Ctrl-C after the last."""
    left: Iterator[Look | None] = iter(looks)
    told: list[str] = []

    def wait(_: float) -> None:
        step = next(left, interrupt)
        if step is not None:
            step()

    def interrupt() -> None:
        raise KeyboardInterrupt

    decision = how.pop("decision", None) or model.decision()
    return watch_folders.answer_arriving(model, [folder], out, decision, tell=told.append, wait=wait, **how), told


def test_recordings_are_answered_once_when_they_are_whole_and_a_restart_goes_on(
    sounds: list[Path], model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "inbox", tmp_path / "out" / "cycles.csv"
    folder.mkdir()
    one, two, three = sounds
    whole = two.read_bytes()
    half = folder / two.name

    def rows() -> list[str]:
        return [Path(path).name for path in pd.read_csv(out)["path"].unique()] if out.exists() else []

    seen: list[list[str]] = []
    looks: list[Look | None] = [
        lambda: half.write_bytes(whole[:1000]),  # somebody begins to copy
        lambda: half.write_bytes(whole[:2000]),
        lambda: half.write_bytes(whole[:3000]),
        lambda: half.write_bytes(whole),
        lambda: seen.append(rows()),  # as before once
        None,
        lambda: seen.append(rows()),
        lambda: shutil.copy(one, folder / "deeper.part"),
        lambda: os.renames(folder / "deeper.part", folder / "deeper" / one.name),
        None,
        None,
    ]
    counts, told = watch(model, folder, out, looks)
    assert seen == [[], [two.name]]
    assert rows() == [two.name, one.name]
    assert (counts["recordings"], counts["failed"]) == (2, 0)
    assert counts["cycles"] == len(pd.read_csv(out))
    assert told == [f"{folder / two.name}: 1 cycle", f"{folder / 'deeper' / one.name}: 1 cycle"]
    assert "diagnosis" in counts["notice"]

    shutil.copy(three, folder)
    again, told = watch(model, folder, out, [None, None, None])
    assert told == [f"{out}: goes on; 2 recordings answered before", f"{folder / three.name}: 1 cycle"]
    assert again["recordings"] == 1
    expected = model.predict([half, folder / "deeper" / one.name, folder / three.name])
    found = pd.read_csv(out)
    assert found["path"].tolist() == expected["path"].tolist()
    assert found["p_wheeze"].tolist() == pytest.approx(expected["p_wheeze"].tolist(), abs=1e-5)
    assert sorted(path.name for path in out.parent.glob("[!.]*")) == ["cycles.csv", "cycles.csv.watch.json"]

    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    before = out.read_bytes()
    for other in (Path("inbox"), Path("link"), Path("out/../inbox")):
        assert watch(model, other, out, [None, None, None])[0]["recordings"] == 0
    out.write_bytes(before + found["path"][0].encode()[:9])  # killed while rows were added
    (out.parent / ".cycles.csv.adding").write_text(f"{len(before)}\n")
    assert watch(model, Path("inbox"), out, [None])[0]["recordings"] == 0
    assert out.read_bytes() == before


def test_what_cannot_be_read_is_told_once_and_tried_again_when_it_changes(
    sounds: list[Path], model: Predictor, tmp_path: Path
) -> None:
    folder, out = tmp_path / "inbox", tmp_path / "cycles.csv"
    folder.mkdir()
    broken = folder / "broken.wav"
    broken.write_bytes(b"no sound")
    (folder / "empty.wav").touch()  # whoever writes it has only begun
    counts, told = watch(model, folder, out, [None] * 5)
    assert (counts["failed"], len(told), out.exists()) == (1, 1, False)
    assert "broken.wav" in told[0]
    counts, told = watch(
        model, folder, out, [None, None, None, lambda: shutil.copy(sounds[0], broken), None, None, None]
    )
    assert counts["failed"] == 0
    assert told[1:] == [f"{broken}: 1 cycle"]


def test_a_stop_while_a_recording_is_answered_leaves_whole_ones_only(
    sounds: list[Path], model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "inbox", tmp_path / "cycles.csv"
    folder.mkdir()
    shutil.copy(sounds[0], folder)
    watch(model, folder, out, [None, None])
    before = out.read_bytes()
    shutil.copy(sounds[1], folder)

    def stopped(*table: Any, **how: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rales.jobs.watch_folders.format_csv", stopped)
        counts, _ = watch(model, folder, out, [None] * 4)
    assert counts["recordings"] == 0
    assert out.read_bytes() == before
    assert watch(model, folder, out, [None, None])[0]["recordings"] == 1
    assert pd.read_csv(out)["path"].nunique() == 2


def test_another_job_and_another_table_are_refused(sounds: list[Path], model: Predictor, tmp_path: Path) -> None:
    folder, out = tmp_path / "inbox", tmp_path / "cycles.csv"
    folder.mkdir()
    watch(model, folder, out, [None])
    with pytest.raises(FileError, match="answered with another decision; choose another --out"):
        watch(model, folder, out, [None], decision=Decision(min_confidence=0.9))
    with pytest.raises(FileError, match="answered with another cycles, quality"):
        watch(model, folder, out, [None], cycles="windows", quality=False)
    with watch_folders.claim_table(out), pytest.raises(FileError, match="another process adds to it"):
        watch(model, folder, out, [None])
    (tmp_path / "mine.csv").write_text("path\nanna.wav\n")
    with pytest.raises(FileError, match=r"mine\.csv: is there already, and no mine\.csv\.watch\.json"):
        watch(model, folder, tmp_path / "mine.csv", [None])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        watch(model, folder, out, [folder.rmdir])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--watch", "inbox"], "--watch: expected --out FILE.csv"),
        (["--watch", "inbox", "--out", "a.parquet"], "--watch: expected --out FILE.csv"),
        (["--watch", "inbox", "--out", "a.csv", "--summary", "b.csv"], "--summary does not go with --watch"),
        (["--watch", "nowhere", "--out", "a.csv"], "--watch: nowhere is no folder of this machine"),
        (["--watch", "--manifest", "m.csv", "--out", "a"], "--watch with --manifest"),
    ],
)
def test_the_word_says_what_does_not_go_together(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("inbox").mkdir()
    with pytest.raises(SystemExit, match="2"):
        main(["predict", *words])
    assert said in capsys.readouterr().err


def test_the_word_ends_with_ctrl_c_and_says_what_it_did(
    sounds: list[Path],
    model: Predictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wait(_: float, left: list[None] = [None, None]) -> None:  # noqa: B006
        if not left:
            raise KeyboardInterrupt
        left.pop()

    monkeypatch.setattr("rales.export.load.load_with_engine", lambda *_, **__: model)
    monkeypatch.setitem(watch_folders.answer_arriving.__kwdefaults__ or {}, "wait", wait)
    with pytest.raises(SystemExit, match="0"):
        main(["predict", "--watch", str(sounds[0].parent), "--out", str(tmp_path / "a.csv"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recordings"], printed["failed"]) == (8, 0)
    assert "diagnosis" in printed["notice"]


def test_a_recording_on_standard_input(
    sounds: list[Path], model: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hand_over(content: bytes, *, terminal: bool = False) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal))

    hand_over(sounds[0].read_bytes())
    found = model.predict("-", cycles="windows")
    expected = model.predict(sounds[0], cycles="windows")
    assert found["path"].unique().tolist() == ["-"]
    assert found["p_crackle"].tolist() == expected["p_crackle"].tolist()
    for content, terminal, said in ((b"", False, "holds nothing"), (b"", True, "is a terminal")):
        hand_over(content, terminal=terminal)
        problems: list[str] = []
        model.predict("-", problems)
        assert said in problems[0]

    monkeypatch.setattr("rales.export.load.load_with_engine", lambda *_, **__: model)
    for words in (["-"], ["--cycles", "windows", "-"], ["-", str(sounds[1])]):
        hand_over(sounds[0].read_bytes())
        code, out, err = command(capsys, "predict", *words, "--json")
        assert (code, err.count("Unknown option")) == (0, 0), err
        assert "-" in {row["path"] for row in json.loads(out)["cycles"]}
    code, _, err = command(capsys, "predict", "-", "--modl", "a")
    assert (code, "Unknown option: --modl" in err) == (2, True)
