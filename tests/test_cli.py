"""The command: words, exit codes, and one JSON document on stdout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rales
from rales.cli import app, main
from rales.cli.train import find_first_argument
from rales.labels import CLASSES
from rales.training import finetune, run_folder
from tests import tiny
from tests.command import command

WORDS = sorted(name for name in app if not name.startswith("-"))
TINY = ["--size", "tiny", *(word for setting in tiny.SETTINGS for word in ("--set", setting))]
P = [f"p_{name}" for name in CLASSES]

Capture = pytest.CaptureFixture[str]


def document(out: str) -> dict[str, Any]:
    """Stdout -> its one JSON document; anything more is an error."""
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path_factory.getbasetemp() / "cli-cache"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and a finished `run` on it, made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.write_folder(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(tmp_path_factory.getbasetemp() / "cli-cache"))
        with pytest.raises(SystemExit) as ended:
            main(train_words(folder / "data", folder / "run"))
    assert not ended.value.code
    return folder


def train_words(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", "m2d_fusion", "--data", str(data), "--out", str(out), *TINY, *more]


# Help


def test_help_lists_every_word(capsys: Capture) -> None:
    code, out, err = command(capsys, "--help")
    assert (code, err) == (0, "")
    listed = [line.strip("│ ").split()[0] for line in out.splitlines() if line.strip("│ ")]
    assert set(WORDS) <= set(listed)
    titles = [line.strip("╭╮─ ") for line in out.splitlines() if line.startswith("╭")]
    assert titles == ["Start here", "Train and evaluate", "Your recordings", "Studies", "Options"]
    assert "not a diagnosis" in " ".join(out.split()).replace("│ ", "")


@pytest.mark.parametrize("word", WORDS)
def test_every_word_has_help_with_an_example(capsys: Capture, word: str) -> None:
    code, out, err = command(capsys, word, "--help")
    assert (code, err) == (0, "")
    assert f"Example: rales {word} " in out
    assert "[default: ]" not in out
    assert "[ARGS" not in out


def test_usage_names_the_arguments(capsys: Capture) -> None:
    for words, usage in {
        "predict": "predict [OPTIONS] [PATHS...]",
        "embed": "embed --out PATH [OPTIONS] PATHS...",
        "data": "data [OPTIONS] [NAME] [FOLDER]",
        "train lungattn": "train --data PATH --out PATH [OPTIONS] [RECIPE]",
    }.items():
        _, out, _ = command(capsys, *words.split(), "--help")
        assert out.startswith(f"Usage: rales {usage}\n")


@pytest.mark.parametrize(("word", "knob"), [("train", "model.recompute"), ("pretrain", "encoder.recompute")])
def test_out_of_memory_tells_what_needs_less(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, word: str, knob: str
) -> None:
    def fail(words: list[str]) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("rales.cli.run_word", fail)
    code, _, err = command(capsys, word)
    assert code == 1
    said = " ".join(err.split())
    assert f"--set {knob}=true needs less, gives the same result, and an unfinished run goes on with it" in said
    assert f"a smaller --set {word}.micro_batch or --size is another run, with another --out" in said


def test_help_does_not_wait_for_the_heavy_packages() -> None:
    code = f"""
import sys
from rales.cli import main
for words in [["--help"], *([word, "--help"] for word in {WORDS})]:
    try:
        main(words)
    except SystemExit as ended:
        assert not ended.code
loaded = [name for name in ("torch", "pandas", "numpy", "scipy", "sklearn", "soundfile") if name in sys.modules]
assert not loaded, loaded
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def test_version_and_module(capsys: Capture) -> None:
    assert command(capsys, "--version") == (0, f"{rales.__version__}\n", "")
    ended = subprocess.run([sys.executable, "-m", "rales", "--version"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, f"{rales.__version__}\n")


# Wrong usage: exit code 2, a sentence on stderr, nothing on stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "trian"),
        (["check"], "data"),
        (["check", "DATA", "--jsno"], "--jsno"),
        (["train", "m2d_fusion", "--out", "RUN"], "--data"),
        (["train", "m2d_fusion", "--data", "DATA", "--out", "RUN", "--size", "huge"], "huge"),
        (["train", "m2d_fusion", "--data", "DATA", "--out", "RUN", "--epochs", "many"], "many"),
        (["train", "m2d_fuse", "--data", "DATA", "--out", "RUN"], "the nearest is 'm2d_fusion'"),
        (
            ["train", "m2d_fusion", "--data", "DATA", "--out", "RUN", "--variant", "pair"],
            "--set variant=pair: expected one of vanilla, pair_5_12",
        ),
        (
            ["train", "m2d_fusion", "--data", "DATA", "--out", "RUN", "--set", "train.epoch=1"],
            "nearest is train.epochs",
        ),
        (
            ["train", "m2d_fusion", "--data", "DATA", "--out", "RUN", "--set", "train.lr=x"],
            "--set train.lr=x: expected a number",
        ),
        (
            ["train", "m2d_fusion", "--data", "DATA", "--out", "RUN", "--epochs", "1", "--train.epochs", "2"],
            "--epochs 1 and --train.epochs 2: both say train.epochs; give one of them",
        ),
        (["predict", "DATA", "--model", "RUN", "--format", "xlsx"], "xlsx"),
        (["predict", "--model", "RUN"], "paths"),
        (["embed", "--out", "v.npz"], "paths"),
        (["segments", "--out", "clips"], "paths"),
        (["embed", "DATA", "--model", "RUN", "--out", "v.csv"], "expected a name that ends in .npz or .parquet"),
    ],
)
def test_wrong_usage(capsys: Capture, place: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    real = {"DATA": str(place / "data"), "RUN": str(place / "run" if words[0] != "train" else tmp_path / "run")}
    code, out, err = command(capsys, *(real.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("rales: ")
    assert sentence.lower() in err.lower()
    assert not (tmp_path / "run").exists()


DEVICES = [  # every word that computes with a network
    ["train", "m2d_fusion", "--data", "DATA", "--out", "NEW"],
    ["pretrain", "--data", "DATA", "--size", "tiny", "--epochs", "1", "--out", "NEW"],
    ["evaluate", "RUN", "--data", "DATA"],
    ["predict", "DATA", "--model", "RUN"],
    ["embed", "DATA", "--model", "RUN", "--out", "v.npz"],
    ["explain", "RECORDING", "--cycle", "1", "--model", "RUN"],
]


@pytest.mark.parametrize("words", DEVICES, ids=lambda words: words[0])
def test_device_is_asked_for_everywhere_alike(capsys: Capture, place: Path, tmp_path: Path, words: list[str]) -> None:
    recording = next((place / "data").glob("*.wav"))
    real = {"DATA": place / "data", "RUN": place / "run", "NEW": tmp_path / "new", "RECORDING": recording}
    code, out, err = command(capsys, *(real.get(word, word) for word in words), "--device", "nowhere:7")
    assert (code, out) == (1, "")
    assert "device 'nowhere:7' is not there" in err


def test_very_many_cycles_are_not_all_printed(capsys: Capture, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rales.cli.result_lines.PRINTED_CYCLES", 5)
    code, out, _ = command(capsys, "predict", place / "data", "--model", place / "run", "--device", "cpu")
    assert code == 0
    rows = [line for line in out.splitlines() if " annotated " in line]
    assert len(rows) == 5
    assert "and 27 more cycles: --out FILE takes all" in out
    assert (
        len(document(command(capsys, "predict", place / "data", "--model", place / "run", "--json")[1])["cycles"]) == 32
    )


# Jobs


def test_check(capsys: Capture, place: Path) -> None:
    code, out, _ = command(capsys, "check", place / "data", "--json")
    found = document(out)
    assert code == 0
    assert {"recordings", "patients", "cycles", "classes", "splits", "overlap_patients", "problems"} <= set(found)
    assert (found["recordings"], found["patients"], found["cycles"]) == (8, 8, 32)
    assert found["classes"] == dict.fromkeys(CLASSES, 8)
    assert (found["splits"]["train"]["cycles"], found["splits"]["test"]["cycles"]) == (20, 12)
    assert found["problems"] == []
    code, out, _ = command(capsys, "check", place / "data")
    assert code == 0
    assert "8 recordings of 8 patients, 32 cycles" in out


def test_synth(capsys: Capture, tmp_path: Path) -> None:
    words = ["--recordings", "1", "--seed", "3", "--processes", "1"]
    code, out, _ = command(capsys, "synth", tmp_path / "made", *words)
    assert (code, out) == (0, "")
    assert len(list((tmp_path / "made").glob("*.wav"))) == 1
    code, _, err = command(capsys, "synth", tmp_path / "made", *words)
    assert code == 1
    assert "is not empty" in err


def test_train_finished_gone_on_and_refused(capsys: Capture, place: Path) -> None:
    code, out, err = command(capsys, *train_words(place / "data", place / "run", "--json"))
    assert code == 0
    assert document(out) == run_folder.read_json(place / "run" / "evaluation.json")
    assert f"run folder: {place / 'run'}" in err
    code, out, _ = command(capsys, *train_words(place / "data", place / "run"))
    assert code == 0
    assert "strict four-class" in out
    code, out, err = command(capsys, *train_words(place / "data", place / "run", "--seed", "1"))
    assert (code, out) == (1, "")
    assert "holds a run of other settings (" in err


def test_train_words_reach_the_config(capsys: Capture, place: Path, tmp_path: Path) -> None:
    words = ["--epochs", "2", "--seed", "7", "--select", "test_best", "--variant", "vanilla", "--set", "train.epochs=1"]
    code, out, _ = command(capsys, *train_words(place / "data", tmp_path / "run", *words))
    assert code == 0
    assert "the epoch was chosen on the test set, as the paper did: these figures are optimistic" in out
    record = run_folder.read_json(tmp_path / "run" / "config.json")
    assert record["seed"] == record["config"]["seed"] == 7
    assert record["config"]["variant"] == "vanilla"
    assert record["config"]["train"]["epochs"] == 1  # the word said last
    assert record["config"]["train"]["select"] == "test_best"
    assert "m2d_fusion" in record["command"] or record["command"].startswith("rales")


def test_no_epochs_is_wrong_usage_and_not_all_epochs(capsys: Capture, place: Path, tmp_path: Path) -> None:
    words = ["--size", "tiny", "--epochs", "0", "--data", str(place / "data"), "--out", str(tmp_path / "run")]
    code, _, err = command(capsys, "train", "m2d_fusion", *words)
    assert code == 2
    assert "train.epochs=0: expected a number above 0" in err


def test_evaluate(capsys: Capture, place: Path) -> None:
    code, out, _ = command(capsys, "evaluate", place / "run", "--data", place / "data", "--json")
    found = document(out)
    assert code == 0
    stored = run_folder.read_json(place / "run" / "evaluation.json")
    assert {name: found[name] for name in ("specificity", "sensitivity", "score", "confusion", "ci95")} == {
        name: stored[name] for name in ("specificity", "sensitivity", "score", "confusion", "ci95")
    }
    assert np.shape(found["confusion"]) == (4, 4)
    assert {"protocol", "leak_free", "by_device", "by_location", "two_class"} <= set(found)
    assert found["protocol"]["split"] == "official"
    table = place / "thresholds.csv"
    code, out, _ = command(capsys, "evaluate", place / "run", "--data", place / "data", "--thresholds", table)
    rows = pd.read_csv(table)
    assert list(rows) == ["class", "threshold", "found", "right", "precision", "recall"]
    assert len(rows) == 7 * 19
    assert "right / found, recall" in out
    assert command(capsys, "evaluate", place / "run", "--data", place / "data", "--thresholds", table)[0] == 2
    assert code == 0
    for words in ("strict four-class", "official_move", "Meditron", "all called normal", "not a diagnosis"):
        assert words in out


def test_predict_gives_the_answer_of_the_library(capsys: Capture, place: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["predict", place / "data", "--model", place / "run"]
    code, out, _ = command(capsys, *words, "--json")
    assert code == 0
    found = document(out)
    assert found["problems"] == []
    assert "not a diagnosis" in found["notice"]
    wanted = rales.load(place / "run").predict(place / "data")
    assert {name: found[str(name)] for name in wanted.attrs} == wanted.attrs
    answers = pd.DataFrame(found["cycles"])
    assert list(answers.columns) == list(wanted.columns)
    assert np.abs(answers[P].to_numpy() - wanted[P].to_numpy()).max() < 1e-6
    assert answers["true_label"].tolist() == wanted["true_label"].tolist()

    code, out, err = command(capsys, *words, "--out", tmp_path / "cycles.csv", "--status", tmp_path / "status.csv")
    assert (code, out) == (0, "")
    status = pd.read_csv(tmp_path / "status.csv")
    assert [set(status[name]) for name in ("model", "version")] == [{wanted.attrs["model"]}, {rales.__version__}]
    assert "32 cycles of 8 recordings" in err
    written = pd.read_csv(tmp_path / "cycles.csv")
    assert np.abs(written[P].to_numpy() - wanted[P].to_numpy()).max() < 1e-6
    code, out, _ = command(capsys, *words, "--out", tmp_path / "cycles.parquet", "--format", "parquet", "--json")
    assert document(out)["cycles"] == found["cycles"]
    assert len(pd.read_parquet(tmp_path / "cycles.parquet")) == 32


def test_the_tables_of_predict_are_data_to_train_on(capsys: Capture, place: Path, tmp_path: Path) -> None:
    """Each form that holds a table: check takes it, evaluate's folds train on it, a person's label goes in."""
    for form in ("csv", "json", "parquet"):
        out = tmp_path / f"cycles.{form}"
        assert command(capsys, "predict", place / "data", "--model", place / "run", "--out", out)[0] == 0
        code, told, _ = command(capsys, "check", out, "--json")
        found = document(told)
        assert (code, found["cycles"], found["patients"], found["problems"]) == (0, 32, 8, [])
        assert sum("columns that are not used" in note for note in found["notes"]) == 1
    code, _, err = command(capsys, *train_words(tmp_path / "cycles.csv", tmp_path / "run"))
    assert code == 1
    assert "--set split.name=folds makes folds of whole patients" in err
    words = train_words(tmp_path / "cycles.csv", tmp_path / "run", "--set", "split.name=folds")
    code, _, err = command(capsys, *words)
    assert code == 0, err
    code, told, err = command(capsys, "evaluate", tmp_path / "run", "--data", tmp_path / "cycles.csv", "--json")
    assert code == 0, err
    assert document(told)["protocol"]["split"] == "folds"


@pytest.mark.usefixtures("jobs_in_this_process")
def test_folds_without_a_split_list(capsys: Capture, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "data", tmp_path / "data")
    (tmp_path / "data" / "ICBHI_challenge_train_test.txt").unlink()
    code, _, err = command(capsys, *train_words(tmp_path / "data", tmp_path / "run"))
    assert code == 1
    assert "no ICBHI_challenge_train_test.txt (or official_split.txt)" in err
    words = ["--set", "split.name=folds"]
    assert command(capsys, *train_words(tmp_path / "data", tmp_path / "run", *words))[0] == 0
    sweep = ["sweep", "m2d_fusion", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "sweep"), *TINY, *words]
    code, _, err = command(capsys, *sweep, "--processes", "1")
    assert code == 0, err


def test_names_that_would_command_the_terminal_or_break_its_lines(capsys: Capture, place: Path, tmp_path: Path) -> None:
    name = "a\x1b[31m\nb.wav"
    shutil.copy(next((place / "data").glob("101*.wav")), tmp_path / name)
    (tmp_path / "bad\x1b.wav").write_bytes(b"no sound")
    code, out, err = command(capsys, "predict", tmp_path, "--model", place / "run")
    assert code == 1
    assert "\x1b" not in out + err
    assert any(line.startswith("a\\x1b[31m\\nb") for line in out.splitlines())


def test_predict_prints_a_table(capsys: Capture, place: Path) -> None:
    recording = next((place / "data").glob("101*.wav"))
    code, out, err = command(capsys, "predict", recording, "--model", place / "run")
    assert (code, err) == (0, "")
    assert out.startswith(recording.stem)
    assert out.count("annotated") == 4
    assert out.endswith("Research tool, not a diagnosis.\n")


def test_predict_windows(capsys: Capture, place: Path, tmp_path: Path) -> None:
    shutil.copy(next((place / "data").glob("101*.wav")), tmp_path / "visit.wav")
    words: list[str | Path] = ["--model", place / "run", "--cycles", "windows"]
    code, out, _ = command(capsys, "predict", tmp_path / "visit.wav", *words, "--json")
    assert code == 0
    (row,) = document(out)["cycles"]
    assert (row["source"], row["start_s"], row["end_s"]) == ("window", 0, 4)
    assert "true_label" not in row
    _, out, _ = command(capsys, "predict", tmp_path / "visit.wav", *words)
    assert "no annotation: windows, not breaths" in out


def test_one_bad_recording_and_one_missing_do_not_hurt_the_others(capsys: Capture, place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"not a sound")
    good = next((place / "data").glob("101*.wav"))
    paths = [tmp_path / "bad.wav", good, tmp_path / "gone.wav"]
    code, out, err = command(capsys, "predict", *paths, "--model", place / "run", "--json")
    assert code == 1
    found = document(out)
    assert [problem.partition(":")[0] for problem in found["problems"]] == [str(paths[0]), str(paths[2])]
    assert len(found["cycles"]) == 4
    assert all(f"rales: {problem}" in err for problem in found["problems"])
    code, out, err = command(capsys, "predict", tmp_path / "bad.wav", "--model", place / "run", "--out", tmp_path / "x")
    assert (code, out) == (1, "")
    assert "bad.wav" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["file/cycles.csv", "folder"])
def test_an_unwritable_place_is_a_sentence(capsys: Capture, place: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("here first")
    (tmp_path / "folder").mkdir()
    words: list[str | Path] = ["--model", place / "run", "--out", tmp_path / name]
    code, _, err = command(capsys, "predict", place / "data", *words)
    assert code == 1
    assert f"{tmp_path / name}: cannot be written" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_embed(capsys: Capture, place: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["embed", place / "data", "--model", place / "run", "--out", tmp_path / "vectors.npz"]
    code, out, err = command(capsys, *words)
    assert (code, out) == (0, "")
    assert "32 vectors of 48 numbers" in err
    vectors = np.load(tmp_path / "vectors.npz")["vectors"]
    assert np.abs(vectors - rales.load(place / "run").embed(place / "data")).max() < 1e-6


def test_status_summary_and_decisions_of_predict(capsys: Capture, place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"not a sound")
    words: list[str | Path] = ["predict", place / "data", tmp_path / "bad.wav", "--model", place / "run"]
    more: list[str | Path] = [
        "--status",
        tmp_path / "status.csv",
        "--summary",
        tmp_path / "summary.parquet",
        "--min-confidence",
        "0.3",
    ]
    code, out, err = command(capsys, *words, *more, "--out", tmp_path / "cycles.parquet", "--json")
    assert code == 1
    assert "rales: " in err
    found = document(out)
    status = pd.read_csv(tmp_path / "status.csv")
    assert status["status"].tolist() == ["ok"] * 8 + ["failed"]
    assert status["sentence"].iloc[-1] == found["problems"][0]
    assert [row["status"] for row in found["status"]] == status["status"].tolist()
    summary = pd.read_parquet(tmp_path / "summary.parquet")
    assert summary["cycles"].tolist() == [4] * 8
    assert (summary["low"] <= summary["abnormal_share"]).sum() == summary["abnormal_share"].notna().sum()
    assert len(found["recordings"]) == 8
    assert "uncertain" in pd.read_parquet(tmp_path / "cycles.parquet")  # its suffix says the format
    assert found["calibration"] is None
    code, _, err = command(capsys, *words, "--threshold", "validation")
    assert (code, "no threshold of validation patients" in err) == (2, True)
    code, _, err = command(capsys, *words, "--status", "x.txt")
    assert (code, "--status x.txt: expected a name" in err) == (2, True)


def test_embed_of_a_layer_and_search(capsys: Capture, place: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["embed", place / "data", "--model", place / "run", "--out", tmp_path / "v.parquet"]
    code, _, err = command(capsys, *words, "--layer", "1", "--per", "recording")
    assert code == 0
    assert "8 vectors of 24 numbers" in err
    recording = next((place / "data").glob("101*.wav"))
    code, out, _ = command(capsys, "search", recording.stem, "--in", tmp_path / "v.parquet", "--top", "3", "--json")
    assert code == 0
    assert len(document(out)["nearest"]) == 3
    code, out, _ = command(capsys, "search", recording, "--in", tmp_path / "v.parquet", "--model", place / "run")
    assert code == 0
    assert "not a diagnosis" in out
    code, _, err = command(capsys, "search", "nobody", "--in", tmp_path / "v.parquet", "--model", place / "run")
    assert (code, "nobody: neither a recording" in err) == (1, True)


def test_explain(capsys: Capture, place: Path, tmp_path: Path) -> None:
    recording = next((place / "data").glob("101*.wav"))
    words: list[str | Path] = ["explain", recording, "--cycle", "2", "--model", place / "run"]
    code, out, err = command(capsys, *words, "--out", tmp_path / "why.png", "--target", "wheeze")
    assert (code, out) == (0, "")
    assert (tmp_path / "why.png").is_file()
    assert list(pd.read_csv(tmp_path / "why.csv").columns) == ["hz", "time_s", "recording_s", "contribution"]
    code, out, _ = command(capsys, *words, "--json")
    assert (code, document(out)["cycle"]) == (0, 2)
    code, out, _ = command(capsys, *words)
    assert (code, "log-odds of" in out) == (0, True)
    code, _, err = command(capsys, *words, "--out", tmp_path / "why.pdf")
    assert (code, "ends in .png" in err) == (2, True)


@pytest.mark.usefixtures("jobs_in_this_process")
def test_predict_from_a_manifest(capsys: Capture, place: Path, tmp_path: Path) -> None:
    paths = sorted((place / "data").glob("*.wav"))
    pd.DataFrame({"path": [str(path) for path in paths] + ["gone.wav"]}).to_csv(tmp_path / "all.csv", index=False)
    words: list[str | Path] = ["predict", "--manifest", tmp_path / "all.csv", "--model", place / "run"]
    code, out, err = command(capsys, *words, "--out", tmp_path / "out", "--processes", "1", "--json")
    assert code == 1
    assert "gone.wav" in err
    found = document(out)
    assert (found["ok"], found["failed"], found["cycles"]) == (8, 1, 32)
    stored = pd.read_parquet(tmp_path / "out" / "cycles")
    wanted = rales.load(place / "run").predict(place / "data")
    assert np.abs(stored[P].to_numpy() - wanted[P].to_numpy()).max() < 1e-6
    code, _, err = command(capsys, *words)
    assert (code, "--manifest: expected --out FOLDER" in err) == (2, True)
    code, _, err = command(capsys, *words, place / "data", "--out", tmp_path / "out")
    assert (code, "expected paths of recordings, or --manifest" in err) == (2, True)


def test_weights(capsys: Capture) -> None:
    code, out, _ = command(capsys, "weights", "--json")
    assert code == 0
    assert {"name", "address"} <= set(document(out)["weights"][0])
    code, out, _ = command(capsys, "weights")
    assert code == 0
    assert "m2d_vit_base-80x608p16x16-221006-mr7" in out


def test_report(capsys: Capture, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--out", tmp_path / "report", "--data", place / "data", "--json"]
    code, out, _ = command(capsys, "report", place / "run", *words)
    assert code == 0
    assert Path(document(out)["report"]).is_file()


# How the command ends


def test_a_missing_model_is_a_problem_not_wrong_usage(capsys: Capture, place: Path, tmp_path: Path) -> None:
    code, out, err = command(capsys, "predict", place / "data", "--model", tmp_path / "nothing")
    assert (code, out) == (1, "")
    assert "nothing: no such checkpoint" in err


def test_ctrl_c_says_how_to_go_on(
    capsys: Capture, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = train_words(place / "data", tmp_path / "run")
    with monkeypatch.context() as patch:

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(finetune, "finish_training", interrupted)
        code, out, err = command(capsys, *words)
    assert (code, out) == (130, "")
    assert "interrupted; the same command goes on where it stopped" in err
    code, out, _ = command(capsys, *words, "--json")
    assert code == 0
    assert document(out)["confusion"] == run_folder.read_json(place / "run" / "evaluation.json")["confusion"]


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("sweep m2d_fusion", "goes on where it stopped"),
        ("predict --manifest x.csv --out y", "goes on where it stopped"),
        ("predict --out y --manifest=x.csv", "goes on where it stopped"),
        ("weights mr7", "goes on where it stopped"),
        ("predict x.wav --out y.csv", "starts anew"),
        ("embed x.wav --out y.npz", "starts anew"),
        ("synth x", "starts anew"),
        ("", "starts anew"),
    ],
)
def test_ctrl_c_promises_only_what_is_true(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: str, ends: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rales.cli.app", interrupted)
    assert command(capsys, *words.split()) == (130, "", f"rales: interrupted; the same command {ends}\n")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    piped = f"{sys.executable} -m rales weights --json | true"  # true has left long before
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", piped], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_traceback_on_request(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["predict", str(place / "data"), "--model", str(tmp_path / "nothing")])


@pytest.mark.parametrize(
    "words",
    [
        ["m2d_fusion", "--weights", "respirenet"],
        ["--weights", "respirenet", "m2d_fusion", "--help"],
        ["--json", "--out=respirenet", "m2d_fusion"],
    ],
)
def test_the_value_of_an_option_is_no_recipe(words: list[str]) -> None:
    assert find_first_argument(words) == "m2d_fusion"
    assert find_first_argument(words[:2]) in ("m2d_fusion", None)
