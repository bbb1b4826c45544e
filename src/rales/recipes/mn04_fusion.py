"""Layer fusion on a MobileNet of AudioSet tagging: eq. 1 and 2 of the M2D paper over the blocks of EfficientAT's mn04.

Paper: Schmid, Koutini & Widmer, "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation",
ICASSP 2023 (arXiv 2211.04772): mn04_as, 0.98 M parameters, mAP 43.20 on AudioSet; nothing on respiratory sounds.

Command: rales train mn04_fusion --data ICBHI_final_database --weights mn04_as --out RUN

Ours: every inverted residual and the convolution behind them is a layer, whose map is its tokens (`model.layout` as of
the M2D encoder: all places, or columns with their rows stacked); learnable weights per layer, concatenation, mean +
maximum over time, linear head. `views=both` hears the sound once more four times faster, where all mel bands lie below
3750 Hz, and fuses the layers of both. `band=4k` is another way there: mel bands from 0 to 4 kHz.

Weights: `rales weights mn04_as` (MIT licence, Copyright (c) 2022 Florian Schmid), a safetensors file of the same
tensors, another width (mn01 to mn40), or a run of this recipe. With weights the encoder stays frozen unless
`freeze` says otherwise, nothing is augmented, and what it says of each cycle is computed once and kept in the
cache: an epoch takes a second. Then its features are of float32 and of the processor.

Deviations from the pre-training: cycles are repeated to 8 s, its clips were 10 s long. Without weights the start is
random.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from rales.audio.efficientat_logmel import FAST, FLOOR, RATE_HZ, SCALE, SHIFT, EfficientATLogMel, TwoSpeeds, Views
from rales.audio.feature_augment import keep_features, mask_features
from rales.data.waveform_cache import Preparation
from rales.errors import UsageError
from rales.models.classifier import FusionClassifier
from rales.models.hub import find_checkpoint, sha256_of
from rales.models.mobilenet import BLOCKS, MobileNet, TwoSpeedEncoder
from rales.models.pretrained_backbones import mobilenet_tensors
from rales.settings import Bounds, Depth, PaddedWaveform, SpecAugment, Training, replace_field, set_defaults
from rales.training import finetune
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import weighted_loss
from rales.training.pooled_features import can_pool_once, prepare_pooled
from rales.training.recipe import Recipe

ALL = len(BLOCKS) + 1
BANDS_HZ = {"15k": 15000, "4k": 4000}
FROZEN = {
    "freeze": "encoder",
    "augment.frequency_masks": 0,
    "augment.time_masks": 0,
    "train.epochs": 50,
    "train.lr": 3e-4,
}
"""What weights bring: a linear head on features that are computed once."""
TINY = {"model.depth": 3, "audio.duration_s": 4.0, "train.epochs": 2}
POOLED_FORMAT = 1  # raise it when an encoder of the same weights gives other features


@dataclass(frozen=True)
class Audio(PaddedWaveform):
    """From a cycle's sound to what the network sees."""

    rate_hz: Annotated[int, Bounds(least=4000, most=192_000)] = RATE_HZ
    """Sample rate after resampling. At another one than that of the pre-training, windows are as long in seconds and
    what lies above half of it is silent."""
    fade_samples: Annotated[int, Bounds(most=10**7)] = 2000
    """Linear fade at both ends of the cycle and at the end of the clip."""


@dataclass(frozen=True)
class Model:
    """The encoder and what is fused of it."""

    width: Annotated[float, Bounds(least=0.1, most=4.0)] = 0.4
    """Multiple of MobileNetV3-large's channels; 0.4 is mn04."""
    depth: Annotated[int, Bounds(least=2, most=ALL)] = ALL
    """Layers of the encoder: inverted residuals and the convolution behind them."""
    layers: tuple[Depth, ...] = tuple(range(1, ALL + 1))
    """Fused layers, numbered from 1; with views=both those of the faster sound follow, from depth + 1."""
    learned: bool = True
    """Layer weights w_i are learned (eq. 1) or fixed at 1.0."""
    layout: Literal["flat", "stacked"] = "flat"
    """T counts the places of a map (D its channels), or its columns (D channels times rows)."""
    norm_layers: bool = False
    """LayerNorm without parameters on every layer before fusion."""
    head_start: Literal["zero", "default"] = "zero"
    """Start of the classification layer: nearly zero, or torch's own."""


@dataclass(frozen=True)
class Settings(TermSettings):
    """Numbers of a random start; weights bring others (`FROZEN`)."""

    size: Literal["base", "tiny"] = "base"
    """Of a random start: mn04, or its first two blocks. With weights the sizes are the file's."""
    weights: str = ""
    """Name or file of the pre-trained checkpoint; empty = random start."""
    weights_digest: str = ""
    """SHA-256 of that file, filled in."""
    views: Views = "plain"
    """The sound as it is, four times faster (fast), or both."""
    band: Literal["15k", "4k"] = "15k"
    """Mel bands of the sound as it is: 0 to 15 kHz as in pre-training, or 0 to 4 kHz, where the sound of most
    recordings is."""
    audio: Audio = field(default_factory=Audio)
    augment: SpecAugment = field(default_factory=lambda: SpecAugment(frequency_width=32))
    model: Model = field(default_factory=Model)
    train: Training = field(
        default_factory=lambda: Training(epochs=100, batch_size=32, micro_batch=0, lr=1e-3, warmup_epochs=2)
    )

    def with_presets(self, given: AbstractSet[str]) -> Self:
        """What size, checkpoint and views bring. Errors: a checkpoint that is no MobileNet of EfficientAT."""
        settings = set_defaults(self, set(), TINY if self.size == "tiny" and not self.weights else {})
        if self.weights:
            path = find_checkpoint(self.weights)
            width, depth, _ = read_weights(path, path.stat().st_mtime_ns)
            sizes = {"model.width": width, "model.depth": depth, "weights_digest": sha256_of(path)}
            is_frozen = settings.freeze == "encoder" or "freeze" not in given
            settings = set_defaults(replace(settings, size="base"), given, {**(FROZEN if is_frozen else {}), **sizes})
        return replace_field(settings, "model.layers", settings.default_layers())

    def default_layers(self) -> tuple[int, ...]:
        """-> all."""
        return tuple(range(1, self.count_layers() + 1))

    def count_layers(self) -> int:
        """Layers that can be fused: each view has its own."""
        return self.model.depth * (2 if self.views == "both" else 1)

    def check(self) -> None:
        """Errors: layers that the encoder does not have, a band that nothing hears."""
        if not self.model.layers or max(self.model.layers) > self.count_layers():
            raise UsageError(f"model.layers={list(self.model.layers)}: the encoder has {self.count_layers()} layers")
        if self.views == "fast" and self.band != "15k":
            raise UsageError(f"band={self.band}: is of the sound as it is, and views=fast hears the faster one alone")


def recipe(settings: Settings) -> Recipe:
    """-> layers of a MobileNet, fused; where each epoch would compute the same features of a cycle, on those, computed
    once."""
    once = can_pool_once(settings)
    made = Recipe(
        name="mn04_fusion",
        settings=settings,
        prepare=prepare if once else None,
        build_frontend=(lambda _: nn.Identity()) if once else build_frontend,
        build_model=build_model,
        augment=keep_features if once else augment,
        loss=weighted_loss,
        run=finetune.run,
        silence=find_silence(settings),
        # batch-norm compares the rows of a batch, where it learns
        whole_batches=settings.freeze != "encoder",
    )
    return add_loss_term(made)


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of the pooled layers of a cycle."""
    plain = Model(learned=False)  # what is no matter of the encoder is the same for all
    model = replace(settings.model, learned=plain.learned, head_start=plain.head_start)
    asked = replace(Settings(), audio=settings.audio, model=model, views=settings.views, band=settings.band)
    asked = replace(asked, weights=settings.weights, weights_digest=settings.weights_digest)
    return prepare_pooled("mn04_fusion", asked, str(POOLED_FORMAT))


@cache
def read_weights(path: Path, modified_ns: int) -> tuple[float, int, dict[str, Tensor]]:
    """Checkpoint -> width, layers and tensors of its encoder; read once, as a sweep asks every trial."""
    return mobilenet_tensors(path)


def build_frontend(settings: Settings) -> EfficientATLogMel | TwoSpeeds:
    """Settings -> module (B, samples) -> (B, 1, 128, frames)."""
    rate_hz = settings.audio.rate_hz
    plain = EfficientATLogMel(rate_hz, high_hz=BANDS_HZ[settings.band])
    if settings.views == "plain":
        return plain
    fast = EfficientATLogMel(rate_hz, speed=FAST)
    return fast if settings.views == "fast" else TwoSpeeds(plain, fast)


def build_model(settings: Settings) -> FusionClassifier:
    """Settings -> encoder (pre-trained or random), fusion, pooling, head."""
    model = settings.model
    network = MobileNet(model.width, model.depth - 1)
    if settings.weights:
        path = find_checkpoint(settings.weights)
        width, depth, tensors = read_weights(path, path.stat().st_mtime_ns)
        if (width, depth) != (model.width, model.depth):
            raise UsageError(f"{settings.weights}: its width and depth are {width, depth}; --set cannot change them")
        network.load_state_dict(tensors)

    encoder: nn.Module = network
    if settings.views == "both":
        samples = round(settings.audio.rate_hz * settings.audio.duration_s)
        encoder = TwoSpeedEncoder(network, EfficientATLogMel(settings.audio.rate_hz).count_frames(samples))
    return FusionClassifier(
        encoder,
        model.layers,
        model.learned,
        len(settings.classes),
        layout=model.layout,
        norm_layers=model.norm_layers,
        head_start=model.head_start,
    )


def augment(settings: Settings, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 128, frames) -> the same, masked with silence."""
    return mask_features(settings.augment, features, find_silence(settings), generator)


def find_silence(settings: Settings) -> float:
    """-> what the front-end makes of no sound."""
    return (float(np.log(FLOOR)) + SHIFT) / SCALE
