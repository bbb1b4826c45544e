"""The page's service killed (SIGKILL) at random times and at file events, while four visitors use it."""

import json
import random
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.attack.page import Confirmed, Ended, Services, services, visit
from tests.conftest import REPOSITORY
from tests.served import new_session, recording

TIMES = 20  # kills at random times
EVENTS = 20  # and just before random file events
VISITORS = 4


@pytest.mark.slow
def test_a_killed_service_loses_nothing_that_it_has_confirmed(place: Path, tmp_path: Path) -> None:
    """Nor does it keep anything that was removed, or refuse to start."""
    chance, known, failures = random.Random(0), Confirmed(), list[str]()
    sound, folder, temporary = recording(place).read_bytes(), tmp_path / "store", tmp_path / "temporary"
    with services(place / "runs" / "first", temporary) as served:
        with closing(served.start(folder)) as client:
            known.session = new_session(client)
        served.kill()
        jobs = [("time", chance.uniform(0.05, 3)) for _ in range(TIMES)]
        jobs += [("event", float(chance.randrange(4, 250))) for _ in range(EVENTS)]
        chance.shuffle(jobs)
        for number, (kind, when) in enumerate(jobs):
            kill_once(served, folder, known, sound, kind, when, number)
            failures += [f"kill {number} ({kind} {when:g}): {each}" for each in wrong(served, folder, temporary, known)]
    kept = len(known.recordings - known.removing)
    saves = sum(len(found) for found in known.annotations.values())
    print(
        f"\nkill -9 of the page's service: {len(jobs)} kills ({TIMES} times, {EVENTS} file events) under {VISITORS} "
        f"visitors; confirmed: {len(known.recordings)} recordings ({kept} never removed), {saves} annotations, "
        f"{len(known.removed)} removals, {known.exports} exports; {len(failures)} failures"
    )
    assert failures == known.wrong == []
    assert min(kept, saves, len(known.removed), known.exports) > 10


def kill_once(
    served: Services, folder: Path, known: Confirmed, sound: bytes, kind: str, when: float, number: int
) -> None:
    """Start a service, let the visitors at it, and kill it after some seconds or before a file event."""
    try:
        client = served.start(folder, int(when) if kind == "event" else -1)
    except Ended:  # killed while it started
        return
    with closing(client), ThreadPoolExecutor(VISITORS + 1) as pool:
        seeds = [100 * number + visitor for visitor in range(VISITORS)]
        visits = [pool.submit(visit, client, known, sound, seed) for seed in seeds]
        if kind == "time":
            served.nursery.poll()
            with pytest.raises(subprocess.TimeoutExpired):
                served.nursery.wait(when)
            served.kill()
        for each in visits:
            each.result()


def wrong(served: Services, folder: Path, temporary: Path, known: Confirmed) -> list[str]:
    """-> what is not as it should be after the next start."""
    served.kill()
    found = list[str]()
    try:
        client = served.start(folder)
    except Ended:
        return ["the next start is refused"]
    with closing(client):
        there = {line["id"] for line in client.get(f"/sessions/{known.session}").json()["recordings"]}
        found += [f"{lost}: lost" for lost in known.recordings - known.removing - there]
        found += [f"{kept}: removed, and still there" for kept in known.removed & there]
        for each in sorted(there)[:5]:
            if client.get(f"/recordings/{each}/audio").status_code != 200:
                found.append(f"{each}: no sound")
        for each in known.annotations.keys() & (known.recordings - known.removing):
            last, start_s = max(known.annotations[each])
            detail = client.get(f"/recordings/{each}").json()
            if detail["revision"] < last or (detail["revision"] == last and detail["cycles"][0]["start_s"] != start_s):
                found.append(f"{each}: revision {last} lost")
        sounds = {path.name for path in (folder / "recordings").glob("*")}
        found += [f"{orphan}: sound without a recording" for orphan in sounds - there]
        found += [f"{path.name}: left" for path in [*(folder / "arriving").iterdir(), *temporary.iterdir()]]
    served.kill()
    with sqlite3.connect(folder / "sessions.sqlite") as db:
        ((state,),) = db.execute("PRAGMA integrity_check").fetchall()
    db.close()
    return found if state == "ok" else [*found, state]


@pytest.mark.slow
def test_every_statement_and_file_event_of_the_folder(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.attack.store_kills", str(tmp_path), "1"]
    found = json.loads(subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
    trials = ", ".join(f"{job} {each['trials']}" for job, each in found.items())
    failures = [each for job in found.values() for each in job["failures"]]
    print(f"\nkill -9 at each statement and file event of the page's folder: {trials}; {len(failures)} failures")
    assert failures == []
