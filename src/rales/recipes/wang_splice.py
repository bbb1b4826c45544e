"""Wang & Wang: a ResNeSt on log-mels, with spliced cycles of two devices. A RECONSTRUCTION, not a reproduction.

Paper: Wang & Wang, "A domain transfer based data augmentation method for automated respiratory classification", ICASSP
2022, whose text is not at hand. Table 2, official split:

    Sp 70.40   Se 40.20   Score 55.30

Command: rales train wang_splice --data ICBHI_final_database --weights resnest50-528c19ca.pth --out RUN

Provenance: reconstruction. Known are ResNeSt, ImageNet, the official split, and from later papers the word "splice".
Everything else is our choice. The input is RespireNet's, so that the comparison is about backbone and augmentation: 4
kHz, 8 s, the cycle repeated behind itself, 64 mels. Domain = device. `domain=splice`: the first part of a cycle is
joined to the last part of one of another device (at 30 to 70 %, with 50 ms of cross-fade); crackles and wheezes add up.
`domain=spectral`: half of the cycles of every batch get the mean spectrum of another device of the train cycles, within
20 dB.

Deviations: unknown, so there is no fidelity to choose. As many spliced cycles as train cycles, all classes equally
often where two devices have them, are drawn once and join the train rows: 30 epochs over both are 60 with one in two
spliced.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features
from rales.audio.filters import apply_gains, correction_gains
from rales.audio.padding import pad_by_repetition
from rales.audio.spectrogram_images import SquareImage
from rales.audio.waveform_augment import domain_pairs, splice_waveforms
from rales.data.dataset import (
    SECOND,
    Batch,
    CycleDataset,
    class_numbers,
    number_words,
    train_positions,
    wave_settings,
    with_concatenated,
)
from rales.data.device_spectra import measure_device_spectra
from rales.data.icbhi import DEVICES
from rales.data.waveform_cache import Preparation, read_row_segments
from rales.models.heads import BackboneWithHead
from rales.models.pretrained_backbones import resnest_tensors
from rales.models.resnest import ResNeSt
from rales.settings import BackboneSettings, Training, Waveform, require_classes, set_defaults
from rales.training import finetune
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import weighted_loss
from rales.training.recipe import Recipe

FFT_SAMPLES = 256


@dataclass(frozen=True)
class Settings(BackboneSettings, TermSettings):
    """Our choice of all numbers."""

    domain: Literal["splice", "spectral"] = "splice"
    """What goes over from one device to another: parts of cycles, or mean spectra."""
    audio: Waveform = Waveform(rate_hz=4000)
    train: Training = Training(
        epochs=30, batch_size=64, micro_batch=0, optimiser="sgd", lr=1e-3, lr_floor=0, weight_decay=5e-4
    )

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = replace(self, size="base") if self.weights else self
        epochs = 2 if settings.size == "tiny" else 30 if settings.domain == "splice" else 60
        return set_defaults(settings, given, {"train.epochs": epochs})

    def check(self) -> None:
        """Errors: classes that its spliced cycles do not know."""
        if self.domain == "splice":
            require_classes(self, "domain=splice adds up crackles and wheezes of two cycles", icbhi=True)


def recipe(settings: Settings) -> Recipe:
    """-> the system."""
    spliced = settings.domain == "splice"
    made = Recipe(
        name="wang_splice",
        settings=settings,
        build_frontend=Pictures,
        build_model=build_model,
        augment=keep_features,
        loss=weighted_loss,
        run=finetune.run,
        provenance="reconstruction",
        rows=with_spliced if spliced else with_devices,
        prepare=prepare,
        fit=None if spliced else fit_gains,
        wave_augment=None if spliced else choose_devices,
        extras=("device_number",),
        whole_batches=True,
    )
    return add_loss_term(made)


def with_spliced(settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> the same, and behind it as many spliced train cycles as there are train cycles."""
    train, random = train_positions(table), np.random.default_rng(settings.split.seed)
    pairs, labels = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    if len(train):
        wanted = random.integers(4, size=len(train))
        found = domain_pairs(class_numbers(table.iloc[train]), table["device"].to_numpy()[train], wanted, random)
        made = found[:, 0] >= 0
        pairs, labels = train[found[made]], wanted[made]
    rows = with_concatenated(table, pairs, labels)
    ratios = [*np.zeros(len(table)), *random.uniform(0.3, 0.7, len(labels)).round(4)]
    return rows.assign(ratio=ratios, device_number=number_words(rows["device"], DEVICES))


def with_devices(settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> the same with each row's device as a number, and nothing spliced."""
    nothing = np.zeros((0, 2), np.int64)
    rows = with_concatenated(table, nothing, nothing[:, 0])
    return rows.assign(ratio=0.0, device_number=number_words(rows["device"], DEVICES))


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of one waveform a row."""
    how = wave_settings(settings.audio)
    return Preparation(clip, how, (how["samples"],), (*SECOND, "ratio"))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    second_path: str,
    second_start_s: float,
    second_end_s: float,
    ratio: float,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
) -> NDArray[np.float32]:
    """One cycle, or two of them spliced at `ratio` -> (samples,) waveform."""
    cycles = [(path, start_s, end_s), (second_path, second_start_s, second_end_s)]
    wave, *second = read_row_segments(cycles, rate_hz=rate_hz, resampler=resampler)
    if second:
        wave = splice_waveforms(wave, second[0], ratio, round(0.05 * rate_hz))
    return pad_by_repetition(wave[:samples], samples)


def choose_devices(settings: Settings, batch: Batch, generator: torch.Generator) -> Batch:
    """Adds the extra `choice` (B,), which chooses another device for each row, and is below 0 for half of them."""
    choice = 2 * torch.rand(len(batch.inputs), generator=generator) - 1
    return replace(batch, extras={**batch.extras, "choice": choice})


class Pictures(nn.Module):
    """Waveforms (B, samples), device numbers (B,) -> (B, 3, side, side).

    `gains` (devices, devices, bins) turn the mean spectrum of one device into that of another; 0 where either has no
    train cycles. In training `choice` (B,) chooses the other device of each row.
    """

    takes = ("device_number", "choice")

    gains: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        rate_hz, side = settings.audio.rate_hz, 224 if settings.size == "base" else 64
        self.register_buffer("gains", torch.zeros(len(DEVICES), len(DEVICES), FFT_SAMPLES // 2 + 1))
        self.picture = SquareImage(
            "imagenet", size=side, sample_rate_hz=rate_hz, fft_samples=FFT_SAMPLES, hop_samples=128, mels=64
        )

    def forward(self, waveforms: Tensor, device_number: Tensor, choice: Tensor | None = None) -> Tensor:
        if choice is not None:
            rows = zip(device_number.tolist(), choice.tolist(), strict=True)
            waveforms = apply_gains(waveforms, torch.stack([self.towards_another(*row) for row in rows]))
        pictures: Tensor = self.picture(waveforms)
        return pictures

    def towards_another(self, device: int, choice: float) -> Tensor:
        """Own device and a number in [-1, 1) -> (bins,) gains towards the device that it chooses, of those that have
        some; 1 where it is negative or there is none."""
        others = self.gains[device : device + 1].flatten(0, 1)  # none of an unknown device
        others = others[others.any(dim=1)]
        if choice < 0 or not len(others):
            return torch.ones_like(self.gains[0, 0])
        return others[int(choice * len(others))]


def fit_gains(
    settings: Settings, frontend: nn.Module, model: nn.Module, dataset: CycleDataset, device: torch.device
) -> None:
    """What turns the mean spectrum of each device's train cycles into each other's."""
    assert isinstance(frontend, Pictures)
    rate_hz = settings.audio.rate_hz
    known = (dataset.table["split"].to_numpy() == "train") & (dataset.extras["device_number"] < len(DEVICES))
    spectra = measure_device_spectra(dataset, known, FFT_SAMPLES)
    for own, other in permutations(spectra, 2):
        gains = correction_gains(spectra[own][None], rate_hz, band_limits_hz=[rate_hz / 2], reference=spectra[other])
        frontend.gains[own, other] = gains[0].to(device)


def build_model(settings: Settings) -> BackboneWithHead:
    """Settings -> ResNeSt-50 (pre-trained or random), dropout, linear layer."""
    backbone = ResNeSt(50) if settings.size == "base" else ResNeSt(14, width=16)
    if settings.weights:
        backbone.load_state_dict(resnest_tensors(settings.weights))
    return BackboneWithHead(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(backbone.dim, len(settings.classes))))
