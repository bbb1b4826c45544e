"""The report of a recording as one HTML page to print: facts, picture, and cycles as people and the model call them."""

import itertools
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rales import __version__
from rales.data.events import Event
from rales.errors import UsageError, count_noun
from rales.evaluation import conformal
from rales.inference.recording_picture import MOST_S, plot_recording
from rales.labels import JOINED
from rales.optional_packages import require_packages
from rales.report.page import Block, Items, Picture, Section, Table, Text, render_html
from rales.report.plots import render_png
from rales.typing import Row
from rales.web import cycle_edits
from rales.web.routes_exports import decided_alone, why_no_cycles
from rales.web.routes_reports import drawing
from rales.web.security import ApiError
from rales.web.store import Who

if TYPE_CHECKING:
    from rales.web.service import Service

STRIP_S = 20.0  # of one picture at most: its words can be read on a sheet of paper
SITES = {
    "Tc": "trachea",
    "Al": "left anterior",
    "Ar": "right anterior",
    "Pl": "left posterior",
    "Pr": "right posterior",
    "Ll": "left lateral",
    "Lr": "right lateral",
}


def render_recording(service: "Service", recording: str, who: Who) -> str:
    """-> the report of a recording, or of what a reader has decided in it, without other files and without its sound.
    Errors: ApiError."""
    try:
        require_packages("a report", "report", "jinja2", "matplotlib")
    except UsageError as error:
        raise ApiError(501, str(error)) from error
    row = decided_alone(service.known(recording, who), who)
    title = cycle_edits.recording_title(row["path"] or row["name"])
    lines = service.lines(row)
    first: list[Block] = [
        Items(describe_recording(service, row, who)),
        Text(summarise(service, row)),
    ]
    cycles: list[Block] = [tabulate_cycles(service, lines)]
    if len(row["events"]):
        cycles.append(tabulate_events(row["events"]))
    sections = [Section("cycles", "Cycles", cycles)]
    if not service.missing_sound(row):
        sections.insert(0, Section("picture", "Picture", draw_strips(service, row, lines)))
    return render_html(title, first, sections)


def describe_recording(service: "Service", row: Row, who: Who) -> list[tuple[str, str]]:
    """A row of `Service.known` -> what is known of it, by name."""
    name = service.models.default
    digest = service.models.known_digest(name)
    listed = [
        ("Patient", row["patient"] or "not known"),
        ("Site", SITES.get(row["location"], row["location"]) or "not known"),
        ("Device", row["device"] or "not known"),
        ("Note", row["note"]),
        ("Length", f"{row['duration_s']:.1f} s, {count_noun(row['channels'], 'channel')}, {row['rate_hz']} Hz"),
        ("Sound", "judged" if row["judged"] else f"not judged: {row['quality_reason']}"),
        ("SHA-256", str(row["digest"])),
        ("Reader", f"{who.reader}, round {who.round}" if who.reader else ""),
        ("Annotation", f"revision {row['revision']}" if row["revision"] else "as it came: nobody has changed it"),
        ("Model", name + (f", digest {digest[:16]}" if digest else "")),
        ("Made by", f"Rales {__version__}, {time.strftime('%Y-%m-%d %H:%M %Z')}"),
    ]
    notes = row["notes"] + ([row["problem"]] if row["problem"] else [])
    return [(label, text) for label, text in listed if text] + [("Remark", note) for note in notes]


def summarise(service: "Service", row: Row) -> str:
    """A row of `Service.known` -> one paragraph on its cycles."""
    if why := why_no_cycles(row):
        return f"No cycles to show: {why}."
    usable = [cycle for cycle in row["cycles"] if not cycle.get("unusable")]
    counts = service.count_findings(row["cycles"])
    found = ", ".join(f"{many} {label}" for label, many in counts.items() if many) or "none of a class"
    confirmed = sum(bool(cycle["confirmed"]) for cycle in usable)
    text = f"{count_noun(len(usable), 'cycle')}: {found}. {confirmed} confirmed by a person"
    unusable = len(row["cycles"]) - len(usable)
    return text + (f", {unusable} more called unusable." if unusable else ".")


def tabulate_cycles(service: "Service", lines: list[Row]) -> Table:
    """Rows of `Service.lines` -> each label beside the model's answer for just that stretch."""
    sets = any(line["prediction_set"] for line in lines)
    rows = []
    for number, line in enumerate(lines, start=1):
        answer = line["model_label"]
        share = "–" if answer is None else f"{100 * cycle_edits.certainty(line, service.label_set):.0f} %"
        said = "confirmed" if line["confirmed"] else "not confirmed"
        cells = [str(number), f"{line['start_s']:.3f} to {line['end_s']:.3f}"]
        cells += ["unusable" if line["unusable"] else line["label"], said, answer or "–", share]
        rows.append(
            [
                *cells,
                *([describe_set(line["prediction_set"], service.label_set.independent)] if sets else []),
                line["note"],
            ]
        )
    return Table(
        "Cycles as they stand, beside the model",
        ["Cycle", "Seconds", "Label", "By a person", "Model", "Probability", *(["Set, 90 %"] if sets else []), "Note"],
        rows,
        note="Labels that nobody has confirmed are those of the model or of the annotation that came along. The "
        "probability is that of the model's own label.",
    )


def describe_set(prediction_set: str, independent: bool) -> str:
    """A word of `name_sets` or "" -> "normal or wheeze", of independent classes "wheeze, perhaps crackle"."""
    whole = {"": "–", conformal.ANY: "any label", conformal.NO_LABEL: "no label fits"}
    if prediction_set in whole:
        return whole[prediction_set]
    if not independent:
        return prediction_set.replace(" | ", " or ")
    parts = sorted(prediction_set.split(JOINED), key=lambda part: part.endswith("?"))  # what is heard comes first
    return ", ".join(f"perhaps {part[:-1]}" if part.endswith("?") else part for part in parts)


def tabulate_events(events: list[Row]) -> Table:
    """Events as they are kept -> their kinds, times and frequencies."""
    rows = [
        [
            event["kind"],
            f"{event['start_s']:.3f}" + (f" to {event['end_s']:.3f}" if event["end_s"] > event["start_s"] else ""),
            "–" if event["low_hz"] is None else f"{event['low_hz']:.0f} to {event['high_hz']:.0f}",
        ]
        for event in events
    ]
    return Table("Events that people have marked", ["Event", "Seconds", "Hz"], rows)


def draw_strips(service: "Service", row: Row, lines: list[Row]) -> list[Block]:
    """Rows of `Service.lines` -> pictures of equal lengths, up to 20 s."""
    service.ensure_sound(row["id"])
    sound = service.store.place(row["id"]) / "audio.wav"
    columns = ["start_s", "end_s", "label", *service.label_set.columns]
    table = pd.DataFrame(
        [{**line, "label": "unusable" if line["unusable"] else line["label"]} for line in lines], columns=columns
    )
    events = [Event(**event) for event in row["events"]]
    strips: list[Block] = []
    seconds = min(row["duration_s"], MOST_S)
    ends_s = np.linspace(0, seconds, math.ceil(seconds / STRIP_S) + 1).tolist()
    for number, (start_s, end_s) in enumerate(itertools.pairwise(ends_s)):
        with drawing:
            figure = plot_recording(sound, table, row["name"], events=events, start_s=start_s, end_s=end_s)
            png = render_png(figure)
        about = f"{start_s:.1f} to {end_s:.1f} s: cycles with their labels, and what probability the model gives these"
        strips.append(Picture(f"strip-{number}.png", f"Spectrogram, {about}", about, png))
    return strips
