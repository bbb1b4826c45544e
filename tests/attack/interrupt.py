"""Send commands INT, TERM and HUP at any moment: `python -m tests.attack.interrupt sweep`.

A trial: the command, a signal (INT and HUP to all its processes, as a terminal does; TERM to the first, as a service
manager does), a look, the same command again. `refused`: it went on for more than a minute, a traceback, or the
second command does not end with exit code 0. `different`: half-written files after the signal, or another result after
the second command. `left over`: processes that are still there twenty seconds later, or files as in kill.py.
"""

import os
import random
import signal
import sys
from multiprocessing.context import ForkProcess
from pathlib import Path

from tests.attack import folders, trials
from tests.attack.interpreter import Trial, end_of, left_alive

FULL = 12  # signals to each command
SIGNALS = ("INT", "TERM", "INT", "HUP")
CASES = ["train", "pretrain", "sweep", "batch", "predict_csv", "embed", "export_openvino"]
PATIENCE_S = 60.0


def attack(name: str, inputs: Path, share: float = 1.0, only: str = "") -> trials.Figures:
    """Name of a case -> what became of its trials. Processes that the command starts are spawned, as outside."""
    rng = random.Random(f"{name} {share}")
    with trials.arena(name, inputs, spawned=True) as place:
        number = max(len(set(SIGNALS)), round(share * FULL))
        planned = [(SIGNALS[n % len(SIGNALS)], rng.uniform(0, place.seconds)) for n in range(number)]
        if only:
            planned = [(only.split()[0], float(only.split()[1]))]
        for sent, after_s in planned:
            send(place, sent, after_s)
        return place.figures


def send(place: trials.Arena, sent: str, after_s: float) -> None:
    """One trial; sooner than asked for if the command has ended by then, since a busy machine is not always as busy."""
    trial, process = started(place, after_s)
    while process.exitcode is not None and after_s > 0.05:
        after_s /= 2
        trial, process = started(place, after_s)
    verdict = trials.Verdict(f"{sent} {after_s:.3f}")
    number, pid = signal.Signals[f"SIG{sent}"], process.pid
    assert pid is not None
    if process.exitcode is None:
        os.kill(pid, number) if sent == "TERM" else os.killpg(os.getpgid(pid), number)
    process.join(PATIENCE_S)
    if process.exitcode is None:
        verdict.refused.append("hung")
    elif alive := left_alive(pid):
        verdict.left_over += [f"process: {words[:200]}" for words in alive]
    code = end_of(process, 0.0)

    place.figures.unharmed += code == 0
    if code not in (None, 0, 130, 128 + number, -number) or "Traceback" in trial.said():
        verdict.refused.append(f"exit {code}: {trial.said().strip()[-1000:]}")
    half = folders.half_written(folders.left_by(trial.root), place.undisturbed)
    verdict.different += [f"half-written: {name}" for name in half]
    place.give_again(trial, verdict)


def started(place: trials.Arena, after_s: float) -> tuple[Trial, ForkProcess]:
    """-> a trial and its command, some seconds after it began."""
    trial = place.trial()
    process = trial.start(spawned=True)
    process.join(after_s)
    return trial, process


if __name__ == "__main__":
    sys.exit(trials.run(attack, "tests.attack.interrupt", CASES, list))
