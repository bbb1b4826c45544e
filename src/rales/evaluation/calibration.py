"""Calibration: the temperature of probabilities, thresholds, and how far probabilities are from what comes true."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import exp, nan
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.evaluation.conformal import Conformal, fit_conformal
from rales.evaluation.metrics import (
    as_distributions,
    as_labels,
    as_probabilities,
    as_targets,
    find_finding_probabilities,
    normal_threshold,
    require_equal_length,
    safe_ratio,
)
from rales.evaluation.recordings import FALSE_ALARM_RATE, Pooling, choose_threshold, divide_patients
from rales.labels import ICBHI, LabelSet
from rales.typing import FloatArray, IntArray, Probabilities

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MIN_TEMPERATURE: Final = 0.01
MAX_TEMPERATURE: Final = 100.0
ENDS: Final = {
    MIN_TEMPERATURE: (
        "the labels are what the model itself finds most probable, as those of clips that it sorted are; of such "
        "labels the lowest temperature is always the best, and every probability would become 0 or 1"
    ),
    MAX_TEMPERATURE: (
        "the labels agree with what the model says no better than chance does; of such labels the highest temperature "
        "is always the best, and all classes would become as probable as each other"
    ),
}
"""End of the range of temperatures -> what it says of the labels when the fit comes to it."""
VALIDATION: Final = "validation patients"
Aim = float | Literal["balanced"]


@dataclass(frozen=True)
class ClassThreshold:
    """From which probability on a finding is named, and what was counted of it on patients who did not choose it."""

    threshold: float
    positives: int = 0
    found: int = 0
    negatives: int = 0
    false_alarms: int = 0


@dataclass(frozen=True)
class Reliability:
    """Calibration error of the cycles that taught, at the temperature before and, each patient held out, after."""

    before: float
    after: float


@dataclass(frozen=True)
class Calibration:
    """What patients on whom a model was not trained taught it: `calibration` in a checkpoint's record."""

    temperature: float
    threshold: float | None = None
    """That of the "normal" class, or of independent classes for each, with the best Score (`normal_threshold`)."""
    cycles: int = 0
    patients: int = 0
    origin: str = VALIDATION
    """Who they are."""
    aim: str = ""
    """What the thresholds of `classes` were chosen for."""
    classes: dict[str, ClassThreshold] = field(default_factory=dict)
    """Finding (`LabelSet.findings`) -> its threshold, at the temperature; none that all cycles have, or no cycle."""
    labels: Literal["most probable", "thresholds"] = "most probable"
    """What a cycle is called where nobody asks otherwise: the most probable class, or what `classes` say."""
    conformal: Conformal | None = None
    recordings: dict[str, Pooling] = field(default_factory=dict)
    taught_by: list[str] = field(default_factory=list)
    """Digests of the names of the recordings, where the run itself does not know them."""
    reliability: Reliability | None = None

    def to_record(self) -> dict[str, Any]:
        """-> the fields as JSON has them."""
        return asdict(self)


def fit_calibration(
    probabilities: ArrayLike,
    class_numbers: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    devices: Sequence[str] | ArrayLike | None = None,
    label_set: LabelSet = ICBHI,
    *,
    aim: Aim = FALSE_ALARM_RATE,
    labels: Literal["most probable", "thresholds"] = "most probable",
    origin: str = VALIDATION,
) -> Calibration:
    """Learn temperature, thresholds and prediction sets from patients on whom the network was not trained.

    Every cycle counts alike for temperature and thresholds, as it does in the Score; for the sets every patient.
    Temperature and the threshold of "normal" are one number for all classes: such patients are few.

    Parameters
    ----------
    probabilities
        (N, C) as the network gives them: of validation patients, or of each patient by the fold that left them out.
    class_numbers
        (N,) true classes, or (N, C) of 0 and 1 where they are independent.
    patients
        Patient of each cycle (N,).
    devices
        Device of each cycle (N,), "" where unknown; None for sets that are the same for all.
    label_set
        The classes.
    aim
        What a finding's threshold is for: the share of cycles without it that may be named (0.2: the highest
        sensitivity at no more), or "balanced" for the highest sum of sensitivity and specificity.
    labels
        What a cycle is called from now on where nobody asks otherwise.
    origin
        Who the patients are, in a few words.

    Returns
    -------
    Calibration; its threshold is None where one kind of cycle is missing. A fit that comes to an end of its range is
    logged as a warning (`ENDS`); at the lower end the temperature stays 1.
    """
    targets, p = as_targets(class_numbers, label_set), as_probabilities(probabilities, label_set)
    temperature = fit_probability_temperature(targets.ravel(), as_exclusive(p, label_set), origin)
    cooled = cool_probabilities(p, temperature, label_set)
    try:
        threshold = normal_threshold(targets, cooled, label_set)
    except ValueError:
        threshold = None
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        cycles=len(p),
        patients=len(set(np.asarray(patients).tolist())),
        origin=origin,
        aim=describe_aim(aim),
        classes=fit_class_thresholds(cooled, targets, patients, label_set, aim),
        labels=labels,
        conformal=fit_conformal(p, targets, patients, devices, label_set),
    )


def describe_aim(aim: Aim) -> str:
    """Aim of thresholds -> the same in words."""
    return "sensitivity + specificity" if aim == "balanced" else f"at most {aim:.0%} false alarms"


def fit_class_thresholds(
    probabilities: Probabilities,
    targets: IntArray,
    patients: Sequence[Any] | ArrayLike,
    label_set: LabelSet = ICBHI,
    aim: Aim = FALSE_ALARM_RATE,
) -> dict[str, ClassThreshold]:
    """Probabilities at the temperature, true classes and patients of N cycles -> finding -> the threshold of all of
    them, and how many were named at that of the other patients; parameters as of `fit_calibration`."""
    require_equal_length(true=targets, probabilities=probabilities, patients=np.asarray(patients))
    names, learned = np.asarray(patients).astype(str).tolist(), {}
    of_findings = find_finding_probabilities(probabilities, label_set)
    for (finding, numbers), p in zip(label_set.findings.items(), of_findings.T, strict=True):
        present = targets[:, numbers[0]] == 1 if label_set.independent else np.isin(targets, numbers)
        if not present.any() or present.all():
            continue
        named = np.zeros(len(p), np.bool_)
        for held in divide_patients(present, names):
            named[held] = p[held] >= choose_class_threshold(p[~held], present[~held], aim)
        learned[finding] = ClassThreshold(
            threshold=choose_class_threshold(p, present, aim),
            positives=int(present.sum()),
            found=int((named & present).sum()),
            negatives=int((~present).sum()),
            false_alarms=int((named & ~present).sum()),
        )
    return learned


def choose_class_threshold(p: FloatArray, present: NDArray[np.bool_], aim: Aim) -> float:
    """(n,) probability of a finding, which cycles have it, aim -> from which probability on it is named; 1 where all
    have it, or none. Of several thresholds that are as good the lowest."""
    if aim != "balanced":
        return choose_threshold(p[~present], aim) if present.any() else 1.0
    if not present.any() or present.all():
        return 1.0
    thresholds = np.unique(p[present])  # between two of them only false alarms change
    found = (p[present] >= thresholds[:, None]).mean(axis=1)
    falsely = (p[~present] >= thresholds[:, None]).mean(axis=1)
    return float(thresholds[(found - falsely).argmax()])


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


def fit_probability_temperature(true: IntArray, probabilities: Probabilities, origin: str = "") -> float:
    """(N,) classes, (N, C) probabilities -> `fit_temperature` of their logarithms; 1, which changes nothing, where that
    comes to its lower end, for certainty is not learned from cycles that are all right. Either end is logged as a
    warning where `origin` says whose cycles they are."""
    temperature = fit_temperature(as_logits(probabilities), true)
    if origin and temperature in ENDS:
        log.warning("the best temperature for the %s is at the end of its range: %s", origin, ENDS[temperature])
    return 1.0 if temperature == MIN_TEMPERATURE else temperature


def describe_end(targets: IntArray, probabilities: Probabilities, label_set: LabelSet = ICBHI) -> str:
    """True classes and probabilities as `fit_calibration` has them -> why no temperature between the ends is the best;
    "" where one is."""
    return ENDS.get(fit_temperature(as_logits(as_exclusive(probabilities, label_set)), targets.ravel()), "")


def as_logits(probabilities: Probabilities) -> FloatArray:
    return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


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
