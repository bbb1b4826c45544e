"""The M2D loop: recordings without labels in, a run folder with a pre-trained encoder out."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from rales.audio import M2DLogMel
from rales.data.corpus import Corpus
from rales.data.noisy_logmel import NoisyLogMel, measure_logmel_statistics
from rales.data.random_crops import NOISE, CropDataset, read_crop_chunks
from rales.errors import UsageError
from rales.files.atomic import atomic_write, lock_folder
from rales.models import M2D, ViT
from rales.models.cpu_inference import prepack_for_cpu
from rales.models.m2d_checkpoints import check_complete, write_reference_file
from rales.progress import progress_bar
from rales.training import run_folder
from rales.training.distributed import Place, place
from rales.training.optim import (
    adamw,
    clip_gradients,
    ema_decay,
    largest_weight,
    load_state_tensors,
    set_lr,
    state_tensors,
    warmup_cosine_lr,
)
from rales.training.pretrain_settings import PretrainConfig
from rales.training.run_records import WRONG, check

Build = Callable[[PretrainConfig], tuple[M2D, ViT | None]]  # -> the network, and a frozen teacher
HOP_SAMPLES = 160
MASKS = 6  # stream of random numbers; those before it are of the crops


@dataclass(frozen=True)
class Statistics:
    """statistics.json: mean and deviation of the log-mel, and the noise's mean."""

    mean: float
    std: float
    noise_mean: float


@dataclass(frozen=True)
class State:
    """Where an unfinished pre-training stands."""

    epoch: int
    step: int
    sums: list[float]
    seconds: float


@dataclass(frozen=True)
class TrainLine:
    """An epoch in metrics.jsonl."""

    epoch: int
    loss: float


@dataclass(frozen=True)
class ProbeLine:
    """A probe's figures in metrics.jsonl."""

    epoch: int
    specificity: float | None
    sensitivity: float | None
    score: float | None
    score_last_layer: float | None


LINES: dict[str, type] = {"train": TrainLine, "probe": ProbeLine}
BEGIN: dict[str, Any] = {"step": 0, "sums": [0.0] * 4, "seconds": 0.0}  # where an epoch stands that has not begun


class Probe(NamedTuple):
    """A quick score of an encoder: facts for the run's record, and the function (encoder) -> figures."""

    facts: dict[str, Any]
    score: Callable[[ViT], dict[str, float]]


def run(
    config: PretrainConfig,
    data: Corpus,
    out: Path,
    *,
    build: Build,
    noise: Corpus | None = None,
    probe: Probe | None = None,
    command: str = "",
    progress: bool = False,
) -> dict[str, Any]:
    """Pre-train on a collection and write the run folder; -> what came of it.

    A finished run of the same settings is returned as it is; an unfinished one goes on where it was saved last and
    ends with the same numbers as an undisturbed one. Errors: a folder of other settings, settings that do not fit
    together, and all that reading recordings and checkpoints can meet.
    """
    precision = config.pretrain.precision
    here = place(config.pretrain.device, (precision == "auto" and run_folder.stored_precision(out)) or precision)
    if config.pretrain.batch_size < here.world:
        raise UsageError(f"a batch of {config.pretrain.batch_size} for {here.world} processes; each needs a crop of it")
    record = {**run_record(config, data, noise, probe, command), "computed_in": here.describe()}
    with lock_folder(out) if here.rank == 0 else nullcontext():
        return train(config, data, out, here, record, build=build, noise=noise, probe=probe, progress=progress)


@dataclass
class Job:
    """What stays the same from the first step of a run to the last."""

    config: PretrainConfig
    out: Path
    here: Place
    record: dict[str, Any]
    sounds: CropDataset
    noises: CropDataset | None
    hearing: NoisyLogMel
    teacher: ViT | None
    model: M2D
    network: nn.Module  # the model, wrapped where several processes train it
    optimiser: torch.optim.AdamW
    notes: list[dict[str, str]]  # on recordings, not yet written
    bar: "tqdm[Any]"


def train(
    config: PretrainConfig,
    data: Corpus,
    out: Path,
    here: Place,
    record: dict[str, Any],
    *,
    build: Build,
    noise: Corpus | None,
    probe: Probe | None,
    progress: bool,
) -> dict[str, Any]:
    """The run from where it was saved last to the end; -> what came of it (rank 0)."""
    finished = here.rank == 0 and run_folder.begin(out, record)
    if any(here.gather(finished)):  # and nobody reads the folder before rank 0 has made it
        return summary(out, record) if here.rank == 0 else {}
    numbers, steps = config.pretrain, items_of(config, data) // config.pretrain.batch_size
    shown = progress and here.rank == 0
    if here.rank == 0:
        with atomic_write(out / "recordings.parquet") as beside:
            data.write_table(beside)

    samples, cuts = HOP_SAMPLES * (config.encoder.unit_frames - 1), config.crops
    sounds = CropDataset(data, samples, pad=cuts.pad, shortest_s=cuts.shortest_s)
    # noise is repeated where it is short, as in the reference: silence would be none
    noises = CropDataset(noise, samples, pad="repeat", shortest_s=cuts.shortest_s, stream=NOISE) if noise else None
    torch.manual_seed(config.seed)
    model, teacher = build(config)
    model = model.to(here.device)
    teacher = prepack_for_cpu(teacher.to(here.device), "bf16" if here.dtype else "float32") if teacher else None
    optimiser = adamw(
        model.named_parameters(), lr=0.0, weight_decay=numbers.weight_decay, betas=(numbers.beta1, numbers.beta2)
    )
    notes: list[dict[str, str]] = []
    if here.rank == 0 and not (out / "statistics.json").exists():
        run_folder.write_json(out / "statistics.json", statistics(config, sounds, noises, model, notes, progress=shown))
    here.gather("measured")
    stats = stored_statistics(out)
    model.norm_stats.copy_(torch.tensor([stats["mean"], stats["std"]]))
    state = resume(out, model, optimiser, record)
    job = Job(
        config=config,
        out=out,
        here=here,
        record=record,
        sounds=sounds,
        noises=noises,
        hearing=NoisyLogMel(
            M2DLogMel().to(here.device), **stats, noise_ratio=cuts.noise_ratio, noise_heard_by=cuts.noise_heard_by
        ),
        teacher=teacher,
        model=model,
        network=DistributedDataParallel(model) if here.world > 1 else model,
        optimiser=optimiser,
        notes=notes,
        bar=progress_bar(
            shown=shown,
            desc="pretrain",
            initial=state["epoch"] * steps + state["step"],
            total=numbers.epochs * steps,
            unit="step",
        ),
    )
    if here.rank == 0:
        fresh = state["epoch"] == state["step"] == 0
        run_folder.forget_after(out, -1 if fresh else state["epoch"])
        if fresh and probe:  # what the start knows already
            run_folder.append_metrics(out, [{"epoch": 0, "split": "probe", **scored(model, probe)}])
    for epoch in range(state["epoch"] + 1, numbers.epochs + 1):
        lines = [train_epoch(job, epoch, state)]
        state = {"epoch": epoch, **BEGIN}
        if here.rank == 0:
            if probe and (epoch % numbers.probe_every == 0 or epoch == numbers.epochs):
                lines.append({"epoch": epoch, "split": "probe", **scored(model, probe)})
            run_folder.append_metrics(out, lines)
            if numbers.save_every and epoch % numbers.save_every == 0:
                save(out / f"checkpoint-{epoch}.safetensors", model, record, epoch)
            keep(job, state)
    job.bar.close()
    here.gather("trained")
    if here.rank == 0:
        finish(job)
    here.gather("finished")
    return summary(out, record) if here.rank == 0 else {}


def train_epoch(job: Job, epoch: int, state: dict[str, Any]) -> dict[str, Any]:
    """One pass over the items, from step `state["step"]` on; -> its line of metrics.

    Everything random derives from (seed, epoch, step or item), so an epoch repeats exactly from wherever it was saved.
    """
    config, numbers, here, model = job.config, job.config.pretrain, job.here, job.model
    items = items_of(config, job.sounds.collection)
    steps, started = items // numbers.batch_size, time.perf_counter()
    sums = np.array(state["sums"] if here.rank == 0 else BEGIN["sums"])  # losses: whole, M2D's, teacher's; gradient
    job.network.train()
    for piece in read_crop_chunks(
        job.sounds,
        numbers.batch_size,
        items=items,
        seed=config.seed,
        epoch=epoch,
        first=state["step"],
        most=numbers.micro_batch,
        part=(here.rank, here.world),
        threads=config.crops.threads,
        noise=job.noises,
    ):
        job.notes += piece.notes
        masks = mask_noise(config, model, epoch, piece.step)[piece.rows].to(here.device)
        share = len(masks) / numbers.batch_size
        with torch.no_grad(), here.autocast():
            noise = None if piece.noise is None else piece.noise.to(here.device)
            own, others = job.hearing(piece.wave.to(here.device), noise)
            features = job.teacher(others, "stacked")[-1] if job.teacher else None
        with here.synchronising(job.network, piece.last):
            with here.autocast():
                found = job.network(own, masks, features)
            (found.loss * (share * here.world)).backward()  # DDP takes the mean over processes where the loss is a sum
        sums[:3] += [share * loss.item() for loss in (found.loss.detach(), found.m2d_loss, found.teacher_loss)]
        if not piece.last:
            continue
        run_folder.stop_if_diverged(job.out, sums[0], "the loss", epoch, piece.step + 1, "pretrain.lr", numbers.lr)
        set_lr(job.optimiser, lr := lr_at(config, epoch - 1 + piece.step / steps))
        sums[3] += clip_gradients(model.parameters(), numbers.clip) / here.world
        job.optimiser.step()
        job.optimiser.zero_grad()
        model.update_target(decay := ema_at(config, (epoch - 1) * steps + piece.step, numbers.epochs * steps))
        job.bar.update()
        done = piece.step + 1
        saved = numbers.keep_every > 0 and done % numbers.keep_every == 0 and done < steps
        if saved or done == steps:
            run_folder.stop_if_diverged(
                job.out, largest_weight(model), "a weight", epoch, done, "pretrain.lr", numbers.lr
            )
        if saved:
            together, seconds = np.sum(here.gather(sums), axis=0), state["seconds"] + time.perf_counter() - started
            write_notes(job)
            if here.rank == 0:
                keep(job, {"epoch": epoch - 1, "step": done, "sums": together.tolist(), "seconds": seconds})
    write_notes(job)
    loss, m2d_loss, teacher_loss, norm = (np.sum(here.gather(sums), axis=0) / steps).tolist()
    line: dict[str, Any] = {"epoch": epoch, "split": "train", "loss": loss}
    if job.teacher is not None:
        line |= {"m2d_loss": m2d_loss, "teacher_loss": teacher_loss}
    job.bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}")
    seconds = round(state["seconds"] + time.perf_counter() - started, 3)
    return {**line, "gradient_norm": norm, "lr": lr, "ema": decay, "steps": steps, "seconds": seconds}


def items_of(config: PretrainConfig, data: Corpus) -> int:
    """-> crops an epoch: one of each recording, or more where the list is to repeat or would not fill a batch."""
    return max(len(data), config.crops.min_items, config.pretrain.batch_size)


def mask_noise(config: PretrainConfig, model: M2D, epoch: int, step: int) -> Tensor:
    """Place in the training -> (batch, patches) that says what is masked, the same on any number of processes."""
    seed = np.random.SeedSequence([MASKS, config.seed, epoch, step]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(seed >> 1))
    return torch.rand(config.pretrain.batch_size, model.rows * model.columns, generator=generator)


def lr_at(config: PretrainConfig, epoch: float) -> float:
    """Epochs done -> learning rate of the next step."""
    numbers = config.pretrain
    lr = numbers.lr * numbers.batch_size / 256
    rise = numbers.warmup_epochs or numbers.warmup_share * numbers.epochs
    return warmup_cosine_lr(epoch, lr=lr, warmup_epochs=rise, epochs=numbers.epochs)


def ema_at(config: PretrainConfig, step: int, steps: int) -> float:
    """Step (from 0) of all steps -> share of itself that the target keeps."""
    numbers = config.pretrain
    faster = numbers.ema_steps / steps if numbers.ema_steps else 1.0
    start, end = (max(1 - faster * (1 - value), 0.0) for value in (numbers.ema_start, numbers.ema_end))
    return ema_decay(step, steps, start=start, end=end)


def statistics(
    config: PretrainConfig,
    sounds: CropDataset,
    noises: CropDataset | None,
    model: M2D,
    notes: list[dict[str, str]],
    *,
    progress: bool,
) -> dict[str, float]:
    """-> mean and standard deviation of the log-mel that the run normalises with, and the noise's mean."""
    cuts = config.crops
    known: dict[str, Any] = {"seed": config.seed, "threads": cuts.threads, "notes": notes, "progress": progress}

    def number(crops: CropDataset) -> int:
        return min(cuts.statistics_crops, 8 * len(crops.collection))

    mean, std, noise_mean = cuts.mean, cuts.std, 0.0
    if cuts.statistics == "weights":
        mean, std = model.norm_stats.tolist()
    elif cuts.statistics == "measured":
        mean, std = measure_logmel_statistics(sounds, number(sounds), **known)
    if noises:
        noise_mean, _ = measure_logmel_statistics(noises, number(noises), **known)
    return {"mean": mean, "std": std, "noise_mean": noise_mean}


def stored_statistics(out: Path) -> dict[str, float]:
    """Run folder -> what `statistics` found when the run began. Errors: a file that is none of it."""
    found = run_folder.read_json(out / "statistics.json")
    check(Statistics, found, str(out / "statistics.json"))
    return {known.name: found[known.name] for known in fields(Statistics)}


def write_notes(job: Job) -> None:
    """What all processes have to say of recordings -> log.jsonl, each sentence once."""
    notes = [note for some in job.here.gather(job.notes) for note in some]
    job.notes.clear()
    if job.here.rank == 0:
        run_folder.append_notes(job.out, notes)


def scored(model: M2D, probe: Probe) -> dict[str, float]:
    """Network -> the probe's figures of its encoder as it is; the network is not changed."""
    return probe.score(model.encoder().eval())


def save(path: Path, model: M2D, record: dict[str, Any], epoch: int) -> None:
    """Network -> a checkpoint that `rales train --weights` and `rales pretrain --weights` take."""
    run_folder.save_tensors(path, model.state_dict(), {**record, "epoch": epoch}, model.metadata())


def keep(job: Job, state: dict[str, Any]) -> None:
    """Write all that going on needs, in one file: a kill at any moment is harmless."""
    about = {**job.record, "epoch": state["epoch"], "state": state}
    tensors = {**job.model.state_dict(), **state_tensors(job.optimiser, "optimiser.")}
    run_folder.save_resume(job.out, tensors, about)


def resume(out: Path, model: M2D, optimiser: torch.optim.AdamW, record: Mapping[str, Any]) -> dict[str, Any]:
    """Load what `keep` wrote of a run of this record, if it did; -> whole epochs, steps and sums of the one begun."""

    def take(tensors: Mapping[str, Tensor], stored: Mapping[str, Any], path: Path) -> None:
        run_folder.check_same_run(path, stored, record)
        check(State, stored.get("state"), str(path), "state.")
        if len(stored["state"]["sums"]) != len(BEGIN["sums"]):
            raise ValueError(f"{path}: state.sums has another length than {len(BEGIN['sums'])}; {WRONG}")
        weights = {name: value for name, value in tensors.items() if not name.startswith("optimiser.")}
        check_complete(weights, model.state_dict(), path)
        model.load_state_dict(weights)
        load_state_tensors(optimiser, tensors, "optimiser.", path)

    state = run_folder.read_resume(out, take)
    if state is None:
        return {"epoch": 0, **BEGIN}
    return state


def finish(job: Job) -> None:
    """Leave the checkpoint behind, `done` last."""
    model, epochs = job.model, job.config.pretrain.epochs
    save(job.out / "last.safetensors", model, job.record, epochs)
    if job.config.pretrain.reference_file:
        unit = (model.mel_bins, model.unit_frames)
        write_reference_file(job.out, model.state_dict(), epochs, unit=unit, patch=model.patch)
    run_folder.finish(job.out)


def summary(out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Finished run folder and its record -> what came of it. Errors: a file of it that does not say so."""
    lines = {"train": list[dict[str, Any]](), "probe": list[dict[str, Any]]()}
    for number, line in enumerate(run_folder.read_metrics(out), start=1):
        kind = str(line.get("split"))
        if kind in lines:
            check(LINES[kind], line, f"{out / 'metrics.jsonl'}, line {number}")
            lines[kind].append(line)
    if not lines["train"]:
        raise ValueError(f"{out / 'metrics.jsonl'}: holds no epoch, though the run is marked as done; {WRONG}")
    return {
        "checkpoint": str(out / "last.safetensors"),
        "recordings": record["data"]["recordings"],
        "left_out": record["data"]["left_out"],
        "notes": [note for folder in record["data"]["folders"] for note in folder.get("notes", [])],
        "passed_over": sum(note["what"] == "passed over" for note in run_folder.read_notes(out)),
        **stored_statistics(out),
        "epochs": len(lines["train"]),
        "loss": {"first_epoch": lines["train"][0]["loss"], "last_epoch": lines["train"][-1]["loss"]},
        "probe": {"start": lines["probe"][0], "last": lines["probe"][-1]} if lines["probe"] else None,
    }


def run_record(
    config: PretrainConfig, data: Corpus, noise: Corpus | None, probe: Probe | None, command: str
) -> dict[str, Any]:
    """-> config.json: what was asked, on which recordings, with which software."""
    return {
        "recipe": "pretrain",
        "seed": config.seed,
        "config": asdict(config),
        "data": data.facts(),
        "noise": noise.facts() if noise else {},
        "probe": probe.facts if probe else {},
        "command": command,
        **run_folder.environment(),
    }
