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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.filters import apply_gains, correction_gains
from rales.audio.padding import pad_by_reflection
from rales.audio.spectrogram_images import SquareImage
from rales.audio.waveform_augment import shift_circularly, shift_pitch, stretch_time
from rales.config import (
    Audio,
    Config,
    Model,
    Recipe,
    Step,
    Training,
    base_or_tiny,
    is_original,
    number_of_option,
    one_of,
)
from rales.data import splits
from rales.data.dataset import CycleDataset, device_spectra, number_words, train_positions, wave_settings
from rales.data.icbhi import DEVICES
from rales.data.loader import ordered_batches
from rales.data.waveform_cache import Preparation, read_resampled_segment
from rales.models.heads import BackboneWithHead, CoTuning
from rales.models.pretrained_backbones import resnet_tensors
from rales.models.resnet import ResNet
from rales.models.stochnorm import StochNorm2d
from rales.training import finetune
from rales.training.losses import category_relationship, co_tuning, weighted_cross_entropy
from rales.training.recipe_defaults import unchanged, weighted_loss

COPIES = 2  # of every train cycle with a wheeze
BAND_LIMITS_HZ = {"Litt3200": 2000.0}  # recorded at 4 kHz; the others up to 8 kHz and more
FFT_SAMPLES = 1024
Spectra = NDArray[np.float32]


def cotuning(
    size: str = "base", weights: str = "", fidelity: str = "corrected", norm: str = "batch", trade_off: str = "2.3"
) -> Recipe:
    """-> co-tuning; with norm="stochastic" both methods."""
    one_of("norm", norm, ("batch", "stochastic"))
    recipe = system("nguyen_cotuning", size, weights, fidelity)
    return replace(
        recipe,
        options={**recipe.options, "norm": norm, "trade_off": trade_off},
        config=replace(recipe.config, train=replace(recipe.config.train, class_weights="none")),
        model=partial(build_cotuning, size=recipe.options["size"], stochastic=norm == "stochastic"),
        batch_loss=partial(cotuning_loss, trade_off=number_of_option("trade_off", trade_off)),
        fit=partial(fit_both, original=is_original(fidelity)),
    )


def stochnorm(size: str = "base", weights: str = "", fidelity: str = "corrected") -> Recipe:
    """-> fine-tuning with stochastic normalisation."""
    return system("nguyen_stochnorm", size, weights, fidelity)


def system(name: str, size: str, weights: str, fidelity: str) -> Recipe:
    """-> what both have in common, with weighted cross-entropy."""
    size = base_or_tiny(size, weights)
    original = is_original(fidelity)
    return Recipe(
        name=name,
        options={"size": size, "weights": weights, "fidelity": fidelity},
        config=Config(
            audio=Audio(frontend="own", pad="reflect", fade_samples=0),
            model=Model(weights=weights),
            train=Training(
                epochs=60 if size == "base" else 2,
                batch_size=48,
                micro_batch=0,
                optimiser="sgd",
                nesterov=True,
                lr=1e-3,
                head_lr_factor=10,
                schedule="step",
                step_epochs=40,
                weight_decay=5e-4,
                precision="float32" if original else "auto",
            ),
        ),
        frontend=partial(Pictures, side=224 if size == "base" else 64),
        model=partial(build_stochnorm, size=size),
        augment=unchanged,
        batch_loss=weighted_loss,
        run=finetune.run,
        provenance="secondary",
        rows=with_copies,
        prepare=prepare,
        fit=partial(fit_gains, original=original),
        wave_augment=rolled_and_warped,
        whole_batches=True,
    )


def with_copies(config: Config, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> with each row's device as a number, and copies of the train cycles that hold a wheeze."""
    rows = table.assign(device_number=number_words(table["device"], DEVICES), copy=0)
    train = rows.iloc[train_positions(rows)]  # without any, labels may not be known
    copied = train[train["label"].isin(["wheeze", "both"])] if len(train) else train
    return pd.concat([rows, *(copied.assign(copy=number) for number in range(1, COPIES + 1))], ignore_index=True)


def prepare(config: Config) -> Preparation:
    """Config -> preparation of one waveform a row with the number of its device behind it."""
    settings = wave_settings(config)
    return Preparation(clip, settings, settings["samples"] + 1, ("device_number", "copy"))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    device_number: int,
    copy: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
) -> NDArray[np.float32]:
    """One cycle, or an altered copy of it -> (samples + 1,): the wave, continued by reflection, and its device."""
    wave = read_resampled_segment(path, start_s, end_s, rate_hz=rate_hz, resampler=resampler)
    if copy:
        wave = altered(wave, np.random.default_rng([copy, round(1000 * start_s), round(1000 * end_s)]))
    return np.append(pad_by_reflection(wave, samples), np.float32(device_number))


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


def rolled_and_warped(config: Config, items: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N + 1) -> (B, N + 3): half of the waves rolled; behind the device alpha and corner of a warp."""
    wave, device = items[:, :-1], items[:, -1:]
    draw = torch.rand(len(items), 2, generator=generator)
    warp = torch.tensor([0.9, 3200.0]) + draw * torch.tensor([0.2, 600.0])
    return torch.cat([shift_circularly(wave, generator=generator), device, warp.to(items)], dim=1)


class Pictures(nn.Module):
    """(B, samples + 1), or + 3 with a warp -> (B, 3, side, side): spectrum corrected, log-mel, standardised.

    `gains` (devices + 1, bins) multiply the spectrum of each device; the last row is that of an unknown one.
    """

    gains: Tensor

    def __init__(self, config: Config, *, side: int) -> None:
        super().__init__()
        self.samples = round(config.audio.rate_hz * config.audio.duration_s)
        self.register_buffer("gains", torch.ones(len(DEVICES) + 1, FFT_SAMPLES // 2 + 1))
        self.picture = SquareImage(
            "standardised",
            size=side,
            sample_rate_hz=config.audio.rate_hz,
            fft_samples=FFT_SAMPLES,
            hop_samples=512,
            mels=128,
        )

    def forward(self, items: Tensor) -> Tensor:
        wave, device = items[:, : self.samples], items[:, self.samples].long().clamp(0, len(DEVICES))
        corrected = apply_gains(wave, self.gains[device])
        warp = items[:, self.samples + 1 :] if items.shape[1] > self.samples + 1 else None
        picture: Tensor = self.picture(corrected, warp)
        return picture


def fit_gains(
    config: Config, frontend: nn.Module, model: nn.Module, data: CycleDataset, device: torch.device, *, original: bool
) -> None:
    """Gains that bring each device's mean spectrum to the mean of all devices; of train cycles, or of all."""
    assert isinstance(frontend, Pictures)
    plain = data.table["copy"].to_numpy() == 0
    part = plain if original else plain & (data.table["split"].to_numpy() == "train")
    known = part & (data.table["device_number"].to_numpy() < len(DEVICES))
    spectra = device_spectra(data, known, samples=frontend.samples, fft_samples=FFT_SAMPLES)
    if spectra:  # else nobody's device is known
        limits = [BAND_LIMITS_HZ.get(DEVICES[number], config.audio.rate_hz / 2) for number in spectra]
        gains = correction_gains(torch.stack(list(spectra.values())), config.audio.rate_hz, band_limits_hz=limits)
        frontend.gains[list(spectra)] = gains.to(device)


def fit_both(
    config: Config, frontend: nn.Module, model: nn.Module, data: CycleDataset, device: torch.device, *, original: bool
) -> None:
    """The gains, then what the source classes of ImageNet say about ours (stage 0 of co-tuning)."""
    fit_gains(config, frontend, model, data, device, original=original)
    assert isinstance(model, CoTuning)
    plain = data.table[data.table["copy"] == 0]
    held_out = splits.hold_out_validation(plain, 0.1, config.split.seed)
    logits, labels = {}, {}
    for part in ("train", "validation"):
        rows = np.flatnonzero((held_out["split"] == part).to_numpy() & (plain["split"] == "train").to_numpy())
        with torch.no_grad():
            found = [
                model.both(frontend(batch.wave.to(device)))[1].float().cpu()
                for batch in ordered_batches(data.waves, data.labels, 16, rows=rows)
            ]
        logits[part], labels[part] = torch.cat(found), torch.from_numpy(data.labels[rows])
    model.relationship.copy_(
        category_relationship(logits["train"], labels["train"], logits["validation"], labels["validation"])
    )


def build_backbone(config: Config, *, size: str, stochastic: bool, classes: int) -> ResNet:
    """Config -> ResNet-50, pre-trained or random; classes=0 without ImageNet's own."""
    norm: Callable[[int], nn.Module] = StochNorm2d if stochastic else nn.BatchNorm2d
    if size == "tiny":
        return ResNet(10, width=16, classes=min(classes, 10), norm=norm)
    backbone = ResNet(50, classes=classes, norm=norm)
    if config.model.weights:
        backbone.load_state_dict(resnet_tensors(config.model.weights, 50, classes=classes))
    return backbone


def build_cotuning(config: Config, *, size: str, stochastic: bool) -> CoTuning:
    return CoTuning(build_backbone(config, size=size, stochastic=stochastic, classes=1000))


def build_stochnorm(config: Config, *, size: str) -> BackboneWithHead:
    backbone = build_backbone(config, size=size, stochastic=True, classes=0)
    return BackboneWithHead(backbone, nn.Linear(backbone.dim, 4))


def cotuning_loss(model: nn.Module, features: Tensor, step: Step, *, trade_off: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of our classes + trade_off * that of the source classes which belong to them."""
    assert isinstance(model, CoTuning)
    logits, source = model.both(features)
    of_ours = weighted_cross_entropy(logits, step.label, step.whole_label, step.weight)
    return of_ours + trade_off * co_tuning(source, step.label, model.relationship), logits
