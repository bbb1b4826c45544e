"""MobileNetV3 of EfficientAT, tensor names as in its public files, every block's map a layer for eq. 1.

Sources: Howard et al. 2019 (MobileNetV3-large); Schmid, Koutini & Widmer, ICASSP 2023, fschmid56/EfficientAT.
"""

from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.models.resnet import init_conv_weights
from rales.models.vit import Layout

MEL_BINS, AUDIOSET_CLASSES = 128, 527


class BlockSize(NamedTuple):
    """An inverted residual at width 1."""

    before: int
    kernel: int
    expanded: int
    after: int
    squeezes: bool
    activation: type[nn.Module]
    stride: int


RE, HS = nn.ReLU, nn.Hardswish
BLOCKS = (
    BlockSize(16, 3, 16, 16, False, RE, 1),
    BlockSize(16, 3, 64, 24, False, RE, 2),
    BlockSize(24, 3, 72, 24, False, RE, 1),
    BlockSize(24, 5, 72, 40, True, RE, 2),
    BlockSize(40, 5, 120, 40, True, RE, 1),
    BlockSize(40, 5, 120, 40, True, RE, 1),
    BlockSize(40, 3, 240, 80, False, HS, 2),
    BlockSize(80, 3, 200, 80, False, HS, 1),
    BlockSize(80, 3, 184, 80, False, HS, 1),
    BlockSize(80, 3, 184, 80, False, HS, 1),
    BlockSize(80, 3, 480, 112, True, HS, 1),
    BlockSize(112, 3, 672, 112, True, HS, 1),
    BlockSize(112, 5, 672, 160, True, HS, 2),
    BlockSize(160, 5, 960, 160, True, HS, 1),
    BlockSize(160, 5, 960, 160, True, HS, 1),
)


class MobileNet(nn.Module):
    """(B, 1, 128, frames) log-mel -> list of `depth` layers (B, T, D): layer i is the map of `features.i`.

    Layers 1 to `blocks` are the inverted residuals, the last one is the 1 x 1 convolution behind them. `flat`: T counts
    the places of a map, D its channels; `stacked`: T counts its columns, D channels times rows. `forward` computes no
    layer behind `last_layer`, if it is given.

    Parameters
    ----------
    width
        Multiple of all numbers of channels; 0.4 is mn04.
    blocks
        Inverted residuals; fewer than 15 leave out the last ones.
    classes
        Classes of the head of pre-training; 0 = without it.
    """

    def __init__(self, width: float = 1.0, blocks: int = len(BLOCKS), *, classes: int = 0) -> None:
        super().__init__()
        if not 1 <= blocks <= len(BLOCKS):
            raise ValueError(f"a MobileNet of {blocks} blocks was asked for; expected 1 to {len(BLOCKS)}")
        self.depth = blocks + 1
        sizes = BLOCKS[:blocks]
        stem, last = scale_channels(sizes[0].before, width), scale_channels(sizes[-1].after, width)
        self.channels = [*(scale_channels(size.after, width) for size in sizes), 6 * last]
        # rows of the maps: every stride of 2 rounds up, and the stem has one
        strides = [2, *(size.stride for size in sizes), 1]
        self.rows = list(accumulate(strides, lambda rows, stride: -(-rows // stride), initial=MEL_BINS))[2:]

        self.features = nn.Sequential(
            convolve(1, stem, 3, stride=2, activation=HS),
            *(InvertedResidual(size, width) for size in sizes),
            convolve(last, 6 * last, 1, activation=HS),
        )
        self.classifier = build_tagger(6 * last, scale_channels(1280, width), classes) if classes else None
        init_conv_weights(self)

    def forward(self, logmel: Tensor, layout: Layout = "flat", last_layer: int | None = None) -> list[Tensor]:
        maps = self.maps(logmel, last_layer)
        if layout == "stacked":
            return [each.permute(0, 3, 2, 1).flatten(2) for each in maps]
        return [each.flatten(2).transpose(1, 2) for each in maps]

    def maps(self, logmel: Tensor, last_layer: int | None = None) -> list[Tensor]:
        """(B, 1, 128, frames) -> `depth` maps (B, channels, rows, columns), or those up to a layer."""
        x, maps = self.features[0](logmel), []
        for block in list(self.features)[1:][:last_layer]:
            x = block(x)
            maps.append(x)
        return maps

    def classify(self, logmel: Tensor) -> Tensor:
        """(B, 1, 128, frames) -> (B, classes) logits of the head of pre-training."""
        if self.classifier is None:
            raise ValueError("this network has no head of its pre-training; make it with classes=527")
        logits: Tensor = self.classifier(self.features(logmel))
        return logits

    def layer_widths(self, layout: Layout = "flat") -> list[int]:
        """-> D of every layer."""
        if layout == "flat":
            return list(self.channels)
        return [channels * rows for channels, rows in zip(self.channels, self.rows, strict=True)]


class InvertedResidual(nn.Module):
    """(B, C, H, W) -> (B, after, H / stride, W / stride): expand, filter each channel, squeeze-excite, project."""

    def __init__(self, size: BlockSize, width: float) -> None:
        super().__init__()
        before, expanded, after = (scale_channels(n, width) for n in (size.before, size.expanded, size.after))
        layers: list[nn.Module] = []
        if expanded != before:
            layers.append(convolve(before, expanded, 1, activation=size.activation))
        layers.append(
            convolve(expanded, expanded, size.kernel, stride=size.stride, groups=expanded, activation=size.activation)
        )
        if size.squeezes:
            layers.append(SqueezeExcite(expanded))
        self.block = nn.Sequential(*layers, convolve(expanded, after, 1))
        self.adds = size.stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.block(x)
        return x + branch if self.adds else branch


class SqueezeExcite(nn.Module):
    """(B, C, H, W) -> the same, each channel times a factor in [0, 1] that the means of all channels give."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels / 4)
        inner = nn.ModuleDict({"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)})
        self.conc_se_layers = nn.ModuleList([inner])  # named so in the public files

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conc_se_layers[0]
        assert isinstance(inner, nn.ModuleDict)
        factor = torch.sigmoid(inner["fc2"](F.relu(inner["fc1"](x.mean(dim=(2, 3))))))
        return x * factor[:, :, None, None]


def convolve(
    before: int,
    after: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Sizes -> convolution that keeps the picture's size but for the stride, batch-norm, activation."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(after, eps=1e-3, momentum=0.01)
    return nn.Sequential(convolution, norm, *([activation()] if activation else []))


def build_tagger(channels: int, hidden: int, classes: int) -> nn.Sequential:
    """Sizes -> map (B, channels, H, W) -> (B, classes) logits, the head of pre-training."""
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*pool, nn.Linear(channels, hidden), HS(), nn.Dropout(0.2), nn.Linear(hidden, classes))


def scale_channels(channels: int, width: float) -> int:
    """Channels at width 1 -> those at `width`."""
    return round_channels(channels * width)


def round_channels(channels: float) -> int:
    """Number of channels -> the nearest multiple of 8, at least 8 and at least 90 % of the number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class TwoSpeedEncoder(nn.Module):
    """(B, 1, 128, frames of both) -> layers of the sound as it is, then those of the sound four times faster.

    One network hears both, side by side in one picture, which is cut at `frames`. Its layers 1 to L are of the sound as
    it is, L + 1 to 2 L of the faster one.
    """

    def __init__(self, network: MobileNet, frames: int) -> None:
        super().__init__()
        self.network, self.frames, self.depth = network, frames, 2 * network.depth

    def forward(self, logmel: Tensor, layout: Layout = "flat", last_layer: int | None = None) -> list[Tensor]:
        # In training the batch-norms see both views, whatever is fused
        depth, wanted = self.network.depth, self.depth if self.training or last_layer is None else last_layer
        outputs: list[Tensor] = self.network(logmel[..., : self.frames], layout, min(wanted, depth))
        if wanted > depth:
            outputs += self.network(logmel[..., self.frames :], layout, wanted - depth)
        return outputs

    def layer_widths(self, layout: Layout = "flat") -> list[int]:
        """-> D of every layer."""
        return 2 * self.network.layer_widths(layout)
