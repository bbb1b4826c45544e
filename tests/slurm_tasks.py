"""A task for jobs in processes of their own, which import no more than they need."""

import os
import signal
from pathlib import Path


def act(task: str, mark: str) -> str:
    """fail raises; die ends its process without an answer, but for the second time, when it answers."""
    if task == "fail":
        raise ValueError(f"{task} is no number")
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"
