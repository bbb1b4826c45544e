"""Limit the open connections of the service, and choose which one is closed when there are too many.

A visitor whom the service waits for (for the head of a request, for the rest of an upload, for an answer to be read)
keeps a place only as long as nobody else needs it: a newcomer takes the place of the one that has kept the service
waiting longest, first among those of its own address. So whoever holds many connections and says nothing takes nothing
from those who do. What stands still for too long is closed without anybody needing its place.

uvicorn closes idle connections between two requests and ends its tasks at the end of the service; for all else it has
no limit but on requests under way, which it answers in plain text. hypercorn, the other kept server, has a time-out
for heads, but neither a limit on connections nor a time-out for visitors that read nothing.
"""

import json
import logging
import resource
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from rales.web.settings import Limits, visitor_key

BACKLOG = 64  # connections that are taken from the system at once, each an open file before it can be counted
SPARE = 200  # open files that are no connection and not opened for one, at most
STILL_S = 1.0  # without a byte, after which an upload or an answer counts as standing still
FILES = 3  # that one connection may need: its own, the sound it sends or receives, the table of sessions


class ConnectionLimits:
    """The open connections of one service. `most` and `each`: how many in all, and of one visitor's address."""

    def __init__(self, limits: Limits) -> None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = limits.connections if files == resource.RLIM_INFINITY else (files - SPARE) // FILES
        self.limits, self.most = limits, max(8, min(limits.connections, room))
        self.each = self.most // 2
        self.taken: dict[Any, str] = {}  # connection -> visitor
        self.refused: dict[Any, str] = {}  # those that are told so, as soon as their head has come

    def enter(self, new: Any) -> bool:
        """A connection takes a place; -> False where none is free and none becomes free."""
        address = visitor_key(new.client)
        holders = Counter(self.taken.values())
        crowds: list[str] = []
        if holders[address] >= self.each:
            crowds = [address]
        elif len(self.taken) >= self.most:
            crowds = [whose for whose, _ in holders.most_common()]
        given_up = next(filter(None, map(self.longest_waiting, crowds)), None)
        if crowds and given_up is None:
            self.refused[new] = address
            given_up = next(iter(self.refused)) if len(self.refused) > BACKLOG else None
        else:
            self.taken[new] = address
        if given_up is not None:
            self.leave(given_up)
            given_up.drop()
        return new in self.taken

    def leave(self, connection: Any) -> None:
        self.taken.pop(connection, None)
        self.refused.pop(connection, None)

    def longest_waiting(self, address: str) -> Any:
        """-> the connection of an address that the service has been waiting for longest, None if for none. Uploads and
        answers under way do not count before they stand still."""
        now = time.monotonic()
        waiting = [one for one, whose in self.taken.items() if whose == address and one.waits()]
        waiting = [one for one in waiting if one.awaits_head() or now - one.moved > STILL_S]
        return min(waiting, key=lambda one: one.moved, default=None)

    async def sweep(self) -> None:
        """Close what has stood still for too long."""
        now = time.monotonic()
        for one in [*self.taken, *self.refused]:
            unread = one.waits() and one.unread_bytes > 0  # the guard tells whoever stops sending
            slow_s = now - (one.moved if unread else one.begun)
            if (unread and slow_s > self.limits.pause_s) or (one.awaits_head() and slow_s > self.limits.head_s):
                one.drop()

    def end(self) -> None:
        """Close every connection whose visitor keeps the service waiting."""
        for one in [*self.taken, *self.refused]:
            if one.waits():
                one.drop()


def make_protocol_class(places: ConnectionLimits) -> Any:
    """-> uvicorn's protocol for a connection, which takes a place."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class JsonErrorProtocol(H11Protocol):
        """`moved`: when the visitor last sent or read something; `begun`: when the service began to wait for a head."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.moved = self.begun = time.monotonic()
            self.unread_bytes = 0
            if not places.enter(self):
                self.app = refuse_when_full

        def connection_lost(self, exc: Exception | None) -> None:
            places.leave(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self.moved = time.monotonic()
            super().data_received(data)

        def resume_writing(self) -> None:
            self.moved = time.monotonic()
            super().resume_writing()

        def on_response_complete(self) -> None:
            self.begun = time.monotonic()
            super().on_response_complete()

        def awaits_head(self) -> bool:
            """Whether the last answer has been read and no other request is under way."""
            answered = self.cycle is None or self.cycle.response_complete
            return answered and self.transport.get_write_buffer_size() == 0

        def waits(self) -> bool:
            """Whether it is the visitor's turn: to send a head, the rest of a body, or to read an answer."""
            unread_bytes = self.transport.get_write_buffer_size()
            if unread_bytes != self.unread_bytes:
                self.unread_bytes, self.moved = unread_bytes, time.monotonic()
            reads = unread_bytes > 0 or (self.cycle is not None and self.cycle.response_started)
            return self.awaits_head() or reads or (self.cycle.more_body and not self.flow.read_paused)

        def drop(self) -> None:
            """Close at once; the system does not go on keeping what was written for who does not read."""
            line = self.transport.get_extra_info("socket")
            with suppress(OSError):  # closed already
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

        def send_400_response(self, _: str) -> None:
            """What is no HTTP never reaches the service; the server's own answer to it is plain text."""
            said = json.dumps({"detail": "the request is not valid HTTP; check its first line, headers and lengths"})
            head = f"content-type: application/json\r\ncontent-length: {len(said)}\r\nconnection: close"
            self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n\r\n{said}".encode())
            self.transport.close()

    return JsonErrorProtocol


async def refuse_when_full(_scope: Any, _receive: Any, send: Any) -> None:
    """The answer to whoever finds no place."""
    said = json.dumps({"detail": "all places are taken by requests under way; try again in some seconds"}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(said)), "retry-after": "2"}
    encoded = [(name.encode(), value.encode()) for name, value in {**headers, "connection": "close"}.items()]
    await send({"type": "http.response.start", "status": 503, "headers": encoded})
    await send({"type": "http.response.body", "body": said})


def quieten_logs() -> None:
    """No visitor fills a disk with what the server and its event loop log."""
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(LOG_RATE_FILTER)


class LogRateFilter(logging.Filter):
    """Lets each sentence of a log through once in `pause_s` seconds."""

    def __init__(self, pause_s: float = 10.0) -> None:
        super().__init__()
        self.pause_s = pause_s
        self.last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        about = f"{record.msg}{record.exc_info[1] if record.exc_info else ''}"[:300]
        if record.created - self.last.get(about, -self.pause_s) < self.pause_s:
            return False
        if len(self.last) > 1000:
            self.last.clear()
        self.last[about] = record.created
        return True


LOG_RATE_FILTER = LogRateFilter()  # one, which is added once however many services there were
