"""Cnn6 of PANNs: the convolutional body, with the parameter names of the public files.

Source: Kong et al. 2020, qiuqiangkong/audioset_tagging_cnn; their use on ICBHI: ilyassmoummad/scl_icbhi2017.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

CnnSize = Literal["cnn6", "tiny"]
CHANNELS: dict[CnnSize, tuple[int, ...]] = {
    "cnn6": (64, 128, 256, 512),
    "tiny": (8, 16, 32, 64),  # for tests
}


class Cnn(nn.Module):
    """(B, 1, F, T) log-mel -> (B, D): blocks of convolutions, mean over one axis, max + mean over the other.

    D = `dim` is 512. Input batch-norm, fc1 and the AudioSet head of PANNs are dropped. axes="tf" turns
    the picture as PANNs were trained: kernels see (time, frequency), the mean goes over frequency. axes="ft" is what
    Moummad & Farrugia's code does (fidelity=original): kernels transposed against pre-training, mean over time first.
    Errors: a picture too small for the pooling.
    """

    def __init__(self, size: CnnSize = "cnn6", *, axes: Literal["tf", "ft"] = "tf") -> None:
        super().__init__()
        self.dim = CHANNELS[size][-1]
        self.axes = axes
        self.blocks = len(CHANNELS[size])
        before = 1
        for number, channels in enumerate(CHANNELS[size], start=1):
            self.add_module(f"conv_block{number}", OneConvolution(before, channels))
            before = channels

    def forward(self, logmel: Tensor) -> Tensor:
        x = self.maps(logmel).mean(dim=3)
        pooled: Tensor = x.amax(dim=2) + x.mean(dim=2)
        return pooled

    def maps(self, logmel: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, D, F / 16, T / 16), or with axes="tf" (B, D, T / 16, F / 16)."""
        x = logmel if self.axes == "ft" else logmel.transpose(2, 3)
        if min(x.shape[2:]) < 2**self.blocks:
            raise ValueError(
                f"a picture of {logmel.shape[2]} bands x {logmel.shape[3]} frames is too small for this network; "
                f"expected at least {2**self.blocks} of both"
            )
        for number in range(1, self.blocks + 1):
            x = F.avg_pool2d(self.get_submodule(f"conv_block{number}")(x), kernel_size=2)
        return x


class OneConvolution(nn.Module):
    """(B, C, H, W) -> (B, channels, H, W): 5x5 convolution, batch-norm, ReLU (Cnn6)."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, kernel_size=5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        nn.init.xavier_uniform_(self.conv1.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))
