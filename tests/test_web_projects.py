"""A folder of this machine opened in place: nothing in it changes, no sound is copied, and it leaves as data."""

import hashlib
import io
import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from rales.data import audit_data, icbhi
from rales.web.store import Store
from tests.attack.store_kills import added
from tests.served import recording, served, until


@pytest.fixture(scope="module")
def folder(place: Path) -> Path:
    """A project: two recordings with annotations in folders, a copy of one, one that is damaged, and one without."""
    project = place / "project"
    (project / "ward").mkdir(parents=True)
    for number, where in ((0, ""), (1, "ward")):
        sound = recording(place, number)
        for file in (sound, sound.with_suffix(".txt")):
            shutil.copy(file, project / where / file.name)
    shutil.copy(recording(place, 0), project / "ward" / "again.wav")
    shutil.copy(recording(place, 2), project / "alone.wav")
    (project / "broken.wav").write_bytes(b"RIFF nothing")
    return project


@pytest.fixture(scope="module")
def opened(place: Path, folder: Path) -> Any:
    before = contents(folder)
    with served(place, folder=folder / ".rales", project=folder) as client:
        yield client
    assert contents(folder) == before  # whatever the tests did


def contents(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and ".rales" not in file.parts]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def listed(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """-> the recordings of the project by their paths, once none waits."""

    def settled() -> dict[str, dict[str, Any]] | None:
        (session,) = client.get("/sessions").json() or [None]
        found = client.get(f"/sessions/{session['id']}").json()["recordings"] if session else []
        return (
            {one["path"]: one for one in found}
            if len(found) == 5 and all(one["status"] != "waiting" for one in found)
            else None
        )

    return dict(until(settled, 60))


def test_its_recordings_are_in_the_queue_with_their_annotations(
    place: Path, folder: Path, opened: httpx.Client
) -> None:
    found = listed(opened)
    first, second = recording(place, 0).name, f"ward/{recording(place, 1).name}"
    assert set(found) == {first, second, "ward/again.wav", "alone.wav", "broken.wav"}
    assert (found[first]["status"], found[first]["cycles"]) == ("ready", 4)
    detail = opened.get(f"/recordings/{found[second]['id']}").json()
    assert (detail["source"], len(detail["annotated"])) == ("annotation", 4)
    assert sum(row["label"] is not None for row in next(iter(detail["scores"].values()))) == 4
    assert found["broken.wav"]["status"] == "failed"
    assert "broken" in found["broken.wav"]["problem"]
    assert str(folder) not in json.dumps(found)  # no visitor reads where this machine keeps them
    copies = [note for path in (first, "ward/again.wav") for note in found[path]["notes"]]
    assert copies == [f"the same sound as {first}"]


def test_sound_is_decoded_when_it_is_asked_for(opened: httpx.Client, folder: Path, monkeypatch: Any) -> None:
    from rales.web import projects

    monkeypatch.setattr(projects, "DECODED", 1)
    found = listed(opened)
    for path in ("alone.wav", "ward/again.wav", "alone.wav"):
        answer = opened.get(f"/recordings/{found[path]['id']}/audio")
        assert (answer.status_code, answer.content[:4]) == (200, b"RIFF")
        assert len(list((folder / ".rales" / "recordings").rglob("page.wav"))) == 1  # that of the last one asked for
    assert opened.get(f"/recordings/{found['broken.wav']['id']}/audio").status_code in (404, 422)
    spans = {"cycles": [{"start_s": 0.5, "end_s": 1.5}]}
    assert opened.post(f"/recordings/{found[next(iter(found))]['id']}/scores", json=spans).status_code == 200


def test_a_project_leaves_as_data(place: Path, opened: httpx.Client, folder: Path, tmp_path: Path) -> None:
    found = listed(opened)
    (session,) = opened.get("/sessions").json()
    one = found["alone.wav"]["id"]
    body = {"recording": one, "base": 0, "cycles": [{"start_s": 0, "end_s": 2, "label": "both", "confirmed": True}]}
    assert opened.post("/annotations", json=body).status_code == 201
    assert opened.post("/annotations", json={**body, "reader": "Anna"}).status_code == 201
    answer = opened.get(f"/sessions/{session['id']}/project/export")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path)
    assert (tmp_path / "alone.wav").read_bytes() == (folder / "alone.wav").read_bytes()
    audit = audit_data(tmp_path / "manifest.csv")
    assert audit.problems == []
    assert audit.cycles.groupby("recording")["label"].agg(list)["alone"] == ["both"]
    assert len(audit.recordings) == 4
    patients = dict(zip(audit.cycles["recording"], audit.cycles["patient"], strict=True))
    stem = recording(place, 1).stem  # in a folder of the project, it is the same patient's
    assert patients[f"ward/{stem}"] == icbhi.parse_recording_name(stem)["patient"]
    history = json.loads((tmp_path / "history.json").read_text())["recordings"]["alone.wav"]
    assert [(each["reader"], each["revision"]) for each in history] == [("", 1), ("Anna", 1)]
    assert "Anna" in (tmp_path / "readers.csv").read_text()
    assert "not a diagnosis" in (tmp_path / "README.txt").read_text()
    assert list((folder / ".rales" / "arriving").iterdir()) == []


def test_what_is_new_or_gone_is_seen_at_the_next_start(place: Path, folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(folder, project)
    with served(place, folder=project / ".rales", project=project) as client:
        before = listed(client)
    (project / "alone.wav").unlink()
    shutil.copy(recording(place, 3), project / "new.wav")
    with served(place, folder=project / ".rales", project=project) as client:
        (session,) = client.get("/sessions").json()
        rows = until(lambda: len(client.get(f"/sessions/{session['id']}").json()["recordings"]) == 6 and client)
        found = {one["path"]: one for one in rows.get(f"/sessions/{session['id']}").json()["recordings"]}
    assert found["alone.wav"]["id"] == before["alone.wav"]["id"]
    assert "its sound is missing" in found["alone.wav"]["problem"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", ".."),
        ("id", "../../../photos"),
        ("id", b"0123456789abcdef"),
        ("linked", "/etc/passwd"),
        ("linked", "a/../../b"),
    ],
)
def test_a_store_that_came_with_a_folder_leads_nowhere_else(tmp_path: Path, column: str, value: Any) -> None:
    store = Store(tmp_path / "store")
    added(store, store.new_session("Ward"), "a")
    with closing(sqlite3.connect(store.folder / "sessions.sqlite")) as db, db:
        db.execute(f"UPDATE recordings SET {column} = ?", (value,))
    with pytest.raises(OSError, match="holds a recording .*nothing in the folder was changed"):
        Store(tmp_path / "store")
