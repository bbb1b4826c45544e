"""Time of the high-Q / low-Q / residual split of cycles at 4 kHz, batched, beside a plain one clip by clip.

    python benchmarks/tqwt_speed.py                       # cycles of random lengths as in ICBHI
    python benchmarks/tqwt_speed.py --data ICBHI_folder   # every annotated cycle of a folder

The plain one is written as the formulas stand in the papers: stage after stage, full spectra, numpy in float64. It gets
`--plain` cycles spread over all lengths, as they are but for a zero behind an odd number of samples, as the published
code treats them; the batched one gets all cycles, in groups of nearly one length as the cache makes them, shared among
`--threads` threads. The ratios are those of time for a second of sound: of processor time, which other work on the
machine disturbs least, and of time on the clock. Then both get the same padded waves, to compare what they give.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rales.audio.tqwt import Wavelets
from rales.audio.tqwt_decomposition import HIGH_Q, LEAST_SAMPLES, LOW_Q, decompose_cycles_dual_q, padded_length
from rales.data.waveform_cache import TOGETHER

Numbers = NDArray[np.float64]
Spectrum = NDArray[np.complex128]
RATE_HZ = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder in ICBHI layout")
    parser.add_argument("--cycles", type=int, default=64, help="how many cycles without --data")
    parser.add_argument("--plain", type=int, default=6, help="how many of them the plain one gets")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="groups at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    waves = cycles_of(options.data) if options.data else synthetic_cycles(options.cycles)
    by_length = np.argsort([wave.size for wave in waves])
    seconds = sum(wave.size for wave in waves) / RATE_HZ
    split, fast = batched(waves, by_length, options.iterations, options.threads)

    long_enough = [i for i in by_length if waves[i].size >= LEAST_SAMPLES]
    chosen = [long_enough[i] for i in np.linspace(0, len(long_enough) - 1, options.plain + 2).astype(int)[1:-1]]
    begin = clocks()
    for i in chosen:
        plain_dual_q(np.pad(waves[i].astype(np.float64), (0, waves[i].size % 2)), HIGH_Q, LOW_Q, options.iterations)
    plain = (clocks() - begin) / (sum(waves[i].size for i in chosen) / RATE_HZ)
    fast /= seconds
    furthest = 0.0
    for i in chosen[:2]:
        wanted = plain_dual_q(padded(waves[i]), HIGH_Q, LOW_Q, options.iterations)
        difference = [np.abs(part - whole[: waves[i].size]).max() for part, whole in zip(split[i], wanted, strict=True)]
        furthest = max(furthest, *difference)

    print(f"{len(waves)} cycles, {seconds:.0f} s of sound at {RATE_HZ} Hz, {options.iterations} iterations")
    print("milliseconds for a second of sound  processor    clock")
    rows = {f"batched, float32, {options.threads} thread(s)": 1000 * fast, f"plain, {len(chosen)} cycles": 1000 * plain}
    for name, figures in {**rows, "ratio": plain / fast}.items():
        print(f"{name:34} {figures[0]:10.1f} {figures[1]:8.1f}")
    print(f"largest difference of a sample {furthest:.1e} (waves in [0, 1])")


def batched(
    waves: list[NDArray[np.float32]], order: NDArray[np.intp], iterations: int, threads: int
) -> tuple[dict[int, tuple[NDArray[np.float32], ...]], Numbers]:
    """Waves and their order by length -> parts of each, and `clocks` that it took."""
    groups = [order[first : first + TOGETHER].tolist() for first in range(0, len(waves), TOGETHER)]
    begin = clocks()
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(decompose_cycles_dual_q, [waves[i] for i in rows], iterations=iterations) for rows in groups
        ]
        parts = [job.result() for job in jobs]
    took = clocks() - begin
    return {
        i: found for rows, made in zip(groups, parts, strict=True) for i, found in zip(rows, made, strict=True)
    }, took


def clocks() -> NDArray[np.float64]:
    """-> (2,) seconds of this process's processor time and of the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def synthetic_cycles(count: int) -> list[NDArray[np.float32]]:
    """Noise and clicks in cycles of 0.2 to 16 s, median 2.5 s, as the database has them."""
    random = np.random.default_rng(0)
    waves = []
    for seconds in np.clip(random.lognormal(np.log(2.5), 0.4, count), 0.2, 16):
        wave = np.cumsum(random.standard_normal(int(RATE_HZ * seconds)))
        wave[random.integers(0, wave.size, 10)] += 30
        waves.append(((wave - wave.min()) / np.ptp(wave)).astype(np.float32))
    return waves


def cycles_of(folder: Path) -> list[NDArray[np.float32]]:
    from rales.audio.io import read_waveform, resample_waveform
    from rales.audio.spectrogram_images import lungattn_waveform
    from rales.data import read_cycles

    table = read_cycles(folder)
    waves = []
    for path, start_s, end_s in zip(table["path"], table["start_s"], table["end_s"], strict=True):
        wave, rate_hz = read_waveform(path, start_s, end_s)
        waves.append(resample_waveform(lungattn_waveform(wave, rate_hz), rate_hz, RATE_HZ))
    return waves


def padded(wave: NDArray[np.float32]) -> Numbers:
    """As `dual_q_of_cycles` pads."""
    return np.pad(wave.astype(np.float64), (0, padded_length(wave.size) - wave.size), mode="reflect")


def plain_dual_q(wave: Numbers, high: Wavelets, low: Wavelets, iterations: int) -> tuple[Numbers, Numbers, Numbers]:
    """(N,) -> high-Q part, low-Q part, residual: the iteration of Selesnick 2011 with penalty and mu 0.1."""
    samples, mu = wave.size, 0.1
    w = [plain_tqwt(wave, wavelets) for wavelets in (high, low)]
    d = [[np.zeros_like(band) for band in bands] for bands in w]
    thresholds = [0.1 * plain_norms(bands, samples, wl) / (2 * mu) for bands, wl in zip(w, (high, low), strict=True)]
    for _ in range(iterations):
        u = [
            [soft(wj + dj, tj) - dj for wj, dj, tj in zip(wi, di, ti, strict=True)]
            for wi, di, ti in zip(w, d, thresholds, strict=True)
        ]
        made = plain_inverse(u[0], samples, high) + plain_inverse(u[1], samples, low)
        c = (wave - made) / (mu + 2)
        d = [plain_tqwt(c, high), plain_tqwt(c, low)]
        w = [[dj + uj for dj, uj in zip(di, ui, strict=True)] for di, ui in zip(d, u, strict=True)]
    high_part, low_part = plain_inverse(w[0], samples, high), plain_inverse(w[1], samples, low)
    return high_part, low_part, wave - high_part - low_part


def soft(values: Numbers, threshold: float) -> Numbers:
    return np.asarray(np.sign(values) * np.maximum(np.abs(values) - threshold, 0))


def plain_norms(bands: list[Numbers], samples: int, wavelets: Wavelets) -> Numbers:
    """Norm of the wave that a single 1 in the middle of each subband makes."""
    norms = []
    for j in range(len(bands)):
        single = [np.zeros_like(band) for band in bands]
        single[j][round(single[j].size / 2)] = 1
        norms.append(np.linalg.norm(plain_inverse(single, samples, wavelets)))
    return np.array(norms)


def plain_tqwt(wave: Numbers, wavelets: Wavelets) -> list[Numbers]:
    """(N,) -> J + 1 subbands, one two-channel filter bank after the other."""
    spectrum = np.fft.fft(wave) / np.sqrt(wave.size)
    found = []
    for low, high in lengths_of(wave.size, wavelets):
        spectrum, band = filter_apart(spectrum, low, high)
        found.append(np.fft.ifft(band).real * np.sqrt(high))
    return [*found, np.fft.ifft(spectrum).real * np.sqrt(spectrum.size)]


def plain_inverse(bands: list[Numbers], samples: int, wavelets: Wavelets) -> Numbers:
    spectrum = np.fft.fft(bands[-1]) / np.sqrt(bands[-1].size)
    lengths = [samples, *(low for low, _ in lengths_of(samples, wavelets))]
    for band, length in zip(bands[-2::-1], lengths[-2::-1], strict=True):
        spectrum = filter_together(spectrum, np.fft.fft(band) / np.sqrt(band.size), length)
    return np.asarray(np.fft.ifft(spectrum).real * np.sqrt(samples))


def lengths_of(samples: int, wavelets: Wavelets) -> list[tuple[int, int]]:
    """-> (low-pass, high-pass) length of every stage."""
    q, redundancy, stages = wavelets
    beta = 2 / (q + 1)
    alpha = 1 - beta / redundancy
    return [
        (2 * round(alpha**j * samples / 2), 2 * round(beta * alpha ** (j - 1) * samples / 2))
        for j in range(1, stages + 1)
    ]


def transition(length: int, low: int, high: int) -> tuple[int, int, int, Numbers]:
    passed, wide, stopped = (length - high) // 2, (low + high - length) // 2 - 1, (length - low) // 2
    angle = np.arange(1, wide + 1) / (wide + 1) * np.pi
    return passed, wide, stopped, (1 + np.cos(angle)) * np.sqrt(2 - np.cos(angle)) / 2


def filter_apart(x: Spectrum, low: int, high: int) -> tuple[Spectrum, Spectrum]:
    n = x.size
    p, t, s, theta = transition(n, low, high)
    lower, upper = np.zeros(low, complex), np.zeros(high, complex)
    lower[: p + 1] = x[: p + 1]
    lower[p + 1 : p + t + 1] = x[p + 1 : p + t + 1] * theta
    lower[low - p - t : low - p] = x[n - p - t : n - p] * theta[::-1]
    lower[low - p :] = x[n - p :]
    upper[1 : t + 1] = x[p + 1 : p + t + 1] * theta[::-1]
    upper[t + 1 : t + s + 1] = x[p + t + 1 : p + t + s + 1]
    upper[high // 2] = x[n // 2]
    upper[high - t - s : high - t] = x[n - p - t - s : n - p - t]
    upper[high - t :] = x[n - p - t : n - p] * theta
    return lower, upper


def filter_together(lower: Spectrum, upper: Spectrum, n: int) -> Spectrum:
    low, high = lower.size, upper.size
    p, t, s, theta = transition(n, low, high)
    x = np.zeros(n, complex)
    x[: p + 1] = lower[: p + 1]
    x[p + 1 : p + t + 1] = lower[p + 1 : p + t + 1] * theta + upper[1 : t + 1] * theta[::-1]
    x[p + t + 1 : p + t + s + 1] = upper[t + 1 : t + s + 1]
    x[n // 2] = upper[high // 2]
    x[n - p - t - s : n - p - t] = upper[high - t - s : high - t]
    x[n - p - t : n - p] = lower[low - p - t : low - p] * theta[::-1] + upper[high - t :] * theta
    x[n - p :] = lower[low - p :]
    return x


if __name__ == "__main__":
    main()
