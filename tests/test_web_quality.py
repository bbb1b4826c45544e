"""The page and the service say of a recording without breathing why it has no class, as the command does."""

import io
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect

import rales
from tests.browsed import Open, drop
from tests.served import new_session, recording, upload
from tests.test_quality import breathing, noise


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A dead microphone, two channels that cancel, one that breathes beside a dead one, one that starts in silence."""
    soundfile.write(tmp_path / "zeros.wav", np.zeros(40_000), 8000)
    soundfile.write(tmp_path / "antiphase.wav", np.stack([breathing(), -breathing()], axis=1), 8000)
    soundfile.write(tmp_path / "dead.wav", np.stack([breathing(), np.zeros(96_000)], axis=1), 8000)
    soundfile.write(tmp_path / "late.wav", np.concatenate([np.zeros(96_000), breathing(30)]), 8000)
    return tmp_path


@pytest.mark.parametrize("name", ["zeros", "antiphase", "dead"])
def test_predict_answers_as_the_command_does(client: httpx.Client, place: Path, sounds: Path, name: str) -> None:
    path = sounds / f"{name}.wav"
    answer = client.post("/predict", files={"audio": (path.name, path.read_bytes())})
    assert answer.status_code == 200, answer.text
    table = rales.load(place / "runs" / "first").predict(path)
    columns = ["label", "quality", "quality_reason", "p_normal"]
    told = [[cycle[column] for column in columns] for cycle in answer.json()["cycles"]]
    expected = [
        [None if value != value else value for value in row] for row in table[columns].to_numpy(dtype=object).tolist()
    ]
    assert told == expected
    assert {label is None for label, *_ in told} == {name != "dead"}


NOTE = "its header leaves its length open; read to its end"


@pytest.fixture
def unfinished(place: Path, tmp_path: Path) -> Path:
    """A recording whose header was never filled in."""
    content = recording(place).read_bytes()
    at = content.index(b"data") + 4
    (tmp_path / "unfinished.wav").write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])
    return tmp_path / "unfinished.wav"


def test_notes_on_a_file_are_told(client: httpx.Client, place: Path, unfinished: Path) -> None:
    for path, notes in ((unfinished, [NOTE]), (recording(place), [])):
        answer = client.post("/predict", files={"audio": (path.name, path.read_bytes())})
        assert answer.json()["notes"] == notes
        facts = upload(client, new_session(client), path)
        assert client.get(f"/recordings/{facts['id']}").json()["notes"] == notes


def test_the_page_shows_notes_on_a_file(open_page: Open, place: Path, unfinished: Path) -> None:
    page = open_page(session="Notes")
    drop(page, unfinished)
    expect(page.locator("#notes")).to_have_text(f"{NOTE}.")
    drop(page, recording(place))
    page.locator("#list .entry", has_text=recording(place).stem).click()
    expect(page.locator("#name")).to_have_text(recording(place).stem)
    expect(page.locator("#notes")).to_be_hidden()


def test_sessions_list_it_without_a_class(client: httpx.Client, sounds: Path) -> None:
    session = new_session(client)
    for name in ("dead", "zeros", "antiphase"):
        upload(client, session, sounds / f"{name}.wav")
    listed = {row["name"]: row for row in client.get(f"/sessions/{session}").json()["recordings"]}
    assert [listed[name]["judged"] for name in ("dead", "zeros", "antiphase")] == [True, False, False]
    assert listed["zeros"]["quality_reason"] == "digital silence"
    assert listed["antiphase"]["quality"] == "antiphase"
    assert listed["dead"]["quality_reason"] == "no sound in channel 2"
    assert sum(listed["zeros"]["findings"].values()) == 0
    assert listed["zeros"]["uncertainty"] is None
    assert client.get(f"/recordings/{listed['zeros']['id']}").json()["cycles"] == []

    export = client.get(f"/recordings/{listed['zeros']['id']}/export")
    assert export.status_code == 409
    assert "not judged: digital silence" in export.text
    with zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export").content)) as archive:
        assert sorted(archive.namelist()) == ["README.txt", "dead.txt"]
        assert "zeros: not judged: digital silence" in archive.read("README.txt").decode()


def test_a_silent_part_is_no_cycle_and_the_export_says_so(client: httpx.Client, sounds: Path) -> None:
    """Windows are only taken where no breath is found, so a person's own stretches are asked for here."""
    session = new_session(client)
    facts = upload(client, session, sounds / "late.wav")
    spans = [{"start_s": 2.0, "end_s": 5.0}, {"start_s": 14.0, "end_s": 17.0}]
    asked = client.post(f"/recordings/{facts['id']}/scores", json={"cycles": spans})
    silent, heard = asked.json()["cycles"]
    assert (silent["label"], silent["p_both"], silent["quality"]) == (None, None, "no_signal")
    assert heard["label"] is not None
    why = client.get(f"/recordings/{facts['id']}/explanation", params=spans[0])
    assert why.status_code == 422
    assert "not judged" in why.text
    assert all(cycle["start_s"] >= 11 for cycle in client.get(f"/recordings/{facts['id']}").json()["cycles"])


def test_annotated_recordings_keep_their_cycles(client: httpx.Client, sounds: Path) -> None:
    (sounds / "noise.txt").write_text("0\t2\t0\t0\n2\t4\t1\t0\n")
    soundfile.write(sounds / "noise.wav", noise(4), 8000)
    facts = upload(client, new_session(client), sounds / "noise.wav", sounds / "noise.txt")
    assert [cycle["label"] for cycle in facts["cycles"]] == ["normal", "crackle"]
    assert facts["judged"]


def test_the_page_says_why_and_puts_it_first(place: Path, open_page: Open, sounds: Path) -> None:
    page = open_page(session="Ward 7")
    breath = recording(place)
    drop(page, breath, breath.with_suffix(".txt"))
    drop(page, sounds / "dead.wav")
    drop(page, sounds / "zeros.wav")
    entries = page.locator("#list .entry")
    expect(entries).to_have_count(3)
    first = entries.first
    expect(first).to_contain_text("zeros")
    expect(first).to_contain_text("Not judged: digital silence")
    expect(first.locator(".badge")).to_have_count(0)
    expect(entries.filter(has_text="dead")).to_contain_text("no sound in channel 2")
    first.click()
    expect(page.locator("#facts")).to_contain_text("Not judged: digital silence")
    expect(page.locator("#rows tr")).to_have_count(0)
