"""Heads and projectors that the earlier systems put behind a backbone, and the co-tuning classifier."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rales.models.cnn import Cnn
from rales.models.resnet import ResNet


def build_respirenet_head(features: int = 512, classes: int = 4) -> nn.Sequential:
    """Size of the pooled features -> (B, features) -> (B, classes) logits: two layers of 128 and a linear one.

    Source: microsoft/RespireNet, nets/network_cnn.py.
    """
    return nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def build_projector(features: int = 512, out: int = 128) -> nn.Sequential:
    """Sizes -> (B, features) -> (B, out) for a contrastive loss: 512 wide inside as its input (Moummad & Farrugia)."""
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, out))


def build_patch_mix_projector(
    features: int = 768,
    width: int | None = None,
    out: int | None = None,
    *,
    norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
) -> nn.Sequential:
    """Sizes -> (B, features) -> (B, out): linear, batch-norm, ReLU, linear, of one width if no other is given.

    That of Patch-Mix CL and SG-SCL; with a layer-norm it is that of PAFA.
    """
    width, out = width or features, out or features
    return nn.Sequential(nn.Linear(features, width), norm(width), nn.ReLU(), nn.Linear(width, out))


def class_probabilities(logits: Tensor, *, independent: bool = False) -> Tensor:
    """(B, classes) logits -> (B, classes) probabilities: softmax, or of independent classes the sigmoid of each."""
    return logits.sigmoid() if independent else logits.softmax(dim=1)


class ContrastiveClassifier(nn.Module):
    """Features -> (B, classes) logits of a linear layer on an encoder that contrastive losses train through projectors.

    `learns` says what: "all", the "encoder" with its projectors, or the "head", a probe, for which the encoder stays in
    evaluation mode (Moummad & Farrugia).
    """

    def __init__(
        self,
        encoder: Cnn,
        projectors: Sequence[nn.Module],
        *,
        classes: int = 4,
        learns: Literal["all", "encoder", "head"] = "all",
    ) -> None:
        super().__init__()
        self.encoder, self.projectors, self.learns = encoder, nn.ModuleList(projectors), learns
        self.head = nn.Linear(encoder.dim, classes)
        self.encoder.requires_grad_(learns != "head")
        self.projectors.requires_grad_(learns != "head")
        self.head.requires_grad_(learns != "encoder")

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(features))
        return logits

    def embed(self, features: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, D), what the linear layer sees."""
        encoded: Tensor = self.encoder(features)
        return encoded

    def train(self, mode: bool = True) -> "ContrastiveClassifier":
        super().train(mode)
        self.encoder.train(mode and self.learns != "head")
        return self


class BackboneWithHead(nn.Module):
    """Picture -> (B, classes) logits: a backbone that pools its features, and a head on them."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, picture: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(picture))
        return logits

    def embed(self, picture: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D) pooled features."""
        features: Tensor = self.backbone(picture)
        return features


class CoTuning(nn.Module):
    """(B, 3, H, W) -> (B, classes) logits; `both` also gives those of the kept source head, (B, 1000).

    `backbone` is a network with its source classifier still on as `fc`. The new head starts at N(0, 0.01), bias 0, and
    is meant to learn ten times as fast. `relationship` (classes, source classes) is p(source | target), even at the
    start, for the loss `co_tuning`. Source: You et al. 2020, thuml/CoTuning.
    """

    relationship: Tensor

    def __init__(self, backbone: ResNet, classes: int = 4) -> None:
        super().__init__()
        assert isinstance(backbone.fc, nn.Linear)
        sources = backbone.fc.out_features
        self.register_buffer("relationship", torch.full((classes, sources), 1 / sources))
        self.backbone = backbone
        self.source = backbone.fc
        backbone.fc = nn.Identity()
        self.target = nn.Linear(backbone.dim, classes)
        nn.init.normal_(self.target.weight, std=0.01)
        nn.init.zeros_(self.target.bias)

    def forward(self, picture: Tensor) -> Tensor:
        logits: Tensor = self.target(self.embed(picture))
        return logits

    def embed(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) pooled features."""
        features: Tensor = self.backbone(picture)
        return features

    def both(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> target logits (B, classes), source logits (B, source classes)."""
        features = self.embed(picture)
        return self.target(features), self.source(features)
