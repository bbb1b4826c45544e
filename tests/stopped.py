"""Work that is stopped at any of its file events: killed, or told that the disk is full. For POSIX, which has fork."""

import errno
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

How = Literal["kill", "full"]
Work = Callable[[], object]
EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def is_event(folder: str, event: str, arguments: tuple[Any, ...]) -> bool:
    """Audit event -> whether it changes files in the folder."""
    if event == "open":
        path, _, flags = arguments
        return isinstance(path, str | Path) and str(path).startswith(folder) and bool((flags or 0) & WRITING)
    return event in EVENTS and str(arguments[0]).startswith(folder)


def stopped(work: Work, folder: Path, at: int, how: How) -> bool:
    """Work in a process of its own, stopped before the `at`-th event that changes files in `folder` (from 0) ->
    whether it was; a disk that is full stays so."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if is_event(str(folder), event, arguments):
            seen += 1
            if seen == at + 1 and how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if seen > at and how == "full" and event in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def tree(folder: Path) -> dict[str, bytes]:
    """Folder -> its files, without locks -> content; unfinished ones too."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def check_every_stop(
    work: Callable[[Path], object], place: Path, how: How, *, every: int = 1, exists: bool = False
) -> int:
    """`work`, given the folder `place`/out (made before, if it `exists`), stopped at every event, or every third or
    so, and done again -> the number of stops. AssertionError: it leaves something else than undisturbed work does.
    """

    def afresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        (place / "out" if exists else place).mkdir(parents=True)
        return place / "out"

    work(afresh())
    expected = tree(place)
    for at in itertools.count(0, every):
        out = afresh()
        if not stopped(lambda out=out: work(out), place, at, how):  # type: ignore[misc]
            return at // every
        work(out)
        assert tree(place) == expected, f"{how} at event {at}"
        assert not list(place.rglob("*.part")), f"{how} at event {at}"
    raise AssertionError
