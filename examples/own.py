"""A reader of a clinic's folder with classes of its own, a fusion variant, and a small CNN with its own front-end.

rales check examples/own.py:read_clinic:FOLDER --classes normal,rhonchi,stridor
rales train examples/own.py:small_cnn --data examples/own.py:read_clinic:FOLDER --out runs/cnn --set width=8
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features
from rales.data.reader import Cycle, DatasetContents, Recording, probe_audio
from rales.recipes import m2d_fusion
from rales.settings import PaddedWaveform, RunSettings
from rales.training import finetune
from rales.training.losses import weighted_loss
from rales.training.recipe import Recipe


def read_clinic(path: Path, *, audio: bool, decode: bool) -> DatasetContents:
    """Folder of WAV files and a labels.txt: name, patient, split, start and end in s, the clinic's word for it."""
    lines, cycles = [line.split() for line in (path / "labels.txt").read_text().splitlines()], defaultdict(list)
    for name, _, _, start_s, end_s, word in lines:
        cycles[name].append(Cycle(float(start_s), float(end_s), label=word))
    recordings = []
    for name, patient, split in dict.fromkeys(tuple(line[:3]) for line in lines):
        sound = path / f"{name}.wav"
        facts, problems, notes = probe_audio(sound, decode=decode) if audio else (None, [], [])
        place = str(sound) if audio else ""
        recordings.append(Recording(name, patient, "", "", "", split, place, facts, cycles[name], problems, notes))
    return DatasetContents(path, recordings)


@dataclass(frozen=True)
class FusionSettings(m2d_fusion.Settings):
    fused_dropout: float = 0.1
    """Share of the fused features that training hides from the head."""


def build_fusion(settings: FusionSettings) -> nn.Module:
    model = m2d_fusion.build_model(settings)
    model.head = nn.Sequential(nn.Dropout(settings.fused_dropout), model.head)
    return model


def dropout_fusion(settings: FusionSettings) -> Recipe:
    return replace(m2d_fusion.recipe(settings), name="dropout_fusion", build_model=build_fusion)


@dataclass(frozen=True)
class Settings(RunSettings):
    classes: tuple[str, ...] = ("normal", "rhonchi", "stridor")
    """What is told apart."""
    width: int = 16
    """Channels of the first layer."""
    audio: PaddedWaveform = PaddedWaveform(rate_hz=4000, duration_s=4.0)


class LogSpectrogram(nn.Module):
    def forward(self, waveforms: Tensor) -> Tensor:  # (B, samples) -> (B, 1, 129, frames)
        spectrum = torch.stft(waveforms, 256, 64, window=torch.hann_window(256), return_complex=True)
        return (spectrum.abs() + 1e-4).log()[:, None]


class SmallCnn(nn.Sequential):
    def embed(self, features: Tensor) -> Tensor:  # (B, 1, F, T) -> (B, D)
        return self[:-1](features)


def build_cnn(settings: Settings) -> SmallCnn:
    width = settings.width
    layers = nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2), nn.ReLU()
    return SmallCnn(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, len(settings.classes)))


def small_cnn(settings: Settings) -> Recipe:
    functions = {"build_frontend": lambda _: LogSpectrogram(), "build_model": build_cnn, "augment": keep_features}
    return Recipe(name="small_cnn", settings=settings, loss=weighted_loss, run=finetune.run, **functions)
