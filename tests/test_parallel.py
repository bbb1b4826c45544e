"""Work spread over processes: what Ctrl-C and a killed parent leave of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rales import parallel
from rales.errors import FileError
from tests.run_folders import environment

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Ctrl-C as POSIX has it")

SLEEPERS = """
import signal, sys, time
from contextlib import closing
from pathlib import Path
from rales import parallel

def sleep(number):
    Path(sys.argv[1], str(number)).touch()
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with closing(parallel.run_in_processes(sleep, range(9), (), processes=2)) as results:
            list(results)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
"""


@pytest.mark.parametrize("to", ["all", "parent"])
def test_ctrl_c_ends_the_workers_at_once_and_is_told_once(tmp_path: Path, to: str) -> None:
    """A terminal sends it to all of them, another program to the one it knows."""
    (tmp_path / "at_work").mkdir()
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "sleepers.py", tmp_path / "at_work"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(list((tmp_path / "at_work").iterdir())) < 2:
        time.sleep(0.01)
        assert parent.poll() is None
    workers = psutil.Process(parent.pid).children()
    (os.killpg if to == "all" else os.kill)(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert (parent.returncode, said) == (130, "interrupted\n")
    assert psutil.wait_procs(workers, timeout=60)[1] == []


HEARD_LATER = """
import signal
from rales import parallel

waits = []
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
try:
    with parallel.ignore_interrupts_in_children():
        signal.raise_signal(signal.SIGINT)
        waits.append(signal.SIGINT in signal.sigpending())
except KeyboardInterrupt:
    print(waits, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_it_is_heard_of_after_children_were_started() -> None:
    """In a process of its own, as whatever else runs in this one must not hear of it."""
    words = [sys.executable, "-c", HEARD_LATER]
    said = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert (said.returncode, said.stdout) == (0, "[True] set()\n"), said.stderr


FIRST_CHILD = """
import signal
from rales import parallel

def is_blocked(number):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

if __name__ == "__main__":
    print(list(parallel.run_in_processes(is_blocked, range(2), (), processes=2)))
"""


def test_the_first_worker_of_a_process_never_hears_of_it(tmp_path: Path) -> None:
    """Not while it imports either, which takes seconds."""
    (tmp_path / "first.py").write_text(FIRST_CHILD)
    words = [sys.executable, str(tmp_path / "first.py")]
    said = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120)
    assert (said.returncode, sorted(said.stdout)) == (0, sorted("[(0, True), (1, True)]\n")), said.stderr


TASKS = """
import os, signal, sys
from rales import parallel

class OfTwo(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def answer(number, place):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        raise OfTwo("this", "that")
    return os.getpid(), os.environ["PLACE"]

if __name__ == "__main__":
    options = {"processes": 2, "environments": [{"PLACE": "a"}, {"PLACE": "b"}]}
    for retries in (0, 1):
        found = dict(parallel.run_in_processes(answer, range(5), (0,), retries=retries, **options))
        print([str(found[1]), str(found[2]), sorted(found)])
    found = dict(parallel.run_in_processes(answer, (0, 3, 4, 5), (0,), process_per_task=True, **options))
    print([len({pid for pid, _ in found.values()}), sorted({place for _, place in found.values()})])
"""


def test_a_task_whose_process_dies_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    words = [sys.executable, str(tmp_path / "tasks.py")]
    ended = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.stdout.splitlines() == [
        "['its process was ended by SIGKILL (out of memory, or killed)', 'OfTwo: this and that', [0, 1, 2, 3, 4]]",
        "['its process was ended 2 times by SIGKILL (out of memory, or killed)', 'OfTwo: this and that', "
        "[0, 1, 2, 3, 4]]",
        "[4, ['a', 'b']]",
    ], ended.stderr


def test_an_error_of_a_ray_worker_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own says it as the traceback of the worker; of a worker that is gone there is no other."""

    class RayError(Exception):
        cause: Exception | None = None

    class Ray:
        exceptions = SimpleNamespace(RayError=RayError)
        is_initialized = staticmethod(lambda: True)
        cluster_resources = staticmethod(lambda: {"CPU": 1})
        remote = staticmethod(lambda **_: lambda work: SimpleNamespace(remote=lambda task: task))
        wait = staticmethod(lambda pending, num_returns: (pending[:1], pending[1:]))

        @staticmethod
        def get(task: int) -> None:
            error = RayError(f"Traceback (most recent call last): {task}")
            error.cause = [FileError("a.wav", "cut off"), None][task]
            raise error

    monkeypatch.setitem(sys.modules, "ray", Ray)
    monkeypatch.setattr(parallel, "require_packages", lambda *_: None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found = [str(error) for _, error in parallel.run_on_ray(print, range(2), (), processes=1, address="auto")]
    assert found == ["a.wav: cut off", "Traceback (most recent call last): 1"]
