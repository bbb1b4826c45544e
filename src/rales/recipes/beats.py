"""BEATs, an audio transformer pre-trained with acoustic tokenizers, fine-tuned with patient-aware feature alignment.

Paper: "Patient-aware feature alignment for robust lung sound classification", Interspeech 2025 (PAFA). Official split,
five seeds, epoch chosen on the test set:

    recipe                       loss                    Sp            Se            Score
    beats_pafa                   cross-entropy + PAFA    82.05±1.95    47.63±2.23    64.84±0.60
      --loss cross_entropy       cross-entropy           78.77±3.07    48.21±2.32    63.49±1.08

Command: rales train beats_pafa --data ICBHI_final_database --weights BEATs_iter3_plus_AS2M.pt --out RUN

Provenance: code-verified (wa976/Patient-Aware-Feature-Alignment; microsoft/unilm, beats/). Not in the paper's Table 2.
`model.layers` fuses outputs of blocks by eq. 1; the published system has the last one, averaged over its tokens.

Deviations, undone by fidelity=original: a better resampler (audio.resampler=sinc); waves are multiplied by 2^15 as in
BEATs' own code, which that code leaves out, so that its filter banks are 1.6 lower than what BEATs was trained on; the
cosine begins at its top (train.cosine_start_epoch=1). Kept: after every step weights and buffers are half the old, half
the new ones; no SpecAugment; 5 s. Not done: its projector pools the tokens by a learned attention, ours sees their
mean, as the head does; the checkpoint's own dropouts are not read (model.layer_drop); its convolution of positions is
trained as one weight, not as direction and length; a cycle is cut out before it is resampled; half precision is
bfloat16 where it pays. The paper prints term.alignment=0.0005, its script has 0.001. Without weights the start is
random.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from torch import Tensor

from rales.audio.feature_augment import keep_features
from rales.audio.kaldi_fbank import BEATS_MEAN, BEATS_SCALE, BEATS_STD, HOP, WINDOW, KaldiFbank
from rales.data.faded_recordings import prepare_faded_recordings
from rales.data.waveform_cache import Preparation
from rales.errors import UsageError
from rales.models.beats import GROUPS, BEATs, BEATsSize
from rales.models.classifier import FusionClassifier
from rales.models.hub import find_checkpoint
from rales.models.instances import AttentionMIL
from rales.models.layer_fusion import Pool
from rales.models.low_rank import add_low_rank_updates
from rales.models.pretrained_backbones import beats_tensors
from rales.models.vit import recompute_activations
from rales.settings import (
    AdaptedTransformer,
    BackboneSettings,
    Bounds,
    Depth,
    Fidelity,
    Training,
    Waveform,
    replace_field,
    set_defaults,
)
from rales.training import finetune
from rales.training.loss_terms import LossName, TermSettings, add_loss_term
from rales.training.losses import weighted_loss
from rales.training.recipe import Recipe

SHORTEST_S = 0.2  # a patch and its window
TINY: dict[str, Any] = {"model.dim": 64, "model.depth": 2, "model.heads": 2, "term.width": 64, "train.epochs": 2}


@dataclass(frozen=True)
class Audio(Waveform):
    """From a cycle's sound to what the network sees."""

    duration_s: Annotated[float, Bounds(least=0.2, most=600)] = 5.0
    """Length of every cycle after cutting or padding."""
    fade_samples: Annotated[int, Bounds(most=10**7)] = 1000
    """Linear fade at both ends of the recording and at the end of the clip."""


@dataclass(frozen=True)
class Model(AdaptedTransformer):
    """The encoder and what is fused of it."""

    layers: tuple[Depth, ...] = (12,)
    """Fused layers, numbered from 1; the published system has the last."""
    learned: bool = False
    """Layer weights w_i are learned (eq. 1) or fixed at 1.0."""
    layout: Literal["flat", "stacked"] = "flat"
    """T counts patches (D = 768) or time columns (D = 6144)."""
    pool: Pool = "mean"
    """What is taken of a fused layer over time: its mean, as published, the maximum, or both (eq. 2)."""
    instance_s: Annotated[float, Bounds(most=600)] = 0.0
    """Seconds of the pieces that are encoded alone and weighed by a learned attention, one every half of it: M2D2's
    classifier has 2.0, in 8 s. 0 = the clip as a whole."""
    layer_drop: Annotated[float, Bounds(most=0.9)] = 0.0
    """Probability that training leaves a block out."""


@dataclass(frozen=True)
class Settings(BackboneSettings, TermSettings):
    """Numbers of the authors' script for BEATs."""

    size: Literal["base", "tiny"] = "base"
    """Of a random start; with weights the sizes are the checkpoint's."""
    fidelity: Fidelity = "corrected"
    """corrected: published quirks are mended; original: they stay."""
    loss: LossName = "pafa"
    """pafa: the published system; cross_entropy: its baseline; or another term."""
    audio: Audio = Audio()
    model: Model = Model()
    train: Training = Training(
        epochs=100,
        batch_size=32,
        micro_batch=0,
        drop_last=True,
        lr=5e-5,
        lr_floor=5e-8,
        weight_decay=1e-6,
        interpolate=0.5,
        class_weights="none",
    )

    def with_presets(self, given: AbstractSet[str]) -> Self:
        """What size, checkpoint and fidelity bring. Errors: a checkpoint that is no BEATs."""
        defaults: dict[str, Any] = TINY if self.size == "tiny" and not self.weights else {}
        if self.weights:
            size, _ = read_weights(self.weights)
            defaults = {"model.dim": size.dim, "model.depth": size.depth, "model.heads": size.heads}
        if self.fidelity == "original":
            defaults = {**defaults, "audio.resampler": "sinc", "train.cosine_start_epoch": 1}
        settings = set_defaults(self, given, defaults)
        return replace_field(settings, "model.layers", settings.default_layers())

    def default_layers(self) -> tuple[int, ...]:
        """-> the last."""
        return (self.model.depth,)

    def check(self) -> None:
        """Errors: layers that the encoder does not have, a width that does not divide, pieces of no length."""
        dim, heads = self.model.dim, self.model.heads
        if dim % GROUPS or dim % heads:
            raise UsageError(
                f"model.dim={dim}: expected a multiple of {GROUPS}, the groups of the convolution of positions, and of "
                f"model.heads={heads}"
            )
        if not self.model.layers or max(self.model.layers) > self.model.depth:
            raise UsageError(f"model.layers={list(self.model.layers)}: the encoder has {self.model.depth} layers")
        length = self.model.instance_s
        if length and not SHORTEST_S <= length <= self.audio.duration_s:
            raise UsageError(
                f"model.instance_s={length:g}: expected 0, or {SHORTEST_S:g} to audio.duration_s="
                f"{self.audio.duration_s:g} seconds"
            )


def recipe(settings: Settings) -> Recipe:
    """-> BEATs with cross-entropy and a term."""
    made = Recipe(
        name="beats_pafa",
        settings=settings,
        build_frontend=build_frontend,
        build_model=build_model,
        augment=keep_features,
        loss=weighted_loss,
        run=finetune.run,
        provenance="code-verified",
        prepare=prepare,
    )
    return add_loss_term(made)


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of one waveform a cycle, faded where the recording begins and ends."""
    return prepare_faded_recordings(settings.audio, settings.audio.fade_samples)


def build_frontend(settings: Settings) -> KaldiFbank:
    """Settings -> module (B, samples) -> (B, 1, 128, frames), as BEATs was pre-trained."""
    scale = 1.0 if settings.fidelity == "original" else BEATS_SCALE
    return KaldiFbank("povey", scale=scale, mean=BEATS_MEAN, std=BEATS_STD)


def read_weights(weights: str) -> tuple[BEATsSize, dict[str, Tensor]]:
    """Checkpoint -> sizes and tensors of its encoder; read once, as a sweep asks every trial."""
    path = find_checkpoint(weights)
    return read_once(path, path.stat().st_mtime_ns)


@cache
def read_once(path: Path, modified_ns: int) -> tuple[BEATsSize, dict[str, Tensor]]:
    return beats_tensors(path)


def build_model(settings: Settings) -> FusionClassifier | AttentionMIL:
    """Settings -> encoder (pre-trained or random), fusion, pooling, head; of pieces of the clip, if that is asked."""
    model = settings.model
    if settings.weights:
        size, tensors = read_weights(settings.weights)
        if (size.dim, size.depth, size.heads) != (model.dim, model.depth, model.heads):
            raise UsageError(f"{settings.weights}: its width, depth and heads are {size[:3]}; --set cannot change them")
        encoder = BEATs(size, layer_drop=model.layer_drop)
        encoder.load_state_dict(tensors)
    else:
        size = BEATsSize(model.dim, model.depth, model.heads, 4 * model.dim, 2 * model.dim // 3)
        encoder = BEATs(size, layer_drop=model.layer_drop)
    add_low_rank_updates(encoder, model.low_rank)
    recompute_activations(encoder, model.recompute)
    whole = FusionClassifier(
        encoder,
        model.layers,
        model.learned,
        len(settings.classes),
        layout=model.layout,
        head_start="default",
        pool=model.pool,
    )
    if not model.instance_s:
        return whole
    samples = round(settings.audio.rate_hz * model.instance_s)
    frames = 1 + (samples - WINDOW) // HOP
    return AttentionMIL(whole, frames, round(samples / 2 / HOP), len(settings.classes))
