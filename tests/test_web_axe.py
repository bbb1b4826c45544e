"""axe-core in the browser finds nothing serious, whatever is open and however the page looks."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browsed import Open, answered, choose, fresh_session, labels, leave_dialog
from tests.served import new_session, recording, upload


@pytest.mark.parametrize(
    ("scheme", "width", "height"),
    [
        ("light", 1360, 1000),
        ("dark", 390, 844),
        pytest.param("dark", 1360, 1000, marks=pytest.mark.slow),
        pytest.param("light", 390, 844, marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_serious(place: Path, open_page: Open, scheme: Any, width: int, height: int) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": height}, bypass_csp=True)
    assert violations(page) == []
    fresh_session(page, f"Axe {scheme} {width}")
    choose(page, recording(place), recording(place, 1))
    narrow = page.locator(".screens").is_visible()
    if narrow:
        page.locator("#screen-details").click()
    page.locator("#compare").select_option("second")
    assert violations(page) == []
    fits(page)
    if not narrow:
        say_facts_by_keys(page)
        assert violations(page) == []
    page.get_by_label("Label of cycle 1").select_option("both")
    expect(page.locator("#saved")).to_have_text("Saved")
    page.locator("#main").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")  # to 1.5 s, which is in a cycle of either recording
    page.locator("#mark-here").click()
    expect(page.locator("#disagrees")).to_contain_text("Its events say wheeze")
    assert violations(page) == []
    fits(page)
    page.locator("#explain").check()
    page.wait_for_function("() => document.querySelector('#why').textContent.startsWith('Tinted')")
    if narrow:
        page.locator("#screen-picture").click()
    assert violations(page) == []
    fits(page)
    for menu, button in (
        ("", "#show-help"),
        ("session", "#session-rename"),
        ("", "#history"),
        ("recording", "#remove"),
    ):
        if narrow and button == "#show-help":
            page.locator("#show-views").click()
        if menu:
            page.locator(f"[popovertarget={menu}-menu]").click()
            assert violations(page) == []
        page.locator(button).click()
        expect(page.locator("dialog[open]")).to_be_visible()
        assert violations(page) == []
        fits(page)
        leave_dialog(page)
    if narrow:
        page.locator("#screen-queue").click()
        assert violations(page) == []
    page.locator("#record").click()
    assert violations(page) == []
    fits(page)
    page.keyboard.press("Escape")
    for dialog in ("conflict", "imports"):
        page.evaluate(f"document.querySelector('#{dialog}').showModal()")
        assert violations(page) == []
        leave_dialog(page)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1360), ("dark", 390)])
def test_axe_finds_nothing_serious_in_readers_and_runs(
    client: httpx.Client, place: Path, open_page: Open, scheme: Any, width: int
) -> None:
    new_session(client, "Other")
    session = new_session(client, f"Readers {width}")
    recorded = upload(client, session, recording(place))
    for reader in ("Anna", "Ben"):
        cycles = [{"start_s": 0, "end_s": 2, "label": "both" if reader == "Ben" else "normal", "confirmed": True}]
        client.post("/annotations", json={"recording": recorded["id"], "cycles": cycles, "reader": reader})
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844}, bypass_csp=True)
    page.locator("#session").select_option(label=f"Readers {width}")
    page.locator("#show-reader").click()
    assert violations(page) == []
    leave_dialog(page)
    show_view(page, "readers")
    expect(page.locator("#differences li")).to_have_count(1)
    assert violations(page) == []
    fits(page)
    if width > 1000:
        watch_job(page)
    leave_model(place)
    page.unroute_all()
    if width < 1000:
        show_view(page, "learn")
    expect(page.locator("#learn-counts li")).to_have_count(4)
    expect(page.locator("#learn-figures")).to_contain_text("0.71 (0.60 to 0.80)")
    assert violations(page) == []
    fits(page)
    page.locator("#learn-use").click()
    page.locator("#ask-text").fill(f"Ours {width}")
    page.locator("#ask-yes").click()
    expect(page.locator("#learned-models")).to_contain_text(f"Ours {width} second, trained on here, head only")
    expect(page.locator("#model")).to_contain_text(f"Ours {width} (m2d_fusion, learned here)")
    expect(page.locator("#learn-job")).to_be_hidden()
    assert violations(page) == []
    page.locator("#learned-models button").last.click()
    page.locator("#ask-yes").click()
    expect(page.locator("#model")).not_to_contain_text(f"Ours {width}")
    show_view(page, "runs")
    expect(page.locator("#runs li")).to_have_count(3)
    assert violations(page) == []
    page.locator("#runs button", has_text="second").click()
    expect(page.locator("#runs-note")).to_have_text("second")
    assert violations(page) == []
    fits(page)


def show_view(page: Page, name: str) -> None:
    """By its button, which a narrow page has in a menu."""
    if page.locator("#show-views").is_visible():
        page.locator("#show-views").click()
        assert violations(page) == []
    page.locator(f"#view-{name}").click()


def say_facts_by_keys(page: Page) -> None:
    """Patient, device, site on the map and a note are typed, saved and there when the page is loaded again; what is
    typed labels no cycle."""
    before = labels(page)
    site = page.locator("#fact-location").input_value()
    page.locator("#fact-patient").focus()
    for words in ("P 7", "Eko"):
        page.keyboard.press("Control+a")
        page.keyboard.type(words)
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # from the list of sites to the map
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("1 cough, x 2")
    expect(page.locator("#facts-saved")).to_have_text("Saved")
    page.reload()
    answered(page)
    said = {part: page.locator(f"#fact-{part}").input_value() for part in ("patient", "device", "location", "note")}
    assert said == {"patient": "P 7", "device": "Eko", "location": said["location"], "note": "1 cough, x 2"}
    assert said["location"] not in (site, "")
    expect(page.locator(f".site.{said['location']} input")).to_be_checked()
    expect(page.locator("#facts")).to_contain_text("Eko")
    assert labels(page) == before


def watch_job(page: Page) -> None:
    """A job that runs is that of its session, whichever is open, also when the page is loaded again."""
    running = {"status": "running", "kind": "train", "session_name": "Ward", "phase": "prepare"}
    page.route(re.compile(r":\d+/learning$"), lambda route: route.fulfill(json=running))
    page.locator("#view-learn").click()
    expect(page.locator("#learn-job-title")).to_have_text("The model learns from Ward")
    assert violations(page) == []
    page.reload()
    page.locator("#view-learn").click()
    page.locator("#session").select_option(label="Other")
    expect(page.locator("#learn-note")).to_contain_text("0 cycles of 0 patients")
    expect(page.locator("#learn-job-title")).to_have_text("The model learns from Ward")
    expect(page.locator("#learn-train-why")).to_have_text("A job is at work.")
    page.locator("#session").select_option(label="Readers 1360")


def leave_model(place: Path) -> None:
    """A job that is done, as its process leaves it behind, waits for a decision."""
    job = place / "store" / "learning"
    job.mkdir()
    shutil.copy(place / "runs" / "second" / "best.safetensors", job / "model.safetensors")
    about = {"kind": "train", "model": "second", "learns": "head", "epochs": 2, "session": "x", "session_name": "Ward"}
    (job / "task.json").write_text(json.dumps({**about, "cycles": 44, "patients": 11}))
    measured = {"value": 0.714, "low": 0.6, "high": 0.8}
    figure = {"name": "Score", "old": measured, "new": measured, "difference": measured}
    result = {"figures": [figure], "cycles": 12, "patients": 3, "notes": ["a note"]}
    (job / "result.json").write_text(json.dumps(result))


def fits(page: Page) -> None:
    """Nothing hangs out at the side or below: only queue and inspector scroll."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    nodes = itertools.chain.from_iterable(((each, node) for node in each["nodes"]) for each in found)
    return [f"{each['id']}: {node['html'][:120]}" for each, node in nodes if each["impact"] in ("serious", "critical")]
