"""What a model learns from confirmed cycles: who teaches and who tests, the job, and what becomes of its model."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score

from rales.data import read_cycles
from rales.evaluation.conformal import name_sets
from rales.files.json_files import read_json
from rales.inference.load_model import load_model
from rales.labels import CLASSES
from rales.web import learn_job, learning
from rales.web.learning import hold_out_patients, name_patients
from tests import tiny
from tests.scripted import script
from tests.served import new_session, recording, served, until, upload

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


@pytest.fixture(scope="module")
def clinic(client: httpx.Client, place: Path) -> str:
    """A session with a recording of each of the eleven, of every class a cycle, all confirmed."""
    session = new_session(client, "Ward A")
    for seed, name in enumerate(KNOWN):
        sound = place / f"{name}.wav"
        wave = np.concatenate([tiny.breath(label, seed=seed) for label in range(4)])
        soundfile.write(sound, wave, tiny.RATE_HZ, subtype="PCM_16")
        confirm(client, upload(client, session, sound)["id"])
    return session


def confirm(client: httpx.Client, recorded: str, confirmed: bool = True) -> None:
    cycles = [
        {"start_s": i, "end_s": i + 1, "label": name, "confirmed": confirmed, "unusable": False}
        for i, name in enumerate(CLASSES)
    ]
    assert client.post("/annotations", json={"recording": recorded, "cycles": cycles}).status_code == 201


def ended(client: httpx.Client) -> dict[str, Any]:
    """-> the job, once it does not run."""

    def job() -> dict[str, Any] | None:
        found = dict(client.get("/learning").json())
        return found if found["status"] != "running" else None

    return dict(until(job))


# Who teaches and who tests

PATIENTS = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None)
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


def test_what_is_confirmed_and_what_is_missing(client: httpx.Client, place: Path, clinic: str) -> None:
    session = new_session(client, "Few")
    first = upload(client, session, recording(place))["id"]  # of a patient on whom the model was trained
    confirm(client, first, confirmed=False)
    nothing = client.get(f"/sessions/{session}/learning").json()
    assert (nothing["cycles"], nothing["patients"]) == (0, 0)
    assert nothing["train"] == "0 of 5 confirmed patients: 5 more are needed"
    confirm(client, first)
    found = client.get(f"/sessions/{session}/learning").json()
    assert (found["cycles"], found["recordings"], found["patients"], found["heard"]) == (4, 1, 1, 1)
    assert found["classes"] == dict.fromkeys(CLASSES, 1)
    assert found["calibrate"] == (
        "0 of 10 confirmed patients: 10 more are needed, beside those on whom the model was trained"
    )
    assert "not a diagnosis" in found["notice"]
    enough = client.get(f"/sessions/{clinic}/learning").json()
    assert (enough["patients"], enough["heard"], enough["calibrate"], enough["train"]) == (11, 0, "", "")
    for body, status in (
        ({"kind": "calibrate"}, 409),
        ({"kind": "train", "epochs": 0}, 422),
        ({"kind": "train", "epochs": 10**9}, 422),
        ({"kind": "train", "model": "../first"}, 422),
        ({"kind": "guess"}, 422),
        ({"kind": "train", "learns": "everything"}, 422),
    ):
        assert client.post(f"/sessions/{session}/learning", json=body).status_code == status, body
    assert client.post("/sessions/x/learning", json={"kind": "train"}).status_code == 404
    assert client.get("/learning").json()["status"] == "none"
    assert client.post("/learning/use", json={"name": "x"}).status_code == 409
    assert client.delete("/learning").status_code == client.delete("/models/first").status_code == 404


# The job


def test_a_calibrated_model_has_sets_and_is_there_at_the_next_start(
    client: httpx.Client, place: Path, clinic: str
) -> None:
    begun = client.post(f"/sessions/{clinic}/learning", json={"kind": "calibrate"})
    assert (begun.status_code, begun.json()["patients"]) == (201, 11), begun.text
    job = ended(client)
    assert (job["status"], job["tested_patients"], job["problem"]) == ("done", 11, ""), job
    figures = {each["name"]: each for each in job["figures"]}
    assert set(figures) == {"Temperature", "Calibration error", "Threshold for crackle", "Threshold for wheeze"}
    assert client.post(f"/sessions/{clinic}/learning", json={"kind": "calibrate"}).status_code == 409
    assert client.post("/learning/use", json={"name": "First"}).status_code == 409  # as the one that is served
    assert client.post("/learning/use", json={"name": " \n"}).status_code == 422
    listed = client.post("/learning/use", json={"name": "Ours"}).json()
    (ours,) = [model for model in listed if model["name"] == "Ours"]
    assert ours["origin"].startswith("first, calibrated here: 44 confirmed cycles of 11 patients of Ward A, 20")
    folder = place / "store" / "models" / ours["learned"]
    assert {file.name for file in folder.iterdir()} == {"learned.json", "model.safetensors"}  # and no sound

    one = client.get(f"/sessions/{clinic}").json()["recordings"][0]["id"]
    scored = client.post(f"/recordings/{one}/predictions?model=Ours").json()["cycles"]
    model = load_model(folder / "model.safetensors", "cpu")
    assert figures["Temperature"]["new"]["value"] == model.calibration["temperature"]
    least = model.calibration["conformal"]["devices"]["Meditron"]["least"]["0.9"]
    assert [row["prediction_set"] for row in scored] == name_sets(uncooled(model, scored) >= least)
    assert client.get(f"/recordings/{one}").json()["scores"]["Ours"][0]["prediction_set"] == scored[0]["prediction_set"]

    with served(place, folder=place / "again", model=str(folder / "model.safetensors")) as other:
        session = new_session(other)
        facts = upload(other, session, place / f"{KNOWN[0]}.wav")
        (line,) = other.get(f"/sessions/{session}").json()["recordings"]
        sets = [row["prediction_set"] for row in facts["scores"]["model.safetensors"]]
        assert line["ambiguous"] == sum("|" in word or word == "any" for word in sets)
    assert client.delete(f"/models/{ours['learned']}").status_code == 204
    assert not folder.exists()
    assert "Ours" not in [model["name"] for model in client.get("/models").json()]
    assert client.post(f"/recordings/{one}/predictions?model=Ours").status_code == 422


def uncooled(model: Any, rows: list[dict[str, Any]]) -> Any:
    """Probabilities at the model's temperature -> those of its network, by hand."""
    cooled = np.array([[row[f"p_{name}"] for name in CLASSES] for row in rows])
    raw = cooled ** model.calibration["temperature"]
    return raw / raw.sum(axis=1, keepdims=True)


def test_a_trained_model_stands_beside_the_old_one(client: httpx.Client, place: Path, clinic: str) -> None:
    asked = {"kind": "train", "learns": "head", "epochs": 2}
    assert client.post(f"/sessions/{clinic}/learning", json=asked).status_code == 201
    job = ended(client)
    assert (job["status"], job["tested_patients"], job["tested_cycles"]) == ("done", 3, 12), job
    assert [each["name"] for each in job["figures"]] == ["Score", "Sensitivity", "Specificity", "AUROC"]
    left = place / "store" / "learning"
    assert {file.name for file in left.iterdir()} == {"task.json", "result.json", "progress.json", "model.safetensors"}
    new, old = load_model(left / "model.safetensors", "cpu"), load_model(place / "runs" / "first", "cpu")
    moved = {
        name for name, value in new.network.state_dict().items() if not value.equal(old.network.state_dict()[name])
    }
    assert moved
    assert not any(name.startswith("encoder") for name in moved)
    with served(place, folder=place / "store2") as other:  # whose folder holds no job
        assert other.get("/learning").json()["status"] == "none"
    assert client.delete("/learning").status_code == 204
    assert not left.exists()


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
        done = {"status": "done", "kind": "train", "tested_cycles": 12, "tested_patients": 3}
        assert said("outcomeWords", done).startswith("Old and new model on 12 cycles of 3 patients who did not train")
        assert said("outcomeWords", {"status": "failed", "problem": "too few"}) == "Nothing was learned: too few"


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
    client: httpx.Client, place: Path, clinic: str, endless: list["subprocess.Popen[bytes]"]
) -> None:
    asked = {"kind": "train", "epochs": 2}
    assert client.post(f"/sessions/{clinic}/learning", json=asked).status_code == 201
    until(lambda: endless)
    assert client.post(f"/sessions/{clinic}/learning", json=asked).status_code == 409  # one at a time
    assert client.get("/learning").json()["status"] == "running"  # as a page that was loaded again sees it
    assert client.delete("/learning").status_code == 204
    assert endless[0].poll() is not None
    assert client.get("/learning").json()["status"] == "none"
    assert not (place / "store" / "learning").exists()

    again = upload(client, clinic, place / f"{KNOWN[0]}.wav")["id"]
    confirm(client, again)
    assert client.post(f"/sessions/{clinic}/learning", json=asked).status_code == 201
    assert client.delete(f"/recordings/{again}").status_code == 204
    failed = ended(client)
    assert (failed["status"], failed["problem"]) == (
        "failed",
        "a recording that it learned from was removed; begin again",
    )
    with served(place, folder=place / "ends") as other:
        session = new_session(other)
        for name in KNOWN[:5]:
            confirm(other, upload(other, session, place / f"{name}.wav")["id"])
        assert other.post(f"/sessions/{session}/learning", json=asked).status_code == 201
    assert not (place / "ends" / "learning").exists()


def test_a_job_that_cannot_be_done_says_why(client: httpx.Client, clinic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: dict[str, Any], folder: Path) -> dict[str, Any]:
        raise ValueError(f"{folder / 'manifest.csv'}: nothing in it")

    monkeypatch.setattr(learn_job, "train", refuse)
    assert client.post(f"/sessions/{clinic}/learning", json={"kind": "train"}).status_code == 201
    job = ended(client)
    assert (job["status"], job["problem"]) == ("failed", "manifest.csv: nothing in it")


@pytest.mark.parametrize("told", ["[]", '{"name": 3}', "{", '{"kind": "train", "epochs": "many"}'])
def test_a_job_or_model_that_came_with_a_folder_is_no_harm(place: Path, tmp_path: Path, told: str) -> None:
    for name, file in (("learning", "task.json"), ("learning", "result.json"), ("models/x", "learned.json")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).write_text(told)
    (tmp_path / "models" / "x" / "model.safetensors").write_bytes(b"nothing")
    with served(place, folder=tmp_path) as client:
        assert client.get("/learning").json()["status"] == "none"
        assert [model["name"] for model in client.get("/models").json()] == ["first"]


@pytest.mark.slow
def test_the_process_does_its_work_and_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"kind": "train", "source": "nothing", "freeze": "none", "epochs": 1}')
    words = [sys.executable, "-m", "rales.web.learn_job", str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.wait(60) == 0
    assert "--from nothing" in read_json(tmp_path / "result.json")["problem"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        process.wait(60)
