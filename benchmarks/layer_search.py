"""How long all 4,095 subsets of twelve layers take, beside scikit-learn on twenty of them.

    python benchmarks/layer_search.py
    python benchmarks/layer_search.py --data ICBHI_final_database --weights mr7

The features are made up (a ViT-base, 1,410 cycles of 43 patients), or the pooled layers of a checkpoint, or of a random
ViT-base where none is named. Both fit the same regression (5-fold patient-disjoint cross-validation, features
standardised by the training rows) in the same process, one after the other, with the same number of threads. The time
of scikit-learn is extrapolated from twenty random subsets, fitted as it is by default; since it then stops at 0.001 of
the optimum's probabilities, Scores are also compared after it was made to go on. Ends with 1 unless all subsets take
less than ten minutes, twenty times less than with scikit-learn, and the twenty are ranked alike.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from rales.data import dataset, read_cycles, splits
from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.jobs import layer_search, linear_probe
from rales.labels import CLASSES
from rales.models import ViT
from rales.recipes.registry import make_recipe

DEPTH, WIDTH, CYCLES, PATIENTS, FOLDS = 12, 768, 1410, 43, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an ICBHI folder instead of made-up features")
    parser.add_argument("--weights", default="", help="checkpoint for --data; a random ViT-base without it")
    parser.add_argument("--c", type=float, default=linear_probe.C)
    parser.add_argument("--subsets", type=int, default=20, help="how many scikit-learn fits")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cycles, pooled = real(options.data, options.weights) if options.data else made_up()
    label = np.array([CLASSES.index(word) for word in cycles["label"]])
    folds = np.array(splits.assign_folds(cycles, FOLDS), np.int64)
    print(f"{len(cycles)} cycles of {cycles['patient'].nunique()} patients, {pooled.shape[1]} x {pooled.shape[2]}")

    began_s = time.perf_counter()
    found = linear_probe.probe_all(pooled, label, folds, c=options.c, progress=True)
    ours_s = time.perf_counter() - began_s
    print(f"rales: {len(found)} subsets x {FOLDS} folds, c = {options.c}, {options.threads} threads: {ours_s:.0f} s")

    some = np.random.default_rng(0).choice(len(found), options.subsets, replace=False)
    with threadpool_limits(options.threads):
        plain = np.array([scikit_learn(pooled, label, folds, words, options.c) for words in found["layers"].iloc[some]])
    plain_s = plain[:, 2].mean() * len(found)
    print(
        f"scikit-learn: {plain_s:.0f} s, extrapolated from {len(some)} subsets ({plain_s / ours_s:.0f} times as long)"
    )
    for how, scores in (("as it stops by default", plain[:, 0]), ("converged", plain[:, 1])):
        difference = np.abs(found["score"].iloc[some] - scores).max()
        agreement = spearmanr(found["score"].iloc[some], scores).statistic
        print(f"  {how}: rank correlation {agreement:.4f}, largest difference of Score {100 * difference:.2f} points")
    return 0 if ours_s < 600 and plain_s >= 20 * ours_s and agreement > 0.99 else 1


def scikit_learn(
    pooled: linear_probe.Pooled, label: NDArray[np.int64], folds: NDArray[np.int64], words: str, c: float
) -> tuple[float, float, float]:
    """One subset -> its cross-validated Score as scikit-learn computes it by default, the same after it has converged
    in double precision, and the seconds that the first took."""
    chosen, took_s = [int(number) - 1 for number in words.split("+")], 0.0
    x, predicted = pooled[:, chosen].reshape(len(pooled), -1), np.empty((2, len(label)), np.int64)
    for fold in range(FOLDS):
        train = folds != fold
        began_s = time.perf_counter()
        scaler = StandardScaler().fit(x[train])
        z = scaler.transform(x)
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=10_000, warm_start=True)
        predicted[0, ~train] = model.fit(z[train], label[train]).predict(z[~train])
        took_s += time.perf_counter() - began_s
        z = scaler.transform(x.astype(np.float64))
        model.set_params(tol=1e-6).fit(z[train], label[train])
        predicted[1, ~train] = model.predict(z[~train])
    default, converged = (icbhi_scores(confusion_matrix(label, one))["score"] for one in predicted)
    return default, converged, took_s


def made_up() -> tuple[pd.DataFrame, linear_probe.Pooled]:
    """-> cycles and their pooled layers: a few strong common directions, drifting from layer to layer, that depend on
    the patient more than on the class, and noise of each layer, as the outputs of a ViT are."""
    random = np.random.default_rng(0)
    others = random.choice(PATIENTS, CYCLES - PATIENTS, p=random.dirichlet(np.ones(PATIENTS)))
    patient = np.sort(np.append(np.arange(PATIENTS), others))
    chances = random.dirichlet([2.0, 0.5, 0.5, 0.2], PATIENTS)
    label = np.array([random.choice(4, p=chances[one]) for one in patient])
    directions = 200
    hidden = random.standard_normal((CYCLES, directions)) + random.standard_normal((PATIENTS, directions))[patient]
    hidden[:, :20] += 0.6 * random.standard_normal((4, 20))[label]
    hidden *= (1 + np.arange(directions)) ** -0.8
    pooled, mixing = np.empty((CYCLES, DEPTH, WIDTH), np.float32), random.standard_normal((directions, WIDTH))
    for layer in range(DEPTH):
        mixing = 0.8 * mixing + 0.6 * random.standard_normal((directions, WIDTH))
        pooled[:, layer] = hidden @ mixing + 0.3 * random.standard_normal((CYCLES, WIDTH))
    return pd.DataFrame({"patient": patient, "label": np.array(CLASSES)[label]}), pooled


def real(data: Path, weights: str) -> tuple[pd.DataFrame, linear_probe.Pooled]:
    """-> all cycles of a folder and their pooled layers."""
    recipe = make_recipe("m2d_fusion", variant="vanilla", weights=weights or None)
    cycles = read_cycles(data)
    torch.manual_seed(0)
    encoder = recipe.build_model(recipe.settings).get_submodule("encoder")
    assert isinstance(encoder, ViT)
    waves = dataset.load_dataset(cycles, recipe, progress=True).inputs
    began_s = time.perf_counter()
    pooled = layer_search.features(encoder, recipe.build_frontend(recipe.settings), waves, progress=True)
    print(f"pooled layers of {len(cycles)} cycles: {time.perf_counter() - began_s:.0f} s")
    return cycles, linear_probe.weighted(pooled, [1.0] * encoder.depth)


if __name__ == "__main__":
    sys.exit(main())
