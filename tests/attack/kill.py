"""Kill a command, give it again, compare: `python -m tests.attack.kill train --share 0.1`.

A trial: an empty folder, the command, the blow, a look at what lies there, the same command again (of one trial in
eight after a second blow), and a comparison of all that it leaves with what an undisturbed one leaves. `refused`: the
command did not end with exit code 0, or hung. `different`: a file is missing or says something else, or was
half-written under its final name after the blow. `left over`: a file or folder that an undisturbed command does not
leave, in the run folder, the cache, TMPDIR or HOME.
"""

import random
import sys
from pathlib import Path

from tests.attack import cases, folders, trials
from tests.attack.interpreter import Blow, end_of, kill_group

FULL = {"event": 80, "write": 12, "time": 8}  # trials of each kind, or one for each event if there are fewer
QUICK = 0.05  # share of the attack that is part of `make test`
TWICE = 8  # of so many trials one gets a second blow


def attack(name: str, inputs: Path, share: float = 1.0, only: str = "") -> trials.Figures:
    """Name of a case -> what became of its trials."""
    rng = random.Random(f"{name} {share}")
    with trials.arena(name, inputs, quick=share <= QUICK) as place:
        blows = [Blow.read(only)] if only else planned(place, share, rng)
        for number, blow in enumerate(blows):
            twice = number % TWICE == TWICE - 1
            strike(place, [blow, rng.choice(blows)] if twice else [blow])
        return place.figures


def planned(place: trials.Arena, share: float, rng: random.Random) -> list[Blow]:
    """Share of the full attack -> its blows: every event, or every k-th of many; writes that stop in the middle or just
    before the end of a file; any moment."""
    most = {kind: max(1, round(share * number / place.case.cost)) for kind, number in FULL.items()}
    step = max(1, -(-len(place.events) // most["event"]))
    numbers = range(rng.randrange(step), len(place.events), step)
    limits = sorted({limit for size in place.sizes if size > 1 for limit in (size - 1, size // 2)})
    return [
        *(Blow("worker" if rng.random() < 0.25 else "event", number) for number in numbers),
        *(Blow("write", limit) for limit in rng.sample(limits, min(most["write"], len(limits)))),
        *(Blow("time", rng.uniform(0, place.seconds)) for _ in range(most["time"])),
    ]


def strike(place: trials.Arena, blows: list[Blow]) -> None:
    """One trial."""
    trial, verdict = place.trial(), trials.Verdict(", ".join(map(str, blows)))
    for blow in blows:
        process = trial.start(blow)
        if blow.kind == "time":
            process.join(blow.at)
            assert process.pid is not None
            kill_group(process.pid)
        place.figures.unharmed += end_of(process) == 0
        half = folders.half_written(folders.left_by(trial.root), place.undisturbed)
        verdict.different += [f"half-written: {name}" for name in half]
    place.give_again(trial, verdict)


if __name__ == "__main__":
    sys.exit(trials.run(attack, "tests.attack.kill", list(cases.CASES), list))
