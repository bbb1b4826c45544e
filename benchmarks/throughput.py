"""How many times faster than real time `rales predict` goes through a folder of whole recordings, and in what memory.

    rales synth synthetic --recordings 920
    python benchmarks/throughput.py synthetic [--model RUN_OR_ARTEFACT] [--recordings 920]
    python benchmarks/throughput.py synthetic --recordings 1 10 100 1000 20000 # how time and memory grow

The command itself is run, start-up and writing included, once in one process and once as a batch job of one process
a processor. Breaths are found in the sound, as annotations beside the recordings are not asked for. A folder of fewer
recordings than asked for is gone through again and again. Memory is that of all its processes together, looked at ten
times a second.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from rales.audio import io

EVERY_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="without it the package's own")
    parser.add_argument("--recordings", type=int, nargs="+", default=[920])
    options = parser.parse_args()
    print("| recordings | hours | way | seconds | ms a recording | ms of a processor | times real time | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    for recordings in options.recordings:
        time_both_ways(sorted(options.folder.glob("*.wav")), recordings, options.model)


def time_both_ways(paths: list[Path], recordings: int, named: str | None) -> None:
    """Recordings, how many of them or of links to them, and a model -> a printed row for each way."""
    with tempfile.TemporaryDirectory() as place:
        many = Path(place) / "recordings"
        many.mkdir()
        for number in range(recordings):
            (many / f"{number:05d}.wav").symlink_to(paths[number % len(paths)].resolve())
        lengths_s = [io.read_audio_info(path).duration_s for path in paths]
        sound_s = sum(lengths_s[number % len(paths)] for number in range(recordings))
        manifest = Path(place) / "manifest.csv"
        pd.DataFrame({"path": [str(path) for path in sorted(many.iterdir())]}).to_csv(manifest, index=False)
        model = ["--model", named] if named else []
        for way, words in {
            "one process": [str(many), "--out", str(Path(place) / "cycles.csv")],
            "batch job": ["--manifest", str(manifest), "--out", str(Path(place) / "out"), "--shard", "115"],
        }.items():
            command = [sys.executable, "-m", "rales", "predict", *words, "--cycles", "segment", *model]
            took_s, used_s, bytes_ = measured(command)
            each_ms = f"{1000 * took_s / recordings:.1f} | {1000 * used_s / recordings:.1f}"
            figures = f"{took_s:.1f} | {each_ms} | {sound_s / took_s:.0f}"
            print(f"| {recordings} | {sound_s / 3600:.2f} | {way} | {figures} | {bytes_ / 2**20:.0f} MiB |", flush=True)


def measured(command: list[str]) -> tuple[float, float, int]:
    """Command -> seconds from start to end, those that processors computed for it, and the largest memory (proportional
    set size) of it and its children."""
    begin, used_before, most = time.perf_counter(), processor_seconds(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        most = max(most, sum(memory(one) for one in [root, *children(root)]))
        time.sleep(EVERY_S)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.perf_counter() - begin, processor_seconds() - used_before, most


def processor_seconds() -> float:
    """-> seconds that all children so far have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def memory(process: psutil.Process) -> int:
    """Pages shared by n processes count as an n-th in each."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


if __name__ == "__main__":
    main()
