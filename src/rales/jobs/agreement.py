"""Agreement of readers: read what each said, match their cycles, compute kappa and alpha, list the differences."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.data import annotations, icbhi, kauh, manifest, read_contents, split_reader, sprsound
from rales.data.annotation_dialects import SUFFIXES, read_table
from rales.data.reader import DatasetContents, Recording, cycles_table, list_files, list_some
from rales.data.recording_annotations import read_any_annotation
from rales.errors import FileError, UsageError
from rales.evaluation import agreement
from rales.evaluation.predictions import NOTICE
from rales.files.atomic import atomic_write
from rales.inference.output_paths import check_outputs
from rales.inference.prediction_writers import format_csv
from rales.labels import ICBHI, JOINED, LabelSet

LEAST_OVERLAP = 0.5  # of two cycles, shared time / time of either, to be the same breath
UNUSABLE = "(unusable)"  # what a reader says who can tell nothing of a cycle; no class is called so
MANIFEST = "manifest.csv"  # of all recordings, in what the page exports


class JudgedCycle(NamedTuple):
    """A cycle and the label that a reader gave it."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Reading:
    """What one reader said: recording -> cycles, and the patients that are known."""

    name: str
    source: str
    cycles: Mapping[str, Sequence[JudgedCycle]]
    patients: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass
class MatchedCycle:
    """One breath and what each of the readers who marked it called it; times are those of the first of them."""

    recording: str
    patient: str
    start_s: float
    end_s: float
    labels: dict[str, str] = field(default_factory=dict)
    spans: list[JudgedCycle] = field(default_factory=list)


def compare_readers(
    sources: Sequence[str],
    *,
    names: Sequence[str] = (),
    least_overlap: float = LEAST_OVERLAP,
    label_set: LabelSet = ICBHI,
    skip_damaged: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Files or folders of annotations, one a reader -> the document of `rales agreement`.

    Parameters
    ----------
    sources
        Anything that has labels of cycles: a folder of texts or tables, a table, one text, READER:PATH. A table with a
        column `reader` holds several.
    names
        What the readers are called, as many as there are; without, as their files are.
    least_overlap
        Share of the time of two cycles that they have in common, from which on they are the same breath.
    label_set
        The classes that are told apart.
    skip_damaged
        Leave out recordings whose annotations are damaged; else the first is an error.
    resamples, seed
        Of the intervals.
    """
    readings = [reading for source in sources for reading in read_source(source, label_set, skip_damaged=skip_damaged)]
    if len(readings) < 2:
        raise UsageError(
            f"annotations of {len(readings)} reader, expected two or more: give a file or folder for each, or a table "
            "with a column reader"
        )
    if names and len(names) != len(readings):
        raise UsageError(f"{len(names)} names for {len(readings)} readers; give one for each, or none")
    readings = _name_readers(readings, names)
    matched = match_cycles(readings, least_overlap)
    document = summarise(matched, [each.name for each in readings], label_set, resamples=resamples, seed=seed)
    document["least_overlap"] = least_overlap
    for facts, reading in zip(document["readers"], readings, strict=True):
        facts["source"] = reading.source
    notes = [note for reading in readings for note in reading.notes]
    return {**document, "notes": [*notes, *_recording_notes(readings)], "notice": NOTICE}


def _name_readers(readings: Sequence[Reading], names: Sequence[str]) -> list[Reading]:
    """Readings -> the same with names that differ: those given, else those of their files."""
    wanted = list(names) or [reading.name for reading in readings]
    if len(set(wanted)) < len(wanted):
        if names:
            raise UsageError(f"two readers of one name ({', '.join(names)}); give each a name of their own")
        wanted = [f"{name} ({number})" for number, name in enumerate(wanted, start=1)]
    return [replace(each, name=name) for name, each in zip(wanted, readings, strict=True)]


# Read


def read_source(source: str, label_set: LabelSet, *, skip_damaged: bool) -> list[Reading]:
    """File, folder or READER:PATH -> the readings in it. Errors: nothing that can be read, damaged annotations."""
    word, path = split_reader(source)
    if not word and path.is_file() and path.suffix.lower() in SUFFIXES and not sprsound.is_annotation(path):
        return _read_reader_table(path, label_set, skip_damaged=skip_damaged)
    if not word and path.suffix.lower() == ".zip":
        raise FileError(path, "an archive; unpack it and give the folder")
    if word or (path.is_dir() and (sprsound.is_layout(path) or kauh.is_layout(path))):
        contents = read_contents(source, audio=False, decode=False, label_set=label_set)
        return [_reading_of_contents(contents, path.stem, source, label_set, skip_damaged=skip_damaged)]

    files = [path] if path.is_file() else list_files(path)
    contents, passed_over = _read_texts(path, files, label_set)
    tables = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not contents.recordings and tables:
        chosen = next((file for file in tables if file.name == MANIFEST), tables[0])
        return read_source(str(chosen), label_set, skip_damaged=skip_damaged)
    if not contents.recordings:
        raise FileError(path, "no annotation in it; expected texts of cycles (.txt), a table of them or SPRSound's")
    reading = _reading_of_contents(contents, path.stem, source, label_set, skip_damaged=skip_damaged)
    note = [f"{path}: not taken for annotations: {list_some(passed_over)}"] if passed_over else []
    return [replace(reading, notes=[*note, *reading.notes])]


def _read_reader_table(path: Path, label_set: LabelSet, *, skip_damaged: bool) -> list[Reading]:
    """Table -> what each of its readers said; without a column reader that of one, named as the file."""
    table = read_table(path)
    rows = list(table.rows)
    named = "reader" in table.columns
    readings = []
    for reader in dict.fromkeys(row.cells["reader"] for row in rows) if named else [None]:
        contents = manifest.find_recordings(
            path, audio=False, decode=False, confirmed=True, reader=reader, label_set=label_set
        )
        name = path.stem if reader is None else reader or "(no name)"
        reading = _reading_of_contents(contents, name, str(path), label_set, skip_damaged=skip_damaged)
        total = sum(reader is None or row.cells["reader"] == reader for row in rows)
        used = sum(map(len, reading.cycles.values()))
        note = f"{path}, reader {name}: {used} of {total} rows are used; the others are not confirmed, or have no label"
        readings.append(replace(reading, notes=[*([note] if used < total else []), *reading.notes]))
    return readings


def _read_texts(path: Path, files: Sequence[Path], label_set: LabelSet) -> tuple[DatasetContents, list[str]]:
    """Files of a folder, or one -> the annotations among them, each a recording named by its place in the folder, and
    the texts that are none."""
    recordings, passed_over = list[Recording](), list[str]()
    for file in files:
        if file.suffix.lower() != ".txt" and not sprsound.is_annotation(file):
            continue
        found = read_any_annotation(file, None, label_set=label_set)
        if found.passed_over or (not found.labelled and not found.problems):
            passed_over.append(f"{file.name} ({found.passed_over or 'times without labels'})")
            continue
        name = file.relative_to(path).as_posix() if file != path else file.name
        name = name[: -len(file.suffix)]
        for program in filter(None, annotations.PROGRAMS):
            name = name.removesuffix(program)
        patient = icbhi.parse_recording_name(name.rpartition("/")[2]).get("patient", name)
        recordings.append(Recording(name, patient=patient, cycles=found.cycles, problems=found.problems))
    return DatasetContents(path, recordings), passed_over


def _reading_of_contents(
    contents: DatasetContents, name: str, source: str, label_set: LabelSet, *, skip_damaged: bool
) -> Reading:
    table = cycles_table(contents, skip_damaged=skip_damaged, audio=False, needs_split=False, label_set=label_set)
    cycles = defaultdict(list)
    for recording, start_s, end_s, label in table[["recording", "start_s", "end_s", "label"]].to_numpy(dtype=object):
        cycles[str(recording)].append(JudgedCycle(float(start_s), float(end_s), str(label)))
    known = dict(zip(table["recording"], table["patient"], strict=True))
    patients = {recording: patient for recording, patient in known.items() if patient != recording}
    return Reading(name, source, dict(cycles), patients, [f"left out: {each}" for each in table.attrs["left_out"]])


# Match


def match_cycles(readings: Sequence[Reading], least_overlap: float = LEAST_OVERLAP) -> list[MatchedCycle]:
    """Readings -> one row for each breath that anybody marked, by recording and time.

    Within a recording, cycles of one reader after the other are joined with the breaths found so far, one to one, so
    that the sum of the overlaps is largest; an overlap (shared time / time of either) below `least_overlap` joins none.
    """
    if not 0 < least_overlap <= 1:
        raise UsageError(f"an overlap of {least_overlap:g}, expected a share above 0 and up to 1, such as 0.5")
    keys = _join_names(readings)
    heard: dict[str, list[tuple[str, Sequence[JudgedCycle]]]] = defaultdict(list)
    patients: dict[str, str] = {}
    for place, reading in enumerate(readings):
        for recording, cycles in reading.cycles.items():
            key = keys[place, recording]
            heard[key].append((reading.name, cycles))
            if recording in reading.patients:
                patients.setdefault(key, reading.patients[recording])

    matched = []
    for recording in sorted(heard):
        rows = list[MatchedCycle]()
        for name, cycles in heard[recording]:
            _join_reader(rows, name, cycles, recording, patients.get(recording, recording), least_overlap)
        matched += sorted(rows, key=lambda row: (row.start_s, row.end_s))
    return matched


def _join_names(readings: Sequence[Reading]) -> dict[tuple[int, str], str]:
    """Readings -> place of a reading and name of a recording in it -> the name that all share.

    A name without folder stands for the one with a folder where there is only one of that ending: `anna` is
    `visit1/anna` unless somebody has a `visit2/anna` too, or one reader has both `anna` and `visit1/anna`.
    """
    whole: dict[str, set[str]] = defaultdict(set)
    twice = set[str]()  # endings of which one reader has two
    for reading in readings:
        endings = Counter(recording.rpartition("/")[2] for recording in reading.cycles)
        twice |= {last for last, many in endings.items() if many > 1}
        for recording in reading.cycles:
            whole[recording.rpartition("/")[2]].add(recording)
    keys = {}
    for place, reading in enumerate(readings):
        for recording in reading.cycles:
            last = recording.rpartition("/")[2]
            unlike = whole[last] - {last}
            alone = len(unlike) <= 1 and last not in twice
            keys[place, recording] = next(iter(unlike), last) if alone else recording
    return keys


def _join_reader(
    rows: list[MatchedCycle],
    name: str,
    cycles: Sequence[JudgedCycle],
    recording: str,
    patient: str,
    least_overlap: float,
) -> None:
    """Add a reader's cycles of a recording to its rows; one that matches none is a row of its own."""
    partners: dict[int, MatchedCycle] = {}
    if rows and cycles:
        spans = overlap_shares([span for row in rows for span in row.spans], cycles)
        firsts = np.cumsum([0, *(len(row.spans) for row in rows[:-1])])
        best = np.maximum.reduceat(spans, firsts, axis=0)  # of the spans of a row
        partners = {column: rows[line] for line, column in pair_cycles(best, least_overlap).items()}
    fresh = []
    for column, cycle in enumerate(cycles):
        row = partners.get(column)
        if row is None:
            row = MatchedCycle(recording, patient, cycle.start_s, cycle.end_s)
            fresh.append(row)
        row.labels[name] = cycle.label
        row.spans.append(cycle)
    rows += fresh


def pair_cycles(overlaps: NDArray[np.float64], least_overlap: float = LEAST_OVERLAP) -> dict[int, int]:
    """Overlaps (one, other) of `overlap_shares` -> which row goes with which column, one to one, so that their sum is
    largest; what is below the least goes with none."""
    from scipy.optimize import linear_sum_assignment

    # What is below the least is worth nothing, so that it cannot take the partner of another.
    worth = np.where(overlaps >= least_overlap - 1e-9, overlaps, 0.0)
    chosen = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
    return {int(line): int(column) for line, column in chosen if worth[line, column] > 0}


def overlap_shares(ones: Sequence[JudgedCycle], others: Sequence[JudgedCycle]) -> NDArray[np.float64]:
    """Cycles of two sides -> time that two of them share / time that either covers, 0 to 1 (ones, others)."""
    one, other = span_times(ones)[:, None], span_times(others)[None]
    covered_s = np.maximum(one[..., 1], other[..., 1]) - np.minimum(one[..., 0], other[..., 0])
    shared_s = shared_times(ones, others)
    found: NDArray[np.float64] = np.divide(shared_s, covered_s, out=np.zeros_like(shared_s), where=covered_s > 0)
    return found


def shared_times(ones: Sequence[JudgedCycle], others: Sequence[JudgedCycle]) -> NDArray[np.float64]:
    """Cycles of two sides -> the seconds that two of them share (ones, others)."""
    one, other = span_times(ones)[:, None], span_times(others)[None]
    found: NDArray[np.float64] = np.minimum(one[..., 1], other[..., 1]) - np.maximum(one[..., 0], other[..., 0])
    return found.clip(min=0.0)


def span_times(cycles: Sequence[JudgedCycle]) -> NDArray[np.float64]:
    """-> starts and ends in seconds (cycles, 2)."""
    return np.array([cycle[:2] for cycle in cycles], dtype=float).reshape(-1, 2)


def _recording_notes(readings: Sequence[Reading]) -> list[str]:
    """What recordings only some of the readers have."""
    keys = _join_names(readings)
    held = {
        reading.name: {keys[place, recording] for recording in reading.cycles} for place, reading in enumerate(readings)
    }
    everyone = set.union(*held.values())
    return [
        f"{name}: recordings of others that it does not have: {list_some(sorted(everyone - known))}"
        for name, known in held.items()
        if everyone - known
    ]


# Sum up


def summarise(
    matched: Sequence[MatchedCycle],
    readers: Sequence[str],
    label_set: LabelSet = ICBHI,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Rows of `match_cycles` -> figures of all readers, of every pair and of every finding, the differences, and what
    was not matched. Errors: no cycle that two readers judged."""
    shared = [row for row in matched if len(row.labels) >= 2]
    if not any(sum(label != UNUSABLE for label in row.labels.values()) >= 2 for row in shared):
        raise ValueError(
            "no cycle was judged by two readers; expected annotations of the same recordings with cycles that overlap"
        )
    patients = [row.patient for row in matched]
    ratings = {"": _make_ratings(matched, readers, list(label_set.classes))} if not label_set.independent else {}
    for finding, numbers in label_set.findings.items():
        holding = {label_set.classes[number] for number in numbers}
        ratings[finding] = _rate_finding(matched, readers, holding)
    many = {"": len(label_set.classes)}
    figures = {
        finding: _figures(matrix, readers, patients, many.get(finding, 2), (resamples, seed))
        for finding, matrix in ratings.items()
    }
    overall = figures.pop("", {})

    return {
        "readers": [_reader_facts(name, matched) for name in readers],
        "recordings": len({row.recording for row in shared}),
        "patients": len({row.patient for row in shared}),
        "cycles": len(shared),
        "classes": list(label_set.classes),
        **overall,
        "findings": figures,
        "differences": [_difference(row) for row in shared if len(set(row.labels.values())) > 1],
        "unmatched": [
            {"reader": name, "recording": row.recording, "start_s": row.start_s, "end_s": row.end_s, "label": label}
            for row in matched
            if len(row.labels) == 1
            for name, label in row.labels.items()
        ],
    }


def _make_ratings(matched: Sequence[MatchedCycle], readers: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array(
        [[numbers.get(row.labels.get(reader, ""), agreement.MISSING) for reader in readers] for row in matched]
    )


def _rate_finding(matched: Sequence[MatchedCycle], readers: Sequence[str], holding: set[str]) -> NDArray[np.int64]:
    """-> (cycles, readers) 1 where a reader's label has the finding, 0 where not."""

    def rate(label: str) -> int:
        return agreement.MISSING if label in ("", UNUSABLE) else int(bool(set(label.split(JOINED)) & holding))

    return np.array([[rate(row.labels.get(reader, "")) for reader in readers] for row in matched])


def _figures(
    ratings: NDArray[np.int64], readers: Sequence[str], patients: Sequence[str], many: int, drawn: tuple[int, int]
) -> dict[str, Any]:
    """Class numbers (cycles, readers) of so many classes, resamples and seed of the intervals -> alpha and Fleiss'
    kappa of all, Cohen's of pairs."""
    judged = ratings != agreement.MISSING
    pairs = []
    for one, other in combinations(range(len(readers)), 2):
        both, kappa, confusion = judged[:, one] & judged[:, other], None, None
        if both.any():
            kappa = _record(agreement.cohen_kappa(ratings[:, one], ratings[:, other], patients, *drawn))
            confusion = _count_pairs(ratings[both][:, [one, other]], many)
        pairs.append({"readers": [readers[one], readers[other]], "kappa": kappa, "confusion": confusion})
    complete = judged.all(axis=1).any()
    return {
        "alpha": _record(agreement.krippendorff_alpha(ratings, patients, *drawn)),
        "fleiss_kappa": _record(agreement.fleiss_kappa(ratings, patients, *drawn)) if complete else None,
        "pairs": pairs,
    }


def _record(found: agreement.Agreement) -> dict[str, Any]:
    value, low, high, agreed, cycles, patients = found
    return {"value": value, "ci95": [low, high], "agreed": agreed, "cycles": cycles, "patients": patients}


def _count_pairs(ratings: NDArray[np.int64], many: int) -> list[list[int]]:
    """Class numbers (cycles, 2) of so many classes -> how often the one (rows) and the other (columns) said which."""
    counts = np.zeros((many, many), dtype=int)
    np.add.at(counts, (ratings[:, 0], ratings[:, 1]), 1)
    return [list(map(int, row)) for row in counts]


def _reader_facts(name: str, matched: Sequence[MatchedCycle]) -> dict[str, Any]:
    mine = [row for row in matched if name in row.labels]
    return {
        "name": name,
        "recordings": len({row.recording for row in mine}),
        "cycles": len(mine),
        "matched": sum(len(row.labels) >= 2 for row in mine),
    }


def _difference(row: MatchedCycle) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name != "spans"}


# Write


def check_output(out: Path, sources: Sequence[str]) -> None:
    """Errors: UsageError for a table that is none, or would replace what a person made."""
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out}: expected a name ending in .csv")
    files = [file for source in sources if Path(source).is_dir() for file in list_files(Path(source))]
    check_outputs({"--out": [out]}, {"an annotation that is read": [*sources, *files]})


def write_differences(document: dict[str, Any], out: Path) -> None:
    """Document of `compare_readers` -> a table with a column for each reader and a row for each difference."""
    names = [reader["name"] for reader in document["readers"]]
    about = ["recording", "patient", "start_s", "end_s"]
    rows = [
        [*(row[name] for name in about), *(row["labels"].get(name, "") for name in names)]
        for row in document["differences"]
    ]
    columns = [*about, *(f"label_{name}" for name in names)]
    with atomic_write(out) as beside:
        beside.write_text(format_csv(pd.DataFrame(rows, columns=columns)), encoding="utf-8")
