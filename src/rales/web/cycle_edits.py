"""Check cycles that a person has edited, and write them in the formats of other programs."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from rales.audio.open_audio import AUDIO_SUFFIXES, FFMPEG_SUFFIXES
from rales.data.reader import Cycle
from rales.inference import prediction_writers
from rales.labels import JOINED, LabelSet, fold_word
from rales.typing import Row

FORMATS = {"icbhi": ".txt", "csv": ".csv", "audacity": ".audacity.txt", "raven": ".raven.txt"}
SHORTEST_S = 0.05
LONGEST_NOTE = 300  # letters, of a cycle
DEEPEST = 16  # folders of a visitor's path that are kept
SIGNS = ("crackle", "wheeze", "both")  # what two columns of an ICBHI annotation can say


class OriginalCycles(NamedTuple):
    """The cycles that a recording begins with, and whose they are: annotation, segment or window."""

    source: str
    cycles: list[Row]


def original_of_annotation(
    found: Sequence[Cycle], duration_s: float, label_set: LabelSet
) -> tuple[OriginalCycles, str]:
    """Cycles of an annotation that came along -> what its recording begins with, and "", or why one of its labels is
    none of the set; that cycle then has the label ""."""
    rows, why = list[Row](), ""
    for each in found:
        row = {"start_s": each.start_s, "end_s": each.end_s, "label": "", "confirmed": False}
        try:
            row["label"] = label_set.label_cycle(each.label, each.crackle, each.wheeze)
        except ValueError as error:
            why = why or str(error)
        rows.append(in_milliseconds(row, duration_s))
    return OriginalCycles("annotation", sort_cycles(rows)), why


def original_of_predictions(rows: Sequence[Row], duration_s: float) -> OriginalCycles:
    """What a model says of a whole recording -> what that recording begins with."""
    labelled = [(row, row.get("true_label") or row["label"]) for row in rows]
    cycles = [{**row_span(row), "label": label, "confirmed": False} for row, label in labelled if label]
    return OriginalCycles(
        rows[0]["source"] if rows else "", sort_cycles([in_milliseconds(row, duration_s) for row in cycles])
    )


def check_cycles(cycles: Sequence[Row], duration_s: float, most: int) -> list[Row]:
    """Cycles as a visitor sent them -> sorted, times as `in_milliseconds`. ValueError names the first wrong one."""
    if len(cycles) > most:
        raise ValueError(f"{len(cycles)} cycles, at most {most} are taken for one recording")
    rows = []
    first = dict[tuple[float, float], int]()  # stretch -> the number of its cycle

    for number, cycle in enumerate(cycles, start=1):
        start_s, end_s = cycle["start_s"], cycle["end_s"]
        if not (math.isfinite(start_s) and math.isfinite(end_s)):
            raise ValueError(f"cycle {number}: start and end must be numbers of seconds")
        if not 0 <= start_s < end_s <= duration_s + 0.001:
            raise ValueError(
                f"cycle {number}: {start_s:.3f} s to {end_s:.3f} s, expected 0 <= start < end <= {duration_s:.3f} s"
            )
        row = in_milliseconds(cycle, duration_s)
        length_s = row["end_s"] - row["start_s"]
        if length_s < SHORTEST_S - 1e-9:
            raise ValueError(f"cycle {number}: lasts {length_s:.3f} s, expected {SHORTEST_S} s or more")
        if (before := first.setdefault(row_times(row), number)) != number:
            raise ValueError(
                f"cycle {number}: {row['start_s']:.3f} s to {row['end_s']:.3f} s, as cycle {before}; keep one of them"
            )
        rows.append(row)
    return sort_cycles(rows)


def check_labels(cycles: Sequence[Row], label_set: LabelSet) -> list[Row]:
    """Cycles as a visitor sent them -> the same, several independent classes of one in the order of the set.
    ValueError names the first whose label is none of it, or whose note is too long."""
    rows = []
    for number, cycle in enumerate(cycles, start=1):
        try:
            (label,) = label_set.name_targets(label_set.make_targets([cycle["label"]]))
        except ValueError as error:
            raise ValueError(f"cycle {number}: {error}") from error
        note = clean_line(cycle.get("note", ""))
        if len(note) > LONGEST_NOTE:
            raise ValueError(f"cycle {number}: its note has {len(note)} letters, at most {LONGEST_NOTE} are taken")
        kept = {name: cycle[name] for name in cycle if name != "note"}
        rows.append({**kept, "label": label, **({"note": note} if note else {})})
    return rows


def clean_line(text: str) -> str:
    """Text of a visitor -> the same as one line of what can be printed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def sort_cycles(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["start_s"], row["end_s"]))


def in_milliseconds(row: Row, duration_s: float) -> Row:
    """A row with start_s and end_s -> the same in whole milliseconds, the end no later than the last whole one of the
    recording.

    Every time is rounded so once, where it arrives; the page and all that is kept then hold the same numbers.
    """
    last_s = math.floor(duration_s * 1000 + 1e-6) / 1000
    return {**row, "start_s": round(row["start_s"], 3), "end_s": min(round(row["end_s"], 3), last_s)}


def with_scores(cycles: Sequence[Row], scored: Sequence[Row], label_set: LabelSet) -> list[Row]:
    """Marked cycles -> the same with the model's label and probabilities where it has answered for just these times,
    `confirmed`: whether a person has set or confirmed the label, `unusable`: whether they said it can have none, and
    `note`."""
    known = {row_times(row): row for row in scored}
    rows = []
    for cycle in cycles:
        answer = known.get(row_times(cycle), {})
        rows.append(
            {
                **row_span(cycle),
                "label": cycle["label"],
                **{name: answer.get(name) for name in label_set.columns},
                "model_label": answer.get("label"),
                "prediction_set": answer.get("prediction_set", ""),
                "confirmed": bool(cycle.get("confirmed")),
                "unusable": bool(cycle.get("unusable")),
                "note": cycle.get("note", ""),
            }
        )
    return rows


def row_span(row: Row) -> Row:
    return {"start_s": row["start_s"], "end_s": row["end_s"]}


def row_times(row: Row) -> tuple[float, float]:
    """-> what two rows of the same stretch of time share."""
    return round(row["start_s"], 3), round(row["end_s"], 3)


def certainty(row: Row, label_set: LabelSet) -> float:
    """A row of `with_scores` with an answer -> the largest probability; of independent classes that of the answer, yes
    or no, to the least certain one."""
    shares = [row[name] for name in label_set.columns]
    return float(min(max(share, 1 - share) for share in shares) if label_set.independent else max(shares))


def known_forms(label_set: LabelSet) -> list[str]:
    """-> the formats that can say every label of a set; ICBHI's knows crackles and wheezes and nothing else."""
    signs_alone = all(fold_word(name) in SIGNS for name in label_set.abnormal)
    return [form for form in FORMATS if form != "icbhi" or signs_alone]


def write_cycles(form: str, about: Row, rows: Sequence[Row], label_set: LabelSet) -> str:
    """A recording (see `make_cycle_table`) and rows of `with_scores` -> the text of one file. In ICBHI format: start,
    end, crackles, wheezes."""
    if form == "icbhi":
        return "".join(
            f"{row['start_s']:.3f}\t{row['end_s']:.3f}\t{label_flag(row, 'crackle')}\t{label_flag(row, 'wheeze')}\n"
            for row in rows
        )
    table = make_cycle_table(about, rows, label_set)
    if form == "csv":
        return prediction_writers.format_csv(table)
    if form == "audacity":  # a probability stands beside the model's own label only
        columns = list(label_set.columns)
        table[columns] = table[columns].mask(table["confirmed"].astype(bool))
        return prediction_writers.format_labels(prediction_writers.audacity_labels(table), form)
    selections = prediction_writers.raven_selections(table)
    selections["Confirmed"] = table["confirmed"].to_numpy()
    selections["Note"] = table["note"].to_numpy()
    return prediction_writers.format_labels(selections, form)


def make_cycle_table(about: Row, rows: Sequence[Row], label_set: LabelSet) -> pd.DataFrame:
    """A recording (name, path, patient, device, location) and rows of `with_scores` -> a table that `rales check` and
    `rales train` take, once `split` is filled in."""
    columns = ["start_s", "end_s", "label", *label_set.columns, "model_label", "confirmed", "note"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.astype(dict.fromkeys(label_set.columns, float))
    table.insert(0, "recording", about["name"])
    table.insert(1, "cycle", range(1, len(table) + 1))
    return table.assign(**{part: about[part] for part in ("path", "patient", "device", "location")}, split="")


def label_flag(row: Row, sign: str) -> int:
    return int(any(fold_word(word) in (sign, "both") for word in row["label"].split(JOINED)))


def relative_path(path: str) -> str:
    """A visitor's path of a recording -> the same without what could lead elsewhere: folder/file.wav."""
    *folders, name = re.split(r"[/\\]", path)
    parts = [part for part in map(trim_part, folders) if part]
    return "/".join([*parts[-DEEPEST:], recording_stem(name) + file_suffix(name)])


def recording_title(path: str) -> str:
    """A path of `relative_path` -> the name of its recording with the folders, as others may hold one too:
    folder/file."""
    return path[: len(path) - len(file_suffix(path))]


def base_name(path: str) -> str:
    """-> the last part of a visitor's path."""
    return re.split(r"[/\\]", path)[-1]


def recording_stem(name: str) -> str:
    """A visitor's file name -> the name of the recording: no folder, no suffix, no control characters."""
    base = printable_text(base_name(name))
    return trim_part(base[: len(base) - len(file_suffix(base))]) or "recording"


def file_suffix(name: str) -> str:
    """A visitor's file name -> the suffix of a recording or an annotation at its end, as it is written, else ""."""
    name = printable_text(name)
    suffix = next((each for each in (*AUDIO_SUFFIXES, ".txt") if name.lower().endswith(each)), "")
    return name[len(name) - len(suffix) :]


def printable_text(name: str) -> str:
    return "".join(letter for letter in name if letter.isprintable()).strip()


def trim_part(part: str) -> str:
    """A part of a visitor's path -> at most 120 of its letters, no control characters, no dots or spaces around it."""
    return printable_text(part)[:120].strip(". ")


def decoder_suffix(name: str) -> str:
    """A visitor's file name -> its ending where the decoder goes by that, else "": one of a list of our own."""
    return next((each for each in sorted(FFMPEG_SUFFIXES) if name.lower().endswith(each)), "")


def file_name(name: str) -> str:
    """Name of a recording -> the same as a file name in an archive, so that files find their recordings again."""
    return re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', "_", name).strip(". ") or "recording"


def ascii_file_name(name: str) -> str:
    """Name of a recording -> a file name that every system takes, in ASCII."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "recording"


def safe_path(path: str) -> str:
    """A path of `recording_title` -> one that every system takes, of as many folders; letters of all languages stay."""
    return re.sub(r'[<>:"\\|?*]', "_", path)
