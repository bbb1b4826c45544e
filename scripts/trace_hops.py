"""Print the calls between a user's action and the network, as they happen: `PYTHONPATH=. python scripts/trace_hops.py`.

Three chains: from `rales train` to the loss, from `rales predict` to the network, from an upload of the page (POST
/predict) to the network. A hop is a call of one function of Rales by another, generators and threads included: whoever
hands work to a thread or to the page's queue counts as its caller. Comprehensions and lambdas are no hops, nor is what
stands before the word's own function and the page's first door.
"""

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import httpx
import torch
from tests import served, tiny

import rales
from rales.cli import main
from rales.models import FusionClassifier
from rales.training import losses
from rales.web.job_queue import JobQueue

SOURCE = Path(rales.__file__).parent
BEFORE = ("cli/__init__.py", "cli/settings_options.py", "web/__init__.py")
Call = tuple[str, str]  # file below src/rales, function

handed = threading.local()  # .calls: those of whoever handed the thread its work


def current_calls() -> list[Call]:
    """-> functions of Rales that are being called now, the first one first."""
    calls = list[Call]()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, function = Path(frame.f_code.co_filename), frame.f_code.co_name
        if file.is_relative_to(SOURCE) and not function.startswith("<"):
            calls.append((str(file.relative_to(SOURCE)), function))
        frame = frame.f_back
    return getattr(handed, "calls", []) + calls[::-1]


def hand_over(job: Callable[..., Any]) -> Callable[..., Any]:
    """Work for another thread -> the same, which knows there who gave it."""
    calls = current_calls()

    def work(*arguments: Any, **options: Any) -> Any:
        handed.calls = calls
        return job(*arguments, **options)

    return work


@contextlib.contextmanager
def followed_into_threads() -> Iterator[None]:
    """Threads that are handed work inside this context know by whom."""
    submit, ask = ThreadPoolExecutor.submit, JobQueue.ask
    with (
        mock.patch.object(
            ThreadPoolExecutor, "submit", lambda self, job, *a, **o: submit(self, hand_over(job), *a, **o)
        ),
        mock.patch.object(JobQueue, "ask", lambda self, job: ask(self, hand_over(job))),
    ):
        yield


def print_chain(title: str, calls: list[Call]) -> None:
    """Print one chain, its hops, and the lines of the files that it goes through."""
    calls = [call for call in calls if call[0] not in BEFORE]
    files = list(dict.fromkeys(file for file, _ in calls))
    lines = sum(len((SOURCE / file).read_text(encoding="utf-8").splitlines()) for file in files)
    print(f"{title}: {len(calls) - 1} hops, {len(files)} files, {lines:,} lines")
    print("  " + "\n  -> ".join(f"{file}: {function}" for file, function in calls) + "\n")


def run_command(*words: object) -> None:
    with contextlib.suppress(SystemExit):
        main([str(word) for word in words])


def trace(place: Path) -> None:
    """Train, predict and upload once in a folder, and print the first chain of each to its end."""
    chains = dict[str, list[Call]]()
    loss, forward = losses.weighted_cross_entropy, FusionClassifier.forward

    def noted_loss(*arguments: Any, **options: Any) -> Any:
        chains.setdefault("loss", [*current_calls(), ("training/losses.py", "weighted_cross_entropy")])
        return loss(*arguments, **options)

    def noted_forward(self: FusionClassifier, *arguments: Any, **options: Any) -> Any:
        chains.setdefault("network", [*current_calls(), ("models/classifier.py", "forward")])
        return forward(self, *arguments, **options)

    settings = [word for setting in (*tiny.SETTINGS, "train.epochs=1") for word in ("--set", setting)]
    data = tiny.write_folder(place / "data")
    with mock.patch.object(losses, "weighted_cross_entropy", noted_loss):
        run_command("train", "m2d_fusion", "--data", data, "--out", place / "run", "--size", "tiny", *settings)
    print_chain("rales train to the loss", chains["loss"])

    with followed_into_threads(), mock.patch.object(FusionClassifier, "forward", noted_forward):
        run_command("predict", next(data.glob("*.wav")), "--model", place / "run", "--out", place / "cycles.csv")
        print_chain("rales predict to the network", chains.pop("network"))

        (place / "runs").mkdir()
        (place / "run").rename(place / "runs" / "first")
        with served.served(place) as client:
            chains.clear()  # of the service's start
            answer = client.post("/predict", files={"audio": ("a.wav", next(data.glob("*.wav")).read_bytes())})
            assert answer.status_code == httpx.codes.OK, answer.text
        print_chain("an upload of the page to the network", chains["network"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trace(Path(folder))
