"""Train on one database, test on another: systems and models on every data given, a figure for each pair.

The test side of a database is the same for all that are tested there: that of its own list without patients who train
too, or, where it has no list, the patients whom a draw of 60 to 40 leaves. A database whose recordings are labelled as
a whole (KAUH) can only be tested on, recording by recording.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rales.data import read_contents, split_reader, splits
from rales.data.reader import Findings, cycles_table, labels_recordings_alone, recordings_table, refuse_damage
from rales.errors import UsageError, count_noun
from rales.files.atomic import lock_folder
from rales.files.json_files import read_json, to_jsonable
from rales.files.writers import write_json
from rales.inference.evaluate import evaluate_cycles, evaluate_recordings
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.jobs.protocol import divide_for
from rales.jobs.reproduce import fitting
from rales.jobs.sweep import Trial, run, trials
from rales.labels import LabelSet
from rales.models import hub, model_hub
from rales.progress import progress_bar
from rales.recipes.registry import make_recipe
from rales.registry import RECIPES
from rales.report.cross_table import write_cross

AS_IT_IS = "as it is"  # of a model that was there before
FLATTERS = " (epoch chosen on the test side)"  # behind its name, wherever a figure of it stands
MOST_NAMES = 5  # of patients in a note


@dataclass(frozen=True)
class Database:
    """One of the data that is trained and tested on."""

    name: str
    path: Path
    tests: pd.DataFrame
    """Its test cycles, or whole recordings."""
    train: pd.DataFrame
    """Its training cycles; empty where only whole recordings are labelled."""
    split: tuple[str, ...] = ()
    """`name=value` words of its split."""

    @property
    def digest(self) -> str:
        """Which rows are tested, with whose labels and patients."""
        rows, known = self.tests, ["recording", "patient"]
        if not self.split:  # whole recordings
            rows, known = rows.assign(start_s=0.0, end_s=0.0, label=""), [*known, *Findings._fields]
        told = rows[known].sort_values(known).to_csv(index=False)
        return hashlib.sha256(f"{splits.digest_cycles(rows)}{told}".encode()).hexdigest()


@dataclass(frozen=True)
class Tested:
    """A row of the matrix: a model, and whose patients trained it."""

    system: str
    model: str
    """What `load_model` takes."""
    trained_on: Database | None = None
    """None of a model that was there before."""


def is_model(word: str) -> bool:
    """Word of the command -> whether it is a trained model, and not a system to train."""
    if word in RECIPES.list_names():
        return False
    return word in hub.SHIPPED or model_hub.is_on_hub(word) or Path(word).exists()


def check_systems(systems: Sequence[str], fixed: Sequence[str]) -> LabelSet:
    """Systems and models, settings -> the classes that all of them tell apart. Errors: classes that differ, settings
    that no system has, or that the study sets itself."""
    recipes = [word for word in systems if not is_model(word)]
    for word in fixed:
        if word.startswith("split."):
            raise UsageError(f"--set {word}: each data is divided by its own list, or by patients; leave it out")
        if not any(fitting([word], recipe) for recipe in recipes):
            if not recipes:
                raise UsageError(f"--set {word}: is of systems to train, and {', '.join(systems)} is trained already")
            make_recipe(recipes[0], [word])  # says what it is not, and the nearest

    found = {
        word: load_model(word).label_set
        if is_model(word)
        else make_recipe(word, fitting(fixed, word)).settings.label_set
        for word in systems
    }
    first = found[systems[0]]
    for word, label_set in found.items():
        if label_set != first:
            raise UsageError(
                f"{word} tells apart {', '.join(label_set.classes)}, and {systems[0]} {', '.join(first.classes)}: one "
                "table has one set of classes; ask for them one by one"
            )
    return first


def read_databases(paths: Sequence[Path], label_set: LabelSet, *, skip_damaged: bool = False) -> list[Database]:
    """Folders or tables -> what is trained and tested on in each. Errors: fewer than two, damaged data, labels of other
    classes, data without a test side."""
    if len(paths) < 2:
        raise UsageError("--data: give it twice or more, once for each data; `rales evaluate` tests on one")
    found: list[Database] = []
    for path in paths:
        base, taken = split_reader(path)[1].resolve().name, {each.name for each in found}
        name = next(each for each in [base, *(f"{base}-{n}" for n in range(2, len(paths) + 1))] if each not in taken)
        found.append(read_database(name, path, label_set, skip_damaged=skip_damaged))
    return found


def read_database(name: str, path: Path, label_set: LabelSet, *, skip_damaged: bool) -> Database:
    """Name and place of data -> what is trained and tested on in it."""
    contents = read_contents(path, audio=True, decode=skip_damaged, label_set=label_set)
    if labels_recordings_alone(contents):
        if not label_set.is_icbhi:
            raise UsageError(
                f"{path}: labels of whole recordings by crackles and wheezes, and systems of "
                f"{', '.join(label_set.classes)}; leave it out"
            )
        refuse_damage(contents, skip_damaged=skip_damaged, needs_split=False)
        rows = recordings_table(contents)
        return Database(name, path, rows, rows[:0])

    is_divided = {"train", "test"} <= {recording.split for recording in contents.recordings}
    cycles = cycles_table(contents, skip_damaged=skip_damaged, audio=True, needs_split=is_divided, label_set=label_set)
    words = ("split.name=official_drop",) if is_divided else ("split.name=patients",)
    try:
        divided = divide_for(cycles, words, select="last")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    test, train = (divided[divided["split"] == side].reset_index(drop=True) for side in ("test", "train"))
    return Database(name, path, test, train, words)


def plan_cross(systems: Sequence[str], databases: Sequence[Database], fixed: Sequence[str], out: Path) -> list[Tested]:
    """Systems and models, data, settings, folder of the study -> the rows of the matrix; the runs of a system lie in
    OUT/runs/DATA. Errors: systems to train, and no data with labelled cycles."""
    rows = []
    for word in systems:
        if is_model(word):
            rows.append(Tested(word, word))
            continue
        for each in databases:
            if each.split:
                [trial] = plan_runs([word], each, fixed)
                rows.append(Tested(word, str(out / "runs" / each.name / trial.name), each))
    if not rows:
        raise UsageError(f"{', '.join(systems)}: none of the data has labelled cycles to train on; give some that has")
    return rows


def plan_runs(systems: Sequence[str], database: Database, fixed: Sequence[str]) -> list[Trial]:
    """Systems, data, settings -> the runs on it."""
    words = [trials(word, {}, 1, [*fitting(fixed, word), *database.split]) for word in systems if not is_model(word)]
    return [trial for [trial] in words]


def run_cross(
    systems: Sequence[str],
    databases: Sequence[Database],
    fixed: Sequence[str],
    out: Path,
    *,
    processes: int | None = None,
    skip_damaged: bool = False,
    command: str = "",
    progress: bool = False,
) -> dict[str, Any]:
    """Train what is to be trained, test everything everywhere, write the files of `write_cross`.

    Finished runs in OUT/runs and answers in OUT/answers are kept, so that a second call does only what is missing.

    Parameters
    ----------
    systems
        Recipes and models; those of one set of classes (`check_systems`).
    databases
        Of `read_databases`.
    fixed
        `name=value` words of the settings; each system takes those that it has.
    out
        Folder of the study.
    processes
        Runs at a time.
    skip_damaged
        As the data were read.
    command
        What the records of the runs call it.
    progress
        Whether bars are shown.

    Returns
    -------
    dict
        `rows` of cross.csv, `notes`, `failed` runs with their reasons, `page`.
    """
    rows = plan_cross(systems, databases, fixed, out)
    failed: list[str] = []
    for each in databases:
        if each.split and (planned := plan_runs(systems, each, fixed)):
            folder = out / "runs" / each.name
            settings: dict[str, Any] = {"processes": processes, "skip_damaged": skip_damaged, "command": command}
            outcomes = run(planned, each.path, folder, progress=progress, **settings)
            failed += [f"{one.name} on {each.name}: {one.error}" for one in outcomes if one.state == "failed"]

    cells = [(row, database) for row in rows for database in databases if is_trained(row)]
    with lock_folder(out):
        bar = progress_bar(cells, shown=progress, log_every_s=0, total=len(cells), desc="cross", unit="test")
        records = [test_row(row, database, out / "answers") for row, database in bar]
    if not records:
        raise ValueError(f"no run of the study was finished: {'; '.join(failed)}")
    trained_on = {row.trained_on.name: row.trained_on for row in rows if row.trained_on}
    notes = [note for each in trained_on.values() for note in find_shared(each, databases)]
    return write_cross(out, records, [*notes, *filter(None, map(doubt_cell, records))], failed)


def is_trained(row: Tested) -> bool:
    """Whether its model is there; the runs that failed are not."""
    return row.trained_on is None or (Path(row.model) / "done").exists()


def test_row(row: Tested, database: Database, folder: Path) -> dict[str, Any]:
    """Model, data, folder of answers -> the record of their cell, from a file of that folder if it is of this model and
    these rows."""
    model = load_model(row.model)
    own = row.trained_on.name if row.trained_on else AS_IT_IS
    place = folder / re.sub(r"[^\w.+-]+", "_", f"{row.system}-{own}-{database.name}.json")
    key = {"model_digest": model.digest, "data_digest": database.digest}
    try:
        stored = read_json(place)
    except (OSError, ValueError):  # not there, or damaged: it is made anew
        stored = {}
    if not isinstance(stored, dict) or any(stored.get(name) != value for name, value in key.items()):
        stored = to_jsonable({**test_model(model, database), **key})
        folder.mkdir(parents=True, exist_ok=True)
        write_json(place, stored)

    flatters = FLATTERS if model.recipe.settings.train.select == "test_best" else ""
    about = {"system": row.system + flatters, "trained_on": own, "tested_on": database.name}
    return {**about, "own": row.trained_on is database, **read_figures(stored)}


def test_model(model: Predictor, database: Database) -> dict[str, Any]:
    """-> the figures of `rales evaluate` on the test side."""
    if database.split:
        return evaluate_cycles(model, database.tests, part="test")
    return evaluate_recordings(model, database.tests)


def read_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Figures of an evaluation -> what a cell shows: fractions with their 95 % intervals, None where there is none."""
    protocol, told = found["protocol"], found.get("detection") or found.get("recordings") or {}
    unit = "cycles" if "cycles" in protocol else "recordings"
    record: dict[str, Any] = {"unit": unit, "tested": protocol[unit], "patients": protocol["patients"]}
    for name in ("specificity", "sensitivity", "score"):
        low, high = (found.get("ci95") or {}).get(name, (None, None))
        record |= {name: found.get(name), f"{name}_low": low, f"{name}_high": high}
    for name in ("abnormal", "crackle", "wheeze"):
        one = told.get(name) or {}
        low, high = one.get("ci95") or (None, None)
        record |= {f"auroc_{name}": one.get("auroc"), f"auroc_{name}_low": low, f"auroc_{name}_high": high}
    heard = protocol.get("cycles_trained_on")
    return record | {"trained_rows": heard, "constant": found.get("constant_prediction")}


def doubt_cell(record: dict[str, Any]) -> str:
    """Record of a cell -> what must be known of its figures; "" of nothing."""
    cell = f"{record['system']}, trained on {record['trained_on']}, tested on {record['tested_on']}"
    if record["trained_rows"]:
        return f"{cell}: {record['trained_rows']} of what is tested trained this model"
    return f"{cell}: everything is called {record['constant']}" if record["constant"] else ""


def find_shared(trained: Database, databases: Sequence[Database]) -> list[str]:
    """Data that a model was trained on, all data -> a sentence for each other one that tests patients, or recordings,
    of the same name."""
    notes = []
    for other in databases:
        if other is trained:
            continue
        patients, recordings = (sorted(set(trained.train[c]) & set(other.tests[c])) for c in ("patient", "recording"))
        if patients:
            names = ", ".join(patients[:MOST_NAMES]) + (" …" if len(patients) > MOST_NAMES else "")
            notes.append(
                f"{trained.name} trains and {other.name} tests {count_noun(len(patients), 'patient')} of the same name "
                f"({names}), and {count_noun(len(recordings), 'recording')}: if they are the same people, that "
                "figure is not of strangers"
            )
    return notes
