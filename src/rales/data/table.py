"""Own manifest (CSV or Parquet, one row per cycle) -> the same cycles table, and back.

    path,start_s,end_s,label,patient,split
    visit1/anna.wav,0.0,2.4,normal,anna,train
    visit1/anna.wav,2.4,4.9,crackle,anna,train

* `path`: audio file, relative to the manifest's folder or absolute.
* `label` (normal, crackle, wheeze, both) or `crackle` and `wheeze` (0 or 1); where all are given they must agree.
* `start_s`, `end_s` may be left out or empty: from the first or to the last sample.
* `recording`: by default the file name without suffix. `patient`: by default the recording, so that without it
  patient-disjoint validation and folds are only recording-disjoint.
* `split` (train, test or validation): without this column every row is train. `device`, `location`, `mode`: any text.
* Other columns are not used.
"""

import csv
import difflib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from rales.data.cycles import (
    COLUMNS,
    Audit,
    Cycle,
    Found,
    Recording,
    audit_of,
    cycles_table,
    interval_problem,
    label_of,
    listen,
    number,
    overlap_note,
    some,
    text_of,
)
from rales.metrics import CLASSES

SUFFIXES = (".csv", ".tsv", ".parquet")
SPLIT_WORDS = ("train", "test", "validation")

_FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_PER_RECORDING = ("path", "patient", "device", "location", "mode", "split")


@dataclass(frozen=True)
class _Row:
    where: str  # "manifest.csv, line 3"
    cells: dict[str, str]


def read_cycles(manifest: str | Path, *, skip_damaged: bool = False, audio: bool = True) -> DataFrame:
    """Manifest file -> one row per cycle with the columns of rales.data.cycles.COLUMNS; times in seconds.

    A manifest that cannot be understood as a whole (missing column, no rows) raises ValueError. A broken row damages
    its recording, and damage is treated as in rales.data.icbhi.read_cycles. `audio=False` opens no audio file (`path`
    is then ""), so that every row must have start_s and end_s.
    """
    return cycles_table(find(manifest, audio=audio, decode=skip_damaged), skip_damaged=skip_damaged, audio=audio)


def audit(manifest: str | Path) -> Audit:
    """Manifest file -> everything that is wrong or notable in it and its audio; reads every sample once."""
    return audit_of(find(manifest, audio=True, decode=True))


def write(cycles: DataFrame, path: str | Path) -> None:
    """Cycles table -> manifest file (.csv, .tsv or .parquet) that `read_cycles` reads back to the same table.

    Paths inside the manifest's folder are written relative to it, so that the folder can be moved.
    """
    path = Path(path)
    _check_suffix(path)
    folder = path.parent.resolve()

    def shortened(sound: str) -> str:
        whole = Path(sound).absolute()
        return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)

    rows = cycles[list(COLUMNS)].assign(path=[shortened(sound) if sound else "" for sound in cycles["path"]])
    if path.suffix.lower() == ".parquet":
        rows.to_parquet(path, index=False)
    else:
        rows.to_csv(path, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",")


def find(manifest: str | Path, *, audio: bool, decode: bool) -> Found:
    """Manifest file -> its recordings, damaged or not; `decode` reads all samples instead of the headers only."""
    manifest = Path(manifest)
    columns, rows = _rows(manifest)
    _check_columns(manifest, columns)
    groups: dict[str, list[_Row]] = {}
    problems = []
    for row in rows:
        name = row.cells.get("recording") or Path(row.cells["path"]).stem
        if name:
            groups.setdefault(name, []).append(row)
        else:
            problems.append(f"{row.where}: no path; give the audio file of the row or remove it")

    def read_one(name: str) -> Recording:
        return _recording(manifest, name, groups[name], has_split="split" in columns, audio=audio, decode=decode)

    with ThreadPoolExecutor() as pool:
        recordings = list(pool.map(read_one, groups))
    if "split" in columns:
        unset = [row.where for row in rows if not row.cells["split"]]
        problems += [f"{where}: split is empty, expected one of {', '.join(SPLIT_WORDS)}" for where in unset]
    return Found(manifest, recordings, problems, _notes(manifest, columns))


def _recording(manifest: Path, name: str, rows: list[_Row], *, has_split: bool, audio: bool, decode: bool) -> Recording:
    """The rows of one recording -> the recording with its cycles."""
    first, where = rows[0].cells, rows[0].where
    problems: list[str] = []
    notes: list[str] = []
    for column in _PER_RECORDING:
        values = sorted({row.cells.get(column, "") for row in rows})
        if len(values) > 1:
            problems.append(f"{where}: the rows of recording {name} differ in {column} ({some(values)}); make them one")
    path, facts = "", None
    if audio and first["path"]:
        path = str(manifest.parent / first["path"])
        facts, wrong, notes = listen(Path(path), decode=decode)
        problems += [f"{where}: {problem}" for problem in wrong]
    elif audio:
        problems.append(f"{where}: path is empty; give the audio file of recording {name}")
    split = first.get("split", "") if has_split else "train"
    if split and split not in SPLIT_WORDS:
        problems.append(f"{where}: split {split!r}, expected one of {', '.join(SPLIT_WORDS)}")
    cycles = []
    for row in rows:
        cycle = _cycle(row.cells, facts.duration_s if facts else None)
        if isinstance(cycle, Cycle):
            cycles.append(cycle)
        else:
            problems.append(f"{row.where}: {cycle}")
    cycles.sort()
    return Recording(
        name=name,
        patient=first.get("patient") or name,
        device=first.get("device", ""),
        location=first.get("location", ""),
        mode=first.get("mode", ""),
        split=split,
        path=path,
        info=facts,
        cycles=cycles,
        problems=problems,
        notes=[*notes, *overlap_note(where, cycles)],
    )


def _cycle(cells: dict[str, str], duration_s: float | None) -> Cycle | str:
    """One row and the length of its recording -> the cycle, or what is wrong with the row."""
    start, end = cells.get("start_s", ""), cells.get("end_s", "")
    if not end and duration_s is None:
        return "end_s is empty and the length of the recording is not known; give end_s"
    start_s = number(start) if start else 0.0
    end_s = number(end) if end else duration_s
    if start_s is None or end_s is None:
        return f"start_s and end_s are {start!r} and {end!r}, expected numbers of seconds"
    flags = _flags(cells)
    if isinstance(flags, str):
        return flags
    return interval_problem(start_s, end_s, duration_s) or Cycle(start_s, end_s, *flags)


def _flags(cells: dict[str, str]) -> tuple[int, int] | str:
    """One row -> (crackle, wheeze), or what is wrong with its label or flags."""
    label, crackle, wheeze = (cells.get(column, "").lower() for column in ("label", "crackle", "wheeze"))
    if label and label not in CLASSES:
        close = difflib.get_close_matches(label, CLASSES, n=1)
        guess = f"did you mean {close[0]}? Known: " if close else "expected one of "
        return f"label {label!r} is not known; {guess}{', '.join(CLASSES)}"
    if label and not crackle and not wheeze:
        return CLASSES.index(label) % 2, CLASSES.index(label) // 2
    if crackle not in _FLAGS or wheeze not in _FLAGS:
        return f"crackle and wheeze are {crackle!r} and {wheeze!r}, expected 0 or 1"
    flags = _FLAGS[crackle], _FLAGS[wheeze]
    if label and label != label_of(*flags):
        return f"label {label} but crackle {flags[0]} and wheeze {flags[1]}, which is {label_of(*flags)}"
    return flags


def _rows(manifest: Path) -> tuple[list[str], list[_Row]]:
    """Manifest file -> (its columns, its rows with every cell as text, "" where empty)."""
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such manifest file")
    _check_suffix(manifest)
    columns, rows = _parquet_rows(manifest) if manifest.suffix.lower() == ".parquet" else _csv_rows(manifest)
    if not rows:
        raise ValueError(f"{manifest}: no rows, expected one per cycle")
    return columns, rows


def _parquet_rows(manifest: Path) -> tuple[list[str], list[_Row]]:
    try:
        frame = pd.read_parquet(manifest)
    except (ValueError, OSError) as error:
        raise ValueError(f"{manifest}: not a Parquet file that can be read ({error})") from None
    records = frame.astype(object).where(frame.notna(), "").to_dict("records")
    rows = [
        _Row(f"{manifest}, row {row_number}", {str(column): str(cell).strip() for column, cell in record.items()})
        for row_number, record in enumerate(records, start=1)
    ]
    return [str(column) for column in frame.columns], rows


def _csv_rows(manifest: Path) -> tuple[list[str], list[_Row]]:
    text = text_of(manifest)
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal sign.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    rows: list[_Row] = []
    try:
        columns = [column.strip() for column in next(reader, [])]
        for cells in reader:
            where = f"{manifest}, line {reader.line_num}"
            if len(cells) == len(columns):
                rows.append(_Row(where, {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}))
            elif cells:
                raise ValueError(f"{where}: {len(cells)} columns, expected {len(columns)} ({', '.join(columns)})")
    except csv.Error as error:
        raise ValueError(f"{manifest}, line {reader.line_num}: not readable as CSV ({error})") from None
    return columns, rows


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a manifest ending in {', '.join(SUFFIXES)}")


def _check_columns(manifest: Path, columns: list[str]) -> None:
    """Columns of a manifest -> nothing, or ValueError for missing, doubled and misspelt ones."""
    if len(set(columns)) < len(columns):
        raise ValueError(f"{manifest}: a column is there twice ({', '.join(columns)}); keep one")
    missing = [name for name in COLUMNS if name not in columns]
    for column in set(columns) - set(COLUMNS):
        close = difflib.get_close_matches(column.lower(), missing, n=1, cutoff=0.8)
        if close:  # a misspelt `split` would make test recordings train ones without a word
            raise ValueError(f"{manifest}: column {column!r} is not known; did you mean {close[0]!r}? Rename it")
    if "path" in missing:
        raise ValueError(
            f"{manifest}: no column path (found: {', '.join(columns)}); it names the audio file of each row"
        )
    if "label" in missing and not {"crackle", "wheeze"} <= set(columns):
        raise ValueError(
            f"{manifest}: no column label and not both crackle and wheeze (found: {', '.join(columns)}); "
            f"add label ({', '.join(CLASSES)}) or the two flags"
        )


def _notes(manifest: Path, columns: list[str]) -> list[str]:
    notes = []
    if "patient" not in columns:
        notes.append(f"{manifest}: no column patient; every recording counts as a patient of its own")
    if "split" not in columns:
        notes.append(f"{manifest}: no column split; every row counts as train")
    unused = [column for column in columns if column not in COLUMNS]
    if unused:
        notes.append(f"{manifest}: columns that are not used: {some(unused)}")
    return notes
