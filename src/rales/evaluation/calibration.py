"""Calibration: the temperature of probabilities, thresholds, and how far probabilities are from what comes true."""

from math import exp, nan
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from rales.evaluation.metrics import as_distributions, as_labels, normal_threshold, require_equal_length, safe_ratio
from rales.labels import ICBHI, LabelSet
from rales.typing import FloatArray, IntArray, Probabilities

if TYPE_CHECKING:
    import pandas as pd

MIN_TEMPERATURE: Final = 0.01
MAX_TEMPERATURE: Final = 100.0


def fit_calibration(
    true: IntArray, probabilities: Probabilities, patients: int, label_set: LabelSet = ICBHI
) -> dict[str, Any]:
    """Classes and probabilities of the validation cycles -> what a checkpoint keeps for prediction: the temperature,
    and the threshold of the probabilities at that temperature, for "normal" or of independent classes for each (None if
    one kind of cycle is missing). Both are one number for all classes: validation patients are few."""
    temperature = fit_probability_temperature(true.ravel(), as_exclusive(probabilities, label_set))
    try:
        threshold = normal_threshold(true, cool_probabilities(probabilities, temperature, label_set), label_set)
    except ValueError:
        threshold = None
    return {"temperature": temperature, "threshold": threshold, "cycles": len(true), "patients": patients}


def calibrated_metrics(
    true: dict[str, IntArray], scored: dict[str, Probabilities], label_set: LabelSet = ICBHI
) -> dict[str, float]:
    """Classes and probabilities of validation and test cycles -> temperature fitted on the validation patients, and the
    calibration error and log loss of the test cycles with and without it; no label changes (Guo et al. 2017)."""
    true = {part: targets.ravel() for part, targets in true.items()}  # of independent classes an answer each
    scored = {part: as_exclusive(p, label_set) for part, p in scored.items()}
    temperature = fit_probability_temperature(true["validation"], scored["validation"])
    cooled = apply_temperature(scored["test"], temperature)
    return {
        "temperature": temperature,
        "ece": expected_calibration_error(true["test"], scored["test"]),
        "ece_calibrated": expected_calibration_error(true["test"], cooled),
        "log_loss": log_loss(true["test"], scored["test"]),
        "log_loss_calibrated": log_loss(true["test"], cooled),
    }


def fit_probability_temperature(true: IntArray, probabilities: Probabilities) -> float:
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return fit_temperature(logits, true)


def fit_temperature(logits: ArrayLike, true: ArrayLike) -> float:
    """(N, C) logits or log-probabilities, (N,) classes -> T that minimises the mean of -log softmax(logits / T).

    The loss is convex in 1 / T, so its slope there is increasing and has one root. Between 0.01 and 100: the ends are
    returned where the best T is 0 (every cycle right) or infinite (no better than chance). Fit on validation patients.
    """
    from scipy.optimize import brentq
    from scipy.special import softmax

    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < 2 or len(scores) == 0 or not np.isfinite(scores).all():
        raise ValueError(
            f"logits of shape {scores.shape}, expected (cycles, classes) finite numbers, at least one cycle; "
            "clip probabilities away from 0 before taking their log"
        )
    labels = as_labels(true, name="true", classes=scores.shape[1])
    require_equal_length(true=labels, logits=scores)
    chosen = scores[np.arange(len(labels)), labels]

    def slope(log_temperature: float) -> float:
        expected = (softmax(scores * exp(-log_temperature), axis=1) * scores).sum(axis=1)
        return float(np.mean(expected - chosen))

    low, high = float(np.log(MIN_TEMPERATURE)), float(np.log(MAX_TEMPERATURE))
    if slope(low) <= 0:
        return MIN_TEMPERATURE
    if slope(high) >= 0:
        return MAX_TEMPERATURE
    return exp(brentq(slope, low, high, xtol=1e-10))


def cool_probabilities(probabilities: Probabilities, temperature: float, label_set: LabelSet) -> Probabilities:
    """(n, classes) probabilities -> the same at a temperature, which is one for all classes."""
    cooled = apply_temperature(as_exclusive(probabilities, label_set), temperature)
    return cooled[:, 1].reshape(probabilities.shape) if label_set.independent else cooled


def apply_temperature(probabilities: ArrayLike, temperature: float) -> FloatArray:
    """(N, C) probabilities -> (N, C) softmax(log p / T); the order of the classes, hence the prediction, is kept."""
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}, expected a number above 0 (1 changes nothing)")
    p = as_distributions(probabilities)
    powers = (p / p.max(axis=1, keepdims=True)) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def as_exclusive(probabilities: Probabilities, label_set: LabelSet) -> Probabilities:
    """(n, classes) probabilities -> the same; of independent classes (n * classes, 2) of no and yes."""
    return np.stack([1 - probabilities.ravel(), probabilities.ravel()], 1) if label_set.independent else probabilities


def find_confidence(probabilities: Probabilities, chosen: IntArray, label_set: LabelSet) -> Probabilities:
    """(n, classes) probabilities and the answers made of them -> (n,) probability of the answer; of independent classes
    that of the least certain of the row's answers."""
    if not label_set.independent:
        return probabilities[np.arange(len(chosen)), chosen]
    return np.asarray(np.where(chosen == 1, probabilities, 1 - probabilities).min(axis=1))


def expected_calibration_error(true: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """(N,) classes, (N, C) probabilities -> mean |accuracy - confidence| over equal-width bins, weighted by cycles.

    Confidence is the probability of the predicted class (Guo et al. 2017, "On calibration of modern neural networks").
    """
    curve = reliability_curve(true, probabilities, bins=bins)
    filled = curve[curve["cycles"] > 0]
    gap = (filled["accuracy"] - filled["confidence"]).abs()
    return float((gap * filled["cycles"]).sum() / filled["cycles"].sum()) if len(filled) else nan


def reliability_curve(true: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> "pd.DataFrame":
    """(N,) classes, (N, C) probabilities -> `bins` rows: low, high, cycles, confidence, accuracy; NaN in empty bins.

    A bin holds low < confidence <= high, as in scikit-learn's calibration_curve.
    """
    import pandas as pd

    p = as_distributions(probabilities)
    labels = as_labels(true, name="true", classes=p.shape[1])
    require_equal_length(true=labels, probabilities=p)
    confidence = p.max(axis=1)
    edges = np.linspace(0, 1, num=bins + 1)
    place = np.searchsorted(edges[1:-1], confidence)
    cycles = np.bincount(place, minlength=bins).astype(np.float64)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "cycles": cycles.astype(np.int64),
            "confidence": safe_ratio(np.bincount(place, weights=confidence, minlength=bins), cycles),
            "accuracy": safe_ratio(np.bincount(place, weights=p.argmax(axis=1) == labels, minlength=bins), cycles),
        }
    )


def log_loss(true: IntArray, probabilities: Probabilities) -> float:
    """(N,) classes, (N, classes) probabilities -> mean of -log p of the true class."""
    p = probabilities[np.arange(len(true)), true]
    return float(-np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean())
