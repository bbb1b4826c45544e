"""Samples in memory as a recording, so that they are read, checked and cut exactly as a file of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile

from rales.errors import UsageError
from rales.files.atomic import temporary_folder


@contextmanager
def recording_paths(recordings: Any, sample_rate: int | None = None) -> Iterator[str | Path | Iterable[str | Path]]:
    """Yield paths of recordings: those given, or that of a temporary file, bit by bit the samples given.

    Parameters
    ----------
    recordings
        Paths, samples (N,) or (channels, N) in -1 to 1, or dict(waveform=samples, sample_rate=Hz).
    sample_rate
        Of the samples, in Hz.
    """
    if isinstance(recordings, dict):
        recordings, sample_rate = recordings.get("waveform"), recordings.get("sample_rate")
        if recordings is None or sample_rate is None:
            raise UsageError("a recording as a dict: expected waveform (samples) and sample_rate (Hz) in it")
    elif not hasattr(recordings, "__array__") or (isinstance(recordings, np.ndarray) and recordings.dtype.kind in "OU"):
        if sample_rate is not None:
            raise UsageError(f"sample_rate={sample_rate}: is for samples; a file says its own rate")
        yield cast("str | Path | Iterable[str | Path]", recordings)
        return

    samples = np.asarray(recordings, dtype=np.float32)
    if samples.ndim not in (1, 2) or sample_rate is None:
        raise UsageError(
            f"samples of shape {samples.shape} at sample_rate={sample_rate}: expected (N,) or (channels, N), and Hz"
        )
    with temporary_folder() as folder:
        path = folder / "waveform.wav"
        soundfile.write(path, samples.T, sample_rate, subtype="FLOAT")
        yield path
