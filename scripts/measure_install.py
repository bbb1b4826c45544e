"""What an installation costs and how soon it answers: the wheel, in clean environments without PyTorch and with it.

Prints the wheel's size, megabytes that pip installed, and seconds of `rales predict` on 20 s of simulated sound from a
cold shell, the best of some calls: by the clock, which counts on an idle machine alone, and of processor time.

    python scripts/measure_install.py                  # takes minutes, and 2 GB
    python scripts/measure_install.py --folder ENVS    # keeps the environments there, or takes those of the last call
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from rales.synthesis.simulator import Chest, simulate_recording

REPOSITORY = Path(__file__).resolve().parent.parent
KINDS = {"core": "", "train": "[train]"}  # environment -> extra
SECONDS, RATE_HZ = 20.0, 44100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the environments are kept")
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rales-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        wheel = build_wheel(Path(temporary))
        print(f"wheel: {wheel.stat().st_size / 1e6:.2f} MB")
        sound = write_sound(Path(temporary) / "sound.wav")
        for name, extra in KINDS.items():
            command = install_wheel(folder / name, wheel, extra)
            wall_s, processor_s = time_first_answer([str(command), "predict", str(sound)], options.calls)
            size_mb = count_bytes((folder / name).resolve() / "lib") / 1e6
            print(f"rales{extra}: {size_mb:.0f} MB; first answer {wall_s:.2f} s, {processor_s:.2f} s of processor time")


def build_wheel(folder: Path) -> Path:
    """-> the wheel of this checkout."""
    words = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(environment: Path, wheel: Path, extra: str) -> Path:
    """-> the command of a clean environment, which is made if it is not there."""
    command = environment / "bin" / "rales"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [
            environment / "bin" / "pip",
            "install",
            "--quiet",
            "--constraint",
            REPOSITORY / "constraints" / "cpu.txt",
        ]
        subprocess.run([*map(str, pip), f"rales{extra} @ {wheel.as_uri()}"], check=True)
    return command


def write_sound(path: Path) -> Path:
    """-> a recording of simulated breaths without an annotation."""
    starts = np.arange(0.5, SECONDS - 3, 3.0)
    breaths = np.stack([starts, starts + 1.2, starts + 2.9], axis=1)
    wave = simulate_recording(
        breaths,
        np.arange(len(starts)) % 3 == 1,
        np.arange(len(starts)) % 4 == 2,
        chest=Chest(1.2, 1.15, 0.5, 0.3, 1.0, 420.0, 0.3),
        location="Pr",
        device="AKGC417L",
        duration_s=SECONDS,
        rate_hz=RATE_HZ,
        rng=np.random.default_rng(0),
    )
    soundfile.write(path, wave, RATE_HZ, subtype="PCM_16")
    return path


def time_first_answer(words: list[str], calls: int) -> tuple[float, float]:
    """Command -> seconds by the clock and of processor time, the least of each; a call before them fills the disk's
    cache and writes the compiled files."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    walls, processors = list[float](), list[float]()
    for _ in range(1 + calls):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls[1:]), min(processors[1:])


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
