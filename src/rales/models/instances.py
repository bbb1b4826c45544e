"""Attention over short pieces of a clip: multiple-instance learning, as the classifier of M2D2 has it."""

from torch import Tensor, nn

from rales.models.classifier import FusionClassifier
from rales.models.layer_fusion import LayerFusion


class AttentionMIL(nn.Module):
    """(B, 1, F, frames) -> (B, classes) logits: overlapping pieces, each encoded alone, and an attention that weighs
    them.

    Each piece becomes a vector as in `FusionClassifier`, normalised; softmax over pieces of linear, tanh, linear gives
    the weights of their sum, on which layer-norm and a linear layer stand. M2D2 has 7 pieces of 2 s in 8 s, 128 hidden
    features. Source: hunpark923/m2d2_icbhi, src/cls/model.py.

    Parameters
    ----------
    piece
        Encoder, fusion and pooling; its head is not used.
    frames, step
        Length of a piece, and frames from the start of one to that of the next; the rest at the end is dropped.
    classes
        Number of classes.
    """

    def __init__(self, piece: FusionClassifier, frames: int, step: int, classes: int = 4) -> None:
        super().__init__()
        dim, self.frames, self.step = piece.head.in_features, frames, step
        del piece.head
        self.piece = piece
        self.piece_norm = nn.LayerNorm(dim)
        self.attention = nn.Sequential(nn.Linear(dim, 128), nn.Tanh(), nn.Linear(128, 1))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    @property
    def fusion(self) -> LayerFusion:
        """What fuses the layers of each piece."""
        return self.piece.fusion

    def forward(self, fbank: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(fbank))
        return logits

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, 1, F, frames) -> (B, D): the weighted sum that the head sees."""
        vectors, weights = self.weigh_pieces(fbank)
        return (weights[..., None] * vectors).sum(dim=1)

    def weigh_pieces(self, fbank: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, F, frames) -> vectors (B, pieces, D), and the weight of each (B, pieces), of sum 1."""
        pieces = fbank.unfold(3, self.frames, self.step).permute(0, 3, 1, 2, 4)  # (B, pieces, 1, F, frames)
        vectors = self.piece_norm(self.piece.embed(pieces.flatten(0, 1))).unflatten(0, pieces.shape[:2])
        return vectors, self.attention(vectors)[..., 0].softmax(dim=1)
