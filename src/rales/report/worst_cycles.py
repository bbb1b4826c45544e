"""The test cycles that a system gets most wrong, how they look and how they sound."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from rales.audio.io import read_waveform, resample_waveform
from rales.audio.magma_colours import decode_magma_colours
from rales.audio.spectrogram_images import stft_decibel
from rales.data import read_contents
from rales.errors import count_noun
from rales.labels import LabelSet
from rales.report.page import Clip, Gallery, Table
from rales.report.systems import System
from rales.typing import FloatArray, IntArray, Waveform

WORST = 50
RATE_HZ = 8000  # at most: breath sounds lie below 2 kHz, and the page carries all of them
WINDOW_S = 0.032
SHOWN_HZ = (60, 2000)
FLOOR_DB = 60.0
PEAK = 0.9


def worst_cycles(system: System, recordings: Mapping[str, Path] | None = None) -> Gallery | None:
    """A system, and the files of its test recordings by name -> the cycles to whose true label it gives the lowest
    probability, with picture and sound where the recording is at hand; None without predictions or mistakes."""
    if system.cycles is None:
        return None
    found = rank_mistakes(system.cycles, system.label_set)
    if found.empty:
        return None
    shown = found.head(WORST).to_dict("records")
    files = recordings or {}
    clips = [make_clip(files.get(row["recording"]), row["start_s"], row["end_s"]) for row in shown]
    rows = [
        [
            f"{row['recording']}, cycle {row['cycle']}",
            f"{row['start_s']:.2f} to {row['end_s']:.2f}",
            *(str(row[name]) for name in ("patient", "true_label", "label")),
            f"{100 * row['of_truth']:.1f}",
        ]
        for row in shown
    ]
    table = Table(
        f"The {count_noun(len(rows), 'cycle')} that {system.name} gets most wrong",
        ["Cycle", "Seconds", "Patient", "True", "Said", "Probability of the truth"],
        rows,
        note=f"{len(found)} test cycles have another label than the true one; these have the lowest probability of it, "
        "in percent, mean over seeds. Some may be mistakes of the annotation. "
        + ("`rales report --data DATA` adds how they look and sound." if recordings is None else sound_note(clips)),
    )
    return Gallery(table, clips)


def sound_note(clips: list[Clip | None]) -> str:
    """-> what the pictures and sounds are, and why some are missing."""
    missing = clips.count(None)
    lost = f" The sound of {missing} of them is not in the data given." if missing else ""
    return (
        f"Spectrograms: {SHOWN_HZ[0]} to {SHOWN_HZ[1]} Hz, {FLOOR_DB:.0f} dB, windows of {1000 * WINDOW_S:.0f} ms. "
        f"Sound: {RATE_HZ // 1000} kHz at most, every cycle brought to one peak. This is the sound of patients: mind "
        f"who gets this page.{lost}"
    )


def rank_mistakes(cycles: pd.DataFrame, label_set: LabelSet) -> pd.DataFrame:
    """Predictions of all seeds under each other -> a row per cycle that most seeds get wrong, by `of_truth`, the mean
    probability of its true label, the lowest first; `label` is what is said most often."""
    targets = label_set.make_targets(cycles["true_label"].tolist())
    probabilities = cycles[list(label_set.columns)].to_numpy(np.float64)
    own = cycles.assign(
        of_truth=truth_probability(targets, probabilities, label_set), wrong=cycles["label"] != cycles["true_label"]
    )
    grouped = own.groupby(["recording", "cycle"], sort=True)
    found = grouped[["start_s", "end_s", "patient", "true_label"]].first()
    found = found.assign(
        label=grouped["label"].agg(lambda labels: labels.mode().iloc[0]),
        of_truth=grouped["of_truth"].mean(),
        wrong=grouped["wrong"].mean(),
    )
    found = found[found["wrong"] > 0.5].reset_index()
    return found.sort_values(["of_truth", "recording", "cycle"], ignore_index=True)


def truth_probability(targets: IntArray, probabilities: FloatArray, label_set: LabelSet) -> FloatArray:
    """Targets and (N, classes) probabilities -> (N,) of the true label; of independent classes that of the answer that
    is furthest off."""
    if label_set.independent:
        return np.asarray(np.where(targets == 1, probabilities, 1 - probabilities).min(axis=1))
    return probabilities[np.arange(len(targets)), targets]


def locate_recordings(data: Path) -> dict[str, Path]:
    """Data folder or manifest -> the sound files of its recordings by name."""
    return {
        found.name: Path(found.path) for found in read_contents(data, audio=True, decode=False).recordings if found.path
    }


def make_clip(path: Path | None, start_s: float, end_s: float) -> Clip | None:
    """Recording and the ends of a cycle in s -> its clip; None where there is no sound."""
    if path is None:
        return None
    try:
        wave, rate_hz = read_waveform(path, start_s, end_s)
    except (OSError, ValueError):
        return None
    kept_hz = min(rate_hz, RATE_HZ)
    wave = resample_waveform(wave, rate_hz, kept_hz)
    loudest = float(np.abs(wave).max(initial=0.0))
    wave = wave * np.float32(PEAK / loudest) if loudest else wave  # breath sounds are too quiet to be heard as they are
    return Clip(draw_spectrogram(wave, kept_hz), encode_flac(wave, kept_hz))


def draw_spectrogram(wave: Waveform, rate_hz: int) -> bytes:
    """Waveform (N,) -> PNG, a dot for each bin and frame, low frequencies at the bottom."""
    from PIL import Image

    window = round(WINDOW_S * rate_hz)
    padded = np.pad(wave, (0, max(0, window - len(wave))))
    low, high = (round(hz * WINDOW_S) for hz in SHOWN_HZ)
    decibel = stft_decibel(torch.from_numpy(padded)[None], window, top_db=200)[0, low : high + 1].flip(0)
    decibel = (decibel - decibel.max()).clamp(min=-FLOOR_DB)
    height, width = decibel.shape
    image = Image.frombytes("P", (width, height), (255 * (decibel / FLOOR_DB + 1)).round().byte().numpy().tobytes())
    image.putpalette(decode_magma_colours().numpy().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def encode_flac(wave: Waveform, rate_hz: int) -> bytes:
    """Waveform (N,) -> FLAC of 16 bit, which every browser plays."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
