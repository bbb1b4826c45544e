"""Agreement of readers beyond chance: Cohen's and Fleiss' kappa and Krippendorff's alpha, with intervals by patient.

All three compare how often readers disagree with how often they would by chance, 1 - observed / expected, and differ in
what chance is: Cohen (1960) gives each of two readers their own habits, Fleiss (1971) gives any number of them one
habit, and Krippendorff (2004, nominal) does so without replacement and takes cycles that not all readers judged.

The interval is the bootstrap-t of `bootstrap.py`: patients are resampled, since their cycles resemble each other.
Measured coverage of nominal 95 % (benchmarks/agreement.py): 91.5 to 94.5 with 10 patients, 94 to 96.5 with 20 or
49, where intervals that take cycles for independent hold the truth in 67 to 82.5 %.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rales.evaluation.bootstrap import LEVEL, bootstrap_t, half_width, linearised_error, sum_by_patient
from rales.evaluation.metrics import require_equal_length, safe_ratio
from rales.labels import MOST_CLASSES
from rales.typing import FloatArray

MISSING = -1  # the class number of a cycle that a reader did not judge


class Agreement(NamedTuple):
    """How far readers agree: 1 always, 0 as often as by chance, below 0 less often. NaN where chance alone makes them
    agree always (one class). `low` and `high` are NaN with a single patient, and where all patients are alike (each of
    them always agreed), beyond which no resampling can see."""

    value: float
    low: float
    high: float
    agreed: float
    """Share of pairs of judgements that are the same, without any correction for chance."""
    cycles: int
    patients: int


def cohen_kappa(
    one: ArrayLike,
    other: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    resamples: int = 10_000,
    seed: int | np.random.Generator = 0,
) -> Agreement:
    """Class numbers (N,) of two readers for the same cycles -> Cohen's kappa, unweighted.

    Parameters
    ----------
    one, other
        Class numbers (N,); a cycle with `MISSING` in either is left out.
    patients
        Patient of each cycle (N,).
    resamples
        Number of resamples.
    seed
        Seed, or a generator.
    """
    ratings, names = _check_ratings(np.stack([np.asarray(one), np.asarray(other)], axis=1), patients)
    both = (ratings != MISSING).all(axis=1)
    ratings, names = ratings[both], names[both]
    first, second = _count_labels(ratings[:, :1], ratings), _count_labels(ratings[:, 1:], ratings)
    agreeing = (ratings[:, 0] == ratings[:, 1]).astype(float)
    return _estimate(agreeing, first, second, names, resamples, seed)


def fleiss_kappa(
    ratings: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    resamples: int = 10_000,
    seed: int | np.random.Generator = 0,
) -> Agreement:
    """Class numbers (N, R) of R readers -> Fleiss' kappa of the cycles that all of them judged; the other parameters
    are those of `cohen_kappa`."""
    matrix, names = _check_ratings(ratings, patients)
    complete = (matrix != MISSING).all(axis=1)
    return _estimate_many(matrix[complete], names[complete], resamples, seed, is_alpha=False)


def krippendorff_alpha(
    ratings: ArrayLike,
    patients: Sequence[Any] | ArrayLike,
    resamples: int = 10_000,
    seed: int | np.random.Generator = 0,
) -> Agreement:
    """Class numbers (N, R) of R readers, `MISSING` where one did not judge -> Krippendorff's alpha for nominal classes,
    of the cycles that two or more judged; the other parameters are those of `cohen_kappa`."""
    matrix, names = _check_ratings(ratings, patients)
    pairable = (matrix != MISSING).sum(axis=1) >= 2
    return _estimate_many(matrix[pairable], names[pairable], resamples, seed, is_alpha=True)


def _check_ratings(ratings: ArrayLike, patients: Sequence[Any] | ArrayLike) -> tuple[NDArray[np.int64], NDArray[Any]]:
    matrix, names = np.asarray(ratings), np.asarray(patients)
    if matrix.ndim != 2 or matrix.shape[1] < 2 or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(
            f"judgements of shape {matrix.shape} and type {matrix.dtype}, expected class numbers (cycles, readers) of "
            "two readers or more"
        )
    require_equal_length(judgements=matrix, patients=names)
    if matrix.size and matrix.min() < MISSING:
        raise ValueError(f"class number {matrix.min()}, expected 0 or more, or {MISSING} for none")
    return matrix.astype(np.int64), names


def _count_labels(ratings: NDArray[np.int64], known: NDArray[np.int64]) -> FloatArray:
    """Class numbers (N, R) -> how often each of the K labels in `known` was given to each cycle (N, K)."""
    labels = np.unique(known[known != MISSING])
    if len(labels) > MOST_CLASSES:
        raise ValueError(f"{len(labels)} different labels, expected at most {MOST_CLASSES}; compare fewer classes")
    counts: FloatArray = (ratings[:, :, None] == labels).sum(axis=1).astype(np.float64)
    return counts


def _estimate_many(
    matrix: NDArray[np.int64], names: NDArray[Any], resamples: int, seed: int | np.random.Generator, *, is_alpha: bool
) -> Agreement:
    counts = _count_labels(matrix, matrix)
    judged = counts.sum(axis=1)
    # A cycle that m readers judged has m (m - 1) pairs, and weighs as m judgements.
    agreeing = (counts * (counts - 1)).sum(axis=1) / (judged - 1)
    return _estimate(agreeing, counts, counts, names, resamples, seed, is_alpha=is_alpha)


def _estimate(
    agreeing: FloatArray,
    first: FloatArray,
    second: FloatArray,
    names: NDArray[Any],
    resamples: int,
    seed: int | np.random.Generator,
    *,
    is_alpha: bool = False,
) -> Agreement:
    """Agreeing judgements of each cycle (N,), labels that the one and the other side gave (N, K) -> the figure."""
    if len(agreeing) == 0:
        raise ValueError("no cycle was judged by the readers together; give annotations of the same recordings")
    rows = sum_by_patient(np.concatenate([agreeing[:, None], first, second], axis=1), names)
    figures = partial(_kappa_and_error, is_alpha=is_alpha)
    (value,), (error,), deviations = bootstrap_t(rows, resamples, seed, figures)
    half = half_width(deviations[:, 0], error, units=len(rows), level=LEVEL) if error > 0 else np.nan
    low, high = np.maximum(value - half, -1), np.minimum(value + half, 1)
    share = agreeing.sum() / first.sum()
    return Agreement(float(value), float(low), float(high), float(share), len(agreeing), len(rows))


def _kappa_and_error(sums: FloatArray, units: int, width: int, *, is_alpha: bool) -> tuple[FloatArray, FloatArray]:
    """(..., width + width²) sums of rows [agreeing, labels of the one side, of the other] and of their products ->
    figure (..., 1) and its linearised standard error (..., 1).

    With n judgements, a of them agreeing: kappa = 1 - n (n - a) / (n² - sum of r c over the labels), where r and c are
    what either side gave. Alpha draws the other judgement without replacement, which takes (n - 1) / n of the rest.
    """
    classes = (width - 1) // 2
    agreeing, first, second = sums[..., 0], sums[..., 1 : 1 + classes], sums[..., 1 + classes : width]
    total = first.sum(axis=-1)
    expected = total**2 - (first * second).sum(axis=-1)
    ratio = safe_ratio(total * (total - agreeing), expected)
    rest = (total - 1) / total if is_alpha else np.ones_like(total)

    slope = np.empty((*sums.shape[:-1], width))
    slope[..., 0] = total
    slope[..., 1 : 1 + classes] = ratio[..., None] * (2 * total[..., None] - second) - (2 * total - agreeing)[..., None]
    slope[..., 1 + classes :] = -ratio[..., None] * first
    slope *= safe_ratio(rest, expected)[..., None]
    error = linearised_error(slope[..., None, :], sums, units)
    return (1 - rest * ratio)[..., None], error
