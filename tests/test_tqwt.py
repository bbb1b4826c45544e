"""The transform against its defining properties and a stage-by-stage one, the split against the published iteration."""

import importlib.util
import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.audio.tqwt import Wavelets, forward_tqwt, inverse_tqwt, max_stages, plan_subbands, wavelet_norms
from rales.audio.tqwt_decomposition import (
    HIGH_Q,
    LEAST_SAMPLES,
    LOW_Q,
    decompose_cycles_dual_q,
    decompose_dual_q,
    padded_length,
)
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The transform and the iteration as they stand in the papers: the slow contender of the benchmark."""
    spec = importlib.util.spec_from_file_location("tqwt_speed", REPOSITORY / "benchmarks" / "tqwt_speed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noise(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(seed).standard_normal(shape)


@settings(max_examples=40, deadline=None)
@given(half=st.integers(732, 3000), q=st.sampled_from([1.0, 2.0, 4.0]), stages=st.integers(1, 30))
def test_perfect_reconstruction_and_energy(half: int, q: float, stages: int) -> None:
    wave = noise(2, 2 * half)
    wavelets = Wavelets(q, 3, min(stages, max_stages(2 * half, q, 3)))
    coefficients = forward_tqwt(wave, wavelets)
    assert len(coefficients) == wavelets.stages + 1
    assert np.abs(inverse_tqwt(coefficients, 2 * half, wavelets) - wave).max() <= 1e-10
    energy = sum(np.square(band).sum() for band in coefficients)
    assert energy == pytest.approx(np.square(wave).sum(), rel=1e-12)


@pytest.mark.parametrize("wavelets", [HIGH_Q, LOW_Q])
@pytest.mark.parametrize("samples", [1464, 2666, 10000])
def test_each_subband_equals_that_of_the_stage_by_stage_transform(
    plain: ModuleType, wavelets: Wavelets, samples: int
) -> None:
    wave = noise(samples)
    found = forward_tqwt(wave[None], wavelets)
    wanted = plain.plain_tqwt(wave, wavelets)
    assert [band.shape[1] for band in found] == [band.size for band in wanted]
    assert all(np.abs(a[0] - b).max() < 1e-12 for a, b in zip(found, wanted, strict=True))
    assert wavelet_norms(plan_subbands(samples, wavelets)) == pytest.approx(
        plain.plain_norms(wanted, samples, wavelets), rel=1e-12
    )


def test_lengths_of_the_subbands_by_hand() -> None:
    """Q = 1, r = 3: beta 1, alpha 2/3; of 27 * 64 samples every length is exact."""
    lengths = [band.samples for band in plan_subbands(1728, Wavelets(1, 3, 3))]
    assert lengths == [1728, 1152, 768, 512]
    q4 = plan_subbands(1500, Wavelets(4, 3, 1))
    assert [band.samples for band in q4] == [600, 1300]  # beta 0.4, alpha 13/15


@pytest.mark.parametrize(("q", "samples", "stages"), [(4, 1464, 30), (4, 1462, 29), (1, 462, 10), (1, 460, 9)])
def test_most_stages(q: float, samples: int, stages: int) -> None:
    beta = 2 / (q + 1)
    alpha = 1 - beta / 3
    assert max_stages(samples, q, 3) == stages
    assert stages == math.floor(math.log(beta * samples / 8) / math.log(1 / alpha))


@pytest.mark.parametrize("wavelets", [HIGH_Q, LOW_Q])
def test_centre_frequencies(wavelets: Wavelets) -> None:
    """f_j = alpha**j (2 - beta) / (4 alpha) fs: at 4 kHz from 1600 to 25 Hz for Q = 4, from 1000 to 26 Hz for Q = 1."""
    beta = 2 / (wavelets.q + 1)
    alpha = 1 - beta / 3
    samples = 40_000
    centres_hz = []
    for j, band in enumerate(plan_subbands(samples, wavelets)[:-1], start=1):
        lowest, highest = band.start, band.start + len(band.weight) - 1
        centres_hz.append((lowest + highest) / 2 * 4000 / samples)
        assert centres_hz[-1] == pytest.approx(alpha**j * (2 - beta) / (4 * alpha) * 4000, abs=0.2)
    assert centres_hz[0] == pytest.approx(1600 if wavelets is HIGH_Q else 1000, abs=0.1)
    assert centres_hz[-1] == pytest.approx(25 if wavelets is HIGH_Q else 26, abs=0.5)


def test_what_does_not_fit_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"1462 samples and 30 stages.*at most 29 stages: lengthen the wave"):
        forward_tqwt(noise(1, 1462), HIGH_Q)
    with pytest.raises(ValueError, match="even number of samples"):
        forward_tqwt(noise(1, 1501), LOW_Q)


# The split


def test_the_three_parts_add_up_exactly() -> None:
    wave = noise(3, 1500)
    high, low, rest = decompose_dual_q(wave, iterations=10)
    assert np.abs(high + low + rest - wave).max() <= 1e-14
    assert np.array_equal(rest, wave - high - low)


def test_the_split_equals_the_plain_iteration(plain: ModuleType) -> None:
    wave = noise(1, 1500).cumsum(axis=1)
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    found = decompose_dual_q(wave, iterations=100)
    wanted = plain.plain_dual_q(wave[0], HIGH_Q, LOW_Q, 100)
    assert all(np.abs(a[0] - b).max() < 1e-10 for a, b in zip(found, wanted, strict=True))


def test_tones_and_clicks_go_apart() -> None:
    time_s = np.arange(8000) / 4000
    tone = np.sin(2 * np.pi * 400 * time_s) * np.hanning(8000)
    clicks = np.zeros(8000)
    clicks[[1500, 3300, 5100]] = 3.0
    high, low, _ = decompose_dual_q((tone + clicks)[None], iterations=60)
    assert np.corrcoef(high[0], tone)[0, 1] > 0.95
    assert np.corrcoef(low[0], clicks)[0, 1] > 0.8
    assert abs(np.corrcoef(low[0], tone)[0, 1]) < 0.1


def test_a_cycle_gives_the_same_alone_and_among_others() -> None:
    random = np.random.default_rng(0)
    waves = [random.random(samples).astype(np.float32) for samples in (801, 1500, 1511, 2600)]
    together = decompose_cycles_dual_q(waves, iterations=5)
    for wave, parts in zip(waves, together, strict=True):
        assert [part.shape for part in parts] == [wave.shape] * 3
        assert all(part.dtype == np.float32 for part in parts)
        alone = decompose_cycles_dual_q([wave], iterations=5)[0]
        assert all(np.abs(a - b).max() < 1e-6 for a, b in zip(alone, parts, strict=True))
        assert np.abs(sum(parts) - wave).max() < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70_000))
def test_padded_lengths_are_even_and_little_longer(samples: int) -> None:
    padded = padded_length(samples)
    assert padded % 2 == 0
    assert max(samples, LEAST_SAMPLES) <= padded <= max(samples + 1, LEAST_SAMPLES) * 9 / 8
    plan_subbands(padded, HIGH_Q)


def test_many_cycles_share_few_lengths() -> None:
    assert len({padded_length(samples) for samples in range(4000, 16000, 10)}) < 60
