"""Which labels may be wrong: cycles whose label the answers speak against, of models that were not trained on them.

Confident learning (Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 70, 2021; package cleanlab) asks of each cycle how probable its label is beside how
probable that label is for cycles which have it. The answers are those of runs to their test cycles, or, without runs,
those of a logistic regression on log-mel statistics to patients that it was not fitted on.

What comes first is where label and answers differ most. Either may be wrong: only listening tells.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rales.data import splits
from rales.data.dataset import class_numbers
from rales.errors import UsageError, count_noun
from rales.evaluation.metrics import as_probabilities
from rales.files.atomic import atomic_write, make_folder
from rales.files.writers import write_csv
from rales.jobs.baselines import BASELINES, load_statistics
from rales.labels import LabelSet
from rales.optional_packages import require_packages
from rales.report.load_runs import read_run, run_folders
from rales.report.page import Block, Gallery, Items, Section, Table, Text, render_html
from rales.report.worst_cycles import make_clip, sound_note
from rales.typing import FloatArray

PAGE, TABLE = "suspects.html", "suspects.csv"
STATISTICS = "log-mel statistics + logistic regression"
COLUMNS = ("rank", "recording", "cycle", "patient", "start_s", "end_s", "label", "suggested", "quality", "suspect")


def check_packages() -> None:
    """Errors: packages that are missing, before anything is computed."""
    require_packages("rales suspect", "labels", "cleanlab", "matplotlib", "jinja2")


def answer_by_runs(cycles: pd.DataFrame, folders: Sequence[Path], label_set: LabelSet) -> tuple[pd.DataFrame, str]:
    """Cycles table and folders of runs -> its rows that a run tested, with probabilities, and how they came about.

    What several runs say of a cycle is averaged. Errors: runs of other classes, of leaky splits, or of other cycles.
    """
    tables = []
    for folder in run_folders(folders):
        run = read_run(folder)
        if run.label_set != label_set:
            raise UsageError(f"{folder}: a run of {', '.join(run.label_set.classes)}; expected {label_set.classes}")
        if run.split.get("name") in splits.LEAKY:
            raise UsageError(f"{folder}: its split is leaky, so its answers are to patients that it was trained on")
        if run.split.get("test_recordings_heard"):
            raise UsageError(f"{folder}: the model that it goes on from was trained on some of its test recordings")
        if run.predictions is None:
            raise UsageError(f"{folder}: no predictions.csv; train it again")
        both_sides = list(map(str, run.split.get("overlap_patients") or ()))  # of the official list
        answered = run.predictions[~run.predictions["patient"].astype(str).isin(both_sides)]
        tables.append(answered[["recording", "cycle", *label_set.columns]])
    if not tables:
        raise UsageError(f"{', '.join(map(str, folders))}: no finished run; give folders of `rales train` or `sweep`")
    answers = pd.concat(tables).groupby(["recording", "cycle"], as_index=False).mean()
    rows = cycles.merge(answers, on=["recording", "cycle"], how="inner")
    if rows.empty:
        raise UsageError("none of the runs' test cycles is in this data; give the data that they were trained with")
    return rows, f"the test cycles of {count_noun(len(tables), 'run')}"


def answer_by_statistics(
    cycles: pd.DataFrame, label_set: LabelSet, *, folds: int | None = None, progress: bool = False
) -> tuple[pd.DataFrame, str]:
    """Cycles table -> the same with probabilities of a plain classifier under folds of patients, and how they came."""
    statistics = load_statistics(cycles, progress=progress)
    fold, label = splits.assign_folds(cycles, folds), class_numbers(cycles, label_set)
    probabilities = np.zeros((len(cycles), len(label_set)))
    for number in sorted(set(fold)):
        tests = (fold == number).to_numpy()
        classifier = BASELINES[STATISTICS]().fit(statistics[~tests], label[~tests])
        probabilities[np.ix_(tests, classifier.classes_)] = classifier.predict_proba(statistics[tests])
    known = cycles.assign(**dict(zip(label_set.columns, probabilities.T, strict=True)))
    return known, f"{STATISTICS}, {fold.nunique()} folds of patients"


def rank_labels(rows: pd.DataFrame, label_set: LabelSet) -> pd.DataFrame:
    """Cycles with out-of-fold probabilities -> the same, most suspicious first, with `suspect` (whether confident
    learning takes the label for wrong), `quality` (0 to 1, of the label), `suggested` (most probable class) and `rank`.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = class_numbers(rows, label_set)
    p = as_probabilities(rows[list(label_set.columns)].to_numpy(np.float64), label_set)
    there = np.unique(labels)  # a class that no cycle has tells nothing of labels
    inside, known = spread_over(p[:, there]), np.searchsorted(there, labels)
    ranked = rows.assign(
        quality=get_label_quality_scores(known, inside),
        suspect=find_label_issues(known, inside) if len(there) > 1 else False,
        suggested=[label_set.classes[number] for number in there[inside.argmax(axis=1)]],
    )
    ranked = ranked.sort_values(["suspect", "quality"], ascending=[False, True], kind="stable", ignore_index=True)
    return ranked.assign(rank=np.arange(1, len(ranked) + 1))


def spread_over(p: FloatArray) -> FloatArray:
    """(N, C) shares of some classes -> the same with sum 1 in every row."""
    total = p.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, p / np.where(total > 0, total, 1), 1 / p.shape[1]), np.float64)


def write_suspects(ranked: pd.DataFrame, out: Path, origin: str, *, top: int) -> dict[str, Any]:
    """Result of `rank_labels` -> suspects.csv of all cycles, suspects.html with the sounds of the first; their summary.

    The page holds the sounds themselves, so it is as private as the recordings.
    """
    make_folder(out)
    write_csv(out / TABLE, ranked[list(COLUMNS)])
    suspects, agree = int(ranked["suspect"].sum()), float((ranked["suggested"] == ranked["label"]).mean())

    facts = [
        ("Cycles", f"{len(ranked)} of {ranked['patient'].nunique()} patients"),
        ("Answers", f"{origin}; {100 * agree:.1f} % of them agree with the label"),
        ("Taken for wrong", f"{suspects} ({100 * suspects / len(ranked):.1f} %)"),
    ]
    lead: list[Block] = [
        Items(facts),
        Text(
            "First comes where label and answers differ most; either may be wrong, and only listening tells. The more "
            "a model errs, the more labels it takes for wrong."
        ),
    ]

    section = Section("suspects", "Most suspicious first", [show_labels(ranked.head(top).to_dict("records"))])
    with atomic_write(out / PAGE) as place:
        place.write_text(render_html("Labels that may be wrong", lead, [section]), encoding="utf-8")

    first = ranked.head(top)[list(COLUMNS)].to_dict("records")
    return {
        "page": str(out / PAGE),
        "table": str(out / TABLE),
        "cycles": len(ranked),
        "suspects": suspects,
        "agree": agree,
        "answers": origin,
        "first": first,
    }


def show_labels(rows: Sequence[Mapping[Hashable, Any]]) -> Gallery:
    """First rows of `rank_labels` -> a table of what is said of them, with picture and sound of each."""
    clips = [make_clip(Path(row["path"]), row["start_s"], row["end_s"]) for row in rows]
    cells = [
        [
            f"{row['rank']}. {row['recording']}, cycle {row['cycle']}",
            f"{row['start_s']:.2f} to {row['end_s']:.2f}",
            *(str(row[name]) for name in ("patient", "label", "suggested")),
            f"{row['quality']:.2g}",
        ]
        for row in rows
    ]
    title = f"The {len(rows)} most suspicious labels" if len(rows) > 1 else "The most suspicious label"
    columns = ["Cycle", "Seconds", "Patient", "Labelled", "Answers say", "Quality of the label, 0 to 1"]
    return Gallery(Table(title, columns, cells, note=sound_note(clips)), clips)
