"""The PANNs body: size, shapes, pooling by hand, the two readings of the axes."""

import pytest
import torch

from rales.models.cnn import Cnn


def test_size() -> None:
    with torch.device("meta"):
        model = Cnn()
    assert sum(p.numel() for p in model.parameters()) == 4_304_320
    assert model.dim == 512


@torch.inference_mode()
def test_shapes_of_eight_seconds() -> None:
    logmel = torch.randn(1, 1, 64, 251)
    for axes, shape in (("ft", (1, 512, 4, 15)), ("tf", (1, 512, 15, 4))):
        assert Cnn(axes=axes).eval().maps(logmel).shape == shape  # type: ignore[arg-type]
    assert Cnn().eval()(logmel).shape == (1, 512)


@torch.inference_mode()
def test_the_mean_goes_over_one_axis_and_max_plus_mean_over_the_other() -> None:
    logmel = torch.randn(2, 1, 64, 80)
    for axes in ("ft", "tf"):
        model = Cnn(axes=axes).eval()
        maps = model.maps(logmel)
        wanted = maps.mean(dim=3).amax(dim=2) + maps.mean(dim=3).mean(dim=2)
        assert torch.equal(model(logmel), wanted)
    turned = Cnn(axes="tf").eval()
    straight = Cnn(axes="ft").eval()
    straight.load_state_dict(turned.state_dict())
    assert torch.equal(turned.maps(logmel), straight.maps(logmel.transpose(2, 3)))


def test_a_picture_that_is_too_small_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"64 bands x 15 frames is too small.*at least 16 of both"):
        Cnn()(torch.zeros(1, 1, 64, 15))
