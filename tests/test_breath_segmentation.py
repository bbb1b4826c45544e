"""Breathing cycles from sound alone: found where there are some, none where there is no rhythm."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

from rales.cli import main
from rales.data import read_cycles
from rales.inference import breath_segmentation
from rales.synthesis import simulator
from rales.training import finetune
from tests import tiny
from tests.breath_agreement import agreement

Span = tuple[float, float]


def breathing(
    duration_s: float, period_s: float, *, rate_hz: int = 4000, seed: int = 0, first_s: float = 0.4
) -> tuple[np.ndarray, list[Span]]:
    """-> a simulated recording of a quiet chest and its cycles."""
    rng = np.random.default_rng(seed)
    count = int((duration_s - first_s) / period_s)
    bounds = first_s + period_s * (np.arange(count + 1) + rng.normal(0, 0.03, count + 1))
    turns = bounds[:-1] + 0.42 * np.diff(bounds)
    chest = simulator.Chest(1.0, 1.2, 0.3, 0.5, 1.0, 320.0, 0.2)
    none = np.zeros(count, dtype=bool)
    wave = simulator.simulate_recording(
        np.stack([bounds[:-1], turns, bounds[1:]], axis=1),
        none,
        none,
        chest=chest,
        location="Tc",
        device="Meditron",
        duration_s=duration_s,
        rate_hz=rate_hz,
        rng=rng,
    )
    return wave.astype(np.float32), list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


# What is found


@pytest.mark.parametrize("period_s", [1.5, 2.5, 4.0])
def test_simulated_breaths_are_found(period_s: float) -> None:
    scores = []
    for seed in range(5):
        wave, true = breathing(24.0, period_s, seed=seed)
        scores.append(agreement(breath_segmentation.find_breaths(wave, 4000), true).f1)
    assert np.median(scores) > 0.8, scores


def test_cycles_follow_each_other_inside_the_recording() -> None:
    wave, _ = breathing(24.0, 2.5)
    found = breath_segmentation.find_breaths(wave, 4000)
    assert found[0][0] >= 0
    assert found[-1][1] <= 24.0
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(0.3 < end - start < 14 for start, end in found)


@pytest.mark.parametrize("rate_hz", [8000, 10000, 16000, 22050, 44100, 48000])
def test_the_sample_rate_does_not_matter(rate_hz: int) -> None:
    wave, _ = breathing(24.0, 2.5, rate_hz=8000)
    at_8 = breath_segmentation.find_breaths(wave, 8000)
    other = breath_segmentation.find_breaths(soxr.resample(wave, 8000, rate_hz), rate_hz)
    assert len(other) == len(at_8) > 5
    assert np.abs(np.array(other) - np.array(at_8)).max() < 0.25


def test_loudness_does_not_matter() -> None:
    wave, _ = breathing(24.0, 2.5)
    assert breath_segmentation.find_breaths(wave * np.float32(1 / 64), 4000) == breath_segmentation.find_breaths(
        wave, 4000
    )


def test_digital_silence_before_the_sound_is_no_evidence() -> None:
    wave, _ = breathing(24.0, 2.5)
    alone = breath_segmentation.find_breaths(wave, 4000)
    later = breath_segmentation.find_breaths(np.concatenate([np.zeros(31 * 4000, np.float32), wave]), 4000)
    assert later[0][0] > 30.9
    assert agreement([(start - 31, end - 31) for start, end in later], alone).f1 > 0.6


def test_ten_minutes() -> None:
    wave, true = breathing(600.0, 3.0)
    begin = time.process_time()
    found = breath_segmentation.find_breaths(wave, 4000)
    assert time.process_time() - begin < 20  # a guard against quadratic time, no measurement
    assert agreement(found, true).f1 > 0.7
    assert found[-1][1] > 590
    assert all(before[1] == after[0] for before, after in pairwise(found))


def test_a_stretch_without_rhythm_is_no_cycle() -> None:
    wave, _ = breathing(45.0, 2.5)
    noise = np.random.default_rng(0).normal(0, wave.std(), 120 * 4000).astype(np.float32)
    found = breath_segmentation.find_breaths(np.concatenate([wave, noise, wave]), 4000)
    assert all(end - start <= breath_segmentation.LONGEST_S for start, end in found)
    assert len([1 for start, _ in found if start < 40]) > 8
    assert len([1 for start, _ in found if start > 170]) > 8


# No rhythm


@pytest.mark.parametrize("samples", [0, 1, 79, 400, 4000])
def test_too_short(samples: int) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    assert breath_segmentation.find_breaths(wave, 4000) == []


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
def test_constant_signals(value: float) -> None:
    assert breath_segmentation.find_breaths(np.full(80000, value, dtype=np.float32), 4000) == []


@pytest.mark.parametrize("rate_hz", [4000, 44100])
@pytest.mark.parametrize("seed", range(5))
def test_noise_without_rhythm(rate_hz: int, seed: int) -> None:
    wave = np.random.default_rng(seed).normal(0, 0.1, 20 * rate_hz).astype(np.float32)
    assert breath_segmentation.find_breaths(wave, rate_hz) == []


def test_a_steady_tone() -> None:
    assert breath_segmentation.find_breaths(np.sin(np.arange(80000) * 0.5).astype(np.float32), 4000) == []


# Windows


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0.2, [(0, 0.2)]),
        (4.0, [(0, 4.0)]),
        (4.3, [(0, 4.3)]),
        (4.5, [(0, 4), (4, 4.5)]),
        (8.49, [(0, 4), (4, 8.49)]),
        (12.0, [(0, 4), (4, 8), (8, 12.0)]),
    ],
)
def test_windows_cover_a_recording(duration_s: float, expected: list[Span]) -> None:
    assert breath_segmentation.cut_windows(duration_s) == expected


# Agreement


def test_agreement_by_hand() -> None:
    annotated = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    same = agreement(annotated, annotated)
    assert (same.boundary_error_s, same.f1, same.rate_error_per_min) == (0, 1, 0)
    # The first is matched (1.5 of 2 s), the second found cycle covers two annotated ones by half.
    other = agreement([(0.5, 2.0), (2.0, 6.0)], annotated)
    assert (other.matched, other.found, other.annotated) == (2, 2, 3)
    assert other.f1 == pytest.approx(0.8)
    assert other.boundary_error_s == pytest.approx(0.25)  # of 0.5, 0, 2, 0
    assert other.rate_error_per_min == pytest.approx(60 * 2 / 5.5 - 30)


def test_no_cycle_is_matched_twice() -> None:
    twice = agreement([(0.0, 1.0), (1.0, 2.0)], [(0.0, 2.0)])
    assert twice.matched == 1
    assert twice.f1 == pytest.approx(2 / 3)


def test_agreement_with_nothing() -> None:
    nothing = agreement([], [(0.0, 2.0)])
    assert (nothing.f1, nothing.matched) == (0, 0)
    assert np.isnan(nothing.boundary_error_s)
    assert np.isnan(nothing.rate_error_per_min)
    assert np.isnan(agreement([], []).f1)


# The command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished `run` and recordings: `visit.wav` of breaths and its annotation, `noise.wav` of none."""
    folder = tmp_path_factory.mktemp("segment")
    data = read_cycles(tiny.write_folder(folder / "data"))
    finetune.run(tiny.recipe("train.epochs=1"), data, folder / "run", cache_folder=folder / "cache")
    wave, _ = breathing(24.0, 2.5)
    soundfile.write(folder / "visit.wav", wave, 4000)
    (folder / "visit.txt").write_text("0\t5\t0\t0\n5\t9\t1\t0\n")
    soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 40000), 4000)
    return folder


@pytest.mark.parametrize("word", ["predict", "embed"])
@pytest.mark.parametrize(
    ("cycles", "recording", "source"),
    [
        ("auto", "visit", "annotation"),
        ("annotation", "visit", "annotation"),
        ("segment", "visit", "segment"),
        ("windows", "visit", "window"),
        ("auto", "noise", "window"),
        ("segment", "noise", "window"),
    ],
)
def test_cycles_come_from_where_the_command_says(
    place: Path, tmp_path: Path, word: str, cycles: str, recording: str, source: str
) -> None:
    out = tmp_path / ("cycles.parquet" if word == "embed" else "cycles.csv")
    command = [word, str(place / f"{recording}.wav"), "--model", str(place / "run"), "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--cycles", cycles, "--quality", "off"])  # noise is no breathing
    assert ended.value.code == 0
    table = pd.read_parquet(out) if word == "embed" else pd.read_csv(out)
    wave, rate_hz = soundfile.read(place / f"{recording}.wav", dtype="float32")
    expected = {
        "annotation": [(0.0, 5.0), (5.0, 9.0)],
        "segment": breath_segmentation.find_breaths(wave, rate_hz),
        "window": breath_segmentation.cut_windows(len(wave) / rate_hz),
    }[source]
    assert np.allclose(table[["start_s", "end_s"]], expected, atol=1e-6)
    if word == "predict":
        assert set(table["source"]) == {source}


def test_an_annotation_that_is_asked_for_and_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(place / "noise.wav"), "--model", str(place / "run"), "--cycles", "annotation"])
    assert ended.value.code == 1
    assert "noise.txt" in capsys.readouterr().err


# Real recordings


def test_real_recordings_agree_better_than_windows(shared_data: Path) -> None:
    """The fifteen whole recordings; they are among those that the numbers were fitted to, so this is no score."""
    found_f1, window_f1 = [], []
    for path in sorted((shared_data / "icbhi").glob("*.wav")):
        annotated = [(row[0], row[1]) for row in np.loadtxt(path.with_suffix(".txt"), ndmin=2)]
        wave, rate_hz = soundfile.read(path, dtype="float32")
        found_f1.append(agreement(breath_segmentation.find_breaths(wave, rate_hz), annotated).f1)
        window_f1.append(agreement(breath_segmentation.cut_windows(len(wave) / rate_hz, 2.7), annotated).f1)
    assert len(found_f1) == 15
    assert np.mean(found_f1) > 0.7
    assert np.mean(found_f1) > np.mean(window_f1)
