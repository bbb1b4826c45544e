"""AST, an audio spectrogram transformer, fine-tuned; the same with Patch-Mix contrastive learning, and guided by the
stethoscope.

Paper: Bae et al., "Patch-Mix contrastive learning with audio spectrogram transformer on respiratory sound
classification", Interspeech 2023. Official split, five seeds, epoch chosen on the test set:

    recipe            loss                                   Sp      Se      Score
    ast_ft            weighted cross-entropy                 77.14   41.97   59.55
    ast_patchmix_cl   cross-entropy + Patch-Mix contrastive  81.66   43.07   62.37±0.61

Paper: Kim et al., "Stethoscope-guided supervised contrastive learning for cross-domain adaptation on respiratory sound
classification", ICASSP 2024, on the same code, split and protocol:

    ast_sg_scl        cross-entropy + SupCon of devices      79.87   43.55   61.71
      --loss device_adversarial   + reversed gradient        77.11   42.50   59.81

Paper: "Patient-aware feature alignment for robust lung sound classification", Interspeech 2025; its printed figure,
64.84±0.60, is of BEATs. The constants of its script for AST, whose figure we have not found, are loss=pafa,
audio.duration_s=5, train.batch_size=32, term.weight=0.5, term.cohesion=10, term.alignment=0.01,
train.class_weights=none, augment.frequency_masks=0, augment.time_masks=0.

Command: rales train ast_ft --data ICBHI_final_database --weights audioset_10_10_0.4593.pth --out RUN
Command: rales train ast_patchmix_cl --data ICBHI_final_database --weights audioset_10_10_0.4593.pth --out RUN
Command: rales train ast_sg_scl --data ICBHI_final_database --weights audioset_10_10_0.4593.pth --out RUN

Provenance: code-verified (raymin0223/patch-mix_contrastive_learning, YuanGongND/ast;
kaen2891/stethoscope-guided_supervised_contrastive_learning; wa976/Patient-Aware-Feature-Alignment). Not in the paper's
Table 2.

Deviations, undone by fidelity=original: a better resampler (audio.resampler=sinc); positions meet the patches they were
learnt for, where that code exchanges height and width of the grid; SpecAugment on every clip, not on 84.1 % of them
(augment.published_gate=true); the cosine begins at its top and does not quite reach its floor, where that code counts
epochs from 1 (train.cosine_start_epoch=1); the reversed gradient of device_adversarial grows from 0 to 1 over the
training, where SG-SCL's code divides the steps by the epochs and is at 1 from the first step on
(term.reversal=published). Kept: after every step weights and buffers are half the old, half the new
ones. Never done: a cycle is cut out before it is resampled and faded as its recording, where that code resamples the
whole recording first, so that a filter's length at both ends of a cycle is otherwise; half precision is bfloat16 where
it pays and not float16, and scores are of float32; that code keeps no epoch whose sensitivity is below 5. Without
weights the start is random.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from rales.audio.feature_augment import mask_features
from rales.audio.kaldi_fbank import HOP, WINDOW, KaldiFbank
from rales.data.faded_recordings import prepare_faded_recordings
from rales.data.waveform_cache import Preparation
from rales.errors import UsageError
from rales.models.ast import AST, SIZES, ASTClassifier, draw_patch_mix
from rales.models.heads import build_patch_mix_projector
from rales.models.low_rank import add_low_rank_updates
from rales.models.m2d_checkpoints import default_heads
from rales.models.pretrained_backbones import ast_tensors
from rales.models.vit import ViTSize, recompute_activations
from rales.settings import (
    AdaptedTransformer,
    BackboneSettings,
    Bounds,
    Fidelity,
    SpecAugment,
    Training,
    Waveform,
    set_defaults,
)
from rales.training import finetune
from rales.training.loss_terms import LossName, TermSettings, add_loss_term
from rales.training.losses import patch_mix_contrastive, weighted_cross_entropy, weighted_loss
from rales.training.recipe import LossContext, Recipe

TRAINING = Training(
    epochs=50,
    batch_size=8,
    micro_batch=0,
    drop_last=True,
    lr=5e-5,
    lr_floor=5e-8,
    weight_decay=1e-6,
    interpolate=0.5,
)


@dataclass(frozen=True)
class Audio(Waveform):
    """From a cycle's sound to what the network sees."""

    fade_samples: Annotated[int, Bounds(most=10**7)] = 1000
    """Linear fade at both ends of the recording and at the end of the clip."""


@dataclass(frozen=True)
class Settings(BackboneSettings):
    """Numbers of the authors' code, of both systems."""

    size: Literal["base", "tiny"] = "base"
    """Of a random start; it brings sizes of the network and the training. With weights they are the checkpoint's."""
    fidelity: Fidelity = "corrected"
    """corrected: published quirks are mended; original: they stay."""
    audio: Audio = Audio()
    augment: SpecAugment = SpecAugment(frequency_width=48, time_width=160)
    model: AdaptedTransformer = AdaptedTransformer()
    train: Training = TRAINING

    def with_presets(self, given: AbstractSet[str]) -> Self:
        sizes = of_file(self.weights) if self.weights else SIZES[self.size]
        defaults: dict[str, Any] = {f"model.{name}": value for name, value in sizes._asdict().items()}
        if self.size != "base" and not self.weights:
            defaults["train.epochs"] = 2
        if self.fidelity == "original":
            defaults |= {"audio.resampler": "sinc", "augment.published_gate": True, "train.cosine_start_epoch": 1}
        return set_defaults(self, given, defaults)


@dataclass(frozen=True)
class PatchMixSettings(Settings):
    """Numbers of the authors' code with Patch-Mix."""

    train: Training = replace(TRAINING, class_weights="none")


@dataclass(frozen=True)
class FineTunedSettings(Settings, TermSettings):
    """Numbers of the authors' code with cross-entropy, alone or with a term."""

    def check(self) -> None:
        """Errors: Patch-Mix of the picture, where the network's patches overlap."""
        if self.loss == "patch_mix":
            raise UsageError(
                "loss=patch_mix: mixes patches of the picture, which overlap in AST; ast_patchmix_cl mixes its tokens, "
                "as published"
            )


@dataclass(frozen=True)
class SgSclSettings(FineTunedSettings):
    """Numbers of SG-SCL's code."""

    loss: LossName = "device_supcon"
    """device_supcon: SG-SCL, the published system; device_adversarial: DAT of the same paper; or another term, or
    cross-entropy alone."""
    train: Training = replace(TRAINING, class_weights="none")

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = super().with_presets(given)
        return set_defaults(settings, given, {"term.reversal": "published"} if self.fidelity == "original" else {})


def fine_tuned(settings: FineTunedSettings) -> Recipe:
    """-> AST with weighted cross-entropy, alone or with a term."""
    return add_loss_term(make_system(settings))


def sg_scl(settings: SgSclSettings) -> Recipe:
    """-> AST with the cross-entropy of the classes and a term about the devices."""
    return replace(fine_tuned(settings), name="ast_sg_scl")


def make_system(settings: Settings) -> Recipe:
    """-> what all have in common, and the rest of AST with weighted cross-entropy."""
    return Recipe(
        name="ast_ft",
        settings=settings,
        build_frontend=build_frontend,
        build_model=build_model,
        augment=augment,
        loss=weighted_loss,
        run=finetune.run,
        provenance="code-verified",
        prepare=prepare,
    )


def patch_mix(settings: PatchMixSettings) -> Recipe:
    """-> AST with cross-entropy of the clean clips and a contrastive loss of the mixed ones."""
    recipe, build = make_system(settings), partial(build_model, projecting=True)
    return replace(recipe, name="ast_patchmix_cl", build_model=build, loss=patch_mix_loss, whole_batches=True)


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of one waveform a cycle, faded where the recording begins and ends."""
    return prepare_faded_recordings(settings.audio, settings.audio.fade_samples)


def build_frontend(settings: Settings) -> KaldiFbank:
    """Settings -> module (B, 128000) -> (B, 1, 128, 798)."""
    return KaldiFbank()


def build_model(settings: Settings, *, projecting: bool = False) -> ASTClassifier:
    """Settings -> AST (pre-trained or random), head and, for Patch-Mix, projector."""
    model, audio = settings.model, settings.audio
    frames = 1 + (round(audio.rate_hz * audio.duration_s) - WINDOW) // HOP
    encoder = AST(model.dim, model.depth, model.heads, frames=frames)
    if settings.weights:
        layout: Literal["aligned", "original"] = "original" if settings.fidelity == "original" else "aligned"
        encoder.load_state_dict(ast_tensors(settings.weights, frames=frames, layout=layout))
    add_low_rank_updates(encoder, model.low_rank)
    recompute_activations(encoder, model.recompute)
    projector = build_patch_mix_projector(encoder.dim) if projecting else None
    return ASTClassifier(encoder, len(settings.classes), projector)


def of_file(weights: str) -> ViTSize:
    """Checkpoint -> its width, depth and heads."""
    tensors = ast_tensors(weights)
    dim, depth = tensors["cls_token"].shape[2], len({n.split(".")[1] for n in tensors if n.startswith("blocks.")})
    return ViTSize(dim, depth, default_heads(dim))


def augment(settings: Settings, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 128, frames) -> the same, masked with each clip's mean."""
    return mask_features(settings.augment, features, features.mean(dim=(1, 2, 3)), generator, gate_each=True)


def patch_mix_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the clean clips + how well mixed clips find their two sources among them."""
    assert isinstance(model, ASTClassifier)
    mix = draw_patch_mix(len(features), model.encoder.columns, generator=step.generator)
    logits, clean, mixed = model.clean_and_mixed(features, mix)
    order = mix.order.to(mixed.device, non_blocking=True)
    contrastive = patch_mix_contrastive(mixed, clean, order, mix.kept)
    return weighted_cross_entropy(logits, step.label, step.whole_label, step.weight) + contrastive, logits
