"""Check events that a person has marked, and make of them what `rales.data.event_writers` writes."""

import math
from collections.abc import Sequence
from typing import Any

from rales.data.event_writers import Marked
from rales.data.events import EXPIRATION, Event, event_problem, flags_of_events, sort_events
from rales.labels import LabelSet
from rales.typing import Row
from rales.web import cycle_edits
from rales.web.sandbox import PAGE_RATE_HZ


def check_events(given: Sequence[Row], duration_s: float | None, most: int | None = None) -> list[Row]:
    """Events as a visitor sent them, or as they are kept -> sorted, in whole milliseconds and tenths of a hertz, each
    once. ValueError names the first wrong one."""
    if most is not None and len(given) > most:
        raise ValueError(f"{len(given)} events, at most {most} are taken for one recording")
    events = dict[Event, int]()  # -> its number
    for number, row in enumerate(given, start=1):
        event = round_event(row, duration_s)
        if wrong := event_problem(event, duration_s):
            raise ValueError(f"event {number}: {wrong}")
        if (before := events.setdefault(event, number)) != number:
            raise ValueError(
                f"event {number}: the {event.kind} at {event.start_s:.3f} s, as event {before}; keep one of them"
            )
    return [event._asdict() for event in sort_events(events)]


def round_event(row: Row, duration_s: float | None) -> Event:
    """Row with kind, start_s, end_s and, where known, low_hz and high_hz -> the event, no later than the last whole
    millisecond of its recording; what is no number becomes NaN."""
    last_s = math.inf if duration_s is None else math.floor(duration_s * 1000 + 1e-6) / 1000

    def rounded(name: str, digits: int) -> float:
        value: Any = row.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return round(float(value), digits) if is_number else math.nan

    def hertz(name: str) -> float | None:
        return None if row.get(name) is None else rounded(name, 1)

    start_s, end_s = rounded("start_s", 3), rounded("end_s", 3)
    if duration_s is not None and last_s < end_s <= duration_s + 0.001:
        start_s, end_s = min(start_s, last_s), last_s
    return Event(str(row.get("kind")), start_s, end_s, hertz("low_hz"), hertz("high_hz"))


def marked_of(row: Row) -> Marked:
    """A row of `Service.standing` -> its events as the writers take them. What its cycles hold is what a person has
    confirmed, or the annotation that came along says; a model's word does not count."""
    came = {(*cycle_edits.row_times(cycle), cycle["label"]) for cycle in row["annotated"]}
    heard = [
        cycle
        for cycle in row["cycles"]
        if not cycle.get("unusable") and (cycle["confirmed"] or (*cycle_edits.row_times(cycle), cycle["label"]) in came)
    ]
    flags = {sign: int(any(cycle_edits.label_flag(cycle, sign) for cycle in heard)) for sign in ("crackle", "wheeze")}
    file = cycle_edits.base_name(row["path"]) or row["name"]
    events = [Event(**event) for event in row["events"]]
    return Marked(events, file, row["duration_s"], row["rate_hz"] or PAGE_RATE_HZ, row["channels"] or 1, **flags)


def describe_events(row: Row, label_set: LabelSet) -> str:
    """A row of `Service.standing` -> how many events of each kind it has, and how many cycles are called otherwise than
    those in them, in words."""
    kinds = [event["kind"] for event in row["events"]]
    counts: dict[str, Any] = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    words = [f"{count} {kind}" for kind, count in counts.items() if kind != EXPIRATION]
    turns = counts.get(EXPIRATION)
    said = ", ".join([*words, *([f"{turns} turns to expiration"] if turns else [])]) or "no event"
    unlike = count_disagreements(row, label_set)
    return f"{said}; {unlike} cycles are called otherwise than their events" if unlike else said


def count_disagreements(row: Row, label_set: LabelSet) -> int:
    """A row of `Service.standing` -> how many usable cycles have another label than the events in them say; 0 for own
    classes, of which the page alone tells that."""
    if not label_set.is_icbhi:
        return 0
    marked = [Event(**event) for event in row["events"]]
    said = [
        (cycle["label"], flags_of_events(marked, cycle["start_s"], cycle["end_s"]))
        for cycle in row["cycles"]
        if not cycle.get("unusable")
    ]
    return sum(flags is not None and label != label_set.label_flags(*flags) for label, flags in said)
