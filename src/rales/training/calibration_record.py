"""Calibration as a record of a model keeps it: of validation patients, or of those `rales calibrate` is given."""

from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from rales.data import splits
from rales.data.dataset import class_numbers
from rales.evaluation import calibration, predictions, recordings
from rales.evaluation.calibration import VALIDATION, Aim
from rales.labels import ICBHI, LabelSet
from rales.typing import Probabilities

LabelRule = Literal["most probable", "thresholds"]


def fit_calibration_record(
    rows: pd.DataFrame,
    probabilities: Probabilities,
    label_set: LabelSet = ICBHI,
    *,
    aim: Aim = recordings.FALSE_ALARM_RATE,
    labels: LabelRule = "most probable",
    origin: str = VALIDATION,
) -> dict[str, Any]:
    """Labelled cycles, the network's answers to them (of this one, or of folds) and who the patients are -> what stands
    in a record under "calibration", answers for whole recordings included."""
    found = calibration.fit_calibration(
        probabilities,
        class_numbers(rows, label_set),
        rows["patient"],
        rows["device"].fillna(""),
        label_set,
        aim=aim,
        labels=labels,
        origin=origin,
    )
    learned = replace(found, taught_by=sorted(set(map(splits.digest_name, rows["recording"])))).to_record()
    if label_set.is_icbhi:  # answers for whole recordings are about crackles and wheezes
        decision = predictions.Decision(found.temperature)
        learned["recordings"] = recordings.fit_pooling(predictions.predictions_table(rows, probabilities, decision))
    return learned
