"""A package of an extra that is not installed: one sentence, exit code 2, before any work."""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from rales import optional_packages
from rales.errors import UsageError

from .command import command

ASKED_FOR = {  # words of the command -> the package without which they cannot end
    "report runs --out report": "jinja2",
    "reproduce table2 --data breaths --size tiny --out paper": "matplotlib",
    "layers --data breaths --size tiny --out layers": "matplotlib",
    "explain breath.wav --cycle 1 --out why.png": "matplotlib",
    "search a#1 --in vectors.npz": "usearch",
    "suspect --data breaths --out suspects": "cleanlab",
    "export runs/m2d --out model.onnx": "onnx",
    "export runs/m2d --out model.xml": "openvino",
    "serve": "fastapi",
    "sweep m2d_fusion --data breaths --out found --search random --space train.lr=1,2": "optuna",
}


@pytest.mark.parametrize(("words", "package"), ASKED_FOR.items())
def test_every_word_says_it_alike_before_any_work(
    words: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither data nor runs are there: a job that began would say so instead."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as absent:
        absent.setattr(optional_packages, "find_spec", lambda name: None if name == package else find_spec(name))
        code, out, err = command(capsys, *words.split())
    assert (code, out) == (2, "")
    expected = rf'rales: .+ needs the package {package}, which is not installed: pip install "rales\[\w+\]"\n'
    assert re.fullmatch(expected, err), err

    def broken(name: str) -> ModuleType:
        if name == package:
            raise OSError("libgomp.so.1: cannot open shared object file\nand more")
        return importlib.import_module(name)

    monkeypatch.setattr(optional_packages, "import_module", broken)
    code, out, err = command(capsys, *words.split())
    assert (code, out) == (2, "")
    reason = "OSError: libgomp.so.1: cannot open shared object file"
    expected = rf"rales: .+ needs the package {package}, which .+ cannot be imported \({reason}\): pip install .+\n"
    assert re.fullmatch(expected, err), err
    assert list(tmp_path.iterdir()) == []


def test_installed_packages_are_fine() -> None:
    optional_packages.require_packages("a test", "dev", "pytest")
    with pytest.raises(UsageError, match="a test needs the package no_such_package"):
        optional_packages.require_packages("a test", "dev", "pytest", "no_such_package")
