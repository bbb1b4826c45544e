"""Level of a recording in dB: per channel, and 25 times a second in nine frequency bands."""

from functools import reduce

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rales.typing import Float32Array

FRAME_HZ = 25
RATE_HZ = 4000  # much of the ICBHI database has nothing above 2 kHz
FFT_SAMPLES = 256
EDGES_HZ = (60, 100, 150, 220, 320, 450, 630, 880, 1220, 1700)
FLOOR = 0.01  # of a band's median energy: deeper silence counts as no deeper
DEAD_DB = -50.0  # of the loudest channel: a channel below holds no sound, only the noise of its input
SILENCE = 1e-9  # of the loudest frame's energy: less is no sound but digital silence


def live_channels(energy: NDArray[np.float64]) -> tuple[int, ...] | None:
    """(channels,) energy of a whole recording without its mean -> numbers from 0 of the channels that hold sound, which
    are those that are mixed; None where all do, or none."""
    live = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (DEAD_DB / 10))
    return tuple(live.tolist()) if 0 < len(live) < len(energy) else None


def band_levels(
    wave: Float32Array, rate_hz: int, slow: Float32Array | None = None
) -> tuple[Float32Array, NDArray[np.bool_]]:
    """(N,) mono at any rate, and what `to_4_khz` makes of it if that is known -> levels (frames, bands) and which
    frames are silent (frames,).

    A level is the natural logarithm of a band's energy over its median in the recording. A frame that holds no sound
    at all is at level 0, as if nothing had changed, and marked as silent.
    """
    wave = to_4_khz(wave, rate_hz) if slow is None else slow
    hop = RATE_HZ // FRAME_HZ
    frames = wave.size // hop
    if frames == 0:
        return np.zeros((0, len(EDGES_HZ) - 1), np.float32), np.zeros(0, np.bool_)
    padded = np.pad(wave, FFT_SAMPLES // 2)
    pieces = sliding_window_view(padded, FFT_SAMPLES)[hop // 2 :: hop][:frames]  # centred on the middle of its frame
    spectrum = np.fft.rfft(pieces * np.hanning(FFT_SAMPLES).astype(np.float32), axis=1)
    first = np.ceil(np.array(EDGES_HZ) * FFT_SAMPLES / RATE_HZ).astype(int)
    power = spectrum.real**2 + spectrum.imag**2
    energy = np.add.reduceat(power[:, : first[-1]], first[:-1], axis=1)
    total = energy.sum(axis=1)
    silent = total <= SILENCE * total.max()
    if silent.any():  # a frame at the edge of silence holds part of it
        silent = silent | np.append(silent[1:], False) | np.append(False, silent[:-1])
    levels = np.zeros(energy.shape, np.float32)
    if not silent.all():
        heard = energy[~silent]
        median = np.maximum(np.median(heard, axis=0), SILENCE * total.max())
        levels[~silent] = np.log(heard / median + FLOOR)
    return levels, silent


def to_4_khz(wave: Float32Array, rate_hz: int) -> Float32Array:
    """(N,) -> (about N * 4000 / rate_hz,): means of neighbours as long as 8 kHz are left, then a resampler.

    Faster than the resampler alone. What the means fold into the bands comes from above 6 kHz, where
    breathing has next to nothing, and is weakened by 10 dB or more.
    """
    apart = max(1, rate_hz // (2 * RATE_HZ))
    if apart > 1:
        neighbours = wave[: wave.size // apart * apart].reshape(-1, apart)
        # Not a product with a vector: BLAS would wake all its threads for it, which then spin beside the other readers
        wave = reduce(np.add, neighbours.T) * np.float32(1 / apart)
    if rate_hz == apart * RATE_HZ or wave.size == 0:
        return wave
    return np.asarray(soxr.resample(wave, rate_hz / apart, RATE_HZ, quality="LQ"), dtype=np.float32)
