"""Selection tables of Raven: their rows, and of a table of several recordings which rows are whose."""

from collections.abc import Mapping, Sequence
from os.path import splitext
from typing import Final

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.reader import list_some, parse_number
from rales.errors import FileError
from rales.files.csv_cells import one_line

RAVEN_TIMES: Final = ("begin time (s)", "end time (s)")
_FILE: Final = "begin file"
_OFFSET: Final = "file offset (s)"  # of the start, in that file

Selection = tuple[int, dict[str, str]]  # line of the table, column in small letters -> cell


def read_selections(
    header: Sequence[str], written: Sequence[tuple[int, str]], name: str, recording: str, notes: list[str]
) -> list[Selection]:
    """Columns in small letters, numbered lines behind them, what people know the table by and the name of its recording
    -> the selections in this one. A selection may stand there once for every view; that of the spectrogram then counts.

    `notes` gets one where the table names a single recording of another name. Errors: a FileError where it is not clear
    which rows are meant.
    """
    selections = dict[str, Selection]()
    for place, line in written:
        row = dict(zip(header, (cell.strip() for cell in line.split("\t")), strict=False))
        selection = row.get("selection") or f"line {place}"
        if selection not in selections or row.get("view", "").lower().startswith("spectrogram"):
            selections[selection] = place, row
    rows = list(selections.values())
    files = {row[_FILE]: row[_FILE] for _, row in rows if row.get(_FILE)}
    chosen = choose_recording(files, name, recording, notes)
    if len(files) < 2:
        return rows
    if not all(row.get(_FILE) and row.get(_OFFSET) for _, row in rows):
        raise FileError(
            name,
            f"its times go through {len(files)} files ({list_some(sorted(files))}); expected Begin File and File "
            "Offset (s) in every row, or a table for each file",
        )
    return [each for each in rows if each[1][_FILE] in chosen]


def times_in_file(row: Mapping[str, str]) -> tuple[str, str]:
    """A row of a Raven table -> its start and end in seconds of its file, as text. Times go through all files that were
    open together; the offset is that in the file."""
    begin, end = (row.get(each, "") for each in RAVEN_TIMES)
    start_s, end_s, offset_s = map(parse_number, (begin, end, row.get(_OFFSET, "")))
    if start_s is None or end_s is None or offset_s is None or abs(offset_s - start_s) < 1e-3:
        return begin, end  # as they are written
    return str(offset_s), str(round(offset_s + end_s - start_s, 6))


def choose_recording(paths: Mapping[str, str], name: str, recording: str, notes: list[str]) -> set[str]:
    """Recordings that a file is about, id -> path -> the ids of the one that is meant; `notes` gets one on a single one
    of another name. Errors: a FileError where that is not clear."""
    names = {uid: path.replace("\\", "/").rpartition("/")[2] for uid, path in paths.items()}
    wanted = _stem(recording)
    if len(names) < 2:
        notes += [
            f"{name}: says that it is of {one_line(each)[:120]}, here it is taken for {recording}"
            for each in names.values()
            if each and wanted and _stem(each) != wanted
        ]
        return set(names)
    chosen = {uid for uid, each in names.items() if _stem(each) == wanted}
    if len(chosen) != 1:
        held = f"holds {len(names)} recordings ({list_some(sorted(names.values()))})"
        raise FileError(name, f"{held}, {len(chosen)} of them called {recording!r}")
    return chosen


def _stem(recording: str) -> str:
    """Name of a recording, with or without its suffix -> by what it is compared."""
    stem, suffix = splitext(recording)
    return (stem if suffix.lower() in AUDIO_SUFFIXES else recording).casefold()
