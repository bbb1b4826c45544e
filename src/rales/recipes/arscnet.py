"""ARSC-Net: log-mel and cepstrum in two ResNets with residual attention. A RECONSTRUCTION, not a reproduction.

Paper: Xu et al., "ARSC-Net: adventitious respiratory sound classification network using parallel paths with
channel-spatial attention", IEEE BIBM 2021, of which only the abstract is at hand. Table 2, official split:

    Sp 67.13   Se 46.38   Score 56.76

Command: rales train arscnet --data ICBHI_final_database --out RUN

Provenance: reconstruction. Stated are two features (MFCC and mel-spectrogram), parallel encoders with residual
attention, and channel attention before spatial attention behind their fusion. Everything else is our choice: 4 kHz, 8
s, 64 mels, ResNet-18 with CBAM, row statistics of the train cycles, roll, Adam. No code or weights exist.

Deviations: unknown, so there is no fidelity to choose.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features
from rales.audio.spectrogram_images import MelAndCepstrum
from rales.audio.waveform_augment import shift_circularly
from rales.data.dataset import Batch, CycleDataset
from rales.data.loader import ordered_batches
from rales.models.arscnet import ArscNet
from rales.settings import PaddedWaveform, Training, set_defaults
from rales.training import finetune
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import weighted_loss
from rales.training.recipe import Recipe


@dataclass(frozen=True)
class Settings(TermSettings):
    """Our choice of all numbers."""

    size: Literal["base", "tiny"] = "base"
    """Of the networks, and with it of the training."""
    audio: PaddedWaveform = PaddedWaveform(rate_hz=4000, fade_samples=0)
    train: Training = Training(epochs=100, batch_size=64, micro_batch=0, lr=1e-3)

    def with_presets(self, given: AbstractSet[str]) -> Self:
        return self if self.size == "base" else set_defaults(self, given, {"train.epochs": 2})


def recipe(settings: Settings) -> Recipe:
    """-> the system."""
    made = Recipe(
        name="arscnet",
        settings=settings,
        build_frontend=Pictures,
        build_model=build_model,
        augment=keep_features,
        loss=weighted_loss,
        run=finetune.run,
        provenance="reconstruction",
        fit=fit,
        wave_augment=roll_waveforms,
        whole_batches=True,
    )
    return add_loss_term(made)


class Pictures(nn.Module):
    """Wave (B, 32000) -> (B, 2, 64, 251): log-mel and cepstrum, each row standardised over the train cycles."""

    statistics: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.register_buffer("statistics", torch.stack([torch.zeros(2, 64), torch.ones(2, 64)]))
        self.source = MelAndCepstrum()

    def forward(self, wave: Tensor) -> Tensor:
        self.source.statistics = self.statistics
        standardised: Tensor = self.source(wave)
        return standardised


def fit(settings: Settings, frontend: nn.Module, model: nn.Module, dataset: CycleDataset, device: torch.device) -> None:
    """Means and deviations of every row of both pictures over the train cycles."""
    assert isinstance(frontend, Pictures)
    count, total, squares = 0, torch.zeros(2, 64, dtype=torch.float64), torch.zeros(2, 64, dtype=torch.float64)
    for batch in ordered_batches(dataset, 16, rows=dataset.rows("train")):
        pictures = frontend.source.pictures(batch.inputs.to(device)).double().cpu()
        count += pictures.shape[0] * pictures.shape[3]
        total += pictures.sum(dim=(0, 3))
        squares += pictures.square().sum(dim=(0, 3))
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    frontend.statistics.copy_(torch.stack([mean, deviation]))


def build_model(settings: Settings) -> ArscNet:
    classes = len(settings.classes)
    return ArscNet(classes) if settings.size == "base" else ArscNet(classes, depth=10, width=16)


def roll_waveforms(settings: Settings, batch: Batch, generator: torch.Generator) -> Batch:
    """Waveforms (B, N) -> half of them turned round by a random number of samples."""
    return replace(batch, inputs=shift_circularly(batch.inputs, generator=generator))
