"""HF_Lung_V1 as published: a file of labels beside each recording, in folders train and test."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rales.data import audit_data, hf_lung, read_cycles
from rales.data.corpus import read_corpus
from rales.data.databases import check_database
from rales.labels import LabelSet
from tests import tiny

STETH, TRUNC = "steth_20190821_12_00_25", "trunc_2019-08-22-10-35-06-L1_1"
LABELS = """\
I 00:00:00.500 00:00:01.500
D 00:00:00.600 00:00:00.900
E 00:00:01.700 00:00:02.500
Wheeze 00:00:02.000 00:00:03.020
I 00:00:03.000 00:00:04.000
E 00:00:04.000 00:00:04.400
E 00:00:04.500 00:00:05.000
I 00:00:06.000 00:00:07.000
Rhonchi 00:00:06.100 00:00:06.900
D 00:00:06.500 00:00:06.700
Stridor 00:00:08.000 00:00:09.000
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A simulated folder in the layout of the release, with one copy of a recording as some downloads have it."""
    sound = np.random.default_rng(0).normal(0, 0.05, 15 * 4000)
    for place, name, labels in (("train", STETH, LABELS), ("train 2", STETH, LABELS), ("test", TRUNC, "")):
        (tmp_path / "HF" / place).mkdir(parents=True)
        soundfile.write(tmp_path / "HF" / place / f"{name}.wav", sound, 4000)
        (tmp_path / "HF" / place / f"{name}_label.txt").write_text(labels)
    return tmp_path / "HF"


def test_breaths_are_made_of_phases_and_hold_the_sounds_that_overlap_them(folder: Path) -> None:
    """By hand: the wheeze reaches 20 ms into the second breath, which is a matter of where somebody clicked."""
    table = read_cycles(folder)
    assert table[["start_s", "end_s", "crackle", "wheeze", "label"]].to_numpy().tolist() == [
        [0.5, 2.5, 1, 1, "both"],
        [3.0, 5.0, 0, 0, "normal"],
        [6.0, 7.0, 1, 1, "both"],
    ]
    assert table[["recording", "patient", "device", "split", "date"]].drop_duplicates().to_numpy().tolist() == [
        [STETH, "20190821", "Littmann 3200", "train", "20190821"]
    ]
    own = read_cycles(folder, label_set=LabelSet(("crackle", "rhonchi", "stridor", "wheeze"), independent=True))
    assert own["label"].tolist() == ["crackle+wheeze", "normal", "crackle+rhonchi"]

    audit = audit_data(folder)
    assert not audit.problems
    assert any("sounds outside all breaths, in no cycle: 1" in note for note in audit.notes)
    assert any("no inhalation and no exhalation" in note for note in audit.notes)
    assert any("patients are not told" in note for note in audit.notes)
    test = next(each for each in audit.recordings if each.name == TRUNC)
    assert (test.split, test.location, test.device, test.patient) == ("test", "L1", "HF-Type-1", "20190822")


def test_phases_without_their_counterpart_are_breaths_by_themselves() -> None:
    phases = [(0.0, 1.0, "E"), (1.0, 1.5, "E"), (2.0, 3.0, "I"), (4.0, 5.0, "I"), (5.0, 6.0, "E")]
    assert hf_lung.join_phases(phases) == [(0.0, 1.0), (1.0, 1.5), (2.0, 3.0), (4.0, 6.0)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("X 00:00:01.0 00:00:02.0", "line 2: label 'X' is not known; expected one of I, E, D, Wheeze"),
        ("I 1.0 2.0", "line 2: start and end are '1.0' and '2.0', expected hours:minutes:seconds"),
        ("I 00:00:01.0", "line 2: 2 words, expected a label, its start and its end"),
        ("I 00:00:02.0 00:00:01.0", "line 2: its I ends at 1 s, not after its start at 2 s"),
        ("E 00:00:14.0 00:00:16.0", "line 2: its E 14-16 s lies past the end of the recording, which lasts 15.000 s"),
    ],
)
def test_a_broken_line_damages_its_recording(folder: Path, line: str, said: str) -> None:
    path = folder / "test" / f"{TRUNC}_label.txt"
    path.write_text(f"I 00:00:00.0 00:00:01.0\n{line}\n")
    audit = audit_data(folder)
    assert [said in problem for problem in audit.problems] == [True]
    assert audit.damaged == [TRUNC]


def test_what_is_missing_or_on_both_sides_is_told(folder: Path) -> None:
    (folder / "train" / f"{STETH}.wav").unlink()
    (folder / "train 2" / f"{STETH}.wav").unlink()
    (folder / "train" / f"{TRUNC}_label.txt").write_text("")
    (folder / "test" / "steth_20190823_12_00_25.wav").write_bytes((folder / "test" / f"{TRUNC}.wav").read_bytes())
    problems = audit_data(folder).problems
    assert any(f"no recording {STETH}.wav" in each for each in problems)
    assert any(f"{TRUNC} is there for train and for test" in each for each in problems)
    assert any("no annotation steth_20190823_12_00_25_label.txt" in each for each in problems)
    assert any("the whole HF_Lung_V1 has 9765" in each for each in check_database("HF_Lung_V1", folder))


def test_only_folders_of_the_data_say_the_side(folder: Path) -> None:
    above = folder.parent / "test" / "HF"
    above.parent.mkdir()
    folder.rename(above)
    (above / "test").rename(above / "rest")
    splits = {each.name: each.split for each in audit_data(above).recordings}
    assert splits == {STETH: "train", TRUNC: ""}
    assert {each.split for each in audit_data(above / "train").recordings} == {"train"}


def test_pre_training_leaves_the_test_side_out_and_prediction_takes_the_breaths(folder: Path) -> None:
    used = read_corpus([folder], part="train").sources[0].used.to_pylist()
    assert used
    assert all(path.startswith("train") for path in used)
    table = tiny.model().predict(folder / "train" / f"{STETH}.wav")
    assert table["source"].unique().tolist() == ["annotation"]
    assert table["true_label"].tolist() == ["both", "normal", "both"]
