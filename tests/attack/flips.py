"""One bit of a file turned over, and whether whoever reads the file notices."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rales.files import seals


class Case(NamedTuple):
    """A file, and what reads it as a user's command does: ValueError (which names the file), or it makes it again."""

    kind: str
    path: Path
    read: Callable[[], object]
    made_again: bool = False


def trials(case: Case, places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Case and (byte, bit) places -> those of them where nothing was noticed; the file is whole again afterwards."""
    whole = case.path.read_bytes()
    answer = repr(case.read())  # whole, it is read
    assert case.path.read_bytes() == whole
    unnoticed = []
    for byte, bit in places:
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << bit
        case.path.write_bytes(damaged)
        sentence = ""
        try:
            found = repr(case.read())
        except ValueError as error:
            sentence = str(error)
        again = case.made_again and not sentence and found == answer and case.path.read_bytes() != damaged
        if not (again or case.path.name in sentence):
            unnoticed.append((byte, bit))
    case.path.write_bytes(whole)
    return unnoticed


def anywhere(case: Case, count: int, seed: int) -> list[tuple[int, int]]:
    """Case -> random places in its file, always the same."""
    chance, size = random.Random(f"{case.kind} {seed}"), case.path.stat().st_size
    return [(chance.randrange(size), chance.randrange(8)) for _ in range(count)]


def in_the_seal(case: Case) -> list[tuple[int, int]]:
    """Case -> a bit of every byte of its seal, of that byte's neighbours too."""
    content = case.path.read_bytes()
    start = content.index(seals.UNSEALED.partition(":")[0].encode())
    return [(byte, byte % 7) for byte in range(start - 4, min(start + len(seals.UNSEALED) + 4, len(content)))]
