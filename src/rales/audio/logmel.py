"""Log-mel front-ends: the one M2D was pre-trained with, and the one of the ICBHI code.

Both take the power of a Hann-windowed STFT with reflected edges; they differ in mel scale, logarithm and normalisation.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# Spectra of more clips than this leave the processor's caches: measured 1.6 times slower for 8 clips of 8 s.
CLIPS_AT_ONCE = 1
FLOOR = 2.0**-23  # power that M2D's log-mel adds, so that silence has a logarithm
FLOOR_LEVEL = 10 ** (-25 / 10)  # mean square of a clip to which a floor that goes with the level adds just that
SMALLEST_POWER = 1e-30  # least floor: digital silence has one, too


class M2DLogMel(nn.Module):
    """The log-mel of M2D: waveform (B, N) -> (B, 1, mels, 1 + N // hop_samples), ln(mel power + 2**-23).

    Slaney mel scale and area normalisation, the front-end of nttcslab/m2d (nnAudio's MelSpectrogram); silence is
    ln(2**-23) = -15.94. Computed in float32 whatever the input and under autocast.

    Parameters
    ----------
    sample_rate_hz
        Rate of the waveforms in Hz.
    fft_samples
        Length of the Hann window and of the FFT.
    hop_samples
        Samples from one frame to the next.
    mels
        Number of mel bins.
    low_hz, high_hz
        Edges of the lowest and of the highest mel filter in Hz.
    floor_per_clip
        Scale the 2**-23 with the power of each clip (ours), so that a gain adds one number to the whole spectrogram and
        changes no more.

    Raises
    ------
    ValueError
        In `forward`: a waveform that is not (B, N) or has no more than fft_samples // 2 samples.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int = 16000,
        fft_samples: int = 400,
        hop_samples: int = 160,
        mels: int = 80,
        low_hz: float = 50,
        high_hz: float = 8000,
        floor_per_clip: bool = False,
    ) -> None:
        super().__init__()
        self.floor_per_clip = floor_per_clip
        filters = slaney_mel_filters(
            sample_rate_hz=sample_rate_hz, fft_samples=fft_samples, mels=mels, low_hz=low_hz, high_hz=high_hz
        )
        self.mel_power = MelPower(filters, fft_samples, hop_samples)

    def forward(self, wave: Tensor) -> Tensor:
        power: Tensor = self.mel_power(wave)
        if self.floor_per_clip:
            level = wave.float().square().mean(dim=1)[:, None, None]
            return power.add_((level * (FLOOR / FLOOR_LEVEL)).clamp_min(SMALLEST_POWER)).log_().unsqueeze(1)
        return power.add_(FLOOR).log_().unsqueeze(1)


class IcbhiLogMel(nn.Module):
    """The log-mel of the ICBHI code: waveform (B, N) -> (B, 1, mels, 1 + N // hop_samples), min-max dB, standardised.

    Decibels are brought to [0, 1] by min-max, then to (x - mean) / std. HTK mel scale without area normalisation
    (torchaudio's MelSpectrogram), as ilyassmoummad/scl_icbhi2017, which the paper follows. The attribute `fill` is what
    a 0 in [0, 1] becomes: the value to mask with.

    Parameters
    ----------
    scope
        "clip" takes minimum and maximum of each clip, so that a clip's answer does not depend on its neighbours;
        "batch" takes those of the whole batch, as the public code does.
    mean, std
        Statistics of the values in [0, 1]; the paper's by default.
    sample_rate_hz
        Rate of the waveforms in Hz.
    fft_samples
        Length of the Hann window and of the FFT.
    hop_samples
        Samples from one frame to the next.
    mels
        Number of mel bins.
    low_hz, high_hz
        Edges of the lowest and of the highest mel filter in Hz.

    Raises
    ------
    ValueError
        In `forward`: a waveform that is not (B, N) or has no more than fft_samples // 2 samples.
    """

    def __init__(
        self,
        scope: Literal["clip", "batch"] = "clip",
        mean: float = 0.3690,
        std: float = 0.2550,
        *,
        sample_rate_hz: int = 16000,
        fft_samples: int = 400,
        hop_samples: int = 160,
        mels: int = 80,
        low_hz: float = 50,
        high_hz: float = 8000,
    ) -> None:
        super().__init__()
        if scope not in ("clip", "batch"):
            raise ValueError(f'min-max scope "{scope}" is unknown; use "clip" or "batch"')
        filters = htk_mel_filters(
            sample_rate_hz=sample_rate_hz, fft_samples=fft_samples, mels=mels, low_hz=low_hz, high_hz=high_hz
        )
        if not filters.any(axis=1).all():  # a band that is always silent would set every clip's minimum
            raise ValueError(
                f"{mels} mel bands up to {high_hz:g} Hz are narrower than the {sample_rate_hz / fft_samples:g} Hz "
                f"between FFT bins, so some hear nothing; take a higher rate (16000 Hz), or the front-end of M2D"
            )
        self.mel_power = MelPower(filters, fft_samples, hop_samples)
        self.over = (1, 2, 3) if scope == "clip" else (0, 1, 2, 3)
        self.mean = mean
        self.std = std

    @property
    def fill(self) -> float:
        """0 of the [0, 1] picture after standardisation."""
        return (0 - self.mean) / self.std

    def forward(self, wave: Tensor) -> Tensor:
        return self.minmax(wave).sub_(self.mean).div_(self.std)

    def minmax(self, wave: Tensor) -> Tensor:
        """Wave (B, N) -> (B, 1, mels, frames) in [0, 1], before standardisation.

        A constant picture (digital silence) is 0 everywhere, as if its one value were the minimum of a wider range.
        """
        decibel = self.decibel(wave)
        low = decibel.amin(dim=self.over, keepdim=True)
        span = decibel.amax(dim=self.over, keepdim=True) - low
        return (decibel - low) / span.clamp_min(1e-10)

    def decibel(self, wave: Tensor) -> Tensor:
        """Wave (B, N) -> (B, 1, mels, frames): 10 log10(mel power), not below -100 dB."""
        power: Tensor = self.mel_power(wave)
        return power.clamp_min_(1e-10).log10_().mul_(10).unsqueeze(1)


class StandardiseClip(nn.Module):
    """(B, 1, F, T) -> the same with mean 0 and standard deviation 1 in each clip; a constant clip becomes 0."""

    def forward(self, logmel: Tensor) -> Tensor:
        # Less the lowest value first: the rounded mean of silence would be far from it, next to a deviation of 0
        above = logmel - logmel.amin(dim=(1, 2, 3), keepdim=True).detach()
        centred = above - above.mean(dim=(1, 2, 3), keepdim=True)
        return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-3)


class MelPower(nn.Module):
    """Wave (B, N) -> mel power (B, mels, 1 + N // hop_samples) float32, the spectrum computed in float64.

    The window is a periodic Hann of `fft_samples`, or the one that is given (fft_samples,).
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self, filters: NDArray[np.float64], fft_samples: int, hop_samples: int, window: Tensor | None = None
    ) -> None:
        super().__init__()
        if window is None:
            window = torch.hann_window(fft_samples, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.fft_samples = fft_samples
        self.hop_samples = hop_samples

    def forward(self, wave: Tensor) -> Tensor:
        if wave.ndim != 2 or wave.shape[1] <= self.fft_samples // 2:
            raise ValueError(
                f"a wave of shape {tuple(wave.shape)} was given, expected (B, N) with more than "
                f"{self.fft_samples // 2} samples: lengthen it (icbhi_cycle does)"
            )
        with torch.autocast(device_type=wave.device.type, enabled=False):
            wave = wave.float()
            if wave.is_cpu and not torch.compiler.is_compiling():
                return torch.cat([self._mel_power(clips) for clips in torch.split(wave, CLIPS_AT_ONCE)])
            return self._mel_power(wave)

    def _mel_power(self, wave: Tensor) -> Tensor:
        half, window = self.fft_samples // 2, self.window
        padded = F.pad(wave[:, None], (half, half), mode="reflect")[:, 0]
        frames = padded.unfold(1, self.fft_samples, self.hop_samples)  # (B, frames, fft_samples)
        # In float32 the rounding of loud tones fills empty bands: up to 0.3 dB there on real recordings of 4 kHz
        if wave.device.type != "mps":
            window = window.double()
        parts = torch.view_as_real(torch.fft.rfft(frames * window)).float().square_()  # (B, frames, bins, 2)
        # Real arithmetic: abs() takes a square root that the square would undo, and is several times slower.
        return self.filters @ (parts[..., 0] + parts[..., 1]).transpose(1, 2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MelPower":
        # An enclosing model may be cast to bfloat16 or half; window and filters then follow its device only.
        module: MelPower = super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return module


def slaney_mel_filters(
    *, sample_rate_hz: int, fft_samples: int, mels: int, low_hz: float, high_hz: float
) -> NDArray[np.float64]:
    """Mel filters (mels, fft_samples // 2 + 1) on the Slaney scale: triangles of area 1 (Auditory Toolbox 1998).

    Linear below 1000 Hz (200/3 Hz a mel), above it 27 mels for a factor of 6.4.

    Parameters
    ----------
    sample_rate_hz
        Rate of the waveforms in Hz.
    fft_samples
        Length of the FFT.
    mels
        Number of filters.
    low_hz, high_hz
        Edges of the lowest and of the highest filter in Hz.
    """
    linear_hz, corner_mel, log_step = 200 / 3, 15, np.log(6.4) / 27

    def to_mel(hz: float) -> float:
        return float(hz / linear_hz if hz < 1000 else corner_mel + np.log(hz / 1000) / log_step)

    _check_band(sample_rate_hz, low_hz, high_hz)
    mel = np.linspace(to_mel(low_hz), to_mel(high_hz), mels + 2)
    edges_hz = np.where(mel < corner_mel, linear_hz * mel, 1000 * np.exp(log_step * (mel - corner_mel)))
    area = (edges_hz[2:] - edges_hz[:-2]) / 2
    return triangular_filters(edges_hz, sample_rate_hz, fft_samples) / area[:, None]


def htk_mel_filters(
    *, sample_rate_hz: int, fft_samples: int, mels: int, low_hz: float, high_hz: float
) -> NDArray[np.float64]:
    """Mel filters (mels, fft_samples // 2 + 1) on the HTK scale, 2595 log10(1 + f / 700): triangles of height 1.

    Parameters
    ----------
    sample_rate_hz
        Rate of the waveforms in Hz.
    fft_samples
        Length of the FFT.
    mels
        Number of filters.
    low_hz, high_hz
        Edges of the lowest and of the highest filter in Hz.
    """
    _check_band(sample_rate_hz, low_hz, high_hz)
    mel = np.linspace(2595 * np.log10(1 + low_hz / 700), 2595 * np.log10(1 + high_hz / 700), mels + 2)
    return triangular_filters(700 * (10 ** (mel / 2595) - 1), sample_rate_hz, fft_samples)


def triangular_filters(edges_hz: NDArray[np.float64], sample_rate_hz: int, fft_samples: int) -> NDArray[np.float64]:
    """Edges (mels + 2,) -> (mels, bins): filter m rises from edge m to 1 at edge m + 1, falls to edge m + 2."""
    bins_hz = np.arange(fft_samples // 2 + 1) * sample_rate_hz / fft_samples
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - left) / (centre - left)
    falling = (right - bins_hz) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _check_band(sample_rate_hz: int, low_hz: float, high_hz: float) -> None:
    if not 0 <= low_hz < high_hz <= sample_rate_hz / 2:
        raise ValueError(
            f"a mel filterbank of {low_hz} to {high_hz} Hz was asked for at {sample_rate_hz} Hz; expected "
            f"0 <= low_hz < high_hz <= {sample_rate_hz / 2:g} (half the sample rate)"
        )
