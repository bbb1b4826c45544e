"""Seal files with their own SHA-256, so that damage which leaves a file readable is found.

A seal is the text `rales-sha256:` and 64 hexadecimal digits, somewhere in the file's own metadata: those of safetensors
(in the record), ONNX, OpenVINO and Parquet, the comment of a zip (npz, torch), the end of a search index. The digits
are the SHA-256 of all bytes of the file, with zeros in the digits' place. A seal finds accidents: whoever changes a
file on purpose can seal it again.
"""

import hashlib
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

from rales.errors import FileError

UNSEALED = f"rales-sha256:{64 * '0'}"
"""What a writer puts into a file's metadata, for `seal_file` to fill in."""

_SEAL = re.compile(rb"rales-sha256:([0-9a-f]{64})")
_PIECE_BYTES = 2**20

Content = bytes | mmap.mmap


def seal_file(path: Path) -> None:
    """Fill in the seal of a file, whatever its digits say; the last write before the file is renamed into place.

    Errors: a file without one.
    """
    with _map_file(path) as content:
        match = _SEAL.search(content)
        if match is None:
            raise FileError(path, f"no place for a seal ({UNSEALED}) among its metadata")
        start, digits = match.start(1), _compute_digest(content, match.start(1))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(digits.encode())


def seal_zip(path: Path) -> None:
    """Zip archive without a comment -> the same with a seal, which readers of zip, npz and torch files pass over."""
    with ZipFile(path, "a") as archive:
        archive.comment = UNSEALED.encode()
    seal_file(path)


def check_seal(path: Path, what: str, *, needed: bool = True) -> str:
    """File, and `what` it is to be ("an artefact of …") -> its digits; "" where it has no seal and needs none.

    Errors: other bytes than were sealed, no seal.
    """
    with _map_file(path) as content:
        match = _SEAL.search(content)
        if match is None:
            if needed:
                raise FileError(
                    path,
                    f"not {what}, or cut or damaged, since it holds no SHA-256 of itself; copy it again or "
                    "make it again",
                )
            return ""
        digits = match[1].decode()
        if _compute_digest(content, match.start(1)) != digits:
            raise FileError(
                path,
                f"{what} that was damaged or changed after it was written, since its SHA-256 is not the one "
                "that it names; copy it again or make it again",
            )
        return digits


@contextmanager
def _map_file(path: Path) -> Iterator[Content]:
    """Path -> its bytes, mapped, as run files may be larger than memory."""
    with path.open("rb") as file:
        if not path.stat().st_size:  # cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _compute_digest(content: Content, start: int) -> str:
    """Bytes of a file and where the digits of its seal begin -> what they should be."""
    sha256 = hashlib.sha256()
    for place in range(0, start, _PIECE_BYTES):
        sha256.update(content[place : min(place + _PIECE_BYTES, start)])
    sha256.update(b"0" * 64)
    for place in range(start + 64, len(content), _PIECE_BYTES):
        sha256.update(content[place : place + _PIECE_BYTES])
    return sha256.hexdigest()
