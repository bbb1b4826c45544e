"""Which engine computes the probabilities of a run: the one asked for, or the fastest that agrees with PyTorch."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from platformdirs import user_cache_path

from rales.data.dataset import make_preparation
from rales.environment import count_processors, count_threads, limit_threads
from rales.errors import UsageError
from rales.export.artefact import EXPORT_TARGETS, make_probe, open_artefact, share_engine
from rales.export.make_artefact import make_artefact
from rales.files.atomic import TEMPORARY, remove_abandoned
from rales.files.csv_cells import one_line
from rales.files.writers import write_json
from rales.inference.engines import Engine, FallbackEngine
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.optional_packages import package_versions, summarise_error
from rales.training import run_folder

TIMED_CLIPS, TIMING_ROUNDS = 8, 3  # that are scored, how often, to find it

TIMING_PROGRAM = "from rales.export.engine_selection import answer_timing_process; answer_timing_process()"
TIMING_LIMIT_S = 600  # that it may take; the largest model takes one minute on two processors

Tell = Callable[[str], None]


class EngineTimings(NamedTuple):
    """Engine -> seconds of its rounds; a sentence for each that is left out; whether those would be so tomorrow too."""

    seconds: Mapping[str, Sequence[float]]
    left_out: Sequence[str]
    lasting: bool


def load_run_with_engine(
    path_or_name: str | Path | None, engine: str, device: str, *, many: bool, tell: Tell
) -> Predictor:
    """What `load_model` takes -> the model with the engine asked for, as `load.load_with_engine` says."""
    predictor = load_model(path_or_name, device)
    on_processor = predictor.torch_engine.device.type == "cpu"
    many = many and on_processor
    chosen = predictor.engine
    if not takes_waveform_alone(predictor):
        if engine not in ("auto", "torch"):
            raise UsageError(
                f"--engine {engine}: a model of recipe {predictor.recipe.name} sees more than a waveform; leave it out"
            )
        return predictor
    if engine in EXPORT_TARGETS:
        chosen = load_or_make_engine(predictor, engine, tell)
    elif engine not in ("auto", "torch"):
        chosen = make_artefact(predictor, engine, "float32").engine  # not kept: its file may change
    elif engine == "auto" and on_processor:
        chosen = choose_fastest_engine(predictor, path_or_name, many, tell)
    return share_engine(predictor.with_engine(chosen)) if many else predictor.with_engine(chosen)


def takes_waveform_alone(model: Predictor) -> bool:
    """Whether front-end and network see a waveform (B, samples) and nothing else, so that a graph can hold both."""
    modules = (model.torch_engine.frontend, model.network)
    takes = [name for module in modules for name in getattr(module, "takes", ())]
    return not takes and len(make_preparation(model.recipe).shape) == 1


def load_or_make_engine(model: Predictor, to: str, tell: Tell | None = None) -> Engine:
    """Model -> its float32 engine in a format, from the cache, or made and put there. That it could not be put there
    is told, or without a `tell` an error."""
    path = engine_cache_file(model).with_suffix(EXPORT_TARGETS[to].suffix)
    for folder, prefix in ((path.parent, "."), (Path(tempfile.gettempdir()), TEMPORARY)):
        remove_abandoned(folder, prefix)  # of a killed process, which may have left the file whole
    if path.is_file():
        with suppress(ValueError):  # damaged, or of a library that has changed since: made again
            return open_artefact(path, to).engine
    EXPORT_TARGETS[to].require_packages()
    artefact = make_artefact(model, to, "float32")
    try:
        artefact.save(path)
    except Exception as error:
        if tell is None:
            raise
        tell(f"engine {to} could not be kept for the next command: {describe_error(error)}")
    return artefact.engine


def engine_cache_file(model: Predictor) -> Path:
    """Model -> where in the cache what belongs to its engines lives; each file has its own suffix."""
    folder = Path(os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser() / "engines"
    return folder / f"{model.digest[:32]}.json"


def choose_fastest_engine(model: Predictor, path_or_name: str | Path | None, many: bool, tell: Tell) -> Engine:
    """Model, and what it was loaded from -> the fastest engine whose answers are those of torch, as measured on this
    machine and remembered.

    Nobody asked for it, so a failure of any kind, now or when it computes, is a sentence, and torch takes its place.
    """

    def tell_failure(error: Exception) -> None:
        tell(f"the engine failed, so torch goes on in its place: {describe_error(error)}")

    try:
        best = name_fastest_engine(model, path_or_name, many, tell)
        if best == "torch":
            return model.torch_engine
        return FallbackEngine(load_or_make_engine(model, best), model.torch_engine, tell_failure)
    except Exception as error:
        tell(f"no faster engine can be had here, so torch computes: {describe_error(error)}")
        return model.torch_engine


def name_fastest_engine(model: Predictor, path_or_name: str | Path | None, many: bool, tell: Tell) -> str:
    """Model -> the name of the fastest engine: remembered, or found and remembered if `many` recordings wait.

    Errors: a cache that cannot be written to, before the search, as the next command would search again.
    """
    memory = engine_cache_file(model)
    packages = sorted({package for target in EXPORT_TARGETS.values() for package in target.packages})
    here: dict[str, Any] = {
        "threads": count_threads(),
        "processors": count_processors(),
        "address_space": address_space_bytes(),
        **package_versions(("torch", *packages)),
    }
    ms = read_timings(memory, here)
    if not ms and not many:
        return "torch"

    if not ms:
        write_json(memory, {})
        tell("many recordings: looking for the fastest engine, once")
        seconds, left_out, lasting = time_in_own_process(path_or_name, count_threads())
        for sentence in left_out:
            tell(sentence)
        ms = {name: 1000 * statistics.median(values) / TIMED_CLIPS for name, values in seconds.items()}
        if lasting:  # else it is tried again next time: it may have been memory, or a full disk
            write_json(memory, {"here": here, "ms": ms})
    best = min(ms, key=lambda name: ms[name])
    tell(f"engine {best} ({', '.join(f'{name} {value:.1f}' for name, value in ms.items())} ms a cycle)")
    return best


def address_space_bytes() -> int:
    """-> bytes that this process may map, -1 without a limit: an engine found without one may not fit under one."""
    try:
        import resource
    except ImportError:  # Windows
        return -1
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def read_timings(memory: Path, here: Mapping[str, Any]) -> dict[str, float]:
    """File and what decides about engines here -> engine -> ms a cycle; empty if it was not measured here."""
    try:
        known = run_folder.read_json(memory)
        return {str(name): float(value) for name, value in known["ms"].items()} if known["here"] == here else {}
    except Exception:  # not there, or damaged in one of many ways: measured again
        return {}


def time_in_own_process(path_or_name: str | Path | None, threads: int) -> EngineTimings:
    """What a model is loaded from -> what `time_engines` says of it, in a process that may die of what it tries: a
    library built for another processor, or one that does not survive a limit on memory.

    Errors: it died, or has not ended after TIMING_LIMIT_S.
    """
    # -P: a file of the folder that the user stands in is no module. What libraries say when they die helps nobody
    words = [sys.executable, "-P", "-c", TIMING_PROGRAM, str(path_or_name or ""), str(threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **pipes, start_new_session=True) as process:  # type: ignore[call-overload]
        try:
            process.wait(TIMING_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the search has not ended after {TIMING_LIMIT_S} s") from None
        finally:
            process.kill()
        answer = process.stdout.read()
    if process.returncode:
        raise ChildProcessError(f"the process that searched died (exit code {process.returncode})")
    found = json.loads(answer)
    if "error" in found:
        raise ValueError(found["error"])
    return EngineTimings(**found)


def answer_timing_process() -> None:
    """The process of `time_in_own_process`: path and threads from its command line -> JSON on stdout."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    out = os.dup(1)
    os.dup2(2, 1)  # libraries print
    limit_threads(int(sys.argv[2]))
    try:
        answer = time_available_engines(sys.argv[1])._asdict()
    except Exception as error:
        answer = {"error": describe_error(error)}
    os.write(out, json.dumps(answer).encode())


def end_with_parent() -> None:
    """End this process when its stdin is closed, as it is when its parent is killed."""
    os.read(0, 1)
    os._exit(1)


def time_available_engines(path_or_name: str | Path | None) -> EngineTimings:
    """What a model is loaded from -> the seconds of every engine that can be had and agrees with torch, why others are
    left out, and whether for lasting reasons."""
    model = load_model(path_or_name, "cpu")
    waves = np.repeat(make_probe(model.recipe)[:1], TIMED_CLIPS, axis=0)
    found: dict[str, Callable[[], object]] = {"torch": partial(model.torch_engine, waves)}
    left_out, lasting = list[str](), True
    for to in EXPORT_TARGETS:
        try:
            turn = partial(load_or_make_engine(model, to), waves)
            turn()
            found[to] = turn
        except Exception as error:
            left_out.append(f"engine {to} is left out: {describe_error(error)}")
            lasting = lasting and isinstance(error, UsageError)  # it is not installed
    return EngineTimings(time_engines(found), left_out, lasting)


def describe_error(error: Exception) -> str:
    """Error of whatever library -> one line: a sentence of ours as it is, anything else with its kind."""
    return one_line(str(error)) if isinstance(error, ValueError | OSError) else summarise_error(error)


def time_engines(turns: Mapping[str, Callable[[], object]], rounds: int = TIMING_ROUNDS) -> dict[str, list[float]]:
    """Functions that take turns -> seconds of every round, after one that warms up: other programs disturb all alike.

    On one thread the processor's time counts, not the clock's, which is fairer on a busy machine.
    """
    clock = time.process_time if count_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(1 + rounds):
        for name, turn in turns.items():
            start = clock()
            turn()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def speed_ratio(own: Sequence[float], other: Sequence[float]) -> float:
    """Seconds of two functions' rounds -> the median over rounds of other / own in the same round."""
    return statistics.median(theirs / ours for ours, theirs in zip(own, other, strict=True))
