"""Where a batch job keeps its shards: a folder of this machine, or a place in an object store.

Of both holds: a file is there whole or not at all, and a shard's file in `status` comes last. A store knows no rename
and needs none, since it shows an object only when its last byte has come.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from rales.errors import FileError, MissingFileError, UsageError
from rales.files.atomic import lock_folder, make_folder, remove_abandoned, temporary_folder
from rales.files.json_files import parse_json, to_jsonable
from rales.files.stores import StoreError, ask_store, open_file_system
from rales.files.writers import write_json
from rales.optional_packages import summarise_error
from rales.training import run_folder

KINDS = ("cycles", "summary", "status")  # in the order of writing
JOB = "job.json"
TOGETHER = 100  # files of a store that are asked for at once
# whose objects are there whole or not at all
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss")


class ShardFolder(Protocol):
    """OUT of a batch job."""

    address: str  # path or URL by which another process, in another folder, opens it

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes out, where it can be done, and clear away what killed ones left."""

    def claim(self, job: dict[str, Any]) -> dict[str, Any]:
        """-> the job whose folder it is: this one if it was nobody's. Errors: it holds something else."""

    def list_done(self) -> set[str]:
        """-> names of the shards that are done."""

    def write(self, name: str) -> AbstractContextManager[Path]:
        """`with folder.write(name) as place:` what is written to place/KIND/name is there afterwards."""

    def read_status(self, names: set[str]) -> Iterator[tuple[str, Any]]:
        """Names of shards -> path of the status of each and what Parquet reads it from, in order."""


def open_shard_folder(out: str | Path) -> ShardFolder:
    """Path or URL -> the folder. Errors: UsageError, a URL of what is no object store, or of no bucket."""
    protocol, mark, place = str(out).partition("://")
    if not mark:
        return DiskFolder(Path(out))
    if protocol == "file" and place:
        return DiskFolder(Path(open_file_system(str(out))[1]))
    if protocol not in OBJECT_STORES or place[:1] in ("", "/"):
        raise UsageError(f"--out {out}: expected a folder, or one in a bucket of an object store (s3://bucket/folder)")
    return StoreFolder(str(out))


class DiskFolder:
    """A folder of this machine, or of a file system that the workers' machines share."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.address = str(place.resolve())

    @contextmanager
    def lock(self) -> Iterator[None]:
        with lock_folder(self.place):
            self._remove_half_written()
            yield
            self._remove_half_written()

    def claim(self, job: dict[str, Any]) -> dict[str, Any]:
        if (self.place / JOB).exists():
            job = run_folder.read_json(self.place / JOB)
        elif found := run_folder.unexpected_files(self.place):
            raise describe_stranger(self.place, found[0])
        else:
            write_json(self.place / JOB, job)  # before all else: a folder without it is somebody else's
        for kind in KINDS:
            make_folder(self.place / kind)
        return job

    def list_done(self) -> set[str]:
        return {path.name for path in (self.place / "status").glob("part-*.parquet")}

    def write(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self.place)

    def read_status(self, names: set[str]) -> Iterator[tuple[str, Any]]:
        for name in sorted(names):
            yield str(self.place / "status" / name), self.place / "status" / name

    def _remove_half_written(self) -> None:
        """What killed workers left."""
        for kind in KINDS:
            remove_abandoned(self.place / kind)


class StoreFolder:
    """A place in an object store. It has no lock: who works there at the same time does the same work twice."""

    def __init__(self, url: str) -> None:
        self.url = self.address = url.rstrip("/")
        self.files, self.place = open_file_system(self.url)

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def claim(self, job: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._read_job()
        except FileNotFoundError:
            if found := sorted(self._list(self.place)):
                raise describe_stranger(self.url, found[0]) from None
        place, content = f"{self.place}/{JOB}", json.dumps(to_jsonable(job), indent=2).encode() + b"\n"
        try:
            create = partial(self.files.pipe_file, place, content, mode="create")
            self._ask(create, NotImplementedError, FileExistsError)
        except NotImplementedError:  # a store that can only replace
            self._ask(partial(self.files.pipe_file, place, content))
        except FileExistsError:  # another command was faster, or the answer to a first try was lost
            pass
        return self._read_job()

    def list_done(self) -> set[str]:
        return {name for name in self._list(f"{self.place}/status") if name.startswith("part-")}

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        with temporary_folder() as folder:
            for kind in KINDS:
                (Path(folder) / kind).mkdir()
            yield Path(folder)
            for kind in KINDS:
                if (file := Path(folder) / kind / name).exists():
                    self._ask(
                        lambda file=file, kind=kind: self.files.put_file(str(file), f"{self.place}/{kind}/{name}")
                    )

    def read_status(self, names: set[str]) -> Iterator[tuple[str, Any]]:
        every = sorted(names)
        for start in range(0, len(every), TOGETHER):
            some = every[start : start + TOGETHER]
            places = [f"{self.place}/status/{name}" for name in some]
            try:
                found = self._ask(partial(self._fetch, places), FileNotFoundError)
            except FileNotFoundError as error:
                reason = "a file of it was removed meanwhile; the same command computes its shard again"
                raise MissingFileError(f"{self.url}/status", reason) from error
            for name, content in zip(some, found, strict=True):
                yield f"{self.url}/status/{name}", BytesIO(content)

    def _fetch(self, places: list[str]) -> list[bytes]:
        """Paths in the store -> their bytes. Errors: the first that there is."""
        found = []
        for content in self.files.cat_ranges(places, None, None):  # at once, where the store can
            if isinstance(content, Exception):
                raise content
            found.append(content)
        return found

    def _read_job(self) -> dict[str, Any]:
        self.files.invalidate_cache()
        stored = self._ask(partial(self.files.cat_file, f"{self.place}/{JOB}"), FileNotFoundError)
        job = parse_json(stored, f"{self.url}/{JOB}")
        if not isinstance(job, dict):
            raise FileError(f"{self.url}/{JOB}", f"holds a JSON {type(job).__name__}, expected an object")
        return job

    def _list(self, place: str) -> set[str]:
        """Folder of the store -> names in it; a store has no empty folders, so one that is not there holds nothing."""
        self.files.invalidate_cache()
        try:
            names = self._ask(partial(self.files.ls, place, detail=False), FileNotFoundError)
        except FileNotFoundError:
            return set()
        inside = {name.rstrip("/").rpartition("/")[2] for name in names if name.rstrip("/") != place}
        return {name for name in inside if not name.startswith(".")}

    def _ask(self, request: Any, *expected: type[Exception]) -> Any:
        """Errors: those that are expected, else a StoreError: no shard of the job will fare better."""
        try:
            return ask_store(self.url, request)
        except Exception as error:
            if isinstance(error, (StoreError, *expected)):
                raise
            raise StoreError(
                self.url, f"the store refuses that ({summarise_error(error)}); choose another --out"
            ) from error


def describe_stranger(place: str | Path, found: str) -> FileError:
    return FileError(place, f"not a folder of predictions, but it holds {found}; choose an empty --out")
