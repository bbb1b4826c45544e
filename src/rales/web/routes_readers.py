"""Routes of readers: who reads, how far they agree, what they settle on, and their labels as one table."""

from typing import TYPE_CHECKING, Any

from rales.files.json_files import to_jsonable
from rales.inference.prediction_writers import format_csv
from rales.web import readers
from rales.web.readers import name_viewer
from rales.web.routes_exports import attach_file
from rales.web.routes_sessions import describe_binary, known_session
from rales.web.schemas import ReaderName, RoundNumber
from rales.web.schemas_readers import (
    Agreement,
    NewReaderName,
    OtherReading,
    Progress,
    ReaderChange,
    Round,
    Settled,
)
from rales.web.security import ApiError
from rales.web.service import Service
from rales.web.store import DuplicateReader

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_reader_routes(app: "FastAPI", service: Service) -> None:
    add_names(app, service)
    add_comparison(app, service)


def add_names(app: "FastAPI", service: Service) -> None:
    @app.get("/sessions/{session}/readers", response_model=list[Progress])
    def progress(session: str) -> list[dict[str, Any]]:
        """The readers of a session, and how far each is in each round."""
        known_session(service, session)
        return readers.list_progress(service, session)

    @app.get("/sessions/{session}/readers/changes", response_model=list[ReaderChange])
    def changes(session: str) -> list[dict[str, Any]]:
        """Which readers of a session were given other names, or removed."""
        known_session(service, session)
        return service.store.reader_changes(session)

    @app.patch("/sessions/{session}/readers", response_model=list[Progress])
    def rename(session: str, given: NewReaderName) -> list[dict[str, Any]]:
        """Give a reader another name, in all rounds and revisions; that it was changed is noted."""
        name = readers.name_reader(given.name, 1).reader
        if not name:
            raise ApiError(422, "a reader needs a name")
        change(session, given.reader, name)
        return readers.list_progress(service, session)

    @app.delete("/sessions/{session}/readers", status_code=204)
    def remove(session: str, reader: ReaderName) -> None:
        """Remove what a reader has said, in all rounds; that it was removed is noted. What was settled stays."""
        change(session, reader, "")

    def change(session: str, reader: str, became: str) -> None:
        known_session(service, session)
        known = readers.name_reader(reader, 1).reader
        try:
            if not (known and service.store.change_reader(session, known, became)):
                raise ApiError(404, f"no reader of this session is called {known!r}")
        except DuplicateReader as error:
            raise ApiError(409, f"{became} is a reader of this session already, and two cannot become one") from error


def add_comparison(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import Response

    @app.get("/recordings/{recording}/readings", response_model=list[OtherReading])
    def readings(recording: str, reader: ReaderName = "", round: RoundNumber = 1) -> list[dict[str, Any]]:
        """What other readers of a round have decided; a reader sees what lies over decided cycles of their own."""
        who = name_viewer(reader, round)
        return readers.others_of(service, service.known(recording), who)

    @app.get("/sessions/{session}/agreement", response_model=Agreement)
    def compare(session: str, reader: ReaderName = "", round: RoundNumber = 1) -> Any:
        """Cohen's and Fleiss' kappa and Krippendorff's alpha of the readers of a round, with intervals by patient, and
        the cycles that they call differently. Not a diagnosis."""
        who = name_viewer(reader, round)
        known_session(service, session)
        return to_jsonable(readers.compare_round(service, session, who))

    @app.post("/sessions/{session}/settle", response_model=Settled, status_code=201)
    def settle(session: str, given: Round) -> dict[str, int]:
        """Take what all readers of a round say of a cycle as the label that stands; the others stay to be judged."""
        known_session(service, session)
        readers.name_reader("", given.round)
        return readers.settle_round(service, session, given.round)

    @app.get("/sessions/{session}/readers/export", response_class=Response, responses=describe_binary("text/csv"))
    def export(session: str) -> Response:
        """What all readers have decided, as a table that `rales agreement` takes. Not a diagnosis."""
        row = known_session(service, session)
        table = readers.readers_table(service, session)
        if table.empty:
            raise ApiError(409, f"{row['name']}: no reader has decided anything, so there is nothing to export yet")
        return Response(format_csv(table), media_type="text/csv", headers=attach_file(row["name"], ".readers.csv"))
