"""The supervised loop: a recipe, a cycles table and a folder in, a finished run folder out (paper 4.3)."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rales.config import Config, Recipe, Step, to_dict
from rales.data import loader, splits
from rales.data.dataset import CycleDataset, cached_waveforms, class_numbers, prepared_rows, scored_together
from rales.evaluation import predictions
from rales.evaluation.metrics import confusion_matrix, icbhi_scores, mean_auroc
from rales.files.atomic import lock_folder
from rales.labels import CLASSES
from rales.models.layer_fusion import LayerFusion
from rales.models.m2d_checkpoints import check_complete
from rales.progress import progress_bar
from rales.training import epoch_logits, run_folder
from rales.training.distributed import Place, place
from rales.training.losses import class_weights
from rales.training.optim import interpolate, largest_weight, load_state_tensors, set_lr, state_tensors
from rales.training.recipe_defaults import make_optimisers, scheduled_lr
from rales.training.run_records import State, check, check_evaluation

log = logging.getLogger(__name__)


def run(
    recipe: Recipe,
    cycles: pd.DataFrame,
    out: Path,
    *,
    command: str = "",
    progress: bool = False,
    cache_folder: Path | None = None,
) -> dict[str, Any]:
    """Train on the train cycles and write the run folder; -> figures of the selected weights on the test cycles.

    A finished run of the same settings is returned as it is; an unfinished one goes on after its last whole epoch
    and ends with the same numbers as an undisturbed one. Errors: a folder of other settings, no train or test
    cycles, and all that reading the data can meet.
    """
    config = recipe.config
    table = splits.divide_cycles(cycles, config)
    precision = config.train.precision
    here = place(config.train.device, (precision == "auto" and run_folder.stored_precision(out)) or precision)
    record = {**run_record(recipe, table, command), "computed_in": here.describe()}
    with lock_folder(out) if here.rank == 0 else nullcontext():
        return train(recipe, table, out, here, record, progress=progress, cache_folder=cache_folder)


def train(
    recipe: Recipe,
    table: pd.DataFrame,
    out: Path,
    here: Place,
    record: dict[str, Any],
    *,
    progress: bool,
    cache_folder: Path | None,
) -> dict[str, Any]:
    """The run from its first or last whole epoch to the end; -> figures of the selected weights (rank 0)."""
    config = recipe.config
    check_batches(recipe, here)
    finished = here.rank == 0 and run_folder.begin(out, record)
    if any(here.gather(finished)):  # and nobody reads the folder before rank 0 has made it
        return stored_figures(out) if here.rank == 0 else {}
    items = prepared_rows(table, recipe)
    waves = cached_waveforms(items, recipe, progress=progress and here.rank == 0, folder=cache_folder)
    data = CycleDataset(items, waves, scored_together(config, 16))

    torch.manual_seed(config.seed)
    frontend = recipe.frontend(config).to(here.device)
    model = recipe.model(config).to(here.device)
    optimisers = make_optimisers(model, config)
    state = resume(out, model, frontend, optimisers, record)
    if recipe.fit is not None and state["epoch"] == 0:
        recipe.fit(config, frontend.eval(), model.eval(), data, here.device)
    if here.rank == 0:
        run_folder.forget_after(out, state["epoch"])
        scored = {line["epoch"] for line in run_folder.read_metrics(out) if line.get("split") == "test"}
        epoch_logits.forget_after(out, state["epoch"], scored)
        if problem := selection_problem(to_dict(config.train), data.labels[data.rows("validation")]):
            log.warning("%s: %s", out, problem)
    # blocks above the last fused layer get no gradient
    network = DistributedDataParallel(model, find_unused_parameters=True) if here.world > 1 else model
    weight = loss_weights(data, config).to(here.device)

    epochs = progress_bar(
        range(state["epoch"] + 1, config.train.epochs + 1),
        shown=progress and here.rank == 0,
        log_every_s=0,
        desc=f"train {recipe.name}",
        initial=state["epoch"],
        total=config.train.epochs,
        unit="epoch",
    )
    for epoch in epochs:
        started = time.perf_counter()
        lines = [train_epoch(recipe, network, frontend, optimisers, data, weight, epoch, here, out)]
        logits = {}
        if epoch % config.train.evaluate_every == 0 or epoch == config.train.epochs:
            for part in data.parts_to_watch():
                line, logits[part] = evaluate_part(model, frontend, data, part, weight, epoch, here)
                lines.append(line)
        if here.rank == 0:
            lines[0]["seconds"] = round(time.perf_counter() - started, 3)
            keep(out, model, frontend, optimisers, lines, logits, state, epoch, record)
            epochs.set_postfix(shown_figures(lines), refresh=False)
    here.gather("trained")
    figures = finish(out, model, frontend, data, here, state, record) if here.rank == 0 else {}
    here.gather("finished")
    return figures


def stored_figures(out: Path) -> dict[str, Any]:
    """Finished run folder -> the figures that it ended with. Errors: a file that is none of them."""
    figures = run_folder.read_json(out / "evaluation.json")
    check_evaluation(figures, out / "evaluation.json")
    return figures


def shown_figures(lines: list[dict[str, Any]]) -> dict[str, str]:
    """Lines of an epoch -> what stands beside its bar: training loss, Score of every part."""
    scores = {line["split"]: f"{100 * line['score']:.1f}" for line in lines}
    return {"loss": f"{lines[0]['loss']:.3f}", **scores}


def check_batches(recipe: Recipe, here: Place) -> None:
    """A loss that compares the rows of a batch, cut into pieces or shared among processes, is another loss; so is a
    front-end that takes minimum and maximum of a batch, shared among processes."""
    train = recipe.config.train
    if recipe.config.audio.scope == "batch" and here.world > 1:
        raise ValueError(
            f"audio.scope=batch takes minimum and maximum of a whole batch, which {here.world} processes would share "
            "out among them; train in one process"
        )
    if not recipe.whole_batches:
        return
    if here.world > 1:
        raise ValueError(
            f"{recipe.name} compares the cycles of a whole batch, which {here.world} processes would share out among "
            "them; train it in one process"
        )
    if 0 < train.micro_batch < train.batch_size:
        raise ValueError(
            f"{recipe.name} compares the cycles of a whole batch, which train.micro_batch={train.micro_batch} would "
            "cut up; leave it at 0 and make train.batch_size smaller if memory is short"
        )


def selection_problem(train: Mapping[str, Any], label: NDArray[np.int64]) -> str:
    """Fields of `Training` and class numbers of the validation cycles -> why these cannot choose an epoch; "" if they
    can, or are not asked to."""
    if train["select"] != "validation":
        return ""
    one_class = np.eye(len(CLASSES))[np.zeros(len(label), np.int64)]
    score = icbhi_scores(confusion_matrix(label, one_class.argmax(axis=1)))["score"]
    if not math.isnan(score if train["select_by"] == "score" else mean_auroc(label, one_class)):
        return ""
    found = ", ".join(f"{(label == number).sum()} {name}" for number, name in enumerate(CLASSES))
    needed = {"score": "normal and abnormal ones", "auroc": "some with and some without crackles, or wheezes"}
    return (
        f"the validation cycles ({found}) cannot choose an epoch by train.select_by={train['select_by']}, which needs "
        f"{needed[train['select_by']]}; the last epoch is kept: take another split.seed or a larger "
        "train.validation_share"
    )


def train_epoch(
    recipe: Recipe,
    network: nn.Module,
    frontend: nn.Module,
    optimisers: dict[str, torch.optim.Optimizer],
    data: CycleDataset,
    weight: Tensor,
    epoch: int,
    here: Place,
    out: Path,
) -> dict[str, Any]:
    """One pass over the train cycles; -> its line of metrics (figures as seen under augmentation).

    Everything random derives from (seed, epoch, step), so an epoch repeats exactly, whatever came before. Errors: a
    loss or a weight that is no longer a number, before anything of this epoch is in the run folder `out`.
    """
    config, train = recipe.config, recipe.config.train
    network.train()
    frontend.train()
    torch.manual_seed(seed_of(config.seed, epoch, 0, here.rank))  # for dropout
    lr = scheduled_lr(epoch - 1, config)
    all_steps = math.ceil(len(data.rows("train")) / train.batch_size)
    for optimiser in optimisers.values():
        set_lr(optimiser, lr)
        optimiser.zero_grad()

    counts, loss_sum, steps, rates = np.zeros((len(CLASSES), len(CLASSES)), np.int64), 0.0, 0, 0.0
    for batch in loader.shuffled_batches(
        data.waves,
        data.labels,
        train.batch_size,
        seed=config.seed,
        epoch=epoch,
        rows=data.rows("train"),
        sampler=train.sampler,
        drop_last=train.drop_last,
        part=(here.rank, here.world),
        pin=here.device.type == "cuda",
    ):
        generator = torch.Generator().manual_seed(seed_of(config.seed, epoch, steps, here.rank))
        with torch.no_grad():
            # a process without rows in a short last batch goes through the motions with a silent clip that counts 0,
            # since the others wait for its gradients and attention on a GPU may refuse an empty batch
            idle = len(batch.wave) == 0
            wave = torch.zeros(1, data.waves.shape[1]) if idle else batch.wave
            if recipe.wave_augment is not None:
                wave = recipe.wave_augment(config, wave, generator)
            features = frontend(wave.to(here.device, non_blocking=True))
            features = recipe.augment(config, features, generator)

        label = torch.zeros(1, dtype=torch.int64) if idle else batch.label
        label, whole_label = label.to(here.device), batch.whole_label.to(here.device)
        group = torch.zeros(1, dtype=torch.int64) if idle else torch.from_numpy(data.groups[batch.rows])
        group = group.to(here.device)
        before = {k: v.clone() for k, v in network.state_dict().items()} if train.interpolate != 1 else {}

        # gradients of the pieces add up to those of the batch
        for rows, last in pieces(len(label), train.micro_batch):
            with here.synchronising(network, last):
                with here.autocast():
                    step = Step(config, label[rows], whole_label, weight, group[rows], generator)
                    loss, logits = recipe.batch_loss(network, features[rows], step)
                # DDP takes the mean over processes where the loss is a sum
                (loss * (0 if idle else here.world)).backward()
            if idle:
                continue
            loss_sum += loss.item()
            run_folder.stop_if_diverged(out, loss_sum, "the loss", epoch, steps + 1, "train.lr", train.lr)
            counts += confusion_matrix(label[rows].cpu(), logits.argmax(dim=1).cpu())

        if epoch <= train.warmup_epochs:
            warm_lr = lr * (epoch - 1 + (steps + 1) / all_steps) / train.warmup_epochs
            set_lr(optimisers["step"], warm_lr)
        optimisers["step"].step()
        optimisers["step"].zero_grad()
        if before:
            interpolate(network, before, train.interpolate)
        steps, rates = steps + 1, rates + optimisers["step"].param_groups[0]["lr"]

    if "epoch" in optimisers:
        # one step of Adam is as long as its rate: that of a single step would leave w at 1
        set_lr(optimisers["epoch"], rates)
        for parameter in optimisers["epoch"].param_groups[0]["params"]:
            parameter.grad /= steps
        optimisers["epoch"].step()

    run_folder.stop_if_diverged(out, largest_weight(network), "a weight", epoch, steps, "train.lr", train.lr)
    everyone = here.gather((loss_sum, counts))
    loss_mean = sum(part for part, _ in everyone) / steps
    scores = icbhi_scores(np.sum([part for _, part in everyone], axis=0))
    return {
        "epoch": epoch,
        "split": "train",
        "loss": loss_mean,
        "lr": optimisers["step"].param_groups[0]["lr"],
        **scores,
    }


def loss_weights(data: CycleDataset, config: Config) -> Tensor:
    """-> (classes,) weights of the loss: from the classes' frequencies among the train rows, or all 1."""
    if config.train.class_weights == "none":
        return torch.ones(len(CLASSES))
    return class_weights(np.bincount(data.labels[data.rows("train")], minlength=len(CLASSES)).tolist())


def seed_of(seed: int, epoch: int, step: int, rank: int) -> int:
    """Place in the training -> seed of its random draws, unlike that of any other place."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def pieces(rows: int, size: int) -> Iterator[tuple[slice, bool]]:
    """Rows of a batch -> slices of at most `size` rows (0 = all), and whether it is the last; at least one slice, so
    that every process of several takes part in every batch."""
    size = size or max(rows, 1)
    for start in range(0, max(rows, 1), size):
        yield slice(start, start + size), start + size >= rows


@torch.inference_mode()
def part_logits(
    model: nn.Module, frontend: nn.Module, data: CycleDataset, part: str, here: Place
) -> tuple[pd.DataFrame, Tensor]:
    """-> a part's cycles in table order, and their (n, classes) logits; processes share the work, whole batches each.

    Computed in float32 whatever the training is in: an epoch must be chosen by the scores that its weights will be
    known by. Errors: an answer that is not a number.
    """
    model.eval()
    frontend.eval()
    everyone = data.rows(part)
    batch_of = np.arange(len(everyone)) // data.together
    rows = everyone[batch_of * here.world // (batch_of[-1] + 1) == here.rank]
    logits = [torch.zeros(0, len(CLASSES))]
    reading = loader.ordered_batches(data.waves, data.labels, data.together, rows=rows) if len(rows) else ()
    logits += [model(frontend(batch.wave.to(here.device))).cpu() for batch in reading]
    found = torch.cat(here.gather(torch.cat(logits))).numpy()
    predictions.check_numbers(data.table.iloc[everyone], found)
    cycles, pooled = predictions.pool_cycle_logits(data.table.iloc[everyone], found)
    return cycles, torch.from_numpy(pooled)


def evaluate_part(
    model: nn.Module, frontend: nn.Module, data: CycleDataset, part: str, weight: Tensor, epoch: int, here: Place
) -> tuple[dict[str, Any], Tensor]:
    """-> the line of metrics of validation or test cycles, and their (n, classes) float32 logits."""
    cycles, logits = part_logits(model, frontend, data, part, here)
    label = torch.from_numpy(class_numbers(cycles))
    loss = nn.functional.cross_entropy(logits, label, weight.cpu()).item()
    scores = icbhi_scores(confusion_matrix(label, logits.argmax(dim=1)))
    auroc = mean_auroc(label, logits.double().softmax(dim=1))
    return {"epoch": epoch, "split": part, "loss": loss, **scores, "auroc": auroc}, logits


def keep(
    out: Path,
    model: nn.Module,
    frontend: nn.Module,
    optimisers: dict[str, torch.optim.Optimizer],
    lines: list[dict[str, Any]],
    logits: dict[str, Tensor],
    state: dict[str, Any],
    epoch: int,
    record: dict[str, Any],
) -> None:
    """Write what an epoch leaves behind; `state` (epoch, best score, best epoch) is updated.

    The order makes a kill at any moment harmless: `resume.safetensors` comes last, and whatever it does not know of
    is written again by the repeated epoch.
    """
    run_folder.append_metrics(out, lines)
    if logits:
        halves = {part: epoch_logits.half_logits(found) for part, found in logits.items()}
        epoch_logits.append_epoch(out, epoch, {**halves, **layer_weights(model)})
    weights, about = tensors_of(model, frontend), {**record, "epoch": epoch}
    if is_best(record["config"]["train"], lines, state):
        run_folder.save_tensors(out / "best.safetensors", weights, about)
    state["epoch"] = epoch
    moments = {k: v for name, o in optimisers.items() for k, v in state_tensors(o, f"optimiser.{name}.").items()}
    run_folder.save_resume(out, {**weights, **moments}, {**about, "state": state})


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


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """-> `layers` (L,) and `layer_weights` (L,) of a network that fuses some, nothing of another."""
    fusion = getattr(model, "fusion", None)
    if not isinstance(fusion, nn.Module):
        return {}
    weight: Tensor = fusion.weight  # type: ignore[assignment]
    return {"layers": torch.tensor(fusion.layers), "layer_weights": weight.detach().float()}


def resume(
    out: Path,
    model: nn.Module,
    frontend: nn.Module,
    optimisers: dict[str, torch.optim.Optimizer],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """Load the last whole epoch of the unfinished run of this record, if there is one; -> epoch and best score."""

    def take(tensors: Mapping[str, Tensor], stored: Mapping[str, Any], path: Path) -> None:
        run_folder.check_same_run(path, stored, record)
        check(State, stored.get("state"), str(path), "state.")
        weights = {name: value for name, value in tensors.items() if not name.startswith("optimiser.")}
        check_complete(weights, tensors_of(model, frontend), path)
        load_tensors(weights, model, frontend)
        for name, optimiser in optimisers.items():
            load_state_tensors(optimiser, tensors, f"optimiser.{name}.", path)

    state = run_folder.read_resume(out, take)
    if state is None:
        return {"epoch": 0, "best_score": None, "best_epoch": None}
    return state


FRONTEND = "frontend."  # before the names of a front-end's fitted statistics in a checkpoint


def tensors_of(model: nn.Module, frontend: nn.Module) -> dict[str, Tensor]:
    """-> what a checkpoint holds: the model's tensors and the front-end's statistics."""
    return {**model.state_dict(), **{FRONTEND + name: value for name, value in frontend.state_dict().items()}}


def load_tensors(tensors: dict[str, Tensor], model: nn.Module, frontend: nn.Module) -> None:
    """Undo `tensors_of`."""
    fitted = {name.removeprefix(FRONTEND): value for name, value in tensors.items() if name.startswith(FRONTEND)}
    model.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(FRONTEND)})
    frontend.load_state_dict(fitted)


def finish(
    out: Path,
    model: nn.Module,
    frontend: nn.Module,
    data: CycleDataset,
    here: Place,
    state: dict[str, Any],
    record: dict[str, Any],
) -> dict[str, Any]:
    """Keep the last and the selected weights, score the selected on the test cycles, write figures, `done` last.

    `rales predict` gives the same probabilities (to 1e-5).
    """
    run_folder.save_tensors(out / "last.safetensors", tensors_of(model, frontend), {**record, "epoch": state["epoch"]})
    if state["best_epoch"] is None:
        run_folder.copy(out / "last.safetensors", out / "best.safetensors")
    tensors, about = run_folder.read_checkpoint(out / "best.safetensors")
    load_tensors(tensors, model, frontend)
    alone = replace(here, rank=0, world=1)
    found = {part: part_logits(model, frontend, data, part, alone) for part in data.parts_to_watch()}
    scored = {part: logits.double().softmax(dim=1).numpy() for part, (_, logits) in found.items()}
    rows = found["test"][0]
    figures = predictions.evaluation_metrics(
        rows,
        scored["test"],
        selected_epoch=about["epoch"],
        record=record,
        whole_database=record["split"]["whole_database"],
    )
    if problem := selection_problem(record["config"]["train"], data.labels[data.rows("validation")]):
        figures["warnings"].append(problem)
    for warning in figures["warnings"]:
        log.warning("%s: %s", out, warning)
    if "validation" in scored:
        true = {part: class_numbers(cycles) for part, (cycles, _) in found.items()}
        figures |= predictions.metrics_from_validation(true, scored)
        patients = data.table.iloc[data.rows("validation")]["patient"].nunique()
        known = predictions.fit_calibration(true["validation"], scored["validation"], patients)
        run_folder.save_tensors(out / "best.safetensors", tensors, {**about, "calibration": known})
        validation = predictions.predictions_table(found["validation"][0], scored["validation"])
        run_folder.write_table(out / "predictions_validation.csv", validation)
    run_folder.write_table(out / "predictions.csv", predictions.predictions_table(rows, scored["test"]))
    if isinstance(fusion := getattr(model, "fusion", None), LayerFusion):
        run_folder.write_json(out / "layer_weights.json", predictions.layer_weights(fusion.layers, fusion.weight))
    run_folder.write_json(out / "evaluation.json", figures)
    run_folder.finish(out)
    return figures


def run_record(recipe: Recipe, table: pd.DataFrame, command: str) -> dict[str, Any]:
    """-> config.json: what was asked, on which data, with which software."""
    used = table[table["split"] != ""]
    parts = {
        part: {
            "recordings": int(rows["recording"].nunique()),
            "patients": int(rows["patient"].nunique()),
            "cycles": len(rows),
            "classes": {name: int((rows["label"] == name).sum()) for name in CLASSES},
        }
        for part, rows in used.groupby("split")
    }
    return {
        "recipe": recipe.name,
        "provenance": recipe.provenance,
        **asked_for(recipe),
        "overrides": dict(recipe.overrides),
        "seed": recipe.config.seed,
        **({"asked": asked_for(recipe.asked)} if recipe.asked else {}),
        "classes": list(CLASSES),
        "split": {
            "name": recipe.config.split.name,
            "digest": run_folder.digest(used),
            "data_digest": run_folder.digest(table.assign(split="")),
            "whole_database": predictions.is_whole_database(table),
            "overlap_patients": splits.overlap_patients(table),
            **{str(part): facts for part, facts in parts.items()},
            "left_out": table.attrs.get("left_out", []),
        },
        "command": command,
        **run_folder.environment(),
    }


def asked_for(recipe: Recipe) -> dict[str, Any]:
    """-> what makes the recipe again."""
    return {"options": dict(recipe.options), "config": to_dict(recipe.config)}
