"""Answers for whole recordings: does any of its cycles hold a crackle, a wheeze, anything abnormal?

A cycle's probability of a finding is the sum of its classes'. Without anything learned a recording's is that of
noisy-or, 1 - Π(1 - q), which takes cycles for independent and so calls long recordings abnormal. `fit_pooling` learns
from recordings of patients that the network has not seen: the log-odds of the recording are a + b · mean + c · max of
the log-odds of its cycles. b and c are not negative, so a cycle more suspicious never lowers the answer, and all three
are drawn to the plain middle (a = 0, b = c = 1/2), where few recordings leave them.

The threshold is that at which at most FALSE_ALARM_RATE of the recordings without the finding are flagged, each of them
scored by a pooling that has not seen its patient. How many are flagged in truth is counted once more around all of
this: on patients who had no part in either pooling or threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.labels import CLASSES
from rales.settings import AnyNumber
from rales.typing import Columns, FloatArray, IndexArray

if TYPE_CHECKING:
    import pandas as pd

FINDINGS: Final[dict[str, tuple[str, ...]]] = {
    "abnormal": CLASSES[1:],
    "crackle": ("crackle", "both"),
    "wheeze": ("wheeze", "both"),
}
COLUMNS: Final = tuple(f"p_any_{name}" for name in FINDINGS)
FALSE_ALARM_RATE: Final = 0.2
UNFITTED: Final = "noisy-or, not calibrated"
FITTED: Final = "learned from held-out patients"

_FOLDS = 5
_START = np.array([0.0, 0.5, 0.5])  # a, b, c
_STRENGTH = 1.0  # of the pull to _START: the curvature of four recordings whose answer is 1/2
_EDGE = 1e-6  # probabilities nearer to 0 or 1 tell nothing more


@dataclass(frozen=True)
class Pooling:
    """How the cycles of a recording speak for it, and what was counted on held-out patients."""

    weights: list[AnyNumber]
    threshold: float
    rate: float
    patients: int
    negatives: int
    false_alarms: int
    positives: int
    found: int
    recordings: int = 0


def group_rows(words: Iterable[str]) -> dict[str, IndexArray]:
    """(n,) words, such as paths -> each once, in order of appearance, and the numbers of its rows."""
    rows: dict[str, list[int]] = {}
    for row, word in enumerate(words):
        rows.setdefault(word, []).append(row)
    return {word: np.array(numbers, dtype=np.intp) for word, numbers in rows.items()}


def find_cycle_probabilities(table: Columns, finding: str) -> FloatArray:
    """Prediction columns and a name of FINDINGS -> (cycles,) probability that a cycle has it; NaN where not judged."""
    of_classes = [np.asarray(table[f"p_{name}"], dtype=np.float64) for name in FINDINGS[finding]]
    return np.asarray(np.stack(of_classes, axis=1).sum(axis=1))


def noisy_or(probabilities: ArrayLike) -> float:
    """(cycles,) probabilities -> that of at least one, cycles taken for independent; NaN without a cycle."""
    q = np.asarray(probabilities, dtype=np.float64)
    return float(1 - np.prod(1 - q)) if len(q) else float("nan")


def pooling_features(probabilities: ArrayLike) -> FloatArray:
    """(cycles,) probabilities -> (2,) mean and maximum of their log-odds."""
    q = np.clip(np.asarray(probabilities, dtype=np.float64), _EDGE, 1 - _EDGE)
    odds = np.log(q / (1 - q))
    return np.array([odds.mean(), odds.max()])


def pool_probabilities(probabilities: ArrayLike, pooling: Mapping[str, Any] | None) -> float:
    """(cycles,) probabilities that can be judged, what `fit_pooling` found of a finding or None -> the probability that
    the recording has it; NaN without a cycle."""
    if pooling is None or not len(np.asarray(probabilities)):
        return noisy_or(probabilities)
    return float(_sigmoid(_with_one(pooling_features(probabilities)[None]) @ np.array(pooling["weights"]))[0])


def fit_pooling(table: pd.DataFrame) -> dict[str, Any]:
    """Learn how cycles speak for their recording.

    Parameters
    ----------
    table
        Prediction table of validation cycles, calibrated as predictions will be, with true_label and patient: of
        patients whom the network was not trained on.

    Returns
    -------
    finding -> `weights` (a, b, c), `threshold`, `rate`, and what was counted on held-out patients: `recordings`,
    `patients`, `negatives`, `false_alarms`, `positives`, `found`. A finding that all recordings have, or none, and one
    of a single patient is left out.
    """
    learned = {}
    groups = [rows for _, rows in table.dropna(subset=[f"p_{CLASSES[0]}"]).groupby("recording", sort=True)]
    patients = [str(rows["patient"].iloc[0]) for rows in groups]
    for finding, classes in FINDINGS.items():
        present = np.array([rows["true_label"].isin(classes).any() for rows in groups], dtype=np.bool_)
        if not present.any() or present.all() or len(set(patients)) < 2:
            continue
        features = np.array([pooling_features(find_cycle_probabilities(rows, finding)) for rows in groups])
        weights, threshold = fit_weights_and_threshold(features, present, patients, FALSE_ALARM_RATE)

        flagged = np.zeros(len(groups), dtype=np.bool_)
        for held in divide_patients(present, patients):
            seen = [name for name, out in zip(patients, held, strict=True) if not out]
            w, limit = fit_weights_and_threshold(features[~held], present[~held], seen, FALSE_ALARM_RATE)
            flagged[held] = _sigmoid(_with_one(features[held]) @ w) >= limit
        learned[finding] = {
            "weights": weights.tolist(),
            "threshold": threshold,
            "rate": FALSE_ALARM_RATE,
            "recordings": len(groups),
            "patients": len(set(patients)),
            "negatives": int((~present).sum()),
            "false_alarms": int((flagged & ~present).sum()),
            "positives": int(present.sum()),
            "found": int((flagged & present).sum()),
        }
    return learned


def fit_weights_and_threshold(
    features: FloatArray, present: NDArray[np.bool_], patients: Sequence[str], rate: float
) -> tuple[FloatArray, float]:
    """(n, 2) features, which recordings have the finding, their patients, allowed share -> (3,) weights of all of them,
    and the threshold by answers to each from the other patients alone."""
    answers = np.empty(len(features))
    for held in divide_patients(present, patients):
        answers[held] = _sigmoid(_with_one(features[held]) @ fit_weights(features[~held], present[~held]))
    return fit_weights(features, present), choose_threshold(answers[~present], rate)


def fit_weights(features: FloatArray, present: NDArray[np.bool_]) -> FloatArray:
    """(n, 2) features, which recordings have the finding -> (3,) a, b, c of the least penalised log loss; where there
    is no recording, those that they are drawn to."""
    from scipy.optimize import minimize

    inputs, sign = _with_one(features), np.where(present, 1.0, -1.0)

    def loss_and_slope(weights: FloatArray) -> tuple[float, FloatArray]:
        margin, away = sign * (inputs @ weights), weights - _START
        slope = -(inputs * (sign * _sigmoid(-margin))[:, None]).sum(axis=0) + _STRENGTH * away
        return float(np.logaddexp(0, -margin).sum() + _STRENGTH / 2 * (away @ away)), slope

    bounds = [(None, None), (0, None), (0, None)]
    found: FloatArray = minimize(loss_and_slope, _START, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found


def choose_threshold(negatives: ArrayLike, rate: float) -> float:
    """(n,) answers to recordings without the finding, allowed share -> the lowest threshold from which on at most that
    share of them is flagged; 1 without any."""
    if not 0 <= rate < 1:
        raise ValueError(f"false-alarm rate {rate}, expected a fraction from 0 up to 1, such as 0.2")
    falling = np.sort(np.asarray(negatives, dtype=np.float64))[::-1]
    if not len(falling):
        return 1.0
    first_kept = falling[int(np.floor(rate * len(falling) + 1e-9))]  # 0.2 of 5 is one, whatever rounding makes of it
    return float(np.nextafter(first_kept, 2))


def divide_patients(present: NDArray[np.bool_], patients: Sequence[str]) -> Iterator[NDArray[np.bool_]]:
    """Which recordings have the finding, their patients -> masks of those held out, whole patients, up to five times;
    patients with and without it are spread evenly."""
    with_it = {name for name, has in zip(patients, present, strict=True) if has}
    ordered = sorted(set(patients), key=lambda name: (name not in with_it, name))
    fold = {name: place % _FOLDS for place, name in enumerate(ordered)}
    of = np.array([fold[name] for name in patients])
    return (of == number for number in np.unique(of))


def answer_columns(table: Columns, pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Prediction columns of whole recordings -> a row for each `path`: COLUMNS, NaN where no cycle could be judged,
    `flagged` (findings at or above their threshold, joined by +; empty without a pooling) and `pooling`, its origin."""
    pooling, groups = pooling or {}, group_rows(table["path"])
    is_judged = ~np.isnan(np.asarray(table[f"p_{CLASSES[0]}"], dtype=np.float64))
    judged = [rows[is_judged[rows]] for rows in groups.values()]
    answers = dict[str, FloatArray]()
    for name in FINDINGS:
        p = find_cycle_probabilities(table, name)
        answers[name] = np.array([pool_probabilities(p[rows], pooling.get(name)) for rows in judged], dtype=np.float64)

    limits = {name: known["threshold"] for name, known in pooling.items() if name in answers}
    flagged = ["+".join(name for name in limits if answers[name][n] >= limits[name]) for n in range(len(judged))]
    return {
        "path": list(groups),
        **dict(zip(COLUMNS, answers.values(), strict=True)),
        "flagged": flagged,
        "pooling": [describe_pooling(pooling)] * len(judged),
    }


def answer_recordings(table: pd.DataFrame, pooling: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """`answer_columns` as a table."""
    import pandas as pd

    return pd.DataFrame(answer_columns(table, pooling))


def describe_pooling(pooling: Mapping[str, Any]) -> str:
    """What was learned, by finding -> in a few words, how a recording's answers come from those of its cycles."""
    if not pooling:
        return UNFITTED
    unlearned = [name for name in FINDINGS if name not in pooling]
    return FITTED + (f"; {', '.join(unlearned)}: {UNFITTED}" if unlearned else "")


def add_answers(summary: pd.DataFrame, table: pd.DataFrame, pooling: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Summary with a row per recording, the prediction table that it is of -> the summary with the columns of
    `answer_recordings`; unchanged where the classes are others than those of ICBHI 2017."""
    if {name for name in table if str(name).startswith("p_")} != {f"p_{name}" for name in CLASSES}:
        return summary
    added = summary.merge(answer_recordings(table, pooling), on="path", how="left", sort=False)
    added.attrs.update(summary.attrs)
    return added


def sort_by_answer(summary: pd.DataFrame) -> pd.DataFrame:
    """Summary -> the recordings that are most likely abnormal first, those without an answer last."""
    if COLUMNS[0] not in summary:
        return summary
    ordered = summary.sort_values(COLUMNS[0], ascending=False, kind="stable", na_position="last")
    return ordered.reset_index(drop=True)


def pooling_notice(pooling: Mapping[str, Any] | None) -> str:
    """What was learned -> the sentence that must stand beside answers for recordings."""
    if not pooling:
        return f"Answers for whole recordings: {UNFITTED}; recordings with more cycles look more abnormal."
    said = [
        f"{name}: {known['false_alarms']} of {known['negatives']} without it flagged, {known['found']} of "
        f"{known['positives']} with it found"
        for name, known in pooling.items()
    ]
    first = next(iter(pooling.values()))
    return (
        f"Answers for whole recordings: {describe_pooling(pooling)}; flagged at a threshold for at most "
        f"{first['rate']:.0%} false alarms, which on {first['patients']} held-out patients came to: {'; '.join(said)}."
    )


def _with_one(features: FloatArray) -> FloatArray:
    return np.hstack([np.ones((len(features), 1)), features])


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), dtype=np.float64)
