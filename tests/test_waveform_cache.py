"""The cache gives what the direct path gives, once per key, and survives everything that can stop a build."""

import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from filelock import FileLock

from rales.audio import io as wave_module
from rales.data import waveform_cache
from tests.run_folders import start_script

SMALL: dict[str, Any] = {"duration_s": 0.5, "fade_samples": 100}
RECORDINGS = (("a.wav", 44100, "PCM_24", 1), ("b.wav", 4000, "PCM_16", 1), ("c.flac", 16000, "PCM_16", 2))
SPANS_S = ((0.0, 0.7), (0.7, 1.0123), (1.0123, 2.0))

# A run of its own: every prepared row is noted in a file, and takes a while.
SLOW_RUN = """
import hashlib, sys, time
import pandas as pd
from rales.data import waveform_cache
table, folder, notes, digests, pause_s = sys.argv[1:]
prepare = waveform_cache.read_cycle_waveform
def slow(*arguments, **options):
    with open(notes, "a") as file:
        file.write("row\\n")
    time.sleep(float(pause_s))
    return prepare(*arguments, **options)
waveform_cache.read_cycle_waveform = slow
waves = waveform_cache.cache_waveforms(pd.read_csv(table), folder=folder, duration_s=0.5, fade_samples=100, threads=2)
with open(digests, "a") as file:
    file.write(hashlib.sha256(waves.tobytes()).hexdigest() + "\\n")
"""


@pytest.fixture
def cycles(tmp_path: Path) -> pd.DataFrame:
    """Nine cycles of three recordings: 24-bit at 44.1 kHz, 16-bit at 4 kHz, stereo FLAC at 16 kHz."""
    rows = []
    for number, (name, rate_hz, subtype, channels) in enumerate(RECORDINGS):
        noise = np.random.default_rng(number).normal(0, 0.1, (2 * rate_hz, channels))
        soundfile.write(tmp_path / name, noise, rate_hz, subtype=subtype)
        rows += [(str(tmp_path / name), start_s, end_s, "normal") for start_s, end_s in SPANS_S]
    return pd.DataFrame(rows, columns=["path", "start_s", "end_s", "label"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def direct(path: str, start_s: float, end_s: float) -> np.ndarray:
    wave, rate_hz = wave_module.read_waveform(path, start_s, end_s)
    return wave_module.icbhi_cycle(wave_module.resample_waveform(wave, rate_hz), samples=8000, fade_samples=100)


def expected(cycles: pd.DataFrame) -> np.ndarray:
    return np.stack([direct(*row) for row in zip(cycles.path, cycles.start_s, cycles.end_s, strict=True)])


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_rows_equal_the_direct_path_bit_for_bit(cycles: pd.DataFrame, folder: Path) -> None:
    for threads in (1, 3):
        waves = waveform_cache.cache_waveforms(cycles, folder=folder / str(threads), threads=threads, **SMALL)
        assert waves.shape == (9, 8000)
        assert waves.dtype == np.float32
        assert waves.tobytes() == expected(cycles).tobytes()
    with pytest.raises(ValueError, match="read-only"):
        waves[0, 0] = 1


def test_the_defaults_are_the_papers_eight_seconds(cycles: pd.DataFrame, folder: Path) -> None:
    waves = waveform_cache.cache_waveforms(cycles[:1], folder=folder)
    assert waves.shape == (1, 128000)
    assert np.array_equal(waves[0], waveform_cache.read_cycle_waveform(*cycles.loc[0, ["path", "start_s", "end_s"]]))


def test_real_recordings_equal_the_direct_path(icbhi_folder: Path, folder: Path) -> None:
    paths = sorted(icbhi_folder.glob("*.wav"))[::25]
    table = pd.DataFrame({"path": paths, "start_s": 0.3339, "end_s": 2.7181})
    assert waveform_cache.cache_waveforms(table, folder=folder, **SMALL).tobytes() == expected(table).tobytes()


def test_order_and_subset_are_those_of_the_table(cycles: pd.DataFrame, folder: Path) -> None:
    table = cycles.iloc[[7, 2, 2, 4]]
    assert waveform_cache.cache_waveforms(table, folder=folder, **SMALL).tobytes() == expected(table).tobytes()


def starts(path: str, start_s: float, end_s: float) -> np.ndarray:
    return np.array([start_s], np.float32)


def picture(path: str, start_s: float, end_s: float) -> np.ndarray:
    return start_s + np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_pictures_keep_their_shape_and_a_changed_one_is_made_again(cycles: pd.DataFrame, folder: Path) -> None:
    prepare = waveform_cache.Preparation(picture, {}, (2, 3, 4))
    wanted = np.stack([picture("", start_s, 0.0) for start_s in cycles["start_s"]])
    assert np.array_equal(waveform_cache.cached_arrays(cycles, prepare, folder=folder), wanted)
    (file,) = folder.glob("*/waves.npy")
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert np.array_equal(waveform_cache.cached_arrays(cycles, prepare, folder=folder), wanted)
    assert prepare.of_rows(cycles[:0]).shape == (0, 2, 3, 4)


def test_rows_prepared_together_come_in_few_calls_and_in_their_order(
    cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waveform_cache, "TOGETHER", 4)
    calls: list[list[float]] = []

    def together(rows: list[tuple[str, float, float]]) -> list[np.ndarray]:
        calls.append([end_s - start_s for _, start_s, end_s in rows])
        return [starts(*row) for row in rows]

    prepare = waveform_cache.Preparation(starts, {}, (1,), together=together)
    found = waveform_cache.cached_arrays(cycles, prepare, folder=folder, threads=1)
    assert found[:, 0].tolist() == pytest.approx(cycles["start_s"].tolist())
    assert [len(call) for call in calls] == [4, 4, 1]
    seconds = [length for call in calls for length in call]
    assert seconds == sorted(seconds)  # of nearly one length
    alone = waveform_cache.Preparation(starts, {}, (1,))
    assert np.array_equal(alone.of_rows(cycles), prepare.of_rows(cycles))


def test_second_call_and_other_labels_do_not_build(
    cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    monkeypatch.setattr(waveform_cache, "_build_cache", None)  # from here on a build is an error
    other = cycles.assign(label="wheeze", split="test").set_index(np.arange(9) + 100)
    assert np.array_equal(waveform_cache.cache_waveforms(other, folder=folder, **SMALL), first)


def test_finished_cache_opens_without_writing(cycles: pd.DataFrame, folder: Path) -> None:
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    for lock in folder.glob("*.lock"):
        lock.unlink()
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    assert not list(folder.glob("*.lock"))  # so a cache in a read-only folder can be shared


@pytest.mark.parametrize(
    "change",
    [
        {"rate_hz": 8000},
        {"duration_s": 0.6},
        {"resampler": "sinc"},
        {"pad": "zero"},
        {"fade_samples": 101},
    ],
    ids=str,
)
def test_every_setting_is_in_the_key(cycles: pd.DataFrame, folder: Path, change: dict[str, object]) -> None:
    first = waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    second = waveform_cache.cache_waveforms(cycles, folder=folder, **{**SMALL, **change})
    assert len(entries(folder)) == 2
    assert not np.array_equal(first, second)


def test_rows_files_and_format_are_in_the_key(
    cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(table: pd.DataFrame) -> int:
        waveform_cache.cache_waveforms(table, folder=folder, **SMALL)
        return len(entries(folder))

    recording = Path(cycles.path[0])
    assert count(cycles) == 1
    assert count(cycles[::-1]) == 2
    assert count(cycles.assign(end_s=cycles.end_s - 0.1)) == 3
    moment_ns = recording.stat().st_mtime_ns
    os.utime(recording, ns=(moment_ns, moment_ns + 1))
    assert count(cycles) == 4
    with recording.open("ab") as file:
        file.write(b"\0\0")
    os.utime(recording, ns=(moment_ns, moment_ns + 1))
    assert count(cycles) == 5
    copy = shutil.copy2(recording, recording.with_name("copy.wav"))
    assert count(cycles.assign(path=cycles.path.replace(str(recording), str(copy)))) == 6
    monkeypatch.setattr(waveform_cache, "FORMAT", waveform_cache.FORMAT + 1)
    assert count(cycles) == 7


@pytest.mark.parametrize("library", ["numpy", "scipy", "soundfile", "soxr"])
def test_another_version_of_what_computes_the_rows_builds_again(
    cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    known = importlib.metadata.version
    monkeypatch.setattr("rales.data.waveform_cache.version", lambda name: "99.0" if name == library else known(name))
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    assert len(entries(folder)) == 2


def test_a_link_to_a_recording_is_the_recording(
    cycles: pd.DataFrame, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    monkeypatch.setattr(waveform_cache, "_build_cache", None)  # from here on a build is an error
    (tmp_path / "link").symlink_to(tmp_path)
    linked = cycles.assign(path=[str(tmp_path / "link" / Path(path).name) for path in cycles.path])
    waveform_cache.cache_waveforms(linked, folder=folder, **SMALL)


def test_the_folder_comes_from_the_environment(
    cycles: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "elsewhere"))
    waveform_cache.cache_waveforms(cycles, **SMALL)
    (name,) = entries(tmp_path / "elsewhere")
    meta = json.loads((tmp_path / "elsewhere" / name / "meta.json").read_text())
    assert meta["rows"][4] == [1, 0.7, 1.0123]
    assert meta["bytes"] == (tmp_path / "elsewhere" / name / "waves.npy").stat().st_size


@pytest.mark.parametrize("damage", ["short", "no meta", "meta cut", "meta of others", "sector", "bit", "header"])
def test_damaged_cache_is_built_again(
    cycles: pd.DataFrame, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    finished = folder / entries(folder)[0]
    if damage == "short":
        os.truncate(finished / "waves.npy", 50_000)
    elif damage == "no meta":
        (finished / "meta.json").unlink()
    elif damage == "meta cut":
        os.truncate(finished / "meta.json", 20)
    elif damage == "meta of others":
        (finished / "meta.json").write_text("[]")
    else:
        place, new = {"sector": (40_960, bytes(4096)), "bit": (99_999, b"\xff"), "header": (70, b"3")}[damage]
        content = bytearray((finished / "waves.npy").read_bytes())
        assert content[place : place + len(new)] != new
        content[place : place + len(new)] = new
        (finished / "waves.npy").write_bytes(content)
    assert waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL).tobytes() == expected(cycles).tobytes()
    assert entries(folder) == [finished.name]
    assert f"{finished}: damaged or cut, so this cache is built again" in caplog.text
    caplog.clear()
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    assert caplog.text == ""


def test_large_rows_and_small_reads_have_the_same_digest(
    cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the file is read: rows longer than a read, and the last read shorter than the others."""
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    monkeypatch.setattr(waveform_cache, "_build_cache", None)  # from here on a build is an error
    for size in (1, 4 * 8000 * 2, 4 * 8000 * 5, 2**30):
        monkeypatch.setattr(waveform_cache, "READ_AT_ONCE_BYTES", size)
        waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)


def test_bad_recording_stops_with_its_name_and_leaves_nothing(cycles: pd.DataFrame, folder: Path) -> None:
    samples = np.zeros(8000, np.float32)
    samples[3000] = np.nan
    soundfile.write(cycles.path[3], samples, 4000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"b\.wav"):
        waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    assert entries(folder) == []


def test_missing_recording_and_empty_table(cycles: pd.DataFrame, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.wav.*no such recording"):
        waveform_cache.cache_waveforms(cycles.assign(path="gone.wav"), folder=folder, **SMALL)
    with pytest.raises(ValueError, match="no cycles"):
        waveform_cache.cache_waveforms(cycles[:0], folder=folder, **SMALL)
    assert not folder.exists()


def test_full_disk_is_a_sentence(cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"needs 0\.00 GB and the disk is full.*GB free.*RALES_CACHE"):
        waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    assert entries(folder) == []


@pytest.mark.parametrize("found_by", ["free space", "reserving", "writing"])
def test_really_full_disk(cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch, found_by: str) -> None:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        if found_by != "free space":
            usage = shutil.disk_usage(folder.parent)
            monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
        if found_by == "writing":  # as on a file system that cannot reserve

            def unsupported(*_arguments: object) -> None:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")

            monkeypatch.setattr(os, "posix_fallocate", unsupported)
        with pytest.raises(OSError, match="disk is full"):
            waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
        assert entries(folder) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_unwritable_folder_is_a_sentence(cycles: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(OSError, match=r"file.*cannot be written here.*RALES_CACHE"):
            waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)


INTERRUPTED_RUN = """
import signal, sys, threading
import pandas as pd
from rales.data import waveform_cache
table, folder, moment, count = sys.argv[1:]
prepare, prepared, taken, dropped = waveform_cache.read_cycle_waveform, [], threading.Event(), threading.Event()
class Pool(waveform_cache.ThreadPoolExecutor):
    handed_out = 0
    def submit(self, *arguments):
        self.handed_out += 1
        if moment == "early" and self.handed_out == 3:
            threading.Event().wait(60)  # which the signal ends
        return super().submit(*arguments)
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        dropped.set()
        super().shutdown(wait=wait)
waveform_cache.ThreadPoolExecutor = Pool
def take(*_):
    taken.set()
    raise KeyboardInterrupt
def interrupt(*arguments, **options):
    if len(prepared) == 2:
        while not taken.is_set():  # one that comes just before the main thread waits does not wake it
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # os.kill may wake another thread
            taken.wait(2)
        dropped.wait(60)  # the main thread has dropped the rest
    prepared.append(arguments)
    return prepare(*arguments, **options)
signal.signal(signal.SIGINT, take)  # whatever it was: a shell's background jobs ignore it
waveform_cache.read_cycle_waveform = interrupt
try:
    waveform_cache.cache_waveforms(pd.read_csv(table), folder=folder, duration_s=0.5, fade_samples=100, threads=1)
except KeyboardInterrupt:
    for thread in threading.enumerate():
        if thread.name.startswith("rales-cache"):
            thread.join(timeout=30)
            assert not thread.is_alive()
    with open(count, "w") as file:
        file.write(str(len(prepared)))
"""


@pytest.mark.parametrize("moment", ["early", "late"])  # early: while work is still handed out
def test_interrupt_drops_what_has_not_begun(moment: str, cycles: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    """In a process of its own, since nothing else is to hear of the signal."""
    cycles.to_csv(tmp_path / "table.csv")
    run = start_script(INTERRUPTED_RUN, tmp_path / "table.csv", folder, moment, tmp_path / "count")
    run.join(120)
    assert run.exitcode == 0
    assert int((tmp_path / "count").read_text()) <= 3  # of nine rows: at most the recording that had begun
    assert entries(folder) == []


def test_kill_in_the_middle_then_again_gives_the_same(cycles: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    cycles.to_csv(tmp_path / "table.csv")
    notes = tmp_path / "notes"
    run = start_script(SLOW_RUN, tmp_path / "table.csv", folder, notes, tmp_path / "digests", 60)
    while not notes.exists():
        assert run.is_alive()
    run.kill()
    run.join()
    assert [name.rpartition(".")[2] for name in entries(folder)] == ["building"]
    other = waveform_cache.cache_waveforms(
        cycles[:2], folder=folder, **SMALL
    )  # any next build clears away what the killed one left
    assert other.tobytes() == expected(cycles[:2]).tobytes()
    assert len(entries(folder)) == 1
    assert waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL).tobytes() == expected(cycles).tobytes()
    assert len(entries(folder)) == 2


def test_two_runs_at_once_build_once(cycles: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    cycles.to_csv(tmp_path / "table.csv")
    words = (tmp_path / "table.csv", folder, tmp_path / "notes", tmp_path / "digests", 0.3)
    runs = [start_script(SLOW_RUN, *words) for _ in range(2)]
    for run in runs:
        run.join(60)
    assert (tmp_path / "digests").read_text().split() == 2 * [hashlib.sha256(expected(cycles).tobytes()).hexdigest()]
    assert len((tmp_path / "notes").read_text().split()) == 9
    assert len(entries(folder)) == 1


def test_waiting_says_so_and_a_running_build_is_left_alone(
    cycles: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waveform_cache, "WAIT_BEFORE_MESSAGE_S", 0.05)
    waveform_cache.cache_waveforms(cycles, folder=folder, **SMALL)
    (key,) = entries(folder)
    shutil.rmtree(folder / key)
    (folder / f"{key}.building").mkdir()
    with FileLock(folder / f"{key}.lock"):
        waiting = threading.Thread(
            target=waveform_cache.cache_waveforms, args=[cycles], kwargs={"folder": folder, **SMALL}
        )
        with caplog.at_level(logging.WARNING):
            waiting.start()
            while "another run is building" not in caplog.text:
                assert waiting.is_alive()
        waveform_cache.cache_waveforms(cycles[:1], folder=folder, **SMALL)
        assert f"{key}.building" in entries(folder)
    waiting.join()
    assert key in entries(folder)
    assert f"{key}.building" not in entries(folder)
