"""Metrics from outside the package: their figures stand beside ours, with an interval by patient.

rales evaluate runs/m2d --data ICBHI_final_database --metric examples/own_metric.py:brier_score
rales train m2d_fusion --data ICBHI_final_database --out runs/m2d --set train.metrics=examples/own_metric.py:hit_rates
"""

import numpy as np
from numpy.typing import NDArray


def brier_score(true: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Class numbers (n,), or (n, classes) of 0 and 1 where the classes are independent, probabilities (n, classes) ->
    mean squared distance from the truth, 0 to 2."""
    if true.ndim == 2:
        return float(((probabilities - true) ** 2).sum(axis=1).mean())
    return float(((probabilities - np.eye(probabilities.shape[1])[true]) ** 2).sum(axis=1).mean())


def hit_rates(true: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Class numbers (n,), probabilities (n, classes) -> share of cycles whose class is the first, or among two."""
    if true.ndim == 2:
        raise ValueError("independent classes have no order; give a run whose classes exclude one another")
    order = probabilities.argsort(axis=1)[:, ::-1]
    return {f"first_{most}": float((order[:, :most] == true[:, None]).any(axis=1).mean()) for most in (1, 2)}
