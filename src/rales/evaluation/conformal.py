"""Conformal prediction: sets of labels that hold the true one for a stated share of the cycles of patients never seen.

A label is in a cycle's set where the network gives it at least the probability `least` (Sadinle, Lei & Wasserman 2019,
"Least ambiguous set-valued classifiers"). Cycles of a patient resemble each other, so the patient is the unit: take one
cycle of each of K patients, then among these K + 1 places a new patient's cycle falls into each alike, and the k-th
highest probability of a true label, k = coverage (K + 1) rounded up, is reached with at least the nominal probability
(subsampling once; Dunn, Wasserman & Ramdas 2022). Which cycles are taken is chance, so all ways to take them vote: a
label is in the set where at least half of them put it there. The vote is counted exactly, not drawn.

What is promised: draw a patient as those of the calibration were drawn, and one of their cycles; its set holds the true
label with the nominal probability. That is exact where a patient's cycles are all alike, and kept by the vote where
they are independent and in between (tests/test_conformal.py); what is proven of any vote is twice the error, 80 % where
90 % is nominal. It is a mean over patients, each of whom counts alike; not a promise for every patient, every class, or
another clinic. Fewer than coverage / (1 - coverage) patients, 9 for 90 %, can promise nothing, and every label is in
every set.

The probabilities are those before any temperature: one that is fitted to the same patients would void the promise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.errors import UsageError
from rales.evaluation.metrics import as_probabilities, as_targets, require_equal_length
from rales.labels import ICBHI, JOINED, LabelSet
from rales.typing import FloatArray, IntArray, Probabilities

COVERAGES: Final = (0.8, 0.9, 0.95)
LEAST_PATIENTS: Final = 10  # of a device for sets of its own
ANY, NO_LABEL = "any", "no label"
_OR = " | "


@dataclass(frozen=True)
class Group:
    """The patients that a quantile is of."""

    patients: int
    cycles: int
    least: dict[str, float] = field(default_factory=dict)
    """Nominal coverage -> the probability from which on a label is in the set; 0 where patients are too few."""


@dataclass(frozen=True)
class Conformal:
    """What a model's sets are made by."""

    pooled: Group
    devices: dict[str, Group] = field(default_factory=dict)
    """Devices by name; one without `least` at a coverage has too few patients and takes the pooled one."""


@dataclass(frozen=True)
class SetRule:
    """How probabilities become sets of one nominal coverage."""

    coverage: float
    pooled: float
    patients: int
    devices: dict[str, float] = field(default_factory=dict)

    def find_least(self, devices: Iterable[str]) -> FloatArray:
        """(n,) devices of cycles, "" where unknown -> (n,) probability from which on a label is in the set."""
        return np.array([self.devices.get(name, self.pooled) for name in devices], dtype=np.float64)


def fit_conformal(
    probabilities: ArrayLike,
    class_numbers: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    devices: Sequence[str] | ArrayLike | None = None,
    label_set: LabelSet = ICBHI,
) -> Conformal:
    """Find from which probability on labels are in the sets, for COVERAGES, of all patients and per device.

    Parameters
    ----------
    probabilities
        (N, C) of the network, of patients whom it was not trained on, before any temperature.
    class_numbers
        (N,) true classes, or (N, C) of 0 and 1 where they are independent.
    patients
        Patient of each cycle (N,).
    devices
        Device of each cycle (N,), "" where unknown; None for no groups.
    label_set
        The classes.
    """
    targets, p = as_targets(class_numbers, label_set), as_probabilities(probabilities, label_set)
    who = np.asarray(patients).astype(str)
    what = np.full(len(p), "") if devices is None else np.asarray(devices).astype(str)
    require_equal_length(true=targets, probabilities=p, patients=who, devices=what)
    of_true = find_confidence(p, targets, label_set)

    def fit_group(rows: NDArray[np.bool_], coverages: Iterable[float]) -> Group:
        least = {str(each): find_least_probability(of_true[rows], who[rows], each) for each in coverages}
        return Group(len(set(who[rows])), int(rows.sum()), least)

    of_device = {}
    for name in sorted(set(what) - {""}):
        rows = what == name
        enough = len(set(who[rows]))
        of_device[name] = fit_group(rows, [c for c in COVERAGES if enough >= max(LEAST_PATIENTS, count_needed(c))])
    return Conformal(fit_group(np.ones(len(p), np.bool_), COVERAGES), of_device)


def count_needed(coverage: float) -> int:
    """Nominal coverage -> the fewest patients that can promise it."""
    return ceil(coverage / (1 - coverage) - 1e-9)


def find_least_probability(of_true: ArrayLike, patients: Sequence[Any] | ArrayLike, coverage: float) -> float:
    """(N,) probability of the true label of each cycle, their patients, nominal coverage -> the highest probability
    that, of one random cycle a patient, enough reach with a chance of a half; 0 where patients are too few."""
    p, names = np.asarray(of_true, dtype=np.float64), np.asarray(patients)
    groups = [p[names == name] for name in np.unique(names)]
    enough = ceil(coverage * (len(groups) + 1) - 1e-9)  # 0.9 of 10 is 9, whatever rounding makes of it
    if enough > len(groups):
        return 0.0
    thresholds = np.unique(p)
    low, high = 0, len(thresholds)  # all reach the lowest, and the chance falls from there on
    while high - low > 1:
        middle = (low + high) // 2
        reached = chance_of_at_least([float((group >= thresholds[middle]).mean()) for group in groups], enough)
        low, high = (middle, high) if reached >= 0.5 - 1e-12 else (low, middle)
    return float(thresholds[low])


def chance_of_at_least(chances: Sequence[float], enough: int) -> float:
    """Chances of independent events, a number of them -> the chance that at least so many happen."""
    of_count = np.ones(1)
    for chance in chances:
        of_count = np.convolve(of_count, [1 - chance, chance])
    return float(of_count[enough:].sum())


def find_confidence(probabilities: Probabilities, chosen: IntArray, label_set: LabelSet) -> Probabilities:
    """(n, classes) probabilities and a label of each row (as `LabelSet.make_targets` has it) -> (n,) probability of
    that label; of independent classes that of the least certain of the row's answers."""
    if not label_set.independent:
        return probabilities[np.arange(len(chosen)), chosen]
    return np.asarray(np.where(chosen == 1, probabilities, 1 - probabilities).min(axis=1))


def choose_rule(conformal: Mapping[str, Any] | None, coverage: float) -> SetRule:
    """`conformal` of a calibration's record, nominal coverage -> how sets of it are made. Errors: a model without, or
    one that was not calibrated for that coverage."""
    if not conformal:
        raise UsageError(
            "--sets: the model has no prediction sets; `rales calibrate` learns them from labelled cycles of ten or "
            "more patients, and so does training with --select validation"
        )
    pooled, word = conformal["pooled"], str(float(coverage))
    if word not in pooled["least"]:
        raise UsageError(f"--sets {coverage}: the model has sets of coverage {', '.join(pooled['least'])}; choose one")
    devices = {name: group["least"][word] for name, group in conformal["devices"].items() if word in group["least"]}
    return SetRule(float(coverage), pooled["least"][word], pooled["patients"], devices)


def describe_sets(rule: SetRule, origin: str) -> str:
    """How sets are made, and who taught it -> the sentence that must stand beside them."""
    return (
        f"Prediction sets: the true label is in the set of {rule.coverage:.0%} of a new patient's cycles, on average "
        f"over patients like the {rule.patients} that taught it ({origin}); other clinics and single patients may "
        "differ." + ("" if rule.pooled else " These patients are too few to exclude any label.")
    )


def find_possible(probabilities: Probabilities, least: FloatArray, label_set: LabelSet = ICBHI) -> NDArray[np.bool_]:
    """(n, classes) probabilities, (n,) least ones -> (n, classes) which labels are in the set; of independent classes
    (n, classes, 2), whether no and whether yes are possible. Of NaN, which cannot be judged, everything is."""
    p = np.stack([1 - probabilities, probabilities], axis=2) if label_set.independent else probabilities
    return np.logical_not(p < least.reshape(-1, *[1] * (p.ndim - 1)))


def count_labels(possible: NDArray[np.bool_]) -> IntArray:
    """Of `find_possible` -> (n,) number of labels in each set."""
    counts = possible.sum(axis=-1)
    return np.asarray(counts if possible.ndim == 2 else counts.prod(axis=1), dtype=np.int64)


def name_sets(possible: NDArray[np.bool_], label_set: LabelSet = ICBHI) -> list[str]:
    """Of `find_possible` -> a word for each set: its labels joined by " | ", "any" for all of them, "no label" where
    none is likely enough. Of independent classes those that are heard, and with a ? those that may be, joined by +."""
    names = label_set.classes
    if not label_set.independent:
        words = [_OR.join(names[on] for on in np.flatnonzero(row)) for row in possible]
    else:
        words = [
            JOINED.join(name + "?" * no for name, (no, yes) in zip(names, row, strict=True) if yes) or label_set.normal
            for row in possible.tolist()
        ]
    whole = np.asarray(possible.reshape(len(possible), -1).all(axis=1))
    return [
        ANY if every else word if count else NO_LABEL
        for word, every, count in zip(words, whole, count_labels(possible), strict=True)
    ]


def has_several_labels(word: str) -> bool:
    """A word of `name_sets` -> whether that set leaves more than one answer open."""
    return word == ANY or _OR in word or any(part.endswith("?") for part in word.split(JOINED))


def measure_sets(
    probabilities: Probabilities,
    class_numbers: IntArray,
    patients: ArrayLike,
    devices: ArrayLike,
    conformal: Mapping[str, Any],
    label_set: LabelSet = ICBHI,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Probabilities before any temperature of labelled cycles, and a model's `conformal` -> nominal coverage -> "all"
    and each device -> cycles, patients, coverage (mean over patients, which is what is promised), coverage_cycles,
    mean_size (labels in a set) and whose quantile it is (`calibrated_on`)."""
    who, what = np.asarray(patients).astype(str), np.asarray(devices).astype(str)
    of_true = find_confidence(probabilities, class_numbers, label_set)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for word in conformal["pooled"]["least"]:
        rule = choose_rule(conformal, float(word))
        least = rule.find_least(what)
        held = of_true >= least
        sizes = count_labels(find_possible(probabilities, least, label_set))
        groups = {"all": np.ones(len(held), np.bool_)} | {name: what == name for name in sorted(set(what) - {""})}
        found[word] = {
            name: {
                "cycles": int(rows.sum()),
                "patients": len(set(who[rows])),
                "coverage": float(np.mean([held[rows & (who == one)].mean() for one in sorted(set(who[rows]))])),
                "coverage_cycles": float(held[rows].mean()),
                "mean_size": float(sizes[rows].mean()),
                "calibrated_on": "this device" if name in rule.devices else "all patients",
            }
            for name, rows in groups.items()
        }
    return found
