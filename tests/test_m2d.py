"""The pre-training network against the reference's step, and the properties of its masking."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rales.models import M2D, ViT, load_m2d
from rales.models.m2d import masked_prediction_loss, visible_patches
from rales.models.m2d_checkpoints import read_tensors
from rales.training.optim import ema_decay, make_adamw, warmup_cosine_lr

NAMED = {  # of the reference -> attribute of what a step gives
    "prediction_masked": "prediction",
    "target_raw": "target",
}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "golden/pretrain_step/step.json").read_text())
    return found


@pytest.fixture(scope="module")
def forward() -> dict[str, Tensor]:
    return load_file(Path(__file__).parent / "golden/pretrain_step/forward.safetensors")


def network(golden: Path, **options: Any) -> M2D:
    return M2D.from_checkpoint(golden / "checkpoints" / "full.safetensors", mask_ratio=0.7, **options)


def tiny(mask_ratio: float = 0.7, **options: Any) -> M2D:
    torch.manual_seed(0)
    encoder = ViT(24, 2, 2, unit_frames=96)
    return M2D(encoder, mask_ratio=mask_ratio, decoder_dim=16, decoder_depth=1, decoder_heads=2, **options)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= tolerance


# The reference's step


def test_forward_of_the_reference(golden: Path, forward: dict[str, Tensor]) -> None:
    step = network(golden)(forward["input"], noise=forward["noise"])
    for name, attribute in NAMED.items():
        close(getattr(step, attribute), forward[name], 2e-5)
    close(step.loss[None], forward["loss"], 2e-6)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("kind", ["norm_mse", "mse"])
def test_losses_of_the_reference(
    golden: Path, facts: dict[str, Any], forward: dict[str, Tensor], kind: str, standardise: bool
) -> None:
    step = network(golden, loss=kind, standardise=standardise)(forward["input"], noise=forward["noise"])
    assert step.loss.item() == pytest.approx(facts["losses"][f"{kind}.norm_pix_loss={standardise}"], abs=2e-6)


def test_gradients_of_the_reference(golden: Path, facts: dict[str, Any], forward: dict[str, Tensor]) -> None:
    model = network(golden)
    model(forward["input"], noise=forward["noise"]).loss.backward()
    expected = {name.removeprefix("grad."): value for name, value in forward.items() if name.startswith("grad.")}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == facts["grad_l2_norms"].keys() >= expected.keys()
    for name, value in expected.items():
        close(found[name], value, 1e-6)
    for name, norm in facts["grad_l2_norms"].items():
        assert float(found[name].norm()) == pytest.approx(norm, abs=1e-5), name
    everything = model.state_dict().keys()
    assert everything - found.keys() == set(facts["parameters_without_gradient"])


def test_optimiser_step_of_the_reference(golden: Path, facts: dict[str, Any], forward: dict[str, Tensor]) -> None:
    model, about = network(golden), facts["optimizer"]
    optimiser = make_adamw(model.named_parameters(), lr=about["lr"], weight_decay=0.05, betas=tuple(about["betas"]))
    name_of = {id(p): name for name, p in model.named_parameters()}
    groups = {g["weight_decay"]: sorted(name_of[id(p)] for p in g["params"]) for g in optimiser.param_groups}
    assert groups == {group["weight_decay"]: sorted(group["names"]) for group in about["param_groups"]}

    model(forward["input"], noise=forward["noise"]).loss.backward()
    gradients = {name: p.grad.abs().clone() for name, p in model.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), facts["clip_grad"])
    assert norm == pytest.approx(facts["total_grad_norm_before_clip"], abs=1e-5)
    optimiser.step()
    after = load_file(golden / "pretrain_step" / "online_after_adamw.safetensors")
    for name, value in model.state_dict().items():
        if name not in after:
            continue
        difference = (value - after[name]).abs()
        if name in gradients:
            difference[gradients[name] < 1e-7] = 0
        if name.endswith("attn.qkv.bias"):
            difference[len(value) // 3 : 2 * len(value) // 3] = 0  # its true gradient is 0, Adam's step rounding noise
        assert float(difference.max()) <= 2e-5, name


@pytest.mark.parametrize("decay", ["0.99995", "0.9"])
def test_target_update_of_the_reference(golden: Path, decay: str) -> None:
    model = network(golden)
    model.load_state_dict(load_file(golden / "pretrain_step" / "online_after_adamw.safetensors"), strict=False)
    model.update_target(float(decay))
    expected = load_file(golden / "pretrain_step" / f"target_after_ema_{decay}.safetensors")
    found = {name: value for name, value in model.state_dict().items() if name.startswith("target_")}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value, 1e-7)


def test_schedules_of_the_reference(facts: dict[str, Any]) -> None:
    lr, ema = facts["lr_schedule"], facts["ema_schedule"]
    for epoch, expected in lr["lr_at_epoch"].items():
        found = warmup_cosine_lr(float(epoch), lr=lr["lr"], warmup_epochs=lr["warmup_epochs"], epochs=lr["epochs"])
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-18)
    for step, expected in ema["tau_at_step"].items():
        found = ema_decay(int(step), ema["total_steps"], start=ema["init"], end=ema["final"])
        assert found == pytest.approx(expected, abs=1e-15)


def test_state_dict_is_that_of_the_reference(golden: Path) -> None:
    tensors, _ = read_tensors(golden / "checkpoints" / "full.safetensors")
    found = network(golden).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in tensors.items()}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    with torch.device("meta"):
        base = M2D(ViT())
    assert len(base.state_dict()) == 401
    assert sum(value.numel() for value in base.state_dict().values()) == pytest.approx(196.56e6, abs=1e4)
    assert sum(p.numel() for p in base.parameters() if p.requires_grad) == pytest.approx(111.26e6, abs=1e4)
    assert base.decoder_heads == 16


# Checkpoints


@pytest.mark.parametrize(
    "file",
    [
        "m2d_vit_tiny48-80x608p16x16-250101-mr7/checkpoint-1.pth",
        "m2d_vit_tiny48-80x608p16x16-221006-mr7_legacy/checkpoint-1.pth",
        "full.safetensors",
    ],
)
def test_full_checkpoints_of_every_form(golden: Path, forward: dict[str, Tensor], file: str) -> None:
    model = M2D.from_checkpoint(golden / "checkpoints" / file)
    step = model(forward["input"], noise=forward["noise"])
    close(step.loss[None], forward["loss"], 2e-6)
    stats = [-7.1, 4.2] if "legacy" in file else [-6.8, 4.1]
    assert model.norm_stats.tolist() == pytest.approx(stats)


def test_an_encoder_alone_gets_a_new_predictor_and_target(golden: Path) -> None:
    sizes = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4}
    path = golden / "checkpoints" / "enconly.safetensors"
    online = M2D.from_checkpoint(path, target_init="online", **sizes)
    full = network(golden).state_dict()
    # blocks.* come from the file after the target was copied, so the copy must be made of what the file holds
    for name, value in online.state_dict().items():
        if name.startswith(("blocks", "norm", "patch_embed", "cls")):
            assert torch.equal(value, full[name]), name
        if name.startswith("target_"):
            assert torch.equal(value, full[name.removeprefix("target_")]), name
    random = M2D.from_checkpoint(path, **sizes).state_dict()
    assert not torch.equal(random["target_blocks.0.attn.qkv.weight"], full["blocks.0.attn.qkv.weight"])


def test_the_encoder_shares_weights_and_is_the_one_that_load_m2d_reads(
    golden: Path, forward: dict[str, Tensor]
) -> None:
    model = network(golden)
    encoder, other = model.encoder(), load_m2d(golden / "checkpoints" / "full.safetensors")
    assert encoder.get_parameter("blocks.0.attn.qkv.weight") is model.get_parameter("blocks.0.attn.qkv.weight")
    for one, two in zip(encoder(forward["input"]), other(forward["input"]), strict=True):
        assert torch.equal(one, two)


def test_a_damaged_file_is_a_sentence(golden: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(golden / "checkpoints" / "full.safetensors")
    tensors["decoder_pred.weight"] = torch.zeros(47, 32)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=r"decoder_pred.weight is \(47, 32\), expected \(48, 32\)"):
        M2D.from_checkpoint(tmp_path / "wrong.safetensors")


# Masking


@pytest.mark.parametrize(("ratio", "visible"), [(0.7, 57), (0.6, 76)])
def test_numbers_of_visible_patches(ratio: float, visible: int) -> None:
    assert visible_patches(190, ratio) == visible


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.999, -0.5, 1.5])
def test_a_ratio_that_leaves_nothing_is_a_sentence(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"masking ratio {ratio} of 30 patches"):
        tiny(ratio)


def test_masked_patches_reach_the_target_only_and_visible_ones_the_online_side_only() -> None:
    model = tiny()
    noise = torch.rand(1, 30, generator=torch.Generator().manual_seed(1))
    logmel = torch.randn(1, 1, 80, 96)
    before = model(logmel, noise=noise)
    order = noise.argsort(dim=1)[0]
    for patch, is_visible in ((order[0], True), (order[-1], False)):
        changed = logmel.clone()
        row, column = divmod(int(patch), 6)
        changed[:, :, 16 * row : 16 * (row + 1), 16 * column : 16 * (column + 1)] += 1
        after = model(changed, noise=noise)
        assert torch.equal(after.prediction, before.prediction) == (not is_visible)
        assert torch.equal(after.target, before.target) == is_visible


def test_a_clip_does_not_depend_on_its_neighbours_and_each_has_its_own_mask() -> None:
    model = tiny()
    logmel, noise = torch.randn(3, 1, 80, 96), torch.rand(3, 30)
    together = model(logmel, noise=noise)
    for i in range(3):
        alone = model(logmel[i : i + 1], noise=noise[i : i + 1])
        close(alone.prediction, together.prediction[i : i + 1], 1e-6)
        close(alone.target, together.target[i : i + 1], 1e-6)
    assert together.prediction.shape == together.target.shape == (3, 21, 24)


def test_drawn_masks_are_uniform_over_patches() -> None:
    model = tiny(0.5)
    seen: list[Tensor] = []
    model.predict = lambda latent, order: seen.append(order) or torch.zeros(len(order), 15, 24)  # type: ignore[method-assign, func-returns-value]
    torch.manual_seed(3)
    model(torch.zeros(2000, 1, 80, 96))
    share = (seen[0][:, :15, None] == torch.arange(30)).any(dim=1).double().mean(dim=0)
    assert float((share - 0.5).abs().max()) < 5 * math.sqrt(0.25 / 2000)


def test_only_the_online_side_gets_gradients() -> None:
    model = tiny()
    model(torch.randn(2, 1, 80, 96)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("target_"), name
        assert parameter.requires_grad != name.startswith("target_")


def test_starts_of_the_target() -> None:
    random, copied = tiny().state_dict(), tiny(target_init="online").state_dict()
    assert not torch.equal(random["target_blocks.1.mlp.fc1.weight"], random["blocks.1.mlp.fc1.weight"])
    assert torch.equal(copied["target_blocks.1.mlp.fc1.weight"], copied["blocks.1.mlp.fc1.weight"])


@pytest.mark.parametrize(("frames", "patch"), [(208, (16, 8)), (80, (16, 4)), (208, (80, 4))])
def test_other_units_and_patches(frames: int, patch: tuple[int, int]) -> None:
    model = M2D(ViT(24, 1, 2, unit_frames=frames, patch=patch), decoder_dim=16, decoder_depth=1, decoder_heads=2)
    patches = (80 // patch[0]) * (frames // patch[1])
    step = model(torch.randn(2, 1, 80, frames))
    assert step.prediction.shape == (2, patches - visible_patches(patches, 0.7), 24)
    assert math.isfinite(step.loss.item())


def test_a_wrong_length_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"gives 25 patches, expected \(B, 1, 80, 96\) with 30"):
        tiny()(torch.zeros(1, 1, 80, 80))


# Losses


def test_norm_mse_by_hand() -> None:
    prediction, target = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [-5.0, 0.0]]])
    # cosines 4/5 and -1: (2 - 1.6 + 2 + 2) / 2
    found = masked_prediction_loss(prediction, target, kind="norm_mse", standardise=False)
    assert found.item() == pytest.approx(2.2)


def test_standardised_target_by_hand() -> None:
    target = torch.tensor([[[1.0, 2.0, 3.0]]])  # mean 2, unbiased variance 1
    found = masked_prediction_loss(torch.zeros(1, 1, 3), target, kind="mse", standardise=True)
    assert found.item() == pytest.approx((1 / (1 + 1e-6) * 2) / 3)


# M2D-X


def test_teacher_loss_by_hand() -> None:
    model = tiny(teacher_dim=7, m2d_weight=0.5, teacher_weight=2.0)
    assert model.offline_predictor is not None
    logmel, noise = torch.randn(2, 1, 80, 96), torch.rand(2, 30)
    teacher = torch.randn(2, 6, 7)
    step = model(logmel, noise, teacher)
    plain = tiny()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert step.m2d_loss.item() == pytest.approx(plain(logmel, noise).loss.item())

    # the grid put together patch by patch
    order = noise.argsort(dim=1)
    patches = model.patch_embed(logmel).flatten(2).transpose(1, 2) + model.pos_embed[:, 1:]
    visible = patches.take_along_dim(order[:, :9, None], dim=1)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), visible], dim=1)
    for block in model.blocks:
        tokens = block(tokens, [10])
    latent = model.norm(tokens)[:, 1:]
    grid = torch.zeros(2, 6, 5, 24)
    for clip in range(2):
        for place, patch in enumerate(order[clip].tolist()):
            row, column = divmod(patch, 6)
            grid[clip, column, row] = latent[clip, place] if place < 9 else step.prediction[clip, place - 9]
    features = model.offline_predictor(grid.flatten(2))
    expected = masked_prediction_loss(features, teacher, kind="norm_mse", standardise=True)
    assert step.teacher_loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert step.loss.item() == pytest.approx(0.5 * step.m2d_loss.item() + 2 * expected.item(), abs=1e-5)
    of_clips = model(logmel, noise, teacher[:, :1])  # one vector a clip, from the mean over columns
    expected = masked_prediction_loss(
        features.mean(dim=1, keepdim=True), teacher[:, :1], kind="norm_mse", standardise=True
    )
    assert of_clips.teacher_loss.item() == pytest.approx(expected.item(), abs=1e-6)
