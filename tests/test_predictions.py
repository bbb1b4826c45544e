"""What an evaluation says: figures by hand, and that nothing is fitted on the cycles it is measured on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from rales.data import read_cycles, splits
from rales.data.dataset import class_numbers, load_dataset
from rales.errors import UsageError
from rales.evaluation import bootstrap, calibration, predictions
from rales.evaluation.metrics import normal_threshold, scores_at_threshold
from rales.evaluation.predictions import Decision
from rales.inference.evaluate import evaluate_run
from rales.inference.load_model import load_model
from rales.labels import CLASSES
from rales.training import run_folder
from tests import tiny

RECORD = {
    "recipe": "m2d_fusion",
    "provenance": "ours",
    "config": {"split": {"name": "official"}, "train": {"select": "last", "epochs": 7}, "seed": 3},
}


def answers(rows: list[list[float]]) -> NDArray[np.float64]:
    return np.array(rows, dtype=np.float64)


def cycles_of(labels: list[str], patients: list[str] | None = None) -> pd.DataFrame:
    """-> a cycles table of one recording per patient, one cycle a second."""
    patients = patients or ["101"] * len(labels)
    table = pd.DataFrame({"recording": patients, "patient": patients, "label": labels})
    table["cycle"] = table.groupby("recording").cumcount() + 1
    return table.assign(start_s=table["cycle"] - 1.0, end_s=table["cycle"] + 0.0)


def drawn(seed: int, count: int, normal_from: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """-> classes and probabilities in which a cycle is normal where p_normal lies above `normal_from`, with noise."""
    random = np.random.default_rng(seed)
    p_normal = random.uniform(0, 1, count)
    noisy = p_normal + random.normal(0, 0.05, count) >= normal_from
    true = np.where(noisy, 0, random.integers(1, 4, count))
    rest = random.dirichlet([1, 1, 1], count)
    rest[np.arange(count), np.maximum(true - 1, 0)] += 1  # the right abnormal class is the most probable
    rest *= ((1 - p_normal) / rest.sum(axis=1))[:, None]
    return true.astype(np.int64), np.column_stack([p_normal, rest])


# Pieces of one cycle -----------------------------------------------------------------------------


def test_the_majority_of_the_pieces_decides_and_only_its_voters_give_the_probabilities() -> None:
    rows = pd.DataFrame({"recording": ["a"] * 4, "cycle": [1, 1, 1, 2]})
    p = answers([[0.6, 0.2, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1], [0.0, 1.0, 0.0, 0.0], [0.1, 0.1, 0.7, 0.1]])
    with np.errstate(divide="ignore"):
        cycles, logits = predictions.pool_cycle_logits(rows, np.log(p).astype(np.float32))
    assert cycles.index.tolist() == [0, 3]
    assert np.exp(logits) == pytest.approx(answers([[0.55, 0.25, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]]), abs=1e-6)


def test_of_equally_many_votes_the_lowest_class_wins() -> None:
    rows = pd.DataFrame({"recording": ["a", "a"], "cycle": [4, 4]})
    p = answers([[0.1, 0.1, 0.1, 0.7], [0.2, 0.6, 0.1, 0.1]])
    cycles, probabilities = predictions.pool_cycle_probabilities(rows, p)
    assert len(cycles) == 1
    assert probabilities == pytest.approx(p[1:], abs=1e-6)


def test_logits_of_pieces_need_not_be_normalised() -> None:
    """Neither those of one piece nor of all together."""
    rows = pd.DataFrame({"recording": ["a", "a"], "cycle": [1, 1]})
    p = answers([[0.6, 0.2, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1]])
    shifted = (np.log(p) + np.array([[5.0], [-3.0]])).astype(np.float32)
    _, logits = predictions.pool_cycle_logits(rows, shifted)
    assert logits.dtype == np.float32
    assert np.exp(logits) == pytest.approx(answers([[0.55, 0.25, 0.1, 0.1]]), abs=1e-6)


def test_cycles_of_one_piece_are_left_alone_to_the_bit() -> None:
    rows = cycles_of(["normal", "crackle"])
    p = answers([[0.3, 0.3, 0.2, 0.2], [0.0, 0.0, 0.0, 1.0]])
    cycles, probabilities = predictions.pool_cycle_probabilities(rows, p)
    assert cycles is rows
    assert probabilities is p


# From probabilities to labels --------------------------------------------------------------------


def test_a_threshold_and_a_confidence_decide_and_a_temperature_comes_first() -> None:
    rows = cycles_of(["normal", "wheeze", "both"])
    p = answers([[0.45, 0.4, 0.1, 0.05], [0.35, 0.15, 0.3, 0.2], [0.2, 0.2, 0.2, 0.4]])
    plain = predictions.predictions_table(rows, p)
    assert plain["label"].tolist() == ["normal", "normal", "both"]
    assert plain[[f"p_{name}" for name in CLASSES]].to_numpy().tolist() == p.tolist()
    assert plain["true_label"].tolist() == ["normal", "wheeze", "both"]
    assert "uncertain" not in plain

    strict = predictions.predictions_table(rows, p, Decision(threshold=0.4, min_confidence=0.35))
    assert strict["label"].tolist() == ["normal", "wheeze", "both"]
    assert strict["uncertain"].tolist() == [False, True, False]

    warm = predictions.predictions_table(rows, p, Decision(temperature=2.0))
    expected = np.sqrt(p) / np.sqrt(p).sum(axis=1, keepdims=True)  # softmax(log p / 2)
    assert warm[[f"p_{name}" for name in CLASSES]].to_numpy() == pytest.approx(expected)
    # a threshold speaks of the probabilities that are shown
    assert predictions.predictions_table(rows, p, Decision(2.0, threshold=0.44))["label"].tolist()[0] == "crackle"


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.5), ("min_confidence", -0.1), ("threshold", float("nan"))])
def test_what_is_no_probability_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="expected a probability, 0 to 1"):
        Decision(**{name: value})  # type: ignore[arg-type]


def test_a_recording_is_counted_without_what_is_uncertain() -> None:
    table = pd.DataFrame(
        {
            "recording": ["b"] * 4 + ["a"],
            "path": ["b.wav"] * 4 + ["a.wav"],
            "label": ["normal", "crackle", "both", "wheeze", "normal"],
            "uncertain": [False, False, False, True, True],
            "notice": [predictions.NOTICE] * 5,
        }
    )
    first, second = predictions.summarise_recordings(table).to_dict("records")
    assert (first["recording"], second["recording"]) == ("b", "a")  # as they came
    names = ["cycles", "uncertain", "normal", "crackle", "wheeze", "both", "abnormal"]
    assert [first[name] for name in names] == [4, 1, 1, 1, 0, 1, 2]
    assert first["abnormal_share"] == pytest.approx(2 / 3)
    assert (first["low"], first["high"]) == pytest.approx(bootstrap.wilson_interval(2, 3))
    assert np.isnan(second["abnormal_share"])
    assert (second["low"], second["high"]) == (0.0, 1.0)


def test_what_cannot_be_judged_has_no_label_and_is_not_counted() -> None:
    rows = cycles_of(["normal", "wheeze", "both"]).assign(device="Meditron", location="Al", source="annotation")
    p = answers([[0.4, 0.3, 0.2, 0.1], [np.nan] * 4, [0.1, 0.1, 0.2, 0.6]])
    decision = Decision(temperature=1.0, min_confidence=0.6)
    table = predictions.predictions_table(rows.set_index(pd.Index([7, 8, 9])), p, decision)
    assert list(table.columns) == [
        *("recording", "cycle", "start_s", "end_s", "label", *(f"p_{name}" for name in CLASSES)),
        *("true_label", "patient", "device", "location", "uncertain"),
    ]
    assert table.index.tolist() == [0, 1, 2]
    assert table["label"].isna().tolist() == [False, True, False]
    assert table["label"].dropna().tolist() == ["normal", "both"]
    assert table.loc[1, ["p_normal", "p_both"]].isna().all()
    assert table["uncertain"].tolist() == [True, False, False]  # 0.6 is enough

    counts = predictions.summarise_recordings(table.assign(path="a.wav"))
    assert list(counts.columns) == [
        *("recording", "path", "cycles", "not_judged", "uncertain", *CLASSES, "abnormal", "abnormal_share", "low"),
        "high",
    ]
    numbers = counts.drop(columns=["recording", "path", "low", "high"]).iloc[0].tolist()
    assert numbers == [3, 1, 1, 0, 0, 0, 1, 1, 1.0]
    assert counts["cycles"].dtype == np.int64
    plain = predictions.summarise_recordings(table.drop(columns="uncertain").assign(path="a.wav"))
    assert plain[["not_judged", "uncertain", "normal", "both", "abnormal_share"]].iloc[0].tolist() == [1, 0, 1, 1, 0.5]


def test_a_sentence_for_each_recording_with_cycles_that_are_not_judged() -> None:
    columns = ["path", "cycles", "not_judged", "quality_reason"]
    rows = [("a.wav", 3, 0, ""), ("b.wav", 3, 1, "mains hum"), ("c.wav", 2, 2, "digital silence")]
    assert predictions.unjudged_sentences(pd.DataFrame(rows, columns=columns)) == [
        "b.wav: 1 of 3 cycles not judged: mains hum",
        "c.wav: not judged: digital silence",
    ]


# Figures of an evaluation ------------------------------------------------------------------------


def test_figures_by_hand_with_the_protocol_they_were_made_under() -> None:
    rows = cycles_of(["normal", "normal", "crackle", "wheeze"], ["101", "102", "101", "102"])
    p = answers([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    found = predictions.evaluation_metrics(rows, p, selected_epoch=5, record=RECORD, whole_database=False)
    assert (found["specificity"], found["sensitivity"], found["score"]) == (0.5, 0.5, 0.5)
    assert found["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    interval = bootstrap.bootstrap_intervals([0, 0, 1, 2], [0, 1, 1, 1], rows["patient"].to_numpy())
    assert found["ci95"] == {name: list(interval[name]) for name in predictions.FIGURES}
    assert interval["score"][0] < interval["score"][1]  # two patients that differ
    assert found["warnings"] == []
    assert found["protocol"] == {
        "split": "official",
        "recipe": "m2d_fusion",
        "provenance": "ours",
        "select": "last",
        "select_by": None,
        "selected_epoch": 5,
        "epochs": 7,
        "seed": 3,
        "cycles": 4,
        "patients": 2,
        "whole_database": False,
        "interval": "95 %, patients resampled",
    }


@pytest.mark.parametrize(
    ("train", "by"),
    [
        ({"select": "validation", "select_by": "auroc"}, "auroc"),
        ({"select": "validation", "select_by": "score"}, "score"),
        ({"select": "validation"}, "score"),  # a record of before there was a choice
        ({"select": "test_best", "select_by": "auroc"}, "score"),
        ({"select": "last", "select_by": "auroc"}, None),
    ],
)
def test_the_protocol_says_what_chose_the_epoch(train: dict[str, str], by: str | None) -> None:
    config: Any = {"split": {"name": "folds"}, "train": {"epochs": 1, **train}, "seed": 0}
    rows, p = cycles_of(["normal", "crackle"]), np.full((2, 4), 0.25)
    protocol = predictions.evaluation_metrics(
        rows, p, selected_epoch=1, record={"config": config}, whole_database=True
    )["protocol"]
    assert (protocol["split"], protocol["select"], protocol["select_by"]) == ("folds", train["select"], by)
    assert (protocol["recipe"], protocol["provenance"], protocol["whole_database"]) == ("", "ours", True)


def test_a_constant_answer_is_warned_of_unless_all_cycles_are_alike() -> None:
    p = np.tile([0.1, 0.1, 0.7, 0.1], (3, 1))

    def warnings(labels: list[str]) -> list[str]:
        found = predictions.evaluation_metrics(
            cycles_of(labels), p, selected_epoch=4, record=RECORD, whole_database=False
        )
        assert found["constant_prediction"] == "wheeze"
        return list(found["warnings"])

    assert warnings(["normal", "crackle", "wheeze"]) == [
        "the kept weights (epoch 4) call each of the 3 test cycles wheeze: these figures are those of a constant "
        "answer, not of a model that hears a difference"
    ]
    assert warnings(["wheeze"] * 3) == []


def test_an_answer_that_is_no_number_is_named() -> None:
    rows, answers_ = cycles_of(["normal"] * 4, ["101", "101", "102", "102"]), np.zeros((4, 4))
    predictions.check_numbers(rows, answers_)
    answers_[2, 1], answers_[3, 3] = np.nan, np.inf
    with pytest.raises(
        ValueError, match=r"^102, cycle 1: the model's answer is not a number, one of 2 such; its weights"
    ):
        predictions.check_numbers(rows, answers_)


def test_the_whole_database_is_known_by_its_counts() -> None:
    cycles = pd.DataFrame({"recording": np.arange(6898) % 920})
    assert predictions.is_whole_database(cycles)
    assert not predictions.is_whole_database(cycles[:-1])
    assert not predictions.is_whole_database(pd.DataFrame({"recording": np.arange(6898) % 919}))


def test_the_threshold_comes_from_validation_and_its_figures_from_test() -> None:
    """The two sides want thresholds far apart, so that one taken from the wrong side is another number."""
    sides = {"validation": drawn(0, 300, normal_from=0.3), "test": drawn(1, 400, normal_from=0.7)}
    true, p = ({side: pair[i] for side, pair in sides.items()} for i in range(2))
    best = {side: normal_threshold(true[side], p[side]) for side in sides}
    assert best["test"] - best["validation"] > 0.2
    found = predictions.metrics_from_validation(true, p)["validation_threshold"]  # type: ignore[arg-type]
    assert found.pop("threshold") == best["validation"]
    assert found == scores_at_threshold(true["test"], p["test"], best["validation"])
    assert found["score"] < scores_at_threshold(true["test"], p["test"], best["test"])["score"] - 0.02


def test_validation_patients_of_one_kind_give_no_threshold_and_say_why() -> None:
    _, p = drawn(0, 20, normal_from=0.5)
    normal = np.zeros(20, np.int64)
    found = predictions.thresholded_metrics({"validation": normal, "test": normal}, {"validation": p, "test": p})
    assert found == {
        "threshold": None,
        "reason": "all 20 cycles are normal; choosing a threshold needs normal and abnormal cycles",
    }
    assert calibration.fit_calibration(p, normal, range(20)).threshold is None


def test_layer_weights_are_normalised_to_a_sum_of_one() -> None:
    found = predictions.layer_weights([4, 7, 10], torch.tensor([1.0, 2.0, 5.0], requires_grad=True))
    assert found == {"layers": [4, 7, 10], "raw": [1.0, 2.0, 5.0], "normalised": [0.125, 0.25, 0.625]}


def test_a_run_and_its_evaluation_tune_on_the_validation_patients(tmp_path: Path) -> None:
    """Both sides are scored again from the checkpoint, without the code that trains or evaluates."""
    recipe = tiny.recipe("train.select=validation", "train.lr=0.01", "train.warmup_epochs=0")
    cycles = read_cycles(tiny.write_folder(tmp_path / "data"))
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=tmp_path / "cache")

    model = load_model(tmp_path / "run")
    table = splits.divide_cycles(cycles, recipe.settings)
    scored = model.probabilities(load_dataset(table, recipe, folder=tmp_path / "cache").inputs)
    rows = {side: (table["split"] == side).to_numpy() for side in ("validation", "test")}
    true = class_numbers(table)
    threshold = normal_threshold(true[rows["validation"]], scored[rows["validation"]])
    assert threshold != pytest.approx(normal_threshold(true[rows["test"]], scored[rows["test"]]), abs=1e-4)

    expected = scores_at_threshold(true[rows["test"]], scored[rows["test"]], threshold)
    temperature = calibration.fit_probability_temperature(true[rows["validation"]], scored[rows["validation"]])
    for figures in (
        run_folder.read_json(tmp_path / "run" / "evaluation.json"),
        evaluate_run(tmp_path / "run", cycles, cache_folder=tmp_path / "cache"),
    ):
        assert figures["validation_threshold"] == pytest.approx({"threshold": threshold, **expected}, abs=1e-5)
        assert figures["validation_temperature"]["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert model.calibration["temperature"] == pytest.approx(temperature, rel=1e-3)
    held = table[rows["validation"]]
    of_held = (scored[rows["validation"]], true[rows["validation"]], held["patient"], held["device"])
    learned = calibration.fit_calibration(*of_held)
    for finding, found in model.calibration["classes"].items():
        assert found["threshold"] == pytest.approx(learned.classes[finding].threshold, abs=1e-5)
    assert model.calibration["conformal"]["pooled"]["cycles"] == model.calibration["cycles"] == len(held)
