"""Work that is begun ahead: in order, and never further than it was said."""

from collections.abc import Iterator

import pytest

from rales.data.prefetch import prefetch_ahead


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_as_many_as_said_are_begun_before_each(count: int) -> None:
    begun: list[int] = []

    def begin() -> Iterator[int]:
        for number in range(6):
            begun.append(number)
            yield number

    ends = [(number, len(begun)) for number in prefetch_ahead(begin(), count)]
    assert ends == [(number, min(number + 1 + count, 6)) for number in range(6)]


def test_who_leaves_early_begins_no_more() -> None:
    left = iter(range(10))
    for number in prefetch_ahead(left, 2):
        if number == 3:
            break
    assert list(left) == [6, 7, 8, 9]
