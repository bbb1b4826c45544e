"""The page under load: python -m benchmarks.page_load [--recordings N] [--minutes N] [--files N]    (0: leave that out)

Prints a table: how long the service takes for each part of the list of a session of 10,000 recordings, how soon the
page shows its first rows and all of it, and how many rows are elements; how soon a recording of ten minutes has its
picture, and how even the frames are while it is scrolled from end to end; how much of the processors a page that nobody
touches and its service take; how much room a session takes beside the files that were sent; how soon a folder of 10,000
files that is opened in place can be worked on, and how its list answers while the files are taken in. Everything is
simulated.
"""

import argparse
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import soundfile
from benchmarks.web import FLAGS, chromium, family, pss_bytes, until_up
from playwright.sync_api import Browser, Page, sync_playwright

from rales.web.routes_sessions import PART_LINES, PART_S
from rales.web.service import Service
from rales.web.settings import Settings
from rales.web.store import Store

SETTLED_S = 45.0  # until the decoder is warm, nothing is new and the browser has tidied its memory
IDLE_S = 60.0  # three times as long as the service is silent
SCROLLED_S = 5.0
WAIT_S = 300.0  # for what a busy machine takes longest to show
WATCHED_S = 60.0  # of a folder that is opened
FIRST_ROWS = "() => document.querySelectorAll('#list .entry').length > 0"
# Whether the picture holds more than one colour
DRAWN = """() => {
  const canvas = document.querySelector("#picture");
  if (!canvas.width) return false;
  const { data } = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 60, 20);
  const colours = new Set(new Uint32Array(data.buffer));
  return colours.size > 20;
}"""
# Seconds -> the times between frames while the view runs through the recording, and the tasks that took over 50 ms
SCROLL = """async (seconds) => {
  const { state, update } = await import("/static/js/state.js");
  const longest = [];
  const watch = new PerformanceObserver((list) => longest.push(...list.getEntries().map((entry) => entry.duration)));
  watch.observe({ type: "longtask" });
  const frames = [];
  const begun = performance.now();
  let before = begun;
  await new Promise((resolve) => {
    const step = (now) => {
      frames.push(now - before);
      before = now;
      if (now - begun > 1000 * seconds) return resolve();
      const start_s = ((now - begun) / (1000 * seconds)) * (state.current.duration_s - 25);
      update({ view: { start_s: Math.max(0, start_s), end_s: Math.max(0, start_s) + 25 } });
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  watch.disconnect();
  return { frames: frames.slice(2), longest };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--files", type=int, default=10_000, help="of a folder that is opened in place")
    asked = parser.parse_args()
    print(f"| {os.cpu_count()} cores | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        place = Path(folder)
        if asked.recordings:
            write_sessions(place / "many", asked.recordings)
            with_service(place / "many", lambda door, pid: measure_list(door, pid, browser.new_page()))
        if asked.minutes:
            sound = write_breaths(place / "long.wav", asked.minutes)
            with_service(
                place / "one", lambda door, _: measure_recording(door, sound, place / "one", browser.new_page())
            )
            say("room that it takes then, of the size of the file", f"{room(place / 'one') / sound.stat().st_size:.2f}")
        if asked.files:
            files = write_files(place / "files", asked.files)
            measure_folder("new", place / "new", files, browser)
            write_sessions(place / "known", asked.files, files)
            measure_folder("known", place / "known", files, browser)
            measure_service(place / "known", files)
        browser.close()


def say(what: str, found: str) -> None:
    print(f"| {what} | {found} |", flush=True)


def with_service(folder: Path, measure: Any, *project: str) -> None:
    """Call `measure(address with the token, process)` while a service works in a folder."""
    command = [sys.executable, "-m", "rales", "serve", *project, "--port=0", f"--folder={folder}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        try:
            assert service.stderr is not None
            door = service.stderr.readline().split()[-1]
            until_up(door.partition("?")[0])
            measure(door, service.pid)
        finally:
            service.terminate()
            service.wait()


def measure_list(door: str, pid: int, page: Page) -> None:
    url = httpx.URL(door)
    known = {"authorization": f"Bearer {url.params['token']}"}
    with httpx.Client(base_url=f"http://{url.host}:{url.port}", headers=known, timeout=60) as client:
        session = client.get("/sessions").json()[0]["id"]
        for kind in ("not made yet", "made"):
            times_s, many = list[float](), 0
            place: str | None = ""
            while place is not None:
                begun = time.perf_counter()
                answer = client.get(f"/sessions/{session}/recordings", params={"after": place})
                times_s.append(time.perf_counter() - begun)
                part = json.loads(answer.content)
                many, place = many + len(part["recordings"]), part["next"]
            slow = float(np.quantile(times_s, 0.95))
            say(
                f"a part of the list of {many:,} recordings, lines {kind}",
                f"{1000 * median(times_s):.0f} ms (median), {1000 * slow:.0f} ms (p95) of {len(times_s)} answers",
            )
    begun = time.perf_counter()
    page.goto(door)
    page.wait_for_function(FIRST_ROWS)
    first_s = time.perf_counter() - begun
    wait_until(page, "state.whole")
    rows = page.locator("#list .entry").count()
    say("opening the page: first rows, whole list", f"{first_s:.2f} s, {time.perf_counter() - begun:.2f} s")
    say("rows that are elements of the page", f"{rows}")
    for order in ("name", "doubt"):
        took_ms = page.evaluate(
            """(order) => {
              const begun = performance.now();
              document.querySelector("#order").value = order;
              document.querySelector("#order").dispatchEvent(new Event("input"));
              return performance.now() - begun;
            }""",
            order,
        )
        say(f"another order of them ({order})", f"{took_ms:.0f} ms")
    page.wait_for_timeout(1000 * SETTLED_S)
    service = family(pid)
    browser = [each for each in family(os.getpid()) if each not in (os.getpid(), *service) and not is_driver(each)]
    before = [threads_s(each) for each in (service, browser)]
    page.wait_for_timeout(1000 * IDLE_S)
    after = [threads_s(each) for each in (service, browser)]
    spent = [
        100 * sum(s - was.get(thread, 0.0) for thread, s in now.items()) / IDLE_S
        for was, now in zip(before, after, strict=True)
    ]
    say("an idle service, an idle page (of one core)", f"{spent[0]:.2f} %, {spent[1]:.2f} %")


def measure_folder(kind: str, store: Path, files: Path, browser: Browser) -> None:
    """A folder of files, and a store that knows none or all of them -> how the first WATCHED_S go."""
    begun = time.perf_counter()

    def measure(door: str, pid: int) -> None:
        up_s = time.perf_counter() - begun
        page = browser.new_page()
        page.goto(door)
        page.wait_for_function(FIRST_ROWS)
        say(
            f"a folder of {kind} files: up, first rows",
            f"{up_s:.1f} s, {time.perf_counter() - begun:.1f} s from the start",
        )
        url = httpx.URL(door)
        known = {"authorization": f"Bearer {url.params['token']}"}
        times_s, most, watched = list[float](), 0, time.perf_counter()
        with httpx.Client(base_url=f"http://{url.host}:{url.port}", headers=known, timeout=60) as client:
            session = client.get("/sessions").json()[0]["id"]
            taken: list[int] | None = [0, 0]
            while taken is not None and time.perf_counter() - watched < WATCHED_S:
                asked = time.perf_counter()
                part = client.get(f"/sessions/{session}/recordings").json()
                times_s.append(time.perf_counter() - asked)
                taken, most = part["taken"], max(most, sum(map(pss_bytes, family(pid))))
                time.sleep(0.5)
            many = sum(each["recordings"] for each in client.get("/sessions").json())
        over = "all of them" if taken is None else f"{taken[0]:,} of {taken[1]:,}"
        say(f"taken in {time.perf_counter() - watched:.0f} s later", f"{over}; {many:,} recordings in the list")
        slow = float(np.quantile(times_s, 0.95))
        answers = f"{1000 * median(times_s):.0f} ms (median), {1000 * slow:.0f} ms (p95) of {len(times_s)} answers"
        say("the first part of its list meanwhile", answers)
        say("largest memory of the service and its decoders (PSS)", f"{most / 2**20:.0f} MiB")
        page.close()

    with_service(store, measure, str(files))


def measure_service(store: Path, files: Path) -> None:
    """A folder of files that are known -> what the service computes for it, whatever else the machine does."""
    begun = time.process_time()
    service = Service(Settings(folder=store, project=files))
    assert service.project is not None
    say("a service that knows all files, imports left out", f"{time.process_time() - begun:.1f} s of processor")
    begun = time.process_time()
    service.project.take_in()
    say("comparing them with the folder", f"{time.process_time() - begun:.1f} s of processor")
    session = service.store.sessions()[0]["id"]
    for kind in ("not made yet", "made"):
        times_s = list[float]()
        place: str | None = ""
        while place is not None:
            begun = time.process_time()
            place = service.list.part(session, after=place, most=PART_LINES, budget_s=PART_S).next
            times_s.append(time.process_time() - begun)
        spent = f"{1000 * median(times_s):.0f} ms (median), {1000 * max(times_s):.0f} ms (largest) of {len(times_s)}"
        say(f"a part of its list, lines {kind}", f"{spent}, of processor")


def measure_recording(door: str, sound: Path, store: Path, page: Page) -> None:
    page.goto(door)
    page.wait_for_selector("html[data-ready=yes]")
    begun = time.perf_counter()
    page.set_input_files("#files", [str(sound)])
    page.wait_for_function("() => document.querySelectorAll('#list .entry').length === 1", timeout=120_000)
    page.wait_for_function(DRAWN, timeout=120_000)
    say("sending it: until its picture is there", f"{time.perf_counter() - begun:.2f} s")
    wait_until(page, "state.current.status === 'ready'")
    times_s = []
    for _ in range(5):
        page.evaluate("async () => (await import('/static/js/recordings.js')).close()")
        times_s.append(
            page.evaluate(
                f"""async () => {{
                  const drawn = {DRAWN};
                  const begun = performance.now();
                  document.querySelector("#list .entry").click();
                  while (!drawn()) await new Promise(requestAnimationFrame);
                  return (performance.now() - begun) / 1000;
                }}"""
            )
        )
    say("opening it: until its picture is there", f"{median(times_s):.2f} s (median of {len(times_s)})")
    page.evaluate(SCROLL, SCROLLED_S)
    found = page.evaluate(SCROLL, SCROLLED_S)
    frames = found["frames"]
    say(
        f"scrolling through it in {SCROLLED_S:g} s: time between frames",
        f"{median(frames):.1f} ms (median), {np.quantile(frames, 0.95):.1f} ms (p95)",
    )
    say(
        "tasks of over 50 ms meanwhile",
        f"{len(found['longest'])}, the longest {max(found['longest'], default=0):.0f} ms",
    )
    say("room that it takes while it is used, of the size of the file", f"{room(store) / sound.stat().st_size:.2f}")


def wait_until(page: Page, holds: str) -> None:
    """Wait until something holds of the page's `state`; `wait_for_function` would not wait for an import.

    Errors: it does not within WAIT_S (TimeoutError).
    """
    deadline = time.monotonic() + WAIT_S
    while not page.evaluate(
        f"async () => {{ const {{ state }} = await import('/static/js/state.js'); return {holds}; }}"
    ):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{holds} did not come to hold of the page within {WAIT_S:g} s")
        page.wait_for_timeout(20)


def room(store: Path) -> int:
    """-> bytes of all files of a service's folder but its example."""
    return sum(each.stat().st_size for each in store.rglob("*") if each.is_file() and "example" not in each.parts)


def is_driver(process: int) -> bool:
    """Whether a process is Playwright's own, which no page needs."""
    try:
        return b"/driver/node" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def threads_s(processes: list[int]) -> dict[str, float]:
    """-> processor time of each thread of processes so far: to the nanosecond, since work that the clock's tick itself
    wakes is counted by ticks several times over. A thread that ends later takes its time along."""
    found = {}
    for each in processes:
        for thread in Path(f"/proc/{each}/task").glob("*/schedstat"):
            with suppress(OSError):  # it has ended
                found[f"{thread}"] = int(thread.read_text().split()[0]) / 1e9
    return found


def write_breaths(path: Path, minutes: float) -> Path:
    """Breath-like noise at 44.1 kHz, 16 bits."""
    random, seconds = np.random.default_rng(0), round(60 * minutes)
    with soundfile.SoundFile(path, "w", 44100, 1, "PCM_16") as file:
        for second in range(seconds):
            breath = 0.1 * (1 + np.sin(2 * np.pi * (second + np.arange(44100) / 44100) / 2.7))
            file.write(breath * random.standard_normal(44100) * 0.3)
    return path


def write_files(folder: Path, many: int) -> Path:
    """Recordings of two seconds of noise, each another one, a hundred in each sub-folder; -> the folder."""
    random = np.random.default_rng(0)
    for number in range(many):
        place = folder / f"{number // 100:03d}"
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{number:05d}.wav", 0.1 * random.standard_normal(8000), 4000, subtype="PCM_16")
    return folder


def write_sessions(folder: Path, many: int, files: Path | None = None) -> None:
    """A store of one session in which the model has answered for all; its files of sound are empty, or those of
    `write_files`."""
    found = sorted(files.rglob("*.wav")) if files else []
    store, random, names = Store(folder), np.random.default_rng(0), ("normal", "crackle", "wheeze", "both")
    session, now = store.new_session("many"), time.time()
    recordings, scores, originals = list[Any](), list[Any](), list[Any]()
    for number in range(many):
        recording, name = secrets.token_hex(8), f"{101 + number // 10}_{number % 10}b1_Al_sc_Meditron"
        spans = [{"start_s": 2.5 * cycle, "end_s": 2.5 * cycle + 2.5} for cycle in range(7)]
        shares = random.dirichlet(np.ones(4), 7).tolist()
        labels = [names[int(np.argmax(each))] for each in shares]
        said = [
            {**span, "label": label, **{f"p_{name}": p for name, p in zip(names, each, strict=True)}}
            for span, label, each in zip(spans, labels, shares, strict=True)
        ]
        begun = [{**span, "label": label, "confirmed": False} for span, label in zip(spans, labels, strict=True)]
        path, digest, linked = f"{name}.wav", recording, ""
        if files:
            path = linked = found[number].relative_to(files).as_posix()
            digest = hashlib.sha256(found[number].read_bytes()).hexdigest()
        recordings.append((recording, session, name, now + number / 1000, path, digest, linked))
        scores.append((recording, "rales", now + 1, json.dumps(said)))
        originals.append((recording, "segment", json.dumps(begun)))
        if not files:
            store.place(recording).mkdir(parents=True)
            for file in ("audio.wav", "page.wav"):
                (store.place(recording) / file).touch()
    with store.open() as db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO recordings (id, session, name, added, duration_s, rate_hz, channels, status, path, "
            "digest, linked) VALUES (?, ?, ?, ?, 20, 4000, 1, 'ready', ?, ?, ?)",
            recordings,
        )
        db.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", scores)
        db.executemany("INSERT INTO originals VALUES (?, ?, ?)", originals)


if __name__ == "__main__":
    main()
