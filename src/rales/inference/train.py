"""Train a system from Python: what `rales train` does with the same words, on a folder, a file or a table."""

import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from rales.data import read_cycles, splits
from rales.errors import UsageError
from rales.files.settings_file import SettingsFile, read_settings_file
from rales.labels import ICBHI, LabelSet
from rales.recipes.registry import find_settings, make_recipe
from rales.settings import format_value, list_fields
from rales.training.callbacks import make_callbacks

Table = str | Path | pd.DataFrame
log = logging.getLogger(__name__)


def train_recipe(
    recipe: str | None,
    data: Table,
    out: str | Path,
    *,
    config: str | Path | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """See `rales.train`. Data without test rows that a trained model goes on with are split by folds of patients."""
    file = read_settings_file(config) if config is not None else SettingsFile(Path(), {}, {})
    known = list_known_fields(recipe, settings.get("from_model") or file.values.get("from_model"))
    file = file.rename(lambda name: expand_name(name, known))
    own = {expand_name(name, known): value for name, value in settings.items() if value is not None}
    asked = file.values | {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
    with file.name_lines():
        chosen = make_recipe(recipe, asked)
    for note in file.leave_to([f"{name}={format_value(value)}" for name, value in asked.items()])[1]:
        log.warning("%s", note)
    watched = {"callbacks": make_callbacks(callbacks)} if callbacks else {}
    undecided = bool(chosen.settings.from_model) and "split.name" not in asked
    label_set = chosen.settings.label_set
    cycles = read_table(data, label_set, needs_split=not undecided and splits.needs_list(chosen.settings.split.name))

    if undecided and (cycles["split"] == "test").any():
        cycles = read_table(data, label_set)  # now what is wrong with its split counts, too
    elif undecided:
        folds = {"split.name": "folds", "split.folds": min(5, max(cycles["patient"].nunique(), 2))}
        chosen = make_recipe(recipe, {**folds, **asked})
    figures: dict[str, Any] = chosen.run(chosen, cycles, Path(out), progress=progress, **watched)
    return figures


def list_known_fields(recipe: str | None, start: Any) -> Collection[str]:
    """Recipe, or the trained model that goes on -> the dotted names of its settings."""
    kind = find_settings(recipe) if recipe and not start else type(make_recipe(recipe, {"from_model": start}).settings)
    return list_fields(kind)


def expand_name(keyword: str, known: Collection[str]) -> str:
    """Keyword -> dotted name: `lr` and `train__lr` are train.lr. Errors: the last part of several names."""
    name = keyword.replace("__", ".")
    same = [field for field in known if field.rpartition(".")[2] == name]
    if name not in known and len(same) > 1:
        raise UsageError(f"{keyword}: could be {' or '.join(same)}; write {same[0].replace('.', '__')}")
    return same[0] if name not in known and same else name


def read_table(data: Table, label_set: LabelSet = ICBHI, *, needs_split: bool = True) -> pd.DataFrame:
    """Folder, file, or a table as a manifest has it (path, start_s, end_s, label, …) -> the cycles table with labels of
    the set.

    Errors: as of `rales.data.read_cycles`; the lines of a table are counted from 2.
    """
    with table_file(data) as path:
        return read_cycles(path, needs_split=needs_split, label_set=label_set)


@contextmanager
def table_file(data: Table) -> Iterator[str | Path]:
    """Folder, file, or a table as a manifest has it -> its path, which of a table is there inside `with` alone."""
    if not isinstance(data, pd.DataFrame):
        yield data
        return
    if "path" in data:
        data = data.assign(path=[str(Path(str(path)).expanduser().absolute()) for path in data["path"]])
    with tempfile.TemporaryDirectory() as folder:
        data.to_csv(Path(folder) / "table.csv", index=False)
        yield Path(folder) / "table.csv"
