"""Open an audio file for reading whatever its name and its header say.

The content decides which decoder reads it. A header that promises a little too much is read to the end of the file with
a note, one that promises much more means that sound is missing and is refused; one that promises too little, nothing or
a place holder is replaced by a true one.
"""

import errno
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import soundfile

from rales.audio import containers
from rales.audio.band_energy import live_channels
from rales.errors import FileError, FileProblem, FileSystemError, MissingFileError
from rales.optional_packages import find_missing_package
from rales.typing import Waveform

# Suffixes under which recordings are looked for; what a file holds is found out when it is opened
FFMPEG_SUFFIXES = {".m4a", ".aac", ".mp4", ".3gp", ".amr", ".webm", ".wma", ".mka", ".mov"}  # phones and recorders
MPEG_SUFFIXES = {".mp3", ".mp2", ".mpga"}
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".flac", *sorted(MPEG_SUFFIXES), ".ogg", ".oga", ".opus"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", *sorted(FFMPEG_SUFFIXES)),
)
# Recordings that nothing here reads: named where they lie, so that nobody thinks they were heard
UNREAD_SUFFIXES = (".zsa", ".dss", ".ds2", ".dvf", ".msv", ".ape", ".wv", ".tta", ".mpc", ".shn", ".ra", ".rm")
# Not the formats that name other files or addresses to read, whatever a file is called.
NO_PLAYLISTS = {
    "format_whitelist": "mov,aac,amr,amrnb,amrwb,matroska,asf,mp3,wav,flac,ogg,aiff,caf",
    "protocol_whitelist": "file",
}
DECODED_TOLERANCE_S = 0.25  # a few frames of padding that decoders drop
MISSING_S = 0.05  # that a header may promise too much: as far as an annotated cycle may end behind the last sample
HIGHEST = 100.0  # times full scale: what is larger is on no scale that could be known
FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)  # of whole numbers
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BLOCK = 1 << 20  # samples in memory together
RATES_HZ = range(500, 1_000_001)  # no stethoscope has another; a damaged header that has makes hours of a second
MOST_IN_MEMORY = 1 << 31  # bytes of an MP3 or Ogg file, a day of sound and more
SAMPLE_BYTES = {  # of one channel
    "PCM_S8": 1,
    "PCM_U8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}
WHOLE_NUMBERS = ("PCM_16", "PCM_24", "PCM_32")  # that `read_whole_numbers` takes


class ChannelMix(NamedTuple):
    """How the channels of a file become one: the mean of the `live` ones (None: of all), divided by `scale`."""

    live: tuple[int, ...] | None = None
    scale: float = 1.0
    notes: tuple[str, ...] = ()


class SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read on and on: soundfile's own seeks to where it is after every read, whereupon the decoder of
    MP3 begins anew, a little differently, and complains on the terminal."""

    def seekable(self) -> bool:
        return False

    def all_blocks(self) -> Iterator[Waveform]:
        """-> the file in pieces (n, channels) float32, from where it is to its end."""
        left, most = self.frames, max(BLOCK // self.channels, 1)
        while left > 0 and len(block := self.read(min(left, most), dtype="float32", always_2d=True)):
            yield block
            left -= len(block)


@dataclass
class OpenRecording:
    """A file that is open for reading, and what is to be known about it: notes are sentences without the path."""

    path: Path
    source: str | BinaryIO
    file: SoundFile
    mix: ChannelMix
    notes: tuple[str, ...]
    at: int = 0  # the next frame

    def __enter__(self) -> "OpenRecording":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def frames(self, begin: int, end: int) -> Waveform:
        """Numbers of frames -> (end - begin or fewer, channels) float32.

        In MP3 there is no jump: all that comes before is decoded, so that a stretch is what it is in the whole.
        """
        if self.samples_at is not None:
            width, channels = SAMPLE_BYTES[self.file.subtype], self.file.channels
            with self.path.open("rb") as file:
                wave = read_whole_numbers(
                    file, self.samples_at + begin * width * channels, (end - begin) * channels, width
                )
            return wave[: len(wave) // channels * channels].reshape(-1, channels)
        if self.at != begin and not self.file.subtype.startswith("MPEG"):
            self.file.seek(begin)  # Ogg decodes a little differently behind a jump
            self.at = begin
        if self.at > begin:
            self.file.close()
            self.file, self.at = open_sound_file(self.path, self.source), 0
        while (left := begin - self.at) > 0:
            self.at += len(self.file.read(min(left, max(BLOCK // self.file.channels, 1)), dtype="float32")) or left
        block: Waveform = self.file.read(end - begin, dtype="float32", always_2d=True)
        self.at = begin + len(block)
        return block

    @cached_property
    def samples_at(self) -> int | None:
        """Byte of the file at which its samples begin, if they are whole numbers that need no decoder."""
        plain = self.file.format in ("WAV", "WAVEX") and self.file.subtype in WHOLE_NUMBERS
        if not plain or not isinstance(self.source, str):
            return None
        with self.path.open("rb") as file:
            chunk = containers.sound_chunk(file)
        if chunk is None or chunk.byteorder != "little":
            return None
        frames = min(chunk.promised, chunk.held) // (SAMPLE_BYTES[self.file.subtype] * self.file.channels)
        return chunk.begin if frames == self.file.frames else None  # else libsndfile takes the samples for others


def read_whole_numbers(file: BinaryIO, begin: int, samples: int, width: int) -> Waveform:
    """File, the byte at which samples of 2, 3 or 4 bytes begin, lowest first, and how many -> (samples or fewer,) as
    libsndfile gives them, which takes five to nine times as long.

    One of 24 bits is read as the upper part of 32, whose lowest byte belongs to the sample before and is cleared.
    """
    before = int(width == 3)
    file.seek(begin - before)
    content = file.read(before + samples * width)
    count = max(len(content) - before, 0) // width
    numbers = np.ndarray((count,), "<i2" if width == 2 else "<i4", content, strides=(width,))
    wave: Waveform = (numbers & np.int32(-256) if before else numbers).astype(np.float32)
    wave *= np.float32(2.0**-15 if width == 2 else 2.0**-31)
    return wave


def open_recording(path: Path) -> OpenRecording:
    """File -> its sound, as long as it is. Errors: FileNotFoundError, OSError (not permitted, a broken disk),
    ValueError (no sound, truncated, no scale); whatever else a decoder raises over a damaged file is one, too."""
    with reraise_as_sentences(path):
        check_is_file(path)
        return open_whole_recording(path)


@contextmanager
def reraise_as_sentences(path: Path, advice: str = "save it again as WAV") -> Iterator[None]:
    """With it, whatever is raised while a file is read is a ValueError or an OSError that names the file.

    The readers of many files count on these two, and what the decoders of damaged files raise, none of them says.
    """
    try:
        yield
    except FileProblem:
        raise
    except MemoryError as error:
        raise FileError(path, "does not fit into memory; make several files of it") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise FileSystemError(path, f"cannot be read ({error.strerror})") from error
        raise FileError(path, f"cannot be read ({type(error).__name__}: {error}); {advice}") from error


def check_is_file(path: Path, expected: str = "audio file") -> None:
    """What is at a path is a file, else a sentence: a pipe would be waited for, a device be read for ever."""
    if os.path.islink(path) and not path.exists():
        raise MissingFileError(path, f"a link to {os.readlink(path)}, where there is no file")
    if not path.exists():
        raise MissingFileError(path, "there is no such file")
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise FileSystemError(path, "a folder that cannot be opened (permission denied)")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise FileError(path, f"not a readable {expected} ({what}); expected a file")


def open_whole_recording(path: Path) -> OpenRecording:
    source, notes = find_readable_source(path)
    try:
        file = open_sound_file(path, source)
    except ValueError as error:
        if path.suffix.lower() in UNREAD_SUFFIXES:
            raise FileError(
                path, f"{path.suffix} recordings cannot be read; export it as WAV with the program of the recorder"
            ) from error
        source = decode_refused_file(path, error)
        file = open_sound_file(path, source)
    if not 0 < file.frames < 2**62:
        file.close()
        raise FileError(path, "holds no samples; remove the file or copy it again")
    if file.samplerate not in RATES_HZ:
        file.close()
        raise FileError(path, f"its header says {file.samplerate} samples a second; it is damaged, copy the file again")
    if file.channels == 1 and file.subtype not in ("FLOAT", "DOUBLE"):
        return OpenRecording(path, source, file, ChannelMix(), notes)
    file.close()
    mix = channel_mix_of(path, source)
    return OpenRecording(path, source, open_sound_file(path, source), mix, (*notes, *mix.notes))


def find_readable_source(path: Path) -> tuple[str | BinaryIO, tuple[str, ...]]:
    """File -> what libsndfile can read in its place (its name if that is the file itself), and notes."""
    with path.open("rb") as file:
        head = file.read(64)
        if kind := containers.ffmpeg_kind(head):
            return decode_with_ffmpeg(path, kind), ()
        if (chunk := containers.sound_chunk(file)) is not None:
            return mp3_chunk(path, chunk) if chunk.coding == containers.MP3 else chunked_source(path, chunk)
        if (flac := containers.parse_flac(file)) is not None:
            return flac_source(path, flac)
        if head[:4] == b"OggS":
            return ogg_source(path)
        is_mpeg = path.suffix.lower() in MPEG_SUFFIXES
        may_be = is_mpeg or head[:3] == b"ID3" or containers.mpeg_frame(head[:4])
        if may_be and (mpeg := containers.parse_mpeg(read_whole_file(path), anywhere=is_mpeg)) is not None:
            return mpeg_source(path, mpeg)
    # libsndfile would search a file of such a name for sound and complain on the terminal by itself
    if is_mpeg or path.suffix.lower() in FFMPEG_SUFFIXES:
        return decode_with_ffmpeg(path, ""), ()
    return str(path), ()


def read_whole_file(path: Path) -> bytes:
    """File of a compressed format -> all of it. Errors: it is too large for that."""
    if (size := path.stat().st_size) > MOST_IN_MEMORY:
        raise FileError(path, f"{size / 2**30:.1f} GB of compressed sound, too much; cut it into shorter recordings")
    return path.read_bytes()


def decode_refused_file(path: Path, error: ValueError) -> BinaryIO:
    """File that libsndfile has refused with an error -> what FFmpeg makes of it; without that, the error."""
    try:
        return decode_with_ffmpeg(path, "")
    except ValueError:
        raise error from None


def open_sound_file(path: Path, source: str | BinaryIO) -> SoundFile:
    """What `find_readable_source` gave -> the open file. Errors: ValueError with what libsndfile says."""
    if not isinstance(source, str):
        source.seek(0)
    try:
        # As bytes, since soundfile encodes names itself and knows those alone that are UTF-8
        return SoundFile(os.fsencode(source) if isinstance(source, str) and os.name != "nt" else source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name ending in .raw, which has no header
        raise FileError(
            path,
            f"not a readable audio file ({describe_sound_error(error)}); expected WAV, FLAC, OGG, MP3 or another "
            f"format of libsndfile",
        ) from error


# Headers beside what the file holds


class PatchedFile(io.RawIOBase):
    """A file some bytes of which are read as others, at `at`; it is not in memory, as it may be hours long."""

    def __init__(self, path: Path, at: int, true: bytes) -> None:
        self.file, self.at, self.true = path.open("rb", buffering=0), at, true

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        first = self.file.tell()
        count = self.file.readinto(buffer) or 0
        begin, end = max(first, self.at), min(first + count, self.at + len(self.true))
        if begin < end:
            memoryview(buffer).cast("B")[begin - first : end - first] = self.true[begin - self.at : end - self.at]
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def chunked_source(path: Path, chunk: containers.SoundChunk) -> tuple[str | BinaryIO, tuple[str, ...]]:
    """File of plain samples -> what to read, and notes. Errors: much of the promised sound is missing."""
    if chunk.open:
        return mended_chunk(path, chunk)[0], ("its header leaves its length open; read to its end",)
    behind = chunk.held - chunk.promised
    if chunk.promised == 0 or behind == 0 or (behind > 0 and chunk.behind == "chunks"):
        return str(path), ()
    left = f"{behind} bytes behind the sound that its header promises were not read"
    if behind > 0 and chunk.behind == "other":
        return str(path), (left,)

    # The header was written before the sound, or is off by some bytes
    source, bytes_a_second = mended_chunk(path, chunk)
    if 0 < behind <= MISSING_S * bytes_a_second:
        return str(path), (left,)
    message = f"its header promises {chunk.promised} bytes of sound and the file holds {chunk.held}"
    if behind < 0 and -behind > MISSING_S * bytes_a_second:
        raise FileError(path, f"truncated, {message}; copy the file again")
    return source, (f"{message}; read to its end",)


def mp3_chunk(path: Path, chunk: containers.SoundChunk) -> tuple[str | BinaryIO, tuple[str, ...]]:
    """WAV with MP3 in it, whose length libsndfile takes from the header -> the MP3 alone, and notes."""
    is_less = chunk.open or chunk.behind == "sound"
    begin, end = chunk.begin, chunk.begin + (chunk.held if is_less else min(chunk.promised, chunk.held))
    mpeg = containers.parse_mpeg(read_whole_file(path)[begin:end], anywhere=True)
    if mpeg is None or mpeg.frame.layer != 3:
        return decode_with_ffmpeg(path, "MPEG audio in WAV"), ()
    bytes_a_second = (end - begin) / (mpeg.held * mpeg.frame.samples / mpeg.frame.rate_hz)
    if not is_less and chunk.promised - chunk.held > MISSING_S * bytes_a_second:
        message = f"its header promises {chunk.promised} bytes of sound and the file holds {chunk.held}"
        raise FileError(path, f"truncated, {message}; copy the file again")
    source, notes = mpeg_source(path, mpeg)
    return (io.BytesIO(mpeg.content) if isinstance(source, str) else source), notes


def mended_chunk(path: Path, chunk: containers.SoundChunk) -> tuple[BinaryIO, float]:
    """File of plain samples -> the same with its true length, and bytes a second. Errors: it is not read to its end."""
    try:
        source = cast("BinaryIO", PatchedFile(path, *chunk.true_size()))
    except OverflowError as error:
        told = f"{chunk.held} bytes of sound, more than its header can say"
        raise FileError(path, f"holds {told}; save it as FLAC, RF64 or W64") from error
    with open_sound_file(path, source) as file:
        frames, width = file.frames, SAMPLE_BYTES.get(file.subtype, 0) * file.channels
        bytes_a_second = chunk.held / max(frames, 1) * file.samplerate
    # Another field than the mended one may be believed; AIFF counts 8 bytes in front of the samples
    if width and not 0 <= chunk.held - frames * width < width + 16:
        raise FileError(path, "its header does not say how long it is, and no end was found; save it again")
    return source, bytes_a_second


def flac_source(path: Path, flac: containers.FlacAudio) -> tuple[str | BinaryIO, tuple[str, ...]]:
    """FLAC file -> what to read, and notes. One that is cut off fails where it is read to its end."""
    is_part = flac.first > 0
    if flac.promised == flac.held and not is_part:
        return str(path), ()
    if flac.held == 0 and flac.promised == 0:
        raise FileError(path, "its header does not say how long it is, and no end was found; save it again")
    if flac.held >= containers.FLAC_MOST:
        raise FileError(path, f"damaged, its last part says that it is {flac.held} samples long; copy the file again")
    if flac.held == 0:  # no frame stands, and so it says when it is read
        return str(path), ()

    # The header of a part may count from where the whole began
    counts_whole = is_part and flac.promised == flac.first + flac.held
    message = f"its header promises {flac.promised} samples and the file holds {flac.held}"
    if flac.promised - flac.held > MISSING_S * flac.rate_hz and not counts_whole:
        if not is_part:
            return str(path), ()
        raise FileError(path, f"truncated, {message}; copy the file again")
    notes = (f"{message}; read to its end",) if flac.promised not in (0, flac.held) else ()
    with path.open("rb") as file:
        source = cast("BinaryIO", PatchedFile(path, *flac.true_length(file)))
    return (renumber_flac(path, source) if is_part else source), notes


def renumber_flac(path: Path, source: BinaryIO) -> BinaryIO:
    """FLAC whose samples are numbered from somewhere in a longer one -> its samples in a temporary file; libsndfile
    would jump to wrong places in it."""
    with open_sound_file(path, source) as part:
        subtype = "PCM_16" if part.subtype == "PCM_S8" else part.subtype  # W64 knows no 8 bits with a sign
        with temporary_sound(path, part.samplerate, part.channels, subtype) as (whole, target):
            try:
                while len(block := part.read(BLOCK, dtype="int32", always_2d=True)):
                    whole.write(block)
            except soundfile.SoundFileError as error:
                raise FileError(
                    path, f"damaged, cannot be decoded ({describe_sound_error(error)}); copy the file again"
                ) from error
            if whole.frames < part.frames:
                raise FileError(
                    path, f"truncated, {whole.frames} of {part.frames} samples could be decoded; copy the file again"
                )
    return target


def mpeg_source(path: Path, mpeg: containers.MpegAudio) -> tuple[str | BinaryIO, tuple[str, ...]]:
    """MPEG audio -> what to read, and notes. Errors: much of the promised sound is missing."""
    if mpeg.frame.layer != 3 or (mpeg.is_true and mpeg.is_whole):
        return str(path), ()
    promised_s, held_s = (
        (frames or 0) * mpeg.frame.samples / mpeg.frame.rate_hz for frames in (mpeg.promised, mpeg.held)
    )
    message = f"its header promises {promised_s:.3f} s and the file holds {held_s:.3f} s"
    if mpeg.promised is not None and promised_s - held_s > MISSING_S + mpeg.frame.samples / mpeg.frame.rate_hz:
        raise FileError(path, f"truncated, {message}; copy the file again")
    notes: tuple[str, ...] = ()
    if mpeg.promised is not None and not mpeg.is_true:
        notes = (f"{message}; read to its end",)
    if not mpeg.is_whole:
        notes += ("bytes between its frames that are no sound were left out",)
    return io.BytesIO(mpeg.mended()), notes


def ogg_source(path: Path) -> tuple[str | BinaryIO, tuple[str, ...]]:
    """Ogg file -> what to read, and notes; streams one behind the other become one. Errors: cut off inside a page."""
    content = read_whole_file(path)
    ogg = containers.parse_ogg(content)
    if ogg is None:
        return str(path), ()
    if ogg.is_cut:
        raise FileError(path, "truncated, it ends in the middle of a page; copy the file again")
    if ogg.damaged:
        raise FileError(path, f"damaged, {ogg.damaged} of its pages are not what was written; copy the file again")
    if not ogg.is_ordered:
        raise FileError(path, "one of its pages says that the sound ends before what stands in front; save it again")
    notes = () if ogg.is_ended else ("its last page is not there; read as far as it goes",)
    if len(ogg.links) == 1:
        return str(path), notes
    with open_sound_file(path, str(path)) as first:
        rate_hz, channels = first.samplerate, first.channels
    with temporary_sound(path, rate_hz, channels, "FLOAT") as (joined, target):
        for begin, end in ogg.links:
            with open_sound_file(path, io.BytesIO(content[begin:end])) as link:
                if (link.samplerate, link.channels) != (rate_hz, channels):
                    raise FileError(path, "streams of different rates or channels in one file; save it as WAV")
                for block in link.all_blocks():
                    joined.write(block)
    return target, notes


def decode_with_ffmpeg(path: Path, kind: str) -> BinaryIO:
    """File that only FFmpeg reads, and what it is, if known -> its sound as float32 samples in a temporary file."""
    # The package is not needed for anything else, so its absence is told of the file that wants it
    if sentence := find_missing_package("av", "av"):
        what = path.suffix if path.suffix.lower() in FFMPEG_SUFFIXES else kind
        if not what:
            raise FileError(path, "not a readable audio file (its content is of no format that libsndfile reads)")
        raise FileError(path, f"{what} {sentence}")
    import av

    # All of it at once and to disk: FFmpeg jumps only to about a place, and a long recording would fill the memory
    try:
        with av.open(str(path), options=NO_PLAYLISTS) as container:
            if not container.streams.audio:
                raise ValueError("holds no sound; expected an audio file")
            stream = container.streams.audio[0]
            promised = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            rate_hz, frames = stream.rate, 0
            to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate_hz)
            with temporary_sound(path, rate_hz, stream.channels, "FLOAT") as (file, target):
                for packet in container.decode(stream):
                    for block in to_float.resample(packet):
                        file.write(block.to_ndarray().T)
                        frames += block.samples
    # AttributeError: the stream of a damaged file may have no decoder, and so no rate
    except (av.FFmpegError, soundfile.SoundFileError, AttributeError, TypeError, ValueError) as error:
        raise FileError(path, f"not a readable audio file, or a damaged one ({describe_sound_error(error)})") from error

    # FFmpeg ends without an error where a file is cut off. An .aac stream without a container only guesses its length
    if container.format.name != "aac" and frames < rate_hz * (promised - DECODED_TOLERANCE_S):
        raise FileError(
            path,
            f"truncated, its header promises {promised:.3f} s and {frames / rate_hz:.3f} s could be decoded; "
            f"copy the file again",
        )
    return target


class NoRoom(FileSystemError):
    """There is no room for what a recording is turned into before it can be read. This machine is to blame, not the
    recording, so nobody may take that for a bad one."""


class TemporaryTarget(io.FileIO):
    """A temporary file, gone when it is closed, that remembers why it could not be written to: libsndfile, which writes
    to it, only learns that it was not."""

    failed: OSError | None = None

    def __init__(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as nameless:
            super().__init__(os.dup(nameless.fileno()), "r+b")

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while len(left):  # a disk that becomes full takes a part, and says why only when it is asked again
                left = left[super().write(left) :]
        except OSError as error:
            self.failed = error
        return size - len(left)


@contextmanager
def temporary_sound(
    path: Path, rate_hz: int, channels: int, subtype: str
) -> Iterator[tuple[soundfile.SoundFile, BinaryIO]]:
    """`with temporary_sound(…) as (sound, file):` write the samples of the recording at `path` to `sound`; afterwards
    they are in `file`, as W64. Errors: NoRoom."""
    full: OSError | None = None
    try:
        target = TemporaryTarget()
        with soundfile.SoundFile(target, "w", rate_hz, channels, subtype, format="W64") as sound:
            yield sound, cast("BinaryIO", target)
        full = target.failed
    except Exception as error:
        full = error if isinstance(error, OSError) and error.errno in FULL else target.failed
        if full is None:
            raise
    if full is not None:
        folder = tempfile.gettempdir()
        raise NoRoom(
            path,
            f"no room in {folder} to decode it ({full.strerror}); make room there, or set TMPDIR to another folder",
        ) from full


def describe_sound_error(error: Exception) -> str:
    # str() of the errors of libsndfile and FFmpeg repeats the path
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).rstrip(".")


# Channels and scale


def channel_mix_of(path: Path, source: str | BinaryIO) -> ChannelMix:
    """File -> how its channels become one. Every sample is looked at, once a process for a file read as it is."""
    if not isinstance(source, str):
        return channel_mix_of_sound(path, source)
    file_stat = path.stat()
    return channel_mix_of_file(source, file_stat.st_size, file_stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def channel_mix_of_file(path: str, size: int, mtime_ns: int) -> ChannelMix:
    return channel_mix_of_sound(Path(path), path)


def channel_mix_of_sound(path: Path, source: str | BinaryIO) -> ChannelMix:
    """What `find_readable_source` gave -> ChannelMix. Errors: samples that are on no known scale."""
    energy, highest, is_whole = np.zeros(1), 0.0, True
    with open_sound_file(path, source) as file, np.errstate(over="ignore"):
        try:
            for read in file.all_blocks():
                block = np.where(np.isfinite(read), read, 0)  # told when it is read
                energy = energy + ((block - block.mean(axis=0)).astype(np.float64) ** 2).sum(axis=0)
                highest = max(highest, float(np.abs(block).max(initial=0)))
                is_whole = is_whole and bool((block == np.rint(block)).all())
        except soundfile.SoundFileError:  # damaged further on: told when it is read so far
            pass
    scale, notes = 1.0, list[str]()
    if is_whole and highest > 1:
        scale = next((full for full in FULL_SCALES if highest <= full), 0.0)
        notes.append(f"its samples are whole numbers up to {highest:.0f}; taken as parts of {scale:.0f}")
    if scale == 0 or (scale == 1 and highest > HIGHEST):
        raise FileError(path, f"samples reach {highest:.6g}, expected -1 to 1; export it as 16 or 24 bit")
    live = live_channels(energy)
    if live is not None:
        notes.append(left_out_channels_note(live, len(energy)))
    return ChannelMix(live, scale, tuple(notes))


def left_out_channels_note(live: Sequence[int], channels: int) -> str:
    """Channels that are mixed, of how many -> the note about the others."""
    dead = [str(channel + 1) for channel in range(channels) if channel not in live]
    return f"channel{'s' * (len(dead) > 1)} {', '.join(dead)} of {channels} without sound, left out"


def mix_channels(block: Waveform, mix: ChannelMix) -> Waveform:
    """(N, channels) -> (N,) float32."""
    block = block if mix.live is None else block[:, list(mix.live)]
    wave: Waveform = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return wave if mix.scale == 1 else wave / np.float32(mix.scale)
