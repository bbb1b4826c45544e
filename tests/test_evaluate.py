"""`rales evaluate` of any model on any data: which part is scored, whether it was trained on, what is told of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rales.data import read_cycles
from rales.data.splits import digest_name
from rales.errors import UsageError
from rales.evaluation import recordings
from rales.evaluation.metrics import icbhi_scores
from rales.inference.evaluate import evaluate_cycles, evaluate_data
from rales.inference.evaluate_events import evaluate_events
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.training import finetune, run_folder
from tests import tiny
from tests.command import command
from tests.test_kauh import write_folder as write_kauh
from tests.test_sprsound import add_sound, event, write_json


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    recipe = tiny.recipe("train.select=validation", "train.epochs=1")
    finetune.run(recipe, cycles, folder / "run", cache_folder=folder / "cache")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> Predictor:
    return load_model(place / "run", "cpu")


def evaluate(place: Path, model: Predictor, data: Path, **options: Any) -> dict[str, Any]:
    return evaluate_data(model, data, cache_folder=place / "cache", **options)


def test_of_its_own_data_a_run_scores_the_parts_of_its_split(place: Path, model: Predictor) -> None:
    figures = evaluate(place, model, place / "data")
    stored = run_folder.read_json(place / "run" / "evaluation.json")
    assert figures["confusion"] == stored["confusion"]
    assert figures["validation"]["confusion"] == stored["validation"]["confusion"]
    assert (figures["protocol"]["part"], figures["protocol"]["cycles_trained_on"]) == ("test", 0)
    trained = evaluate(place, model, place / "data", part="train")
    assert trained["protocol"]["cycles_trained_on"] == trained["protocol"]["cycles"]
    assert "validation" not in trained
    assert trained["leak_free"] == {}
    cycles = {
        part: evaluate(place, model, place / "data", part=part)["protocol"]["cycles"] for part in ("validation", "all")
    }
    assert cycles["all"] == 32 == 12 + trained["protocol"]["cycles"] + cycles["validation"]
    with pytest.raises(
        UsageError, match="--split inter: no cycles of that part; there are test, train, validation, all"
    ):
        evaluate(place, model, place / "data", part="inter")


def test_other_data_is_scored_whole_and_what_was_trained_on_is_told(place: Path, model: Predictor) -> None:
    cycles = read_cycles(place / "data").assign(split="")
    figures = evaluate_cycles(model, cycles[cycles["patient"].isin(["101", "107"])], cache_folder=place / "cache")
    assert (figures["protocol"]["part"], figures["protocol"]["split"]) == ("all", "as given")
    assert figures["protocol"]["same_data_as_training"] is False
    assert (figures["protocol"]["cycles"], figures["protocol"]["cycles_trained_on"]) == (8, 4)  # 101 was trained on
    own = read_cycles(place / "data")
    other = evaluate_cycles(model, own[own["patient"] != "108"], cache_folder=place / "cache")
    assert (other["protocol"]["part"], other["protocol"]["cycles_trained_on"]) == ("test", 0)
    assert "validation" not in other  # nothing of other data is held out, or tuned on
    record = {**model.record, "split": {k: v for k, v in model.record["split"].items() if k != "trained_recordings"}}
    old = Predictor(model.recipe, record, model.engine, model.torch_engine)
    figures = evaluate_cycles(old, cycles[cycles["patient"] == "101"], cache_folder=place / "cache")
    assert figures["protocol"]["cycles_trained_on"] is None


def test_recordings_made_of_others_count_as_those() -> None:
    assert digest_name("101_1b1_overlay3_0123456789ab") == digest_name("101_1b1") != digest_name("101_1b2")


def test_the_method_of_a_model(place: Path, model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    assert model.evaluate(place / "data", part="train")["protocol"]["part"] == "train"
    table = read_cycles(place / "data")[["path", "start_s", "end_s", "label", "patient"]]
    found, same = model.evaluate(table, part="all"), model.evaluate(place / "data", part="all")
    assert found["confusion"] == same["confusion"]


def test_a_record_names_no_recording(place: Path) -> None:
    record = run_folder.read_json(place / "run" / "config.json")
    assert len(record["split"]["trained_recordings"]) == 5
    assert "101_1b1" not in json.dumps(record)


def test_findings_and_recordings(place: Path, model: Predictor) -> None:
    figures = evaluate(place, model, place / "data")
    assert figures["detection"]["crackle"]["auroc"] == pytest.approx(figures["crackle_present"]["auroc"])
    assert figures["detection"]["abnormal"]["positives"] == 9
    told = figures["recordings"]
    assert (told["recordings"], told["not_judged"]) == (3, 0)
    assert told["pooling"] == recordings.UNFITTED  # each of the validation recordings has every finding
    assert (told["wheeze"]["positives"], told["wheeze"]["negatives"]) == (3, 0)


def test_sprsound_has_its_own_task(place: Path, model: Predictor, tmp_path: Path) -> None:
    data = tmp_path / "release"
    for number in range(3):
        name, side = f"{100 + number}_3.5_0_p1_1", ("inter", "intra", "intra")[number]
        write_json(
            data, f"test_json/{side}_test_json", name, "CAS", [event(0, 900, "Wheeze"), event(900, 1900, "Normal")]
        )
        add_sound(data, "test_wav", name)
    figures = evaluate(place, model, data)
    assert (figures["sprsound_task"]["task"], figures["sprsound_task"]["rows"]) == ("1-1", "events")
    tasks = figures["sprsound_task"]["sides"]
    assert {side: task["rows"] for side, task in tasks.items()} == {"all": 6, "inter": 2, "intra": 4}
    counts = np.array(figures["confusion"])
    assert tasks["all"]["sp"] == icbhi_scores(counts)["specificity"]
    assert tasks["all"]["se"] == 1 - counts[1:, 0].sum() / counts[1:].sum()
    inter = evaluate(place, model, data, part="inter")
    assert inter["protocol"]["cycles"] == 2
    same = inter["sprsound_task"]["sides"]["inter"]
    assert {**same, "as_ci95": None} == {**tasks["inter"], "as_ci95": None}  # NaN with one patient


def test_labels_of_whole_recordings(place: Path, model: Predictor, tmp_path: Path) -> None:
    folder = write_kauh(tmp_path / "kauh")
    for sound in folder.glob("*.flac"):
        shutil.copy(next((place / "data").glob("101*.wav")), sound.with_suffix(".wav"))
        sound.unlink()
    figures = evaluate(place, model, folder)
    told = figures["recordings"]
    assert figures["protocol"]["recordings"] == told["recordings"] == 5
    assert sum(figures["cycles_found_by"].values()) == 5
    assert told["abnormal"]["positives"] + told["abnormal"]["negatives"] == 5 - told["not_judged"]
    assert set(told["by_filter"]) <= {"bell", "diaphragm", "extended"}
    with pytest.raises(UsageError, match="--split test: no recordings"):
        evaluate(place, model, folder, part="test")
    with pytest.raises(UsageError, match="--metric f1: is of labelled cycles"):
        evaluate(place, model, folder, metrics=("f1",))

    broken = min(folder.glob("*.wav"))
    broken.write_bytes(b"not a sound")
    with pytest.raises(ValueError, match=f"{broken.name}.*\\n.*--skip-damaged"):
        evaluate(place, model, folder)
    rest = evaluate(place, model, folder, skip_damaged=True)
    assert rest["recordings"]["recordings"] == 4
    assert broken.name in rest["problems"][0]


def test_of_a_table_of_answers_the_true_label_counts(place: Path, model: Predictor, tmp_path: Path) -> None:
    table = model.predict(place / "data")
    table.to_csv(tmp_path / "answers.csv", index=False)
    figures = evaluate(place, model, tmp_path / "answers.csv")
    whole = evaluate(place, model, place / "data", part="all")
    assert figures["confusion"] == whole["confusion"]
    assert np.sum(figures["confusion"], axis=1).tolist() == [8, 8, 8, 8]
    table.drop(columns="true_label").to_csv(tmp_path / "answers.csv", index=False)
    with pytest.raises(ValueError, match="the answers of a model without true_label"):
        evaluate(place, model, tmp_path / "answers.csv")
    confirmed = table.drop(columns="true_label").assign(confirmed=True, label=table["true_label"])
    confirmed.to_csv(tmp_path / "confirmed.csv", index=False)
    assert evaluate(place, model, tmp_path / "confirmed.csv")["confusion"] == whole["confusion"]


@pytest.mark.slow  # an export takes several seconds
def test_an_artefact_and_a_checkpoint_have_the_figures_of_the_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    code, _, err = command(capsys, "export", place / "run", "--to", "onnx", "--out", tmp_path / "model.onnx")
    assert code == 0, err
    wanted = run_folder.read_json(place / "run" / "evaluation.json")
    for model in (tmp_path / "model.onnx", place / "run" / "best.safetensors", place / "run"):
        code, out, err = command(capsys, "evaluate", model, "--data", place / "data", "--json")
        assert code == 0, err
        assert json.loads(out)["confusion"] == wanted["confusion"]


def test_lines_for_a_person(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "evaluate", place / "run", "--data", place / "data", "--split", "train")
    assert code == 0
    for words in ("train cycles of", "were seen in training", "95 % by patient", "noisy-or"):
        assert words in out
    folder = write_kauh(tmp_path / "kauh")
    code, out, _ = command(capsys, "evaluate", place / "run", "--data", folder)
    assert code == 0
    assert "5 recordings of 4 patients, labelled as a whole; cycles by" in out


def test_events_are_found_and_scored(place: Path, model: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    own = evaluate_events(model, place / "data")["protocol"]  # of the run's own split
    assert (own["part"], own["cycles_trained_on"]) == ("test", 0)
    told = evaluate_events(model, place / "data", part="all")
    assert told["protocol"]["cycles_trained_on"] > 0
    assert told["events"]["annotated"] == len(read_cycles(place / "data"))
    found = model.predict(place / "data", cycles="segment")
    assert told["events"]["found"] == found["label"].notna().sum()
    assert sum(told["cycles_found_by"].values()) == told["protocol"]["recordings"]
    code, out, _ = command(capsys, "evaluate", place / "run", "--data", place / "data", "--split", "all", "--events")
    assert code == 0
    assert "right: the class, the onset within 0.2 s, the offset within that or 50 % of the length" in out
    assert f"inserted {told['events']['inserted']}" in out
    assert "not a diagnosis" in out
    code, _, err = command(
        capsys, "evaluate", place / "run", "--data", place / "data", "--events", "--metric", "tests/own.py:f1"
    )
    assert code == 2
    assert "leave one out" in err


@pytest.mark.slow
def test_the_shipped_model_on_shared_data(shared_data: Path, tmp_path: Path) -> None:
    model = load_model("rales", "cpu")
    for name in ("kauh", "sprsound"):
        if not (shared_data / name).is_dir():
            pytest.skip(f"no {shared_data / name}")
    kauh = evaluate(tmp_path, model, shared_data / "kauh")["recordings"]
    assert kauh["recordings"] == 336
    assert set(kauh["by_filter"]) == {"bell", "diaphragm", "extended"}
    assert kauh["abnormal"]["auroc"] > 0.5
    children = evaluate(tmp_path, model, shared_data / "sprsound")
    assert children["protocol"]["part"] == "test"
    assert set(children["sprsound_task"]["sides"]) == {"all", "inter", "intra"}
    table = pd.DataFrame(model.predict(shared_data / "sprsound" / "test_wav"))
    assert table["true_label"].notna().sum() == children["protocol"]["cycles"]
