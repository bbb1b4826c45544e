"""LungRN+NL and LungAttn: two small pre-activation ResNets of 64 channels without pre-training.

Sources: SJTU-YONGFU-RESEARCH-GRP/Lung-Sound-Classification-System-LungSys-I (commit 6450040d) and
SJTU-YONGFU-RESEARCH-GRP/LungAttn. Both have logits behind a dropout, as their code has.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rales.models.attention import AttentionConv, NonLocal

WIDTH = 64
GROUPS = 32


class LungRN(nn.Module):
    """(B, 1, 128, 128) -> (B, classes) logits: nine residual blocks, four non-local blocks (None: without).

    `nonlocal_softmax` and `nonlocal_transpose` are those of `NonLocal`; "global" and True together with key and query
    exchanged are the published code. Sizes inside: 126, 63, then 32.
    """

    def __init__(
        self,
        classes: int = 4,
        *,
        dropout: float = 0.1,
        nonlocal_softmax: Literal["row", "global"] | None = "row",
        nonlocal_transpose: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, kernel_size=3)

        def attention() -> list[nn.Module]:
            if nonlocal_softmax is None:
                return []
            return [NonLocal(WIDTH, softmax=nonlocal_softmax, transpose=nonlocal_transpose), nn.ReLU()]

        def blocks(count: int) -> list[nn.Module]:
            return [PreActivation(dropout=dropout) for _ in range(count)]

        self.body = nn.Sequential(
            PreActivation(stride=2, dropout=dropout),
            PreActivation(stride=2, dropout=dropout),
            *blocks(1),
            *attention(),
            *blocks(2),
            *attention(),
            *blocks(2),
            *attention(),
            *blocks(1),
            *attention(),
            *blocks(1),
        )
        self.norm = nn.GroupNorm(GROUPS, WIDTH)
        self.head = nn.Sequential(nn.Linear(WIDTH, classes), nn.Dropout(dropout))

    def forward(self, picture: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(picture))
        return logits

    def embed(self, picture: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 64) pooled features."""
        return F.relu(self.norm(self.body(self.stem(picture)))).mean(dim=(2, 3))


class LungAttn(nn.Module):
    """(B, 3, 224, 224) -> (B, classes) logits: nine residual blocks, one with an attention-augmented convolution.

    That is the eighth. `layout` is that of `AttentionConv`; "raw" is the published code. The two linear layers of the
    head have nothing between them but a dropout. Sizes inside: 112, 56, 28, then
    14, the `side` of that convolution; a smaller side is for smaller pictures.
    """

    def __init__(
        self,
        classes: int = 4,
        *,
        dropout: float = 0.2,
        side: int = 14,
        layout: Literal["transposed", "raw"] = "transposed",
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, kernel_size=7, stride=2, padding=3)
        self.stem_norm = nn.GroupNorm(GROUPS, WIDTH)
        self.body = nn.Sequential(
            PreActivation(stride=2, dropout=dropout),
            PreActivation(stride=2, dropout=dropout),
            *(PreActivation(dropout=dropout) for _ in range(5)),
            PreActivation(dropout=dropout, first=AttentionConv(WIDTH, WIDTH, side=side, layout=layout)),
            PreActivation(dropout=dropout),
        )
        self.norm = nn.GroupNorm(GROUPS, WIDTH)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.4), nn.Linear(WIDTH, classes), nn.Dropout(0.3))

    def forward(self, picture: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(picture))
        return logits

    def embed(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 64) pooled features."""
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(picture))), kernel_size=3, stride=2, padding=1)
        return F.relu(self.norm(self.body(x))).mean(dim=(2, 3))


class PreActivation(nn.Module):
    """(B, 64, H, W) -> (B, 64, H / stride, W / stride): group-norm, ReLU, 3x3, dropout, twice, and a shortcut.

    A block with a stride projects its shortcut (1x1) from the activated input. `first` replaces the first convolution.
    """

    def __init__(self, *, stride: int = 1, dropout: float = 0.1, first: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, WIDTH)
        self.conv1 = first or nn.Conv2d(WIDTH, WIDTH, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False)
        self.project = nn.Conv2d(WIDTH, WIDTH, kernel_size=1, stride=stride, bias=False) if stride > 1 else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        branch = self.dropout(self.conv1(active))
        branch = self.dropout(self.conv2(F.relu(self.norm2(branch))))
        shortcut: Tensor = self.project(active) if self.project else x
        result: Tensor = shortcut + branch
        return result
