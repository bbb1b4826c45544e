"""The one figure of a report that a reader takes away, and how it stands to a constant answer."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from rales.errors import count_noun
from rales.report import tables
from rales.report.literature import PHYSICIANS
from rales.report.page import Block, Glance, Text
from rales.report.protocols import ProtocolOutcome, protocol_outcome
from rales.report.systems import System, ranking_figure

CONSTANT = 50.0  # Score of every cycle called normal


class Headline(NamedTuple):
    """A system's figures, and whether neither training nor choosing had a part of the test cycles."""

    system: System
    outcome: ProtocolOutcome
    honest: bool


def headline_blocks(systems: list[System]) -> list[Block]:
    """The first system, chosen without the test cycles where that can be; a choice by these is called one."""
    system, outcome, honest = find_headline(systems)
    score = 100 * float(outcome.figures["score"].mean())
    low, high = (100 * end for end in outcome.interval.get("score", (math.nan, math.nan)))
    normal = tables.all_normal(systems)
    references = [(CONSTANT, normal)]
    if not system.incomparable:
        references.append((float(PHYSICIANS[-1]), PHYSICIANS[0].partition(",")[0]))
    of_many = f", of {count_noun(len(systems), 'system')}" if len(systems) > 1 else ""
    doubt = f"Highest figure, {system.heard_test or 'chosen on the test set'}"
    title = f"{'Best honest figure' if honest else doubt}{of_many}"
    words = f"{system.name}, {outcome.words}"
    glance = Glance(
        f"{title}: {words}",
        score,
        low,
        high,
        verdict_on(score, low, high, normal),
        headline_text(systems),
        (*references,),
    )
    return [Text(glance.text) if math.isnan(score) else glance, *constant_answers(systems)]


def find_headline(systems: list[System]) -> Headline:
    """-> of the systems that heard no test patient (of all, if none is left) and have validation patients the best on
    these; else the only one there is, by its last epoch where its runs tell of it; else that of the highest mean Score,
    which the test cycles have then chosen."""
    clean = [s for s in systems if not s.heard_test] or systems
    validated = [s for s in clean if s.is_validated and s.select != "test_best"]
    honest = bool(validated) or len(clean) == 1
    system = (validated or sorted(clean, key=mean_score, reverse=True))[0]
    outcome = protocol_outcome(system, system.select)
    if system.select == "test_best":
        last = protocol_outcome(system, "last")
        outcome, honest = last or outcome, honest and last is not None
    assert outcome is not None  # a system has figures under its own protocol
    return Headline(system, outcome, honest and not system.heard_test)


def verdict_on(score: float, low: float, high: float, normal: str) -> str:
    """Score and the ends of its interval, percent -> how it stands to a constant answer."""
    constant = f"{normal} ({CONSTANT:.1f})"
    if math.isnan(low):
        side = "Above" if score > CONSTANT else "Below" if score < CONSTANT else "The same as"
        return f"{side} {constant}; without predictions there is no interval."
    if low > CONSTANT:
        return f"Better than {constant}: the whole interval is above."
    if high < CONSTANT:
        return f"Worse than {constant}: the whole interval is below."
    return f"Not told apart from {constant}, which lies inside the interval."


def mean_score(system: System) -> float:
    return float(np.nan_to_num(system.figures["score"].mean(), nan=-1))


def headline_text(systems: list[System]) -> str:
    """-> what comes first and by what, in sentences."""
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
        best = max(others, key=mean_score)
        among = f" among {count_noun(len(others), 'system')} without validation patients" if validated else ""
        ranked = " (ranked by test, so optimistic for whichever comes first)" if len(others) > 1 else ""
        sentences.append(f"Highest mean Score on the test cycles{among}{ranked}: {best.name}, {score_words(best)}.")
    sentences.append(
        f"A classifier that calls every cycle {systems[0].label_set.normal} has Score 50.0 (specificity 100, "
        "sensitivity 0) and AUROC 0.5."
    )
    return " ".join(sentences)


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
