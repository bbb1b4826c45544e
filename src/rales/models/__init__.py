"""Networks: tensors in, tensors out."""

from rales.models.classifier import FusionClassifier
from rales.models.fusion import LayerFusion, mean_plus_max
from rales.models.vit import ViT
from rales.models.weights import load_m2d, load_m2d_finetuned

__all__ = ["FusionClassifier", "LayerFusion", "ViT", "load_m2d", "load_m2d_finetuned", "mean_plus_max"]
