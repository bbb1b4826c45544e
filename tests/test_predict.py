"""A trained model and recordings: the same cycle has one answer, wherever it is asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import rales
from rales import finetune, predict, recipes, runs
from rales.config import UsageError
from rales.data import read_cycles
from rales.data.cache import waveform
from rales.metrics import CLASSES
from tests import tiny

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
def model(place: Path) -> predict.Model:
    return rales.load(place / "run")


def recordings(place: Path) -> list[Path]:
    return sorted((place / "data").glob("*.wav"))


# The table


def test_columns_and_order(place: Path, model: predict.Model) -> None:
    table = model.predict(place / "data")
    assert list(table.columns) == [*COLUMNS, "true_label", "source", "path", "notice"]
    assert model.classes == CLASSES
    assert table["recording"].unique().tolist() == [path.stem for path in recordings(place)]
    assert table["cycle"].tolist() == [1, 2, 3, 4] * 8
    assert set(table["source"]) == {"annotation"}
    assert set(table["notice"]) == {"Research tool, not a diagnosis."}
    assert np.allclose(table[P].sum(axis=1), 1)
    assert table["label"].tolist() == [CLASSES[i] for i in table[P].to_numpy().argmax(axis=1)]
    annotated = read_cycles(place / "data")
    assert table["true_label"].tolist() == annotated["label"].tolist()
    assert table[["start_s", "end_s"]].equals(annotated[["start_s", "end_s"]])


def test_files_folders_and_repeats(place: Path, model: predict.Model) -> None:
    first, second = recordings(place)[:2]
    assert model.predict(str(first))["recording"].unique().tolist() == [first.stem]
    table = model.predict([second, first, second])
    assert table["recording"].unique().tolist() == [second.stem, first.stem]
    assert len(table) == 8


def test_windows_where_nothing_is_annotated(tmp_path: Path, place: Path, model: predict.Model) -> None:
    sound, rate_hz = soundfile.read(recordings(place)[0])
    soundfile.write(tmp_path / "visit.flac", np.tile(sound, 3)[: round(9.3 * rate_hz)], rate_hz)
    shutil.copy(recordings(place)[1], tmp_path / "z.wav")
    shutil.copy(recordings(place)[1].with_suffix(".txt"), tmp_path / "z.txt")
    table = model.predict(tmp_path)
    visit = table[table["recording"] == "visit"]
    assert visit[["start_s", "end_s"]].to_numpy().tolist() == [[0, 4], [4, 8], [8, 9.3]]
    assert visit["source"].tolist() == ["window"] * 3
    assert visit["true_label"].isna().all()
    assert table.loc[table["recording"] == "z", "true_label"].notna().all()
    assert "true_label" not in model.predict(tmp_path / "visit.flac")


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0.2, [(0, 0.2)]),
        (4.0, [(0, 4.0)]),
        (4.3, [(0, 4.3)]),
        (4.5, [(0, 4), (4, 4.5)]),
        (8.49, [(0, 4), (4, 8.49)]),
        (12.0, [(0, 4), (4, 8), (8, 12.0)]),
    ],
)
def test_windows_cover_a_recording(duration_s: float, expected: list[tuple[float, float]]) -> None:
    assert predict.windows(duration_s) == expected


# One input, one answer


def test_a_cycle_alone_and_among_others(place: Path, model: predict.Model) -> None:
    path = recordings(place)[-1]
    together = model.predict(place / "data")
    one_recording = model.predict(path)
    rows = together[together["recording"] == path.stem].reset_index(drop=True)
    assert np.abs(rows[P].to_numpy() - one_recording[P].to_numpy()).max() < 1e-6

    row = rows.iloc[2]
    settings = model.recipe.config.audio
    alone = waveform(path, row["start_s"], row["end_s"], samples=round(settings.duration_s * settings.rate_hz))
    assert np.abs(model.probabilities(alone[None])[0] - row[P].to_numpy(dtype=float)).max() < 1e-6
    forty = np.stack([alone, *np.random.default_rng(0).normal(0, 0.1, (40, alone.size)).astype(np.float32)])
    assert np.abs(model.probabilities(forty[::-1].copy())[-1] - row[P].to_numpy(dtype=float)).max() < 1e-6


def test_it_is_what_the_run_predicted(place: Path, model: predict.Model) -> None:
    stored = pd.read_csv(place / "run" / "predictions.csv")
    asked = model.predict([path for path in recordings(place) if path.stem in set(stored["recording"])])
    assert asked[["recording", "cycle"]].equals(stored[["recording", "cycle"]])
    assert np.abs(asked[P].to_numpy() - stored[P].to_numpy()).max() < 1e-5
    assert stored[P].to_numpy().std(axis=0).max() > 1e-3  # the cycles have answers of their own


def test_a_checkpoint_file_is_the_same_model(place: Path, model: predict.Model, tmp_path: Path) -> None:
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


def test_embeddings_are_what_the_head_sees(place: Path, model: predict.Model) -> None:
    vectors = model.embed(place / "data")
    assert vectors.shape == (32, 2 * 24)
    assert vectors.dtype == np.float32
    head = model.network.get_submodule("head")
    with torch.inference_mode():
        probabilities = head(torch.from_numpy(vectors)).softmax(dim=1).numpy()
    assert np.abs(probabilities - model.predict(place / "data")[P].to_numpy()).max() < 1e-5
    table = model.embed_table(recordings(place)[0])
    assert list(table.columns) == ["recording", "cycle", "start_s", "end_s", "vector"]


# Evaluation


def test_evaluation_equals_that_of_the_run(place: Path) -> None:
    cycles = read_cycles(place / "data")
    figures = predict.evaluate(place / "run", cycles, cache_folder=place / "cache")
    stored = runs.read_json(place / "run" / "evaluation.json")
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
    figures = predict.evaluate(place / "run", cycles, cache_folder=place / "cache")
    move, drop = (figures["leak_free"][name] for name in ("official_move", "official_drop"))
    assert (move["cycles"], move["cycles_trained_on"]) == (16, 4)
    assert (drop["cycles"], drop["cycles_trained_on"]) == (8, 0)


@pytest.mark.parametrize("split", ["official_drop", "official_move", "folds"])
def test_evaluation_of_a_run_on_another_split(place: Path, tmp_path: Path, split: str) -> None:
    cycles = read_cycles(place / "data")
    cycles.loc[cycles["patient"] == "105", "patient"] = "106"  # now on both sides
    recipe = tiny.recipe("train.epochs=1", f"split.name={split}", "train.select=validation")
    finetune.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    figures = predict.evaluate(tmp_path / "run", cycles, cache_folder=place / "cache")
    stored = runs.read_json(tmp_path / "run" / "evaluation.json")
    assert figures["confusion"] == stored["confusion"]
    assert runs.clean(figures["ci95"]) == stored["ci95"]
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
    figures = predict.evaluate(place / "run", cycles, cache_folder=place / "cache")
    assert figures["score"] == runs.read_json(place / "run" / "evaluation.json")["score"]
    assert "official_drop" not in figures["leak_free"]


def test_evaluation_on_other_data_is_said(place: Path) -> None:
    cycles = read_cycles(place / "data")
    figures = predict.evaluate(place / "run", cycles[cycles["patient"] != "108"], cache_folder=place / "cache")
    assert figures["protocol"]["same_data_as_training"] is False
    assert figures["protocol"]["cycles"] == 8


# What cannot be read


def test_bad_recordings_among_good_ones(place: Path, model: predict.Model, tmp_path: Path) -> None:
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


def test_nothing_readable_gives_an_empty_table(model: predict.Model, tmp_path: Path) -> None:
    problems: list[str] = []
    (tmp_path / "x.wav").write_bytes(b"")
    table = model.predict(tmp_path / "x.wav", problems)
    assert (len(table), len(problems)) == (0, 1)
    assert list(table.columns)[:9] == COLUMNS


def test_a_folder_without_recordings_is_a_sentence(model: predict.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recording in it \(.wav, .flac"):
        model.predict(tmp_path)


# What cannot be loaded


def test_places_without_a_model_are_sentences(tmp_path: Path, place: Path) -> None:
    with pytest.raises(ValueError, match=r"no run folder \(config.json is missing\)"):
        rales.load(tmp_path)
    runs.begin(tmp_path / "unfinished", runs.read_json(place / "run" / "config.json"))
    with pytest.raises(ValueError, match=r"unfinished: the run is not finished; the same train command"):
        rales.load(tmp_path / "unfinished")
    with pytest.raises(FileNotFoundError, match=r"nothing: no such checkpoint"):
        rales.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"device 'tpu9' is not there"):
        rales.load(place / "run", device="tpu9")


def test_files_that_are_no_model_are_sentences(place: Path, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"enconly.safetensors: .*without a Rales record.*--weights"):
        rales.load(golden / "checkpoints" / "enconly.safetensors")
    tensors, record = runs.read_checkpoint(place / "run" / "best.safetensors")
    runs.save_tensors(tmp_path / "x.safetensors", tensors, {**record, "recipe": "gone"})
    with pytest.raises(ValueError, match=r"x.safetensors: made by recipe 'gone'"):
        rales.load(tmp_path / "x.safetensors")
    runs.save_tensors(tmp_path / "x.safetensors", {**tensors, "head.weight": torch.zeros(4, 7)}, record)
    with pytest.raises(ValueError, match=r"x.safetensors: its tensors do not fit .* \(1 differ, first head.weight\)"):
        rales.load(tmp_path / "x.safetensors")
    record["config"]["train"]["inertia"] = 0.5
    runs.save_tensors(tmp_path / "x.safetensors", tensors, record)
    with pytest.raises(ValueError, match=r"x.safetensors: unknown settings inertia; it was written by another version"):
        rales.load(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"x.safetensors: damaged"):
        rales.load(tmp_path / "x.safetensors")


def test_a_model_without_fused_vectors_says_so(model: predict.Model, place: Path) -> None:
    plain = predict.Model(model.recipe, model.frontend, torch.nn.Linear(1, 4), model.record, torch.device("cpu"))
    with pytest.raises(ValueError, match="a model of recipe m2d_fusion has no embedding"):
        plain.embed(recordings(place)[0])


# Files


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_table_formats_come_back(place: Path, model: predict.Model, tmp_path: Path, form: str) -> None:
    table = model.predict(place / "data")
    (written,) = predict.write(table, tmp_path / "new" / f"cycles.{form}", form)
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form]
    again = read(written)  # type: ignore[operator]
    assert list(again.columns) == list(table.columns)
    assert np.abs(again[P].to_numpy() - table[P].to_numpy()).max() < 1e-12
    assert again["true_label"].tolist() == table["true_label"].tolist()
    if form == "json":
        assert json.loads(written.read_text())[0]["recording"] == table["recording"][0]


def test_audacity_labels(place: Path, model: predict.Model, tmp_path: Path) -> None:
    table = model.predict(place / "data")
    written = predict.write(table, tmp_path, "audacity")
    assert [path.name for path in written] == [f"{path.stem}.audacity.txt" for path in recordings(place)]
    for path, (_, rows) in zip(written, table.groupby("path", sort=False), strict=True):
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        assert [[float(start), float(end)] for start, end, _ in lines] == rows[["start_s", "end_s"]].to_numpy().tolist()
        assert [text.split()[0] for _, _, text in lines] == rows["label"].tolist()
        assert all("not a diagnosis" in text for _, _, text in lines)


def test_raven_selections(place: Path, model: predict.Model, tmp_path: Path) -> None:
    table = model.predict(recordings(place)[0])
    (written,) = predict.write(table, tmp_path / "one.txt", "raven")
    assert written == tmp_path / "one.txt"
    again = pd.read_csv(written, sep="\t")
    assert again["Selection"].tolist() == [1, 2, 3, 4]
    assert list(again.columns[:7]) == [
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"
    ]  # fmt: skip
    assert again["Begin Time (s)"].tolist() == table["start_s"].tolist()
    assert again["Class"].tolist() == table["label"].tolist()
    assert set(again["Begin File"]) == {recordings(place)[0].name}


@pytest.mark.parametrize("form", ["audacity", "raven"])
def test_labels_beside_the_recordings_leave_their_annotations_alone(
    place: Path, model: predict.Model, tmp_path: Path, form: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    before = {path: path.read_bytes() for path in data.iterdir()}
    predict.write(model.predict(data), data, form)
    assert {path: path.read_bytes() for path in before} == before


def test_two_recordings_of_one_name_are_not_written_over_each_other(
    place: Path, model: predict.Model, tmp_path: Path
) -> None:
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        shutil.copy(recordings(place)[0], tmp_path / folder / "chest.wav")
    table = model.predict(tmp_path)
    assert len(table["path"].unique()) == 2
    with pytest.raises(ValueError, match=r"two recordings would both be written to chest.raven.txt"):
        predict.write(table, tmp_path / "labels", "raven")
    predict.write(table, tmp_path / "cycles.csv", "csv")


def test_vectors_come_back(place: Path, model: predict.Model, tmp_path: Path) -> None:
    table = model.embed_table(place / "data")
    vectors = model.embed(place / "data")
    predict.write_vectors(table, tmp_path / "v.npz")
    again = np.load(tmp_path / "v.npz")
    assert set(again) == {"vectors", "recording", "cycle", "start_s", "end_s"}
    assert np.array_equal(again["vectors"], vectors)
    assert again["recording"].tolist() == table["recording"].tolist()
    predict.write_vectors(table, tmp_path / "v.parquet")
    assert np.array_equal(np.stack(pd.read_parquet(tmp_path / "v.parquet")["vector"].to_list()), vectors)
    with pytest.raises(UsageError, match=r"v.csv: expected a name that ends in .npz or .parquet"):
        predict.write_vectors(table, tmp_path / "v.csv")


def test_an_unknown_format_is_a_usage_error(model: predict.Model, place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--format xlsx: expected one of csv, json, parquet, audacity, raven"):
        predict.write(model.predict(recordings(place)[0]), tmp_path / "x.xlsx", "xlsx")


def test_a_run_from_pretrained_weights_needs_their_file_no_more(place: Path, golden: Path, tmp_path: Path) -> None:
    weights = tmp_path / "start.safetensors"
    shutil.copy(golden / "checkpoints" / "enconly.safetensors", weights)
    words = [word for word in tiny.SETTINGS if not word.startswith("model.")]
    recipe = recipes.make("m2d_fusion", [*words, "train.epochs=1"], weights=str(weights))
    finetune.run(recipe, read_cycles(place / "data"), tmp_path / "run", cache_folder=place / "cache")
    stored = pd.read_csv(tmp_path / "run" / "predictions.csv")
    weights.unlink()
    asked = rales.load(tmp_path / "run").predict(place / "data")
    asked = asked[asked["recording"].isin(set(stored["recording"]))]
    assert np.abs(asked[P].to_numpy() - stored[P].to_numpy()).max() < 1e-5
