"""A ViT-base with all twelve layers fused beside the public way to do the same: training step, inference, memory.

    python benchmarks/vit_speed.py            # some minutes; --quick for three rounds

bfloat16 takes part where the processor gains from it; emulated, one training step of it takes minutes.

The public way is the ViTModel of Hugging Face transformers in the same sizes, float32, with all hidden states, an
explicit concatenation, pooling and a linear head; the ratios are to its eager attention, its fused attention (sdpa)
stands beside it. Weights are random, the front-end is left out. Input is 8 s: 801 frames in two units of 191 + 66
tokens for Rales, as M2D does, 816 frames in 256 tokens for the public model.

All take turns in one process, round after round, so that other programs on the machine disturb all alike: the figures
are the median and the best turn, a ratio is the median over rounds of (public eager / this one in the same round).
On a busy machine, where two threads wait for each other, `--threads 1` counts the processor's time, not the clock's.
Memory is the highest resident size of two training steps in a process of its own, less that before the model was built.
Needs the extra `bench`.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.export.engine_selection import speed_ratio, time_engines
from rales.jobs.benchmark import find_bf16_problem
from rales.models import FusionClassifier, ViT
from rales.models.cpu_inference import bf16_is_faster, prepack_for_cpu
from rales.training.optim import make_adam

LAYERS, CLASSES, BATCH = range(1, 13), 4, 8
SUBSETS = ((12,), (4, 7, 10), (3, 6), (1,))
EAGER, SDPA = "public, eager", "public, sdpa"
FLOAT32, BF16 = "rales, float32", "rales, bf16"
Turn = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of eleven")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = 3 if options.quick else 11
    problem = find_bf16_problem()
    names = [EAGER, SDPA, FLOAT32, *([] if problem else [BF16])]
    describe_machine()
    if problem:
        print(f"{BF16}: left out, {problem}")

    print(f"\nTraining step, batch {BATCH} (forward, loss, backward, Adam), ms per clip of 8 s")
    table(time_engines({name: training_step(name) for name in names}, rounds), BATCH)
    for batch in (BATCH, 1):
        print(f"\nInference, batch {batch}, ms per clip of 8 s")
        table(time_engines(inference_turns(names, batch), rounds if batch > 1 else 3 * rounds), batch)
    print("\nThe same, batch 1, of a network that fuses some layers: it stops behind the last of them")
    for layers, values in time_engines({str(subset): fused_turn(subset) for subset in SUBSETS}, rounds).items():
        print(f"  {layers:15s} {1000 * statistics.median(values):8.1f}")
    print(f"\nPeak memory of a training step, batch {BATCH}, MB (weights, gradients, Adam's moments, activations)")
    for name in names:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            print(f"  {name:15s} {process.submit(peak_memory_mb, name, options.threads).result():7.0f}")


class PublicClassifier(nn.Module):
    """(B, 1, 80, 816) -> (B, 4) logits: transformers' ViTModel, hidden states concatenated, mean + max, linear."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel  # after rales, which asks it to report to nobody

        sizes: dict[str, Any] = {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "image_size": (80, 816),
            "patch_size": 16,
            "num_channels": 1,
            "attn_implementation": attention,
        }
        config = ViTConfig(**sizes)
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(len(LAYERS) * 768, CLASSES)

    def forward(self, logmel: Tensor) -> Tensor:
        states = self.vit(logmel, output_hidden_states=True).hidden_states[1:]  # 0 is the patch embedding
        fused = torch.cat(states, dim=-1)[:, 1:]
        logits: Tensor = self.head(fused.mean(dim=1) + fused.amax(dim=1))
        return logits


def build(name: str) -> tuple[nn.Module, int]:
    """Name of a contender -> its model in float32 and the frames of its input."""
    if name in (EAGER, SDPA):
        return PublicClassifier(name.removeprefix("public, ")), 816
    return FusionClassifier(ViT(), LAYERS, learned=True, classes=CLASSES), 801


def training_step(name: str) -> Turn:
    """Name of a contender -> a function that does one step."""
    model, frames = build(name)
    model.train()
    logmel, label = torch.randn(BATCH, 1, 80, frames), torch.arange(BATCH) % CLASSES
    optimiser = make_adam(model.parameters(), lr=5e-5, weight_decay=0.0)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == BF16):
            loss = F.cross_entropy(model(logmel).float(), label)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def inference_turns(names: list[str], batch: int) -> dict[str, Turn]:
    """-> for every contender a function that scores a batch."""

    def turn(name: str) -> Turn:
        model, frames = build(name)
        if name in (FLOAT32, BF16):
            model = prepack_for_cpu(model, "bf16" if name == BF16 else "float32")
        model.eval()
        logmel = torch.randn(batch, 1, 80, frames)

        def score() -> None:
            with torch.inference_mode():
                model(logmel)

        return score

    return {name: turn(name) for name in names}


def fused_turn(layers: tuple[int, ...]) -> Turn:
    """Fused layers -> a function that scores one clip."""
    model = prepack_for_cpu(FusionClassifier(ViT(), layers, learned=False).eval(), "float32")
    logmel = torch.randn(1, 1, 80, 801)

    def score() -> None:
        with torch.inference_mode():
            model(logmel)

    return score


def table(seconds: dict[str, list[float]], batch: int) -> None:
    print(f"  {'':15s} {'median':>8s} {'best':>8s}   times as fast as public, eager (median of rounds; best to best)")
    for name, values in seconds.items():
        paired = speed_ratio(values, seconds[EAGER])
        best = min(seconds[EAGER]) / min(values)
        middle_ms, best_ms = (1000 * value / batch for value in (statistics.median(values), min(values)))
        print(f"  {name:15s} {middle_ms:8.1f} {best_ms:8.1f}   {paired:5.2f} {best:5.2f}")


def peak_memory_mb(name: str, threads: int) -> float:
    """Name of a contender -> how far two training steps raise this process's resident memory."""
    torch.set_num_threads(threads)
    before_kb = status_kb("VmRSS")
    step = training_step(name)
    step()
    step()  # the second has Adam's moments from the start
    return (status_kb("VmHWM") - before_kb) / 1024


def status_kb(field: str) -> int:
    """Field of Linux's account of this process -> its value in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def describe_machine() -> None:
    """Print what bounds the figures: processor, its bfloat16 units, and how fast it multiplies matrices at best."""
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    processor = {name.strip(): value.strip() for name, value in fields.items()}
    units = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in processor.get("flags", "").split()]
    name, threads = processor.get("model name", "unknown processor"), torch.get_num_threads()
    print(f"{name}, {threads} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start")
    verdict = "bfloat16" if bf16_is_faster() else "float32"
    print(f"bfloat16 units: {', '.join(units) or 'none'}; train.precision=auto takes {verdict}")
    gflop = (12 * 24 * 257 * 768**2 + 12 * 4 * (191**2 + 66**2) * 768) / 1e9  # linear layers + attention of one clip
    for dtype in (torch.float32, torch.bfloat16):
        peak = matmul_gflops(dtype)
        print(f"nn.Linear of 768 to 3072 features, {8 * 257} tokens, {dtype}: {peak:.0f} GFLOP/s; at that rate the")
        print(
            f"  {gflop:.1f} GFLOP of a clip take {1000 * gflop / peak:.0f} ms, in training {3000 * gflop / peak:.0f} ms"
        )


def matmul_gflops(dtype: torch.dtype) -> float:
    x, layer = torch.randn(BATCH * 257, 768, dtype=dtype), nn.Linear(768, 3072).to(dtype)

    def product() -> None:
        with torch.inference_mode():
            layer(x)

    seconds = time_engines({"": product}, rounds=10)[""]
    return 2 * x.numel() * layer.out_features / min(seconds) / 1e9


if __name__ == "__main__":
    main()
