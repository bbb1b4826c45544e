"""The service over HTTP: a small JSON API, described at /openapi.json, and the page that uses it."""

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
from rales.web import routes_annotations, routes_exports, routes_predict, routes_sessions
from rales.web.security import ApiError, SecurityMiddleware
from rales.web.service import Service, is_full
from rales.web.settings import Settings
from rales.web.store import LeftoverSound

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

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
    add_errors(app)
    routes_predict.add_program_routes(app, service)
    routes_sessions.add_page_routes(app, service)
    routes_annotations.add_annotation_routes(app, service)
    routes_exports.add_export_routes(app, service)
    add_page(app, nonce)
    add_token(app)
    return SecurityMiddleware(app, settings, nonce)


def add_page(app: "FastAPI", nonce: str) -> None:
    """The page at / and its files under /static."""
    from fastapi.responses import HTMLResponse
    from fastapi.staticfiles import StaticFiles

    page = (STATIC / "index.html").read_text(encoding="utf-8").replace("{{nonce}}", nonce)

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


def add_errors(app: "FastAPI") -> None:
    """Every error is a JSON object with one sentence, `detail`."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    def said(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"detail": make_encodable(sentence)}, status_code=status, headers=headers)

    @app.exception_handler(ApiError)
    def refused(_: Request, error: ApiError) -> JSONResponse:
        return said(error.status, error.sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        expected = accepted_body_type(request.url.path)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method in ("POST", "PUT", "PATCH") and kind != expected:
            return said(415, f"the body is {kind or 'of no type'}, expected {expected}")
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return said(422, f"{place}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def failed(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError):  # where parts of the body are kept
            return unwritable(request, error.__cause__)
        path, headers = request.url.path, dict(error.headers or {})
        sentences = {
            400: f"the body cannot be read ({error.detail}); expected {accepted_body_type(path)} in UTF-8",
            404: f"there is nothing at {path}",
            405: f"{request.method} is not possible here",
        }
        if error.status_code == 405:
            headers["Allow"] = ", ".join(allowed_methods(app, request))
        return said(error.status_code, sentences.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(UnicodeEncodeError)
    def unwritten(_: Request, error: UnicodeEncodeError) -> JSONResponse:
        """SQLite, which takes no such text, refuses it before anything is kept."""
        return said(422, f"{error.object[error.start]!a} is half of a letter (a lone surrogate); send whole Unicode")

    @app.exception_handler(sqlite3.IntegrityError)
    def removed(_: Request, error: sqlite3.IntegrityError) -> JSONResponse:
        return said(404, "the session or recording has been removed meanwhile")

    @app.exception_handler(LeftoverSound)
    def left(_: Request, error: LeftoverSound) -> JSONResponse:
        log.error("%s", error)
        return said(500, "removed, but its sound is still in the service's folder; the service's terminal shows why")

    @app.exception_handler(OSError)
    def unwritable(_: Request, error: OSError) -> JSONResponse:
        if is_full(error):
            return said(507, "the disk of the service is full; make room and send it again")
        log.exception("a request failed", exc_info=error)
        return said(500, "the service cannot use its folder; its terminal shows why")

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        return said(500, "the service has an error of its own; its terminal shows which")


def accepted_body_type(path: str) -> str:
    """-> the type of a body that a path takes."""
    return "multipart/form-data" if path == "/predict" or path.endswith("/recordings") else "application/json"


def allowed_methods(app: "FastAPI", request: "Request") -> list[str]:
    """-> the methods that the path of a request takes; the router names those of one route only."""
    from starlette.routing import Match, Route

    fitting = [
        route for route in app.routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({method for route in fitting for method in route.methods or ()})
