"""How well found breathing cycles agree with annotated ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rales.inference.breath_segmentation import Span


@dataclass(frozen=True)
class Agreement:
    """Found cycles beside annotated ones. NaN where there is nothing to compare."""

    boundary_error_s: float  # median over annotated boundaries of the distance to the nearest found one
    f1: float  # of cycles, matched one to one where intersection over union is 0.5 or more
    rate_error_per_min: float  # found minus annotated cycles a minute
    matched: int
    found: int
    annotated: int


def agreement(found: Sequence[Span], annotated: Sequence[Span]) -> Agreement:
    """Found and annotated (start_s, end_s) of one recording -> Agreement."""
    overlaps = [(iou(f, a), i, j) for i, f in enumerate(found) for j, a in enumerate(annotated)]
    taken_found, taken_annotated = set[int](), set[int]()
    for value, i, j in sorted(overlaps, reverse=True):
        if value >= 0.5 and i not in taken_found and j not in taken_annotated:
            taken_found.add(i)
            taken_annotated.add(j)
    matched, both = len(taken_found), len(found) + len(annotated)
    errors_s = boundary_errors(found, annotated)
    return Agreement(
        boundary_error_s=float(np.median(errors_s)) if errors_s.size else np.nan,
        f1=2 * matched / both if both else np.nan,
        rate_error_per_min=per_minute(found) - per_minute(annotated) if found and annotated else np.nan,
        matched=matched,
        found=len(found),
        annotated=len(annotated),
    )


def boundary_errors(found: Sequence[Span], annotated: Sequence[Span]) -> NDArray[np.float64]:
    """-> distance in s of every annotated start or end to the nearest found one; empty if either side is empty."""
    there, wanted = (np.unique(np.array(spans, dtype=np.float64).ravel()) for spans in (found, annotated))
    if not there.size:
        return there
    return np.asarray(np.abs(wanted[:, None] - there).min(axis=1))


def iou(one: Span, other: Span) -> float:
    """Intersection over union of two stretches of time."""
    both_s = min(one[1], other[1]) - max(one[0], other[0])
    return max(both_s, 0.0) / (max(one[1], other[1]) - min(one[0], other[0]))


def per_minute(spans: Sequence[Span]) -> float:
    return 60 * len(spans) / sum(end_s - start_s for start_s, end_s in spans)
