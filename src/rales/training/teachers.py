"""Frozen networks that an encoder learns from in pre-training: what they make of a crop is what it has to predict."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from rales.audio.efficientat_logmel import FAST, EfficientATLogMel
from rales.data.random_crops import CropDataset, sample_crops
from rales.models import ViT
from rales.models.m2d_checkpoints import build_encoder, check_complete, read_tensors
from rales.models.mobilenet import MobileNet
from rales.models.pretrained_backbones import find_mobilenet_prefix, mobilenet_tensors
from rales.progress import progress_bar
from rales.training.run_folder import read_checkpoint

TEACHER_RMS = 0.05  # level at which a MobileNet hears every clip
LEAST_STD = 1e-3  # added to every feature's deviation: one that hardly varies says nothing
LARGEST = 8.0  # deviations from the mean that a feature may be away


class PooledMobileNet(nn.Module):
    """Waves (B, N) -> (B, D): mean and maximum over the map of every inverted residual of a MobileNet of EfficientAT,
    of the sound as it is and then of the sound four times faster, both at one level."""

    def __init__(self, network: MobileNet, rate_hz: int) -> None:
        super().__init__()
        self.network = network
        self.views = nn.ModuleList([EfficientATLogMel(rate_hz), EfficientATLogMel(rate_hz, speed=FAST)])
        self.width = 2 * len(self.views) * sum(network.channels[:-1])

    def forward(self, wave: Tensor) -> Tensor:
        level = wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        maps = [each for view in self.views for each in self.network.maps(view(wave * TEACHER_RMS / level))[:-1]]
        return torch.cat([torch.cat([each.mean((2, 3)), each.amax((2, 3))], dim=1) for each in maps], dim=1)


class ColumnTeacher(nn.Module):
    """Log-mel (B, 1, 80, frames) -> (B, columns, rows * D): the last layer of a ViT, as in M2D-X."""

    def __init__(self, encoder: ViT) -> None:
        super().__init__()
        self.encoder, self.width = encoder, encoder.rows * encoder.dim

    def forward(self, wave: Tensor, logmel: Tensor) -> Tensor:
        columns: Tensor = self.encoder(logmel, "stacked")[-1]
        return columns


class ClipTeacher(nn.Module):
    """Waves (B, N) -> (B, 1, D): one vector a clip, every feature standardised by its statistics over the collection.

    Computed in float32 also under autocast, as the statistics are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: PooledMobileNet) -> None:
        super().__init__()
        self.encoder, self.width = encoder, encoder.width
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))

    def forward(self, wave: Tensor, logmel: Tensor) -> Tensor:
        with torch.autocast(wave.device.type, enabled=False):
            vectors: Tensor = (self.encoder(wave) - self.mean) / (self.std + LEAST_STD)
        return vectors.clamp(-LARGEST, LARGEST)[:, None]


Teacher = ColumnTeacher | ClipTeacher


def load_teacher(path: str | os.PathLike[str], rate_hz: int) -> Teacher:
    """Checkpoint of an M2D encoder or of a MobileNet of EfficientAT (or a run of ours with one) -> the teacher, frozen.

    Errors: a file of any other network.
    """
    tensors, metadata = read_tensors(path)
    teacher: Teacher
    if find_mobilenet_prefix(tensors) is None:
        teacher = ColumnTeacher(build_encoder(tensors, metadata, path))
    else:
        teacher = ClipTeacher(load_pooled_mobilenet(path, rate_hz))
    return teacher.eval().requires_grad_(False)


def load_pooled_mobilenet(path: str | os.PathLike[str], rate_hz: int) -> PooledMobileNet:
    """Checkpoint of a MobileNet of EfficientAT, rate of the waves -> its pooled blocks."""
    width, depth, tensors = mobilenet_tensors(Path(path))
    network = MobileNet(width, depth - 1)
    network.load_state_dict(tensors)
    return PooledMobileNet(network, rate_hz).eval()


@torch.no_grad()
def measure_teacher_statistics(
    teacher: ClipTeacher,
    crops: CropDataset,
    number: int,
    *,
    seed: int,
    threads: int,
    notes: list[dict[str, str]],
    progress: bool,
) -> dict[str, Tensor]:
    """Teacher and crops -> mean and deviation (D,) of its features over `number` of them, drawn as for the log-mel's.

    What is to be said of their recordings is added to `notes`.
    """
    total, squares = (torch.zeros(teacher.width, dtype=torch.float64) for _ in range(2))
    drawn = sample_crops(crops, number, seed=seed, threads=threads)
    for crop in progress_bar(drawn, shown=progress, desc="teacher", total=number, unit="crop"):
        notes += crop.notes
        vector = teacher.encoder(torch.from_numpy(crop.wave)[None].to(teacher.mean.device))[0].cpu().double()
        total, squares = total + vector, squares + vector.square()
    mean = total / number
    return {"mean": mean.float(), "std": (squares / number - mean.square()).clamp_min(0).sqrt().float()}


def load_teacher_statistics(teacher: ClipTeacher, path: Path) -> None:
    """Give a teacher what `measure_teacher_statistics` found, from a run's file. Errors: a file of another teacher."""
    tensors, _ = read_checkpoint(path)
    check_complete(tensors, {"mean": teacher.mean, "std": teacher.std}, path)
    teacher.mean.copy_(tensors["mean"])
    teacher.std.copy_(tensors["std"])
