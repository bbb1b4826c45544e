"""Clips in a folder per class, and patterns of their paths."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rales.data import audit_data, read_contents, read_cycles
from rales.data.corpus import read_corpus
from rales.errors import FileError, UsageError
from rales.inference.evaluate import evaluate_data
from rales.inference.load_model import load_model
from rales.labels import LabelSet
from tests import tiny


def write_clips(folder: Path, *names: str) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.05, 2000)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise, 4000)
    return folder


def test_folders_are_classes_and_the_split_is_above(tmp_path: Path) -> None:
    folder = write_clips(
        tmp_path / "clips",
        *("train/Crackles/a.wav", "train/normal/b.wav", "test/wheeze/a.wav", "val/both/deeper/c.flac"),
    )
    table = read_cycles(folder)
    found = {Path(row["path"]).relative_to(folder).as_posix(): row for row in table.to_dict("records")}
    assert {name: (row["label"], row["split"]) for name, row in found.items()} == {
        "train/Crackles/a.wav": ("crackle", "train"),
        "train/normal/b.wav": ("normal", "train"),
        "test/wheeze/a.wav": ("wheeze", "test"),
        "val/both/deeper/c.flac": ("both", "validation"),
    }
    assert found["val/both/deeper/c.flac"]["crackle"] == found["val/both/deeper/c.flac"]["wheeze"] == 1
    assert set(table["start_s"]) == {0.0}
    assert set(table["end_s"]) == {0.5}
    assert table["recording"].is_unique
    audit = audit_data(folder)
    assert not audit.problems
    assert any("patients are unknown for 4 of 4 clips" in note for note in audit.notes)
    corpus = read_corpus([folder], part="train")  # whatever learns without labels leaves the test side out, too
    assert sorted(corpus.sources[0].used.to_pylist()) == ["train/Crackles/a.wav", "train/normal/b.wav"]


def test_a_relative_path_is_read_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_clips(tmp_path / "clips", "crackle/anna_1.wav", "normal/bob_1.wav")
    monkeypatch.chdir(tmp_path)
    for given in ("clips", "clips/{label}/{patient}_*.wav"):
        assert not audit_data(given).problems
        near, far = read_cycles(given), read_cycles(tmp_path / given)
        assert near["path"].map(lambda path: str(Path(path).absolute())).tolist() == far["path"].tolist()
        assert near.drop(columns="path").equals(far.drop(columns="path"))
    monkeypatch.chdir(folder)
    assert read_cycles(".")["label"].tolist() == ["crackle", "normal"]


def test_patients_of_a_table_of_names_and_of_a_pattern(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, "crackle/x.wav", "normal/101_1b1_Al_sc_Meditron.wav", "normal/y.wav")
    (folder / "metadata.csv").write_text("file_name,patient,device\ncrackle/x.wav,anna,Eko\n./normal/y.wav,bob,\n")
    table = read_cycles(folder).set_index("recording")
    assert table["patient"].to_dict() == {"x": "anna", "y": "bob", "101_1b1_Al_sc_Meditron": "101"}
    assert table.loc["x", "device"] == "Eko"
    assert not any("unknown" in note for note in audit_data(folder).notes)
    write_clips(folder, "loose.wav")
    (folder / "metadata.csv").write_text("file_name,patient\nloose.wav,anna\nabsent.wav,bob\n")
    assert audit_data(folder).problems == [f"{folder / 'metadata.csv'}: absent.wav is not there"]

    (folder / "metadata.csv").write_text("file_name,split\ncrackle/x.wav,Train\nnormal/y.wav,val\n")
    splits = read_cycles(folder, needs_split=False).set_index("recording")["split"].to_dict()
    assert splits == {"101_1b1_Al_sc_Meditron": "", "x": "train", "y": "validation"}
    (folder / "metadata.csv").write_text("file_name,split\ncrackle/x.wav,Train\nnormal/y.wav,dev\n")
    with pytest.raises(FileError, match=r"metadata\.csv, line 3: split 'dev', expected one of train, test"):
        read_cycles(folder)

    other = write_clips(tmp_path / "other", "eva/test/crackle_1.wav", "eva/test/normal_2.wav", "tim/train/wheeze_1.wav")
    pattern = other / "{patient}" / "{split}" / "{label}_*.wav"
    table = read_cycles(pattern)
    assert table[["patient", "split", "label"]].to_numpy().tolist() == [
        ["eva", "test", "crackle"],
        ["eva", "test", "normal"],
        ["tim", "train", "wheeze"],
    ]
    contents = read_contents(other / "{patient}" / "test" / "{label}_{recording}.wav", audio=True, decode=False)
    assert [recording.name for recording in contents.recordings] == ["1", "2"]
    assert any("in no folder of a class, left out: 1" in note for note in contents.notes)


@pytest.mark.parametrize("also", ["crackle/x.wav", "train/crackle/x.wav"])
def test_a_folder_called_as_a_class_does_not_replace_annotated_recordings(tmp_path: Path, also: str) -> None:
    folder = tiny.write_folder(tmp_path / "data")
    before = len(read_cycles(folder))
    write_clips(folder, also)
    contents = read_contents(folder, audio=True, decode=False)
    assert sum(len(recording.cycles) for recording in contents.recordings) == before


def test_own_classes_are_folders_too(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, "quiet/a.wav", "squawk/b.wav", "squawk/c.wav")
    label_set = LabelSet(("quiet", "squawk"))
    assert read_cycles(folder, label_set=label_set)["label"].tolist() == ["quiet", "squawk", "squawk"]
    with pytest.raises(ValueError, match=r"no annotation a\.txt"):  # with ICBHI's classes folders like any other
        read_cycles(folder)


def test_broken_folders_say_what_is_wrong(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "a", "nromal/a.wav", "wheeze/b.wav")
    (folder / "wheeze" / "broken.wav").write_bytes(b"RIFF")
    (folder / "loose.wav").write_bytes((folder / "wheeze" / "b.wav").read_bytes())
    (folder / "metadata.csv").write_text("file_name,patient\nwheeze/gone.wav,eva\n")
    problems = audit_data(folder).problems
    assert any("nromal/a.wav: label 'nromal' is not known; did you mean normal?" in each for each in problems)
    assert any("broken.wav" in each for each in problems)
    assert any("metadata.csv: wheeze/gone.wav is not there" in each for each in problems)
    assert any("loose.wav" in note for note in audit_data(folder).notes)
    kept = read_cycles(folder, skip_damaged=True)
    assert kept["recording"].tolist() == ["b"]

    (folder / "metadata.csv").write_text("clip,patient\nb.wav,eva\n")
    with pytest.raises(FileError, match=r"metadata\.csv: no column file_name \(found: clip, patient\)"):
        read_cycles(folder)
    (folder / "metadata.csv").unlink()
    with pytest.raises(UsageError, match=r"no field \{person\}; there are \{label\}, \{patient\}"):
        read_cycles(folder / "{person}" / "{label}.wav")
    with pytest.raises(UsageError, match=r"\{label\} stands there twice"):
        read_cycles(folder / "{label}" / "{label}.wav")
    with pytest.raises(FileError, match="none of 4 recordings fits it"):
        read_cycles(folder / "{label}" / "*.mp3")
    mixed = write_clips(tmp_path / "b", "train/normal/a.wav", "wheeze/b.wav")
    with pytest.raises(ValueError, match="neither in train nor in test"):
        read_cycles(mixed)
    assert len(read_cycles(mixed, needs_split=False)) == 2


def test_annotated_recordings_in_such_folders_are_read_by_their_annotations(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, "normal/a.wav", "wheeze/b.wav")
    (folder / "normal" / "a.txt").write_text("0.0 0.2 0 0\n0.2 0.5 1 0\n")
    (folder / "wheeze" / "b.txt").write_text("0.0 0.5 0 1\n")
    table = read_cycles(folder, needs_split=False)
    assert table["label"].tolist() == ["normal", "crackle", "wheeze"]
    assert table.equals(read_cycles(folder, needs_split=False))


def test_a_model_is_scored_on_folders(tmp_path: Path, trained: Path) -> None:
    folder = write_clips(tmp_path, "normal/a.wav", "wheeze/b.wav", "crackle/c.wav")
    run = next(path.parent for path in sorted((trained / "runs").glob("*/done")))
    figures = evaluate_data(load_model(run), folder)
    assert np.sum(figures["confusion"]) == 3
