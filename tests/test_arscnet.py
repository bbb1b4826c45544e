"""ARSC-Net as we reconstruct it."""

import numpy as np
import pandas as pd
import pytest
import torch

from rales.audio.spectrogram_images import MelAndCepstrum
from rales.data.dataset import CycleDataset
from rales.models.arscnet import ArscNet
from rales.recipes import arscnet
from rales.recipes.registry import make_recipe


def test_size_and_shape() -> None:
    model = ArscNet()
    assert sum(p.numel() for p in model.parameters()) == 22_651_398
    assert sum(p.numel() for p in model.mel.parameters()) == 11_258_064
    with torch.inference_mode():
        assert model.eval()(torch.randn(2, 2, 64, 251)).shape == (2, 4)


@torch.inference_mode()
def test_each_encoder_sees_its_own_picture() -> None:
    torch.manual_seed(0)
    model = ArscNet(depth=10).eval()
    pictures = torch.randn(1, 2, 64, 64)
    other = pictures.clone()
    other[:, 1] = 0
    assert torch.equal(model.mel.maps(pictures[:, :1]), model.mel.maps(other[:, :1]))
    assert not torch.equal(model(pictures), model(other))


def test_pictures_are_standardised_by_the_train_cycles_alone() -> None:
    """Validation and test cycles here are a hundred times as loud, so a single one of them would be seen."""
    recipe = make_recipe("arscnet", size="tiny")
    random = np.random.default_rng(0)
    splits = ["train", "test", "train", "validation", "", "train"]
    levels = [0.01 if split == "train" else 1.0 for split in splits]
    waves = np.stack([level * random.standard_normal(32000) for level in levels]).astype(np.float32)
    table = pd.DataFrame({"label": ["normal"] * 6, "split": splits})
    frontend = arscnet.Pictures(recipe.config)
    arscnet.fit(recipe.config, frontend, ArscNet(depth=10, width=16), CycleDataset(table, waves), torch.device("cpu"))

    train = np.flatnonzero(np.array(splits) == "train")
    pictures = MelAndCepstrum().pictures(torch.from_numpy(waves[train])).double().numpy()
    mean, deviation = pictures.mean(axis=(0, 3)), pictures.std(axis=(0, 3))
    assert frontend.statistics[0].numpy() == pytest.approx(mean, rel=1e-4, abs=1e-4)
    assert frontend.statistics[1].numpy() == pytest.approx(deviation, rel=1e-3, abs=1e-3)
    standardised = frontend(torch.from_numpy(waves[train])).numpy()
    assert standardised.mean(axis=(0, 3)) == pytest.approx(np.zeros((2, 64)), abs=1e-3)
    assert standardised.std(axis=(0, 3)) == pytest.approx(np.ones((2, 64)), abs=1e-3)
