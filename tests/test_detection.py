"""AUROC and its interval by patient, held against hand counts, an independent sum over pairs, and simulated clinics."""

import math
from typing import Any

import numpy as np
import pytest

from rales.evaluation.detection import auroc_interval, detect_findings, measure_detection, tabulate_thresholds
from rales.labels import LabelSet


def test_by_hand() -> None:
    present = np.array([True, True, False, False])
    auroc, low, high = auroc_interval(present, np.array([0.9, 0.4, 0.4, 0.1]), ["a", "b", "c", "d"])
    assert auroc == (1 + 1 + 0.5 + 1) / 4
    # DeLong: the placements are (1, 0.75) above and (0.75, 1) below, each of variance 1/32
    error = math.sqrt(1 / 32 / 2 + 1 / 32 / 2) / (auroc * (1 - auroc))
    reach = 12.7062047 * error  # Student's t of one degree of freedom
    odds = math.log(auroc / (1 - auroc))
    assert (low, high) == pytest.approx([1 / (1 + math.exp(reach - odds)), 1 / (1 + math.exp(-reach - odds))], rel=1e-6)


def test_precision_and_recall_at_each_threshold_by_hand() -> None:
    p = np.array([[0.6, 0.3, 0.1, 0.0], [0.2, 0.5, 0.1, 0.2], [0.1, 0.1, 0.1, 0.7], [0.9, 0.1, 0.0, 0.0]])
    tables = tabulate_thresholds([0, 1, 2, 1], p)
    assert list(tables) == ["normal", "crackle", "wheeze", "both", "abnormal", "any crackle", "any wheeze"]
    assert all([row["threshold"] for row in rows] == pytest.approx(np.arange(1, 20) / 20) for rows in tables.values())

    def at(name: str, threshold: float) -> tuple[Any, ...]:
        row = next(row for row in tables[name] if row["threshold"] == threshold)
        return row["found"], row["right"], row["precision"], row["recall"]

    assert at("crackle", 0.5) == (1, 1, 1, 0.5)
    assert at("any crackle", 0.3) == (3, 1, 1 / 3, 0.5)  # 0.3, 0.5 + 0.2, 0.1 + 0.7
    assert at("any crackle", 0.7) == (2, 1, 0.5, 0.5)
    assert at("both", 0.95) == (0, 0, None, None)
    independent = LabelSet(("crackle", "wheeze"), independent=True)
    tables = tabulate_thresholds([[1, 0], [1, 1]], np.array([[0.6, 0.6], [0.2, 0.7]]), independent)
    assert at("crackle", 0.5) == (1, 1, 1, 0.5)
    assert at("wheeze", 0.6) == (2, 1, 0.5, 1)


def test_variance_is_that_of_obuchowski_over_pairs() -> None:
    random = np.random.default_rng(0)
    patients = random.integers(0, 12, 80)
    present = random.random(80) < 0.4
    scores = np.round(random.normal(present + 0.5 * (patients % 3), 1.0), 1)
    auroc, low, high = auroc_interval(present, scores, patients)
    pairs = (scores[present][:, None] > scores[~present][None]) + 0.5 * (
        scores[present][:, None] == scores[~present][None]
    )
    assert auroc == pytest.approx(pairs.mean())
    above, below, m, n = pairs.mean(axis=1), pairs.mean(axis=0), present.sum(), (~present).sum()
    with_it = {p: (above - auroc)[patients[present] == p].sum() for p in set(patients[present])}
    without = {p: (below - auroc)[patients[~present] == p].sum() for p in set(patients[~present])}
    a, b, units = len(with_it), len(without), len(set(patients))
    both = sum(value * without.get(p, 0) for p, value in with_it.items())
    variance = a / (a - 1) * sum(v**2 for v in with_it.values()) / m**2
    variance += b / (b - 1) * sum(v**2 for v in without.values()) / n**2 + 2 * units / (units - 1) * both / (m * n)
    width = math.log(high / (1 - high)) - math.log(low / (1 - low))
    from scipy.stats import t

    assert width == pytest.approx(2 * t.ppf(0.975, min(a, b) - 1) * math.sqrt(variance) / (auroc * (1 - auroc)))


def test_intervals_hold_the_truth_of_simulated_clinics() -> None:
    """Patients differ in how loud all their cycles are, so cycles are far from independent."""
    random, truth, hits = np.random.default_rng(1), [], 0
    for draw in range(400):
        patients = np.repeat(np.arange(24), 10)
        present = random.random(240) < np.repeat(random.choice([0.2, 0.8], 24), 10)
        scores = present + np.repeat(random.normal(0, 1, 24), 10) + random.normal(0, 1, 240)
        auroc, low, high = auroc_interval(present, scores, patients)
        truth.append(auroc)
        if draw >= 200:
            hits += int(low <= np.mean(truth[:200]) <= high)
    assert hits >= 0.9 * 200


def test_without_two_patients_there_is_no_interval() -> None:
    one = measure_detection([True, False, False], [0.5, 0.2, 0.7], ["a", "a", "b"])
    assert one["auroc"] == 0.5
    assert one["ci95"] == [None, None]
    assert (one["positives"], one["negatives"]) == (1, 2)
    assert measure_detection([True], [0.5], ["a"])["auroc"] is None
    assert measure_detection([True, True, False, False], [4, 3, 2, 1], list("abcd"))["ci95"] == [None, None]


def test_findings_of_classes() -> None:
    true, p = (
        [0, 1, 2, 3],
        np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.6, 0.1, 0.2, 0.1], [0, 0, 0.2, 0.8]]),
    )
    found = detect_findings(true, p, list("abcd"))
    assert {name: one["positives"] for name, one in found.items()} == {"abnormal": 3, "crackle": 2, "wheeze": 2}
    assert {name: one["auroc"] for name, one in found.items()} == {"abnormal": 1, "crackle": 1, "wheeze": 1}
