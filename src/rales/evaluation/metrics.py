"""Metrics of the four-class task, class order normal, crackle, wheeze, both (0..3), and of own label sets.

Every figure is a fraction; where its denominator is 0 (a class that is absent) it is NaN, never an error or a warning.
A score alone hides much: an all-normal classifier already has 0.5, so `compute_metrics` always carries that line.

`true` is (N,) class numbers or, of independent classes, (N, C) of 0 and 1; `probabilities` are (N, C) either way.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.labels import ICBHI, LabelSet
from rales.typing import FloatArray, IntArray

CURVE_POINTS: Final = 200


def icbhi_scores(confusion: ArrayLike) -> dict[str, float]:
    """Compute specificity, sensitivity and score, as fractions (paper section 4.2, eq. 3-5).

    Sensitivity asks for the exact class and pools the abnormal classes, so it is not a mean of recalls.

    Parameters
    ----------
    confusion
        Counts (C, C), rows true, the first class normal; of ICBHI (4, 4) in the order of CLASSES.
    """
    counts = _as_counts(confusion)
    right = np.diag(counts)
    return outcome_scores([right[0], counts[0].sum(), right[1:].sum(), counts[1:].sum()])


def count_outcomes(true: ArrayLike, predicted: ArrayLike) -> IntArray:
    """(N,) true and predicted numbers of rows, 0 for normal ones (`LabelSet.encode_rows`) -> (4,) right normals,
    normals, right abnormals, abnormals."""
    one, other = np.asarray(true), np.asarray(predicted)
    normal, right = one == 0, one == other
    return np.array([(normal & right).sum(), normal.sum(), (~normal & right).sum(), (~normal).sum()])


def outcome_scores(counts: ArrayLike) -> dict[str, float]:
    """(4,) counts of `count_outcomes` -> specificity, sensitivity and score."""
    normal_right, normals, abnormal_right, abnormals = np.asarray(counts, np.float64)
    specificity = float(normal_right / normals) if normals else float("nan")
    sensitivity = float(abnormal_right / abnormals) if abnormals else float("nan")
    return {"specificity": specificity, "sensitivity": sensitivity, "score": (specificity + sensitivity) / 2}


def two_class_scores(confusion: ArrayLike) -> dict[str, float]:
    """Compute the three scores where any abnormal class predicted for an abnormal cycle is a hit.

    Literature's "two-class" column of a four-class model; a model trained with two classes is a different system.

    Parameters
    ----------
    confusion
        Counts (C, C), rows true, the first class normal.
    """
    counts = _as_counts(confusion)
    return outcome_scores([counts[0, 0], counts[0].sum(), counts[1:, 1:].sum(), counts[1:].sum()])


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


def compute_metrics(
    true: ArrayLike, probabilities: ArrayLike, label_set: LabelSet = ICBHI, called: IntArray | None = None
) -> dict[str, Any]:
    """Compute every metric that an evaluation reports, as plain floats and lists.

    The predicted class is the most probable one, on a tie the first, unless `called` says another. `sp_se_curve` moves
    the threshold for "normal" instead (see `scores_at_threshold`) and keeps at most 200 of its points. Crackles and
    wheezes present are figures of ICBHI's classes; other sets have `by_class`, each against the rest, and say their
    names.

    Parameters
    ----------
    true
        Class numbers (N,), or (N, C) of independent classes.
    probabilities
        Class probabilities (N, C).
    label_set
        The classes.
    called
        Predicted classes, as `true`.
    """
    if label_set.independent:
        return independent_metrics(true, probabilities, label_set, called)
    labels, p = _as_cycles(true, probabilities, label_set)
    counts = confusion_matrix(labels, p.argmax(axis=1) if called is None else called, len(label_set))
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
        **({} if label_set.is_icbhi else label_set.to_record()),
        **detect_classes(labels, p, label_set),
        "auroc": mean_auroc(labels, p, label_set),
        "constant_prediction": constant_prediction(counts, label_set),
        "sp_se_curve": {
            "threshold": thresholds[points].tolist(),
            "specificity": specificity[points].tolist(),
            "sensitivity": sensitivity[points].tolist(),
        },
        "majority": {"specificity": 1.0, "sensitivity": 0.0, "score": 0.5},
    }


def independent_metrics(
    true: ArrayLike, probabilities: ArrayLike, label_set: LabelSet, called: IntArray | None = None
) -> dict[str, Any]:
    """(N, C) of 0 and 1, (N, C) probabilities, what was named if not those above 0.5 -> the figures of independent
    classes.

    A row is right where all its answers are. So specificity is the share of the rows without any class for which none
    is named, sensitivity that of the others for which exactly theirs are.
    """
    targets, p = _as_cycles(true, probabilities, label_set)
    called = predict_at_threshold(p, None, label_set) if called is None else called
    rows, answers = label_set.encode_rows(targets), label_set.encode_rows(called)
    tables = [confusion_matrix(targets[:, i], called[:, i], 2) for i in range(len(label_set))]
    recalls = [table[1, 1] / table[1].sum() for table in tables if table[1].any()]
    return {
        **outcome_scores(count_outcomes(rows, answers)),
        "two_class": outcome_scores(count_outcomes(rows > 0, answers > 0)),
        "confusion_per_class": {name: table.tolist() for name, table in zip(label_set.classes, tables, strict=True)},
        "macro_recall": float(np.mean(recalls)) if recalls else float("nan"),
        "accuracy": float((rows == answers).mean()),
        **label_set.to_record(),
        **detect_classes(targets, p, label_set),
        "auroc": mean_auroc(targets, p, label_set),
        "constant_prediction": label_set.name_targets(called[:1])[0] if len(np.unique(answers)) == 1 else None,
        "majority": {"specificity": 1.0, "sensitivity": 0.0, "score": 0.5},
    }


def detect_classes(targets: IntArray, p: FloatArray, label_set: LabelSet) -> dict[str, Any]:
    """Targets and probabilities of N rows -> AUROC and average precision of each class against the rest, or of ICBHI's
    of crackles and wheezes present."""
    if label_set.is_icbhi:
        sounds = {"crackle_present": [1, 3], "wheeze_present": [2, 3]}
        return {
            name: _detection_metrics(np.isin(targets, sound), p[:, sound].sum(axis=1)) for name, sound in sounds.items()
        }
    present = targets == 1 if label_set.independent else targets[:, None] == np.arange(len(label_set))
    each = {name: _detection_metrics(present[:, i], p[:, i]) for i, name in enumerate(label_set.classes)}
    return {"by_class": each}


def mean_auroc(true: ArrayLike, probabilities: ArrayLike, label_set: LabelSet = ICBHI) -> float:
    """Targets and probabilities of N rows -> mean AUROC of "crackle present" and "wheeze present", or of each class
    against the rest where they are not ICBHI's; a constant answer has 0.5. What all cycles have, or none, is left out;
    NaN if that leaves none, or a probability is not finite."""
    targets, p = as_targets(true, label_set), np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(p).all():
        return float("nan")
    found = detect_classes(targets, p, label_set)
    aurocs = [each["auroc"] for each in (found.get("by_class") or found).values()]
    defined = [auroc for auroc in aurocs if not np.isnan(auroc)]
    return float(np.mean(defined)) if defined else float("nan")


def constant_prediction(confusion: ArrayLike, label_set: LabelSet = ICBHI) -> str | None:
    """(C, C) counts, rows true -> the class that every cycle is called, or None if there are several."""
    called = np.flatnonzero(_as_counts(confusion).sum(axis=0))
    return label_set.classes[called[0]] if len(called) == 1 else None


def normal_threshold(true: ArrayLike, probabilities: ArrayLike, label_set: LabelSet = ICBHI) -> float:
    """Targets and probabilities of N rows -> the threshold with the highest strict score, lowest on a tie: that for
    "normal", or of independent classes that above which any of them is named.

    Choose it on validation patients; on test cycles it would be tuned to the answer. ValueError where the cycles are
    all normal or all abnormal, since no score exists there.
    """
    labels, p = _as_cycles(true, probabilities, label_set)
    if label_set.independent:
        thresholds = np.unique(np.quantile(p, np.linspace(0, 1, CURVE_POINTS), method="lower"))
        scores = [scores_at_threshold(labels, p, float(each), label_set) for each in thresholds]
        specificity, sensitivity = (
            np.array([each[name] for each in scores]) for name in ("specificity", "sensitivity")
        )
    else:
        thresholds, specificity, sensitivity = _sp_se(labels, p)
    score = (specificity + sensitivity) / 2
    if np.isnan(score).any():
        kind = "abnormal" if np.isnan(specificity).any() else "normal"
        raise ValueError(f"all {len(labels)} cycles are {kind}; choosing a threshold needs normal and abnormal cycles")
    return float(thresholds[score.argmax()])


def scores_at_threshold(
    true: ArrayLike, probabilities: ArrayLike, threshold: float, label_set: LabelSet = ICBHI
) -> dict[str, float]:
    """Targets and probabilities of N rows -> strict figures when p_normal >= threshold means normal.

    Below the threshold the most probable of the other classes is predicted. Independent classes are named above it.
    """
    labels, p = _as_cycles(true, probabilities, label_set)
    called = predict_at_threshold(p, threshold, label_set)
    return outcome_scores(count_outcomes(label_set.encode_rows(labels), label_set.encode_rows(called)))


def predict_at_threshold(probabilities: FloatArray, threshold: float | None, label_set: LabelSet = ICBHI) -> IntArray:
    """(N, C) probabilities -> (N,) classes: normal from the threshold on, else the most probable of the others; without
    a threshold the most probable of all. Of independent classes (N, C): 1 for those above the threshold, or 0.5."""
    if label_set.independent:
        return (probabilities > (0.5 if threshold is None else threshold)).astype(np.int64)
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    return np.where(probabilities[:, 0] >= threshold, 0, 1 + probabilities[:, 1:].argmax(axis=1))


def find_finding_probabilities(probabilities: FloatArray, label_set: LabelSet = ICBHI) -> FloatArray:
    """(N, C) probabilities -> (N, findings) that of each of `LabelSet.findings`, the sum over the classes that have
    it."""
    return np.stack([probabilities[:, numbers].sum(axis=1) for numbers in map(list, label_set.findings.values())], 1)


def predict_at_class_thresholds(
    probabilities: FloatArray, thresholds: Mapping[str, float], label_set: LabelSet = ICBHI
) -> IntArray:
    """(N, C) probabilities, threshold by finding (0.5 where there is none) -> (N,) classes, or (N, C) of 0 and 1.

    A finding is named from its threshold on. ICBHI's label says which of the two are named: none is normal, both is
    both. Of independent classes each is named for itself. Of other exclusive ones the label is, of those named, that
    whose probability is the most times its threshold; the first class without any.
    """
    limits = np.array([thresholds.get(name, 0.5) for name in label_set.findings])
    p = find_finding_probabilities(probabilities, label_set)
    named = p >= limits
    if label_set.independent:
        return named.astype(np.int64)
    if label_set.is_icbhi:
        return np.asarray(named @ np.array([1, 2]), np.int64)
    times = p / np.maximum(limits, np.finfo(np.float64).tiny)
    return np.where(named.any(axis=1), 1 + np.where(named, times, -1).argmax(axis=1), 0)


def metrics_by_group(
    true: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[Any] | ArrayLike,
    label_set: LabelSet = ICBHI,
    called: IntArray | None = None,
) -> dict[str, dict[str, Any]]:
    """Targets and probabilities of N rows, (N,) devices or locations, what was predicted if not the most probable class
    -> per group: cycles, classes, strict figures."""
    labels, p = _as_cycles(true, probabilities, label_set)
    names = np.asarray(groups).astype(str)
    if names.shape != labels.shape[:1]:
        raise ValueError(f"groups of shape {names.shape} for {len(labels)} cycles; give one group name per cycle")
    called = predict_at_threshold(p, None, label_set) if called is None else called
    rows, answers = label_set.encode_rows(labels), label_set.encode_rows(called)
    return {
        str(name): {
            "cycles": int((names == name).sum()),
            "classes": label_set.count_labels(label_set.name_targets(labels[names == name])),
            **outcome_scores(count_outcomes(rows[names == name], answers[names == name])),
        }
        for name in np.unique(names)
    }


def as_targets(values: ArrayLike, label_set: LabelSet) -> IntArray:
    """What N rows are in truth -> (N,) class numbers, or (N, C) of 0 and 1. Errors: as of `as_labels`."""
    if not label_set.independent:
        return as_labels(values, name="true", classes=len(label_set))
    array = np.asarray(values).reshape(-1, len(label_set))
    return as_labels(array.ravel(), name="true", classes=2).reshape(array.shape)


def as_labels(values: ArrayLike, name: str, classes: int = 4) -> IntArray:
    """Class numbers of any integer-valued kind -> (N,) int64; ValueError names what is not a class number."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} classes of shape {array.shape}, type {array.dtype}; expected one number 0..{classes - 1} per cycle"
        )
    wrong = ~((array >= 0) & (array < classes) & (array == np.floor(array)))
    if wrong.any():
        raise ValueError(f"{name} classes hold {array[wrong][0]}, expected whole numbers 0..{classes - 1}")
    return array.astype(np.int64)


def as_probabilities(values: ArrayLike, label_set: LabelSet = ICBHI) -> FloatArray:
    """Class probabilities of any float kind -> (N, C) float64; ValueError for logits, NaN or a wrong shape."""
    p, classes = np.asarray(values, dtype=np.float64), len(label_set)
    if p.ndim != 2 or p.shape[1] != classes:
        order = ", ".join(label_set.classes)
        raise ValueError(f"probabilities of shape {p.shape}, expected (cycles, {classes}) in the order {order}")
    if not label_set.independent:
        return as_distributions(p)
    wrong = ~((p >= 0) & (p <= 1)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"probabilities of cycle {row} are {p[row].tolist()}, expected {classes} numbers from 0 to 1; apply a "
            "sigmoid to logits first"
        )
    return p


def as_distributions(values: ArrayLike) -> FloatArray:
    """Probabilities of classes of which each row has one -> (N, C) float64. Errors: as of `as_probabilities`."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2:
        raise ValueError(f"probabilities of shape {p.shape}, expected (cycles, classes) of two or more classes")
    # Loose enough for half precision and for files that keep three decimals.
    wrong = ~((p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 0.01))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"probabilities of cycle {row} are {p[row].tolist()}, expected {p.shape[1]} numbers from 0 to 1 that sum "
            "to 1; apply a softmax to logits first"
        )
    return p


def safe_ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> FloatArray:
    """Two arrays of one shape -> their ratio, NaN where there is nothing to divide by."""
    ratio = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def require_equal_length(**columns: NDArray[Any]) -> None:
    """Columns by name -> nothing. Errors: a ValueError with their lengths where these differ."""
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"columns of unequal length ({lengths}); give one value of each per cycle")


def _as_counts(confusion: ArrayLike) -> FloatArray:
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim != 2 or len(set(counts.shape)) > 1 or len(counts) < 2:
        raise ValueError(
            f"confusion matrix of shape {counts.shape}, expected a row and a column for each of two or more classes, "
            "rows true"
        )
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError("the confusion matrix holds a negative or non-finite number, expected counts of cycles")
    return counts


def _as_cycles(true: ArrayLike, probabilities: ArrayLike, label_set: LabelSet) -> tuple[IntArray, FloatArray]:
    labels, p = as_targets(true, label_set), as_probabilities(probabilities, label_set)
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
