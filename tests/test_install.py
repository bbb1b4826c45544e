"""constraints/: torch without CUDA on every system, with plain PyPI; every package by version and hash."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import REPOSITORY

LINES = (REPOSITORY / "constraints" / "cpu.txt").read_text().splitlines()
LOCK = (REPOSITORY / "constraints" / "lock.txt").read_text().replace("\\\n", "").splitlines()
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


def asked_for(*extras: str) -> list[Requirement]:
    """-> what pyproject.toml asks for with these extras and those that they name."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = [Requirement(line) for line in project["dependencies"]]
    for extra in extras:
        for one in map(Requirement, project["optional-dependencies"][extra]):
            found += asked_for(*one.extras) if one.name == "rales" else [one]
    return found


def test_the_lock_has_a_version_that_is_allowed_and_a_hash_for_everything() -> None:
    """`make lock` was run after the last change of pyproject.toml or cpu.txt."""
    pins: dict[str, list[Requirement]] = {}
    for line in LOCK:
        if line.startswith("#") or not line.strip():
            continue
        pin, *hashes = re.split(r"\s+--hash=", line.strip())
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), line
        pins.setdefault(canonicalize_name(Requirement(pin).name), []).append(Requirement(pin))
    for python in ("3.11", "3.12", "3.13", "3.14"):
        for system in ("linux", "darwin", "win32"):
            here = {"sys_platform": system, "python_full_version": f"{python}.0", "python_version": python}
            for one in asked_for("all", "dev"):
                name = canonicalize_name(one.name)
                taken = [pin for pin in pins.get(name, []) if pin.marker is None or pin.marker.evaluate(here)]
                (version,) = [str(pin.specifier).removeprefix("==") for pin in taken]
                assert one.specifier.contains(version), f"{one} and {name} {version} in the lock: make lock"
    torch = {str(pin.specifier) for pin in pins["torch"]}
    assert torch == {str(Requirement(line).specifier) for line in LINES if line.startswith("torch")}
