"""A recording's decoded sound -> what a model says of it, exactly as `rales predict` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rales import predict, scoring
from rales.audio import wave
from rales.runs import clean

Row = dict[str, Any]
COLUMNS = ("start_s", "end_s", "label", *(name for name in predict.COLUMNS if name.startswith("p_")))
PICTURE_HOP_S = 0.01
SHORTEST_PICTURE = 400  # samples that one spectrum takes


def predict_file(model: predict.Model, sound: Path, recording: str) -> list[Row]:
    """Decoded sound, and an annotation if one lies beside it -> a row per cycle with the columns of `rales predict`."""
    table = model.predict([sound])
    table["recording"], table["path"] = recording, recording
    rows: list[Row] = [clean(row) for row in table.to_dict("records")]
    return rows


def score_spans(model: predict.Model, sound: Path, spans: Sequence[tuple[float, float]]) -> list[Row]:
    """Decoded sound and stretches (start, end) in seconds -> start_s, end_s, label and p_… of each."""
    rows = pd.DataFrame(spans, columns=["start_s", "end_s"])
    rows.insert(0, "recording", "")
    rows.insert(1, "cycle", np.arange(1, len(rows) + 1))
    waves = predict.prepared(sound, rows, model)
    table = scoring.predictions(rows, model.probabilities(waves))
    return [clean(row) for row in table[list(COLUMNS)].to_dict("records")]


def picture(sound: Path) -> tuple[bytes, int, int]:
    """16 kHz sound -> (log-mel picture as bytes 0..255 row by row from the lowest band, bands, frames of 10 ms).

    The log-mel is the one the models hear; grey spans the 60 dB below the loudest 0.1 %.
    """
    import torch

    from rales.audio import M2DLogMel

    heard, _ = wave.read(sound)
    heard = np.pad(heard, (0, max(0, SHORTEST_PICTURE - heard.size)))
    with torch.inference_mode():
        logmel = M2DLogMel()(torch.from_numpy(heard)[None])[0, 0].numpy()  # (80, frames)
    top = float(np.quantile(logmel, 0.999))
    span = np.log(10.0) * 6  # 60 dB of power in natural log
    grey = np.clip((logmel - (top - span)) / span, 0, 1)
    return (grey * 255).astype(np.uint8).tobytes(), *logmel.shape
