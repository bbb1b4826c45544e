"""A folder of this machine opened in place: nothing in it changes, no sound is copied, and it leaves as data."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from rales.data import audit_data, icbhi, read_events
from rales.data.events import Event
from rales.errors import UsageError
from rales.web import check_apart, serve_page
from rales.web.decoded_sounds import DecodedSounds
from rales.web.projects import Project
from rales.web.recording_facts import read_table
from rales.web.security import ApiError
from rales.web.service import Service, lock_service_folder
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
    (project / "alone.txt").write_text("0 1 0 0\n" * 40_000)
    os.utime(project / "alone.wav", (0, 0))  # before the first year that a zip knows
    told = f"alone.wav,=7,Pr,before\nward/again.wav,{'x' * 61},,\n"
    (project / "recordings.csv").write_text(f"path,patient,location,note\n{told}")
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
    assert copies[0] == f"the same sound as {first}"
    assert copies[1:] == ["recordings.csv: patient: 61 letters, at most 60 are taken; not used"]
    assert (found["alone.wav"]["patient"], found["alone.wav"]["location"]) == ("=7", "Pr")
    assert found["alone.wav"]["notes"] == ["alone.txt: larger than 256 KiB; not used"]


def test_sound_is_decoded_when_it_is_asked_for(opened: httpx.Client, folder: Path) -> None:
    found = listed(opened)
    decoded = folder / ".rales" / "recordings"
    for path in ("alone.wav", "ward/again.wav"):
        answer = opened.get(f"/recordings/{found[path]['id']}/audio")
        assert (answer.status_code, answer.content[:4]) == (200, b"RIFF")
        assert (decoded / found[path]["id"] / "page.wav").is_file()
    assert opened.get(f"/recordings/{found['broken.wav']['id']}/audio").status_code in (404, 422)
    spans = {"cycles": [{"start_s": 0.5, "end_s": 1.5}]}
    assert opened.post(f"/recordings/{found[next(iter(found))]['id']}/scores", json=spans).status_code == 200


def test_a_project_leaves_as_data(place: Path, opened: httpx.Client, folder: Path, tmp_path: Path) -> None:
    found = listed(opened)
    (session,) = opened.get("/sessions").json()
    one = found["alone.wav"]["id"]
    body = {"recording": one, "base": 0, "cycles": [{"start_s": 0, "end_s": 2, "label": "both", "confirmed": True}]}
    wheeze: dict[str, Any] = {"kind": "wheeze", "start_s": 0.5, "end_s": 0.9, "low_hz": 300.0, "high_hz": 400.0}
    assert opened.post("/annotations", json={**body, "events": [wheeze]}).status_code == 201
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
    assert patients["alone"] == "=7"
    assert "alone.wav,'=7,Pr,,before" in (tmp_path / "recordings.csv").read_text()
    known = read_table(tmp_path)  # as the next service on this folder does
    assert known["alone.wav"] == {"patient": "=7", "location": "Pr", "note": "before"}
    assert known[f"ward/{recording(place, 1).name}"]["device"] == icbhi.parse_recording_name(stem)["device"]
    history = json.loads((tmp_path / "history.json").read_text())["recordings"]["alone.wav"]
    assert [(each["reader"], each["revision"]) for each in history] == [("", 1), ("", 0), ("Anna", 1), ("Anna", 0)]
    assert read_events(tmp_path / "alone_events.aoef.json") == [Event(**wheeze)]
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
    replaced = f"ward/{recording(place, 1).name}"
    shutil.copy(recording(place, 4), project / replaced)
    with suppress(OSError):  # of a disk that takes no such name
        Path(os.fsdecode(os.fsencode(project) + b"/bad\xff.wav")).write_bytes(b"RIFF")
    with served(place, folder=project / ".rales", project=project) as client:
        (session,) = client.get("/sessions").json()
        address = f"/sessions/{session['id']}"
        until(lambda: len(client.get(address).json()["recordings"]) == 7)
        found = client.get(address).json()["recordings"]
        gone, old = (client.get(f"/recordings/{before[path]['id']}").json() for path in ("alone.wav", replaced))
        assert "its sound is missing" in gone["problem"]
        assert "its file holds another sound now" in old["problem"]
        assert len(old["cycles"]) == 4
        assert client.get(f"/recordings/{old['id']}/audio").status_code == 404
        assert sum(one["path"] == replaced for one in found) == 2


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
    with pytest.raises(OSError, match=r"holds a recording .*nothing in the folder was changed"):
        Store(tmp_path / "store")


def test_what_is_said_of_one_folder_never_stands_on_another(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()

    def opened_in(place: Path, folder: Path) -> Project:
        return Project(folder, cast(Any, SimpleNamespace(store=Store(place))))

    opened_in(first / ".rales", first)
    first = first.rename(tmp_path / "moved")
    opened_in(first / ".rales", first)  # with all that it holds
    opened_in(tmp_path / "store", first)
    for place in (tmp_path / "store", first / ".rales"):
        with pytest.raises(ValueError, match="not of those in"):
            opened_in(place, second)


@pytest.mark.parametrize("link", ["recordings", "recordings/0123456789abcdef", "sessions.sqlite", ".lock", "live/x/y"])
def test_a_link_that_came_with_a_folder_is_not_followed(tmp_path: Path, link: str) -> None:
    target = tmp_path / "photos"
    target.write_text("mine")
    place = tmp_path / "F" / ".rales" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    with pytest.raises(OSError, match="a link, which Rales never makes there; nothing in the folder was changed"):
        lock_service_folder(tmp_path / "F" / ".rales")
    assert target.read_text() == "mine"
    (tmp_path / "G").mkdir()
    (tmp_path / "G" / ".rales").symlink_to(tmp_path / "F" / ".rales")
    with pytest.raises(UsageError, match="a link, which may lead anywhere"):
        serve_page("127.0.0.1", 0, project=tmp_path / "G")


def test_a_file_that_is_replaced_while_it_waits_is_noticed(tmp_path: Path) -> None:
    """Also by one of the same size and time, and while it is decoded: the recording says so, and keeps none of it."""
    folder, file = tmp_path / "F", tmp_path / "F" / "a.wav"
    folder.mkdir()
    service = cast(Any, SimpleNamespace(store=Store(folder / ".rales"), original_sound=lambda row: file))
    service.project = project = Project(folder, service)
    sounds = DecodedSounds(service)

    def put(content: bytes) -> None:
        (tmp_path / "new").write_bytes(content)
        os.utime(tmp_path / "new", ns=(10**18, 10**18))
        os.replace(tmp_path / "new", file)

    put(b"first")
    row = {"id": "0" * 16, "name": "a", "linked": "a.wav", "digest": project.digest_of("a.wav")}
    project.check_unchanged(row)
    put(b"other")
    with pytest.raises(ApiError, match="a: its file holds another sound now"):
        sounds.ensure(row)
    put(b"first")

    def replace(decoding: Coroutine[Any, Any, Any]) -> None:
        decoding.close()
        put(b"again")

    service.wait = replace
    with pytest.raises(ApiError, match="a: its file holds another sound now"):
        sounds.ensure(row)


def test_the_folder_of_the_service_is_apart_from_the_project(tmp_path: Path) -> None:
    for apart in ("other", "F/.rales", "F/.x/store"):
        check_apart(tmp_path / apart, tmp_path / "F")
    for shared in ("F", ".", "F/store", "other/../F"):
        with pytest.raises(UsageError, match="shares its files"):
            check_apart(tmp_path / shared, tmp_path / "F")


@pytest.mark.parametrize(
    ("error", "ended", "marked"),
    [
        (ApiError(503, "the decoder ended"), False, False),
        (CancelledError(), True, False),
        (ApiError(422, "damaged"), True, True),
        (RuntimeError("a fault"), False, True),
    ],
)
def test_what_ends_with_the_service_is_not_the_recordings_fault(error: Exception, ended: bool, marked: bool) -> None:
    marks = list[Any]()

    def fail(*_: Any) -> None:
        raise error

    store = SimpleNamespace(recording=lambda *_: {"name": "a"}, place=Path, mark=lambda *words: marks.append(words[:2]))
    model, queue = SimpleNamespace(default="first"), SimpleNamespace(ended=ended)
    service = cast(Any, SimpleNamespace(store=store, models=model, queue=queue, predict=fail))
    Service.score(service, "a")
    assert marks == ([("a", "failed")] if marked else [])


def test_what_is_wrong_with_a_file_is_no_fault_of_the_model() -> None:
    future: Future[Any] = Future()
    future.set_exception(ApiError(422, "a: damaged"))
    service = cast(Any, SimpleNamespace(queue=SimpleNamespace(ask=lambda _: future)))
    with pytest.raises(ApiError) as raised:
        asyncio.run(Service.answered(service, lambda: None, Path("a.wav"), "a"))
    assert (raised.value.status, raised.value.sentence) == (422, "a: damaged")
