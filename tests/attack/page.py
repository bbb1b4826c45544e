"""The page's service in a process that can be killed, with visitors who remember what it has confirmed.

`python -m tests.attack.page MODEL` loads everything once and then forks a service for each line of its input.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import REPOSITORY

TOKEN = "the-token-of-the-attack"
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "sqlite3.connect")


def main(model: str) -> None:
    """For each line {"folder", "event"} of the input fork a service; it kills itself just before the given file event
    in its folder (-1: at none). Answers {"process", "port"}."""
    from rales.web import bind_socket, make_server
    from rales.web.model_registry import ModelRegistry
    from rales.web.settings import Settings
    from tests.served import GENEROUS

    ModelRegistry(model, None).model(Path(model).name)  # so that all packages are there
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        told = json.loads(line)
        listener = bind_socket("127.0.0.1", 0)
        process = os.fork()
        if process:
            print(json.dumps({"process": process, "port": listener.getsockname()[1]}), flush=True)
            listener.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kill_at(told["event"], told["folder"])
        settings = Settings(folder=Path(told["folder"]), model=model, token=TOKEN, limits=GENEROUS)
        try:
            make_server(settings).run(sockets=[listener])
        except Exception as error:
            print(f"refused: {error}", file=sys.stderr, flush=True)
        os._exit(0)


def kill_at(number: int, folder: str) -> None:
    """End this process by SIGKILL just before its file event `number` in a folder, in whichever thread that is."""
    if number < 0:
        return
    left, lock = number, threading.Lock()

    def audited(event: str, words: tuple[Any, ...]) -> None:
        nonlocal left
        written = event == "open" and isinstance(words[1], str) and set(words[1]) & set("wax+")
        if (event in CHANGES or written) and str(words[0]).startswith(folder):
            with lock:
                left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audited)


class Ended(Exception):
    """A service that is gone before it has answered once."""


@dataclass
class Services:
    """Starts services, one at a time, on one model."""

    nursery: "subprocess.Popen[str]"
    process: int = 0

    def start(self, folder: Path, event: int = -1) -> httpx.Client:
        """-> a client of a new service. Errors: Ended, where it has been killed meanwhile or did not start."""
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        print(json.dumps({"folder": str(folder), "event": event}), file=self.nursery.stdin, flush=True)
        told = json.loads(self.nursery.stdout.readline())
        self.process = told["process"]
        headers = {"authorization": f"Bearer {TOKEN}"}
        client = httpx.Client(base_url=f"http://127.0.0.1:{told['port']}", headers=headers, timeout=60)
        while is_running(self.process):
            with suppress(httpx.TransportError):
                client.get("/health").raise_for_status()
                return client
            time.sleep(0.02)
        client.close()
        raise Ended

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        while is_running(self.process):
            time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def services(model: Path, temporary: Path) -> Iterator[Services]:
    """Services whose temporary files lie in a folder of their own."""
    temporary.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": paths}
    words = [sys.executable, "-m", "tests.attack.page", str(model)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings, cwd=REPOSITORY
    ) as nursery:
        found = Services(nursery)
        try:
            yield found
        finally:
            found.kill()
            nursery.kill()


# Visitors


@dataclass
class Confirmed:
    """What a service has answered to its visitors, over all of its lives. `removing`: asked for, perhaps done."""

    session: str = ""
    recordings: set[str] = field(default_factory=set)
    annotations: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # recording -> revision, start
    removing: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    exports: int = 0


def visit(client: httpx.Client, known: Confirmed, sound: bytes, seed: int) -> None:
    """Add, save, remove and export until the service does not answer any more."""
    chance = random.Random(seed)
    with suppress(httpx.TransportError):
        while True:
            there = sorted(known.recordings - known.removing)
            choice = chance.random()
            if choice < 0.4 or not there:
                answer = add(client, known.session, sound)
                if answer.status_code == 201:
                    known.recordings.add(answer.json()["id"])
            elif choice < 0.75:
                recording, start_s = chance.choice(there), chance.randrange(2000) / 1000
                cycles = [{"start_s": start_s, "end_s": start_s + 1, "label": "both"}]
                answer = client.post("/annotations", json={"recording": recording, "cycles": cycles})
                if answer.status_code == 201:
                    known.annotations.setdefault(recording, []).append((answer.json()["revision"], start_s))
            elif choice < 0.9:
                recording = chance.choice(there)
                known.removing.add(recording)
                answer = client.delete(f"/recordings/{recording}")
                if answer.status_code == 204:
                    known.removed.add(recording)
            else:
                answer = client.get(f"/sessions/{known.session}/export", params={"format": "csv"})
                known.exports += answer.status_code == 200
            if answer.status_code >= 500 or (answer.status_code >= 400 and answer.status_code != 404):
                known.wrong.append(f"{answer.request.method} {answer.request.url.path}: {answer.text[:300]}")


def add(client: httpx.Client, session: str, sound: bytes) -> httpx.Response:
    return client.post(f"/sessions/{session}/recordings", files={"audio": ("a.wav", sound)})


if __name__ == "__main__":
    main(sys.argv[1])
