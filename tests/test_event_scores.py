"""Event-based F and error rate: by hand, and against the largest pairing found by trying all."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.evaluation.event_scores import Event, pair_events, score_events

ANNOTATED = {
    "a": [Event(0.0, 1.0, "normal"), Event(1.0, 3.0, "wheeze"), Event(3.0, 4.0, "crackle")],
    "b": [Event(0.5, 1.5, "normal")],
}


def test_by_hand() -> None:
    found = {
        "a": [
            Event(0.2, 1.5, "normal"),  # onset off by the collar, offset by half the length: right
            Event(0.1, 1.0, "normal"),  # the same event a second time: inserted
            Event(1.1, 2.0, "wheeze"),  # offset off by half of two seconds: right
            Event(3.0, 4.0, "wheeze"),  # crackle called wheeze: substituted
        ],
        "b": [Event(0.8, 1.5, "normal")],  # onset too late: deleted and inserted
        "c": [Event(0.0, 1.0, "crackle")],  # inserted
    }
    told = score_events(ANNOTATED, found)
    assert {name: told[name] for name in ("annotated", "found", "right", "substituted", "deleted", "inserted")} == {
        "annotated": 4,
        "found": 6,
        "right": 2,
        "substituted": 1,
        "deleted": 1,
        "inserted": 3,
    }
    assert (told["precision"], told["recall"]) == (1 / 3, 0.5)
    assert told["f"] == pytest.approx(0.4)
    assert told["error_rate"] == 1.25
    normal = told["by_class"]["normal"]
    assert (normal["annotated"], normal["found"], normal["right"]) == (2, 3, 1)
    assert (normal["f"], normal["error_rate"]) == (0.4, 1.5)
    assert told["by_class"]["crackle"]["f"] == 0
    assert set(told["by_class"]) == {"normal", "wheeze", "crackle"}


def test_nothing_found_and_nothing_there() -> None:
    none = score_events(ANNOTATED, {})
    assert (none["f"], none["error_rate"], none["deleted"]) == (0, 1, 4)
    assert np.isnan(none["precision"])
    assert score_events(ANNOTATED, ANNOTATED)["error_rate"] == 0
    assert np.isnan(score_events({}, {"a": [Event(0, 1, "x")]})["error_rate"])


def test_the_collar_decides() -> None:
    late = {"b": [Event(0.8, 1.5, "normal")]}
    reference = {"b": ANNOTATED["b"]}
    assert score_events(reference, late)["f"] == 0
    assert score_events(reference, late, collar_s=0.3)["f"] == 1
    early_end = {"b": [Event(0.5, 1.0, "normal")]}
    assert score_events(reference, early_end)["f"] == 1
    assert score_events(reference, early_end, offset_share=0)["f"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=0, max_size=4))
def test_as_many_are_paired_as_can_be(rows: list[list[bool]]) -> None:
    possible = np.array(rows, np.bool_).reshape(len(rows), 3)
    pairs = pair_events(possible)
    assert all(possible[pair] for pair in pairs)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    spots = list(zip(*np.nonzero(possible), strict=True))
    most = max(
        (
            size
            for size in range(len(spots) + 1)
            for chosen in itertools.combinations(spots, size)
            if len({a for a, _ in chosen}) == len({b for _, b in chosen}) == size
        ),
        default=0,
    )
    assert len(pairs) == most
