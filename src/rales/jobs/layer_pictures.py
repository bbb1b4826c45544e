"""The picture of a layer search: subsets, learned weights, what each layer is worth, how alike they are."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.files.atomic import atomic_write
from rales.typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 12  # layers whose figures still fit into the squares of a heat map


def draw_search(
    path: Path,
    found: pd.DataFrame,
    shares: NDArray[np.float64],
    importance: pd.DataFrame,
    cka: FloatArray,
    notes: list[str],
    normal: str,
) -> None:
    """Table of all subsets, (folds, L) learned weights, `leave_one_out`, (L, L) similarity, notes and the name of the
    normal class -> a PNG of six panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10.4), dpi=130, layout="constrained")
    panels = figure.subplots(2, 3)
    layers = shares.shape[1]
    draw_heat_map(figure, panels[0, 0], 100 * pair_figures(found, "score", layers), ".1f")
    panels[0, 0].set_title("Score, %, of single layers and pairs")
    draw_heat_map(figure, panels[0, 1], pair_figures(found, "auroc", layers), ".2f")
    panels[0, 1].set_title("AUROC of single layers and pairs")
    draw_best(panels[0, 2], found, normal)
    draw_weights(panels[1, 0], shares)
    draw_importance(panels[1, 1], importance)
    draw_heat_map(figure, panels[1, 2], cka, ".2f", low=0, high=1)
    panels[1, 2].set_title("How alike: linear CKA of the means over time")
    figure.suptitle("\n".join(notes), fontsize=8)
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png")


def pair_figures(found: pd.DataFrame, name: str, layers: int) -> FloatArray:
    """-> (L, L) figure of each single layer (diagonal) and pair, NaN where it was not asked for."""
    figures = np.full((layers, layers), np.nan)
    few = found[found["size"] <= 2]
    for words, value in zip(few["layers"], few[name], strict=True):
        numbers = [int(number) - 1 for number in words.split("+")]
        figures[numbers[0], numbers[-1]] = figures[numbers[-1], numbers[0]] = value
    return figures


def draw_heat_map(
    figure: "Figure", axes: "Axes", values: FloatArray, form: str, low: float | None = None, high: float | None = None
) -> None:
    image = axes.imshow(values, cmap="cividis", origin="lower", vmin=low, vmax=high)
    if len(values) <= NAMED:
        middle = np.mean(image.get_clim()) if np.isfinite(values).any() else 0
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > middle else "white"
                axes.text(j, i, f"{value:{form}}", ha="center", va="center", fontsize=6.5, color=colour)
    axes.set(xlabel="Layer", ylabel="Layer")
    names = [str(layer) for layer in range(1, len(values) + 1)]
    axes.set_xticks(range(len(values)), names)
    axes.set_yticks(range(len(values)), names)
    figure.colorbar(image, ax=axes, shrink=0.8)


def draw_best(axes: "Axes", found: pd.DataFrame, normal: str) -> None:
    best = found.groupby("size").head(1).sort_values("size")
    axes.barh(best["size"].astype(str), 100 * best["score"], xerr=100 * best["score_sd"], color="#56B4E9", capsize=2)
    axes.axvline(50, color="black", ls="--", lw=1.2, label=f"every cycle called {normal}: 50.0")
    for place, subset in enumerate(best["layers"]):
        axes.text(1, place, subset, va="center", fontsize=7)
    axes.set(title="Best Score of each size (SD over folds)", xlabel="Score, %", ylabel="Layers in the subset")
    axes.set_xlim(0, max(55.0, 100 * float((best["score"] + best["score_sd"].fillna(0)).max()) + 2))
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def draw_weights(axes: "Axes", shares: NDArray[np.float64]) -> None:
    layers = shares.shape[1]
    mean, sd = shares.mean(axis=0), shares.std(axis=0, ddof=1)
    axes.bar([str(layer) for layer in range(1, layers + 1)], mean, yerr=sd, color="#0072B2", capsize=2)
    axes.axhline(1 / layers, color="black", ls="--", lw=1.2, label=f"equal weights: {1 / layers:.3f}")
    axes.set(title="Learned weights (SD over folds)", xlabel="Layer", ylabel="Weight (sum 1)")
    axes.set_ylim(0)
    axes.legend(frameon=False, fontsize=8)


def draw_importance(axes: "Axes", importance: pd.DataFrame) -> None:
    names = importance["layer"].astype(str)
    axes.bar(names, importance["auroc"], yerr=importance["auroc_sd"], color="#D55E00", capsize=2)
    axes.axhline(0, color="black", lw=1)
    axes.set(
        title="AUROC lost without a layer (SD over folds)", xlabel="Layer left out", ylabel="All layers minus that"
    )
