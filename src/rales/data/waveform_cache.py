"""Cycles table -> one memory-mapped array of equally long waveforms or pictures, built once per table and settings."""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import Timeout
from platformdirs import user_cache_path

from rales.audio.io import read_waveform, resample_waveform
from rales.audio.padding import Pad, prepare_waveform
from rales.errors import DiskFullError
from rales.files.atomic import Lock, sync_folder
from rales.files.json_files import read_json
from rales.progress import progress_bar

Wave = npt.NDArray[np.float32]

FORMAT = 2  # raise it when `read_cycle_waveform`, or what it calls, computes other samples from the same recording
WAIT_BEFORE_MESSAGE_S = 5.0
AT_ONCE, TOGETHER = 64, 256  # rows in memory for each thread: prepared one after the other, and together
READ_AT_ONCE_BYTES = 2**23  # by each thread that checks a cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """How a row becomes an input: function(path, start_s, end_s, *values of `columns`, **settings) -> float32 array.

    Its `shape` is (samples,) of a waveform, (channels, height, width) of a picture. `settings` are plain values and,
    with the function's name, part of the cache's key. A column whose name ends in `path` names a second recording, or
    is empty. Where many rows at once are faster than one after the other,
    `together` does the same for a list of (path, start_s, end_s, *values), and the function for that of one; to the
    last bit only if it is so in `together`.
    """

    function: Callable[..., Wave]
    settings: Mapping[str, Any]
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    together: Callable[..., Sequence[Wave]] | None = None

    def __call__(self, path: str | Path, start_s: float, end_s: float, *values: Any) -> Wave:
        return self.function(path, start_s, end_s, *values, **self.settings)

    def of_rows(self, rows: pd.DataFrame) -> Wave:
        """Rows of a table (path, start_s, end_s, `columns`) -> (n, *shape), without a cache."""
        if rows.empty:
            return np.empty((0, *self.shape), np.float32)
        given = rows[["path", "start_s", "end_s", *self.columns]].itertuples(index=False, name=None)
        if self.together is not None:
            return np.stack(self.together(list(given), **self.settings))
        return np.stack([self(*values) for values in given])


def cache_waveforms(
    cycles: pd.DataFrame,
    *,
    folder: str | Path | None = None,
    threads: int | None = None,
    progress: bool = False,
    **settings: Any,
) -> Wave:
    """Table of N cycles (path, start_s, end_s) -> (N, rate_hz * duration_s): `cached_arrays` of `read_cycle_waveform`;
    `settings` are those of `waveform_preparation`."""
    return cached_arrays(cycles, waveform_preparation(**settings), folder=folder, threads=threads, progress=progress)


def waveform_preparation(
    *,
    rate_hz: int = 16000,
    duration_s: float = 8.0,
    resampler: Literal["soxr", "sinc"] = "soxr",
    pad: Pad = "repeat",
    fade_samples: int = 1000,
) -> Preparation:
    """Settings -> preparation of one waveform a cycle."""
    samples = round(rate_hz * duration_s)
    settings = {
        "rate_hz": rate_hz,
        "samples": samples,
        "resampler": resampler,
        "pad": pad,
        "fade_samples": fade_samples,
    }
    return Preparation(read_cycle_waveform, settings, (samples,))


def cached_arrays(
    cycles: pd.DataFrame,
    prepare: Preparation,
    *,
    folder: str | Path | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Wave:
    """Table of N rows (path, start_s, end_s, the preparation's columns) -> (N, *shape) float32, read-only, mapped.

    Row i is what `prepare` makes of cycles.iloc[i], to the last bit. The array lives in `folder` (default: RALES_CACHE,
    or the user's cache folder) under a key of everything that decides its bytes: function and settings, each
    recording's path, size and modification time, and the rows in their order. Labels and splits are not in the key, so
    give the whole table and pick rows by position; a subset or another order of the table is a cache of its own. Two
    runs may ask at once: one builds, the other waits. A build that fails or is killed leaves nothing that is ever read.
    A file whose SHA-256 is no longer the one it was built with is built again, with a sentence in the log.

    Raises OSError where the folder cannot be written or the disk is full, and whatever `prepare` says of a recording.
    """
    if len(cycles) == 0:
        raise ValueError("the table holds no cycles; expected at least one row (path, start_s, end_s)")
    settings: dict[str, Any] = {
        "format": FORMAT,
        "versions": {library: version(library) for library in ("numpy", "scipy", "soundfile", "soxr")},
        "function": f"{prepare.function.__module__}.{prepare.function.__name__}",
        "shape": list(prepare.shape),
        **prepare.settings,
        **_describe_rows(cycles, prepare.columns),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    folder = Path(folder or os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser()
    shape = (len(cycles), *prepare.shape)
    if (waves := _open_finished(folder / key, shape)) is not None:
        return waves
    with _lock_key(folder, key):
        if (waves := _open_finished(folder / key, shape)) is None:  # else another run built it while this one waited
            if (folder / key).exists():
                log.warning("%s: damaged or cut, so this cache is built again", folder / key)
            _build_cache(folder, key, settings, prepare, cycles, threads, progress)
            waves = _open_finished(folder / key, shape)
    if waves is None:
        raise OSError(f"{folder / key}: the cache just built cannot be read back; check the disk")
    return waves


def read_cycle_waveform(
    path: str | Path,
    start_s: float,
    end_s: float,
    *,
    rate_hz: int = 16000,
    samples: int = 128000,
    resampler: Literal["soxr", "sinc"] = "soxr",
    pad: Pad = "repeat",
    fade_samples: int = 1000,
) -> Wave:
    """One cycle of one recording -> (samples,) float32: read, resample, fade, crop or pad; what a cache row holds."""
    wave, native_hz = read_waveform(path, start_s, end_s)
    return prepare_waveform(
        wave, native_hz, rate_hz=rate_hz, samples=samples, resampler=resampler, pad=pad, fade_samples=fade_samples
    )


def read_resampled_segment(
    path: str | Path, start_s: float, end_s: float, *, rate_hz: int, resampler: Literal["soxr", "sinc"] = "soxr"
) -> Wave:
    """A stretch of one recording -> (N,) at rate_hz."""
    wave, native_hz = read_waveform(path, start_s, end_s)
    return resample_waveform(wave, native_hz, to_hz=rate_hz, method=resampler)


def read_row_segments(
    cycles: Sequence[tuple[str | Path, float, float]], *, rate_hz: int, resampler: Literal["soxr", "sinc"]
) -> list[Wave]:
    """A row's cycles (path, start_s, end_s) -> (N,) of each at rate_hz; a second one without a path is left out."""
    return [read_resampled_segment(*cycle, rate_hz=rate_hz, resampler=resampler) for cycle in cycles if cycle[0]]


def _describe_rows(cycles: pd.DataFrame, columns: tuple[str, ...]) -> dict[str, list[list[Any]]]:
    """The recordings as [path, bytes, mtime_ns] and the table's rows as [recording's number, start_s, end_s, values of
    the columns], a second recording as its number or -1."""
    seconds = [name for name in columns if name.endswith("path")]
    number, paths = pd.factorize(pd.concat([cycles[name].astype(str) for name in ("path", *seconds)]))
    recordings: list[list[Any]] = []
    known: list[int] = []
    for path in paths:
        file = Path(path).resolve()
        if not path and len(seconds):
            known.append(-1)
            continue
        if not path or not file.is_file():
            raise FileNotFoundError(f"{path!r}: there is no such recording; check the paths of the cycles table")
        known.append(len(recordings))
        recordings.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    numbers = dict(zip(("path", *seconds), np.array(known)[number].reshape(-1, len(cycles)).tolist(), strict=True))
    values = [numbers[name] if name in numbers else cycles[name].tolist() for name in columns]
    spans = zip(numbers["path"], cycles["start_s"], cycles["end_s"], *values, strict=True)
    return {"recordings": recordings, "rows": [[n, float(start), float(end), *more] for n, start, end, *more in spans]}


def _open_finished(finished: Path, shape: tuple[int, ...]) -> Wave | None:
    """The array of a finished cache; None where there is none or its file is not what meta.json says, byte for byte."""
    path = finished / "waves.npy"
    try:
        meta = read_json(finished / "meta.json")
        if path.stat().st_size != meta["bytes"] or _digest_of_file(path, shape) != meta["sha256_of_rows"]:
            return None
        waves: Wave = np.load(path, mmap_mode="r")
    except (OSError, ValueError, LookupError, TypeError):  # the last two of a meta.json with something else in it
        return None
    return waves


def _digest_of_file(path: Path, shape: tuple[int, ...]) -> str:
    """Array file of this shape, rows first -> `_digest` of it, read by several threads.

    Read, not mapped: where the disk fails, one is an OSError, the other a SIGBUS.
    """
    row_bytes = 4 * math.prod(shape[1:])
    first = path.stat().st_size - row_bytes * shape[0]
    at_once = max(1, READ_AT_ONCE_BYTES // row_bytes)

    def of_some(start: int) -> list[bytes]:
        with path.open("rb") as file:
            file.seek(first + row_bytes * start)
            rows = range(start, min(start + at_once, shape[0]))
            return [hashlib.sha256(file.read(row_bytes)).digest() for _ in rows]

    with path.open("rb") as file:
        header = file.read(first)
    with ThreadPoolExecutor(thread_name_prefix="rales-cache") as pool:
        return _digest_array(header, [one for some in pool.map(of_some, range(0, shape[0], at_once)) for one in some])


def _digest_array(header: bytes, rows: Sequence[bytes]) -> str:
    """Begin of an array file and the SHA-256 of each of its rows -> SHA-256 of all: rows are written in any order."""
    return hashlib.sha256(header + b"".join(rows)).hexdigest()


def _build_cache(
    folder: Path,
    key: str,
    settings: dict[str, Any],
    prepare: Preparation,
    cycles: pd.DataFrame,
    threads: int | None,
    progress: bool,
) -> None:
    """Writes folder/key/{waves.npy, meta.json}: made in a sibling folder, moved into place when it is on the disk."""
    building = folder / f"{key}.building"
    shutil.rmtree(building, ignore_errors=True)
    _remove_abandoned(folder)
    building.mkdir()
    began_s = time.monotonic()
    try:
        facts = _write_array(building / "waves.npy", prepare, cycles, threads, progress)
        meta = {**facts, "built_s": round(time.monotonic() - began_s, 3), **settings}
        with (building / "meta.json").open("w") as file:
            json.dump(meta, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder / key, ignore_errors=True)  # a damaged one
        sync_folder(building)
        building.rename(folder / key)
        sync_folder(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed_bytes = 4 * math.prod(prepare.shape) * len(cycles)
        raise DiskFullError(
            folder,
            f"the cache needs {needed_bytes / 1e9:.2f} GB and the disk is full or over quota "
            f"({shutil.disk_usage(folder).free / 1e9:.2f} GB free); delete older caches there, "
            "or set RALES_CACHE to a folder with more space",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_array(
    path: Path, prepare: Preparation, cycles: pd.DataFrame, threads: int | None, progress: bool
) -> dict[str, Any]:
    """Prepares all cycles, groups of them side by side, and writes them to an .npy file; returns its size in bytes
    and `_digest_array`, both of what was meant to be written.

    Threads, not processes: decoding, resampling and writing release Python's global lock, so two threads are as fast
    as two processes, start at once, and die with a killed build instead of living on with its lock. Each cycle is read
    on its own, which is 8 % slower than to cut it from its recording read as a whole, and equals the path without a
    cache whatever the format. Plain writes, not a writable memory map: on a full disk one is an OSError, the other a
    SIGBUS.
    """
    shape, row_bytes = (len(cycles), *prepare.shape), 4 * math.prod(prepare.shape)
    begin, digests = BytesIO(), [b""] * len(cycles)
    np.lib.format.write_array_header_1_0(begin, {"descr": "<f4", "fortran_order": False, "shape": shape})
    header = begin.getvalue()
    first, size_bytes = len(header), len(header) + row_bytes * len(cycles)

    with path.open("wb") as file:
        file.write(header)
        file.flush()
        _reserve_space(file, size_bytes)

        def write_group(rows: list[int]) -> int:
            with path.open("r+b") as target:
                for row, values in zip(rows, prepare.of_rows(cycles.iloc[rows]), strict=True):
                    samples = np.ascontiguousarray(values, dtype="<f4").data
                    digests[row] = hashlib.sha256(samples).digest()
                    target.seek(first + row_bytes * row)
                    target.write(samples)
            return len(rows)

        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rales-cache") as pool:
            bar = progress_bar(shown=progress, total=len(cycles), desc="cache", unit="cycle")
            try:  # from the first group that is handed out, since the first may be done before the last is
                tasks = [pool.submit(write_group, rows) for rows in _group_rows(cycles, prepare)]
                for task in as_completed(tasks):
                    bar.update(task.result())
            except BaseException:
                # Also Ctrl-C: groups not begun are dropped, those begun are finished in a moment.
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                bar.close()
        os.fsync(file.fileno())
    return {"bytes": size_bytes, "sha256_of_rows": _digest_array(header, digests)}


def _group_rows(cycles: pd.DataFrame, prepare: Preparation) -> list[list[int]]:
    """Rows -> positions of those prepared in one go: of one recording, or, if that is faster, of nearly one length."""
    groups = [np.asarray(rows) for rows in cycles.groupby("path", sort=False).indices.values()]
    size = AT_ONCE
    if prepare.together is not None:
        groups = [np.argsort((cycles["end_s"] - cycles["start_s"]).to_numpy(), kind="stable")]
        size = TOGETHER
    return [rows[first : first + size].tolist() for rows in groups for first in range(0, len(rows), size)]


def _reserve_space(file: BinaryIO, size_bytes: int) -> None:
    """Takes the whole file's space at once: a full disk or quota is found before the work, not after it."""
    if shutil.disk_usage(file.name).free < size_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):  # not on macOS or Windows
        try:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve
                raise


def _remove_abandoned(folder: Path) -> None:
    """Deletes what killed builds left behind; a build that is running holds its lock and is left alone."""
    for building in folder.glob("*.building"):
        with suppress(OSError), Lock(building.with_suffix(".lock"), timeout=0):
            shutil.rmtree(building)


@contextmanager
def _lock_key(folder: Path, key: str) -> Iterator[None]:
    """Holds the key's lock; the first write to `folder`, so this is where an unwritable one shows."""
    lock = Lock(folder / f"{key}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=WAIT_BEFORE_MESSAGE_S)
        except Timeout:
            log.warning("another run is building the cache %s; waiting for it", folder / key)
            lock.acquire()
    except OSError as error:
        raise OSError(
            f"{folder}: the cache cannot be written here ({error.strerror}); set RALES_CACHE to a writable folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
