"""Visitors who keep `rales serve` waiting, and the service that they come to."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from tests.served import until

TOKEN = "0123456789abcdef0123456789abcdef"
FILES = 1024  # open files, as most systems allow
KNOWN = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Command:
    """A running `rales serve`: its process, its port, and the file that holds what it logs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str, **words: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=KNOWN, **{"timeout": 20, **words})

    def seconds_to_end(self, *signals: int) -> float:
        """-> seconds from the first of some signals to the end, at most 60."""
        began = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        self.process.wait(60)
        return time.monotonic() - began


@contextmanager
def command(folder: Path, model: Path, *words: str, **environment: str) -> Iterator[Command]:
    """The command with a token of its own, for which 1,024 open files are allowed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    told = [sys.executable, "-m", "rales", "serve", f"--port={port}", f"--folder={folder / 'store'}"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*told, f"--model={model}", *words],
            stderr=file,
            env={**os.environ, "RALES_TOKEN": TOKEN, **environment},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )
    running = Command(process, port, log)
    try:
        until(lambda: running.get("/health").status_code == 200, 240)
        yield running
    finally:
        process.kill()
        process.wait()


@contextmanager
def sockets(port: int, many: int, request: bytes, *, small: bool = False, source: str = "") -> Iterator[list[Any]]:
    """Connections that each send a request, or part of one, and nothing more; `small` ones take little of an answer
    before they read it."""
    lines: list[socket.socket] = []
    with contextlib.ExitStack() as open_lines:
        for _ in range(many):
            line = open_lines.enter_context(socket.socket())
            line.settimeout(10)
            if small:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            if source:
                line.bind((source, 0))
            try:
                line.connect(("127.0.0.1", port))
                line.sendall(request)
            except OSError:
                continue  # as far as the visitor comes
            lines.append(line)
        yield lines


HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: "


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def long_sound(running: Command) -> str:
    """-> the path of a sound of 13 MB on the service, more than lies between a service and who reads nothing."""
    file = running.log.parent / "long.wav"
    noise = 0.1 * np.random.default_rng(1).standard_normal(420 * 8000)
    soundfile.write(file, noise, 8000, subtype="PCM_16")
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", headers=KNOWN, timeout=120) as client:
        session = client.post("/sessions", json={"name": "Slow"}).json()["id"]
        answer = client.post(f"/sessions/{session}/recordings", files={"audio": (file.name, file.read_bytes())})
        assert answer.status_code == 201, answer.text
    return f"/recordings/{answer.json()['id']}/audio"


def health_s(running: Command, seconds: float) -> list[float]:
    """-> how long /health took, asked again and again on new connections for some seconds."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        assert running.get("/health").status_code == 200
        took.append(time.monotonic() - began)
        time.sleep(0.05)
    return took


def open_files(running: Command) -> int:
    return len(os.listdir(f"/proc/{running.process.pid}/fd"))


ENDS = {"SIGTERM": (signal.SIGTERM,), "Ctrl-C": (signal.SIGINT,), "Ctrl-C twice": (signal.SIGINT, signal.SIGINT)}
