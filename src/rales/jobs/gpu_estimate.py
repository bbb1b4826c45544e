"""What trials cost on one GPU: floating-point operations of a real step of each system, counted while it runs.

The network is built and trained for one step without numbers (torch's `meta` device), or on two cycles where its loss
looks at them; so ViT-base takes seconds here. What the GPU makes of the operations is an assumption, which is named.
"""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rales.data.dataset import make_preparation, select_extras
from rales.errors import UsageError
from rales.jobs.reproduce import count_cycles, disk_bytes, make_step_context, step_words
from rales.jobs.sweep import Trial
from rales.recipes.registry import make_recipe
from rales.training.recipe import Recipe

TFLOPS = 50.0  # sustained; a data-centre GPU of 2020 to 2022 has 300 on paper in bfloat16, and a ViT gets a part of it
FEW = 2  # cycles of a step that needs numbers; batch statistics need two


@dataclass(frozen=True)
class StepCount:
    """One step of a system. Operations are those of matrix products, convolutions and attention."""

    train_flop: float
    """A cycle, forward and backward."""
    score_flop: float
    """A cycle, forward, of the network alone: a loss may look at more, at two views for example."""
    checkpoint_bytes: int
    memory_bytes: float
    """Weights, their gradients and two moments, and what the backward pass needs of one micro-batch, in float32."""


@dataclass(frozen=True)
class SystemCost:
    """All trials of one system."""

    system: str
    runs: int
    train_gflop: float
    score_gflop: float
    hours: float
    memory_gigabytes: float


@dataclass(frozen=True)
class GpuEstimate:
    """What a sweep will cost on one GPU that sustains so many operations."""

    runs: int
    hours: float
    gigabytes: float
    """Of disk."""
    memory_gigabytes: float
    """Of the largest system."""
    tflops: float
    systems: list[SystemCost]


def estimate_on_gpu(planned: Sequence[Trial], cycles: pd.DataFrame, tflops: float = TFLOPS) -> GpuEstimate:
    """Trials, cycles table and 10^12 operations a second that the GPU sustains -> hours, disk and memory, one after
    another. Errors: a GPU that does nothing."""
    if not 0 < tflops < math.inf:
        raise UsageError(f"--tflops {tflops:g}: expected above 0, the 10^12 operations a second of a GPU")
    recipes: dict[tuple[str, ...], Recipe] = {}
    counts: dict[tuple[str, ...], StepCount] = {}
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in planned:
        words = step_words(trial)
        if words not in counts:
            recipes[words] = make_recipe(trial.recipe, words[1:])
            counts[words] = count_step(recipes[words])
        groups[re.sub(r"-(train\.select=\w+|seed\d+)", "", trial.name)].append(trial)

    systems = []
    for title, trials in groups.items():
        step, flop = counts[step_words(trials[0])], 0.0
        for trial in trials:
            trained, scored = count_cycles(trial, cycles)
            flop += trained * step.train_flop + scored * step.score_flop
        hours = flop / (tflops * 1e12) / 3600
        per_cycle = (step.train_flop / 1e9, step.score_flop / 1e9)
        systems.append(SystemCost(title, len(trials), *per_cycle, hours, step.memory_bytes / 1e9))
    sizes = [counts[step_words(trial)].checkpoint_bytes for trial in planned]
    disk = disk_bytes(sizes, list(recipes.values()), len(cycles), together=1)
    memory = max(cost.memory_gigabytes for cost in systems)
    return GpuEstimate(len(planned), sum(cost.hours for cost in systems), disk / 1e9, memory, tflops, systems)


def count_step(recipe: Recipe) -> StepCount:
    """Recipe -> the operations and memory of one training step of it."""
    together = recipe.settings.train.micro_batch or recipe.settings.train.batch_size
    try:
        return run_step(recipe, together, "meta")
    except (NotImplementedError, RuntimeError):  # what is computed depends on numbers, which `meta` has none of
        return run_step(recipe, FEW, "cpu")


def run_step(recipe: Recipe, count: int, device: str) -> StepCount:
    """Recipe, cycles in the step and torch's device -> the counts of one step; the front-end's are left out."""
    settings = recipe.settings
    with torch.device(device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")  # a checkpoint has no part in it
        model = recipe.build_model(settings)
    frontend = recipe.build_frontend(settings)
    about = make_step_context(recipe, count, device)
    shown = {name: torch.zeros(FEW, dtype=torch.int64) for name in select_extras(frontend, about.extras)}
    seen = frontend(torch.randn(FEW, *make_preparation(recipe).shape), **shown)
    inputs = seen.to(device)[:1].expand(count, *seen.shape[1:]).contiguous()

    kept: dict[int, Any] = {}  # storages, so that none is counted twice and no address is used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    parameters = {each.untyped_storage()._cdata for each in model.parameters()}
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        recipe.loss(model, inputs, about)[0].backward()
    scoring = FlopCounterMode(display=False)
    with scoring, torch.no_grad():
        model.eval()(inputs, **select_extras(model, about.extras))
    activations = sum(storage.nbytes() for address, storage in kept.items() if address not in parameters)
    together = settings.train.micro_batch or settings.train.batch_size
    trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    size = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    memory = size + 3 * trained + activations / count * together
    return StepCount(counter.get_total_flops() / count, scoring.get_total_flops() / count, size, memory)
