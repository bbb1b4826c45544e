"""What pre-training is worth on few recordings: encoders compared by linear probes of their last and of all layers.

    python benchmarks/encoders.py ICBHI SPRSOUND NOISE --out runs/encoders [--seeds 5] [--epochs 4] [--long RUN]

Compact encoders (16 kHz, 128 wide, four layers), five seeds each: as they start, pre-trained on made-up
breaths, on SPRSound's train recordings, on those with background noise mixed in; the same number of steps each. None of
them has heard a recording of ICBHI. `--long` adds one finished pre-training run. `--probe sprsound` probes on the
events of SPRSound instead, whose test patients nobody has heard either. Each is probed on the official split and under
patient-disjoint five-fold cross-validation over all recordings (the seed of the folds is that of the encoder): Score
and AUROC of "abnormal", intervals with patients resampled, the seeds of one patient staying together. Then a learning
curve: the same probe of the last encoder in the list on fewer patients. Finished runs are kept.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from rales.data import read_cycles, splits
from rales.data.corpus import Corpus, read_corpus
from rales.data.dataset import load_dataset
from rales.evaluation import bootstrap
from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.jobs import linear_probe
from rales.jobs.layer_search import features
from rales.jobs.linear_probe import Pooled
from rales.labels import CLASSES
from rales.models import ViT
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from rales.synthesis.database import write_folder

FOLDS, DRAWS = 5, 5
ENCODER = (
    "encoder.dim=128",
    "encoder.depth=4",
    "encoder.heads=4",
    "encoder.patch=80,4",
    "encoder.unit_frames=200",
    "encoder.decoder_dim=128",
    "encoder.decoder_depth=2",
    "encoder.decoder_heads=4",
    "crops.min_items=3000",
    "crops.threads=1",
    "pretrain.device=cpu",
)
Whole = NDArray[np.int64]
Numbers = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("icbhi", "sprsound", "noise"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--long", type=Path)
    parser.add_argument("--probe", choices=("icbhi", "sprsound"), default="icbhi", help="whose cycles are classified")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    runs = pretrained(options)
    if options.probe == "icbhi":
        cycles = splits.split_officially(read_cycles(options.icbhi)).reset_index(drop=True)
    else:  # in the split of its authors
        cycles = read_cycles(options.sprsound, skip_damaged=True).reset_index(drop=True)
    found = {}
    for name, seeds in runs.items():
        found[name] = [layers_of(run, cycles, seed if name == "random start" else None) for seed, run in seeds]
        print(f"{name}: {len(found[name])} encoders", flush=True)
    label = np.array([CLASSES.index(word) for word in cycles["label"]], np.int64)
    table(cycles, label, found)
    name, last = list(found.items())[-1]
    learning_curve(cycles, label, name, last[0])


def pretrained(options: argparse.Namespace) -> dict[str, list[tuple[int, Path]]]:
    """-> name -> (seed, pre-training run); the random start has the statistics of the first run beside it."""
    made_up = options.out / "synth"
    if not made_up.exists():
        write_folder(made_up, recordings=700, seed=1)
    real, noise = read_corpus((options.sprsound,)), read_corpus((options.noise,))
    plans: dict[str, tuple[str, Corpus, Corpus | None]] = {
        "made-up breaths": ("synth", read_corpus((made_up,), part="all"), None),
        "SPRSound": ("real", real, None),
        "SPRSound, noise 0.3": ("noise", real, noise),
    }
    runs: dict[str, list[tuple[int, Path]]] = {}
    for name, (word, sounds, mixed) in plans.items():
        for seed in range(options.seeds):
            numbers = (
                f"pretrain.epochs={options.epochs}",
                f"seed={seed}",
                f"crops.noise_ratio={0.3 if mixed else 0.0}",
            )
            config = m2d_pretrain.settings("tiny", words=[*ENCODER, *numbers])
            out = options.out / f"{word}_{seed}"
            m2d_pretrain.run(config, sounds, out, noise=mixed, command="benchmarks/encoders.py", progress=True)
            runs.setdefault(name, []).append((seed, out))
    runs = {"random start": runs["SPRSound"], **runs}
    return runs | ({"long run": [(seed, options.long) for seed in range(options.seeds)]} if options.long else {})


def layers_of(run: Path, cycles: pd.DataFrame, random_seed: int | None) -> Pooled:
    """Pre-training run and cycles -> (N, L, D) pooled layers of its encoder, or of a random one of that seed."""
    words = ["audio.duration_s=4.0", "audio.rate_hz=16000", "audio.fade_samples=1000", "train.device=cpu"]
    recipe = make_recipe("m2d_fusion", words, variant="all_fixed", frontend="m2d_clip", weights=str(run))
    encoder = recipe.build_model(recipe.settings).get_submodule("encoder").eval()
    assert isinstance(encoder, ViT)
    if random_seed is not None:
        torch.manual_seed(random_seed)
        for module in encoder.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                torch.nn.init.trunc_normal_(module.weight, std=0.02)
                torch.nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()
    waves = load_dataset(cycles, recipe).inputs
    found = features(encoder, recipe.build_frontend(recipe.settings), waves, precision="float32")
    return linear_probe.weighted(found, np.ones(encoder.depth))


def held_out(x: Pooled, label: Whole, fold_of: Whole, numbers: list[int], layers: tuple[int, ...]) -> Numbers:
    """Layers, classes, folds and those that test -> (N, 4) probabilities of their rows by probes of the other folds."""
    found = np.full((len(x), 4), np.nan)
    for number in numbers:
        fold = linear_probe.prepare(x, label, fold_of != number, linear_probe.C)
        found[fold_of == number] = next(linear_probe.probabilities(fold, [layers]))
    return found


def table(cycles: pd.DataFrame, label: Whole, found: dict[str, list[Pooled]]) -> None:
    print("\n| encoder | probe of | split | Score | over the random start | AUROC of abnormal |")
    print("|---|---|---|---|---|---|")
    print("| every cycle called normal | - | any | 50.0 | - | 0.500 |")
    depth = next(iter(found.values()))[0].shape[1]
    patients = cycles["patient"].to_numpy()
    for split in ("official", f"{FOLDS} folds"):
        for which, layers in (("the last layer", (depth - 1,)), ("all layers", tuple(range(depth)))):
            start: list[Whole] = []
            for name, encoders in found.items():
                p, rows = [], []
                for seed, x in enumerate(encoders):
                    sides = (
                        cycles["split"] == "test" if split == "official" else splits.assign_folds(cycles, FOLDS, seed)
                    )
                    folds: Whole = np.asarray(sides, np.int64)
                    numbers = [1] if split == "official" else list(range(FOLDS))
                    p.append(held_out(x, label, folds, numbers, layers))
                    rows.append(~np.isnan(p[-1][:, 0]))
                said = [one[there].argmax(axis=1) for one, there in zip(p, rows, strict=True)]
                start = start or said
                print(line(name, which, split, label, patients, rows, p, said, start), flush=True)


def line(
    name: str,
    which: str,
    split: str,
    label: Whole,
    patients: NDArray[np.object_],
    rows: list[NDArray[np.bool_]],
    p: list[Numbers],
    said: list[Whole],
    start: list[Whole],
) -> str:
    """One encoder's probes, a seed each -> its line of the table."""
    true = np.concatenate([label[there] for there in rows])
    who = np.concatenate([patients[there] for there in rows])
    scores = [
        100 * icbhi_scores(confusion_matrix(label[there], one))["score"] for there, one in zip(rows, said, strict=True)
    ]
    low, high = (100 * end for end in bootstrap.bootstrap_intervals(true, np.concatenate(said), who)["score"])
    mean, sd = bootstrap.mean_sd(scores)
    auc = np.mean([roc_auc_score(label[r] > 0, 1 - one[r, 0]) for r, one in zip(rows, p, strict=True)])
    more = "-"
    if start is not said:
        gap = bootstrap.paired_difference(true, np.concatenate(said), np.concatenate(start), who)["score"]
        more = f"{100 * gap['difference']:+.1f} [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
    return f"| {name} | {which} | {split} | {mean:.1f} ± {sd:.1f} [{low:.1f}, {high:.1f}] | {more} | {auc:.3f} |"


def learning_curve(cycles: pd.DataFrame, label: Whole, name: str, x: Pooled) -> None:
    """Probes of all layers on some of the other folds' patients -> printed Score and AUROC against their number."""
    print(f"\n{name}, all layers, {FOLDS} folds, {DRAWS} draws of the patients that train\n")
    print("| patients that train | Score | AUROC of abnormal |\n|---|---|---|")
    patients = cycles["patient"].to_numpy()
    layers = tuple(range(x.shape[1]))
    for share in (0.15, 0.3, 0.5, 0.75, 1.0):
        scores, areas, number = [], [], 0
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            fold_of = splits.assign_folds(cycles, FOLDS, draw).to_numpy(np.int64)
            p = np.empty((len(x), 4))
            for fold in range(FOLDS):
                names = np.unique(patients[fold_of != fold])
                number = max(3, round(share * len(names)))
                used = np.isin(patients, rng.permutation(names)[:number]) | (fold_of == fold)
                part = held_out(x[used], label[used], fold_of[used], [fold], layers)
                p[fold_of == fold] = part[fold_of[used] == fold]
            scores.append(100 * icbhi_scores(confusion_matrix(label, p.argmax(axis=1)))["score"])
            areas.append(roc_auc_score(label > 0, 1 - p[:, 0]))
        print(f"| {number} | {np.mean(scores):.1f} ± {np.std(scores):.1f} | {np.mean(areas):.3f} |", flush=True)


if __name__ == "__main__":
    main()
