"""Embedding sets: what is written comes back, and the nearest are those that sound alike."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rales.cli import result_lines
from rales.errors import UsageError
from rales.files import seals
from rales.inference import similarity_search
from rales.inference.predictor import Predictor
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("search") / "data")


@pytest.fixture(scope="module")
def table(model: Predictor, data: Path) -> pd.DataFrame:
    return model.embed_table(data)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_vectors_come_back(table: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    similarity_search.write_vectors(table, path, {"model": "m", "layer": 3})
    rows, about = similarity_search.read_rows(path)
    assert rows.equals(table[list(similarity_search.COLUMNS)])
    assert about == {"model": "m", "layer": 3}
    assert np.array_equal(similarity_search.read_vectors(path), np.stack(table["vector"].to_list()))
    if suffix == ".npz":
        assert {"vectors", "recording", "cycle", "start_s", "end_s"} <= set(np.load(path))
    with pytest.raises(UsageError, match=r"v.csv: expected a name that ends in .npz or .parquet"):
        similarity_search.write_vectors(table, tmp_path / "v.csv")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_nearest_are_those_of_a_full_comparison(table: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    similarity_search.write_vectors(table, path)
    vectors = np.stack(table["vector"].to_list()).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit[5]
    similarity[5] = -np.inf  # the query itself
    wanted = np.argsort(-similarity)[:4]
    name = f"{table['recording'][5]}#{table['cycle'][5]}"
    for _ in range(2):  # the second time from the index file
        found = similarity_search.find_nearest(path, name, top=4)
        assert found is not None
        assert found["path"].tolist() == table["path"].iloc[wanted].tolist()
        assert found["cycle"].tolist() == table["cycle"].iloc[wanted].tolist()
        assert np.abs(found["similarity"] - similarity[wanted]).max() < 1e-5
    assert (tmp_path / f"v{suffix}.usearch").is_file()
    assert similarity_search.find_nearest(path, "nobody") is None


def test_a_recording_is_the_mean_of_its_cycles(table: pd.DataFrame, tmp_path: Path) -> None:
    similarity_search.write_vectors(table, tmp_path / "v.npz")
    found = similarity_search.find_nearest(tmp_path / "v.npz", table["recording"][0], top=100)
    assert found is not None
    assert len(found) == 28
    assert table["recording"][0] not in set(found["recording"])
    assert found["similarity"].is_monotonic_decreasing


def test_an_old_or_damaged_index_is_made_again(
    table: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "v.npz"
    similarity_search.write_vectors(table.head(8), path)
    similarity_search.find_nearest(path, table["recording"][0])
    similarity_search.write_vectors(table, path)
    found = similarity_search.find_nearest(path, table["recording"][0], top=100)
    assert found is not None
    assert len(found) == 28
    index = tmp_path / "v.npz.usearch"
    for content in (b"", b"not an index", index.read_bytes()[: index.stat().st_size // 2]):
        caplog.clear()
        index.write_bytes(content)
        again = similarity_search.find_nearest(path, table["recording"][0], top=100)
        assert again is not None
        assert again.equals(found)
        assert f"{index}: damaged or of other vectors, so this index is made again" in caplog.text


def test_an_index_of_other_vectors_is_not_used(table: pd.DataFrame, tmp_path: Path) -> None:
    """Of as many rows, and newer than the file: a folder copied together from two, or clocks that differ."""
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    turned = table.assign(vector=table["vector"].to_list()[::-1])
    for path, rows in ((one, table), (other, turned)):
        similarity_search.write_vectors(rows, path)
        similarity_search.find_nearest(path, "101_1b1_Tc_sc_Litt3200#1")
    expected = similarity_search.find_nearest(one, "101_1b1_Tc_sc_Litt3200#1", 5)
    assert expected is not None
    shutil.copy(tmp_path / "other.npz.usearch", tmp_path / "one.npz.usearch")
    found = similarity_search.find_nearest(one, "101_1b1_Tc_sc_Litt3200#1", 5)
    of_other = similarity_search.find_nearest(other, "101_1b1_Tc_sc_Litt3200#1", 5)
    assert found is not None
    assert of_other is not None
    assert found.equals(expected)
    assert not of_other.equals(expected)


def test_any_recording_may_be_the_query(model: Predictor, data: Path, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "v.npz", tmp_path / "model.safetensors"
    tiny.save(model, checkpoint)
    recordings = sorted(data.glob("*.wav"))
    made_by = {"model": model.digest, "layer": "fused", "per": "cycle", "cycles": "auto"}
    similarity_search.write_vectors(model.embed_table(recordings[1:]), path, made_by)
    found = similarity_search.search_similar(f"{recordings[0]}#2", path, 3, str(checkpoint))
    vector = np.stack(model.embed_table(recordings[0])["vector"].to_list())[1]
    wanted = similarity_search.find_nearest(path, vector, 3)
    assert wanted is not None
    assert found["recording"].tolist() == wanted["recording"].tolist()
    assert np.abs(found["similarity"] - wanted["similarity"]).max() < 1e-5
    with pytest.raises(ValueError, match=r"the recording has no cycle 9"):
        similarity_search.search_similar(f"{recordings[0]}#9", path, 3, str(checkpoint))
    with pytest.raises(ValueError, match=r"nobody: neither a recording in .*v.npz nor a file"):
        similarity_search.search_similar("nobody", path, 3, str(checkpoint))
    similarity_search.write_vectors(model.embed_table(recordings[1:]), path, {**made_by, "model": "another"})
    with pytest.raises(ValueError, match=r"v.npz: made by another model"):
        similarity_search.search_similar(str(recordings[0]), path, 3, str(checkpoint))


def test_a_name_that_two_recordings_have_is_not_averaged(table: pd.DataFrame, tmp_path: Path) -> None:
    rows = table.copy()
    first, second, third = rows["recording"].unique()[:3]
    renamed = {first: ["anna", "visit1/anna.wav"], second: ["anna", "visit2/anna.wav"], third: ["hash#3", "hash#3.wav"]}
    for name, new in renamed.items():
        rows.loc[rows["recording"] == name, ["recording", "path"]] = new
    path = tmp_path / "v.npz"
    similarity_search.write_vectors(rows, path)
    for query in ("anna", "anna#1"):
        with pytest.raises(ValueError, match=r"2 recordings could be meant.*: visit1/anna.wav, visit2/anna.wav"):
            similarity_search.find_nearest(path, query)
    one, other = (
        similarity_search.find_nearest(path, query, 100) for query in ("visit1/anna.wav#1", "visit2/anna.wav#1")
    )
    assert one is not None
    assert other is not None
    assert not one.equals(other)
    for query, others in (("hash#3", 28), ("hash#3#2", 31), ("hash#3.wav#2", 31)):
        answer = similarity_search.find_nearest(path, query, 100)
        assert answer is not None
        assert len(answer) == others

    assert one.attrs["namesakes"] == ["anna"]
    document = {"nearest": one.to_dict("records"), "namesakes": one.attrs["namesakes"], "notice": "n"}
    shown = result_lines.nearest_lines(document)
    assert any(line.startswith("visit1/anna.wav") for line in shown)
    assert not any(line.startswith("anna") for line in shown)

    rows.loc[rows["path"] == "visit1/anna.wav", "recording"] = "hash"
    similarity_search.write_vectors(rows, path)
    with pytest.raises(ValueError, match=r"hash#3: 2 recordings could be meant"):  # by name, or the third of `hash`
        similarity_search.find_nearest(path, "hash#3")


def test_files_that_are_no_embedding_sets_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone.npz: no such file; `rales embed`"):
        similarity_search.read_rows(tmp_path / "gone.npz")
    for name in ("x.npz", "x.parquet"):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(ValueError, match=rf"{name}: not an embedding file"):
            similarity_search.read_rows(tmp_path / name)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: not an embedding file"):
        similarity_search.read_rows(tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", vectors=np.array([{}], dtype=object))  # a pickle is not opened
    seals.seal_zip(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"x.npz: not an embedding file"):
        similarity_search.read_rows(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"x.npz: not an embedding file"):
        similarity_search.read_vectors(tmp_path / "x.npz")
