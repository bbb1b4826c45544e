"""Own classes go from the words of a dataset to the tables of predictions; what cannot be a class is a sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rales
from rales.data import read_cycles
from rales.data.annotations import read_annotation
from rales.errors import UsageError
from rales.evaluation import recordings
from rales.evaluation.metrics import compute_metrics, independent_metrics, mean_auroc, normal_threshold
from rales.export.artefact import make_probe
from rales.export.make_artefact import make_artefact
from rales.export.torch_export import wave_to_probabilities
from rales.inference.audio_reader import find_cycles
from rales.inference.prediction_writers import audacity_labels, format_labels, raven_selections
from rales.labels import CLASSES, ICBHI, LabelSet
from rales.recipes.registry import make_recipe
from rales.report.challenge import challenge_table
from rales.report.load_runs import read_run
from rales.report.systems import group_into_systems
from rales.training import finetune, run_folder
from rales.training.losses import positive_weights
from tests import tiny
from tests.command import command

OWN = LabelSet(("normal", "rhonchi", "stridor"))
FINDINGS = LabelSet(("crackle", "wheeze", "stridor"), independent=True)
NATIVE = ("Normal", "Rhonchi", "Wheeze", "Stridor", "Coarse Crackle", "Fine Crackle", "Wheeze+Crackle")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("classes", "independent", "sentence"),
    [
        (("normal",), False, "1 class; expected 2 to 20"),
        ((), True, "0 classes; expected 1 to 20"),
        (tuple(f"c{number}" for number in range(21)), False, "21 classes; expected 2 to 20"),
        (("normal", "Fine Crackle", "fine_crackle"), False, "the class 'fine_crackle' is named twice"),
        (("normal", "=cmd"), False, "'=cmd' cannot be the name of a class"),
        (("normal", "a,b"), False, "'a,b' cannot be the name of a class"),
        (("normal", "x/../../evil"), False, "'x/../../evil' cannot be the name of a class"),
        (("normal", "x\\evil"), False, "cannot be the name of a class"),
        (("normal", "a\nb"), False, "cannot be the name of a class"),
        (("normal", " b"), False, "' b' cannot be the name of a class"),
        (("normal", ""), False, "'' cannot be the name of a class"),
        (("normal", "None"), False, "take it for an empty cell"),
        (("a+b",), True, "'a+b' cannot be the name of a class"),
        (("Normal", "wheeze"), True, "'normal' cannot be one of several independent classes"),
        (("normal", "cycles"), False, "tables of recordings have another column of that name"),
        (("abnormal", "normal"), False, "and that is not 'abnormal'; put it later"),
        (("sick", "Normal"), False, "and that is not 'sick'; put it later"),
        (("normal", "x" * 41), False, "has 41 letters, expected at most 40"),
    ],
)
def test_what_cannot_be_classes_is_a_sentence(classes: tuple[str, ...], independent: bool, sentence: str) -> None:
    assert sentence in LabelSet(classes, independent).describe_problem()


@pytest.mark.parametrize("classes", [CLASSES, NATIVE, OWN.classes, tuple(f"c{n}" for n in range(20)), ("sick", "well")])
def test_what_can_be_classes(classes: tuple[str, ...]) -> None:
    assert LabelSet(classes).describe_problem() == ""


@pytest.mark.parametrize(
    ("label_set", "word", "flags", "label"),
    [
        (ICBHI, "Rhonchi", (0, 1), "wheeze"),
        (ICBHI, "", (1, 1), "both"),
        (ICBHI, "Both", (None, None), "both"),
        (OWN, "RHONCHI", (0, 1), "rhonchi"),
        (OWN, "", (0, 0), "normal"),
        (LabelSet(("Normal", "Fine Crackle")), "fine-crackle", (1, 0), "Fine Crackle"),
        (LabelSet(("normal", "abnormal")), "Stridor", (0, 1), "abnormal"),
        (LabelSet(("normal", "abnormal")), "", (1, 1), "abnormal"),
        (LabelSet(("healthy", "crackle", "wheeze", "both")), "", (0, 0), "healthy"),
        (LabelSet(("crackle",), independent=True), "", (0, 1), "normal"),
        (LabelSet(("wheeze", "crackle"), independent=True), "", (1, 1), "wheeze+crackle"),
        (FINDINGS, "Stridor+wheeze", (None, None), "wheeze+stridor"),
        (FINDINGS, "normal", (None, None), "normal"),
        (FINDINGS, "", (1, 0), "crackle"),
    ],
)
def test_words_and_flags_become_labels(label_set: LabelSet, word: str, flags: tuple[Any, Any], label: str) -> None:
    assert label_set.label_cycle(word, *flags) == label


@pytest.mark.parametrize(
    ("label_set", "word", "flags", "sentence"),
    [
        (
            OWN,
            "rhonchus",
            (0, 1),
            "label 'rhonchus' is none of the classes; did you mean rhonchi? Known: normal, rhonchi",
        ),
        (OWN, "", (1, 0), "crackle 1 and wheeze 0, without a word, is none of the classes"),
        (OWN, "", (None, None), "has neither a word nor flags"),
        (LabelSet(("normal", "crackle", "wheeze")), "", (1, 1), "crackle 1 and wheeze 1, without a word, is none"),
        (LabelSet(("rhonchi", "stridor"), independent=True), "", (1, 0), "crackle 1 and wheeze 0, without a word"),
        (FINDINGS, "wheeze+squawk", (None, None), "label 'wheeze+squawk' is none of the classes"),
    ],
)
def test_what_is_none_of_the_classes_is_told(
    label_set: LabelSet, word: str, flags: tuple[Any, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=r"classes|neither") as told:
        label_set.label_cycle(word, *flags)
    assert sentence in str(told.value)


def test_targets_are_undone_and_rows_are_numbered() -> None:
    labels = ["normal", "wheeze+stridor", "crackle"]
    targets = FINDINGS.make_targets(labels)
    assert targets.tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert FINDINGS.name_targets(targets) == labels
    assert FINDINGS.encode_rows(targets).tolist() == [0, 6, 1]
    assert FINDINGS.count_labels(labels) == {"normal": 1, "crackle": 1, "wheeze": 1, "stridor": 1}
    assert OWN.name_targets(OWN.make_targets(["stridor", "normal"])) == ["stridor", "normal"]
    assert OWN.count_labels(["stridor", "stridor"]) == {"normal": 0, "rhonchi": 0, "stridor": 2}


def test_figures_of_three_classes_by_hand() -> None:
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7]])
    found = compute_metrics([0, 0, 1, 2, 2], p, OWN)
    assert (found["specificity"], found["sensitivity"], found["score"]) == pytest.approx((1 / 2, 2 / 3, 7 / 12))
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert found["two_class"]["sensitivity"] == pytest.approx(2 / 3)
    aurocs = [found["by_class"][name]["auroc"] for name in OWN.classes]
    assert aurocs == pytest.approx([5 / 6, 1.0, 1.0])  # pairs in the right order, by hand
    assert found["auroc"] == pytest.approx(np.mean(aurocs))
    assert found["classes"] == list(OWN.classes)
    assert not {"crackle_present", "wheeze_present"} & set(found)


def test_figures_of_independent_classes_by_hand() -> None:
    true = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    p = [[0.1, 0.2, 0.3], [0.6, 0.1, 0.1], [0.9, 0.1, 0.2], [0.9, 0.2, 0.1], [0.1, 0.1, 0.8]]
    found = independent_metrics(true, p, FINDINGS)
    assert (found["specificity"], found["sensitivity"], found["score"]) == pytest.approx((1 / 2, 2 / 3, 7 / 12))
    assert found["two_class"] == pytest.approx({"specificity": 0.5, "sensitivity": 1.0, "score": 0.75})
    assert found["confusion_per_class"] == {
        "crackle": [[2, 1], [0, 2]],
        "wheeze": [[4, 0], [1, 0]],
        "stridor": [[4, 0], [0, 1]],
    }
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert mean_auroc(true, p, FINDINGS) == found["auroc"] == pytest.approx(np.mean([1.0, 3.5 / 4, 1.0]))
    assert "confusion" not in found
    assert normal_threshold(true[:3], p[:3], FINDINGS) == 0.6  # above the only wrong answer, and below the right one


WORD_OF = {"normal": "Normal", "crackle": "stridor", "wheeze": "Rhonchi", "both": "RHONCHI"}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("label_sets") / "data")


def write_manifest(sounds: Path, name: str, **columns: Any) -> Path:
    """Folder in ICBHI layout, and columns by name, a function of its label each -> a table of the same cycles."""
    cycles, path = read_cycles(sounds), sounds.parent / name
    known = {column: [of(label) for label in cycles["label"]] for column, of in columns.items()}
    cycles[["path", "start_s", "end_s", "patient", "split"]].assign(**known).to_csv(path, index=False)
    return path


def run(capsys: Capture, *words: object) -> str:
    """The command, which must end with 0 -> what it printed."""
    code, out, said = command(capsys, *map(str, words))
    assert code == 0, said
    return out


def train(capsys: Capture, data: Path, out: Path, *words: object) -> None:
    """`rales train` of the two-layer network for one epoch."""
    settings = [*tiny.SETTINGS, "audio.duration_s=1", "train.epochs=1"]
    quick = [word for setting in settings for word in ("--set", setting)]
    run(capsys, "train", "m2d_fusion", "--size", "tiny", "--data", data, "--out", out, *words, *quick)


def test_words_of_a_manifest(sounds: Path, capsys: Capture) -> None:
    table = write_manifest(sounds, "words.csv", label=WORD_OF.get)
    found = read_cycles(table, label_set=OWN)
    assert set(found["label"]) == set(OWN.classes)
    assert found[["crackle", "wheeze"]].isna().all(axis=None)
    counts = json.loads(run(capsys, "check", table, "--classes", "normal,rhonchi,stridor", "--json"))["classes"]
    assert counts == {"normal": 8, "rhonchi": 16, "stridor": 8}
    assert "stridor" in run(capsys, "check", table, "--classes", "normal,rhonchi,stridor")

    code, out, _ = command(capsys, "check", str(table), "--classes", "normal,rhonchus,stridor")
    assert code == 1
    assert "words.csv, line" in out
    assert "label 'Rhonchi' is none of the classes; did you mean rhonchus? Known: normal, rhonchus, stridor" in out
    code, out, _ = command(capsys, "check", str(table))
    assert code == 1
    assert "label 'stridor' is not known; expected one of normal, crackle, wheeze, both (other classes are named" in out


def test_columns_of_independent_classes_and_what_is_no_answer(sounds: Path, capsys: Capture) -> None:
    findings = {"stridor": ("crackle", "both"), "Rhonchi": ("wheeze", "both")}
    columns = {name: lambda label, of=of: int(label in of) for name, of in findings.items()}
    label_set = LabelSet(("rhonchi", "stridor"), independent=True)
    found = read_cycles(write_manifest(sounds, "columns.csv", **columns), label_set=label_set)
    flagged = read_cycles(sounds, label_set=LabelSet(("wheeze", "crackle"), independent=True))
    assert (found["label"] == flagged["label"].replace({"wheeze": "rhonchi", "crackle": "stridor"}, regex=True)).all()
    assert set(found["label"]) == {"normal", "rhonchi", "stridor", "rhonchi+stridor"}
    table = write_manifest(sounds, "wrong.csv", stridor=lambda label: "perhaps", rhonchi=lambda label: 0)
    code, out, _ = command(capsys, "check", str(table), "--classes", "rhonchi,stridor", "--independent")
    assert code == 1
    assert "wrong.csv, line 2: stridor is 'perhaps', expected 0 or 1" in out


@pytest.mark.parametrize(
    ("label_set", "columns", "sentence"),
    [
        (("normal", "abnormal"), {"label": "abnormal", "crackle": 0, "wheeze": 0}, "which is normal"),
        (("normal", "abnormal"), {"label": "stridor", "crackle": 0, "wheeze": 0}, "label 'stridor' is none of"),
        (("wheeze", "crackle"), {"label": "stridor", "crackle": 0, "wheeze": 0}, "label 'stridor', but the columns"),
        (("wheeze", "crackle"), {"label": "crackle", "crackle": 0, "wheeze": 1}, "say wheeze"),
        (("crackle", "stridor"), {"label": "stridor", "crackle": 1, "stridor": 0}, "say crackle"),
        (("normal", "crackle", "stridor"), {"label": "crackle", "crackle": 0, "wheeze": 0}, "which is normal"),
        (("normal", "crackle", "stridor"), {"label": "normal", "crackle": 1, "wheeze": 0}, "which is crackle"),
    ],
)
def test_words_and_columns_must_agree(
    label_set: tuple[str, ...], columns: dict[str, Any], sentence: str, sounds: Path, capsys: Capture
) -> None:
    table = write_manifest(sounds, "contrary.csv", **{name: lambda _, value=v: value for name, v in columns.items()})
    words = ["--classes", ",".join(label_set), *(["--independent"] if "normal" not in label_set else [])]
    code, out, _ = command(capsys, "check", str(table), *words)
    assert code == 1
    assert sentence in out


def test_answers_for_recordings_are_those_of_the_four_classes_alone() -> None:
    names = [*CLASSES, "stridor"]
    table = pd.DataFrame({"path": ["a"], "recording": ["a"], "label": ["stridor"], **{f"p_{n}": [0.2] for n in names}})
    summary = pd.DataFrame({"path": ["a"], "recording": ["a"]})
    assert list(recordings.add_answers(summary, table)) == ["path", "recording"]
    assert "p_any_crackle" in recordings.add_answers(summary, table.drop(columns="p_stridor"))


def test_a_class_that_all_rows_have_counts() -> None:
    assert positive_weights([0, 4, 1], 4).tolist() == [0, 1, 3]


def test_classes_asked_for_again_are_exclusive_unless_said(tmp_path: Path) -> None:
    recipe = tiny.recipe("classes=crackle,wheeze", "independent=yes")
    torch.manual_seed(0)
    model = recipe.build_model(recipe.settings)
    tensors = finetune.tensors_of(model, recipe.build_frontend(recipe.settings))
    run_folder.save_tensors(tmp_path / "model.safetensors", tensors, tiny.record_of(recipe))
    asked = {"from_model": str(tmp_path / "model.safetensors"), "classes": "healthy,rhonchi"}
    plain = make_recipe(None, asked)
    assert not plain.settings.independent
    assert "it has healthy, rhonchi now" in plain.notes[0]
    assert make_recipe(None, {**asked, "independent": "yes"}).settings.independent


def test_flags_alone_make_a_binary_set(sounds: Path) -> None:
    found, flags = read_cycles(sounds, label_set=LabelSet(("normal", "abnormal"))), read_cycles(sounds)
    assert (found["label"].eq("normal") == flags["label"].eq("normal")).all()
    assert found.drop(columns="label").equals(flags.drop(columns="label"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--classes", "normal"], "--classes normal: 1 class; expected 2 to 20"),
        (["--classes", ",".join(f"c{n}" for n in range(21))], "21 classes; expected 2 to 20"),
        (["--classes", "normal,Stridor,stridor"], "the class 'stridor' is named twice"),
    ],
)
@pytest.mark.parametrize("word", ["check", "train"])
def test_wrong_classes_are_usage_errors(
    word: str, words: list[str], sentence: str, sounds: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = ["train", "m2d_fusion", "--out", str(tmp_path / "run"), "--data"] if word == "train" else ["check"]
    code, _, said = command(capsys, *before, str(sounds), *words)
    assert (code, sentence in said) == (2, True)


INDEPENDENT_REFUSED = {"respirenet", "moummad_scl", "moummad_mscl", "moummad_hybrid", "nguyen_cotuning"}
ICBHI_ONLY = {"respirenet", "wang_splice", "lungattn"}


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_recipes_say_which_classes_they_cannot_have(name: str) -> None:
    """And every other one has a network for three, whose loss and gradients are numbers either way."""
    own: dict[str, Any] = {"classes": OWN.classes, "size": "tiny"}
    for independent in (False, True):
        words = {**own, "independent": independent}
        if name in ICBHI_ONLY or (independent and name in INDEPENDENT_REFUSED):
            with pytest.raises(UsageError, match=r"--classes normal,rhonchi,stridor: |--independent: "):
                make_recipe(name, words)
        elif not independent:
            settings = make_recipe(name, words).settings
            network = make_recipe(name, words).build_model(settings)
            assert any(parameter.shape == (3,) for parameter in network.parameters())
    if name in ICBHI_ONLY | INDEPENDENT_REFUSED:
        assert make_recipe(name, size="tiny").settings.label_set == ICBHI


def test_the_balanced_sampler_refuses_independent_classes() -> None:
    with pytest.raises(UsageError, match=r"train.sampler=balanced: draws exclusive classes equally often"):
        make_recipe("m2d_fusion", {"classes": "a,b", "independent": True, "train.sampler": "balanced"})


def test_independent_classes_from_the_table_to_the_artefact(sounds: Path, tmp_path: Path, capsys: Capture) -> None:
    words = {"normal": "normal", "crackle": "stridor", "wheeze": "wheeze", "both": "wheeze + Stridor"}
    table, model = write_manifest(sounds, "findings.csv", label=words.get), tmp_path / "run"
    chosen = ["--classes", "wheeze,stridor", "--independent"]
    train(capsys, table, model, *chosen, "--select", "validation", "--set", "train.validation_share=0.4")
    record, figures = (json.loads((model / f"{name}.json").read_text()) for name in ("config", "evaluation"))
    assert (record["classes"], record["independent"]) == (["wheeze", "stridor"], True)
    assert record["split"]["test"]["classes"] == {"normal": 3, "wheeze": 6, "stridor": 6}
    assert np.sum(figures["confusion_per_class"]["stridor"]) == 12
    assert "confusion" not in figures

    evaluated = json.loads(run(capsys, "evaluate", model, "--data", table, "--device", "cpu", "--json"))
    same = ["specificity", "sensitivity", "score", "confusion_per_class", "by_class"]
    assert {name: evaluated[name] for name in same} == {name: figures[name] for name in same}
    # of other batches than in training, so that the last bits may differ
    assert evaluated["validation_temperature"] == pytest.approx(figures["validation_temperature"], rel=1e-4)
    assert "falsely named" in run(capsys, "evaluate", model, "--data", table, "--device", "cpu")

    stored = pd.read_csv(model / "predictions.csv")
    named = [" + ".join(n for n in ("wheeze", "stridor") if row[f"p_{n}"] > 0.5) for _, row in stored.iterrows()]
    assert stored["label"].tolist() == [name.replace(" ", "") or "normal" for name in named]
    predictor = rales.load(model, device="cpu")
    assert (predictor.label_set.independent, predictor.classes) == (True, ("wheeze", "stridor"))
    sound, columns = min(sounds.glob("*.wav")), ["p_wheeze", "p_stridor"]
    run(capsys, "predict", sound, "--model", model, "--out", tmp_path / "a.csv", "--summary", tmp_path / "summary.csv")
    answers = pd.read_csv(tmp_path / "a.csv")[columns].to_numpy()
    assert np.abs(answers.sum(axis=1) - 1).max() > 1e-3  # no softmax
    counts = pd.read_csv(tmp_path / "summary.csv").iloc[0]
    assert counts["normal"] + counts["abnormal"] == counts["cycles"] == 4
    run(capsys, "explain", sound, "--cycle", 1, "--model", model, "--target", "stridor", "--out", tmp_path / "why.png")
    run(capsys, "embed", sound, "--model", model, "--out", tmp_path / "vectors.npz")

    clips = make_probe(predictor.recipe)
    with torch.inference_mode():
        graph = wave_to_probabilities(predictor)(torch.from_numpy(clips)).numpy()
    assert np.abs(graph - predictor.probabilities(clips)).max() < 1e-5


@pytest.mark.slow
def test_an_artefact_of_independent_classes_answers_as_its_model(sounds: Path, tmp_path: Path) -> None:
    model, sound = tiny.model("classes=wheeze,stridor", "independent=true"), min(sounds.glob("*.wav"))
    make_artefact(model, "onnx", "float32").save(tmp_path / "model.onnx")
    artefact = rales.load(tmp_path / "model.onnx")
    assert artefact.label_set == LabelSet(("wheeze", "stridor"), independent=True)
    columns = ["p_wheeze", "p_stridor"]
    apart = artefact.predict(sound)[columns].to_numpy() - model.predict(sound)[columns].to_numpy()
    assert np.abs(apart).max() < 1e-4


def test_the_native_types_of_sprsound(sounds: Path, tmp_path: Path, capsys: Capture) -> None:
    """One recording for each side of the split, with an event of every type and a sound of the tiny folder."""
    files = sorted(sounds.glob("*.wav"))
    for part, patient, file in (("train", 100, files[0]), ("test", 200, files[-1])):
        name = f"{patient}_3.5_0_p1_1"
        events = [{"start": 500 * i, "end": 500 * i + 450, "type": kind} for i, kind in enumerate(NATIVE)]
        place = tmp_path / "data" / f"{part}_json" / ("inter_test_json" if part == "test" else "")
        place.mkdir(parents=True)
        (place / f"{name}.json").write_text(json.dumps({"record_annotation": "CAS", "event_annotation": events}))
        (tmp_path / "data" / f"{part}_wav").mkdir()
        shutil.copy(file, tmp_path / "data" / f"{part}_wav" / f"{name}.wav")

    assert set(read_cycles(tmp_path / "data")["label"]) == set(CLASSES)
    assert read_cycles(tmp_path / "data", label_set=LabelSet(NATIVE))["label"].tolist() == [*NATIVE, *NATIVE]
    train(capsys, tmp_path / "data", tmp_path / "run", "--classes", ",".join(NATIVE))
    stored = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert [column for column in map(str, stored) if column.startswith("p_")] == [f"p_{kind}" for kind in NATIVE]
    assert stored["true_label"].tolist() == list(NATIVE)
    task = run_folder.read_json(tmp_path / "run" / "evaluation.json")["sprsound_task"]
    right = (stored["label"] == stored["true_label"])[1:].mean()  # one event of every type
    assert (task["task"], task["sides"]["inter"]["rows"], task["sides"]["inter"]["se"]) == ("1-2", 7, right)
    (system,) = group_into_systems([read_run(tmp_path / "run")])
    table = challenge_table([system])
    assert table is not None
    assert [row[1:3] for row in table.rows] == [["all", "7"], ["inter", "7"]]
    assert table.rows[0][3] == f"{100 * right:.2f}"
    damaged = replace(system.runs[0], evaluation={"sprsound_task": {"task": 3}})
    assert challenge_table([replace(system, runs=[damaged])]) is None
    code, _, said = command(
        capsys, "train", "m2d_fusion", "--size", "tiny", "--data", str(tmp_path / "data"), "--out",
        str(tmp_path / "other"), "--classes", "normal,rhonchi,wheeze,stridor",
    )  # fmt: skip
    assert code == 1
    assert "100_3.5_0_p1_1.wav: the cycle 2-2.45 s: label 'Coarse Crackle' is none of the classes" in said


def test_labels_of_other_programs_are_those_of_the_classes(sounds: Path, tmp_path: Path) -> None:
    sound = tmp_path / "anna.wav"
    shutil.copy(min(sounds.glob("*.wav")), sound)
    times = ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0))
    for words, label_set in (
        (["Normal", "rhonchi", "stridor"], OWN),
        (["normal", "crackle", "wheeze+stridor"], FINDINGS),
    ):
        table = pd.DataFrame(times, columns=["start_s", "end_s"]).assign(label=words, path=str(sound))
        table = table.assign(**dict.fromkeys(label_set.columns, 0.3125))
        for form, labels in (("audacity", audacity_labels(table)), ("raven", raven_selections(table))):
            text = sound.with_suffix(".txt")
            text.write_text(format_labels(labels, form))
            found = find_cycles(sound, 4.0, "annotation", label_set=label_set)
            assert found.true_label == [word.lower() for word in words]
            other = read_annotation(text, 4.0)
            assert "labels other than normal, crackle, wheeze, both" in other.passed_over
    sound.with_suffix(".txt").write_text("0\t1\t0\t0\n1\t2\t1\t0\n")  # ICBHI's flags say nothing of stridor
    assert find_cycles(sound, 4.0, "annotation", label_set=OWN).true_label == ["normal", None]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*tiny.SYSTEMS} - INDEPENDENT_REFUSED - ICBHI_ONLY | {"wang_splice"}))
def test_every_other_recipe_trains_independent_classes(name: str, sounds: Path, tmp_path: Path) -> None:
    label_set = LabelSet(("wheeze", "crackle"), independent=True)
    words: dict[str, Any] = {"classes": label_set.classes, "independent": True, "size": "tiny", "train.epochs": 1}
    words |= {"train.device": "cpu", "train.batch_size": 4}
    words |= {"domain": "spectral"} if name == "wang_splice" else {}
    recipe = make_recipe(name, words)
    figures = recipe.run(recipe, read_cycles(sounds, label_set=label_set), tmp_path / "run")
    assert set(figures["confusion_per_class"]) == {"wheeze", "crackle"}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(losses).all()


def test_twenty_classes(sounds: Path, tmp_path: Path, capsys: Capture) -> None:
    classes = [f"sound {number}" for number in range(20)]
    numbers = iter(range(1000))
    table = write_manifest(sounds, "twenty.csv", label=lambda label: classes[next(numbers) % 20])
    train(capsys, table, tmp_path / "run", "--classes", ",".join(classes))
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert np.shape(figures["confusion"]) == (20, 20)
    found = rales.load(tmp_path / "run", device="cpu").predict(min(sounds.glob("*.wav")))
    assert found["label"].isin(classes).all()
    assert np.allclose(found[[f"p_{name}" for name in classes]].sum(axis=1), 1)
