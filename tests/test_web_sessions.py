"""What the service keeps: sessions, recordings, annotations and their revisions, and the files it writes of them."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.data import audit_data, icbhi, read_cycles
from rales.data.event_readers import parse_events
from rales.data.event_writers import FORMATS
from rales.data.reader import Cycle, describe_cycle
from rales.web.routes_segments import why_not_decoded
from rales.web.security import ApiError
from rales.web.service import NO_SOUND
from rales.web.store import Store
from tests.attack.editors import assert_none_lost
from tests.attack.layout_1 import write_layout_1
from tests.served import new_session, recording, served, until, upload

P = ["p_normal", "p_crackle", "p_wheeze", "p_both"]
NOTICE = "Research tool, not a diagnosis."


def test_a_recording_from_upload_to_export(place: Path, client: httpx.Client) -> None:
    session, path = new_session(client, "Ward 3\n"), recording(place, 1)
    facts = upload(client, session, path, path.with_suffix(".txt"))
    assert (facts["name"], facts["status"], facts["revision"], facts["notice"]) == (path.stem, "ready", 0, NOTICE)
    truth, _ = icbhi.read_cycle_annotation(path.with_suffix(".txt"), None)
    assert [cycle["label"] for cycle in facts["cycles"]] == [describe_cycle(cycle) for cycle in truth]

    corrected = [
        {"start_s": 2.0, "end_s": 3.4567, "label": "both", "confirmed": True},
        {"start_s": 0.0, "end_s": 1.0, "label": "wheeze"},
    ]
    saved = client.post("/annotations", json={"recording": facts["id"], "cycles": corrected})
    assert (saved.status_code, saved.json()["revision"]) == (201, 1)
    detail = client.get(f"/recordings/{facts['id']}").json()
    assert detail["cycles"] == [
        {"start_s": 0.0, "end_s": 1.0, "label": "wheeze", "confirmed": False, "unusable": False, "note": ""},
        {"start_s": 2.0, "end_s": 3.457, "label": "both", "confirmed": True, "unusable": False, "note": ""},
    ]
    (line,) = client.get(f"/sessions/{session}").json()["recordings"]
    assert (line["edited"], line["findings"]["both"], line["findings"]["normal"]) == (True, 1, 0)
    first = next(s for s in detail["scores"]["first"] if s["start_s"] == 0.0)
    assert line["uncertainty"] == pytest.approx(1 - max(first[name] for name in P))  # the confirmed one does not count

    exported = client.get(f"/recordings/{facts['id']}/export")
    assert exported.text == "0.000\t1.000\t0\t1\n2.000\t3.457\t1\t1\n"
    (place / "back.txt").write_text(exported.text)
    assert icbhi.read_cycle_annotation(place / "back.txt", 4.0) == (
        [Cycle(0.0, 1.0, 0, 1), Cycle(2.0, 3.457, 1, 1)],
        [],
    )
    table = pd.read_csv(io.StringIO(client.get(f"/recordings/{facts['id']}/export?format=csv").text))
    assert table["label"].tolist() == ["wheeze", "both"]
    assert table[P].to_numpy()[0] == pytest.approx([first[name] for name in P])
    assert table[P].iloc[1].isna().all()  # nobody has asked for just these times
    assert table["confirmed"].tolist() == [False, True]
    assert "notice" not in table
    assert table[["path", "patient"]].astype(str).to_numpy().tolist() == [[path.name, path.stem[:3]]] * 2
    raven = client.get(f"/recordings/{facts['id']}/export?format=raven").text.splitlines()
    assert raven[0].split("\t")[:5] == ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"]
    column = raven[0].split("\t").index("Confirmed")
    assert [line.split("\t")[column] for line in raven[1:]] == ["False", "True"]
    audacity = client.get(f"/recordings/{facts['id']}/export?format=audacity")
    assert audacity.text == f"0.000000\t1.000000\twheeze {first['p_wheeze']:.2f}\n2.000000\t3.457000\tboth\n"
    assert 'filename="' + path.stem + '.audacity.txt"' in audacity.headers["content-disposition"]


def test_a_session_as_one_zip(place: Path, client: httpx.Client) -> None:
    session = new_session(client)
    for _ in range(2):
        upload(client, session, recording(place))
    content = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export").content))
    name = recording(place).stem
    assert content.namelist() == [f"{name}.txt", f"{name}_2.txt", "README.txt"]
    assert content.read(f"{name}.txt").decode().count("\n") >= 1
    content = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export?format=csv").content))
    assert content.namelist() == [f"{name}.csv", f"{name}_2.csv", "manifest.csv", "README.txt"]
    assert NOTICE in content.read("README.txt").decode()
    written = pd.read_csv(io.BytesIO(content.read("manifest.csv")), keep_default_na=False)
    assert set(written["recording"]) == {name, f"{name}_2"}
    assert set(written["path"]) == {""}  # two of one name: a person must say which is which


def test_the_cycles_of_a_session_as_clips(place: Path, client: httpx.Client) -> None:
    """Each in the folder of the label that stands, with the sound of its times; unusable ones are left out. Two
    recordings of one name stay apart."""
    session, path = new_session(client, "Ward"), recording(place)
    empty = client.get(f"/sessions/{session}/segments/export")
    assert (empty.status_code, "nothing to cut yet" in empty.json()["detail"]) == (409, True)
    assert client.get("/sessions/x/segments/export").status_code == 404
    facts = [upload(client, session, path, path.with_suffix(".txt")) for _ in range(2)]
    cycles = facts[0]["cycles"]
    marked = [{**cycles[0], "label": "both", "confirmed": True}, {**cycles[1], "unusable": True}, *cycles[2:]]
    marked[2] = {**cycles[2], "start_s": cycles[2]["start_s"] + 0.1}  # the model has not answered for it
    assert client.post("/annotations", json={"recording": facts[0]["id"], "cycles": marked}).status_code == 201

    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/segments/export").content))
    listed = pd.read_csv(archive.open("segments.csv")).sort_values(["path", "start_s"], ignore_index=True)
    assert sorted(archive.namelist()) == sorted([*listed["clip"], "segments.csv", "README.txt"])
    assert list(listed["path"]) == [path.stem] * (len(cycles) - 1) + [f"{path.stem}_2"] * len(cycles)
    first, moved = listed.iloc[0], listed.iloc[1]
    assert (first["label"], bool(first["confirmed"]), first["clip"].split("/")[0]) == ("both", True, "both")
    assert np.isnan(moved["probability"])
    sound, rate_hz = soundfile.read(path, dtype="float32")
    for row in listed.to_dict("records"):
        clip, clip_hz = soundfile.read(io.BytesIO(archive.read(row["clip"])), dtype="float32")
        begin = round(row["start_s"] * rate_hz)
        assert clip_hz == rate_hz
        assert np.abs(clip - sound[begin : begin + len(clip)]).max() < 2 / 32768
        assert len(clip) == pytest.approx((row["end_s"] - row["start_s"]) * rate_hz, abs=2)
    readme = archive.read("README.txt").decode()
    assert NOTICE in readme
    assert "1 more called unusable and left out" in readme


def test_a_clip_that_cannot_be_cut_costs_no_other() -> None:
    def ensure_sound(recording: str) -> None:
        if recording != "whole":
            raise ApiError(int(recording), "the file has changed")

    service: Any = SimpleNamespace(ensure_sound=ensure_sound)
    found = [why_not_decoded(service, recording) for recording in ("whole", "409")]
    assert found == ["", "the file has changed"]
    with pytest.raises(ApiError):  # the decoder is busy: all would be left out
        why_not_decoded(service, "503")


def test_exports_are_data_to_train_on(place: Path, client: httpx.Client, tmp_path: Path) -> None:
    """Scored, corrected, exported, given back: the CSV with `split` filled in, and the ICBHI files without a list."""
    session = new_session(client)
    names = ["anna", "=1+1", "Zoë, with (space)", "101_1b1_Al_sc_Meditron"]
    for number, name in enumerate(names):
        (tmp_path / f"{name}.wav").write_bytes(recording(place, number).read_bytes())
        facts = upload(client, session, tmp_path / f"{name}.wav")
        client.post("/annotations", json={"recording": facts["id"], "cycles": cycles_of("wheeze")})
    for form in ("csv", "icbhi"):
        archive = zipfile.ZipFile(
            io.BytesIO(client.get(f"/sessions/{session}/export", params={"format": form}).content)
        )
        archive.extractall(tmp_path)

    given = tmp_path / "manifest.csv"
    assert read_cycles(given)["split"].unique().tolist() == ["train"]
    assert audit_data(given).problems == []
    assert any("split is empty throughout; every row counts as train" in note for note in audit_data(given).notes)
    table = pd.read_csv(given, dtype=str)
    table["split"] = ["train", "train", "train", "test"]
    table.to_csv(given, index=False, sep=";")
    cycles = read_cycles(given)
    assert sorted(cycles["recording"]) == sorted(names)
    assert cycles.set_index("recording")["patient"]["101_1b1_Al_sc_Meditron"] == "101"
    assert cycles.set_index("recording")["split"]["101_1b1_Al_sc_Meditron"] == "test"
    assert set(cycles["label"]) == {"wheeze"}

    by_folder = read_cycles(tmp_path, needs_split=False)
    assert sorted(by_folder["recording"]) == sorted(names)
    assert sorted(by_folder["patient"]) == sorted(["101", *names[:3]])
    assert by_folder[["start_s", "end_s"]].drop_duplicates().to_numpy().tolist() == [[0.5, 1.5]]


def test_what_nobody_has_confirmed_or_answered_for_is_said(place: Path, client: httpx.Client, tmp_path: Path) -> None:
    """A recording that waits has no file, an empty one would mean that it holds no cycle; a name like that of the
    account itself does no harm."""
    session, path = new_session(client), recording(place)
    ids = {}
    for name in ("seen", "guessed", "annotated", "emptied", "late", "README"):
        (tmp_path / f"{name}.wav").write_bytes(path.read_bytes())
        text = path.with_suffix(".txt") if name == "annotated" else None
        ids[name] = upload(client, session, tmp_path / f"{name}.wav", text)["id"]
    cycle = {"start_s": 0.0, "end_s": 1.0, "label": "wheeze", "confirmed": True}
    other = {**cycle, "start_s": 1.0, "end_s": 2.0, "confirmed": False}
    client.post("/annotations", json={"recording": ids["seen"], "cycles": [cycle, other]})
    client.post("/annotations", json={"recording": ids["emptied"], "cycles": []})
    client.patch(f"/recordings/{ids['seen']}", json={"reviewed": True})
    store = Store(place / "store")
    store.change("DELETE FROM scores WHERE recording = ?", ids["late"])
    store.mark(ids["late"], "waiting")
    content = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export").content))
    files = [f"{name}.txt" for name in ("seen", "guessed", "annotated", "emptied", "README_2")]
    assert content.namelist() == [*files, "README.txt"]
    assert content.read("emptied.txt") == b""
    said = content.read("README.txt").decode().splitlines()
    assert "seen.txt: 2 cycles, 1 confirmed by a person, 1 unconfirmed; reviewed" in said
    assert "annotated.txt: 4 cycles, 0 confirmed by a person, 4 of the annotation that came along; NOT REVIEWED" in said
    (guessed,) = [line for line in said if line.startswith("guessed.txt: ")]
    assert guessed.endswith("as the model calls them; NOT REVIEWED")
    assert said[-2:] == ["Left out (1):", "late: the model that is served has not answered for it yet"]
    one = client.get(f"/recordings/{ids['late']}/export")
    assert (one.status_code, "late: the model that is served has not answered" in one.json()["detail"]) == (409, True)


# Revisions


def cycles_of(label: str, confirmed: bool = True) -> list[dict[str, Any]]:
    return [{"start_s": 0.5, "end_s": 1.5, "label": label, "confirmed": confirmed, "unusable": False, "note": ""}]


def test_a_save_from_an_older_revision_overwrites_nothing(place: Path, client: httpx.Client) -> None:
    recorded = upload(client, new_session(client), recording(place))["id"]

    def save(label: str, **base: int | None) -> httpx.Response:
        return client.post("/annotations", json={"recording": recorded, "cycles": cycles_of(label), **base})

    assert save("wheeze", base=0).json()["revision"] == 1
    stale = save("crackle", base=0)
    assert stale.status_code == 409
    assert "changed elsewhere since revision 0, revision 1 stands now" in stale.json()["detail"]
    assert client.get(f"/recordings/{recorded}").json()["cycles"] == cycles_of("wheeze")
    again = save("wheeze", base=0)  # the answer was lost on the way, so it was sent again
    assert (again.status_code, again.json()["revision"]) == (201, 1)
    assert save("crackle", base=1).json()["revision"] == 2
    assert save("both").json()["revision"] == 3  # as before: without a base, the last one counts
    assert save("both", base=None).json()["revision"] == 4


def test_two_at_once_are_one_after_the_other(place: Path, client: httpx.Client) -> None:
    recorded = upload(client, new_session(client), recording(place))["id"]

    def save(number: int) -> httpx.Response:
        cycle = {"start_s": 0.0, "end_s": 1 + number / 100, "label": "both"}
        return client.post("/annotations", json={"recording": recorded, "cycles": [cycle]})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(save, range(24)))
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(answer.json()["revision"] for answer in answers) == list(range(1, 25))


def test_going_back_to_an_earlier_revision(place: Path, client: httpx.Client) -> None:
    facts = upload(client, new_session(client), recording(place))
    recorded, called = facts["id"], facts["cycles"]
    for label, confirmed in (("wheeze", True), ("both", False)):
        client.post("/annotations", json={"recording": recorded, "cycles": cycles_of(label, confirmed)})
    listed = client.get(f"/recordings/{recorded}/revisions").json()
    assert [(one["revision"], one["cycles"], one["confirmed"]) for one in listed] == [
        *((2, 1, 0), (1, 1, 1), (0, len(called), 0))
    ]
    assert [one["findings"]["both"] for one in listed[:2]] == [1, 0]
    assert listed[0]["saved"] >= listed[1]["saved"] > 0
    assert listed[2]["saved"] is None
    restored = client.post(f"/recordings/{recorded}/revisions/1/restore")
    assert (restored.status_code, restored.json()["revision"]) == (201, 3)
    assert client.get(f"/recordings/{recorded}").json()["cycles"] == cycles_of("wheeze")
    client.post(f"/recordings/{recorded}/revisions/0/restore")
    assert client.get(f"/recordings/{recorded}").json()["cycles"] == called
    assert len(client.get(f"/recordings/{recorded}/revisions").json()) == 5  # nothing was lost
    for number in (9, -1, 10**30):
        unknown = client.post(f"/recordings/{recorded}/revisions/{number}/restore")
        assert (unknown.status_code, f"no revision {number} is kept" in unknown.json()["detail"]) == (404, True)


@pytest.mark.parametrize("annotated", [True, False])
def test_what_is_scored_later_is_no_part_of_what_it_began_with(
    place: Path, client: httpx.Client, annotated: bool
) -> None:
    path = recording(place)
    facts = upload(client, new_session(client), path, path.with_suffix(".txt") if annotated else None)
    recorded, began = facts["id"], facts["cycles"]
    assert len(began) == (4 if annotated else len(facts["scores"]["first"]))

    def standing() -> list[dict[str, Any]]:
        return list(client.get(f"/recordings/{recorded}").json()["cycles"])

    spans = [{"start_s": start, "end_s": start + 0.7} for start in (0.1, 0.9, 1.3)]
    spans += [{"start_s": began[0]["start_s"], "end_s": began[0]["end_s"]}]  # one of those it has
    client.post(f"/recordings/{recorded}/scores", json={"cycles": spans})
    assert standing() == began
    client.post("/annotations", json={"recording": recorded, "cycles": cycles_of("both")})
    client.post(f"/recordings/{recorded}/scores", json={"cycles": cycles_of("both")})
    assert client.get(f"/recordings/{recorded}/revisions").json()[-1]["cycles"] == len(began)
    Store(place / "store").change("UPDATE scores SET made = 1.0 WHERE recording = ?", recorded)  # a new model is served
    client.post(f"/recordings/{recorded}/predictions")
    client.post(f"/recordings/{recorded}/revisions/0/restore")
    assert standing() == began
    exported = client.get(f"/recordings/{recorded}/export").text
    assert exported.count("\n") == len(began)


def test_cycles_of_an_annotation_are_there_before_the_model_answers(place: Path, client: httpx.Client) -> None:
    path, session = recording(place), new_session(client)
    files = {"audio": (path.name, path.read_bytes()), "annotation": ("a.txt", path.with_suffix(".txt").read_bytes())}
    recorded = client.post(f"/sessions/{session}/recordings", files=files).json()["id"]
    store = Store(place / "store")
    until(lambda: client.get(f"/recordings/{recorded}").json()["status"] == "ready")
    store.change("DELETE FROM scores WHERE recording = ?", recorded)
    store.mark(recorded, "failed", "not enough memory")
    detail = client.get(f"/recordings/{recorded}").json()
    assert (len(detail["cycles"]), detail["source"]) == (4, "annotation")
    assert client.get(f"/recordings/{recorded}/export").text.count("\n") == 4


def test_a_folder_of_the_layout_before_is_taken_over(tmp_path: Path) -> None:
    """Which kept stretches that were scored later behind the cycles that a recording began with, or in their places."""
    write_layout_1(tmp_path)
    for _ in range(2):  # and opens as one of its own from then on
        kept = {row["id"]: row for row in Store(tmp_path).recordings("s", "first")}
        original = {name: row["original"] for name, row in kept.items()}
        assert [(one["start_s"], one["end_s"], one["label"]) for one in original["found"]] == [
            *((0.0, 1.0, "normal"), (1.0, 2.0, "normal"))
        ]
        assert [(one["end_s"], one["label"]) for one in original["annotated"]] == [(1.0, "crackle"), (2.03, "wheeze")]
        assert original["waits"] is None
        origins = {name: row["origin"] for name, row in kept.items()}
        assert origins == {"found": "segment", "annotated": "annotation", "waits": None}
        row = kept["found"]
        assert (row["revision"], row["path"], row["saved"][0]["label"]) == (1, "found", "both")


def test_it_is_all_there_after_a_restart_and_what_waited_is_worked_off(place: Path, tmp_path: Path) -> None:
    with served(place, folder=tmp_path) as client:
        session = new_session(client, "Night")
        facts = upload(client, session, recording(place))
        cycles = [{"start_s": 0.5, "end_s": 1.25, "label": "crackle", "confirmed": True, "unusable": False, "note": ""}]
        client.post("/annotations", json={"recording": facts["id"], "cycles": cycles})
        client.patch(f"/recordings/{facts['id']}", json={"reviewed": True})
    store = Store(tmp_path)
    store.mark(facts["id"], "waiting")
    with served(place, folder=tmp_path) as client:
        (line,) = client.get(f"/sessions/{session}").json()["recordings"]
        assert (line["reviewed"], line["edited"]) == (True, True)
        until(lambda: client.get(f"/recordings/{facts['id']}").json()["status"] == "ready")
        assert client.get(f"/recordings/{facts['id']}").json()["cycles"] == cycles
        assert client.delete(f"/sessions/{session}").status_code == 204
        assert client.get(f"/recordings/{facts['id']}").status_code == 404
        assert not (tmp_path / "recordings" / facts["id"]).exists()


def test_scores_of_a_model_that_changed_since_do_not_count(place: Path, client: httpx.Client) -> None:
    facts = upload(client, new_session(client), recording(place))
    assert facts["scores"]["first"]
    Store(place / "store").change("UPDATE scores SET made = 1.0 WHERE recording = ?", facts["id"])
    assert client.get(f"/recordings/{facts['id']}").json()["scores"] == {}
    answer = client.post(f"/recordings/{facts['id']}/predictions", params={"model": "first"}).json()
    assert (
        answer["cycles"]
        == client.get(f"/recordings/{facts['id']}").json()["scores"]["first"]
        == facts["scores"]["first"]
    )


# Rows and files that are damaged

SCORED = '[{"start_s": 0, "end_s": 1, "label": "normal", "p_normal": %s, "p_crackle": 0, "p_wheeze": 0, "p_both": 0}]'
DAMAGE = {  # what is done to the database or the files -> what is said of that recording
    "no numbers": (("scores", SCORED % "null"), "cycle 1 has a label without probabilities"),
    "not a number": (("scores", SCORED % "NaN"), "cycle 1 has a probability that is no number"),
    "scores cut": (("scores", SCORED[:30]), "cannot be read (no JSON)"),
    "original cut": (("originals", "[{"), "the cycles it began with cannot be read (no JSON)"),
    "annotation cut": (("annotations", "[{"), "revision 2 of its annotation cannot be read (no JSON); restore an"),
    "no sound": ("upload", "its sound is missing in the service's folder"),
}


ALONE = [(kind, annotated) for kind in DAMAGE for annotated in (False, True) if annotated or kind != "annotation cut"]


def test_readers_over_http(place: Path, client: httpx.Client, tmp_path: Path) -> None:
    """Blind to the file's labels, then to one another; saved apart, exported apart, settled together."""
    session, path = new_session(client), recording(place)
    facts = upload(client, session, path, path.with_suffix(".txt"))
    one, spans = f"/recordings/{facts['id']}", [(c["start_s"], c["end_s"]) for c in facts["cycles"]]
    anna, ben = {"reader": "Anna", "round": "1"}, {"reader": "Ben"}
    fresh = client.get(one, params=anna).json()
    assert [(c["label"], c["confirmed"]) for c in fresh["cycles"]] == [("normal", False)] * len(spans)
    (line,) = client.get(f"/sessions/{session}", params=anna).json()["recordings"]
    assert (line["answers"], line["findings"]["normal"], line["confirmed"], line["reviewed"]) == (None, 0, 0, False)

    def cycles(*labels: str) -> list[dict[str, Any]]:
        return [
            {"start_s": start, "end_s": end, "label": label or "normal", "confirmed": bool(label)}
            for (start, end), label in zip(spans, labels, strict=True)
        ]

    said = {"Anna": ("normal", "crackle", "both", ""), "Ben": ("normal", "wheeze", "both", "both")}
    for reader, labels in said.items():
        body = {"recording": facts["id"], "base": 0, "cycles": cycles(*labels), "reader": reader}
        saved = client.post("/annotations", json=body)
        assert (saved.status_code, saved.json()["facts"]["confirmed"]) == (201, sum(map(bool, labels)))
    assert client.get(one).json()["revision"] == 0
    (seen,) = client.get(f"{one}/readings", params=anna).json()
    assert [c["label"] for c in seen["cycles"]] == ["normal", "wheeze", "both"]  # the fourth is not decided
    assert [each["reader"] for each in client.get(f"/sessions/{session}/readers").json()] == ["Anna", "Ben"]
    found = client.get(f"/sessions/{session}/agreement").json()
    assert (found["cycles"], found["pairs"][0]["kappa"]["agreed"]) == (3, pytest.approx(2 / 3))
    assert found["notice"] == NOTICE
    text = client.get(f"{one}/export", params=anna).text
    assert [line.split()[2:] for line in text.splitlines()] == [["0", "0"], ["1", "0"], ["1", "1"]]
    assert len(client.get(f"{one}/revisions", params=ben).json()) == 2
    restored = client.post(f"{one}/revisions/0/restore", params=ben)
    assert restored.json()["facts"]["confirmed"] == 0
    assert client.post(f"{one}/revisions/1/restore", params=ben).status_code == 201
    settled = client.post(f"/sessions/{session}/settle", json={"round": 1}).json()
    assert settled == {"recordings": 1, "settled": 2, "differ": 1}
    table = tmp_path / "readers.csv"
    table.write_text(client.get(f"/sessions/{session}/readers/export").text)
    assert pd.read_csv(table)["reader"].tolist() == ["Anna"] * 3 + ["Ben"] * 4

    # one gets another name, one is removed; both is noted, and what was settled stays
    readers = f"/sessions/{session}/readers"
    taken = client.patch(readers, json={"reader": "Anna", "name": "Ben"})
    assert (taken.status_code, "two cannot become one" in taken.json()["detail"]) == (409, True)
    for body, status in (({"reader": "Eve", "name": "E"}, 404), ({"reader": "Anna", "name": " "}, 422)):
        assert client.patch(readers, json=body).status_code == status
    renamed = client.patch(readers, json={"reader": "Anna", "name": " Anna  B. "}).json()
    assert [each["reader"] for each in renamed] == ["Anna B.", "Ben"]
    assert len(client.get(f"{one}/revisions", params={"reader": "Anna B."}).json()) == 2
    assert [client.delete(readers, params={"reader": "Ben"}).status_code for _ in range(2)] == [204, 404]
    assert client.delete(readers, params={"reader": ""}).status_code == 404
    assert sum(cycle["confirmed"] for cycle in client.get(one).json()["cycles"]) == 2
    noted = [(each["reader"], each["became"]) for each in client.get(f"{readers}/changes").json()]
    assert noted == [("Anna", "Anna B."), ("Ben", "")]
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/project/export").content))
    history = json.loads(archive.read("history.json"))
    assert [each["became"] for each in history["readers_changed"]] == ["Anna B.", ""]
    assert {each["reader"] for each in next(iter(history["recordings"].values()))} == {"", "Anna B."}


def test_readers_that_are_none(place: Path, client: httpx.Client) -> None:
    """Names and rounds that nobody has, sessions and recordings that are not there: a sentence."""
    session = new_session(client)
    recorded = upload(client, session, recording(place))["id"]
    for wrong in ("reader=" + "x" * 61, "reader=Anna&round=0", "reader=Anna&round=two"):
        for path in (f"/sessions/{session}", f"/recordings/{recorded}", f"/sessions/{session}/agreement"):
            assert client.get(f"{path}?{wrong}").status_code == 422
    bodies: list[dict[str, Any]] = [
        {"reader": "\n\0"},
        {"reader": 7},
        {"reader": "A", "round": 100},
        {"reader": "A", "round": True},
    ]
    for body in bodies:
        answer = client.post("/annotations", json={"recording": recorded, "cycles": [], **body})
        assert (answer.status_code, len(answer.json()["detail"]) > 10) == (422, True)
    for path in (
        "/sessions/x/readers",
        "/sessions/x/agreement",
        "/recordings/x/readings",
        "/sessions/x/readers/export",
        "/sessions/x/readers/changes",
        "/sessions/x/project/export",
    ):
        assert client.get(path).status_code == 404
    assert client.post("/sessions/x/settle", json={"round": 1}).status_code == 404
    assert client.post(f"/sessions/{session}/settle", json={"round": 0}).status_code in (422,)
    assert client.get(f"/sessions/{session}/readers/export").status_code == 409
    html = "<img src=x onerror=alert(1)>"
    assert client.post("/annotations", json={"recording": recorded, "cycles": [], "reader": html}).status_code == 201
    assert [each["reader"] for each in client.get(f"/sessions/{session}/readers").json()] == [html]


@pytest.mark.parametrize(("kind", "annotated"), ALONE)
def test_a_damaged_row_costs_its_own_recording_alone(
    place: Path, client: httpx.Client, kind: str, annotated: bool
) -> None:
    """Its session, the recordings beside it and what a person said of it stay as they are; and it can be removed."""
    what, sentence = DAMAGE[kind]
    session, store = new_session(client), Store(place / "store")
    bad, good = (upload(client, session, recording(place, number))["id"] for number in (0, 1))
    for label in ("wheeze", "both") if annotated else ():
        client.post("/annotations", json={"recording": bad, "cycles": cycles_of(label)}).raise_for_status()
    beside = client.get(f"/recordings/{good}").json()
    if isinstance(what, str):
        for file in (what, "audio.wav"):
            (store.place(bad) / file).unlink()
    else:
        query = f"UPDATE {what[0]} SET cycles = ? WHERE recording = ?"
        newest = " AND revision = 2" if what[0] == "annotations" else ""
        assert store.change(query + newest, what[1], bad) == 1

    lines = {line["id"]: line for line in client.get(f"/sessions/{session}").json()["recordings"]}
    detail = client.get(f"/recordings/{bad}").json()
    shown = isinstance(what, str) or (annotated and what[0] != "annotations")
    if kind == "original cut" and annotated:  # a person's annotation stands in its place
        assert (detail["status"], [cycle["label"] for cycle in detail["cycles"]]) == ("ready", ["both"])
    else:
        assert (detail["status"], lines[bad]["status"]) == ("failed", "failed")
        assert sentence in detail["problem"] == lines[bad]["problem"]
        assert bool(detail["cycles"]) == shown
    assert client.get(f"/recordings/{good}").json() == beside
    assert lines[good]["status"] == "ready"

    history = client.get(f"/recordings/{bad}/revisions").json()
    if what[0] == "annotations":
        assert [one["revision"] for one in history] == [1, 0]
        assert client.post(f"/recordings/{bad}/revisions/1/restore").json()["revision"] == 3
        assert [cycle["label"] for cycle in client.get(f"/recordings/{bad}").json()["cycles"]] == ["wheeze"]
    for path in ("audio", "spectrogram", "export"):
        assert client.get(f"/recordings/{bad}/{path}").status_code in (200, 404, 409)
    whole = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export").content))
    assert f"{recording(place, 1).stem}.txt" in whole.namelist()
    text = whole.read("README.txt").decode()
    assert (f"{recording(place, 0).stem}.txt" in whole.namelist()) == (annotated or isinstance(what, str)), text
    assert client.delete(f"/recordings/{bad}").status_code == 204
    assert [line["id"] for line in client.get(f"/sessions/{session}").json()["recordings"]] == [good]


def test_an_answer_that_is_no_number_is_asked_for_again(place: Path, client: httpx.Client) -> None:
    """The labels that a recording began with came from it, and are made anew with it."""
    session, store = new_session(client), Store(place / "store")
    facts = upload(client, session, recording(place))
    store.change("UPDATE scores SET cycles = ? WHERE recording = ?", SCORED % "null", facts["id"])
    store.change("UPDATE originals SET cycles = ? WHERE recording = ?", json.dumps(cycles_of("normal")), facts["id"])
    assert client.get(f"/recordings/{facts['id']}").json()["cycles"] == []
    assert client.post(f"/recordings/{facts['id']}/predictions").status_code == 200
    again = client.get(f"/recordings/{facts['id']}").json()
    assert (again["cycles"], again["scores"]) == (facts["cycles"], facts["scores"])


def test_sound_that_is_damaged_or_missing_is_a_sentence(place: Path, client: httpx.Client) -> None:
    facts = upload(client, new_session(client), recording(place))
    folder = Store(place / "store").place(facts["id"])
    (folder / "page.wav").write_bytes(b"RIFF")
    answer = client.get(f"/recordings/{facts['id']}/spectrogram")
    assert (answer.status_code, answer.json()["detail"].startswith(facts["name"])) == (422, True), answer.text
    for file in ("page.wav", "audio.wav"):
        (folder / file).unlink()
    assert client.get(f"/recordings/{facts['id']}/spectrogram").status_code == 200  # it is decoded again
    for file in ("page.wav", "audio.wav", "upload"):
        (folder / file).unlink()
    for path in ("audio", "spectrogram"):
        answer = client.get(f"/recordings/{facts['id']}/{path}")
        assert (answer.status_code, answer.json()["detail"]) == (404, f"{facts['name']}: {NO_SOUND}")
    scored = client.post(f"/recordings/{facts['id']}/scores", json={"cycles": [{"start_s": 0, "end_s": 1}]})
    assert (scored.status_code, str(place) in scored.text) == (422, False)


def test_a_removal_that_leaves_the_sound_says_so(
    place: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = upload(client, new_session(client), recording(place))
    with monkeypatch.context() as patched:
        patched.setattr("rales.web.store.remove_tree", lambda folder: False)
        answer = client.delete(f"/recordings/{facts['id']}")
    assert (answer.status_code, "its sound is still in the service's folder" in answer.json()["detail"]) == (500, True)
    assert client.get(f"/recordings/{facts['id']}").status_code == 404


@pytest.mark.parametrize("based", [True, False])
def test_ten_people_at_one_recording_lose_nothing(place: Path, client: httpx.Client, based: bool) -> None:
    recorded = upload(client, new_session(client), recording(place))["id"]
    assert_none_lost(client, recorded, editors=10, saves=4, based=based)


# Events


WHEEZE = {"kind": "wheeze", "start_s": 0.45, "end_s": 0.85, "low_hz": 720.0, "high_hz": 960.0}
CRACKLE = {"kind": "fine crackle", "start_s": 1.38, "end_s": 1.38, "low_hz": None, "high_hz": None}
TURN = {"kind": "expiration", "start_s": 1.2, "end_s": 1.2, "low_hz": None, "high_hz": None}
EVENTS = [WHEEZE, TURN, CRACKLE]
ONE_CYCLE = [{"start_s": 0.25, "end_s": 2.0, "label": "both", "confirmed": True, "unusable": False, "note": ""}]


@pytest.fixture(scope="module")
def recorded(place: Path, client: httpx.Client) -> dict[str, Any]:
    return upload(client, new_session(client, "Events"), recording(place))


@pytest.fixture
def unread(place: Path, client: httpx.Client) -> dict[str, Any]:
    """A recording of which nobody has said anything, whatever tests ran before."""
    return upload(client, new_session(client, "Revisions"), recording(place))


def save_events(client: httpx.Client, recording: str, events: Any, **more: Any) -> httpx.Response:
    return client.post("/annotations", json={"recording": recording, "cycles": ONE_CYCLE, "events": events, **more})


def test_events_are_revisions_of_the_annotation(client: httpx.Client, unread: dict[str, Any]) -> None:
    recording = unread["id"]
    assert unread["events"] == []
    given = [
        CRACKLE,
        {**WHEEZE, "start_s": 0.45004, "low_hz": 720.04},
        {"kind": "expiration", "start_s": 1.2, "end_s": 1.2},
    ]
    assert save_events(client, recording, given, base=0).json()["revision"] == 1
    assert client.get(f"/recordings/{recording}").json()["events"] == EVENTS  # sorted, in milliseconds
    assert save_events(client, recording, EVENTS, base=0).json()["revision"] == 1  # sent again, as its answer was lost
    assert save_events(client, recording, [], base=0).status_code == 409
    assert save_events(client, recording, None).json()["revision"] == 2  # who knows of no events removes none
    assert client.get(f"/recordings/{recording}").json()["events"] == EVENTS
    assert save_events(client, recording, []).json()["revision"] == 3
    listed = client.get(f"/recordings/{recording}/revisions").json()
    assert [(one["revision"], one["events"]) for one in listed] == [(3, 0), (2, 3), (1, 3), (0, 0)]
    client.post(f"/recordings/{recording}/revisions/1/restore")
    assert client.get(f"/recordings/{recording}").json()["events"] == EVENTS


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({**WHEEZE, "end_s": 0.45}, "event 2: the wheeze at 0.45 s has no length; give its end"),
        ({**WHEEZE, "end_s": 0.2}, "event 2: the wheeze lasts from 0.45 s to 0.2 s"),
        ({**WHEEZE, "end_s": 99.0}, "lies past the end of the recording, which lasts 4.000 s"),
        ({**WHEEZE, "start_s": -1.0}, "expected 0 <= start <= end"),
        ({**WHEEZE, "high_hz": None}, "has one frequency, expected the lowest and the highest, or none"),
        ({**WHEEZE, "high_hz": 300.0}, "between 720 and 300 Hz, expected 0 <= lowest < highest <= 96000"),
        ({**WHEEZE, "high_hz": 1e300}, "between 720 and 1e+300 Hz"),
        ({**TURN, "end_s": 1.3}, "expiration begins at one moment"),
        ({**TURN, "low_hz": 1.0, "high_hz": 2.0}, "the beginning of expiration has no frequencies"),
        ({**CRACKLE, "start_s": 1.3804, "end_s": 1.3804}, "event 2: the fine crackle at 1.380 s, as event 1; keep one"),
        ({**WHEEZE, "kind": "snore"}, "events.1.kind"),
        ({**WHEEZE, "start_s": "0"}, "events.1.start_s"),
        ({"kind": "wheeze"}, "events.1.start_s"),
    ],
)
def test_wrong_events(client: httpx.Client, recorded: dict[str, Any], event: dict[str, Any], sentence: str) -> None:
    before = client.get(f"/recordings/{recorded['id']}").json()["revision"]
    answer = save_events(client, recorded["id"], [CRACKLE, event])
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    assert client.get(f"/recordings/{recorded['id']}").json()["revision"] == before


def test_hostile_events(client: httpx.Client, recorded: dict[str, Any]) -> None:
    many = [{**CRACKLE, "start_s": n / 2000, "end_s": n / 2000} for n in range(6000)]
    assert "6000 events, at most 5000" in save_events(client, recorded["id"], many).json()["detail"]
    body = json.dumps({"recording": recorded["id"], "cycles": ONE_CYCLE, "events": [WHEEZE]}).replace(
        "960.0", "Infinity"
    )
    head = {"content-type": "application/json"}
    answer = client.post("/annotations", content=body, headers=head)
    assert answer.status_code == 422
    at = f"/recordings/{recorded['id']}/events"
    for content, status in ((b"{", 422), (b"[]", 422), (b'{"name": 3, "text": []}', 422), (bytes(3 << 20), 413)):
        assert client.post(at, content=content, headers=head).status_code == status
    assert client.post(at, content=b"1 2 wheeze", headers={"content-type": "text/plain"}).status_code == 415
    for name in ("../../etc/passwd", "\0\x1b[31m\r\nForged: yes", "x" * 100_000):
        detail = client.post(at, json={"name": name, "text": "1 2 <script>"}).json()["detail"]
        assert detail.isprintable()
        assert "etc/" not in detail
        assert len(detail) < 600
    for path in ("/recordings/x/events", "/recordings/x/events/export", "/sessions/x/events/export"):
        asked = client.post(path, json={"name": "a", "text": ""}) if path.endswith("s") else client.get(path)
        assert (asked.status_code, "removed" in asked.json()["detail"]) == (404, True)
    assert client.get(f"{at}/export?format=exe").status_code == 422
    foreign = client.post(at, json={"name": "a", "text": ""}, headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert client.get(f"{at}/export", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get(f"{at}/export", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/health").status_code == 200


def test_events_that_come_along_are_the_first_state(place: Path, client: httpx.Client) -> None:
    session, path = new_session(client), recording(place)

    def send(name: str, content: bytes) -> httpx.Response:
        files = {"audio": (path.name, path.read_bytes()), "events": (name, content)}
        return client.post(f"/sessions/{session}/recordings", files=files)

    text = b"0.45\t0.85\twheeze\n\\\t720\t960\n1.2\t1.2\tExpiration\n1.38\t1.38\tfine crackle\n2\t3\tcough\n"
    facts = send("anna_events.txt", text).json()
    (note,) = facts["notes"]
    assert note.endswith(": left out what is no kind of event: cough")
    until(lambda: client.get(f"/recordings/{facts['id']}").json()["status"] == "ready")
    detail = client.get(f"/recordings/{facts['id']}").json()
    assert (detail["events"], detail["revision"]) == (EVENTS, 0)
    assert save_events(client, facts["id"], None, base=0).status_code == 201
    assert client.get(f"/recordings/{facts['id']}").json()["events"] == EVENTS
    save_events(client, facts["id"], [])
    assert client.get(f"/recordings/{facts['id']}").json()["events"] == []
    client.post(f"/recordings/{facts['id']}/revisions/0/restore")
    assert client.get(f"/recordings/{facts['id']}").json()["events"] == EVENTS
    before = len(client.get(f"/sessions/{session}").json()["recordings"])
    for content, status, sentence in (
        (b"3 2 wheeze\n", 422, f"events of {path.stem}, line 1: the wheeze lasts from 3 s to 2 s"),
        (b"\xff\xfe\xff", 422, f"events of {path.stem}: not a UTF-8 text file"),
        (b"0 99 wheeze\n", 422, "lies past the end of the recording"),
        (bytes(3 << 20), 413, "larger than 2048 KiB"),
    ):
        refused = send("e.txt", content)
        assert (refused.status_code, sentence in refused.json()["detail"]) == (status, True), refused.text
    assert len(client.get(f"/sessions/{session}").json()["recordings"]) == before


@pytest.mark.parametrize("form", list(FORMATS))
def test_events_out_and_in(client: httpx.Client, recorded: dict[str, Any], form: str) -> None:
    save_events(client, recorded["id"], EVENTS)
    at = f"/recordings/{recorded['id']}/events"
    answer = client.get(f"{at}/export", params={"format": form})
    assert f"{recorded['name']}{FORMATS[form]}" in answer.headers["content-disposition"]
    read = client.post(at, json={"name": "back", "text": answer.text}).json()
    if form == "icbhi":
        assert [(each["kind"], each["start_s"]) for each in read["events"]] == [("wheeze", 0.45), ("crackle", 1.38)]
    else:
        assert read == {"form": form, "events": EVENTS, "notes": []}
    assert (form == "sprsound") == ('"CAS & DAS"' in answer.text)  # of the cycles too


def test_the_events_of_a_session_as_one_zip(place: Path, client: httpx.Client) -> None:
    session = new_session(client)
    first, second = (upload(client, session, recording(place, number)) for number in (0, 1))
    nothing = client.get(f"/recordings/{first['id']}/events/export")
    assert (nothing.status_code, "no event is marked in it" in nothing.json()["detail"]) == (409, True)
    crackle = {**CRACKLE, "kind": "crackle"}
    save_events(client, first["id"], [*EVENTS, crackle])
    content = client.get(f"/sessions/{session}/events/export", params={"format": "raven"}).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert list(texts) == [f"{first['name']}_events.raven.txt", "README.txt"]
    assert "1 wheeze, 1 crackle, 1 fine crackle, 1 turns to expiration" in texts["README.txt"]
    assert "cycles are called otherwise" not in texts["README.txt"]
    assert f"{second['name']}: no event is marked in it" in texts["README.txt"]
    assert "not a diagnosis" in texts["README.txt"]
    assert len(parse_events(texts[f"{first['name']}_events.raven.txt"], "a").events) == 4
    normal = [{**ONE_CYCLE[0], "label": "normal"}]
    client.post("/annotations", json={"recording": first["id"], "cycles": normal})
    content = client.get(f"/sessions/{session}/events/export").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert "1 cycles are called otherwise than their events" in archive.read("README.txt").decode()
    refused = client.get(f"/recordings/{first['id']}/events/export?format=sprsound")
    assert (refused.status_code, "neither fine nor coarse" in refused.json()["detail"]) == (409, True)
