"""ARSC-Net as we reconstruct it."""

import torch

from rales.models.arscnet import ArscNet


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
