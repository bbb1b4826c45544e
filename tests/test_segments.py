"""`rales segments`: clips of what a model found."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import rales
from rales.data import read_cycles
from rales.errors import UsageError
from rales.files.csv_cells import restore_table
from rales.inference.predictor import Predictor
from rales.inference.segments import cut_segments, join_cycles, name_clip
from tests import tiny
from tests.command import command


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(read_cycles(tiny.write_folder(tmp_path_factory.mktemp("cut") / "data"))["path"].iloc[0])


def test_clips_hold_the_sound_of_their_times(recording: Path, model: Predictor, tmp_path: Path) -> None:
    found = cut_segments(model, recording, tmp_path / "clips")
    listed = pd.read_csv(tmp_path / "clips" / "segments.csv")
    table = model.predict(recording)
    assert sum(found["counts"].values()) == len(listed) == len(table) == found["cycles"]
    assert (set(listed["model"]), set(listed["version"])) == ({model.digest}, {rales.__version__})
    whole, rate_hz = soundfile.read(recording)
    for row in listed.to_dict("records"):
        clip, rate = soundfile.read(tmp_path / "clips" / row["clip"])
        begin, end = round(row["start_s"] * rate_hz), round(row["end_s"] * rate_hz)
        assert rate == rate_hz
        assert np.abs(clip - whole[begin:end]).max() < 1e-4
        assert row["clip"].startswith(f"{row['label']}/{recording.stem}_{row['start_s']:08.3f}-")
    for name, option in (("per_class", "per-class"), ("min_confidence", "min-confidence"), ("join_s", "join")):
        wrong: dict[str, Any] = {name: -2}
        with pytest.raises(UsageError, match=f"--{option} -2: expected 0 "):
            cut_segments(model, recording, tmp_path / "none", **wrong)
    with pytest.raises(UsageError, match="--pad inf: expected 0 to 3600"):
        cut_segments(model, recording, tmp_path / "none", pad_s=math.inf)
    with pytest.raises(UsageError, match="not empty"):
        cut_segments(model, recording, tmp_path / "clips")


def test_the_most_probable_of_each_class_with_sound_around(recording: Path, model: Predictor, tmp_path: Path) -> None:
    cut_segments(model, recording, tmp_path / "clips", per_class=1, pad_s=0.25)
    listed = pd.read_csv(tmp_path / "clips" / "segments.csv")
    table = model.predict(recording)
    for label, rows in table.groupby("label"):
        (best,) = listed.loc[listed["label"] == label, "probability"]
        assert best == pytest.approx(rows[f"p_{label}"].max())
    first = listed[listed["start_s"] > 0.5].iloc[0]
    expected = min(first["end_s"] + 0.25, 4.0) - (first["start_s"] - 0.25)
    assert soundfile.info(tmp_path / "clips" / first["clip"]).duration == pytest.approx(expected, abs=1e-3)


def test_neighbours_of_one_label_are_joined() -> None:
    rows: list[tuple[str, str | None, float, float, float]] = [
        ("a", "wheeze", 0.0, 1.0, 0.6),
        ("a", "wheeze", 1.4, 2.0, 0.8),
        ("a", "normal", 2.0, 3.0, 0.9),
    ]
    rows += [("a", "normal", 3.6, 4.0, 0.7), ("b", "normal", 4.0, 5.0, 0.5), ("b", None, 5.0, 6.0, np.nan)]
    table = pd.DataFrame(rows, columns=["path", "label", "start_s", "end_s", "p"])
    table = table.assign(recording=table["path"], p_wheeze=table["p"], p_normal=table["p"])
    columns = ["path", "label", "start_s", "end_s", "probability"]
    assert join_cycles(table, 0.5)[columns].to_numpy().tolist() == [
        ["a", "wheeze", 0.0, 2.0, 0.8],
        ["a", "normal", 2.0, 3.0, 0.9],
        ["a", "normal", 3.6, 4.0, 0.7],
        ["b", "normal", 4.0, 5.0, 0.5],
    ]
    assert len(join_cycles(table, None)) == 5
    assert len(join_cycles(table, 0.0)) == 5


def test_names_that_no_table_takes(recording: Path, model: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / os.fsdecode(b"=cmd\xeb.wav")
    try:
        shutil.copyfile(recording, source)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    cut_segments(model, source, tmp_path / "clips", cycles="windows", per_class=1)
    (first, *_) = restore_table(pd.read_csv(tmp_path / "clips" / "segments.csv")).to_dict("records")
    assert first["recording"] == r"=cmd\xeb"
    assert (tmp_path / "clips" / first["clip"]).name.startswith(r"=cmd\xeb_")
    assert ",'=cmd" in (tmp_path / "clips" / "segments.csv").read_text()


def test_no_clip_lies_outside_of_out(tmp_path: Path) -> None:
    event = pd.Series({"recording": "a", "label": "x/../../evil", "start_s": 0.0, "end_s": 1.0, "probability": 0.5})
    with pytest.raises(UsageError, match="would lie outside"):
        name_clip(event, tmp_path / "clips")


def test_nothing_to_cut_is_said(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.save(tiny.model(), tmp_path / "model.safetensors")
    words = ["segments", recording, "--model", tmp_path / "model.safetensors", "--out"]
    code, out, _ = command(capsys, *words, tmp_path / "none", "--min-confidence", "1")
    assert code == 1
    assert out.startswith("nothing was cut: 4 cycles, none of them is judged or probable enough")
    assert not (tmp_path / "none").exists()
    code, out, _ = command(capsys, *words, tmp_path / "all", "--json")
    assert (code, sum(json.loads(out)["counts"].values())) == (0, 4)
