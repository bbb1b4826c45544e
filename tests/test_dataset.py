"""What the loops read of the cycles table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from rales.data.dataset import (
    Batch,
    CycleDataset,
    check_extras,
    find_taken_extras,
    index_extras,
    read_extras,
    select_extras,
    with_concatenated,
)
from rales.labels import CLASSES
from tests import tiny

TABLE = pd.DataFrame(
    {
        "label": ["normal", "crackle", "wheeze", "both", "normal"],
        "split": ["train", "train", "test", "", "validation"],
        "group": [3, -1, 0, 2, 1],
        "path": [f"{name}.wav" for name in "abcde"],
        "start_s": np.arange(5.0),
        "end_s": np.arange(5.0) + 1,
    }
)


INPUTS = np.zeros((5, 8), np.float32)


def test_class_numbers_and_extras_are_those_of_the_table() -> None:
    recipe = replace(tiny.recipe(), extras=("group", "unknown"))
    assert CycleDataset(TABLE, INPUTS).class_numbers.tolist() == [0, 1, 2, 3, 0]
    extras = read_extras(TABLE, recipe)
    assert {name: values.tolist() for name, values in extras.items()} == {"group": [3, -1, 0, 2, 1]}
    assert index_extras(extras, np.array([3, 0]))["group"].tolist() == [2, 3]


def test_a_module_gets_the_extras_that_it_takes() -> None:
    extras = {"group": torch.tensor([1]), "warp": torch.tensor([[0.9, 3.2]])}
    module = nn.Identity()
    assert select_extras(module, extras) == {}
    module.takes = ("warp", "choice")  # type: ignore[assignment]
    assert select_extras(module, extras) == {"warp": extras["warp"]}


def test_an_empty_slice_of_a_batch_becomes_one_silent_row() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    label = torch.tensor([1, 2])
    empty = Batch(torch.zeros(0, 3, 4, 4), nothing, np.zeros(0, np.int64), label, {"warp": torch.zeros(0, 2)})
    silent = empty.with_silent_row()
    assert torch.equal(silent.inputs, torch.zeros(1, 3, 4, 4))
    assert (silent.label.tolist(), silent.whole_label.tolist()) == ([0], [1, 2])
    assert torch.equal(silent.extras["warp"], torch.zeros(1, 2))


def test_parts_are_those_of_the_split() -> None:
    dataset = CycleDataset(TABLE, INPUTS)
    assert [dataset.rows(part).tolist() for part in ("train", "validation", "test")] == [[0, 1], [4], [2]]
    assert dataset.parts_to_watch() == ["validation", "test"]
    assert CycleDataset(TABLE[:3], INPUTS[:3]).parts_to_watch() == ["test"]


def test_joined_cycles_train_whatever_their_first_half_was_for() -> None:
    table = with_concatenated(TABLE, np.array([[0, 1], [1, 0]]), np.array([1, 3]))
    assert table["split"].tolist() == [*TABLE["split"], "train", "train"]
    assert table["label"].tolist() == [*TABLE["label"], CLASSES[1], CLASSES[3]]
    assert table["second_path"].tolist() == ["", "", "", "", "", "b.wav", "a.wav"]
    assert table["second_end_s"].tolist() == [0, 0, 0, 0, 0, 2, 1]


def test_an_extra_that_is_needed_and_not_there_is_a_sentence() -> None:
    recipe, network = replace(tiny.recipe(), extras=("group", "age")), nn.Identity()
    dataset = CycleDataset(TABLE, INPUTS, read_extras(TABLE, recipe))
    check_extras(dataset, find_taken_extras(recipe, network))
    network.takes = ("age",)  # type: ignore[assignment]
    assert find_taken_extras(recipe, nn.Identity(), network) == ("age",)
    with pytest.raises(
        ValueError, match=r"the recipe needs `age` of every cycle .*, which is no column here; give data"
    ):
        check_extras(dataset, find_taken_extras(recipe, network))
