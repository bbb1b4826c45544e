"""Encoders of timm and Hugging Face by name: what they hear, that their blocks are the layers, whole runs offline."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import rales
from rales.data import read_cycles
from rales.errors import UsageError
from rales.inference.share import clean_record
from rales.jobs.layer_search import build_searched_encoder, features
from rales.models import named_encoder
from rales.models.named_encoder import FillFrames, NormaliseWave, describe_encoder, read_published
from rales.recipes.registry import make_recipe, rebuild_recipe
from rales.settings import replace_field
from rales.training import run_folder
from tests import tiny

NEEDED = pytest.mark.skipif(
    not (find_spec("timm") and find_spec("transformers")), reason="timm and transformers come with the extra `encoders`"
)
RATE_HZ = 16000
WORDS = ("audio.duration_s=0.6", "train.epochs=2", "train.batch_size=8", "train.device=cpu", "train.precision=float32")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WAVES = 0.1 * torch.randn(2, 9600, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and random encoders in the folders that transformers writes: ast, hubert, bert."""
    named_encoder.declare_torchvision_operators()
    import transformers

    place = tmp_path_factory.mktemp("encoders")
    tiny.write_folder(place / "data")
    torch.manual_seed(0)
    ast = transformers.ASTConfig(**SMALL, max_length=64)
    transformers.ASTModel(ast).save_pretrained(place / "ast")
    transformers.ASTFeatureExtractor(max_length=64, mean=-6.0, std=3.0).save_pretrained(place / "ast")
    convolutions = {"conv_dim": (8, 8), "conv_stride": (10, 8), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    hubert = transformers.HubertConfig(**SMALL, **convolutions, **positions)
    transformers.HubertModel(hubert).save_pretrained(place / "hubert")
    transformers.BertConfig(**SMALL).save_pretrained(place / "bert")
    return place


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data")


def made(encoder: str | Path, *words: str) -> Any:
    return make_recipe("encoder_fusion", [f"encoder={encoder}", *WORDS, *words])


def test_what_comes_before_an_encoder_by_hand() -> None:
    wave = torch.tensor([[1.0, 3.0, 1.0, 3.0]])
    assert torch.allclose(NormaliseWave()(wave), torch.tensor([[-1.0, 1.0, -1.0, 1.0]]), atol=1e-6)
    picture = torch.ones(1, 1, 2, 3)
    assert FillFrames(5, -7.0)(picture)[0, 0, 0].tolist() == [1, 1, 1, -7, -7]
    assert FillFrames(2, -7.0)(picture).shape == (1, 1, 2, 2)


@pytest.mark.parametrize("word", ["", "resnet18", "torchvision/resnet18", "timm/"])
def test_a_word_of_no_library_is_a_sentence(word: str) -> None:
    with pytest.raises(UsageError, match=r"expected timm/NAME, for example .*, or hf/NAME_OR_FOLDER"):
        made(word)


def test_a_missing_package_is_the_sentence_of_all_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r'encoder=timm/x needs the package timm, .*: pip install "rales\[encoders\]"'):
        made("timm/x")
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"encoder=hf/x: its weights cannot be read \(no route\); check the name"):
        read_published("hf/x", "its weights", lambda: (_ for _ in ()).throw(OSError("no route\nat all")))
    with pytest.raises(UsageError, match=r"weights=mr7: expected published, or nothing .*; the encoder is named by"):
        make_recipe("encoder_fusion", weights="mr7")


@NEEDED
def test_an_ast_gets_what_its_own_feature_extractor_makes(place: Path) -> None:
    import transformers

    recipe = made(f"hf/{place / 'ast'}", "freeze=none")
    settings = recipe.settings
    assert (settings.features.kind, settings.features.frames, settings.model.layers) == ("fbank", 64, (1, 2))
    extractor = transformers.ASTFeatureExtractor.from_pretrained(place / "ast")
    theirs = extractor([wave.numpy() for wave in WAVES], sampling_rate=RATE_HZ, return_tensors="pt").input_values
    ours = recipe.build_frontend(settings)(WAVES)
    assert torch.allclose(ours[:, 0].transpose(1, 2), theirs, atol=2e-3)

    network = transformers.ASTModel.from_pretrained(place / "ast").eval()
    model = recipe.build_model(settings).eval()
    with torch.no_grad():
        expected = network(theirs, output_hidden_states=True).hidden_states
        layers = model.encoder(ours)
    for layer, state in zip(layers, expected[1:], strict=True):
        assert torch.allclose(layer, state[:, 2:], atol=2e-3)


@NEEDED
def test_an_encoder_of_waveforms_draws_nothing_of_its_own(place: Path) -> None:
    import transformers

    recipe = made(f"hf/{place / 'hubert'}", "freeze=none")
    settings = recipe.settings
    extractor = transformers.Wav2Vec2FeatureExtractor()
    theirs = extractor([wave.numpy() for wave in WAVES], sampling_rate=RATE_HZ, return_tensors="pt").input_values
    ours = recipe.build_frontend(settings)(WAVES)
    assert torch.allclose(ours, theirs, atol=1e-5)
    encoder = recipe.build_model(settings).train().encoder
    assert [layer.shape for layer in encoder(ours)] == 2 * [torch.Size([2, 120, 16])]
    assert (encoder.network.config.apply_spec_augment, encoder.network.config.layerdrop) == (False, 0.0)
    with pytest.raises(UsageError, match=r"this encoder gets waveforms; leave them out"):
        made(f"hf/{place / 'hubert'}", "augment.time_masks=1")


@NEEDED
@pytest.mark.parametrize(("name", "layers"), [("test_vit", 6), ("test_resnet", 5)])
def test_blocks_of_timm_are_layers(place: Path, name: str, layers: int) -> None:
    recipe = made(f"timm/{name}", "weights=", "features.bands=32", "features.frames=64")
    picture = recipe.build_frontend(recipe.settings)(WAVES)
    assert picture.shape == (2, 1, 32, 64)
    assert picture.mean().item() == pytest.approx(0, abs=1e-4)
    model = recipe.build_model(recipe.settings).eval()
    found = model.encoder(picture)
    assert [layer.shape[2] for layer in found] == model.encoder.layer_widths()
    assert len(found) == recipe.settings.model.depth == layers
    assert recipe.settings.architecture == f"{name}.r160_in1k"

    hooked: dict[str, torch.Tensor] = {}
    last = model.encoder.network.blocks[-1] if name == "test_vit" else model.encoder.network.layer4
    last.register_forward_hook(lambda _, __, output: hooked.update(last=output))
    again = model.encoder(picture)[-1]
    expected = hooked["last"] if name == "test_vit" else hooked["last"].flatten(2).transpose(1, 2)
    assert torch.allclose(again, expected[:, -again.shape[1] :], atol=1e-5)


@NEEDED
def test_a_run_of_a_frozen_encoder_comes_back_without_it(place: Path, cycles: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(place / "ast", folder)
    recipe = made(f"hf/{folder}", "seed=1")
    assert recipe.settings.freeze == "encoder"
    assert recipe.build_frontend(recipe.settings)(torch.zeros(1, 3)).shape == (1, 3)  # features, computed once
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=place / "cache")
    shutil.rmtree(folder)

    whole = run_folder.read_json(tmp_path / "run" / "config.json")
    record = whole["config"]
    assert record["encoder"] == f"hf/{folder}"
    assert len(record["weights_digest"]) == 64
    shared = clean_record(whole)
    assert shared["config"]["encoder"] == "hf/encoder"
    assert rebuild_recipe(shared, "hub").build_model(replace_field(recipe.settings, "weights", ""))
    with pytest.raises(UsageError, match="its weights have changed since this run began"):
        recipe.build_model(replace_field(recipe.settings, "weights_digest", "0" * 64))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    columns = [f"p_{word}" for word in rales.labels.CLASSES]
    model = rales.load(tmp_path / "run", device="cpu")
    again = model.predict(sorted(set(cycles.loc[cycles["split"] == "test", "path"])))
    assert np.abs(again[columns].to_numpy() - table[columns].to_numpy()).max() < 1e-5
    assert json.loads((tmp_path / "run" / "layer_weights.json").read_text())["layers"] == [1, 2]


@NEEDED
@pytest.mark.parametrize("lacking", ["masked_spec_embed", "encoder.layers.0.attention.k_proj.bias"])
def test_nothing_published_is_drawn_at_random(place: Path, tmp_path: Path, lacking: str) -> None:
    shutil.copytree(place / "hubert", tmp_path / "part")
    tensors = load_file(tmp_path / "part" / "model.safetensors")
    del tensors[lacking]
    save_file(tensors, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    if lacking == "masked_spec_embed":  # of which no layer knows
        recipe = made(f"hf/{tmp_path / 'part'}", "freeze=none")
        assert not recipe.build_model(recipe.settings).get_parameter(f"encoder.network.{lacking}").any()
    else:
        with pytest.raises(UsageError, match=f"its checkpoint lacks {lacking}, so these weights would be drawn"):
            made(f"hf/{tmp_path / 'part'}")


def test_names_of_encoders_are_shared_whole_and_folders_by_their_last_part() -> None:
    for word, revision, expected in [
        ("timm/test_vit", "", "timm/test_vit"),
        ("hf/MIT/ast", "f826b80d", "hf/MIT/ast"),
        ("hf//home/anna/ast", "", "hf/ast"),
        (r"hf/C:\\anna\\ast", "", "hf/ast"),
        ("", "", ""),
    ]:
        config = {"encoder": word, "revision": revision, "architecture": '{"a": "b/c"}', "weights": "published"}
        assert clean_record({"config": config})["config"] == {**config, "encoder": expected}


@NEEDED
def test_layers_of_several_widths_are_searched(place: Path) -> None:
    recipe, _ = build_searched_encoder("", "", "", 0, f"hf/{place / 'hubert'}")
    assert recipe.build_frontend(recipe.settings)(WAVES).shape == WAVES.shape

    class Narrowing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(()))

        def forward(self, wave: torch.Tensor) -> list[torch.Tensor]:
            return [self.one * wave.unflatten(1, (-1, 3)), self.one * wave.unflatten(1, (-1, 2))]

        def layer_widths(self, layout: str = "flat") -> list[int]:
            return [3, 2]

    pooled = features(Narrowing(), torch.nn.Identity(), WAVES.numpy(), precision="float32")
    assert np.allclose(pooled["max"][:, 0], WAVES.unflatten(1, (-1, 3)).amax(dim=1))
    assert np.allclose(pooled["mean"][:, 1, :2], WAVES.unflatten(1, (-1, 2)).mean(dim=1), atol=1e-6)
    assert not pooled["mean"][:, 1, 2].any()
    with pytest.raises(
        UsageError, match=r"--encoder hf/x: brings its own weights, features and size; leave --weights mr7"
    ):
        build_searched_encoder("mr7", "", "", 0, "hf/x")
    with pytest.raises(UsageError, match="leave --size small out"):
        build_searched_encoder("", "small", "", 0, "hf/x")
    with pytest.raises(UsageError, match="--weights mr7: brings its own size; leave --size small out"):
        build_searched_encoder("mr7", "small", "", 0)


@NEEDED
def test_what_an_encoder_cannot_have_is_a_sentence(place: Path) -> None:
    with pytest.raises(UsageError, match="timm has no such network; the nearest is timm/test_vit"):
        made("timm/test_vitt", "weights=")
    with pytest.raises(UsageError, match="a network of the type bert; known are AST and encoders of waveforms"):
        made(f"hf/{place / 'bert'}")
    with pytest.raises(UsageError, match=r"audio.duration_s=1: 98 frames, and the encoder has positions for 64"):
        made(f"hf/{place / 'ast'}", "audio.duration_s=1")
    with pytest.raises(UsageError, match=r"model.layers=\[1, 3\]: the encoder has 2 layers"):
        made(f"hf/{place / 'ast'}", "model.layers=1,3")
    for word, reason in {
        "model.depth=1": "model.depth: is filled in by what another setting names",
        "features.kind=wave": "features.kind: is filled in",
        "features.frames=32": "the encoder has positions for 64; leave it out",
        "features.bands=64": "is of a picture",
    }.items():
        with pytest.raises(UsageError, match=reason):
            made(f"hf/{place / 'ast'}", word)
    for word in ("timm/hf-hub:timm/test_vit", f"timm/local-dir:{place}"):
        with pytest.raises(UsageError, match="takes names that timm itself has; give a model of the hub, or a folder"):
            made(word)
    with pytest.raises(UsageError, match="revision=v1: is of hf/"):
        describe_encoder("timm/test_vit", "v1")
    again = rebuild_recipe(tiny.record_of(made(f"hf/{place / 'ast'}")), "run")
    assert again.settings.weights == ""
