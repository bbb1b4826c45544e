"""Turn crops of sound into the normalised log-mels of pre-training, with background noise mixed in."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rales.audio import M2DLogMel, mix_logmels
from rales.data.random_crops import CropDataset, sample_crops
from rales.progress import progress_bar


@dataclass(frozen=True)
class NoisyLogMel:
    """From crops to what the networks see."""

    frontend: M2DLogMel
    mean: float
    std: float
    noise_mean: float
    noise_ratio: float
    noise_heard_by: Literal["model", "teacher"]

    def __call__(self, wave: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Crops (b, samples) and noise -> the model's and the teacher's log-mel, each (b, 1, 80, unit frames)."""
        clean = self.frontend(wave) - self.mean
        mixed = clean
        if noise is not None:
            mixed = mix_logmels(clean, self.frontend(noise) - self.noise_mean, self.noise_ratio)
        own, others = (mixed, clean) if self.noise_heard_by == "model" else (clean, mixed)
        return own / self.std, others / self.std


def measure_logmel_statistics(
    crops: CropDataset, number: int, *, seed: int, threads: int, notes: list[dict[str, str]], progress: bool
) -> tuple[float, float]:
    """Crops -> mean and standard deviation over all values of the log-mels of `number` of them.

    What is to be said of their recordings is added to `notes`.
    """
    frontend, sums = M2DLogMel(), np.zeros(3)
    some = sample_crops(crops, number, seed=seed, threads=threads)
    for crop in progress_bar(some, shown=progress, desc="statistics", total=number, unit="crop"):
        notes += crop.notes
        values = frontend(torch.from_numpy(crop.wave)[None]).double()
        sums += [values.numel(), values.sum().item(), values.square().sum().item()]
    count, total, squares = sums
    variance = max(squares - total**2 / count, 0.0) / (count - 1)
    return float(total / count), math.sqrt(variance) + 2.0**-23
