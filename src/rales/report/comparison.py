"""Our systems beside printed figures: the paper's Tables 1 and 2 and the leaderboard."""

import re

import numpy as np
import pandas as pd

from rales import statistics
from rales.report.folders import SCORES
from rales.report.page import Table
from rales.report.published import NOT_STRICT, SELECTIONS, Row, leaderboard
from rales.report.systems import System, shown
from rales.report.tables import ALL_NORMAL, PROTOCOLS, over_seeds

OURS = ["ours", "seeds", "select", "weights", *SCORES, *(f"{name}_sd" for name in SCORES), "comparable"]
LEADERBOARD_CODES = {"test_best": "O", "validation": "V", "last": "last"}

PRINTED = ["Printed Sp", "Printed Se", "Printed Score"]
NOT_RUN = ["not run", "–", "–", "–"]

AS_THE_PAPER = {"frontend": "icbhi", "masks": "code"}
CHANGE_NO_ROW = {
    *("seed", "split.name", "split.folds", "split.fold", "split.seed"),
    *(f"train.{name}" for name in ("epochs", "select", "validation_share", "evaluate_every", "device")),
    *("train.precision", "train.micro_batch"),
}

Pairs = list[tuple[Row, System | None]]


def paper_pairs(rows: list[Row], systems: list[System], ratio_named: bool = False) -> Pairs:
    """Every row of the paper with each system of ours that stands for it, or with None.

    `ratio_named` asks for the masking ratio in the name of the pre-trained weights, as Table 1 is about it; otherwise
    only weights of the other ratio are refused.
    """
    pairs: Pairs = []
    for row in rows:
        ratios = ("",) if not row.ratio else (row.ratio,) if ratio_named else (row.ratio, "")
        ours = [
            s
            for s in systems
            if s.runs[0].recipe == row.recipe
            and is_unchanged(s)
            and row.variant in ("", s.runs[0].options.get("variant"))
            and (not row.ratio or masking_ratio(s) in ratios)
        ]
        pairs += [(row, s) for s in ours] or [(row, None)]
    return pairs


def is_unchanged(system: System) -> bool:
    """Whether a system is the one that its options name, not an ablation of it: only then it is a row of the paper."""
    run = system.runs[0]
    plain = all(run.options.get(name, value) == value for name, value in AS_THE_PAPER.items())
    return plain and not set(run.overrides) - CHANGE_NO_ROW


def masking_ratio(system: System) -> str:
    """-> "0.7" for weights with the tag mr7 in their name, "" without a tag."""
    tag = re.search(r"mr(\d)", str(system.runs[0].config.get("model.weights", "")))
    return f"0.{tag[1]}" if tag else ""


def paper_frame(pairs: Pairs) -> pd.DataFrame:
    """Pairs -> printed and own figures in percent: table1.csv and table2.csv."""
    records = []
    for row, system in pairs:
        printed = [[float(number) for number in text.split(" ± ")] for text in row.printed]
        records.append(
            {
                "method": row.method,
                "architecture": row.architecture,
                "pre_training": row.pretraining,
                "masking_ratio": row.ratio,
                "fused_layers": row.fused,
                "layer_weights": row.layer_weights,
                **{f"printed_{name}": figure[0] for name, figure in zip(SCORES, printed, strict=True)},
                **{
                    f"printed_{name}_sd": figure[-1] for name, figure in zip(SCORES, printed, strict=True) if figure[1:]
                },
                **(own_figures(system) if system else dict.fromkeys(OURS)),
            }
        )
    frame = pd.DataFrame(records).astype({"seeds": "Int64"})
    return frame.sort_index(axis=1, key=lambda names: names.isin(OURS), kind="stable")


def own_figures(system: System) -> dict[str, object]:
    spread = {name: statistics.mean_sd(100 * system.figures[name]) for name in SCORES}
    return {
        "ours": system.name,
        "seeds": len(system.runs),
        "select": system.select,
        "weights": system.runs[0].config.get("model.weights", ""),
        **{name: round(mean, 4) for name, (mean, _) in spread.items()},
        **{f"{name}_sd": round(sd, 4) for name, (_, sd) in spread.items()},
        "comparable": not system.incomparable,
    }


def paper_table(caption: str, pairs: Pairs) -> Table:
    """Pairs -> the paper's table with our figures beside the printed ones."""
    rows = []
    for row, system in pairs:
        ratio = f", r = {row.ratio}" if row.variant == "vanilla" else ""
        fused = "" if row.fused == "–" else f" {row.fused}, {row.layer_weights}"
        own = [described(system), *(over_seeds(system, name) for name in SCORES)] if system else NOT_RUN
        source = row.architecture if row.pretraining == "–" else f"{row.architecture}, {row.pretraining}"
        rows.append([f"{row.method}{ratio}{fused}", source, *row.printed, *own])
    return Table(
        caption,
        ["Method", "Architecture, pre-training", *PRINTED, "Ours", "Our Sp", "Our Se", "Our Score"],
        [*rows, [ALL_NORMAL, "–", "100.00", "0.00", "50.00", "–", "100.00", "0.00", "50.00"]],
        marked=frozenset(i for i, (_, system) in enumerate(pairs) if system),
        note="Printed: the paper's own figures on the whole database, official split. Ours: mean over seeds ± standard "
        "deviation; rows marked “not run” hold printed figures only.",
    )


def described(system: System) -> str:
    """-> what a reader must know before comparing: system, weights, seeds, choice of the epoch, other data."""
    weights = system.runs[0].config.get("model.weights") or "random start"
    seeds = f"{len(system.runs)} seed{'s' * (len(system.runs) > 1)}"
    parts = [system.name, "" if shown(weights) in system.name else shown(weights), seeds, PROTOCOLS[system.select]]
    return "; ".join(part for part in [*parts, "not comparable" if system.incomparable else ""] if part)


def leaderboard_tables(systems: list[System]) -> list[Table]:
    """The published leaderboard with our comparable systems in their rank, and the others in a table apart."""
    entries = leaderboard()
    ranked = [
        (e.score, [e.method, str(place), e.backbone, e.pretraining, *map(printed, e[3:6]), e.selection, e.code or "–"])
        for place, e in enumerate(entries, start=1)
    ]
    ranked.append((50.0, [ALL_NORMAL, "–", "–", "–", "100.00", "0.00", "50.00", "–", "–"]))
    ours, apart = [], []
    for s in systems:
        score = 100 * float(s.figures["score"].mean())
        cells = [over_seeds(s, name) for name in SCORES]
        if s.incomparable:
            apart.append([s.name, *cells, LEADERBOARD_CODES[s.select], s.incomparable])
        elif not np.isnan(score):
            place = 1 + sum(e.score > score for e in entries)
            row = [f"ours: {s.name}", f"({place})", "–", shown(s.runs[0].config.get("model.weights", ""))]
            ours.append((score, [*row, *cells, LEADERBOARD_CODES[s.select], "–"]))
    merged = sorted([*ranked, *ours], key=lambda item: -item[0])
    legend = "; ".join(f"{code}: {text}" for code, text in {**SELECTIONS, "last": "last epoch, nothing chosen"}.items())
    board = Table(
        "Published four-class results, official 60/40 split",
        ["System", "Rank", "Backbone", "Pre-training", "Sp", "Se", "Score", "Epoch", "Public code"],
        [row for _, row in merged],
        marked=frozenset(i for i, (_, row) in enumerate(merged) if row[0].startswith("ours: ")),
        note=f"Printed figures, found up to June 2026; IN = ImageNet, AS = AudioSet. Epoch: {legend}. {NOT_STRICT} "
        "Drawing other test patients moves a Score by about ± 4.9 points, so most ranks are not told apart.",
    )
    if not apart:
        return [board]
    columns = ["System", "Sp", "Se", "Score", "Epoch", "Why it has no rank"]
    last = [ALL_NORMAL, "100.00", "0.00", "50.00", "–", "–"]
    return [Table("Our results, shown apart", columns, [*apart, last], frozenset(range(len(apart)))), board]


def printed(figure: float) -> str:
    return "–" if np.isnan(figure) else f"{figure:.2f}"
