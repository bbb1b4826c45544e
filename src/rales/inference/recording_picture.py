"""A recording as a picture: its spectrogram with events, and above it each cycle with label and probability."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rales.audio.io import read_waveform
from rales.data.events import CRACKLES, EXPIRATION, Event
from rales.evaluation.predictions import NOTICE
from rales.files.csv_cells import one_line
from rales.optional_packages import require_packages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_S = 0.05
FLOOR_DB = 70  # below the loudest point of the picture
TOP_HZ = 2000  # crackles and wheezes lie below
COLOURS = ("#64748b", "#d97706", "#0b5cad", "#85486f")  # of the page: normal, crackle, wheeze, both
MOST_S = 600.0
INCHES = (12.0, 30.0)  # of the width, by the length of the stretch
MARGINS = 0.9  # inches of it that the axis takes
LETTER_INCHES = 0.068  # of a label, on average


def plot_recording(
    path: str | Path,
    table: pd.DataFrame,
    title: str = "",
    *,
    events: Sequence[Event] = (),
    start_s: float = 0.0,
    end_s: float = MOST_S,
) -> "Figure":
    """Recording and the table of its cycles -> figure: spectrogram to 2 kHz (0.05 s windows, 70 dB), cycles above it.

    Parameters
    ----------
    path
        A recording of this machine; of a longer one the first ten minutes are drawn, if nothing else is asked for.
    table
        Rows of `Predictor.predict`: start_s, end_s, label, p_….
    title
        What stands above it beside the notice; the name of the file if it is empty.
    events
        Drawn into the spectrogram: boxes, points as lines, and the turn of a breath as a dotted line.
    start_s, end_s
        The stretch that is drawn.

    Raises
    ------
    UsageError
        matplotlib is not installed (extra `report`).
    """
    require_packages("a picture", "report", "matplotlib")
    from rales.inference.notebook_figure import make_notebook_figure

    wave, rate_hz = read_waveform(path, start_s, end_s)
    seconds = len(wave) / rate_hz
    end_s = start_s + seconds
    width = float(np.clip(seconds / 2, *INCHES))
    figure: Figure = make_notebook_figure(figsize=(width, 4), layout="constrained")
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 6])
    points = max(int(WINDOW_S * rate_hz), 16)
    power, _, _, image = axes.specgram(
        wave, NFFT=points, Fs=rate_hz, noverlap=points // 2, cmap="gray_r", xextent=(start_s, end_s)
    )
    loudest = 10 * np.log10(max(float(power.max()), 1e-20))
    image.set_clim(loudest - FLOOR_DB, loudest)
    axes.set(ylim=(0, min(TOP_HZ, rate_hz / 2)), xlim=(start_s, end_s), xlabel="Time (s)", ylabel="Frequency (Hz)")
    for event in events:
        if event.end_s >= start_s and event.start_s <= end_s:
            draw_event(axes, event)

    names = [name for name in table.columns if str(name).startswith("p_")]
    inside = (table["start_s"] < end_s) & (table["end_s"] > start_s)
    for row in table[inside].to_dict("records"):  # text outside would stretch the figure
        label = row["label"] if isinstance(row["label"], str) else None
        number = names.index(f"p_{label}") if f"p_{label}" in names else None
        colour = "white" if number is None else COLOURS[number % len(COLOURS)]
        share = "" if number is None or pd.isna(row[names[number]]) else f" {row[names[number]]:.2f}"
        from_s, to_s = max(row["start_s"], start_s), min(row["end_s"], end_s)
        room = (to_s - from_s) / seconds * (width - MARGINS) / LETTER_INCHES
        texts = ["not judged"] if label is None else [f"{label}{share}", label]
        text = next((words for words in texts if len(words) <= room), "")
        above.axvspan(from_s, to_s, color=colour, alpha=0.35)
        above.text((from_s + to_s) / 2, 0.5, text, ha="center", va="center", fontsize=8, clip_on=True)
        for time_s in (from_s, to_s):
            axes.axvline(time_s, color="black", linewidth=0.5)
    above.set(ylim=(0, 1), yticks=[])
    name = one_line(title or Path(path).name)
    above.set_title(f"{name}\n{table.attrs.get('notice', NOTICE)}", fontsize=9, parse_math=False, wrap=True)
    return figure


def draw_event(axes: "Axes", event: Event) -> None:
    """A box where both frequencies are known, else a line, or a stretch over all of them."""
    colour = COLOURS[1] if event.kind in CRACKLES else "black" if event.kind == EXPIRATION else COLOURS[2]
    if event.is_point:
        axes.axvline(event.start_s, color=colour, linewidth=1, linestyle=":" if event.kind == EXPIRATION else "-")
        return
    low, high = axes.get_ylim() if event.low_hz is None or event.high_hz is None else (event.low_hz, event.high_hz)
    axes.fill_between([event.start_s, event.end_s], low, high, facecolor="none", edgecolor=colour, linewidth=1.2)
    axes.text(event.start_s, high, event.kind, color=colour, fontsize=7, va="bottom", clip_on=True)
