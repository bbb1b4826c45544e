"""Compute what a model says of a decoded recording, exactly as `rales predict` does."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rales.audio import io, quality
from rales.data import icbhi
from rales.evaluation import predictions
from rales.evaluation.predictions import Decision
from rales.files.json_files import to_jsonable
from rales.inference import attribution, audio_reader
from rales.inference.predictor import Predictor
from rales.typing import Row

Span = tuple[float, float]  # seconds
LOGMEL_HOP_S = 0.01
LOWEST_HZ, HIGHEST_HZ = 50.0, 8000.0  # of every front-end's log-mel
LOGMEL_EPSILON = float(np.finfo(np.float32).eps)  # under its logarithm, so that silence has one
FULL_SCALE_DB = 24.0  # of its loudest band, for a sine of full scale
LEVEL_DB = 0.5
COVERAGE = 0.9  # of the sets of labels, on average over patients
SHORTEST_LOGMEL = 400  # samples that one spectrum takes


def predict_file(model: Predictor, sound: Path, recording: str) -> list[Row]:
    """Decoded sound, and an annotation if one lies beside it -> a row per cycle with the columns of `rales predict`."""
    table = model.predict([sound], decision=decide(model, recording))
    table["recording"], table["path"] = recording, recording
    rows: list[Row] = [to_jsonable(row) for row in table.to_dict("records")]
    return rows


def decide(model: Predictor, recording: str) -> Decision:
    """A model, and a recording by whose name its device is known -> how its answers are decided, with sets of labels
    where patients have taught the model some."""
    learned = (model.calibration.get("conformal") or {}).get("pooled", {}).get("least", {})
    if str(COVERAGE) not in learned:
        return model.decision()
    decision = model.decision(sets=COVERAGE)
    assert decision.sets is not None
    (least,) = decision.sets.find_least([icbhi.device_of(recording)])  # the sound's own file has no such name here
    return replace(decision, sets=replace(decision.sets, pooled=float(least), devices={}))


def score_spans(model: Predictor, sound: Path, spans: Sequence[Span], recording: str = "") -> list[Row]:
    """Decoded sound, stretches (start, end) in seconds, name of the recording -> start_s, end_s, label and p_… of each,
    quality and reason, and the set of labels where the model has some.

    A person has marked them as breaths, so only a lack of sound leaves one without a label (audio_reader.read_chunks).
    """
    rows = pd.DataFrame(spans, columns=["start_s", "end_s"]).assign(
        recording="this recording", cycle=range(1, len(spans) + 1)
    )
    verdicts = [quality.find_missing_sound(*segment) or quality.OK for segment in io.read_segments(sound, spans)]
    judged = np.array([verdict.judged for verdict in verdicts], dtype=bool)
    probabilities = np.full((len(spans), len(model.classes)), np.nan)
    scored = judged | (model.preparation.scales_batches)  # then they are neighbours of the others
    probabilities[scored] = model.score_spans(sound, list(compress(spans, scored)))
    probabilities[~judged] = np.nan
    predictions.check_numbers(rows[judged], probabilities[judged])
    table = predictions.predictions_table(rows, probabilities, decide(model, recording))
    table["quality"] = [verdict.quality for verdict in verdicts]
    table["quality_reason"] = [verdict.reason for verdict in verdicts]
    columns = ["start_s", "end_s", "label", *model.label_set.columns, "quality", "quality_reason"]
    columns += [predictions.SETS_COLUMN] if predictions.SETS_COLUMN in table else []
    return [to_jsonable(row) for row in table[columns].to_dict("records")]


def quality_of(rows: Sequence[Row]) -> Row:
    """What a model says of a whole recording -> `judged` (whether any of it has a label), quality and quality_reason:
    those of most of the cycles without a label, or of most cycles if all have one."""
    refused = [row for row in rows if row["label"] is None]
    reasons = Counter((row.get("quality", ""), row.get("quality_reason", "")) for row in refused or rows)
    ((name, reason), _), *_ = reasons.most_common(1) or [(("", ""), 0)]
    return {"judged": len(refused) < len(rows) or not rows, "quality": name, "quality_reason": reason}


def explain_span(model: Predictor, sound: Path, span: Span, target: str | None) -> Row:
    """Decoded sound, one stretch, class (None: the one predicted) -> its explanation (see schemas.Explanation).

    The clip that the model sees holds a short cycle several times; contributions of its copies are added up, and what
    lies behind the clip's end has none. Errors: a model that does not look at a log-mel picture, holds no network (an
    artefact of `rales export`) or does not know the class.
    """
    attribution.check_sees_logmel(model)  # before anything is computed; of an artefact, that it holds no network
    if target is not None and target not in model.classes:
        raise ValueError(f"the model does not know {target}; it tells {', '.join(model.classes)} apart")

    (prepared,) = audio_reader.read_spans(sound, [span], model.preparation.audio)
    if target is None:
        (row,) = score_spans(model, sound, [span])
        target = row["label"]
        if target is not None and model.label_set.independent:  # which may be several, or none
            target = max(model.classes, key=lambda name: float(row[f"p_{name}"]))
    if target is None:
        raise ValueError(f"not judged, so there is nothing to explain: {row['quality_reason']}")

    contributions = attribution.attribute_patches(model, prepared, target)
    audio, (start_s, end_s) = model.preparation.audio, span
    length_s = end_s - start_s
    width_s = contributions.time_s[0] * 2  # times are the centres of patches of equal width
    columns = max(1, math.ceil(min(length_s, audio.duration_s) / width_s))
    grid = np.zeros((len(contributions.hz), columns))
    for centre_s, column in zip(contributions.time_s, contributions.grid.T, strict=True):
        place_s = centre_s % length_s if audio.pad == "repeat" else centre_s
        if place_s < columns * width_s:
            grid[:, min(int(place_s / width_s), columns - 1)] += column

    edges_hz = np.sqrt(contributions.hz[:-1] * contributions.hz[1:])
    edges_s = start_s + np.arange(columns + 1) * width_s
    edges_s[-1] = min(edges_s[-1], end_s)
    return {
        "label": target,
        "start_s": start_s,
        "end_s": end_s,
        "low_hz": [LOWEST_HZ, *edges_hz],
        "high_hz": [*edges_hz, HIGHEST_HZ],
        "from_s": edges_s[:-1].tolist(),
        "to_s": edges_s[1:].tolist(),
        "values": (grid / max(np.abs(grid).max(), 1e-12)).tolist(),
        "method": f"Integrated gradients of the log-odds of {target}",
    }


class LogmelPicture(NamedTuple):
    """`levels` (bands, frames of 10 ms) from the lowest band on, in steps of 0.5 dB, 255 for a sine of full scale;
    `top` is the level that all but a thousandth of them do not exceed."""

    levels: NDArray[np.uint8]
    top: int


def render_logmel(sound: Path) -> LogmelPicture:
    """16 kHz sound -> the log-mel that the models hear as levels below full scale. Silence is 0."""
    import torch

    from rales.audio import M2DLogMel

    heard, _ = io.read_waveform(sound)
    heard = np.pad(heard, (0, max(0, SHORTEST_LOGMEL - heard.size)))
    with torch.inference_mode():
        logmel = M2DLogMel()(torch.from_numpy(heard)[None])[0, 0].numpy()  # (80, frames)
    power = np.exp(logmel.astype(np.float64)) - LOGMEL_EPSILON
    decibels = 10 * np.log10(np.maximum(power, 1e-20)) - FULL_SCALE_DB
    levels = np.clip(np.round(255 + decibels / LEVEL_DB), 0, 255).astype(np.uint8)
    return LogmelPicture(levels, int(np.quantile(levels, 0.999)))
