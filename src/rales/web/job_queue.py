"""The job queue of the model's thread: interactive requests first, whole recordings after them."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

LAST_S = 2.0  # that the job under way has when the service ends; a recording is scored at the next start instead
log = logging.getLogger(__name__)


class QueueFull(Exception):
    """Too many requests wait already."""


class JobQueue:
    """One thread that works off jobs. `score` is what is done with a recording of the background's line: the one with
    the turn `begun` is worked on, and as many go before another one as its turn is later."""

    def __init__(self, score: Callable[[str], None], longest: int) -> None:
        self.score, self.longest = score, longest
        self.asked: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.background: deque[str] = deque()
        self.turns: dict[str, int] = {}  # recording that waits, or is worked on -> its turn
        self.added = self.begun = 0  # recordings, since the service started
        self.changed = threading.Condition()
        self.ended = False
        self.thread = threading.Thread(target=self.work, name="rales-model", daemon=True)

    def ask(self, job: Callable[[], Any]) -> Future[Any]:
        """A job that someone waits for. Errors: Full."""
        with self.changed:
            if len(self.asked) >= self.longest:
                raise QueueFull(f"{len(self.asked)} requests wait for the model already; try again in some seconds")
            future: Future[Any] = Future()
            self.asked.append((future, job))
            self.changed.notify()
        return future

    def add(self, recording: str) -> None:
        """A recording to score when nobody waits."""
        with self.changed:
            if recording not in self.turns:
                self.added += 1
                self.turns[recording] = self.added
                self.background.append(recording)
            self.changed.notify()

    def stop(self) -> None:
        """End after the job under way, unless that takes long; what waits is refused."""
        with self.changed:
            self.ended = True
            for future, _ in self.asked:
                future.cancel()
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join(LAST_S)

    def work(self) -> None:
        while True:
            with self.changed:
                while not (self.asked or self.background or self.ended):
                    self.changed.wait()
                if self.ended:
                    return
                future, job = self.asked.popleft() if self.asked else (None, None)
                recording = None if job else self.background.popleft()
                self.begun += recording is not None
            if future is not None and job is not None and future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # whoever waits hears of it
                    future.set_exception(error)
            elif recording is not None:
                try:
                    self.score(recording)
                except Exception:  # a full disk, say: the next one must have its turn
                    log.exception("scoring %s", recording)
            if recording is not None:
                with self.changed:
                    del self.turns[recording]
