"""A model calibrated from labelled cycles of other patients: what it learns, keeps, says and refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.data import read_cycles
from rales.data.dataset import class_numbers, load_dataset
from rales.data.splits import digest_name
from rales.errors import UsageError
from rales.evaluation import conformal
from rales.evaluation.calibration import apply_temperature, fit_calibration
from rales.evaluation.metrics import confusion_matrix, predict_at_class_thresholds
from rales.evaluation.predictions import Decision, predictions_table
from rales.evaluation.recordings import fit_pooling
from rales.inference import calibrate
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from rales.training import run_folder
from tests import tiny
from tests.command import command
from tests.conftest import REPOSITORY

P = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose head is random (model.safetensors), clinic.csv, what the model learned from that
    (new.safetensors), and `data`: a recording of two cycles of each of 16 patients, eleven of them by one device."""
    place = tmp_path_factory.mktemp("calibrate")
    (place / "data").mkdir()
    rows = list[dict[str, object]]()
    for number, pair in enumerate([(0, 0), (0, 1), (2, 3), (0, 3)] * 4):
        device = "Meditron" if number < 11 else "Litt3200"
        path = place / "data" / f"{300 + number}_1b1_Al_sc_{device}.wav"
        sound = np.concatenate([tiny.breath(label, seed=number) for label in pair])
        soundfile.write(path, sound, tiny.RATE_HZ, subtype="PCM_16")
        path.with_suffix(".txt").write_text("".join(f"{i}\t{i + 1}\t{c % 2}\t{c // 2}\n" for i, c in enumerate(pair)))
        about = {"path": str(path), "patient": f"c{number}", "device": device}
        rows += [{**about, "start_s": i, "end_s": i + 1, "label": CLASSES[label]} for i, label in enumerate(pair)]
    pd.DataFrame(rows).to_csv(place / "clinic.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(place / "cache"))
        model = tiny.model()
        known = {"split": {"digest": "of the run", "trained_recordings": [digest_name("known")]}}
        run_folder.save_tensors(place / "model.safetensors", model.network.state_dict(), tiny.about(model) | known)
        load_model(place / "model.safetensors", "cpu").calibrate(place / "clinic.csv", place / "new.safetensors")
    return place


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))


def answers(place: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """-> the clinic's cycles, and what the network says of them."""
    model = load_model(place / "model.safetensors", "cpu")
    cycles = read_cycles(place / "clinic.csv", needs_split=False)
    return cycles, model.probabilities(load_dataset(cycles.assign(split=""), model.recipe).inputs)


def test_what_is_learned_is_what_the_cycles_say_and_the_weights_stay(place: Path) -> None:
    cycles, p = answers(place)
    expected = fit_calibration(p, class_numbers(cycles), cycles["patient"], cycles["device"]).to_record()
    old, new = (load_model(place / f"{name}.safetensors", "cpu") for name in ("model", "new"))
    learned = new.calibration
    for name in ("temperature", "threshold", "cycles", "patients", "classes", "conformal", "labels"):
        assert learned[name] == json.loads(json.dumps(expected[name])), name
    assert learned["origin"] == "16 confirmed patients"
    assert learned["taught_by"] == sorted(digest_name(path.stem) for path in (place / "data").glob("*.wav"))
    assert set(learned["conformal"]["devices"]["Meditron"]["least"]) == {"0.8", "0.9"}
    assert learned["conformal"]["devices"]["Litt3200"]["least"] == {}
    assert old.calibration == {}
    assert old.digest == new.digest
    assert {name: value for name, value in new.record.items() if name != "calibration"} == old.record


def test_prediction_takes_it_up(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", place / "data", "--quality", "off"]
    for name, more in (
        ("old", []),
        ("new", ["--sets", "0.9"]),
        ("json", ["--sets", "0.9"]),
        ("raven", ["--sets", "0.9"]),
    ):
        out = tmp_path / {"json": "json.json", "raven": "raven.txt"}.get(name, f"{name}.csv")
        more += ["--format", "raven"] if name == "raven" else []
        model = place / f"{'model' if name == 'old' else 'new'}.safetensors"
        code, _, err = command(capsys, *words, "--model", model, "--out", out, *more)
        assert code == 0, err
    assert "90% of a new patient's cycles, on average over patients like the 16 that taught it" in err
    assert "not a diagnosis" in err
    old, new = (pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False) for name in ("old", "new"))
    known = load_model(place / "new.safetensors", "cpu").calibration
    assert new[P].to_numpy() == pytest.approx(apply_temperature(old[P], known["temperature"]), abs=1e-6)
    rule = conformal.choose_rule(known["conformal"], 0.9)
    least = rule.find_least(new["recording"].str.split("_").str[-1])
    assert len(set(least)) == 2  # Meditron has its own quantile, Litt3200 that of all
    assert new["prediction_set"].tolist() == conformal.name_sets(conformal.find_possible(old[P].to_numpy(), least))
    assert "prediction_set" not in old
    assert pd.read_json(tmp_path / "json.json")["prediction_set"].tolist() == new["prediction_set"].tolist()
    assert pd.read_csv(tmp_path / "raven.txt", sep="\t")["Prediction Set"].tolist() == new["prediction_set"].tolist()

    code, _, err = command(capsys, *words, "--model", place / "model.safetensors", "--sets", "0.9")
    assert code == 2
    assert "no prediction sets; `rales calibrate` learns them" in err


def test_labels_by_thresholds_are_the_same_in_prediction_and_evaluation(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", place / "clinic.csv", "--out", tmp_path / "named.safetensors", "--labels", "thresholds"]
    code, out, err = command(capsys, "calibrate", place / "model.safetensors", *words, "--aim", "balanced")
    assert code == 0, err
    assert "learned from 32 cycles of 16 patients; before: not calibrated" in out
    assert "crackle, sensitivity + specificity: on patients held out" in out
    model = load_model(tmp_path / "named.safetensors", "cpu")
    cycles, p = answers(place)
    thresholds = {name: found["threshold"] for name, found in model.calibration["classes"].items()}
    cooled = apply_temperature(p, model.calibration["temperature"])
    wanted = predict_at_class_thresholds(cooled, thresholds)
    assert wanted.tolist() != p.argmax(axis=1).tolist()

    figures = model.evaluate(place / "clinic.csv")
    assert figures["confusion"] == confusion_matrix(class_numbers(cycles), wanted).tolist()
    assert figures["protocol"]["labels"] == "thresholds"
    assert figures["protocol"]["cycles_calibrated_on"] == 32
    predicted = model.predict(place / "data", quality=False).sort_values(["recording", "cycle"])
    assert predicted["label"].tolist() == [CLASSES[number] for number in wanted]
    most = model.predict(place / "data", quality=False, decision=model.decision(threshold="none"))
    assert most.sort_values(["recording", "cycle"])["label"].tolist() == [CLASSES[i] for i in p.argmax(axis=1)]


def test_evaluation_counts_what_the_sets_hold(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cycles, p = answers(place)
    model = load_model(place / "new.safetensors", "cpu")
    found = model.evaluate(place / "clinic.csv")["prediction_sets"]
    about = (cycles["patient"], cycles["device"], model.calibration["conformal"])
    assert found == conformal.measure_sets(p, class_numbers(cycles), *about)
    code, out, _ = command(capsys, "evaluate", place / "new.safetensors", "--data", place / "clinic.csv")
    assert code == 0
    assert "warning: 32 of these cycles taught the calibration" in out
    assert "90%, Meditron" in out


def test_answers_for_recordings_are_learned_too(place: Path) -> None:
    cycles, p = answers(place)
    learned = load_model(place / "new.safetensors", "cpu").calibration
    table = predictions_table(cycles, p, Decision(learned["temperature"]))
    assert learned["recordings"] == json.loads(json.dumps(fit_pooling(table)))
    assert set(learned["recordings"]) == {"abnormal", "crackle", "wheeze"}


def test_own_and_independent_classes_are_calibrated(place: Path) -> None:
    model = tiny.model("classes=crackle,wheeze", "independent=true")
    cycles = read_cycles(place / "clinic.csv", needs_split=False, label_set=model.label_set).assign(split="")
    p = model.probabilities(load_dataset(cycles, model.recipe).inputs)
    wrong = np.stack([np.arange(32) % 4 == 0, np.arange(32) % 3 == 0], axis=1)  # by a random head most would be
    table = pd.read_csv(place / "clinic.csv").assign(label=model.label_set.name_targets((p > 0.5) ^ wrong))
    model = model.calibrate(table)
    table = model.predict(place / "data", quality=False, decision=model.decision(sets=0.8))
    assert set(model.calibration["classes"]) == {"crackle", "wheeze"}
    assert model.calibration["recordings"] == {}
    said = {name.strip("?") for word in table["prediction_set"] for name in word.split("+")}
    assert said <= {"any", "normal", "crackle", "wheeze"}
    assert model.decision(threshold="classes").thresholds is not None


def test_a_cycle_that_cannot_be_judged_may_be_anything(place: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 4000)
    model = load_model(place / "new.safetensors", "cpu")
    table = model.predict(tmp_path / "silence.wav", decision=model.decision(sets=0.9))
    assert table["label"].isna().all()
    assert set(table["prediction_set"]) == {"any"}


def test_what_nobody_has_confirmed_teaches_nothing(place: Path, tmp_path: Path) -> None:
    table = pd.read_csv(place / "clinic.csv")
    table["confirmed"] = table["patient"].isin([f"c{number}" for number in range(12)])
    table.to_csv(tmp_path / "page.csv", index=False)
    model = load_model(place / "model.safetensors", "cpu").calibrate(tmp_path / "page.csv")
    assert model.calibration["patients"] == 12
    with pytest.raises(ValueError, match="no cycle is confirmed"):
        load_model(place / "model.safetensors", "cpu").calibrate(table.assign(confirmed=0))


def test_what_cannot_be_learned_from_is_refused(place: Path, tmp_path: Path) -> None:
    model = load_model(place / "model.safetensors", "cpu")
    table = pd.read_csv(place / "clinic.csv")
    with pytest.raises(ValueError, match=r"8 labelled cycles of 4 patients; expected at least 5 patients, and 9"):
        model.calibrate(table[table["patient"].isin(["c0", "c1", "c2", "c3"])])
    with pytest.raises(ValueError, match=r"is wheeze \(normal 20, crackle 12, wheeze 0\)"):
        model.calibrate(table.assign(label=np.where(table["label"].isin(["crackle", "both"]), "crackle", "normal")))
    known = table.assign(recording=table["path"].map({table["path"][0]: "known"}).fillna(table["patient"]))
    with pytest.raises(ValueError, match=r"trained on 1 of these 16 patients, of whom .* \(recording known\)"):
        model.calibrate(known)
    assert model.calibrate(known, trained=True).calibration["patients"] == 16
    some = model.calibrate(table.assign(split=np.where(np.arange(32) < 10, "test", "")))
    alone = model.calibrate(table[10:])
    assert some.calibration == alone.calibration  # the test side has taught nothing
    assert some.calibration["patients"] == 11
    with pytest.raises(UsageError, match="every cycle of this data is on its test side"):
        model.calibrate(table.assign(split="test"))


def test_labels_that_the_model_itself_gave_teach_no_certainty(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of clips that `rales segments` cut, of which the false ones were deleted; and labels that are always wrong."""
    right = np.eye(4)[class_numbers(read_cycles(place / "clinic.csv", needs_split=False))] * 0.4 + 0.15
    wrong = np.roll(right, 1, axis=1)
    out = tmp_path / "new.safetensors"
    words = ["calibrate", place / "model.safetensors", "--data", place / "clinic.csv", "--out", out]
    for given, said in ((right, "what the model itself finds most probable"), (wrong, "no better than chance")):
        monkeypatch.setattr(calibrate, "score_sides", lambda *_, given=given: {"all": given})
        code, _, err = command(capsys, *words)
        assert code == 1
        assert "nothing is learned from these 32 cycles" in err
        assert said in err
        assert not out.exists()


def test_nothing_is_replaced(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", place / "model.safetensors", "--data", place / "clinic.csv", "--out"]
    code, _, err = command(capsys, *words, place / "new.safetensors")
    assert (code, "is there already" in err) == (2, True)
    code, _, err = command(capsys, *words, tmp_path / "run")
    assert (code, "ends in .safetensors" in err) == (2, True)
    model = load_model(place / "model.safetensors", "cpu")
    exported = Predictor(model.recipe, model.record, model.engine)
    with pytest.raises(UsageError, match="artefact of `rales export`"):
        exported.calibrate(place / "clinic.csv", tmp_path / "new.safetensors")


def test_the_page_does_what_it_says(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs" / "calibration.md").read_text()
    monkeypatch.chdir(tmp_path)
    for name, target in (("clinic.csv", "clinic.csv"), ("others.csv", "clinic.csv"), ("visits", "data")):
        (tmp_path / name).symlink_to(place / target)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    for line in commands.splitlines():
        code, _, err = command(capsys, *line.split()[1:])
        assert code == 0, f"{line}: {err}"
    assert "prediction_set" in pd.read_csv("cycles.csv")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile(program, "calibration.md", "exec"), {})
    assert "prediction_set" in capsys.readouterr().out
