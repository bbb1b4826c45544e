"""Sets of labels: quantiles by hand, equality with crepes, and the coverage that is promised on simulated patients."""

from typing import Any

import numpy as np
import pytest
from crepes import ConformalClassifier
from numpy.typing import NDArray
from scipy.special import expit

from rales.errors import UsageError
from rales.evaluation import conformal
from rales.labels import LabelSet

SOUNDS = LabelSet(("crackle", "wheeze"), independent=True)


def simulate(seed: int, patients: int, spread: float = 1.5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """-> (N,) probability of the true label and patient: a network that is better on some, who have more cycles."""
    random = np.random.default_rng(seed)
    cycles = random.integers(1, 30, patients)
    who = np.repeat(np.arange(patients), cycles)
    skill = spread * random.normal(size=patients) + 0.05 * (cycles - 15)
    return expit(1 + skill[who] + random.normal(size=len(who))), who


def test_the_quantile_by_hand() -> None:
    """Four patients, of whom d has two cycles: the third highest is 0.7 or 0.6, the fourth 0.6 or 0.5, each in half of
    the ways to take one of d. Were two of three cycles of d at 0.5, a third of the ways would reach 0.7."""
    p, patients = [0.5, 0.9, 0.8, 0.6, 0.7], ["d", "a", "b", "c", "d"]
    for coverage, least in ((0.2, 0.9), (0.21, 0.8), (0.4, 0.8), (0.41, 0.7), (0.6, 0.7), (0.61, 0.6), (0.8, 0.6)):
        assert conformal.find_least_probability(p, patients, coverage) == least, coverage
    assert conformal.find_least_probability(p, patients, 0.81) == 0
    assert conformal.find_least_probability([*p, 0.5], [*patients, "d"], 0.6) == 0.6


def test_the_vote_is_that_of_many_draws() -> None:
    p, who = simulate(0, 12)
    random, drawn = np.random.default_rng(0), list[float]()
    for _ in range(4001):
        taken = sorted(random.choice(p[who == patient]) for patient in range(12))
        drawn.append(taken[-11])  # 10.4 of 13 places at 80 %
    least = conformal.find_least_probability(p, who, 0.8)
    assert np.mean(np.array(drawn) >= least) >= 0.48
    assert np.mean(np.array(drawn) > least) <= 0.52
    assert conformal.chance_of_at_least([0.5, 0.25, 1.0], 2) == pytest.approx(1 - 0.5 * 0.75)


def test_nine_patients_can_promise_90_percent_and_eight_cannot() -> None:
    p = np.linspace(0.1, 0.9, 9)
    assert conformal.count_needed(0.9) == 9
    assert conformal.find_least_probability(p, range(9), 0.9) == 0.1
    assert conformal.find_least_probability(p[:8], range(8), 0.9) == 0.0
    assert [conformal.count_needed(coverage) for coverage in (0.8, 0.95)] == [4, 19]


@pytest.mark.parametrize("coverage", conformal.COVERAGES)
def test_of_one_cycle_a_patient_the_sets_are_those_of_crepes(coverage: float) -> None:
    random = np.random.default_rng(0)
    p, new = random.dirichlet([1] * 4, 60), random.dirichlet([1] * 4, 300)
    true, devices = random.integers(0, 4, 60), np.repeat(["a", "b"], [35, 25])
    of_new = np.repeat(["a", "b"], 150)
    learned = conformal.fit_conformal(p, true, np.arange(60), devices)
    rule = conformal.choose_rule(as_record(learned), coverage)
    found = conformal.find_possible(new, rule.find_least(of_new))

    theirs = ConformalClassifier()
    theirs.fit(1 - p[np.arange(60), true], bins=devices)
    expected = theirs.predict_set(1 - new, bins=of_new, confidence=coverage, smoothing=False)
    np.testing.assert_array_equal(found, expected == 1)
    theirs.fit(1 - p[np.arange(60), true])
    expected = theirs.predict_set(1 - new, confidence=coverage, smoothing=False)
    pooled = conformal.find_possible(new, rule.find_least([""] * 300))
    np.testing.assert_array_equal(pooled, expected == 1)


def as_record(learned: conformal.Conformal) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(learned)


@pytest.mark.parametrize(("patients", "spread"), [(9, 0.0), (9, 1.5), (19, 1.5)])
def test_a_new_patient_is_covered_as_promised_however_much_cycles_depend(patients: int, spread: float) -> None:
    """Not less than nominal, and not more than a place among the patients allows."""
    covered = []
    for seed in range(400):
        p, who = simulate(seed, patients + 1, spread)
        least = conformal.find_least_probability(p[who < patients], who[who < patients], 0.9)
        covered.append((p[who == patients] >= least).mean())
    slack = 3 * np.std(covered) / np.sqrt(len(covered))
    assert 0.9 - slack <= np.mean(covered) <= 0.9 + 1 / (patients + 1) + slack


def test_cycles_that_count_alike_would_promise_too_much() -> None:
    """The talkative patients of the simulation are easy ones: what patients share alike must not be forgotten."""
    covered = []
    for seed in range(400):
        p, who = simulate(seed, 31)
        least = np.quantile(p[who < 30], 0.1)
        covered.append((p[who == 30] >= least).mean())
    assert np.mean(covered) < 0.88


def test_a_device_of_ten_patients_has_its_own_quantile_and_one_of_nine_has_not() -> None:
    random = np.random.default_rng(1)
    true, patients = random.integers(0, 4, 38), np.repeat(np.arange(19), 2)
    devices = np.where(patients < 10, "many", "few")
    p = random.dirichlet([1] * 4, 38)
    learned = conformal.fit_conformal(p, true, patients, devices)
    assert (learned.pooled.patients, learned.pooled.cycles) == (19, 38)
    assert {name: (group.patients, group.cycles) for name, group in learned.devices.items()} == {
        "few": (9, 18),
        "many": (10, 20),
    }
    assert set(learned.devices["many"].least) == {"0.8", "0.9"}  # 95 % takes nineteen
    assert learned.devices["few"].least == {}
    many = devices == "many"
    own = conformal.fit_conformal(p[many], true[many], patients[many])
    rule = conformal.choose_rule(as_record(learned), 0.9)
    assert rule.find_least(["many", "few", ""]).tolist() == [
        own.pooled.least["0.9"],
        learned.pooled.least["0.9"],
        learned.pooled.least["0.9"],
    ]


def test_sets_are_named_and_counted() -> None:
    p = np.array([[0.6, 0.3, 0.05, 0.05], [0.25] * 4, [0.15, 0.55, 0.2, 0.1], [np.nan] * 4])
    possible = conformal.find_possible(p, np.array([0.3, 0.2, 0.56, 0.5]))
    assert conformal.name_sets(possible) == ["normal | crackle", "any", "no label", "any"]
    assert conformal.count_labels(possible).tolist() == [2, 4, 0, 4]


def test_sets_of_independent_classes_say_what_is_certain_and_what_may_be() -> None:
    p = np.array([[0.9, 0.5], [0.1, 0.05], [0.3, 0.1], [0.5, 0.6], [0.9, 0.9], [0.9, 0.5]])
    least = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.55])
    possible = conformal.find_possible(p, least, SOUNDS)
    words = ["crackle+wheeze?", "normal", "crackle?", "any", "crackle+wheeze", "no label"]
    assert conformal.name_sets(possible, SOUNDS) == words
    assert conformal.count_labels(possible).tolist() == [2, 1, 2, 4, 1, 0]
    true = SOUNDS.make_targets(["crackle", "wheeze", "crackle", "normal", "normal", "crackle"])
    inside = conformal.find_confidence(p, true, SOUNDS) >= least
    assert inside.tolist() == [True, False, True, True, False, False]


def test_coverage_is_a_mean_over_patients() -> None:
    """One patient has three cycles, all held; the other a single one, missed: a half by patient, 3 of 4 by cycle."""
    p = np.array([[0.7, 0.1, 0.1, 0.1]] * 3 + [[0.0, 0.3, 0.3, 0.4]])
    record = {"pooled": {"patients": 9, "cycles": 9, "least": {"0.9": 0.3}}, "devices": {}}
    found = conformal.measure_sets(p, np.zeros(4, np.int64), ["a", "a", "a", "b"], ["x", "x", "x", ""], record)
    assert found["0.9"]["all"] == {
        "cycles": 4,
        "patients": 2,
        "coverage": 0.5,
        "coverage_cycles": 0.75,
        "mean_size": (3 * 1 + 3) / 4,
        "calibrated_on": "all patients",
    }
    assert found["0.9"]["x"]["coverage"] == 1.0
    assert set(found["0.9"]) == {"all", "x"}


def test_sets_that_a_model_does_not_have_are_a_sentence() -> None:
    with pytest.raises(UsageError, match="rales calibrate"):
        conformal.choose_rule(None, 0.9)
    record = as_record(conformal.fit_conformal(np.full((9, 4), 0.25), np.zeros(9), range(9)))
    with pytest.raises(UsageError, match=r"sets of coverage 0\.8, 0\.9, 0\.95; choose one"):
        conformal.choose_rule(record, 0.85)
    assert "too few to exclude any label" in conformal.describe_sets(conformal.choose_rule(record, 0.95), "nine")
    assert "90% of a new patient's cycles" in conformal.describe_sets(conformal.choose_rule(record, 0.9), "nine")
