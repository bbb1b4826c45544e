"""A recipe: the settings of one system, and the functions that make of them what it does otherwise than the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rales.settings import PaddedWaveform, scales_batches

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from pandas import DataFrame
    from torch import Tensor, nn

    from rales.data.dataset import Batch, CycleDataset
    from rales.data.waveform_cache import Preparation

Provenance = Literal["ours", "code-verified", "secondary", "reconstruction"]


@dataclass(frozen=True)
class LossContext:
    """What a loss may know of its batch, beside the features. `label` and `extras` are those of the micro-batch at
    hand."""

    settings: Any
    """Those of the recipe."""
    label: Tensor
    """(b,) class numbers, or of independent classes (b, classes) of 0 and 1."""
    whole_label: Tensor
    """The same of the whole batch, over all micro-batches and processes."""
    weight: Tensor
    """(classes,) loss weights, of independent classes those of the yes answers."""
    extras: Mapping[str, Tensor]
    """What the recipe's `extras` name, (b, …) each."""
    generator: torch.Generator
    """For whatever the loss draws: mixtures, second views."""
    mixture: Mixture | None = None
    """What mixup has mixed into the clips, if it did."""
    step: int = 0
    """Batches of the run that are done."""
    steps_an_epoch: int = 1


class Mixture(NamedTuple):
    """What mixup does to clips: class numbers (B,) of those mixed in, and the share that each keeps of itself."""

    label: Tensor
    kept: float

    def take(self, rows: slice) -> Mixture:
        """-> that of some of the clips."""
        return self._replace(label=self.label[rows])


@dataclass(frozen=True)
class Recipe:
    """Everything one system changes. Numbers are in `settings`; behaviour is in the functions, which get them."""

    name: str
    settings: Any
    """A `RunSettings` with what else this system reads."""
    build_frontend: Callable[[Any], nn.Module]
    """Inputs (B, samples), and the extras that it `takes` by name -> standardised features. Its persistent buffers are
    kept in the checkpoint."""
    build_model: Callable[[Any], nn.Module]
    """Features, and the extras that it `takes` by name -> (B, classes) logits; loads pre-trained weights if the
    settings name some."""
    augment: Callable[[Any, Tensor, torch.Generator], Tensor]
    """(settings, features, generator) -> features; training only."""
    loss: Callable[[nn.Module, Tensor, LossContext], tuple[Tensor, Tensor]]
    """(model, features, context) -> scalar loss, logits of the (b, classes) rows that it was given."""
    run: Callable[..., dict[str, Any]]
    """(recipe, cycles, out folder, …) -> figures: `finetune.run`, or a system's own stages."""
    provenance: Provenance = "ours"
    """How sure it is that this is the published system: checked against its authors' code, against others' re-use of
    it, or rebuilt from an abstract. Printed beside its scores."""
    rows: Callable[[Any, DataFrame], DataFrame] | None = None
    """(settings, divided cycles table) -> the rows that are prepared: several pieces of a long cycle, joined copies of
    train cycles. None: one row a cycle."""
    extras: tuple[str, ...] = ()
    """Columns of the rows that go with every batch beside its inputs, as numbers: the device, a metadata group."""
    prepare: Callable[[Any], Preparation] | None = None
    """Settings -> how a row becomes an input. None: a waveform as `audio` says."""
    fit: Callable[[Any, nn.Module, nn.Module, CycleDataset, torch.device], None] | None = None
    """(settings, front-end, model, dataset, device): sets their buffers from the train rows, before epoch 1."""
    wave_augment: Callable[[Any, Batch, torch.Generator], Batch] | None = None
    """(settings, batch, generator) -> the batch that the front-end gets; training only."""
    whole_batches: bool = False
    """Loss or normalisation compare the rows of a batch: it cannot be cut up or shared among processes."""
    silence: float = 0.0
    """What the front-end makes of a place where no sound is."""
    epoch_parameters: tuple[str, ...] = ()
    """Names of the parameters that move once an epoch, by their mean gradient, and not with every step."""
    teach: Callable[[DataFrame, Any, Path | None], DataFrame] | None = None
    """(divided cycles table, `DistributedContext`, cache folder) -> the same with what the loss wants of each train
    row: the soft answers of trained models."""
    asked: Recipe | None = None
    """In the last of several stages, whose numbers are its own: the recipe that the user asked for."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Dotted settings that are not those that size, checkpoint and the like bring, and their values."""
    source: Mapping[str, str] = field(default_factory=dict)
    """The file with its SHA-256, or the package that the recipe is from; empty for one of ours."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever trains: what was taken of a checkpoint, and what was not."""

    @property
    def audio(self) -> Any:
        """Settings of the waveform that the front-end gets; None where the recipe makes pictures of whole cycles."""
        return getattr(self.settings, "audio", None)

    @property
    def scales_batches(self) -> bool:
        """Whether an answer depends on the others of its batch (audio.scope=batch)."""
        return scales_batches(self.audio)


@dataclass(frozen=True)
class ExportedRecipe:
    """What an artefact, which holds front-end and network, needs of a recipe to answer: how a cycle becomes a waveform.
    Recipes with rows or a preparation of their own are rebuilt whole."""

    name: str
    audio: PaddedWaveform
    rows: None = None
    prepare: None = None
    scales_batches: bool = False
