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

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio import read_waveform, resample_waveform
from rales.audio.spec_augment import append_mixup
from rales.audio.spectrogram_images import lungrn_image
from rales.config import Audio, Config, Recipe, Step, Training, is_original, no_weights, one_of
from rales.data.waveform_cache import Preparation
from rales.models.lung import LungRN
from rales.training import finetune
from rales.training.losses import soft_binary_cross_entropy
from rales.training.recipe_defaults import unchanged

SIDES = {"base": 128, "tiny": 32}  # of the picture; the network has one size


def recipe(size: str = "base", weights: str = "", fidelity: str = "corrected", rate: str = "native") -> Recipe:
    """-> the system. `rate` is "native", or "4000" hertz for all recordings."""
    one_of("size", size, tuple(SIDES))
    original = is_original(fidelity)
    one_of("rate", rate, ("native", "4000"))
    no_weights("lungrn_nl", weights)
    return Recipe(
        name="lungrn_nl",
        options={"size": size, "weights": weights, "fidelity": fidelity, "rate": rate},
        config=Config(
            audio=Audio(frontend="own"),
            train=Training(
                epochs=200 if size == "base" else 2,
                batch_size=32,
                micro_batch=0,
                lr=1e-4,
                schedule="step",
                weight_decay=0,
                class_weights="none",
                drop_last=original,
                precision="float32" if original else "auto",
            ),
        ),
        frontend=partial(build_frontend, side=SIDES[size]),
        model=partial(build_model, original=original),
        augment=unchanged,
        batch_loss=mixed_loss,
        run=finetune.run,
        provenance="code-verified",
        rows=one_digit_labels if original else None,
        prepare=partial(prepare, side=SIDES[size], remove_mean=not original, rate_hz=0 if rate == "native" else 4000),
        whole_batches=True,
    )


def prepare(config: Config, *, side: int, remove_mean: bool, rate_hz: int) -> Preparation:
    """-> preparation of one picture a cycle, flat."""
    return Preparation(picture, {"side": side, "remove_mean": remove_mean, "rate_hz": rate_hz}, side * side)


def picture(
    path: str | Path, start_s: float, end_s: float, *, side: int, remove_mean: bool, rate_hz: int
) -> NDArray[np.float32]:
    """One cycle -> (side * side,) at its native rate, or at rate_hz if that is not 0."""
    wave, native_hz = read_waveform(path, start_s, end_s)
    wave = resample_waveform(wave, native_hz, rate_hz or native_hz)
    drawn = lungrn_image(wave, rate_hz or native_hz, remove_mean=remove_mean, size=side)
    flat: NDArray[np.float32] = drawn.float().flatten().numpy()
    return flat


def one_digit_labels(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """Table -> train cycles from the eleventh of a recording on have the label of the cycle with their last digit."""
    labels = {(r, c): label for r, c, label in table[["recording", "cycle", "label"]].itertuples(index=False)}
    read_as = [
        labels[recording, (cycle - 1) % 10 + 1] if split == "train" else label
        for recording, cycle, split, label in table[["recording", "cycle", "split", "label"]].itertuples(index=False)
    ]
    return table.assign(label=read_as)


def build_frontend(config: Config, *, side: int) -> nn.Module:
    """-> module (B, side * side) -> (B, 1, side, side)."""
    return nn.Unflatten(1, (1, side, side))


def build_model(config: Config, *, original: bool) -> LungRN:
    return LungRN(nonlocal_softmax="global" if original else "row", nonlocal_transpose=original)


def mixed_loss(model: nn.Module, features: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the batch and of its mixtures behind it."""
    target = F.one_hot(step.label, len(step.weight)).float()
    pictures, targets = append_mixup(features, target, generator=step.generator)
    logits = model(pictures)
    return soft_binary_cross_entropy(logits, targets), logits[: len(features)]
