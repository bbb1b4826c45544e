"""Training in several stages: each is an ordinary run, the last one in the run folder itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from rales import finetune, runs
from rales.config import Config, Recipe


def run(first: Recipe, last: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """Two recipes of one network, cycles table and run folder -> figures of the second; the first is in out/stage1.

    The second starts from the last weights of the first. Whatever is finished is taken as it is, so that a stopped run
    goes on in the stage where it was.
    """
    finetune.run(first, cycles, out / "stage1", **options)
    return finetune.run(started_from(last, out / "stage1" / "last.safetensors"), cycles, out, **options)


def started_from(recipe: Recipe, checkpoint: Path) -> Recipe:
    """Recipe -> the same, whose model and front-end start with the tensors of a checkpoint of the same network."""

    def started(build: Callable[[Config], nn.Module], prefix: bool) -> Callable[[Config], nn.Module]:
        def start(config: Config) -> nn.Module:
            network = build(config)
            tensors, _ = runs.read_checkpoint(checkpoint)
            chosen = {n: t for n, t in tensors.items() if n.startswith(finetune.FRONTEND) == prefix}
            network.load_state_dict({name.removeprefix(finetune.FRONTEND): value for name, value in chosen.items()})
            return network

        return start

    return replace(
        recipe, model=started(recipe.model, prefix=False), frontend=started(recipe.frontend, prefix=True), fit=None
    )
