"""Terms beside the cross-entropy: equal to the authors' code, by hand, and on every backbone that has the choice."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from rales.data.dataset import make_preparation, number_groups, select_extras
from rales.errors import UsageError
from rales.models.ast import mix_patches, mix_picture_patches
from rales.models.vit import ViT
from rales.recipes.registry import find_settings, make_recipe
from rales.settings import list_fields
from rales.training.distributed import init_distributed
from rales.training.finetune import check_batches
from rales.training.loss_terms import TermSettings, adversarial_loss
from rales.training.losses import (
    augment_representation,
    pafa,
    published_progress,
    reversal_strength,
    reverse_gradient,
    sup_con,
    weighted_cross_entropy,
)
from rales.training.recipe import LossContext, Recipe
from tests.tiny import SYSTEMS

CHOOSING = [name for name in SYSTEMS if issubclass(find_settings(name), TermSettings)]
TERMS = ("patch_mix", "supcon", "device_supcon", "device_adversarial", "pafa")


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "losses" / "published.safetensors")


@pytest.mark.parametrize(("name", "cohesion", "alignment"), [("beats", 50.0, 0.001), ("ast", 10.0, 0.01)])
def test_pafa_is_the_authors(published: dict[str, Tensor], name: str, cohesion: float, alignment: float) -> None:
    features = published["features"].clone().requires_grad_()
    loss = pafa(features, published["patient"], cohesion=cohesion, alignment=alignment)
    assert loss.item() == pytest.approx(published[f"pafa.{name}.loss"].item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, features)
    expected = published[f"pafa.{name}.gradient"]
    assert (gradient - expected).abs().max() < 1e-6 * expected.abs().max()


def test_pafa_by_hand() -> None:
    """Two patients at (±2, 0) on average, each spread by 1 to both sides; an unknown one far away."""
    features = torch.tensor([[1.0, 0], [3.0, 0], [-2.0, 1], [-2.0, -1], [99.0, 99]])
    patient = torch.tensor([4, 4, 7, 7, -1])
    within, between, alignment = 4, 16, (4 + 4) / 2
    assert pafa(features, patient, cohesion=3, alignment=0).item() == pytest.approx(3 * within / between)
    assert pafa(features, patient, cohesion=0, alignment=5).item() == pytest.approx(5 * alignment)
    alone = features[:2].requires_grad_()
    loss = pafa(alone, patient[:2])
    assert loss.item() == 0
    assert torch.autograd.grad(loss, alone)[0].abs().max() == 0


def test_the_device_loss_is_the_authors(published: dict[str, Tensor]) -> None:
    features = published["features"].clone().requires_grad_()
    loss = sup_con(torch.cat([features, published["second_view"]]), published["device"].repeat(2))
    assert loss.item() == pytest.approx(published["sg_scl.loss"].item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, features)
    expected = published["sg_scl.gradient"]
    assert (gradient - expected).abs().max() < 1e-6 * expected.abs().max()


def test_the_schedule_of_the_reversed_gradient() -> None:
    assert reversal_strength(0) == 0
    assert reversal_strength(0.1) == pytest.approx(2 / (1 + math.exp(-1)) - 1)  # 0.4621
    assert reversal_strength(0.5) == pytest.approx(0.98661, abs=1e-5)
    # ICBHI, 517 steps of 8 cycles an epoch, 50 epochs: (0 + 517) / 50 + 1 / 517 at the first step
    assert published_progress(0, 517, 50) == pytest.approx(10.34 + 0.001934, abs=1e-6)
    assert reversal_strength(published_progress(0, 517, 50)) == 1.0
    assert published_progress(7, 5, 50) == pytest.approx(12 / 50 + 1 / 5)


def test_the_gradient_comes_back_reversed() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    (3 * reverse_gradient(x, 0.25)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-0.75, -0.75]
    assert torch.equal(reverse_gradient(x, 0.25), x)


class Plain(nn.Module):
    """Features (B, 2) as they are, a head and a device head of fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.projector = nn.Linear(2, 4, bias=False), nn.Linear(2, 4, bias=False)

    def embed(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.parametrize(("done", "reversal"), [(0, "ramp"), (10, "ramp"), (0, "published")])
def test_the_adversary_learns_and_the_encoder_unlearns_the_devices(done: int, reversal: str) -> None:
    settings = make_recipe(
        "ast_sg_scl",
        {"loss": "device_adversarial", "term.weight": 2, "term.reversal": reversal, "train.epochs": 4},
        size="tiny",
    ).settings
    model, features = Plain(), torch.tensor([[1.0, 2.0], [-1.0, 0.5], [2.0, 2.0]], requires_grad=True)
    label, device = torch.tensor([0, 1, 3]), torch.tensor([0, 3, 4])  # the last one is of a device without a place
    step = LossContext(settings, label, label, torch.ones(4), {"device": device}, torch.Generator(), None, done, 5)
    loss, logits = adversarial_loss(model, features, step)

    of_classes = weighted_cross_entropy(model.head(features), label, label, torch.ones(4))
    of_devices = F.cross_entropy(model.projector(features)[:2], device[:2])
    assert torch.equal(logits, model.head(features))
    assert loss.item() == pytest.approx((of_classes + 2 * of_devices).item())

    progress = {"ramp": done / 20, "published": 5 / 4 + 1 / 5}[reversal]
    strength = 2 / (1 + math.exp(-10 * progress)) - 1
    gradients = [torch.autograd.grad(each, features, retain_graph=True)[0] for each in (of_classes, 2 * of_devices)]
    (found,) = torch.autograd.grad(loss, features, retain_graph=True)
    assert torch.allclose(found, gradients[0] - strength * gradients[1], atol=1e-6)
    (of_adversary,) = torch.autograd.grad(loss, model.projector.weight, retain_graph=True)
    assert torch.allclose(of_adversary, torch.autograd.grad(2 * of_devices, model.projector.weight)[0])


def test_patches_of_the_picture_are_the_tokens_of_a_vit() -> None:
    encoder = ViT(16, 1, 2, patch=(16, 16), unit_frames=64)
    pictures = torch.randn(3, 1, 80, 60)  # the last column is not whole
    mixed, mix = mix_picture_patches(pictures, (16, 16), torch.Generator().manual_seed(3))
    assert 0 < len(mix.positions) < 20
    assert mix.kept == 1 - len(mix.positions) / 20

    def tokens(picture: Tensor) -> Tensor:
        found: Tensor = encoder.patch_embed(F.pad(picture, (0, 4))).flatten(2).transpose(1, 2)
        return found

    assert torch.allclose(tokens(mixed), mix_patches(tokens(pictures), mix), atol=1e-6)


def test_groups_are_numbered_by_the_alphabet() -> None:
    devices = pd.Series(["Meditron", "", "AKGC417L", None, "Meditron", "Litt3200"])
    assert number_groups(devices).tolist() == [2, -1, 0, -1, 2, 1]


def step_once(recipe: Recipe) -> tuple[nn.Module, Tensor]:
    """-> the network with gradients and its loss on eight made-up cycles."""
    torch.manual_seed(0)
    inputs, label = 0.1 * torch.randn(8, *make_preparation(recipe).shape), torch.arange(8) % 4
    extras = dict.fromkeys(recipe.extras, label // 2)
    if recipe.wave_augment:
        extras["warp"] = torch.tensor([1.0, 3500.0]).repeat(8, 1)
    frontend, model = recipe.build_frontend(recipe.settings), recipe.build_model(recipe.settings)
    features = frontend(inputs, **select_extras(frontend, extras))
    step = LossContext(
        recipe.settings, label, label, torch.ones(4), extras, torch.Generator().manual_seed(0), None, 1, 4
    )
    loss, logits = recipe.loss(model.train(), features, step)
    assert logits.shape == (8, 4)
    loss.backward()
    return model, loss


@pytest.mark.parametrize("name", CHOOSING)
def test_every_backbone_takes_every_term(name: str) -> None:
    words: dict[str, Any] = {"size": "tiny", "term.width": 8}
    words |= {"audio.duration_s": 0.5} if "audio.duration_s" in list_fields(find_settings(name)) else {}
    losses = {}
    for term in TERMS:
        if name.startswith("ast") and term == "patch_mix":
            with pytest.raises(UsageError, match="ast_patchmix_cl mixes its tokens"):
                make_recipe(name, {**words, "loss": term})
            continue
        recipe = make_recipe(name, {**words, "loss": term})
        check_batches(recipe, init_distributed("cpu", "float32"))
        model, loss = step_once(recipe)
        losses[term] = loss.item()
        gradients = [p.grad for p in model.get_submodule("projector").parameters() if p.grad is not None]
        assert gradients
        assert max(gradient.abs().max() for gradient in gradients) > 0
        assert all(gradient.isfinite().all() for gradient in gradients)
    assert len(set(losses.values())) == len(losses)


def test_representations_are_masked_and_abnormal_ones_get_noise() -> None:
    """RepAugment: a masked feature is the mean of its clip's, cycles called normal get no noise."""
    features, label = torch.arange(20000.0).reshape(2, -1) / 1e4, torch.tensor([0, 2])
    generator = torch.Generator().manual_seed(0)
    noisy = augment_representation(features, label, mask_share=0, noise=0.2, generator=generator)
    assert torch.equal(noisy[0], features[0])
    assert (noisy[1] - features[1]).std().item() == pytest.approx(0.2, rel=0.05)
    masked = augment_representation(features, label, mask_share=0.3, noise=0, generator=generator)
    changed = masked != features
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.02)
    means = features.mean(dim=1, keepdim=True).expand_as(features)
    assert torch.equal(masked[changed], means[changed])
    yes_or_no = augment_representation(features, torch.eye(2) * 0, mask_share=0, noise=1, generator=generator)
    assert torch.equal(yes_or_no, features)

    words = {"loss": "rep_augment", "audio.duration_s": 0.5, "term.mask_share": 0.5, "train.micro_batch": 4}
    recipe = make_recipe("ast_ft", {**words, "freeze": "encoder"}, size="tiny")
    check_batches(recipe, init_distributed("cpu", "float32"))  # no clip looks at another
    first = step_once(recipe)[1].item()
    assert step_once(make_recipe("ast_ft", {**words, "term.mask_share": 0.1}, size="tiny"))[1].item() != first


def test_what_a_term_cannot_go_with() -> None:
    sounds = {"classes": "crackle,wheeze", "independent": True}
    for words, sentence in (
        ({"freeze": "encoder", "loss": "pafa"}, "loss=pafa: is about the encoder, which freeze=encoder keeps"),
        ({**sounds, "loss": "supcon"}, "--independent: loss=supcon compares cycles of one class"),
    ):
        with pytest.raises(UsageError, match=sentence):
            make_recipe("m2d_fusion", words, size="tiny")
    assert make_recipe("m2d_fusion", {**sounds, "loss": "pafa"}, size="tiny").settings.loss == "pafa"
    cut = make_recipe("m2d_fusion", {"loss": "pafa", "train.micro_batch": 4}, size="tiny")
    with pytest.raises(ValueError, match=r"compares the cycles of a whole batch, which train\.micro_batch=4 would cut"):
        check_batches(cut, init_distributed("cpu", "float32"))
    assert make_recipe("m2d_fusion", {"loss": "pafa"}).settings.train.micro_batch == 0
