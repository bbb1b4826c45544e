"""Which engine computes a model's probabilities: that of an artefact, the one asked for, or the fastest that agrees."""

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
import torch
from platformdirs import user_cache_path

from rales.errors import UsageError
from rales.export.artefact import FORMATS, made, need, opened, probe_of
from rales.export.parity import Engine, Probabilities, Waves
from rales.files.atomic import TEMPORARY, remove_abandoned
from rales.files.csv_cells import one_line
from rales.inference import predictor
from rales.inference.predictor import Model
from rales.optional_packages import summarise_error
from rales.training import run_folder
from rales.training.distributed import processors

MANY = 64  # recordings for which it pays to look for the fastest engine
CLIPS, ROUNDS = 8, 3  # that are scored, how often, to find it

SEARCH = "from rales.export.engine_selection import answer_search; answer_search()"
SEARCH_S = 600  # that it may take; the largest model takes one minute on two processors

Tell = Callable[[str], None]


class Found(NamedTuple):
    """Engine -> seconds of its rounds; a sentence for each that is left out; whether those would be so tomorrow too."""

    seconds: Mapping[str, Sequence[float]]
    left_out: Sequence[str]
    lasting: bool


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
    `auto` is the fastest of those that agree with torch to 1e-5, asked once when many `recordings` wait, else torch;
    whatever keeps an engine that nobody asked for from being had is told, and torch computes. Many are scored side by
    side where torch has fewer threads than there are processors. `tell` takes sentences for the person. Errors: an
    artefact that is damaged or not ours, a package that is missing or fails.
    """
    path = Path(path_or_name or "")
    to = format_of(path)
    if to is not None and not path.is_file():
        raise ValueError(f"{path}: there is no such file; `rales export` writes one")
    if to is not None and engine not in ("auto", to):
        raise UsageError(f"--engine {engine}: {path} is an artefact for {to}; give the run folder instead")
    model = None if to else predictor.load(path_or_name, device)
    many = recordings >= MANY and (model is None or model.device.type == "cpu")
    if model is None:
        model = opened(path, str(to))
    elif engine in FORMATS:
        model.engine = prepared(model, engine, tell)
    elif engine == "auto" and model.device.type == "cpu":
        model.engine = fastest(model, path_or_name, many, tell)
    if many:
        model.at_once = max(1, processors() // torch.get_num_threads())
        model.engine(probe_of(model.recipe))  # what it makes at its first call is made before threads share it
    return model


def format_of(path: Path) -> str | None:
    """File name -> the format that its suffix stands for."""
    return next((name for name, file in FORMATS.items() if path.suffix == file.SUFFIX), None)


def prepared(model: Model, to: str, tell: Tell | None = None) -> Engine:
    """Model -> its float32 engine in a format, from the cache, or made and put there. That it could not be put there
    is told, or without a `tell` an error."""
    path = kept(model).with_suffix(FORMATS[to].SUFFIX)
    for folder, prefix in ((path.parent, "."), (Path(tempfile.gettempdir()), TEMPORARY)):
        remove_abandoned(folder, prefix)  # of a killed process, which may have left the file whole
    if path.is_file():
        with suppress(ValueError):  # damaged, or of a library that has changed since: made again
            return opened(path, to).engine
    need(FORMATS[to].PACKAGES)
    artefact = made(model, to, "float32")
    try:
        artefact.save(path)
    except Exception as error:
        if tell is None:
            raise
        tell(f"engine {to} could not be kept for the next command: {told(error)}")
    return artefact.engine


def kept(model: Model) -> Path:
    """Model -> where in the cache what belongs to its engines lives; each file has its own suffix."""
    folder = Path(os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser() / "engines"
    return folder / f"{model.digest[:32]}.json"


def fastest(model: Model, path_or_name: str | Path | None, many: bool, tell: Tell) -> Engine:
    """Model, and what it was loaded from -> the fastest engine whose answers are those of torch, as measured on this
    machine and remembered.

    Nobody asked for it, so a failure of any kind, now or when it computes, is a sentence, and torch takes its place.
    """
    try:
        best = winner(model, path_or_name, many, tell)
        return model.in_torch if best == "torch" else backed(prepared(model, best), model, tell)
    except Exception as error:
        tell(f"no faster engine can be had here, so torch computes: {told(error)}")
        return model.in_torch


def winner(model: Model, path_or_name: str | Path | None, many: bool, tell: Tell) -> str:
    """Model -> the name of the fastest engine: remembered, or found and remembered if `many` recordings wait.

    Errors: a cache that cannot be written to, before the search, as the next command would search again.
    """
    memory, packages = kept(model), {package for file in FORMATS.values() for package in file.PACKAGES}
    here: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "processors": processors(),
        "address_space": address_space(),
    }
    here |= run_folder.versions(("torch", *sorted(packages)))
    ms = remembered(memory, here)
    if not ms and not many:
        return "torch"
    if not ms:
        run_folder.write_json(memory, {})
        tell("many recordings: looking for the fastest engine, once")
        seconds, left_out, lasting = in_own_process(path_or_name, torch.get_num_threads())
        for sentence in left_out:
            tell(sentence)
        ms = {name: 1000 * statistics.median(values) / CLIPS for name, values in seconds.items()}
        if lasting:  # else it is tried again next time: it may have been memory, or a full disk
            run_folder.write_json(memory, {"here": here, "ms": ms})
    best = min(ms, key=lambda name: ms[name])
    tell(f"engine {best} ({', '.join(f'{name} {value:.1f}' for name, value in ms.items())} ms a cycle)")
    return best


def address_space() -> int:
    """-> bytes that this process may map, -1 without a limit: an engine found without one may not fit under one."""
    try:
        import resource
    except ImportError:  # Windows
        return -1
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def remembered(memory: Path, here: Mapping[str, Any]) -> dict[str, float]:
    """File and what decides about engines here -> engine -> ms a cycle; empty if it was not measured here."""
    try:
        known = run_folder.read_json(memory)
        return {str(name): float(value) for name, value in known["ms"].items()} if known["here"] == here else {}
    except Exception:  # not there, or damaged in one of many ways: measured again
        return {}


def in_own_process(path_or_name: str | Path | None, threads: int) -> Found:
    """What a model is loaded from -> what `search` says of it, in a process that may die of what it tries: a library
    built for another processor, or one that does not survive a limit on memory.

    Errors: it died, or has not ended after SEARCH_S.
    """
    # -P: a file of the folder that the user stands in is no module. What libraries say when they die helps nobody
    words = [sys.executable, "-P", "-c", SEARCH, str(path_or_name or ""), str(threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **pipes, start_new_session=True) as process:  # type: ignore[call-overload]
        try:
            process.wait(SEARCH_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the search has not ended after {SEARCH_S} s") from None
        finally:
            process.kill()
        answer = process.stdout.read()
    if process.returncode:
        raise ChildProcessError(f"the process that searched died (exit code {process.returncode})")
    found = json.loads(answer)
    if "error" in found:
        raise ValueError(found["error"])
    return Found(**found)


def answer_search() -> None:
    """The process of `in_own_process`: path and threads from its command line -> JSON on stdout."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    out = os.dup(1)
    os.dup2(2, 1)  # libraries print
    torch.set_num_threads(int(sys.argv[2]))
    try:
        answer = search(sys.argv[1])._asdict()
    except Exception as error:
        answer = {"error": told(error)}
    os.write(out, json.dumps(answer).encode())


def end_with_parent() -> None:
    """End this process when its stdin is closed, as it is when its parent is killed."""
    os.read(0, 1)
    os._exit(1)


def search(path_or_name: str | Path | None) -> Found:
    """What a model is loaded from -> the seconds of every engine that can be had and agrees with torch, why others are
    left out, and whether for lasting reasons."""
    model = predictor.load(path_or_name, "cpu")
    waves = np.repeat(probe_of(model.recipe)[:1], CLIPS, axis=0)
    found: dict[str, Callable[[], object]] = {"torch": partial(model.in_torch, waves)}
    left_out, lasting = list[str](), True
    for to in FORMATS:
        try:
            turn = partial(prepared(model, to), waves)
            turn()
            found[to] = turn
        except Exception as error:
            left_out.append(f"engine {to} is left out: {told(error)}")
            lasting = lasting and isinstance(error, UsageError)  # it is not installed
    return Found(race(found), left_out, lasting)


def backed(engine: Engine, model: Model, tell: Tell) -> Engine:
    """Engine that nobody asked for -> the same until it fails; from then on torch answers in its place."""
    failed = threading.Event()

    def scored(waves: Waves) -> Probabilities:
        if not failed.is_set():
            try:
                return engine(waves)
            except Exception as error:
                failed.set()
                tell(f"the engine failed, so torch goes on in its place: {told(error)}")
        return model.in_torch(waves)

    return scored


def told(error: Exception) -> str:
    """Error of whatever library -> one line: a sentence of ours as it is, anything else with its kind."""
    return one_line(str(error)) if isinstance(error, ValueError | OSError) else summarise_error(error)


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
