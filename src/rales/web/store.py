"""Store sessions on disk: one SQLite file, and a folder for each recording. No file name comes from a visitor.

`sessions.sqlite` holds sessions, recordings with the events that came along, the cycles that each began with
(`originals`, written once: revision 0 of its annotation), what models said of them (`scores`, which may be made anew)
and every saved annotation with its events;
`recordings/<id>/` holds `upload` (the file that came), for a while what is decoded of it, audio.wav (what the model
hears) and page.wav (what the browser plays), and, where one came along, audio.txt (the annotation, which `predict`
finds beside the sound) and notes.json (what there is to say of the file and of the text beside it).
"""

import json
import logging
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rales.data import icbhi
from rales.files.atomic import make_folder
from rales.labels import ICBHI, LabelSet
from rales.typing import Row
from rales.web import cycle_edits, stored_rows
from rales.web.changes import Changes

VERSION = 4
# Of every connection
PRAGMAS: tuple[str, ...] = ("foreign_keys = ON", "synchronous = FULL", "fullfsync = ON", "secure_delete = ON")
REVISIONS = 100  # of one annotation that are kept
TABLES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE recordings (
    id TEXT PRIMARY KEY,
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name TEXT NOT NULL, added REAL NOT NULL, duration_s REAL NOT NULL, rate_hz INTEGER NOT NULL,
    channels INTEGER NOT NULL, status TEXT NOT NULL, problem TEXT NOT NULL DEFAULT '',
    reviewed INTEGER NOT NULL DEFAULT 0, path TEXT NOT NULL DEFAULT '', digest TEXT NOT NULL DEFAULT '',
    linked TEXT NOT NULL DEFAULT '',
    first_events TEXT NOT NULL DEFAULT '[]', facts TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX recordings_of ON recordings (session, added);
CREATE TABLE scores (
    recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    model TEXT NOT NULL, made REAL NOT NULL, cycles TEXT NOT NULL, PRIMARY KEY (recording, model)
);
"""
ANNOTATIONS = """
CREATE TABLE annotations (
    recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    reader TEXT NOT NULL DEFAULT '', round INTEGER NOT NULL DEFAULT 1,
    revision INTEGER NOT NULL, saved REAL NOT NULL, cycles TEXT NOT NULL, events TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (recording, reader, round, revision)
);
"""
ORIGINALS = """
CREATE TABLE originals (
    recording TEXT PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
    source TEXT NOT NULL, cycles TEXT NOT NULL
);
"""
READER_CHANGES = """
CREATE TABLE reader_changes (
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    made REAL NOT NULL, reader TEXT NOT NULL, became TEXT NOT NULL
);
"""  # "" where a reader was removed; of no layout, since folders without it are as good
ALL_TABLES = TABLES + ANNOTATIONS + ORIGINALS + READER_CHANGES
STANDING_FROM = """
FROM recordings r
LEFT JOIN originals o ON o.recording = r.id
LEFT JOIN scores s ON s.recording = r.id AND s.model = ?
LEFT JOIN annotations a ON a.recording = r.id AND a.reader = ? AND a.round = ?
    AND a.revision = (SELECT MAX(revision) FROM annotations WHERE recording = r.id AND reader = ? AND round = ?)
"""
STANDING = f"""
SELECT r.*, s.made, s.cycles AS scored, COALESCE(a.revision, 0) AS revision, a.cycles AS saved,
    COALESCE(a.events, r.first_events) AS events,
    o.source AS origin, o.cycles AS original
{STANDING_FROM}"""
# What tells that a line of the list is not the one it was: nothing in a recording's row changes without one of these
STAMPS = f"""
SELECT r.id, r.added, r.name, r.path, r.linked, r.digest, r.status, r.problem, r.reviewed,
    r.facts, s.made, a.revision, a.saved, o.source
{STANDING_FROM}"""
SOUND = ("audio.wav", "page.wav")  # what is decoded of a recording
PART = 500  # values of one query; SQLite takes no more than some
OF_READER = "recording = ? AND reader = ? AND round = ?"
OURS = re.compile("[0-9a-f]{16}")  # names of folders that this service gives
log = logging.getLogger(__name__)


class Who(NamedTuple):
    """Whose annotation: a reader by name and the round, counted from 1. The one without a name is what stands for all:
    what a person edits who is no reader, what readers settle on, and what is exported."""

    reader: str = ""
    round: int = 1


NOBODY = Who()


class LeftoverSound(OSError):
    """The sound of removed recordings that could not be removed."""


class DuplicateRecording(Exception):
    """A recording that its session has already."""


class DuplicateReader(Exception):
    """A name that another reader of the session has."""


class RevisionConflict(Exception):
    """An annotation that was made from an older revision than the one that stands."""

    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.last = last


class Store:
    """Everything that outlives the service, under one folder.

    What a call has saved when it returns is on the disk: SQLite waits for it (synchronous = FULL, with a log of its
    own), and files are waited for before the row that names them is written. What has been removed is overwritten in
    the database (secure_delete), whose log is emptied at once.
    """

    def __init__(self, folder: Path, label_set: LabelSet = ICBHI) -> None:
        """`label_set` is that of the model that is served; cycles with other labels stay, but are not shown."""
        self.folder, self.label_set, self.changes = folder, label_set, Changes()
        self.clearing = threading.Lock()  # the sound of removed recordings, which nobody puts back meanwhile
        make_folder(folder)
        folder.chmod(0o700)  # recordings of patients
        with self.open() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise damaged_store(folder, found)
        if 0 < version <= VERSION:
            self.check_places(version)
        if version == 0:
            self.create()
        elif version in (1, 2, 3):
            self.upgrade(version)
        elif version != VERSION:
            raise ValueError(
                f"{folder}: holds sessions of another version of Rales (layout {version}, expected {VERSION}); "
                "choose another --folder"
            )
        with self.open() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reader_changes'").fetchone():
                run_statements(db, READER_CHANGES)
            if "facts" not in [column["name"] for column in db.execute("PRAGMA table_info(recordings)")]:
                db.execute("ALTER TABLE recordings ADD COLUMN facts TEXT NOT NULL DEFAULT '{}'")  # as good, too

    def check_places(self, version: int) -> None:
        """Refuse a database, which may have come with somebody's folder, whose recordings would lie elsewhere than in
        the service's folder and the project. Errors: OSError."""
        linked = "linked" if version == VERSION else "''"
        for row in self.rows(f"SELECT id, {linked} AS linked FROM recordings"):
            if not (isinstance(row["id"], str) and re.fullmatch(r"\w+", row["id"])):
                raise damaged_store(
                    self.folder, f"holds a recording with the id {row['id']!r}, which Rales never gives"
                )
            if not isinstance(row["linked"], str) or ".." in Path(row["linked"]).parts or Path(row["linked"]).root:
                raise damaged_store(self.folder, f"holds a recording at {row['linked']!r}, outside the folder")

    def create(self) -> None:
        """Make the tables in one transaction; those of one that was cut short, which hold nothing, are made anew."""
        folder, sounds = self.folder, len(self.sounds())
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        with self.open() as db:
            tables = [name for (name,) in db.execute(query).fetchall()]
            for table in tables:
                ours = f"CREATE TABLE {table} " in ALL_TABLES
                if not ours or db.execute(f"SELECT 1 FROM {table}").fetchone():
                    raise damaged_store(folder, f"holds a table {table}, but no layout of Rales")
            if sounds:
                raise ValueError(
                    f"{folder}: holds the sound of {sounds} recordings, but no sessions.sqlite that says what they "
                    "are; put that file back, move the whole folder away or choose another --folder"
                )

            db.execute("PRAGMA journal_mode = WAL")  # cannot be part of a transaction
            db.execute("BEGIN IMMEDIATE")
            run_statements(db, "".join(f"DROP TABLE {table};" for table in tables) + ALL_TABLES)
            db.execute(f"PRAGMA user_version = {VERSION}")

    def upgrade(self, version: int) -> None:
        """An older layout -> this one, in one transaction. The second had no events, the third no readers."""
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")
            if version == 1:
                self.add_originals(db)
            events = "events" if version == 3 else "'[]'"
            run_statements(
                db,  # a reader is part of the key, which no column that is added can become
                ("ALTER TABLE recordings ADD COLUMN first_events TEXT NOT NULL DEFAULT '[]';" if version < 3 else "")
                + "ALTER TABLE recordings ADD COLUMN linked TEXT NOT NULL DEFAULT '';"
                f"ALTER TABLE annotations RENAME TO before; {ANNOTATIONS}"
                "INSERT INTO annotations (recording, revision, saved, cycles, events) "
                f"SELECT recording, revision, saved, cycles, {events} FROM before;"
                f"DROP TABLE before; PRAGMA user_version = {VERSION};",
            )

    def add_originals(self, db: sqlite3.Connection) -> None:
        """Layout 1, which had no originals, no paths and no digests -> the second.

        That layout took all that the default model, the first to answer, had said for the cycles that a recording began
        with. Stretches that were scored later stand behind those, in rows that do not say where their times are from.
        """
        run_statements(
            db,
            "ALTER TABLE recordings ADD COLUMN path TEXT NOT NULL DEFAULT '';"
            f"ALTER TABLE recordings ADD COLUMN digest TEXT NOT NULL DEFAULT ''; {ORIGINALS}"
            "UPDATE recordings SET path = name;",
        )
        query = "SELECT recording, cycles FROM scores WHERE rowid IN (SELECT MIN(rowid) FROM scores GROUP BY recording)"
        first = {
            row["recording"]: stored_rows.try_read(stored_rows.read_scored, row["cycles"], ICBHI)[0]
            for row in db.execute(query)
        }
        for recording, duration_s in db.execute("SELECT id, duration_s FROM recordings").fetchall():
            with suppress(ValueError, TypeError, OSError):  # what is damaged there is said when it is looked at
                if original := self.first_cycles(recording, first.get(recording) or [], duration_s):
                    self.write_original(db, recording, original)

    def first_cycles(self, recording: str, rows: list[Row], duration_s: float) -> cycle_edits.OriginalCycles | None:
        """What layout 1 kept of a recording -> the cycles it began with, None if it has to be scored first."""
        annotation = self.place(recording) / "audio.txt"
        if annotation.is_file():
            cycles = icbhi.read_cycle_annotation(annotation, duration_s)[0]
            return cycle_edits.original_of_annotation(cycles, duration_s, ICBHI)[0]
        many = max((number for number, row in enumerate(rows, start=1) if "source" in row), default=0)
        return cycle_edits.original_of_predictions(rows[:many], duration_s) if many else None

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes count together or not at all. Errors: IntegrityError for what belongs to something
        that has been removed, OSError for a file that is no database or a full disk."""
        try:
            with closing(sqlite3.connect(self.folder / "sessions.sqlite", timeout=10)) as db, db:
                db.row_factory = sqlite3.Row
                db.text_factory = readable_text
                for pragma in PRAGMAS:
                    db.execute(f"PRAGMA {pragma}")
                yield db
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise damaged_store(self.folder, error) from error
            raise OSError(
                f"{self.folder / 'sessions.sqlite'}: {error}; close what else uses the folder, make it "
                "writable or choose another --folder"
            ) from error

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
        rows = self.rows(
            "SELECT s.*, COUNT(r.id) AS recordings, COALESCE(SUM(r.reviewed), 0) AS reviewed FROM sessions s "
            "LEFT JOIN recordings r ON r.session = s.id GROUP BY s.id ORDER BY s.created DESC"
        )
        return [stored_rows.read_session(row) for row in rows]

    def new_session(self, name: str) -> str:
        session = secrets.token_hex(8)
        self.change("INSERT INTO sessions VALUES (?, ?, ?)", session, name, time.time())
        return session

    def rename_session(self, session: str, name: str) -> bool:
        return self.change("UPDATE sessions SET name = ? WHERE id = ?", name, session) > 0

    def remove_session(self, session: str) -> bool:
        """Errors: as those of `remove_recording`."""
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")  # what comes in meanwhile finds no session
            gone = [id for (id,) in db.execute("SELECT id FROM recordings WHERE session = ?", (session,)).fetchall()]
            was_there = db.execute("DELETE FROM sessions WHERE id = ?", (session,)).rowcount > 0
        self.changes.add(*gone)
        self.clear(gone)
        return was_there

    # Recordings

    def recordings(self, session: str, model: str, who: Who = NOBODY) -> list[Row]:
        """-> a session's recordings in the order they came, each with the cycles it began with (`origin`, `original`),
        what `model` said of it (`made`, `scored`) and the annotation of a reader that was saved last (`revision`,
        `saved`); None where there is none."""
        rows = self.rows(f"{STANDING} WHERE r.session = ? ORDER BY added, id", model, *who, *who, session)
        return [stored_rows.read_recording(row, self.label_set) for row in rows]

    def recordings_of(self, ids: Sequence[str], model: str, who: Who = NOBODY) -> dict[str, Row]:
        """-> id -> recording as `recording` has it, of those that are there."""
        rows, changed = list[Row](), {each: self.changes.of(each) for each in ids}
        for first in range(0, len(ids), PART):
            part = ids[first : first + PART]
            places = ", ".join("?" * len(part))
            rows += self.rows(f"{STANDING} WHERE r.id IN ({places})", model, *who, *who, *part)
        read = [stored_rows.read_recording(row, self.label_set) for row in rows]
        return {row["id"]: {**row, "changed": changed[row["id"]]} for row in read}

    def stamps(self, session: str, model: str, who: Who, after: tuple[float, str], most: int) -> list[Row]:
        """-> STAMPS of at most so many recordings of a session, in the order they came, behind a place in that order;
        without a place (-1, "") from the first one on, without a number (-1) all."""
        query = f"{STAMPS} WHERE r.session = ? AND (r.added, r.id) > (?, ?) ORDER BY r.added, r.id LIMIT ?"
        return self.rows(query, model, *who, *who, session, *after, most)

    def stamps_of(self, session: str, model: str, who: Who, ids: Sequence[str]) -> list[Row]:
        """-> the same of those of some recordings that are in the session."""
        rows: list[Row] = []
        for first in range(0, len(ids), PART):
            part = ids[first : first + PART]
            query = f"{STAMPS} WHERE r.session = ? AND r.id IN ({', '.join('?' * len(part))}) ORDER BY r.added, r.id"
            rows += self.rows(query, model, *who, *who, session, *part)
        return rows

    def recording(self, recording: str, model: str, who: Who = NOBODY) -> Row | None:
        """-> one recording as `recordings` has it, with `changed`, the number of a change that is in it."""
        changed = self.changes.of(recording)
        rows = self.rows(f"{STANDING} WHERE r.id = ?", model, *who, *who, recording)
        return {**stored_rows.read_recording(rows[0], self.label_set), "changed": changed} if rows else None

    def waiting(self) -> list[str]:
        """-> recordings that the default model has not answered for yet, the oldest first."""
        return [row["id"] for row in self.rows("SELECT id FROM recordings WHERE status = 'waiting' ORDER BY added, id")]

    def count(self) -> int:
        return int(self.rows("SELECT COUNT(*) AS n FROM recordings")[0]["n"])

    def place(self, recording: str) -> Path:
        """-> the folder of a recording's sound."""
        return self.folder / "recordings" / recording

    def has_decoded(self, recording: str) -> bool:
        folder = os.path.join(self.folder, "recordings", recording)  # asked of every line of a list; Path takes longer
        return all(os.path.isfile(os.path.join(folder, name)) for name in SOUND)

    def upload(self, row: Row) -> str:
        """A row with id and path -> the file that came, under a name of our own."""
        name = f"upload{cycle_edits.decoder_suffix(str(row['path']))}"
        return os.path.join(self.folder, "recordings", row["id"], name)

    def has_upload(self, row: Row) -> bool:
        """Whether it is there; the services of before kept what they had decoded of it instead."""
        return os.path.isfile(self.upload(row))

    def sounds(self) -> set[str]:
        """-> the recordings that have a folder."""
        folder = self.folder / "recordings"
        return {path.name for path in folder.iterdir() if OURS.fullmatch(path.name)} if folder.is_dir() else set()

    def sweep(self) -> None:
        """Remove the sound of recordings that are in no session: what was being added or removed when a service ended.

        Only for the one service of a folder, before it takes anything. Errors: OSError for what cannot be removed.
        """
        self.clear(sorted(self.sounds() - {row["id"] for row in self.rows("SELECT id FROM recordings")}))

    def unfinished_reports(self) -> list[Path]:
        """-> pages of reports that were being drawn when a service ended."""
        drawn = (self.folder / "reports").glob("*")
        return [each for each in drawn if each.is_dir() and not (each / "report.html").is_file()]

    def clear(self, gone: list[str]) -> None:
        """Remove the sound of recordings that have been removed, and what the database's log still holds of them.

        Errors: OSError for what is left, when all else is gone.
        """
        with self.clearing:
            left = [recording for recording in gone if not remove_tree(self.place(recording))]
        with self.open() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if left:
            raise LeftoverSound(
                f"{self.place(left[0])}: the sound of a removed recording cannot be removed"
                f"{f', and {len(left) - 1} more' if len(left) > 1 else ''}; make the folder writable, then start the "
                "service again, or remove it yourself"
            )

    def new_recording(
        self,
        session: str,
        path: str,
        facts: Row,
        sound: Path,
        original: cycle_edits.OriginalCycles | None,
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

        # the sound is on the disk before the row that names it
        if facts["notes"]:
            (sound / "notes.json").write_text(json.dumps(facts["notes"]))
        for part in (*sound.iterdir(), sound):
            sync_path(part)
        sound.rename(place)
        for part in (place.parent, self.folder):
            sync_path(part)

        about = [facts[name] for name in ("duration_s", "rate_hz", "channels")]
        name, events = cycle_edits.recording_stem(path), json.dumps(facts.get("events", []))
        values = (recording, session, name, time.time(), *about, path, facts["digest"], events)
        try:
            with self.open() as db:
                db.execute("BEGIN IMMEDIATE")  # two of the same may come at once
                query = "SELECT 1 FROM recordings WHERE session = ? AND path = ? AND digest = ?"
                if only_new and db.execute(query, (session, path, facts["digest"])).fetchone():
                    raise DuplicateRecording
                db.execute(
                    "INSERT INTO recordings "
                    "(id, session, name, added, duration_s, rate_hz, channels, path, digest, first_events, status) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')",
                    values,
                )
                if original is not None:
                    self.write_original(db, recording, original)
        except BaseException:
            remove_tree(place)  # or at the next start
            raise
        self.changes.add(recording)
        return recording

    def link_recording(
        self, session: str, path: str, linked: str, facts: Row, original: cycle_edits.OriginalCycles | None
    ) -> str:
        """A recording that stays where it is, at the path `linked` in the folder of the service, with what is `said` of
        it; -> its id. Nothing waits for the disk: what the power takes with it, the next start finds in the folder
        again, and what is saved of the recording later takes it along."""
        recording = secrets.token_hex(8)
        if facts["notes"]:
            self.place(recording).mkdir(parents=True)
            (self.place(recording) / "notes.json").write_text(json.dumps(facts["notes"]))
        about = [facts[name] for name in ("duration_s", "rate_hz", "channels", "digest")]
        columns = "id, session, name, added, path, linked, duration_s, rate_hz, channels, digest, facts, status"
        name = cycle_edits.recording_stem(path)
        with self.open() as db:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            values = (recording, session, name, time.time(), path, linked, *about, json.dumps(facts["said"]))
            db.execute(
                f"INSERT INTO recordings ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')", values
            )
            if original is not None:
                self.write_original(db, recording, original)
        self.changes.add(recording)
        return recording

    def notes(self, recording: str) -> list[str]:
        """-> sentences on the file that a recording came in, and on its annotation."""
        file = self.place(recording) / "notes.json"
        try:
            return [str(note) for note in json.loads(file.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, RecursionError):
            return ["the notes on the file that it came in cannot be read"]

    def keep_original(self, recording: str, original: cycle_edits.OriginalCycles, *, anew: bool = False) -> None:
        """The cycles that a recording begins with, unless there are some already (`anew`: they cannot be read) or it
        has been removed meanwhile."""
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("SELECT 1 FROM recordings WHERE id = ?", (recording,)).fetchone():
                if anew:
                    db.execute("DELETE FROM originals WHERE recording = ?", (recording,))
                self.write_original(db, recording, original)
        self.changes.add(recording)

    def write_original(self, db: sqlite3.Connection, recording: str, original: cycle_edits.OriginalCycles) -> None:
        values = (recording, original.source, json.dumps(original.cycles))
        db.execute("INSERT INTO originals VALUES (?, ?, ?) ON CONFLICT (recording) DO NOTHING", values)

    def mark(self, recording: str, status: str, problem: str = "") -> None:
        self.change("UPDATE recordings SET status = ?, problem = ? WHERE id = ?", status, problem, recording)
        self.changes.add(recording)

    def review(self, recording: str, reviewed: bool) -> bool:
        known = self.change("UPDATE recordings SET reviewed = ? WHERE id = ?", int(reviewed), recording) > 0
        self.changes.add(recording)
        return known

    def say_facts(self, recording: str, facts: Row, base: int | None = None) -> int:
        """Keep what was said of a recording's patient, site, device and note; -> its revision. Errors: RevisionConflict
        where `base` is given and another one stands, IntegrityError where it was removed."""
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT facts FROM recordings WHERE id = ?", (recording,)).fetchone()
            if row is None:
                raise sqlite3.IntegrityError
            kept = stored_rows.read_said(row["facts"])[0]
            last = kept.pop("revision")
            if kept == facts:
                return int(last)  # nothing new, whatever it was made from
            if base is not None and base != last:
                raise RevisionConflict(last)
            text = json.dumps({**facts, "revision": last + 1})
            db.execute("UPDATE recordings SET facts = ? WHERE id = ?", (text, recording))
        self.changes.add(recording)
        return int(last) + 1

    def remove_recording(self, recording: str) -> bool:
        """-> whether it was there. A service that is ended between row and sound removes the sound at its next start.

        Errors: Left, where the sound cannot be removed; the recording itself is gone then.
        """
        was_there = self.change("DELETE FROM recordings WHERE id = ?", recording) > 0
        if was_there:
            self.changes.add(recording)
            self.clear([recording])
        return was_there

    # What models and people say

    def scores(self, recording: str) -> dict[str, Row]:
        """-> model -> when it answered (`made`) and its `cycles`: start_s, end_s, label, p_…, true_label. What cannot
        be read is left out."""
        rows = self.rows("SELECT model, made, cycles FROM scores WHERE recording = ? ORDER BY made", recording)
        read = [
            (
                row["model"],
                stored_rows.finite_number(row["made"]),
                stored_rows.try_read(stored_rows.read_scored, row["cycles"], self.label_set)[0],
            )
            for row in rows
        ]
        return {name: {"made": made, "cycles": cycles} for name, made, cycles in read if made and cycles is not None}

    def keep_scores(self, recording: str, model: str, cycles: list[Row]) -> None:
        self.change(
            "INSERT INTO scores SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM recordings WHERE id = ?) "
            "ON CONFLICT (recording, model) DO UPDATE SET made = excluded.made, cycles = excluded.cycles",
            *(recording, model, time.time(), json.dumps(cycles), recording),
        )
        self.changes.add(recording)

    def annotate(
        self,
        recording: str,
        cycles: list[Row],
        base: int | None = None,
        events: list[Row] | None = None,
        who: Who = NOBODY,
    ) -> Row:
        """Save a reader's annotation as the next revision, without `events` with those that stand; -> revision, saved.

        With `base`, the revision that it was made from, only if that one still stands. What stands already is then not
        saved again, so a page that has not heard an answer may send the same again. Errors: Stale.
        """
        text = json.dumps(cycles)
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")  # nobody else saves between the look and the insertion
            query = (
                f"SELECT revision, saved, cycles, events FROM annotations WHERE {OF_READER} "
                "ORDER BY revision DESC LIMIT 1"
            )
            first = (
                "SELECT 0 AS revision, 0 AS saved, NULL AS cycles, "
                "CASE WHEN ? THEN first_events ELSE '[]' END AS events "  # a reader begins without those of a file
                "FROM recordings WHERE id = ?"
            )
            last = db.execute(query, (recording, *who)).fetchone()
            last = last or db.execute(first, (not who.reader, recording)).fetchone()
            if last is None:
                raise sqlite3.IntegrityError("the recording has been removed")

            # A page that has not heard an answer sends the same again, from a revision that is no longer the last
            marked = last["events"] if events is None else json.dumps(events)
            if base is not None and base != last["revision"]:
                if (last["cycles"], last["events"]) != (text, marked):
                    raise RevisionConflict(last["revision"])
                return {"revision": last["revision"], "saved": last["saved"]}

            revision, saved = last["revision"] + 1, time.time()
            values = (recording, *who, revision, saved, text, marked)
            columns = "recording, reader, round, revision, saved, cycles, events"
            db.execute(f"INSERT INTO annotations ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            db.execute(
                f"DELETE FROM annotations WHERE {OF_READER} AND revision <= ?", (recording, *who, revision - REVISIONS)
            )
        self.changes.add(recording)
        return {"revision": revision, "saved": saved}

    def list_readers(self, recording: str) -> list[Row]:
        """-> reader and round of the annotations of a recording that readers with a name have made."""
        query = "SELECT DISTINCT reader, round FROM annotations WHERE recording = ? AND reader != ''"
        return self.rows(query, recording)

    def change_reader(self, session: str, reader: str, became: str) -> bool:
        """Give a reader of a session another name ("": remove what that reader has said), and note that; -> whether
        there was one. Errors: DuplicateReader."""
        inside = "reader = ? AND recording IN (SELECT id FROM recordings WHERE session = ?)"
        with self.open() as db:
            db.execute("BEGIN IMMEDIATE")
            if became and db.execute(f"SELECT 1 FROM annotations WHERE {inside}", (became, session)).fetchone():
                raise DuplicateReader
            query = f"SELECT DISTINCT recording FROM annotations WHERE {inside}"
            recordings = [recording for (recording,) in db.execute(query, (reader, session))]
            if became:
                db.execute(f"UPDATE annotations SET reader = ? WHERE {inside}", (became, reader, session))
            else:
                db.execute(f"DELETE FROM annotations WHERE {inside}", (reader, session))
            if recordings:
                db.execute("INSERT INTO reader_changes VALUES (?, ?, ?, ?)", (session, time.time(), reader, became))
        if recordings and not became:
            self.clear([])  # also from the log of the database
        self.changes.add(*recordings)
        return bool(recordings)

    def reader_changes(self, session: str) -> list[Row]:
        """-> made, reader and became ("" for removed) of each change, the oldest first."""
        query = "SELECT made, reader, became FROM reader_changes WHERE session = ? ORDER BY made, rowid"
        return self.rows(query, session)

    def recording_readings(self, recording: str, round_: int) -> list[Row]:
        """-> as `readings`, of one recording and round."""
        return self.newest_readings("a.recording = ? AND a.round = ?", recording, round_)

    def readings(self, session: str) -> list[Row]:
        """-> the newest annotations of readers with a name in a session: recording, reader, round, revision, cycles.
        What cannot be read is left out."""
        return self.newest_readings("r.session = ?", session)

    def newest_readings(self, which: str, *values: Any) -> list[Row]:
        query = (
            "SELECT a.recording, a.reader, a.round, MAX(a.revision) AS revision, a.cycles FROM annotations a "
            f"JOIN recordings r ON r.id = a.recording WHERE {which} AND a.reader != '' "
            "GROUP BY a.recording, a.reader, a.round ORDER BY r.added, r.id, a.reader, a.round"
        )  # SQLite takes the other columns from the row of the largest revision
        read = [
            (row, stored_rows.try_read(stored_rows.read_marked, row["cycles"], self.label_set)[0])
            for row in self.rows(query, *values)
        ]
        return [{**row, "cycles": cycles} for row, cycles in read if cycles is not None]

    def revisions(self, recording: str, who: Who = NOBODY) -> list[Row]:
        """-> the saved states of an annotation that are kept and can be read, the newest first: revision, saved,
        cycles, events."""
        query = f"SELECT revision, saved, cycles, events FROM annotations WHERE {OF_READER} ORDER BY revision DESC"
        read = [
            (row, stored_rows.try_read(stored_rows.read_marked, row["cycles"], self.label_set)[0])
            for row in self.rows(query, recording, *who)
        ]
        return [
            {
                **row,
                "saved": stored_rows.finite_number(row["saved"]),
                "cycles": cycles,
                "events": stored_rows.try_read_events(row["events"])[0],
            }
            for row, cycles in read
            if cycles is not None
        ]


def run_statements(db: sqlite3.Connection, statements: str) -> None:
    """Statements one by one within the transaction that has begun, which `executescript` would end first."""
    for statement in filter(str.strip, statements.split(";")):
        db.execute(statement)


def readable_text(text: bytes) -> str:
    """Text of the database -> the same, with marks where it is damaged: one row must not cost the others."""
    return text.decode(errors="replace")


def refuse_links(folder: Path) -> None:
    """Errors: OSError for a link in the folder of a service, which may have come with somebody's recordings: what is
    written there, or read out to visitors, would be another file."""
    for inside, folders, files in os.walk(folder):
        for path in (Path(inside, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise OSError(
                    f"{path}: a link, which Rales never makes there; nothing in the folder was changed: remove it, or "
                    "choose another --folder"
                )


def damaged_store(folder: Path, what: object) -> OSError:
    return OSError(
        f"{folder / 'sessions.sqlite'}: {what}; nothing in the folder was changed: put a copy of that file back (first "
        "copy the whole folder and remove the -wal and -shm files beside it; the next start removes all sound that the "
        "copy does not know), move the whole folder away or choose another --folder"
    )


def sync_path(path: Path) -> None:
    """Wait until a file or folder is on the disk; some network disks cannot promise that of a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def remove_tree(folder: Path) -> bool:
    """Remove a folder and all in it, as far as that can be done -> whether it is gone; if not, the log says why."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if folder.is_symlink() or folder.exists():
            shutil.rmtree(folder)  # once more, for the reason
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s: %s", folder, error)
        return False
    return True
