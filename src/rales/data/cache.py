"""Cycles table -> one memory-mapped array of equal-length waveforms, built once per table and settings."""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from tqdm import tqdm

from rales.audio.wave import icbhi_cycle, read, resample

Wave = npt.NDArray[np.float32]

FORMAT = 1  # raise it when `waveform`, or anything it calls, computes different samples from the same recording
WAIT_BEFORE_MESSAGE_S = 5.0

log = logging.getLogger(__name__)


def waveforms(
    cycles: pd.DataFrame,
    *,
    folder: str | Path | None = None,
    rate_hz: int = 16000,
    duration_s: float = 8.0,
    resampler: Literal["soxr", "sinc"] = "soxr",
    pad: Literal["repeat", "zero"] = "repeat",
    fade_samples: int = 1000,
    threads: int | None = None,
    progress: bool = False,
) -> Wave:
    """Table of N cycles (path, start_s, end_s) -> (N, rate_hz * duration_s) float32, read-only and memory-mapped.

    Row i is `waveform` of cycles.iloc[i], to the last bit. The array lives in `folder` (default: RALES_CACHE, or the
    user's cache folder) under a key of everything that decides its bytes: the settings, each recording's path, size
    and modification time, and the rows in their order. Labels and splits are not in the key, so give the whole table
    and pick rows by position; a subset or another order of the table is a cache of its own. Two runs may ask at once:
    one builds, the other waits. A build that fails or is killed leaves nothing that is ever read.

    Raises OSError where the folder cannot be written or the disk is full, and whatever `waveform` says of a recording.
    """
    if len(cycles) == 0:
        raise ValueError("the table holds no cycles; expected at least one row (path, start_s, end_s)")
    samples = round(rate_hz * duration_s)
    settings: dict[str, Any] = {
        "format": FORMAT,
        "versions": {library: version(library) for library in ("numpy", "scipy", "soundfile", "soxr")},
        "rate_hz": rate_hz,
        "samples": samples,
        "resampler": resampler,
        "pad": pad,
        "fade_samples": fade_samples,
        **_rows(cycles),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    folder = Path(folder or os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser()
    if (waves := _open(folder / key)) is not None:
        return waves
    prepare = partial(
        waveform, rate_hz=rate_hz, samples=samples, resampler=resampler, pad=pad, fade_samples=fade_samples
    )
    with _lock(folder, key):
        if (waves := _open(folder / key)) is None:  # else another run built it while this one waited
            _build(folder, key, settings, prepare, threads, progress)
            waves = _open(folder / key)
    if waves is None:
        raise OSError(f"{folder / key}: the cache just built cannot be read back; check the disk")
    return waves


def waveform(
    path: str | Path,
    start_s: float,
    end_s: float,
    *,
    rate_hz: int = 16000,
    samples: int = 128000,
    resampler: Literal["soxr", "sinc"] = "soxr",
    pad: Literal["repeat", "zero"] = "repeat",
    fade_samples: int = 1000,
) -> Wave:
    """One cycle of one recording -> (samples,) float32: read, resample, fade, crop or pad; what a cache row holds."""
    wave, native_hz = read(path, start_s, end_s)
    return prepared(
        wave, native_hz, rate_hz=rate_hz, samples=samples, resampler=resampler, pad=pad, fade_samples=fade_samples
    )


def prepared(
    wave: Wave,
    native_hz: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
    pad: Literal["repeat", "zero"],
    fade_samples: int,
) -> Wave:
    """One cycle as recorded (N,) -> (samples,): the last steps of `waveform`."""
    wave = resample(wave, native_hz, to_hz=rate_hz, method=resampler)
    return icbhi_cycle(wave, samples=samples, pad=pad, fade_samples=fade_samples)


def _rows(cycles: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """The recordings as [path, bytes, mtime_ns] and the table's rows as [recording's number, start_s, end_s]."""
    number, paths = pd.factorize(cycles["path"].astype(str))
    recordings = []
    for path in paths:
        file = Path(path).resolve()
        if not path or not file.is_file():
            raise FileNotFoundError(f"{path!r}: there is no such recording; check the paths of the cycles table")
        recordings.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    spans = zip(number, cycles["start_s"], cycles["end_s"], strict=True)
    return {"recordings": recordings, "rows": [[int(n), float(start), float(end)] for n, start, end in spans]}


def _open(finished: Path) -> Wave | None:
    """The array of a finished cache; None where there is none or its file is not what meta.json says."""
    try:
        meta = json.loads((finished / "meta.json").read_text())
        if (finished / "waves.npy").stat().st_size != meta["bytes"]:
            return None
        waves: Wave = np.load(finished / "waves.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    return waves


def _build(
    folder: Path,
    key: str,
    settings: dict[str, Any],
    prepare: Callable[[str, float, float], Wave],
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
        size_bytes = _write(building / "waves.npy", settings, prepare, threads, progress)
        meta = {"bytes": size_bytes, "built_s": round(time.monotonic() - began_s, 3), **settings}
        with (building / "meta.json").open("w") as file:
            json.dump(meta, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder / key, ignore_errors=True)  # a damaged one
        building.rename(folder / key)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed_bytes = 4 * settings["samples"] * len(settings["rows"])
        raise OSError(
            f"{folder}: the cache needs {needed_bytes / 1e9:.2f} GB and the disk is full or over quota "
            f"({shutil.disk_usage(folder).free / 1e9:.2f} GB free); delete older caches there, "
            "or set RALES_CACHE to a folder with more space"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(
    path: Path,
    settings: dict[str, Any],
    prepare: Callable[[str, float, float], Wave],
    threads: int | None,
    progress: bool,
) -> int:
    """Prepares all cycles, recordings side by side, and writes them to an .npy file; returns its size in bytes.

    Threads, not processes: decoding, resampling and writing release Python's global lock, so two threads are as fast
    as two processes, start at once, and die with a killed build instead of living on with its lock. Each cycle is read
    on its own, which is 8 % slower than to cut it from its recording read as a whole, and equals the path without a
    cache whatever the format. Plain writes, not a writable memory map: on a full disk one is an OSError, the other a
    SIGBUS.
    """
    rows_of: list[list[int]] = [[] for _ in settings["recordings"]]
    for row, (number, _, _) in enumerate(settings["rows"]):
        rows_of[number].append(row)
    shape = (len(settings["rows"]), settings["samples"])
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        first = file.tell()
        size_bytes: int = first + 4 * shape[0] * shape[1]
        file.flush()
        _reserve(file, size_bytes)

        def write_recording(number: int) -> None:
            source = settings["recordings"][number][0]
            with path.open("r+b") as target:
                for row in rows_of[number]:
                    _, start_s, end_s = settings["rows"][row]
                    target.seek(first + 4 * row * shape[1])
                    target.write(prepare(source, start_s, end_s).astype("<f4", copy=False).data)

        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rales-cache") as pool:
            tasks = [pool.submit(write_recording, number) for number in range(len(rows_of))]
            bar = tqdm(total=len(tasks), desc="cache", unit="recording", disable=None if progress else True)
            try:
                for task in as_completed(tasks):
                    task.result()
                    bar.update()
            except BaseException:
                # Also Ctrl-C: recordings not begun are dropped, those begun are finished in well under a second.
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                bar.close()
        os.fsync(file.fileno())
    return size_bytes


def _reserve(file: BinaryIO, size_bytes: int) -> None:
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
        with suppress(OSError), FileLock(building.with_suffix(".lock"), timeout=0):
            shutil.rmtree(building)


@contextmanager
def _lock(folder: Path, key: str) -> Iterator[None]:
    """Holds the key's lock; the first write to `folder`, so this is where an unwritable one shows."""
    lock = FileLock(folder / f"{key}.lock")
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
