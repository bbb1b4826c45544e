"""Speed and honesty of the patient bootstrap: python benchmarks/bootstrap.py [--coverage SIMULATIONS]

Speed: 10,000 resamples of 2,756 cycles of 49 patients beside scipy.stats.bootstrap on the same per-patient counts.
Coverage: how often a nominal 95 % interval holds the true value of a simulated clinic, for the intervals of
`rales.evaluation.bootstrap.bootstrap_intervals` and for scipy's plain percentile and BCa intervals (about 2 minutes
for 2,000).
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from rales.evaluation.bootstrap import FIGURES, bootstrap_intervals, paired_difference

Cycles = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", type=int, default=0, metavar="SIMULATIONS", help="0: only the speed")
    simulations = parser.parse_args().coverage
    speed()
    if simulations:
        for patients, spread in ((49, 0.8), (49, 1.5), (20, 0.8)):
            coverage(simulations, patients=patients, spread=spread)


def speed() -> None:
    generator = np.random.default_rng(0)
    true = generator.choice(4, size=2756, p=[1579 / 2756, 649 / 2756, 385 / 2756, 143 / 2756])
    predicted = np.where(generator.random(2756) < 0.5, true, generator.integers(4, size=2756))
    other = np.where(generator.random(2756) < 0.5, true, generator.integers(4, size=2756))
    patient = generator.choice(49, size=2756, p=generator.dirichlet(np.full(49, 1.0)))
    jobs: dict[str, Callable[[], object]] = {
        "intervals, patients": lambda: bootstrap_intervals(true, predicted, patient),
        "intervals, cycles": lambda: bootstrap_intervals(true, predicted, patient, cluster=False),
        "paired difference, patients": lambda: paired_difference(true, predicted, other, patient),
        "scipy percentile, patients": lambda: scipy_intervals((true, predicted, patient), 10_000, "percentile", seed=0),
    }
    times = {name: seconds(job) for name, job in jobs.items()}
    print("10,000 resamples of 49 patients, 2,756 cycles: median of 5, ratio to the first line")
    for name, time_s in times.items():
        print(f"  {name:30s}{time_s:8.3f} s {time_s / times['intervals, patients']:6.2f}")


def coverage(simulations: int, patients: int, spread: float) -> None:
    generator = np.random.default_rng(1)
    truth = true_figures(spread)
    hits: dict[str, list[NDArray[np.bool_]]] = {"bootstrap-t (rales)": [], "percentile (scipy)": [], "BCa (scipy)": []}
    widths: dict[str, list[NDArray[np.float64]]] = {name: [] for name in hits}
    for seed in range(simulations):
        cycles = simulated_clinic(generator, patients=patients, spread=spread)
        ours = bootstrap_intervals(*cycles, resamples=2000, seed=seed)
        found = {
            "bootstrap-t (rales)": np.array([ours[name] for name in FIGURES]),
            "percentile (scipy)": scipy_intervals(cycles, 2000, "percentile", seed=seed),
            "BCa (scipy)": scipy_intervals(cycles, 2000, "BCa", seed=seed),
        }
        for name, interval in found.items():
            hits[name].append((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
            widths[name].append(interval[:, 1] - interval[:, 0])
    print(f"\n{patients} patients, spread {spread}, {simulations} simulations: coverage of nominal 95 % (mean width)")
    for name in hits:
        cells = zip(FIGURES, np.mean(hits[name], axis=0), np.mean(widths[name], axis=0), strict=True)
        print(
            f"  {name:20s}" + "".join(f"  {figure} {100 * share:.1f} % ({width:.3f})" for figure, share, width in cells)
        )


def simulated_clinic(generator: np.random.Generator, patients: int, spread: float) -> Cycles:
    """A few patients with very unequal numbers of cycles -> (N,) true, (N,) predicted, (N,) patient.

    Like the official test split: 56 cycles a patient on average, the five largest of 49 hold a third of them, about a
    quarter of the patients has no abnormal cycle. Each patient has an own chance of a right answer, on normal and on
    abnormal cycles: a logit-normal random effect of the given spread.
    """
    cycles = np.ceil(generator.exponential(56, size=patients)).astype(int)
    abnormal = generator.binomial(cycles, generator.beta(0.3, 0.4, size=patients))
    patient = np.repeat(np.arange(patients), cycles)
    first = np.repeat(np.cumsum(cycles) - cycles, cycles)
    is_abnormal = np.arange(len(patient)) - first < abnormal[patient]
    chance = expit(np.array([[1.3], [-0.4]]) + spread * generator.normal(size=(2, patients)))
    right = generator.random(len(patient)) < chance[is_abnormal.astype(int), patient]
    return is_abnormal.astype(np.int64), (is_abnormal ^ ~right).astype(np.int64), patient


def true_figures(spread: float) -> NDArray[np.float64]:
    """Specificity, sensitivity, score of the endless clinic: the mean of expit(m + spread z) over normal z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    figures = expit(np.array([[1.3], [-0.4]]) + spread * nodes) @ weights / weights.sum()
    return np.append(figures, figures.mean())


def scipy_intervals(
    cycles: Cycles, resamples: int, method: Literal["percentile", "BCa"], seed: int
) -> NDArray[np.float64]:
    """(low, high) of the three figures, (3, 2), from scipy.stats.bootstrap over rows of per-patient counts."""
    true, predicted, patient = cycles
    kinds = [(true == 0) & (predicted == 0), true == 0, (true > 0) & (predicted == true), true > 0]
    counts = np.stack([np.bincount(patient, weights=kind) for kind in kinds])

    def figures(index: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        normal_right, normals, abnormal_right, abnormals = counts[:, index].sum(axis=-1)
        specificity, sensitivity = normal_right / normals, abnormal_right / abnormals
        return np.stack([specificity, sensitivity, (specificity + sensitivity) / 2])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample without abnormal cycles
        result = stats.bootstrap(
            (np.arange(counts.shape[1]),),
            figures,
            n_resamples=resamples,
            method=method,
            vectorized=True,
            axis=-1,
            rng=np.random.default_rng(seed),
        )
    return np.stack([result.confidence_interval.low, result.confidence_interval.high], axis=1)


def seconds(job: Callable[[], object], repeats: int = 5) -> float:
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


if __name__ == "__main__":
    main()
