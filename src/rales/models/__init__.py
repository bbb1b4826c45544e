"""Networks: modules from tensors to tensors, and readers of public checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rales.optional_packages import explain_missing

if TYPE_CHECKING:
    from rales.models.classifier import FusionClassifier
    from rales.models.layer_fusion import LayerFusion, mean_plus_max
    from rales.models.m2d import M2D
    from rales.models.m2d_checkpoints import load_m2d, load_m2d_finetuned
    from rales.models.vit import ViT

__all__ = ["M2D", "FusionClassifier", "LayerFusion", "ViT", "load_m2d", "load_m2d_finetuned", "mean_plus_max"]
# All of it is torch, whose import takes seconds; `rales.models.hub`, which stands beside it, needs none
_MODULES = {
    "FusionClassifier": "classifier",
    "LayerFusion": "layer_fusion",
    "M2D": "m2d",
    "ViT": "vit",
    "load_m2d": "m2d_checkpoints",
    "load_m2d_finetuned": "m2d_checkpoints",
    "mean_plus_max": "layer_fusion",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        with explain_missing(f"rales.models.{name}"):
            return getattr(import_module(f"rales.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'rales.models' has no attribute {name!r}")
