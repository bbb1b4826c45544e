"""The README and the demo as printed: every command of them runs, every name in docs/ exists."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from rales.cli import app, main
from rales.models.mobilenet import MobileNet
from rales.web.example import write_example

from .conftest import GOLDEN, REPOSITORY
from .test_make_models import folders

__all__ = ["folders"]

README = (REPOSITORY / "README.md").read_text()
# What a reader types, in the order of reading; what stands behind "A teacher" needs public weights and has its own test
PAGES = [
    README,
    *((REPOSITORY / "docs" / f"{name}.md").read_text() for name in ("first-tour", "icbhi", "own-recordings")),
]
PAGES += [(REPOSITORY / "docs" / "pre-training.md").read_text().partition("## A teacher")[0]]
TOUR = PAGES[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
NOTEBOOKS = sorted(REPOSITORY.glob("docs/notebooks/*.ipynb"))
M2D = "m2d_vit_base-80x608p16x16-221006-mr7"
TOO_LARGE = ("torchrun", "rales reproduce", "rales sweep", "rales serve")  # parsed, not run: other tests run them
# Enough to run every line, on so few patients that nothing may count on more
SMALLER = {r"--recordings \d+ --patients \d+ --seed \d+": "--recordings 8 --patients 4", r"--epochs \d+": "--epochs 1"}
POINTS = {"specificity": 6, "sensitivity": 12, "score": 6}  # by which another processor's rounding may move a figure


def blocks(language: str, text: str = "\n".join(PAGES)) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands() -> list[str]:
    """-> the lines of the pages' shell blocks, in order."""
    return [line for block in blocks("sh") for line in block.splitlines()]


def make_commands(*words: str) -> list[str]:
    """-> the `rales` lines that `make` would run."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shown = subprocess.run(["make", "-n", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [line.partition(" >")[0] for line in shown.splitlines() if line.startswith("rales ")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the page's example as recording.wav, whose cache holds a miniature M2D under the name of
    the public checkpoint."""
    monkeypatch.chdir(tmp_path)
    write_example(tmp_path / "example")
    shutil.copy(tmp_path / "example" / "audio.wav", tmp_path / "recording.wav")
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    miniature = GOLDEN / "checkpoints" / "m2d_vit_tiny48-80x608p16x16-250101-mr7_enconly"
    shutil.copytree(miniature, tmp_path / "cache" / "weights" / M2D)
    return tmp_path


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """-> what the command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, f"{command}: {err}"
    return out


def smaller(line: str) -> str:
    for many, few in SMALLER.items():
        line = re.sub(many, few, line)
    return line


def test_commands_run_in_small(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_commands([smaller(line) for line in commands()], capsys)


@pytest.mark.slow
def test_commands_run_as_printed_to_the_figures_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but what needs the database and the public checkpoint, which runs in small on what stands in for them."""
    lines = [smaller(line) if "ICBHI_final_database" in line else line for line in commands()]
    said = run_commands(lines, capsys)
    train = next(line for line in lines if line.startswith("rales train"))
    printed, found = figures_of(TOUR), figures_of(said[train])
    for name, points in POINTS.items():
        assert abs(printed[name] - found[name]) <= points, (name, printed, found)
    for figures in (printed, found):
        assert figures["lower end"] > 50, "clearly above calling every cycle normal"
    probe = json.loads(Path("runs/pretrained/config.json").read_text())["probe"]
    assert probe["folds"] == 5


@pytest.mark.slow
def test_demo_ends_clearly_above_50(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RALES_CACHE": str(tmp_path)}
    subprocess.run(["bash", "-ec", "\n".join(make_commands("demo"))], cwd=tmp_path, env=env, check=True)
    found = json.loads((tmp_path / "demo" / "run" / "evaluation.json").read_text())
    assert found["ci95"]["score"][0] > 0.5
    assert (tmp_path / "demo" / "report" / "sp_se.png").is_file()
    for part in ("train", "test"):
        facts = json.loads((tmp_path / "demo" / "run" / "config.json").read_text())["split"][part]
        assert min(facts["classes"].values()) > 0.1 * facts["cycles"], "every class has its share"


def figures_of(text: str) -> dict[str, float]:
    """Text that holds the table of a training -> its figures in percent, and the lower end of the Score's interval."""
    (row,) = re.findall(r"^strict four-class +(\S+) +(\S+) +(\S+) +(\S+) to \S+$", text, re.M)
    return dict(zip((*POINTS, "lower end"), map(float, row), strict=True))


def run_commands(lines: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The pages' lines, in order -> what each printed; then its programs, and what all of them leave behind."""
    said = {}
    for line in lines:
        if line.startswith(TOO_LARGE) and "--dry-run" not in line:
            continue
        said[line] = run(line, capsys)
        if line.startswith("rales synth"):  # stands in for what the reader brings along
            Path("ICBHI_final_database").symlink_to("breaths")
            own_recordings()
    for program in blocks("python"):
        exec(compile(program, "a page of docs", "exec"), {})
    columns = ["recording", "cycle", "start_s", "end_s", "label", "p_normal", "p_crackle", "p_wheeze", "p_both"]
    assert Path("cycles.csv").read_text().startswith(",".join([*columns, "true_label,"]))
    assert f"`{', '.join(columns)}`" in TOUR
    made = ["cycles.csv", "report/report.html", "runs/paper/seed1/done", "visit1-labels/anna.audacity.txt"]
    assert [name for name in made if not Path(name).is_file()] == []
    return said


def own_recordings() -> None:
    """The manifest of the page, with recordings of the synthetic folder under its names."""
    (manifest,) = blocks("csv")
    Path("manifest.csv").write_text(manifest)
    Path("visit1").mkdir()
    for name, recording in zip(("anna", "bob"), sorted(Path("breaths").glob("*.wav")), strict=False):
        shutil.copy(recording, f"visit1/{name}.wav")


def test_the_first_answer_is_the_printed_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,), (program,) = blocks("sh", README), blocks("python", README)
    (printed,) = re.findall(r"^```\n(recording.*?)^```", README, re.M | re.S)
    same_table(run(line.strip(), capsys), printed)
    exec(compile(program, "README.md", "exec"), {})
    assert f"```\n{capsys.readouterr().out}```" in README
    (program,) = blocks("python", (REPOSITORY / "docs" / "python.md").read_text())
    exec(compile(program, "docs/python.md", "exec"), {})
    assert "<Rales model rales: m2d_fusion; " in capsys.readouterr().out


def same_table(found: str, printed: str) -> None:
    """Errors: another word, or a number that another processor's rounding does not explain."""
    for mine, theirs in zip(found.split(), printed.split(), strict=True):
        try:
            assert abs(float(mine) - float(theirs)) <= 0.02, (found, printed)
        except ValueError:
            assert mine == theirs, (found, printed)


def test_scores_of_the_readme_are_those_of_the_leaderboard() -> None:
    known = (REPOSITORY / "LEADERBOARD.md").read_text()
    table = README.partition("## What scores are worth")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[2:5]] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    for row in rows:
        assert f"| {' | '.join(row)} |" in known, row


def test_lines_too_large_to_run_parse() -> None:
    lines = [line for line in commands() if line.startswith(TOO_LARGE)]
    assert {word for line in lines for word in TOO_LARGE if line.startswith(word)} == set(TOO_LARGE)
    for line in lines:
        parse(re.sub(r"^torchrun --nproc-per-node \d+ -m ", "", line).removeprefix("rales "))


def test_demo_lines_parse() -> None:
    words = [shlex.split(re.sub(r"\$\(.*\)", "recording.wav", line))[1:] for line in make_commands("demo")]
    assert [line[0] for line in words] == ["synth", "check", "train", "evaluate", "report", "predict"]
    for line in words:
        parse(shlex.join(line))


def test_the_large_route_runs_in_small(
    place: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    icbhi, sprsound = folders
    teacher = place / "cache" / "weights" / "mn04_as" / "mn.safetensors"
    teacher.parent.mkdir()
    save_file(MobileNet(0.4, blocks=2).state_dict(), teacher)
    lines = make_commands("large", f"DATA={icbhi}", f"SPRSOUND={sprsound}")
    assert [line.split()[1] for line in lines] == ["weights", "weights", "pretrain", "train", "evaluate"]
    few = {
        **SMALLER,
        "--teacher mn04_as": "--teacher mn04_as --teacher-weight 0.5",
        "crops.min_items=10000": "crops.min_items=0 --set pretrain.batch_size=4 --set encoder.decoder_depth=1",
        "warmup_epochs=20": "warmup_epochs=0",
        "set train.micro_batch=0": "set train.micro_batch=0 --set audio.duration_s=2",
    }
    for line in lines:
        for many, less in few.items():
            line = re.sub(many, less, line)
        run(line, capsys)
    encoder = json.loads(Path("runs/large/encoder/config.json").read_text())
    assert encoder["config"]["encoder"]["teacher"] == "mn04_as"
    assert encoder["config"]["pretrain"]["teacher_weight"] == 0.5
    assert len(encoder["data"]["folders"]) == 2
    model = json.loads(Path("runs/large/model/config.json").read_text())["config"]
    assert (model["weights"], model["variant"], model["frontend"]) == ("runs/large/encoder", "all_learned", "m2d")
    assert Path("runs/large/model/evaluation.json").is_file()


def parse(words: str) -> None:
    """CycloptsError for words that the command would refuse."""
    app.parse_args(shlex.split(words), exit_on_error=False, print_error=False)


def test_table_of_words_is_complete() -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text()
    table = set(re.findall(r"^\| `([\w-]+)` \|", page, re.M))
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


def test_guarantees_name_tests_that_are_there() -> None:
    text = (REPOSITORY / "docs" / "guarantees.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(rows) >= 20
    for row in rows:
        held = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.rsplit("|", 2)[1])
        assert held, row
        for file, test in held:
            assert f"def {test or 'test_'}" in (REPOSITORY / file).read_text(), row


def test_the_site_has_every_page_once() -> None:
    told = re.findall(r"^ *- [^:]+: (\S+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(), re.M)
    notebooks = {f"notebooks/{path.stem}.md" for path in NOTEBOOKS}
    there = {path.name for path in REPOSITORY.glob("docs/*.md")} | notebooks
    assert sorted(name for name in told if name in there) == sorted(there)
    assert all((REPOSITORY / name).is_file() for name in set(told) - there)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_what_they_print(path: Path) -> None:
    """`make docs` runs them."""
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    text = "".join(line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
    assert text.startswith("# ")
    assert len(re.findall("diagnosis", text)) == 1
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / link).is_file(), f"{path.name}: no file {link}"


def test_wants_are_counted_right() -> None:
    text = (REPOSITORY / "docs" / "wants.md").read_text()
    answers = re.findall(r"^\| \d+ \| .*? \| (yes|partly|no) \|", text, re.M)
    told = [int(count) for count in re.findall(r"(?:Yes|partly|no) (\d+)", text.splitlines()[-1])]
    assert told == [answers.count(word) for word in ("yes", "partly", "no")]
    assert sum(told) == 36
