"""constraints/cpu.txt: torch without CUDA on every system, with plain PyPI."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .conftest import REPOSITORY

LINES = (REPOSITORY / "constraints" / "cpu.txt").read_text().splitlines()
INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(("system", "local"), [("linux", "+cpu"), ("darwin", ""), ("win32", "")])
def test_one_torch_for_every_system(system: str, local: str) -> None:
    pinned = [Requirement(line) for line in LINES if line and not line.startswith(("#", "--"))]
    taken = [one for one in pinned if one.marker is None or one.marker.evaluate({"sys_platform": system})]
    assert [one.name for one in taken] == ["torch"]
    assert re.fullmatch(rf"==\d+\.\d+\.\d+{re.escape(local)}", str(taken[0].specifier))
    assert INDEX in LINES


def write_index(folder: Path, version: str) -> Path:
    """A package index that has one torch."""
    (folder / "torch").mkdir(parents=True)
    name = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / "torch" / name, "w") as wheel:
        about = f"torch-{version}.dist-info"
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    (folder / "torch" / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux does PyPI's torch bring CUDA")
def test_pip_takes_the_build_without_cuda_from_the_index_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version,) = {re.sub(r"\+.*", "", match[1]) for line in LINES if (match := re.match(r"torch==([\w.+]+)", line))}
    pypi, own = write_index(tmp_path / "pypi", version), write_index(tmp_path / "own", f"{version}+cpu")
    constraints = tmp_path / "cpu.txt"
    constraints.write_text("\n".join(LINES).replace(INDEX, f"--extra-index-url {own.as_uri()}"))
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    words = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--index-url", pypi.as_uri()]
    asked = [sys.executable, "-m", "pip", *words, "-c", str(constraints), "torch"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    assert f"Would install torch-{version}+cpu" in told.stdout, told.stdout + told.stderr
