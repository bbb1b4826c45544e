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
NOTE = (
    "AUROC from 0 to 1, all else in percent, with 95 % intervals by patient. Calling everything normal has an AUROC of "
    "0.5 and a Score of 50."
)


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
    sections = [Section("matrix", "At a glance", [matrix_table(records)])]
    for number, name in enumerate(dict.fromkeys(record["tested_on"] for record in records), start=1):
        table = tested_table([record for record in records if record["tested_on"] == name])
        sections.append(Section(f"tested-{number}", f"Tested on {name}", [table]))
    write_csv(out / "cross.csv", pd.DataFrame(records))
    write_json(out / "cross.json", {**document, "notice": DISCLAIMER})
    with atomic_write(out / "cross.html") as beside:
        beside.write_bytes(make_encodable(render_html(TITLE, lead, sections)).encode())
    return document


def matrix_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Records of the cells -> a row for each system and what trained it, a column for each tested database: AUROC of
    abnormal, or the Score where the classes have no such figure."""
    figure = "auroc_abnormal" if any(record["auroc_abnormal"] is not None for record in records) else "score"
    tested = list(dict.fromkeys(record["tested_on"] for record in records))
    rows: dict[tuple[str, str], list[str]] = {}
    for record in records:
        row = rows.setdefault((record["system"], record["trained_on"]), [])
        row.append(format_cell(record, figure) + (" (own)" if record["own"] else ""))
    return Table(
        f"{SHOWN[figure]}: trained on rows, tested on columns",
        ["System", "Trained on", *tested],
        [[*names, *cells] for names, cells in rows.items()],
        note=f"{NOTE} (own): trained on other patients of the same database.",
    )


def tested_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Records of one tested database -> every figure of whoever was tested there."""
    shown = [figure for figure in SHOWN if any(record[figure] is not None for record in records)]
    return Table(
        f"{records[0]['tested']} {records[0]['unit']} of {records[0]['patients']} patients",
        ["System", "Trained on", *(SHOWN[figure] for figure in shown)],
        [[each["system"], each["trained_on"], *(format_cell(each, one) for one in shown)] for each in records],
        frozenset(number for number, each in enumerate(records) if each["own"]),
    )


def format_cell(record: Mapping[str, Any], figure: str) -> str:
    """Record and name of a figure -> "58.3" and its interval on a second line, "–" for none."""
    value, low, high = (record[name] for name in (figure, f"{figure}_low", f"{figure}_high"))
    if value is None or pd.isna(value):
        return "–"
    factor, digits = (1, 3) if figure.startswith("auroc") else (100, 1)
    ends = "" if low is None or pd.isna(low) else f"\n[{factor * low:.{digits}f}, {factor * high:.{digits}f}]"
    return f"{factor * value:.{digits}f}{ends}"
