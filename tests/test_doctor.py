"""`rales doctor` and `rales data`: what is here, and which databases there are."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch

from rales.cli import app
from rales.data.databases import DATABASES, find_database
from rales.errors import UsageError
from rales.jobs import doctor
from tests import tiny
from tests.command import command
from tests.conftest import REPOSITORY

Capture = pytest.CaptureFixture[str]


def test_the_shipped_model_answers_the_known_sound_as_it_should(capsys: Capture) -> None:
    code, out, _ = command(capsys, "doctor", "--device", "cpu", "--json")
    found = json.loads(out)
    assert (code, found["problems"]) == (0, [])
    assert found["self_check"]["difference"] < doctor.TOLERANCE
    assert found["versions"]["torch"] == torch.__version__
    assert found["devices"][0].startswith("cpu: ")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(found["extras"]) == set(extras) - {"all", "bench", "dev", "docs", "mutation"}  # of who works on Rales


def test_other_answers_are_a_problem(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    found = doctor.check_model(model=tiny.model())
    assert found["difference"] > doctor.TOLERANCE
    assert "no answer here can be trusted" in found["problems"][0]
    monkeypatch.setattr(doctor, "check_model", lambda _: found)
    code, out, _ = command(capsys, "doctor")
    assert code == 1
    assert out.splitlines()[-1] == "Research tool, not a diagnosis."
    assert "all is well" not in out


def test_a_gpu_that_torch_does_not_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "check_model", lambda _: {"model": "rales", "difference": 0.0, "problems": []})
    (note,) = [note for note in doctor.diagnose()["notes"] if "NVIDIA" in note]
    assert "uses no GPU" in note


def test_databases_are_listed_with_licence_and_citation(capsys: Capture) -> None:
    code, out, _ = command(capsys, "data")
    assert code == 0
    for word, facts in DATABASES.items():
        assert f"{word}: {facts.name}" in out
        assert facts.licence in out
        assert facts.cite in out
    code, out, _ = command(capsys, "data", "icbhi", "--json")
    (found,) = json.loads(out)["databases"]
    assert (code, found["word"], found["recordings"]) == (0, "ICBHI", 920)
    with pytest.raises(UsageError, match="there are ICBHI, SPRSound, KAUH, HF_Lung_V1"):
        find_database("coswara")


def test_a_download_is_held_against_what_is_published(tmp_path: Path, capsys: Capture) -> None:
    folder = tiny.write_folder(tmp_path / "data")
    code, out, _ = command(capsys, "data", "ICBHI", folder)
    assert code == 1
    assert f"{folder}: 8 usable recordings; the whole ICBHI has 920" in out


def test_the_page_on_databases_says_what_the_command_says() -> None:
    page = (Path(__file__).parent.parent / "docs" / "databases.md").read_text()
    for word, facts in DATABASES.items():
        assert f"| `{word}` | {facts.recordings:,} |" in page
        assert all(place.split()[0] in page for place in facts.where)


def test_shells_can_complete_the_command() -> None:
    assert "predict" in app.generate_completion(shell="bash")
