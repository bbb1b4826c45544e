"""The front-end of EfficientAT against torch.stft and written-out triangles; other rates, speeds and banks."""

import numpy as np
import pytest
import torch

from rales.audio.efficientat_logmel import EfficientATLogMel, TwoSpeeds, efficientat_mel_filters
from rales.audio.io import resample_waveform
from rales.audio.kaldi_fbank import kaldi_mel_filters
from rales.export.conv_stft import replace_fft

SILENCE = (np.log(1e-5) + 4.5) / 5


def noise(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))


def tone(hz: float, rate_hz: int, seconds: float = 1.0) -> torch.Tensor:
    """-> (1, N) of amplitude 0.1."""
    return (
        0.1 * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * rate_hz), dtype=torch.float64) / rate_hz)[None]
    )


def written_out(wave: torch.Tensor) -> torch.Tensor:
    """(B, N) at 32 kHz -> (B, 128, frames) as the facts about the public code say."""
    emphasised = wave[:, 1:].double() - 0.97 * wave[:, :-1].double()
    window = torch.from_numpy(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799))
    power = torch.stft(emphasised, 1024, 320, 800, window, return_complex=True).abs() ** 2
    mel = 1127 * np.log(1 + np.arange(512) * 31.25 / 700)
    edges = np.linspace(0, 1127 * np.log(1 + 15000 / 700), 130)
    bands = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        heights = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clip(0)
        bands.append(torch.einsum("f,bft->bt", torch.from_numpy(heights), power[:, :512]))
    return (torch.log(torch.stack(bands, dim=1) + 1e-5) + 4.5) / 5


def test_at_32_khz_it_is_the_public_one() -> None:
    wave = noise(16000)
    found = EfficientATLogMel()(wave)
    assert found.shape == (2, 1, 128, 50)
    assert (found[:, 0] - written_out(wave)).abs().max() < 1e-5


def test_silence_is_the_floor() -> None:
    assert torch.allclose(EfficientATLogMel()(torch.zeros(1, 4000)), torch.tensor(SILENCE, dtype=torch.float32))


@pytest.mark.parametrize(("rate_hz", "samples"), [(32000, 16000), (8000, 3999), (16000, 24001)])
def test_frames_are_counted_as_they_come(rate_hz: int, samples: int) -> None:
    for speed in (1, 4):
        frontend = EfficientATLogMel(rate_hz, speed=speed)
        assert frontend(torch.zeros(1, samples)).shape[3] == frontend.count_frames(samples)


def test_four_times_faster_is_8_khz_read_as_32() -> None:
    """Where there is nothing above 4 kHz, whatever rate the sound has."""
    slow = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    slow = np.convolve(slow, np.sinc(np.arange(-60, 61) * 0.8) * np.hamming(121), mode="same").astype(np.float32)
    expected = EfficientATLogMel()(torch.from_numpy(slow)[None])
    assert torch.equal(EfficientATLogMel(8000, speed=4)(torch.from_numpy(slow)[None]), expected)
    quick = resample_waveform(slow, 8000, 32000)
    found = EfficientATLogMel(32000, speed=4)(torch.from_numpy(np.asarray(quick, np.float32))[None])
    assert found.shape == (1, 1, 128, 25)
    inner = (found - expected)[..., :110, 2:-2].abs()  # the filter's edges, and 3.4 to 3.75 kHz, where it begins
    assert inner.max() < 0.02


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 64000])
def test_at_another_rate_levels_and_times_are_the_same(rate_hz: int) -> None:
    """A tone in faint noise, up to half the rate; above it all is silent."""
    for hz in (200.0, 1000.0, 3000.0):
        expected, found = (EfficientATLogMel(rate)(tone(hz, rate)) for rate in (32000, rate_hz))
        assert found.shape[3] == pytest.approx(expected.shape[3], abs=1)
        loudest = int(expected[0, 0, :, 50].argmax())
        assert int(found[0, 0, :, 50].argmax()) == loudest
        assert float(found[0, 0, loudest, 50]) == pytest.approx(float(expected[0, 0, loudest, 50]), abs=0.02)  # 0.4 dB
    if rate_hz < 16000:
        assert EfficientATLogMel(rate_hz)(noise(rate_hz))[:, :, -10:].max() == pytest.approx(SILENCE, abs=1e-6)


def test_a_bank_up_to_4_khz_hears_in_every_band_and_as_loud() -> None:
    wide, narrow = (efficientat_mel_filters(32000, 1024, high_hz) for high_hz in (15000, 4000))
    assert (kaldi_mel_filters(128, rate_hz=32000, fft_samples=1024, low_hz=0, high_hz=4000).sum(axis=1) == 0).any()
    assert (wide.sum(axis=1) > 0).all()
    assert (narrow.sum(axis=1) > 0).all()
    assert not narrow[:, 130:].any()
    hz = np.arange(513) * 31.25
    mel = np.linspace(0, 1127 * np.log(1 + 4000 / 700), 130)
    edges_hz = 700 * (np.exp(mel / 1127) - 1)
    area_hz = (edges_hz[2:] - edges_hz[:-2]) / 2
    assert narrow.sum(axis=1) * 31.25 == pytest.approx(area_hz, rel=0.15)  # of a triangle of height 1
    centre_hz = (narrow @ hz) / narrow.sum(axis=1)
    assert np.abs(centre_hz - edges_hz[1:-1]).max() < 8


def test_both_speeds_stand_side_by_side() -> None:
    plain, fast = EfficientATLogMel(high_hz=4000), EfficientATLogMel(speed=4)
    wave = noise(16000)
    assert torch.equal(TwoSpeeds(plain, fast)(wave), torch.cat([plain(wave), fast(wave)], dim=3))


@pytest.mark.parametrize(("rate_hz", "speed"), [(32000, 1), (32000, 4), (8000, 1)])
def test_without_an_fft_it_is_the_same(rate_hz: int, speed: int) -> None:
    frontend, wave = EfficientATLogMel(rate_hz, speed=speed), noise(rate_hz)
    assert (replace_fft(frontend)(wave) - frontend(wave)).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(400,), (1, 500)])
def test_a_wave_of_another_shape_is_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"was given, expected \(B, N\) with more than 512 samples"):
        EfficientATLogMel()(torch.zeros(shape))
