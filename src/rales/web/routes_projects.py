"""Routes of what leaves as one file: a session with its sound as a zip, a recording as a page to print."""

import secrets
from typing import TYPE_CHECKING

from rales.web.projects import write_project
from rales.web.readers import name_reader
from rales.web.recording_report import render_recording
from rales.web.routes_exports import attach_file
from rales.web.routes_predict import REPORT_POLICY
from rales.web.routes_sessions import describe_binary, known_session
from rales.web.schemas import ReaderName, RoundNumber
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_project_routes(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import FileResponse, HTMLResponse
    from starlette.background import BackgroundTask

    @app.get("/recordings/{recording}/report", response_class=HTMLResponse)
    def report(recording: str, reader: ReaderName = "", round: RoundNumber = 1) -> HTMLResponse:
        """A recording as a page to print: facts, picture, cycles with the labels of people and model. Not a
        diagnosis."""
        page = render_recording(service, recording, name_reader(reader, round))
        return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})

    @app.get(
        "/sessions/{session}/project/export", response_class=FileResponse, responses=describe_binary("application/zip")
    )
    def export_project(session: str) -> FileResponse:
        """A session as a folder that `rales check` and `rales train` take: sound, labels, readers, history. Not a
        diagnosis."""
        row = known_session(service, session)
        out = service.arriving / f"{secrets.token_hex(8)}.zip"
        try:
            write_project(service, row, out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise
        headers = attach_file(row["name"], ".zip")
        return FileResponse(out, media_type="application/zip", headers=headers, background=BackgroundTask(out.unlink))
