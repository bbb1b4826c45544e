"""The page's folder: made whole or not at all, swept at the start, on the disk before it is called saved."""

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rales.labels import ICBHI
from rales.web import store as page
from rales.web import stored_rows
from rales.web.service import Service, lock_service_folder
from rales.web.settings import Settings
from rales.web.store import LeftoverSound, Store
from tests.attack.layout_1 import write_layout_1
from tests.attack.store_kills import CYCLES, FACTS, added
from tests.conftest import REPOSITORY


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that does not wait for the disk."""
    monkeypatch.setattr(page, "PRAGMAS", [each.replace("= FULL", "= OFF") for each in page.PRAGMAS])
    return Store(tmp_path / "store")


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_killed_anywhere_it_opens_again_and_nothing_is_lost(tmp_path: Path) -> None:
    """At some statements and file events of making, upgrading and filling it (all: tests/attack/test_page_kills.py)."""
    words = [sys.executable, "-m", "tests.attack.store_kills", str(tmp_path), "12"]
    run = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert [each["failures"] for each in found.values()] == [[], [], []]
    assert all(each["trials"] >= 6 for each in found.values()), found


def test_tables_without_a_version_are_made_anew_where_they_hold_nothing(tmp_path: Path) -> None:
    """As a service left them that made them one by one."""
    for folder, row in ((tmp_path / "empty", ""), (tmp_path / "full", "INSERT INTO sessions VALUES ('s', 'Ward', 1);")):
        folder.mkdir()
        db = sqlite3.connect(folder / "sessions.sqlite")
        db.executescript(
            "CREATE TABLE sessions (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL);" + row
        )
        db.close()
    made = Store(tmp_path / "empty")
    assert made.sessions() == []
    made.new_session("Night")
    assert [row["name"] for row in Store(tmp_path / "empty").sessions()] == ["Night"]
    with pytest.raises(
        OSError, match="holds a table sessions, but no layout of Rales; nothing in the folder was changed"
    ):
        Store(tmp_path / "full")


def damaged_folder(folder: Path, kind: str) -> str:
    """Make a folder with one recording and damage its database; -> what is said of it."""
    store = Store(folder)
    added(store, store.new_session("Ward"), "a")
    file = folder / "sessions.sqlite"
    whole = file.read_bytes()
    match kind:
        case "something else":
            file.write_bytes(b"no database at all, but long enough to be looked at" * 40)
            return "file is not a database"
        case "a page of zeros":
            file.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
            return "nothing in the folder was changed"
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
            return "malformed"
        case "empty" | "gone":
            file.write_bytes(b"") if kind == "empty" else file.unlink()
            return "holds the sound of 1 recordings, but no sessions.sqlite"
        case "a later version":
            with store.open() as db:
                db.execute("PRAGMA user_version = 99")
            return "layout 99, expected 3"
        case _:
            file.unlink()
            other = sqlite3.connect(file)
            other.executescript("CREATE TABLE patients (name TEXT); INSERT INTO patients VALUES ('Anna');")
            other.close()
            return "holds a table patients, but no layout of Rales"


@pytest.mark.parametrize(
    "kind", ["something else", "a page of zeros", "cut", "empty", "gone", "a later version", "another program's"]
)
def test_a_damaged_database_is_a_sentence_and_nothing_is_lost(tmp_path: Path, kind: str) -> None:
    """Above all not the sound of recordings of which it says nothing."""
    sentence = damaged_folder(tmp_path, kind)
    before = content(tmp_path)
    for _ in range(2):
        with pytest.raises((OSError, ValueError), match=sentence) as refused:
            Service(Settings(folder=tmp_path))
        assert "choose another --folder" in str(refused.value)
    after = {name: held for name, held in content(tmp_path).items() if name != ".lock"}
    if kind == "gone":
        after.pop("sessions.sqlite")  # empty
    assert after == before


def test_a_second_service_leaves_the_folder_alone(tmp_path: Path) -> None:
    """It neither upgrades the database under the first one nor sweeps what that one is adding."""
    write_layout_1(tmp_path)
    (tmp_path / "arriving" / "x").mkdir(parents=True)
    (tmp_path / "recordings" / secrets.token_hex(8)).mkdir(parents=True)
    with lock_service_folder(tmp_path):
        before = content(tmp_path)
        with pytest.raises(ValueError, match="another `rales serve` uses it"):
            Service(Settings(folder=tmp_path))
        assert content(tmp_path) == before
        assert (tmp_path / "arriving" / "x").is_dir()


# Removing


def test_what_is_in_no_session_is_swept(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The sound of removed recordings and of those that were being added; nothing that is not the service's own."""
    session = store.new_session("Ward")
    stays, goes = added(store, session, "stays"), added(store, session, "goes")
    store.change("DELETE FROM recordings WHERE id = ?", goes)  # and was killed there
    place = store.folder / "recordings"
    shutil.copytree(place / stays, place / secrets.token_hex(8))
    (place / "a person's folder").mkdir()
    outside = store.folder.parent / "outside"
    outside.mkdir()
    (outside / "a.wav").write_bytes(b"sound")
    (place / secrets.token_hex(8)).symlink_to(outside)
    with pytest.raises(
        LeftoverSound, match="the sound of a removed recording cannot be removed; make the folder writable"
    ):
        store.sweep()
    assert "symbolic link" in caplog.text
    assert store.sounds() == {stays, *(path.name for path in place.iterdir() if path.is_symlink())}
    assert {path.name for path in outside.iterdir()} == {"a.wav"}
    assert (place / "a person's folder").is_dir()


def test_a_start_sweeps_uploads_orphans_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store"
    store = Store(folder)
    added(store, store.new_session("Ward"), "stays")
    for path in ("arriving/1/audio.wav", f"recordings/{secrets.token_hex(8)}/audio.wav", "reports/half/score.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"sound")
    (folder / "reports" / "whole").mkdir()
    (folder / "reports" / "whole" / "report.html").write_text("whole")
    monkeypatch.setattr("rales.web.model_registry.ModelRegistry.label_set", lambda *_: ICBHI)
    Service(Settings(folder=folder)).lock.release()
    assert list((folder / "arriving").iterdir()) == []
    assert len(store.sounds()) == 1
    assert [path.name for path in (folder / "reports").iterdir()] == ["whole"]


def test_sound_that_cannot_be_removed_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = store.new_session("Ward")
    first, second, third = (added(store, session, name) for name in "abc")

    def refused(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(folder / "audio.wav"))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refused)
        with pytest.raises(LeftoverSound, match=f"{first}: the sound of a removed recording cannot be removed; make"):
            store.remove_recording(first)
        with pytest.raises(LeftoverSound, match=", and 1 more; make the folder writable"):
            store.remove_session(session)
        assert "Permission denied" in caplog.text
    assert store.sounds() == {first, second, third}
    assert store.rows("SELECT id FROM recordings") == []
    store.sweep()
    assert store.sounds() == set()


def test_what_is_removed_is_in_no_file_any_more(store: Store) -> None:
    """Names, annotations and their revisions, in the database and its log, while rows of all sizes come and go."""
    session, gone, there = store.new_session("Ward"), list[str](), dict[str, str]()

    def held() -> bytes:
        return b"".join(file.read_bytes() for file in store.folder.glob("sessions.sqlite*"))

    for number in range(60):
        secret = secrets.token_hex(12)
        recording = added(store, session, f"{secret}{'x' * (number % 7 * 12)}")
        store.keep_scores(recording, secret, [{"label": secret, "more": "y" * (number % 11 * 300)}])
        store.annotate(recording, [{"label": secret}] * (1 + number % 5))
        there[recording] = secret
        if number % 3 == 2:
            recording = sorted(there)[number % len(there)]
            assert there[recording].encode() in held()
            gone.append(there.pop(recording))
            store.remove_recording(recording)
            assert not any(secret.encode() in held() for secret in gone)
    store.remove_session(session)
    assert not any(secret.encode() in held() for secret in (*gone, *there.values(), "Ward"))


# Saving


def test_what_is_saved_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and the folders that name them are waited for before the row that names them is written, and SQLite waits
    for that."""
    store, order, wait = Store(tmp_path), list[str](), os.fsync

    def waited(handle: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{handle}"))
        wait(handle)

    def connected(*words: Any, **named: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = sqlite3.connect(*words, **named)
        db.set_trace_callback(order.append)
        return db

    session = store.new_session("Ward")
    monkeypatch.setattr(os, "fsync", waited)
    monkeypatch.setattr(page, "sqlite3", type("", (), {**vars(sqlite3), "connect": staticmethod(connected)}))
    place = store.place(added(store, session, "a"))
    inserted = next(number for number, step in enumerate(order) if step.startswith("INSERT INTO recordings"))
    assert place.is_dir()
    before = set(order[:inserted])
    arrived = store.folder / "arriving" / "a"
    assert before >= {*(str(arrived / name) for name in ("audio.wav", "page.wav", "notes.json")), str(arrived)}
    assert before >= {str(store.folder / "recordings"), str(store.folder)}
    with store.open() as db:
        modes = [
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode", "secure_delete")
        ]
    assert modes == [2, "wal", 1]


# Rows


@pytest.mark.parametrize("share", ["NaN", "1e999", "null", '"0.5"', "true"])
def test_a_label_without_a_number_is_no_answer(share: str) -> None:
    rest = '"p_crackle": 0, "p_wheeze": 0, "p_both": 0'
    text = '[{"start_s": 0, "end_s": 1, "label": %s, "p_normal": %s, ' + rest + "}]"
    with pytest.raises(ValueError, match=r"cycle 1 has a (label without probabilities|probability that is no number)"):
        stored_rows.read_scored(text % ('"normal"', share), ICBHI)
    assert stored_rows.read_scored(text % ('"normal"', "1"), ICBHI) is not None
    assert (stored_rows.read_scored(text % ("null", "null"), ICBHI) or [{}])[0]["label"] is None  # not judged


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("null", "no list of cycles"),
        ("[1]", "no list of cycles"),
        ('[{"label": "normal"}]', "cycle 1 has no times"),
        ('[{"start_s": 0, "end_s": NaN, "label": "normal"}]', "cycle 1 has no times"),
        ('[{"start_s": 1, "end_s": 0, "label": "normal"}]', "cycle 1 has no times"),
        ('[{"start_s": false, "end_s": true, "label": "normal"}]', "cycle 1 has no times"),
        ('[{"start_s": 0, "end_s": 1, "label": "rales"}]', "label"),
    ],
)
def test_cycles_that_are_damaged(text: str, why: str) -> None:
    for read in (stored_rows.read_marked, stored_rows.read_scored):
        with pytest.raises(ValueError, match=why):
            read(text, ICBHI)
    assert stored_rows.try_read(stored_rows.read_marked, json.dumps(CYCLES), ICBHI) == (CYCLES, "")


def test_one_row_in_many(store: Store) -> None:
    """Whatever stands in a row, those beside it are read as they are."""
    session = store.new_session("Ward")
    good, bad = added(store, session, "good"), added(store, session, "bad")
    said = ("name", "path", "duration_s", "rate_hz", "channels", "status", "problem", "reviewed")
    odd: tuple[Any, ...] = (b"\xff\xfe", "text", -1, 1e999, 0)
    for column in (*said, "added"):
        for value in odd:
            with store.open() as db:
                db.execute("SAVEPOINT before")
                db.execute(f"UPDATE recordings SET {column} = ? WHERE id = ?", (value, bad))
            rows = {row["id"]: row for row in store.recordings(session, "first")}
            assert (rows[good]["status"], rows[good]["original"]) == ("waiting", CYCLES)
            assert rows[bad]["status"] in ("waiting", "failed")
            json.dumps([rows[bad][name] for name in said], allow_nan=False)
            store.change(f"UPDATE recordings SET {column} = (SELECT {column} FROM recordings WHERE id = ?)", good)
    assert FACTS["notes"] == store.notes(good)
    for text in ("{", "3", "[" * 100_000):
        (store.place(good) / "notes.json").write_text(text)
        assert store.notes(good) == ["the notes on the file that it came in cannot be read"]


def test_a_folder_without_events_gets_them_and_damaged_ones_cost_nothing_else(store: Store) -> None:
    name = added(store, store.new_session("Ward"), "a")
    events = [{"kind": "wheeze", "start_s": 0.5, "end_s": 0.9, "low_hz": 300.0, "high_hz": 420.5}]
    store.annotate(name, CYCLES)
    with store.open() as db:
        db.execute("ALTER TABLE annotations DROP COLUMN events")
        db.execute("ALTER TABLE recordings DROP COLUMN first_events")
        db.execute("PRAGMA user_version = 2")
    again = Store(store.folder)
    row = again.recording(name, "first")
    assert row is not None
    assert (row["saved"], row["events"]) == (CYCLES, [])
    again.annotate(name, CYCLES, events=events)
    assert again.revisions(name)[0]["events"] == events
    for text in ("{", "3", "[3]", "[{}]", '[{"kind": "wheeze", "start_s": 1, "end_s": NaN}]', "[" * 100_000):
        again.change("UPDATE annotations SET events = ? WHERE revision = 2", text)
        row = again.recording(name, "first")
        assert row is not None
        assert (row["saved"], row["events"], row["status"]) == (CYCLES, [], "failed")
        assert "the events that were marked in it cannot be read" in row["problem"]
        assert again.revisions(name)[0]["events"] == []
