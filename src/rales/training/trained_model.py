"""A trained model on disk: the checkpoint behind a name, a run folder or a file, and what it says of itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rales.errors import FileError, UsageError
from rales.models import hub, model_hub
from rales.models.borrowed_encoder import add_encoder
from rales.models.m2d_checkpoints import read_safetensors
from rales.training import run_folder

ARTEFACTS = (".onnx", ".xml")  # of `rales export`


class TrainedModel(NamedTuple):
    """A checkpoint of a finished run: its file, tensors by name, and record."""

    path: Path
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def find_trained_model(word: str) -> Path:
    """Name of a model that ships, run folder or checkpoint -> where it is, to start another run from.

    Errors: a sentence for an encoder, which names no classes, and for an exported artefact.
    """
    if word in hub.SHIPPED:
        return hub.SHIPPED[word]
    if model_hub.is_on_hub(word):
        return model_hub.fetch_model(word)
    path = Path(word).expanduser()
    if not path.exists() and (word in hub.PUBLIC or word in hub.ALIASES):
        raise UsageError(
            f"--from {word}: a pre-trained encoder, which names no classes; --weights {word} starts from it"
        )
    if path.suffix in hub.CHECKPOINT_SUFFIXES and path.suffix != ".safetensors":
        raise UsageError(f"--from {word}: no checkpoint of `rales train`; a pre-trained encoder goes in with --weights")
    if path.suffix in ARTEFACTS:
        raise UsageError(
            f"--from {word}: an artefact of `rales export`, whose weights cannot be trained; give the run folder that "
            "it was made of"
        )
    if not path.is_dir() and not (path.suffix == ".safetensors" and path.is_file()):
        raise UsageError(
            f"--from {word}: expected the folder of a finished run, its checkpoint (.safetensors), or "
            f"{' or '.join(hub.SHIPPED)}"
        )
    return path


def read_trained_model(path: Path) -> TrainedModel:
    """Run folder or its checkpoint -> the trained model. Errors: an unfinished run, a folder with files of two runs, a
    file that is no trained model."""
    run_record = None
    if path.is_dir():
        run_record = read_run_record(path)
        path = path / "best.safetensors"
    if path.suffix in ARTEFACTS:
        raise FileError(path, "an artefact of `rales export` gives probabilities only; here give the run folder")
    tensors, record = run_folder.read_checkpoint(path)
    check_names_classes(record, path)
    if run_record is not None:
        for name, (there, here) in run_folder.find_differences(record, run_record, run_folder.IDENTITY).items():
            raise FileError(
                path, f"its {name} is {here!r}, in config.json it is {there!r}; the folder holds files of two runs"
            )
    return TrainedModel(path, add_encoder(tensors, record, path), record)


def save_calibration(checkpoint: Path, calibration: Mapping[str, Any], out: Path) -> None:
    """Checkpoint and what patients taught its model -> `out` (or the same file), of the same weights, sealed anew."""
    tensors, metadata = read_safetensors(checkpoint)
    record = json.loads(metadata.pop("rales"))
    run_folder.save_tensors(out, tensors, {**record, "calibration": dict(calibration)}, metadata)


def read_run_record(folder: Path) -> dict[str, Any]:
    """Run folder -> config.json. Errors: no run folder, an unfinished run, one that names no classes."""
    if not (folder / "config.json").exists():
        raise FileError(folder, "no run folder (config.json is missing); give the --out of `rales train`")
    if not (folder / "done").exists():
        raise FileError(folder, "the run is not finished; the same train command goes on with it")
    record = run_folder.read_json(folder / "config.json")
    check_names_classes(record, folder)
    return record


def check_names_classes(record: Mapping[str, Any], origin: Path) -> None:
    if record.get("recipe") == "pretrain":
        raise FileError(origin, "a pre-trained encoder, which names no classes; fine-tune it (rales train --weights)")
