"""Respiratory-sound classification: crackles and wheezes in the breathing cycles of a stethoscope recording.

A research tool, not a diagnosis.

    model = rales.load("runs/m2d")                # a run folder of `rales train`
    table = model.predict(["recording.wav"])      # one row per breathing cycle
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales.telemetry import refuse_telemetry

if TYPE_CHECKING:
    from rales.inference.predictor import Model

__version__ = "0.1.0"

refuse_telemetry()


def load(path_or_name: str | Path | None = None, device: str = "auto") -> "Model":
    """Load a model, which has `.predict(paths)`, `.embed(paths)` and `.classes`.

    Parameters
    ----------
    path_or_name
        Run folder, checkpoint file, artefact of `rales export`, or name of a model; None: the default model.
    device
        Where to compute: "cpu", "cuda", "cuda:1", "mps"; "auto" takes a GPU if there is one.
    """
    from rales.export.engine_selection import load as load_model  # torch takes seconds: only when needed

    return load_model(path_or_name, device=device)


def __getattr__(name: str) -> Any:
    # `rales.audio`, `rales.models` … without paying for them at import
    if name in ("audio", "data", "metrics", "models", "recipes", "report"):
        import importlib

        return importlib.import_module(f"rales.{name}")
    raise AttributeError(f"module 'rales' has no attribute {name!r}")
