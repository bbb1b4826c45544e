"""Search for settings, at random or by a model of what was tried (optuna's TPE), on validation patients alone.

Every trial is an ordinary run with `train.select=validation`; what decides is the best validation figure of its epochs,
and nothing of the test cycles is read here. A trial whose best figure so far is below the median of the others at the
same epoch is stopped. `search.json` holds all that was tried; each next trial follows from it and the seed alone, so a
search that was stopped goes on as if it had not been, and a larger budget continues it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from rales.data import make_portable
from rales.errors import SettingError, UsageError
from rales.files.atomic import lock_folder
from rales.files.json_files import to_jsonable
from rales.files.writers import write_json
from rales.jobs.sweep import Pruned, Trial, name_code_files, on_this_machine, split_values
from rales.optional_packages import require_packages
from rales.progress import progress_bar
from rales.recipes.registry import make_recipe
from rales.registry import RECIPES
from rales.settings import parse_words
from rales.training import run_folder

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Method = Literal["random", "bayesian"]
FEWEST = 4  # trials whose median counts
STARTS = 10  # trials at random before there is a model of them
FILE = "search.json"
DECIDING = ("seed", "classes", "independent", "train.select", "train.select_by", "train.validation_share")
"""Settings that a space must not vary, like those of `split`: figures of different patients or classes, or of another
kind, do not compare."""


@dataclass(frozen=True)
class Tried:
    """One trial and what came of it."""

    name: str
    values: dict[str, Any]
    state: Literal["done", "pruned", "failed"]
    figures: dict[str, float] = field(default_factory=dict)
    """Epoch -> validation figure."""
    seconds: float = 0.0
    error: str = ""

    @property
    def best(self) -> float:
        """The highest figure, NaN without one."""
        return max(self.figures.values(), default=math.nan)


@dataclass(frozen=True)
class StopBelowMedian:
    """Called after every epoch: raises Pruned where the best validation figure so far is below the median of others."""

    figure: str
    medians: dict[int, float]
    """Epoch -> median of the best figures that other trials had by then."""
    seen: list[float] = field(default_factory=list)

    def __call__(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["split"] == "validation":
                self.seen.append(line[self.figure])
                threshold = self.medians.get(line["epoch"], -math.inf)
                if max(self.seen) < threshold:
                    raise Pruned(
                        f"epoch {line['epoch']}: {max(self.seen):.3f}, the median of others is {threshold:.3f}"
                    )


def search_settings(
    recipe: str,
    space: Sequence[str],
    data: Path,
    out: Path,
    *,
    method: Method,
    budget: int,
    fixed: Sequence[str] = (),
    seed: int = 0,
    skip_damaged: bool = False,
    command: str = "",
    progress: bool = False,
) -> dict[str, Any]:
    """Recipe, `--space` words, data -> what search.json holds: `tried` in order and `best`, of `budget` trials in all.

    OUT/runs holds the run folders. Errors: no optuna, a space or setting that the recipe does not have, a seed or
    choice of the epoch among the fixed ones, another search in the folder or one of other settings.
    """
    require_packages("a search for settings", "tune", "optuna")
    if budget < 1:
        raise UsageError(f"--budget {budget}: expected 1 trial or more")
    known = parse_words(fixed)
    if "seed" in known:
        raise SettingError("seed", f"all trials of a search have one seed, {seed}; leave it out", known["seed"])
    if (select := known.pop("train.select", "validation")) != "validation":
        raise SettingError("train.select", "a search chooses by validation patients; leave it out", select)
    words = [*(f"{name}={value}" for name, value in known.items()), "train.select=validation"]
    made = make_recipe(recipe, words).settings
    distributions = parse_space(space)
    for name, distribution in distributions.items():  # what the recipe does not have, or not so large, is said now
        for value in ends_of(distribution):
            make_recipe(recipe, [*words, f"{name}={value}"])
    figure = made.train.select_by
    word, fixed = RECIPES.make_portable(recipe), name_code_files(words, made)
    settings = to_jsonable(
        {
            "recipe": word,
            "fixed": fixed,
            "space": sorted(space),
            "method": method,
            "seed": seed,
            "figure": f"validation {figure}",
        }
    )

    data, out = make_portable(data), out.resolve()
    with lock_folder(out):
        tried = read_tried(out, settings)
        bar = progress_bar(
            range(len(tried), budget), shown=progress, log_every_s=0, initial=len(tried), total=budget, desc="search"
        )
        for number in bar:
            values = ask(distributions, tried, method, seed)
            chosen = [f"{name}={value}" for name, value in values.items()]
            trial = Trial(f"trial{number + 1:03d}", word, (*fixed, *chosen, f"seed={seed}"))
            seen = list(read_validation(out / "runs" / trial.name, figure).values())  # of a trial that was interrupted
            stop = StopBelowMedian(figure, medians_by_epoch(tried, made.train.epochs), seen)
            tried.append(run_one(trial, values, (data, out / "runs", skip_damaged, command, (), stop), figure))
            write_json(out / FILE, document_of(settings, command, tried))
    return document_of(settings, command, tried)


def parse_space(words: Sequence[str]) -> "dict[str, BaseDistribution]":
    """`name=low..high`, `name=low..high,log` and `name=a,b,c` words -> setting -> its distribution; whole numbers where
    both ends are. Errors: anything else, a setting named twice, one that decides what trials are compared by."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not name or not equals or not text or name in found:
            raise UsageError(
                f"--space {word}: expected name=low..high, name=low..high,log or name=a,b,c, each name once"
            )
        if name in DECIDING or name.startswith("split."):
            raise UsageError(f"--space {word}: decides what the trials are compared by, which is one for all of them")
        low, dots, high = text.removesuffix(",log").partition("..")
        if not dots:
            choices = split_values(text, f"--space {word}")
            if len(set(choices)) < len(choices):
                raise UsageError(f"--space {word}: name every value once")
            found[name] = CategoricalDistribution(choices)
            continue
        try:
            whole = all(re.fullmatch(r"[-+]?\d+", end) for end in (low, high))
            log = text.endswith(",log")
            if whole:
                found[name] = IntDistribution(int(low), int(high), log=log)
            else:
                found[name] = FloatDistribution(float(low), float(high), log=log)
        except ValueError as error:
            raise UsageError(f"--space {word}: {error}") from error
    if not found:
        raise UsageError("a search needs --space name=low..high for at least one setting")
    return found


def ends_of(distribution: "BaseDistribution") -> list[Any]:
    """-> all choices, or both ends."""
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices is not None else [distribution.low, distribution.high]  # type: ignore[attr-defined]


def ask(space: "Mapping[str, BaseDistribution]", tried: Sequence[Tried], method: Method, seed: int) -> dict[str, Any]:
    """Space and what was tried -> the settings to try next; the same for the same past and seed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = seed + len(tried)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=number)
    if method == "bayesian":
        sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=STARTS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for each in tried:
        if math.isfinite(each.best):
            study.add_trial(
                optuna.trial.create_trial(
                    params=each.values,
                    distributions=dict(space),
                    value=each.best if each.state == "done" else None,
                    state=optuna.trial.TrialState.COMPLETE if each.state == "done" else optuna.trial.TrialState.PRUNED,
                    intermediate_values={int(epoch): figure for epoch, figure in each.figures.items()},
                )
            )
    return study.ask(dict(space)).params


def medians_by_epoch(tried: Sequence[Tried], epochs: int) -> dict[int, float]:
    """-> epoch -> median of the best figures that trials had by then, where enough of them tell; not of the first
    quarter, when little is decided."""
    found = {}
    for epoch in range(max(1, epochs // 4), epochs):
        best = [
            max(figure for number, figure in each.figures.items() if int(number) <= epoch)
            for each in tried
            if str(epoch) in each.figures
        ]
        if len(best) >= FEWEST:
            found[epoch] = median(best)
    return found


def run_one(trial: Trial, values: dict[str, Any], job: tuple[Any, ...], figure: str) -> Tried:
    """Trial, its settings and what `run_trial` needs -> the trial with the validation figures of its epochs."""
    with closing(on_this_machine([trial], job, 1)) as jobs:
        (outcome,) = jobs
    folder = job[1] / trial.name
    figures = read_validation(folder, figure) if outcome.state != "failed" else {}
    state = outcome.state if figures else "failed"
    error = outcome.error or ("" if figures else f"no validation {figure}: are there enough patients?")
    return Tried(trial.name, values, state, figures, round(outcome.seconds, 1), error)  # type: ignore[arg-type]


def read_validation(folder: Path, figure: str) -> dict[str, float]:
    """Run folder -> epoch -> figure of its validation cycles; lines of other parts are not looked at."""
    lines = [line for line in run_folder.read_metrics(folder) if line["split"] == "validation"]
    return {str(line["epoch"]): line[figure] for line in lines if isinstance(line.get(figure), float)}


def read_tried(out: Path, settings: Mapping[str, Any]) -> list[Tried]:
    """Folder of a search -> what was tried; an empty or new one gives none. Errors: one of other settings, or that
    holds something else."""
    path = out / FILE
    if not path.exists():
        if found := run_folder.unexpected_files(out):
            raise ValueError(f"{out}: no search, but it holds {', '.join(found[:3])}; choose an empty --out")
        write_json(path, document_of(settings, "", []))
        return []
    stored = run_folder.read_json(path)
    there = stored.get("settings", {})
    for name, value in settings.items():
        if there.get(name) != value:
            raise ValueError(
                f"{out}: holds a search of other settings ({name} is {there.get(name)!r} there, {value!r} here); "
                "choose another --out or remove the folder"
            )
    return [Tried(**each) for each in stored["tried"]]


def document_of(settings: Mapping[str, Any], command: str, tried: Sequence[Tried]) -> dict[str, Any]:
    """-> search.json; `best` is the finished trial of the highest figure."""
    finished = [each for each in tried if each.state == "done"]
    best = max(finished, key=lambda each: each.best, default=None)
    return {
        "settings": dict(settings),
        "command": command,
        "best": None if best is None else {**asdict(best), "figure": best.best},
        "tried": [asdict(each) for each in tried],
    }
