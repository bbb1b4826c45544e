"""The list of a session: its parts, what is told of it as it changes, and which of its rows are drawn."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from rales.web.changes import Changes
from rales.web.decoded_sounds import DecodedSounds
from rales.web.security import ApiError
from rales.web.store import Store, Who
from tests.scripted import script
from tests.served import new_session, recording, served, until, upload

IN_SIGHT = """({ heights, from, to }) => {
  const { first, last, tops } = page.inSight(heights.map((height) => height ?? undefined), from, to);
  return { first, last, tops: [...tops] };
}"""

MERGE = """({ lines, gone }) => {
  page.mergeLines(lines, gone);
  return page.state.recordings;
}"""

# What changes


def test_changes_are_told_once_and_in_order() -> None:
    changes = Changes(remembered=3)
    begin = changes.mark()
    changes.add("a", "b")
    changes.add("a")
    assert changes.after(begin, 10) == (["b", "a"], changes.mark())
    part, mark = changes.after(begin, 1) or ([], "")
    assert (part, changes.after(mark, 10)) == (["b"], (["a"], changes.mark()))
    assert changes.after(changes.mark(), 10) == ([], changes.mark())
    assert changes.of("a") == changes.number == changes.of("b") + 1 > changes.of("never changed")
    changes.add("c", "d")  # b is forgotten
    assert changes.after(begin, 10) is None
    assert changes.after(mark, 10) == (["a", "c", "d"], changes.mark())


@pytest.mark.parametrize("mark", ["", "x", "-", "0-0", "{}-x", "{}--1", "{}-7", "{}-٣"])
def test_marks_that_are_none(mark: str) -> None:
    changes = Changes()
    changes.add("a")
    assert changes.after(mark.replace("{}", changes.start), 10) is None


# Parts


@pytest.fixture(scope="module")
def session(client: httpx.Client, place: Path) -> str:
    """A session of three recordings."""
    session = new_session(client, "List")
    for number in range(3):
        upload(client, session, recording(place, number))
    return session


def test_parts_are_the_whole_list(client: httpx.Client, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = client.get(f"/sessions/{session}").json()["recordings"]
    assert len(whole) == 3
    for lines, budget_s in ((2, 1e9), (500, 0.0)):  # a part ends where it is full, and where its time is over
        monkeypatch.setattr("rales.web.routes_sessions.PART_LINES", lines)
        monkeypatch.setattr("rales.web.routes_sessions.PART_S", budget_s)
        monkeypatch.setattr("rales.web.session_list.AT_ONCE", 1)
        found = list[dict[str, Any]]()
        after: str | None = ""
        while after is not None:
            part = client.get(f"/sessions/{session}/recordings", params={"after": after}).json()
            assert 1 <= len(part["recordings"]) <= (2 if lines == 2 else 1)
            found, after = found + part["recordings"], part["next"]
        assert found == whole


def test_a_line_is_never_the_one_of_before(client: httpx.Client, session: str, place: Path) -> None:
    """Lines are kept: also where another program writes to the database, or a file goes, the next one says so."""

    def first() -> dict[str, Any]:
        part = client.get(f"/sessions/{session}/recordings").json()["recordings"]
        return dict(part[0])

    line = first()
    assert (line["status"], line["reviewed"]) == ("ready", False)
    with closing(sqlite3.connect(place / "store" / "sessions.sqlite")) as db, db:
        db.execute("UPDATE recordings SET reviewed = 1 WHERE id = ?", (line["id"],))
    assert first()["reviewed"] is True
    client.patch(f"/recordings/{line['id']}", json={"reviewed": False})
    sounds = [place / "store" / "recordings" / line["id"] / name for name in ("upload", "page.wav")]
    for sound in sounds:
        sound.rename(sound.with_suffix(".away"))
    assert first()["status"] == "failed"
    for sound in sounds:
        sound.with_suffix(".away").rename(sound)
    assert first() | {"changed": 0} == line | {"changed": 0}
    reader = {"reader": "Anna", "round": "1"}
    assert client.get(f"/sessions/{session}/recordings", params=reader).json()["recordings"][0]["answers"] is None


# The stream


@contextmanager
def listening(client: httpx.Client, session: str, since: str, **headers: str) -> Iterator[list[dict[str, Any]]]:
    """-> the messages of a stream as they come: {event, id, data}."""
    messages: list[dict[str, Any]] = []
    with client.stream("GET", f"/sessions/{session}/changes", params={"since": since}, headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")

        def read() -> None:
            said: dict[str, Any] = {}
            try:
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name:
                        said[name] = json.loads(value) if name == "data" else value
                    else:
                        messages.append(said)
                        said = {}
            except httpx.HTTPError:  # cut
                pass
            messages.append({"event": "ended"})

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        yield messages


def test_what_changes_is_told_to_whoever_listens(client: httpx.Client, session: str, place: Path) -> None:
    before = client.get(f"/sessions/{session}/recordings").json()
    one = before["recordings"][1]["id"]
    with (
        listening(client, session, before["mark"]) as told,
        listening(client, session, "of-a-service-before") as late,
        listening(client, new_session(client), before["mark"]) as elsewhere,
    ):
        until(lambda: told)
        client.patch(f"/recordings/{one}", json={"reviewed": True})
        (line,) = until(lambda: told[-1]["data"]["recordings"])
        assert (line["id"], line["reviewed"]) == (one, True)
        added = upload(client, session, recording(place, 3))["id"]
        until(lambda: any(line["status"] == "ready" and line["id"] == added for line in told[-1]["data"]["recordings"]))
        mark = told[-1]["id"]
        client.delete(f"/recordings/{added}")
        until(lambda: told[-1]["data"]["gone"] == [added])
        assert late[0]["event"] == "again"
        until(lambda: any(added in each["data"]["gone"] for each in elsewhere))
        assert not any(each["data"]["recordings"] for each in elsewhere)
    with listening(client, session, "x", **{"last-event-id": mark}) as told:  # as a browser comes back
        until(lambda: told)
        assert told[0]["data"]["gone"] == [added]


def test_a_service_that_ends_does_not_wait_for_its_streams(place: Path, tmp_path: Path) -> None:
    with served(place, folder=tmp_path / "store") as client:
        session = new_session(client)
        kept = tmp_path / "store" / "recordings" / upload(client, session, recording(place))["id"]
        assert (kept / "page.wav").is_file()
        waiting = listening(client, session, "x")
        told = waiting.__enter__()
        until(lambda: len(told) == 2)
    until(lambda: told[-1].get("event") == "ended")
    assert [file.name for file in kept.iterdir()] == ["upload"]  # the file as it came
    assert (kept / "upload").read_bytes() == recording(place).read_bytes()


def test_decoded_sound_takes_a_share_of_the_room(tmp_path: Path) -> None:
    """Three files of 1,000 bytes, of each of which 200 are decoded: what was asked for first goes first."""
    store = Store(tmp_path)
    session, facts = store.new_session("x"), {"duration_s": 1, "rate_hz": 1, "channels": 1, "notes": [], "digest": ""}
    models = SimpleNamespace(default="first")
    service: Any = SimpleNamespace(store=store, models=models, original_sound=lambda row: Path(store.upload(row)))
    sounds = DecodedSounds(service)
    ids = list[str]()
    for name in "abc":
        (tmp_path / name).mkdir()
        for file, size in (("upload", 1000), ("audio.wav", 150), ("page.wav", 50)):
            (tmp_path / name / file).write_bytes(bytes(size))
        ids.append(store.new_recording(session, f"{name}.wav", facts, tmp_path / name, None))
        sounds.use(ids[-1])
    sounds.use(ids[0])

    def decoded() -> list[str]:
        return [name for name, each in zip("abc", ids, strict=True) if store.has_decoded(each)]

    sounds.trim(kept_s=60, share=0)  # whoever has asked a moment ago may still read it
    sounds.trim(kept_s=0, share=0.2)
    assert decoded() == ["a", "b", "c"]
    sounds.trim(kept_s=0, share=0.1)
    assert decoded() == ["a"]
    DecodedSounds(service)  # of the service before nothing is left
    assert decoded() == []
    assert all(Path(store.upload({"id": each, "path": "a.wav"})).is_file() for each in ids)

    for file in ("audio.wav", "page.wav"):
        (tmp_path / file).touch()
    store.remove_recording(ids[0])  # while it is decoded
    with pytest.raises(ApiError, match="may have been removed"):
        sounds.put_down({"id": ids[0], "linked": ""}, tmp_path)
    assert not store.place(ids[0]).exists()
    sounds.put_down({"id": ids[1], "linked": ""}, tmp_path)
    assert decoded() == ["b"]


def test_a_reader_who_is_renamed_changes_recordings(tmp_path: Path) -> None:
    store = Store(tmp_path)
    session, facts = (
        store.new_session("x"),
        {"duration_s": 1, "rate_hz": 1, "channels": 1, "notes": [], "digest": "", "said": {}},
    )
    read, other = (store.link_recording(session, f"{name}.wav", f"{name}.wav", facts, None) for name in "ab")
    store.annotate(read, [], who=Who("Anna"))
    store.annotate(other, [], who=Who("Ben"))
    for became in ("Clara", ""):
        mark = store.changes.mark()
        assert store.change_reader(session, "Clara" if not became else "Anna", became)
        assert (store.changes.after(mark, 10) or [])[0] == [read]
    assert not store.change_reader(session, "Clara", "")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("recordings?after=nowhere", 422, "is no place in the list"),
        ("recordings?after=nan_x%00", 422, "is no place in the list"),
        ("recordings?after=1e999_%F0%9F%98%80", 422, "is no place in the list"),
        ("recordings?round=0", 422, "round"),
        ("changes?reader=%20", 422, "the reader's name"),
        ("changes?round=100000", 422, "round"),
    ],
)
def test_wrong_questions(client: httpx.Client, session: str, path: str, status: int, words: str) -> None:
    answer = client.get(f"/sessions/{session}/{path}")
    assert (answer.status_code, words in answer.text) == (status, True)
    for what in ("recordings", "changes"):
        assert client.get(f"/sessions/x/{what}").status_code == 404
        stranger = httpx.get(f"{client.base_url}/sessions/{session}/{what}")
        assert (stranger.status_code, "token" in stranger.json()["detail"]) == (401, True)


# Rows


def test_rows_in_sight_by_hand() -> None:
    with script("long_list.js", IN_SIGHT) as in_sight:
        found = in_sight({"heights": [10, 30, None, 20], "from": 0, "to": 1000})
        assert found == {"first": 0, "last": 4, "tops": [0, 10, 40, 60, 80]}  # unseen: the mean, 20
        assert in_sight({"heights": [10, 30, None, 20], "from": 15, "to": 45}) == {**found, "first": 1, "last": 3}
        assert in_sight({"heights": [10, 30, None, 20], "from": 10, "to": 40}) == {**found, "first": 1, "last": 2}
        assert in_sight({"heights": [10, 30, None, 20], "from": 500, "to": 900}) == {**found, "first": 3, "last": 4}
        assert in_sight({"heights": [], "from": 0, "to": 9}) == {"first": 0, "last": 0, "tops": [0]}
        many = in_sight({"heights": [None] * 10_000, "from": 56 * 5000, "to": 56 * 5010})
        assert (many["first"], many["last"]) == (5000, 5010)


def test_a_line_that_was_overtaken_on_its_way_is_left_out() -> None:
    def line(name: str, changed: int, words: str = "") -> dict[str, Any]:
        return {"id": name, "changed": changed, "words": words}

    with script("state.js", MERGE) as merge:
        assert merge({"lines": [line("a", 5), line("b", 5)], "gone": []}) == [line("a", 5), line("b", 5)]
        late = [line("a", 4, "late"), line("b", 6, "next"), line("c", 1)]
        assert merge({"lines": late, "gone": []}) == [line("a", 5), line("b", 6, "next"), line("c", 1)]
        assert merge({"lines": [], "gone": ["b", "unknown"]}) == [line("a", 5), line("c", 1)]


def test_a_message_that_says_nothing_new_is_told_nobody() -> None:
    """One comes every few seconds, and to lay out a list of thousands takes half a second."""
    work = """([lines, gone, more]) => {
      globalThis.told = [];
      if (!globalThis.hears) page.when(["recordings", "begun", "taken", "whole"], () => globalThis.told.push(1));
      globalThis.hears = true;
      page.mergeLines(lines, gone, more);
      const { begun, taken, whole } = page.state;
      return [globalThis.told.length, begun, taken, whole];
    }"""
    with script("state.js", work) as merge:
        assert merge([[], [], {"begun": 0, "taken": None}]) == [0, 0, None, True]
        assert merge([[], [], {"begun": 3, "taken": None}]) == [1, 3, None, True]
        for told in (1, 0):
            assert merge([[], [], {"begun": 3, "taken": [1, 2]}]) == [told, 3, [1, 2], True]
        assert merge([[], [], {"begun": 3, "taken": [2, 2], "whole": True}]) == [1, 3, [2, 2], True]
        for told in (1, 0):
            assert merge([[], [], {"begun": 3, "taken": None, "whole": False}]) == [told, 3, None, False]
        assert merge([[{"id": "a", "changed": 1}], [], {"begun": 3, "taken": None}]) == [1, 3, None, False]
