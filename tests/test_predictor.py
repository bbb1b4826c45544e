"""A trained model and recordings: the same cycle has one answer, wherever it is asked for."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import rales
from rales.data import read_cycles
from rales.data.waveform_cache import read_cycle_waveform
from rales.errors import UsageError
from rales.evaluation import calibration, predictions
from rales.files.json_files import to_jsonable
from rales.inference import audio_reader as reading
from rales.inference import predictor
from rales.inference.engines import Waveforms
from rales.inference.evaluate import evaluate_run
from rales.inference.predictor import Predictor
from rales.inference.samples import recording_paths
from rales.labels import CLASSES
from rales.models import hub
from rales.recipes.registry import make_recipe
from rales.training import finetune, run_folder
from rales.typing import Probabilities
from tests import tiny
from tests.run_folders import start_script

COLUMNS = ["recording", "cycle", "start_s", "end_s", "label", "p_normal", "p_crackle", "p_wheeze", "p_both"]
P = COLUMNS[5:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, a finished `run` on it and the `cache`."""
    folder = tmp_path_factory.mktemp("predict")
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    finetune.run(tiny.recipe("train.lr=0.01"), cycles, folder / "run", cache_folder=folder / "cache")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> Predictor:
    return rales.load(place / "run")


def recordings(place: Path) -> list[Path]:
    return sorted((place / "data").glob("*.wav"))


def test_a_damaged_cache_moves_no_score(place: Path, model: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    """Zeroed sectors once gave another Score, and `same_data_as_training` true over it."""
    cycles = read_cycles(place / "data")
    before = evaluate_run(place / "run", cycles, cache_folder=place / "cache")
    (file,) = (place / "cache").glob("*/waves.npy")
    whole, content = model.probabilities(np.load(file)), file.read_bytes()
    sectors = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    file.write_bytes(b"".join(sectors[:1] + [bytes(len(s)) if n % 2 else s for n, s in enumerate(sectors[1:])]))
    assert np.abs(model.probabilities(np.load(file)) - whole).max() > 0.01  # can be read, and has other answers
    assert evaluate_run(place / "run", cycles, cache_folder=place / "cache") == before
    assert before["protocol"]["same_data_as_training"]
    assert f"{file.parent}: damaged or cut" in caplog.text
    assert file.read_bytes() == content


# The table


def test_columns_and_order(place: Path, model: Predictor) -> None:
    table = model.predict(place / "data")
    assert list(table.columns) == [*COLUMNS, "true_label", "quality", "quality_reason", "source", "path"]
    assert model.classes == CLASSES
    assert table["recording"].unique().tolist() == [path.stem for path in recordings(place)]
    assert table["cycle"].tolist() == [1, 2, 3, 4] * 8
    assert set(table["source"]) == {"annotation"}
    assert table.attrs["notice"] == "Research tool, not a diagnosis."
    assert np.allclose(table[P].sum(axis=1), 1)
    assert table["label"].tolist() == [CLASSES[i] for i in table[P].to_numpy().argmax(axis=1)]
    annotated = read_cycles(place / "data")
    assert table["true_label"].tolist() == annotated["label"].tolist()
    assert table[["start_s", "end_s"]].equals(annotated[["start_s", "end_s"]])


def test_files_folders_and_repeats(place: Path, model: Predictor) -> None:
    first, second = recordings(place)[:2]
    assert model.predict(str(first))["recording"].unique().tolist() == [first.stem]
    table = model.predict([second, first, second])
    assert table["recording"].unique().tolist() == [second.stem, first.stem]
    assert len(table) == 8


def test_windows_where_nothing_is_annotated(tmp_path: Path, place: Path, model: Predictor) -> None:
    sound, rate_hz = soundfile.read(recordings(place)[0])
    soundfile.write(tmp_path / "visit.flac", np.tile(sound, 3)[: round(9.3 * rate_hz)], rate_hz)
    shutil.copy(recordings(place)[1], tmp_path / "z.wav")
    shutil.copy(recordings(place)[1].with_suffix(".txt"), tmp_path / "z.txt")
    table = model.predict(tmp_path, cycles="windows")
    visit = table[table["recording"] == "visit"]
    assert visit[["start_s", "end_s"]].to_numpy().tolist() == [[0, 4], [4, 8], [8, 9.3]]
    assert visit["source"].tolist() == ["window"] * 3
    assert "true_label" not in table
    table = model.predict(tmp_path)
    assert set(table.loc[table["recording"] == "visit", "source"]) <= {"segment", "window"}
    assert table.loc[table["recording"] == "visit", "true_label"].isna().all()
    assert table.loc[table["recording"] == "z", "true_label"].notna().all()


# One input, one answer


def test_a_cycle_alone_and_among_others(place: Path, model: Predictor) -> None:
    path = recordings(place)[-1]
    together = model.predict(place / "data")
    one_recording = model.predict(path)
    rows = together[together["recording"] == path.stem].reset_index(drop=True)
    assert np.abs(rows[P].to_numpy() - one_recording[P].to_numpy()).max() < 1e-6

    row = rows.iloc[2]
    settings = model.recipe.settings.audio
    alone = read_cycle_waveform(
        path, row["start_s"], row["end_s"], samples=round(settings.duration_s * settings.rate_hz)
    )
    assert np.abs(model.probabilities(alone[None])[0] - row[P].to_numpy(dtype=float)).max() < 1e-6
    forty = np.stack([alone, *np.random.default_rng(0).normal(0, 0.1, (40, alone.size)).astype(np.float32)])
    assert np.abs(model.probabilities(forty[::-1].copy())[-1] - row[P].to_numpy(dtype=float)).max() < 1e-6


def test_it_is_what_the_run_predicted(place: Path, model: Predictor) -> None:
    stored = pd.read_csv(place / "run" / "predictions.csv")
    asked = model.predict([path for path in recordings(place) if path.stem in set(stored["recording"])])
    assert asked[["recording", "cycle"]].equals(stored[["recording", "cycle"]])
    assert np.abs(asked[P].to_numpy() - stored[P].to_numpy()).max() < 1e-5
    assert stored[P].to_numpy().std(axis=0).max() > 1e-3  # the cycles have answers of their own


def test_a_checkpoint_file_is_the_same_model(place: Path, model: Predictor, tmp_path: Path) -> None:
    shutil.copy(place / "run" / "best.safetensors", tmp_path / "my-model.safetensors")
    path = recordings(place)[0]
    assert rales.load(tmp_path / "my-model.safetensors", device="cpu").predict(path).equals(model.predict(path))


def test_training_in_bfloat16_is_scored_in_float32(place: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe("train.precision=bf16", "train.epochs=1")
    finetune.run(recipe, read_cycles(place / "data"), tmp_path / "run", cache_folder=place / "cache")
    stored = pd.read_csv(tmp_path / "run" / "predictions.csv")
    asked = rales.load(tmp_path / "run").predict(place / "data")
    asked = asked[asked["recording"].isin(set(stored["recording"]))]
    assert np.abs(asked[P].to_numpy() - stored[P].to_numpy()).max() < 1e-5


def test_embeddings_are_what_the_head_sees(place: Path, model: Predictor) -> None:
    vectors = model.embed(place / "data")
    assert vectors.shape == (32, 2 * 24)
    assert vectors.dtype == np.float32
    head = model.network.get_submodule("head")
    with torch.inference_mode():
        probabilities = head(torch.from_numpy(vectors)).softmax(dim=1).numpy()
    assert np.abs(probabilities - model.predict(place / "data")[P].to_numpy()).max() < 1e-5
    table = model.embed_table(recordings(place)[0])
    assert list(table.columns) == ["recording", "cycle", "start_s", "end_s", "path", "vector"]


def test_vectors_of_a_layer_and_of_a_recording(place: Path, model: Predictor) -> None:
    fused, first = model.embed(place / "data"), model.embed(place / "data", layer=1)
    weight = model.network.get_parameter("fusion.weight")[0].item()
    assert np.abs(fused[:, :24] - weight * first).max() < 1e-5  # both layers are fused, weighted, side by side
    whole = model.embed_table(place / "data", per="recording")
    assert whole["recording"].tolist() == [path.stem for path in recordings(place)]
    assert set(whole["cycle"]) == {0}
    assert np.abs(whole["vector"][1] - fused[4:8].mean(axis=0)).max() < 1e-6
    with pytest.raises(UsageError, match="--layer 3: the encoder has layers 1 to 2"):
        model.embed(place / "data", layer=3)


# Without loading a model first


def test_samples_are_answered_as_a_file_of_them(place: Path, model: Predictor) -> None:
    path = recordings(place)[0]
    samples, rate_hz = soundfile.read(path, dtype="float32")
    expected = rales.predict(path, model, cycles="windows")[P].to_numpy()
    for given in (
        (samples, rate_hz),
        (torch.from_numpy(samples[None]), rate_hz),
        ({"waveform": samples, "sample_rate": rate_hz}, None),
    ):
        found = rales.predict(given[0], model, sample_rate=given[1], cycles="windows")
        assert set(found["recording"]) == {"waveform"}
        assert np.array_equal(found[P].to_numpy(), expected)
    vectors = rales.embed(samples, model, sample_rate=rate_hz, cycles="windows")
    assert np.array_equal(vectors, model.embed(path, cycles="windows"))


def test_samples_without_a_rate_and_files_with_one_are_refused(place: Path, model: Predictor) -> None:
    with pytest.raises(UsageError, match="samples without their rate: say sample_rate="):
        rales.predict(np.zeros(8), model)
    with pytest.raises(UsageError, match=r"samples reach 3,276\.7: expected -1 to 1"):
        rales.predict(np.array([0.5, 3276.7]), model, sample_rate=4000)
    with pytest.raises(UsageError, match=r"bytes: expected a path, .* io.BytesIO"):
        rales.predict(b"RIFF", model)
    with pytest.raises(UsageError, match="a file says its own rate"):
        rales.predict(place / "data", model, sample_rate=4000)
    with pytest.raises(UsageError, match="expected waveform"):
        rales.embed({"waveform": np.zeros(8)}, model)


# Engines and decisions


def test_every_probability_comes_from_the_engine(place: Path, model: Predictor) -> None:
    asked = []

    def engine(waves: Waveforms) -> Probabilities:
        asked.append(waves.shape)
        return np.tile([0.1, 0.2, 0.3, 0.4], (len(waves), 1))

    other = model.with_engine(engine)
    table = other.predict(place / "data")
    assert set(table["label"]) == {"both"}
    assert table[P].drop_duplicates().to_numpy().tolist() == [[0.1, 0.2, 0.3, 0.4]]
    assert asked == [(32, 32000)]  # eight recordings in one batch
    assert other.probabilities(np.zeros((40, 32000), np.float32)).shape == (40, 4)


def test_status_has_a_row_for_every_recording(place: Path, model: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"")
    paths = [str(recordings(place)[0]), str(tmp_path / "bad.wav"), str(recordings(place)[1])]
    problems: list[str] = []
    ((table, status),) = model.tables(paths, problems)
    assert status["path"].tolist() == paths
    assert status["status"].tolist() == ["ok", "failed", "ok"]
    assert status["sentence"].tolist() == ["", problems[0], ""]
    assert status["cycles"].tolist() == [4, 0, 4]
    assert status["duration_s"].tolist()[::2] == [4.0, 4.0]
    assert len(table) == 8


def test_tables_come_some_recordings_at_a_time(place: Path, model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.predict(place / "data")
    monkeypatch.setattr(predictor, "TABLE_ROWS", 6)
    parts = list(model.tables([str(path) for path in recordings(place)]))
    assert [len(table) for table, _ in parts] == [8, 8, 8, 8, 0]
    assert pd.concat([table for table, _ in parts[:4]], ignore_index=True).equals(whole)


def test_a_recording_that_breaks_off_has_no_answer(
    place: Path, model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its first cycles were scored before the damage was met."""
    original = reading.read_chunks

    def breaking(path: str, *rest: Any) -> Any:
        for piece in original(path, *rest):
            if path == str(recordings(place)[1]):
                yield piece._replace(last=False)
                raise ValueError("the rest is damaged")
            yield piece

    monkeypatch.setattr(reading, "read_chunks", breaking)
    problems: list[str] = []
    table = model.predict(place / "data", problems)
    assert problems == ["the rest is damaged"]
    assert len(table) == 28
    assert recordings(place)[1].stem not in set(table["recording"])


def test_abstention_threshold_and_their_notice(place: Path, model: Predictor) -> None:
    plain = model.predict(place / "data")
    sure = plain[P].max(axis=1)
    middle = float(sure.median())
    table = model.predict(place / "data", decision=model.decision(min_confidence=middle))
    assert table["uncertain"].tolist() == (sure < middle).tolist()
    assert table["label"].equals(plain["label"])
    for threshold, labels in ((0.0, {"normal"}), (1.0, set(CLASSES[1:]))):
        table = model.predict(place / "data", decision=model.decision(threshold=threshold))
        assert set(table["label"]) <= labels
        assert f"Normal from p_normal {threshold:.3f} on." in table.attrs["notice"]
    with pytest.raises(UsageError, match="--threshold validation: the model has no threshold"):
        model.decision(threshold="validation")
    with pytest.raises(UsageError, match=r"--min-confidence 1.5: expected a probability"):
        model.decision(min_confidence=1.5)


def test_a_validation_run_keeps_its_calibration(place: Path, tmp_path: Path) -> None:
    """Prediction is at the temperature of the validation patients, and says so; the run's own files stay as scored."""
    cycles = read_cycles(place / "data")
    recipe = tiny.recipe("train.lr=0.01", "train.select=validation")
    figures = finetune.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    model = rales.load(tmp_path / "run")
    temperature = figures["validation_temperature"]["temperature"]
    assert model.calibration["temperature"] == pytest.approx(temperature)
    assert (model.calibration["cycles"], model.calibration["patients"]) == (4, 1)
    assert f"temperature {temperature:.3f}" in model.decision().notice
    asked = model.predict(place / "data")
    stored = pd.read_csv(tmp_path / "run" / "predictions.csv")
    asked = asked[asked["recording"].isin(set(stored["recording"]))]
    cooled = calibration.apply_temperature(stored[P], temperature)
    assert np.abs(asked[P].to_numpy() - cooled).max() < 1e-4
    assert asked["label"].tolist() == stored["label"].tolist()
    assert model.decision(threshold="validation").threshold == model.calibration["threshold"]
    assert evaluate_run(tmp_path / "run", cycles, cache_folder=place / "cache")["score"] == figures["score"]


def test_shares_of_abnormal_cycles() -> None:
    rows = pd.DataFrame(
        {
            "recording": ["a"] * 5 + ["b"],
            "path": ["x/a.wav"] * 5 + ["x/b.wav"],
            "label": ["normal", "crackle", "both", "wheeze", "normal", "normal"],
            "uncertain": [False, False, False, False, True, True],
        }
    )
    a, b = predictions.summarise_recordings(rows).to_dict("records")
    assert [a[name] for name in ("cycles", "uncertain", *CLASSES, "abnormal")] == [5, 1, 1, 1, 1, 1, 3]
    assert a["abnormal_share"] == 0.75
    assert (a["low"], a["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson, 3 of 4
    assert (b["low"], b["high"]) == (0, 1)
    assert np.isnan(b["abnormal_share"])


def test_without_a_name_the_model_of_the_package_is_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.SHIPPED, "rales", tmp_path / "rales.safetensors")
    monkeypatch.setitem(hub.GRAPHS, "rales", tmp_path / "rales.onnx")
    for name in (None, "rales"):
        with pytest.raises(UsageError, match="lacks its model rales"):
            rales.load(name)
    shutil.copy(place / "run" / "best.safetensors", tmp_path / "rales.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rales").mkdir()  # a folder of that name beside is another thing
    wanted = rales.load(place / "run").digest
    assert [rales.load(name).digest for name in (None, "rales")] == [wanted, wanted]


# Evaluation


def test_evaluation_equals_that_of_the_run(place: Path) -> None:
    cycles = read_cycles(place / "data")
    figures = evaluate_run(place / "run", cycles, cache_folder=place / "cache")
    stored = run_folder.read_json(place / "run" / "evaluation.json")
    assert stored.pop("parameters")["trained"] > 0  # of the training alone
    for name, value in stored.items():
        if name == "protocol":
            assert {key: figures[name][key] for key in value} == value
        elif name == "sp_se_curve":
            assert figures[name]["threshold"] == pytest.approx(value["threshold"], abs=1e-6)
        else:
            assert figures[name] == (pytest.approx(value) if not isinstance(value, list | dict) else value), name
    assert {"specificity", "sensitivity", "score", "confusion", "ci95", "protocol"} <= set(figures)
    assert figures["protocol"]["same_data_as_training"] is True
    assert set(figures["by_device"]) == set(tiny.DEVICES)
    assert sum(part["cycles"] for part in figures["by_location"].values()) == 12
    assert set(figures["leak_free"]) == {"official_drop", "official_move"}
    assert figures["leak_free"]["official_move"]["cycles_trained_on"] == 0


def test_evaluation_says_where_a_repair_tests_on_trained_cycles(place: Path) -> None:
    cycles = read_cycles(place / "data")
    cycles.loc[cycles["patient"] == "105", "patient"] = "106"  # now on both sides
    figures = evaluate_run(place / "run", cycles, cache_folder=place / "cache")
    move, drop = (figures["leak_free"][name] for name in ("official_move", "official_drop"))
    assert (move["cycles"], move["cycles_trained_on"]) == (16, 4)
    assert (drop["cycles"], drop["cycles_trained_on"]) == (8, 0)


@pytest.mark.parametrize("split", ["official_drop", "official_move", "folds"])
def test_evaluation_of_a_run_on_another_split(place: Path, tmp_path: Path, split: str) -> None:
    cycles = read_cycles(place / "data")
    cycles.loc[cycles["patient"] == "105", "patient"] = "106"  # now on both sides
    recipe = tiny.recipe("train.epochs=1", f"split.name={split}", "train.select=validation")
    finetune.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    figures = evaluate_run(tmp_path / "run", cycles, cache_folder=place / "cache")
    stored = run_folder.read_json(tmp_path / "run" / "evaluation.json")
    assert figures["confusion"] == stored["confusion"]
    assert to_jsonable(figures["ci95"]) == stored["ci95"]
    assert figures["protocol"]["same_data_as_training"] is True
    assert figures["leak_free"] == {}
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert (
        len(table) == figures["protocol"]["cycles"] == {"official_drop": 8, "official_move": 16}.get(split, len(table))
    )


def test_evaluation_where_every_test_patient_is_trained_on_too(place: Path) -> None:
    """Nothing is left to test on after official_drop; the figures of the run's own split are not hurt."""
    cycles = read_cycles(place / "data")
    test = cycles["split"] == "test"
    cycles.loc[test, "patient"] = "101"
    figures = evaluate_run(place / "run", cycles, cache_folder=place / "cache")
    assert figures["score"] == run_folder.read_json(place / "run" / "evaluation.json")["score"]
    assert "official_drop" not in figures["leak_free"]


def test_evaluation_on_other_data_is_said(place: Path) -> None:
    cycles = read_cycles(place / "data")
    figures = evaluate_run(place / "run", cycles[cycles["patient"] != "108"], cache_folder=place / "cache")
    assert figures["protocol"]["same_data_as_training"] is False
    assert figures["protocol"]["cycles"] == 8


# What cannot be read


def test_bad_recordings_among_good_ones(place: Path, model: Predictor, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    names = [path.name for path in recordings(place)]
    (data / names[0]).write_bytes(b"not a sound")
    (data / names[1]).with_suffix(".txt").write_text("0\t1\t0\n")
    (data / f"._{names[2]}").write_bytes(b"what macOS leaves in archives")
    problems: list[str] = []
    table = model.predict([data, tmp_path / "nowhere.wav"], problems)
    assert len(problems) == 3
    for name, problem in zip((names[0], f"{Path(names[1]).stem}.txt, line 1", "nowhere.wav"), problems, strict=True):
        assert name in problem
    whole = model.predict(place / "data")
    good = whole[whole["recording"].isin([name.removesuffix(".wav") for name in names[2:]])]
    assert np.abs(table[P].to_numpy() - good[P].to_numpy()).max() < 1e-6
    with pytest.raises(ValueError, match=names[0]):
        model.predict(data)
    with pytest.raises(FileNotFoundError, match=r"nowhere.wav"):
        model.predict(tmp_path / "nowhere.wav")


def test_nothing_readable_gives_an_empty_table(model: Predictor, tmp_path: Path) -> None:
    problems: list[str] = []
    (tmp_path / "x.wav").write_bytes(b"")
    table = model.predict(tmp_path / "x.wav", problems)
    assert (len(table), len(problems)) == (0, 1)
    assert list(table.columns)[:9] == COLUMNS


def test_a_folder_without_recordings_is_a_sentence(model: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recording in it; expected files that end in \.wav, \.wave, "):
        model.predict(tmp_path)


# What cannot be loaded


def test_places_without_a_model_are_sentences(tmp_path: Path, place: Path) -> None:
    with pytest.raises(ValueError, match=r"no run folder \(config.json is missing\)"):
        rales.load(tmp_path)
    run_folder.begin_run(tmp_path / "unfinished", run_folder.read_json(place / "run" / "config.json"))
    with pytest.raises(ValueError, match=r"unfinished: the run is not finished; the same train command"):
        rales.load(tmp_path / "unfinished")
    with pytest.raises(FileNotFoundError, match=r"nothing: no such checkpoint"):
        rales.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"device 'tpu9' is not there"):
        rales.load(place / "run", device="tpu9")


def test_files_that_are_no_model_are_sentences(place: Path, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"enconly.safetensors: .*without a Rales record.*--weights"):
        rales.load(golden / "checkpoints" / "enconly.safetensors")
    tensors, record = run_folder.read_checkpoint(place / "run" / "best.safetensors")
    run_folder.save_tensors(tmp_path / "x.safetensors", tensors, {**record, "recipe": "gone"})
    with pytest.raises(ValueError, match=r"x.safetensors: made by recipe 'gone'"):
        rales.load(tmp_path / "x.safetensors")
    run_folder.save_tensors(tmp_path / "x.safetensors", {**tensors, "head.weight": torch.zeros(4, 7)}, record)
    with pytest.raises(ValueError, match=r"x.safetensors: its tensors do not fit .* \(head.weight"):
        rales.load(tmp_path / "x.safetensors")
    record["config"]["train"]["inertia"] = 0.5
    run_folder.save_tensors(tmp_path / "x.safetensors", tensors, record)
    with pytest.raises(ValueError, match=r"x.safetensors: unknown settings inertia; it was written by another version"):
        rales.load(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"x.safetensors: damaged"):
        rales.load(tmp_path / "x.safetensors")


def test_a_model_without_fused_vectors_says_so(model: Predictor, place: Path) -> None:
    plain = Predictor.from_network(model.recipe, torch.nn.Linear(1, 4), model.record)
    with pytest.raises(ValueError, match="a model of recipe m2d_fusion has no embedding"):
        plain.embed(recordings(place)[0])


def test_a_run_from_pretrained_weights_needs_their_file_no_more(place: Path, golden: Path, tmp_path: Path) -> None:
    weights = tmp_path / "start.safetensors"
    shutil.copy(golden / "checkpoints" / "enconly.safetensors", weights)
    words = [word for word in tiny.SETTINGS if not word.startswith("model.")]
    recipe = make_recipe("m2d_fusion", [*words, "train.epochs=1"], weights=str(weights))
    finetune.run(recipe, read_cycles(place / "data"), tmp_path / "run", cache_folder=place / "cache")
    stored = pd.read_csv(tmp_path / "run" / "predictions.csv")
    weights.unlink()
    asked = rales.load(tmp_path / "run").predict(place / "data")
    asked = asked[asked["recording"].isin(set(stored["recording"]))]
    assert np.abs(asked[P].to_numpy() - stored[P].to_numpy()).max() < 1e-5


FAILS = """
import sys
from dataclasses import replace
from pathlib import Path
from rales.inference import audio_reader, load_model, predictor
predictor.BATCH_CYCLES, audio_reader.CHUNK_CYCLES = 1, 1
def engine(waveforms):
    raise ZeroDivisionError("the engine failed")
model = load_model.load_model(sys.argv[1]).with_engine(engine, int(sys.argv[3]))
model.predict(sorted(str(path) for path in Path(sys.argv[2]).glob("*.wav")))
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_engine_that_fails_ends_the_process_and_leaves_no_reader_waiting(
    place: Path, workers: str, capfd: pytest.CaptureFixture[str]
) -> None:
    process = start_script(FAILS, place / "run", place / "data", workers)
    process.join(60)
    assert process.exitcode == 1
    assert "ZeroDivisionError: the engine failed" in capfd.readouterr().err


def test_extras_of_a_recipe_without_rows_of_its_own_reach_the_front_end() -> None:
    class Noting(torch.nn.Module):
        takes = ("cycle",)

        def forward(self, waveforms: torch.Tensor, cycle: torch.Tensor) -> torch.Tensor:
            seen.extend(cycle.tolist())
            features: torch.Tensor = plain.torch_engine.frontend(waveforms)
            return features

    seen, plain = list[int](), tiny.model()
    sound = np.concatenate([tiny.breath(label, seed=label) for label in range(4)])
    with recording_paths(sound, tiny.RATE_HZ) as path:
        expected = plain.predict([path], cycles="windows", quality=False)
        recipe = replace(plain.recipe, extras=("cycle",))
        model = Predictor.from_network(recipe, plain.network, plain.record, frontend=Noting())
        pd.testing.assert_frame_equal(model.predict([path], cycles="windows", quality=False), expected)
        assert seen == expected["cycle"].tolist()
        Noting.takes = ("age",)
        model = Predictor.from_network(replace(recipe, extras=("age",)), plain.network, plain.record, frontend=Noting())
        with pytest.raises(ValueError, match="the recipe needs `age` of every cycle"):
            model.predict([path])
