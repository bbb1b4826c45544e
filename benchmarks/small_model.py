"""How the model of the package does on patients it has not heard, with and without its pre-training.

    python benchmarks/small_model.py ICBHI SPRSOUND --encoder runs/rales-small/encoder --out runs/small [--seeds 5]

Fine-tuning exactly as `rales default-model` does it, from the given pre-trained encoder and from a random start of the
same sizes, all layers fused and the last alone: five seeds on the official split, and patient-disjoint five-fold
cross-validation over all ICBHI recordings (pooled; SPRSound's train side always trains, validation patients come from
the folds that train). Finished runs are kept, so a second call only fills gaps. Intervals resample patients.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from rales import default_model, statistics
from rales.data import read_cycles, splits
from rales.metrics import CLASSES, confusion, icbhi_scores

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path)
    parser.add_argument("sprsound", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="words of a line's name; other lines are left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    icbhi = read_cycles(options.icbhi)
    sprsound = read_cycles(options.sprsound, skip_damaged=True)
    print("| start | fused | split | Sp | Se | Score | AUROC of abnormal |\n|---|---|---|---|---|---|---|")
    print("| every cycle called normal | - | any | 100.0 | 0.0 | 50.0 | 0.500 |")
    for split in ("folds", "official"):
        for start in ("pre-trained", "random"):
            for fused in ("all", "last"):
                name = f"{split}_{start}_{fused}"
                if options.only and not all(word in name for word in options.only.split()):
                    continue
                tables = []
                for number in range(FOLDS if split == "folds" else options.seeds):
                    words = [f"train.epochs={options.epochs}"]
                    words += [f"model.layers={'1,2,3,4' if fused == 'all' else '4'}"]
                    words += [f"seed={0 if split == 'folds' else number}"]
                    recipe = default_model.classifier("" if start == "random" else str(options.encoder), words)
                    first = splits.official(icbhi)
                    if split == "folds":
                        first = splits.fold(icbhi, splits.folds(icbhi, FOLDS), number)
                    out = options.out / f"{name}_{number}"
                    recipe.run(recipe, default_model.joined(first, sprsound), out, progress=True)
                    tables.append(pd.read_csv(out / "predictions.csv"))
                print(line(start, fused, split, tables), flush=True)


def line(start: str, fused: str, split: str, tables: list[pd.DataFrame]) -> str:
    """Predictions of the folds of one cross-validation, or of the seeds on one split -> a line of the table."""
    groups = [pd.concat(tables)] if split == "folds" else tables
    scores = np.array([[100 * v for v in figures(table).values()] for table in groups])
    both = pd.concat(tables)
    true, said = numbers(both)
    low, high = (100 * end for end in statistics.bootstrap(true, said, both["patient"].to_numpy())["score"])
    area = np.mean([roc_auc_score(numbers(table)[0] > 0, 1 - table["p_normal"]) for table in groups])
    sp, se, score = (
        f"{column.mean():.1f}" + (f" ± {column.std(ddof=1):.1f}" if len(groups) > 1 else "") for column in scores.T
    )
    return f"| {start} | {fused} | {split} | {sp} | {se} | {score} [{low:.1f}, {high:.1f}] | {area:.3f} |"


def numbers(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    true, said = (table[name].map({word: i for i, word in enumerate(CLASSES)}) for name in ("true_label", "label"))
    return true.to_numpy(np.int64), said.to_numpy(np.int64)


def figures(table: pd.DataFrame) -> dict[str, float]:
    return icbhi_scores(confusion(*numbers(table)))


if __name__ == "__main__":
    main()
