"""What the page makes of events is what the service takes, and which label they give a cycle: its functions in node."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.data.events import CRACKLES, EXPIRATION, KINDS, WHEEZES, Event, flags_of_events
from rales.labels import CLASSES
from rales.web import event_marks
from tests.scripted import Script, script

MOST = 6
CYCLES: list[dict[str, Any]] = [
    {"start_s": 0.5, "end_s": 2.0, "label": "normal"},
    {"start_s": 2.0, "end_s": 3.9, "label": "crackle"},
]
# {duration_s, cycles, edits} -> the events after each edit that is possible
EDITING = """({ duration_s, cycles, edits }) => {
  let now = [];
  const states = [];
  for (const { act, which, kind, edge, from, to, by } of edits) {
    const id = now[which % now.length]?.id;
    if (id === undefined && act !== "add") continue;
    const next = {
      add: () => page.add(now, kind, from, to, { cycles, duration_s, most: MOST }),
      move: () => page.move(now, id, by, 1000 * by, duration_s),
      resize: () => page.resize(now, id, edge, edge.endsWith("_s") ? to.seconds : to.hertz, duration_s),
      setKind: () => page.setKind(now, id, kind, duration_s),
      setBand: () => page.setBand(now, id, which % 2 ? { low_hz: 100, high_hz: 400.5 } : null),
      remove: () => page.remove(now, id),
    }[act]();
    if (next === null) continue;
    now = next;
    states.push(now.map(({ id, ...event }) => event));
  }
  return states;
}""".replace("MOST", str(MOST))
CALL = """({ name, args, classes }) => page[name](...args)"""


@pytest.fixture(scope="module")
def edited() -> Iterator[Script]:
    with script("events.js", EDITING) as working:
        yield working


@pytest.fixture(scope="module")
def events() -> Iterator[Script]:
    with script("events.js", CALL) as working:
        yield working


def ask(events: Script, name: str, *args: Any) -> Any:
    return events({"name": name, "args": args})


def event(kind: str, start_s: float, end_s: float | None = None, low_hz: Any = None, high_hz: Any = None) -> Any:
    end_s = start_s if end_s is None else end_s
    return {"id": kind, "kind": kind, "start_s": start_s, "end_s": end_s, "low_hz": low_hz, "high_hz": high_hz}


places = st.fixed_dictionaries({"seconds": st.floats(-0.5, 4.5), "hertz": st.floats(-50, 9000)})
edits = st.fixed_dictionaries(
    {
        "act": st.sampled_from(["add", "add", "add", "move", "resize", "resize", "setKind", "setBand", "remove"]),
        "which": st.integers(0, 20),
        "kind": st.sampled_from(KINDS),
        "edge": st.sampled_from(["start_s", "end_s", "low_hz", "high_hz"]),
        "from": places,
        "to": places,
        "by": st.floats(-5, 5),
    }
)


@settings(max_examples=150, deadline=None)
@given(duration_s=st.floats(0.3, 4.2), edits=st.lists(edits, max_size=14))
def test_no_edit_of_the_page_is_refused_by_the_service(edited: Script, duration_s: float, edits: Any) -> None:
    """What is shown is also what is kept, to the last digit and in the same order."""
    cycles = [cycle for cycle in CYCLES if cycle["end_s"] <= duration_s]
    for state in edited({"duration_s": duration_s, "cycles": cycles, "edits": edits}):
        assert event_marks.check_events(state, duration_s, MOST) == [
            {name: one[name] for name in Event._fields} for one in state
        ]


def test_boxes_end_with_their_cycle_and_points_are_where_they_were_made(events: Script) -> None:
    about = {"cycles": CYCLES, "duration_s": 4.0, "most": 3}
    near, far = {"seconds": 1.8, "hertz": 700.4}, {"seconds": 2.6, "hertz": 303.2}
    (box,) = ask(events, "add", [], "wheeze", near, far, about)
    assert (box["start_s"], box["end_s"], box["low_hz"], box["high_hz"]) == (1.8, 2.0, 303, 700)
    (point,) = ask(events, "add", [], "fine crackle", far, near, about)
    assert (point["start_s"], point["end_s"], point["low_hz"]) == (2.6, 2.6, None)
    assert ask(events, "add", [box] * 3, "crackle", near, far, about) is None
    assert ask(events, "add", [], "wheeze", near, {**far, "seconds": 1.805}, about) is None
    assert ask(events, "add", [], "wheeze", near, {**far, "hertz": 705}, about) is None
    assert ask(events, "add", [], "expiration", {"seconds": 3.95, "hertz": 0}, near, about) is None
    first = ask(events, "add", [], "expiration", near, near, about)
    again = ask(events, "add", first, "expiration", {"seconds": 0.7, "hertz": 0}, near, about)
    assert [each["start_s"] for each in again] == [0.7]  # a cycle turns once
    assert len(ask(events, "add", again, "expiration", far, near, about)) == 2
    assert (
        ask(events, "joined", [point], [{k: v for k, v in point.items() if k != "id"}, event("stridor", 1, 2)], 3)[0][
            "kind"
        ]
        == "stridor"
    )


@settings(max_examples=60, deadline=None)
@given(
    marked=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 40)), max_size=6, unique=True),
    label=st.sampled_from(CLASSES),
)
def test_the_label_of_a_cycle_is_that_of_its_events(events: Script, marked: Any, label: str) -> None:
    """As Python counts them."""
    rows = [event(kind, place / 10, place / 10 + 0.3 * (kind in WHEEZES)) for kind, place in marked]
    cycle = {**CYCLES[0], "label": label}
    known = [Event(*(row[name] for name in Event._fields)) for row in rows]
    flags = flags_of_events(known, 0.5, 2.0)
    expected = None if flags is None else CLASSES[flags[0] + 2 * flags[1]]
    assert ask(events, "labelOf", cycle, rows) == expected
    assert ask(events, "disagreement", cycle, rows) == (None if expected == label else expected)


def test_labels_follow_events_until_a_person_has_judged(events: Script) -> None:
    cycles = [
        {**CYCLES[0], "confirmed": False},
        {**CYCLES[1], "confirmed": True},
        {"start_s": 4.0, "end_s": 5.0, "label": "wheeze", "confirmed": False},
    ]
    after = [event("wheeze", 1.0, 1.4), event("coarse crackle", 1.5), event("wheeze", 2.5, 2.9), event(EXPIRATION, 4.5)]

    def labels(before: Any, after: Any) -> list[str]:
        return [cycle["label"] for cycle in ask(events, "following", cycles, before, after)]

    assert labels([], after) == ["both", "crackle", "wheeze"]  # the second is confirmed; a turn says nothing
    assert ask(events, "disagreement", cycles[1], after) == "wheeze"
    assert ask(events, "disagreement", {**cycles[1], "unusable": True}, after) is None
    assert labels(after, after) == ["normal", "crackle", "wheeze"]  # only a change of the events changes a label
    assert labels(after, []) == ["normal", "crackle", "wheeze"]  # none left: they say nothing
    cycles[0]["label"] = "both"  # as these events had said
    assert labels(after, []) == ["normal", "crackle", "wheeze"]  # so that goes with them
    cycles[0]["label"] = "wheeze"  # as somebody else had said
    assert labels(after, []) == ["wheeze", "crackle", "wheeze"]


def test_the_label_of_a_recording_is_what_somebody_said() -> None:
    """SPRSound's `record_annotation` counts what was confirmed and what an annotation said, and no model's word."""
    cycles = [
        {"start_s": 0.0, "end_s": 1.0, "label": "wheeze", "confirmed": False},  # a model's
        {"start_s": 1.0, "end_s": 2.0, "label": "crackle", "confirmed": True},
    ]
    row = {"cycles": cycles, "annotated": [], "events": [], "path": "a.wav"} | dict.fromkeys(
        ("duration_s", "rate_hz", "channels"), 1
    )
    assert event_marks.marked_of(row)[-2:] == (1, 0)
    assert event_marks.marked_of({**row, "annotated": cycles[:1]})[-2:] == (1, 1)
    cycles[1]["unusable"] = True
    assert event_marks.marked_of(row)[-2:] == (0, 0)


def test_the_line_of_a_reader_is_for_that_reader() -> None:
    """An answer that comes once somebody else reads is not about what is shown."""
    work = """({ asked, reads, round }) => {
      const id = "a";
      page.update({ reader: asked, round: 1, recordings: [{ id, revision: 0, changed: 1 }] });
      const who = page.whoReads();
      page.update({ reader: reads, round });
      page.updateLine({ id, revision: 1, changed: 2 }, who);
      return page.state.recordings[0].revision;
    }"""
    with script("state.js", work) as line:
        cases = [
            ("Anna", "Anna", 1),
            ("", "", 1),
            ("Anna", "Ben", 1),
            ("Anna", "Anna", 2),
            ("Anna", "", 1),
            ("", "A", 1),
        ]
        found = [line({"asked": asked, "reads": reads, "round": round_}) for asked, reads, round_ in cases]
    assert found == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("classes", "independent", "label", "kinds", "said"),
    [
        (["Normal", "Fine Crackle", "Wheeze"], False, "Normal", ["fine crackle"], "Fine Crackle"),
        (["Normal", "Fine Crackle", "Wheeze"], False, "Normal", ["coarse crackle"], None),
        (["normal", "abnormal"], False, "normal", ["stridor", "crackle"], "abnormal"),
        (["crackle", "speech", "wheeze"], True, "speech", ["rhonchus", "crackle"], "crackle+speech+wheeze"),
        (["crackle", "speech"], True, "crackle+speech", ["wheeze"], None),
        (["crackle", "speech", "abnormal"], True, "crackle+speech+abnormal", [], "speech"),
        (["normal", "abnormal"], False, "abnormal", [], "normal"),
    ],
)
def test_labels_of_own_classes(classes: list[str], independent: bool, label: str, kinds: list[str], said: str) -> None:
    heard = ["crackle" if kind in CRACKLES else "wheeze" for kind in kinds]
    work = "({ set, args }) => page.labelSet(set).ofSounds(...args)"
    with script("classes.js", work) as working:
        found = working({"set": {"classes": classes, "independent": independent}, "args": [label, kinds, heard]})
    assert found == said
