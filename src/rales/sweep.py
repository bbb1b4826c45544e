"""Many runs: a grid of recipe options and seeds -> ordinary run folders, on this machine or on Ray.

A trial is what `rales train` would do with the same words; its folder looks the same wherever it ran. `sweep.json`
beside the run folders says what became of each trial.
"""

import inspect
import itertools
import multiprocessing
import os
import queue
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from rales import recipes, runs
from rales.config import Recipe, Step, UsageError, to_dict
from rales.data import read_cycles, splits
from rales.probe import name, subsets
from rales.recipes.m2d_fusion import VARIANTS
from rales.rows import preparation


@dataclass(frozen=True)
class Trial:
    """One run: the recipe's name and the `name=value` words that make it."""

    name: str
    recipe: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: "done", "skipped" (done before), "waiting", or "failed" with a sentence and a trace."""

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
        found = re.findall(r"\[[^]]*\]|[^,\[\]]+", values)
        if name in grid or name == "seed" or len(set(found)) < len(found):
            raise UsageError(f"--grid {word}: name every option once, every value once, and seeds with --seeds")
        grid[name] = found
    return grid


def trials(
    recipe: str, grid: Mapping[str, Sequence[str]], seeds: int, fixed: Sequence[str] = (), first_seed: int = 0
) -> list[Trial]:
    """Recipe, grid and number of seeds -> every combination, named by what it varies.

    Every trial is built once here, so that an unknown option stops the sweep before it starts.
    """
    found = []
    depth = recipes.make(recipe, fixed).config.model.depth
    grid = {**grid, "model.layers": layer_sets(grid["model.layers"], depth)} if "model.layers" in grid else grid
    for values in itertools.product(*grid.values()):
        chosen = [f"{name}={value}" for name, value in zip(grid, values, strict=True)]
        recipes.make(recipe, [*fixed, *chosen])
        for seed in range(first_seed, first_seed + seeds):
            title = "-".join([recipe, *(re.sub(r"[^\w.=+]+", "_", short(word)) for word in chosen), f"seed{seed}"])
            found.append(Trial(title, recipe, (*fixed, *chosen, f"seed={seed}")))
    names = [trial.name for trial in found]
    if len(set(names)) < len(names):
        raise UsageError(f"two trials would share the folder {next(n for n in names if names.count(n) > 1)}")
    return found


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
    skip_damaged: bool = False,
    command: str = "",
    progress: bool = False,
) -> list[Outcome]:
    """Trials -> their outcomes, in the order of the trials; OUT holds a run folder for each and `sweep.json`.

    Finished trials are skipped, unfinished ones go on, failed ones are tried again. A trial that raises or whose
    process is killed does not stop the others. `engine` is "local" (`processes` at a time, one thread each) or "ray"
    (the cluster at `address`, or one started here; data and out must be on a file system that all its nodes share).
    """
    runs.make_folder(out)
    data, out = data.resolve(), out.resolve()
    cycles = read_cycles(data, skip_damaged=skip_damaged)
    outcomes = {t.name: Outcome(t.name, "skipped") for t in planned if is_finished(t, out / t.name, cycles)}
    waiting = [trial for trial in planned if trial.name not in outcomes]
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    jobs = ENGINES[engine](waiting, (data, out, skip_damaged, command), processes, address)
    for outcome in tqdm(jobs, total=len(waiting), desc="sweep", unit="run", disable=None if progress else True):
        outcomes[outcome.name] = outcome
        runs.write_json(out / "sweep.json", summary(planned, outcomes, command))
    runs.write_json(out / "sweep.json", summary(planned, outcomes, command))
    return [outcomes[trial.name] for trial in planned]


def is_finished(trial: Trial, folder: Path, cycles: pd.DataFrame) -> bool:
    """Whether the folder holds the finished run of this very trial; one of other settings or data is left to fail."""
    if not (folder / "done").exists():
        return False
    stored, config = runs.read_json(folder / "config.json"), recipes.make(trial.recipe, trial.words).config
    table = splits.divide(cycles, config)
    same_data = stored["split"]["digest"] == runs.digest(table[table["split"] != ""])
    return bool(same_data and stored.get("asked", stored["config"]) == runs.clean(to_dict(config)))


def summary(planned: Sequence[Trial], outcomes: Mapping[str, Outcome], command: str) -> dict[str, Any]:
    """-> sweep.json."""
    rows = []
    for trial in planned:
        outcome = outcomes.get(trial.name, Outcome(trial.name, "waiting"))
        rows.append({**vars(trial), **vars(outcome)})
    return {"command": command, "trials": rows}


def run_trial(trial: Trial, data: Path, out: Path, skip_damaged: bool, command: str) -> Outcome:
    """One trial in this process, on one thread -> its outcome; nothing is raised."""
    import torch

    started = time.perf_counter()
    torch.set_num_threads(1)  # spinning threads of several trials on the same cores stop each other
    try:
        recipe = recipes.make(trial.recipe, trial.words)
        recipe.run(recipe, read_cycles(data, skip_damaged=skip_damaged), out / trial.name, command=command)
    except Exception as error:
        return Outcome(trial.name, "failed", time.perf_counter() - started, str(error), traceback.format_exc())
    return Outcome(trial.name, "done", time.perf_counter() - started)


def local(
    waiting: Sequence[Trial], job: tuple[Any, ...], processes: int | None, address: str | None
) -> Iterator[Outcome]:
    """Trials on this machine, each in a process of its own: one that is killed takes no other with it."""
    if address:
        raise UsageError("--address is the cluster of --engine ray")
    import torch

    gpus = torch.cuda.device_count()
    processes = processes or gpus or os.cpu_count() or 1
    free: queue.Queue[str] = queue.Queue()  # with GPUs, trials take turns on them
    for number in range(processes):
        free.put(str(number % gpus) if gpus else "")
    alive: set[multiprocessing.process.BaseProcess] = set()
    guard = threading.Lock()
    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(in_own_process, trial, job, free, alive, guard) for trial in waiting]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:  # left early (Ctrl-C): what has not started never will, what runs is ended and can go on later
            pool.shutdown(wait=False, cancel_futures=True)
            with guard:
                for process in alive:
                    process.terminate()


def in_own_process(
    trial: Trial,
    job: tuple[Any, ...],
    free: "queue.Queue[str]",
    alive: set[multiprocessing.process.BaseProcess],
    guard: threading.Lock,
) -> Outcome:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    receiver, sender = context.Pipe(duplex=False)
    gpu = free.get()
    process = context.Process(target=send_outcome, args=(sender, gpu, trial, *job), daemon=True)
    started = time.perf_counter()
    with guard:
        process.start()
        alive.add(process)
    sender.close()
    try:
        outcome: Outcome = receiver.recv()
    except EOFError:  # it ended without an answer
        process.join()
        outcome = Outcome(trial.name, "failed", time.perf_counter() - started, how_it_ended(process.exitcode))
    process.join()
    free.put(gpu)
    with guard:
        alive.discard(process)
    return outcome


def send_outcome(sender: Any, gpu: str, trial: Trial, *job: Any) -> None:
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when the first tensor goes to a GPU
    sender.send(run_trial(trial, *job))


def how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its process was ended by {signal.Signals(-exitcode).name} (out of memory, or killed)"
    return f"its process ended with exit code {exitcode} and no answer"


def on_ray(
    waiting: Sequence[Trial], job: tuple[Any, ...], processes: int | None, address: str | None
) -> Iterator[Outcome]:
    """Trials as Ray tasks, one processor (and one GPU where the cluster has some) each."""
    try:
        import ray
    except ImportError as error:
        raise UsageError('--engine ray needs the package ray: pip install "rales[ray]"') from error
    if not waiting:
        return
    began_here = not ray.is_initialized()
    if began_here:
        ray.init(address=address, num_cpus=None if address else processes, log_to_driver=False, include_dashboard=False)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = 1 if resources.get("GPU", 0) else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(run_trial)
    pending = {task.remote(trial, *job): (trial, time.perf_counter()) for trial in waiting}
    try:
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            trial, started = pending.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:  # the worker or its machine is gone
                sentence = str(error).strip().splitlines()[0]
                yield Outcome(trial.name, "failed", time.perf_counter() - started, f"Ray: {sentence}", str(error))
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if began_here:
            ray.shutdown()


ENGINES = {"local": local, "ray": on_ray}

PAPER = {
    "table1": {"variant": ["vanilla"]},
    "table2": {"variant": list(VARIANTS)},
    "figure3": {"variant": ["all_learned"]},
}
EARLIER = [name for name in recipes.RECIPES if name != "m2d_fusion"]  # with their variants beside Table 2
BOTH_RATIOS = ("mr6", "mr7")  # what Table 1 compares
PROTOCOLS = ("last", "validation")  # the runs of `last` record what `test_best` would have chosen


def paper_trials(
    what: str, seeds: int, fixed: Sequence[str], weights: Sequence[str] = (), select: str | None = None
) -> list[Trial]:
    """ "table1", "table2", "figure3" or "all" -> the trials of that part of the paper; one that two parts share is one.

    Table 1 compares two checkpoints: two `weights`, the one of masking ratio 0.6 first, or the public ones. The rest
    takes the last of them; `system=file` among them is the checkpoint of an earlier system. Every row is run once with
    all training patients, for the protocols `last` and `test_best`, and once with validation patients held out, unless
    one protocol is named in `select`.
    """
    if what not in (*PAPER, "all"):
        raise UsageError(f"reproduce {what!r}: expected one of {', '.join(PAPER)}, all")
    theirs = {name: file for name, equals, file in (word.partition("=") for word in weights) if name in EARLIER}
    weights = [word for word in weights if word.partition("=")[0] not in EARLIER]
    if len(weights) > 2 or (what == "table1" and len(weights) == 1):
        raise UsageError(
            f"reproduce {what}: {len(weights)} --weights; Table 1 takes two, that of masking ratio 0.6 first, or none "
            "for the public pair; the other parts take one"
        )
    found: dict[str, Trial] = {}
    for part in PAPER if what == "all" else [what]:
        chosen = (weights if len(weights) == 2 else BOTH_RATIOS) if part == "table1" else weights[-1:]
        systems = {"m2d_fusion": {**({"weights": chosen} if chosen else {}), **PAPER[part]}}
        if part == "table2":
            systems |= {name: {"weights": [theirs[name]]} if name in theirs else {} for name in EARLIER}
        for protocol in PROTOCOLS if select is None else [select]:
            for system, grid in systems.items():
                words = fitting(fixed, system)
                for trial in trials(system, {**grid, "train.select": [protocol]}, seeds, words):
                    made = recipes.make(trial.recipe, trial.words)
                    found.setdefault(repr((made.name, made.options, made.config)), trial)
    return list(found.values())


def fitting(words: Sequence[str], system: str) -> list[str]:
    """`name=value` words for all systems -> those that a system can have: its options, and fields of the config."""
    options = inspect.signature(recipes.find(system)).parameters
    return [word for word in words if word.partition("=")[0] in options or "." in word.partition("=")[0]]


@dataclass(frozen=True)
class Estimate:
    """What a sweep will cost on this machine, before it starts."""

    runs: int
    hours: float
    gigabytes: float

    def __str__(self) -> str:
        return f"{self.runs} runs, about {self.hours:.1f} hours here, {self.gigabytes:.1f} GB of disk"


def estimate(planned: Sequence[Trial], cycles: pd.DataFrame, processes: int) -> Estimate:
    """Trials, cycles table and processes at a time -> hours (from one timed step per system) and disk.

    Disk: two checkpoints a finished run, a third with the optimiser's moments while it runs, and the cycle cache.
    """
    seconds = stored = largest = 0.0
    made: dict[tuple[str, ...], tuple[Recipe, float, int]] = {}
    for trial in planned:
        words = tuple(word for word in trial.words if not word.startswith("seed="))
        if words not in made:
            recipe = recipes.make(trial.recipe, words)
            made[words] = (recipe, *step_cost(recipe))
        recipe, per_cycle, size = made[words]
        config = recipe.config
        table = splits.divide(cycles, config)
        train, test = ((table["split"] == part).sum() for part in ("train", "test"))
        evaluations = config.train.epochs / config.train.evaluate_every
        seconds += per_cycle * (config.train.epochs * train + evaluations * test / 3)  # a forward is a third of a step
        stored, largest = stored + 2 * size, max(largest, 3 * size)
    caches = {repr(made_of): made_of.size for made_of in (preparation(recipe) for recipe, *_ in made.values())}
    at_once = max(1, min(processes, len(planned)))
    disk = stored + at_once * largest + 4 * sum(caches.values()) * len(cycles)
    return Estimate(len(planned), seconds / 3600 / at_once, disk / 1e9)


def step_cost(recipe: Recipe) -> tuple[float, int]:
    """-> seconds per cycle of one training step here, and the bytes of one checkpoint."""
    import torch

    from rales.devices import place

    config = recipe.config
    here = place(config.train.device, config.train.precision)
    frontend, model = recipe.frontend(config).to(here.device), recipe.model(config).to(here.device)
    count = min(config.train.micro_batch or config.train.batch_size, 4)
    wave = torch.randn(count, preparation(recipe).size, device=here.device)
    label = torch.zeros(count, dtype=torch.int64, device=here.device)
    generator = torch.Generator().manual_seed(0)
    about = Step(config, label, label, torch.ones(4, device=here.device), label, generator)
    best, threads = float("inf"), torch.get_num_threads()
    torch.set_num_threads(1)  # as trials run
    for _ in range(3):
        started = time.perf_counter()
        with here.autocast():
            loss, _ = recipe.batch_loss(model, frontend(wave), about)
        loss.backward()
        next(p.grad for p in model.parameters() if p.grad is not None).sum().item()  # waits for a GPU to finish
        best = min(best, time.perf_counter() - started)
    torch.set_num_threads(threads)
    return best / count, sum(t.numel() * t.element_size() for t in model.state_dict().values())
