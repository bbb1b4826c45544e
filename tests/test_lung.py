"""LungRN+NL and LungAttn: sizes and shapes of their published code, and its departures behind their options."""

import pytest
import torch

from rales.models.lung import LungAttn, LungRN, PreActivation


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_sizes() -> None:
    assert parameters(LungRN()) == 707_844
    assert parameters(LungRN(nonlocal_softmax=None)) == 675_076
    assert parameters(LungAttn()) == 711_900


@torch.inference_mode()
def test_shapes_inside() -> None:
    model = LungRN().eval()
    x = model.stem(torch.zeros(1, 1, 128, 128))
    assert x.shape == (1, 64, 126, 126)
    x = model.body[0](x)
    assert x.shape == (1, 64, 63, 63)
    assert model.body[1](x).shape == (1, 64, 32, 32)
    assert model(torch.zeros(2, 1, 128, 128)).shape == (2, 4)
    attention = LungAttn().eval()
    assert attention.stem(torch.zeros(1, 3, 224, 224)).shape == (1, 64, 112, 112)
    assert attention(torch.zeros(2, 3, 224, 224)).shape == (2, 4)


def test_nine_blocks_and_four_attentions_in_order() -> None:
    kinds = [type(module).__name__[0] for module in LungRN().body]
    assert "".join(kinds) == "PPPNRPPNRPPNRPNRP"  # block, non-local, ReLU
    first = [type(module.conv1).__name__ for module in LungAttn().body]
    assert first == ["Conv2d"] * 7 + ["AttentionConv", "Conv2d"]


@torch.inference_mode()
def test_a_projection_starts_from_the_activated_input() -> None:
    block = PreActivation(stride=2).eval()
    x = torch.randn(2, 64, 8, 8)
    torch.nn.init.zeros_(block.conv2.weight)
    active = torch.relu(block.norm1(x))
    assert block.project is not None
    assert torch.allclose(block(x), block.project(active))
    plain = PreActivation().eval()
    torch.nn.init.zeros_(plain.conv2.weight)
    assert torch.equal(plain(x), x)


def test_logits_are_dropped_out_in_training_only() -> None:
    torch.manual_seed(0)
    model = LungRN(dropout=0.5)
    picture = torch.randn(8, 1, 128, 128)
    assert (model(picture) == 0).any()
    with torch.inference_mode():
        assert not (model.eval()(picture) == 0).any()


@pytest.mark.parametrize("options", [{"nonlocal_softmax": "global", "nonlocal_transpose": True}, {}])
def test_gradient_reaches_every_parameter(options: dict[str, object]) -> None:
    model = LungRN(dropout=0.0, **options)  # type: ignore[arg-type]
    model(torch.randn(2, 1, 128, 128)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
