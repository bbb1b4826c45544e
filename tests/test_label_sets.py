"""Own classes go from the words of a dataset to the tables of predictions; what cannot be a class is a sentence."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import rales
from rales.data import read_cycles
from rales.errors import UsageError
from rales.evaluation.metrics import compute_metrics, independent_metrics, mean_auroc, normal_threshold
from rales.labels import CLASSES, ICBHI, LabelSet
from rales.recipes.registry import make_recipe
from rales.registry import RECIPES
from tests import tiny
from tests.command import command

OWN = LabelSet(("normal", "rhonchi", "stridor"))
FINDINGS = LabelSet(("crackle", "wheeze", "stridor"), independent=True)
NATIVE = ("Normal", "Rhonchi", "Wheeze", "Stridor", "Coarse Crackle", "Fine Crackle", "Wheeze+Crackle")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("classes", "independent", "sentence"),
    [
        (("normal",), False, "1 classes; expected 2 to 20"),
        ((), True, "0 classes; expected 1 to 20"),
        (tuple(f"c{number}" for number in range(21)), False, "21 classes; expected 2 to 20"),
        (("normal", "Fine Crackle", "fine_crackle"), False, "the class 'fine_crackle' is named twice"),
        (("normal", "=cmd"), False, "'=cmd' cannot be the name of a class"),
        (("normal", "a,b"), False, "'a,b' cannot be the name of a class"),
        (("normal", " b"), False, "' b' cannot be the name of a class"),
        (("normal", ""), False, "'' cannot be the name of a class"),
        (("a+b",), True, "'a+b' cannot be the name of a class"),
        (("Normal", "wheeze"), True, "'normal' cannot be one of several independent classes"),
        (("normal", "cycles"), False, "tables of recordings have another column of that name"),
        (("normal", "x" * 41), False, "has 41 letters, expected at most 40"),
    ],
)
def test_what_cannot_be_classes_is_a_sentence(classes: tuple[str, ...], independent: bool, sentence: str) -> None:
    assert sentence in LabelSet(classes, independent).describe_problem()


@pytest.mark.parametrize("classes", [CLASSES, NATIVE, OWN.classes, tuple(f"c{n}" for n in range(20)), ("sick", "well")])
def test_what_can_be_classes(classes: tuple[str, ...]) -> None:
    assert LabelSet(classes).describe_problem() == ""


@pytest.mark.parametrize(
    ("label_set", "word", "flags", "label"),
    [
        (ICBHI, "Rhonchi", (0, 1), "wheeze"),
        (ICBHI, "", (1, 1), "both"),
        (ICBHI, "Both", (None, None), "both"),
        (OWN, "RHONCHI", (0, 1), "rhonchi"),
        (OWN, "", (0, 0), "normal"),
        (LabelSet(("Normal", "Fine Crackle")), "fine-crackle", (1, 0), "Fine Crackle"),
        (LabelSet(("normal", "abnormal")), "Stridor", (0, 1), "abnormal"),
        (LabelSet(("normal", "abnormal")), "", (1, 1), "abnormal"),
        (LabelSet(("healthy", "crackle", "wheeze", "both")), "", (0, 0), "healthy"),
        (LabelSet(("crackle",), independent=True), "", (0, 1), "normal"),
        (LabelSet(("wheeze", "crackle"), independent=True), "", (1, 1), "wheeze+crackle"),
        (FINDINGS, "Stridor+wheeze", (None, None), "wheeze+stridor"),
        (FINDINGS, "normal", (None, None), "normal"),
        (FINDINGS, "", (1, 0), "crackle"),
    ],
)
def test_words_and_flags_become_labels(label_set: LabelSet, word: str, flags: tuple[Any, Any], label: str) -> None:
    assert label_set.label_cycle(word, *flags) == label


@pytest.mark.parametrize(
    ("label_set", "word", "flags", "sentence"),
    [
        (OWN, "rhonchus", (0, 1), "label 'rhonchus' is none of the classes; did you mean rhonchi? Known: normal, rhonchi"),
        (OWN, "", (1, 0), "crackle 1 and wheeze 0, without a word, is none of the classes"),
        (OWN, "", (None, None), "has neither a word nor flags"),
        (LabelSet(("normal", "crackle", "wheeze")), "", (1, 1), "crackle 1 and wheeze 1, without a word, is none"),
        (LabelSet(("rhonchi", "stridor"), independent=True), "", (1, 0), "crackle 1 and wheeze 0, without a word"),
        (FINDINGS, "wheeze+squawk", (None, None), "label 'wheeze+squawk' is none of the classes"),
    ],
)
def test_what_is_none_of_the_classes_is_told(
    label_set: LabelSet, word: str, flags: tuple[Any, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match="classes|neither") as told:
        label_set.label_cycle(word, *flags)
    assert sentence in str(told.value)


def test_targets_are_undone_and_rows_are_numbered() -> None:
    labels = ["normal", "wheeze+stridor", "crackle"]
    targets = FINDINGS.make_targets(labels)
    assert targets.tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert FINDINGS.name_targets(targets) == labels
    assert FINDINGS.encode_rows(targets).tolist() == [0, 6, 1]
    assert FINDINGS.count_labels(labels) == {"normal": 1, "crackle": 1, "wheeze": 1, "stridor": 1}
    assert OWN.name_targets(OWN.make_targets(["stridor", "normal"])) == ["stridor", "normal"]
    assert OWN.count_labels(["stridor", "stridor"]) == {"normal": 0, "rhonchi": 0, "stridor": 2}


def test_figures_of_three_classes_by_hand() -> None:
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7]])
    found = compute_metrics([0, 0, 1, 2, 2], p, OWN)
    assert (found["specificity"], found["sensitivity"], found["score"]) == pytest.approx((1 / 2, 2 / 3, 7 / 12))
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert found["two_class"]["sensitivity"] == pytest.approx(2 / 3)
    aurocs = [found["by_class"][name]["auroc"] for name in OWN.classes]
    assert aurocs == pytest.approx([5 / 6, 1.0, 11 / 12])  # pairs in the right order, by hand
    assert found["auroc"] == pytest.approx(np.mean(aurocs))
    assert found["classes"] == list(OWN.classes)
    assert not {"crackle_present", "wheeze_present"} & set(found)


def test_figures_of_independent_classes_by_hand() -> None:
    true = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    p = [[0.1, 0.2, 0.3], [0.6, 0.1, 0.1], [0.9, 0.1, 0.2], [0.9, 0.2, 0.1], [0.1, 0.1, 0.8]]
    found = independent_metrics(true, p, FINDINGS)
    assert (found["specificity"], found["sensitivity"], found["score"]) == pytest.approx((1 / 2, 2 / 3, 7 / 12))
    assert found["two_class"] == pytest.approx({"specificity": 0.5, "sensitivity": 1.0, "score": 0.75})
    assert found["confusion_per_class"] == {
        "crackle": [[2, 1], [0, 2]],
        "wheeze": [[4, 0], [1, 0]],
        "stridor": [[4, 0], [0, 1]],
    }
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert mean_auroc(true, p, FINDINGS) == found["auroc"] == pytest.approx(np.mean([1.0, 3.5 / 4, 1.0]))
    assert "confusion" not in found
    assert normal_threshold(true[:3], p[:3], FINDINGS) == 0.6  # above the only wrong answer, and below the right one
