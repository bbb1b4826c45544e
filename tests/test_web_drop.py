"""Folders and files that are dropped: each recording gets the annotation of its own folder, nothing is lost."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, expect

from rales.audio.open_audio import AUDIO_SUFFIXES, FFMPEG_SUFFIXES
from rales.web import cycle_edits
from tests.browsed import Open, drop_folder, labels
from tests.scripted import Script, script
from tests.served import new_session, recording, until, upload

LINES = {"visit1": "0\t2\t1\t0\n2\t4\t1\t0\n", "visit2": "0\t1\t0\t1\n1\t2\t0\t1\n2\t4\t0\t1\n"}


@pytest.fixture
def visits(place: Path, tmp_path: Path) -> Path:
    """A folder with two recordings of one name, each with an annotation of its own."""
    for number, (visit, lines) in enumerate(LINES.items()):
        folder = tmp_path / "visits" / visit
        folder.mkdir(parents=True)
        (folder / "anna.wav").write_bytes(recording(place, number).read_bytes())
        (folder / "anna.txt").write_text(lines)
    return tmp_path / "visits"


def entries(page: Page) -> list[str]:
    return sorted(page.locator("#list .entry-name").all_inner_texts())


def sent(page: Page, many: int) -> None:
    expect(page.locator("#list li")).to_have_count(many)
    expect(page.locator("#progress")).to_be_hidden()


def session_recordings(client: httpx.Client, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/sessions/{session_of(client, name)}").json()["recordings"]
    return found


def session_of(client: httpx.Client, name: str) -> str:
    return next(str(each["id"]) for each in client.get("/sessions").json() if each["name"] == name)


def test_each_recording_of_a_folder_gets_its_own_annotation(
    visits: Path, open_page: Open, client: httpx.Client
) -> None:
    page = open_page(session="Visits")
    drop_folder(page, visits)
    sent(page, 2)
    assert entries(page) == ["visits/visit1/anna", "visits/visit2/anna"]
    assert page.locator("#refused li").count() == 0
    for visit, label, many in (("visit1", "crackle", 2), ("visit2", "wheeze", 3)):
        page.locator("#list .entry", has_text=visit).click()
        expect(page.locator("#name")).to_have_text(f"visits/{visit}/anna")
        assert labels(page) == [label] * many
    page.locator("#find").fill("visit2")
    expect(page.locator("#list li")).to_have_count(1)

    session = session_of(client, "Visits")
    content = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export").content))
    files = {f"visits/{visit}/anna.txt": visit for visit in LINES}
    assert set(content.namelist()) == {*files, "README.txt"}
    for file, visit in files.items():
        found = [[float(x) for x in line.split()] for line in content.read(file).decode().splitlines()]
        assert found == [[float(x) for x in line.split()] for line in LINES[visit].splitlines()]
    table = client.get(f"/sessions/{session}/export?format=csv").content
    with zipfile.ZipFile(io.BytesIO(table)) as content:
        assert b"visits/visit1/anna.wav" in content.read("visits/visit1/anna.csv")


def test_two_annotations_for_one_recording_are_refused(visits: Path, open_page: Open) -> None:
    (visits / "visit1" / "anna.TXT").write_text(LINES["visit2"])
    page = open_page(session="Two for one")
    drop_folder(page, visits)
    sent(page, 1)
    assert entries(page) == ["visits/visit2/anna"]
    said = page.locator("#refused li")
    expect(said).to_have_count(1)
    expect(said).to_contain_text("visits/visit1/anna.wav: 2 annotations came along")
    expect(said).to_contain_text("keep one and send both again")


def test_what_comes_late_is_shown_before_it_counts_and_what_comes_twice_is_said(
    visits: Path, open_page: Open, client: httpx.Client
) -> None:
    text = visits / "visit1" / "anna.txt"
    lines = text.read_text()
    text.unlink()
    page = open_page(session="Late", forgiven=("409",))
    drop_folder(page, visits)
    sent(page, 2)
    text.write_text(lines, encoding="utf-16")
    (visits / "visit1" / "anna.wav").rename(visits / "visit1" / "other.zsa")
    drop_folder(page, visits / "visit1")  # another root, so another folder
    said = page.locator("#refused li")
    expect(said.first).to_contain_text("visit1/anna.txt: an annotation without its recording")
    (visits / "visit1" / "other.zsa").unlink()
    (facts,) = (each for each in session_recordings(client, "Late") if each["path"] == "visits/visit1/anna.wav")
    before = client.get(f"/recordings/{facts['id']}").json()
    for button in ("Cancel", "Import"):
        drop_folder(page, visits)
        expect(page.locator("#imports-sum")).to_contain_text(f"{len(lines.splitlines())} cycles for 1 recording.")
        row = page.locator("#imports-rows tr")
        expect(row).to_have_count(1)
        expect(row).to_contain_text(f"{len(before['cycles'])} (0 confirmed)")
        assert client.get(f"/recordings/{facts['id']}").json()["revision"] == 0
        page.locator("#imports").get_by_role("button", name=button).click()
        expect(said).to_contain_text("visits/visit2/anna: the same recording is in the list already; to use this")
        page.wait_for_function("() => !document.querySelector('#imports').open")
    after = until(lambda: (now := client.get(f"/recordings/{facts['id']}").json())["revision"] == 1 and now)
    starts = [float(line.split()[0]) for line in lines.splitlines()]
    assert [cycle["start_s"] for cycle in after["cycles"]] == pytest.approx(starts, abs=1e-3)
    assert not any(cycle["confirmed"] for cycle in after["cycles"])
    drop_folder(page, visits)
    expect(page.locator("#imports-sum")).to_contain_text("for 1 recording.")
    cycles = [{**cycle, "confirmed": True} for cycle in after["cycles"]]
    edited = {"recording": facts["id"], "cycles": cycles, "base": 1}  # meanwhile, by somebody else
    assert client.post("/annotations", json=edited).status_code == 201
    page.locator("#imports").get_by_role("button", name="Import").click()
    alert = page.locator("#alert")
    expect(alert).to_contain_text(
        "Annotations imported: 0 of 1. Refused: visits/visit1/anna.txt: anna: changed elsewhere"
    )
    sent(page, 2)


def test_an_annotation_is_read_without_being_kept(place: Path, client: httpx.Client) -> None:
    path = recording(place)
    facts = upload(client, new_session(client), path)
    asked = f"/recordings/{facts['id']}/annotation"
    text = path.with_suffix(".txt").read_text()
    found = client.post(asked, json={"name": "a.txt", "text": text}).json()
    words = {"00": "normal", "10": "crackle", "01": "wheeze", "11": "both"}
    assert [cycle["label"] for cycle in found["cycles"]] == [words["".join(x.split()[2:])] for x in text.splitlines()]
    assert client.get(f"/recordings/{facts['id']}").json()["revision"] == 0
    wrong = {
        "0\t1\n": "it says times and no classes",
        "9\t99\t0\t1\n": "99",
        "no annotation at all": "passed over",
        "": "passed over",
        "0\t1\t0\t0\n" * 40_000: "larger than 256 KiB",
    }
    for text, words_of in wrong.items():
        answer = client.post(asked, json={"name": "../a.txt", "text": text})
        assert answer.status_code in (413, 422)
        assert words_of in answer.json()["detail"], answer.text
    assert client.post("/recordings/x/annotation", json={"name": "a", "text": ""}).status_code == 404


def test_the_same_files_again_are_not_added_again(place: Path, open_page: Open) -> None:
    page = open_page(session="Again", forgiven=("409",))
    page.set_input_files("#files", [recording(place, 0), recording(place, 1)])
    sent(page, 2)
    page.set_input_files("#files", [recording(place, 0), recording(place, 2)])
    sent(page, 3)
    expect(page.locator("#refused li")).to_have_text(f"{recording(place).name}: in the list already, not added again")


def test_files_of_other_kinds_are_named(place: Path, tmp_path: Path, open_page: Open, client: httpx.Client) -> None:
    """Also of sixty beside recordings that are taken; what systems put into folders themselves is not worth a word."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("notes.json", "voice.xyz", ".DS_Store", "._breath.wav", "filename_format.txt"):
        (folder / name).write_bytes(b"no sound")
    (folder / "BREATH.WAV").write_bytes(recording(place).read_bytes())
    (folder / "breath.txt").write_text("0 4 1 1\n")
    for number in range(53):
        name, content = (("wav", b"RIFF nothing"), ("pdf", b"a letter"))[number % 2]
        (folder / f"z{number:02}.{name}").write_bytes(content)
    page = open_page(session="Mixed")
    drop_folder(page, folder)
    sent(page, 1)
    assert entries(page) == ["mixed/BREATH"]
    assert labels(page) == ["both"]  # of the annotation, whose name is written in small letters
    said = page.locator("#refused li")
    expect(said).to_have_count(2 + 27)
    expect(said.nth(0)).to_contain_text("mixed/filename_format.txt: an annotation without its recording")
    expect(said.nth(1)).to_contain_text("and 20 more: not a recording that is known here")
    refused = page.locator("#refused").inner_text()
    assert all(f"mixed/z{number:02}" in refused for number in range(0, 53, 2))
    assert "DS_Store" not in page.locator("#refused").inner_text()


def test_every_kind_that_the_service_reads_is_sent(place: Path, open_page: Open, client: httpx.Client) -> None:
    """The page asks which those are; what cannot be decoded after all is refused by the service, by name."""
    limits = client.get("/limits").json()
    assert limits["suffixes"] == list(AUDIO_SUFFIXES)
    assert set(limits["suffixes"]) > set(FFMPEG_SUFFIXES)
    page = open_page(session="Kinds")
    content = recording(place).read_bytes()
    files: list[FilePayload] = [
        {"name": f"a{number}{suffix}", "mimeType": "", "buffer": content}
        for number, suffix in enumerate(limits["suffixes"])
    ]
    with page.expect_response(lambda answer: "/recordings" in answer.url and answer.request.method == "POST"):
        page.set_input_files("#files", files)
    expect(page.locator("#progress")).to_be_hidden(timeout=60_000)
    expect(page.locator("#refused")).not_to_contain_text("not a recording that is known here")
    listed = int(page.locator("#list li").first.get_attribute("aria-setsize") or 0)  # rows out of sight are not drawn
    assert listed + page.locator("#refused li").count() == len(files)


def test_equal_names_without_a_folder_are_not_guessed_at(place: Path, open_page: Open) -> None:
    """A file picker gives no folder where files come from several, say from a search."""
    sounds: list[FilePayload] = [
        {"name": "anna.wav", "mimeType": "audio/wav", "buffer": recording(place, number).read_bytes()}
        for number in range(2)
    ]
    texts: list[FilePayload] = [
        {"name": "anna.txt", "mimeType": "text/plain", "buffer": lines.encode()} for lines in LINES.values()
    ]
    page = open_page(session="Picker")
    page.set_input_files("#files", [*sounds, *texts])
    expect(page.locator("#refused li")).to_have_count(2)
    expect(page.locator("#refused li").first).to_contain_text("anna.wav: 2 annotations came along")
    page.set_input_files("#files", [*sounds, texts[0]])
    expect(page.locator("#refused li").first).to_contain_text("2 recordings of this name came along")
    expect(page.locator("#list li")).to_have_count(0)
    page.set_input_files("#files", sounds)
    sent(page, 2)


# Which belongs to which


PAIR = """({ paths, listed }) => {
  const files = paths.map((path) => ({ path }));
  const { sounds, late, refused } = page.paired(files, [".wav", ".mp3"], listed ?? []);
  const all = ({ sound, text, events }) => [sound, text, ...(events ? [events] : [])];
  const pairs = sounds.map((each) => all(each).map((file) => file?.path ?? null));
  return { pairs, late: late.map((file) => file.path), refused };
}"""


@pytest.fixture(scope="module")
def pairing() -> Iterator[Script]:
    with script("pairing.js", PAIR) as working:
        yield working


@pytest.mark.parametrize(
    ("paths", "pairs"),
    [
        (["a/x.wav", "b/x.txt"], [["a/x.wav", None]]),
        (["x.WAV", "X.txt"], [["x.WAV", "X.txt"]]),
        (["x.wav", "X.wav", "x.txt", "X.txt"], [["x.wav", "x.txt"], ["X.wav", "X.txt"]]),
        (["x.wav", "x.mp3", "x.txt"], [["x.wav", "x.txt"], ["x.mp3", "x.txt"]]),
        (["a.b/x.wav", "a.b/x.txt", "a.b/x.y.txt"], [["a.b/x.wav", "a.b/x.txt"]]),
        (["x.wav", "x.txt", "x.TXT"], []),
        (["x.wav", "x.wav", "x.txt"], []),
        (["a/x.wav", "a/X_events.raven.txt", "b/x_events.txt"], [["a/x.wav", None, "a/X_events.raven.txt"]]),
        (["x.wav", "x.txt", "x_events.aoef.json"], [["x.wav", "x.txt", "x_events.aoef.json"]]),
        (["x_events.wav", "x_events.txt", "x.wav"], [["x_events.wav", "x_events.txt"], ["x.wav", None]]),
        (["x.wav", "x_events.txt", "x_events.raven.txt"], []),
        (["x.wav", "x.mp3", "x_events.txt"], [["x.wav", None, "x_events.txt"], ["x.mp3", None, "x_events.txt"]]),
    ],
)
def test_pairs(pairing: Script, paths: list[str], pairs: list[Any]) -> None:
    found = pairing({"paths": paths})
    assert found["pairs"] == pairs
    said = " ".join(found["refused"])
    for path in set(paths) - {path for pair in pairs for path in pair}:
        assert path in said


def test_many_names_are_few_words(pairing: Script) -> None:
    (said,) = pairing({"paths": [f"{number}.json" for number in range(1000)]})["refused"]
    assert "7.json and 992 more: not a recording that is known here (.wav, .mp3)" in said
    assert pairing({"paths": ["X.txt"], "listed": ["x.mp3"]}) == {"pairs": [], "late": ["X.txt"], "refused": []}


# The service


@pytest.mark.parametrize(
    ("given", "path", "name"),
    [
        ("visits/visit1/anna.WAV", "visits/visit1/anna.WAV", "anna"),
        ("../../etc/./passwd.wav", "etc/passwd.wav", "passwd"),
        ("C:\\Users\\x\\a b.mp3", "C:/Users/x/a b.mp3", "a b"),
        ("/肺/\x00\x1b/音.flac", "肺/音.flac", "音"),
        ("/".join(["d" * 200] * 40) + "/a.wav", "/".join(["d" * 120] * 16) + "/a.wav", "a"),
        ("a/..", "a/recording", "recording"),
    ],
)
def test_paths_of_visitors(place: Path, client: httpx.Client, given: str, path: str, name: str) -> None:
    assert cycle_edits.relative_path(given) == path
    files = {"audio": ("whatever.wav", recording(place).read_bytes())}
    session = new_session(client)
    facts = client.post(f"/sessions/{session}/recordings", files=files, data={"path": given}).json()
    assert (facts["path"], facts["name"]) == (path, name)
    content = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export").content))
    for inside in content.namelist():
        assert not inside.startswith("/")
        assert ".." not in inside.split("/")


def test_a_file_that_is_there_is_refused_only_where_that_is_asked_for(place: Path, client: httpx.Client) -> None:
    session, files = new_session(client), {"audio": ("a.wav", recording(place).read_bytes())}

    def send(path: str, **more: str) -> httpx.Response:
        return client.post(f"/sessions/{session}/recordings", files=files, data={"path": path, **more})

    assert send("v1/a.wav").status_code == send("v1/a.wav").status_code == 201
    again = send("v1/a.wav", only_new="true")
    assert (again.status_code, again.json()["detail"]) == (409, "v1/a: the same recording is in the list already")
    assert send("v2/a.wav", only_new="true").status_code == 201
