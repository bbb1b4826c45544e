"""The scores of SPRSound's challenges of 2022 and 2023, tasks 1-1 to 2-2.

SP is the share of the normal events (or recordings) that are called normal, SE that of the adventitious ones that are
called by their own class, AS the mean of both, HS their harmonic mean, `score` the mean of these two. Recordings of
poor quality count in neither: the challenges' text defines both by normal and adventitious ones alone, and the public
code of two teams leaves them out (chenzizhao/biocas-challenge-22:model/metric.py, 2022; HUJH511/
BioCAS-2023-Grand_Challenge:src/utils/metric.py, 2023). Means over classes of one-against-rest figures, as some later
papers print, are another score.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rales.evaluation.bootstrap import bootstrap_intervals
from rales.evaluation.metrics import count_outcomes, outcome_scores
from rales.labels import POOR, RECORDING_TASKS, LabelSet, fold_word
from rales.typing import IntArray

if TYPE_CHECKING:
    import pandas as pd

KEY: Final = "sprsound_task"
FIGURES: Final = ("se", "sp", "as", "hs")


def score_challenge(rows: "pd.DataFrame", true: IntArray, called: IntArray, label_set: LabelSet) -> dict[str, Any]:
    """Rows of SPRSound with `test_part`, their classes (N,) and what they were called (N,) -> `task` and `sides`: all,
    inter, intra and the like -> figures of `score_task`; {} for rows or classes of another kind.

    ICBHI's four classes are scored by task 1-1, any of the abnormal ones being right.
    """
    task = "sprsound_1_1" if label_set.is_icbhi else label_set.task
    if not task or "test_part" not in rows:
        return {}
    if task == "sprsound_1_1":
        true, called = (true > 0).astype(np.int64), (called > 0).astype(np.int64)
    poor = [number for number, name in enumerate(label_set.classes) if fold_word(name) == POOR]
    parts, patients = rows["test_part"].to_numpy(), rows["patient"].to_numpy()
    sides = {"all": np.ones(len(rows), np.bool_)}
    sides |= {side: parts == side for side in sorted(set(parts) - {""})}
    return {
        "task": task.removeprefix("sprsound_").replace("_", "-"),
        "rows": "recordings" if task in RECORDING_TASKS else "events",
        "sides": {side: score_task(true[on], called[on], patients[on], poor) for side, on in sides.items()},
    }


def score_task(true: IntArray, called: IntArray, patients: Any, poor: list[int]) -> dict[str, Any]:
    """Score one side of a task.

    Parameters
    ----------
    true, called
        Class numbers (N,), 0 for normal.
    patients
        Patient of each (N,).
    poor
        Numbers of classes whose rows are not scored.

    Returns
    -------
    dict
        `rows` scored, se, sp, as, hs and score as fractions, `as_ci95` with patients resampled, and where there are
        unscored rows how many, and how many of them were called so. NaN of what does not exist.
    """
    counts = ~np.isin(true, poor)
    figures = outcome_scores(count_outcomes(true[counts], called[counts]))
    se, sp, mean = figures["sensitivity"], figures["specificity"], figures["score"]
    harmonic = 2 * se * sp / (se + sp) if se + sp else 0.0
    interval = bootstrap_intervals(true[counts], called[counts], patients[counts])["score"] if counts.any() else ()
    found: dict[str, Any] = {"rows": int(counts.sum()), "se": se, "sp": sp, "as": mean, "hs": harmonic}
    found |= {"score": (mean + harmonic) / 2, "as_ci95": list(interval)}
    if poor:
        found |= {"poor_quality": int((~counts).sum()), "poor_quality_found": int((true == called)[~counts].sum())}
    return found
