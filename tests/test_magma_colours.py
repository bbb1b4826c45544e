"""The colour map against matplotlib's."""

import pytest
import torch

from rales.audio.magma_colours import decode_magma_colours


def test_colours() -> None:
    colours = decode_magma_colours()
    assert colours.shape == (256, 3)
    assert colours.dtype == torch.uint8
    assert colours[0].tolist() == [0, 0, 4]
    assert colours[255].tolist() == [252, 253, 191]
    grey = colours.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert (grey.diff() >= -0.5).all()  # brightness grows


def test_equal_to_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the original map comes with the extra `report`")
    wanted = torch.tensor(matplotlib.colormaps["magma"].colors) * 255
    assert (decode_magma_colours() - wanted).abs().max() <= 0.5
