"""Embedding sets: vectors of cycles or recordings in one file, and the nearest of them to a query."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales import runs
from rales.cells import encodable
from rales.config import UsageError
from rales.extras import require_packages
from rales.predict import load
from rales.recordings import is_url, reason

COLUMNS = ("recording", "cycle", "start_s", "end_s", "path")
EXACT_UP_TO = 100_000  # vectors: below, comparing with every one takes milliseconds and misses none

Vectors = NDArray[np.float32]


def check_vectors_name(out: Path) -> None:
    """A file name that `write_vectors` cannot serve is a UsageError, best raised before the work."""
    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {out}: expected a name that ends in .npz or .parquet")


def write_vectors(table: pd.DataFrame, out: Path, about: dict[str, Any] | None = None) -> None:
    """Table of `Model.embed_table`, and what made it (model, layer, per) -> .npz (one array a column) or .parquet."""
    check_vectors_name(out)
    told = json.dumps(about or {})
    with runs.replacing(out) as beside:
        if out.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            arrow = pa.Table.from_pandas(table, preserve_index=False)
            pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), "rales": told}), beside)
        else:
            columns: dict[str, Any] = {name: table[name].to_numpy() for name in ("cycle", "start_s", "end_s")}
            words: dict[str, Any] = {name: table[name].to_numpy(dtype=str) for name in ("recording", "path")}
            with beside.open("wb") as file:  # given a name, numpy would add its own suffix
                np.savez(file, vectors=np.stack(table["vector"].to_list()), about=np.array(told), **words, **columns)


def read_rows(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Embedding file -> its rows without the vectors, and what made it. Errors: a file that is none."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path, columns=list(COLUMNS))
            return table.to_pandas(), json.loads((table.schema.metadata or {}).get(b"rales", b"{}"))
        with np.load(path, allow_pickle=False) as stored:
            return pd.DataFrame({name: stored[name] for name in COLUMNS}), json.loads(str(stored["about"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; `rales embed` makes embedding files") from error
    except Exception as error:  # each reader has its own for damage
        raise ValueError(f"{path}: not an embedding file of `rales embed` ({reason(error)})") from error


def read_vectors(path: Path) -> Vectors:
    """Embedding file -> (rows, features) float32."""
    try:
        if path.suffix == ".parquet":
            return np.stack(pd.read_parquet(path, columns=["vector"])["vector"].to_list()).astype(np.float32)
        with np.load(path, allow_pickle=False) as stored:
            return np.asarray(stored["vectors"], dtype=np.float32)
    except Exception as error:
        raise ValueError(f"{path}: its vectors cannot be read ({reason(error)}); embed again") from error


def index_of(path: Path, rows: int) -> Any:
    """Embedding file -> its index (usearch), memory-mapped from the file beside it; made if missing, old or damaged."""
    from usearch.index import Index

    stored = path.with_name(path.name + ".usearch")
    runs.remove_abandoned(path.parent, f".{stored.name}.")  # a killed search may have left the index whole
    if stored.is_file() and stored.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        try:
            index = Index.restore(stored, view=True)
            if index is not None and len(index) == rows:
                return index
        except (ValueError, RuntimeError):  # damaged
            pass
    vectors = read_vectors(path)
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)
    # A folder that cannot be written to, or (TypeError) a name that is not UTF-8: next time again
    with suppress(OSError, TypeError), runs.replacing(stored) as beside, runs.written_by_library(beside):
        index.save(beside)
    return index


def search(query: str, path: Path, top: int = 10, model: str | None = None) -> pd.DataFrame:
    """Name of a row in the embedding file, or any recording (with #cycle or without) -> its `nearest`; the recording
    is embedded by `model`, which must be the one that made the file."""
    require_packages("rales search", "search", "usearch")
    found = nearest(path, query, top)
    if found is not None:
        return found
    recording, cycle = (query, None) if Path(query).is_file() else split_cycle(query)
    if not is_url(recording) and not Path(recording).exists():
        raise ValueError(f"{query}: neither a recording in {path} nor a file; write name, name#cycle or a path")
    _, about = read_rows(path)
    classifier = load(model)
    if about.get("model") != classifier.digest:
        raise ValueError(f"{path}: made by another model; give that one with --model, or embed again with this one")
    layer = about["layer"]
    gate = about.get("quality") == "on"
    chosen = None if layer == "fused" else layer
    table = classifier.embed_table(recording, layer=chosen, cycles=about["cycles"], quality=gate)
    if cycle is not None:
        table = table[table["cycle"] == cycle]
    if table.empty:
        raise ValueError("; ".join(table.attrs["not_judged"]) or f"{query}: the recording has no cycle {cycle}")
    result = nearest(path, np.stack(table["vector"].to_list()).mean(axis=0), top)
    assert result is not None
    return result


def nearest(path: Path, query: Vectors | str, top: int = 10) -> pd.DataFrame | None:
    """Embedding file and a vector (D,), or the name of a row in the file (recording, path, with #cycle or without) ->
    the `top` rows nearest in angle, with `similarity` (cosine); None for a name that the file does not have.
    `.attrs["namesakes"]` are names in the answer that several recordings of the file have.

    A named recording's vector is the mean of its rows', and its own rows are left out of the answer.
    """
    rows, _ = read_rows(path)
    index = index_of(path, len(rows))
    own = np.zeros(len(rows), dtype=bool)
    if isinstance(query, str):
        own = named(rows, query)
        if not own.any():
            return None
        vector = np.stack([index.get(int(key)) for key in np.flatnonzero(own)]).mean(axis=0)
    else:
        vector = query
    if vector.shape != (index.ndim,):
        raise ValueError(f"{path}: holds vectors of {index.ndim} numbers, the query has {vector.size}; embed it alike")
    found = index.search(vector, min(top + int(own.sum()), len(rows)), exact=len(rows) <= EXACT_UP_TO)
    kept = [(key, 1 - distance) for key, distance in zip(found.keys, found.distances, strict=True) if not own[key]]
    table = rows.iloc[[int(key) for key, _ in kept[:top]]].reset_index(drop=True)
    paths = rows.groupby("recording")["path"].nunique()
    table.attrs["namesakes"] = sorted(set(table["recording"]) & set(paths[paths > 1].index))
    return table.assign(similarity=[float(similarity) for _, similarity in kept[:top]])


def named(rows: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Rows of an embedding set and `recording` or `recording#cycle` (or a path) -> which rows are meant.

    Errors: a name that more than one recording has, or that is one recording's name and a cycle of another.
    """
    name = encodable(name)  # as the file has it
    recording, cycle = split_cycle(name)
    by_path = rows["path"] == recording if cycle is None else (rows["path"] == recording) & (rows["cycle"] == cycle)
    by_path |= rows["path"] == name
    whole = (rows["recording"] == name) | by_path
    part = (rows["recording"] == recording) & (rows["cycle"] == cycle)
    meant = by_path if by_path.any() else whole | part
    if len(paths := rows.loc[meant, "path"].unique()) > 1:
        raise ValueError(
            f"{name}: {len(paths)} recordings could be meant; give the path of one, with #cycle or without: "
            f"{', '.join(map(str, paths))}"
        )
    return np.asarray(meant)


def split_cycle(query: str) -> tuple[str, int | None]:
    """ "visit.wav#3" -> ("visit.wav", 3)."""
    recording, mark, cycle = query.rpartition("#")
    return (recording, int(cycle)) if mark and cycle.isdigit() else (query, None)
