"""Metrics from outside the package, by name or FILE.py:NAME: functions of true classes and probabilities."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rales.optional_packages import summarise_error
from rales.registry import METRICS
from rales.typing import FloatArray, IntArray

# class numbers (n,), or (n, classes) of 0 and 1 if they are independent, probabilities (n, classes) -> a figure, or
# several by name
Metric = Callable[[IntArray, FloatArray], float | Mapping[str, float]]

RESAMPLES: Final = 200  # of an interval: a metric of anybody's may take a second each


def compute_own_metrics(words: Sequence[str], true: IntArray, probabilities: FloatArray) -> dict[str, float]:
    """Compute the figures of some metrics; a metric that gives several calls them `metric.name`.

    Parameters
    ----------
    words
        Names of metrics, or FILE.py:NAME.
    true
        Class numbers (n,), or (n, classes) of 0 and 1 if the classes are independent.
    probabilities
        Class probabilities (n, classes).
    """
    figures = dict[str, float]()
    for word in words:
        metric: Metric = METRICS.find(word)
        name = word.rpartition(":")[2]
        try:
            found = metric(true, probabilities)
            if isinstance(found, Mapping):
                figures |= {f"{name}.{part}": float(value) for part, value in found.items()}
            else:
                figures[name] = float(found)
        except Exception as error:
            raise ValueError(
                f"metric {word!r}: failed ({summarise_error(error)}); expected a function (class numbers (n,), "
                "probabilities (n, classes)) -> number, or name -> number"
            ) from error
    return figures


def own_metrics_with_intervals(
    words: Sequence[str], true: IntArray, probabilities: FloatArray, patients: NDArray[Any], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """-> figure -> its `value` and `ci95`, the 2.5 % and 97.5 % quantiles over 200 resamples of the patients (n,).

    A resample in which the metric fails or is no number, since a class is missing in it, is left out; NaN with a single
    patient.
    """
    units = [np.flatnonzero(patients == name) for name in np.unique(patients)]
    found = dict[str, dict[str, Any]]()
    for word in words:
        figures = compute_own_metrics([word], true, probabilities)
        drawn: dict[str, list[float]] = {name: [] for name in figures}
        generator = np.random.default_rng(seed)
        for _ in range(RESAMPLES if len(units) > 1 else 0):
            rows = np.concatenate([units[unit] for unit in generator.integers(len(units), size=len(units))])
            with suppress(ValueError):
                again = compute_own_metrics([word], true[rows], probabilities[rows])
                for name in figures:
                    drawn[name] += [again[name]] if math.isfinite(again.get(name, math.nan)) else []
        for name, values in drawn.items():
            ends = np.quantile(values, (0.025, 0.975)).tolist() if values else [math.nan, math.nan]
            found[name] = {"value": figures[name], "ci95": ends}
    return found
