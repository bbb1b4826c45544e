"""Cheap baselines: statistics of each cycle's spectrum and a few lines of scikit-learn, under the systems' splits.

A system is worth what it adds to them. They are fitted on all train cycles and choose no epoch; their numbers are
scikit-learn's defaults with balanced classes, so nothing of them is chosen by any score.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rales.audio import M2DLogMel
from rales.data.dataset import class_numbers
from rales.data.waveform_cache import Preparation, cached_arrays, read_cycle_waveform
from rales.evaluation.bootstrap import Answers
from rales.labels import LabelSet

MELS = 80


def make_logistic_regression() -> Any:
    """-> an unfitted classifier of statistics."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))


def make_svm() -> Any:
    """-> an unfitted classifier of statistics."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(class_weight="balanced"))


BASELINES: dict[str, Callable[[], Any]] = {
    "log-mel statistics + logistic regression": make_logistic_regression,
    "log-mel statistics + SVM": make_svm,
}


def load_statistics(cycles: pd.DataFrame, *, progress: bool = False, folder: Path | None = None) -> NDArray[np.float32]:
    """Cycles table of N rows -> (N, 240) statistics of each, computed once and kept in the cache of waveforms."""
    prepare = Preparation(read_statistics, {"rate_hz": 16000, "samples": 128000}, (3 * MELS,))
    return cached_arrays(cycles, prepare, folder=folder, progress=progress)


def read_statistics(
    path: str | Path, start_s: float, end_s: float, *, rate_hz: int, samples: int
) -> NDArray[np.float32]:
    """One cycle of one recording -> (240,) mean, standard deviation and maximum over time of its 80 log-mel bands."""
    wave = read_cycle_waveform(path, start_s, end_s, rate_hz=rate_hz, samples=samples)
    with torch.inference_mode():
        bands = make_logmel(rate_hz)(torch.from_numpy(wave)[None])[0, 0]  # (80, frames)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1), bands.amax(dim=1)]).numpy()


@cache
def make_logmel(rate_hz: int) -> M2DLogMel:
    return M2DLogMel(sample_rate_hz=rate_hz, mels=MELS)


def answer_test_cycles(
    name: str, statistics: NDArray[np.float32], divided: pd.DataFrame, label_set: LabelSet
) -> Answers:
    """Name of a baseline, (N, 240) statistics, divided cycles table -> its answers to the test cycles.

    Fitted on the rows of `train`; where these are all of one class, that is the answer.
    """
    train, test = find_rows(divided, "train"), find_rows(divided, "test")
    label = class_numbers(divided.iloc[train], label_set)
    if len(set(label.tolist())) > 1:
        predicted = BASELINES[name]().fit(statistics[train], label).predict(statistics[test])
    else:
        predicted = np.repeat(label[:1], len(test))
    tests = divided.iloc[test]
    return Answers(class_numbers(tests, label_set), predicted.astype(np.int64), tests["patient"].tolist())


def find_rows(divided: pd.DataFrame, part: str) -> NDArray[np.int64]:
    """Divided table and part -> positions of its rows."""
    return np.flatnonzero(divided["split"].to_numpy() == part)
