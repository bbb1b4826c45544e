"""The commands that are attacked, the small inputs they read, and the folder that each trial has to itself."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rales.recipes.registry import make_recipe
from tests import tiny

FOR_ALL = (
    "torch",
    "torch._dynamo",
    "pandas",
    "scipy.signal",
    "soundfile",
    "soxr",
    "pyarrow.parquet",
    "rales.training.finetune",
)


@dataclass(frozen=True)
class Case:
    """A command; in its words `{inputs}` is the folder of `make_inputs`, other paths are in the trial's folder.

    `fresh_cache`: the cache is empty and in the trial's folder, else it is that of all trials. `cost`: of one that
    takes long there are so many times fewer trials. `given`: files of the inputs that lie in the trial's folder.
    """

    words: tuple[str, ...]
    fresh_cache: bool = False
    cost: int = 1
    given: tuple[str, ...] = ()


def settings(*words: str) -> tuple[str, ...]:
    """`name=value` words -> the options that say so."""
    return tuple(part for word in words for part in ("--set", word))


TRAIN = ("train", "m2d_fusion", "--size", "tiny", "--data", "{inputs}/data", *settings(*tiny.SETTINGS))
RUN = ("--model", "{inputs}/run")
CASES: Mapping[str, Case] = {
    "train": Case((*TRAIN, "--out", "run")),
    "train_validation": Case((*TRAIN, "--select", "validation", "--out", "run")),
    "staged": Case(
        (
            *("train", "moummad_scl", "--size", "tiny", "--data", "{inputs}/data", "--epochs", "2"),
            *(*settings("train.device=cpu"), "--out", "run"),
        )
    ),
    "pretrain": Case(
        (
            *("pretrain", "--size", "tiny", "--data", "{inputs}/data", "--part", "all"),
            *settings(*tiny.PRETRAINING, "pretrain.keep_every=2", "pretrain.save_every=2"),
            *settings("pretrain.reference_file=yes"),
            *("--out", "run"),
        ),
    ),
    "layers": Case(
        ("layers", "--data", "{inputs}/data", "--weights", "{inputs}/pretrained", "--out", "found"),
    ),
    "cache": Case(("evaluate", "{inputs}/run", "--data", "{inputs}/data"), fresh_cache=True),
    "sweep": Case(("sweep", *TRAIN[1:], "--epochs", "2", "--seeds", "2", "--processes", "2", "--out", "sweep")),
    "batch": Case(
        ("predict", "--manifest", "{inputs}/manifest.csv", *RUN, "--out", "out", "--shard", "2", "--processes", "1"),
    ),
    "predict_csv": Case(
        ("predict", "{inputs}/data", *RUN, "--out", "o/c.csv", "--status", "o/s.csv", "--summary", "o/u.parquet"),
    ),
    "predict_raven": Case(("predict", "{inputs}/data", *RUN, "--out", "labels", "--format", "raven")),
    "predict_json": Case(("predict", "{inputs}/data", *RUN, "--out", "c.json")),
    "predict_engine": Case(
        ("predict", "{inputs}/data", *RUN, "--out", "c.csv", "--engine", "openvino"),
        fresh_cache=True,
        cost=6,
    ),
    "embed": Case(("embed", "{inputs}/data", *RUN, "--out", "e.npz")),
    "search": Case(("search", "101_1b1_Tc_sc_Litt3200", "--in", "embeddings.npz"), given=("embeddings.npz",)),
    "export_onnx": Case(("export", "{inputs}/run", "--to", "onnx", "--out", "m.onnx"), cost=10),
    "export_openvino": Case(("export", "{inputs}/run", "--to", "openvino", "--out", "m.xml"), cost=6),
    "report": Case(("report", "{inputs}/run", "--out", "report")),
    "synth": Case(("synth", "made", "--recordings", "6", "--seed", "1")),
    "explain": Case(("explain", "{inputs}/one.wav", "--cycle", "1", *RUN, "--out", "why.png")),
    "weights": Case(("weights", "attacked"), fresh_cache=True),
}


def preload(names: Iterable[str]) -> None:
    """Import what a command needs before it is forked; what cannot be imported alone it will import itself."""

    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    make_recipe("m2d_fusion", [], size="tiny")


def make_inputs(folder: Path) -> Path:
    """-> `folder` with data, one.wav, manifest.csv, attacked.zip, embeddings.npz, and the runs `run` and
    `pretrained` of the cases; what was made before is kept."""
    if (folder / "ready").exists():
        return folder
    data = tiny.write_folder(folder / "data")
    for patient in (103, 105):  # six recordings stay, of three patients for training and three for the test
        for file in data.glob(f"{patient}_*"):
            file.unlink()
    recordings = sorted(data.glob("*.wav"))
    shutil.copy2(recordings[0], folder / "one.wav")
    pd.DataFrame({"path": [f"data/{file.name}" for file in recordings]}).to_csv(folder / "manifest.csv", index=False)

    run_plainly((*CASES["train"].words[:-1], str(folder / "run")), folder)
    run_plainly((*CASES["train_validation"].words[:-1], str(folder / "run_validation")), folder)
    run_plainly((*CASES["pretrain"].words[:-1], str(folder / "pretrained")), folder)
    run_plainly(("embed", "{inputs}/data", *RUN, "--out", str(folder / "embeddings.npz")), folder)
    with zipfile.ZipFile(folder / "attacked.zip", "w") as packed:
        packed.write(folder / "run" / "best.safetensors", "attacked/checkpoint-300.safetensors")
    (folder / "ready").touch()
    return folder


def run_plainly(words: tuple[str, ...], inputs: Path) -> None:
    """Give a command in a process of its own, with the cache of all trials."""
    said = [word.replace("{inputs}", str(inputs)) for word in words]
    environment = {**os.environ, "RALES_CACHE": str(inputs / "cache")}
    subprocess.run([sys.executable, "-m", "rales", *said], env=environment, check=True, capture_output=True)
