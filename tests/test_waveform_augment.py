"""Augmentation of waves: what joins hold, where tones go, and that a seed repeats."""

import numpy as np
import pytest
import torch

from rales.audio.waveform_augment import (
    JOINS,
    augment_one_of_five,
    concatenation_pairs,
    domain_pairs,
    shift_circularly,
    shift_pitch,
    splice_waveforms,
    stretch_time,
    warp_vocal_tract,
)

RATE_HZ = 4000


def tone(frequency_hz: float, seconds: float = 2) -> torch.Tensor:
    return torch.sin(2 * torch.pi * frequency_hz * torch.arange(int(seconds * RATE_HZ)) / RATE_HZ)[None]


def peak_hz(wave: torch.Tensor) -> float:
    middle = wave[0, wave.shape[1] // 4 : -wave.shape[1] // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle)), n=1 << 16).abs()
    return float(spectrum.argmax()) * RATE_HZ / (1 << 16)


def test_concatenation_raises_every_class_to_the_normal_ones() -> None:
    label = np.array([0] * 400 + [1] * 100 + [2] * 30 + [3] * 10)
    pairs = concatenation_pairs(label, 1.0, np.random.default_rng(0))
    assert np.bincount(pairs[:, 2], minlength=4).tolist() == [0, 300, 370, 390]
    for wanted, joins in JOINS.items():
        assert sum(share for share, _, _ in joins) == pytest.approx(1)
        of_class = pairs[pairs[:, 2] == wanted]
        for share, first, second in joins if len(of_class) else ():
            found = ((label[of_class[:, 0]] == first) & (label[of_class[:, 1]] == second)).mean()
            assert found == pytest.approx(share, abs=0.1)
    doubled = concatenation_pairs(label, 2.0, np.random.default_rng(0))
    assert np.bincount(doubled[:, 2], minlength=4).tolist() == [400, 700, 770, 790]
    assert np.array_equal(pairs, concatenation_pairs(label, 1.0, np.random.default_rng(0)))


def test_concatenation_without_some_classes() -> None:
    pairs = concatenation_pairs([0, 0, 1], 2.0, np.random.default_rng(0))
    assert set(pairs[:, 2].tolist()) == {0, 1}
    assert concatenation_pairs([1, 2], 1.0, np.random.default_rng(0)).shape == (0, 3)


def test_domain_pairs_are_of_two_devices_and_unite_to_the_wanted_class() -> None:
    random = np.random.default_rng(0)
    label, domain = random.integers(0, 4, 60), random.choice(["a", "b", "c"], 60)
    wanted = random.integers(0, 4, 200)
    pairs = domain_pairs(label, domain, wanted, random)
    assert (domain[pairs[:, 0]] != domain[pairs[:, 1]]).all()
    assert ((label[pairs[:, 0]] | label[pairs[:, 1]]) == wanted).all()
    assert domain_pairs([0, 0], ["a", "b"], [3, 0], random).tolist()[0] == [-1, -1]
    assert domain_pairs([0, 0], ["a", "a"], [0], random).tolist() == [[-1, -1]]


def test_splice_by_hand() -> None:
    first, second = np.ones(10, np.float32), np.zeros(20, np.float32)
    joined = splice_waveforms(first, second, 0.5, 3)
    assert joined.tolist() == [1, 1, 1, 0.5, 0] + [0] * 7
    assert splice_waveforms(first[:1], second[:1], 0.5, 200).size >= 1


def test_roll_turns_each_clip_by_its_own_number() -> None:
    wave = torch.arange(12.0).view(2, 6)
    seen = set()
    for seed in range(40):
        rolled = shift_circularly(wave, generator=torch.Generator().manual_seed(seed))
        shifts = []
        for clip, turned in zip(wave, rolled, strict=True):
            shifts.append(next(s for s in range(6) if torch.equal(clip.roll(s), turned)))
        seen.add(tuple(shifts))
    assert any(a != b for a, b in seen)
    assert (0, 0) in seen
    assert torch.equal(shift_circularly(wave, probability=0.0, generator=torch.Generator().manual_seed(0)), wave)


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.1, 2.0])
def test_stretching_keeps_the_pitch(rate: float) -> None:
    wave = tone(440)
    stretched = stretch_time(wave, rate)
    assert stretched.shape == (1, round(8000 / rate))
    assert peak_hz(stretched) == pytest.approx(440, abs=2)
    middle = stretched[0, 1000:-1000]
    assert middle.std() == pytest.approx(0.5**0.5, rel=0.1)


def test_stretching_by_one_is_the_wave() -> None:
    wave = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(stretch_time(wave, 1.0), wave, atol=1e-4)


@pytest.mark.parametrize("semitones", [-1, 0.5, 3])
def test_pitch(semitones: float) -> None:
    wave = tone(440)
    shifted = shift_pitch(wave, semitones)
    assert shifted.shape == wave.shape
    assert peak_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), abs=3)


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.1])
def test_vocal_tract(alpha: float) -> None:
    assert peak_hz(warp_vocal_tract(tone(500), RATE_HZ, alpha, 1200)) == pytest.approx(500 * alpha, abs=8)
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    if alpha == 1:
        assert torch.allclose(warp_vocal_tract(wave, RATE_HZ, 1.0, 1200), wave, atol=1e-4)


def test_one_of_five_leaves_the_ends_and_repeats_with_its_seed() -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    lengths, changed_ends = set(), 0
    for seed in range(60):
        changed = augment_one_of_five(wave, RATE_HZ, np.random.default_rng(seed))
        assert np.array_equal(changed, augment_one_of_five(wave, RATE_HZ, np.random.default_rng(seed)))
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        lengths.add(changed.size == wave.size)
        changed_ends += not np.array_equal(changed[:400], wave[:400])
        assert 2000 - 600 <= changed.size <= 2000 + 1200  # the middle 1200 take 600 to 2400
    assert lengths == {True, False}
    assert 4 <= changed_ends <= 24  # the vocal tract alone, one in five
    assert augment_one_of_five(np.ones(3, np.float32), RATE_HZ, np.random.default_rng(0)).size > 0
