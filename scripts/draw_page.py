"""The documents' pictures of the web page: PYTHONPATH=. python scripts/draw_page.py FOLDER [--only empty review …]

Everything in them is simulated (`rales synth`): thirty recordings with their annotations, two readers, a model that
was trained on from them, and a microphone that hears one. Takes some minutes.
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from benchmarks.page_load import wait_until
from benchmarks.web import FLAGS, chromium, until_up
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rales.web import example

WIDE = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
APART = 6  # of two colours of a picture, in 0 to 255
FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SHOWN = 6  # of the recordings: the one that is open
# Marked by hand in the example, which is uploaded as a recording: kind, start, end, low and high Hz
EVENTS = [
    ("expiration", 8.0, 8.0, None, None),
    ("wheeze", 8.6, 9.45, 430, 660),
    ("fine crackle", 10.34, 10.34, None, None),
    ("fine crackle", 10.48, 10.48, None, None),
    ("coarse crackle", 10.62, 10.62, None, None),
    ("expiration", 11.3, 11.3, None, None),
    ("wheeze", 11.45, 12.25, 360, 460),
    ("wheeze", 11.45, 12.25, 760, 860),
]


class Studio:
    """A service with simulated recordings, and a browser in front of it."""

    def __init__(self, browser: Browser, door: str, data: Path, out: Path) -> None:
        url = httpx.URL(door)
        known = {"authorization": f"Bearer {url.params['token']}"}
        self.client = httpx.Client(base_url=f"http://{url.host}:{url.port}", headers=known, timeout=300)
        self.browser, self.door, self.data, self.out = browser, door, data, out
        self.session, self.recordings = "", list[dict[str, Any]]()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.client.post(path, **body)
        answer.raise_for_status()
        return answer.json()

    def fill(self) -> None:
        """A session with the recordings of the folder, each with its annotation."""
        self.session = self.post("/sessions", json={"name": "Simulated ward"})["id"]
        for sound in sorted(self.data.glob("*.wav")):
            files = {"audio": (sound.name, sound.read_bytes())}
            files["annotation"] = (f"{sound.stem}.txt", sound.with_suffix(".txt").read_bytes())
            self.recordings.append(self.post(f"/sessions/{self.session}/recordings", files=files))
        while any(one["status"] == "waiting" for one in self.list()):
            time.sleep(1)

    def list(self) -> list[dict[str, Any]]:
        return list(self.client.get(f"/sessions/{self.session}").json()["recordings"])

    def confirm(self, number: int, **about: Any) -> None:
        """All cycles of a recording with the labels that they have; a reader Ben calls every third otherwise."""
        detail = self.client.get(f"/recordings/{self.recordings[number]['id']}").json()
        cycles = [{**cycle, "confirmed": True} for cycle in detail["cycles"]]
        if about.get("reader") == "Ben":
            cycles[::3] = [{**cycle, "label": "both"} for cycle in cycles[::3]]
        self.post("/annotations", json={"recording": detail["id"], "cycles": cycles, **about})

    def mark(self, heard: Path) -> None:
        """One more recording, with events of which cycle 4, called a wheeze, says less."""
        name = "115_1b1_Pr_sc_AKGC417L"
        files = {"audio": (f"{name}.wav", (heard / "microphone.wav").read_bytes())}
        files["annotation"] = (f"{name}.txt", (heard / "audio.txt").read_bytes())
        self.recordings.append(self.post(f"/sessions/{self.session}/recordings", files=files))
        while (detail := self.client.get(f"/recordings/{self.recordings[-1]['id']}").json())["status"] == "waiting":
            time.sleep(1)
        cycles = detail["cycles"]
        cycles[2]["confirmed"] = True
        cycles[3] |= {"confirmed": True, "label": "wheeze"}
        events = [dict(zip(("kind", "start_s", "end_s", "low_hz", "high_hz"), each, strict=True)) for each in EVENTS]
        self.post("/annotations", json={"recording": detail["id"], "cycles": cycles, "events": events})

    def open(self, scheme: Any, look: dict[str, Any], number: int | None = SHOWN) -> Page:
        """-> the page, alone in the browser, once its recording, named by its place, can be heard."""
        for context in self.browser.contexts:
            context.close()
        page = self.browser.new_context(color_scheme=scheme, **look).new_page()
        page.goto(self.door)
        page.wait_for_selector("html[data-ready=yes]")
        if number is not None:
            page.evaluate(
                "async (id) => (await import('/static/js/recordings.js')).openRecording(id)",
                self.recordings[number]["id"],
            )
            expect(page.locator("#name")).to_contain_text(self.recordings[number]["name"][:8])
        wait_until(page, "state.heard")
        page.wait_for_timeout(2000)  # until the picture and the queue stand still
        return page

    def take(self, page: Page, name: str) -> Image.Image:
        expect(page.locator("#toast:not(:empty)")).to_have_count(0)
        page.wait_for_timeout(1500)
        picture = reduce_colours(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        picture.save(self.out / f"web-{name}.png", optimize=True)
        return picture


def reduce_colours(picture: Image.Image) -> Image.Image:
    """-> the picture in 256 colours: those of the most pixels, unchanged, and in place of every other the nearest."""
    pixels = np.asarray(picture, dtype=np.int16)
    colours, which, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    kept = np.empty((0, 3), np.int16)
    for colour in colours[
        np.argsort(-counts, kind="stable")
    ]:  # the many of a spectrogram leave room for the few of the rest
        if len(kept) < 256 and not (np.abs(kept - colour).max(axis=1) < APART).any():
            kept = np.vstack([kept, colour])
    nearest = np.abs(colours[:, None] - kept).sum(axis=2).argmin(axis=1).astype(np.uint8)
    reduced = Image.fromarray(nearest[which].reshape(pixels.shape[:2]))
    reduced.putpalette(kept.astype(np.uint8).tobytes())
    return reduced


def draw_empty(studio: Studio, scheme: str) -> None:
    studio.take(studio.open(scheme, WIDE, None), f"empty-{scheme}")


def draw_review(studio: Studio, scheme: str) -> None:
    """The first picture of the documents is light, and of no review."""
    page = studio.open(scheme, WIDE)
    if scheme == "light":
        select(page, 3)
    else:
        page.locator("#review").click()
        page.locator("#said-by").scroll_into_view_if_needed()
    picture = studio.take(page, scheme).convert("RGB")

    badge = page.locator("#list [aria-current=true] .badge").last
    colour = badge.evaluate("(badge) => getComputedStyle(badge).backgroundColor")
    box = badge.bounding_box()
    assert box is not None
    pixel = picture.getpixel((int(box["x"]) + 3, int(box["y"] + box["height"] / 2)))
    assert pixel == tuple(map(int, re.findall(r"\d+", colour))), f"{pixel} is not {colour}, which the page has"


def select(page: Page, number: int) -> None:
    """A cycle is selected, without a click that scrolls the inspector."""
    page.evaluate(
        """async (number) => {
          const { state, update } = await import("/static/js/state.js");
          update({ selected: state.cycles[number].id });
        }""",
        number,
    )


def draw_facts(studio: Studio, scheme: str) -> None:
    page = studio.open(scheme, WIDE)
    page.locator("#fact-note").fill("Sitting, after a deep breath")
    expect(page.locator("#facts-saved")).to_have_text("Saved")
    page.locator("#fact-note").blur()
    page.locator("#recording-facts h3").evaluate("""(heading) => {
          heading.style.scrollMarginTop = "0.6rem";
          heading.scrollIntoView();
        }""")
    studio.take(page, f"facts-{scheme}")


def draw_report(studio: Studio, scheme: str) -> None:
    page = studio.open(scheme, {"viewport": {"width": 900, "height": 1273}}, None)  # as a sheet of A4
    page.goto(f"{studio.client.base_url}/recordings/{studio.recordings[SHOWN]['id']}/report")
    studio.take(page, f"report-{scheme}")


def draw_events(studio: Studio, scheme: str) -> None:
    page = studio.open(scheme, WIDE, -1)
    page.evaluate(
        """async () => {
          const { state, update } = await import("/static/js/state.js");
          const event = state.events.find(({ low_hz }) => low_hz === 360).id;
          update({ selected: state.cycles[3].id, event, view: { start_s: 6.2, end_s: 14.2 } });
        }"""
    )
    studio.take(page, f"events-{scheme}")


def draw_phone(studio: Studio, scheme: str) -> None:
    for screen in ("queue", "picture", "details"):
        page = studio.open(scheme, PHONE)
        page.locator(f"#screen-{screen}").click()
        studio.take(page, f"phone-{screen}-{scheme}")


def draw_readers(studio: Studio, scheme: str) -> None:
    page = studio.open(scheme, WIDE)
    page.locator("#view-readers").click()
    expect(page.locator("#differences li").first).to_be_visible()
    studio.take(page, f"agreement-{scheme}")
    studio.take(studio.open(scheme, WIDE), f"readers-{scheme}")


def draw_learn(studio: Studio, scheme: str) -> None:
    page = studio.open(scheme, WIDE)
    page.locator("#view-learn").click()
    expect(page.locator("#learn-figures")).to_be_visible()
    studio.take(page, f"learn-{scheme}")


def draw_live(studio: Studio, scheme: str) -> None:
    page = studio.open(scheme, WIDE)
    page.evaluate(
        """() => Object.defineProperty(MediaStreamTrack.prototype, "label", { get: () => "Simulated stethoscope" })"""
    )
    page.locator("#record").click()
    page.locator("#live-name").fill("101_1b1_Pr_sc_Simulated")
    page.locator("#live-begin").click()
    expect(page.locator("#live-cycles li").nth(3)).to_be_visible(timeout=60_000)
    studio.take(page, f"live-{scheme}")
    page.locator("#live-stop").click()
    page.locator("#live-discard").click()
    expect(page.locator("#live")).to_be_hidden()  # else the next page is asked about it


DRAWN: dict[str, Callable[[Studio, str], None]] = {
    name.removeprefix("draw_"): draw for name, draw in list(globals().items()) if name.startswith("draw_")
}


def learn(studio: Studio) -> None:
    """Train the model on, from all recordings, until old and new stand side by side."""
    for number in range(len(studio.recordings)):
        studio.confirm(number)
    studio.post(f"/sessions/{studio.session}/learning", json={"kind": "train", "learns": "all", "epochs": 8})
    while studio.client.get("/learning").json()["status"] == "running":
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=DRAWN, default=list(DRAWN))
    asked = parser.parse_args()
    rales = [sys.executable, "-m", "rales"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        data, heard = Path(folder, "data"), Path(folder, "heard")
        words = ["--recordings", "30", "--patients", "30", "--seed", "3", "--processes", "1"]
        subprocess.run([*rales, "synth", str(data), *words], check=True)
        example.write_example(heard)
        wave, rate_hz = soundfile.read(heard / "audio.wav")
        soundfile.write(heard / "microphone.wav", wave, rate_hz, subtype="PCM_16")
        flags = [*FLAGS, *FAKE, f"--use-file-for-fake-audio-capture={heard / 'microphone.wav'}"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        command = [*rales, "serve", "--port=0", f"--folder={folder}/store"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
            assert service.stderr is not None
            door = service.stderr.readline().split()[-1]
            until_up(door.partition("?")[0])
            try:
                draw_all(Studio(browser, door, data, asked.out), heard, asked.only)
            finally:
                browser.close()
                service.terminate()


def draw_all(studio: Studio, heard: Path, names: list[str]) -> None:
    expect.set_options(timeout=60_000)
    for name in DRAWN:
        if name == "review":  # behind the empty page
            studio.fill()
            studio.confirm(1)
        if name == "events" and name in names:
            studio.mark(heard)
        if name == "readers" and name in names:
            for number in (SHOWN, 0, 1, 5):
                for reader in ("Anna", "Ben"):
                    studio.confirm(number, reader=reader)
        if name == "learn" and name in names:
            learn(studio)
        for scheme in ("light", "dark") if name in names else ():
            DRAWN[name](studio, scheme)
            print(name, scheme, flush=True)


if __name__ == "__main__":
    main()
