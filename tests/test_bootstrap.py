"""Intervals and paired tests against closed forms, scikit-learn and simulated truth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binomtest
from scipy.stats import norm as normal
from scipy.stats import t as student

from rales.evaluation import bootstrap as statistics
from rales.evaluation.bootstrap import (
    FIGURES,
    bootstrap_intervals,
    mean_sd,
    paired_difference,
    wilson_interval,
)
from rales.evaluation.metrics import confusion_matrix, icbhi_scores

pytestmark = pytest.mark.filterwarnings("error")

Cycles = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def clinic(generator: np.random.Generator, patients: int = 49, spread: float = 0.8) -> Cycles:
    """(N,) true, predicted, patient: very unequal patients, each with an own chance of a right answer."""
    cycles = np.ceil(generator.exponential(56, size=patients)).astype(int)
    patient = np.repeat(np.arange(patients), cycles)
    share = generator.beta(0.3, 0.4, size=patients)
    true = np.where(generator.random(len(patient)) < share[patient], generator.integers(1, 4, size=len(patient)), 0)
    chance = expit(np.array([[1.3], [-0.4]]) + spread * generator.normal(size=(2, patients)))
    right = generator.random(len(patient)) < chance[(true > 0).astype(int), patient]
    return true, np.where(right, true, (true + 1) % 4), patient


def test_interval_is_reproducible_and_holds_the_estimate() -> None:
    true, predicted, patient = clinic(np.random.default_rng(0))
    intervals = bootstrap_intervals(true, predicted, patient, seed=7)
    assert intervals == bootstrap_intervals(true, predicted, patient, seed=7)
    assert intervals == bootstrap_intervals(true, predicted, patient, seed=np.random.default_rng(7))
    assert intervals != bootstrap_intervals(true, predicted, patient, seed=8)
    estimate = icbhi_scores(confusion_matrix(true, predicted))
    for name in FIGURES:
        low, high = intervals[name]
        assert 0 <= low < estimate[name] < high <= 1
        assert (low + high) / 2 == pytest.approx(estimate[name])


def test_names_and_order_of_patients_do_not_matter() -> None:
    true, predicted, patient = clinic(np.random.default_rng(1), patients=12)
    names = [f"patient {number}" for number in patient]
    order = np.random.default_rng(0).permutation(len(true))
    shuffled = bootstrap_intervals(true[order], predicted[order], [names[row] for row in order])
    assert shuffled == bootstrap_intervals(true, predicted, patient)


def test_cycle_interval_matches_the_binomial_and_is_narrower() -> None:
    true, predicted, patient = clinic(np.random.default_rng(2))
    by_cycle = bootstrap_intervals(true, predicted, patient, cluster=False)
    by_patient = bootstrap_intervals(true, predicted, patient)
    for name, chosen in (("specificity", true == 0), ("sensitivity", true > 0)):
        hits = (true == predicted)[chosen]
        binomial = 2 * 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))
        assert by_cycle[name][1] - by_cycle[name][0] == pytest.approx(binomial, rel=0.05)
    for name in FIGURES:
        assert np.diff(by_patient[name]) > 1.2 * np.diff(by_cycle[name])


def test_higher_level_is_wider() -> None:
    true, predicted, patient = clinic(np.random.default_rng(3))
    wide, narrow = (
        bootstrap_intervals(true, predicted, patient, level=0.99),
        bootstrap_intervals(true, predicted, patient, level=0.8),
    )
    assert all(np.diff(wide[name]) > np.diff(narrow[name]) for name in FIGURES)


def test_degenerate_inputs_give_nan_without_warning() -> None:
    one_patient = bootstrap_intervals([0, 0, 1, 1], [0, 1, 1, 0], ["a"] * 4)
    assert all(np.isnan(one_patient[name]).all() for name in FIGURES)
    only_normal = bootstrap_intervals([0] * 8, [0, 1] * 4, [1, 1, 1, 2, 2, 3, 3, 4], resamples=500)
    assert not np.isnan(only_normal["specificity"]).any()
    assert np.isnan([only_normal["sensitivity"], only_normal["score"]]).all()
    difference = paired_difference([0] * 4, [0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 2, 3], resamples=500)
    assert math.isnan(difference["score"]["p_value"])
    assert not math.isnan(difference["specificity"]["p_value"])
    assert bootstrap_intervals([0, 0, 1, 1], [0, 0, 1, 1], [1, 2, 1, 2], resamples=500)["score"] == (1, 1)


def test_two_patients_that_differ_say_nothing() -> None:
    true, predicted = [0, 0, 0, 1, 1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert bootstrap_intervals(true, predicted, [1] * 5 + [2] * 5)["score"] == (0, 1)


def test_a_single_error_leaves_a_narrow_interval() -> None:
    # A third of the resamples miss the one patient with an error and have no spread; they must not blow it up.
    true = np.tile([0] * 9 + [1], 49)
    predicted = true.copy()
    predicted[0] = 1
    low, high = bootstrap_intervals(true, predicted, np.repeat(np.arange(49), 10))["specificity"]
    assert high == 1
    assert 1 - 4 / 441 < low < 1 - 2 / 441  # one error of 441 cycles, and room for one or two more


def test_equal_patients_have_no_spread_in_spite_of_rounding() -> None:
    true, predicted = np.tile([0, 0, 0, 1, 1, 1], 7), np.tile([0, 1, 1, 1, 0, 0], 7)
    low, high = bootstrap_intervals(true, predicted, np.repeat(np.arange(7), 6))["score"]
    assert low == high == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patients": [1]}, "unequal length"),
        ({"predicted": [0, -1]}, "predicted classes hold -1"),
        ({"level": 95}, "level 95"),
        ({"resamples": 0}, "0 resamples"),
        ({"true": [], "predicted": [], "patients": []}, "no cycles"),
    ],
)
def test_wrong_input_is_refused(options: dict[str, Any], sentence: str) -> None:
    arguments: dict[str, Any] = {"true": [0, 1], "predicted": [0, 1], "patients": [1, 2]}
    with pytest.raises(ValueError, match=sentence):
        bootstrap_intervals(**{**arguments, **options})


def test_identical_systems_do_not_differ() -> None:
    true, predicted, patient = clinic(np.random.default_rng(4))
    for figure in paired_difference(true, predicted, predicted, patient, resamples=500).values():
        assert figure == {"difference": 0, "low": 0, "high": 0, "p_value": 1, "standard_error": 0}


def test_paired_difference_is_antisymmetric_and_sharper_than_two_intervals() -> None:
    generator = np.random.default_rng(5)
    true, worse, patient = clinic(generator)
    better = np.where(generator.random(len(true)) < 0.15, true, worse)
    forward = paired_difference(true, better, worse, patient)
    backward = paired_difference(true, worse, better, patient)
    scores = icbhi_scores(confusion_matrix(true, better)), icbhi_scores(confusion_matrix(true, worse))
    single = bootstrap_intervals(true, worse, patient)
    for name in FIGURES:
        figure = forward[name]
        assert figure["difference"] == pytest.approx(scores[0][name] - scores[1][name])
        assert backward[name]["difference"] == pytest.approx(-figure["difference"])
        assert figure["low"] > 0
        assert figure["high"] - figure["low"] < np.diff(single[name])
    # Nothing of 10,000 resamples comes near such a gain; the smallest p is 1 / 10,001 and never 0.
    assert forward["score"]["p_value"] == pytest.approx(1 / 10_001)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_interval_excludes_zero_only_with_a_small_p(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true, predicted, patient = clinic(generator, patients=15)
    other = np.where(generator.random(len(true)) < 0.04, true, predicted)
    other = np.where(generator.random(len(true)) < 0.04, (true + 1) % 4, other)
    for figure in paired_difference(true, predicted, other, patient, resamples=399, seed=seed).values():
        if math.isnan(figure["p_value"]):
            continue
        excludes = figure["low"] > 0 or figure["high"] < 0
        assert not excludes or figure["p_value"] <= 0.05 + 1e-12
        assert 1 / 400 <= figure["p_value"] <= 1


def test_mean_and_sample_deviation_over_seeds() -> None:
    assert mean_sd([0.6, 0.62, 0.58]) == pytest.approx((0.6, 0.02))
    assert mean_sd([0.6])[0] == 0.6
    assert math.isnan(mean_sd([0.6])[1])
    with pytest.raises(ValueError, match="at least one seed"):
        mean_sd([])


@pytest.mark.slow
def test_interval_covers_the_truth_in_93_to_97_of_100_clinics() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    rates = expit(np.array([[1.3], [-0.4]]) + 0.8 * nodes) @ weights / weights.sum()
    truth = dict(zip(FIGURES, [*rates, rates.mean()], strict=True))
    generator = np.random.default_rng(11)
    hits = []
    # 2,000 clinics: with 500 the measured coverage alone would scatter by a percentage point.
    for seed in range(2000):
        intervals = bootstrap_intervals(*clinic(generator), resamples=999, seed=seed)
        hits.append([intervals[name][0] <= truth[name] <= intervals[name][1] for name in FIGURES])
    coverage = np.mean(hits, axis=0)
    assert np.all((coverage >= 0.93) & (coverage <= 0.97)), coverage


@pytest.mark.slow
def test_paired_test_rejects_equal_systems_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(12)
    p_values = []
    for seed in range(500):
        true, predicted, patient = clinic(generator)
        # Each system spoils the shared answers at rates of its own per patient: neither is better in the long run.
        spoiled = generator.random((2, len(true))) < 0.3 * generator.random((2, 49))[:, patient]
        systems = np.where(spoiled, (true + 1) % 4, predicted)
        report = paired_difference(true, systems[0], systems[1], patient, resamples=1000, seed=seed)
        p_values.append(report["score"]["p_value"])
    assert 0.03 <= np.mean(np.array(p_values) <= 0.05) <= 0.07


def test_wilson_interval() -> None:
    """Against the examples of Newcombe (1998): 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for count, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson_interval(count, total) == pytest.approx((low, high), abs=1e-4)
    theirs = [binomtest(count, total).proportion_ci(method="wilson") for count, total in ((0, 7), (2, 7), (7, 7))]
    assert [wilson_interval(count, 7) for count in (0, 2, 7)] == [
        pytest.approx((each.low, each.high)) for each in theirs
    ]
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)


def test_standard_errors_by_hand() -> None:
    """Three patients: of the ratio r of sums, U / (U - 1) times the sum of (right - r total)^2 over total^2."""
    right, normals = np.array([3, 1, 0]), np.array([4, 2, 4])
    hits, abnormals = np.array([1, 5, 2]), np.array([2, 6, 2])
    rows = np.column_stack([right, normals, hits, abnormals]).astype(float)
    sums = np.concatenate([rows, (rows[:, :, None] * rows[:, None, :]).reshape(3, 16)], axis=1).sum(axis=0)
    figures, errors = statistics._scores_and_errors(sums, 3)
    specificity, sensitivity = 4 / 10, 8 / 10
    of_normal = (right - specificity * normals) / 10
    of_abnormal = (hits - sensitivity * abnormals) / 10
    residuals = (of_normal, of_abnormal, (of_normal + of_abnormal) / 2)
    assert figures == pytest.approx([specificity, sensitivity, 0.6])
    assert errors == pytest.approx([math.sqrt(1.5 * (residual**2).sum()) for residual in residuals])


def test_half_width_is_the_order_statistic_or_students_t_whichever_is_larger() -> None:
    deviations = np.append(np.random.default_rng(0).permutation(np.arange(1.0, 20.0)), np.nan)  # 19 that exist
    assert statistics.half_width(deviations, 0.5, units=40, level=0.90) == 0.5 * 18
    assert statistics.half_width(deviations, 0.5, units=40, level=0.95) == 0.5 * 19
    assert statistics.half_width(deviations, 0.5, units=40, level=0.96) == math.inf  # too few to say
    flat = np.zeros(999)
    for units in (2, 3, 10):
        expected = 0.5 * student.ppf(0.975, units - 1)
        assert statistics.half_width(flat, 0.5, units=units, level=0.95) == pytest.approx(expected)
    assert statistics.half_width(deviations, 0.0, units=40, level=0.95) == 0
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="expected a fraction between 0 and 1"):
            statistics.half_width(deviations, 0.5, units=40, level=level)


def test_a_difference_without_spread_is_none_or_beyond_all_doubt() -> None:
    assert statistics._observed_statistic(-0.2, 0.1) == 2
    assert statistics._observed_statistic(0.3, 0.0) == math.inf
    assert statistics._observed_statistic(0.0, 0.0) == statistics._observed_statistic(1e-13, 0.0) == 0


def test_p_value_is_never_below_students() -> None:
    """Four patients with one normal cycle and one abnormal each; the first system is right once more in three."""
    true = [0, 1] * 4
    first = [0, 1, 0, 1, 0, 1, 0, 2]
    second = [1, 1, 0, 2, 1, 1, 0, 2]
    patients = np.repeat(np.arange(4), 2)
    found = paired_difference(true, first, second, patients)
    gains = np.array([1, 0, 1, 0]) / 4  # right normal cycles more, a patient
    error = math.sqrt(4 / 3 * ((gains - gains.mean()) ** 2).sum())
    assert found["specificity"]["difference"] == 0.5
    assert found["specificity"]["p_value"] >= 2 * student.sf(0.5 / error, 3) * (1 - 1e-12)
    assert found["specificity"]["high"] == 1  # no difference is larger
    assert paired_difference(true, second, first, patients)["specificity"]["low"] == -1
    assert found == paired_difference(true, first, second, patients, seed=0, resamples=10_000)


def test_columns_of_unequal_length_are_counted_in_the_sentence() -> None:
    with pytest.raises(ValueError, match=r"unequal length \(2 true, 3 patients, 2 predicted\)"):
        bootstrap_intervals([0, 1], [0, 1], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"unequal length \(2 true, 2 patients, 2 predicted, 1 other\)"):
        paired_difference([0, 1], [0, 1], [1], ["a", "b"])


def test_deviation_of_two_seeds_and_ends_of_the_wilson_interval() -> None:
    assert mean_sd([0.2, 0.4]) == pytest.approx((0.3, 0.1 * math.sqrt(2)))
    z2 = normal.ppf(0.975) ** 2
    low, high = wilson_interval(5, 5)
    assert low == pytest.approx(5 / (5 + z2))
    assert high == 1.0
    low, high = wilson_interval(0, 5)
    assert low == 0.0
    assert high == pytest.approx(z2 / (5 + z2))


def test_unpaired_difference_on_the_same_cycles_is_the_paired_one() -> None:
    true, one, patients = clinic(np.random.default_rng(3))
    other = np.where(np.random.default_rng(4).random(len(true)) < 0.1, 0, one)
    paired = statistics.paired_difference(true, one, other, patients, resamples=4000, seed=1)
    found = statistics.unpaired_difference(
        statistics.Answers(true, one, patients), statistics.Answers(true, other, patients), resamples=4000, seed=1
    )
    for name in statistics.FIGURES:
        assert found[name]["difference"] == pytest.approx(paired[name]["difference"], abs=1e-12)
        assert found[name]["low"] == pytest.approx(paired[name]["low"], abs=0.01)
        assert found[name]["high"] == pytest.approx(paired[name]["high"], abs=0.01)
        assert found[name]["p_value"] == pytest.approx(paired[name]["p_value"], abs=0.02)


def test_unpaired_difference_of_other_patients_is_that_of_independent_figures() -> None:
    sets = [statistics.Answers(*clinic(np.random.default_rng(seed))) for seed in (5, 6)]
    elsewhere = sets[1]._replace(patients=[f"other {patient}" for patient in np.asarray(sets[1].patients)])
    rows = [statistics._counts_per_unit(each.true, [each.predicted], each.patients, True) for each in sets]
    alone = [statistics.bootstrap_t(counts, resamples=10, seed=0)[:2] for counts in rows]
    both = statistics._counts_of_both(sets[0], elsewhere)
    assert len(both) == 98
    estimate, error, _ = statistics.bootstrap_t(both, resamples=10, seed=0)
    assert estimate == pytest.approx(alone[0][0] - alone[1][0])
    assert error == pytest.approx(np.hypot(alone[0][1], alone[1][1]), rel=0.01)  # 98/97 instead of 49/48


def test_error_of_an_unpaired_difference_by_hand() -> None:
    """Three patients, the second in both sets. Normals only decide: of set one 2/4 and 4/4 are right, so r = 6/8, and
    the residuals (right - r total) / 8 are -1/8 and 1/8; of set two 1/2 and 2/2, so r = 3/4, residuals (1 - 1.5) / 4 =
    -1/8 and (2 - 1.5) / 4 = 1/8. Their differences by patient are -1/8, 1/8 + 1/8, -1/8: the sum of squares is 6/64,
    times 3/2 for three patients."""
    rows = np.array([[2, 4, 0, 0, 0, 0, 0, 0], [4, 4, 0, 0, 1, 2, 0, 0], [0, 0, 0, 0, 2, 2, 0, 0]])
    estimate, error, _ = statistics.bootstrap_t(rows, resamples=10, seed=0)
    assert estimate[0] == pytest.approx(0)
    assert error[0] == pytest.approx(np.sqrt(6 / 64 * 1.5))
    assert np.isnan(estimate[1:]).all()  # no abnormal cycle, so neither sensitivity nor Score


def test_holm_by_hand() -> None:
    """0.01 * 3, then 0.02 * 2 = 0.04, then 0.03 * 1, which may not be below the one before."""
    assert statistics.adjust_holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert statistics.adjust_holm([0.9, 0.6]) == [1, 1]
    assert statistics.adjust_holm([0.2]) == [0.2]
    found = statistics.adjust_holm([math.nan, 0.01, 0.04])
    assert found[1:] == pytest.approx([0.02, 0.04])
    assert math.isnan(found[0])
    assert statistics.adjust_holm([]) == []


def test_patients_needed_by_hand() -> None:
    """(1.959964 + 0.841621)^2 = 7.848879: an error of one point on 49 patients takes 7.85 times as many."""
    assert statistics.patients_needed(0.01, 49) == 385  # 384.595
    assert statistics.patients_needed(0.01, 49, difference=0.02) == 97  # 96.15
    assert statistics.patients_needed(0.02, 49) == 1539  # 1538.4
    assert statistics.patients_needed(0.01, 49, power=0.5) == 189  # 1.959964^2 * 49 = 188.2
    assert math.isnan(statistics.patients_needed(0.0, 49))
    assert math.isnan(statistics.patients_needed(math.nan, 49))


def test_crossed_interval_by_hand() -> None:
    """Two patients of two normal cycles, two seeds: right are [[2, 1], [1, 0]] (seed, patient), so specificity is 4/8
    and the residuals (right - 1) / 8 are [[1, 0], [0, -1]] / 8. Of patients 2 (1 + 1) / 64, of seeds the same, of cells
    2 / 64: the variance is 6 / 64, the degrees of freedom (8/64)^2 / (2 (4/64)^2) = 2."""
    true, patients = np.zeros(4, int), ["a", "a", "b", "b"]
    predicted = np.array([[0, 0, 0, 1], [0, 1, 1, 1]])
    found = statistics.crossed_intervals(true, predicted, patients, level=0.5)
    half = student.ppf(0.75, 2) * math.sqrt(6 / 64)
    assert found["specificity"] == pytest.approx((0.5 - half, 0.5 + half))
    assert np.isnan(found["sensitivity"]).all()
    alone = statistics.crossed_intervals(true, predicted[:1], patients)
    assert np.isnan(list(alone.values())).all()


def test_crossed_interval_covers_the_truth_over_patients_and_seeds() -> None:
    """49 patients and five seeds with chances of their own; intervals over patients alone would miss more often."""
    generator, truth, hits, narrow = np.random.default_rng(0), 0.6, 0, 0
    for _ in range(300):
        chance = truth + 0.1 * generator.uniform(-1, 1, (5, 1)) + 0.2 * generator.uniform(-1, 1, (1, 49))
        right = generator.random((5, 49, 20)) < chance[:, :, None]
        predicted, patients = np.where(right, 0, 1).reshape(5, -1), np.repeat(np.arange(49), 20)
        low, high = statistics.crossed_intervals(np.zeros(980, int), predicted, patients)["specificity"]
        hits += low <= truth <= high
        share = right.mean(axis=(0, 2))
        narrow += abs(share.mean() - truth) <= student.ppf(0.975, 48) * share.std(ddof=1) / 7
    assert hits / 300 == pytest.approx(0.95, abs=0.03)
    assert narrow / 300 < 0.9
