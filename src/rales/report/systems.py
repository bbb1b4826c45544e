"""Group runs that differ only in their seed into one system, with its scores, interval and name."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.data import splits
from rales.evaluation import bootstrap, calibration, metrics
from rales.labels import LabelSet
from rales.report.load_runs import CANNOT_CHANGE_A_SYSTEM, WATCHED, Run, selected_epoch, strict_scores, system_identity

CYCLE = ["recording", "cycle", "true"]


@dataclass(frozen=True)
class System:
    """One row of every table."""

    name: str
    runs: list[Run]
    """By seed."""
    figures: pd.DataFrame
    """A row per run, a column per figure (fractions, NaN where a run has no predictions)."""
    cycles: pd.DataFrame | None
    """Predictions of all runs under each other, or None if a run has none."""
    incomparable: str
    """Why the scores do not stand beside published ones; empty if they do."""

    @property
    def label_set(self) -> LabelSet:
        return self.runs[0].label_set

    @property
    def select(self) -> str:
        return self.runs[0].select

    @property
    def heard_test(self) -> str:
        """How its test patients, or recordings of them, had a part in training; "" if not, as far as is known."""
        if any(run.split.get("name") in splits.LEAKY for run in self.runs):
            return "of a leaky split"
        heard = any(run.split.get("test_recordings_heard") for run in self.runs)
        return "of a model that heard test recordings before" if heard else ""

    @property
    def is_validated(self) -> bool:
        """Whether every run has figures of validation patients, so that the system can be chosen without the test."""
        return bool(self.figures["validation_score"].notna().all())

    @cached_property
    def interval(self) -> dict[str, tuple[float, float]]:
        """95 % interval of the mean over seeds, patients resampled; empty without predictions."""
        if self.cycles is None:
            return {}
        # The seeds of a patient stay together, and all seeds share one test set: this resamples the mean over seeds.
        cycles = self.cycles
        return bootstrap.bootstrap_intervals(cycles["true"], cycles["predicted"], cycles["patient"].tolist(), seed=0)


def group_by_label_set(runs: list[Run]) -> list[list[Run]]:
    """Runs -> those of each label set, ICBHI's first: no figure compares or pools runs of two."""
    groups: dict[LabelSet, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.label_set].append(run)
    return [groups[label_set] for label_set in sorted(groups, key=lambda each: not each.is_icbhi)]


def group_into_systems(runs: list[Run]) -> list[System]:
    """Runs of one label set -> systems: those with validation patients, the best on these first; then the others by
    their test Score."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[system_identity(run)].append(run)
    members = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
    systems = [make_system(name, group) for name, group in zip(name_systems(members), members, strict=True)]
    by = [f"validation_{ranking_figure(systems)}", "validation_score"]  # equal ones in order of the Score there

    def place(s: System) -> tuple[bool, list[float]]:
        means = s.figures[by if s.is_validated else ["score"]].mean()
        return (not s.is_validated, [-np.nan_to_num(mean, nan=-1) for mean in means])

    return sorted(systems, key=place)


def ranking_figure(systems: list[System]) -> Literal["auroc", "score"]:
    """-> the figure of the validation patients that ranks the systems that have some: that by which all of them chose
    their epoch, else the mean AUROC if all have recorded it."""
    validated = [s for s in systems if s.is_validated]
    recorded = all(s.figures["validation_auroc"].notna().all() for s in validated)
    by_score = all(run.select_by == "score" for s in validated for run in s.runs)
    return "auroc" if recorded and not by_score else "score"


def make_system(name: str, runs: list[Run]) -> System:
    tables = [run.predictions for run in runs if run.predictions is not None]
    return System(
        name=name,
        runs=runs,
        figures=pd.DataFrame([run_metrics(run) for run in runs], index=[run.seed for run in runs]),
        cycles=pd.concat(tables, ignore_index=True) if len(tables) == len(runs) else None,
        incomparable=why_incomparable(runs[0]),
    )


def run_metrics(run: Run) -> dict[str, float]:
    """Run -> all its figures at the selected epoch, as fractions."""
    validation = {f"validation_{name}": run.validation.get(name, math.nan) for name in WATCHED}
    if run.predictions is None:
        epoch = selected_epoch(run, run.select)
        scores = run.scores["test"][epoch] if epoch is not None else dict.fromkeys(WATCHED, math.nan)
        return {**scores, **validation}
    label_set, true, predicted = run.label_set, run.predictions["true"], run.predictions["predicted"]
    targets = label_set.make_targets(run.predictions["true_label"].tolist())
    probabilities = run.predictions[list(label_set.columns)].to_numpy(np.float64)
    more = metrics.compute_metrics(targets, probabilities, label_set)
    by_class = count_by_class(run.predictions, label_set).values()
    recalls = [counts[1, 1] / counts[1].sum() for counts in by_class if counts[1].any()]
    two_class = strict_scores(true > 0, predicted > 0)
    return {
        **strict_scores(true, predicted),
        "auroc": more["auroc"],
        **validation,
        **{f"two_class_{name}": value for name, value in two_class.items()},
        "macro_recall": float(np.mean(recalls)) if recalls else math.nan,
        **detection_metrics(more, label_set),
        "ece": calibration.expected_calibration_error(
            targets.ravel(), calibration.as_exclusive(probabilities, label_set)
        ),
        "threshold_score": threshold_score(run),
    }


def detection_metrics(more: dict[str, Any], label_set: LabelSet) -> dict[str, float]:
    """Figures of an evaluation -> AUROC and average precision of each class, of ICBHI's of each sound."""
    if not label_set.is_icbhi:
        shown = {"auroc": "auroc", "ap": "average_precision"}
        return {
            f"{word}_{name}": more["by_class"][name][key] for word, key in shown.items() for name in label_set.classes
        }
    sounds = ("crackle", "wheeze")
    return {
        **{f"{sound}_auroc": more[f"{sound}_present"]["auroc"] for sound in sounds},
        **{f"{sound}_ap": more[f"{sound}_present"]["average_precision"] for sound in sounds},
    }


def count_by_class(cycles: pd.DataFrame, label_set: LabelSet) -> dict[str, NDArray[np.int64]]:
    """Cycles with labels -> class -> (2, 2) counts, rows true, columns named: no, yes."""
    true, named = (label_set.make_targets(cycles[column].tolist()) for column in ("true_label", "label"))
    if not label_set.independent:
        true, named = (targets[:, None] == np.arange(len(label_set)) for targets in (true, named))
    return {
        name: metrics.confusion_matrix(true[:, i], named[:, i], classes=2) for i, name in enumerate(label_set.classes)
    }


def threshold_score(run: Run) -> float:
    """-> test Score with the threshold for "normal" that suits the validation patients best; NaN without them."""
    metrics = run.evaluation.get("validation_threshold")
    score = metrics.get("score") if isinstance(metrics, dict) else None
    return score if isinstance(score, float) else math.nan


def why_incomparable(run: Run) -> str:
    """-> the reason why a run's scores do not stand beside published ones, or ""."""
    if not run.label_set.is_icbhi:
        return "other classes than the four of ICBHI 2017"
    if not run.whole_database:
        recordings = [part.get("recordings") for part in run.split.values() if isinstance(part, dict)]
        seen = sum(n for n in recordings if isinstance(n, int))
        return f"not the whole ICBHI 2017 database ({seen} recordings here, 920 there)"
    if run.split.get("name") != "official":
        return f"split `{run.split.get('name')}`, not the official 60/40 split"
    return ""


def leak_free(system: System) -> tuple[list[str], dict[str, float], dict[str, tuple[float, float]]] | None:
    """-> patients of the official test set who train too, and figures and intervals of the test cycles without theirs
    (the repair `official_drop`); None on another split, without predictions or without such patients."""
    run = system.runs[0]
    patients = [str(patient) for patient in run.split.get("overlap_patients") or []]
    if system.cycles is None or run.split.get("name") != "official" or not patients:
        return None
    cycles = system.cycles[~system.cycles["patient"].isin(patients)]
    if cycles.empty:
        return None
    interval = bootstrap.bootstrap_intervals(cycles["true"], cycles["predicted"], cycles["patient"].tolist(), seed=0)
    return patients, strict_scores(cycles["true"], cycles["predicted"]), interval


def group_by_protocol(systems: list[System]) -> list[tuple[System, dict[str, System]]]:
    """Systems -> one entry for those that differ only in how their epoch is chosen: the one that names it, and the one
    that each protocol's score comes from. Runs that hold nobody out speak for `last` and `test_best`."""
    groups: dict[str, list[System]] = defaultdict(list)
    for s in systems:
        groups[protocol_free(s.runs[0])].append(s)
    entries = []
    for group in groups.values():
        held_out = [s for s in group if s.select == "validation"]
        others = [s for s in group if s.select != "validation"] or held_out
        source = {"validation": (held_out or others)[0]}
        for select in ("last", "test_best"):
            source[select] = next((s for s in others if s.select == select), others[0])
        entries.append((others[0], source))
    return entries


def protocol_free(run: Run) -> str:
    """-> what makes two systems the same but for the protocol that chooses their epoch. The share of validation
    patients stays: systems of two shares are two entries."""
    config = {name: value for name, value in run.config.items() if name not in ("train.select", "train.select_by")}
    tested = {name: run.split["test"].get(name) for name in ("recordings", "cycles")}
    return system_identity(replace(run, config=config, split={"digest": f"{run.split.get('name')} {tested}"}))


def protocol_scores(system: System, select: str) -> pd.Series:
    """-> each run's test Score at the epoch that `select` chooses; NaN where metrics.jsonl does not tell."""
    epochs = [selected_epoch(run, select) for run in system.runs]
    scores = [
        math.nan if epoch is None else run.scores["test"][epoch]["score"]
        for run, epoch in zip(system.runs, epochs, strict=True)
    ]
    return pd.Series(scores, index=[run.seed for run in system.runs], dtype=np.float64)


def compare_paired(a: System, b: System) -> dict[str, dict[str, float]] | None:
    """Two systems -> difference a - b of their means over seeds, per figure; None unless they share all test cycles."""
    if a.cycles is None or b.cycles is None:
        return None
    tables = [run.predictions for run in (*a.runs, *b.runs) if run.predictions is not None]
    tables = [table.sort_values(CYCLE, ignore_index=True) for table in tables]
    if any(not table[CYCLE].equals(tables[0][CYCLE]) for table in tables):
        return None
    # Seeds are repeated to a common number, which leaves both means as they are; only sums per patient matter.
    count = math.lcm(len(a.runs), len(b.runs))
    predicted = [table["predicted"].to_numpy() for table in tables]
    of_a, of_b = predicted[: len(a.runs)], predicted[len(a.runs) :]
    return bootstrap.paired_difference(
        np.tile(tables[0]["true"].to_numpy(), count),
        np.concatenate(of_a * (count // len(of_a))),
        np.concatenate(of_b * (count // len(of_b))),
        tables[0]["patient"].tolist() * count,
        seed=0,
    )


def name_systems(groups: list[list[Run]]) -> list[str]:
    """One readable name per group; equal names get the settings that tell them apart: those without a dot first, then
    those that were set in any of the runs, then those that followed from them."""
    runs = [group[0] for group in groups]
    names = [plain_name(run) for run in runs]
    plain = [{name: value for name, value in run.config.items() if "." not in name} for run in runs]
    chosen = {name for run in runs for name in run.overrides}
    own = [{name: value for name, value in run.config.items() if name in chosen} for run in runs]
    splits = [{"split": str(run.split.get("digest"))[:8]} for run in runs]
    for settings in (plain, own, [run.config for run in runs], splits):
        names = [tell_apart(name, its, names, settings) for name, its in zip(names, settings, strict=True)]
    return names


def plain_name(run: Run) -> str:
    leaky = "leaky: " if run.record.get("split", {}).get("name") in splits.LEAKY else ""
    words = [str(run.config[key]) for key in ("variant", "size") if run.config.get(key)]
    words += [fidelity] if (fidelity := run.config.get("fidelity", "corrected")) != "corrected" else []
    words += [str(term) for term in [run.config.get("loss", "cross_entropy")] if term != "cross_entropy"]
    words += [str(found) for found in [run.record.get("provenance", "ours")] if found != "ours"]
    return leaky + (f"{run.recipe} ({', '.join(words)})" if words else run.recipe)


def tell_apart(name: str, own: dict[str, Any], names: list[str], settings: list[dict[str, Any]]) -> str:
    """-> the name and those of its own settings in which systems of the same name differ from it."""
    twins = [other for other, other_name in zip(settings, names, strict=True) if other_name == name]
    differing = [key for key in own if any(other.get(key) != own[key] for other in twins)]
    return ", ".join(
        [name, *(f"{key}={show_setting(own[key])}" for key in differing if key not in CANNOT_CHANGE_A_SYSTEM)]
    )


def show_setting(value: Any) -> str:
    """A setting as a reader wants it: of a path the last folder and the name, of a digest its beginning, of many
    numbers in a row their ends."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:8]
    numbers = value if isinstance(value, list) and all(isinstance(each, int) for each in value) else []
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"[{numbers[0]} … {numbers[-1]}]"
    return "/".join(PurePath(value).parts[-2:]) or "none" if isinstance(value, str) else str(value)
