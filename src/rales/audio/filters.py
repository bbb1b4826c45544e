"""Filters of the earlier systems: band-pass, and gains that map one device's spectrum to another's."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.typing import Waveform


def band_pass(wave: Waveform, rate_hz: int, *, low_hz: float, high_hz: float, order: int = 3) -> Waveform:
    """(..., N) -> (..., N) through a causal Butterworth band-pass (LungRN 1 to 4000 Hz, LungAttn 50 to 2000 Hz).

    A band that ends at or above half the rate is refused: those systems leave recordings at 4 kHz unfiltered. Second
    order sections, since at 44.1 kHz the polynomial form of the published code loses the poles near 1 Hz to rounding.
    """
    from scipy.signal import sosfilt

    if not 0 < low_hz < high_hz < rate_hz / 2:
        raise ValueError(
            f"a band-pass of {low_hz:g} to {high_hz:g} Hz was asked for at {rate_hz} Hz; expected "
            f"0 < low_hz < high_hz < {rate_hz / 2:g}"
        )
    filtered = sosfilt(_design_butterworth(rate_hz, low_hz, high_hz, order), wave.astype(np.float64), axis=-1)
    return np.asarray(filtered, dtype=np.float32)


@lru_cache(maxsize=64)
def _design_butterworth(rate_hz: int, low_hz: float, high_hz: float, order: int) -> NDArray[np.float64]:
    from scipy.signal import butter

    return np.asarray(butter(order, [low_hz, high_hz], btype="bandpass", fs=rate_hz, output="sos"))


def scale_min_max(wave: Waveform) -> Waveform:
    """(..., N) -> (..., N) in [0, 1]; a constant wave becomes 0."""
    low = wave.min(axis=-1, keepdims=True)
    span = wave.max(axis=-1, keepdims=True) - low
    return np.asarray((wave - low) / np.maximum(span, 1e-10), dtype=np.float32)


def mean_spectrum(waves: Tensor, fft_samples: int = 1024) -> Tensor:
    """(B, N) recordings of one device -> (bins,): mean over recordings of the mean STFT magnitude."""
    return _half_overlap_stft(waves, fft_samples).abs().mean(dim=(0, 2))


def correction_gains(
    spectra: Tensor,
    rate_hz: int,
    *,
    band_limits_hz: Sequence[float],
    clip_db: float = 20,
    reference: Tensor | None = None,
) -> Tensor:
    """(devices, bins) mean spectra -> (devices, bins) gains s_ref / s_d: the spectrum correction of Kosmider.

    The reference is the mean of the devices' spectra unless given: pass those of training devices only, and `reference`
    where another set is corrected to them. Gains are clipped to +- clip_db and are 1 above a device's band limit, where
    it recorded nothing (uncorrected, gains of 65 dB have been reported).
    """
    reference = spectra.mean(dim=0) if reference is None else reference
    gains = (reference / spectra.clamp_min(1e-12)).clamp(10 ** (-clip_db / 20), 10 ** (clip_db / 20))
    frequency_hz = torch.linspace(0, rate_hz / 2, spectra.shape[1])
    above = frequency_hz > torch.tensor(band_limits_hz)[:, None]
    return torch.where(above, 1.0, gains)


def apply_gains(waves: Tensor, gains: Tensor) -> Tensor:
    """(B, N) and (B, bins) or (bins,) -> (B, N): STFT times the gains, phase kept, and back.

    With gains of `correction_gains` it is spectrum correction (Nguyen & Pernkopf). With mean_spectrum(other device) /
    mean_spectrum(own device), clipped the same way, it is the "spectral" domain transfer of our reconstruction of Wang.
    """
    fft_samples = 2 * (gains.shape[-1] - 1)
    window = torch.hann_window(fft_samples, device=waves.device, dtype=waves.dtype)
    scaled = _half_overlap_stft(waves, fft_samples) * gains[..., None]
    return torch.istft(scaled, fft_samples, fft_samples // 2, window=window, length=waves.shape[-1])


def _half_overlap_stft(waves: Tensor, fft_samples: int) -> Tensor:
    """(B, N) -> (B, bins, frames), Hann window, half overlap. Raises ValueError for waves of half a window or less."""
    if waves.shape[-1] <= fft_samples // 2:
        raise ValueError(f"waves of {waves.shape[-1]} samples; expected more than {fft_samples // 2}")
    window = torch.hann_window(fft_samples, device=waves.device, dtype=waves.dtype)
    return torch.stft(waves, fft_samples, fft_samples // 2, window=window, return_complex=True)
