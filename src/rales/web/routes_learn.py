"""Routes of learning: what is confirmed, the job that learns from it, and the models that it made."""

from typing import TYPE_CHECKING, Any

from rales.web.routes_sessions import known_session
from rales.web.schemas import ModelFacts, Name
from rales.web.schemas_learn import Job, LearnRequest, Survey
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_learn_routes(app: "FastAPI", service: Service) -> None:
    learning = service.learning

    @app.get("/sessions/{session}/learning", response_model=Survey)
    def survey(session: str, model: str = "") -> dict[str, Any]:
        """What of a session a person has confirmed, and what a model can learn from it."""
        known_session(service, session)
        return learning.survey(session, service.model_name(model))

    @app.post("/sessions/{session}/learning", response_model=Job, status_code=201)
    def begin(session: str, asked: LearnRequest) -> dict[str, Any]:
        """Calibrate or train a model on the confirmed cycles of a session, in the background; one job at a time."""
        row, model = known_session(service, session), service.model_name(asked.model)
        learning.begin(row, asked.kind, model, asked.learns, asked.epochs)
        return learning.state()

    @app.get("/learning", response_model=Job)
    def job() -> dict[str, Any]:
        """How far the job is, and when it is done the old model beside the new one. Not a diagnosis."""
        return learning.state()

    @app.delete("/learning", status_code=204)
    def discard() -> None:
        """Stop the job, or remove the model that it has made."""
        learning.discard()

    @app.post("/learning/use", response_model=list[ModelFacts], status_code=201)
    def use(given: Name) -> list[dict[str, Any]]:
        """Keep the model that the job has made, under a name; answers the models that can be asked."""
        learning.use(given.name)
        return service.models.listed()

    @app.delete("/models/{learned}", status_code=204)
    def remove(learned: str) -> None:
        """Remove a model that was learned here (`learned` of GET /models)."""
        learning.remove(learned)
