"""Training in several stages: each is an ordinary run, the last one in the run folder itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from rales.data import splits
from rales.data.dataset import load_dataset
from rales.files.atomic import lock_folder
from rales.models.m2d_checkpoints import check_complete
from rales.training import finetune, lifecycle, run_folder, supervised_record
from rales.training.callbacks import Callback
from rales.training.distributed import init_distributed
from rales.training.recipe import Recipe


def run_stages(first: Recipe, last: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """Two recipes of one network, cycles table and run folder -> figures of the second; the first is in out/stage1.

    The second starts from the last weights of the first. Whatever is finished is taken as it is, so that a stopped run
    goes on in the stage where it was.
    """
    if figures := reserve_run_folder(last, cycles, out, options.get("command", "")):
        return figures
    finetune.run(first, cycles, out / "stage1", **options)
    return finetune.run(start_from(last, out / "stage1" / "last.safetensors"), cycles, out, **options)


def reserve_run_folder(last: Recipe, cycles: pd.DataFrame, out: Path, command: str) -> dict[str, Any]:
    """Make `out` the run folder of the last stage before the first one trains; -> its figures if it is finished, or {}.

    So a folder that holds something else is refused before hours of work, and until the last stage is done the folder
    is that of an unfinished run. Errors: those of `finetune.run`.
    """
    train = last.settings.train
    finetune.check_batches(last, init_distributed(train.device, "float32"))
    record = supervised_record.run_record(last, splits.divide_cycles(cycles, last.settings), command)
    with lock_folder(out):
        return finetune.stored_figures(out) if run_folder.begin_run(out, record, type(last.settings)) else {}


def start_from(recipe: Recipe, checkpoint: Path) -> Recipe:
    """Recipe -> the same, whose model and front-end start with the tensors of a checkpoint of the same network."""

    def started(build: Callable[[Any], nn.Module], prefix: bool) -> Callable[[Any], nn.Module]:
        def start(settings: Any) -> nn.Module:
            network = build(settings)
            tensors, _ = run_folder.read_checkpoint(checkpoint)
            chosen = {n: t for n, t in tensors.items() if n.startswith(finetune.FRONTEND) == prefix}
            chosen = {name.removeprefix(finetune.FRONTEND): value for name, value in chosen.items()}
            check_complete(chosen, network.state_dict(), checkpoint)
            network.load_state_dict(chosen)
            return network

        return start

    return replace(
        recipe,
        build_model=started(recipe.build_model, prefix=False),
        build_frontend=started(recipe.build_frontend, prefix=True),
        fit=None,
    )


def assemble_model(
    recipe: Recipe,
    cycles: pd.DataFrame,
    out: Path,
    sources: Mapping[str, tuple[Path, str]],
    *,
    epochs: int,
    command: str = "",
    progress: bool = False,
    cache_folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Write the run folder of a model that is put together from finished stages.

    Parameters
    ----------
    recipe, cycles, out, command, progress, cache_folder, callbacks : as in `finetune.run`.
    sources : beginning of the names here -> checkpoint, and beginning of the same names there. The front-end's
        statistics are those of the first one.
    epochs : the epoch that the folder names as that of its weights.

    Returns
    -------
    The metrics on the test cycles.
    """
    settings = recipe.settings
    table = splits.divide_cycles(cycles, settings)
    context = init_distributed(settings.train.device, "float32")
    record = supervised_record.run_record(recipe, table, command)
    with lifecycle.open_run(
        out, record, context, section=type(settings), progress=progress, callbacks=callbacks
    ) as opened:
        if opened.finished:
            return finetune.stored_figures(out)
        dataset = load_dataset(table, recipe, progress=progress, folder=cache_folder)
        frontend = recipe.build_frontend(settings).to(context.device)
        model = recipe.build_model(settings).to(context.device)

        tensors: dict[str, torch.Tensor] = {}
        for ours, (checkpoint, theirs) in sources.items():
            for name, value in run_folder.read_checkpoint(checkpoint)[0].items():
                if name.startswith(theirs):
                    tensors[ours + name.removeprefix(theirs)] = value
                elif name.startswith(finetune.FRONTEND):
                    tensors.setdefault(name, value)
        check_complete(tensors, finetune.tensors_of(model, frontend), out)
        finetune.load_tensors(tensors, model, frontend)

        weight = finetune.loss_weights(dataset, settings)
        job = finetune.Training(recipe, opened, dataset, frontend, model, model, {}, weight)
        lines = [finetune.evaluate_part(job, part, epochs)[0] for part in dataset.parts_to_watch()]
        (out / "metrics.jsonl").unlink(missing_ok=True)
        run_folder.append_metrics(out, lines)
        return finetune.finish_training(job, {"epoch": epochs, "best_score": None, "best_epoch": None})
