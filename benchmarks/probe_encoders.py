"""Encoders of pre-training runs, frozen, and an untrained one, by linear probes on patients they do not train on.

    python benchmarks/probe_encoders.py ICBHI_final_database RUN [RUN …]

Train side of the folder only, five patient-disjoint folds, pooled. A probe is the regression of the layer search
(`rales.jobs.linear_probe`, classes balanced) on mean + maximum over time of all layers, heard as in pre-training: Score
and AUROC, 95 % intervals by patient. The row "random start" is the first run's network as `init_vit_weights` begins.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rales.data import read_cycles, splits
from rales.data.dataset import load_dataset
from rales.evaluation.bootstrap import bootstrap_intervals
from rales.evaluation.detection import auroc_interval
from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.jobs import linear_probe
from rales.jobs.layer_search import features
from rales.labels import CLASSES
from rales.models import ViT, load_m2d
from rales.models.hub import find_checkpoint
from rales.models.vit import init_vit_weights
from rales.recipes import m2d_fusion

FOLDS = 5
FINDINGS = {"abnormal": (1, 2, 3), "crackle": (1, 3), "wheeze": (2, 3)}  # numbers of the classes with it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

    cycles = read_cycles(options.icbhi, skip_damaged=True)
    cycles = cycles[cycles["split"] == "train"].reset_index(drop=True)
    waves = load_dataset(cycles, m2d_fusion.recipe(m2d_fusion.Settings())).inputs
    untrained = load_m2d(find_checkpoint(options.runs[0]))
    torch.manual_seed(0)
    init_vit_weights(untrained)
    encoders = {"random start": untrained}
    encoders |= {run.name: load_m2d(find_checkpoint(run)) for run in options.runs}

    print(f"{len(cycles)} cycles of {cycles['patient'].nunique()} patients; not a diagnosis\n")
    print(f"| encoder | Score | AUROC of {' | '.join(FINDINGS)} |\n|---|---|{'---|' * len(FINDINGS)}")
    for name, encoder in encoders.items():
        print(describe_probe(name, cycles, probe_encoder(encoder, waves, cycles)), flush=True)


def probe_encoder(encoder: ViT, waves: NDArray[np.float32], cycles: pd.DataFrame) -> NDArray[np.float64]:
    """Encoder, (N, samples) waves, their cycles -> (N, 4) probabilities by probes of the other folds."""
    mean, std = encoder.norm_stats.tolist()
    heard = m2d_fusion.Settings(frontend="m2d", audio=m2d_fusion.Audio(mean=mean, std=std))
    pooled = features(encoder, m2d_fusion.build_frontend(heard), waves, precision="float32")
    layers = linear_probe.weighted(pooled, np.ones(encoder.depth))

    label = np.array([CLASSES.index(word) for word in cycles["label"]], np.int64)
    fold_of = splits.assign_folds(cycles, FOLDS, 0).to_numpy(np.int64)
    found = np.full((len(cycles), len(CLASSES)), np.nan)
    for number in range(FOLDS):
        fold = linear_probe.prepare(layers, label, fold_of != number, linear_probe.C)
        found[fold_of == number] = next(linear_probe.probabilities(fold, [tuple(range(encoder.depth))]))
    return found


def describe_probe(name: str, cycles: pd.DataFrame, p: NDArray[np.float64]) -> str:
    """Encoder's name, cycles and the (N, 4) probabilities of its probes -> the line of the table."""
    label = np.array([CLASSES.index(word) for word in cycles["label"]], np.int64)
    patients, said = cycles["patient"].to_numpy(), p.argmax(axis=1)
    score = icbhi_scores(confusion_matrix(label, said))["score"]
    low, high = bootstrap_intervals(label, said, patients)["score"]
    parts = [f"{100 * score:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
    for classes in FINDINGS.values():
        area, low, high = auroc_interval(np.isin(label, classes), p[:, classes].sum(axis=1), patients)
        parts.append(f"{area:.3f} [{low:.3f}, {high:.3f}]")
    return f"| {' | '.join([name, *parts])} |"


if __name__ == "__main__":
    main()
