"""Layers of a MobileNet through the words of the command: from random and from weights, one view and two, frozen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import rales
from rales.data import read_cycles
from rales.data.dataset import make_preparation
from rales.errors import UsageError
from rales.export.build import export_model
from rales.export.torch_export import wave_to_probabilities
from rales.inference import attribution
from rales.inference.evaluate import evaluate_run
from rales.labels import CLASSES
from rales.models.mobilenet import MobileNet
from rales.recipes import mn04_fusion
from rales.recipes.registry import make_recipe, rebuild_recipe
from rales.report import write_report
from rales.training import finetune, pooled_features, run_folder
from rales.training.optim import freeze_parameters
from rales.training.recipe import Recipe
from tests import tiny
from tests.conftest import SHARED
from tests.run_folders import furthest

WORDS = ("audio.duration_s=0.8", "train.epochs=2", "train.device=cpu", "train.precision=float32", "train.batch_size=8")
P = [f"p_{word}" for word in CLASSES]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `cache`, and `weights.safetensors` of two blocks."""
    folder = tmp_path_factory.mktemp("mn04")
    tiny.write_folder(folder / "data")
    torch.manual_seed(0)
    save_file(MobileNet(0.4, 2).state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data")


def made(*words: str, weights: Path | None = None) -> Recipe:
    start = {"weights": str(weights)} if weights else {"size": "tiny"}
    return make_recipe("mn04_fusion", [*WORDS, *words], **start)


@pytest.fixture(scope="module")
def frozen(place: Path, cycles: pd.DataFrame) -> Path:
    """The run folder of a head on a frozen encoder that hears both speeds."""
    recipe = made("views=both", "train.lr=0.01", weights=place / "weights.safetensors")
    recipe.run(recipe, cycles, place / "frozen", cache_folder=place / "cache")
    return place / "frozen"


def check_run(run: Path, cycles: pd.DataFrame) -> rales.inference.predictor.Predictor:
    """Its probabilities come again from recordings. -> the loaded model."""
    table, test = pd.read_csv(run / "predictions.csv"), cycles[cycles["split"] == "test"]
    model = rales.load(run, device="cpu")
    again = model.predict(sorted(set(test["path"])))
    assert np.abs(again[P].to_numpy() - table[P].to_numpy()).max() < 1e-5
    assert table[P].to_numpy().std() > 1e-5
    return model


def test_a_random_start_trains_and_answers_from_its_checkpoint(
    place: Path, cycles: pd.DataFrame, tmp_path: Path
) -> None:
    recipe = made("train.lr=0.01", "band=4k")
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    model = check_run(tmp_path / "run", cycles)
    assert model.embed(cycles["path"].iloc[0]).shape == (4, 8 + 16 + 96)
    assert model.embed(cycles["path"].iloc[0], layer=2).shape == (4, 16)
    weights = json.loads((tmp_path / "run" / "layer_weights.json").read_text())
    assert weights["layers"] == [1, 2, 3]
    assert np.ptp(weights["raw"]) > 0

    wave = 0.1 * torch.randn(2, 25600)
    with torch.no_grad():  # what an artefact holds
        assert np.abs(wave_to_probabilities(model)(wave).numpy() - model.probabilities(wave.numpy())).max() < 1e-5
    why = attribution.attribute_patches(model, np.zeros(25600, np.float32) + 0.1, "crackle", steps=2)
    assert why.hz.max() < 4000


@pytest.mark.slow
def test_an_artefact_and_a_figure_of_layer_weights(frozen: Path, tmp_path: Path) -> None:
    assert export_model(frozen, tmp_path / "x.onnx")["format"] == "onnx"
    write_report([frozen], tmp_path / "report")
    assert (tmp_path / "report" / "figure3.png").is_file()


def test_a_head_on_a_frozen_encoder(frozen: Path, place: Path, cycles: pd.DataFrame, monkeypatch: Any) -> None:
    model = check_run(frozen, cycles)
    tensors, _ = run_folder.read_checkpoint(frozen / "best.safetensors")
    kept = load_file(place / "weights.safetensors")
    assert all(torch.equal(tensors[f"encoder.network.{name}"], value) for name, value in kept.items())
    assert tensors["head.weight"].abs().max() > 1e-3
    assert json.loads((frozen / "layer_weights.json").read_text())["layers"] == [1, 2, 3, 4, 5, 6]
    assert model.embed(cycles["path"].iloc[0]).shape == (4, 2 * (8 + 16 + 96))
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    again = evaluate_run(frozen, cycles, device="cpu")
    assert again["confusion"] == json.loads((frozen / "evaluation.json").read_text())["confusion"]
    with pytest.raises(ValueError, match="does not look at a log-mel picture"):
        attribution.attribute_patches(model, np.zeros(25600, np.float32), "crackle")


def test_the_encoder_is_not_asked_again(
    frozen: Path, place: Path, cycles: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another head, seed and number of epochs find its features in the cache."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the encoder was asked")

    monkeypatch.setattr(pooled_features, "pool_cycle", refuse)
    words = ("views=both", "seed=5", "train.epochs=1", "model.learned=false", "model.head_start=default")
    recipe = made(*words, weights=place / "weights.safetensors")
    monkeypatch.setattr(refuse, "__name__", "pool_cycle")
    monkeypatch.setattr(refuse, "__module__", pooled_features.__name__)
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    assert (tmp_path / "run" / "done").exists()


def test_features_computed_once_train_as_those_of_every_epoch(
    frozen: Path, place: Path, cycles: pd.DataFrame, tmp_path: Path
) -> None:
    recipe = made("views=both", "train.lr=0.01", weights=place / "weights.safetensors")
    finetune.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")  # from waveforms
    lines = [run_folder.read_metrics(run) for run in (frozen, tmp_path / "run")]
    for one, other in zip(*lines, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_stopped_run_ends_as_an_undisturbed_one(
    frozen: Path, place: Path, cycles: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = finetune.save_epoch

    def stop(*given: Any) -> None:
        save(*given)
        raise KeyboardInterrupt

    recipe = made("views=both", "train.lr=0.01", weights=place / "weights.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "save_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    assert furthest(tmp_path / "run", frozen) == 0


def test_what_weights_bring_and_when_features_are_computed_once(place: Path) -> None:
    weights = place / "weights.safetensors"
    plain = made(weights=weights).settings
    assert (plain.model.depth, plain.model.layers, plain.freeze) == (3, (1, 2, 3), "encoder")
    assert (plain.augment.frequency_masks, plain.augment.time_masks) == (0, 0)
    assert len(plain.weights_digest) == 64
    assert pooled_features.can_pool_once(plain)
    for words in (["freeze=none"], ["freeze=2"], ["augment.time_masks=1"]):
        recipe = made(*words, weights=weights)
        assert not pooled_features.can_pool_once(recipe.settings)
        assert recipe.whole_batches == (recipe.settings.freeze != "encoder")
    random = made("freeze=encoder", "augment.time_masks=0", "augment.frequency_masks=0").settings
    assert not pooled_features.can_pool_once(random)  # its encoder is that of its seed


def test_the_features_of_a_cycle_are_those_of_its_own_settings(place: Path) -> None:
    """Whatever changes them is in the key of their cache; what does not is not."""
    weights = place / "weights.safetensors"
    keys = {}
    for word in (
        "seed=0",
        "views=fast",
        "band=4k",
        "model.layers=1,3",
        "model.layout=stacked",
        "model.norm_layers=true",
    ):
        keys[word] = json.dumps(dict(mn04_fusion.prepare(made(word, weights=weights).settings).settings))
    keys["audio.pad=zero"] = json.dumps(
        dict(mn04_fusion.prepare(made("audio.pad=zero", weights=weights).settings).settings)
    )
    assert len(set(keys.values())) == len(keys)
    same = made("seed=3", "train.lr=1", "model.learned=false", weights=weights).settings
    assert json.dumps(dict(mn04_fusion.prepare(same).settings)) == keys["seed=0"]
    assert mn04_fusion.prepare(same).shape == (3, 8 + 16 + 96)


def test_a_run_comes_back_without_the_file_that_it_started_from(frozen: Path, place: Path) -> None:
    recipe = made("views=both", weights=place / "weights.safetensors")
    again = rebuild_recipe(tiny.record_of(recipe), "run")
    assert again.settings.weights == ""
    tensors, _ = run_folder.read_checkpoint(frozen / "best.safetensors")
    again.build_model(again.settings).load_state_dict(tensors)
    started = make_recipe("mn04_fusion", weights=str(frozen)).settings  # another run on its encoder
    assert (started.model.depth, started.views) == (3, "plain")
    assert make_preparation(again).shape == (25600,)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.layers=1,4"], "model.layers=[1, 4]: the encoder has 3 layers"),
        (["views=fast", "band=4k"], "band=4k: is of the sound as it is"),
        (["model.depth=17"], "--set model.depth=17: expected a number up to 16"),
        (["model.width=5"], "--set model.width=5: expected a number up to 4.0"),
        (["views=double"], "--set views=double: expected one of plain, fast, both"),
    ],
)
def test_wrong_words_are_sentences(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as told:
        made(*words)
    assert sentence in str(told.value)


def test_sizes_of_a_file_cannot_be_changed(place: Path) -> None:
    recipe = made("model.width=1.0", weights=place / "weights.safetensors")
    with pytest.raises(UsageError, match=r"its width and depth are \(0.\d, 3\); --set cannot change them"):
        recipe.build_model(recipe.settings)


def test_the_public_weights_by_file() -> None:
    path = SHARED / "weights" / "mn04_as.safetensors"
    if not path.is_file():
        pytest.skip(f"the public weights are not here: no {path}")
    recipe = make_recipe("mn04_fusion", weights=str(path))
    model = recipe.build_model(recipe.settings)
    freeze_parameters(model, recipe.settings.freeze)
    assert (recipe.settings.model.width, recipe.settings.model.depth) == (0.4, 16)
    assert model.get_parameter("head.weight").shape == (4, 888)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "head.weight",
        "head.bias",
        "fusion.weight",
    }
