"""Properties of readers: what was written comes back as it was, and no header makes sound go missing in silence."""

import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rales.data
from rales.audio import read_audio_info, read_waveform
from rales.audio.open_audio import RATES_HZ
from rales.data import manifest
from rales.data.annotations import Annotation, read_annotation
from rales.data.reader import COLUMNS, describe_cycle
from rales.inference import prediction_writers
from rales.labels import CLASSES
from tests.test_open_audio import breathing, encoded, resized

# The same examples at every run
STEADY = settings(
    derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SECONDS = st.integers(10, 5000).map(lambda milliseconds: milliseconds / 1000)
STRETCHES = st.lists(st.tuples(SECONDS, st.sampled_from(CLASSES)), min_size=1, max_size=8)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.strip)


def annotated(stretches: list[tuple[float, str]]) -> pd.DataFrame:
    """Lengths and labels -> cycles one behind the other, as `rales predict` tells them."""
    ends = np.cumsum([length for length, _ in stretches]).round(3)
    labels = [label for _, label in stretches]
    rows = pd.DataFrame({"start_s": [0.0, *ends[:-1]], "end_s": ends, "label": labels, "path": "anna.wav"})
    return rows.assign(quality_reason="", **{f"p_{name}": 0.7 for name in CLASSES})


def same(found: Annotation, rows: pd.DataFrame) -> None:
    assert not found.problems
    assert [describe_cycle(cycle) for cycle in found.cycles] == rows["label"].tolist()
    times = np.array([[cycle.start_s, cycle.end_s] for cycle in found.cycles])
    assert np.abs(times - rows[["start_s", "end_s"]].to_numpy()).max() < 1e-6


@STEADY
@given(
    stretches=STRETCHES,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_annotations_of_icbhi(tmp_path: Path, stretches: list[tuple[float, str]], encoding: str, end: str) -> None:
    rows, path = annotated(stretches), tmp_path / "anna.txt"
    flags = [(CLASSES.index(label) % 2, CLASSES.index(label) // 2) for label in rows["label"]]
    lines = zip(rows["start_s"], rows["end_s"], flags, strict=True)
    text = end.join(f"{start!r}\t{stop!r}\t{crackle}\t{wheeze}" for start, stop, (crackle, wheeze) in lines)
    path.write_bytes(text.encode(encoding))
    same(read_annotation(path, float(rows["end_s"].iloc[-1])), rows)


@STEADY
@given(stretches=STRETCHES)
def test_labels_of_audacity_and_raven(tmp_path: Path, stretches: list[tuple[float, str]]) -> None:
    rows, path = annotated(stretches), tmp_path / "anna.txt"
    for form, label in (
        ("audacity", prediction_writers.audacity_labels),
        ("raven", prediction_writers.raven_selections),
    ):
        prediction_writers.write_table([label(rows)], path, form)
        same(read_annotation(path, float(rows["end_s"].iloc[-1])), rows)


@STEADY
@given(
    names=st.lists(NAMES.filter(bool), min_size=1, max_size=4, unique_by=str.casefold),
    words=st.tuples(NAMES, NAMES, NAMES),
    stretches=STRETCHES,
    suffix=st.sampled_from([".csv", ".tsv", ".parquet"]),
)
def test_manifests(
    tmp_path: Path, names: list[str], words: tuple[str, str, str], stretches: list[tuple[float, str]], suffix: str
) -> None:
    cycles = annotated(stretches)
    flags = np.array([CLASSES.index(label) for label in cycles["label"]])
    cycles = cycles.assign(crackle=flags % 2, wheeze=flags // 2, cycle=np.arange(1, len(cycles) + 1), split="train")
    device, location, mode = words
    parts = [cycles.assign(recording=name, patient=name) for name in sorted(names)]
    whole = pd.concat(parts, ignore_index=True).assign(device=device, location=location, mode=mode, path="")
    manifest.write_manifest(whole, tmp_path / f"m{suffix}")
    found = rales.data.read_cycles(tmp_path / f"m{suffix}", audio=False)
    pd.testing.assert_frame_equal(found[list(COLUMNS)], whole[list(COLUMNS)], check_dtype=False)


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
@STEADY
@given(size=st.one_of(st.integers(0, 2**32 - 64), st.integers(0, 40_000)))
def test_a_header_of_any_length_loses_no_sound_in_silence(tmp_path: Path, form: str, size: int) -> None:
    content, path = encoded(breathing(1), form, "PCM_16"), tmp_path / "a.wav"
    path.write_bytes(content)
    whole, _ = read_waveform(path)
    path.write_bytes(resized(content, size))
    try:
        found, _ = read_waveform(path)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        return
    assert np.array_equal(found, whole[: found.size])
    assert found.size == whole.size or read_audio_info(path).notes


@STEADY
@given(
    field=st.sampled_from([(20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (16, 4), (4, 4)]),
    value=st.integers(0, 2**32 - 1),
)
def test_a_header_with_any_number(tmp_path: Path, field: tuple[int, int], value: int) -> None:
    at, width = field
    content, path = encoded(breathing(0.2), "WAV", "PCM_16"), tmp_path / "a.wav"
    path.write_bytes(content[:at] + struct.pack("<I", value)[:width] + content[at + width :])
    try:
        facts = read_audio_info(path)
        wave, rate_hz = read_waveform(path)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        return
    assert wave.size == facts.frames
    assert rate_hz in RATES_HZ
    assert np.isfinite(wave).all()
