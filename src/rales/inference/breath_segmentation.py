"""A whole recording without annotations -> breathing cycles found in its sound, or windows where none are found.

How loud the sound is in nine bands is laid on grids of a fixed number of steps a breath, one grid for every tempo of
breathing, so that one linear filter tells at every tempo how much a step looks like the start of a breath. A dynamic
programme sets the starts of every tempo, where a breath may be half to twice as long as the tempo says, and a linear
function of the result chooses the tempo. The numbers of filter and function lie in segment.json; benchmarks/
segmentation.py fits them to annotated recordings and says how well found cycles agree with annotated ones.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rales.audio.band_energy import FRAME_HZ, band_levels

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]
Span = tuple[float, float]  # start_s, end_s

WINDOW_S = 4.0  # longer than nearly all breaths (2.7 s on average), half of the model's 8 s
SHORTEST_WINDOW_S = 0.5
STEPS = 12  # of the grid in one breath of the tempo
SHORTEST, LONGEST = STEPS // 2, 2 * STEPS  # duration of a breath in steps
PERIODS_S = np.geomspace(0.8, 7.0, 18)
LONGEST_S = PERIODS_S[-1] * LONGEST / STEPS
NEIGHBOURS = (0.3, 0.7, 1.0, 0.7, 0.3)  # weights of a tempo and those beside it
SECTION_S = 40.0  # a longer recording is taken in pieces, each with a tempo of its own
SHORTEST_SOUND_S = 2.0


@dataclass(frozen=True)
class Detector:
    """What was fitted to annotated recordings."""

    filter: FloatArray  # (bands, 2 * STEPS + 1) levels around a step -> how much it looks like the start of a breath
    bias: float
    cost: FloatArray  # (LONGEST - SHORTEST + 1,) of a breath by its duration
    mean: FloatArray  # of the features of a tempo
    weight: FloatArray  # of the features of a tempo
    threshold: float  # of the mean score of the starts that were found: less is no breathing


def find_breaths(
    wave: FloatArray, rate_hz: int, fitted: Detector | None = None, slow: FloatArray | None = None
) -> list[Span]:
    """(N,) mono float32 at any rate -> (start_s, end_s) of each breathing cycle, one behind the other.

    Empty where no rhythm of breathing is found: silence, noise, less than 2 s of sound. A breath that the recording
    cuts off counts where more than half of it is heard. Digital silence holds no cycle, nor does a stretch of a long
    recording that has no rhythm. `fitted` is the detector of the package unless given, `slow` what
    `to_4_khz` makes of the wave if that is known.
    """
    levels, silent = band_levels(np.asarray(wave, dtype=np.float32), rate_hz, slow)
    heard = np.flatnonzero(~silent)
    if heard.size < SHORTEST_SOUND_S * FRAME_HZ:
        return []
    first, end = int(heard[0]), int(heard[-1]) + 1
    bounds = find_starts(levels[first:end], fitted or load_detector())
    if len(bounds) < 2:
        return []
    bounds = add_edges(first / FRAME_HZ + bounds, first / FRAME_HZ, min(end / FRAME_HZ, len(wave) / rate_hz))
    quiet = np.concatenate([[0], np.cumsum(silent)])
    return [
        (a, b)
        for a, b in pairwise(bounds.tolist())
        if b - a <= LONGEST_S
        and quiet[min(round(b * FRAME_HZ), len(silent))] - quiet[round(a * FRAME_HZ)] < 0.5 * (b - a) * FRAME_HZ
    ]


def cut_windows(duration_s: float, length_s: float = WINDOW_S) -> list[Span]:
    """Length of a recording -> windows that cover it, one behind the other; a rest under 0.5 s joins the last one."""
    spans = [(0.0, min(length_s, duration_s))]
    while spans[-1][1] < duration_s:
        start_s = len(spans) * length_s
        if duration_s - spans[-1][1] < SHORTEST_WINDOW_S:
            spans[-1] = (spans[-1][0], duration_s)
        else:
            spans.append((start_s, min(start_s + length_s, duration_s)))
    return spans


# A recording, piece after piece


def find_starts(levels: FloatArray, fitted: Detector) -> NDArray[np.float64]:
    """(frames, bands) -> times in s at which breaths start or end; empty where there is no rhythm."""
    frames, piece = len(levels), int(SECTION_S * FRAME_HZ)
    found: list[float] = []
    first = 0
    while frames - first >= SHORTEST_SOUND_S * FRAME_HZ:
        last = first + piece if frames - first > 1.25 * piece else frames
        inside = (first / FRAME_HZ + find_section_starts(levels[first:last], fitted)).tolist()
        if last < frames and len(inside) > 3:
            del inside[-1]  # the next piece knows better
        found += [at_s for at_s in inside if not found or at_s - found[-1] > PERIODS_S[0] / 2]
        first = round(found[-1] * FRAME_HZ) if last < frames and inside else last
    return np.array(found)


def find_section_starts(levels: FloatArray, fitted: Detector) -> NDArray[np.float64]:
    """(frames, bands) of up to some 50 s -> times in s at which breaths start or end, of the best tempo."""
    grids, lengths = lay_on_grids(levels, PERIODS_S)
    scores = score_steps(grids, fitted)
    paths, totals = find_best_paths(scores, lengths, fitted.cost)
    told = tempo_features(grids, lengths, scores, paths, totals)
    merit = (told - fitted.mean) @ fitted.weight
    # Neighbouring tempos have nearly the same path, so their probabilities count together.
    best = int(np.convolve(np.exp(merit - merit.max()), NEIGHBOURS, mode="same").argmax())
    if told[best, 0] < fitted.threshold:
        return np.zeros(0)
    return path_times(paths[best], PERIODS_S[best])


def path_times(path: IntArray, period_s: float) -> NDArray[np.float64]:
    """Steps of the starts, -1 where there is none -> their times in s, rising."""
    return np.asarray((np.sort(path[path >= 0]) + 0.5) * period_s / STEPS)


def add_edges(bounds: NDArray[np.float64], first_s: float, end_s: float) -> NDArray[np.float64]:
    """Boundaries and where the sound begins and ends -> the same with those, where most of a breath lies between."""
    half_s = np.median(np.diff(bounds)) / 2
    before = [first_s] if bounds[0] - first_s > half_s else []
    after = [end_s] if end_s - bounds[-1] > half_s else []
    return np.concatenate([before, bounds, after])


# One tempo, or all of them side by side: P tempos, N steps, K bands


def lay_on_grids(levels: FloatArray, periods_s: NDArray[np.float64]) -> tuple[FloatArray, IntArray]:
    """(frames, K), (P,) -> mean levels of every step of period / STEPS (P, N, K) and lengths (P,), 0 behind them."""
    step = periods_s * FRAME_HZ / STEPS  # frames, not whole
    lengths = (len(levels) / step).astype(np.intp)
    sums = np.concatenate([np.zeros((1, levels.shape[1])), np.cumsum(levels, axis=0, dtype=np.float64)])
    edges = np.minimum(np.arange(lengths.max() + 1) * step[:, None], len(levels))
    whole = np.minimum(edges.astype(np.intp), len(levels) - 1)
    at = sums[whole]
    at += (edges - whole)[..., None] * (sums[whole + 1] - at)
    grids = (np.diff(at, axis=1) / step[:, None, None]).astype(np.float32)
    grids[np.arange(grids.shape[1]) >= lengths[:, None]] = 0
    return grids, lengths


def score_steps(grids: FloatArray, fitted: Detector) -> FloatArray:
    """(P, N, K) -> (P, N): log odds that a breath starts at a step."""
    products = grids @ fitted.filter  # (P, N, 2 * STEPS + 1)
    samples = grids.shape[1]
    scores = np.full(grids.shape[:2], fitted.bias, dtype=np.float32)
    for tap in range(products.shape[2]):
        shift = tap - products.shape[2] // 2
        scores[:, max(0, -shift) : samples - max(0, shift)] += products[
            :, max(0, shift) : samples - max(0, -shift), tap
        ]
    return scores


def find_best_paths(scores: FloatArray, lengths: IntArray, cost: FloatArray) -> tuple[IntArray, FloatArray]:
    """(P, N) scores, (P,) lengths, cost of durations -> (P, most) steps of the best starts, last first and -1 behind
    them, and their total score (P,).

    The first start lies in the first LONGEST steps and the last in the last. No breath is shorter than SHORTEST steps,
    so as many steps at a time know all they can follow.
    """
    tempos, samples = scores.shape
    totals = np.full((tempos, samples + LONGEST), -np.inf, dtype=np.float32)
    back = np.zeros((tempos, samples), dtype=np.intp)
    before = sliding_window_view(totals, LONGEST - SHORTEST + 1, axis=1)
    minus_cost = -cost[::-1]
    for first in range(0, samples, SHORTEST):
        end = min(first + SHORTEST, samples)
        candidates = before[:, first:end] + minus_cost
        choice = candidates.argmax(axis=2)
        best = candidates.max(axis=2)
        fresh = (best < 0) & (np.arange(first, end) < LONGEST)
        back[:, first:end] = np.where(fresh, 0, LONGEST - choice)
        totals[:, LONGEST + first : LONGEST + end] = np.where(fresh, 0, best) + scores[:, first:end]
    steps = np.arange(samples)
    last = np.where((steps >= lengths[:, None] - LONGEST) & (steps < lengths[:, None]), totals[:, LONGEST:], -np.inf)
    at = last.argmax(axis=1)
    rows = np.arange(tempos)
    best_totals = last[rows, at]
    path = [at]
    going = back[rows, at] > 0
    while going.any():
        at = at - back[rows, at]
        path.append(np.where(going, at, -1))
        going &= back[rows, at] > 0
    return np.stack(path, axis=1), best_totals


def tempo_features(
    grids: FloatArray, lengths: IntArray, scores: FloatArray, paths: IntArray, totals: FloatArray
) -> FloatArray:
    """What tells the right tempo from the others -> (P, 8).

    Mean score of the starts, mean cost of the durations, total score a start, likeness of the sound half a breath and a
    breath apart, log tempo, its square, and the spread of the scores.
    """
    there = paths >= 0
    count = there.sum(axis=1)
    at_starts = (np.take_along_axis(scores, np.maximum(paths, 0), axis=1) * there).sum(axis=1)
    inside = np.arange(scores.shape[1]) < lengths[:, None]
    mean = (scores * inside).sum(axis=1) / lengths
    spread = np.sqrt(((scores - mean[:, None]) ** 2 * inside).sum(axis=1) / lengths)
    log_period = np.log(PERIODS_S) - 1
    columns = [
        at_starts / count,
        (at_starts - totals) / np.maximum(count - 1, 1),
        totals / count,
        *autocorrelate_levels(grids, lengths),
        log_period,
        log_period**2,
        spread,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def autocorrelate_levels(grids: FloatArray, lengths: IntArray) -> list[FloatArray]:
    """(P, N, K) -> autocorrelation of the levels half a breath and a breath apart, each (P,)."""
    inside = (np.arange(grids.shape[1]) < lengths[:, None])[..., None]
    centred = (grids - grids.sum(axis=1, keepdims=True) / lengths[:, None, None]) * inside
    power = (centred**2).sum(axis=(1, 2)) + 1  # never 0; breathing is hundreds
    return [(centred[:, lag:] * centred[:, :-lag]).sum(axis=(1, 2)) / power for lag in (STEPS // 2, STEPS)]


@lru_cache(maxsize=1)
def load_detector() -> Detector:
    """The fitted numbers that come with the package."""
    stored = json.loads(resources.files("rales").joinpath("segment.json").read_text())
    numbers = {name: np.array(stored[name], dtype=np.float32) for name in ("filter", "cost", "mean", "weight")}
    return Detector(**numbers, bias=stored["bias"], threshold=stored["threshold"])
