"""Routes of annotations: save one, list its revisions, restore one."""

from typing import TYPE_CHECKING, Any

from rales.web.schemas import Annotation, Revision, Saved
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_annotation_routes(app: "FastAPI", service: Service) -> None:
    @app.post("/annotations", response_model=Saved, status_code=201)
    def annotate(annotation: Annotation) -> dict[str, Any]:
        """Save the corrected cycles of a recording of a session, and its events, as its next revision."""
        given = [vars(cycle) for cycle in annotation.cycles]
        marked = None if annotation.events is None else [vars(event) for event in annotation.events]
        saved = service.annotate(annotation.recording, given, annotation.base, marked)
        return {"recording": annotation.recording, **saved, "facts": service.line_of(annotation.recording)}

    @app.get("/recordings/{recording}/revisions", response_model=list[Revision])
    def revisions(recording: str) -> list[dict[str, Any]]:
        """The saved states of an annotation that are kept, the newest first."""
        return [
            {
                **one,
                "cycles": len(one["cycles"]),
                "events": len(one["events"]),
                "confirmed": sum(cycle["confirmed"] for cycle in one["cycles"]),
                "findings": service.count_findings(one["cycles"]),
            }
            for one in service.revisions(recording)
        ]

    @app.post("/recordings/{recording}/revisions/{revision}/restore", response_model=Saved, status_code=201)
    def restore(recording: str, revision: int) -> dict[str, Any]:
        """Save an earlier state once more as the next revision; nothing is lost by it."""
        return {"recording": recording, **service.restore(recording, revision), "facts": service.line_of(recording)}
