"""A folder of this machine as a project: its recordings are opened in place, and leave with everything known of them.

No sound of the folder is copied: what is heard is decoded when somebody, or the model, asks for it, and the last few of
that are kept. Annotations stand beside, in the folder's `.rales`, and its own files are never changed.
"""

import asyncio
import hashlib
import json
import logging
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rales.audio import io
from rales.data.annotation_dialects import has_suffix
from rales.data.reader import list_files
from rales.data.recording_annotations import find_annotations, read_any_annotation
from rales.errors import FileProblem
from rales.evaluation.predictions import NOTICE
from rales.inference.prediction_writers import format_csv
from rales.typing import Row
from rales.web import cycle_edits, readers
from rales.web.store import Store

if TYPE_CHECKING:
    from rales.web.service import Service

DECODED = 32  # recordings whose decoded sound is kept
SOUND = ("audio.wav", "page.wav")
log = logging.getLogger(__name__)


class Project:
    """The folder that a service was opened on."""

    def __init__(self, folder: Path, service: "Service") -> None:
        self.folder, self.service = folder, service
        self.decoded: OrderedDict[str, None] = OrderedDict()
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        for row in service.store.rows("SELECT id FROM recordings WHERE linked != ''"):
            remove_sound(service.store, row["id"])  # what the service before had decoded

    def start(self) -> None:
        """Take in what is new in the folder, while the service works already."""
        self.loop = asyncio.get_running_loop()
        threading.Thread(target=self.take_in, daemon=True).start()

    def take_in(self) -> None:
        """Recordings of the folder that are not known yet become some of its session, with their annotations."""
        store = self.service.store
        try:
            session = self.open_session()
            known = {row["linked"] for row in store.rows("SELECT linked FROM recordings")}
            digests = {row["digest"]: row["path"] for row in store.rows("SELECT digest, path FROM recordings")}
            files = [file for file in list_files(self.folder) if has_suffix(file.name)]
            fresh = [file for file in files if file.relative_to(self.folder).as_posix() not in known]
            for file in fresh:
                if store.count() >= self.service.limits.recordings:
                    log.warning("%s: %d recordings are kept, the others are not taken", self.folder, store.count())
                    break
                self.take_file(session, file, digests)
            log.warning("%s: %d recordings, %d of them new", self.folder, len(files), len(fresh))
        except Exception:  # the service goes on with what it knows
            log.exception("%s: not all of it could be taken in", self.folder)

    def open_session(self) -> str:
        """-> the session of the folder: the first one there was, or a new one named as it."""
        known = self.service.store.sessions()
        return str(known[-1]["id"]) if known else self.service.store.new_session(self.folder.name[:120] or "Project")

    def take_file(self, session: str, file: Path, digests: dict[str, str]) -> None:
        """A file of the folder becomes a recording; `digests` holds the paths of those that are known."""
        linked = file.relative_to(self.folder).as_posix()
        path, original, notes = cycle_edits.relative_path(linked), None, list[str]()
        facts: Row = {"duration_s": 0.0, "rate_hz": 0, "channels": 0}
        try:
            info = io.read_audio_info(file)
            facts = {"duration_s": info.duration_s, "rate_hz": info.rate_hz, "channels": info.channels}
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            if digest in digests:
                notes.append(f"the same sound as {digests[digest]}")
            digests.setdefault(digest, path)
            original, note = self.read_original(file, info.duration_s)
            notes += note
        except (FileProblem, OSError, ValueError) as error:  # its turn with the model says what is wrong with it
            digest = ""
            log.warning("%s", error)
        recording = self.service.store.link_recording(
            session, path, linked, {**facts, "digest": digest, "notes": notes}, original
        )
        self.service.queue.add(recording)

    def read_original(self, file: Path, duration_s: float) -> tuple[cycle_edits.OriginalCycles | None, list[str]]:
        """A recording of the folder -> the cycles of its annotation, if it has one that says classes, and notes."""
        for annotation in find_annotations(file):
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

    def ensure_sound(self, recording: str, linked: str) -> None:
        """Have a recording of the folder decoded where it is not; from any thread but the service's own. Errors:
        ApiError."""
        store = self.service.store
        with self.lock:
            self.decoded[recording] = None
            self.decoded.move_to_end(recording)
            gone = [self.decoded.popitem(last=False)[0] for _ in range(len(self.decoded) - DECODED)]
        for each in gone:
            remove_sound(store, each)
        if all((store.place(recording) / name).is_file() for name in SOUND):
            return
        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(self.decode(recording, linked), self.loop).result()

    async def decode(self, recording: str, linked: str) -> None:
        place = self.service.store.place(recording)
        async with self.service.decoded_file(self.folder / linked, cycle_edits.recording_title(linked)) as decoded:
            place.mkdir(parents=True, exist_ok=True)
            for name in SOUND:
                (decoded / name).replace(place / name)
        row = self.service.store.recording(recording, self.service.models.default)
        if row and row["origin"] == "annotation":  # the model is to answer for these cycles
            lines = [f"{cycle['start_s']}\t{cycle['end_s']}\n" for cycle in row["original"] or []]
            (place / "audio.txt").write_text("".join(lines))


def remove_sound(store: Store, recording: str) -> None:
    for name in (*SOUND, "audio.txt"):
        (store.place(recording) / name).unlink(missing_ok=True)


# Out


def write_project(service: "Service", session: Row, out: Path) -> None:
    """A session -> a zip with a folder that `rales check` and `rales train` take: the sound, manifest.csv with the
    labels that stand, readers.csv, the history of every annotation and README.txt. Sound is as it came where it
    lies in the folder of the service, else as it was decoded."""
    tables, history, left_out = list[pd.DataFrame](), dict[str, Any](), list[str]()
    names = {"readme", "manifest", "readers", "history"}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for row in service.session_rows(session["id"]):
            sound = service.original_sound(row)
            title = cycle_edits.recording_title(row["path"])
            if sound is None:
                left_out.append(f"{title}: its sound is not there")
                continue
            stem, number = cycle_edits.safe_path(title), 2
            name = stem
            while name.lower() in names:
                name, number = f"{stem}_{number}", number + 1
            names.add(name.lower())
            file = name + (sound.suffix if row["linked"] else ".wav")
            archive.write(sound, file)
            history[file] = [
                {"reader": who["reader"], "round": who["round"], **each}
                for who in [{"reader": "", "round": 1}, *service.store.list_readers(row["id"])]
                for each in service.store.revisions(row["id"], readers.name_reader(who["reader"], who["round"]))
            ]
            usable = [line for line in service.lines(row) if not line["unusable"]]
            table = cycle_edits.make_cycle_table(name, file, usable, service.label_set)
            if len(table):
                tables.append(table.assign(**{part: row[part] for part in ("patient", "device", "location")}))
        if tables:
            archive.writestr("manifest.csv", format_csv(pd.concat(tables, ignore_index=True)))
        decided = readers.readers_table(service, session["id"])
        if len(decided):
            archive.writestr("readers.csv", format_csv(decided))
        archive.writestr("history.json", json.dumps({"notice": NOTICE, "recordings": history}, indent=1))
        archive.writestr("README.txt", describe_project(session["name"], len(history), left_out))


def describe_project(name: str, many: int, left_out: list[str]) -> str:
    lines = [f"Project: {name}", f"{NOTICE} Written by `rales serve`.", ""]
    lines += [
        "manifest.csv holds the cycles as they stand: `rales check manifest.csv`, `rales train --data manifest.csv`.",
        "Name the patients where their column is empty. `confirmed` says which labels a person has confirmed.",
        "readers.csv holds what each reader decided (`rales agreement readers.csv`), history.json all saved revisions.",
        "",
        f"Recordings: {many}",
    ]
    lines += ["", f"Left out ({len(left_out)}):", *left_out] if left_out else ["No recording is left out."]
    return "\n".join(lines) + "\n"
