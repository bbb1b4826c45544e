"""What all attacks on commands share: the place of a case's trials, the undisturbed run, the verdict, the figures."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import cyclopts

from tests.attack import cases, folders
from tests.attack.interpreter import Trial, end_of


@dataclass
class Figures:
    """What became of a case's trials; the three kinds of failure are explained in kill.py."""

    case: str
    events: int = 0
    trials: int = 0
    unharmed: int = 0  # the command ended with exit code 0 all the same
    refused: int = 0
    different: int = 0
    left_over: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0  # of the processors, which does not depend on what else they do
    failures: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What is wrong with one trial; sentences."""

    trial: str
    refused: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)


class Arena:
    """The folder of a case's trials, always the same one, since paths are part of records; and the undisturbed run."""

    def __init__(self, name: str, folder: Path, inputs: Path, *, spawned: bool = False, quick: bool = False) -> None:
        """Runs the command twice, or once where it must be quick. Errors: it fails, or the two differ."""
        cases.preload(cases.FOR_ALL)
        self.case, self.folder, self.inputs, self.figures = cases.CASES[name], folder, inputs, Figures(name)
        left = []
        for _ in range(1 if quick else 2):
            trial = self.trial()
            started = time.perf_counter()
            if (code := end_of(trial.start(spawned=spawned))) != 0:
                raise RuntimeError(f"{' '.join(self.case.words)}: exit {code} undisturbed: {trial.said()}")
            self.seconds = time.perf_counter() - started
            left.append(folders.left_by(trial.root))
            cases.preload(trial.imported.read_text().splitlines())
        other, more = folders.differences(left[0], left[-1])
        if other or more:
            raise RuntimeError(f"{' '.join(self.case.words)}: two undisturbed runs differ in {[*other, *more]}")
        self.undisturbed, self.events = left[0], trial.events()
        self.sizes = [path.stat().st_size for path in trial.root.rglob("*") if path.is_file()]
        self.figures.events = len(self.events)

    def empty(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def trial(self) -> Trial:
        """A trial in the emptied folder."""
        self.empty()
        return Trial(self.folder, self.case, self.inputs)

    def give_again(self, trial: Trial, verdict: Verdict) -> None:
        """The same command, undisturbed: it must end well, with the same result and nothing more."""
        before = len(trial.said())
        if (code := end_of(trial.start())) != 0:
            said = trial.said()[before:].strip()[-400:]
            verdict.refused.append(f"given again: {'hung' if code is None else f'exit {code}'}: {said}")
        self.compare(trial, verdict)

    def compare(self, trial: Trial, verdict: Verdict) -> None:
        """What a command that has ended well leaves, with what it leaves undisturbed; the trial counts."""
        other, more = folders.differences(folders.left_by(trial.root), self.undisturbed)
        verdict.different += [] if verdict.refused else other
        verdict.left_over += more
        self.count(verdict)

    def count(self, verdict: Verdict) -> None:
        found = asdict(verdict)
        self.figures.trials += 1
        for kind in ("refused", "different", "left_over"):
            if found[kind]:
                setattr(self.figures, kind, getattr(self.figures, kind) + 1)
        if wrong := {kind: some[:4] for kind, some in found.items() if some and kind != "trial"}:
            self.figures.failures.append(f"{verdict.trial}: {wrong}")
            print(self.figures.case, self.figures.failures[-1], file=sys.stderr, flush=True)


@contextmanager
def arena(name: str, inputs: Path, **words: bool) -> Iterator[Arena]:
    """The place of a case's trials while they last; words as for `Arena`."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="attack-") as place, served(inputs) as address:
        os.environ["RALES_ATTACK_ZIP"] = address
        found = Arena(name, Path(place).resolve(), inputs, **words)
        yield found
        found.figures.seconds = round(time.perf_counter() - started, 1)
        found.figures.cpu_s = round(sum(os.times()[:4]), 1)


@contextmanager
def served(inputs: Path) -> Iterator[str]:
    """-> the address at which attacked.zip is, on this machine only, while this lasts."""
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(inputs)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        yield f"http://127.0.0.1:{port}/attacked.zip"
    finally:
        server.kill()
        server.wait()


def attack_all(
    module: str, names: Sequence[str], inputs: Path, share: float, processes: int = 2, before: Sequence[str] = ()
) -> list[Figures]:
    """Name of an attack, its cases and the share of the full attack -> figures of each; some at a time, since a busy
    machine is part of the attack. `before` are words before those that start it."""
    cases.make_inputs(inputs)

    def one(name: str) -> Figures:
        (figures,) = attack_here(module, [name], inputs, share, before)
        print(table([figures]).splitlines()[1], file=sys.stderr, flush=True)
        return figures

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(one, names))


def attack_here(
    module: str, names: Sequence[str], inputs: Path, share: float, before: Sequence[str] = ()
) -> list[Figures]:
    """The same in one process, one case after the other."""
    words = [*before, sys.executable, "-m", module, *names, f"--inputs={inputs}", f"--share={share}", "--json"]
    ended = subprocess.run(words, capture_output=True, text=True)
    if not ended.stdout.startswith("["):
        raise RuntimeError(f"{' '.join(words)}: {ended.stdout} {ended.stderr}")
    return [Figures(**figures) for figures in json.loads(ended.stdout)]


def table(found: Iterable[Figures]) -> str:
    """Figures -> what is printed: a line a case, then what went wrong."""
    columns = ("case", "events", "trials", "unharmed", "refused", "different", "left_over", "seconds", "cpu_s")
    lines = [[str(getattr(figures, name)) for name in columns] for figures in found]
    lines = [[name.replace("_", " ") for name in columns], *lines]
    text = "\n".join(" | ".join(cell.ljust(16 if n == 0 else 9) for n, cell in enumerate(line)) for line in lines)
    return "\n".join([text, *(f"{figures.case}: {failure}" for figures in found for failure in figures.failures)])


def failed(found: Iterable[Figures]) -> int:
    """-> trials with which something is wrong."""
    return sum(len(figures.failures) for figures in found)


def run(attack: Callable[..., Figures], module: str, names: Sequence[str], before: Callable[[], list[str]]) -> int:
    """The command line of an attack: `attack(name, inputs, share, only)` is one case of it."""

    def main(
        *cases_named: str,
        inputs: Annotated[Path | None, cyclopts.Parameter(help="Folder of inputs, made if it is not there.")] = None,
        share: Annotated[float, cyclopts.Parameter(help="So much of the full attack.")] = 1.0,
        only: Annotated[str, cyclopts.Parameter(help="A single trial, named as in a failure.")] = "",
        json_: Annotated[
            bool, cyclopts.Parameter(name="--json", negative="", help="In this process, as JSON.")
        ] = False,
    ) -> int:
        chosen = cases_named or tuple(names)
        place = cases.make_inputs((inputs or Path(tempfile.gettempdir(), "attack-inputs")).resolve())
        if json_:
            found = [attack(name, place, share, only) for name in chosen]
            print(json.dumps([asdict(figures) for figures in found]))
        else:
            found = attack_all(module, chosen, place, share, before=before())
            print(table(found))
        return 1 if failed(found) else 0

    return int(cyclopts.run(main) or 0)
