"""Read tables as people save them: CSV of any spreadsheet, TSV, Parquet, JSON that Rales writes, and Raven's selections
in several recordings.

CSV may be separated by commas, semicolons or tabs, named in a first line `sep=;` or not, in UTF-8, UTF-16 or the ANSI
of Windows; empty rows and columns are left out.
"""

import codecs
import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rales.audio.open_audio import AUDIO_SUFFIXES, reraise_as_sentences
from rales.errors import FileError, FileProblem, MissingFileError
from rales.files.csv_cells import make_encodable, restore_cell
from rales.files.json_files import read_json

SOUNDS = set(AUDIO_SUFFIXES)
SUFFIXES = (".csv", ".tsv", ".parquet", ".json")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_CHUNK = 1 << 20
_RAVEN_TIMES = ("begin time (s)", "end time (s)")
_RAVEN_PLACE = ("begin path", "file offset (s)")
_ADVICE = "save it as `CSV UTF-8`"


class TableRow(NamedTuple):
    """A row of a table; `where` is "manifest.csv, line 3"."""

    where: str
    cells: dict[str, str]


class TextTable(NamedTuple):
    """Columns in order, and the rows, each read when it is asked for; `notes` are filled while they are read."""

    columns: list[str]
    rows: Iterator[TableRow]
    notes: list[str]


def read_table(path: Path) -> TextTable:
    """Table file -> its columns and rows, every cell as text, "" where empty. Errors: no file, no table, rows that do
    not fit the columns."""
    with reraise_as_sentences(path, _ADVICE):
        if not path.is_file():
            raise MissingFileError(path, "no such manifest file")
        if path.suffix.lower() == ".txt" and (found := _read_raven(path)) is not None:
            return found._replace(rows=_explain_read_errors(path, found.rows))
        check_suffix(path)
        kinds = {".parquet": _read_parquet, ".json": _read_json_rows}
        columns, rows, notes = kinds.get(path.suffix.lower(), _read_csv)(path)
        return TextTable(columns, _explain_read_errors(path, rows), notes)


def _explain_read_errors(path: Path, rows: Iterator[TableRow]) -> Iterator[TableRow]:
    """Rows, which are read only now -> the same; what is wrong with them is a sentence."""
    with reraise_as_sentences(path, _ADVICE):
        yield from rows


def check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise FileError(path, f"expected a table ending in {', '.join(SUFFIXES)}; spreadsheets save one as `CSV UTF-8`")


def locate_file(folder: Path, path: str) -> Path:
    """Folder of a table and a path in it -> the file."""
    return folder / mend_path(folder, path)


def mend_path(folder: Path, path: str) -> str:
    """Folder of a table and a path in it -> the path without the backslashes of Windows and with the suffix that the
    page's tables leave out, where a file is there by that name; else as it is."""
    if "://" in path or ("\\" not in path and has_suffix(path)) or os.path.lexists(folder / path):
        return path
    turned = path.replace("\\", "/")
    whole = folder / turned
    if os.path.lexists(whole):
        return turned
    if has_suffix(turned):
        return path
    suffixes = []
    with suppress(OSError, ValueError):  # no such folder, or no name of one
        entries = whole.parent.iterdir()
        suffixes = [file.suffix for file in entries if file.stem == whole.name and has_suffix(file.name)]
    return turned + suffixes[0] if len(suffixes) == 1 else path


def comparable_path(folder: Path, path: str) -> str:
    """Folder of a table and a path in it -> one text for every way to write the same place; the disk is not asked, so
    a link is a place of its own."""
    if "://" in path:
        return path
    base = os.path.abspath(folder)
    whole = os.path.normpath(os.path.join(base, path))
    return (whole.removeprefix(base + os.sep)).replace(os.sep, "/")


def file_identity(path: str | Path) -> str:
    """Path -> what it shares with every other path of the same file, through links too; "" where there is none."""
    try:
        file_stat = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{file_stat.st_dev}:{file_stat.st_ino}" if file_stat.st_ino else ""


def has_suffix(path: str) -> bool:
    """Whether a path ends as files of sound do."""
    return os.path.splitext(path)[1].lower() in SOUNDS


def _read_csv(path: Path) -> TextTable:
    encoding, notes = _detect_encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
    named = first.strip().lower().strip('"')
    separator = named[4] if named.startswith("sep=") and len(named) == 5 else ""
    skipped = 1 if separator or named == "sep=" else 0

    def lines() -> Iterator[tuple[int, list[str]]]:
        with path.open(encoding=encoding, newline="") as file:
            for _ in range(skipped):
                file.readline()
            head = file.readline()
            delimiter = ("\t" if named == "sep=" else separator) or max(",;\t", key=head.count)
            reader = csv.reader(_prepend_head(head, file), delimiter=delimiter)
            try:
                for cells in reader:
                    yield reader.line_num + skipped, [cell.strip() for cell in cells]
            except csv.Error as error:
                line = reader.line_num + skipped
                raise FileError(path, line=line, reason=f"not readable as CSV ({error})") from None

    rows = lines()
    columns = next((cells for _, cells in rows if any(cells)), [])
    return TextTable([column for column in columns if column], _fit_rows(path, columns, rows, notes), notes)


def _read_raven(path: Path) -> TextTable | None:
    """Text -> the rows of a Raven table that says where in which file each selection is, as those of a manifest; None:
    it is none. A selection of several views is a row of the first."""
    columns, rows, notes = _read_csv(path)
    own = {column.lower(): column for column in columns}
    label = next((own[name] for name in ("class", "label", "annotation") if name in own), None)
    if label is None or not {*_RAVEN_TIMES, *_RAVEN_PLACE} <= own.keys():
        return None
    more = [column for column in columns if column.startswith("p_")]

    def cycles() -> Iterator[TableRow]:
        seen = set[str]()
        for where, cells in rows:
            if (selection := cells.get(own.get("selection", ""), where)) in seen:
                continue
            seen.add(selection)
            place, start_s, begin, end = (cells[own[name]] for name in (*_RAVEN_PLACE, *_RAVEN_TIMES))
            try:
                end_s = str(round(float(start_s) + float(end) - float(begin), 6))
            except ValueError:
                raise FileError(where, f"times {begin!r}, {end!r}, {start_s!r}, expected numbers of seconds") from None
            said = "" if cells[label].lower().startswith("not judged") else cells[label]
            times = {"path": place, "start_s": start_s, "end_s": end_s, "label": said}
            yield TableRow(where, times | {column: cells[column] for column in more})

    return TextTable(["path", "start_s", "end_s", "label", *more], cycles(), notes)


def _prepend_head(head: str, rest: Iterable[str]) -> Iterator[str]:
    yield head
    yield from rest


def _fit_rows(
    path: Path, columns: list[str], rows: Iterable[tuple[int, list[str]]], notes: list[str]
) -> Iterator[TableRow]:
    """Lines of cells -> rows by column; what is empty is left out, what no column names is said once."""
    named = [(place, column) for place, column in enumerate(columns) if column]
    nameless = False
    for line, cells in rows:
        if not any(cells):
            continue
        where = f"{path}, line {line}"
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        if len(cells) != len(columns):
            raise FileError(
                where, f"{len(cells)} columns, expected {len(columns)} ({', '.join(name for _, name in named)})"
            )
        if not nameless and any(cell and not column for cell, column in zip(cells, columns, strict=True)):
            nameless = True
            notes.append(f"{path}: a column without a name is not used")
        yield TableRow(where, {column: make_encodable(restore_cell(cells[place])) for place, column in named})


def _detect_encoding(path: Path) -> tuple[str, list[str]]:
    """Text file -> (how its letters are coded, notes). Errors: an Excel workbook, other bytes that are no text."""
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        if head.startswith(_WORKBOOKS):
            raise FileError(path, "a spreadsheet's workbook in spite of its name; save the sheet as `CSV UTF-8`")
        kinds = ["utf-8-sig", "cp1252"]
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            kinds = ["utf-16"]
        elif b"\0" in head[:2]:
            kinds = ["utf-16-le" if head[1:2] == b"\0" else "utf-16-be"]

        decoders = {kind: codecs.getincrementaldecoder(kind.removesuffix("-sig"))() for kind in kinds}
        wrong: dict[str, str] = {}
        read, is_end = 0, False
        while not is_end:
            is_end = not head
            for kind in decoders.keys() - wrong.keys():
                try:
                    decoders[kind].decode(head, final=is_end)
                except UnicodeDecodeError as error:
                    wrong[kind] = f"byte {read + error.start + 1}"
            read, head = read + len(head), file.read(_CHUNK)

    if kinds[0] not in wrong:
        return kinds[0], []
    if kinds[-1] in wrong:
        raise FileError(
            path,
            f"neither UTF-8 nor UTF-16 nor Windows text ({wrong[kinds[0]]} cannot be read); save it as `CSV UTF-8`",
        )
    said = f"{path}: no UTF-8 ({wrong['utf-8-sig']}), so read as ANSI text of Windows (code page 1252)"
    return "cp1252", [said]


def parquet_columns(path: Path) -> list[str]:
    """Parquet file -> the names of its columns."""
    import pyarrow.parquet as pq

    with parquet_sentences(path):
        return list(pq.read_schema(path).names)


@contextmanager
def parquet_sentences(path: Path) -> Iterator[None]:
    """What Arrow raises over a damaged file, which is of every kind, as a sentence."""
    try:
        yield
    except FileProblem:
        raise
    except Exception as error:
        message = str(error).partition("\n")[0]
        raise FileError(path, f"not a Parquet file that can be read ({message}); write it again") from error


def _read_parquet(path: Path) -> TextTable:
    import pandas as pd

    with parquet_sentences(path):
        frame = pd.read_parquet(path)
        records = frame.astype(object).where(frame.notna(), "").to_dict("records")
    return TextTable([str(column) for column in frame.columns], _text_rows(path, records), [])


def _read_json_rows(path: Path) -> TextTable:
    """The JSON file of `rales predict` (an object of columns), its `--json` document (`cycles`), or a list of rows."""
    document = read_json(path, "expected a table of `rales predict`")
    if isinstance(document, dict) and isinstance(document.get("cycles"), list):
        document = document["cycles"]
    if isinstance(document, dict):
        columns = {name: cells for name, cells in document.items() if isinstance(cells, list)}
        if len({len(cells) for cells in columns.values()}) > 1:
            raise FileError(path, "its columns are of different lengths; expected a table of `rales predict`")
        document = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise FileError(path, "no table in it; expected an object of columns or a list of rows")
    names = list(dict.fromkeys(str(name) for row in document for name in row))
    return TextTable(names, _text_rows(path, ({name: row.get(name) for name in names} for row in document)), [])


def _text_rows(path: Path, records: Iterable[dict[Any, Any]]) -> Iterator[TableRow]:
    for number, record in enumerate(records, start=1):
        yield TableRow(f"{path}, row {number}", {str(column): cell_text(cell) for column, cell in record.items()})


def cell_text(cell: object) -> str:
    """Value of JSON or of a table -> its text; of a list or an object, which nothing of ours holds, what it is."""
    if isinstance(cell, list | dict):
        return f"({type(cell).__name__})"
    return "" if cell is None else make_encodable(str(cell).strip())
