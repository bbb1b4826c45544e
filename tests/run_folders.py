"""What a run leaves behind, held against another run's, and processes that train beside this one."""

import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rales.training import run_folder


def tensors(out: Path, name: str = "last") -> dict[str, Tensor]:
    return run_folder.read_checkpoint(out / f"{name}.safetensors")[0]


def lines(out: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without the one number that no two runs share."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run_folder.read_metrics(out)]


def furthest(one: Path, two: Path, name: str = "last", name_in_two: str = "") -> float:
    """Two run folders -> the largest difference between their weights."""
    first, second = tensors(one, name), tensors(two, name_in_two or name)
    assert first.keys() == second.keys()
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in first)


def environment() -> dict[str, str]:
    """For a process that imports `tests` and computes as this one does."""
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def start_script(script: str, *words: object, **variables: object) -> BaseProcess:
    """A script at work in a copy of this process, which has imported already what takes a new one three seconds;
    `variables` are of its environment."""

    def work() -> None:
        sys.argv = ["script", *map(str, words)]
        os.environ.update({name: str(value) for name, value in variables.items()})
        exec(compile(script, "script", "exec"), {"__name__": "__main__"})

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def train_in_two_processes(script: str, data: Path, out: Path, *words: str) -> None:
    """Run a script that trains from `data` to `out` in two processes that know of each other by what torchrun tells."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}
    both = [start_script(script, data, out, *words, **told, RANK=rank, LOCAL_RANK=rank) for rank in range(2)]
    for process in both:
        process.join(120)
        process.kill()  # one that waits for another that has failed
    assert [process.exitcode for process in both] == [0, 0]


def train_under_torchrun(script: str, data: Path, out: Path, *words: str) -> None:
    """The same as the command line has it."""
    (out.parent / "together.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command: list[str | Path] = [*torchrun, out.parent / "together.py", data, out, *words]
    ended = subprocess.run(command, env=environment(), capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()


def check_two_processes(two: Path, one: Path, files: set[str], *, weights_within: float, name: str = "last") -> None:
    """The run of two processes holds `files` and ended like that of one, up to the order of sums."""
    assert {path.name for path in two.glob("[!.]*")} == files
    for alone, together in zip(lines(one), lines(two), strict=True):
        assert alone == pytest.approx(together, abs=1e-5)
    assert furthest(one, two, name) < weights_within
    assert run_folder.read_json(two / "config.json")["computed_in"]["processes"] == 2
