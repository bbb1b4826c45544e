"""Whether Rales computes on this machine's GPU what it computes on a processor, and how fast: `scripts/gpu_check.sh`.

    scripts/gpu_check.sh [--out FOLDER] [--device cuda|cpu] [--only PART ...] [--minutes 8]

Parts: `frontends`, `encoder`, `systems` (three steps of every recipe), `pretraining` compare the device with the
processor; `finetune_speed` and `pretrain_speed` time ViT-base beside the public way (softmax and concatenation written
out, as in the timm release that the public code pins), both in float32 and under bfloat16; `choices` times the same
step without packed units, with activations computed again and without the fused optimiser, and compares what must be
equal; `training` is `rales train` from files, with what nvidia-smi says of the GPU meanwhile; `waits` counts what of an
epoch waits for the GPU; `processes` trains with two on one device; `resume` kills a run and goes on; `memory` looks for
the sentence that a full GPU gives. What is left of the minutes decides whether a part still begins. Writes
gpu_check.json and gpu_check.md; the exit code is 1 if anything compared was not equal. On a processor everything runs
in small.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.pretrain_speed import PATCHES, RATIO, Plain, PlainBlock, plain_name
from tests import tiny
from torch import Tensor, nn

from rales.audio.efficientat_logmel import EfficientATLogMel
from rales.audio.kaldi_fbank import KaldiFbank
from rales.audio.logmel import IcbhiLogMel, M2DLogMel
from rales.data import read_cycles
from rales.models import M2D, FusionClassifier, ViT
from rales.models.layer_fusion import mean_plus_max
from rales.models.vit import recompute_activations
from rales.training import finetune
from rales.training.optim import make_adam, make_adamw

FLOAT32_LIMIT = 1e-3  # of a relative difference: sums in another order, over twelve layers
BF16_LIMIT = 2e-1  # eight bits of a fraction; the gradient of the first block passes all others
STEPS_LIMIT = 2e-3  # of the loss after three steps of training
LAYERS, CLASSES, SECONDS = range(1, 13), 4, 8
KILLED = -signal.SIGKILL


@dataclass
class Check:
    """What this machine can do, and what was found."""

    device: torch.device
    folder: Path
    end: float
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def large(self) -> bool:
        return self.device.type == "cuda"

    @property
    def batch(self) -> int:
        return 64 if self.large else 2

    @property
    def depth(self) -> int:
        """Blocks of the ViT-base that is timed."""
        return 12 if self.large else 2

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.large:
            torch.cuda.synchronize(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as `rales train` has it

    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("RALES_CACHE", str(Path(folder) / "cache"))
        check = Check(torch.device(options.device), Path(folder), end, {"machine": describe_machine(options.device)})
        print(json.dumps(check.found["machine"]), flush=True)
        for name in options.only:
            run_part(check, name)
            (options.out / "gpu_check.json").write_text(json.dumps(check.found, indent=2) + "\n")
    table = write_table(check.found)
    (options.out / "gpu_check.md").write_text(table)
    print(table)
    sys.exit(int(any(part.get("equal") is False or "error" in part for part in check.found.values())))


def run_part(check: Check, name: str) -> None:
    """Do one part and keep what it found; what it raises is kept, too, and the next part goes on."""
    needed_s = NEEDED_S.get(name, 20)
    if check.end - time.monotonic() < needed_s:
        check.found[name] = {"skipped": f"less than {needed_s} s were left"}
        return
    started = time.monotonic()
    try:
        part = PARTS[name](check)
    except Exception as error:  # one part must not cost the others
        traceback.print_exc()
        part = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    check.found[name] = {**part, "seconds": round(time.monotonic() - started, 1)}
    print(f"{name}: {json.dumps(check.found[name])}", flush=True)


def describe_machine(device: str) -> dict[str, Any]:
    machine = {"device": device, "torch": torch.__version__, "processors": len(os.sched_getaffinity(0))}
    if device.startswith("cuda"):
        facts = torch.cuda.get_device_properties(torch.device(device))
        machine |= {"gpu": facts.name, "gpu_gb": round(facts.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return machine


# Parity


def difference(found: Tensor, expected: Tensor) -> float:
    """-> largest difference as a share of the largest expected value."""
    return float((found.detach().cpu().double() - expected.detach().double()).abs().max() / expected.abs().max())


def compare_frontends(check: Check) -> dict[str, Any]:
    """Waveforms -> log-mel on the device and on the processor."""
    found = {}
    for frontend in (M2DLogMel(), IcbhiLogMel(), KaldiFbank(), EfficientATLogMel()):
        frontend.eval()
        waveform = 0.1 * torch.randn(4, 4 * 16000)
        with torch.inference_mode():
            expected = frontend(waveform)
            found[type(frontend).__name__] = difference(frontend.to(check.device)(waveform.to(check.device)), expected)
    return {"differences": found, "equal": all(value < FLOAT32_LIMIT for value in found.values())}


def first_gradient(model: nn.Module) -> Tensor:
    """-> gradient of the first attention, which has passed through everything behind it."""
    gradients = (each.grad for name, each in model.named_parameters() if "qkv.weight" in name)
    return next(grad for grad in gradients if grad is not None).detach().cpu().clone()


def compare_encoder(check: Check) -> dict[str, Any]:
    """ViT-base with all layers fused -> logits and gradient of the loss, in float32 and under bfloat16."""
    model = FusionClassifier(ViT(), LAYERS, learned=True, classes=CLASSES).eval()
    logmel, label = torch.randn(2, 1, 80, 801), torch.tensor([0, 3])

    def run(device: torch.device, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        model.to(device).zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is not None):
            logits = model(logmel.to(device)).float()
        F.cross_entropy(logits, label.to(device)).backward()
        return logits.detach().cpu(), first_gradient(model)

    expected = run(torch.device("cpu"), None)
    found: dict[str, float] = {}
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        for what, here, there in zip(("logits", "gradient"), run(check.device, dtype), expected, strict=True):
            found[f"{what}, {name}"] = difference(here, there)
    equal = all(value < (FLOAT32_LIMIT if "float32" in name else BF16_LIMIT) for name, value in found.items())
    return {"differences": found, "equal": equal}


def compare_pretraining(check: Check) -> dict[str, Any]:
    """Log-mel and one mask -> M2D's loss and its gradient."""
    model = M2D(ViT(dim=192, depth=4, heads=3), mask_ratio=RATIO)
    logmel, noise = torch.randn(4, 1, 80, 608), torch.rand(4, PATCHES)

    def run(device: torch.device) -> tuple[Tensor, Tensor]:
        model.to(device).zero_grad()
        loss = model(logmel.to(device), noise.to(device)).loss
        loss.backward()
        return loss.detach().cpu(), first_gradient(model)

    expected = run(torch.device("cpu"))
    names = ("loss", "gradient")
    found = {
        name: difference(*pair) for name, pair in zip(names, zip(run(check.device), expected, strict=True), strict=True)
    }
    return {"differences": found, "equal": all(value < FLOAT32_LIMIT for value in found.values())}


def compare_systems(check: Check) -> dict[str, Any]:
    """Three training steps of every recipe, in small, from files -> how far the losses are from the processor's."""
    data = tiny.write_folder(check.folder / "breaths")
    sides = ("cpu", str(check.device))

    def compare(name: str) -> float | str | None:
        if check.end - time.monotonic() < 60:
            return None
        try:
            cpu, device = (
                three_losses(name, data, check.folder / f"{name}-{side}", on) for side, on in enumerate(sides)
            )
            return float(np.max([abs(a - b) / abs(b) for a, b in zip(device, cpu, strict=True)]))
        except Exception as error:  # one system must not cost the others
            return f"{type(error).__name__}: {error}"

    names = tiny.SYSTEMS
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:  # most of a run is its start
        compared = zip(names, pool.map(compare, names), strict=True)
        found = {name: value for name, value in compared if value is not None}
    if not found:
        return {"skipped": "no time was left"}
    equal = all(isinstance(value, float) and value < STEPS_LIMIT for value in found.values())
    left_out = {"left_out": f"{len(names) - len(found)}, no time was left"} if len(found) < len(names) else {}
    return {"differences": found, "equal": equal, "systems": len(found), "of": len(names), **left_out}


def three_losses(name: str, data: Path, out: Path, device: str) -> list[float]:
    """Recipe, folder, run folder, device -> the loss of its steps. RuntimeError with the command's sentence."""
    words = ["train.epochs=3", "train.batch_size=64", "train.micro_batch=0", "train.drop_last=false"]
    words += ["train.evaluate_every=3", f"train.device={device}", "train.precision=float32"]
    command = ["train", name, "--data", data, "--out", out, "--size", "tiny", "--seed", "7"]
    rales(*command, *(part for word in words for part in ("--set", word)))
    logs = sorted(out.rglob("metrics.jsonl"))  # one for each stage of its training
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [float(line["loss"]) for line in lines if line["split"] == "train"]


def rales(*words: Any, here: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own. RuntimeError with its sentence if it fails and `here` is set."""
    command = [sys.executable, "-m", "rales", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and here:
        raise RuntimeError(f"rales {words[0]}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return done


# Speed


def time_turns(check: Check, turns: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Name -> work; -> seconds of each turn. All take turns, so that all are disturbed alike; of one thread on a
    processor it is the processor's time."""
    clock = time.perf_counter if check.large or torch.get_num_threads() > 1 else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            check.wait()
            started = clock()
            turn()
            check.wait()
            if number:
                seconds[name].append(clock() - started)
    return seconds


def measure_contenders(
    check: Check, contenders: dict[str, Callable[[], Callable[[], object]]], peer: str = "public, float32"
) -> dict[str, Any]:
    """Name -> function that makes a step -> clips a second, memory, times as fast as the peer."""
    found: dict[str, dict[str, float]] = {}
    turns = {}
    for name, make in contenders.items():
        if check.large:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(check.device)
            held = torch.cuda.memory_allocated(check.device)
        turns[name] = make()
        turns[name]()
        turns[name]()  # the second has the optimiser's moments from the start
        found[name] = {}
        if check.large:
            found[name]["memory_gb"] = round((torch.cuda.max_memory_allocated(check.device) - held) / 1e9, 2)
    seconds = time_turns(check, turns, 10 if check.large else 2)
    for name, values in seconds.items():
        found[name]["clips_per_s"] = round(check.batch / statistics.median(values), 1)
        ratios = [theirs / ours for theirs, ours in zip(seconds[peer], values, strict=True)]
        found[name]["times_as_fast"] = round(statistics.median(ratios), 2)
    return {"batch": check.batch, "peer": peer, "contenders": found}


def autocast(check: Check, bf16: bool) -> torch.autocast:
    return torch.autocast(check.device.type, dtype=torch.bfloat16, enabled=bf16)


class PlainClassifier(nn.Module):
    """(B, 1, 80, 816) -> (B, 4) logits: ViT-base, explicit concatenation of its layers, mean + max, linear."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, 768, 16, 16)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 768)), nn.Parameter(torch.zeros(1, 256, 768))
        self.blocks = nn.ModuleList(PlainBlock(768, 12) for _ in range(depth))
        self.weight = nn.Parameter(torch.ones(depth))
        self.head = nn.Linear(depth * 768, CLASSES)

    def forward(self, logmel: Tensor) -> Tensor:
        x = self.patch_embed(logmel).flatten(2).transpose(1, 2)[:, :255] + self.pos_embed[:, 1:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        states = []
        for weight, block in zip(self.weight, self.blocks, strict=True):
            x = block(x)
            states.append(weight * x[:, 1:])
        fused = torch.cat(states, dim=-1)
        logits: Tensor = self.head(fused.mean(dim=1) + fused.amax(dim=1))
        return logits


def make_finetuning_step(
    check: Check, build: Callable[[], nn.Module], *, frames: int = 801, bf16: bool = False, fused: bool = True
) -> Callable[[], object]:
    """Function that builds a classifier -> one that does a training step of it."""
    model = build().to(check.device).train()
    logmel = torch.randn(check.batch, 1, 80, frames, device=check.device)
    label = torch.arange(check.batch, device=check.device) % CLASSES
    optimiser = make_adam(model.parameters(), lr=5e-5, weight_decay=0.0)
    if not fused:
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-5)

    def step() -> None:
        with autocast(check, bf16):
            loss = F.cross_entropy(model(logmel).float(), label)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def time_finetuning(check: Check) -> dict[str, Any]:
    """A training step of ViT-base, all layers fused, 8 s clips."""
    step_of = partial(make_finetuning_step, check)
    contenders: dict[str, Callable[[], Callable[[], object]]] = {}
    for precision, bf16 in (("float32", False), ("bfloat16", True)):
        if bf16 and not check.large:
            continue
        public = partial(PlainClassifier, check.depth)
        contenders[f"public, {precision}"] = partial(step_of, public, frames=816, bf16=bf16)
        contenders[f"rales, {precision}"] = partial(step_of, partial(build_classifier, check.depth), bf16=bf16)
    return measure_contenders(check, contenders)


def build_classifier(depth: int, *, recompute: bool = False) -> FusionClassifier:
    """-> ViT-base of so many blocks, all of them fused, from the same start at every call."""
    torch.manual_seed(0)
    model = FusionClassifier(ViT(depth=depth), range(1, depth + 1), learned=True, classes=CLASSES)
    recompute_activations(model, recompute)
    return model


class UnitByUnit(nn.Module):
    """`FusionClassifier` whose encoder takes each unit of a clip in a pass of its own."""

    def __init__(self, model: FusionClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, logmel: Tensor) -> Tensor:
        encoder, fusion = self.model.encoder, self.model.fusion
        assert isinstance(encoder, ViT)
        units = zip(*(encoder(unit) for unit in encoder.units(logmel)), strict=True)
        fused = [mean_plus_max(z) for z in fusion([torch.cat(layer, dim=1) for layer in units])]
        logits: Tensor = self.model.head(torch.cat(fused, dim=1))
        return logits


def compare_choices(check: Check) -> dict[str, Any]:
    """The same step done otherwise -> what each way is worth, and that all compute the same."""
    builds: dict[str, Callable[[], nn.Module]] = {
        "as it is": partial(build_classifier, check.depth),
        "units not packed": lambda: UnitByUnit(build_classifier(check.depth)),
        "activations recomputed": partial(build_classifier, check.depth, recompute=True),
    }
    logmel, gradients = torch.randn(2, 1, 80, 801, device=check.device), {}
    for name, build in builds.items():
        model = build().to(check.device)
        F.cross_entropy(model(logmel), torch.tensor([0, 3], device=check.device)).backward()
        gradients[name] = first_gradient(model)
    found = {name: difference(gradients[name], gradients["as it is"]) for name in builds}

    steps: dict[str, Callable[[], Callable[[], object]]] = {
        name: partial(make_finetuning_step, check, build) for name, build in builds.items()
    }
    steps["Adam not fused"] = partial(make_finetuning_step, check, builds["as it is"], fused=False)
    facts = measure_contenders(check, steps, "as it is")
    return {**facts, "differences": found, "equal": all(value < FLOAT32_LIMIT for value in found.values())}


def count_waits(check: Check) -> dict[str, Any]:
    """Epochs of ten and of two steps -> how often each waits for the GPU, which must not hang on the steps."""
    if not check.large:
        return {"skipped": "only a GPU knows; tests/test_device_waits.py counts without one"}
    cycles, counts, train_epoch = read_cycles(data_of(check)), list[int](), finetune.train_epoch

    def counted(*arguments: Any) -> dict[str, Any]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                line = train_epoch(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing" in str(each.message) for each in said))
        return line

    with patch.object(finetune, "train_epoch", counted):
        for size in (2, 10):
            words = ("train.epochs=2", f"train.batch_size={size}", f"train.device={check.device}")
            finetune.run(tiny.recipe(*words), cycles, check.folder / f"waits-{size}")
    return {"waits_of_ten_steps": counts[1], "of_two": counts[3], "equal": counts[1] == counts[3]}


def time_pretraining(check: Check) -> dict[str, Any]:
    """A pre-training step of ViT-base, 80 x 608, 70 % masked; the public way does its sums plainly."""
    logmel = torch.randn(check.batch, 1, 80, 608, device=check.device)
    noise = torch.rand(check.batch, PATCHES, device=check.device)

    def step_of(model: M2D | Plain, bf16: bool) -> Callable[[], object]:
        model.to(check.device)
        named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        optimiser: torch.optim.Optimizer = make_adamw(named, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))
        if isinstance(model, Plain):
            optimiser = torch.optim.AdamW([each for _, each in named], lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))

        def step() -> None:
            with autocast(check, bf16):
                loss = model(logmel, noise)
            (loss if isinstance(model, Plain) else loss.loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
            optimiser.step()
            optimiser.zero_grad()
            model.update_target() if isinstance(model, Plain) else model.update_target(0.99995)

        return step

    def ours() -> M2D:
        torch.manual_seed(0)
        return M2D(ViT(depth=check.depth), mask_ratio=RATIO)

    def public() -> Plain:
        plain, model = Plain(depth=check.depth), ours()
        plain.load_state_dict({plain_name(n): v.clone() for n, v in model.state_dict().items() if n != "norm_stats"})
        return plain

    contenders: dict[str, Callable[[], Callable[[], object]]] = {
        "public, float32": lambda: step_of(public(), False),
        "rales, float32": lambda: step_of(ours(), False),
    }
    if check.large:
        contenders["public, bfloat16"] = lambda: step_of(public(), True)
        contenders["rales, bfloat16"] = lambda: step_of(ours(), True)
    return measure_contenders(check, contenders)


def train_from_files(check: Check) -> dict[str, Any]:
    """`rales train` of the paper's recipe from a simulated folder -> cycles a second, and the GPU meanwhile."""
    data, out = check.folder / "simulated", check.folder / "trained"
    many = 120 if check.large else 8
    rales("synth", data, "--recordings", many, "--patients", max(4, many // 2), "--seed", 3)
    size = ["--size", "base"] if check.large else ["--size", "tiny"]
    words = ["train.epochs=4", f"train.device={check.device}", "train.evaluate_every=4"]
    with watch_gpu(check) as busy:
        settings = [part for word in words for part in ("--set", word)]
        rales("train", "m2d_fusion", "--data", data, "--out", out, *size, *settings)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    cycles = json.loads((out / "config.json").read_text())["split"]["train"]["cycles"]
    seconds = [line["seconds"] for line in lines if line["split"] == "train"]
    steady = sorted(busy)[len(busy) // 2 :]  # start-up and scoring are not training
    return {
        "cycles": cycles,
        "cycles_per_s": round(cycles / min(seconds), 1),
        "gpu_busy_percent": round(statistics.mean(steady), 1) if steady else None,
    }


@contextmanager
def watch_gpu(check: Check) -> Iterator[list[float]]:
    """-> per cent of the time in which the GPU worked, four times a second in the block; on a processor none."""
    busy: list[float] = []
    if not check.large:
        yield busy
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250"]
    watcher = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        busy.extend(float(line.split()[0]) for line in watcher.stdout or ())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield busy
    finally:
        watcher.terminate()
        reader.join(timeout=5)


# What can go wrong


def two_processes(check: Check) -> dict[str, Any]:
    """Two processes on one device beside one, without what each draws by itself -> how far probabilities are apart."""
    data = data_of(check)
    device = f"{check.device.type}:0" if check.large else "cpu"
    words = ["train.epochs=2", "train.batch_size=8", "train.micro_batch=4", "train.precision=float32"]
    words += [
        "augment.frequency_width=0",
        "augment.time_width=0",
        "augment.device_gain=0",
        "augment.device_band_limit=0",
    ]
    settings = [part for word in (*words, f"train.device={device}") for part in ("--set", word)]
    command = ["train", "m2d_fusion", "--data", data, "--size", "tiny", "--seed", "1", *settings]
    rales(*command, "--out", check.folder / "one")
    pair = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rales"]
    both = subprocess.run(
        [*map(str, [*pair, *command, "--out", check.folder / "two"])], capture_output=True, text=True, check=False
    )
    if both.returncode:
        raise RuntimeError(next((line for line in both.stderr.splitlines() if "rales:" in line), both.stderr[-300:]))
    apart = compare_runs(check.folder / "one", check.folder / "two")
    return {"difference": apart, "equal": apart < STEPS_LIMIT}


def resume_killed(check: Check) -> dict[str, Any]:
    """A run that is killed after its second epoch and called again, beside one that was left alone."""
    settings = ["--set", "train.epochs=6", "--set", f"train.device={check.device}", "--set", "train.precision=float32"]
    command = ["train", "m2d_fusion", "--data", data_of(check), "--size", "tiny", "--seed", "2", *settings]
    rales(*command, "--out", check.folder / "alone")
    out = check.folder / "killed"
    words = [sys.executable, "-m", "rales", *map(str, [*command, "--out", out])]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = out / "metrics.jsonl"
    while running.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    running.kill()
    ended = running.wait()
    rales(*command, "--out", out)
    apart = compare_runs(check.folder / "alone", out)
    return {"difference": apart, "killed": ended == KILLED, "equal": apart < STEPS_LIMIT}


def fill_memory(check: Check) -> dict[str, Any]:
    """A step that this device's memory cannot hold -> the sentence of the command."""
    limit = "torch.cuda.set_per_process_memory_fraction(0.01)" if check.large else LESS_MEMORY
    size = ["--size", "base", "--set", "train.batch_size=256", "--set", "train.micro_batch=0"]
    words = ["train", "m2d_fusion", "--data", data_of(check), "--out", check.folder / "full", *size]
    words += ["--set", f"train.device={check.device}", "--set", "train.epochs=1"]
    program = f"import torch\nfrom rales.cli import main\n{limit}\nmain({[str(word) for word in words]!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    said = (done.stderr.strip().splitlines() or [""])[-1]
    return {"sentence": said, "exit_code": done.returncode, "equal": "out of memory; where the network has it" in said}


LESS_MEMORY = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))"


def data_of(check: Check) -> Path:
    folder = check.folder / "small"
    return folder if folder.exists() else tiny.write_folder(folder)


def compare_runs(first: Path, second: Path) -> float:
    """Two run folders -> the largest difference between their probabilities."""
    import pandas as pd

    one, two = (pd.read_csv(folder / "predictions.csv") for folder in (first, second))
    names = [name for name in one.columns if name.startswith("p_")]
    return float((one[names] - two[names]).abs().to_numpy().max())


# The table


def write_table(found: dict[str, Any]) -> str:
    """What was found -> a table for docs/results.md."""
    machine = found["machine"]
    name = machine.get("gpu", "a processor, everything in small")
    lines = [
        f"{name}, torch {machine['torch']}, {machine['processors']} processors",
        "",
        "| part | found |",
        "|---|---|",
    ]
    for part, facts in found.items():
        if part == "machine":
            continue
        title = TITLES.get(part, part)
        if "error" in facts or "skipped" in facts:
            lines.append(f"| {title} | {facts.get('error') or 'left out: ' + facts['skipped']} |")
            continue
        told = []
        if "equal" in facts:
            told.append("as expected" if facts["equal"] else "**not as expected**")
        if differences := facts.get("differences"):
            numbers = [value for value in differences.values() if isinstance(value, float)]
            told.append(f"largest difference {max(numbers):.1e} of {len(differences)}" if numbers else str(differences))
        told += [f"{key.replace('_', ' ')} {shorten(facts[key])}" for key in KEYS if facts.get(key) is not None]
        lines.append(f"| {title} | {', '.join(told)} |")
        for contender, numbers in facts.get("contenders", {}).items():
            memory = f", {numbers['memory_gb']} GB" if "memory_gb" in numbers else ""
            lines.append(
                f"| - {contender}, batch {facts['batch']} | {numbers['clips_per_s']} clips a second, "
                f"{numbers['times_as_fast']} times as fast as {facts['peer']}{memory} |"
            )
    return "\n".join(lines) + "\n"


def shorten(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) and 0 < value < 0.01 else str(value)


KEYS = [
    *("systems", "of", "difference", "killed", "cycles_per_s", "gpu_busy_percent", "waits_of_ten_steps", "of_two"),
    *("left_out", "sentence", "seconds"),
]
PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "frontends": compare_frontends,
    "encoder": compare_encoder,
    "pretraining": compare_pretraining,
    "finetune_speed": time_finetuning,
    "pretrain_speed": time_pretraining,
    "choices": compare_choices,
    "training": train_from_files,
    "waits": count_waits,
    "resume": resume_killed,
    "processes": two_processes,
    "memory": fill_memory,
    "systems": compare_systems,
}
TITLES = {
    "finetune_speed": "fine-tuning step",
    "pretrain_speed": "pre-training step",
    "choices": "packed units, recomputed activations, fused Adam",
    "training": "training from files",
    "waits": "waits for the GPU in an epoch",
    "resume": "a killed run goes on",
    "processes": "two processes on one device (DDP)",
    "memory": "out of memory",
    "systems": "three steps of every system",
}
NEEDED_S = {
    "systems": 120,
    "training": 60,
    "finetune_speed": 40,
    "pretrain_speed": 40,
    "choices": 40,
    "resume": 40,
    "processes": 30,
}

if __name__ == "__main__":
    main()
