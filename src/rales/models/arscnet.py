"""ARSC-Net: two ResNets with residual attention, one for the log-mel and one for its cepstrum. A RECONSTRUCTION."""

import torch
from torch import Tensor, nn

from rales.models.attention import channel_then_space
from rales.models.resnet import ResNet


class ArscNet(nn.Module):
    """Two pictures (B, 2, F, T), log-mel and MFCC -> (B, classes) logits.

    RECONSTRUCTION from an abstract (Xu et al. 2021): two features, parallel encoders with residual attention, then
    channel attention before spatial attention. Everything else is our choice: two ResNet-18 of one input channel with
    channel and spatial attention at the end of every residual branch, maps side by side, attention, mean, dropout.
    """

    def __init__(self, classes: int = 4, *, depth: int = 18, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.mel = ResNet(depth, channels=1, width=width, attention=channel_then_space)
        self.mfcc = ResNet(depth, channels=1, width=width, attention=channel_then_space)
        self.attention = channel_then_space(self.mel.dim + self.mfcc.dim)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.mel.dim + self.mfcc.dim, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(pictures))
        return logits

    def embed(self, pictures: Tensor) -> Tensor:
        """(B, 2, F, T) -> (B, D) pooled features of both encoders."""
        maps = torch.cat([self.mel.maps(pictures[:, :1]), self.mfcc.maps(pictures[:, 1:])], dim=1)
        attended: Tensor = self.attention(maps)
        return attended.mean(dim=(2, 3))
