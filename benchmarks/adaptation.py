"""What 20 recordings of one's own are worth: a shipped model trained on with them, scored on other children.

    python benchmarks/adaptation.py SPRSOUND_2023 --out runs/adaptation [--model rales] [--draws 3]

SPRSound's 2023 test side is one that no shipped model has heard. Of each draw 20 recordings of 20 children train, the
recordings of all other children test (of 20 of them, too, as a clinic would have it). Head alone, the last blocks, or
all of the network; 20 epochs, the defaults of `rales train --from`. Seed 0 each.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import rales
from rales.data import read_cycles
from rales.data.dataset import load_dataset
from rales.evaluation import bootstrap, detection, metrics, recordings
from rales.inference.predictor import Predictor
from rales.labels import CLASSES

FREEZE = {"head alone": "encoder", "the last two blocks": "2", "all": "none"}
RECORDINGS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="rales")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cycles = read_cycles(options.data, skip_damaged=True)
    shipped = rales.load(options.model)

    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in ("as shipped", *FREEZE)}
    for draw in range(options.draws):
        own, others = draw_recordings(cycles, draw)
        tables["as shipped"].append(predict(shipped, others))
        rows = pd.concat([own.assign(split="train"), others.assign(split="test")], ignore_index=True)
        for name, freeze in FREEZE.items():
            out = options.out / f"{options.model}-{freeze}-{draw}"
            model = shipped.finetune(rows, out, freeze=freeze, epochs=20, evaluate_every=20)
            tables[name].append(predict(model, others))

    print("| trained | Sp | Se | Score | AUROC of abnormal | crackle | wheeze |\n|---|---|---|---|---|---|---|")
    for name, found in tables.items():
        print(f"| {name} | {' | '.join(describe(found))} |", flush=True)


def draw_recordings(cycles: pd.DataFrame, draw: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cycles -> those of 20 recordings of as many children, and those of the other children's recordings."""
    first = cycles.groupby("patient")["recording"].unique()
    rng = np.random.default_rng(draw)
    children = rng.permutation(sorted(first.index))[:RECORDINGS]
    chosen = {rng.choice(sorted(first[child])) for child in children}
    return cycles[cycles["recording"].isin(chosen)], cycles[~cycles["patient"].isin(children)]


def predict(model: Predictor, cycles: pd.DataFrame) -> pd.DataFrame:
    """Model and labelled cycles -> their classes, patients and its probabilities."""
    table = cycles[["recording", "patient", "label"]].reset_index(drop=True).rename(columns={"label": "true_label"})
    probabilities = model.probabilities(load_dataset(cycles.assign(split=""), model.recipe).inputs)
    return table.join(pd.DataFrame(probabilities, columns=[f"p_{name}" for name in CLASSES]))


def describe(tables: list[pd.DataFrame]) -> list[str]:
    """Predictions of the draws -> means of their figures; the interval is that of the first draw."""
    rows = []
    for table in tables:
        true = table["true_label"].map(list(CLASSES).index).to_numpy(np.int64)
        said = table[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)
        row = [100 * value for value in metrics.icbhi_scores(metrics.confusion_matrix(true, said)).values()]
        for finding, classes in recordings.FINDINGS.items():
            present = table["true_label"].isin(classes).to_numpy()
            p = recordings.find_cycle_probabilities(table, finding)
            row.append(detection.measure_detection(present, p, table["patient"].to_numpy())["auroc"])
        rows.append(row)
        if len(rows) == 1:
            patients = table["patient"].to_numpy()
            low, high = (100 * end for end in bootstrap.bootstrap_intervals(true, said, patients)["score"])
    means = np.mean(rows, axis=0)
    cells = [f"{value:.1f}" for value in means[:3]]
    return [*cells[:2], f"{cells[2]} [{low:.1f}, {high:.1f}]", *(f"{value:.3f}" for value in means[3:])]


if __name__ == "__main__":
    main()
