"""The page in a real browser: drop a recording, see, play, edit, relabel, undo, export, reload."""

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from scipy import signal

from rales import __version__
from rales.web import STATIC
from tests.browsed import Open, answered, choose, drop, export, labels, leave_dialog, plays, saved, times
from tests.served import recording, until

# From the drop to the export


def test_look_listen_judge_correct(place: Path, open_page: Open, client: httpx.Client) -> None:
    page, path = open_page(session="Ward 1"), recording(place)
    drop(page, path, path.with_suffix(".txt"))
    truth = [line.split() for line in path.with_suffix(".txt").read_text().splitlines()]
    words = {("0", "0"): "normal", ("1", "0"): "crackle", ("0", "1"): "wheeze", ("1", "1"): "both"}
    annotated = [words[(crackle, wheeze)] for _, _, crackle, wheeze in truth]
    assert labels(page) == annotated
    assert times(page) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    expect(page.locator("#you .block")).to_have_count(4)
    expect(page.locator("#name")).to_have_text(path.stem)

    listen(page)
    drag_a_boundary(page)
    moved = times(page)
    page.get_by_label("Label of cycle 2").select_option("both")
    expect(page.locator("#rows tr").nth(1).locator(".mark")).to_contain_text("confirmed")
    page.get_by_label("End of cycle 4 in seconds").fill("3.9")
    page.get_by_label("End of cycle 4 in seconds").press("Enter")
    assert times(page)[3] == (3, 3.9)
    page.get_by_role("button", name="Undo").click()
    assert times(page) == moved
    page.get_by_role("button", name="Undo").click()
    assert labels(page)[1] == annotated[1]
    page.get_by_role("button", name="Redo").click()
    assert labels(page)[1] == "both"
    saved(page)
    expect(page.locator("#rows .answer")).to_have_count(4)  # the model was asked about the moved ones

    file = export(page, "icbhi")
    assert file.name == f"{path.stem}.txt"
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    assert [(float(start), float(end)) for start, end, _, _ in lines] == moved
    assert lines[1][2:] == ["1", "1"]

    page.reload()
    answered(page)
    assert (times(page), labels(page)) == (moved, [annotated[0], "both", *annotated[2:]])
    expect(page.locator("#session option:checked")).to_have_text("Ward 1")
    sessions = {session["name"]: session["id"] for session in client.get("/sessions").json()}
    (facts,) = client.get(f"/sessions/{sessions['Ward 1']}").json()["recordings"]
    assert facts["edited"]


def listen(page: Page) -> None:
    """A cycle plays from its start to its end and stops there; the band-pass does not stop it."""
    page.get_by_text("Lung", exact=True).click()
    page.locator("#even").click()
    expect(page.locator("#toast")).to_contain_text(re.compile(r"^Even: at -20 LUFS \(-?\d+ LUFS, [+-]\d+ dB\)$"))
    page.locator("#main").press("q")
    expect(page.locator("#toast")).to_have_text("At its original level")
    page.evaluate(
        """() => { window.seen = []; const button = document.querySelector("#play");
           const watch = new MutationObserver(() => seen.push(button.ariaLabel));
           watch.observe(button, { attributeFilter: ["aria-label"] }); }"""
    )
    page.get_by_role("button", name="Play cycle 3").click()
    page.wait_for_function("() => seen.at(-1) === 'Play'")
    assert page.evaluate("seen")[0] == "Pause"
    assert 2.9 <= float(page.locator("#clock").inner_text()[2:5]) <= 3.1


def drag_a_boundary(page: Page) -> None:
    """The end of the first cycle goes left, and the start of the second with it."""
    page.get_by_role("button", name="Select cycle 1").click()
    box = page.locator("#edges [data-edge=end_s]").bounding_box()
    width = page.locator("#picture").bounding_box()
    assert box is not None
    assert width is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - width["width"] / 16, y, steps=4)
    page.mouse.up()
    (_, end), (start, _) = times(page)[:2]
    assert end == start == pytest.approx(0.75, abs=0.03)


def test_with_the_keyboard_alone(place: Path, open_page: Open) -> None:
    page = open_page(session="Keys")
    (place / "whole.wav").write_bytes(recording(place, 1).read_bytes())
    (place / "whole.txt").write_text("0 4 0 0\n")
    choose(page, place / "whole.wav", place / "whole.txt")
    assert times(page) == [(0, 4)]
    page.locator("#main").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    assert times(page) == [(0, 1), (1, 4)]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("3")
    assert labels(page)[1] == "wheeze"
    expect(page.locator("#said")).to_have_text("Cycle 2: Wheeze, confirmed")
    page.keyboard.press("]")
    assert times(page) == [(0, 1.02), (1.02, 4)]  # touching cycles keep touching
    page.keyboard.press("{")
    assert times(page)[1] == (1.02, 3.98)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    assert times(page) == [(0, 1.02), (1.02, 4)]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("2")
    page.keyboard.press("m")
    assert (times(page), labels(page)) == ([(0, 4)], ["both"])
    page.keyboard.press("Delete")
    assert times(page) == []
    page.keyboard.press("a")
    assert times(page) == [(1, 2)]
    page.keyboard.press(" ")
    plays(page)
    page.keyboard.press(" ")
    plays(page, now=False)
    page.locator("[popovertarget=session-menu]").click()
    page.locator("#session-rename").focus()
    page.keyboard.press("Delete")  # in an open menu no key means a cycle
    page.keyboard.press("Escape")
    expect(page.locator("#session-menu")).to_be_hidden()
    assert times(page) == [(1, 2)]
    saved(page)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("Single-key shortcuts").uncheck()
    leave_dialog(page)
    page.keyboard.press("4")
    assert labels(page) == ["normal"]


def test_loop_zoom_and_the_picture(place: Path, open_page: Open) -> None:
    page = open_page(session="Loop")
    choose(page, recording(place), recording(place).with_suffix(".txt"))
    page.get_by_role("button", name="Loop cycle").click()
    page.get_by_role("button", name="Play cycle 1").click()
    page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => seen.push(parseFloat(clock.textContent.slice(2))))
           .observe(clock, { childList: true }); }"""
    )
    back = "() => seen.some((time, i) => i && seen[i - 1] > 0.8 && time < 0.3)"
    page.wait_for_function(back)
    page.get_by_role("button", name="Loop cycle").click()
    plays(page, now=False)

    whole = picture(page)
    assert len(np.unique(whole, axis=0)) > 50  # a picture, not a plain field
    page.locator("#zoom").fill("100")
    until(lambda: (picture(page) != whole).mean() > 0.2)
    page.locator("#main").focus()
    page.keyboard.press("z")
    until(lambda: len(np.unique(picture(page), axis=0)) > 50)
    zoomed = picture(page)
    page.locator("#explain").check()
    page.wait_for_function("() => document.querySelector('#why').textContent.startsWith('Tinted')")
    until(lambda: (picture(page) != zoomed).mean() > 0.2)


def picture(page: Page) -> Any:
    """-> the spectrogram's pixels, (N, 4)."""
    content = page.evaluate(
        """() => { const { data } = picture.getContext("2d").getImageData(0, picture.height - 60, picture.width, 60);
           return [...data.filter((_, i) => i % 28 < 4)]; }"""
    )
    return np.array(content).reshape(-1, 4)


def test_what_is_heard_is_filtered_and_measured_as_the_standards_say(open_page: Open) -> None:
    """A band of fourth-order Butterworth filters; 997 Hz at -20 dBFS are -23.0 LUFS, also behind a band that lets it
    through; gains are decibels."""
    page = open_page()
    hertz = [30, 50, 100, 300, 1000, 2000, 4000]
    found = page.evaluate(
        """async hertz => {
            const { bandPass } = await import("/static/js/listening.js");
            const gains = [];
            for (const frequency of hertz) {
                const context = new OfflineAudioContext(1, 16000, 16000);
                const source = new OscillatorNode(context, { frequency });
                bandPass(context, source, 100, 1000).connect(context.destination);
                source.start();
                const heard = (await context.startRendering()).getChannelData(0).slice(8000);
                gains.push(Math.sqrt(2 * heard.reduce((sum, x) => sum + x * x, 0) / heard.length));
            }
            return gains;
        }""",
        hertz,
    )
    sections = [
        signal.butter(4, 100, "high", fs=16000, output="sos"),
        signal.butter(4, 1000, "low", fs=16000, output="sos"),
    ]
    _, response = signal.sosfreqz(np.concatenate(sections), worN=hertz, fs=16000)
    decibels = [20 * np.log10(np.abs(values)) for values in (np.array(found), response)]
    assert np.abs(decibels[0] - decibels[1]).max() < 0.3

    heard = page.evaluate(
        """async () => {
            const { bandPass, lift } = await import("/static/js/listening.js");
            const { measureLoudness } = await import("/static/js/loudness.js");
            const turn = (2 * Math.PI * 997) / 16000;
            const tone = Int16Array.from({ length: 48000 }, (_, i) => 3276.8 * Math.sin(turn * i));
            const wires = [(_, from) => from, (context, from) => bandPass(context, from, 20, 7000),
                           (context, from) => lift(context, from, -6.0206)];
            const found = [];
            for (const wire of wires) found.push(await measureLoudness(tone, 16000, wire));
            return found;
        }"""
    )
    assert heard == pytest.approx([-23.01, -23.01, -29.03], abs=0.1)


def test_themes_are_one_set_of_colours(place: Path, open_page: Open) -> None:
    """As the system has it, or as chosen; the strip, which is painted, follows without a reload."""
    page = open_page(session="Themes", color_scheme="dark")
    choose(page, recording(place), recording(place).with_suffix(".txt"))
    dark, light = (141, 154, 166), (107, 122, 134)
    until(lambda: dark in painted(page))
    page.locator("#show-help").click()
    page.locator("#theme").select_option("light")
    until(lambda: light in painted(page))
    assert dark not in painted(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 246)"
    page.locator("#theme").select_option("auto")
    until(lambda: dark in painted(page))
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 22)"
    leave_dialog(page)
    page.keyboard.press("2")  # cycle 1 is confirmed, the next one is not
    expect(page.locator(".confirmed").first).to_be_visible()
    page.emulate_media(forced_colors="active")  # of which a background says nothing
    edge = """([part, edge]) => getComputedStyle(document.querySelector(part))[edge]"""
    for part, kind, width in (
        ("#list .entry[aria-current=true]", "outlineWidth", "3px"),
        (".segments :checked + span", "outlineWidth", "3px"),
        (".confirmed", "borderTopWidth", "2px"),
        (".open", "borderTopWidth", "1px"),
        ("#rows tr.selected", "outlineWidth", "2px"),
        ("#list .badge", "borderTopWidth", "1px"),
    ):
        assert page.evaluate(edge, [part, kind]) == width, part
    style = (STATIC / "css" / "page.css").read_text()
    names = re.findall(r"(--[\w-]+):", style)
    assert len(names) == len(set(names)) > 20  # each colour stands once, with both of its values


def painted(page: Page) -> set[tuple[int, ...]]:
    """-> the colours of the strip that are not see-through."""
    content = page.evaluate(
        """() => {
            const { data } = strip.getContext("2d").getImageData(0, 0, strip.width, strip.height);
            return [...new Set(Array.from({ length: data.length / 4 }, (_, i) => i * 4)
                .filter((i) => data[i + 3] === 255).map((i) => data.slice(i, i + 3).join()))];
        }"""
    )
    return {tuple(map(int, colour.split(","))) for colour in content}


# Many recordings, several models


def test_the_list_and_the_review(place: Path, open_page: Open) -> None:
    page = open_page(session="Many")
    (place / "broken.wav").write_bytes(b"no sound")
    choose(page, *(recording(place, number) for number in range(3)), place / "broken.wav")
    expect(page.locator("#refused")).to_contain_text("broken: not a readable audio file")
    expect(page.locator("#list li")).to_have_count(3)
    expect(page.locator("#count")).to_have_text("0 of 3 reviewed")
    unsure = [int(re.findall(r"(\d+) % unsure", text)[0]) for text in page.locator("#list li").all_inner_texts()]
    assert unsure == sorted(unsure, reverse=True)
    page.locator("#order").select_option("name")
    names = page.locator("#list .entry-name").all_inner_texts()
    assert names == sorted(recording(place, number).stem for number in range(3))
    page.locator("#list .entry").nth(1).click()
    expect(page.locator("#name")).to_have_text(names[1])
    page.get_by_label("Reviewed", exact=True).check()
    expect(page.locator("#count")).to_contain_text("1 of 3 reviewed")
    page.locator("#show").select_option("open")
    expect(page.locator("#list li")).to_have_count(2)
    page.locator("#find").fill(names[2])
    expect(page.locator("#list li")).to_have_count(1)
    assert export(page, "icbhi", "#export-all").name == "Many.zip"


def test_two_models_and_the_threshold(place: Path, open_page: Open) -> None:
    """Each has its lane; the page says which version and which weights answer."""
    page = open_page(session="Two")
    choose(page, recording(place), recording(place).with_suffix(".txt"))
    page.locator("#compare").select_option("second")
    expect(page.locator("#rows .answer")).to_have_count(8)
    expect(page.locator("#agreement")).to_contain_text(re.compile(r"The models agree on \d of 4 cycles"))
    rows = page.locator("#rows tr").first.locator(".answer").all_inner_texts()
    assert len(rows) == 2
    assert rows[0] != rows[1]
    page.locator("#threshold").fill("1")
    expect(page.locator("#rows .doubtful")).to_have_count(4)
    page.locator("#threshold").fill("0.25")
    expect(page.locator("#rows .doubtful")).to_have_count(0)
    page.locator("#show-help").click()
    about = rf"Rales {re.escape(__version__)}, serving: first \(m2d_fusion\), digest [0-9a-f]{{16}};"
    expect(page.locator("#about")).to_contain_text(re.compile(about))


def test_the_reports_of_runs(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("button", name="Runs").click()
    page.get_by_role("button", name=re.compile("^first")).click()
    frame = page.frame_locator("#report")
    expect(frame.get_by_role("heading", level=1)).to_contain_text("Rales", timeout=60_000)
    assert page.locator("#report").get_attribute("sandbox") == ""
