"""Tunable-Q wavelet transform.

All of it happens on the spectrum of the whole wave. A stage's low-pass keeps the numbers of the bins that it passes, so
subband j is a stretch of that spectrum times the product of the filters on its way: one FFT, then one short inverse FFT
a subband, where the published form filters stage by stage. Arrays keep their type, float32 or float64.
Source of the formulas: Selesnick, "Wavelet transform with tunable Q-factor" (2011).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rales.typing import RealArray


class Subband(NamedTuple):
    """Bins `start` ... of the half spectrum times `weight` are the half spectrum of `samples` coefficients."""

    start: int
    weight: NDArray[np.float64]  # (samples // 2 + 1,)
    samples: int


class Wavelets(NamedTuple):
    """Quality factor Q, redundancy r and number of stages J of one transform."""

    q: float
    redundancy: float
    stages: int


def forward_tqwt(wave: RealArray, wavelets: Wavelets) -> list[RealArray]:
    """(B, N) -> J + 1 subbands (B, N_j), from the highest band to the low-pass rest. Raises as `plan_subbands` does."""
    from scipy import fft

    spectrum = fft.rfft(wave, norm="ortho")
    return [
        fft.irfft(spectrum[:, start : start + weight.size] * weight.astype(wave.dtype), n=samples, norm="ortho")
        for start, weight, samples in plan_subbands(wave.shape[1], wavelets)
    ]


def inverse_tqwt(coefficients: list[RealArray], samples: int, wavelets: Wavelets) -> RealArray:
    """Subbands of `forward_tqwt` -> wave (B, samples); the filters' squares sum to 1, so it is the adjoint and the
    inverse."""
    from scipy import fft

    first = coefficients[0]
    spectrum = np.zeros((len(first), samples // 2 + 1), np.result_type(first, np.complex64))
    for band, (start, weight, _) in zip(coefficients, plan_subbands(samples, wavelets), strict=True):
        spectrum[:, start : start + weight.size] += fft.rfft(band, norm="ortho") * weight.astype(first.dtype)
    return np.asarray(fft.irfft(spectrum, n=samples, norm="ortho"))


def max_stages(samples: int, q: float, redundancy: float) -> int:
    """Length of a wave -> the most stages it allows: floor(ln(beta N / 8) / ln(1 / alpha)), never below 0."""
    beta = 2 / (q + 1)
    alpha = 1 - beta / redundancy
    return max(0, math.floor(math.log(beta * samples / 8) / math.log(1 / alpha))) if samples else 0


def plan_subbands(samples: int, wavelets: Wavelets) -> list[Subband]:
    """Length of a wave -> its J + 1 subbands. Raises ValueError for an odd length and one too short for J stages."""
    q, redundancy, stages = wavelets
    if samples % 2 or stages > max_stages(samples, q, redundancy):
        raise ValueError(
            f"a wave of {samples} samples and {stages} stages at Q = {q:g}, redundancy {redundancy:g}; expected an "
            f"even number of samples and at most {max_stages(samples, q, redundancy)} stages: lengthen the wave"
        )
    beta = 2 / (q + 1)
    alpha = 1 - beta / redundancy
    passed = np.ones(samples // 2 + 1)  # product of the low-passes so far
    bands, length = [], samples
    for stage in range(1, stages + 1):
        low = 2 * round(alpha**stage * samples / 2)
        high = 2 * round(beta * alpha ** (stage - 1) * samples / 2)
        start, wide = (length - high) // 2, (low + high - length) // 2 - 1  # pass band; transition
        angle = np.arange(1, wide + 1) / (wide + 1) * np.pi
        theta = (1 + np.cos(angle)) * np.sqrt(2 - np.cos(angle)) / 2
        rising = np.ones(high // 2 + 1)
        rising[0], rising[1 : wide + 1] = 0, theta[::-1]
        bands.append(Subband(start, passed[start : start + high // 2 + 1] * rising, high))
        passed = passed[: low // 2 + 1].copy()
        passed[start + 1 : start + wide + 1] *= theta
        passed[-1] = 0
        length = low
    bands.append(Subband(0, passed, length))
    return bands


def wavelet_norms(bands: list[Subband]) -> NDArray[np.float64]:
    """Subbands -> (J + 1,) norms of their synthesis waveforms: of one coefficient 1, every bin has the same share."""
    squares = [2 * np.square(weight).sum() - weight[0] ** 2 - weight[-1] ** 2 for _, weight, _ in bands]
    return np.sqrt([square / band.samples for square, band in zip(squares, bands, strict=True)])
