"""The artefact: front-end, network and softmax in one graph, with the record of its model and answers to check it by.

The record holds what the network in float32 answered to three made-up clips. Whoever opens an artefact asks them again,
so a damaged file, or a machine that computes differently, is found before it answers anything else.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from rales.config import Recipe
from rales.export import onnx, openvino, parity, torch_export
from rales.export.parity import Engine, Probabilities, Waves
from rales.inference.predictor import Model
from rales.labels import CLASSES
from rales.optional_packages import require_packages, summarise_error
from rales.recipes.registry import rebuild_recipe
from rales.training import run_folder

FORMATS: dict[str, ModuleType] = {"openvino": openvino, "onnx": onnx}


class Artefact(NamedTuple):
    """A graph in a format, the engine that runs it, and the record that is kept with it."""

    to: str
    graph: Any
    engine: Engine
    record: dict[str, Any]

    def save(self, out: Path) -> list[Path]:
        """-> the files written."""
        files: list[Path] = FORMATS[self.to].save(self.graph, out, self.record)
        return files


def made(model: Model, to: str, precision: str, calibration: Waves | None = None) -> Artefact:
    """Model -> artefact. Errors: a package that cannot do it; float32 whose answers to the probe miss 1e-5."""
    clips = probe_of(model.recipe)
    expected = model.in_torch(clips)
    with in_sentences(f"{to} could not make a graph of this model"):
        program = torch_export.traced(torch_export.whole(model), clips.shape[1])
        made_graph = FORMATS[to].make(program, precision, calibration)
        engine = spoken(FORMATS[to].compiled(made_graph, precision), f"{to} failed")
    apart = parity.difference(expected, engine(clips))
    if precision == "float32" and not apart <= parity.TOLERANCE:
        raise ValueError(
            f"the {to} graph answers {apart:.1e} away from the network, more than {parity.TOLERANCE:.0e}, so it is not "
            "used; another version of the package may compute better"
        )
    other = "" if precision == "float32" else f"{to} {precision}"  # float32 is the same model, the others are not
    about = {
        "format": to,
        "precision": precision,
        "digest": hashlib.sha256((model.digest + other).encode()).hexdigest() if other else model.digest,
        "probe": expected.tolist(),
        "probe_difference": apart,
        "packages": run_folder.versions(FORMATS[to].PACKAGES),
    }
    return Artefact(to, made_graph, engine, {**model.record, "export": about})


def opened(path: Path, to: str) -> Model:
    """File of an artefact -> Model with its engine and without a network of torch.

    Errors: a damaged or cut file, one of something else, one whose answers are no longer those it was made with.
    """
    file = FORMATS[to]
    need({package: extra for package, extra in file.PACKAGES.items() if package not in file.ONLY_TO_MAKE})
    try:
        source, record = file.read(path)
    except Exception as error:  # each library has its own kinds
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: damaged, cut or no file for {to}; export or copy it again") from error
    if not isinstance(record, dict) or record.get("export") is None:
        raise ValueError(f"{path}: holds no record of Rales, so it is no artefact of `rales export`")
    recipe, about = rebuild_recipe(record, str(path)), record["export"]
    if about["precision"] not in file.PRECISIONS:
        raise ValueError(
            f"{path}: its precision is {about['precision']!r}, expected one of {', '.join(file.PRECISIONS)}"
        )
    if {len(answer) for answer in about["probe"]} != {len(CLASSES)}:
        raise ValueError(f"{path}: the answers that it was made with are not there; export or copy it again")
    with in_sentences(f"{path}: {to} could not open it"):
        engine = spoken(file.compiled(source, about["precision"]), f"{path}: {to} failed")
    apart = parity.difference(np.array(about["probe"]), engine(probe_of(recipe)))
    # Half-width and 8-bit numbers round differently on another processor, though never by much more than measured
    allowed = parity.TOLERANCE if about["precision"] == "float32" else 0.02 + 2 * about["probe_difference"]
    if not apart <= allowed:
        raise ValueError(
            f"{path}: its answers are {apart:.1e} away from those it was made with; the file is damaged, or {to} "
            "computes differently on this machine: export it again here"
        )
    return Model(recipe, torch.nn.Module(), record, torch.device("cpu"), engine)


@contextmanager
def in_sentences(what: str) -> Iterator[None]:
    """What is tried -> whatever a library raises meanwhile, each its own kinds, is a ValueError that says so."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(
            f"{what} ({summarise_error(error)}); another version of its package or more memory may help; "
            "a run folder with --engine torch does without"
        ) from error


def spoken(engine: Engine, what: str) -> Engine:
    """Engine -> the same, whose failures are sentences that begin with `what`."""

    def scored(waves: Waves) -> Probabilities:
        with in_sentences(what):
            return engine(waves)

    return scored


def probe_of(recipe: Recipe) -> Waves:
    """Recipe -> the made-up clips in the length and rate that its network takes."""
    audio = recipe.config.audio
    return parity.probe(round(audio.rate_hz * audio.duration_s), audio.rate_hz)


def need(packages: Mapping[str, str]) -> None:
    """Packages and the extra that each is in -> a UsageError that says what to install if one is missing."""
    for package, extra in packages.items():
        require_packages("an artefact of `rales export`", extra, package)
