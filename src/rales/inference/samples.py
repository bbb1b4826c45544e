"""Samples in memory, or an open file, as a recording, which is read, checked and cut exactly as a file of them."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile

from rales.audio.open_audio import RATES_HZ
from rales.errors import UsageError
from rales.files.atomic import temporary_folder
from rales.typing import Waveform

# A recording as a dict, as pyannote and as the libraries of Hugging Face name its parts
DICTS = (("waveform", "sample_rate"), ("array", "sampling_rate"), ("raw", "sampling_rate"))


@contextmanager
def recording_paths(recordings: Any, sample_rate: int | None = None) -> Iterator[str | Path | Iterable[str | Path]]:
    """Yield paths of recordings: those given, or that of a temporary file, bit by bit the samples given.

    Parameters
    ----------
    recordings
        Paths, samples (N,) or (channels, N) in -1 to 1 or whole numbers of their type, dict(waveform=samples,
        sample_rate=Hz) or dict(array=, sampling_rate=), or a file opened as bytes.
    sample_rate
        Of the samples, in Hz, 500 to 1,000,000.

    Raises
    ------
    UsageError
        Samples without a rate, none, of another shape, or that are not numbers; a file with a rate.
    """
    if not is_in_memory(recordings):
        check_no_rate(sample_rate)
        yield cast("str | Path | Iterable[str | Path]", recordings)
        return

    with temporary_folder() as folder:
        if hasattr(recordings, "read"):
            check_no_rate(sample_rate)
            yield copy_file(recordings, folder)
            return
        path = folder / "waveform.wav"
        samples, rate_hz = check_samples(*split_dict(recordings, sample_rate))
        soundfile.write(path, samples.T, rate_hz, subtype="FLOAT")
        yield path


def is_in_memory(recordings: Any) -> bool:
    """Whether it is samples, a dict of them or an open file, and not paths."""
    if isinstance(recordings, np.ndarray):
        return recordings.dtype.kind not in "OU"
    return isinstance(recordings, dict) or hasattr(recordings, "read") or hasattr(recordings, "__array__")


def check_no_rate(sample_rate: int | None) -> None:
    if sample_rate is not None:
        raise UsageError(f"sample_rate={sample_rate}: is for samples; a file says its own rate")


def split_dict(recordings: Any, sample_rate: int | None) -> tuple[Any, Any]:
    """Samples, or a dict of them -> samples and their rate, as given."""
    if not isinstance(recordings, dict):
        return recordings, sample_rate
    for samples, rate in DICTS:
        if recordings.get(samples) is not None and recordings.get(rate) is not None:
            return recordings[samples], recordings[rate]
    raise UsageError(
        "a recording as a dict: expected waveform (samples) and sample_rate (Hz) in it, or array and sampling_rate; "
        f"found {', '.join(map(str, recordings)) or 'nothing'}"
    )


def check_samples(given: Any, sample_rate: Any) -> tuple[Waveform, int]:
    """Samples and rate as somebody gives them -> (N,) or (channels, N) float32, Hz. Errors: as of `recording_paths`."""
    samples = np.asarray(given)
    if samples.ndim not in (1, 2) or sample_rate is None:
        raise UsageError(
            f"samples of shape {samples.shape} at sample_rate={sample_rate}: expected (N,) or (channels, N), and Hz"
        )
    if sample_rate not in RATES_HZ:
        raise UsageError(f"sample_rate={sample_rate}: expected a whole number of Hz, 500 to 1,000,000")
    if samples.dtype.kind not in "fiu" or not samples.size:
        raise UsageError(f"samples of type {samples.dtype} and shape {samples.shape}: expected numbers, and some")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise UsageError(f"samples of shape {samples.shape}: expected (channels, N); give their transpose")
    if samples.dtype.kind != "f":  # as a file holds them
        if samples.dtype.kind == "u":
            raise UsageError(f"samples of type {samples.dtype}: expected signed numbers, or -1 to 1")
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if not np.isfinite(samples).all():
        raise UsageError("samples hold NaN or infinite values")
    return samples.astype(np.float32), int(sample_rate)


def copy_file(file: Any, folder: Path) -> Path:
    """Open file -> a copy of what is left of it, under its own name if it has one."""
    name = getattr(file, "name", None)
    path = folder / (Path(name).name if isinstance(name, str) and Path(name).name else "waveform")
    with path.open("wb") as copy:
        try:
            shutil.copyfileobj(file, copy)
        except TypeError:
            raise UsageError("a file opened as text: open recordings as bytes, with mode 'rb'") from None
    return path
