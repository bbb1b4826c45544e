"""Routes of recordings that are being made: begin, add sound, hear what is found in it, keep or discard."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from rales.web.routes_sessions import clean_title, known_session
from rales.web.schemas import LiveAnswers, LiveFacts, Name, NewLive, RecordingFacts
from rales.web.security import ApiError
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

BYTES = "application/octet-stream"
SOUND = {"requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}}


def add_live_routes(app: "FastAPI", service: Service) -> None:
    from fastapi import Query, Request

    @app.post("/sessions/{session}/live", response_model=LiveFacts, status_code=201)
    def begin(session: str, given: NewLive) -> dict[str, Any]:
        """Begin a recording of a session that is made now."""
        known_session(service, session)
        return service.live.begin(session, clean_title(given.name), given.rate_hz)

    @app.get("/sessions/{session}/live", response_model=list[LiveFacts])
    def listed(session: str) -> list[dict[str, Any]]:
        """The recordings of a session that were neither kept nor discarded yet."""
        known_session(service, session)
        return service.live.listed(session)

    @app.post("/live/{live}/sound", response_model=LiveFacts, openapi_extra=SOUND)
    async def append(live: str, request: Request, at: Annotated[int, Query(ge=0)]) -> dict[str, Any]:
        """Add float32 samples (mono, little-endian) from sample `at` on; those that have come already may come again.
        They are on the disk when this is answered."""
        check_bytes(request)
        return await asyncio.to_thread(service.live.append, live, at, await request.body())

    @app.get("/live/{live}/answers", response_model=LiveAnswers)
    async def answers(live: str) -> dict[str, Any]:
        """The cycles that have ended so far with the default model's answers, and whether the newest sound can be
        judged: provisional. Not a diagnosis."""
        found = service.live.find(live)
        said: dict[str, Any] = await service.answered(partial(service.judge_live, live), found.sound, found.name)
        return said

    @app.post("/live/{live}/keep", response_model=RecordingFacts, status_code=201)
    async def keep(live: str, given: Name) -> dict[str, Any]:
        """It becomes a recording of its session, as if its file had been uploaded, called `name` or as it was."""
        recording = await service.keep_live(live, given.name.strip())
        return await asyncio.to_thread(service.line_of, recording)

    @app.delete("/live/{live}", status_code=204)
    def discard(live: str) -> None:
        """Remove an unfinished recording and its sound."""
        service.live.discard(live)


def check_bytes(request: "Request") -> None:
    """Errors: ApiError for a body that does not say that it is bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != BYTES:
        raise ApiError(415, f"the body is {kind or 'of no type'}, expected {BYTES}")
