"""Equations 3-5 and everything printed beside the score, against hand-made numbers, brute force and scikit-learn."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, recall_score, roc_auc_score

from rales.evaluation.metrics import (
    compute_metrics,
    constant_prediction,
    icbhi_scores,
    mean_auroc,
    metrics_by_group,
    normal_threshold,
    scores_at_threshold,
    two_class_scores,
)
from rales.evaluation.metrics import confusion_matrix as confusion

pytestmark = pytest.mark.filterwarnings("error")

# Published confusion matrix of LungAttn on the official test split (SJTU-YONGFU-RESEARCH-GRP/LungAttn).
LUNGATTN = [[1128, 171, 271, 9], [336, 229, 78, 6], [167, 20, 189, 9], [69, 11, 53, 10]]
UNIFORM = [0.25, 0.25, 0.25, 0.25]


def cycles(seed: int, count: int = 300, decimals: int = 12) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Classes and weakly informative probabilities; few decimals make ties."""
    generator = np.random.default_rng(seed)
    true = generator.choice(4, size=count, p=[0.5, 0.25, 0.15, 0.1])
    logits = generator.normal(size=(count, 4)) + 1.0 * np.eye(4)[true]
    p = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), decimals)
    return true.astype(np.int64), p


def test_public_confusion_matrix() -> None:
    strict, two_class = icbhi_scores(LUNGATTN), two_class_scores(LUNGATTN)
    assert [round(100 * strict[name], 2) for name in ("specificity", "sensitivity", "score")] == [71.44, 36.36, 53.90]
    assert round(100 * two_class["sensitivity"], 2) == 51.40
    assert round(100 * two_class["score"], 2) == 61.42
    assert two_class["specificity"] == strict["specificity"]


def test_equations_3_to_5_by_hand() -> None:
    # Sp = 6/8; Se = (3 + 1 + 0) / (5 + 2 + 3) = 0.4, whereas the mean of recalls 3/5, 1/2, 0/3 is 0.367.
    table = [[6, 1, 1, 0], [1, 3, 0, 1], [1, 0, 1, 0], [0, 2, 1, 0]]
    assert icbhi_scores(np.array(table)) == pytest.approx({"specificity": 0.75, "sensitivity": 0.4, "score": 0.575})
    assert two_class_scores(table) == pytest.approx({"specificity": 0.75, "sensitivity": 0.8, "score": 0.775})


@pytest.mark.parametrize(
    ("table", "absent", "kept"),
    [
        ([[5, 1, 0, 0], *[[0] * 4] * 3], "sensitivity", "specificity"),
        ([[0] * 4, *[[1] * 4] * 3], "specificity", "sensitivity"),
    ],
)
def test_absent_class_is_nan_without_warning(table: list[list[int]], absent: str, kept: str) -> None:
    for scores in (icbhi_scores(table), two_class_scores(table)):
        assert math.isnan(scores[absent])
        assert math.isnan(scores["score"])
        assert not math.isnan(scores[kept])


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ([[1, 2, 0], [3, 4, 0]], r"shape \(2, 3\), expected a row and a column for each"),
        (np.full((4, 4), -1), "negative"),
        (np.full((4, 4), np.nan), "non-finite"),
    ],
)
def test_wrong_confusion_matrix_is_refused(table: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        icbhi_scores(table)


def test_confusion_equals_scikit_learn() -> None:
    true, p = cycles(1)
    table = confusion(true, p.argmax(axis=1))
    assert table.dtype == np.int64
    np.testing.assert_array_equal(table, confusion_matrix(true, p.argmax(axis=1), labels=range(4)))
    assert confusion([], []).sum() == 0
    np.testing.assert_array_equal(confusion([0, 2], [1, 2], classes=3), [[0, 1, 0], [0, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("true", "p", "sentence"),
    [
        ([0, 4], [UNIFORM, UNIFORM], "true classes hold 4"),
        ([0, 0.5], [UNIFORM, UNIFORM], "true classes hold 0.5"),
        ([0, np.nan], [UNIFORM, UNIFORM], "true classes hold nan"),
        (["normal"], [UNIFORM], "expected one number 0..3 per cycle"),
        ([0], [UNIFORM, UNIFORM], "1 true classes and 2 rows"),
        ([0], [[0.5, 0.5]], r"shape \(1, 2\)"),
        ([0], [[3.0, -1.0, 0.5, 0.1]], "apply a softmax"),
        ([0, 1], [UNIFORM, [np.nan] * 4], "cycle 1"),
        ([], np.zeros((0, 4)), "no cycles"),
    ],
)
def test_wrong_cycles_are_refused(true: Any, p: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        compute_metrics(true, p)


@settings(deadline=None)
@given(
    true=arrays(np.int64, 30, elements=st.integers(0, 3)),
    predicted=arrays(np.int64, 30, elements=st.integers(0, 3)),
    seed=st.integers(0, 1000),
)
def test_order_of_cycles_does_not_matter_and_bounds_hold(
    true: NDArray[np.int64], predicted: NDArray[np.int64], seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(30)
    scores = icbhi_scores(confusion(true, predicted))
    np.testing.assert_equal(icbhi_scores(confusion(true[order], predicted[order])), scores)
    two_class = two_class_scores(confusion(true, predicted))
    if not math.isnan(scores["sensitivity"]):
        assert 0 <= scores["sensitivity"] <= two_class["sensitivity"] <= 1


@settings(max_examples=30, deadline=None)
@given(true=arrays(np.int64, 30, elements=st.integers(0, 3)).filter(lambda t: 0 < (t == 0).sum() < 30))
def test_perfect_is_one_and_all_normal_is_a_half(true: NDArray[np.int64]) -> None:
    assert icbhi_scores(confusion(true, true)) == {"specificity": 1.0, "sensitivity": 1.0, "score": 1.0}
    figures = compute_metrics(true, np.tile([0.7, 0.1, 0.1, 0.1], (30, 1)))
    assert {name: figures[name] for name in ("specificity", "sensitivity", "score")} == figures["majority"]
    assert figures["majority"] == {"specificity": 1.0, "sensitivity": 0.0, "score": 0.5}


def test_all_figures_against_scikit_learn() -> None:
    true, p = cycles(2)
    figures = compute_metrics(true.tolist(), p.tolist())
    assert figures["macro_recall"] == pytest.approx(recall_score(true, p.argmax(axis=1), average="macro"))
    assert figures["accuracy"] == pytest.approx((true == p.argmax(axis=1)).mean())
    crackle, wheeze = (true == 1) | (true == 3), (true == 2) | (true == 3)
    assert figures["crackle_present"]["auroc"] == pytest.approx(roc_auc_score(crackle, p[:, 1] + p[:, 3]))
    assert figures["wheeze_present"]["auroc"] == pytest.approx(roc_auc_score(wheeze, p[:, 2] + p[:, 3]))
    assert figures["crackle_present"]["average_precision"] == pytest.approx(
        average_precision_score(crackle, p[:, 1] + p[:, 3])
    )
    assert figures["wheeze_present"]["average_precision"] == pytest.approx(
        average_precision_score(wheeze, p[:, 2] + p[:, 3])
    )
    assert figures["two_class"] == two_class_scores(figures["confusion"])
    assert json.loads(json.dumps(figures)) == figures


def test_figures_of_normal_cycles_only_are_nan_without_warning() -> None:
    figures = compute_metrics([0, 0], [UNIFORM, [0.1, 0.7, 0.1, 0.1]])
    assert (figures["specificity"], figures["macro_recall"], figures["accuracy"]) == (0.5, 0.5, 0.5)
    for value in (figures["sensitivity"], figures["score"], *figures["crackle_present"].values()):
        assert math.isnan(value)
    with pytest.raises(ValueError, match="all 2 cycles are normal"):
        normal_threshold([0, 0], [UNIFORM, UNIFORM])
    with pytest.raises(ValueError, match="all 2 cycles are abnormal"):
        normal_threshold([1, 2], [UNIFORM, UNIFORM])


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_curve_and_threshold_equal_brute_force(decimals: int) -> None:
    true, p = cycles(3, count=120)
    normal = np.round(p[:, :1], decimals)
    rest = p[:, 1:] / p[:, 1:].sum(axis=1, keepdims=True)
    p = np.concatenate([normal, (1 - normal) * rest], axis=1)
    curve = compute_metrics(true, p)["sp_se_curve"]
    assert len(curve["threshold"]) == len(np.unique(p[:, 0])) + 1
    by_hand = [scores_at_threshold(true, p, t) for t in curve["threshold"]]
    assert curve["specificity"] == [scores["specificity"] for scores in by_hand]
    assert curve["sensitivity"] == [scores["sensitivity"] for scores in by_hand]
    assert curve["specificity"][0] == 1
    assert curve["specificity"][-1] == 0
    best = max(scores_at_threshold(true, p, t)["score"] for t in np.linspace(0, 1.001, 2000))
    assert scores_at_threshold(true, p, normal_threshold(true, p))["score"] == best


def test_long_curve_keeps_200_points_and_both_ends() -> None:
    true, p = cycles(4, count=3000)
    curve = compute_metrics(true, p)["sp_se_curve"]
    assert {len(points) for points in curve.values()} == {200}
    assert (curve["specificity"][0], curve["specificity"][-1]) == (1, 0)
    assert np.all(np.diff(curve["sensitivity"]) >= 0)


def test_groups_add_up_to_the_whole() -> None:
    true, p = cycles(5)
    devices = np.array(["Meditron", "Litt3200", "AKGC417L"])[np.arange(300) % 3]
    groups = metrics_by_group(true, p, devices)
    assert list(groups) == ["AKGC417L", "Litt3200", "Meditron"]
    assert sum(group["cycles"] for group in groups.values()) == 300
    for number, name in enumerate(("normal", "crackle", "wheeze", "both")):
        assert sum(group["classes"][name] for group in groups.values()) == (true == number).sum()
    of_one = devices == "Litt3200"
    expected = icbhi_scores(confusion(true[of_one], p[of_one].argmax(axis=1)))
    assert {name: groups["Litt3200"][name] for name in expected} == expected
    assert json.loads(json.dumps(groups)) == groups
    with pytest.raises(ValueError, match="one group name per cycle"):
        metrics_by_group(true, p, devices[:-1])


def test_counts_of_other_numbers_of_classes_and_names_in_the_sentences() -> None:
    assert confusion([0, 1, 1, 0], [0, 0, 1, 0], classes=2).tolist() == [[2, 0], [1, 1]]
    assert confusion([5], [4], classes=6).shape == (6, 6)
    with pytest.raises(ValueError, match=r"^true classes hold 2, expected whole numbers 0\.\.1$"):
        confusion([0, 2], [0, 0], classes=2)
    with pytest.raises(ValueError, match=r"^predicted classes hold 3, expected whole numbers 0\.\.1$"):
        confusion([0, 0], [3, 0], classes=2)
    with pytest.raises(ValueError, match=r"^2 true and 1 predicted classes; give one of each per cycle$"):
        confusion([0, 0], [0])
    with pytest.raises(
        ValueError, match=r"^true classes of shape \(1, 1\), type int64; expected one number 0\.\.3 per"
    ):
        confusion([[0]], [0])
    assert confusion([], []).tolist() == np.zeros((4, 4)).tolist()
    assert confusion([True], [1.0]).sum() == 1
    assert confusion(["0"][:0], np.zeros(0, np.uint8)).dtype == np.int64


def test_a_class_of_one_cycle_counts_in_the_mean_of_recalls() -> None:
    p = [[0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]]
    assert compute_metrics([0, 1, 2], p)["macro_recall"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("row", [[0.5, 0.5, 0.5, 0.0], [1.2, -0.2, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2]])
def test_rows_that_are_no_probabilities_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        compute_metrics([0], [row])


def test_whole_numbers_are_probabilities_and_one_is_a_threshold() -> None:
    certain = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert compute_metrics([0, 0, 2], certain)["score"] == 1
    assert normal_threshold([0, 0, 2], certain) == 1
    p = [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    above = normal_threshold([0, 1], p)  # sensitivity and specificity weigh the same, so the lowest wins
    assert above == 1
    assert compute_metrics([0, 1], p)["sp_se_curve"]["threshold"] == [1.0, np.nextafter(1.0, 2.0)]


def test_mean_auroc_by_hand_is_what_no_constant_wins() -> None:
    """Crackles: three of four pairs in order; wheezes: all of three."""
    true = [0, 1, 2, 0]
    p = [[0.5, 0.3, 0.2, 0.0], [0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.8, 0.0], [0.1, 0.6, 0.2, 0.1]]
    crackle, wheeze = [0.3, 0.5, 0.1, 0.7], [0.2, 0.2, 0.8, 0.3]
    assert mean_auroc(true, p) == pytest.approx(
        (roc_auc_score([0, 1, 0, 0], crackle) + roc_auc_score([0, 0, 1, 0], wheeze)) / 2
    )
    assert mean_auroc(true, p) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_auroc(true, np.tile([0.9, 0.05, 0.03, 0.02], (4, 1))) == 0.5
    assert mean_auroc([0, 1], [[1, 0, 0, 0], [0, 1, 0, 0]]) == 1  # of one sound alone, and of whole numbers
    assert math.isnan(mean_auroc([0, 0], [UNIFORM, UNIFORM]))
    assert math.isnan(mean_auroc([0, 1], [UNIFORM, [np.nan] * 4]))
    with pytest.raises(ValueError, match=r"^true classes hold 4"):
        mean_auroc([0, 4], [UNIFORM, UNIFORM])


def test_an_answer_is_constant_if_one_column_alone_is_filled() -> None:
    counts = np.zeros((4, 4), int)
    counts[:, 2] = [3, 0, 1, 1]
    assert constant_prediction(counts) == "wheeze"
    counts[2, 2], counts[2, 0] = 0, 1
    assert constant_prediction(counts) is None
    assert constant_prediction(np.diag([5, 0, 0, 0])) == "normal"
    assert constant_prediction(np.zeros((4, 4))) is None
