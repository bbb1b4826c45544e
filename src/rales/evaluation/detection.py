"""How well a probability tells what has a finding from what has not: AUROC with an interval by patient."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.evaluation.bootstrap import LEVEL
from rales.labels import ICBHI, LabelSet

THRESHOLDS = [round(0.05 * step, 2) for step in range(1, 20)]
SOUNDS = {"abnormal": (1, 2, 3), "crackle": (1, 3), "wheeze": (2, 3)}  # finding -> class numbers that have it


def detect_findings(
    true: ArrayLike, probabilities: ArrayLike, patients: Sequence[Any] | ArrayLike
) -> dict[str, dict[str, Any]]:
    """(N,) classes, (N, 4) probabilities, (N,) patients -> finding -> `measure_detection` of the cycles with it."""
    labels, p = np.asarray(true), np.asarray(probabilities, dtype=np.float64)
    return {
        name: measure_detection(np.isin(labels, classes), p[:, classes].sum(axis=1), patients)
        for name, classes in SOUNDS.items()
    }


def tabulate_thresholds(
    true: ArrayLike, probabilities: ArrayLike, label_set: LabelSet = ICBHI
) -> dict[str, list[dict[str, Any]]]:
    """Targets and probabilities of N cycles -> each class, and with ICBHI's classes each finding -> a row for each of
    `THRESHOLDS`: how many cycles have at least that probability (`found`), how many of them have it (`right`), and the
    `precision` and `recall` that follow; None where a share is of nothing."""
    targets, p = np.asarray(true), np.asarray(probabilities, dtype=np.float64)
    sounds: dict[str, tuple[int, ...]] = {name: (number,) for number, name in enumerate(label_set.classes)}
    if label_set.is_icbhi:
        sounds |= {f"any {name}" if name != "abnormal" else name: numbers for name, numbers in SOUNDS.items()}
    tables = {}
    for name, numbers in sounds.items():
        has = targets[:, numbers[0]] == 1 if label_set.independent else np.isin(targets, numbers)
        share = p[:, numbers].sum(axis=1)
        rows = []
        for threshold in THRESHOLDS:
            found = share >= threshold - 1e-9  # sums of shares round
            many, right, there = int(found.sum()), int((found & has).sum()), int(has.sum())
            precision, recall = (right / whole if whole else None for whole in (many, there))
            rows.append(
                {"threshold": threshold, "found": many, "right": right, "precision": precision, "recall": recall}
            )
        tables[name] = rows
    return tables


def measure_detection(present: ArrayLike, scores: ArrayLike, patients: Sequence[Any] | ArrayLike) -> dict[str, Any]:
    """Which of N have a finding, (N,) scores, (N,) patients -> auroc, ci95, positives, negatives; None for a number
    that is not defined."""
    has, values = np.asarray(present, dtype=np.bool_), np.asarray(scores, dtype=np.float64)
    auroc, *ends = (None if np.isnan(value) else value for value in auroc_interval(has, values, patients))
    return {"auroc": auroc, "ci95": ends, "positives": int(has.sum()), "negatives": int((~has).sum())}


def auroc_interval(
    present: NDArray[np.bool_], scores: NDArray[np.float64], patients: Sequence[Any] | ArrayLike
) -> tuple[float, float, float]:
    """Compute the area under the ROC curve, and its interval (low, high) where patients are the units.

    The variance is that of structural components summed by patient (Obuchowski, Biometrics 53, 1997; with one of N a
    patient it is DeLong's), the interval symmetric in the log-odds of the area, with Student's t of the fewer of the
    patients with and without the finding, less one. NaN with fewer than two patients on either side, and where the
    area is 0 or 1.

    Parameters
    ----------
    present
        Which of N have the finding (N,).
    scores
        Larger where it is more likely (N,).
    patients
        Patient of each (N,).
    """
    from scipy.special import stdtrit
    from scipy.stats import rankdata

    positives, negatives = int(present.sum()), int((~present).sum())
    if not positives or not negatives:
        return float("nan"), float("nan"), float("nan")
    ranks = rankdata(scores)
    # Of one with the finding the share of those without that lie below it, and the other way round; ties count half
    above = (ranks[present] - rankdata(scores[present])) / negatives
    below = 1 - (ranks[~present] - rankdata(scores[~present])) / positives
    auroc = float(above.mean())

    _, unit = np.unique(np.asarray(patients), return_inverse=True)
    units = int(unit.max()) + 1
    with_it = np.bincount(unit[present], above - auroc, minlength=units)
    without = np.bincount(unit[~present], below - auroc, minlength=units)
    some_with, some_without = (len(np.unique(unit[chosen])) for chosen in (present, ~present))
    if min(some_with, some_without) < 2 or auroc in (0.0, 1.0):
        return auroc, float("nan"), float("nan")
    variance = (
        some_with / (some_with - 1) * (with_it @ with_it) / positives**2
        + some_without / (some_without - 1) * (without @ without) / negatives**2
        + 2 * units / (units - 1) * (with_it @ without) / (positives * negatives)
    )
    error = float(np.sqrt(np.maximum(variance, 0.0))) / (auroc * (1 - auroc))
    reach = error * stdtrit(min(some_with, some_without) - 1, (1 + LEVEL) / 2)
    odds = np.log(auroc / (1 - auroc))
    return auroc, float(1 / (1 + np.exp(reach - odds))), float(1 / (1 + np.exp(-reach - odds)))
