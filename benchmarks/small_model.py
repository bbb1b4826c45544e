"""How the model of the package does on patients it has not heard, what helps it, and what limits it.

    python benchmarks/small_model.py ICBHI SPRSOUND --out runs/small [--seeds 5] [--only "folds all"]

Trained as `scripts/make_default_model.py` does it: patient-disjoint five-fold cross-validation over all ICBHI
recordings (pooled; SPRSound's train side always trains, validation patients come from the folds that train), and five
seeds on the official split, which differ in start and order, not in the sounds. With crackles and wheezes laid over
normal breaths, or with the real abnormal cycles instead; all layers fused, or the last alone. Then the learning curve:
the same folds with a part of the ICBHI patients that train. Last, folds of cycles instead of patients, so that every
patient is known: what the network learns where patients are no limit. Finished runs are kept, so a second call only
fills gaps. Intervals resample patients.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from rales.data import read_cycles, splits
from rales.evaluation import bootstrap
from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.labels import CLASSES

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import make_default_model

FOLDS = 5
SHARES = (0.25, 0.5)
FUSED = {"all": "model.layers=1,2,3", "last": "model.layers=3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path)
    parser.add_argument("sprsound", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=make_default_model.EPOCHS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="words of a line's name; other lines are left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    icbhi = read_cycles(options.icbhi)
    sprsound = read_cycles(options.sprsound, skip_damaged=True)
    lines = [
        ("folds", "overlaid", "all", 1.0),
        ("folds", "real", "all", 1.0),
        ("folds", "overlaid", "last", 1.0),
        ("official", "overlaid", "all", 1.0),
        *(("folds", "overlaid", "all", share) for share in SHARES),
        ("cycles", "real", "all", 1.0),
    ]
    print("| trained on | fused | split | ICBHI patients | Sp | Se | Score | AUROC of abnormal, crackle, wheeze |")
    print("|---|---|---|---|---|---|---|---|")
    print("| every cycle called normal | - | any | - | 100.0 | 0.0 | 50.0 | 0.500 |")
    for split, cycles, fused, share in lines:
        name = f"{split}_{cycles}_{fused}" + (f"_{share:g}" if share < 1 else "")
        if options.only and not all(word in name for word in options.only.split()):
            continue
        tables, patients = [], []
        for number in range(options.seeds if split == "official" else FOLDS):
            words = [f"train.epochs={options.epochs}", f"train.evaluate_every={options.epochs}", FUSED[fused]]
            words += [f"seed={number if split == 'official' else 0}"]
            recipe = make_default_model.classifier_recipe("", words)
            table = make_default_model.join_databases(divided(icbhi, split, number, share), sprsound)
            if cycles == "overlaid":
                table = make_default_model.overlay_events(table, options.out / "overlay", progress=True)
            learned = table[(table["split"] == "train") & table["patient"].str.isdigit()]
            patients.append(learned["patient"].nunique())
            out = options.out / f"{name}_{number}"
            recipe.run(recipe, table, out, progress=True)
            tables.append(pd.read_csv(out / "predictions.csv"))
        told = f"{cycles} | {fused} | {split} | {np.mean(patients):.0f}"
        print(f"| {told} | {figures(split, tables)} |", flush=True)


def divided(icbhi: pd.DataFrame, split: str, number: int, share: float) -> pd.DataFrame:
    """Cycles -> those of seed or fold `number`, divided; of the patients that train, validation among them, a share."""
    if split == "official":
        return splits.split_officially(icbhi)
    if split == "cycles":
        part = (np.random.default_rng(0).permutation(len(icbhi)) - number) % FOLDS
        return icbhi.assign(split=np.select([part == 0, part == 1], ["test", "validation"], "train"))
    table = splits.select_fold(icbhi, splits.assign_folds(icbhi, FOLDS), number)
    train = table["split"] == "train"
    names = np.random.default_rng(number).permutation(np.unique(table.loc[train, "patient"]))
    left_out = table["patient"].isin(names[round(share * len(names)) :])
    return table[~(train & left_out)].reset_index(drop=True)


def figures(split: str, tables: list[pd.DataFrame]) -> str:
    """Predictions of the folds of one cross-validation, or of the seeds on one split -> the figures of a line."""
    groups = tables if split == "official" else [pd.concat(tables)]
    scores = np.array([[100 * v for v in icbhi_scores(confusion_matrix(*numbers(table))).values()] for table in groups])
    both = pd.concat(tables)
    true, said = numbers(both)
    low, high = (100 * end for end in bootstrap.bootstrap_intervals(true, said, both["patient"].to_numpy())["score"])
    areas = np.mean([areas_of(table) for table in groups], axis=0)
    sp, se, score = (
        f"{column.mean():.1f}" + (f" ± {column.std(ddof=1):.1f}" if len(groups) > 1 else "") for column in scores.T
    )
    return f"{sp} | {se} | {score} [{low:.1f}, {high:.1f}] | {', '.join(f'{area:.3f}' for area in areas)}"


def areas_of(table: pd.DataFrame) -> list[float]:
    """Predictions -> AUROC of abnormal, crackle present and wheeze present."""
    true, _ = numbers(table)
    crackle, wheeze = table["p_crackle"] + table["p_both"], table["p_wheeze"] + table["p_both"]
    truths = (true > 0, np.isin(true, (1, 3)), np.isin(true, (2, 3)))
    return [roc_auc_score(*pair) for pair in zip(truths, (1 - table["p_normal"], crackle, wheeze), strict=True)]


def numbers(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    true, said = (table[name].map({word: i for i, word in enumerate(CLASSES)}) for name in ("true_label", "label"))
    return true.to_numpy(np.int64), said.to_numpy(np.int64)


if __name__ == "__main__":
    main()
