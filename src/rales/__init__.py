"""Respiratory-sound classification: crackles and wheezes in the breathing cycles of a stethoscope recording.

A research tool, not a diagnosis.

    table = rales.predict("recording.wav")    # the model of the package; a row per breathing cycle
    model = rales.load("runs/m2d")            # a run folder of `rales train`
    table = model.predict(["recording.wav"])
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales.telemetry import refuse_telemetry
from rales.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from rales.inference.predictor import Predictor

__all__ = [
    "__version__",
    "embed",
    "load",
    "plot",
    "predict",
    "register_encoder",
    "register_export_target",
    "register_metric",
    "register_reader",
    "register_recipe",
    "train",
]
MODULES = ("audio", "data", "metrics", "models", "recipes", "report")  # loaded when they are asked for

refuse_telemetry()


def load(path_or_name: str | Path | None = None, device: str = "auto") -> "Predictor":
    """Load a trained model, which has `.predict(paths)`, `.embed(paths)` and `.classes`.

    Parameters
    ----------
    path_or_name
        Run folder, checkpoint file, artefact of `rales export` or name; without one the default model.
    device
        `cpu`, `cuda`, `mps` or `auto`.
    """
    from rales.export.load import load_with_engine  # not with the package, which a program may import for a part

    return load_with_engine(path_or_name, device=device)


def predict(
    recordings: Any, model: "str | Path | Predictor | None" = None, *, sample_rate: int | None = None, **options: Any
) -> "pd.DataFrame":
    """Classify the breathing cycles of recordings.

    Parameters
    ----------
    recordings
        Path, folder, glob or URL, a list of those; or one recording's samples in -1 to 1, (N,) or (channels, N), as an
        array with `sample_rate`, or as dict(waveform=, sample_rate=), or a file opened as bytes.
    model
        What `rales.load` takes, or a loaded model.
    sample_rate
        Of the samples, in Hz.
    options
        Those of `Predictor.predict`: cycles, quality, decision, problems, progress.

    Returns
    -------
    A row per cycle with the columns of `rales predict`; samples are the recording `waveform`. Its print shows times,
    label and probabilities.
    """
    return _loaded(model).predict(recordings, sample_rate=sample_rate, **options)


def embed(
    recordings: Any, model: "str | Path | Predictor | None" = None, *, sample_rate: int | None = None, **options: Any
) -> "NDArray[np.float32]":
    """Vectors (cycles, features) of recordings; parameters as of `predict`, options those of `Predictor.embed`."""
    return _loaded(model).embed(recordings, sample_rate=sample_rate, **options)


def plot(
    recording: Any, model: "str | Path | Predictor | None" = None, *, sample_rate: int | None = None, **options: Any
) -> Any:
    """Draw a recording with its cycles and what the model says of them: a matplotlib figure (`.savefig(file)`).

    Parameters as of `predict`, of one recording; needs the extra `report`.
    """
    return _loaded(model).plot(recording, sample_rate=sample_rate, **options)


def train(
    recipe: str | None,
    data: "str | Path | pd.DataFrame",
    out: str | Path,
    *,
    config: str | Path | None = None,
    callbacks: "Sequence[Any]" = (),
    progress: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train a system and score it, as `rales train`; goes on where it stopped if `out` holds an unfinished run of the
    same settings.

    Parameters
    ----------
    recipe
        Name of a system, or FILE.py:NAME; None with `from_model`, whose system goes on.
    data
        What `rales.data.read_cycles` reads, or a table with the columns of a manifest: path, start_s, end_s, label,
        and patient and split where they are known.
    out
        Run folder to write; `rales.load(out)` is the trained model.
    config
        YAML file of settings, as of `rales train --config`; those given here win over it.
    callbacks
        Watch the run: tensorboard, wandb, mlflow or trackio, or objects with the methods of
        `rales.training.callbacks.Callback`.
    progress
        Show bars.
    settings
        Of the recipe, by name: size="tiny", seed=1, epochs=20, lr=1e-4; `train__lr` is train.lr where two settings end
        alike. from_model="runs/a" goes on from a trained model, and freeze=2 or "encoder" keeps its lower part.

    Returns
    -------
    The figures of evaluation.json: specificity, sensitivity, score, confusion and more.
    """
    from rales.optional_packages import require_torch

    require_torch("rales.train")
    from rales.inference.train import train_recipe

    return train_recipe(recipe, data, out, config=config, callbacks=callbacks, progress=progress, **settings)


def _loaded(model: "str | Path | Predictor | None") -> "Predictor":
    return load(model) if model is None or isinstance(model, str | Path) else model


def register_recipe(name: str, recipe: Any) -> None:
    """Make an own recipe known in this process: a name, and a function of its Settings -> Recipe."""
    from rales.registry import RECIPES

    RECIPES.register(name, recipe)


def register_reader(name: str, reader: Any) -> None:
    """Make an own reader of data folders known in this process."""
    from rales.registry import READERS

    READERS.register(name, reader)


def register_encoder(name: str, encoder: Any) -> None:
    """Make an own encoder known in this process."""
    from rales.registry import ENCODERS

    ENCODERS.register(name, encoder)


def register_metric(name: str, metric: Any) -> None:
    """Make an own metric known in this process: (class numbers (n,), probabilities (n, classes)) -> figure or figures
    by name."""
    from rales.registry import METRICS

    METRICS.register(name, metric)


def register_export_target(name: str, target: Any) -> None:
    """Make an own format of `rales export` known in this process: an `ExportTarget` (rales.export.target)."""
    from rales.registry import EXPORT_TARGETS

    EXPORT_TARGETS.register(name, target)


def __dir__() -> list[str]:
    return [*__all__, *MODULES]


def __getattr__(name: str) -> Any:
    # `rales.audio`, `rales.models` … without paying for them at import
    if name in MODULES:
        import importlib

        from rales.optional_packages import explain_missing

        with explain_missing(f"rales.{name}"):
            return importlib.import_module(f"rales.{name}")
    raise AttributeError(f"module 'rales' has no attribute {name!r}")
