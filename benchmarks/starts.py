"""From where to start on a few hundred cycles: at random, or from the model that ships with the package.

    rales synth breaths --recordings 120 --patients 60 --seed 81
    python benchmarks/starts.py breaths --out runs/starts

Three patient-disjoint folds over the train side alone; the test side is dropped before anything is read of it.
"""

import argparse
from pathlib import Path

import numpy as np

from rales.data import read_cycles, splits
from rales.evaluation.metrics import icbhi_scores
from rales.recipes.registry import make_recipe

FOLDS = 3
STARTS = {  # options of the recipe, and fields
    "random, `tiny`, 16 epochs": ({"size": "tiny"}, ["train.epochs=16"]),
    "random, `tiny`, 16 epochs, classes weighted": (
        {"size": "tiny"},
        ["train.epochs=16", "train.class_weights=inverse"],
    ),
    "`rales`, 8 epochs": ({"weights": "rales"}, ["train.epochs=8"]),
    "`rales`, 8 epochs, classes weighted": (
        {"weights": "rales"},
        ["train.epochs=8", "train.class_weights=inverse"],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cycles = read_cycles(arguments.data)
    train = cycles[cycles["split"] == "train"].reset_index(drop=True)
    fold_of = splits.assign_folds(train, FOLDS)
    print("| start | specificity | sensitivity | Score |\n|---|---|---|---|")
    for number, (name, (options, words)) in enumerate(STARTS.items()):
        recipe = make_recipe("m2d_fusion", words, **options)
        counts = np.zeros((4, 4), np.int64)
        for fold in range(FOLDS):
            out = arguments.out / f"start{number}-fold{fold}"
            counts += np.array(recipe.run(recipe, splits.select_fold(train, fold_of, fold), out)["confusion"])
        found = icbhi_scores(counts)
        figures = " | ".join(f"{100 * found[figure]:.1f}" for figure in ("specificity", "sensitivity", "score"))
        print(f"| {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
