"""Recordings that are made on the page: nothing that was answered for is lost, and what is kept is as an upload."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from rales.audio.io import read_waveform
from rales.inference import breath_segmentation
from rales.typing import Waveform
from rales.web import example, model_answers
from rales.web import live as live_recordings
from rales.web.settings import Limits
from tests.scripted import script
from tests.served import new_session, served, until, upload

RATE_HZ = example.RATE_HZ
PIECE = 4 * RATE_HZ
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Waveform:
    """Twenty seconds of simulated breathing, (N,)."""
    folder = tmp_path_factory.mktemp("simulated")
    example.write_example(folder)
    return read_waveform(folder / "audio.wav")[0]


def begin(client: httpx.Client, session: str, rate_hz: int = RATE_HZ) -> str:
    answer = client.post(f"/sessions/{session}/live", json={"name": "101_live", "rate_hz": rate_hz})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def send(client: httpx.Client, live: str, at: int, samples: Waveform) -> httpx.Response:
    content = samples.astype("<f4").tobytes()
    return client.post(f"/live/{live}/sound", params={"at": at}, content=content, headers=BYTES)


def test_what_is_kept_is_as_if_its_file_had_been_uploaded(
    place: Path, client: httpx.Client, sound: Waveform, tmp_path: Path
) -> None:
    """Pieces that come twice, or overlap, count once. Meanwhile breaths are found and answered for as they end."""
    session = new_session(client)
    live = begin(client, session)
    seen = []
    for at in range(0, len(sound), PIECE):
        for _ in range(2):  # the page has not heard the first answer
            answer = send(client, live, max(0, at - 100), sound[max(0, at - 100) : at + PIECE])
            assert answer.json()["samples"] == min(at + PIECE, len(sound))
        seen.append(client.get(f"/live/{live}/answers").json())
    assert "not a diagnosis" in seen[-1]["notice"]
    assert seen[0]["cycles"] == []
    assert len(seen[2]["cycles"]) >= 1  # long before the end
    found = breath_segmentation.find_breaths(sound, RATE_HZ)
    live_spans = [(cycle["start_s"], cycle["end_s"]) for cycle in seen[-1]["cycles"]]
    ended = [span for span in found if span[1] <= len(sound) / RATE_HZ - live_recordings.SETTLED_S]
    assert live_spans == [pytest.approx(span, abs=live_recordings.SAME_S + 0.001) for span in ended]
    assert all(cycle["label"] for cycle in seen[-1]["cycles"])

    kept = client.post(f"/live/{live}/keep", json={"name": ""})
    assert kept.status_code == 201, kept.text
    facts = until(lambda: (now := client.get(f"/recordings/{kept.json()['id']}").json())["status"] == "ready" and now)
    soundfile.write(tmp_path / "101_live.wav", sound, RATE_HZ, subtype="FLOAT")
    other = upload(client, session, tmp_path / "101_live.wav")
    own = {"id"}
    assert {k: v for k, v in facts.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
    assert len(facts["cycles"]) > 2
    store = place / "store" / "recordings"
    assert np.array_equal(soundfile.read(store / facts["id"] / "audio.wav", dtype="float32")[0], sound)
    assert client.get(f"/sessions/{session}/live").json() == []
    assert send(client, live, 0, sound[:100]).status_code == 404


def test_a_recording_that_was_left_waits_for_a_decision(place: Path, sound: Waveform, tmp_path: Path) -> None:
    """The page is closed and the service ends: what was answered for is there at the next start, and goes when its
    session does, or when it is discarded."""
    with served(place, folder=tmp_path) as client:
        kept, removed = new_session(client), new_session(client)
        first, second = begin(client, kept), begin(client, removed)
        for live in (first, second):
            assert send(client, live, 0, sound[:PIECE]).status_code == 200
    (tmp_path / "live" / ("1" * 16)).mkdir()
    (tmp_path / "live" / "other").mkdir()
    with served(place, folder=tmp_path) as client:
        (left,) = client.get(f"/sessions/{kept}/live").json()
        assert (left["id"], left["duration_s"], left["left"]) == (first, PIECE / RATE_HZ, True)
        assert send(client, first, PIECE, sound[PIECE : 2 * PIECE]).json()["samples"] == 2 * PIECE
        assert client.delete(f"/sessions/{removed}").status_code == 204
        assert not (tmp_path / "live" / second).exists()
        assert client.delete(f"/live/{first}").status_code == 204
        assert not (tmp_path / "live" / first).exists()
        assert client.get(f"/sessions/{kept}/live").json() == []


def test_what_is_wrong_with_live_sound_is_a_sentence(client: httpx.Client, sound: Waveform) -> None:
    session = new_session(client)
    live = begin(client, session)

    def refused(answer: httpx.Response, status: int, words: str) -> None:
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text

    refused(send(client, live, 5, sound[:10]), 409, "begins at sample 5, but 0 have come")
    refused(send(client, live, 0, np.array([np.nan], np.float32)), 422, "no numbers")
    refused(client.post(f"/live/{live}/sound?at=0", content=b"abc", headers=BYTES), 422, "3 bytes, expected")
    refused(client.post(f"/live/{live}/sound?at=0", content=b"", headers=BYTES), 422, "0 bytes, expected")
    refused(client.post(f"/live/{live}/sound?at=0", json={}), 415, "expected application/octet-stream")
    refused(client.post(f"/live/{live}/sound?at=-1", content=b"abcd", headers=BYTES), 422, "at:")
    refused(client.post(f"/live/{live}/keep", json={"name": ""}), 422, "101_live: holds no samples")  # still there
    assert send(client, live, 0, sound[:10]).json()["samples"] == 10
    foreign = {**BYTES, "origin": "http://elsewhere.example"}
    refused(client.post(f"/live/{live}/sound?at=0", content=b"abcd", headers=foreign), 403, "another page")
    refused(client.get(f"/live/{live}/answers", headers={"sec-fetch-site": "cross-site"}), 403, "another page")
    body: dict[str, Any] = {"name": "x", "rate_hz": 96_000}
    refused(client.post(f"/sessions/{session}/live", json=body), 422, "expected 4000 to 48000")
    refused(client.post("/sessions/x/live", json={**body, "rate_hz": RATE_HZ}), 404, "no such session")
    for path in ("/live/x/answers", "/live/..%2f/answers"):
        assert client.get(path).status_code == 404
    for _ in range(7):
        begin(client, session)
    refused(client.post(f"/sessions/{session}/live", json={**body, "rate_hz": RATE_HZ}), 507, "8 unfinished")
    for left in client.get(f"/sessions/{session}/live").json():
        assert client.delete(f"/live/{left['id']}").status_code == 204


def test_ten_minutes_are_the_most(client: httpx.Client) -> None:
    live = begin(client, new_session(client), 4000)
    for minute in range(10):
        assert send(client, live, minute * 240_000, np.zeros(240_000, np.float32)).status_code == 200
    answer = send(client, live, 2_400_000, np.zeros(1, np.float32))
    assert (answer.status_code, "longer than the 10 minutes" in answer.json()["detail"]) == (413, True)
    said = client.get(f"/live/{live}/answers").json()
    assert (said["judged"], said["quality"], said["cycles"]) == (False, "no_signal", [])
    assert client.delete(f"/live/{live}").status_code == 204


def test_breaths_in_the_window_replace_those_that_were_found_with_less_sound(
    tmp_path: Path, sound: Waveform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies before the window stays; what did not move is not asked again; a breath that the window cuts is not."""
    spans: list[tuple[float, float]] = []
    asked: list[list[tuple[float, float]]] = []
    monkeypatch.setattr(breath_segmentation, "find_breaths", lambda *_: spans)
    monkeypatch.setattr(live_recordings, "WINDOW_S", 8.0)

    def answer(_: Any, __: Path, new: list[tuple[float, float]]) -> list[dict[str, Any]]:
        asked.append([(round(a, 3), round(b, 3)) for a, b in new])
        return [{"label": f"round {len(asked)}", "quality": "ok", "quality_reason": ""} for _ in new]

    monkeypatch.setattr(model_answers, "score_spans", answer)
    recordings = live_recordings.LiveRecordings(tmp_path, Limits())
    live = recordings.begin("session", "name", RATE_HZ)["id"]

    def judge(until_s: float, found: list[tuple[float, float]]) -> list[tuple[float, float, str]]:
        at = recordings.find(live).samples
        recordings.append(live, at, sound[at : round(until_s * RATE_HZ)].tobytes())
        spans[:] = found
        cycles = recordings.judge(live, None)["cycles"]  # type: ignore[arg-type]
        return [(row["start_s"], row["end_s"], row["label"]) for row in cycles]

    assert judge(6, [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]) == [(0, 2, "round 1"), (2, 4, "round 1")]  # one goes on
    after = judge(7, [(0.0, 2.05), (2.05, 5.0)])
    assert after == [(0, 2, "round 1"), (2.05, 5, "round 2")]
    after = judge(12, [(0.0, 1.0), (1.0, 3.5), (3.5, 6.5)])  # the window begins at 4 s
    assert after == [(0, 2, "round 1"), (2.05, 5, "round 2"), (5, 7.5, "round 3"), (7.5, 10.5, "round 3")]
    assert asked == [[(0, 2), (2, 4)], [(2.05, 5)], [(1, 3.5), (3.5, 6.5)]]


# The page

OUTBOX = """({ pieces, acts }) => {
  const box = page.outbox();
  const told = [];
  for (const piece of pieces) box.push(Float32Array.from(piece));
  for (const [name, ...args] of acts) {
    const answer = box[name](...args);
    told.push(answer ? { at: answer.at, samples: [...answer.samples] } : answer);
  }
  return { told, left: box.left, total: box.total };
}"""
LEVELS = """(samples) => {
  const { peak_db, rms_db, clipped } = page.levelOf(Float32Array.from(samples));
  return { peak_db, rms_db, clipped, place: page.placeOnMeter(rms_db) };
}"""
FINAL = "(states) => states.filter(page.isFinal)"


def test_no_sound_is_let_go_of_before_it_was_confirmed() -> None:
    with script("live_sound.js", OUTBOX) as outbox:
        acts = [
            ["next", 1, 3],
            ["next", 1, 99],
            ["confirm", 3],
            ["next", 3, 9],
            ["next", 2, 9],
            ["confirm", 2],
            ["next", 1, 1],
        ]
        found = outbox({"pieces": [[1, 2], [3, 4, 5]], "acts": acts})
    told = [{**each, "samples": [int(value) for value in each["samples"]]} if each else each for each in found["told"]]
    rest = {"at": 3, "samples": [4, 5]}
    whole = {"at": 0, "samples": [1, 2, 3, 4, 5]}
    assert told == [{"at": 0, "samples": [1, 2, 3]}, whole, None, None, rest, None, {"at": 3, "samples": [4]}]
    assert (found["left"], found["total"]) == (2, 5)


def test_a_recording_ends_only_where_its_sound_can_never_be_taken() -> None:
    """Not where nobody answers (0), the token was renewed, or a proxy or the disk has its troubles."""
    with script("live_sound.js", FINAL) as final:
        assert final([0, 401, 403, 404, 408, 409, 413, 421, 422, 429, 500, 502, 503, 504, 507]) == [404, 409, 413, 422]


def test_the_meter_by_hand() -> None:
    with script("live_sound.js", LEVELS) as levels:
        assert levels([0.1, -0.1]) == pytest.approx(
            {"peak_db": -20, "rms_db": -20, "clipped": 0, "place": 2 / 3}, abs=1e-6
        )
        assert levels([1, -1, 0, 0]) == pytest.approx(
            {"peak_db": 0, "rms_db": -3.0103, "clipped": 2, "place": 1 - 3.0103 / 60}, abs=1e-6
        )
        assert levels([0.0])["place"] == 0


def test_what_a_browser_refuses_or_alters_is_a_sentence() -> None:
    work = "({ error, settings }) => [page.reasonOf(error), page.alterations(settings)]"
    with script("live_capture.js", work) as told:
        reasons = {name: told({"error": {"name": name, "message": "x"}, "settings": {}})[0] for name in REFUSALS}
        assert [words in reasons[name] for name, words in REFUSALS.items()] == [True] * len(REFUSALS)
        altered = {"echoCancellation": False, "noiseSuppression": True, "autoGainControl": True}
        assert "does not switch off noise suppression and automatic gain" in told({"error": {}, "settings": altered})[1]
        assert told({"error": {}, "settings": {"echoCancellation": False}})[1] == ""


REFUSALS = {
    "NotAllowedError": "allow it beside the address",
    "NotFoundError": "plug one in",
    "NotReadableError": "another program",
    "OverconstrainedError": "choose another one",
    "Strange": "cannot be used (x)",
}
