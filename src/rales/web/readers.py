"""Several readers of one session: what each may see before deciding, how far they agree, and what they settle on.

A reader has an annotation of their own for each round. It begins with the cycles that stand, without labels, so that
nothing suggests one. The page hides what models and other readers say of a cycle until this reader has decided it; the
service hands out other readers' labels for such cycles alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from rales.data import icbhi
from rales.evaluation.predictions import NOTICE
from rales.jobs import agreement
from rales.jobs.agreement import UNUSABLE, JudgedCycle, MatchedCycle, Reading
from rales.labels import LabelSet
from rales.typing import Row
from rales.web import cycle_edits
from rales.web.schemas import LONGEST_NAME, MOST_ROUNDS
from rales.web.security import ApiError
from rales.web.store import Store, Who

if TYPE_CHECKING:
    from rales.web.service import Service

RESAMPLES = 2000  # of the intervals on the page; the command takes more


def name_reader(reader: str, round_: int) -> Who:
    """A visitor's name of a reader, "" for none, and a round -> the same as they are kept. Errors: ApiError."""
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in reader).split())
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
        cycles = without_labels(standing["cycles"], label_set)
    events = own.get("events", []) if own.get("revision") else []  # those of a file are somebody's, too
    row = {**standing, "cycles": cycles, "revision": own.get("revision", 0), "events": events}
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
                for cycle in each["cycles"]
                if cycle["confirmed"] and (not who.reader or lies_over(cycle, decided))
            ],
        }
        for each in readings
        if each["reader"] != who.reader
    ]


def lies_over(cycle: Row, decided: Sequence[JudgedCycle]) -> bool:
    there = as_judged(cycle)
    return any(agreement.overlap_share(there, each) >= agreement.LEAST_OVERLAP for each in decided)


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
    patients = {}
    for row in service.store.rows("SELECT id, name FROM recordings WHERE session = ?", session):
        if patient := icbhi.parse_recording_name(str(row["name"])).get("patient"):
            patients[row["id"]] = patient
    readings = [Reading(name, name, own, patients) for name, own in sorted(cycles.items())]
    return [each.name for each in readings], agreement.match_cycles(readings)


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
    has confirmed there already stay. -> how many `recordings` were changed, cycles were `settled`, and `differ`."""
    _, matched = match_round(service, session, round_)
    by_recording = defaultdict(list)
    for row in matched:
        if len(row.labels) >= 2:
            by_recording[row.recording].append(row)

    counts = {"recordings": 0, "settled": 0, "differ": 0}
    for recording, rows in by_recording.items():
        standing = service.known(recording)
        agreed = [row for row in rows if len(set(row.labels.values())) == 1]
        cycles, settled = settle_cycles(standing["cycles"], agreed, service.label_set)
        counts["differ"] += sum(len(set(row.labels.values())) > 1 for row in rows)
        counts["settled"] += settled
        if settled:
            service.annotate(recording, cycles, standing["revision"])
            counts["recordings"] += 1
    return counts


def settle_cycles(
    standing: Sequence[Row], agreed: Sequence[MatchedCycle], label_set: LabelSet
) -> tuple[list[Row], int]:
    """Cycles that stand, and matched ones of one label each -> the first with these labels where nobody has confirmed
    another yet, and how many took one. A cycle that is not there yet is added."""
    cycles, settled = [dict(cycle) for cycle in standing], 0
    for row in agreed:
        label = next(iter(row.labels.values()))
        there = JudgedCycle(row.start_s, row.end_s, label)
        shares = [agreement.overlap_share(there, as_judged(cycle)) for cycle in cycles]
        best = max(range(len(cycles)), key=shares.__getitem__, default=None)
        if best is None or shares[best] < agreement.LEAST_OVERLAP:
            cycles.append({"start_s": row.start_s, "end_s": row.end_s, "label": label_set.normal})
            best = len(cycles) - 1
        elif cycles[best]["confirmed"]:
            continue
        named = {} if label == UNUSABLE else {"label": label}
        cycles[best] |= {**named, "confirmed": True, "unusable": label == UNUSABLE}
        settled += 1
    return cycles, settled


def readers_table(service: "Service", session: str) -> pd.DataFrame:
    """-> a row for each cycle that a reader of a session has decided: what `rales agreement` takes. A later round is a
    reader of its own, so that one can be held against oneself."""
    known = {
        row["id"]: row for row in service.store.rows("SELECT id, name, path FROM recordings WHERE session = ?", session)
    }
    rows: list[dict[str, Any]] = []
    for reading in service.store.readings(session):
        about = known[reading["recording"]]
        name, path = str(about["name"]), str(about["path"])
        reader = reading["reader"] + (f" (round {reading['round']})" if reading["round"] > 1 else "")
        for number, cycle in enumerate(reading["cycles"], start=1):
            if not cycle["confirmed"] or cycle.get("unusable"):
                continue
            rows.append(
                {
                    "path": path,
                    "recording": cycle_edits.recording_title(path),
                    "patient": icbhi.parse_recording_name(name).get("patient", ""),
                    "reader": reader,
                    "round": reading["round"],
                    "cycle": number,
                    **{column: cycle[column] for column in ("start_s", "end_s", "label")},
                    "confirmed": True,
                }
            )
    columns = ["path", "recording", "patient", "reader", "round", "cycle", "start_s", "end_s", "label", "confirmed"]
    return pd.DataFrame(rows, columns=columns)
