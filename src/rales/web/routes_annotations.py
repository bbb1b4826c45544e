"""Routes of annotations: save one, list its revisions, restore one."""

from typing import TYPE_CHECKING, Any

from rales.files.csv_cells import one_line
from rales.web import cycle_edits
from rales.web.readers import name_reader
from rales.web.schemas import Annotation, FileText, ReadCycles, ReaderName, Revision, RoundNumber, Saved
from rales.web.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_annotation_routes(app: "FastAPI", service: Service) -> None:
    @app.post("/annotations", response_model=Saved, status_code=201)
    def annotate(annotation: Annotation) -> dict[str, Any]:
        """Save the corrected cycles of a recording of a session, and its events, as its next revision."""
        given = [vars(cycle) for cycle in annotation.cycles]
        marked = None if annotation.events is None else [vars(event) for event in annotation.events]
        who = name_reader(annotation.reader, annotation.round)
        saved = service.annotate(annotation.recording, given, annotation.base, marked, who)
        return {"recording": annotation.recording, **saved, "facts": service.line_of(annotation.recording, who)}

    @app.post("/recordings/{recording}/annotation", response_model=ReadCycles)
    def read(recording: str, given: FileText) -> dict[str, Any]:
        """The cycles of an annotation in a form of rales predict, as they would stand. Nothing is kept by this."""
        row = service.known(recording)
        name = one_line(cycle_edits.base_name(given.name))[:120] or "annotation"
        return service.read_cycles(row, name, given.text)

    @app.get("/recordings/{recording}/revisions", response_model=list[Revision])
    def revisions(recording: str, reader: ReaderName = "", round: RoundNumber = 1) -> list[dict[str, Any]]:
        """The saved states of an annotation that are kept, the newest first."""
        who = name_reader(reader, round)
        return [
            {
                **one,
                "cycles": len(one["cycles"]),
                "events": len(one["events"]),
                "confirmed": sum(cycle["confirmed"] for cycle in one["cycles"]),
                "findings": service.count_findings(one["cycles"]),
            }
            for one in service.revisions(recording, who)
        ]

    @app.post("/recordings/{recording}/revisions/{revision}/restore", response_model=Saved, status_code=201)
    def restore(recording: str, revision: int, reader: ReaderName = "", round: RoundNumber = 1) -> dict[str, Any]:
        """Save an earlier state once more as the next revision; nothing is lost by it."""
        who = name_reader(reader, round)
        saved = service.restore(recording, revision, who)
        return {"recording": recording, **saved, "facts": service.line_of(recording, who)}
