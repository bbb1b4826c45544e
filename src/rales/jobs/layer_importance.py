"""What a layer is worth to the others, and how alike layers are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.evaluation.metrics import icbhi_scores
from rales.jobs.linear_probe import Measure, Pooled, Whole, count, subsets
from rales.typing import FloatArray


def leave_one_out(
    pooled: Pooled,
    labels: Sequence[int] | Whole,
    folds: Sequence[int] | Whole,
    measure: Measure,
    *,
    c: float,
    classes: int = 4,
    progress: bool = False,
) -> pd.DataFrame:
    """(N, L, D) pooled layers, (N,) classes, (N,) folds -> a row per layer: what the probe of all layers loses without
    it, fitted anew.

    Columns: layer (from 1), score (of the test rows of all folds together), auroc (mean over folds of what `measure`
    says) and auroc_sd (of the loss over folds): figures of all layers minus those without this one, fractions. Empty
    for one layer. Errors: those of `linear_probe.probe_all`.
    """
    depth = pooled.shape[1]
    if depth < 2:
        return pd.DataFrame(columns=["layer", "score", "auroc", "auroc_sd"])
    every = tuple(range(depth))
    chosen = [every, *subsets(depth, [depth - 1])]
    measured = np.full((len(np.unique(np.asarray(folds))), len(chosen)), np.nan)
    counts = count(
        pooled, labels, folds, chosen, c=c, classes=classes, measure=measure, measured=measured, progress=progress
    )
    scores = [icbhi_scores(of_all)["score"] for of_all in counts.sum(axis=0)]
    losses = pd.DataFrame(measured[:, :1] - measured[:, 1:])  # a fold without AUROC is left out
    found = pd.DataFrame(
        {
            "layer": [1 + (set(every) - set(subset)).pop() for subset in chosen[1:]],
            "score": [scores[0] - score for score in scores[1:]],
            "auroc": losses.mean(),
            "auroc_sd": losses.std(),
        }
    )
    return found.sort_values("layer", ignore_index=True)


def linear_cka(layers: NDArray[np.floating]) -> FloatArray:
    """(N, L, D) features of N rows -> (L, L) linear centred kernel alignment of every pair of layers: 0 to 1, the same
    for features that are rotated or scaled (Kornblith et al. 2019); NaN for a layer that is constant.

    With fewer rows than features it is near 1 for anything.
    """
    x = layers.astype(np.float64).transpose(1, 0, 2)
    x = x - x.mean(axis=1, keepdims=True)
    depth = len(x)
    found = np.empty((depth, depth))
    for i in range(depth):
        for j in range(i, depth):
            found[i, j] = found[j, i] = np.square(x[i].T @ x[j]).sum()
    own = np.sqrt(np.diag(found))
    with np.errstate(invalid="ignore"):
        return np.asarray(found / np.outer(own, own))
