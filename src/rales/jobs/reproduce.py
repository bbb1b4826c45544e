"""The paper's Tables 1 and 2 and Figure 3 as a sweep: which trials they need, and what these cost on this machine."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch

from rales.data import splits
from rales.data.dataset import make_preparation, select_extras
from rales.errors import SettingError, UsageError
from rales.jobs.sweep import Trial, trials
from rales.models.hub import ALIASES, find_checkpoint
from rales.recipes.m2d_fusion import VARIANTS
from rales.recipes.registry import find_settings, make_recipe
from rales.registry import RECIPES
from rales.settings import list_fields
from rales.training.distributed import init_distributed
from rales.training.recipe import LossContext, Recipe

PAPER = {
    "table1": {"variant": ["vanilla"]},
    "table2": {"variant": list(VARIANTS)},
    "figure3": {"variant": ["all_learned"]},
}
OURS = ("m2d_fusion", "m2d_ntt", "mn04_fusion", "encoder_fusion")  # of them the paper knows the first
LATER = ("ast_sg_scl", "beats_pafa")  # of papers after this one
EARLIER = [name for name in RECIPES.built_in if name not in (*OURS, *LATER)]  # with their variants beside Table 2
BOTH_RATIOS = ("mr6", "mr7")  # what Table 1 compares
PAPER_NETWORK = "m2d_vit_base-80x608p16x16-"
Grid = Mapping[str, Sequence[str]]
PROTOCOLS = ("last", "validation")  # the runs of `last` record what `test_best` would have chosen


def paper_trials(
    what: str,
    seeds: int,
    fixed: Sequence[str],
    weights: Sequence[str] = (),
    select: str | None = None,
    *,
    stand_in: bool = False,
) -> list[Trial]:
    """ "table1", "table2", "figure3" or "all" -> the trials of that part of the paper; one that two parts share is one.

    Table 1 compares two checkpoints: two `weights`, the one of masking ratio 0.6 first, or the public pair. The rest
    takes the last of them; without any, the public one of ratio 0.7, or a random start if a `size=` is fixed.
    `system=file` among them is the checkpoint of an earlier system, which starts at random without one.

    The rows of Table 1 are run with mean + max pooling and with the mean alone, both readings of the paper.

    Every row is run once with all training patients, for the protocols `last` and `test_best`, and once with
    validation patients held out, unless one protocol is named in `select`.

    With `stand_in` the trials are for counting only: a public M2D checkpoint that is not on this machine is replaced
    by a random start of the same network.
    """
    if what not in (*PAPER, "all"):
        raise UsageError(f"reproduce {what!r}: expected one of {', '.join(PAPER)}, all")
    for name, option in (("train.select", "--select"), ("weights", "--weights")):
        if given := [word for word in fixed if word.partition("=")[0] == name]:
            value = given[-1].partition("=")[2]
            raise SettingError(name, f"the study sets this for each of its runs; give {option} instead", value)
    for word in fixed:
        if not any(fitting([word], system) for system in ("m2d_fusion", *EARLIER)):
            make_recipe("m2d_fusion", [word])  # says what it is not, and the nearest

    theirs = {name: file for name, equals, file in (word.partition("=") for word in weights) if name in EARLIER}
    weights = [word for word in weights if word.partition("=")[0] not in EARLIER]
    sized = any(word.startswith("size=") for word in fixed)
    check_weights(what, weights, sized)

    found: dict[str, Trial] = {}
    for part in PAPER if what == "all" else [what]:
        chosen = part_weights(part, weights, sized)
        for protocol in PROTOCOLS if select is None else [select]:
            for system, grid in part_systems(part, chosen, theirs):
                words = fitting(fixed, system)
                varied = {**grid, "train.select": [protocol]}
                for trial, replaced in plan_trials(system, varied, seeds, words, stand_in):
                    made = make_recipe(trial.recipe, trial.words)
                    found.setdefault(repr((made.name, made.settings, replaced)), trial)
    return list(found.values())


def check_weights(what: str, weights: Sequence[str], sized: bool) -> None:
    """UsageError for checkpoints of M2D that do not fit the part of the paper."""
    if len(weights) > 2 or (what == "table1" and len(weights) == 1):
        raise UsageError(
            f"reproduce {what}: {len(weights)} --weights; Table 1 takes two, that of masking ratio 0.6 first, or none "
            "for the public pair; the other parts take one"
        )
    if sized and not weights and what in ("table1", "all"):
        raise UsageError(
            f"reproduce {what}: Table 1 compares two checkpoints and --size is that of a random start; leave it out, "
            "or give --weights twice"
        )


def part_weights(part: str, weights: Sequence[str], sized: bool) -> Sequence[str]:
    """Part of the paper, the checkpoints given, whether a size is -> the checkpoints of its M2D rows."""
    if part == "table1":
        return weights if len(weights) == 2 else BOTH_RATIOS
    return weights[-1:] or (() if sized else BOTH_RATIOS[-1:])


def part_systems(part: str, chosen: Sequence[str], theirs: Mapping[str, str]) -> list[tuple[str, Grid]]:
    """Part of the paper, checkpoints of its M2D rows and those of earlier systems -> systems, each with its grid."""
    of_paper: dict[str, Sequence[str]] = {**({"weights": chosen} if chosen else {}), **PAPER[part]}
    systems: list[tuple[str, Grid]] = [("m2d_fusion", of_paper)]
    if part == "table1":  # whether these rows pool by the mean alone, the paper does not say
        systems.append(("m2d_fusion", {**of_paper, "model.pool": ["mean"]}))
    if part == "table2":
        systems += [(name, {"weights": [theirs[name]]} if name in theirs else {}) for name in EARLIER]
    return systems


def plan_trials(
    system: str, grid: Grid, seeds: int, words: Sequence[str], stand_in: bool
) -> Iterator[tuple[Trial, str]]:
    """Grid of a system -> its trials, each with the public checkpoint that a random start stands in for, or ""."""
    names = grid.get("weights", ())
    missing = [name for name in names if stand_in and is_missing(name)]
    here = [name for name in names if name not in missing]
    if here or not names:
        yield from (
            (trial, "") for trial in trials(system, {**grid, **({"weights": here} if here else {})}, seeds, words)
        )
    rest = {name: values for name, values in grid.items() if name != "weights"}
    for name in missing:
        for trial in trials(system, rest, seeds, words):
            yield replace(trial, name=f"{trial.name}-weights={name}"), name


def is_missing(name: str) -> bool:
    """Whether a word names a public checkpoint of M2D's ViT-base, as the paper has it, that is not on this machine."""
    try:
        find_checkpoint(name)
    except FileNotFoundError:
        return ALIASES.get(name, name).startswith(PAPER_NETWORK)
    return False


def fitting(words: Sequence[str], system: str) -> list[str]:
    """`name=value` words for all systems -> those that a system has."""
    known = list_fields(find_settings(system))
    return [word for word in words if word.partition("=")[0] in known]


@dataclass(frozen=True)
class Estimate:
    """What a sweep will cost on this machine, before it starts."""

    runs: int
    hours: float
    gigabytes: float

    def __str__(self) -> str:
        return f"{self.runs} runs, about {self.hours:.1f} hours here, {self.gigabytes:.1f} GB of disk"


def estimate(planned: Sequence[Trial], cycles: pd.DataFrame, processes: int) -> Estimate:
    """Trials, cycles table and processes at a time -> hours (from one timed step per system) and disk."""
    seconds = 0.0
    made: dict[tuple[str, ...], tuple[Recipe, float, float, int]] = {}
    sizes = []
    for trial in planned:
        words = step_words(trial)
        if words not in made:
            recipe = make_recipe(trial.recipe, words[1:])
            made[words] = (recipe, *step_cost(recipe))
        _, trained_s, scored_s, size = made[words]
        trained, scored = count_cycles(trial, cycles)
        seconds += trained * trained_s + scored * scored_s
        sizes.append(size)
    together = max(1, min(processes, len(planned)))
    disk = disk_bytes(sizes, [recipe for recipe, *_ in made.values()], len(cycles), together)
    return Estimate(len(planned), seconds / 3600 / together, disk / 1e9)


def step_words(trial: Trial) -> tuple[str, ...]:
    """-> the recipe and those of a trial's words that can change what a step costs."""
    free = ("seed=", "split.", "train.select")
    return (trial.recipe, *(word for word in trial.words if not word.startswith(free)))


def count_cycles(trial: Trial, cycles: pd.DataFrame) -> tuple[float, float]:
    """-> how many cycles a trial trains on, and how many of the test it scores, in all its epochs."""
    settings = make_recipe(trial.recipe, trial.words).settings
    table = splits.divide_cycles(cycles, settings)
    train, test = ((table["split"] == part).sum() for part in ("train", "test"))
    epochs = settings.train.epochs
    return float(epochs * train), float(epochs / settings.train.evaluate_every * test)


def disk_bytes(sizes: Sequence[int], recipes: Sequence[Recipe], cycles: int, together: int) -> float:
    """Bytes of each run's checkpoint, the recipes, number of cycles, runs at a time -> bytes of disk.

    Two checkpoints a finished run; while it runs up to three with the optimiser's moments, three times as large; and
    the cycle cache.
    """
    caches = {repr(made_of): math.prod(made_of.shape) for made_of in map(make_preparation, recipes)}
    return 2 * sum(sizes) + together * 9 * max(sizes) + 4 * sum(caches.values()) * cycles


def make_step_context(recipe: Recipe, count: int, device: torch.device | str) -> LossContext:
    """Recipe, cycles in a step and where it is computed -> what its loss gets beside the features: zeros and ones."""
    settings, classes = recipe.settings, len(recipe.settings.label_set)
    shape = (count, classes) if settings.independent else (count,)
    label = torch.zeros(shape, dtype=torch.int64, device=device)
    extras = dict.fromkeys(recipe.extras, label[:, 0] if settings.independent else label)
    weight, generator = torch.ones(classes, device=device), torch.Generator().manual_seed(0)
    return LossContext(settings, label, label, weight, extras, generator)


def step_cost(recipe: Recipe) -> tuple[float, float, int]:
    """-> seconds per cycle of one training step here and of an evaluation, and the bytes of one checkpoint."""
    settings = recipe.settings
    context = init_distributed(settings.train.device, settings.train.precision)
    frontend = recipe.build_frontend(settings).to(context.device)
    model = recipe.build_model(settings).to(context.device)
    count = min(settings.train.micro_batch or settings.train.batch_size, 2)  # two: batch statistics need them
    inputs = torch.randn(count, *make_preparation(recipe).shape, device=context.device)
    about = make_step_context(recipe, count, context.device)
    taken = select_extras(frontend, about.extras)
    best, forward, threads = float("inf"), float("inf"), torch.get_num_threads()
    torch.set_num_threads(1)  # as trials run
    for _ in range(2):
        started = time.perf_counter()
        with context.autocast():
            loss, _ = recipe.loss(model, frontend(inputs, **taken), about)
        loss.backward()
        next(p.grad for p in model.parameters() if p.grad is not None).sum().item()  # waits for a GPU to finish
        best = min(best, time.perf_counter() - started)
        started = time.perf_counter()
        with torch.no_grad():  # in float32, as every evaluation is
            model(frontend(inputs, **taken), **select_extras(model, about.extras)).sum().item()
        forward = min(forward, time.perf_counter() - started)
    torch.set_num_threads(threads)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    del model, frontend, loss
    if context.device.type == "cuda":
        torch.cuda.empty_cache()  # the trials need it
    return best / count, forward / count, size
