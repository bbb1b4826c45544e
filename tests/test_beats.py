"""BEATs: equal to the public code on random weights in the public layout, and its distances by hand."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rales.audio.kaldi_fbank import BEATS_MEAN, BEATS_SCALE, BEATS_STD, KaldiFbank
from rales.errors import UsageError
from rales.models.beats import BEATs, BEATsSize, number_distances
from rales.models.classifier import FusionClassifier
from rales.models.instances import AttentionMIL
from rales.models.pretrained_backbones import beats_tensors
from rales.recipes.registry import make_recipe


@pytest.fixture(scope="module")
def public(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "beats" / "outputs.safetensors")


@torch.inference_mode()
def test_every_block_is_the_public_code(golden: Path, public: dict[str, Tensor]) -> None:
    size, tensors = beats_tensors(golden / "beats" / "BEATs_tiny.pt")
    assert size == BEATsSize(dim=32, depth=3, heads=2, hidden=64, patch_dim=24, patch=16, buckets=320, farthest=800)
    network = BEATs(size).eval()
    network.load_state_dict(tensors)
    fbank = (public["input_times_12"].float() / 12).transpose(1, 2)[:, None]  # (1, 1, 128, 418), here mel by frame
    outputs = network(fbank)
    assert [each.shape for each in outputs] == 3 * [(1, 208, 32)]
    assert (torch.stack(outputs) - public["layers"]).abs().max() < 1e-5
    stacked = network(fbank, "stacked")
    assert torch.equal(stacked[1].reshape(1, 208, 32), outputs[1])
    assert network.layer_widths("stacked") == 3 * [8 * 32]


@torch.inference_mode()
def test_the_filter_bank_is_the_public_code(public: dict[str, Tensor]) -> None:
    fbank = KaldiFbank("povey", scale=BEATS_SCALE, mean=BEATS_MEAN, std=BEATS_STD)(public["wave"])
    assert (fbank[:, 0].transpose(1, 2) - public["fbank"]).abs().max() < 2e-4


def test_distances_by_hand() -> None:
    """Of 320 buckets 160 are of keys behind the query, and 80 of each half count single tokens."""
    numbers = number_distances(900, 320, 800)
    assert numbers[5, :8].tolist() == [5, 4, 3, 2, 1, 0, 161, 162]
    assert numbers[[0, 79], [79, 0]].tolist() == [160 + 79, 79]
    assert numbers[200, 0] == 80 + int(math.log(200 / 80) / math.log(10) * 80)  # 111
    assert numbers[899, 0] == numbers[850, 0] == 159


def test_public_sizes() -> None:
    with torch.device("meta"):
        network = BEATs()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(90e6, rel=0.01)


def test_the_recipe_starts_from_a_public_file(golden: Path, tmp_path: Path) -> None:
    file = golden / "beats" / "BEATs_tiny.pt"
    made = make_recipe("beats_pafa", ["audio.duration_s=0.5"], weights=str(file))
    assert (made.settings.model.layers, made.settings.model.dim) == ((3,), 32)
    network = made.build_model(made.settings)
    assert torch.equal(
        network.get_parameter("encoder.relative_bias.weight"), beats_tensors(file)[1]["relative_bias.weight"]
    )
    other = tmp_path / "other.pt"
    torch.save({"model": {"conv.weight": torch.zeros(3)}}, other)
    with pytest.raises(ValueError, match=r"other\.pt: not a BEATs file: it starts with conv\.weight"):
        make_recipe("beats_pafa", weights=str(other))


class Mean(torch.nn.Module):
    """(B, 1, F, frames) -> one layer of one token: the mean of every row."""

    dim, depth = 4, 1

    def forward(self, fbank: Tensor, layout: str = "flat") -> list[Tensor]:
        return [fbank.mean(dim=3)]


def test_the_pieces_of_a_clip_are_weighed() -> None:
    """Three pieces of four frames, one every two; by hand with an attention that looks at the first feature alone."""
    network = AttentionMIL(FusionClassifier(Mean(), [1], False, pool="mean"), 4, 2, classes=3)
    with torch.no_grad():
        for name, parameter in network.attention.named_parameters():
            parameter.zero_()
            if name == "0.weight":
                parameter[0, 0] = 1
            if name == "2.weight":
                parameter[0, 0] = 5
    fbank = torch.randn(2, 1, 4, 9)  # the ninth frame is in no piece
    vectors, weights = network.weigh_pieces(fbank)
    assert vectors.shape == (2, 3, 4)
    expected = torch.nn.functional.layer_norm(fbank[1, 0, :, 2:6].mean(dim=1), (4,))
    assert torch.allclose(vectors[1, 1], expected, atol=1e-6)
    assert torch.allclose(weights, (5 * vectors[..., 0].tanh()).softmax(dim=1), atol=1e-6)
    assert torch.allclose(network.embed(fbank), torch.einsum("bm,bmd->bd", weights, vectors), atol=1e-6)
    assert network(fbank).shape == (2, 3)


def test_the_pieces_of_m2d2() -> None:
    """Seven pieces of 2 s in 8 s, cut from the waveform or from its filter bank alike."""
    made = make_recipe("beats_pafa", ["audio.duration_s=8", "model.instance_s=2"], size="tiny")
    network, frontend = made.build_model(made.settings).eval(), made.build_frontend(made.settings)
    wave = torch.randn(1, 128000)
    assert isinstance(network, AttentionMIL)
    with torch.inference_mode():
        _, weights = network.weigh_pieces(frontend(wave))
        assert weights.shape == (1, 7)
        piece = frontend(wave[:, 48000:80000])  # the fourth
        assert torch.allclose(frontend(wave)[..., 300:498], piece, atol=1e-5)
    with pytest.raises(UsageError, match=r"model\.instance_s=9: expected 0, or 0\.2 to audio\.duration_s=5 seconds"):
        make_recipe("beats_pafa", ["model.instance_s=9"])


def test_what_beats_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file or folder, and "):
        make_recipe("beats_pafa", weights=str(tmp_path / "none.pt"))
    for word, sentence in (("model.dim=40", "model.dim=40: .*of 16"), ("model.heads=3", "model.dim=64: .*heads=3")):
        with pytest.raises(UsageError, match=sentence):
            make_recipe("beats_pafa", [word], size="tiny")


def test_a_block_may_be_left_out_in_training() -> None:
    network = BEATs(BEATsSize(16, 2, 2, 32, 8), layer_drop=1.0)
    first, second = network.train()(torch.randn(1, 1, 128, 32))
    assert torch.equal(first, second)
    first, second = network.eval()(torch.randn(1, 1, 128, 32))
    assert not torch.equal(first, second)
