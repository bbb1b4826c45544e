"""Heads of the earlier systems: sizes of the published networks, and what co-tuning keeps."""

import torch

from rales.models.heads import CoTuning, build_patch_mix_projector, build_projector, build_respirenet_head
from rales.models.resnet import ResNet


def parameters(*models: torch.nn.Module) -> int:
    return sum(p.numel() for model in models for p in model.parameters())


def test_sizes() -> None:
    with torch.device("meta"):
        assert parameters(ResNet(34), build_respirenet_head()) == 21_367_364
        assert parameters(CoTuning(ResNet(50, classes=1000))) == 25_565_228
        assert parameters(ResNet(50, classes=4)) == 23_516_228
        assert parameters(build_projector()) == 328_320
        assert parameters(build_patch_mix_projector()) == 1_182_720


@torch.inference_mode()
def test_cotuning_keeps_the_source_head_and_answers_with_the_target_head() -> None:
    torch.manual_seed(0)
    backbone = ResNet(10, classes=7).eval()
    picture = torch.randn(2, 3, 64, 64)
    source = backbone(picture)
    model = CoTuning(backbone).eval()
    logits, kept = model.both(picture)
    assert torch.allclose(kept, source, atol=1e-6)
    assert torch.equal(model(picture), logits)
    assert logits.shape == (2, 4)
    assert (model.target.bias == 0).all()
    assert 0.008 < model.target.weight.std() < 0.012
