"""The facts of a recording: what its name says, what people say instead, what is kept of that, and its report."""

from pathlib import Path

import httpx
import pytest

from rales.web import recording_facts, recording_report
from rales.web.store import RevisionConflict, Store
from tests.attack.store_kills import added
from tests.served import new_session, recording, upload


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("101_1b1_Al_sc_Meditron", ("101", "Al", "Meditron")),
        ("65096999_6.3_0_p1_1254", ("65096999", "Pl", "Yunting")),
        ("65096999_6.3_1_p2_1255", ("65096999", "Ll", "Yunting")),
        ("65096999_6.3_1_p3_1255", ("65096999", "Pr", "Yunting")),
        ("65096999_6.3_1_p4_1255", ("65096999", "Lr", "Yunting")),
        ("101_1b1_Xx_sc_Meditron", ("", "", "")),
        ("anna", ("", "", "")),
    ],
)
def test_what_a_name_says(name: str, said: tuple[str, str, str]) -> None:
    assert tuple(recording_facts.read_name(name).values()) == said


def test_a_store_of_before_gets_facts_and_damaged_ones_cost_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = added(store, store.new_session("Ward"), "a")
    with store.open() as db:
        db.execute("ALTER TABLE recordings DROP COLUMN facts")
    again = Store(tmp_path)
    stamp = again.rows("SELECT facts FROM recordings")
    assert again.say_facts(name, {"patient": "7"}, 0) == 1
    assert again.rows("SELECT facts FROM recordings") != stamp
    assert again.say_facts(name, {"patient": "7"}, 0) == 1  # an answer that was not heard: the same once more
    with pytest.raises(RevisionConflict):
        again.say_facts(name, {"patient": "8"}, 0)
    assert again.say_facts(name, {"patient": "8"}) == 2
    for text in ("{", "3", "[]", '{"patient": 3}', '{"revision": "x"}', "[" * 100_000):
        again.change("UPDATE recordings SET facts = ?", text)
        row = again.recording(name, "first")
        assert row is not None
        assert (row["said"], row["status"]) == ({"revision": 0}, "failed")
        assert "say it again" in row["problem"]
    again.say_facts(name, {"patient": "9"})
    row = again.recording(name, "first")
    assert row is not None
    assert (row["said"], row["problem"]) == ({"patient": "9", "revision": 1}, "")


def test_what_is_said_holds_and_the_name_holds_again(place: Path, client: httpx.Client) -> None:
    """Facts are one line each, go to the list and to learning, and no second tab overwrites them unseen."""
    session, sound = new_session(client), recording(place)
    one = upload(client, session, sound, sound.with_suffix(".txt"))
    address = f"/recordings/{one['id']}"
    assert one["named"] == {part: one[part] for part in ("patient", "location", "device")}
    assert one["patient"] == sound.stem[:3]
    said = {"patient": "  P\n7\u202e ", "location": "Lr", "note": "<b>x</b>\x1b[31m", "base": 0}
    answer = client.post(f"{address}/facts", json=said)
    assert (answer.status_code, answer.json()["revision"], answer.json()["facts"]["patient"]) == (201, 1, "P 7")
    detail = client.get(address).json()
    assert (detail["location"], detail["device"], detail["note"]) == ("Lr", one["device"], "<b>x</b> [31m")
    assert client.post(f"{address}/facts", json={"device": "Eko", "base": 0}).status_code == 409
    assert client.get(f"/sessions/{session}").json()["recordings"][0]["patient"] == "P 7"
    blind = client.get(address, params={"reader": "Anna"}).json()
    assert (blind["note"], blind["patient"]) == ("", "P 7")

    for wrong in ({"patient": "x" * 61}, {"note": "x" * 1001}):
        assert "letters, at most" in client.post(f"{address}/facts", json=wrong).json()["detail"]
    assert client.post("/recordings/0000000000000000/facts", json={"patient": "x"}).status_code == 404
    cycles = [{"start_s": 0, "end_s": 2, "label": "both", "confirmed": True, "note": "=1+1\nfine"}]
    assert client.post("/annotations", json={"recording": one["id"], "cycles": cycles}).status_code == 201
    cycles[0]["note"] = "x" * 301
    assert (
        "its note has 301 letters" in client.post("/annotations", json={"recording": one["id"], "cycles": cycles}).text
    )
    table = client.get(f"{address}/export", params={"format": "csv"}).text
    assert "'=1+1 fine" in table
    assert table.splitlines()[1].endswith(f"P 7,{one['device']},Lr,")

    page = client.get(f"{address}/report")
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert "&lt;b&gt;x&lt;/b&gt;" in page.text
    assert "<b>x</b>" not in page.text
    assert "left lateral" not in page.text.split("right lateral")[0]
    assert "not a diagnosis" in page.text
    assert 'src="http' not in page.text
    assert page.text.count("data:image/png") == 1

    client.post(f"{address}/facts", json={**one["named"], "note": ""})
    assert client.get(address).json()["patient"] == sound.stem[:3]


@pytest.mark.parametrize(
    ("word", "independent", "said"),
    [
        ("normal | wheeze", False, "normal or wheeze"),
        ("crackle?+wheeze", True, "wheeze, perhaps crackle"),
        ("a+b | c", False, "a+b or c"),
        ("any", False, "any label"),
        ("no label", True, "no label fits"),
        ("", False, "–"),
    ],
)
def test_a_report_says_sets_in_words(word: str, independent: bool, said: str) -> None:
    assert recording_report.describe_set(word, independent) == said


def test_a_table_of_facts_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert recording_facts.read_table(tmp_path) == {}
    (tmp_path / "recordings.csv").write_text("path,patient,location,note\na/b.wav,'=7,,x\nc.wav,008,Pr,\n")
    found = recording_facts.read_table(tmp_path)
    assert found == {"a/b.wav": {"patient": "=7", "note": "x"}, "c.wav": {"patient": "008", "location": "Pr"}}
    (tmp_path / "recordings.csv").write_text("file,patient\na,7\n")
    with pytest.raises(ValueError, match="has no column path"):
        recording_facts.read_table(tmp_path)
