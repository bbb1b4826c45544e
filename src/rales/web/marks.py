"""Cycles that a person has marked: checked, and written in the formats that other programs read."""

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from rales import formats
from rales.audio.wave import FFMPEG_SUFFIXES
from rales.data import icbhi
from rales.metrics import CLASSES
from rales.recordings import AUDIO_SUFFIXES

Row = dict[str, Any]
FORMATS = {"icbhi": ".txt", "csv": ".csv", "audacity": ".audacity.txt", "raven": ".raven.txt"}
SHORTEST_S = 0.05
PROBABILITIES = [f"p_{name}" for name in CLASSES]


def checked(cycles: Sequence[Row], duration_s: float, most: int) -> list[Row]:
    """Cycles as a visitor sent them -> sorted, times rounded to milliseconds. ValueError names the first wrong one."""
    if len(cycles) > most:
        raise ValueError(f"{len(cycles)} cycles, at most {most} are taken for one recording")
    rows = []
    for number, cycle in enumerate(cycles, start=1):
        start_s, end_s = cycle["start_s"], cycle["end_s"]
        if not (math.isfinite(start_s) and math.isfinite(end_s)):
            raise ValueError(f"cycle {number}: start and end must be numbers of seconds")
        if not 0 <= start_s < end_s <= duration_s + 0.001:
            raise ValueError(
                f"cycle {number}: {start_s:.3f} s to {end_s:.3f} s, expected 0 <= start < end <= {duration_s:.3f} s"
            )
        if end_s - start_s < SHORTEST_S - 1e-9:
            raise ValueError(f"cycle {number}: lasts {end_s - start_s:.3f} s, expected {SHORTEST_S} s or more")
        rows.append({**cycle, "start_s": round(start_s, 3), "end_s": min(round(end_s, 3), duration_s)})
    return sorted(rows, key=lambda row: (row["start_s"], row["end_s"]))


def with_scores(cycles: Sequence[Row], scored: Sequence[Row]) -> list[Row]:
    """Marked cycles -> the same with the model's label and probabilities where it has answered for just these times,
    and `confirmed`: whether a person has set or confirmed the label."""
    known = {times(row): row for row in scored}
    rows = []
    for cycle in cycles:
        found = known.get(times(cycle), {})
        rows.append(
            {
                **span(cycle),
                "label": cycle["label"],
                **{name: found.get(name) for name in PROBABILITIES},
                "model_label": found.get("label"),
                "confirmed": bool(cycle.get("confirmed")),
            }
        )
    return rows


def span(row: Row) -> Row:
    return {"start_s": row["start_s"], "end_s": row["end_s"]}


def times(row: Row) -> tuple[float, float]:
    """-> what two rows of the same stretch of time share."""
    return round(row["start_s"], 3), round(row["end_s"], 3)


def write(form: str, recording: str, rows: Sequence[Row]) -> str:
    """Rows of `with_scores` -> the text of one file. In ICBHI format: start, end, crackles, wheezes."""
    if form == "icbhi":
        return "".join(
            f"{row['start_s']:.3f}\t{row['end_s']:.3f}\t{flag(row, 'crackle')}\t{flag(row, 'wheeze')}\n" for row in rows
        )
    table = tabulated(recording, rows)
    if form == "csv":
        return formats.csv_text(table)
    if form == "audacity":  # a probability stands beside the model's own label only
        table[PROBABILITIES] = table[PROBABILITIES].mask(table["confirmed"].astype(bool))
        return formats.label_text(formats.audacity(table), form)
    selections = formats.raven(table)
    selections["Confirmed"] = table["confirmed"].to_numpy()
    return formats.label_text(selections, form)


def tabulated(recording: str, rows: Sequence[Row], path: str | None = None) -> pd.DataFrame:
    """Rows of `with_scores` -> a table that `rales check` and `rales train` take, once `split` is filled in; `path` is
    the name of the recording, whose ending the reader finds."""
    table = pd.DataFrame(rows, columns=["start_s", "end_s", "label", *PROBABILITIES, "model_label", "confirmed"])
    table = table.astype(dict.fromkeys(PROBABILITIES, float))
    table.insert(0, "recording", recording)
    table.insert(1, "cycle", range(1, len(table) + 1))
    patient = icbhi.facts_of(recording).get("patient", "")
    return table.assign(path=recording if path is None else path, patient=patient, split="")


def flag(row: Row, sign: str) -> int:
    return int(row["label"] in (sign, "both"))


def stem(name: str) -> str:
    """A visitor's file name -> the name of the recording: no folder, no suffix, no control characters."""
    base = re.split(r"[/\\]", name)[-1]
    base = "".join(letter for letter in base if letter.isprintable()).strip()
    ending = next((each for each in (*AUDIO_SUFFIXES, ".txt") if base.lower().endswith(each)), "")
    base = base[: len(base) - len(ending)]
    return base[:120].strip(". ") or "recording"


def kind(name: str) -> str:
    """A visitor's file name -> its ending where the decoder goes by that, else "": one of a list of our own."""
    return next((each for each in sorted(FFMPEG_SUFFIXES) if name.lower().endswith(each)), "")


def file_name(name: str) -> str:
    """Name of a recording -> the same as a file name in an archive, so that files find their recordings again."""
    return re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', "_", name).strip(". ") or "recording"


def safe(name: str) -> str:
    """Name of a recording -> a file name that every system takes, in ASCII."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "recording"
