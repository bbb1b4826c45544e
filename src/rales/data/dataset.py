"""What a recipe makes of the cycles table: rows, and the array of what was prepared of each."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rales.audio.filters import mean_spectrum
from rales.config import Config, Recipe
from rales.data import waveform_cache
from rales.data.loader import ordered_batches
from rales.labels import CLASSES


def prepared_rows(table: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """Divided cycles table -> the rows that are prepared: the cycles, or what the recipe makes of them."""
    return table if recipe.rows is None else recipe.rows(recipe.config, table)


def cached_waveforms(
    rows: pd.DataFrame, recipe: Recipe, *, progress: bool = False, folder: Path | None = None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows -> memory-mapped (N, samples) waveforms, or whatever else the recipe prepares, as the config says."""
    return waveform_cache.cached_arrays(rows, choose_preparation(recipe), folder=folder, progress=progress)


def choose_preparation(recipe: Recipe) -> waveform_cache.Preparation:
    """Recipe -> how a row becomes what the front-end gets."""
    if recipe.prepare is not None:
        made: waveform_cache.Preparation = recipe.prepare(recipe.config)
        return made
    audio = recipe.config.audio
    return waveform_cache.waveform_preparation(
        rate_hz=audio.rate_hz,
        duration_s=audio.duration_s,
        resampler=audio.resampler,
        pad=audio.pad,
        fade_samples=audio.fade_samples,
    )


def scored_together(config: Config, usual: int) -> int:
    """Config -> how many rows are scored at a time, wherever a model is asked: `usual`, unless audio.scope=batch makes
    an answer depend on the others of its batch. Then they are those of a part alone, in the order of the table, as many
    as train together, so that training, evaluation and prediction give one answer."""
    return config.train.batch_size if config.audio.scope == "batch" else usual


class CycleDataset:
    """The rows of the cycles table with what was prepared of each, class numbers and metadata groups (-1: unknown).

    `together` of them are scored at a time.
    """

    def __init__(self, table: pd.DataFrame, waves: np.ndarray[Any, np.dtype[np.float32]], together: int = 16) -> None:
        self.table, self.waves, self.together = table, waves, together
        self.labels = class_numbers(table)
        self.groups = table["group"].to_numpy(np.int64) if "group" in table else np.full(len(table), -1)

    def rows(self, part: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.flatnonzero(self.table["split"].to_numpy() == part)

    def parts_to_watch(self) -> list[str]:
        return [part for part in ("validation", "test") if len(self.rows(part))]


def class_numbers(cycles: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows with `label` -> (n,) class numbers."""
    return np.array([CLASSES.index(label) for label in cycles["label"]], np.int64)


def wave_settings(config: Config) -> dict[str, Any]:
    """Config -> rate, length and resampler, which whatever prepares waveforms needs."""
    audio = config.audio
    samples = round(audio.rate_hz * audio.duration_s)
    return {"rate_hz": audio.rate_hz, "samples": samples, "resampler": audio.resampler}


SECOND = ("second_path", "second_start_s", "second_end_s")  # columns of a cycle that is joined to that of the row


def with_concatenated(
    table: pd.DataFrame, pairs: np.ndarray[Any, np.dtype[np.int64]], labels: np.ndarray[Any, np.dtype[np.int64]]
) -> pd.DataFrame:
    """Table, positions (n, 2) of two cycles each, class numbers (n,) -> the table and behind it those joined cycles.

    Joined rows train; the columns SECOND name their second cycle and are empty in all others.
    """
    first, second = table.iloc[pairs[:, 0]].reset_index(drop=True), table.iloc[pairs[:, 1]]
    joined = first.assign(label=[CLASSES[number] for number in labels], split="train")
    for column in SECOND:
        joined[column] = second[column.removeprefix("second_")].to_numpy()
    plain = table.assign(second_path="", second_start_s=0.0, second_end_s=0.0)
    return pd.concat([plain, joined], ignore_index=True) if len(joined) else plain


def train_positions(table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Table with `split` -> positions of the rows that train."""
    return np.flatnonzero(table["split"].to_numpy() == "train")


def number_words(words: pd.Series, known: tuple[str, ...]) -> list[int]:
    """Words -> their numbers among the known ones, or one more than the last for any other."""
    return [known.index(word) if word in known else len(known) for word in words]


def device_spectra(
    data: CycleDataset, chosen: np.ndarray[Any, np.dtype[np.bool_]], *, samples: int, fft_samples: int
) -> dict[int, Tensor]:
    """Rows with `device_number` and which of them count -> device's number -> (bins,) mean STFT magnitude of its rows.

    The first `samples` numbers that were prepared of a row are its wave. Devices without a row are left out.
    """
    spectra = {}
    for number in sorted(set(data.table.loc[chosen, "device_number"])):
        rows = np.flatnonzero(chosen & (data.table["device_number"].to_numpy() == number))
        total = torch.zeros(fft_samples // 2 + 1)
        for batch in ordered_batches(data.waves, data.labels, 16, rows=rows):
            total += len(batch.rows) * mean_spectrum(batch.wave[:, :samples], fft_samples)
        spectra[int(number)] = total / len(rows)
    return spectra
