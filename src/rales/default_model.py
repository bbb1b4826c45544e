"""rales-small, the model that ships with the package: how it is made, from folders of recordings to the file.

A compact ViT is pre-trained with M2D on the train sides of ICBHI 2017 and SPRSound, everyday noise mixed in, and then
fine-tuned, all layers fused, on the cycles of ICBHI's train side and the events of SPRSound's. The epoch and the
temperature are chosen on held-out patients of ICBHI's train side; its test side is looked at once, at the end. What
else was tried is in docs/results.md, what the model is good for in docs/rales-small.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rales import recipes, runs
from rales.config import Recipe
from rales.data import read_cycles, splits
from rales.data.collection import read_collection
from rales.models.weights import read_safetensors
from rales.pretrain_config import PretrainConfig
from rales.recipes import m2d_pretrain

FILE = Path(__file__).parent / "default" / "model.safetensors"
ENCODER = (
    "encoder.dim=128",
    "encoder.depth=4",
    "encoder.heads=4",
    "encoder.patch=80,4",
    "encoder.unit_frames=200",
    "encoder.decoder_dim=128",
    "encoder.decoder_depth=2",
    "encoder.decoder_heads=4",
    "crops.min_items=3000",
    "crops.threads=1",
    "pretrain.device=cpu",
)
# Half of the usual clip is enough, since a breath takes 2.7 s on average.
CLASSIFIER = (
    "audio.duration_s=4",
    "augment.frequency_width=12",
    "augment.time_width=24",
    "augment.time_warp_frames=0",
    "augment.device_gain=0.3",
    "augment.device_band_limit=0.5",
    "train.batch_size=32",
    "train.micro_batch=32",
    "train.lr=1e-3",
    "train.weight_decay=0",
    "train.warmup_epochs=1",
    "train.class_weights=none",
    "train.select=validation",
    "train.device=cpu",
)


def make(
    icbhi: Path,
    sprsound: Path,
    noise: Path,
    out: Path,
    *,
    pretrain_epochs: int = 20,
    epochs: int = 4,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Folders of ICBHI 2017, SPRSound and background noise -> `out`/encoder, a pre-training run, `out`/model, a run
    folder, and `out`/model.safetensors, the file that ships; -> the figures on ICBHI's test side.

    A call that was interrupted goes on. Errors: those of reading, of pre-training and of training.
    """
    command = f"rales default-model --pretrain-epochs {pretrain_epochs} --epochs {epochs} --seed {seed}"
    m2d_pretrain.run(
        pretraining(pretrain_epochs, seed, noise_ratio=0.3),
        read_collection((icbhi, sprsound)),
        out / "encoder",
        noise=read_collection((noise,)),
        command=command,
        progress=progress,
    )
    recipe = classifier(str(out / "encoder"), [f"seed={seed}", f"train.epochs={epochs}"])
    cycles = joined(read_cycles(icbhi), read_cycles(sprsound, skip_damaged=True))
    figures = recipe.run(recipe, cycles, out / "model", command=command, progress=progress)
    publish(out / "model" / "best.safetensors", out / FILE.name)
    return figures


def pretraining(epochs: int, seed: int, *, noise_ratio: float, words: Sequence[str] = ()) -> PretrainConfig:
    """-> all numbers of the pre-training of a compact encoder."""
    given = [f"pretrain.epochs={epochs}", f"seed={seed}", f"crops.noise_ratio={noise_ratio}"]
    return m2d_pretrain.settings("tiny", words=[*ENCODER, *given, *words])


def classifier(encoder: str, words: Sequence[str] = ()) -> Recipe:
    """Pre-trained encoder and further settings -> the recipe of a classifier with all its layers fused."""
    return recipes.make("m2d_fusion", [*CLASSIFIER, *words], variant="all_fixed", frontend="m2d_clip", weights=encoder)


def joined(icbhi: pd.DataFrame, sprsound: pd.DataFrame) -> pd.DataFrame:
    """Cycles of both databases -> one table: the official split of ICBHI with a fifth of its train cycles, whole
    patients, for validation, and SPRSound's train side as further train cycles."""
    first = splits.validation(splits.official(icbhi))
    second = sprsound[sprsound["split"] == "train"]
    names = "sprsound_" + second["patient"].astype(str)  # patients are numbers in both
    return pd.concat([first, second.assign(patient=names)[list(first.columns)]], ignore_index=True)


def publish(checkpoint: Path, out: Path) -> None:
    """Checkpoint of a run -> the file that ships: half precision, and no path of the machine that made it."""
    tensors, metadata = read_safetensors(checkpoint)
    record = json.loads(metadata.pop("rales"))
    record["options"] |= {"weights": "", "size": ""}
    record["config"]["model"]["weights"] = ""
    record["split"]["left_out"] = []
    runs.save_tensors(out, {name: value.half() for name, value in tensors.items()}, record, metadata)
