"""Answers for whole recordings: pooling and thresholds by hand, what they may see, and where they are shown."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rales.data import read_cycles
from rales.data.dataset import load_dataset
from rales.evaluation import recordings
from rales.evaluation.predictions import Decision, predictions_table, summarise_recordings
from rales.inference.load_model import load_model
from rales.labels import CLASSES
from rales.training import finetune, run_folder
from tests import tiny
from tests.command import command


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cycles_of(answers: dict[str, list[float]], labels: dict[str, str], patients: dict[str, str]) -> pd.DataFrame:
    """Recording -> p_crackle of its cycles, the rest normal; its true label (of its first cycle) and patient."""
    rows = [
        (name, n, labels[name] if n == 1 else "normal", patients[name], 1 - p, p, 0.0, 0.0)
        for name, values in answers.items()
        for n, p in enumerate(values, 1)
    ]
    columns = ["recording", "cycle", "true_label", "patient", *(f"p_{name}" for name in CLASSES)]
    return pd.DataFrame(rows, columns=columns).assign(path=lambda table: table["recording"] + ".wav")


def many(seed: int = 0, count: int = 60) -> pd.DataFrame:
    """Recordings of two a patient; crackle ones hold one clear cycle among others like those of the normal ones."""
    random = np.random.default_rng(seed)
    answers, labels, patients = {}, {}, {}
    for number in range(count):
        name, sick = f"r{number:02d}", number % 4 < 2
        values = random.uniform(0.05, 0.4, random.integers(3, 12))
        if sick:
            values[0] = random.uniform(0.5, 0.95)
        answers[name], labels[name] = values.tolist(), "crackle" if sick else "normal"
        patients[name] = f"p{number // 2}"
    return cycles_of(answers, labels, patients)


def test_without_anything_learned_it_is_noisy_or() -> None:
    table = cycles_of({"a": [0.5, 0.2], "b": [0.1]}, {"a": "crackle", "b": "normal"}, {"a": "1", "b": "2"})
    table.loc[len(table)] = ["c", 1, None, "3", *[np.nan] * 4, "c.wav"]
    found = recordings.answer_recordings(table).set_index("path")
    assert found["p_any_crackle"].tolist()[:2] == pytest.approx([1 - 0.5 * 0.8, 0.1])
    assert found["p_any_wheeze"].tolist()[:2] == [0, 0]
    assert np.isnan(found["p_any_crackle"].to_numpy()[-1])  # no cycle could be judged
    assert set(found["pooling"]) == {"noisy-or, not calibrated"}
    assert set(found["flagged"]) == {""}


def test_pooling_by_hand() -> None:
    learned = {"weights": [-1.0, 0.5, 2.0], "threshold": 0.3}
    wanted = sigmoid(-1 + 0.5 * (logit(0.5) + logit(0.2)) / 2 + 2 * logit(0.5))
    assert recordings.pool_probabilities([0.5, 0.2], learned) == pytest.approx(wanted)
    table = cycles_of({"a": [0.5, 0.2], "b": [0.1]}, {"a": "crackle", "b": "normal"}, {"a": "1", "b": "2"})
    found = recordings.answer_recordings(table, {"crackle": learned})
    assert found["flagged"].tolist() == (["crackle", ""] if wanted >= 0.3 else ["", ""])
    assert found["p_any_abnormal"].tolist() == pytest.approx([0.6, 0.1])  # nothing learned of it
    assert found["pooling"][0] == "learned from held-out patients; abnormal, wheeze: noisy-or, not calibrated"


def test_a_more_suspicious_cycle_never_lowers_the_answer() -> None:
    weights = recordings.fit_weights(np.array([[-2.0, 3.0], [2.0, -3.0]] * 20), np.array([False, True] * 20))
    assert weights[1] > 0
    assert weights[2] == 0  # the slope would be negative


def test_few_recordings_stay_near_the_plain_middle() -> None:
    assert recordings.fit_weights(np.empty((0, 2)), np.empty(0, bool)) == pytest.approx([0, 0.5, 0.5])
    one = recordings.fit_weights(np.array([[1.0, 2.0]]), np.array([True]))
    # stationary: the slope of log loss equals the pull, (a, b - 1/2, c - 1/2) = (1 - p) (1, mean, max)
    p = sigmoid(float(np.array([1, 1, 2]) @ one))
    assert one - [0, 0.5, 0.5] == pytest.approx((1 - p) * np.array([1, 1, 2]), abs=1e-4)


@pytest.mark.parametrize(
    ("negatives", "rate", "flagged"),
    [([0.1, 0.2, 0.3, 0.4, 0.5], 0.2, 1), ([0.1, 0.2, 0.3, 0.4], 0.2, 0), ([0.1, 0.5, 0.5, 0.5, 0.5], 0.2, 0)],
)
def test_thresholds(negatives: list[float], rate: float, flagged: int) -> None:
    threshold = recordings.choose_threshold(negatives, rate)
    assert sum(value >= threshold for value in negatives) == flagged
    lower = sorted(negatives)[-1 - flagged]
    assert threshold == np.nextafter(lower, 2)  # the lowest such


def test_no_threshold_without_recordings_to_flag_wrongly() -> None:
    assert recordings.choose_threshold([], 0.2) == 1
    with pytest.raises(ValueError, match="false-alarm rate 1"):
        recordings.choose_threshold([0.5], 1)


def test_what_is_learned() -> None:
    table = many()
    learned = recordings.fit_pooling(table)
    assert set(learned) == {"abnormal", "crackle"}  # no recording wheezes
    crackle = learned["crackle"]
    assert (crackle["recordings"], crackle["patients"], crackle["positives"], crackle["negatives"]) == (60, 30, 30, 30)
    assert crackle["found"] >= 27  # the clear cycle is heard
    assert crackle["false_alarms"] <= 9
    found = recordings.answer_recordings(table, learned)
    sick = table.groupby("path")["true_label"].first() == "crackle"
    flagged = found.set_index("path")["flagged"].str.contains("crackle")
    assert flagged[sick[~sick].index].mean() <= 0.2
    short = recordings.answer_recordings(cycles_of({"x": [0.3] * 3}, {"x": "normal"}, {"x": "1"}), learned)
    long = recordings.answer_recordings(cycles_of({"x": [0.3] * 30}, {"x": "normal"}, {"x": "1"}), learned)
    assert short["p_any_crackle"][0] == long["p_any_crackle"][0]  # more of the same is no more suspicious


def test_patients_are_held_out_whole() -> None:
    present = np.array([True, False] * 6)
    patients = [f"p{number // 3}" for number in range(12)]
    masks = list(recordings.divide_patients(present, patients))
    assert np.sum(masks, axis=0).tolist() == [1] * 12
    for mask in masks:
        assert not {p for p, m in zip(patients, mask, strict=True) if m} & {
            p for p, m in zip(patients, mask, strict=True) if not m
        }


def test_the_counts_are_of_patients_who_taught_nothing() -> None:
    """One patient's recordings are labelled against their sound: learned from, they would be counted right."""
    table = many()
    odd = table["patient"] == "p0"
    table.loc[odd, "true_label"] = "normal"
    table.loc[odd, ["p_normal", "p_crackle"]] = [0.02, 0.98]
    crackle = recordings.fit_pooling(table)["crackle"]
    assert crackle["false_alarms"] >= 2


def test_nothing_is_learned_from_one_kind_or_one_patient() -> None:
    table = many()
    assert recordings.fit_pooling(table[table["true_label"] != "crackle"].assign(true_label="normal")) == {}
    assert recordings.fit_pooling(table.assign(patient="one")) == {}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recordings")
    cycles = read_cycles(tiny.write_folder(place / "data"))
    # recordings of one class only, so that there are some without a finding
    cycles = cycles[(cycles["label"] == "normal") | cycles["patient"].isin(["101", "102", "106"])]
    cycles.loc[cycles["patient"].isin(["103", "101"]), "split"] = "validation"
    finetune.run(
        tiny.recipe("train.select=validation", "train.epochs=1"), cycles, place / "run", cache_folder=place / "cache"
    )
    cycles.to_pickle(place / "cycles")
    return place


def test_a_run_learns_from_its_validation_recordings_alone(run: Path) -> None:
    model = load_model(run / "run", "cpu")
    cycles = pd.read_pickle(run / "cycles")
    kept = cycles[cycles["split"] == "validation"]
    dataset = load_dataset(kept, model.recipe, folder=run / "cache")
    decision = Decision(model.calibration["temperature"])
    wanted = recordings.fit_pooling(predictions_table(kept, model.probabilities(dataset.inputs), decision))
    learned = model.calibration["recordings"]
    assert set(learned) == {"abnormal", "crackle", "wheeze"}
    for finding, pooling in learned.items():
        assert pooling["weights"] == pytest.approx(wanted[finding]["weights"], abs=1e-3)
        assert (pooling["recordings"], pooling["patients"], pooling["negatives"]) == (2, 2, 1)


def test_summaries_show_and_sort_by_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", run / "data", "--model", run / "run", "--summary", tmp_path / "summary.csv"]
    code, out, err = command(capsys, *words, "--out", tmp_path / "cycles.csv")
    assert code == 0, err
    summary = pd.read_csv(tmp_path / "summary.csv", keep_default_na=False)
    assert summary["p_any_abnormal"].is_monotonic_decreasing
    assert {*recordings.COLUMNS, "flagged", "pooling", "abnormal_share"} <= set(summary)
    assert set(summary["pooling"]) == {"learned from held-out patients"}
    assert "on 2 held-out patients came to: abnormal:" in out
    assert "any crackle" in out
    table = pd.read_csv(tmp_path / "cycles.csv")
    model = load_model(run / "run", "cpu")
    wanted = recordings.add_answers(summarise_recordings(table), table, model.calibration["recordings"])
    assert summary.set_index("path")["p_any_wheeze"].to_dict() == pytest.approx(
        wanted.set_index("path")["p_any_wheeze"].to_dict(), abs=1e-6
    )


def test_a_model_that_has_learned_none_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_folder(tmp_path / "data")
    model = tiny.model()
    run_folder.save_tensors(tmp_path / "old.safetensors", model.network.state_dict(), tiny.about(model))
    words = ["predict", tmp_path / "data", "--model", tmp_path / "old.safetensors", "--summary", tmp_path / "s.json"]
    code, out, _ = command(capsys, *words)
    assert code == 0
    assert "noisy-or, not calibrated; recordings with more cycles look more abnormal" in out
    assert set(pd.read_json(tmp_path / "s.json")["pooling"]) == {"noisy-or, not calibrated"}


def test_a_record_with_broken_weights_is_refused(run: Path, tmp_path: Path) -> None:
    tensors, record = run_folder.read_checkpoint(run / "run" / "best.safetensors")
    record["calibration"]["recordings"]["crackle"]["weights"] = [1.0]
    run_folder.save_tensors(tmp_path / "broken.safetensors", tensors, record)
    with pytest.raises(ValueError, match=r"calibration\.recordings\.crackle has no three finite weights"):
        load_model(tmp_path / "broken.safetensors", "cpu")
