"""The MobileNet of EfficientAT against a forward pass written out from its table, its reader, freezing and fusion."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from rales.audio.efficientat_logmel import EfficientATLogMel
from rales.models import FusionClassifier
from rales.models.classifier import find_layer_widths
from rales.models.mobilenet import MobileNet, TwoSpeedEncoder, round_channels
from rales.models.pretrained_backbones import mobilenet_tensors
from rales.training.finetune import set_training_mode
from rales.training.optim import freeze_parameters
from tests.conftest import SHARED

PUBLIC = SHARED / "weights" / "mn04_as.safetensors"
# kernel, expanded and out channels at width 1, squeezes, hard-swish, stride: typed anew from the paper's table
TABLE = """3 16 16 - - 1; 3 64 24 - - 2; 3 72 24 - - 1; 5 72 40 s - 2; 5 120 40 s - 1; 5 120 40 s - 1; 3 240 80 - h 2
3 200 80 - h 1; 3 184 80 - h 1; 3 184 80 - h 1; 3 480 112 s h 1; 3 672 112 s h 1; 5 672 160 s h 2; 5 960 160 s h 1
5 960 160 s h 1"""
LINES = [tuple(line.split()) for line in TABLE.replace("\n", ";").split(";")]


def random_network(width: float = 0.4, blocks: int = 15, classes: int = 0) -> MobileNet:
    """-> a network in evaluation mode whose statistics and gains differ from channel to channel."""
    torch.manual_seed(0)
    network = MobileNet(width, blocks, classes=classes)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5) if name.endswith(("var", "weight")) else value.normal_(std=0.1)
    return network.eval()


def written_out(tensors: Mapping[str, Tensor], x: Tensor, blocks: int = 15) -> list[Tensor]:
    """Tensors of a file, log-mel (B, 1, 128, frames) -> the maps of features.1 to the last."""

    def layer(name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = tensors[f"{name}.0.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=(weight.shape[2] - 1) // 2, groups=groups)
        mean, var, gain, bias = (
            tensors[f"{name}.1.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * gain + bias

    def hard_swish(x: Tensor) -> Tensor:
        return x * (x + 3).clamp(0, 6) / 6

    x, maps = hard_swish(layer("features.0", x, stride=2)), []
    for number, (_, _, _, squeezes, swish, stride) in enumerate(LINES[:blocks], start=1):
        name, before, place = f"features.{number}.block", x, 0
        act = hard_swish if swish == "h" else F.relu
        if tensors[f"{name}.0.0.weight"].shape[2] == 1:  # some narrow ones filter at once
            x, place = act(layer(f"{name}.0", x)), 1
        x = act(layer(f"{name}.{place}", x, stride=int(stride), groups=x.shape[1]))
        if squeezes == "s":
            place += 1
            inner = f"{name}.{place}.conc_se_layers.0"
            first, second = ((tensors[f"{inner}.{fc}.weight"], tensors[f"{inner}.{fc}.bias"]) for fc in ("fc1", "fc2"))
            squeezed = x.mean(dim=(2, 3)) @ first[0].T + first[1]
            x = x * torch.sigmoid(F.relu(squeezed) @ second[0].T + second[1])[:, :, None, None]
        x = layer(f"{name}.{place + 1}", x)
        if stride == "1" and x.shape[1] == before.shape[1]:
            x = x + before
        maps.append(x)
    maps.append(hard_swish(layer(f"features.{blocks + 1}", x)))
    return maps


@pytest.mark.parametrize(("width", "blocks"), [(0.4, 15), (1.0, 4), (0.1, 15)])
def test_blocks_are_those_of_the_table(width: float, blocks: int) -> None:
    network = random_network(width, blocks)
    logmel = torch.randn(2, 1, 128, 70)
    with torch.no_grad():
        found, expected = network.maps(logmel), written_out(network.state_dict(), logmel, blocks)
    assert len(found) == network.depth == blocks + 1
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max()))
    assert [each.shape[2] for each in found] == network.rows
    assert [each.shape[1] for each in found] == network.layer_widths()
    sizes = [round_channels(int(line[2]) * width) for line in LINES[:blocks]]
    assert network.channels == [*sizes, 6 * sizes[-1]]


def test_numbers_of_parameters_are_the_published_ones() -> None:
    with torch.device("meta"):
        whole, encoder = MobileNet(0.4, classes=527), MobileNet(0.4)
    assert sum(p.numel() for p in whole.parameters()) == 983_599
    assert sum(p.numel() for p in encoder.parameters()) == 516_128


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (11.9, 16), (12.8, 16), (28.8, 32), (68, 72), (100, 104)])
def test_channels_are_multiples_of_8_and_not_much_less(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


def test_tokens_are_places_or_columns() -> None:
    network, logmel = random_network(blocks=2), torch.randn(2, 1, 128, 40)
    maps, flat, stacked = network.maps(logmel), network(logmel), network(logmel, "stacked")
    for number, each in enumerate(maps):
        batch, channels, rows, columns = each.shape
        assert flat[number].shape == (batch, rows * columns, channels)
        assert torch.equal(flat[number][1, 5 * columns + 3], each[1, :, 5, 3])
        assert stacked[number].shape == (batch, columns, rows * channels)
        assert torch.equal(stacked[number][1, 3], each[1, :, :, 3].T.flatten())
    assert network.layer_widths("stacked") == [each.shape[2] for each in stacked]


def test_layers_of_different_widths_are_fused() -> None:
    """Eq. 1 and 2, computed layer by layer; and from what is kept of a frozen encoder."""
    network, logmel = random_network(blocks=2), torch.randn(3, 1, 128, 40)
    model = FusionClassifier(network, [1, 3], learned=True).eval()
    with torch.no_grad():
        model.fusion.weight.copy_(torch.tensor([0.5, -2.0]))
        layers = network(logmel)
        weighted = [0.5 * layers[0], -2.0 * layers[2]]
        expected = torch.cat([z.mean(dim=1) + z.amax(dim=1) for z in weighted], dim=1)
        assert torch.allclose(model.embed(logmel), expected, atol=1e-6)
        pooled = model.pool(logmel)
        assert pooled.shape == (3, 3, 8 + 96)
        assert torch.allclose(model(pooled), model(logmel), atol=1e-5)
    with pytest.raises(ValueError, match="layer 4 is to be fused, but the encoder has 3 layers"):
        FusionClassifier(network, [1, 4], learned=True)


def test_two_speeds_are_twice_the_layers() -> None:
    network, logmel = random_network(blocks=2), torch.randn(2, 1, 128, 50)
    encoder = TwoSpeedEncoder(network, 40)
    found, plain, fast = encoder(logmel), network(logmel[..., :40]), network(logmel[..., 40:])
    assert encoder.depth == len(found) == 6
    assert all(torch.equal(one, other) for one, other in zip(found, [*plain, *fast], strict=True))
    assert find_layer_widths(encoder) == 2 * network.layer_widths()


@pytest.mark.parametrize(("freeze", "moved"), [("none", [0, 1, 2, 3]), ("1", [2, 3]), ("encoder", [])])
def test_what_is_frozen_keeps_weights_and_statistics(freeze: str, moved: list[int]) -> None:
    model = FusionClassifier(random_network(blocks=2), [1, 2, 3], learned=True, head_start="default")
    freeze_parameters(model, freeze)
    set_training_mode(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 1, 128, 40)).square().sum().backward()
    optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    features = {int(name.split(".")[2]) for name in changed if name.startswith("encoder.")}
    assert sorted(features) == moved
    assert {"head.weight", "fusion.weight"} <= changed


# Files


def test_the_reader_finds_width_and_depth(tmp_path: Path) -> None:
    for width, classes in ((0.4, 527), (1.0, 0)):
        with torch.device("meta"):  # a number of its own for every tensor is enough, so nothing is drawn
            named = enumerate(MobileNet(width, classes=classes).state_dict().items())
        tensors = {name: torch.full(value.shape, i, dtype=value.dtype) for i, (name, value) in named}
        torch.save(tensors, tmp_path / "public.pt")
        found = mobilenet_tensors(tmp_path / "public.pt")
        assert found[:2] == (width, 16)
        assert found[2].keys() == {name for name in tensors if name.startswith("features.")}
        assert all(torch.equal(value, tensors[name]) for name, value in found[2].items())
    network = MobileNet(0.4, 2)
    for encoder in (network, TwoSpeedEncoder(network, 10)):
        run = FusionClassifier(encoder, [1], learned=True)
        save_file(run.state_dict(), tmp_path / "run.safetensors")
        _, depth, tensors = mobilenet_tensors(tmp_path / "run.safetensors")
        assert depth == 3
        network.load_state_dict(tensors)


def test_other_files_are_sentences(tmp_path: Path) -> None:
    path, whole = tmp_path / "x.safetensors", MobileNet(0.4, 3).state_dict()
    first = "features.0.0.weight"
    spoiled = {
        "not a MobileNet of EfficientAT": {"conv1.weight": torch.zeros(1)},
        "not a MobileNet of EfficientAT of a": {**whole, first: torch.zeros(9, 1, 3, 3)},
        "has 4 blocks .*not numbered from 0": {n: v for n, v in whole.items() if not n.startswith("features.2.")},
        "not the weights of a MobileNet.*features.0.1.bias missing": {
            n: v for n, v in whole.items() if n != "features.0.1.bias"
        },
        "not the weights .*features.0.9 not expected": {**whole, "features.0.9": torch.zeros(1)},
        "holds 1 of .* values that are NaN": {
            **whole,
            first: whole[first].clone().index_fill_(0, torch.tensor(0), np.nan),
        },
    }
    for sentence, tensors in spoiled.items():
        save_file(tensors, path)
        with pytest.raises(ValueError, match=sentence.replace("holds 1 of", r"holds \d+ of")) as told:
            mobilenet_tensors(path)
        assert str(told.value).startswith(str(path))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged or cut safetensors file"):
        mobilenet_tensors(path)


# The public file, where it is here


@pytest.fixture(scope="module")
def public() -> MobileNet:
    """mn04_as with its AudioSet head."""
    if not PUBLIC.is_file():
        pytest.skip(f"the public weights are not here: no {PUBLIC}")
    width, depth, tensors = mobilenet_tensors(PUBLIC, classes=527)
    network = MobileNet(width, depth - 1, classes=527)
    network.load_state_dict(tensors)
    return network.eval()


def test_the_public_file_computes_as_written_out(public: MobileNet) -> None:
    logmel = torch.randn(1, 1, 128, 100)
    with torch.no_grad():
        for one, other in zip(public.maps(logmel), written_out(load_file(PUBLIC), logmel), strict=True):
            assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max()))


# AudioSet's numbers of what ESC-10 calls so
AUDIOSET = {
    "dog bark": {72, 73, 74, 75, 76},
    "rooster": {98, 99, 100, 101},
    "baby cry": {22, 23},
    "person sneeze": {49},
    "rain": {289, 290, 291},
    "sea waves": {294, 295},
    "clock tick": {406, 407, 408},
}


def test_everyday_sounds_are_recognised(public: MobileNet, shared_data: Path) -> None:
    """By the AudioSet head, through our front-end: 12 of these 14 clips were when this was written."""
    frontend, right = EfficientATLogMel(), []
    with (shared_data / "esc10" / "clips.csv").open() as file:
        clips = {row["clip"]: AUDIOSET[row["label"]] for row in csv.DictReader(file) if row["label"] in AUDIOSET}
    for clip, numbers in clips.items():
        wave, rate_hz = soundfile.read(shared_data / "esc10" / clip, dtype="float32")
        with torch.no_grad():
            logits = public.classify(frontend(torch.from_numpy(soxr.resample(wave, rate_hz, 32000))[None]))[0]
        right.append(int(logits.argmax()) in numbers)
    assert len(right) == 14
    assert sum(right) >= 12
