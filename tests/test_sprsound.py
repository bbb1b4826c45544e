"""SPRSound reader: counts of the shared recordings, the mapping of event types, and damage."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import rales.data
from rales.data import sprsound
from rales.data.reader import COLUMNS, MOST_TEXT
from tests.damage import audit_of_one_problem

RATE_HZ = 8000
TRAIN, INTRA, INTER = "100_3.5_0_p1_1", "100_3.6_0_p2_2", "200_7.0_1_p4_3"


def event(start: object, end: object, kind: object) -> dict[str, object]:
    return {"start": start, "end": end, "type": kind}


def write_json(folder: Path, place: str, name: str, label: str, events: list[dict[str, object]]) -> Path:
    path = folder / place / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"record_annotation": label, "event_annotation": events}))
    return path


def add_sound(folder: Path, place: str, name: str) -> None:
    (folder / place).mkdir(exist_ok=True)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE_HZ)
    soundfile.write(folder / place / f"{name}.wav", wave, RATE_HZ)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One recording each in train, intra and inter test, in the layout of the release."""
    folder = tmp_path / "release"
    folder.mkdir()
    write_json(folder, "train_json", TRAIN, "CAS", [event("900", "1500", "Wheeze"), event("100", "800", "Normal")])
    write_json(folder, "test_json/intra_test_json", INTRA, "Poor Quality", [])
    write_json(folder, "test_json/inter_test_json", INTER, "DAS", [event(10, 1990, "Fine Crackle")])
    add_sound(folder, "train_wav", TRAIN)
    add_sound(folder, "test_wav", INTRA)
    add_sound(folder, "test_wav", INTER)
    return folder


def problem(folder: Path, name: str = TRAIN) -> str:
    """The only problem, that of recording `name`, after checking that audit and reader treat it alike."""
    report = audit_of_one_problem(folder)
    assert report.damaged == [name]
    assert name not in set(rales.data.read_cycles(folder, skip_damaged=True)["recording"])
    return report.problems[0]


@pytest.mark.parametrize(
    ("part", "recordings", "poor"), [("sprsound", (40, 29), 13), ("sprsound_flac", (655, 350), 20)]
)
def test_shared_recordings(shared_data: Path, part: str, recordings: tuple[int, int], poor: int) -> None:
    cycles = rales.data.read_cycles(shared_data / part)
    report = rales.data.audit_data(shared_data / part)
    assert report.problems == []
    assert report.cycles.equals(cycles)
    splits = report.to_dict()["splits"]
    assert isinstance(splits, dict)
    assert (splits["train"]["recordings"], splits["test"]["recordings"]) == recordings
    documents = {path.stem: json.loads(path.read_text()) for path in (shared_data / part).rglob("*.json")}
    assert len(cycles) == sum(len(document["event_annotation"]) for document in documents.values())
    assert cycles.groupby("recording").size().to_dict() == {
        name: len(document["event_annotation"]) for name, document in documents.items() if document["event_annotation"]
    }
    assert report.notes[0].endswith(f"give no rows: {poor}")
    assert not (
        set(cycles.loc[cycles["test_part"] == "inter", "patient"])
        & set(cycles.loc[cycles["split"] == "train", "patient"])
    )
    assert (cycles.groupby("recording")["start_s"].diff().dropna() > 0).all()


def test_table(folder: Path) -> None:
    cycles = rales.data.read_cycles(folder)
    assert tuple(cycles.columns) == (*COLUMNS, "record_label", "test_part")
    assert cycles[["recording", "cycle", "start_s", "end_s", "label", "split", "test_part"]].to_numpy().tolist() == [
        [TRAIN, 1, 0.1, 0.8, "normal", "train", ""],
        [TRAIN, 2, 0.9, 1.5, "wheeze", "train", ""],
        [INTER, 1, 0.01, 1.99, "crackle", "test", "inter"],
    ]
    first = cycles.iloc[0]
    assert (first["patient"], first["location"], first["device"], first["mode"]) == ("100", "p1", "Yunting", "")
    assert first["record_label"] == "CAS"
    assert first["path"] == str(folder / "train_wav" / f"{TRAIN}.wav")
    assert rales.data.read_cycles(folder).equals(cycles)
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert report.notes == [f"{folder}: recordings of poor quality, which have no events and give no rows: 1"]
    assert report.to_dict()["recordings"] == 3


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("Normal", "normal"),
        ("Rhonchi", "wheeze"),
        ("Wheeze", "wheeze"),
        ("Stridor", "wheeze"),
        ("Coarse Crackle", "crackle"),
        ("Fine Crackle", "crackle"),
        ("Wheeze+Crackle", "both"),
    ],
)
def test_event_types(folder: Path, kind: str, label: str) -> None:
    write_json(folder, "train_json", TRAIN, "CAS & DAS", [event("0", "1000", kind)])
    assert rales.data.read_cycles(folder)["label"].iloc[0] == label


def test_folders_with_the_year_in_a_subfolder(folder: Path) -> None:
    (folder / "BioCAS2022").mkdir()
    for kind in ("wav", "json"):
        for side in ("train", "test"):
            (folder / f"{side}_{kind}").rename(folder / "BioCAS2022" / f"{side}2022_{kind}")
    cycles = rales.data.read_cycles(folder)
    assert cycles["split"].tolist() == ["train", "train", "test"]
    assert cycles["test_part"].tolist() == ["", "", "inter"]


def test_annotations_only(folder: Path) -> None:
    for path in folder.rglob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"annotations only.*audio=False"):
        rales.data.read_cycles(folder)
    assert rales.data.read_cycles(folder, audio=False)["path"].tolist() == ["", "", ""]
    assert rales.data.audit_data(folder).problems == []


def test_a_normal_recording_without_events_is_a_note(folder: Path) -> None:
    write_json(folder, "train_json", TRAIN, "Normal", [])
    report = rales.data.audit_data(folder)
    assert report.problems == []
    assert any(f"{TRAIN}.json: no events, though the recording is Normal" in note for note in report.notes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"record_annotation": "Normal",\n "event_annotation": [', "not valid JSON (Expecting value: line 2"),
        ("", "not valid JSON (Expecting value: line 1"),
        ("[]", "expected a JSON object with record_annotation and event_annotation"),
        ('{"record_annotation": "Normal"}', "expected a JSON object with record_annotation"),
        ('{"record_annotation": "Fine", "event_annotation": []}', "record_annotation 'Fine', expected one of Normal"),
        ('{"record_annotation": "CAS", "event_annotation": {}}', "event_annotation is no list"),
        ('{"record_annotation": "CAS", "event_annotation": [3]}', "event 1: expected start, end and type"),
    ],
)
def test_broken_json(folder: Path, text: str, sentence: str) -> None:
    path = folder / "train_json" / f"{TRAIN}.json"
    path.write_text(text)
    found = problem(folder)
    assert str(path) in found
    assert sentence in found


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (event("0", "x", "Wheeze"), "event 2: start and end are '0' and 'x', expected milliseconds"),
        (event(None, "100", "Wheeze"), "event 2: start and end are '' and '100'"),
        (event("0", "100", "Wheezing"), "event 2: type 'Wheezing' is not known; did you mean 'Wheeze'?"),
        (event("0", "100", ["Wheeze"]), "event 2: type"),
        (event("100", "100", "Wheeze"), "event 2: the cycle ends at 0.1 s, not after its start"),
        (event("-5", "100", "Wheeze"), "event 2: the cycle starts at -0.005 s"),
        (event("100", "2500", "Wheeze"), "event 2: the cycle 0.1-2.5 s lies past the end"),
        ({"start": "0", "end": "5"}, "event 2: expected start, end and type"),
    ],
)
def test_broken_event(folder: Path, broken: dict[str, object], sentence: str) -> None:
    write_json(folder, "train_json", TRAIN, "CAS", [event("0", "100", "Normal"), broken])
    assert sentence in problem(folder)


def test_missing_and_broken_files(folder: Path) -> None:
    (folder / "train_wav" / f"{TRAIN}.wav").write_bytes(b"junk")
    assert f"{TRAIN}.wav" in problem(folder)
    (folder / "train_wav" / f"{TRAIN}.wav").unlink()
    assert f"{TRAIN}.json: no recording" in problem(folder)
    add_sound(folder, "train_wav", TRAIN)
    (folder / "train_json" / f"{TRAIN}.json").write_bytes(b"\xff\xfa")
    assert "not a UTF-8 text file" in problem(folder)
    with (folder / "train_json" / f"{TRAIN}.json").open("wb") as file:
        file.truncate(MOST_TEXT + 1)  # which takes no room
    assert "expected a text of at most 64" in problem(folder)
    (folder / "train_json" / f"{TRAIN}.json").unlink()
    assert f"{TRAIN}.wav: no annotation {TRAIN}.json" in problem(folder)


def test_the_same_recording_in_train_and_test(folder: Path) -> None:
    write_json(folder, "test_json/intra_test_json", TRAIN, "CAS", [event("0", "100", "Wheeze")])
    assert f"{TRAIN} is there 2 times" in problem(folder)


def test_name_that_is_not_of_the_release(folder: Path) -> None:
    write_json(folder, "train_json", "anna", "Normal", [event("0", "100", "Normal")])
    add_sound(folder, "train_wav", "anna")
    assert "anna.json: the name is not patient_age_sex_location_number" in problem(folder, "anna")


def test_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no annotation in SPRSound layout"):
        sprsound.find_recordings(tmp_path, audio=True, decode=False)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        rales.data.read_cycles(tmp_path / "nowhere")
