"""Levels of bands over time: relative, at any rate, silence apart."""

import numpy as np
import pytest

from rales.audio.band_energy import EDGES_HZ, FRAME_HZ, band_levels, to_4_khz


def tone(hz: float, rate_hz: int, seconds: float = 4.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [4000, 8000, 11025, 44100, 48000])
def test_a_louder_band_is_seen_at_any_rate(rate_hz: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.001, 4 * rate_hz).astype(np.float32)
    wave = noise + 0.1 * tone(500, rate_hz)
    wave[2 * rate_hz : 2 * rate_hz + rate_hz // 2] += 0.9 * tone(500, rate_hz, 0.5)
    levels, silent = band_levels(wave.astype(np.float32), rate_hz)
    assert levels.shape == (4 * FRAME_HZ, len(EDGES_HZ) - 1)
    assert not silent.any()
    band = np.searchsorted(EDGES_HZ, 500) - 1
    assert levels[55:60, band] == pytest.approx(np.log(100), abs=0.1)
    assert np.abs(levels[5:45, band]).max() < 0.1


def test_loudness_is_taken_out() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert np.allclose(band_levels(wave, 4000)[0], band_levels(wave / np.float32(8), 4000)[0], atol=1e-4)


def test_digital_silence_is_marked_and_level() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    wave[4000:8000] = 0
    levels, silent = band_levels(wave, 4000)
    assert silent[FRAME_HZ : 2 * FRAME_HZ].all()
    assert silent.sum() <= FRAME_HZ + 4
    assert not levels[silent].any()
    levels, silent = band_levels(np.zeros(16000, np.float32), 4000)
    assert silent.all()
    assert not levels.any()


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_less_than_a_frame(samples: int) -> None:
    levels, silent = band_levels(np.ones(samples, np.float32), 4000)
    assert (levels.shape, silent.shape) == ((0, len(EDGES_HZ) - 1), (0,))


@pytest.mark.parametrize("rate_hz", [2000, 4000, 10000, 22050, 44100])
def test_a_tone_passes_and_what_is_above_does_not(rate_hz: int) -> None:
    low = to_4_khz(tone(400, rate_hz), rate_hz)
    assert abs(low.size - 16000) <= 4
    assert np.abs(low[1000:-1000]).max() == pytest.approx(1, abs=0.05)
    if rate_hz > 8000:
        assert np.abs(to_4_khz(tone(3500, rate_hz), rate_hz)[1000:-1000]).max() < 0.05
