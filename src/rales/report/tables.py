"""The tables of the report. Values are percent unless a column says otherwise."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd

from rales.errors import count_noun
from rales.evaluation import bootstrap
from rales.files.csv_cells import make_encodable
from rales.labels import LabelSet
from rales.report.literature import PHYSICIANS
from rales.report.load_runs import SCORES, own_figures, selected_epoch, strict_scores
from rales.report.page import Table
from rales.report.protocols import PROTOCOLS, oracle_gap, protocol_outcomes
from rales.report.systems import (
    CYCLE,
    System,
    compare_paired,
    count_by_class,
    group_by_protocol,
    leak_free,
    protocol_scores,
    ranking_figure,
)

ALL_NORMAL = "every cycle called normal"
ALL_PAIRS_UP_TO = 5
IN_BRACKETS = (
    "Percent, mean over seeds ± standard deviation; in brackets the 95 % interval of that mean if other patients had "
    "been recorded (bootstrap over patients, 10,000 resamples)."
)
BY_TEST = "a ranking by test, so what comes first is no result"


def all_normal(systems: list[System]) -> str:
    """-> what the line of a constant answer is called."""
    return f"every cycle called {systems[0].label_set.normal}"


def figure_name(figure: str, label_set: LabelSet) -> str:
    """ "auroc" or "score" -> what the text calls it."""
    if figure == "score":
        return "Score"
    return "mean AUROC of " + ("crackles and wheezes present" if label_set.is_icbhi else "the classes")


def main_table(systems: list[System]) -> Table:
    """Mean over seeds ± SD and the 95 % interval of the three figures of the task, best system first; figures of the
    validation patients where some system has them."""
    validated = any(s.is_validated for s in systems)
    sizes = [count_trained(s) for s in systems]
    sized = any(size is not None for size in sizes)
    rows = []
    for s, size in zip(systems, sizes, strict=True):
        figures = [over_seeds(s, "validation_auroc", scale=1), over_seeds(s, "validation_score")]
        test = [with_interval(s, name) for name in SCORES]
        trained = ["–" if size is None else f"{size:,}"] if sized else []
        rows.append([s.name, str(len(s.runs)), PROTOCOLS[s.select], *trained, *(figures if validated else []), *test])
    gap, half = ["–"] * sized, ["0.500", "50.00"] if validated else []
    baselines = [[all_normal(systems), "–", "–", *gap, *half, "100.00", "0.00", "50.00"]]
    if any(not s.incomparable for s in systems):
        name, *printed = PHYSICIANS
        baselines.append([name, "–", "–", *gap, *(["–"] * len(half)), *printed])
    return Table(
        "Specificity, sensitivity and Score",
        [
            *("System", "Seeds", "Epoch"),
            *(["Parameters trained"] if sized else []),
            *(["Validation AUROC", "Validation Score"] if validated else []),
            *("Specificity", "Sensitivity", "Score"),
        ],
        [*rows, *baselines],
        note=f"{IN_BRACKETS} Sensitivity asks for the exact class. {order_note(systems)}",
    )


def count_trained(system: System) -> int | None:
    """-> how many parameters a system's runs trained, as their evaluation.json says; None where one does not."""
    counts = [run.evaluation.get("parameters") for run in system.runs]
    trained = [count.get("trained") if isinstance(count, dict) else None for count in counts]
    known = [number for number in trained if isinstance(number, int)]
    return max(known) if len(known) == len(trained) else None


def order_note(systems: list[System]) -> str:
    """-> what the order of the systems, in this table and all others, means."""
    validated = [s for s in systems if s.is_validated]
    if not validated:
        return f"Systems are in order of their Score on the test cycles: {BY_TEST}."
    label_set = systems[0].label_set
    by = figure_name(ranking_figure(systems), label_set)
    over = (
        "of crackles present and wheezes present" if label_set.is_icbhi else "over the classes, each against the rest"
    )
    found = (
        f"Systems are in order of the {by} on the validation patients at the epoch used (validation AUROC: the mean "
        f"{over}, a fraction)."
    )
    if len(validated) < len(systems):
        found += f" Those without validation patients follow, by their Score on the test cycles: {BY_TEST}."
    if len({str(s.runs[0].split.get("digest")) for s in validated}) > 1:
        found += " Not all were validated on the same cycles."
    return found


def protocols_table(systems: list[System]) -> Table | None:
    """Every protocol that a system's own runs tell of, with intervals; None where none tells of a second one."""
    rows = []
    for s in systems:
        outcomes = protocol_outcomes(s)
        trained = "without validation patients" if s.is_validated else "all training patients"
        for result in outcomes.values() if len(outcomes) > 1 else ():
            cells = [in_brackets(result.figures[name], result.interval, name) for name in SCORES]
            rows.append([without_select(s), trained, result.words, str(len(s.runs)), *cells])
    if not rows:
        return None
    return Table(
        "Every way to choose the epoch, from one run of each seed",
        ["System", "Trained on", "Epoch", "Seeds", "Specificity", "Sensitivity", "Score"],
        [*rows, [all_normal(systems), "–", "–", "–", "100.00", "0.00", "50.00"]],
        note=f"{IN_BRACKETS} Made from the logits of every epoch in epochs.safetensors; the row of the epoch that "
        "the run kept is that of predictions.csv. “Best on the test set” is the paper's protocol and looks at the "
        "answers. Validation patients cost training patients, so their rows need runs of their own.",
    )


def oracle_gaps_table(systems: list[System]) -> Table | None:
    """Best epoch on the test set minus the last epoch of the same runs; None where no run keeps its epochs."""
    gaps = [(s, oracle_gap(s)) for s in systems]
    with_gap = [(s, found) for s, found in gaps if found]
    rows = [
        [without_select(s), str(len(s.runs)), *(format_difference(found[name]) for name in SCORES)]
        for s, found in with_gap
    ]
    if not rows:
        return None
    return Table(
        "What looking at the test set is worth: best epoch on it minus the last",
        ["System", "Seeds", "Specificity", "Sensitivity", "Score"],
        rows,
        note="Points of percent with 95 % interval: the same runs and cycles, patients resampled. The best epoch was "
        "chosen by its Score; specificity and sensitivity may move against each other.",
    )


def without_select(system: System) -> str:
    """-> a system's name without the protocol of its runs, where a column says it."""
    return re.sub(r", train\.select=\w+", "", system.name)


def further_metrics_table(systems: list[System]) -> Table:
    """Two-class figures, macro recall, detection of each of ICBHI's sounds and calibration; of other sets each class
    has a row in `classes_table`."""
    label_set = systems[0].label_set
    percents = ["two_class_sensitivity", "two_class_score", "macro_recall", "threshold_score"]
    fractions, blind = {"auroc": "Mean AUROC"}, ["0.500"]
    explained = "AUROC: the mean over the classes, each against the rest; a blind guess has 0.5."
    if label_set.is_icbhi:
        sounds = ("crackle", "wheeze")
        fractions = {
            f"{sound}_{key}": f"{sound.capitalize()} {key.upper()}" for sound in sounds for key in ("auroc", "ap")
        }
        blind = ["0.500", "–", "0.500", "–"]
        explained = (
            "AUROC and AP (average precision) say how well cycles with that sound rank before those without; a blind "
            "guess has AUROC 0.5 and for AP the share of such cycles."
        )

    rows = [
        [
            s.name,
            *(over_seeds(s, name) for name in percents),
            *(over_seeds(s, name, scale=1) for name in (*fractions, "ece")),
        ]
        for s in systems
    ]

    # Calling everything normal finds one class of so many, or of independent ones none
    macro = "0.00" if label_set.independent else f"{100 / len(label_set):.2f}"
    many = {2: "two", 5: "five"}[len(fractions) + 1]
    return Table(
        "What the Score hides",
        [*("System", "Two-class Se", "Two-class Score", "Macro recall", "Score, tuned"), *(*fractions.values(), "ECE")],
        [*rows, [all_normal(systems), "0.00", "50.00", macro, "50.00", *blind, "–"]],
        note="Two-class: any abnormal answer to an abnormal cycle is right. Tuned: with the threshold for "
        f"“{label_set.normal}” that suits the validation patients best, where a run has some. {explained} ECE is the "
        f"expected calibration error, 15 bins. The last {many} columns are fractions.",
    )


def classes_table(systems: list[System]) -> Table | None:
    """How well each class is found, a row a class; None for ICBHI's, of which `further_metrics_table` tells."""
    if systems[0].label_set.is_icbhi:
        return None
    rows = []
    for s in systems:
        counts = {} if s.cycles is None else count_by_class(s.cycles, s.label_set)
        for name, table in counts.items():
            recall, precision = (
                table[1, 1] / total if total else np.nan for total in (table[1].sum(), table[:, 1].sum())
            )
            ranked = [over_seeds(s, f"{key}_{name}", scale=1) for key in ("auroc", "ap")]
            cycles = str(int(table[1].sum()) // len(s.runs))
            rows.append([s.name, name, cycles, format_percent(recall), format_percent(precision), *ranked])
    if not rows:
        return None
    return Table(
        "Each class",
        ["System", "Class", "Cycles", "Recall", "Precision", "AUROC", "AP"],
        rows,
        note="Each class against the rest, all seeds' cycles together; – where there are no such cycles. AUROC and AP "
        "(average precision) are fractions, mean over seeds ± standard deviation; a blind guess has AUROC 0.5 and for "
        "AP the share of such cycles.",
    )


def own_metrics_table(systems: list[System]) -> Table | None:
    """Figures of metrics from outside the package, or None where no run has some."""
    names = list(dict.fromkeys(name for s in systems for run in s.runs for name in own_figures(run)))
    rows = []
    for s in systems if names else ():
        found = [own_figures(run) for run in s.runs]
        values = [pd.Series([own[name]["value"] for own in found if name in own], dtype=float) for name in names]
        cells = [format_mean_sd(each, scale=1) if len(each) else "–" for each in values]
        if len(found) == 1:  # an interval is of one run's answers
            ends = [found[0].get(name, {}).get("ci95", [None, None]) for name in names]
            known = [[end for end in pair if isinstance(end, float)] for pair in ends]
            cells = [
                cell + (f"\n[{pair[0]:.3f}, {pair[1]:.3f}]" if len(pair) == 2 else "")
                for cell, pair in zip(cells, known, strict=True)
            ]
        rows.append([s.name, *cells])
    if not rows:
        return None
    return Table(
        "Own metrics",
        ["System", *names],
        rows,
        note="As --set train.metrics recorded them in evaluation.json, mean over seeds ± standard deviation; in "
        "brackets, of a single run, the 95 % interval with patients resampled (percentiles of 200 resamples).",
    )


def selection_table(systems: list[System]) -> Table:
    """The Score that each way of choosing the epoch would have given, from the recorded test scores."""
    chosen_by = [text.capitalize() for text in PROTOCOLS.values()]
    rows = []
    for s, source in group_by_protocol(systems):
        scores = {select: protocol_scores(source[select], select) for select in PROTOCOLS}
        cells = [format_mean_sd(values) for values in scores.values()]
        gaps = [format_mean_sd(scores["test_best"] - scores[select]) for select in ("last", "validation")]
        seeds = list(dict.fromkeys(str(len(source[select].runs)) for select in ("last", "validation")))
        rows.append([without_select(s), " and ".join(seeds), *cells, *gaps])
    return Table(
        "Score by the way the epoch is chosen",
        ["System", "Seeds", *chosen_by, "Best on test − last", "Best on test − validation"],
        [*rows, [all_normal(systems), "–", "50.00", "50.00", "50.00", "0.00", "0.00"]],
        note="Test scores recorded in metrics.jsonl, mean over seeds ± standard deviation; – where they were not "
        "recorded. The best epoch on the test set is an optimistic figure: it was chosen by looking at the answers. "
        "The best on validation patients comes from runs that held those patients out of the training, where there "
        "are some (two numbers of seeds: of the other runs, and of those).",
    )


def leak_free_table(systems: list[System]) -> Table | None:
    """Figures without the test cycles of patients who train too, or None where no system has such patients."""
    rows, patients = [], set()
    for s in systems:
        leak = leak_free(s)
        if leak is not None:
            names, figures, interval = leak
            patients.update(names)
            cells = [
                f"{format_percent(figures[f])}\n[{100 * interval[f][0]:.1f}, {100 * interval[f][1]:.1f}]"
                for f in SCORES
            ]
            change = 100 * (figures["score"] - s.figures["score"].mean())
            rows.append([s.name, *cells, f"{change:+.2f}"])
    if not rows:
        return None
    return Table(
        "Leak-free: without the test cycles of patients who train too",
        ["System", "Specificity", "Sensitivity", "Score", "Change of Score"],
        [*rows, [all_normal(systems), "100.00", "0.00", "50.00", "0.00"]],
        note=f"On both sides of the official split: {', '.join(sorted(patients))}. Here their test "
        "recordings are left out (the repair `official_drop`). All seeds' cycles together, 95 % "
        "interval with patients resampled. The other repair moves them wholly to test and needs runs of its own: "
        "--set split.name=official_move.",
    )


def comparisons_table(systems: list[System]) -> Table | None:
    """Paired differences on the same cycles, or None if no two systems share a test set."""
    pairs = list(combinations(systems, 2))
    if len(systems) > ALL_PAIRS_UP_TO:
        pairs = [(systems[0], other) for other in systems[1:]]
    found = [(a, b, difference) for a, b in pairs if (difference := compare_paired(a, b)) is not None]
    if not found:
        return None
    corrected = bootstrap.adjust_holm([difference["score"]["p_value"] for *_, difference in found])
    rows = []
    for (a, b, difference), holm in zip(found, corrected, strict=True):
        score = difference["score"]
        patients = 0 if a.cycles is None else a.cycles["patient"].nunique()
        needed = bootstrap.patients_needed(score["standard_error"], patients)
        cells = [f"{score['p_value']:.4f}", f"{holm:.4f}", "–" if np.isnan(needed) else f"{needed:,.0f}"]
        rows.append([a.name, b.name, *map(format_difference, difference.values()), *cells])
    return Table(
        "Paired differences: first minus second",
        ["First", "Second", "Specificity", "Sensitivity", "Score", "p of Score", "p, Holm", "Patients for 1 point"],
        rows,
        note="Points of percent with 95 % interval, the same cycles, patients resampled. "
        + ("" if len(systems) <= ALL_PAIRS_UP_TO else "The first system of the order above against every other. ")
        + f"Holm: corrected for making {count_noun(len(rows), 'comparison')}. Patients for 1 point: how many "
        "like those of this test it would take to find a difference of one point of Score in 80 % of studies "
        "(two-sided, 5 %).",
    )


def seeds_table(systems: list[System]) -> Table | None:
    """Score of each system of several seeds with its interval over patients, and over patients and seeds; None without
    one."""
    rows = []
    for s in systems:
        tables = [run.predictions for run in s.runs if run.predictions is not None]
        same = all(table[CYCLE].equals(tables[0][CYCLE]) for table in tables)
        if len(tables) < 2 or len(tables) < len(s.runs) or not same:
            continue
        predicted = np.stack([table["predicted"].to_numpy() for table in tables])
        crossed = bootstrap.crossed_intervals(tables[0]["true"], predicted, tables[0]["patient"].tolist())["score"]
        both = "–" if np.isnan(crossed[0]) else f"[{100 * crossed[0]:.1f}, {100 * crossed[1]:.1f}]"
        rows.append([s.name, str(len(s.runs)), with_interval(s, "score"), both])
    if not rows:
        return None
    return Table(
        "Other patients, and other seeds too",
        ["System", "Seeds", "Score, interval over patients", "Interval over patients and seeds"],
        [*rows, [all_normal(systems), "–", "50.00", "–"]],
        note="The first interval says where the mean of these very seeds would lie on other patients; the second where "
        "that of other seeds would. Patients and seeds cross: two-way clustered error, Student's t.",
    )


def groups_table(systems: list[System], column: str) -> Table | None:
    """Figures per device or location, or None where predictions do not name them."""
    rows = []
    for s in systems:
        if s.cycles is None or column not in s.cycles:
            continue
        for name, cycles in s.cycles.astype({column: object}).fillna({column: "unknown"}).groupby(column):
            number, abnormal = (int(n) // len(s.runs) for n in (len(cycles), (cycles["true"] > 0).sum()))
            figures = strict_scores(cycles["true"], cycles["predicted"])
            patients = str(cycles["patient"].nunique())
            rows.append(
                [s.name, str(name), str(number), str(abnormal), patients, *map(format_percent, figures.values())]
            )
    if not rows:
        return None
    return Table(
        f"By {column}",
        ["System", column.capitalize(), "Cycles", "Abnormal", "Patients", "Specificity", "Sensitivity", "Score"],
        [*rows, [all_normal(systems), "any", "–", "–", "–", "100.00", "0.00", "50.00"]],
        note="Mean over seeds; – where a group has no normal or no abnormal cycle. A few patients are a small sample.",
    )


def patients_table(system: System) -> Table | None:
    """How one system does on each patient, the worst first; None without predictions."""
    if system.cycles is None:
        return None
    devices = "device" in system.cycles
    found = []
    for patient, cycles in system.cycles.groupby("patient"):
        figures = strict_scores(cycles["true"], cycles["predicted"])
        used = ", ".join(sorted(set(cycles["device"].dropna().astype(str)))) if devices else ""
        right = float((cycles["true"] == cycles["predicted"]).mean())
        counts = [str(int(n) // len(system.runs)) for n in (len(cycles), (cycles["true"] > 0).sum())]
        figures_words = [format_percent(figures[name]) for name in ("specificity", "sensitivity")]
        found.append((right, [str(patient), used or "–", *counts, format_percent(right), *figures_words]))
    found.sort(key=lambda each: each[0])
    low, middle, high = np.percentile([100 * right for right, _ in found], [25, 50, 75])
    spread = f"The median of {len(found)} patients is {middle:.0f} %, half lie between {low:.0f} and {high:.0f}. "
    return Table(
        f"By patient, the worst first: {system.name}",
        ["Patient", "Device", "Cycles", "Abnormal", "Right", "Specificity", "Sensitivity"],
        [row for _, row in found],
        note=(spread if len(found) > 3 else "")
        + "Percent of the patient's test cycles with the exact label, mean over seeds; – without normal or without "
        "abnormal cycles. Recordings without a known patient count as one each.",
    )


def protocol_table(systems: list[System]) -> Table:
    """Which cycles trained, selected and tested: a row per split and part."""
    runs = [run for s in systems for run in s.runs]
    splits = {str(run.split.get("digest", "–")): run.split for run in runs}
    counted = Counter(str(run.split.get("digest", "–")) for run in runs)
    label_set = systems[0].label_set
    names = list(label_set.count_labels([]))
    classes = [name.capitalize() for name in names] if label_set.is_icbhi else ["Cycles by class"]
    rows = []
    for digest, split in splits.items():
        left_out = split.get("left_out")
        ending = ["yes" if split.get("whole_database") is True else "no"]
        ending += [str(len(left_out)) if isinstance(left_out, list) else "–", digest[:8], str(counted[digest])]
        for part in ("train", "validation", "test"):
            facts = split.get(part)
            if isinstance(facts, dict) and facts:
                known = facts.get("classes")
                counts = [str(known.get(name, "–")) if isinstance(known, dict) else "–" for name in names]
                if not label_set.is_icbhi:
                    counts = [", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))]
                sizes = [str(facts.get(name, "–")) for name in ("recordings", "patients", "cycles")]
                rows.append([str(split.get("name", "–")), part, *sizes, *counts, *ending])
    return Table(
        "Data of the runs",
        ["Split", "Part", "Recordings", "Patients", "Cycles", *classes, "Whole database", "Left out", "Digest", "Runs"],
        rows,
        note="The digest names the exact cycles, their labels and their part: runs with one digest saw the same data. "
        "Left out: problems for which recordings or cycles of the folder were not used.",
    )


def runs_frame(systems: list[System]) -> pd.DataFrame:
    """A row per run, all its figures as fractions: runs.csv."""
    return pd.DataFrame(
        {
            "folder": make_encodable(str(run.folder)),
            "system": s.name,
            "recipe": run.recipe,
            "seed": run.seed,
            "split": run.split.get("name"),
            "whole_database": run.whole_database,
            "select": run.select,
            "epochs": run.epochs["epoch"].max(),
            "select_by": run.select_by if run.select == "validation" else None,
            "selected_epoch": selected_epoch(run, run.select),
            **s.figures.loc[run.seed].to_dict(),
            "commit": run.record.get("commit"),
            "command": run.record.get("command"),
        }
        for s in systems
        for run in s.runs
    )


def runs_table(systems: list[System]) -> Table:
    """runs.csv as shown on the page."""
    rows = [
        [
            str(row["folder"]),
            str(row["system"]),
            str(row["seed"]),
            f"{int(row['epochs'])}",
            "–" if pd.isna(row["selected_epoch"]) else f"{int(row['selected_epoch'])}",
            "–" if pd.isna(row["validation_auroc"]) else f"{row['validation_auroc']:.3f}",
            format_percent(row["validation_score"]),
            *(format_percent(row[name]) for name in SCORES),
            str(row["commit"] or "–")[:18],
        ]
        for row in runs_frame(systems).to_dict("records")
    ]
    return Table(
        "Runs",
        [
            *("Folder", "System", "Seed", "Epochs", "Epoch used", "Validation AUROC", "Validation Score"),
            *("Specificity", "Sensitivity", "Score", "Commit"),
        ],
        [*rows, [all_normal(systems), "–", "–", "–", "–", "0.500", "50.00", "100.00", "0.00", "50.00", "–"]],
    )


def format_percent(fraction: float) -> str:
    return "–" if np.isnan(fraction) else f"{100 * fraction:.2f}"


def format_difference(found: dict[str, float]) -> str:
    """Difference of fractions with its interval -> "+1.80", and "[-1.1, +4.8]" on a second line."""
    difference, low, high = (100 * found[name] for name in ("difference", "low", "high"))
    return "–" if np.isnan(difference) else f"{difference:+.2f}\n[{low:+.1f}, {high:+.1f}]"


def format_mean_sd(values: pd.Series, scale: float = 100) -> str:
    """Fractions of all seeds -> "60.68 ± 0.49", without ± for one seed, – where a seed has none."""
    mean, sd = bootstrap.mean_sd(values * scale)
    digits = 2 if scale == 100 else 3
    if np.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if np.isnan(sd) else f" ± {sd:.{digits}f}")


def over_seeds(system: System, name: str, scale: float = 100) -> str:
    return format_mean_sd(system.figures[name], scale) if name in system.figures else "–"


def with_interval(system: System, name: str) -> str:
    return in_brackets(system.figures[name], system.interval, name)


def in_brackets(figures: pd.Series, interval: dict[str, tuple[float, float]], name: str) -> str:
    """Fractions of all seeds and their intervals -> "60.68 ± 0.49", and "[55.8, 65.4]" on a second line."""
    low, high = interval.get(name, (np.nan, np.nan))
    return format_mean_sd(figures) + ("" if np.isnan(low) else f"\n[{100 * low:.1f}, {100 * high:.1f}]")
