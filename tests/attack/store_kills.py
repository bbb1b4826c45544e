"""Kill a process at every statement and file event of the page's folder, open the folder again, and compare.

`python -m tests.attack.store_kills FOLDER STEP` prints the figures as JSON; it forks a child for each trial, so that
the packages are loaded once. `tests/test_web_store.py` runs it.
"""

import itertools
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rales.web import store as page
from rales.web.cycle_edits import OriginalCycles
from rales.web.store import Store
from tests.attack.layout_1 import write_layout_1

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree")
CYCLES = [{"start_s": 0.0, "end_s": 1.0, "label": "wheeze", "confirmed": True}]
FACTS: dict[str, Any] = {"duration_s": 4.0, "rate_hz": 4000, "channels": 1, "digest": "x", "notes": ["a note"]}


def main(scratch: Path, step: int) -> dict[str, Any]:
    """-> trials and failures of each job, at every `step`th event; those of making a folder, which are few, three times
    as dense."""
    # A kill loses nothing that the system has taken, so that nothing here waits for the disk.
    page.PRAGMAS = tuple(each.replace("synchronous = FULL", "synchronous = OFF") for each in page.PRAGMAS)
    os.fsync = void  # type: ignore[assignment]
    found = {}
    for job in (create, upgrade, work):
        trials, failures = 0, list[str]()
        for number in itertools.count(step=step if job is work else max(1, step // 3)):
            folder = scratch / job.__name__
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if job is upgrade:
                write_layout_1(folder)
            if not killed_at(number, job, folder):
                break
            failures += [f"{job.__name__}, event {number}: {each}" for each in wrong(folder, job)]
            trials += 1
        found[job.__name__] = {"trials": trials, "failures": failures}
    return found


def killed_at(number: int, job: Callable[[Path, Callable[[str], None]], None], folder: Path) -> bool:
    """Do a job in a process that kills itself just before its event `number`; -> whether it came so far."""
    process = os.fork()
    if process == 0:
        left = number

        def count(*_: Any) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        def audited(event: str, words: tuple[Any, ...]) -> None:
            written = event == "open" and isinstance(words[1], str) and set(words[1]) & set("wax+")
            if (event in CHANGES or written) and str(words[0]).startswith(str(folder)):
                count()

        def connected(*words: Any, **named: Any) -> sqlite3.Connection:
            db: sqlite3.Connection = sqlite3.connect(*words, **named)
            db.set_trace_callback(count)
            return db

        sys.addaudithook(audited)
        page.sqlite3 = type("", (), {**vars(sqlite3), "connect": staticmethod(connected)})  # type: ignore[attr-defined,assignment]
        said = os.open(folder / ".said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            job(folder, lambda text: void(os.write(said, f"{text}\n".encode())))
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{job.__name__}: {error!r}\n".encode())
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if status and not os.WIFSIGNALED(status):
        raise RuntimeError("the job failed of itself")
    return os.WIFSIGNALED(status)


def void(_: object) -> None:
    pass


# Jobs. What they say has been done must be there afterwards.


def create(folder: Path, say: Callable[[str], None]) -> None:
    Store(folder)


def upgrade(folder: Path, say: Callable[[str], None]) -> None:
    Store(folder)


def work(folder: Path, say: Callable[[str], None]) -> None:
    """Add, save, remove: recordings and whole sessions."""
    store = Store(folder)
    store.sweep()
    for number in range(2):
        session = store.new_session(f"session {number}")
        say(f"session {session}")
        first, second = (added(store, session, f"{number}{name}") for name in "ab")
        for recording in (first, second):
            say(f"recording {recording}")
            store.annotate(recording, CYCLES, base=0)
            say(f"annotation {recording}")
        say(f"removing {first}")
        store.remove_recording(first)
        say(f"removed {first}")
        if number:
            say(f"removing {second}")
            store.remove_session(session)
            say(f"removed {second}")


def added(store: Store, session: str, name: str) -> str:
    sound = store.folder / "arriving" / name
    sound.mkdir(parents=True)
    for file in ("audio.wav", "page.wav"):
        (sound / file).write_bytes(b"sound of " + name.encode())
    return store.new_recording(session, f"{name}.wav", FACTS, sound, OriginalCycles("annotation", CYCLES))


def wrong(folder: Path, job: Callable[..., None]) -> list[str]:
    """-> what is not as it should be in a folder, when a service starts on it."""
    lines = (folder / ".said").read_text().split("\n") if (folder / ".said").exists() else []
    said = {kind: {line.split()[1] for line in lines if line.startswith(f"{kind} ")} for kind in KINDS}
    try:
        store = Store(folder)
        store.sweep()
    except Exception as error:
        return [f"refused: {error}"]
    rows = {row["id"]: row for row in store.rows(page.STANDING, "first", *page.NOBODY, *page.NOBODY)}
    found = []
    if store.sounds() != set(rows) and job is work:
        found.append(f"sound of {store.sounds()}, rows of {set(rows)}")
    found += [f"{lost}: lost" for lost in (said["recording"] - said["removing"]) - set(rows)]
    found += [f"{kept}: not removed" for kept in said["removed"] & set(rows)]
    for saved in (said["annotation"] - said["removing"]) & set(rows):
        if rows[saved]["revision"] != 1 or json.loads(rows[saved]["saved"]) != CYCLES:
            found.append(f"{saved}: annotation lost")
    if said["session"] - {row["id"] for row in store.sessions()} and not said["removing"]:
        found.append("a session is lost")
    if job is upgrade and (len(rows) != 3 or rows["found"]["origin"] != "segment" or rows["found"]["revision"] != 1):
        found.append("a row of the layout before is lost")
    if (state := store.rows("PRAGMA integrity_check")[0]["integrity_check"]) != "ok":
        found.append(state)
    return found


KINDS = ("session", "recording", "annotation", "removing", "removed")

if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
