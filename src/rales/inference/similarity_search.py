"""Embedding sets: vectors of cycles or recordings in one file, and the nearest of them to a query."""

import json
import logging
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.errors import FileError, MissingFileError, UsageError
from rales.files import seals
from rales.files.atomic import atomic_write, remove_abandoned, written_by_library
from rales.files.csv_cells import make_encodable
from rales.files.json_files import parse_json
from rales.files.stores import is_url
from rales.inference.audio_reader import CYCLES
from rales.inference.load_model import load_model
from rales.optional_packages import require_packages, summarise_error
from rales.training.run_records import check_fields

COLUMNS = {"recording": "OU", "cycle": "iu", "start_s": "fiu", "end_s": "fiu", "path": "OU"}  # kinds of numpy
MOST_UNPACKED = 10  # numbers a byte of a Parquet file: it packs what repeats itself, and vectors hardly do
EMBEDDING_FILE = "an embedding file of `rales embed`"
EXACT_UP_TO = 100_000  # vectors: below, comparing with every one takes milliseconds and misses none

Vectors = NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingRecord:
    """What made an embedding file."""

    model: str = ""
    layer: str | int = "fused"
    per: str = "cycle"
    cycles: str = "auto"
    quality: str = "off"


def check_vectors_name(out: Path) -> None:
    """A file name that `write_vectors` cannot serve is a UsageError, best raised before the work."""
    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {out}: expected a name that ends in .npz or .parquet")


def write_vectors(table: pd.DataFrame, out: Path, about: dict[str, Any] | None = None) -> None:
    """Table of `Model.embed_table`, and what made it (model, layer, per) -> a sealed .npz (one array a column) or
    .parquet."""
    check_vectors_name(out)
    told = json.dumps(about or {})
    with atomic_write(out) as beside:
        if out.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            arrow = pa.Table.from_pandas(table, preserve_index=False)
            known = {**(arrow.schema.metadata or {}), "rales": told, "seal": seals.UNSEALED}
            pq.write_table(arrow.replace_schema_metadata(known), beside)
            seals.seal_file(beside)
        else:
            columns: dict[str, Any] = {name: table[name].to_numpy() for name in ("cycle", "start_s", "end_s")}
            words: dict[str, Any] = {name: table[name].to_numpy(dtype=str) for name in ("recording", "path")}
            with beside.open("wb") as file:  # given a name, numpy would add its own suffix
                np.savez(file, vectors=np.stack(table["vector"].to_list()), about=np.array(told), **words, **columns)
            seals.seal_zip(beside)


def read_rows(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Embedding file -> its rows without the vectors (`.attrs["seal"]` names its content), and what made it.

    Errors: a file that is none, or is damaged.
    """
    with checked_embedding_file(path) as seal:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            stored = pq.read_table(path, columns=list(COLUMNS))
            table, told = stored.to_pandas(), (stored.schema.metadata or {}).get(b"rales", b"{}")
        else:
            arrays = read_arrays(path, (*COLUMNS, "about"))
            table, told = pd.DataFrame({name: arrays[name] for name in COLUMNS}), str(arrays["about"])
        about = parse_json(told, "what made it", "it is damaged")
        check_fields(EmbeddingRecord, about, "what made it")
        for name, kinds in COLUMNS.items():
            values = table[name].to_numpy()
            if values.dtype.kind not in kinds or (kinds == "fiu" and not np.isfinite(values).all()):
                raise ValueError(f"its column {name} holds something else")
            if kinds == "OU" and not all(isinstance(value, str) for value in values):
                raise ValueError(f"its column {name} has rows without a text")
    table.attrs["seal"] = seal
    return table, about


def read_vectors(path: Path) -> Vectors:
    """Embedding file -> (rows, features) float32, finite, one for each of `read_rows`. Errors: as there."""
    with checked_embedding_file(path):
        if path.suffix == ".parquet":
            vectors = read_parquet_vectors(path)
        else:
            vectors = read_arrays(path, (*COLUMNS, "vectors"))["vectors"]
        if vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
            raise ValueError("its vectors hold values that are no finite numbers")
    return np.asarray(vectors, dtype=np.float32)


@contextmanager
def checked_embedding_file(path: Path) -> Iterator[str]:
    """-> the seal of a whole file; whatever its readers raise -> a sentence that names the file."""
    if not path.exists():
        raise MissingFileError(path, "no such file; `rales embed` makes embedding files")
    if not path.is_file():
        raise FileError(path, "a folder, a pipe or a device; `rales embed` makes embedding files")
    seal = seals.check_seal(path, EMBEDDING_FILE)
    try:
        yield seal
    except Exception as error:  # each reader has its own for damage
        raise FileError(path, f"not {EMBEDDING_FILE} ({summarise_error(error)}); embed again") from error


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """.npz and the names of arrays -> these. Nothing is read before every one is known to be as large as its own head
    says, to be stored as it is (so that no small file unpacks to a large one), and to have a row for each cycle."""
    found: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as packed:
        shapes = {}
        for name in names:
            member = packed.getinfo(f"{name}.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is packed, though `rales embed` packs nothing")
            shapes[name] = read_declared_shape(packed, member)
        rows = shapes["cycle"]
        for name, shape in shapes.items():
            axes = {"about": 0, "vectors": 2}.get(name, 1)
            if len(shape) != axes or (axes and shape[:1] != rows) or 0 in shape[1:]:
                raise ValueError(f"{name} is of shape {shape} for {rows[0] if rows else 0} rows")
        for name in names:
            with packed.open(f"{name}.npy") as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def read_declared_shape(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[int, ...]:
    """Array in a zip -> its shape as its head says. Errors: the array is not just as large as that."""
    with packed.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        held = member.file_size - file.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{member.filename} of shape {shape} and type {dtype} holds {held} bytes")
    return tuple(shape)


def read_parquet_vectors(path: Path) -> NDArray[Any]:
    """.parquet -> (rows, features), read a thousand rows at a time. Errors: rows of different lengths, or many more
    numbers than a file of that size can hold."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    rows, parts, features = file.metadata.num_rows, list[NDArray[Any]](), 0
    for batch in file.iter_batches(batch_size=1000, columns=["vector"]):
        column = batch.column(0)
        lengths = set(column.value_lengths().to_pylist())
        features = features or next(iter(lengths)) or 0
        if lengths != {features} or features == 0:
            raise ValueError(f"its vectors are of {len(lengths)} lengths, or some are missing")
        if rows * features > MOST_UNPACKED * path.stat().st_size:
            raise ValueError(f"{rows} vectors of {features} numbers in {path.stat().st_size} bytes")
        parts.append(column.flatten().to_numpy(zero_copy_only=False).reshape(-1, features))
    if not parts:
        raise ValueError("it has no vectors")
    return np.concatenate(parts)


def open_index(path: Path, seal: str) -> Any:
    """Embedding file and its seal -> its index (usearch), memory-mapped from the file beside it; made if missing,
    damaged, or of other vectors, as its end says."""
    from usearch.index import Index

    stored = path.with_name(path.name + ".usearch")
    end = f"\nof {seal}\n".encode()
    remove_abandoned(path.parent, f".{stored.name}.")  # a killed search may have left the index whole
    with suppress(OSError, ValueError, RuntimeError):  # not there, damaged, of another version of usearch
        seals.check_seal(stored, "a search index")
        with stored.open("rb") as file:
            file.seek(-len(end) - len(seals.UNSEALED), os.SEEK_END)
            if file.read(len(end)) == end and (index := Index.restore(stored, view=True)) is not None:
                return index
    if stored.exists():
        log.warning("%s: damaged or of other vectors, so this index is made again", stored)
    vectors = read_vectors(path)
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)
    # A folder that cannot be written to, or (TypeError) a name that is not UTF-8: next time again
    with suppress(OSError, TypeError), atomic_write(stored) as beside, written_by_library(beside):
        index.save(beside)
        with beside.open("ab") as file:
            file.write(end + seals.UNSEALED.encode())
        seals.seal_file(beside)
    return index


def search_similar(query: str, path: Path, top: int = 10, model: str | None = None) -> pd.DataFrame:
    """Name of a row in the embedding file, or any recording (with #cycle or without) -> its `nearest`; the recording
    is embedded by `model`, which must be the one that made the file."""
    require_packages("rales search", "search", "usearch")
    found = find_nearest(path, query, top)
    if found is not None:
        return found
    recording, cycle = (query, None) if Path(query).is_file() else split_cycle(query)
    if not is_url(recording) and not Path(recording).exists():
        raise FileError(query, f"neither a recording in {path} nor a file; write name, name#cycle or a path")
    _, about = read_rows(path)
    classifier = load_model(model)
    if about.get("model") != classifier.digest:
        raise FileError(path, "made by another model; give that one with --model, or embed again with this one")
    layer, cycles = about.get("layer", "fused"), about.get("cycles", "auto")
    if cycles not in CYCLES or (isinstance(layer, str) and layer != "fused"):
        raise FileError(path, f"made of layer {layer!r} and cycles {cycles!r}, which are none; embed again")
    gate = about.get("quality") == "on"
    chosen = None if layer == "fused" else layer
    table = classifier.embed_table(recording, layer=chosen, cycles=cycles, quality=gate)
    if cycle is not None:
        table = table[table["cycle"] == cycle]
    if table.empty:
        raise ValueError("; ".join(table.attrs["not_judged"]) or f"{query}: the recording has no cycle {cycle}")
    result = find_nearest(path, np.stack(table["vector"].to_list()).mean(axis=0), top)
    assert result is not None
    return result


def find_nearest(path: Path, query: Vectors | str, top: int = 10) -> pd.DataFrame | None:
    """Embedding file and a vector (D,), or the name of a row in the file (recording, path, with #cycle or without) ->
    the `top` rows nearest in angle, with `similarity` (cosine); None for a name that the file does not have.
    `.attrs["namesakes"]` are names in the answer that several recordings of the file have.

    A named recording's vector is the mean of its rows', and its own rows are left out of the answer.
    """
    rows, _ = read_rows(path)
    index = open_index(path, rows.attrs["seal"])
    own = np.zeros(len(rows), dtype=bool)
    if isinstance(query, str):
        own = match_rows(rows, query)
        if not own.any():
            return None
        vector = np.stack([index.get(int(key)) for key in np.flatnonzero(own)]).mean(axis=0)
    else:
        vector = query
    if vector.shape != (index.ndim,):
        raise FileError(path, f"holds vectors of {index.ndim} numbers, the query has {vector.size}; embed it alike")
    found = index.search(vector, min(top + int(own.sum()), len(rows)), exact=len(rows) <= EXACT_UP_TO)
    kept = [(key, 1 - distance) for key, distance in zip(found.keys, found.distances, strict=True) if not own[key]]
    table = rows.iloc[[int(key) for key, _ in kept[:top]]].reset_index(drop=True)
    paths = rows.groupby("recording")["path"].nunique()
    table.attrs["namesakes"] = sorted(set(table["recording"]) & set(paths[paths > 1].index))
    return table.assign(similarity=[float(similarity) for _, similarity in kept[:top]])


def match_rows(rows: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Rows of an embedding set and `recording` or `recording#cycle` (or a path) -> which rows are meant.

    Errors: a name that more than one recording has, or that is one recording's name and a cycle of another.
    """
    name = make_encodable(name)  # as the file has it
    recording, cycle = split_cycle(name)
    by_path = rows["path"] == recording if cycle is None else (rows["path"] == recording) & (rows["cycle"] == cycle)
    by_path |= rows["path"] == name
    whole = (rows["recording"] == name) | by_path
    part = (rows["recording"] == recording) & (rows["cycle"] == cycle)
    meant = by_path if by_path.any() else whole | part
    if len(paths := rows.loc[meant, "path"].unique()) > 1:
        raise FileError(
            name,
            f"{len(paths)} recordings could be meant; give the path of one, with #cycle or without: "
            f"{', '.join(map(str, paths))}",
        )
    return np.asarray(meant)


def split_cycle(query: str) -> tuple[str, int | None]:
    """ "visit.wav#3" -> ("visit.wav", 3)."""
    recording, mark, cycle = query.rpartition("#")
    return (recording, int(cycle)) if mark and cycle.isdigit() else (query, None)
