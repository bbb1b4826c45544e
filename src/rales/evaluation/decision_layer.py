"""How M2D2 decides: answers averaged over shifts in time and over runs, and a threshold for "normal" of validation
patients that is frozen for the test.

Source: hunpark923/m2d2_icbhi (src/cls/threshold.py, src/cls/tta.py, src/cls/config.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.evaluation.metrics import as_labels, as_probabilities, count_outcomes, outcome_scores, predict_at_threshold
from rales.labels import ICBHI, LabelSet

SHIFTS_S = (-0.35, -0.20, -0.10, 0.0, 0.10, 0.20, 0.35)
"""Seconds by which M2D2 turns a clip round in time at the test."""
THRESHOLDS = np.linspace(0.05, 0.95, 91)
SAME = 1e-12  # scores that differ by less are equal


def choose_frozen_threshold(
    true: ArrayLike, probabilities: ArrayLike, patients: Sequence[Any] | ArrayLike, label_set: LabelSet = ICBHI
) -> float:
    """Validation cycles -> the threshold for "normal" that M2D2 freezes for the test, one of `THRESHOLDS`.

    The highest Score of all cycles; of equal ones the highest mean of the patients' own Scores, where a kind of cycle
    that a patient lacks counts 0; of these the one in the middle, then that of the higher specificity. Normal is named
    from the threshold on, below it the most probable other class.

    Parameters
    ----------
    true, probabilities : (n,) class numbers and (n, C) probabilities.
    patients : (n,) patient of each.
    label_set : exclusive classes.

    Errors: cycles that are all normal or all abnormal, since no score exists there.
    """
    labels, p = as_labels(true, "true classes", len(label_set)), as_probabilities(probabilities, label_set)
    if (labels == 0).all() or (labels > 0).all():
        kind = "normal" if (labels == 0).all() else "abnormal"
        raise ValueError(f"all {len(labels)} cycles are {kind}; choosing a threshold needs normal and abnormal cycles")

    groups = [np.asarray(patients) == patient for patient in np.unique(np.asarray(patients))]
    called = [predict_at_threshold(p, float(each), label_set) for each in THRESHOLDS]
    scores = [outcome_scores(count_outcomes(labels, each)) for each in called]
    of_all = np.array([each["score"] for each in scores])
    of_patients = np.array([np.mean([score_of_patient(labels[on], each[on]) for on in groups]) for each in called])

    best = of_all >= of_all.max() - SAME
    best &= of_patients >= of_patients[best].max() - SAME
    middle = np.median(THRESHOLDS[best])
    return float(
        min(
            THRESHOLDS[best],
            key=lambda each: (
                round(abs(each - middle), 9),
                -scores[int(np.searchsorted(THRESHOLDS, each))]["specificity"],
            ),
        )
    )


def score_of_patient(true: NDArray[np.int64], called: NDArray[np.int64]) -> float:
    """A patient's cycles -> Score, in which a kind of cycle that is not there counts 0."""
    figures = outcome_scores(count_outcomes(true, called))
    return float(np.nan_to_num([figures["specificity"], figures["sensitivity"]]).mean())


class ShiftedWaveforms:
    """(N, samples) waveforms, read as if each had been turned round in time by so many samples (later if positive)."""

    def __init__(self, waveforms: NDArray[np.float32], samples: int) -> None:
        self.waveforms, self.samples = waveforms, samples

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.roll(self.waveforms[rows], self.samples, axis=-1)
