"""Networks: tensors in, tensors out."""

from rales.models.classifier import FusionClassifier
from rales.models.fusion import LayerFusion, mean_plus_max
from rales.models.m2d import M2D
from rales.models.vit import ViT
from rales.models.weights import load_m2d, load_m2d_finetuned

__all__ = ["M2D", "FusionClassifier", "LayerFusion", "ViT", "load_m2d", "load_m2d_finetuned", "mean_plus_max"]
