"""Attention over feature maps: non-local block, attention-augmented convolution, channel and spatial attention."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NonLocal(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): every place adds a mixture of all places (Wang et al. 2018), embedded Gaussian.

    theta, phi and g are 1x1 convolutions to C / 2 channels, a fourth leads back; none has a bias, and the last does not
    start at zero. By default each place has its own distribution over all places. The code of LungRN+NL departs twice,
    for fidelity=original: softmax="global" is one distribution over all pairs of places, of key and query exchanged;
    transpose=True turns the picture that is added by exchanging its height and width (it must be square).
    """

    def __init__(self, channels: int, *, softmax: Literal["row", "global"] = "row", transpose: bool = False) -> None:
        super().__init__()
        self.softmax, self.transpose = softmax, transpose
        self.theta = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.g = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (branch(x).flatten(2) for branch in (self.theta, self.phi, self.g))  # (B, C / 2, H W)
        if self.softmax == "row":
            share = (theta.transpose(1, 2) @ phi).softmax(dim=2)  # query by key
        else:
            affinity = phi.transpose(1, 2) @ theta
            share = affinity.flatten(1).softmax(dim=1).view_as(affinity)
        mixed = (g @ share.transpose(1, 2)).unflatten(2, x.shape[2:])
        added: Tensor = self.out(mixed)
        result: Tensor = x + (added.transpose(2, 3) if self.transpose else added)
        return result


class AttentionConv(nn.Module):
    """(B, C, H, W) -> (B, out, H, W): a 3x3 convolution to out - values channels beside `values` channels of attention.

    Attention-augmented convolution (Bello et al. 2019): queries, keys and values from one 3x3 convolution, relative
    positions learned for height and width, softmax over all places, a 1x1 convolution behind. The picture must be
    `side` x `side`. layout="raw" is LungAttn's code (fidelity=original), which lays the mixed values (places, features)
    out as (features, places) without transposing and so scrambles them.
    """

    def __init__(
        self,
        channels: int = 64,
        out: int = 64,
        *,
        side: int = 14,
        keys: int = 20,
        values: int = 4,
        heads: int = 2,
        layout: Literal["transposed", "raw"] = "transposed",
    ) -> None:
        super().__init__()
        self.side, self.keys, self.values, self.heads, self.layout = side, keys, values, heads, layout
        self.conv = nn.Conv2d(channels, out - values, kernel_size=3, padding=1)
        self.qkv = nn.Conv2d(channels, 2 * keys + values, kernel_size=3, padding=1)
        self.project = nn.Conv2d(values, values, kernel_size=1)
        self.relative_rows = nn.Parameter(torch.randn(2 * side - 1, keys // heads))
        self.relative_columns = nn.Parameter(torch.randn(2 * side - 1, keys // heads))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.side, self.side):
            raise ValueError(
                f"a picture of {x.shape[2]} x {x.shape[3]} reached the attention-augmented convolution, "
                f"expected {self.side} x {self.side}"
            )
        q, k, v = self.qkv(x).split([self.keys, self.keys, self.values], dim=1)
        q, k, v = (part.unflatten(1, (self.heads, -1)).flatten(3) for part in (q, k, v))  # (B, heads, d, H W)
        q = q * (self.keys / self.heads) ** -0.5
        share = (q.transpose(2, 3) @ k + self.positions(q)).softmax(dim=3)  # (B, heads, H W, H W)
        mixed = share @ v.transpose(2, 3)  # (B, heads, H W, values / heads)
        if self.layout == "transposed":
            mixed = mixed.transpose(2, 3)
        picture = mixed.reshape(len(x), self.values, self.side, self.side)
        return torch.cat([self.conv(x), self.project(picture)], dim=1)

    def positions(self, q: Tensor) -> Tensor:
        """(B, heads, d, H W) queries -> (B, heads, H W, H W): q . r_rows[i' - i] + q . r_columns[j' - j]."""
        place = torch.arange(self.side, device=q.device)
        offset = place[None, :] - place[:, None] + self.side - 1  # from query to key
        grid = q.unflatten(3, (self.side, self.side))  # (B, heads, d, i, j)
        rows = torch.einsum("bhdij,ikd->bhijk", grid, self.relative_rows[offset])
        columns = torch.einsum("bhdij,jld->bhijl", grid, self.relative_columns[offset])
        return (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)


class ChannelAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W) scaled per channel: one small network on the pooled mean and on the pooled maximum,
    added, sigmoid (CBAM, Woo et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction, bias=False)
        self.fc2 = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))])
        scale = self.fc2(F.relu(self.fc1(pooled))).sum(dim=0).sigmoid()
        scaled: Tensor = x * scale[:, :, None, None]
        return scaled


class SpatialAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W) scaled per place: 7x7 convolution over mean and maximum of the channels, sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack([x.mean(dim=1), x.amax(dim=1)], dim=1)
        scaled: Tensor = x * self.conv(pooled).sigmoid()
        return scaled


def channel_then_space(channels: int, reduction: int = 16) -> nn.Sequential:
    """Channels -> the pair in the order that ARSC-Net's abstract states: channel attention first, spatial second."""
    return nn.Sequential(ChannelAttention(channels, reduction), SpatialAttention())
