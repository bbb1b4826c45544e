"""What a recipe makes of the cycles table: rows, the input prepared of each, and named extras beside it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.data import waveform_cache
from rales.labels import ICBHI, LabelSet
from rales.settings import Waveform, scored_together

Rows = NDArray[np.int64]


class PreparesRows(Protocol):
    """What of a recipe says which rows are prepared, and how."""

    @property
    def settings(self) -> Any: ...
    @property
    def audio(self) -> Any: ...
    @property
    def rows(self) -> Callable[[Any, pd.DataFrame], pd.DataFrame] | None: ...
    @property
    def extras(self) -> tuple[str, ...]: ...
    @property
    def prepare(self) -> Callable[[Any], waveform_cache.Preparation] | None: ...
    @property
    def scales_batches(self) -> bool: ...


@dataclass(frozen=True)
class Batch:
    """Some rows, ready for a front-end. With several devices each gets a slice; only `whole_label` is common to all."""

    inputs: Tensor
    """(B, samples) waveforms or (B, channels, height, width) pictures, float32, and nothing else."""
    label: Tensor
    """(B,) int64 class numbers, or of independent classes (B, classes) of 0 and 1."""
    rows: Rows
    """(B,) positions in the table."""
    whole_label: Tensor
    """The same of all devices together: lets a weighted loss be normalised without messages."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What else is known of each row, by name, (B, …): its device, its metadata group, what an augmentation drew."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch in the memory of a device; no copy is waited for."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            label=self.label.to(device, non_blocking=True),
            whole_label=self.whole_label.to(device, non_blocking=True),
            extras={name: values.to(device, non_blocking=True) for name, values in self.extras.items()},
        )

    def with_silent_row(self) -> "Batch":
        """An empty slice of a batch -> one row of zeros, for a process that has to take part all the same."""
        return replace(
            self,
            inputs=self.inputs.new_zeros(1, *self.inputs.shape[1:]),
            label=self.label.new_zeros(1, *self.label.shape[1:]),
            extras={name: values.new_zeros(1, *values.shape[1:]) for name, values in self.extras.items()},
        )


@dataclass(frozen=True)
class CycleDataset:
    """The rows of the cycles table with the input prepared of each and named extras."""

    table: pd.DataFrame
    inputs: NDArray[np.float32]
    """(N, samples) waveforms or (N, channels, height, width) pictures, memory-mapped if they come from the cache."""
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """(N, …) arrays by name."""
    scored_together: int = 16
    """Rows that are scored at a time."""
    label_set: LabelSet = ICBHI
    """The classes of their labels."""

    @cached_property
    def class_numbers(self) -> NDArray[np.int64]:
        """(N,) class numbers of the rows, or of independent classes (N, classes) of 0 and 1. Errors: a row without a
        label."""
        return class_numbers(self.table, self.label_set)

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, part: str) -> Rows:
        """Part of the split -> positions of its rows."""
        return np.flatnonzero(self.table["split"].to_numpy() == part)

    def parts_to_watch(self) -> list[str]:
        return [part for part in ("validation", "test") if len(self.rows(part))]


def load_dataset(
    table: pd.DataFrame, recipe: PreparesRows, *, progress: bool = False, folder: Path | None = None
) -> CycleDataset:
    """Divided cycles table -> the rows that the recipe makes of it, their inputs from the cache (built if need be)."""
    rows = expand_rows(table, recipe)
    inputs = waveform_cache.cached_arrays(rows, make_preparation(recipe), folder=folder, progress=progress)
    return make_dataset(rows, inputs, recipe)


def prepare_dataset(table: pd.DataFrame, recipe: PreparesRows) -> CycleDataset:
    """Cycles table, which may be empty -> `load_dataset` of it, prepared in memory without a cache."""
    rows = expand_rows(table, recipe)
    return make_dataset(rows, make_preparation(recipe).of_rows(rows), recipe)


def make_dataset(rows: pd.DataFrame, inputs: NDArray[np.float32], recipe: PreparesRows) -> CycleDataset:
    """Rows and the input of each -> the dataset, with what the recipe says of extras, scoring and classes."""
    extras, together = read_extras(rows, recipe), scored_together(recipe, 16)
    return CycleDataset(rows, inputs, extras, together, recipe.settings.label_set)


def expand_rows(table: pd.DataFrame, recipe: PreparesRows) -> pd.DataFrame:
    """Divided cycles table -> the rows that are prepared: the cycles, or what the recipe makes of them."""
    return table if recipe.rows is None else recipe.rows(recipe.settings, table)


def read_extras(rows: pd.DataFrame, recipe: PreparesRows) -> dict[str, NDArray[Any]]:
    """Rows -> the columns that the recipe names as extras, (N,) each, words as `number_groups`; one that this table
    lacks is left out, since a loss may need what scoring does not: see `check_extras`."""
    found = {name: rows[name] for name in recipe.extras if name in rows}
    return {
        name: each.to_numpy() if pd.api.types.is_numeric_dtype(each) else number_groups(each)
        for name, each in found.items()
    }


def number_groups(words: pd.Series) -> NDArray[np.int64]:
    """Words (N,), such as patients or devices -> a number for each in the order of the alphabet, -1 of an empty one."""
    return pd.factorize(words.where(words.astype(str) != ""), sort=True)[0].astype(np.int64)


def find_taken_extras(recipe: PreparesRows, *modules: nn.Module) -> tuple[str, ...]:
    """Recipe, its front-end and its network -> those of its extras that they take, so that nothing is scored
    without."""
    return tuple(name for name in recipe.extras if any(name in getattr(module, "takes", ()) for module in modules))


def check_extras(dataset: CycleDataset, needed: Iterable[str]) -> None:
    """Errors: an extra that is needed is no column of the rows."""
    if missing := [name for name in needed if name not in dataset.extras]:
        raise ValueError(
            f"the recipe needs `{missing[0]}` of every cycle (its `extras`), which is no column here; give data whose "
            "reader fills it, or let the recipe's `rows` make it"
        )


def select_extras(module: nn.Module, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Front-end or network, and the extras of a batch -> those that it takes as keyword arguments.

    A module says so in its attribute `takes`, a tuple of names; most have none and see their input alone.
    """
    return {name: extras[name] for name in getattr(module, "takes", ()) if name in extras}


def index_extras(extras: Mapping[str, NDArray[Any]], rows: Rows | slice) -> dict[str, Tensor]:
    """Arrays (N, …) by name and the rows that are wanted -> (n, …) tensors."""
    return {name: torch.from_numpy(np.array(values[rows])) for name, values in extras.items()}


def make_preparation(recipe: PreparesRows) -> waveform_cache.Preparation:
    """Recipe -> how a row becomes what the front-end gets."""
    if recipe.prepare is not None:
        return recipe.prepare(recipe.settings)
    audio = recipe.audio
    return waveform_cache.waveform_preparation(
        rate_hz=audio.rate_hz,
        duration_s=audio.duration_s,
        resampler=audio.resampler,
        pad=audio.pad,
        fade_samples=audio.fade_samples,
    )


def class_numbers(cycles: pd.DataFrame, label_set: LabelSet = ICBHI) -> NDArray[np.int64]:
    """Rows with `label` -> (n,) class numbers, or of independent classes (n, classes) of 0 and 1."""
    return label_set.make_targets(cycles["label"].tolist())


def wave_settings(audio: Waveform) -> dict[str, Any]:
    """Settings of a waveform -> rate, length and resampler, which whatever prepares waveforms needs."""
    samples = round(audio.rate_hz * audio.duration_s)
    return {"rate_hz": audio.rate_hz, "samples": samples, "resampler": audio.resampler}


SECOND = ("second_path", "second_start_s", "second_end_s")  # columns of a cycle that is joined to that of the row


def with_concatenated(
    table: pd.DataFrame, pairs: NDArray[np.int64], labels: NDArray[np.int64], label_set: LabelSet = ICBHI
) -> pd.DataFrame:
    """Table, positions (n, 2) of two cycles each, class numbers (n,) -> the table and behind it those joined cycles.

    Joined rows train; the columns SECOND name their second cycle and are empty in all others.
    """
    first, second = table.iloc[pairs[:, 0]].reset_index(drop=True), table.iloc[pairs[:, 1]]
    joined = first.assign(label=label_set.name_targets(labels), split="train")
    for column in SECOND:
        joined[column] = second[column.removeprefix("second_")].to_numpy()
    plain = table.assign(second_path="", second_start_s=0.0, second_end_s=0.0)
    return pd.concat([plain, joined], ignore_index=True) if len(joined) else plain


def train_positions(table: pd.DataFrame) -> NDArray[np.int64]:
    """Table with `split` -> positions of the rows that train."""
    return np.flatnonzero(table["split"].to_numpy() == "train")


def number_words(words: pd.Series, known: tuple[str, ...]) -> list[int]:
    """Words -> their numbers among the known ones, or one more than the last for any other."""
    return [known.index(word) if word in known else len(known) for word in words]
