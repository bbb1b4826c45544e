"""KAUH folder (112 adults of Jordan, three filters of one stethoscope, a label per recording) -> recordings and audit.

The labels are those of a table `labels.csv` (columns file, filter, patient, sound_type; more are welcome), or of the
published file names: `BP1_Asthma,I E W,P L L,70,M.wav` is filter and patient, diagnosis, sound type, place, age, sex.
They hold for whole recordings, so there are no cycles to train on (Fraiwan et al., Data in Brief 35, 2021, 106913).
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.annotation_dialects import TableRow, read_table
from rales.data.reader import (
    DatasetContents,
    Findings,
    Recording,
    copies_note,
    group_by_stem,
    list_files,
    list_some,
    locked_problems,
    pair_files,
    unread_note,
    without_copies,
)
from rales.errors import FileError

LABELS = "labels.csv"
NEEDED = ("file", "filter", "patient", "sound_type")
FLAGS = ("normal", "crackle", "wheeze")  # columns that are held against the sound type where they are there
FILTERS = {"B": "bell", "D": "diaphragm", "E": "extended"}
EXTRA_COLUMNS = ("filter", "diagnosis", "sound_type")
SOUNDS = {"N": "normal", "C": "crackle", "Crep": "crackle", "W": "wheeze", "Bronchial": "other"}
PHASES = ("I", "E", "B")  # when it is heard: breathing in, out, both

_PUBLISHED = re.compile(
    r"(?P<filter>[BDE])P(?P<patient>\d+)_(?P<diagnosis>[^,]*),(?P<sound_type>[^,]*),(?P<location>[^,]*),[^,]*,[^,]*"
)


def is_layout(folder: Path) -> bool:
    """Folder -> whether it has a table of labels of the kind above, or recordings named as published."""
    paths = list_files(folder)
    if any(path.suffix.lower() in AUDIO_SUFFIXES and _PUBLISHED.fullmatch(path.stem) for path in paths):
        return True
    return any(_is_label_table(path) for path in paths if path.name == LABELS)


def _is_label_table(path: Path) -> bool:
    """Whether a table has the columns of this layout; one that cannot be read is another's."""
    try:
        return set(NEEDED) <= set(read_table(path).columns)
    except (ValueError, OSError):
        return False


def find_recordings(folder: str | Path, *, audio: bool, decode: bool) -> DatasetContents:
    """KAUH folder -> its recordings, damaged or not; `decode` reads all samples instead of the headers only."""
    folder = Path(folder)
    locked = list[Path]()
    paths = list_files(folder, locked)
    sounds, copied = without_copies(group_by_stem(paths, AUDIO_SUFFIXES))
    rows = _read_labels(folder, [path for path in paths if path.name == LABELS], sounds)
    with_audio = audio and bool(sounds)
    names = sorted(rows.keys() | sounds.keys()) if with_audio else sorted(rows)

    def read_one(name: str) -> Recording:
        heard = sounds.get(name, []) if with_audio else None
        return _label_recording(name, rows.get(name, []), heard, folder=folder, decode=decode)

    with ThreadPoolExecutor() as pool:
        recordings = list(pool.map(read_one, names))
    notes = [
        f"{folder}: labels of whole recordings, so there are no cycles to train on; `rales evaluate` scores a model",
        *copies_note(folder, copied),
        *unread_note(folder, paths),
    ]
    return DatasetContents(folder, recordings, locked_problems(locked), notes, extra_columns=EXTRA_COLUMNS)


def _read_labels(folder: Path, tables: list[Path], sounds: dict[str, list[Path]]) -> dict[str, list[TableRow]]:
    """Tables of labels, or names as published -> the rows of each recording. Errors: a table without rows or columns
    that are needed."""
    rows: dict[str, list[TableRow]] = {}
    for path in tables:
        columns, lines, _ = read_table(path)
        if missing := [name for name in NEEDED if name not in columns]:
            raise FileError(path, f"no column {missing[0]} (found: {', '.join(columns)}); use the table as it came")
        for row in lines:
            rows.setdefault(Path(row.cells["file"]).stem, []).append(row)
    for name, same in sounds.items():
        if name not in rows and (found := _PUBLISHED.fullmatch(name)):
            cells = {key: value.strip() for key, value in found.groupdict().items()}
            rows[name] = [TableRow(str(same[0]), cells)]
    if not rows:
        raise FileError(folder, f"no {LABELS} with rows, and no recording named as published")
    return rows


def _label_recording(
    name: str, rows: Sequence[TableRow], sounds: list[Path] | None, *, folder: Path, decode: bool
) -> Recording:
    """Rows of one name and its files -> the recording; `sounds` is None where audio is not asked for."""
    tables = list(dict.fromkeys(Path(row.where.rpartition(", line ")[0] or row.where) for row in rows))
    recording = pair_files(name, tables[:1], sounds, suffix=f" (a row of {LABELS})", folder=folder, decode=decode)
    problems = list(recording.problems)
    if len(rows) > 1:
        problems.append(f"{rows[0].where}: {name} has {len(rows)} rows; keep one")
    if not rows:
        return replace(recording, problems=problems, extra=dict.fromkeys(EXTRA_COLUMNS, ""))

    where, cells = rows[0]
    said = parse_sound_type(cells["sound_type"])
    findings = None if isinstance(said, str) else said
    wrong = [said] if isinstance(said, str) else _contradictions(cells, said)
    problems += [f"{where}: {problem}" for problem in wrong]
    if cells["filter"] not in FILTERS:
        problems.append(f"{where}: filter {cells['filter']!r}, expected one of {', '.join(FILTERS)}")
    if not cells["patient"]:
        problems.append(f"{where}: no patient; give a number or a name")
    extra = {name: cells.get(name, "") for name in EXTRA_COLUMNS}
    return replace(
        recording,
        patient=cells["patient"],
        location=cells.get("location", ""),
        problems=problems,
        findings=findings,
        extra={**extra, "filter": FILTERS.get(cells["filter"], "")},
    )


def parse_sound_type(text: str) -> Findings | str:
    """Sound type as published (`I E W`: a wheeze in and out) -> what the recording holds, or what is wrong with it."""
    words = text.replace(",", " ").split()
    heard = {SOUNDS[word] for word in words if word in SOUNDS}
    unknown = [word for word in words if word not in SOUNDS and word not in PHASES]
    if unknown or not heard:
        what = f"{unknown[0]!r} in it is not known" if unknown else "it names no sound"
        return f"sound_type {text!r}: {what}; expected {', '.join(SOUNDS)}, with {', '.join(PHASES)} for the phase"
    if "normal" in heard and len(heard) > 1:
        return f"sound_type {text!r} is normal and {list_some(sorted(heard - {'normal'}))} at once; keep one"
    return Findings(int("normal" not in heard), int("crackle" in heard), int("wheeze" in heard))


def _contradictions(cells: dict[str, str], findings: Findings) -> list[str]:
    """Cells of a row and what its sound type says -> a sentence for each flag that says something else."""
    expected = {"normal": 1 - findings.abnormal, "crackle": findings.crackle, "wheeze": findings.wheeze}
    return [
        f"{name} is {cells[name]!r}, but sound_type {cells['sound_type']!r} makes it {expected[name]}"
        for name in FLAGS
        if cells.get(name, "") not in ("", str(expected[name]))
    ]
