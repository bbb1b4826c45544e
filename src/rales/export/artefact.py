"""The artefact: front-end, network and softmax or sigmoid in one graph, with the record of its model and answers to
check it by.

The record holds what the network in float32 answered to three made-up clips. Whoever opens an artefact asks them again,
so a damaged file, or a machine that computes differently, is found before it answers anything else.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rales import registry
from rales.errors import FileError, FileProblem, UsageError
from rales.export import parity, torch_export
from rales.export.target import ExportTarget
from rales.inference.engines import ARTEFACT_SUFFIXES, Engine, Probabilities, Waveforms
from rales.inference.predictor import Predictor
from rales.labels import LabelSet
from rales.optional_packages import package_versions, summarise_error
from rales.recipes.registry import rebuild_recipe
from rales.training.recipe import Recipe

# of this package: those that `auto` chooses among
EXPORT_TARGETS: dict[str, ExportTarget] = {name: registry.EXPORT_TARGETS.find(name) for name in ARTEFACT_SUFFIXES}


class Artefact(NamedTuple):
    """A graph in a format, the engine that runs it, and the record that is kept with it."""

    target: ExportTarget
    graph: Any
    engine: Engine
    record: dict[str, Any]

    def save(self, out: Path) -> list[Path]:
        """-> the files written."""
        return self.target.save(self.graph, out, self.record)


def find_target(word: str) -> ExportTarget:
    """Name, or FILE.py:NAME -> target. Errors: there is none, or it is something else."""
    target = EXPORT_TARGETS.get(word) or registry.EXPORT_TARGETS.find(word)
    if not isinstance(target, ExportTarget):
        raise UsageError(f"export target {word!r}: is a {type(target).__name__}, expected an ExportTarget")
    return target


def make_artefact(model: Predictor, to: str, precision: str, calibration: Waveforms | None = None) -> Artefact:
    """Export a model.

    Parameters
    ----------
    model
        Its front-end, which may have been fitted or trained, and its network go into the graph.
    to
        Name of an `ExportTarget`, or FILE.py:NAME.
    precision
        One of the target's.
    calibration
        Prepared cycles (N, samples) that int8 is measured on.

    Raises
    ------
    ValueError
        A package that cannot do it; float32 whose answers to the probe miss 1e-5.
    """
    target, clips = find_target(to), make_probe(model.recipe)
    expected = model.torch_engine(clips)
    with library_errors(f"{to} could not make a graph of this model"):
        program = torch_export.trace_graph(torch_export.wave_to_probabilities(model), clips.shape[1])
        graph = target.make(program, precision, calibration)
        engine = with_library_errors(target.compile(graph, precision), f"{to} failed")

    apart = parity.largest_difference(expected, engine(clips))
    if precision == "float32" and not apart <= parity.TOLERANCE:
        raise ValueError(
            f"the {to} graph answers {apart:.1e} away from the network, more than {parity.TOLERANCE:.0e}, so it is not "
            "used; another version of the package may compute better"
        )
    # float32 is the same model, the others are not
    other = "" if precision == "float32" else f"{target.name} {precision}"
    about = {
        "format": target.name,
        "precision": precision,
        "digest": hashlib.sha256((model.digest + other).encode()).hexdigest() if other else model.digest,
        "probe": expected.tolist(),
        "probe_difference": apart,
        "packages": package_versions(tuple(target.packages)),
    }
    return Artefact(target, graph, engine, {**model.record, "export": about})


def open_artefact(path: Path, to: str) -> Predictor:
    """File of an artefact and the name of its target -> Predictor with its engine and without a network of torch.

    Errors: a damaged or cut file, one of something else, one whose answers are no longer those it was made with.
    """
    target = find_target(to)
    target.require_packages(only_to_run=True)
    try:
        source, record = target.read(path)
    except FileProblem:
        raise
    except Exception as error:  # each library has its own kinds
        raise FileError(path, f"damaged, cut or no file for {to}; export or copy it again") from error
    if not isinstance(record, dict) or record.get("export") is None:
        raise FileError(path, "holds no record of Rales, so it is no artefact of `rales export`")
    recipe, about = rebuild_recipe(record, str(path)), record["export"]
    if about["precision"] not in target.precisions:
        expected = ", ".join(target.precisions)
        raise FileError(path, f"its precision is {about['precision']!r}, expected one of {expected}")
    if {len(answer) for answer in about["probe"]} != {len(LabelSet.from_record(record))}:
        raise FileError(path, "the answers that it was made with are not there; export or copy it again")

    with library_errors(f"{path}: {to} could not open it"):
        engine = with_library_errors(target.compile(source, about["precision"]), f"{path}: {to} failed")
    apart = parity.largest_difference(np.array(about["probe"]), engine(make_probe(recipe)))
    # Half-width and 8-bit numbers round differently on another processor, though never by much more than measured
    allowed = parity.TOLERANCE if about["precision"] == "float32" else 0.02 + 2 * about["probe_difference"]
    if not apart <= allowed:
        raise FileError(
            path,
            f"its answers are {apart:.1e} away from those it was made with; the file is damaged, or {to} computes "
            "differently on this machine: export it again here",
        )
    return Predictor(recipe, record, engine)


@contextmanager
def library_errors(what: str) -> Iterator[None]:
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


def with_library_errors(engine: Engine, what: str) -> Engine:
    """Engine -> the same, whose failures are sentences that begin with `what`."""

    def score(waveforms: Waveforms, /, **_: Tensor) -> Probabilities:
        with library_errors(what):  # extras are of a loss alone, else there would be no graph
            return engine(waveforms)

    return score


def make_probe(recipe: Recipe) -> Waveforms:
    """Recipe -> the made-up clips in the length and rate that its network takes."""
    audio = recipe.audio
    return parity.make_probe_clips(round(audio.rate_hz * audio.duration_s), audio.rate_hz)
