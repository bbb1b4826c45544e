"""Routes that export cycles as files: of one recording, or of a session as a zip with a README."""

import io
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from rales.evaluation.predictions import NOTICE
from rales.inference import prediction_writers
from rales.web import cycle_edits
from rales.web.readers import name_reader
from rales.web.routes_sessions import describe_binary, known_session
from rales.web.schemas import ExportForm, ReaderName, RoundNumber
from rales.web.security import ApiError
from rales.web.service import Service
from rales.web.store import Who

if TYPE_CHECKING:
    from fastapi import FastAPI

MANIFEST = "manifest.csv"
README = "README.txt"  # a name that readers of ICBHI folders know to be no annotation
COLUMNS = {
    "icbhi": "In ICBHI format a line is: start in seconds, end in seconds, crackles (0 or 1), wheezes (0 or 1). Put "
    "the files beside the recordings, and `rales check` and `rales train --data` take the folder (without a split list "
    "with --set split.name=folds).",
    "csv": "The column `confirmed` says of every cycle whether a person has set or confirmed its label. manifest.csv "
    "holds the cycles of all recordings: fill in `split` (train, test) and, where it is empty, `patient`, put it "
    "beside the recordings, and `rales check` and `rales train --data` take it.",
    "audacity": "Audacity labels have no place to say which cycles a person has confirmed.",
    "raven": "The column `Confirmed` says of every cycle whether a person has set or confirmed its label.",
    "segments": "A clip for each cycle, in a folder for each class, as WAV of 16 bits at the recording's own rate; "
    "segments.csv lists them. A name holds the recording, start and end in seconds, and the probability that the model "
    "gave this class. `confirmed` says whether a person has set or confirmed the label.",
}


def add_export_routes(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import Response

    @app.get(
        "/recordings/{recording}/export", response_class=Response, responses=describe_binary("text/plain", "text/csv")
    )
    def export(
        recording: str, reader: ReaderName = "", round: RoundNumber = 1, format: ExportForm = "icbhi"
    ) -> Response:
        """The cycles as they stand, or those that a reader has decided, as one file. Not a diagnosis."""
        who = name_reader(reader, round)
        check_form(format, service)
        row = decided_alone(service.known(recording, who), who)
        if why := why_no_cycles(row):
            raise ApiError(409, f"{row['name']}: {why}, so there is nothing to export yet")
        kind = "text/csv" if format == "csv" else "text/plain"
        return Response(
            export_text(format, row, service),
            media_type=kind,
            headers=attach_file(row["name"], cycle_edits.FORMATS[format]),
        )

    @app.get("/sessions/{session}/export", response_class=Response, responses=describe_binary("application/zip"))
    def export_session(
        session: str, reader: ReaderName = "", round: RoundNumber = 1, format: ExportForm = "icbhi"
    ) -> Response:
        """The cycles of all recordings of a session, of a reader those that are decided: a zip with one file each, in
        the folders that they came in, and README.txt, which says which of them nobody has confirmed and which
        recordings are left out. Not a diagnosis."""
        who = name_reader(reader, round)
        check_form(format, service)
        row = known_session(service, session)
        content, written, left_out = io.BytesIO(), list[str](), list[str]()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            names = {README.removesuffix(".txt").lower(), MANIFEST.removesuffix(".csv")}
            tables = dict[str, pd.DataFrame]()
            for each in service.session_rows(session, who):
                recording = decided_alone(each, who)
                if why := why_no_cycles(recording):
                    left_out.append(f"{cycle_edits.recording_title(recording['path'])}: {why}")
                    continue
                stem = choose_unused_name(cycle_edits.safe_path(cycle_edits.recording_title(recording["path"])), names)
                file = stem + cycle_edits.FORMATS[format]
                archive.writestr(file, export_text(format, recording, service))
                tables[stem] = cycle_edits.make_cycle_table(
                    recording, usable_lines(recording, service), service.label_set
                )
                written.append(f"{file}: {describe_label_source(recording)}")
            if format == "csv" and tables:
                archive.writestr(MANIFEST, prediction_writers.format_csv(join_manifest(tables)))
            title = f"{row['name']}, read by {who.reader}, round {who.round}" if who.reader else row["name"]
            archive.writestr(README, write_readme(title, format, written, left_out))
        return Response(content.getvalue(), media_type="application/zip", headers=attach_file(row["name"], ".zip"))


def decided_alone(row: dict[str, Any], who: Who) -> dict[str, Any]:
    """A row of `Service.known` -> the same, of a reader without the cycles that have no label of theirs."""
    return {**row, "cycles": [cycle for cycle in row["cycles"] if cycle["confirmed"]]} if who.reader else row


def why_no_cycles(row: dict[str, Any]) -> str:
    """A row of `Service.standing` -> why it has no cycles to write, "" if it has (or a person removed all of them)."""
    if row["unreadable"]:
        return str(row["unreadable"])
    if not row["judged"] and not row["cycles"]:
        return f"not judged: {row['quality_reason']}"
    if row["revision"] or row["scored"] or row["source"] == "annotation":
        return ""
    if row["status"] == "failed":
        return f"the model could not answer ({row['problem']})"
    return "the model that is served has not answered for it yet"


def check_form(form: str, service: Service) -> None:
    """Errors: ApiError for a format that cannot say the labels of the model that is served."""
    forms = cycle_edits.known_forms(service.label_set)
    if form not in forms:
        raise ApiError(422, f"format {form} knows crackles and wheezes only; ask for one of {', '.join(forms)}")


def export_text(form: str, row: dict[str, Any], service: Service) -> str:
    return cycle_edits.write_cycles(form, row, usable_lines(row, service), service.label_set)


def usable_lines(row: dict[str, Any], service: Service) -> list[dict[str, Any]]:
    """`Service.lines` without the cycles that a person has called unusable: they have no class to write."""
    return [line for line in service.lines(row) if not line["unusable"]]


def join_manifest(tables: "dict[str, pd.DataFrame]") -> "pd.DataFrame":
    """Tables of recordings by the names of their files here -> one table. Recordings of one path have none in it: a
    person must say which file is which."""
    named = Counter(str(table["path"].iloc[0]) for table in tables.values() if len(table))
    alike = {name for name, count in named.items() if count > 1}
    parts = [
        table.assign(recording=stem, path="") if set(table["path"]) & alike else table for stem, table in tables.items()
    ]
    return pd.concat(parts, ignore_index=True)


def describe_label_source(row: dict[str, Any]) -> str:
    """A row of `Service.standing` -> who stands behind its labels."""
    usable = [cycle for cycle in row["cycles"] if not cycle.get("unusable")]
    many, unusable = len(usable), len(row["cycles"]) - len(usable)
    confirmed = sum(bool(cycle["confirmed"]) for cycle in usable)
    whose = {"person": "unconfirmed", "annotation": "of the annotation that came along"}.get(
        row["source"], "as the model calls them"
    )
    said = f"{many} {'cycle' if many == 1 else 'cycles'}, {confirmed} confirmed by a person"
    rest = many - confirmed
    said += f", {rest} {whose}" if rest else ""
    said += f"; {unusable} more called unusable and left out" if unusable else ""
    refused = sum(one["label"] is None for one in row["scored"])
    if refused and not row["revision"]:
        said += f"; {refused} more not judged and left out ({row['quality_reason']})"
    return said + ("; reviewed" if row["reviewed"] else "; NOT REVIEWED")


def write_readme(session: str, form: str, written: list[str], left_out: list[str]) -> str:
    """-> the text that goes with the files."""
    lines = [f"Session: {session}", f"{NOTICE} Written by `rales serve`.", "", COLUMNS[form]]
    lines += ["Labels that nobody has confirmed are those of a model, or of an annotation that came along."]
    lines += ["", f"Files ({len(written)}):", *written]
    lines += ["", f"Left out ({len(left_out)}):", *left_out] if left_out else ["", "No recording is left out."]
    return "\n".join(lines) + "\n"


def choose_unused_name(name: str, names: set[str]) -> str:
    """-> the name, with a number behind it if it is taken, also in other letters; it is then taken."""
    number, free = 2, name
    while free.lower() in names:
        free, number = f"{name}_{number}", number + 1
    names.add(free.lower())
    return free


def attach_file(name: str, suffix: str) -> dict[str, str]:
    whole = quote(name + suffix, safe="")
    plain = cycle_edits.ascii_file_name(name) + suffix
    return {"content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}"}
