"""A trained model calibrated anew from labelled cycles of other patients, without training: `rales calibrate`."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rales.data import read_contents, splits
from rales.data.dataset import check_extras, class_numbers, load_dataset
from rales.data.reader import cycles_table
from rales.errors import UsageError
from rales.evaluation import calibration, predictions, recordings
from rales.evaluation.calibration import Aim
from rales.evaluation.conformal import count_needed
from rales.inference.evaluate import find_rows, score_sides
from rales.inference.predictor import Predictor
from rales.inference.train import Table, table_file
from rales.labels import LabelSet
from rales.training.calibration_record import LabelRule, fit_calibration_record
from rales.training.trained_model import save_calibration
from rales.typing import IntArray, Probabilities

log = logging.getLogger(__name__)

LEAST_PATIENTS = 5


def calibrate_model(
    model: Predictor,
    data: Table,
    out: Path | None = None,
    *,
    aim: Aim = recordings.FALSE_ALARM_RATE,
    labels: LabelRule = "most probable",
    part: str | None = None,
    trained: bool = False,
    skip_damaged: bool = False,
    progress: bool = False,
    cache_folder: Path | None = None,
) -> Predictor:
    """Learn temperature, thresholds, prediction sets and answers for whole recordings from labelled cycles.

    Parameters
    ----------
    model
        A trained one, which stays as it is.
    data
        Folder, table or READER:PATH as for `evaluate.evaluate_data`, or a table as a manifest has it. Of a table of a
        model's answers `true_label` counts; of one with a column `confirmed` the cycles that a person has confirmed.
    out
        Checkpoint (.safetensors) to write, with the weights of the model; none is replaced.
    aim, labels
        As for `calibration.fit_calibration`.
    part
        Part of the data, as for `evaluate.evaluate_cycles`; None for all but its test side, which is left to measure
        by.
    trained
        Whether patients on whom the model was trained are taken, too. They make it too sure of itself.
    skip_damaged
        Whether damaged recordings are left out; else the first is an error.
    progress
        Whether a bar is shown.
    cache_folder
        Where prepared cycles are kept; None for the user's cache.

    Returns
    -------
    The calibrated model; `.record["calibration"]` is what was learned.

    Raises
    ------
    ValueError
        Fewer than five patients, a class that is missing, patients on whom the model was trained, labels of which no
        temperature is the best, as those of clips that the model sorted.
    """
    check_target(model, out)
    rows = choose_cycles(model, read_labelled_cycles(data, model.label_set, skip_damaged=skip_damaged), part)
    check_cycles(rows, model.label_set)
    if not trained:
        refuse_trained_patients(rows, model.record)

    dataset = load_dataset(rows.assign(split=""), model.recipe, progress=progress, folder=cache_folder)
    check_extras(dataset, model.taken_extras)
    everything = {"all": pd.Series(data=True, index=rows.index)}
    probabilities = score_sides(model, rows, dataset, everything)["all"]
    refuse_own_labels(rows, probabilities, model.label_set)
    origin = f"{rows['patient'].nunique()} confirmed patients"
    learned = fit_calibration_record(rows, probabilities, model.label_set, aim=aim, labels=labels, origin=origin)
    learned["reliability"] = measure_reliability(rows, probabilities, model)

    calibrated = copy.copy(model)
    calibrated.calibration, calibrated.record = learned, {**model.record, "calibration": learned}
    if out is not None and model.checkpoint is not None:
        save_calibration(model.checkpoint, learned, out)
        calibrated.checkpoint = out
    return calibrated


def check_target(model: Predictor, out: Path | None) -> None:
    """Errors: a file that cannot be written, before anything is computed."""
    if out is None:
        return
    if model.checkpoint is None:
        raise UsageError(
            "an artefact of `rales export` cannot be written again; calibrate the run that it was made of and export "
            "that"
        )
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: expected the name of a checkpoint, one that ends in .safetensors")
    if out.exists():
        raise UsageError(f"--out {out}: is there already, and none is replaced; choose another name")


def read_labelled_cycles(data: Table, label_set: LabelSet, *, skip_damaged: bool) -> pd.DataFrame:
    """Data as of `calibrate_model` -> its cycles table. Errors: as of `rales.data.read_cycles`."""
    with table_file(data) as path:
        contents = read_contents(
            path, audio=True, decode=skip_damaged, true_labels=True, confirmed=True, label_set=label_set
        )
        return cycles_table(contents, skip_damaged=skip_damaged, audio=True, needs_split=False, label_set=label_set)


def choose_cycles(model: Predictor, cycles: pd.DataFrame, part: str | None) -> pd.DataFrame:
    """Cycles table -> those to learn from: all but the test side, of the model's own data that of its run. Errors:
    there is none."""
    own = model.record.get("split", {}).get("data_digest")
    if own is not None and own == splits.digest_cycles(cycles.assign(split="")):
        cycles = splits.divide_cycles(cycles, model.recipe.settings, needed=())
    chosen = cycles[cycles["split"] != "test" if part is None else find_rows(cycles, part)]
    if chosen.empty:
        raise UsageError(
            "every cycle of this data is on its test side, by which a model is measured; --split test learns from it, "
            "and then nothing may be measured on it"
        )
    return chosen.reset_index(drop=True)


def check_cycles(rows: pd.DataFrame, label_set: LabelSet) -> None:
    """Errors: too few patients, a class that nobody has."""
    patients = rows["patient"].nunique()
    if patients < LEAST_PATIENTS:
        raise ValueError(
            f"{len(rows)} labelled cycles of {patients} patient{'s' * (patients != 1)}; expected at least "
            f"{LEAST_PATIENTS} patients, and {count_needed(0.9)} or more for prediction sets of 90 % coverage"
        )
    if (rows["patient"] == rows["recording"]).all() and rows["recording"].nunique() > 1:
        log.warning(
            "no patient is named, so each of the %d recordings counts as one, and promises of new patients are about "
            "new recordings: fill in the column patient",
            patients,
        )
    if problem := describe_missing_finding(rows, label_set):
        raise ValueError(problem)


def describe_missing_finding(rows: pd.DataFrame, label_set: LabelSet) -> str:
    """Labelled cycles -> what is missing for a threshold of each finding: a class that nobody has; "" if nothing is."""
    targets = label_set.make_targets(rows["label"].tolist())
    there = targets == 1 if label_set.independent else targets[:, None] == np.arange(len(label_set))
    counts = {name: int(there[:, list(numbers)].sum()) for name, numbers in label_set.findings.items()}
    counts = {label_set.normal: int((label_set.encode_rows(targets) == 0).sum()), **counts}
    missing = [name for name, count in counts.items() if not count]
    if not missing:
        return ""
    found = ", ".join(f"{name} {count}" for name, count in counts.items())
    return (
        f"none of the {len(rows)} labelled cycles is {missing[0]} ({found}); a threshold for it needs some, so add "
        "patients who have it"
    )


def refuse_trained_patients(rows: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Errors: patients of whom the model was trained on a recording, or chose its epoch by one."""
    names = record.get("split", {}).get("trained_recordings") or ()
    known = rows["recording"].map(splits.digest_name).isin(names)
    patients = rows.loc[known, "patient"].nunique()
    if patients:
        raise ValueError(
            f"the model was trained on {patients} of these {rows['patient'].nunique()} patients, of whom it is surer "
            f"than of others (recording {rows.loc[known, 'recording'].iloc[0]}); leave them out, or say --trained to "
            "learn from them all the same"
        )


def refuse_own_labels(rows: pd.DataFrame, probabilities: Probabilities, label_set: LabelSet) -> None:
    """Errors: labelled cycles, and the network's answers to them, that teach no temperature."""
    if problem := calibration.describe_end(class_numbers(rows, label_set), probabilities, label_set):
        raise ValueError(
            f"nothing is learned from these {len(rows)} cycles: {problem}. Label all cycles of some recordings by ear, "
            "or of clips that the model cut, put the wrong ones into the folder of their class and delete none"
        )


def measure_reliability(rows: pd.DataFrame, probabilities: Probabilities, model: Predictor) -> dict[str, float]:
    """Labelled cycles and the network's answers -> calibration error `before`, at the temperature that the model had,
    and `after`, at that which the other patients alone give."""
    label_set = model.label_set
    targets: IntArray = class_numbers(rows, label_set)
    cooled = np.empty_like(probabilities)
    for held in recordings.divide_patients(label_set.encode_rows(targets) > 0, rows["patient"].tolist()):
        others = calibration.as_exclusive(probabilities[~held], label_set)
        temperature = calibration.fit_probability_temperature(targets[~held].ravel(), others)
        cooled[held] = calibration.cool_probabilities(probabilities[held], temperature, label_set)
    return {
        name: calibration.expected_calibration_error(targets.ravel(), calibration.as_exclusive(p, label_set))
        for name, p in (("before", model.decision().cool(probabilities)), ("after", cooled))
    }


def describe_change(before: Mapping[str, Any], after: Predictor) -> dict[str, Any]:
    """`calibration` that a model had ({} for none), the model calibrated anew -> what `rales calibrate` says."""
    learned = after.calibration
    notes = []
    if after.record.get("split", {}).get("trained_recordings") is None:
        notes.append("the model's record does not tell which recordings it was trained on: these may be among them")
    if learned["patients"] < count_needed(0.9):
        notes.append(
            f"{learned['patients']} patients cannot promise 90 % coverage: every label is in every such set; "
            f"{count_needed(0.9)} or more can"
        )
    return {
        "cycles": learned["cycles"],
        "patients": learned["patients"],
        "had": dict(before) or None,
        "has": learned,
        "notes": notes,
        "model": after.digest,
        "notice": predictions.NOTICE,
    }
