"""Distillation: a run learns from the soft answers of trained models to the cycles that it trains on.

Source: Hinton, Vinyals & Dean 2015 (arXiv 1503.02531), section 2; of several teachers the mean of their probabilities.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from platformdirs import user_cache_path
from torch import Tensor

from rales.data import splits
from rales.data.dataset import load_dataset
from rales.errors import FileProblem, UsageError
from rales.labels import LabelSet
from rales.models.hub import sha256_of
from rales.training import finetune, run_folder
from rales.training.distributed import DistributedContext
from rales.training.loss_terms import name_soft_answers
from rales.training.recipe import Recipe
from rales.training.trained_model import TrainedModel, find_trained_model, read_trained_model

Rebuild = Callable[[dict[str, Any], str], Recipe]  # record of a checkpoint, and where it is from -> its recipe


def digest_teachers(teachers: tuple[str, ...]) -> str:
    """Names, run folders or checkpoints -> SHA-256 of the SHA-256 of their checkpoints."""
    files = [read_trained_model(find_trained_model(word)).path for word in teachers]
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def add_teachers(recipe: Recipe, rebuild: Rebuild) -> Recipe:
    """Recipe -> the same, whose train cycles get the soft answers of the teachers that its settings name, if any.

    Errors: a system that trains on more or other rows than the cycles, which no teacher has heard.
    """
    settings = recipe.settings
    if not (hasattr(settings, "distil") and settings.distil.teachers):
        return recipe
    if recipe.rows is not None:
        raise UsageError(f"distil.teachers: {recipe.name} trains on joined or copied cycles, which no teacher answers")
    return replace(recipe, teach=partial(add_soft_answers, settings=settings, rebuild=rebuild))


def add_soft_answers(
    table: pd.DataFrame, context: DistributedContext, folder: Path | None, *, settings: Any, rebuild: Rebuild
) -> pd.DataFrame:
    """Divided cycles table -> the same with a column of each class's probability, the mean of the teachers' at the
    temperature of the settings; 0 where a row does not train.

    Errors: a teacher of other classes, one that has heard patients who validate or test here, or whose record does not
    tell; files that have changed since the run began.
    """
    distil, label_set = settings.distil, settings.label_set
    if digest_teachers(distil.teachers) != distil.digest:
        raise ValueError(
            f"distil.teachers={','.join(distil.teachers)}: have changed since this run began; put them back, or choose "
            "another --out"
        )
    models = {word: read_trained_model(find_trained_model(word)) for word in distil.teachers}
    for word, model in models.items():
        check_teacher(word, model.record, table, label_set)

    answers = [answer_train_cycles(model, table, context, folder, rebuild) for model in models.values()]
    soft = torch.stack([(logits / distil.temperature).softmax(dim=1) for logits in answers]).mean(dim=0)
    trains = table["split"] == "train"
    for number, name in enumerate(name_soft_answers(label_set)):
        table = table.assign(**{name: 0.0})
        table.loc[trains, name] = soft[:, number].numpy()
    return table


def check_teacher(word: str, record: Mapping[str, Any], table: pd.DataFrame, label_set: LabelSet) -> None:
    """Errors: a teacher of other classes, or one that knows patients whom only validation or test should hear."""
    theirs = LabelSet.from_record(record)
    if theirs != label_set:
        raise UsageError(
            f"distil.teachers={word}: tells {', '.join(theirs.classes)} apart, and this run "
            f"{', '.join(label_set.classes)}; take a teacher of the same classes in the same order"
        )
    split, used = record.get("split", {}), table[table["split"] != ""]
    if split.get("trained_recordings") is None:
        raise UsageError(
            f"distil.teachers={word}: does not tell which recordings it was trained on, and they may be among those "
            "that test here; take a model of `rales train`"
        )
    # of a teacher on the same division the validation cycles chose an epoch, and trained nothing
    started_alone = not record["config"].get("from_model") and "test_recordings_heard" not in split
    same = started_alone and split.get("digest") == splits.digest_cycles(used)
    held = used[used["split"].isin(["test"] if same else ["validation", "test"])]
    heard = used["recording"].map(splits.digest_name).isin(split["trained_recordings"])
    own = used[used["split"] == "train"]  # ICBHI's list has two patients on both sides
    known = set(used.loc[heard, "patient"]) & set(held["patient"]) - set(own["patient"])
    # a recording whose cycles lie on both sides (leaky_cycles) is known unless the division is the same
    excused = held["recording"].isin(own["recording"]) & same
    known |= set(held.loc[heard[held.index] & ~excused, "patient"])
    if known:
        raise UsageError(
            f"distil.teachers={word}: was trained on {len(known)} of the patients who validate or test here "
            f"(recording {used.loc[heard & used['patient'].isin(known), 'recording'].iloc[0]}), so that its answers "
            "would tell of them; take a teacher of the same split"
        )


def answer_train_cycles(
    model: TrainedModel, table: pd.DataFrame, context: DistributedContext, folder: Path | None, rebuild: Rebuild
) -> Tensor:
    """Trained model and divided table -> (n, classes) float32 logits of the n train rows, in their order.

    Kept in the cache under the checkpoint's and the cycles' digests, so that they are computed once for all runs.
    """
    train = table[table["split"] == "train"]
    files = [(path, *Path(path).stat()[6:9:2]) for path in sorted(set(train["path"]))]  # name, size, mtime
    key = (sha256_of(model.path), splits.digest_cycles(train), splits.cycle_keys(train), files)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    cache = Path(folder or os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser()
    path = cache / "teachers" / f"{name}.safetensors"
    try:
        return run_folder.read_checkpoint(path)[0]["logits"]
    except FileProblem:  # not asked yet, or damaged
        pass

    recipe = rebuild(model.record, str(model.path))
    # as test cycles: of train cycles it may join or copy some, and it answers each as it is
    asked = table.assign(split=table["split"].map({"train": "test"}).fillna(""))
    dataset = load_dataset(asked, recipe, folder=folder)
    frontend = recipe.build_frontend(recipe.settings).to(context.device)
    network = recipe.build_model(recipe.settings).to(context.device)
    finetune.load_tensors(model.tensors, network, frontend)
    alone = DistributedContext(context.device, 0, 1, None)
    rows, logits = finetune.part_logits(network, frontend, dataset, "test", alone)
    place = {cycle: number for number, cycle in enumerate(splits.cycle_keys(rows))}
    ordered = logits.float()[[place[cycle] for cycle in splits.cycle_keys(train)]]
    path.parent.mkdir(parents=True, exist_ok=True)
    run_folder.save_tensors(path, {"logits": ordered}, {})
    return ordered
