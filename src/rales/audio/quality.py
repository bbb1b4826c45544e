"""Decide whether a sound can be judged at all, from a few interpretable measures and limits on them.

A classifier of breaths names a class for anything: digital silence is "normal" to it, rain is "both". So a stretch of a
recording is measured first. What carries no sound, or a sound that is not a chest's, gets no class; what is merely
poor (a dead channel, a tenth of the samples clipped) is said and answered. benchmarks/quality.py chose the limits on
recordings of train patients, by the plan in its docstring, and counts what they refuse on others.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rales.audio.band_energy import RATE_HZ, live_channels, to_4_khz
from rales.typing import Float32Array

SEGMENT_S = 30.0  # of a recording that is judged by itself, so that talk for a minute does not cost the whole night
FRAME_S = 0.064
SHORTEST_S = 0.2  # the shortest annotated cycle of ICBHI 2017
CHUNK = 1 << 15  # samples that are in float64 together
FEWEST_LOUD = 5  # frames in which a voice is looked for
SHORTEST_RHYTHM_S = 2.0  # a breath lasts 2.7 s on average; in less than this, no rhythm can be missed
SILENCE = 1e-10  # variance of a frame, 100 dB below full scale: not one step of a 16-bit converter
SILENT_FRACTION = 0.9  # of a cycle: so much digital silence leaves nothing to judge

# Limits beyond which there is no class
LOWEST_LEVEL_DB = -85.0  # below full scale, of the loudest frames: two steps of a 16-bit converter
CANCELLED = 0.05  # power of the mix over that of its channels; n unrelated channels give 1 / n
CLIPPED = 0.5  # share of the samples at an end of the scale; annotated ICBHI recordings have up to 0.19
HUM = 0.98  # share of the energy that is lines of the mains; annotated ICBHI recordings have up to 0.94
STEADY_DB = 0.9  # spread of the level from quarter second to quarter second; white noise has 0.3
HIGH, FALL_DB = 0.05, 10.0  # both beyond: more energy above 1.3 kHz, and falling off less, than sound from a chest
VOICED = 0.075  # share of a spectrum's ripple at one spacing, in the most voiced tenth of the loud frames

# Limits beyond which something is said
QUIET_DB = -65.0
SOME_CLIPPED = 0.05
OFFSET = 1.0  # of the mean over the standard deviation
SOME_HUM = 0.5
HIGHEST_HUM_HZ = 300  # of the lines that count


class Verdict(NamedTuple):
    """`quality` is "ok" or the name of what is wrong, `reason` a phrase for people ("" where ok); `judged` tells
    whether a class may be given all the same."""

    quality: str = "ok"
    reason: str = ""
    judged: bool = True


OK = Verdict()
UNCHECKED = Verdict("not_checked")
NO_RHYTHM = Verdict("no_rhythm", "no rhythm of breathing found")  # annotated recordings are like that too, now and then
NO_SOUND = ("too_short", "no_signal", "antiphase")  # what not even an annotation can give a class


class QualitySegment(NamedTuple):
    """Part of a recording in seconds, its verdict, and which of its `FRAME_S` frames are digital silence."""

    start_s: float
    end_s: float
    verdict: Verdict
    silent: NDArray[np.bool_]


class Measures(NamedTuple):
    """What is known of a stretch of sound; NaN where it is too short to tell, or silent."""

    duration_s: float
    silent: NDArray[np.bool_]  # (frames,) of the mix without sound
    level_db: float  # RMS of the loudest twentieth of the frames, below full scale
    cancelled: float
    dead: tuple[int, ...]  # channels that are not mixed as they hold no sound, counted from 1
    clipped: float
    offset: float
    hum: float
    steady_db: float
    high: float  # share of the energy at 60 to 1,900 Hz that lies above 1,300 Hz
    fall_db: float  # density of the energy at 100 to 300 Hz over that at 900 to 1,800 Hz
    voiced: float


def judge_quality(sound: Float32Array, rate_hz: int) -> Verdict:
    """(N,) or (N, channels) in -1 to 1 -> Verdict on up to a minute of sound; a longer one goes by `judge_segments`."""
    live = live_channels(channel_variances(sound.reshape(len(sound), -1)))
    return verdict_of_span(list(judge_segments([(sound, rate_hz)], live)), 0.0, len(sound) / rate_hz)


def judge_segments(
    blocks: Iterable[tuple[Float32Array, int]], live: Sequence[int] | None = None, slow: Float32Array | None = None
) -> Iterator[QualitySegment]:
    """Consecutive blocks (n, channels) of a recording, their rate, the channels that are mixed (None: all), and of a
    single block what `to_4_khz` makes of its mix if that is known -> the same stretches of time with a verdict."""
    begin = 0
    for block, rate_hz in blocks:
        measures = measure_quality(block, rate_hz, live, slow)
        yield QualitySegment(
            begin / rate_hz, (begin + len(block)) / rate_hz, verdict_of_measures(measures), measures.silent
        )
        begin += len(block)


def verdict_of_span(parts: Sequence[QualitySegment], start_s: float, end_s: float) -> Verdict:
    """Stretches of a recording, and a cycle in it -> the cycle's verdict: that of the stretch in which its middle lies,
    unless the cycle is digital silence."""
    first, middle, last = (segment_index_at(parts, time_s) for time_s in (start_s, (start_s + end_s) / 2, end_s))
    verdict = parts[middle].verdict
    if verdict.quality in NO_SOUND:
        return verdict
    inside = []
    for part in parts[first : last + 1]:
        begin, end = (max(0, round((time_s - part.start_s) / FRAME_S)) for time_s in (start_s, end_s))
        inside.append(part.silent[begin:end])
    silent = np.concatenate(inside)
    return no_signal(silent.mean()) if len(silent) and silent.mean() >= SILENT_FRACTION else verdict


def segment_index_at(parts: Sequence[QualitySegment], time_s: float) -> int:
    """-> the number of the stretch that holds a time."""
    return max(0, bisect_right(parts, time_s, key=lambda part: part.start_s) - 1)


def find_missing_sound(wave: Float32Array, rate_hz: int) -> Verdict | None:
    """One cycle (N,) that a person has marked -> why it cannot be judged all the same, None if it can."""
    verdict = judge_quality(wave, rate_hz)
    return verdict if verdict.quality == "no_signal" else None


def verdict_of_measures(found: Measures) -> Verdict:
    """Measures -> Verdict; the first limit that is passed is the reason, those that leave no class come first."""
    return find_rejection(found) or find_remark(found) or OK


def find_rejection(found: Measures) -> Verdict | None:
    """Measures -> why there is no class, None if there can be one. A comparison with NaN is false: not known."""

    def no(quality: str, reason: str) -> Verdict:
        return Verdict(quality, reason, judged=False)

    if found.duration_s < SHORTEST_S:
        return no("too_short", f"lasts {1000 * found.duration_s:.3g} ms, less than any breath")
    if found.cancelled < CANCELLED:
        return no("antiphase", "the channels are each other's negative and cancel when mixed; save one of them alone")
    if found.silent.all():
        return no_signal(1.0)
    if found.level_db < LOWEST_LEVEL_DB:
        return no("no_signal", f"no sound above the converter's noise, at most {found.level_db:.0f} dB of full scale")
    if found.clipped > CLIPPED:
        return no("clipped", f"{as_percent(found.clipped)} of the samples are cut off at the end of the scale")
    if found.hum > HUM or (found.hum > SOME_HUM and found.steady_db < STEADY_DB):
        return no("hum", f"mains hum, {as_percent(found.hum)} of the energy")
    if found.steady_db < STEADY_DB:
        return no(
            "no_breathing", f"a steady sound, its level varies by {found.steady_db:.1f} dB: no rhythm of breathing"
        )
    if found.high > HIGH and found.fall_db < FALL_DB:
        return no("not_chest", f"not the spectrum of sound from a chest, {as_percent(found.high)} lies above 1,300 Hz")
    if found.voiced > VOICED:
        return no("voice", "a voice, or another sound of many harmonics, covers the breathing")
    return None


def no_signal(share: float) -> Verdict:
    """Share of the time that is digital silence -> Verdict."""
    return Verdict(
        "no_signal", "digital silence" + (f", {as_percent(share)} of the time" if share < 1 else ""), judged=False
    )


def find_remark(found: Measures) -> Verdict | None:
    """Measures -> what is to be said beside a class, None if nothing; first what moves the class."""
    if found.offset > OFFSET:
        large = f"a constant offset {found.offset:.1f} times as large as the sound"
        return Verdict(
            "dc_offset", f"{large} moves class and probabilities: do not trust them; subtract the mean first"
        )
    if found.dead:
        some = ", ".join(map(str, found.dead))
        return Verdict("dead_channel", f"no sound in channel {some}")
    if found.clipped > SOME_CLIPPED:
        return Verdict("clipped", f"{as_percent(found.clipped)} of the samples are cut off at the end of the scale")
    if found.hum > SOME_HUM:
        return Verdict("hum", f"mains hum, {as_percent(found.hum)} of the energy")
    if found.level_db < QUIET_DB:
        return Verdict("quiet", f"very quiet, at most {found.level_db:.0f} dB of full scale")
    return None


def as_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# Measures


def measure_quality(
    sound: Float32Array, rate_hz: int, live: Sequence[int] | None = None, slow: Float32Array | None = None
) -> Measures:
    """(N,) or (N, channels) float32, the channels that are mixed (None: all), and what `to_4_khz` makes of the mix if
    that is known -> Measures of the mix."""
    channels = np.asarray(sound, dtype=np.float32).reshape(len(sound), -1)
    count = channels.shape[1]
    if live is not None:
        channels = channels[:, list(live)]
    power = channel_variances(channels)
    mix = np.zeros(len(channels), np.float32)
    if power.any():
        mix = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
    frames = split_into_frames(mix, rate_hz)
    power_of_frames = frames.var(axis=1)
    silent = power_of_frames < SILENCE
    spread = float(power[0]) if len(power) == 1 else chunked_variance(mix)
    known = dict.fromkeys(("level_db", "hum", "steady_db", "high", "fall_db", "voiced"), np.nan)
    if not silent.all():
        known["level_db"] = power_to_decibels(float(np.sort(power_of_frames)[-max(1, len(frames) // 20) :].mean()))
        slow = to_4_khz(mix, rate_hz) if slow is None else slow  # what follows lies below 2 kHz, where breathing is
        known |= measure_spectra(split_into_frames(slow, RATE_HZ), silent)
        known["hum"] = hum_fraction(slow)
    return Measures(
        duration_s=len(channels) / rate_hz,
        silent=silent,
        cancelled=spread / float(power.mean()) if power.any() else 1.0,
        dead=() if live is None else tuple(number + 1 for number in range(count) if number not in live),
        clipped=clipped_fraction(mix),
        offset=float(abs(mix.mean())) / spread**0.5 if spread else 0.0,
        **known,
    )


def channel_variances(channels: Float32Array) -> NDArray[np.float64]:
    """(N, channels) -> (channels,) variances."""
    return np.array([chunked_variance(channel) for channel in channels.T])


def chunked_variance(wave: Float32Array) -> float:
    """(N,) -> its variance, in pieces so that nothing as long as the wave is made.

    The sums are of float64, those of float32 lose a quiet sound beside an offset, and of what differs from the first
    sample, so that a constant has exactly none.
    """
    total = power = 0.0
    for start in range(0, len(wave), CHUNK):
        chunk = np.subtract(wave[start : start + CHUNK], wave[0], dtype=np.float64)
        total += float(chunk.sum())
        power += float(chunk @ chunk)
    return max(0.0, power / len(wave) - (total / len(wave)) ** 2) if len(wave) else 0.0


def split_into_frames(wave: Float32Array, rate_hz: int) -> Float32Array:
    """(N,) -> (frames, samples), one behind the other; a rest is left out."""
    samples = max(1, round(FRAME_S * rate_hz))
    return wave[: len(wave) // samples * samples].reshape(-1, samples)


def clipped_fraction(wave: Float32Array) -> float:
    """(N,) -> share of the samples that lie at an end of the wave's range, beside another one that does."""
    if len(wave) < 2:
        return 0.0
    low, high = float(wave.min()), float(wave.max())
    margin = 0.001 * (high - low)
    at_high, at_low = wave >= high - margin, wave <= low + margin
    if np.count_nonzero(at_high) + np.count_nonzero(at_low) < SOME_CLIPPED * len(wave):
        return 0.0  # too few to be worth a closer look
    beside = np.count_nonzero(at_high[1:] & at_high[:-1]) + np.count_nonzero(at_low[1:] & at_low[:-1])
    return beside / (len(wave) - 1) if high > low else 0.0


def hum_fraction(slow: Float32Array) -> float:
    """(N,) at 4 kHz -> share of the energy at 40 to 2,000 Hz that stands out of its neighbourhood within 1 Hz of the
    multiples of 50 or of 60 Hz; a heart's energy at 50 Hz lies beside the line as well as on it."""
    seconds = slow[: len(slow) // RATE_HZ * RATE_HZ].reshape(-1, RATE_HZ)
    if not len(seconds):
        return np.nan
    spectra = np.fft.rfft(seconds * np.hanning(RATE_HZ).astype(np.float32), axis=1)  # bins of 1 Hz
    power = (spectra.real**2 + spectra.imag**2).sum(axis=0, dtype=np.float64)
    total = power[40:].sum()
    shares = []
    for mains_hz in (50, 60):
        lines = np.arange(mains_hz, HIGHEST_HUM_HZ + 1, mains_hz)
        on = power[np.add.outer(lines, (-1, 0, 1))].sum(axis=1)
        beside = power[np.add.outer(lines, (-5, -4, -3, 3, 4, 5))].sum(axis=1) / 2
        shares.append(np.maximum(on - beside, 0).sum() / total if total > 0 else np.nan)
    return float(max(shares))


def measure_spectra(frames: Float32Array, silent: NDArray[np.bool_]) -> dict[str, float]:
    """(frames, 256) at 4 kHz, and which of them are silent -> the measures of the spectrum."""
    count, samples = min(len(frames), len(silent)), frames.shape[1]
    sounding = frames[:count][~silent[:count]]
    centred = sounding - sounding.mean(axis=1, keepdims=True)
    spectra = np.fft.rfft(centred * np.hanning(samples).astype(np.float32), axis=1)
    power = (spectra.real**2 + spectra.imag**2).astype(np.float32)
    hz = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    mean = power.mean(axis=0) if len(power) else np.zeros(len(hz))
    chest = (hz >= 60) & (hz < 1900)
    low, high = (float(mean[(hz >= start) & (hz < end)].mean()) for start, end in ((100, 300), (900, 1800)))
    return {
        "steady_db": steadiness_db(power[:, (hz >= 150) & (hz < 1220)].sum(axis=1)),
        "high": float(mean[chest & (hz > 1300)].sum() / mean[chest].sum()) if mean[chest].any() else np.nan,
        "fall_db": power_to_decibels(low) - power_to_decibels(high),
        "voiced": measure_voicing(power[:, (hz >= 100) & (hz < 1950)], float(hz[1])),
    }


def steadiness_db(energy: Float32Array) -> float:
    """(frames,) energy of the band that breathing fills -> standard deviation of the level of quarter seconds in dB."""
    apart = 4  # frames of 64 ms
    if len(energy) < SHORTEST_RHYTHM_S / FRAME_S:
        return np.nan
    quarters = energy[: len(energy) // apart * apart].reshape(-1, apart).mean(axis=1)
    return float(np.std(10 * np.log10(quarters + 1e-12 * quarters.max() + 1e-30)))


def measure_voicing(power: Float32Array, bin_hz: float) -> float:
    """(frames, bins) -> how much of the ripple of a frame's spectrum has one spacing between 90 and 450 Hz, as the
    harmonics of a voice have: the 90th percentile of the louder frames. A wheeze is one line or few, and no ripple.
    """
    energy = power.sum(axis=1)
    loud = power[energy > np.percentile(energy, 60)] if len(energy) else power
    if len(loud) < FEWEST_LOUD:
        return np.nan
    level = np.log(loud + 1e-3 * loud.mean(axis=1, keepdims=True) + 1e-30)
    at = np.arange(level.shape[1]) - (level.shape[1] - 1) / 2
    level -= level.mean(axis=1, keepdims=True)
    level -= np.outer(level @ at / (at @ at), at)  # what falls off evenly is no ripple
    points = 512
    ripple = np.abs(np.fft.rfft(level * np.hanning(level.shape[1]), points, axis=1)) ** 2
    spacing_hz = points * bin_hz / np.maximum(np.arange(ripple.shape[1]), 1e-9)
    voice = (spacing_hz >= 90) & (spacing_hz <= 450)
    whole = ripple[:, (spacing_hz > 45) & (spacing_hz < np.inf)][:, 1:].sum(axis=1)
    return float(np.percentile(ripple[:, voice].max(axis=1) / (whole + 1e-30), 90))


def power_to_decibels(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-30))) if power == power else np.nan
