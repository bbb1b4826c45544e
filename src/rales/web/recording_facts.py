"""The facts of a recording: patient, site on the chest, device and a note. What its name says of them holds until a
person, or a table of the project, says something else; that alone is kept."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rales.data import icbhi, sprsound
from rales.files.csv_cells import restore_table
from rales.typing import Row
from rales.web import cycle_edits
from rales.web.security import ApiError
from rales.web.store import RevisionConflict
from rales.web.stored_rows import LONGEST_FACTS

if TYPE_CHECKING:
    from rales.web.service import Service

NAMED = ("patient", "location", "device")  # what a name may say
TABLE = "recordings.csv"  # of a project: path and the facts of each recording
TABLE_BYTES = 16 * 2**20


def read_name(name: str) -> Row:
    """Name of a recording without its ending -> NAMED, "" where it is not one of ICBHI 2017 or SPRSound. Sites are in
    ICBHI's words."""
    said = icbhi.parse_recording_name(name) or sprsound.parse_recording_name(name)
    return {part: said.get(part, "") for part in NAMED}


def known_facts(row: Row) -> Row:
    """A row of `stored_rows.read_recording` -> LONGEST_FACTS as they hold, `named` (what its name says) and
    `facts_revision`."""
    named, said = read_name(row["name"]), row["said"]
    held = {part: said.get(part, named.get(part, "")) for part in LONGEST_FACTS}
    return {**held, "named": named, "facts_revision": said["revision"]}


def check_facts(given: Row) -> Row:
    """Facts as a visitor sent them (None: that one stays) -> one line each, without control characters. Errors:
    ApiError for one that is too long."""
    checked = {}
    for part, text in given.items():
        if text is None:
            continue
        line = cycle_edits.clean_line(text)
        if len(line) > LONGEST_FACTS[part]:
            raise ApiError(422, f"{part}: {len(line)} letters, at most {LONGEST_FACTS[part]} are taken")
        checked[part] = line
    return checked


def save_facts(service: "Service", recording: str, given: Row, base: int | None) -> int:
    """Facts as a visitor sent them become those that hold; -> their revision. With `base`, only if that one still
    stands. Errors: ApiError."""
    row = service.known(recording)
    try:
        return service.store.say_facts(recording, only_said(row["name"], {**row["said"], **check_facts(given)}), base)
    except RevisionConflict as stale:
        raise ApiError(
            409,
            f"{row['name']}: its patient, site, device or note was changed elsewhere since; look at it and send yours "
            f"again with base {stale.last}",
        ) from stale


def only_said(name: str, facts: Row) -> Row:
    """Facts of a recording -> those that its name does not say just so, to be kept."""
    named = {**read_name(name), "note": ""}
    return {part: text for part, text in facts.items() if part in LONGEST_FACTS and text != named[part]}


def read_table(folder: Path) -> dict[str, Row]:
    """A project -> path of a recording in it -> the facts that its `recordings.csv` says, {} without one. Errors:
    ValueError, OSError."""
    file = folder / TABLE
    if not file.is_file():
        return {}
    if file.stat().st_size > TABLE_BYTES:
        raise ValueError(f"{TABLE}: larger than {TABLE_BYTES // 2**20} MiB; not used")
    table = restore_table(pd.read_csv(file, dtype=str, keep_default_na=False))
    if "path" not in table.columns:
        raise ValueError(f"{TABLE}: has no column path, expected path and some of {', '.join(LONGEST_FACTS)}; not used")
    parts = [part for part in LONGEST_FACTS if part in table.columns]
    return {row["path"]: {part: row[part] for part in parts if row[part]} for row in table.to_dict("records")}
