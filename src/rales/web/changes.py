"""Which recordings have changed, and in which order: what the stream of a session's list is made of."""

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

REMEMBERED = 20_000  # recordings; whoever has heard of none of these changes asks for the whole list


class Changes:
    """The changes since the service started. Their numbers grow, also from one service to the next one of the folder. A
    mark, `START-NUMBER`, says up to which one somebody has heard."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.start, self.remembered = secrets.token_hex(4), remembered
        self.first = self.number = time.time_ns() // 1_000_000  # no service makes more than a thousand a second
        self.forgotten = self.first  # number of the last change that is not known any more
        self.numbers = OrderedDict[str, int]()  # recording -> its last change, the oldest first
        self.lock = threading.Lock()
        self.listeners = dict[asyncio.Event, asyncio.AbstractEventLoop]()
        self.ended = False

    def add(self, *recordings: str) -> None:
        """These have changed; from any thread, once it is on the disk. Without any, listeners are only woken."""
        with self.lock:
            for recording in recordings:
                self.number += 1
                self.numbers[recording] = self.number
                self.numbers.move_to_end(recording)
            while len(self.numbers) > self.remembered:
                self.forgotten = self.numbers.popitem(last=False)[1]
            for event, loop in self.listeners.items():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def end(self) -> None:
        """Nobody waits for a change any more."""
        self.ended = True
        self.add()

    def of(self, recording: str) -> int:
        """-> number of a recording's last change. Whoever asks before reading it reads no older state than that."""
        return self.numbers.get(recording, self.first)

    def mark(self, number: int | None = None) -> str:
        return f"{self.start}-{self.number if number is None else number}"

    def after(self, mark: str, most: int) -> tuple[list[str], str] | None:
        """-> at most so many recordings that have changed since a mark, the earliest first, and the mark up to there;
        None where that is not known: the service was started anew, or too much has happened."""
        start, _, number = mark.partition("-")
        with self.lock:
            if start != self.start or not number.isdecimal() or not self.forgotten <= int(number) <= self.number:
                return None
            later = list[str]()
            for recording, each in reversed(self.numbers.items()):
                if each <= int(number):
                    break
                later.append(recording)
            changed = later[::-1][:most]
            return changed, self.mark(self.numbers[changed[-1]] if len(changed) < len(later) else None)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """-> an event of this thread's loop that every change sets."""
        event = asyncio.Event()
        with self.lock:
            self.listeners[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self.lock:
                del self.listeners[event]
