"""A folder of this machine as a project: its recordings are opened in place, and leave with everything known of them.

No sound of the folder is copied: what is heard is decoded when somebody, or the model, asks for it, and the last few of
that are kept. Annotations stand beside, in the folder's `.rales`, and its own files are never changed.
"""

import hashlib
import json
import logging
import os
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rales.data.annotation_dialects import has_suffix
from rales.data.event_writers import format_events
from rales.data.reader import list_files
from rales.data.recording_annotations import find_annotations, read_any_annotation
from rales.errors import FileProblem
from rales.evaluation.predictions import NOTICE
from rales.files.csv_cells import one_line
from rales.inference.prediction_writers import format_csv
from rales.typing import Row
from rales.web import cycle_edits, event_marks, readers, recording_facts
from rales.web.decoded_sounds import remove_sound
from rales.web.security import ApiError
from rales.web.store import SOUND
from rales.web.stored_rows import LONGEST_FACTS

if TYPE_CHECKING:
    from rales.web.service import Service

CHANGED = (
    "its file holds another sound now, which is a recording of its own from the next start; remove this one, or put "
    "the file back"
)
log = logging.getLogger(__name__)


class Project:
    """The folder that a service was opened on."""

    def __init__(self, folder: Path, service: "Service") -> None:
        self.folder, self.service = folder, service
        self.taken: tuple[int, int] | None = None  # files that are taken in, of how many; None when that is over
        self.digests = dict[str, tuple[tuple[int, ...], str]]()  # file -> what changes with it, and its SHA-256
        self.claim_store(service.store.folder)

    def claim_store(self, store: Path) -> None:
        """Note whose labels a store holds, so that they never stand on the recordings of another folder. Errors: it is
        another one's."""
        folder, inside = self.folder.resolve(), store.resolve()
        own = os.path.relpath(folder, inside) if inside.is_relative_to(folder) else folder  # a folder may be moved
        note, own_bytes = store / "project", os.fsencode(own)
        if not note.exists():
            note.write_bytes(own_bytes)
        if (found := note.read_bytes()) != own_bytes:
            raise ValueError(
                f"{store}: holds what was said of the recordings in {os.fsdecode(found)}, not of those in "
                f"{self.folder}; choose another --folder, or, if that folder was moved here, remove {note}"
            )

    def start(self) -> None:
        """Take in what is new in the folder, while the service works already."""
        threading.Thread(target=self.take_in, daemon=True).start()

    def take_in(self) -> None:
        """Recordings of the folder that are not known yet become some of its session, with their annotations."""
        store = self.service.store
        try:
            session = self.open_session()
            files = [file for file in list_files(self.folder) if has_suffix(file.name)]
            with store.open() as held:  # the last one that closes empties the log, which waits for the disk
                held.execute("SELECT 1 FROM sessions").fetchone()
                new = self.take_files(session, files)
            log.warning("%s: %d recordings, %d of them new", self.folder, len(files), new)
        except Exception:  # the service goes on with what it knows
            if not self.service.queue.ended:
                log.exception("%s: not all of it could be taken in", self.folder)
        finally:
            self.taken = None
            store.changes.add()  # so that every page hears of it

    def take_files(self, session: str, files: list[Path]) -> int:
        """Files of the folder -> how many were new and are in the session now, as far as there is room for them."""
        store, said, new = self.service.store, self.read_facts(), 0
        rows = store.rows("SELECT linked, digest, path FROM recordings")
        known = {(row["linked"], row["digest"]) for row in rows}
        paths = {row["digest"]: row["path"] for row in rows}

        for number, file in enumerate(files):
            self.taken = number, len(files)
            linked = file.relative_to(self.folder).as_posix()
            try:
                if (linked, self.digest_of(linked)) in known:
                    continue
                if store.count() >= self.service.limits.recordings:
                    log.warning("%s: %d recordings are kept, the others are not taken", self.folder, store.count())
                    break
                self.take_file(session, linked, paths, said.get(linked, {}))
                new += 1
            except (ApiError, OSError, ValueError) as error:  # the next file must have its turn
                log.warning("%s: not taken (%s)", one_line(str(file)), one_line(describe_problem(error)))
        return new

    def digest_of(self, linked: str) -> str:
        """A file of the folder -> the SHA-256 of its content, read anew where it has changed. Errors: OSError."""
        file = self.folder / linked
        stat = file.stat()
        stamp = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino  # copies may keep size and time
        if linked not in self.digests or self.digests[linked][0] != stamp:
            with file.open("rb") as content:
                self.digests[linked] = stamp, hashlib.file_digest(content, "sha256").hexdigest()
        return self.digests[linked][1]

    def is_changed(self, row: Row) -> bool:
        """Whether the file of a recording (a row of the store) was seen to hold another sound than what was heard."""
        return row["linked"] in self.digests and self.digests[row["linked"]][1] != row["digest"]

    def open_session(self) -> str:
        """-> the session of the folder: the first one there was, or a new one named as it."""
        known = self.service.store.sessions()
        return str(known[-1]["id"]) if known else self.service.store.new_session(self.folder.name[:120] or "Project")

    def read_facts(self) -> dict[str, Row]:
        """-> what the folder's table says of its recordings; nothing where it cannot be read, which the log says."""
        try:
            return recording_facts.read_table(self.folder)
        except (OSError, ValueError) as error:
            log.warning("%s: %s", one_line(str(self.folder)), one_line(describe_problem(error)))
            return {}

    def take_file(self, session: str, linked: str, paths: dict[str, str], said: Row) -> None:
        """A file of the folder becomes a recording; `paths` holds those of the digests that are known, `said` are its
        facts. Errors: ApiError where the decoder ended, ValueError for a name that is no Unicode."""
        linked.encode()
        path, digest, original, notes = cycle_edits.relative_path(linked), self.digest_of(linked), None, list[str]()
        facts: Row = {"duration_s": 0.0, "rate_hz": 0, "channels": 0}
        try:
            facts = self.service.wait(
                self.service.read_sound_facts(self.folder / linked, cycle_edits.recording_title(linked))
            )
            notes += facts["notes"]
            if digest in paths:
                notes.append(f"the same sound as {paths[digest]}")
            try:
                original, note = self.read_original(self.folder / linked, facts["duration_s"])
                notes += note
            except (FileProblem, OSError) as error:
                notes.append(f"annotation: {describe_problem(error)}; not used")
        except ApiError as error:  # its turn with the model says what is wrong with it
            if error.status == 503:
                raise
            log.warning("%s", one_line(error.sentence))
        try:
            said = recording_facts.only_said(cycle_edits.recording_stem(path), recording_facts.check_facts(said))
        except ApiError as error:
            said, notes = {}, [*notes, f"{recording_facts.TABLE}: {error.sentence}; not used"]
        facts = {**facts, "digest": digest, "notes": notes, "said": said}
        self.service.add_to_queue(self.service.store.link_recording(session, path, linked, facts, original))
        paths.setdefault(digest, path)

    def read_original(self, file: Path, duration_s: float) -> tuple[cycle_edits.OriginalCycles | None, list[str]]:
        """A recording of the folder -> the cycles of its annotation, if it has one that says classes, and notes."""
        for annotation in find_annotations(file):
            if annotation.stat().st_size > self.service.limits.annotation_bytes:
                return None, [
                    f"{annotation.name}: larger than {self.service.limits.annotation_bytes // 1024} KiB; not used"
                ]
            found = read_any_annotation(annotation, duration_s, annotation.name, self.service.label_set)
            if found.passed_over or found.problems:
                return None, [found.problems[0] if found.problems else f"{annotation.name}: {found.passed_over}"]
            came, other = cycle_edits.original_of_annotation(found.cycles, duration_s, self.service.label_set)
            try:
                cycle_edits.check_cycles(came.cycles, duration_s, self.service.limits.cycles)
            except ValueError as error:
                return None, [f"{annotation.name}: {error}"]
            if not found.labelled or other:
                return None, [f"{annotation.name}: {other or 'no classes in it'}; not used"]
            return came, [note for note in [found.note(annotation.name)] if note]
        return None, []

    def check_unchanged(self, row: Row) -> None:
        """Errors: ApiError where the file of a recording (a row of the store) holds another sound, or cannot be read;
        then nothing that was decoded of it is heard."""
        try:
            self.digest_of(row["linked"])
        except OSError as error:
            raise ApiError(404, f"{row['name']}: cannot be read ({error.strerror})") from error
        if self.is_changed(row):
            remove_sound(self.service.store, row)
            raise ApiError(404, f"{row['name']}: {CHANGED}")


def describe_problem(error: Exception) -> str:
    """What was wrong with a file of the folder or beside it -> a sentence in which no visitor reads where it lies."""
    if isinstance(error, ApiError):
        return error.sentence
    if isinstance(error, FileProblem):
        return error.sentence(Path(error.path).name)
    if isinstance(error, UnicodeEncodeError):
        return "its name is no Unicode; rename it"
    return (isinstance(error, OSError) and error.strerror) or str(error)


# Out


def write_project(service: "Service", session: Row, out: Path) -> None:
    """A session -> a zip with a folder that `rales check` and `rales train` take: the sound, manifest.csv with the
    labels that stand, recordings.csv (patients, sites, devices, notes), files of events, readers.csv, the history of
    every annotation and README.txt. Sound is as it came."""
    tables, history, left_out = list[pd.DataFrame](), dict[str, Any](), list[str]()
    facts, names = list[Row](), {"readme", "manifest", "recordings", "readers", "history"}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for row in service.session_rows(session["id"]):
            sound, title = service.original_sound(row), cycle_edits.recording_title(row["path"])
            if sound is not None and row["linked"] and service.project:
                service.project.digest_of(row["linked"])  # as it is now
            if sound is None or service.missing_sound(row):
                left_out.append(f"{title}: {service.missing_sound(row)}")
                continue

            # Two recordings may share a name, and some systems tell no case apart
            stem, number = cycle_edits.safe_path(title), 2
            name = stem
            while name.lower() in names:
                name, number = f"{stem}_{number}", number + 1
            names.add(name.lower())
            came = row["linked"] or (row["path"] if sound.name not in SOUND else "")
            file = name + (Path(came).suffix if has_suffix(came) else ".wav")
            archive.write(sound, file)

            history[file] = [
                {"reader": who["reader"], "round": who["round"], **each}
                for who in [{"reader": "", "round": 1}, *service.store.list_readers(row["id"])]
                for each in service.revisions(row["id"], readers.name_reader(who["reader"], who["round"]))
            ]
            if row["events"]:
                marked = event_marks.marked_of(row)._replace(file=Path(file).name)
                archive.writestr(f"{name}_events.aoef.json", format_events(marked, "aoef"))

            usable = [line for line in service.lines(row) if not line["unusable"]]
            table = cycle_edits.make_cycle_table({**row, "name": name, "path": file}, usable, service.label_set)
            if len(table):
                tables.append(table)
            facts.append({"path": file, **{part: row[part] for part in LONGEST_FACTS}})

        if tables:
            archive.writestr("manifest.csv", format_csv(pd.concat(tables, ignore_index=True)))
        if facts:
            archive.writestr(recording_facts.TABLE, format_csv(pd.DataFrame(facts)))
        decided = readers.readers_table(service, session["id"])
        if len(decided):
            archive.writestr("readers.csv", format_csv(decided))
        changes = service.store.reader_changes(session["id"])
        told = {"notice": NOTICE, "readers_changed": changes, "recordings": history}
        archive.writestr("history.json", json.dumps(told, indent=1))
        archive.writestr("README.txt", describe_project(session["name"], len(history), left_out))


def describe_project(name: str, many: int, left_out: list[str]) -> str:
    lines = [f"Project: {name}", f"{NOTICE} Written by `rales serve`.", ""]
    lines += [
        "manifest.csv holds the cycles as they stand: `rales check manifest.csv`, `rales train --data manifest.csv`.",
        "Name the patients where their column is empty. `confirmed` says which labels a person has confirmed.",
        "recordings.csv holds patient, location, device and note of each recording; `rales serve FOLDER` takes them.",
        "readers.csv holds what each reader decided (`rales agreement readers.csv`), history.json all revisions;",
        "_events.aoef.json beside a recording the events that stand.",
        "",
        f"Recordings: {many}",
    ]
    lines += ["", f"Left out ({len(left_out)}):", *left_out] if left_out else ["No recording is left out."]
    return "\n".join(lines) + "\n"
