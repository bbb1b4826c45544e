"""Split a cycle into a high-Q part, a low-Q part and a residual (LungAttn): wheezes ring, crackles click.

Source of the formulas: Selesnick, "Resonance-based signal decomposition" (2011); LungAttn's constants.
"""

from collections.abc import Sequence
from functools import cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from rales.audio.tqwt import Wavelets, inverse_tqwt, plan_subbands, wavelet_norms
from rales.typing import RealArray, Waveform

HIGH_Q = Wavelets(q=4, redundancy=3, stages=30)
LOW_Q = Wavelets(q=1, redundancy=3, stages=10)
LEAST_SAMPLES = 1464  # 30 stages at Q = 4 need as many; 24 cycles of the database are shorter at 4 kHz
CYCLES_AT_ONCE = 64


def decompose_cycles_dual_q(
    waves: Sequence[Waveform], *, iterations: int = 100
) -> list[tuple[Waveform, Waveform, Waveform]]:
    """Cycles (N_i,) at 4 kHz -> their high-Q, low-Q and residual parts, as long as the cycles; float32 throughout.

    Each is continued by its reflection to `padded_length` and cut back afterwards (LungAttn appends one zero to an odd
    length, and cannot split cycles under 0.366 s). Cycles of one padded length share batches, and what a cycle gives
    does not depend on the others.
    """
    padded = [padded_length(wave.size) for wave in waves]
    parts: list[tuple[Waveform, Waveform, Waveform]] = [()] * len(waves)  # type: ignore[list-item]
    for samples, of_one_length in groupby(sorted(range(len(waves)), key=padded.__getitem__), key=padded.__getitem__):
        numbers = list(of_one_length)
        for first in range(0, len(numbers), CYCLES_AT_ONCE):
            chosen = numbers[first : first + CYCLES_AT_ONCE]
            batch = np.stack([np.pad(waves[i], (0, samples - waves[i].size), mode="reflect") for i in chosen])
            split = decompose_dual_q(batch.astype(np.float32), iterations=iterations)
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
    """Even length -> work of one iteration: samples of all subbands, times what one costs (nanoseconds).

    Measured on one core: the two FFTs of a subband 2.2 ns a sample where no prime factor is above 13, else 5.5 ns, the
    sums between them 3 ns.
    """
    work = 0.0
    for q, redundancy, stages in (HIGH_Q, LOW_Q):
        beta = 2 / (q + 1)
        alpha = 1 - beta / redundancy
        halves = [round(beta * alpha ** (j - 1) * samples / 2) for j in range(1, stages + 1)]
        for half in (*halves, round(alpha**stages * samples / 2)):
            work += 2 * half * (5.2 if max(prime_factors(half), default=1) <= 13 else 8.5)
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


def decompose_dual_q(
    wave: RealArray,
    high: Wavelets = HIGH_Q,
    low: Wavelets = LOW_Q,
    *,
    penalty: float = 0.1,
    mu: float = 0.1,
    iterations: int = 100,
) -> tuple[RealArray, RealArray, RealArray]:
    """(B, N) -> high-Q part, low-Q part and residual, each (B, N), adding up to the wave. Raises as `plan_subbands`
    does.

    Morphological component analysis by SALSA: the coefficients w of both transforms make
    |x - x1 - x2|^2 + penalty * sum of |norm_j w_j| small. Each iteration, with t_j = penalty * norm_j / (2 mu):
    u = soft(w + d, t) - d; c = (x - itqwt1(u1) - itqwt2(u2)) / (mu + 2); d = tqwt(c); w = d + u.
    Since soft(v, t) = v - clip(v, -t, t), u is w less the clipped w + d. Only that happens in time, subband after
    subband while its numbers are in the processor's cache; sums and differences of waves stay spectra, their real and
    imaginary parts side by side as real numbers, since the weights are real.
    """
    from scipy import fft  # not with the module: every start of the command would wait for it

    samples, kind = wave.shape[1], wave.dtype
    parts = (plan_subbands(samples, high), plan_subbands(samples, low))
    bands = [*parts[0], *parts[1]]
    thresholds = [penalty * float(norm) / (2 * mu) for part in parts for norm in wavelet_norms(part)]
    # with the factor that makes the band's FFT unitary, which scipy would spend another pass on
    weights = [(band.weight.repeat(2) * band.samples**-0.5).astype(kind) for band in bands]
    scipys = [13 < max(prime_factors(band.samples)) < 61 for band in bands]  # where it is faster than torch's MKL
    stretches = [
        slice(2 * band.start, 2 * band.start + weight.size) for band, weight in zip(bands, weights, strict=True)
    ]

    spectrum = fft.rfft(wave, norm="ortho").view(kind)  # (B, N + 2)
    rest = spectrum  # of c; w starts as tqwt(x), d and u as 0
    u: list[RealArray] = []
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


def _torch_irfft(spectrum: NDArray[np.complexfloating], samples: int) -> RealArray:
    wave: RealArray = torch.fft.irfft(torch.from_numpy(spectrum), n=samples, norm="forward").numpy()
    return wave
