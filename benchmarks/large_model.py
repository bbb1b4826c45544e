"""What the large route costs (`make large`): operations and memory of its steps, counted, and the hours that follow.

    python benchmarks/large_model.py               # a minute of a processor; no GPU is needed, and nothing is timed

One step of ViT-base's pre-training with a teacher and one of its fusion are taken with two clips. Operations are
torch's count of those in matrix products and convolutions, forward and backward. Memory is that of weights, gradients,
moments of the optimiser, bfloat16 copies of the weights, and of all that autograd keeps of a batch; what a backward
pass needs for a moment and CUDA itself come on top. Hours are operations divided by a rate that somebody believes in
(`--rates`), no measurement.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rales.models.mobilenet import MobileNet
from rales.recipes import m2d_fusion, m2d_pretrain
from rales.training.pretrain import HOP_SAMPLES, RATE_HZ
from rales.training.teachers import ClipTeacher, PooledMobileNet

CLIPS = 2
CROPS = 600 * 10_000  # of `make large`
CYCLES = 150 * 4142  # of the recipe's epochs, ICBHI's train side


class Cost(NamedTuple):
    """Of one clip in a step, and of the network whatever the clips are."""

    operations: float
    kept_bytes: float
    network_bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[20.0, 100.0], help="TFLOP/s that a GPU keeps up")
    options = parser.parse_args()
    torch.manual_seed(0)

    config = m2d_pretrain.settings("base")
    frames = config.encoder.unit_frames
    teacher = ClipTeacher(PooledMobileNet(MobileNet(0.4), RATE_HZ)).eval().requires_grad_(False)
    model = m2d_pretrain.build_model(config, teacher)
    logmel, wave = torch.randn(CLIPS, 1, 80, frames), torch.randn(CLIPS, HOP_SAMPLES * (frames - 1))
    vectors = teacher(wave, logmel)
    pretraining = measure_step(model, lambda: model(logmel, teacher=vectors).loss)
    listening = count_operations(lambda: teacher(wave, logmel)) / CLIPS
    pretraining = pretraining._replace(operations=pretraining.operations + listening)

    settings = m2d_fusion.Settings(variant="all_learned").with_presets(frozenset(["variant"]))
    network, cycles = m2d_fusion.build_model(settings), torch.randn(CLIPS, 1, 80, 801)
    finetuning = measure_step(network, lambda: network(cycles).logsumexp(dim=1).sum())

    rates = options.rates
    print("| step | clips in all | GFLOP a clip | batch | GiB, all at once | GiB, 16 at once | ", end="")
    print(" | ".join(f"hours at {rate:g} TFLOP/s" for rate in rates), "|")
    print("|---" * (6 + len(rates)) + "|")
    print_row("pre-training", pretraining, CROPS, config.pretrain.batch_size, rates)
    print_row("fine-tuning", finetuning, CYCLES, settings.train.batch_size, rates)
    print(f"the teacher's part of a pre-training step: {listening / 1e9:.2f} GFLOP a clip")


def measure_step(model: nn.Module, loss: Callable[[], Tensor]) -> Cost:
    """Network and its loss on CLIPS clips -> what a step costs."""
    operations = count_operations(lambda: loss().backward()) / CLIPS
    of_weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
        graph = loss()  # held, so that no two of what it keeps stand in one place

    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    held = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    del graph
    copies = 2 * learned  # the bfloat16 weights are among what is kept, once whatever the clips are
    moments_and_gradient = (2 + 1) * 4 * learned
    return Cost(operations, (sum(kept.values()) - copies) / CLIPS, held + copies + moments_and_gradient)


def count_operations(work: Callable[[], object]) -> float:
    """-> floating-point operations of matrix products and convolutions, attention as plain products."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return float(counter.get_total_flops())


def print_row(name: str, cost: Cost, clips: int, batch: int, rates: list[float]) -> None:
    gib = " | ".join(f"{(cost.network_bytes + number * cost.kept_bytes) / 2**30:.1f}" for number in (batch, 16))
    hours = " | ".join(f"{cost.operations * clips / rate / 1e12 / 3600:.1f}" for rate in rates)
    print(f"| {name} | {clips:,} | {cost.operations / 1e9:.0f} | {batch} | {gib} | {hours} |")


if __name__ == "__main__":
    main()
