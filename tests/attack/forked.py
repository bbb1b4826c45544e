"""The command `rales` under limits: each call in a process forked from one that has everything imported already."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.run_folders import environment

MEMORY = 4 * 2**30  # bytes of addresses beyond those that the imports take
LIMIT_CPU_S, LIMIT_S = 60, 600  # of the processor, and of the clock on a machine that others use too


class Ended(NamedTuple):
    """How a command ended: "answered", "sentence", or what must not be: "traceback", "hang", "killed"."""

    how: str
    out: str
    err: str
    seconds: float

    @property
    def sentence(self) -> str:
        """-> the last line on stderr that is of the command."""
        return next((line for line in self.err.splitlines()[::-1] if line.startswith("rales: ")), "")


class Commands:
    """The process that commands are forked from."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        words = [sys.executable, "-c", "from tests.attack.forked import wait_for_commands; wait_for_commands()"]
        environ = {**environment(), "RALES_CACHE": str(cache)}
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)

    def run(self, *words: object) -> Ended:
        """Words of the command -> how it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        out, err = self.folder / "stdout", self.folder / "stderr"
        job = {"words": [str(word) for word in words], "out": str(out), "err": str(err)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        status, seconds = json.loads(self.process.stdout.readline())
        said = err.read_text(errors="replace")
        if os.WIFSIGNALED(status):
            how = "hang" if os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU) else "killed"
        elif "Traceback (most recent call last)" in said:
            how = "traceback"
        else:
            how = "sentence" if os.waitstatus_to_exitcode(status) else "answered"
        return Ended(how, out.read_text(errors="replace"), said, seconds)


@contextlib.contextmanager
def commands(folder: Path, cache: Path) -> Iterator[Commands]:
    """`with commands(scratch folder, cache folder) as run:` one such process."""
    found = Commands(folder, cache)
    try:
        yield found
    finally:
        found.process.communicate()


def wait_for_commands() -> None:
    """Lines of stdin, a job each -> a line of stdout with the process's status and seconds."""
    import matplotlib.figure  # noqa: F401
    import onnx  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        job, started = json.loads(line), time.perf_counter()
        child = os.fork()
        if not child:
            obey(job)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it started and left behind
        print(json.dumps([status, time.perf_counter() - started]), flush=True)


def obey(job: dict[str, Any]) -> None:
    """The forked process: run the command, leave with its exit code."""
    import rales.cli

    os.setpgid(0, 0)
    for number, name in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_CPU_S, LIMIT_CPU_S))
    signal.alarm(LIMIT_S)
    code: Any = 0
    try:
        rales.cli.main(job["words"])
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))
