"""The service behind the page: its answers are those of the command, and what it keeps stays."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import rales
from rales.audio import M2DLogMel
from rales.audio import io as wave
from rales.errors import UsageError
from rales.export.artefact import EXPORT_TARGETS
from rales.export.build import export_model
from rales.inference import attribution, audio_reader
from rales.inference.predictor import Predictor
from rales.web import cycle_edits, model_answers, model_registry, serve_page
from rales.web.job_queue import JobQueue, QueueFull
from rales.web.settings import Limits
from rales.web.store import Store
from tests.served import new_session, recording, served, until, upload

P = ["p_normal", "p_crackle", "p_wheeze", "p_both"]
NOTICE = "Research tool, not a diagnosis."


@pytest.fixture(scope="module")
def model(place: Path) -> Predictor:
    return rales.load(place / "runs" / "first")


# One input, one answer


def stereo(path: Path, suffix: str, subtype: str) -> Path:
    """A recording in another format: two channels that differ, 22.05 kHz, 9.3 s."""
    heard, rate_hz = wave.read_waveform(path)
    left = wave.resample_waveform(np.tile(heard, 3), rate_hz, 22050)[: round(9.3 * 22050)]
    left = 0.5 * left + 0.003 * np.random.default_rng(0).standard_normal(left.size).astype(np.float32)
    out = path.parent.parent / f"stereo.{suffix}"
    soundfile.write(out, np.stack([left, left[::-1]], axis=1), 22050, subtype=subtype)
    return out


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_24"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_predict_answers_as_the_command_does(
    place: Path, client: httpx.Client, model: Predictor, suffix: str, subtype: str
) -> None:
    path = stereo(recording(place), suffix, subtype)
    expected = model.predict(path)
    answer = client.post("/predict", files={"audio": (path.name, path.read_bytes())})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    found = pd.DataFrame(body["cycles"])
    assert len(found) == len(expected) >= 2
    columns = ["recording", "cycle", "start_s", "end_s", "label", *P]
    assert set(columns) <= set(found.columns)
    assert found[["recording", "cycle", "label"]].equals(expected[["recording", "cycle", "label"]])
    # MP3 samples differ by a rounding (6e-8) with how many are decoded at a time, which min-max scaling carries on.
    tolerance = 1e-4 if suffix == "mp3" else 1e-6
    for column in ("start_s", "end_s", *P):
        assert np.abs(found[column] - expected[column]).max() < tolerance
    assert (body["model"], body["notice"], body["recording"]) == ("first", NOTICE, "stereo")
    assert (body["digest"], body["version"]) == (model.digest, rales.__version__)
    assert not list((place / "store" / "arriving").iterdir())


def test_an_annotation_beside_it_gives_the_cycles(place: Path, client: httpx.Client, model: Predictor) -> None:
    path = recording(place)
    files = {"audio": (path.name, path.read_bytes()), "annotation": ("a.txt", path.with_suffix(".txt").read_bytes())}
    found = pd.DataFrame(client.post("/predict", files=files, data={"model": "second"}).json()["cycles"])
    other = rales.load(place / "runs" / "second").predict(path)
    assert found["true_label"].tolist() == other["true_label"].tolist()
    assert np.abs(found[P].to_numpy() - other[P].to_numpy()).max() < 1e-6
    assert np.abs(found[P].to_numpy() - model.predict(path)[P].to_numpy()).max() > 1e-4  # it was the other model


def test_moved_boundaries_are_scored_as_a_prepared_cycle_is(
    place: Path, client: httpx.Client, model: Predictor
) -> None:
    facts = upload(client, new_session(client), recording(place))
    spans = [{"start_s": 0.25, "end_s": 1.5}, {"start_s": 1.5, "end_s": 3.875}]
    body = client.post(f"/recordings/{facts['id']}/scores", json={"cycles": spans}).json()
    for span, scored in zip(spans, body["cycles"], strict=True):
        sound, rate_hz = soundfile.read(recording(place), dtype="float32")
        heard = sound[int(span["start_s"] * rate_hz) : int(span["end_s"] * rate_hz)]
        prepared = wave.icbhi_cycle(wave.resample_waveform(heard, rate_hz), samples=2 * 16000)
        expected = model.probabilities(prepared[None])[0]
        assert np.abs(expected - [scored[name] for name in P]).max() < 1e-6
    detail = client.get(f"/recordings/{facts['id']}").json()
    assert {(s["start_s"], s["end_s"]) for s in detail["scores"]["first"]} >= {(0.25, 1.5), (1.5, 3.875)}


# One recording


def test_the_sound_and_the_picture_of_the_page(place: Path, client: httpx.Client) -> None:
    facts = upload(client, new_session(client), recording(place))
    sound, rate_hz = soundfile.read(io.BytesIO(client.get(f"/recordings/{facts['id']}/audio").content), dtype="float32")
    original, own_hz = wave.read_waveform(recording(place))
    assert rate_hz == 16000
    assert np.abs(sound - wave.resample_waveform(original, own_hz).clip(-1, 1)).max() < 1e-4
    part = client.get(f"/recordings/{facts['id']}/audio", headers={"range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)
    picture = client.get(f"/recordings/{facts['id']}/spectrogram")
    bands, frames = int(picture.headers["x-bands"]), int(picture.headers["x-frames"])
    levels = np.frombuffer(picture.content, np.uint8).reshape(bands, frames)
    logmel = M2DLogMel()(torch.from_numpy(sound)[None])[0, 0].numpy()
    assert levels.shape == logmel.shape
    loud = logmel > np.log(1e-4)  # where the epsilon under the logarithm is nothing
    decibels = 10 * logmel[loud] / np.log(10) - 24  # a sine of full scale has 24 dB in its loudest band
    assert np.abs((levels[loud] / 2.0 - 127.5) - decibels).max() < 0.26
    assert np.mean(levels > int(picture.headers["x-top"])) <= 0.001


def test_models_and_runs(place: Path, client: httpx.Client) -> None:
    listed = client.get("/models").json()
    assert [(entry["name"], entry["default"]) for entry in listed] == [("first", True), ("second", False)]
    assert listed[0]["classes"] == ["normal", "crackle", "wheeze", "both"]
    assert [run["name"] for run in client.get("/runs").json()] == ["first", "second"]
    page = client.get("/runs/report", params={"name": "first"})
    assert page.status_code == 200
    assert "not a diagnosis" in page.text
    assert page.headers["content-security-policy"].startswith("sandbox;")
    unknown = client.get("/runs/report", params={"name": "../../etc"})
    assert (unknown.status_code, "no run" in unknown.json()["detail"]) == (404, True)


def test_why(place: Path, client: httpx.Client, model: Predictor) -> None:
    """The parts of an explanation add up to what the whole picture adds to the log-odds; a stretch of 0.9 s stands in
    the clip of 2 s twice and a bit, and all of that is laid over the one that is there."""
    facts = upload(client, new_session(client), recording(place))
    body = client.get(f"/recordings/{facts['id']}/explanation?start_s=1.1&end_s=2&label=wheeze").json()
    values = np.array(body["values"])
    assert values.shape == (len(body["low_hz"]), len(body["from_s"])) == (5, 6)
    assert np.abs(values).max() == pytest.approx(1)
    assert (body["from_s"][0], body["to_s"][-1], body["label"]) == (1.1, 2.0, "wheeze")
    assert body["from_s"][1:] == body["to_s"][:-1]
    assert (body["low_hz"][0], body["high_hz"][-1], body["notice"]) == (50.0, 8000.0, NOTICE)
    assert body["low_hz"][1:] == body["high_hz"][:-1] == sorted(body["high_hz"][:-1])
    (prepared,) = audio_reader.read_spans(recording(place), [(1.1, 2.0)], model.recipe.settings.audio)
    found = attribution.attribute_patches(model, prepared, "wheeze")
    assert values.sum() / np.abs(values).max() == pytest.approx(
        found.grid.sum() / np.abs(scores_grid(found.grid, found.time_s)).max(), rel=1e-4
    )
    wrong = client.get(f"/recordings/{facts['id']}/explanation?start_s=1&end_s=99")
    assert (wrong.status_code, "expected 0 <= start < end" in wrong.json()["detail"]) == (422, True)


def scores_grid(grid: Any, time_s: Any) -> Any:
    """Sums of an attribution's columns over the copies of 0.9 s, computed another way."""
    column = [min(int((t % 0.9) / (2 * time_s[0])), 5) for t in time_s]
    return np.stack([grid[:, [c == i for c in column]].sum(axis=1) for i in range(6)], axis=1)


def test_two_models_at_a_time(place: Path) -> None:
    models = model_registry.ModelRegistry(str(place / "runs" / "first"), place / "runs")
    assert models.known(None) == models.known("first") == "first"
    assert models.model("second") is models.model("second")
    with pytest.raises(KeyError, match=r"no model '\.\./first' here"):
        models.known("../first")


# Sentences


@pytest.mark.parametrize(
    ("cycles", "sentence"),
    [
        ([{"start_s": 1.0, "end_s": 0.5, "label": "both"}], "cycle 1: 1.000 s to 0.500 s, expected 0 <= start < end"),
        ([{"start_s": 0.0, "end_s": 99.0, "label": "both"}], "expected 0 <= start < end <= 4.000 s"),
        ([{"start_s": -1.0, "end_s": 1.0, "label": "both"}], "cycle 1"),
        ([{"start_s": 0.0, "end_s": 0.01, "label": "both"}], "lasts 0.010 s, expected 0.05 s or more"),
        (
            [
                {"start_s": 0.0, "end_s": 1.0, "label": "both"},
                {"start_s": 1.0, "end_s": 2.0, "label": "both"},
                {"start_s": 0.0004, "end_s": 0.9996, "label": "normal"},
            ],
            "cycle 3: 0.000 s to 1.000 s, as cycle 1; keep one of them",
        ),
        ([{"start_s": 0.0, "end_s": 1.0, "label": "rales"}], "cycle 1: label 'rales' is none of normal"),
        ([{"start_s": 0.0, "end_s": 1.0, "label": "both"}] * 3000, "3000 cycles, at most 2000"),
    ],
)
def test_wrong_cycles(place: Path, client: httpx.Client, cycles: list[dict[str, Any]], sentence: str) -> None:
    session = new_session(client)
    facts = upload(client, session, recording(place))
    answer = client.post("/annotations", json={"recording": facts["id"], "cycles": cycles})
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    body = json.dumps({"recording": facts["id"], "cycles": [{"start_s": 0, "end_s": 1, "label": "both"}]})
    endless = client.post("/annotations", content=body.replace("1,", "Infinity,"))
    assert endless.status_code in (415, 422)
    assert client.get(f"/recordings/{facts['id']}").json()["revision"] == 0


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    [
        (b"0 1 0\n", 422, "annotation of a, line 1: 3 columns, expected 4"),
        (b"0 9 0 0\n", 422, "annotation of a, line 1"),
        (b"0\t1\tcrackle\n0\t1\tcrackle\n", 422, "stands there 2 times; keep one"),
        (b"0 1\n0 9\n", 422, "annotation of a, line 2"),
        (
            "".join(f"{i % 50 / 50} {1.5 + i // 50 / 20} 0 0\n" for i in range(2001)).encode(),
            413,
            "2001 cycles, at most 2000 are taken",
        ),
        (b"#" * 300_000, 413, "larger than 256 KiB"),
    ],
)
def test_wrong_annotations(place: Path, client: httpx.Client, text: bytes, status: int, sentence: str) -> None:
    files = {"audio": ("a.wav", recording(place).read_bytes()), "annotation": ("a.txt", text)}
    answer = client.post("/predict", files=files)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text
    assert not list((place / "store" / "arriving").iterdir())


OURS = "Selection\tBegin Time (s)\tEnd Time (s)\tClass\n1\t0.0\t1.5\tcrackle\n2\t1.5\t3\tnot judged\n"


@pytest.mark.parametrize(
    ("text", "note", "spans"),
    [
        (b"Cough since Monday.\n", "no cycles in it; passed over", []),
        ("Husten, schläft schlecht\n".encode("latin-1"), "no cycles in it; passed over", []),
        (b"\xff\xfe\x00", "no cycles in it; passed over", []),
        (b"", "no cycles in it; passed over", []),
        (b"0\t1\tcough\n", "labels other than normal, crackle, wheeze, both: cough; passed over", []),
        (b"0\t1\tnot judged: mains hum\n", "1 cycles, none of them judged; passed over", []),
        (b"0 1.5\n1.5 3\n", "read as times, without classes", [[0, 1.5], [1.5, 3]]),
        (OURS.encode(), "read as Raven, 1 cycles without a label left out", [[0, 1.5]]),
        (b"0 1.5 0 1\n", "", [[0, 1.5]]),
    ],
)
def test_a_text_beside_a_recording_is_taken_as_the_command_takes_it(
    place: Path, client: httpx.Client, tmp_path: Path, model: Predictor, text: bytes, note: str, spans: Any
) -> None:
    (tmp_path / "a.wav").write_bytes(recording(place).read_bytes())
    (tmp_path / "a.txt").write_bytes(text)
    note = f"annotation of a: {note}" if note else ""
    ((table, status),) = model.tables([str(tmp_path / "a.wav")])
    assert status["sentence"][0] == note.replace("annotation of a", str(tmp_path / "a.txt"))
    files = {"audio": ("a.wav", recording(place).read_bytes()), "annotation": ("a.txt", text)}
    answer = client.post("/predict", files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["notes"] == ([note] if note else [])
    assert {cycle["source"] for cycle in answer.json()["cycles"]} == set(table["source"])

    session = new_session(client)
    detail = upload(client, session, tmp_path / "a.wav", tmp_path / "a.txt")
    (listed,) = client.get(f"/sessions/{session}").json()["recordings"]
    assert (detail["status"], detail["notes"], listed["notes"]) == ("ready", *2 * [[note] if note else []])
    assert (detail["source"] == "annotation") == bool(spans)
    if spans:
        assert [[cycle["start_s"], cycle["end_s"]] for cycle in detail["cycles"]] == spans
        labels = table["true_label"].fillna(table["label"])
        assert [cycle["label"] for cycle in detail["cycles"]] == labels.tolist()


@pytest.mark.parametrize(
    ("name", "stem", "safe"),
    [
        ("101_1b1_Al_sc_Meditron.wav", "101_1b1_Al_sc_Meditron", "101_1b1_Al_sc_Meditron"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\Users\\x\\a b.WAV", "a b", "a_b"),
        ("\x00\x1b[2J.wav", "[2J", "2J"),
        ("..", "recording", "recording"),
        ("", "recording", "recording"),
        ("肺音.flac", "肺音", "recording"),
        ("a" * 300 + ".wav", "a" * 120, "a" * 120),
        *((f"breath.{kind}", "breath", "breath") for kind in ("m4a", "AAC", "opus", "oga", "aiff", "aif", "flac")),
        ('x"; rm.wav', 'x"; rm', "x_rm"),
    ],
)
def test_names_of_visitors(name: str, stem: str, safe: str) -> None:
    assert cycle_edits.recording_stem(name) == stem
    assert cycle_edits.ascii_file_name(cycle_edits.recording_stem(name)) == safe


# The line in front of the model


def test_who_waits_goes_before_the_background() -> None:
    order: list[str] = []
    gate = threading.Event()
    line = JobQueue(lambda recording: order.append(recording), longest=3)
    line.thread.start()
    first = line.ask(gate.wait)
    until(first.running)
    for name in ("a", "b", "a"):
        line.add(name)
    others = [line.ask(lambda i=i: order.append(f"asked {i}")) for i in range(3)]  # type: ignore[misc]
    assert (line.turns, line.begun) == ({"a": 1, "b": 2}, 0)
    with pytest.raises(QueueFull, match="3 requests wait for the model already"):
        line.ask(lambda: None)
    gate.set()
    first.result(5)
    [other.result(5) for other in others]
    until(lambda: len(order) == 5)
    assert order == ["asked 0", "asked 1", "asked 2", "a", "b"]
    until(lambda: not line.turns)
    assert line.begun == 2
    failing = line.ask(lambda: 1 / 0)
    assert isinstance(failing.exception(5), ZeroDivisionError)
    line.stop()
    assert not line.thread.is_alive()


def test_twenty_at_once_are_all_answered(place: Path, client: httpx.Client, model: Predictor) -> None:
    content = recording(place, 2).read_bytes()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post("/predict", files={"audio": ("a.wav", content)}), range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len({json.dumps(answer.json()["cycles"]) for answer in answers}) == 1


def test_too_many_are_told_to_come_back(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = model_answers.predict_file

    def slow(*words: Any) -> Any:
        time.sleep(0.3)
        return quick(*words)

    monkeypatch.setattr(model_answers, "predict_file", slow)
    content = recording(place).read_bytes()
    few = Limits(waiting=1, burst=1000, per_second=1000)
    with served(place, limits=few, folder=tmp_path) as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: client.post("/predict", files={"audio": ("a.wav", content)}), range(12)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert "wait for the model already" in refused[0].json()["detail"]
    assert refused[0].headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("shapes cannot be multiplied\nand more"), 500, "the model failed (RuntimeError: shapes cannot"),
        (KeyError("device"), 500, "the model failed (KeyError: 'device')"),
        (MemoryError(), 503, "not enough memory"),
        (ValueError("too short"), 422, "too short"),
        (ValueError(), 422, "cannot be classified"),
    ],
)
def test_a_model_that_fails_is_a_sentence(
    place: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    path = recording(place)
    with monkeypatch.context() as patched:
        patched.setattr(model_answers, "predict_file", fails)
        answer = client.post("/predict", files={"audio": (path.name, path.read_bytes())})
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
        facts = upload(client, new_session(client), path)
        assert (facts["status"], words in facts["problem"]) == ("failed", True)
        again = client.post(f"/recordings/{facts['id']}/predictions")
        assert (again.status_code, words in again.json()["detail"]) == (status, True)
    assert client.post("/predict", files={"audio": (path.name, path.read_bytes())}).status_code == 200


def test_one_that_cannot_be_marked_does_not_end_the_line() -> None:
    done: list[str] = []

    def score(name: str) -> None:
        if name == "bad":
            raise OSError("disk is full")
        done.append(name)

    line = JobQueue(score, longest=3)
    line.thread.start()
    for name in ("bad", "good"):
        line.add(name)
    until(lambda: done == ["good"])
    line.stop()


# Starting


@pytest.mark.parametrize("form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_an_artefact_of_export_is_served(place: Path, tmp_path: Path, form: str, model: Predictor) -> None:
    for package in ("onnxruntime", "onnxscript") if form == "onnx" else ("openvino",):
        pytest.importorskip(package)
    out, path = tmp_path / f"model{EXPORT_TARGETS[form].suffix}", recording(place)
    export_model(place / "runs" / "first", out, form)
    with served(place, folder=tmp_path / "store", model=str(out)) as client:
        (listed,) = client.get("/models").json()
        assert (listed["name"], listed["recipe"], listed["default"]) == (out.name, "m2d_fusion", True)
        found = pd.DataFrame(client.post("/predict", files={"audio": (path.name, path.read_bytes())}).json()["cycles"])
        expected = model.predict(path, cycles="segment")
        assert np.abs(found[P].to_numpy() - expected[P].to_numpy()).max() < 1e-5
        facts = upload(client, new_session(client), path)
        assert facts["status"] == "ready"
        why = client.get(f"/recordings/{facts['id']}/explanation?start_s=0&end_s=1")
        assert (why.status_code, "serve its run folder to see why" in why.json()["detail"]) == (422, True)
    out.unlink()
    with pytest.raises(ValueError, match="there is no such file; `rales export` writes one"):
        serve_page("127.0.0.1", 0, model=str(out), folder=tmp_path / "other")


def test_what_keeps_it_from_starting(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(place / "runs" / "first")
    with pytest.raises(UsageError, match="the token has 3 characters, expected 16 or more"):
        serve_page("127.0.0.1", 0, model=run, folder=tmp_path, token="abc")
    with pytest.raises(ValueError, match=r"cannot listen on 203\.0\.113\.1 port 80"):
        serve_page("203.0.113.1", 80, model=run, folder=tmp_path)
    with served(place, folder=tmp_path / "used"), pytest.raises(ValueError, match="another `rales serve` uses it"):
        serve_page("127.0.0.1", 0, model=run, folder=tmp_path / "used")
    with pytest.raises(ValueError, match="no run folder"):
        serve_page("127.0.0.1", 0, model=str(tmp_path), folder=tmp_path)
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'needs the package fastapi, .* pip install "rales\[web\]"'):
        serve_page("127.0.0.1", 0, model=run, folder=tmp_path)


def test_a_folder_that_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "sessions.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(OSError, match="move the whole folder away or choose another --folder"):
        Store(tmp_path)
    other = Store(tmp_path / "other")
    with other.open() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match=r"layout 99, expected \d"):
        Store(tmp_path / "other")


def test_a_picture_of_a_very_short_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(10), 16000)
    levels, top = model_answers.render_logmel(tmp_path / "short.wav")
    assert levels.shape == (80, 3)
    assert levels.max() == top == 0  # silence is dark
