"""A command of Rales in a preloaded interpreter that is forked for it, and the ways in which it can be ended.

A trial costs seconds, since torch and the rest are imported once. Processes that the command starts are forked too, not
spawned, unless it is to be as outside: what they import would be nine tenths of a trial.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Literal, NoReturn

import psutil

from tests.attack.cases import Case

FORK = multiprocessing.get_context("fork")
LINE = 160  # bytes of the tally for each event, so that its length says how many there were
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink")
HANGS_S = 300.0


@dataclass(frozen=True)
class Blow:
    """How a command is ended.

    `event`: SIGKILL to all its processes before file event number `at`, of whichever of them. `worker`: the same, but
    only to the process whose event it is. `write`: the kernel ends the process in the middle of the write that would
    make a file larger than `at` bytes, whatever library writes it. `time`: SIGKILL to all after `at` seconds.
    """

    kind: Literal["event", "worker", "write", "time"]
    at: float

    @classmethod
    def read(cls, words: str) -> "Blow":
        kind, at = words.split()
        return cls(kind, float(at))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.kind} {self.at:.3f}" if self.kind == "time" else f"{self.kind} {self.at:.0f}"


class Trial:
    """The folder that a trial has to itself: `root`, where the command works, and beside it its words and events."""

    def __init__(self, folder: Path, case: Case, inputs: Path) -> None:
        self.folder, self.root, self.case, self.inputs = folder, folder / "root", case, inputs
        self.log, self.tally, self.imported = folder / "log", folder / "tally", folder / "imported"
        for name in ("", "tmp", "home"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in case.given:
            shutil.copy2(inputs / name, self.root)

    def words(self) -> list[str]:
        return [word.replace("{inputs}", str(self.inputs)) for word in self.case.words]

    def environment(self) -> dict[str, str]:
        """What the command finds: a folder of its own for everything that it might write."""
        cache = self.root / "cache" if self.case.fresh_cache else self.inputs / "cache"
        own = {"RALES_CACHE": cache, "TMPDIR": self.root / "tmp", "HOME": self.root / "home"}
        own |= {"MPLCONFIGDIR": self.inputs / "matplotlib"}  # its list of fonts is its own affair
        return {name: str(path) for name, path in own.items()} | {"OMP_NUM_THREADS": "1", "CI": "true"}

    def start(self, blow: Blow | None = None, *, most_bytes: int = 0, spawned: bool = False) -> ForkProcess:
        """Begin the command. `most_bytes`: no file may become larger, which it is told as of a full disk."""
        process = FORK.Process(target=self.run, args=(blow, most_bytes, spawned))
        process.start()
        while process.exitcode is None and process.pid and session_of(process.pid) != process.pid:
            time.sleep(0.001)  # until then a blow to its group would be one to ours
        return process

    def run(self, blow: Blow | None, most_bytes: int, spawned: bool) -> NoReturn:
        """The command, in the forked process."""
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.environ.update(self.environment())
        tempfile.tempdir = os.environ["TMPDIR"]  # else Python tries it out with a file, which no one else could sweep
        os.chdir(self.root)
        sys.argv = ["rales", *self.words()]
        if not spawned:
            multiprocessing.get_context = lambda method=None: FORK  # type: ignore[assignment]
        limit = most_bytes or (int(blow.at) if blow and blow.kind == "write" else 0)
        if limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN if most_bytes else signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        count_events(self.root, self.tally, blow if blow and blow.kind in ("event", "worker") else None)
        from rales.cli import main

        self.prepare()
        try:
            main(self.words())
        except SystemExit:
            raise
        except BaseException:  # what the interpreter would do with it
            traceback.print_exc()
            sys.exit(1)
        finally:
            if not blow:
                self.imported.write_text("\n".join(sys.modules))
        sys.exit(0)

    def prepare(self) -> None:
        """What a command cannot be told by words: to ask this machine for a public checkpoint (see kill.py:served), and
        not to time whether bfloat16 pays, since a busy machine may answer this way once and that way the next."""
        from rales.models import cpu_inference, hub

        cpu_inference.bf16_is_faster = lambda device="cpu": False  # type: ignore[assignment]
        if address := os.environ.get("RALES_ATTACK_ZIP"):
            hub.PUBLIC["attacked"] = hub.PublicCheckpoint("attacked", address, "a checkpoint on this machine")

    def events(self) -> list[str]:
        """-> the events of the last command that was counted."""
        text = self.tally.read_bytes() if self.tally.exists() else b""
        return [text[i : i + LINE].decode(errors="replace").strip() for i in range(0, len(text), LINE)]

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def count_events(root: Path, tally: Path, blow: Blow | None) -> None:
    """From now on number every opening to write, renaming, removal and so on under `root`, of this process and those
    forked from it, and strike before the one of the blow."""
    tally.unlink(missing_ok=True)
    main, inside, own = os.getpid(), str(root), dict[tuple[int, int], int]()

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = values
            changes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else 0
            paths = [path] if changes or (mode and set(mode) & set("wax+")) else []
        elif event in CHANGES:
            paths = [value for value in values if isinstance(value, str | os.PathLike)]
        else:
            return
        names = [os.path.abspath(path) for path in paths if isinstance(path, str | os.PathLike)]
        if not any(name.startswith(inside) for name in names):
            return
        me = (os.getpid(), threading.get_ident())  # each with a file of its own, since its place in it is the number
        if me not in own:
            own[me] = os.open(tally, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        line = f"{event} {' '.join(os.path.relpath(name, inside) for name in names)}"
        os.write(own[me], line.encode(errors="replace")[: LINE - 1].ljust(LINE - 1) + b"\n")
        if blow and os.lseek(own[me], 0, os.SEEK_CUR) // LINE > blow.at:
            os.kill(os.getpid(), signal.SIGKILL) if blow.kind == "worker" and os.getpid() != main else kill_group(main)

    sys.addaudithook(hook)


def kill_group(pid: int) -> None:
    """SIGKILL to the process and all that it started, which are a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def end_of(process: ForkProcess, timeout_s: float = HANGS_S) -> int | None:
    """-> exit code, minus the signal if one ended it, None if it hung; none of its processes is left then."""
    assert process.pid is not None
    process.join(timeout_s)
    code = process.exitcode
    if code is None or code < 0:  # of one that ended by itself those that stay are a finding: see `left_alive`
        kill_group(process.pid)
        process.join()
    return code


def left_alive(pid: int, patience_s: float = 20.0) -> list[str]:
    """-> processes of the command's session that are still there when it has ended, after some patience."""
    deadline = time.monotonic() + patience_s
    while True:
        found = [p for p in psutil.process_iter(["cmdline", "status"]) if p.pid != pid and session_of(p.pid) == pid]
        alive = [" ".join(p.info["cmdline"] or ["?"]) for p in found if p.info["status"] != psutil.STATUS_ZOMBIE]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
