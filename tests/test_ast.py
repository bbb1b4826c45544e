"""AST: sizes, token order, positions for other lengths, Patch-Mix by hand."""

import pytest
import torch

from rales.models.ast import (
    AST,
    ASTClassifier,
    PatchMix,
    count_patch_columns,
    draw_patch_mix,
    fit_positions,
    mix_patches,
)
from rales.models.heads import build_patch_mix_projector
from rales.models.named_encoder import declare_torchvision_operators


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("frames", "tokens", "parameters"), [(798, 948, 85_984_512), (1024, 1212, 86_187_264)])
def test_sizes(frames: int, tokens: int, parameters: int) -> None:
    with torch.device("meta"):
        model = AST(frames=frames)
        head = ASTClassifier(model).head
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert 12 * count_patch_columns(frames) == tokens
    assert sum(p.numel() for p in head.parameters()) == 4612


@torch.inference_mode()
def test_the_feature_is_the_mean_of_the_two_special_tokens() -> None:
    model = AST(64, 2, 2).eval()
    fbank = torch.randn(2, 1, 128, 798)
    tokens = model.tokens(fbank)
    assert tokens.shape == (2, 950, 64)
    assert torch.allclose(model(fbank), model.norm(tokens)[:, :2].mean(dim=1), atol=1e-6)


@torch.inference_mode()
def test_patches_are_frequency_major() -> None:
    """A change of one patch's corner reaches that token only, before any attention."""
    model = AST(64, 0, 2).eval()  # no blocks: the tokens are patches + positions
    fbank = torch.zeros(1, 1, 128, 798)
    changed = fbank.clone()
    row, column = 11, 78  # the last patch: bands 110 to 125, frames 780 to 795
    changed[0, 0, 125, 795] = 1
    difference = (model.tokens(changed) - model.tokens(fbank)).abs().sum(dim=2)[0, 2:]
    assert torch.nonzero(difference).flatten().tolist() == [row * 79 + column]


def test_other_lengths_are_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"1024 frames of 128 bands make 1212 patches; this network is for.*12 x 79"):
        AST(64, 1, 2)(torch.zeros(1, 1, 128, 1024))


# Positions


def table(columns: int) -> torch.Tensor:
    """Each position holds (row, column)."""
    grid = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(float(columns)), indexing="ij"), dim=2)
    return torch.cat([torch.full((1, 2, 2), -1.0), grid.flatten(0, 1)[None]], dim=1)


def test_aligned_positions_are_the_middle_columns() -> None:
    fitted = fit_positions(table(101), 79)
    assert fitted.shape == (1, 950, 2)
    assert (fitted[:, :2] == -1).all()
    grid = fitted[0, 2:].unflatten(0, (12, 79))
    assert (grid[..., 0] == torch.arange(12.0)[:, None]).all()
    assert (grid[..., 1] == torch.arange(11.0, 90.0)).all()
    assert torch.equal(fit_positions(table(101), 101), table(101))


def test_positions_are_stretched_to_longer_input() -> None:
    grid = fit_positions(table(101), 202)[0, 2:].unflatten(0, (12, 202))
    assert (grid[..., 0] == torch.arange(12.0)[:, None]).all()
    assert grid[0, :, 1].diff().min() >= 0
    assert (grid[0, 0, 1], grid[0, -1, 1]) == (0, 100)


def test_original_positions_are_exchanged() -> None:
    """79 x 12 in place of 12 x 79: token 1 lies in the next column of a grid with 12 columns, not 79."""
    fitted = fit_positions(table(101), 79, "original")
    grid = fitted[0, 2:].unflatten(0, (79, 12))
    assert torch.allclose(grid[..., 1], torch.arange(44.0, 56.0))  # the middle 12 of 101
    assert grid[:, 0, 0].diff().min() >= 0  # 12 rows stretched to 79


# Patch-Mix


@pytest.mark.parametrize("whole_columns", [False, True])
def test_the_share_after_rounding(whole_columns: bool) -> None:
    for seed in range(20):
        mix = draw_patch_mix(8, 79, whole_columns=whole_columns, generator=seeded(seed))
        assert mix.kept == 1 - len(mix.positions) / 948
        assert len(mix.positions.unique()) == len(mix.positions)
        assert sorted(mix.order.tolist()) == list(range(8))
        share = float(torch.rand((), generator=seeded(seed)))
        wanted = 12 * int(79 * (1 - share)) if whole_columns else int(948 * (1 - share))
        assert len(mix.positions) == wanted
        if whole_columns:
            columns = (mix.positions % 79).unique()
            assert 12 * len(columns) == len(mix.positions)


def test_the_same_places_of_every_clip_are_replaced() -> None:
    patches = torch.arange(3.0)[:, None, None] + torch.arange(5.0)[None, :, None] / 10  # clip.place
    mix = PatchMix(torch.tensor([1, 2, 0]), torch.tensor([1, 4]), 0.6)
    result = mix_patches(patches, mix)[..., 0]
    wanted = torch.tensor([[0, 1.1, 0.2, 0.3, 1.4], [1, 2.1, 1.2, 1.3, 2.4], [2, 0.1, 2.2, 2.3, 0.4]])
    assert torch.allclose(result, wanted)
    assert patches[0, 1, 0] == pytest.approx(0.1)  # the input is left alone


def test_mixing_all_patches_gives_the_other_clip_and_none_the_own() -> None:
    model = ASTClassifier(AST(64, 2, 2), projector=build_patch_mix_projector(64)).eval()
    fbank = torch.randn(2, 1, 128, 798)
    order = torch.tensor([1, 0])
    with torch.inference_mode():
        _, clean, whole = model.clean_and_mixed(fbank, PatchMix(order, torch.arange(948), 0.0))
        assert torch.allclose(whole, model.projector(clean[order]), atol=1e-5)  # type: ignore[misc]
        _, clean, none = model.clean_and_mixed(fbank, PatchMix(order, torch.arange(0), 1.0))
        assert torch.allclose(none, model.projector(clean), atol=1e-5)  # type: ignore[misc]


def test_without_a_projector_it_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="no projector"):
        ASTClassifier(AST(64, 1, 2)).clean_and_mixed(
            torch.zeros(1, 1, 128, 798), draw_patch_mix(1, 79, generator=seeded())
        )


def test_equal_weights_give_the_answers_of_transformers() -> None:
    declare_torchvision_operators()
    transformers = pytest.importorskip("transformers", reason="the independent AST comes with the extra `bench`")
    from rales.models.pretrained_backbones import hugging_face_name, join_qkv, match_state_dict

    theirs = transformers.ASTModel(
        transformers.ASTConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, max_length=798
        )
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = AST(64, 2, 2).eval()
    tensors = join_qkv({hugging_face_name(name): value for name, value in theirs.state_dict().items()})
    ours.load_state_dict(match_state_dict("transformers", tensors, ours, "AST"))
    fbank = torch.randn(2, 1, 128, 798)
    with torch.inference_mode():
        wanted = theirs(fbank[:, 0].transpose(1, 2)).pooler_output
        assert (ours(fbank) - wanted).abs().max() < 1e-5
