"""What a model learns from confirmed cycles: who teaches and who tests, the job, and what becomes of its model."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score

from rales.data import read_cycles
from rales.data.splits import digest_name
from rales.evaluation.conformal import has_several_labels, name_sets
from rales.files.json_files import read_json
from rales.inference.load_model import load_model
from rales.labels import CLASSES
from rales.web import learn_job, learning, store
from rales.web.learning import Learning, hold_out_patients, list_confirmed, name_patients, start_process
from rales.web.model_registry import ModelRegistry
from rales.web.security import ApiError
from rales.web.service import Service
from rales.web.settings import Settings
from tests import tiny
from tests.attack.store_kills import FACTS
from tests.scripted import script
from tests.served import until

SPANS = [{"start_s": float(i), "end_s": i + 1.0, "label": "normal"} for i in range(4)]
P = {f"p_{name}": 0.25 for name in CLASSES}
KNOWN = [f"{number}_1b1_Al_sc_Meditron" for number in range(301, 312)]  # eleven patients whom no model was trained on


class InThread:
    """A job's process that is a thread of this one, which has imported already what takes another three seconds."""

    stdin, returncode, pid = None, 0, 0

    def __init__(self, folder: Path) -> None:
        self.thread = threading.Thread(target=learn_job.learn, args=(folder,))
        self.thread.start()

    def poll(self) -> int | None:
        return None if self.thread.is_alive() else 0

    def wait(self) -> None:
        self.thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "start_process", InThread)
    monkeypatch.setattr(learning, "LOOK_S", 0.02)


class Ward:
    """A service that answers nobody, with a session of eleven recordings of every class a cycle, all confirmed."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.service = Service(Settings(folder=folder, model=str(place / "runs" / "first")))
        self.learning = self.service.learning
        self.session = {"id": self.service.store.new_session("Ward A"), "name": "Ward A"}
        self.recordings = [self.add(name, seed) for seed, name in enumerate(KNOWN)]

    def add(self, name: str, seed: int) -> str:
        arrived = self.service.arriving / name
        arrived.mkdir(parents=True)
        wave = np.concatenate([tiny.breath(label, seed=seed) for label in range(4)])
        for file in ("audio.wav", "page.wav"):
            soundfile.write(arrived / file, wave, tiny.RATE_HZ, subtype="FLOAT")
        facts = {**FACTS, "digest": f"{seed}", "notes": []}
        recording = self.service.store.new_recording(self.session["id"], f"{name}.wav", facts, arrived, None)
        self.confirm(recording)
        return recording

    def confirm(self, recording: str, *labels: str) -> None:
        marked = [
            {"start_s": i, "end_s": i + 1, "label": label or "normal", "confirmed": bool(label), "unusable": False}
            for i, label in enumerate(labels or CLASSES)
        ]
        self.service.annotate(recording, marked)

    def begin(self, kind: str = "train", learns: str = "head", epochs: int = 2) -> None:
        self.learning.begin(self.session, kind, "first", learns, epochs)

    def end(self) -> dict[str, Any]:
        """-> the job, once it does not run."""
        assert self.learning.thread is not None
        self.learning.thread.join(60)
        return self.learning.state()


@pytest.fixture(scope="module")
def ward(place: Path) -> Iterator[Ward]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PRAGMAS", [each.replace("= FULL", "= OFF") for each in store.PRAGMAS])
        ward = Ward(place, place / "ward")
        yield ward
        ward.service.lock.release()


# Who teaches and who tests

PATIENTS = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40)


@settings(max_examples=15, deadline=None)
@given(PATIENTS, st.sets(st.sampled_from("abcdefghijkl")), st.lists(st.sampled_from(CLASSES), min_size=40, max_size=40))
def test_held_out_patients_never_train(patients: list[str], heard: set[str], labels: list[str]) -> None:
    cycles = pd.DataFrame({"patient": [*patients, *"abcde"], "label": [*labels[: len(patients)], *labels[:5]]})
    split = hold_out_patients(cycles, heard, "normal")
    tests, trains = (set(cycles.loc[split == side, "patient"]) for side in ("test", "train"))
    assert not tests & trains
    assert len(tests) >= 2
    assert trains
    if len(set(cycles["patient"]) - heard) >= 4:
        assert not tests & heard
    assert split.equals(hold_out_patients(cycles, heard, "normal"))


def test_a_fifth_tests_of_both_kinds() -> None:
    cycles = pd.DataFrame({"patient": [f"p{i // 4}" for i in range(80)], "label": [*CLASSES] * 20})
    tests = cycles[hold_out_patients(cycles, set(), "normal") == "test"]
    assert (tests["patient"].nunique(), set(tests["label"])) == (4, set(CLASSES))


def test_one_sound_is_of_one_patient() -> None:
    rows = [
        {"id": "1", "path": "ward/again.wav", "patient": "", "digest": "same"},
        {"id": "2", "path": "101_1b1_Al_sc_Meditron.wav", "patient": "101", "digest": "same"},
        {"id": "3", "path": "ward/other.wav", "patient": "", "digest": "x"},
        {"id": "4", "path": "copy.wav", "patient": "", "digest": "x"},
        {"id": "5", "path": "old.wav", "patient": "", "digest": ""},
        {"id": "6", "path": "older.wav", "patient": "", "digest": ""},
    ]
    patients = name_patients(rows)
    assert patients == {"1": "101", "2": "101", "3": "ward/other", "4": "ward/other", "5": "old", "6": "older"}


def test_what_is_confirmed_and_what_is_missing(ward: Ward) -> None:
    survey = ward.learning.survey(ward.session["id"], "first")
    assert (survey["cycles"], survey["recordings"], survey["patients"]) == (44, 11, 11)
    assert (survey["heard"], survey["unnamed"], survey["calibrate"], survey["train"]) == (0, 0, "", "")
    assert survey["classes"] == dict.fromkeys(CLASSES, 11)
    first, second = ward.recordings[:2]
    ward.confirm(first, "wheeze", "", "", "")
    ward.service.annotate(second, [{**span, "confirmed": True, "unusable": True} for span in SPANS])
    try:
        survey = ward.learning.survey(ward.session["id"], "first")
        assert (survey["cycles"], survey["patients"], survey["classes"]["wheeze"]) == (37, 10, 10)
        ward.confirm(first, "", "", "", "")
        survey = ward.learning.survey(ward.session["id"], "first")
        assert survey["calibrate"] == "9 of 10 confirmed patients: 1 more needed"
        assert survey["train"] == ""
        with pytest.raises(ApiError, match="9 of 10 confirmed patients"):
            ward.begin("calibrate")
    finally:
        ward.confirm(first)
        ward.confirm(second)


def test_patients_of_the_models_training_calibrate_nothing(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"split": {"trained_recordings": [digest_name(name) for name in KNOWN[:3]]}}
    monkeypatch.setattr(ward.service.models, "record", lambda name: known)
    survey = ward.learning.survey(ward.session["id"], "first")
    assert survey["heard"] == 3
    assert survey["calibrate"].startswith("8 of 10 confirmed patients: 2 more")
    assert survey["calibrate"].endswith("beside those on whom the model was trained")
    monkeypatch.setattr(ward.service.models, "record", lambda name: {**known, "classes": ["no sound", "noise"]})
    assert ward.learning.survey(ward.session["id"], "first")["train"].startswith("first tells other classes apart")


def test_recordings_of_one_name_are_known_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names that the reader of the manifest gives them, which are those that a model's record tells."""
    added = [ward.add(name, seed) for seed, name in enumerate(("ward0/rec", "ward1/rec", "ward1/rec"), start=30)]
    try:
        table, _, _ = list_confirmed(ward.service, ward.session["id"])
        ward.learning.folder.mkdir()
        copied, left_out = ward.learning.copy_sound(table)
        assert left_out == []
        copied.assign(split="train").drop(columns="id").to_csv(ward.learning.folder / "manifest.csv", index=False)
        trained = read_cycles(ward.learning.folder / "manifest.csv")["recording"]
        assert set(trained) == {*KNOWN, "ward0/rec", "ward1/rec", "ward1/rec (2)"}
        record = {"split": {"trained_recordings": [digest_name(name) for name in set(trained)]}}
        monkeypatch.setattr(ward.service.models, "record", lambda name: record)
        assert ward.learning.heard_patients(table, "first")[0] == set(table["patient"])
        record["split"]["trained_recordings"] = [digest_name("ward0/rec"), digest_name(KNOWN[0])]
        assert ward.learning.heard_patients(table, "first")[0] == {"ward0/rec", "301"}
        record["split"]["trained_recordings"] = [digest_name("rec")]  # of a folder on its own
        assert ward.learning.heard_patients(table, "first")[0] == {"ward0/rec", "ward1/rec"}
    finally:
        store.remove_tree(ward.learning.folder)
        for recording in added:
            ward.service.store.remove_recording(recording)


# The job


def test_a_calibrated_model_has_sets_and_is_there_at_the_next_start(ward: Ward, place: Path) -> None:
    ward.begin("calibrate")
    job = ward.end()
    assert (job["status"], job["tested_patients"]) == ("done", 11), job
    figures = {each["name"]: each for each in job["figures"]}
    assert set(figures) == {"Temperature", "Calibration error", "Threshold for crackle", "Threshold for wheeze"}
    for name, sentence in (("First", "there is a model First already"), (" \n", "0 letters"), ("x" * 61, "61 letters")):
        with pytest.raises(ApiError, match=sentence):
            ward.learning.use(name)
    with pytest.raises(ApiError, match="a job is there already"):
        ward.begin()
    os.utime(ward.learning.folder / "model.safetensors", (0, 0))
    ward.learning.use("Ours")
    assert ward.service.models.changed("Ours") > 1e9  # what another model of this name has said is older
    (ours,) = [model for model in ward.service.models.listed() if model["name"] == "Ours"]
    assert ours["origin"].startswith("first, calibrated here: 44 confirmed cycles of 11 patients of Ward A, 20")
    folder = ward.service.store.folder / "models" / ours["learned"]
    assert {file.name for file in folder.iterdir()} == {"learned.json", "model.safetensors"}  # and no sound

    row = ward.service.store.recording(ward.recordings[0], "first")
    assert row is not None
    scored = ward.service.predict(row, "Ours")
    model = load_model(folder / "model.safetensors", "cpu")
    assert figures["Temperature"]["new"]["value"] == model.calibration["temperature"]
    least = model.calibration["conformal"]["devices"]["Meditron"]["least"]["0.9"]
    assert [line["prediction_set"] for line in scored] == name_sets(uncooled(model, scored) >= least)
    kept = ward.service.scores(ward.recordings[0])["Ours"]
    assert [line["prediction_set"] for line in kept] == [line["prediction_set"] for line in scored]

    again = ModelRegistry(str(place / "runs" / "first"), None, folder.parent)
    assert [model["name"] for model in again.listed()] == ["first", "Ours"]
    ward.learning.remove(ours["learned"])
    assert not folder.exists()
    assert "Ours" not in ward.service.store.scores(ward.recordings[0])
    assert [model["name"] for model in ward.service.models.listed()] == ["first"]
    with pytest.raises(ApiError, match="no such model"):
        ward.learning.remove(ours["learned"])


def uncooled(model: Any, rows: list[dict[str, Any]]) -> Any:
    """Probabilities at the model's temperature -> those of its network, by hand."""
    cooled = np.array([[row[f"p_{name}"] for name in CLASSES] for row in rows])
    raw = cooled ** model.calibration["temperature"]
    return raw / raw.sum(axis=1, keepdims=True)


def test_a_trained_model_stands_beside_the_old_one(ward: Ward, place: Path) -> None:
    ward.begin("train", "head", 2)
    job = ward.end()
    assert (job["status"], job["tested_patients"], job["tested_cycles"]) == ("done", 3, 12), job
    assert [each["name"] for each in job["figures"]] == ["Score", "Sensitivity", "Specificity", "AUROC"]
    assert (job["learns"], job["epochs"], job["seed"]) == ("head", 2, 0)
    assert learning.describe_origin(job, "today").startswith("first, trained on here, head only, 2 epochs, seed 0: 44 ")
    left = ward.service.store.folder / "learning"
    assert {file.name for file in left.iterdir()} == {"task.json", "result.json", "progress.json", "model.safetensors"}
    new, old = (load_model(path, "cpu") for path in (left / "model.safetensors", place / "runs" / "first"))
    before = old.network.state_dict()
    moved = {name for name, value in new.network.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert not any(name.startswith("encoder") for name in moved)
    (left / "sound").mkdir()  # as a service leaves it that was ended before it could clear
    for file in ("sound/of a patient.wav", "manifest.csv"):
        (left / file).touch()
    assert Learning(ward.service).state() == job  # a service that starts finds what waits for a decision
    assert not any((left / file).exists() for file in ("sound", "manifest.csv"))
    ward.learning.discard()
    assert not left.exists()
    assert ward.learning.state()["status"] == "none"
    for undecided in (ward.learning.discard, lambda: ward.learning.use("x")):
        with pytest.raises(ApiError, match=r"no job to stop|no model waits"):
            undecided()


def test_cycles_with_several_possible_labels_are_counted(ward: Ward) -> None:
    row = ward.service.known(ward.recordings[0])
    words = ["crackle | both", "any", "wheeze", "no label"]
    scored = [{**SPANS[i], "label": "wheeze", "prediction_set": words[i], **P} for i in range(4)]
    lines = [{**span, "confirmed": False} for span in SPANS]
    assert ward.service.facts({**row, "scored": scored, "cycles": lines})["ambiguous"] == 2
    lines[1]["confirmed"] = True
    assert ward.service.facts({**row, "scored": scored, "cycles": lines})["ambiguous"] == 1
    assert [has_several_labels(word) for word in ("", "crackle?", "crackle+wheeze", "crackle+wheeze?")] == [
        False, True, False, True,
    ]  # fmt: skip


def test_figures_are_those_of_scikit_learn(place: Path, tmp_path: Path) -> None:
    cycles = read_cycles(place / "data")
    rows = cycles[cycles["split"] == "test"].reset_index(drop=True)
    old, new = (load_model(place / "runs" / name, "cpu") for name in ("first", "second"))
    found = learn_job.compare_models(old, new, rows, tmp_path)
    figures = {each["name"]: each for each in found["figures"]}
    assert (found["cycles"], found["patients"], found["notes"]) == (12, 3, [])
    for side, model in (("old", old), ("new", new)):
        answers = pd.concat([model.predict(path, quality=False) for path in rows["path"].unique()])
        true, called = answers["true_label"], answers["label"]
        recalls = recall_score(true, called, labels=["normal"], average=None)
        right = (true == called)[true != "normal"].mean()
        assert figures["Specificity"][side]["value"] == pytest.approx(recalls[0])
        assert figures["Sensitivity"][side]["value"] == pytest.approx(right)
        assert figures["Score"][side]["value"] == pytest.approx((recalls[0] + right) / 2)
        assert figures["AUROC"][side]["value"] == pytest.approx(
            roc_auc_score(true != "normal", 1 - answers["p_normal"])
        )
    score = figures["Score"]
    assert score["difference"]["value"] == pytest.approx(score["new"]["value"] - score["old"]["value"])
    heard = learn_job.compare_models(old, new, cycles[cycles["split"] == "train"].reset_index(drop=True), tmp_path)
    assert heard["notes"] == ["the old model was trained on 20 of these cycles, so that its figures are too good"]


# What the page says of it


def test_words() -> None:
    work = """({ name, values }) => page[name](...values, ...(name === "setWords" ? [labels] : []))""".replace(
        "labels]", '{ independent: values[0].includes("+") || values[0].includes("?"), words: (name) => `<${name}>` }]'
    )
    with script("learn_words.js", work) as words:

        def said(name: str, *values: Any) -> Any:
            return words({"name": name, "values": values})

        assert said("setWords", "crackle | both") == "<crackle> or <both>, 90 %"
        assert said("setWords", "wheeze") == "<wheeze>, 90 %"
        assert said("setWords", "any") == "any label, 90 %"
        assert said("setWords", "no label") == "no label fits: unlike what taught the model"
        assert said("setWords", "") == ""
        assert said("setWords", "crackle?+wheeze") == "<wheeze>, perhaps <crackle>, 90 %"
        assert said("figureWords", {"value": 0.714, "low": 0.6, "high": 0.8}) == "0.71 (0.60 to 0.80)"
        assert said("figureWords", {"value": 0.05, "low": -0.1, "high": 0.2}, "+") == "+0.05 (-0.10 to +0.20)"
        assert said("figureWords", {"value": 2, "low": None, "high": None}) == "2.00"
        assert said("figureWords", {"value": None, "low": None, "high": None}) == "–"
        running = {"kind": "train", "phase": "train", "epoch": 3, "epochs": 10, "epoch_s": 20}
        assert said("progressWords", running) == {"words": "Epoch 3 of 10, about 3 min left", "share": 0.3}
        assert said("progressWords", {**running, "phase": "prepare"})["share"] is None
        few = {"cycles": 1, "recordings": 1, "patients": 1, "unnamed": 1, "heard": None, "left_out": ["a: gone"]}
        assert said("surveyWords", few) == [
            "Confirmed by a person: 1 cycle of 1 patient, in 1 recording.",
            "1 recording without a patient in the name: each counts as a patient.",
            "The model does not tell whom it was trained on; these patients may be among them.",
            "Left out: a: gone",
        ]
        done = {"status": "done", "kind": "train", "learns": "all", "epochs": 8, "seed": 0}
        done |= {"tested_cycles": 12, "tested_patients": 3}
        whom = "Old and new model on 12 cycles of 3 patients who did not train"
        assert said("outcomeWords", done).startswith(f"Trained: all of it, 8 epochs, seed 0. {whom}")
        old = {**done, "learns": "head", "epochs": 1, "seed": None}  # of a service that wrote no seed down
        assert said("outcomeWords", old).startswith(f"Trained: head only, 1 epoch. {whom}")
        assert said("outcomeWords", {"status": "failed", "problem": "too few"}) == "too few"


# Its end


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes of jobs that never end by themselves."""
    started: list[subprocess.Popen[bytes]] = []

    def start(_: Path) -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True))
        return started[-1]

    monkeypatch.setattr(learning, "start_process", start)
    yield started
    assert all(process.poll() is not None for process in started)


def test_a_job_is_stopped_by_a_person_a_removed_recording_or_the_end_of_the_service(
    ward: Ward, endless: list["subprocess.Popen[bytes]"]
) -> None:
    ward.begin()
    until(lambda: endless)
    other = ward.service.store.new_session("Ward B")  # the job stays that of the session that it began with
    job = ward.learning.state()
    assert (job["status"], job["session_name"], job["cycles"]) == ("running", "Ward A", 44)
    assert ward.learning.survey(other, "first")["cycles"] == 0
    with pytest.raises(ApiError, match="a job is there already"):
        ward.begin()
    ward.learning.discard()
    assert ward.learning.state()["status"] == "none"
    assert not ward.learning.folder.exists()

    extra = ward.add("320_1b1_Al_sc_Meditron", 20)
    ward.begin()
    until(lambda: len(endless) == 2)
    ward.service.store.remove_recording(extra)
    failed = ward.end()
    assert (failed["status"], failed["problem"]) == (
        "failed",
        "a recording that it learned from was removed; begin again",
    )

    ward.learning.discard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ward.learning, "thread", threading.main_thread())  # which does not end at once
        with pytest.raises(ApiError, match="still ending"):
            ward.begin()

    ward.begin()
    until(lambda: len(endless) == 3)
    asyncio.run(ward.service.stop())
    assert not ward.learning.folder.exists()

    ward.learning.folder.mkdir()  # as one leaves it that was killed
    (ward.learning.folder / "task.json").write_text('{"kind": "train"}')
    assert Learning(ward.service).state() == {"status": "none"}
    assert not ward.learning.folder.exists()


def test_a_recording_whose_sound_goes_meanwhile_is_left_out_with_a_sentence(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven patients are confirmed when it begins: ten are enough, nine are not, and a decoder that is out of order
    is no recording's fault."""
    gone = {ward.recordings[0]: ApiError(404, "301: its file holds another sound now")}

    def ensure(recording: str) -> None:
        if recording in gone:
            raise gone[recording]

    monkeypatch.setattr(ward.service, "ensure_sound", ensure)
    ward.begin("calibrate")
    job = ward.end()
    assert (job["status"], job["cycles"], job["patients"], job["tested_patients"]) == ("done", 40, 10, 10), job
    assert job["notes"][-1] == "left out: 301: its file holds another sound now"
    ward.learning.discard()

    gone[ward.recordings[1]] = ApiError(503, "the decoder does not start")
    ward.begin("calibrate")
    assert ward.end()["problem"] == "the decoder does not start"
    gone[ward.recordings[1]] = ApiError(404, "302: cannot be read")
    ward.begin("calibrate")
    assert ward.end()["problem"] == (
        "9 of 10 confirmed patients: 1 more needed. 301: its file holds another sound now. 302: cannot be read"
    )
    ward.learning.discard()


def test_a_job_that_cannot_be_done_says_why(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        raise ValueError(f"{folder / 'manifest.csv'}: nothing in it")

    monkeypatch.setattr(learn_job, "train", refuse)
    ward.begin()
    job = ward.end()
    assert (job["status"], job["problem"]) == ("failed", "manifest.csv: nothing in it")


@pytest.mark.parametrize("told", ["[]", '{"name": 3}', "{", '{"kind": "train", "epochs": "many"}'])
def test_a_job_or_model_that_came_with_a_folder_is_no_harm(place: Path, tmp_path: Path, told: str) -> None:
    for name, file in (("learning", "task.json"), ("learning", "result.json"), ("models/x", "learned.json")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).write_text(told)
    (tmp_path / "models" / "x" / "model.safetensors").write_bytes(b"nothing")
    learning = Learning(cast(Any, SimpleNamespace(store=SimpleNamespace(folder=tmp_path))))
    assert learning.state()["status"] == "none"
    assert not learning.folder.exists()
    models = ModelRegistry(str(place / "runs" / "first"), None, tmp_path / "models")
    assert [model["name"] for model in models.listed()] == ["first"]


def test_no_file_of_the_folder_that_one_stands_in_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("ours", "theirs"):
        module = tmp_path / place / "rales" / "web" / "learn_job.py"
        module.parent.mkdir(parents=True)
        for package in (module.parent, module.parent.parent):
            (package / "__init__.py").touch()
        module.write_text(f"import pathlib, sys; pathlib.Path(sys.argv[1], 'ran {place}').touch()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "ours"))
    monkeypatch.chdir(tmp_path / "theirs")
    process = start_process(tmp_path)
    assert process.wait(60) == 0
    learning.end_process(process)
    assert [file.name for file in tmp_path.glob("ran*")] == ["ran ours"]


@pytest.mark.slow
def test_the_process_does_its_work_and_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"kind": "train", "source": "nothing", "freeze": "none", "epochs": 1}')
    words = [sys.executable, "-m", "rales.web.learn_job", str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.wait(60) == 0
    assert "--from nothing" in read_json(tmp_path / "result.json")["problem"]
    (tmp_path / "result.json").unlink()
    os.mkfifo(tmp_path / "manifest.csv")  # on which it would wait for ever
    (tmp_path / "task.json").unlink()
    os.mkfifo(tmp_path / "task.json")
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
