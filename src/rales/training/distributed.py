"""Where a job computes: device, number of processes, numeric precision."""

import atexit
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rales.models.cpu_inference import autocast_dtype


@dataclass(frozen=True)
class DistributedContext:
    """One process of a job: its device, rank and number of processes, and the dtype of autocast (None = float32)."""

    device: torch.device
    rank: int
    world_size: int
    dtype: torch.dtype | None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def sync_gradients(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Where a backward pass stands: only the last micro-batch of a batch exchanges gradients between processes."""
        if isinstance(network, DistributedDataParallel) and not last:
            return network.no_sync()
        return nullcontext()

    def describe(self) -> dict[str, Any]:
        """-> what of it can change a result."""
        return {
            "device": self.device.type,
            "precision": "bf16" if self.dtype else "float32",
            "processes": self.world_size,
        }

    def gather(self, value: Any) -> list[Any]:
        """This process's value -> the values of all processes, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        """Go on when every process has come here."""
        self.gather(None)


def init_distributed(device: str, precision: str) -> DistributedContext:
    """Names of a config -> this process's context; joins the process group when started by torchrun.

    Errors: a device that this machine lacks is a sentence.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    chosen = choose_device(device, local if world_size > 1 else 0)
    if world_size > 1 and chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} with {world_size} processes: use auto, cuda or cpu")
    shared = chosen.type == "cuda" and ":" in device  # all processes on one GPU, which NCCL refuses
    if chosen.type == "cuda":  # float32 is float32, and convolutions compute the same at every call
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    if world_size > 1 and not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)  # messages between processes go through this process's own GPU
        dist.init_process_group("nccl" if chosen.type == "cuda" and not shared else "gloo")
        atexit.register(dist.destroy_process_group)  # left standing, its threads may abort the ending process
    context = DistributedContext(chosen, rank, world_size, autocast_dtype(precision, chosen))
    return replace(
        context, dtype=context.gather(context.dtype)[0]
    )  # "auto" is measured: all compute as the first found best


def choose_device(name: str, index: int) -> torch.device:
    """Device name or "auto" -> device; `index` is this process's GPU when several take part."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", index)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device("cuda", index) if name == "cuda" else torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not there ({str(error).splitlines()[0]}); use auto or cpu") from error
    return chosen
