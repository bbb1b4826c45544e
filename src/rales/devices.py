"""Where a job computes: device, number of processes, numeric precision."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BF16_MUST_GAIN = 1.3  # times float32; below that, what autocast adds around the products eats the gain


@dataclass(frozen=True)
class Place:
    """One process of a job: its device, rank and number of processes, and the dtype of autocast (None = float32)."""

    device: torch.device
    rank: int
    world: int
    dtype: torch.dtype | None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def synchronising(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Where a backward pass stands: only the last piece of a batch exchanges gradients between processes."""
        if isinstance(network, DistributedDataParallel) and not last:
            return network.no_sync()
        return nullcontext()

    def describe(self) -> dict[str, Any]:
        """-> what of this place can change a result."""
        return {"device": self.device.type, "precision": "bf16" if self.dtype else "float32", "processes": self.world}

    def gather(self, value: Any) -> list[Any]:
        """This process's value -> the values of all processes, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def place(device: str, precision: str) -> Place:
    """Names of a config -> Place; joins the process group when started by torchrun.

    Errors: a device that this machine lacks is a sentence.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    chosen = pick(device, local if world > 1 else 0)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Place(chosen, rank, world, autocast_dtype(precision, chosen))


def pick(name: str, index: int) -> torch.device:
    """Device name or "auto" -> device; `index` is this process's GPU when several take part."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", index)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not there ({str(error).splitlines()[0]}); use auto or cpu") from error
    return torch.device("cuda", index) if name == "cuda" else chosen


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """ "auto", "bf16" or "float32" and a device -> dtype for autocast, or None for plain float32."""
    if precision == "float32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if device.type == "cpu" and bf16_pays() else None


@cache
def bf16_pays() -> bool:
    """Whether this processor multiplies matrices of a ViT's size clearly faster in bfloat16 than in float32.

    Measured (about 0.3 s, once a process), since no flag tells: units for bfloat16 make it 2 to 8 times faster,
    processors without them emulate it up to 5 times slower.
    """
    matrices = {
        dtype: (torch.ones(1024, 768, dtype=dtype), torch.ones(1536, 768, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(matrices, float("inf"))
    for _ in range(8):  # in turn, and the best of each: the first prepares its kernel, others may use the machine
        for dtype, (tokens, weight) in matrices.items():
            started = time.perf_counter()
            torch.nn.functional.linear(tokens, weight)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] > BF16_MUST_GAIN * best[torch.bfloat16]
