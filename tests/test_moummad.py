"""The metadata of M-SCL reach its loss, as groups of sex and age, beside the classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rales.config import Step
from rales.data import read_cycles
from rales.data.icbhi import sex_and_age
from rales.labels import CLASSES
from rales.recipes import moummad
from rales.recipes.registry import make_recipe
from rales.training.losses import sup_con
from tests import tiny


class Fixed(nn.Module):
    """A network whose encoder passes its input on, with two projectors that show different halves of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Flatten()
        self.projectors = nn.ModuleList([First(), Second()])
        self.head = nn.Linear(8, 4)


class First(nn.Module):
    def forward(self, encoded: Tensor) -> Tensor:
        return encoded[:, :4]


class Second(nn.Module):
    def forward(self, encoded: Tensor) -> Tensor:
        return encoded[:, 4:]


def test_a_quarter_of_the_loss_is_of_the_metadata_groups() -> None:
    torch.manual_seed(0)
    config = make_recipe("moummad_mscl", size="tiny").config
    augment = replace(config.augment, frequency_masks=0, time_masks=0)  # both views are the features themselves
    features = torch.randn(6, 1, 2, 4)
    label, group = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 0, -1])
    step = Step(replace(config, augment=augment), label, label, torch.ones(4), {"group": group}, torch.Generator())
    loss, logits = moummad.mscl_loss(Fixed(), features, step, apart=False)

    views = torch.cat([features, features]).flatten(1)
    of_class = sup_con(views[:, :4], label.repeat(2))
    of_group = sup_con(views[:, 4:], group.repeat(2))
    assert loss.item() == pytest.approx((0.75 * of_class + 0.25 * of_group).item(), rel=1e-6)
    assert logits.shape == (6, 4)
    # so it cannot be the classes twice
    assert abs(sup_con(views[:, 4:], label.repeat(2)) - of_group) > 0.1


def test_a_run_gives_the_loss_each_cycles_class_and_its_patients_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycles = read_cycles(tiny.write_folder(tmp_path / "data"))
    groups = sex_and_age(cycles["path"])
    seen = list[tuple[int, int]]()
    loss = moummad.mscl_loss

    def watched(model: nn.Module, features: Tensor, step: Step, *, apart: bool) -> tuple[Tensor, Tensor]:
        seen.extend(zip(step.label.tolist(), step.extras["group"].tolist(), strict=True))
        return loss(model, features, step, apart=apart)

    monkeypatch.setattr(moummad, "mscl_loss", watched)
    words = ["audio.duration_s=0.8", "train.epochs=1", "train.device=cpu", "train.precision=float32"]
    recipe = make_recipe("moummad_mscl", words, size="tiny", probe_epochs="1")
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=tmp_path / "cache")

    train = cycles[cycles["split"] == "train"]
    rows = zip(train["label"], train["patient"], strict=True)
    expected = [(CLASSES.index(label), groups.get(patient, -1)) for label, patient in rows]
    assert sorted(seen) == sorted(expected)
    assert len({group for _, group in seen}) == 5  # four of sex x age, and unknown
