"""Predictions as files: tables of all recordings (CSV, JSON, Parquet), labels for Audacity and Raven.

Everything is written as it comes, some recordings at a time, so that any number of them fits into memory. What must
stand beside the answers (`SAID`, `.attrs` of a table) is said once: at the root of JSON, in the metadata of Parquet;
CSV, Audacity and Raven have no place for it, so who writes them says it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from rales.errors import UsageError
from rales.evaluation.predictions import SETS_COLUMN
from rales.files.atomic import atomic_write
from rales.files.csv_cells import defuse_table, make_encodable, one_line
from rales.labels import JOINED

if TYPE_CHECKING:
    import pandas as pd

AppendTable = Callable[["pd.DataFrame"], object]
AppendPredictions = Callable[
    ["pd.DataFrame", "pd.DataFrame"], list[Path]
]  # cycles and status of whole recordings -> files

TABLE_FORMATS = ("csv", "json", "parquet")
FORMATS = (*TABLE_FORMATS, "audacity", "raven")
SAID = ("notice", "model", "version")
LONGEST_NAME = 230  # bytes; file systems take 255, and the file being written has a little more
OTHER_KINDS = (".csv", ".json", ".parquet", ".tsv", ".xlsx", ".xls", ".ods", ".npz", ".png", ".html", ".pdf")


@contextmanager
def open_predictions(out: Path, form: str, paths: Sequence[str]) -> Iterator[AppendPredictions]:
    """`with open_predictions(out, form, paths) as add: add(cycles, status)`: predictions of the recordings of `paths`,
    some at a time -> the files that these are in, none if there is no cycle.

    csv, json and parquet are one file. audacity and raven have a file for each recording in the folder `out`; an `out`
    with a suffix is the file of a single recording or, with raven, the combined table of several.
    """
    check_format(out, form)
    combined = is_combined(out, form, paths)
    if form in TABLE_FORMATS or combined:
        combine = RavenCombiner() if combined else None
        with open_table(out, form) as append:

            def add_rows(table: pd.DataFrame, status: pd.DataFrame) -> list[Path]:
                append(combine.combine(table, status) if combine else table)
                return [out] if len(table) else []

            yield add_rows
        return

    files = name_label_files(out, form, paths)
    label = {"audacity": audacity_labels, "raven": raven_selections}[form]

    def add_labels(table: pd.DataFrame, _: pd.DataFrame) -> list[Path]:
        recordings = {files[str(path)]: rows for path, rows in table.groupby("path", sort=False)}
        for file, rows in recordings.items():
            write_table([label(rows)], file, form)
        return list(recordings)

    yield add_labels


def planned_files(out: Path, form: str, paths: Sequence[str]) -> list[Path]:
    """-> the files that `open_predictions` would write."""
    if form in TABLE_FORMATS or is_combined(out, form, paths):
        return [out]
    return list(name_label_files(out, form, paths).values())


def is_combined(out: Path, form: str, paths: Sequence[str]) -> bool:
    return bool(out.suffix) and form == "raven" and len(paths) > 1


def name_label_files(out: Path, form: str, paths: Sequence[str]) -> dict[str, Path]:
    """Recordings -> the label file of each. Those of nested folders lie in nested folders, below the folder that all
    have in common; two that would share a file, also on a disk that ignores case, keep their suffix or get a number."""
    if out.suffix and len(paths) == 1:
        return {make_encodable(paths[0]): out}
    folders = {path: PurePosixPath(path if "://" in path else os.path.abspath(path)).parent.parts for path in paths}
    first, last = min(folders.values(), default=()), max(folders.values(), default=())
    above = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    files, taken = dict[str, Path](), set[str]()
    for path in paths:
        name = Path(path).name
        choices = [Path(path).stem, name, *(f"{name}.{number}" for number in range(2, len(paths) + 2))]
        # not `.txt` alone, as annotations are named
        inside = (Path(*folders[path][above:], fit_file_name(one_line(choice), f".{form}.txt")) for choice in choices)
        file = next(each for each in inside if str(each).casefold() not in taken)
        taken.add(str(file).casefold())
        files[make_encodable(path)] = out / file
    return files


def fit_file_name(stem: str, suffix: str) -> str:
    """Name of a recording, and what its file's name ends in -> a name that file systems take; a long one is cut and
    told from others by its digest."""
    if len((stem + suffix).encode()) <= LONGEST_NAME:
        return stem + suffix
    digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
    room = LONGEST_NAME - len(suffix.encode()) - len(digest) - 1
    return f"{stem.encode()[:room].decode('utf-8', 'ignore')}-{digest}{suffix}"


@contextmanager
def open_table(out: Path, form: str | None = None) -> Iterator[AppendTable]:
    """`with open_table(out) as append: append(table)`: tables of the same columns, one after another, in a file that is
    renamed into place at the end; there is none without a row. The form follows the file's suffix (.csv, .json,
    .parquet) if none is given."""
    with ExitStack() as stack:
        append: AppendTable | None = None

        def append_rows(table: pd.DataFrame) -> None:
            nonlocal append
            if len(table):
                append = append or stack.enter_context(WRITERS[form or table_format(out)](out))
                append(table)

        yield append_rows


def write_table(tables: Iterable[pd.DataFrame], out: Path, form: str | None = None) -> None:
    """Tables of the same columns, one after another -> file, as of `open_table`."""
    with open_table(out, form) as append:
        for table in tables:
            append(table)


def table_format(out: Path) -> str:
    """File name -> the table's form that its suffix says, csv without one. Errors: another suffix."""
    suffix = out.suffix.lower().removeprefix(".")
    if suffix and suffix not in TABLE_FORMATS:
        raise UsageError(
            f"--out {out}: the name does not say what to write; expected one that ends in .csv, .json or .parquet, or "
            f"--format ({', '.join(FORMATS)})"
        )
    return suffix or "csv"


def check_format(out: Path, form: str) -> None:
    """A format that is not known, or that the name of the file belies, is a UsageError, best raised before the work."""
    if form not in FORMATS:
        raise UsageError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    suffix = out.suffix.lower()
    if form in TABLE_FORMATS and suffix not in ("", ".txt", f".{form}"):
        raise UsageError(f"--out {out}: expected a name that ends in .{form} for --format {form}")
    if form not in TABLE_FORMATS and suffix in OTHER_KINDS:
        raise UsageError(f"--out {out}: expected a folder, or a name that ends in .txt, for --format {form}")


def check_table_name(option: str, out: Path | None) -> None:
    """An option's file name that no table can have is a UsageError, best raised before the work."""
    if out is not None and out.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise UsageError(f"{option} {out}: expected a name that ends in .csv, .json or .parquet")


def what_is_said(table: pd.DataFrame) -> dict[str, str]:
    return {name: table.attrs[name] for name in SAID if name in table.attrs}


@contextmanager
def csv_writer(out: Path) -> Iterator[AppendTable]:
    """`with text_file(out) as add: add(table)`: CSV whose cells no spreadsheet computes."""
    with atomic_write(out) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        yield lambda table: file.write(format_csv(table, header=file.tell() == 0))


def format_csv(table: pd.DataFrame, *, header: bool = True) -> str:
    return str(defuse_table(table).to_csv(index=False, header=header))


@contextmanager
def label_writer(out: Path, form: str) -> Iterator[AppendTable]:
    """The same for Audacity or Raven."""
    with atomic_write(out) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        yield lambda table: file.write(format_labels(table, form, header=file.tell() == 0))


def format_labels(table: pd.DataFrame, form: str, *, header: bool = True) -> str:
    """Table of `audacity` or `raven` -> its text: tabs between cells, which are one line each and otherwise as they
    are, since these programs compute nothing."""
    plain = table.map(lambda cell: one_line(cell) if isinstance(cell, str) else cell)
    if form == "audacity":
        return str(plain.to_csv(index=False, header=False, sep="\t", float_format="%.6f"))
    return str(plain.to_csv(index=False, header=header, sep="\t", float_format="%.6f"))


@contextmanager
def json_writer(out: Path) -> Iterator[AppendTable]:
    """The same as one JSON object: what the table has of `SAID`, then the columns, each an array of its cells;
    `pandas.read_json` reads it."""
    with atomic_write(out) as beside, ExitStack() as stack:
        columns: dict[str, IO[str]] = {}  # each written beside the file, since it must be whole before the next begins
        said: dict[str, str] = {}

        def add(table: pd.DataFrame) -> None:
            said.update(what_is_said(table))
            for name in map(str, table.columns):
                values: Any = table[name]
                cells = values.to_json(orient="values", double_precision=15)[1:-1]
                if name in columns:
                    columns[name].write("," + cells)
                else:
                    columns[name] = stack.enter_context(
                        tempfile.SpooledTemporaryFile(1 << 20, "w+", encoding="utf-8", dir=str(beside.parent))
                    )
                    columns[name].write(cells)

        yield add
        with beside.open("w", encoding="utf-8") as file:
            file.write("{\n" + "".join(f"{json.dumps(name)}: {json.dumps(text)},\n" for name, text in said.items()))
            for number, (name, cells) in enumerate(columns.items()):
                file.write((",\n" if number else "") + f"{json.dumps(name)}: [")
                cells.seek(0)
                shutil.copyfileobj(cells, file)
                file.write("]")
            file.write("\n}\n")


@contextmanager
def parquet_writer(out: Path) -> Iterator[AppendTable]:
    """The same as Parquet, a row group a table; `SAID` is in the metadata of the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(out) as beside, ExitStack() as stack:
        writer: Any = None

        def add(table: pd.DataFrame) -> None:
            nonlocal writer
            if writer is None:  # a column without a value yet (true_label) is one of words
                found = pa.Schema.from_pandas(table, preserve_index=False)
                kinds = [(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in found]
                schema = pa.schema(kinds, metadata={**(found.metadata or {}), **what_is_said(table)})
                writer = stack.enter_context(pq.ParquetWriter(beside, schema))
            writer.write_table(pa.Table.from_pandas(table, schema=writer.schema, preserve_index=False))

        yield add


def audacity_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Cycles of one recording -> its Audacity label track: start, end, label with its probability (`wheeze 0.62`)."""
    import pandas as pd

    unsure = rows["uncertain"] if "uncertain" in rows else [False] * len(rows)
    text = []
    for row, doubt in zip(rows.to_dict("records"), unsure, strict=True):
        if not isinstance(row["label"], str):
            text.append(f"not judged: {row['quality_reason']}")
            continue
        names = [row["label"]] if f"p_{row['label']}" in row else row["label"].split(JOINED)
        p: list[Any] = [row.get(f"p_{name}") for name in names]  # of several independent classes the least sure counts
        sure = "" if any(value is None or value != value for value in p) else f" {min(p):.2f}"
        text.append(f"{'uncertain: ' if doubt else ''}{row['label']}{sure}")
    return pd.DataFrame({"start": rows["start_s"].to_numpy(), "end": rows["end_s"].to_numpy(), "text": text})


def raven_selections(rows: pd.DataFrame) -> pd.DataFrame:
    """Cycles of one recording -> its Raven selection table, one selection a cycle; times in seconds. `Predicted Class`
    stays what it is where a person corrects `Class`."""
    import pandas as pd

    labels = rows["label"].fillna("not judged")
    predicted = rows["model_label"].fillna("") if "model_label" in rows else labels  # a person may have set the label
    ours = {"Uncertain": "uncertain", "Prediction Set": SETS_COLUMN}
    more = {name: rows[column].to_numpy() for name, column in ours.items() if column in rows}
    return pd.DataFrame(
        {
            "Selection": range(1, len(rows) + 1),
            "View": "Spectrogram 1",
            "Channel": 1,
            "Begin Time (s)": rows["start_s"].to_numpy(),
            "End Time (s)": rows["end_s"].to_numpy(),
            "Low Freq (Hz)": 50.0,  # crowsetta refuses whole numbers
            "High Freq (Hz)": 8000.0,
            "Begin File": [Path(path).name for path in rows["path"]],
            "Class": labels.to_numpy(),
            "Predicted Class": predicted.to_numpy(),
            **{column: rows[column].to_numpy() for column in map(str, rows) if column.startswith("p_")},
            **more,
        }
    )


class RavenCombiner:
    """Several recordings as Raven opens them together, one behind the other: times run on, `File Offset (s)` and
    `Begin Path` say where in which file a selection is."""

    def __init__(self) -> None:
        self.selections, self.begin_s = 0, 0.0  # of the recordings before

    def combine(self, table: pd.DataFrame, status: pd.DataFrame) -> pd.DataFrame:
        """Cycles and status of the next recordings -> their selections."""
        read = status[status["status"] == "ok"]
        starts = (read["duration_s"].cumsum() - read["duration_s"] + self.begin_s).to_numpy()
        offset_s = table["path"].map(dict(zip(read["path"], starts, strict=True))).to_numpy()
        combined = raven_selections(table)
        combined["Selection"] += self.selections
        combined["File Offset (s)"] = table["start_s"].to_numpy()
        combined["Begin Path"] = table["path"].to_numpy()
        combined[["Begin Time (s)", "End Time (s)"]] += offset_s[:, None]
        self.selections, self.begin_s = self.selections + len(table), self.begin_s + read["duration_s"].sum()
        return combined


WRITERS: dict[str, Callable[[Path], AbstractContextManager[AppendTable]]] = {
    "csv": csv_writer,
    "json": json_writer,
    "parquet": parquet_writer,
    "audacity": partial(label_writer, form="audacity"),
    "raven": partial(label_writer, form="raven"),
}
