"""Every system by its name: it builds small, trains one step, and comes back from its record."""

import hashlib
import importlib
import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rales.audio.logmel import MelPower
from rales.data.dataset import Batch, make_preparation, select_extras
from rales.errors import UsageError
from rales.inference.attribution import band_centres_hz
from rales.recipes import m2d_fusion
from rales.recipes.m2d_fusion import VARIANTS
from rales.recipes.registry import find_settings, make_recipe, rebuild_recipe
from rales.registry import RECIPES
from rales.report.comparison import CORRECTED
from rales.settings import find_differences, from_dict, get_values, list_fields, to_dict
from rales.training.recipe import LossContext, Recipe
from tests.tiny import SYSTEMS, record_of

SAMPLES = 32000
SECONDS = ["audio.duration_s=2"]
UNKNOWN = ("wang_splice", "arscnet")  # nobody knows what is published
UNPUBLISHED = ("mn04_fusion",)


def tiny(name: str, *words: str) -> Recipe:
    seconds = [word for word in SECONDS if "audio.duration_s" in list_fields(find_settings(name))]
    return make_recipe(name, [*seconds, *words], size="tiny")


def step(recipe: Recipe) -> tuple[torch.nn.Module, torch.Tensor]:
    """One forward and backward pass over four made-up cycles; -> model with gradients, loss."""
    torch.manual_seed(0)
    inputs, label = 0.1 * torch.randn(8, *make_preparation(recipe).shape), torch.arange(8) % 4
    batch = Batch(inputs, label, label.numpy(), label, dict.fromkeys(recipe.extras, label // 2))
    frontend, model, generator = (
        recipe.build_frontend(recipe.settings),
        recipe.build_model(recipe.settings),
        torch.Generator(),
    )
    if recipe.wave_augment:
        batch = recipe.wave_augment(recipe.settings, batch, generator)
    features = frontend(batch.inputs, **select_extras(frontend, batch.extras))
    features = recipe.augment(recipe.settings, features, generator)
    loss, logits = recipe.loss(
        model.train(), features, LossContext(recipe.settings, label, label, torch.ones(4), batch.extras, generator)
    )
    assert logits.shape == (8, 4)
    loss.backward()
    return model, loss


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_recipe_builds_small_and_takes_a_step(name: str) -> None:
    recipe = tiny(name)
    assert recipe.name == name
    model, loss = step(recipe)
    assert torch.isfinite(loss)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    assert sum(p.numel() for p in model.parameters()) < 2_000_000


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_recipe_comes_back_from_its_record(name: str) -> None:
    recipe = tiny(name, "train.lr=0.005")
    stored = record_of(recipe)
    assert from_dict(type(recipe.settings), stored["config"], name) == recipe.settings
    again = rebuild_recipe(stored, "somewhere")
    assert again.settings == recipe.settings
    assert (
        again.build_model(again.settings).state_dict().keys() == recipe.build_model(recipe.settings).state_dict().keys()
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_recipe_states_its_paper_command_and_scores(name: str) -> None:
    provenance = tiny(name).provenance
    module = importlib.import_module(RECIPES.find(name).__module__)
    said = module.__doc__ or ""
    assert "Paper: " in said
    assert re.search(rf"^Command: rales train {name} ", said, re.MULTILINE)
    assert re.search(r"\d\d\.\d\d", said), "expected scores"
    assert provenance == "ours" or provenance in said.lower()
    assert "Deviations" in said


@pytest.mark.parametrize(
    ("name", "words", "layers"),
    [
        ("m2d_fusion", {}, (1, 2, 3, 4)),
        ("m2d_fusion", {"variant": "vanilla"}, (4,)),
        ("m2d_fusion", {"variant": "pair_5_12"}, (1, 4)),
        ("m2d_ntt", {}, (4,)),
        ("beats_pafa", {}, (4,)),
        ("mn04_fusion", {}, (1, 2, 3, 4)),
        ("mn04_fusion", {"views": "both"}, tuple(range(1, 9))),
    ],
)
def test_another_depth_brings_the_layers_that_are_fused(
    name: str, words: dict[str, str], layers: tuple[int, ...]
) -> None:
    deeper = make_recipe(name, {"model.depth": 4}, size="tiny", **words)
    assert deeper.settings.model.layers == layers
    assert deeper.overrides == {"model.depth": 4}  # what was set
    named = make_recipe(name, {"model.depth": 4, "model.layers": "2,3"}, size="tiny", **words)
    assert named.settings.model.layers == (2, 3)


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_variants_fuse_distinct_layers(size: str) -> None:
    fused = {}
    for variant in VARIANTS:
        model = make_recipe("m2d_fusion", size=size, variant=variant).settings.model
        assert max(model.layers) <= model.depth
        fused[variant] = (model.layers, model.learned)
    if size == "tiny":  # where three layers are too few for 5, 11 and 4, 7, 10 of twelve to stay apart
        assert fused["pair_5_11"] == fused.pop("triple_4_7_10") == ((1, 2), False)
    assert len(set(fused.values())) == len(fused), fused
    assert [variant for variant, (_, learned) in fused.items() if learned] == ["all_learned"]
    if size == "base":
        assert {v: layers for v, (layers, _) in fused.items()} == {
            "vanilla": (12,),
            "pair_5_12": (5, 12),
            "pair_5_11": (5, 11),
            "triple_4_7_10": (4, 7, 10),
            "all_fixed": tuple(range(1, 13)),
            "all_learned": tuple(range(1, 13)),
        }


def test_options_and_fields_by_word() -> None:
    recipe = make_recipe("m2d_fusion", ["variant=pair_5_11", "train.lr=0.5", "seed=4"], size="tiny")
    assert recipe.settings.variant == "pair_5_11"
    assert recipe.settings == from_dict(m2d_fusion.Settings, to_dict(recipe.settings), "here")
    assert (recipe.settings.model.layers, recipe.settings.train.lr, recipe.settings.seed) == ((1, 2), 0.5, 4)
    assert make_recipe("m2d_fusion", ["variant=vanilla"], size="tiny", variant="all_fixed").settings.model.layers == (
        3,
    )


@pytest.mark.parametrize(
    ("name", "words", "options", "sentence"),
    [
        ("m2d_fuse", [], {}, "no recipe 'm2d_fuse'; the nearest is 'm2d_fusion'"),
        ("m2d_fusion", ["train.epoch=3"], {}, "the nearest is train.epochs"),
        ("m2d_fusion", [], {"variant": "pair"}, "--set variant=pair: expected one of vanilla, pair_5_12"),
        ("m2d_fusion", ["size=huge"], {}, "--set size=huge: expected one of base, small, tiny"),
        ("m2d_fusion", ["frontend=mfcc"], {}, "--set frontend=mfcc: expected one of icbhi, m2d"),
        (
            "m2d_fusion",
            ["fidelity=original"],
            {},
            "--set fidelity=original: expected one of corrected, published",
        ),
        ("m2d_fusion", ["fidelity=published", "frontend=m2d"], {}, "leave frontend=m2d out"),
        ("moummad_scl", ["veiws=apart"], {}, "--set veiws: no such field of moummad_scl; the nearest is views"),
        ("respirenet", ["statistic=device"], {}, "the nearest is statistics"),
        ("moummad_scl", ["views=one"], {}, "--set views=one: expected one of together, apart"),
        ("respirenet", ["statistics=own"], {}, "--set statistics=own: expected one of stage1, device"),
        ("m2d_fusion", [], {"depth": "3"}, "--set depth: no such field of m2d_fusion; the nearest is model.depth"),
    ],
)
def test_wrong_words_are_usage_errors(name: str, words: list[str], options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError) as told:
        make_recipe(name, words, **options)
    assert sentence in str(told.value)


PUBLISHED = {
    "audio.resampler": "sinc",
    "audio.scope": "batch",
    "augment.published_gate": True,
    "model.head_start": "default",
    "train.cosine_epochs": 40,
    "train.precision": "float32",
    "train.select": "test_best",
}


def test_published_is_the_public_code_behind_the_paper() -> None:
    plain, published = (make_recipe("m2d_fusion", [f"fidelity={word}"]) for word in ("corrected", "published"))
    assert plain.settings == make_recipe("m2d_fusion").settings
    assert find_differences(plain.settings, published.settings) == {"fidelity": "published", **PUBLISHED}
    assert published.overrides == {}  # so a report takes it for a row of the paper
    small = [make_recipe("m2d_fusion", [f"fidelity={word}"], size="tiny") for word in ("corrected", "published")]
    heads = [recipe.build_model(recipe.settings).get_parameter("head.weight").abs().max() for recipe in small]
    assert heads[0] < 1e-3 < 1e-2 < heads[1]
    own = make_recipe("m2d_fusion", ["fidelity=published", "train.cosine_epochs=0", "train.select=validation"])
    assert (own.settings.train.cosine_epochs, own.settings.train.select) == (0, "validation")
    assert set(own.overrides) == {"train.cosine_epochs", "train.select"}


def test_the_report_names_all_that_published_changes() -> None:
    plain = get_values(make_recipe("m2d_fusion").settings)
    assert {name: plain[name] for name in PUBLISHED} == CORRECTED


def test_the_recipe_of_the_m2d_group() -> None:
    """app/icbhi_sprs: --backbone m2d --bs 64 --lr 5e-5 --freeze_embed --split_iter 4 on the code behind PUBLISHED."""
    made = make_recipe("m2d_ntt", ["model.dim=16", "model.depth=2", "model.heads=2", "model.layers=2"])
    values = get_values(made.settings)
    expected: dict[str, object] = {
        "train.lr": 5e-5,
        "train.batch_size": 64,
        "train.micro_batch": 16,
        "train.drop_last": True,
    }
    expected |= {"audio.mean": 0.3671, "audio.std": 0.2391, "augment.time_warp_frames": 0, "train.epochs": 150}
    expected |= {**PUBLISHED, "model.pool": "mean", "model.layout": "stacked", "model.freeze_patch_embed": True}
    assert {name: values[name] for name in expected} == expected
    assert make_recipe("m2d_ntt").settings.model.layers == (12,)
    network = m2d_fusion.build_model(made.settings)
    assert network.head.in_features == 5 * 16  # five rows of frequency patches side by side; 3840 = 5 * 768 there
    embedding = {name: each for name, each in network.named_parameters() if "patch_embed" in name}
    assert embedding
    assert not any(parameter.requires_grad for parameter in embedding.values())
    assert made.name == "m2d_ntt"


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in UNKNOWN + UNPUBLISHED])
def test_whatever_fidelity_changes_is_named_by_the_recipe(name: str) -> None:
    faithful = "published" if name.startswith("m2d") else "original"
    plain, original = (make_recipe(name, [f"fidelity={word}"]) for word in ("corrected", faithful))
    said = importlib.import_module(RECIPES.find(name).__module__).__doc__ or ""
    changed = {f"{key}=": value for key, value in find_differences(plain.settings, original.settings).items()}
    del changed["fidelity="]
    assert [word for word in changed if word not in said] == []


@pytest.mark.parametrize("document", ["paper-map.md", "ablations.md"])
def test_every_published_value_is_in_the_documents(document: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / document).read_text()
    unnamed = [
        name
        for name, value in PUBLISHED.items()
        if not re.search(rf"{name}=(?:\w+,)*{json.dumps(value).strip(chr(34))}\b", text)
    ]
    assert unnamed == []


# What fidelity=original trains in and resamples with; `None`: the published code does not resample, or is not known
ORIGINAL = {
    **{f"moummad_{kind}": ("sinc", "float32") for kind in ("scl", "mscl", "hybrid", "ce")},
    **{f"ast_{kind}": ("sinc", "auto") for kind in ("ft", "patchmix_cl")},
    **dict.fromkeys(("lungrn_nl", "lungattn"), (None, "float32")),
    "respirenet": ("soxr", "float32"),
    **{f"nguyen_{kind}": ("soxr", "float32") for kind in ("cotuning", "stochnorm")},
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_original_resamples_and_trains_as_published(name: str) -> None:
    plain, original = (make_recipe(name, [f"fidelity={word}"]).settings for word in ("corrected", "original"))
    resampler, precision = ORIGINAL[name]
    assert (original.train.precision, plain.train.precision) == (precision, "auto")
    if resampler:
        assert (original.audio.resampler, plain.audio.resampler) == (resampler, "soxr")


def test_a_record_of_an_unknown_recipe_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"old.safetensors: made by recipe 'gone', which this version does not have"):
        rebuild_recipe({"recipe": "gone", "config": {}}, "old.safetensors")


def test_pretrained_weights_are_read_and_their_sizes_recorded(golden: Path) -> None:
    path = golden / "checkpoints" / "enconly.safetensors"
    recipe = make_recipe("m2d_fusion", weights=str(path))
    numbers = recipe.settings.model
    assert (numbers.dim, numbers.depth, numbers.heads, numbers.unit_frames) == (48, 3, 3, 608)
    assert numbers.layers == (1, 2, 3)
    assert recipe.settings.train.lr == 1e-4
    weights = recipe.build_model(recipe.settings).get_submodule("encoder").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in load_file(path).items())

    stored = record_of(recipe)
    again = rebuild_recipe(stored, "run")  # the file is no longer needed
    assert again.settings.weights == ""
    encoder = again.build_model(again.settings).get_submodule("encoder")
    assert {name: value.shape for name, value in encoder.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }


def test_the_m2d_front_end_takes_the_statistics_of_the_checkpoint(golden: Path) -> None:
    path = golden / "checkpoints" / "enconly.safetensors"
    recipe = make_recipe("m2d_fusion", weights=str(path), frontend="m2d")
    assert (recipe.settings.audio.mean, recipe.settings.audio.std) == pytest.approx((-6.8, 4.1))
    silence = recipe.build_frontend(recipe.settings)(torch.zeros(1, SAMPLES))
    assert silence.mean().item() == pytest.approx((-15.942385 + 6.8) / 4.1, abs=1e-4)
    plain = make_recipe("m2d_fusion", ["frontend=m2d"], size="tiny").settings.audio
    assert (plain.mean, plain.std) == (-7.1, 4.2)


@pytest.mark.parametrize(
    ("kind", "rate_hz"),
    [*((kind, rate_hz) for kind in ("m2d", "m2d_clip") for rate_hz in (4000, 8000, 16000)), ("icbhi", 16000)],
)
def test_frames_are_10_ms_at_any_rate_and_the_bands_end_at_half_of_it(kind: str, rate_hz: int) -> None:
    recipe = tiny("m2d_fusion", f"audio.rate_hz={rate_hz}", f"frontend={kind}")
    frontend = recipe.build_frontend(recipe.settings)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(2 * rate_hz) / rate_hz)[None]
    picture = frontend(tone)
    assert picture.shape == (1, 1, 80, 201)
    filters = next(module.filters for module in frontend.modules() if isinstance(module, MelPower))
    loudest = int(picture[0, 0, :, 100].argmax())
    assert abs(band_centres_hz(filters, rate_hz)[loudest] - 1000) < 60
    assert band_centres_hz(filters, rate_hz)[-1] < min(8000, rate_hz / 2)
    assert (filters.sum(dim=1) > 0).all()


def test_masks_write_the_level_of_silence() -> None:
    words = ["frontend=icbhi", "augment.frequency_masks=0", "augment.time_width=900", "augment.device_gain=0"]
    words += ["augment.device_band_limit=0"]
    recipe = make_recipe("m2d_fusion", words, size="tiny")
    features = torch.full((8, 1, 80, 201), 7.0)
    masked = recipe.augment(recipe.settings, features, torch.Generator().manual_seed(0))
    assert masked.unique().tolist() == pytest.approx([-0.3690 / 0.2550, 7.0])
    again = recipe.augment(recipe.settings, features, torch.Generator().manual_seed(0))
    assert torch.equal(masked, again)


def test_small_sizes_learn_faster_as_they_start_at_random() -> None:
    rates = {size: make_recipe("m2d_fusion", size=size).settings.train.lr for size in ("tiny", "small", "base")}
    assert rates == {"tiny": 1e-3, "small": 3e-4, "base": 1e-4}


def test_another_encoder_under_the_same_name_is_another_system(golden: Path, tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    tensors = load_file(golden / "checkpoints" / "enconly.safetensors")
    save_file(tensors, file)
    first = make_recipe("m2d_fusion", weights=str(file)).settings.weights_digest
    assert len(first) == 64
    assert make_recipe("m2d_fusion", weights=str(file)).settings.weights_digest == first
    save_file({**tensors, "norm.bias": tensors["norm.bias"] + 1}, file)
    os.utime(file, (0, 0))
    assert make_recipe("m2d_fusion", weights=str(file)).settings.weights_digest not in ("", first)


@pytest.mark.parametrize("name", ["respirenet", "wang_splice", "nguyen_cotuning", "moummad_scl"])
def test_the_record_names_the_content_of_any_file_it_starts_from(name: str, tmp_path: Path) -> None:
    file = tmp_path / "backbone.pth"
    file.write_bytes(b"weights of yesterday")
    made = make_recipe(name, weights=str(file))
    assert made.settings.weights_digest == hashlib.sha256(b"weights of yesterday").hexdigest()
    assert "weights_digest" not in made.overrides
    assert make_recipe(name).settings.weights_digest == ""
