"""Samples in memory, or an open file, as a recording, which is read, checked and cut exactly as a file of them."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile

from rales.audio.open_audio import HIGHEST, RATES_HZ
from rales.errors import UsageError
from rales.files.atomic import temporary_folder
from rales.optional_packages import summarise_error
from rales.typing import Waveform

MOST_CHANNELS = 16  # more are a batch of recordings
# A recording as a dict, as pyannote and as the libraries of Hugging Face name its parts
DICTS = (("waveform", "sample_rate"), ("array", "sampling_rate"), ("raw", "sampling_rate"))


@contextmanager
def recording_paths(recordings: Any, sample_rate: int | None = None) -> Iterator[str | Path | Iterable[str | Path]]:
    """Yield paths of recordings: those given, or that of a temporary file, bit by bit the samples given.

    Parameters
    ----------
    recordings
        Paths, samples (N,) or (channels, N) of at most 16 channels, floats of -1 to 1 or int8, int16 or int32,
        dict(waveform=samples, sample_rate=Hz) or dict(array=, sampling_rate=), or a file opened as bytes.
    sample_rate
        Of the samples, in Hz, 500 to 1,000,000.

    Raises
    ------
    UsageError
        Samples without a rate, none, of another shape or type, or of several recordings; a file with a rate; what is
        neither path nor samples.
    """
    if not is_in_memory(recordings):
        paths = check_paths(recordings)
        check_no_rate(sample_rate)
        yield cast("str | Path | list[str | Path]", paths)
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
    if isinstance(recordings, dict) or hasattr(recordings, "read"):
        return True
    return hasattr(recordings, "__array__") and read_array(recordings).dtype.kind not in "OUT"  # paths in a Series, too


def read_array(given: Any) -> Any:
    """What somebody gives as samples -> as NumPy sees it. Errors: it cannot."""
    try:
        return np.asarray(given)
    except Exception as error:  # of whichever library it is
        raise UsageError(
            f"samples that NumPy cannot read ({summarise_error(error)}); give an array of NumPy"
        ) from error


def check_paths(recordings: Any) -> str | PathLike[str] | list[str | PathLike[str]]:
    """One path or several -> the same. Errors: anything that is none."""
    if isinstance(recordings, str | PathLike):
        return recordings
    if isinstance(recordings, bytes | bytearray):
        raise UsageError("bytes: expected a path, or the bytes of a recording as a file, io.BytesIO(…)")
    if not isinstance(recordings, Iterable):
        raise UsageError(f"{recordings!r}: expected paths of recordings, or samples of one with their sample_rate")
    paths = list(recordings)
    if others := [each for each in paths if not isinstance(each, str | PathLike)]:
        raise UsageError(
            f"{type(others[0]).__name__} among what should be paths: samples are given one recording at a time, as an "
            "array with sample_rate, or as dict(waveform=, sample_rate=)"
        )
    return paths


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
    samples = read_array(given)
    if sample_rate is None:
        raise UsageError("samples without their rate: say sample_rate=, in Hz")
    if sample_rate not in RATES_HZ:
        raise UsageError(f"sample_rate={sample_rate!r}: expected a whole number of Hz, 500 to 1,000,000")
    if samples.ndim not in (1, 2):
        raise UsageError(f"samples of shape {samples.shape}: expected (N,) or (channels, N)")
    if samples.dtype.kind not in "fiu" or not samples.size:
        raise UsageError(f"samples of type {samples.dtype} and shape {samples.shape}: expected numbers, and some")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise UsageError(f"samples of shape {samples.shape}: expected (channels, N); give their transpose")
    if samples.ndim == 2 and samples.shape[0] > MOST_CHANNELS:
        raise UsageError(
            f"samples of shape {samples.shape}: expected (channels, N) of at most {MOST_CHANNELS} channels; give one "
            "recording at a time"
        )
    if samples.dtype.kind != "f":  # as a file holds them
        if samples.dtype not in (np.int8, np.int16, np.int32):  # wider ones hardly ever fill their type
            raise UsageError(f"samples of type {samples.dtype}: expected int8, int16, int32, or floats of -1 to 1")
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if not np.isfinite(samples).all():
        raise UsageError("samples hold NaN or infinite values")
    if (peak := np.abs(samples).max()) > HIGHEST and not (samples == np.rint(samples)).all():
        raise UsageError(f"samples reach {peak:,.1f}: expected -1 to 1; divide those of 16 bit by 32768")
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
