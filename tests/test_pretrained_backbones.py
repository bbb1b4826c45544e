"""Public weight files: each layout, written out with its keys and shapes, loads completely; a wrong one is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rales.models.ast import AST
from rales.models.cnn import CHANNELS, Cnn
from rales.models.pretrained_backbones import ast_tensors, cnn_tensors, resnest_tensors, resnet_tensors
from rales.models.resnest import ResNeSt
from rales.models.resnet import ResNet
from rales.models.stochnorm import StochNorm2d

Tensors = dict[str, Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(shape)


def norm(name: str, channels: int, tracked: bool = True) -> Tensors:
    made = {f"{name}.{part}": random(channels) for part in ("weight", "bias", "running_mean", "running_var")}
    return made | ({f"{name}.num_batches_tracked": torch.tensor(7)} if tracked else {})


def torchvision_resnet(depth: int, tracked: bool = True) -> Tensors:
    """Key list of torchvision and timm, written out."""
    wide = 4 if depth == 50 else 1
    made = {"conv1.weight": random(64, 3, 7, 7), **norm("bn1", 64, tracked)}
    before = 64
    for stage, count in enumerate({18: (2, 2, 2, 2)}.get(depth, (3, 4, 6, 3)), start=1):
        width = 32 * 2**stage
        for block in range(count):
            name = f"layer{stage}.{block}"
            kernels = ((width, before, 1), (width, width, 3), (4 * width, width, 1))
            if wide == 1:
                kernels = ((width, before, 3), (width, width, 3))  # type: ignore[assignment]
            for number, (out, into, kernel) in enumerate(kernels, start=1):
                made[f"{name}.conv{number}.weight"] = random(out, into, kernel, kernel)
                made |= norm(f"{name}.bn{number}", out, tracked)
            if block == 0 and (stage > 1 or wide == 4):
                made[f"{name}.downsample.0.weight"] = random(wide * width, before, 1, 1)
                made |= norm(f"{name}.downsample.1", wide * width, tracked)
            before = wide * width
    return made | {"fc.weight": random(1000, before), "fc.bias": random(1000)}


def resnest(counts: tuple[int, ...]) -> Tensors:
    """Key list of timm's resnest50d and of zhanghang1989/ResNeSt."""
    made = {"conv1.0.weight": random(32, 3, 3, 3), **norm("conv1.1", 32), "conv1.3.weight": random(32, 32, 3, 3)}
    made |= {**norm("conv1.4", 32), "conv1.6.weight": random(64, 32, 3, 3), **norm("bn1", 64)}
    before = 64
    for stage, count in enumerate(counts, start=1):
        width = 32 * 2**stage
        inner = max(width // 2, 32)
        for block in range(count):
            name = f"layer{stage}.{block}"
            made |= {f"{name}.conv1.weight": random(width, before, 1, 1), **norm(f"{name}.bn1", width)}
            made |= {f"{name}.conv2.conv.weight": random(2 * width, width // 2, 3, 3)}
            made |= norm(f"{name}.conv2.bn0", 2 * width) | norm(f"{name}.conv2.bn1", inner)
            made |= {f"{name}.conv2.fc1.weight": random(inner, width, 1, 1), f"{name}.conv2.fc1.bias": random(inner)}
            made |= {f"{name}.conv2.fc2.weight": random(2 * width, inner, 1, 1)}
            made |= {f"{name}.conv2.fc2.bias": random(2 * width)}
            made |= {f"{name}.conv3.weight": random(4 * width, width, 1, 1), **norm(f"{name}.bn3", 4 * width)}
            if block == 0:
                made |= {f"{name}.downsample.1.weight": random(4 * width, before, 1, 1)}
                made |= norm(f"{name}.downsample.2", 4 * width)
            before = 4 * width
    return made | {"fc.weight": random(1000, 2048), "fc.bias": random(1000)}


def cnn10_rest() -> Tensors:
    """What a Cnn10 has beside a Cnn6's names."""
    return {f"conv_block{number}.conv2.weight": random(8, 8, 3, 3) for number in range(1, 5)}


def panns() -> Tensors:
    made = {
        "spectrogram_extractor.stft.conv_real.weight": random(513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": random(513, 1, 1024),
        "logmel_extractor.melW": random(513, 64),
        **norm("bn0", 64),
    }
    before = 1
    for number, channels in enumerate(CHANNELS["cnn6"], start=1):
        made[f"conv_block{number}.conv1.weight"] = random(channels, before, 5, 5)
        made |= norm(f"conv_block{number}.bn1", channels)
        before = channels
    made |= {"fc1.weight": random(before, before), "fc1.bias": random(before)}
    return made | {"fc_audioset.weight": random(527, before), "fc_audioset.bias": random(527)}


def ast_original(dim: int, depth: int, prefix: str = "module.v.") -> Tensors:
    made = {"cls_token": random(1, 1, dim), "dist_token": random(1, 1, dim), "pos_embed": random(1, 1214, dim)}
    made |= {"patch_embed.proj.weight": random(dim, 1, 16, 16), "patch_embed.proj.bias": random(dim)}
    for block in range(depth):
        for part, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            made[f"blocks.{block}.{part}.weight"] = random(out * dim, into * dim)
            made[f"blocks.{block}.{part}.bias"] = random(out * dim)
        for part in ("norm1", "norm2"):
            made |= {f"blocks.{block}.{part}.weight": random(dim), f"blocks.{block}.{part}.bias": random(dim)}
    made |= {"norm.weight": random(dim), "norm.bias": random(dim)}
    head = {"module.mlp_head.0.weight": random(dim), "module.mlp_head.0.bias": random(dim)}
    head |= {"module.mlp_head.1.weight": random(527, dim), "module.mlp_head.1.bias": random(527)}
    return {prefix + name: value for name, value in made.items()} | head


def ast_hugging_face(tensors: Tensors, new: bool, prefix: str) -> Tensors:
    """The original's tensors under the published Hugging Face names, or (new) those of transformers 5."""
    names = {
        "attn.proj": "attention.o_proj" if new else "attention.output.dense",
        "mlp.fc1": "mlp.fc1" if new else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if new else "output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    front = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embeddings"}
    made = {}
    for key, value in tensors.items():
        if not key.startswith("module.v."):
            continue
        name = key.removeprefix("module.v.")
        if name in front:
            made[f"embeddings.{front[name]}"] = value
        elif name.startswith("patch_embed."):
            made[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = value
        elif name.startswith("norm."):
            made["layer" + name] = value
        else:
            _, block, part = name.split(".", 2)
            part, _, kind = part.rpartition(".")
            layer = f"layers.{block}" if new else f"encoder.layer.{block}"
            if part == "attn.qkv":
                for piece, letter in zip(value.chunk(3), ("query", "key", "value"), strict=True):
                    place = f"attention.{letter[0]}_proj" if new else f"attention.attention.{letter}"
                    made[f"{layer}.{place}.{kind}"] = piece.clone()
            else:
                made[f"{layer}.{names[part]}.{kind}"] = value
    return {prefix + name: value for name, value in made.items()}


def test_resnet_files(tmp_path: Path) -> None:
    for depth in (18, 34, 50):
        tensors = torchvision_resnet(depth)
        torch.save(tensors, tmp_path / "resnet.pth")
        whole = resnet_tensors(tmp_path / "resnet.pth", depth, classes=1000)
        assert all(torch.equal(whole.pop(name), value) for name, value in tensors.items())
        assert not whole
        body = resnet_tensors(tmp_path / "resnet.pth", depth)
        assert set(body) == {name for name in tensors if not name.startswith("fc.")}
        ResNet(depth).load_state_dict(body)
        ResNet(depth, norm=StochNorm2d).load_state_dict(body)


def test_a_resnet_file_of_2018_and_a_safetensors_file(tmp_path: Path) -> None:
    """Old torchvision files have no num_batches_tracked."""
    save_file(torchvision_resnet(18, tracked=False), tmp_path / "resnet18.safetensors")
    loaded = resnet_tensors(tmp_path / "resnet18.safetensors", 18)
    assert loaded["bn1.num_batches_tracked"] == 0
    ResNet(18).load_state_dict(loaded)


def test_resnest_files(tmp_path: Path) -> None:
    for depth, counts in ((14, (1, 1, 1, 1)), (50, (3, 4, 6, 3))):
        tensors = resnest(counts)
        torch.save(tensors, tmp_path / "resnest.pth")
        ResNeSt(depth, classes=1000).load_state_dict(resnest_tensors(tmp_path / "resnest.pth", depth, classes=1000))
        body = resnest_tensors(tmp_path / "resnest.pth", depth)
        assert set(body) == {name for name in tensors if not name.startswith("fc.")}
        assert torch.equal(body["layer4.0.conv2.fc2.bias"], tensors["layer4.0.conv2.fc2.bias"])


def test_panns_files(tmp_path: Path) -> None:
    tensors = panns()
    torch.save({"iteration": 1, "model": tensors}, tmp_path / "panns.pth")
    loaded = cnn_tensors(tmp_path / "panns.pth")
    assert set(loaded) == {name for name in tensors if name.startswith("conv_block")}
    Cnn().load_state_dict(loaded)


@pytest.mark.parametrize("prefix", ["module.v.", "v."])
def test_the_original_ast_file(tmp_path: Path, prefix: str) -> None:
    tensors = ast_original(64, 2, prefix)
    # what DeiT left in the published file and nobody reads
    tensors |= {f"{prefix}head.weight": random(1000, 64), f"{prefix}head_dist.bias": random(1000)}
    torch.save(tensors, tmp_path / "ast.pth")
    whole = ast_tensors(tmp_path / "ast.pth", frames=1024)
    AST(64, 2, 1, frames=1024).load_state_dict(whole)
    assert all(torch.equal(value, tensors[prefix + name]) for name, value in whole.items())
    short = ast_tensors(tmp_path / "ast.pth")
    AST(64, 2, 1).load_state_dict(short)
    middle = tensors[f"{prefix}pos_embed"][:, 2:].unflatten(1, (12, 101))[:, :, 11:90]
    assert torch.equal(short["pos_embed"][:, 2:], middle.flatten(1, 2))


@pytest.mark.parametrize("prefix", ["", "audio_spectrogram_transformer."])
@pytest.mark.parametrize("new", [False, True])
def test_the_hugging_face_file_is_the_original(tmp_path: Path, new: bool, prefix: str) -> None:
    tensors = ast_original(64, 2)
    torch.save(tensors, tmp_path / "ast.pth")
    renamed = ast_hugging_face(tensors, new, prefix)
    if prefix:
        renamed |= {"classifier.layernorm.weight": random(64), "classifier.dense.weight": random(527, 64)}
    save_file({name: value.contiguous() for name, value in renamed.items()}, tmp_path / "model.safetensors")
    wanted, found = ast_tensors(tmp_path / "ast.pth"), ast_tensors(tmp_path / "model.safetensors")
    assert set(wanted) == set(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


# What is refused


Load = Callable[[Path], dict[str, Tensor]]


@pytest.mark.parametrize(("load", "tensors", "told"), [
    (lambda path: resnet_tensors(path, 50), lambda: torchvision_resnet(34), r"ResNet-50: .*layer1\.0\.conv3\.weight"),
    (lambda path: resnet_tensors(path, 34), lambda: torchvision_resnet(50), r"layer1\.0\.conv3\.weight not expected"),
    (lambda path: resnet_tensors(path, 34), lambda: panns(), r"ResNet-34: conv1\.weight missing; bn1\.weight"),
    (lambda path: resnest_tensors(path, 50), lambda: torchvision_resnet(50), r"ResNeSt-50: conv1\.0\.weight missing"),
    (cnn_tensors, lambda: panns() | cnn10_rest(), r"Cnn6: conv_block1\.conv2\.weight not expected"),
    (cnn_tensors, lambda: torchvision_resnet(34), r"Cnn6: conv_block1\.conv1\.weight missing"),
    (ast_tensors, lambda: torchvision_resnet(18), r"not an AST file: it starts with conv1\.weight; bn1\.weight"),
])  # fmt: skip
def test_another_network_names_the_first_differing_keys(
    tmp_path: Path, load: Load, tensors: Callable[[], Tensors], told: str
) -> None:
    torch.save(tensors(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"weights\.pth: .*{told}.* and \d+ more"):
        load(tmp_path / "weights.pth")


@pytest.mark.parametrize(("change", "told"), [
    ({"layer2.0.conv1.weight": random(128, 64, 5, 5)}, r"layer2\.0\.conv1\.weight \(128, 64, 5, 5\), expected"),
    ({"layer9.extra": random(1)}, r"layer9\.extra not expected$"),
])  # fmt: skip
def test_one_wrong_tensor_is_named(tmp_path: Path, change: Tensors, told: str) -> None:
    torch.save(torchvision_resnet(18) | change, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=told):
        resnet_tensors(tmp_path / "weights.pth", 18)


def test_one_missing_ast_tensor_is_named(tmp_path: Path) -> None:
    tensors = ast_original(64, 2)
    del tensors["module.v.blocks.1.attn.qkv.weight"]
    torch.save(tensors, tmp_path / "ast.pth")
    with pytest.raises(ValueError, match=r"AST of width 64 and depth 2: blocks\.1\.attn\.qkv\.weight missing$"):
        ast_tensors(tmp_path / "ast.pth")
    renamed = ast_hugging_face(ast_original(64, 2), new=False, prefix="")
    del renamed["encoder.layer.0.attention.attention.key.bias"]
    torch.save(renamed, tmp_path / "ast.pth")
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.bias missing; blocks\.0\.attn\.q\.bias not expected"):
        ast_tensors(tmp_path / "ast.pth")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint file"):
        resnet_tensors(tmp_path / "nothing.pth", 18)
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="could run code when opened"):
        cnn_tensors(tmp_path / "module.pth")
