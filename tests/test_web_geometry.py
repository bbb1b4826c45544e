"""Where the page draws what: its arithmetic in node, against formulas and scipy."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scripted import Script, script

LOUDNESS = "(samples) => ((lufs) => [lufs, page.gainTo(lufs)])(page.gatedLoudness(samples, 100))"
GEOMETRY = "({ name, args }) => page[name](...args)"
TILE = """({ samples, about, lowest }) => {
  const levels = page.tile(Int16Array.from(samples), about);
  return { levels: [...levels], high: page.highLevel(levels, about.bins, lowest ?? 0) };
}"""
WAV = """({ bytes }) => {
  try {
    const { samples, rate_hz } = page.readWav(Uint8Array.from(bytes));
    return { samples: [...samples], rate_hz, ...page.measureLevel(samples), peaks: page.peaksOf(samples, 2) };
  } catch (error) {
    return { error: error.message };
  }
}"""
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def geometry() -> Iterator[Script]:
    with script("geometry.js", GEOMETRY) as working:
        yield working


@pytest.fixture(scope="module")
def stft() -> Iterator[Script]:
    with script("stft.js", TILE) as working:
        yield working


def ask(geometry: Script, name: str, *args: Any) -> Any:
    return geometry({"name": name, "args": args})


def view(start_s: float, end_s: float) -> dict[str, float]:
    return {"start_s": start_s, "end_s": end_s}


# Time


def test_time_and_place_by_hand(geometry: Script) -> None:
    assert ask(geometry, "xOf", view(2, 6), 800, 3) == 200
    assert ask(geometry, "timeAt", view(2, 6), 800, 200) == 3
    assert ask(geometry, "zoomed", view(0, 8), 800, 8, 200, 2) == view(1, 5)  # second 2 stays at 200 pixels
    assert ask(geometry, "panned", view(2, 4), 800, 8, 400) == view(1, 3)
    assert ask(geometry, "filling", view(4, 7), 1000, 20, 0.6) == view(3, 8)
    assert ask(geometry, "zoomed", view(0, 20), 900, 20, 0, 1e9) == view(0, 0.3)  # 3,000 pixels a second
    assert ask(geometry, "showing", view(0, 10), 900, 60, 5) == view(0, 10)
    assert ask(geometry, "showing", view(0, 10), 900, 60, 30) == view(29, 39)


@settings(max_examples=100, deadline=None)
@given(
    duration_s=st.floats(0.06, 600),
    start=st.floats(0, 1),
    width=st.integers(200, 3000),
    place=st.floats(0, 1),
    factor=st.floats(0.01, 100),
)
def test_zooming_keeps_what_lies_under_the_pointer(
    geometry: Script, duration_s: float, start: float, width: int, place: float, factor: float
) -> None:
    shown = ask(geometry, "bounded", view(start * duration_s, start * duration_s + duration_s / 3), width, duration_s)
    x = place * width
    closer = ask(geometry, "zoomed", shown, width, duration_s, x, factor)
    assert closer["start_s"] >= 0
    assert closer["end_s"] <= duration_s + 1e-9
    length_s = closer["end_s"] - closer["start_s"]
    assert length_s >= min(duration_s, width / 3000) - 1e-9
    at_an_end = closer["start_s"] == 0 or closer["end_s"] >= duration_s - 1e-9
    if not at_an_end:
        before, after = (ask(geometry, "timeAt", each, width, x) for each in (shown, closer))
        assert after == pytest.approx(before, abs=length_s / width / 2)  # half a pixel
    zoom = ask(geometry, "zoomOf", closer, width, duration_s)
    assert ask(geometry, "zoomFactor", closer, width, duration_s, zoom) == pytest.approx(1) or zoom == 0


@pytest.mark.parametrize(
    ("shown", "width", "texts"),
    [
        ((0, 20), 800, ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s", "12 s", "14 s", "16 s", "18 s", "20 s"]),
        (
            (4.6, 5.05),
            900,
            ["4.60 s", "4.65 s", "4.70 s", "4.75 s", "4.80 s", "4.85 s", "4.90 s", "4.95 s", "5.00 s", "5.05 s"],
        ),
        ((30, 600), 600, ["2:00", "4:00", "6:00", "8:00", "10:00"]),
    ],
)
def test_ticks_of_the_time_axis(geometry: Script, shown: tuple[float, float], width: int, texts: list[str]) -> None:
    ticks = ask(geometry, "timeTicks", view(*shown), width)
    assert [tick["text"] for tick in ticks] == texts
    apart = np.diff([tick["seconds"] for tick in ticks]) * width / (shown[1] - shown[0])
    assert apart.min() >= 49
    assert shown[0] - 1e-9 <= ticks[0]["seconds"] <= ticks[-1]["seconds"] <= shown[1] + 1e-9


# Frequency


@pytest.mark.parametrize("scale", [("linear", 0, 1600), ("log", 50, 4000), ("mel", 50, 8000)])
def test_frequency_and_place(geometry: Script, scale: tuple[str, float, float]) -> None:
    kind, low_hz, high_hz = scale
    axis = {"kind": kind, "low_hz": low_hz, "high_hz": high_hz}
    assert [ask(geometry, "placeOf", axis, hertz) for hertz in (low_hz, high_hz)] == pytest.approx([0, 1])
    middle = {"linear": 800, "log": (50 * 4000) ** 0.5, "mel": ask(geometry, "hertzAt", axis, 0.5)}[kind]
    assert ask(geometry, "placeOf", axis, middle) == pytest.approx(0.5)
    ticks = ask(geometry, "frequencyTicks", axis, 560)
    places = [ask(geometry, "placeOf", axis, tick["hertz"]) * 560 for tick in ticks]
    assert len(ticks) > 5
    assert np.diff(places).min() >= 20


def test_mel_is_that_of_the_front_end(geometry: Script) -> None:
    """Slaney's: 1,000 Hz is 15 mel, and 27 mel are a factor of 6.4."""
    axis = {"kind": "mel", "low_hz": 0, "high_hz": 1000 * 6.4 ** (15 / 27)}
    assert ask(geometry, "placeOf", axis, 1000) == pytest.approx(0.5)
    assert ask(geometry, "placeOf", axis, 500) == pytest.approx(0.25)


# Levels


def decibels(levels: Any) -> Any:
    return np.asarray(levels) / 2 - 127.5


@pytest.mark.parametrize("hop", [64, 3000])
def test_levels_are_those_of_scipy(stft: Script, hop: int) -> None:
    rng = np.random.default_rng(0)
    samples = np.round(8000 * rng.standard_normal(12_000)).clip(-32768, 32767)
    about = {"window": 256, "size": 512, "bins": 200, "hop": hop, "first": 1, "columns": 3}
    found = decibels(stft({"samples": samples.tolist(), "about": about})["levels"]).reshape(3, 200)
    window = np.sin(np.pi * (np.arange(256) + 0.5) / 256) ** 2
    looks = min(8, max(1, int(np.ceil(hop / 256))))
    padded = np.concatenate([np.zeros(256), samples / 32768, np.zeros(256)])
    for column in range(3):
        power = np.zeros(200)
        for look in range(looks):
            start = int(np.floor((1 + column + (look + 0.5) / looks) * hop - 127.5)) + 256
            part = padded[start : start + 256]
            power = np.maximum(power, (2 * np.abs(np.fft.rfft(part * window, 512)) / window.sum())[:200] ** 2)
        expected = 10 * np.log10(power + 1e-20)
        assert np.abs(found[column] - expected.clip(-127.5, 0)).max() <= 0.26


def test_a_sine_of_full_scale_is_0_db_silence_dark_and_a_click_where_it_is(stft: Script) -> None:
    about = {"window": 128, "size": 512, "bins": 257, "hop": 16, "first": 0, "columns": 200}
    tone = np.round(32767 * np.sin(2 * np.pi * 2000 * np.arange(3200) / RATE_HZ))
    levels = decibels(stft({"samples": tone.tolist(), "about": about})["levels"]).reshape(200, 257)
    assert levels[100].argmax() == 2000 * 512 / RATE_HZ
    assert levels[100].max() == 0
    silent = stft({"samples": [0] * 3200, "about": about})
    assert set(silent["levels"]) == {0}
    assert silent["high"] == 0
    click = np.zeros(3200)
    click[1608] = 20_000  # in the middle of column 100
    levels = decibels(stft({"samples": click.tolist(), "about": about})["levels"]).reshape(200, 257)
    assert levels[:, 50].argmax() == 100


def test_rumble_does_not_count_for_the_brightest_level(stft: Script) -> None:
    about = {"window": 1024, "size": 2048, "bins": 200, "hop": 512, "first": 2, "columns": 30}
    t = np.arange(20_000) / RATE_HZ
    sound = np.round(20_000 * np.sin(2 * np.pi * 30 * t) + 200 * np.sin(2 * np.pi * 400 * t))
    given = {"samples": sound.tolist(), "about": about}
    whole, above = (decibels(stft({**given, "lowest": lowest})["high"]) for lowest in (0, 20))
    assert whole == pytest.approx(20 * np.log10(20_000 / 32768), abs=0.5)
    assert above == pytest.approx(20 * np.log10(200 / 32768), abs=0.5)


# The sound


def test_the_sound_of_the_service_is_read(tmp_path: Any) -> None:
    samples = np.array([0, 16384, -32768, 32767, 5, -5], dtype=np.int16)
    with script("wav.js", WAV) as read:
        file = io.BytesIO()
        soundfile.write(file, samples, RATE_HZ, subtype="PCM_16", format="WAV")
        found = read({"bytes": list(file.getvalue())})
        assert (found["samples"], found["rate_hz"]) == (samples.tolist(), RATE_HZ)
        assert found["peak_db"] == 0
        assert found["clipped"] == pytest.approx(2 / 6)
        assert found["peaks"] == [[-1, 0.5], [-5 / 32768, 32767 / 32768]]
        for subtype, channels in (("FLOAT", 1), ("PCM_16", 2)):
            file = io.BytesIO()
            soundfile.write(file, np.zeros((4, channels)), RATE_HZ, subtype=subtype, format="WAV")
            assert "no WAV of one channel and 16 bits" in read({"bytes": list(file.getvalue())})["error"]
        assert "error" in read({"bytes": list(b"RIFF")})


def test_texts_as_other_programs_write_them() -> None:
    work = """(bytes) => {
      try {
        return page.decodeText(Uint8Array.from(bytes).buffer, "a.txt");
      } catch (error) {
        return error.message;
      }
    }"""
    text = "0.5\t1.5\tпищит\n"
    with script("text_files.js", work) as read:
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            assert read(list(text.encode(encoding))) == text
        assert read(list("\ufeff".encode("utf-16-be") + text.encode("utf-16-be"))) == text
        assert read(list("é".encode("latin-1"))) == "a.txt: not a text file in UTF-8; save it as UTF-8"
        assert read([255, 254, 0]).startswith("a.txt: not a text file in UTF-16;")


def test_loudness_has_the_gates_of_bs_1770() -> None:
    """At 100 samples a second, against the formula in numpy: what is quieter than -70 LUFS, or than the mean by 10,
    does not count, so a pause makes no recording quieter. Silence is not lifted, and nothing by more than 40 dB."""
    rng = np.random.default_rng(0)
    loud, soft, pause = (level * rng.standard_normal(400) for level in (0.1, 0.02, 1e-5))
    with script("loudness.js", LOUDNESS) as loudness:
        for sound in (loud, np.concatenate([loud, pause, soft]), loud[:25]):
            length = min(40, len(sound))
            blocks = np.array([(sound[i : i + length] ** 2).mean() for i in range(0, len(sound) - length + 1, 10)])
            counted = blocks[-0.691 + 10 * np.log10(blocks) > -70]
            counted = counted[counted > counted.mean() / 10]
            expected = -0.691 + 10 * np.log10(counted.mean())
            assert loudness(sound.tolist()) == pytest.approx([expected, -20 - expected])
        assert loudness([0.0] * 100) == [None, 0]  # JSON has no infinity
        assert loudness([2e-3] * 100)[1] == pytest.approx(-20 + 0.691 + 20 * np.log10(500))
        assert loudness([5e-4] * 100)[1] == 40
