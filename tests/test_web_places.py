"""Visitors who keep the service waiting take no place from others, and do not keep it from ending.

`tests/attack/test_slow_clients.py` does the same on the command with a thousand connections.
"""

import io
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from rales.web import model_answers
from rales.web.connection_limits import ConnectionLimits, LogRateFilter, make_protocol_class
from rales.web.job_queue import JobQueue
from rales.web.settings import Limits, visitor_key
from tests.attack.slow_clients import HALF_A_HEAD, sockets
from tests.served import GENEROUS, new_session, recording, served, token, until


@pytest.fixture(scope="module")
def small(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service with 16 places, 8 of them for one address, and little patience."""
    few = replace(GENEROUS, connections=16, head_s=2, pause_s=1)
    with served(place, folder=tmp_path_factory.mktemp("small"), limits=few) as client:
        yield client


@pytest.fixture(scope="module")
def sound(small: httpx.Client) -> str:
    """-> the path of a sound that is longer than what lies between a service and a reader."""
    return long_sound(small)


def long_sound(client: httpx.Client) -> str:
    content = io.BytesIO()
    soundfile.write(content, 0.1 * np.random.default_rng(0).standard_normal(400 * 4000), 4000, format="FLAC")
    files = {"audio": ("long.flac", content.getvalue())}
    return f"/recordings/{client.post(f'/sessions/{new_session(client)}/recordings', files=files).json()['id']}/audio"


def get(client: httpx.Client, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token(client)}\r\n\r\n".encode()


def port(client: httpx.Client) -> int:
    return client.base_url.port or 0


def fresh(client: httpx.Client, path: str) -> int:
    """-> the status of a request on a connection of its own."""
    return httpx.get(client.base_url.join(path), headers=client.headers, timeout=10).status_code


def held(client: httpx.Client) -> int:
    """-> how many connections the service, which runs in this process, keeps open."""
    lines = psutil.Process().net_connections("tcp")
    return sum(line.status == "ESTABLISHED" and line.laddr.port == port(client) for line in lines)


def test_half_sent_heads_give_way(small: httpx.Client) -> None:
    """To whoever comes later, from the same address too, and they are closed before long anyway."""
    with sockets(port(small), 100, HALF_A_HEAD) as lines:
        assert [fresh(small, path) for path in ("/health", "/sessions", "/", "/models")] == [200] * 4
        assert len(lines) == 100
        assert 0 < held(small) <= 9
        until(lambda: held(small) <= 1)  # the client's own


def test_a_head_that_goes_on_for_ever(small: httpx.Client) -> None:
    with sockets(port(small), 1, HALF_A_HEAD) as (line,):

        def is_over() -> bool:
            try:
                line.send(b"a")
            except ConnectionError:
                return True
            return False

        assert until(is_over, 10)


def test_readers_that_stop_reading_give_way(small: httpx.Client, sound: str) -> None:
    with sockets(port(small), 30, get(small, sound), small=True) as lines:
        until(lambda: fresh(small, "/sessions") == 200, 5)
        assert [fresh(small, path) for path in ("/models", "/")] == [200] * 2
        assert len(lines) == 30
        until(lambda: held(small) <= 1)


def test_a_slow_reader_is_no_stalled_one(small: httpx.Client, sound: str) -> None:
    """Who takes a little now and then gets it all, however long that lasts."""
    size = len(small.get(sound).content)
    with sockets(port(small), 1, get(small, sound)) as (line,):
        got, began = 0, time.monotonic()
        while part := line.recv(50_000):
            got += len(part)
            if got >= size:
                break
            if time.monotonic() < began + 4:  # four times as long as standing still is let pass
                threading.Event().wait(0.1)
        assert got >= size
        assert time.monotonic() > began + 3


def test_who_finds_no_place_is_told_so_in_json(
    place: Path, small: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that the service works on never give way."""
    going_on, asked = threading.Event(), list[Any]()
    quick, ask = model_answers.predict_file, JobQueue.ask

    def counted(line: JobQueue, job: Any) -> Any:
        asked.append(job)
        return ask(line, job)

    monkeypatch.setattr(JobQueue, "ask", counted)
    monkeypatch.setattr(model_answers, "predict_file", lambda *words: (going_on.wait(30), quick(*words))[1])
    files = {"audio": ("a.wav", recording(place).read_bytes())}

    def predict(_: int) -> int:
        path = small.base_url.join("/predict")
        return httpx.post(path, files=files, headers=small.headers, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(predict, range(8))
        until(lambda: len(asked) == 8)
        answer = httpx.get(small.base_url.join("/health"))
        going_on.set()
        assert answer.status_code == 503
        assert "all places are taken" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "2"
        assert list(answers) == [200] * 8
    assert fresh(small, "/health") == 200


# The rule, without sockets


@dataclass(eq=False)
class Connection:
    address: str
    moved: float
    waiting: bool = True
    closed: list[bool] = field(default_factory=list)

    @property
    def client(self) -> tuple[str, int]:
        return self.address, 1

    def drop(self) -> None:
        self.closed.append(True)

    def waits(self) -> bool:
        return self.waiting

    awaits_head = waits


def test_an_answer_that_is_still_read_does_not_give_way_at_once() -> None:
    """Also one that was written at once, which the server takes for complete."""
    kind = make_protocol_class(ConnectionLimits(Limits()))
    line = kind.__new__(kind)
    line.cycle, line.unread_bytes, line.moved = SimpleNamespace(response_complete=True, response_started=True), 0, 0.0
    for unread_bytes in (5_000_000, 0):
        line.transport = SimpleNamespace(get_write_buffer_size=lambda size=unread_bytes: size)
        assert (line.waits(), line.awaits_head()) == (True, unread_bytes == 0)


def test_a_connection_that_is_closed_already_is_dropped() -> None:
    kind, ended = make_protocol_class(ConnectionLimits(Limits())), list[bool]()
    line = kind.__new__(kind)
    with socket.socket() as closed:
        pass
    line.transport = SimpleNamespace(get_extra_info=lambda _: closed, abort=lambda: ended.append(True))
    line.drop()
    assert ended == [True]


def entered(places: ConnectionLimits, address: str, many: int, **words: Any) -> list[Connection]:
    come = [Connection(address, float(number), **words) for number in range(many)]
    for one in come:
        places.enter(one)
    return come


def test_a_crowd_takes_nothing_from_others() -> None:
    places = ConnectionLimits(Limits(connections=16))
    (other,) = entered(places, "10.0.0.2", 1)
    crowd = entered(places, "10.0.0.1", 50)
    assert [bool(one.closed) for one in crowd] == [True] * 42 + [False] * 8
    assert not other.closed
    for number in range(3, 40):
        entered(places, f"10.0.0.{number}", 1)
    assert len(places.taken) == 16
    assert not any(one.closed for one in entered(places, "10.0.1.1", 1))


def test_whoever_is_worked_for_keeps_the_place() -> None:
    places = ConnectionLimits(Limits(connections=16))
    busy = entered(places, "10.0.0.1", 8, waiting=False)
    assert not places.enter(Connection("10.0.0.1", 9.0))  # it is told so, and gives way to the next one
    assert not any(one.closed for one in busy)
    assert places.enter(Connection("10.0.0.2", 10.0))


def test_places_are_fewer_than_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((1024, 256), (512, 104), (256, 18), (64, 8), (resource.RLIM_INFINITY, 256)):
        monkeypatch.setattr("resource.getrlimit", lambda _, files=files: (files, files))
        assert ConnectionLimits(Limits()).most == most


def test_an_address_of_ipv6_is_its_network() -> None:
    assert visitor_key(("10.1.2.3", 5)) == "10.1.2.3"
    assert visitor_key(("::ffff:10.1.2.3", 5)) == "10.1.2.3"
    assert (
        visitor_key(("2001:db8:1:2:3::4", 5))
        == visitor_key(("2001:db8:1:2:ffff::", 6))
        != visitor_key(("2001:db8:1:3::", 6))
    )
    assert visitor_key(("fe80::1%eth0", 5)) == visitor_key(("fe80::2", 5))
    assert visitor_key(None) == ""


# The end, and the log


def test_the_end_does_not_wait_for_a_long_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rales.web.job_queue.LAST_S", 0.2)
    going_on = threading.Event()
    line = JobQueue(lambda _: None, 4)
    line.thread.start()
    long, waits = line.ask(lambda: going_on.wait(30)), line.ask(lambda: None)
    until(long.running)
    began = time.monotonic()
    line.stop()
    assert time.monotonic() - began < 5
    assert waits.cancelled()
    going_on.set()
    line.thread.join(10)


def test_a_service_ends_with_visitors_that_wait(place: Path, tmp_path: Path) -> None:
    """Ended in this process; the command and its signals are in tests/attack."""
    patient = replace(GENEROUS, ending_s=0.3, pause_s=60, head_s=60)
    with ExitStack() as visitors:
        with served(place, folder=tmp_path, limits=patient) as client:
            sound = get(client, long_sound(client))
            for request in (HALF_A_HEAD, sound, sound):
                visitors.enter_context(sockets(port(client), 5, request, small=True))
            until(lambda: held(client) >= 15)
            began = time.monotonic()
        assert time.monotonic() - began < 10


def test_a_log_that_visitors_cannot_fill() -> None:
    seldom = LogRateFilter(pause_s=10)

    def record(text: str, at: float, error: Exception | None = None) -> logging.LogRecord:
        about = (type(error), error, None) if error else None
        made = logging.LogRecord("asyncio", logging.ERROR, "", 0, text, None, about)
        made.created = at
        return made

    no_files = "socket.accept() out of system resource"
    assert [seldom.filter(record(no_files, at / 100)) for at in range(1000)].count(True) == 1
    assert seldom.filter(record(no_files, 20.0))
    assert seldom.filter(record("another", 20.1))
    assert seldom.filter(record("failed", 20.1, ValueError("a")))
    assert seldom.filter(record("failed", 20.1, ValueError("b")))
    for number in range(3000):
        seldom.filter(record(f"number {number}", 30.0))
    assert len(seldom.last) <= 1001
