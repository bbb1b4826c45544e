"""Many runs: a grid of recipe options and seeds -> ordinary run folders, on this machine or on Ray.

A trial is what `rales train` would do with the same words; its folder looks the same wherever it ran. `sweep.json`
beside the run folders says what became of each trial.
"""

import itertools
import os
import re
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rales import parallel, slurm
from rales.data import make_portable, read_cycles, splits
from rales.data.splits import digest_cycles
from rales.errors import SettingError, UsageError
from rales.files.atomic import lock_folder
from rales.files.writers import write_json
from rales.jobs.linear_probe import name, subsets
from rales.progress import progress_bar
from rales.recipes.registry import make_recipe
from rales.registry import RECIPES
from rales.settings import RunSettings, format_value, get_values, parse_words, to_dict
from rales.training import finetune, run_folder
from rales.training.callbacks import make_callbacks
from rales.training.run_records import check_record

AfterEpoch = Callable[[list[dict[str, Any]]], None]  # lines of metrics.jsonl of one epoch


@dataclass(frozen=True)
class Trial:
    """One run: the recipe's name and the `name=value` words that make it."""

    name: str
    recipe: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: "done", "skipped" (done before), "waiting", "pruned" (others did better on validation),
    or "failed" with a sentence and a trace."""

    name: str
    state: str
    seconds: float = 0.0
    error: str = ""
    trace: str = ""


def grid_of(words: Sequence[str]) -> dict[str, list[str]]:
    """`option=a,b` words -> option -> values. A list inside brackets is one value: `model.layers=[5,11],[12]`."""
    grid: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise UsageError(f"--grid {word}: expected option=value,value, for example variant=vanilla,all_learned")
        found = split_values(values, f"--grid {word}")
        if name in grid or name == "seed" or len(set(found)) < len(found):
            raise UsageError(f"--grid {word}: name every option once, every value once, and seeds with --seeds")
        grid[name] = found
    return grid


def split_values(values: str, origin: str) -> list[str]:
    """`a,[b,c]` -> its values, those in brackets together. Errors, which begin with `origin`: a half bracket."""
    found = re.findall(r"\[[^][]*\]|[^][,]+", values)
    if ",".join(found) != values:
        raise UsageError(f"{origin}: a bracket without its other half, or an empty value")
    return found


def trials(recipe: str, grid: Mapping[str, Sequence[str]], seeds: int, fixed: Sequence[str] = ()) -> list[Trial]:
    """Recipe, grid and number of seeds -> every combination, named by what it varies.

    Every trial is built once here, so that an unknown option stops the sweep before it starts.
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: expected 1 or more")
    if "seed" in (known := parse_words(fixed)):
        raise SettingError("seed", "the seeds of a sweep are 0, 1, …, so many as --seeds says", known["seed"])
    found = []
    word = RECIPES.make_portable(recipe)
    for chosen in combinations(recipe, grid, fixed):
        made = make_recipe(recipe, [*fixed, *chosen])
        words = name_code_files([*fixed, *chosen], made.settings)
        for seed in range(seeds):
            title = "-".join([made.name, *(re.sub(r"[^\w.=+]+", "_", short(word)) for word in chosen), f"seed{seed}"])
            found.append(Trial(title, word, (*words, f"seed={seed}")))
    names = [trial.name for trial in found]
    if len(set(names)) < len(names):
        raise UsageError(f"two trials would share the folder {next(n for n in names if names.count(n) > 1)}")
    return found


def name_code_files(words: Sequence[str], settings: RunSettings) -> list[str]:
    """Words, and the settings made of them -> the same words, in which a worker in another folder finds files of
    code and the model that a run goes on from."""
    values = get_values(settings)
    if values.get("from_model") and Path(values["from_model"]).exists():
        values["from_model"] = str(Path(values["from_model"]).resolve())
    names = [word.partition("=")[0].strip() for word in words]
    return [
        f"{name}={format_value(values[name])}" if name in ("encoder", "train.metrics", "from_model") else word
        for name, word in zip(names, words, strict=True)
    ]


def combinations(recipe: str, grid: Mapping[str, Sequence[str]], fixed: Sequence[str]) -> Iterator[list[str]]:
    """Grid -> the words of each combination; named sets of layers follow the depth of what the other words choose."""
    others = {name: values for name, values in grid.items() if name != "model.layers"}
    for values in itertools.product(*others.values()):
        chosen = [f"{name}={value}" for name, value in zip(others, values, strict=True)]
        if "model.layers" not in grid:
            yield chosen
            continue
        depth = get_values(make_recipe(recipe, [*fixed, *chosen]).settings)["model.depth"]
        yield from ([*chosen, f"model.layers={layers}"] for layers in layer_sets(grid["model.layers"], depth))


def layer_sets(values: Sequence[str], depth: int) -> list[str]:
    """Values of `model.layers` -> the same with "singles", "pairs", "triples" and "subsets" (all sets) written
    out for an encoder of that depth."""
    sizes: dict[str, list[int] | None] = {"singles": [1], "pairs": [2], "triples": [3], "subsets": None}
    found: list[str] = []
    for value in values:
        named = sorted(subsets(depth, sizes[value])) if value in sizes else None
        found += [value] if named is None else [f"[{name(subset).replace('+', ',')}]" for subset in named]
    return list(dict.fromkeys(found))


def short(word: str) -> str:
    """ "weights=/a/folder/m2d-mr7/checkpoint-300.pth" -> "weights=m2d-mr7/checkpoint-300.pth", for a folder's name."""
    name, equals, value = word.partition("=")
    return name + equals + "/".join(Path(value).parts[-2:])


def run(
    planned: Sequence[Trial],
    data: Path,
    out: Path,
    *,
    engine: str = "local",
    processes: int | None = None,
    address: str | None = None,
    sbatch: Sequence[str] = (),
    log: Sequence[str] = (),
    skip_damaged: bool = False,
    command: str = "",
    progress: bool = False,
) -> list[Outcome]:
    """Trials -> their outcomes, in the order of the trials; OUT holds a run folder for each and `sweep.json`.

    Finished trials are skipped, unfinished ones go on, failed ones are tried again. A trial that raises or whose
    process is killed does not stop the others. `engine` is "local" (`processes` at a time, one thread each) or "ray"
    (the cluster at `address`, or one started here) or "slurm" (jobs with the `sbatch` options); data and out must be on
    a file system that all nodes share. `log` names trackers (rales.training.trackers) that every run is logged to.
    Errors: another sweep is at work in the folder.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    data, out = make_portable(data), out.resolve()
    made = {trial.name: make_recipe(trial.recipe, trial.words).settings for trial in planned}
    needs_split = any(splits.needs_list(settings.split.name) for settings in made.values())
    read = cache(partial(read_cycles, data, skip_damaged=skip_damaged, needs_split=needs_split))
    with lock_folder(out):
        tables = {name: read(label_set=settings.label_set) for name, settings in made.items()}
        outcomes = {
            trial.name: Outcome(trial.name, "skipped")
            for trial in planned
            if is_finished(trial, out / trial.name, tables[trial.name])
        }
        waiting = [trial for trial in planned if trial.name not in outcomes]
        for name in outcomes:
            run_folder.clear_leftovers(out / name)
        # closed also after Ctrl-C, when the trials would go on to their end
        job = (data, out, skip_damaged, command, tuple(log))
        with closing(ENGINES[engine](waiting, job, processes, address, sbatch)) as jobs:
            bar = progress_bar(jobs, shown=progress, log_every_s=0, total=len(waiting), desc="sweep", unit="run")
            for outcome in bar:
                outcomes[outcome.name] = outcome
                write_json(out / "sweep.json", summary(planned, outcomes, command))
        write_json(out / "sweep.json", summary(planned, outcomes, command))
    return [outcomes[trial.name] for trial in planned]


def is_finished(trial: Trial, folder: Path, cycles: pd.DataFrame) -> bool:
    """Whether the folder holds the finished run of this very trial; one of other settings or data is left to fail."""
    if not (folder / "done").exists():
        return False
    try:
        stored, recipe = run_folder.read_json(folder / "config.json"), make_recipe(trial.recipe, trial.words)
        check_record(stored, folder / "config.json")
        table = splits.divide_cycles(cycles, recipe.settings)
        same_data = stored["split"]["digest"] == digest_cycles(table[table["split"] != ""])
        asked = {"recipe_source": recipe.source, "config": to_dict(recipe.settings)}
        there = {**stored, **stored.get("asked", {})}  # the last of several stages has numbers of its own
        section = type(recipe.settings)
        return same_data and not run_folder.find_differences(asked, there, ("recipe_source", "config"), section)
    except (
        ValueError,
        OSError,
        KeyError,
        TypeError,
    ):  # a damaged folder, or no such part of the data: the trial itself says so
        return False


def summary(planned: Sequence[Trial], outcomes: Mapping[str, Outcome], command: str) -> dict[str, Any]:
    """-> sweep.json."""
    rows = []
    for trial in planned:
        outcome = outcomes.get(trial.name, Outcome(trial.name, "waiting"))
        rows.append({**vars(trial), **vars(outcome)})
    return {"command": command, "trials": rows}


class Pruned(Exception):
    """A trial is stopped, as others were better by this epoch."""


def run_trial(
    trial: Trial,
    data: Path,
    out: Path,
    skip_damaged: bool,
    command: str,
    log: Sequence[str] = (),
    after_epoch: AfterEpoch | None = None,
) -> Outcome:
    """One trial in this process, on one thread -> its outcome; nothing is raised. `after_epoch` may raise Pruned; of
    systems that train in stages it is not asked."""
    started = time.perf_counter()
    torch.set_num_threads(1)  # spinning threads of several trials on the same cores stop each other
    try:
        recipe = make_recipe(trial.recipe, trial.words)
        needs_split = splits.needs_list(recipe.settings.split.name)
        label_set = recipe.settings.label_set
        cycles = read_cycles(data, skip_damaged=skip_damaged, needs_split=needs_split, label_set=label_set)
        watched: dict[str, Any] = {"callbacks": make_callbacks(log)} if log else {}
        watched |= {"after_epoch": after_epoch} if after_epoch and recipe.run is finetune.run else {}
        recipe.run(recipe, cycles, out / trial.name, command=command, **watched)
    except Pruned as stopped:
        return Outcome(trial.name, "pruned", time.perf_counter() - started, str(stopped))
    except Exception as error:
        return Outcome(trial.name, "failed", time.perf_counter() - started, str(error), traceback.format_exc())
    return Outcome(trial.name, "done", time.perf_counter() - started)


def on_this_machine(
    waiting: Sequence[Trial],
    job: tuple[Any, ...],
    processes: int | None,
    address: str | None = None,
    sbatch: Sequence[str] = (),
) -> Generator[Outcome]:
    """Trials on this machine, each in a process of its own: one that is killed takes no other with it."""
    refuse_options({"--address": address, "--sbatch": sbatch})
    gpus = [{"CUDA_VISIBLE_DEVICES": name} for name in visible_gpus()]  # trials take turns on them
    begun = dict[str, float]()
    found = parallel.run_in_processes(
        run_trial,
        time_starts(waiting, begun),
        job,
        processes=at_once(processes),
        process_per_task=True,
        environments=gpus,
    )
    yield from outcomes(found, begun)


def visible_gpus() -> list[str]:
    """-> names of the GPUs that this process may use."""
    count, allowed = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return allowed.split(",")[:count] if allowed else [str(number) for number in range(count)]


def at_once(processes: int | None) -> int:
    """-> trials at a time on this machine: as many as asked for, else one on each GPU, else one on each processor."""
    return processes or torch.cuda.device_count() or os.cpu_count() or 1


def refuse_options(given: Mapping[str, Any]) -> None:
    """Options of another engine, and what they say. Errors: UsageError if one says something."""
    engines = {"--address": "ray", "--sbatch": "slurm"}
    if wrong := [name for name, value in given.items() if value]:
        raise UsageError(f"{wrong[0]}: is of --engine {engines[wrong[0]]}; add that, or leave it out")


def on_ray(
    waiting: Sequence[Trial], job: tuple[Any, ...], processes: int | None, address: str | None, sbatch: Sequence[str]
) -> Generator[Outcome]:
    """Trials as Ray tasks, one processor (and one GPU where the cluster has some) each."""
    refuse_options({"--sbatch": sbatch})
    if waiting:
        begun = dict[str, float]()
        planned = time_starts(waiting, begun)
        found = parallel.run_on_ray(run_trial, planned, job, processes=processes, address=address)
        yield from outcomes(found, begun, "Ray: ")


def on_slurm(
    waiting: Sequence[Trial], job: tuple[Any, ...], processes: int | None, address: str | None, sbatch: Sequence[str]
) -> Generator[Outcome]:
    """Trials as jobs of Slurm; their logs are in OUT/slurm."""
    refuse_options({"--address": address})
    if waiting:
        begun, (_, out, *_) = dict[str, float](), job
        planned = time_starts(waiting, begun)
        found = slurm.run_on_slurm(run_trial, planned, job, folder=out / "slurm", options=sbatch, processes=processes)
        yield from outcomes(found, begun, "Slurm: ")


def time_starts(waiting: Iterable[Trial], begun: dict[str, float]) -> Iterator[Trial]:
    """Trials -> the same; when each was taken is put into `begun`."""
    for trial in waiting:
        begun[trial.name] = time.perf_counter()
        yield trial


def outcomes(found: Generator[tuple[Trial, Any]], begun: Mapping[str, float], prefix: str = "") -> Generator[Outcome]:
    """Trials, each with its outcome or with the error of a worker that is gone, and when they began -> outcomes."""
    with closing(found):
        for trial, result in found:
            if isinstance(result, Exception):
                sentence = str(result).strip().partition("\n")[0]
                seconds = time.perf_counter() - begun[trial.name]
                result = Outcome(trial.name, "failed", seconds, error=prefix + sentence, trace=str(result))
            yield result


ENGINES = {"local": on_this_machine, "ray": on_ray, "slurm": on_slurm}
