"""LungRN+NL: a small ResNet with non-local blocks on a stretched picture of the whole cycle, mixed in the batch.

Paper: Ma, Xu & Li, "LungRN+NL: an improved adventitious lung sound classification using non-local block ResNet neural
network with mixup data augmentation", Interspeech 2020. Table 2, official split, epoch chosen on the test set:

    Sp 63.20   Se 41.32   Score 52.26

Command: rales train lungrn_nl --data ICBHI_final_database --out RUN

Provenance: code-verified (commit 6450040d of SJTU-YONGFU-RESEARCH-GRP/Lung-Sound-Classification-System-LungSys-I, some
weeks older than the paper; its launch script's numbers). No pre-trained weights exist.

Deviations, undone by fidelity=original: softmax for each place, not over all pairs of them; the attended picture is not
transposed; the constant that min-max leaves in 4 kHz recordings is removed; a train cycle has its own label, where that
code reads one digit of its number; the last batch of an epoch trains though it is not full (train.drop_last=true);
bfloat16 where it pays (train.precision=float32). Never done: that code leaves up to 99 random test cycles unscored;
here all are scored. `rate=4000` makes recordings of all devices show the same band; native is as published. A class's
probability is the softmax of its logit, although each is trained as a yes or no of its own; the order of the classes is
the same.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio import read_waveform, resample_waveform
from rales.audio.feature_augment import append_mixup, keep_features
from rales.audio.spectrogram_images import lungrn_image
from rales.data.waveform_cache import Preparation
from rales.models.lung import LungRN
from rales.settings import Fidelity, RunSettings, Training, set_defaults
from rales.training import finetune
from rales.training.losses import soft_binary_cross_entropy
from rales.training.recipe import LossContext, Recipe

SIDES = {"base": 128, "tiny": 32}  # of the picture
TRAINING = Training(
    epochs=200, batch_size=32, micro_batch=0, lr=1e-4, schedule="step", weight_decay=0, class_weights="none"
)


@dataclass(frozen=True)
class Settings(RunSettings):
    """Numbers of the launch script."""

    size: Literal["base", "tiny"] = "base"
    """Of the picture, and with it of the training; the network has one size."""
    fidelity: Fidelity = "corrected"
    """corrected: published quirks are mended; original: they stay."""
    rate: Literal["native", 4000] = "native"
    """Sample rate in hertz that all recordings are brought to, or native."""
    train: Training = TRAINING

    def with_presets(self, given: AbstractSet[str]) -> Self:
        defaults: dict[str, Any] = {} if self.size == "base" else {"train.epochs": 2}
        if self.fidelity == "original":
            defaults |= {"train.drop_last": True, "train.precision": "float32"}
        return set_defaults(self, given, defaults)


def recipe(settings: Settings) -> Recipe:
    """-> the system."""
    return Recipe(
        name="lungrn_nl",
        settings=settings,
        build_frontend=lambda _: nn.Identity(),  # what is prepared is the picture
        build_model=build_model,
        augment=keep_features,
        loss=mixed_loss,
        run=finetune.run,
        provenance="code-verified",
        rows=one_digit_labels if settings.fidelity == "original" else None,
        prepare=prepare,
        whole_batches=True,
    )


def prepare(settings: Settings) -> Preparation:
    """-> preparation of one picture a cycle."""
    side, rate_hz = SIDES[settings.size], 0 if settings.rate == "native" else settings.rate
    how = {"side": side, "remove_mean": settings.fidelity != "original", "rate_hz": rate_hz}
    return Preparation(picture, how, (1, side, side))


def picture(
    path: str | Path, start_s: float, end_s: float, *, side: int, remove_mean: bool, rate_hz: int
) -> NDArray[np.float32]:
    """One cycle -> (1, side, side) at its native rate, or at rate_hz if that is not 0."""
    wave, native_hz = read_waveform(path, start_s, end_s)
    wave = resample_waveform(wave, native_hz, rate_hz or native_hz)
    drawn = lungrn_image(wave, rate_hz or native_hz, remove_mean=remove_mean, size=side)
    return np.asarray(drawn.float().numpy())


def one_digit_labels(settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    """Table -> train cycles from the eleventh of a recording on have the label of the cycle with their last digit."""
    labels = {(r, c): label for r, c, label in table[["recording", "cycle", "label"]].itertuples(index=False)}
    read_as = [
        labels[recording, (cycle - 1) % 10 + 1] if split == "train" else label
        for recording, cycle, split, label in table[["recording", "cycle", "split", "label"]].itertuples(index=False)
    ]
    return table.assign(label=read_as)


def build_model(settings: Settings) -> LungRN:
    original = settings.fidelity == "original"
    softmax: Literal["global", "row"] = "global" if original else "row"
    return LungRN(len(settings.classes), nonlocal_softmax=softmax, nonlocal_transpose=original)


def mixed_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the batch and of its mixtures behind it."""
    target = (step.label if step.label.ndim == 2 else F.one_hot(step.label, len(step.weight))).float()
    pictures, targets = append_mixup(features, target, generator=step.generator)
    logits = model(pictures)
    return soft_binary_cross_entropy(logits, targets), logits[: len(features)]
