"""Make an artefact of a model in PyTorch, and hold its answers against the network's."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from rales.export import parity, torch_export
from rales.export.artefact import GraphEngine, find_target, library_errors, make_probe
from rales.export.target import ExportTarget
from rales.inference.engines import Engine, Waveforms
from rales.inference.predictor import Predictor
from rales.optional_packages import package_versions
from rales.settings import PaddedWaveform


class Artefact(NamedTuple):
    """A graph in a format, the engine that runs it, and the record that is kept with it."""

    target: ExportTarget
    graph: Any
    engine: Engine
    record: dict[str, Any]

    def save(self, out: Path) -> list[Path]:
        """-> the files written."""
        return self.target.save(self.graph, out, self.record)


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
        engine = GraphEngine(target.compile(graph, precision), f"{to} failed")

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
        "whole_cycles": model.recipe.rows is None and isinstance(model.recipe.audio, PaddedWaveform),
        "packages": package_versions(tuple(target.packages)),
    }
    return Artefact(target, graph, engine, {**model.record, "export": about})
