"""Commands are killed, run on full disks and interrupted, given again, and leave what undisturbed ones leave."""

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from rales.files.writers import write_json
from tests import tiny
from tests.attack import cases, folders, full_disk, interrupt, kill, trials

SHARE = float(os.environ.get("RALES_ATTACK", "1"))


def chosen(names: list[str]) -> list[str]:
    """-> those of the names that RALES_ATTACK_CASES asks for."""
    asked = os.environ.get("RALES_ATTACK_CASES", "")
    return [name for name in names if name in asked.split(",")] if asked else names


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_inputs(tmp_path_factory.mktemp("attack") / "inputs")


def tell(capsys: pytest.CaptureFixture[str], what: str, found: list[trials.Figures], started: float) -> None:
    """Print the figures, and fail if something is wrong."""
    minutes, count = (time.perf_counter() - started) / 60, sum(figures.trials for figures in found)
    with capsys.disabled():
        print(
            f"\n{what}: {count} trials, {trials.failed(found)} failures, {minutes:.1f} minutes\n{trials.table(found)}"
        )
    assert count
    assert trials.failed(found) == 0


@pytest.mark.slow
def test_killed(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    found = trials.attack_all("tests.attack.kill", chosen(list(cases.CASES)), inputs, SHARE)
    tell(capsys, "killed at file events, in the middle of writes and at any moment", found, started)


@pytest.mark.slow
def test_full_disk(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started, before = time.perf_counter(), full_disk.words_that_mount()
    found = trials.attack_all("tests.attack.full_disk", chosen(full_disk.CASES), inputs, SHARE, before=before)
    way = "file systems" if before else "no file system can be mounted here, so files of limited size instead:"
    tell(capsys, f"too little room, {way} of {full_disk.KB[0]} to {full_disk.KB[-1]} KB", found, started)


@pytest.mark.slow
def test_interrupted(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    found = trials.attack_all("tests.attack.interrupt", chosen(interrupt.CASES), inputs, SHARE)
    tell(capsys, "INT, TERM and HUP at any moment", found, started)


def test_a_dozen_kills(tmp_path: Path) -> None:
    """The attack in seconds: training and a batch job are killed at some events, in a write and at some moment."""
    data = tiny.write_folder(tmp_path / "data")
    pd.DataFrame({"path": [str(path) for path in sorted(data.glob("*.wav"))]}).to_csv(tmp_path / "manifest.csv")
    (tmp_path / "run").mkdir()
    tiny.save(model := tiny.model(), tmp_path / "run" / "best.safetensors")
    write_json(tmp_path / "run" / "config.json", tiny.about(model))
    (tmp_path / "run" / "done").touch()
    (tmp_path / "ready").touch()
    found = trials.attack_here("tests.attack.kill", ["train", "batch"], tmp_path, kill.QUICK)
    assert [figures.trials for figures in found] == [6, 6], json.dumps([vars(figures) for figures in found])
    assert trials.failed(found) == 0, trials.table(found)


def test_the_attack_sees_what_is_wrong(tmp_path: Path) -> None:
    """A command that leaves a file behind and another result when it is given again is found out."""
    undisturbed = {"run": "a folder", "run/done": "x", "run/a.csv": "1"}
    other, more = folders.differences({"run": "a folder", "run/a.csv": "2", ".part": "x"}, undisturbed)
    assert other == ["run/done is missing", "run/a.csv"]
    assert more == [".part"]
    (tmp_path / "cut.json").write_text('{"a": ')
    (tmp_path / "a.csv").write_text("1,")
    left = folders.left_by(tmp_path)
    assert [name.split()[0] for name in folders.half_written(left, {"a.csv": "whole"})] == ["a.csv", "cut.json"]
    assert folders.under_way({".a.part": "x", ".lock": "", "tmp/x": ""}, {}) == [".a.part", "tmp/x"]
