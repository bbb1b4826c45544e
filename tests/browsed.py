"""The page in a real browser, and what tests do on it again and again."""

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.served import door, new_session

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")

Open = Callable[..., Page]


@contextmanager
def started() -> Iterator[Browser]:
    """A browser of this machine; without one the test is skipped."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser here; install chromium")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def pages(client: httpx.Client, browser: Browser) -> Iterator[Open]:
    """Client of a service -> a function that opens its page in a fresh profile, in a fresh `session` if one is named.
    Whatever the page asks of others, and every error of its scripts or its security policy, fails the test; `forgiven`
    are words of failed requests that it means to make."""
    address = door(client)
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def opened(*, session: str = "", forgiven: tuple[str, ...] = (), **options: Any) -> Page:
        def heard(said: ConsoleMessage) -> None:
            repeated = said.text.startswith("Failed to load resource")  # the browser repeats what the page says itself
            if said.type == "error" and not (repeated and any(words in said.text for words in ("422", *forgiven))):
                complaints.append(f"{said.text} {said.location['url']}")

        def asked(request: Request) -> None:
            if not request.url.startswith((address.partition("?")[0], "blob:", "data:")):
                complaints.append(request.url)

        options = {"viewport": {"width": 1360, "height": 1000}, **options}
        context = browser.new_context(accept_downloads=True, **options)
        context.set_default_timeout(60_000)  # of the slowest machine
        contexts.append(context)
        if session:  # the page opens the one that was open last
            known = f'localStorage.setItem("rales-session", "{new_session(client, session)}")'
            with_storage = 'self.origin !== "null" && !localStorage.getItem("rales-session")'  # a blank page has none
            context.add_init_script(f"if ({with_storage}) {known};")
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", heard)
        context.on("request", asked)
        return visit(context.new_page(), address)

    try:
        yield opened
    finally:
        for context in contexts:
            context.close()
    assert complaints == [], complaints


def visit(page: Page, address: str) -> Page:
    """A tab -> the same with the page in it, ready."""
    page.goto(address)
    page.wait_for_selector("html[data-ready=yes]")
    return page


def fresh_session(page: Page, name: str) -> None:
    page.get_by_role("button", name="Change the session").click()
    page.get_by_role("button", name="New session").click()
    page.locator("#ask-text").fill(name)
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("#session option:checked")).to_have_text(name)


def choose(page: Page, *paths: Path) -> None:
    """Give files to the page and wait until the model has answered for the one that is open."""
    page.set_input_files("#files", list(paths))
    answered(page)


def answered(page: Page) -> None:
    """Wait until a recording of the tests can be heard, not the example, and the model has answered for it."""
    page.wait_for_function("() => document.querySelector('#clock').textContent.endsWith('/ 0:04.0')")
    page.wait_for_selector("#rows .answer", state="attached")


def drop(page: Page, *paths: Path) -> None:
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    held = page.evaluate_handle(
        """files => {
            const data = new DataTransfer();
            for (const [name, text] of files)
                data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
            return data;
        }""",
        files,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": held})
    answered(page)


def drop_folder(page: Page, *paths: Path) -> None:
    """Files and folders of the disk, let go over the page as the system does it."""
    box, devtools = page.locator("#drop").bounding_box(), page.context.new_cdp_session(page)
    assert box is not None
    data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"type": kind, "x": box["x"] + 30, "y": box["y"] + 20}
        devtools.send("Input.dispatchDragEvent", {**place, "data": data})


def times(page: Page) -> list[tuple[float, float]]:
    """-> start and end of every cycle as the table has them."""
    values = [float(field.input_value()) for field in page.locator("#rows input").all()]
    return list(zip(values[::2], values[1::2], strict=True))


def labels(page: Page) -> list[str]:
    return [choice.input_value() for choice in page.locator("#rows select").all()]


def export(page: Page, form: str, of: str = "#export") -> Path:
    """Save the annotation of the recording, or with `#export-all` of the session -> the file, named as it came."""
    page.locator("#show-export").click()
    with page.expect_download() as download:
        page.locator(f"{of} [value={form}]").click()
    kept = download.value.path().with_name(download.value.suggested_filename)
    download.value.save_as(kept)
    return kept


def plays(page: Page, *, now: bool = True) -> None:
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause" if now else "Play")


def saved(page: Page) -> None:
    expect(page.locator("#saved")).to_have_text("Saved")


def leave_dialog(page: Page) -> None:
    """Escape; the browser closes a dialog a moment after the key, and until then no key means a cycle."""
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
