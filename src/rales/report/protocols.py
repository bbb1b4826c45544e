"""Scores of a system under each protocol for choosing the epoch, and what choosing on the test set is worth."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.evaluation import bootstrap
from rales.report.load_runs import SCORES, Run, strict_scores
from rales.report.systems import System

PROTOCOLS = {"last": "last epoch", "validation": "best on validation patients", "test_best": "best on the test set"}
AVERAGES = {"late_mean": "mean of the last {k} epochs", "late_average": "probabilities of the last {k} epochs averaged"}


class ProtocolOutcome(NamedTuple):
    """What a system has under one protocol, as fractions."""

    words: str
    figures: pd.DataFrame
    """A row per seed: specificity, sensitivity, score."""
    interval: dict[str, tuple[float, float]]
    """95 % interval of the mean over seeds, patients resampled."""


def protocol_outcome(system: System, protocol: str) -> ProtocolOutcome | None:
    """-> a system's figures under a protocol, or None if not every run of it tells."""
    if protocol == system.select:
        return ProtocolOutcome(PROTOCOLS[protocol], system.figures[SCORES], system.interval)
    if any(protocol not in run.labels for run in system.runs):
        return None
    figures = [strict_scores(*protocol_cycles(run, protocol)[:2]) for run in system.runs]
    true, predicted, patients = stack_seeds(system, lambda run: protocol_cycles(run, protocol))
    interval = bootstrap.bootstrap_intervals(true, predicted, patients, seed=0)
    return ProtocolOutcome(
        protocol_words(system, protocol), pd.DataFrame(figures, index=[run.seed for run in system.runs]), interval
    )


def protocol_outcomes(system: System) -> dict[str, ProtocolOutcome]:
    """-> protocol -> outcome, of every protocol that the system's own runs tell of."""
    outcomes = {protocol: protocol_outcome(system, protocol) for protocol in (*PROTOCOLS, *AVERAGES)}
    return {protocol: result for protocol, result in outcomes.items() if result is not None}


def oracle_gap(system: System) -> dict[str, dict[str, float]] | None:
    """-> the best epoch on the test set minus the last one, per figure, on the same cycles of the same runs; None if
    the runs do not tell, or keep no other epoch."""
    if any(not {"last", "test_best"} <= run.labels.keys() for run in system.runs):
        return None
    true, best, patients = stack_seeds(system, lambda run: protocol_cycles(run, "test_best"))
    _, last, _ = stack_seeds(system, lambda run: protocol_cycles(run, "last"))
    return bootstrap.paired_difference(true, best, last, patients, seed=0)


def protocol_words(system: System, protocol: str) -> str:
    """-> what a protocol is called beside the figures of a system."""
    if protocol in PROTOCOLS:
        return PROTOCOLS[protocol]
    return AVERAGES[protocol].format(k=len(system.runs[0].labels["late_mean"]))


def protocol_cycles(run: Run, protocol: str) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """-> (k n,) true and predicted classes and patients of a run's test cycles, over the k epochs of a protocol."""
    assert run.predictions is not None  # labels are of these
    labels = run.labels[protocol]
    true = np.tile(run.predictions["true"].to_numpy(np.int64), len(labels))
    return true, labels.ravel(), run.predictions["patient"].tolist() * len(labels)


def stack_seeds(
    system: System, of_run: Callable[[Run], tuple[NDArray[np.int64], NDArray[np.int64], list[str]]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """-> the same of all seeds under each other: they share one test set, so a patient's cycles stay together."""
    parts = [of_run(run) for run in system.runs]
    true, predicted = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return true, predicted, [patient for part in parts for patient in part[2]]
