"""What a command leaves behind, so that it can be held against what an undisturbed one does."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

OWN_TIME = {"seconds", "built_s"}  # no two runs share them
KEY = r"[0-9a-f]{32}"
FOLDER = "a folder"
UNDER_WAY = (".part", ".partial", ".building", ".unpacking", ".tag")  # names of what is not final yet


class Unreadable(Exception):
    """A file that is not a whole one of its kind."""


def left_by(root: Path) -> dict[str, Any]:
    """Folder -> name of every file and folder in it -> its content, `Unreadable` for what is damaged or cut.

    Keys of the cache follow from times of files, so they are numbered instead.
    """
    keys: dict[str, str] = {}
    found = {}
    for path in sorted(root.rglob("*")):
        name = re.sub(KEY, lambda key: keys.setdefault(key[0], f"KEY{len(keys)}"), str(path.relative_to(root)))
        found[name] = content_of(path, root)
    return found


def content_of(path: Path, root: Path) -> Any:
    """-> what two files share that say the same."""
    if path.is_dir():
        return FOLDER
    try:
        return READERS.get(path.suffix, hashed)(path, str(root))
    except Exception as error:  # each reader has its own kinds
        return Unreadable(f"{type(error).__name__}: {error}"[:200])


def hashed(path: Path, root: str) -> str:
    """Bytes -> SHA-256, the trial's folder left out of texts."""
    return hashlib.sha256(path.read_bytes().replace(root.encode(), b"ROOT")).hexdigest()


def json_content(path: Path, root: str) -> Any:
    return timeless(json.loads(path.read_text().replace(root, "ROOT")))


def lines_content(path: Path, root: str) -> Any:
    return [timeless(json.loads(line)) for line in path.read_text().replace(root, "ROOT").splitlines()]


def tensors_content(path: Path, root: str) -> Any:
    with safe_open(path, framework="np") as file:
        about = {name: value.replace(root, "ROOT") for name, value in (file.metadata() or {}).items()}
        about.pop("sha256", None)  # of the whole file, with the times in its record
        record = timeless(json.loads(about.pop("rales", "null")))
        return record, about, {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def parquet_content(path: Path, root: str) -> Any:
    table = pq.read_table(path, use_threads=False)  # threads would not survive the next fork
    return json.loads(json.dumps(table.to_pydict(), default=str).replace(root, "ROOT"))


def arrays_content(path: Path, root: str) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name].tolist() for name in arrays.files}


def index_content(path: Path, root: str) -> Any:
    from usearch.index import Index

    index: Any = Index.restore(str(path))
    return {int(key): np.asarray(index.get(key)).tobytes() for key in sorted(index.keys)}  # its graph is drawn by lot


READERS = {
    ".usearch": index_content,
    ".json": json_content,
    ".jsonl": lines_content,
    ".safetensors": tensors_content,
    ".parquet": parquet_content,
    ".npz": arrays_content,
}


def timeless(value: Any) -> Any:
    """JSON value -> without what tells when: seconds, the time of a file that the command made itself, and whether a
    sweep's run was done now or before."""
    if isinstance(value, Mapping):
        kept = {name: timeless(part) for name, part in value.items() if name not in OWN_TIME}
        return {**kept, "state": "done"} if kept.get("state") == "skipped" else kept
    if isinstance(value, list):
        own_file = len(value) == 3 and str(value[0]).startswith("ROOT/")  # name, bytes, time
        return [timeless(part) for part in (value[:2] if own_file else value)]
    return value


def half_written(left: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> list[str]:
    """Names under final names that are cut or say something else than the undisturbed run's.

    What is read as JSON, tensors or tables must be readable, whether or not it is the last that the file is to say;
    any other file is written once, so it is the same or not there.
    """
    bad = []
    for name, content in left.items():
        parts = Path(name).parts
        if name.startswith("tmp/") or any(part.startswith(".") or part.endswith(UNDER_WAY) for part in parts):
            continue
        if isinstance(content, Unreadable):
            bad.append(f"{name} ({content})")
        elif Path(name).suffix not in READERS and name in undisturbed and content != undisturbed[name]:
            bad.append(f"{name} (not as undisturbed)")
    return bad


def under_way(left: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> list[str]:
    """Names of what a command had under way and should have removed, since nobody killed it. What a download goes on
    from stays."""
    return [
        name
        for name in left
        if name not in undisturbed
        and (name.startswith("tmp/") or ".building" in name or Path(name).name.startswith("."))
        and not name.endswith(".lock")
    ]


def differences(left: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """-> names that are missing or say something else; names that are too many."""
    other = [f"{name} is missing" for name in undisturbed if name not in left]
    other += [name for name in left if name in undisturbed and left[name] != undisturbed[name]]
    return other, [name for name in left if name not in undisturbed]
