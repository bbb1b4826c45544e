"""How hard is the synthetic database? A linear model on mean spectra against trees on the structure in time.

    python benchmarks/synthetic_difficulty.py [--recordings 300] [--seed 1] [--folder DIR]

Prints one row per model: specificity, sensitivity and score on the test patients. The folder is made unless given; any
folder in ICBHI layout will do, so the same figures can be had for real recordings.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy import ndimage, signal, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rales.synthesis.database import write_folder

Array = NDArray[np.float64]
RATE_HZ = 4000  # the lowest rate of the database: no model can tell the devices by what lies above 2 kHz
BANDS_HZ = ((100, 250), (250, 500), (500, 1000), (1000, 1900))


def main() -> None:
    """Make a folder, compute both kinds of features, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="use this folder instead of making one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder
        if folder is None:
            folder = Path(scratch) / "synthetic"
            patients = max(8, arguments.recordings // 4)
            write_folder(folder, arguments.recordings, arguments.seed, patients=patients, duration_s=(8.0, 16.0))
        mean, structure, labels, train = features(folder)
    classes = np.bincount(labels[~train], minlength=4)
    print(f"{train.sum()} train and {(~train).sum()} test cycles (normal, crackle, wheeze, both: {classes})")
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    balanced = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
    trees = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.06, class_weight="balanced", random_state=0)
    for name, model, table in (
        ("logistic regression, mean log-mel", linear, mean),
        ("  the same, classes balanced", balanced, mean),
        ("gradient boosting, mean log-mel", trees, mean),
        ("gradient boosting, structure", trees, structure),
        ("gradient boosting, both", trees, np.hstack([mean, structure])),
    ):
        model.fit(table[train], labels[train])
        guess = model.predict(table[~train])
        normal = labels[~train] == 0
        right = guess == labels[~train]
        specificity, sensitivity = right[normal].mean(), right[~normal].mean()
        recall = [round(100 * right[labels[~train] == label].mean()) for label in range(4)]
        score = (specificity + sensitivity) / 2
        print(f"{name:36} Sp {specificity:.3f}  Se {sensitivity:.3f}  score {score:.3f}  recall {recall} %")


def features(folder: Path) -> tuple[Array, Array, NDArray[np.int_], NDArray[np.bool_]]:
    """Folder -> mean log-mel (n, 40), structure features (n, s), labels (n,), is it a training cycle (n,)."""
    begin = time.perf_counter()
    lines = (folder / "ICBHI_challenge_train_test.txt").read_text().splitlines()
    splits = dict(line.split("\t") for line in lines)
    mean, structure, labels, train = [], [], [], []
    for text in sorted(folder.glob("*_*_*_*_*.txt")):
        audio = next((text.with_suffix(end) for end in (".wav", ".flac") if text.with_suffix(end).exists()), None)
        if audio is None or text.stem not in splits:
            continue
        wave, rate_hz = soundfile.read(audio)
        wave = soxr.resample(wave, rate_hz, RATE_HZ)
        for start_s, end_s, crackle, wheeze in np.loadtxt(text, ndmin=2):
            cycle = wave[int(start_s * RATE_HZ) : int(end_s * RATE_HZ)]
            if len(cycle) < 0.3 * RATE_HZ:
                continue
            mean.append(mean_logmel(cycle))
            structure.append(np.array([*impulses(cycle), *tones(cycle), *flux(cycle), len(cycle) / RATE_HZ]))
            labels.append(int(crackle + 2 * wheeze))
            train.append(splits[text.stem] == "train")
    print(f"{len(labels)} cycles, features in {time.perf_counter() - begin:.0f} s")
    return np.array(mean), np.array(structure), np.array(labels), np.array(train)


def mean_logmel(cycle: Array) -> Array:
    """Cycle -> time average of its log-mel spectrum (40,)."""
    return np.asarray(logmel(cycle).mean(axis=1), dtype=np.float64)


def logmel(cycle: Array) -> Array:
    """Cycle -> natural log of 40 triangular mel bands, 50 to 2000 Hz, 32 ms windows every 8 ms (40, frames)."""
    frequencies_hz, _, power = signal.spectrogram(cycle, RATE_HZ, "hann", nperseg=128, noverlap=96, nfft=512)
    edges_mel = np.linspace(2595 * np.log10(1 + 50 / 700), 2595 * np.log10(1 + 2000 / 700), 42)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    rise = (frequencies_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    fall = (edges_hz[2:, None] - frequencies_hz) / np.diff(edges_hz)[1:, None]
    return np.asarray(np.log(np.clip(np.minimum(rise, fall), 0, None) @ power + 1e-14), dtype=np.float64)


def impulses(cycle: Array) -> list[float]:
    """Cycle -> per band: kurtosis, highest peak and number of peaks after the slow loudness has been divided out."""
    values: list[float] = []
    for band_hz in BANDS_HZ:
        band = signal.sosfiltfilt(signal.butter(2, band_hz, "bandpass", fs=RATE_HZ, output="sos"), cycle)
        slow = ndimage.uniform_filter1d(np.abs(band), size=RATE_HZ // 7, mode="nearest")
        flat = np.abs(band) / (slow + 1e-9)
        peaks, found = signal.find_peaks(flat, height=3.5, distance=RATE_HZ // 100)
        heights = np.sort(found["peak_heights"])[::-1]
        top = [float(heights[rank]) if len(heights) > rank else 3.5 for rank in (0, 2, 5)]
        values += [
            float(np.log(stats.kurtosis(flat, fisher=False))),
            *top,
            len(peaks) * RATE_HZ / len(band),  # peaks per second
        ]
    return values


def tones(cycle: Array) -> list[float]:
    """Cycle -> how long, how clear and where the longest lines of its spectrogram are (64 ms windows every 16 ms)."""
    _, _, power = signal.spectrogram(cycle, RATE_HZ, "hann", nperseg=256, noverlap=192, nfft=512)
    level_db = 10 * np.log10(power[10:160] + 1e-14)  # 80 to 1250 Hz
    prominence = level_db - ndimage.uniform_filter1d(level_db, size=25, axis=0)  # over 200 Hz
    fresh = prominence - np.median(prominence, axis=1, keepdims=True)  # a hum that never stops is no wheeze
    values: list[float] = []
    for table in (prominence, fresh):
        for low, high in ((0, 30), (30, 150)):
            part = table[low:high]
            line = part.argmax(axis=0)
            clear = part.max(axis=0) > 6
            steady = np.concatenate([[False], clear[1:] & clear[:-1] & (np.abs(np.diff(line)) <= 2)])
            runs, count = ndimage.label(steady)
            lengths = np.bincount(runs.ravel())[1:] if count else np.array([0])
            inside = runs == 1 + lengths.argmax()
            height = float(part.max(axis=0)[inside].mean()) if count else 0.0
            values += [float(lengths.max()), float(np.sort(lengths)[-2:].sum()), height, float(clear.mean())]
    return values


def flux(cycle: Array) -> list[float]:
    """Cycle -> quantiles of the rise of its log-mel spectrum from frame to frame, and of its flatness over bands."""
    bands = logmel(cycle)
    rise = np.clip(np.diff(bands, axis=1), 0, None)
    quantiles = [50, 90, 97, 99.5]
    return [*np.percentile(rise[:15].mean(axis=0), quantiles), *np.percentile(rise[15:].mean(axis=0), quantiles)]


if __name__ == "__main__":
    main()
