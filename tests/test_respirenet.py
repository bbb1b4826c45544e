"""RespireNet's published numbers."""

import pytest
import torch
from torch import nn

from rales.config import Step
from rales.recipes.registry import make_recipe


def test_the_loss_weighs_abnormal_cycles_three_times_as_much_as_normal_ones() -> None:
    """Weights 0.1, 0.3, 0.3, 0.3 of the published code, by hand: sum of w * -log p over the sum of w."""
    recipe = make_recipe("respirenet", size="tiny")
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0], [1.0, 0.0, 0.0, 0.0]])
    label = torch.tensor([0, 1, 2, 3])
    step = Step(recipe.config, label, label, torch.ones(4), {}, torch.Generator())
    loss, answered = recipe.batch_loss(nn.Identity(), logits, step)
    minus_log_p = -logits.log_softmax(dim=1)[range(4), label]
    weight = torch.tensor([0.1, 0.3, 0.3, 0.3])
    assert loss.item() == pytest.approx((weight * minus_log_p).sum().item() / 1.0, rel=1e-6)
    assert torch.equal(answered, logits)
