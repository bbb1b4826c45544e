"""Set the `split` column of a cycles table: the official split, its repairs, validation patients, folds, one device,
and draws at random.

Every function returns a new table and keeps patients whole, except `split_officially`, which is as published, and the
leaky ones, which show what keeping them whole is worth.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rales.data.published_folds import RESPIRENET
from rales.settings import RunSettings, Split

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FOLDS = 5  # unless asked for otherwise
MADE_OF = "_overlay"  # in the name of a recording, behind that of the one that it was made of
_WAYS = "add one, or --set split.name=folds makes folds of whole patients"
TRAIN_SHARE = 0.6  # of what is drawn at random, as the official list has it
LEAKY = ("leaky_recordings", "leaky_cycles")  # patients of the test train too
_ORDERS = 64  # random orders tried by `hold_out_validation`: on ICBHI each class comes within 0.03 of the share


def split_officially(cycles: DataFrame) -> DataFrame:
    """Cycles -> the same, split as the official list says (ICBHI 2017: 4,142 train, 2,756 test cycles)."""
    if not cycles["split"].isin(["train", "test"]).any():
        raise ValueError(f"no recording is in train or test; the data has no split list or split column: {_WAYS}")
    return cycles.copy()


def split_without_overlap(cycles: DataFrame) -> DataFrame:
    """Cycles -> the official split without the test recordings of patients who are in train too (test 2,636 cycles)."""
    cycles = split_officially(cycles)
    leaked = (cycles["split"] == "test") & cycles["patient"].isin(overlap_patients(cycles))
    return cycles[~leaked].reset_index(drop=True)


def split_overlap_to_test(cycles: DataFrame) -> DataFrame:
    """Cycles -> the official split with patients of both sides wholly in test (train 4,025, test 2,873 cycles)."""
    cycles = split_officially(cycles)
    cycles.loc[cycles["patient"].isin(overlap_patients(cycles)), "split"] = "test"
    return cycles


SPLITS: dict[str, Callable[[DataFrame], DataFrame]] = {
    "official": split_officially,
    "official_drop": split_without_overlap,
    "official_move": split_overlap_to_test,
}


def apply_split(cycles: DataFrame, name: str) -> DataFrame:
    """Cycles and a name of SPLITS -> the table split that way; an unknown name raises a ValueError."""
    if name not in SPLITS:
        close = difflib.get_close_matches(name, SPLITS, n=1, cutoff=0.0)[0]
        raise ValueError(f"no split {name!r}; did you mean {close!r}? Known: {', '.join(SPLITS)}")
    return SPLITS[name](cycles)


def divide_cycles(cycles: DataFrame, settings: RunSettings, needed: tuple[str, ...] = ("train", "test")) -> DataFrame:
    """Cycles table -> the same rows with the split that the settings name, and validation patients if they select.

    Rows that a split leaves out stay in the table with split "", so that all splits of a folder share one cache.
    """
    split = settings.split
    divided = draw_split(cycles, split)
    sides = set(divided["split"])
    if settings.train.select == "validation" and "train" in sides and "validation" not in sides:
        share = settings.train.validation_share
        if split.name in LEAKY:
            divided = hold_out_at_random(divided, split.name, share, split.seed)
        else:
            divided = hold_out_validation(divided, share, split.seed)
    present = set(divided["split"])
    for part in needed:
        if part not in present:
            ways = f"; in a column split, {_WAYS}" if needs_list(split.name) else ""
            raise ValueError(f"no {part} cycles under split {split.name!r}; the data has only {sorted(present)}{ways}")
    part_of = dict(zip(cycle_keys(divided), divided["split"], strict=True))
    return cycles.assign(split=[part_of.get(key, "") for key in cycle_keys(cycles)])  # attrs (what was left out) stay


def draw_split(cycles: DataFrame, split: Split) -> DataFrame:
    """Cycles -> the same, train and test as the split's settings say; rows that a repair drops are missing."""
    if split.name == "folds":
        return select_fold(cycles, assign_folds(cycles, split.folds, split.seed), split.fold)
    if split.name == "respirenet":
        return select_fold(cycles, assign_published_folds(cycles), split.fold)
    if split.name == "device":
        return leave_device_out(cycles, split.device)
    if split.name == "patients" or split.name in LEAKY:
        return split_at_random(cycles, split.name, split.seed)
    return apply_split(cycles, split.name)


def needs_list(name: str) -> bool:
    """Name of a split -> whether it follows the split that the data itself has."""
    return name not in ("folds", "respirenet", "device", "patients", *LEAKY)


def cycle_keys(rows: DataFrame) -> list[tuple[str, int]]:
    """Rows -> (recording, cycle) of each."""
    return list(zip(rows["recording"], rows["cycle"], strict=True))


def overlap_patients(cycles: DataFrame) -> list[str]:
    """Cycles -> the patients that have recordings in both train and test, sorted (ICBHI 2017: 156 and 218)."""
    sides = [set(cycles.loc[cycles["split"] == side, "patient"]) for side in ("train", "test")]
    return sorted(sides[0] & sides[1])


def hold_out_validation(cycles: DataFrame, share: float = 0.2, seed: int = 0) -> DataFrame:
    """Cycles -> the same, with whole train patients moved to split "validation" until it holds `share` of the cycles.

    Of several random orders of the patients, each taken greedily, the set whose class counts come closest to
    `share` of train's is kept. Patients who are in test too stay in train: validation must not know them.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation share {share}, expected a fraction between 0 and 1")
    train = cycles[cycles["split"] == "train"]
    counts = _class_counts(train)
    free = np.flatnonzero(~counts.index.isin(overlap_patients(cycles)))
    if len(free) == 0 or len(counts) < 2:
        raise ValueError(
            f"{len(counts)} patients in train, {len(free)} of them not in test; a validation part needs two patients "
            "in train and one that is not in test"
        )
    table = counts.to_numpy(dtype=float)
    limit = min(len(free), len(counts) - 1)
    goal = share * table.sum(axis=0)
    rng = np.random.default_rng(seed)
    chosen = min(
        (_choose_patients(table, rng.permutation(free), goal, limit) for _ in range(_ORDERS)), key=lambda pick: pick[0]
    )[1]
    result = cycles.copy()
    moved = (cycles["split"] == "train") & cycles["patient"].isin(counts.index[chosen])
    result.loc[moved, "split"] = "validation"
    return result


def assign_folds(cycles: DataFrame, k: int | None = None, seed: int = 0) -> Series[int]:
    """Cycles -> a column `fold` (0 to k-1) for all rows; every patient is in one fold, cycles and classes are even.

    Without `k` there are five folds, or as many as patients if these are fewer. Patients go one by one, roughly from
    the largest down, to the fold where they disturb the balance least. A single patient, and fewer patients than the
    folds asked for, raise a ValueError.
    """
    counts = _class_counts(cycles)
    if len(counts) < 2:
        raise ValueError(
            f"the cycles are of {len(counts)} patient, and patient-disjoint folds need two or more; give more data, or "
            "name the patients in the column `patient`"
        )
    k = min(FOLDS, len(counts)) if k is None else k
    if not 2 <= k <= len(counts):
        raise ValueError(f"{k} folds of {len(counts)} patients; ask for 2 to {len(counts)} folds")
    table = counts.to_numpy(dtype=float)
    shares = np.hstack([table / np.maximum(table.sum(axis=0), 1), table.sum(axis=1, keepdims=True) / table.sum()])
    # Large patients go first, as small ones can even out the rest; the blur makes seeds give different folds.
    order = np.argsort(-table.sum(axis=1) * np.random.default_rng(seed).uniform(0.5, 1.5, len(counts)))
    filled = np.zeros((k, shares.shape[1]))
    assigned = np.empty(len(counts), dtype=int)
    for patient in order:
        # Even folds have the least sum of squares; adding p to a fold f raises it by 2 f·p + p·p.
        fold_ = int(np.argmin(filled @ shares[patient]))
        filled[fold_] += shares[patient]
        assigned[patient] = fold_
    return cycles["patient"].map(dict(zip(counts.index, assigned.tolist(), strict=True))).astype(int).rename("fold")


def select_fold(cycles: DataFrame, assignment: Series[int], i: int) -> DataFrame:
    """Cycles and the column of `assign_folds` -> the same table with fold `i` as test and all other rows as train."""
    known = sorted(set(assignment))
    if i not in known:
        raise ValueError(f"no fold {i}; there are {known[0]} to {known[-1]}")
    return cycles.assign(split=np.where(assignment == i, "test", "train"))


def assign_published_folds(cycles: DataFrame) -> Series[int]:
    """Cycles of ICBHI 2017 -> RespireNet's fold of each (0 to 4); -1 of a patient whom its list does not have.

    ValueError: none of the patients is in the list.
    """
    fold_of = {patient: number for number, patients in enumerate(RESPIRENET) for patient in patients.split()}
    if not set(cycles["patient"]) & fold_of.keys():
        raise ValueError(
            "split respirenet: none of the patients here is in RespireNet's list, which has those of ICBHI 2017 by "
            "their numbers, 101 to 226"
        )
    return cycles["patient"].map(lambda patient: fold_of.get(patient, -1)).astype(int).rename("fold")


def leave_device_out(cycles: DataFrame, device: str) -> DataFrame:
    """Cycles and a device -> its recordings test, those of the other devices train, but for those of the same patients,
    which are left out (split "")."""
    known = sorted(set(cycles["device"].dropna()) - {""})
    if device not in known:
        raise ValueError(f"split.device={device}: no recording here is of it; there are {', '.join(known) or 'none'}")
    tests = cycles["device"] == device
    same = cycles["patient"].isin(set(cycles.loc[tests, "patient"]))
    return cycles.assign(split=np.select([tests, same], ["test", ""], "train"))


def split_at_random(cycles: DataFrame, name: str, seed: int) -> DataFrame:
    """Cycles and "patients", "leaky_recordings" or "leaky_cycles" -> 60 % of those, in random order, train.

    With recordings and seed 1 this is what the loaders of MVST, RSC-FTF and ADD-RSC do of the sorted file names.
    """
    units = list_units(cycles, name)
    train = draw_units(units, TRAIN_SHARE, seed)
    return cycles.assign(split=["train" if unit in train else "test" for unit in units])


def hold_out_at_random(cycles: DataFrame, name: str, share: float, seed: int) -> DataFrame:
    """Cycles under a leaky split -> the same, a share of its train recordings or cycles in split "validation".

    Whole patients cannot be held out where all are in test too, and who splits so validates so.
    """
    units, train = list_units(cycles, name), cycles["split"] == "train"
    kept = draw_units([unit for unit, trains in zip(units, train, strict=True) if trains], 1 - share, seed)
    held_out = train & np.array([unit not in kept for unit in units], dtype=np.bool_)
    return cycles.assign(split=cycles["split"].mask(held_out, "validation"))


def list_units(cycles: DataFrame, name: str) -> list[Hashable]:
    """Cycles and the name of a split at random -> of each what is drawn as a whole: patient, recording, or cycle."""
    if name == "leaky_cycles":
        return list(cycle_keys(cycles))
    return list(cycles["patient" if name == "patients" else "recording"])


def draw_units(units: Sequence[Hashable], share: float, seed: int) -> set[Hashable]:
    """Units, repeated or not -> the first `share` of them in random order, at least one and not all of several."""
    ordered = sorted(set(units), key=repr)
    random.Random(seed).shuffle(ordered)
    return set(ordered[: min(max(1, int(len(ordered) * share)), max(1, len(ordered) - 1))])


def digest_name(recording: str) -> str:
    """Name of a recording -> ten hex digits by which a record can tell that it was trained on, without naming it; one
    that was made of another counts as that."""
    return hashlib.sha256(recording.partition(MADE_OF)[0].encode("utf-8", "surrogateescape")).hexdigest()[:10]


def digest_cycles(rows: DataFrame) -> str:
    """Cycles table -> sha256 over recording, times, label and split in a fixed order: which data a run really saw."""
    columns = ["recording", "start_s", "end_s", "label", "split"]
    ordered = rows[columns].sort_values(columns)
    return hashlib.sha256(ordered.to_csv(index=False, float_format="%.5f").encode()).hexdigest()


def _class_counts(cycles: DataFrame) -> DataFrame:
    """Cycles -> number of cycles per patient (rows) and class (columns)."""
    return cycles.groupby(["patient", "label"]).size().unstack(fill_value=0)


def _choose_patients(
    table: NDArray[np.float64], order: NDArray[np.int64], goal: NDArray[np.float64], limit: int
) -> tuple[float, list[int]]:
    """Class counts per patient, an order and the wanted counts -> (distance left, patients taken, at most `limit`)."""
    weight = 1 / np.maximum(goal, 1)
    taken = [int(order[0])]
    have = table[order[0]].copy()
    distance = _class_count_distance(have, goal, weight)
    for patient in order[1:]:
        tried = _class_count_distance(have + table[patient], goal, weight)
        if tried < distance and len(taken) < limit:
            taken.append(int(patient))
            have += table[patient]
            distance = tried
    return distance, taken


def _class_count_distance(have: NDArray[np.float64], goal: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Mean relative error of the class counts plus that of their sum."""
    return float(np.mean(np.abs(have - goal) * weight) + abs(have.sum() - goal.sum()) / goal.sum())
