"""What a run knows goes on in the network that starts from it: heads, patches, units, front-end, rate and length."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import rales
from rales.data import read_cycles
from rales.data.corpus import read_corpus
from rales.data.dataset import load_dataset
from rales.files import seals
from rales.files.json_files import to_jsonable
from rales.jobs import layer_search
from rales.models import M2D, ViT, load_m2d
from rales.models.hub import SHIPPED, find_checkpoint
from rales.models.m2d import default_decoder_heads
from rales.models.m2d_checkpoints import default_heads, read_tensors
from rales.recipes import m2d_fusion, m2d_pretrain
from rales.recipes.registry import make_recipe, rebuild_recipe
from rales.settings import find_differences, set_fields, to_dict
from rales.training import finetune, run_folder
from rales.training.recipe import Recipe
from tests import tiny
from tests.command import command
from tests.run_folders import tensors

# Of every kind something that no tensor's shape tells, and that is not the recipe's default
HEARD = (
    "frontend=m2d_clip",
    "audio.rate_hz=8000",
    "audio.duration_s=1.5",
    "audio.fade_samples=300",
    "audio.pad=zero",
    "audio.resampler=sinc",
)
KINDS = {
    "own sound": ("model.heads=3", "model.patch=80,8", "model.unit_frames=100", *HEARD),
    "one pass": ("model.heads=4", "model.unit_frames=105", "model.long_input=resample_positions", "model.raw_last=yes"),
    "batch scope": ("model.heads=6", "model.unit_frames=96", "audio.scope=batch", "audio.mean=0.4", "audio.std=0.3"),
    "M2D's sound": ("frontend=m2d", "audio.mean=-6", "audio.std=3"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, a finished `run` of fine-tuning and a finished `pretraining`."""
    folder = tmp_path_factory.mktemp("transfer")
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    recipe = tiny.recipe(*KINDS["own sound"], "train.epochs=1")
    finetune.run(recipe, cycles, folder / "run", cache_folder=folder / "cache")
    config = tiny.pretraining("pretrain.epochs=1", "encoder.decoder_heads=4", "encoder.heads=3")
    m2d_pretrain.run(config, read_corpus([folder / "data"]), folder / "pretraining")
    return folder


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data").head(6)


def heard(recipe: Recipe, cycles: pd.DataFrame, cache: Path) -> Tensor:
    """What the front-end of a recipe gets of the cycles."""
    return torch.from_numpy(np.array(load_dataset(cycles, recipe, folder=cache).inputs))


@torch.inference_mode()
def features(encoder: Any, frontend: Any, waves: Tensor) -> list[Tensor]:
    """Output of every layer."""
    assert isinstance(encoder, ViT)
    found: list[Tensor] = encoder.eval()(frontend.eval()(waves))
    return found


def check_equal(run: Path | None, weights: str, cycles: pd.DataFrame, cache: Path, *words: str) -> Recipe:
    """A run, and the recipe that starts from it, hear and see the same to the last bit."""
    model = rales.load(run)
    recipe = make_recipe("m2d_fusion", words, weights=weights)
    before, after = heard(model.recipe, cycles, cache), heard(recipe, cycles, cache)
    assert torch.equal(before, after)
    network, frontend = recipe.build_model(recipe.settings), recipe.build_frontend(recipe.settings)
    one = features(model.network.get_submodule("encoder"), model.torch_engine.frontend, before)
    two = features(network.get_submodule("encoder"), frontend, after)
    assert len(one) == len(two) == model.recipe.settings.model.depth
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    return recipe


# Fine-tuned runs


@pytest.mark.parametrize("form", ["run", "run/best.safetensors", "run/last.safetensors"])
def test_features_of_a_run_given_as_weights_are_its_own(place: Path, cycles: pd.DataFrame, form: str) -> None:
    recipe = check_equal(place / form, str(place / form), cycles, place / "cache")
    stored = run_folder.read_json(place / "run" / "config.json")["config"]
    assert recipe.settings.audio == rales.load(place / "run").recipe.settings.audio
    model = recipe.settings.model
    assert (model.heads, list(model.patch), model.unit_frames) == (3, [80, 8], 100)
    assert (stored["model"]["heads"], stored["audio"]["rate_hz"]) == (3, 8000)
    assert default_heads(24) != 3  # else a guess would do
    assert recipe.settings.frontend == "m2d_clip"


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_shapes_do_not_tell_comes_from_the_record(
    place: Path, tmp_path: Path, cycles: pd.DataFrame, kind: str
) -> None:
    tiny.save(tiny.model(*KINDS[kind]), tmp_path / "model.safetensors")
    check_equal(tmp_path / "model.safetensors", str(tmp_path / "model.safetensors"), cycles, place / "cache")
    encoder = load_m2d(tmp_path / "model.safetensors")
    other = load_m2d(tmp_path / "model.safetensors", heads=1, long_input="chunks", raw_last=False)
    own = tiny.recipe(*KINDS[kind]).settings.model
    assert (encoder.heads, encoder.unit_frames) == (own.heads, own.unit_frames)
    assert (encoder.long_input, encoder.raw_last) == (own.long_input, own.raw_last)
    logmel = torch.randn(2, 1, 80, 200, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(encoder(logmel)[-1], other(logmel)[-1])  # arguments win, and heads matter


def test_features_of_the_model_that_ships(place: Path, cycles: pd.DataFrame) -> None:
    recipe = check_equal(None, "rales", cycles, place / "cache")
    assert (recipe.settings.model.heads, recipe.settings.audio.rate_hz, recipe.settings.audio.duration_s) == (
        4,
        8000,
        4.0,
    )
    assert find_checkpoint("rales") == SHIPPED["rales"]


def test_what_the_user_sets_wins_and_what_cannot_be_is_a_sentence(place: Path) -> None:
    words = ["audio.rate_hz=4000", "model.heads=2", "frontend=m2d"]
    recipe = make_recipe("m2d_fusion", words, weights=str(place / "run"))
    audio = recipe.settings.audio
    assert (audio.rate_hz, recipe.settings.frontend, audio.duration_s) == (4000, "m2d", 1.5)
    assert audio.mean == pytest.approx(-7.1)
    assert recipe.build_model(recipe.settings).get_submodule("encoder").heads == 2
    said = " ".join(recipe.notes)
    kept, asked = said.split(" are taken from its run, but as asked for: ")
    assert kept.endswith("sound (rate_hz 8000, duration_s 1.5, resampler sinc, pad zero, fade_samples 300, scope clip)")
    assert asked.startswith(
        "frontend m2d (its run: m2d_clip), mean -7.1 (its run: 0), std 4.2 (its run: 1), floor fixed (its run: clip); "
    )
    assert "--set changes audio.rate_hz 4000, model.heads 2" in said
    for word in ("model.dim=48", "model.depth=3", "model.patch=16,16", "model.unit_frames=200"):
        wrong = make_recipe("m2d_fusion", ["model.layers=1", word], weights=str(place / "run"))
        with pytest.raises(
            ValueError, match=r"width, depth, patch and unit are \(24, 2, \(80, 8\), 100\); --set cannot"
        ):
            wrong.build_model(wrong.settings)
    odd = make_recipe("m2d_fusion", ["model.heads=5"], weights=str(place / "run"))
    with pytest.raises(ValueError, match="a ViT of width 24 with 5 heads"):
        odd.build_model(odd.settings)


def test_the_command_says_what_was_taken_and_the_record_of_the_new_run_is_true(
    place: Path,
    tmp_path: Path,
    cycles: pd.DataFrame,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    words = ["--data", place / "data", "--out", tmp_path / "new", "--epochs", 1, "--set", "train.device=cpu"]
    code, _, err = command(capsys, "train", "m2d_fusion", "--weights", place / "run", *words)
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if "are taken from its run" in line]
    assert "width 24, depth 2, 3 heads, patches of 80 x 8, units of 100 frames" in line
    assert "frontend m2d_clip, rate_hz 8000, duration_s 1.5" in line
    assert line.endswith("its head, layer weights and calibration are not")
    old, new = (run_folder.read_json(out / "config.json")["config"] for out in (place / "run", tmp_path / "new"))
    assert new["audio"] == old["audio"]
    same = ("dim", "depth", "heads", "patch", "unit_frames", "long_input", "raw_last", "layout")
    assert {name: new["model"][name] for name in same} == {name: old["model"][name] for name in same}
    check_equal(tmp_path / "new", str(tmp_path / "new"), cycles, place / "cache")
    assert not torch.equal(
        tensors(place / "run", "best")["head.weight"], tensors(tmp_path / "new", "best")["head.weight"]
    )


def test_a_run_that_is_not_finished_or_no_encoder_is_a_sentence(place: Path, tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    for name in ("config.json", "best.safetensors"):
        (tmp_path / "stopped" / name).write_bytes((place / "run" / name).read_bytes())
    with pytest.raises(ValueError, match="stopped: the run is not finished; the same command goes on with it"):
        make_recipe("m2d_fusion", weights=str(tmp_path / "stopped"))
    plain, record = run_folder.read_checkpoint(place / "run" / "best.safetensors")
    path = tmp_path / "model.safetensors"
    for wrong in ({"heads": 0}, {"heads": "three"}, {"unit_frames": -5}):
        config = {**record["config"], "model": {**record["config"]["model"], **wrong}}
        run_folder.save_tensors(path, plain, {**record, "config": config})
        with pytest.raises(
            ValueError, match=rf"model.safetensors: says {next(iter(wrong))} = .*expected a whole number"
        ):
            load_m2d(path)
    for text in ("[]", "{", '{"config": 3}'):
        save_file(plain, path, metadata={"rales": text, "seal": seals.UNSEALED})
        seals.seal_file(path)
        with pytest.raises(ValueError, match=r"model.safetensors: its record.*damaged"):
            load_m2d(path)


def save_size_tiny(path: Path) -> Recipe:
    """Write the checkpoint of a run of size tiny, untrained; -> its recipe."""
    recipe = make_recipe("m2d_fusion", size="tiny")
    about = {"recipe": recipe.name, "config": to_dict(recipe.settings), "epoch": 1}
    run_folder.save_tensors(path, recipe.build_model(recipe.settings).state_dict(), to_jsonable(about))
    return recipe


@pytest.mark.parametrize("kind", ["own sound", "batch scope", "tiny"])
def test_the_sentence_of_published_tells_the_sound_that_the_run_will_have(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "tiny":
        before = save_size_tiny(path)
    else:
        tiny.save(tiny.model(*KINDS[kind]), path)
        before = tiny.recipe(*KINDS[kind])
    recipe = make_recipe("m2d_fusion", ["fidelity=published"], weights=str(path))
    kept, asked = recipe.notes[0].split(" are taken from its run, but as asked for: ")
    asked = asked.split("; its head")[0]
    heard, theirs = (to_dict(made.settings.audio) for made in (recipe, before))
    for name, value in heard.items():
        words = f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        assert (words in kept, words in asked) == ((True, False) if value == theirs[name] else (False, True)), name


@pytest.mark.parametrize("kind", ["random", "tiny", "own sound", "somebody else's", "pre-trained"])
def test_published_has_the_published_numbers_whatever_the_network(
    place: Path, tmp_path: Path, golden: Path, kind: str
) -> None:
    start = {
        "tiny": tmp_path / "model.safetensors",
        "own sound": place / "run",
        "somebody else's": golden / "checkpoints" / "enconly.safetensors",
        "pre-trained": place / "pretraining",
    }
    if kind == "tiny":
        save_size_tiny(start[kind])
    weights = str(start[kind]) if kind in start else ""
    expected = set_fields(m2d_fusion.Settings(), {**m2d_fusion.PUBLISHED, "fidelity": "published"})
    for size in ("", "base", "small", "tiny"):
        recipe = make_recipe("m2d_fusion", ["fidelity=published"], size=size or None, weights=weights)
        warm = {"train.warmup_epochs": 5} if kind == "random" else {}
        changed = {
            name: value
            for name, value in find_differences(expected, recipe.settings).items()
            if not name.startswith(("model.", "size", "weights"))
        }
        assert changed == warm
        assert recipe.settings.model.head_start == "default"
        assert recipe.settings.size == ("base" if weights else size or "base")
        assert any("changes nothing" in note for note in recipe.notes) == bool(weights and size not in ("", "base"))


@pytest.mark.parametrize("size", ["", "base", "small", "tiny"])
def test_size_changes_nothing_beside_weights(place: Path, tmp_path: Path, golden: Path, size: str) -> None:
    shape = ("model.dim=96", "model.heads=4")  # as wide as tiny, but no more
    tiny.save(tiny.model(*shape), tmp_path / "wide.safetensors")
    save_size_tiny(tmp_path / "tiny.safetensors")
    bare, _ = read_tensors(tmp_path / "tiny.safetensors")
    save_file(bare, tmp_path / "bare.safetensors")  # of that size, but nobody says whose
    for weights, own in (
        (golden / "checkpoints" / "enconly.safetensors", ""),
        (place / "run", ""),
        (place / "pretraining", ""),
        (tmp_path / "wide.safetensors", ""),
        (tmp_path / "bare.safetensors", ""),
        (tmp_path / "tiny.safetensors", "tiny"),
        ("rales", "tiny"),
    ):
        recipe = make_recipe("m2d_fusion", size=size or None, weights=str(weights))
        numbers = make_recipe("m2d_fusion", size="tiny").settings if own else m2d_fusion.Settings()
        assert (recipe.settings.train, recipe.settings.augment) == (numbers.train, numbers.augment), weights
        assert recipe.settings.size == (own or "base")
        assert any("changes nothing" in note for note in recipe.notes) == (size not in ("", own or "base"))
        again = rebuild_recipe(tiny.record_of(recipe), "")
        assert (again.settings.train, again.settings.size) == (numbers.train, own or "base")


def test_another_front_end_leaves_the_scope_of_the_batch_behind(tmp_path: Path) -> None:
    tiny.save(tiny.model(*KINDS["batch scope"]), tmp_path / "model.safetensors")
    weights = str(tmp_path / "model.safetensors")
    assert make_recipe("m2d_fusion", weights=weights).settings.audio.scope == "batch"
    assert make_recipe("m2d_fusion", weights=weights, frontend="m2d").settings.audio.scope == "clip"


def test_a_file_of_somebody_else_has_the_recipe_s_sound(golden: Path) -> None:
    recipe = make_recipe("m2d_fusion", weights=str(golden / "checkpoints" / "enconly.safetensors"))
    assert recipe.settings.audio == make_recipe("m2d_fusion").settings.audio
    assert "it says nothing of what it heard, so that is front-end icbhi at 16000 Hz, 8 s" in recipe.notes[0]


# Pre-training


def test_an_encoder_of_pretraining_hears_what_it_was_pretrained_on(place: Path) -> None:
    stats = run_folder.read_json(place / "pretraining" / "statistics.json")
    for form in ("pretraining", "pretraining/last.safetensors"):
        recipe = make_recipe("m2d_fusion", weights=str(place / form))
        audio = recipe.settings.audio
        assert (recipe.settings.frontend, audio.rate_hz) == ("m2d", 16000)
        assert (audio.mean, audio.std) == pytest.approx((stats["mean"], stats["std"]))
        assert (recipe.settings.model.heads, recipe.settings.model.unit_frames) == (3, 96)
        assert recipe.notes[0].endswith("its predictor and target are not")
    asked = make_recipe("m2d_fusion", weights=str(place / "pretraining"), frontend="icbhi").settings.audio
    assert asked == make_recipe("m2d_fusion").settings.audio


def test_heads_of_the_predictor_are_the_argument_s_then_the_file_s(place: Path, tmp_path: Path) -> None:
    assert default_decoder_heads(16) != 4
    path = place / "pretraining" / "last.safetensors"
    assert M2D.from_checkpoint(path).decoder_heads == 4
    given = M2D.from_checkpoint(path, heads=2, decoder_heads=8)
    assert (given.decoder_heads, given.size.heads) == (8, 2)
    plain, record = run_folder.read_checkpoint(path)
    run_folder.save_tensors(
        tmp_path / "record.safetensors", plain, record
    )  # the record alone, as resume.safetensors has it
    model = M2D.from_checkpoint(tmp_path / "record.safetensors")
    assert (model.decoder_heads, model.size.heads) == (4, 3)
    save_file(plain, tmp_path / "bare.safetensors")
    assert M2D.from_checkpoint(tmp_path / "bare.safetensors").decoder_heads == default_decoder_heads(16)
    for option in ({"decoder_dim": 32}, {"decoder_depth": 2}):
        name = next(iter(option))
        with pytest.raises(
            ValueError, match=rf"last.safetensors: its {name} is \d+, {option[name]} was asked for; leave"
        ):
            M2D.from_checkpoint(path, **option)


def test_pretraining_goes_on_with_the_encoder_of_a_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = m2d_pretrain.settings(weights=str(place / "run"))
    assert (config.encoder.heads, config.encoder.patch, config.encoder.unit_frames) == (3, (80, 8), 100)
    model, _ = m2d_pretrain.build(config)
    logmel = torch.randn(2, 1, 80, 200, generator=torch.Generator().manual_seed(0))
    run = rales.load(place / "run").network.get_submodule("encoder")
    assert all(torch.equal(a, b) for a, b in zip(run(logmel), model.encoder().eval()(logmel), strict=True))
    (said,) = m2d_pretrain.what_is_taken(config)
    assert "3 heads, units of 100 frames) is taken; predictor and target are new" in said
    assert "front-end m2d_clip at 8000 Hz and its head are not" in said
    taught = m2d_pretrain.settings(words=[f"encoder.teacher={place / 'run'}"])
    (of_teacher,) = m2d_pretrain.what_is_taken(taught)
    assert "front-end m2d_clip at 8000 Hz and its head are not: pre-training hears" in of_teacher
    (whole,) = m2d_pretrain.what_is_taken(m2d_pretrain.settings(weights=str(place / "pretraining")))
    assert "predictor and target are taken" in whole
    words = ["--data", place / "data", "--out", tmp_path / "x", "--epochs", 1, "--set", "pretrain.batch_size=4"]
    code, _, err = command(capsys, "pretrain", "--weights", place / "pretraining", *words)
    assert code == 0, err
    assert whole in err.splitlines()


def test_the_layer_search_hears_what_the_run_heard(place: Path, tmp_path: Path) -> None:
    data = read_cycles(place / "data")
    layer_search.search(data, str(place / "run"), tmp_path / "layers", folds=2, sizes=[1], cache_folder=place / "cache")
    settings = run_folder.read_json(tmp_path / "layers" / "layers.json")["settings"]
    stored = run_folder.read_json(place / "run" / "config.json")["config"]
    assert (settings["frontend"], settings["audio"]) == (stored["frontend"], stored["audio"])
    known, _ = read_tensors(place / "run" / "best.safetensors")
    assert settings["weights_digest"] == make_recipe("m2d_fusion", weights=str(place / "run")).settings.weights_digest
    assert known["encoder.cls_token"].shape == (1, 1, 24)
