"""What each choice of split, epoch and scoring is worth in points, of one system: few runs, one table, one picture.

One run a split holds validation patients out and keeps what it said after every epoch, so the last epoch, the best on
validation and the best on the test set all come from it, and both kinds of sensitivity from the same answers. Cheap
baselines (`rales.jobs.baselines`) stand under the same splits.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rales.data import splits
from rales.errors import SettingError, UsageError
from rales.evaluation.predictions import is_whole_database
from rales.jobs.baselines import BASELINES, answer_test_cycles, load_statistics
from rales.jobs.reproduce import fitting
from rales.jobs.sweep import Trial, trials
from rales.labels import ICBHI, LabelSet
from rales.recipes.registry import find_settings, make_recipe
from rales.report.load_runs import Run, read_run
from rales.report.protocol_steps import Row, join_answers, rows_of_runs, write_protocol
from rales.settings import RunSettings, list_fields, parse_words, set_fields

RESPIRENET_FOLD = 4  # of which its authors publish a training log
LEADERS_SEED = 1  # of three public loaders that draw recordings at random
BATCH_SCOPE = "official_batch_scope"
BASELINE_DRAWS = 5  # of what is drawn at random; a draw of patients moves a Score by some four points
OWN_GROUP, OWN = "split.", ("train.select", "seed")  # settings that the study sets itself


@dataclass(frozen=True)
class Scheme:
    """A way to divide the recordings, and the settings of each of its runs."""

    name: str
    runs: tuple[tuple[str, ...], ...]
    """`name=value` words."""


@dataclass(frozen=True)
class Planned:
    """A run of the study: the system and scheme that it is of."""

    recipe: str
    scheme: str
    trial: Trial


def list_schemes(
    cycles: pd.DataFrame,
    *,
    draws: int = 1,
    all_folds: bool = False,
    wanted: Sequence[str] = (),
    label_set: LabelSet = ICBHI,
) -> tuple[list[Scheme], list[str]]:
    """Cycles table -> the schemes that can be run on it, and a sentence for each that cannot.

    Parameters
    ----------
    cycles
        Cycles table, undivided.
    draws
        Runs of what is drawn at random.
    all_folds
        Whether all folds of patients and of RespireNet are run, or one of each.
    wanted
        Names of schemes, "device" for all of them; empty = all. Errors: a name that is none.
    label_set
        The classes of its labels.
    """
    devices = sorted(set(cycles["device"].dropna()) - {""})
    found = [
        Scheme("official", (("split.name=official",),)),
        Scheme("official_move", (("split.name=official_move",),)),
        Scheme("patients", draw_words("patients", draws)),
        Scheme("folds", fold_words("folds", range(5 if all_folds else 1))),
        *(Scheme(f"device {each}", (("split.name=device", f"split.device={each}"),)) for each in devices),
        Scheme("respirenet", fold_words("respirenet", range(5) if all_folds else [RESPIRENET_FOLD])),
        *(Scheme(name, draw_words(name, draws)) for name in splits.LEAKY),
    ]
    known = list(dict.fromkeys(scheme.name.partition(" ")[0] for scheme in found))
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"--splits {unknown[0]}: expected some of {', '.join(known)}")
    kept: list[Scheme] = []
    notes = []
    for scheme in found:
        if wanted and scheme.name.partition(" ")[0] not in wanted:
            continue
        reason = next(filter(None, (why_impossible(cycles, words, label_set) for words in scheme.runs)), "")
        if scheme.name == "official_move" and not reason and not splits.overlap_patients(cycles):
            reason = "no patient is on both sides of the list, so the repairs change nothing"
        if reason:
            notes.append(f"{scheme.name}: not run; {reason}")
        else:
            kept.append(scheme)
    kept.sort(key=lambda scheme: wanted.index(scheme.name.partition(" ")[0]) if wanted else 0)
    if not kept:
        raise ValueError(f"no split can be run on this data: {'; '.join(notes)}")
    return kept, notes


def draw_words(name: str, draws: int) -> tuple[tuple[str, ...], ...]:
    """Split at random and number of draws -> the settings of each; the first is that of the public loaders."""
    return tuple((f"split.name={name}", f"split.seed={LEADERS_SEED + draw}") for draw in range(draws))


def fold_words(name: str, folds: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Split by folds and the folds that test -> the settings of each run."""
    return tuple((f"split.name={name}", f"split.fold={fold}") for fold in folds)


def divide_for(cycles: pd.DataFrame, words: Sequence[str], *, select: str = "validation") -> pd.DataFrame:
    """Cycles table and the words of a split -> the divided table. Errors: those of `splits.divide_cycles`."""
    return splits.divide_cycles(cycles, set_fields(RunSettings(), parse_words([*words, f"train.select={select}"])))


def why_impossible(cycles: pd.DataFrame, words: Sequence[str], label_set: LabelSet) -> str:
    """-> why the data cannot be divided like that, or what its test side lacks; "" if it can."""
    try:
        divided = divide_for(cycles, words)
    except ValueError as error:
        return str(error)
    for part in ("train", "test"):
        normal = divided.loc[divided["split"] == part, "label"] == label_set.normal
        if normal.nunique() < 2:
            return f"its {part} cycles are all {'' if normal.any() else 'ab'}normal"
    return ""


def plan_runs(
    recipes: Sequence[str], schemes: Sequence[Scheme], seeds: int, fixed: Sequence[str]
) -> tuple[list[Planned], list[str]]:
    """Systems, schemes, seeds and settings -> the runs, and a sentence for each system without a batch scope.

    Of several systems each takes the settings that it has. Errors: settings that the study sets itself, or that no
    system has.
    """
    for word in fixed:
        name, _, value = word.partition("=")
        if name.startswith(OWN_GROUP) or name in OWN:
            raise SettingError(name, "the study sets this itself (splits, --draws, --seeds); leave it out", value)
        if not any(fitting([word], recipe) for recipe in recipes):
            make_recipe(recipes[0], [word])  # says what it is not, and the nearest

    planned, notes = [], []
    for recipe in recipes:
        words = [*fitting(fixed, recipe), "train.select=validation"]
        for scheme in schemes:
            for run in scheme.runs:
                grid = {name: [value] for name, value in parse_words(run).items()}
                planned += [Planned(recipe, scheme.name, trial) for trial in trials(recipe, grid, seeds, words)]
        if all(scheme.name != "official" for scheme in schemes):
            continue
        try:
            of_batch = trials(recipe, {"split.name": ["official"], "audio.scope": ["batch"]}, seeds, words)
        except UsageError as error:
            none = "audio.scope" not in list_fields(find_settings(recipe))
            why = "the system has no min-max of a clip or batch" if none else str(error)
            notes.append(f"{recipe}, {BATCH_SCOPE}: not run; {why}")
        else:
            planned += [Planned(recipe, BATCH_SCOPE, trial) for trial in of_batch]
    return planned, notes


def measure_systems(planned: Sequence[Planned], out: Path) -> tuple[list[Row], list[str]]:
    """Finished runs of the study in a folder -> a row for each system and scheme, and a sentence for each run that is
    missing; a scheme without all of its runs has no row."""
    groups: dict[tuple[str, str], list[Run]] = {}
    missing: dict[tuple[str, str], str] = {}
    for each in planned:
        key = (each.recipe, each.scheme)
        try:
            groups.setdefault(key, []).append(read_run(out / each.trial.name))
        except (OSError, ValueError) as error:
            missing[key] = f"{each.scheme} of {each.recipe}: no figures; {each.trial.name}: {error}"
    rows = [row for key, runs in groups.items() if key not in missing for row in rows_of_runs(*key, runs)]
    return rows, list(missing.values())


def measure_baselines(
    cycles: pd.DataFrame, schemes: Sequence[Scheme], label_set: LabelSet, *, progress: bool = False
) -> list[Row]:
    """Cycles table and schemes -> a row for each baseline and scheme: all folds, several draws."""
    statistics = load_statistics(cycles, progress=progress)
    rows = []
    for scheme in schemes:
        words = baseline_runs(scheme)
        divided = [divide_for(cycles, each, select="last") for each in words]
        shared = sorted({patient for table in divided for patient in splits.overlap_patients(table)})
        for name in BASELINES:
            answers = join_answers([answer_test_cycles(name, statistics, table, label_set) for table in divided])
            rows.append(Row(scheme.name, name, {"fixed": answers}, len(divided), tuple(shared)))
            if scheme.name == "official" and shared:
                rows.append(rows[-1].without_shared_patients("official_drop"))
    return rows


def baseline_runs(scheme: Scheme) -> tuple[tuple[str, ...], ...]:
    """Scheme -> the settings under which a baseline, which costs seconds, is fitted."""
    if scheme.name in ("folds", "respirenet") and len(scheme.runs) == 1:
        return fold_words(scheme.name, range(5))
    if scheme.name == "patients" or scheme.name in splits.LEAKY:
        return draw_words(scheme.name, max(BASELINE_DRAWS, len(scheme.runs)))
    return scheme.runs


def report_protocol(
    planned: Sequence[Planned],
    cycles: pd.DataFrame,
    schemes: Sequence[Scheme],
    label_set: LabelSet,
    out: Path,
    notes: Sequence[str],
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Finished runs in OUT/runs -> the files of `write_protocol` in OUT, and their JSON: page, rows of protocol.csv,
    notes. ValueError: no run has figures."""
    rows, missing = measure_systems(planned, out / "runs")
    if not rows:
        raise ValueError(f"no run of the study has figures: {'; '.join(missing[:3])}")
    rows += measure_baselines(cycles, schemes, label_set, progress=progress)
    whole = is_whole_database(cycles)
    facts = [
        ("Systems", ", ".join(dict.fromkeys(each.recipe for each in planned))),
        ("Runs", str(len(planned))),
        ("Recordings", f"{cycles['recording'].nunique()} of {cycles['patient'].nunique()} patients"),
        ("Whole ICBHI 2017 database", "yes" if whole else "no: not comparable with published scores"),
    ]
    path, table = write_protocol(out, rows, facts, [*notes, *missing])
    records = json.loads(table.to_json(orient="records"))
    return {"page": str(path), "rows": records, "notes": [*notes, *missing]}


def check_classes(recipes: Sequence[str], fixed: Sequence[str]) -> LabelSet:
    """Systems and settings -> the classes that all of them tell apart. Errors: independent ones, or several sets."""
    found = {make_recipe(recipe, fitting(fixed, recipe)).settings.label_set for recipe in recipes}
    label_set: LabelSet = found.pop()
    if found or label_set.independent:
        raise UsageError("rales protocol: its steps need one set of classes that exclude one another")
    return label_set
