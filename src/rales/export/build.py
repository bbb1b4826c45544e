"""One artefact from waveform to probabilities, checked against the network it was made from; engines that run it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rales.data import splits
from rales.data.dataset import load_dataset
from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.export import parity
from rales.export.artefact import find_target
from rales.export.engine_selection import takes_waveform_alone
from rales.export.make_artefact import make_artefact
from rales.inference.load_model import load_model

CALIBRATION_CYCLES = 64


def export_model(
    path_or_name: str | Path,
    out: Path,
    to: str = "onnx",
    precision: str = "float32",
    cycles: pd.DataFrame | None = None,
    *,
    progress: bool = False,
    cache_folder: Path | None = None,
) -> dict[str, Any]:
    """Run folder or checkpoint -> artefact at `out`; -> what was written and how far its answers are from float32.

    With `cycles` given, int8 is calibrated on train cycles of the run's split, and the drift on all its test cycles is
    measured. Errors: wrong words and missing packages, before any work; float32 that misses 1e-5, then nothing is
    written.
    """
    check_request(out, to, precision, with_data=cycles is not None)
    model = load_model(path_or_name, "cpu")
    if model.recipe.prepare is not None or model.recipe.fit is not None or not takes_waveform_alone(model):
        raise ValueError(f"a model of recipe {model.recipe.name} prepares its input in its own way; m2d_fusion exports")
    if cycles is None:
        artefact = make_artefact(model, to, precision)
        drift = None
    else:
        table = splits.divide_cycles(cycles, model.recipe.settings, needed=("train", "test"))
        waves = load_dataset(cycles, model.recipe, progress=progress, folder=cache_folder).inputs
        train, test = (np.flatnonzero(table["split"] == part) for part in ("train", "test"))
        few = train[:: -(-len(train) // CALIBRATION_CYCLES)]
        artefact = make_artefact(model, to, precision, waves[few])
        expected = model.probabilities(waves, test)
        answers = model.with_engine(artefact.engine).probabilities(waves, test)
        drift = parity.measure_drift(table.iloc[test], expected, answers, model.label_set)
    files = artefact.save(out)
    return {
        "format": artefact.target.name,
        "precision": precision,
        "files": [str(file) for file in files],
        "bytes": sum(file.stat().st_size for file in files),
        "probe_difference": artefact.record["export"]["probe_difference"],
        "drift": drift,
        "notice": NOTICE,
    }


def check_request(out: Path, to: str, precision: str, *, with_data: bool) -> None:
    """Words that cannot be served are UsageErrors."""
    target = find_target(to)
    if precision not in target.precisions:
        raise UsageError(f"--precision {precision}: --to {to} has {', '.join(target.precisions)}")
    if out.suffix != target.suffix:
        raise UsageError(f"--out {out}: expected a name that ends in {target.suffix} for --to {to}")
    if precision == "int8" and not with_data:
        raise UsageError("--precision int8: expected --data with it, to calibrate on and to measure the drift")
    target.require_packages(precision)
