"""Predictions as files that come back, here and in the tools they are for."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import rales
from rales.data import audit_data, read_cycles
from rales.data.annotations import read_annotation
from rales.data.reader import describe_cycle
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.inference import audio_reader, prediction_writers
from rales.inference.prediction_writers import SAID
from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from tests import tiny

P = [f"p_{name}" for name in CLASSES]
NOTICE = "Research tool, not a diagnosis."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("formats") / "data")


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


def write(model: Predictor, given: Path | list[Path], out: Path, form: str, **decision: float) -> list[Path]:
    paths = audio_reader.find_recordings(given)
    chunks = ((rows, status) for path in paths for rows, status in model.tables([path], [], model.decision(**decision)))
    return tiny.write_predictions(chunks, out, form, paths)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_tables_come_back(data: Path, model: Predictor, tmp_path: Path, form: str) -> None:
    """Written in eight parts, without annotation first: a column without a value yet has one later."""
    first = sorted(data.glob("*.wav"))[0]
    (tmp_path / "data").mkdir()
    for path in data.iterdir():
        shutil.copy(path, tmp_path / "data")
    (tmp_path / "data" / first.name).with_suffix(".txt").unlink()
    table = model.predict(tmp_path / "data")
    (written,) = write(model, tmp_path / "data", tmp_path / "new" / f"cycles.{form}", form)
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form]
    again = read(written)  # type: ignore[operator]
    if form == "json":
        assert [set(again.pop(name)) for name in SAID] == [{NOTICE}, {model.digest}, {rales.__version__}]
    assert list(again.columns) == list(table.columns)
    assert np.abs(again[P].to_numpy() - table[P].to_numpy()).max() < 1e-6
    assert again["true_label"].isna().tolist() == table["true_label"].isna().tolist()
    assert table["true_label"].isna()[0]
    assert again["true_label"].dropna().tolist() == table["true_label"].dropna().tolist()
    if form == "json":
        assert json.loads(written.read_text())["recording"] == table["recording"].tolist()


@pytest.mark.parametrize("form", prediction_writers.FORMATS)
def test_the_notice_stands_once_or_not_at_all(data: Path, model: Predictor, tmp_path: Path, form: str) -> None:
    """In a file that has a root for it once; elsewhere who writes says it, and no row or label is about it."""
    files = write(model, data, tmp_path / ("labels" if form in ("audacity", "raven") else f"cycles.{form}"), form)
    texts = [file.read_bytes().count(NOTICE.encode()) for file in files]
    said = {"notice": NOTICE, "model": model.digest, "version": rales.__version__}
    if form == "parquet":
        schema = pq.read_schema(files[0])
        assert {name: schema.metadata[name.encode()].decode() for name in SAID} == said
        assert not set(SAID) & set(schema.names)
    else:
        assert texts == [1] if form == "json" else not any(texts)
    assert model.predict(data).attrs == said
    assert predictions.summarise_recordings(model.predict(data)).attrs == said


def test_audacity_labels(data: Path, model: Predictor, tmp_path: Path) -> None:
    table = model.predict(data)
    written = write(model, data, tmp_path, "audacity")
    assert [path.name for path in written] == [f"{path.stem}.audacity.txt" for path in sorted(data.glob("*.wav"))]
    for path, (_, rows) in zip(written, table.groupby("path", sort=False), strict=True):
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        assert [[float(start), float(end)] for start, end, _ in lines] == rows[["start_s", "end_s"]].to_numpy().tolist()
        told = [f"{row['label']} {row['p_' + row['label']]:.2f}" for row in rows.to_dict("records")]
        assert [text for _, _, text in lines] == told
        found = read_annotation(path, 4.0)
        assert (found.form, found.problems) == ("Audacity", [])
        assert [describe_cycle(cycle) for cycle in found.cycles] == rows["label"].tolist()


def test_raven_selections(data: Path, model: Predictor, tmp_path: Path) -> None:
    recording = sorted(data.glob("*.wav"))[0]
    table = model.predict(recording)
    (written,) = write(model, recording, tmp_path / "one.txt", "raven")
    assert written == tmp_path / "one.txt"
    again = pd.read_csv(written, sep="\t")
    assert again["Selection"].tolist() == [1, 2, 3, 4]
    assert list(again.columns[:7]) == [
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"
    ]  # fmt: skip
    assert again["Begin Time (s)"].tolist() == table["start_s"].tolist()
    assert again["Class"].tolist() == again["Predicted Class"].tolist() == table["label"].tolist()
    found = read_annotation(written, 4.0)
    assert (found.form, found.problems) == ("Raven", [])
    assert [(cycle.start_s, cycle.end_s) for cycle in found.cycles] == list(
        zip(table["start_s"], table["end_s"], strict=True)
    )
    assert [describe_cycle(cycle) for cycle in found.cycles] == table["label"].tolist()
    assert set(again["Begin File"]) == {recording.name}


def test_raven_combined_table_runs_on(data: Path, model: Predictor, tmp_path: Path) -> None:
    """Recordings of 4 s each, one behind the other."""
    table = model.predict(data)
    (written,) = write(model, data, tmp_path / "all.txt", "raven")
    again = pd.read_csv(written, sep="\t")
    assert again["Selection"].tolist() == list(range(1, 33))
    assert again["Begin Time (s)"].tolist() == [float(second) for second in range(32)]
    assert again["File Offset (s)"].tolist() == table["start_s"].tolist()
    assert again["Begin Path"].tolist() == table["path"].tolist()
    cycles = read_cycles(written)  # each at its place in its recording
    assert cycles["label"].tolist() == table["label"].tolist()
    assert cycles["start_s"].tolist() == table["start_s"].tolist()
    assert cycles["end_s"].tolist() == table["end_s"].tolist()
    assert cycles["path"].nunique() == 8
    assert audit_data(written).problems == []
    (tmp_path / "note.txt").write_text("a note\n")
    with pytest.raises(ValueError, match="expected a table ending in"):
        read_cycles(tmp_path / "note.txt")


def test_public_readers_open_the_files(data: Path, model: Predictor, tmp_path: Path) -> None:
    """crowsetta reads Raven selection tables and Audacity label tracks for the bioacoustics tools."""
    import crowsetta

    recording = sorted(data.glob("*.wav"))[0]
    table = model.predict(recording)
    (written,) = write(model, recording, tmp_path / "one.txt", "raven")
    read = crowsetta.formats.bbox.Raven.from_file(written, annot_col="Class").to_bbox()
    assert [box.label for box in read] == table["label"].tolist()
    assert [(box.onset, box.offset) for box in read] == list(zip(table["start_s"], table["end_s"], strict=True))
    assert {(box.low_freq, box.high_freq) for box in read} == {(50, 8000)}
    (combined,) = write(model, data, tmp_path / "all.txt", "raven")
    assert len(crowsetta.formats.bbox.Raven.from_file(combined, annot_col="Class").to_bbox()) == 32

    (written,) = write(model, recording, tmp_path / "labels.txt", "audacity")
    labels = crowsetta.formats.seq.AudSeq.from_file(written).to_seq()
    assert labels.onsets_s.tolist() == table["start_s"].tolist()
    assert labels.offsets_s.tolist() == table["end_s"].tolist()
    assert [label.split()[0] for label in labels.labels] == table["label"].tolist()


@pytest.mark.parametrize("form", ["audacity", "raven"])
def test_abstention_is_visible_in_labels(data: Path, model: Predictor, tmp_path: Path, form: str) -> None:
    recording = sorted(data.glob("*.wav"))[0]
    (written,) = write(model, recording, tmp_path / "x.txt", form, min_confidence=1.0)
    lines = written.read_text().splitlines()
    if form == "audacity":
        assert all(line.split("\t")[2].startswith("uncertain: ") for line in lines)
        assert read_annotation(written, 4.0).labelled
    else:
        assert set(pd.read_csv(written, sep="\t")["Uncertain"]) == {True}


@pytest.mark.parametrize("form", ["audacity", "raven"])
def test_labels_beside_the_recordings_leave_their_annotations_alone(
    data: Path, model: Predictor, tmp_path: Path, form: str
) -> None:
    shutil.copytree(data, tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    write(model, tmp_path / "data", tmp_path / "data", form)
    assert {path: path.read_bytes() for path in before} == before


def test_recordings_of_one_name_have_files_of_their_own(data: Path, model: Predictor, tmp_path: Path) -> None:
    """In nested folders as the recordings are; beside each other with the suffix, also where case alone differs."""
    sound = sorted(data.glob("*.wav"))[0]
    for name in ("left/chest.wav", "right/chest.wav", "right/chest.flac", "right/Chest.wav"):
        (tmp_path / "visits" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sound, tmp_path / "visits" / name)
    files = write(model, tmp_path / "visits", tmp_path / "labels", "raven")
    assert sorted(str(file.relative_to(tmp_path / "labels")) for file in files) == [
        "left/chest.raven.txt",
        "right/Chest.raven.txt",
        "right/chest.flac.raven.txt",
        "right/chest.wav.raven.txt",
    ]
    assert all(file.is_file() for file in files)
    assert len(pd.read_csv(write(model, tmp_path / "visits", tmp_path / "cycles.csv", "csv")[0])["path"].unique()) == 4


@pytest.mark.parametrize("form", prediction_writers.FORMATS)
def test_a_failure_on_the_way_leaves_no_half_table(data: Path, model: Predictor, tmp_path: Path, form: str) -> None:
    def breaking() -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        yield next(iter(model.tables(audio_reader.find_recordings(sorted(data.glob("*.wav"))[0]))))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        tiny.write_predictions(breaking(), tmp_path / f"x.{form}", form, audio_reader.find_recordings(data))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == list(tmp_path.glob("x.audacity/*.txt"))


def test_an_unknown_format_is_a_usage_error(model: Predictor, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format xlsx: expected one of csv, json, parquet, audacity, raven"):
        write(model, data, tmp_path / "x.xlsx", "xlsx")
    for name in ("r.xlsx", "r.txt", "r.wav", "r.CSVX"):
        with pytest.raises(UsageError, match=rf"--out {name}: the name does not say what to write"):
            prediction_writers.table_format(Path(name))
    for name, form in (("r.xlsx", "csv"), ("r.json", "parquet"), ("r.csv", "audacity"), ("r.xlsx", "raven")):
        with pytest.raises(UsageError, match=rf"--out {name}: expected"):
            prediction_writers.check_format(Path(name), form)
    with pytest.raises(UsageError, match=r"--status x.txt: expected a name that ends in .csv, .json or .parquet"):
        prediction_writers.check_table_name("--status", Path("x.txt"))
