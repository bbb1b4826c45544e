"""Predictions as files: tables of all recordings (CSV, JSON, Parquet), labels for Audacity and Raven.

Everything is written as it comes, some recordings at a time, so that any number of them fits into memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rales import runs
from rales.config import UsageError
from rales.metrics import CLASSES
from rales.scoring import NOTICE

Add = Callable[[pd.DataFrame], None]
Chunks = Iterable[tuple[pd.DataFrame, pd.DataFrame]]  # cycles and status of some whole recordings

TABLES = ("csv", "json", "parquet")
FORMATS = (*TABLES, "audacity", "raven")


def write(chunks: Chunks, out: Path, form: str, paths: Sequence[str]) -> list[Path]:
    """Predictions of the recordings of `paths`, some at a time -> the files written, none if there is no cycle.

    csv, json and parquet are one file. audacity and raven have a file for each recording in the folder `out`; an `out`
    with a suffix is the file of a single recording or, with raven, the combined table of several.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    if form in TABLES:
        return write_table((table for table, _ in chunks), out, form)
    if out.suffix and form == "raven" and len(paths) > 1:
        return write_table(raven_combined(chunks), out, form)
    names = {path: f"{Path(path).stem}.{form}.txt" for path in paths}  # not `.txt` alone, as annotations are named
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise ValueError(
            f"{out}: two recordings would both be written to {twice[0]}; predict them one folder at a time"
        )
    label = {"audacity": audacity, "raven": raven}[form]
    written = []
    for table, _ in chunks:
        for path, rows in table.groupby("path", sort=False):
            file = out if out.suffix and len(paths) == 1 else out / names[str(path)]
            written += write_table([label(rows)], file, form)
    return written


def write_table(tables: Iterable[pd.DataFrame], out: Path, form: str | None = None) -> list[Path]:
    """Tables of the same columns, one after another -> [file], renamed into place; [] if there is no row. The form
    follows the file's suffix (.csv, .json, .parquet) if none is given."""
    with ExitStack() as stack:
        add: Add | None = None
        for table in tables:
            if len(table):
                add = add or stack.enter_context(OPENED[form or form_of(out)](out))
                add(table)
    return [out] if add else []


def form_of(out: Path) -> str:
    """File name -> the table's form that its suffix says, else csv."""
    suffix = out.suffix.lower().removeprefix(".")
    return suffix if suffix in TABLES else "csv"


def check_table_name(option: str, out: Path | None) -> None:
    """An option's file name that no table can have is a UsageError, best raised before the work."""
    if out is not None and out.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise UsageError(f"{option} {out}: expected a name that ends in .csv, .json or .parquet")


@contextmanager
def text_file(out: Path, **options: Any) -> Iterator[Add]:
    """`with text_file(out) as add: add(table)`: CSV; `options` are those of pandas."""
    with runs.replacing(out) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        header = options.pop("header", True)
        yield lambda table: table.to_csv(file, index=False, header=header and file.tell() == 0, **options)


@contextmanager
def json_file(out: Path) -> Iterator[Add]:
    """The same as one JSON array of an object a row."""
    with runs.replacing(out) as beside, beside.open("w", encoding="utf-8") as file:

        def add(table: pd.DataFrame) -> None:
            lines = table.to_json(orient="records", lines=True, double_precision=15).rstrip("\n")
            file.write(("[\n" if file.tell() == 0 else ",\n") + lines.replace("\n", ",\n"))

        yield add
        file.write("\n]\n")


@contextmanager
def parquet_file(out: Path) -> Iterator[Add]:
    """The same as Parquet, a row group a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with runs.replacing(out) as beside, ExitStack() as stack:
        writer: Any = None

        def add(table: pd.DataFrame) -> None:
            nonlocal writer
            if writer is None:  # a column without a value yet (true_label) is one of words
                found = pa.Schema.from_pandas(table, preserve_index=False)
                kinds = [(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in found]
                writer = stack.enter_context(pq.ParquetWriter(beside, pa.schema(kinds)))
            writer.write_table(pa.Table.from_pandas(table, schema=writer.schema, preserve_index=False))

        yield add


def audacity(rows: pd.DataFrame) -> pd.DataFrame:
    """Cycles of one recording -> its Audacity label track: start, end, label with its probability."""
    unsure = rows["uncertain"] if "uncertain" in rows else [False] * len(rows)
    text = [
        f"{'uncertain: ' if doubt else ''}{row.label} {getattr(row, f'p_{row.label}'):.2f} ({NOTICE})"
        if isinstance(row.label, str)
        else f"not judged: {row.quality_reason}"
        for row, doubt in zip(rows.itertuples(), unsure, strict=True)
    ]
    return pd.DataFrame({"start": rows["start_s"].to_numpy(), "end": rows["end_s"].to_numpy(), "text": text})


def raven(rows: pd.DataFrame) -> pd.DataFrame:
    """Cycles of one recording -> its Raven selection table, one selection a cycle; times in seconds."""
    uncertain = {"Uncertain": rows["uncertain"].to_numpy()} if "uncertain" in rows else {}
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
            "Class": rows["label"].fillna("not judged").to_numpy(),
            **{f"p_{name}": rows[f"p_{name}"].to_numpy() for name in CLASSES},
            **uncertain,
            "Notice": rows["notice"].to_numpy(),
        }
    )


def raven_combined(chunks: Chunks) -> Iterator[pd.DataFrame]:
    """Several recordings as Raven opens them together, one behind the other: times run on, `File Offset (s)` and
    `Begin Path` say where in which file a selection is."""
    selections, begin_s = 0, 0.0
    for table, status in chunks:
        read = status[status["status"] == "ok"]
        starts = (read["duration_s"].cumsum() - read["duration_s"] + begin_s).to_numpy()
        offset_s = table["path"].map(dict(zip(read["path"], starts, strict=True))).to_numpy()
        combined = raven(table)
        combined["Selection"] += selections
        combined["File Offset (s)"] = table["start_s"].to_numpy()
        combined["Begin Path"] = table["path"].to_numpy()
        combined[["Begin Time (s)", "End Time (s)"]] += offset_s[:, None]
        yield combined
        selections, begin_s = selections + len(table), begin_s + read["duration_s"].sum()


OPENED: dict[str, Callable[[Path], AbstractContextManager[Add]]] = {
    "csv": text_file,
    "json": json_file,
    "parquet": parquet_file,
    "audacity": partial(text_file, sep="\t", header=False, float_format="%.6f"),
    "raven": partial(text_file, sep="\t"),
}
