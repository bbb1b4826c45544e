"""Supervised contrastive learning on a CNN6 of PANNs: SCL, M-SCL with metadata, hybrid, and plain cross-entropy.

Paper: Moummad & Farrugia, "Pretraining respiratory sound representations using metadata and contrastive learning",
WASPAA 2023 (arXiv 2210.16192), CNN6 pre-trained on AudioSet. Official split, mean of ten runs, epoch chosen on the test
set:

    recipe            loss                                        Sp           Se           Score
    moummad_scl       contrastive, then a linear probe            75.95±2.31   39.15±1.89   57.55±0.81   (Table 2)
    moummad_mscl      0.75 of classes + 0.25 of sex x age, probe  76.93        39.15        58.04±0.94
    moummad_hybrid    0.5 contrastive + 0.5 cross-entropy         70.47        43.29        56.89
    moummad_ce        weighted cross-entropy                      70.09        40.39        55.24

Command: rales train moummad_scl --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN
Command: rales train moummad_mscl --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN
Command: rales train moummad_hybrid --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN
Command: rales train moummad_ce --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN

Provenance: code-verified (ilyassmoummad/scl_icbhi2017, michiel-j/SCL_ICBHI2017). Table 2 prints the figure of
`moummad_scl`, which uses no metadata. Weights: Zenodo 3987831.

Deviations, undone by fidelity=original: a better resampler (audio.resampler=sinc); min-max per clip, not per batch
(audio.scope=batch); standard deviation 0.2550 as the paper says, not 0.0255 (audio.std=0.0255); SpecAugment on every
batch, not on 84.1 % of them (augment.published_gate=true); bfloat16 where it pays (train.precision=float32); kernels
see (time, frequency) as in pre-training; the two views of a batch pass the encoder together, so that batch-norm takes
its statistics over both and moves its running ones once a step (`views=apart`: one view after the other). Kept: the
cosine that rises again after 40 epochs. `moummad_mscl` needs the database's demographic file; patients whose sex or age
it does not know stay out of the metadata term. --epochs is that of the encoder, `probe_epochs` of the probe; the
encoder's last epoch goes on, --select chooses among the probe's. Without weights the learning rate is 1e-3, as in the
paper.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch
from torch import Tensor, nn

from rales.audio import IcbhiLogMel
from rales.audio.feature_augment import keep_features, mask_features
from rales.data.icbhi import sex_and_age
from rales.models.cnn import Cnn, CnnSize
from rales.models.heads import ContrastiveClassifier, build_projector
from rales.models.pretrained_backbones import cnn_tensors
from rales.settings import (
    BackboneSettings,
    Count,
    Fidelity,
    SpecAugment,
    StandardisedAudio,
    Training,
    require_classes,
    set_defaults,
)
from rales.training import finetune, multistage
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import hybrid_sup_con, multi_sup_con, sup_con, weighted_cross_entropy, weighted_loss
from rales.training.recipe import LossContext, Recipe

TRAINING = Training(epochs=400, batch_size=128, micro_batch=0, lr=1e-3, cosine_epochs=40)


@dataclass(frozen=True)
class Settings(BackboneSettings):
    """Numbers of cross-entropy alone, and of all four."""

    weights: str = ""
    """File of the pre-trained encoder; empty = random start, with a higher learning rate."""
    fidelity: Fidelity = "corrected"
    """corrected: published quirks are mended; original: they stay."""
    audio: StandardisedAudio = StandardisedAudio()
    augment: SpecAugment = SpecAugment()
    train: Training = TRAINING

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = replace(self, size="base") if self.weights else self
        defaults: dict[str, Any] = {"train.lr": 1e-4} if self.weights else {}
        if settings.size == "tiny":
            defaults |= {"train.epochs": 2, "train.batch_size": 8}
        if self.fidelity == "original":
            defaults |= {"audio.resampler": "sinc", "audio.scope": "batch", "audio.std": 0.0255}
            defaults |= {"augment.published_gate": True, "train.precision": "float32"}
        return set_defaults(settings, given, defaults)


@dataclass(frozen=True)
class CeSettings(Settings, TermSettings):
    """Numbers of cross-entropy, alone or with a term."""


@dataclass(frozen=True)
class HybridSettings(Settings):
    """Numbers of a loss on two views."""

    views: Literal["together", "apart"] = "together"
    """How two augmentations of a batch pass the encoder: at once, so that batch-norm takes its statistics over both, or
    one after the other (the default of fidelity=original)."""

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = super().with_presets(given)
        return set_defaults(settings, given, {"views": "apart"} if self.fidelity == "original" else {})

    def check(self) -> None:
        """Errors: classes of which a cycle may have several."""
        require_classes(self, "a supervised contrastive loss compares cycles of one class with those of others")


@dataclass(frozen=True)
class SclSettings(HybridSettings):
    """Numbers of contrastive pre-training and its probe."""

    probe_epochs: Count = 50
    """Epochs of the linear probe; train.epochs are those of the encoder."""

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = super().with_presets(given)
        return set_defaults(settings, given, {"probe_epochs": 2} if settings.size == "tiny" else {})


@dataclass(frozen=True)
class MsclSettings(SclSettings):
    """Numbers of contrastive pre-training with metadata and its probe."""

    probe_epochs: Count = 100
    """Epochs of the linear probe; train.epochs are those of the encoder."""


def scl(settings: SclSettings) -> Recipe:
    """-> contrastive pre-training on the classes, then a linear probe."""
    build = partial(build_model, projectors=1, learns="encoder")
    return make_system("moummad_scl", settings, build, scl_loss, run)


def mscl(settings: MsclSettings) -> Recipe:
    """-> contrastive pre-training on the classes and on sex x age, then a linear probe."""
    build = partial(build_model, projectors=2, learns="encoder")
    return replace(make_system("moummad_mscl", settings, build, mscl_loss, run), extras=("group",))


def hybrid(settings: HybridSettings) -> Recipe:
    """-> contrastive loss and cross-entropy together."""
    return make_system("moummad_hybrid", settings, partial(build_model, projectors=1), hybrid_loss, finetune.run)


def ce(settings: CeSettings) -> Recipe:
    """-> cross-entropy alone, the baseline, or with a term."""
    recipe = make_system("moummad_ce", settings, build_model, weighted_loss, finetune.run)
    return add_loss_term(replace(recipe, augment=augment))


def make_system(
    name: str,
    settings: Settings,
    build: Callable[[Any], nn.Module],
    loss: Callable[[nn.Module, Tensor, LossContext], tuple[Tensor, Tensor]],
    run: Callable[..., dict[str, Any]],
) -> Recipe:
    """-> what the four have in common; their augmentation happens in the loss, which needs two views."""
    return Recipe(
        name=name,
        settings=settings,
        build_frontend=build_frontend,
        build_model=build,
        augment=keep_features,
        loss=loss,
        run=run,
        provenance="code-verified",
        silence=find_silence(settings),
        whole_batches=True,
    )


def build_frontend(settings: Settings) -> IcbhiLogMel:
    """Settings -> module (B, samples) -> (B, 1, 64, 1 + samples // 512), standardised."""
    audio = settings.audio
    return IcbhiLogMel(
        scope=audio.scope,
        mean=audio.mean,
        std=audio.std,
        sample_rate_hz=audio.rate_hz,
        fft_samples=1024,
        hop_samples=512,
        mels=64,
        high_hz=2000,
    )


def build_model(
    settings: Settings, *, projectors: int = 0, learns: Literal["all", "encoder", "head"] = "all"
) -> ContrastiveClassifier:
    """Settings -> CNN6, projectors and linear layer."""
    kind: CnnSize = "cnn6" if settings.size == "base" else "tiny"
    encoder = Cnn(kind, axes="ft" if settings.fidelity == "original" else "tf")
    if settings.weights:
        encoder.load_state_dict(cnn_tensors(settings.weights, kind))
    heads = [build_projector(encoder.dim) for _ in range(projectors)]
    return ContrastiveClassifier(encoder, heads, classes=len(settings.classes), learns=learns)


def augment(settings: Settings, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 64, frames) -> the same, masked with what a 0 of the [0, 1] picture becomes."""
    return mask_features(settings.augment, features, find_silence(settings), generator)


def find_silence(settings: Settings) -> float:
    """-> what a 0 of the [0, 1] picture becomes."""
    return (0.0 - settings.audio.mean) / settings.audio.std


def two_views(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Model, clean features (B, …), step -> two augmentations, encoded (2 B, D), and their labels (2 B,).

    Batch-norm takes its statistics over both views, or with views=apart over one after the other.
    """
    encoder = model.get_submodule("encoder")
    views = [augment(step.settings, features, step.generator) for _ in range(2)]
    apart = step.settings.views == "apart"
    encoded: Tensor = torch.cat([encoder(view) for view in views]) if apart else encoder(torch.cat(views))
    return encoded, step.label.repeat(2)


def scl_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Contrastive loss on the classes; the logits are those of a layer that is not trained yet."""
    encoded, label = two_views(model, features, step)
    loss = sup_con(model.get_submodule("projectors.0")(encoded), label)
    return loss, model.get_submodule("head")(encoded[: len(features)].detach())


def mscl_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Contrastive loss on the classes and, through a projector of its own, on sex x age."""
    encoded, label = two_views(model, features, step)
    of_class, of_group = (model.get_submodule(f"projectors.{i}")(encoded) for i in range(2))
    loss = multi_sup_con(of_class, label, of_group, step.extras["group"].repeat(2))
    return loss, model.get_submodule("head")(encoded[: len(features)].detach())


def hybrid_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Contrastive loss and weighted cross-entropy of both views."""
    encoded, label = two_views(model, features, step)
    logits: Tensor = model.get_submodule("head")(encoded)
    of_views = weighted_cross_entropy(logits, label, label, step.weight)
    contrastive = sup_con(model.get_submodule("projectors.0")(encoded), label)
    return hybrid_sup_con(contrastive, of_views), logits[: len(features)]


def run(recipe: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """Contrastive encoder in out/stage1, then the probe on it, frozen and without augmentation, in `out`."""
    if recipe.name == "moummad_mscl":
        groups = sex_and_age(cycles["path"])
        cycles = cycles.assign(group=[groups.get(patient, -1) for patient in cycles["patient"]])
    settings: SclSettings = recipe.settings
    train = settings.train
    encoder = replace(train, evaluate_every=train.epochs, select="last")
    if train.select == "validation":  # the probe's validation patients must be new to the encoder, too
        encoder = replace(encoder, select="validation")
    probe = replace(train, epochs=settings.probe_epochs, lr=0.1, schedule="constant")
    last = replace(
        recipe,
        settings=replace(settings, train=probe),
        build_model=partial(recipe.build_model, learns="head"),  # type: ignore[call-arg]
        augment=keep_features,
        loss=weighted_loss,
    )
    first = replace(recipe, settings=replace(settings, train=encoder))
    return multistage.run_stages(first, replace(last, asked=recipe), cycles, out, **options)
