"""A finished run scored on the test part of its split, as `rales evaluate` does."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.data import splits
from rales.data.dataset import CycleDataset, class_numbers, load_dataset
from rales.data.splits import digest_cycles
from rales.errors import FileError
from rales.evaluation import predictions
from rales.evaluation.metrics import metrics_by_group
from rales.evaluation.predictions import NOTICE
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.typing import Probabilities


def evaluate_run(
    run: Path, cycles: pd.DataFrame, *, progress: bool = False, cache_folder: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Score a run on the test part of its split, per device and location, and on both leak-free repairs of the
    official split.

    A repair's test part may hold cycles that this run was trained on; their number stands beside its figures.

    Parameters
    ----------
    run
        Finished run folder.
    cycles
        Cycles table of the data folder.
    progress
        Whether a bar is shown while cycles are read.
    cache_folder
        Where prepared cycles are kept; None for the user's cache.
    device
        Where the network computes.
    """
    model = load_model(run, device)
    settings, record, label_set = model.recipe.settings, model.record, model.label_set
    if "epoch" not in record or "digest" not in record.get("split", {}):
        raise FileError(run, "its checkpoint does not say its epoch or its data; train or copy it again")
    table = splits.divide_cycles(cycles, settings, needed=("test",))
    parts = find_test_parts(cycles, table, settings.split.name)
    validation = table["split"] == "validation"

    # No row trains here, so there are no copies
    dataset = load_dataset(table.assign(split=""), model.recipe, progress=progress, folder=cache_folder)
    scored = score_sides(model, cycles, dataset, {**parts, "validation": validation})
    figures = {
        name: predictions.evaluation_metrics(
            table[rows],
            scored[name][rows],
            selected_epoch=record["epoch"],
            record=record,
            whole_database=predictions.is_whole_database(cycles),
        )
        for name, rows in parts.items()
    }

    own, rows = figures.pop(settings.split.name), parts[settings.split.name]
    of_test = scored[settings.split.name][rows]
    classes = class_numbers(table, label_set)
    if validation.any():
        own |= predictions.metrics_from_validation(
            {"validation": classes[validation], "test": classes[rows]},
            {"validation": scored["validation"][validation], "test": of_test},
            label_set,
        )
    for column in ("device", "location"):
        own[f"by_{column}"] = metrics_by_group(classes[rows], of_test, table.loc[rows, column].to_numpy(), label_set)
    digest = digest_cycles(table[table["split"] != ""])
    own["protocol"]["same_data_as_training"] = digest == record["split"]["digest"]
    trained_on = {name: int((parts[name] & (table["split"] == "train")).sum()) for name in figures}
    own["leak_free"] = {name: leak_free_figures(part, trained_on[name]) for name, part in figures.items()}
    own["model"], own["notice"] = model.digest, NOTICE
    return own


def find_test_parts(cycles: pd.DataFrame, table: pd.DataFrame, split: str) -> dict[str, "pd.Series[bool]"]:
    """Cycles, the same as a split divides them, and its name -> name -> which cycles are tested on: of the split, and
    of the repairs of the official one where they leave any patient to test on."""
    parts: dict[str, pd.Series[bool]] = {split: table["split"] == "test"}
    if split == "official":
        for repair in ("official_drop", "official_move"):
            tested = set(splits.cycle_keys(splits.apply_split(cycles, repair).query("split == 'test'")))
            if tested:  # else every test patient is trained on too
                parts[repair] = pd.Series([key in tested for key in splits.cycle_keys(cycles)], index=cycles.index)
    return parts


def leak_free_figures(figures: dict[str, Any], trained_on: int) -> dict[str, Any]:
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
