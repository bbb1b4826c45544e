"""Sixty cycles reviewed by keys alone, and two simulated readers: python -m benchmarks.review [CYCLES]

A headless browser plays a person who knows what to say and presses keys, never the mouse: keys and seconds a cycle from
the moment at which the page has landed on it until it has landed on the next one, listening left out. Then two readers
judge the same cycles blind, and kappa on the page is compared with scikit-learn's. A recording has four cycles.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import soundfile
from playwright.sync_api import Page
from sklearn.metrics import cohen_kappa_score
from tests import browsed, served, tiny

CYCLES = 4  # of a recording of the tests
KEYS = {"normal": "1", "crackle": "2", "wheeze": "3", "both": "4"}
CLASSES = list(KEYS)
# ([name of the recording, times of the cycle] that were left) -> whether another cycle can be judged
LANDED = """([name, times]) => {
  const text = (id) => document.querySelector(id).textContent;
  return !document.querySelector("#judge").disabled && (text("#name") !== name || text("#cycle-times") !== times);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cycles", type=int, nargs="?", default=60)
    wanted = parser.parse_args().cycles
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        place = served.train(Path(folder))
        sounds = write_recordings(place / "more", wanted // CYCLES)
        with served.served(place) as client, browsed.started() as browser:
            session = served.new_session(client, "Sixty")
            for sound in sounds:
                served.upload(client, session, sound, sound.with_suffix(".txt"))
            with browsed.pages(client, browser) as opened:
                page = opened(viewport={"width": 1440, "height": 900})
                keys, times_s = review(page, [str(generator.choice(CLASSES)) for _ in range(wanted)], accepting=True)
                print(f"{len(times_s)} cycles of {len(sounds)} recordings, by keys alone, no reader:")
                say(keys, times_s)
                said = {"Anna": [str(generator.choice(CLASSES)) for _ in range(wanted)]}
                same = generator.random(wanted) < 0.6
                others = [str(generator.choice(CLASSES)) for _ in range(wanted)]
                said["Ben"] = [a if kept else b for a, b, kept in zip(said["Anna"], others, same, strict=True)]
                for reader, labels in said.items():
                    read_as(page, reader)
                    keys, times_s = review(page, labels, accepting=False)
                    print(f"{reader}, blind:")
                    say(keys, times_s)
            found = client.get(f"/sessions/{session}/agreement").json()
            compare(client.get(f"/sessions/{session}").json()["recordings"], client, found)


def write_recordings(folder: Path, many: int) -> list[Path]:
    """-> recordings of one patient each, of four cycles of 1 s, with annotations."""
    folder.mkdir()
    sounds = []
    for number in range(many):
        sound = folder / f"{number + 201}_1b1_Al_sc_Meditron.wav"
        order = np.random.default_rng(number).permutation(CYCLES)
        soundfile.write(sound, np.concatenate([tiny.breath(label, seed=number) for label in order]), tiny.RATE_HZ)
        lines = [f"{i}\t{i + 1}\t{label % 2}\t{label // 2}\n" for i, label in enumerate(order)]
        sound.with_suffix(".txt").write_text("".join(lines))
        sounds.append(sound)
    return sounds


def review(page: Page, labels: list[str], *, accepting: bool) -> tuple[int, list[float]]:
    """Review as many cycles as there are labels, of which every other one is taken as it is if `accepting`; -> how many
    keys were pressed, and the seconds of each cycle."""
    page.keyboard.press("v")
    page.wait_for_selector("#review[aria-pressed=true]")
    landed = page.evaluate("() => document.querySelector('#cycle-times').textContent")
    keys, times_s = 1, []
    for number, label in enumerate(labels):
        page.wait_for_selector("#judge:not([disabled])")
        name = page.evaluate("() => document.querySelector('#name').textContent")
        begun = time.perf_counter()
        page.keyboard.press("Enter" if accepting and number % 2 else KEYS[label])
        keys += 1
        if number + 1 < len(labels):
            page.wait_for_function(
                LANDED,
                arg=[name, landed],
                polling=5,
            )
        landed = page.evaluate("() => document.querySelector('#cycle-times').textContent")
        times_s.append(time.perf_counter() - begun)
    page.wait_for_function("() => document.querySelector('#saved').textContent === 'Saved'")
    page.wait_for_selector("#review[aria-pressed=false]")
    return keys, times_s


def read_as(page: Page, reader: str) -> None:
    page.locator("#show-reader").click()
    page.locator("#reader-name").fill(reader)
    page.keyboard.press("Enter")
    page.wait_for_function("(name) => document.querySelector('#show-reader').textContent === name", arg=reader)
    page.wait_for_selector("#judge:not([disabled])")


def say(keys: int, times_s: list[float]) -> None:
    print(
        f"  {keys / len(times_s):.2f} keys and {median(times_s):.3f} s a cycle (median; at most {max(times_s):.3f} s)"
    )


def compare(recordings: list[dict[str, str]], client: httpx.Client, found: dict[str, Any]) -> None:
    """Print kappa of the page beside that of scikit-learn from the annotations that were saved."""
    said: dict[str, list[str]] = {"Anna": [], "Ben": []}
    for recording in recordings:
        for reader, labels in said.items():
            cycles = client.get(f"/recordings/{recording['id']}", params={"reader": reader}).json()["cycles"]
            assert all(cycle["confirmed"] for cycle in cycles)
            labels += [cycle["label"] for cycle in cycles]
    theirs = cohen_kappa_score(said["Anna"], said["Ben"])
    pair = found["pairs"][0]
    low, high = pair["kappa"]["ci95"]
    ours = pair["kappa"]["value"]
    print(f"kappa of {len(said['Anna'])} cycles: page {ours:.6f} ({low:.2f} to {high:.2f}), scikit-learn {theirs:.6f}")
    assert abs(ours - theirs) < 1e-12


if __name__ == "__main__":
    main()
