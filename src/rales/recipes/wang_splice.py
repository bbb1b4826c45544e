"""Wang & Wang: a ResNeSt on log-mels, with spliced cycles of two devices. A RECONSTRUCTION, not a reproduction.

Paper: Wang & Wang, "A domain transfer based data augmentation method for automated respiratory classification", ICASSP
2022, whose text is not at hand. Table 2, official split:

    Sp 70.40   Se 40.20   Score 55.30

Command: rales train wang_splice --data ICBHI_final_database --weights resnest50-528c19ca.pth --out RUN

Provenance: reconstruction. Known are ResNeSt, ImageNet, the official split, and from later papers the word "splice".
Everything else is our choice. The input is RespireNet's, so that the comparison is about backbone and augmentation: 4
kHz, 8 s, the cycle repeated behind itself, 64 mels. Domain = device: the first part of a cycle is joined to the last
part of one of another device (at 30 to 70 %, with 50 ms of cross-fade); crackles and wheezes add up.

Deviations: unknown, and fidelity=original changes nothing. As many spliced cycles as train cycles, all classes equally
often where two devices have them, are drawn once and join the train rows: 30 epochs over both are 60 with one in two
spliced.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from rales import finetune
from rales.audio.images import SquarePicture
from rales.audio.lengths import duplicate
from rales.audio.wave_augment import domain_pairs, splice
from rales.config import Audio, Config, Model, Recipe, Training, one_of
from rales.data.cache import Preparation, segment
from rales.models.heads import Headed
from rales.models.public_weights import resnest_tensors
from rales.models.resnest import ResNeSt
from rales.rows import SECOND, class_numbers, train_positions, wave_settings, with_joined
from rales.steps import unchanged, weighted_loss


def recipe(size: str = "base", weights: str = "", fidelity: str = "corrected") -> Recipe:
    """-> the system."""
    one_of("size", size, ("base", "tiny"))
    size = "base" if weights else size  # the only one with public files
    one_of("fidelity", fidelity, ("corrected", "original"))
    return Recipe(
        name="wang_splice",
        options={"size": size, "weights": weights, "fidelity": fidelity},
        config=Config(
            audio=Audio(frontend="own", rate_hz=4000, pad="duplicate", fade_samples=0),
            model=Model(weights=weights),
            train=Training(
                epochs=30 if size == "base" else 2,
                batch_size=64,
                micro_batch=0,
                optimiser="sgd",
                lr=1e-3,
                lr_floor=0,
                weight_decay=5e-4,
            ),
        ),
        frontend=partial(build_frontend, side=224 if size == "base" else 64),
        model=partial(build_model, size=size),
        augment=unchanged,
        batch_loss=weighted_loss,
        run=finetune.run,
        provenance="reconstruction",
        rows=with_spliced,
        prepare=prepare,
        whole_batches=True,
    )


def with_spliced(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> the same, and behind it as many spliced train cycles as there are train cycles."""
    train, random = train_positions(table), np.random.default_rng(config.split.seed)
    pairs, labels = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    if len(train):
        wanted = random.integers(4, size=len(train))
        found = domain_pairs(class_numbers(table.iloc[train]), table["device"].to_numpy()[train], wanted, random)
        made = found[:, 0] >= 0
        pairs, labels = train[found[made]], wanted[made]
    rows = with_joined(table, pairs, labels)
    return rows.assign(ratio=[*np.zeros(len(table)), *random.uniform(0.3, 0.7, len(labels)).round(4)])


def prepare(config: Config) -> Preparation:
    """Config -> preparation of one waveform a row."""
    settings = wave_settings(config)
    return Preparation(clip, settings, settings["samples"], (*SECOND, "ratio"))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    second_path: str,
    second_start_s: float,
    second_end_s: float,
    ratio: float,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
) -> NDArray[np.float32]:
    """One cycle, or two of them spliced at `ratio` -> (samples,)."""
    wave = segment(path, start_s, end_s, rate_hz=rate_hz, resampler=resampler)
    if second_path:
        second = segment(second_path, second_start_s, second_end_s, rate_hz=rate_hz, resampler=resampler)
        wave = splice(wave, second, ratio, round(0.05 * rate_hz))
    return duplicate(wave[:samples], samples)


def build_frontend(config: Config, *, side: int) -> SquarePicture:
    """Config -> module (B, 32000) -> (B, 3, side, side)."""
    return SquarePicture(
        "imagenet", size=side, sample_rate_hz=config.audio.rate_hz, fft_samples=256, hop_samples=128, mels=64
    )


def build_model(config: Config, *, size: str) -> Headed:
    """Config -> ResNeSt-50 (pre-trained or random), dropout, linear layer."""
    backbone = ResNeSt(50) if size == "base" else ResNeSt(14, width=16)
    if config.model.weights:
        backbone.load_state_dict(resnest_tensors(config.model.weights))
    return Headed(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(backbone.dim, 4)))
