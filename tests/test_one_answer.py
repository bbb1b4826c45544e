"""One input, one answer: the same sound gives the same probabilities, whatever file it stands in.

Exact where no number is lost: containers, wider samples, equal channels. RATE_TOLERANCE holds between sample rates that
can all carry the sound, at 24 bits or more (largest difference seen 0.0002, where answers of different sounds span
0.09); LOSSY_TOLERANCE for compressed formats at their default quality (seen: Ogg 0.003, MP3 0.013). Fewer bits are
another sound to this front-end: the noise of 16 bits fills bands that are empty at 24, and min-max scaling looks at the
emptiest band (0.09 seen).
"""

import tempfile
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from tests import tiny

RATES_HZ = (4000, 8000, 10000, 16000, 22050, 44100, 48000)
RATE_TOLERANCE = 0.002
LOSSY_TOLERANCE = 0.05
GAIN_TOLERANCE = 1e-4  # rounding in float32: 1e-5 seen over 1,410 cycles
DURATION_S = 2.0
P = [f"p_{name}" for name in CLASSES]
LOSSLESS = [  # container, its sample types that hold 16 bits
    ("wav", ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    ("flac", ("PCM_16", "PCM_24")),
    ("aiff", ("PCM_16", "PCM_24", "PCM_32", "FLOAT")),
]

MODEL = tiny.model()


def sound(seed: int, rate_hz: int, highest_hz: float = 1700.0) -> NDArray[np.float64]:
    """A breath of many partials below `highest_hz`, crackles and a wheeze among them: the same at every rate."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(DURATION_S * rate_hz)) / rate_hz
    hz, phase = random.uniform(60, highest_hz, 60), random.uniform(0, 2 * np.pi, 60)
    breath = (0.02 * np.cos(2 * np.pi * hz[:, None] * time_s + phase[:, None])).sum(axis=0)
    breath *= np.sin(np.pi * time_s / DURATION_S) ** 2  # silent at both ends, so that no rate cuts into it
    wheeze = random.uniform(0, 0.2) * np.sin(2 * np.pi * random.uniform(200, 800) * time_s)
    wheeze *= np.exp(-(((time_s - 1) / 0.2) ** 2))
    clicks = np.zeros_like(time_s)
    for at_s in random.uniform(0.3, 1.7, 4):
        clicks += 0.3 * np.exp(-(((time_s - at_s) / 0.001) ** 2)) * np.cos(2 * np.pi * 600 * (time_s - at_s))
    return np.asarray(breath + wheeze + clicks)


def answer(
    model: Predictor, samples: NDArray[np.generic], rate_hz: int, name: str, subtype: str | None
) -> NDArray[np.float64]:
    """Sound written to a file of that name and read back by the model -> (4,) probabilities."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        soundfile.write(path, samples, rate_hz, subtype=subtype)
        return np.asarray(model.predict(path, cycles="windows", quality=False)[P].to_numpy(dtype=float)[0])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(RATES_HZ), st.sampled_from([1, 2, 4]), st.data())
def test_nothing_lost_is_the_same_to_the_bit(seed: int, rate_hz: int, channels: int, data: st.DataObject) -> None:
    samples = np.round(sound(seed, rate_hz) * 32767).astype(np.int16)
    container, subtypes = data.draw(st.sampled_from(LOSSLESS))
    subtype = data.draw(st.sampled_from(subtypes))
    plain = answer(MODEL, samples, rate_hz, "x.wav", "PCM_16")
    scaled = samples.astype(np.float64) / 32768  # what a 16-bit number means
    held = np.stack([scaled] * channels, axis=1)
    assert answer(MODEL, held, rate_hz, f"x.{container}", subtype).tolist() == plain.tolist()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(RATES_HZ), st.sampled_from(["PCM_24", "FLOAT"]), st.sampled_from([1, 2]))
def test_every_rate_gives_the_same_answer(seed: int, rate_hz: int, subtype: str, channels: int) -> None:
    """24 bits: the noise of 16 fills the bands above the sound, which a lower rate leaves empty."""
    wanted = answer(MODEL, sound(seed, 16000), 16000, "x.wav", "PCM_24")
    samples = np.stack([sound(seed, rate_hz)] * channels, axis=1)
    assert np.abs(answer(MODEL, samples, rate_hz, "x.wav", subtype) - wanted).max() < RATE_TOLERANCE


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("ogg", "OPUS")]))
def test_lossy_formats_stay_near(seed: int, form: tuple[str, str]) -> None:
    rate_hz = 48000
    samples = sound(seed, rate_hz, highest_hz=7000)
    wanted = answer(MODEL, samples, rate_hz, "x.wav", "PCM_24")
    assert np.abs(answer(MODEL, samples, rate_hz, f"x.{form[0]}", form[1]) - wanted).max() < LOSSY_TOLERANCE


GAINS = [0.5, 2.0, 0.1, 0.01, 3.7]
SHIPPED, PER_CLIP = load_model("rales", "cpu"), tiny.model("frontend=m2d_clip", "audio.floor=clip")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(GAINS), st.sampled_from([SHIPPED, PER_CLIP]))
def test_gain_does_not_matter_to_the_front_end_of_our_own(seed: int, gain: float, model: Predictor) -> None:
    samples = sound(seed, 16000) / 4
    wanted = answer(model, samples, 16000, "x.wav", "FLOAT")
    assert np.abs(answer(model, gain * samples, 16000, "x.wav", "FLOAT") - wanted).max() < GAIN_TOLERANCE


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([MODEL, SHIPPED]), st.sampled_from([1, 2]), st.integers(0, 2))
def test_an_empty_channel_changes_nothing(seed: int, model: Predictor, empty: int, place: int) -> None:
    samples = sound(seed, 16000)
    channels = [0 * samples] * empty
    channels.insert(place, samples)
    wanted = answer(model, samples, 16000, "x.wav", "PCM_24")
    assert answer(model, np.stack(channels, axis=1), 16000, "x.wav", "PCM_24").tolist() == wanted.tolist()


def test_the_answers_are_not_all_alike() -> None:
    """Else the tests above would pass for a model that hears nothing, and that of gains for one that hears no floor."""
    floor = sound(1, 16000) + 1e-4 * np.random.default_rng(1).standard_normal(round(DURATION_S * 16000))
    plain, half = (answer(MODEL, gain * floor / 4, 16000, "x.wav", "FLOAT") for gain in (1.0, 0.01))
    assert np.abs(plain - half).max() > 100 * GAIN_TOLERANCE  # the published front-end
    answers = np.stack([answer(MODEL, sound(seed, 16000), 16000, "x.wav", "PCM_24") for seed in range(12)])
    assert np.ptp(answers, axis=0).max() > 10 * RATE_TOLERANCE
