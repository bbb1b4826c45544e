"""SpecAugment: how wide, where, how often; time warping keeps order and ends."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rales.audio import IcbhiLogMel, spec_augment, time_warp
from rales.audio.feature_augment import append_class_mixtures, append_mixup, shift_frames, simulate_other_device


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked(batch: int = 500, bands: int = 80, frames: int = 120, seed: int = 0, **options: Any) -> Tensor:
    """Where ones were replaced by the fill of 0: (batch, bands, frames) bool."""
    ones = torch.ones(batch, 1, bands, frames)
    return spec_augment(ones, generator=seeded(seed), **options)[:, 0] == 0


# spec_augment


def test_widths_and_starts_are_those_of_the_recipe() -> None:
    draws = 40000
    stripe = masked(draws, bands=80, frames=1, frequency_masks=1, frequency_width=20, time_masks=0)[:, :, 0]
    width = stripe.sum(dim=1)
    # floor(U * 20): the whole numbers 0..19, equally often
    counts = torch.bincount(width, minlength=21)
    assert counts[20] == 0
    assert (counts[:20] / draws - 1 / 20).abs().max() < 0.006
    # one stripe without a gap
    start, end = stripe.int().argmax(dim=1), 80 - stripe.int().flip(1).argmax(dim=1)
    assert ((end - start) == width)[width > 0].all()
    # floor(U * (80 - width)): uniform over 0..79 - width
    assert start.min() == 0
    assert (start + width <= 79)[width > 0].all()
    relative = (start / (79 - width))[width > 0]
    assert abs(relative.mean().item() - 0.5) < 0.01
    for share in (0.25, 0.75):
        assert abs((relative <= share).float().mean().item() - share) < 0.02


def test_time_masks_are_stretches_of_frames() -> None:
    stripe = masked(20000, bands=1, frames=801, frequency_masks=0, time_masks=1, time_width=40)[:, 0]
    width = stripe.sum(dim=1)
    assert width.max() == 39
    assert abs(width.float().mean().item() - 19.5) < 0.3


def test_defaults_are_two_masks_each_way() -> None:
    mask = masked(2000, frames=801)
    bands, frames = mask.all(dim=2), mask.all(dim=1)
    assert torch.equal(mask, bands[:, :, None] | frames[:, None, :])
    assert 20 <= bands.sum(dim=1).max() <= 38
    assert 40 <= frames.sum(dim=1).max() <= 78
    assert abs(bands.float().sum(dim=1).mean().item() - 2 * 9.5) < 1.5  # a little less: masks can overlap
    assert not torch.equal(mask[0], mask[1])


@settings(deadline=None, max_examples=60)
@given(
    bands=st.integers(1, 30),
    frames=st.integers(1, 50),
    masks=st.integers(0, 4),
    width=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_masks_stay_inside_at_any_size(bands: int, frames: int, masks: int, width: int, seed: int) -> None:
    none = {"frequency_masks": 0, "time_masks": 0}
    in_bands = masked(16, bands, frames, seed, **none | {"frequency_masks": masks, "frequency_width": width})
    in_time = masked(16, bands, frames, seed, **none | {"time_masks": masks, "time_width": width})
    assert in_bands.shape == in_time.shape == (16, bands, frames)
    # floor(U * width) is below the width
    assert in_bands[:, :, 0].sum(dim=1).max().item() <= min(bands, masks * max(width - 1, 0))
    assert in_time[:, 0].sum(dim=1).max().item() <= min(frames, masks * max(width - 1, 0))


def test_only_the_masked_places_change_and_they_hold_the_fill() -> None:
    logmel = torch.randn(8, 1, 80, 101, generator=seeded(9))
    before = logmel.clone()
    frontend = IcbhiLogMel()
    augmented = spec_augment(logmel, fill=frontend.fill, generator=seeded())
    mask = masked(8, 80, 101)[:, None]
    assert mask.any()
    assert torch.equal(logmel, before)
    assert torch.equal(augmented[~mask], logmel[~mask])
    assert (augmented[mask] == torch.tensor(frontend.fill)).all()
    per_sample = logmel.mean(dim=(1, 2, 3))
    augmented = spec_augment(logmel, fill=per_sample, generator=seeded())
    for index in range(8):
        assert (augmented[index][mask[index]] == per_sample[index]).all()
    nothing = spec_augment(logmel, probability=0.0, generator=seeded())
    assert torch.equal(nothing, logmel)
    assert nothing.data_ptr() != logmel.data_ptr()


def test_dtype_and_shape_are_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        logmel = torch.ones(3, 1, 80, 50, dtype=dtype)
        augmented = spec_augment(logmel, fill=-1.5, generator=seeded())
        assert (augmented.dtype, augmented.shape) == (dtype, logmel.shape)
    strided = torch.randn(3, 1, 50, 80, generator=seeded()).transpose(2, 3)
    expected = spec_augment(strided.contiguous(), generator=seeded(4))
    assert torch.equal(spec_augment(strided, generator=seeded(4)), expected)


def test_probability_is_per_sample() -> None:
    mask = masked(20000, 8, 8, probability=0.3, frequency_width=8).any(dim=(1, 2)).float().mean().item()
    always = masked(20000, 8, 8, frequency_width=8).any(dim=(1, 2)).float().mean().item()
    assert mask / always == pytest.approx(0.3, abs=0.015)


def test_published_gate_is_per_batch() -> None:
    generator = seeded()
    ones = torch.ones(64, 1, 20, 20)
    touched = torch.stack(
        [(spec_augment(ones, published_gate=True, generator=generator) == 0).any(dim=3).any(dim=2) for _ in range(3000)]
    ).squeeze(2)  # (draws, B)
    share = touched.float().mean(dim=1)
    assert ((share == 0) | (share > 0.8)).all()  # all or nothing
    assert (share > 0).float().mean().item() == pytest.approx(0.8413, abs=0.02)


def test_generator_decides() -> None:
    logmel = torch.randn(4, 1, 80, 200, generator=seeded(1))
    for augment in (spec_augment, time_warp):
        first, second, other = augment(logmel, generator=seeded(3)), augment(logmel, generator=seeded(3)), None
        assert torch.equal(first, second)
        generator = seeded(3)
        augment(logmel, generator=generator)
        other = augment(logmel, generator=generator)
        assert not torch.equal(first, other)
        torch.manual_seed(0)
        state = torch.get_rng_state()
        augment(logmel, generator=generator)
        assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


# time_warp


def ramp(batch: int, frames: int, bands: int = 3) -> Tensor:
    """(batch, 1, bands, frames) whose value is the frame's number: warped, it tells where each frame came from."""
    return torch.arange(frames, dtype=torch.float32).expand(batch, 1, bands, frames)


@settings(deadline=None, max_examples=60)
@given(frames=st.integers(2, 300), shift=st.integers(0, 200), seed=st.integers(0, 1000))
def test_warped_time_is_monotone_with_fixed_ends(frames: int, shift: int, seed: int) -> None:
    warped = time_warp(ramp(8, frames), max_shift_frames=shift, generator=seeded(seed))
    assert warped.shape == (8, 1, 3, frames)
    assert (warped.diff(dim=-1) >= 0).all()
    assert (warped[..., 0] == 0).all()
    torch.testing.assert_close(warped[..., -1], torch.full((8, 1, 3), frames - 1.0), rtol=0, atol=1e-4)
    assert ((warped - ramp(8, frames)).abs() <= shift + 1e-3 * frames).all()
    assert torch.equal(warped[:, :, 0], warped[:, :, 2])  # every band moves alike


def test_warp_is_two_straight_lines_with_the_anchor_moved_uniformly() -> None:
    frames, shift, batch = 801, 40, 4000
    source = time_warp(ramp(batch, frames, bands=1), max_shift_frames=shift, generator=seeded())[:, 0, 0].double()
    speed_before, speed_after = source[:, 20] / 20, (800 - source[:, 780]) / 20  # 20 frames at each end are one line
    # anchor = speed_before * moved, 800 - anchor = speed_after * (800 - moved)
    moved = 800 * (1 - speed_after) / (speed_before - speed_after)
    anchor = speed_before * moved
    clear = (speed_before - speed_after).abs() > 0.02  # elsewhere the two lines nearly coincide
    clear &= (moved - 400).abs() < 350  # elsewhere the corner may lie inside the 20 frames
    assert clear.float().mean() > 0.7
    assert anchor[clear].min() >= shift - 1
    assert anchor[clear].max() <= 800 - shift + 1
    frame = torch.arange(frames, dtype=torch.float64)
    before = frame * speed_before[:, None]
    after = 800 - (800 - frame) * speed_after[:, None]
    lines = torch.where(frame < moved[:, None], before, after)
    assert (lines - source)[clear].abs().max() < 0.05
    moves = (moved - anchor)[clear]
    assert moves.abs().max() <= shift + 0.5
    assert abs(moves.mean().item()) < 2
    everywhere = (source - frame).abs().amax(dim=1)  # |move| at the anchor, uniform in 0..W
    assert everywhere.mean().item() == pytest.approx(shift / 2, rel=0.06)


def test_no_warp_is_identity() -> None:
    logmel = torch.randn(4, 1, 80, 200, generator=seeded(1))
    assert torch.equal(time_warp(logmel, max_shift_frames=0, generator=seeded()), logmel)
    single = logmel[..., :1]
    assert torch.equal(time_warp(single, max_shift_frames=80, generator=seeded()), single)


def test_warp_differs_per_sample_and_leaves_its_input_alone() -> None:
    logmel = torch.randn(1, 1, 80, 200, generator=seeded(1)).repeat(3, 1, 1, 1)
    before = logmel.clone()
    warped = time_warp(logmel, max_shift_frames=30, generator=seeded())
    assert torch.equal(logmel, before)
    assert not torch.equal(warped[0], warped[1])
    assert warped.min() >= logmel.min()
    assert warped.max() <= logmel.max()
    assert time_warp(logmel.half(), generator=seeded()).dtype == torch.float16


# Mixtures that join the batch


def test_mixup_doubles_the_batch_and_targets_stay_distributions() -> None:
    picture = torch.arange(8.0).view(4, 1, 2)
    target = torch.eye(4)
    for seed in range(10):
        pictures, targets = append_mixup(picture, target, generator=torch.Generator().manual_seed(seed))
        assert (len(pictures), len(targets)) == (8, 8)
        assert torch.equal(pictures[:4], picture)
        assert torch.allclose(targets.sum(dim=1), torch.ones(8))
        # pictures are mixed as their targets are
        assert torch.allclose(pictures[4:].flatten(1), targets[4:] @ picture.flatten(1), atol=1e-6)
        shares = targets[4:].amax(dim=1)
        assert len({round(float(s), 5) for s in shares if s < 1}) <= 1  # one share for the batch


def test_class_pairs_have_the_published_numbers() -> None:
    label = torch.tensor([0] * 16 + [1] * 9 + [2] * 4 + [3] * 3)
    picture = torch.nn.functional.one_hot(label, 4).float()  # so that a mixture shows what went in
    pictures, targets = append_class_mixtures(picture, label, generator=torch.Generator().manual_seed(0))
    assert len(pictures) == len(targets) == 32 + 6 + 2 * 4 + 2 * 4
    assert torch.equal(pictures[:32], picture)
    crackle, wheeze, both = targets[32:38], targets[38:46], targets[46:]
    assert torch.allclose(targets.sum(dim=1), torch.ones(54))
    assert (crackle[:, 1] >= 0.5).all()
    assert (crackle[:, [2, 3]] == 0).all()
    assert (wheeze[:, 2] >= 0.5).all()
    assert torch.allclose(pictures[32:46], targets[32:46], atol=1e-6)
    assert (both == torch.tensor([0.0, 0, 0, 1])).all()
    assert torch.allclose(pictures[46:, 1] + pictures[46:, 2], torch.ones(8))
    assert len({round(float(share), 5) for share in pictures[46:, 2]}) > 4  # every mixture has its own share


def test_class_pairs_of_a_batch_without_some_classes() -> None:
    label = torch.tensor([0, 0, 3])
    pictures, targets = append_class_mixtures(
        torch.zeros(3, 1, 2, 2), label, generator=torch.Generator().manual_seed(0)
    )
    assert len(pictures) == len(targets) == 3


def test_two_thirds_of_the_scarcer_class_rounded_down() -> None:
    for crackles, wanted in ((1, 0), (2, 1), (3, 2), (4, 2), (6, 4)):
        label = torch.tensor([0] * 10 + [1] * crackles)
        pictures, _ = append_class_mixtures(
            torch.zeros(len(label), 1), label, generator=torch.Generator().manual_seed(0)
        )
        assert len(pictures) - len(label) == wanted


# other_device


def test_another_device_adds_a_smooth_gain_and_cuts_an_upper_band() -> None:
    logmel = torch.randn(2000, 1, 80, 3, generator=seeded(1))
    changed = simulate_other_device(logmel, gain=0.3, band_limit=0.5, fill=-7.0, generator=seeded())
    cut = (changed == -7.0).all(dim=3)[:, 0]  # (B, F)
    assert 0.45 < cut.any(dim=1).float().mean() < 0.55
    assert not cut[:, :40].any()  # of the lower half nothing is lost
    assert (cut.int().diff(dim=1) >= 0).all()  # and above a lost band everything is
    gain = (changed - logmel)[:, 0]
    kept = ~cut.any(dim=1)
    assert gain[kept].std(dim=2).max() < 1e-5  # the same at all times
    assert abs(gain[kept][:, [0, -1], 0].std() - 0.3) < 0.02
    assert gain[kept][:, :, 0].diff(dim=1).diff(dim=1).abs().gt(1e-4).sum(dim=1).max() <= 8  # straight between 6 points


def test_no_gain_and_no_limit_change_nothing() -> None:
    logmel = torch.randn(4, 1, 80, 5, generator=seeded(1))
    assert torch.equal(simulate_other_device(logmel, generator=seeded()), logmel)


# Shift in time


def test_each_clip_is_turned_by_a_number_of_frames_of_its_own() -> None:
    clips = torch.arange(64 * 3 * 10.0).view(64, 1, 3, 10)
    shifted = shift_frames(clips, seeded())
    shifts = set()
    for clip, turned in zip(clips, shifted, strict=True):
        found = [shift for shift in range(10) if torch.equal(turned, clip.roll(shift, dims=2))]
        assert len(found) == 1
        shifts.add(found[0])
    assert shifts == set(range(10))
    assert torch.equal(clips, torch.arange(64 * 3 * 10.0).view(64, 1, 3, 10))
