"""Crackles and wheezes laid over real normal breaths: what changes, what stays, and that it comes out alike again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rales.audio.io import read_waveform, resample_waveform
from rales.data import read_cycles
from rales.labels import CLASSES
from rales.synthesis import event_mixing
from tests import tiny

RATE_HZ = 8000


@pytest.fixture(scope="module")
def cycles(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return read_cycles(tiny.write_folder(tmp_path_factory.mktemp("overlay") / "data"))


@pytest.fixture(scope="module")
def made(cycles: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return event_mixing.mix_events_into_cycles(cycles, tmp_path_factory.mktemp("overlaid"), variants=12, seed=0)


def test_every_variant_has_the_normal_cycles_with_labels_of_their_own(cycles: pd.DataFrame, made: pd.DataFrame) -> None:
    normal = cycles[cycles["label"] == "normal"]
    assert len(made) == 12 * len(normal)
    assert list(made.columns) == list(cycles.columns)
    assert set(made["label"]) == set(CLASSES)
    assert not made.duplicated(["recording", "cycle"]).any()
    numbers = made["crackle"] + 2 * made["wheeze"]
    assert [CLASSES[number] for number in numbers] == made["label"].tolist()
    first = made.merge(normal, on=["patient", "cycle"], suffixes=("", "_real"))
    assert len(first) == len(made)
    for same in ("start_s", "end_s", "device", "split", "location"):
        assert (first[same] == first[f"{same}_real"]).all()


def test_only_the_breaths_that_got_something_sound_different(made: pd.DataFrame, cycles: pd.DataFrame) -> None:
    real_of = dict(zip(cycles["patient"], cycles["path"], strict=True))
    changed = {label: list[float]() for label in CLASSES}
    for _, row in made.iterrows():
        sound, rate_hz = read_waveform(row["path"])
        real, native_hz = read_waveform(real_of[row["patient"]])
        assert rate_hz == RATE_HZ
        real = resample_waveform(real, native_hz, RATE_HZ)
        assert len(sound) == len(real)
        inside = slice(int(row["start_s"] * RATE_HZ), int(row["end_s"] * RATE_HZ))
        changed[row["label"]].append(float(np.abs(sound[inside] - real[inside]).max()))
        others = np.ones(len(real), bool)
        others[max(0, inside.start - 800) : inside.stop + 800] = False  # sounds may ring into the next breath
        assert np.abs(sound[others] - real[others]).max() < 1e-4
    assert all(np.min(changed[label]) > 1e-3 for label in CLASSES[1:])
    assert np.median(changed["normal"]) < 1e-4  # four in ten have a knock or a hiss


def test_the_same_seed_gives_the_same_and_what_is_there_is_kept(cycles: pd.DataFrame, tmp_path: Path) -> None:
    one = event_mixing.mix_events_into_cycles(cycles, tmp_path / "one", variants=2, seed=3)
    alone = cycles[cycles["recording"] == cycles["recording"].iloc[-1]]
    again = event_mixing.mix_events_into_cycles(alone, tmp_path / "again", variants=2, seed=3)
    shared = one[one["recording"].isin(again["recording"])].reset_index(drop=True)
    assert shared["label"].tolist() == again["label"].tolist()
    for left, right in zip(shared["path"], again["path"], strict=True):
        assert Path(left).read_bytes() == Path(right).read_bytes()
    other = event_mixing.mix_events_into_cycles(alone, tmp_path / "other", variants=2, seed=4)
    assert Path(other["path"].iloc[0]).read_bytes() != Path(again["path"].iloc[0]).read_bytes()
    before = Path(again["path"].iloc[0]).stat().st_mtime_ns
    event_mixing.mix_events_into_cycles(alone, tmp_path / "again", variants=2, seed=3)
    assert Path(again["path"].iloc[0]).stat().st_mtime_ns == before
    assert not list(tmp_path.rglob("*.part"))


def test_what_cannot_be_laid_over_is_a_sentence(cycles: pd.DataFrame, tmp_path: Path) -> None:
    ill = cycles[cycles["label"] != "normal"]
    with pytest.raises(ValueError, match=rf"no normal cycle of 0.3 s or more among {len(ill)}; nothing can be laid"):
        event_mixing.mix_events_into_cycles(ill, tmp_path / "out", variants=1, seed=0)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not a sound")
    with pytest.raises(ValueError, match=r"broken.wav: not a readable audio file"):
        event_mixing.mix_events_into_cycles(cycles.assign(path=str(broken)), tmp_path / "out", variants=1, seed=0)


def test_loud_recordings_are_brought_down_not_clipped() -> None:
    real = np.full(2 * RATE_HZ, 0.5) + 0.49 * np.sin(2 * np.pi * 300 * np.arange(2 * RATE_HZ) / RATE_HZ)
    sound = event_mixing.mix_events(real, [(0.0, 2.0)], np.array([3]), np.random.default_rng(0))
    assert np.abs(sound).max() == pytest.approx(1.0)
    assert np.sort(np.abs(sound))[-20] < 1  # nothing is cut off flat


def test_a_file_of_other_labels_is_never_taken(cycles: pd.DataFrame, tmp_path: Path) -> None:
    one, other = (
        event_mixing.mix_events_into_cycles(cycles, tmp_path / "out", variants=2, seed=seed) for seed in (0, 1)
    )
    assert one["label"].tolist() != other["label"].tolist()
    assert not set(one["path"]) & set(other["path"])
    later = cycles.assign(end_s=cycles["end_s"] - 0.01)
    assert not set(event_mixing.mix_events_into_cycles(later, tmp_path / "out", variants=2, seed=0)["path"]) & set(
        one["path"]
    )
