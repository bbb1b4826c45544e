"""ARSC-Net: log-mel and cepstrum in two ResNets with residual attention. A RECONSTRUCTION, not a reproduction.

Paper: Xu et al., "ARSC-Net: adventitious respiratory sound classification network using parallel paths with
channel-spatial attention", IEEE BIBM 2021, of which only the abstract is at hand. Table 2, official split:

    Sp 67.13   Se 46.38   Score 56.76

Command: rales train arscnet --data ICBHI_final_database --out RUN

Provenance: reconstruction. Stated are two features (MFCC and mel-spectrogram), parallel encoders with residual
attention, and channel attention before spatial attention behind their fusion. Everything else is our choice: 4 kHz, 8
s, 64 mels, ResNet-18 with CBAM, row statistics of the train cycles, roll, Adam. No code or weights exist.

Deviations: unknown, and fidelity=original changes nothing.
"""

from functools import partial

import torch
from torch import Tensor, nn

from rales.audio.spectrogram_images import MelAndCepstrum
from rales.audio.waveform_augment import shift_circularly
from rales.config import FIDELITIES, Audio, Config, Recipe, Training, no_weights, one_of
from rales.data.dataset import CycleDataset
from rales.data.loader import ordered_batches
from rales.models.arscnet import ArscNet
from rales.training import finetune
from rales.training.recipe_defaults import unchanged, weighted_loss


def recipe(size: str = "base", weights: str = "", fidelity: str = "corrected") -> Recipe:
    """-> the system."""
    one_of("size", size, ("base", "tiny"))
    one_of("fidelity", fidelity, FIDELITIES)
    no_weights("arscnet", weights)
    return Recipe(
        name="arscnet",
        options={"size": size, "weights": weights, "fidelity": fidelity},
        config=Config(
            audio=Audio(frontend="own", rate_hz=4000, fade_samples=0),
            train=Training(epochs=100 if size == "base" else 2, batch_size=64, micro_batch=0, lr=1e-3),
        ),
        frontend=Pictures,
        model=partial(build_model, size=size),
        augment=unchanged,
        batch_loss=weighted_loss,
        run=finetune.run,
        provenance="reconstruction",
        fit=fit,
        wave_augment=rolled,
        whole_batches=True,
    )


class Pictures(nn.Module):
    """Wave (B, 32000) -> (B, 2, 64, 251): log-mel and cepstrum, each row standardised over the train cycles."""

    statistics: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.register_buffer("statistics", torch.stack([torch.zeros(2, 64), torch.ones(2, 64)]))
        self.source = MelAndCepstrum()

    def forward(self, wave: Tensor) -> Tensor:
        self.source.statistics = self.statistics
        standardised: Tensor = self.source(wave)
        return standardised


def fit(config: Config, frontend: nn.Module, model: nn.Module, data: CycleDataset, device: torch.device) -> None:
    """Means and deviations of every row of both pictures over the train cycles."""
    assert isinstance(frontend, Pictures)
    count, total, squares = 0, torch.zeros(2, 64, dtype=torch.float64), torch.zeros(2, 64, dtype=torch.float64)
    for batch in ordered_batches(data.waves, data.labels, 16, rows=data.rows("train")):
        pictures = frontend.source.pictures(batch.wave.to(device)).double().cpu()
        count += pictures.shape[0] * pictures.shape[3]
        total += pictures.sum(dim=(0, 3))
        squares += pictures.square().sum(dim=(0, 3))
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    frontend.statistics.copy_(torch.stack([mean, deviation]))


def build_model(config: Config, *, size: str) -> ArscNet:
    return ArscNet() if size == "base" else ArscNet(depth=10, width=16)


def rolled(config: Config, wave: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N) -> half of the clips turned round by a random number of samples."""
    return shift_circularly(wave, generator=generator)
