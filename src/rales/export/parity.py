"""Whether two ways of computing the same probabilities agree."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rales.evaluation.metrics import predict_at_threshold
from rales.inference.engines import Engine, Probabilities, Waveforms
from rales.labels import ICBHI, LabelSet

if TYPE_CHECKING:
    import pandas as pd

CLIPS_AT_ONCE = 8  # of more the spectra leave the processor's caches
TOLERANCE = 1e-5  # in float32; half-width and 8-bit numbers have a measured drift instead


def make_probe_clips(samples: int, rate_hz: int) -> Waveforms:
    """Length and rate of a clip -> (3, samples): noise with clicks, a tone in faint noise, silence; always the same."""
    raw = np.random.PCG64(0).random_raw(samples)  # a stream that numpy promises to keep
    noise = (raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    time_s = np.arange(samples) / rate_hz
    breath = 0.1 * noise * np.sin(np.pi * time_s / 2.7) ** 2 + 0.5 * (np.arange(samples) % 3001 == 17)
    wheeze = 0.01 * noise + 0.2 * np.sin(2 * np.pi * 400 * time_s)
    return np.stack([breath, wheeze, np.zeros(samples)]).astype(np.float32)


def in_small_batches(function: Engine, clips: int) -> Engine:
    """Function of at most so many clips -> engine of any number. A result is copied, as the next may overwrite it."""

    def engine(waveforms: Waveforms, /) -> Probabilities:
        starts = range(0, len(waveforms), clips)
        return np.concatenate([np.array(function(waveforms[start : start + clips])) for start in starts])

    return engine


def largest_difference(expected: Probabilities, found: Probabilities) -> float:
    """(N, classes) twice -> the largest difference; infinite where something is no number."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max())


def measure_drift(
    rows: "pd.DataFrame", expected: Probabilities, found: Probabilities, label_set: LabelSet = ICBHI
) -> dict[str, Any]:
    """Cycles, their probabilities in float32 and from an artefact -> how far they drift and which labels flip."""
    chosen, other = (predict_at_threshold(np.asarray(p, np.float64), None, label_set) for p in (expected, found))
    before, after = label_set.encode_rows(chosen), label_set.encode_rows(other)
    from_names, to_names = label_set.name_targets(chosen), label_set.name_targets(other)
    flips = [
        {
            "recording": rows["recording"].iloc[i],
            "cycle": int(rows["cycle"].iloc[i]),
            "from": from_names[i],
            "to": to_names[i],
            "margin": margin_of_flip(expected[i], chosen[i], other[i]),
        }
        for i in np.flatnonzero(before != after)
    ]
    apart = np.abs(found - expected)
    return {
        "cycles": len(rows),
        "max_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
        "flips": flips,
    }


def margin_of_flip(expected: Probabilities, before: Any, after: Any) -> float:
    """(classes,) probabilities of a cycle in float32, its answer and another -> how far apart the two were; of
    independent classes the least of those that flipped."""
    if np.ndim(before) == 0:
        return float(expected[before] - expected[after])
    return float(np.abs(2 * expected - 1)[before != after].min())
