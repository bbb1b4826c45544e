"""What a learning job computes, in a process of its own: a model calibrated, or trained on, from confirmed cycles.

    python -m rales.web.learn_job FOLDER

reads `task.json` and `manifest.csv` (see `learning.py`) in its folder, tells in `progress.json` how far it is, and
leaves `model.safetensors` and, last, `result.json`. It ends with its input, so that it never outlives the service.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd

from rales.data import read_cycles
from rales.data.dataset import class_numbers, load_dataset
from rales.evaluation import bootstrap
from rales.evaluation.conformal import describe_sets
from rales.evaluation.detection import detect_findings
from rales.evaluation.metrics import count_outcomes, mean_auroc, outcome_scores
from rales.evaluation.predictions import FIGURES
from rales.files.json_files import read_json
from rales.files.writers import write_json
from rales.inference.calibrate import describe_change
from rales.inference.evaluate import score_sides
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.recipes.registry import make_recipe
from rales.typing import IntArray, Probabilities, Row
from rales.web.learning import find_heard
from rales.web.model_answers import COVERAGE
from rales.web.model_registry import MODEL

NAMES = {"specificity": "Specificity", "sensitivity": "Sensitivity", "score": "Score"}
RESAMPLES = 2000  # as of the other intervals of the page


def main() -> None:
    """Do the task of the folder that is named; what is wrong with it is a sentence in its result."""
    threading.Thread(target=end_with_input, daemon=True).start()
    os.nice(10)  # the page goes first
    learn(Path(sys.argv[1]))


def end_with_input() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock would be held as the process ends by itself
        pass
    os._exit(1)


def learn(folder: Path) -> None:
    """Folder with a task -> its result.json: figures (see `schemas_learn.LearnedFigure`) and notes, or a problem."""
    task = read_json(folder / "task.json")
    try:
        result = calibrate(task, folder) if task["kind"] == "calibrate" else train(task, folder)
    except (ValueError, OSError) as error:
        result = {"problem": str(error)}
    write_json(folder / "result.json", result)


def calibrate(task: Row, folder: Path) -> Row:
    """Learn temperature, thresholds and sets from all cycles of the manifest, without training."""
    model = load_model(task["source"])
    new = model.calibrate(folder / "manifest.csv", folder / MODEL, cache_folder=folder / "cache")
    before, after = model.calibration, new.calibration
    pairs = [
        ("Temperature", before.get("temperature"), after["temperature"]),
        ("Calibration error", after["reliability"]["before"], after["reliability"]["after"]),
    ]
    for name, found in after["classes"].items():
        pairs.append(
            (f"Threshold for {name}", before.get("classes", {}).get(name, {}).get("threshold"), found["threshold"])
        )
    sets = new.decision(sets=COVERAGE)
    assert sets.sets is not None
    return {
        "figures": [{"name": name, "old": {"value": old}, "new": {"value": value}} for name, old, value in pairs],
        "cycles": after["cycles"],
        "patients": after["patients"],
        "notes": [*describe_change(before, new)["notes"], describe_sets(sets.sets, sets.origin)],
    }


def train(task: Row, folder: Path) -> Row:
    """Go on from the model with the train rows of the manifest (`rales train --from`), and set old beside new on its
    test rows, whose patients do not train."""
    epochs = task["epochs"]
    start = {"from_model": task["source"], "freeze": task["freeze"]}
    # The held-out patients are looked at once, at the end: nothing can be chosen by them
    recipe = make_recipe(None, {**start, "train.epochs": epochs, "train.evaluate_every": epochs})
    cycles = read_cycles(folder / "manifest.csv", label_set=recipe.settings.label_set)

    def tell(lines: list[dict[str, Any]]) -> None:
        epoch = {"epoch": lines[0]["epoch"], "epoch_s": lines[0]["seconds"]}
        write_json(folder / "progress.json", {"phase": "train", **epoch})

    write_json(folder / "progress.json", {"phase": "prepare"})
    recipe.run(recipe, cycles, folder / "run", cache_folder=folder / "cache", after_epoch=tell)
    (folder / "run" / "best.safetensors").replace(folder / MODEL)

    write_json(folder / "progress.json", {"phase": "measure"})
    held_out = cycles[cycles["split"] == "test"].reset_index(drop=True)
    old, new = (load_model(path) for path in (task["source"], folder / MODEL))
    return {**compare_models(old, new, held_out, folder / "cache"), "seed": recipe.settings.seed}


def compare_models(old: Predictor, new: Predictor, rows: pd.DataFrame, cache_folder: Path) -> Row:
    """Two models of the same classes and labelled cycles of patients on whom the new one was not trained -> Score,
    specificity, sensitivity and AUROC of either, with intervals by patient and the difference of the first three."""
    true, patients = class_numbers(rows, new.label_set), rows["patient"].to_numpy()
    outcome = new.label_set.encode_rows(true)
    answers = {name: answer_cycles(model, rows, cache_folder) for name, model in (("old", old), ("new", new))}
    labels = {name: new.label_set.encode_rows(called) for name, (called, _) in answers.items()}
    difference = bootstrap.paired_difference(outcome, labels["new"], labels["old"], patients, resamples=RESAMPLES)
    figures: dict[str, Row] = {name: {"name": NAMES[name]} for name in reversed(FIGURES)} | {"auroc": {"name": "AUROC"}}
    for side, (_, probabilities) in answers.items():
        interval = bootstrap.bootstrap_intervals(outcome, labels[side], patients, resamples=RESAMPLES)
        value = outcome_scores(count_outcomes(outcome, labels[side]))
        for name in FIGURES:
            figures[name][side] = {"value": value[name], "low": interval[name][0], "high": interval[name][1]}
        figures["auroc"][side] = measure_auroc(new, true, probabilities, patients)
    for name in FIGURES:
        found = difference[name]
        figures[name]["difference"] = {"value": found["difference"], "low": found["low"], "high": found["high"]}

    known = int(find_heard(rows["recording"], old.record.get("split", {}).get("trained_recordings") or ()).sum())
    notes = [f"the old model was trained on {known} of these cycles, so that its figures are too good"] if known else []
    if old.record.get("split", {}).get("trained_recordings") is None:
        notes.append("the old model's record does not tell what it was trained on: these patients may be among them")
    return {"figures": list(figures.values()), "cycles": len(rows), "patients": len(set(patients)), "notes": notes}


def answer_cycles(model: Predictor, rows: pd.DataFrame, cache_folder: Path) -> tuple[IntArray, Probabilities]:
    """Labelled cycles -> what a model calls each, as it does in prediction, and its probabilities (n, classes)."""
    dataset = load_dataset(rows.assign(split=""), model.recipe, folder=cache_folder)
    everything = {"all": pd.Series(data=True, index=rows.index)}
    decision, probabilities = model.decision(), score_sides(model, rows, dataset, everything)["all"]
    return decision.choose(decision.cool(probabilities)), probabilities


def measure_auroc(model: Predictor, true: IntArray, probabilities: Probabilities, patients: Any) -> Row:
    """-> AUROC of anything abnormal with its interval; of own classes their mean, which has none."""
    if not model.label_set.is_icbhi:
        return {"value": mean_auroc(true, probabilities, model.label_set)}
    found = detect_findings(true, probabilities, patients)["abnormal"]
    low, high = found["ci95"]
    return {"value": found["auroc"], "low": low, "high": high}


if __name__ == "__main__":
    main()
