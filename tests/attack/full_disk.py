"""Run commands where there is too little room, make room, give them again: `python -m tests.attack.full_disk train`.

A trial: the command on a file system of a size, or with room for so few files, or with its TMPDIR on such a one; then
room, and the same command. `refused`: a traceback, a hang, an exit code that is neither 0 nor 1, or the second command
does not end with 0. `different`: half-written files after the first one, or another result after the second. `left
over`: what the first one had under way and did not remove, or what is too much after the second.

The file systems are mounted in a name space of the attack's own, which needs no rights where users may make one. Where
that cannot be had, files are limited in size instead (RLIMIT_FSIZE), which leaves out TMPDIR and the number of files.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.attack import cases, folders, trials
from tests.attack.interpreter import Trial, end_of

KB = (4, 16, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
FILES = (1, 3, 6, 10, 20)
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]
CASES = [name for name in cases.CASES if name not in ("search", "train_validation", "predict_engine")]


@dataclass(frozen=True)
class Room:
    """Enough room but for `kb` kilobytes or `files` files, 0 for enough, at `place` in the trial's folder."""

    kb: int = 0
    files: int = 0
    place: str = "."

    def options(self) -> str:
        return f"size={self.kb or 2**18}k,nr_inodes={self.files + 3 if self.files else 0}"  # itself, tmp and home

    def __str__(self) -> str:
        return f"{self.kb} KB in {self.place}" if self.kb else f"{self.files} files in {self.place}"


def attack(name: str, inputs: Path, share: float = 1.0, only: str = "") -> trials.Figures:
    """Name of a case -> what became of its trials."""
    with trials.arena(name, inputs) as place:
        sizes = [Room(kb=kb) for kb in KB]
        if MOUNTS in os.environ:
            sizes += [*(Room(files=files) for files in FILES), Room(kb=64, place="tmp"), Room(files=1, place="tmp")]
        every = max(1, round(min(place.case.cost, 3) / share))
        for room in sizes:
            if str(room) == only or (not only and (sizes.index(room) % every == 0 or room.place == "tmp")):
                fill(place, room)
        return place.figures


def fill(place: trials.Arena, room: Room) -> None:
    """One trial."""
    if MOUNTS not in os.environ:
        trial = place.trial()
        judge(place, trial, str(room), end_of(trial.start(most_bytes=1024 * room.kb)))
    elif room.place == ".":
        place.empty()
        with mounted(place.folder / "root", room) as more_room:
            trial = Trial(place.folder, place.case, place.inputs)
            judge(place, trial, str(room), end_of(trial.start()), more_room)
    else:
        trial = place.trial()
        with mounted(trial.root / room.place, room) as more_room:
            judge(place, trial, str(room), end_of(trial.start()), more_room)


def judge(
    place: trials.Arena, trial: Trial, room: str, code: int | None, more_room: Callable[[], None] = lambda: None
) -> None:
    """Trial whose command has ended where there was too little room -> its verdict; there was enough if it ended
    well."""
    verdict = trials.Verdict(room)
    place.figures.unharmed += code == 0
    if code not in (0, 1) or "Traceback" in trial.said():
        verdict.refused.append(f"{'hung' if code is None else f'exit {code}'}: {trial.said().strip()[-600:]}")
    left = folders.left_by(trial.root)
    verdict.different += [f"half-written: {name}" for name in folders.half_written(left, place.undisturbed)]
    verdict.left_over += folders.under_way(left, place.undisturbed)
    if code == 0:
        place.compare(trial, verdict)
    else:
        more_room()
        place.give_again(trial, verdict)


MOUNTS = "RALES_ATTACK_MOUNTS"  # set where file systems can be mounted


def words_that_mount() -> list[str]:
    """-> the words that give an attack a name space to mount in, none where this machine has none."""
    if shutil.which(OWN_MOUNTS[0]) is None:
        return []
    with tempfile.TemporaryDirectory() as place:
        words = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "-o", Room(kb=64).options(), "tmpfs", place]
        return [*OWN_MOUNTS, "env", f"{MOUNTS}=1"] if subprocess.run(words, capture_output=True).returncode == 0 else []


@contextmanager
def mounted(place: Path, room: Room) -> Iterator[Callable[[], None]]:
    """While this lasts `place` is a file system of its own; -> a function that makes room in it."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)

    place.mkdir(exist_ok=True)
    mount(room.options())
    try:
        yield lambda: mount(f"remount,{Room().options()}")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


if __name__ == "__main__":
    sys.exit(trials.run(attack, "tests.attack.full_disk", CASES, words_that_mount))
