"""Coverage-guided fuzzing (atheris: libFuzzer for Python) of one of TARGETS, from its seeds, for some seconds:

    python -m tests.attack.guided wav FOLDER 1800

FOLDER gets `corpus` (inputs that reach new lines; a second call goes on with them) and `findings`: a traceback for each
kind of what must not be, with the input beside it. Hangs of a minute are `timeout-…` there, and end it.
"""

import atexit
import hashlib
import logging
import os
import re
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["rales.audio", "rales.data", "rales.files.csv_cells", "rales.inference.audio_reader"]
):
    from tests.attack.targets import TARGETS, seeds

LONGEST_S, MOST_MIB = 60, 3000


def main(name: str, folder: Path, seconds: int) -> None:
    """Fuzz; libFuzzer ends the process."""
    findings, corpus, work = (folder / each for each in ("findings", "corpus", "work"))
    for place in (findings, corpus, work):
        place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    target = TARGETS[name]
    logging.getLogger("rales").setLevel(logging.CRITICAL)

    def one(data: bytes) -> None:
        try:
            target(data, work)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = "|".join(f"{frame.name}:{frame.lineno}" for frame in frames)
            told = re.sub(r"\d+|'.*?'", "", str(error).removeprefix(str(work)))[:80]
            kind = hashlib.sha256(f"{type(error).__name__}|{place}|{told}".encode()).hexdigest()[:12]
            if not (findings / kind).exists():
                (findings / kind).write_bytes(data)
                (findings / f"{kind}.txt").write_text(traceback.format_exc())
                print(f"FINDING {kind} {type(error).__name__}: {str(error)[:300]}", flush=True)

    words = [f"-max_total_time={seconds}", f"-timeout={LONGEST_S}", f"-rss_limit_mb={MOST_MIB}", "-max_len=20000"]
    words += [f"-artifact_prefix={findings}/", "-print_final_stats=1", "-verbosity=1", str(corpus)]
    atheris.Setup([sys.argv[0], *words], one)
    atexit.register(sys.stdout.flush)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
