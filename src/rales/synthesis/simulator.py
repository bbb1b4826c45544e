"""Simulate breath sounds: airflow drives breath noise, crackles and wheezes; heart, noise and a device are added.

Sounds are made at RATE_HZ and added up in one unit, the RMS of breath noise at the peak flow of a usual inspiration.
Crackles and wheezes are set against the noise around them, so neither loudness nor the mean spectrum gives them away:
a crackle is told by its shape in time, a wheeze by a line that lasts. Parameters come from the literature named below,
the stethoscopes' levels and colours from statistics of the ICBHI 2017 recordings.
"""

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from rales.typing import FloatArray

RATE_HZ = 8000  # the chest wall passes next to nothing above 2 kHz; faster recordings are resampled from this
CRACKLE_PEAK = 9.0  # median peak over the RMS of the 150-1500 Hz noise around it; the noise alone reaches about 4
WHEEZE_LEVEL_DB = 14.0  # median level over the noise in the third of an octave around it

# Cut-off of breath noise in Hz by chest location (highest frequency in Gavriely et al., J Appl Physiol 50:307, 1981).
CUTOFF_HZ = {"Tc": 900.0, "Al": 400.0, "Ar": 400.0, "Pl": 300.0, "Pr": 300.0, "Ll": 300.0, "Lr": 300.0}
# Loudness of the heart by location: loudest in front on the left.
HEART_LEVEL = {"Tc": 0.3, "Al": 1.0, "Ar": 0.7, "Pl": 0.5, "Pr": 0.3, "Ll": 0.6, "Lr": 0.3}


@dataclass(frozen=True)
class Chest:
    """What makes the sounds of one person alike."""

    cutoff: float  # times CUTOFF_HZ; small chests pass higher frequencies
    heart_rate_hz: float
    heart_level: float  # times HEART_LEVEL
    fine_share: float  # probability that the crackles of a cycle are fine
    two_cycle: float  # times the usual two-cycle duration of crackles
    wheeze_hz: float
    polyphony: float  # probability that a wheeze has several voices


@dataclass(frozen=True)
class Device:
    """A stethoscope or microphone as it shows in recordings."""

    colour: tuple[tuple[float, float], ...]  # (Hz, dB) points of its frequency response
    level_dbfs: tuple[float, float]  # mean and standard deviation of a recording's RMS
    floor_db: float  # white noise of the electronics against the RMS of the recording
    rumble: float  # low-frequency noise of skin and hand, in units of breath noise


DEVICES = {
    "AKGC417L": Device(((0, 0), (200, 0), (600, -8), (4000, -12)), (-8.5, 3.0), -47.0, 2.5),
    "LittC2SE": Device(((0, 2), (30, 0), (100, -4), (500, -12), (4000, -12)), (-14.0, 6.0), -60.0, 4.0),
    "Litt3200": Device(
        ((0, 0), (80, 2), (150, 8), (300, -4), (450, 6), (600, 4), (750, -6), (1000, -20), (1500, -34), (4000, -60)),
        (-21.5, 3.0),
        -64.0,
        2.5,
    ),
    "Meditron": Device(((0, 2), (40, 0), (100, -3), (250, -6), (600, -8), (4000, -8)), (-23.0, 9.0), -55.0, 3.5),
}


def simulate_recording(
    breaths: FloatArray,
    crackle: NDArray[np.bool_],
    wheeze: NDArray[np.bool_],
    *,
    chest: Chest,
    location: str,
    device: str,
    duration_s: float,
    rate_hz: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Breaths (n, 3) as start, turn to expiration and end in s, flags (n,) -> wave (duration x rate,) within +-1."""
    samples = int(duration_s * RATE_HZ) + 8
    sound = simulate_vesicular_noise(simulate_airflow(breaths, samples, rng), CUTOFF_HZ[location] * chest.cutoff, rng)
    sound += chest.heart_level * HEART_LEVEL[location] * simulate_heart(samples, chest.heart_rate_hz, rng)
    sound += simulate_disturbances(samples, rng)
    background = sound + simulate_room_noise(samples, DEVICES[device].rumble, rng)
    sound = background.copy()
    for breath, has_crackle, has_wheeze in zip(breaths, crackle, wheeze, strict=True):
        if rng.random() < 0.25:
            add_turbulence(sound, background, breath, rng)
        if has_crackle:
            add_crackles(sound, background, breath, chest, rng)
        if has_wheeze:
            add_wheeze(sound, background, breath, chest, rng)
    return through_device(sound, DEVICES[device], rate_hz, rng)[: int(np.ceil(duration_s * rate_hz))]


# Breath noise


def simulate_airflow(breaths: FloatArray, samples: int, rng: np.random.Generator) -> FloatArray:
    """Breaths (n, 3) in s -> flow (samples,): a half sine in, an early peak and slow fall out (negative), pauses zero.

    Peak flow is about 1 in inspiration; what is breathed in comes out again, so a longer expiration is a weaker one.
    """
    time_s = np.arange(samples) / RATE_HZ
    breath = np.clip(np.searchsorted(breaths[:, 0], time_s, side="right") - 1, 0, len(breaths) - 1)
    start, turn, end = breaths.T
    inspired = np.clip((time_s - start[breath]) / (turn - start)[breath], 0, 1)
    expired = np.clip((time_s - turn[breath]) / (0.85 * (end - turn))[breath], 0, 1)  # then a pause
    depth = rng.lognormal(0.0, 0.2, len(breaths))
    out_over_in = depth * (turn - start) / (end - turn) * 1.15  # the pause and the skew are made up for
    flow = depth[breath] * np.sin(np.pi * inspired) - out_over_in[breath] * np.sin(np.pi * expired**0.6)
    return np.asarray(flow, dtype=np.float64)


def simulate_vesicular_noise(flow: FloatArray, cutoff_hz: float, rng: np.random.Generator) -> FloatArray:
    """Flow (samples,) -> breath noise (samples,): falls 12 dB per octave above a cut-off that moves up with the flow.

    Amplitude goes with flow to the power 1.66, more steeply at high frequencies, and inspiration is 2.2 times louder
    than expiration at equal flow (Gavriely & Cugell, J Appl Physiol 80:5, 1996).
    """
    loudness = np.where(flow > 0, 1.0, 1 / 2.2) * np.abs(flow) ** 1.66
    # Two parts with corners below and above the cut-off; the sharp one grows faster with the flow.
    dull = band_noise(len(flow), (60.0, 0.4 * cutoff_hz), rng)
    sharp = band_noise(len(flow), (80.0, 1.2 * cutoff_hz), rng) * np.sqrt(np.abs(flow))
    return loudness * (dull + rng.lognormal(-0.7, 0.4) * sharp)


def band_noise(samples: int, band_hz: tuple[float, float], rng: np.random.Generator, order: int = 2) -> FloatArray:
    """Gaussian noise (samples,) of RMS 1 between two frequencies, falling 6 dB per octave and order outside."""
    sos = signal.butter(order, band_hz, "bandpass", fs=RATE_HZ, output="sos")
    wave = signal.sosfilt(sos, rng.standard_normal(samples))
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), dtype=np.float64)


# Adventitious sounds


def crackle_wave(two_cycle_s: float, deflection_s: float, rate_hz: float = RATE_HZ) -> FloatArray:
    """Two-cycle duration and initial deflection width in s -> one crackle (two_cycle x rate,), peak 1.

    Two cycles of a sine whose period grows, under a skewed bell, for t from 0 to 1: sin(4 pi t^a) times
    (1 + cos(2 pi (sqrt t - 0.5))) / 2, a = ln 0.25 / ln(deflection / two-cycle)
    (Kiyokawa et al., Chest 119:1886, 2001).
    """
    t = np.arange(round(two_cycle_s * rate_hz) + 1) / (two_cycle_s * rate_hz)
    exponent = np.log(0.25) / np.log(deflection_s / two_cycle_s)
    wave = np.sin(4 * np.pi * t**exponent) * (1 + np.cos(2 * np.pi * (np.sqrt(t) - 0.5))) / 2
    return np.asarray(wave / np.abs(wave).max(), dtype=np.float64)


def add_crackles(
    sound: FloatArray, background: FloatArray, breath: FloatArray, chest: Chest, rng: np.random.Generator
) -> None:
    """Put the crackles of one breath into `sound`, in place.

    Fine ones: many, late in inspiration, two-cycle duration about 5 ms and initial deflection 0.7 ms. Coarse ones: few,
    early in inspiration or, for a third, in expiration, 10 and 1.5 ms (American Thoracic Society 1977; CORSA draws the
    border at 10 ms: Sovijärvi et al., Eur Respir Rev 10:597, 2000). Inspiratory ones mostly deflect downwards;
    expiratory ones upwards, and they are half as many (Vyshedskiy et al., Chest 135:156, 2009).
    """
    start, turn, end = breath
    fine = rng.random() < chest.fine_share
    for _ in range(rng.integers(8, 21) if fine else rng.integers(5, 13)):
        inspiratory = fine or rng.random() < 2 / 3
        if inspiratory:
            at_s = start + (turn - start) * (rng.beta(4, 1.5) if fine else rng.beta(2, 4))
        else:
            at_s = turn + (end - turn) * rng.beta(1.5, 4)
        two_cycle_s = (4.7e-3 if fine else 9.5e-3) * chest.two_cycle * rng.lognormal(0, 0.12)
        wave = crackle_wave(two_cycle_s, two_cycle_s * rng.uniform(0.13, 0.17))
        downwards = rng.random() < (0.76 if inspiratory else 0.31)
        at = int(at_s * RATE_HZ)
        around = background[max(at - 400, 0) : at + 400]  # 0.1 s
        peak = CRACKLE_PEAK * rng.lognormal(0, 0.35) * band_rms(around, 150, 1500)
        add_in_place(sound, at, (-peak if downwards else peak) * wave)


def add_wheeze(
    sound: FloatArray, background: FloatArray, breath: FloatArray, chest: Chest, rng: np.random.Generator
) -> None:
    """Put one wheeze of one or several voices into `sound`, in place: at least 0.12 s, mostly in expiration.

    Airway walls flutter at 100 to 1000 Hz for more than 100 ms with a few harmonics (Sovijärvi et al., Eur Respir Rev
    10:597, 2000); the voices of a polyphonic wheeze begin together and are no harmonics of each other (Forgacs, Chest
    73:399, 1978).
    """
    at, samples = draw_position(breath, rng, shortest_s=0.12)
    pitch_hz = chest.wheeze_hz * rng.lognormal(0, 0.15)
    voices = rng.integers(2, 4) if rng.random() < chest.polyphony else 1
    around = background[at : at + samples]
    for voice in range(voices):
        centre_hz = float(np.clip(pitch_hz * (1 + 0.37 * voice * rng.uniform(0.8, 1.4)), 100, 1000))
        level = 10 ** ((WHEEZE_LEVEL_DB + rng.normal(0, 3)) / 20) * band_rms(around, 0.89 * centre_hz, 1.12 * centre_hz)
        add_in_place(
            sound,
            at,
            level * np.sqrt(2 / voices) * swell_envelope(samples, rng) * gliding_tone(centre_hz, samples, rng),
        )


def add_turbulence(sound: FloatArray, background: FloatArray, breath: FloatArray, rng: np.random.Generator) -> None:
    """Put a band of noise into `sound`, in place: flow through a narrow place as loud and long as a wheeze, no line.

    Every class has it, so that a bump in the mean spectrum is no sign of a wheeze.
    """
    at, samples = draw_position(breath, rng, shortest_s=0.12)
    centre_hz = float(np.clip(rng.lognormal(np.log(350), 0.5), 130, 1000))
    level = 10 ** ((WHEEZE_LEVEL_DB + rng.normal(0, 3)) / 20)
    level *= band_rms(background[at : at + samples], 0.89 * centre_hz, 1.12 * centre_hz)
    width_hz = max(60.0, 0.2 * centre_hz)
    hiss = band_noise(samples, (centre_hz - width_hz / 2, centre_hz + width_hz / 2), rng)
    add_in_place(sound, at, level * swell_envelope(samples, rng) * hiss)


def gliding_tone(centre_hz: float, samples: int, rng: np.random.Generator) -> FloatArray:
    """A gliding, slightly trembling tone (samples,) with two weaker harmonics, amplitude about 1."""
    t = np.linspace(0, 1, samples)
    glide = rng.normal(0, 0.2) * (t - 0.5) + rng.normal(0, 0.07) * np.sin(np.pi * t)
    tremble = 0.01 * np.sin(2 * np.pi * rng.uniform(3, 7) * t * samples / RATE_HZ)
    phase = 2 * np.pi * np.cumsum(centre_hz * np.exp(glide + tremble)) / RATE_HZ + rng.uniform(0, 2 * np.pi)
    second, third = rng.uniform(0, 0.3), rng.uniform(0, 0.1)
    return np.asarray(np.sin(phase) + second * np.sin(2 * phase) + third * np.sin(3 * phase), dtype=np.float64)


def swell_envelope(samples: int, rng: np.random.Generator) -> FloatArray:
    """Envelope (samples,) of a sound that comes and goes: soft ends, slow change between."""
    change = np.exp(rng.normal(0, 0.3) * np.linspace(-1, 1, samples))
    return np.asarray(signal.windows.tukey(samples, rng.uniform(0.3, 0.7)) * change, dtype=np.float64)


def draw_position(breath: FloatArray, rng: np.random.Generator, shortest_s: float) -> tuple[int, int]:
    """Breath (3,) in s -> first sample and length of a long sound, three times in four in expiration."""
    start, turn, end = breath
    begin, stop = (turn, end) if rng.random() < 0.75 else (start, turn)
    length_s = max(shortest_s, rng.uniform(0.25, 0.8) * (stop - begin))
    at_s = begin + rng.uniform(0, 0.6) * max(stop - begin - length_s, 0.0)
    return int(at_s * RATE_HZ), int(length_s * RATE_HZ)


# Everything else that a stethoscope hears


def simulate_heart(samples: int, rate_hz: float, rng: np.random.Generator) -> FloatArray:
    """Heart rate -> first and second heart sounds (samples,), peak about 5.

    Damped sines of 50 and 150 Hz (Chen, Durand & Guo, Med Biol Eng Comput 35:306, 1997); the second sound is shorter
    and higher.
    """
    t = np.arange(int(0.15 * RATE_HZ)) / RATE_HZ
    rise = 1 - np.exp(-t / 0.008)
    first = rise * (damped_sine(t, 50, 0.03) + 0.6 * damped_sine(t, 150, 0.015))
    second = rise * (damped_sine(t, 70, 0.02) + 0.5 * damped_sine(t, 180, 0.01))
    wave = np.zeros(samples)
    beat_s = rng.uniform(-1 / rate_hz, 0)
    while beat_s < samples / RATE_HZ:
        period_s = rng.normal(1, 0.04) / rate_hz
        add_in_place(wave, int(beat_s * RATE_HZ), 9 * rng.uniform(0.8, 1.2) * first)
        add_in_place(wave, int((beat_s + 0.33 * np.sqrt(period_s)) * RATE_HZ), 8 * rng.uniform(0.7, 1.1) * second)
        beat_s += period_s
    return wave


def damped_sine(t: FloatArray, hz: float, decay_s: float) -> FloatArray:
    """Times in s -> a sine that starts at 0 and dies away."""
    return np.asarray(np.sin(2 * np.pi * hz * t) * np.exp(-t / decay_s), dtype=np.float64)


def simulate_room_noise(samples: int, rumble: float, rng: np.random.Generator) -> FloatArray:
    """Noise (samples,) that never stops: rumble below 40 Hz from skin and hand, a duller hiss from the room."""
    low = band_noise(samples, (3.0, 25.0), rng)
    hiss = band_noise(samples, (60.0, 300.0), rng)
    return rumble * rng.lognormal(0, 0.7) * low + 0.03 * rng.lognormal(0, 0.7) * hiss


def simulate_disturbances(samples: int, rng: np.random.Generator) -> FloatArray:
    """Hum, whine, voices, clicks and rubs (samples,), each in some recordings of every class."""
    wave = np.zeros(samples)
    seconds = samples / RATE_HZ
    if rng.random() < 0.2:  # mains hum
        for harmonic in (1, 2, 3, 5):
            wave += rng.uniform(0, 0.5) / harmonic * steady_tone(50.0 * harmonic, samples, rng)
    if rng.random() < 0.12:  # a ventilator or a coil
        wave += 0.06 * rng.lognormal(0, 0.5) * steady_tone(rng.uniform(200, 900), samples, rng)
    if rng.random() < 0.15:
        for at_s in rng.uniform(0, seconds, rng.poisson(0.4 * seconds)):
            add_in_place(wave, int(at_s * RATE_HZ), 0.3 * rng.lognormal(0, 0.6) * simulate_syllable(rng))
    for at_s in rng.uniform(0, seconds, rng.poisson(rng.exponential(0.12) * seconds)):
        add_in_place(wave, int(at_s * RATE_HZ), 2 * rng.lognormal(0, 0.7) * simulate_click(rng))
    for at_s in rng.uniform(0, seconds, rng.poisson(rng.exponential(0.1) * seconds)):
        length = int(rng.uniform(0.05, 0.4) * RATE_HZ)
        rub = band_noise(length, (60.0, rng.uniform(200, 1000)), rng)
        add_in_place(wave, int(at_s * RATE_HZ), 0.7 * rng.lognormal(0, 0.5) * swell_envelope(length, rng) * rub)
    return wave


def steady_tone(hz: float, samples: int, rng: np.random.Generator) -> FloatArray:
    """A sine (samples,) of fixed frequency."""
    phase = 2 * np.pi * hz / RATE_HZ * np.arange(samples) + rng.uniform(0, 2 * np.pi)
    return np.asarray(np.sin(phase), dtype=np.float64)


def simulate_click(rng: np.random.Generator) -> FloatArray:
    """One knock of the hand on the stethoscope (0.06 s,): a sudden start and a decay of 3 to 15 ms.

    Electronic stethoscopes make such false crackles in healthy people (Ye et al., Front Physiol 13:1079468, 2022).
    """
    t = np.arange(int(0.06 * RATE_HZ)) / RATE_HZ
    body = np.sin(2 * np.pi * rng.uniform(60, 400) * t + rng.uniform(0, 2 * np.pi))
    decay = np.exp(-t / rng.uniform(0.003, 0.015))
    return np.asarray((body + 0.5 * rng.standard_normal(len(t))) * decay, dtype=np.float64)


def simulate_syllable(rng: np.random.Generator) -> FloatArray:
    """A piece of speech or crying heard through the chest (0.1 to 0.4 s,): a gliding stack of harmonics."""
    samples = int(rng.uniform(0.1, 0.4) * RATE_HZ)
    t = np.linspace(0, 1, samples)
    glide = rng.normal(0, 0.2) * t + rng.normal(0, 0.1) * np.sin(np.pi * t)
    voice_hz = rng.lognormal(np.log(200), 0.35) * np.exp(glide)
    phase = 2 * np.pi * np.cumsum(voice_hz) / RATE_HZ
    formant = rng.integers(2, 5)
    weights = {harmonic: np.exp(-abs(harmonic - formant) / 1.5) + 0.5 / harmonic for harmonic in range(1, 9)}
    stack = sum((weight * np.sin(harmonic * phase) for harmonic, weight in weights.items()), start=np.zeros(samples))
    return np.asarray(swell_envelope(samples, rng) * stack, dtype=np.float64)


# The stethoscope


def through_device(sound: FloatArray, device: Device, rate_hz: int, rng: np.random.Generator) -> FloatArray:
    """Sound (samples,) at RATE_HZ -> wave at `rate_hz` with the device's colour, level and noise, clipped to +-1."""
    frequencies_hz, gains_db = zip(*device.colour, strict=True)
    response = signal.firwin2(801, frequencies_hz, 10 ** (np.array(gains_db) / 20), fs=RATE_HZ)
    wave = soxr.resample(signal.oaconvolve(sound, response, mode="same"), RATE_HZ, rate_hz)
    wave = wave / (np.sqrt(np.mean(wave**2)) + 1e-12)
    wave += 10 ** (device.floor_db / 20) * rng.standard_normal(len(wave))
    level_db = min(rng.normal(*device.level_dbfs), -4.0)
    return np.asarray(np.clip(10 ** (level_db / 20) * wave, -1, 1), dtype=np.float64)


def band_rms(wave: FloatArray, low_hz: float, high_hz: float) -> float:
    """Wave (n,) -> RMS of its part between two frequencies."""
    spectrum = np.fft.rfft(wave)
    frequencies_hz = np.fft.rfftfreq(len(wave), 1 / RATE_HZ)
    inside = (frequencies_hz >= low_hz) & (frequencies_hz < high_hz)
    return float(np.sqrt(2 * np.sum(np.abs(spectrum[inside]) ** 2)) / len(wave))


def add_in_place(sound: FloatArray, at: int, piece: FloatArray) -> None:
    """Add `piece` to `sound` from sample `at` on, in place; what hangs over either end is dropped."""
    begin, stop = max(at, 0), min(at + len(piece), len(sound))
    if begin < stop:
        sound[begin:stop] += piece[begin - at : stop - at]
