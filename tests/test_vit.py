"""The encoder against the public M2D implementation's numbers, and what its shapes promise for any input."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from rales.audio import M2DLogMel
from rales.models import ViT, load_m2d
from rales.models.vit import sincos_positions

FEATURES = 2e-5  # tolerances of the golden README
FROM_WAVE = 5e-5
BASE = 5e-5
WAVES = ("breath_2p7s", "noise_8s", "clicks_0p2s")


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "encoder" / "outputs.safetensors")


@pytest.fixture
def encoder(golden: Path) -> ViT:
    return load_m2d(golden / "checkpoints" / "enconly.safetensors")


def furthest(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def small_vit(**sizes: Any) -> ViT:
    torch.manual_seed(0)
    return ViT(16, 2, 2, mel_bins=32, **{"unit_frames": 48, **sizes}).eval()


# Golden: the miniature


@pytest.mark.parametrize("frames", [208, 608, 801])
@torch.inference_mode()
def test_all_layers_equal_the_reference(encoder: ViT, expected: dict[str, Tensor], frames: int) -> None:
    logmel = expected[f"f{frames}.input"]
    flat = encoder(logmel)
    stacked = encoder(logmel, layout="stacked")
    assert len(flat) == len(stacked) == 3
    assert furthest(torch.stack(flat), expected[f"f{frames}.layers_flat"]) < FEATURES
    assert furthest(stacked[-1], expected[f"f{frames}.last_stacked"]) < FEATURES


@pytest.mark.parametrize("frames", [208, 608])
@torch.inference_mode()
def test_every_step_inside_equals_the_reference(encoder: ViT, expected: dict[str, Tensor], frames: int) -> None:
    patches = encoder.patch_embed(expected[f"f{frames}.input"]).flatten(2).transpose(1, 2)
    assert furthest(patches, expected[f"f{frames}.patch_tokens"]) < FEATURES

    seen: list[Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    encoder(expected[f"f{frames}.input"])
    raw = torch.stack(seen)  # (L, B, 1 + patches, D), the cls token first
    assert furthest(raw, expected[f"f{frames}.block_outputs_raw"]) < FEATURES
    raw[-1] = encoder.norm(raw[-1])
    assert furthest(raw, expected[f"f{frames}.layers_with_cls"]) < FEATURES


@torch.inference_mode()
def test_raw_last_takes_the_last_layer_before_its_norm(golden: Path, expected: dict[str, Tensor]) -> None:
    encoder = load_m2d(golden / "checkpoints" / "enconly.safetensors", raw_last=True)
    outputs = encoder(expected["f608.input"])
    assert furthest(torch.stack(outputs), expected["f608.block_outputs_raw"][:, :, 1:]) < FEATURES


@torch.inference_mode()
def test_one_pass_with_a_stretched_position_table(golden: Path, expected: dict[str, Tensor]) -> None:
    encoder = load_m2d(golden / "checkpoints" / "enconly.safetensors", long_input="resample_positions")
    assert furthest(encoder.positions(50), expected["f801.single_pass.pos_embed"][:, 1:]) < FEATURES
    outputs = encoder(expected["f801.input"])
    assert furthest(outputs[-1], expected["f801.single_pass.last_flat"]) < FEATURES


@pytest.mark.parametrize("name", WAVES)
@torch.inference_mode()
def test_from_the_wave(encoder: ViT, expected: dict[str, Tensor], golden: Path, name: str) -> None:
    wave = torch.from_numpy(np.load(golden / "frontend" / "waveforms.npz")[name])[None]
    mean, std = encoder.norm_stats
    logmel = (M2DLogMel()(wave) - mean) / std
    assert furthest(encoder(logmel)[-1], expected[f"wave.{name}.last_flat"]) < FROM_WAVE
    assert furthest(encoder(logmel, layout="stacked")[-1], expected[f"wave.{name}.last_stacked"]) < FROM_WAVE


def usual_eps(encoder: ViT, _: pytest.MonkeyPatch) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def tanh_gelu(_: ViT, patch: pytest.MonkeyPatch) -> None:
    exact = F.gelu
    patch.setattr(F, "gelu", lambda x: exact(x, approximate="tanh"))


def halves_of_the_table_swapped(encoder: ViT, _: pytest.MonkeyPatch) -> None:
    encoder.pos_embed = encoder.pos_embed.roll(24, dims=-1)


def time_major_tokens(encoder: ViT, patch: pytest.MonkeyPatch) -> None:
    project = encoder.patch_embed.proj
    patch.setattr(encoder.patch_embed, "forward", lambda x: (y := project(x)).transpose(2, 3).reshape(y.shape))


def units_not_apart(encoder: ViT, _: pytest.MonkeyPatch) -> None:
    for number in range(encoder.depth):
        attention = encoder.get_submodule(f"blocks.{number}.attn")
        attention.register_forward_pre_hook(lambda _, inputs: (inputs[0], [sum(inputs[1])]))


@pytest.mark.parametrize(
    "mistake", [usual_eps, tanh_gelu, halves_of_the_table_swapped, time_major_tokens, units_not_apart]
)
@torch.inference_mode()
def test_the_numbers_would_show_a_typical_mistake(
    encoder: ViT,
    expected: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[ViT, pytest.MonkeyPatch], None],
) -> None:
    mistake(encoder, monkeypatch)
    found = torch.stack(encoder(expected["f801.input"]))
    assert float((found - expected["f801.layers_flat"]).abs().max()) > FEATURES


# Golden: ViT-base from its seed


def base_weights(golden: Path) -> dict[str, Tensor]:
    """The weights that base/recipe.json describes, checked against the sums that stand there."""
    recipe = json.loads((golden / "base" / "recipe.json").read_text())
    weights = {}
    for name, shape in recipe["tensors"].items():
        if name == "norm_stats":
            value = np.array([-7.1, 4.2])
        elif name == "pos_embed":
            value = sincos_positions(768, 5, 38).double().numpy()
        else:
            seed = np.random.SeedSequence([recipe["seed"], zlib.crc32(name.encode("ascii"))])
            z = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
            if name.endswith((".bias", "cls_token")):
                value = 0.02 * z
            elif "norm" in name:
                value = 1 + 0.1 * z
            else:
                value = z / (16 if name == "patch_embed.proj.weight" else np.sqrt(shape[1]))
        weights[name] = torch.from_numpy(value.astype(np.float32))
        checks = [float(weights[name].double().sum()), float(weights[name].double().norm())]
        assert checks == pytest.approx(recipe["tensor_checks"][name][:2], rel=1e-6, abs=1e-6), name
        ends = weights[name].flatten()[[0, -1]].tolist()
        assert ends == pytest.approx(recipe["tensor_checks"][name][2:], rel=1e-6), name
    return weights


@torch.inference_mode()
def test_vit_base_equals_the_reference(golden: Path) -> None:
    weights = base_weights(golden)
    with torch.device("meta"):  # no random start: every tensor is given
        encoder = ViT()
    encoder.load_state_dict(weights, assign=True)
    wave = np.load(golden / "frontend" / "waveforms.npz")["noise_8s"]
    logmel = (M2DLogMel()(torch.from_numpy(wave)[None]) + 7.1) / 4.2
    wanted = np.load(golden / "base" / "expected.npz")

    checksum = [float(logmel.double().sum()), float(logmel.double().norm())]
    assert checksum == pytest.approx(wanted["normalized_input_checksum"], rel=1e-5)
    table_rows = [0, 1, 2, 38, 39, 190]
    assert furthest(encoder.pos_embed[0, table_rows], torch.from_numpy(wanted["pos_embed_rows"])) < 1e-6

    flat = torch.cat(encoder(logmel))  # (12, 255, 768)
    assert furthest(flat[:, wanted["tokens"], :16], torch.from_numpy(wanted["layer_slices"])) < BASE
    assert furthest(flat.mean(dim=1), torch.from_numpy(wanted["layer_token_mean"])) < BASE
    assert furthest(flat.amax(dim=1), torch.from_numpy(wanted["layer_token_max"])) < BASE
    assert flat.double().sum(dim=(1, 2)).tolist() == pytest.approx(wanted["layer_sum"], abs=0.05)
    assert flat.double().norm(dim=(1, 2)).tolist() == pytest.approx(wanted["layer_l2"], rel=1e-6)
    stacked = encoder(logmel, layout="stacked")[-1][0]
    assert stacked.shape == (51, 3840)
    slices = stacked[[0, 1, 37, 38, 50], ::96]
    assert furthest(slices, torch.from_numpy(wanted["last_stacked_slice"])) < BASE


# Shapes and promises for any input


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 200), unit_frames=st.sampled_from([16, 40, 48, 57, 64]), batch=st.integers(1, 2))
@torch.inference_mode()
def test_every_length_is_cut_as_the_public_code_cuts_it(frames: int, unit_frames: int, batch: int) -> None:
    """Its rule: pad by (16 - ((N mod unit) mod 16)) mod 16, ceil(N / unit) units, whole patches of each."""
    vit = small_vit(unit_frames=unit_frames)
    pad = (16 - ((frames % unit_frames) % 16)) % 16
    units = -(-frames // unit_frames)
    padded = min(frames + pad, units * unit_frames)
    columns = sum(min(unit_frames, padded - start) // 16 for start in range(0, units * unit_frames, unit_frames))
    logmel = torch.randn(batch, 1, 32, frames)
    assert [tuple(z.shape) for z in vit(logmel)] == [(batch, 2 * columns, 16)] * 2
    assert [tuple(z.shape) for z in vit(logmel, layout="stacked")] == [(batch, columns, 32)] * 2


@torch.inference_mode()
def test_units_do_not_see_each_other() -> None:
    vit, logmel = small_vit(unit_frames=48), torch.randn(2, 1, 32, 100)
    changed = logmel.clone()
    changed[..., 48:] += 1
    for before, after in zip(vit(logmel), vit(changed), strict=True):
        assert torch.equal(before[:, :6], after[:, :6])
        assert not torch.allclose(before[:, 6:], after[:, 6:])
    alone = vit(logmel[..., :48].contiguous())
    assert furthest(vit(logmel)[-1][:, :6], alone[-1]) < 1e-6


def test_units_in_one_pass_learn_as_in_passes_of_their_own() -> None:
    vit, logmel = small_vit(unit_frames=48), torch.randn(2, 1, 32, 100)
    together = vit(logmel)
    apart = [torch.cat(units, dim=1) for units in zip(*(vit(unit) for unit in vit.units(logmel)), strict=True)]
    shares = torch.randn(len(apart), *apart[0].shape)
    for outputs in (together, apart):
        (torch.stack(outputs) * shares).sum().backward()
        gradients = [parameter.grad for parameter in vit.parameters()]
        vit.zero_grad()
        if outputs is together:
            found = gradients
    for one, two in zip(found, gradients, strict=True):
        assert one is not None
        assert two is not None
        assert furthest(one, two) < 1e-5 * max(1.0, float(two.abs().max()))


@torch.inference_mode()
def test_an_answer_does_not_depend_on_its_batch_neighbours() -> None:
    vit, logmel = small_vit(), torch.randn(5, 1, 32, 100)
    together = torch.stack(vit(logmel))
    alone = torch.cat([torch.stack(vit(clip[None])) for clip in logmel], dim=1)
    assert furthest(together, alone) < 1e-5


@torch.inference_mode()
def test_stacked_is_flat_with_the_patches_of_a_column_side_by_side() -> None:
    vit, logmel = small_vit(unit_frames=48), torch.randn(1, 1, 32, 48 + 32)
    flat, stacked = vit(logmel)[0][0], vit(logmel, layout="stacked")[0][0]
    # two rows of 3 columns, then two rows of 2 columns
    by_column = [torch.cat([flat[c], flat[3 + c]]) for c in range(3)]
    by_column += [torch.cat([flat[6 + c], flat[8 + c]]) for c in range(2)]
    assert torch.equal(stacked, torch.stack(by_column))


def test_eight_seconds_at_base_size_are_255_patches_or_51_columns() -> None:
    with torch.device("meta"):
        vit, logmel = ViT(), torch.empty(2, 1, 80, 801)
        assert [tuple(z.shape) for z in vit(logmel)] == [(2, 255, 768)] * 12
        assert tuple(vit(logmel, layout="stacked")[-1].shape) == (2, 51, 3840)


def test_position_table_by_hand() -> None:
    table = sincos_positions(8, 2, 3)[0]
    assert table.shape == (7, 8)
    assert torch.equal(table[0], torch.zeros(8))
    # patch 5 of the grid: row 1, column 1; frequencies 1 and 1/100; first half time, second half frequency
    row = column = [np.sin(1.0), np.sin(0.01), np.cos(1.0), np.cos(0.01)]
    assert table[1 + 3 + 1].tolist() == pytest.approx([*column, *row], abs=1e-7)
    column_2 = [np.sin(2.0), np.sin(0.02), np.cos(2.0), np.cos(0.02)]
    assert table[1 + 2].tolist() == pytest.approx([*column_2, 0, 0, 1, 1], abs=1e-7)


def test_random_start_is_seeded_and_of_the_expected_size() -> None:
    one, two = small_vit(), small_vit()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    weight = one.get_parameter("blocks.0.mlp.fc1.weight")
    bound = (6 / (16 + 64)) ** 0.5
    assert 0.8 * bound < weight.abs().max() <= bound
    assert not one.get_parameter("blocks.0.mlp.fc1.bias").any()
    assert "pos_embed" not in dict(one.named_parameters())
    assert {"pos_embed", "norm_stats"} <= set(one.state_dict())


@pytest.mark.parametrize(("dim", "heads"), [(30, 3), (48, 5)])
def test_sizes_that_cannot_be_are_a_sentence(dim: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"a ViT of width {dim} with {heads} heads; .* must be a multiple of"):
        ViT(dim, 1, heads)


@pytest.mark.parametrize("sizes", [{"patch": (90, 16)}, {"unit_frames": 15}])
def test_patches_that_do_not_fit_are_a_sentence(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no patch of \d+ x 16 fits into 80 mel bands x \d+ frames"):
        ViT(16, 1, 2, **sizes)
