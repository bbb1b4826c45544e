"""Set the `split` column of a cycles table: the official split, its repairs, validation patients and folds.

Every function returns a new table and keeps patients whole, except `split_officially`, which is as published.
"""

import difflib
import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series

from rales.settings import RunSettings

FOLDS = 5  # unless asked for otherwise
MADE_OF = "_overlay"  # in the name of a recording, behind that of the one that it was made of
_WAYS = "add one, or --set split.name=folds makes folds of whole patients"
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
    if split.name == "folds":
        divided = select_fold(cycles, assign_folds(cycles, split.folds, split.seed), split.fold)
    else:
        divided = apply_split(cycles, split.name)
    sides = set(divided["split"])
    if settings.train.select == "validation" and "train" in sides and "validation" not in sides:
        divided = hold_out_validation(divided, settings.train.validation_share, split.seed)
    present = set(divided["split"])
    for part in needed:
        if part not in present:
            ways = f"; in a column split, {_WAYS}" if split.name != "folds" else ""
            raise ValueError(f"no {part} cycles under split {split.name!r}; the data has only {sorted(present)}{ways}")
    part_of = dict(zip(cycle_keys(divided), divided["split"], strict=True))
    return cycles.assign(split=[part_of.get(key, "") for key in cycle_keys(cycles)])  # attrs (what was left out) stay


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


def assign_folds(cycles: DataFrame, k: int | None = None, seed: int = 0) -> "Series[int]":
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


def select_fold(cycles: DataFrame, assignment: "Series[int]", i: int) -> DataFrame:
    """Cycles and the column of `assign_folds` -> the same table with fold `i` as test and all other rows as train."""
    known = sorted(set(assignment))
    if i not in known:
        raise ValueError(f"no fold {i}; there are {known[0]} to {known[-1]}")
    return cycles.assign(split=np.where(assignment == i, "test", "train"))


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
