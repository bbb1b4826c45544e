"""Layer fusion, pooling and the classifier: by hand, and six training steps of the reference model."""

import copy
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from rales.models import FusionClassifier, LayerFusion, ViT, load_m2d, mean_plus_max
from rales.models.beats import BEATs, BEATsSize
from rales.models.layer_fusion import Pool, concatenate_layers, pool_over_time
from rales.models.mobilenet import MobileNet, TwoSpeedEncoder
from rales.models.vit import Layout
from rales.training.losses import weighted_cross_entropy
from rales.training.optim import make_adam

RUNS = ("vanilla", "pair_fixed", "all_fixed", "all_learned")
STEPS = 6


def encoder(depth: int = 3) -> ViT:
    torch.manual_seed(0)
    return ViT(16, depth, 2, mel_bins=32, unit_frames=48)


# Equations by hand


def test_equation_1_by_hand() -> None:
    fusion = LayerFusion([1, 3], learned=True)
    assert fusion.weight.tolist() == [1.0, 1.0]
    fusion.weight.data = torch.tensor([2.0, -0.5])
    first, third = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[10.0, 20.0], [30.0, 40.0]]])
    outputs = [first, torch.full((1, 2, 2), 99.0), third]
    fused = concatenate_layers(fusion(outputs))
    assert fused.tolist() == [[[2.0, 4.0, -5.0, -10.0], [6.0, 8.0, -15.0, -20.0]]]


def test_equation_2_by_hand() -> None:
    z = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [2.0, -9.0]]])
    assert mean_plus_max(z).tolist() == [[2.0 + 3.0, -5.0 - 2.0]]


def test_fixed_weights_are_one_and_not_trained() -> None:
    fusion = LayerFusion([2, 1], learned=False)
    assert fusion.weight.tolist() == [1.0, 1.0]
    assert not list(fusion.parameters())
    assert "weight" in fusion.state_dict()
    outputs = [torch.zeros(1, 1, 1), torch.ones(1, 1, 1)]
    assert concatenate_layers(fusion(outputs)).tolist() == [[[1.0, 0.0]]]  # in the order asked for


@settings(max_examples=50, deadline=None)
@given(weights=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_pooling_the_parts_is_pooling_the_concatenation(weights: list[float], seed: int) -> None:
    """Also for negative weights, as the maximum is taken after the product; exact but for the order of sums."""
    fusion = LayerFusion(range(1, len(weights) + 1), learned=True)
    fusion.weight.data = torch.tensor(weights)
    random = torch.Generator().manual_seed(seed)
    outputs = [torch.randn(2, 7, 5, generator=random) for _ in weights]
    parts = torch.cat([mean_plus_max(z) for z in fusion(outputs)], dim=-1)
    assert torch.allclose(parts, mean_plus_max(concatenate_layers(fusion(outputs))), rtol=0, atol=2e-6)


def test_at_base_width_the_order_of_sums_is_the_same_too() -> None:
    fusion = LayerFusion([1, 2], learned=False)
    outputs = list(torch.randn(2, 2, 255, 768, generator=torch.Generator().manual_seed(0)))
    parts = torch.cat([mean_plus_max(z) for z in fusion(outputs)], dim=-1)
    assert torch.equal(parts, mean_plus_max(concatenate_layers(fusion(outputs))))


def test_norm_makes_layers_of_any_scale_alike() -> None:
    fusion = LayerFusion([1, 2], learned=False, norm=True)
    z = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    first, second = fusion([z, 1000 * z + 5])
    assert torch.allclose(first, second, atol=1e-4)
    assert torch.allclose(first.std(dim=-1, correction=0), torch.ones(1, 4), atol=1e-4)


@pytest.mark.parametrize("layers", [[], [0], [-1], [2, 2]])
def test_layers_must_be_distinct_numbers_from_1(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="expected distinct numbers from 1"):
        LayerFusion(layers, learned=False)


def test_a_layer_that_the_encoder_lacks_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="layer 4 is to be fused, but the encoder has 3 layers"):
        FusionClassifier(encoder(depth=3), layers=[1, 4], learned=False)


# What outsiders rely on


def test_signatures_of_the_contract() -> None:
    model = FusionClassifier(encoder(), layers=[1, 3], learned=True, classes=4)
    logmel = torch.randn(2, 1, 32, 60)
    assert model(logmel).shape == (2, 4)
    assert model.fusion.weight.shape == (2,)
    assert model.fusion.weight.requires_grad
    assert isinstance(model.head, torch.nn.Linear)
    assert model.head.weight.shape == (4, 2 * 16)
    assert model.embed(logmel).shape == (2, 32)
    outputs = model.encoder(logmel, layout="stacked")
    assert [tuple(z.shape) for z in outputs] == [(2, 4, 32)] * 3
    mean, std = model.encoder.get_buffer("norm_stats")
    assert (float(mean), float(std)) == pytest.approx((-7.1, 4.2))
    assert list(inspect.signature(FusionClassifier).parameters)[:4] == ["encoder", "layers", "learned", "classes"]


def test_stacked_layout_widens_the_head() -> None:
    model = FusionClassifier(encoder(), layers=[2], learned=False, layout="stacked")
    assert model(torch.randn(2, 1, 32, 60)).shape == (2, 4)
    assert model.head.in_features == 2 * 16


def test_the_model_is_its_equations() -> None:
    model = FusionClassifier(encoder(), layers=[1, 2, 3], learned=True).eval()
    model.fusion.weight.data = torch.tensor([0.5, -2.0, 1.5])
    logmel = torch.randn(2, 1, 32, 60)
    z = model.encoder(logmel)
    tilde = torch.cat([0.5 * z[0], -2.0 * z[1], 1.5 * z[2]], dim=-1)  # eq. 1
    pooled = tilde.mean(dim=1) + tilde.max(dim=1).values  # eq. 2
    logits = pooled @ model.head.weight.T + model.head.bias
    assert torch.allclose(model(logmel), logits, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean_max", "mean", "max"])
def test_each_way_to_pool(pool: Pool) -> None:
    z = torch.tensor([[[1.0, -8.0], [3.0, -2.0]]])  # means 2, -5; maxima 3, -2
    assert pool_over_time(z, pool).tolist() == {"mean_max": [[5, -7]], "mean": [[2, -5]], "max": [[3, -2]]}[pool]
    model = FusionClassifier(encoder(), layers=[1, 3], learned=True, pool=pool).eval()
    model.fusion.weight.data = torch.tensor([0.5, -2.0])
    logmel = torch.randn(2, 1, 32, 60)
    assert torch.allclose(model.embed(model.pool(logmel)), model.embed(logmel), atol=1e-5)
    first, _, third = model.encoder(logmel)
    expected = torch.cat([pool_over_time(0.5 * first, pool), pool_over_time(-2.0 * third, pool)], dim=1)
    assert torch.allclose(model.embed(logmel), expected, atol=1e-6)


# An encoder stops behind the last fused layer


class WholePass(nn.Module):
    """An encoder as one from outside may be: it has no `last_layer`, and computes every layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.layer_widths = inner, inner.layer_widths

    def forward(self, features: Tensor, layout: Layout) -> list[Tensor]:
        outputs: list[Tensor] = self.inner(features, layout)
        return outputs


def mobile_net() -> MobileNet:
    torch.manual_seed(0)
    return MobileNet(0.1, 3)


ENCODERS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and mel bands
    "ViT": (lambda: encoder(depth=4), 32),
    "BEATs": (lambda: BEATs(BEATsSize(16, 4, 2, 32, 8), layer_drop=0.5), 128),
    "MobileNet": (mobile_net, 128),
    "TwoSpeedEncoder": (lambda: TwoSpeedEncoder(mobile_net(), 30), 128),
}


@pytest.mark.parametrize("layers", [[1], [3], [2, 1]])
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_that_stops_answers_and_learns_as_the_whole_pass(name: str, layers: list[int]) -> None:
    make, bands = ENCODERS[name]
    model = FusionClassifier(make(), layers, learned=True, head_start="default")
    whole = FusionClassifier(WholePass(copy.deepcopy(model.encoder)), layers, learned=True)
    whole.head.load_state_dict(model.head.state_dict())
    features, found = torch.randn(2, 1, bands, 60), []
    for each in (model, whole):
        torch.manual_seed(1)  # BEATs leaves blocks out in training
        loss = each(features).square().sum()
        loss.backward()
        drawn = torch.rand(2)
        gradients = [p.grad for p in each.parameters() if p.grad is not None]
        each.eval()
        with torch.no_grad():
            found.append([loss, drawn, *gradients, each(features), each.pool(features)])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("name", ENCODERS)
def test_nothing_behind_the_last_fused_layer_is_computed(name: str) -> None:
    make, bands = ENCODERS[name]
    model = FusionClassifier(make(), [2, 1], learned=False).eval()
    network: Any = getattr(model.encoder, "network", model.encoder)
    blocks: Any = network.features[1:] if isinstance(network, MobileNet) else network.blocks
    computed = []
    for number, block in enumerate(blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: computed.append(number))
    model(torch.randn(2, 1, bands, 60))
    assert computed == [1, 2]


# Golden: six Adam steps of the paper's model


def trajectory(golden: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts = json.loads((golden / "finetune" / "trajectory.json").read_text())
    return facts, load_file(golden / "finetune" / "trajectory.safetensors")


def test_the_head_starts_nearly_at_zero_or_as_a_linear_layer_does() -> None:
    torch.manual_seed(7)
    linear = torch.nn.Linear(2 * 16, 4)
    found = {}
    for start in ("zero", "default"):
        vit = encoder()
        torch.manual_seed(7)
        found[start] = FusionClassifier(vit, layers=[1, 3], learned=True, head_start=start).head
    assert torch.equal(found["default"].weight, linear.weight)
    assert torch.equal(found["default"].bias, linear.bias)
    bound = 1 / np.sqrt(2 * 16)  # uniform in it
    assert 0.9 * bound < found["default"].weight.abs().max() < bound
    assert 0 < found["zero"].weight.abs().max() < 2e-4
    assert found["zero"].bias.tolist() == [0.0] * 4


def model_of(golden: Path, run: str) -> FusionClassifier:
    facts, tensors = trajectory(golden)
    settings_ = facts["runs"][run]
    start = load_m2d(golden / "checkpoints" / "enconly.safetensors")
    model = FusionClassifier(start, layers=settings_["layers_1based"], learned=settings_["learnable"], classes=4)
    model.head.load_state_dict({"weight": tensors[f"{run}.head_weight"], "bias": tensors[f"{run}.head_bias"]})
    return model.train()


@pytest.mark.parametrize("run", RUNS)
def test_trajectory_of_the_reference(golden: Path, run: str) -> None:
    facts, tensors = trajectory(golden)
    model = model_of(golden, run)
    logmel, label, weight = tensors["input"], tensors["label"], tensors["class_weight"]
    optimiser = make_adam(model.parameters(), lr=facts["lr"], weight_decay=facts["weight_decay"])

    assert torch.allclose(model.embed(logmel), tensors[f"{run}.pooled"], rtol=0, atol=5e-5)
    losses = []
    for step in range(STEPS):
        logits = model(logmel)
        loss = weighted_cross_entropy(logits, label, label, weight)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            assert torch.allclose(logits, tensors[f"{run}.logits"], rtol=0, atol=1e-4)
            check_gradients(model, facts["runs"][run]["grad_norm_step0"])
            if model.fusion.learned:
                gradient = model.fusion.weight.grad
                assert gradient is not None
                assert torch.allclose(gradient, tensors[f"{run}.grad_layer_weight"], rtol=1e-4, atol=1e-5)
        optimiser.step()
    with torch.no_grad():
        after = model(logmel)
        losses.append(weighted_cross_entropy(after, label, label, weight).item())
    wanted = tensors[f"{run}.losses"].numpy()
    assert losses[0] == pytest.approx(wanted[0], abs=1e-5)
    assert np.abs(np.array(losses) - wanted).max() < 5e-3
    assert torch.allclose(model.fusion.weight.detach(), tensors[f"{run}.layer_weight_after"], rtol=0, atol=5e-4)
    assert torch.allclose(after, tensors[f"{run}.logits_after"], rtol=0, atol=1e-2)


def test_the_numbers_would_show_a_typical_mistake(golden: Path) -> None:
    _, tensors = trajectory(golden)
    raw_last = load_m2d(golden / "checkpoints" / "enconly.safetensors", raw_last=True)
    with torch.no_grad():
        right = mean_plus_max(model_of(golden, "vanilla").encoder(tensors["input"])[-1])
        before_norm = mean_plus_max(raw_last(tensors["input"])[-1])
        mean_alone = model_of(golden, "vanilla").encoder(tensors["input"])[-1].mean(dim=1)
    distances = [float((z - tensors["vanilla.pooled"]).abs().max()) for z in (right, before_norm, mean_alone)]
    assert distances[0] < 5e-5 < 1e-1 < min(distances[1:])


def check_gradients(model: FusionClassifier, wanted: dict[str, float]) -> None:
    """Gradient norms of the first step, tensor by tensor (the reference calls the encoder `e`)."""
    for theirs, norm in wanted.items():
        name = "fusion.weight" if theirs == "w" else re.sub(r"^e\.", "encoder.", theirs)
        gradient = model.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-5), name
