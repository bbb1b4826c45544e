"""Low-rank updates: nothing at the start, the product of two matrices later, and all else stays frozen."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rales.errors import UsageError
from rales.models.ast import AST, ASTClassifier
from rales.models.cpu_inference import packed_linear
from rales.models.low_rank import LowRankLinear, add_low_rank_updates, count_parameters
from rales.models.m2d_checkpoints import build_encoder, load_m2d
from rales.recipes.registry import describe_finetuning, make_recipe
from rales.report.tables import count_trained


def test_the_last_parts_are_updated_by_hand() -> None:
    layer = LowRankLinear(nn.Linear(2, 6), 1, 2)
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(layer(x), layer.plain(x))
    with torch.no_grad():
        layer.get_parameter("down.0.weight").copy_(torch.tensor([[1.0, 1.0]]))  # 3 of x
        layer.get_parameter("up.0.weight").copy_(torch.tensor([[10.0], [20.0]]))
        layer.get_parameter("down.1.weight").copy_(torch.tensor([[0.0, 1.0]]))  # 2 of x
        layer.get_parameter("up.1.weight").copy_(torch.tensor([[-1.0], [1.0]]))
    change = layer(x) - layer.plain(x)
    assert torch.allclose(change, torch.tensor([[0.0, 0, 30, 60, -2, 2]]), atol=1e-5)
    assert torch.allclose(nn.functional.linear(x, layer.weight, layer.bias), layer(x), atol=1e-5)
    assert torch.allclose(packed_linear(layer, torch.float32)(x), layer(x), atol=1e-5)
    layer(x).sum().backward()
    assert layer.plain.weight.grad is None


def test_what_learns_of_lora_rsc() -> None:
    """12 blocks x 2 x (768 x 8 + 8 x 768) and the head's 4,612: the 0.299 million of the paper."""
    with torch.device("meta"):
        encoder = AST()
        add_low_rank_updates(encoder, 8)
        model = ASTClassifier(encoder)
    assert count_parameters(model)["trained"] == 12 * 2 * 2 * 768 * 8 + 4612 == 299_524


@pytest.mark.parametrize("name", ["ast_ft", "m2d_fusion", "beats_pafa"])
def test_recipes_train_updates_alone(name: str) -> None:
    made = make_recipe(name, ["model.low_rank=2"], size="tiny")
    model = made.build_model(made.settings)
    learns = {each for each, p in model.named_parameters() if p.requires_grad}
    updates = {each for each in learns if ".down." in each or ".up." in each}
    assert len(updates) == 4 * made.settings.model.depth
    assert all(each.startswith(("head.", "fusion.", "projector.")) for each in learns - updates)


def test_what_the_encoder_keeps_is_not_frozen_once_more() -> None:
    for freeze in ("encoder", "1"):
        with pytest.raises(UsageError, match=f"freeze={freeze}: model.low_rank keeps all of the encoder"):
            make_recipe("m2d_fusion", ["model.low_rank=2"], size="tiny", freeze=freeze)
    settings = make_recipe("m2d_fusion", ["model.low_rank=2"], size="tiny").settings
    record = {"classes": list(settings.classes), "recipe": "m2d_fusion"}
    assert "; the low-rank updates, classification layer and weights" in describe_finetuning("run", record, settings)[0]
    assert "only classification layer" in describe_finetuning("run", record, replace(settings, freeze="encoder"))[0]


def test_the_encoder_of_such_a_run_is_a_plain_one(tmp_path: Path) -> None:
    made = make_recipe("m2d_fusion", ["model.low_rank=2"], size="tiny")
    model = made.build_model(made.settings).eval()
    for name, parameter in model.named_parameters():
        if ".down." in name:
            nn.init.normal_(parameter, std=0.1)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "best.safetensors", {"unit_frames": "200", "heads": "4"})
    plain = load_m2d(tmp_path / "best.safetensors", heads=4)
    x = torch.randn(1, 1, 80, 200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(plain(x), model.get_submodule("encoder")(x), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)
    tensors["encoder.blocks.0.attn.qkv.up.0.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.weight missing"):
        build_encoder(tensors, {}, "damaged")


def test_a_report_says_how_many_were_trained() -> None:
    def system(*evaluations: dict[str, Any]) -> Any:
        return SimpleNamespace(runs=[SimpleNamespace(evaluation=each) for each in evaluations])

    counts = {"parameters": {"all": 90, "trained": 8}}
    assert count_trained(system(counts, counts)) == 8
    assert count_trained(system(counts, {})) is None
    assert count_trained(system({"parameters": "many"})) is None
