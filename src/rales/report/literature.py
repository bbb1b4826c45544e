"""Printed scores, in percent, of the tables beside this file: the paper's Tables 1 and 2, leaderboard, frozen probes.

The leaderboard has strict four-class figures as printed up to November 2026; IN = ImageNet, AS = AudioSet. "2nd":
somebody else's survey or table, the paper itself was not at hand. Public code need not be the code behind a printed
figure.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class PaperRow(NamedTuple):
    """One row of the paper's Table 1 or 2, and the system of ours that stands for it."""

    method: str
    architecture: str
    pretraining: str
    fused: str
    layer_weights: str
    printed: tuple[str, str, str]
    """Sp, Se, Sc as printed, with standard deviations where the paper has them."""
    recipe: str
    variant: str
    """The recipe's option `variant`; empty where it has none."""
    ratio: str
    """Masking ratio of the M2D pre-training, 0.6 or 0.7."""


class LeaderboardEntry(NamedTuple):
    """One published system: figures in percent, NaN where they are not printed."""

    method: str
    backbone: str
    pretraining: str
    specificity: float
    sensitivity: float
    score: float
    split: str
    """Which recordings tested it, a key of SPLITS."""
    selection: str
    """How its epoch was chosen, a key of SELECTIONS."""
    told: str
    """What it is told beside the sound, or empty: a system that is told more does another task."""
    code: str
    """Public repository, or empty."""
    evidence: str
    """Where split and selection stand (file:line or file:name of the public code), and where the figures are from."""

    @property
    def is_ranked(self) -> bool:
        """Whether the row can stand in one ranking with others: the official split, from the sound alone."""
        return self.split in OFFICIAL and not self.told


OFFICIAL = ("official", "(official)")
SPLITS = {
    "official": "the published list of recordings, read in the public code",
    "(official)": "the published list by the paper's own words, not traced to a line of public code",
    "by patient": "the published list applied to patients: those with recordings on both sides train and test with all "
    "of theirs",
    "recordings at random": "recordings shuffled, so nearly all test patients train too",
    "?": "not known",
}

SELECTIONS = {
    "O": "epoch chosen on the test set (public code, or the paper's own words)",
    "O+T": "epoch and decision thresholds chosen on the test set",
    "(O)": "no code of this system, but the group's public code chooses on the test set",
    "V": "epoch chosen on held-out training patients",
    "?": "not known, no code seen",
}

# How sure it is that a recipe of ours is the published system.
PROVENANCE = {
    "code-verified": "built from its authors' code",
    "secondary": "its input pipeline is known from others' re-use of it only",
    "reconstruction": "rebuilt from little more than an abstract: no reproduction of the published system",
}

TABLE1, TABLE2 = "1", "2"  # of the paper, in paper_tables.csv
# Of a published study on a quarter of the test set, second-hand: to stand beside the all-normal line.
PHYSICIANS = ("seven physicians, blind (Tzeng et al. 2025, second-hand)", "72.30", "23.20", "47.80")
NOT_STRICT = (
    "AST + SAM (2025) prints 68.10 (Sp 67.89, Se 68.31), but counts any abnormal answer to an abnormal cycle as right: "
    "a two-class figure, not ranked here."
)


def paper_rows(table: str) -> list[PaperRow]:
    """TABLE1 or TABLE2 -> its rows in printed order."""
    rows = []
    for number, *system, sp, se, sc, recipe, variant, ratio in _read_rows("paper_tables.csv"):
        method, architecture, pretraining, fused, weights = system
        if number == table:
            row = PaperRow(method, architecture, pretraining, fused, weights, (sp, se, sc), recipe, variant, ratio)
            rows.append(row)
    return rows


def read_leaderboard() -> list[LeaderboardEntry]:
    """The published systems, best printed Score first."""
    entries = []
    for method, backbone, pretraining, sp, se, score, *protocol in _read_rows("leaderboard.csv"):
        entries.append(LeaderboardEntry(method, backbone, pretraining, float(sp), float(se), float(score), *protocol))
    return entries


def check_leaderboard(entries: Sequence[LeaderboardEntry]) -> None:
    """Entries -> nothing. ValueError: one that does not say which recordings tested it, how its epoch was chosen, or
    where either stands."""
    for entry in entries:
        known = (("split", entry.split, SPLITS), ("selection", entry.selection, SELECTIONS))
        for name, value, codes in known:
            if value not in codes:
                raise ValueError(f"leaderboard, {entry.method}: its {name} is {value!r}, expected one of {list(codes)}")
        if not entry.evidence:
            raise ValueError(f"leaderboard, {entry.method}: nothing says where its split and selection stand")


def read_measured() -> list[list[str]]:
    """What Rales has measured itself, none of it on the whole database: system, Sp, Se, Score, recordings, split,
    epoch, where it stands."""
    return _read_rows("measured.csv")


def read_frozen_probes() -> list[list[str]]:
    """Encoders that stay frozen, with a linear probe, official test side, all second-hand, to stand beside what `rales
    layers` finds: encoder, Score, selection, source."""
    return _read_rows("frozen_probes.csv")


def _read_rows(file: str) -> list[list[str]]:
    """Table beside this file -> its rows below the names of the columns."""
    with Path(__file__).with_name(file).open(encoding="utf-8", newline="") as opened:
        return list(csv.reader(opened))[1:]
