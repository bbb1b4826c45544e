"""Waves: read a segment of a recording, resample it, fade it, bring one breathing cycle to a fixed length."""

import io
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast, overload

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Wave = NDArray[np.float32]
PathLike = str | os.PathLike[str]

BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
FFMPEG_SUFFIXES = {".m4a", ".aac", ".mp4", ".3gp", ".amr", ".webm", ".wma"}  # what phones and recorders write
# Not the formats that name other files or addresses to read, whatever a file is called.
NO_PLAYLISTS = {
    "format_whitelist": "mov,aac,amr,amrnb,amrwb,matroska,asf,mp3,wav,flac,ogg,aiff,caf",
    "protocol_whitelist": "file",
}
LENGTH_TOLERANCE_S = 0.25  # a few frames of padding that decoders drop
# Sizes that mean "written to a pipe, never filled in": most programs, and SoX (2 GiB - 4 KiB in whole frames).
STREAM_SIZES = {0xFFFFFFFF, *range(0x7FFFF000 - 64, 0x7FFFF000 + 1)}


@dataclass(frozen=True)
class WaveInfo:
    """What a file says about itself; `bits` is 0 where the format has no fixed sample size (Ogg, MP3)."""

    rate_hz: int
    frames: int
    channels: int
    bits: int
    duration_s: float


def info(path: PathLike) -> WaveInfo:
    """File -> rate, frames, channels, bits, duration, from the header alone. Raises as `read` does before decoding."""
    with _open(Path(path)) as file:
        return WaveInfo(
            rate_hz=file.samplerate,
            frames=file.frames,
            channels=file.channels,
            bits=BITS.get(file.subtype, 0),
            duration_s=file.frames / file.samplerate,
        )


def read(path: PathLike, start_s: float | None = None, end_s: float | None = None) -> tuple[Wave, int]:
    """File and optional segment in seconds -> (mono wave (N,), rate_hz): the mean of the channels, in [-1, 1].

    The segment is the frames int(start_s * rate) up to int(end_s * rate), as the public ICBHI code cuts cycles; an end
    past the last frame is moved back to it (the last cycle of a recording may be rounded beyond the end).
    Raises FileNotFoundError for a missing file, ValueError for a file that is not audio, empty, truncated or not
    finite, and for a segment that holds no sample.
    """
    ((wave, rate_hz),) = segments(path, [(start_s, end_s)])
    return wave, rate_hz


def segments(path: PathLike, spans: Iterable[tuple[float | None, float | None]]) -> Iterator[tuple[Wave, int]]:
    """File and segments in seconds -> what `read` gives for each, one after another; the file is opened once."""
    path = Path(path)
    with _open(path) as file:
        for start_s, end_s in spans:
            yield _read_segment(path, file, start_s, end_s), int(file.samplerate)


def blocks(path: PathLike, about_s: float) -> Iterator[tuple[Wave, int]]:
    """File -> all of it in blocks (n, channels) of equal length, about as long as said, and rate_hz; one is in memory
    at a time. Raises as `read` does."""
    path = Path(path)
    with _open(path) as file:
        rate_hz = int(file.samplerate)
        length = -(-file.frames // max(1, round(file.frames / rate_hz / about_s)))
        for begin in range(0, file.frames, length):
            yield _read_channels(path, file, begin, min(begin + length, file.frames)), rate_hz


def cut(
    path: PathLike, whole: tuple[Wave, int], spans: Iterable[tuple[float | None, float | None]]
) -> Iterator[tuple[Wave, int]]:
    """What `read` gave for a whole file, and segments in seconds -> what `segments` gives, without decoding again."""
    wave, rate_hz = whole
    for start_s, end_s in spans:
        begin, end = _segment(Path(path), wave.size, rate_hz, start_s, end_s)
        yield wave[begin:end], rate_hz


def _read_segment(path: Path, file: Any, start_s: float | None, end_s: float | None) -> Wave:
    begin, end = _segment(path, file.frames, int(file.samplerate), start_s, end_s)
    block = _read_channels(path, file, begin, end)
    wave: Wave = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return wave


def _read_channels(path: Path, file: Any, begin: int, end: int) -> Wave:
    """Open file and frames -> (end - begin, channels); every one of them is there and finite."""
    rate_hz = int(file.samplerate)
    try:
        if file.tell() != begin:  # MP3 and Ogg decode a little differently behind a jump
            file.seek(begin)
        block: Wave = file.read(end - begin, dtype="float32", always_2d=True)  # (N, channels)
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"{path}: damaged or truncated, cannot be decoded to the end of the segment ({_reason(error)}); "
            f"copy the file again"
        ) from error
    if len(block) < end - begin:
        raise ValueError(
            f"{path}: truncated, {len(block)} of {end - begin} frames could be read from {begin / rate_hz:.3f} s on; "
            f"copy the file again"
        )
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        wrong = len(block) - np.count_nonzero(finite)
        raise ValueError(
            f"{path}: {wrong} of {len(block)} samples are NaN or infinite, the first at "
            f"{(begin + first) / rate_hz:.6f} s; export the recording again"
        )
    return block


def resample(wave: ArrayLike, rate_hz: int, to_hz: int = 16000, method: Literal["soxr", "sinc"] = "soxr") -> Wave:
    """Wave (N,) at rate_hz -> wave (about N * to_hz / rate_hz,) at to_hz; returned as it is where the rates are equal.

    "soxr" (quality HQ) is the better filter and the faster one; its length is N * to_hz / rate_hz rounded.
    "sinc" is the Hann-windowed sinc of torchaudio's Resample (width 6, rolloff 0.99), which the public ICBHI code uses;
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


def fade(wave: ArrayLike, samples: int = 1000, into: bool = True, out: bool = True) -> Wave:
    """Wave (N,) -> new wave (N,) with a linear ramp 0..1 over its first and 1..0 over its last `samples` samples.

    In a wave shorter than two ramps they overlap and multiply, as in torchaudio's Fade. That fails below one ramp;
    here the ramps are then as long as the wave, which carries on what torchaudio gives at N == samples.
    """
    return _faded(np.array(wave, dtype=np.float32), samples, into, out)


def _faded(wave: Wave, samples: int, into: bool, out: bool) -> Wave:
    """`fade` in place."""
    length = min(samples, wave.size)
    ramp = _ramp(length)
    if into:
        wave[:length] *= ramp
    if out:
        wave[wave.size - length :] *= ramp[::-1]
    return wave


@cache
def _ramp(samples: int) -> Wave:
    return np.linspace(0, 1, samples, dtype=np.float32)


@overload
def icbhi_cycle(
    wave: Tensor, samples: int = ..., pad: Literal["repeat", "zero"] = ..., fade_samples: int = ...
) -> Tensor: ...
@overload
def icbhi_cycle(
    wave: NDArray[Any], samples: int = ..., pad: Literal["repeat", "zero"] = ..., fade_samples: int = ...
) -> Wave: ...
def icbhi_cycle(
    wave: NDArray[Any] | Tensor,
    samples: int = 128000,
    pad: Literal["repeat", "zero"] = "repeat",
    fade_samples: int = 1000,
) -> Wave | Tensor:
    """One cycle (N,) at 16 kHz -> (samples,) float32, array or tensor as given (no gradient flows through).

    The steps of the public ICBHI code (ilyassmoummad/scl_icbhi2017): fade in and out; a longer cycle keeps its first
    `samples` samples; any other (also one of exactly that length) is repeated circularly, cut and faded out once more,
    or, with pad="zero", put in the middle of silence. Raises ValueError for an empty or not one-dimensional wave.
    """
    if isinstance(wave, Tensor):
        cycle = icbhi_cycle(wave.detach().to("cpu", torch.float32).numpy(), samples, pad, fade_samples)
        return torch.from_numpy(cycle).to(wave.device)
    if wave.ndim != 1 or wave.size == 0:
        raise ValueError(f"a cycle of shape {wave.shape} was given, expected one channel of at least one sample: (N,)")
    if pad not in ("repeat", "zero"):
        raise ValueError(f'padding "{pad}" is unknown; use "repeat" or "zero"')
    cycle = fade(wave, fade_samples)
    if cycle.size > samples:
        return cycle[:samples]
    if pad == "zero":
        before = (samples - cycle.size) // 2
        return np.pad(cycle, (before, samples - cycle.size - before))
    return _faded(np.resize(cycle, samples), fade_samples, into=False, out=True)


def _resample_sinc(wave: Wave, rate_hz: int, to_hz: int) -> Wave:
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


def _segment(path: Path, frames: int, rate_hz: int, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    start_s = 0.0 if start_s is None else start_s
    asked = f"{path}: the segment {start_s} s to {'the end' if end_s is None else f'{end_s} s'}"
    if not 0 <= start_s < math.inf or (end_s is not None and not start_s < end_s):
        raise ValueError(f"{asked} is not a stretch of time; expected 0 <= start < end")
    begin = int(start_s * rate_hz)
    if begin >= frames:
        raise ValueError(f"{asked} starts past the end of the recording, which is {frames / rate_hz:.3f} s long")
    end = frames if end_s is None or end_s * rate_hz >= frames else int(end_s * rate_hz)
    if begin >= end:
        raise ValueError(f"{asked} holds no sample at {rate_hz} Hz; give a longer segment")
    return begin, end


def _open(path: Path) -> Any:
    """File -> open soundfile.SoundFile that is audio, not empty, and not shorter than its header says."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    source: str | BinaryIO = str(path)
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        source = _decoded(path)
    data = _riff_data(path)
    if data is not None and data.streamed and data.promised == 0:
        # libsndfile takes a size of 0 at its word, so it is given a copy with the size that the file has.
        content = bytearray(path.read_bytes())
        content[data.size_at : data.size_at + 4] = data.held.to_bytes(4, data.byteorder)
        source = io.BytesIO(content)
    elif data is not None and not data.streamed and data.held < data.promised:
        raise ValueError(
            f"{path}: truncated, its header promises {data.promised} bytes of sound and the file holds {data.held}; "
            f"copy the file again"
        )
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name ending in .raw, which has no header
        raise ValueError(
            f"{path}: not a readable audio file ({_reason(error)}); expected WAV, FLAC, OGG, MP3 or another format of "
            f"libsndfile"
        ) from error
    frames = file.frames
    if 0 < frames < 2**62:  # libsndfile says 2**63 - 1 for a FLAC stream of unknown length
        return file
    file.close()
    if frames == 0:
        raise ValueError(f"{path}: holds no samples; remove the file or copy it again")
    raise ValueError(f"{path}: its header does not say how long it is (written to a pipe?); save it again as a file")


def _decoded(path: Path) -> BinaryIO:
    """File of a format that only FFmpeg reads -> the same sound as float32 samples in a temporary file."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f'{path}: {path.suffix} needs the package av: pip install "rales[av]"') from error
    target: Any = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the open recording)
    try:
        with av.open(str(path), options=NO_PLAYLISTS) as container:
            if not container.streams.audio:
                raise ValueError(f"{path}: holds no sound; expected an audio file")
            stream = container.streams.audio[0]
            promised = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            rate_hz, frames = stream.rate, 0
            to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate_hz)
            with soundfile.SoundFile(target, "w", rate_hz, stream.channels, "FLOAT", format="W64") as file:
                for decoded in container.decode(stream):
                    for block in to_float.resample(decoded):
                        file.write(block.to_ndarray().T)
                        frames += block.samples
    except (av.FFmpegError, soundfile.SoundFileError) as error:
        raise ValueError(f"{path}: not a readable audio file, or a damaged one ({_reason(error)})") from error
    # An .aac stream without a container only guesses its length
    if container.format.name != "aac" and frames < rate_hz * (promised - LENGTH_TOLERANCE_S):
        raise ValueError(
            f"{path}: truncated, its header promises {promised:.3f} s and {frames / rate_hz:.3f} s could be decoded; "
            f"copy the file again"
        )
    target.seek(0)
    return cast("BinaryIO", target)


def _reason(error: Exception) -> str:
    # str() of the errors of libsndfile and FFmpeg repeats the path
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).rstrip(".")


class _RiffData(NamedTuple):
    promised: int  # bytes of sound that the header announces
    held: int  # bytes from there to the end of the file
    streamed: bool  # written to a pipe: the size was not known and is a place holder
    size_at: int
    byteorder: Literal["little", "big"]


def _riff_data(path: Path) -> _RiffData | None:
    """WAV or RF64 file -> where its sound is; None for other files and where there is no data chunk."""
    if not path.is_file():
        return None
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:] != b"WAVE":
            return None
        byteorder: Literal["little", "big"] = "big" if head[:4] == b"RIFX" else "little"
        long_size = 0
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], byteorder)
            after = file.tell() + size + size % 2
            if chunk[:4] == b"ds64":
                long_size = int.from_bytes(file.read(16)[8:], "little")
            if chunk[:4] == b"data":
                start = file.tell()
                promised = long_size if head[:4] == b"RF64" and size == 0xFFFFFFFF else size
                streamed = promised in STREAM_SIZES or (promised == 0 and not _only_chunks(file, file_bytes, byteorder))
                return _RiffData(promised, file_bytes - start, streamed, start - 4, byteorder)
            file.seek(after)
    return None


def _only_chunks(file: BinaryIO, file_bytes: int, byteorder: Literal["little", "big"]) -> bool:
    """File behind a data chunk of size 0 -> whether chunks alone follow: it is empty, its size not a place holder."""
    while (left := file_bytes - file.tell()) >= 8:
        name, size = file.read(4), int.from_bytes(file.read(4), byteorder)
        if size > left - 8 or not (name.isascii() and name.decode("ascii").isprintable()):
            return False
        file.seek(size + size % 2, os.SEEK_CUR)
    return True
