"""How many processors and threads there are to compute with, whether or not torch is there."""

import os
import sys


def count_processors() -> int:
    """-> how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_threads() -> int:
    """-> how many threads one engine takes: as many as torch, where that is in use, else as OMP_NUM_THREADS says, which
    torch goes by too, else one a processor."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else count_processors()


def limit_threads(count: int) -> None:
    """Engines that are made from now on take so many threads, torch too if it comes later."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)
