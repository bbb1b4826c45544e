"""ResNet-18/34/50 with the parameter names of torchvision and timm, so that their ImageNet files load key by key.

Source of the architecture: He et al. 2015, in torchvision's form (stride in the 3x3 convolution of a bottleneck).
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # 10 is for tests
BlockBuilder = Callable[[int], nn.Module]  # number of channels -> a layer for them


class ResNet(nn.Module):
    """(B, channels, H, W) -> (B, classes) logits, or with classes=0 -> (B, D) pooled features.

    D = `dim` is 512, or 2048 from depth 50 on; the public files have `width` 64. `norm` makes a
    normalisation layer for a number of channels (the stochastic one has the same keys); `attention` makes what stands
    at the end of every residual branch, before the addition (ARSC-Net), and has no counterpart in public files. Errors:
    an unknown depth.
    """

    def __init__(
        self,
        depth: int,
        *,
        channels: int = 3,
        classes: int = 0,
        width: int = 64,
        norm: BlockBuilder = nn.BatchNorm2d,
        attention: BlockBuilder | None = None,
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"there is no ResNet of depth {depth} here; expected one of {', '.join(map(str, STAGES))}")
        expansion = 4 if depth >= 50 else 1
        self.dim = 8 * width * expansion
        self.conv1 = nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        make = Bottleneck if expansion == 4 else BasicBlock
        block = partial(make, norm=norm, attention=attention)
        add_stages(self, STAGES[depth], width=width, expansion=expansion, block=block)
        self.fc = nn.Linear(self.dim, classes) if classes else nn.Identity()
        init_conv_weights(self)

    def forward(self, picture: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.maps(picture).mean(dim=(2, 3)))
        return logits

    def maps(self, picture: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, D, H / 32, W / 32), the feature maps before pooling."""
        return feature_maps(self, picture)


def add_stages(
    network: nn.Module,
    counts: tuple[int, ...],
    *,
    width: int,
    expansion: int,
    block: Callable[[int, int, int], nn.Module],
) -> None:
    """Put layer1, layer2, … of so many blocks each behind a stem of `width` channels; every stage doubles the width.

    `block` makes one of (channels before, width, stride) that gives `expansion` widths; the first of each stage but
    layer1 halves the picture.
    """
    before = width
    for stage, count in enumerate(counts, start=1):
        wide = width * 2 ** (stage - 1)
        blocks = []
        for number in range(count):
            blocks.append(block(before, wide, 2 if number == 0 and stage > 1 else 1))
            before = wide * expansion
        network.add_module(f"layer{stage}", nn.Sequential(*blocks))


def init_conv_weights(network: nn.Module) -> None:
    """Draw the weights of all convolutions anew, as for ReLUs behind them (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def feature_maps(network: nn.Module, picture: Tensor) -> Tensor:
    """Network with conv1, bn1, layer1 to layer4; (B, channels, H, W) -> (B, D, H / 32, W / 32), before pooling."""
    stem = network.get_submodule("bn1")(network.get_submodule("conv1")(picture))
    x = F.max_pool2d(F.relu(stem), kernel_size=3, stride=2, padding=1)
    for stage in (1, 2, 3, 4):
        x = network.get_submodule(f"layer{stage}")(x)
    return x


class BasicBlock(nn.Module):
    """(B, C, H, W) -> (B, width, H / stride, W / stride): two 3x3 convolutions and a shortcut."""

    def __init__(
        self, before: int, width: int, stride: int, norm: BlockBuilder, attention: BlockBuilder | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.attention = attention(width) if attention else nn.Identity()
        self.downsample = build_shortcut(before, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.attention(branch) + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    """(B, C, H, W) -> (B, 4 width, H / stride, W / stride): 1x1, 3x3 with the stride, 1x1, and a shortcut."""

    def __init__(
        self, before: int, width: int, stride: int, norm: BlockBuilder, attention: BlockBuilder | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, kernel_size=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.bn3 = norm(4 * width)
        self.attention = attention(4 * width) if attention else nn.Identity()
        self.downsample = build_shortcut(before, 4 * width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        branch = self.bn3(self.conv3(branch))
        return F.relu(self.attention(branch) + (self.downsample(x) if self.downsample else x))


def build_shortcut(before: int, after: int, stride: int, norm: BlockBuilder) -> nn.Sequential | None:
    """The projection beside a block that changes the size, else none (and no keys, as in public files)."""
    if before == after and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False), norm(after))
