"""Open an artefact: front-end, network and softmax or sigmoid in one graph, with the record of its model and answers
to check it by. No PyTorch takes part.

The record holds what the network in float32 answered to three made-up clips. Whoever opens an artefact asks them again,
so a damaged file, or a machine that computes differently, is found before it answers anything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from rales import registry
from rales.environment import count_processors, count_threads
from rales.errors import FileError, FileProblem, UsageError
from rales.export import parity
from rales.export.target import ExportTarget
from rales.inference.engines import ARTEFACT_SUFFIXES, Engine, Probabilities, Waveforms
from rales.inference.predictor import Predictor
from rales.labels import LabelSet
from rales.optional_packages import require_torch, summarise_error
from rales.settings import PaddedWaveform, from_dict
from rales.training.recipe import ExportedRecipe, Recipe
from rales.training.run_records import check_record

# of this package: those that `auto` chooses among
EXPORT_TARGETS: dict[str, ExportTarget] = {name: registry.EXPORT_TARGETS.find(name) for name in ARTEFACT_SUFFIXES}


def find_target(word: str) -> ExportTarget:
    """Name, or FILE.py:NAME -> target. Errors: there is none, or it is something else."""
    target = EXPORT_TARGETS.get(word) or registry.EXPORT_TARGETS.find(word)
    if not isinstance(target, ExportTarget):
        raise UsageError(f"export target {word!r}: is a {type(target).__name__}, expected an ExportTarget")
    return target


def open_artefact(path: Path, to: str, checkpoint: Path | None = None) -> Predictor:
    """File of an artefact, the name of its target, and the checkpoint of the same model if it is at hand -> Predictor
    with its engine.

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
    recipe, about = find_preparation(record, path), record["export"]
    if about["precision"] not in target.precisions:
        expected = ", ".join(target.precisions)
        raise FileError(path, f"its precision is {about['precision']!r}, expected one of {expected}")
    if {len(answer) for answer in about["probe"]} != {len(LabelSet.from_record(record))}:
        raise FileError(path, "the answers that it was made with are not there; export or copy it again")

    with library_errors(f"{path}: {to} could not open it"):
        engine = GraphEngine(target.compile(source, about["precision"]), f"{path}: {to} failed", (path.absolute(), to))
    apart = parity.largest_difference(np.array(about["probe"]), engine(make_probe(recipe)))
    # Half-width and 8-bit numbers round differently on another processor, though never by much more than measured
    allowed = parity.TOLERANCE if about["precision"] == "float32" else 0.02 + 2 * about["probe_difference"]
    if not apart <= allowed:
        raise FileError(
            path,
            f"its answers are {apart:.1e} away from those it was made with; the file is damaged, or {to} computes "
            "differently on this machine: export it again here",
        )
    return Predictor(recipe, record, engine, checkpoint=checkpoint)


def find_preparation(record: dict[str, Any], path: Path) -> Recipe | ExportedRecipe:
    """Record of an artefact, and its file -> how cycles are prepared for it. Errors: a damaged record."""
    check_record(record, str(path))
    if not record["export"].get("whole_cycles"):
        require_torch("an artefact whose system prepares cycles in a way of its own")
        from rales.recipes.registry import rebuild_recipe

        return rebuild_recipe(record, str(path))
    known = [field.name for field in fields(PaddedWaveform)]
    audio = {name: value for name, value in record["config"]["audio"].items() if name in known}
    return ExportedRecipe(record["recipe"], from_dict(PaddedWaveform, audio, str(path)))


def share_engine(model: Predictor) -> Predictor:
    """-> the model, whose engine scores batches side by side where it has fewer threads than there are processors."""
    model.engine(make_probe(model.preparation))  # what it makes at its first call is made before threads share it
    return model.with_engine(model.engine, workers=max(1, count_processors() // count_threads()))


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


class GraphEngine:
    """An engine whose failures are sentences that begin with `what`. Another process opens the same file (path, target)
    again, if it came from one."""

    def __init__(self, engine: Engine, what: str, file: tuple[Path, str] | None = None) -> None:
        self.engine, self.what, self.file = engine, what, file

    def __call__(self, waveforms: Waveforms, /, **_: Any) -> Probabilities:
        with library_errors(self.what):  # extras are of a loss alone, else there would be no graph
            return self.engine(waveforms)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is None:
            raise TypeError("a graph that stands in no file cannot be pickled; save it, and open the file")
        return open_engine, self.file


def open_engine(path: Path, to: str) -> Engine:
    """As `open_artefact` -> the engine alone."""
    return open_artefact(path, to).engine


def make_probe(recipe: Recipe | ExportedRecipe) -> Waveforms:
    """Recipe -> the made-up clips in the length and rate that its network takes."""
    audio = recipe.audio
    return parity.make_probe_clips(round(audio.rate_hz * audio.duration_s), audio.rate_hz)
