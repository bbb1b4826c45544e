"""How well breathing cycles found in the sound agree with the annotators', and the fit of what finds them.

    python benchmarks/segmentation.py DATA                               # Markdown tables, five patient-disjoint folds
    python benchmarks/segmentation.py DATA --fit src/rales/segment.json  # the numbers of the package: all recordings

DATA is a folder in ICBHI layout. Of every recording only the sound from the middle of the first annotated cycle to the
middle of the last is used (to be exact, from a random place in their middle halves), so that neither digital silence
around the cycles nor the end of the file tells where a cycle begins; the cycles between are what is to be found.
The tempo weights of a fold are fitted to detections of an inner cross-validation among its training patients.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rales.audio import io
from rales.audio.band_energy import band_levels
from rales.data import read_cycles, splits
from rales.inference import breath_segmentation
from rales.inference.breath_segmentation import LONGEST, PERIODS_S, SHORTEST, STEPS, Detector, Span

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.breath_agreement import Agreement, agreement

Numbers = NDArray[np.float32]
FOLDS = 5
STRETCHES = (0.84, 1.0, 1.19)  # tempos beside the true one that the filter has to serve
WRONG = (0.5, 2.0)  # tempos at which it has to find nothing
SMOOTH, RIDGE, TEMPO_RIDGE = 1e-2, 1e-3, 0.1
SPREAD = 0.15  # of log durations around the tempo, Student's t with three degrees of freedom
THRESHOLD = 0.4  # over the scores of white, pink and red noise (at most 0.25), under those of most recordings


@dataclass(frozen=True)
class Heard:
    """The part of one recording between the middles of its first and last cycle; times in s from its start."""

    device: str
    fold: int
    levels: Numbers
    duration_s: float
    cycles: list[Span]  # the whole ones

    @property
    def bounds(self) -> NDArray[np.float64]:
        return np.array([self.cycles[0][0], *(end_s for _, end_s in self.cycles)])

    @property
    def period_s(self) -> float:
        return float((self.bounds[-1] - self.bounds[0]) / len(self.cycles))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--fit", type=Path, help="write the detector fitted to all recordings here and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recordings = heard(read_cycles(arguments.data))
    if arguments.fit:
        arguments.fit.write_text(as_json(fitted(recordings)) + "\n")
        return
    patient_disjoint(recordings)
    noises()
    speed()


def heard(table: pd.DataFrame) -> list[Heard]:
    """Cycles table -> recordings of four or more cycles, with the fold of their patient."""
    table = table.assign(fold=splits.assign_folds(table, FOLDS))
    recordings = []
    for number, (_, rows) in enumerate(table.groupby("recording", sort=True)):
        if len(rows) < 4:
            continue
        bounds = np.append(rows["start_s"], rows["end_s"].iloc[-1])
        cuts = np.random.default_rng([0, number]).uniform(0.25, 0.75, 2)
        first_s = bounds[0] + cuts[0] * (bounds[1] - bounds[0])
        end_s = bounds[-2] + cuts[1] * (bounds[-1] - bounds[-2])
        levels, _ = band_levels(*io.read_waveform(rows["path"].iloc[0], first_s, end_s))
        inner = (bounds[1:-1] - first_s).tolist()
        spans = list(pairwise(inner))
        row = rows.iloc[0]
        recordings.append(Heard(str(row["device"]), int(row["fold"]), levels, float(end_s - first_s), spans))
    return recordings


# Fit


def fitted(recordings: Sequence[Heard], inner: int = FOLDS - 1) -> Detector:
    """Recordings of several folds -> detector; folds are put together to `inner` parts for the tempo weights."""
    part = {fold: i % inner for i, fold in enumerate(sorted({r.fold for r in recordings}))}
    rows, gains = [], []
    for held_out in range(inner):
        finder = fitted_filter([r for r in recordings if part[r.fold] != held_out])
        for one in recordings:
            if part[one.fold] == held_out:
                told, paths = tempos(one.levels, finder)
                rows.append(told)
                gains.append([of_bounds(one, path).f1 for path in paths])
    mean, weight = tempo_weights(np.array(rows), np.array(gains))
    return replace(fitted_filter(recordings), mean=mean, weight=weight, threshold=THRESHOLD)


def fitted_filter(recordings: Sequence[Heard]) -> Detector:
    """Recordings -> detector without tempo weights: logistic regression of `a breath starts at this step`."""
    parts = [steps_and_targets(one, times) for one in recordings for times in (*STRETCHES, *WRONG)]
    steps = torch.from_numpy(np.concatenate([x for x, _ in parts]))  # (n, bands * (2 * STEPS + 1))
    targets = torch.from_numpy(np.concatenate([y for _, y in parts]))
    bands, taps = parts[0][0].shape[1] // (2 * STEPS + 1), 2 * STEPS + 1
    weights = torch.zeros(bands, taps, requires_grad=True)
    bias = torch.full((1,), -2.0, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = steps @ weights.flatten() + bias
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        value = value + RIDGE * weights.square().sum() + SMOOTH * weights.diff(dim=1).square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    log_ratio = np.log(np.arange(SHORTEST, LONGEST + 1) / STEPS)
    density = (1 + (log_ratio / SPREAD) ** 2 / 3) ** -2
    return Detector(
        filter=weights.detach().numpy(),
        bias=float(bias.detach()) + float(np.log(STEPS)),  # log odds against one step in STEPS, as the cost is
        cost=-np.log(STEPS * density / density.sum()).astype(np.float32),
        mean=np.zeros(8, np.float32),
        weight=np.zeros(8, np.float32),
        threshold=-np.inf,
    )


def steps_and_targets(one: Heard, times: float) -> tuple[Numbers, Numbers]:
    """Recording and a factor of its tempo -> what the filter sees of every step, and how near a start is (0 to 1)."""
    period_s = one.period_s * times
    grids, _ = breath_segmentation.lay_on_grids(one.levels, np.array([period_s]))
    padded = np.pad(grids[0], ((STEPS, STEPS), (0, 0)))
    seen = sliding_window_view(padded, 2 * STEPS + 1, axis=0).reshape(grids.shape[1], -1)
    if times in WRONG:
        return seen, np.zeros(len(seen), np.float32)
    at = (np.arange(len(seen)) + 0.5) - one.bounds[:, None] * STEPS / period_s  # steps from each start
    return seen, np.exp(-(at**2) / 2).max(axis=0).astype(np.float32)


def tempo_weights(rows: NDArray[Any], gains: NDArray[np.float64]) -> tuple[Numbers, Numbers]:
    """(n, P, 8) features, (n, P) F1 of each tempo -> mean and weight that make the expected F1 large."""
    mean, sd = rows.mean(axis=(0, 1)), rows.std(axis=(0, 1))
    told, gain = torch.from_numpy((rows - mean) / sd).double(), torch.from_numpy(gains)
    weight = torch.zeros(told.shape[2], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        expected = ((told @ weight).softmax(dim=1) * gain).sum(dim=1)
        value = -(expected + 0.02).log().mean() + TEMPO_RIDGE * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return mean.astype(np.float32), (weight.detach().numpy() / sd).astype(np.float32)


def tempos(levels: Numbers, finder: Detector) -> tuple[Numbers, list[NDArray[np.float64]]]:
    """Levels -> features (P, 8) and the boundaries in s of every tempo."""
    grids, lengths = breath_segmentation.lay_on_grids(levels, PERIODS_S)
    scores = breath_segmentation.score_steps(grids, finder)
    paths, totals = breath_segmentation.find_best_paths(scores, lengths, finder.cost)
    bounds = [breath_segmentation.path_times(path, period_s) for path, period_s in zip(paths, PERIODS_S, strict=True)]
    return breath_segmentation.tempo_features(grids, lengths, scores, paths, totals), bounds


def as_json(finder: Detector) -> str:
    return json.dumps(
        {
            name: np.round(value.astype(float), 5).tolist() if isinstance(value, np.ndarray) else round(value, 5)
            for name, value in asdict(finder).items()
        }
    )


# Scores


def of_bounds(one: Heard, bounds_s: NDArray[np.float64]) -> Agreement:
    """Recording and found boundaries -> agreement; cycles that lie mostly beside the annotated ones do not count."""
    spans = pairwise(bounds_s.tolist())
    first_s, end_s = one.bounds[[0, -1]]
    inside = [(a, b) for a, b in spans if min(b, end_s) - max(a, first_s) > 0.5 * (b - a)]
    return agreement(inside, one.cycles)


def patient_disjoint(recordings: Sequence[Heard]) -> None:
    """Prints the table of all systems and that of devices."""
    systems: dict[str, list[Agreement]] = {}
    by_device: dict[str, list[Agreement]] = {}

    def add(name: str, one: Heard, bounds_s: NDArray[np.float64]) -> Agreement:
        systems.setdefault(name, []).append(of_bounds(one, bounds_s))
        return systems[name][-1]

    for fold in range(FOLDS):
        train, test = ([r for r in recordings if (r.fold == fold) == there] for there in (False, True))
        finder = fitted(train)
        median_s = float(np.median(np.concatenate([np.diff(r.bounds) for r in train])))
        for one in test:
            add("windows of 4 s", one, np.arange(0, one.duration_s, breath_segmentation.WINDOW_S))
            add("windows as long as the median cycle", one, np.arange(0, one.duration_s, median_s))
            for phase in (0, 0.25, 0.5, 0.75):
                add("windows, told the cycle rate", one, np.arange(phase, one.duration_s / one.period_s) * one.period_s)
            found = breath_segmentation.find_starts(one.levels, finder)
            by_device.setdefault(one.device, []).append(add("found in the sound", one, found))
            _, paths = tempos(one.levels, finder)
            add("found, told the cycle rate", one, paths[int(np.abs(np.log(PERIODS_S / one.period_s)).argmin())])
            add("found, best of all tempos", one, max(paths, key=lambda path, one=one: of_bounds(one, path).f1))  # type: ignore[misc]
    print("| system | F1 | precision | recall | boundary error, s | rate error, 1/min | none found |\n|" + "---|" * 7)
    for name, results in systems.items():
        print(row(name, results))
    print("\n| device | recordings | F1 | precision | recall | boundary error, s | rate error, 1/min |\n|" + "---|" * 7)
    for device, results in sorted(by_device.items()):
        print(row(f"{device} | {len(results)}", results).rpartition("|")[0].rpartition("|")[0] + "|")


def row(name: str, results: Sequence[Agreement]) -> str:
    """Agreements of all recordings -> line: F1 of all cycles together, medians over recordings."""
    matched, found, annotated = (sum(getattr(r, what) for r in results) for what in ("matched", "found", "annotated"))
    error_s = np.nanmedian([r.boundary_error_s for r in results])
    rate = np.nanmedian([abs(r.rate_error_per_min) for r in results])
    none = sum(r.found == 0 for r in results)
    f1, precision, recall = 2 * matched / (found + annotated), matched / max(found, 1), matched / annotated
    return f"| {name} | {f1:.3f} | {precision:.3f} | {recall:.3f} | {error_s:.2f} | {rate:.1f} | {none} |"


def noises(count: int = 40, seconds: float = 20.0, rate_hz: int = 4000) -> None:
    """Prints in how many noises without rhythm the detector of the package finds one."""
    samples = int(seconds * rate_hz)
    for name, exponent in (("white", 0.0), ("pink", 0.5), ("red", 1.0)):
        found = 0
        for seed in range(count):
            spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
            spectrum[1:] /= np.arange(1, len(spectrum)) ** exponent
            sound = np.fft.irfft(spectrum)
            found += bool(
                breath_segmentation.find_breaths((0.5 * sound / np.abs(sound).max()).astype(np.float32), rate_hz)
            )
        print(f"\n{name} noise: a rhythm found in {found} of {count}", end="")
    print()


def speed(seconds: float = 20.0) -> None:
    """Prints the processor time of `segment.cycles`, least of twenty."""
    for rate_hz in (4000, 16000, 44100):
        sound = np.random.default_rng(0).normal(0, 0.1, int(seconds * rate_hz)).astype(np.float32)
        times = []
        for _ in range(20):
            begin = time.process_time()
            breath_segmentation.find_breaths(sound, rate_hz)
            times.append(time.process_time() - begin)
        least = min(times)
        print(f"{rate_hz} Hz: {1000 * least:.1f} ms for {seconds:.0f} s, {seconds / least:.0f} x real time")


if __name__ == "__main__":
    main()
