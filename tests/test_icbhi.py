"""ICBHI reader: counts of the published annotations, and every kind of damage in a folder made for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import rales.data
from rales.data import icbhi
from rales.data.reader import COLUMNS, Cycle
from rales.data.splits import split_officially
from rales.labels import CLASSES
from tests.damage import audit_of_one_problem

RATE_HZ = 4000
GOOD = "0.1\t0.5\t0\t0\n0.5\t1.0\t1\t0\n"
FIRST, SECOND, THIRD = "101_1b1_Al_sc_Meditron", "102_1b1_Ar_sc_Litt3200", "103_2b2_Tc_mc_AKGC417L"


def add_sound(
    folder: Path, name: str, duration_s: float = 1.0, suffix: str = ".wav", rate_hz: int = RATE_HZ, channels: int = 1
) -> Path:
    frames = round(duration_s * rate_hz)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (frames, channels))
    path = folder / f"{name}{suffix}"
    soundfile.write(path, wave, rate_hz, subtype="PCM_16", format=suffix.strip(".").upper())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good recordings, two in train and one in test, inside a folder of their own."""
    folder = tmp_path / "database"
    folder.mkdir()
    for name in (FIRST, SECOND, THIRD):
        add_sound(folder, name)
        (folder / f"{name}.txt").write_text(GOOD)
    write_split(folder, {FIRST: "train", SECOND: "test", THIRD: "train"})
    return folder


def write_split(folder: Path, sides: dict[str, str]) -> None:
    text = "".join(f"{name}\t{side}\r\n" for name, side in sides.items())
    (folder / icbhi.SPLIT_FILE).write_bytes(text.encode())


def problem(folder: Path, *, left_out: tuple[str, ...] = (FIRST,)) -> str:
    """The only problem of a damaged folder, after checking that audit and reader treat it alike."""
    report = audit_of_one_problem(folder)
    kept = {FIRST, SECOND, THIRD} - set(left_out)
    assert set(report.cycles["recording"]) == kept
    assert set(rales.data.read_cycles(folder, skip_damaged=True)["recording"]) == kept
    return report.problems[0]


# The published database


def test_counts_of_the_whole_annotation_table(shared_data: Path) -> None:
    cycles = rales.data.read_cycles(shared_data / "icbhi_annotations", audio=False)
    assert tuple(cycles.columns) == COLUMNS
    assert cycles["recording"].nunique() == 920
    assert cycles["patient"].nunique() == 126
    assert cycles["label"].value_counts()[list(CLASSES)].tolist() == [3642, 1864, 886, 506]
    by_split = cycles.groupby("split")
    assert by_split["recording"].nunique().to_dict() == {"train": 539, "test": 381}
    assert by_split["patient"].nunique().to_dict() == {"train": 79, "test": 49}
    assert cycles[cycles["split"] == "train"]["label"].value_counts()[list(CLASSES)].tolist() == [2063, 1215, 501, 363]
    assert cycles[cycles["split"] == "test"]["label"].value_counts()[list(CLASSES)].tolist() == [1579, 649, 385, 143]
    alias = cycles[cycles["recording"] == "226_1b1_Pl_sc_LittC2SE"]
    assert alias["split"].tolist() == ["train"] * 11
    published = pd.read_csv(shared_data / "icbhi_annotations" / "cycles.csv")
    published = published.sort_values(["recording", "start_s"], ignore_index=True)
    for ours, theirs in {
        "recording": "recording",
        "start_s": "start_s",
        "crackle": "crackles",
        "wheeze": "wheezes",
    }.items():
        assert cycles[ours].tolist() == published[theirs].tolist()
    recordings = pd.read_csv(shared_data / "icbhi_annotations" / "recordings.csv", dtype=str).set_index("recording")
    first = cycles.groupby("recording").first()
    for column in ("patient", "location", "mode", "device", "split"):
        assert first[column].to_dict() == recordings[column].to_dict()


def test_audit_of_the_whole_annotation_table(shared_data: Path) -> None:
    report = rales.data.audit_data(shared_data / "icbhi_annotations")
    document = json.loads(json.dumps(report.to_dict()))
    assert document["problems"] == []
    assert (document["recordings"], document["patients"], document["cycles"]) == (920, 126, 6898)
    assert document["splits"]["train"] == {
        "recordings": 539,
        "cycles": 4142,
        "classes": {"normal": 2063, "crackle": 1215, "wheeze": 501, "both": 363},
    }
    assert document["splits"]["test"]["cycles"] == 2756
    assert document["overlap_patients"] == ["156", "218"]
    assert document["devices"] == {"AKGC417L": 646, "Litt3200": 60, "LittC2SE": 87, "Meditron": 127}
    notes = " ".join(report.notes)
    assert "annotations only" in notes
    assert "156, 218" in notes
    assert "226_1b1_Pl_sc_LittC2SE is listed as 226_1b1_Pl_sc_Meditron (train)" in notes
    assert "holds part" not in notes


def test_annotations_only_folder_needs_audio_false(shared_data: Path) -> None:
    with pytest.raises(ValueError, match=r"annotations only.*audio=False"):
        rales.data.read_cycles(shared_data / "icbhi_annotations")


def test_the_shared_recordings_are_undamaged(icbhi_folder: Path, shared_data: Path) -> None:
    report = rales.data.audit_data(icbhi_folder)
    document = report.to_dict()
    assert report.problems == []
    assert document["recordings"] == 126
    assert document["patients"] == 43
    assert document["splits"] == {
        "train": {
            "recordings": 65,
            "cycles": 799,
            "classes": {"normal": 534, "crackle": 143, "wheeze": 76, "both": 46},
        },
        "test": {
            "recordings": 61,
            "cycles": 611,
            "classes": {"normal": 410, "crackle": 57, "wheeze": 112, "both": 32},
        },
    }
    assert document["overlap_patients"] == ["218"]
    assert document["sample_rates_hz"] == {"4000": 64, "10000": 6, "44100": 56}
    manifest = pd.read_csv(shared_data / "manifest.csv")
    assert document["duration_s"] == pytest.approx(manifest["duration_s"].sum(), abs=0.1)
    assert any("65 of 539 train, 61 of 381 test" in note for note in report.notes)
    cycles = rales.data.read_cycles(icbhi_folder)
    assert cycles.groupby("device")["recording"].nunique().to_dict() == manifest["device"].value_counts().to_dict()
    counted = pd.crosstab(cycles["recording"], cycles["label"])[list(CLASSES)]
    expected = manifest.set_index("recording").sort_index()[list(CLASSES)]
    assert counted.to_numpy().tolist() == expected.to_numpy().tolist()
    pd.testing.assert_frame_equal(cycles, report.cycles)
    assert cycles["path"].map(lambda path: Path(path).is_file()).all()
    assert rales.data.read_cycles(icbhi_folder).equals(cycles)


# A good folder


def test_table_of_a_good_folder(folder: Path) -> None:
    cycles = rales.data.read_cycles(folder)
    assert tuple(cycles.columns) == COLUMNS
    assert len(cycles) == 6
    assert cycles.iloc[1].to_dict() == {
        "recording": FIRST,
        "cycle": 2,
        "patient": "101",
        "start_s": 0.5,
        "end_s": 1.0,
        "crackle": 1,
        "wheeze": 0,
        "label": "crackle",
        "device": "Meditron",
        "location": "Al",
        "mode": "sc",
        "split": "train",
        "path": str(folder / f"{FIRST}.wav"),
    }
    assert rales.data.read_cycles(folder, audio=False)["path"].unique().tolist() == [""]
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.notes == []


def test_unsorted_lines_blank_lines_and_crlf(folder: Path) -> None:
    (folder / f"{FIRST}.txt").write_bytes(b"\xef\xbb\xbf0.5 1.0 1 1\r\n\r\n  0.1\t0.5\t0\t1\r\n\r\n")
    cycles = rales.data.read_cycles(folder)
    first = cycles[cycles["recording"] == FIRST]
    assert first[["cycle", "start_s", "label"]].to_numpy().tolist() == [[1, 0.1, "wheeze"], [2, 0.5, "both"]]


def test_audio_in_one_subfolder_annotations_in_another_and_other_letter_case(folder: Path) -> None:
    for part in ("audio", "labels"):
        (folder / part).mkdir()
    for name in (FIRST, SECOND, THIRD):
        (folder / f"{name}.wav").rename(folder / "audio" / f"{name}.WAV")
        (folder / f"{name}.txt").rename(folder / "labels" / f"{name}.TXT")
    (folder / icbhi.SPLIT_FILE).rename(folder / "labels" / icbhi.SPLIT_FILE.lower())
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / f"{FIRST}.wav").write_bytes(b"junk")
    (folder / "audio" / f"._{FIRST}.wav").write_bytes(b"junk")
    assert rales.data.read_cycles(folder)["split"].tolist() == ["train"] * 2 + ["test"] * 2 + ["train"] * 2


def test_split_list_beside_the_folder(folder: Path) -> None:
    (folder / icbhi.SPLIT_FILE).rename(folder.parent / icbhi.SPLIT_FILE)
    assert set(rales.data.read_cycles(folder)["split"]) == {"train", "test"}


def test_flac_24_bit_and_other_rates(folder: Path) -> None:
    (folder / f"{FIRST}.wav").unlink()
    add_sound(folder, FIRST, suffix=".flac", rate_hz=44100)
    soundfile.write(folder / f"{SECOND}.wav", np.full(10000, 0.1), 10000, subtype="PCM_24")
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.to_dict()["sample_rates_hz"] == {"4000": 1, "10000": 1, "44100": 1}
    assert report.to_dict()["duration_s"] == 3.0
    assert rales.data.read_cycles(folder)["path"].iloc[0].endswith(".flac")


def test_texts_that_are_no_annotations(folder: Path) -> None:
    for name in (
        "ICBHI_Challenge_diagnosis",
        "ICBHI_Challenge_demographic_information",
        "filename_format",
        "filename_differences",
        "patient_diagnosis",
        "README",
        "LICENSE",
        f"{FIRST}_events",
    ):
        (folder / f"{name}.txt").write_text("101\tURTI\n")
    (folder / "shopping.txt").write_text("milk\n")
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.notes == [f"{folder}: not taken for annotations: shopping.txt"]
    assert len(rales.data.read_cycles(folder)) == 6


def test_stereo_overlap_and_silence_are_notes(folder: Path) -> None:
    add_sound(folder, FIRST, channels=2)
    (folder / f"{SECOND}.txt").write_text("0.1 0.5 0 0\n0.3 0.9 1 0\n")
    soundfile.write(folder / f"{THIRD}.wav", np.zeros(RATE_HZ), RATE_HZ)
    report = rales.data.audit_data(folder)
    assert report.problems == []
    notes = " ".join(report.notes)
    assert f"mixed to one when read: {FIRST}" in notes
    assert f"{SECOND}.txt: cycles 1 (0.1-0.5 s) and 2 (0.3-0.9 s) overlap" in notes
    assert f"{THIRD}.wav: digital silence" in notes
    assert len(rales.data.read_cycles(folder)) == 6


def test_part_of_the_list(folder: Path) -> None:
    write_split(folder, {FIRST: "train", SECOND: "test", THIRD: "train", "104_1b1_Al_sc_Litt3200": "test"})
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.notes == [f"{folder}: holds part of the 4 recordings of the split list: 2 of 2 train, 1 of 2 test"]


# The split list


@pytest.mark.parametrize(
    "listed",
    [["226_1b1_Pl_sc_Meditron"], ["226_1b1_Pl_sc_LittC2SE"], ["226_1b1_Pl_sc_Meditron", "226_1b1_Pl_sc_LittC2SE"]],
    ids=["published", "renamed", "both names"],
)
def test_the_recording_listed_under_another_device(folder: Path, listed: list[str]) -> None:
    name = "226_1b1_Pl_sc_LittC2SE"
    add_sound(folder, name)
    (folder / f"{name}.txt").write_text(GOOD)
    write_split(folder, {FIRST: "train", SECOND: "test", THIRD: "train"} | dict.fromkeys(listed, "train"))
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.cycles.loc[report.cycles["recording"] == name, "split"].tolist() == ["train", "train"]
    assert len(report.notes) == (listed == ["226_1b1_Pl_sc_Meditron"])


def test_no_guess_where_the_device_decides(folder: Path) -> None:
    other = FIRST.replace("Meditron", "LittC2SE")  # the listed recording is there too, so this one is another
    add_sound(folder, other)
    (folder / f"{other}.txt").write_text(GOOD)
    report = rales.data.audit_data(folder)
    assert report.problems == [
        f"{folder / icbhi.SPLIT_FILE}: {other} is in no split; add a line `{other} train` or test"
    ]
    assert set(report.cycles.loc[report.cycles["recording"] == other, "split"]) == {""}


def test_recording_in_no_split(folder: Path) -> None:
    write_split(folder, {SECOND: "test", THIRD: "train"})
    assert f"{FIRST} is in no split" in problem(folder, left_out=())
    cycles = rales.data.read_cycles(folder, skip_damaged=True)
    assert cycles["split"].tolist() == ["", "", "test", "test", "train", "train"]
    assert rales.data.audit_data(folder).to_dict()["splits"] == {
        side: {"recordings": 1, "cycles": 2, "classes": {"normal": 1, "crackle": 1, "wheeze": 0, "both": 0}}
        for side in ("train", "test")
    }


def test_missing_split_list(folder: Path) -> None:
    (folder / icbhi.SPLIT_FILE).unlink()
    assert "no ICBHI_challenge_train_test.txt" in problem(folder, left_out=())


def test_recording_in_both_splits(folder: Path) -> None:
    with (folder / icbhi.SPLIT_FILE).open("a") as file:
        file.write(f"{FIRST}\ttest\n")
    assert f"{FIRST} is listed as both train and test" in problem(folder, left_out=())
    assert rales.data.read_cycles(folder, skip_damaged=True)["split"].iloc[0] == ""


@pytest.mark.parametrize("line", ["nonsense", "x y z", "101_1b1_Al_sc_Meditron\tvalidation"])
def test_broken_line_in_the_split_list(folder: Path, line: str) -> None:
    with (folder / icbhi.SPLIT_FILE).open("a") as file:
        file.write(f"\n{line}\n")
    assert f"{icbhi.SPLIT_FILE}, line 5: {line!r}" in problem(folder, left_out=())


def test_patient_on_both_sides(folder: Path) -> None:
    name = "101_1b1_Ar_sc_Meditron"
    add_sound(folder, name)
    (folder / f"{name}.txt").write_text(GOOD)
    write_split(folder, {FIRST: "train", SECOND: "test", THIRD: "train", name: "test"})
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.to_dict()["overlap_patients"] == ["101"]
    assert "101" in report.notes[0]


# Damaged recordings: each damage alone leaves out its recording and no other


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0.1\t0.5\t0\t0\n0.5\t1.0\t1\n", "line 2: 3 columns, expected 4 (start end crackles wheezes)"),
        ("0.1\t0.5\t0\t0\t0\n", "line 1: 5 columns"),
        ("0.1\thalf\t0\t0\n", "line 1: start and end are '0.1' and 'half', expected numbers"),
        ("0.1\tnan\t0\t0\n", "line 1: start and end are '0.1' and 'nan', expected numbers"),
        ("0,1\t0,5\t0\t0\n", "line 1: its times have decimal commas (0,5), expected decimal points (0.5)"),
        ("\n0.1\t0.5\t0\t2\n", "line 2: crackles and wheezes are '0' and '2', expected 0 or 1"),
        ("0.5\t0.1\t0\t0\n", "line 1: the cycle ends at 0.1 s, not after its start at 0.5 s"),
        ("0.5\t0.5\t0\t0\n", "line 1: the cycle ends at 0.5 s"),
        ("-0.1\t0.5\t0\t0\n", "line 1: the cycle starts at -0.1 s"),
        ("0.1\t1.2\t0\t0\n", "line 1: the cycle 0.1-1.2 s lies past the end of the recording, which lasts 1.000 s"),
        ("1.01\t1.02\t0\t0\n", "line 1: the cycle 1.01-1.02 s holds less than 0.001 s of sound"),
        ("0.1\t0.10001\t0\t0\n", "line 1: the cycle 0.1-0.10001 s holds less than 0.001 s of sound"),
        ("0_1\t0.5\t0\t0\n", "line 1: start and end are '0_1' and '0.5', expected numbers"),
        ("", "empty, expected a line"),
        (" \n\n", "empty, expected a line"),
    ],
)
def test_broken_annotation(folder: Path, text: str, sentence: str) -> None:
    (folder / f"{FIRST}.txt").write_text(text)
    assert f"{folder / FIRST}.txt" in problem(folder)
    assert sentence in problem(folder)


def test_one_annotation_file(folder: Path) -> None:
    path = folder / f"{FIRST}.txt"
    cycles, problems = icbhi.read_cycle_annotation(path, None)
    assert cycles == [Cycle(0.1, 0.5, 0, 0), Cycle(0.5, 1.0, 1, 0)]
    assert problems == []
    cycles, problems = icbhi.read_cycle_annotation(path, 0.9)
    assert cycles == [Cycle(0.1, 0.5, 0, 0)]
    assert problems[0].startswith(f"{path}, line 2: the cycle 0.5-1 s lies past the end")


def test_annotation_of_bytes(folder: Path) -> None:
    (folder / f"{FIRST}.txt").write_bytes(b"0.1\t0.5\t0\t0\n\xff\xfe\x00")
    assert f"{FIRST}.txt: not a UTF-8 text file (byte 13" in problem(folder)


@pytest.mark.parametrize("past_s", [1 / RATE_HZ, 0.0005, 0.04])
def test_an_end_rounded_past_the_last_sample_is_fine(folder: Path, past_s: float) -> None:
    (folder / f"{FIRST}.txt").write_text(f"0.1\t{1 + past_s}\t0\t0\n")
    assert rales.data.audit_data(folder).problems == []


@given(st.one_of(st.binary(max_size=40), st.text("0123456789.-\t \n", max_size=60).map(str.encode)))
@settings(max_examples=60, deadline=None)
def test_any_annotation_is_read_or_named(content: bytes) -> None:
    with TemporaryDirectory() as place:
        path = Path(place, f"{FIRST}.txt")
        path.write_bytes(content)
        write_split(Path(place), {FIRST: "train"})
        report = rales.data.audit_data(place)
        assert bool(report.problems) == report.cycles.empty
        assert all(str(path) in sentence for sentence in report.problems)
        assert (report.cycles["end_s"] > report.cycles["start_s"]).all()


def break_text_as_wave(path: Path) -> None:
    path.write_text("not audio\n")


def break_empty(path: Path) -> None:
    path.write_bytes(b"")


def break_no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), RATE_HZ)


def break_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [break_text_as_wave, break_empty, break_no_samples, break_truncated])
def test_broken_audio(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / f"{FIRST}.wav")
    assert f"{FIRST}.wav" in problem(folder)


def test_truncated_flac_is_found_by_the_audit(folder: Path) -> None:
    (folder / f"{FIRST}.wav").unlink()
    path = add_sound(folder, FIRST, suffix=".flac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = rales.data.audit_data(folder)
    assert len(report.problems) == 1
    assert f"{FIRST}.flac" in report.problems[0]


def test_nan_samples_are_found_by_the_audit_only(folder: Path) -> None:
    wave = np.full(RATE_HZ, 0.1, np.float32)
    wave[777] = np.nan
    soundfile.write(folder / f"{FIRST}.wav", wave, RATE_HZ, subtype="FLOAT")
    report = rales.data.audit_data(folder)
    assert len(report.problems) == 1
    assert f"{FIRST}.wav" in report.problems[0]
    assert report.damaged == [FIRST]
    assert len(rales.data.read_cycles(folder)) == 6  # headers only, so that reading stays quick


def test_annotation_without_recording(folder: Path) -> None:
    (folder / f"{FIRST}.wav").unlink()
    assert f"{FIRST}.txt: no recording {FIRST}.wav or .flac" in problem(folder)
    assert len(rales.data.read_cycles(folder, audio=False)) == 6


def test_recording_without_annotation(folder: Path) -> None:
    (folder / f"{FIRST}.txt").unlink()
    assert f"{FIRST}.wav: no annotation {FIRST}.txt" in problem(folder)


@pytest.mark.parametrize("name", ["101_1b1_Al_sc_Eko", "101_1b1_Al_Meditron", "101_1b1_Xy_sc_Meditron"])
def test_name_that_is_not_of_the_database(folder: Path, name: str) -> None:
    for suffix in (".wav", ".txt"):
        (folder / f"{FIRST}{suffix}").rename(folder / f"{name}{suffix}")
    write_split(folder, {name: "train", SECOND: "test", THIRD: "train"})
    sentence = problem(folder)
    assert f"{name}.txt: the name is not patient_session_location_mode_device" in sentence
    assert all(device in sentence for device in icbhi.DEVICES)


def test_recordings_of_own_names_count_as_patients_of_their_own(folder: Path) -> None:
    """What the page exports for recordings that are not of the database, beside these recordings."""
    for name in ("anna", "bob_visit_2"):
        add_sound(folder, name)
        (folder / f"{name}.txt").write_text(GOOD)
    report = rales.data.audit_data(folder)
    assert all("is in no split" in problem for problem in report.problems)
    assert len(report.problems) == 2
    assert (
        f"{folder}: not named as in ICBHI 2017, so each counts as a patient of its own: anna, bob_visit_2; "
        "a manifest (CSV) can name patients" in report.notes
    )
    cycles = rales.data.read_cycles(folder, needs_split=False)
    assert cycles.query("recording == 'anna'")["patient"].tolist() == ["anna", "anna"]
    assert cycles["patient"].nunique() == 5


@pytest.mark.parametrize("ending", [".txt", ".raven.txt", ".audacity.txt"])
@pytest.mark.parametrize("label", ["wheeze", "crackle"])
def test_one_name_in_several_folders(tmp_path: Path, ending: str, label: str) -> None:
    """What the page exports of visit1/anna and visit2/anna, also where both are annotated alike; whole copies count
    once."""
    text = {
        ".txt": "0.0 1.0 {0:d} {1:d}\n",
        ".raven.txt": "Selection\tBegin Time (s)\tEnd Time (s)\tClass\n1\t0\t1\t{2}\n",
        ".audacity.txt": "0.0\t1.0\t{2}\n",
    }[ending]
    for number, (visit, said) in enumerate((("visit1", "wheeze"), ("visit2", label), ("", "normal"))):
        (tmp_path / visit).mkdir(exist_ok=True)
        soundfile.write(tmp_path / visit / "anna.wav", np.full(4000, 0.1 * (number + 1)), 4000)
        written = text if number != 1 else "0.0 1.0 {0:d} {1:d}\n"  # one folder in ICBHI's form, whatever the others
        filled = written.format(said == "crackle", said == "wheeze", said)
        (tmp_path / visit / f"anna{ending if number != 1 else '.txt'}").write_text(filled)
    shutil.copytree(tmp_path / "visit1", tmp_path / "backup")
    cycles = rales.data.read_cycles(tmp_path, needs_split=False)
    assert cycles[["recording", "patient", "label"]].to_numpy().tolist() == [
        ["anna", "anna", "normal"], ["backup/anna", "backup/anna", "wheeze"], ["visit2/anna", "visit2/anna", label]
    ]  # fmt: skip
    assert cycles["path"].tolist() == [str(tmp_path / f"{name}.wav") for name in cycles["recording"]]
    assert any("counted once: 2" in note for note in rales.data.audit_data(tmp_path).notes)


def test_annotations_of_one_name_far_from_their_recordings_stay_a_problem(tmp_path: Path) -> None:
    for number, visit in enumerate(("visit1", "visit2")):
        (tmp_path / visit).mkdir()
        soundfile.write(tmp_path / visit / "anna.wav", np.full(4000, 0.1 * (number + 1)), 4000)
    (tmp_path / "anna.txt").write_text(GOOD)
    assert "anna is there 2 times" in rales.data.audit_data(tmp_path).problems[0]


def test_recordings_of_the_database_that_differ_stay_a_problem(folder: Path) -> None:
    (folder / "again").mkdir()
    soundfile.write(folder / "again" / f"{FIRST}.wav", np.full(4000, 0.3), 4000)
    (folder / "again" / f"{FIRST}.txt").write_text(GOOD)
    assert f"{FIRST} is there 2 times" in problem(folder)


def test_recordings_of_own_names_need_no_annotation_where_others_have_one(folder: Path) -> None:
    """The page leaves out those that could not be judged."""
    add_sound(folder, "zeros")
    report = rales.data.audit_data(folder)
    assert [problem for problem in report.problems if "is in no split" not in problem] == []
    assert f"{folder}: recordings without annotation, which give no rows: zeros" in report.notes
    assert set(rales.data.read_cycles(folder, needs_split=False)["recording"]) == {FIRST, SECOND, THIRD}
    for name in (FIRST, SECOND, THIRD):
        (folder / f"{name}.txt").unlink()
    assert any("zeros.wav: no annotation zeros.txt" in problem for problem in rales.data.audit_data(folder).problems)


def test_recording_twice(folder: Path) -> None:
    add_sound(folder, FIRST, suffix=".flac")
    assert f"{FIRST} is there 2 times ({folder / FIRST}.flac, {folder / FIRST}.wav)" in problem(folder)


def test_annotation_twice(folder: Path) -> None:
    (folder / "copy").mkdir()
    (folder / "copy" / f"{FIRST}.txt").write_text(GOOD.replace("1\t0", "0\t1"))
    assert f"{FIRST} is there 2 times" in problem(folder)


def test_a_tree_that_is_there_twice_counts_once(tmp_path: Path, folder: Path) -> None:
    """As the archive on Kaggle: every file again in a second tree."""
    once = rales.data.read_cycles(folder)
    shutil.copytree(folder, tmp_path / "twice" / "a" / "b")
    shutil.copytree(folder, tmp_path / "twice" / "c")
    report = rales.data.audit_data(tmp_path / "twice")
    assert report.problems == []
    assert report.notes == [f"{tmp_path / 'twice'}: files that are there again with the same content, counted once: 6"]
    twice = rales.data.read_cycles(tmp_path / "twice")
    assert twice.drop(columns="path").equals(once.drop(columns="path"))


def test_the_split_list_of_later_papers(folder: Path) -> None:
    once = rales.data.read_cycles(folder)
    (folder / icbhi.SPLIT_FILE).rename(folder / "official_split.txt")
    report = rales.data.audit_data(folder)
    assert (report.problems, report.notes) == ([], [])
    assert rales.data.read_cycles(folder).equals(once)


def test_a_folder_of_ones_own_needs_no_split_to_be_sound(tmp_path: Path) -> None:
    for name in ("anna", "berta"):
        add_sound(tmp_path, name)
        (tmp_path / f"{name}.txt").write_text(GOOD)
    report = rales.data.audit_data(tmp_path)
    assert report.problems == []
    assert sum("say `rales train --set split.name=folds`" in note for note in report.notes) == 1
    with pytest.raises(ValueError, match=r"no recording is in train or test.*--set split.name=folds"):
        split_officially(rales.data.read_cycles(tmp_path))


def test_folds_need_no_split_list(folder: Path) -> None:
    (folder / icbhi.SPLIT_FILE).unlink()
    assert "or say `rales train --set split.name=folds`, which needs none" in problem(folder, left_out=())
    assert set(rales.data.read_cycles(folder, needs_split=False)["split"]) == {""}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 0.5 0 0\n0 0.5 0 0\n", "the cycle 0-0.5 s (normal) stands there 2 times; keep one"),
        ("0 0.5 0 1\n0.5 1 0 0\n0 0.5 0 0\n", "the cycle 0-0.5 s stands there as normal and as wheeze; keep the right"),
    ],
)
def test_a_cycle_that_stands_there_twice(folder: Path, text: str, sentence: str) -> None:
    (folder / f"{FIRST}.txt").write_text(text)
    assert f"{folder / FIRST}.txt: {sentence}" in problem(folder)


def test_all_problems_are_listed_and_the_reader_counts_them(folder: Path) -> None:
    (folder / f"{FIRST}.txt").write_text("0.1 0.5 0\n0.5 x 0 0\n")
    (folder / f"{SECOND}.txt").unlink()
    report = rales.data.audit_data(folder)
    assert len(report.problems) == 3
    assert report.damaged == [FIRST, SECOND]
    assert report.to_dict()["recordings"] == 1
    with pytest.raises(ValueError, match="more problems: 2; ") as error:
        rales.data.read_cycles(folder)
    assert str(folder) in str(error.value)
    assert rales.data.read_cycles(folder, skip_damaged=True)["recording"].unique().tolist() == [THIRD]


# Nothing to read


def test_everything_damaged(folder: Path) -> None:
    for name in (FIRST, SECOND, THIRD):
        (folder / f"{name}.txt").write_text("")
    with pytest.raises(ValueError, match="no recording with cycles is left"):
        rales.data.read_cycles(folder, skip_damaged=True)
    report = rales.data.audit_data(folder)
    assert report.to_dict()["cycles"] == 0
    assert tuple(report.cycles.columns) == COLUMNS


def test_missing_folder_empty_folder_and_file(tmp_path: Path) -> None:
    for read in (rales.data.read_cycles, rales.data.audit_data):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            read(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="no recording and no annotation"):
            read(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a file, expected the folder"):
        icbhi.find_recordings(tmp_path / "file", audio=True, decode=False)
