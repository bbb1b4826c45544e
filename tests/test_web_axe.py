"""axe-core in the browser finds nothing serious, whatever is open and however the page looks."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browsed import Open, choose, fresh_session
from tests.served import recording


@pytest.mark.parametrize(
    ("scheme", "width", "height"), [("light", 1360, 1000), ("dark", 1360, 1000), ("light", 390, 844)]
)
def test_axe_finds_nothing_serious(place: Path, open_page: Open, scheme: Any, width: int, height: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(color_scheme=scheme, viewport={"width": width, "height": height}, bypass_csp=True)
    serious = violations(Axe(), page)
    fresh_session(page, f"Axe {scheme} {width}")
    choose(page, recording(place), recording(place, 1))
    page.locator("#compare").select_option("second")
    serious += violations(Axe(), page)
    page.locator("#show-help").click()
    serious += violations(Axe(), page)
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing hangs out at the side
    assert serious == []


def violations(axe: Any, page: Page) -> list[str]:
    found = axe.run(page).response["violations"]
    nodes = itertools.chain.from_iterable(((each, node) for node in each["nodes"]) for each in found)
    return [f"{each['id']}: {node['html'][:120]}" for each, node in nodes if each["impact"] in ("serious", "critical")]
