"""Layer fusion on any encoder of timm or Hugging Face, by name: eq. 1 and 2 of the M2D paper over its blocks.

Paper: none on respiratory sounds; eq. 1, eq. 2 and the linear head are those of m2d_fusion (its best row: 60.68±0.49).

Command: rales train encoder_fusion --set encoder=hf/MIT/ast-finetuned-audioset-10-10-0.4593 --data FOLDER --out RUN

Ours: every block or stage is a layer. `encoder=timm/NAME` sees the log-mel of the clip as a picture of one channel, of
the size that `features` says; `encoder=hf/NAME_OR_FOLDER` gets what its own feature extractor makes, Kaldi's filter
bank (AST) or the waveform (wav2vec2, hubert, wavlm …). Name, revision, architecture and a digest of the weights are in
the record of the run, which is loaded without fetching anything. A published encoder stays frozen unless `freeze` says
otherwise: then nothing is augmented, and what it says of each cycle is computed once and kept in the cache.
`--set weights=` starts at random.

Deviations from the encoders' own training: cycles are repeated to 8 s; a picture is brought to mean 0 and deviation 1
clip by clip and has one channel, for which timm sums the weights of three; SpecAugment and layer drop that wav2vec2
brings itself are off, since their draws follow no seed. Needs the extra `encoders`.
"""

import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features, mask_features
from rales.audio.kaldi_fbank import AUDIOSET_MEAN, AUDIOSET_STD, HOP, WINDOW, KaldiFbank
from rales.audio.logmel import M2DLogMel, StandardiseClip
from rales.data.waveform_cache import Preparation
from rales.errors import UsageError
from rales.models.classifier import FusionClassifier
from rales.models.layer_fusion import Pool
from rales.models.named_encoder import (
    FillFrames,
    Kind,
    NormaliseWave,
    build_named_encoder,
    describe_encoder,
    digest_published_weights,
    load_published_weights,
    split_encoder_word,
)
from rales.settings import AnyNumber, Bounds, Depth, PaddedWaveform, Positive, SpecAugment, Training, set_defaults
from rales.training import finetune
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import weighted_loss
from rales.training.pooled_features import can_pool_once, prepare_pooled
from rales.training.recipe import Recipe

PUBLISHED = "published"
FROZEN = {
    "freeze": "encoder",
    "augment.frequency_masks": 0,
    "augment.time_masks": 0,
    "train.epochs": 50,
    "train.lr": 3e-4,
    "train.warmup_epochs": 0,
}
"""What published weights bring: a linear head on features that are computed once."""
FRAME_S, WINDOW_S = 0.010, 0.064  # of a picture
FRAMES_TOGETHER = 32  # a picture's frames are a multiple of it, which fits most patches and strides
POOLED_FORMAT = 1  # raise it when an encoder of the same weights gives other features


@dataclass(frozen=True)
class Features:
    """What the encoder gets of a clip: filled in by its name, except for the size of a picture."""

    kind: Kind = "picture"
    """picture: a log-mel (timm); fbank: Kaldi's filter bank (AST); wave: the waveform."""
    bands: Annotated[int, Bounds(above=0, most=1024)] = 128
    """Mel bands of a picture."""
    frames: Annotated[int, Bounds(most=10**5)] = 0
    """Frames of a picture, spread over the clip; 0 = one every 10 ms, down to a multiple of 32. Of a filter bank those
    of the encoder's positions, which are filled up with silence."""
    mean: AnyNumber = AUDIOSET_MEAN
    """Mean that a filter bank is standardised by."""
    std: Positive = AUDIOSET_STD
    """Deviation that a filter bank is standardised by, twice of which divides it."""
    normalise: bool = False
    """Whether a waveform is brought to mean 0 and variance 1."""


@dataclass(frozen=True)
class Model:
    """What is fused of the encoder."""

    depth: Depth = 1
    """Layers of the encoder, filled in."""
    layers: tuple[Depth, ...] = (1,)
    """Fused layers, numbered from 1; all, if it is not set."""
    learned: bool = True
    """Layer weights w_i are learned (eq. 1) or fixed at 1.0."""
    norm_layers: bool = False
    """LayerNorm without parameters on every layer before fusion."""
    head_start: Literal["zero", "default"] = "zero"
    """Start of the classification layer: nearly zero, or torch's own."""
    pool: Pool = "mean_max"
    """What is taken of a fused layer over time: mean + maximum (eq. 2), or one of them."""


@dataclass(frozen=True)
class Settings(TermSettings):
    """Numbers of a random start; published weights bring others (`FROZEN`)."""

    FILLED_IN = ("architecture", "features.kind", "model.depth")

    encoder: str = ""
    """timm/NAME or hf/NAME_OR_FOLDER; a folder is one that `save_pretrained` of transformers wrote."""
    revision: str = ""
    """Branch, tag or commit of hf/NAME on the hub; filled in with the commit."""
    architecture: str = ""
    """What the network is built from again without its name, filled in."""
    weights: str = PUBLISHED
    """published: those of the name; empty: a random start."""
    weights_digest: str = ""
    """SHA-256 of the published tensors, filled in."""
    audio: PaddedWaveform = field(default_factory=PaddedWaveform)
    features: Features = field(default_factory=Features)
    augment: SpecAugment = field(default_factory=lambda: SpecAugment(frequency_width=32))
    model: Model = field(default_factory=Model)
    train: Training = field(
        default_factory=lambda: Training(epochs=100, batch_size=32, micro_batch=0, lr=1e-4, warmup_epochs=2)
    )

    def with_presets(self, given: AbstractSet[str]) -> Self:
        """What the encoder and its weights bring. Errors: an encoder that is not known or cannot be fetched."""
        if self.weights not in ("", PUBLISHED):
            raise UsageError(
                f"weights={self.weights}: expected {PUBLISHED}, or nothing for a random start; the encoder is named by "
                "encoder=timm/NAME or encoder=hf/NAME_OR_FOLDER"
            )
        if not self.encoder:  # `--help` asks what the defaults are; `check` says that a run wants one
            return self
        facts = describe_encoder(self.encoder, self.revision)
        settings = replace(self, architecture=facts.architecture, revision=facts.revision)
        brought: dict[str, Any] = {
            "audio.rate_hz": facts.rate_hz,
            "features": Features(
                facts.kind, frames=facts.frames, mean=facts.mean, std=facts.std, normalise=facts.normalise
            ),
            "model.depth": facts.depth,
            "model.layers": tuple(range(1, facts.depth + 1)),
        }
        if self.weights:
            digest = digest_published_weights(self.encoder, facts.architecture, facts.revision)
            settings = replace(settings, weights_digest=digest)
            brought |= FROZEN if settings.freeze == "encoder" or "freeze" not in given else {}
        if facts.kind == "wave":  # of which nothing is masked
            brought |= {"augment.frequency_masks": 0, "augment.time_masks": 0}
        return set_defaults(settings, given, brought)

    def check(self) -> None:
        """Errors: no encoder, layers that it does not have, a clip that is too long for it, masks of a waveform."""
        if not self.encoder:
            split_encoder_word(self.encoder)
        if not self.model.layers or max(self.model.layers) > self.model.depth:
            raise UsageError(f"model.layers={list(self.model.layers)}: the encoder has {self.model.depth} layers")
        if self.features.kind == "wave" and (self.augment.frequency_masks or self.augment.time_masks):
            raise UsageError("augment.frequency_masks, augment.time_masks: this encoder gets waveforms; leave them out")
        if self.features.kind != "picture" and self.features.bands != Features.bands:
            raise UsageError(f"features.bands={self.features.bands}: is of a picture, which timm/… sees; leave it out")
        if self.features.kind == "wave" and self.features.frames:
            raise UsageError(f"features.frames={self.features.frames}: this encoder gets waveforms; leave it out")
        if self.features.kind == "fbank":
            positions = json.loads(self.architecture).get("max_length", self.features.frames)
            if self.features.frames != positions:
                raise UsageError(
                    f"features.frames={self.features.frames}: the encoder has positions for {positions}; leave it out"
                )
            frames = 1 + (count_samples(self) - WINDOW) // HOP
            if self.audio.rate_hz != 16000:
                raise UsageError(f"audio.rate_hz={self.audio.rate_hz}: the filter bank is of 16000 Hz; leave it out")
            if frames > self.features.frames:
                raise UsageError(
                    f"audio.duration_s={self.audio.duration_s:g}: {frames} frames, and the encoder has positions for "
                    f"{self.features.frames}; take a shorter clip"
                )


def recipe(settings: Settings) -> Recipe:
    """-> layers of a named encoder, fused; of a frozen one on its features, computed once."""
    once = can_pool_once(settings)
    made = Recipe(
        name="encoder_fusion",
        settings=settings,
        prepare=prepare if once else None,
        build_frontend=(lambda _: nn.Identity()) if once else build_frontend,
        build_model=build_model,
        augment=keep_features if once or settings.features.kind == "wave" else augment,
        loss=weighted_loss,
        run=finetune.run,
        # batch-norm of a convolutional network compares the rows of a batch, where it learns
        whole_batches=settings.freeze != "encoder" and settings.features.kind == "picture",
        notes=(describe_start(settings),),
    )
    return add_loss_term(made)


def describe_start(settings: Settings) -> str:
    """Settings -> the sentence about the encoder."""
    kinds = {"picture": "a log-mel of {} x {}", "fbank": "Kaldi's filter bank", "wave": "waveforms"}
    hears = kinds[settings.features.kind].format(*find_picture_size(settings))
    start = f"weights {settings.weights_digest[:12]}" if settings.weights else "a random start"
    frozen = ", frozen" if settings.freeze == "encoder" else ""
    revision = f" at {settings.revision[:12]}" if settings.revision else ""
    return f"{settings.encoder}{revision}: {settings.model.depth} layers, {start}{frozen}; it gets {hears}"


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of the pooled layers of a cycle."""
    plain = Model()
    model = replace(settings.model, learned=False, head_start=plain.head_start, pool=plain.pool)
    asked = replace(Settings(), audio=settings.audio, features=settings.features, model=model)
    names = ("encoder", "revision", "architecture", "weights", "weights_digest")
    asked = replace(asked, **{name: getattr(settings, name) for name in names})
    return prepare_pooled("encoder_fusion", asked, str(POOLED_FORMAT))


def count_samples(settings: Settings) -> int:
    """-> samples of a clip."""
    return round(settings.audio.rate_hz * settings.audio.duration_s)


def find_picture_size(settings: Settings) -> tuple[int, int]:
    """-> bands and frames of a picture, (0, 0) of other features."""
    if settings.features.kind != "picture":
        return 0, 0
    frames = settings.features.frames or int(settings.audio.duration_s / FRAME_S) // FRAMES_TOGETHER * FRAMES_TOGETHER
    return settings.features.bands, max(frames, FRAMES_TOGETHER if not settings.features.frames else 1)


def build_frontend(settings: Settings) -> nn.Module:
    """Settings -> module (B, samples) -> (B, 1, bands, frames), or waves (B, samples)."""
    features, rate_hz = settings.features, settings.audio.rate_hz
    if features.kind == "wave":
        return NormaliseWave() if features.normalise else nn.Identity()
    if features.kind == "fbank":
        silence = -features.mean / (2 * features.std)
        return nn.Sequential(KaldiFbank(mean=features.mean, std=features.std), FillFrames(features.frames, silence))

    bands, frames = find_picture_size(settings)
    hop = max(count_samples(settings) // frames, 1)
    logmel = M2DLogMel(
        sample_rate_hz=rate_hz,
        fft_samples=max(round(WINDOW_S * rate_hz), 2 * hop),  # so that no sound falls between two frames
        hop_samples=hop,
        mels=bands,
        high_hz=min(8000, rate_hz / 2),
    )
    return nn.Sequential(logmel, FillFrames(frames, 0.0), StandardiseClip())


def build_model(settings: Settings) -> FusionClassifier:
    """Settings -> encoder (published or random), fusion, pooling, head."""
    model, size = settings.model, find_picture_size(settings)
    encoder = build_named_encoder(settings.encoder, settings.architecture, size)
    if settings.weights:
        start = settings.encoder, settings.architecture, settings.revision
        if digest_published_weights(*start) != settings.weights_digest:
            raise UsageError(
                f"encoder={settings.encoder}: its weights have changed since this run began; put them back, or choose "
                "another --out"
            )
        encoder.load_state_dict(load_published_weights(*start, size))
    return FusionClassifier(
        encoder,
        model.layers,
        model.learned,
        len(settings.classes),
        norm_layers=model.norm_layers,
        head_start=model.head_start,
        pool=model.pool,
    )


def augment(settings: Settings, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, bands, frames) -> the same, masked with the mean level."""
    return mask_features(settings.augment, features, 0.0, generator)
