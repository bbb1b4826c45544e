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

Deviations: unknown, and fidelity=original changes nothing. As many spliced cycles as train cycles, all classes equally
often where two devices have them, are drawn once and join the train rows: 30 epochs over both are 60 with one in two
spliced.
"""

from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.filters import apply_gains, correction_gains
from rales.audio.padding import pad_by_repetition
from rales.audio.spectrogram_images import SquareImage
from rales.audio.waveform_augment import domain_pairs, splice_waveforms
from rales.config import FIDELITIES, Audio, Config, Model, Recipe, Training, base_or_tiny, one_of
from rales.data.dataset import (
    SECOND,
    CycleDataset,
    class_numbers,
    device_spectra,
    number_words,
    train_positions,
    wave_settings,
    with_concatenated,
)
from rales.data.icbhi import DEVICES
from rales.data.waveform_cache import Preparation, read_row_segments
from rales.models.heads import BackboneWithHead
from rales.models.pretrained_backbones import resnest_tensors
from rales.models.resnest import ResNeSt
from rales.training import finetune
from rales.training.recipe_defaults import unchanged, weighted_loss

FFT_SAMPLES = 256


def recipe(
    size: str = "base",
    weights: str = "",
    fidelity: str = "corrected",
    domain: Literal["splice", "spectral"] = "splice",
) -> Recipe:
    """-> the system. `domain` says how cycles change their device."""
    size = base_or_tiny(size, weights)
    one_of("fidelity", fidelity, FIDELITIES)
    one_of("domain", domain, ("splice", "spectral"))
    spliced = domain == "splice"
    return Recipe(
        name="wang_splice",
        options={"size": size, "weights": weights, "fidelity": fidelity, "domain": domain},
        config=Config(
            audio=Audio(frontend="own", rate_hz=4000, pad="duplicate", fade_samples=0),
            model=Model(weights=weights),
            train=Training(
                epochs=(30 if spliced else 60) if size == "base" else 2,
                batch_size=64,
                micro_batch=0,
                optimiser="sgd",
                lr=1e-3,
                lr_floor=0,
                weight_decay=5e-4,
            ),
        ),
        frontend=partial(Pictures, side=224 if size == "base" else 64),
        model=partial(build_model, size=size),
        augment=unchanged,
        batch_loss=weighted_loss,
        run=finetune.run,
        provenance="reconstruction",
        rows=with_spliced if spliced else with_devices,
        prepare=prepare,
        fit=None if spliced else fit_gains,
        wave_augment=None if spliced else transferred,
        whole_batches=True,
    )


def with_spliced(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> the same, and behind it as many spliced train cycles as there are train cycles."""
    train, random = train_positions(table), np.random.default_rng(config.split.seed)
    pairs, labels = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    if len(train):
        wanted = random.integers(4, size=len(train))
        found = domain_pairs(class_numbers(table.iloc[train]), table["device"].to_numpy()[train], wanted, random)
        made = found[:, 0] >= 0
        pairs, labels = train[found[made]], wanted[made]
    rows = with_concatenated(table, pairs, labels)
    ratios = [*np.zeros(len(table)), *random.uniform(0.3, 0.7, len(labels)).round(4)]
    return rows.assign(ratio=ratios, device_number=number_words(rows["device"], DEVICES))


def with_devices(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> the same with each row's device as a number, and nothing spliced."""
    nothing = np.zeros((0, 2), np.int64)
    rows = with_concatenated(table, nothing, nothing[:, 0])
    return rows.assign(ratio=0.0, device_number=number_words(rows["device"], DEVICES))


def prepare(config: Config) -> Preparation:
    """Config -> preparation of one waveform a row with the number of its (first) device behind it."""
    settings = wave_settings(config)
    return Preparation(clip, settings, settings["samples"] + 1, (*SECOND, "ratio", "device_number"))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    second_path: str,
    second_start_s: float,
    second_end_s: float,
    ratio: float,
    device_number: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
) -> NDArray[np.float32]:
    """One cycle, or two of them spliced at `ratio` -> (samples + 1,): the wave, and its device."""
    cycles = [(path, start_s, end_s), (second_path, second_start_s, second_end_s)]
    wave, *second = read_row_segments(cycles, rate_hz=rate_hz, resampler=resampler)
    if second:
        wave = splice_waveforms(wave, second[0], ratio, round(0.05 * rate_hz))
    return np.append(pad_by_repetition(wave[:samples], samples), np.float32(device_number))


def transferred(config: Config, items: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N + 1) -> (B, N + 2): behind the device a number that chooses another one, below 0 for half of the rows."""
    choice = 2 * torch.rand(len(items), 1, generator=generator) - 1
    return torch.cat([items, choice.to(items)], dim=1)


class Pictures(nn.Module):
    """(B, samples + 1), or + 2 with a choice of another device -> (B, 3, side, side).

    `gains` (devices, devices, bins) turn the mean spectrum of one device into that of another; 0 where either has no
    train cycles.
    """

    gains: Tensor

    def __init__(self, config: Config, *, side: int) -> None:
        super().__init__()
        rate_hz = config.audio.rate_hz
        self.samples = round(rate_hz * config.audio.duration_s)
        self.register_buffer("gains", torch.zeros(len(DEVICES), len(DEVICES), FFT_SAMPLES // 2 + 1))
        self.picture = SquareImage(
            "imagenet", size=side, sample_rate_hz=rate_hz, fft_samples=FFT_SAMPLES, hop_samples=128, mels=64
        )

    def forward(self, items: Tensor) -> Tensor:
        wave = items[:, : self.samples]
        if items.shape[1] > self.samples + 1:
            gains = [self.towards_another(int(device), float(choice)) for device, choice in items[:, self.samples :]]
            wave = apply_gains(wave, torch.stack(gains))
        picture: Tensor = self.picture(wave)
        return picture

    def towards_another(self, device: int, choice: float) -> Tensor:
        """Own device and a number in [-1, 1) -> (bins,) gains towards the device that it chooses, of those that have
        some; 1 where it is negative or there is none."""
        others = self.gains[device : device + 1].flatten(0, 1)  # none of an unknown device
        others = others[others.any(dim=1)]
        if choice < 0 or not len(others):
            return torch.ones_like(self.gains[0, 0])
        return others[int(choice * len(others))]


def fit_gains(config: Config, frontend: nn.Module, model: nn.Module, data: CycleDataset, device: torch.device) -> None:
    """What turns the mean spectrum of each device's train cycles into each other's."""
    assert isinstance(frontend, Pictures)
    rate_hz = config.audio.rate_hz
    known = (data.table["split"].to_numpy() == "train") & (data.table["device_number"].to_numpy() < len(DEVICES))
    spectra = device_spectra(data, known, samples=frontend.samples, fft_samples=FFT_SAMPLES)
    for own, other in permutations(spectra, 2):
        gains = correction_gains(spectra[own][None], rate_hz, band_limits_hz=[rate_hz / 2], reference=spectra[other])
        frontend.gains[own, other] = gains[0].to(device)


def build_model(config: Config, *, size: str) -> BackboneWithHead:
    """Config -> ResNeSt-50 (pre-trained or random), dropout, linear layer."""
    backbone = ResNeSt(50) if size == "base" else ResNeSt(14, width=16)
    if config.model.weights:
        backbone.load_state_dict(resnest_tensors(config.model.weights))
    return BackboneWithHead(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(backbone.dim, 4)))
