"""A data folder in ICBHI layout and a recipe that train together in a second."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch

from rales.files.json_files import to_jsonable
from rales.inference import prediction_writers
from rales.inference.predictor import Predictor
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from rales.registry import RECIPES
from rales.settings import to_dict
from rales.training import run_folder
from rales.training.pretrain_settings import PretrainConfig
from rales.training.recipe import Recipe

SYSTEMS = [name for name in RECIPES.built_in if name != "encoder_fusion"]  # which wants an encoder's name
RATE_HZ = 4000
TRAIN, TEST = range(101, 106), range(106, 109)
DEVICES, LOCATIONS = ("Meditron", "Litt3200"), ("Al", "Pr", "Tc")
SETTINGS = (
    "model.dim=24",
    "model.depth=2",
    "model.heads=2",
    "model.patch=16,16",
    "model.unit_frames=608",
    "model.layers=1,2",
    "frontend=icbhi",
    "audio.rate_hz=16000",
    "audio.duration_s=2",
    "audio.fade_samples=1000",
    "augment.frequency_width=8",
    "augment.time_width=40",
    "augment.device_gain=0",
    "augment.device_band_limit=0",
    "train.class_weights=inverse",
    "train.weight_decay=1e-4",
    "train.warmup_epochs=2",
    "train.batch_size=8",
    "train.micro_batch=8",
    "train.epochs=3",
    "train.device=cpu",
    "train.precision=float32",
)


def recipe(*words: str) -> Recipe:
    """Words `name=value` -> the paper's recipe, its sound and patches too, with the settings above and these; later
    words win."""
    return make_recipe("m2d_fusion", [*SETTINGS, *words], size="tiny")


def write_folder(folder: Path) -> Path:
    """-> eight recordings of one patient each, five for training, of four cycles of 1 s: one of every class."""
    folder.mkdir(parents=True)
    lines = []
    for patient in (*TRAIN, *TEST):
        name = f"{patient}_1b1_{LOCATIONS[patient % 3]}_sc_{DEVICES[patient % 2]}"
        order = np.random.default_rng(patient).permutation(4)
        wave = np.concatenate([breath(label, seed=patient) for label in order])
        soundfile.write(folder / f"{name}.wav", wave, RATE_HZ, subtype="PCM_16")
        annotation = [f"{i}\t{i + 1}\t{label % 2}\t{label // 2}\n" for i, label in enumerate(order)]
        (folder / f"{name}.txt").write_text("".join(annotation))
        lines.append(f"{name}\t{'train' if patient in TRAIN else 'test'}\r\n")
    (folder / "ICBHI_Challenge_demographic_information.txt").write_text(demographics())
    (folder / "ICBHI_challenge_train_test.txt").write_text("".join(lines))
    return folder


def demographics() -> str:
    """-> the database's file of that name: patients 101 to 107, one of them of unknown age, 108 missing."""
    people = ["3 F NA 19 99", "70 M 33 NA NA", "NA NA NA NA NA", "60 F 28 NA NA", "7 M NA 32 135", "5 F NA 20 99"]
    people.append("50 M 30 NA NA")
    return "".join(f"{100 + i}\t{person}\r\n".replace(" ", "\t") for i, person in enumerate(people, 1))


def breath(label: int, seed: int) -> np.ndarray:
    """Class number -> 1 s of noise, with clicks (crackles) and a tone (wheeze) where the class has them."""
    random = np.random.default_rng([seed, label])
    wave = 0.02 * random.standard_normal(RATE_HZ)
    if label % 2:
        wave[random.integers(0, RATE_HZ, 12)] += 0.8
    if label // 2:
        wave += 0.2 * np.sin(2 * np.pi * random.uniform(380, 420) * np.arange(RATE_HZ) / RATE_HZ)
    return wave.clip(-1, 1)


PRETRAINING = (
    "encoder.dim=24",
    "encoder.depth=2",
    "encoder.heads=2",
    "encoder.patch=16,16",
    "encoder.unit_frames=96",
    "encoder.decoder_dim=16",
    "encoder.decoder_depth=1",
    "encoder.decoder_heads=2",
    "crops.min_items=13",
    "pretrain.epochs=3",
    "pretrain.batch_size=4",
    "pretrain.micro_batch=4",
    "pretrain.lr=0.01",
    "pretrain.ema_steps=0",
    "pretrain.device=cpu",
    "pretrain.precision=float32",
)


def pretraining(*words: str) -> PretrainConfig:
    """Words `name=value` -> pre-training of three epochs of three steps each; later words win."""
    return m2d_pretrain.settings("tiny", words=[*PRETRAINING, *words])


def model(*words: str) -> Predictor:
    """A random start of the recipe above, ready for recordings: for what does not depend on what was learned."""
    chosen = recipe(*words)
    torch.manual_seed(0)
    network = chosen.build_model(chosen.settings)
    torch.nn.init.normal_(network.get_parameter("head.weight"), std=0.3)  # starts near 0, where all answers are alike
    record = {"recipe": chosen.name, "config": to_jsonable(to_dict(chosen.settings))}
    record |= chosen.settings.label_set.to_record()
    return Predictor.from_network(chosen, network, record)


def write_predictions(
    chunks: Iterable[tuple[pd.DataFrame, pd.DataFrame]], out: Path, form: str, paths: Sequence[str]
) -> list[Path]:
    """Cycles and status of recordings, as `Predictor.tables` gives them -> the files that they were written to."""
    with prediction_writers.open_predictions(out, form, paths) as append:
        return list(dict.fromkeys(file for table, status in chunks for file in append(table, status)))


def record_of(recipe: Recipe) -> dict[str, Any]:
    """-> what a checkpoint of a recipe says of it, as JSON has it."""
    about = {"recipe": recipe.name, "config": to_dict(recipe.settings), **recipe.settings.label_set.to_record()}
    return dict(json.loads(json.dumps(about)))


def save(model: Predictor, path: Path) -> None:
    """Write a model's checkpoint."""
    run_folder.save_tensors(path, model.network.state_dict(), about(model))


def about(model: Predictor) -> dict[str, Any]:
    """-> the record in a model's checkpoint."""
    return {**model.record, "epoch": 1}
