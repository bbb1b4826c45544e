"""The web page and its service: how soon a recording can be worked on, how much memory many uploads take.

    python benchmarks/web.py [--model RUN]

Prints: the time from choosing a file of 90 s to its probabilities and sound on the page in a headless Chromium; the
time of `POST /predict` for a recording of 20 s, beside the same model called without a service in this process; how 20
such uploads at once are answered, and the largest memory of the service's processes meanwhile (PSS: shared pages count
once).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

import rales

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
REQUESTS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="run folder; the package's own model by default")
    parser.add_argument("--runs", help="folder of run folders to browse and compare with")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command has it; torch is not imported yet
    with tempfile.TemporaryDirectory() as folder:
        sounds = {seconds: noise(Path(folder) / f"{seconds}s.wav", seconds) for seconds in (20, 90)}
        words = [f"--{name}={value}" for name in ("model", "runs") if (value := getattr(asked, name))]
        command = [sys.executable, "-m", "rales", "serve", "--port=0", f"--folder={folder}/store", *words]
        service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert service.stderr is not None
            said = service.stderr.readline()
            door = said.split()[-1]  # the address with the token
            if not door.startswith("http"):
                sys.exit(said.strip())
            url = door.partition("?")[0]
            until_up(url)
            measure(url, door, service.pid, asked.model, sounds)
        finally:
            service.terminate()
            service.wait()


def measure(url: str, door: str, pid: int, model: str | None, sounds: dict[int, Path]) -> None:
    known = {"authorization": f"Bearer {httpx.URL(door).params['token']}"}
    print(f"page: {page_seconds(url, door, known, sounds[90]):.2f} s from choosing 90 s to its sound and probabilities")
    content = sounds[20].read_bytes()

    def post(_: Any = None) -> float:
        began = time.perf_counter()
        answer = httpx.post(f"{url}predict", files={"audio": ("20s.wav", content)}, headers=known, timeout=300)
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - began

    loaded = rales.load(model)
    for once in (post, lambda: loaded.predict(sounds[20])):
        once()
    asked, alone = [], []
    for _ in range(REQUESTS):  # taking turns, so that whatever else the machine does meets both
        asked.append(post())
        began = time.perf_counter()
        loaded.predict(sounds[20])
        alone.append(time.perf_counter() - began)
    middle, slow = statistics.median(asked), float(np.quantile(asked, 0.95))
    print(
        f"predict: 20 s in {middle:.3f} s (median), {slow:.3f} s (p95) of {REQUESTS}; "
        f"{middle / statistics.median(alone):.2f} times the model without a service"
    )
    with watching(pid) as watch, ThreadPoolExecutor(20) as pool:
        began = time.perf_counter()
        list(pool.map(post, range(20)))
        took = time.perf_counter() - began
    print(f"20 uploads at once: all answered in {took:.2f} s, {watch.most_bytes / 2**20:.0f} MiB at most")


class watching:
    """`with watching(pid) as watch:` the largest memory of a process and its children, in `watch.most_bytes`."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most_bytes, self.over = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self) -> "watching":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.over.wait(0.05):
            self.most_bytes = max(self.most_bytes, sum(map(pss_bytes, family(self.pid))))


def family(pid: int) -> list[int]:
    """-> a process, its children and theirs."""
    found = [pid]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:
            continue
    return found


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def until_up(url: str) -> None:
    for _ in range(600):
        try:
            httpx.get(f"{url}health")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def noise(path: Path, seconds: int) -> Path:
    """A recording of breath-like noise at 44.1 kHz, 24 bits."""
    random = np.random.default_rng(seconds)
    breath = 0.1 * (1 + np.sin(2 * np.pi * np.arange(seconds * 44100) / (2.7 * 44100)))
    soundfile.write(path, breath * random.standard_normal(seconds * 44100) * 0.3, 44100, subtype="PCM_24")
    return path


def page_seconds(url: str, door: str, known: dict[str, str], sound: Path) -> float:
    """-> the median of three times from choosing a file to probabilities, picture and sound that can be played."""
    from playwright.sync_api import sync_playwright

    took = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for _ in range(3):
            page = browser.new_context(viewport={"width": 1360, "height": 1000}).new_page()
            page.goto(door)
            page.wait_for_selector("html[data-ready=yes]")
            httpx.post(f"{url}sessions", json={"name": "empty"}, headers=known)
            page.evaluate("localStorage.clear()")  # so that the newest session opens
            page.reload()
            page.wait_for_selector("html[data-ready=yes]")
            began = time.perf_counter()
            page.set_input_files("#files", sound)
            page.wait_for_selector("#rows .answer", state="attached")  # the table may be folded
            page.wait_for_function("() => document.querySelector('#clock').textContent.endsWith('/ 1:30.0')")
            took.append(time.perf_counter() - began)
            page.context.close()
        browser.close()
    return statistics.median(took)


def chromium() -> str:
    from tests.browsed import BROWSERS

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit("no browser here; install chromium")
    return found


if __name__ == "__main__":
    main()
