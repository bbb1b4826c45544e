"""Several runs as one, decided as M2D2 does (`evaluation.decision_layer`): `rales evaluate RUN RUN … --shifts`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.data import read_cycles, splits
from rales.data.dataset import check_extras, class_numbers, load_dataset
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.evaluation.decision_layer import ShiftedWaveforms, choose_frozen_threshold
from rales.evaluation.detection import tabulate_thresholds
from rales.evaluation.metrics import count_outcomes, outcome_scores, predict_at_threshold
from rales.evaluation.predictions import NOTICE
from rales.inference.evaluate import count_trained, is_training_data, score_sides
from rales.inference.predictor import Predictor
from rales.typing import Probabilities


def evaluate_ensemble(
    models: Sequence[Predictor],
    data: str | Path | pd.DataFrame,
    *,
    shifts_s: Sequence[float] = (0.0,),
    skip_damaged: bool = False,
    progress: bool = False,
    cache_folder: Path | None = None,
) -> dict[str, Any]:
    """Score runs as one on their test cycles: the mean of their probabilities, over shifts in time too.

    The threshold for "normal" is chosen on the validation patients that all runs held out, by the same averaged
    answers, and frozen; without such patients the most probable class counts. The test side chooses nothing.

    Parameters
    ----------
    models
        Trained models of exclusive classes, all of one split of this data.
    data
        What they were trained on: folder, file, or cycles table.
    shifts_s
        Seconds by which each clip is turned round; 0 is the clip as it is.
    skip_damaged
        Whether damaged recordings are left out; else the first is an error.
    progress
        Whether a bar is shown while cycles are read.
    cache_folder
        Where prepared cycles are kept; None for the user's cache.

    Returns
    -------
    The figures of `rales evaluate`, with `decision_layer`: threshold, validation cycles and patients, and the scores of
    the most probable class, of each run alone and of all.

    Raises
    ------
    UsageError
        Models of several splits, data or classes; a shift of a model that hears no waveform.
    """
    label_set = models[0].label_set
    if any(model.label_set != label_set for model in models) or label_set.independent:
        raise UsageError("--shifts and several runs: expected models of the same classes, each excluding the others")
    if len({model.recipe.settings.train.select for model in models}) > 1:
        raise UsageError("the runs chose their epochs in different ways (train.select); give runs of one of them")
    cycles = data
    if not isinstance(cycles, pd.DataFrame):
        cycles = read_cycles(cast(Any, data), skip_damaged=skip_damaged, label_set=label_set)
    sides = [divide_as_trained(model, cycles) for model in models]
    test = sides[0] == "test"
    if not test.any() or any(((side == "test") != test).any() for side in sides):
        raise UsageError("expected runs that were tested on the same cycles; give those of one split of one database")
    validation = np.logical_and.reduce([side == "validation" for side in sides])

    needed = {name: pd.Series(on, index=cycles.index) for name, on in (("test", test), ("validation", validation))}
    answers = [average_shifts(model, cycles, needed, shifts_s, progress, cache_folder) for model in models]
    mean = np.mean(answers, axis=0)
    true = class_numbers(cycles.assign(label=cycles["label"].where(test | validation, label_set.classes[0])), label_set)
    threshold, reason = None, "the runs held out no patients in common; train them with --select validation"
    if models[0].recipe.settings.split.name in splits.LEAKY:
        reason = "leaky split: validation patients train, too"
    elif validation.any():
        try:
            patients = cycles["patient"].to_numpy()[validation]
            threshold = choose_frozen_threshold(true[validation], mean[validation], patients, label_set)
        except ValueError as error:
            reason = f"validation patients: {error}"

    table, record = cycles.assign(split=sides[0])[test], models[0].record
    figures = predictions.evaluation_metrics(
        table,
        mean[test],
        selected_epoch=record["epoch"],
        record=record,
        whole_database=predictions.is_whole_database(cycles),
        called=predict_at_threshold(mean[test], threshold, label_set),
    )

    figures["thresholds"] = tabulate_thresholds(true[test], mean[test], label_set)
    trained = [count_trained(model.record, table, same=True) for model in models]

    def score(probabilities: Probabilities) -> dict[str, float]:
        return outcome_scores(count_outcomes(true[test], probabilities[test].argmax(axis=1)))

    figures["protocol"] |= {
        "seed": [model.recipe.settings.seed for model in models],
        "selected_epoch": [model.record["epoch"] for model in models],
        "recipe": ", ".join(dict.fromkeys(model.record["recipe"] for model in models)),
        "part": "test",
        "cycles_trained_on": None if None in trained else max(filter(None, trained), default=0),
        "cycles_calibrated_on": 0,
    }
    figures["decision_layer"] = {
        "runs": len(models),
        "shifts_s": list(shifts_s),
        "threshold": threshold,
        **({} if threshold is not None else {"reason": reason}),
        "validation_cycles": int(validation.sum()),
        "validation_patients": int(cycles["patient"][validation].nunique()),
        "most_probable": {"all": score(mean), "runs": [score(each) for each in answers]},
    }
    return figures | {"model": [model.digest for model in models], "notice": NOTICE}


def divide_as_trained(model: Predictor, cycles: pd.DataFrame) -> NDArray[Any]:
    """A run's model, the cycles of its data -> (N,) the part of each in the run's split. Errors: other data."""
    if "digest" not in model.record.get("split", {}) or not is_training_data(model.record, cycles):
        raise UsageError(
            f"{model.record.get('recipe', 'model')}: expected the data that the run was trained on, whose validation "
            "patients choose the threshold; score other data with one model and no --shifts"
        )
    return splits.divide_cycles(cycles, model.recipe.settings, needed=())["split"].to_numpy()


def average_shifts(
    model: Predictor,
    cycles: pd.DataFrame,
    needed: dict[str, "pd.Series[bool]"],
    shifts_s: Sequence[float],
    progress: bool,
    cache_folder: Path | None,
) -> Probabilities:
    """Model, cycles and those of the test and validation side -> (N, C) probabilities, the mean over shifts; NaN of all
    other cycles."""
    dataset = load_dataset(cycles.assign(split=""), model.recipe, progress=progress, folder=cache_folder)
    check_extras(dataset, model.taken_extras)
    if any(shifts_s) and (dataset.inputs.ndim != 2 or model.recipe.audio is None):
        raise UsageError(f"--shifts: {model.recipe.name} prepares pictures, which cannot be turned round; leave it out")
    answers = []
    for shift_s in shifts_s:
        shifted: Any = dataset.inputs
        if shift_s:
            shifted = ShiftedWaveforms(dataset.inputs, round(shift_s * model.recipe.audio.rate_hz))
        scored = score_sides(model, cycles, replace(dataset, inputs=shifted), needed)
        answers.append(np.where(needed["test"].to_numpy()[:, None], scored["test"], scored["validation"]))
    mean: Probabilities = np.mean(answers, axis=0)
    return mean
