"""Prefetch results in background threads."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Begun = TypeVar("Begun")


def prefetch_ahead(begun: Iterable[Begun], count: int) -> Iterator[Begun]:
    """Futures, or whatever begins its work when it is taken -> the same in order, each once `count` more are begun."""
    waiting = deque[Begun]()
    for one in begun:
        waiting.append(one)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
