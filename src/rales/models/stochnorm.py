"""Stochastic normalisation: batch-norm that at random uses its running statistics while training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StochNorm2d(nn.BatchNorm2d):
    """(B, C, H, W) -> (B, C, H, W); training draws for each channel, with `probability`, for the whole batch, whether
    batch statistics normalise it (which also updates the running ones) or the running ones as they were before.

    Evaluation, and the keys of the state dict, are those of batch-norm, so that ImageNet weights load. Gradient flows
    through the statistics of the first kind of channel only. Source: Kou et al. 2020, thuml/StochNorm; p = 0.5 is its
    trainer's value. The draws come from torch's global generator, as those of dropout do.
    """

    def __init__(self, channels: int, probability: float = 0.5) -> None:
        super().__init__(channels)
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        # before super().forward, which moves the running statistics in place
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        frozen = F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)
        batch = super().forward(x)
        chosen = torch.rand(self.num_features, device=x.device) < self.probability
        return torch.where(chosen[:, None, None], batch, frozen)
