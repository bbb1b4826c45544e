"""Files with which recordings, annotations and lists have been found mixed: each is one failed row, and stops nothing.

`ODD` makes them one by one in a folder; each maker gets the folder and the name of a good recording in it, and says
which recording is then the odd one.
"""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tests.test_opening import aac, breathing, encoded, resized

RATE_HZ = 4000


def sound(seed: int = 1) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return breathing(4.0, RATE_HZ, seed)


def damaged_fragments(folder: Path) -> str:
    """Fragmented MP4 without a decoder for its stream: the header of the stream is not what it was."""
    path = folder / "fragments.m4a"
    aac(path, breathing(4), movflags="frag_keyframe+empty_moov", frag_duration="500000")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"mp\xff\xff"))
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
    """A terabyte that is not on the disk, whose header leaves its length open."""
    with (folder / "huge.wav").open("wb") as file:
        file.write(resized(encoded(breathing(1), "WAV", "PCM_16"), 0xFFFFFFFF))
        file.truncate(1 << 40)
    return "huge.wav"


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


ODD: dict[str, Callable[[Path], str]] = {
    "damaged fragments": damaged_fragments,
    "samples of 1e25": samples_on_no_scale,
    "NaN": not_a_number,
    "empty": content("empty.wav", b""),
    "text": content("text.wav", b"hello\n"),
    "flac of rubbish": content("rubbish.flac", b"fLaC" + bytes(range(256)) * 20),
    "mp3 of rubbish": content("rubbish.mp3", b"\xff\xfb\x90\x44" + bytes(range(256)) * 20),
    "ogg of rubbish": content("rubbish.ogg", b"OggS" + bytes(range(256)) * 20),
    "m4a of rubbish": content("rubbish.m4a", b"\0\0\0\x20ftypM4A " + bytes(range(256)) * 20),
    "raw": content("plain.raw.wav", bytes(5000)),
    "unread format": content("visit.zsa", b"made up"),
    "truncated": truncated,
    "pipe": pipe,
    "socket": a_socket,
    "device": link("device.wav", "/dev/zero"),
    "dangling link": link("dangling.wav", "nowhere/at all.wav"),
    "link to itself": link("circle.wav", "circle.wav"),
    "name that is not UTF-8": latin_name,
    "name of 254 characters": long_name_of_noise,
    "a terabyte of nothing": huge,
    "a sample a second": slow_rate,
    "2 GHz": fast_rate,
    "pipe as annotation": annotated(None, "pipetext"),
    "binary annotation": annotated(b"0.0\t1.0\t0\t0\n\xff\xfe\xfa\x81\n", "binarytext"),
    "a terabyte as annotation": huge_annotation,
    "deep annotation": annotated(b"[" * 100000, "deeptext"),
}
