"""A frozen encoder is asked once: what the layers of each cycle say is prepared and cached like a waveform."""

import json
import typing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rales.data.dataset import make_preparation
from rales.data.waveform_cache import Preparation
from rales.models.classifier import FusionClassifier
from rales.registry import RECIPES
from rales.settings import RunSettings, from_dict, replace_field, to_dict


def can_pool_once(settings: Any) -> bool:
    """Whether the encoder is a published one and stays so, and nothing is drawn in front of it."""
    masks = settings.augment.frequency_masks, settings.augment.time_masks
    is_fixed = settings.freeze == "encoder" and bool(settings.weights) and not settings.from_model
    return is_fixed and masks == (0, 0)


def prepare_pooled(recipe: str, asked: RunSettings, made_by: str) -> Preparation:
    """Name of a recipe, settings of it in which what its encoder does not depend on has the default, and what tells
    caches apart -> preparation of what `FusionClassifier.pool` says of a cycle, (3, sum of D)."""
    plain = replace_field(asked, "weights", "")
    with torch.device("meta"):
        width = sum(RECIPES.find(recipe)(plain).build_model(plain).widths)
    how = {"recipe": recipe, "settings": json.dumps(to_dict(asked)), "made_by": f"{made_by}, torch {torch.__version__}"}
    return Preparation(pool_cycle, how, (3, width))


def pool_cycle(
    path: str | Path, start_s: float, end_s: float, *, recipe: str, settings: str, made_by: str
) -> NDArray[np.float32]:
    """One cycle -> (3, sum of D) of the encoder that recipe and settings (JSON) describe."""
    prepare, frontend, model = build_pooling(recipe, settings)
    with torch.inference_mode():
        wave = torch.from_numpy(prepare(path, start_s, end_s))[None]
        pooled: NDArray[np.float32] = model.pool(frontend(wave))[0].numpy()
    return pooled


@cache
def build_pooling(recipe: str, words: str) -> tuple[Preparation, nn.Module, FusionClassifier]:
    """Name of a recipe and its settings (JSON) -> preparation of the waveform, front-end, network; built once for all
    cycles."""
    make = RECIPES.find(recipe)
    (section,) = (kind for name, kind in typing.get_type_hints(make).items() if name != "return")
    settings = from_dict(section, json.loads(words), "the settings of a cache")
    made = make(settings)
    return make_preparation(made), made.build_frontend(settings).eval(), made.build_model(settings).eval()
