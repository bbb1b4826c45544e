"""Visitors who say little, read nothing or guess: the service stays of use to all others, and ends when it is told to.

Every test prints its figures.
"""

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.attack.slow_clients import (
    ENDS,
    FILES,
    HALF_A_HEAD,
    TOKEN,
    command,
    get,
    health_s,
    long_sound,
    open_files,
    sockets,
)
from tests.served import until

HALF_AN_UPLOAD = (
    f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 5000\r\n"
    "Content-Type: multipart/form-data; boundary=y\r\n\r\n--y\r\n"
).encode()
pytestmark = pytest.mark.slow


def figures(what: str, took: list[float], **more: object) -> None:
    ranked = sorted(took)
    said = ", ".join(f"{name} {value}" for name, value in more.items())
    print(f"\n{what}: {len(took)} of /health, median {ranked[len(took) // 2]:.3f} s, most {ranked[-1]:.3f} s; {said}")


def test_1100_half_sent_heads(place: Path, tmp_path: Path) -> None:
    """From the address of the one who asks meanwhile, the worst case, and from another one."""
    with command(tmp_path, place / "runs" / "first") as running:
        for source in ("127.0.0.1", "127.0.0.2"):
            with sockets(running.port, 1100, HALF_A_HEAD, source=source) as lines:
                files = open_files(running)
                took = health_s(running, 15)
                figures(f"{len(lines)} half-sent heads from {source}", took, open_files=files)
                assert len(lines) == 1100
                assert files < FILES / 2
                assert max(took) < 3
        assert running.log.stat().st_size < 10_000
        print(f"log: {running.log.stat().st_size} bytes")


def test_1100_heads_that_go_on_for_ever(place: Path, tmp_path: Path) -> None:
    """A byte now and then does not keep a connection open."""
    with command(tmp_path, place / "runs" / "first") as running:
        before = open_files(running)
        with sockets(running.port, 100, HALF_A_HEAD) as lines:
            end, took = time.monotonic() + 14, list[float]()
            while time.monotonic() < end:
                for line in lines:
                    try:
                        line.send(b"a")
                    except OSError:
                        continue
                took += health_s(running, 1)
            figures("100 heads, a byte a second", took, open_files=open_files(running))
            assert open_files(running) <= before + 3


def test_256_readers_that_stop_reading(place: Path, tmp_path: Path) -> None:
    with command(tmp_path, place / "runs" / "first") as running:
        sound, before = long_sound(running), open_files(running)
        with sockets(running.port, 256, get(sound), small=True) as lines:
            began = time.monotonic()
            until(lambda: running.get("/health").status_code == 200, 10)
            print(f"\na place for a newcomer of the same address after {time.monotonic() - began:.1f} s")
            took = health_s(running, 10)
            statuses = Counter(running.get("/sessions").status_code for _ in range(50))
            figures(f"{len(lines)} stalled readers", took, lists=dict(statuses))
            assert statuses == {200: 50}
            assert max(took) < 3
            began = time.monotonic()
            while open_files(running) > before + 5 and time.monotonic() < began + 60:
                time.sleep(0.5)
            print(f"all places free again after {10 + time.monotonic() - began:.0f} s")
            assert open_files(running) <= before + 5
        whole = running.get(sound, timeout=60)
        assert len(whole.content) == int(whole.headers["content-length"]) > 10e6


def test_guesses_of_the_token(place: Path, tmp_path: Path) -> None:
    """Whoever has the token or a cookie is let in meanwhile, from the same address."""
    with command(tmp_path, place / "runs" / "first") as running, ThreadPoolExecutor(8) as pool:
        base = f"http://127.0.0.1:{running.port}"
        browser = httpx.Client(base_url=base, timeout=20)
        assert browser.get(f"/?token={TOKEN}").status_code == 200
        end = time.monotonic() + 8

        def guess(who: int) -> Counter[int]:
            statuses: Counter[int] = Counter()
            while time.monotonic() < end:
                wrong = {"authorization": f"Bearer guess {who} {statuses.total()}"}
                statuses[httpx.get(f"{base}/sessions", headers=wrong, timeout=20).status_code] += 1
            return statuses

        guessed = [pool.submit(guess, who) for who in range(8)]
        rightful: Counter[int] = Counter()
        while time.monotonic() < end:
            rightful[browser.get("/sessions").status_code] += 1
            rightful[running.get("/sessions").status_code] += 1
        total = sum((each.result() for each in guessed), Counter[int]())
        figures(f"guesses {dict(total)}", health_s(running, 1), rightful=dict(rightful))
        assert set(rightful) == {200}
        assert total[401] == 10
        assert set(total) == {401, 429}
        assert running.log.read_text().count("somebody guesses the token") == 1


@pytest.mark.parametrize("how", ENDS)
def test_it_ends_whatever_visitors_do(place: Path, tmp_path: Path, how: str) -> None:
    with command(tmp_path, place / "runs" / "first") as running, ExitStack() as visitors:
        sound = long_sound(running)
        for many, request in ((40, HALF_A_HEAD), (40, get(sound)), (20, HALF_AN_UPLOAD), (20, get("/sessions"))):
            visitors.enter_context(sockets(running.port, many, request, small=True))
        took_s = running.seconds_to_end(*ENDS[how])
        print(f"\n{how}: ended after {took_s:.1f} s, exit {running.process.returncode}, {running.log.stat().st_size} B")
        assert took_s < (3 if "twice" in how else 10)
        assert running.log.read_text().count("Traceback") == 0
        assert running.process.returncode in (-signal.SIGTERM, 130)
