"""Linear probes of layers: against scikit-learn, what they may and may not see, learned weights."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rales.evaluation.metrics import confusion_matrix, icbhi_scores, mean_auroc
from rales.jobs import layer_importance, linear_probe


def problem(rows: int = 150, depth: int = 3, width: int = 20, seed: int = 0, classes: int = 4):
    """-> pooled layers whose mean tells the class a little, classes, folds."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    shift = random.standard_normal((classes, depth, width))[label]
    mixed = random.standard_normal((width, width)) * np.logspace(0, -2, width)[:, None]  # a few directions dominate
    pooled = (random.standard_normal((rows, depth, width)) + 0.4 * shift) @ mixed * 10 + 3
    return pooled.astype(np.float32), label, np.arange(rows) % 5


def by_sklearn(pooled, label, train, subset, c):
    """-> probabilities of the test rows, as the plain way computes them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = pooled[:, list(subset)].reshape(len(pooled), -1).astype(np.float64)
    regression = LogisticRegression(C=c, class_weight="balanced", max_iter=10_000, tol=1e-8)
    model = make_pipeline(StandardScaler(), regression).fit(x[train], label[train])
    found = np.zeros(((~train).sum(), max(label) + 1))
    found[:, regression.classes_] = model.predict_proba(x[~train])
    return found


@pytest.mark.parametrize("c", [1.0, 0.01, 0.001])
def test_every_subset_has_the_probabilities_of_scikit_learn(c: float) -> None:
    pooled, label, folds = problem()
    train, chosen = folds != 0, linear_probe.subsets(3)
    fold = linear_probe.prepare(pooled, label, train, c)
    for subset, p in zip(chosen, linear_probe.probabilities(fold, chosen), strict=True):
        assert np.abs(p - by_sklearn(pooled, label, train, subset, c)).max() < 1e-3, subset


@pytest.mark.parametrize(("rows", "depth", "width"), [(60, 3, 100), (150, 3, 1), (40, 2, 5)])
def test_wide_and_narrow_layers(rows: int, depth: int, width: int) -> None:
    """More features than rows, and fewer than the shared basis has vectors."""
    pooled, label, folds = problem(rows, depth, width, seed=rows)
    train, chosen = folds != 1, linear_probe.subsets(depth)
    fold = linear_probe.prepare(pooled, label, train, 0.01)
    for subset, p in zip(chosen, linear_probe.probabilities(fold, chosen), strict=True):
        assert np.abs(p - by_sklearn(pooled, label, train, subset, 0.01)).max() < 1e-3, subset


@pytest.mark.parametrize("classes", [2, 4, 6])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    pooled, label, folds = problem(classes=classes)
    c = 0.02 if classes == 2 else 0.01  # there scikit-learn has one vector of weights, not two that share the penalty
    found = linear_probe.probe_all(pooled, label, folds, c=0.01, classes=classes).set_index("layers")
    assert len(found) == 7
    for subset in linear_probe.subsets(3)[: 7 if classes == 4 else 2]:
        answers = [by_sklearn(pooled, label, folds != k, subset, c).argmax(axis=1) for k in range(5)]
        counts = [confusion_matrix(label[folds == k], answers[k], classes) for k in range(5)]
        row = found.loc[linear_probe.name(subset)]
        for figure, value in icbhi_scores(np.sum(counts, axis=0)).items():
            assert row[figure] == pytest.approx(value)
        assert row["score_sd"] == pytest.approx(np.std([icbhi_scores(k)["score"] for k in counts], ddof=1))
        assert row["size"] == len(subset)
    assert found["score"].is_monotonic_decreasing


def test_a_class_without_training_rows_is_never_predicted() -> None:
    pooled, label, folds = problem()
    label = np.where((label == 3) & (folds != 0), 0, label)
    train = folds != 0
    fold = linear_probe.prepare(pooled, label, train, 0.01)
    (p,) = linear_probe.probabilities(fold, [(0, 2)])
    assert (p[:, 3] == 0).all()
    assert np.abs(p - by_sklearn(pooled, label, train, (0, 2), 0.01)).max() < 1e-3


def test_test_rows_teach_nothing() -> None:
    """Other test rows and classes: the very same fit, so the same probabilities for the rows that stayed."""
    pooled, label, folds = problem()
    train, chosen = folds != 0, linear_probe.subsets(3)
    first, *others = np.flatnonzero(~train)
    changed, other_label = pooled.copy(), label.copy()
    changed[others] = 100 * changed[others] + 7
    other_label[others] = 3 - other_label[others]
    a, b = linear_probe.prepare(pooled, label, train, 0.01), linear_probe.prepare(changed, other_label, train, 0.01)
    for name in ("grams", "basis", "images", "target", "weight"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert pooled[first].tolist() == changed[first].tolist()
    for p, q in zip(linear_probe.probabilities(a, chosen), linear_probe.probabilities(b, chosen), strict=True):
        assert p[0] == pytest.approx(q[0], abs=1e-6)
    whole = linear_probe.standardised(pooled, train)
    assert np.abs(whole[train].mean(axis=0)).max() < 1e-5
    assert np.abs(whole[train].std(axis=0) - 1).max() < 1e-5


@given(depth=st.integers(1, 10), data=st.data())
def test_subsets_are_complete_and_neighbours_alike(depth: int, data: st.DataObject) -> None:
    found = linear_probe.subsets(depth)
    assert len(set(found)) == len(found) == 2**depth - 1
    assert all(len(set(a) ^ set(b)) == 1 for a, b in itertools.pairwise(found))
    size = data.draw(st.integers(1, depth))
    few = linear_probe.subsets(depth, [size])
    assert few == [subset for subset in found if len(subset) == size]
    assert all(len(set(a) ^ set(b)) == 2 for a, b in itertools.pairwise(few))


def test_what_is_asked_for_must_exist() -> None:
    assert len(linear_probe.subsets(12)) == 4095
    with pytest.raises(ValueError, match="expected sizes from 1 to 4"):
        linear_probe.subsets(4, [5])
    with pytest.raises(ValueError, match="16777215 subsets of 24 layers"):
        linear_probe.subsets(24)
    pooled, label, folds = problem()
    with pytest.raises(ValueError, match="one class and fold a row"):
        linear_probe.probe_all(pooled, label[:-1], folds)
    with pytest.raises(ValueError, match="at least two folds"):
        linear_probe.probe_all(pooled, label, 0 * folds)
    with pytest.raises(ValueError, match="without fold 1 all rows are of one class"):
        linear_probe.probe_all(pooled, (folds == 1).astype(int), folds)
    with pytest.raises(ValueError, match="above 0"):
        linear_probe.probe_all(pooled, label, folds, c=0)
    pooled[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        linear_probe.probe_all(pooled, label, folds)


def test_an_interrupted_count_ends_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "CHUNK", 3)
    pooled, label, folds = problem(depth=4)
    chosen = linear_probe.subsets(4)
    whole = linear_probe.count(pooled, label, folds, chosen, c=0.01)
    kept: list[np.ndarray] = []

    def stop_at_the_seventh(counts: np.ndarray) -> None:
        kept.append(counts.copy())
        if len(kept) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        linear_probe.count(pooled, label, folds, chosen, c=0.01, keep=stop_at_the_seventh)
    assert (kept[-1] < 0).any()
    rest: list[np.ndarray] = []
    again = linear_probe.count(
        pooled, label, folds, chosen, c=0.01, counts=kept[-1], keep=lambda k: rest.append(k.copy())
    )
    assert (again == whole).all()
    assert len(rest) == 5 * 5 - 7


def test_learned_weights_find_the_layer_that_tells_and_are_an_optimum() -> None:
    pooled, label, folds = problem(depth=4)
    random = np.random.default_rng(5)
    pooled[:, [0, 1, 3]] = random.standard_normal(pooled[:, [0, 1, 3]].shape)
    weights, counts = linear_probe.learned_weights(pooled, label, folds, c=0.01)
    assert weights.shape == (5, 4)
    assert (weights >= 0).all()
    assert (weights**2).mean(axis=1) == pytest.approx(1)
    assert (weights.argmax(axis=1) == 2).all()
    assert counts.sum() == len(label)
    fold = linear_probe.prepare(pooled, label, folds != 0, 0.01)
    square, solution = linear_probe.learn(fold)
    slopes = torch.stack([(linear_probe.times(solution, own, 0.0) * solution).sum() for own in fold.grams]).sqrt()
    # of a group lasso: the same for every layer that is used, less for one that is not
    assert slopes[square > 0.1].numpy() == pytest.approx(slopes.max().item(), rel=0.02)


def test_subsets_have_the_auroc_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    pooled, label, folds = problem(depth=2)
    chosen, measured = linear_probe.subsets(2), np.full((5, 3), np.nan)
    counts = linear_probe.count(pooled, label, folds, chosen, c=0.01, measure=mean_auroc, measured=measured)
    found = linear_probe.table(chosen, counts, measured).set_index("layers")
    for subset in chosen:
        aurocs = []
        for k in range(5):
            p = by_sklearn(pooled, label, folds != k, subset, 0.01)
            sounds = [np.isin(label[folds == k], each) for each in ((1, 3), (2, 3))]
            scores = [p[:, list(each)].sum(axis=1) for each in ((1, 3), (2, 3))]
            aurocs.append(np.mean([roc_auc_score(*pair) for pair in zip(sounds, scores, strict=True)]))
        row = found.loc[linear_probe.name(subset)]
        assert row["auroc"] == pytest.approx(np.mean(aurocs), abs=0.005)
        assert row["auroc_sd"] == pytest.approx(np.std(aurocs, ddof=1), abs=0.005)


def test_a_layer_left_out_costs_what_only_it_tells() -> None:
    pooled, label, folds = problem(depth=3)
    pooled[:, [0, 2]] = np.random.default_rng(5).standard_normal(pooled[:, [0, 2]].shape)
    lost = layer_importance.leave_one_out(pooled, label, folds, mean_auroc, c=0.01)
    assert lost["layer"].tolist() == [1, 2, 3]
    assert lost["auroc"].idxmax() == 1
    figures = {}
    for subset in ((0, 1, 2), (0, 2)):  # all, and without layer 2
        measured = np.full((5, 1), np.nan)
        counts = linear_probe.count(pooled, label, folds, [subset], c=0.01, measure=mean_auroc, measured=measured)
        figures[subset] = (icbhi_scores(counts.sum(axis=(0, 1)))["score"], measured[:, 0])
    (score, aurocs), (less, fewer) = figures.values()
    assert lost["score"][1] == pytest.approx(score - less)
    assert lost["auroc"][1] == pytest.approx((aurocs - fewer).mean(), abs=1e-4)
    assert lost["auroc_sd"][1] == pytest.approx((aurocs - fewer).std(ddof=1), abs=1e-4)


def test_alignment_of_layers() -> None:
    """Centred columns (1, -1, 0, 0) and (0, 0, 1, -1): x has the first, y both, the second twice as large.

    |x'x| = 2, |y'y| = sqrt(2^2 + 8^2), |x'y|^2 = 2^2, so CKA is 4 / (2 sqrt 68)."""
    a, b = np.array([1.0, -1, 0, 0]), np.array([0.0, 0, 1, -1])
    x, y = np.stack([a, 0 * a], axis=1) + 7, np.stack([a, 2 * b], axis=1)
    turned = 3 * y @ np.array([[0.6, -0.8], [0.8, 0.6]])
    found = layer_importance.linear_cka(np.stack([x, y, turned, np.stack([b, b], axis=1)], axis=1))
    assert found[0, 1] == found[1, 0] == pytest.approx(4 / (2 * np.sqrt(68)))
    assert found[1, 2] == pytest.approx(1)  # turned and scaled
    assert found[0, 3] == pytest.approx(0)
    assert np.isnan(layer_importance.linear_cka(np.ones((4, 1, 2)))).all()
