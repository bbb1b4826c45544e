"""What each choice of a protocol is worth in points: split, epoch, kind of sensitivity, min-max of a batch."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rales.evaluation.bootstrap import FIGURES, Answers, bootstrap_intervals, unpaired_difference
from rales.files.atomic import atomic_write
from rales.files.csv_cells import make_encodable
from rales.files.writers import write_csv
from rales.report import page, plots
from rales.report.load_runs import Run, strict_scores
from rales.report.protocols import PROTOCOLS, protocol_cycles
from rales.report.tables import ALL_NORMAL, format_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "What each choice of the protocol is worth"
SPLIT_TITLES = {
    "official": "official list",
    "official_drop": "official list, patients of both sides left out of the test",
    "official_move": "official list, patients of both sides moved to the test",
    "official_batch_scope": "official list, min-max of the batch",
    "patients": "patients at random, 60/40",
    "folds": "folds of patients",
    "respirenet": "RespireNet's 80/20 folds",
    "leaky_recordings": "leaky: recordings at random, 60/40",
    "leaky_cycles": "leaky: cycles at random, 60/40",
}
FIXED = "fixed"  # the one answer of a system that chooses no epoch
SELECTION_WORDS = {**PROTOCOLS, "validation": "best on validation cycles", FIXED: "no epochs"}
SCORINGS = ("strict", "any_abnormal")
MARKERS = {"validation": "o", "last": "s", "test_best": "^", FIXED: "D"}


class Row(NamedTuple):
    """A system under a split."""

    split: str
    """A key of SPLIT_TITLES, or "device NAME"."""
    system: str
    answers: Mapping[str, Answers]
    """A key of PROTOCOLS, or "fixed" alone -> answers to the test cycles, runs under each other."""
    runs: int
    shared_patients: tuple[str, ...]
    """Patients who test and train."""

    @property
    def own(self) -> str:
        """The selection that the row stands for: the best on validation cycles, or the only one."""
        return "validation" if "validation" in self.answers else FIXED

    @property
    def is_leaky(self) -> bool:
        return self.split.startswith("leaky_")

    @property
    def title(self) -> str:
        """What headers call the split; of a leaky one the word "leaky" comes first."""
        return SPLIT_TITLES.get(self.split, f"test on the {self.split}, train on the others")

    def without_shared_patients(self, split: str) -> "Row":
        """-> the same answers without the cycles of patients who train too, under another name."""
        kept = {
            selection: np.flatnonzero(~np.isin(np.asarray(found.patients), list(self.shared_patients)))
            for selection, found in self.answers.items()
        }
        answers = {
            selection: Answers(*(np.asarray(column)[kept[selection]] for column in found))
            for selection, found in self.answers.items()
        }
        return Row(split, self.system, answers, self.runs, ())


def rows_of_runs(system: str, split: str, runs: Sequence[Run]) -> list[Row]:
    """System, split and its runs (folds, draws, seeds) -> its row, and with the official list the repair that needs no
    run: the same answers without patients of both sides. ValueError: a run without the figures of its epochs."""
    if missing := [run for run in runs if not PROTOCOLS.keys() <= run.labels.keys()]:
        raise ValueError(f"{missing[0].folder}: does not say what it answered after each epoch; train it anew")
    shared = sorted({str(patient) for run in runs for patient in run.split.get("overlap_patients") or []})
    answers = {
        selection: join_answers([Answers(*protocol_cycles(run, selection)) for run in runs]) for selection in PROTOCOLS
    }
    row = Row(split, system, answers, len(runs), tuple(shared))
    return [row, row.without_shared_patients("official_drop")] if split == "official" and shared else [row]


def join_answers(parts: Sequence[Answers]) -> Answers:
    """Answers of several runs -> those of all under each other: a patient's stay together when patients are drawn."""
    return Answers(*(np.concatenate([np.asarray(part[i]) for part in parts]) for i in range(3)))


def count_any_abnormal(answers: Answers) -> Answers:
    """-> the same, any abnormal class counting as right for any abnormal cycle."""
    return answers._replace(
        true=(np.asarray(answers.true) > 0).astype(np.int64),
        predicted=(np.asarray(answers.predicted) > 0).astype(np.int64),
    )


class Step(NamedTuple):
    """Figures of a row, and what its choices are worth against those beside it; fractions."""

    row: Row
    figures: dict[tuple[str, str], dict[str, float]]
    """(selection, one of SCORINGS) -> specificity, sensitivity, score, and its low and high."""
    worth: dict[str, dict[str, float]]
    """"split", "test_best", "last", "any_abnormal" -> difference, low, high, p_value of the Score."""

    def find_worth(self, selection: str, scoring: str) -> dict[str, float] | None:
        """-> what the choice that leads from the row's own Score to this one is worth; of its own, the split."""
        if scoring == "any_abnormal":
            return self.worth.get("any_abnormal") if selection == self.row.own else None
        return self.worth.get("split" if selection == self.row.own else selection)


def measure_steps(rows: Sequence[Row]) -> list[Step]:
    """Rows -> their steps. A split is held against the first of the study, by the row's own selection; a system that
    has no figures of that one has none of this kind. The other choices are held against that selection on the same
    cycles."""
    wanted = next(
        (row.split for row in [*(row for row in rows if row.own == FIXED), *rows]), ""
    )  # baselines never fail
    first = {row.system: row for row in rows if row.split == wanted}
    steps = []
    for row in rows:
        reference = first.get(row.system, row)
        own = row.answers[row.own]
        others = {name: found for name, found in row.answers.items() if name != row.own}
        worth = {"split": score_difference(own, reference.answers[reference.own])} if row is not reference else {}
        for name, found in {**others, "any_abnormal": count_any_abnormal(own)}.items():
            worth[name] = score_difference(found, own)
        figures = {
            (name, scoring): figures_with_interval(answers)
            for name, found in row.answers.items()
            for scoring, answers in zip(SCORINGS, (found, count_any_abnormal(found)), strict=True)
        }
        steps.append(Step(row, figures, worth))
    return steps


def figures_with_interval(answers: Answers) -> dict[str, float]:
    """Answers -> the three figures, and the 95 % interval of the Score, patients resampled."""
    low, high = bootstrap_intervals(*answers, seed=0)["score"]
    return {**strict_scores(answers.true, answers.predicted), "low": low, "high": high}


def score_difference(one: Answers, other: Answers) -> dict[str, float]:
    """-> Score of one minus that of the other, with its interval: patients are resampled together."""
    return unpaired_difference(one, other, seed=0)["score"]


def steps_frame(steps: Sequence[Step]) -> pd.DataFrame:
    """Steps -> protocol.csv: a row per system, split, selection and kind of sensitivity, in percent and points."""
    records = []
    for step in steps:
        row = step.row
        for (selection, scoring), figures in step.figures.items():
            worth = step.find_worth(selection, scoring) or dict.fromkeys(("difference", "low", "high"), np.nan)
            tests = row.answers[selection]
            numbers = {
                **{name: figures[name] for name in FIGURES},
                **{f"score_{end}": figures[end] for end in ("low", "high")},
                "worth": worth["difference"],
                **{f"worth_{end}": worth[end] for end in ("low", "high")},
            }
            records.append(
                {
                    "system": row.system,
                    "split": row.split,
                    "leaky": row.is_leaky,
                    "selection": selection,
                    "scoring": scoring,
                    "runs": row.runs,
                    "test_cycles": len(np.asarray(tests.true)),
                    "test_patients": len(np.unique(np.asarray(tests.patients))),
                    "of_them_in_train": len(row.shared_patients),
                    **{name: round(100 * value, 4) for name, value in numbers.items()},
                }
            )
    return pd.DataFrame(records)


def steps_table(steps: Sequence[Step]) -> page.Table:
    """Steps -> the one table, split by split."""
    rows = []
    for row, figures, worth in by_split(steps):
        tests = row.answers[row.own]
        patients = len(np.unique(np.asarray(tests.patients)))
        rows.append(
            [
                row.title,
                row.system,
                f"{patients}, {len(row.shared_patients)} in train",
                format_score(figures[row.own, "strict"]),
                *(format_score(figures.get((name, "strict"))) for name in ("last", "test_best")),
                format_score(figures[row.own, "any_abnormal"]),
                *(format_worth(worth.get(name)) for name in ("split", "last", "test_best", "any_abnormal")),
            ]
        )
    rows.append([ALL_NORMAL, "–", "–", "50.00", "50.00", "50.00", "50.00", "–", "0.00", "0.00", "0.00"])

    return page.Table(
        "Score by split, choice of the epoch and kind of sensitivity, and what each choice is worth",
        [
            *("Split", "System", "Test patients"),
            *("Score: epoch by validation", "Last epoch", "Best on the test set", "Any abnormal counts"),
            *("Worth of the split", "Last − validation", "Best on test − validation", "Any abnormal − strict"),
        ],
        rows,
        note="Percent and points, with 95 % interval, patients resampled. The first Score is strict, of the epoch that "
        "held-out train cycles chose (of a baseline, which has no epochs, its only one), and each choice is held "
        "against it: the split against the first split of the study, its patients drawn together with those of "
        "that split; the others on the same cycles. Under a leaky split patients who test also train: "
        "such a figure says nothing about a new patient.",
    )


def by_split(steps: Sequence[Step]) -> list[Step]:
    """Steps -> the same, all systems of a split together, splits in the order in which they first appear."""
    order = list(dict.fromkeys(step.row.split for step in steps))
    return sorted(steps, key=lambda step: (step.row.is_leaky, order.index(step.row.split)))


def format_score(figures: dict[str, float] | None) -> str:
    """Fractions with the Score's interval -> "60.68", and "[55.8, 65.4]" on a second line."""
    if figures is None or np.isnan(figures["score"]):
        return "–"
    score, low, high = (100 * figures[name] for name in ("score", "low", "high"))
    return f"{score:.2f}" + ("" if np.isnan(low) else f"\n[{low:.1f}, {high:.1f}]")


def format_worth(found: dict[str, float] | None) -> str:
    return "–" if found is None else format_difference(found)


def plot_steps(steps: Sequence[Step]) -> tuple[page.Picture, bytes]:
    """Steps -> the picture as PNG for the page, and the same as SVG."""
    from matplotlib import rc_context

    ordered = by_split(steps)
    splits = list(dict.fromkeys(step.row.title for step in ordered))
    systems = list(dict.fromkeys(step.row.system for step in steps))
    height = 1.6 + 0.16 * len(ordered) + 0.3 * len(splits)
    figure, (axes,) = plots.make_canvas(width=8.5, height=height)
    for number, step in enumerate(ordered):
        draw_step(axes, step, -number - 1.5 * splits.index(step.row.title), systems.index(step.row.system))
    places = {
        title: np.mean([-n - 1.5 * splits.index(title) for n, step in enumerate(ordered) if step.row.title == title])
        for title in splits
    }
    axes.set_yticks(list(places.values()), splits)
    for label in axes.get_yticklabels():
        label.set_color(plots.COLOURS[1] if label.get_text().startswith("leaky") else "black")
    axes.axvline(50, color="black", ls="--", lw=1.2, label=f"{ALL_NORMAL}: 50.0")
    axes.set(xlabel="Score, %, with 95 % interval (patients resampled)")
    names = [name for name in MARKERS if any(name in step.row.answers for step in steps)]
    marks = [axes.plot([], [], MARKERS[name], color=plots.GREY, label=SELECTION_WORDS[name]) for name in names]
    colours = [axes.plot([], [], "-", color=colour_of(i), lw=3, label=name) for i, name in enumerate(systems)]
    assert marks
    assert colours
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.3, -0.6 / height))
    scores = [100 * step.figures[step.row.own, "strict"]["score"] for step in ordered]
    with rc_context({"svg.hashsalt": "rales"}):
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    picture = page.Picture(
        "protocol.png",
        f"Score of each system under each split, from {min(scores):.1f} to {max(scores):.1f}; the table has each.",
        "The same system, scored under every split and choice of the epoch. Splits in orange are leaky: patients who "
        "test also train.",
        plots.render_png(figure),
    )
    return picture, buffer.getvalue()


def draw_step(axes: "Axes", step: Step, height: float, system: int) -> None:
    """The Scores of a row, one mark a selection, on one line with the interval of the row's own."""
    low, high = (100 * step.figures[step.row.own, "strict"][end] for end in ("low", "high"))
    if not np.isnan(low):
        axes.plot([low, high], [height, height], color=colour_of(system), lw=1.2)
    for name in step.row.answers:
        size = 7 if name == step.row.own else 5
        axes.plot(
            100 * step.figures[name, "strict"]["score"],
            height,
            MARKERS[name],
            color=colour_of(system),
            ms=size,
            mec="white",
        )


def colour_of(system: int) -> str:
    return plots.COLOURS[system % len(plots.COLOURS)]


def write_protocol(
    out: Path, rows: Sequence[Row], facts: Sequence[tuple[str, str]], notes: Sequence[str]
) -> tuple[Path, pd.DataFrame]:
    """Rows, facts of the study and sentences on what is missing -> OUT/protocol.html; beside it protocol.md,
    protocol.csv, protocol.png and protocol.svg; with the table of protocol.csv."""
    steps = measure_steps(rows)
    picture, drawing = plot_steps(steps)
    lead: list[page.Block] = [page.Items(list(facts))]
    if leaky := list(dict.fromkeys(step.row.title for step in steps if step.row.is_leaky)):
        warning = (
            f"{'; '.join(leaky)}: patients who test also train there. No such figure stands beside another split's."
        )
        lead.append(page.Text(warning, warning=True))
    section = page.Section("protocol", "Splits, epochs and scoring", [picture, steps_table(steps)])
    left_out = page.Section(
        "left-out",
        "Not measured",
        [page.Items([(name, why) for name, _, why in (note.partition(": ") for note in notes)])],
    )
    sections = [section, left_out] if notes else [section]
    files = {
        "protocol.png": picture.png,
        "protocol.svg": drawing,
        "protocol.md": make_encodable(page.render_markdown(TITLE, lead, sections)).encode(),
        "protocol.html": make_encodable(page.render_html(TITLE, lead, sections)).encode(),
    }
    table = steps_frame(steps)
    write_csv(out / "protocol.csv", table)
    for name, content in files.items():
        with atomic_write(out / name) as beside:
            beside.write_bytes(content)
    return out / "protocol.html", table
