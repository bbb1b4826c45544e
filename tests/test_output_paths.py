"""Whatever a command writes, it replaces nothing that it reads and nothing else that it writes."""

import os
import shutil
from pathlib import Path
from typing import get_args

import pytest
from cyclopts import CycloptsError, Token

from rales.cli import WORDS, app
from rales.errors import UsageError
from rales.inference.output_paths import RECORDING, check_outputs, describe_handmade_file
from rales.synthesis.database import write_folder
from rales.training.run_folder import begin_run
from tests import tiny
from tests.command import command

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    tiny.write_folder(folder / "data")
    tiny.save(tiny.model(), folder / "model.safetensors")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """anna.wav with its annotation, bob's likewise, links to both and to the model, a manifest."""
    sound = sorted((made / "data").glob("*.wav"))[0]
    for name in ("anna", "bob"):
        shutil.copy(sound, tmp_path / f"{name}.wav")
        shutil.copy(sound.with_suffix(".txt"), tmp_path / f"{name}.txt")
    shutil.copy(made / "model.safetensors", tmp_path)
    (tmp_path / "m.csv").write_text("path,label\nanna.wav,normal\n")
    (tmp_path / "sub").mkdir()
    for name, target in (
        ("link.csv", "anna.wav"), ("link.png", "anna.wav"), ("link.txt", "anna.txt"), ("link.npz", "model.safetensors"),
        ("link.onnx", "model.safetensors"),
    ):  # fmt: skip
        (tmp_path / name).symlink_to(target)
    os.link(tmp_path / "anna.txt", tmp_path / "hard.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "predict anna.wav --out anna.wav",
        "predict anna.wav --out ./sub/../link.csv",
        "predict anna.wav --out m.csv",
        "predict anna.wav --out anna.txt --format audacity",
        "predict anna.wav --out ANNA.TXT --format raven",
        "predict anna.wav --out link.txt --format csv",
        "predict anna.wav --out hard.txt --format raven",
        "predict anna.wav --out bob.txt --format audacity",
        "predict . --out anna.txt --format raven",
        "predict anna.wav --out x.csv --status x.csv",
        "predict anna.wav --out x.csv --summary ./X.csv",
        "predict anna.wav --status x.csv --summary x.csv",
        "predict anna.wav --out r.xlsx",
        "predict anna.wav --out r.txt",
        "predict anna.wav --summary m.csv",
        "predict --manifest m.csv --out m.csv",
        "embed anna.wav --out link.npz",
        "explain anna.wav --cycle 1 --out link.png",
        "explain anna.wav --cycle 1 --out m.png",
        "export model.safetensors --to onnx --out link.onnx",
    ],
)
def test_no_command_writes_over_its_inputs_or_twice(capsys: Capture, place: Path, words: str) -> None:
    """A UsageError before anything is computed, and every file as it was."""
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    given = words.split()
    model = [] if given[0] == "export" else ["--model", "model.safetensors"]
    code, out, err = command(capsys, *given, *model)
    assert (code, out) == (2, ""), err
    assert err.startswith("rales: ")
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("predict anna.wav --out", "s3://bucket/o.csv"),
        ("predict anna.wav --status", "s3://bucket/o.csv"),
        ("synth", "s3://bucket/x"),
        ("segments anna.wav --out", "gs://bucket/x"),
        ("train m2d --data . --out", "s3://bucket/run"),
        ("export model.safetensors --to onnx -o", "az://bucket/x.onnx"),
    ],
)
def test_a_url_is_no_folder_of_this_machine(capsys: Capture, place: Path, words: str, url: str) -> None:
    """Also where an earlier version has made one."""
    (place / "s3:").mkdir()
    code, out, err = command(capsys, *words.split(), url)
    assert (code, out) == (2, "")
    assert f"{url}: a URL; give a place on this machine" in err
    with pytest.raises(UsageError, match="s3://bucket/run: a URL"):
        begin_run(Path("s3://bucket/run"), {})
    with pytest.raises(UsageError, match=r"^s3://bucket/m.safetensors: a URL"):
        tiny.model().save("s3://bucket/m.safetensors")
    with pytest.raises(UsageError, match="s3://bucket/x: a URL"):
        write_folder("s3://bucket/x", 1, 0)
    assert not list((place / "s3:").iterdir())


@pytest.mark.parametrize("word", [word.__name__ for words in WORDS.values() for word in words])
def test_an_address_is_told_as_it_was_given(word: str) -> None:
    """By whatever names a file, a folder or a model of this machine: a Path would make s3:/bucket/x of it."""
    for argument in app[word].assemble_argument_collection():
        if Path in (argument.hint, *get_args(argument.hint)) or argument.name.lower().strip("-") == "model":
            argument.append(Token(value="s3://bucket/x", source="cli"))
            with pytest.raises(CycloptsError, match="s3://bucket/x: a URL; give a place on this machine"):
                argument.convert()


@pytest.mark.parametrize(
    "words",
    [
        "predict anna.wav --out x.csv --status y.csv --summary z.csv",
        "predict . --out labels --format audacity",
        "predict anna.wav --out new.txt --format raven",
        "predict anna.wav bob.wav --out new.txt --format raven",
        "predict . --out . --format raven",
        "predict . --out high.raven.txt --format raven --threshold 0.95",
        "predict . --out low.raven.txt --format raven --threshold 0.05",
        "predict anna.wav --out anna.json",
        "predict anna.wav --out anna.parquet",
        "embed anna.wav --out v.parquet",
        "embed anna.wav --out v.npz",
    ],
)
def test_the_same_command_again_replaces_its_own_files(capsys: Capture, place: Path, words: str) -> None:
    (place / "link.csv").unlink()
    for _ in range(2):
        code, _, err = command(capsys, *words.split(), "--model", "model.safetensors")
        assert code == 0, err


def test_other_jobs_by_the_same_rule(place: Path) -> None:
    (place / "report.md").symlink_to("m.csv")
    with pytest.raises(UsageError, match=r"--out .*report.md: is a file of a run, which would be replaced"):
        check_outputs({"--out": [place / "report.md"]}, {"a file of a run": [place / "m.csv"]})
    with pytest.raises(UsageError, match="two files of --out would be the same file"):
        check_outputs({"--out": [place / "new", place / "sub" / ".." / "New"]}, {})
    check_outputs({"--out": [Path("x.csv")]}, {RECORDING: ["s3://bucket/x.csv"]})


RAVEN = "Selection\tView\tLow Freq (Hz)\tHigh Freq (Hz)\tClass\tp_normal\tp_crackle\tp_wheeze\tp_both\n"
PREDICTED = f"{RAVEN[:-1]}\tPredicted Class\n1\tSpectrogram 1\t50.000000\t8000.000000\t"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("anna.json", '{"record_annotation": "Normal", "event_annotation": []}'),
        ("ANNA.json", '{"record_annotation": "Normal", "event_annotation": []}'),
        ("65019418_2.6_1_p1_3306.json", '{"record_annotation": "Normal", "event_annotation": []}'),
        ("any.json", '{"record_annotation": "Normal", "event_annotation": [{"start": "0", "end": "9"}]}'),
        ("m.json", '[{"path": "anna.wav", "label": "normal"}]'),
        ("m.tsv", "path\tlabel\nanna.wav\tnormal\n"),
        ("cw.csv", "path,start_s,end_s,crackle,wheeze\nanna.wav,0,1,1,0\n"),
        ("times.CSV", "path,start_s,end_s\nanna.wav,0,1\n"),
        ("Lab.csv", "Path,Label\nanna.wav,normal\n"),
        ("files.csv", "file_name\nanna.wav\n"),
        ("anna.raven.txt", RAVEN + "1\tSpectrogram 1\t50.0\t8000.0\tcrackle\t0.7\t0.1\t0.1\t0.1\n"),
        ("anna.raven.txt", RAVEN + "1\tSpectrogram 1\t50.000\t8000.000\tnormal\t0.7\t0.1\t0.1\t0.1\n"),
        ("anna.raven.txt", f"{PREDICTED}normal\t0.1\t0.7\t0.1\t0.1\tcrackle\n"),
        ("anna.RAVEN.TXT", "Selection\tBegin Time (s)\tEnd Time (s)\tClass\n1\t0\t1\tnormal\n"),
        ("x.raven.txt", "Selection\tBegin Time (s)\tEnd Time (s)\tClass\n1\t0\t1\tnormal\n"),
        ("anna.audacity.txt", "0.000000\t1.000000\tnormal 0.70\n"),
        ("x.audacity.txt", "0.000000\t1.000000\tnormal\n"),
    ],
)
def test_what_people_make_stays_whatever_its_name(place: Path, name: str, text: str) -> None:
    """Annotations in every form that is read, and every table of recordings that is not known to be ours."""
    (place / "ANNA.WAV").write_bytes((place / "anna.wav").read_bytes())
    path = place / name
    path.write_text(text)
    link = place / "a_link.csv"
    link.symlink_to(name)
    for out in (path, link):
        with pytest.raises(UsageError, match="which would be replaced; choose another name"):
            check_outputs({"--out": [out]}, {RECORDING: [place / "bob.wav"]})


def test_a_name_that_is_as_long_as_the_disk_takes(place: Path) -> None:
    sound = place / f"{'a' * 251}.wav"
    sound.write_bytes((place / "anna.wav").read_bytes())
    check_outputs({"--out": [place / "x.csv", sound.with_suffix(".csv")]}, {RECORDING: [sound]})


def test_a_hard_link_to_an_annotation_that_is_read(place: Path) -> None:
    (place / "anna.json").write_text('{"record_annotation": "Normal"}')
    os.link(place / "anna.json", place / "hard.json")
    with pytest.raises(UsageError, match="is the annotation of a recording that is read"):
        check_outputs({"--out": [place / "hard.json"]}, {RECORDING: [place / "anna.wav"]})
    check_outputs({"--out": [place / "hard.json"]}, {RECORDING: [place / "bob.wav"]})


def test_files_that_people_make(place: Path) -> None:
    assert describe_handmade_file(place / "m.csv")
    assert describe_handmade_file(place / "anna.txt")
    ours = {
        "ours.csv": "recording,label,p_normal,path\n",
        "status.csv": "path,status,sentence\n",
        "sums.csv": "path,not_judged,abnormal\n",
        "other.csv": "a,b\n",
    }
    for name, text in ours.items():
        (place / name).write_text(text)
        assert not describe_handmade_file(place / name)
    rows = ["50.0\t8000.0\twheeze\t0.1\t0.4\t0.4\t0.1\n", "50.000000\t8000.000000\twheeze\t0.1\t0.4\t0.4\t0.1\n"]
    for row in rows:  # as written formerly and now; of six digits two may be the largest
        (place / "x.raven.txt").write_text(f"{RAVEN}1\tSpectrogram 1\t{row}")
        assert not describe_handmade_file(place / "x.raven.txt")
    for label in ("wheeze", "normal", "crackle+wheeze", "not judged"):  # by whatever threshold
        (place / "x.raven.txt").write_text(f"{PREDICTED}{label}\t0.500000\t0.500000\t0.1\t0.1\t{label}\n")
        assert not describe_handmade_file(place / "x.raven.txt")
    (place / "judged.csv").write_text("recording,label,p_normal,path,confirmed\n")  # the page's, with people's labels
    assert describe_handmade_file(place / "judged.csv")
