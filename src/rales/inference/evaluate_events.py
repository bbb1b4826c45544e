"""What a model finds in recordings by itself, where and of which class, held against their annotation."""

from pathlib import Path
from typing import Any

import pandas as pd

from rales.data import read_cycles, splits
from rales.evaluation.event_scores import COLLAR_S, OFFSET_SHARE, Event, score_events
from rales.evaluation.predictions import NOTICE
from rales.inference.evaluate import count_trained, find_rows, is_training_data
from rales.inference.predictor import Predictor


def evaluate_events(
    model: Predictor, data: str | Path, *, part: str | None = None, skip_damaged: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Find breaths in the sound of annotated recordings, classify them, and score place and class together.

    Annotated are the cycles or events of the data, with labels of the model's set, the normal ones too; found are the
    breaths of `--cycles segment`, windows where none is found, each with the model's label. Breaths that cannot be
    judged are no events.

    Parameters
    ----------
    model
        Of a run, a checkpoint, an artefact or a name.
    data
        As for `evaluate_data`.
    part
        One of its parts; None for the test side, of the data of its training that of its own split, or all where there
        is none.
    skip_damaged
        Whether damaged recordings are left out; else the first is an error.
    progress
        Whether a bar is shown.
    """
    cycles = read_cycles(data, skip_damaged=skip_damaged, needs_split=False, label_set=model.label_set)
    same = "digest" in model.record.get("split", {}) and is_training_data(model.record, cycles)
    if same:
        cycles = splits.divide_cycles(cycles, model.recipe.settings, needed=())
    chosen = part or ("test" if "test" in set(cycles["split"]) else "all")
    rows = cycles[find_rows(cycles, chosen)]
    problems: list[str] = []
    paths = list(dict.fromkeys(rows["path"]))
    tables = [table for table, _ in model.tables(paths, problems, cycles="segment", progress=progress)]
    found = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    told = score_events(list_events(rows), list_events(found[found["label"].notna()]))
    return {
        "events": told,
        "cycles_found_by": found.groupby("path")["source"].first().value_counts().to_dict(),
        "problems": problems,
        "protocol": {
            "part": chosen,
            "recordings": len(paths),
            "patients": int(rows["patient"].nunique()),
            "cycles_trained_on": count_trained(model.record, rows, same),
            "collar_s": COLLAR_S,
            "offset_share": OFFSET_SHARE,
        },
        "model": model.digest,
        "notice": NOTICE,
    }


def list_events(rows: pd.DataFrame) -> dict[str, list[Event]]:
    """Rows with path, start_s, end_s and label -> path of a recording -> its events."""
    events: dict[str, list[Event]] = {}
    columns = (rows[name] for name in ("path", "start_s", "end_s", "label"))
    for path, start_s, end_s, label in zip(*columns, strict=True):
        events.setdefault(str(path), []).append(Event(float(start_s), float(end_s), str(label)))
    return events
