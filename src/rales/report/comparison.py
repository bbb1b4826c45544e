"""Compare our systems with printed scores: the paper's Tables 1 and 2 and the leaderboard."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from rales.errors import count_noun
from rales.evaluation import bootstrap
from rales.report.literature import (
    NOT_STRICT,
    PHYSICIANS,
    SELECTIONS,
    SPLITS,
    LeaderboardEntry,
    PaperRow,
    read_frozen_probes,
    read_leaderboard,
)
from rales.report.load_runs import CANNOT_CHANGE_A_SYSTEM, SCORES
from rales.report.page import Block, Table, Text
from rales.report.protocols import ProtocolOutcome, protocol_outcome
from rales.report.systems import System, show_setting
from rales.report.tables import ALL_NORMAL, format_mean_sd, in_brackets

ENDS = ("low", "high")
OURS = [
    *("ours", "seeds", "select", "weights", *SCORES, *(f"{name}_sd" for name in SCORES)),
    *(f"{name}_{end}" for name in SCORES for end in ENDS),
    "comparable",
]
LEADERBOARD_CODES = {"test_best": "O", "validation": "V", "last": "last"}

PRINTED = ["Printed Sp", "Printed Se", "Printed Score"]
NOT_RUN = ["not run", "–", "–", "–"]

AS_THE_PAPER = {
    "size": "base",
    "frontend": "icbhi",
    "masks": "code",
    "loss": "cross_entropy",
}  # settings, where a recipe has them
CHANGE_NO_ROW = {
    *("seed", "split.name", "split.folds", "split.fold", "split.seed"),
    *(f"train.{name}" for name in ("epochs", "select", "select_by", "validation_share", "evaluate_every", "device")),
    *("train.precision", "train.micro_batch", "model.recompute"),
}
CORRECTED = {
    "audio.resampler": "soxr",
    "audio.scope": "clip",
    "augment.published_gate": False,
    "model.head_start": "zero",
    "train.cosine_epochs": 0,
    "train.precision": "auto",
    "train.select": "last",
}
"""Our defaults where fidelity=published, the public code behind the paper, has others."""
NAMED = 5  # systems that are named in a sentence, at most


class PaperPair(NamedTuple):
    """A row of the paper, and a system of ours that stands for it under one protocol, or None."""

    row: PaperRow
    system: System | None = None
    ours: ProtocolOutcome | None = None
    protocol: str = ""


Pairs = list[PaperPair]


def paper_pairs(rows: list[PaperRow], systems: list[System], ratio_named: bool = False) -> Pairs:
    """Every row of the paper with each system of ours that stands for it, or alone.

    A system of runs that held nobody out stands there under the paper's protocol too, the epoch that is best on the
    test set, if its runs tell. `ratio_named` asks for the masking ratio in the name of the pre-trained weights, as
    Table 1 is about it; otherwise only weights of the other ratio are refused.
    """
    pairs: Pairs = []
    for row in rows:
        ratios = ("",) if not row.ratio else (row.ratio,) if ratio_named else (row.ratio, "")
        ours = [
            PaperPair(row, s, found, protocol)
            for s in systems
            if s.runs[0].recipe == row.recipe
            and is_unchanged(s)
            and row.variant in ("", s.runs[0].config.get("variant"))
            and (not row.ratio or masking_ratio(s) in ratios)
            for protocol in paper_protocols(s)
            if (found := protocol_outcome(s, protocol)) is not None
        ]
        pairs += ours or [PaperPair(row)]
    return pairs


def paper_protocols(system: System) -> list[str]:
    """-> the protocols of a system that stand beside printed figures: the paper's first, then its own."""
    return list(dict.fromkeys([*([] if system.select == "validation" else ["test_best"]), system.select]))


def is_unchanged(system: System) -> bool:
    """Whether a system is the one that its name says, not an ablation of it or one of another size: only then it is
    a row of the paper."""
    return not list_departures(system)


def list_departures(system: System) -> list[str]:
    """-> the options and settings for which a system is no row of the paper, "size tiny"."""
    run = system.runs[0]
    own = {name: run.config[name] for name, value in AS_THE_PAPER.items() if run.config.get(name, value) != value}
    open_reading = {"model.pool"} if run.config.get("variant") == "vanilla" else set()
    own |= {name: value for name, value in run.overrides.items() if name not in CHANGE_NO_ROW | open_reading}
    return [f"{name} {show_setting(value)}" for name, value in own.items()]


def missing_rows_text(systems: list[System]) -> list[Block]:
    """The sentence that says which systems are missing in the paper's tables, and for which settings."""
    changed = [f"{s.name} ({', '.join(why)})" for s in systems if (why := list_departures(s))]
    if not changed:
        return []
    listed = "; ".join(changed[:NAMED]) + (f"; and {len(changed) - NAMED} others" if len(changed) > NAMED else "")
    return [Text(f"Not a row of the paper: {listed}.")]


def fidelity_table(systems: list[System]) -> Table | None:
    """Every setting in which a system of fidelity=published trains otherwise than the corrected one beside it, or where
    there is none, than our defaults of the full size; None without one."""
    published = [s for s in systems if s.runs[0].config.get("fidelity") == "published"]
    if not published:
        return None
    first = published[0].runs[0]
    twins = [
        s
        for s in systems
        if s.runs[0].config.get("fidelity") == "corrected"
        and all(s.runs[0].config.get(name) == first.config.get(name) for name in ("variant", "size", "weights"))
        and s.runs[0].recipe == first.recipe
    ]

    corrected = twins[0].runs[0].config if twins else CORRECTED
    free = {"fidelity", *CANNOT_CHANGE_A_SYSTEM}
    names = [
        name
        for name in dict.fromkeys([*CORRECTED, *corrected])
        if name not in free and (not twins or any(s.runs[0].config.get(name) != corrected.get(name) for s in published))
    ]

    return Table(
        "What fidelity=published has otherwise",
        ["Setting", twins[0].name if twins else "Corrected, our default", *(s.name for s in published)],
        [
            [
                name,
                *(
                    show_setting(config.get(name, "–"))
                    for config in (corrected, *(s.runs[0].config for s in published))
                ),
            ]
            for name in names
        ],
        note="Sound, augmentation, training and choice of the epoch as the public code behind the paper has them; "
        f"whatever is not listed is the same{'' if twins else ' (of the full size)'}.",
    )


def masking_ratio(system: System) -> str:
    """-> "0.7" for weights with the tag mr7 in their name, "" without a tag."""
    tag = re.search(r"mr(\d)", str(system.runs[0].config.get("weights", "")))
    return f"0.{tag[1]}" if tag else ""


def paper_frame(pairs: Pairs) -> pd.DataFrame:
    """Pairs -> printed and own figures in percent: table1.csv and table2.csv."""
    records = []
    for pair in pairs:
        row = pair.row
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
                **(own_cells(pair.system, pair.ours, pair.protocol) if pair.system and pair.ours else {}),
            }
        )
    printed_columns = dict.fromkeys(name for record in records for name in record if name not in OURS)
    return pd.DataFrame(records, columns=[*printed_columns, *OURS]).astype({"seeds": "Int64"})


def own_cells(system: System, ours: ProtocolOutcome, protocol: str) -> dict[str, object]:
    spread = {name: bootstrap.mean_sd(100 * ours.figures[name]) for name in SCORES}
    return {
        "ours": system.name,
        "seeds": len(system.runs),
        "select": protocol,
        "weights": system.runs[0].config.get("weights", ""),
        **{name: round(mean, 4) for name, (mean, _) in spread.items()},
        **{f"{name}_sd": round(sd, 4) for name, (_, sd) in spread.items()},
        **{
            f"{name}_{end}": round(100 * value, 4)
            for name, interval in ours.interval.items()
            for end, value in zip(ENDS, interval, strict=True)
        },
        "comparable": not system.incomparable,
    }


def paper_table(caption: str, pairs: Pairs, whole: bool = True) -> Table | None:
    """Pairs -> the paper's table with our figures beside the printed ones; of other data than the whole database the
    rows that were run only, None if there is none."""
    pairs = [pair for pair in pairs if whole or pair.system]
    if not pairs:
        return None
    rows = []
    for row, system, ours, _ in pairs:
        ratio = f", r = {row.ratio}" if row.variant == "vanilla" else ""
        fused = "" if row.fused == "–" else f" {row.fused}, {row.layer_weights}"
        own = NOT_RUN
        if system and ours:
            cells = [in_brackets(ours.figures[name], ours.interval, name) for name in SCORES]
            own = [describe_system(system, ours.words, beside_whole=whole), *cells]
        source = row.architecture if row.pretraining == "–" else f"{row.architecture}, {row.pretraining}"
        rows.append([f"{row.method}{ratio}{fused}", source, *row.printed, *own])
    return Table(
        caption,
        ["Method", "Architecture, pre-training", *PRINTED, "Ours", "Our Sp", "Our Se", "Our Score"],
        [*rows, [ALL_NORMAL, "–", "100.00", "0.00", "50.00", "–", "100.00", "0.00", "50.00"]],
        marked=frozenset(i for i, pair in enumerate(pairs) if pair.system),
        note="Printed: the paper's own figures on the whole database, official split, epoch chosen on the test set. "
        "Ours: mean over seeds ± standard deviation and 95 % interval; "
        + ("rows marked “not run” hold printed figures only." if whole else "on other data than the printed figures."),
    )


def describe_system(system: System, epoch: str, *, beside_whole: bool) -> str:
    """-> what a reader must know before comparing: system, weights, seeds, choice of the epoch, and other data, where
    other rows are of the whole database; else the table says it of all."""
    weights = system.runs[0].config.get("weights") or "random start"
    seeds = count_noun(len(system.runs), "seed")
    parts = [system.name, "" if show_setting(weights) in system.name else show_setting(weights), seeds, epoch]
    apart = "not comparable" if system.incomparable and beside_whole else ""
    return "; ".join(part for part in [*parts, apart] if part)


def leaderboard_blocks(systems: list[System]) -> list[Block]:
    """The published leaderboard with our comparable systems in their rank; what is of another split or told more than
    the sound, and what of ours has no rank, in tables apart. Nothing where no run is of the whole database."""
    if not any(run.whole_database for s in systems for run in s.runs):
        return []
    entries = read_leaderboard()
    ours = [
        (s, protocol, found)
        for s in systems
        for protocol in paper_protocols(s)
        if (found := protocol_outcome(s, protocol))
    ]
    return [
        *our_unranked(ours),
        leaderboard_ranking(entries, ours),
        other_tasks([entry for entry in entries if not entry.is_ranked]),
        Table(
            "Frozen encoders with a linear probe, official test side",
            ["Encoder", "Score", "Epoch", "Source"],
            read_frozen_probes(),
            note="Second-hand, for comparison with what `rales layers` finds (which scores train patients by default). "
            f"Epoch: {legend_text(SELECTIONS)}.",
        ),
    ]


def leaderboard_ranking(entries: list[LeaderboardEntry], ours: list[tuple[System, str, ProtocolOutcome]]) -> Table:
    """Published systems of the official split that hear the sound alone, and ours among them by Score."""
    ranked = [entry for entry in entries if entry.is_ranked]
    lines = [
        (e.score, [e.method, str(place), e.backbone, e.pretraining, *published_cells(e), evidence_cell(e)])
        for place, e in enumerate(ranked, start=1)
    ]
    empty = ["–"] * 3
    lines.append((50.0, [ALL_NORMAL, *empty, "100.00", "0.00", "50.00", *empty]))
    lines.append((float(PHYSICIANS[-1]), [PHYSICIANS[0], *empty, *PHYSICIANS[1:], *empty]))
    for s, protocol, found in ours:
        score = 100 * float(found.figures["score"].mean())
        if not s.incomparable and not np.isnan(score):
            place = 1 + sum(e.score > score for e in ranked)
            weights = show_setting(s.runs[0].config.get("weights", ""))
            cells = [format_mean_sd(found.figures[name]) for name in SCORES]
            row = [f"ours: {s.name}", f"({place})", "–", weights, *cells, "official", LEADERBOARD_CODES[protocol]]
            lines.append((score, [*row, "–"]))
    rows = [row for _, row in sorted(lines, key=lambda line: -line[0])]
    return Table(
        "Published four-class results: the official list of recordings, from the sound alone",
        ["System", "Rank", "Backbone", "Pre-training", *("Sp", "Se", "Score"), "Split", "Epoch", "Evidence"],
        rows,
        marked=frozenset(i for i, row in enumerate(rows) if row[0].startswith("ours: ")),
        note=f"Printed figures, found up to November 2026; IN = ImageNet, AS = AudioSet. {LEGEND} {NOT_STRICT} "
        "Drawing other test patients moves a Score by about ± 4.9 points, so most ranks are not told apart.",
    )


def other_tasks(entries: list[LeaderboardEntry]) -> Table:
    """Published systems that no rank compares with the others."""
    rows = [[e.method, e.backbone, *published_cells(e), e.told or "–", evidence_cell(e)] for e in entries]
    return Table(
        "Published results of another split or another task, which are not ranked",
        ["System", "Backbone", *("Sp", "Se", "Score"), "Split", "Epoch", "Told beside the sound", "Evidence"],
        [*rows, [ALL_NORMAL, "–", "100.00", "0.00", "50.00", *["–"] * 4]],
        note="Their test recordings are not those of the official list, or are not known, or the system is told more "
        f"than the sound (a text, the device, the patient's age): another task. {LEGEND}",
    )


def our_unranked(ours: list[tuple[System, str, ProtocolOutcome]]) -> list[Table]:
    """Our results on another split or on other data, if there are some."""
    apart = [
        [s.name, *(format_mean_sd(found.figures[name]) for name in SCORES), LEADERBOARD_CODES[protocol], s.incomparable]
        for s, protocol, found in ours
        if s.incomparable
    ]
    if not apart:
        return []
    columns = ["System", "Sp", "Se", "Score", "Epoch", "Why it has no rank"]
    last = [ALL_NORMAL, "100.00", "0.00", "50.00", "–", "–"]
    return [Table("Our results, shown apart", columns, [*apart, last], frozenset(range(len(apart))))]


def published_cells(entry: LeaderboardEntry) -> list[str]:
    """-> specificity, sensitivity, Score, split and selection as printed."""
    figures = (entry.specificity, entry.sensitivity, entry.score)
    return [*("–" if np.isnan(figure) else f"{figure:.2f}" for figure in figures), entry.split, entry.selection]


def evidence_cell(entry: LeaderboardEntry) -> str:
    """-> the public repository, and on a second line what was read in it."""
    return "\n".join(part for part in (entry.code, entry.evidence) if part)


def legend_text(codes: Mapping[str, str]) -> str:
    return "; ".join(f"{code}: {text}" for code, text in codes.items())


LEGEND = (
    f"Split: {legend_text(SPLITS)}. Epoch: {legend_text({**SELECTIONS, 'last': 'last epoch, nothing chosen'})}. "
    "Evidence: file and line of the public code that was read, which need not be the code behind a printed figure; "
    "2nd: somebody else's survey or table."
)
