"""Where recordings come from: paths, folders, globs, URLs; formats; what is read ahead, and in which order."""

import json
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import fsspec
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from rales.audio import io
from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data import audit_data, reader
from rales.data.corpus import read_corpus
from rales.data.waveform_cache import read_cycle_waveform
from rales.errors import UsageError
from rales.inference import audio_reader, breath_segmentation
from rales.settings import PaddedWaveform, StandardisedAudio
from tests import tiny
from tests.command import command
from tests.test_quality import breathing

AUDIO = StandardisedAudio(duration_s=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("recordings") / "data")


@pytest.fixture
def bucket(data: Path) -> Any:
    """The same folder in memory://bucket."""
    files = fsspec.filesystem("memory")
    files.put(str(data), "/bucket", recursive=True)
    yield files
    files.rm("/bucket", recursive=True)


def names(paths: list[str]) -> list[str]:
    return [path.rpartition("/")[2] for path in paths]


# Finding


def test_files_folders_and_globs(data: Path) -> None:
    every = sorted(str(path) for path in data.glob("*.wav"))
    assert audio_reader.find_recordings(data) == every
    assert audio_reader.find_recordings([every[3], data]) == [every[3], *every[:3], *every[4:]]
    assert audio_reader.find_recordings(f"{data}/10[12]_*") == every[:2]
    assert audio_reader.find_recordings(f"{data.parent}/**/10[12]_*.wav") == every[:2]
    assert audio_reader.find_recordings(data / "gone.wav") == [str(data / "gone.wav")]  # left to the reader
    with pytest.raises(ValueError, match=r"x\*: no recording in it"):
        audio_reader.find_recordings(f"{data}/x*")


def test_a_name_with_brackets_is_a_file_if_there_is_one(data: Path, tmp_path: Path) -> None:
    shutil.copy(next(data.glob("*.wav")), tmp_path / "visit[1].wav")
    assert audio_reader.find_recordings(tmp_path / "visit[1].wav") == [str(tmp_path / "visit[1].wav")]


def strange_folder(folder: Path) -> list[str]:
    """Make a folder of the kinds of things that lie among recordings -> the recordings that are to be found in it."""
    sound = tiny.breath(0, seed=1)
    elsewhere = folder.parent / "elsewhere"
    for place in (folder / ".hidden", folder / "__MACOSX", folder / "folder.wav", folder / "sub", elsewhere):
        place.mkdir(parents=True)
    wanted = ["a.wav", "b.WAVE", "apple.caf", "folder.wav/inside.wav", "long.w64", "p.mp3", "sub/v.ogg", "sun.au"]
    forms = {"caf": "CAF", "w64": "W64", "au": "AU", "mp3": "MP3", "ogg": "OGG"}
    for name in (*wanted, ".hidden/h.wav", "__MACOSX/m.wav", "._a.wav"):
        form = forms.get(name.rpartition(".")[2], "WAV")
        soundfile.write(folder / name, sound, 8000, format=form)
    soundfile.write(elsewhere / "linked.wav", sound, 8000)
    soundfile.write(folder / "night.rf64", sound, 8000, format="RF64")
    soundfile.write(folder / "take.aifc", sound, 8000, format="AIFF")
    (folder / "link").symlink_to("../elsewhere")
    (folder / "again").symlink_to("sub")  # is walked through anyway
    (elsewhere / "back").symlink_to(folder)  # a cycle
    (elsewhere / "self").symlink_to(".")
    (folder / "notes.pdf").write_bytes(b"no sound")
    return [*wanted, "link/linked.wav", "night.rf64", "take.aifc"]


def test_every_search_finds_the_same_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    wanted = sorted(strange_folder(folder))
    found = audio_reader.find_recordings(folder)
    assert sorted(str(Path(path).relative_to(folder)) for path in found) == wanted
    collection = read_corpus([folder])
    assert sorted(str(collection.path(i).relative_to(folder.absolute())) for i in range(len(collection))) == wanted
    by_check = reader.list_files(folder)
    assert sorted(str(p.relative_to(folder)) for p in by_check if p.suffix.lower() in AUDIO_SUFFIXES) == wanted
    url = audio_reader.find_recordings(f"file://{folder}")  # fsspec follows no links
    assert sorted(path.partition("/d/")[2] for path in url) == [name for name in wanted if name != "link/linked.wav"]
    assert len(audio_reader.find_recordings(f"{folder}/*")) == len([name for name in wanted if "/" not in name])
    for path in found:
        assert io.read_audio_info(path).rate_hz == 8000


def test_what_looks_like_a_recording_and_is_not_read_is_named(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(data, folder)
    (folder / "visit.zsa").write_bytes(b"made up")
    os.mkfifo(folder / "pipe.wav")
    assert {"visit.zsa", "pipe.wav"} < set(names(audio_reader.find_recordings(folder)))
    problems = list[str]()
    table = tiny.model().predict(folder, problems)
    assert len(table) == 4 * 8
    assert sorted(problem.removeprefix(f"{folder}/") for problem in problems) == [
        "pipe.wav: not a readable audio file (a pipe or a device); expected a file",
        "visit.zsa: .zsa recordings cannot be read; export it as WAV with the program of the recorder",
    ]
    (folder / "pipe.wav").unlink()
    sentence = f"{folder}: 1 recordings in formats that are not read, export them as WAV: "
    assert any(note.startswith(sentence) for note in audit_data(folder).notes)
    facts = read_corpus([folder], part="all").facts()
    assert (facts["recordings"], facts["left_out"]) == (8, 1)
    assert facts["folders"][0]["notes"] == [f"{sentence}visit.zsa"]


def test_urls_of_files_folders_and_globs(data: Path, bucket: Any) -> None:
    every = [f"memory:///bucket/{path.name}" for path in sorted(data.glob("*.wav"))]
    assert [url.replace("memory:///", "memory://") for url in audio_reader.find_recordings("memory://bucket")] == [
        url.replace("memory:///", "memory://") for url in every
    ]
    assert names(audio_reader.find_recordings("memory://bucket/10[12]_*")) == names(every[:2])
    assert audio_reader.find_recordings(every[0]) == [every[0]]
    assert names(audio_reader.find_recordings(f"file://{data}")) == names(every)
    with pytest.raises(ValueError, match=r"memory://bucket/x\*: no recording in it"):
        audio_reader.find_recordings("memory://bucket/x*")


def test_a_url_is_read_as_the_file_is(data: Path, bucket: Any) -> None:
    path = sorted(data.glob("*.wav"))[0]
    (here,) = audio_reader.read_chunks(str(path), AUDIO)
    for url in (f"memory://bucket/{path.name}", f"file://{path}"):
        (there,) = audio_reader.read_chunks(url, AUDIO)
        assert np.array_equal(there.waveforms, here.waveforms)
        assert there.cycles == here.cycles  # with the annotation beside it
        assert there.path == url


def test_urls_that_fail_are_sentences(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/bucket/bad.wav", b"not a sound")
    with pytest.raises(ValueError, match=r"^memory://bucket/bad.wav: not a readable audio file"):
        list(audio_reader.read_chunks("memory://bucket/bad.wav", AUDIO))
    with pytest.raises(ValueError, match=r"^memory://bucket/gone.wav: cannot be fetched \(FileNotFoundError"):
        list(audio_reader.read_chunks("memory://bucket/gone.wav", AUDIO))
    with pytest.raises(UsageError, match=r"gopher://x/y.wav: Protocol not known: gopher"):
        list(audio_reader.read_chunks("gopher://x/y.wav", AUDIO))

    def without(*_: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without)
    with pytest.raises(UsageError, match=r's3://a/b: .*Install s3fs to access S3.*pip install "rales\[cloud\]"'):
        audio_reader.find_recordings("s3://a/b")


# Reading


def test_cycles_are_those_of_the_training_cache(data: Path) -> None:
    path = sorted(data.glob("*.wav"))[0]
    (piece,) = audio_reader.read_chunks(str(path), AUDIO)
    spans = zip(piece.cycles.start_s, piece.cycles.end_s, strict=True)
    assert np.array_equal(
        piece.waveforms, np.stack([read_cycle_waveform(path, *span, samples=32000) for span in spans])
    )


def test_a_long_recording_comes_in_pieces(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 4 * 70).astype(np.float32)
    soundfile.write(tmp_path / "night.flac", sound, 8000)
    pieces = list(audio_reader.read_chunks(str(tmp_path / "night.flac"), AUDIO, "windows"))
    assert [(len(piece.waveforms), piece.last) for piece in pieces] == [(32, False), (32, False), (6, True)]
    assert len(pieces[0].cycles.start_s) == 70
    assert np.array_equal(pieces[2].waveforms[5], read_cycle_waveform(tmp_path / "night.flac", 276, 280, samples=32000))


@pytest.mark.parametrize("where", ["segment", "auto"])
def test_a_short_recording_is_decoded_once_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    tiny.write_folder(tmp_path / "synth")
    path = sorted((tmp_path / "synth").glob("*.wav"))[1]
    path.with_suffix(".txt").unlink()
    soundfile.write(path, soundfile.read(path)[0], 9000)  # a rate that is brought to 4 kHz, for breaths and quality
    reads = []
    original = io._read_segment

    def counted(*given: Any) -> Any:
        reads.append(given)
        return original(*given)

    monkeypatch.setattr(io, "_read_segment", counted)
    once = list(audio_reader.read_chunks(str(path), AUDIO, where, gate=True))
    assert len(reads) == 1
    monkeypatch.setattr(audio_reader, "DECODE_ONCE_S", 0.0)
    again = list(audio_reader.read_chunks(str(path), AUDIO, where, gate=True))
    assert len(reads) > 2
    assert [piece.cycles for piece in once] == [piece.cycles for piece in again]
    assert np.array_equal(once[0].waveforms, again[0].waveforms)


def test_notes_about_a_file_go_with_its_cycles(tmp_path: Path) -> None:
    sound = tiny.breath(0, seed=1)
    soundfile.write(tmp_path / "x.wav", np.stack([sound, 0 * sound], axis=1), 4000)
    soundfile.write(tmp_path / "y.wav", sound, 4000)
    model = tiny.model()
    paths = [str(tmp_path / "x.wav"), str(tmp_path / "y.wav")]
    for quality in (True, False):  # so short a noise is no sound from a chest, which keeps no note back
        table, status = next(model.tables(paths, cycles="windows", quality=quality))
        assert status["status"].tolist() == ["ok", "ok"]
        assert status["sentence"].tolist() == ["channel 2 of 2 without sound, left out", ""]
    one, other = (table[table["recording"] == name].filter(like="p_").to_numpy() for name in "xy")
    assert (one == other).all()  # to the bit


def test_a_dead_channel_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = breathing()
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([sound, 0 * sound], axis=1), 8000)
    tiny.save(tiny.model(), tmp_path / "model.safetensors")
    words = ("predict", path, "--model", tmp_path / "model.safetensors")
    for gate, told in (("on", ("no sound in channel 2", "")), ("off", ("", "channel 2 of 2 without sound, left out"))):
        _, out, err = command(capsys, *words, "--json", "--quality", gate)
        (status,) = json.loads(out)["status"]
        assert (status["quality_reason"], status["sentence"]) == told
        assert (f"note: {path}: {told[1]}\n" in err) == bool(told[1])
        assert ("note: " in err) == bool(told[1])


def test_a_note_names_its_recording_once(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.wav"
    shutil.copy(sorted(data.glob("*.wav"))[0], path)
    path.with_suffix(".txt").write_text("0\t1\tspeech\n")
    tiny.save(tiny.model(), tmp_path / "model.safetensors")
    _, _, err = command(capsys, "predict", path, "--model", tmp_path / "model.safetensors")
    assert f"note: {tmp_path}/x.txt: labels other than" in err


def test_order_is_kept_and_a_bad_one_stays_in_its_place(data: Path, tmp_path: Path) -> None:
    paths = [str(path) for path in sorted(data.glob("*.wav"))] * 5
    (tmp_path / "bad.wav").write_bytes(b"")
    paths[7] = str(tmp_path / "bad.wav")
    found = list(audio_reader.read_ahead(paths, AUDIO, threads=4))
    assert [piece.path for piece in found] == paths
    assert [piece.error is not None for piece in found] == [number == 7 for number in range(40)]


def test_reading_stays_a_bounded_way_ahead_and_ends_when_left(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = list[str]()
    original = audio_reader.read_chunks

    def counted(path: str, audio: StandardisedAudio, where: str) -> Any:
        begun.append(path)
        return original(path, audio, where)

    monkeypatch.setattr(audio_reader, "read_chunks", counted)
    paths = [str(path) for path in sorted(data.glob("*.wav"))] * 100
    taking = audio_reader.read_ahead(iter(paths), AUDIO)
    next(taking)
    time.sleep(0.3)
    assert len(begun) <= audio_reader.RECORDINGS_AHEAD + 1
    taking.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rales-read")]


def test_breaths_of_a_long_recording_are_found_stretch_by_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def two_halves(sound: NDArray[np.float32], rate_hz: int) -> list[tuple[float, float]]:
        heard.append(len(sound) / rate_hz)
        half_s = len(sound) / rate_hz / 2
        return [(0.0, half_s), (half_s, 2 * half_s)]

    monkeypatch.setattr(breath_segmentation, "find_breaths", two_halves)
    soundfile.write(tmp_path / "night.wav", np.zeros(round(4000 * 610.5)), 4000)
    found = audio_reader.find_cycles(tmp_path / "night.wav", 610.5)
    assert heard == [300, 300, 10.5]
    assert list(found.start_s) == [0, 150, 300, 450, 600, 605.25]
    assert list(found.end_s) == [150, 300, 450, 600, 605.25, 610.5]
    assert found.source == "segment"
    with pytest.raises(UsageError, match="--cycles breaths: expected one of auto, annotation"):
        next(audio_reader.read_ahead(["x.wav"], AUDIO, "breaths"))


# Formats that FFmpeg reads


def write_with_ffmpeg(path: Path, sound: NDArray[np.float32], rate_hz: int, **options: str) -> None:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        stream.bit_rate = 192000
        for start in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound[None, start : start + 1024]), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def tone() -> NDArray[np.float32]:
    time_s = np.arange(3 * 44100) / 44100
    return np.asarray(0.3 * np.sin(2 * np.pi * 300 * time_s) * np.sin(time_s) ** 2, dtype=np.float32)


@pytest.mark.parametrize(("name", "delay"), [("x.m4a", 0), ("x.aac", 1024)])  # bare AAC does not say its delay
def test_aac_is_read(tmp_path: Path, name: str, delay: int) -> None:
    write_with_ffmpeg(tmp_path / name, tone(), 44100)
    read, rate_hz = io.read_waveform(tmp_path / name)
    assert rate_hz == 44100
    assert abs(len(read) - len(tone())) <= 2048
    length = min(len(tone()), len(read) - delay)
    assert np.abs(read[delay : delay + length] - tone()[:length]).max() < 0.02
    part, _ = io.read_waveform(tmp_path / name, 1.0, 1.5)
    assert np.array_equal(part, read[44100 : 44100 + 22050])
    (piece,) = audio_reader.read_chunks(str(tmp_path / name), AUDIO, "windows")
    assert piece.waveforms.shape == (1, 32000)


def test_a_list_of_other_files_is_no_recording(tmp_path: Path) -> None:
    write_with_ffmpeg(tmp_path / "other.m4a", tone(), 44100)
    (tmp_path / "x.m4a").write_text("ffconcat version 1.0\nfile other.m4a\n")
    with pytest.raises(ValueError, match=r"x.m4a: not a readable audio file"):
        io.read_waveform(tmp_path / "x.m4a")


def test_damaged_files_of_ffmpeg_are_sentences(tmp_path: Path) -> None:
    for name, options in (("late.m4a", {}), ("early.m4a", {"movflags": "faststart"}), ("bare.aac", {})):
        write_with_ffmpeg(tmp_path / name, tone(), 44100, **options)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{name}: (not a readable audio file, or a damaged one|truncated)"):
            io.read_waveform(tmp_path / name)
    for content in (b"", b"not a sound" * 100):
        (tmp_path / "x.m4a").write_bytes(content)
        with pytest.raises(ValueError, match=r"x.m4a: not a readable audio file"):
            io.read_waveform(tmp_path / "x.m4a")


def test_without_the_package_or_with_a_broken_one_the_sentence_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one file that cannot be read; others need no such package."""
    (tmp_path / "x.m4a").write_bytes(b"sound")
    tiny.write_folder(tmp_path / "data")

    def broken(name: str) -> Any:
        raise OSError("libavcodec.so.61: cannot open shared object file")

    monkeypatch.setattr("rales.optional_packages.import_module", broken)
    with pytest.raises(ValueError, match=r"x.m4a: .m4a needs the package av, which .* \(OSError: libavcodec.so.61: "):
        io.read_waveform(tmp_path / "x.m4a")
    assert len(io.read_waveform(next((tmp_path / "data").glob("*.wav")))[0])
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'x.m4a: .m4a needs the package av, which is not .*"rales\[av\]"'):
        io.read_waveform(tmp_path / "x.m4a")


def test_settings_of_another_class_may_scale_batches_too(tmp_path: Path) -> None:
    """Then cycles that nobody judges are read all the same, as neighbours of the others."""

    @dataclass(frozen=True)
    class OwnAudio(PaddedWaveform):
        scope: str = "batch"

    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 4000)
    (chunk,) = audio_reader.read_chunks(str(tmp_path / "a.wav"), OwnAudio(duration_s=2), "windows", gate=True)
    assert not chunk.cycles.judged.any()
    assert len(chunk.waveforms) == 2
