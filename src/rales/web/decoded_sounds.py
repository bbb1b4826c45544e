"""The decoded sound of recordings: made from the file that came, or lies in the project, when somebody asks for it.

It is larger than most files that it is made of, so it does not stay: what nobody has asked for in a while goes as soon
as all of it takes more than a share of what the files take, and all of it when a service ends.
"""

import asyncio
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from rales.typing import Row
from rales.web import cycle_edits
from rales.web.security import ApiError
from rales.web.store import SOUND, Store

if TYPE_CHECKING:
    from rales.web.service import Service

KEPT_S = 600.0  # since it was asked for last, however large it is: whoever has asked may still read it
SHARE = 0.2  # of the size of all files
SWEEP_S = 60.0


class DecodedSounds:
    """The decoded sound of one service."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.used = OrderedDict[str, float]()  # recording -> when it was asked for last, the oldest first
        self.lock = threading.Lock()
        there = service.store.sounds()  # few of 10,000
        for row in service.store.rows("SELECT id, path, linked FROM recordings"):
            if row["id"] in there and (row["linked"] or service.store.has_upload(row)):
                remove_sound(service.store, row)  # what the service before had decoded

    def use(self, recording: str) -> None:
        """A recording was asked for now."""
        with self.lock:
            self.used[recording] = time.monotonic()
            self.used.move_to_end(recording)

    def ensure(self, row: Row) -> None:
        """Have a recording (a row of the store) decoded where it is not; from any thread but the service's own. Without
        its file nothing is done. Errors: ApiError."""
        service = self.service
        if row["linked"] and service.project:
            service.project.check_unchanged(row)
        original = service.original_sound(row)
        if original is None or original.name in SOUND:  # of a service before, which kept nothing else
            return
        self.use(row["id"])
        if not service.store.has_decoded(row["id"]):
            service.wait(self.decode(row, original))
            if row["linked"] and service.project:
                service.project.check_unchanged(row)  # while it was decoded

    async def decode(self, row: Row, original: Path) -> None:
        async with self.service.decoded_file(original, cycle_edits.recording_title(row["path"])) as decoded:
            await asyncio.to_thread(self.put_down, row, decoded)

    def put_down(self, row: Row, decoded: Path) -> None:
        """A folder with the decoded sound of a recording -> its place, where the recording was not removed meanwhile.
        Errors: ApiError."""
        store, place = self.service.store, self.service.store.place(row["id"])
        with store.clearing:
            standing = store.recording(row["id"], self.service.models.default)
            if standing is None:
                raise ApiError(404, "no such recording; it may have been removed")
            place.mkdir(parents=True, exist_ok=True)
            for name in SOUND:
                (decoded / name).replace(place / name)
            if row["linked"] and standing["origin"] == "annotation":  # the model is to answer for these cycles
                lines = [f"{cycle['start_s']}\t{cycle['end_s']}\n" for cycle in standing["original"] or []]
                (place / "audio.txt").write_text("".join(lines))

    async def sweep(self) -> None:
        """Remove what nobody has asked for in a while, again and again."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await asyncio.to_thread(self.trim)

    def trim(self, kept_s: float = KEPT_S, share: float = SHARE) -> None:
        store, now = self.service.store, time.monotonic()
        with self.lock:  # so that nobody is told that it is there meanwhile
            old = [recording for recording, used in self.used.items() if now - used >= kept_s]
            if not old:
                return
            rows = {row["id"]: row for row in store.rows("SELECT id, path, linked FROM recordings")}
            room = share * sum(map(self.file_bytes, rows.values())) - sum(map(self.decoded_bytes, self.used))
            for recording in old:
                if room >= 0:
                    break
                room += self.decoded_bytes(recording)
                del self.used[recording]
                remove_sound(store, rows.get(recording, {"id": recording, "linked": ""}))

    def file_bytes(self, row: Row) -> int:
        original = self.service.original_sound(row)
        return original.stat().st_size if original is not None else 0

    def decoded_bytes(self, recording: str) -> int:
        files = [self.service.store.place(recording) / name for name in SOUND]
        return sum(file.stat().st_size for file in files if file.is_file())


def remove_sound(store: Store, row: Row) -> None:
    """Remove the decoded sound of a recording; what is made of it anew goes, the text that came along stays."""
    place = os.fspath(store.place(row["id"]))
    for name in (*SOUND, *(["audio.txt"] if row["linked"] else [])):
        Path(place, name).unlink(missing_ok=True)
