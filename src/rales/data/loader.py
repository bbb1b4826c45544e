"""Rows of a dataset -> batches: shuffled for training, in order for evaluation."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rales.data.dataset import Batch, CycleDataset, Rows, index_extras
from rales.data.prefetch import prefetch_ahead


def shuffled_batches(
    dataset: CycleDataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rows: Sequence[int] | NDArray[np.integer] | None = None,
    sampler: Literal["shuffle", "balanced"] = "shuffle",
    drop_last: bool = False,
    part: tuple[int, int] = (0, 1),
    pin: bool = False,
) -> Iterator[Batch]:
    """Dataset of N rows -> the batches of one epoch in an order that only (seed, epoch) decide.

    `rows` are the positions to draw from (default: all). "shuffle" gives each of them once; "balanced" draws as many
    with replacement, every class equally often on average. `part=(rank, world)` yields the rank-th contiguous slice of
    every batch: all ranks draw the same order, so a batch holds the same rows on any number of devices. Slices differ
    by at most one row, and in a last batch shorter than `world` some are empty, so that all ranks take as many steps.
    `pin` puts the inputs into page-locked memory for a faster copy to a GPU.
    """
    chosen = _checked_rows(dataset, batch_size, rows)
    rank, world = part
    if not 0 <= rank < world:
        raise ValueError(f"part=({rank}, {world}): expected (rank, world) with 0 <= rank < world")
    if drop_last and len(chosen) < batch_size:
        raise ValueError(
            f"{len(chosen)} rows do not fill one batch of {batch_size} and drop_last leaves nothing; "
            "use a smaller batch_size or drop_last=False"
        )
    random = np.random.default_rng([seed, epoch])
    if sampler == "shuffle":
        order = random.permutation(chosen)
    elif sampler == "balanced":
        _, class_of, counts = np.unique(dataset.class_numbers[chosen], return_inverse=True, return_counts=True)
        chance = 1 / (len(counts) * counts[class_of])
        order = random.choice(chosen, size=len(chosen), p=chance)
    else:
        raise ValueError(f'sampler {sampler!r} is unknown; expected "shuffle" or "balanced"')
    whole = [batch for batch in _split_order(order, batch_size) if not drop_last or len(batch) == batch_size]
    return _prefetch_batches(dataset, whole, part, pin)


def ordered_batches(
    dataset: CycleDataset,
    batch_size: int,
    *,
    rows: Sequence[int] | NDArray[np.integer] | None = None,
    pin: bool = False,
) -> Iterator[Batch]:
    """Dataset of N rows -> batches of the given `rows` (default: all), each once, in their order."""
    chosen = _checked_rows(dataset, batch_size, rows)
    return _prefetch_batches(dataset, _split_order(chosen, batch_size), (0, 1), pin)


def _prefetch_batches(dataset: CycleDataset, whole: list[Rows], part: tuple[int, int], pin: bool) -> Iterator[Batch]:
    """Yields the batches while one thread reads the next; leaving early waits for that read and ends it."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rales-batches") as reader:
        reads = (reader.submit(_read_batches, dataset, batch, part, pin) for batch in whole)
        yield from map(Future.result, prefetch_ahead(reads, 1))


def _read_batches(dataset: CycleDataset, whole: Rows, part: tuple[int, int], pin: bool) -> Batch:
    """Rows of a whole batch, and (rank, world) -> the Batch of this rank's slice."""
    rank, world = part
    rows = np.array_split(whole, world)[rank]
    inputs = torch.empty((len(rows), *dataset.inputs.shape[1:]), dtype=torch.float32, pin_memory=pin)
    target = inputs.numpy()
    # Row by row straight into the (pinned) target: one copy. Sorting the rows by disk position first gained nothing,
    # neither from a warm nor from a cold page cache, since a row is 500 kB.
    for i, row in enumerate(rows):
        target[i] = dataset.inputs[row]
    label = dataset.class_numbers
    return Batch(
        inputs=inputs,
        label=torch.from_numpy(label[rows]),
        rows=rows,
        whole_label=torch.from_numpy(label[whole]),
        extras=index_extras(dataset.extras, rows),
    )


def _checked_rows(dataset: CycleDataset, batch_size: int, rows: Sequence[int] | NDArray[np.integer] | None) -> Rows:
    if len(dataset) != len(dataset.table):
        raise ValueError(f"{len(dataset)} inputs but {len(dataset.table)} rows in the table; expected one for each")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    chosen = np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(chosen) == 0:
        raise ValueError("there are no rows to make batches of; expected at least one cycle")
    return chosen


def _split_order(order: Rows, batch_size: int) -> list[Rows]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
