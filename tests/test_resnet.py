"""ResNets and ResNeSts: sizes and names of the public ones, and equal answers for equal weights where an oracle is."""

import re

import pytest
import torch
from torch import nn

from rales.models.attention import channel_then_space
from rales.models.named_encoder import declare_torchvision_operators
from rales.models.resnest import ResNeSt
from rales.models.resnet import ResNet
from rales.models.stochnorm import StochNorm2d


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# torchvision's published counts, with 1000 classes and without fc
@pytest.mark.parametrize(("depth", "whole", "body"), [
    (18, 11_689_512, 11_176_512),
    (34, 21_797_672, 21_284_672),
    (50, 25_557_032, 23_508_032),
])  # fmt: skip
def test_resnet_sizes(depth: int, whole: int, body: int) -> None:
    with torch.device("meta"):
        assert parameters(ResNet(depth, classes=1000)) == whole
        assert parameters(ResNet(depth)) == body


# timm's published counts with 1000 classes
@pytest.mark.parametrize(("depth", "whole"), [(14, 10_611_688), (26, 17_069_448), (50, 27_483_240)])
def test_resnest_sizes(depth: int, whole: int) -> None:
    with torch.device("meta"):
        assert parameters(ResNeSt(depth, classes=1000)) == whole


NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_resnet_names_are_those_of_torchvision() -> None:
    """Written out for ResNet-34 and 50 from the public key list, in order."""
    for depth, counts, convolutions in ((34, (3, 4, 6, 3), 2), (50, (3, 4, 6, 3), 3)):
        wanted = ["conv1.weight", *(f"bn1.{n}" for n in NORM)]
        for stage, count in enumerate(counts, start=1):
            for block in range(count):
                for c in range(1, convolutions + 1):
                    wanted.append(f"layer{stage}.{block}.conv{c}.weight")
                    wanted += [f"layer{stage}.{block}.bn{c}.{n}" for n in NORM]
                if block == 0 and (stage > 1 or depth == 50):
                    wanted.append(f"layer{stage}.0.downsample.0.weight")
                    wanted += [f"layer{stage}.0.downsample.1.{n}" for n in NORM]
        wanted += ["fc.weight", "fc.bias"]
        with torch.device("meta"):
            state = ResNet(depth, classes=1000).state_dict()
        assert list(state) == wanted
        assert tuple(state["layer3.1.conv1.weight"].shape) == ((256, 256, 3, 3) if depth == 34 else (256, 1024, 1, 1))
        assert tuple(state["fc.weight"].shape) == (1000, 512 if depth == 34 else 2048)


def test_resnest_names_and_shapes() -> None:
    with torch.device("meta"):
        state = {name: tuple(value.shape) for name, value in ResNeSt(50, classes=1000).state_dict().items()}
    assert {re.sub(r"\.[^.]+$", "", name) for name in state if name.startswith(("conv1", "bn1", "layer1.0", "fc"))} == {
        *("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1", "fc"),
        *(f"layer1.0.{n}" for n in ("conv1", "bn1", "conv2.conv", "conv2.bn0", "conv2.fc1", "conv2.bn1", "conv2.fc2")),
        *(f"layer1.0.{n}" for n in ("conv3", "bn3", "downsample.1", "downsample.2")),
    }
    assert state["conv1.6.weight"] == (64, 32, 3, 3)
    assert state["layer2.0.conv2.conv.weight"] == (256, 64, 3, 3)  # radix 2: two groups
    assert state["layer2.0.conv2.fc1.weight"] == (64, 128, 1, 1)
    assert state["layer2.0.conv2.fc2.weight"] == (256, 64, 1, 1)
    assert state["layer4.0.downsample.1.weight"] == (2048, 1024, 1, 1)


def test_shapes() -> None:
    picture = torch.zeros(1, 3, 192, 753)
    with torch.inference_mode():
        assert ResNet(34).eval().maps(picture).shape == (1, 512, 6, 24)  # RespireNet
        assert ResNeSt(14).eval()(torch.zeros(2, 3, 64, 65)).shape == (2, 2048)
        assert ResNet(18, channels=1, classes=4).eval()(torch.zeros(2, 1, 64, 251)).shape == (2, 4)
        maps = ResNet(18, channels=1, attention=channel_then_space).eval().maps(torch.zeros(1, 1, 64, 251))
        assert maps.shape == (1, 512, 2, 8)  # ARSC-Net


def test_another_normalisation_has_the_same_keys() -> None:
    with torch.device("meta"):
        assert list(ResNet(50, norm=StochNorm2d).state_dict()) == list(ResNet(50).state_dict())


def test_gradient_reaches_every_parameter() -> None:
    for model in (ResNet(18, classes=4), ResNeSt(14, classes=4)):
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_unknown_depth_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="no ResNet of depth 33 here; expected one of 10, 18, 34, 50"):
        ResNet(33)
    with pytest.raises(ValueError, match="no ResNeSt of depth 51"):
        ResNeSt(51)


@pytest.mark.parametrize("depth", [18, 50])
def test_equal_weights_give_the_answers_of_transformers(depth: int) -> None:
    declare_torchvision_operators()
    transformers = pytest.importorskip("transformers", reason="the independent ResNet comes with the extra `bench`")
    ours = ResNet(depth).eval()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(
            depths=[2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3],
            layer_type="basic" if depth == 18 else "bottleneck",
            hidden_sizes=[64, 128, 256, 512] if depth == 18 else [256, 512, 1024, 2048],
        )
    ).eval()
    state = {}
    for name, value in ours.state_dict().items():
        name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
        name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
        name = re.sub(r"layer(\d)\.(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name)
        name = re.sub(r"conv(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.convolution.", name)
        name = re.sub(r"bn(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.normalization.", name)
        state[
            name.replace("downsample.0", "shortcut.convolution").replace("downsample.1", "shortcut.normalization")
        ] = value
    theirs.load_state_dict(state)
    picture = torch.randn(2, 3, 96, 130)
    with torch.inference_mode():
        wanted = theirs(picture).pooler_output.flatten(1)
        assert (ours(picture) - wanted).abs().max() <= 2e-5 * wanted.abs().max()
