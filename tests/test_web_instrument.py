"""The page as an instrument: what is drawn is where it should be, pointing and keys do what they say."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image
from playwright.sync_api import Page, expect

from rales.web import example
from tests.browsed import Open, answered, choose, drop, labels, leave_dialog, plays, saved, times
from tests.served import recording

RATE_HZ = 8000


def pixels(page: Page) -> Any:
    """-> the green of the picture, which grows with the level in magma, (height, width)."""
    _, _, content = page.evaluate("() => picture.toDataURL()").partition(",")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))[..., 1].astype(int)


def drawn(page: Page) -> Any:
    """-> the same once every tile is there: two looks are alike, and are not dark."""
    page.wait_for_function(
        """() => new Promise((resolve) => { const before = picture.toDataURL();
           setTimeout(() => resolve(before.length > 10_000 && before === picture.toDataURL()), 500); })"""
    )
    return pixels(page)


def sounds(place: Path) -> Path:
    """-> 4 s with a tone of 400 Hz from 1 to 2 s and a click at 3 s."""
    t = np.arange(4 * RATE_HZ) / RATE_HZ
    sound = 0.1 * np.sin(2 * np.pi * 400 * t) * ((t >= 1) & (t < 2))
    sound[3 * RATE_HZ] = 0.9
    path = place / "tone.wav"
    soundfile.write(path, sound, RATE_HZ, subtype="PCM_16")
    path.with_suffix(".txt").write_text("0.5\t1.5\t0\t0\n1.5\t2.5\t1\t0\n")
    return path


def test_axes_zoom_pull_and_new_cycles(place: Path, open_page: Open) -> None:
    """A tone and a click lie where they are, to a pixel; the wheel zooms at the pointer, a drag pulls, Shift marks."""
    page = open_page(session="Axes", color_scheme="dark")
    path = sounds(place)
    drop(page, path, path.with_suffix(".txt"))
    image = drawn(page)
    height, width = image.shape
    tone = image[:, int(width * 1.5 / 4)]
    middle = np.flatnonzero(tone == tone.max()).mean() + 0.5
    assert height - middle == pytest.approx(height * 400 / 1600, abs=height * 4 / 1600)  # half a bin
    bright = np.flatnonzero(image[int(middle)] > tone.max() / 2) / width * 4
    assert (bright.min(), bright.max()) == pytest.approx((1, 2), abs=0.02)

    page.get_by_role("button", name="Crackle", exact=True).click()
    click = drawn(page)[height // 3, int(width * 0.6) :]
    middle = np.flatnonzero(click > click.max() * 0.8).mean() + 0.5 + int(width * 0.6)
    assert middle / width * 4 == pytest.approx(3, abs=4 / width)

    box = page.locator("#picture").bounding_box()
    assert box is not None
    place_x = box["x"] + box["width"] * 0.75  # second 3
    page.mouse.move(place_x, box["y"] + 100)
    assert page.locator("#place").inner_text().startswith("3.00")
    page.mouse.wheel(0, -400)
    shown = view(page)
    assert shown[1] - shown[0] < 3
    assert shown[0] + 0.75 * (shown[1] - shown[0]) == pytest.approx(3, abs=0.01)
    page.mouse.wheel(0, -100_000)
    closest = view(page)
    assert box["width"] / (closest[1] - closest[0]) == pytest.approx(3000, rel=0.01)
    page.mouse.down()
    page.mouse.move(place_x - 300, box["y"] + 100, steps=3)
    page.mouse.up()
    assert view(page)[0] == pytest.approx(closest[0] + 0.1, abs=0.005)

    page.mouse.wheel(0, 100_000)
    assert view(page) == pytest.approx((0, 4))
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 100, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert times(page)[2] == pytest.approx((2.8, 3.6), abs=0.01)
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 100)  # a click chooses what is there, and goes there
    expect(page.locator("#cycle-title")).to_have_text("Cycle 2 of 3")
    expect(page.locator("#clock")).to_contain_text("0:02.0")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#rows tr")).to_have_count(2)
    expect(page.locator("#file .block")).to_have_text(["Normal", "Crackle"])
    saved(page)


def view(page: Page) -> tuple[float, float]:
    shown = page.evaluate("async () => (await import('/static/js/state.js')).state.view")
    return shown["start_s"], shown["end_s"]


def test_a_drag_ends_with_its_recording(place: Path, open_page: Open, client: httpx.Client) -> None:
    page = open_page(session="Drag")
    choose(page, sounds(place), sounds(place).with_suffix(".txt"))
    choose(page, recording(place))
    expect(page.locator("#list .entry")).to_have_count(2)
    page.locator("#list .entry", has_text="tone").click()
    expect(page.locator("#name")).to_have_text("tone")
    expect(page.locator("#rows .answer")).to_have_count(2)
    box = page.locator("#picture").bounding_box()
    assert box is not None
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 20)
    page.keyboard.up("Shift")
    other = page.locator("#list .entry", has_text=recording(place).stem)
    other.evaluate("(button) => button.click()")  # as a key would; the button of the mouse is still down
    expect(page.locator("#name")).to_have_text(recording(place).stem)
    answered(page)
    before = labels(page), times(page)
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 20)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert (labels(page), times(page)) == before


def test_events_are_marked_changed_saved_and_read_back(place: Path, open_page: Open, client: httpx.Client) -> None:
    """A box lies on the tone that it was drawn around; labels follow events until a person has judged."""
    page = open_page(session="Events")
    path = sounds(place)
    drop(page, path, path.with_suffix(".txt"))
    box = page.locator("#picture").bounding_box()
    assert box is not None

    def at(seconds: float, hertz: float) -> tuple[float, float]:
        return box["x"] + box["width"] * seconds / 4, box["y"] + box["height"] * (1 - hertz / 1600)

    def drag(*places: tuple[float, float]) -> None:
        page.mouse.move(*places[0])
        page.mouse.down()
        for each in places[1:]:
            page.mouse.move(*each, steps=3)
        page.mouse.up()

    def kept() -> list[dict[str, Any]]:
        saved(page)
        sessions = {each["name"]: each["id"] for each in client.get("/sessions").json()}
        (line,) = client.get(f"/sessions/{sessions['Events']}").json()["recordings"]
        return list(client.get(f"/recordings/{line['id']}").json()["events"])

    page.locator("#main").focus()
    page.keyboard.press("e")
    drag(at(1.6, 300), at(2.1, 500))
    (wheeze,) = kept()
    found = [wheeze[name] for name in ("start_s", "end_s", "low_hz", "high_hz")]
    assert found == pytest.approx([1.6, 2.1, 300, 500], abs=4)
    assert found[:2] == pytest.approx([1.6, 2.1], abs=0.01)
    drawn_at = page.locator("#events .event.box").bounding_box()
    assert drawn_at is not None
    left, bottom = at(found[0], found[2])
    assert (drawn_at["x"], drawn_at["y"] + drawn_at["height"]) == pytest.approx((left, bottom), abs=1)
    assert labels(page) == ["normal", "wheeze"]  # nobody had confirmed the second, which was called crackle
    page.locator("#event-kind").select_option("fine crackle")
    page.mouse.click(*at(1.2, 700))
    assert [each["kind"] for each in kept()] == ["fine crackle", "wheeze"]
    assert labels(page) == ["crackle", "wheeze"]

    page.keyboard.press("Escape")
    page.keyboard.press("1")  # the cycle of the new event is the selected one
    expect(page.locator("#disagrees")).to_contain_text("Its events say crackle")
    expect(page.locator("#you .disagreeing")).to_have_count(1)
    expect(page.locator("#rows .mark").first).to_have_text("confirmed, but its events say crackle")
    page.keyboard.press("y")
    expect(page.locator("#disagrees")).to_be_hidden()
    assert labels(page) == ["crackle", "wheeze"]

    page.keyboard.press(".")
    assert kept()[0]["start_s"] == pytest.approx(1.205, abs=0.01)
    page.mouse.click(*at(1.85, 500))  # the upper edge of the box
    drag(at(1.85, 400), at(1.75, 450))
    moved = kept()[1]
    assert (moved["start_s"], moved["low_hz"]) == pytest.approx((found[0] - 0.1, found[2] + 50), abs=3)
    edge = page.locator("#events .event-edge.right").bounding_box()
    assert edge is not None
    drag((edge["x"] + 5, edge["y"] + 20), at(2.2, 450))
    assert kept()[1]["end_s"] == pytest.approx(2.2, abs=0.03)
    page.get_by_label("Low, Hz").fill("250")
    page.get_by_label("Low, Hz").press("Enter")
    assert kept()[1]["low_hz"] == 250
    before = kept()
    page.locator("#main").focus()
    page.keyboard.press("Delete")
    assert len(kept()) == 1
    page.keyboard.press("Control+z")
    assert kept() == before

    page.locator("#show-export").click()
    with page.expect_download() as download:
        page.locator("#export-events [value=aoef]").click()
    file = place / "back.json"
    download.value.save_as(file)
    leave_dialog(page)
    for _ in before:
        page.keyboard.press("g")
        page.keyboard.press("Delete")
    assert kept() == []
    page.set_input_files("#event-file", file)
    expect(page.locator("#events .event")).to_have_count(2)
    assert kept() == before
    page.reload()
    expect(page.locator("#events .event")).to_have_count(2)


def test_silence_is_dark(place: Path, open_page: Open) -> None:
    soundfile.write(place / "zeros.wav", np.zeros(4 * RATE_HZ), RATE_HZ)
    page = open_page(session="Silence", color_scheme="dark")
    page.set_input_files("#files", place / "zeros.wav")
    expect(page.locator("#facts")).to_contain_text("silence")
    for preset in ("Wheeze", "Crackle", "Model"):
        page.get_by_role("button", name=preset, exact=True).click()
        page.wait_for_timeout(500)
        assert pixels(page).max() <= 5, preset


def test_the_empty_page_is_the_instrument(place: Path, open_page: Open, client: httpx.Client) -> None:
    """With a simulated recording of which it is known what each breath holds; what is done to it is not kept."""
    page = open_page(session="Empty", color_scheme="dark")
    expect(page.locator("#name")).to_have_text(example.NAME)
    expect(page.locator("#clock")).to_contain_text("/ 0:20.0")
    expect(page.locator("#empty")).to_be_visible()
    words = {(0, 0): "normal", (1, 0): "crackle", (0, 1): "wheeze", (1, 1): "both"}
    assert labels(page) == [words[crackle, wheeze] for *_, crackle, wheeze in example.BREATHS]
    assert times(page) == [(start, end) for start, _, end, *_ in example.BREATHS]
    expect(page.locator("#rows .answer")).to_have_count(6)
    drawn(page)
    page.locator("#main").focus()
    page.keyboard.press("4")
    expect(page.locator("#saved")).to_have_text("Example: nothing is kept")
    page.keyboard.press("w")
    expect(page.locator("#why")).to_contain_text("Tinted")
    choose(page, recording(place))  # and makes room for one's own
    expect(page.locator("#name")).to_have_text(recording(place).stem)
    expect(page.locator("#empty")).to_be_hidden()
    sessions = {each["name"]: each["recordings"] for each in client.get("/sessions").json()}
    assert sessions["Empty"] == 1


def test_the_review_takes_one_key_a_cycle(place: Path, open_page: Open, client: httpx.Client) -> None:
    """It lands on the least certain cycle and loops it; a label leads on, through all recordings; undo leads back."""
    page = open_page(session="Review")
    choose(page, recording(place), recording(place, 1), *(recording(place, n).with_suffix(".txt") for n in (0, 1)))
    expect(page.locator("#list li")).to_have_count(2)
    expect(page.locator("#count")).not_to_contain_text("wait")
    page.locator("#list .entry").first.click()
    answered(page)
    names = page.locator("#list .entry-name").all_inner_texts()
    page.locator("#main").focus()
    page.keyboard.press("v")
    expect(page.locator("#review-state")).to_contain_text("Review: 4 of 4 cycles left here")
    expect(page.locator("#toast")).to_contain_text("Review")
    plays(page)
    start_s, end_s = view(page)
    (chosen,) = [times(page)[i] for i in range(4) if page.locator("#rows tr").nth(i).get_attribute("aria-current")]
    assert (chosen[1] - chosen[0]) / (end_s - start_s) == pytest.approx(0.6, abs=0.3)  # the ends of 4 s are near
    page.keyboard.press("3")
    expect(page.locator("#toast")).to_contain_text("Wheeze, confirmed")
    page.keyboard.press("Enter")
    page.keyboard.press("x")
    expect(page.locator("#review-state")).to_contain_text("Review: 1 of 4 cycles left here")
    expect(page.locator("#you .unusable")).to_have_count(1)
    page.keyboard.press("1")
    expect(page.locator("#name")).to_have_text(names[1])
    answered(page)
    expect(page.locator("#review-state")).to_contain_text("Review: 4 of 4 cycles left here")
    expect(page.locator("#count")).to_contain_text("1 of 2 reviewed")

    page.keyboard.press("Control+z")
    expect(page.locator("#name")).to_have_text(names[0])
    expect(page.locator("#review-state")).to_contain_text("Review: 1 of 4 cycles left here")
    expect(page.locator("#count")).to_contain_text("0 of 2 reviewed")
    page.keyboard.press("Control+Shift+z")
    expect(page.locator("#review-state")).to_contain_text("Review: 0 of 4 cycles left here")
    page.keyboard.press("v")
    plays(page, now=False)
    saved(page)
    sessions = {each["name"]: each["id"] for each in client.get("/sessions").json()}
    line = next(
        each for each in client.get(f"/sessions/{sessions['Review']}").json()["recordings"] if each["name"] == names[0]
    )
    assert (line["cycles"], line["confirmed"], sum(line["findings"].values())) == (4, 4, 3)
    exported = client.get(f"/recordings/{line['id']}/export?format=icbhi").text
    assert len(exported.splitlines()) == 3  # an unusable cycle has no class to write


def test_four_zones_fit_and_the_telephone_shows_one_at_a_time(place: Path, open_page: Open) -> None:
    page = open_page(session="Zones", viewport={"width": 1440, "height": 900})
    choose(page, recording(place), recording(place, 1))
    for width, height in ((1440, 900), (2560, 1440), (1100, 700)):
        page.set_viewport_size({"width": width, "height": height})
        boxes = {part: page.locator(part).bounding_box() for part in ("#picture", ".queue", ".inspector", ".transport")}
        assert all(
            box and box["y"] + box["height"] <= height + 1 and box["x"] + box["width"] <= width + 1
            for box in boxes.values()
        )
        picture = boxes["#picture"]
        assert picture is not None
        assert picture["height"] > 0.5 * height, (width, height)
    page.evaluate(
        """async () => {
          const { state, update } = await import("/static/js/state.js");
          const start_s = state.cycles[0].end_s - (30 / document.querySelector("#picture").clientWidth) * 2;
          update({ view: { start_s, end_s: start_s + 2 } });
        }"""
    )
    block = page.locator("#you .block").first
    expect(block).to_have_text(re.compile("^[NCWB]$"))  # of the cycle 30 pixels are seen
    expect(block).to_have_attribute("title", re.compile("^1 [NCWB][a-z]+"))

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("() => document.querySelector('.bar').scrollWidth <= 390")
    expect(page.locator("#view-learn")).to_be_hidden()
    page.locator("#show-views").click()
    page.locator("#show-export").click()
    expect(page.locator("#export button").first).to_be_visible()
    page.locator("#view-learn").click()  # the click beside the open menu closes that one alone
    expect(page.locator("#learn-view")).to_be_visible()
    page.locator("#show-views").click()
    page.locator("#view-recordings").click()
    expect(page.locator("#show-export")).to_be_hidden()
    expect(page.locator(".queue")).to_be_hidden()
    picture = page.locator("#picture").bounding_box()
    assert picture is not None
    assert picture["height"] > 0.25 * 844
    for button in page.locator("#label-buttons button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 56
        assert box["y"] + box["height"] <= 844
    page.get_by_role("button", name="Queue").click()
    page.locator("#list .entry:not([aria-current])").click()
    expect(page.locator("#picture")).to_be_visible()
    page.get_by_role("button", name="Details").click()
    expect(page.get_by_label("Label of cycle 1")).to_be_visible()


def test_a_dialog_that_the_mouse_opened_gives_the_keys_back(place: Path, open_page: Open) -> None:
    """Enter and Space mean the review and the sound after it, not the button that opened it."""
    page = open_page(session="Help", viewport={"width": 1440, "height": 900})
    choose(page, recording(place), recording(place).with_suffix(".txt"))
    answered(page)
    closers = (lambda: page.keyboard.press("Escape"), page.locator("#help").get_by_role("button", name="Close").click)
    for close in closers:
        page.locator("#show-help").click()
        expect(page.locator("#help")).to_be_visible()
        close()
        expect(page.locator("#help")).to_be_hidden()
        page.keyboard.press("Space")
        plays(page)
        page.keyboard.press("Space")
        plays(page, now=False)
        expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("v")
    page.keyboard.press("Enter")
    expect(page.locator("#review-state")).to_contain_text("Review: 3 of 4 cycles left here")
    expect(page.locator("#help")).to_be_hidden()


def test_two_readers_are_blind_until_they_decide(place: Path, open_page: Open) -> None:
    """Nothing on the page says what the file, the model or another reader calls a cycle that is not decided."""
    page = open_page(session="Readers", viewport={"width": 1440, "height": 900}, bypass_csp=True)
    sound = recording(place)
    choose(page, sound, sound.with_suffix(".txt"))
    lanes, said = page.locator("#lanes"), page.locator("#said-by")

    read_as(page, "Anna")
    assert labels(page) == [""] * 4
    expect(page.locator("#label-buttons [aria-pressed=true]")).to_have_count(0)
    expect(page.locator("#file .block")).to_have_count(0)
    assert not re.search("Normal|Crackle|Wheeze|%", lanes.inner_text())
    expect(said).to_contain_text("hidden until you decide")
    expect(page.locator("#list .badge")).to_have_count(0)
    page.keyboard.press("v")
    expect(page.locator("#review")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")  # there is nothing to accept
    expect(page.locator("#toast")).to_have_text("It has no label yet: choose one")
    for number, key in enumerate("1243", start=1):
        expect(page.locator("#cycle-title")).to_have_text(f"Cycle {number} of 4")
        page.keyboard.press(key)
        expect(page.locator("#rows .mark", has_text="confirmed")).to_have_count(number)
    expect(page.locator("#file .block")).not_to_have_count(0)
    assert labels(page) == ["normal", "crackle", "both", "wheeze"]

    page.evaluate(TYPE_AT_ONCE)
    expect(page.locator("#reader-name")).to_have_value("Ben")
    read_as(page, "Ben")
    assert labels(page) == [""] * 4
    expect(page.locator("#reader-rows .block")).to_have_count(0)
    for key, seen in (("1", 1), ("3", 2)):
        page.keyboard.press(key)
        expect(page.locator("#reader-rows .block")).to_have_count(seen)
        page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("Anna")
    page.keyboard.press("ArrowUp")
    expect(said).to_contain_text("Crackle")

    page.locator("#view-readers").click()
    expect(page.locator("#differences li")).to_have_count(1)
    expect(page.locator("#differences")).to_contain_text("Anna: Crackle · Ben: Wheeze")
    expect(page.locator("#readers-figures")).to_contain_text("0.33")  # normal, crackle against normal, wheeze
    expect(page.locator("#settle-round")).to_be_disabled()
    page.keyboard.press("1")  # labels nothing behind this view
    read_as(page, "")
    page.locator("#view-readers").click()
    page.locator("#settle-round").click()
    expect(page.locator("#readers-note")).to_contain_text("Taken as confirmed: 1 (recordings: 1).")
    page.get_by_role("button", name="Rename Ben").click()
    page.locator("#ask-text").fill("Ben C.")
    page.locator("#ask-yes").click()
    expect(page.locator("#readers-changed")).to_contain_text("Ben is now called Ben C.")
    expect(page.locator("#differences")).to_contain_text("Anna: Crackle · Ben C.: Wheeze")
    page.locator("#differences button").click()
    expect(page.locator("#cycle-title")).to_have_text("Cycle 2 of 4")
    expect(page.locator("#reader-rows .block")).to_have_count(6)
    expect(page.locator("#you .confirmed")).to_have_count(1)


# A name is typed before the menu has told that it is open
TYPE_AT_ONCE = """() => new Promise((told) => {
  const menu = document.querySelector("#reader-menu");
  menu.addEventListener("toggle", () => told(menu.hidePopover()), { once: true });
  menu.showPopover();
  document.querySelector("#reader-name").value = "Ben";
})"""


def read_as(page: Page, name: str) -> None:
    page.locator("#show-reader").click()
    if name:
        page.locator("#reader-name").fill(name)
        page.keyboard.press("Enter")
    else:
        page.locator("#reader-none").click()
    expect(page.locator("#show-reader")).to_have_text(name or "No reader")
    page.wait_for_function("() => document.querySelector('#clock').textContent.endsWith('/ 0:04.0')")


MICROPHONE = """() => {
  const refused = () => Promise.reject(new DOMException("no", "NotAllowedError"));
  navigator.mediaDevices.getUserMedia = refused;
  window.allow = () => (navigator.mediaDevices.getUserMedia = async (asked) => {
    window.asked = asked;
    const context = new AudioContext();
    await context.resume();
    const source = new OscillatorNode(context, { frequency: 200 });
    const out = context.createMediaStreamDestination();
    source.connect(new GainNode(context, { gain: 0.1 })).connect(out);
    source.start();
    window.track = out.stream.getAudioTracks()[0];
    return out.stream;
  });
}"""


def test_a_recording_is_made_and_kept_when_its_device_is_unplugged(
    place: Path, open_page: Open, client: httpx.Client
) -> None:
    """A microphone that the browser refuses, then one that plays a tone of 200 Hz, -23 dBFS, until it is gone."""
    page = open_page(session="Live", forgiven=("502",))
    page.evaluate(f"({MICROPHONE})()")
    page.locator("#record").click()
    page.locator("#live-name").fill("101_tone")
    page.locator("#live-begin").click()
    expect(page.locator("#live-state")).to_contain_text("allow it beside the address")
    page.evaluate("window.allow()")
    page.locator("#live-begin").click()
    expect(page.locator("#live-level-text")).to_contain_text("peak -20, RMS -23 dBFS")
    expect(page.locator("#live-hertz span")).to_have_text(["500", "1k", "1500"])
    expect(page.locator("#live-times span").first).to_have_text("0 s")
    page.keyboard.press("Escape")  # loses nothing
    asked = page.evaluate("window.asked.audio")
    assert asked == {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}
    page.route("**/live/*/sound*", lambda route: route.fulfill(status=502, body="{}"))  # a proxy in its troubles
    expect(page.locator("#live-state")).to_contain_text("wait in this page. Leave it open.")
    page.wait_for_function("() => document.querySelector('#live-clock').textContent >= '0:01.5'")
    page.evaluate("window.track.dispatchEvent(new Event('ended'))")
    expect(page.locator("#live-stop")).to_be_hidden()
    expect(page.locator("#live-keep")).to_be_hidden()  # before the service has all of it
    page.unroute("**/live/*/sound*")
    expect(page.locator("#live-state")).to_contain_text("The device was unplugged: what it heard until then is here.")
    page.locator("#live-keep").click()
    expect(page.locator("#name")).to_contain_text("101_tone")
    expect(page.locator("#live")).to_be_hidden()
    session = next(each["id"] for each in client.get("/sessions").json() if each["name"] == "Live")
    (facts,) = client.get(f"/sessions/{session}").json()["recordings"]
    sound, rate_hz = soundfile.read(place / "store" / "recordings" / facts["id"] / "audio.wav")
    assert len(sound) / rate_hz >= 1.45  # the clock rounds
    spectrum = np.abs(np.fft.rfft(sound[-rate_hz:]))
    assert spectrum.argmax() == 200
    assert np.abs(sound[-rate_hz:]).max() == pytest.approx(0.1, abs=0.002)
