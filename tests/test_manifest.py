"""Own manifests: what may be left out, the round trip, and a sentence for each broken thing."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.data import audit_data, read_cycles
from rales.data import manifest as table
from rales.data.reader import COLUMNS, Cycle, repeated_problems
from tests.damage import audit_of_one_problem

RATE_HZ = 4000
HEADER = "path,start_s,end_s,label,patient,split\n"
ROWS = "a.wav,0,0.5,normal,1,train\na.wav,0.5,1,crackle,1,train\nb.wav,0.25,0.75,both,2,test\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        wave = np.random.default_rng(0).uniform(-0.5, 0.5, RATE_HZ)
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE_HZ)
    return tmp_path


def manifest(folder: Path, text: str, name: str = "cycles.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problem(path: Path, *, left_out: str = "a") -> str:
    """The only problem, that of one recording, after checking that audit and reader treat it alike."""
    report = audit_of_one_problem(path)
    assert report.damaged == [left_out]
    return report.problems[0]


def test_table(folder: Path) -> None:
    path = manifest(folder, HEADER + ROWS)
    cycles = read_cycles(path)
    assert tuple(cycles.columns) == COLUMNS
    assert cycles.iloc[2].to_dict() == {
        "recording": "b",
        "cycle": 1,
        "patient": "2",
        "start_s": 0.25,
        "end_s": 0.75,
        "crackle": 1,
        "wheeze": 1,
        "label": "both",
        "device": "",
        "location": "",
        "mode": "",
        "split": "test",
        "path": str(folder / "b.wav"),
    }
    assert read_cycles(path).equals(cycles)
    report = audit_data(path)
    assert (report.problems, report.notes) == ([], [])
    assert report.to_dict()["splits"] == {
        "train": {"recordings": 1, "cycles": 2, "classes": {"normal": 1, "crackle": 1, "wheeze": 0, "both": 0}},
        "test": {"recordings": 1, "cycles": 1, "classes": {"normal": 0, "crackle": 0, "wheeze": 0, "both": 1}},
    }


def test_the_least_manifest_is_one_row_per_whole_file(folder: Path) -> None:
    path = manifest(folder, "path,label\na.wav,Wheeze\nb.wav,normal\n")
    cycles = read_cycles(path)
    columns = ["recording", "patient", "start_s", "end_s", "label", "split"]
    assert cycles[columns].to_numpy().tolist() == [
        ["a", "a", 0.0, 1.0, "wheeze", "train"],
        ["b", "b", 0.0, 1.0, "normal", "train"],
    ]
    assert audit_data(path).notes == [
        f"{path}: no column patient; every recording counts as a patient of its own",
        f"{path}: no column split; every row counts as train",
    ]
    with pytest.raises(ValueError, match="line 2: end_s is empty and the length of the recording is not known"):
        read_cycles(path, audio=False)


@pytest.mark.parametrize(
    ("crackle", "wheeze", "label"), [(0, 0, "normal"), (1, 0, "crackle"), (0, 1, "wheeze"), (1, 1, "both")]
)
def test_flags_instead_of_labels(folder: Path, crackle: int, wheeze: int, label: str) -> None:
    path = manifest(folder, f"path,crackle,wheeze\na.wav,{crackle},{wheeze}\n")
    assert read_cycles(path)["label"].tolist() == [label]
    by_label = manifest(folder, f"path,label\na.wav,{label}\n")
    assert read_cycles(by_label)[["crackle", "wheeze"]].to_numpy().tolist() == [[crackle, wheeze]]


def test_semicolons_byte_order_mark_crlf_and_blank_lines(folder: Path) -> None:
    text = "\ufeff" + (HEADER + ROWS).replace(",", ";").replace("\n", "\r\n\r\n")
    (folder / "cycles.csv").write_bytes(text.encode())
    plain = manifest(folder, HEADER + ROWS, name="plain.csv")
    assert read_cycles(folder / "cycles.csv").equals(read_cycles(plain))


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.parquet"])
def test_round_trip(folder: Path, name: str) -> None:
    first = manifest(folder, "recording," + HEADER + "".join(f"r{row[0]},{row}\n" for row in ROWS.splitlines()))
    cycles = read_cycles(first)
    cycles["start_s"] += 0.1 / 3  # a number without a short decimal form
    table.write_manifest(cycles, folder / name)
    pd.testing.assert_frame_equal(read_cycles(folder / name), cycles)
    if name == "out.csv":
        assert ",a.wav\n" in (folder / name).read_text()


def test_round_trip_of_the_published_annotations(shared_data: Path, tmp_path: Path) -> None:
    cycles = read_cycles(shared_data / "icbhi_annotations", audio=False)
    table.write_manifest(cycles, tmp_path / "icbhi.parquet")
    pd.testing.assert_frame_equal(read_cycles(tmp_path / "icbhi.parquet", audio=False), cycles)


def test_paths_outside_the_folder_stay_whole(folder: Path) -> None:
    cycles = read_cycles(manifest(folder, HEADER + ROWS))
    (folder / "deep").mkdir()
    table.write_manifest(cycles, folder / "deep" / "out.csv")
    assert read_cycles(folder / "deep" / "out.csv").equals(cycles)


def test_parquet_with_numbers_and_missing_values(folder: Path) -> None:
    frame = pd.DataFrame(
        {
            "path": ["a.wav", "b.wav"],
            "patient": [7, 8],
            "end_s": [None, 0.5],
            "crackle": [True, False],
            "wheeze": [0, 1],
        }
    )
    frame.to_parquet(folder / "cycles.parquet")
    cycles = read_cycles(folder / "cycles.parquet")
    assert cycles[["patient", "end_s", "label"]].to_numpy().tolist() == [["7", 1.0, "crackle"], ["8", 0.5, "wheeze"]]
    frame.assign(end_s=["x", "0.5"]).to_parquet(folder / "cycles.parquet")
    assert "cycles.parquet, row 1: start_s and end_s are '' and 'x'" in problem(folder / "cycles.parquet")


def test_validation_split_is_kept(folder: Path) -> None:
    path = manifest(folder, HEADER + ROWS.replace("test", "validation"))
    assert read_cycles(path)["split"].tolist() == ["train", "train", "validation"]
    splits = audit_data(path).to_dict()["splits"]
    assert isinstance(splits, dict)
    assert list(splits) == ["train", "test", "validation"]


# Broken as a whole


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no rows"),
        (HEADER, "no rows, expected one per cycle"),
        ("file,label\na.wav,normal\n", "no column path (found: file, label)"),
        ("path\na.wav\n", "no column label and not both crackle and wheeze (found: path)"),
        ("path,crackle\na.wav,1\n", "no column label and not both crackle and wheeze"),
        ("path,label,spilt\na.wav,normal,test\n", "column 'spilt' is not known; did you mean 'split'"),
        ("path,label,Label\na.wav,normal,x\n", None),
        ("path,label,label\na.wav,normal,x\n", "a column is there twice"),
        ("path,label\na.wav,normal,1\n", "line 2: 3 columns, expected 2 (path, label)"),
    ],
)
def test_manifest_that_cannot_be_understood(folder: Path, text: str, sentence: str | None) -> None:
    path = manifest(folder, text)
    if sentence is None:
        assert any("columns that are not used: Label" in note for note in audit_data(path).notes)
        return
    for read in (read_cycles, audit_data):
        with pytest.raises(ValueError, match=r"cycles\.csv") as error:
            read(path)
        assert sentence in str(error.value)


def test_files_that_are_no_manifest(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_cycles(folder / "nothing.csv")
    with pytest.raises(ValueError, match=r"expected a table ending in \.csv, \.tsv, \.parquet"):
        read_cycles(folder / "a.wav")
    (folder / "broken.parquet").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"broken\.parquet: not a Parquet file"):
        read_cycles(folder / "broken.parquet")
    (folder / "broken.csv").write_bytes(b"path,label\n\xff\x81\x8d")
    with pytest.raises(ValueError, match=r"neither UTF-8 nor UTF-16 nor Windows text \(byte 12 cannot be read\)"):
        read_cycles(folder / "broken.csv")
    with pytest.raises(ValueError, match="expected a name ending in"):
        table.write_manifest(read_cycles(manifest(folder, HEADER + ROWS)), folder / "out.txt")


# Broken rows


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a.wav,zero,0.5,normal,1,train", "line 5: start_s and end_s are 'zero' and '0.5', expected numbers"),
        ("a.wav,0,nan,normal,1,train", "line 5: start_s and end_s are '0' and 'nan'"),
        ("a.wav,0,0.5,weeze,1,train", "line 5: label 'weeze' is not known; did you mean wheeze? Known: normal"),
        ("a.wav,0,0.5,7,1,train", "line 5: label '7' is not known; expected one of normal"),
        ("a.wav,0.5,0.5,normal,1,train", "line 5: the cycle ends at 0.5 s"),
        ("a.wav,-1,0.5,normal,1,train", "line 5: the cycle starts at -1 s"),
        ("a.wav,0,3,normal,1,train", "line 5: the cycle 0-3 s lies past the end"),
        ("a.wav,0,1,normal,9,train", "line 2: the rows of recording a differ in patient (1, 9)"),
        ("a.wav,0,1,normal,1,test", "line 2: the rows of recording a differ in split (test, train)"),
    ],
)
def test_broken_row(folder: Path, row: str, sentence: str) -> None:
    path = manifest(folder, HEADER + ROWS + row + "\n")
    found = problem(path)
    assert str(path) in found
    assert sentence in found
    assert read_cycles(path, skip_damaged=True)["recording"].tolist() == ["b"]


def test_label_against_flags(folder: Path) -> None:
    path = manifest(folder, "path,label,crackle,wheeze\na.wav,wheeze,1,0\nb.wav,both,1,1\n")
    assert "line 2: label wheeze but crackle 1 and wheeze 0, which is crackle" in problem(path)


def test_missing_file_broken_file_and_unknown_split(folder: Path) -> None:
    path = manifest(folder, HEADER + ROWS + "c.wav,0,1,normal,3,train\n")
    assert "line 5:" in problem(path, left_out="c")
    assert "c.wav" in problem(path, left_out="c")
    assert len(read_cycles(path, audio=False)) == 4
    (folder / "c.wav").write_text("not audio")
    assert "c.wav" in problem(path, left_out="c")
    path = manifest(folder, HEADER + ROWS.replace("train", "trian"))
    assert "line 2: split 'trian', expected one of train, test, validation" in problem(path)


def test_empty_cells(folder: Path) -> None:
    path = manifest(folder, HEADER + ROWS.replace("test", ""))
    report = audit_data(path)
    words = "expected one of train, test, validation, or --set split.name=folds for training"
    assert report.problems == [f"{path}, line 4: split is empty, {words}"]
    assert read_cycles(path, skip_damaged=True)["split"].tolist() == ["train", "train", ""]
    path = manifest(folder, HEADER + ROWS + ",0,1,normal,3,train\n")
    assert audit_data(path).problems == [f"{path}, line 5: no path; give the audio file of the row or remove it"]
    path = manifest(folder, "recording,path,label\nx,,normal\ny,b.wav,normal\n")
    assert "line 2: path is empty; give the audio file of recording x" in audit_data(path).problems[0]


# What other tables bring along


def test_tables_of_predict_go_in_as_they_are(folder: Path) -> None:
    """Columns of predict and of the page, rows that nobody could judge, no patient and no split."""
    columns = "recording,cycle,start_s,end_s,label,p_normal,p_crackle,p_wheeze,p_both,true_label,uncertain,quality,"
    columns += "quality_reason,source,path,model_label,confirmed\n"
    rows = "a,1,0,0.5,crackle,.1,.7,.1,.1,normal,False,ok,,segment,a.wav,both,True\n"
    rows += "a,2,0.5,1,,,,,,,,silent,every sample is zero,segment,a.wav,,\n"
    rows += "b,1,0,1,normal,.7,.1,.1,.1,normal,False,ok,,segment,b.wav,normal,False\n"
    path = manifest(folder, columns + rows)
    report = audit_data(path)
    assert report.problems == []
    assert report.notes == [
        f"{path}: no column patient; every recording counts as a patient of its own",
        f"{path}: no column split; every row counts as train",
        f"{path}: columns that are not used: p_normal, p_crackle, p_wheeze, p_both, true_label, uncertain, quality, "
        "quality_reason, source, model_label, confirmed; the label is that of the column label, which differs "
        "from true_label in 1 rows",
        f"{path}: rows without a label, not judged and left out: 1 (line 3)",
    ]
    assert read_cycles(path)["label"].tolist() == ["crackle", "normal"]
    with pytest.raises(ValueError, match="no row has a label; fill in the column label"):
        read_cycles(manifest(folder, "path,label\na.wav,\n"))


def test_a_split_that_is_empty_throughout_is_not_said(folder: Path) -> None:
    path = manifest(folder, HEADER + ROWS.replace("train", "").replace("test", ""))
    assert audit_data(path).problems == []
    assert f"{path}: split is empty throughout; every row counts as train" in audit_data(path).notes
    half = manifest(folder, HEADER + ROWS.replace("test", ""))
    assert "line 4: split is empty" in audit_data(half).problems[0]
    assert len(read_cycles(half, needs_split=False)) == 3


def test_patients_by_names_as_in_the_database(folder: Path) -> None:
    (folder / "a.wav").rename(folder / "101_1b1_Al_sc_Meditron.wav")
    path = manifest(folder, "path,label\n101_1b1_Al_sc_Meditron.wav,normal\nb.wav,both\n")
    cycles = read_cycles(path)
    assert cycles[["patient", "device", "location", "mode"]].to_numpy().tolist() == [
        ["101", "Meditron", "Al", "sc"],
        ["b", "", "", ""],
    ]
    assert "the patient is that of a file name as in ICBHI 2017, of others every recording" in audit_data(path).notes[0]


def test_two_paths_are_two_recordings(folder: Path) -> None:
    for visit in ("visit1", "visit2"):
        (folder / visit).mkdir()
        (folder / visit / "a.wav").write_bytes((folder / "a.wav").read_bytes())
    rows = "visit1/a.wav,0,0.5,normal,a,train\nvisit2/a.wav,0,0.5,crackle,a,train\n./visit2/a.wav,0.5,1,both,a,train\n"
    path = manifest(folder, HEADER + rows + ROWS.splitlines()[2] + "\n")
    report = audit_data(path)
    assert (report.problems, report.notes) == ([], [])
    cycles = read_cycles(path)
    assert cycles[["recording", "cycle", "label"]].to_numpy().tolist() == [
        ["b", 1, "both"], ["visit1/a", 1, "normal"], ["visit2/a", 1, "crackle"], ["visit2/a", 2, "both"]
    ]  # fmt: skip
    named = manifest(folder, "recording," + HEADER + "x,visit1/a.wav,0,1,normal,a,train\nx,b.wav,0,1,both,b,test\n")
    assert read_cycles(named)["recording"].tolist() == ["b", "visit1/a"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a.wav,0,0.5,wheeze,1,train", "the cycle 0-0.5 s stands there as normal and as wheeze; keep the right one"),
        ("a.wav,0.0,0.500,normal,1,train", "the cycle 0-0.5 s (normal) stands there 2 times; keep one"),
        (
            "a.wav,0.0006,0.4994,wheeze,1,train",
            "the cycle 0-0.5 s stands there as normal and as wheeze; keep the right",
        ),
        ("./x/../a.wav,0,0.5,wheeze,1,train", "the cycle 0-0.5 s stands there as normal and as wheeze; keep the right"),
    ],
)
def test_a_cycle_that_stands_there_twice(folder: Path, row: str, sentence: str) -> None:
    assert sentence in problem(manifest(folder, HEADER + ROWS + row + "\n"))


def test_cycles_that_follow_one_another_closely_are_not_the_same() -> None:
    clicks = [Cycle(start_s, start_s + 0.002, 1, 0) for start_s in (0.1, 0.102, 0.104)]
    assert repeated_problems("a", clicks) == []
    assert repeated_problems("a", [Cycle(0.0, 1.0, 0, 0), Cycle(0.0, 1.1, 0, 0), Cycle(0.002, 0.998, 1, 0)]) == [
        "a: the cycle 0-1 s stands there as normal and as crackle; keep the right one"
    ]


@pytest.mark.parametrize("other", ["whole", "./a.wav", "link.wav", "hard.wav"])
@pytest.mark.parametrize("audio", [True, False])
def test_one_file_is_one_recording_however_it_is_written(folder: Path, other: str, audio: bool) -> None:
    """Else one file could be on both sides of the split, without a word."""
    (folder / "link.wav").symlink_to("a.wav")
    (folder / "hard.wav").hardlink_to(folder / "a.wav")
    path = folder / "a.wav" if other == "whole" else other
    rows = f"a.wav,0,0.5,normal,1,train\n{path},0.5,1,wheeze,1,%s\n"
    crossed = manifest(folder, HEADER + rows % "test")
    said = f"line 2: the rows of recording a, which are one file (a.wav, {path}), differ in split (test, train); make"
    with pytest.raises(ValueError, match=re.escape(said)):
        read_cycles(crossed, audio=audio)
    assert said in audit_data(crossed).problems[0]
    whole = read_cycles(manifest(folder, HEADER + rows % "train"), audio=audio)
    assert whole[["recording", "cycle"]].to_numpy().tolist() == [["a", 1], ["a", 2]]


def test_a_file_that_is_not_there_is_one_recording_too(folder: Path) -> None:
    rows = f"gone.wav,0,0.5,normal,1,train\n{folder / 'gone.wav'},0.5,1,both,1,test\nno\0.wav,0,1,normal,1,train\n"
    path = manifest(folder, HEADER + rows)
    with pytest.raises(ValueError, match=r"one file \(gone.wav, .*gone.wav\), differ in split"):
        read_cycles(path, audio=False)
    assert len(audit_data(path).problems) == 3


def test_one_file_of_two_names_is_a_problem(folder: Path) -> None:
    rows = "x,a.wav,0,0.5,normal,1,train\ny,a.wav,0,0.5,wheeze,1,train\n"
    report = audit_data(manifest(folder, "recording," + HEADER + rows))
    assert "line 2: the rows of recording x differ in recording (x, y); make them one" in report.problems[0]
    assert "the cycle 0-0.5 s stands there as normal and as wheeze" in report.problems[1]
