"""Read JSON files strictly; anything that is not plain JSON is an error that names the file.

Run folders, records and the files beside them are copied, edited and damaged, so they are read here: a file that is
none (a pipe, a folder, gigabytes), bytes that are no UTF-8, nesting that no reader survives, NaN and Infinity, numbers
beyond 64 bits, halves of characters (lone surrogates) and names that stand twice in one object are all refused.
"""

import json
import math
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rales.errors import FileError, FileSystemError
from rales.files.csv_cells import make_encodable

MOST_BYTES = 2**28
DEEPEST = 64  # levels of lists and objects; our own files have six
LARGEST = 2**63
DAMAGED = "the file was damaged after it was written; copy it again"


class _Impossible(ValueError):
    """What stands in a text that is JSON to its letters, but to no sense."""


def read_json(path: Path, advice: str = DAMAGED) -> Any:
    """File -> the value in it. Errors: FileNotFoundError; a sentence that ends in `advice` for all that is no JSON."""
    return parse_json(read_plain_file(path, advice), str(path), advice)


def read_json_lines(path: Path, advice: str = DAMAGED) -> list[Any]:
    """File of one JSON value a line -> the values; a last line that was cut off, as nothing ends it, is left out."""
    lines = read_plain_file(path, advice).split(b"\n")
    numbered = enumerate(lines[:-1] if lines[-1].strip() else lines, start=1)
    return [parse_json(line, f"{path}, line {number}", advice) for number, line in numbered if line.strip()]


def read_plain_file(path: Path, advice: str = DAMAGED) -> bytes:
    """Path -> the bytes of an ordinary file, MOST_BYTES at most. Nothing else is opened: a pipe that nobody writes to
    would hold its reader for ever."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise FileError(path, f"a folder, a pipe or a device, expected a file of JSON; {advice}")
        if facts.st_size > MOST_BYTES:
            size = f"{facts.st_size / 2**20:.0f} MiB, expected {MOST_BYTES // 2**20} at most"
            raise FileError(path, f"{size}; {advice}")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileSystemError(path, f"cannot be read ({error.strerror})") from error


def parse_json(text: str | bytes, where: str, advice: str = DAMAGED) -> Any:
    """JSON, and what it is called -> the value. Errors: a sentence `where: …; advice`."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_parse_finite,
            parse_int=_parse_integer,
            object_pairs_hook=_parse_object,
        )
        _check_json_value(value)
    except RecursionError as error:
        raise FileError(where, f"not valid JSON (more than {DEEPEST} levels of lists and objects); {advice}") from error
    except UnicodeDecodeError as error:
        raise FileError(where, f"not valid JSON (no utf-8 text from byte {error.start + 1} on); {advice}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FileError(where, f"not valid JSON ({error.msg}: {place}); {advice}") from error
    except _Impossible as error:
        raise FileError(where, f"not valid JSON ({error}); {advice}") from error
    return value


def to_jsonable(value: Any) -> Any:
    """Numbers of numpy, NaN, names that are no UTF-8 -> what JSON knows (null for what is no finite number)."""
    if isinstance(value, Mapping):
        return {make_encodable(str(k)): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(v) for v in value]
    if hasattr(value, "item") and callable(value.item) and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return make_encodable(str(value)) if isinstance(value, Path | str) else value


def flatten_json(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects -> dotted name -> value, as JSON would store it."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten_json(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _refuse_constant(word: str) -> float:
    raise _Impossible(f"{word} is no number of JSON")


def _parse_finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Impossible(f"the number {digits[:20]} is too large")
    return value


def _parse_integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) >= LARGEST:
        raise _Impossible(f"a whole number of {len(digits)} digits is too large")
    return value


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Impossible(f"{twice[:40]!r} stands twice in one object")
    return members


def _check_json_value(value: Any) -> None:
    """Errors: text that cannot be written as UTF-8; nesting on which copying and comparing would fail."""
    level = [value]
    for _ in range(DEEPEST + 1):
        for text in filter(lambda each: isinstance(each, str), level):
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise _Impossible(f"the text {text[:40]!r} holds half a character")
        level = list(_check_nesting(level))
        if not level:
            return
    raise _Impossible(f"more than {DEEPEST} levels of lists and objects")


def _check_nesting(level: list[Any]) -> Iterator[Any]:
    for each in level:
        if isinstance(each, dict):
            yield from each
            yield from each.values()
        elif isinstance(each, list):
            yield from each
