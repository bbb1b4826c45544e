"""Routes for programs: health, models, prediction of one recording, and the reports of runs."""

from typing import TYPE_CHECKING, Annotated, Any

from rales import __version__
from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.web import cycle_edits, model_answers, routes_reports
from rales.web.schemas import OPTIONAL_FILE, Accepted, Health, ModelFacts, Prediction, RunFacts
from rales.web.security import ApiError
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI

REPORT_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"


def add_program_routes(app: "FastAPI", service: Service) -> None:
    add_facts(app, service)
    add_predict(app, service)
    add_runs(app, service)


def add_facts(app: "FastAPI", service: Service) -> None:
    @app.get("/health")
    def health() -> Health:
        """Whether the service is up."""
        return Health(status="ok", version=__version__)

    @app.get("/limits")
    def limits() -> Accepted:
        """What is taken: suffixes of recordings, size and length, cycles and their length, and events."""
        bounds = service.limits
        return Accepted(
            suffixes=list(AUDIO_SUFFIXES),
            upload_bytes=bounds.upload_bytes,
            duration_s=bounds.duration_s,
            cycles=bounds.cycles,
            events=bounds.events,
            shortest_cycle_s=cycle_edits.SHORTEST_S,
        )

    @app.get("/models", response_model=list[ModelFacts])
    def models() -> list[dict[str, Any]]:
        """The models that can be asked, by name."""
        return service.models.listed()


def add_predict(app: "FastAPI", service: Service) -> None:
    from fastapi import File, Form, UploadFile

    @app.post("/predict", response_model=Prediction)
    async def predict(
        audio: Annotated[UploadFile, File(description="A recording: WAV, FLAC, MP3, OGG, AIFF, M4A or AAC.")],
        annotation: Annotated[
            UploadFile | None, File(description="Its cycles, in a form of rales predict."), OPTIONAL_FILE
        ] = None,
        model: Annotated[str, Form(description="A name of GET /models; the default model without one.")] = "",
    ) -> dict[str, Any]:
        """Classify the cycles of one recording; nothing of it is kept. Not a diagnosis."""
        chosen = service.model_name(model)
        path = cycle_edits.relative_path(cycle_edits.base_name(audio.filename or ""))
        name = cycle_edits.recording_stem(path)
        async with service.arrived(path, audio.file, annotation.file if annotation else None) as (place, facts):
            sound = place / "audio.wav"
            cycles = await service.answered(
                lambda: model_answers.predict_file(service.models.model(chosen), sound, name), sound, name
            )
            digest = service.models.known_digest(chosen)
        about = {name: facts[name] for name in ("duration_s", "notes")}
        return {"recording": name, **about, "model": chosen, "digest": digest, "version": __version__, "cycles": cycles}


def add_runs(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import HTMLResponse

    @app.get("/runs", response_model=list[RunFacts])
    def runs() -> list[dict[str, Any]]:
        """The training runs of the folder that `rales serve --runs` names."""
        return routes_reports.list_runs(service.runs)

    @app.get("/runs/report", response_class=HTMLResponse)
    def report(name: str = "") -> HTMLResponse:
        """The page of `rales report` on one run, or on all of them where no name is given."""
        try:
            page = routes_reports.render_report(service.runs, name, service.store.folder / "reports")
        except KeyError as error:
            raise ApiError(404, str(error.args[0])) from error
        except (ValueError, OSError) as error:
            raise ApiError(422, str(error)) from error
        return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})
