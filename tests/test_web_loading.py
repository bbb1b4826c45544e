"""While a recording loads nothing else can be heard in its place, and nothing can be said of it."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browsed import Open, labels, plays, saved
from tests.test_web_edits import FAILED, Held, begun, kept

SLOW = 12_000  # bytes a second: the sound of a recording of 4 s takes 10 s
WATCHED = """() => {
  window.played = [];
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = function () {
    window.played.push(document.querySelector("#name").textContent);
    window.source = this.src;
    return play.call(this);
  };
}"""


def throttle(page: Page, bytes_per_s: int) -> None:
    devtools = page.context.new_cdp_session(page)
    speed = {"downloadThroughput": bytes_per_s, "uploadThroughput": bytes_per_s}
    devtools.send("Network.enable")
    devtools.send("Network.emulateNetworkConditions", {"offline": False, "latency": 0, **speed})


def two(open_page: Open, place: Path, name: str, **options: Any) -> tuple[Page, str, str]:
    """-> the page with two recordings, the names of the one that is open and of the other one."""
    page = begun(open_page, place, name, 0, 1, **options)
    page.evaluate(WATCHED)
    names = page.locator("#list .entry-name").all_inner_texts()
    open_one = page.locator("#name").inner_text()
    return page, open_one, next(each for each in names if each != open_one)


def everything_that_plays_or_labels(page: Page) -> None:
    """What a person may do who does not wait: the mouse, the keyboard, the picture."""
    for button in (
        "#play",
        "#split",
        "#merge",
        "#add",
        "#delete",
        "#undo",
        "#skip",
        "[aria-label='Play cycle 2']",
    ):
        for each in page.locator(button).all():
            each.dispatch_event("click")
    page.locator("#picture").dispatch_event("click")
    page.locator("#main").focus()
    for key in (" ", "Enter", "2", "c", "s", "m", "a", "Delete", "]", "Control+z"):
        page.keyboard.press(key)


@pytest.mark.slow
def test_the_one_before_cannot_be_heard_under_the_name_of_the_next(
    place: Path, open_page: Open, client: httpx.Client
) -> None:
    page, first, second = two(open_page, place, "Slow")
    before = {name: kept(client, "Slow", name)["cycles"] for name in (first, second)}
    throttle(page, SLOW)
    page.locator("#list .entry", has_text=second).click()
    expect(page.locator("#name")).to_have_text(second)
    everything_that_plays_or_labels(page)
    assert page.evaluate("window.played") == []
    expect(page.locator("#saved")).to_have_text("")
    assert page.locator("#loading").is_visible(), "the sound was there too soon for this test"
    assert page.locator("#loading").inner_text() == f"Loading {second} …"
    expect(page.locator("#play")).to_be_disabled()
    expect(page.get_by_label("Label of cycle 1")).to_be_disabled()
    assert page.locator("#edges .handle").count() == 0
    assert page.locator("#clock").inner_text() == "0:00.0 / 0:00.0"
    throttle(page, -1)
    expect(page.locator("#play")).to_be_enabled()
    expect(page.locator("#loading")).to_be_hidden()
    assert {name: kept(client, "Slow", name)["cycles"] for name in (first, second)} == before
    assert kept(client, "Slow", second)["revision"] == 0

    page.locator("#play").click()  # and then everything works
    plays(page)
    assert page.evaluate("window.played") == [second]
    page.get_by_label("Label of cycle 1").select_option("both")
    saved(page)
    assert kept(client, "Slow", second)["cycles"][0]["label"] == "both"


def test_nothing_goes_to_the_one_before_either(place: Path, open_page: Open, client: httpx.Client) -> None:
    """What is known of the next recording has not come yet: its name stands nowhere, the one before is out of use."""
    page, first, second = two(open_page, place, "Not yet")
    shown = labels(page)
    held = Held(page, re.compile(r"/recordings/\w+$"))
    page.locator("#list .entry", has_text=second).click()
    held.wait(page)
    everything_that_plays_or_labels(page)
    page.keyboard.press("r")
    assert page.evaluate("window.played") == []
    assert labels(page) == shown
    expect(page.locator("#name")).to_have_text(first)
    expect(page.locator("#loading")).to_have_text(f"Loading {second} …")
    for part in ("#play", "#remove", "#reviewed", "#history", "#export [value=csv]"):
        expect(page.locator(part)).to_be_disabled()
    held.release()
    expect(page.locator("#play")).to_be_enabled()
    expect(page.locator("#name")).to_have_text(second)
    assert [kept(client, "Not yet", name)["revision"] for name in (first, second)] == [0, 0]
    assert not kept(client, "Not yet", first)["reviewed"]


def test_of_two_openings_the_last_one_counts(place: Path, open_page: Open, client: httpx.Client) -> None:
    """The sound of the one in between comes last, and does not get into the player."""
    page, first, second = two(open_page, place, "Overtaken", bypass_csp=True)  # so that the sound can be looked at
    held = Held(page, "**/audio")
    page.locator("#list .entry", has_text=second).click()
    held.wait(page)
    held.holds = False
    page.locator("#list .entry", has_text=first).click()
    expect(page.locator("#play")).to_be_enabled()
    held.release()
    expect(page.locator("#name")).to_have_text(first)
    page.locator("#main").focus()
    page.keyboard.press(" ")
    plays(page)
    heard = page.evaluate("async () => [...new Uint8Array(await (await fetch(window.source)).arrayBuffer())]")
    assert bytes(heard) == client.get(f"/recordings/{kept(client, 'Overtaken', first)['id']}/audio").content


def test_a_sound_that_does_not_come_leaves_the_player_empty(place: Path, open_page: Open) -> None:
    page, _, second = two(open_page, place, "Failed", forgiven=(*FAILED, "404", "500"))
    detail = '{"detail": "the service cannot use its folder"}'
    status: int | None = None

    def fail(route: Route) -> None:
        route.abort() if status is None else route.fulfill(status=status, body=detail)

    page.route("**/audio", fail)
    for status in (404, 500, None):
        with page.expect_request("**/audio"):
            page.locator("#list .entry", has_text=second).click()
        why = "does not answer" if status is None else "cannot use its folder"
        expect(page.locator("#alert")).to_contain_text(why if status is None else re.compile("folder|500|404"))
        everything_that_plays_or_labels(page)
        assert page.evaluate("window.played") == []
        lost = f"{second} could not be loaded; open it again to try once more."
        expect(page.locator("#loading")).to_contain_text(lost)
        expect(page.locator("#loading")).to_contain_text(why)
        expect(page.locator("#play")).to_be_disabled()
    page.unroute("**/audio")
    page.locator("#list .entry", has_text=second).click()
    expect(page.locator("#play")).to_be_enabled()
    expect(page.locator("#loading")).to_be_hidden()


def test_a_recording_that_is_gone_leaves_nothing_open(place: Path, open_page: Open, client: httpx.Client) -> None:
    page, first, second = two(open_page, place, "Gone", forgiven=("404",))
    client.delete(f"/recordings/{kept(client, 'Gone', second)['id']}")
    page.locator("#list .entry", has_text=second).click()
    expect(page.locator("#alert")).to_contain_text(f"{second} could not be loaded")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#play")).to_be_disabled()
    for key in (" ", "Enter", "2", "c", "s", "m", "a", "Delete", "]", "Control+z"):
        page.keyboard.press(key)
    assert page.evaluate("window.played") == []
    page.locator("#list .entry", has_text=first).click()
    expect(page.locator("#play")).to_be_enabled()


def test_the_next_key_goes_on_from_what_is_loading(place: Path, open_page: Open) -> None:
    page = begun(open_page, place, "Quickly", 0, 1, 2)
    page.locator("#order").select_option("name")
    names = page.locator("#list .entry-name").all_inner_texts()
    page.locator("#list .entry").first.click()
    expect(page.locator("#play")).to_be_enabled()
    held = Held(page, "**/audio")
    page.locator("#play").focus()  # which goes out of use
    page.keyboard.press("n")
    page.keyboard.press("n")
    held.wait(page)
    held.release()
    expect(page.locator("#name")).to_have_text(names[2])
    expect(page.locator("#play")).to_be_enabled()


# Gain


def test_gain_is_of_one_recording(place: Path, open_page: Open) -> None:
    page, _, second = two(open_page, place, "Gain")
    page.locator("#gain").fill("30")
    page.locator("#list .entry", has_text=second).click()
    expect(page.locator("#play")).to_be_enabled()
    expect(page.locator("#gain")).to_have_value("0")
    expect(page.locator("#gain")).to_have_attribute("aria-valuetext", "0 decibels")


LIFTED = """async ([decibels, amplitude, kind]) => {
  const { lift } = await import("/static/js/listening.js");
  const rate = 16000;
  const context = new OfflineAudioContext(1, 3 * rate, rate);
  const sound = context.createBuffer(1, 3 * rate, rate);
  let seed = 1;
  const noise = () => ((seed = (seed * 16807) % 2147483647) / 1073741823.5) - 1;
  sound.copyToChannel(Float32Array.from({ length: 3 * rate }, (_, i) =>
    amplitude * (kind === "noise" ? noise() : Math.sin((2 * Math.PI * 400 * i) / rate))), 0);
  const source = new AudioBufferSourceNode(context, { buffer: sound });
  lift(context, source, decibels).connect(context.destination);
  source.start();
  const heard = (await context.startRendering()).getChannelData(0).slice(rate);
  const peak = heard.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const over = heard.filter((x) => Math.abs(x) > 1).length / heard.length;
  return { peak, over, level: Math.sqrt(heard.reduce((sum, x) => sum + x * x, 0) / heard.length) };
}"""


def test_gain_lifts_what_is_quiet_and_holds_what_is_loud(open_page: Open) -> None:
    page = open_page()
    plain = page.evaluate(LIFTED, [0, 1.0, "sine"])
    assert plain["peak"] == pytest.approx(1, abs=1e-3)  # as it is in the file
    quiet = page.evaluate(LIFTED, [30, 0.001, "sine"])
    assert quiet["level"] == pytest.approx(0.001 * 10**1.5 / 2**0.5, rel=0.06)  # half a decibel
    for decibels in (3, 12, 30):
        for kind, amplitude in (("sine", 1.0), ("noise", 0.173), ("noise", 1.0)):  # noise of -20 dBFS, and full scale
            loud = page.evaluate(LIFTED, [decibels, amplitude, kind])
            assert loud["peak"] <= 1, (decibels, kind, amplitude, loud)
