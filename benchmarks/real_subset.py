"""How a small M2DViT-Fusion from a random start does on a folder of real recordings, beside two plain classifiers.

    python benchmarks/real_subset.py DATA --out runs/real_subset [--seeds 5] [--folds 5] [--epochs 30] [--processes 2]

Prints Markdown: the official split with `--select last` (mean ± SD over seeds) and patient-disjoint cross-validation
over all recordings (all cycles pooled), next to the majority classifier (Score 50.0 by definition) and a logistic
regression on mean, SD and maximum of every mel band. Finished runs are kept, so a second call only fills gaps.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rales.recipes.registry import make_recipe

FIGURES = ("specificity", "sensitivity", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # one thread a worker: spinning threads of two workers stop each other

    jobs = [(f"seed{seed}", [f"seed={seed}"]) for seed in range(arguments.seeds)]
    jobs += [
        (f"fold{fold}", ["split.name=folds", f"split.folds={arguments.folds}", f"split.fold={fold}"])
        for fold in range(arguments.folds)
    ]
    common = [f"train.epochs={arguments.epochs}", f"train.evaluate_every={arguments.epochs}"]
    work = [(arguments.data, arguments.out / name, words + common) for name, words in jobs]
    with ProcessPoolExecutor(arguments.processes) as pool:
        list(pool.map(train_one, work))

    plain = logistic_regression(arguments.data, arguments.folds)
    print("| classifier | protocol | specificity | sensitivity | score |\n|---|---|---|---|---|")
    row("majority (all normal)", "any", [(1.0, 0.0, 0.5)])
    row("logistic regression", "official", [plain["official"]])
    seeds = [arguments.out / f"seed{seed}" for seed in range(arguments.seeds)]
    row("M2DViT-Fusion tiny, random start", "official, last epoch", [scores(run) for run in seeds])
    row("logistic regression", f"{arguments.folds} folds, pooled", [plain["folds"]])
    folds = [arguments.out / f"fold{fold}" for fold in range(arguments.folds)]
    row("M2DViT-Fusion tiny, random start", f"{arguments.folds} folds, pooled", [pooled(folds)])
    print("\n| run | train loss, first → last epoch | train score, first → last epoch |\n|---|---|---|")
    for name, _ in jobs:
        train = [line for line in metrics(arguments.out / name) if line["split"] == "train"]
        loss = " → ".join(f"{line['loss']:.2f}" for line in (train[0], train[-1]))
        score = " → ".join(f"{100 * line['score']:.1f}" for line in (train[0], train[-1]))
        print(f"| {name} | {loss} | {score} |")


def train_one(job: tuple[Path, Path, list[str]]) -> None:
    """One ordinary run folder."""
    import torch

    torch.set_num_threads(1)
    from rales.data import read_cycles

    data, out, words = job
    recipe = make_recipe("m2d_fusion", words, size="tiny")
    recipe.run(recipe, read_cycles(data), out, command=f"benchmarks/real_subset.py {data}")


def logistic_regression(data: Path, folds: int) -> dict[str, tuple[float, ...]]:
    """Class-weighted logistic regression on 3 x 80 numbers a cycle, fitted and scored as the runs are."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from rales.data import dataset, read_cycles, splits
    from rales.labels import CLASSES

    recipe = make_recipe("m2d_fusion", size="tiny")
    cycles = read_cycles(data)
    waves, frontend = dataset.load_dataset(cycles, recipe).inputs, recipe.build_frontend(recipe.settings)
    features = []
    with torch.inference_mode():
        for start in range(0, len(waves), 64):
            logmel = frontend(torch.from_numpy(waves[start : start + 64].copy()))[:, 0]
            features.append(torch.cat([logmel.mean(-1), logmel.std(-1), logmel.amax(-1)], dim=1).numpy())
    x, y = np.concatenate(features), np.array([CLASSES.index(label) for label in cycles["label"]])

    def fitted(table: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        train, test = (np.flatnonzero(table["split"] == part) for part in ("train", "test"))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
        return y[test], model.fit(x[train], y[train]).predict(x[test])

    assignment = splits.assign_folds(cycles, folds)
    parts = [fitted(splits.select_fold(cycles, assignment, i)) for i in range(folds)]
    return {
        "official": figures(*fitted(splits.split_officially(cycles))),
        "folds": figures(np.concatenate([t for t, _ in parts]), np.concatenate([p for _, p in parts])),
    }


def figures(true: Any, predicted: Any) -> tuple[float, ...]:
    from rales.evaluation.metrics import confusion_matrix, icbhi_scores

    found = icbhi_scores(confusion_matrix(true, predicted))
    return tuple(found[name] for name in FIGURES)


def scores(run: Path) -> tuple[float, ...]:
    from rales.training import run_folder

    evaluation = run_folder.read_json(run / "evaluation.json")
    return tuple(evaluation[name] for name in FIGURES)


def pooled(folders: list[Path]) -> tuple[float, ...]:
    from rales.labels import CLASSES

    table = pd.concat([pd.read_csv(folder / "predictions.csv") for folder in folders])
    return figures(*([CLASSES.index(word) for word in table[column]] for column in ("true_label", "label")))


def metrics(run: Path) -> list[dict[str, Any]]:
    from rales.training import run_folder

    return run_folder.read_metrics(run)


def row(name: str, protocol: str, values: list[tuple[float, ...]]) -> None:
    cells = []
    for column in np.array(values).T * 100:
        spread = f" ± {column.std(ddof=1):.1f}" if len(column) > 1 else ""
        cells.append(f"{column.mean():.1f}{spread}")
    print(f"| {name} | {protocol} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
