"""One artefact from waveform to probabilities, checked against the network it was made from; and engines that run it.

An artefact holds front-end, network and softmax, the record of its model, and what the network in float32 answered to
three made-up clips, so that whoever opens it can tell whether it still gives those answers.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from rales import finetune, predict, recipes, runs
from rales.config import UsageError
from rales.data import splits
from rales.export import graph, onnx_file, openvino_file, parity
from rales.export.parity import Engine, Waves
from rales.predict import Model

Format = Literal["onnx", "openvino"]
FORMATS: dict[str, ModuleType] = {"onnx": onnx_file, "openvino": openvino_file}
CALIBRATION_CYCLES = 64


def export(
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
    check(out, to, precision, cycles)
    model = predict.load(path_or_name, "cpu")
    calibration, test = None, None
    if cycles is not None:
        table = splits.divide(cycles, model.recipe.config, needed=("train", "test"))
        waves = finetune.cycle_waves(cycles, model.recipe.config, progress=progress, folder=cache_folder)
        train = np.flatnonzero(table["split"] == "train")
        calibration = waves[train[:: max(1, len(train) // CALIBRATION_CYCLES)][:CALIBRATION_CYCLES]]
        test = np.flatnonzero(table["split"] == "test")
    made, engine, record = artefact(model, to, precision, calibration)
    report = {"format": to, "precision": precision, "probe_difference": record["export"]["probe_difference"]}
    if cycles is not None and test is not None:
        found = in_batches(engine, waves, test)
        report["drift"] = parity.drift(cycles.iloc[test], model.probabilities(waves, test), found)
    written = FORMATS[to].save(made, out, record)
    return report | {"files": [str(file) for file in written], "bytes": sum(file.stat().st_size for file in written)}


def check(out: Path, to: str, precision: str, cycles: pd.DataFrame | None) -> None:
    """Words that cannot be served are UsageErrors."""
    file = FORMATS[to]
    if precision not in file.PRECISIONS:
        raise UsageError(f"--precision {precision}: --to {to} has {', '.join(file.PRECISIONS)}")
    if out.suffix not in file.SUFFIXES:
        raise UsageError(f"--out {out}: expected a name that ends in {' or '.join(file.SUFFIXES)} for --to {to}")
    if precision == "int8" and cycles is None:
        raise UsageError("--precision int8: expected --data with it, to calibrate on and to measure the drift")
    needed = file.PACKAGES | ({"nncf": "quantize"} if (to, precision) == ("openvino", "int8") else {})
    need(needed)


def need(packages: dict[str, str]) -> None:
    """Packages and the extra that each is in -> a UsageError that says what to install if one is missing."""
    for package, extra in packages.items():
        if importlib.util.find_spec(package) is None:
            raise UsageError(f'the package {package} is not installed: pip install "rales[{extra}]"')


def artefact(model: Model, to: str, precision: str, calibration: Waves | None) -> tuple[Any, Engine, dict[str, Any]]:
    """Model -> its graph in a format, the engine that runs it, and the record to keep with it.

    Errors: float32 whose answers to the probe miss 1e-5.
    """
    audio = model.recipe.config.audio
    clips = parity.probe(round(audio.rate_hz * audio.duration_s), audio.rate_hz)
    expected = model.in_torch(clips)
    program = graph.traced(graph.whole(model.recipe, model.plain), clips.shape[1])
    made = FORMATS[to].make(program, precision, calibration)
    engine = FORMATS[to].compiled(made, precision)
    apart = parity.difference(expected, engine(clips))
    if precision == "float32" and not apart <= parity.TOLERANCE:
        raise ValueError(
            f"the {to} graph answers {apart:.1e} away from the network, more than {parity.TOLERANCE:.0e}; nothing is "
            "written (this is a bug, or a version of the library that computes differently)"
        )
    about = {
        "format": to,
        "precision": precision,
        "digest": model.digest,
        "probe": expected.tolist(),
        "probe_difference": apart,
        "packages": runs.versions(tuple(FORMATS[to].PACKAGES)),
    }
    return made, engine, {**model.record, "export": about}


def in_batches(engine: Engine, waves: Waves, rows: Any) -> parity.Probabilities:
    """Engine, (N, samples) and the rows asked for -> (n, classes)."""
    return np.concatenate([engine(waves[rows[i : i + predict.BATCH]]) for i in range(0, len(rows), predict.BATCH)])


def load(path_or_name: str | Path | None = None, engine: str = "torch", device: str = "auto") -> Model:
    """Artefact, or anything `rales.load` takes -> Model whose probabilities come from the engine asked for.

    An artefact is its own engine and answers only after it gave the answers it was made with. `onnx` and `openvino` of a
    run are made once and kept in the cache. Errors: an artefact that is damaged or not ours, a missing package.
    """
    path = Path(path_or_name or "")
    to = next((name for name, file in FORMATS.items() if path.suffix in file.SUFFIXES), None)
    if to is not None and path.is_file():
        if engine not in ("auto", to):
            raise UsageError(f"--engine {engine}: {path} is an artefact for {to}; give the run folder, or --engine {to}")
        return opened(path, to)
    model = predict.load(path_or_name, device) if path_or_name else predict.load(device=device)
    if engine == "torch":
        return model
    if engine == "auto":
        return model
    need(FORMATS[engine].PACKAGES)
    return model


def opened(path: Path, to: str) -> Model:
    """Artefact -> Model with its engine and no network of torch."""
    file = FORMATS[to]
    need({package: extra for package, extra in file.PACKAGES.items() if package != "onnxscript"})
    try:
        source, record = file.read(path)
    except (RuntimeError, ValueError, OSError) as error:  # the libraries' own kinds of RuntimeError
        if type(error) is ValueError and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: damaged, cut or no file for {to}; export or copy it again") from error
    if not isinstance(record, dict) or "export" not in record:
        raise ValueError(f"{path}: holds no record of Rales, so it is no artefact of `rales export`")
    recipe, about = recipes.rebuild(record, str(path)), record["export"]
    engine = file.compiled(source, about["precision"])
    audio = recipe.config.audio
    clips = parity.probe(round(audio.rate_hz * audio.duration_s), audio.rate_hz)
    apart = parity.difference(np.array(about["probe"]), engine(clips))
    allowed = parity.TOLERANCE if about["precision"] == "float32" else 0.02 + 2 * about["probe_difference"]
    if not apart <= allowed:
        raise ValueError(
            f"{path}: its answers are {apart:.1e} away from those it was made with; the file is damaged, or this "
            f"machine's {to} computes differently; export it again here"
        )
    return Model(recipe, torch.nn.Module(), record, torch.device("cpu"), engine)
