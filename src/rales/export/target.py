"""What a format of exported artefacts has to know: one `ExportTarget`, of this package or of anybody's file."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales.inference.engines import Engine, Waveforms
from rales.optional_packages import require_packages

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ExportTarget:
    """A format, and the functions that make, keep and run graphs of it.

    Parameters
    ----------
    name
        Word of `rales export --to` and of `--engine`, in sentences too.
    suffix
        What the names of its files end in.
    precisions
        The first is float32, whose answers are held to 1e-5.
    packages
        Package -> the extra of Rales that it is in.
    make
        Traced program, precision and prepared cycles (for int8) -> graph.
    compile
        Graph, or what `read` gave, and precision -> engine.
    save
        Write graph and record to a path, sealed; -> the files written.
    read
        Path -> what `compile` takes, and the record. Errors: other bytes than were written, another's file, each with
        the path.
    only_to_make
        Packages that nobody needs who runs an artefact.
    to_quantize
        Packages that int8 needs beside.
    """

    name: str
    suffix: str
    precisions: tuple[str, ...]
    packages: Mapping[str, str]
    make: Callable[[torch.export.ExportedProgram, str, Waveforms | None], Any]
    compile: Callable[[Any, str], Engine]
    save: Callable[[Any, Path, dict[str, Any]], list[Path]]
    read: Callable[[Path], tuple[Any, Any]]
    only_to_make: Sequence[str] = ()
    to_quantize: Mapping[str, str] = field(default_factory=dict)

    def require_packages(self, precision: str = "float32", *, only_to_run: bool = False) -> None:
        """Errors: a UsageError that says what to install if a package is missing."""
        extra = self.to_quantize if precision == "int8" else {}
        for package, of_extra in {**self.packages, **extra}.items():
            if not (only_to_run and package in self.only_to_make):
                require_packages("an artefact of `rales export`", of_extra, package)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """While libraries convert: their notes on inner affairs stay out of the command's messages, and their progress goes
    to stderr."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
