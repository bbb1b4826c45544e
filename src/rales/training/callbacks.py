"""Whoever watches a run: callbacks of the caller's own, and those of TensorBoard, W&B, MLflow and trackio.

A callback that fails is named once and left out; the run goes on without it.
"""

import hashlib
import logging
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from rales.errors import UsageError
from rales.files.json_files import flatten_json
from rales.optional_packages import require_packages, summarise_error
from rales.settings import format_value
from rales.training.trackers import TRACKERS

log = logging.getLogger(__name__)
EVENTS = ("start_run", "end_epoch", "end_run")


class Callback(Protocol):
    """What watches runs, one after another where a system trains in several stages."""

    def start_run(self, folder: Path, settings: Mapping[str, Any], run_id: str, /) -> None:
        """A run begins or goes on: its folder, dotted name -> value of its settings, and sixteen digits and letters
        that it keeps when it goes on."""

    def end_epoch(self, epoch: int, figures: Mapping[str, float], /) -> None:
        """An epoch (from 1) is in the run folder: `train/loss`, `test/score` and so on -> figure."""

    def end_run(self, figures: Mapping[str, float], /, *, finished: bool) -> None:
        """A run has ended with these figures of its evaluation, or was stopped: not `finished`, no figures."""


def make_callbacks(given: Iterable[Any]) -> list[Any]:
    """Callbacks, and names of trackers -> callbacks. Errors: another name, a package that is missing, no callback."""
    found = []
    for each in given:
        if isinstance(each, str):
            if each not in TRACKERS:
                raise UsageError(f"callback {each!r}: expected one of {', '.join(TRACKERS)}, or one of your own")
            require_packages(f"logging to {each}", each, each)
            each = TRACKERS[each]()
        if lacking := [name for name in EVENTS if not hasattr(each, name)]:
            raise UsageError(f"callback {each!r}: has no {lacking[0]}; see rales.training.callbacks.Callback")
        found.append(each)
    return found


class Watchers:
    """The callbacks of one run, none of which can stop it; what they print goes to stderr."""

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self.callbacks = list(callbacks)

    def start_run(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Tell of a run: its folder, whose config.json stays as it is when the run goes on, and its record."""
        if self.callbacks:
            born = (folder / "config.json").stat().st_mtime_ns
            run_id = hashlib.sha256(f"{folder.resolve()} {born}".encode()).hexdigest()[:16]
            self._tell("start_run", folder, flatten_settings(record["config"]), run_id)

    def end_epoch(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Tell of an epoch: its lines of metrics.jsonl."""
        epoch, figures = 0, dict[str, float]()
        for line in lines:
            epoch = line["epoch"]
            figures |= {f"{line['split']}/{name}": value for name, value in list_figures(line).items()}
            del figures[f"{line['split']}/epoch"]
        self._tell("end_epoch", epoch, figures)

    def end_run(self, figures: Mapping[str, Any], *, finished: bool = True) -> None:
        """Tell of the end: the figures of evaluation.json. Of several calls the first counts."""
        self._tell("end_run", list_figures(figures), finished=finished)
        self.callbacks.clear()

    def _tell(self, event: str, *about: Any, **options: Any) -> None:
        for callback in list(self.callbacks):
            try:
                with redirect_stdout(sys.stderr):  # stdout may be a JSON document
                    getattr(callback, event)(*about, **options)
            except Exception as error:  # of whichever library it is
                name = type(callback).__name__
                log.warning("%s failed (%s); the run goes on without it", name, summarise_error(error))
                self.callbacks.remove(callback)


def flatten_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a record -> dotted name -> number, true, false or text; of a list its values with commas."""
    return {name: format_value(v) if isinstance(v, list) else v for name, v in flatten_json(config).items()}


def list_figures(found: Mapping[str, Any]) -> dict[str, float]:
    """What a run tells, nested or not -> the finite numbers in it by dotted name; lists are left out."""
    numbers = {name: value for name, value in flatten_json(found).items() if type(value) in (int, float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
