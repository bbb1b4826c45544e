"""An encoder from outside the package, whose layers are fused by eq. 1.

rales train m2d_fusion --set encoder=examples/own_encoder.py:conv_encoder --set model.depth=2
    --data ICBHI_final_database --out runs/conv
"""

from torch import Tensor, nn

from rales.recipes.m2d_fusion import Settings


class ConvEncoder(nn.Module):
    """(B, 1, 80, frames) -> list of `depth` outputs (B, T, dim), T patches of 8 bands and 8 frames."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.dim, self.depth = dim, depth
        self.patches = nn.Conv2d(1, dim, 8, 8)
        self.layers = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(depth))

    def forward(self, logmel: Tensor, layout: str = "flat") -> list[Tensor]:
        x, outputs = self.patches(logmel), []
        for layer in self.layers:
            x = x + layer(x.relu())
            outputs.append(x.flatten(2).transpose(1, 2))
        return outputs


def conv_encoder(settings: Settings) -> ConvEncoder:
    return ConvEncoder(32, settings.model.depth)
