"""A recording as a picture: its spectrogram, and above it each cycle with label and probability."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rales.audio.io import read_waveform
from rales.evaluation.predictions import NOTICE
from rales.files.csv_cells import one_line
from rales.optional_packages import require_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW_S = 0.05
FLOOR_DB = 70  # below the loudest point of the picture
TOP_HZ = 2000  # crackles and wheezes lie below
COLOURS = ("#64748b", "#d97706", "#0b5cad", "#85486f")  # of the page: normal, crackle, wheeze, both
MOST_S = 600.0


def plot_recording(path: str | Path, table: pd.DataFrame, title: str = "") -> "Figure":
    """Recording and the table of its cycles -> figure: spectrogram to 2 kHz (0.05 s windows, 70 dB), cycles above it.

    Parameters
    ----------
    path
        A recording of this machine; of a longer one the first ten minutes are drawn.
    table
        Rows of `Predictor.predict`: start_s, end_s, label, p_….
    title
        What stands above it beside the notice; the name of the file if it is empty.

    Raises
    ------
    UsageError
        matplotlib is not installed (extra `report`).
    """
    require_packages("a picture", "report", "matplotlib")
    from rales.inference.notebook_figure import make_notebook_figure

    wave, rate_hz = read_waveform(path, 0.0, MOST_S)
    seconds = len(wave) / rate_hz
    figure: Figure = make_notebook_figure(figsize=(float(np.clip(seconds / 2, 8, 30)), 4), layout="constrained")
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 6])
    points = max(int(WINDOW_S * rate_hz), 16)
    power, _, _, image = axes.specgram(wave, NFFT=points, Fs=rate_hz, noverlap=points // 2, cmap="gray_r")
    loudest = 10 * np.log10(max(float(power.max()), 1e-20))
    image.set_clim(loudest - FLOOR_DB, loudest)
    axes.set(ylim=(0, min(TOP_HZ, rate_hz / 2)), xlim=(0, seconds), xlabel="Time (s)", ylabel="Frequency (Hz)")

    names = [name for name in table.columns if str(name).startswith("p_")]
    for row in table[table["start_s"] < seconds].to_dict("records"):  # text outside would stretch the figure
        label = row["label"] if isinstance(row["label"], str) else None
        number = names.index(f"p_{label}") if f"p_{label}" in names else None
        colour = "white" if number is None else COLOURS[number % len(COLOURS)]
        text = "not judged" if label is None else label if number is None else f"{label} {row[names[number]]:.2f}"
        start_s, end_s = row["start_s"], min(row["end_s"], seconds)
        above.axvspan(start_s, end_s, color=colour, alpha=0.35)
        above.text((start_s + end_s) / 2, 0.5, text, ha="center", va="center", fontsize=8, clip_on=True)
        for time_s in (start_s, end_s):
            axes.axvline(time_s, color="black", linewidth=0.5)
    above.set(ylim=(0, 1), yticks=[])
    name = one_line(title or Path(path).name)
    above.set_title(f"{name}\n{table.attrs.get('notice', NOTICE)}", fontsize=9, parse_math=False, wrap=True)
    return figure
