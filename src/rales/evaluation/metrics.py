"""Metrics of the four-class task, class order normal, crackle, wheeze, both (0..3).

Every figure is a fraction; where its denominator is 0 (a class that is absent) it is NaN, never an error or a warning.
A score alone hides much: an all-normal classifier already has 0.5, so `compute_metrics` always carries that line.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.labels import CLASSES
from rales.typing import FloatArray, IntArray

CURVE_POINTS: Final = 200


def icbhi_scores(confusion: ArrayLike) -> dict[str, float]:
    """Compute specificity, sensitivity and score, as fractions (paper section 4.2, eq. 3-5).

    Sensitivity asks for the exact class and pools the three abnormal classes, so it is not a mean of recalls.

    Parameters
    ----------
    confusion
        Counts (4, 4), rows true, classes in the order of CLASSES.
    """
    counts = _as_counts(confusion)
    right = np.diag(counts)
    return _score_fractions(right[0], counts[0].sum(), right[1:].sum(), counts[1:].sum())


def two_class_scores(confusion: ArrayLike) -> dict[str, float]:
    """Compute the three scores where any abnormal class predicted for an abnormal cycle is a hit.

    Literature's "two-class" column of a four-class model; a model trained with two classes is a different system.

    Parameters
    ----------
    confusion
        Counts (4, 4), rows true, classes in the order of CLASSES.
    """
    counts = _as_counts(confusion)
    return _score_fractions(counts[0, 0], counts[0].sum(), counts[1:, 1:].sum(), counts[1:].sum())


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, classes: int = 4) -> IntArray:
    """Count pairs of true and predicted class: (classes, classes), rows true.

    Parameters
    ----------
    true, predicted
        Class numbers (N,).
    classes
        Number of classes.
    """
    rows = as_labels(true, name="true", classes=classes)
    columns = as_labels(predicted, name="predicted", classes=classes)
    if len(rows) != len(columns):
        raise ValueError(f"{len(rows)} true and {len(columns)} predicted classes; give one of each per cycle")
    return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def compute_metrics(true: ArrayLike, probabilities: ArrayLike) -> dict[str, Any]:
    """Compute every metric that an evaluation reports, as plain floats and lists.

    The predicted class is the most probable one, on a tie the first. `sp_se_curve` moves the threshold for "normal"
    instead (see `scores_at_threshold`) and keeps at most 200 of its points.

    Parameters
    ----------
    true
        Class numbers (N,).
    probabilities
        Class probabilities (N, 4).
    """
    labels, p = _as_cycles(true, probabilities)
    counts = confusion_matrix(labels, p.argmax(axis=1))
    present = counts.sum(axis=1) > 0
    recalls = np.diag(counts)[present] / counts.sum(axis=1)[present]
    thresholds, specificity, sensitivity = _sp_se(labels, p)
    points = np.unique(np.linspace(0, len(thresholds) - 1, num=CURVE_POINTS).round().astype(int))
    return {
        **icbhi_scores(counts),
        "two_class": two_class_scores(counts),
        "confusion": counts.tolist(),
        "macro_recall": float(recalls.mean()),
        "accuracy": float(np.trace(counts) / counts.sum()),
        "crackle_present": _detection_metrics(np.isin(labels, (1, 3)), p[:, 1] + p[:, 3]),
        "wheeze_present": _detection_metrics(np.isin(labels, (2, 3)), p[:, 2] + p[:, 3]),
        "auroc": mean_auroc(labels, p),
        "constant_prediction": constant_prediction(counts),
        "sp_se_curve": {
            "threshold": thresholds[points].tolist(),
            "specificity": specificity[points].tolist(),
            "sensitivity": sensitivity[points].tolist(),
        },
        "majority": {"specificity": 1.0, "sensitivity": 0.0, "score": 0.5},
    }


def mean_auroc(true: ArrayLike, probabilities: ArrayLike) -> float:
    """(N,) classes, (N, 4) probabilities -> mean AUROC of "crackle present" and "wheeze present"; a constant answer has
    0.5. A sound that all cycles have, or none, is left out; NaN if that leaves none, or a probability is not finite."""
    labels, p = as_labels(true, name="true"), np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(p).all():
        return float("nan")
    sounds = ((1, 3), (2, 3))
    aurocs = [_detection_metrics(np.isin(labels, sound), p[:, sound].sum(axis=1))["auroc"] for sound in sounds]
    defined = [auroc for auroc in aurocs if not np.isnan(auroc)]
    return float(np.mean(defined)) if defined else float("nan")


def constant_prediction(confusion: ArrayLike) -> str | None:
    """(4, 4) counts, rows true -> the class that every cycle is called, or None if there are several."""
    called = np.flatnonzero(_as_counts(confusion).sum(axis=0))
    return CLASSES[called[0]] if len(called) == 1 else None


def normal_threshold(true: ArrayLike, probabilities: ArrayLike) -> float:
    """(N,) classes, (N, 4) probabilities -> the threshold for "normal" with the highest strict score, lowest on a tie.

    Choose it on validation patients; on test cycles it would be tuned to the answer. ValueError where the cycles are
    all normal or all abnormal, since no score exists there.
    """
    labels, p = _as_cycles(true, probabilities)
    thresholds, specificity, sensitivity = _sp_se(labels, p)
    score = (specificity + sensitivity) / 2
    if np.isnan(score).any():
        kind = "abnormal" if np.isnan(specificity).any() else "normal"
        raise ValueError(f"all {len(labels)} cycles are {kind}; choosing a threshold needs normal and abnormal cycles")
    return float(thresholds[score.argmax()])


def scores_at_threshold(true: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float]:
    """(N,) classes, (N, 4) probabilities -> strict figures when p_normal >= threshold means normal.

    Below the threshold the most probable of the other three classes is predicted.
    """
    labels, p = _as_cycles(true, probabilities)
    return icbhi_scores(confusion_matrix(labels, predict_at_threshold(p, threshold)))


def predict_at_threshold(probabilities: FloatArray, threshold: float | None) -> IntArray:
    """(N, 4) probabilities -> (N,) classes: normal from the threshold on, else the most probable of the others; without
    a threshold the most probable of all."""
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    return np.where(probabilities[:, 0] >= threshold, 0, 1 + probabilities[:, 1:].argmax(axis=1))


def metrics_by_group(
    true: ArrayLike, probabilities: ArrayLike, groups: Sequence[Any] | ArrayLike
) -> dict[str, dict[str, Any]]:
    """(N,) classes, (N, 4) probabilities, (N,) devices or locations -> per group: cycles, classes, strict figures."""
    labels, p = _as_cycles(true, probabilities)
    names = np.asarray(groups).astype(str)
    if names.shape != labels.shape:
        raise ValueError(f"groups of shape {names.shape} for {len(labels)} cycles; give one group name per cycle")
    counts = {
        str(name): confusion_matrix(labels[names == name], p[names == name].argmax(axis=1)) for name in np.unique(names)
    }
    return {
        name: {
            "cycles": int(table.sum()),
            "classes": dict(zip(CLASSES, table.sum(axis=1).tolist(), strict=True)),
            **icbhi_scores(table),
        }
        for name, table in counts.items()
    }


def as_labels(values: ArrayLike, name: str, classes: int = 4) -> IntArray:
    """Class numbers of any integer-valued kind -> (N,) int64; ValueError names what is not a class number."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} classes of shape {array.shape}, type {array.dtype}; expected one number 0..{classes - 1} per cycle"
        )
    wrong = ~np.isin(array, np.arange(classes))
    if wrong.any():
        raise ValueError(f"{name} classes hold {array[wrong][0]}, expected whole numbers 0..{classes - 1}")
    return array.astype(np.int64)


def as_probabilities(values: ArrayLike) -> FloatArray:
    """Class probabilities of any float kind -> (N, 4) float64; ValueError for logits, NaN or a wrong shape."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(CLASSES):
        raise ValueError(f"probabilities of shape {p.shape}, expected (cycles, 4) in the order {', '.join(CLASSES)}")
    # Loose enough for half precision and for files that keep three decimals.
    wrong = ~((p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 0.01))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"probabilities of cycle {row} are {p[row].tolist()}, expected four numbers from 0 to 1 that sum to 1; "
            "apply a softmax to logits first"
        )
    return p


def _score_fractions(normal_right: float, normals: float, abnormal_right: float, abnormals: float) -> dict[str, float]:
    specificity = float(normal_right / normals) if normals else float("nan")
    sensitivity = float(abnormal_right / abnormals) if abnormals else float("nan")
    return {"specificity": specificity, "sensitivity": sensitivity, "score": (specificity + sensitivity) / 2}


def _as_counts(confusion: ArrayLike) -> FloatArray:
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.shape != (4, 4):
        raise ValueError(f"confusion matrix of shape {counts.shape}, expected (4, 4) with rows true: {CLASSES}")
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError("the confusion matrix holds a negative or non-finite number, expected counts of cycles")
    return counts


def _as_cycles(true: ArrayLike, probabilities: ArrayLike) -> tuple[IntArray, FloatArray]:
    labels, p = as_labels(true, name="true"), as_probabilities(probabilities)
    if len(labels) != len(p):
        raise ValueError(f"{len(labels)} true classes and {len(p)} rows of probabilities; give one of each per cycle")
    if len(labels) == 0:
        raise ValueError("there are no cycles to score; give at least one cycle with a known class")
    return labels, p


def _detection_metrics(present: NDArray[np.bool_], probability: FloatArray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    both_kinds = present.any() and not present.all()
    return {
        "auroc": float(roc_auc_score(present, probability)) if both_kinds else float("nan"),
        "average_precision": float(average_precision_score(present, probability)) if present.any() else float("nan"),
    }


def _sp_se(labels: IntArray, p: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(N,), (N, 4) -> all distinct thresholds for "normal", ascending, and specificity and sensitivity at each (K,).

    The last threshold lies above every p_normal: there nothing is called normal.
    """
    distinct, place = np.unique(p[:, 0], return_inverse=True)
    thresholds = np.append(distinct, np.nextafter(max(1.0, float(distinct[-1])), 2.0))
    normal = labels == 0
    right_if_below = ~normal & (1 + p[:, 1:].argmax(axis=1) == labels)

    def below(chosen: NDArray[np.bool_]) -> FloatArray:
        return np.append(0, np.bincount(place[chosen], minlength=len(distinct)).cumsum()).astype(np.float64)

    normals, abnormals = normal.sum(), (~normal).sum()
    specificity = (normals - below(normal)) / normals if normals else np.full(len(thresholds), np.nan)
    sensitivity = below(right_if_below) / abnormals if abnormals else np.full(len(thresholds), np.nan)
    return thresholds, specificity, sensitivity
