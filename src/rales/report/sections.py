"""The sections of the report, in their order."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rales.errors import count_noun
from rales.labels import LabelSet
from rales.report import comparison, plots, tables
from rales.report.challenge import challenge_table
from rales.report.headline import headline_blocks
from rales.report.literature import PROVENANCE
from rales.report.load_runs import Run, UnusedFolder, run_notes
from rales.report.page import Block, Heading, Items, Section, Text
from rales.report.protocols import PROTOCOLS
from rales.report.systems import System
from rales.report.worst_cycles import worst_cycles


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
    return [*headline_blocks(systems), *comparability_warnings(systems), Items(facts), *provenance_text(systems)]


def describe_classes(label_set: LabelSet) -> str:
    return ", ".join(label_set.classes) + (" (independent of one another)" if label_set.independent else "")


def split_words(run: Run) -> str:
    """-> the name of a run's split; of data that is not the whole database, whose list it is."""
    name = str(run.split.get("name"))
    return name if run.whole_database or name != "official" else "train and test as the data folder has them"


def provenance_text(systems: list[System]) -> list[Block]:
    """What the words beside the names of others' systems mean."""
    provenances = {str(s.runs[0].record.get("provenance")) for s in systems}
    words = [f"“{word}”, {meaning}" for word, meaning in PROVENANCE.items() if word in provenances]
    return [Text(f"How sure it is that a system is the published one: {'; '.join(words)}.")] if words else []


def comparability_warnings(systems: list[System]) -> list[Block]:
    """Warnings: other data than the published scores, and epochs chosen on the test set."""
    blocks: list[Block] = []
    printed = any(run.whole_database for s in systems for run in s.runs)  # the leaderboard
    reasons: dict[str, list[str]] = defaultdict(list)
    for s in systems:
        if s.incomparable:
            reasons[s.incomparable].append(s.name)
    if reasons:
        which = "; ".join(f"{reason}{of_systems(names, systems)}" for reason, names in reasons.items())
        left_out = "" if printed else " They say nothing about these figures and are not printed."
        blocks.append(Text(f"Not comparable with published scores: {which}.{left_out}", warning=True))
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
    systems: list[System],
    left_out: list[UnusedFolder],
    table1: comparison.Pairs,
    table2: comparison.Pairs,
    recordings: Mapping[str, Path] | None = None,
) -> list[Section]:
    """All sections that have something to say, from the results to the record; `recordings` are the sound files of
    test recordings by name."""
    of_icbhi = systems[0].label_set.is_icbhi  # what the paper and the leaderboard print
    whole = any(run.whole_database for s in systems for run in s.runs)
    caption1, caption2 = "Table 1: masking ratio r of the pre-training", "Table 2: fused layers and earlier systems"
    papers = [comparison.paper_table(caption1, table1, whole), comparison.paper_table(caption2, table2, whole)]
    choices = [tables.selection_table(systems), tables.protocols_table(systems), tables.oracle_gaps_table(systems)]

    # In the order of the page; a block that is None, and a section of nothing else, is left out
    blocks: dict[tuple[str, str], Sequence[Block | None]] = {
        ("scores", "Scores"): [
            *(tables.main_table(systems), plots.plot_sp_se(systems), tables.further_metrics_table(systems)),
            *(tables.classes_table(systems), tables.own_metrics_table(systems)),
            challenge_table(systems),
        ],
        ("comparison", "Differences on the same cycles"): [
            *(tables.comparisons_table(systems), tables.seeds_table(systems))
        ],
        ("groups", "Patients, devices and locations"): [
            tables.patients_table(systems[0]),
            *(tables.groups_table(systems, column) for column in ("device", "location")),
        ],
        ("systems", "Each system"): system_blocks(systems),
        ("worst", "The worst mistakes"): [worst_cycles(systems[0], recordings)],
        ("selection", "How the epoch is chosen"): choices,
        ("leaks", "Patients on both sides of the split"): [tables.leak_free_table(systems)],
        ("layers", "Layer weights (Figure 3 of the paper)"): [
            *(plots.plot_layer_weights(systems), plots.plot_weight_trajectories(systems))
        ],
        ("paper", "Tables 1 and 2 of the paper"): papers if of_icbhi else [],
        ("fidelity", "Published settings"): [comparison.fidelity_table(systems)],
        ("leaderboard", "Published leaderboard"): comparison.leaderboard_blocks(systems) if of_icbhi else [],
        ("record", "Record"): [
            *(comparison.missing_rows_text(systems) if of_icbhi else []),
            *record_blocks(systems, left_out),
        ],
    }

    sections = [Section(*head, [block for block in found if block]) for head, found in blocks.items()]
    return [section for section in sections if section.blocks]


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
    return "" if len(names) == len(systems) else f" (so for {'; '.join(names)})"


def number_span(numbers: list[int]) -> str:
    """Sorted numbers -> "5", or "2 to 5"."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
