"""What `rales` gives to a program or a notebook: inputs in memory, tables, pictures, models that say what they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import rales
from rales.data import read_cycles
from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.inference.cycle_table import CycleTable
from rales.inference.predictor import Predictor
from rales.inference.recording_picture import plot_recording
from rales.inference.samples import check_samples, recording_paths
from rales.labels import CLASSES
from tests import tiny

P = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> a recording of four cycles with its annotation."""
    return Path(read_cycles(tiny.write_folder(tmp_path_factory.mktemp("door") / "data"))["path"].iloc[0])


def test_all_ways_to_hand_over_a_sound_give_the_answer_of_its_file(recording: Path, model: Predictor) -> None:
    expected = model.predict(recording, cycles="windows")[P].to_numpy()
    samples, rate_hz = soundfile.read(recording, dtype="int16")
    with recording.open("rb") as file:
        found = model.predict(file, cycles="windows")
    assert np.array_equal(found[P].to_numpy(), expected)
    assert (set(found["recording"]), set(found["path"])) == ({recording.stem}, {""})
    for given in ({"array": samples, "sampling_rate": rate_hz}, {"waveform": samples[None], "sample_rate": rate_hz}):
        found = rales.predict(given, model, cycles="windows")
        assert np.array_equal(found[P].to_numpy(), expected)
        assert (set(found["recording"]), set(found["path"])) == ({"waveform"}, {""})
    assert model(recording, cycles="windows").equals(model.predict(recording, cycles="windows"))
    vectors = model.embed(samples, sample_rate=rate_hz, cycles="windows")
    assert np.array_equal(vectors, model.embed(recording, cycles="windows"))


@pytest.mark.parametrize(
    ("samples", "rate_hz", "sentence"),
    [
        (np.zeros(9), 499, "expected a whole number of Hz, 500 to 1,000,000"),
        (np.zeros(9), 4000.5, "expected a whole number of Hz"),
        (np.zeros(9), np.nan, "expected a whole number of Hz"),
        (np.zeros((9, 2)), 4000, "give their transpose"),
        (np.zeros((1, 1, 9)), 4000, r"expected \(N,\) or \(channels, N\)"),
        (np.zeros(0), 4000, "and some"),
        (np.zeros(9, complex), 4000, "expected numbers"),
        (np.zeros(9, np.uint8), 4000, "expected int8, int16, int32, or floats"),
        (np.zeros(9, np.int64), 4000, "expected int8, int16, int32, or floats"),
        (np.zeros((17, 18)), 4000, "at most 16 channels; give one recording at a time"),
        ([[0.0], [0.0, 0.1]], 4000, "NumPy cannot read"),
        (np.array([0.0, np.inf]), 4000, "NaN or infinite"),
    ],
)
def test_samples_that_are_none_are_refused(samples: np.ndarray, rate_hz: float, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_samples(samples, rate_hz)


def test_whole_numbers_are_parts_of_their_full_scale() -> None:
    samples, rate_hz = check_samples(np.array([-32768, 16384], np.int16), np.int64(4000))
    assert (samples.tolist(), rate_hz) == ([-1.0, 0.5], 4000)


@pytest.mark.parametrize(
    "given",
    [
        [np.zeros(9), np.zeros(9)],
        (np.zeros(9), 4000),
        [{"array": np.zeros(9), "sampling_rate": 4000}],
        [0.1, 0.2],
    ],
)
def test_several_recordings_in_memory_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="one recording at a time"), recording_paths(given, 4000):
        pass


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, "expected paths of recordings, or samples"),
        (None, "expected paths of recordings, or samples"),
        (b"a", r"bytes: expected a path, or .* io\.BytesIO"),
    ],
)
def test_what_is_neither_path_nor_samples_is_refused(given: object, expected: str) -> None:
    with pytest.raises(UsageError, match=expected), recording_paths(given):
        pass


@pytest.mark.parametrize("kind", [list, iter, pd.Series, pd.Index, np.array])
def test_paths_come_in_any_sequence(kind: Callable[[list[str]], object]) -> None:
    with recording_paths(kind(["a.wav", "b.wav"])) as paths:
        assert paths == ["a.wav", "b.wav"]


def test_a_file_opened_as_text_is_refused(recording: Path) -> None:
    with (
        recording.open(encoding="latin-1") as file,
        pytest.raises(UsageError, match="mode 'rb'"),
        recording_paths(file),
    ):
        pass


def test_a_table_prints_labels_and_probabilities(recording: Path, model: Predictor) -> None:
    table = model.predict(recording)
    lines = repr(table).splitlines()
    assert lines[0].split() == ["recording", "cycle", "start_s", "end_s", "label", *P]
    for line, (_, row) in zip(lines[1:], table.iterrows(), strict=False):
        assert line.split()[5] == row["label"]
        assert [float(cell) for cell in line.split()[6:]] == pytest.approx(row[P].tolist(), abs=5e-4)
    assert lines[-1] == table.attrs["notice"]
    assert NOTICE in table._repr_html_()  # type: ignore[operator]
    assert "quality_reason" not in lines[0]
    silent = model.predict(np.zeros(80_000), sample_rate=8000, cycles="windows")
    assert "not judged" not in repr(silent)
    assert "digital silence" in repr(silent)


def test_any_other_table_prints_as_ever() -> None:
    plain = pd.DataFrame({"label": ["normal"], "recording": ["a"]})
    assert repr(CycleTable(plain)) == repr(plain)
    table = CycleTable(plain)
    assert isinstance(table.head(1), CycleTable)
    assert table.equals(plain)
    assert not table.equals(plain.assign(label="wheeze"))


def test_a_model_says_what_it_is(model: Predictor) -> None:
    assert repr(model) == (
        "<Rales model without a file: m2d_fusion; normal, crackle, wheeze, both; 2 s at 16 kHz; cpu>"
    )
    assert NOTICE in model._repr_html_()
    assert repr(rales.load()).startswith("<Rales model rales: m2d_fusion; ")


def test_a_saved_model_is_the_same(recording: Path, tmp_path: Path, model: Predictor) -> None:
    model.save(tmp_path / "one.safetensors")
    again = rales.load(tmp_path / "one.safetensors").to("cpu")
    assert again.digest == model.digest
    again.save(tmp_path / "two.safetensors")
    assert rales.load(tmp_path / "two.safetensors").predict(recording).equals(model.predict(recording))
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        model.save(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="device"):
        again.to("nonsense")


def test_pictures(recording: Path, tmp_path: Path, model: Predictor) -> None:
    figure = rales.plot(recording, model)
    above, _ = figure.axes
    table = model.predict(recording)
    names = [f"{row.label} {row[f'p_{row.label}']:.2f}" for _, row in table.iterrows()]
    assert [text.get_text() for text in above.texts] == names
    assert NOTICE in above.get_title()
    assert figure._repr_png_().startswith(b"\x89PNG"), "what a notebook shows"
    with pytest.raises(UsageError, match="one recording"):
        model.plot([recording])

    later = table.assign(start_s=table["start_s"] + 3, end_s=table["end_s"] + 3)  # of a longer recording
    above, _ = plot_recording(recording, later).axes
    assert [text.get_text() for text in above.texts] == names[:1]
    assert above.texts[0].get_position()[0] == pytest.approx(3.5, abs=0.1)

    narrow = table.assign(end_s=table["start_s"] + 0.1)  # no room for a word in a tenth of a second
    assert {text.get_text() for text in plot_recording(recording, narrow).axes[0].texts} == {""}

    why = model.explain(recording, 2)
    why.plot(tmp_path / "why.png")
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert (why._repr_png_() or b"").startswith(b"\x89PNG")
    assert repr(why).startswith(f"<Explanation of {recording.stem}, cycle 2: {table['label'][1]} ")
    assert why.table()["contribution"].sum() == pytest.approx(float(why.attribution.grid.sum()), abs=1e-4)
    samples, rate_hz = soundfile.read(recording)
    assert model.explain(samples, 1, sample_rate=rate_hz, cycles="windows").recording == "waveform"


def test_the_package_lists_what_it_has() -> None:
    assert {"load", "predict", "embed", "train", "plot", "data", "models"} <= set(dir(rales))
    assert all(hasattr(rales, name) for name in rales.__all__)
