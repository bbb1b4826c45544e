"""Route of clips: the cycles of a session cut out of their recordings, in a folder for each class, as one zip."""

import secrets
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rales.inference import segments
from rales.typing import Row
from rales.web import cycle_edits
from rales.web.routes_exports import (
    README,
    attach_file,
    choose_unused_name,
    describe_label_source,
    usable_lines,
    why_no_cycles,
    write_readme,
)
from rales.web.routes_sessions import describe_binary, known_session
from rales.web.security import ApiError
from rales.web.service import Service
from rales.web.store import remove_tree

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_segment_routes(app: "FastAPI", service: Service) -> None:
    from fastapi.responses import FileResponse
    from starlette.background import BackgroundTask

    @app.get(
        "/sessions/{session}/segments/export", response_class=FileResponse, responses=describe_binary("application/zip")
    )
    def export_segments(session: str) -> FileResponse:
        """The cycles as they stand, cut out of their recordings, in a folder for each class. Not a diagnosis."""
        row = known_session(service, session)
        if service.label_set.independent:
            raise ApiError(422, "clips are of one class each, and a cycle of this model's classes may have several")
        place = service.arriving / secrets.token_hex(8)
        try:
            archive = write_segments(service, row, place)
        except BaseException:
            remove_tree(place)
            raise
        headers = attach_file(row["name"], ".clips.zip")
        task = BackgroundTask(remove_tree, place)
        return FileResponse(archive, media_type="application/zip", headers=headers, background=task)


def why_not_decoded(service: Service, recording: str) -> str:
    """Have the sound of a recording decoded -> why it cannot be, "" where it is there."""
    try:
        service.ensure_sound(recording)
    except ApiError as error:
        if error.status == 503:  # the decoder's fault, which would cost every recording
            raise
        return error.sentence
    return ""


def write_segments(service: Service, session: Row, place: Path) -> Path:
    """A session -> a zip in the new folder `place`: LABEL/RECORDING_START-END_PROBABILITY.wav, segments.csv and
    README.txt, which says what stands behind the labels and what is left out. Errors: ApiError without a clip."""
    clips, archive = place / "clips", place / "clips.zip"
    clips.mkdir(parents=True)
    tables, files, written, left_out = list[pd.DataFrame](), dict[str, str](), list[str](), list[str]()
    names = set[str]()
    for row in service.session_rows(session["id"]):
        title = cycle_edits.recording_title(row["path"])
        if why := why_no_cycles(row) or service.missing_sound(row) or why_not_decoded(service, row["id"]):
            left_out.append(f"{title}: {why}")
            continue
        name = choose_unused_name(cycle_edits.safe_path(title), names)
        files[name] = str(service.store.place(row["id"]) / "audio.wav")
        lines = pd.DataFrame(
            [
                {
                    **{column: line[column] for column in ("label", "start_s", "end_s")},
                    "probability": line.get(f"p_{line['label']}"),
                    "confirmed": bool(line["confirmed"]),
                }
                for line in usable_lines(row, service)
            ]
        )
        if len(lines):
            tables.append(lines.assign(recording=Path(name).name, path=name))
        written.append(f"{name}: {describe_label_source(row)}")
    if not tables:
        raise ApiError(409, f"{session['name']}: no recording in it has a cycle, so there is nothing to cut yet")

    events = pd.concat(tables, ignore_index=True)
    segments.write_clips(events.astype({"probability": float}), clips, 0.0, files)
    readme = write_readme(session["name"], "segments", written, left_out)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as content:
        for file in sorted(clips.rglob("*.*")):
            content.write(file, file.relative_to(clips).as_posix())
        content.writestr(README, readme)
    return archive
