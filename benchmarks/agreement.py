"""Honesty of the intervals of kappa and alpha: python benchmarks/agreement.py [SIMULATIONS]

How often a nominal 95 % interval by patient holds the true value of a simulated clinic, in which some patients are
harder to judge than others, beside one that takes cycles for independent. The truth is the figure of 20,000 patients.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rales.evaluation.agreement import MISSING, Agreement, cohen_kappa, fleiss_kappa, krippendorff_alpha

Ratings = tuple[NDArray[np.int64], NDArray[np.int64]]
CLASSES = np.array([0.57, 0.24, 0.14, 0.05])  # as in ICBHI 2017
FIGURES: dict[str, Callable[..., Agreement]] = {
    "Cohen's kappa": lambda ratings, names, **how: cohen_kappa(ratings[:, 0], ratings[:, 1], names, **how),
    "Fleiss' kappa": fleiss_kappa,
    "Krippendorff's alpha": krippendorff_alpha,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulations", type=int, nargs="?", default=500)
    simulations = parser.parse_args().simulations
    generator = np.random.default_rng(0)
    large = simulate_readers(generator, patients=20_000)
    truth = {name: figure(*large, resamples=1).value for name, figure in FIGURES.items()}
    for patients in (10, 20, 49):
        hits = {(name, by): list[bool]() for name in FIGURES for by in ("patient", "cycle")}
        for seed in range(simulations):
            ratings, names = simulate_readers(generator, patients)
            for name, figure in FIGURES.items():
                for by, units in (("patient", names), ("cycle", np.arange(len(names)))):
                    found = figure(ratings, units, resamples=1000, seed=seed)
                    hits[name, by].append(found.low <= truth[name] <= found.high)
        print(f"{patients} patients, {simulations} simulations: share of 95 % intervals that hold the truth")
        for name in FIGURES:
            shares = [f"by {by} {np.mean(hits[name, by]):6.1%}" for by in ("patient", "cycle")]
            print(f"  {name:22s} {'  '.join(shares)}")


def simulate_readers(generator: np.random.Generator, patients: int, readers: int = 3) -> Ratings:
    """-> class numbers (cycles, readers), one in ten missing, and the patient of each cycle (cycles,)."""
    cycles = generator.integers(3, 25, size=patients)
    names = np.repeat(np.arange(patients), cycles)
    # A patient has their own mix of sounds, and is so hard that a reader errs in 0 to 60 % of the cycles.
    mixes = generator.dirichlet(2 * CLASSES, size=patients)[names]
    errors = generator.beta(1.2, 4, size=patients)[names]
    true = (generator.random((len(names), 1)) > mixes.cumsum(axis=1)).sum(axis=1).clip(max=3)
    guesses = generator.choice(4, p=CLASSES, size=(len(names), readers))
    ratings = np.where(generator.random((len(names), readers)) < errors[:, None], guesses, true[:, None])
    return np.where(generator.random(ratings.shape) < 0.1, MISSING, ratings), names


if __name__ == "__main__":
    main()
