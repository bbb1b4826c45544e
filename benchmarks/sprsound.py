"""SPRSound's official tasks 1-1 to 2-2: plain statistics, systems from a random start, and models, one table.

    python benchmarks/sprsound.py SPRSOUND --also SPRSOUND_2023 --out runs/sprsound
        [--tasks sprsound_1_1 …] [--lines …] [--encoder RUN_OF_PRETRAINING] [--epochs 2]

SPRSOUND is a folder of the 2022 release (train, intra- and inter-patient tests), --also one of the children of 2023.
Nothing is chosen on a test side: statistics train on the whole train side, a system on four fifths of its patients,
classes weighted by inverse frequency, and the rest of them choose its epoch by the mean of sensitivity and specificity.
Finished runs are kept; a second call only fills gaps. Percent; SP of normal rows, SE of adventitious ones called by
their own class, AS their mean with its 95 % interval by patient, HS their harmonic mean, score the mean of both.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rales.data import read_cycles
from rales.data.dataset import class_numbers
from rales.evaluation.challenge_scores import FIGURES, KEY, score_challenge
from rales.inference.evaluate import evaluate_data
from rales.inference.load_model import load_model
from rales.inference.train import train_recipe
from rales.jobs.baselines import BASELINES, answer_test_cycles, load_statistics
from rales.labels import RECORDING_TASKS, TASKS, LabelSet

SYSTEMS: dict[str, dict[str, Any]] = {
    "moummad_ce": {"size": "tiny", "audio.rate_hz": 8000, "train.cosine_epochs": 0},
    "m2d_fusion": {"train.lr": 3e-4, "augment.time_shift": True},  # as scripts/make_models.py trains the encoder on
}
CHOICE = {"train.class_weights": "inverse", "train.select": "validation", "train.select_by": "score"}
LINES = ("normal", "statistics", "moummad_ce", "m2d_fusion", "rales", "rales-mn04")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sprsound", type=Path)
    parser.add_argument("--also", type=Path, help="folder of the 2023 test side")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--encoder", help="where m2d_fusion starts: a run of rales pretrain, or a checkpoint")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)

    print("| task | line | side | rows | SE | SP | AS | HS | score |\n|---|---|---|---|---|---|---|---|---|")
    for task in options.tasks:
        for line in options.lines:
            if line in ("normal", "statistics"):
                measure_plain(line, task, options)
            elif line in SYSTEMS:
                measure_system(line, task, options)
            elif task == "sprsound_1_1":  # a model of ICBHI's classes tells normal from abnormal, and no more
                for side, data in list_sides(options):
                    print_rows(task, line, side, evaluate_data(load_model(line), data, progress=True)[KEY])


def list_sides(options: argparse.Namespace) -> list[tuple[str, Path]]:
    """-> name of a year and its folder."""
    return [("2022", options.sprsound), *([("2023", options.also)] if options.also else [])]


def measure_plain(line: str, task: str, options: argparse.Namespace) -> None:
    """Statistics with each of the baselines' classifiers, or the constant answer, on the test sides."""
    label_set = LabelSet(TASKS[task])
    read = [read_cycles(folder, label_set=label_set).assign(year=year) for year, folder in list_sides(options)]
    cycles = pd.concat(read, ignore_index=True)
    tests = cycles.query("split == 'test'")
    true = class_numbers(tests, label_set)
    answers = {"all normal": np.zeros_like(true)}
    if line == "statistics":
        statistics = load_statistics(cycles, progress=True)
        answers = {
            name: np.asarray(answer_test_cycles(name, statistics, cycles, label_set).predicted) for name in BASELINES
        }
    for name, called in answers.items():
        for year in dict.fromkeys(tests["year"]):
            on = (tests["year"] == year).to_numpy()
            print_rows(task, name, year, score_challenge(tests[on], true[on], called[on], label_set))


def measure_system(line: str, task: str, options: argparse.Namespace) -> None:
    """A run of a system on the test sides; a finished one of the same settings is taken as it is, of others refused."""
    out = options.out / f"{line}-{task}-{options.epochs}"
    seconds = 8 if task in RECORDING_TASKS else 4  # events last 1 to 2 s, recordings 9 or more
    settings = {**SYSTEMS[line], **CHOICE, "classes": task, "audio.duration_s": seconds, "train.epochs": options.epochs}
    if line == "m2d_fusion":
        settings |= {"weights": options.encoder} if options.encoder else {"size": "tiny"}
    words = {name.replace(".", "__"): value for name, value in settings.items()}
    train_recipe(line, options.sprsound, out, progress=True, **words)
    for side, data in list_sides(options):
        stored = json.loads((out / "evaluation.json").read_text())
        figures = stored if side == "2022" else evaluate_data(load_model(out), data, progress=True)
        epoch = figures["protocol"]["selected_epoch"]
        print_rows(task, f"{line}, epoch {epoch} of {options.epochs}", side, figures[KEY])


def print_rows(task: str, line: str, year: str, found: dict[str, Any]) -> None:
    """Figures of `score_challenge` -> a row for each side."""
    sides = {name: one for name, one in found["sides"].items() if name != "all" or len(found["sides"]) == 1}
    for side, one in sides.items():
        se, sp, mean, hs = (100 * one[name] for name in FIGURES)
        low, high = (100 * end for end in one["as_ci95"])
        cells = f"{se:.1f} | {sp:.1f} | {mean:.1f} [{low:.1f}, {high:.1f}] | {hs:.1f} | {100 * one['score']:.1f}"
        print(f"| {found['task']} | {line} | {year} {side} | {one['rows']} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
