"""Memory of pre-training on a collection that streams: peak resident size with 1,000 and with 20,000 recordings.

    python benchmarks/pretrain_stream.py           # two minutes; --sizes and --paths for others

The recordings are hard links to a few synthetic ones in a temporary folder, so that they take no space; the package
does not know that. Each collection is trained on in a process of its own, one whole epoch of crops of 96 frames with a
network of size tiny. Then the paths alone of two million recordings are indexed from a sharded manifest.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

SIZES = (1_000, 20_000)
PATHS = 2_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="recordings of the collections")
    parser.add_argument("--paths", type=int, default=PATHS, help="paths of the manifest")
    options = parser.parse_args()
    print(f"{'recordings':>12s} {'seconds':>8s} {'before MiB':>11s} {'peak MiB':>9s}")
    with tempfile.TemporaryDirectory() as place:
        for size in options.sizes:
            folder = make(Path(place), size)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                seconds, before, peak = process.submit(train, folder, Path(place) / f"run{size}").result()
            print(f"{size:12d} {seconds:8.1f} {before:11.0f} {peak:9.0f}", flush=True)
        shards = make_manifest(Path(place) / "shards", options.paths)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, before, peak = process.submit(index, shards).result()
        print(f"index of {options.paths} paths: {seconds:.1f} s, {before:.0f} MiB before, peak {peak:.0f} MiB")


def make(place: Path, recordings: int) -> Path:
    """-> a folder of so many recordings, 1,000 in each sub-folder; ten different sounds of 1 to 2 s at 4 kHz."""
    random, sounds = np.random.default_rng(0), []
    for i in range(10):
        sounds.append(place / f"sound{i}.wav")
        soundfile.write(sounds[-1], 0.1 * random.uniform(-1, 1, random.integers(4000, 8000)), 4000, subtype="PCM_16")
    folder = place / f"{recordings}"
    for i in range(recordings):
        path = folder / f"{i // 1000:04d}" / f"{i:08d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(sounds[i % 10], path)
    return folder


def train(folder: Path, out: Path) -> tuple[float, float, float]:
    """Folder -> seconds, resident MiB before and at most while one epoch runs over it."""
    import torch

    from rales.data.corpus import read_corpus
    from rales.recipes import m2d_pretrain

    torch.set_num_threads(1)
    words = ["encoder.unit_frames=96", "pretrain.epochs=1", "pretrain.device=cpu", "crops.statistics_crops=500"]
    config = m2d_pretrain.settings("tiny", words=words)
    before, start = status_mb("VmRSS"), time.perf_counter()
    m2d_pretrain.run(config, read_corpus([folder]), out)
    return time.perf_counter() - start, before, status_mb("VmHWM")


def make_manifest(folder: Path, paths: int) -> Path:
    """-> a folder of Parquet shards that together list so many recordings."""
    import pandas as pd

    folder.mkdir()
    for start in range(0, paths, 100_000):
        rows = [f"audio/{i // 1000:05d}/recording_{i:09d}.flac" for i in range(start, min(start + 100_000, paths))]
        pd.DataFrame({"path": rows}).to_parquet(folder / f"shard-{start:09d}.parquet")
    return folder


def index(shards: Path) -> tuple[float, float, float]:
    """Folder of manifests -> seconds, resident MiB before and at most while it is read and one epoch's order drawn."""
    from rales.data.corpus import read_corpus
    from rales.data.random_crops import epoch_order

    before, start = status_mb("VmRSS"), time.perf_counter()
    found = read_corpus([shards])
    order = epoch_order(len(found), seed=0, epoch=1)
    found.path(int(order[0]))
    found.facts()
    return time.perf_counter() - start, before, status_mb("VmHWM")


def status_mb(field: str) -> float:
    """Field of Linux's account of this process -> its value in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


if __name__ == "__main__":
    main()
