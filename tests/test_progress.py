"""Bars at a terminal, lines in a log, widgets in a notebook; nothing torn."""

import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rales import cli, progress
from rales.data import read_cycles
from rales.data.corpus import read_corpus
from rales.recipes import m2d_pretrain
from tests import tiny


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("progress") / "data")


def screen_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """-> what is written to stderr from here on: to be called in the test, as pytest has its own until that begins."""
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    return screen


@pytest.mark.parametrize("select", ["last", "test_best"])
def test_training_says_a_line_an_epoch_in_a_log(
    select: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the figures of the test side only where it chooses: whoever watches them chooses by them."""
    recipe = tiny.recipe(f"train.select={select}")
    recipe.run(recipe, read_cycles(data), tmp_path / "run", progress=True, cache_folder=tmp_path)
    lines = capsys.readouterr().err.splitlines()
    number = r"\d+\.\d"
    test = rf", test={number}" if select == "test_best" else ""
    for epoch, line in enumerate(lines, start=1):
        expected = rf"train m2d_fusion: {epoch}/3 epoch \[\d\d:\d\d<\d\d:\d\d, .*loss=\S+, train={number}{test}\]"
        assert re.fullmatch(expected, line), line
    assert len(lines) == 3


def test_pretraining_says_a_line_an_epoch_in_a_log(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    m2d_pretrain.run(tiny.pretraining(), read_corpus([data]), tmp_path / "run", progress=True)
    err = capsys.readouterr().err
    assert "\r" not in err
    assert re.findall(r"^pretrain: (\d+)/9 step \[.*epoch=(\d), loss=\d", err, re.M) == [
        ("3", "1"),
        ("6", "2"),
        ("9", "3"),
    ]


def test_a_log_has_whole_lines_every_so_often_and_quick_jobs_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress.progress_bar(range(5), shown=True, desc="quick", unit="x"))
    assert capsys.readouterr().err == ""
    list(progress.progress_bar(range(2), shown=True, log_every_s=0, desc="slow", unit="x"))
    err = capsys.readouterr().err
    assert [line.partition(" [")[0] for line in err.splitlines()] == ["slow: 1/2 x", "slow: 2/2 x"]
    assert "\r" not in err
    list(progress.progress_bar(range(2), shown=False, log_every_s=0))
    assert capsys.readouterr().err == ""


def test_an_error_begins_a_line_of_its_own_after_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screen_as_stderr(monkeypatch)
    begun = iter(progress.progress_bar(range(3), shown=True, desc="work"))
    next(begun)
    assert "\r" in screen.getvalue(), "a bar"
    with pytest.raises(SystemExit):
        cli.exit_with_sentence("interrupted", 130)
    assert screen.getvalue().endswith("\nrales: interrupted\n")


def test_predict_counts_the_recordings_of_a_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, model = screen_as_stderr(monkeypatch), tiny.model()
    table = model.predict(data, progress=True)
    assert table["recording"].nunique() == 8
    assert "| 8/8 [" in screen.getvalue()
    screen.truncate(screen.seek(0))
    model.embed(data, progress=True)
    assert "| 8/8 [" in screen.getvalue()
    screen.truncate(screen.seek(0))
    model.predict(table["path"].iloc[0], progress=True)
    model.predict(data)
    assert screen.getvalue() == "", "one recording, or no bar asked for"


def test_a_notebook_gets_its_own_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[dict[str, Any]] = []

    def widget(items: Any, **options: Any) -> Any:
        asked.append(options)
        return iter(items)

    monkeypatch.setattr("tqdm.auto.tqdm", widget)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    assert list(progress.progress_bar([1, 2], shown=True, desc="work")) == [1, 2]
    assert asked == [{"desc": "work"}], "not disabled, though stderr is no terminal"
    assert capsys.readouterr().err == ""
