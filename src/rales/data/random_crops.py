"""Read random crops of equal length from recordings of any length, as they are needed.

Every draw follows from (seed, epoch, item), so an epoch can be begun anywhere and ends with the same batches, in any
number of threads and processes. Lists repeat up to a wanted number of items an epoch, as in nttcslab/m2d.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rales.audio import io
from rales.audio.open_audio import NoRoom
from rales.data.corpus import Corpus
from rales.data.prefetch import prefetch_ahead
from rales.typing import IntArray, Waveform

ORDER, CROP, NOISE, NOISE_CHOICE, STATISTICS = 1, 2, 3, 4, 5  # streams of random numbers
SILENT_TRIES = 4
BROKEN_IN_A_ROW = 100
LONG_S = 3600.0
AHEAD = 3  # pieces of batches read while one is worked on


class UnusableRecording(ValueError):
    """A recording of which no crop at all can be taken; the sentence names it."""


class Crop(NamedTuple):
    """One crop of a batch, and the sentences about the recordings it was to come from."""

    wave: Waveform
    notes: list[dict[str, str]]


class CropChunk(NamedTuple):
    """The crops of one batch, or as many of them as are in memory at once."""

    wave: Tensor  # (b, samples) float32
    noise: Tensor | None  # (b, samples) float32
    notes: list[dict[str, str]]  # recordings passed over or very long: recording, what, why
    step: int  # number of its batch in the epoch, from 0
    rows: slice  # its places in the whole batch
    last: bool  # of its batch


@dataclass(frozen=True)
class CropDataset:
    """A collection as crops of `samples` at `rate_hz`.

    A shorter recording is followed by silence ("zero", as the reference's converter does) or starts again ("repeat").
    Recordings shorter than `shortest_s`, silent or damaged ones are passed over: the next one in the list takes their
    place, and a note says so.
    """

    collection: Corpus
    samples: int
    rate_hz: int = 16000
    pad: Literal["zero", "repeat"] = "zero"
    shortest_s: float = 0.2
    stream: int = CROP
    # Recordings found unusable, not opened again. One that is damaged in the middle is not among them, since whether a
    # crop meets the damage hangs on its draw, and a run that went on after a stop has not made the draws before.
    broken: set[int] = field(default_factory=set)

    def crop(self, item: int, *, seed: int, epoch: int) -> Crop:
        """Item of an epoch -> its crop: start drawn evenly over the recording, the same at every call.

        Errors: BROKEN_IN_A_ROW recordings one after the other of which none can be used.
        """
        notes: list[dict[str, str]] = []
        for place in range(min(BROKEN_IN_A_ROW, len(self.collection))):
            number = (item + place) % len(self.collection)
            if number in self.broken:
                continue
            path = str(self.collection.path(number))
            random = np.random.default_rng([self.stream, seed, epoch, item, place])
            try:
                sound, duration_s = self.cut(path, random)
            except NoRoom:
                raise
            except (ValueError, OSError) as error:
                if isinstance(error, UnusableRecording):
                    self.broken.add(number)
                notes.append({"recording": path, "what": "passed over", "why": str(error)})
                continue
            if duration_s > LONG_S:
                why = f"{duration_s:.0f} s long; every item of an epoch is one crop of it"
                notes.append({"recording": path, "what": "cropped", "why": why})
            return Crop(sound, notes)
        first = self.collection.path(item % len(self.collection))
        raise ValueError(
            f"{first}: this and the {BROKEN_IN_A_ROW - 1} recordings after it, or all there are, cannot be used "
            f"({notes[-1]['why'] if notes else 'see the notes before'}); check the collection"
        )

    def cut(self, path: str, random: np.random.Generator) -> tuple[Waveform, float]:
        """File -> (samples,) drawn from it, and its length in seconds; only that stretch of the file is read."""
        try:
            facts = io.read_audio_info(path)
        except NoRoom:
            raise
        except (ValueError, OSError) as error:
            raise UnusableRecording(str(error)) from error
        if facts.duration_s < self.shortest_s:
            raise UnusableRecording(f"{path}: {facts.duration_s:.3f} s long, expected {self.shortest_s:g} s or more")
        wanted = -(-self.samples * facts.rate_hz // self.rate_hz) + 1  # frames of the file; one more for rounding
        spare = max(facts.frames - wanted, 0)
        for _ in range(SILENT_TRIES if spare else 1):
            begin = int(random.integers(0, spare + 1))
            sound = read_frames(path, begin, begin + wanted, facts.rate_hz)
            if sound.any():
                return self.whole(sound, facts.rate_hz), facts.duration_s
        # Mostly silent: the first stretch that is not, so that what is called silent hangs on no draw
        for begin in range(0, facts.frames, wanted):
            if read_frames(path, begin, begin + wanted, facts.rate_hz).any():
                sound = read_frames(path, min(begin, spare), begin + wanted, facts.rate_hz)
                return self.whole(sound, facts.rate_hz), facts.duration_s
        raise UnusableRecording(f"{path}: digital silence, every sample is zero")

    def whole(self, sound: Waveform, native_hz: int) -> Waveform:
        """Stretch of a recording at its own rate -> (samples,)."""
        sound = io.resample_waveform(sound, native_hz, to_hz=self.rate_hz)[: self.samples]
        if self.pad == "repeat":
            return np.resize(sound, self.samples)
        return np.pad(sound, (0, self.samples - len(sound)))


def read_frames(path: str, begin: int, end: int, native_hz: int) -> Waveform:
    """File and frames of it -> that stretch, up to the end of the file."""
    # half a frame more keeps the file's own numbers through the division
    sound, _ = io.read_waveform(path, (begin + 0.5) / native_hz if begin else 0.0, (end + 0.5) / native_hz)
    return sound


def epoch_order(items: int, *, seed: int, epoch: int) -> IntArray:
    """Number of items -> their order in an epoch, which only (seed, epoch) decide."""
    return np.random.default_rng([ORDER, seed, epoch]).permutation(items)


def read_crop_chunks(
    crops: CropDataset,
    batch_size: int,
    *,
    items: int,
    seed: int,
    epoch: int,
    first: int = 0,
    most: int = 0,
    part: tuple[int, int] = (0, 1),
    threads: int = 2,
    noise: CropDataset | None = None,
    pin: bool = False,
) -> Iterator[CropChunk]:
    """Crops -> the whole batches of an epoch from batch number `first` on, in pieces of at most `most` crops (0: all).

    The epoch has `items` items; what does not fill a batch at its end is left out. `part=(rank, world)` yields the
    rank-th slice of every batch. `noise` gives every item a crop of another collection, drawn for it alone. `pin`
    puts them into page-locked memory for a faster copy to a GPU. Crops of the next AHEAD pieces are read by `threads`
    threads meanwhile, whatever the size of a batch; decoding and resampling release Python's global lock.
    """
    order, (rank, world) = epoch_order(items, seed=seed, epoch=epoch), part
    edges = [batch_size * rank // world, batch_size * (rank + 1) // world]

    def both(item: int) -> tuple[Crop, Crop | None]:
        sound = crops.crop(item, seed=seed, epoch=epoch)
        if noise is None:
            return sound, None
        chosen = int(np.random.default_rng([NOISE_CHOICE, seed, epoch, item]).integers(len(noise.collection)))
        return sound, noise.crop(chosen + item * len(noise.collection), seed=seed, epoch=epoch)

    def begun() -> Iterator[tuple[list[Future[tuple[Crop, Crop | None]]], int, slice, bool]]:
        for step in range(first, items // batch_size):
            for begin in range(edges[0], edges[1], most or batch_size):
                rows = slice(begin, min(begin + (most or batch_size), edges[1]))
                chosen = order[step * batch_size :][rows]
                yield [pool.submit(both, item) for item in chosen.tolist()], step, rows, rows.stop == edges[1]

    pool = ThreadPoolExecutor(max_workers=max(threads, 1), thread_name_prefix="rales-crops")
    try:
        stack = partial(stack_crops, pin=pin)
        yield from starmap(stack, prefetch_ahead(begun(), AHEAD))  # which keeps no crop once its piece is there
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stack_crops(
    futures: list[Future[tuple[Crop, Crop | None]]], step: int, rows: slice, last: bool, *, pin: bool
) -> CropChunk:
    """Crops that are being read -> their piece, once they are there."""
    pairs = [future.result() for future in futures]
    noises = [noise.wave for _, noise in pairs if noise is not None]
    notes = [note for pair in pairs for crop in pair if crop is not None for note in crop.notes]
    wave = stack_waves([sound.wave for sound, _ in pairs], pin)
    return CropChunk(wave, stack_waves(noises, pin) if noises else None, notes, step, rows, last)


def stack_waves(waves: list[Waveform], pin: bool) -> Tensor:
    """b waves (samples,) -> (b, samples)."""
    stacked = torch.empty((len(waves), len(waves[0])), pin_memory=pin)
    np.stack(waves, out=stacked.numpy())
    return stacked


def sample_crops(crops: CropDataset, number: int, *, seed: int, threads: int = 2) -> Iterator[Crop]:
    """Crops -> `number` of them from recordings drawn evenly, for statistics of the collection."""
    drawn = np.random.default_rng([STATISTICS, seed]).integers(len(crops.collection), size=number)
    with ThreadPoolExecutor(max_workers=max(threads, 1), thread_name_prefix="rales-crops") as pool:
        turns = enumerate(drawn.tolist(), start=2**31)
        reads = (pool.submit(crops.crop, item, seed=seed, epoch=turn) for turn, item in turns)
        yield from map(Future.result, prefetch_ahead(reads, 16))
