"""A service on a free port of this machine, with the run that the tiny tests train."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from rales.data import read_cycles
from rales.training import finetune
from rales.web import bind_socket, make_server, page_address
from rales.web.settings import Limits, Settings
from tests import tiny

# Tests that are not about the rate send as they like.
GENEROUS = Limits(burst=100_000, per_second=100_000, guesses=100_000, guesses_of_all=100_000)


def train(folder: Path) -> Path:
    """-> a folder with `data` and `runs/first`, a finished run on it, and `runs/second`, one of another seed."""
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    for name, seed in (("first", 0), ("second", 1)):
        recipe = tiny.recipe("train.lr=0.01", "train.epochs=1", f"seed={seed}")
        finetune.run(recipe, cycles, folder / "runs" / name, cache_folder=folder / "cache")
    return folder


def recording(place: Path, number: int = 0) -> Path:
    """-> a recording of the data folder; its annotation lies beside it."""
    return sorted((place / "data").glob("*.wav"))[number]


@contextmanager
def served(place: Path, *, limits: Limits = GENEROUS, **settings: Any) -> Iterator[httpx.Client]:
    """A folder of `train` -> a client, with the token, of a service that keeps its sessions in `place`/store or a
    `folder` given."""
    chosen = Settings(folder=place / "store", model=str(place / "runs" / "first"), limits=limits)
    chosen = replace(chosen, **settings)
    listener = bind_socket("127.0.0.1", 0)
    running = make_server(chosen)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    known = {b"authorization": b"Bearer " + chosen.token.encode()}
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=base, headers=known, timeout=60) as client:
        try:
            until(lambda: running.started)
            yield client
        finally:
            running.should_exit = True
            thread.join(timeout=20)
            listener.close()
    assert not thread.is_alive(), "the service has not ended"


def token(client: httpx.Client) -> str:
    """-> the token of a client of `served`."""
    return client.headers["authorization"].encode(client.headers.encoding).decode().removeprefix("Bearer ")


def door(client: httpx.Client) -> str:
    """-> the address that lets a browser in, as `rales serve` prints it."""
    return page_address(client.base_url.host, client.base_url.port or 80, token(client))


def until(happened: Any, patience_s: float = 30) -> Any:
    """-> the first answer of `happened()` that is not empty."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if answer := happened():
                return answer
        except (httpx.ConnectError, OSError):
            pass
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def upload(client: httpx.Client, session: str, path: Path, annotation: Path | None = None) -> dict[str, Any]:
    """Send a recording to a session and wait for the model; -> its facts."""
    files = {"audio": (path.name, path.read_bytes())}
    if annotation is not None:
        files["annotation"] = (annotation.name, annotation.read_bytes())
    answer = client.post(f"/sessions/{session}/recordings", files=files)
    assert answer.status_code == 201, answer.text
    recording = answer.json()["id"]

    def settled() -> dict[str, Any] | None:
        facts = client.get(f"/recordings/{recording}").json()
        return facts if facts["status"] != "waiting" else None

    return dict(until(settled))


def new_session(client: httpx.Client, name: str = "Test") -> str:
    answer = client.post("/sessions", json={"name": name})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
