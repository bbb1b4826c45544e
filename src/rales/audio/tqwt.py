"""Tunable-Q wavelet transform, and the split of a wave into a high-Q, a low-Q and a residual part.

All of it happens on the spectrum of the whole wave. A stage's low-pass keeps the numbers of the bins that it passes, so
subband j is a stretch of that spectrum times the product of the filters on its way: one FFT, then one short inverse FFT
a subband, where the published form filters stage by stage. Arrays keep their type, float32 or float64.
Source of the formulas: Selesnick, "Wavelet transform with tunable Q-factor" (2011) and "Resonance-based signal
decomposition" (2011); LungAttn's constants.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft


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


HIGH_Q = Wavelets(q=4, redundancy=3, stages=30)  # LungAttn's wheezes
LOW_Q = Wavelets(q=1, redundancy=3, stages=10)  # LungAttn's crackles


LEAST_SAMPLES = 1464  # 30 stages at Q = 4 need as many; 24 cycles of the database are shorter at 4 kHz
CYCLES_AT_ONCE = 32

Wave = NDArray[np.float32]
Waves = NDArray[np.floating]  # (B, N)


def dual_q_of_cycles(waves: Sequence[Wave], *, iterations: int = 100) -> list[tuple[Wave, Wave, Wave]]:
    """Cycles (N_i,) at 4 kHz -> their high-Q, low-Q and residual parts, as long as the cycles; float32 throughout.

    Each is continued by its reflection to `padded_length` and cut back afterwards (LungAttn appends one zero to an odd
    length, and cannot split cycles under 0.366 s). Cycles of one padded length share batches, and what a cycle gives
    does not depend on the others.
    """
    padded = [padded_length(wave.size) for wave in waves]
    parts: list[tuple[Wave, Wave, Wave]] = [()] * len(waves)  # type: ignore[list-item]
    for samples, of_one_length in groupby(sorted(range(len(waves)), key=padded.__getitem__), key=padded.__getitem__):
        numbers = list(of_one_length)
        for first in range(0, len(numbers), CYCLES_AT_ONCE):
            chosen = numbers[first : first + CYCLES_AT_ONCE]
            batch = np.stack([np.pad(waves[i], (0, samples - waves[i].size), mode="reflect") for i in chosen])
            split = dual_q(batch.astype(np.float32), iterations=iterations)
            for row, i in enumerate(chosen):
                parts[i] = tuple(part[row, : waves[i].size] for part in split)  # type: ignore[assignment]
    return parts


def padded_length(samples: int) -> int:
    """Length of a cycle -> the even length, at least 1,464 and at most an eighth longer, whose transforms cost least.

    A subband is an FFT of whatever length alpha**j gives, several times slower where that has a large prime factor.
    The best lengths are few (2,550, 5,184, 10,368 ...), so cycles of many lengths also come to share them.
    """
    shortest = max(LEAST_SAMPLES, samples + samples % 2)
    return min(range(shortest, shortest * 9 // 8 + 1, 2), key=transform_cost)


@cache
def transform_cost(samples: int) -> float:
    """Even length -> work of one transform of both kinds: samples of a subband times (20 + its half's prime factors).

    Measured on one core: 2 ns a sample for factors up to 13, 4 ns around 50, never more than 7 ns.
    """
    work = 0.0
    for q, redundancy, stages in (HIGH_Q, LOW_Q):
        beta = 2 / (q + 1)
        alpha = 1 - beta / redundancy
        sizes = [round(beta * alpha ** (j - 1) * samples / 2) for j in range(1, stages + 1)]
        for half in (*sizes, round(alpha**stages * samples / 2)):
            work += half * (20 + min(sum(prime_factors(half)), 105))
    return work


def prime_factors(number: int) -> list[int]:
    """12 -> [2, 2, 3]."""
    found, prime = [], 2
    while prime * prime <= number:
        while number % prime == 0:
            number //= prime
            found.append(prime)
        prime += 1
    return [*found, number] if number > 1 else found


def tqwt(wave: Waves, wavelets: Wavelets) -> list[Waves]:
    """(B, N) -> J + 1 subbands (B, N_j), from the highest band to the low-pass rest. Raises as `subbands` does."""
    spectrum = fft.rfft(wave, norm="ortho")
    return [
        fft.irfft(spectrum[:, start : start + weight.size] * weight.astype(wave.dtype), n=samples, norm="ortho")
        for start, weight, samples in subbands(wave.shape[1], wavelets)
    ]


def inverse_tqwt(coefficients: list[Waves], samples: int, wavelets: Wavelets) -> Waves:
    """Subbands of `tqwt` -> wave (B, samples); the filters' squares sum to 1, so it is the adjoint and the inverse."""
    first = coefficients[0]
    spectrum = np.zeros((len(first), samples // 2 + 1), np.result_type(first, np.complex64))
    for band, (start, weight, _) in zip(coefficients, subbands(samples, wavelets), strict=True):
        spectrum[:, start : start + weight.size] += fft.rfft(band, norm="ortho") * weight.astype(first.dtype)
    return np.asarray(fft.irfft(spectrum, n=samples, norm="ortho"))


def max_stages(samples: int, q: float, redundancy: float) -> int:
    """Length of a wave -> the most stages it allows: floor(ln(beta N / 8) / ln(1 / alpha)), never below 0."""
    beta = 2 / (q + 1)
    alpha = 1 - beta / redundancy
    return max(0, math.floor(math.log(beta * samples / 8) / math.log(1 / alpha))) if samples else 0


def subbands(samples: int, wavelets: Wavelets) -> list[Subband]:
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
    found, length = [], samples
    for stage in range(1, stages + 1):
        low = 2 * round(alpha**stage * samples / 2)
        high = 2 * round(beta * alpha ** (stage - 1) * samples / 2)
        start, wide = (length - high) // 2, (low + high - length) // 2 - 1  # pass band; transition
        angle = np.arange(1, wide + 1) / (wide + 1) * np.pi
        theta = (1 + np.cos(angle)) * np.sqrt(2 - np.cos(angle)) / 2
        rising = np.ones(high // 2 + 1)
        rising[0], rising[1 : wide + 1] = 0, theta[::-1]
        found.append(Subband(start, passed[start : start + high // 2 + 1] * rising, high))
        passed = passed[: low // 2 + 1].copy()
        passed[start + 1 : start + wide + 1] *= theta
        passed[-1] = 0
        length = low
    found.append(Subband(0, passed, length))
    return found


def wavelet_norms(bands: list[Subband]) -> NDArray[np.float64]:
    """Subbands -> (J + 1,) norms of their synthesis waveforms: of one coefficient 1, every bin has the same share."""
    squares = [2 * np.square(weight).sum() - weight[0] ** 2 - weight[-1] ** 2 for _, weight, _ in bands]
    return np.sqrt([square / band.samples for square, band in zip(squares, bands, strict=True)])


def dual_q(
    wave: Waves,
    high: Wavelets = HIGH_Q,
    low: Wavelets = LOW_Q,
    *,
    penalty: float = 0.1,
    mu: float = 0.1,
    iterations: int = 100,
) -> tuple[Waves, Waves, Waves]:
    """(B, N) -> high-Q part, low-Q part and residual, each (B, N), adding up to the wave. Raises as `subbands` does.

    Morphological component analysis by SALSA: the coefficients w of both transforms make
    |x - x1 - x2|^2 + penalty * sum of |norm_j w_j| small. Each iteration, with t_j = penalty * norm_j / (2 mu):
    u = soft(w + d, t) - d; c = (x - itqwt1(u1) - itqwt2(u2)) / (mu + 2); d = tqwt(c); w = d + u.
    Since soft(v, t) = v - clip(v, -t, t), u is w less the clipped w + d. Only that happens in time, subband after
    subband while its numbers are in the processor's cache; sums and differences of waves stay spectra, their real and
    imaginary parts side by side as real numbers, since the weights are real.
    """
    samples, kind = wave.shape[1], wave.dtype
    parts = (subbands(samples, high), subbands(samples, low))
    bands = [*parts[0], *parts[1]]
    thresholds = [penalty * float(norm) / (2 * mu) for part in parts for norm in wavelet_norms(part)]
    # with the factor that makes the band's FFT unitary, which scipy would spend another pass on
    weights = [(band.weight.repeat(2) * band.samples**-0.5).astype(kind) for band in bands]
    # scipy is the faster one up to there, torch (MKL) beyond; together a tenth faster than either alone
    scipys = [max(prime_factors(band.samples)) < 100 for band in bands]
    stretches = [
        slice(2 * band.start, 2 * band.start + weight.size) for band, weight in zip(bands, weights, strict=True)
    ]

    spectrum = fft.rfft(wave, norm="ortho").view(kind)  # (B, N + 2)
    rest = spectrum  # of c; w starts as tqwt(x), d and u as 0
    u: list[Waves] = []
    for iteration in range(iterations + 1):
        coming = spectrum.copy()
        for j, (band, weight, stretch, threshold) in enumerate(zip(bands, weights, stretches, thresholds, strict=True)):
            moved = (rest[:, stretch] * weight).view(np.result_type(kind, np.complex64))
            d = fft.irfft(moved, n=band.samples, norm="forward") if scipys[j] else _torch_irfft(moved, band.samples)
            if iteration == 0:
                u.append(d - np.clip(d, -threshold, threshold))
            else:
                w = u[j]
                w += d
                if iteration == iterations:
                    continue
                d += w
                w -= np.clip(d, -threshold, threshold, out=d)
            back = (fft.rfft(u[j]) if scipys[j] else torch.fft.rfft(torch.from_numpy(u[j])).numpy()).view(kind)
            back *= weight
            coming[:, stretch] -= back
        coming /= mu + 2
        rest = coming
    high_part, low_part = (
        inverse_tqwt(coefficients, samples, wavelets)
        for coefficients, wavelets in ((u[: len(parts[0])], high), (u[len(parts[0]) :], low))
    )
    return high_part, low_part, wave - high_part - low_part


def _torch_irfft(spectrum: NDArray[np.complexfloating], samples: int) -> Waves:
    wave: Waves = torch.fft.irfft(torch.from_numpy(spectrum), n=samples, norm="forward").numpy()
    return wave
