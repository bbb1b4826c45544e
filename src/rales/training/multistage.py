"""Training in several stages: each is an ordinary run, the last one in the run folder itself."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from rales.config import Config, Recipe
from rales.data import splits
from rales.data.dataset import CycleDataset, cached_waveforms, prepared_rows, scored_together
from rales.files.atomic import lock_folder
from rales.models.m2d_checkpoints import check_complete
from rales.training import finetune, run_folder
from rales.training.distributed import place


def run(first: Recipe, last: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """Two recipes of one network, cycles table and run folder -> figures of the second; the first is in out/stage1.

    The second starts from the last weights of the first. Whatever is finished is taken as it is, so that a stopped run
    goes on in the stage where it was.
    """
    if figures := reserved(last, cycles, out, options.get("command", "")):
        return figures
    finetune.run(first, cycles, out / "stage1", **options)
    return finetune.run(started_from(last, out / "stage1" / "last.safetensors"), cycles, out, **options)


def reserved(last: Recipe, cycles: pd.DataFrame, out: Path, command: str) -> dict[str, Any]:
    """Make `out` the run folder of the last stage before the first one trains; -> its figures if it is finished, or {}.

    So a folder that holds something else is refused before hours of work, and until the last stage is done the folder
    is that of an unfinished run. Errors: those of `finetune.run`.
    """
    train = last.config.train
    finetune.check_batches(last, place(train.device, "float32"))
    record = finetune.run_record(last, splits.divide_cycles(cycles, last.config), command)
    with lock_folder(out):
        return finetune.stored_figures(out) if run_folder.begin(out, record) else {}


def started_from(recipe: Recipe, checkpoint: Path) -> Recipe:
    """Recipe -> the same, whose model and front-end start with the tensors of a checkpoint of the same network."""

    def started(build: Callable[[Config], nn.Module], prefix: bool) -> Callable[[Config], nn.Module]:
        def start(config: Config) -> nn.Module:
            network = build(config)
            tensors, _ = run_folder.read_checkpoint(checkpoint)
            chosen = {n: t for n, t in tensors.items() if n.startswith(finetune.FRONTEND) == prefix}
            chosen = {name.removeprefix(finetune.FRONTEND): value for name, value in chosen.items()}
            check_complete(chosen, network.state_dict(), checkpoint)
            network.load_state_dict(chosen)
            return network

        return start

    return replace(
        recipe, model=started(recipe.model, prefix=False), frontend=started(recipe.frontend, prefix=True), fit=None
    )


def put_together(
    recipe: Recipe,
    cycles: pd.DataFrame,
    out: Path,
    sources: Mapping[str, tuple[Path, str]],
    *,
    epochs: int,
    command: str = "",
    progress: bool = False,
    cache_folder: Path | None = None,
) -> dict[str, Any]:
    """The run folder of a model put together from finished stages; -> its figures on the test cycles.

    `sources`: beginning of the names here -> checkpoint, and beginning of the same names there. The front-end's
    statistics are those of the first one. The folder says that its weights are of epoch `epochs`.
    """
    config = recipe.config
    table = splits.divide_cycles(cycles, config)
    here = place(config.train.device, "float32")
    record = {**finetune.run_record(recipe, table, command), "computed_in": here.describe()}
    with lock_folder(out):
        if run_folder.begin(out, record):
            return finetune.stored_figures(out)
        rows = prepared_rows(table, recipe)
        waves = cached_waveforms(rows, recipe, progress=progress, folder=cache_folder)
        data = CycleDataset(rows, waves, scored_together(config, 16))
        frontend, model = recipe.frontend(config).to(here.device), recipe.model(config).to(here.device)
        tensors: dict[str, torch.Tensor] = {}
        for ours, (checkpoint, theirs) in sources.items():
            for name, value in run_folder.read_checkpoint(checkpoint)[0].items():
                if name.startswith(theirs):
                    tensors[ours + name.removeprefix(theirs)] = value
                elif name.startswith(finetune.FRONTEND):
                    tensors.setdefault(name, value)
        check_complete(tensors, finetune.tensors_of(model, frontend), out)
        finetune.load_tensors(tensors, model, frontend)
        weight = finetune.loss_weights(data, config)
        watched = data.parts_to_watch()
        lines = [finetune.evaluate_part(model, frontend, data, part, weight, epochs, here)[0] for part in watched]
        (out / "metrics.jsonl").unlink(missing_ok=True)
        run_folder.append_metrics(out, lines)
        state = {"epoch": epochs, "best_score": None, "best_epoch": None}
        return finetune.finish(out, model, frontend, data, here, state, record)
