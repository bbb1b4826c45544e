"""Damaged embedding files: a sentence that names the file, whatever is wrong with them, and no more memory than they
hold. All are sealed again, so that what is tested is what is made of the content."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rales.files import seals
from rales.inference import similarity_search
from tests.attack.forked import commands

ROWS = 6
Columns = dict[str, Any]
ABOUT = {"model": "x", "layer": "fused", "per": "cycle", "cycles": "auto", "quality": "on"}


def write_set(path: Path) -> Path:
    """-> an embedding file of three recordings of two cycles."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)
    rows = pd.DataFrame({"recording": [f"r{i // 2}" for i in range(ROWS)], "cycle": [1, 2] * 3, "start_s": 0.0})
    rows = rows.assign(end_s=1.0, path=[f"/there/r{i // 2}.wav" for i in range(ROWS)], vector=list(vectors))
    similarity_search.write_vectors(rows, path, ABOUT)
    return path


def npz(change: Callable[[Columns], object], compression: int = zipfile.ZIP_STORED) -> Callable[[Path], object]:
    """Change of the arrays -> damage of an .npz file."""

    def damage(path: Path) -> None:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        change(arrays)
        with path.open("wb") as file:
            (np.savez if compression == zipfile.ZIP_STORED else np.savez_compressed)(file, **arrays)
        seals.seal_zip(path)

    return damage


def parquet(change: Callable[[Columns], object]) -> Callable[[Path], object]:
    """Change of the columns -> damage of a .parquet file."""

    def damage(path: Path) -> None:
        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        told = {name: value for name, value in table.schema.metadata.items() if name in (b"rales", b"seal")}
        columns["about"] = told[b"rales"]
        change(columns)
        told[b"rales"] = columns.pop("about")
        pq.write_table(pa.table(columns).replace_schema_metadata({**told, b"seal": seals.UNSEALED}), path)
        seals.seal_file(path)

    return damage


def about(**values: Any) -> Callable[[Columns], object]:
    return lambda a: a.update(about=np.array(json.dumps({**ABOUT, **values})))


def bomb(path: Path) -> None:
    """100 MB of zeros in 100 kB; the number of rows is right, so that its size alone is wrong."""
    npz(lambda a: a.update(vectors=np.zeros((ROWS, 2**22), np.float32)), zipfile.ZIP_DEFLATED)(path)


def claimed(path: Path) -> None:
    """Vectors whose head says a million million rows."""
    content = path.read_bytes()
    head = content.index(b"(6, 8)")
    path.write_bytes(content[:head] + b"(999999999999,8)"[:6] + content[head + 6 :])
    seals.seal_file(path)


def repeated(path: Path) -> None:
    """Rows that repeat one value, which Parquet packs to nearly nothing."""
    rows = 10_000
    packed = pa.array([[0.0] * 512], pa.list_(pa.float32())).take(pa.array(np.zeros(rows, np.int64)))
    words = {name: pa.array(["r"] * rows) for name in ("recording", "path")}
    numbers = {name: pa.array(np.zeros(rows)) for name in ("start_s", "end_s")}
    table = pa.table({**words, "cycle": np.arange(rows), **numbers, "vector": packed})
    pq.write_table(table.replace_schema_metadata({"rales": json.dumps(ABOUT), "seal": seals.UNSEALED}), path)
    seals.seal_file(path)


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something that is no file -> damage that puts it in place of one."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def vectors(array: Any) -> Callable[[Path], object]:
    return npz(lambda a: a.update(vectors=array))


def first(name: str, value: Any) -> Callable[[Columns], object]:
    """One cell of a column -> another."""
    return lambda columns: columns[name].__setitem__(0, value)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "1d.npz": npz(lambda a: a.update(vectors=a["vectors"][:, 0])),
    "3d.npz": npz(lambda a: a.update(vectors=a["vectors"][None])),
    "short.npz": npz(lambda a: a.update(vectors=a["vectors"][:-1])),
    "long.npz": npz(lambda a: a.update(vectors=np.tile(a["vectors"], (2, 1)))),
    "no_features.npz": vectors(np.zeros((ROWS, 0), np.float32)),
    "nan.npz": npz(lambda a: a["vectors"].__setitem__((0, 0), np.nan)),
    "infinite.npz": npz(lambda a: a["vectors"].__setitem__((0, 0), np.inf)),
    "words.npz": vectors(np.full((ROWS, 8), "x")),
    "whole.npz": vectors(np.zeros((ROWS, 8), np.int64)),
    "complex.npz": vectors(np.zeros((ROWS, 8), np.complex64)),
    "objects.npz": vectors(np.full((ROWS, 8), None, object)),
    "none.npz": npz(lambda a: a.pop("vectors")),
    "no_path.npz": npz(lambda a: a.pop("path")),
    "cycle_words.npz": npz(lambda a: a.update(cycle=np.full(ROWS, "one"))),
    "cycle_nan.npz": npz(lambda a: a.update(cycle=np.full(ROWS, np.nan))),
    "start_nan.npz": npz(lambda a: a.update(start_s=np.full(ROWS, np.nan))),
    "recording_numbers.npz": npz(lambda a: a.update(recording=np.arange(ROWS))),
    "about_no_json.npz": npz(lambda a: a.update(about=np.array("{bad"))),
    "about_list.npz": npz(lambda a: a.update(about=np.array("[1]"))),
    "about_nested.npz": npz(lambda a: a.update(about=np.array("[" * 50_000))),
    "about_half.npz": npz(lambda a: a.update(about=np.array('{"model": "\\ud800"}'))),
    "about_number.npz": npz(lambda a: a.update(about=np.array(5))),
    "about_two.npz": npz(lambda a: a.update(about=np.array(["{}", "{}"]))),
    "about_model.npz": npz(about(model=5)),
    "about_layer.npz": npz(about(layer=[1])),
    "about_cycles.npz": npz(about(cycles={"a": 1})),
    "bomb.npz": bomb,
    "claimed.npz": claimed,
    "packed.npz": npz(lambda _: None, zipfile.ZIP_DEFLATED),
    "cut.npz": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty.npz": lambda path: path.write_bytes(b""),
    "pipe.npz": instead(os.mkfifo),
    "folder.npz": instead(Path.mkdir),
    "null.parquet": parquet(first("vector", None)),
    "all_null.parquet": parquet(lambda c: c.update(vector=[None] * ROWS)),
    "short.parquet": parquet(first("vector", [1.0])),
    "no_features.parquet": parquet(lambda c: c.update(vector=[[]] * ROWS)),
    "hole.parquet": parquet(lambda c: c["vector"][0].__setitem__(0, None)),
    "nan.parquet": parquet(lambda c: c["vector"][0].__setitem__(0, float("nan"))),
    "words.parquet": parquet(lambda c: c.update(vector=["x"] * ROWS)),
    "lists_of_words.parquet": parquet(lambda c: c.update(vector=[["x"] * 8] * ROWS)),
    "numbers.parquet": parquet(lambda c: c.update(vector=[1.0] * ROWS)),
    "none.parquet": parquet(lambda c: c.pop("vector")),
    "no_path.parquet": parquet(lambda c: c.pop("path")),
    "path_null.parquet": parquet(first("path", None)),
    "cycle_null.parquet": parquet(first("cycle", None)),
    "start_words.parquet": parquet(lambda c: c.update(start_s=["soon"] * ROWS)),
    "about_list.parquet": parquet(lambda c: c.update(about=b"[1]")),
    "about_bytes.parquet": parquet(lambda c: c.update(about=b"\xff\xfe")),
    "packed.parquet": repeated,
    "cut.parquet": lambda path: os.truncate(path, path.stat().st_size // 2),
    "pipe.parquet": instead(os.mkfifo),
}


def damaged(folder: Path, name: str) -> Path:
    path = write_set(folder / f"set{Path(name).suffix}").rename(folder / name)
    DAMAGES[name](path)
    return path


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_embedding_file_is_a_sentence(name: str, tmp_path: Path) -> None:
    pytest.importorskip("usearch", reason="looking things up in embedding files needs rales[search]")
    path = damaged(tmp_path, name)
    with pytest.raises(ValueError, match=f"{name}: "):
        similarity_search.find_nearest(path, "r0")
    with pytest.raises(ValueError, match=f"{name}: "):
        similarity_search.find_nearest(path, np.ones(8, np.float32))


@pytest.mark.slow
def test_the_command_on_damaged_embedding_files(tmp_path: Path) -> None:
    pytest.importorskip("usearch", reason="looking things up in embedding files needs rales[search]")
    wrong = []
    with commands(tmp_path, tmp_path / "cache") as run:
        whole = run.run("search", "r0", "--in", write_set(tmp_path / "whole.npz"))
        assert whole.how == "answered", whole.err
        for name in DAMAGES:
            ended = run.run("search", "r0", "--in", damaged(tmp_path, name))
            if ended.how != "sentence" or name not in ended.sentence:
                wrong.append(f"{name}: {ended.how}: {ended.err[-500:]}")
            path = tmp_path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"\nsearch: {len(DAMAGES)} damaged embedding files, {len(wrong)} not a sentence")
    assert not wrong, "\n".join(wrong)
