"""audio.scope=batch: answers depend on the others of a batch, and training, evaluation and prediction agree on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import rales
from rales.audio import IcbhiLogMel, io
from rales.data import read_cycles
from rales.data.dataset import load_dataset
from rales.errors import UsageError
from rales.evaluation.predictions import FIGURES
from rales.export.build import export_model
from rales.inference import attribution, audio_reader
from rales.inference.evaluate import evaluate_run
from rales.recipes.registry import make_recipe
from rales.settings import StandardisedAudio
from rales.training import finetune, run_folder
from rales.training.distributed import DistributedContext, init_distributed
from rales.training.recipe import Recipe
from rales.web import model_answers
from tests import tiny
from tests.command import command
from tests.run_folders import lines
from tests.test_quality import breathing

P = [f"p_{name}" for name in ("normal", "crackle", "wheeze", "both")]
# 12 test cycles, four a recording: batches of five end in the middle of recordings, the last is smaller
SYSTEMS: dict[str, Any] = {
    "m2d_fusion": lambda *words: tiny.recipe("audio.scope=batch", "train.batch_size=5", "train.lr=0.01", *words),
    "moummad_ce": lambda *words: make_recipe(
        "moummad_ce",
        [
            *("fidelity=original", "audio.duration_s=0.8", "train.epochs=1", "train.batch_size=5"),
            *("train.device=cpu", "train.precision=float32", *words),
        ],
        size="tiny",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings, of which each is a hundredth as loud as the one before: neighbours matter."""
    folder = tiny.write_folder(tmp_path_factory.mktemp("scope") / "data")
    for number, path in enumerate(sorted(folder.glob("*.wav"))):
        sound, rate_hz = io.read_waveform(path)
        soundfile.write(path, sound * 0.1 ** (number % 3), rate_hz, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module", params=[(name, select) for name in SYSTEMS for select in ("last", "validation")])
def trained(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, select = request.param
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe: Recipe = SYSTEMS[name](f"train.select={select}", "train.validation_share=0.4")
    assert recipe.scales_batches
    finetune.run(recipe, read_cycles(data), out, cache_folder=data.parent / "cache")
    return out


def test_an_answer_is_that_of_batches_of_test_rows_in_the_order_of_the_table(trained: Path, data: Path) -> None:
    model, stored = rales.load(trained), pd.read_csv(trained / "predictions.csv")
    cycles = read_cycles(data)
    test = cycles[cycles["split"] == "test"]
    assert test[["recording", "cycle"]].to_numpy().tolist() == stored[["recording", "cycle"]].to_numpy().tolist()
    dataset = load_dataset(cycles, model.recipe, folder=data.parent / "cache")
    waves = torch.from_numpy(dataset.inputs[test.index])

    def scored(batch: int) -> np.ndarray:
        with torch.inference_mode():
            logits = [model.network(model.torch_engine.frontend(some)) for some in waves.split(batch)]
        return torch.cat(logits).double().softmax(dim=1).numpy()

    np.testing.assert_allclose(stored[P], scored(5), atol=1e-5)
    assert np.abs(stored[P].to_numpy() - scored(16)).max() > 1e-4


def test_training_evaluation_and_prediction_agree(trained: Path, data: Path) -> None:
    figures = run_folder.read_json(trained / "evaluation.json")
    stored = pd.read_csv(trained / "predictions.csv")
    again = evaluate_run(trained, read_cycles(data), cache_folder=data.parent / "cache")
    assert again["confusion"] == figures["confusion"]
    assert ("validation_temperature" in again) == ("validation_temperature" in figures)
    if "validation_temperature" in figures:
        assert again["validation_temperature"] == pytest.approx(figures["validation_temperature"], abs=1e-4)
    for name in ("crackle_present", "wheeze_present"):  # of the probabilities themselves
        assert again[name] == pytest.approx(figures[name], abs=1e-6)
    best = run_folder.read_checkpoint(trained / "best.safetensors")[1]["epoch"]
    (line,) = [line for line in lines(trained) if (line["split"], line["epoch"]) == ("test", best)]
    assert {name: line[name] for name in FIGURES} == pytest.approx({name: figures[name] for name in FIGURES})

    model = rales.load(trained)
    model.calibration = {}  # the stored table is not calibrated
    test = [data / f"{name}.wav" for name in dict.fromkeys(stored["recording"])]
    table = model.predict(test)
    assert table["cycle"].tolist() == stored["cycle"].tolist()
    np.testing.assert_allclose(table[P], stored[P], atol=1e-5)
    alone = pd.concat([model.predict([path]) for path in test])
    assert np.abs(alone[P].to_numpy() - stored[P].to_numpy()).max() > 1e-4  # else nothing here depends on neighbours


def test_prediction_says_so_once(trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "an answer depends on the other cycles of the call, of which 5 at a time"
    assert sentence in rales.load(trained).decision().notice
    code, _, err = command(capsys, "predict", data, "--model", trained, "--out", tmp_path / "cycles.csv")
    assert code == 0
    assert err.count(sentence) == 1
    plain = tiny.model()
    assert "depends" not in plain.decision().notice


def test_what_has_no_answer_for_a_cycle_alone_is_refused(trained: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"audio.scope=batch, where .* depend on its neighbours"):
        export_model(trained, tmp_path / "model.onnx")
    with pytest.raises(
        ValueError, match=r"audio.scope=batch has no answer to a cycle alone, so there is nothing to expl"
    ):
        attribution.explain_cycle(rales.load(trained), str(next(data.glob("*.wav"))), 1)


def test_several_processes_would_share_a_batch_out() -> None:
    two = DistributedContext(**{**vars(init_distributed("cpu", "float32")), "world_size": 2})
    with pytest.raises(
        ValueError, match=r"audio.scope=batch takes minimum and maximum of a whole batch, which 2 process"
    ):
        finetune.check_batches(tiny.recipe("audio.scope=batch"), two)
    finetune.check_batches(tiny.recipe(), two)


@pytest.mark.parametrize("most", [1, 3, 5, 7, 32, 100])
def test_pieces_are_cut_where_a_batch_is_full(data: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_reader, "CHUNK_CYCLES", 3)
    paths = sorted(str(path) for path in data.glob("*.wav"))
    audio = StandardisedAudio(duration_s=0.1)
    whole = list(audio_reader.read_ahead(paths, audio))
    batches = list(audio_reader.fill_batches(whole, most))
    cut = [chunk for batch in batches for chunk in batch]
    sizes = [sum(len(chunk.waveforms) for chunk in batch) for batch in batches]
    assert sizes == [most] * (32 // most) + [32 % most] * (32 % most > 0)
    assert [chunk.path for chunk in cut if chunk.last] == paths
    one, two = (np.concatenate([chunk.waveforms for chunk in some]) for some in (whole, cut))
    assert np.array_equal(one, two)


def test_what_cannot_be_judged_is_scored_with_its_neighbours_and_has_no_class(trained: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", breathing(), 8000)
    soundfile.write(tmp_path / "b.wav", np.concatenate([np.zeros(64_000, np.float32), breathing()]), 8000)
    soundfile.write(tmp_path / "c.wav", np.zeros(96_000), 8000)
    model = rales.load(trained)
    table, off = (model.predict(tmp_path, cycles="windows", quality=quality) for quality in (True, False))
    refused = table["label"].isna()
    assert refused.sum() >= 4
    assert refused[table["recording"] == "c"].all()
    assert table.loc[refused, P].isna().all(axis=None)
    assert "not_checked" not in set(table["quality"])
    assert table.loc[~refused, P].equals(off.loc[~refused, P])  # their neighbours are the same
    alone = model.predict(tmp_path / "c.wav")
    assert set(alone["quality"]) == {"no_signal"}
    if model.recipe.name == "m2d_fusion":
        assert len(model.embed(tmp_path, cycles="windows")) == (~refused).sum()


def test_the_page_gives_what_holds_no_sound_no_class(trained: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "b.wav", np.concatenate([np.zeros(64_000, np.float32), breathing()]), 8000)
    (tmp_path / "b.txt").write_text("".join(f"{4 * i}\t{4 * i + 4}\t0\t0\n" for i in range(5)))
    model = rales.load(trained)
    table = model.predict(tmp_path / "b.wav")
    rows = pd.DataFrame(model_answers.score_spans(model, tmp_path / "b.wav", [(4 * i, 4 * i + 4) for i in range(5)]))
    assert table["label"].isna().tolist() == rows["label"].isna().tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(table[P].to_numpy(float), rows[P].to_numpy(float), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in tiny.SYSTEMS if name != "m2d_fusion"])
def test_nothing_but_the_icbhi_log_mel_takes_the_scope_of_a_batch(name: str) -> None:
    config = make_recipe(name, size="tiny").settings
    if isinstance(make_recipe(name, size="tiny").build_frontend(config), IcbhiLogMel):
        assert make_recipe(name, ["audio.scope=batch"], size="tiny").settings.audio.scope == "batch"
        return
    with pytest.raises(UsageError, match=rf"--set audio.scope: no such field of {name}; "):
        make_recipe(name, ["audio.scope=batch"], size="tiny")


@pytest.mark.parametrize("frontend", ["m2d", "m2d_clip"])
def test_m2d_s_log_mel_has_no_scope(frontend: str) -> None:
    with pytest.raises(
        UsageError, match=f"has its front-end {frontend} here; leave it out, or use --set frontend=icbhi"
    ):
        make_recipe("m2d_fusion", [f"frontend={frontend}", "audio.scope=batch"])
    make_recipe("m2d_fusion", ["frontend=icbhi", "audio.scope=batch"], size="tiny")
