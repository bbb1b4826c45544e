"""Splitting and filling as RespireNet and Nguyen & Pernkopf do, against positions written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.audio.padding import pad_by_reflection, pad_by_repetition, split_long_cycle


def ramp(samples: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.arange(samples, dtype=np.float32)


@pytest.mark.parametrize(("samples", "starts", "last"), [
    (8, [0], 8), (9, [0, 4], 5), (12, [0, 4, 8], 4), (13, [0, 4, 8], 5), (16, [0, 4, 8, 12], 4), (5, [0], 5),
])  # fmt: skip
def test_pieces_of_eight(samples: int, starts: list[int], last: int) -> None:
    found = split_long_cycle(ramp(samples), 8)
    assert [int(piece[0]) for piece in found] == starts
    assert [piece.size for piece in found] == [8] * (len(starts) - 1) + [last]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(2, 50))
def test_pieces_cover_the_cycle(samples: int, size: int) -> None:
    found = split_long_cycle(ramp(samples), size)
    assert set(np.concatenate(found).tolist()) == set(range(samples))
    assert all(0 < piece.size <= size for piece in found)


def test_filling_behind_and_in_front() -> None:
    assert pad_by_repetition(ramp(3), 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert pad_by_repetition(ramp(3), 8, "before").tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    assert pad_by_repetition(ramp(3), 3).tolist() == [0, 1, 2]
    whole = ramp(10)
    assert pad_by_repetition(whole[8:], 6, filler=whole).tolist() == [8, 9, 0, 1, 2, 3]
    assert pad_by_repetition(whole[8:], 6, "before", whole).tolist() == [6, 7, 8, 9, 8, 9]
    with pytest.raises(ValueError, match="a wave of 9 samples was given, expected 1 to 8"):
        pad_by_repetition(ramp(9), 8)


def test_reflection() -> None:
    assert pad_by_reflection(ramp(3), 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pad_by_reflection(ramp(5), 3).tolist() == [0, 1, 2]
    assert pad_by_reflection(ramp(1) + 7, 3).tolist() == [7, 7, 7]
    with pytest.raises(ValueError, match="empty wave"):
        pad_by_reflection(ramp(0), 3)
