"""Class weights, the weighted cross-entropy whole and in pieces, and the losses of the earlier systems by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.training.losses import (
    INVERSE_REGULARISATION,
    category_relationship,
    class_weights,
    co_tuning,
    hybrid_sup_con,
    multi_sup_con,
    patch_mix_contrastive,
    soft_binary_cross_entropy,
    sup_con,
    weighted_cross_entropy,
)

ICBHI_TRAIN = [2063, 1215, 501, 363]


def test_class_weights_of_the_official_train_cycles() -> None:
    weight = class_weights(ICBHI_TRAIN)
    inverse = [1 / count for count in ICBHI_TRAIN]
    assert weight.tolist() == pytest.approx([w / sum(inverse) for w in inverse])
    assert weight.sum().item() == pytest.approx(1)
    assert weight.dtype == torch.float32


def test_a_class_without_cycles_weighs_nothing() -> None:
    assert class_weights([3, 0, 1, 0]).tolist() == pytest.approx([0.25, 0, 0.75, 0])


batch = st.integers(1, 12).flatmap(
    lambda rows: st.tuples(
        st.lists(st.integers(0, 3), min_size=rows, max_size=rows),
        st.integers(0, 10_000),
        st.lists(st.integers(1, rows), min_size=0, max_size=4),
    )
)


@settings(max_examples=80, deadline=None)
@given(batch)
def test_it_is_the_weighted_mean_of_torch_and_pieces_add_up_to_it(case: tuple[list[int], int, list[int]]) -> None:
    labels, seed, cuts = case
    label, weight = torch.tensor(labels), class_weights(ICBHI_TRAIN)
    logits = 3 * torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))
    logits.requires_grad_()
    whole = weighted_cross_entropy(logits, label, label, weight)
    assert whole.item() == pytest.approx(F.cross_entropy(logits, label, weight).item(), rel=1e-5)

    (gradient,) = torch.autograd.grad(whole, logits)
    edges = sorted({0, *cuts, len(labels)})
    pieces = [
        weighted_cross_entropy(logits[start:end], label[start:end], label, weight)
        for start, end in itertools.pairwise(edges)
    ]
    assert torch.stack(pieces).sum().item() == pytest.approx(whole.item(), rel=1e-5)
    (gradient_of_pieces,) = torch.autograd.grad(torch.stack(pieces).sum(), logits)
    assert torch.allclose(gradient, gradient_of_pieces, atol=1e-7)


def test_an_empty_piece_adds_nothing_and_can_be_differentiated() -> None:
    """A process that a short batch leaves without rows still takes part."""
    logits, label = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    loss = weighted_cross_entropy(logits, label, torch.tensor([0, 1]), class_weights([1, 1, 1, 1]))
    loss.backward()
    assert loss.item() == 0


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = torch.tensor([[10.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    label = torch.tensor([0])
    loss = weighted_cross_entropy(logits, label, label, torch.ones(4))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(logits.float(), label).item(), rel=1e-6)


# Contrastive losses


def features(rows: int, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def sup_con_by_loops(z: torch.Tensor, label: list[int], temperature: float) -> float:
    """The formula as it stands in the specification, anchor by anchor."""
    z = z.double() / z.double().norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if label[p] == label[i]]
        total = sum(math.exp(z[i] @ z[a] / temperature) for a in others)
        if positives:
            losses.append(
                -sum(math.log(math.exp(z[i] @ z[p] / temperature) / total) for p in positives) / len(positives)
            )
    return sum(losses) / len(losses)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=7), st.integers(0, 1000), st.sampled_from([0.06, 0.1, 1.0]))
def test_sup_con_is_the_formula(label: list[int], seed: int, temperature: float) -> None:
    views = 2 * label
    z = features(len(views), seed=seed)
    assert sup_con(z, torch.tensor(views), temperature).item() == pytest.approx(
        sup_con_by_loops(z, views, temperature), rel=1e-5, abs=1e-6
    )


def test_sup_con_by_hand() -> None:
    """Two classes on two axes, temperature 1: each anchor has one positive (cosine 1) and two negatives (0)."""
    z = torch.tensor([[1.0, 0], [0, 2.0], [3.0, 0], [0, 1.0]])
    wanted = -math.log(math.e / (math.e + 2))
    assert sup_con(z, torch.tensor([0, 1, 0, 1]), 1.0).item() == pytest.approx(wanted)


def test_sup_con_equals_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    label = torch.tensor([0, 1, 2, 3, 0, 0, 1, 2] * 2)
    for seed in range(5):
        z = features(16, 32, seed)
        wanted = losses.SupConLoss(temperature=0.06)(z, label)
        assert sup_con(z, label).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_anchors_without_positives_and_unknown_labels_do_not_count() -> None:
    z, label = features(5), torch.tensor([0, 0, 1, -1, -1])
    assert sup_con(z, label).item() == pytest.approx(sup_con_by_loops(z[:3], [0, 0, 1], 0.06), abs=1e-6)
    for alone in (torch.tensor([-1] * 5), torch.tensor([0, -1, -1, -1, -1]), torch.arange(5)):
        z = features(5).requires_grad_()
        loss = sup_con(z, alone)
        loss.backward()
        assert loss.item() == 0
        assert z.grad is not None
        assert (z.grad == 0).all()


def test_the_metadata_and_the_hybrid_loss_are_weighted_sums() -> None:
    a, b = features(6), features(6, seed=1)
    label, group = torch.tensor([0, 1, 0, 1, 2, 2]), torch.tensor([0, 0, 1, 1, -1, -1])
    wanted = 0.75 * sup_con(a, label) + 0.25 * sup_con(b[:4], group[:4])
    assert multi_sup_con(a, label, b, group).item() == pytest.approx(wanted.item())
    assert hybrid_sup_con(torch.tensor(2.0), torch.tensor(4.0)).item() == 3


# Patch-Mix


def test_patch_mix_contrast_by_hand() -> None:
    """Clean features on two axes; the first mixed clip lies on the first, the second on the second."""
    clean, mixed = torch.eye(2), 5 * torch.eye(2)
    right, wrong = math.log(math.e / (math.e + 1)), math.log(1 / (math.e + 1))
    loss = patch_mix_contrastive(mixed, clean, torch.tensor([1, 0]), 0.75, temperature=1.0)
    assert loss.item() == pytest.approx(-(0.75 * right + 0.25 * wrong))


def test_without_a_permutation_it_is_info_nce() -> None:
    mixed, clean, order = features(6), features(6, seed=1), torch.arange(6)
    cosine = F.normalize(mixed, dim=1) @ F.normalize(clean, dim=1).T / 0.06
    for kept in (0.0, 0.3, 1.0):
        loss = patch_mix_contrastive(mixed, clean, order, kept)
        assert loss.item() == pytest.approx(F.cross_entropy(cosine, order).item(), rel=1e-5)


def test_the_clean_side_gets_no_gradient() -> None:
    mixed, clean = features(4).requires_grad_(), features(4, seed=1).requires_grad_()
    patch_mix_contrastive(mixed, clean, torch.tensor([1, 2, 3, 0]), 0.4).backward()
    assert clean.grad is None
    assert mixed.grad is not None


def test_soft_binary_cross_entropy_by_hand() -> None:
    logits, target = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 1.0]])
    positive = math.log(1 + math.exp(-2))
    assert soft_binary_cross_entropy(logits, target).item() == pytest.approx((math.log(2) + positive) / 2)


# Co-tuning


def source_logits(label: torch.Tensor, seed: int) -> torch.Tensor:
    """(n,) target classes -> (n, 12) logits of a source that tends to answer 3 c, 3 c + 1 or 3 c + 2 for class c."""
    logits = torch.randn(len(label), 12, generator=torch.Generator().manual_seed(seed))
    for c in range(4):
        logits[label == c, 3 * c : 3 * c + 3] += 4
    return logits


def test_the_relationship_is_a_distribution_that_finds_each_class_its_sources() -> None:
    label = torch.arange(200) % 4
    relationship = category_relationship(source_logits(label, 0), label, source_logits(label, 1), label)
    assert relationship.shape == (4, 12)
    assert torch.allclose(relationship.sum(dim=1), torch.ones(4), atol=1e-6)
    for c in range(4):
        assert relationship[c, 3 * c : 3 * c + 3].sum() > 0.8


def test_the_relationship_of_two_classes_and_a_class_that_is_missing() -> None:
    label = torch.arange(60) % 2
    relationship = category_relationship(source_logits(label, 0), label, source_logits(label, 1), label)
    assert relationship.shape == (2, 12)
    assert relationship[0, :3].sum() > relationship[1, :3].sum()
    without = 2 * (torch.arange(20) % 2)
    logits = source_logits(without, 0)
    with pytest.raises(ValueError, match=r"train part has classes \[0, 2\]; expected 0 to 2, each with at least one"):
        category_relationship(logits, without, logits, without)


def test_co_tuning_is_the_cross_entropy_with_the_relationship() -> None:
    logits, label = features(3, 5), torch.tensor([1, 0, 1])
    certain = F.one_hot(torch.tensor([4, 2]), 5).float()
    assert co_tuning(logits, label, certain).item() == pytest.approx(
        F.cross_entropy(logits, torch.tensor([2, 4, 2])).item()
    )
    relationship = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0, 0, 0]])
    assert co_tuning(logits, label, relationship).item() == pytest.approx(
        F.cross_entropy(logits, relationship[label]).item()
    )


def test_published_constants() -> None:
    assert class_weights(ICBHI_TRAIN).tolist() == pytest.approx([0.0800, 0.1358, 0.3295, 0.4547], abs=5e-5)
    assert class_weights([3, 1, 1, 1]).tolist() == pytest.approx([0.1, 0.3, 0.3, 0.3])
    assert len(INVERSE_REGULARISATION) == 17
    assert INVERSE_REGULARISATION[0] == 1e4
    assert INVERSE_REGULARISATION[-1] == 1e-4
