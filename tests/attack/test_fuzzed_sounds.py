"""Damaged recordings of every format through a model: each has its rows or its reason, and nothing else happens.

3,000 of them by `make test-slow`, of which RALES_FUZZ_SOUNDS makes another number; some 110 by `make test`.
"""

import faulthandler
import os
import random
import re
import resource
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from tests import tiny
from tests.attack.sounds import bases, damaged

LONGEST_S = 60
MOST_GROWTH = 1 << 30  # bytes of the whole process over all files
P = [f"p_{name}" for name in CLASSES]
UNFORESEEN = re.compile(r"cannot be read \(\w+(Error|Exception)?: ")  # what `sentences` and `told` say of the rest


class Outcome(NamedTuple):
    name: str
    kind: str  # answered, failed, or what must not be
    told: str
    seconds: float


def outcome(model: Predictor, path: Path) -> Outcome:
    """Fuzzed file -> what came of it."""
    problems, started = list[str](), time.perf_counter()
    signal.alarm(LONGEST_S)
    try:
        ((table, status),) = model.tables([str(path)], problems, quality=False)
    except TimeoutError:
        return Outcome(path.name, "HANGS", "", LONGEST_S)
    except Exception as error:  # whatever it is, it would have ended the whole folder
        return Outcome(path.name, "CRASH", f"{type(error).__name__}: {error}", time.perf_counter() - started)
    finally:
        signal.alarm(0)
    seconds = time.perf_counter() - started
    (row,) = status.to_dict("records")
    told = row["sentence"]
    if row["status"] == "failed":
        named = told.startswith(f"{path}") and not UNFORESEEN.search(told)
        return Outcome(path.name, "failed" if named and problems == [told] else "UNFORESEEN", told, seconds)
    sums = table[P].sum(axis=1)
    wrong = problems or table.empty or table["label"].isna().any() or not np.allclose(sums, 1)
    return Outcome(path.name, "NOT A NUMBER" if wrong else "answered", told, seconds)


def stop(*_: Any) -> None:
    raise TimeoutError


def attack(trials: int, seed: int, folder: Path) -> list[Outcome]:
    """Number of files -> what came of each; the files that went wrong stay in the folder."""
    model, chance = tiny.model(), random.Random(seed)
    names, contents = list(bases()), list(bases().values())
    before = signal.signal(signal.SIGALRM, stop)
    outcomes = []
    try:
        for number in range(trials):
            faulthandler.dump_traceback_later(2 * LONGEST_S, exit=True)  # where no signal is heeded
            name = names[number % len(names)]
            path = folder / f"{number:05d}_{name}"
            path.write_bytes(damaged(bases()[name], chance, contents))
            outcomes.append(outcome(model, path))
            if outcomes[-1].kind in ("answered", "failed"):
                path.unlink()
    finally:
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
    return outcomes


def check(trials: int, seed: int, folder: Path) -> None:
    attack(len(bases()), seed + 1, folder)  # libraries are loaded, memory has settled
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    outcomes = attack(trials, seed, folder)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    counts = Counter(each.kind for each in outcomes)
    slowest = max(outcomes, key=lambda each: each.seconds)
    print(
        f"\n{trials} fuzzed sounds of {len(bases())} kinds: {dict(counts)}; slowest {slowest.seconds:.2f} s "
        f"({slowest.name}); memory grew by {growth / 2**20:.0f} MiB"
    )
    wrong = [each for each in outcomes if each.kind not in ("answered", "failed")]
    assert not wrong, "\n".join(map(str, wrong[:20]))
    assert counts["answered"] > trials // 20  # else nothing was read at all
    assert counts["failed"] > trials // 20
    assert growth < MOST_GROWTH


def test_some_fuzzed_sounds(tmp_path: Path) -> None:
    check(4 * len(bases()), 0, tmp_path)


@pytest.mark.slow
def test_fuzzed_sounds(tmp_path: Path) -> None:
    check(int(os.environ.get("RALES_FUZZ_SOUNDS", "3000")), 1, tmp_path)
