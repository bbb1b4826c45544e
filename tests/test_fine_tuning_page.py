"""The commands and the program of docs/fine-tuning.md run, on simulated recordings."""

import re
from pathlib import Path

import pytest

from rales.data import read_cycles
from rales.data.manifest import write_manifest
from rales.training import run_folder
from tests import tiny
from tests.command import command
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "fine-tuning.md").read_text()


def blocks(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    return re.sub(r"epochs([ =])\d+", r"epochs\g<1>1", "\n".join(found))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the reader brings along."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    cycles = read_cycles(tiny.write_folder(tmp_path / "ICBHI_final_database"))
    write_manifest(cycles.assign(split=""), tmp_path / "own.csv")
    return tmp_path


@pytest.mark.slow
def test_the_page_does_what_it_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in blocks("sh").splitlines():
        code, _, err = command(capsys, *line.split()[1:])
        assert code == 0, f"{line}: {err}"
    exec(compile(blocks("python"), "fine-tuning.md", "exec"), {})
    runs = {path.parent.name: run_folder.read_json(path)["config"] for path in place.glob("*/*/config.json")}
    assert runs["own"]["from_model"] == "rales"
    assert (runs["both"]["from_model"], runs["both"]["freeze"]) == ("runs/own", "encoder")
    # a tenth of what the model of the package was trained with, and no tenth of that the second time
    assert runs["both"]["train"]["lr"] == runs["own"]["train"]["lr"] == pytest.approx(3e-5)
    assert (runs["python"]["freeze"], runs["python"]["train"]["mixup"]) == ("2", 0.2)
    assert runs["scratch"]["from_model"] == ""
    assert sorted(path.parent.name for path in place.glob("freezing/*/done")) == [
        f"m2d_fusion-freeze={freeze}-seed0" for freeze in ("2", "encoder", "none")
    ]
