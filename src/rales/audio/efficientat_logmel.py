"""The log-mel of EfficientAT, of a sound as it is and of the same sound four times faster.

Source: Schmid, Koutini & Widmer, ICASSP 2023, fschmid56/EfficientAT.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.kaldi_fbank import PREEMPHASIS, kaldi_mel_filters
from rales.audio.logmel import MelPower

RATE_HZ = 32000  # of its pre-training
MELS, WINDOW_S, HOP_S, FFT_S = 128, 0.025, 0.010, 0.032
FLOOR, SHIFT, SCALE = 1e-5, 4.5, 5.0  # (ln(power + FLOOR) + SHIFT) / SCALE
FAST = 4  # times faster: what lies below 3750 Hz fills all bands
FINER = 8  # bins between two of the FFT, for bands that are narrower than its own

Views = Literal["plain", "fast", "both"]


class EfficientATLogMel(nn.Module):
    """Wave (B, N) -> (B, 1, 128, frames): (ln(mel power + 1e-5) + 4.5) / 5, a frame every 10 ms.

    Pre-emphasis x[t + 1] - 0.97 x[t], power of a 32 ms FFT under a symmetric Hann window of 25 ms, triangles of height
    1 in Kaldi's mel from 0 to `high_hz`. At 32 kHz it is what EfficientAT hears, to rounding. At another rate windows
    are as long in seconds and levels the same, what lies above half the rate is silent, and the pre-emphasis is that of
    32 kHz: exact at multiples of it, else as a gain of each bin, within 0.4 dB for tones from 50 Hz on.

    Parameters
    ----------
    rate_hz
        Rate of the waveforms.
    speed
        Hear the wave so many times faster: frames are `speed` times longer, frequencies `speed` times higher.
    high_hz
        Upper edge of the highest band, in the sound as it is heard.

    Raises
    ------
    ValueError
        In `forward`: a waveform that is not (B, N), or not longer than half an FFT.
    """

    def __init__(self, rate_hz: int = RATE_HZ, *, speed: int = 1, high_hz: int = 15000) -> None:
        super().__init__()
        heard_hz = speed * rate_hz
        fft_samples, window_samples = round(FFT_S * heard_hz), round(WINDOW_S * heard_hz)
        self.step_samples, rest = divmod(heard_hz, RATE_HZ)  # that the pre-emphasis looks ahead
        filters = efficientat_mel_filters(heard_hz, fft_samples, high_hz)
        if rest:  # no whole number of samples
            self.step_samples = 0
            turn = 2 * np.pi * np.arange(fft_samples // 2 + 1) * heard_hz / fft_samples / RATE_HZ
            filters = filters * np.abs(np.exp(1j * turn) - PREEMPHASIS) ** 2
        # a window with more samples in it has a larger sum
        filters = filters * (RATE_HZ / heard_hz) ** 2
        window = torch.hann_window(window_samples, periodic=False, dtype=torch.float64)
        spare = fft_samples - window_samples
        window = F.pad(window, (spare // 2, spare - spare // 2))
        self.mel_power = MelPower(filters, fft_samples, round(HOP_S * heard_hz), window)

    def forward(self, wave: Tensor) -> Tensor:
        if (step := self.step_samples) and wave.ndim == 2:
            wave = wave[:, step:] - PREEMPHASIS * wave[:, :-step]
        power: Tensor = self.mel_power(wave)
        return power.add(FLOOR).log().add(SHIFT).div(SCALE).unsqueeze(1)

    def count_frames(self, samples: int) -> int:
        """Samples of a wave -> frames."""
        return 1 + (samples - self.step_samples) // self.mel_power.hop_samples


class TwoSpeeds(nn.Module):
    """Wave (B, N) -> (B, 1, 128, frames): the log-mel of the sound as it is, and behind it that of the faster one."""

    def __init__(self, plain: EfficientATLogMel, fast: EfficientATLogMel) -> None:
        super().__init__()
        self.plain, self.fast = plain, fast

    def forward(self, wave: Tensor) -> Tensor:
        return torch.cat([self.plain(wave), self.fast(wave)], dim=3)


def efficientat_mel_filters(rate_hz: int, fft_samples: int, high_hz: int) -> NDArray[np.float64]:
    """Sizes -> (128, fft_samples // 2 + 1) triangles of height 1 in Kaldi's mel from 0 Hz to `high_hz`.

    In a narrower bank than the published one some bands would lie between two bins; they hear the power there as if it
    went in a straight line from one bin to the next.
    """
    bins = fft_samples // 2 + 1
    if high_hz == 15000:
        filters = kaldi_mel_filters(MELS, rate_hz=rate_hz, fft_samples=fft_samples, low_hz=0, high_hz=high_hz)
    else:
        fine = kaldi_mel_filters(MELS, rate_hz=rate_hz, fft_samples=FINER * fft_samples, low_hz=0, high_hz=high_hz)
        places = np.arange(fine.shape[1]) / FINER
        share = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(bins)))  # (fine bins, bins)
        filters = fine @ share / FINER
    return np.pad(filters, ((0, 0), (0, bins - filters.shape[1])))
