"""Temperatures, thresholds and calibration errors against closed forms, scikit-learn and simulated truth."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss as sklearn_log_loss

from rales.evaluation import calibration
from rales.evaluation.conformal import fit_conformal
from rales.evaluation.metrics import normal_threshold, predict_at_class_thresholds
from rales.labels import LabelSet
from tests.test_predictions import answers, drawn

pytestmark = pytest.mark.filterwarnings("error")


def shared_logits(seed: int, count: int = 400) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes drawn from the probabilities of the logits: calibrated at temperature 1."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(count, 4))
    edges = softmax(logits, axis=1).cumsum(axis=1)
    return (generator.random((count, 1)) > edges[:, :3]).sum(axis=1), logits


def test_reliability_equals_scikit_learn() -> None:
    true, logits = shared_logits(0)
    p = softmax(logits, axis=1)
    curve = calibration.reliability_curve(true, p, bins=10)
    accuracy, confidence = calibration_curve(p.argmax(axis=1) == true, p.max(axis=1), n_bins=10)
    filled = curve[curve["cycles"] > 0]
    np.testing.assert_allclose(filled["accuracy"], accuracy)
    np.testing.assert_allclose(filled["confidence"], confidence)
    assert len(curve) == 10
    assert curve["cycles"].sum() == len(true)
    assert curve.loc[curve["cycles"] == 0, "accuracy"].isna().all()


def test_calibration_error_by_hand() -> None:
    # Two cycles of confidence 0.7, one right: gap 0.2. Two of confidence 1, both right: gap 0. Mean 0.1.
    p = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [1.0, 0, 0, 0], [0, 0, 1.0, 0]]
    assert calibration.expected_calibration_error([0, 0, 0, 2], p) == pytest.approx(0.1)
    assert math.isnan(calibration.expected_calibration_error([], np.zeros((0, 4))))


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5])
def test_fitted_temperature_has_the_lowest_log_loss(factor: float) -> None:
    true, logits = shared_logits(1)
    temperature = calibration.fit_temperature(factor * logits, true)
    assert temperature == pytest.approx(factor * calibration.fit_temperature(logits, true), rel=1e-6)
    assert calibration.fit_temperature(log_softmax(factor * logits, axis=1), true) == pytest.approx(
        temperature, rel=1e-6
    )

    def loss(t: float) -> float:
        return float(sklearn_log_loss(true, softmax(factor * logits / t, axis=1)))

    grid = temperature * np.exp(np.linspace(-1, 1, 81))
    assert loss(temperature) <= min(loss(t) for t in grid) + 1e-12


def test_temperature_repairs_overconfidence() -> None:
    true, logits = shared_logits(2, count=4000)
    assert calibration.fit_temperature(logits, true) == pytest.approx(1, abs=0.1)
    overconfident = softmax(3 * logits, axis=1)
    repaired = calibration.apply_temperature(overconfident, calibration.fit_temperature(3 * logits, true))
    assert calibration.expected_calibration_error(true, overconfident) > 0.1
    assert calibration.expected_calibration_error(true, repaired) < 0.03
    np.testing.assert_array_equal(repaired.argmax(axis=1), overconfident.argmax(axis=1))
    np.testing.assert_allclose(calibration.apply_temperature(overconfident, 3), softmax(logits, axis=1), atol=1e-9)


def test_temperature_at_its_ends_and_of_zero_probabilities() -> None:
    logits = np.eye(4)
    assert calibration.fit_temperature(logits, [0, 1, 2, 3]) == 0.01
    assert calibration.fit_temperature(logits, [1, 2, 3, 0]) == 100
    np.testing.assert_allclose(calibration.apply_temperature([[0.8, 0.2, 0, 0]], 2), [[2 / 3, 1 / 3, 0, 0]])
    with pytest.raises(ValueError, match="finite numbers"):
        calibration.fit_temperature([[0, -np.inf, 0, 0]], [0])
    with pytest.raises(ValueError, match="above 0"):
        calibration.apply_temperature([[0.8, 0.2, 0, 0]], 0)


def test_bins_are_fifteen_equal_ones_and_one_cycle_fills_one() -> None:
    p = np.array([[0.9, 0.1, 0.0, 0.0], [0.3, 0.25, 0.25, 0.2]])
    curve = calibration.reliability_curve([0, 1], p)
    assert list(curve.columns) == ["low", "high", "cycles", "confidence", "accuracy"]
    assert curve["low"].tolist() == pytest.approx(np.arange(15) / 15)
    assert curve["high"].tolist() == pytest.approx(np.arange(1, 16) / 15)
    assert curve["cycles"].tolist() == [0] * 4 + [1] + [0] * 8 + [1, 0]
    assert curve["cycles"].dtype == np.int64
    assert calibration.expected_calibration_error([0, 1], p) == pytest.approx((0.1 + 0.3) / 2)
    low = np.full((1, 4), 0.25)
    assert calibration.reliability_curve([0], low, bins=4)["cycles"].tolist() == [1, 0, 0, 0]  # 0.25 ends the first bin
    assert calibration.reliability_curve([0], low, bins=5)["cycles"].tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("logits", [np.zeros(4), np.zeros((1, 1)), np.zeros((0, 4)), np.full((1, 4), -np.inf)])
def test_what_is_no_table_of_logits_is_refused(logits: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"expected \(cycles, classes\) finite numbers"):
        calibration.fit_temperature(logits, [0] * (len(logits) if logits.ndim == 2 else 4))


def test_validation_patients_who_are_all_right_leave_the_temperature_at_one(caplog: pytest.LogCaptureFixture) -> None:
    true = np.arange(40) % 4
    learned = calibration.fit_calibration(np.eye(4)[true] * 0.4 + 0.15, true, np.arange(40) // 4)
    assert learned.temperature == 1
    said = "the best temperature for the validation patients is at the end of its range: the labels are what"
    assert said in caplog.text
    assert learned.classes["crackle"].threshold == pytest.approx(0.3)


def test_a_very_cold_temperature_leaves_the_largest_of_each_row() -> None:
    p = np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.2, 0.25, 0.3]])
    assert calibration.apply_temperature(p, 1e-3) == pytest.approx(np.array([[1, 0, 0, 0], [0, 0, 0, 1]]), abs=1e-30)
    assert calibration.apply_temperature([[1, 0, 0, 0]], 2).tolist() == [[1, 0, 0, 0]]


def test_the_temperature_comes_from_validation_and_its_figures_from_test() -> None:
    """Validation answers are far too sure, test answers are right as they are."""
    true, p = drawn(0, 400, normal_from=0.5)
    sharp = calibration.apply_temperature(p, 1 / 4)
    found = calibration.calibrated_metrics({"validation": true, "test": true}, {"validation": sharp, "test": p})
    of_test = calibration.fit_probability_temperature(true, p)
    assert found["temperature"] == pytest.approx(4 * of_test, rel=1e-3)
    assert found["log_loss"] == pytest.approx(-np.log(p[np.arange(len(true)), true]).mean())
    cooled = calibration.apply_temperature(p, found["temperature"])
    assert found["log_loss_calibrated"] == pytest.approx(-np.log(cooled[np.arange(len(true)), true]).mean())
    assert found["log_loss_calibrated"] > found["log_loss"]  # the wrong temperature for these answers
    assert found["ece"] == calibration.expected_calibration_error(true, p)
    assert found["ece_calibrated"] == calibration.expected_calibration_error(true, cooled)


def test_what_a_checkpoint_keeps_is_the_threshold_of_the_calibrated_probabilities() -> None:
    true, p = drawn(0, 300, normal_from=0.4)
    patients, devices = np.arange(300) % 20, np.where(np.arange(300) % 20 < 12, "one", "")
    kept = calibration.fit_calibration(p, true, patients, devices)
    cooled = calibration.apply_temperature(p, kept.temperature)
    assert kept.temperature == pytest.approx(calibration.fit_temperature(np.log(p), true))
    assert kept.threshold == normal_threshold(true, cooled) != normal_threshold(true, p)
    assert (kept.cycles, kept.patients, kept.labels) == (300, 20, "most probable")
    assert kept.classes == calibration.fit_class_thresholds(cooled, true, patients)
    assert kept.conformal == fit_conformal(p, true, patients, devices)  # before the temperature
    assert set(kept.conformal.devices) == {"one"}


def test_log_loss_of_an_impossible_answer_is_large_and_finite() -> None:
    certain: Any = answers([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert calibration.log_loss(np.array([0, 1]), certain) == 0
    assert calibration.log_loss(np.array([0, 2]), certain) == pytest.approx(-np.log(np.finfo(np.float64).tiny) / 2)


def test_rows_of_unequal_number_are_counted_in_the_sentence() -> None:
    with pytest.raises(ValueError, match=r"unequal length \(1 true, 2 probabilities\)"):
        calibration.reliability_curve([0], np.full((2, 4), 0.25))
    with pytest.raises(ValueError, match=r"unequal length \(1 true, 2 logits\)"):
        calibration.fit_temperature(np.zeros((2, 4)), [0])


# Thresholds per finding -------------------------------------------------------------------------------


def wheezes(p: list[float]) -> NDArray[np.float64]:
    """Probabilities of a wheeze, half of them as `both` -> (n, 4)."""
    q = np.array(p)
    return np.column_stack([1 - q, 0 * q, q / 2, q / 2])


def test_a_threshold_is_of_all_classes_that_have_the_finding() -> None:
    """Ten normal cycles, two of which may be named: the lowest threshold lies just above the third highest, 0.6."""
    p = wheezes([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.65, 0.9, 0.2])
    true = np.array([0] * 10 + [2, 3, 3])
    found = calibration.fit_class_thresholds(p, true, [f"p{i}" for i in range(13)], aim=0.2)
    assert set(found) == {"crackle", "wheeze"}
    wheeze = found["wheeze"]
    assert wheeze.threshold == np.nextafter(0.6, 1)
    assert (wheeze.positives, wheeze.negatives) == (3, 10)
    none = calibration.fit_class_thresholds(p, np.zeros(13, np.int64), range(13))
    assert none == {}


def test_the_balanced_threshold_by_hand() -> None:
    """Present at 0.3, 0.6, 0.9; absent at 0.1, 0.4, 0.5. From 0.3: 1 - 2/3; from 0.6: 2/3 - 0; from 0.9: 1/3."""
    p = np.array([0.3, 0.6, 0.9, 0.1, 0.4, 0.5])
    present = np.array([True] * 3 + [False] * 3)
    assert calibration.choose_class_threshold(p, present, "balanced") == 0.6
    assert calibration.choose_class_threshold(p, present, 0.34) == np.nextafter(0.4, 1)
    assert calibration.choose_class_threshold(p, present, 0.0) == np.nextafter(0.5, 1)


def test_what_is_counted_was_not_chosen_on() -> None:
    """Two of ten cycles without a wheeze, of one patient, are sure of one. All patients together may name them; where
    that patient is held out, 0.1 is the others' highest; where another is, two of eight are too many."""
    p = wheezes([0.1] * 8 + [0.9] * 2 + [0.5] * 4)
    true, patients = np.array([0] * 10 + [2] * 4), [*"aabbccdd", "e", "e", *"abcd"]
    found = calibration.fit_class_thresholds(p, true, patients, aim=0.2)["wheeze"]
    assert found.false_alarms == 2
    assert found.found == 0
    assert found.threshold == np.nextafter(0.1, 1)


def test_labels_by_thresholds_follow_one_rule_in_every_label_set() -> None:
    p = np.array([[0.5, 0.3, 0.1, 0.1], [0.5, 0.1, 0.2, 0.2], [0.5, 0.2, 0.1, 0.2], [0.97, 0.01, 0.01, 0.01]])
    found = predict_at_class_thresholds(p, {"crackle": 0.4, "wheeze": 0.3})
    assert found.tolist() == [1, 2, 3, 0]  # crackles 0.4 0.3 0.4, wheezes 0.2 0.4 0.3
    assert predict_at_class_thresholds(p, {"crackle": 0.4}).tolist() == [1, 0, 1, 0]  # 0.5 where there is none

    own = LabelSet(("clear", "squawk", "rub"))
    q = np.array([[0.7, 0.2, 0.1], [0.7, 0.15, 0.15], [0.85, 0.09, 0.06], [0.0, 0.5, 0.5]])
    assert predict_at_class_thresholds(q, {"squawk": 0.1, "rub": 0.05}, own).tolist() == [1, 2, 2, 2]
    assert predict_at_class_thresholds(q, {"squawk": 0.1, "rub": 0.2}, own).tolist() == [1, 1, 0, 1]

    sounds = LabelSet(("crackle", "wheeze"), independent=True)
    each = predict_at_class_thresholds(np.array([[0.2, 0.3], [0.1, 0.9]]), {"crackle": 0.2, "wheeze": 0.4}, sounds)
    assert each.tolist() == [[1, 0], [0, 1]]


def test_own_and_independent_classes_are_calibrated_too() -> None:
    random = np.random.default_rng(0)
    sounds = LabelSet(("crackle", "wheeze", "rub"), independent=True)
    p = random.random((120, 3))
    true = (random.random((120, 3)) < p).astype(np.int64)
    true[:, 2] = 0
    kept = calibration.fit_calibration(p, true, np.arange(120) % 12, None, sounds, aim="balanced")
    assert set(kept.classes) == {"crackle", "wheeze"}  # nobody has a rub
    assert kept.aim == "sensitivity + specificity"
    assert kept.conformal is not None
    assert kept.conformal.devices == {}
    own = LabelSet(("clear", "squawk", "rub"))
    exclusive = p / p.sum(axis=1, keepdims=True)
    drawn_of = np.array([random.choice(3, p=row) for row in exclusive])
    assert set(calibration.fit_calibration(exclusive, drawn_of, range(120), None, own).classes) == {"squawk", "rub"}


def test_probabilities_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="apply a softmax"):
        calibration.fit_calibration(np.full((3, 4), np.nan), [0, 1, 2], range(3))
    with pytest.raises(ValueError, match="unequal length"):
        calibration.fit_calibration(np.full((3, 4), 0.25), [0, 1, 2], range(2))
