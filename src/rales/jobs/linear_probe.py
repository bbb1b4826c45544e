"""Linear probes of pooled layers: every subset of layers scored under cross-validation, and learned layer weights.

A probe is an L2-regularised multinomial logistic regression. The features of a subset are those of its layers side by
side, so its Gram matrix is the sum of theirs. The optimum of the regression lies in the span of the n training rows:
its (classes, n) coefficients need only that sum, and a step costs the same for one layer as for twelve. They are found
by L-BFGS in the metric of the Gram matrix, one product with it a step. About ten steps are enough, because neighbouring
subsets start from each other's solution, and because a small basis, common to all subsets, solves for the few
directions in which layers vary most.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.progress import progress_bar

Pooled = NDArray[np.float32]
Whole = NDArray[np.int64]
Subset = tuple[int, ...]  # layers, numbered from 0
Measure = Callable[[Whole, NDArray[np.float64]], float]  # (m,) classes, (m, C) probabilities -> a figure
C = 1e-3
MOST_SUBSETS = 100_000
CHUNK = 64  # subsets of one piece of work; its first fit starts from zero, so an interruption changes no result
BASIS = 32
PAIRS = 5  # of steps that L-BFGS remembers
STEPS = 2000
ROUNDS = 300  # between layer weights and head
TOLERANCE = 2e-6  # of the summed loss, in nats: moves probabilities by less than 1e-4 where c is 0.001
INTERCEPT = 1e3  # variance of the constant feature in units of 1 / c: large, so that an intercept costs nothing


def probe_all(
    pooled: Pooled,
    labels: Sequence[int] | Whole,
    folds: Sequence[int] | Whole,
    *,
    c: float = C,
    sizes: Sequence[int] | None = None,
    classes: int = 4,
    progress: bool = False,
) -> pd.DataFrame:
    """(N, L, D) pooled layers, (N,) classes, (N,) folds -> a row per subset of layers, the highest score first.

    Columns: layers ("1+5+11", numbered from 1), size, specificity, sensitivity, score (the test rows of all folds
    together), score_sd (over folds). Each fit is the optimum of scikit-learn's `LogisticRegression(C=c,
    class_weight="balanced")` (of two `classes` C=2c, since scikit-learn then has one vector of weights) on features
    standardised by the training rows. `sizes` limits the layers in a subset.
    Time grows with c: twofold from 0.001 to 0.01, thirtyfold to 1. Errors: shapes that do not fit together, a fold
    whose training rows are of one class, too many subsets.
    """
    chosen = subsets(pooled.shape[1], sizes)
    return table(chosen, count(pooled, labels, folds, chosen, c=c, classes=classes, progress=progress))


def subsets(layers: int, sizes: Sequence[int] | None = None) -> list[Subset]:
    """Number of layers -> its subsets of the given sizes (default: all), in an order where neighbours are alike."""
    sizes = range(1, layers + 1) if sizes is None else sorted(set(sizes))
    if not sizes or min(sizes) < 1 or max(sizes) > layers:
        raise ValueError(f"subsets of {list(sizes)} layers, expected sizes from 1 to {layers}")
    number = sum(math.comb(layers, size) for size in sizes)
    if number > MOST_SUBSETS:
        raise ValueError(f"{number} subsets of {layers} layers, expected {MOST_SUBSETS} at most; ask for fewer sizes")
    return sorted((s for size in sizes for s in combinations(range(layers), size)), key=gray_rank)


def gray_rank(subset: Subset) -> int:
    """Subset -> its place in the Gray code, where neighbours differ in one layer (in two, among those of one size)."""
    rank = bits = sum(1 << layer for layer in subset)
    while bits := bits >> 1:
        rank ^= bits
    return rank


def count(
    pooled: Pooled,
    labels: Sequence[int] | Whole,
    folds: Sequence[int] | Whole,
    chosen: Sequence[Subset],
    *,
    c: float = C,
    classes: int = 4,
    counts: Whole | None = None,
    keep: Callable[[Whole], None] | None = None,
    measure: Measure | None = None,
    measured: NDArray[np.float64] | None = None,
    progress: bool = False,
) -> Whole:
    """Pooled layers, classes, folds, subsets -> (folds, subsets, C, C) confusion counts on the test rows of each fold,
    of all C `classes`.

    An interrupted call goes on with the `counts` that `keep` was given last (-1 where nothing is known yet). Pieces of
    work are shared out to one thread per core. What `measure` says of each fit is put into `measured` (folds, subsets).
    """
    label, fold_of = np.asarray(labels, np.int64), np.asarray(folds, np.int64)
    check(pooled, label, fold_of, c)
    numbers = np.unique(fold_of)
    if counts is None:
        counts = np.full((len(numbers), len(chosen), classes, classes), -1, np.int64)
    known = int((counts[:, :, 0, 0] >= 0).sum())
    bar = progress_bar(shown=progress, total=len(numbers) * len(chosen), initial=known, desc="probe", unit="fit")
    with bar, one_thread_each() as threads, ThreadPoolExecutor(threads, thread_name_prefix="rales-probe") as pool:
        for i, number in enumerate(numbers):
            pieces = [slice(start, start + CHUNK) for start in range(0, len(chosen), CHUNK)]
            pieces = [piece for piece in pieces if (counts[i, piece] < 0).any()]
            if not pieces:
                continue
            fold = prepare(pooled, label, fold_of != number, c, classes)
            jobs = {pool.submit(score_subsets, fold, chosen[piece], measure): piece for piece in pieces}
            try:
                for job in as_completed(jobs):
                    found, figures = job.result()
                    counts[i, jobs[job]] = found
                    if measured is not None:
                        measured[i, jobs[job]] = figures
                    bar.update(len(found))
                    if keep:
                        keep(counts)
            finally:
                for job in jobs:
                    job.cancel()  # those not begun, when interrupted
    return counts


def check(pooled: Pooled, label: Whole, fold_of: Whole, c: float) -> None:
    if pooled.ndim != 3 or label.shape != pooled.shape[:1] or fold_of.shape != label.shape:
        raise ValueError(
            f"pooled layers of shape {pooled.shape}, classes {label.shape}, folds {fold_of.shape}; "
            "expected (rows, layers, features) and one class and fold a row"
        )
    if not np.isfinite(pooled).all():
        raise ValueError("the pooled layers hold a number that is not finite; check the recordings and the encoder")
    check_strength(c)
    if len(np.unique(fold_of)) < 2:
        raise ValueError("all rows are in one fold, expected at least two folds")
    for number in np.unique(fold_of):
        if len(np.unique(label[fold_of != number])) < 2:
            raise ValueError(f"without fold {number} all rows are of one class; use fewer folds or more patients")


def check_strength(c: float) -> None:
    if not (math.isfinite(c) and c > 0):
        raise ValueError(f"regularisation c is {c}, expected a number above 0")


@contextmanager
def one_thread_each() -> Iterator[int]:
    """-> number of threads to start; inside, torch computes every product on the thread that asks for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Fold:
    """What the fits of one fold share: L layers, n training rows, m test rows, r basis vectors, k classes present."""

    grams: Tensor  # (L, n, n) float32, of training rows
    cross: Tensor  # (L, n, m) float32, training rows with test rows
    basis: Tensor  # (r, n) coefficients of the basis
    images: Tensor  # (L, r, n) the basis times each Gram matrix
    flat: Tensor  # (r, n) the basis times the Gram matrix of the constant feature
    target: Tensor  # (k, n) one-hot classes of the training rows
    weight: Tensor  # (n,) c times the balancing class weights
    constant: float  # Gram matrix of the constant feature
    classes: Whole  # (k,)
    many: int  # classes in all, C
    test_label: Whole  # (m,)


def prepare(pooled: Pooled, label: Whole, train: NDArray[np.bool_], c: float, many: int = 4) -> Fold:
    """(N, L, D) pooled layers, (N,) classes, (N,) whether a row trains -> the fold's matrices.

    Mean and standard deviation, the class weights and the basis come from the training rows alone.
    """
    x = torch.from_numpy(standardised(pooled, train)).transpose(0, 1)
    z, test = x[:, train].contiguous(), x[:, ~train].contiguous()
    grams = torch.stack([layer @ layer.T for layer in z])
    classes, number, size = np.unique(label[train], return_inverse=True, return_counts=True)
    rows = z.shape[1]
    # The constant and nearly the top eigenvectors of the sum of all layers: any basis will do, a good one is faster.
    rank = min(BASIS, rows - 1, len(z) * z.shape[2])
    top = torch.randn(rows, rank, generator=torch.Generator().manual_seed(0))
    whole = grams.sum(dim=0)
    for _ in range(3):
        basis = torch.linalg.qr(torch.cat([torch.ones(rows, 1), whole @ top], dim=1)).Q.T
        top = basis[1:].T
    return Fold(
        grams=grams,
        cross=torch.stack([a @ b.T for a, b in zip(z, test, strict=True)]),
        basis=basis.double(),
        images=torch.stack([basis @ gram for gram in grams]).double(),
        flat=(INTERCEPT / c * basis.double().sum(dim=1, keepdim=True)).expand(-1, rows).contiguous(),
        target=torch.nn.functional.one_hot(torch.from_numpy(number), len(classes)).T.double(),
        weight=torch.from_numpy(c * (rows / (len(classes) * size))[number]),
        constant=INTERCEPT / c,
        classes=classes,
        many=many,
        test_label=label[~train],
    )


def standardised(pooled: Pooled, train: NDArray[np.bool_]) -> Pooled:
    """(N, L, D), (N,) whether a row trains -> the same with mean 0 and deviation 1 over the training rows."""
    centre, scale = moments(pooled[train])
    return np.asarray((pooled - centre) / scale, np.float32)


def moments(rows: Pooled) -> tuple[Pooled, Pooled]:
    """(n, L, D) -> (L, D) mean and standard deviation; the deviation of a feature that only rounding moves is 1."""
    centre, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale[scale <= 1e-6 * np.abs(centre)] = 1
    return centre.astype(np.float32), scale.astype(np.float32)


def score_subsets(
    fold: Fold, chosen: Sequence[Subset], measure: Measure | None = None
) -> tuple[Whole, NDArray[np.float64]]:
    """Subsets -> (subsets, C, C) confusion counts on the fold's test rows, and (subsets,) what `measure` says of their
    probabilities, NaN without one."""
    counts, figures = [], []
    for p in probabilities(fold, chosen):
        counts.append(confusion_matrix(fold.test_label, p.argmax(axis=1), fold.many))
        figures.append(measure(fold.test_label, p) if measure else math.nan)
    return np.stack(counts), np.array(figures)


def probabilities(fold: Fold, chosen: Sequence[Subset], tolerance: float = TOLERANCE) -> Iterator[NDArray[np.float64]]:
    """Subsets -> (m, classes) probabilities of the test rows for each; a class without training rows has 0.

    Gram matrices follow from those of the subset before by adding and subtracting the layers that differ.
    """
    gram, cross, image = torch.zeros_like(fold.grams[0]), torch.zeros_like(fold.cross[0]), fold.flat.clone()
    before: Subset = ()
    solution = torch.zeros_like(fold.target)
    for subset in chosen:
        for layer in set(before) ^ set(subset):
            sign = 1 if layer in subset else -1
            gram.add_(fold.grams[layer], alpha=sign)
            cross.add_(fold.cross[layer], alpha=sign)
            image.add_(fold.images[layer], alpha=sign)
        before = subset
        solution = fit(fold, gram, image, solution, tolerance)
        yield predicted(fold, solution, cross)


def predicted(fold: Fold, solution: Tensor, cross: Tensor) -> NDArray[np.float64]:
    """Coefficients (k, n) and Gram matrix of training with test rows (n, m) -> (m, classes) probabilities."""
    p = np.zeros((len(fold.test_label), fold.many))
    p[:, fold.classes] = times(solution, cross, fold.constant).softmax(dim=0).T.numpy()
    return p


def fit(fold: Fold, gram: Tensor, image: Tensor, start: Tensor, tolerance: float) -> Tensor:
    """Gram matrix of a subset (n, n), the basis times it and the constant (r, n), a start (k, n) -> coefficients of the
    optimum (k, n).

    A point is a pair (2, k, n): coefficients a and logits a K, and the inner product of two is that of their weight
    vectors, sum(a * b K). The gradient's coefficients are a + c w (p - y). Stops when the loss can fall by no more
    than `tolerance` nats according to the quadratic model. Only the product with K is in float32. Sums are built in
    place: on arrays of this size fresh memory costs more than the arithmetic.
    """
    point = torch.stack([start, times(start, gram, fold.constant)])
    g, p = gradient(point, gram, fold)
    penalty = image @ fold.basis.T
    # Layers of few features do not fill the basis; what float32 leaves of zero there must not be inverted.
    penalty.diagonal().add_(1e-6 * (penalty.trace() - fold.constant * fold.basis.sum(dim=1).square().sum()))
    bent = (image * (fold.weight * (p * (1 - p)).mean(dim=0))) @ image.T
    shortening = torch.linalg.inv(penalty) - torch.linalg.inv(penalty + bent)  # (r, r)
    value = objective(point, fold)
    known: list[tuple[Tensor, Tensor, float]] = []  # steps, changes of the gradient, 1 / their product
    for _ in range(STEPS):
        step, shares = g.neg(), []
        for moved, changed, scale in reversed(known):
            shares.append(scale * inner(moved, step))
            step.sub_(changed, alpha=shares[-1])
        within = step[0] @ image.T @ shortening  # (k, r)
        step[0].sub_(within @ fold.basis)
        step[1].sub_(within @ image)
        for (moved, changed, scale), share in zip(known, reversed(shares), strict=True):
            step.add_(moved, alpha=share - scale * inner(changed, step))
        slope, length = inner(g, step), 1.0
        if -slope < tolerance * INTERCEPT / fold.constant:
            break
        tried = point + step
        while (reached := objective(tried, fold)) > value + 1e-4 * length * slope and length > 1e-6:
            length /= 2
            torch.add(point, step, alpha=length, out=tried)
        if length <= 1e-6:  # at the limit of float32
            break
        value, point = reached, tried
        before, (g, p) = g, gradient(point, gram, fold)
        changed, moved = before.neg_().add_(g), step.mul_(length)
        curvature = inner(moved, changed)
        if curvature > 0:
            known = [*known[1 - PAIRS :], (moved, changed, 1 / curvature)]
    return point[0]


def gradient(point: Tensor, gram: Tensor, fold: Fold) -> tuple[Tensor, Tensor]:
    """Point (2, k, n) -> its gradient (2, k, n) and probabilities (k, n)."""
    g = torch.empty_like(point)
    p = point[1].softmax(dim=0)
    torch.sub(p, fold.target, out=g[0]).mul_(fold.weight).add_(point[0])
    g[1] = times(g[0], gram, fold.constant)
    return g, p


def times(coefficients: Tensor, gram: Tensor, constant: float) -> Tensor:
    """(k, n) float64, (n, m) float32 -> (k, m): the product with a Gram matrix and that of the constant feature."""
    return (coefficients.float() @ gram).double().add_(coefficients.sum(dim=1, keepdim=True), alpha=constant)


def inner(a: Tensor, b: Tensor) -> float:
    return torch.dot(a[0].flatten(), b[1].flatten()).item()


def objective(point: Tensor, fold: Fold) -> float:
    """-> c times the weighted cross-entropy plus half the squared length of the weights."""
    entropy = point[1].logsumexp(dim=0).sub_((point[1] * fold.target).sum(dim=0))
    return torch.dot(fold.weight, entropy).item() + inner(point, point) / 2


def table(chosen: Sequence[Subset], counts: Whole, aurocs: NDArray[np.float64] | None = None) -> pd.DataFrame:
    """Subsets and their (folds, subsets, C, C) counts -> the columns of `probe_all`, the highest score first; with
    (folds, subsets) `aurocs` also auroc (mean over folds), auroc_sd and rank_by_auroc."""
    by_size = sorted(range(len(chosen)), key=lambda i: (len(chosen[i]), chosen[i]))
    each = pd.DataFrame([[icbhi_scores(fold)["score"] for fold in counts[:, i]] for i in by_size])
    found = pd.DataFrame([icbhi_scores(counts[:, i].sum(axis=0)) for i in by_size])
    found.insert(0, "layers", [name(chosen[i]) for i in by_size])
    found.insert(1, "size", [len(chosen[i]) for i in by_size])
    found["score_sd"] = each.std(axis=1)
    if aurocs is not None:
        of_folds = pd.DataFrame(aurocs.T[by_size])
        found["auroc"], found["auroc_sd"] = of_folds.mean(axis=1), of_folds.std(axis=1)
        found["rank_by_auroc"] = found["auroc"].rank(ascending=False, method="first", na_option="bottom").astype(int)
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def name(subset: Subset) -> str:
    """(0, 4, 10) -> "1+5+11"."""
    return "+".join(str(layer + 1) for layer in subset)


def weighted(pooled: Mapping[str, Pooled], weight: Sequence[float] | NDArray[np.floating]) -> Pooled:
    """Pooled `mean`, `max`, `min` (N, L, D) of layers z, (L,) weights of any sign -> (N, L, D) mean + max of w z.

    max(w z) is w max(z) where w >= 0 and w min(z) where it is negative, so no layer output is needed again.
    """
    w = np.asarray(weight, np.float32)[:, None]
    return np.asarray(w * (pooled["mean"] + np.where(w >= 0, pooled["max"], pooled["min"])), np.float32)


def learned_weights(
    pooled: Pooled,
    labels: Sequence[int] | Whole,
    folds: Sequence[int] | Whole,
    *,
    c: float = C,
    classes: int = 4,
    progress: bool = False,
) -> tuple[NDArray[np.float64], Whole]:
    """(N, L, D) pooled layers, (N,) classes, (N,) folds -> (folds, L) layer weights learned together with the head, and
    (folds, C, C) confusion counts on the test rows.

    The regression of `probe_all` on all layers, each standardised, so that a weight does not stand in for the scale of
    its layer, and then multiplied by its weight. Weights are not negative and have a root mean square of 1 (else they
    would escape the penalty on the head), which makes this a group lasso over layers: the optimum is unique.
    """
    label, fold_of = np.asarray(labels, np.int64), np.asarray(folds, np.int64)
    check(pooled, label, fold_of, c)

    def one_fold(number: int) -> tuple[NDArray[np.float64], Whole]:
        fold = prepare(pooled, label, fold_of != number, c, classes)
        square, solution = learn(fold)
        p = predicted(fold, solution, torch.tensordot(square.float(), fold.cross, dims=1))
        return square.sqrt().numpy(), confusion_matrix(fold.test_label, p.argmax(axis=1), classes)

    numbers = np.unique(fold_of).tolist()
    with one_thread_each() as threads, ThreadPoolExecutor(threads, thread_name_prefix="rales-weights") as pool:
        done = pool.map(one_fold, numbers)
        bar = progress_bar(done, shown=progress, desc="learn weights", total=len(numbers), unit="fold")
        weights, counts = zip(*bar, strict=True)
    return np.stack(weights), np.stack(counts)


def learn(fold: Fold) -> tuple[Tensor, Tensor]:
    """-> squared layer weights (L,) with a mean of 1, coefficients (k, n).

    The Gram matrix is the sum of the layers' own times the squared weights. For given coefficients the best squared
    weight of a layer is in proportion to the length of its part of the head, so the two are solved for in turn.
    """
    square = torch.ones(len(fold.grams), dtype=torch.float64)
    solution = torch.zeros_like(fold.target)
    for _ in range(ROUNDS):
        gram = torch.tensordot(square.float(), fold.grams, dims=1)
        solution = fit(fold, gram, fold.flat + torch.tensordot(square, fold.images, dims=1), solution, TOLERANCE)
        lengths = square * torch.stack([(times(solution, own, 0.0) * solution).sum() for own in fold.grams]).sqrt()
        before, square = square, lengths / lengths.mean()
        if (square - before).abs().max() < 2e-3:
            break
    return square, solution
