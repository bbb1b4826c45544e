"""Read a manifest (CSV, Parquet or JSON, one row per cycle) into the cycles table, and write one.

    path,start_s,end_s,label,patient,split
    visit1/anna.wav,0.0,2.4,normal,anna,train
    visit1/anna.wav,2.4,4.9,crackle,anna,train

* `path`: audio file, relative to the table's folder or absolute; two files are two recordings, and one file is one
  recording, however its path is written and through links too.
* `label` (normal, crackle, wheeze, both) or `crackle` and `wheeze` (0 or 1); where all are given they must agree. A row
  without any of them has not been judged and is left out. With own classes (`--classes`) `label` has their names; of
  independent ones it may name several, joined by +, or each has a column of its own (0 or 1).
* `start_s`, `end_s` may be left out or empty: from the first or to the last sample.
* `recording`: by default the file name without suffix, with the folder where that alone is not enough. `patient`: by
  default what a name as in ICBHI 2017 says, else the recording, so that then patient-disjoint validation and folds are
  only recording-disjoint.
* `split` (train, test or validation): without this column, or where it is empty throughout, every row is train.
  `device`, `location`, `mode`: any text.
* Other columns are not used: tables of `rales predict` and of the page can be given as they are. Their `label` is
  what counts, also where a column `true_label` says something else.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rales.data import icbhi
from rales.data.annotation_dialects import (
    TableRow,
    comparable_path,
    file_identity,
    has_suffix,
    locate_file,
    mend_path,
    parquet_columns,
    read_table,
)
from rales.data.reader import (
    COLUMNS,
    Cycle,
    DatasetContents,
    Recording,
    interval_problem,
    label_of,
    list_some,
    overlap_note,
    parse_number,
    probe_audio,
    repeated_problems,
    sort_cycles,
)
from rales.errors import FileError
from rales.files.atomic import atomic_write
from rales.files.csv_cells import defuse_table
from rales.labels import CLASSES, ICBHI, JOINED, NOTHING, LabelSet, fold_word

if TYPE_CHECKING:
    from pandas import DataFrame

SPLIT_WORDS = ("train", "test", "validation")

_FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_PER_RECORDING = ("recording", "patient", "device", "location", "mode", "split")
_TIMES = ("start_s", "end_s")
_JUDGEMENT = ("label", "crackle", "wheeze")
_WRITTEN = (".csv", ".tsv", ".parquet")
_OURS = ("true_label", "model_label", *(f"p_{name}" for name in CLASSES))  # columns of our tables, not misspelt ones


def write_manifest(cycles: DataFrame, path: str | Path) -> None:
    """Cycles table -> manifest file (.csv, .tsv or .parquet) that `read_cycles` reads back to the same table.

    Paths inside the manifest's folder are written relative to it, so that the folder can be moved.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITTEN:
        raise FileError(path, f"expected a name ending in {', '.join(_WRITTEN)}")
    folder = path.parent.resolve()

    def shortened(sound: str) -> str:
        whole = Path(sound).absolute()
        return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)

    rows = cycles[list(COLUMNS)].assign(path=[shortened(sound) if sound else "" for sound in cycles["path"]])
    with atomic_write(path) as beside:
        if path.suffix.lower() == ".parquet":
            rows.to_parquet(beside, index=False)
        else:
            defuse_table(rows).to_csv(beside, index=False, sep="\t" if path.suffix.lower() == ".tsv" else ",")


def find_recordings(
    manifest: str | Path,
    *,
    audio: bool,
    decode: bool,
    true_labels: bool = False,
    confirmed: bool = False,
    reader: str | None = None,
    label_set: LabelSet = ICBHI,
) -> DatasetContents:
    """Manifest file -> its recordings, damaged or not; `decode` reads all samples instead of the headers only.

    `true_labels`: of a table of a model's answers that nobody has confirmed, the label is that of true_label.
    `confirmed`: of a table that says which labels a person has confirmed, the others are none. `reader`: of a table of
    several readers (column reader) the rows of this one. Cycles have labels of
    the `label_set`, so a problem with one names its row. Errors: no column true_label, if it is asked.
    """
    manifest = Path(manifest)
    columns, lines, notes = read_table(manifest)
    if columns:
        _check_columns(manifest, columns, label_set)
    rows = list(lines)
    if not rows:
        raise FileError(manifest, "no rows, expected one per cycle")
    if reader is not None:
        rows = [row for row in rows if row.cells.get("reader") == reader]
    answers = f"p_{CLASSES[0]}" in columns or "quality_reason" in columns  # of one's own classes, too
    if true_labels and answers and "confirmed" not in columns:
        if "true_label" not in columns:
            raise FileError(manifest, "the answers of a model without true_label; add what the cycles are, to score by")
        rows = [TableRow(row.where, {**row.cells, "label": row.cells["true_label"]}) for row in rows]
    if confirmed and "confirmed" in columns:
        rows = [row for row in rows if _FLAGS.get(row.cells["confirmed"].lower())]
        if not rows:
            raise FileError(manifest, "no cycle is confirmed (column confirmed); a person must have looked at them")
    own = _class_columns(columns, label_set)
    judged = [row for row in rows if any(row.cells.get(name) for name in (*_JUDGEMENT, *own.values()))]
    if not judged:
        raise FileError(manifest, f"no row has a label; fill in the column label ({', '.join(label_set.classes)})")
    has_split = "split" in columns and any(row.cells["split"] for row in judged)

    recordings, problems = recordings_of_rows(
        manifest.parent, judged, label_set, has_split=has_split, audio=audio, decode=decode
    )
    split_problems = _unset_split(judged) if has_split else []
    notes += _table_notes(manifest, columns, judged, label_set, has_split=has_split)
    if len(judged) < len(rows):
        known = {row.where for row in judged}
        left_out = [row.where.rpartition(", ")[2] for row in rows if row.where not in known]
        notes.append(
            f"{manifest}: rows without a label, not judged and left out: {len(left_out)} ({list_some(left_out)})"
        )
    return DatasetContents(manifest, recordings, problems, notes, split_problems=split_problems)


def recordings_of_rows(
    folder: Path, rows: list[TableRow], label_set: LabelSet, *, has_split: bool, audio: bool, decode: bool
) -> tuple[list[Recording], list[str]]:
    """Folder that paths are relative to, and rows that have a label -> their recordings, damaged or not, and a problem
    for each row without one. `has_split`: whether the rows say it; else all are for training."""
    groups, problems = _group_by_recording(folder, rows, audio=audio)

    def read_one(name: str) -> Recording:
        return _recording_of_rows(
            folder, name, groups[name], label_set, has_split=has_split, audio=audio, decode=decode
        )

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_one, groups)), problems


def _unset_split(rows: list[TableRow]) -> list[str]:
    unset = [row.where for row in rows if not row.cells["split"]]
    more = f" (and in {len(unset) - 1} rows more)" if unset[1:] else ""
    words = f"expected one of {', '.join(SPLIT_WORDS)}, or --set split.name=folds for training"
    return [f"{unset[0]}: split is empty{more}, {words}"] if unset else []


def _group_by_recording(
    folder: Path, rows: list[TableRow], *, audio: bool
) -> tuple[dict[str, list[TableRow]], list[str]]:
    """Rows -> those of each recording by its name, and a problem for each that has none.

    A recording is a file, or a name where no path is given; where two share the name in the table or that of the file,
    the folder is added to it.
    """
    files: dict[str, str] = {}
    same: dict[str, str] = {}  # path -> what all paths of one file share
    groups: dict[tuple[str, str], list[TableRow]] = {}
    problems = []
    for row in rows:
        path, name = row.cells["path"], row.cells.get("recording", "")
        if not path and not name:
            problems.append(f"{row.where}: no path; give the audio file of the row or remove it")
            continue
        if path not in files:
            whole = locate_file(folder, path) if audio else folder / path
            files[path] = os.path.normpath(whole) if path else ""
            same[path] = (file_identity(files[path]) or os.path.abspath(files[path])) if path else ""
        groups.setdefault((same[path], "" if path else name), []).append(row)

    base = os.path.normpath(folder)
    called = [(files[first["path"]], first.get("recording")) for first in (group[0].cells for group in groups.values())]
    names = [name or _recording_stem(file) for file, name in called]
    shared = Counter(names)
    named: dict[str, list[TableRow]] = {}
    for (file, _), name, group in zip(called, names, groups.values(), strict=True):
        inside = os.path.relpath(file, base) if file.startswith(base) or base == "." else file
        longer = Path(inside).as_posix()
        choices = [name] * (shared[name] == 1) + [longer.removesuffix(Path(longer).suffix), longer]
        numbered = (f"{longer}.{number}" for number in range(2, len(names) + 2))  # where the table calls another so
        named[next(choice for choice in (*choices, *numbered) if choice not in named)] = group
    return named, problems


def _recording_stem(path: str) -> str:
    name = os.path.basename(path)
    return os.path.splitext(name)[0] if has_suffix(name) else name


def _recording_of_rows(
    folder: Path, name: str, rows: list[TableRow], label_set: LabelSet, *, has_split: bool, audio: bool, decode: bool
) -> Recording:
    """The rows of one recording -> the recording with its cycles."""
    first, where = rows[0].cells, rows[0].where
    problems: list[str] = []
    notes: list[str] = []
    paths = list(dict.fromkeys(row.cells["path"] for row in rows))
    one_file = f", which are one file ({list_some(paths)})," if len(paths) > 1 else ""
    for column in _PER_RECORDING:
        values = sorted({row.cells.get(column, "") for row in rows})
        if len(values) > 1:
            problems.append(
                f"{where}: the rows of recording {name}{one_file} differ in {column} "
                f"({list_some(values)}); make them one"
            )

    path, facts = "", None
    if audio and first["path"]:
        path = str(locate_file(folder, first["path"]))
        facts, wrong, notes = probe_audio(Path(path), decode=decode)
        problems += [f"{where}: {problem}" for problem in wrong]
    elif audio:
        problems.append(f"{where}: path is empty; give the audio file of recording {name}")
    split = first.get("split", "") if has_split else "train"
    if split and split not in SPLIT_WORDS:
        problems.append(f"{where}: split {split!r}, expected one of {', '.join(SPLIT_WORDS)}")

    cycles = []
    for row in rows:
        cycle = _cycle_of_row(row.cells, facts.duration_s if facts else None, label_set)
        if isinstance(cycle, Cycle):
            cycles.append(cycle)
        else:
            problems.append(f"{row.where}: {cycle}")
    cycles = sort_cycles(cycles)
    said = icbhi.parse_recording_name(_recording_stem(first["path"] or name))
    return Recording(
        name=name,
        patient=first.get("patient") or said.get("patient") or name,
        device=first.get("device") or said.get("device", ""),
        location=first.get("location") or said.get("location", ""),
        mode=first.get("mode") or said.get("mode", ""),
        split=split,
        path=path,
        info=facts,
        cycles=cycles,
        problems=[*problems, *repeated_problems(where, cycles)],
        notes=[*notes, *overlap_note(where, cycles)],
    )


def spans_of(manifest: Path) -> dict[str, list[TableRow]]:
    """Table -> path of a recording -> the rows that give its cycles for prediction, {} without start_s and end_s.

    Paths are relative to the table's folder, as the first row of the recording has it. A recording none of whose rows
    has a time is not there; beside rows with times, one with a label alone is the whole recording, as for
    `read_cycles`. The label of a row is what the cycle is known to be: that of true_label where there is such a column,
    none where the table is one of a model's answers. `marked` is empty where the times may be a model's: in its
    answers, unless the row has a label or is `confirmed`.
    """
    is_parquet = manifest.suffix.lower() == ".parquet"
    columns = parquet_columns(manifest) if is_parquet else read_table(manifest).columns
    if not set(_TIMES) & set(columns):
        return {}
    answers = f"p_{CLASSES[0]}" in columns or "quality_reason" in columns  # of one's own classes, too
    known = ["true_label"] if "true_label" in columns else [] if answers else list(_JUDGEMENT)
    spans: dict[str, list[TableRow]] = {}
    spelt: dict[str, str] = {}  # place -> the path that stands for it
    for where, cells in read_table(manifest).rows:
        path = cells.get("path") or cells.get("file_name", "")
        if path:
            path = mend_path(manifest.parent, path)
            cell_times = {name: cells.get(name, "") for name in _TIMES}
            cell_times |= {name.removeprefix("true_"): cells.get(name, "") for name in known}
            rows = spans.setdefault(spelt.setdefault(comparable_path(manifest.parent, path), path), [])
            if any(cell_times.values()):
                said = any(cells.get(name, "") for name in known)
                person = not answers or said or _FLAGS.get(cells.get("confirmed", "").lower())
                rows.append(TableRow(where, {**cell_times, "marked": "yes" if person else ""}))
    return {path: rows for path, rows in spans.items() if any(row.cells[name] for row in rows for name in _TIMES)}


def is_marked_by_person(rows: Sequence[TableRow]) -> bool:
    """Rows of `spans_of` for one recording -> whether a person has marked its cycles, at least one of them."""
    return any(row.cells.get("marked") for row in rows)


def cycles_of_rows(
    rows: Sequence[TableRow], duration_s: float, label_set: LabelSet = ICBHI
) -> tuple[list[Cycle], list[str | None], list[str]]:
    """Rows of `spans_of` and the length of their recording -> cycles in order, the label of each where the row gives
    one, a sentence per fault. Labels of other classes than the model's own ones are none."""
    cycles, unlabelled, problems = list[Cycle](), set[Cycle](), list[str]()
    for where, cells in rows:
        labelled = any(cells.get(name) for name in _JUDGEMENT)
        if not label_set.is_icbhi and isinstance(_parse_judgement(cells, label_set), str):
            labelled, cells = False, {name: cell for name, cell in cells.items() if name not in _JUDGEMENT}
        cycle = _cycle_of_row(cells if labelled else {**cells, "label": label_set.normal}, duration_s, label_set)
        if not isinstance(cycle, Cycle):
            problems.append(f"{where}: {cycle}")
            continue
        cycles.append(cycle)
        if not labelled:
            unlabelled.add(cycle)
    cycles = sort_cycles(cycles)
    labels = [None if cycle in unlabelled else cycle.label for cycle in cycles]
    return cycles, labels, problems + repeated_problems(rows[0].where, cycles)


def _cycle_of_row(cells: dict[str, str], duration_s: float | None, label_set: LabelSet) -> Cycle | str:
    """One row and the length of its recording -> the cycle, or what is wrong with the row."""
    start, end = cells.get("start_s", ""), cells.get("end_s", "")
    if not end and duration_s is None:
        return "end_s is empty and the length of the recording is not known; give end_s"
    start_s = _parse_seconds(start) if start else 0.0
    end_s = _parse_seconds(end) if end else duration_s
    if start_s is None or end_s is None:
        return f"start_s and end_s are {start!r} and {end!r}, expected numbers of seconds"
    heard = _parse_judgement(cells, label_set)
    if isinstance(heard, str):
        return heard
    return interval_problem(start_s, end_s, duration_s) or Cycle(start_s, end_s, *heard)


def _parse_seconds(text: str) -> float | None:
    """Cell -> a number; 2,4 is 2.4, as spreadsheets of half the world write it."""
    return parse_number(text.replace(",", ".") if re.fullmatch(r"[+-]?\d*,\d+", text) else text)


def _parse_judgement(cells: dict[str, str], label_set: LabelSet) -> tuple[int | None, int | None, str] | str:
    """One row -> crackle and wheeze (None where not given) and its label in the set, or what is wrong with them."""
    word, own = cells.get("label", ""), _class_columns(list(cells), label_set)
    if own and (not word or all(cells[column] for column in own.values())):
        if wrong := [
            f"{column} is {cells[column]!r}" for column in own.values() if cells[column].lower() not in _FLAGS
        ]:
            return f"{wrong[0]}, expected 0 or 1"
        marked = JOINED.join(name for name, column in own.items() if _FLAGS[cells[column].lower()]) or NOTHING
        if word and label_set.find_label(word) != marked:
            return f"label {word!r}, but the columns {', '.join(own.values())} say {marked}"
        word = word or marked

    given = all(cells.get(name, "").lower() in _FLAGS for name in _JUDGEMENT[1:])
    of_flags = label_set.is_icbhi or not word or ((label_set.follows_flags or given) and word.lower() in CLASSES)
    flags = _parse_flags(cells if of_flags else {**cells, "label": ""}) if of_flags or given else (None, None)
    if isinstance(flags, str):
        return flags
    crackle, wheeze = flags
    if word and not own and label_set.follows_flags and crackle is not None and wheeze is not None:
        named, flagged = label_set.find_label(word), label_set.label_flags(crackle, wheeze)
        if named is None and fold_word(word) not in CLASSES:
            return f"label {word!r} is none of the classes ({', '.join(label_set.classes)})"
        if named is not None and named != flagged:
            heard = flagged or "none of the classes"
            return f"label {word!r}, but crackle {crackle} and wheeze {wheeze}, which is {heard}"
    try:
        return (*flags, label_set.label_cycle(word, *flags))
    except ValueError as error:
        return str(error)


def _parse_flags(cells: dict[str, str]) -> tuple[int, int] | str:
    """One row -> (crackle, wheeze), or what is wrong with its label or flags."""
    label, crackle, wheeze = (cells.get(column, "").lower() for column in _JUDGEMENT)
    if label and label not in CLASSES:
        close = difflib.get_close_matches(label, CLASSES, n=1)
        guess = f"did you mean {close[0]}? Known: " if close else "expected one of "
        return f"label {label!r} is not known; {guess}{', '.join(CLASSES)} (other classes are named by --classes)"
    if label and not crackle and not wheeze:
        return CLASSES.index(label) % 2, CLASSES.index(label) // 2
    if crackle not in _FLAGS or wheeze not in _FLAGS:
        return f"crackle and wheeze are {crackle!r} and {wheeze!r}, expected 0 or 1"
    flags = _FLAGS[crackle], _FLAGS[wheeze]
    if label and label != label_of(*flags):
        return f"label {label} but crackle {flags[0]} and wheeze {flags[1]}, which is {label_of(*flags)}"
    return flags


def _class_columns(columns: Sequence[str], label_set: LabelSet) -> dict[str, str]:
    """Columns of a table -> class -> its column, where the classes are independent and each has one."""
    known = {fold_word(column): column for column in columns}
    found = {name: known[fold_word(name)] for name in label_set.classes if fold_word(name) in known}
    return found if label_set.independent and len(found) == len(label_set) else {}


def _check_columns(manifest: Path, columns: list[str], label_set: LabelSet) -> None:
    """Columns of a manifest -> nothing, or ValueError for missing, doubled and misspelt ones."""
    if len(set(columns)) < len(columns):
        raise FileError(manifest, f"a column is there twice ({', '.join(columns)}); keep one")
    missing = [name for name in COLUMNS if name not in columns]
    own = _class_columns(columns, label_set)
    for column in set(columns) - {*COLUMNS, *_OURS, *label_set.columns, *own.values()}:
        close = difflib.get_close_matches(column.lower(), missing, n=1, cutoff=0.8)
        if close:  # a misspelt `split` would make test recordings train ones without a word
            raise FileError(manifest, f"column {column!r} is not known; did you mean {close[0]!r}? Rename it")
    if "path" in missing:
        raise FileError(manifest, f"no column path (found: {', '.join(columns)}); it names the audio file of each row")
    if "label" in missing and not {"crackle", "wheeze"} <= set(columns) and not own:
        raise FileError(
            manifest,
            f"no column label and not both crackle and wheeze (found: {', '.join(columns)}); "
            f"add label ({', '.join(label_set.classes)}) or the two flags",
        )


def _table_notes(
    manifest: Path, columns: list[str], rows: list[TableRow], label_set: LabelSet, *, has_split: bool
) -> list[str]:
    """What the table leaves open, and how it is taken."""
    notes = []
    if "patient" not in columns or not all(row.cells["patient"] for row in rows):
        nobody = "no column patient" if "patient" not in columns else "patient is empty in some rows"
        by_name = any(icbhi.parse_recording_name(_recording_stem(row.cells["path"])) for row in rows)
        own = "every recording counts as a patient of its own"
        notes.append(
            f"{manifest}: {nobody}; "
            + (f"the patient is that of a file name as in ICBHI 2017, of others {own}" if by_name else own)
        )
    if not has_split:
        nothing = "split is empty throughout" if "split" in columns else "no column split"
        notes.append(f"{manifest}: {nothing}; every row counts as train")
    used = {*COLUMNS, *_class_columns(columns, label_set).values()}
    unused = [column for column in columns if column not in used]
    if unused:
        differ = sum(row.cells.get("true_label", "") not in ("", row.cells.get("label")) for row in rows)
        label = (
            f"; the label is that of the column label, which differs from true_label in {differ} rows" if differ else ""
        )
        notes.append(f"{manifest}: columns that are not used: {', '.join(unused)}{label}")
    return notes
