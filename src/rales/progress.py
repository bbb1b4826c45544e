"""Show the progress of a job: a bar at a terminal or in a notebook, whole lines in a log."""

import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import std

LOG_EVERY_S = 60.0
LOG_LINE = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    shown: bool,
    log_every_s: float = LOG_EVERY_S,
    **options: Any,
) -> "std.tqdm[Any]":
    """Items or a `total`, and tqdm's other options -> tqdm's bar over them, for use in a `with` statement.

    Not shown, it writes nothing. Where stderr is neither a terminal nor a notebook it is a `LineLog`, which writes a
    line every `log_every_s` seconds: a job that takes less says nothing.
    """
    if not shown:
        return std.tqdm(items, disable=True, **options)
    if "ipykernel.zmqshell" in sys.modules:  # a notebook: its widget, or where that is not installed a bar of letters
        with warnings.catch_warnings(action="ignore", category=std.TqdmWarning):
            from tqdm import auto

        return auto.tqdm(items, **options)
    if sys.stderr.isatty():
        return std.tqdm(items, **options)
    return LineLog(items, mininterval=log_every_s, miniters=1, smoothing=0, delay=1e-9, bar_format=LOG_LINE, **options)


def close_bars() -> None:
    """End every bar where it stands, so that what is written next begins a line."""
    for bar in list(getattr(std.tqdm, "_instances", ())):
        bar.close()


class LineLog(std.tqdm):  # type: ignore[type-arg]
    """tqdm whose every display is a line of its own, since a carriage return tears the lines of a file."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.fp.write(f"{self}\n")
        self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        pass

    def close(self) -> None:
        self.disable = True
