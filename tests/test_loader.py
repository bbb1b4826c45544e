"""Batches hold every row once, in an order that only seed and epoch decide, on any number of devices."""

import gc
import threading
import time
from collections import Counter
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.data.dataset import Batch, CycleDataset
from rales.data.loader import ordered_batches, shuffled_batches
from rales.labels import CLASSES

SAMPLES = 16


def dataset_of(inputs: np.ndarray, class_numbers: np.ndarray) -> CycleDataset:
    """Inputs with their classes, and an extra that is twice the row."""
    table = pd.DataFrame({"label": [CLASSES[number] for number in class_numbers]})
    return CycleDataset(table, inputs, {"twice": 2 * np.arange(len(table))})


def data(rows: int) -> CycleDataset:
    """Waveforms whose samples all equal their row, and classes 0-3 in turn."""
    waveforms = np.repeat(np.arange(rows, dtype=np.float32)[:, None], SAMPLES, axis=1)
    return dataset_of(waveforms, np.arange(rows) % 4)


def rows_of(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rales-batches")]


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 50), batch_size=st.integers(1, 20), world=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_row_once_and_slices_make_the_whole_batch(rows: int, batch_size: int, world: int, seed: int) -> None:
    dataset = data(rows)
    whole = list(shuffled_batches(dataset, batch_size, seed=seed, epoch=3))
    assert sorted(rows_of(whole)) == list(range(rows))
    assert [len(batch.rows) for batch in whole[:-1]] == [batch_size] * (len(whole) - 1)
    parts = [list(shuffled_batches(dataset, batch_size, seed=seed, epoch=3, part=(r, world))) for r in range(world)]
    for batch, *slices in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([piece.inputs for piece in slices]), batch.inputs)
        assert torch.equal(torch.cat([piece.label for piece in slices]), batch.label)
        assert np.array_equal(np.concatenate([piece.rows for piece in slices]), batch.rows)
        assert all(torch.equal(piece.whole_label, batch.label) for piece in slices)
        sizes = [len(piece.rows) for piece in slices]
        assert max(sizes) - min(sizes) <= 1


def test_a_batch_holds_what_its_rows_say() -> None:
    dataset = data(10)
    for batch in shuffled_batches(dataset, 4, seed=0, epoch=0):
        assert batch.inputs.dtype == torch.float32
        assert batch.label.dtype == torch.int64
        assert np.array_equal(batch.inputs.numpy(), dataset.inputs[batch.rows])
        assert np.array_equal(batch.label.numpy(), dataset.class_numbers[batch.rows])
        assert np.array_equal(batch.extras["twice"].numpy(), 2 * batch.rows)
        assert torch.equal(batch.whole_label, batch.label)
        batch.inputs.zero_()  # a copy: the array it came from must not change
    assert np.array_equal(dataset.inputs, data(10).inputs)


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_order_depends_on_seed_and_epoch_only(sampler: str) -> None:
    dataset = data(60)

    def order(seed: int, epoch: int) -> list[int]:
        return rows_of(list(shuffled_batches(dataset, 7, seed=seed, epoch=epoch, sampler=sampler)))  # type: ignore[arg-type]

    first = order(1, 2)
    np.random.seed(0)  # noqa: NPY002  the global generators must not matter
    torch.manual_seed(0)
    assert order(1, 2) == first
    assert order(1, 3) != first
    assert order(2, 2) != first
    assert order(2, 1) != first


def test_only_the_given_rows_are_drawn() -> None:
    dataset = data(20)
    chosen = [3, 5, 8, 13, 19]
    assert sorted(rows_of(list(shuffled_batches(dataset, 2, seed=0, epoch=0, rows=chosen)))) == chosen
    assert set(rows_of(list(shuffled_batches(dataset, 2, seed=0, epoch=0, rows=chosen, sampler="balanced")))) <= {
        *chosen
    }


def test_in_order_keeps_the_order_given() -> None:
    dataset = data(11)
    assert rows_of(list(ordered_batches(dataset, 4))) == list(range(11))
    batches = list(ordered_batches(dataset, 2, rows=[9, 2, 2, 5, 0]))
    assert [batch.rows.tolist() for batch in batches] == [[9, 2], [2, 5], [0]]
    assert batches[0].inputs[:, 0].tolist() == [9, 2]


def test_drop_last() -> None:
    dataset = data(11)
    batches = list(shuffled_batches(dataset, 4, seed=0, epoch=0, drop_last=True))
    assert [len(batch.rows) for batch in batches] == [4, 4]
    with pytest.raises(ValueError, match="11 rows do not fill one batch of 12"):
        shuffled_batches(dataset, 12, seed=0, epoch=0, drop_last=True)


def test_balanced_draws_every_class_equally_often() -> None:
    labels = np.repeat([0, 1, 3], [3000, 700, 100])  # class 2 is missing: the others share
    dataset = dataset_of(np.zeros((3800, 1), np.float32), labels)
    batches = list(shuffled_batches(dataset, 64, seed=0, epoch=0, sampler="balanced"))
    counts = Counter(int(label) for batch in batches for label in batch.label)
    assert counts.total() == 3800
    # A third of 3,800 each; the standard deviation is 29.
    assert all(abs(counts[label] - 3800 / 3) < 120 for label in (0, 1, 3))
    rare = Counter(row for row in rows_of(batches) if row >= 3700)
    assert len(rare) == 100
    assert max(rare.values()) < 35  # about 12.7 each: with replacement, and evenly within the class


def test_leaving_early_ends_the_reader() -> None:
    dataset = data(100)
    for batch in shuffled_batches(dataset, 2, seed=0, epoch=0):
        assert len(batch.rows) == 2
        assert len(readers()) == 1
        break
    gc.collect()
    assert readers() == []
    list(shuffled_batches(dataset, 2, seed=0, epoch=0))
    assert readers() == []


class SlowWaves:
    """An array that notes when rows are read, and fails at one of them."""

    shape = (10, SAMPLES)

    def __init__(self, bad_row: int | None = None) -> None:
        self.bad_row = bad_row
        self.read: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> np.ndarray:
        if row == self.bad_row:
            raise OSError("the disk is gone")
        self.read.append(int(row))
        return np.full(SAMPLES, row, np.float32)


def test_the_next_batch_is_read_ahead_and_no_more() -> None:
    waves = SlowWaves()
    batches = ordered_batches(dataset_of(waves, np.zeros(10, np.int64)), 2)  # type: ignore[arg-type]
    assert waves.read == []
    next(batches)
    deadline = time.monotonic() + 5
    while len(waves.read) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert waves.read == [0, 1, 2, 3]


def test_errors_of_the_reader_reach_the_consumer() -> None:
    seen, slow = [], cast(np.ndarray, SlowWaves(bad_row=5))
    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012  the batches before the bad one still come
        for batch in ordered_batches(dataset_of(slow, np.zeros(10, np.int64)), 2):
            seen.append(batch.rows.tolist())  # noqa: PERF401
    assert seen == [[0, 1], [2, 3]]
    assert readers() == []


def test_wrong_arguments_are_sentences_at_once() -> None:
    dataset = data(4)
    with pytest.raises(ValueError, match="4 inputs but 3 rows in the table"):
        ordered_batches(CycleDataset(dataset.table[:3], dataset.inputs), 2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        ordered_batches(dataset, 0)
    with pytest.raises(ValueError, match="no rows"):
        shuffled_batches(dataset, 2, seed=0, epoch=0, rows=[])
    with pytest.raises(ValueError, match=r"part=\(2, 2\)"):
        shuffled_batches(dataset, 2, seed=0, epoch=0, part=(2, 2))
    with pytest.raises(ValueError, match="'stratified' is unknown"):
        shuffled_batches(dataset, 2, seed=0, epoch=0, sampler="stratified")  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "steps"), [(8, 518), (32, 130), (48, 87), (64, 65), (128, 33)])
def test_steps_of_an_epoch_on_the_official_split(size: int, steps: int) -> None:
    """4,142 train cycles at the batch sizes of the published systems; AST drops the last, incomplete batch."""
    dataset = dataset_of(np.zeros((4142, 1), np.float32), np.zeros(4142, np.int64))
    assert len(list(shuffled_batches(dataset, size, seed=0, epoch=1))) == steps
    whole = len(list(shuffled_batches(dataset, size, seed=0, epoch=1, drop_last=True)))
    assert whole == 4142 // size
