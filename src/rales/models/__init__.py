"""Networks: modules from tensors to tensors, and readers of public checkpoints."""

from rales.models.classifier import FusionClassifier
from rales.models.layer_fusion import LayerFusion, mean_plus_max
from rales.models.m2d import M2D
from rales.models.m2d_checkpoints import load_m2d, load_m2d_finetuned
from rales.models.vit import ViT

__all__ = ["M2D", "FusionClassifier", "LayerFusion", "ViT", "load_m2d", "load_m2d_finetuned", "mean_plus_max"]
