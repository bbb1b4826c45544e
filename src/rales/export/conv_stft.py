"""The log-mel front-ends as one convolution and one product, for runtimes whose FFT is missing, slow or inexact."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.audio.logmel import M2DLogMel, MelPower

# Powers of two, so that scaling rounds nothing. 256 * 512 * 127, the sum of a window of 400 times |cos|, is below 2**24
COARSE_SAMPLE, COARSE_WEIGHT = 256.0, 512.0
OFFSET_STEPS = 16.0  # of a coarse sample


def replace_fft(frontend: nn.Module) -> nn.Module:
    """Front-end with a `MelPower` inside -> a copy that computes the same to rounding without an FFT."""
    copied = copy.deepcopy(frontend)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, MelPower):
                # A floor that goes with the clip's level lies far above what rounding puts into an empty band
                split = not (isinstance(module, M2DLogMel) and module.floor_per_clip)
                setattr(module, name, ConvMelPower(child, split=split))
    return copied


class ConvMelPower(nn.Module):
    """Wave (B, N) -> mel power (B, mels, 1 + N // hop_samples): what `MelPower` computes, in float32 alone.

    The DFT is the weights of a convolution. The wave is cut into blocks of gcd(window, hop) samples, which become the
    channels: a frame is a few whole blocks, and processors multiply many channels faster than one. Bins that no mel
    filter hears are left out.

    Summed in float32 as it is, a loud tone's rounding fills the empty bands, with up to 1e-10 of its power. With
    `split` samples and weights have a coarse part of 8 and 9 bits, whose sums are whole numbers below 2**24 and hence
    exact, and a small rest: three times the work. That holds for samples up to 1; louder ones lose it bit by bit.

    A clip's offset would make sums whose rounding is beside quiet sound, so it is taken away and the spectrum that it
    has, computed in float64, is added. Its steps of 2**-12 leave samples without an offset as they are, every bit.
    """

    coarse: Tensor
    rest: Tensor
    of_offset: Tensor
    filters: Tensor

    def __init__(self, power: MelPower, *, split: bool = True) -> None:
        super().__init__()
        self.split = split
        self.fft_samples, self.hop_samples = power.fft_samples, power.hop_samples
        self.block_samples = math.gcd(self.fft_samples, self.hop_samples)
        heard = power.filters.any(dim=0).nonzero()[:, 0]
        turns = torch.outer(heard, torch.arange(self.fft_samples)) % self.fft_samples
        angle = 2 * torch.pi * turns.double() / self.fft_samples
        parts = torch.cat([angle.cos(), angle.sin()])  # (2 bins, fft_samples): real and imaginary
        waves = power.window.double() * parts
        self.register_buffer("of_offset", (waves.sum(dim=1) / COARSE_SAMPLE).float()[:, None], persistent=False)
        dft = waves.unflatten(1, (-1, self.block_samples)).transpose(1, 2)  # (2 bins, block, blocks of a frame)
        dft *= COARSE_WEIGHT
        coarse = dft.round() if split else dft
        self.register_buffer("coarse", coarse.float().contiguous(), persistent=False)
        if split:
            rest = torch.cat([dft - coarse, dft], dim=1)
            self.register_buffer("rest", rest.float().contiguous(), persistent=False)
        self.register_buffer("filters", power.filters[:, heard], persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        wave = wave[:, None] * COARSE_SAMPLE
        offset = (wave.mean(dim=2, keepdim=True) * OFFSET_STEPS).round() / OFFSET_STEPS
        frames = 1 + wave.shape[2] // self.hop_samples
        used = (frames - 1) * self.hop_samples + self.fft_samples
        padded = F.pad(wave - offset, (self.fft_samples // 2,) * 2, mode="reflect")
        blocks = padded[:, 0, :used].unflatten(1, (-1, self.block_samples)).transpose(1, 2)
        whole = blocks.round() if self.split else blocks
        stride = self.hop_samples // self.block_samples
        parts = F.conv1d(whole, self.coarse, stride=stride)  # (B, 2 bins, frames)
        if self.split:
            parts = parts + F.conv1d(torch.cat([whole, blocks - whole], dim=1), self.rest, stride=stride)
        parts = parts / (COARSE_SAMPLE * COARSE_WEIGHT) + offset * self.of_offset
        real, imaginary = parts.square().chunk(2, dim=1)
        return self.filters @ (real + imaginary)
