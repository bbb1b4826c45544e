"""The service behind the routes, without HTTP: stores uploads, runs models, keeps annotations."""

import asyncio
import errno
import hashlib
import logging
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import Timeout

from rales.data import event_readers
from rales.data.annotations import read_annotation
from rales.errors import FileProblem
from rales.evaluation import conformal, recordings
from rales.files.atomic import Lock, NoLocks, make_folder
from rales.inference.predictor import Predictor
from rales.typing import Row
from rales.web import (
    cycle_edits,
    event_marks,
    example,
    model_answers,
    platform_checks,
    readers,
    recording_facts,
    stored_rows,
)
from rales.web.decoded_sounds import DecodedSounds
from rales.web.decoding import Decoder, DecoderRestarted, Undecodable
from rales.web.job_queue import JobQueue, QueueFull
from rales.web.learning import Learning
from rales.web.live import LiveRecordings
from rales.web.model_registry import ModelRegistry
from rales.web.projects import CHANGED, Project
from rales.web.security import ApiError
from rales.web.session_list import SessionList
from rales.web.settings import Settings
from rales.web.store import (
    NOBODY,
    DuplicateRecording,
    LeftoverSound,
    RevisionConflict,
    Store,
    Who,
    refuse_links,
    remove_tree,
)

log = logging.getLogger(__name__)
NO_SOUND = "its sound is missing in the service's folder; remove the recording and send it again"
NO_FILE = "its sound is missing in the folder; put the file back, or remove the recording"


class ReadEvents(NamedTuple):
    """What a file of events holds: its form, the events as they are kept, and notes on what was left out."""

    form: str
    events: list[Row]
    notes: list[str]


class Service:
    """The parts of one service, and what takes more than one of them."""

    def __init__(self, settings: Settings) -> None:
        self.limits = settings.limits
        self.lock = lock_service_folder(settings.folder)  # before anything in it is looked at
        self.models = ModelRegistry(settings.model, settings.runs, settings.folder / "models")
        self.label_set = self.models.label_set(self.models.default)  # a model that cannot be loaded is said at once
        self.store = Store(settings.folder, self.label_set)
        self.arriving = settings.folder / "arriving"
        self.live = LiveRecordings(settings.folder / "live", settings.limits)
        self.sweep()
        self.runs = settings.runs
        self.project = Project(settings.project, self) if settings.project else None
        self.sounds = DecodedSounds(self)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks = list[asyncio.Task[None]]()
        self.learning = Learning(self)
        self.example_folder = settings.folder / "example"
        self.example_rows: list[Row] | None = None
        self.decoder = Decoder(settings.limits)
        if weaker := platform_checks.find_weaker_promises():
            log.warning("%s", weaker)
        self.queue = JobQueue(self.score, settings.limits.waiting)
        self.list = SessionList(self)

    def sweep(self) -> None:
        """Remove what a service that was ended has left: uploads, and the sound of removed recordings."""
        for left in (self.arriving, *self.store.unfinished_reports()):
            remove_tree(left)
        self.arriving.mkdir(exist_ok=True)
        self.live.sweep([session["id"] for session in self.store.sessions()])
        try:
            self.store.sweep()
        except LeftoverSound as error:
            log.warning("%s", error)

    async def start(self) -> None:
        """Begin to work; recordings that waited when the service ended go on waiting."""
        self.loop = asyncio.get_running_loop()
        for recording in self.store.waiting():
            self.queue.add(recording)
        if self.project:
            self.project.start()  # the model's thread asks it for sound
        self.queue.thread.start()
        self.tasks = [asyncio.create_task(self.decoder.warm()), asyncio.create_task(self.sounds.sweep())]

    async def stop(self) -> None:
        await asyncio.to_thread(self.learning.stop)
        await asyncio.to_thread(self.queue.stop)  # the job under way may wait for a sound that is decoded here
        for task in self.tasks:
            task.cancel()
        await asyncio.to_thread(self.sounds.trim, kept_s=0.0, share=0.0)
        await self.decoder.stop()
        self.lock.release()

    # Uploads

    @asynccontextmanager
    async def arrived(self, path: str, sound: BinaryIO, annotation: BinaryIO | None) -> AsyncIterator[tuple[Path, Row]]:
        """Uploaded files and their path (see `cycle_edits.relative_path`) -> (folder with the file, audio.wav, page.wav
        and a checked audio.txt, facts), removed afterwards."""
        place = self.arriving / secrets.token_hex(8)
        try:
            upload = place / f"upload{cycle_edits.decoder_suffix(path)}"
            digest = await asyncio.to_thread(self.write, upload, sound, annotation)
            facts = await self.decode(upload, cycle_edits.recording_title(path))
            yield place, {**facts, "digest": digest}
        finally:
            await asyncio.to_thread(remove_tree, place)

    def write(self, upload: Path, sound: BinaryIO, annotation: BinaryIO | None) -> str:
        """Uploaded files -> a new folder with the file `upload` and, where given, audio.txt; -> digest of the sound."""
        place = upload.parent
        place.mkdir()
        with upload.open("wb") as file:
            shutil.copyfileobj(sound, file)
        if annotation is not None:
            text = annotation.read(self.limits.annotation_bytes + 1)
            if len(text) > self.limits.annotation_bytes:
                raise ApiError(413, f"the annotation is larger than {self.limits.annotation_bytes // 1024} KiB")
            (place / "audio.txt").write_bytes(text)
        with upload.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def decode(self, upload: Path, name: str) -> Row:
        """A file of `write` -> its facts, with what `beside` says of its text; then its folder holds audio.wav and
        page.wav too and, unless it was passed over, a checked audio.txt."""
        place = upload.parent
        facts = await self.decode_sound(upload, place, name)
        note, beside = self.beside(place / "audio.txt", name, facts["duration_s"])
        return {**facts, **beside, "notes": [*facts["notes"], *([note] if note else [])]}

    async def decode_sound(self, sound: Path, out: Path | None, name: str) -> Row:
        """A file -> its facts; then `out`, where one is given, holds audio.wav and page.wav. Errors: ApiError."""
        try:
            return await self.decoder.decode(sound, out)
        except DecoderRestarted as error:
            raise ApiError(503, f"{name}: {error}", retry_after="5") from error
        except Undecodable as error:
            raise ApiError(413 if error.large else 422, f"{name}: {error}") from error

    async def read_sound_facts(self, sound: Path, name: str) -> Row:
        """A file of this machine -> its facts, without sound. Errors: ApiError."""
        return await self.decode_sound(sound, None, name)

    @asynccontextmanager
    async def decoded_file(self, sound: Path, name: str) -> AsyncIterator[Path]:
        """A file of this machine -> a folder with audio.wav and page.wav, removed afterwards. Errors: ApiError."""
        place = self.arriving / secrets.token_hex(8)
        try:
            place.mkdir()
            await self.decode_sound(sound, place, name)
            yield place
        finally:
            await asyncio.to_thread(remove_tree, place)

    def ensure_sound(self, recording: str) -> None:
        """Have the sound of a recording decoded; from any thread but the service's own. Errors: ApiError."""
        for row in self.store.rows("SELECT * FROM recordings WHERE id = ?", recording):
            self.sounds.ensure(row)

    def wait(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """What the service's own thread makes of something, asked for in another one."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result()

    def original_sound(self, row: Row) -> Path | None:
        """A row of the store -> its sound: the file of the project, the file that came, of services before what they
        decoded of it; None if it is gone."""
        if row["linked"]:
            sound = self.project.folder / row["linked"] if self.project else None
            return sound if sound is not None and sound.is_file() else None
        if self.store.has_upload(row):
            return Path(self.store.upload(row))
        return self.store.place(row["id"]) / "audio.wav" if self.store.has_decoded(row["id"]) else None

    def missing_sound(self, row: Row) -> str:
        """A row of the store -> why its sound cannot be heard, "" where it can."""
        there = self.original_sound(row) is not None if row["linked"] else self.store.has_upload(row)
        if not there and (row["linked"] or not self.store.has_decoded(row["id"])):
            return NO_FILE if row["linked"] else NO_SOUND
        return CHANGED if self.project and self.project.is_changed(row) else ""

    def beside(self, text: Path, name: str, duration_s: float) -> tuple[str, Row]:
        """The text that came with a recording, if one did -> a note on it or "", and `annotated`, its cycles or None,
        `classes`, whether it has their classes. What `rales predict` passes over is removed. Errors: ApiError, for a
        fault."""
        if not text.exists():
            return "", {"annotated": None, "classes": False}
        called = f"annotation of {name}"
        found = read_annotation(text, duration_s, called, self.label_set, name)
        if found.passed_over:
            text.unlink()
            return f"{called}: {found.passed_over}; passed over", {"annotated": None, "classes": False}
        if found.problems:
            raise ApiError(422, found.problems[0])
        if len(found.cycles) > self.limits.cycles:
            raise ApiError(413, f"{called}: {len(found.cycles)} cycles, at most {self.limits.cycles} are taken")
        return found.note(called), {"annotated": found.cycles, "classes": found.labelled}

    def read_cycles(self, row: Row, name: str, text: str) -> Row:
        """A row of `known`, and an annotation of it -> cycles as they would stand, and notes. Errors: ApiError for what
        would not be an annotation here."""
        content = text.encode()
        if len(content) > self.limits.annotation_bytes:
            raise ApiError(413, f"{name}: larger than {self.limits.annotation_bytes // 1024} KiB")
        place = self.arriving / secrets.token_hex(8)
        place.mkdir()
        try:
            (place / "audio.txt").write_bytes(content)
            note, found = self.beside(place / "audio.txt", row["name"], row["duration_s"])
        finally:
            remove_tree(place)
        if found["annotated"] is None:
            raise ApiError(422, note)
        came, other = cycle_edits.original_of_annotation(found["annotated"], row["duration_s"], self.label_set)
        if other or not found["classes"]:
            raise ApiError(422, f"{name}: {other or 'it says times and no classes'}; not used")
        try:
            cycles = cycle_edits.check_cycles(came.cycles, row["duration_s"], self.limits.cycles)
        except ValueError as error:
            raise ApiError(422, f"{name}: {error}") from error
        return {"cycles": cycles, "notes": [note] if note else []}

    def read_events(self, name: str, text: str, duration_s: float, path: str) -> ReadEvents:
        """A file of events, what people know it by, and its recording -> what it holds. Errors: ApiError."""
        found = event_readers.parse_events(text, name, duration_s, cycle_edits.base_name(path))
        if found.problems:
            raise ApiError(422, found.problems[0])
        try:
            rows = [event._asdict() for event in found.events]
            return ReadEvents(found.form, event_marks.check_events(rows, duration_s, self.limits.events), found.notes)
        except ValueError as error:
            raise ApiError(422, f"{name}: {error}") from error

    def with_events(self, path: str, facts: Row, events: BinaryIO | None) -> Row:
        """Facts of an uploaded recording, and the file of events that came with it -> the facts with `events`. Errors:
        ApiError."""
        if events is None:
            return facts
        name = f"events of {cycle_edits.recording_title(path)}"
        content = events.read(self.limits.body_bytes + 1)
        if len(content) > self.limits.body_bytes:
            raise ApiError(413, f"{name}: larger than {self.limits.body_bytes // 1024} KiB")
        try:
            text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise ApiError(422, f"{name}: not a UTF-8 text file (byte {error.start + 1} cannot be read)") from error
        found = self.read_events(name, text, facts["duration_s"], path)
        return {**facts, "events": found.events, "notes": [*facts["notes"], *found.notes]}

    def keep(self, session: str, path: str, facts: Row, place: Path, *, only_new: bool = False) -> str:
        """A decoded folder becomes a recording of a session and waits for the model; -> its id.

        What a person could not save again is refused here, where it can still be mended. Errors: ApiError.
        """
        name, duration_s = cycle_edits.recording_title(path), facts["duration_s"]
        if self.store.count() >= self.limits.recordings:
            raise ApiError(507, f"{self.limits.recordings} recordings are kept already; remove old sessions")
        if duration_s < cycle_edits.SHORTEST_S:
            raise ApiError(422, f"{name}: lasts {duration_s:.3f} s, expected {cycle_edits.SHORTEST_S} s or more")
        original = None
        if facts["annotated"] is not None:
            came, other = cycle_edits.original_of_annotation(facts["annotated"], duration_s, self.label_set)
            try:
                cycle_edits.check_cycles(came.cycles, duration_s, self.limits.cycles)
            except ValueError as error:
                raise ApiError(422, f"annotation of {name}: {error}") from error
            original = came if facts["classes"] and not other else None  # else the model says of which class they are
            if facts["classes"] and other:
                facts = {**facts, "notes": [*facts["notes"], f"annotation of {name}: {other}; its times are used"]}
        try:
            recording = self.store.new_recording(session, path, facts, place, original, only_new=only_new)
        except DuplicateRecording as error:
            again = "; to use this annotation, remove the recording there and send both again"
            more = again if facts["annotated"] is not None else ""
            raise ApiError(409, f"{name}: the same recording is in the list already{more}") from error
        self.sounds.use(recording)
        self.add_to_queue(recording)
        return recording

    def add_to_queue(self, recording: str) -> None:
        """A recording waits for the model, which its line in the list says."""
        self.queue.add(recording)
        self.store.changes.add(recording)

    def judge_live(self, live: str) -> Row:
        """-> `LiveRecordings.judge` with the default model; done in the model's thread. Errors: ApiError."""
        return self.live.judge(live, self.session_model(self.models.default))

    async def keep_live(self, live: str, name: str) -> str:
        """An unfinished recording becomes one of its session, as if its file had been uploaded; -> its id. Errors:
        ApiError; it is then still there."""
        ended = await asyncio.to_thread(self.live.end, live)
        path = cycle_edits.relative_path(f"{name or ended.name}.wav")
        try:
            with ended.sound.open("rb") as sound:
                async with self.arrived(path, sound, None) as (place, facts):
                    recording = await asyncio.to_thread(self.keep, ended.session, path, facts, place)
        except BaseException:
            ended.ended = False
            raise
        await asyncio.to_thread(self.live.discard, live)
        return recording

    # The model

    async def answered(self, job: Callable[[], Any], sound: Path, name: str) -> Any:
        """What the model's thread makes of a job about the recording `name`. Errors: ApiError, whatever went wrong."""
        try:
            future = self.queue.ask(job)
        except QueueFull as error:
            raise ApiError(503, str(error), retry_after="5") from error
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
            raise ApiError(503, "the service ends; ask again when it runs", retry_after="5") from None
        except ApiError:  # what is wrong with a file of the project
            raise
        except Exception as error:
            if is_full(error):
                raise
            raise describe_failure(error, sound, name) from error

    def model_name(self, name: str | None) -> str:
        try:
            return self.models.known(name)
        except KeyError as error:
            raise ApiError(422, str(error.args[0])) from error

    def score(self, recording: str) -> None:
        """Have the default model answer for a recording; what goes wrong is kept with it."""
        row = self.store.recording(recording, self.models.default)
        if row is None:
            return
        try:
            self.predict(row, self.models.default)
            self.store.mark(recording, "ready")
        except ApiError as error:  # what is wrong with a file of the project
            if error.status == 503:  # with the decoder instead: it goes on waiting, for the next start
                log.warning("%s", error.sentence)
            else:
                self.store.mark(recording, "failed", error.sentence[:500])
        except Exception as error:  # the next recording must have its turn
            if self.queue.ended:  # with it ended what was asked for; it goes on waiting
                return
            sound = self.store.place(recording) / "audio.wav"
            self.store.mark(recording, "failed", describe_failure(error, sound, row["name"]).sentence[:500])

    def predict(self, row: Row, model: str) -> list[Row]:
        """Have a model answer for the cycles of a recording (a row of the store), and keep that; what the default model
        says first of one without an annotation are the cycles it begins with. Done in the model's thread."""
        self.ensure_sound(row["id"])
        sound = self.store.place(row["id"]) / "audio.wav"
        rows = model_answers.predict_file(self.session_model(model), sound, row["name"])
        rows = [cycle_edits.in_milliseconds(one, row["duration_s"]) for one in rows]
        for one in rows:
            if not stored_rows.is_label(one.get("true_label"), self.label_set):
                one["true_label"] = None
        if model == self.models.default:
            original = cycle_edits.original_of_predictions(rows, row["duration_s"])
            self.store.keep_original(row["id"], original, anew=row["original_lost"])
        self.store.keep_scores(row["id"], model, rows)
        return rows

    def score_spans(self, recording: str, model: str, spans: list[model_answers.Span]) -> list[Row]:
        """Have a model answer for stretches of a recording, and keep that; done in the model's thread."""
        self.ensure_sound(recording)
        sound = self.store.place(recording) / "audio.wav"
        name = self.store.rows("SELECT name FROM recordings WHERE id = ?", recording)[0]["name"]
        rows = model_answers.score_spans(self.session_model(model), sound, spans, str(name))
        known = {cycle_edits.row_times(row): row for row in [*self.scores(recording).get(model, []), *rows]}
        self.store.keep_scores(recording, model, list(known.values()))
        return rows

    def why(self, recording: str, model: str, span: model_answers.Span, label: str | None) -> Row:
        """Why a model calls a stretch what it does; done in the model's thread."""
        self.ensure_sound(recording)
        sound = self.place(recording) / "audio.wav"
        return model_answers.explain_span(self.session_model(model), sound, span, label)

    def example(self) -> list[Row]:
        """-> what the default model says of the example, which is made at first; done in the model's thread."""
        if self.example_rows is None:
            example.write_example(self.example_folder)
            sound = self.example_folder / "audio.wav"
            rows = model_answers.predict_file(self.models.model(self.models.default), sound, example.NAME)
            self.example_rows = [cycle_edits.in_milliseconds(row, example.DURATION_S) for row in rows]
        return self.example_rows

    def session_model(self, name: str) -> Predictor:
        """Name -> the model, to answer for recordings of sessions. ValueError where it tells others apart than the
        default model, since its labels would be read as some of that one's."""
        if self.models.label_set(name) != self.label_set:
            raise ValueError(
                f"{name} tells {', '.join(self.models.label_set(name).classes)} apart, these sessions have "
                f"{', '.join(self.label_set.classes)}; serve it by itself, with a --folder of its own"
            )
        return self.models.model(name)

    # What people say

    def annotate(
        self,
        recording: str,
        given: list[Row],
        base: int | None = None,
        marked: list[Row] | None = None,
        who: Who = NOBODY,
    ) -> Row:
        """Cycles and events as a visitor sent them (None: the events that stand) become the next revision of a
        reader's; -> revision, saved. Errors: ApiError."""
        row = self.known(recording)
        readers.check_room(self.store, row, who, self.limits.readers)
        try:
            cycles = cycle_edits.check_cycles(given, row["duration_s"], self.limits.cycles)
            cycles = cycle_edits.check_labels(cycles, self.label_set)
            events = None if marked is None else event_marks.check_events(marked, row["duration_s"], self.limits.events)
        except ValueError as error:
            raise ApiError(422, str(error)) from error
        try:
            return self.store.annotate(recording, cycles, base, events, who)
        except RevisionConflict as stale:
            raise ApiError(
                409,
                f"{row['name']}: changed elsewhere since revision {base}, revision {stale.last} stands now; look at it "
                "and send your cycles again with that one as base, or take it",
            ) from stale

    def revisions(self, recording: str, who: Who = NOBODY) -> list[Row]:
        """-> the states of a recording's annotation that can be restored, the newest first, each with its `cycles` and
        `events`; 0, the last, is what the model said first or the annotation that came along, of a reader the cycles
        without labels. Errors: ApiError."""
        row = self.known(recording)
        original, events = row["original"], stored_rows.try_read_events(row["first_events"])[0]
        if who.reader and original is not None:
            original, events = readers.without_labels(original, self.label_set), []
        first = {"revision": 0, "saved": None, "cycles": original, "events": events}
        return [*self.store.revisions(recording, who), *([first] if original is not None else [])]

    def restore(self, recording: str, revision: int, who: Who = NOBODY) -> Row:
        """An earlier state becomes the next revision; -> revision, saved. Errors: ApiError."""
        readers.check_room(self.store, self.known(recording), who, self.limits.readers)
        for one in self.revisions(recording, who):
            if one["revision"] == revision:
                return self.store.annotate(recording, one["cycles"], events=one["events"], who=who)
        raise ApiError(
            404, f"no revision {revision} is kept; GET /recordings/{recording}/revisions lists those that are"
        )

    # What the page shows

    def place(self, recording: str) -> Path:
        """-> the folder of the sound of a recording, or of the example."""
        return self.example_folder if recording == example.ID else self.store.place(recording)

    def scores(self, recording: str) -> dict[str, list[Row]]:
        """-> model -> its rows, without those of a model that has changed since."""
        found = self.store.scores(recording)
        return {model: row["cycles"] for model, row in found.items() if row["made"] >= self.models.changed(model)}

    def known(self, recording: str, who: Who = NOBODY) -> Row:
        """-> a recording with its cycles as they stand (see `standing`), or as a reader has them. Errors: ApiError."""
        row = self.store.recording(recording, self.models.default)
        if row is None:
            raise ApiError(404, "no such recording; it may have been removed")
        standing = self.standing(row)
        own = self.store.recording(recording, self.models.default, who) if who.reader else None
        return standing if own is None else readers.as_reader(standing, own, self.label_set)

    def listed_of(self, recordings: Sequence[str], who: Who = NOBODY) -> list[Row]:
        """-> the lines of recordings in the list, of a reader as that one has it; none of one that has been removed."""
        line = self.reader_facts if who.reader else self.facts
        rows = [self.standing(row) for row in self.store.recordings_of(recordings, self.models.default).values()]
        if who.reader:
            own = self.store.recordings_of(recordings, self.models.default, who)
            rows = [readers.as_reader(row, own.get(row["id"], {}), self.label_set) for row in rows]
        return [line(row) for row in rows]

    def session_rows(self, session: str, who: Who = NOBODY) -> list[Row]:
        """-> the recordings of a session as `known` has them."""
        rows = [self.standing(row) for row in self.store.recordings(session, self.models.default)]
        if not who.reader:
            return rows
        own = {row["id"]: row for row in self.store.recordings(session, self.models.default, who)}
        return [readers.as_reader(row, own.get(row["id"], {}), self.label_set) for row in rows]

    def standing(self, row: Row) -> Row:
        """A row of the store -> the same with `scored`, the default model's rows, `cycles` as they stand (saved by a
        person, else those it began with), `source`: person, annotation, segment or window, `notes`, and what
        model_answers.quality_of says."""
        current = row["made"] is not None and row["made"] >= self.models.changed(self.models.default)
        cycles, source = row["saved"], "person"
        if row["unreadable"]:
            cycles, source = [], ""
        elif cycles is None:
            cycles, source = row["original"] or [], row["origin"] or ""
        scored = row["scored"] if current else []
        if missing := self.missing_sound(row):
            row = {**row, "status": "failed", "problem": missing}
        said = {"notes": self.store.notes(row["id"]), **model_answers.quality_of(scored)}
        about = recording_facts.known_facts(row)
        annotated = row["original"] or [] if row["origin"] == "annotation" else []
        return {**row, "scored": scored, "cycles": cycles, "source": source, "annotated": annotated, **about, **said}

    def sound(self, recording: str) -> Path:
        """-> what the browser plays of a recording. Errors: ApiError."""
        row = self.known(recording)
        if missing := self.missing_sound(row):
            raise ApiError(404, f"{row['name']}: {missing}")
        self.ensure_sound(recording)
        return self.store.place(recording) / "page.wav"

    def picture(self, recording: str) -> model_answers.LogmelPicture:
        """-> `model_answers.render_logmel` of a recording. Errors: ApiError."""
        sound = self.sound(recording)
        try:
            return model_answers.render_logmel(sound)
        except Exception as error:
            raise describe_failure(error, sound, self.known(recording)["name"]) from error

    def line_of(self, recording: str, who: Who = NOBODY) -> Row:
        """-> a recording's line in the list. Errors: ApiError."""
        row = self.known(recording, who)
        return self.reader_facts(row) if who.reader else self.facts(row)

    def reader_facts(self, row: Row) -> Row:
        """A row of `readers.as_reader` -> its line in that reader's list."""
        return readers.blind_facts(self.facts(row), row, self.label_set)

    def facts(self, row: Row) -> Row:
        """A row of `standing` -> its line in the list."""
        lines = self.lines(row)
        open_lines = [line for line in lines if line["model_label"] is not None and not line["confirmed"]]
        doubts = [1 - cycle_edits.certainty(line, self.label_set) for line in open_lines]
        return {
            **{name: row[name] for name in ("id", "name", "path", "duration_s", "status", "problem", "revision")},
            "changed": row["changed"],
            **{name: row[name] for name in ("patient", "location", "device")},
            "reviewed": bool(row["reviewed"]),
            "cycles": len(row["cycles"]),
            "confirmed": sum(bool(cycle["confirmed"]) for cycle in row["cycles"]),
            "answers": self.answer_recording(lines),
            "turn": self.queue.turns.get(row["id"]),
            "edited": row["revision"] > 0,
            "findings": self.count_findings(row["cycles"]),
            "uncertainty": max(doubts, default=None),
            "ambiguous": sum(conformal.has_several_labels(line["prediction_set"]) for line in open_lines),
            **{name: row[name] for name in ("notes", "judged", "quality", "quality_reason")},
        }

    def answer_recording(self, lines: list[Row]) -> dict[str, float] | None:
        """What `lines` gives of a recording -> the probability that it holds anything abnormal, any crackle, any
        wheeze, from those of its cycles; None where none was judged or the classes are others."""
        judged = [line for line in lines if line["model_label"] is not None and not line["unusable"]]
        if not judged or not self.label_set.is_icbhi:
            return None
        found = {}
        for finding, classes in recordings.FINDINGS.items():
            probabilities = [sum(line[f"p_{name}"] for name in classes) for line in judged]
            found[finding] = recordings.pool_probabilities(probabilities, self.models.pooling.get(finding))
        return found

    def lines(self, row: Row) -> list[Row]:
        """A row of `standing` -> `cycle_edits.with_scores` of its cycles."""
        return cycle_edits.with_scores(row["cycles"], row["scored"], self.label_set)

    def count_findings(self, cycles: list[Row]) -> dict[str, int]:
        """-> how many of the usable cycles are of each class."""
        return self.label_set.count_labels(cycle["label"] for cycle in cycles if not cycle.get("unusable"))


def lock_service_folder(folder: Path) -> Lock:
    """-> the lock of a folder, held: one service at a time works in it. Errors: it is held, or cannot be."""
    make_folder(folder)
    refuse_links(folder)  # the lock's own file too
    lock = Lock(folder / ".lock", thread_local=False)  # released in another thread
    try:
        lock.take()
    except Timeout as error:
        raise ValueError(f"{folder}: another `rales serve` uses it; choose another --folder") from error
    except NoLocks as error:
        raise ValueError(f"{folder}: its disk knows no locks; choose a --folder on a disk of this machine") from error
    return lock


def describe_failure(error: Exception, sound: Path, name: str) -> ApiError:
    """What a model raised at a recording -> what is said about it; a fault of the service goes to its terminal too."""
    if isinstance(error, FileProblem) and error.path == str(sound):
        return ApiError(422, error.sentence(name))
    if isinstance(error, ValueError | OSError):
        return ApiError(422, without_path(error, sound, name) or f"{name}: cannot be classified")
    log.error("the model failed at %s", name, exc_info=error)
    if isinstance(error, MemoryError):
        return ApiError(503, f"{name}: not enough memory to classify it; try again later, or a shorter one")
    what = without_path(error, sound, name).partition("\n")[0][:200] or "no reason given"
    return ApiError(
        500, f"{name}: the model failed ({type(error).__name__}: {what}); the service's terminal shows more"
    )


def without_path(error: Exception, sound: Path, name: str) -> str:
    """Error of a library -> its words, in which no visitor reads where this machine keeps a recording."""
    return str(error).replace(str(sound), name)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC
