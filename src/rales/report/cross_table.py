"""Systems trained on some databases and tested on all: the table of the figures, its CSV, JSON and page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rales.files.atomic import atomic_write
from rales.files.csv_cells import make_encodable
from rales.files.writers import write_csv, write_json
from rales.report.page import DISCLAIMER, Block, Items, Section, Table, Text, render_html

TITLE = "Trained on one database, tested on another"
SHOWN = {
    "specificity": "Specificity",
    "sensitivity": "Sensitivity",
    "score": "Score",
    "auroc_abnormal": "AUROC abnormal",
    "auroc_crackle": "AUROC crackle",
    "auroc_wheeze": "AUROC wheeze",
}


def write_cross(
    out: Path, records: Sequence[Mapping[str, Any]], notes: Sequence[str], failed: Sequence[str]
) -> dict[str, Any]:
    """Records of the cells, what must be known of them, failed runs -> cross.csv, cross.json and cross.html in OUT; the
    document of cross.json.

    A record has `system`, `trained_on`, `tested_on`, `own` (whether both are one database), `unit` (cycles or
    recordings), `tested`, `patients`, and of each of SHOWN the value as a fraction, `_low` and `_high`; None for what
    does not exist.
    """
    document = {"rows": list(records), "notes": list(notes), "failed": list(failed), "page": str(out / "cross.html")}
    lead: list[Block] = [
        Text(
            "Every database is tested on the same patients, whoever trained: those of its own test side who do not "
            "train there too, or, without a list of sides, the patients left by a draw of 60 to 40."
        )
    ]
    if notes:
        lead.append(Items([("Mind", note) for note in notes]))
    if failed:
        lead.append(Text(f"Failed, and so missing: {'; '.join(failed)}", warning=True))
    sections = [Section(f"tested-{n}", f"Tested on {name}", [table]) for n, (name, table) in enumerate(tables(records))]
    write_csv(out / "cross.csv", pd.DataFrame(records))
    write_json(out / "cross.json", {**document, "notice": DISCLAIMER})
    with atomic_write(out / "cross.html") as beside:
        beside.write_bytes(make_encodable(render_html(TITLE, lead, sections)).encode())
    return document


def tables(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Table]]:
    """Records of the cells -> name of each tested database, and its table."""
    found = []
    for name in dict.fromkeys(record["tested_on"] for record in records):
        here = [record for record in records if record["tested_on"] == name]
        rows = [[each["system"], each["trained_on"], *(format_cell(each, figure) for figure in SHOWN)] for each in here]
        first = here[0]
        table = Table(
            f"{first['tested']} {first['unit']} of {first['patients']} patients",
            ["System", "Trained on", *SHOWN.values()],
            rows,
            frozenset(number for number, each in enumerate(here) if each["own"]),
            "Percent, and AUROC from 0 to 1, with 95 % intervals by patient. Marked: trained on other patients of the "
            "same database. Calling everything normal has a Score of 50 and an AUROC of 0.5.",
        )
        found.append((name, table))
    return found


def format_cell(record: Mapping[str, Any], figure: str) -> str:
    """Record and name of a figure -> "58.3" and its interval on a second line, "–" for none."""
    value, low, high = (record[name] for name in (figure, f"{figure}_low", f"{figure}_high"))
    if value is None or pd.isna(value):
        return "–"
    factor, digits = (1, 3) if figure.startswith("auroc") else (100, 1)
    ends = "" if low is None or pd.isna(low) else f"\n[{factor * low:.{digits}f}, {factor * high:.{digits}f}]"
    return f"{factor * value:.{digits}f}{ends}"
