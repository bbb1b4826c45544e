"""Metrics from outside the package."""

from collections.abc import Iterator

import numpy as np
import pytest

import rales
from rales.errors import UsageError
from rales.evaluation.own_metrics import compute_own_metrics, own_metrics_with_intervals
from rales.recipes.registry import make_recipe
from rales.registry import METRICS
from rales.typing import FloatArray, IntArray

TRUE = np.array([0, 0, 1, 2, 3, 0, 1, 0])
P = np.eye(4)[[0, 1, 1, 0, 3, 0, 0, 0]] * 0.7 + 0.075
PATIENTS = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])


def accuracy(true: IntArray, probabilities: FloatArray) -> float:
    return float((probabilities.argmax(axis=1) == true).mean())


def fragile(true: IntArray, probabilities: FloatArray) -> dict[str, float]:
    """Fails where a class is missing, as scikit-learn's do."""
    if not (true == 3).any():
        raise ZeroDivisionError
    return {"both": accuracy(true[true == 3], probabilities[true == 3])}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    rales.register_metric("accuracy", accuracy)
    rales.register_metric("fragile", fragile)
    rales.register_metric("words", lambda *_: "many")
    yield
    METRICS.registered.clear()


def test_figures_and_their_intervals() -> None:
    assert compute_own_metrics(["accuracy", "fragile"], TRUE, P) == {"accuracy": 5 / 8, "fragile.both": 1.0}
    found = own_metrics_with_intervals(["accuracy", "fragile"], TRUE, P, PATIENTS)
    assert found["accuracy"]["value"] == 5 / 8
    low, high = found["accuracy"]["ci95"]
    assert 0.5 <= low < 5 / 8 < high <= 1  # each patient has 1 or 2 of 2 right but b and d, who have 1
    assert found["fragile.both"]["ci95"] == [1.0, 1.0]  # of the resamples with patient c
    assert found == own_metrics_with_intervals(["accuracy", "fragile"], TRUE, P, PATIENTS)
    (alone,) = own_metrics_with_intervals(["accuracy"], TRUE, P, np.full(8, "a")).values()
    assert np.isnan(alone["ci95"]).all()


def test_what_is_no_metric_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"metric 'words': failed \(ValueError.*expected a function \(class numbers"):
        compute_own_metrics(["words"], TRUE, P)
    with pytest.raises(UsageError, match="no metric 'acuracy'; the nearest is 'accuracy'"):
        make_recipe("m2d_fusion", ["train.metrics=acuracy"])
