"""Answers and vectors for other programs: AOEF with the soundevent package, mteb's way to call an encoder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rales.data import read_cycles
from rales.inference.mteb_encoder import MtebEncoder
from rales.inference.predictor import Predictor
from rales.inference.pyhealth_samples import INPUT_SCHEMA, OUTPUT_SCHEMA, make_samples
from tests import tiny


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tiny.write_folder(tmp_path_factory.mktemp("adapters") / "data")
    return [Path(path) for path in read_cycles(folder)["path"].unique()[:2]]


def test_aoef_goes_through_the_soundevent_package(recordings: list[Path], model: Predictor, tmp_path: Path) -> None:
    io = pytest.importorskip("soundevent.io")
    from rales.inference.soundevent_file import read_aoef, write_aoef

    table = model.predict(recordings)
    write_aoef(table, tmp_path / "answers.json", audio_dir=recordings[0].parent)
    found = io.load(tmp_path / "answers.json", audio_dir=recordings[0].parent)
    assert "not a diagnosis" in found.description
    events = [event for clip in found.clip_predictions for event in clip.sound_events]
    for event, row in zip(events, table.to_dict("records"), strict=True):
        assert event.sound_event.geometry.coordinates == pytest.approx([row["start_s"], row["end_s"]])
        assert event.tags[0].tag.value == row["label"]
        assert event.score == pytest.approx(row[f"p_{row['label']}"])
        assert sum(tag.score for tag in event.tags) == pytest.approx(1, abs=1e-6)
    again = read_aoef(tmp_path / "answers.json", audio_dir=recordings[0].parent)
    assert again["label"].tolist() == table["label"].tolist()
    assert again["end_s"].tolist() == pytest.approx(table["end_s"].tolist())
    assert [Path(path).name for path in again["path"]] == [Path(path).name for path in table["path"]]


def test_an_encoder_as_mteb_calls_it(recordings: list[Path], model: Predictor) -> None:
    sounds = [soundfile.read(path) for path in recordings]
    batches = [{"audio": [{"array": wave, "sampling_rate": rate}], "label": [0]} for wave, rate in sounds]
    encoder = MtebEncoder(model)
    vectors = encoder.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", prompt_type=None)
    expected = model.embed(recordings, per="recording", cycles="windows", quality=False)
    assert vectors == pytest.approx(expected, abs=1e-5)
    cosines = encoder.similarity(vectors, vectors[::-1])
    assert np.diag(cosines[::-1]) == pytest.approx(np.ones(2), abs=1e-5)
    assert encoder.similarity_pairwise(vectors, vectors[::-1]) == pytest.approx(np.diag(cosines))
    assert encoder.similarity(vectors[0], vectors).shape == (1, 2)
    with pytest.raises(ValueError, match="hears audio alone"):
        encoder.encode([{"text": ["a"]}])


def test_mteb_takes_the_encoder(recordings: list[Path], model: Predictor) -> None:
    """Its own evaluation of a task whose sounds are given; it refuses what is no encoder by its protocol."""
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset, DatasetDict
    from mteb.models import EncoderProtocol
    from mteb.tasks.classification.zxx.esc50 import ESC50Classification

    class Sounds(ESC50Classification):  # type: ignore[misc]
        def load_data(self, **_: object) -> None:
            waves = [soundfile.read(path, dtype="float32") for path in recordings]
            rows = [
                {"audio": {"array": wave, "sampling_rate": rate}, "target": target}
                for target, (wave, rate) in enumerate(waves)
                for _ in range(5)
            ]
            self.dataset, self.data_loaded = DatasetDict({"train": Dataset.from_list(rows)}), True

    encoder = MtebEncoder(model, layer=1)
    assert isinstance(encoder, EncoderProtocol)
    found = mteb.evaluate(encoder, tasks=[Sounds()], cache=None, co2_tracker=False)
    assert found.model_name.endswith("-layer-1")
    assert found.task_results[0].get_score() == 1  # five copies of each sound are told apart


def test_samples_as_pyhealth_takes_them(recordings: list[Path]) -> None:
    folder, table = recordings[0].parent, read_cycles(recordings[0].parent)
    samples = make_samples(folder, part="test", rate_hz=8000, duration_s=2)
    test = table[table["split"] == "test"]
    for key, column in (("patient_id", "patient"), ("visit_id", "recording"), ("record_id", "recording")):
        assert [each[key] for each in samples] == test[column].tolist()
    assert [each["label"] for each in samples] == test["label"].tolist()
    assert {(each["signal"].shape, each["signal"].dtype.name) for each in samples} == {((1, 16000), "float32")}
    assert set(INPUT_SCHEMA) | set(OUTPUT_SCHEMA) <= samples[0].keys()
    assert len(make_samples(folder, duration_s=2)) == len(table)
    with pytest.raises(ValueError, match="part='validation': the data has test, train"):
        make_samples(folder, part="validation")
