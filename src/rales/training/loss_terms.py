"""Terms beside the cross-entropy, on what the classification layer sees: any recipe with the plain weighted
cross-entropy can train with one of them (`loss=…`), so that backbones and losses can be crossed.

loss                 term                                                       published with
patch_mix            mixed clips find their two sources (Patch-Mix CL)          AST 62.37±0.61
supcon               two views, cycles of one class are alike                   CNN6 56.89 (half of each, both views)
device_supcon        two views, cycles of one device are alike (SG-SCL)         AST 61.71
device_adversarial   a classifier of the device whose gradient is reversed      AST 59.81
pafa                 cycles of a patient together, patients apart (PAFA)        BEATs 64.84±0.60
rep_augment          what the head sees is masked, abnormal cycles with noise   AST 61.51

Scores are those printed for ICBHI's official split, the epoch chosen on the test set; each with the class weights and
the training of its paper, which a recipe here need not have. The projector is for training alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features
from rales.errors import UsageError
from rales.labels import LabelSet
from rales.models.ast import mix_picture_patches
from rales.models.heads import build_patch_mix_projector
from rales.settings import Bounds, Positive, RunSettings, Share, Width, require_classes
from rales.training.losses import (
    augment_representation,
    pafa,
    patch_mix_contrastive,
    published_progress,
    reversal_strength,
    reverse_gradient,
    soft_divergence,
    sup_con,
    weighted_cross_entropy,
)
from rales.training.recipe import LossContext, Recipe

LossName = Literal["cross_entropy", "patch_mix", "supcon", "device_supcon", "device_adversarial", "pafa", "rep_augment"]
GROUPS = {"device_supcon": "device", "device_adversarial": "device", "pafa": "patient"}
"""Column of the cycles that a term compares, where it is not their label."""


@dataclass(frozen=True)
class Term:
    """The term beside the cross-entropy."""

    weight: float = 1.0
    """What it counts; the cross-entropy counts 1 (PAFA on AST: 0.5)."""
    width: Width = 768
    """Features inside its projector, and but for patch_mix behind it."""
    temperature: Positive = 0.06
    """What cosines are divided by (patch_mix, supcon, device_supcon)."""
    cohesion: float = 50.0
    """PAFA: of a patient's spread over that of the patients (on AST 10)."""
    alignment: float = 0.001
    """PAFA: of the patients' distances to their common mean, as the authors' script has it (on AST 0.01)."""
    devices: Annotated[int, Bounds(least=2, most=1000)] = 4
    """device_adversarial: how many are told apart; further ones in the order of the alphabet are left out of it."""
    reversal: Literal["ramp", "published"] = "ramp"
    """device_adversarial: strength of the reversed gradient, from 0 to 1 over the training (Ganin et al. 2016), or as
    the published code computes it, 1 from the first step on."""
    mask_share: Share = 0.1
    """rep_augment: share of the features that become the mean of their clip's."""
    noise: float = 0.2
    """rep_augment: deviation of the noise on the features of abnormal cycles."""


@dataclass(frozen=True)
class Distillation:
    """Trained models that a run learns from beside the labels."""

    teachers: tuple[str, ...] = ()
    """Names, run folders or checkpoints, whose probabilities are averaged; empty = none."""
    digest: str = ""
    """SHA-256 of their checkpoints, filled in."""
    temperature: Positive = 2.0
    """What the logits of both sides are divided by."""
    weight: float = 1.0
    """What the divergence counts, times the square of the temperature; the cross-entropy counts 1."""


@dataclass(frozen=True)
class TermSettings(RunSettings):
    """What the `Settings` of a recipe begin with whose loss can be chosen."""

    loss: LossName = "cross_entropy"
    """Weighted cross-entropy alone, or with a term: patch_mix, supcon (classes), device_supcon (SG-SCL),
    device_adversarial, pafa (patients). A term compares the cycles of a batch, so batches stay whole. rep_augment: the
    cross-entropy of changed features."""
    term: Term = field(default_factory=Term)
    distil: Distillation = field(default_factory=Distillation)


class Network(Protocol):
    """What a term needs of a network; `projector` is put into it."""

    head: nn.Module
    projector: nn.Module

    def embed(self, features: Tensor) -> Tensor:
        """Features -> (B, D), what the head sees."""


def add_loss_term(recipe: Recipe, *, patch: tuple[int, int] = (16, 16)) -> Recipe:
    """Recipe with the weighted cross-entropy -> the same with the term and the teachers that its settings name.

    Parameters
    ----------
    recipe : its settings are `TermSettings`, its network is one as `Network` says.
    patch : mel bands and frames that Patch-Mix takes from another clip at a time.

    Errors: a frozen encoder, which a term cannot change; classes of which a cycle may have several, for supcon.
    """
    settings: TermSettings = recipe.settings
    if settings.distil.teachers:
        require_classes(settings, "distil.teachers compares probabilities that add up to 1")
        plain = add_loss_term(replace(recipe, settings=replace(settings, distil=Distillation())))
        soft = name_soft_answers(settings.label_set)
        loss = partial(distilled_loss, plain=plain.loss)
        return replace(plain, settings=settings, loss=loss, extras=(*plain.extras, *soft))
    if settings.loss == "cross_entropy":
        return recipe
    if settings.loss == "rep_augment":
        return replace(recipe, loss=rep_augment_loss)
    if settings.freeze == "encoder":
        raise UsageError(f"loss={settings.loss}: is about the encoder, which freeze=encoder keeps; take freeze=none")
    if settings.loss == "supcon":
        require_classes(settings, "loss=supcon compares cycles of one class with those of others")

    terms: dict[str, Callable[[nn.Module, Tensor, LossContext], tuple[Tensor, Tensor]]] = {
        "patch_mix": partial(patch_mix_loss, patch=patch),
        "supcon": partial(two_view_loss, augment=recipe.augment),
        "device_supcon": partial(two_view_loss, augment=recipe.augment),
        "device_adversarial": adversarial_loss,
        "pafa": pafa_loss,
    }
    column = GROUPS.get(settings.loss)
    return replace(
        recipe,
        build_model=partial(build_with_projector, build=recipe.build_model),
        # the views are drawn in the loss, which needs two
        augment=keep_features if settings.loss.endswith("supcon") else recipe.augment,
        loss=terms[settings.loss],
        extras=(*recipe.extras, column) if column else recipe.extras,
        whole_batches=True,
    )


def build_with_projector(settings: Any, *, build: Callable[[Any], nn.Module]) -> nn.Module:
    """Settings and what builds the network of a recipe -> that network with what its term puts behind `embed`."""
    model, term = build(settings), settings.term
    head = cast(Network, model).head
    dim = next(each.in_features for each in head.modules() if isinstance(each, nn.Linear))
    if settings.loss == "device_adversarial":
        model.projector = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, term.devices))
    elif settings.loss == "pafa":
        model.projector = build_patch_mix_projector(dim, term.width, term.width, norm=nn.LayerNorm)
    else:
        out = dim if settings.loss == "patch_mix" else term.width
        model.projector = build_patch_mix_projector(dim, term.width, out)
    return model


def classify_features(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor, Tensor]:
    """-> weighted cross-entropy, logits (B, classes), and what the head saw (B, D)."""
    embedded = cast(Network, model).embed(features)
    logits: Tensor = cast(Network, model).head(embedded)
    return weighted_cross_entropy(logits, step.label, step.whole_label, step.weight), logits, embedded


def rep_augment_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Cross-entropy of changed features of every clip, and its logits."""
    term, network = step.settings.term, cast(Network, model)
    changed = augment_representation(
        network.embed(features), step.label, mask_share=term.mask_share, noise=term.noise, generator=step.generator
    )
    logits: Tensor = network.head(changed)
    return weighted_cross_entropy(logits, step.label, step.whole_label, step.weight), logits


def distilled_loss(
    model: nn.Module,
    features: Tensor,
    step: LossContext,
    *,
    plain: Callable[[nn.Module, Tensor, LossContext], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """A loss, and how far the soft answers of the student are from those of its teachers."""
    loss, logits = plain(model, features, step)
    distil = step.settings.distil
    soft = torch.stack([step.extras[name] for name in name_soft_answers(step.settings.label_set)], dim=1)
    apart = soft_divergence(logits, soft, distil.temperature, len(step.whole_label))
    return loss + distil.weight * apart, logits


def name_soft_answers(label_set: LabelSet) -> tuple[str, ...]:
    """Classes -> the columns of a cycles table that hold the teachers' probability of each."""
    return tuple(f"soft_{number}" for number in range(len(label_set)))


def patch_mix_loss(
    model: nn.Module, features: Tensor, step: LossContext, *, patch: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the clean clips, and how well mixed pictures find their two sources among them."""
    loss, logits, clean = classify_features(model, features, step)
    pictures, mix = mix_picture_patches(features, patch, step.generator)
    mixed = cast(Network, model).projector(cast(Network, model).embed(pictures))
    order, term = mix.order.to(mixed.device, non_blocking=True), step.settings.term
    return loss + term.weight * patch_mix_contrastive(
        mixed, clean, order, mix.kept, temperature=term.temperature
    ), logits


def two_view_loss(
    model: nn.Module,
    features: Tensor,
    step: LossContext,
    *,
    augment: Callable[[Any, Tensor, torch.Generator], Tensor],
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the first of two views, and the supervised contrastive loss of both, by class or by device.

    The second view is not differentiated (`project1_project2block` of SG-SCL). Where a recipe augments waveforms alone,
    both views are the same picture.
    """
    term = step.settings.term
    first = augment(step.settings, features, step.generator)
    loss, logits, embedded = classify_features(model, first, step)
    projected = cast(Network, model).projector(embedded)
    with torch.no_grad():
        second = augment(step.settings, features, step.generator)
        other = cast(Network, model).projector(cast(Network, model).embed(second))
    group = step.label if step.settings.loss == "supcon" else step.extras["device"]
    return loss + term.weight * sup_con(torch.cat([projected, other]), group.repeat(2), term.temperature), logits


def adversarial_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the classes and that of the devices, whose gradient reaches the encoder reversed."""
    loss, logits, embedded = classify_features(model, features, step)
    term, epochs = step.settings.term, step.settings.train.epochs
    progress = step.step / (step.steps_an_epoch * epochs)
    if term.reversal == "published":
        progress = published_progress(step.step, step.steps_an_epoch, epochs)

    named = cast(Network, model).projector(reverse_gradient(embedded, reversal_strength(progress)))
    device = step.extras["device"]
    device = torch.where(device < term.devices, device, -1)
    of_devices = F.cross_entropy(named.float(), device, ignore_index=-1, reduction="sum")
    return loss + term.weight * of_devices / (device >= 0).sum().clamp(min=1), logits


def pafa_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and patient-aware feature alignment of the projected features."""
    loss, logits, embedded = classify_features(model, features, step)
    term, projected = step.settings.term, cast(Network, model).projector(embedded)
    aligned = pafa(projected, step.extras["patient"], cohesion=term.cohesion, alignment=term.alignment)
    return loss + term.weight * aligned, logits
