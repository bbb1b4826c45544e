"""The sections of the report, in their order."""

import re
from collections import defaultdict

import numpy as np
import pandas as pd

from rales.labels import LabelSet
from rales.report import comparison, plots, tables
from rales.report.challenge import challenge_table
from rales.report.literature import PROVENANCE
from rales.report.load_runs import Run, UnusedFolder, run_notes
from rales.report.page import Block, Heading, Items, Section, Text
from rales.report.protocols import PROTOCOLS
from rales.report.systems import System, ranking_figure


def lead_blocks(systems: list[System], left_out: list[UnusedFolder]) -> list[Block]:
    """What every reader must know first: data, protocol, and what the scores can and cannot be compared with."""
    runs = [run for s in systems for run in s.runs]
    whole = sum(run.whole_database for run in runs)
    epochs = sorted({int(run.epochs["epoch"].max()) for run in runs})
    seeds = sorted({len(s.runs) for s in systems})
    facts = [
        (
            "Runs",
            f"{count_noun(len(runs), 'finished run')} of {count_noun(len(systems), 'system')}, "
            f"{number_span(seeds)} seed{'s' * (seeds != [1])} each; {len(left_out)} left out",
        ),
        ("Split", ", ".join(sorted({split_words(run) for run in runs}))),
        ("Whole database", "yes" if whole == len(runs) else "no" if not whole else f"in {whole} of {len(runs)} runs"),
        ("Epochs", number_span(epochs)),
        ("Epoch used", ", ".join(sorted({PROTOCOLS[s.select] for s in systems}))),
    ]
    if not (label_set := systems[0].label_set).is_icbhi:
        facts.append(("Classes", describe_classes(label_set)))
    return [Items(facts), *headline_blocks(systems), *provenance_text(systems), *comparability_warnings(systems)]


def headline_blocks(systems: list[System]) -> list[Block]:
    """The first system, chosen without the test cycles where that can be; a choice by these is called one."""
    validated, others = [s for s in systems if s.is_validated], [s for s in systems if not s.is_validated]
    sentences = []
    if validated:
        best, by = validated[0], ranking_figure(systems)
        named = tables.figure_name(by, best.label_set)
        value = tables.over_seeds(best, f"validation_{by}", scale=1 if by == "auroc" else 100)
        sentences.append(
            f"Best on the validation patients: {best.name}, with {named} {value} there and "
            f"{score_words(best)} on the test cycles, which did not choose it."
        )
    if others:
        best = max(others, key=lambda s: np.nan_to_num(s.figures["score"].mean(), nan=-1))
        among = f" among {count_noun(len(others), 'system')} without validation patients" if validated else ""
        ranked = " (ranked by test, so optimistic for whichever comes first)" if len(others) > 1 else ""
        sentences.append(f"Highest mean Score on the test cycles{among}{ranked}: {best.name}, {score_words(best)}.")
    sentences.append(
        f"A classifier that calls every cycle {systems[0].label_set.normal} has Score 50.0 (specificity 100, "
        "sensitivity 0) and AUROC 0.5."
    )
    return [Text(" ".join(sentences)), *constant_answers(systems)]


def describe_classes(label_set: LabelSet) -> str:
    return ", ".join(label_set.classes) + (" (independent of one another)" if label_set.independent else "")


def split_words(run: Run) -> str:
    """-> the name of a run's split; of data that is not the whole database, whose list it is."""
    name = str(run.split.get("name"))
    return name if run.whole_database or name != "official" else "train and test as the data folder has them"


def score_words(system: System) -> str:
    return "Score " + " ".join(tables.with_interval(system, "score").split())


def constant_answers(systems: list[System]) -> list[Block]:
    """A warning if kept weights call every test cycle the same."""
    folders = [f"{run.folder} ({called})" for s in systems for run in s.runs if (called := one_label(run.predictions))]
    if not folders:
        return []
    listed = "; ".join(folders[:5]) + (" and others" if len(folders) > 5 else "")
    text = f"The kept weights call every test cycle the same in {count_noun(len(folders), 'run')}: {listed}. "
    return [Text(text + "Such figures are those of a constant answer.", warning=True)]


def one_label(predictions: pd.DataFrame | None) -> str:
    """-> the label that all test cycles get though they are not all of one class; "" if there are several."""
    if predictions is None or predictions["label"].nunique() > 1 or predictions["true_label"].nunique() == 1:
        return ""
    return str(predictions["label"].iloc[0])


def provenance_text(systems: list[System]) -> list[Block]:
    """What the words beside the names of others' systems mean."""
    provenances = {str(s.runs[0].record.get("provenance")) for s in systems}
    words = [f"“{word}”, {meaning}" for word, meaning in PROVENANCE.items() if word in provenances]
    return [Text(f"How sure it is that a system is the published one: {'; '.join(words)}.")] if words else []


def comparability_warnings(systems: list[System]) -> list[Block]:
    """Warnings: other data than the published scores, and epochs chosen on the test set."""
    blocks: list[Block] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for s in systems:
        if s.incomparable:
            reasons[s.incomparable].append(s.name)
    for reason, names in reasons.items():
        blocks.append(
            Text(f"Not comparable with published scores: {reason}{of_systems(names, systems)}.", warning=True)
        )
    chosen = [s.name for s in systems if s.select == "test_best"]
    if chosen:
        blocks.append(
            Text(
                "The epoch was chosen on the test set, as in the paper and most published work; such scores are "
                f"optimistic, by 1 to 3.5 points in public training logs{of_systems(chosen, systems)}.",
                warning=True,
            )
        )
    return blocks


def build_sections(
    systems: list[System], left_out: list[UnusedFolder], table1: comparison.Pairs, table2: comparison.Pairs
) -> list[Section]:
    """All sections that have something to say."""
    weights = [plots.plot_layer_weights(systems), plots.plot_weight_trajectories(systems)]
    choices = [tables.selection_table(systems), tables.protocols_table(systems), tables.oracle_gaps_table(systems)]
    whole = any(run.whole_database for s in systems for run in s.runs)
    caption1, caption2 = "Table 1: masking ratio r of the pre-training", "Table 2: fused layers and earlier systems"
    papers = [comparison.paper_table(caption1, table1, whole), comparison.paper_table(caption2, table2, whole)]
    of_icbhi = systems[0].label_set.is_icbhi  # what the paper and the leaderboard print
    each_class = tables.classes_table(systems)
    leaks, compared = tables.leak_free_table(systems), [tables.comparisons_table(systems), tables.seeds_table(systems)]
    by_group = [table for column in ("device", "location") if (table := tables.groups_table(systems, column))]
    sentences = [
        Section(
            "scores",
            "Scores",
            [
                *(tables.main_table(systems), plots.plot_sp_se(systems), tables.further_metrics_table(systems)),
                *([each_class] if each_class else []),
                *([own] if (own := tables.own_metrics_table(systems)) else []),
                *([task] if (task := challenge_table(systems)) else []),
            ],
        ),
        Section(
            "paper",
            "Tables 1 and 2 of the paper",
            [*(table for table in papers if table), *comparison.missing_rows_text(systems)] if of_icbhi else [],
        ),
        Section(
            "fidelity",
            "Published settings",
            [table] if (table := comparison.fidelity_table(systems)) else [],
        ),
        Section("selection", "How the epoch is chosen", [table for table in choices if table]),
        Section("leaks", "Patients on both sides of the split", [leaks] if leaks else []),
        Section("layers", "Layer weights (Figure 3 of the paper)", [picture for picture in weights if picture]),
        Section("comparison", "Differences on the same cycles", [table for table in compared if table]),
        Section("systems", "Each system", system_blocks(systems)),
        Section("groups", "Devices and locations", by_group),
        Section("leaderboard", "Published leaderboard", comparison.leaderboard_blocks(systems) if of_icbhi else []),
        Section("record", "Record", record_blocks(systems, left_out)),
    ]
    return [section for section in sentences if section.blocks]


def system_blocks(systems: list[System]) -> list[Block]:
    """Training curves, confusion matrix and reliability of each system."""
    drawings = (plots.plot_training_loss, plots.plot_training_score, plots.plot_confusion, plots.plot_reliability)
    blocks: list[Block] = []
    for number, s in enumerate(systems, start=1):
        words = f"{s.runs[0].recipe} {s.runs[0].config.get('variant', '')}".lower()
        slug = f"{number}-{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}"
        pictures = [draw(s, slug) for draw in drawings]
        blocks += [Heading(s.name), *(picture for picture in pictures if picture)]
    return blocks


def record_blocks(systems: list[System], left_out: list[UnusedFolder]) -> list[Block]:
    """Data, runs, commands, versions and left-out folders: enough to make the report again."""
    runs = [run for s in systems for run in s.runs]
    blocks: list[Block] = [tables.protocol_table(systems), tables.runs_table(systems)]
    remarks = [(str(run.folder), note) for run in runs for note in run_notes(run)]
    if remarks:
        blocks += [Heading("Notes on runs"), Items(remarks)]
    blocks += left_out_blocks(left_out)
    commands = [(str(run.folder), str(run.record.get("command") or "not recorded")) for run in runs]
    versions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for part in ("versions", "computed_in"):
            recorded = run.record.get(part)
            for name, value in recorded.items() if isinstance(recorded, dict) else ():
                versions[name].add(str(value))
    listed = [(name, ", ".join(sorted(found))) for name, found in versions.items()]
    blocks += [Heading("Commands"), Items(commands, code=True)]
    return [*blocks, Heading("Versions"), Items(listed)] if listed else blocks


def left_out_blocks(left_out: list[UnusedFolder]) -> list[Block]:
    if not left_out:
        return []
    return [Heading("Left out"), Items([(str(folder), reason) for folder, reason in left_out])]


def of_systems(names: list[str], systems: list[System]) -> str:
    """-> which systems a sentence is about, nothing if about all of them."""
    return "" if len(names) == len(systems) else f". This is so for {'; '.join(names)}"


def count_noun(count: int, noun: str) -> str:
    """3, "run" -> "3 runs"; 1, "run" -> "1 run"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def number_span(numbers: list[int]) -> str:
    """Sorted numbers -> "5", or "2 to 5"."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
