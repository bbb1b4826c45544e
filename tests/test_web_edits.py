"""What the page saves is saved once and under its recording, whatever is slow, away, closed or done elsewhere."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browsed import Open, answered, choose, fresh_session, labels, saved, times, visit
from tests.served import recording, until

FAILED = ("ERR_FAILED",)  # what the browser says of a request that a test has cut


class Held:
    """Requests that fit a pattern wait until they are let go."""

    def __init__(self, page: Page, pattern: Any, *, method: str = "GET") -> None:
        self.routes: list[Route] = []
        self.method, self.holds = method, True
        page.route(pattern, self.take)

    def take(self, route: Route) -> None:
        if self.holds and route.request.method == self.method:
            self.routes.append(route)
        else:
            route.continue_()

    def wait(self, page: Page, many: int = 1, again: str = "() => {}") -> None:
        """Until so many have come; `again` is what the page does each second until then."""
        for step in range(600):
            if len(self.routes) >= many:
                return
            if step % 20 == 0:
                page.evaluate(again)
            page.wait_for_timeout(50)
        raise AssertionError("it was not asked for")

    def release(self) -> None:
        self.holds = False
        for route in self.routes:
            route.continue_()


def begun(open_page: Open, place: Path, name: str, *numbers: int, **options: Any) -> Page:
    """-> the page with a fresh session of annotated recordings, of which one is open."""
    page = open_page(session=name, **options)
    paths = [recording(place, number) for number in numbers or (0,)]
    choose(page, *paths, *(path.with_suffix(".txt") for path in paths))
    expect(page.locator("#list li")).to_have_count(len(paths))
    expect(page.locator("#count")).not_to_contain_text("wait")
    return page


def opened(page: Page, name: str) -> None:
    page.locator("#list .entry", has_text=name).click()
    expect(page.locator("#name")).to_have_text(name)


def other(label: str) -> str:
    return "both" if label != "both" else "wheeze"


def relabel(page: Page, cycle: int) -> str:
    """Give a cycle another label; -> which."""
    label = other(labels(page)[cycle - 1])
    page.get_by_label(f"Label of cycle {cycle}").select_option(label)
    return label


def kept(client: httpx.Client, session: str, name: str | None = None) -> dict[str, Any]:
    """-> what the service has of the recording of a session."""
    ids = {each["name"]: each["id"] for each in client.get("/sessions").json()}
    lines = client.get(f"/sessions/{ids[session]}").json()["recordings"]
    (line,) = [line for line in lines if name in (None, line["name"])]
    return dict(client.get(f"/recordings/{line['id']}").json())


def kept_labels(client: httpx.Client, session: str) -> list[str]:
    return [cycle["label"] for cycle in kept(client, session)["cycles"]]


# Saving


def test_a_save_that_failed_is_sent_with_the_next_change(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = begun(open_page, place, "Failed", forgiven=FAILED)
    page.route("**/annotations", lambda route: route.abort())
    first = relabel(page, 1)
    expect(page.locator("#saved")).to_have_text("Not saved")
    expect(page.locator("#alert")).to_contain_text("Not saved: The service does not answer")
    page.unroute("**/annotations")
    second = relabel(page, 2)
    saved(page)
    assert kept_labels(client, "Failed")[:2] == [first, second]
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('rales-unsaved')).length") == 0
    page.locator("#alert button").click()
    page.route("**/recordings/*", lambda route: route.abort())
    page.locator("#reviewed").click()
    expect(page.locator("#alert")).to_contain_text("The service does not answer")
    expect(page.locator("#reviewed")).not_to_be_checked()


def test_a_save_that_failed_is_sent_when_another_recording_is_opened(
    place: Path, open_page: Open, client: httpx.Client
) -> None:
    page = begun(open_page, place, "Left", 0, 1, forgiven=FAILED)
    page.locator("#order").select_option("name")
    names = page.locator("#list .entry-name").all_inner_texts()
    opened(page, names[0])
    page.route("**/annotations", lambda route: route.abort())
    changed = relabel(page, 1)
    expect(page.locator("#saved")).to_have_text("Not saved")
    page.unroute("**/annotations")
    opened(page, names[1])
    until(lambda: kept(client, "Left", names[0])["cycles"][0]["label"] == changed)
    assert kept(client, "Left", names[1])["revision"] == 0


@pytest.mark.parametrize("fate", ["failed", "not begun", pytest.param("in flight", marks=pytest.mark.slow)])
def test_what_was_not_saved_when_the_page_closed_is_saved_at_the_next_opening(
    place: Path, open_page: Open, client: httpx.Client, fate: str
) -> None:
    """Nothing comes through as the page closes: the browser has kept it."""
    session = f"Closed {fate}"
    page = begun(open_page, place, session, forgiven=FAILED)
    cuts, flying = True, list[Route]()

    def cut(route: Route) -> None:
        if route.request.resource_type in ("ping", "beacon") or (cuts and fate == "failed"):
            route.abort()
        elif cuts:
            flying.append(route)
        else:
            route.continue_()

    page.route("**/annotations", cut)
    changed = relabel(page, 3)
    if fate == "failed":
        expect(page.locator("#saved")).to_have_text("Not saved")
    elif fate == "in flight":
        page.wait_for_timeout(600)
        assert flying
    assert kept(client, session)["revision"] == 0
    cuts = False
    page.reload()
    answered(page)
    assert labels(page)[2] == changed
    assert kept_labels(client, session)[2] == changed
    page.unroute("**/annotations")


def test_a_list_that_is_asked_for_meanwhile_loses_no_change(place: Path, open_page: Open, client: httpx.Client) -> None:
    """The open recording is shown anew once the model has answered: not over what was changed while that was asked."""
    page = begun(open_page, place, "Meanwhile")
    held = Held(page, re.compile(r"/recordings/\w+$"))
    held.wait(  # again, since an answer that was on its way before says that it is ready
        page,
        again="""async () => {
            const { state } = await import("/static/js/state.js");
            const { refresh } = await import("/static/js/listing.js");
            state.current.status = "waiting";
            window.shown = () => state.current.status === "ready";
            refresh();
        }""",
    )
    changed = relabel(page, 4)
    held.release()
    page.wait_for_function("() => window.shown()")
    assert labels(page)[3] == changed
    saved(page)
    assert kept_labels(client, "Meanwhile")[3] == changed
    page.get_by_role("button", name="Undo").click()
    assert labels(page)[3] != changed


def test_an_answer_that_was_lost_is_no_conflict(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = begun(open_page, place, "Unheard", forgiven=(*FAILED, "409"))

    def unheard(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/annotations", unheard)
    first = relabel(page, 1)
    expect(page.locator("#saved")).to_have_text("Not saved")
    assert kept(client, "Unheard")["revision"] == 1
    page.unroute("**/annotations")
    second = relabel(page, 2)
    saved(page)
    expect(page.locator("#conflict")).not_to_be_visible()
    assert (kept(client, "Unheard")["revision"], kept_labels(client, "Unheard")[:2]) == (2, [first, second])


# Two tabs, and going back


@pytest.mark.parametrize("choice", ["Take theirs", pytest.param("Keep mine", marks=pytest.mark.slow)])
def test_two_tabs_do_not_overwrite_each_other(place: Path, open_page: Open, client: httpx.Client, choice: str) -> None:
    mine = begun(open_page, place, choice, forgiven=("409",))
    theirs = visit(mine.context.new_page(), str(client.base_url))
    answered(theirs)
    before = labels(mine)
    changed = relabel(theirs, 1)
    saved(theirs)
    own = relabel(mine, 2)
    dialog = mine.get_by_role("dialog", name=re.compile("was changed elsewhere"))
    expect(dialog).to_contain_text("Theirs, revision 1: 4 cycles, 1 confirmed")
    expect(dialog).to_contain_text("Mine, not saved: 4 cycles, 1 confirmed")
    assert kept_labels(client, choice)[:2] == [changed, before[1]]
    mine.keyboard.press("Escape")
    expect(mine.locator("#saved")).to_have_text("Not saved")
    own = relabel(mine, 2)  # the next change asks again
    mine.get_by_role("button", name=choice).click()
    if choice == "Take theirs":
        expect(mine.get_by_label("Label of cycle 1")).to_have_value(changed)
        assert labels(mine)[1] == before[1]
        mine.get_by_role("button", name="Undo").click()
    saved(mine)
    assert labels(mine)[:2] == kept_labels(client, choice)[:2] == [before[0], own]
    assert kept(client, choice)["revision"] == 2


def test_back_to_an_earlier_revision(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = begun(open_page, place, "History")
    before = labels(page)
    relabel(page, 1)
    saved(page)
    relabel(page, 2)
    until(lambda: kept(client, "History")["revision"] == 2)
    after = labels(page)
    page.get_by_role("button", name="History").click()
    entries = page.locator("#revisions-list li")
    expect(entries).to_have_count(3)
    expect(entries.first).to_contain_text("Revision 2")
    expect(entries.first).to_contain_text("4 cycles, 2 confirmed")
    page.get_by_role("button", name="Restore: Before the first change").click()
    expect(page.locator("#revisions")).not_to_be_visible()
    expect(page.get_by_label("Label of cycle 1")).to_have_value(before[0])
    assert (labels(page), kept_labels(client, "History")) == (before, before)
    page.get_by_role("button", name="Undo").click()
    saved(page)
    assert labels(page) == kept_labels(client, "History") == after


def test_the_state_before_the_first_change_is_what_came(place: Path, open_page: Open, client: httpx.Client) -> None:
    """However often a boundary was moved, and scored, since."""
    page = begun(open_page, place, "First change")
    before = (times(page), labels(page))
    for number, start in enumerate(("1.3", "1.4", "1.2", "1.1"), start=1):
        page.get_by_label("Start of cycle 2 in seconds").fill(start)
        page.get_by_label("Start of cycle 2 in seconds").press("Enter")
        until(lambda number=number: kept(client, "First change")["revision"] == number)
        until(lambda: len(kept(client, "First change")["scores"]["first"]) > 4)
    page.get_by_role("button", name="History").click()
    expect(page.locator("#revisions-list li").last).to_contain_text("4 cycles, 0 confirmed")
    page.get_by_role("button", name="Restore: Before the first change").click()
    expect(page.get_by_label("Start of cycle 2 in seconds")).to_have_value("1.000")
    assert (times(page), labels(page)) == before
    assert [(one["start_s"], one["end_s"]) for one in kept(client, "First change")["cycles"]] == before[0]


# The list


def entry(page: Page, name: str) -> Any:
    return page.locator("#list .entry", has_text=name)


def test_the_list_its_filters_and_its_order_follow_edits(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = begun(open_page, place, "Followed", 0, 1)
    first = page.locator("#name").inner_text()
    second = next(name for name in page.locator("#list .entry-name").all_inner_texts() if name != first)
    for name in (first, second):
        opened(page, name)
        for cycle in range(1, 5):
            page.get_by_label(f"Label of cycle {cycle}").select_option("normal")
        saved(page)
        expect(entry(page, name)).to_contain_text("4 N")
        expect(entry(page, name)).not_to_contain_text("unsure")  # all are confirmed
    page.locator("#show").select_option("crackle")
    expect(page.locator("#list li")).to_have_count(0)
    page.get_by_label("Label of cycle 1").select_option("crackle")
    expect(page.locator("#list .entry-name")).to_have_text([second])
    expect(entry(page, second)).to_contain_text("3 N")
    expect(entry(page, second)).to_contain_text("1 C")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#list li")).to_have_count(0)
    page.locator("#show").select_option("all")

    page.get_by_label("Start of cycle 2 in seconds").fill("1.2")  # a moved cycle is scored, and keeps its label
    page.get_by_label("Start of cycle 2 in seconds").press("Enter")
    saved(page)
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Restore: Before the first change").click()
    expect(entry(page, second)).to_contain_text("unsure")  # nobody has confirmed what came along
    assert page.locator("#list .entry-name").first.inner_text() == second  # the most uncertain one is first
    lines = {line["name"]: line for line in page.evaluate(LIST)}
    assert lines == {line["name"]: line for line in session_lines(client, "Followed")}


LIST = """async () => (await import("/static/js/state.js")).state.recordings"""


def session_lines(client: httpx.Client, session: str) -> list[dict[str, Any]]:
    ids = {each["name"]: each["id"] for each in client.get("/sessions").json()}
    return list(client.get(f"/sessions/{ids[session]}").json()["recordings"])


def test_a_new_cycle_counts_for_the_list_once_it_is_scored(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = begun(open_page, place, "Doubt")
    (name,) = page.locator("#list .entry-name").all_inner_texts()
    page.get_by_label("Label of cycle 1").select_option("both")
    for cycle in (4, 3, 2):
        page.get_by_role("button", name=f"Select cycle {cycle}").click()
        page.get_by_role("button", name="Delete").click()
    saved(page)
    expect(entry(page, name)).not_to_contain_text("unsure")
    page.evaluate("async () => (await import('/static/js/player.js')).seek(2)")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#rows tr")).to_have_count(2)
    expect(entry(page, name)).to_contain_text("unsure")
    (line,) = session_lines(client, "Doubt")
    assert page.evaluate(LIST) == [line]


def test_a_list_that_was_asked_for_before_a_save_does_not_undo_it(place: Path, open_page: Open) -> None:
    page = begun(open_page, place, "Overtaken list")
    (name,) = page.locator("#list .entry-name").all_inner_texts()
    for cycle in range(1, 5):
        page.get_by_label(f"Label of cycle {cycle}").select_option("normal")
    saved(page)
    answers: list[Any] = []
    page.route("**/sessions/*/recordings?*", lambda route: answers.append((route, route.fetch())))
    page.evaluate(
        """async () => { window.asked = (await import("/static/js/listing.js")).refresh(); }""",
    )
    until_in_page(page, lambda: bool(answers))
    page.get_by_label("Label of cycle 1").select_option("wheeze")
    expect(entry(page, name)).to_contain_text("1 W")
    route, answer = answers[0]
    route.fulfill(response=answer)
    page.evaluate("window.asked")
    expect(entry(page, name)).to_contain_text("1 W")


def until_in_page(page: Page, happened: Any) -> None:
    for _ in range(600):
        if happened():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen in time")


def test_the_next_recording_is_the_next_of_the_list_that_was_left(place: Path, open_page: Open) -> None:
    """An edit moves the open recording to the end of the queue, not the person."""
    page = begun(open_page, place, "In order", 0, 1, 2)
    names = page.locator("#list .entry-name").all_inner_texts()
    opened(page, names[0])
    for cycle in range(1, 5):
        page.get_by_label(f"Label of cycle {cycle}").select_option("normal")
    expect(page.locator("#list .entry-name").last).to_have_text(names[0])
    page.locator("#main").focus()
    page.keyboard.press("n")
    expect(page.locator("#name")).to_have_text(names[1])


# Each under its recording


def test_uploads_stay_with_the_session_of_their_drop(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = open_page(session="Dropped here")
    held = Held(page, "**/sessions/*/recordings", method="POST")
    page.set_input_files("#files", [recording(place, number) for number in range(3)])
    held.wait(page, 2)
    fresh_session(page, "Left for there")
    held.release()
    expect(page.locator("#progress")).to_be_hidden()
    many = {each["name"]: each["recordings"] for each in client.get("/sessions").json()}
    assert (many["Dropped here"], many["Left for there"]) == (3, 0)
    expect(page.locator("#list li")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_probabilities_stay_with_the_recording_they_were_asked_for(
    place: Path, open_page: Open, client: httpx.Client
) -> None:
    page = begun(open_page, place, "Probabilities", 0, 1)
    first = page.locator("#name").inner_text()
    (second,) = [name for name in page.locator("#list .entry-name").all_inner_texts() if name != first]
    held = Held(page, "**/predictions?model=second", method="POST")
    page.locator("#compare").select_option("second")
    held.wait(page)
    opened(page, second)
    expect(page.locator("#rows .answer")).to_have_count(8)
    with page.expect_response("**/predictions?model=second"):
        held.release()
    page.wait_for_timeout(300)
    shown = page.evaluate("""async () => (await import("/static/js/state.js")).state.scores.second""")
    asked = kept(client, "Probabilities", second)["scores"]["second"]
    assert {each["start_s"]: each["p_both"] for each in shown.values()} == pytest.approx(
        {each["start_s"]: each["p_both"] for each in asked}
    )


def test_what_comes_late_of_a_recording_that_was_left_is_not_shown(place: Path, open_page: Open) -> None:
    page = begun(open_page, place, "Late", 0, 1, 2)
    page.get_by_role("button", name="Model", exact=True).click()  # the picture that the service makes
    nothing_late_is_shown(page, re.compile(r"/recordings/\w+/spectrogram$"))
    nothing_late_is_shown(page, re.compile(r"/recordings/\w+$"))


def nothing_late_is_shown(page: Page, pattern: re.Pattern[str]) -> None:
    """Of another recording what fits the pattern is asked for, and comes when a third one is open."""
    start = page.locator("#name").inner_text()
    late, wanted = [name for name in page.locator("#list .entry-name").all_inner_texts() if name != start]
    held = Held(page, pattern)
    page.locator("#list .entry", has_text=late).click()
    held.wait(page)
    held.holds = False
    opened(page, wanted)
    expect(page.locator("#rows .answer")).to_have_count(4)
    drawn = "() => { const { width, height } = picture; return picture.getContext('2d')" + (
        ".getImageData(0, 0, width, height).data.some((value, i) => i % 4 === 0 && value > 60); }"
    )
    page.wait_for_function(drawn)
    before = picture_at_rest(page)
    with page.expect_response(pattern):
        held.release()
    assert picture_at_rest(page) == before
    assert page.locator("#name").inner_text() == wanted


def picture_at_rest(page: Page) -> str:
    """-> the picture once it is the same three times in a row, however slow the machine."""
    seen = [str(page.evaluate("() => picture.toDataURL()"))]
    while len(seen) < 3 or len(set(seen[-3:])) > 1:
        page.wait_for_timeout(200)
        seen.append(page.evaluate("() => picture.toDataURL()"))
        assert len(seen) < 100, "the picture does not come to rest"
    return seen[-1]


# The review


def test_next_uncertain_goes_through_the_queue(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = begun(open_page, place, "Queue", 0, 1, 2)
    names = page.locator("#list .entry-name").all_inner_texts()
    opened(page, names[2])
    page.get_by_label("Reviewed", exact=True).check()  # is not led to
    expect(page.locator("#count")).to_contain_text("1 of 3 reviewed")
    opened(page, names[0])
    answered(page)
    expected = []
    for name in names[:2]:
        rows = kept(client, "Queue", name)["scores"]["first"]
        sure = [max(row[f"p_{label}"] for label in ("normal", "crackle", "wheeze", "both")) for row in rows]
        expected += [(name, 1 + cycle) for cycle in sorted(range(4), key=lambda i: sure[i])]
    found = []
    page.locator("#main").focus()
    for number, (name, cycle) in enumerate(expected):
        page.keyboard.press("u")
        expect(page.locator("#name")).to_have_text(name)
        expect(page.locator("#rows tr.selected select")).to_have_attribute("aria-label", f"Label of cycle {cycle}")
        found.append((name, cycle))
        if number in (0, 2):
            page.keyboard.press("c")  # confirmed or only looked at, the next one is the next
    page.keyboard.press("u")
    expect(page.locator("#said")).to_contain_text("No further uncertain cycle")
    assert found == expected
    page.keyboard.press("u")  # round again, without those that were confirmed
    expect(page.locator("#rows tr.selected select")).to_have_attribute("aria-label", f"Label of cycle {expected[4][1]}")
