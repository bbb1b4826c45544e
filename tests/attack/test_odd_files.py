"""One odd file beside good recordings, through every command that reads recordings: it is one failed row with its
reason, and the good ones are what they are without it.

Every command with every file is `make test-slow`; all odd files in one folder are `make test`.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.data import audit_data, read_cycles
from rales.data.corpus import read_corpus
from rales.data.random_crops import CropDataset
from rales.files.csv_cells import make_encodable, one_line, restore_table
from rales.inference import audio_reader
from rales.inference.audio_reader import find_recordings
from rales.inference.load_model import load_model
from tests import tiny
from tests.attack.odd_files import LOCKED, ODD, RATE_HZ, Odd, locks, sound
from tests.attack.targets import EVENTS, UNFORESEEN
from tests.command import command

GOOD = {"101_1b1_Al_sc_Meditron": "train", "102_1b1_Al_sc_Meditron": "train", "104_1b1_Al_sc_Meditron": "test"}
LONGEST_S = 200  # a busy machine starts a worker in a minute
ROOT = getattr(os, "geteuid", lambda: 1)() == 0


def good_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in GOOD:
        soundfile.write(folder / f"{name}.wav", sound(int(name[:3])), RATE_HZ)
        (folder / f"{name}.txt").write_text("0\t2\t0\t0\n2\t4\t1\t0\n")
    lines = "".join(f"{name}\t{side}\n" for name, side in GOOD.items())
    (folder / "ICBHI_challenge_train_test.txt").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny.save(tiny.model(), path)
    return path


@pytest.fixture(scope="module")
def answers(model: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What the good recordings alone are answered."""
    folder = good_folder(tmp_path_factory.mktemp("good") / "d")
    return load_model(model).predict(folder, quality=False)


@pytest.fixture(autouse=True)
def in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that hangs is a failure; nothing called LOCKED can be opened."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"hangs for {LONGEST_S} s")

    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    with locks():
        yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    for path in tmp_path.rglob(f"{LOCKED}*"):
        path.chmod(0o700)


def check_status(status: pd.DataFrame, folder: Path, odd: dict[str, Odd]) -> None:
    """The status of a folder of good and odd recordings: a row each, with a reason where it failed."""
    rows = dict(zip(status["path"], status.to_dict("records"), strict=True))
    wanted = {f"{folder}/{name}.wav": "ok" for name in GOOD}
    wanted |= {make_encodable(f"{folder}/{name}"): each.row for name, each in odd.items() if each.row}
    assert {path: row["status"] for path, row in rows.items()} == wanted
    for path, row in rows.items():
        if row["status"] == "failed":
            assert row["sentence"].startswith(os.path.splitext(path)[0]), row["sentence"]  # its annotation, or itself
            assert not UNFORESEEN.search(row["sentence"]), row["sentence"]


def check_answers(cycles: pd.DataFrame, answers: pd.DataFrame) -> None:
    """The good recordings are answered as they are alone, to the last bit of what is written."""
    good = cycles[cycles["recording"].isin(GOOD)].reset_index(drop=True)
    assert good["label"].tolist() == answers["label"].tolist()
    assert np.abs(good["p_normal"] - answers["p_normal"]).max() < 1e-6


def failed_of(odd: dict[str, Odd]) -> list[str]:
    return sorted(make_encodable(name) for name, each in odd.items() if each.row == "failed")


Words = list[object]
Job = Callable[[Path, Path, Path, dict[str, Odd], pd.DataFrame, pytest.CaptureFixture[str]], None]


def table_job(form: str) -> Job:
    def run(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
        words: Words = ["predict", folder, "--model", model, "--out", out / f"o.{form}", "--status", out / "s.csv"]
        code, _, err = command(capsys, *words, "--summary", out / "summary.parquet", "--quality", "off")
        assert code == (1 if failed_of(odd) else 0), err
        check_status(restore_table(pd.read_csv(out / "s.csv", keep_default_na=False)), folder, odd)
        read: dict[str, Callable[[Path], pd.DataFrame]] = {
            "csv": lambda path: restore_table(pd.read_csv(path)),
            "json": lambda path: pd.DataFrame({k: v for k, v in json.loads(path.read_text()).items() if k != "notice"}),
            "parquet": pd.read_parquet,
        }
        check_answers(read[form](out / f"o.{form}"), answers)
        assert set(pd.read_parquet(out / "summary.parquet")["recording"]) >= set(GOOD)

    return run


def label_job(form: str, name: str) -> Job:
    def run(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
        words: Words = ["predict", folder, "--model", model, "--out", out / name, "--format", form, "--quality", "off"]
        code, _, err = command(capsys, *words)
        assert code == (1 if failed_of(odd) else 0), err
        assert err.count("rales: ") == len(failed_of(odd))
        text = "".join(path.read_text() for path in [out / name, *out.rglob("*.txt")] if path.is_file())
        files = {path.name for path in out.rglob("*.txt")}
        assert all(any(good in file for file in files) or good in text for good in GOOD)

    return run


def printed(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    _, text, _ = command(capsys, "predict", folder, "--model", model, "--json", "--quality", "off")
    document = json.loads(text)
    check_status(pd.DataFrame(document["status"]), folder, odd)
    check_answers(pd.DataFrame(document["cycles"]), answers)
    assert len(document["problems"]) == len(failed_of(odd))


def by_manifest(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    names = [*(f"{name}.wav" for name in GOOD), *odd]
    pd.DataFrame({"path": [f"{folder}/{make_encodable(name)}" for name in names]}).to_parquet(out / "m.parquet")
    words: Words = ["predict", "--manifest", out / "m.parquet", "--out", out / "m", "--model", model, "--processes", 1]
    _, text, err = command(capsys, *words, "--json", "--quality", "off")
    found = json.loads(text)
    status = pd.read_parquet(out / "m" / "status").set_index("path")
    assert (found["recordings"], found["waiting"]) == (len(names), 0), err
    as_root = {make_encodable(name) for name in odd if ROOT and LOCKED in name}  # workers of root may open them
    for name, each in odd.items():
        if make_encodable(name) not in as_root:
            assert status.loc[f"{folder}/{make_encodable(name)}", "status"] == (each.row or "failed")
    check_answers(pd.read_parquet(out / "m" / "cycles"), answers)


def embedded(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    words: Words = ["embed", folder, "--model", model, "--out", out / "e.npz", "--per", "recording", "--quality", "off"]
    code, text, err = command(capsys, *words, "--json")
    assert text, err
    document = json.loads(text)
    assert document["vectors"] == len(GOOD) + sum(each.row == "ok" for each in odd.values())
    assert len(document["problems"]) == len(failed_of(odd)), document["problems"]
    assert code == (1 if failed_of(odd) else 0), err


def checked(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    _, text, _ = command(capsys, "check", folder, "--json")
    found = json.loads(text)
    assert not any(UNFORESEEN.search(problem) for problem in found["problems"])
    assert found["splits"]["train"]["cycles"] == 4
    assert not set(GOOD) & set(found["damaged_recordings"])
    told = "\n".join(found["problems"] + found["notes"])
    for name in odd:
        assert one_line(os.path.splitext(name)[0]) in told or not odd[name].row


def read(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    """What `rales train --skip-damaged` reads."""
    table = read_cycles(folder, skip_damaged=True, needs_split=False)
    assert set(GOOD) <= set(table["recording"])
    later = ("visit.zsa", "nan.wav")  # a note; and headers alone are read here, samples when the cache is made
    if any(each.row == "failed" and name not in later for name, each in odd.items()):
        with pytest.raises(ValueError, match="--skip-damaged"):
            read_cycles(folder, needs_split=False)
    assert len(audit_data(folder).cycles) >= 6


def trained(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    settings = [word for setting in (*tiny.SETTINGS, "train.epochs=1") for word in ("--set", setting)]
    words: Words = ["train", "m2d_fusion", "--data", folder, "--out", out / "run", "--size", "tiny", *settings]
    code, _, err = command(capsys, *words, "--skip-damaged")
    assert (code, (out / "run" / "done").exists()) == (0, True), err


def pretrained(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    settings = [word for setting in (*tiny.PRETRAINING, "pretrain.epochs=1") for word in ("--set", setting)]
    words: Words = ["pretrain", "--data", folder, "--part", "all", "--out", out / "run", "--size", "tiny", *settings]
    code, _, err = command(capsys, *words)
    assert (code, (out / "run" / "done").exists()) == (0, True), err


def cropped(folder: Path, out: Path, model: Path, odd: dict[str, Odd], answers: pd.DataFrame, capsys: Any) -> None:
    """What `rales pretrain` reads: a recording that cannot be used is passed over with a note."""
    crops = CropDataset(read_corpus([folder], part="all"), samples=16000)
    notes = {
        note["recording"]
        for item in range(len(crops.collection))
        for note in crops.crop(item, seed=0, epoch=1).notes
        if note["what"] == "passed over"
    }
    assert {os.path.basename(path) for path in notes} <= set(odd)
    assert not any(good in path for path in notes for good in GOOD)


JOBS: dict[str, Job] = {
    **{form: table_job(form) for form in ("csv", "json", "parquet")},
    "audacity": label_job("audacity", "labels"),
    "raven": label_job("raven", "labels"),
    "raven together": label_job("raven", "all.txt"),
    "printed": printed,
    "manifest": by_manifest,
    "embed": embedded,
    "check": checked,
    "read": read,
    "train": trained,
    "pretrain": pretrained,
    "crops": cropped,
}


@pytest.mark.parametrize("job", ["csv", "embed", "check", "read", "crops"])
def test_all_odd_files_in_one_folder(
    job: str, model: Path, answers: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = good_folder(tmp_path / "d")
    odd = {each.make(folder): each for each in ODD.values()}
    (tmp_path / "out").mkdir()
    JOBS[job](folder, tmp_path / "out", model, odd, answers, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("job", JOBS)
def test_one_odd_file(
    job: str, kind: str, model: Path, answers: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = good_folder(tmp_path / "d")
    odd = {ODD[kind].make(folder): ODD[kind]}
    (tmp_path / "out").mkdir()
    JOBS[job](folder, tmp_path / "out", model, odd, answers, capsys)


def test_a_folder_that_may_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / LOCKED).mkdir()
    for given in (tmp_path / LOCKED, f"{tmp_path / LOCKED}/*.wav"):
        problems = list[str]()
        assert tiny.model().predict(given, problems).empty
        assert problems == [f"{tmp_path / LOCKED}: a folder that cannot be opened (permission denied)"]
    with pytest.raises(OSError, match=rf"{LOCKED}: cannot be opened \(Permission denied\)"):
        read_cycles(tmp_path / LOCKED)
    with pytest.raises(OSError, match=rf"{LOCKED}: cannot be opened \(Permission denied\)"):
        read_corpus([tmp_path / LOCKED])


def test_what_systems_leave_on_disks_is_no_locked_folder(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "d")
    (folder / "lost+found").mkdir()
    soundfile.write(folder / "lost+found" / "x.wav", sound(), RATE_HZ)
    assert len(find_recordings(folder)) == len(GOOD)


def test_a_folder_above_that_may_not_be_listed(tmp_path: Path) -> None:
    """The split list may lie there; without it the folder is read as one that has none."""
    folder = good_folder(tmp_path / LOCKED / "d")
    (folder / "ICBHI_challenge_train_test.txt").unlink()
    assert len(read_cycles(folder, needs_split=False)) == 6


# Lists and annotations that are no files, or none that can be read


def test_an_annotation_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "d")
    name = next(iter(GOOD))
    (folder / f"{name}.txt").unlink()
    os.mkfifo(folder / f"{name}.txt")
    assert (
        f"{folder}/{name}.txt: not a readable text file (a pipe or a device); expected a file"
        in audit_data(folder).problems
    )
    assert set(read_cycles(folder, skip_damaged=True)["recording"]) == set(GOOD) - {name}
    problems = list[str]()
    table = tiny.model().predict(folder, problems, cycles="annotation", quality=False)
    assert set(table["recording"]) == set(GOOD) - {name}
    assert len(problems) == 1


def test_an_annotation_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess where breaths are would look like the annotated ones."""
    soundfile.write(tmp_path / "anna.wav", sound(), RATE_HZ)
    (tmp_path / "anna.txt").write_text("0 1 0 0\n")
    model = tiny.model()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        problems = list[str]()
        assert model.predict(tmp_path / "anna.wav", problems).empty
    assert problems[0].startswith(f"{tmp_path}/anna.txt: cannot be read (Permission denied)")
    os.truncate(tmp_path / "anna.txt", 1 << 40)
    ((_, status),) = model.tables([f"{tmp_path}/anna.wav"])
    assert "passed over" in status["sentence"].item()  # no text of ours is as long, and it is said


def denied(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


def test_split_lists_and_events_that_are_pipes(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "d")
    (folder / "ICBHI_challenge_train_test.txt").unlink()
    os.mkfifo(folder / "ICBHI_challenge_train_test.txt")
    assert any("not a readable text file" in problem for problem in audit_data(folder).problems)
    place = tmp_path / "sprsound" / "train_json"
    place.mkdir(parents=True)
    texts = {"1": json.dumps(EVENTS), "2": "[" * 3000, "3": f'{{"record_annotation": {"[" * 900}{"]" * 900}}}'}
    for number, text in texts.items():
        (place / f"65075373_4.2_0_p1_{number}.json").write_text(text)
    os.mkfifo(place / "65075373_4.2_0_p1_4.json")
    found = audit_data(place.parent)
    assert len(found.problems) == 3
    assert len(found.cycles) == 2
    table = read_cycles(place.parent, audio=False, skip_damaged=True)
    assert len(table) == 2
    assert all("_p1_" in sentence for sentence in table.attrs["left_out"])


@pytest.mark.parametrize("copies", [("d.wav", "d.flac"), ("a/d.wav", "b/d.wav")])
def test_two_files_of_one_name_that_cannot_be_compared(copies: tuple[str, str], tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "d")
    for name in copies:
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name) if name.endswith(".wav") else (folder / name).symlink_to("nowhere")
    assert len(audit_data(folder).cycles) == 6
    assert len(read_cycles(folder, skip_damaged=True, needs_split=False)) == 6


def test_an_error_nobody_foresaw_is_of_one_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = good_folder(tmp_path / "d")
    first, original = f"{folder}/{min(GOOD)}.wav", audio_reader.judge_cycles

    def fail(path: Path, *words: Any) -> Any:
        if str(path) == first:
            raise IndexError("list index out of range")
        return original(path, *words)

    monkeypatch.setattr(audio_reader, "judge_cycles", fail)
    problems = list[str]()
    table = tiny.model().predict(folder, problems, quality=False)
    assert set(table["recording"]) == set(GOOD) - {min(GOOD)}
    assert problems == [f"{first}: cannot be read (IndexError: list index out of range); save it again as WAV"]
