"""Which annotation belongs to a recording, and what prediction makes of each kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rales.data import recording_annotations
from rales.inference import audio_reader
from tests import tiny
from tests.command import command
from tests.test_sprsound import event, write_json

NAME = "41234567_3.5_0_p1_1"
EVENTS = [event("900", "1900", "Wheeze"), event("0", "900", "Fine Crackle")]
READER = """
from rales.data.reader import Cycle, DatasetContents, Recording

def ours(path, *, audio, decode):
    sounds = sorted(path.glob("*.wav"))
    cycles = [[Cycle(0, 1, 1, 1), Cycle(1, 2, 0, 0)], [], [Cycle(0, 9, 0, 0)]]
    problems = [[], [], ["c: ends after its end"]]
    found = zip(sounds, cycles, problems)
    return DatasetContents(path, [Recording(s.stem, path=str(s), cycles=c, problems=p) for s, c, p in found])
"""


def write_sound(path: Path, seconds: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, round(8000 * seconds)), 8000)
    return path


@pytest.mark.parametrize(
    ("sounds", "texts"),
    [
        ("train_wav", "train_json"),
        ("test_wav", "test_json/inter_test_json"),
        ("valid_classification_wav/2022", "valid_classification_json/2022/intra_test_json"),
        ("mine", "mine"),
    ],
)
def test_where_the_release_keeps_them(tmp_path: Path, sounds: str, texts: str) -> None:
    sound = write_sound(tmp_path / sounds / f"{NAME}.wav")
    assert list(recording_annotations.find_annotations(sound)) == []
    path = write_json(tmp_path, texts, NAME, "CAS", EVENTS)
    write_json(tmp_path, texts, "41234567_3.5_0_p1_2", "CAS", [])
    assert list(recording_annotations.find_annotations(sound)) == [path]
    found = audio_reader.find_cycles(sound, 2.0)
    assert (found.start_s, found.end_s) == ([0.0, 0.9], [0.9, 1.9])
    assert found.true_label == ["crackle", "wheeze"]
    assert (found.source, found.note) == ("annotation", "")


def test_the_text_of_a_person_comes_first(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "train_wav" / f"{NAME}.wav")
    write_json(tmp_path, "train_json", NAME, "CAS", EVENTS)
    sound.with_suffix(".txt").write_text("0\t2\t0\t0\n")
    assert audio_reader.find_cycles(sound, 2.0).true_label == ["normal"]
    sound.with_suffix(".txt").write_text("a note of mine\n")
    found = audio_reader.find_cycles(sound, 2.0)
    assert found.true_label == ["crackle", "wheeze"]
    assert "a note" not in found.note
    assert f"{NAME}.txt: no cycles in it; passed over" in found.note


def test_two_that_differ_are_refused(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "test_wav" / f"{NAME}.wav")
    write_json(tmp_path, "test_json/inter_test_json", NAME, "CAS", EVENTS)
    write_json(tmp_path, "test_json/intra_test_json", NAME, "CAS", EVENTS)
    assert audio_reader.find_cycles(sound, 2.0).true_label == ["crackle", "wheeze"]  # one, copied
    write_json(tmp_path, "test_json/intra_test_json", NAME, "DAS", EVENTS[:1])
    with pytest.raises(ValueError, match="annotated 2 times"):
        audio_reader.find_cycles(sound, 2.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON|not JSON|JSON"),
        (json.dumps({"record_annotation": "CAS", "event_annotation": [event("0", "9000", "Wheeze")]}), "past the end"),
        (json.dumps({"record_annotation": "CAS", "event_annotation": [event("0", "900", "Weeze")]}), "did you mean"),
    ],
)
def test_a_damaged_annotation_is_a_failed_row_never_windows(tmp_path: Path, content: str, said: str) -> None:
    sound = write_sound(tmp_path / "train_wav" / f"{NAME}.wav")
    write_json(tmp_path, "train_json", NAME, "CAS", []).write_text(content)
    with pytest.raises(ValueError, match=said):
        audio_reader.find_cycles(sound, 2.0)
    problems: list[str] = []
    table = tiny.model().predict(tmp_path, problems)
    assert len(table) == 0
    assert len(problems) == 1
    assert NAME in problems[0]


def test_poor_quality_has_no_events_and_is_said(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "train_wav" / f"{NAME}.wav")
    path = write_json(tmp_path, "train_json", NAME, "Poor Quality", [])
    found = audio_reader.find_cycles(sound, 2.0)
    assert found.source in ("segment", "window")
    assert found.note == f"{path}: its record is Poor Quality, without events; passed over"
    with pytest.raises(ValueError, match="Poor Quality"):
        audio_reader.find_cycles(sound, 2.0, "annotation")


def test_predict_fills_true_label_for_a_sprsound_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sound(tmp_path / "train_wav" / f"{NAME}.wav")
    write_json(tmp_path, "train_json", NAME, "CAS", EVENTS)
    tiny.save(tiny.model(), tmp_path / "model.safetensors")
    words = ["predict", tmp_path / "train_wav", "--model", tmp_path / "model.safetensors", "--json"]
    code, out, _ = command(capsys, *words)
    found = json.loads(out)
    assert code == 0
    assert [row["true_label"] for row in found["cycles"]] == ["crackle", "wheeze"]
    assert {row["source"] for row in found["cycles"]} == {"annotation"}
    assert (found["status"][0]["status"], found["status"][0]["sentence"]) == ("ok", "")


def test_a_table_names_recordings_and_their_cycles(tmp_path: Path) -> None:
    sounds = [write_sound(tmp_path / "in" / f"{name}.wav") for name in "abc"]
    rows = "in/a.wav,0,1,crackle\nin/a.wav,1,2,\nin/b.wav,,,normal\nin/c.wav,1,9,normal\n./in/a.wav,1.2,1.4,\n"
    (tmp_path / "table.csv").write_text("path,start_s,end_s,label\n" + rows)
    sources, _ = audio_reader.find_sources([tmp_path / "table.csv"])
    assert sources == [str(sound) for sound in sounds]
    problems: list[str] = []
    table = tiny.model().predict(tmp_path / "table.csv", problems)
    a, b = table[table["recording"] == "a"], table[table["recording"] == "b"]
    assert a["source"].tolist() == ["manifest"] * 3
    assert a["true_label"].fillna("").tolist() == ["crackle", "", ""]
    assert set(b["source"]) <= {"segment", "window"}
    assert len(problems) == 1  # c ends after its end
    assert "table.csv, line 5" in problems[0]
    assert audio_reader.find_sources([tmp_path / "table.csv"], "windows")[1] == "windows"


def test_tables_name_no_addresses_and_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("path\nhttps://somewhere/a.wav\n")
    with pytest.raises(ValueError, match="only with --manifest and --urls"):
        audio_reader.find_sources([tmp_path / "table.csv"])
    (tmp_path / "empty.csv").write_text("name\na\n")
    with pytest.raises(ValueError, match="no column path"):
        audio_reader.find_sources([tmp_path / "empty.csv"])
    write_sound(tmp_path / "a.wav")
    (tmp_path / "ours.csv").write_text("path,start_s,end_s,label,p_normal\na.wav,0,1,normal,0.9\n")
    code, _, err = command(capsys, "predict", tmp_path / "ours.csv", "--out", tmp_path / "ours.csv")
    assert code == 2
    assert "is a table that is read" in err


def test_an_own_reader_gives_the_cycles(tmp_path: Path) -> None:
    for name in "abc":
        write_sound(tmp_path / "data" / f"{name}.wav")
    (tmp_path / "mine.py").write_text(READER)
    problems: list[str] = []
    table = tiny.model().predict(f"{tmp_path / 'mine.py'}:ours:{tmp_path / 'data'}", problems)
    a = table[table["recording"] == "a"]
    assert (a["true_label"].tolist(), set(a["source"])) == (["both", "normal"], {"annotation"})
    assert set(table.loc[table["recording"] == "b", "source"]) <= {
        "segment",
        "window",
    }  # the reader tells nothing of it
    assert any("ends after its end" in problem for problem in problems)
