"""ResNeSt-14/26/50 "d" with the parameter names of timm and of zhanghang1989/ResNeSt.

Source of the architecture: Zhang et al. 2020, "ResNeSt: split-attention networks"; radix 2, cardinality 1, width 64.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from rales.models.resnet import add_stages, feature_maps, init_conv_weights

STAGES = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
RADIX = 2


class ResNeSt(nn.Module):
    """(B, channels, H, W) -> (B, classes) logits, or with classes=0 -> (B, 2048) pooled features (32 widths).

    Deep stem of three 3x3 convolutions (32, 32, 64), average pooling in place of strided convolutions. Errors: an
    unknown depth.
    """

    def __init__(self, depth: int = 50, *, channels: int = 3, classes: int = 0, width: int = 64) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(
                f"there is no ResNeSt of depth {depth} here; expected one of {', '.join(map(str, STAGES))}"
            )
        self.dim = 32 * width
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels, width // 2, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(width)
        add_stages(self, STAGES[depth], width=width, expansion=4, block=SplitBottleneck)
        self.fc = nn.Linear(self.dim, classes) if classes else nn.Identity()
        init_conv_weights(self)

    def forward(self, picture: Tensor) -> Tensor:
        logits: Tensor = self.fc(feature_maps(self, picture).mean(dim=(2, 3)))
        return logits


class SplitBottleneck(nn.Module):
    """(B, C, H, W) -> (B, 4 width, H / stride, W / stride): 1x1, split attention, average pool, 1x1, and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(before, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SplitAttention(width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if before != 4 * width or stride > 1:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(before, 4 * width, kernel_size=1, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(F.relu(self.bn1(self.conv1(x))))
        if self.stride > 1:
            branch = F.avg_pool2d(branch, kernel_size=3, stride=self.stride, padding=1)
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + (self.downsample(x) if self.downsample else x))


class SplitAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): a grouped 3x3 convolution to two sets of C maps, mixed channel by channel with
    weights (softmax over the sets) that a small network reads off the pooled sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(width * RADIX // 4, 32)
        self.conv = nn.Conv2d(width, width * RADIX, kernel_size=3, padding=1, groups=RADIX, bias=False)
        self.bn0 = nn.BatchNorm2d(width * RADIX)
        self.fc1 = nn.Conv2d(width, inner, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, width * RADIX, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        sets = F.relu(self.bn0(self.conv(x))).unflatten(1, (RADIX, -1))  # (B, 2, C, H, W)
        pooled = sets.sum(dim=1).mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        share = self.fc2(F.relu(self.bn1(self.fc1(pooled)))).unflatten(1, (RADIX, -1)).softmax(dim=1)
        mixed: Tensor = (sets * share).sum(dim=1)
        return mixed
