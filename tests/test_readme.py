"""The README and the demo as printed: every command of them runs, every name in docs/ exists."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rales.cli import app, main

from .conftest import GOLDEN, REPOSITORY

README = (REPOSITORY / "README.md").read_text()
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
M2D = "m2d_vit_base-80x608p16x16-221006-mr7"
TOO_LARGE = ("torchrun", "rales reproduce", "rales sweep")  # parsed, not run: the tests of sweeps and devices run them
SMALLER = {r"--recordings \d+": "--recordings 8", r"--epochs \d+": "--epochs 1"}  # enough to run every line


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """-> the lines of the README's shell blocks, in order."""
    return [line for block in blocks("sh") for line in block.splitlines()]


def demo_commands() -> list[str]:
    """-> the `rales` lines that `make demo` would run."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shown = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [line.partition(" >")[0] for line in shown.splitlines() if line.startswith("rales ")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder whose cache holds a miniature M2D under the name of the public checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    miniature = GOLDEN / "checkpoints" / "m2d_vit_tiny48-80x608p16x16-250101-mr7_enconly"
    shutil.copytree(miniature, tmp_path / "cache" / "weights" / M2D)
    return tmp_path


def run(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    assert ended.value.code == 0, command


def test_commands_run_as_printed(place: Path) -> None:
    for line in commands():
        if line.startswith(TOO_LARGE) and "--dry-run" not in line:
            continue
        for many, few in SMALLER.items():
            line = re.sub(many, few, line)
        run(line)
        if line.startswith("rales synth"):  # stands in for what the reader brings along
            Path("ICBHI_final_database").symlink_to("breaths")
            own_recordings()
    for program in blocks("python"):
        exec(compile(program, "README.md", "exec"), {})
    columns = ["recording", "cycle", "start_s", "end_s", "label", "p_normal", "p_crackle", "p_wheeze", "p_both"]
    assert Path("cycles.csv").read_text().startswith(",".join([*columns, "true_label,"]))
    assert f"`{', '.join(columns)}`" in README
    made = ["cycles.csv", "report/report.html", "runs/paper/seed1/done", "visit1-labels/anna.audacity.txt"]
    assert [name for name in made if not Path(name).is_file()] == []


def own_recordings() -> None:
    """The manifest of the README, with recordings of the synthetic folder under its names."""
    (manifest,) = blocks("csv")
    Path("manifest.csv").write_text(manifest)
    Path("visit1").mkdir()
    for name, recording in zip(("anna", "bob"), sorted(Path("breaths").glob("*.wav")), strict=False):
        shutil.copy(recording, f"visit1/{name}.wav")


def test_lines_too_large_to_run_parse() -> None:
    lines = [line for line in commands() if line.startswith(TOO_LARGE)]
    assert {word for line in lines for word in TOO_LARGE if line.startswith(word)} == set(TOO_LARGE)
    for line in lines:
        parse(re.sub(r"^torchrun --nproc-per-node \d+ -m ", "", line).removeprefix("rales "))


def test_demo_lines_parse() -> None:
    words = [shlex.split(re.sub(r"\$\(.*\)", "recording.wav", line))[1:] for line in demo_commands()]
    assert [line[0] for line in words] == ["synth", "check", "train", "evaluate", "report", "predict"]
    for line in words:
        parse(shlex.join(line))


def parse(words: str) -> None:
    """CycloptsError for words that the command would refuse."""
    app.parse_args(shlex.split(words), exit_on_error=False, print_error=False)


def test_table_of_words_is_complete() -> None:
    table = set(re.findall(r"^\| `([\w-]+)` \|", README, re.M))
    assert table == {name for name in app if not name.startswith("-")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    for file, name in re.findall(r"`(rales/[\w/]+\.py):(\w+)`", text):
        tree = ast.parse((REPOSITORY / "src" / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{document.name}: {file} has no {name}"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (document.parent / link).exists(), f"{document.name}: no file {link}"


def test_results_name_their_commands() -> None:
    sections = (REPOSITORY / "docs" / "results.md").read_text().split("\n## ")[1:]
    assert sections
    for section in sections:
        found = re.search(r"^Measured by: `([^`]+)`", section, re.M)
        assert found, f"docs/results.md: section {section.splitlines()[0]!r} does not say what measured it"
