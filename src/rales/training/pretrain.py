"""The M2D loop: recordings without labels in, a run folder with a pre-trained encoder out."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from rales.audio import M2DLogMel
from rales.data.corpus import Corpus
from rales.data.noisy_logmel import NoisyLogMel, measure_logmel_statistics
from rales.data.random_crops import NOISE, CropChunk, CropDataset, read_crop_chunks
from rales.environment import describe_environment
from rales.errors import UsageError
from rales.files.atomic import atomic_write
from rales.files.writers import write_json
from rales.models import M2D, ViT
from rales.models.cpu_inference import prepack_for_cpu
from rales.models.m2d_checkpoints import write_reference_file
from rales.settings import DAMAGED, AnyNumber
from rales.training import lifecycle, run_folder
from rales.training.callbacks import Callback
from rales.training.optim import ema_decay, largest_weight, make_adamw, set_lr, warmup_cosine_lr
from rales.training.pretrain_settings import PretrainConfig
from rales.training.run_records import check_fields
from rales.training.teachers import ClipTeacher, Teacher, load_teacher_statistics, measure_teacher_statistics

Build = Callable[[PretrainConfig], tuple[M2D, Teacher | None]]  # -> the network, and a frozen teacher
RATE_HZ, HOP_SAMPLES = 16000, 160  # of M2D's log-mel
TEACHER_STATISTICS = "teacher_statistics.safetensors"
MASKS = 6  # stream of random numbers; those before it are of the crops


@dataclass(frozen=True)
class Statistics:
    """statistics.json: mean and deviation of the log-mel, and the noise's mean."""

    mean: AnyNumber
    std: float
    noise_mean: AnyNumber


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
SUMS = ("loss", "m2d_loss", "teacher_loss", "gradient_norm")  # over the steps of an epoch
BEGIN: dict[str, Any] = {"step": 0, "sums": [0.0] * len(SUMS), "seconds": 0.0}  # of an epoch that has not begun


class Probe(NamedTuple):
    """A quick score of an encoder: facts for the run's record, and the function (encoder) -> figures."""

    facts: dict[str, Any]
    score: Callable[[ViT], dict[str, float]]


@dataclass(frozen=True)
class Pretraining:
    """What stays the same from the first step of a run to the last."""

    config: PretrainConfig
    run: lifecycle.Run
    sounds: CropDataset
    noises: CropDataset | None
    hearing: NoisyLogMel
    teacher: Teacher | None
    model: M2D
    network: nn.Module  # the model, wrapped where several processes train it
    optimiser: torch.optim.AdamW
    notes: list[dict[str, str]]  # on recordings, not yet written

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return items_of(self.config, self.sounds.collection) // self.config.pretrain.batch_size


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
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Pre-train on a collection and write the run folder.

    A finished run of the same settings is returned as it is; an unfinished one goes on where it was saved last and
    ends with the same numbers as an undisturbed one.

    Parameters
    ----------
    config : the settings.
    data : the recordings.
    out : the run folder.
    build : makes the network, and a frozen teacher or None.
    noise : recordings that are mixed into the crops.
    probe : scores the encoder every few epochs.
    command : the command line, for the record.
    progress : whether to show bars.
    callbacks : are told of the run, its epochs and what came of it, and cannot stop it.

    Returns
    -------
    What came of it ({} in all processes but the first). Errors: a folder of other settings, settings that do not fit
    together, and all that reading recordings and checkpoints can meet.
    """
    numbers = config.pretrain
    context = lifecycle.join_processes(out, numbers.device, numbers.precision)
    if numbers.batch_size < context.world_size:
        raise UsageError(f"a batch of {numbers.batch_size} for {context.world_size} processes; each needs a crop of it")

    record = run_record(config, data, noise, probe, command)
    with lifecycle.open_run(
        out, record, context, section=type(config), progress=progress, callbacks=callbacks
    ) as opened:
        if opened.finished:
            return summarise_run(out, opened.record) if context.is_main else {}
        job, state = prepare_pretraining(config, data, opened, build=build, noise=noise)
        if context.is_main:
            begin_metrics(job, state, probe)

        done, total = state["epoch"] * job.steps + state["step"], numbers.epochs * job.steps
        bar = opened.show_progress(desc="pretrain", initial=done, total=total, unit="step")
        for epoch in range(state["epoch"] + 1, numbers.epochs + 1):
            line = train_epoch(job, epoch, state, bar)
            state = {"epoch": epoch, **BEGIN}
            if context.is_main:
                keep_epoch(job, line, state, probe)
        bar.close()

        context.wait_for_all()
        if context.is_main:
            finish_pretraining(job)
        context.wait_for_all()
        figures = summarise_run(out, opened.record) if context.is_main else {}
        opened.watchers.end_run(figures)
        return figures


def prepare_pretraining(
    config: PretrainConfig, data: Corpus, run: lifecycle.Run, *, build: Build, noise: Corpus | None
) -> tuple[Pretraining, dict[str, Any]]:
    """Collection -> crops, statistics, networks and optimiser, as new or as they were saved last; the run's state."""
    numbers, cuts, context, out = config.pretrain, config.crops, run.context, run.folder
    if context.is_main:
        with atomic_write(out / "recordings.parquet") as beside:
            data.write_table(beside)

    samples = HOP_SAMPLES * (config.encoder.unit_frames - 1)
    sounds = CropDataset(data, samples, pad=cuts.pad, shortest_s=cuts.shortest_s)
    # noise is repeated where it is short, as in the reference: silence would be none
    noises = CropDataset(noise, samples, pad="repeat", shortest_s=cuts.shortest_s, stream=NOISE) if noise else None

    torch.manual_seed(config.seed)
    model, teacher = build(config)
    model = model.to(context.device)
    teacher = prepack_for_cpu(teacher.to(context.device), "bf16" if context.dtype else "float32") if teacher else None
    optimiser = make_adamw(
        model.named_parameters(), lr=0.0, weight_decay=numbers.weight_decay, betas=(numbers.beta1, numbers.beta2)
    )

    notes: list[dict[str, str]] = []
    if context.is_main and not (out / "statistics.json").exists():
        measured_now = measure_statistics(config, sounds, noises, model, notes, progress=run.progress)
        write_json(out / "statistics.json", measured_now)
    if context.is_main and isinstance(teacher, ClipTeacher) and not (out / TEACHER_STATISTICS).exists():
        known: dict[str, Any] = {"seed": config.seed, "threads": cuts.threads, "notes": notes, "progress": run.progress}
        measured = measure_teacher_statistics(teacher, sounds, count_statistics_crops(config, sounds), **known)
        run_folder.save_tensors(out / TEACHER_STATISTICS, measured, {})
    context.wait_for_all()
    if isinstance(teacher, ClipTeacher):
        load_teacher_statistics(teacher, out / TEACHER_STATISTICS)
    stats = stored_statistics(out)
    model.norm_stats.copy_(torch.tensor([stats["mean"], stats["std"]]))
    hearing = NoisyLogMel(
        M2DLogMel().to(context.device), **stats, noise_ratio=cuts.noise_ratio, noise_heard_by=cuts.noise_heard_by
    )

    state = resume_pretraining(out, model, optimiser, run.record)
    network = DistributedDataParallel(model) if context.world_size > 1 else model
    return Pretraining(config, run, sounds, noises, hearing, teacher, model, network, optimiser, notes), state


def train_epoch(job: Pretraining, epoch: int, state: dict[str, Any], bar: "tqdm[Any]") -> dict[str, Any]:
    """One pass over the items, from step `state["step"]` on; -> its line of metrics.

    Everything random derives from (seed, epoch, step or item), so an epoch repeats exactly from wherever it was saved.
    Errors: a loss or a weight that is no longer a number, before anything of what follows is in the run folder.
    """
    config, numbers, context, model, run = job.config, job.config.pretrain, job.run.context, job.model, job.run
    steps, started = job.steps, time.perf_counter()
    before = state["sums"] if context.is_main else BEGIN["sums"]  # of the steps that were saved
    losses = lifecycle.LossSums(run, epoch, "pretrain.lr", numbers.lr, dict(zip(SUMS, before, strict=True)))
    job.network.train()
    for micro_batch in epoch_batches(job, epoch, state["step"]):
        job.notes.extend(micro_batch.notes)
        done = micro_batch.step + 1
        masks = mask_noise(config, model, epoch, micro_batch.step)[micro_batch.rows].to(
            context.device, non_blocking=True
        )
        fraction = len(masks) / numbers.batch_size
        with torch.no_grad(), context.autocast():
            noise = None if micro_batch.noise is None else micro_batch.noise.to(context.device, non_blocking=True)
            wave = micro_batch.wave.to(context.device, non_blocking=True)
            own, others = job.hearing(wave, noise)
            features = job.teacher(wave, others) if job.teacher else None
        with context.sync_gradients(job.network, micro_batch.last):
            with context.autocast():
                out = job.network(own, masks, features)
            # DDP takes the mean over processes where the loss is a sum
            (out.loss * (fraction * context.world_size)).backward()
        losses.add(done, fraction, loss=out.loss, m2d_loss=out.m2d_loss, teacher_loss=out.teacher_loss)
        if not micro_batch.last:
            continue

        set_lr(job.optimiser, lr := lr_at(config, epoch - 1 + micro_batch.step / steps))
        norm = clip_grad_norm_(model.parameters(), numbers.clip or math.inf)
        losses.add(done, 1 / context.world_size, gradient_norm=norm)
        job.optimiser.step()
        job.optimiser.zero_grad()
        model.update_target(decay := ema_at(config, (epoch - 1) * steps + micro_batch.step, numbers.epochs * steps))
        bar.update()

        saved = numbers.keep_every > 0 and done % numbers.keep_every == 0 and done < steps
        if saved or done == steps:
            losses.read()
            run.check_finite(largest_weight(model), "a weight", epoch, done, "pretrain.lr", numbers.lr)
        if saved:
            sums, seconds = sum_over_processes(job, losses), state["seconds"] + time.perf_counter() - started
            write_notes(job)
            if context.is_main:
                save_progress(job, {"epoch": epoch - 1, "step": done, "sums": sums, "seconds": seconds})

    write_notes(job)
    means = {name: value / steps for name, value in zip(SUMS, sum_over_processes(job, losses), strict=True)}
    bar.set_postfix(epoch=epoch, loss=f"{means['loss']:.4f}")
    seconds = round(state["seconds"] + time.perf_counter() - started, 3)
    shown = SUMS if job.teacher is not None else ("loss", "gradient_norm")
    line = {"epoch": epoch, "split": "train", **{name: means[name] for name in shown}}
    return {**line, "lr": lr, "ema": decay, "steps": steps, "seconds": seconds}


def epoch_batches(job: Pretraining, epoch: int, first: int) -> Iterator[CropChunk]:
    """-> this process's micro-batches of the epoch, from step `first` on."""
    numbers, context = job.config.pretrain, job.run.context
    return read_crop_chunks(
        job.sounds,
        numbers.batch_size,
        items=items_of(job.config, job.sounds.collection),
        seed=job.config.seed,
        epoch=epoch,
        first=first,
        most=numbers.micro_batch,
        part=(context.rank, context.world_size),
        threads=job.config.crops.threads,
        noise=job.noises,
        pin=context.device.type == "cuda",
    )


def sum_over_processes(job: Pretraining, losses: lifecycle.LossSums) -> list[float]:
    """-> the sums of the epoch so far, of all processes together, in the order of SUMS."""
    return [float(total) for total in np.sum(job.run.context.gather(list(losses.read().values())), axis=0)]


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


def measure_statistics(
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

    mean, std, noise_mean = cuts.mean, cuts.std, 0.0
    if cuts.statistics == "weights":
        mean, std = model.norm_stats.tolist()
    elif cuts.statistics == "measured":
        mean, std = measure_logmel_statistics(sounds, count_statistics_crops(config, sounds), **known)
    if noises:
        noise_mean, _ = measure_logmel_statistics(noises, count_statistics_crops(config, noises), **known)
    return {"mean": mean, "std": std, "noise_mean": noise_mean}


def count_statistics_crops(config: PretrainConfig, crops: CropDataset) -> int:
    """-> random crops that statistics of a collection are measured on."""
    return min(config.crops.statistics_crops, 8 * len(crops.collection))


def stored_statistics(out: Path) -> dict[str, float]:
    """Run folder -> what `statistics` found when the run began. Errors: a file that is none of it."""
    found = run_folder.read_json(out / "statistics.json")
    check_fields(Statistics, found, str(out / "statistics.json"))
    return {known.name: found[known.name] for known in fields(Statistics)}


def write_notes(job: Pretraining) -> None:
    """What all processes have to say of recordings -> log.jsonl, each sentence once."""
    notes = [note for some in job.run.context.gather(job.notes) for note in some]
    job.notes.clear()
    if job.run.context.is_main:
        run_folder.append_notes(job.run.folder, notes)


def probe_line(model: M2D, probe: Probe, epoch: int) -> dict[str, Any]:
    """Network -> the line of metrics with the probe's figures of its encoder; the network is not changed."""
    return {"epoch": epoch, "split": "probe", **probe.score(model.encoder().eval())}


def save_checkpoint(path: Path, model: M2D, record: dict[str, Any], epoch: int) -> None:
    """Network -> a checkpoint that `rales train --weights` and `rales pretrain --weights` take."""
    run_folder.save_tensors(path, model.state_dict(), {**record, "epoch": epoch}, model.metadata())


def begin_metrics(job: Pretraining, state: dict[str, Any], probe: Probe | None) -> None:
    """Drop the metrics of what is repeated; of a run that begins, write what the probe says of its start."""
    fresh = state["epoch"] == state["step"] == 0
    run_folder.truncate_metrics(job.run.folder, -1 if fresh else state["epoch"])
    if fresh and probe:
        run_folder.append_metrics(job.run.folder, [probe_line(job.model, probe, 0)])


def keep_epoch(job: Pretraining, line: dict[str, Any], state: dict[str, Any], probe: Probe | None) -> None:
    """Write what an epoch leaves behind: its lines of metrics, maybe a checkpoint, and what going on needs."""
    numbers, epoch, lines = job.config.pretrain, state["epoch"], [line]
    if probe and (epoch % numbers.probe_every == 0 or epoch == numbers.epochs):
        lines.append(probe_line(job.model, probe, epoch))
    run_folder.append_metrics(job.run.folder, lines)
    if numbers.save_every and epoch % numbers.save_every == 0:
        save_checkpoint(job.run.folder / f"checkpoint-{epoch}.safetensors", job.model, job.run.record, epoch)
    save_progress(job, state)
    job.run.watchers.end_epoch(lines)


def save_progress(job: Pretraining, state: dict[str, Any]) -> None:
    """Write all that going on needs, in one file: a kill at any moment is harmless."""
    job.run.save_resume(job.model.state_dict(), {"step": job.optimiser}, state)


def resume_pretraining(
    out: Path, model: M2D, optimiser: torch.optim.AdamW, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Load what `save_progress` wrote of a run of this record; -> whole epochs, steps and sums of the one begun."""

    def check_state(state: Any, path: str) -> None:
        check_fields(State, state, path, "state.")
        if len(state["sums"]) != len(SUMS):
            raise ValueError(f"{path}: state.sums has another length than {len(SUMS)}; {DAMAGED}")

    state = lifecycle.load_resume(
        out,
        record,
        weights=model.state_dict(),
        load_weights=model.load_state_dict,
        optimisers={"step": optimiser},
        check_state=check_state,
    )
    return state or {"epoch": 0, **BEGIN}


def finish_pretraining(job: Pretraining) -> None:
    """Leave the checkpoint behind, `done` last."""
    model, epochs, out = job.model, job.config.pretrain.epochs, job.run.folder
    save_checkpoint(out / "last.safetensors", model, job.run.record, epochs)
    if job.config.pretrain.reference_file:
        unit = (model.mel_bins, model.unit_frames)
        write_reference_file(out, model.state_dict(), epochs, unit=unit, patch=model.patch)
    run_folder.mark_done(out)


def summarise_run(out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Finished run folder and its record -> what came of it. Errors: a file of it that does not say so."""
    lines = {"train": list[dict[str, Any]](), "probe": list[dict[str, Any]]()}
    for number, line in enumerate(run_folder.read_metrics(out), start=1):
        kind = str(line.get("split"))
        if kind in lines:
            check_fields(LINES[kind], line, f"{out / 'metrics.jsonl'}, line {number}")
            lines[kind].append(line)
    if not lines["train"]:
        raise ValueError(f"{out / 'metrics.jsonl'}: holds no epoch, though the run is marked as done; {DAMAGED}")
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
        **describe_environment(),
    }
