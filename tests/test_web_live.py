"""Recordings that are made on the page: nothing that was answered for is lost, and what is kept is as an upload."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from rales.inference import breath_segmentation
from rales.typing import Waveform
from rales.web import example
from tests.scripted import Script, script
from tests.served import new_session, served, until, upload

RATE_HZ = example.RATE_HZ
PIECE = 4 * RATE_HZ
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Waveform:
    """Twenty seconds of simulated breathing, (N,)."""
    folder = tmp_path_factory.mktemp("simulated")
    example.write_example(folder)
    return soundfile.read(folder / "audio.wav", dtype="float32")[0]


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
    for before, after in pairwise(seen):
        assert after["cycles"][: len(before["cycles"])] == before["cycles"]
    found = breath_segmentation.find_breaths(sound, RATE_HZ)
    ends = [cycle["end_s"] for cycle in seen[-1]["cycles"]]
    assert len(found) - 2 <= len(ends) <= len(found)
    assert ends == sorted(ends)
    assert all(any(abs(end_s - end) < 0.3 for _, end in found) for end_s in ends)
    assert all(cycle["label"] for cycle in seen[-1]["cycles"])

    kept = client.post(f"/live/{live}/keep", json={"name": ""})
    assert kept.status_code == 201, kept.text
    facts = until(lambda: (now := client.get(f"/recordings/{kept.json()['id']}").json())["status"] == "ready" and now)
    soundfile.write(tmp_path / "101_live.wav", sound, RATE_HZ, subtype="FLOAT")
    other = upload(client, session, tmp_path / "101_live.wav")
    own = {"id", "ahead", "added"}
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
    (tmp_path / "live" / ("0" * 16)).symlink_to(tmp_path / "live" / first)
    (tmp_path / "live" / ("1" * 16)).mkdir()
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
    refused(client.post(f"/live/{live}/keep", json={"name": ""}), 422, "0")  # nothing in it: still there
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
