"""Routes of the page: sessions, their recordings, and the sound, spectrogram and scores of a recording."""

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from rales.web import cycle_edits, model_answers, recording_facts
from rales.web.readers import name_reader
from rales.web.schemas import (
    OPTIONAL_FILE,
    Explanation,
    Facts,
    Label,
    Name,
    ReaderName,
    RecordingDetail,
    RecordingFacts,
    Review,
    RoundNumber,
    SavedFacts,
    ScoreRequest,
    Scores,
    Session,
    SessionContent,
    SessionPart,
)
from rales.web.security import ApiError
from rales.web.service import Service
from rales.web.store import NOBODY, Who

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.responses import Response

PART_LINES = 400  # of a session's list in one answer
SENT_BYTES = 2**20  # of a sound at once; by 64 KiB ten minutes take twice as long
PART_S = 0.01  # that lines which have to be made may take of it


def add_page_routes(app: "FastAPI", service: Service) -> None:
    add_sessions(app, service)
    add_lists(app, service)
    add_recordings(app, service)
    add_sound(app, service)
    add_scores(app, service)


def add_sessions(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import Response

    store = service.store

    @app.get("/sessions", response_model=list[Session])
    def sessions() -> list[dict[str, Any]]:
        """All sessions, the newest first."""
        return store.sessions()

    @app.post("/sessions", response_model=SessionContent, status_code=201)
    def new_session(given: Name) -> Response:
        """Begin a session."""
        return content(store.new_session(clean_title(given.name)), status=201)

    @app.get("/sessions/{session}", response_model=SessionContent)
    def session(session: str, reader: ReaderName = "", round: RoundNumber = 1) -> Response:
        """A session and its recordings, with how far each of them is, or how far a reader is in it."""
        return content(session, name_reader(reader, round))

    @app.patch("/sessions/{session}", response_model=SessionContent)
    def rename_session(session: str, given: Name) -> Response:
        """Give a session another name."""
        store.rename_session(session, clean_title(given.name))
        return content(session)

    @app.delete("/sessions/{session}", status_code=204)
    def remove_session(session: str) -> None:
        """Remove a session with all of its recordings and annotations."""
        if not store.remove_session(session):
            raise no_session()
        service.live.sweep([each["id"] for each in store.sessions()])

    def content(session: str, who: Who = NOBODY, status: int = 200) -> Response:
        about = json.dumps(known_session(service, session))
        lines = b",".join(service.list.part(session, who).lines)
        return answer_json(b'%s, "recordings": [%s]}' % (about[:-1].encode(), lines), status)


def add_lists(app: "FastAPI", service: Service) -> None:
    from fastapi import Query, Request
    from fastapi.responses import Response, StreamingResponse

    @app.get("/sessions/{session}/recordings", response_model=SessionPart)
    def session_part(
        session: str,
        reader: ReaderName = "",
        round: RoundNumber = 1,
        after: Annotated[str, Query(description="The `next` of the part before; nothing for the first one.")] = "",
    ) -> Response:
        """Part of a session's list, as large as can be answered at once."""
        known_session(service, session)
        mark = service.store.changes.mark()  # what changes from here on is in the stream
        part = service.list.part(session, name_reader(reader, round), after, PART_LINES, PART_S)
        about = json.dumps({"next": part.next, "mark": mark, **service.list.progress()})
        return answer_json(b'{"recordings": [%s], %s' % (b",".join(part.lines), about[1:].encode()))

    @app.get("/sessions/{session}/changes", include_in_schema=False)
    async def session_changes(
        request: Request, session: str, reader: ReaderName = "", round: RoundNumber = 1, since: str = ""
    ) -> StreamingResponse:
        """The list as it changes, as Server-Sent Events (see `SessionList.follow`); it never ends, so no description
        of it fits OpenAPI."""
        await asyncio.to_thread(known_session, service, session)
        since = request.headers.get("last-event-id") or since
        told = service.list.follow(session, name_reader(reader, round), since)
        return StreamingResponse(told, media_type="text/event-stream")


def add_recordings(app: "FastAPI", service: Service) -> None:
    from fastapi import File, Form, UploadFile

    @app.post("/sessions/{session}/recordings", response_model=RecordingFacts, status_code=201)
    async def upload(
        session: str,
        audio: Annotated[UploadFile, File(description="A recording: WAV, FLAC, MP3, OGG, AIFF, M4A or AAC.")],
        annotation: Annotated[
            UploadFile | None, File(description="Its cycles, in a form of rales predict."), OPTIONAL_FILE
        ] = None,
        events: Annotated[
            UploadFile | None, File(description="Its events, as POST /recordings/ID/events reads them."), OPTIONAL_FILE
        ] = None,
        path: Annotated[str, Form(description="Where it lay in a folder of several: visit1/anna.wav.")] = "",
        only_new: Annotated[
            bool, Form(description="Refuse (409) a file that the session has under this path.")
        ] = False,
    ) -> dict[str, Any]:
        """Add a recording; the default model answers for it when its turn comes."""
        await asyncio.to_thread(known_session, service, session)
        path = cycle_edits.relative_path(path or cycle_edits.base_name(audio.filename or ""))
        async with service.arrived(path, audio.file, annotation.file if annotation else None) as (place, facts):
            facts = await asyncio.to_thread(service.with_events, path, facts, events.file if events else None)
            keep = partial(service.keep, session, path, facts, place, only_new=only_new)
            recording = await asyncio.to_thread(keep)
        return await asyncio.to_thread(service.line_of, recording)

    @app.get("/recordings/{recording}", response_model=RecordingDetail)
    def detail(recording: str, reader: ReaderName = "", round: RoundNumber = 1) -> dict[str, Any]:
        """A recording, what each model said of its cycles, and the cycles as they stand or as a reader has them."""
        who = name_reader(reader, round)
        return {**service.known(recording, who), "scores": service.scores(recording)}

    @app.patch("/recordings/{recording}", response_model=RecordingFacts)
    def review(recording: str, given: Review) -> dict[str, Any]:
        """Say whether a recording has been reviewed."""
        service.store.review(recording, given.reviewed)
        return service.line_of(recording)

    @app.post("/recordings/{recording}/facts", response_model=SavedFacts, status_code=201)
    def say_facts(recording: str, given: Facts) -> dict[str, Any]:
        """Say whose recording it is, from which site and device, and a note."""
        said = vars(given)
        revision = recording_facts.save_facts(service, recording, said, said.pop("base"))
        return {"revision": revision, "facts": service.line_of(recording)}

    @app.delete("/recordings/{recording}", status_code=204)
    def remove(recording: str) -> None:
        """Remove a recording, its sound and its annotations."""
        if not service.store.remove_recording(recording):
            raise ApiError(404, "no such recording; it may have been removed")


def add_sound(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import FileResponse, Response

    @app.get("/recordings/{recording}/audio", response_class=FileResponse, responses=describe_binary("audio/wav"))
    def audio(recording: str) -> FileResponse:
        """The recording as 16 kHz WAV."""
        answer = FileResponse(service.sound(recording), media_type="audio/wav")
        answer.chunk_size = SENT_BYTES
        return answer

    @app.get(
        "/recordings/{recording}/spectrogram",
        response_class=Response,
        responses=describe_binary("application/octet-stream"),
    )
    def spectrogram(recording: str) -> Response:
        """The log-mel picture, a byte a cell, rows from the lowest band; x-bands, x-frames, x-hop-s say its shape. A
        step of a byte is 0.5 dB, 255 a sine of full scale; all but a thousandth of the cells are up to x-top."""
        return answer_picture(service.picture(recording))


def add_scores(app: "FastAPI", service: Service) -> None:
    @app.post("/recordings/{recording}/scores", response_model=Scores)
    async def score(
        recording: str, asked: ScoreRequest, reader: ReaderName = "", round: RoundNumber = 1
    ) -> dict[str, Any]:
        """What a model says of stretches of a recording, for cycles whose boundaries were moved. Not a diagnosis."""
        who = name_reader(reader, round)
        row, model = await asyncio.to_thread(service.known, recording), service.model_name(asked.model)
        places = check_spans([vars(span) for span in asked.cycles], row["duration_s"], service.limits.cycles)
        cycles = await answer(row, partial(service.score_spans, recording, model, places))
        return {"model": model, "cycles": cycles, "facts": await asyncio.to_thread(service.line_of, recording, who)}

    @app.post("/recordings/{recording}/predictions", response_model=Scores)
    async def predict(
        recording: str, reader: ReaderName = "", round: RoundNumber = 1, model: str = ""
    ) -> dict[str, Any]:
        """What another model says of a recording's cycles, to set beside the default model's. Not a diagnosis."""
        who = name_reader(reader, round)
        row, chosen = await asyncio.to_thread(service.known, recording), service.model_name(model)
        cycles = await answer(row, partial(service.predict, row, chosen))
        return {"model": chosen, "cycles": cycles, "facts": await asyncio.to_thread(service.line_of, recording, who)}

    @app.get("/recordings/{recording}/explanation", response_model=Explanation)
    async def explanation(
        recording: str, start_s: float, end_s: float, model: str = "", label: Label | None = None
    ) -> dict[str, Any]:
        """Which parts of the log-mel picture spoke for a label, by default the model's own. Not a diagnosis."""
        row, chosen = await asyncio.to_thread(service.known, recording), service.model_name(model)
        (span,) = check_spans([{"start_s": start_s, "end_s": end_s}], row["duration_s"], service.limits.cycles)
        job = partial(service.why, recording, chosen, span, label)
        return {"model": chosen, **await answer(row, job)}

    async def answer(row: dict[str, Any], job: Any) -> Any:
        return await service.answered(job, service.store.place(row["id"]) / "audio.wav", row["name"])


def check_spans(given: list[dict[str, Any]], duration_s: float, most: int) -> list[model_answers.Span]:
    """Stretches as a visitor sent them -> (start, end) in s. Errors: ApiError."""
    try:
        checked = cycle_edits.check_cycles(given, duration_s, most)
    except ValueError as error:
        raise ApiError(422, str(error)) from error
    return [(span["start_s"], span["end_s"]) for span in checked]


def answer_picture(picture: model_answers.LogmelPicture) -> "Response":
    from fastapi.responses import Response

    levels, top = picture
    bands, frames = levels.shape
    headers = {
        "x-bands": str(bands),
        "x-frames": str(frames),
        "x-hop-s": str(model_answers.LOGMEL_HOP_S),
        "x-top": str(top),
    }
    return Response(levels.tobytes(), media_type="application/octet-stream", headers=headers)


def answer_json(content: bytes, status: int = 200) -> "Response":
    """What is JSON already -> its answer."""
    from fastapi.responses import Response

    return Response(content, status, media_type="application/json")


def known_session(service: Service, session: str) -> dict[str, Any]:
    rows = service.store.rows("SELECT id, name FROM sessions WHERE id = ?", session)
    if not rows:
        raise no_session()
    return rows[0]


def no_session() -> ApiError:
    return ApiError(404, "no such session; it may have been removed")


def clean_title(name: str) -> str:
    """A visitor's name for a session -> one line of at most 120 characters."""
    return cycle_edits.clean_line(name)[:120] or "Session"


def describe_binary(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of an answer that is not JSON."""
    return {200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}}}
