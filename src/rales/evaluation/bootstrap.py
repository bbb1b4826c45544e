"""Uncertainty of metrics: patient-level bootstrap intervals, paired tests, spread over seeds.

Cycles of one patient resemble each other, so the patient is the unit that is resampled: on the official test split
(49 patients, 2,756 cycles) the interval is about three times as wide as one that pretends cycles are independent.

Interval type: symmetric bootstrap-t, estimate +/- c * se, where se is the linearised (sandwich) standard error of the
ratio of sums and c the `level` quantile of |estimate* - estimate| / se* over the resamples, or Student's t with U - 1
degrees of freedom (U patients) where that is larger: with few patients or few errors many resamples have no spread
at all (se* = 0) and the rest would promise too much. Percentile and BCa intervals were tried and cover too little
(figures in `bootstrap_intervals`).
"""

from collections.abc import Sequence
from functools import cache
from math import ceil, inf, nan
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.evaluation.metrics import as_labels, require_equal_length, safe_ratio
from rales.labels import MOST_CLASSES
from rales.typing import FloatArray

if TYPE_CHECKING:
    pass


FIGURES: Final = ("specificity", "sensitivity", "score")


def bootstrap_intervals(
    true: ArrayLike,
    predicted: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    resamples: int = 10_000,
    seed: int | np.random.Generator = 0,
    cluster: bool = True,
    level: float = 0.95,
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
    estimate, standard_error, deviations = _bootstrap_t(rows, resamples=resamples, seed=seed)
    half = [_half_width(deviations[:, k], standard_error[k], units=len(rows), level=level) for k in range(3)]
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
    cluster: bool = True,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """Compare two systems on the same cycles: per metric the difference a - b with low, high and p_value.

    Two-sided p_value = (k + 1) / (R + 1), k the resamples whose |difference* - difference| / se* reaches |difference| /
    se, R the resamples where that exists, or the p of Student's t where that is larger. So it is never 0, and an
    interval that excludes 0 goes with p_value <= 1 - level. NaN as in `bootstrap_intervals`.

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
    cluster
        Resample patients; False: cycles (too narrow; for comparison with papers that do so).
    level
        Coverage of the interval.
    """
    from scipy.special import stdtr

    rows = _counts_per_unit(true, [predicted_a, predicted_b], patients, cluster)
    difference, standard_error, deviations = _bootstrap_t(rows, resamples=resamples, seed=seed)
    report = {}
    for k, name in enumerate(FIGURES):
        half = _half_width(deviations[:, k], standard_error[k], units=len(rows), level=level)
        defined = deviations[:, k][~np.isnan(deviations[:, k])]
        observed = _observed_statistic(difference[k], standard_error[k])
        resampled = (np.sum(defined >= observed) + 1) / (len(defined) + 1)
        report[name] = {
            "difference": float(difference[k]),
            "low": float(np.maximum(difference[k] - half, -1)),
            "high": float(np.minimum(difference[k] + half, 1)),
            "p_value": float(np.maximum(resampled, 2 * stdtr(len(rows) - 1, -observed))),
        }
    return report


def mean_sd(values: ArrayLike) -> tuple[float, float]:
    """(S,) figures of S seeds -> mean and sample standard deviation (divisor S - 1; NaN for a single seed)."""
    seeds = np.asarray(values, dtype=np.float64)
    if seeds.ndim != 1 or len(seeds) == 0:
        raise ValueError(f"values of shape {seeds.shape}, expected one number per seed and at least one seed")
    return float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else nan


@cache
def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Successes of independent trials -> (low, high) of their share at 95 %, Wilson's interval; (0, 1) without a trial.

    Remembered, since recordings have few cycles and scipy tests a hypothesis on the way to each interval.
    """
    from scipy.stats import binomtest

    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total}, expected a count between 0 and the total")
    if total == 0:
        return 0.0, 1.0
    interval = binomtest(int(count), int(total)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


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
    if not cluster:
        return cycles
    distinct, place = np.unique(names, return_inverse=True)
    rows = np.zeros((len(distinct), 4), dtype=np.int64)
    np.add.at(rows, place, cycles)
    return rows


def _bootstrap_t(
    rows: NDArray[np.int64], resamples: int, seed: int | np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(U, 4) rows -> figures (3,), their standard errors (3,), |deviation| / error of the resamples (R, 3)."""
    if resamples < 1:
        raise ValueError(f"{resamples} resamples, expected at least 1 (10,000 for a report)")
    units = len(rows)
    # Equal rows are drawn together with their multiplicity: a handful of kinds when the unit is the cycle.
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    values = kinds.astype(np.float64)
    products = (values[:, :, None] * values[:, None, :]).reshape(len(kinds), 16)
    sums = np.concatenate([values, products], axis=1)  # (kinds, 20)
    generator = np.random.default_rng(seed)
    # Drawn in blocks: the weights of 10,000 resamples of thousands of patients would fill the memory.
    blocks = [min(1000, resamples - start) for start in range(0, resamples, 1000)]
    drawn = np.concatenate([generator.multinomial(units, counts / units, size=block) @ sums for block in blocks])
    estimate, standard_error = _scores_and_errors(counts @ sums, units)
    estimates, standard_errors = _scores_and_errors(drawn, units)
    return estimate, standard_error, safe_ratio(np.abs(estimates - estimate), standard_errors)


def _scores_and_errors(sums: FloatArray, units: int) -> tuple[FloatArray, FloatArray]:
    """(..., 20) sums of rows and of their products -> figures (..., 3) and linearised standard errors (..., 3)."""
    right, total = sums[..., [0, 2]], sums[..., [1, 3]]
    ratio = safe_ratio(right, total)
    slope = np.zeros((*ratio.shape[:-1], 3, 4))  # derivative of each figure by the four sums
    slope[..., [0, 1], [0, 2]] = safe_ratio(np.ones_like(total), total)
    slope[..., [0, 1], [1, 3]] = -safe_ratio(ratio, total)
    slope[..., 2, :] = slope[..., :2, :].mean(axis=-2)
    products = sums[..., 4:].reshape(*sums.shape[:-1], 4, 4)
    variance = np.einsum("...ki,...ij,...kj->...k", slope, products, slope)
    # What is left of a variance that is 0 but for rounding; one cycle in a million has 1e-12.
    variance[variance < 1e-14] = 0
    correction = units / (units - 1) if units > 1 else nan
    figures = np.concatenate([ratio, ratio.mean(axis=-1, keepdims=True)], axis=-1)
    return figures, np.sqrt(variance * correction)


def _observed_statistic(difference: float, standard_error: float) -> float:
    """|difference| / standard error; without any spread 0 for no difference, else infinite."""
    if standard_error == 0:
        return 0.0 if abs(difference) < 1e-12 else inf
    return abs(difference) / standard_error


def _half_width(deviations: FloatArray, standard_error: float, units: int, level: float) -> float:
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level {level}, expected a fraction between 0 and 1, such as 0.95")
    if standard_error == 0 or np.isnan(standard_error):
        return standard_error
    defined = np.sort(deviations[~np.isnan(deviations)])
    rank = ceil(level * (len(defined) + 1))  # the order statistic that agrees with the p-value's (k + 1) / (R + 1)
    resampled = defined[rank - 1] if rank <= len(defined) else inf
    return float(standard_error * max(resampled, stdtrit(units - 1, (1 + level) / 2)))
