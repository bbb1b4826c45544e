"""Readers of one session, without a model: what each sees before deciding, how far they agree, what they settle on."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from rales.jobs.agreement import MatchedCycle, compare_readers
from rales.labels import CLASSES, ICBHI
from rales.web import readers
from rales.web import store as page
from rales.web.cycle_edits import OriginalCycles
from rales.web.security import ApiError
from rales.web.service import Service
from rales.web.store import NOBODY, RevisionConflict, Store, Who
from tests.attack.store_kills import FACTS, added

ANNA, BEN = Who("Anna"), Who("Ben")
SPANS = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]


def marked(labels: Sequence[str], shift_s: float = 0.0) -> list[dict[str, Any]]:
    """Labels -> cycles of them; "" is not decided, "x" is unusable."""
    return [
        {
            "start_s": start_s + shift_s * bool(start_s),
            "end_s": end_s,
            "label": label if label in CLASSES else "normal",
            "confirmed": bool(label),
            "unusable": label == "x",
        }
        for (start_s, end_s), label in zip(SPANS, labels, strict=True)
    ]


class Served:
    """What `readers` asks of a service, with a store and without a model."""

    def __init__(self, folder: Path) -> None:
        self.store, self.label_set = Store(folder), ICBHI
        self.session = self.store.new_session("Ward")

    def add(self, folder: Path, name: str) -> str:
        folder.mkdir()
        original = OriginalCycles("segment", marked([""] * 4))
        return self.store.new_recording(self.session, name, FACTS, folder, original)

    def known(self, recording: str, who: Who = NOBODY) -> dict[str, Any]:
        row = self.store.recording(recording, "m")
        assert row is not None
        standing = {**row, "cycles": row["saved"] if row["saved"] is not None else row["original"], "source": "segment"}
        own = self.store.recording(recording, "m", who)
        return standing if not who.reader or own is None else readers.as_reader(standing, own, self.label_set)

    def annotate(self, recording: str, cycles: list[dict[str, Any]], base: int) -> dict[str, Any]:
        return self.store.annotate(recording, cycles, base)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(page, "PRAGMAS", [each.replace("= FULL", "= OFF") for each in page.PRAGMAS])
    return Served(tmp_path / "store")


@pytest.fixture
def read(served: Any, tmp_path: Path) -> tuple[Any, list[str]]:
    """Two recordings of two patients that Anna and Ben have read; they differ twice, and once over what is usable."""
    ids = [served.add(tmp_path / f"s{n}", f"10{n}_1b1_Al_sc_Meditron.wav") for n in (1, 2)]
    for recording, one, other in (
        (ids[0], ["normal", "crackle", "wheeze", "normal"], ["normal", "crackle", "both", "normal"]),
        (ids[1], ["crackle", "normal", "x", "wheeze"], ["normal", "normal", "normal", ""]),
    ):
        served.store.annotate(recording, marked(one), 0, who=ANNA)
        served.store.annotate(recording, marked(other, shift_s=0.1), 0, who=BEN)
    return served, ids


def test_a_reader_begins_without_labels(served: Any, tmp_path: Path) -> None:
    recording = served.add(tmp_path / "s", "101_1b1_Al_sc_Meditron.wav")
    served.store.annotate(recording, marked(["wheeze", "both", "crackle", "wheeze"]), 0)
    row = served.known(recording, ANNA)
    assert [(c["start_s"], c["label"], c["confirmed"]) for c in row["cycles"]] == [
        (start, "normal", False) for start, _ in SPANS
    ]
    assert (row["revision"], row["reviewed"], row["events"]) == (0, False, [])


def test_annotations_of_readers_keep_out_of_each_others_way(served: Any, tmp_path: Path) -> None:
    recording = served.add(tmp_path / "s", "a.wav")
    for who, label in ((ANNA, "crackle"), (BEN, "wheeze"), (Who("Anna", 2), "both"), (NOBODY, "normal")):
        saved = served.store.annotate(recording, marked([label] * 4), 0, who=who)
        assert saved["revision"] == 1
    with pytest.raises(RevisionConflict):
        served.store.annotate(recording, marked(["normal"] * 4), 0, who=ANNA)
    for who, label in ((ANNA, "crackle"), (BEN, "wheeze"), (Who("Anna", 2), "both"), (NOBODY, "normal")):
        assert served.known(recording, who)["cycles"][0]["label"] == label
        assert [each["revision"] for each in served.store.revisions(recording, who)] == [1]
    served.store.remove_recording(recording)
    assert served.store.rows("SELECT * FROM annotations") == []


def test_others_are_hidden_until_a_reader_has_decided(read: tuple[Any, list[str]]) -> None:
    served, (first, second) = read
    served.store.annotate(first, marked(["", "normal", "", ""]), 0, who=Who("Cleo"))
    (anna, ben) = readers.others_of(served, served.known(first), Who("Cleo"))
    assert [(anna["reader"], [c["label"] for c in anna["cycles"]])] == [("Anna", ["crackle"])]
    assert [c["label"] for c in ben["cycles"]] == ["crackle"]
    nothing = readers.others_of(served, served.known(second), Who("Cleo"))
    assert [each["cycles"] for each in nothing] == [[], []]
    everything = readers.others_of(served, served.known(first), NOBODY)
    assert [len(each["cycles"]) for each in everything] == [4, 4, 1]
    assert readers.others_of(served, served.known(first), Who("Cleo", 2)) == []  # nobody has read in that round


def test_the_line_of_a_blind_reader_says_nothing_of_the_model() -> None:
    facts = {"answers": {"abnormal": 0.9}, "findings": {"normal": 4}, "uncertainty": 0.4, "confirmed": 1, "cycles": 4}
    row = {"cycles": marked(["crackle", "", "", ""])}
    blind = readers.blind_facts(facts, row, ICBHI)
    assert (blind["answers"], blind["uncertainty"]) == (None, 1.0)
    assert blind["findings"] == {"normal": 0, "crackle": 1, "wheeze": 0, "both": 0}
    done = readers.blind_facts({**facts, "confirmed": 4}, row, ICBHI)
    assert done["uncertainty"] is None


def test_kappa_of_the_page_is_that_of_scikit_learn(read: tuple[Any, list[str]]) -> None:
    served, (_, second) = read
    found = readers.compare_round(served, served.session, NOBODY)
    # of the second recording one cycle is unusable to Anna, and one was not decided by Ben
    one = ["normal", "crackle", "wheeze", "normal", "crackle", "normal"]
    other = ["normal", "crackle", "both", "normal", "normal", "normal"]
    assert found["pairs"][0]["kappa"]["value"] == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert (found["readers"], found["patients"]) == (["Anna", "Ben"], 2)
    said = [(row["title"], row["labels"]) for row in found["differences"]]
    assert said == [
        ("101_1b1_Al_sc_Meditron", {"Anna": "wheeze", "Ben": "both"}),
        ("102_1b1_Al_sc_Meditron", {"Anna": "crackle", "Ben": "normal"}),
        ("102_1b1_Al_sc_Meditron", {"Anna": "(unusable)", "Ben": "normal"}),
    ]
    served.store.annotate(second, marked(["crackle", "", "", ""]), 0, who=Who("Cleo"))
    seen = readers.compare_round(served, served.session, Who("Cleo"))["differences"]
    assert [row["labels"] for row in seen] == [{"Anna": "crackle", "Ben": "normal", "Cleo": "crackle"}]
    empty = readers.compare_round(served, served.session, Who("", 2))
    assert (empty["cycles"], empty["alpha"], empty["differences"]) == (0, None, [])


def test_progress(read: tuple[Any, list[str]]) -> None:
    served, _ = read
    said = [
        (row["reader"], row["recordings"], row["confirmed"], row["cycles"])
        for row in readers.list_progress(served, served.session)
    ]
    assert said == [("Anna", 2, 8, 8), ("Ben", 2, 7, 8)]


def test_what_all_agree_on_stands_and_the_rest_is_left(read: tuple[Any, list[str]]) -> None:
    served, (first, second) = read
    served.store.annotate(first, marked(["both", "", "", ""]), 0)  # a person had judged the first before
    assert readers.settle_round(served, served.session, 1) == {"recordings": 2, "settled": 3, "differ": 3}
    standing = served.known(first)["cycles"]
    assert [(c["label"], c["confirmed"]) for c in standing] == [
        ("both", True),
        ("crackle", True),
        ("normal", False),
        ("normal", True),
    ]
    assert [c["confirmed"] for c in served.known(second)["cycles"]] == [False, True, False, False]
    assert readers.settle_round(served, served.session, 1)["settled"] == 0


def test_a_settled_cycle_that_was_not_there_is_added() -> None:
    cycle = MatchedCycle("r", "p", 1.0, 2.0, {"Anna": "wheeze", "Ben": "wheeze"})
    cycles, settled, _ = readers.settle_cycles(marked([""] * 4)[2:], [cycle], [], ICBHI)
    assert (settled, cycles[-1]["label"], cycles[-1]["start_s"]) == (1, "wheeze", 1.0)
    unusable = MatchedCycle("r", "p", 2.0, 3.0, {"Anna": "(unusable)", "Ben": "(unusable)"})
    cycles, _, _ = readers.settle_cycles(marked([""] * 4), [unusable], [], ICBHI)
    assert (cycles[2]["unusable"], cycles[2]["label"]) == (True, "normal")


@pytest.mark.parametrize(
    ("own", "differ"),
    [
        ([(0.0, 0.6, "crackle"), (0.6, 1.0, "normal")], 2),  # two breaths of one that stands
        ([(0.0, 0.6, "crackle"), (0.6, 1.0, "")], 1),  # of which the second is not decided yet
        ([(1.0, 3.0, "crackle")], 1),  # one breath of two
    ],
)
def test_a_breath_that_readers_cut_otherwise_is_left(served: Any, tmp_path: Path, own: Any, differ: int) -> None:
    recording = served.add(tmp_path / "s", "a.wav")
    before = served.known(recording)["cycles"]
    cycles = [
        {"start_s": start_s, "end_s": end_s, "label": label or "normal", "confirmed": bool(label)}
        for start_s, end_s, label in own
    ]
    for who in (ANNA, BEN):
        served.store.annotate(recording, cycles, 0, who=who)
    counts = readers.settle_round(served, served.session, 1)
    assert counts == {"recordings": 0, "settled": 0, "differ": differ}
    assert served.known(recording)["cycles"] == before


def test_whose_annotation_is_damaged(served: Any, tmp_path: Path) -> None:
    """A reader's own is said to be damaged, with no cycles that could be taken for it; another's is not."""
    recording = served.add(tmp_path / "s", "a.wav")
    for who in (NOBODY, ANNA, BEN):
        served.store.annotate(recording, marked(["wheeze"] * 4), 0, who=who)
    damage = "UPDATE annotations SET cycles = '{' WHERE reader = ?"
    served.store.change(damage, "Anna")
    anna = served.known(recording, ANNA)
    assert (anna["cycles"], anna["status"], anna["reviewed"]) == ([], "failed", False)
    assert "revision 1 of its annotation cannot be read" in anna["problem"]
    served.store.change(damage, "")
    ben = served.known(recording, BEN)
    assert (ben["unreadable"], ben["status"], len(ben["cycles"])) == ("", "waiting", 4)


def test_the_table_of_readers_is_one_to_compare(read: tuple[Any, list[str]], tmp_path: Path) -> None:
    served, (first, _) = read
    served.store.annotate(first, marked(["normal", "crackle", "both", ""]), 0, who=Who("Anna", 2))
    table = readers.readers_table(served, served.session)
    assert table["reader"].value_counts().to_dict() == {"Anna": 7, "Ben": 7, "Anna (round 2)": 3}
    table.to_csv(tmp_path / "readers.csv", index=False)
    found = compare_readers([str(tmp_path / "readers.csv")], resamples=10)
    on_page = readers.compare_round(served, served.session, NOBODY)["pairs"][0]["kappa"]["value"]
    assert next(p for p in found["pairs"] if p["readers"] == ["Anna", "Ben"])["kappa"]["value"] == pytest.approx(
        on_page
    )


@pytest.mark.parametrize(
    ("reader", "round_", "sentence"),
    [("x" * 61, 1, "61 letters, expected 1 to 60"), ("\0\n", 1, "0 letters"), ("Anna", 0, "round 0, expected 1 to 99")],
)
def test_names_that_are_none(reader: str, round_: int, sentence: str) -> None:
    with pytest.raises(ApiError) as refused:
        readers.name_reader(reader, round_)
    assert (refused.value.status, sentence in refused.value.sentence) == (422, True)


def test_names_are_one_line() -> None:
    assert readers.name_reader("  Anna\u202e\n B ", 3) == Who("Anna B", 3)
    assert readers.name_reader("", 7) == NOBODY


def test_so_many_readers_of_a_recording(read: tuple[Any, list[str]]) -> None:
    served, (first, _) = read
    row = served.known(first)
    readers.check_room(served.store, row, ANNA, 2)
    with pytest.raises(ApiError, match="2 annotations of readers"):
        readers.check_room(served.store, row, Who("Anna", 2), 2)


def test_restoring_takes_room_too(read: tuple[Any, list[str]]) -> None:
    served, (first, _) = read
    served.limits = SimpleNamespace(readers=2)
    served.revisions = lambda recording, who: [{"revision": 0, "cycles": marked([""] * 4), "events": []}]
    assert Service.restore(served, first, 0, ANNA)["revision"] == 2
    with pytest.raises(ApiError, match="2 annotations of readers"):
        Service.restore(served, first, 0, Who("Cleo"))


def test_a_folder_without_readers_keeps_its_annotations(tmp_path: Path) -> None:
    """The layout before: annotations with events, whose key knew no reader."""
    store = Store(tmp_path)
    recording = added(store, store.new_session("Ward"), "anna")
    events = [{"kind": "wheeze", "start_s": 0.5, "end_s": 0.9, "low_hz": 300.0, "high_hz": 420.5}]
    store.annotate(recording, marked(["both"] * 4), 0, events)
    db = sqlite3.connect(tmp_path / "sessions.sqlite")
    columns = "recording, revision, saved, cycles, events"
    db.executescript(
        "CREATE TABLE a2 (recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE, "
        "revision INTEGER NOT NULL, saved REAL NOT NULL, cycles TEXT NOT NULL, events TEXT NOT NULL DEFAULT '[]', "
        "PRIMARY KEY (recording, revision));"
        f"INSERT INTO a2 SELECT {columns} FROM annotations; DROP TABLE annotations;"
        "ALTER TABLE a2 RENAME TO annotations; ALTER TABLE recordings DROP COLUMN linked; PRAGMA user_version = 3;"
    )
    db.close()
    again = Store(tmp_path)
    (row,) = again.rows("SELECT reader, round, revision, cycles, events FROM annotations")
    assert json.loads(row["events"]) == events
    assert (row["reader"], row["round"], row["revision"]) == ("", 1, 1)
    assert [cycle["label"] for cycle in json.loads(row["cycles"])] == ["both"] * 4
    again.annotate(recording, marked(["normal"] * 4), 0, who=ANNA)
