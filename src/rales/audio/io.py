"""Read waveforms and segments of recordings, resample and fade them, bring a cycle to a fixed length."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import soundfile
import soxr
from numpy.typing import ArrayLike, NDArray

from rales.audio.open_audio import (
    HIGHEST,
    OpenRecording,
    describe_sound_error,
    mix_channels,
    open_recording,
    reraise_as_sentences,
)
from rales.errors import FileError
from rales.typing import Waveform

if TYPE_CHECKING:
    from torch import Tensor

PathLike = str | os.PathLike[str]

BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}


@dataclass(frozen=True)
class AudioInfo:
    """What a file is; `bits` is 0 where the format has no fixed sample size (Ogg, MP3).

    `live` are the channels, from 0, that are mixed when it is read (None: all), as the others hold no sound. `notes`
    are sentences, without the path, about what was wrong with the file and how it is read all the same.
    """

    rate_hz: int
    frames: int
    channels: int
    bits: int
    duration_s: float
    live: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def read_audio_info(path: PathLike) -> AudioInfo:
    """Read rate, length, channels and sample size of an audio file.

    The samples are looked at only where the header does not suffice: several channels, floating point, a format that
    FFmpeg decodes.

    Parameters
    ----------
    path
        Audio file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_waveform` does before decoding.
    """
    with open_recording(Path(path)) as found:
        file = found.file
        return AudioInfo(
            rate_hz=file.samplerate,
            frames=file.frames,
            channels=file.channels,
            bits=BITS.get(file.subtype, 0),
            duration_s=file.frames / file.samplerate,
            live=found.mix.live,
            notes=found.notes,
        )


def read_waveform(path: PathLike, start_s: float | None = None, end_s: float | None = None) -> tuple[Waveform, int]:
    """Read a recording, or a segment of it, as a mono waveform (N,) with its rate in Hz.

    The waveform is the mean of the channels that hold sound. A segment is the frames int(start_s * rate) up to
    int(end_s * rate), as the public ICBHI code cuts cycles.

    Parameters
    ----------
    path
        Audio file.
    start_s
        Start of the segment in seconds; None: the start of the file.
    end_s
        End of the segment in seconds; None: the end of the file. An end past the last frame is moved back to it, as the
        last cycle of a recording may be rounded beyond the end.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not audio, empty, truncated or not finite, or the segment holds no sample.
    """
    ((wave, rate_hz),) = read_segments(path, [(start_s, end_s)])
    return wave, rate_hz


def read_segments(path: PathLike, spans: Iterable[tuple[float | None, float | None]]) -> Iterator[tuple[Waveform, int]]:
    """File and segments in seconds -> what `read_waveform` gives for each; the file is opened once."""
    path = Path(path)
    with open_recording(path) as found:
        rate_hz = int(found.file.samplerate)
        for start_s, end_s in spans:
            yield _read_segment(path, found, start_s, end_s), rate_hz


def read_blocks(path: PathLike, about_s: float) -> Iterator[tuple[Waveform, int]]:
    """File -> all of it in blocks (n, channels) of equal length, about as long as said, and rate_hz; one is in memory
    at a time. Raises as `read_waveform` does."""
    path = Path(path)
    with open_recording(path) as found:
        frames, rate_hz = found.file.frames, int(found.file.samplerate)
        length = -(-frames // max(1, round(frames / rate_hz / about_s)))
        for begin in range(0, frames, length):
            block = _read_channels(path, found, begin, min(begin + length, frames))
            yield block if found.mix.scale == 1 else block / np.float32(found.mix.scale), rate_hz


def cut_segments(
    path: PathLike, whole: tuple[Waveform, int], spans: Iterable[tuple[float | None, float | None]]
) -> Iterator[tuple[Waveform, int]]:
    """What `read_waveform` gave for a whole file, and segments in s -> what `read_segments` gives, decoded once."""
    wave, rate_hz = whole
    for start_s, end_s in spans:
        begin, end = _locate_segment(Path(path), wave.size, rate_hz, start_s, end_s)
        yield wave[begin:end], rate_hz


def _read_segment(path: Path, found: OpenRecording, start_s: float | None, end_s: float | None) -> Waveform:
    begin, end = _locate_segment(path, found.file.frames, int(found.file.samplerate), start_s, end_s)
    return mix_channels(_read_channels(path, found, begin, end), found.mix)


def _read_channels(path: Path, found: OpenRecording, begin: int, end: int) -> Waveform:
    """Open file and frames -> (end - begin, channels) as they stand in it; every one of them is there, finite and on a
    known scale."""
    rate_hz = int(found.file.samplerate)
    with reraise_as_sentences(path):
        try:
            block = found.frames(begin, end)
        except soundfile.SoundFileError as error:
            raise FileError(
                path,
                f"damaged or truncated, cannot be decoded to the end of the segment ({describe_sound_error(error)}); "
                f"copy the file again",
            ) from error
    if len(block) < end - begin:
        raise FileError(
            path,
            f"truncated, {len(block)} of {end - begin} frames could be read from {begin / rate_hz:.3f} s on; "
            f"copy the file again",
        )
    highest = float(np.abs(block).max(initial=0))
    if highest <= HIGHEST * found.mix.scale:
        return block
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        wrong = len(block) - np.count_nonzero(finite)
        raise FileError(
            path,
            f"{wrong} of {len(block)} samples are NaN or infinite, the first at "
            f"{(begin + first) / rate_hz:.6f} s; export the recording again",
        )
    # Where the header tells whole numbers nothing can; a decoder of a lossy format makes anything of damage
    raise FileError(path, f"samples reach {highest:.6g}, expected -1 to 1; it is damaged, copy the file again")


def resample_waveform(
    wave: ArrayLike, rate_hz: int, to_hz: int = 16000, method: Literal["soxr", "sinc"] = "soxr"
) -> Waveform:
    """Resample a waveform (N,) to another rate: (about N * to_hz / rate_hz,).

    Parameters
    ----------
    wave
        Waveform (N,); returned as it is where the rates are equal.
    rate_hz
        Its rate in Hz.
    to_hz
        The rate wanted, in Hz.
    method
        "soxr" (quality HQ) is the better filter and the faster one; its length is N * to_hz / rate_hz rounded. "sinc"
        is the Hann-windowed sinc of torchaudio's Resample (width 6, rolloff 0.99), which the public ICBHI code uses;
        its length is rounded up.
    """
    wave = np.asarray(wave, dtype=np.float32)
    if rate_hz <= 0 or to_hz <= 0:
        raise ValueError(f"cannot resample from {rate_hz} Hz to {to_hz} Hz; both rates must be positive")
    if method not in ("soxr", "sinc"):
        raise ValueError(f'resampling method "{method}" is unknown; use "soxr" or "sinc"')
    if rate_hz == to_hz:
        return wave
    if method == "sinc":
        return _resample_sinc(wave, rate_hz, to_hz)
    return np.asarray(soxr.resample(wave, rate_hz, to_hz, quality="HQ"), dtype=np.float32)


def fade_edges(wave: ArrayLike, samples: int = 1000, into: bool = True, out: bool = True) -> Waveform:
    """Fade a waveform (N,) in and out linearly; returns a new waveform (N,).

    In a waveform shorter than two ramps they overlap and multiply, as in torchaudio's Fade. That fails below one ramp;
    here the ramps are then as long as the waveform, which carries on what torchaudio gives at N == samples.

    Parameters
    ----------
    wave
        Waveform (N,).
    samples
        Length of each ramp.
    into
        Fade in, from 0 to 1 over the first samples.
    out
        Fade out, from 1 to 0 over the last samples.
    """
    return _fade_edges_in_place(np.array(wave, dtype=np.float32), samples, into, out)


def _fade_edges_in_place(wave: Waveform, samples: int, into: bool, out: bool) -> Waveform:
    """`fade_edges` in place."""
    length = min(samples, wave.size)
    ramp = _linear_ramp(length)
    if into:
        wave[:length] *= ramp
    if out:
        wave[wave.size - length :] *= ramp[::-1]
    return wave


@cache
def _linear_ramp(samples: int) -> Waveform:
    return np.linspace(0, 1, samples, dtype=np.float32)


@overload
def icbhi_cycle(
    wave: "Tensor", samples: int = ..., pad: Literal["repeat", "zero"] = ..., fade_samples: int = ...
) -> "Tensor": ...
@overload
def icbhi_cycle(
    wave: NDArray[Any], samples: int = ..., pad: Literal["repeat", "zero"] = ..., fade_samples: int = ...
) -> Waveform: ...
def icbhi_cycle(
    wave: "NDArray[Any] | Tensor",
    samples: int = 128000,
    pad: Literal["repeat", "zero"] = "repeat",
    fade_samples: int = 1000,
) -> "Waveform | Tensor":
    """Bring one cycle (N,) at 16 kHz to a fixed length: (samples,) float32.

    The steps of the public ICBHI code (ilyassmoummad/scl_icbhi2017): fade in and out; a longer cycle keeps its first
    `samples` samples; any other, also one of exactly that length, is filled up. No gradient flows through.

    Parameters
    ----------
    wave
        Waveform (N,), an array or a tensor; the result is of the same kind.
    samples
        Length wanted; 128000 are 8 s.
    pad
        "repeat" repeats the cycle circularly, cuts it and fades it out once more; "zero" puts it in the middle of
        silence.
    fade_samples
        Length of the ramps.

    Raises
    ------
    ValueError
        The waveform is empty or not one-dimensional.
    """
    if not isinstance(wave, np.ndarray):
        import torch  # which is there, as the wave is a tensor

        cycle = icbhi_cycle(wave.detach().to("cpu", torch.float32).numpy(), samples, pad, fade_samples)
        return torch.from_numpy(cycle).to(wave.device)
    if wave.ndim != 1 or wave.size == 0:
        raise ValueError(f"a cycle of shape {wave.shape} was given, expected one channel of at least one sample: (N,)")
    if pad not in ("repeat", "zero"):
        raise ValueError(f'padding "{pad}" is unknown; use "repeat" or "zero"')
    cycle = fade_edges(wave, fade_samples)
    if cycle.size > samples:
        return cycle[:samples]
    if pad == "zero":
        before = (samples - cycle.size) // 2
        return np.pad(cycle, (before, samples - cycle.size - before))
    return _fade_edges_in_place(np.resize(cycle, samples), fade_samples, into=False, out=True)


def _resample_sinc(wave: Waveform, rate_hz: int, to_hz: int) -> Waveform:
    """Wave (N,) -> (ceil(N * to_hz / rate_hz),): a polyphase filter with the taps of torchaudio's Resample.

    Output j is the sum over inputs n of x[n] * h(n / old - j / new), with the rates in lowest terms. All of those
    arguments lie on a grid of 1 / (old * new), so one filter on that grid serves every output, at any pair of rates.
    """
    from scipy.signal import upfirdn

    common = math.gcd(rate_hz, to_hz)
    old, new = rate_hz // common, to_hz // common
    width, rolloff = 6, 0.99
    cutoff = min(old, new) * rolloff
    reach = math.ceil(width * old * new / cutoff)
    offset = -reach % old  # zeros in front make the filter's centre fall on an output sample
    t = np.arange(-reach - offset, reach + 1) / (old * new) * cutoff
    inside = np.abs(t) < width
    taps = np.where(inside, np.sinc(t) * np.cos(t * np.pi / width / 2) ** 2, 0) * cutoff / old
    filtered = upfirdn(taps.astype(np.float32), wave, up=new, down=old)
    first = (reach + offset) // old
    length = -(-wave.size * new // old)
    return np.asarray(filtered[first : first + length], dtype=np.float32)


def _locate_segment(
    path: Path, frames: int, rate_hz: int, start_s: float | None, end_s: float | None
) -> tuple[int, int]:
    start_s = 0.0 if start_s is None else start_s
    segment = f"the segment {start_s} s to {'the end' if end_s is None else f'{end_s} s'}"
    if not 0 <= start_s < math.inf or (end_s is not None and not start_s < end_s):
        raise FileError(path, f"{segment} is not a stretch of time; expected 0 <= start < end")
    if start_s * rate_hz >= frames:
        length_s = frames / rate_hz
        raise FileError(path, f"{segment} starts past the end of the recording, which is {length_s:.3f} s long")
    begin = int(start_s * rate_hz)
    end = frames if end_s is None or end_s * rate_hz >= frames else int(end_s * rate_hz)
    if begin >= end:
        raise FileError(path, f"{segment} holds no sample at {rate_hz} Hz; give a longer segment")
    return begin, end
