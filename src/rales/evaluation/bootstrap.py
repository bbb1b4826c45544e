"""Uncertainty of metrics: patient-level bootstrap intervals, paired tests, spread over seeds.

Cycles of one patient resemble each other, so the patient is the unit that is resampled: on the official test split
(49 patients, 2,756 cycles) the interval is about three times as wide as one that pretends cycles are independent.

Interval type: symmetric bootstrap-t, estimate +/- c * se, where se is the linearised (sandwich) standard error of the
ratio of sums and c the `level` quantile of |estimate* - estimate| / se* over the resamples, or Student's t with U - 1
degrees of freedom (U patients) where that is larger: with few patients or few errors many resamples have no spread
at all (se* = 0) and the rest would promise too much. Percentile and BCa intervals were tried and cover too little
(figures in `bootstrap_intervals`).
"""

from collections.abc import Callable, Sequence
from math import ceil, inf, nan, sqrt
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.evaluation.metrics import as_labels, require_equal_length, safe_ratio
from rales.labels import MOST_CLASSES
from rales.typing import FloatArray

FIGURES: Final = ("specificity", "sensitivity", "score")
LEVEL: Final = 0.95  # coverage of an interval where nobody asks for another
NORMAL_97_5: Final = 1.959963984540054  # `scipy.special.ndtri(0.975)`, the half width of 95 % in deviations
# (..., width + width²) sums of rows and of their products, units, width -> figures (..., F) and their errors (..., F)
Figures = Callable[[FloatArray, int, int], tuple[FloatArray, FloatArray]]


def bootstrap_intervals(
    true: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    resamples: int = 10_000,
    seed: int | np.random.Generator = 0,
    cluster: bool = True,
    level: float = LEVEL,
) -> dict[str, tuple[float, float]]:
    """Compute the interval (low, high) of specificity, sensitivity and score by resampling patients.

    NaN where the metric does not exist or with a single patient; resamples that lack a class, or any spread, are left
    out. Zero width where every patient has exactly the same value (0 or 1): no resampling can see beyond that.

    Measured coverage of nominal 95 % (benchmarks/bootstrap.py, 2,000 simulations of each of three clinics with very
    unequal patients, truth = the parameter of the generating process, +/- 0.5), over the three metrics: 49 patients:
    here 93.5-94.5 %, plain percentile 91.2-92.0 %, BCa 89.5-91.6 %; 20 patients: 93.5-95.5, 90.3-91.6, 87.2-88.4.
    The price is width: the score's is about a fifth more than the percentile interval's at 49 patients.

    Parameters
    ----------
    true, predicted
        Class numbers (N,), 0 for normal (`LabelSet.encode_rows`).
    patients
        Patient of each cycle (N,).
    resamples
        Number of resamples.
    seed
        Seed, or a generator.
    cluster
        Resample patients; False: cycles (too narrow; for comparison with papers that do so).
    level
        Coverage of the interval.
    """
    rows = _counts_per_unit(true, [predicted], patients, cluster)
    estimate, standard_error, deviations = bootstrap_t(rows, resamples=resamples, seed=seed)
    half = [half_width(deviations[:, k], standard_error[k], units=len(rows), level=level) for k in range(3)]
    return {
        name: (float(np.maximum(estimate[k] - half[k], 0)), float(np.minimum(estimate[k] + half[k], 1)))
        for k, name in enumerate(FIGURES)
    }


def paired_difference(
    true: ArrayLike,
    predicted_a: ArrayLike,
    predicted_b: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    resamples: int = 10_000,
    seed: int | np.random.Generator = 0,
) -> dict[str, dict[str, float]]:
    """Compare two systems on the same cycles: per metric the difference a - b with low, high and p_value.

    Two-sided p_value = (k + 1) / (R + 1), k the resamples whose |difference* - difference| / se* reaches |difference| /
    se, R the resamples where that exists, or the p of Student's t where that is larger. So it is never 0, and an
    interval that excludes 0 goes with p_value <= 0.05. NaN as in `bootstrap_intervals`.

    Parameters
    ----------
    true, predicted_a, predicted_b
        Class numbers (N,): the true ones, and those of each system.
    patients
        Patient of each cycle (N,).
    resamples
        Number of resamples.
    seed
        Seed, or a generator.
    """
    return _report_difference(_counts_per_unit(true, [predicted_a, predicted_b], patients, True), resamples, seed)


class Answers(NamedTuple):
    """Answers to a set of test cycles."""

    true: ArrayLike
    """Class numbers (N,), 0 for normal (`LabelSet.encode_rows`)."""
    predicted: ArrayLike
    """Those that were said (N,)."""
    patients: Sequence[Any] | ArrayLike
    """Patient of each cycle (N,)."""


def unpaired_difference(
    one: Answers, other: Answers, resamples: int = 10_000, seed: int | np.random.Generator = 0
) -> dict[str, dict[str, float]]:
    """Compare figures of two sets of cycles, which may share patients: per metric the difference one - other with low,
    high and p_value as in `paired_difference`.

    Patients of either set are resampled together, so that those of both are drawn for both: two splits of one database
    differ less by chance than two databases would. On the same cycles this is the paired difference.

    Parameters
    ----------
    one, other
        Answers to each set.
    resamples
        Number of resamples.
    seed
        Seed, or a generator.
    """
    return _report_difference(_counts_of_both(one, other), resamples, seed)


def _counts_of_both(one: Answers, other: Answers) -> NDArray[np.int64]:
    """Answers to two sets -> (U, 8) rows, one per patient of either: the counts of the one set, and of the other."""
    sides = [
        (np.unique(np.asarray(each.patients)), _counts_per_unit(each.true, [each.predicted], each.patients, True))
        for each in (one, other)
    ]
    everyone = np.union1d(sides[0][0], sides[1][0])
    rows = np.zeros((len(everyone), 8), dtype=np.int64)
    for half, (patients, counts) in enumerate(sides):
        rows[np.searchsorted(everyone, patients), 4 * half : 4 * half + 4] = counts
    return rows


def _report_difference(
    rows: NDArray[np.int64], resamples: int, seed: int | np.random.Generator
) -> dict[str, dict[str, float]]:
    """(U, 4) or (U, 8) rows of a difference -> what `paired_difference` returns."""
    from scipy.special import stdtr

    difference, standard_error, deviations = bootstrap_t(rows, resamples=resamples, seed=seed)
    report = {}
    for k, name in enumerate(FIGURES):
        half = half_width(deviations[:, k], standard_error[k], units=len(rows), level=LEVEL)
        defined = deviations[:, k][~np.isnan(deviations[:, k])]
        observed = _observed_statistic(difference[k], standard_error[k])
        resampled = (np.sum(defined >= observed) + 1) / (len(defined) + 1)
        report[name] = {
            "difference": float(difference[k]),
            "low": float(np.maximum(difference[k] - half, -1)),
            "high": float(np.minimum(difference[k] + half, 1)),
            "p_value": float(np.maximum(resampled, 2 * stdtr(len(rows) - 1, -observed))),
            "standard_error": float(standard_error[k]),
        }
    return report


def crossed_intervals(
    true: ArrayLike, predicted: ArrayLike, patients: Sequence[Any] | ArrayLike, level: float = LEVEL
) -> dict[str, tuple[float, float]]:
    """Compute the interval of specificity, sensitivity and score over other patients and other seeds.

    All S seeds answer the same cycles, so patients and seeds cross. Variance of the mean over seeds: that between
    patients plus that between seeds less that of single cells, which both hold (Cameron, Gelbach & Miller 2011), at
    least the larger of the two; Student's t with the degrees of freedom of Satterthwaite. NaN for one seed or patient.

    Parameters
    ----------
    true
        Class numbers (N,).
    predicted
        Those of each seed (S, N).
    patients
        Patient of each cycle (N,).
    level
        Coverage of the interval.
    """
    from scipy.special import stdtrit

    counts = np.stack([_counts_per_unit(true, [each], patients, True) for each in np.asarray(predicted)])  # (S, U, 4)
    seeds, units = counts.shape[:2]
    total = counts[..., [1, 3]].sum(axis=(0, 1))
    ratio = safe_ratio(counts[..., [0, 2]].sum(axis=(0, 1)), total)
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = (counts[..., [0, 2]] - ratio * counts[..., [1, 3]]) / total
    residual = np.concatenate([residual, residual.mean(axis=-1, keepdims=True)], axis=-1)  # (S, U, 3)

    if min(seeds, units) < 2:
        return dict.fromkeys(FIGURES, (nan, nan))
    of_patients = (residual.sum(axis=0) ** 2).sum(axis=0) * units / (units - 1)
    of_seeds = (residual.sum(axis=1) ** 2).sum(axis=0) * seeds / (seeds - 1)
    variance = np.maximum(of_patients + of_seeds - (residual**2).sum(axis=(0, 1)), np.maximum(of_patients, of_seeds))
    freedom = safe_ratio((of_patients + of_seeds) ** 2, of_patients**2 / (units - 1) + of_seeds**2 / (seeds - 1))
    half = np.where(variance > 0, stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance), variance)
    figures = [*ratio, ratio.mean()]
    return {
        name: (float(np.maximum(figures[k] - half[k], 0)), float(np.minimum(figures[k] + half[k], 1)))
        for k, name in enumerate(FIGURES)
    }


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons -> those of Holm (1979): below a level with the probability of it at most, that
    any comparison without a difference comes out so. NaN stays and is no comparison."""
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = p.copy()
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return [float(value) for value in adjusted]


def patients_needed(standard_error: float, patients: int, difference: float = 0.01, power: float = 0.8) -> float:
    """Standard error of a paired difference on so many patients -> how many of their like it takes to find a difference
    of one point with that power; NaN where there is no error to go by.

    The error falls with the root of their number, and normal quantiles stand for those of the test.
    """
    from scipy.special import ndtri

    if not standard_error > 0:
        return nan
    return float(ceil(patients * ((ndtri((1 + LEVEL) / 2) + ndtri(power)) * standard_error / difference) ** 2))


def mean_sd(values: ArrayLike) -> tuple[float, float]:
    """(S,) figures of S seeds -> mean and sample standard deviation (divisor S - 1; NaN for a single seed)."""
    seeds = np.asarray(values, dtype=np.float64)
    if seeds.ndim != 1 or len(seeds) == 0:
        raise ValueError(f"values of shape {seeds.shape}, expected one number per seed and at least one seed")
    return float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else nan


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Successes of independent trials -> (low, high) of their share at 95 %, Wilson's interval; (0, 1) without a trial.

    Wilson, JASA 22 (1927) 209; that of `scipy.stats`, whose import costs a first answer a second.
    """
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total}, expected a count between 0 and the total")
    if total == 0:
        return 0.0, 1.0
    z, share = NORMAL_97_5, count / total
    middle = (2 * count + z**2) / (2 * (total + z**2))
    half = z / (2 * (total + z**2)) * sqrt(4 * total * share * (1 - share) + z**2)
    return 0.0 if count == 0 else middle - half, 1.0 if count == total else middle + half


def _counts_per_unit(
    true: ArrayLike, systems: Sequence[ArrayLike], patients: Sequence[Any] | ArrayLike, cluster: bool
) -> NDArray[np.int64]:
    """One row per resampled unit (U, 4): right normals, normals, right abnormals, abnormals.

    With two systems "right" is right by the first minus right by the second: the difference of two figures is a ratio
    of sums like the figure itself, so one procedure serves both.
    """
    most = 2**MOST_CLASSES  # numbers of combinations of independent classes (LabelSet.encode_rows), too
    labels, names = as_labels(true, name="true", classes=most), np.asarray(patients)
    predictions = [as_labels(system, name="predicted", classes=most) for system in systems]
    require_equal_length(true=labels, patients=names, **dict(zip(("predicted", "other"), predictions, strict=False)))
    if len(labels) == 0:
        raise ValueError("there are no cycles to resample; give at least one cycle with a known class")
    right = (predictions[0] == labels).astype(np.int64)
    if len(predictions) == 2:
        right -= predictions[1] == labels
    normal = (labels == 0).astype(np.int64)
    cycles = np.stack([right * normal, normal, right * (1 - normal), 1 - normal], axis=1)
    return sum_by_patient(cycles, names) if cluster else cycles


def sum_by_patient(cycles: NDArray[Any], names: NDArray[Any]) -> NDArray[Any]:
    """Rows of N cycles (N, width) and the patient of each (N,) -> rows of U patients (U, width)."""
    distinct, place = np.unique(names, return_inverse=True)
    rows: NDArray[Any] = np.zeros((len(distinct), cycles.shape[1]), cycles.dtype)
    np.add.at(rows, place, cycles)
    return rows


def bootstrap_t(
    rows: NDArray[Any], resamples: int, seed: int | np.random.Generator, figures: Figures | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(U, width) rows of U patients -> figures (F,), their standard errors (F,), |deviation| / error of the resamples
    (R, F).

    `figures` computes them from sums of rows; by default specificity, sensitivity and score of (U, 4) rows, or the
    difference of those of two sets, (U, 8).
    """
    figures = figures or _scores_and_errors
    if resamples < 1:
        raise ValueError(f"{resamples} resamples, expected at least 1 (10,000 for a report)")
    units = len(rows)
    # Equal rows are drawn together with their multiplicity: a handful of kinds when the unit is the cycle.
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    values = kinds.astype(np.float64)
    width = rows.shape[1]
    products = (values[:, :, None] * values[:, None, :]).reshape(len(kinds), width**2)
    sums = np.concatenate([values, products], axis=1)  # (kinds, 20), or 72 of two sets
    generator = np.random.default_rng(seed)
    # Drawn in blocks: the weights of 10,000 resamples of thousands of patients would fill the memory.
    blocks = [min(1000, resamples - start) for start in range(0, resamples, 1000)]
    drawn = np.concatenate([generator.multinomial(units, counts / units, size=block) @ sums for block in blocks])
    estimate, standard_error = figures(counts @ sums, units, width)
    estimates, standard_errors = figures(drawn, units, width)
    return estimate, standard_error, safe_ratio(np.abs(estimates - estimate), standard_errors)


def _scores_and_errors(sums: FloatArray, units: int, width: int = 4) -> tuple[FloatArray, FloatArray]:
    """(..., width + width²) sums of rows and of their products -> figures (..., 3) and linearised standard errors
    (..., 3); of eight columns the figures of the first four minus those of the others."""
    ratio = np.zeros((*sums.shape[:-1], 2))
    slope = np.zeros((*sums.shape[:-1], 3, width))  # derivative of each figure by the sums
    for start, sign in zip(range(0, width, 4), (1, -1), strict=False):
        right, total = sums[..., [start, start + 2]], sums[..., [start + 1, start + 3]]
        share = safe_ratio(right, total)
        ratio += sign * share
        slope[..., [0, 1], [start, start + 2]] = sign * safe_ratio(np.ones_like(total), total)
        slope[..., [0, 1], [start + 1, start + 3]] = -sign * safe_ratio(share, total)
    slope[..., 2, :] = slope[..., :2, :].mean(axis=-2)
    figures = np.concatenate([ratio, ratio.mean(axis=-1, keepdims=True)], axis=-1)
    return figures, linearised_error(slope, sums, units)


def linearised_error(slope: FloatArray, sums: FloatArray, units: int) -> FloatArray:
    """Derivatives of figures by the sums (..., F, width), those sums and those of products (..., width + width²) ->
    standard errors of the figures (..., F)."""
    width = slope.shape[-1]
    products = sums[..., width:].reshape(*sums.shape[:-1], width, width)
    variance = np.einsum("...ki,...ij,...kj->...k", slope, products, slope)
    # What is left of a variance that is 0 but for rounding; one cycle in a million has 1e-12. NaN stays.
    variance[variance < 1e-14] = 0
    correction = units / (units - 1) if units > 1 else nan
    error: FloatArray = np.sqrt(variance * correction)
    return error


def _observed_statistic(difference: float, standard_error: float) -> float:
    """|difference| / standard error; without any spread 0 for no difference, else infinite."""
    if standard_error == 0:
        return 0.0 if abs(difference) < 1e-12 else inf
    return abs(difference) / standard_error


def half_width(deviations: FloatArray, standard_error: float, units: int, level: float) -> float:
    """What `bootstrap_t` gave of one figure -> half of its interval, which holds the truth in a share of `level`."""
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level {level}, expected a fraction between 0 and 1, such as 0.95")
    if standard_error == 0 or np.isnan(standard_error):
        return standard_error
    defined = np.sort(deviations[~np.isnan(deviations)])
    rank = ceil(level * (len(defined) + 1))  # the order statistic that agrees with the p-value's (k + 1) / (R + 1)
    resampled = defined[rank - 1] if rank <= len(defined) else inf
    return float(standard_error * max(resampled, stdtrit(units - 1, (1 + level) / 2)))
