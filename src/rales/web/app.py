"""The service over HTTP: a small JSON API, described at /openapi.json, and the page that uses it."""

import html
import json
import logging
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales import __version__
from rales.files.csv_cells import make_encodable
from rales.labels import LabelSet
from rales.web import (
    cycle_edits,
    routes_annotations,
    routes_events,
    routes_example,
    routes_exports,
    routes_learn,
    routes_live,
    routes_predict,
    routes_projects,
    routes_readers,
    routes_segments,
    routes_sessions,
)
from rales.web.schemas import describe_labels
from rales.web.security import ApiError, SecurityMiddleware
from rales.web.service import Service, is_full
from rales.web.settings import Settings
from rales.web.store import LeftoverSound

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

STATIC = Path(__file__).parent / "static"
log = logging.getLogger(__name__)
DESCRIPTION = "Crackles and wheezes in the breathing cycles of a recording. A research tool, not a diagnosis."
# Why a request was not carried out: what was found, what was expected, what to do.
PROBLEM = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": PROBLEM}}}
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 500, 503, 507)
}


def create_app(settings: Settings) -> SecurityMiddleware:
    """-> the ASGI application. Errors: those of `Service`."""
    from fastapi import FastAPI

    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Rales",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
        responses=PROBLEMS,
    )
    nonce = secrets.token_urlsafe(16)
    add_request_errors(app)
    add_storage_errors(app)
    routes_predict.add_program_routes(app, service)
    routes_sessions.add_page_routes(app, service)
    routes_example.add_example_routes(app, service)
    routes_annotations.add_annotation_routes(app, service)
    routes_exports.add_export_routes(app, service)
    routes_readers.add_reader_routes(app, service)
    routes_projects.add_project_routes(app, service)
    routes_segments.add_segment_routes(app, service)
    routes_events.add_event_routes(app, service)
    routes_learn.add_learn_routes(app, service)
    routes_live.add_live_routes(app, service)
    add_page(app, service.label_set)
    add_token(app)
    describe_labels(app.openapi(), service.label_set)
    return SecurityMiddleware(app, settings, nonce, service.store.changes.end)


def add_page(app: "FastAPI", label_set: LabelSet) -> None:
    """The page at / and its files under /static. What the page knows of labels stands in its head."""
    from fastapi.responses import HTMLResponse
    from fastapi.staticfiles import StaticFiles

    labels = {**label_set.to_record(), "forms": cycle_edits.known_forms(label_set)}
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    page = page.replace("{{labels}}", html.escape(json.dumps(labels)))

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page)

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def add_token(app: "FastAPI") -> None:
    """The token, which `SecurityMiddleware` asks for, in the description."""
    schema = app.openapi()
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}]
    schema["paths"]["/health"]["get"]["security"] = []


def answer_problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> "JSONResponse":
    """Status and a sentence -> the JSON object that every error is answered with."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": make_encodable(sentence)}, status_code=status, headers=headers)


def answer_disk_error(error: OSError) -> "JSONResponse":
    """Error of the service's disk -> its answer: 507 where it is full, else 500 and a line in the log."""
    if is_full(error):
        return answer_problem(507, "the disk of the service is full; make room and send it again")
    log.exception("a request failed", exc_info=error)
    return answer_problem(500, "the service cannot use its folder; its terminal shows why")


def add_request_errors(app: "FastAPI") -> None:
    """Handlers of what is wrong with a request."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(ApiError)
    def refused(_: Request, error: ApiError) -> "JSONResponse":
        return answer_problem(error.status, error.sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> "JSONResponse":
        expected = accepted_body_type(request.url.path)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method in ("POST", "PUT", "PATCH") and kind != expected:
            return answer_problem(415, f"the body is {kind or 'of no type'}, expected {expected}")
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return answer_problem(422, f"{place}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def failed(request: Request, error: HTTPException) -> "JSONResponse":
        if isinstance(error.__cause__, OSError):  # where parts of the body are kept
            return answer_disk_error(error.__cause__)
        path, headers = request.url.path, dict(error.headers or {})
        sentences = {
            400: f"the body cannot be read ({error.detail}); expected {accepted_body_type(path)} in UTF-8",
            404: f"there is nothing at {path}",
            405: f"{request.method} is not possible here",
        }
        if error.status_code == 405:
            headers["Allow"] = ", ".join(allowed_methods(app, request))
        return answer_problem(error.status_code, sentences.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(UnicodeEncodeError)
    def unwritten(_: Request, error: UnicodeEncodeError) -> "JSONResponse":
        """SQLite, which takes no such text, refuses it before anything is kept."""
        letter = error.object[error.start]
        return answer_problem(422, f"{letter!a} is half of a letter (a lone surrogate); send whole Unicode")


def add_storage_errors(app: "FastAPI") -> None:
    """Handlers of what the service's own disk and database raise, and of its own faults."""
    from fastapi import Request

    @app.exception_handler(sqlite3.IntegrityError)
    def removed(_: Request, error: sqlite3.IntegrityError) -> "JSONResponse":
        return answer_problem(404, "the session or recording has been removed meanwhile")

    @app.exception_handler(LeftoverSound)
    def left(_: Request, error: LeftoverSound) -> "JSONResponse":
        log.error("%s", error)
        sentence = "removed, but its sound is still in the service's folder; the service's terminal shows why"
        return answer_problem(500, sentence)

    @app.exception_handler(OSError)
    def unwritable(_: Request, error: OSError) -> "JSONResponse":
        return answer_disk_error(error)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> "JSONResponse":
        return answer_problem(500, "the service has an error of its own; its terminal shows which")


def accepted_body_type(path: str) -> str:
    """-> the type of a body that a path takes."""
    if path.endswith("/sound"):
        return "application/octet-stream"
    return "multipart/form-data" if path == "/predict" or path.endswith("/recordings") else "application/json"


def allowed_methods(app: "FastAPI", request: "Request") -> list[str]:
    """-> the methods that the path of a request takes; the router names those of one route only."""
    from starlette.routing import Match, Route

    fitting = [
        route for route in app.routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({method for route in fitting for method in route.methods or ()})
