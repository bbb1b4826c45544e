"""Files with which recordings, annotations and lists have been found mixed: each is one failed row, and stops nothing.

`ODD` makes them one by one in a folder and says which recording is then the odd one.
"""

import errno
import io
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile

from tests.test_open_audio import aac, breathing, encoded

RATE_HZ = 4000
LOCKED = "locked"  # what is called so may not be opened, also by root (see `locks`)


def sound(seed: int = 1) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return breathing(4.0, RATE_HZ, seed)


def damaged_fragments(folder: Path) -> str:
    """Fragmented MP4 without a decoder for its stream: the header of the stream is not what it was."""
    path = folder / "fragments.m4a"
    aac(path, breathing(4), movflags="frag_keyframe+empty_moov", frag_duration="500000")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"mp\xff\xff").replace(b"esds", b"e\xffds"))
    return path.name


def samples_on_no_scale(folder: Path) -> str:
    wave = sound()
    wave[1000] = 1e25
    soundfile.write(folder / "scale.wav", wave, RATE_HZ, subtype="FLOAT")
    return "scale.wav"


def not_a_number(folder: Path) -> str:
    wave = sound()
    wave[1000] = np.nan
    soundfile.write(folder / "nan.wav", wave, RATE_HZ, subtype="FLOAT")
    return "nan.wav"


def content(name: str, data: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return name

    return make


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.wav")
    return "pipe.wav"


def a_socket(folder: Path) -> str:
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is at most 107 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.wav")
    finally:
        os.chdir(here)
    return "socket.wav"


def link(name: str, target: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).symlink_to(target)
        return name

    return make


def truncated(folder: Path) -> str:
    (folder / "truncated.wav").write_bytes(encoded(breathing(4), "WAV", "PCM_16")[:9000])
    return "truncated.wav"


def huge(folder: Path) -> str:
    """A terabyte of MP3 that is not on the disk."""
    with (folder / "huge.mp3").open("wb") as file:
        file.write(encoded(breathing(1), "MP3"))
        file.truncate(1 << 40)
    return "huge.mp3"


def folder_of_that_name(folder: Path) -> str:
    (folder / "folder.wav").mkdir()
    return "folder.wav"


def locked_file(folder: Path) -> str:
    soundfile.write(folder / f"{LOCKED}.wav", sound(), RATE_HZ)
    (folder / f"{LOCKED}.wav").chmod(0)
    return f"{LOCKED}.wav"


def locked_folder(folder: Path) -> str:
    place = folder / LOCKED
    place.mkdir()
    soundfile.write(place / "inside.wav", sound(), RATE_HZ)
    place.chmod(0)
    return LOCKED


def long_name_of_noise(folder: Path) -> str:
    name = "x" * 250 + ".wav"
    (folder / name).write_bytes(b"no sound")
    return name


def latin_name(folder: Path) -> str:
    name = os.fsdecode(b"pati\xebnt.wav")
    (folder / name).write_bytes(b"no sound")
    return name


def slow_rate(folder: Path) -> str:
    """A megabyte that says it is a fortnight long: a sample a second."""
    soundfile.write(folder / "slow.wav", 0.1 * np.random.default_rng(0).standard_normal(1 << 20), 1, subtype="PCM_16")
    return "slow.wav"


def fast_rate(folder: Path) -> str:
    wave = encoded(sound(), "WAV", "PCM_16")
    (folder / "fast.wav").write_bytes(wave[:24] + struct.pack("<I", 2**31 - 1) + wave[28:])
    return "fast.wav"


def annotated(text: bytes | None, name: str) -> Callable[[Path], str]:
    """A good recording beside an odd annotation; None: a pipe in its place."""

    def make(folder: Path) -> str:
        soundfile.write(folder / f"{name}.wav", sound(), RATE_HZ)
        place = folder / f"{name}.txt"
        os.mkfifo(place) if text is None else place.write_bytes(text)
        return f"{name}.wav"

    return make


def huge_annotation(folder: Path) -> str:
    soundfile.write(folder / "hugetext.wav", sound(), RATE_HZ)
    with (folder / "hugetext.txt").open("wb") as file:
        file.write(b"0\t1\t0\t0\n")
        file.truncate(1 << 40)
    return "hugetext.wav"


class Odd(NamedTuple):
    """How to make a file, and what comes of its recording: a row that failed, one that was answered, or none."""

    make: Callable[[Path], str]
    row: Literal["failed", "ok", ""] = "failed"


ODD: dict[str, Odd] = {
    "damaged fragments": Odd(damaged_fragments),
    "samples of 1e25": Odd(samples_on_no_scale),
    "NaN": Odd(not_a_number),
    "empty": Odd(content("empty.wav", b"")),
    "text": Odd(content("text.wav", b"hello\n")),
    "flac of rubbish": Odd(content("rubbish.flac", b"fLaC" + bytes(range(256)) * 20)),
    "mp3 of rubbish": Odd(content("rubbish.mp3", b"\xff\xfb\x90\x44" + bytes(range(256)) * 20)),
    "ogg of rubbish": Odd(content("rubbish.ogg", b"OggS" + bytes(range(256)) * 20)),
    "m4a of rubbish": Odd(content("rubbish.m4a", b"\0\0\0\x20ftypM4A " + bytes(range(256)) * 20)),
    "raw": Odd(content("plain.raw.wav", bytes(5000))),
    "unread format": Odd(content("visit.zsa", b"made up")),
    "truncated": Odd(truncated),
    "pipe": Odd(pipe),
    "socket": Odd(a_socket),
    "device": Odd(link("device.wav", "/dev/zero")),
    "dangling link": Odd(link("dangling.wav", "nowhere/at all.wav")),
    "link to itself": Odd(link("circle.wav", "circle.wav")),
    "folder": Odd(folder_of_that_name, row=""),
    "locked file": Odd(locked_file),
    "locked folder": Odd(locked_folder),
    "name that is not UTF-8": Odd(latin_name),
    "name of 254 characters": Odd(long_name_of_noise),
    "a terabyte": Odd(huge),
    "a sample a second": Odd(slow_rate),
    "2 GHz": Odd(fast_rate),
    "pipe as annotation": Odd(annotated(None, "pipetext"), row="ok"),
    "binary annotation": Odd(annotated(b"0.0\t1.0\t0\t0\n\xff\xfe\xfa\x81\n", "binarytext")),
    "a terabyte as annotation": Odd(huge_annotation, row="ok"),
    "deep annotation": Odd(annotated(b"[" * 100000, "deeptext"), row="ok"),
}


@contextmanager
def locks() -> Iterator[None]:
    """With it nothing called LOCKED can be opened, whoever runs the tests."""
    real = os.scandir, os.access, io.open

    def check(path: Any) -> None:
        if not isinstance(path, int) and LOCKED in Path(os.fsdecode(path)).stem:
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))

    def checked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *words: Any, **options: Any) -> Any:
            check(path)
            return function(path, *words, **options)

        return call

    def access(path: Any, *words: Any, **options: Any) -> bool:
        return LOCKED not in Path(os.fsdecode(path)).stem and real[1](path, *words, **options)

    os.scandir, os.access, io.open = checked(real[0]), access, checked(real[2])
    try:
        yield
    finally:
        os.scandir, os.access, io.open = real
