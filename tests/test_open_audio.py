"""Every recording is read as long as it is, by what it holds and not by its name; what cannot be says so, once."""

import errno
import io
import itertools
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from rales.audio import containers, read_audio_info, read_waveform
from rales.audio.open_audio import HIGHEST, MISSING_S, SoundFile

RATE_HZ = 16000


def breathing(duration_s: float = 12.0, rate_hz: int = RATE_HZ, seed: int = 0) -> NDArray[np.float32]:
    """Noise that swells, after a quiet first second, as recorders begin: MP3 then spends few bits on it."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = 0.1 * np.random.default_rng(seed).standard_normal(time_s.size) * (0.2 + np.sin(time_s) ** 2)
    return np.asarray(np.where(time_s < 1, 0.01, 1) * noise, dtype=np.float32)


def encoded(sound: NDArray[np.floating[Any]], form: str, subtype: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, RATE_HZ, format=form, subtype=subtype, **options)
    return file.getvalue()


def aac(path: Path, sound: NDArray[np.float32], **options: str) -> None:
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for start in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound[None, start : start + 1024]), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = RATE_HZ, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# MP3


def without_count(mp3: bytes) -> bytes:
    """MP3 file -> the same without its first frame, which counts the others."""
    assert b"Xing" in mp3[:64] or b"Info" in mp3[:64]
    first = containers.mpeg_frame(mp3[:4])
    assert first is not None
    return mp3[first.size :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("suffix", [".mp3", ".wav"])
def test_mp3_without_a_count_is_read_to_its_end(tmp_path: Path, mode: str, suffix: str) -> None:
    sound = breathing()
    mp3 = encoded(sound, "MP3", bitrate_mode=mode, compression_level=0.2)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(without_count(mp3))
    heard, rate_hz = read_waveform(path)
    assert rate_hz == RATE_HZ
    assert heard.size == read_audio_info(path).frames
    assert heard.size / RATE_HZ == pytest.approx(12, abs=0.2)
    # the delay of encoder and decoder is known from the count alone, so it stays
    shifts = np.arange(0, 3000)
    middle = sound[5 * RATE_HZ : 7 * RATE_HZ]
    errors = [np.abs(heard[5 * RATE_HZ + at : 7 * RATE_HZ + at] - middle).mean() for at in shifts]
    assert min(errors) < 0.5 * np.abs(middle).mean()
    assert heard[-RATE_HZ // 2 :].std() > 0.01  # sound to the last


def test_an_mp3_that_is_right_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(breathing(), "MP3"))
    assert read_audio_info(path).frames == 12 * RATE_HZ
    assert not read_audio_info(path).notes
    with soundfile.SoundFile(path) as file:  # soundfile.read would jump to the start, which decodes differently
        assert (read_waveform(path)[0] == file.read(dtype="float32")).all()


def test_mp3_whose_count_is_wrong(tmp_path: Path) -> None:
    mp3 = bytearray(encoded(breathing(), "MP3"))
    at = bytes(mp3).index(b"Xing" if b"Xing" in mp3[:64] else b"Info") + 8
    (count,) = struct.unpack(">I", mp3[at : at + 4])
    path = tmp_path / "a.mp3"
    mp3[at : at + 4] = struct.pack(">I", count // 3)  # as editors leave it that append
    path.write_bytes(mp3)
    assert read_waveform(path)[0].size / RATE_HZ == pytest.approx(12, abs=0.2)
    assert "its header promises" in read_audio_info(path).notes[0]
    mp3[at : at + 4] = struct.pack(">I", count * 2)
    path.write_bytes(mp3)
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.mp3: truncated, its header promises 2\d\.\d+ s"):
            reader(path)


def test_mp3_between_tags_and_damage(tmp_path: Path) -> None:
    mp3 = without_count(encoded(breathing(), "MP3"))
    plain = containers.parse_mpeg(mp3, anywhere=False)
    assert plain is not None
    tag = b"ID3\x03\0\0\0\0\x01\0" + bytes(128)
    damage = np.random.default_rng(0).integers(0, 255, 100000, dtype=np.uint8).tobytes()
    path = tmp_path / "a.mp3"
    path.write_bytes(tag + mp3 + b"TAG" + bytes(125))
    assert read_waveform(path)[0].size / RATE_HZ == pytest.approx(12, abs=0.2)
    half = plain.places[len(plain.places) // 2][0]
    path.write_bytes(mp3[:half] + damage + mp3[half:])
    assert read_waveform(path)[0].size / RATE_HZ == pytest.approx(12, abs=0.5)
    assert "were left out" in read_audio_info(path).notes[0]


@pytest.mark.parametrize("wrong", [-1, 1])
def test_mp3_whose_count_is_wrong_by_one(tmp_path: Path, wrong: int) -> None:
    mp3 = bytearray(encoded(breathing(), "MP3"))
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3)
    expected = read_waveform(path)[0]
    at = bytes(mp3).index(b"Xing" if b"Xing" in mp3[:64] else b"Info") + 8
    (count,) = struct.unpack(">I", mp3[at : at + 4])
    mp3[at : at + 4] = struct.pack(">I", count + wrong)
    path.write_bytes(mp3)
    heard = read_waveform(path)[0]
    assert read_audio_info(path).frames == heard.size >= expected.size
    assert "read to its end" in read_audio_info(path).notes[0]
    if wrong == 1:  # the first frame was counted
        assert (heard == expected).all()


def mp3_in_wav(mp3: bytes, promised: int, frames: int) -> bytes:
    form = struct.pack("<HHIIHH", 0x55, 1, RATE_HZ, 6000, 1, 0) + struct.pack("<HHIHHH", 12, 1, 2, 216, 1, 0)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"fact" + struct.pack("<II", 4, frames)
    return b"RIFF" + struct.pack("<I", 0) + b"WAVE" + chunks + b"data" + struct.pack("<I", promised) + mp3


@pytest.mark.parametrize("frames", [0, 12 * RATE_HZ, 12 * RATE_HZ + 2000])
@pytest.mark.parametrize("size", ["true", "open", "half"])
@pytest.mark.parametrize("count", [True, False])
def test_mp3_in_wav(tmp_path: Path, frames: int, size: str, count: bool) -> None:
    mp3 = encoded(breathing(), "MP3")
    mp3 = mp3 if count else without_count(mp3)
    (tmp_path / "a.mp3").write_bytes(mp3)
    expected = read_waveform(tmp_path / "a.mp3")[0]
    path = tmp_path / "a.wav"
    promised = {"true": len(mp3), "open": 0xFFFFFFFF, "half": len(mp3) // 2}[size]
    path.write_bytes(mp3_in_wav(mp3, promised, frames))
    assert (read_waveform(path)[0] == expected).all()
    assert (read_waveform(path, 5, 7)[0] == expected[5 * RATE_HZ : 7 * RATE_HZ]).all()
    path.write_bytes(mp3_in_wav(mp3[: len(mp3) // 2], len(mp3), frames))
    with pytest.raises(ValueError, match=r"a\.wav: truncated, its header promises"):
        read_waveform(path)


# Headers of plain samples and of FLAC

FORMS = {"WAV": "wav", "RF64": "rf64", "AIFF": "aiff", "AU": "au", "CAF": "caf", "W64": "w64", "WAVEX": "wav"}


def resized(content: bytes, size: int) -> bytes:
    """File -> the same that says another size, in bytes, of its sound."""
    chunk = containers.sound_chunk(io.BytesIO(content))
    assert chunk is not None
    at, end = chunk.size_at, chunk.size_at + chunk.size_bytes
    if content[:4] == b"RF64":  # its size stands in the chunk ds64
        return content[:28] + size.to_bytes(8, "little") + content[36:]
    return content[:at] + (size + chunk.added).to_bytes(chunk.size_bytes, chunk.byteorder) + content[end:]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more", [1, 8, 16, 36, 44])
def test_a_header_that_promises_a_little_too_much(tmp_path: Path, form: str, more: int) -> None:
    content = encoded(breathing(), form, "PCM_16")
    chunk = containers.sound_chunk(io.BytesIO(content))
    assert chunk is not None
    path = tmp_path / f"a.{FORMS[form]}"
    path.write_bytes(content[: chunk.begin + chunk.promised])
    expected = read_waveform(path)[0]
    path.write_bytes(resized(path.read_bytes(), chunk.promised + more))
    assert (read_waveform(path)[0] == expected).all()
    (note,) = read_audio_info(path).notes
    promised, held = chunk.promised + more, chunk.promised
    assert note == f"its header promises {promised} bytes of sound and the file holds {held}; read to its end"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("missing_s", [MISSING_S + 0.01, 6])
def test_a_file_that_lacks_sound_is_never_a_shorter_one(tmp_path: Path, form: str, missing_s: float) -> None:
    content = encoded(breathing(), form, "PCM_16")
    chunk = containers.sound_chunk(io.BytesIO(content))
    assert chunk is not None
    behind = len(content) - (chunk.begin + chunk.promised)
    path = tmp_path / f"a.{FORMS[form]}"
    path.write_bytes(content[: len(content) - behind - round(2 * RATE_HZ * missing_s)])
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"truncated, its header promises \d+ bytes of sound and the file holds"):
            reader(path)


@pytest.mark.parametrize(
    "size", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x80000000, 0x7FFFFFDA, 0x7FFFF000 - 44, 0x7F000008]
)
@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU"])
def test_place_holders_for_a_size_that_was_not_known(tmp_path: Path, form: str, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(breathing(), form, "PCM_16"))
    expected = read_waveform(path)[0]
    path.write_bytes(resized(path.read_bytes(), size))
    assert (read_waveform(path)[0] == expected).all()
    assert read_audio_info(path).notes == ("its header leaves its length open; read to its end",)


def test_caf_of_open_length(tmp_path: Path) -> None:
    path = tmp_path / "a.caf"
    path.write_bytes(encoded(breathing(), "CAF", "PCM_16"))
    expected = read_waveform(path)[0]
    content = path.read_bytes()
    chunk = containers.sound_chunk(io.BytesIO(content))
    assert chunk is not None
    path.write_bytes(content[: chunk.size_at] + b"\xff" * 8 + content[chunk.size_at + 8 :])
    assert (read_waveform(path)[0] == expected).all()


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "W64", "RF64"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.99])
def test_a_header_written_before_the_recording_ended(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(breathing(), form, "PCM_16"))
    expected = read_waveform(path)[0]
    path.write_bytes(resized(path.read_bytes(), 2 * round(12 * share * RATE_HZ)))
    assert (read_waveform(path)[0] == expected).all()
    assert "read to its end" in read_audio_info(path).notes[0]


@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63 - 1, 8 * RATE_HZ])
def test_rf64_says_its_length_in_64_bits(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(breathing(), "RF64", "PCM_16"))
    expected = read_waveform(path)[0]
    path.write_bytes(resized(path.read_bytes(), size))
    assert (read_waveform(path)[0] == expected).all()
    assert read_audio_info(path).frames == 12 * RATE_HZ
    assert "read to its end" in read_audio_info(path).notes[0]


def test_a_note_that_would_not_be_true_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(resized(encoded(breathing(), "WAV", "PCM_16"), 0xFFFFFFFF))
    size = (2 * RATE_HZ).to_bytes(4, "little")
    monkeypatch.setattr(containers.SoundChunk, "true_size", lambda chunk: (chunk.size_at, size))
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.wav: its header does not say how long it is"):
            reader(path)


@pytest.mark.parametrize("form", ["WAV", "AU", "W64", "RF64"])
def test_a_header_alone(tmp_path: Path, form: str) -> None:
    content = encoded(breathing(), form, "PCM_16")
    chunk = containers.sound_chunk(io.BytesIO(content))
    assert chunk is not None
    path = tmp_path / "a.wav"
    path.write_bytes(content[: chunk.begin])
    with pytest.raises(ValueError, match=r"truncated, its header promises \d+ bytes of sound and the file holds 0"):
        read_waveform(path)


def test_rubbish_behind_the_sound_is_named_and_not_heard(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(breathing(), "WAV", "PCM_16") + b"\x07\0not a chunk" * 10)
    assert read_waveform(path)[0].size == 12 * RATE_HZ
    assert read_audio_info(path).notes == ("130 bytes behind the sound that its header promises were not read",)


LIST = b"LIST" + struct.pack("<I", 8004) + b"INFO" + bytes(range(1, 251)) * 32
BEHIND = {
    "zeros up to a whole block": bytes(32768),
    "a tag that is no chunk": b"ID3\x03\0\0\0\0\x7f\x7f" + b"a picture" * 2000,
    "a chunk that is cut off": LIST[:6000],
    "a chunk and rubbish": LIST + b"\xf0\xff" * 5000,
}


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("form", ["WAV", "RF64"])
def test_what_is_no_sound_is_not_heard(tmp_path: Path, what: str, form: str) -> None:
    content = encoded(breathing(), form, "PCM_16")
    path = tmp_path / "a.wav"
    path.write_bytes(content + BEHIND[what])
    assert read_waveform(path)[0].size == 12 * RATE_HZ
    assert read_audio_info(path).notes == (
        f"{len(BEHIND[what])} bytes behind the sound that its header promises were not read",
    )
    path.write_bytes(content + LIST)
    assert read_waveform(path)[0].size == 12 * RATE_HZ
    assert not read_audio_info(path).notes


@pytest.mark.parametrize("total", [0, RATE_HZ, 12 * RATE_HZ - 1])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_that_says_less_than_it_holds(tmp_path: Path, total: int, subtype: str) -> None:
    path = tmp_path / "a.flac"
    content = bytearray(encoded(breathing(), "FLAC", subtype))
    path.write_bytes(content)
    expected = read_waveform(path)[0]
    content[21] = content[21] & 0xF0
    content[22:26] = struct.pack(">I", total)
    path.write_bytes(content)
    assert (read_waveform(path)[0] == expected).all()
    assert (read_waveform(path, 5, 7)[0] == expected[5 * RATE_HZ : 7 * RATE_HZ]).all()
    assert len(read_audio_info(path).notes) == (total > 0)


def flac_frames(content: bytes) -> list[int]:
    """FLAC file of one block size -> where its frames begin, and its end."""
    largest = int.from_bytes(content[10:12], "big")
    places, at = list[int](), 42
    while (at := content.find(b"\xff\xf8", at)) >= 0:
        if containers.flac_frame(content[at : at + 16], largest) in (
            (len(places) * largest, min((len(places) + 1) * largest, 12 * RATE_HZ)),
        ):
            places.append(at)
        at += 1
    return [*places, len(content)]


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("told", ["nothing", "the part", "the end in the whole"])
def test_parts_of_a_flac_that_was_cut(tmp_path: Path, subtype: str, channels: int, told: str) -> None:
    sound = np.stack([breathing(), breathing(seed=1)], axis=1)[:, :channels]
    content = encoded(sound, "FLAC", subtype)
    (tmp_path / "whole.flac").write_bytes(content)
    whole = read_waveform(tmp_path / "whole.flac")[0]
    largest, places = int.from_bytes(content[10:12], "big"), flac_frames(content)
    assert len(places) == -(-12 * RATE_HZ // largest) + 1
    cuts = [0, 10, 25, len(places) - 1]
    for begin, end in itertools.pairwise(cuts):
        expected = whole[begin * largest : end * largest]
        total = {"nothing": 0, "the part": expected.size}.get(told, begin * largest + expected.size)
        head = content[:21] + bytes([content[21] & 0xF0]) + struct.pack(">I", total) + bytes(16)
        path = tmp_path / f"{begin}.flac"
        path.write_bytes(head + content[42 : places[0]] + content[places[begin] : places[end]])
        assert (read_waveform(path)[0] == expected).all()
        assert (read_waveform(path, 0.5, 1.5)[0] == expected[RATE_HZ // 2 : 3 * RATE_HZ // 2]).all()
        assert read_audio_info(path).frames == expected.size
        assert bool(read_audio_info(path).notes) == (begin > 0 and told == "the end in the whole")
        path.write_bytes(path.read_bytes()[: -(places[end] - places[end - 1]) // 2])
        with pytest.raises(ValueError, match=r"\.flac: (damaged|truncated).*copy the file again"):
            read_waveform(path)


def test_flac_that_says_a_second_and_is_damaged_at_its_end(tmp_path: Path) -> None:
    content = bytearray(encoded(breathing(90), "FLAC", "PCM_24"))
    lost = containers.FLAC_TAIL + 100_000
    assert len(content) > 2 * lost
    content[-lost:] = bytes(lost)
    content[22:26] = struct.pack(">I", RATE_HZ)
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert read_audio_info(path).duration_s > 40
    assert "its header promises 16000 samples" in read_audio_info(path).notes[0]
    assert read_waveform(path, 30, 31)[0].std() > 0.01
    with pytest.raises(ValueError, match=r"a\.flac: damaged or truncated"):
        read_waveform(path)


@pytest.mark.parametrize("more", [1, 16, round(MISSING_S * RATE_HZ)])
def test_flac_that_says_a_little_too_much(tmp_path: Path, more: int) -> None:
    content = bytearray(encoded(breathing(), "FLAC", "PCM_16"))
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    expected = read_waveform(path)[0]
    content[22:26] = struct.pack(">I", expected.size + more)
    path.write_bytes(content)
    assert (read_waveform(path)[0] == expected).all()
    assert read_audio_info(path).notes == (
        f"its header promises {expected.size + more} samples and the file holds {expected.size}; read to its end",
    )
    content[22:26] = struct.pack(">I", expected.size + round(MISSING_S * RATE_HZ) + 1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.flac: .*truncated"):
        read_waveform(path)


# Ogg


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_one_behind_the_other(tmp_path: Path, subtype: str) -> None:
    first, second = breathing(5), breathing(3, seed=1)
    path = tmp_path / "a.ogg"
    links = [encoded(sound, "OGG", subtype) for sound in (first, second)]
    alone = []
    for link in links:
        path.write_bytes(link)
        alone.append(read_waveform(path)[0])
    path.write_bytes(b"".join(links))
    assert (read_waveform(path)[0] == np.concatenate(alone)).all()
    assert read_audio_info(path).duration_s == pytest.approx(8, abs=0.1)


def test_ogg_that_is_cut_off(tmp_path: Path) -> None:
    whole = encoded(breathing(), "OGG", "VORBIS")
    path = tmp_path / "a.ogg"
    path.write_bytes(whole[: len(whole) // 2])
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.ogg: truncated, it ends in the middle of a page"):
            reader(path)
    path.write_bytes(whole[: whole.rindex(b"OggS")])  # a recorder that was killed
    assert read_audio_info(path).notes == ("its last page is not there; read as far as it goes",)


def with_end(ogg: bytes, page: int, samples: int) -> bytes:
    """Ogg file -> the same whose page says that the sound ends with another sample, as if it had been written so."""
    places = [at for at in range(len(ogg)) if ogg.startswith(b"OggS", at)]
    begin, end = [*places, len(ogg)][page - 1], [*places, len(ogg)][page] if page != -1 else len(ogg)
    changed = ogg[begin : begin + 6] + samples.to_bytes(8, "little") + ogg[begin + 14 : end]
    changed = changed[:22] + containers.ogg_sum(changed) + changed[26:]
    return ogg[:begin] + changed + ogg[end:]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_says_less_than_it_holds(tmp_path: Path, subtype: str) -> None:
    path, content = tmp_path / "a.ogg", encoded(breathing(), "OGG", subtype)
    path.write_bytes(with_end(content, -1, 48000))
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.ogg: one of its pages says that the sound ends before"):
            reader(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("place", [0.5, 0.99])
def test_damaged_ogg_loses_no_sound_in_silence(tmp_path: Path, subtype: str, place: float) -> None:
    """A decoder passes over a page that is not what was written, as if a second had never been."""
    path, content = tmp_path / "a.ogg", bytearray(encoded(breathing(), "OGG", subtype))
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.ogg: damaged, 1 of its pages"):
            reader(path)


# Content, not name

CONTENTS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "ogg": "OGG", "aiff": "AIFF", "caf": "CAF", "m4a": "AAC"}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "m4a", "ogg", "wma"])
def test_the_content_decides(tmp_path: Path, content: str, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    true, named = tmp_path / f"true.{content}", tmp_path / f"named.{suffix}"
    if content == "m4a":
        aac(true, breathing(2))
    else:
        true.write_bytes(encoded(breathing(2), CONTENTS[content]))
    named.write_bytes(true.read_bytes())
    assert (read_waveform(named)[0] == read_waveform(true)[0]).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "m4a", "ogg", "wma", "caf"])
@pytest.mark.parametrize("content", [b"", bytes(200000), b"hello, this is no sound\n" * 5000, b"\xff" * 200000])
def test_what_is_no_sound_is_one_true_sentence(
    tmp_path: Path, content: bytes, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match="not a readable audio file") as caught:
            reader(path)
        assert "does not exist" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_ffmpeg_the_sentence_names_what_the_file_is(tmp_path: Path) -> None:
    aac(tmp_path / "phone.wav", breathing(2))
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from rales.audio import read_waveform as read\n"
        f"try: read({str(tmp_path / 'phone.wav')!r})\nexcept ValueError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    what = "MP4 needs the package av, which is not installed"
    assert ended.stdout.strip() == f'{tmp_path / "phone.wav"}: {what}: pip install "rales[av]"'


# Strange files


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.wav")
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"x\.wav: not a readable audio file \(a pipe or a device\)"):
            reader(tmp_path / "x.wav")


def test_damaged_fragments_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    aac(path, breathing(4), movflags="frag_keyframe+empty_moov", frag_duration="500000")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in random.integers(0, 1200, 12):  # the header of the stream lies there
            damaged[at] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_waveform(path)
        except ValueError as error:
            refused += str(error).startswith(str(path))
    assert refused > 10


@pytest.mark.parametrize("missing", ["rate", "channels", "layout"])
def test_a_stream_without_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """What FFmpeg's wrapper does for a stream whose codec it could not find."""
    path = tmp_path / "a.m4a"
    aac(path, breathing(2))
    original = av.open

    def opened(*given: Any, **options: Any) -> Any:
        container = original(*given, **options)

        class Stream:
            def __getattr__(self, name: str) -> Any:
                if name == missing:
                    raise AttributeError(f"'AudioStream' object has no attribute '{missing}'")
                return getattr(container.streams.audio[0], name)

        class Container:
            streams = type("Streams", (), {"audio": [Stream()]})
            format = container.format
            __enter__ = lambda self: self  # noqa: E731
            __exit__ = lambda self, *_: container.close()  # noqa: E731

        return Container()

    monkeypatch.setattr(av, "open", opened)
    with pytest.raises(ValueError, match=r"a\.m4a: not a readable audio file, or a damaged one"):
        read_waveform(path)


def test_names_that_are_not_utf_8_need_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / os.fsdecode(b"pati\xebnt.wav")
    path.write_bytes(encoded(breathing(1), "WAV", "PCM_16"))
    assert read_waveform(path)[0].size == RATE_HZ
    path.write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"nt\.wav: not a readable audio file"):
        read_waveform(path)


@pytest.mark.parametrize("rate_hz", [1, 100, 2**31 - 1])
def test_rates_of_damaged_headers(tmp_path: Path, rate_hz: int) -> None:
    content, path = encoded(breathing(1), "WAV", "PCM_16"), tmp_path / "a.wav"
    path.write_bytes(content[:24] + struct.pack("<I", rate_hz) + content[28:])
    with pytest.raises(ValueError, match=rf"a\.wav: its header says {rate_hz} samples a second"):
        read_audio_info(path)


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_a_long_recording_with_a_false_header_is_not_held_in_memory(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.wav"
    content = encoded(breathing(60), form, "PCM_24")
    if form == "FLAC":
        path.write_bytes(content[:22] + bytes(4) + content[26:])
    else:
        path.write_bytes(resized(content, 0xFFFFFFFF))
        os.truncate(path, 1 << 28)
    tracemalloc.start()
    assert read_audio_info(path).duration_s >= 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * containers.FLAC_TAIL


def test_more_sound_than_a_header_can_say(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(resized(encoded(breathing(1), "WAV", "PCM_16"), 0xFFFFFFFF))
        file.truncate(5 << 30)
        file.seek(2**32 + 43)
        file.write(b"more sound" * 100)
    with pytest.raises(ValueError, match=r"a\.wav: holds \d+ bytes of sound, more than its header can say"):
        read_audio_info(path)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
def test_compressed_files_of_no_size_for_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(breathing(1), suffix[1:].upper()))
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match=r"1024\.0 GB of compressed sound"):
        read_audio_info(path)


RAISED = [
    struct.error("unpack"),
    MemoryError(),
    IndexError(),
    RecursionError(),
    OSError(errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("place", ["sound_chunk", "parse_ogg", "parse_flac"])
def test_whatever_is_raised_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, place: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(containers, place, fail)
    path = tmp_path / "a.sound"
    path.write_bytes(encoded(breathing(1), "OGG" if place == "parse_ogg" else "FLAC"))
    for reader in (read_waveform, read_audio_info):
        with pytest.raises((ValueError, OSError), match=r"a\.sound: (cannot be read|does not fit into memory)"):
            reader(path)


def test_a_segment_far_past_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(breathing(1), "WAV", "PCM_16"))
    with pytest.raises(ValueError, match="starts past the end"):
        read_waveform(path, 1e308)


# Channels and scale


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
@pytest.mark.parametrize("level", [0.0, 3e-4])
def test_a_dead_channel_is_left_out(tmp_path: Path, form: str, level: float) -> None:
    sound = breathing(3)
    hiss = (level * sound.std() * np.random.default_rng(1).standard_normal(sound.size)).astype(np.float32)
    path = tmp_path / "a.sound"
    path.write_bytes(encoded(sound, form, "PCM_24"))
    expected = read_waveform(path)[0]
    for order in (1, -1):
        path.write_bytes(encoded(np.stack([sound, hiss + 0.01][::order], axis=1), form, "PCM_24"))
        assert (read_waveform(path)[0] == expected).all()
        assert (read_waveform(path, 1, 2)[0] == expected[RATE_HZ : 2 * RATE_HZ]).all()
        about = read_audio_info(path)
        assert (about.channels, about.live) == (2, ((1 - order) // 2,))
        assert about.notes == (f"channel {1.5 + order / 2:.0f} of 2 without sound, left out",)


def test_quiet_channels_and_silence_stay(tmp_path: Path) -> None:
    sound = breathing(3)
    path = tmp_path / "a.wav"
    for quiet in (0.01 * sound, 0.01 * breathing(3, seed=2)):
        path.write_bytes(encoded(np.stack([sound, quiet], axis=1), "WAV", "FLOAT"))
        assert read_audio_info(path).live is None
        np.testing.assert_allclose(read_waveform(path)[0], (sound + quiet) / 2, atol=1e-7)
    path.write_bytes(encoded(np.zeros((1000, 2), np.float32), "WAV"))
    assert read_audio_info(path).live is None
    assert not read_waveform(path)[0].any()


@pytest.mark.parametrize("full", [2**15, 2**23])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_samples_that_are_whole_numbers(tmp_path: Path, full: int, subtype: str) -> None:
    whole = np.rint(breathing(3) * full)
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(whole, "WAV", subtype))
    assert np.abs(read_waveform(path)[0] - whole / full).max() < 1e-7
    assert f"taken as parts of {full}" in read_audio_info(path).notes[0]


@pytest.mark.parametrize("highest", [1e25, 1e19, 1000.5, HIGHEST + 1.5])
def test_samples_on_no_scale_are_refused(tmp_path: Path, highest: float) -> None:
    sound = breathing(3).astype(np.float64)
    sound[1000] = highest
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(sound, "WAV", "FLOAT"))
    with pytest.raises(ValueError, match=r"a\.wav: samples reach .*, expected -1 to 1"):
        read_waveform(path, 1, 2)  # also of a stretch that does not hold them


def test_what_a_decoder_makes_of_damage_is_on_no_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of a damaged MP3 were decoded to 937 times full scale."""
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(breathing(1), "MP3"))
    original = SoundFile.read
    monkeypatch.setattr(SoundFile, "read", lambda *words, **options: 1e7 * original(*words, **options))
    with pytest.raises(ValueError, match=r"a\.mp3: samples reach .*, expected -1 to 1; it is damaged"):
        read_waveform(path)


def test_float_samples_somewhat_beyond_full_scale_are_taken(tmp_path: Path) -> None:
    sound = 3 * breathing(3) / np.abs(breathing(3)).max()
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(sound, "WAV", "FLOAT"))
    assert (read_waveform(path)[0] == sound).all()
    assert not read_audio_info(path).notes
