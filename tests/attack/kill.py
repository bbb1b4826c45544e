"""Kill a command, give it again, compare: `python -m tests.attack.kill train --events 40 --writes 10 --times 10`.

A trial: an empty folder, the command, the blow, a look at what lies there, the same command again (of one trial in
eight after a second blow), and a comparison of all that it leaves with what an undisturbed one leaves. `refused`: the
command did not end with exit code 0, or hung. `different`: a file is missing or says something else, or was
half-written under its final name after the blow. `left over`: a file or folder that an undisturbed command does not
leave, in the run folder, the cache, TMPDIR or HOME.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from tests.attack import cases, folders
from tests.attack.interpreter import Blow, Trial, end_of, kill_group

TWICE = 8  # of so many trials one gets a second blow


@dataclass
class Figures:
    """What became of a case's trials."""

    case: str
    events: int = 0
    trials: int = 0
    survived: int = 0  # the command had ended, or none of its files became so large
    refused: int = 0
    different: int = 0
    left_over: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.refused + self.different + self.left_over


def attack(
    case: str, /, *, inputs: Path, events: int = 40, writes: int = 10, times: int = 10, seed: int = 0, only: str = ""
) -> Figures:
    """Name of a case and how many trials of each kind -> what became of them; `only` ("event 7") is a single one."""
    started, figures, chosen = time.perf_counter(), Figures(case), cases.CASES[case]
    cases.preload(cases.FOR_ALL)
    rng = random.Random(f"{case} {seed}")
    with tempfile.TemporaryDirectory(prefix="rales-attack-") as name, served(inputs) as address:
        os.environ["RALES_ATTACK_ZIP"] = address
        folder = Path(name).resolve()
        undisturbed, found, seconds = reference(folder, chosen, inputs)
        figures.events = len(found)
        sizes = [path.stat().st_size for path in (folder / "root").rglob("*") if path.is_file()]
        blows = planned(found, sizes, seconds, (events, writes, times), rng)
        if only:
            kind, at = only.split()
            blows = [Blow(kind, float(at))]  # type: ignore[arg-type]
        for number, blow in enumerate(blows):
            struck = [blow, rng.choice(blows)] if number % TWICE == TWICE - 1 and not only else [blow]
            judge(folder, chosen, inputs, struck, undisturbed, figures)
    figures.seconds = round(time.perf_counter() - started, 1)
    return figures


def reference(folder: Path, case: cases.Case, inputs: Path) -> tuple[dict[str, Any], list[str], float]:
    """The undisturbed command, twice -> what it leaves, its events, its seconds. Errors: it fails, or differs."""
    left = []
    for _ in range(2):
        trial = emptied(folder, case, inputs)
        started = time.perf_counter()
        if (code := end_of(trial.start())) != 0:
            raise RuntimeError(f"{' '.join(case.words)}: exit {code} undisturbed: {trial.said()}")
        seconds = time.perf_counter() - started
        left.append(folders.left_by(trial.root))
        cases.preload(trial.imported.read_text().splitlines())
    other, more = folders.differences(*left)
    if other or more:
        raise RuntimeError(f"{' '.join(case.words)}: two undisturbed runs differ in {[*other, *more]}")
    return left[0], trial.events(), seconds


def planned(
    events: list[str], sizes: list[int], seconds: float, trials: tuple[int, int, int], rng: random.Random
) -> list[Blow]:
    """Events, sizes of the files that are written, seconds of an undisturbed run, trials of each kind -> the blows."""
    step = max(1, -(-len(events) // max(1, trials[0])))
    first = rng.randrange(step)
    numbers = range(first, len(events), step) if trials[0] else ()
    blows = [Blow("worker" if rng.random() < 0.25 else "event", number) for number in numbers]
    limits = sorted({limit for size in sizes if size > 1 for limit in (size - 1, size // 2)})
    blows += [Blow("write", limit) for limit in rng.sample(limits, min(trials[1], len(limits)))]
    return blows + [Blow("time", rng.uniform(0, seconds)) for _ in range(trials[2])]


def judge(
    folder: Path,
    case: cases.Case,
    inputs: Path,
    blows: list[Blow],
    undisturbed: dict[str, Any],
    figures: Figures,
) -> None:
    """One trial; `figures` are updated."""
    trial, wrong = emptied(folder, case, inputs), list[str]()
    figures.trials += 1
    for blow in blows:
        process = trial.start(blow)
        if blow.kind == "time":
            process.join(blow.at)
            assert process.pid is not None
            kill_group(process.pid)
        code = end_of(process)
        figures.survived += code == 0
        if half := folders.half_written(folders.left_by(trial.root), undisturbed):
            wrong.append(f"half-written {half}")

    before = trial.said()
    code = end_of(trial.start())
    other, more = folders.differences(folders.left_by(trial.root), undisturbed)
    wrong += [f"differs: {other}"] if other and code == 0 else []
    figures.refused += code != 0
    figures.different += bool(wrong)
    figures.left_over += bool(more)
    if code != 0 or wrong or more:
        said = trial.said()[len(before) :].strip()[-400:] if code != 0 else ""
        event = trial.events()[-1] if trial.events() else ""
        sentence = f"{', '.join(map(str, blows))}: exit {'hung' if code is None else code} {'; '.join(wrong)}"
        figures.failures.append(f"{sentence}{f' left over {more}' if more else ''} {said}".strip())
        print(figures.case, figures.failures[-1], event if code else "", file=sys.stderr, flush=True)


def emptied(folder: Path, case: cases.Case, inputs: Path) -> Trial:
    """A trial in an empty folder, always the same one, since paths are part of records."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if case.words[0] == "search":
        (folder / "root").mkdir()
        shutil.copy2(inputs / "embeddings.npz", folder / "root")
    return Trial(folder, case, inputs)


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


def main(
    case: str,
    /,
    *,
    inputs: Annotated[Path | None, cyclopts.Parameter(help="Folder of inputs, made if it is not there.")] = None,
    events: int = 40,
    writes: int = 10,
    times: int = 10,
    seed: int = 0,
    only: str = "",
) -> int:
    """Kill one case's command and print what became of it as JSON."""
    inputs = cases.make_inputs((inputs or Path(tempfile.gettempdir(), "rales-attack-inputs")).resolve())
    found = attack(case, inputs=inputs, events=events, writes=writes, times=times, seed=seed, only=only)
    print(json.dumps(asdict(found)))
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
