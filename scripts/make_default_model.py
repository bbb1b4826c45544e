"""rales-small, the model that ships with the package: how it is made, from folders of recordings to the file.

A compact ViT, all layers fused, is trained on the normal breaths of ICBHI's and SPRSound's train sides, with made-up
crackles and wheezes laid over half of them (`rales.synthesis.event_mixing`): from those it learns more about the
abnormal breaths of other patients than from the real ones of the few patients at hand. Temperature and threshold come
from held-out patients of ICBHI's train side and their real labels. Pre-training with M2D on the same recordings,
everyday noise mixed in, is there for larger collections. What was tried is in docs/results.md, what the model is good
for in docs/rales-small.md.

    python scripts/make_default_model.py ICBHI_final_database SPRSound --out runs/rales-small
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rales.cli.result_lines import figure_lines
from rales.data import read_cycles, splits
from rales.data.corpus import read_corpus
from rales.files.atomic import lock_folder
from rales.models.hub import SHIPPED_FILE
from rales.models.m2d_checkpoints import read_safetensors
from rales.recipes import m2d_pretrain
from rales.recipes.m2d_fusion import TINY
from rales.recipes.registry import make_recipe
from rales.settings import format_value
from rales.synthesis.event_mixing import mix_events_into_cycles
from rales.training import run_folder
from rales.training.pretrain_settings import PretrainConfig
from rales.training.recipe import Recipe

FILE = SHIPPED_FILE
VARIANTS, EPOCHS = 4, 4  # of every normal train cycle; passes over them
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
# Beside the numbers of size tiny. The last epoch is kept: which one scores best on the ten patients of validation is
# chance, so they serve for temperature and threshold alone.
CLASSIFIER = ("train.class_weights=none", "train.select=last", "train.device=cpu", "train.precision=auto")
PRETRAINED = ("audio.rate_hz=16000", "audio.fade_samples=1000")  # as the encoder heard


def make_default_model(
    icbhi: Path,
    sprsound: Path,
    out: Path,
    *,
    noise: Path | None = None,
    pretrain_epochs: int = 0,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Folders of ICBHI 2017 and SPRSound, and one of background noise for pre-training -> `out`/model, a run folder,
    and `out`/model.safetensors, the file that ships; -> the figures on ICBHI's test side.

    With `pretrain_epochs` the encoder starts from `out`/encoder, a pre-training run. A call that was interrupted goes
    on. Errors: pre-training without noise, and those of reading, of pre-training and of training.
    """
    command = f"make_default_model.py --pretrain-epochs {pretrain_epochs} --epochs {epochs} --seed {seed}"
    if pretrain_epochs and noise is None:
        raise ValueError("pre-training mixes background noise in; give a folder of it (--noise)")

    with lock_folder(out):
        if noise is not None and pretrain_epochs:
            config = pretraining_settings(pretrain_epochs, seed, noise_ratio=0.3)
            sounds, noises = read_corpus((icbhi, sprsound)), read_corpus((noise,))
            m2d_pretrain.run(config, sounds, out / "encoder", noise=noises, command=command, progress=progress)
        encoder = str(out / "encoder") if pretrain_epochs else ""
        recipe = classifier_recipe(encoder, [f"seed={seed}", f"train.epochs={epochs}"])

        cycles = join_databases(read_cycles(icbhi), read_cycles(sprsound, skip_damaged=True))
        cycles = overlay_events(cycles, out / "overlay", seed, progress=progress)
        figures = recipe.run(recipe, cycles, out / "model", command=command, progress=progress)
        publish_checkpoint(out / "model" / "best.safetensors", out / FILE.name)
    return figures


def pretraining_settings(epochs: int, seed: int, *, noise_ratio: float) -> PretrainConfig:
    """-> all numbers of the pre-training of a compact encoder."""
    given = [f"pretrain.epochs={epochs}", f"seed={seed}", f"crops.noise_ratio={noise_ratio}"]
    return m2d_pretrain.settings("tiny", words=[*ENCODER, *given])


def classifier_recipe(encoder: str, words: Sequence[str] = ()) -> Recipe:
    """Pre-trained encoder ("" is a random start) and further settings -> the recipe of a classifier."""
    start = {"weights": encoder} if encoder else {"size": "tiny"}
    words = [*([*tiny_settings(), *PRETRAINED] if encoder else []), *CLASSIFIER, *words]
    return make_recipe("m2d_fusion", words, variant="all_fixed", frontend="m2d_clip", **start)


def tiny_settings() -> list[str]:
    """-> the settings in which length, augmentation and training of size tiny are not the paper's."""
    parts = ("audio.duration_s", "augment.", "train.")
    return [f"{name}={format_value(value)}" for name, value in TINY.items() if name.startswith(parts)]


def join_databases(icbhi: pd.DataFrame, sprsound: pd.DataFrame) -> pd.DataFrame:
    """Cycles of both databases -> one table: the split of ICBHI that its table holds, with a fifth of the train cycles,
    whole patients, for validation if it has none, and SPRSound's train side as further train cycles."""
    first = splits.split_officially(icbhi)
    if "validation" not in set(first["split"]):
        first = splits.hold_out_validation(first)
    second = sprsound[sprsound["split"] == "train"]
    names = "sprsound_" + second["patient"].astype(str)  # patients are numbers in both
    return pd.concat([first, second.assign(patient=names)[list(first.columns)]], ignore_index=True)


def overlay_events(cycles: pd.DataFrame, folder: Path, seed: int = 0, *, progress: bool = False) -> pd.DataFrame:
    """Divided cycles -> the same with VARIANTS of the normal train cycles, crackles and wheezes laid over half of
    them (files in `folder`), instead of all train cycles: those that are abnormal themselves are not learned from."""
    train = cycles["split"] == "train"
    made = mix_events_into_cycles(cycles[train], folder, variants=VARIANTS, seed=seed, progress=progress)
    return pd.concat([cycles[~train], made], ignore_index=True)


def publish_checkpoint(checkpoint: Path, out: Path) -> None:
    """Checkpoint of a run -> the file that ships: half precision, and no path of the machine that made it."""
    tensors, metadata = read_safetensors(checkpoint)
    record = json.loads(metadata.pop("rales"))
    record["config"]["weights"] = ""
    record["split"]["left_out"] = []
    run_folder.save_tensors(out, {name: value.half() for name, value in tensors.items()}, record, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path, help="folder in ICBHI layout")
    parser.add_argument("sprsound", type=Path, help="folder in SPRSound layout")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a call that was interrupted goes on")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the normal train breaths of both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-epochs", type=int, default=0, help="passes of M2D pre-training before")
    parser.add_argument("--noise", type=Path, help="folder of background noise for the pre-training")
    options = parser.parse_args()
    figures = make_default_model(**vars(options), progress=True)
    print("\n".join(figure_lines(figures)))
    print(f"model: {options.out / FILE.name}")


if __name__ == "__main__":
    main()
