"""Write the events of a recording in the formats of other programs.

    raven      selection table: a box is a row of the spectrogram's view, what has no frequencies one of the waveform's
    audacity   label track; a line that begins with a backslash holds the frequencies of the label above it
    icbhi      `_events.txt`: start, end, and crackle or wheeze; no frequencies, no other words, no phases
    sprsound   JSON of SPRSound, times in whole milliseconds; frequencies, points and phases stand in fields of our own
    aoef       JSON of soundevent and whombat: an annotation set

What a format cannot say is left out; only `sprsound` refuses a crackle that is neither fine nor coarse.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from rales.data.events import CRACKLES, EXPIRATION, KINDS, SPRSOUND_KINDS, WHEEZES, Event, sort_events
from rales.evaluation.predictions import NOTICE
from rales.files.csv_cells import one_line

FORMATS: Final = {  # what the file of a recording's events is called after its name
    "raven": "_events.raven.txt",
    "audacity": "_events.audacity.txt",
    "icbhi": "_events.txt",
    "sprsound": ".json",
    "aoef": "_events.aoef.json",
}
POINT_MS: Final = 10  # that a point lasts where an event must have a length; another field then says that it is one
RAVEN_COLUMNS: Final = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin File", "Event", "Point"),
)
_TYPES: Final = {kinds[0]: word for word, kinds in SPRSOUND_KINDS.items() if len(kinds) == 1}
_SPACE: Final = uuid.UUID("2a5ab4f1-4b1c-5d64-8f0c-6f1d3b0f7a55")  # of the names in an annotation set


class Marked(NamedTuple):
    """The events of one recording, and what a file of them says of it besides: the name of its file, length in seconds,
    rate in Hz, channels, and whether its cycles hold crackles and wheezes anywhere (0 or 1)."""

    events: Sequence[Event]
    file: str
    duration_s: float
    rate_hz: int = 16_000
    channels: int = 1
    crackle: int = 0
    wheeze: int = 0


def format_events(marked: Marked, form: str) -> str:
    """Events of a recording -> the text of their file in a form of FORMATS. Errors: a ValueError where that cannot say
    one of them."""
    if form not in FORMATS:
        raise ValueError(f"{form!r} is no format of events; expected one of {', '.join(FORMATS)}")
    return _WRITERS[form](marked._replace(events=sort_events(marked.events), file=one_line(marked.file)))


def _format_raven(marked: Marked) -> str:
    lines = ["\t".join(RAVEN_COLUMNS)]
    for number, (kind, start_s, end_s, low_hz, high_hz) in enumerate(marked.events, start=1):
        view = "Waveform 1" if low_hz is None else "Spectrogram 1"
        low, high = (0.0, marked.rate_hz / 2) if low_hz is None or high_hz is None else (low_hz, high_hz)
        point = start_s == end_s
        times = f"{start_s:.6f}", f"{start_s + POINT_MS / 1000 if point else end_s:.6f}"
        cells = (number, view, 1, *times, f"{low:.3f}", f"{high:.3f}", marked.file, kind, "yes" if point else "")
        lines.append("\t".join(map(str, cells)))
    return "\n".join(lines) + "\n"


def _format_audacity(marked: Marked) -> str:
    lines = []
    for kind, start_s, end_s, low_hz, high_hz in marked.events:
        lines.append(f"{start_s:.6f}\t{end_s:.6f}\t{kind}\n")
        if low_hz is not None and high_hz is not None:
            lines.append(f"\\\t{low_hz:.6f}\t{high_hz:.6f}\n")
    return "".join(lines)


def _format_icbhi(marked: Marked) -> str:
    words = dict.fromkeys(CRACKLES, "crackle") | dict.fromkeys(WHEEZES, "wheeze")
    known = [event for event in marked.events if event.kind in words]
    return "".join(f"{event.start_s:.3f} {event.end_s:.3f} {words[event.kind]}\n" for event in known)


def _format_sprsound(marked: Marked) -> str:
    unclear = [event for event in marked.events if event.kind == "crackle"]
    if unclear:
        raise ValueError(
            f"{len(unclear)} crackles are neither fine nor coarse (the first at {unclear[0].start_s:g} s), and "
            "SPRSound has no word for that; say which they are, or choose another format"
        )
    rows = []
    for event in marked.events:
        if event.kind == EXPIRATION:
            continue
        start_ms, end_ms = round(event.start_s * 1000), round(event.end_s * 1000)
        row: dict[str, Any] = {"start": str(start_ms), "end": str(end_ms), "type": _TYPES[event.kind]}
        if start_ms == end_ms:
            row |= {"end": str(start_ms + POINT_MS), "point": True}
        if event.low_hz is not None:
            row |= {"low_hz": event.low_hz, "high_hz": event.high_hz}
        rows.append(row)
    crackle = marked.crackle or any(event.kind in CRACKLES for event in marked.events)
    wheeze = marked.wheeze or any(event.kind in WHEEZES for event in marked.events)
    label = " & ".join([*(["CAS"] if wheeze else []), *(["DAS"] if crackle else [])]) or "Normal"
    turns = [round(event.start_s * 1000) for event in marked.events if event.kind == EXPIRATION]
    document = {"record_annotation": label, "event_annotation": rows, "expiration_ms": turns, "notice": NOTICE}
    return json.dumps(document, indent=1) + "\n"


def _format_aoef(marked: Marked) -> str:
    """One annotation set; its ids follow from its content, so that the same events are the same file."""

    def name(*parts: object) -> str:
        return str(uuid.uuid5(_SPACE, "/".join(map(str, (marked.file, *parts)))))

    kinds = sorted({event.kind for event in marked.events}, key=KINDS.index)
    numbered = list(enumerate(marked.events))
    recording, clip = name("recording"), name("clip")
    data = {
        "uuid": name("set", *marked.events),
        "collection_type": "annotation_set",
        "name": marked.file,
        "description": NOTICE,
        "tags": [{"id": number, "key": "respiratory_event", "value": kind} for number, kind in enumerate(kinds)],
        "recordings": [
            {
                "uuid": recording,
                "path": marked.file,
                "duration": marked.duration_s,
                "channels": marked.channels,
                "samplerate": marked.rate_hz,
            }
        ],
        "clips": [{"uuid": clip, "recording": recording, "start_time": 0.0, "end_time": marked.duration_s}],
        "sound_events": [
            {"uuid": name("sound", i, event), "recording": recording, "geometry": _geometry_of(event)}
            for i, event in numbered
        ],
        "sound_event_annotations": [
            {"uuid": name("said", i, event), "sound_event": name("sound", i, event), "tags": [kinds.index(event.kind)]}
            for i, event in numbered
        ],
        "clip_annotations": [
            {
                "uuid": name("annotation"),
                "clip": clip,
                "sound_events": [name("said", i, event) for i, event in numbered],
            }
        ],
    }
    return json.dumps({"version": "1.1.0", "data": data}, indent=1, ensure_ascii=False) + "\n"


def _geometry_of(event: Event) -> dict[str, Any]:
    _, start_s, end_s, low_hz, high_hz = event
    if low_hz is not None:
        return {"type": "BoundingBox", "coordinates": [start_s, low_hz, end_s, high_hz]}
    if event.is_point:
        return {"type": "TimeStamp", "coordinates": start_s}
    return {"type": "TimeInterval", "coordinates": [start_s, end_s]}


_WRITERS: Final[dict[str, Callable[[Marked], str]]] = {
    "raven": _format_raven,
    "audacity": _format_audacity,
    "icbhi": _format_icbhi,
    "sprsound": _format_sprsound,
    "aoef": _format_aoef,
}
