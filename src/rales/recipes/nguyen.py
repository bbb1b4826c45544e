"""Nguyen & Pernkopf: ImageNet's ResNet-50 on log-mels with spectrum correction; co-tuning or stochastic normalisation.

Paper: Nguyen & Pernkopf, "Lung sound classification using co-tuning and stochastic normalization", IEEE TBME 69 (2022)
2872-2882 (arXiv 2108.01991). Official split; how the epoch was chosen is not known:

    recipe             Sp      Se      Score
    nguyen_cotuning    79.34   37.24   58.29±0.46   (Table 2: co-tuning + spectrum correction)
    nguyen_stochnorm   78.86   36.40   57.63

Command: rales train nguyen_cotuning --data ICBHI_final_database --weights resnet50-0676ba61.pth --out RUN
Command: rales train nguyen_stochnorm --data ICBHI_final_database --weights resnet50-0676ba61.pth --out RUN

Provenance: secondary. The two methods follow their official code (thuml/CoTuning, thuml/StochNorm); the input pipeline
is known from other authors only, and its numbers are our choice: log-mel 1024 / 512, 128 mels, 50 to 2000 Hz, two
altered copies (stretched, shifted, louder, noisy) of every wheeze and both cycle, warped filter bank, roll, 60 epochs.

Deviations, undone by fidelity=original: spectra are corrected to the mean of the devices of the train cycles, not of
all cycles, test cycles included; bfloat16 where it pays (train.precision=float32). The authors' resampler is not known;
ours is soxr. Spectra are means over padded cycles, not whole recordings; gains stay within 20 dB, and a device without
train cycles keeps its own. `trade_off` is lambda of co-tuning (2.3; 0.3 in re-implementations). Co-tuning's
relationship is learnt on train cycles, a tenth of them, whole patients, held out for it alone; it means little without
weights.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features
from rales.audio.filters import apply_gains, correction_gains
from rales.audio.padding import pad_by_reflection
from rales.audio.spectrogram_images import SquareImage
from rales.audio.waveform_augment import shift_circularly, shift_pitch, stretch_time
from rales.data import splits
from rales.data.dataset import Batch, CycleDataset, number_words, select_extras, train_positions, wave_settings
from rales.data.device_spectra import measure_device_spectra
from rales.data.icbhi import DEVICES
from rales.data.loader import ordered_batches
from rales.data.waveform_cache import Preparation, read_resampled_segment
from rales.labels import JOINED
from rales.models.heads import BackboneWithHead, CoTuning
from rales.models.pretrained_backbones import resnet_tensors
from rales.models.resnet import ResNet
from rales.models.stochnorm import StochNorm2d
from rales.settings import BackboneSettings, Fidelity, Training, Waveform, require_classes, set_defaults
from rales.training import finetune
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import category_relationship, co_tuning, weighted_cross_entropy, weighted_loss
from rales.training.recipe import LossContext, Recipe

COPIES = 2  # of every train cycle with a wheeze
BAND_LIMITS_HZ = {"Litt3200": 2000.0}  # recorded at 4 kHz; the others up to 8 kHz and more
FFT_SAMPLES = 1024
TRAINING = Training(
    epochs=60,
    batch_size=48,
    micro_batch=0,
    optimiser="sgd",
    nesterov=True,
    lr=1e-3,
    head_lr_factor=10,
    schedule="step",
    step_epochs=40,
    weight_decay=5e-4,
)


@dataclass(frozen=True)
class Settings(BackboneSettings):
    """Numbers of fine-tuning with stochastic normalisation."""

    fidelity: Fidelity = "corrected"
    """corrected: no test cycle takes part in the correction of spectra; original: they do."""
    audio: Waveform = Waveform()
    train: Training = TRAINING

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = replace(self, size="base") if self.weights else self
        defaults: dict[str, Any] = {} if settings.size == "base" else {"train.epochs": 2}
        if self.fidelity == "original":
            defaults["train.precision"] = "float32"
        return set_defaults(settings, given, defaults)


@dataclass(frozen=True)
class StochNormSettings(Settings, TermSettings):
    """Numbers of stochastic normalisation, with cross-entropy alone or with a term."""


@dataclass(frozen=True)
class CoTuningSettings(Settings):
    """Numbers of co-tuning."""

    norm: Literal["batch", "stochastic"] = "batch"
    """stochastic: both methods together."""
    trade_off: float = 2.3
    """lambda, the weight of the loss on ImageNet's classes (0.3 in re-implementations)."""
    train: Training = replace(TRAINING, class_weights="none")

    def check(self) -> None:
        """Errors: classes of which a cycle may have several."""
        require_classes(self, "co-tuning gives each cycle the source classes of its one class")


def cotuning(settings: CoTuningSettings) -> Recipe:
    """-> co-tuning; with norm="stochastic" both methods."""
    return replace(
        make_system(settings), name="nguyen_cotuning", build_model=build_cotuning, loss=cotuning_loss, fit=fit_both
    )


def stochnorm(settings: StochNormSettings) -> Recipe:
    """-> fine-tuning with stochastic normalisation."""
    return add_loss_term(make_system(settings))


def make_system(settings: Settings) -> Recipe:
    """-> what both have in common, and the rest of fine-tuning with stochastic normalisation."""
    return Recipe(
        name="nguyen_stochnorm",
        settings=settings,
        build_frontend=Pictures,
        build_model=build_stochnorm,
        augment=keep_features,
        loss=weighted_loss,
        run=finetune.run,
        provenance="secondary",
        rows=with_copies,
        prepare=prepare,
        fit=fit_gains,
        wave_augment=roll_and_warp,
        extras=("device_number",),
        whole_batches=True,
    )


def with_copies(settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> with each row's device as a number, and copies of the train cycles that hold a wheeze, by their
    label or one of its independent classes."""
    rows = table.assign(device_number=number_words(table["device"], DEVICES), copy=0)
    train = rows.iloc[train_positions(rows)]  # without any, labels may not be known
    wheezes = [not {"wheeze", "both"}.isdisjoint(label.lower().split(JOINED)) for label in train["label"]]
    copied = train[np.array(wheezes, dtype=np.bool_)]
    return pd.concat([rows, *(copied.assign(copy=number) for number in range(1, COPIES + 1))], ignore_index=True)


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of one waveform a row."""
    how = wave_settings(settings.audio)
    return Preparation(clip, how, (how["samples"],), ("copy",))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    copy: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
) -> NDArray[np.float32]:
    """One cycle, or an altered copy of it -> (samples,): the waveform, continued by reflection."""
    wave = read_resampled_segment(path, start_s, end_s, rate_hz=rate_hz, resampler=resampler)
    if copy:
        wave = altered(wave, np.random.default_rng([copy, round(1000 * start_s), round(1000 * end_s)]))
    return pad_by_reflection(wave, samples)


def altered(wave: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """(N,) -> (M,): stretched by 0.9 to 1.1, shifted by up to two semitones, louder or softer, or with noise."""
    whole = torch.from_numpy(wave.copy())[None]
    changes: list[Callable[[], Tensor]] = [
        lambda: stretch_time(whole, random.uniform(0.9, 1.1)),
        lambda: shift_pitch(whole, random.uniform(-2, 2)),
        lambda: whole * random.uniform(0.5, 1.5),
        lambda: whole + 0.05 * whole.std(correction=0) * torch.from_numpy(random.standard_normal(wave.size)),
    ]
    changed: NDArray[np.float32] = changes[random.integers(len(changes))]()[0].float().numpy()
    return changed


def roll_and_warp(settings: Settings, batch: Batch, generator: torch.Generator) -> Batch:
    """Waveforms (B, N) -> half of them rolled; the extra `warp` (B, 2) has alpha and corner of a frequency warp."""
    draw = torch.rand(len(batch.inputs), 2, generator=generator)
    warp = torch.tensor([0.9, 3200.0]) + draw * torch.tensor([0.2, 600.0])
    return replace(
        batch, inputs=shift_circularly(batch.inputs, generator=generator), extras={**batch.extras, "warp": warp}
    )


class Pictures(nn.Module):
    """Waveforms (B, samples), device numbers (B,) -> (B, 3, side, side): spectrum corrected, log-mel, standardised.

    `gains` (devices + 1, bins) multiply the spectrum of each device; the last row is that of an unknown one. In
    training `warp` (B, 2) has alpha and corner of each row's frequency warp.
    """

    takes = ("device_number", "warp")

    gains: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.register_buffer("gains", torch.ones(len(DEVICES) + 1, FFT_SAMPLES // 2 + 1))
        self.picture = SquareImage(
            "standardised",
            size=224 if settings.size == "base" else 64,
            sample_rate_hz=settings.audio.rate_hz,
            fft_samples=FFT_SAMPLES,
            hop_samples=512,
            mels=128,
        )

    def forward(self, waveforms: Tensor, device_number: Tensor, warp: Tensor | None = None) -> Tensor:
        pictures: Tensor = self.picture(apply_gains(waveforms, self.gains[device_number]), warp)
        return pictures


def fit_gains(
    settings: Settings, frontend: nn.Module, model: nn.Module, dataset: CycleDataset, device: torch.device
) -> None:
    """Gains that bring each device's mean spectrum to the mean of all devices; of train cycles, or of all."""
    assert isinstance(frontend, Pictures)
    plain = dataset.table["copy"].to_numpy() == 0
    part = plain if settings.fidelity == "original" else plain & (dataset.table["split"].to_numpy() == "train")
    known = part & (dataset.extras["device_number"] < len(DEVICES))
    spectra = measure_device_spectra(dataset, known, FFT_SAMPLES)
    if spectra:  # else nobody's device is known
        limits = [BAND_LIMITS_HZ.get(DEVICES[number], settings.audio.rate_hz / 2) for number in spectra]
        gains = correction_gains(torch.stack(list(spectra.values())), settings.audio.rate_hz, band_limits_hz=limits)
        frontend.gains[list(spectra)] = gains.to(device)


def fit_both(
    settings: Settings, frontend: nn.Module, model: nn.Module, dataset: CycleDataset, device: torch.device
) -> None:
    """The gains, then what the source classes of ImageNet say about ours (stage 0 of co-tuning)."""
    fit_gains(settings, frontend, model, dataset, device)
    assert isinstance(model, CoTuning)
    plain = dataset.table[dataset.table["copy"] == 0]
    held_out = splits.hold_out_validation(plain, 0.1, settings.split.seed)
    logits, labels = {}, {}
    for part in ("train", "validation"):
        rows = np.flatnonzero((held_out["split"] == part).to_numpy() & (plain["split"] == "train").to_numpy())
        source_logits = []
        with torch.no_grad():
            for batch in ordered_batches(dataset, 16, rows=rows):
                batch = batch.to(device)
                pictures = frontend(batch.inputs, **select_extras(frontend, batch.extras))
                source_logits.append(model.both(pictures)[1].float().cpu())
        logits[part], labels[part] = torch.cat(source_logits), torch.from_numpy(dataset.class_numbers[rows])
    model.relationship.copy_(
        category_relationship(logits["train"], labels["train"], logits["validation"], labels["validation"])
    )


def build_backbone(settings: Settings, *, stochastic: bool, classes: int) -> ResNet:
    """Settings -> ResNet-50, pre-trained or random; classes=0 without ImageNet's own."""
    norm: Callable[[int], nn.Module] = StochNorm2d if stochastic else nn.BatchNorm2d
    if settings.size == "tiny":
        return ResNet(10, width=16, classes=min(classes, 10), norm=norm)
    backbone = ResNet(50, classes=classes, norm=norm)
    if settings.weights:
        backbone.load_state_dict(resnet_tensors(settings.weights, 50, classes=classes))
    return backbone


def build_cotuning(settings: CoTuningSettings) -> CoTuning:
    backbone = build_backbone(settings, stochastic=settings.norm == "stochastic", classes=1000)
    return CoTuning(backbone, len(settings.classes))


def build_stochnorm(settings: Settings) -> BackboneWithHead:
    backbone = build_backbone(settings, stochastic=True, classes=0)
    return BackboneWithHead(backbone, nn.Linear(backbone.dim, len(settings.classes)))


def cotuning_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Cross-entropy of our classes + trade_off * that of the source classes which belong to them."""
    assert isinstance(model, CoTuning)
    logits, source = model.both(features)
    of_ours = weighted_cross_entropy(logits, step.label, step.whole_label, step.weight)
    return of_ours + step.settings.trade_off * co_tuning(source, step.label, model.relationship), logits
