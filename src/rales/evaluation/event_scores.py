"""Event-based F and error rate of sounds found in recordings, as in SPRSound's challenge of 2024, track 2.

The measures are those of Mesaros, Heittola, Virtanen, "Metrics for polyphonic sound event detection", Applied Sciences
6 (2016). A found event is right where its label is that of an annotated one, its onset lies within the collar of that
one's, and its offset within the collar or a share of that one's length, whichever is longer; no event counts twice, and
as many are paired as can be. Of what is left, pairs that agree in time alone are substitutions, other annotated events
deletions, other found ones insertions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rales.typing import IntArray

COLLAR_S: Final = 0.2
OFFSET_SHARE: Final = 0.5  # of an event's length; both are the defaults of the paper's public code
ROUNDING_S: Final = 1e-6


class Event(NamedTuple):
    """A sound in a recording; times in seconds from its start."""

    onset_s: float
    offset_s: float
    label: str


def score_events(
    annotated: Mapping[str, Sequence[Event]],
    found: Mapping[str, Sequence[Event]],
    *,
    collar_s: float = COLLAR_S,
    offset_share: float = OFFSET_SHARE,
) -> dict[str, Any]:
    """Score found events against annotated ones.

    Parameters
    ----------
    annotated, found
        Name of a recording -> its events, in any order; a recording that one of them lacks has none there.
    collar_s
        How far an onset, and an offset, may be off.
    offset_share
        How far an offset may be off, as a share of the annotated event's length, where that is longer.

    Returns
    -------
    dict
        Overall `annotated`, `found`, `right`, `substituted`, `deleted`, `inserted`, precision, recall, `f` and
        `error_rate` (fractions; the rate can be above 1; NaN of what does not exist), and `by_class` the same of each
        label for itself, without substitutions.
    """
    labels = sorted({event.label for side in (annotated, found) for events in side.values() for event in events})
    # annotated, found, right, substituted
    counts: dict[str, IntArray] = dict.fromkeys(["overall", *labels], np.zeros(4, np.int64))
    for name in sorted({*annotated, *found}):
        one, other = list(annotated.get(name, ())), list(found.get(name, ()))
        near = agree_in_time(one, other, collar_s, offset_share)
        same = np.array([[a.label == b.label for b in other] for a in one], np.bool_).reshape(near.shape)
        pairs = pair_events(near & same)
        free = np.ones(near.shape, np.bool_)
        free[[a for a, _ in pairs], :] = False
        free[:, [b for _, b in pairs]] = False
        substituted = len(pair_events(near & ~same & free))
        counts["overall"] = counts["overall"] + np.array([len(one), len(other), len(pairs), substituted])
        for label in {event.label for event in (*one, *other)}:
            right = sum(one[a].label == label for a, _ in pairs)
            sizes = [sum(event.label == label for event in events) for events in (one, other)]
            counts[label] = counts[label] + np.array([*sizes, right, 0])
    figures = {name: rate_counts(*map(int, found_counts)) for name, found_counts in counts.items()}
    return {**figures.pop("overall"), "by_class": figures}


def agree_in_time(one: Sequence[Event], other: Sequence[Event], collar_s: float, share: float) -> NDArray[np.bool_]:
    """(a,) annotated and (b,) found events of a recording -> (a, b) whether onset and offset agree."""
    times = [np.array([event[:2] for event in events], np.float64).reshape(-1, 2) for events in (one, other)]
    off = np.abs(times[0][:, None] - times[1][None])  # (a, b, 2)
    length = times[0][:, 1] - times[0][:, 0]
    most = np.maximum(collar_s, share * length)[:, None]
    return np.asarray((off[..., 0] <= collar_s + ROUNDING_S) & (off[..., 1] <= most + ROUNDING_S), np.bool_)


def pair_events(possible: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(a, b) which may be paired -> as many pairs as there can be, each row and column in one at most."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not possible.any():
        return []
    partner = maximum_bipartite_matching(csr_array(possible), perm_type="column")
    return [(row, int(column)) for row, column in enumerate(partner) if column >= 0]


def rate_counts(annotated: int, found: int, right: int, substituted: int) -> dict[str, Any]:
    """Counts -> they and the figures of `score_events`."""
    deleted, inserted = annotated - right - substituted, found - right - substituted
    nan = float("nan")
    return {
        "annotated": annotated,
        "found": found,
        "right": right,
        "substituted": substituted,
        "deleted": deleted,
        "inserted": inserted,
        "precision": right / found if found else nan,
        "recall": right / annotated if annotated else nan,
        "f": 2 * right / (annotated + found) if annotated + found else nan,
        "error_rate": (substituted + deleted + inserted) / annotated if annotated else nan,
    }
