"""Plots of systems as PNG, in the colours of Okabe and Ito, which colour-blind readers can tell apart."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rales.errors import count_noun
from rales.evaluation import calibration, metrics
from rales.report.literature import PHYSICIANS, TABLE2, paper_rows
from rales.report.load_runs import selected_epoch
from rales.report.page import Picture
from rales.report.protocols import PROTOCOLS
from rales.report.systems import System, count_by_class
from rales.typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P"
SPLIT_COLOURS = {"train": "#E69F00", "validation": "#009E73", "test": "#0072B2"}
GREY = "#666666"
MOST_TICKS = 16  # of an axis whose words would run into one another


def plot_sp_se(systems: list[System]) -> Picture:
    """Specificity against sensitivity with lines of equal Score, intervals and the all-normal point."""
    lines = sum(wrap_words(system.name).count("\n") + 1 for system in systems)
    figure, (axes,) = make_canvas(width=6.5, height=6.9 + 0.2 * lines)
    axes.set(xlabel="Specificity, %", ylabel="Sensitivity (exact class), %", xlim=(-2, 102), ylim=(-2, 102))
    axes.set_aspect("equal")
    equal_scores(axes)
    for number, system in enumerate(systems):
        draw_system(axes, system, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    if any(not system.incomparable for system in systems):
        rows = np.array([[float(text.split()[0]) for text in row.printed] for row in paper_rows(TABLE2)])
        axes.plot(rows[:, 0], rows[:, 1], "o", mfc="none", color=GREY, ms=5, label="Table 2 of the paper, as printed")
    constant = f"every cycle called {systems[0].label_set.normal}"
    axes.plot(100, 0, "X", color="black", ms=11, clip_on=False, zorder=5, label=f"{constant}: Score 50.0")
    if systems[0].label_set.is_icbhi:
        who, *printed = PHYSICIANS
        place = [float(text) for text in printed[:2]]
        label = f"{who.partition(',')[0]} on a quarter of ICBHI's test set: Score {printed[2]}"
        axes.plot(*place, "P", mfc="white", mec="black", ms=9, zorder=4, label=label)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    listed = "; ".join(f"{s.name} {100 * s.figures['score'].mean():.1f}" for s in systems)
    return Picture(
        "sp_se.png",
        f"Specificity against sensitivity of each system. Mean Scores: {listed}; {constant} 50.0.",
        "Large marks: means over seeds with 95 % intervals (patients resampled); small marks: single seeds. Slanted "
        "lines join equal Scores; the cross is what calling every cycle "
        f"{systems[0].label_set.normal} gives, and the heavy line its Score.",
        render_png(figure),
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
    label = wrap_words(f"{system.name}: Score {(x + y) / 2:.1f}")
    axes.plot(x, y, marker, color=colour, ms=10, mec="white", label=label, zorder=4)


def equal_scores(axes: "Axes") -> None:
    """Lines of equal Score, every ten points, named where they leave the square of 0 to 100; that of 50 stands out."""
    for score in range(10, 100, 10):
        low, high = max(0, 2 * score - 100), min(100, 2 * score)
        width, colour = (1.8, "black") if score == 50 else (0.8, "#AAAAAA")
        axes.plot([low, high], [high, low], color=colour, lw=width, ls="--", zorder=1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        place = (low + 0.1 * (high - low), high - 0.1 * (high - low))
        axes.annotate(str(score), place, fontsize=9, bbox=box, ha="center", va="center", color=GREY)


def plot_training_loss(system: System, slug: str) -> Picture:
    """Loss by epoch and split."""
    figure, (axes,) = make_canvas(width=5, height=4)
    draw_by_epoch(axes, system, "loss", scale=1)
    axes.set(xlabel="Epoch", ylabel="Loss")
    place_legend_below(axes)
    caption = "Loss by epoch: mean over seeds, band of one standard deviation."
    return Picture(f"loss-{slug}.png", f"Loss of {system.name} by epoch for each split.", caption, render_png(figure))


def plot_training_score(system: System, slug: str) -> Picture:
    """Score by epoch and split, with the line of 50 and the epoch that each seed used."""
    figure, (axes,) = make_canvas(width=5, height=4)
    draw_by_epoch(axes, system, "score", scale=100)
    axes.axhline(50, color="black", ls="--", lw=1.2, label=f"every cycle called {system.label_set.normal}: 50.0")
    used = [(run, selected_epoch(run, run.select)) for run in system.runs]
    points = [(epoch, 100 * run.scores["test"][epoch]["score"]) for run, epoch in used if epoch is not None]
    if points:
        axes.plot(*np.array(points).T, "v", color=COLOURS[1], ms=6, label="epoch used")
    axes.set(xlabel="Epoch", ylabel="Score, %", ylim=(0, 100))
    place_legend_below(axes)
    caption = "Score by epoch: mean over seeds, band of one standard deviation. Triangles: the epoch each seed used."
    return Picture(f"score-{slug}.png", f"Score of {system.name} by epoch for each split.", caption, render_png(figure))


def wrap_words(text: str) -> str:
    """Name of a system, however long -> lines that fit beside or above axes of 6.5 inches."""
    return textwrap.fill(text, width=64)


def place_legend_below(axes: "Axes", title: str | None = None, ncols: int = 2) -> None:
    """The legend under the axes of epochs, where it covers no curve, and whole numbers on them."""
    from matplotlib.ticker import MaxNLocator

    axes.legend(title=title, frameon=False, fontsize=9, ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def draw_by_epoch(axes: "Axes", system: System, name: str, scale: float) -> None:
    """A line per split, mean over seeds, with a band of one standard deviation."""
    for split, colour in SPLIT_COLOURS.items():
        lines = [run.epochs[run.epochs["split"] == split].set_index("epoch")[name] for run in system.runs]
        table = scale * pd.concat(lines, axis=1).sort_index().dropna(how="all")
        if len(table):
            mean, sd = table.mean(axis=1), table.std(axis=1).fillna(0)
            axes.plot(mean.index, mean, color=colour, label=split, marker="." if len(mean) < 30 else "", lw=1.6)
            axes.fill_between(mean.index, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)


def plot_confusion(system: System, slug: str) -> Picture | None:
    """Confusion matrix: share of each true class, with the mean count over seeds. Of independent classes how many of
    the cycles with and without each are called so."""
    if system.cycles is None:
        return None
    names = system.label_set.classes
    if system.label_set.independent:
        tables = np.stack(list(count_by_class(system.cycles, system.label_set).values())) / len(system.runs)
        totals = tables.sum(axis=2, keepdims=True)
        answers = np.divide(tables, totals, out=np.zeros_like(tables), where=totals > 0)
        counts, shares, right = tables.reshape(-1, 4), answers.reshape(-1, 4), answers[:, 1, 1]
        columns = ["without it,\nnot named", "without it,\nnamed", "with it,\nnot named", "with it,\nnamed"]
        caption = "Answers for each class: share of the cycles without it or with it, and cycles, mean over seeds."
    else:
        true, predicted = system.cycles["true"], system.cycles["predicted"]
        counts = metrics.confusion_matrix(true, predicted, len(names)) / len(system.runs)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        columns, right = list(names), np.diag(shares)
        caption = "Confusion matrix: share of the true class and cycles, mean over seeds."

    figure, (axes,) = make_canvas(*confusion_size(names, len(columns)))
    draw_shares(axes, shares, counts)
    crowded = len(names) > 4 and not system.label_set.independent
    axes.set_xticks(range(len(columns)), columns, rotation=90 if crowded else 0)
    axes.set_yticks(range(len(names)), names)
    if not system.label_set.independent:
        axes.set(xlabel="Predicted", ylabel="True")
    axes.grid(visible=False)
    said = "; ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, right, strict=True))
    alt = f"Confusion matrix of {system.name}. Rightly recognised: {said}."
    return Picture(f"confusion-{slug}.png", alt, caption, render_png(figure))


def confusion_size(names: Sequence[str], columns: int) -> tuple[float, float]:
    """Classes and the columns of their matrix -> inches that its texts need, across and down."""
    if len(names) <= 4 and max(map(len, names)) <= 8:
        return 5.0, 4.6
    margin = 1.2 + 0.09 * max(map(len, names))
    across = 0.5 if columns > 8 else 0.8
    return max(5.0, margin + across * columns), max(4.6, margin + 0.45 * len(names))


def draw_shares(axes: "Axes", shares: FloatArray, counts: FloatArray) -> None:
    """(rows, columns) shares and counts -> coloured squares with both in them, where there is room for two lines."""
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto" if shares.shape != (4, 4) else "equal")
    crowded = max(shares.shape) > 8
    for (row, column), share in np.ndenumerate(shares):
        text = f"{100 * share:.0f} %\n{counts[row, column]:.4g}"
        if crowded:
            text = f"{100 * share:.0f}" if counts[row, column] else ""
        colour, size = "white" if share > 0.65 else "black", 8 if max(shares.shape) > 4 else None
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def plot_reliability(system: System, slug: str) -> Picture | None:
    """Accuracy against confidence over all seeds' cycles, with the cycles per bin; of independent classes over the
    answers, yes or no, to each."""
    if system.cycles is None:
        return None
    label_set = system.label_set
    targets = label_set.make_targets(system.cycles["true_label"].tolist()).ravel()
    probabilities = system.cycles[list(label_set.columns)].to_numpy(np.float64)
    curve = calibration.reliability_curve(targets, calibration.as_exclusive(probabilities, label_set))
    counted = "answers" if label_set.independent else "cycles"
    of = "answer" if label_set.independent else "predicted class"
    error = float(system.figures["ece"].mean())
    figure, (axes,) = make_canvas(width=5, height=4.6)
    middle = (curve["low"] + curve["high"]) / 2
    heights = curve["cycles"] / curve["cycles"].sum()
    axes.bar(middle, heights, width=1 / len(curve), color="#DDDDDD", label=f"share of {counted}")
    axes.plot([0, 1], [0, 1], color="black", ls="--", lw=1, label="calibrated")
    filled = curve[curve["cycles"] > 0]
    axes.plot(filled["confidence"], filled["accuracy"], "o-", color=COLOURS[0], label="accuracy")
    axes.set(xlabel=f"Confidence (probability of the {of})", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"ECE {error:.3f}", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    most = "most probable class" if not label_set.independent else "answers to each class"
    return Picture(
        f"reliability-{slug}.png",
        f"Reliability of {system.name}: accuracy against confidence; expected calibration error {error:.3f}.",
        f"Reliability of the {most}; below the diagonal the system is too sure. ECE: mean over seeds.",
        render_png(figure),
    )


def plot_layer_weights(systems: list[System]) -> Picture | None:
    """Figure 3 of the paper: learned weight of each layer, mean over runs, sum 1, at the epoch used and, where the runs
    kept all epochs, at the one that is best on the test set; None where none was learned."""
    tables = {s.name: chosen_weights(s) for s in systems}
    tables = {name: found for name, found in tables.items() if found}
    if not tables:
        return None

    figure, panels = make_canvas(width=6.5, height=3.4 * len(tables), rows=len(tables))
    said = []
    for axes, (name, found) in zip(panels, tables.items(), strict=True):
        width = 0.8 / len(found)
        for number, (epoch, table) in enumerate(found.items()):
            mean, sd = table.mean(axis=1), table.std(axis=1)
            places = np.arange(len(mean)) + (number - (len(found) - 1) / 2) * width
            error = sd if table.shape[1] > 1 else None
            axes.bar(places, mean, width, yerr=error, capsize=3, color=COLOURS[number], label=epoch)
            largest, smallest = mean.idxmax(), mean.idxmin()
            said.append(
                f"{name}, {epoch}: largest at layer {largest} ({mean.max():.3f}), smallest at {smallest} "
                f"({mean.min():.3f})"
            )

        every = -(-len(mean) // MOST_TICKS)
        axes.set_xticks(range(0, len(mean), every), mean.index.astype(str)[::every])
        axes.axhline(1 / len(mean), color="black", ls="--", lw=1, label=f"equal, as at the start: {1 / len(mean):.3f}")
        axes.set(xlabel="Layer", ylabel="Weight (sum 1)")
        runs = table.shape[1]
        axes.set_title(wrap_words(f"{name}, {count_noun(runs, 'run')}"), fontsize=11)
        axes.set_ylim(min(0, mean.min() * 1.1), mean.max() * 1.15)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return Picture(
        "figure3.png",
        f"Learned layer weights. {'; '.join(said)}.",
        "Learned layer weights, normalised to sum 1, mean of the runs with standard deviation; the paper's epoch is "
        "the best on the test set. A weight is not importance alone: outputs of the blocks grow with depth and only "
        "the last one passes the final LayerNorm, so a weight also makes up for the scale of its layer, and the dip at "
        "the last layer may come from that norm.",
        render_png(figure),
    )


def chosen_weights(system: System) -> dict[str, pd.DataFrame]:
    """-> words for an epoch -> (layers, runs) weights at it; empty where none were learned."""
    weights = [run.layer_weights for run in system.runs if run.layer_weights is not None]
    if not weights:
        return {}
    tables = {f"epoch used: {PROTOCOLS[system.select]}": pd.concat(weights, axis=1)}
    best = [
        run.trajectory.loc[epoch]
        for run in system.runs
        if (epoch := selected_epoch(run, "test_best")) is not None
        and run.trajectory is not None
        and epoch in run.trajectory.index
    ]
    if system.select != "test_best" and len(best) == len(weights):
        tables[PROTOCOLS["test_best"]] = pd.concat(best, axis=1)
    return tables


def plot_weight_trajectories(systems: list[System]) -> Picture | None:
    """Learned weights of every layer by epoch, mean over runs; None where no run kept them for two epochs."""
    tables = {s.name: [run.trajectory for run in s.runs if run.trajectory is not None] for s in systems}
    tables = {name: found for name, found in tables.items() if found and len(found[0]) > 1}
    if not tables:
        return None
    figure, panels = make_canvas(width=6.5, height=3.6 * len(tables), rows=len(tables))
    for axes, (name, found) in zip(panels, tables.items(), strict=True):
        mean = pd.concat(found).groupby(level=0).mean()
        shades = np.linspace(0.95, 0.1, len(mean.columns))
        for layer, shade in zip(mean.columns, shades, strict=True):
            axes.plot(mean.index, mean[layer], color=viridis_colour(shade), lw=1.4, label=str(layer))
        axes.set(xlabel="Epoch", ylabel="Weight (sum 1)")
        axes.set_title(wrap_words(f"{name}, {count_noun(len(found), 'run')}"), fontsize=11)
        axes.ticklabel_format(axis="y", useOffset=False)
        place_legend_below(axes, title="Layer", ncols=6)
    moved = "; ".join(
        f"{name}: the last epoch's lie between {found[0].iloc[-1].min():.3f} and {found[0].iloc[-1].max():.3f}"
        for name, found in tables.items()
    )
    return Picture(
        "figure3_epochs.png",
        f"Learned layer weights by epoch. {moved}.",
        "How the learned weights moved: normalised to sum 1 in every epoch, mean of the runs; dark lines are deep "
        "layers.",
        render_png(figure),
    )


def viridis_colour(share: float) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](share)
    return red, green, blue, alpha


def make_canvas(width: float, height: float, rows: int = 1) -> "tuple[Figure, list[Axes]]":
    """Inches -> a white figure and its axes, one per row; no global state, so any thread may draw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    panels = [figure.add_subplot(rows, 1, row) for row in range(1, rows + 1)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", lw=0.6)
        axes.set_axisbelow(True)
    return figure, panels


def render_png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
