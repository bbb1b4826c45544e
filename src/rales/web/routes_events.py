"""Routes of events: read a file of another program, export those of a recording, or of a session as a zip."""

import io
import zipfile
from typing import TYPE_CHECKING, Any

from rales.data.event_writers import FORMATS, format_events
from rales.evaluation.predictions import NOTICE
from rales.files.csv_cells import one_line
from rales.web import cycle_edits, event_marks
from rales.web.routes_exports import README, attach_file, choose_unused_name
from rales.web.routes_sessions import describe_binary, known_session
from rales.web.schemas import EventForm, FileText, ReadEvents
from rales.web.security import ApiError
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI

SAID = {
    "raven": "Raven selection tables. What has no frequencies is a selection of the waveform's view; a point lasts "
    "10 ms there, and the column Point says so.",
    "audacity": "Audacity label tracks, with the lines of frequencies that a spectral selection has.",
    "icbhi": "Events as ICBHI 2017 has them: start, end, crackle or wheeze. It knows no frequencies, no other kinds "
    "and no phases, which are left out.",
    "sprsound": "JSON of SPRSound. Frequencies, points and phases stand in fields of our own, which others pass over.",
    "aoef": "Annotation sets of soundevent (AOEF), which whombat imports.",
}


def add_event_routes(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import Response

    @app.post("/recordings/{recording}/events", response_model=ReadEvents)
    def read(recording: str, given: FileText) -> dict[str, Any]:
        """The events of a file: Raven, Audacity, ICBHI 2017, SPRSound or soundevent (AOEF). Nothing is kept by this."""
        row = service.known(recording)
        name = one_line(cycle_edits.base_name(given.name))[:120] or "events"
        return service.read_events(name, given.text, row["duration_s"], row["path"])._asdict()

    @app.get(
        "/recordings/{recording}/events/export",
        response_class=Response,
        responses=describe_binary("text/plain", "application/json"),
    )
    def export(recording: str, format: EventForm = "raven") -> Response:
        """The events that are marked in a recording as one file. Not a diagnosis."""
        row = service.known(recording)
        if not row["events"]:
            raise ApiError(409, f"{row['name']}: no event is marked in it, so there is nothing to export yet")
        try:
            text = format_events(event_marks.marked_of(row), format)
        except ValueError as error:
            raise ApiError(409, f"{row['name']}: {error}") from error
        kind = "application/json" if FORMATS[format].endswith(".json") else "text/plain"
        return Response(text, media_type=kind, headers=attach_file(row["name"], FORMATS[format]))

    @app.get("/sessions/{session}/events/export", response_class=Response, responses=describe_binary("application/zip"))
    def export_session(session: str, format: EventForm = "raven") -> Response:
        """The events of all recordings of a session: a zip with one file each, in the folders that they came in, and
        README.txt, which says what each holds and which recordings are left out. Not a diagnosis."""
        row = known_session(service, session)
        content, written, left_out = io.BytesIO(), list[str](), list[str]()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            names = {README.removesuffix(".txt").lower()}
            for each in service.store.recordings(session, service.models.default):
                recording = service.standing(each)
                title = cycle_edits.recording_title(recording["path"])
                try:
                    text = format_events(event_marks.marked_of(recording), format)
                except ValueError as error:
                    left_out.append(f"{title}: {error}")
                    continue
                if not recording["events"]:
                    left_out.append(f"{title}: no event is marked in it")
                    continue
                file = choose_unused_name(cycle_edits.safe_path(title), names) + FORMATS[format]
                archive.writestr(file, text)
                written.append(f"{file}: {event_marks.describe_events(recording, service.label_set)}")
            archive.writestr(README, write_readme(row["name"], format, written, left_out))
        return Response(content.getvalue(), media_type="application/zip", headers=attach_file(row["name"], ".zip"))


def write_readme(session: str, form: str, written: list[str], left_out: list[str]) -> str:
    """-> the text that goes with the files."""
    lines = [f"Events of the session: {session}", f"{NOTICE} Written by `rales serve`.", "", SAID[form]]
    lines += ["Events are what a person marked, or a file that was read held; no model has made one."]
    lines += ["", f"Files ({len(written)}):", *written]
    lines += ["", f"Left out ({len(left_out)}):", *left_out] if left_out else ["", "No recording is left out."]
    return "\n".join(lines) + "\n"
