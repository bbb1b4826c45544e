"""Systems -> PNG pictures. Colours are those of Okabe and Ito, told apart by colour-blind readers."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rales import metrics, statistics
from rales.report.folders import PROBABILITIES, selected_epoch
from rales.report.page import Picture
from rales.report.published import TABLE2, paper_rows
from rales.report.systems import System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
SPLIT_COLOURS = {"train": "#E69F00", "validation": "#009E73", "test": "#0072B2"}
GREY = "#666666"


def sp_se(systems: list[System]) -> Picture:
    """Specificity against sensitivity with lines of equal Score, intervals and the all-normal line."""
    figure, (axes,) = canvas(width=6.5, height=5.2 + 0.2 * len(systems))
    axes.set(xlabel="Specificity, %", ylabel="Sensitivity (exact class), %")
    for number, system in enumerate(systems):
        draw_system(axes, system, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    if any(not system.incomparable for system in systems):
        rows = np.array([[float(text.split()[0]) for text in row.printed] for row in paper_rows(TABLE2)])
        axes.plot(rows[:, 0], rows[:, 1], "o", mfc="none", color=GREY, ms=5, label="Table 2 of the paper, as printed")
    iso_scores(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, fontsize=8)
    listed = "; ".join(f"{s.name} {100 * s.figures['score'].mean():.1f}" for s in systems)
    return Picture(
        "sp_se.png",
        f"Specificity against sensitivity of each system. Mean Scores: {listed}; every cycle called normal 50.0.",
        "Large marks: means over seeds with 95 % intervals (patients resampled); small marks: single seeds. Slanted "
        "lines join equal Scores; calling every cycle normal lies on the heavy one, at specificity 100, sensitivity 0.",
        png(figure),
    )


def draw_system(axes: "Axes", system: System, colour: str, marker: str) -> None:
    names = ["specificity", "sensitivity"]
    x, y = (float(mean) for mean in 100 * system.figures[names].mean())
    if system.interval:
        low, high = 100 * np.array([system.interval[name] for name in names]).T
        errors = np.abs(np.array([low - (x, y), high - (x, y)])).T[:, :, None]
        axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], color=colour, lw=1.2, capsize=3)
    points = 100 * system.figures[names].to_numpy()
    axes.plot(points[:, 0], points[:, 1], marker, color=colour, ms=4, alpha=0.5)
    label = f"{system.name}: Score {(x + y) / 2:.1f}"
    axes.plot(x, y, marker, color=colour, ms=10, mec="white", label=label, zorder=4)


def iso_scores(axes: "Axes") -> None:
    """Lines Sp + Se = constant every five points of Score; that of 50 stands out and is always in the picture."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    short, over = max(0, left + bottom - 92) / 2, max(0, 108 - right - top) / 2
    left, bottom, right, top = left - short, bottom - short, right + over, top + over
    for score in range(5, 100, 5):
        x, y = (2 * score - top, top) if 2 * score - top > left else (left, 2 * score - left)
        if x > right or y < bottom:
            continue
        width, colour, label = 0.8, "#AAAAAA", ""
        if score == 50:
            width, colour, label = 1.8, "black", "Score 50.0: every cycle called normal"
        axes.plot([x, right], [y, 2 * score - right], color=colour, lw=width, ls="--", zorder=1, label=label)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(str(score), (x, y), (12, -16), textcoords="offset points", fontsize=9, bbox=box, ha="center")
    axes.set(xlim=(left, right), ylim=(bottom, top))


def training_loss(system: System, slug: str) -> Picture:
    """Loss by epoch and split."""
    figure, (axes,) = canvas(width=5, height=4)
    by_epoch(axes, system, "loss", scale=1)
    axes.set(xlabel="Epoch", ylabel="Loss")
    axes.legend(frameon=False, fontsize=9)
    caption = "Loss by epoch: mean over seeds, band of one standard deviation."
    return Picture(f"loss-{slug}.png", f"Loss of {system.name} by epoch for each split.", caption, png(figure))


def training_score(system: System, slug: str) -> Picture:
    """Score by epoch and split, with the line of 50 and the epoch that each seed used."""
    figure, (axes,) = canvas(width=5, height=4)
    by_epoch(axes, system, "score", scale=100)
    axes.axhline(50, color="black", ls="--", lw=1.2, label="every cycle called normal: 50.0")
    used = [(run, selected_epoch(run, run.select)) for run in system.runs]
    points = [(epoch, 100 * run.scores["test"][epoch]["score"]) for run, epoch in used if epoch is not None]
    if points:
        axes.plot(*np.array(points).T, "v", color=COLOURS[1], ms=6, label="epoch used")
    axes.set(xlabel="Epoch", ylabel="Score, %")
    axes.legend(frameon=False, fontsize=9)
    caption = "Score by epoch: mean over seeds, band of one standard deviation. Triangles: the epoch each seed used."
    return Picture(f"score-{slug}.png", f"Score of {system.name} by epoch for each split.", caption, png(figure))


def by_epoch(axes: "Axes", system: System, name: str, scale: float) -> None:
    """A line per split, mean over seeds, with a band of one standard deviation."""
    for split, colour in SPLIT_COLOURS.items():
        lines = [run.epochs[run.epochs["split"] == split].set_index("epoch")[name] for run in system.runs]
        table = scale * pd.concat(lines, axis=1).sort_index().dropna(how="all")
        if len(table):
            mean, sd = table.mean(axis=1), table.std(axis=1).fillna(0)
            axes.plot(mean.index, mean, color=colour, label=split, marker="." if len(mean) < 30 else "", lw=1.6)
            axes.fill_between(mean.index, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)


def confusion(system: System, slug: str) -> Picture | None:
    """Confusion matrix: share of each true class, with the mean count over seeds."""
    if system.cycles is None:
        return None
    counts = metrics.confusion(system.cycles["true"], system.cycles["predicted"]) / len(system.runs)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    figure, (axes,) = canvas(width=5, height=4.6)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{100 * share:.0f} %\n{counts[row, column]:.4g}"
        axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.65 else "black")
    axes.set_xticks(range(4), metrics.CLASSES)
    axes.set_yticks(range(4), metrics.CLASSES)
    axes.set(xlabel="Predicted", ylabel="True")
    axes.grid(visible=False)
    said = "; ".join(f"{name} {100 * shares[i, i]:.0f} %" for i, name in enumerate(metrics.CLASSES))
    return Picture(
        f"confusion-{slug}.png",
        f"Confusion matrix of {system.name}. Rightly recognised: {said}.",
        "Confusion matrix: share of the true class and cycles, mean over seeds.",
        png(figure),
    )


def reliability(system: System, slug: str) -> Picture | None:
    """Accuracy against confidence over all seeds' cycles, with the cycles per bin."""
    if system.cycles is None:
        return None
    curve = statistics.reliability_curve(system.cycles["true"], system.cycles[PROBABILITIES])
    error = float(system.figures["ece"].mean())
    figure, (axes,) = canvas(width=5, height=4.6)
    middle = (curve["low"] + curve["high"]) / 2
    axes.bar(
        middle, curve["cycles"] / curve["cycles"].sum(), width=1 / len(curve), color="#DDDDDD", label="share of cycles"
    )
    axes.plot([0, 1], [0, 1], color="black", ls="--", lw=1, label="calibrated")
    filled = curve[curve["cycles"] > 0]
    axes.plot(filled["confidence"], filled["accuracy"], "o-", color=COLOURS[0], label="accuracy")
    axes.set(xlabel="Confidence (probability of the predicted class)", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"ECE {error:.3f}", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return Picture(
        f"reliability-{slug}.png",
        f"Reliability of {system.name}: accuracy against confidence; expected calibration error {error:.3f}.",
        "Reliability of the most probable class; below the diagonal the system is too sure. ECE: mean over seeds.",
        png(figure),
    )


def layer_weights(systems: list[System]) -> Picture | None:
    """Figure 3 of the paper: learned weight of each layer, mean over runs, sum 1; None where none was learned."""
    tables = {s.name: [run.layer_weights for run in s.runs if run.layer_weights is not None] for s in systems}
    tables = {name: found for name, found in tables.items() if found}
    if not tables:
        return None
    figure, panels = canvas(width=6.5, height=3.2 * len(tables), rows=len(tables))
    said = []
    for axes, (name, found) in zip(panels, tables.items(), strict=True):
        table = pd.concat(found, axis=1)
        mean, sd = table.mean(axis=1), table.std(axis=1)
        axes.bar(mean.index.astype(str), mean, yerr=sd if len(found) > 1 else None, capsize=3, color=COLOURS[0])
        axes.axhline(
            1 / len(mean), color="black", ls="--", lw=1, label=f"equal weights, as at the start: {1 / len(mean):.3f}"
        )
        axes.set(xlabel="Layer", ylabel="Weight (sum 1)")
        axes.set_title(f"{name}, {len(found)} run{'s' * (len(found) > 1)}", fontsize=11)
        axes.set_ylim(min(0, mean.min() * 1.1), mean.max() * 1.25)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
        largest, smallest = mean.idxmax(), mean.idxmin()
        said.append(f"{name}: largest at layer {largest} ({mean.max():.3f}), smallest at {smallest} ({mean.min():.3f})")
    return Picture(
        "figure3.png",
        f"Learned layer weights. {'; '.join(said)}.",
        "Learned layer weights, normalised to sum 1, mean of the runs with standard deviation. A weight is not "
        "importance alone: outputs of the blocks grow with depth and only the last one passes the final LayerNorm, so "
        "a weight also makes up for the scale of its layer, and the dip at the last layer may come from that norm.",
        png(figure),
    )


def canvas(width: float, height: float, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    """Inches -> a white figure and its axes, one per row; no global state, so any thread may draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    panels = [figure.add_subplot(rows, 1, row) for row in range(1, rows + 1)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", lw=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
