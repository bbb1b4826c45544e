"""The log-mel front-ends as one convolution and one product, for runtimes whose FFT is missing, slow or inexact."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.audio.logmel import MelPower


def without_fft(frontend: nn.Module) -> nn.Module:
    """Front-end with a `MelPower` inside -> a copy that computes the same to rounding without an FFT."""
    copied = copy.deepcopy(frontend)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, MelPower):
                setattr(module, name, ConvolvedMelPower(child))
    return copied


class ConvolvedMelPower(nn.Module):
    """Wave (B, N) -> mel power (B, mels, 1 + N // hop_samples): what `MelPower` computes, with the DFT as weights.

    The wave is cut into blocks of gcd(window, hop) samples, which become the channels of a convolution: a frame is a
    few whole blocks, and processors multiply many channels faster than one. Bins that no mel filter hears are left out.
    """

    dft: Tensor
    filters: Tensor

    def __init__(self, power: MelPower) -> None:
        super().__init__()
        fft, self.hop_samples, self.fft_samples = power.fft_samples, power.hop_samples, power.fft_samples
        self.block_samples = math.gcd(fft, self.hop_samples)
        heard = power.filters.any(dim=0).nonzero()[:, 0]
        angle = 2 * torch.pi / fft * (torch.outer(heard, torch.arange(fft)) % fft).double()
        window = torch.hann_window(fft, periodic=True, dtype=torch.float64)
        waves = window * torch.cat([angle.cos(), angle.sin()])  # (2 bins, fft): real and imaginary parts
        blocks = waves.unflatten(1, (-1, self.block_samples)).transpose(1, 2)
        self.register_buffer("dft", blocks.float().contiguous(), persistent=False)  # (2 bins, block, blocks of a frame)
        self.register_buffer("filters", power.filters[:, heard].repeat(1, 2), persistent=False)  # of both parts

    def forward(self, wave: Tensor) -> Tensor:
        frames = 1 + wave.shape[1] // self.hop_samples
        used = (frames - 1) * self.hop_samples + self.fft_samples
        padded = F.pad(wave[:, None], (self.fft_samples // 2, self.fft_samples // 2), mode="reflect")
        blocks = padded[:, 0, :used].unflatten(1, (-1, self.block_samples)).transpose(1, 2)
        parts = F.conv1d(blocks, self.dft, stride=self.hop_samples // self.block_samples)  # (B, 2 bins, frames)
        return self.filters @ parts.square()
