"""What there is to compute with, whether or not torch is there: processors, threads, versions of packages."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rales.optional_packages import package_versions


def count_processors() -> int:
    """-> how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_made_by_amd() -> bool:
    """-> whether the processor is AMD's, False where the system does not say whose it is."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        told = platform.processor()  # of Windows: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD"
    return "AuthenticAMD" in told


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


def describe_environment() -> dict[str, Any]:
    """-> versions of what can change a result, and the commit of this package's source if it runs from a checkout."""
    packages = package_versions(("rales", "torch", "numpy", "pandas", "soundfile", "soxr", "safetensors"))
    return {"versions": {"python": platform.python_version(), **packages}, "commit": source_commit()}


def source_commit() -> str:
    """-> git commit of the source tree with `+changes` if files differ from it, or "" for an installed package."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--", str(here)], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
