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
    """One thread that works off jobs. `score` is what is done with a recording of the background's line."""

    def __init__(self, score: Callable[[str], None], longest: int) -> None:
        self.score, self.longest = score, longest
        self.asked: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.background: deque[str] = deque()
        self.current: str | None = None
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
            if recording not in self.background:
                self.background.append(recording)
            self.changed.notify()

    def ahead(self, recording: str) -> int | None:
        """-> how many jobs go before a recording, 0 while it is worked on; None if it is in no line."""
        with self.changed:
            if recording == self.current:
                return 0
            if recording not in self.background:
                return None
            busy = self.current is not None
            return self.background.index(recording) + len(self.asked) + busy

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
                self.current = None if job else self.background.popleft()
                recording = self.current
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
            with self.changed:
                self.current = None
