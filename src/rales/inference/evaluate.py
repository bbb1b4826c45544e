"""A model scored on annotated data, as `rales evaluate` does: a run on the test part of its split, any on any other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.data import read_contents, splits
from rales.data.annotation_dialects import SUFFIXES
from rales.data.dataset import CycleDataset, check_extras, class_numbers, load_dataset
from rales.data.reader import cycles_table, labels_recordings_alone, recordings_table, refuse_damage
from rales.data.splits import digest_cycles
from rales.errors import FileError, UsageError
from rales.evaluation import predictions, recordings
from rales.evaluation.calibration import as_exclusive, expected_calibration_error
from rales.evaluation.conformal import measure_sets
from rales.evaluation.detection import detect_findings, measure_detection, tabulate_thresholds
from rales.evaluation.metrics import metrics_by_group
from rales.evaluation.predictions import NOTICE
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.typing import IntArray, Probabilities

PARTS = ("test", "train", "validation", "all")


def evaluate_data(
    model: Predictor,
    data: str | Path,
    *,
    part: str | None = None,
    skip_damaged: bool = False,
    progress: bool = False,
    cache_folder: Path | None = None,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a model on annotated data in any layout that a reader knows.

    Parameters
    ----------
    model
        Of a run, a checkpoint, an artefact or a name.
    data
        Folder, table, or READER:PATH. Of a table of a model's answers `true_label` counts, unless the run was trained
        on that very table.
    part
        As for `evaluate_cycles`.
    skip_damaged
        Whether damaged recordings are left out; else the first is an error.
    progress
        Whether a bar is shown.
    cache_folder
        Where prepared cycles are kept; None for the user's cache.
    metrics
        Own metrics beside ours: names, or FILE.py:NAME.

    Raises
    ------
    ValueError
        Data without labels, or damaged data.
    """
    label_set = model.label_set
    contents = read_contents(data, audio=True, decode=skip_damaged, label_set=label_set)
    if labels_recordings_alone(contents):
        if metrics:
            raise UsageError(
                f"--metric {','.join(metrics)}: is of labelled cycles, and these recordings are labelled as a whole; "
                "leave it out"
            )
        left_out = refuse_damage(contents, skip_damaged=skip_damaged, needs_split=False)
        figures = evaluate_recordings(model, recordings_table(contents), part=part, progress=progress)
        return figures | {"problems": [*left_out, *figures["problems"]]}

    is_divided = any(recording.split for recording in contents.recordings if not recording.problems)
    needs_split = part != "all" and splits.needs_list(model.recipe.settings.split.name) and is_divided
    reading: dict[str, Any] = {"skip_damaged": skip_damaged, "audio": True, "needs_split": needs_split}
    reading["label_set"] = label_set
    cycles = cycles_table(contents, **reading)
    if Path(data).suffix.lower() in SUFFIXES and not is_training_data(model.record, cycles):
        answers = read_contents(data, audio=True, decode=skip_damaged, true_labels=True, label_set=label_set)
        cycles = cycles_table(answers, **reading)
    return evaluate_cycles(model, cycles, part=part, progress=progress, cache_folder=cache_folder, metrics=metrics)


def evaluate_run(
    run: Path,
    cycles: pd.DataFrame,
    *,
    progress: bool = False,
    cache_folder: Path | None = None,
    device: str = "auto",
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Run folder and the cycles table of its data -> `evaluate_cycles` of it."""
    model = load_model(run, device)
    return evaluate_cycles(model, cycles, progress=progress, cache_folder=cache_folder, metrics=metrics)


def evaluate_cycles(
    model: Predictor,
    cycles: pd.DataFrame,
    *,
    part: str | None = None,
    progress: bool = False,
    cache_folder: Path | None = None,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a model on labelled cycles, per device and location too, and their recordings.

    Of the data that its run was trained on, the test part of the run's split is scored; other data is taken as it is
    divided itself: its test side, or all of it where it has none. Of the official split both leak-free repairs are
    scored too; a repair's test part may hold cycles that the run was trained on, whose number stands beside its
    figures.

    Parameters
    ----------
    model
        A trained one; its record names its split.
    cycles
        Cycles table of the data.
    part
        One of PARTS, or another value of the columns `split` and `test_part`; None as said above.
    progress
        Whether a bar is shown while cycles are read.
    cache_folder
        Where prepared cycles are kept; None for the user's cache.
    metrics
        Own metrics beside ours: names, or FILE.py:NAME.
    """
    settings, record, label_set = model.recipe.settings, model.record, model.label_set
    if "epoch" not in record or "digest" not in record.get("split", {}):
        raise FileError(record.get("recipe", "model"), "its checkpoint does not say its epoch or its data; train again")
    same = is_training_data(record, cycles)
    table = splits.divide_cycles(cycles, settings, needed=()) if same else cycles
    is_divided = "test" in set(table["split"])
    chosen = part or ("test" if is_divided else "all")
    repairs = find_repairs(cycles, settings.split.name) if is_divided and part is None else {}
    parts = {chosen: find_rows(table, chosen), **repairs}
    validation = (table["split"] == "validation") & (same and chosen == "test")

    # No row trains here, so there are no copies
    dataset = load_dataset(table.assign(split=""), model.recipe, progress=progress, folder=cache_folder)
    check_extras(dataset, model.taken_extras)
    sides = parts | ({"validation": validation} if validation.any() else {})
    scored = score_sides(model, cycles, dataset, sides)
    whole = predictions.is_whole_database(cycles)
    about = {"selected_epoch": record["epoch"], "record": record, "whole_database": whole}
    figures = {
        name: predictions.evaluation_metrics(
            table[rows],
            scored[name][rows],
            **about,
            metrics=metrics if name == chosen else (),
            called=choose_by_thresholds(scored[name][rows], model),
        )
        for name, rows in parts.items()
    }

    result, rows = figures.pop(chosen), parts[chosen]
    if validation.any():
        true = {
            "validation": class_numbers(table[validation], label_set),
            "test": class_numbers(table[rows], label_set),
        }
        answers = {"validation": scored["validation"][validation], "test": scored[chosen][rows]}
        result |= predictions.metrics_from_validation(true, answers, label_set)
    result |= describe_parts(table[rows], scored[chosen][rows], model)
    result["protocol"] |= {
        "split": settings.split.name if same or is_divided else "as given",
        "part": chosen,
        "same_data_as_training": digest_cycles(table[table["split"] != ""]) == record["split"]["digest"],
        "cycles_trained_on": count_trained(record, table[rows], same),
        "cycles_calibrated_on": count_named(table[rows], model.calibration.get("taught_by", ())),
        "labels": model.calibration.get("labels", "most probable"),
    }
    trained_on = {name: count_trained(record, table[rows], same) for name, rows in repairs.items()}
    result["leak_free"] = {name: leak_free_figures(found, trained_on[name]) for name, found in figures.items()}
    return result | {"model": model.digest, "notice": NOTICE}


def is_training_data(record: dict[str, Any], cycles: pd.DataFrame) -> bool:
    """Record of a model, cycles table -> whether these are the cycles that it was trained and tested with; of a record
    that does not say, it is taken for granted."""
    known = record.get("split", {}).get("data_digest")
    return known is None or known == digest_cycles(cycles.assign(split=""))


def find_rows(table: pd.DataFrame, part: str) -> "pd.Series[bool]":
    """Divided cycles table, name of a part -> which rows are of it. Errors: a part without any."""
    if part == "all":
        return pd.Series(data=True, index=table.index)
    rows = table["split"] == part
    if "test_part" in table:
        rows |= table["test_part"] == part
    if not rows.any():
        there = sorted({*table["split"], *table.get("test_part", ())} - {""})
        raise UsageError(f"--split {part}: no cycles of that part; there are {', '.join([*there, 'all'])}")
    return rows


def count_trained(record: dict[str, Any], rows: pd.DataFrame, same: bool) -> int | None:
    """Record of a model, scored rows as its split divides them, whether that is its own data -> how many of them it was
    trained on, or chose its epoch by; None where its record does not tell."""
    names = record["split"].get("trained_recordings")
    if same and not record["config"].get("from_model"):
        return int(rows["split"].isin(("train", "validation")).sum())
    return None if names is None else count_named(rows, names)


def count_named(rows: pd.DataFrame, digests: Sequence[str]) -> int:
    """Cycles, digests of names of recordings -> how many cycles are of these."""
    return int(rows["recording"].map(splits.digest_name).isin(digests).sum()) if digests else 0


def choose_by_thresholds(probabilities: Probabilities, model: Predictor) -> IntArray | None:
    """(n, classes) probabilities, not calibrated -> the labels that the model's own thresholds give, as prediction
    does; None where the most probable class is the label, which no temperature changes."""
    decision = model.decision()
    return None if decision.thresholds is None else decision.choose(decision.cool(probabilities))


def describe_parts(rows: pd.DataFrame, probabilities: Probabilities, model: Predictor) -> dict[str, Any]:
    """Scored cycles and their probabilities -> what is heard of each finding, figures per device and location, and
    those of whole recordings; of own classes, per device and location alone."""
    label_set = model.label_set
    true, found = class_numbers(rows, label_set), measure_calibration(rows, probabilities, model)
    called = choose_by_thresholds(probabilities, model)
    found["thresholds"] = tabulate_thresholds(true, model.decision().cool(probabilities), label_set)
    if label_set.is_icbhi:
        found["detection"] = detect_findings(true, probabilities, rows["patient"])
    for column in ("device", "location"):
        found[f"by_{column}"] = metrics_by_group(true, probabilities, rows[column].to_numpy(), label_set, called)
    if not label_set.is_icbhi:
        return found
    answers = predictions.predictions_table(rows, probabilities, model.decision()).assign(path=rows["path"].to_numpy())
    flags = {name: rows["label"].isin(classes) for name, classes in recordings.FINDINGS.items()}
    of_recording = rows.assign(**flags).groupby("path", sort=False)
    truth = of_recording[["patient", *flags]].agg({"patient": "first", **dict.fromkeys(flags, "max")}).reset_index()
    return found | {"recordings": measure_recordings(truth, answers, model)}


def measure_calibration(rows: pd.DataFrame, probabilities: Probabilities, model: Predictor) -> dict[str, Any]:
    """Scored cycles and their probabilities, not calibrated -> what the model's own calibration does to them: the
    calibration error without and with its temperature, and how often the true label is in its sets, per device."""
    label_set, known = model.label_set, model.calibration
    targets, found = class_numbers(rows, label_set), dict[str, Any]()
    if known.get("temperature") is not None:
        ece = {
            name: expected_calibration_error(targets.ravel(), as_exclusive(p, label_set))
            for name, p in (("ece", probabilities), ("ece_calibrated", model.decision().cool(probabilities)))
        }
        found["reliability"] = {"temperature": known["temperature"], **ece}
    if known.get("conformal"):
        about = (rows["patient"], rows["device"].fillna(""))
        found["prediction_sets"] = measure_sets(probabilities, targets, *about, known["conformal"], label_set)
    return found


def evaluate_recordings(
    model: Predictor, table: pd.DataFrame, *, part: str | None = None, progress: bool = False
) -> dict[str, Any]:
    """Score a model on recordings that are labelled as a whole (`recordings_table`): their cycles are found in the
    sound, as in prediction; those without a cycle that can be judged are counted and left out."""
    if not model.label_set.is_icbhi:
        raise ValueError(
            f"recordings labelled as a whole by crackles and wheezes, and a model of {', '.join(model.classes)}; give "
            "data whose cycles are labelled, or a model of ICBHI's classes"
        )
    rows = table
    if part not in (None, "all"):
        rows = table[table["split"] == part]
        if rows.empty:
            raise UsageError(f"--split {part}: no recordings of that part; leave it out")
    problems: list[str] = []
    found = [cycles for cycles, _ in model.tables(list(rows["path"]), problems, progress=progress)]
    answers = pd.concat([cycles for cycles in found if len(cycles)] or found, ignore_index=True)
    sources = answers.groupby("path")["source"].first().value_counts()
    return {
        "recordings": measure_recordings(rows, answers, model),
        "cycles_found_by": {str(source): int(count) for source, count in sources.items()},
        "problems": problems,
        "protocol": {
            "part": part or "all",
            "recordings": len(rows),
            "patients": int(rows["patient"].nunique()),
            "cycles_trained_on": count_trained(model.record, rows, same=False),
            "interval": "95 %, patients as units",
        },
        "model": model.digest,
        "notice": NOTICE,
    }


def measure_recordings(truth: pd.DataFrame, cycles: pd.DataFrame, model: Predictor) -> dict[str, Any]:
    """Recordings with `path`, `patient` and flags of findings, prediction table of their cycles -> how well the answers
    for whole recordings tell them apart, and per `filter` where there is such a column."""
    learned = model.calibration.get("recordings") or {}
    answers = truth.merge(recordings.answer_recordings(cycles, learned), on="path", how="left")
    judged = answers[answers[recordings.COLUMNS[0]].notna()]

    def measure(rows: pd.DataFrame) -> dict[str, Any]:
        found = {}
        for name, column in zip(recordings.FINDINGS, recordings.COLUMNS, strict=True):
            has = rows[name].astype(bool)
            found[name] = measure_detection(has, rows[column], rows["patient"])
            if name in learned:
                flagged = rows[column] >= learned[name]["threshold"]
                found[name] |= {"false_alarms": int((flagged & ~has).sum()), "found": int((flagged & has).sum())}
        return found

    told: dict[str, Any] = {"recordings": len(answers), "not_judged": len(answers) - len(judged)}
    told |= {"pooling": recordings.describe_pooling(learned), **measure(judged)}
    if "filter" in judged:
        told["by_filter"] = {str(name): measure(rows) for name, rows in judged.groupby("filter")}
    return told


def find_repairs(cycles: pd.DataFrame, split: str) -> dict[str, "pd.Series[bool]"]:
    """Cycles and the split of a run -> repair of the official split -> which cycles it tests on, where it leaves any
    patient to test on; {} for another split."""
    parts: dict[str, pd.Series[bool]] = {}
    for repair in ("official_drop", "official_move") if split == "official" else ():
        tested = set(splits.cycle_keys(splits.apply_split(cycles, repair).query("split == 'test'")))
        if tested:  # else every test patient is trained on too
            parts[repair] = pd.Series([key in tested for key in splits.cycle_keys(cycles)], index=cycles.index)
    return parts


def leak_free_figures(figures: dict[str, Any], trained_on: int | None) -> dict[str, Any]:
    """Figures of a repair, and how many of its test cycles the run was trained on -> what the evaluation says of it."""
    kept = {name: figures[name] for name in predictions.FIGURES}
    counts = {"cycles": figures["protocol"]["cycles"], "cycles_trained_on": trained_on}
    return {**kept, "ci95": figures["ci95"], **counts}


def score_sides(
    model: Predictor, cycles: pd.DataFrame, dataset: CycleDataset, sides: dict[str, "pd.Series[bool]"]
) -> dict[str, Probabilities]:
    """Cycles, what was prepared of them (one or several rows a cycle), and which of them are on which side -> side ->
    (cycles, classes) probabilities of its own, not calibrated; NaN elsewhere.

    A cycle on several sides is scored once, unless its answer depends on its neighbours: then each side is scored
    alone. Errors: an answer that is not a number.
    """
    keys, row_keys = splits.cycle_keys(cycles), splits.cycle_keys(dataset.table)

    def of(needed: NDArray[np.bool_]) -> Probabilities:
        wanted = {key: place for place, key in enumerate(keys) if needed[place]}
        chosen = np.flatnonzero([key in wanted for key in row_keys])
        answers, rows = model.probabilities(dataset.inputs, chosen, dataset.extras), dataset.table.iloc[chosen]
        predictions.check_numbers(rows, answers)
        found, probabilities = predictions.pool_cycle_probabilities(rows, answers, model.label_set)
        scored = np.full((len(cycles), len(model.classes)), np.nan)
        scored[[wanted[key] for key in splits.cycle_keys(found)]] = probabilities
        return scored

    there = {side: rows.to_numpy() for side, rows in sides.items()}
    if model.recipe.scales_batches:
        return {side: of(rows) for side, rows in there.items()}
    return dict.fromkeys(there, of(np.logical_or.reduce(list(there.values()))))
