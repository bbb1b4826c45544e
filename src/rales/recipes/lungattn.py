"""LungAttn: dual tunable-Q wavelet parts of a cycle in three STFT pictures, a ResNet with one attention convolution.

Paper: Li et al., "LungAttn: advanced lung sound classification using attention mechanism with dual TQWT and triple STFT
spectrogram", Physiological Measurement 42 (2021) 105006. Table 2, official split, epoch chosen on the test set:

    Sp 71.44   Se 36.36   Score 53.90

Command: rales train lungattn --data ICBHI_final_database --out RUN

Provenance: code-verified (SJTU-YONGFU-RESEARCH-GRP/LungAttn). No pre-trained weights exist.

Deviations, undone by fidelity=original: values of the attention convolution are transposed before they are laid out as
maps; the constant that min-max leaves in 4 kHz recordings is removed; every recording is split at 4 kHz (`rate=4000`),
where at the native rate of 44.1 kHz nothing below 300 Hz is told apart and a cycle takes a minute (`rate=native`);
bfloat16 where it pays (train.precision=float32). Cycles are continued by reflection, to 0.366 s at least and to lengths
whose FFTs are fast. A class's probability is the softmax of its logit, as for lungrn_nl.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio import read_waveform, resample_waveform
from rales.audio.feature_augment import append_class_mixtures, keep_features
from rales.audio.spectrogram_images import lungattn_image, lungattn_waveform
from rales.audio.tqwt_decomposition import decompose_cycles_dual_q
from rales.data.waveform_cache import Preparation
from rales.models.lung import LungAttn
from rales.settings import Fidelity, RunSettings, Training, require_classes, set_defaults
from rales.training import finetune
from rales.training.losses import soft_binary_cross_entropy
from rales.training.recipe import LossContext, Recipe

SIDES = {"base": 224, "tiny": 64}  # of the picture
TRAINING = Training(
    epochs=100,
    batch_size=32,
    micro_batch=0,
    drop_last=True,
    optimiser="sgd",
    lr=0.1,
    schedule="step",
    weight_decay=0,
    class_weights="none",
)


@dataclass(frozen=True)
class Settings(RunSettings):
    """Numbers of the authors' code."""

    size: Literal["base", "tiny"] = "base"
    """Of the picture, and with it of the training; the network has one size."""
    fidelity: Fidelity = "corrected"
    """corrected: published quirks are mended; original: they stay."""
    rate: Literal["native", 4000] = 4000
    """Sample rate in hertz at which all recordings are split, or native (the default of fidelity=original)."""
    train: Training = TRAINING

    def with_presets(self, given: AbstractSet[str]) -> Self:
        defaults: dict[str, Any] = {} if self.size == "base" else {"train.epochs": 2}
        if self.fidelity == "original":
            defaults |= {"rate": "native", "train.precision": "float32"}
        return set_defaults(self, given, defaults)

    def check(self) -> None:
        """Errors: classes that its mixtures do not know."""
        require_classes(self, "lungattn mixes crackles and wheezes to both", icbhi=True)


def recipe(settings: Settings) -> Recipe:
    """-> the system."""
    return Recipe(
        name="lungattn",
        settings=settings,
        build_frontend=lambda _: nn.Identity(),  # what is prepared is the picture
        build_model=build_model,
        augment=keep_features,
        loss=mixed_loss,
        run=finetune.run,
        provenance="code-verified",
        prepare=prepare,
        whole_batches=True,
    )


def prepare(settings: Settings) -> Preparation:
    """-> preparation of three pictures a cycle."""
    side = SIDES[settings.size]
    how = {
        "side": side,
        "remove_mean": settings.fidelity != "original",
        "rate_hz": 0 if settings.rate == "native" else settings.rate,
        "iterations": 100 if settings.size == "base" else 5,
    }
    return Preparation(pictures, how, (3, side, side), together=pictures_of_cycles)


def pictures(path: str | Path, start_s: float, end_s: float, **settings: Any) -> NDArray[np.float32]:
    """One cycle -> (3, side, side): low-Q, high-Q and residual part; at its native rate if rate_hz is 0."""
    return pictures_of_cycles([(path, start_s, end_s)], **settings)[0]


def pictures_of_cycles(
    cycles: Sequence[tuple[str | Path, float, float]], *, side: int, remove_mean: bool, rate_hz: int, iterations: int
) -> list[NDArray[np.float32]]:
    """Cycles (path, start_s, end_s) -> the same of each; their waves are split together, which is far faster."""
    found = [wave_to_split(*cycle, rate_hz=rate_hz, remove_mean=remove_mean) for cycle in cycles]
    split = decompose_cycles_dual_q([wave for wave, _ in found], iterations=iterations)
    drawn = [lungattn_image(*parts, rate_hz, size=side) for parts, (_, rate_hz) in zip(split, found, strict=True)]
    return [picture.float().numpy() for picture in drawn]


def wave_to_split(
    path: str | Path, start_s: float, end_s: float, *, rate_hz: int, remove_mean: bool
) -> tuple[NDArray[np.float32], int]:
    """One cycle -> (N,) and its rate: filtered at the native rate, then brought to `rate_hz` hertz if that is not 0."""
    wave, native_hz = read_waveform(path, start_s, end_s)
    wave = lungattn_waveform(wave, native_hz, remove_mean=remove_mean)
    return resample_waveform(wave, native_hz, rate_hz or native_hz), rate_hz or native_hz


def build_model(settings: Settings) -> LungAttn:
    layout: Literal["raw", "transposed"] = "raw" if settings.fidelity == "original" else "transposed"
    return LungAttn(len(settings.classes), side=SIDES[settings.size] // 16, layout=layout)


def mixed_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the batch and of the mixtures of classes behind it, which also even the classes out."""
    pictures, targets = append_class_mixtures(features, step.label, generator=step.generator)
    logits = model(pictures)
    return soft_binary_cross_entropy(logits, targets), logits[: len(features)]
