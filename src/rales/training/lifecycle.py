"""The life of a run, once for both loops: claim its folder, go on where it was stopped, guard the losses, save."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rales.files.atomic import lock_folder
from rales.models.m2d_checkpoints import check_complete
from rales.progress import progress_bar
from rales.training import run_folder
from rales.training.callbacks import Callback, Watchers
from rales.training.distributed import DistributedContext, init_distributed
from rales.training.optim import load_state_tensors, state_tensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

READ_EVERY = 16  # steps between two readings of the losses
OPTIMISER = "optimiser."  # before the names of an optimiser's tensors in the file that a run goes on from

Optimisers = Mapping[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class Run:
    """A run whose folder is claimed. Of several processes all hold it, and only the first (`context.is_main`) writes.

    `record` is its config.json; `finished` says that the folder holds the whole run already; `progress` whether this
    process shows bars, `watchers` who is told of its epochs.
    """

    folder: Path
    record: dict[str, Any]
    context: DistributedContext
    finished: bool
    progress: bool
    watchers: Watchers = field(default_factory=Watchers)

    def show_progress(self, items: range | None = None, **options: Any) -> Any:
        """Items or a `total`, and tqdm's other options -> tqdm's bar over them."""
        return progress_bar(items, shown=self.progress, **options)

    def check_finite(self, value: float, what: str, epoch: int, step: int, lr_setting: str, lr: float) -> None:
        """Stop a diverged training, before anything of this epoch is in the folder.

        So a run without a whole epoch can be started anew there, with other settings too; another goes on from its
        last whole epoch with the same. `lr_setting` is the name of the setting whose value is `lr`.
        Errors: `value` (a loss, or the largest weight) is no finite number.
        """
        if math.isfinite(value):
            return
        again = "this folder can be used again"
        if run_folder.has_resume(self.folder):
            again = "with another --out, or without this folder, which holds the epochs before"
        raise ValueError(
            f"{self.folder}: {what} is {value} in epoch {epoch}, step {step}; "
            f"use a lower {lr_setting} than {lr:g} ({again})"
        )

    def save_resume(self, weights: Mapping[str, Tensor], optimisers: Optimisers, state: Mapping[str, Any]) -> None:
        """Write all that going on needs, in one file: a kill at any moment is harmless."""
        moments: dict[str, Tensor] = {}
        for name, optimiser in optimisers.items():
            moments |= state_tensors(optimiser, f"{OPTIMISER}{name}.")
        about = {**self.record, "epoch": state["epoch"], "state": state}
        run_folder.save_resume(self.folder, {**weights, **moments}, about)


def join_processes(folder: Path, device: str, precision: str) -> DistributedContext:
    """Where a run computes: an unfinished one goes on in the precision that it began in, whatever "auto" says now."""
    if precision == "auto":
        precision = run_folder.stored_precision(folder) or precision
    return init_distributed(device, precision)


@contextmanager
def open_run(
    folder: Path,
    record: Mapping[str, Any],
    context: DistributedContext,
    *,
    section: "type[DataclassInstance] | None" = None,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Iterator[Run]:
    """Claim a run folder for as long as the `with` statement lasts, made or reopened by the first process, which tells
    the callbacks of the run if it has not ended before; `section` as of `run_folder.begin_run`.

    Errors: another process is at work there; the folder holds a run of other settings, or other files.
    """
    full_record = {**record, "computed_in": context.describe()}
    with lock_folder(folder) if context.is_main else nullcontext():
        finished = context.is_main and run_folder.begin_run(folder, full_record, section)
        finished = any(context.gather(finished))  # and nobody reads the folder before the first process has made it
        watchers = Watchers(callbacks if context.is_main and not finished else ())
        watchers.start_run(folder, full_record)
        try:
            yield Run(folder, full_record, context, finished, progress and context.is_main, watchers)
        finally:
            watchers.end_run({}, finished=False)


def load_resume(
    folder: Path,
    record: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor],
    load_weights: Callable[[dict[str, Tensor]], object],
    optimisers: Optimisers,
    check_state: Callable[[Any, str], None],
) -> dict[str, Any] | None:
    """Load what `Run.save_resume` wrote last, if it did.

    Parameters
    ----------
    folder : the run folder.
    record : the run's record, which must be that of the file.
    weights : the tensors that the file must hold, by name.
    load_weights : takes those tensors.
    optimisers : their moments are loaded.
    check_state : called with the stored state and the name of the file; raises ValueError for what is none.

    Returns
    -------
    The state that was stored, or None where there is nothing to go on from.
    """

    def take(tensors: Mapping[str, Tensor], stored: Mapping[str, Any], path: Path) -> None:
        run_folder.check_same_run(path, stored, record)
        check_state(stored.get("state"), str(path))

        stored_weights = {name: value for name, value in tensors.items() if not name.startswith(OPTIMISER)}
        check_complete(stored_weights, weights, path)
        load_weights(stored_weights)
        for name, optimiser in optimisers.items():
            load_state_tensors(optimiser, tensors, f"{OPTIMISER}{name}.", path)

    return run_folder.read_resume(folder, take)


@dataclass
class LossSums:
    """Sums over the steps of an epoch of its losses, which stay on the device for up to READ_EVERY steps.

    Reading a number from a GPU waits for all work that was queued before it, so a reading after every micro-batch would
    leave the GPU idle between any two. A loss that is not finite is therefore noticed some steps late, though told
    with the step it appeared in; and as `read` stands before everything that is written, nothing of a diverged epoch
    reaches the folder.
    """

    run: Run
    epoch: int
    lr_setting: str
    lr: float
    sums: dict[str, float]  # by name; that of "loss" is watched
    pending: list[tuple[int, str, float, Tensor]] = field(default_factory=list)  # step (from 1), name, factor, value

    def add(self, step: int, factor: float = 1.0, **values: Tensor) -> None:
        """Step (from 1) and scalars by name, whose sums grow by `factor` times their values."""
        self.pending += [(step, name, factor, value.detach()) for name, value in values.items()]
        if step >= self.pending[0][0] + READ_EVERY:
            self.read()

    def read(self) -> dict[str, float]:
        """-> the sums. Errors: the loss is no finite number."""
        values = torch.stack([value for *_, value in self.pending]).tolist() if self.pending else []
        for (step, name, factor, _), value in zip(self.pending, values, strict=True):
            self.sums[name] += factor * value
            if name == "loss":
                self.run.check_finite(self.sums[name], "the loss", self.epoch, step, self.lr_setting, self.lr)
        self.pending.clear()
        return self.sums
