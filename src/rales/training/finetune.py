"""The supervised loop: a recipe, a cycles table and a folder in, a finished run folder out (paper 4.3)."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rales.data import loader, splits
from rales.data.dataset import Batch, CycleDataset, check_extras, class_numbers, load_dataset, select_extras
from rales.errors import FileError, UsageError
from rales.evaluation import predictions
from rales.evaluation.metrics import count_outcomes, mean_auroc, outcome_scores, predict_at_threshold
from rales.evaluation.own_metrics import compute_own_metrics
from rales.files.writers import copy_file, write_csv, write_json
from rales.labels import LabelSet
from rales.models.heads import class_probabilities
from rales.models.hub import sha256_of
from rales.models.low_rank import count_parameters
from rales.models.m2d_checkpoints import check_complete
from rales.settings import RunSettings
from rales.training import epoch_logits, lifecycle, run_folder
from rales.training.calibration_record import fit_calibration_record
from rales.training.callbacks import Callback
from rales.training.distributed import DistributedContext
from rales.training.losses import class_weights, positive_weights, weighted_cross_entropy, weighted_loss
from rales.training.optim import (
    HEADS,
    average_with_previous_weights,
    climb_gradient,
    freeze_parameters,
    largest_weight,
    make_optimisers,
    put_back,
    scheduled_lr,
    set_lr,
    update_average,
)
from rales.training.recipe import LossContext, Mixture, Recipe
from rales.training.run_records import State, check_evaluation, check_fields
from rales.training.supervised_record import leak_warning, run_record
from rales.training.trained_model import find_trained_model, read_trained_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What stays the same from the first epoch of a run to the last."""

    recipe: Recipe
    run: lifecycle.Run
    dataset: CycleDataset
    frontend: nn.Module
    model: nn.Module
    network: nn.Module  # the model, wrapped where several processes train it
    optimisers: dict[str, torch.optim.Optimizer]
    class_weight: Tensor  # (classes,) of the loss
    average: nn.Module | None = None  # moving average of the model, with train.ema

    @property
    def scored(self) -> nn.Module:
        """The network that is scored and kept."""
        return self.model if self.average is None else self.average


def run(
    recipe: Recipe,
    cycles: pd.DataFrame,
    out: Path,
    *,
    command: str = "",
    progress: bool = False,
    cache_folder: Path | None = None,
    after_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train on the train cycles and write the run folder.

    A finished run of the same settings is returned as it is; an unfinished one goes on after its last whole epoch
    and ends with the same numbers as an undisturbed one.

    Parameters
    ----------
    recipe : the system, with its settings.
    cycles : the cycles table that a dataset reader gave.
    out : the run folder.
    command : the command line, for the record.
    progress : whether to show bars.
    cache_folder : where prepared waveforms are kept; None: the user's cache.
    after_epoch : called with an epoch's lines of metrics.jsonl when all of it is written; what it raises stops the run,
        which can go on from there.
    callbacks : are told of the run, its epochs and its figures, and cannot stop it.

    Returns
    -------
    The metrics of the selected weights on the test cycles ({} in all processes but the first). Errors: a folder of
    other settings, no train or test cycles, and all that reading the data can meet.
    """
    settings, train = recipe.settings, recipe.settings.train
    table = splits.divide_cycles(cycles, settings)
    context = lifecycle.join_processes(out, train.device, train.precision)
    check_batches(recipe, context)
    check_options(recipe)

    record = run_record(recipe, table, command)
    with lifecycle.open_run(
        out, record, context, section=type(settings), progress=progress, callbacks=callbacks
    ) as opened:
        if opened.finished:
            return stored_figures(out) if context.is_main else {}
        job, state = prepare_training(recipe, table, opened, cache_folder)
        first, shown = state["epoch"] + 1, {"desc": f"train {recipe.name}", "unit": "epoch", "log_every_s": 0}
        epochs = opened.show_progress(
            range(first, train.epochs + 1), initial=state["epoch"], total=train.epochs, **shown
        )
        for epoch in epochs:
            started = time.perf_counter()
            lines = [train_epoch(job, epoch)]

            logits = {}
            if epoch % train.evaluate_every == 0 or epoch == train.epochs:
                for part in job.dataset.parts_to_watch():
                    line, logits[part] = evaluate_part(job, part, epoch)
                    lines.append(line)

            if context.is_main:
                lines[0]["seconds"] = round(time.perf_counter() - started, 3)
                save_epoch(job, lines, logits, state, epoch)
                epochs.set_postfix(shown_figures(lines, train.select), refresh=False)
                opened.watchers.end_epoch(lines)
                if after_epoch is not None:
                    after_epoch(lines)

        context.wait_for_all()
        figures = finish_training(job, state) if context.is_main else {}
        context.wait_for_all()
        return figures


def prepare_training(
    recipe: Recipe, table: pd.DataFrame, run: lifecycle.Run, cache_folder: Path | None
) -> tuple[Training, dict[str, Any]]:
    """Divided table -> data, networks and optimisers, as new or as after the last whole epoch; the run's state."""
    settings, context = recipe.settings, run.context
    if recipe.teach is not None:
        table = recipe.teach(table, context, cache_folder)
    dataset = load_dataset(table, recipe, progress=run.progress, folder=cache_folder)
    check_extras(dataset, recipe.extras)

    torch.manual_seed(settings.seed)
    frontend = recipe.build_frontend(settings).to(context.device)
    model = recipe.build_model(settings).to(context.device)
    freeze_parameters(model, settings.freeze)
    optimisers = make_optimisers(model, settings, recipe.epoch_parameters)
    average = copy.deepcopy(model) if settings.train.ema else None
    state = resume_training(run.folder, model, frontend, optimisers, run.record, average)
    if state["epoch"] == 0:
        if settings.from_model:
            load_start(settings, model, frontend)
        elif recipe.fit is not None:
            recipe.fit(settings, frontend.eval(), model.eval(), dataset, context.device)
        if average is not None:
            average.load_state_dict(model.state_dict())

    if context.is_main:  # what the epochs that are repeated wrote is dropped
        run_folder.truncate_metrics(run.folder, state["epoch"])
        scored = {line["epoch"] for line in run_folder.read_metrics(run.folder) if line.get("split") == "test"}
        epoch_logits.truncate_logits(run.folder, state["epoch"], scored)
        if problem := selection_problem(settings, dataset.class_numbers[dataset.rows("validation")]):
            log.warning("%s: %s", run.folder, problem)

    # blocks above the last fused layer get no gradient
    network = DistributedDataParallel(model, find_unused_parameters=True) if context.world_size > 1 else model
    weight = loss_weights(dataset, settings).to(context.device)
    return Training(recipe, run, dataset, frontend, model, network, optimisers, weight, average), state


def load_start(settings: RunSettings, model: nn.Module, frontend: nn.Module) -> None:
    """Put the weights and statistics of the trained model that the settings name into networks of the same recipe.

    The classification layer stays new where its classes are others. Errors: the file is not the one of the record.
    """
    path, tensors, record = read_trained_model(find_trained_model(settings.from_model))
    if sha256_of(path) != settings.from_digest:
        raise FileError(path, "has changed since this run began to go on from it; put it back, or choose another --out")
    ours = tensors_of(model, frontend)
    if not keeps_head(record, settings):
        new = {name: value for name, value in ours.items() if name.startswith(HEADS)}
        if not new:
            raise UsageError(
                f"--classes {','.join(settings.classes)}: {settings.from_model} tells others apart, and its network "
                f"has no classification layer by a name that is known ({', '.join(HEADS)}); leave them out"
            )
        tensors |= new
    check_complete(tensors, ours, path)
    load_tensors(tensors, model, frontend)


def keeps_head(record: Mapping[str, Any], settings: RunSettings) -> bool:
    """Whether a trained model tells the same classes apart, in the same order, as a run that goes on from it."""
    return LabelSet.from_record(record) == settings.label_set


def stored_figures(out: Path) -> dict[str, Any]:
    """Finished run folder -> the figures that it ended with. Errors: a file that is none of them."""
    figures = run_folder.read_json(out / "evaluation.json")
    check_evaluation(figures, out / "evaluation.json")
    return figures


def shown_figures(lines: list[dict[str, Any]], select: str) -> dict[str, str]:
    """Lines of an epoch, and what chooses the epoch -> what stands beside its bar: training loss and Score of every
    part; that of the test side only where it chooses, since whoever watches it chooses by it."""
    parts = [line for line in lines if line["split"] != "test" or select == "test_best"]
    scores = {line["split"]: f"{100 * line['score']:.1f}" for line in parts}
    return {"loss": f"{lines[0]['loss']:.3f}", **scores}


def check_batches(recipe: Recipe, context: DistributedContext) -> None:
    """A loss that compares the rows of a batch, cut into pieces or shared among processes, is another loss; so is a
    front-end that takes minimum and maximum of a batch, shared among processes."""
    train = recipe.settings.train
    if recipe.scales_batches and context.world_size > 1:
        raise ValueError(
            "audio.scope=batch takes minimum and maximum of a whole batch, which "
            f"{context.world_size} processes would share out among them; train in one process"
        )
    if not recipe.whole_batches:
        return
    if context.world_size > 1:
        raise ValueError(
            f"{recipe.name} compares the cycles of a whole batch, which {context.world_size} processes would share out "
            "among them; train it in one process"
        )
    if 0 < train.micro_batch < train.batch_size:
        raise ValueError(
            f"{recipe.name} compares the cycles of a whole batch, which train.micro_batch={train.micro_batch} would "
            "cut up; leave it at 0 and make train.batch_size smaller if memory is short"
        )


def check_options(recipe: Recipe) -> None:
    """Errors: ways to train that the loss of this system, or parameters that move once an epoch, do not go with."""
    train = recipe.settings.train
    for name, value in (("mixup", train.mixup), ("label_smoothing", train.label_smoothing)):
        if value and recipe.loss is not weighted_loss:
            raise UsageError(
                f"train.{name}={value:g}: goes with the plain weighted cross-entropy, and {recipe.name} has a loss of "
                "its own; leave it out"
            )
    for name, value in (("ema", train.ema), ("sam_rho", train.sam_rho)):
        if value and recipe.epoch_parameters:
            raise UsageError(
                f"train.{name}={value:g}: goes with weights that move with every step, and {recipe.name} moves "
                f"{', '.join(recipe.epoch_parameters)} once an epoch here; leave it out"
            )


def selection_problem(settings: RunSettings, label: NDArray[np.int64]) -> str:
    """Settings of a run and targets of the validation cycles -> why these cannot choose an epoch; "" if they can, or
    are not asked to."""
    train, label_set = settings.train, settings.label_set
    if train.select != "validation":
        return ""
    one_class = np.eye(len(label_set))[np.zeros(len(label), np.int64)]
    score = outcome_scores(count_outcomes(label_set.encode_rows(label), np.zeros(len(label))))["score"]
    if not math.isnan(score if train.select_by == "score" else mean_auroc(label, one_class, label_set)):
        return ""
    counts = label_set.count_labels(label_set.name_targets(label))
    found = ", ".join(f"{count} {name}" for name, count in counts.items())
    sounds = "crackles, or wheezes" if label_set.is_icbhi else "one of the classes"
    needed = {"score": "normal and abnormal ones", "auroc": f"some with and some without {sounds}"}
    return (
        f"the validation cycles ({found}) cannot choose an epoch by train.select_by={train.select_by}, which needs "
        f"{needed[train.select_by]}; the last epoch is kept: take another split.seed or a larger "
        "train.validation_share"
    )


def train_epoch(job: Training, epoch: int) -> dict[str, Any]:
    """One pass over the train cycles; -> its line of metrics (as seen under augmentation).

    Everything random derives from (seed, epoch, step), so an epoch repeats exactly, whatever came before. Errors: a
    loss or a weight that is no longer a number, before anything of this epoch is in the run folder.
    """
    recipe, network, optimisers, context = job.recipe, job.network, job.optimisers, job.run.context
    settings, train = recipe.settings, recipe.settings.train
    set_training_mode(network)
    job.frontend.train()
    torch.manual_seed(derive_seed(settings.seed, epoch, 0, context.rank))  # for dropout
    lr = scheduled_lr(epoch - 1, settings)
    all_steps = math.ceil(len(job.dataset.rows("train")) / train.batch_size)
    rest = len(job.dataset.rows("train")) % train.batch_size > 0
    steps_an_epoch = max(all_steps - (train.drop_last and rest), 1)
    for optimiser in optimisers.values():
        set_lr(optimiser, lr)
        optimiser.zero_grad()

    losses = lifecycle.LossSums(job.run, epoch, "train.lr", train.lr, {"loss": 0.0})
    label_set, nothing = settings.label_set, torch.from_numpy(job.dataset.class_numbers[:0]).to(context.device)
    labels, predicted, steps, rates = [nothing], [nothing], 0, 0.0
    for batch in train_batches(job, epoch):
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, epoch, steps, context.rank))
        # a process without rows in a short last batch goes through the motions with a silent clip that counts 0,
        # since the others wait for its gradients and attention on a GPU may refuse an empty batch
        idle = len(batch.rows) == 0
        batch, features, mixture = augmented_features(job, batch.with_silent_row() if idle else batch, generator)
        before = {k: v.clone() for k, v in network.state_dict().items()} if train.interpolate != 1 else {}

        # gradients of the micro-batches add up to those of the batch
        for rows, last, counts in take_passes(job, len(batch.label), generator):
            with context.sync_gradients(network, last):
                with context.autocast():
                    extras = {name: values[rows] for name, values in batch.extras.items()}
                    mixed = mixture and mixture.take(rows)
                    about = (settings, batch.label[rows], batch.whole_label, job.class_weight, extras, generator)
                    done = (epoch - 1) * steps_an_epoch + steps
                    step = LossContext(*about, mixed, done, steps_an_epoch)
                    loss, logits = recipe.loss(network, features[rows], step)
                # DDP takes the mean over processes where the loss is a sum
                (loss * (0 if idle else context.world_size)).backward()
            if counts and not idle:
                losses.add(steps + 1, loss=loss)
                labels.append(batch.label[rows])
                answers = logits.detach()
                predicted.append((answers > 0).long() if label_set.independent else answers.argmax(dim=1))

        if epoch <= train.warmup_epochs:
            set_lr(optimisers["step"], lr * (epoch - 1 + (steps + 1) / all_steps) / train.warmup_epochs)
        optimisers["step"].step()
        optimisers["step"].zero_grad()
        if before:
            average_with_previous_weights(network, before, train.interpolate)
        steps, rates = steps + 1, rates + optimisers["step"].param_groups[0]["lr"]
        if job.average is not None:
            update_average(job.average, job.model, train.ema, (epoch - 1) * all_steps + steps)

    if "epoch" in optimisers:
        update_once_an_epoch(optimisers["epoch"], rates, steps)
    loss_sum = losses.read()["loss"]
    job.run.check_finite(largest_weight(network), "a weight", epoch, steps, "train.lr", train.lr)
    loss_sum, scores = pool_processes(context, loss_sum, torch.cat(labels), torch.cat(predicted), label_set)
    lr = optimisers["step"].param_groups[0]["lr"]
    return {"epoch": epoch, "split": "train", "loss": loss_sum / steps, "lr": lr, **scores}


def train_batches(job: Training, epoch: int) -> Iterator[Batch]:
    """-> this process's share of the epoch's batches, shuffled as seed and epoch say."""
    dataset, train, context = job.dataset, job.recipe.settings.train, job.run.context
    return loader.shuffled_batches(
        dataset,
        train.batch_size,
        seed=job.recipe.settings.seed,
        epoch=epoch,
        rows=dataset.rows("train"),
        sampler=train.sampler,
        drop_last=train.drop_last,
        part=(context.rank, context.world_size),
        pin=context.device.type == "cuda",
    )


@torch.no_grad()
def augmented_features(job: Training, batch: Batch, generator: torch.Generator) -> tuple[Batch, Tensor, Mixture | None]:
    """Batch -> the batch on the device, as augmentation left it, what the network gets of it in training, and what
    mixup has mixed into that."""
    recipe, settings = job.recipe, job.recipe.settings
    if recipe.wave_augment is not None:
        batch = recipe.wave_augment(settings, batch, generator)
    batch = batch.to(job.run.context.device)
    features = job.frontend(batch.inputs, **select_extras(job.frontend, batch.extras))
    features = recipe.augment(settings, features, generator)
    if not settings.train.mixup:
        return batch, features, None
    return batch, *mix_clips(features, batch.label, settings.train.mixup, generator)


def set_training_mode(network: nn.Module) -> None:
    """Put a network in training mode, but for what is frozen as a whole: its batch-norms keep their statistics."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def mix_clips(features: Tensor, label: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Mixture]:
    """Features (B, …), labels (B,), alpha of the share's Beta -> mixed features, and what was mixed in.

    A clip keeps the larger share, so that its label is the likelier one; over a batch that makes the same mixtures.
    """
    order = torch.randperm(len(features), generator=generator).to(features.device, non_blocking=True)
    seed = int(torch.randint(2**62, (), generator=generator))  # torch's Beta takes no generator
    share = np.random.default_rng(seed).beta(alpha, alpha)
    kept = float(max(share, 1 - share))
    return kept * features + (1 - kept) * features[order], Mixture(label[order], kept)


def take_passes(job: Training, rows: int, generator: torch.Generator) -> Iterator[tuple[slice, bool, bool]]:
    """Rows of a batch -> slices of its micro-batches, whether it is the last one, whether it counts in the figures.

    With train.sam_rho a second pass over the same micro-batches, with the same draws, takes the step's gradient where
    the weights have moved up the first one's; then they are put back (Foret et al. 2021, algorithm 1).
    """
    train, device = job.recipe.settings.train, job.run.context.device
    pieces = list(micro_batches(rows, train.micro_batch))
    if not train.sam_rho:
        yield from ((piece, last, True) for piece, last in pieces)
        return

    draws, dropout = generator.get_state(), torch.get_rng_state()
    dropout_there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    yield from ((piece, last, True) for piece, last in pieces)

    buffers = {buffer: buffer.clone() for buffer in job.model.buffers()}  # batch-norm sees a batch once
    weights = climb_gradient(job.model, train.sam_rho)
    job.optimisers["step"].zero_grad()
    generator.set_state(draws)
    torch.set_rng_state(dropout)
    if dropout_there is not None:
        torch.cuda.set_rng_state(dropout_there, device)
    yield from ((piece, last, False) for piece, last in pieces)
    put_back({**weights, **buffers})


def pool_processes(
    context: DistributedContext, loss_sum: float, label: Tensor, predicted: Tensor, label_set: LabelSet
) -> tuple[float, dict[str, float]]:
    """One process's sum of losses, targets and answers of n rows -> sum and scores of all processes together."""
    true, answers = (label_set.encode_rows(targets.cpu().numpy()) for targets in (label, predicted))
    everyone = context.gather((loss_sum, count_outcomes(true, answers)))
    return sum(part for part, _ in everyone), outcome_scores(np.sum([counts for _, counts in everyone], axis=0))


def update_once_an_epoch(optimiser: torch.optim.Optimizer, rates: float, steps: int) -> None:
    """Step of the layer weights with their mean gradient of all `steps`, whose learning rates add up to `rates`."""
    # one step of Adam is as long as its rate: that of a single step would leave w at 1
    set_lr(optimiser, rates)
    for parameter in optimiser.param_groups[0]["params"]:
        parameter.grad /= steps
    optimiser.step()


def loss_weights(dataset: CycleDataset, settings: RunSettings) -> Tensor:
    """-> (classes,) weights of the loss: from the classes' frequencies among the train rows, or all 1."""
    classes, targets = len(settings.classes), dataset.class_numbers[dataset.rows("train")]
    if settings.train.class_weights == "none":
        return torch.ones(classes)
    if settings.independent:
        return positive_weights(targets.sum(axis=0).tolist(), len(targets))
    return class_weights(np.bincount(targets, minlength=classes).tolist())


def derive_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Position in the training -> seed of its random draws, unlike that of any other position."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def micro_batches(rows: int, size: int) -> Iterator[tuple[slice, bool]]:
    """Rows of a batch -> slices of at most `size` rows (0 = all), and whether it is the last; at least one slice, so
    that every process of several takes part in every batch."""
    size = size or max(rows, 1)
    for start in range(0, max(rows, 1), size):
        yield slice(start, start + size), start + size >= rows


@torch.inference_mode()
def part_logits(
    model: nn.Module, frontend: nn.Module, dataset: CycleDataset, part: str, context: DistributedContext
) -> tuple[pd.DataFrame, Tensor]:
    """-> a part's cycles in table order, and their (n, classes) logits; processes share the work, whole batches each.

    Computed in float32 whatever the training is in: an epoch must be chosen by the scores that its weights will be
    known by. Errors: an answer that is not a number.
    """
    model.eval()
    frontend.eval()
    everyone = dataset.rows(part)
    batch_of = np.arange(len(everyone)) // dataset.scored_together
    rows = everyone[batch_of * context.world_size // (batch_of[-1] + 1) == context.rank]
    logits, pin = [torch.zeros(0, len(dataset.label_set), device=context.device)], context.device.type == "cuda"
    reading = loader.ordered_batches(dataset, dataset.scored_together, rows=rows, pin=pin) if len(rows) else ()
    logits += [score_batch(model, frontend, batch.to(context.device)) for batch in reading]
    found = torch.cat(context.gather(torch.cat(logits).cpu())).numpy()
    predictions.check_numbers(dataset.table.iloc[everyone], found)
    cycles, pooled = predictions.pool_cycle_logits(dataset.table.iloc[everyone], found, dataset.label_set)
    return cycles, torch.from_numpy(pooled)


def score_batch(model: nn.Module, frontend: nn.Module, batch: Batch) -> Tensor:
    """-> (B, classes) logits of a batch that is on the device of front-end and model."""
    features = frontend(batch.inputs, **select_extras(frontend, batch.extras))
    logits: Tensor = model(features, **select_extras(model, batch.extras))
    return logits


def evaluate_part(job: Training, part: str, epoch: int) -> tuple[dict[str, Any], Tensor]:
    """-> the line of metrics of validation or test cycles, and their (n, classes) float32 logits."""
    cycles, logits = part_logits(job.scored, job.frontend, job.dataset, part, job.run.context)
    label_set, weight = job.dataset.label_set, job.class_weight.cpu()
    label = torch.from_numpy(class_numbers(cycles, label_set))
    if label_set.independent:
        loss = weighted_cross_entropy(logits, label, label, weight).item()
    else:
        loss = nn.functional.cross_entropy(logits, label, weight).item()

    probabilities = class_probabilities(logits.double(), independent=label_set.independent).numpy()
    answers = label_set.encode_rows(predict_at_threshold(probabilities, None, label_set))
    scores = outcome_scores(count_outcomes(label_set.encode_rows(label.numpy()), answers))
    auroc = mean_auroc(label, probabilities, label_set)
    line: dict[str, Any] = {"epoch": epoch, "split": part, "loss": loss, **scores, "auroc": auroc}
    if metrics := job.recipe.settings.train.metrics:
        line["own"] = compute_own_metrics(metrics, label.numpy(), probabilities)
    return line, logits


def save_epoch(
    job: Training, lines: list[dict[str, Any]], logits: dict[str, Tensor], state: dict[str, Any], epoch: int
) -> None:
    """Write what an epoch leaves behind; `state` (epoch, best score, best epoch) is updated.

    The order makes a kill at any moment harmless: `resume.safetensors` comes last, and whatever it does not know of
    is written again by the repeated epoch.
    """
    out, record = job.run.folder, job.run.record
    run_folder.append_metrics(out, lines)
    if logits:
        independent = job.dataset.label_set.independent
        halves = {part: epoch_logits.half_logits(found, independent=independent) for part, found in logits.items()}
        epoch_logits.append_epoch(out, epoch, {**halves, **layer_weights(job.scored)})

    weights = tensors_of(job.scored, job.frontend)
    if is_best(record["config"]["train"], lines, state):
        run_folder.save_tensors(out / "best.safetensors", weights, {**record, "epoch": epoch})
    state["epoch"] = epoch
    job.run.save_resume(resume_tensors(job.model, job.frontend, job.average), job.optimisers, state)


def is_best(train: Mapping[str, Any], lines: list[dict[str, Any]], state: dict[str, Any]) -> bool:
    """Fields of `Training`, lines of an epoch and the run's state -> whether its weights are to be kept as the best;
    then the state says so. Few validation patients make equal AUROCs common: of those the higher Score counts, and of
    equal ones the later epoch."""
    watched = train["select"].removesuffix("_best")
    line = next((line for line in lines if line["split"] == watched), None)
    if line is None:
        return False

    by_auroc = watched == "validation" and train["select_by"] == "auroc"
    key = [line["auroc"], line["score"]] if by_auroc else [line["score"]]
    if math.isnan(key[0]):
        return False
    key = [-1.0 if math.isnan(value) else value for value in key]
    best = state["best_score"]
    if best is not None and not (key > best or (by_auroc and key == best)):
        return False
    state.update(best_score=key, best_epoch=line["epoch"])
    return True


def find_layer_fusion(model: nn.Module) -> Any:
    """-> the part of a network that fuses layers, ours or one like it: `layers` and a weight (L,); None without one."""
    fusion = getattr(model, "fusion", None)
    layers, weight = getattr(fusion, "layers", None), getattr(fusion, "weight", None)
    fuses = isinstance(layers, list | tuple) and isinstance(weight, Tensor) and weight.shape == (len(layers),)
    return fusion if fuses else None


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """-> `layers` (L,) and `layer_weights` (L,) of a network that fuses some, nothing of another."""
    fusion = find_layer_fusion(model)
    if fusion is None:
        return {}
    return {"layers": torch.tensor(fusion.layers), "layer_weights": fusion.weight.detach().float()}


def resume_training(
    out: Path,
    model: nn.Module,
    frontend: nn.Module,
    optimisers: dict[str, torch.optim.Optimizer],
    record: Mapping[str, Any],
    average: nn.Module | None = None,
) -> dict[str, Any]:
    """Load the last whole epoch of the unfinished run of this record, if there is one; -> epoch and best score."""

    def load(tensors: dict[str, Tensor]) -> None:
        load_tensors({name: value for name, value in tensors.items() if not name.startswith(AVERAGE)}, model, frontend)
        if average is not None:
            averaged = {name: value for name, value in tensors.items() if name.startswith(AVERAGE)}
            average.load_state_dict({name.removeprefix(AVERAGE): value for name, value in averaged.items()})

    state = lifecycle.load_resume(
        out,
        record,
        weights=resume_tensors(model, frontend, average),
        load_weights=load,
        optimisers=optimisers,
        check_state=lambda state, path: check_fields(State, state, path, "state."),
    )
    return state or {"epoch": 0, "best_score": None, "best_epoch": None}


FRONTEND = "frontend."  # before the names of a front-end's fitted statistics in a checkpoint
AVERAGE = "average."  # before those of the moving average, in what a run goes on from


def tensors_of(model: nn.Module, frontend: nn.Module) -> dict[str, Tensor]:
    """-> what a checkpoint holds: the model's tensors and the front-end's statistics."""
    return {**model.state_dict(), **{FRONTEND + name: value for name, value in frontend.state_dict().items()}}


def resume_tensors(model: nn.Module, frontend: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    """-> what a run goes on from, but for its optimisers."""
    averaged = {} if average is None else average.state_dict()
    return {**tensors_of(model, frontend), **{AVERAGE + name: value for name, value in averaged.items()}}


def load_tensors(tensors: dict[str, Tensor], model: nn.Module, frontend: nn.Module) -> None:
    """Undo `tensors_of`."""
    fitted = {name.removeprefix(FRONTEND): value for name, value in tensors.items() if name.startswith(FRONTEND)}
    model.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(FRONTEND)})
    frontend.load_state_dict(fitted)


def finish_training(job: Training, state: dict[str, Any]) -> dict[str, Any]:
    """Keep the last and the selected weights, score the selected on the test cycles, write metrics, `done` last.

    `rales predict` gives the same probabilities (to 1e-5).
    """
    out, record, dataset, model = job.run.folder, job.run.record, job.dataset, job.scored
    label_set = dataset.label_set
    weights = tensors_of(model, job.frontend)
    run_folder.save_tensors(out / "last.safetensors", weights, {**record, "epoch": state["epoch"]})
    if state["best_epoch"] is None:
        copy_file(out / "last.safetensors", out / "best.safetensors")
    tensors, about = run_folder.read_checkpoint(out / "best.safetensors")
    load_tensors(tensors, model, job.frontend)

    alone = replace(job.run.context, rank=0, world_size=1)
    found = {part: part_logits(model, job.frontend, dataset, part, alone) for part in dataset.parts_to_watch()}
    scored = {
        part: class_probabilities(logits.double(), independent=label_set.independent).numpy()
        for part, (_, logits) in found.items()
    }
    rows = found["test"][0]
    figures = predictions.evaluation_metrics(
        rows,
        scored["test"],
        selected_epoch=about["epoch"],
        record=record,
        whole_database=record["split"]["whole_database"],
        metrics=job.recipe.settings.train.metrics,
    )

    if problem := selection_problem(job.recipe.settings, dataset.class_numbers[dataset.rows("validation")]):
        figures["warnings"].append(problem)
    if leak := leak_warning(record):
        figures["warnings"].append(leak)
    leaky = job.recipe.settings.split.name in splits.LEAKY
    if leaky:
        figures["warnings"].append("leaky split: patients of the test and validation cycles train too; no calibration")
    for warning in figures["warnings"]:
        log.warning("%s: %s", out, warning)

    plain = predictions.Decision(label_set=label_set)
    if "validation" in scored and not leaky:
        true = {part: class_numbers(cycles, label_set) for part, (cycles, _) in found.items()}
        figures |= predictions.metrics_from_validation(true, scored, label_set)
        held = found["validation"][0]
        known = fit_calibration_record(held, scored["validation"], label_set)
        run_folder.save_tensors(out / "best.safetensors", tensors, {**about, "calibration": known})
        validation = predictions.predictions_table(held, scored["validation"], plain)
        write_csv(out / "predictions_validation.csv", validation)

    write_csv(out / "predictions.csv", predictions.predictions_table(rows, scored["test"], plain))
    if (fusion := find_layer_fusion(model)) is not None:
        write_json(out / "layer_weights.json", predictions.layer_weights(list(fusion.layers), fusion.weight))
    figures["parameters"] = count_parameters(job.model)
    write_json(out / "evaluation.json", figures)
    run_folder.mark_done(out)
    job.run.watchers.end_run(figures)
    return figures
