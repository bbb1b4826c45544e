"""Bring cycles to a fixed length, each system in its way: split long ones, fill up short ones."""

from typing import Literal

import numpy as np

from rales.audio.io import fade_edges, icbhi_cycle, resample_waveform
from rales.typing import Waveform

Pad = Literal["repeat", "zero", "duplicate", "reflect"]


def prepare_waveform(
    wave: Waveform,
    native_hz: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
    pad: Pad,
    fade_samples: int,
) -> Waveform:
    """One cycle as recorded (N,) -> (samples,) as a network hears it: resampled, faded, cut or filled up."""
    wave = resample_waveform(wave, native_hz, to_hz=rate_hz, method=resampler)
    if pad == "duplicate":
        return pad_by_repetition(fade_edges(wave, fade_samples)[:samples], samples)
    if pad == "reflect":
        return pad_by_reflection(fade_edges(wave, fade_samples), samples)
    return icbhi_cycle(wave, samples=samples, pad=pad, fade_samples=fade_samples)


def split_long_cycle(wave: Waveform, samples: int) -> list[Waveform]:
    """(N,) -> one or more waves of at most `samples` samples (RespireNet).

    A longer cycle becomes every whole piece that starts half a piece after the one before, and what is left from the
    next such start on; only that last one is shorter. A cycle of exactly that length or less stays one piece.
    """
    if wave.size <= samples:
        return [wave]
    hop = samples // 2
    whole = 1 + (wave.size - samples) // hop
    starts = [hop * number for number in range(whole + 1)]
    return [wave[start : start + samples] for start in starts if start < wave.size]


def pad_by_repetition(
    wave: Waveform, samples: int, side: Literal["after", "before"] = "after", filler: Waveform | None = None
) -> Waveform:
    """(N,) -> (samples,): the wave whole, filled with its own repetition behind it or in front of it (RespireNet).

    Behind comes the head of the repeated filler, in front its tail. The filler is the wave, or the whole cycle if the
    wave is a piece of it. The published code tosses the side once for every item, test items too; here the caller
    decides, and evaluation fills behind. Errors: an empty or a longer wave.
    """
    if not 0 < wave.size <= samples:
        raise ValueError(f"a wave of {wave.size} samples was given, expected 1 to {samples}")
    filler = wave if filler is None else filler
    missing = samples - wave.size
    repeated = np.tile(filler, max(1, -(-missing // filler.size)))
    if side == "before":
        return np.concatenate([repeated[repeated.size - missing :], wave])
    return np.concatenate([wave, repeated[:missing]])


def pad_by_reflection(wave: Waveform, samples: int) -> Waveform:
    """(N,) -> (samples,): cut, or continued by its mirror image, again and again if need be (Nguyen & Pernkopf)."""
    if wave.size == 0:
        raise ValueError("an empty wave was given, expected at least one sample")
    if wave.size >= samples:
        return wave[:samples]
    mode: Literal["reflect", "edge"] = "reflect" if wave.size > 1 else "edge"
    return np.asarray(np.pad(wave, (0, samples - wave.size), mode=mode))
