"""Routes of the example: a simulated recording that the page shows where there is none. Nothing done to it is kept."""

from functools import partial
from typing import TYPE_CHECKING, Any

from rales.web import example, model_answers
from rales.web.routes_sessions import answer_picture, check_spans, describe_binary
from rales.web.schemas import Explanation, RecordingDetail
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_example_routes(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import FileResponse, Response

    @app.get("/example", response_model=RecordingDetail)
    async def detail() -> dict[str, Any]:
        """The example as a recording, with what the default model says of it. Not a diagnosis."""
        rows = await answer(service.example)
        known = example.known_cycles(service.label_set)
        return {
            "id": example.ID,
            "name": example.NAME,
            "path": example.NAME,
            "session": "",
            "duration_s": example.DURATION_S,
            "rate_hz": example.RATE_HZ,
            "status": "ready",
            "problem": "",
            "notes": [],
            "reviewed": False,
            "revision": 0,
            "patient": "",
            "location": example.LOCATION,
            "device": example.DEVICE,
            "note": "",
            "named": {},
            "facts_revision": 0,
            "source": "simulated",
            "cycles": known or [{**row, "confirmed": False} for row in rows if row["label"]],
            "annotated": known,
            "events": example.known_events(),
            "scores": {service.models.default: rows},
            **model_answers.quality_of(rows),
        }

    @app.get("/example/audio", response_class=FileResponse, responses=describe_binary("audio/wav"))
    async def audio() -> FileResponse:
        """The example as 16 kHz WAV."""
        await answer(service.example)
        return FileResponse(service.example_folder / "page.wav", media_type="audio/wav")

    @app.get("/example/spectrogram", response_class=Response, responses=describe_binary("application/octet-stream"))
    async def spectrogram() -> Response:
        """The log-mel picture of the example, as that of a recording."""
        await answer(service.example)
        return answer_picture(model_answers.render_logmel(service.example_folder / "page.wav"))

    @app.get("/example/explanation", response_model=Explanation)
    async def explanation(start_s: float, end_s: float, model: str = "") -> dict[str, Any]:
        """Which parts of the log-mel picture spoke for the model's label of a stretch. Not a diagnosis."""
        await answer(service.example)
        chosen = service.model_name(model)
        (span,) = check_spans([{"start_s": start_s, "end_s": end_s}], example.DURATION_S, service.limits.cycles)
        return {"model": chosen, **await answer(partial(service.why, example.ID, chosen, span, None))}

    async def answer(job: Any) -> Any:
        return await service.answered(job, service.example_folder / "audio.wav", example.NAME)
