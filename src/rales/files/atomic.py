"""Write files atomically, also across kills, full disks and power cuts; folders that one process owns.

What is not finished lies in a folder of its own, hidden beside its place (`.NAME.1a2b3c4d.part`), with a lock that ends
with the process that holds it. So whoever comes next can tell what a killed process left from what one is writing: a
process number could be in use again, or be another machine's on a shared disk.
"""

import errno
import inspect
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rales.errors import DiskFullError, FileError, FileProblem, FileSystemError
from rales.files.csv_cells import make_encodable
from rales.files.stores import refuse_url

LOCK = ".lock"
TEMPORARY = "rales."  # how the names of our folders in TMPDIR begin
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or a user's share of it
NAME_BYTES = 255  # the longest name that file systems take
UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.part")
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # what a file system without them answers
OLD_S = 24 * 3600.0  # without a change, where a file system has no locks: then it is nobody's any more


@contextmanager
def atomic_write(path: Path, bytes_needed: int = 0) -> Iterator[Path]:
    """`with atomic_write(path) as beside:` write `beside`; it becomes `path` if all went well, else it is removed.

    Its bytes are on the disk before it has its name, and the name when all is done. A full disk is turned into a
    sentence that says what was needed and what is free, another OSError into one that names `path`. A device or a pipe
    at `path` is left alone: an OSError; a URL is a UsageError.
    """
    refuse_url(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileSystemError(path, "a device or a pipe, which would be replaced; give the name of a file")
    try:
        make_durable_folder(path.parent)
        _remove_abandoned_once(path.parent)
        with own_folder(path.parent, f".{path.name}.") as folder:
            beside = folder / "part"
            yield beside
            sync_file(beside)
            beside.replace(path)
        sync_folder(path.parent)
    except Exception as error:
        sentence = _describe_write_error(error, path, bytes_needed)
        if sentence is None:
            raise
        raise sentence from error


def _describe_write_error(error: Exception, path: Path, bytes_needed: int) -> OSError | None:
    """What went wrong while `path` was written -> a sentence that names it, if the disk is to blame; None of an error
    that names a place itself, which may be on another disk."""
    if isinstance(error, FileProblem):
        return None
    # safetensors reports a full disk as its own error with the system's words in it
    if (isinstance(error, OSError) and error.errno in FULL) or "No space left" in str(error):
        needed = f"{bytes_needed / 2**20:.0f} MiB" if bytes_needed else "more"
        return DiskFullError(
            path,
            f"the disk is full ({needed} needed, {free_bytes(path) / 2**20:.0f} MiB free); what "
            "stood there before is untouched: make room and run the same command again",
        )
    if isinstance(error, OSError):
        return FileSystemError(path, f"cannot be written ({error.strerror or error})")
    return None


class NoLocks(Exception):
    """A file system that knows no locks."""


class Lock(FileLock):
    """A lock that ends with its process, or none: filelock's way out where there are none is a file that a killed
    process leaves."""

    def __init__(self, path: Path, **options: Any) -> None:
        if "fallback_to_soft" in inspect.signature(FileLock.__init__).parameters:
            options["fallback_to_soft"] = False
        super().__init__(path, **options)

    def _fallback_to_soft_lock(self, *_: object) -> None:
        raise NotImplementedError  # versions that do not know the option

    def acquire(self, *given: Any, **options: Any) -> Any:
        try:
            return super().acquire(*given, **options)
        except NotImplementedError as error:
            raise OSError(errno.ENOLCK, "its file system knows no locks", str(self.lock_file)) from error

    def take(self) -> None:
        """Errors: Timeout, another process holds it; NoLocks."""
        try:
            self.acquire(timeout=0)
        except Timeout as error:
            if _knows_no_locks(Path(self.lock_file)):
                raise NoLocks from error
            raise
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise NoLocks from error
            raise


def _knows_no_locks(path: Path) -> bool:
    """File that could not be locked -> whether none can be there. Older versions of filelock do not tell that from a
    lock that is held."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    return False


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """`with lock_folder(folder):` no other process works in the folder; what a killed one left half-written goes."""
    check_name(folder)
    make_folder(folder)
    lock = Lock(folder / LOCK)
    try:
        lock.take()
    except NoLocks as error:
        raise FileSystemError(folder, "its file system knows no locks; choose an --out on another disk") from error
    except Timeout as error:
        raise FileError(folder, "another process is at work there; wait for it or choose another --out") from error
    try:
        remove_abandoned(folder)
        yield
    finally:
        lock.release()  # the file stays: removed, it could be one that another process has just locked


def check_name(path: Path) -> None:
    """A path that is not UTF-8, which safetensors and Parquet neither write nor read, is a sentence."""
    if str(path) != make_encodable(str(path)):
        raise FileError(path, "the name is not UTF-8; rename the file or folder")


def make_folder(folder: Path) -> None:
    """Make a folder to write to; one that cannot be made or written to is a sentence."""
    try:
        make_durable_folder(folder)
        with tempfile.TemporaryFile(dir=folder, prefix="."):  # hidden, should a file system give it a name
            pass
    except OSError as error:
        raise FileSystemError(folder, f"cannot write there ({error.strerror}); choose another --out") from error


def make_durable_folder(folder: Path) -> None:
    """Make a folder, and those above it, that outlast a power cut. Errors: UsageError, a URL."""
    refuse_url(folder)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


@contextmanager
def written_by_library(path: Path) -> Iterator[None]:
    """`with written_by_library(path):` what a C++ library raises where `path` cannot be written, a RuntimeError that
    does not say why, becomes an OSError with what is free there."""
    try:
        yield
    except RuntimeError as error:
        why = f"{error}".partition("\n")[0].rstrip(":")
        elsewhere = ", or set TMPDIR to another folder" if Path(tempfile.gettempdir()) in path.parents else ""
        raise FileSystemError(
            path,
            f"cannot be written, {free_bytes(path) / 2**20:.1f} MiB are free there ({why}); make room and run "
            f"the same command again{elsewhere}",
        ) from error


def free_bytes(path: Path) -> int:
    """Path of a file that is there or not -> what is free on its disk."""
    return shutil.disk_usage(next(each for each in path.absolute().parents if each.exists())).free


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """`with temporary_folder() as folder:` a folder in TMPDIR for this user alone; those of killed processes go."""
    place = Path(tempfile.gettempdir())
    _remove_abandoned_once(place, TEMPORARY)
    with own_folder(place, TEMPORARY, mode=0o700) as folder:
        yield folder


@contextmanager
def own_folder(place: Path, prefix: str, mode: int = 0o777) -> Iterator[Path]:
    """A new folder `place`/`prefix`1a2b3c4d.part that is this process's while it lives; it is removed at the end. A
    prefix that would make its name too long is cut."""
    prefix = _shorten_prefix(prefix)
    while True:
        folder = place / f"{prefix}{secrets.token_hex(4)}.part"
        try:
            folder.mkdir(mode=mode)
        except FileExistsError:  # another process's
            continue
        lock = Lock(folder / LOCK, thread_local=False)
        try:
            # before it is locked another process may take it for an abandoned one
            with suppress(Timeout, FileNotFoundError, NoLocks):
                lock.take()
            if not folder.is_dir() or (not lock.is_locked and has_locks(place)):
                continue
            yield folder
            return
        finally:
            _remove_own_folder(folder, lock)


def _shorten_prefix(prefix: str) -> str:
    """Prefix that ends with a dot -> as much of it as a name of `own_folder` has room for, with the dot."""
    room = NAME_BYTES - len("1a2b3c4d.part")
    whole = os.fsencode(prefix)
    return prefix if len(whole) <= room else whole[: room - 1].decode(errors="ignore") + "."


def has_locks(place: Path) -> bool:
    """Whether files in a folder can be locked, which some network and container file systems cannot do."""
    lock = Lock(place / f".{secrets.token_hex(4)}.lock")
    try:
        lock.take()
        return True
    except NoLocks:
        return False
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def remove_abandoned(place: Path, prefix: str = ".") -> None:
    """Remove what killed processes left unfinished in a folder. What one is writing, on this machine or another, is
    locked and stays; where nothing can be locked, what has changed within a day stays."""
    for folder in unfinished_folders(place, prefix):
        with suppress(OSError):
            _remove_if_abandoned(folder)


def unfinished_folders(place: Path, prefix: str = ".") -> list[Path]:
    """Folder -> the folders in it that are named like those of `own_folder`; none where it cannot be looked through."""
    begin = _shorten_prefix(prefix)
    with suppress(OSError):
        return [each for each in place.iterdir() if each.name.startswith(begin) and UNFINISHED.fullmatch(each.name)]
    return []


@cache
def _remove_abandoned_once(place: Path, prefix: str = ".") -> None:
    """A folder may hold ten thousand files by the time the last of them is written, so it is looked through once."""
    remove_abandoned(place, prefix)


def _remove_if_abandoned(folder: Path) -> None:
    """Folder that is named like one of `own_folder` -> nothing; it is gone if it is one and its process is."""
    if folder.is_symlink() or not folder.is_dir():
        return
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():  # another user's, in a TMPDIR of all
        return
    if any(folder.iterdir()) and not (folder / LOCK).is_file():
        return
    # before the lock is tried: some versions of filelock empty its file, which is written to for nothing else
    changed = max(file.stat().st_mtime for file in (folder, *folder.rglob("*")) if file.name != LOCK)
    lock = Lock(folder / LOCK, thread_local=False)
    try:
        lock.take()
    except Timeout:
        return
    except NoLocks:
        if time.time() - changed < OLD_S:
            return
    _remove_own_folder(folder, lock)


def _remove_own_folder(folder: Path, lock: FileLock) -> None:
    """The lock goes last: a folder without one that holds something is not known to be ours."""
    with suppress(OSError):
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner, ignore_errors=True)
            elif inner.name != LOCK:
                inner.unlink()
    lock.release()
    with suppress(OSError):
        (folder / LOCK).unlink()
    with suppress(OSError):
        folder.rmdir()


def sync_tree(path: Path) -> None:
    """File, or folder with all that is in it -> the same on the disk, not in memory alone."""
    if path.is_dir():
        for inner in path.iterdir():
            sync_tree(inner)
        sync_folder(path)
    else:
        sync_file(path)


def sync_file(path: Path) -> None:
    """File -> its bytes on the disk. Errors: the disk is full or does not take them."""
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno in (errno.EIO, *FULL):
                raise  # others are file systems that know no such thing


def sync_folder(folder: Path) -> None:
    """Folder -> the names in it on the disk, where the system can: Windows opens no folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
