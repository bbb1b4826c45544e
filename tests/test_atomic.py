"""Files whole or not at all, on the disk before they count; what a killed process left goes, what one writes stays."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from rales.files import atomic
from rales.files.atomic import atomic_write, lock_folder
from rales.files.writers import copy_file, write_csv, write_json
from rales.jobs import layer_search
from rales.jobs.shard_folders import DiskFolder
from rales.synthesis import database, event_mixing
from rales.training import run_folder
from tests.run_folders import environment
from tests.stopped import How, check_every_stop

RECORD = {"recipe": "m2d_fusion", "config": {"train": {"lr": 1e-4}}}
PART = ".x.json.0123abcd.part"

# What is not finished

WRITER = """
import os, signal, sys
from pathlib import Path
from rales.files.atomic import atomic_write, temporary_folder

what, place = sys.argv[1], Path(sys.argv[2])
with temporary_folder() if what == "temporary" else atomic_write(place / "x.json") as beside:
    (beside if what == "temporary" else beside.parent).joinpath("made").write_text("half of it")
    print("writing", flush=True)
    if what == "killed" or what == "temporary":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
    beside.write_text("whole")
"""


def written_by_another(what: str, place: Path, **more: str) -> "subprocess.Popen[str]":
    """A process that has begun to write `place`/x.json, and goes on when its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, what, str(place)],
        env={**environment(), **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_goes_and_what_one_writes_stays(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("old")
    assert written_by_another("killed", tmp_path).wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 2, "nothing was left, so nothing can be swept"
    alive = written_by_another("alive", tmp_path)
    atomic._remove_abandoned_once.cache_clear()  # as a command that begins
    write_json(tmp_path / "y.json", {})
    assert len([name for name in names(tmp_path) if name.endswith(".part")]) == 1
    with atomic.lock_folder(tmp_path):
        assert len([name for name in names(tmp_path) if name.endswith(".part")]) == 1
    alive.communicate("")
    assert alive.returncode == 0
    assert (tmp_path / "x.json").read_text() == "whole"
    assert names(tmp_path) == [".lock", "x.json", "y.json"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "x.json") as one, atomic_write(tmp_path / "x.json") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "x.json").read_text() == "one"  # the last to end
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    "name", [PART, ".0123abcd.part", ".x.json.4711.part", ".x.json.0123abcg.part", "0123abcd.part"]
)
def test_what_others_call_so_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("years of work")
    (tmp_path / f".y{name}").write_text("a file, not a folder")
    (tmp_path / f".z{name}").symlink_to(tmp_path / name)
    atomic.remove_abandoned(tmp_path)
    assert names(tmp_path) == sorted([name, f".y{name}", f".z{name}"])
    assert (tmp_path / name / "thesis.tex").exists()


def test_a_temporary_folder_of_a_killed_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of recordings lie there."""
    (tmp_path / "rales.notes").mkdir()
    assert written_by_another("temporary", tmp_path, TMPDIR=str(tmp_path)).wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with atomic.temporary_folder() as folder:
        assert names(tmp_path) == sorted([folder.name, "rales.notes"])
        assert folder.stat().st_mode & 0o777 == 0o700
    assert names(tmp_path) == ["rales.notes"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reason", sorted({errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}))
def test_where_nothing_can_be_locked_a_day_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    for age_s, folder in ((100, tmp_path / ".new.0123abcd.part"), (90_000, tmp_path / ".old.0123abcd.part")):
        folder.mkdir()
        (folder / ".lock").touch()
        for path in (folder / ".lock", folder):
            os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    atomic.remove_abandoned(tmp_path)
    assert names(tmp_path) == [".new.0123abcd.part"]
    write_json(tmp_path / "x.json", {})
    assert names(tmp_path) == [".new.0123abcd.part", "x.json"]
    with pytest.raises(OSError, match="knows no locks"), atomic.lock_folder(tmp_path):
        pytest.fail("claimed")


def test_a_folder_of_another_process_by_the_same_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PART).mkdir()
    (tmp_path / PART / "half").touch()
    numbers = iter(["0123abcd", "89abcdef"])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(numbers))
    with atomic.own_folder(tmp_path, ".x.json.") as folder:
        assert folder.name == ".x.json.89abcdef.part"
    assert (tmp_path / PART / "half").exists()


@pytest.mark.parametrize("name", ["x" * 240, "x" * 241, "x" * 255, "ä" * 127, "x" + "ä" * 127])
def test_a_name_as_long_as_a_file_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as beside:
        beside.write_text("whole")
        assert atomic.unfinished_folders(tmp_path, f".{name}.") == [beside.parent]
    assert names(tmp_path) == [name]
    with atomic.own_folder(tmp_path, f".{name}.") as left:
        shutil.copytree(left, tmp_path / left.name.replace(left.name[-13:], "0123abcd.part"))
        atomic.remove_abandoned(tmp_path, f".{name}.")
        assert atomic.unfinished_folders(tmp_path) == [left]


# On the disk before it counts


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the disk: "sync NAME" and "rename NAME"."""
    asked: list[str] = []
    replace = Path.replace

    def fsync(descriptor: int) -> None:
        asked.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def renamed(self: Path, target: Path) -> Path:
        asked.append(f"rename {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    return asked


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are looked up in /proc")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: run_folder.save_tensors(path, {"w": torch.ones(3)}, {}),
        lambda path: write_json(path, {}),
        lambda path: write_csv(path, pd.DataFrame({"a": [1]})),
        lambda path: copy_file(Path(__file__), path),
    ],
)
def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, told: list[str], write: Any) -> None:
    write(tmp_path / "new" / "x")
    assert told == [f"sync {tmp_path.name}", "sync part", "rename x", "sync new"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are looked up in /proc")
def test_the_one_before_is_kept_until_the_new_one_is_on_the_disk(tmp_path: Path, told: list[str]) -> None:
    run_folder.save_resume(tmp_path, {"w": torch.zeros(2)}, {"state": {"epoch": 1}})
    told.clear()
    run_folder.save_resume(tmp_path, {"w": torch.ones(2)}, {"state": {"epoch": 2}})
    names = ["part", run_folder.NEXT, tmp_path.name, run_folder.PREVIOUS, run_folder.RESUME, tmp_path.name]
    assert [asked.split()[1] for asked in told] == names
    assert [
        run_folder.read_checkpoint(tmp_path / n)[1]["state"]["epoch"] for n in (run_folder.PREVIOUS, run_folder.RESUME)
    ] == [1, 2]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_when_it_is_asked_to_keep_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    (tmp_path / "x.json").write_text("old")

    def full(_: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"x.json: the disk is full .*make room and run the same command again"):
        write_json(tmp_path / "x.json", {})
    assert (names(tmp_path), (tmp_path / "x.json").read_text()) == (["x.json"], "old")


def test_a_file_system_that_knows_no_syncing_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", unknown)
    write_json(tmp_path / "x.json", {})
    assert names(tmp_path) == ["x.json"]


# Stopped at any moment of its beginning, a job goes on with the same command


def begin_run(out: Path) -> None:
    with lock_folder(out):
        run_folder.begin_run(out, RECORD)


def begin_batch(out: Path) -> None:
    folder = DiskFolder(out)
    with folder.lock():
        folder.claim({"recordings": "a", "model": "m", "shard": 4})


def begin_layers(out: Path) -> None:
    with lock_folder(out):
        layer_search.begin(out, {"folds": 5}, "rales layers")


def whole_run(out: Path) -> None:
    """A run of two epochs, as the training loops use the folder."""
    with lock_folder(out):
        if run_folder.begin_run(out, RECORD):
            return
        found = run_folder.read_resume(out, lambda *_: None)
        for epoch in range(found["epoch"] + 1 if found else 1, 3):
            run_folder.truncate_metrics(out, epoch - 1)
            run_folder.append_metrics(out, [{"epoch": epoch, "split": "train"}])
            run_folder.save_tensors(out / "best.safetensors", {"w": torch.full((3,), epoch)}, {"epoch": epoch})
            run_folder.save_resume(out, {"w": torch.full((3,), epoch)}, {"state": {"epoch": epoch}})
        run_folder.mark_done(out)


def synthetic_folder(out: Path) -> None:
    database.write_folder(out, 2, 0, patients=2, duration_s=(2.0, 2.0))


def laid_over(out: Path) -> None:
    source = out.parent.parent / "breath.wav"
    if not source.exists():
        soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal(8000), 4000)
    rows = {"path": str(source), "recording": "breath", "start_s": 0.0, "end_s": 2.0, "label": "normal"}
    event_mixing.mix_events_into_cycles(pd.DataFrame([{**rows, "crackle": 0, "wheeze": 0}]), out, variants=2, seed=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="stops a copy of this process")
@pytest.mark.parametrize("how", ["kill", "full"])
@pytest.mark.parametrize(
    ("work", "every", "least"),
    [
        (begin_run, 2, 3),
        (begin_batch, 1, 9),
        (begin_layers, 2, 3),
        (whole_run, 17, 4),
        (synthetic_folder, 4, 3),
        (laid_over, 4, 3),
        *(pytest.param(work, 1, 6, marks=pytest.mark.slow) for work in (begin_run, begin_layers)),
        *(pytest.param(work, 1, 10, marks=pytest.mark.slow) for work in (synthetic_folder, laid_over)),
        pytest.param(whole_run, 1, 60, marks=pytest.mark.slow),
    ],
)
def test_a_job_stopped_at_any_file_event_goes_on(
    tmp_path: Path,
    work: Callable[[Path], None],
    every: int,
    least: int,
    how: How,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(atomic, "_remove_abandoned_once", atomic.remove_abandoned)  # each time is a new command
    stops = check_every_stop(work, tmp_path / "place", how, every=every)
    with capsys.disabled():
        print(f"{work.__name__}, {how}: {stops} stops, 0 refused, 0 different, 0 left over")
    assert stops >= least


@pytest.mark.skipif(not hasattr(os, "fork"), reason="stops a copy of this process")
@pytest.mark.parametrize("how", ["kill", pytest.param("full", marks=pytest.mark.slow)])
def test_a_database_made_up_in_an_empty_folder_goes_on(tmp_path: Path, how: How) -> None:
    """A folder that is there may be a mount point, so its files move into it one by one."""
    assert check_every_stop(synthetic_folder, tmp_path / "place", how, every=3, exists=True) >= 4


@pytest.mark.parametrize("begin", [begin_run, begin_batch, begin_layers])
def test_strangers_are_refused_and_left_alone(tmp_path: Path, begin: Callable[[Path], None]) -> None:
    (tmp_path / "cycles").mkdir()
    (tmp_path / "cycles" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"it holds cycles; choose an empty --out"):
        begin(tmp_path)
    assert names(tmp_path) == [".lock", "cycles"]
    assert names(tmp_path / "cycles") == ["thesis.tex"]


def test_a_made_up_database_replaces_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    """Though a call was killed there: another file came after it."""
    left = tmp_path / ".synthetic.0123abcd.part"
    left.mkdir()
    (left / ".lock").touch()
    (tmp_path / "mine.wav").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, expected a new or empty folder"):
        database.write_folder(tmp_path, 2, 0)
    assert (tmp_path / "mine.wav").read_text() == "mine"
    (tmp_path / "mine.wav").unlink()
    database.write_folder(tmp_path, 2, 0)
    assert not left.exists()


# Two at once


@contextmanager
def at_work(path: Path) -> Iterator[None]:
    """Another process writes files beside `path`, and is killed at the end."""
    process = written_by_another("alive", path)
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_the_second_of_two_that_make_up_a_database_is_told(tmp_path: Path) -> None:
    for folder, place, prefix in (
        (tmp_path / "new", tmp_path, ".new."),
        (tmp_path / "there", tmp_path / "there", ".synthetic."),
    ):
        place.mkdir(exist_ok=True)
        with atomic.own_folder(place, prefix), pytest.raises(ValueError, match="another process is writing it"):
            database.write_folder(folder, 2, 0)
        database.write_folder(folder, 2, 0)
    shutil.rmtree(tmp_path / "new")
    with at_work(tmp_path):  # of something else
        database.write_folder(tmp_path / "new", 2, 0)


def test_the_second_takes_no_file_that_the_first_has_moved_into_an_empty_folder(tmp_path: Path) -> None:
    moved = tmp_path / database.TABLES[0]
    with atomic.own_folder(tmp_path, ".synthetic."):
        moved.write_text("of the first")
        with pytest.raises(ValueError, match="another process is writing it"):
            database.write_folder(tmp_path, 2, 0)
        assert moved.read_text() == "of the first"
