"""Which patches of time and frequency moved a decision, as numbers and as a picture.

Integrated gradients (Sundararajan et al. 2017): the gradient of a class's log-odds, averaged on the straight line from
a picture without sound to the cycle's own, times their difference. The contributions add up to the change of the
log-odds between the two. The picture without sound is the one that training masks with, so the network knows it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.audio.logmel import MelPower
from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.files.atomic import atomic_write
from rales.files.csv_cells import make_encodable, one_line
from rales.inference import audio_reader
from rales.inference.predictor import Predictor
from rales.optional_packages import require_packages

STEPS = 32
STEPS_AT_ONCE = 8  # steps in memory together


class Attribution(NamedTuple):
    """What each patch added to the log-odds of class `target`; row 0 holds the lowest frequencies.

    `hz` (rows,) and `time_s` (columns,) are centres of patches, in the clip that the model sees. The whole grid adds up
    to `log_odds` - `log_odds_without_sound`, but for the error of a sum over finitely many steps.
    """

    grid: NDArray[np.float32]
    hz: NDArray[np.float64]
    time_s: NDArray[np.float64]
    target: str
    log_odds: float
    log_odds_without_sound: float


class Explanation(NamedTuple):
    """One cycle of a recording, how the model decided, and why."""

    recording: str
    cycle: int
    start_s: float
    end_s: float
    probabilities: dict[str, float]
    logmel: NDArray[np.float32]  # (mels, frames)
    attribution: Attribution
    clip_s: float
    repeats: bool  # the clip holds the cycle again and again

    def table(self) -> pd.DataFrame:
        """-> `make_patch_table` of it."""
        return make_patch_table(self)

    def plot(self, out: str | Path) -> None:
        """Write it as a PNG (extra `report`)."""
        plot_explanation(self, Path(out))

    def __repr__(self) -> str:
        why = self.attribution
        return (
            f"<Explanation of {self.recording}, cycle {self.cycle}: {why.target} "
            f"{self.probabilities[why.target]:.3f}; .plot(file), .table(). {NOTICE}>"
        )

    def _repr_png_(self) -> bytes | None:
        """-> the picture, which a notebook shows; None without the extra `report`, and it shows the line above."""
        try:
            png: bytes = draw_explanation(self)._repr_png_()
            return png
        except UsageError:
            return None


def explain_cycle(
    model: Predictor, path: str, cycle: int, target: str | None = None, *, cycles: str = "auto", quality: bool = True
) -> Explanation:
    """Recording, number of a cycle from 1, class (None: the one predicted) -> why. Errors: no such cycle or class, a
    cycle whose sound cannot be judged (unless `quality` is False)."""
    check_sees_logmel(model)
    before = 0
    for chunk in audio_reader.read_chunks(path, model.recipe.audio, cycles, quality, None, model.label_set):
        verdicts = chunk.cycles.verdicts
        if not 0 < cycle <= len(verdicts):
            raise UsageError(f"--cycle {cycle}: {path} has cycles 1 to {len(verdicts)}")
        if not verdicts[cycle - 1].judged:
            raise ValueError(
                f"{path}, cycle {cycle}: not judged, so there is nothing to explain: {verdicts[cycle - 1].reason}"
            )
        row = int(chunk.cycles.judged[: cycle - 1].sum()) - before
        if row < len(chunk.waveforms):
            wave = chunk.waveforms[row]
            break
        before += len(chunk.waveforms)
    probabilities = model.decision().cool(model.probabilities(wave[None]))[0]
    if target is not None and target not in model.classes:
        raise UsageError(f"--target {target}: expected one of {', '.join(model.classes)}")
    why = attribute_patches(model, wave, target or model.classes[int(probabilities.argmax())])
    logmel = model.torch_engine.apply(lambda features: features, wave[None])[0, 0]
    start_s, end_s = chunk.cycles.start_s[cycle - 1], chunk.cycles.end_s[cycle - 1]
    told = dict(zip(model.classes, probabilities.tolist(), strict=True))
    audio = model.recipe.audio
    name, repeats = make_encodable(Path(path).stem), audio.pad == "repeat"
    return Explanation(name, cycle, start_s, end_s, told, logmel, why, audio.duration_s, repeats)


def attribute_patches(model: Predictor, wave: NDArray[np.float32], target: str, steps: int = STEPS) -> Attribution:
    """Prepared cycle (samples,) and class -> the contribution of every patch of the network's grid.

    Errors: a system whose front-end gives no log-mel picture, or none of a cycle alone; an answer that is no number.
    """
    sizes: tuple[int, int] = getattr(getattr(model.network, "encoder", None), "patch", (16, 16))
    if model.recipe.scales_batches:
        raise ValueError("a model of audio.scope=batch has no answer to a cycle alone, so there is nothing to explain")
    filters, engine = check_sees_logmel(model), model.torch_engine
    features = engine.frontend(torch.from_numpy(wave[None]).to(engine.device))
    if features.ndim != 4 or features.shape[1] != 1:
        raise sees_no_logmel(model)
    baseline = torch.full_like(features, model.recipe.silence)
    number = model.classes.index(target)
    independent = model.label_set.independent
    gradient = mean_gradient(model.network, baseline, features, number, steps, independent=independent)
    added = (gradient * (features - baseline))[0, 0].double().cpu().numpy()  # (mels, frames)
    with torch.inference_mode():
        ends = log_odds(model.network(torch.cat([features, baseline])), number, independent=independent)
    if not (np.isfinite(added).all() and ends.isfinite().all()):
        raise ValueError("the model's answer to this cycle is not a number, so there is nothing to explain")
    audio = model.recipe.audio
    centres_hz = band_centres_hz(filters, audio.rate_hz)
    rows = len(added) // sizes[0]
    seconds = audio.duration_s / (features.shape[-1] - 1)  # of one frame
    grid = sum_patches(added[: rows * sizes[0]], sizes)
    return Attribution(
        grid=grid.astype(np.float32),
        hz=centres_hz[: rows * sizes[0]].reshape(rows, sizes[0]).mean(axis=1),
        time_s=(np.arange(grid.shape[1]) + 0.5) * sizes[1] * seconds,
        target=target,
        log_odds=float(ends[0]),
        log_odds_without_sound=float(ends[1]),
    )


def check_sees_logmel(model: Predictor) -> Tensor:
    """-> (mels, bins) filters of the front-end. Errors: it has none, or several, or sees more than a waveform."""
    found = [module.filters for module in model.torch_engine.frontend.modules() if isinstance(module, MelPower)]
    if len(found) != 1 or hasattr(model.torch_engine.frontend, "takes"):
        raise sees_no_logmel(model)
    return found[0]


def sees_no_logmel(model: Predictor) -> ValueError:
    return ValueError(f"a model of recipe {model.recipe.name} does not look at a log-mel picture; use m2d_fusion")


def mean_gradient(
    network: torch.nn.Module, begin: Tensor, end: Tensor, number: int, steps: int, *, independent: bool = False
) -> Tensor:
    """Two pictures (1, 1, F, frames) -> the mean gradient of a class's log-odds between them, at midpoints of steps."""
    total = torch.zeros_like(end)
    for shares in ((torch.arange(steps) + 0.5) / steps).to(end).split(STEPS_AT_ONCE):
        between = (begin + shares[:, None, None, None] * (end - begin)).requires_grad_()
        odds = log_odds(network(between), number, independent=independent).sum()
        (gradient,) = torch.autograd.grad(odds, between)
        total += gradient.sum(dim=0, keepdim=True)
    return total / steps


def log_odds(logits: Tensor, number: int, *, independent: bool = False) -> Tensor:
    """(B, classes) -> (B,): log of p / (1 - p) of one class, which of independent classes is its logit."""
    if independent:
        return logits[:, number]
    others = torch.cat([logits[:, :number], logits[:, number + 1 :]], dim=1)
    return logits[:, number] - others.logsumexp(dim=1)


def band_centres_hz(filters: Tensor, rate_hz: int) -> NDArray[np.float64]:
    """Mel filters (mels, bins) -> (mels,) centre frequencies; bands too narrow to hold a bin lie between the others."""
    weights = filters.double().cpu().numpy()
    bins_hz = np.linspace(0, rate_hz / 2, weights.shape[1])
    total = weights.sum(axis=1)
    filled = np.flatnonzero(total)
    return np.asarray(np.interp(np.arange(len(weights)), filled, weights[filled] @ bins_hz / total[filled]))


def sum_patches(picture: NDArray[np.float64], sizes: tuple[int, int]) -> NDArray[np.float64]:
    """(F, frames) -> (F / height, ceil(frames / width)): sums over patches."""
    height, width = sizes
    padded = np.pad(picture, ((0, 0), (0, -picture.shape[1] % width)))
    tall, wide = padded.shape[0] // height, padded.shape[1] // width
    return np.asarray(padded.reshape(tall, height, wide, width).sum(axis=(1, 3)))


def make_patch_table(found: Explanation) -> pd.DataFrame:
    """-> a row a patch: hz, time_s in the clip, recording_s (NaN behind the end of a cycle that is not repeated),
    contribution."""
    why, length_s = found.attribution, found.end_s - found.start_s
    place_s = why.time_s % length_s if found.repeats else np.where(why.time_s < length_s, why.time_s, np.nan)
    hz, time_s = np.meshgrid(why.hz, why.time_s, indexing="ij")
    recording_s = np.broadcast_to(found.start_s + place_s, why.grid.shape)
    cells: dict[str, NDArray[Any]] = {"hz": hz, "time_s": time_s, "recording_s": recording_s, "contribution": why.grid}
    return pd.DataFrame({name: values.ravel() for name, values in cells.items()})


def explanation_document(found: Explanation) -> dict[str, Any]:
    """-> everything but the picture, for JSON."""
    why = found.attribution
    return {
        **{name: getattr(found, name) for name in ("recording", "cycle", "start_s", "end_s", "probabilities")},
        **{name: getattr(why, name) for name in ("target", "log_odds", "log_odds_without_sound")},
        "hz": why.hz.tolist(),
        "time_s": why.time_s.tolist(),
        "contribution": why.grid.astype(float).tolist(),
        "notice": NOTICE,
    }


def plot_explanation(found: Explanation, out: Path) -> None:
    """Write `draw_explanation` as a PNG."""
    figure = draw_explanation(found)
    with atomic_write(out) as beside:
        figure.savefig(beside, format="png", dpi=120)


def draw_explanation(found: Explanation) -> Any:
    """-> the log-mel picture, and over it what each patch added (red) or took away (blue)."""
    require_packages("a picture", "report", "matplotlib")
    from rales.inference.notebook_figure import make_notebook_figure

    why = found.attribution
    figure = make_notebook_figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    rows, limit = len(why.hz), float(np.abs(why.grid).max()) or 1.0
    wide_s = 2 * why.time_s[0] * len(why.time_s)  # the last patch may reach beyond the clip
    axes.imshow(found.logmel, origin="lower", aspect="auto", cmap="gray", extent=(0, found.clip_s, 0, rows))
    shown = axes.imshow(
        why.grid,
        origin="lower",
        aspect="auto",
        cmap="RdBu_r",
        alpha=0.55,
        extent=(0, wide_s, 0, rows),
        vmin=-limit,
        vmax=limit,
    )
    axes.set_yticks([row + 0.5 for row in range(rows)], [f"{hz:.0f}" for hz in why.hz])
    axes.set(xlabel="Time in the clip (s)", ylabel="Centre of patches (Hz)", xlim=(0, found.clip_s))
    chance = found.probabilities[why.target]
    title = f"{one_line(found.recording)}, cycle {found.cycle}: {why.target} {chance:.2f}\n{NOTICE}"
    axes.set_title(title, fontsize=10, parse_math=False)  # a name may hold $, which matplotlib takes for a formula
    figure.colorbar(shown, label=f"Added to the log-odds of {why.target}")
    return figure
