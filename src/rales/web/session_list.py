"""The lines of a session's list: kept as they are sent, handed out in parts, and sent again as they change.

A line takes most of a millisecond to make, so of 10,000 recordings each is made once, and again where its stamp
(store.STAMPS) is another one. What is not made yet delays no answer: a part ends where its time is over.
"""

import asyncio
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from rales.typing import Row
from rales.web import stored_rows
from rales.web.security import ApiError
from rales.web.store import NOBODY, Who

if TYPE_CHECKING:
    from rales.web.service import Service

KEPT = 40_000  # lines, of all sessions and readers
AT_ONCE = 15  # lines that are made between two looks at the clock
SENT = 200  # changed lines of one message
PAUSE_S = 0.2  # between two messages, in which changes gather
SILENCE_S = 20.0  # after which a message without a change says that the service is there
FIRST = (-1.0, "")


class ListPart(NamedTuple):
    """Lines as JSON, and where the next part begins, None behind the last line."""

    lines: list[bytes]
    next: str | None


class SessionList:
    """The lines of all sessions of a service."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.kept = OrderedDict[tuple[str, Who], tuple[tuple[Any, ...], bytes]]()  # the ones used last at the end
        self.lock = threading.Lock()

    def part(self, session: str, who: Who = NOBODY, after: str = "", most: int = -1, budget_s: float = 1e9) -> ListPart:
        """-> at most so many lines (-1: all) behind a place that `next` gave, fewer if more of them than are made in
        that time are not there yet. Errors: ApiError for a place that was never given."""
        store, model = self.service.store, self.service.models.default
        stamps = self.stamped(store.stamps(session, model, who, read_place(after), most), session, who)
        lines, begun = list[bytes](), time.monotonic()
        for first in range(0, len(stamps), AT_ONCE):
            if lines and time.monotonic() - begun > budget_s:
                break
            lines += self.made(stamps[first : first + AT_ONCE], who)
        ended = len(lines) == len(stamps) and (most < 0 or len(stamps) < most)
        last = stamps[len(lines) - 1][0] if lines else None
        return ListPart(lines, None if ended or last is None else write_place(last))

    def changed(self, session: str, who: Who, recordings: list[str]) -> tuple[list[bytes], list[str]]:
        """-> the lines of those recordings that are in a session, and the ids of the others."""
        rows = self.service.store.stamps_of(session, self.service.models.default, who, recordings)
        lines = self.made(self.stamped(rows, session, who), who)
        return lines, sorted({*recordings} - {row["id"] for row in rows})

    def stamped(self, rows: list[Row], session: str, who: Who) -> list[tuple[Row, tuple[Any, ...]]]:
        """Rows of store.STAMPS -> each with all that its line depends on."""
        service = self.service
        changed = service.models.changed(service.models.default)
        own = {}
        if who.reader:  # whose line depends on what stands for all, too
            ids = [row["id"] for row in rows]
            standing = service.store.stamps_of(session, service.models.default, NOBODY, ids)
            own = {row["id"]: tuple(row.values()) for row in standing}
        return [
            (
                row,
                (
                    *row.values(),
                    changed,
                    own.get(row["id"]),
                    service.missing_sound(row),
                    service.queue.turns.get(row["id"]),
                ),
            )
            for row in rows
        ]

    def made(self, stamps: list[tuple[Row, tuple[Any, ...]]], who: Who) -> list[bytes]:
        """Stamped rows -> their lines, in the same order; one that was removed in this moment is left out."""
        found = {
            row["id"]: kept[1]
            for row, stamp in stamps
            if (kept := self.kept.get((row["id"], who))) and kept[0] == stamp
        }
        stale = [row["id"] for row, _ in stamps if row["id"] not in found]
        found |= {facts["id"]: json.dumps(facts).encode() for facts in self.service.listed_of(stale, who)}
        there = [(row["id"], stamp) for row, stamp in stamps if row["id"] in found]
        with self.lock:
            for recording, stamp in there:
                self.kept[recording, who] = stamp, found[recording]
                self.kept.move_to_end((recording, who))
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return [found[recording] for recording, _ in there]

    # As it happens

    async def follow(self, session: str, who: Who, since: str) -> AsyncIterator[str]:
        """-> messages of an event stream: `recordings` that have changed since a mark, ids of those that are `gone`,
        the turn that is worked on (`begun`) and how far the folder is taken in; an event `again` where nobody knows
        what has changed since then."""
        changes = self.service.store.changes
        with changes.listening() as heard:
            while not changes.ended:
                heard.clear()
                found = changes.after(since, SENT)
                if found is None:
                    since = changes.mark()
                    yield f"id: {since}\nevent: again\ndata: {{}}\n\n"
                    continue
                recordings, since = found
                lines, gone = await asyncio.to_thread(self.changed, session, who, recordings)
                about = json.dumps({"gone": gone, **self.progress()})
                yield f'id: {since}\ndata: {{"recordings": [{b",".join(lines).decode()}], {about[1:]}\n\n'
                if len(recordings) < SENT:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(heard.wait(), SILENCE_S)
                    await asyncio.sleep(0 if changes.ended else PAUSE_S)

    def progress(self) -> Row:
        """-> `begun`, the turn of the recording that the model works on, and `taken`: files of the folder that are
        taken in and all of them, None where that is over."""
        project = self.service.project
        return {"begun": self.service.queue.begun, "taken": project.taken if project else None}


def write_place(row: Row) -> str | None:
    """A row of the store -> its place in the order of a session."""
    added = stored_rows.finite_number(row["added"])
    return None if added is None else f"{added!r}_{row['id']}"


def read_place(place: str) -> tuple[float, str]:
    """A place of `write_place`, "" for that before the first one -> what the store orders by. Errors: ApiError."""
    if not place:
        return FIRST
    added, _, recording = place.partition("_")
    with suppress(ValueError):
        if math.isfinite(float(added)):
            return float(added), recording
    raise ApiError(422, f"after: {place[:60]!r} is no place in the list; send the `next` of an answer, or nothing")
