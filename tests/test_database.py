"""The synthetic database: layout, determinism, and sounds that are what the literature says they are."""

import hashlib
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

import rales.data
from rales.synthesis import database, simulator
from rales.synthesis.database import plan_recordings, write_folder

FORMATS = {  # sample rates and bits of each device in ICBHI 2017
    "AKGC417L": {(44100, "PCM_24"), (44100, "PCM_16")},
    "LittC2SE": {(44100, "PCM_24")},
    "Litt3200": {(4000, "PCM_16")},
    "Meditron": {(44100, "PCM_24"), (44100, "PCM_16"), (4000, "PCM_16"), (10000, "PCM_16")},
}
CHEST = simulator.Chest(1.0, 1.2, 1.0, fine_share=1.0, two_cycle=1.0, wheeze_hz=400.0, polyphony=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "sixteen"
    write_folder(path, 16, 0, duration_s=(4.0, 8.0))
    return path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_same_bytes_whatever_the_number_of_processes(tmp_path):
    write_folder(tmp_path / "one", 5, 7, duration_s=(2.0, 3.0))
    write_folder(tmp_path / "two", 5, 7, duration_s=(2.0, 3.0), processes=2)
    write_folder(tmp_path / "other", 5, 8, duration_s=(2.0, 3.0))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())


def test_files_are_what_their_names_say(folder):
    sounds = sorted(folder.glob("*.wav"))
    assert len(sounds) == 16
    assert len(list(folder.iterdir())) == 2 * 16 + 3
    for path in sounds:
        _, _, location, mode, device = path.stem.split("_")
        header = soundfile.info(path)
        assert (header.samplerate, header.subtype) in FORMATS[device]
        assert header.channels == 1
        assert location in ("Tc", "Al", "Ar", "Pl", "Pr", "Ll", "Lr")
        assert mode == ("mc" if device in ("AKGC417L", "LittC2SE") else "sc")
        wave, _ = soundfile.read(path)
        assert 0.003 < wave.std() < 0.9
        assert 4.0 <= header.duration <= 8.001


def test_cycles_follow_each_other_inside_the_file(folder):
    for path in folder.glob("*_*_*_*_*.wav"):
        lines = [line.split("\t") for line in path.with_suffix(".txt").read_text().splitlines()]
        times = np.array([[float(value) for value in line[:2]] for line in lines])
        assert all(len(line) == 4 and line[2] in "01" and line[3] in "01" for line in lines)
        assert len(lines) >= 2
        assert times[0, 0] >= 0
        assert (times[1:, 0] == times[:-1, 1]).all()
        assert (np.diff(times) > 0.2).all()
        assert times[-1, 1] <= soundfile.info(path).duration
        assert all(len(value.partition(".")[2]) <= 5 for line in lines for value in line[:2])


def test_tables_have_the_official_layout(folder):
    names = {path.stem for path in folder.glob("*.wav")}
    patients = {name.split("_")[0] for name in names}
    texts = {path.name: path.read_bytes().decode("ascii") for path in folder.glob("ICBHI*")}
    assert all(text.endswith("\r\n") and text.count("\n") == text.count("\r\n") for text in texts.values())
    rows = {name: [line.split("\t") for line in text.splitlines()] for name, text in texts.items()}
    splits = dict(rows["ICBHI_challenge_train_test.txt"])
    assert splits.keys() == names
    assert set(splits.values()) == {"train", "test"}
    assert len({(name.split("_")[0], split) for name, split in splits.items()}) == len(patients)
    assert {row[0] for row in rows["ICBHI_Challenge_diagnosis.txt"]} == patients
    people = rows["ICBHI_Challenge_demographic_information.txt"]
    assert {row[0] for row in people} == patients
    assert all(len(row) == 6 and (row[3] == "NA") == (float(row[1]) < 18) != (row[4] == "NA") for row in people)


def test_our_own_reader_finds_nothing_wrong(folder):
    report = rales.data.audit_data(folder)
    cycles = rales.data.read_cycles(folder)
    assert report.problems == []
    assert cycles.recording.nunique() == 16
    assert set(cycles.groupby(["split", "label"]).groups) == {
        (split, label) for split in ("train", "test") for label in rales.data.CLASSES
    }


@given(seed=st.integers(0, 10**6), recordings=st.integers(12, 40))
@settings(max_examples=25, deadline=None)
def test_every_class_on_both_sides_and_no_patient_on_both(seed, recordings):
    _, plans = plan_recordings(recordings, 8, (4.0, 8.0), seed)
    assert len({one.name for one in plans}) == len(plans) == recordings
    assert len({one.seed.spawn_key for one in plans}) == recordings
    sides = {split: [one for one in plans if one.split == split] for split in ("train", "test")}
    assert not {one.patient.number for one in sides["train"]} & {one.patient.number for one in sides["test"]}
    for side in sides.values():
        assert set(np.concatenate([one.labels for one in side])) == {0, 1, 2, 3}


def test_a_whole_database_has_the_proportions_of_the_real_one():
    people, plans = plan_recordings(2000, 274, (10.0, 90.0), 0)
    labels = np.concatenate([one.labels for one in plans])
    assert np.bincount(labels) / len(labels) == pytest.approx([0.53, 0.27, 0.13, 0.07], abs=0.05)
    assert np.mean([one.split == "train" for one in plans]) == pytest.approx(0.6, abs=0.02)
    assert np.mean([one.duration_s for one in plans]) == pytest.approx(21.5, abs=1)
    assert np.mean([end - start for one in plans for start, _, end in one.breaths]) == pytest.approx(2.7, abs=0.3)
    assert {person.device for person in people} == set(FORMATS)


def test_channels_recorded_at_once_share_their_breaths():
    _, plans = plan_recordings(60, 8, (4.0, 8.0), 0)
    sessions = groupby(plans, key=lambda one: (one.patient.number, one.session, one.patient.device))
    compared = 0
    for (_, _, device), channels in sessions:
        first, *others = channels
        for other in others:
            assert np.array_equal(first.breaths, other.breaths) == (device in ("AKGC417L", "LittC2SE"))
            compared += 1
    assert compared > 10


@given(two_cycle_ms=st.floats(3, 12), ratio=st.floats(0.12, 0.2))
@settings(max_examples=40, deadline=None)
def test_a_crackle_has_the_durations_asked_for(two_cycle_ms, ratio):
    rate_hz = 200_000
    wave = simulator.crackle_wave(two_cycle_ms / 1000, ratio * two_cycle_ms / 1000, rate_hz)
    assert len(wave) == pytest.approx(two_cycle_ms * rate_hz / 1000, abs=2)
    crossings = np.flatnonzero(np.diff(np.sign(wave[1:-1])))
    half_periods = np.diff([0, *crossings, len(wave)])
    assert len(half_periods) == 4  # two cycles
    assert half_periods[0] == pytest.approx(ratio * two_cycle_ms * rate_hz / 1000, abs=3)
    assert (np.diff(half_periods) > 0).all()  # the period grows
    assert np.abs(wave).max() == 1


@pytest.mark.parametrize(("fine_share", "low_ms", "high_ms"), [(1.0, 3.0, 7.0), (0.0, 7.0, 14.0)])
def test_crackles_are_fine_or_coarse_and_stand_out(fine_share, low_ms, high_ms):
    rng = np.random.default_rng(0)
    background = simulator.band_noise(32000, (150.0, 1500.0), rng)
    chest = simulator.Chest(1.0, 1.2, 1.0, fine_share=fine_share, two_cycle=1.0, wheeze_hz=400.0, polyphony=0.0)
    sound = background.copy()
    simulator.add_crackles(sound, background, np.array([0.5, 1.7, 3.5]), chest, rng)
    added = sound - background
    assert np.abs(added).max() > 6  # in standard deviations of the noise
    where = np.flatnonzero(np.abs(added) > 1e-9)
    pieces = np.split(where, np.flatnonzero(np.diff(where) > 8) + 1)
    lengths_ms = np.array([(piece[-1] - piece[0]) / 8 for piece in pieces])
    assert low_ms < np.median(lengths_ms) < high_ms
    mean_position_s = where.mean() / simulator.RATE_HZ
    assert where[0] / simulator.RATE_HZ > 0.5
    assert (1.1 < mean_position_s < 1.7) if fine_share else where[-1] / simulator.RATE_HZ > 1.7


@pytest.mark.parametrize("seed", range(6))
def test_a_wheeze_is_a_line_of_more_than_100_ms(seed):
    rng = np.random.default_rng(seed)
    background = simulator.band_noise(24000, (60.0, 300.0), rng)
    sound = background.copy()
    simulator.add_wheeze(sound, background, np.array([0.2, 1.2, 2.8]), CHEST, rng)

    def longest_line_s(wave):
        hop = 64
        frequencies_hz, _, power = signal.spectrogram(wave, simulator.RATE_HZ, "hann", nperseg=512, noverlap=512 - hop)
        level_db = 10 * np.log10(power[(frequencies_hz > 90) & (frequencies_hz < 1100)])
        lines, _ = ndimage.label(level_db - signal.medfilt2d(level_db, (15, 1)) > 9, structure=np.ones((3, 3)))
        return max((frames.stop - frames.start for _, frames in ndimage.find_objects(lines)), default=0) * hop / 8000

    assert longest_line_s(sound) > 0.1 > longest_line_s(background)


def test_breath_noise_falls_with_frequency_and_follows_the_flow():
    rng = np.random.default_rng(0)
    flow = np.repeat([1.0, -1.0, 0.5, 0.0], 40000)
    inward, outward, weak, none = simulator.simulate_vesicular_noise(flow, 300.0, rng).reshape(4, -1)
    frequencies_hz, power = signal.welch(inward, simulator.RATE_HZ, nperseg=1024)
    octaves_db = [
        10 * np.log10(power[(frequencies_hz >= low_hz) & (frequencies_hz < 2 * low_hz)].mean())
        for low_hz in (200, 400, 800, 1600)
    ]
    steps_db = np.diff(octaves_db)
    assert (steps_db < -3).all()
    assert -18 < steps_db[-1] < -10  # 12 dB per octave, a little more near half the sample rate
    assert inward.std() / outward.std() == pytest.approx(2.2, rel=0.05)
    assert 2**1.66 <= inward.std() / weak.std() < 2**2.2  # the sharp part grows faster
    assert none.std() == 0


def test_what_is_breathed_in_comes_out():
    breaths = np.array([[0.5, 1.5, 3.5], [3.5, 4.3, 6.0]])
    flow = simulator.simulate_airflow(breaths, 7 * simulator.RATE_HZ, np.random.default_rng(0))
    for start, turn, end in (breaths * simulator.RATE_HZ).astype(int):
        inhaled, exhaled = flow[start:turn].sum(), -flow[turn:end].sum()
        assert exhaled == pytest.approx(inhaled, rel=0.1)
    assert (flow[: simulator.RATE_HZ // 2] == 0).all()


def test_refuses_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, expected a new or empty folder"):
        write_folder(tmp_path, 2, 0)
    with pytest.raises(ValueError, match="is a file"):
        write_folder(tmp_path / "mine.txt", 2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    write_folder(tmp_path, 1, 0, duration_s=(2.0, 2.0))
    assert len(list(tmp_path.iterdir())) == 2 + 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"recordings": 0}, "recordings is 0, expected 1 or more"),
        ({"patients": 0}, "patients is 0, expected 1 to 3"),
        ({"patients": 4}, "patients is 4, expected 1 to 3"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"processes": 0}, "processes is 0, expected 1 or more"),
        ({"duration_s": (9.0, 3.0)}, r"duration_s is \(9.0, 3.0\), expected \(shortest, longest\)"),
        ({"duration_s": (float("nan"), 3.0)}, "duration_s is"),
        ({"duration_s": (0.1, 3.0)}, "duration_s is"),
    ],
)
def test_odd_arguments_are_sentences(tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_folder(tmp_path / "new", **{"recordings": 3, "seed": 0, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"new: cannot be written \(.+\); choose another folder"):
        write_folder(tmp_path / "file" / "new", 1, 0)


@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_call_leaves_nothing_behind(tmp_path, monkeypatch, exists):
    target = tmp_path / "new"
    if exists:
        target.mkdir()
    calls = []

    def write_two(folder, one):
        calls.append(one)
        if len(calls) == 3:
            raise KeyboardInterrupt
        (folder / f"{one.name}.wav").write_bytes(b"")

    monkeypatch.setattr(database, "_write_recording", write_two)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target, 5, 0)
    assert len(calls) == 3
    assert list(tmp_path.rglob("*")) == ([target] if exists else [])
