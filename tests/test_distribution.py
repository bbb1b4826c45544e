"""Ways to install that cannot be tried here: the Dockerfile and the conda recipe say what pyproject.toml says."""

import fnmatch
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import build_release
import describe_package
import rales
from tests.conftest import REPOSITORY
from tests.test_readme import parse

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"soundfile": "pysoundfile", "soxr": "soxr-python", "torch": "pytorch"}
DOCKER = (REPOSITORY / "Dockerfile").read_text()
INSTRUCTIONS = [
    tuple(line.split(" ", 1))
    for line in re.sub(r" \\\n *", " ", DOCKER).splitlines()
    if line and not line.startswith("#")
]


def on_conda(requirement: Requirement) -> str:
    """-> its line in the recipe."""
    return f"{CONDA_NAMES.get(requirement.name, requirement.name)} {requirement.specifier}"


def same_line(line: str) -> tuple[str, frozenset[str]]:
    name, _, versions = line.partition(" ")
    return name, frozenset(versions.split(","))


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = yaml.safe_load((REPOSITORY / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == rales.__version__
    needs = [f"python {PROJECT['requires-python']}", *(on_conda(Requirement(line)) for line in PROJECT["dependencies"])]
    assert {same_line(line) for line in recipe["requirements"]["run"]} == {same_line(line) for line in needs}
    train = [on_conda(Requirement(line)) for line in PROJECT["optional-dependencies"]["train"]]
    assert {same_line(line) for line in recipe["requirements"]["run_constraints"]} == {
        same_line(line) for line in train
    }
    assert recipe["build"]["python"]["entry_points"] == [
        f"{key} = {value}" for key, value in PROJECT["scripts"].items()
    ]
    assert all((REPOSITORY / name).is_file() for name in recipe["about"]["license_file"])
    assert recipe["about"]["license_file"] == PROJECT["license-files"]


def test_the_image_takes_what_is_there() -> None:
    kinds = [kind for kind, _ in INSTRUCTIONS]
    assert set(kinds) <= {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    defaults = dict(words.split("=", 1) for kind, words in INSTRUCTIONS if kind == "ARG")
    assert SpecifierSet(PROJECT["requires-python"]).contains(defaults["PYTHON"])
    assert set(defaults["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    (entry,) = [json.loads(words) for kind, words in INSTRUCTIONS if kind == "ENTRYPOINT"]
    assert entry == list(PROJECT["scripts"])
    for kind, words in INSTRUCTIONS:
        if kind == "RUN":
            assert subprocess.run(["sh", "-n", "-c", words]).returncode == 0, words
            used = set(re.findall(r"\$\{([A-Z]+)\}", words))
            assert used <= set(defaults), words

    _, *asked = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in asked if line.startswith("!")]
    assert all((REPOSITORY / name).exists() for name in sent)
    hook = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    needed = ["pyproject.toml", "src", "README.md", hook["path"], *PROJECT["license-files"]]
    copied = [words.split()[0] for kind, words in INSTRUCTIONS if kind == "COPY" and words[0] not in "-."]
    for name in needed + copied:
        assert any(fnmatch.fnmatch(name, one) or name.startswith(f"{one}/") for one in sent), f"{name} is not sent"


def test_the_lines_beside_the_image_parse() -> None:
    lines = re.findall(r"^# docker run (.*)", DOCKER, re.M)
    assert lines
    for line in lines:
        _, _, words = line.partition(" rales ")
        parse(shlex.join(shlex.split(words, comments=True)))


def test_python_versions_are_named_alike() -> None:
    minor = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert minor == ["3.11", "3.12", "3.13", "3.14"]
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(one) for one in minor)
    assert f"Python {minor[0]} to {minor[-1]}" in (REPOSITORY / "docs" / "install.md").read_text()


def test_the_description_on_an_index_links_to_the_repository_alone() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    absolute = describe_package.make_links_absolute(readme, "https://example.org/rales")
    assert "(https://example.org/rales/raw/HEAD/docs/images/web-light.png)" in absolute
    assert "[first tour](https://example.org/rales/blob/HEAD/docs/first-tour.md)" in absolute
    assert not re.search(r"\]\((?!https?:)", absolute)
    unpublished = describe_package.make_links_absolute(readme, "")
    assert "| first tour |" in unpublished
    assert "](" not in unpublished
    assert not re.search(r"\n\n\n|\(systems\)|All ways to install", unpublished)


def test_the_source_distribution_is_whole() -> None:
    """It has what builds it, and no file that imports of the checkout what it does not have."""
    packed = {file.distribution_path for file in SdistBuilder(str(REPOSITORY)).recurse_included_files()}
    hook = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    assert {hook["path"], "README.md", *PROJECT["license-files"]} <= packed
    of_checkout = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")} | {"tests", "benchmarks"}
    there = {name.split("/")[0] for name in packed} | {Path(name).stem for name in packed}
    for name in packed:
        if name.endswith(".py"):
            imported = set(re.findall(r"^(?:import|from) (\w+)", (REPOSITORY / name).read_text(), re.M))
            assert imported & of_checkout <= there, name


def test_builds_that_differ_are_no_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digests = iter([{"a.whl": "1", "b.tar.gz": "2"}, {"a.whl": "1", "b.tar.gz": "3"}])
    monkeypatch.setattr(build_release, "build_archives", lambda source, out: next(digests))
    monkeypatch.setattr(build_release, "REPOSITORY", tmp_path)
    with pytest.raises(SystemExit, match=r"two builds differ in b\.tar\.gz"):
        build_release.main()
    assert not (tmp_path / "dist").exists()
