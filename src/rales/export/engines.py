"""Which engine computes a model's probabilities: that of an artefact, the one asked for, or the fastest that agrees."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_path

from rales import predict, runs
from rales.config import UsageError
from rales.devices import processors
from rales.export.artefact import FORMATS, made, need, opened, probe_of
from rales.export.parity import Engine
from rales.predict import Model

MANY = 64  # recordings for which it pays to look for the fastest engine
CLIPS, ROUNDS = 8, 3  # that are scored, how often, to find it

Tell = Callable[[str], None]


def load(
    path_or_name: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    *,
    recordings: int = 0,
    tell: Tell = lambda _: None,
) -> Model:
    """Artefact, or anything `rales.load` takes -> Model whose probabilities come from the engine asked for.

    An artefact is its own engine. Of a run, `onnx` and `openvino` are made once, in float32, and kept in the cache;
    `auto` is the fastest of those that agree with torch to 1e-5, asked once when many `recordings` wait, else torch.
    Many are scored side by side where torch has fewer threads than there are processors. `tell` takes sentences for
    the person. Errors: an artefact that is damaged or not ours, a missing package.
    """
    path = Path(path_or_name or "")
    to = format_of(path)
    if to is not None and not path.is_file():
        raise ValueError(f"{path}: there is no such file; `rales export` writes one")
    if to is not None and engine not in ("auto", to):
        raise UsageError(f"--engine {engine}: {path} is an artefact for {to}; give the run folder instead")
    model = None if to else predict.load(path_or_name, device)
    many = recordings >= MANY and (model is None or model.device.type == "cpu")
    if model is None:
        model = opened(path, str(to))
    elif engine in FORMATS:
        model.engine = prepared(model, engine)
    elif engine == "auto" and model.device.type == "cpu":
        model.engine = fastest(model, many, tell)
    if many:
        model.at_once = max(1, processors() // torch.get_num_threads())
        model.engine(probe_of(model.recipe))  # what it makes at its first call is made before threads share it
    return model


def format_of(path: Path) -> str | None:
    """File name -> the format that its suffix stands for."""
    return next((name for name, file in FORMATS.items() if path.suffix == file.SUFFIX), None)


def prepared(model: Model, to: str) -> Engine:
    """Model -> its float32 engine in a format, from the cache, or made and put there."""
    need(FORMATS[to].PACKAGES)
    path = kept(model).with_suffix(FORMATS[to].SUFFIX)
    for folder, prefix in ((path.parent, "."), (Path(tempfile.gettempdir()), runs.TEMPORARY)):
        runs.remove_abandoned(folder, prefix)  # of a killed process, which may have left the file whole
    if path.is_file():
        with suppress(ValueError):  # damaged, or of a library that has changed since: made again
            return opened(path, to).engine
    artefact = made(model, to, "float32")
    artefact.save(path)
    return artefact.engine


def kept(model: Model) -> Path:
    """Model -> where in the cache what belongs to its engines lives; each file has its own suffix."""
    folder = Path(os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser() / "engines"
    return folder / f"{model.digest[:32]}.json"


def fastest(model: Model, many: bool, tell: Tell) -> Engine:
    """Model -> the fastest engine whose answers are those of torch, as measured on this machine and remembered."""
    memory = kept(model)
    here = {"threads": torch.get_num_threads(), "processors": processors(), **runs.versions(("torch", *FORMATS))}
    known = runs.read_json(memory) if memory.is_file() else {}
    if known.get("here") != here:
        if not many:
            return model.in_torch
        tell("many recordings: looking for the fastest engine, once")
        seconds = race(candidates(model, tell))
        ms = {name: 1000 * statistics.median(values) / CLIPS for name, values in seconds.items()}
        known = {"here": here, "ms": ms}
        runs.write_json(memory, known)
    ms = dict(known["ms"])
    best = min(ms, key=lambda name: ms[name])
    tell(f"engine {best} ({', '.join(f'{name} {value:.1f}' for name, value in ms.items())} ms a cycle)")
    return model.in_torch if best == "torch" else prepared(model, best)


def candidates(model: Model, tell: Tell) -> dict[str, Callable[[], object]]:
    """Model -> the name of every engine that can be had and agrees with torch -> a function that scores some clips."""
    waves = np.repeat(probe_of(model.recipe)[:1], CLIPS, axis=0)
    found: dict[str, Callable[[], object]] = {"torch": partial(model.in_torch, waves)}
    for to in FORMATS:
        try:
            found[to] = partial(prepared(model, to), waves)
        except ValueError as error:  # not installed, or not equal
            tell(f"engine {to} is left out: {error}")
    return found


def race(turns: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Functions that take turns -> seconds of every round, after one that warms up: other programs disturb all alike.

    On one thread the processor's time counts, not the clock's, which is fairer on a busy machine.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(1 + rounds):
        for name, turn in turns.items():
            start = clock()
            turn()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def times_as_fast(own: Sequence[float], other: Sequence[float]) -> float:
    """Seconds of two functions' rounds -> the median over rounds of other / own in the same round."""
    return statistics.median(theirs / ours for ours, theirs in zip(own, other, strict=True))
