"""Sessions on disk: one SQLite file, and a folder for each recording's sound. No name in it comes from a visitor.

`sessions.sqlite` holds sessions, recordings, the cycles that each began with (`originals`, written once: revision 0 of
its annotation), what models said of them (`scores`, which may be made anew) and every saved annotation;
`recordings/<id>/` holds audio.wav (what the model hears), page.wav (what the browser plays) and, where one came along,
audio.txt (the annotation, which `predict` finds beside the sound) and notes.json (what there is to say of the file and
of the text beside it).
"""

import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rales.data import icbhi
from rales.runs import make_folder
from rales.web import marks

VERSION = 2
REVISIONS = 100  # of one annotation that are kept
TABLES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE recordings (
    id TEXT PRIMARY KEY,
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name TEXT NOT NULL, added REAL NOT NULL, duration_s REAL NOT NULL, rate_hz INTEGER NOT NULL,
    channels INTEGER NOT NULL, status TEXT NOT NULL, problem TEXT NOT NULL DEFAULT '',
    reviewed INTEGER NOT NULL DEFAULT 0, path TEXT NOT NULL DEFAULT '', digest TEXT NOT NULL DEFAULT ''
);
CREATE INDEX recordings_of ON recordings (session, added);
CREATE TABLE scores (
    recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    model TEXT NOT NULL, made REAL NOT NULL, cycles TEXT NOT NULL, PRIMARY KEY (recording, model)
);
CREATE TABLE annotations (
    recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    revision INTEGER NOT NULL, saved REAL NOT NULL, cycles TEXT NOT NULL, PRIMARY KEY (recording, revision)
);
"""
ORIGINALS = """
CREATE TABLE originals (
    recording TEXT PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
    source TEXT NOT NULL, cycles TEXT NOT NULL
);
"""
STANDING = """
SELECT r.*, s.made, s.cycles AS scored, COALESCE(a.revision, 0) AS revision, a.cycles AS saved,
    o.source AS origin, o.cycles AS original
FROM recordings r
LEFT JOIN originals o ON o.recording = r.id
LEFT JOIN scores s ON s.recording = r.id AND s.model = ?
LEFT JOIN annotations a ON a.recording = r.id
    AND a.revision = (SELECT MAX(revision) FROM annotations WHERE recording = r.id)
"""
Row = dict[str, Any]


class Twice(Exception):
    """A recording that its session has already."""


class Stale(Exception):
    """An annotation that was made from an older revision than the one that stands."""

    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.last = last


class Store:
    """Everything that outlives the service, under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        folder.chmod(0o700)  # recordings of patients
        with self.open() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(f"PRAGMA journal_mode = WAL; {TABLES} {ORIGINALS} PRAGMA user_version = {VERSION};")
            elif version == 1:
                self.upgrade(db)
            elif version != VERSION:
                raise ValueError(
                    f"{folder}: holds sessions of another version of Rales (layout {version}, expected {VERSION}); "
                    "choose another --folder"
                )

    def upgrade(self, db: sqlite3.Connection) -> None:
        """Layout 1, which had no originals, no paths and no digests -> this one, in one transaction.

        That layout took all that the default model, the first to answer, had said for the cycles that a recording began
        with. Stretches that were scored later stand behind those, in rows that do not say where their times are from.
        """
        db.executescript(
            "BEGIN IMMEDIATE; ALTER TABLE recordings ADD COLUMN path TEXT NOT NULL DEFAULT '';"
            f"ALTER TABLE recordings ADD COLUMN digest TEXT NOT NULL DEFAULT ''; {ORIGINALS}"
            f"UPDATE recordings SET path = name; PRAGMA user_version = {VERSION};"
        )
        query = "SELECT recording, cycles FROM scores WHERE rowid IN (SELECT MIN(rowid) FROM scores GROUP BY recording)"
        first = {row["recording"]: json.loads(row["cycles"]) for row in db.execute(query)}
        for recording, duration_s in db.execute("SELECT id, duration_s FROM recordings").fetchall():
            annotation = self.place(recording) / "audio.txt"
            rows = first.get(recording, [])
            many = max((number for number, row in enumerate(rows, start=1) if "source" in row), default=0)
            if annotation.is_file():
                original = marks.annotated(icbhi.annotation(annotation, duration_s)[0], duration_s)
            elif many:
                original = marks.called(rows[:many], duration_s)
            else:
                continue  # it has to be scored first
            self.write_original(db, recording, original)

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes count together or not at all. Errors: IntegrityError for what belongs to something
        that has been removed, OSError for a file that is no database or a full disk."""
        file = self.folder / "sessions.sqlite"
        try:
            with closing(sqlite3.connect(file, timeout=10)) as db, db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA foreign_keys = ON")
                yield db
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise OSError(f"{file}: {error}; move it away or choose another --folder") from error

    def rows(self, query: str, *values: Any) -> list[Row]:
        with self.open() as db:
            return [dict(row) for row in db.execute(query, values)]

    def change(self, query: str, *values: Any) -> int:
        """-> how many rows it changed."""
        with self.open() as db:
            return db.execute(query, values).rowcount

    # Sessions

    def sessions(self) -> list[Row]:
        """-> all sessions, the newest first, with how many recordings they hold and how many were reviewed."""
        return self.rows(
            "SELECT s.*, COUNT(r.id) AS recordings, COALESCE(SUM(r.reviewed), 0) AS reviewed FROM sessions s "
            "LEFT JOIN recordings r ON r.session = s.id GROUP BY s.id ORDER BY s.created DESC"
        )

    def new_session(self, name: str) -> str:
        session = secrets.token_hex(8)
        self.change("INSERT INTO sessions VALUES (?, ?, ?)", session, name, time.time())
        return session

    def rename_session(self, session: str, name: str) -> bool:
        return self.change("UPDATE sessions SET name = ? WHERE id = ?", name, session) > 0

    def remove_session(self, session: str) -> bool:
        for row in self.rows("SELECT id FROM recordings WHERE session = ?", session):
            self.remove_recording(row["id"])
        return self.change("DELETE FROM sessions WHERE id = ?", session) > 0

    # Recordings

    def recordings(self, session: str, model: str) -> list[Row]:
        """-> a session's recordings in the order they came, each with the cycles it began with (`origin`, `original`),
        what `model` said of it (`made`, `scored`) and the annotation that was saved last (`revision`, `saved`); None
        where there is none."""
        return [
            standing(row) for row in self.rows(f"{STANDING} WHERE r.session = ? ORDER BY added, id", model, session)
        ]

    def recording(self, recording: str, model: str) -> Row | None:
        """-> one recording as `recordings` has it."""
        return next((standing(row) for row in self.rows(f"{STANDING} WHERE r.id = ?", model, recording)), None)

    def waiting(self) -> list[str]:
        """-> recordings that the default model has not answered for yet, the oldest first."""
        return [row["id"] for row in self.rows("SELECT id FROM recordings WHERE status = 'waiting' ORDER BY added, id")]

    def count(self) -> int:
        return int(self.rows("SELECT COUNT(*) AS n FROM recordings")[0]["n"])

    def place(self, recording: str) -> Path:
        """-> the folder of a recording's sound."""
        return self.folder / "recordings" / recording

    def new_recording(
        self,
        session: str,
        path: str,
        facts: Row,
        sound: Path,
        original: marks.Original | None,
        *,
        only_new: bool = False,
    ) -> str:
        """Take over a folder with the decoded sound, and the cycles of an annotation that came along.

        Errors: IntegrityError where the session has been removed meanwhile; Twice where it holds the same file under
        the same path and `only_new` is asked for.
        """
        recording = secrets.token_hex(8)
        place = self.place(recording)
        place.parent.mkdir(exist_ok=True)
        if facts["notes"]:
            (sound / "notes.json").write_text(json.dumps(facts["notes"]))
        sound.rename(place)
        about = [facts[name] for name in ("duration_s", "rate_hz", "channels")]
        values = (recording, session, marks.stem(path), time.time(), *about, path, facts["digest"])
        try:
            with self.open() as db:
                db.execute("BEGIN IMMEDIATE")  # two of the same may come at once
                query = "SELECT 1 FROM recordings WHERE session = ? AND path = ? AND digest = ?"
                if only_new and db.execute(query, (session, path, facts["digest"])).fetchone():
                    raise Twice
                db.execute(
                    "INSERT INTO recordings "
                    "(id, session, name, added, duration_s, rate_hz, channels, path, digest, status) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
                    values,
                )
                if original is not None:
                    self.write_original(db, recording, original)
        except BaseException:
            shutil.rmtree(place)
            raise
        return recording

    def notes(self, recording: str) -> list[str]:
        """-> sentences on the file that a recording came in, and on its annotation."""
        file = self.place(recording) / "notes.json"
        return list(json.loads(file.read_text())) if file.exists() else []

    def keep_original(self, recording: str, original: marks.Original) -> None:
        """The cycles that a recording begins with, unless there are some already or it has been removed meanwhile."""
        with self.open() as db:
            if db.execute("SELECT 1 FROM recordings WHERE id = ?", (recording,)).fetchone():
                self.write_original(db, recording, original)

    def write_original(self, db: sqlite3.Connection, recording: str, original: marks.Original) -> None:
        values = (recording, original.source, json.dumps(original.cycles))
        db.execute("INSERT INTO originals VALUES (?, ?, ?) ON CONFLICT (recording) DO NOTHING", values)

    def mark(self, recording: str, status: str, problem: str = "") -> None:
        self.change("UPDATE recordings SET status = ?, problem = ? WHERE id = ?", status, problem, recording)

    def review(self, recording: str, reviewed: bool) -> bool:
        return self.change("UPDATE recordings SET reviewed = ? WHERE id = ?", int(reviewed), recording) > 0

    def remove_recording(self, recording: str) -> bool:
        found = self.change("DELETE FROM recordings WHERE id = ?", recording) > 0
        if found:
            shutil.rmtree(self.place(recording), ignore_errors=True)
        return found

    # What models and people say

    def scores(self, recording: str) -> dict[str, Row]:
        """-> model -> when it answered (`made`) and its `cycles`: start_s, end_s, label, p_…, true_label."""
        found = self.rows("SELECT model, made, cycles FROM scores WHERE recording = ? ORDER BY made", recording)
        return {row["model"]: {"made": row["made"], "cycles": json.loads(row["cycles"])} for row in found}

    def keep_scores(self, recording: str, model: str, cycles: list[Row]) -> None:
        self.change(
            "INSERT INTO scores SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM recordings WHERE id = ?) "
            "ON CONFLICT (recording, model) DO UPDATE SET made = excluded.made, cycles = excluded.cycles",
            *(recording, model, time.time(), json.dumps(cycles), recording),
        )

    def annotate(self, recording: str, cycles: list[Row], base: int | None = None) -> Row:
        """Save an annotation as the next revision; -> revision, saved.

        With `base`, the revision that it was made from, only if that one still stands. What stands already is then not
        saved again, so a page that has not heard an answer may send the same again. Errors: Stale.
        """
        text = json.dumps(cycles)
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")  # nobody else saves between the look and the insertion
            query = "SELECT revision, saved, cycles FROM annotations WHERE recording = ? ORDER BY revision DESC LIMIT 1"
            last = db.execute(query, (recording,)).fetchone() or {"revision": 0, "saved": 0.0, "cycles": None}
            if base is not None and base != last["revision"]:
                if last["cycles"] != text:
                    raise Stale(last["revision"])
                return {"revision": last["revision"], "saved": last["saved"]}
            revision, saved = last["revision"] + 1, time.time()
            db.execute("INSERT INTO annotations VALUES (?, ?, ?, ?)", (recording, revision, saved, text))
            db.execute(
                "DELETE FROM annotations WHERE recording = ? AND revision <= ?", (recording, revision - REVISIONS)
            )
        return {"revision": revision, "saved": saved}

    def revisions(self, recording: str) -> list[Row]:
        """-> the saved states of an annotation that are kept, the newest first: revision, saved, cycles."""
        query = "SELECT revision, saved, cycles FROM annotations WHERE recording = ? ORDER BY revision DESC"
        return [{**row, "cycles": json.loads(row["cycles"])} for row in self.rows(query, recording)]


def standing(row: Row) -> Row:
    """A row of STANDING -> the same with its JSON read."""
    parts = ("scored", "saved", "original")
    return {**row, **{name: json.loads(row[name]) if row[name] else None for name in parts}}
