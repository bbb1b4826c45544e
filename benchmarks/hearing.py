"""What the models of the package hear in patients they have not heard, and what of their making it is owed to.

    python benchmarks/hearing.py ICBHI SPRSOUND --models runs/models --teacher mn04_as --out runs/hearing
        [--side all] [--seeds 5] [--only rales "rales, last layer"] [--cross SPRSOUND_2023] [--figure weights.png]

Patient-disjoint five-fold cross-validation over ICBHI's train side, or with `--side all` over all recordings at hand;
SPRSound's train side and overlaid breaths train too, as `scripts/make_models.py` has it, whose finished folder
`--models` is. The student has heard the train side, its labels apart. Each line leaves out one thing. Finished runs are
kept, so a second call only fills gaps. Intervals resample patients; seeds are pooled. "flagged" and "found" count
recordings at the threshold that `rales.evaluation.recordings` learns from other patients of the same table: without an
abnormal cycle and called abnormal, with one and called so.

`--figure` draws the learned weights of eq. 1 (the paper's Figure 3) of the lines that learn them.

With `--cross` instead of all that: trained on one database alone, tested on the other; SPRSound's test patients are
those of its 2022 inter-patient side and of 2023. The student of `rales` has heard the sound of both train sides.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rales.data import read_cycles
from rales.data.waveform_cache import read_cycle_waveform
from rales.evaluation import bootstrap, detection, metrics, recordings
from rales.labels import CLASSES
from rales.models.mobilenet import MobileNet
from rales.recipes.registry import make_recipe
from rales.settings import format_value
from rales.training.recipe import Recipe

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import make_models

Rows = Callable[[pd.DataFrame, pd.DataFrame, pd.DataFrame], pd.DataFrame]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path)
    parser.add_argument("sprsound", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="folder of a finished scripts/make_models.py")
    parser.add_argument("--teacher", default="mn04_as")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", choices=("train", "all"), default="train")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of lines; the others are left out")
    parser.add_argument("--devices", action="store_true", help="print AUROC within each device, too")
    parser.add_argument("--cross", type=Path, help="folder of SPRSound's 2023 test side")
    parser.add_argument("--figure", type=Path, help="picture of the learned layer weights")
    options = parser.parse_args()
    torch.set_num_threads(1)

    icbhi, sprsound = (read_cycles(folder, skip_damaged=True) for folder in (options.icbhi, options.sprsound))
    cycles = make_models.join_databases(icbhi, sprsound)
    overlaid = make_models.overlay_events(cycles, options.models / "overlay")
    print("| system | Sp | Se | Score | AUROC of abnormal | crackle | wheeze | flagged | found |")
    print("|---|---|---|---|---|---|---|---|---|")
    if options.cross:
        cross_databases(options, cycles, overlaid, pd.concat([sprsound, read_cycles(options.cross, skip_damaged=True)]))
        return
    print("| every cycle called normal | 100.0 | 0.0 | 50.0 | 0.500 | 0.500 | 0.500 | 0 | 0 |")
    runs: dict[str, list[Path]] = {}
    for name, (make, choose_rows) in list_lines(options).items():
        if options.only and name not in options.only:
            continue
        found = []
        for seed in range(options.seeds):
            recipe, folds = make(seed), divide(cycles, options.side)
            if recipe is None:
                found.append(predict_by_statistics(folds))
                break
            tables = (choose_rows(divided, cycles, overlaid) for divided in folds)
            out = options.out / options.side / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            predicted = make_models.predict_held_out(recipe, tables, out, progress=True)
            found.append(predicted if "p_both" in predicted else join_two_outputs(predicted))
            runs.setdefault(name, []).append(out)
        print(f"| {name} | {' | '.join(describe(found))} |", flush=True)
        if options.devices:
            print_devices(pd.concat(found))
    if options.figure:
        draw_layer_weights(runs, options.figure)


def list_lines(options: argparse.Namespace) -> dict[str, tuple[Callable[[int], Recipe | None], Rows]]:
    """-> name of a line -> function of the seed that makes its recipe (None: statistics), and its training rows."""
    student, teacher = options.models / "student", options.teacher

    def taught(**words: Any) -> Callable[[int], Recipe]:
        return lambda seed: make_models.classifier_recipe(student, {"seed": seed, **words})

    def heads(**words: Any) -> Callable[[int], Recipe]:
        return lambda seed: make_models.heads_recipe(teacher, {"seed": seed, **words})

    def untaught(**words: Any) -> Callable[[int], Recipe]:
        sizes = {name: value for name, value in make_models.STUDENT.items() if name.startswith("model.")}
        given = {name: format_value(value) for name, value in {**sizes, **make_models.CLASSIFIER, **words}.items()}
        return lambda seed: make_recipe("m2d_fusion", {**given, "seed": str(seed)}, variant="all_learned", size="tiny")

    def random_heads(seed: int) -> Recipe:
        file = options.out / f"random_mn04_{seed}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(seed)
            save_file(MobileNet(0.4).state_dict(), file)
        return make_models.heads_recipe(str(file), {"seed": seed})

    every: Rows = make_models.training_rows

    def real(*parts: pd.DataFrame) -> pd.DataFrame:
        return leave_out(every(*parts), lambda rows: rows["recording"].str.contains("_overlay"))

    def alone(*parts: pd.DataFrame) -> pd.DataFrame:
        return leave_out(every(*parts), make_models.of_sprsound)

    def two_outputs(*parts: pd.DataFrame) -> pd.DataFrame:
        return every(*parts).replace({"label": {"both": "crackle+wheeze"}})

    apart = {"classes": ("crackle", "wheeze"), "independent": True}

    return {
        "log-mel statistics + logistic regression": (lambda seed: None, every),
        "rales-mn04": (heads(), every),
        "rales-mn04, last block": (heads(**{"model.layers": (16, 32)}), every),
        "rales-mn04, two blocks": (heads(**{"model.layers": (8, 16, 24, 32)}), every),
        "rales-mn04, weights fixed": (heads(**{"model.learned": False}), every),
        "rales-mn04, one speed": (heads(views="plain"), every),
        "rales-mn04, two outputs": (heads(**apart), two_outputs),
        "rales-mn04, without overlays": (heads(), real),
        "rales-mn04, without SPRSound": (heads(), alone),
        "mn04 from random start, frozen": (random_heads, every),
        "rales": (taught(), every),
        "rales, last layer": (taught(**{"model.layers": (4,)}), every),
        "rales, two layers": (taught(**{"model.layers": (2, 4)}), every),
        "rales, weights fixed": (taught(**{"model.learned": False}), every),
        "rales, without overlays": (taught(), real),
        "rales, without SPRSound": (taught(), alone),
        "rales, random start": (untaught(), every),
        "rales, random start, last layer": (untaught(**{"model.layers": (4,)}), every),
        "rales, random start, two layers": (untaught(**{"model.layers": (2, 4)}), every),
        "rales, random start, weights fixed": (untaught(**{"model.learned": False}), every),
        **{
            f"rales-mn04, {share:.0%} of the patients": (heads(), thin_out(share)) for share in (0.125, 0.25, 0.5, 0.75)
        },
    }


def divide(cycles: pd.DataFrame, side: str) -> Iterator[pd.DataFrame]:
    """Joined cycles -> ICBHI's, one or both sides, divided by patient: once for each fold, which tests."""
    if side == "train":
        return make_models.train_side_folds(cycles)
    return make_models.train_side_folds(cycles.assign(split="train"))


def leave_out(rows: pd.DataFrame, choose: Callable[[pd.DataFrame], "pd.Series[bool]"]) -> pd.DataFrame:
    """Rows, and which of them have no part -> the same without a side, so that all lines share one cache."""
    return rows.assign(split=rows["split"].mask(choose(rows), ""))


def thin_out(share: float) -> Rows:
    """Share of ICBHI's train patients -> training rows with that many of them, overlays too."""

    def choose(divided: pd.DataFrame, cycles: pd.DataFrame, overlaid: pd.DataFrame) -> pd.DataFrame:
        names = np.sort(divided.loc[divided["split"] == "train", "patient"].unique())
        kept = set(np.random.default_rng(0).permutation(names)[: max(2, round(share * len(names)))])
        rows = make_models.training_rows(divided, cycles, overlaid)
        of_icbhi = (rows["split"] == "train") & ~make_models.of_sprsound(rows)
        return leave_out(rows, lambda rows: of_icbhi & ~rows["patient"].isin(kept))

    return choose


def cross_databases(
    options: argparse.Namespace, cycles: pd.DataFrame, overlaid: pd.DataFrame, sprsound: pd.DataFrame
) -> None:
    """Options, joined cycles, overlaid ones and all of SPRSound -> a line for each system and way."""
    spr, train = make_models.of_sprsound(cycles), cycles["split"] == "train"
    strangers = sprsound[
        (sprsound["split"] == "test") & ~sprsound["patient"].isin(sprsound.query("split == 'train'")["patient"])
    ]
    strangers = strangers.assign(patient="sprsound_" + strangers["patient"].astype(str))[list(cycles.columns)]
    of_spr = make_models.of_sprsound(overlaid)
    ways = {
        "SPRSound to ICBHI": [cycles[spr], overlaid[of_spr], cycles[~spr].assign(split="test")],
        "ICBHI to SPRSound": [cycles[~spr & train], overlaid[~of_spr], strangers],
    }
    lines = list_lines(options)
    for name in ("rales-mn04", "rales"):
        for way, parts in ways.items():
            recipe = lines[name][0](0)
            assert recipe is not None
            out = options.out / "cross" / f"{name}-{way.replace(' ', '_')}"
            found = make_models.predict_held_out(recipe, [pd.concat(parts, ignore_index=True)], out, progress=True)
            print(f"| {name}, {way} | {' | '.join(describe([found]))} |", flush=True)


def join_two_outputs(predicted: pd.DataFrame) -> pd.DataFrame:
    """Predictions of crackles and of wheezes, each by an output of its own -> those of the four classes, as if the two
    were independent; the most probable class is then what the outputs say at one half each."""
    crackle, wheeze = predicted["p_crackle"], predicted["p_wheeze"]
    p = pd.DataFrame(
        {
            "normal": (1 - crackle) * (1 - wheeze),
            "crackle": crackle * (1 - wheeze),
            "wheeze": (1 - crackle) * wheeze,
            "both": crackle * wheeze,
        }
    )
    true = predicted["true_label"].replace("crackle+wheeze", "both")
    return predicted.assign(**p.add_prefix("p_"), true_label=true, label=p.idxmax(axis=1))


def predict_by_statistics(folds: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """Divided cycles of each fold -> predictions by logistic regression on mean, deviation and maximum of each band of
    the log-mel, classes balanced; only ICBHI's own train cycles train it."""
    tiny = make_recipe("m2d_fusion", size="tiny")
    frontend = tiny.build_frontend(tiny.settings).eval()
    cached: dict[tuple[str, float, float], np.ndarray] = {}
    found = []
    for divided in folds:
        table = divided[divided["split"] != ""]
        rows = list(zip(table["path"], table["start_s"], table["end_s"], strict=True))
        for row in rows:
            if row not in cached:
                wave = read_cycle_waveform(*row, rate_hz=8000, samples=32000, fade_samples=0)
                picture = frontend(torch.from_numpy(wave)[None])[0, 0]
                parts = [picture.mean(1), picture.std(1), picture.amax(1)]
                cached[row] = torch.cat(parts).numpy()
        vectors = np.stack([cached[row] for row in rows])
        train = (table["split"] == "train").to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced", max_iter=1000)).fit(
            vectors[train], table.loc[train, "label"]
        )
        tested = table[~train]
        p = pd.DataFrame(model.predict_proba(vectors[~train]), columns=[f"p_{c}" for c in model.classes_])
        said = tested.rename(columns={"label": "true_label"}).reset_index(drop=True)
        found.append(pd.concat([said, p], axis=1).assign(label=model.predict(vectors[~train])))
    return pd.concat(found, ignore_index=True)


def describe(tables: list[pd.DataFrame]) -> list[str]:
    """Predictions of the seeds -> the figures of a line."""
    both = pd.concat(tables, ignore_index=True)
    true, said = (both[name].map(list(CLASSES).index).to_numpy(np.int64) for name in ("true_label", "label"))
    scores = np.array([list(score(table)) for table in tables])
    low, high = (100 * end for end in bootstrap.bootstrap_intervals(true, said, both["patient"].to_numpy())["score"])
    cells = [f"{value:.1f}" for value in scores.mean(axis=0)]
    cells[2] += f" [{low:.1f}, {high:.1f}]"
    cells += areas(tables)
    learned = [recordings.fit_pooling(table)["abnormal"] for table in tables]
    for part, whole in (("false_alarms", "negatives"), ("found", "positives")):
        cells.append(f"{np.mean([each[part] for each in learned]):.0f} of {learned[0][whole]}")
    return cells


def score(table: pd.DataFrame) -> Iterator[float]:
    """Predictions -> specificity, sensitivity, Score in percent."""
    true, said = (table[name].map(list(CLASSES).index).to_numpy(np.int64) for name in ("true_label", "label"))
    return (100 * value for value in metrics.icbhi_scores(metrics.confusion_matrix(true, said)).values())


def areas(tables: list[pd.DataFrame]) -> Iterator[str]:
    """Predictions of the seeds -> mean AUROC of each finding, and its interval (of the first seed) behind it."""
    for finding, classes in recordings.FINDINGS.items():
        measured = []
        for table in tables:
            present = table["true_label"].isin(classes).to_numpy()
            p = recordings.find_cycle_probabilities(table, finding)
            measured.append(detection.measure_detection(present, p, table["patient"].to_numpy()))
        mean = float(np.mean([each["auroc"] for each in measured]))
        low, high = measured[0]["ci95"]
        yield f"{mean:.3f}" if low is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def print_devices(table: pd.DataFrame) -> None:
    for device, rows in table.groupby("device"):
        if rows["true_label"].nunique() < len(CLASSES):
            continue
        told = " | ".join(areas([rows]))
        print(
            f"|   {device}, {rows['patient'].nunique()} patients, {len(rows)} cycles | | | | {told} | | | | |",
            flush=True,
        )


def draw_layer_weights(runs: dict[str, list[Path]], file: Path) -> None:
    """Finished lines -> Figure 3 of the paper: weight of each layer against equal ones, mean and deviation of all folds
    and seeds; lines whose weights are fixed are left out. With two speeds mn04's layers come twice, slow ones first."""
    weights = {
        name: np.array([json.loads(path.read_text())["normalised"] for path in paths])
        for name, folders in runs.items()
        if (paths := [path for folder in folders for path in sorted(folder.glob("*/layer_weights.json"))])
    }
    figure, panels = plt.subplots(1, len(weights), figsize=(4 * len(weights), 3), squeeze=False, layout="constrained")
    for axes, (name, found) in zip(panels[0], weights.items(), strict=True):
        relative = found * found.shape[1]
        places = np.arange(1, found.shape[1] + 1)
        axes.bar(places, relative.mean(axis=0), yerr=relative.std(axis=0), color="#0072b2", ecolor="0.3", capsize=2)
        axes.axhline(1, color="black", ls="--", lw=1)
        axes.set(xlabel="Layer", ylabel="Weight / equal weight", title=f"{name}, {len(found)} runs")
        axes.set_xticks(places[:: max(1, len(places) // 8)])
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
