"""What the loops read of the cycles table."""

import numpy as np
import pandas as pd

from rales.data.dataset import CycleDataset, with_concatenated
from rales.labels import CLASSES

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


def test_labels_and_metadata_groups_are_those_of_the_table() -> None:
    data = CycleDataset(TABLE, np.zeros((5, 8), np.float32))
    assert data.labels.tolist() == [0, 1, 2, 3, 0]
    assert data.groups.tolist() == [3, -1, 0, 2, 1]
    assert CycleDataset(TABLE.drop(columns="group"), np.zeros((5, 8), np.float32)).groups.tolist() == [-1] * 5


def test_parts_are_those_of_the_split() -> None:
    data = CycleDataset(TABLE, np.zeros((5, 8), np.float32))
    assert [data.rows(part).tolist() for part in ("train", "validation", "test")] == [[0, 1], [4], [2]]
    assert data.parts_to_watch() == ["validation", "test"]
    assert CycleDataset(TABLE[:3], np.zeros((3, 8), np.float32)).parts_to_watch() == ["test"]


def test_joined_cycles_train_whatever_their_first_half_was_for() -> None:
    table = with_concatenated(TABLE, np.array([[0, 1], [1, 0]]), np.array([1, 3]))
    assert table["split"].tolist() == [*TABLE["split"], "train", "train"]
    assert table["label"].tolist() == [*TABLE["label"], CLASSES[1], CLASSES[3]]
    assert table["second_path"].tolist() == ["", "", "", "", "", "b.wav", "a.wav"]
    assert table["second_end_s"].tolist() == [0, 0, 0, 0, 0, 2, 1]
