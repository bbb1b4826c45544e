"""Check rows read from the database; a damaged row affects its own recording only.

A row may be damaged by a disk or by another program, or hold numbers that are none: models of before answered "normal"
where they had no number. What cannot be read is left out, and `unreadable` or `problem` says so.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from rales.labels import JOINED, NOTHING, LabelSet
from rales.typing import Row
from rales.web import event_marks

STATUSES = ("waiting", "ready", "failed")
LONGEST_FACTS = {"patient": 60, "location": 60, "device": 60, "note": 1000}  # letters of each fact of a recording
AGAIN = "remove the recording and send it again"


class OtherLabels(ValueError):
    """A label or probability of another set: of a service that served another model. They are kept as they are."""


def read_session(row: Row) -> Row:
    """A row of `sessions` -> the same with a name and a time in it, whatever stood there."""
    return {**row, "name": str(row["name"]), "created": finite_number(row["created"]) or 0.0}


def read_recording(row: Row, label_set: LabelSet) -> Row:
    """A row of store.STANDING -> the same with its JSON read; `problem` says what is damaged, and `unreadable` that
    its cycles are, or have labels that are not of the set: "" where they can be told."""
    facts, damage = read_facts(row)
    scored, no_scores = try_read(read_scored, row["scored"], label_set)
    original, no_original = try_read(read_marked, row["original"], label_set)
    saved, no_saved = try_read(read_marked, row["saved"], label_set)
    if no_scores and has_other_labels(read_scored, row["scored"], label_set):
        no_scores = ""  # the model of this name was another one then, and has not answered yet
    wrong = {"original": no_original, "saved": no_saved}
    others = {name for name, why in wrong.items() if why and has_other_labels(read_marked, row[name], label_set)}
    if no_scores and row["origin"] != "annotation":  # then they are labels without an answer behind them
        original, no_original = None, no_original or no_scores

    unreadable = ""
    if "saved" in others or ("original" in others and row["saved"] is None):
        unreadable = (
            f"its cycles are of a model of other classes ({no_saved or no_original}); serve that model to go on with "
            "them, or annotate it anew"
        )
    elif no_saved:
        unreadable = (
            f"revision {row['revision']} of its annotation cannot be read ({no_saved}); restore an earlier one from "
            "its history, or annotate it anew"
        )
    elif no_original and saved is None:
        unreadable = f"the cycles it began with cannot be read ({no_original}); {AGAIN}"
    events, no_events = try_read_events(row["events"])
    if no_events:
        damage.append(f"the events that were marked in it cannot be read ({no_events}); restore an earlier revision")
    said, no_facts = read_said(row["facts"])
    if no_facts:
        damage.append(f"what was said of its patient, site and device cannot be read ({no_facts}); say it again")
    if no_scores and not unreadable:
        damage.append(f"what the model said of it cannot be read ({no_scores})")
    damage += [unreadable] if unreadable else []

    return {
        **row,
        **facts,
        **({"status": "failed", "problem": "; ".join(damage)} if damage else {}),
        "scored": scored,
        "made": finite_number(row["made"]) if scored is not None else None,
        "original": original,
        "origin": row["origin"] if original is not None else None,
        "original_lost": bool(no_original) and "original" not in others,
        "saved": saved,
        "events": events,
        "unreadable": unreadable,
        "said": said,
    }


def try_read(
    read: Callable[[Any, LabelSet], list[Row] | None], text: Any, label_set: LabelSet
) -> tuple[list[Row] | None, str]:
    """-> what `read` makes of a text, and "" or why it cannot be read."""
    try:
        return read(text, label_set), ""
    except ValueError as error:
        return None, str(error)


def has_other_labels(read: Callable[[Any, LabelSet], list[Row] | None], text: Any, label_set: LabelSet) -> bool:
    """Whether `read` cannot read a text because what it holds is of another label set, and for no other reason."""
    try:
        read(text, label_set)
    except OtherLabels:
        return True
    except ValueError:
        pass
    return False


def read_facts(row: Row) -> tuple[Row, list[str]]:
    """A row of `recordings` -> its columns as what they should be, and sentences on those that were not."""
    words = {name: str(row[name]) for name in ("name", "path", "status", "problem")}
    numbers = {name: finite_number(row[name]) for name in ("duration_s", "rate_hz", "channels", "reviewed")}
    wrong = [name for name, value in numbers.items() if value is None or value < 0]
    wrong += ["status"] if words["status"] not in STATUSES else []
    valid = {name: value if value is not None and name not in wrong else 0 for name, value in numbers.items()}
    valid |= {name: int(valid[name]) for name in ("rate_hz", "channels", "reviewed")}
    return {**words, **valid}, [f"its {', '.join(wrong)} cannot be read; {AGAIN}"] if wrong else []


def read_said(text: Any) -> tuple[Row, str]:
    """JSON of the store -> the facts that were said and their `revision`, and "" or why they cannot be read."""
    try:
        kept = json.loads(text)
        words = {part: kept[part] for part in LONGEST_FACTS if part in kept}
        revision = kept.get("revision", 0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {"revision": 0}, "no JSON of facts"
    if not isinstance(revision, int) or not all(isinstance(word, str) for word in words.values()):
        return {"revision": 0}, "a fact is no text"
    return {**words, "revision": revision}, ""


def finite_number(value: Any) -> float | None:
    """-> the same if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def read_marked(text: Any, label_set: LabelSet) -> list[Row] | None:
    """JSON of an annotation or of the cycles that a recording began with -> rows with start_s, end_s, label and
    confirmed; None where there is none. ValueError; `OtherLabels` for labels that are not of the set."""
    if text is None:
        return None
    rows = read_rows(text)
    for place, row in enumerate(rows, start=1):
        if not isinstance(label := row.get("label"), str) or not label:
            raise ValueError(f"cycle {place} has no label")
        if not is_label(label, label_set):
            raise OtherLabels(f"cycle {place} has the label {label!r}, expected {', '.join(label_set.classes)}")
        row["confirmed"] = bool(row.get("confirmed"))
        if "unusable" in row:
            row["unusable"] = bool(row["unusable"])
        if "note" in row:
            row["note"] = str(row["note"])
    return rows


def try_read_events(text: Any) -> tuple[list[Row], str]:
    """JSON of the events of an annotation (None where there is none) -> its events, none if they are damaged, and "" or
    why they cannot be read."""
    try:
        rows = [] if text is None else json.loads(text)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return [], "no list of events"
        return event_marks.check_events(rows, None), ""
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return [], str(error) if type(error) is ValueError else "no JSON of events"


def read_scored(text: Any, label_set: LabelSet) -> list[Row] | None:
    """JSON of what a model said -> rows with start_s, end_s, label, p_… and the rest; None where there is none.
    ValueError, also for a label beside which no probabilities stand: that is no answer."""
    if text is None:
        return None
    rows = read_rows(text)
    for place, row in enumerate(rows, start=1):
        if other := sorted(name for name in row.keys() - set(label_set.columns) if name.startswith("p_")):
            raise OtherLabels(f"cycle {place} has {other[0]}, a probability of another class")
        shares = [row.get(name) for name in label_set.columns]
        row |= dict(zip(label_set.columns, shares, strict=True))
        label, truth = row.setdefault("label", None), row.setdefault("true_label", None)
        if not all(each is None or is_label(each, label_set) for each in (label, truth)):
            raise ValueError(f"cycle {place} has an unknown label")
        if any(share is not None and finite_number(share) is None for share in shares):
            raise ValueError(f"cycle {place} has a probability that is no number")
        if label is not None and None in shares:
            raise ValueError(f"cycle {place} has a label without probabilities")
        row |= {name: str(row.get(name) or "") for name in ("quality", "quality_reason", "prediction_set")}
    return rows


def is_label(label: Any, label_set: LabelSet) -> bool:
    """Whether a value is a label of a set as it is kept."""
    if not label_set.independent or not isinstance(label, str):
        return label in label_set.classes
    parts = label.split(JOINED)
    return label == NOTHING or parts == [name for name in label_set.classes if name in parts]


def read_rows(text: Any) -> list[Row]:
    """JSON -> a list of rows with start_s and end_s. ValueError."""
    try:
        rows = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list of cycles")
    for place, row in enumerate(rows, start=1):
        start_s, end_s = finite_number(row.get("start_s")), finite_number(row.get("end_s"))
        if start_s is None or end_s is None or not 0 <= start_s < end_s:
            raise ValueError(f"cycle {place} has no times")
    return rows
