"""Class weights and the weighted cross-entropy, whole and in pieces."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.losses import class_weights, weighted_cross_entropy

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
