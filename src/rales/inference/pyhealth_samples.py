"""Annotated recordings as samples of PyHealth: dicts with patient, recording, signal and label, and their schemas.

    samples = make_samples("ICBHI_final_database", part="train")
    dataset = SampleDataset(samples, INPUT_SCHEMA, OUTPUT_SCHEMA)  # of pyhealth.datasets, version 2
    dataset = SampleSignalDataset(samples)                         # version 1

Nothing of PyHealth is imported here; its splitters keep patients apart by `patient_id`.
"""

from pathlib import Path
from typing import Any

from rales.data import read_cycles
from rales.errors import UsageError
from rales.inference.audio_reader import read_spans
from rales.labels import ICBHI, LabelSet
from rales.settings import PaddedWaveform

INPUT_SCHEMA = {"signal": "tensor"}
OUTPUT_SCHEMA = {"label": "multiclass"}


def make_samples(
    data: str | Path,
    *,
    part: str | None = None,
    rate_hz: int = 16000,
    duration_s: float = 8.0,
    label_set: LabelSet = ICBHI,
    skip_damaged: bool = False,
) -> list[dict[str, Any]]:
    """Annotated data -> a sample per cycle: patient_id, visit_id and record_id (the recording), cycle, signal
    (1, rate_hz * duration_s) float32, label.

    Parameters
    ----------
    data, label_set, skip_damaged
        As of `rales.data.read_cycles`.
    part
        train, test or validation of the split that comes with the data; None takes all of it.
    rate_hz, duration_s
        Of every signal: resampled, cut, or repeated as in training.

    Errors: as of `read_cycles`; a part that the data has not.
    """
    table = read_cycles(data, skip_damaged=skip_damaged, needs_split=part is not None, label_set=label_set)
    if part is not None and part not in set(table["split"]):
        raise UsageError(f"part={part!r}: the data has {', '.join(sorted(set(table['split']) - {''})) or 'no split'}")
    audio, samples = PaddedWaveform(rate_hz=rate_hz, duration_s=duration_s), list[dict[str, Any]]()
    for path, rows in (table if part is None else table[table["split"] == part]).groupby("path", sort=False):
        signals = read_spans(Path(str(path)), list(zip(rows["start_s"], rows["end_s"], strict=True)), audio)
        for row, signal in zip(rows.to_dict("records"), signals, strict=True):
            named = {"patient_id": row["patient"], "visit_id": row["recording"], "record_id": row["recording"]}
            samples.append({**named, "cycle": row["cycle"], "signal": signal[None], "label": row["label"]})
    return samples
