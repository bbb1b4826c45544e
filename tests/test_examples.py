"""What examples/own.py defines outside the package goes through all words of the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rales
from rales.data import read_cycles
from rales.errors import UsageError
from rales.labels import CLASSES, LabelSet
from rales.recipes.registry import make_recipe
from rales.registry import EXPORT_TARGETS
from tests import tiny
from tests.command import command
from tests.conftest import REPOSITORY

OWN = REPOSITORY / "examples" / "own.py"
OWN_CLASSES = ("normal", "rhonchi", "stridor")
WORDS = {"normal": "Normal", "crackle": "STRIDOR", "wheeze": "rhonchi", "both": "rhonchi"}  # as a clinic writes them
P = [f"p_{name}" for name in CLASSES]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> folder in the example's layout, of the sounds and cycles of the tiny one, with words of its own."""
    folder = tmp_path_factory.mktemp("own")
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    (folder / "clinic").mkdir()
    for path in sorted(set(cycles["path"])):
        shutil.copy(path, folder / "clinic")
    columns = ["recording", "patient", "split", "start_s", "end_s", "word"]
    cycles.assign(word=cycles["label"].map(WORDS))[columns].to_csv(
        folder / "clinic" / "labels.txt", sep=" ", header=False, index=False
    )
    return folder / "clinic"


def run(capsys: Capture, *words: object) -> str:
    """The command, which must end with 0 -> what it printed."""
    code, out, said = command(capsys, *map(str, words))
    assert code == 0, said
    return out


def test_it_is_short() -> None:
    assert len([line for line in OWN.read_text().splitlines() if line.strip()]) < 60


def test_the_readers_cycles_are_those_of_the_same_folder_in_icbhi_layout(clinic: Path, capsys: Capture) -> None:
    ours = read_cycles(clinic.parent / "data")
    own = read_cycles(f"{OWN}:read_clinic:{clinic}", label_set=LabelSet(OWN_CLASSES))
    same = ["recording", "cycle", "patient", "start_s", "end_s", "split"]
    pd.testing.assert_frame_equal(own[same], ours[same])
    assert own["label"].tolist() == ours["label"].map(WORDS).str.lower().tolist()
    check = ["check", f"{OWN}:read_clinic:{clinic}", "--classes", ",".join(OWN_CLASSES), "--json"]
    found = json.loads(run(capsys, *check))
    assert (found["cycles"], found["classes"]) == (len(ours), {"normal": 8, "rhonchi": 16, "stridor": 8})
    (clinic / "x.wav").write_bytes(b"no sound")
    with (clinic / "labels.txt").open("a") as file:
        file.write("x 1 train 0 1 normal\n")
    code, out, _ = command(capsys, *check)
    assert (code, json.loads(out)["damaged_recordings"]) == (1, ["x"])
    shortened = (clinic / "labels.txt").read_text().rpartition("x 1 train")[0]
    (clinic / "labels.txt").write_text(shortened)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("x 1 train 0 1 rhonchus", "the cycle 0-1 s: label 'rhonchus' is none of the classes; did you mean rhonchi?"),
        ("x 1 train 3 2 normal", "the cycle ends at 2 s, not after its start at 3 s"),
        ("x 1 train 50 60 normal", "lies past the end of the recording, which lasts 4.000 s"),
        ("x 1 Test 0 1 normal", "split 'Test', expected train, test or none"),
    ],
)
def test_what_an_own_reader_gives_is_held_against_what_can_be(
    clinic: Path, tmp_path: Path, capsys: Capture, line: str, problem: str
) -> None:
    shutil.copy(min(clinic.glob("*.wav")), tmp_path / "x.wav")
    (tmp_path / "labels.txt").write_text(f"{line}\n")
    code, out, _ = command(
        capsys, "check", f"{OWN}:read_clinic:{tmp_path}", "--classes", "normal,rhonchi,stridor", "--json"
    )
    told = json.loads(out)
    assert (code, told["damaged_recordings"]) == (1, ["x"])
    assert problem in told["problems"][0]


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("name", ["small_cnn", "dropout_fusion"])
def test_an_own_system_goes_through_all_words(name: str, clinic: Path, tmp_path: Path, capsys: Capture) -> None:
    data, model, sound = f"{OWN}:read_clinic:{clinic}", tmp_path / "runs" / name, min(clinic.glob("*.wav"))
    settings = ["--epochs", 1, "--device", "cpu", "--set", "audio.duration_s=1"]
    settings += ["--set", "width=4"] if name == "small_cnn" else ["--size", "tiny", "--classes", ",".join(OWN_CLASSES)]
    run(capsys, "train", f"{OWN}:{name}", "--data", data, "--out", model, *settings)
    stored = json.loads((model / "evaluation.json").read_text())

    evaluated = json.loads(run(capsys, "evaluate", model, "--data", data, "--device", "cpu", "--json"))
    assert evaluated["confusion"] == stored["confusion"]
    assert evaluated["protocol"]["recipe"] == name
    assert (evaluated["classes"], list(evaluated["by_class"])) == (list(OWN_CLASSES), list(OWN_CLASSES))
    assert np.shape(evaluated["confusion"]) == (3, 3)
    run(capsys, "predict", sound, "--model", model, "--out", tmp_path / "cycles.csv")
    predicted, columns = pd.read_csv(tmp_path / "cycles.csv"), [f"p_{word}" for word in OWN_CLASSES]
    assert np.allclose(predicted[columns].sum(axis=1), 1)
    assert [name for name in map(str, predicted) if name.startswith("p_")] == columns
    assert predicted["label"].isin(OWN_CLASSES).all()
    assert "strict 3-class" in run(capsys, "evaluate", model, "--data", data, "--device", "cpu")
    printed = run(capsys, "predict", sound, "--model", model)
    assert all(word in printed for word in OWN_CLASSES)
    run(capsys, "embed", sound, "--model", model, "--out", tmp_path / "vectors.npz")
    run(capsys, "export", model, "--to", "onnx", "--out", tmp_path / "model.onnx")
    run(capsys, "predict", sound, "--model", tmp_path / "model.onnx", "--out", tmp_path / "again.csv")
    apart = predicted[columns] - pd.read_csv(tmp_path / "again.csv")[columns]
    assert apart.abs().to_numpy().max() < 1e-4
    if name == "dropout_fusion":  # explanations are of an encoder's patches
        run(capsys, "explain", sound, "--cycle", 1, "--model", model, "--out", tmp_path / "why.png")
    run(capsys, "report", tmp_path / "runs", "--out", tmp_path / "report")
    assert name in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.usefixtures("jobs_in_this_process")
def test_an_own_system_is_swept(clinic: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["--data", f"{OWN}:read_clinic:{clinic}", "--out", tmp_path, "--grid", "width=2,4", "--epochs", 1]
    out = run(capsys, "sweep", f"{OWN}:small_cnn", *words, "--set", "train.device=cpu", "--set", "audio.duration_s=1")
    assert "done: 2" in out
    widths = [json.loads(path.read_text())["config"]["width"] for path in sorted(tmp_path.glob("*/config.json"))]
    assert widths == [2, 4]


def test_an_own_encoder_is_fused(clinic: Path, tmp_path: Path, capsys: Capture) -> None:
    own = tmp_path / "own_encoder.py"
    shutil.copy(REPOSITORY / "examples" / "own_encoder.py", own)
    settings = [f"encoder={own}:conv_encoder", "model.depth=2", "audio.duration_s=1"]
    words: list[object] = [word for setting in settings for word in ("--set", setting)]
    words += ["--size", "tiny", "--epochs", 1, "--device", "cpu"]
    run(capsys, "train", "m2d_fusion", "--data", clinic.parent / "data", "--out", tmp_path / "run", *words)
    assert list(json.loads((tmp_path / "run" / "layer_weights.json").read_text())) != []
    sound = min(clinic.glob("*.wav"))
    predicted = json.loads(run(capsys, "predict", sound, "--model", tmp_path / "run", "--json"))
    assert len(predicted["cycles"]) > 0
    assert rales.load(tmp_path / "run").embed(sound).shape[1] == 2 * 32
    with own.open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"made by encoder .*own_encoder.py, which has changed since"):
        rales.load(tmp_path / "run")
    (tmp_path / "none.py").write_text("from torch import nn\n\n\ndef none(settings):\n    return nn.Linear(1, 1)\n")
    chosen = make_recipe("m2d_fusion", [f"encoder={tmp_path / 'none.py'}:none"])
    with pytest.raises(UsageError, match=r"has no dim and no depth, expected whole numbers"):
        chosen.build_model(chosen.settings)
    with pytest.raises(UsageError, match="an own encoder loads its own weights; leave --weights out"):
        make_recipe("m2d_fusion", [f"encoder={tmp_path / 'none.py'}:none"], weights="rales")


@pytest.mark.parametrize(
    ("given", "code", "sentence"),
    [
        ("nowhere.py:read:data", 2, "nowhere.py: no such file; expected the reader as FILE.py:NAME"),
        (f"{OWN}:no_reader:data", 2, "holds no 'no_reader'; expected the reader as FILE.py:NAME"),
        (f"{OWN}:read_clinic:nowhere", 1, "nowhere"),
        (f"{OWN}:build_cnn:data", 2, "expected a function (path, *, audio, decode) -> DatasetContents"),
    ],
)
def test_a_wrong_reader_is_a_sentence(given: str, code: int, sentence: str, capsys: Capture) -> None:
    ended, _, said = command(capsys, "check", given)
    assert (ended, "Traceback" in said) == (code, False)
    assert sentence in said


@pytest.mark.usefixtures("blank_pictures")
def test_an_own_metric_stands_beside_ours(clinic: Path, tmp_path: Path, capsys: Capture) -> None:
    """Its figures are those of the stored predictions, computed here otherwise; the run does without its file."""
    own, run_folder = tmp_path / "own_metric.py", tmp_path / "runs" / "a"
    shutil.copy(REPOSITORY / "examples" / "own_metric.py", own)
    words = ["--epochs", 1, "--device", "cpu", "--set", "audio.duration_s=1", "--set", "width=4"]
    words += ["--classes", ",".join(CLASSES), "--set", f"train.metrics={own}:brier_score,{own}:hit_rates"]
    data = clinic.parent / "data"
    printed = run(capsys, "train", f"{OWN}:small_cnn", "--data", data, "--out", run_folder, *words)

    table = pd.read_csv(run_folder / "predictions.csv")
    right = [dict(zip(CLASSES, row, strict=True))[true] for *row, true in table[[*P, "true_label"]].to_numpy()]
    brier = np.mean((table[P] ** 2).sum(axis=1) - 2 * np.array(right, float) + 1)
    figures = json.loads((run_folder / "evaluation.json").read_text())["own"]
    assert list(figures) == ["brier_score", "hit_rates.first_1", "hit_rates.first_2"]
    assert figures["brier_score"]["value"] == pytest.approx(brier, abs=1e-6)
    assert figures["hit_rates.first_1"]["value"] == (table["label"] == table["true_label"]).mean()
    assert f"brier_score {brier:.3f}, 95 %" in printed
    low, high = figures["brier_score"]["ci95"]
    assert 0 < low <= figures["brier_score"]["value"] <= high
    last = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["own"]["brier_score"] == pytest.approx(brier, abs=1e-6)
    run(capsys, "report", run_folder, "--out", tmp_path / "report")
    assert f"{brier:.3f}" in (tmp_path / "report" / "report.md").read_text().partition("Own metrics")[2]

    own.write_text("raise SystemExit('a stranger's file')\n")
    metric = f"{REPOSITORY / 'examples' / 'own_metric.py'}:brier_score"
    words = ["evaluate", run_folder, "--data", data, "--device", "cpu"]
    told = run(capsys, *words, "--metric", metric, "--json")
    assert json.loads(told)["own"] == {"brier_score": figures["brier_score"]}


def test_an_own_export_target_is_run_where_it_is_named(clinic: Path, tmp_path: Path, capsys: Capture) -> None:
    target, sound = f"{REPOSITORY / 'examples' / 'own_target.py'}:PT2", min(clinic.glob("*.wav"))
    tiny.save(tiny.model(), tmp_path / "model.safetensors")
    made = run(
        capsys, "export", tmp_path / "model.safetensors", "--to", target, "--out", tmp_path / "model.pt2", "--json"
    )
    assert json.loads(made)["format"] == "pt2"
    own = rales.load(tmp_path / "model.safetensors").predict(sound)[P]
    words = ["predict", sound, "--model", tmp_path / "model.pt2"]
    run(capsys, *words, "--engine", target, "--out", tmp_path / "cycles.csv")
    assert (pd.read_csv(tmp_path / "cycles.csv")[P] - own).abs().to_numpy().max() < 1e-5
    code, _, said = command(capsys, *map(str, words))  # nothing in the file says whose code would read it
    assert (code, "Traceback" in said) == (1, False)
    rales.register_export_target("pt2", EXPORT_TARGETS.find(target))
    try:
        run(capsys, *words, "--out", tmp_path / "again.csv")
    finally:
        EXPORT_TARGETS.registered.clear()
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "cycles.csv").read_text()
    code, _, said = command(capsys, "export", "x", "--to", "onnnx", "--out", "x.onnx")
    assert (code, "no export target 'onnnx'; the nearest is 'onnx'" in said) == (2, True)
    code, _, said = command(capsys, *map(str, words), "--engine", f"{OWN}:small_cnn")
    assert (code, "is a function, expected an ExportTarget" in said) == (2, True)
