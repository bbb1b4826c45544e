"""Recordings of every kind of file that is read, made here, and the same damaged at random."""

import io
import random
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 8000
LIBSNDFILE = {  # name -> format, subtype
    "pcm16.wav": ("WAV", "PCM_16"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "double.wav": ("WAV", "DOUBLE"),
    "ima.wav": ("WAV", "IMA_ADPCM"),
    "ms.wav": ("WAV", "MS_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"),
    "ulaw.wav": ("WAV", "ULAW"),
    "stereo.wav": ("WAV", "PCM_16"),
    "w64.wav": ("W64", "PCM_16"),
    "rf64.wav": ("RF64", "PCM_16"),
    "caf.caf": ("CAF", "PCM_16"),
    "au.au": ("AU", "PCM_16"),
    "a.aiff": ("AIFF", "PCM_16"),
    "double.aiff": ("AIFF", "DOUBLE"),
    "pcm16.flac": ("FLAC", "PCM_16"),
    "pcm24.flac": ("FLAC", "PCM_24"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "a.mp3": ("MP3", None),
}
FFMPEG = {  # name -> words of ffmpeg
    "aac.m4a": ["-c:a", "aac"],
    "alac.m4a": ["-c:a", "alac"],
    "raw.aac": ["-c:a", "aac"],
    "opus.webm": ["-c:a", "libopus"],
    "wma.wma": ["-c:a", "wmav2"],
    "phone.3gp": ["-c:a", "aac"],
    "aac.mp4": ["-c:a", "aac"],
    "fragments.m4a": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "200000"],
}
LATER = [0, 1, 0xFF, 0x7F, 0x80]
WORDS = [bytes.fromhex(word) for word in (
    "ffffffff", "00000000", "7fffffff", "ffffff7f", "80000000", "00000080", "feffffff", "ffff0000", "01000000",
)]  # fmt: skip


@cache
def bases(seconds: float = 1.0) -> dict[str, bytes]:
    """-> the undamaged files by name, noise each; those of FFmpeg where it is installed."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)
    made = {}
    for name, (form, subtype) in LIBSNDFILE.items():
        file = io.BytesIO()
        sound = np.stack([noise, noise[::-1]], axis=1) if "stereo" in name else noise
        soundfile.write(file, sound, 2 * RATE_HZ if form == "MP3" else RATE_HZ, format=form, subtype=subtype)
        made[name] = file.getvalue()
    if ffmpeg := shutil.which("ffmpeg"):
        made |= {name: converted(ffmpeg, made["pcm16.wav"], name, words) for name, words in FFMPEG.items()}
    return {name: content for name, content in made.items() if content}


def converted(ffmpeg: str, wav: bytes, name: str, words: list[str]) -> bytes:
    """WAV -> the same as FFmpeg writes it, b"" where this one cannot."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, name)
        subprocess.run(
            [ffmpeg, "-loglevel", "quiet", "-y", "-f", "wav", "-i", "-", *words, str(out)], input=wav, check=False
        )
        return out.read_bytes() if out.is_file() else b""


def damaged(content: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """File -> the same with up to 16 damages, most of them where its header is."""
    file = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3, 5, 8, 16])):
        if not file:
            break
        in_head = chance.random() < 0.7
        at = chance.randrange(min(len(file), chance.choice([48, 128, 700])) if in_head else len(file))
        match chance.randrange(9):
            case 0:
                file[at] = chance.choice([*LATER, chance.randrange(256)])
            case 1:
                file[at] ^= 1 << chance.randrange(8)
            case 2:
                file[at : at + 4] = chance.choice(WORDS)
            case 3:
                file[at:at] = file[at : at + chance.randrange(1, 200)]
            case 4:
                del file[at : at + chance.randrange(1, 64)]
            case 5:
                file[at : at + 8] = chance.choice(WORDS) * 2
            case 6:
                file[at : at + 2] = chance.choice([b"\0\0", b"\xff\xff", b"\x01\0", b"\0\x80"])
            case 7:
                other = chance.choice(others)
                begin = chance.randrange(len(other))
                file[at : at + 40] = other[begin : begin + 40]
            case _:
                del file[chance.randrange(1, len(file) + 1) :]
    return bytes(file)
