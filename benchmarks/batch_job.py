"""A batch job that loses a worker: 5,000 short recordings, 1 % of them damaged, on Ray or in local processes.

Prints recordings a second and times real time, and fails unless every good recording is in the output exactly once and
every bad one listed once. The model is a random start: nothing here depends on what it has learned.

    python benchmarks/batch_job.py --cluster ray --recordings 5000
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import soundfile
import torch

from rales.files.json_files import to_jsonable
from rales.jobs import batch_predict
from rales.labels import CLASSES
from rales.recipes.registry import make_recipe
from rales.settings import to_dict
from rales.training import run_folder

RATE_HZ, DURATION_S = 4000, 6.0
DAMAGE = (b"", b"not a sound", b"RIFF\x24\x00\x00\x00WAVEfmt ", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", choices=("ray", "local"), default="ray")
    parser.add_argument("--recordings", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", default="tiny", help="size of the model's random start")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bad = write(place, asked.recordings)
        write_model(place / "model.safetensors", asked.size)
        out = place / "out"
        killer = threading.Thread(target=kill_in_the_middle, args=(out, asked.cluster, asked.recordings), daemon=True)
        killer.start()
        started = time.perf_counter()
        found = batch_predict.predict_manifest(
            place / "manifest.parquet",
            out,
            model=str(place / "model.safetensors"),
            cluster=asked.cluster,
            processes=asked.processes,
            shard=100,
            cycles="windows",
        )
        wall_s = time.perf_counter() - started
        check(out, [str(place / f"{number:06d}.wav") for number in range(asked.recordings)], bad)
        sound_s = found["seconds_of_sound"]
        print(f"{found['ok']} read, {found['failed']} failed, each once; worker killed: {not killer.is_alive()}")
        print(
            f"{asked.recordings / wall_s:.0f} recordings/s, {sound_s / wall_s:.0f} x real time, {wall_s:.0f} s in all"
        )


def write(folder: Path, count: int) -> set[int]:
    """Recordings and their manifest -> the numbers of the damaged ones (1 %)."""
    random = np.random.default_rng(0)
    bad = set(random.choice(count, count // 100, replace=False).tolist())
    swell = np.sin(np.arange(round(DURATION_S * RATE_HZ)) / RATE_HZ * 2) ** 2
    for number in range(count):
        path = folder / f"{number:06d}.wav"
        if number not in bad:
            soundfile.write(path, 0.1 * swell * random.standard_normal(len(swell)), RATE_HZ)
        elif (content := DAMAGE[number % len(DAMAGE)]) is not None:
            path.write_bytes(content)
    pd.DataFrame({"path": [f"{number:06d}.wav" for number in range(count)]}).to_parquet(folder / "manifest.parquet")
    return bad


def write_model(path: Path, size: str) -> None:
    torch.manual_seed(0)
    recipe = make_recipe("m2d_fusion", size=size)
    network = recipe.build_model(recipe.settings)
    record = {"recipe": recipe.name, "config": to_jsonable(to_dict(recipe.settings))}
    run_folder.save_tensors(path, network.state_dict(), {**record, "classes": list(CLASSES), "epoch": 1})


def kill_in_the_middle(out: Path, cluster: str, count: int) -> None:
    """Kill one worker when half of the shards are done."""
    words = "ray::predict_shard" if cluster == "ray" else "spawn_main"
    while len(list(out.glob("status/part-*.parquet"))) < count // 200:
        time.sleep(0.05)
    while not (found := [p for p in psutil.Process().children(recursive=True) if words in " ".join(p.cmdline())]):
        time.sleep(0.01)
    found[0].kill()


def check(out: Path, paths: list[str], bad: set[int]) -> None:
    status, cycles = pd.read_parquet(out / "status"), pd.read_parquet(out / "cycles")
    good = [path for number, path in enumerate(paths) if number not in bad]
    assert sorted(status["path"]) == paths, "not every recording has one row in status"
    assert sorted(status.loc[status["status"] == "failed", "path"]) == sorted(paths[number] for number in bad)
    assert sorted(cycles["path"].unique()) == good
    assert not cycles.duplicated(["path", "cycle"]).any(), "a cycle stands twice in the output"
    assert (cycles.groupby("path").size() == 2).all(), "6 s are two windows"


if __name__ == "__main__":
    main()
