"""The packed copy computes what the model does; the choice of precision keeps its rules."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rales.models import FusionClassifier, ViT, cpu_inference
from rales.models.vit import Layout


def classifier(layout: Layout = "flat", learned: bool = True) -> FusionClassifier:
    torch.manual_seed(0)
    model = FusionClassifier(ViT(dim=96, depth=2, heads=3), layers=[1, 2], learned=learned, layout=layout)
    nn.init.normal_(model.head.weight, std=0.05)  # its start is nearly zero, which would hide every difference
    if learned:
        model.fusion.weight.data = torch.tensor([0.7, -1.3])
    return model


def logmel(frames: int, clips: int = 3) -> Tensor:
    return torch.randn(clips, 1, 80, frames, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [208, 608, 801])
@pytest.mark.parametrize(("layout", "learned"), [("flat", True), ("stacked", True), ("flat", False)])
def test_packed_equals_plain(layout: Layout, learned: bool, frames: int) -> None:
    model, x = classifier(layout, learned), logmel(frames)
    with torch.no_grad():
        plain = model(x)
        exact, drifted = (
            cpu_inference.prepack_for_cpu(model, "float32")(x),
            cpu_inference.prepack_for_cpu(model, "bf16")(x),
        )
    torch.testing.assert_close(exact, plain, atol=1e-5, rtol=1e-5)
    assert drifted.dtype == torch.float32
    assert 0 < (drifted - plain).norm() / plain.norm() < 0.02


def test_packed_encoder_gives_every_layer() -> None:
    encoder, x = classifier().encoder, logmel(801)
    with torch.no_grad():
        for packed, plain in zip(
            cpu_inference.prepack_for_cpu(encoder, "float32")(x, "stacked"), encoder(x, "stacked"), strict=True
        ):
            torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_packed_answer_does_not_depend_on_batch_neighbours(precision: str) -> None:
    packed, x = (
        cpu_inference.prepack_for_cpu(classifier(), precision),
        logmel(801, clips=9),
    )  # more than are attended to at a time
    with torch.no_grad():
        alone = torch.cat([packed(clip) for clip in x.split(1)])
        torch.testing.assert_close(packed(x), alone, atol=1e-5 if precision == "float32" else 5e-3, rtol=0)


def test_embedding_of_the_packed_copy() -> None:
    model, x = classifier(), logmel(208)
    with torch.no_grad():
        torch.testing.assert_close(
            cpu_inference.prepack_for_cpu(model, "float32").embed(x), model.embed(x), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_pack_leaves_the_model_alone(precision: str) -> None:
    model, x = classifier().train(), logmel(208)
    model(x).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    packed = cpu_inference.prepack_for_cpu(model, precision)
    packed(x)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in packed.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name])
    with torch.no_grad():
        model.head.bias.add_(1)
        assert (model(x) - packed(x)).min() > 0.5


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_without_the_private_operators(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    model, x = classifier(), logmel(801)
    monkeypatch.setattr(cpu_inference, "packed_linear", gone)
    cpu_inference.packing_works.cache_clear()
    try:
        with torch.no_grad():
            plain, fallen_back = model(x), cpu_inference.prepack_for_cpu(model, precision)(x)
    finally:
        cpu_inference.packing_works.cache_clear()
    if precision == "float32":
        assert torch.equal(fallen_back, plain)
    assert fallen_back.dtype == torch.float32
    assert (fallen_back - plain).norm() / plain.norm() < 0.02


def test_operators_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cpu_inference, "packed_linear", lambda layer, dtype, gelu: lambda x: layer(x.float())
    )  # no gelu
    cpu_inference.packing_works.cache_clear()
    try:
        assert not cpu_inference.packing_works(torch.float32)
        assert not cpu_inference.packing_works(torch.bfloat16)
    finally:
        cpu_inference.packing_works.cache_clear()


def test_autocast_dtype_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_inference, "bf16_is_faster", lambda device: device == "cuda")
    assert cpu_inference.autocast_dtype("auto", "cpu") is None
    assert cpu_inference.autocast_dtype("auto", torch.device("cuda", 1)) == torch.bfloat16
    assert cpu_inference.autocast_dtype("bf16", "cpu") == torch.bfloat16
    assert cpu_inference.autocast_dtype("float32", torch.device("cuda")) is None
    with pytest.raises(ValueError, match="precision 'half' is not known; expected auto, bf16 or float32"):
        cpu_inference.autocast_dtype("half", "cpu")


@pytest.mark.parametrize(
    ("unit", "told", "faster"),
    [
        ("_is_avx512_bf16_supported", "vendor_id\t: AuthenticAMD\n", True),
        ("_is_avx512_bf16_supported", "vendor_id\t: GenuineIntel\n", False),
        ("_is_avx512_bf16_supported", None, False),
        ("_is_amx_tile_supported", "vendor_id\t: GenuineIntel\n", True),
        ("_is_avx2_supported", "vendor_id\t: AuthenticAMD\n", False),
    ],
)
def test_the_units_of_the_processor_decide_and_no_clock(
    monkeypatch: pytest.MonkeyPatch, unit: str, told: str | None, faster: bool
) -> None:
    def read(path: Path) -> str:
        assert path == Path("/proc/cpuinfo")
        if told is None:
            raise FileNotFoundError
        return told

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr("platform.processor", lambda: "")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr(torch.cpu, unit, lambda: True)
    assert cpu_inference.bf16_is_faster.__wrapped__("cpu") is faster
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert cpu_inference.bf16_is_faster.__wrapped__("cpu") is False


def test_asking_moves_no_random_number_and_answers_the_same() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    cpu_inference.bf16_is_faster.cache_clear()
    cpu_inference.packing_works.cache_clear()
    first = cpu_inference.bf16_is_faster(), cpu_inference.packing_works(torch.float32)
    assert first == (cpu_inference.bf16_is_faster(), cpu_inference.packing_works(torch.float32))
    assert torch.equal(torch.get_rng_state(), state)
    assert not cpu_inference.bf16_is_faster("mps")
