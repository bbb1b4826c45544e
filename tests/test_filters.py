"""Band-pass and device gains against tones and against the formula."""

import numpy as np
import pytest
import torch

from rales.audio.filters import apply_gains, band_pass, correction_gains, mean_spectrum, scale_min_max


def tone(frequency_hz: float, rate_hz: int, seconds: float = 2) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz).astype(np.float32)


@pytest.mark.parametrize(("low", "high"), [(1, 4000), (50, 2000)])
@pytest.mark.parametrize("rate_hz", [10_000, 44_100])
def test_order_three_butterworth(low: float, high: float, rate_hz: int) -> None:
    """Half power at both edges, an octave outside about 18 dB less, nothing taken in the middle, causal."""
    settled = slice(rate_hz, None)

    def gain(frequency_hz: float) -> float:
        wave = tone(frequency_hz, rate_hz, 8 if frequency_hz < 5 else 2)
        out = band_pass(wave, rate_hz, low_hz=low, high_hz=high)
        return float(out[settled].std() / wave[settled].std())

    assert gain(high) == pytest.approx(2**-0.5, rel=0.02)
    assert gain((low * high) ** 0.5) == pytest.approx(1, rel=0.01)
    if low == 50:
        assert gain(low) == pytest.approx(2**-0.5, rel=0.02)
        assert gain(low / 2) == pytest.approx(1 / (1 + 2**6) ** 0.5, rel=0.1)
    click = np.zeros(100, np.float32)
    click[50] = 1
    assert (band_pass(click, rate_hz, low_hz=low, high_hz=high)[:50] == 0).all()


def test_a_constant_is_removed_and_stays_finite() -> None:
    out = band_pass(np.ones(3 * 44_100, np.float32), 44_100, low_hz=1, high_hz=4000)
    assert np.isfinite(out).all()
    assert abs(out[-1]) < 1e-3


def test_a_band_beyond_half_the_rate_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"50 to 2000 Hz was asked for at 4000 Hz.*high_hz < 2000"):
        band_pass(np.zeros(10, np.float32), 4000, low_hz=50, high_hz=2000)


def test_min_max() -> None:
    assert scale_min_max(np.array([[1, 3, 2], [5, 5, 5]], np.float32)).tolist() == [[0, 1, 0.5], [0, 0, 0]]


def test_gains_are_reference_over_device_clipped_and_one_above_the_limit() -> None:
    spectra = torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0], [3.0, 1.0, 1000.0, 1.0, 1.0]])
    gains = correction_gains(spectra, 8000, band_limits_hz=[3000, 4000])
    # reference: 2, 1, 500.5, 0.5, 1 at 0, 1000 ... 4000 Hz; 20 dB is a factor of 10
    assert torch.allclose(gains[0], torch.tensor([2.0, 1.0, 10.0, 10.0, 1.0]))
    assert torch.allclose(gains[1], torch.tensor([2 / 3, 1.0, 0.5005, 0.5, 1.0]))
    limited = correction_gains(spectra, 8000, band_limits_hz=[1500, 1500])
    assert torch.allclose(limited[0], torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0]))
    one = correction_gains(spectra[:1], 8000, band_limits_hz=[4000], reference=torch.full((5,), 5.0))
    assert torch.allclose(one[0], torch.tensor([5.0, 5.0, 5.0, 10.0, 5.0]))


def test_gains_change_tones_and_a_corrected_device_has_the_reference_spectrum() -> None:
    waves = torch.randn(6, 16_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(apply_gains(waves, torch.ones(513)), waves, atol=1e-5)
    assert torch.allclose(apply_gains(waves, torch.full((513,), 0.5)), waves / 2, atol=1e-5)
    device = apply_gains(waves, torch.linspace(1, 3, 513))
    spectra = torch.stack([mean_spectrum(waves), mean_spectrum(device)])
    gains = correction_gains(spectra, 16_000, band_limits_hz=[8000, 8000])
    corrected = [mean_spectrum(apply_gains(w, g)) for w, g in zip((waves, device), gains, strict=True)]
    assert torch.allclose(corrected[0][5:-5], corrected[1][5:-5], rtol=0.03)
    assert torch.allclose(corrected[0][5:-5], spectra.mean(dim=0)[5:-5], rtol=0.03)
