"""Read events as other programs write them: Raven selection tables, Audacity labels, the `_events.txt` of ICBHI 2017,
SPRSound's JSON and annotation sets of soundevent (AOEF). Which of them a text is, is seen from what stands in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rales.data.annotation_dialects import cell_text
from rales.data.annotations import RAVEN_LABELS
from rales.data.events import EXPIRATION, KINDS, SPRSOUND_KINDS, Event, event_problem, find_kind, sort_events
from rales.data.raven_tables import RAVEN_TIMES, choose_recording, read_selections, times_in_file
from rales.data.reader import list_some, parse_number, read_text
from rales.errors import FileError
from rales.files.csv_cells import one_line
from rales.files.json_files import parse_json

_RAVEN_EVENTS: Final = ("event", *RAVEN_LABELS)  # columns of words, the first that is there
_RAVEN_BAND: Final = ("low freq (hz)", "high freq (hz)")


class EventFile(NamedTuple):
    """Events sorted by start, in which form they stood there ("" for none that is known), a sentence per fault, and
    notes on what is no event and was left out."""

    form: str
    events: list[Event]
    problems: list[str]
    notes: list[str]


_Found = Iterator[Event | str]  # an event, or what is wrong with a row, with its place in front
_Words = dict[str, int]  # what stood where a kind of event was expected, and how often


def read_events(path: str | Path, duration_s: float | None = None, recording: str = "") -> list[Event]:
    """File of events, in any of these forms -> its events, sorted by start.

    Parameters
    ----------
    path
        A Raven selection table, an Audacity label track, an `_events.txt` of ICBHI 2017, SPRSound's JSON, or an
        annotation set of soundevent (AOEF).
    duration_s
        Length of its recording in seconds, if events past its end are to be refused.
    recording
        Which recording is meant, by the name of its file, where an annotation set or a Raven table holds several.

    Errors: a ValueError with the first thing that is wrong with it; labels that are no kind of event are passed over.
    """
    path = Path(path)
    found = parse_events(read_text(path), str(path), duration_s, recording)
    if found.problems:
        raise ValueError(found.problems[0])
    return found.events


def parse_events(text: str, name: str, duration_s: float | None = None, recording: str = "") -> EventFile:
    """Text of a file of events, what people know it by, and the rest as for `read_events` -> what is in it; nothing is
    raised."""
    words, others = _Words(), list[str]()
    try:
        form, rows = _choose_parser(text, name, recording, words, others)
        found = list(rows)
    except ValueError as error:
        return EventFile("", [], [str(error)], [])
    events, problems = list[Event](), list[str]()
    for place, each in enumerate(found, start=1):
        wrong = each if isinstance(each, str) else event_problem(each, duration_s)
        if wrong:
            problems.append(wrong if isinstance(each, str) else f"{name}, event {place}: {wrong}")
        elif isinstance(each, Event):
            events.append(each)
    left_out = [f"{word} ({count})" if count > 1 else word for word, count in words.items()]
    notes = [f"{name}: left out what is no kind of event: {list_some(left_out)}"] if words else []
    notes += others
    if not events and not problems and form != "sprsound":
        problems = [
            f"{name}: no event in it; expected one of {', '.join(KINDS)}" + "".join(f" ({note})" for note in notes)
        ]
    return EventFile(form, sort_events(dict.fromkeys(events)), problems, notes)


def _choose_parser(text: str, name: str, recording: str, words: _Words, notes: list[str]) -> tuple[str, _Found]:
    """Text -> its form, and what is found in it row by row; `words` and `notes` are filled meanwhile. Errors: a
    ValueError for a text of no form."""
    if text.lstrip().startswith("{"):
        document = parse_json(text, name, "replace it by the file as it was exported")
        if isinstance(document, dict) and "event_annotation" in document:
            return "sprsound", _parse_sprsound(document, name, words)
        if isinstance(document, dict) and isinstance(document.get("data"), dict):
            return "aoef", _parse_aoef(document["data"], name, recording, words, notes)
        raise FileError(
            name, "no events in this JSON; expected `event_annotation` of SPRSound, or an annotation set of soundevent"
        )
    written = [(place, line) for place, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not written:
        raise FileError(name, "empty, expected a line `start end crackle` per event")
    header = [column.strip().lower() for column in written[0][1].split("\t")]
    if set(RAVEN_TIMES) <= set(header):
        return "raven", _parse_raven(header, written[1:], name, recording, words, notes)
    tracks = any("\t" in line for _, line in written)
    return ("audacity" if tracks else "icbhi"), _parse_labels(written, name, words)


def _parse_raven(
    header: list[str], written: Sequence[tuple[int, str]], name: str, recording: str, words: _Words, notes: list[str]
) -> _Found:
    """Rows of a Raven table; a selection may stand there once for every view, that of the spectrogram then counts. Of a
    table of several files those of this recording count, at their times in that file."""
    label = next((header.index(column) for column in _RAVEN_EVENTS if column in header), None)
    if label is None:
        raise FileError(
            name, f"no column of labels; expected one of {', '.join(column.title() for column in _RAVEN_EVENTS)}"
        )
    for place, row in read_selections(header, written, name, recording, notes):
        where = f"{name}, line {place}"
        in_spectrogram = not row.get("view", "").lower().startswith("waveform")
        band = [row.get(column, "") for column in _RAVEN_BAND] if in_spectrogram else ["", ""]
        begin, end = times_in_file(row)
        times = (begin, begin if row.get("point", "").lower() == "yes" else end)
        yield from _make_event(where, row.get(header[label], ""), times, band, words)


def _parse_labels(written: Sequence[tuple[int, str]], name: str, words: _Words) -> _Found:
    """Lines `start end word`, with or without the rows of frequencies of Audacity behind them."""
    for number, (place, line) in enumerate(written):
        if line.startswith("\\"):
            continue
        columns = [column.strip() for column in line.split("\t")] if "\t" in line else line.split(None, 2)
        where = f"{name}, line {place}"
        if len(line.split()) == 4 and set(line.split()[2:]) <= {"0", "1"}:
            raise FileError(
                where, "cycles (start end crackles wheezes), no events; give it as the annotation of its recording"
            )
        if len(columns) != 3:
            yield f"{where}: {len(columns)} columns, expected start, end and the kind of event"
            continue
        following = written[number + 1][1] if number + 1 < len(written) else ""
        band = [cell.strip() for cell in following.split("\t")[1:3]] if following.startswith("\\") else ["", ""]
        if following.startswith("\\") and len(band) < 2:
            yield f"{name}, line {written[number + 1][0]}: expected the lowest and the highest frequency behind \\"
            continue
        undefined = any((parse_number(hertz) or 0) < 0 for hertz in band)  # Audacity writes -1
        yield from _make_event(where, columns[2], columns[:2], ["", ""] if undefined else band, words)


def _make_event(where: str, word: str, times: Sequence[str], band: Sequence[str], words: _Words) -> _Found:
    """Texts of one row -> its event, none if its word is no kind, which `words` counts, or what is wrong with it."""
    kind = find_kind(word)
    if kind is None:
        words[one_line(word)[:60] or "no label"] = words.get(one_line(word)[:60] or "no label", 0) + 1
        return
    start_s, end_s = (parse_number(time) for time in times)
    if start_s is None or end_s is None:
        yield f"{where}: start and end are {times[0]!r} and {times[1]!r}, expected numbers of seconds"
        return
    low_hz, high_hz = (parse_number(hertz) for hertz in band)
    if any(band) and (low_hz is None or high_hz is None):
        yield f"{where}: frequencies are {band[0]!r} and {band[1]!r}, expected numbers of hertz"
        return
    if low_hz == high_hz or kind == EXPIRATION:  # a place that was clicked; it has no extent
        low_hz = high_hz = None
    event = Event(kind, start_s, end_s, low_hz, high_hz)
    wrong = event_problem(event, None)
    yield f"{where}: {wrong}" if wrong else event


def _parse_sprsound(document: Mapping[str, Any], name: str, words: _Words) -> _Found:
    rows, turns = document["event_annotation"], document.get("expiration_ms", [])
    if not isinstance(rows, list) or not isinstance(turns, list):
        raise FileError(name, "event_annotation is no list of events")
    for number, row in enumerate(rows, start=1):
        where = f"{name}, event {number}"
        if not isinstance(row, dict) or not {"start", "end", "type"} <= row.keys():
            yield f"{where}: expected start, end and type"
            continue
        word = cell_text(row["type"])
        start_ms, end_ms = parse_number(row["start"]), parse_number(row["end"])
        if start_ms is None or end_ms is None:
            said = f"{cell_text(row['start'])!r} and {cell_text(row['end'])!r}"
            yield f"{where}: start and end are {said}, expected milliseconds"
            continue
        if word not in SPRSOUND_KINDS:
            words[one_line(word)[:60]] = words.get(one_line(word)[:60], 0) + 1
        end_ms = start_ms if row.get("point") is True else end_ms
        band = [cell_text(row.get(side)) for side in ("low_hz", "high_hz")]
        for kind in SPRSOUND_KINDS.get(word, ()):
            yield from _make_event(where, kind, [str(start_ms / 1000), str(end_ms / 1000)], band, words)
    for turn in turns:
        turn_ms = parse_number(turn)
        yield (
            f"{name}: expiration_ms holds {cell_text(turn)!r}, expected milliseconds"
            if turn_ms is None
            else Event(EXPIRATION, turn_ms / 1000, turn_ms / 1000)
        )


def _parse_aoef(data: Mapping[str, Any], name: str, recording: str, words: _Words, notes: list[str]) -> _Found:
    """An annotation set: annotations of sound events, whose geometry and tags stand in lists of their own."""

    def listed(part: str) -> list[dict[str, Any]]:
        rows = data.get(part) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FileError(name, f"{part} is no list of objects")
        return rows

    tags = {cell_text(row.get("id")): row for row in listed("tags")}
    sounds, recordings = (
        {cell_text(row.get("uuid")): row for row in listed(part)} for part in ("sound_events", "recordings")
    )
    names = {uid: cell_text(row.get("path")) for uid, row in recordings.items()}
    chosen = choose_recording(names, name, recording, notes)
    for number, row in enumerate(listed("sound_event_annotations"), start=1):
        where = f"{name}, annotation {number}"
        sound = sounds.get(cell_text(row.get("sound_event")))
        if sound is None:
            yield f"{where}: its sound event is not in the file"
            continue
        if cell_text(sound.get("recording")) not in chosen:
            continue
        named = row.get("tags") or []
        values = (
            [cell_text(tags.get(cell_text(tag), {}).get("value")) for tag in named] if isinstance(named, list) else []
        )
        known = [value for value in values if find_kind(value)]
        geometry = sound.get("geometry")
        extent = (
            _extent_of(geometry.get("coordinates"), cell_text(geometry.get("type")))
            if isinstance(geometry, dict)
            else None
        )
        if extent is None:
            yield f"{where}: its geometry cannot be read; expected a TimeStamp, TimeInterval or BoundingBox"
            continue
        for word in known or ["+".join(values)]:
            yield from _make_event(where, word, extent[:2], extent[2:], words)


def _extent_of(coordinates: Any, kind: str) -> list[str] | None:
    """Geometry of soundevent -> start, end, lowest and highest frequency as text, "" for none; None: it is damaged."""
    if kind == "TimeStamp":
        return [cell_text(coordinates), cell_text(coordinates), "", ""]
    if kind == "TimeInterval" and isinstance(coordinates, list) and len(coordinates) == 2:
        return [cell_text(coordinates[0]), cell_text(coordinates[1]), "", ""]
    if kind == "BoundingBox" and isinstance(coordinates, list) and len(coordinates) == 4:
        start, low, end, high = map(cell_text, coordinates)
        return [start, end, low, high]
    points = _pairs_in(coordinates)
    if kind in ("TimeStamp", "TimeInterval", "BoundingBox") or not points:
        return None
    times, hertz = zip(*points, strict=True)
    return [str(min(times)), str(max(times)), str(min(hertz)), str(max(hertz))]


def _pairs_in(coordinates: Any) -> list[tuple[float, float]]:
    """Nested lists of a line or a polygon -> its corners (seconds, hertz)."""
    if not isinstance(coordinates, list):
        return []
    numbers = [each for each in coordinates if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(coordinates) == 2 and len(numbers) == 2:
        return [(float(numbers[0]), float(numbers[1]))]
    return [pair for each in coordinates for pair in _pairs_in(each)]
