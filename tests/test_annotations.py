"""Text beside a recording: each program's form is told apart, and a text of another kind is passed over with a word."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.random import default_rng

from rales.data import audit_data, read_cycles
from rales.data.annotations import annotation_beside, read_annotation
from rales.inference import attribution, audio_reader
from rales.inference.predictor import Predictor
from rales.training import finetune
from tests import tiny
from tests.test_quality import breathing

RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
# Text, form, cycles with flags, whether they have classes
TEXTS: dict[str, tuple[str, str, list[tuple[float, float, int, int]], bool]] = {
    "icbhi": ("0\t1\t1\t0\n1\t2\t0\t1\n", "ICBHI", [(0, 1, 1, 0), (1, 2, 0, 1)], True),
    "icbhi_spaces": ("0 1 0 0\n", "ICBHI", [(0, 1, 0, 0)], True),
    "audacity": ("0.0\t1.0\tcrackle\n1.0\t2.0\tnormal\n", "Audacity", [(0, 1, 1, 0), (1, 2, 0, 0)], True),
    "audacity_ours": ("0.0\t1.0\twheeze 0.62\n1\t2\tuncertain: both 0.31\n", "Audacity",
        [(0, 1, 0, 1), (1, 2, 1, 1)], True),
    "audacity_old": ("0.0\t1.0\twheeze 0.62 (Research tool, not a diagnosis.)\n", "Audacity", [(0, 1, 0, 1)], True),
    "audacity_capitals": ("0.0\t1.0\tCRACKLES 0.80\n1.0\t2.0\tBOTH\n", "Audacity", [(0, 1, 1, 0), (1, 2, 1, 1)], True),
    "audacity_hz": ("0.0\t1.0\tCrackles\n\\\t100.0\t2000.0\n", "Audacity", [(0, 1, 1, 0)], True),
    "audacity_bare": ("0.0\t1.0\t\n1.0\t2.0\t\n", "Audacity", [(0, 1, 0, 0), (1, 2, 0, 0)], False),
    "audacity_not_judged": ("0.0\t1.0\tboth 0.7\n1.0\t2.0\tnot judged: digital silence\n", "Audacity",
        [(0, 1, 1, 1)], True),
    "audacity_point": ("0.0\t1.0\tboth\n1.5\t1.5\t\n", "Audacity", [(0, 1, 1, 1)], True),
    "raven": (f"{RAVEN}\n1\tSpectrogram 1\t1\t0.5\t1.5\t50\t2000\n", "Raven", [(0.5, 1.5, 0, 0)], False),
    "raven_class": (f"{RAVEN}\tClass\n" + "".join(f"1\t{view} 1\t1\t0\t1\t50\t2000\twheeze\n"
        for view in ("Waveform", "Spectrogram")), "Raven", [(0, 1, 0, 1)], True),
    "times": ("0\t0.9\n0.9\t2\n", "times", [(0, 0.9, 0, 0), (0.9, 2, 0, 0)], False),
}  # fmt: skip
OTHERS: dict[str, str | bytes] = {
    "note": "Cough since Monday.\n",
    "note_two_words": "Cough Monday\n",
    "note_with_numbers": "3 days of fever, 38.5 in the evening\n",
    "latin": "Husten seit Montag, schläft schlecht\n".encode("latin-1"),
    "empty": "",
    "points_only": "0.0\t0.0\tcrackle\n1.0\t1.0\twheeze\n",
    "raven_header": f"{RAVEN}\n",
    "raven_header_class": f"{RAVEN}\tClass\n",
    "audacity_of_another_study": "0.0\t1.0\tcough\n1.0\t2.0\tcrackle\n",
}


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


def write(folder: Path, name: str, text: str | bytes) -> Path:
    soundfile.write(folder / f"{name}.wav", 0.1 * default_rng(0).standard_normal(8000), 4000)
    (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / f"{name}.wav"


@pytest.mark.parametrize("name", TEXTS)
def test_forms(tmp_path: Path, model: Predictor, name: str) -> None:
    text, form, cycles, labelled = TEXTS[name]
    sound = write(tmp_path, name, text)
    found = read_annotation(sound.with_suffix(".txt"), 2.0)
    assert [cycle[:4] for cycle in found.cycles] == cycles
    assert (found.form, found.problems, found.labelled) == (form, [], labelled)
    problems: list[str] = []
    ((table, status),) = model.tables([str(sound)], problems)
    assert problems == []
    assert set(table["source"]) == {"annotation"}
    assert table[["start_s", "end_s"]].to_numpy().tolist() == [list(cycle[:2]) for cycle in cycles]
    assert table["true_label"].notna().all() == labelled
    assert bool(status["sentence"][0]) == (form != "ICBHI")
    if labelled:
        assert read_cycles(tmp_path, needs_split=False)[["crackle", "wheeze"]].to_numpy().tolist() == [
            list(cycle[2:]) for cycle in cycles
        ]
    else:
        assert any(
            "times without labels; expected normal, crackle" in problem for problem in audit_data(tmp_path).problems
        )


@pytest.mark.parametrize("name", OTHERS)
def test_texts_of_another_kind(tmp_path: Path, model: Predictor, name: str) -> None:
    sound = write(tmp_path, name, OTHERS[name])
    problems: list[str] = []
    ((table, status),) = model.tables([str(sound)], problems)
    assert problems == []
    assert set(table["source"]) <= {"segment", "window"}
    assert status["status"].tolist() == ["ok"]
    assert status["sentence"][0].startswith(f"{tmp_path / name}.txt: ")
    assert status["sentence"][0].endswith("; passed over")
    assert audit_data(tmp_path).problems  # where classes are to be learned from it, it is none


@pytest.mark.parametrize(
    "text", ["0\t1\t0\t0\n1\t2\t0\n", "0 1 0 0\n0 1 0 1\n", "0\t9\tcrackle\n", "0\t1\tboth\n0\t1\tboth\n", "0 x 0 0\n"]
)
def test_an_annotation_with_a_fault_is_not_passed_over(tmp_path: Path, text: str) -> None:
    sound = write(tmp_path, "anna", text)
    with pytest.raises(ValueError, match=r"anna.txt.*--cycles segment does without it"):
        audio_reader.find_cycles(sound, 2.0)
    assert audio_reader.find_cycles(sound, 2.0, "windows").source == "window"


def test_cycles_that_nobody_judged_are_left_out_with_a_note(tmp_path: Path) -> None:
    sound = write(tmp_path, "anna", "0.0\t1.0\twheeze 0.62\n1.0\t2.0\t\n")
    assert read_cycles(tmp_path, needs_split=False)["label"].tolist() == ["wheeze"]
    said = f"{tmp_path / 'anna.txt'}: read as Audacity, 1 cycles without a label left out"
    assert said in audit_data(tmp_path).notes
    assert audio_reader.find_cycles(sound, 2.0).note == said


def test_labels_of_ours_beside_the_recording_are_an_annotation(tmp_path: Path) -> None:
    """anna.audacity.txt as `rales predict` writes it, corrected in Audacity; anna.txt goes before it."""
    sound = write(tmp_path, "anna", "0\t1\t0\t1\n")
    (tmp_path / "anna.audacity.txt").write_text("0.0\t1.0\tcrackle 0.9\n")
    assert read_cycles(tmp_path, needs_split=False)["label"].tolist() == ["wheeze"]
    sound.with_suffix(".txt").unlink()
    assert read_cycles(tmp_path, needs_split=False)["label"].tolist() == ["crackle"]
    assert f"{tmp_path / 'anna.audacity.txt'}: read as Audacity" in audit_data(tmp_path).notes


def raven(*rows: str, label: str = "Class") -> str:
    return "\n".join([f"Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\t{label}", *rows])


def test_a_raven_table_says_which_recording_it_is_of(tmp_path: Path) -> None:
    """One of another name is told; of one of several the rows of this recording count, at their times in it."""
    own, other = "1\tWaveform 1\t0\t1\tAnna.mp3\t0\twheeze", "2\tWaveform 1\t61\t62\tberta.wav\t1\tcrackle"
    sound = write(tmp_path, "anna", raven(own))
    text = sound.with_suffix(".txt")
    assert audio_reader.find_cycles(sound, 2.0).note == f"{text}: read as Raven"
    text.write_text(raven(other))
    said = f"{text}: says that it is of berta.wav, here it is taken for anna"
    assert said in audio_reader.find_cycles(sound, 2.0).note
    assert any(said in note for note in audit_data(tmp_path).notes)
    text.write_text(raven(own, other))
    assert audio_reader.find_cycles(sound, 2.0).true_label == ["wheeze"]
    assert [cycle[:4] for cycle in read_annotation(text, 2.0, recording="berta.wav").cycles] == [(1, 2, 1, 0)]
    sound = write(tmp_path, "clara", raven(own, other))
    with pytest.raises(ValueError, match=r"holds 2 recordings .*, 0 of them called 'clara'"):
        audio_reader.find_cycles(sound, 2.0)


def test_labels_of_raven_in_a_column_of_another_name(tmp_path: Path) -> None:
    rows = ["1\tSpectrogram 1\t0\t1\t\t\twheeze", "2\tSpectrogram 1\t1\t2\t\t\tcrackles"]
    sound = write(tmp_path, "anna", raven(*rows, label="Species"))
    found = audio_reader.find_cycles(sound, 2.0)
    assert found.true_label == ["wheeze", "crackle"]
    assert found.note.endswith("its labels are those of the column species")
    write(tmp_path, "anna", raven(rows[0].replace("wheeze", "owl"), label="Species"))
    found = audio_reader.find_cycles(sound, 2.0)
    assert (found.true_label, found.source) == (None, "annotation")
    assert found.note.endswith("it has no column of labels (Class, Label, Annotation)")


def test_one_foreign_label_says_what_else_is_lost(tmp_path: Path) -> None:
    sound = write(tmp_path, "anna", "0\t1\tcrackle\n1\t2\trhonchus\n")
    note = audio_reader.find_cycles(sound, 2.0).note
    assert note.endswith(": rhonchus; none of its 2 cycles counts until they are changed; passed over")


@pytest.mark.parametrize("text", ["0,5\t1,0\twheeze\n", "0,5 1,0 1 0\n", "0\t1,5\n"])
def test_decimal_commas_are_named(tmp_path: Path, text: str) -> None:
    sound = write(tmp_path, "anna", text)
    assert "decimal commas (0,5), expected decimal points" in audio_reader.find_cycles(sound, 2.0).note
    assert any("line 1: its times have decimal commas" in problem for problem in audit_data(tmp_path).problems)


@pytest.mark.parametrize("form", ["audacity", "raven"])
@pytest.mark.parametrize("silent", ["half", "whole"])
def test_our_labels_with_cycles_that_were_not_judged_are_read_back(
    tmp_path: Path, model: Predictor, form: str, silent: str
) -> None:
    folder, runs = tmp_path / "data", tmp_path / "run"
    for name in ("breathing", "late"):
        (folder / name).mkdir(parents=True)
    soundfile.write(folder / "breathing" / "breathing.wav", breathing(), 8000)
    late = np.zeros(96_000, np.float32) if silent == "whole" else np.concatenate([np.zeros(96_000), breathing()])
    soundfile.write(folder / "late" / "late.wav", late, 8000)
    paths = audio_reader.find_recordings(folder)
    ((first, status),) = model.tables(paths, cycles="windows")
    refused = int(first["label"].isna().sum())
    assert refused == 3
    for path in tiny.write_predictions([(first, status)], tmp_path / "labels", form, paths):
        name = path.name.removesuffix(f".{form}.txt")
        path.rename(folder / name / f"{name}.txt")

    found = audit_data(folder)
    text = folder / "late" / "late.txt"
    assert [problem for problem in found.problems if "ICBHI_challenge_train_test.txt" not in problem] == []
    assert f"{text}: read as {form.title()}, 3 cycles without a label left out" in found.notes
    told = read_cycles(folder, needs_split=False)
    assert told["label"].tolist() == first["label"].dropna().tolist()
    told["split"] = np.where(np.arange(len(told)) % 2, "train", "test")
    finetune.run(tiny.recipe("train.epochs=1"), told, runs, cache_folder=tmp_path / "cache")
    ((again, status),) = model.tables(paths)
    late_again = again[again["recording"] == "late"]
    if silent == "half":
        assert (again["source"] == "annotation").all()
        assert again[["start_s", "end_s"]].equals(told[["start_s", "end_s"]])
        assert again["true_label"].tolist() == told["label"].tolist()
    else:
        assert set(late_again["source"]) == {"window"}
        assert late_again["label"].isna().all()
        assert status["sentence"].tolist()[1] == f"{text}: 3 cycles, none of them judged; passed over"


@pytest.mark.parametrize("name", ["points_only", "raven_header", "empty"])
def test_an_annotation_without_a_cycle_that_is_asked_for_by_name(tmp_path: Path, model: Predictor, name: str) -> None:
    sound = write(tmp_path, name, OTHERS[name])
    with pytest.raises(ValueError, match=r"\.txt: (no cycles in it|empty).*; --cycles segment does without it"):
        model.predict(sound, cycles="annotation")


NAMES = ["anna.txt", "anna.TXT", "anna.Txt", "anna.raven.txt", "anna.raven.TXT", "anna.audacity.txt"]
NAMES += ["anna.Table.1.selections.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_every_word_finds_the_annotation_that_check_finds(tmp_path: Path, model: Predictor, name: str) -> None:
    sound = write(tmp_path, "anna", "")
    sound.with_suffix(".txt").unlink()
    texts = {"": "icbhi", ".raven": "raven_class", ".audacity": "audacity", ".selections": "raven_class"}
    kind = texts[Path(Path(name).stem).suffix]
    (tmp_path / name).write_text(TEXTS[kind][0])
    found = read_cycles(tmp_path, needs_split=False)
    table = model.predict(sound)
    assert set(table["source"]) == {"annotation"}
    assert table[["start_s", "end_s"]].equals(found[["start_s", "end_s"]])
    assert table["true_label"].tolist() == found["label"].tolist()
    assert len(model.embed(sound, cycles="annotation")) == len(found)
    explained = attribution.explain_cycle(model, str(sound), len(found))
    assert (explained.start_s, explained.end_s) == (found["start_s"].iloc[-1], found["end_s"].iloc[-1])
    (piece,) = audio_reader.read_chunks(f"file://{sound}", model.recipe.settings.audio)
    if name not in ("anna.Txt", "anna.Table.1.selections.txt"):
        assert piece.cycles.true_label == found["label"].tolist()
        assert str(tmp_path) not in piece.cycles.note.removeprefix(f"the text beside file://{sound}")


def test_of_several_texts_beside_a_recording_the_same_one_counts_everywhere(tmp_path: Path) -> None:
    sound = write(tmp_path, "anna", "")
    names = ("anna.txt", "anna.raven.txt", "anna.audacity.txt")
    for name in names:
        (tmp_path / name).write_text("0\t1\tboth\n")
    for name in names:
        found = annotation_beside(sound)
        assert found == tmp_path / name
        assert any(note.startswith(f"{found}: read as") for note in audit_data(tmp_path).notes)
        found.unlink()
    assert annotation_beside(sound) is None
    soundfile.write(tmp_path / "anna.raven.wav", np.zeros(8000), 4000)
    (tmp_path / "anna.raven.txt").write_text("0\t1\tboth\n")
    assert annotation_beside(sound) is None  # it is that of another recording
    assert annotation_beside(tmp_path / "anna.raven.wav") == tmp_path / "anna.raven.txt"
