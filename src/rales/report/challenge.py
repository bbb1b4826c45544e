"""The official scores of runs on SPRSound, as a table of the report."""

from typing import Any

import pandas as pd

from rales.evaluation.challenge_scores import FIGURES, KEY
from rales.report.load_runs import Run
from rales.report.page import Table
from rales.report.systems import System
from rales.report.tables import format_mean_sd
from rales.training.run_records import ChallengeTask, check_value

SHOWN = (*FIGURES, "score")


def challenge_table(systems: list[System]) -> Table | None:
    """Scores of SPRSound's challenges, a row for each system and side; None where no run has some."""
    found = {system.name: [read_challenge(run) for run in system.runs] for system in systems}
    tasks = [task for each in found.values() for task in each if task]
    if not tasks:
        return None
    rows = []
    for name, each in found.items():
        for side in dict.fromkeys(side for task in each for side in task.get("sides", {})):
            runs = [task["sides"][side] for task in each if side in task.get("sides", {})]
            cells = {figure: format_mean_sd(pd.Series([read_number(run, figure) for run in runs])) for figure in SHOWN}
            ends = [end for end in runs[0].get("as_ci95", []) if isinstance(end, float)]
            if len(runs) == 1 and len(ends) == 2:  # an interval is of one run's answers
                cells["as"] += f"\n[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
            rows.append([name, side, str(runs[0].get("rows", "–")), *cells.values()])
    first = tasks[0]
    return Table(
        f"SPRSound, task {first['task']}",
        ["System", "Side", str(first["rows"]).capitalize(), "SE", "SP", "AS", "HS", "Score"],
        rows,
        note="Percent, mean over seeds ± standard deviation. SP of normal, SE of adventitious ones called by their own "
        "class, AS their mean, HS their harmonic mean, Score the mean of these two; recordings of poor quality "
        "count in neither. In brackets, of a single run, the 95 % interval with patients resampled.",
    )


def read_challenge(run: Run) -> dict[str, Any]:
    """-> what evaluation.json says of a task of SPRSound's challenges, {} where it says nothing or is damaged."""
    found = run.evaluation.get(KEY)
    try:
        check_value(found, ChallengeTask, KEY, "evaluation.json")
    except ValueError:  # which the notes on runs say
        return {}
    return dict(found or {})


def read_number(figures: dict[str, Any], name: str) -> float:
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")
