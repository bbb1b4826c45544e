"""Kaldi's log-mel filter bank, the front-end of AST and of BEATs."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974  # of AST's pre-training; it divides by twice the std
MELS, WINDOW, HOP, FFT = 128, 400, 160, 512  # 25 ms every 10 ms at 16 kHz
PREEMPHASIS = 0.97
BEATS_MEAN, BEATS_STD, BEATS_SCALE = 15.41663, 6.55582, 2.0**15


class KaldiFbank(nn.Module):
    """Wave (B, N) at 16 kHz -> (B, 1, 128, 1 + (N - 400) // 160): (ln(mel power) - mean) / std.

    As Kaldi's compute-fbank without dither and energy, and as AST calls it: frames that lie inside the wave, each less
    its mean, pre-emphasised, under a symmetric Hann window; triangles in mel over 20 to 8000 Hz. 8 s give 798 frames.
    BEATs has Kaldi's own window instead (povey), waves multiplied by 2^15 (`scale`), and another mean and deviation.
    Raises ValueError for a wave that is not (B, N) or shorter than a window.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        shape: Literal["hann", "povey"] = "hann",
        *,
        scale: float = 1.0,
        mean: float = AUDIOSET_MEAN,
        std: float = AUDIOSET_STD,
    ) -> None:
        super().__init__()
        self.scale, self.mean, self.std = scale, mean, std
        window = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64)
        if shape == "povey":
            window = window**0.85
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(kaldi_mel_filters(MELS)).float(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        if wave.ndim != 2 or wave.shape[1] < WINDOW:
            raise ValueError(
                f"a wave of shape {tuple(wave.shape)} was given, expected (B, N) with at least {WINDOW} samples"
            )
        with torch.autocast(device_type=wave.device.type, enabled=False):
            # clip by clip: the overlapping frames of several 8 s clips leave the processor's caches
            clips = [wave] if torch.compiler.is_compiling() else wave.split(1)
            fbank: Tensor = torch.cat([self.fbank(self.scale * clip.float()) for clip in clips])
        standardised: Tensor = (fbank[:, None] - self.mean) / (2 * self.std)
        return standardised

    def fbank(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, mels, frames): ln of mel power, not below ln of float32's epsilon."""
        frames = wave.unfold(1, WINDOW, HOP)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        frames = (frames - PREEMPHASIS * before) * self.window
        spectrum = torch.fft.rfft(F.pad(frames, (0, FFT - WINDOW)))
        power = spectrum.real.square() + spectrum.imag.square()
        mel_power = power[..., :-1] @ self.filters.T  # without the Nyquist bin
        fbank: Tensor = mel_power.clamp_min(torch.finfo(torch.float32).eps).log().transpose(1, 2)
        return fbank


def kaldi_mel_filters(
    mels: int, *, rate_hz: int = 16000, fft_samples: int = FFT, low_hz: float = 20, high_hz: float = 0
) -> NDArray[np.float64]:
    """Sizes -> (mels, fft_samples // 2): triangles of height 1 that are straight in mel, 1127 ln(1 + f / 700), up to
    `high_hz` (0 = half the rate)."""

    def to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1127 * np.log(1 + hz / 700))

    low, high = to_mel(np.array([low_hz, high_hz or rate_hz / 2]))
    edges = np.linspace(low, high, mels + 2)[:, None]
    bins = to_mel(np.arange(fft_samples // 2) * rate_hz / fft_samples)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))
