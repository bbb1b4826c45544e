"""Several readers of one session: what each may see before deciding, how far they agree, and what they settle on.

A reader has an annotation of their own for each round. It begins with the cycles that stand, without labels, so that
nothing suggests one. The page hides what models and other readers say of a cycle until this reader has decided it; the
service hands out other readers' labels for such cycles alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.evaluation.predictions import NOTICE
from rales.jobs import agreement
from rales.jobs.agreement import UNUSABLE, JudgedCycle, MatchedCycle, Reading
from rales.labels import LabelSet
from rales.typing import Row
from rales.web import cycle_edits, recording_facts, stored_rows
from rales.web.schemas import LONGEST_NAME, MOST_ROUNDS
from rales.web.security import ApiError
from rales.web.store import Store, Who

if TYPE_CHECKING:
    from rales.web.service import Service

RESAMPLES = 2000  # of the intervals on the page; the command takes more


def name_reader(reader: str, round_: int) -> Who:
    """A visitor's name of a reader, "" for none, and a round -> the same as they are kept. Errors: ApiError."""
    name = cycle_edits.clean_line(reader)
    if len(name) > LONGEST_NAME or (reader and not name):
        raise ApiError(422, f"the reader's name has {len(name)} letters, expected 1 to {LONGEST_NAME}")
    if not 1 <= round_ <= MOST_ROUNDS:
        raise ApiError(422, f"round {round_}, expected 1 to {MOST_ROUNDS}")
    return Who(name, round_) if name else Who()


def name_viewer(reader: str, round_: int) -> Who:
    """The same for whoever looks at a round, which one without a name does too."""
    return Who(name_reader(reader, round_).reader, round_)


def check_room(store: Store, row: Row, who: Who, most: int) -> None:
    """Errors: ApiError where a recording has so many annotations of readers that no further one is taken."""
    if not who.reader:
        return
    known = {Who(each["reader"], each["round"]) for each in store.list_readers(row["id"])}
    if who not in known and len(known) >= most:
        raise ApiError(507, f"{row['name']}: {most} annotations of readers and their rounds are kept already")


# What a reader sees


def without_labels(cycles: Sequence[Row], label_set: LabelSet) -> list[Row]:
    """Cycles as they stand -> the same times with nothing decided."""
    return [
        {**cycle_edits.row_span(cycle), "label": label_set.normal, "confirmed": False, "unusable": False}
        for cycle in cycles
    ]


def as_reader(standing: Row, own: Row, label_set: LabelSet) -> Row:
    """A row of `Service.standing` and a row of the store for a reader -> the first with that reader's annotation."""
    cycles = own.get("saved")
    if cycles is None:
        damaged = bool(own.get("revision")) and own["unreadable"]
        cycles = [] if damaged else without_labels(standing["cycles"], label_set)
    events = own.get("events", []) if own.get("revision") else []  # those of a file are somebody's, too
    row = {**standing, "cycles": cycles, "revision": own.get("revision", 0), "events": events, "note": ""}
    if own.get("revision") and (own["status"] == "failed" or standing["unreadable"]):  # damage is that of its own
        row |= {name: own[name] for name in ("unreadable", "status", "problem")}
    row["reviewed"] = bool(cycles) and all(cycle["confirmed"] for cycle in cycles)
    row["source"] = "person" if row["revision"] else standing["source"]
    return row


def blind_facts(facts: Row, row: Row, label_set: LabelSet) -> Row:
    """Line of the list of a row of `as_reader` -> the same without what a model says of it, or how sure it is."""
    decided = [cycle for cycle in row["cycles"] if cycle["confirmed"] and not cycle.get("unusable")]
    return {
        **facts,
        "answers": None,
        "findings": label_set.count_labels(cycle["label"] for cycle in decided),
        "uncertainty": 1.0 if facts["confirmed"] < facts["cycles"] else None,
        "ambiguous": 0,
    }


def list_progress(service: "Service", session: str) -> list[Row]:
    """-> how far each reader of a session is, by name and round."""
    found: dict[Who, Row] = {}
    for reading in service.store.readings(session):
        who = Who(reading["reader"], reading["round"])
        progress = found.setdefault(
            who, {"reader": who.reader, "round": who.round, "recordings": 0, "cycles": 0, "confirmed": 0}
        )
        progress["recordings"] += 1
        progress["cycles"] += len(reading["cycles"])
        progress["confirmed"] += sum(cycle["confirmed"] for cycle in reading["cycles"])
    return [found[who] for who in sorted(found)]


def others_of(service: "Service", row: Row, who: Who) -> list[Row]:
    """A row of `Service.known` -> what the readers of a round say of it. `who` with a name sees of the others what
    lies over cycles that are decided; the one without a name sees all."""
    readings = service.store.recording_readings(row["id"], who.round)
    mine: list[Row] = next((each["cycles"] for each in readings if each["reader"] == who.reader), [])
    decided = [as_judged(cycle) for cycle in mine if cycle["confirmed"]]
    return [
        {
            "reader": each["reader"],
            "round": each["round"],
            "cycles": [
                {**cycle, "unusable": bool(cycle.get("unusable"))}
                for cycle, seen in zip(each["cycles"], lie_over(each["cycles"], decided), strict=True)
                if cycle["confirmed"] and (not who.reader or seen)
            ],
        }
        for each in readings
        if each["reader"] != who.reader
    ]


def lie_over(cycles: Sequence[Row], decided: Sequence[JudgedCycle]) -> list[bool]:
    """-> of each cycle, whether it is the same breath as one of those that are decided."""
    shares = agreement.overlap_shares([as_judged(cycle) for cycle in cycles], decided)
    return [bool(share >= agreement.LEAST_OVERLAP) for share in shares.max(axis=1, initial=0.0)]


def as_judged(cycle: Row) -> JudgedCycle:
    return JudgedCycle(cycle["start_s"], cycle["end_s"], UNUSABLE if cycle.get("unusable") else cycle["label"])


# What they agree on


def match_round(service: "Service", session: str, round_: int) -> tuple[list[str], list[MatchedCycle]]:
    """-> the readers of a round, and their decided cycles matched; recordings are named by their ids."""
    cycles: dict[str, dict[str, list[JudgedCycle]]] = defaultdict(lambda: defaultdict(list))
    for reading in service.store.readings(session):
        if reading["round"] == round_:
            judged = [as_judged(cycle) for cycle in reading["cycles"] if cycle["confirmed"]]
            cycles[reading["reader"]][reading["recording"]] += judged
    patients = {id: patient for id, patient in list_patients(service, session).items() if patient}
    readings = [Reading(name, name, own, patients) for name, own in sorted(cycles.items())]
    return [each.name for each in readings], agreement.match_cycles(readings)


def list_patients(service: "Service", session: str) -> dict[str, str]:
    """-> recording of a session -> its patient, "" where that is not known."""
    rows = service.store.rows("SELECT id, name, facts FROM recordings WHERE session = ?", session)
    said = [{"name": str(row["name"]), "said": stored_rows.read_said(row["facts"])[0]} for row in rows]
    return {row["id"]: recording_facts.known_facts(each)["patient"] for row, each in zip(rows, said, strict=True)}


def compare_round(service: "Service", session: str, who: Who) -> Row:
    """-> the document of `rales agreement` for the readers of a round (see `schemas_readers.Agreement`). `who` with a
    name sees differences in what that reader has decided."""
    names, matched = match_round(service, session, who.round)
    titles = {
        row["id"]: cycle_edits.recording_title(str(row["path"]))
        for row in service.store.rows("SELECT id, path FROM recordings WHERE session = ?", session)
    }
    try:
        found = agreement.summarise(matched, names, service.label_set, resamples=RESAMPLES)
    except ValueError:  # nothing in common yet
        found = {"cycles": 0, "patients": 0, "recordings": 0, "findings": {}, "differences": []}
    differences = [
        {**row, "title": titles.get(row["recording"], "")}
        for row in found["differences"]
        if not who.reader or who.reader in row["labels"]
    ]
    differences.sort(key=lambda row: (row["title"], row["start_s"]))
    figures = {"alpha": None, "fleiss_kappa": None, "pairs": [], **found}
    return {**figures, "round": who.round, "readers": names, "differences": differences, "notice": NOTICE}


def settle_round(service: "Service", session: str, round_: int) -> dict[str, int]:
    """What all readers of a cycle say, two or more, becomes the label that stands, as confirmed; cycles that a person
    has confirmed there already stay. -> how many `recordings` were changed, cycles were `settled`, and `differ` in
    their labels or in where they begin and end.
    """
    _, matched = match_round(service, session, round_)
    by_recording = defaultdict(list)
    for row in matched:
        if len(row.labels) >= 2:
            by_recording[row.recording].append(row)
    drawn = defaultdict(list)  # decided or not
    for reading in service.store.readings(session):
        if reading["round"] == round_:
            drawn[reading["recording"]].append(reading["cycles"])

    counts = {"recordings": 0, "settled": 0, "differ": 0}
    for recording, rows in by_recording.items():
        standing = service.known(recording)
        cycles, settled, differ = settle_cycles(standing["cycles"], rows, drawn[recording], service.label_set)
        counts["differ"] += differ
        counts["settled"] += settled
        if settled:
            service.annotate(recording, cycles, standing["revision"])
            counts["recordings"] += 1
    return counts


def settle_cycles(
    standing: Sequence[Row], matched: Sequence[MatchedCycle], drawn: Sequence[Sequence[Row]], label_set: LabelSet
) -> tuple[list[Row], int, int]:
    """Cycles that stand, what two readers or more say, and all cycles of each reader -> the first with the labels of
    which all are agreed where nobody has confirmed another yet, how many took one, and how many were left as they are.

    A label is for one breath: it goes to the one standing cycle of the same time, unless a reader has cut that one
    otherwise. A cycle that is not there yet is added.
    """
    cycles, settled, differ = [dict(cycle) for cycle in standing], 0, 0
    there, said = [as_judged(cycle) for cycle in standing], [JudgedCycle(row.start_s, row.end_s, "") for row in matched]
    partners = agreement.pair_cycles(agreement.overlap_shares(said, there))
    recut, taken = find_recut(there, drawn), (share_most(said, there) | share_most(there, said).T).sum(axis=1) > 0
    for number, row in enumerate(matched):
        place, label = partners.get(number), next(iter(row.labels.values()))
        if place is not None and cycles[place]["confirmed"] and len(set(row.labels.values())) == 1:
            continue
        if len(set(row.labels.values())) > 1 or (taken[number] if place is None else place in recut):
            differ += 1
            continue
        if place is None:
            cycles.append({"start_s": row.start_s, "end_s": row.end_s, "label": label_set.normal})
            place = len(cycles) - 1
        named = {} if label == UNUSABLE else {"label": label}
        cycles[place] |= {**named, "confirmed": True, "unusable": label == UNUSABLE}
        settled += 1
    return cycles, settled, differ


def find_recut(standing: Sequence[JudgedCycle], drawn: Sequence[Sequence[Row]]) -> set[int]:
    """Cycles that stand, and those of each reader -> which of the first hold two of one reader's, or lie in one with
    another."""
    found = set[int]()
    for cycles in drawn:
        own = [as_judged(cycle) for cycle in cycles]
        split = share_most(own, standing).sum(axis=0) > 1
        inside = share_most(standing, own)
        joined = inside[:, inside.sum(axis=0) > 1].any(axis=1)
        found |= {int(place) for place in np.flatnonzero(split | joined)}
    return found


def share_most(ones: Sequence[JudgedCycle], others: Sequence[JudgedCycle]) -> NDArray[np.bool_]:
    """-> whether half or more of each of the first lies in each of the others (ones, others)."""
    lengths = np.diff(agreement.span_times(ones), axis=1)
    return agreement.shared_times(ones, others) >= lengths / 2 - 1e-9


def readers_table(service: "Service", session: str) -> pd.DataFrame:
    """-> a row for each cycle that a reader of a session has decided: what `rales agreement` takes. A later round is a
    reader of its own, so that one can be held against oneself."""
    paths = {
        row["id"]: str(row["path"])
        for row in service.store.rows("SELECT id, path FROM recordings WHERE session = ?", session)
    }
    patients = list_patients(service, session)
    rows: list[dict[str, Any]] = []
    for reading in service.store.readings(session):
        path = paths[reading["recording"]]
        reader = reading["reader"] + (f" (round {reading['round']})" if reading["round"] > 1 else "")
        for number, cycle in enumerate(reading["cycles"], start=1):
            if not cycle["confirmed"] or cycle.get("unusable"):
                continue
            rows.append(
                {
                    "path": path,
                    "recording": cycle_edits.recording_title(path),
                    "patient": patients[reading["recording"]],
                    "reader": reader,
                    "round": reading["round"],
                    "cycle": number,
                    **{column: cycle[column] for column in ("start_s", "end_s", "label")},
                    "confirmed": True,
                }
            )
    columns = ["path", "recording", "patient", "reader", "round", "cycle", "start_s", "end_s", "label", "confirmed"]
    return pd.DataFrame(rows, columns=columns)
