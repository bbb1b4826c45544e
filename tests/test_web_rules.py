"""What the page makes of cycles is what the service takes: its functions in node against the rules of `marks`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, expect

from rales.data.reader import Cycle
from rales.labels import ICBHI
from rales.web import cycle_edits
from tests.browsed import Open, choose, saved, times
from tests.scripted import Script, script
from tests.served import new_session, recording, upload

LABELS = ("normal", "crackle", "wheeze", "both")
MOST = 8
# [{cycles, duration_s, edits}] -> the cycles after their arrival and after each edit that is possible
EDITING = """({ cycles, duration_s, edits }) => {
  let now = cycles.map(page.withId);
  const states = [now];
  for (const { kind, which, edge, seconds, to, label } of edits) {
    const id = now[which % now.length]?.id;
    const acts = {
      move: () => page.move(now, id, edge, seconds, duration_s),
      split: () => page.split(now, id, seconds, MOST),
      merge: () => page.merge(now, id),
      remove: () => page.remove(now, id),
      relabel: () => page.relabel(now, id, label),
      add: () => page.add(now, seconds, to, duration_s, MOST),
      unusable: () => page.setUnusable(now, id, label !== "normal"),
    };
    if (id === undefined && kind !== "add") continue;
    const next = acts[kind]();
    if (next === null) continue;
    now = next;
    states.push(now);
  }
  return states.map((state) => state.map(({ id, ...cycle }) => cycle));
}""".replace("MOST", str(MOST))


@pytest.fixture(scope="module")
def edited() -> Iterator[Script]:
    with script("cycles.js", EDITING) as working:
        yield working


@st.composite
def recordings_and_edits(draw: st.DrawFn) -> dict[str, Any]:
    """A recording of any length with cycles at any times, as a model finds them, and changes of every kind to them."""
    duration_s = draw(st.floats(0.3, 30))
    last_s = int(duration_s * 1000) / 1000
    cycles: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, MOST))):
        before = cycles[-1]["end_s"] if cycles else 0.0
        gap_s = draw(st.sampled_from([0, 0, 0.0004, 0.004, 0.3, -0.003, -0.02, -0.2, -4]))
        start_s = max(0.0, before + gap_s)
        end_s = min(start_s + draw(st.one_of(st.floats(0.0502, 0.2), st.floats(0.2, 4))), last_s)
        if end_s - start_s < 0.0502:
            break
        cycles.append({"start_s": start_s, "end_s": end_s, "label": draw(st.sampled_from(LABELS)), "confirmed": False})
    unlike = {cycle_edits.row_times(cycle): cycle for cycle in cycles}  # readers refuse the same stretch twice
    cycles = [unlike[times] for times in sorted(unlike)]
    edges = [0.0, duration_s, *(cycle[edge] for cycle in cycles for edge in ("start_s", "end_s"))]
    near = st.builds(lambda edge, by: edge + by, st.sampled_from(edges), st.floats(-0.06, 0.06))
    edit = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["move", "move", "move", "split", "merge", "remove", "relabel", "add", "unusable"]),
            "which": st.integers(0, 20),
            "edge": st.sampled_from(["start_s", "end_s"]),
            "seconds": st.one_of(near, st.floats(-1, duration_s + 1)),
            "to": st.one_of(near, st.floats(-1, duration_s + 1)),
            "label": st.sampled_from(LABELS),
        }
    )
    return {"cycles": cycles, "duration_s": duration_s, "edits": draw(st.lists(edit, max_size=12))}


@settings(max_examples=200, deadline=None)
@given(given=recordings_and_edits())
def test_no_edit_of_the_page_is_refused_by_the_service(edited: Script, given: dict[str, Any]) -> None:
    """What is shown is also what is kept, to the last digit and in the same order."""
    for state in edited(given):
        assert cycle_edits.check_cycles(state, given["duration_s"], MOST) == state


@settings(max_examples=200, deadline=None)
@given(
    duration_s=st.floats(0.06, 700),
    times_s=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1.0)), min_size=1, max_size=5),
)
def test_what_arrives_and_is_taken_can_be_saved_again(duration_s: float, times_s: list[tuple[float, float]]) -> None:
    """An annotation may end up to 0.05 s after the sound, and have more digits than are kept."""
    cycles = [Cycle(duration_s * min(pair), duration_s * max(pair) + 0.04, 1, 0) for pair in times_s]
    arrived = cycle_edits.original_of_annotation(sorted(cycles), duration_s, ICBHI)[0].cycles
    try:
        once = cycle_edits.check_cycles(arrived, duration_s, MOST)
    except ValueError:
        return  # refused when it comes, in words
    assert once == arrived
    assert all(cycle["end_s"] <= duration_s + 1e-9 for cycle in once)  # whole milliseconds, a duration is any float


NESTED = [
    {"start_s": 0.0, "end_s": 1.0, "label": "normal", "confirmed": False},
    {"start_s": 0.0, "end_s": 2.0, "label": "crackle", "confirmed": False},
    {"start_s": 1.0, "end_s": 2.0, "label": "wheeze", "confirmed": False},
]


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "split", "which": 1, "seconds": 1.0},  # both parts are there already
        {"kind": "move", "which": 1, "edge": "start_s", "seconds": 1.0},
        {"kind": "move", "which": 1, "edge": "end_s", "seconds": 1.0},
    ],
)
def test_no_edit_makes_a_cycle_twice(edited: Script, edit: dict[str, Any]) -> None:
    for state in edited({"cycles": NESTED, "duration_s": 3.0, "edits": [edit]}):
        assert cycle_edits.check_cycles(state, 3.0, MOST) == state


def test_unusable_cycles_merge_among_themselves_and_taking_it_back_judges_nothing(edited: Script) -> None:
    cycles: list[dict[str, Any]] = [
        {"start_s": 0.0, "end_s": 1.0, "label": "crackle", "confirmed": False},
        {"start_s": 1.0, "end_s": 2.0, "label": "wheeze", "confirmed": True},
    ]
    unusable = {"kind": "unusable", "which": 0, "label": "wheeze"}
    cycles[0]["note"], cycles[1]["note"] = "early", "late"
    merged = edited({"cycles": cycles, "duration_s": 3.0, "edits": [{"kind": "merge", "which": 0}]})[-1]
    assert [cycle["note"] for cycle in merged] == ["early; late"]
    taken_back = {"kind": "unusable", "which": 0, "label": "normal"}
    edits = [unusable, {"kind": "merge", "which": 0}, taken_back, {"kind": "relabel", "which": 0, "label": "crackle"}]
    *_, marked, back, judged = edited({"cycles": cycles, "duration_s": 3.0, "edits": edits})
    assert len(marked) == 2  # the merge was not possible
    assert (marked[0]["unusable"], marked[0]["confirmed"]) == (True, True)
    assert ("unusable" in back[0], back[0]["confirmed"], back[0]["label"]) == (False, False, "crackle")
    assert judged[0]["confirmed"]


# In the browser


def three_cycles(page: Page, place: Path, name: str) -> None:
    """A recording whose annotation has times that no millisecond is equal to."""
    (place / f"{name}.wav").write_bytes(recording(place).read_bytes())
    (place / f"{name}.txt").write_text("0.00012 1.30047 0 0\n1.30047 2.70031 1 0\n2.70031 3.99962 0 1\n")
    choose(page, place / f"{name}.wav", place / f"{name}.txt")


@pytest.mark.parametrize("how", ["typed", "dragged"])
def test_a_boundary_moved_past_its_neighbour_is_saved(place: Path, open_page: Open, how: str) -> None:
    page = open_page(session=f"Past {how}", forgiven=("422",))
    three_cycles(page, place, f"Past {how}")
    if how == "typed":
        page.get_by_label("End of cycle 2 in seconds").fill("50")
        page.get_by_label("End of cycle 2 in seconds").press("Enter")
    else:
        page.get_by_role("button", name="Select cycle 2").click()
        box = page.locator("#edges [data-edge=end_s]").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 600, box["y"] + 20, steps=8)
        page.mouse.up()
    expect(page.locator("#saved")).to_have_text(re.compile("^(Saved|Not saved)$"))
    assert page.locator("#saved").inner_text() == "Saved", page.locator("#alert").inner_text()
    assert times(page)[1:] == [(1.3, 3.95), (3.95, 4.0)]
    page.get_by_label("Label of cycle 1").select_option("both")  # nor is any later change refused
    saved(page)


def test_what_could_not_be_saved_again_is_refused_when_it_comes(place: Path, client: httpx.Client) -> None:
    path, session = recording(place), new_session(client)
    text = b"0 1 0 0\n1 1.01 0 0\n"
    files = {"audio": ("a.wav", path.read_bytes()), "annotation": ("a.txt", text)}
    answer = client.post(f"/sessions/{session}/recordings", files=files)
    assert answer.status_code == 422
    assert "annotation of a: cycle 2: lasts 0.010 s, expected 0.05 s or more" in answer.json()["detail"]
    files = {"audio": ("a.wav", path.read_bytes()), "annotation": ("a.txt", b"0 1 0 0\n1 4.03 1 0\n")}
    facts = client.post(f"/sessions/{session}/recordings", files=files).json()
    cycles = client.get(f"/recordings/{facts['id']}").json()["cycles"]
    assert cycles[1]["end_s"] == 4.0
    assert client.post("/annotations", json={"recording": facts["id"], "cycles": cycles}).status_code == 201
    assert upload(client, session, path)["status"] == "ready"
