"""Cut what a model found out of recordings: a clip per event, in a folder per class, named by recording and time."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import soundfile

from rales.audio.io import read_segments
from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.files.atomic import atomic_write, make_folder
from rales.files.csv_cells import make_encodable, one_line
from rales.files.writers import write_csv
from rales.inference import audio_reader
from rales.inference.prediction_writers import fit_file_name
from rales.inference.predictor import Paths, Predictor

LIST = "segments.csv"
COLUMNS = ["clip", "recording", "path", "label", "start_s", "end_s", "probability"]


def cut_segments(
    model: Predictor,
    paths: Paths,
    out: Path,
    *,
    per_class: int = 0,
    min_confidence: float = 0.0,
    join_s: float | None = None,
    pad_s: float = 0.0,
    cycles: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Recordings -> clips LABEL/RECORDING_START-END_PROBABILITY.wav below `out`, at the recording's own rate, and
    segments.csv, their list, which names the model (its digest) and the version of Rales.

    Parameters
    ----------
    per_class
        Clips of each class at most, the most probable first; 0 for all.
    min_confidence
        A label that is less probable is left out.
    join_s
        Neighbouring cycles of one label, at most so many seconds apart, become one clip; None joins nothing.
    pad_s
        Seconds of sound before and behind each clip.
    cycles, progress
        As of `Predictor.predict`.

    Returns
    -------
    counts of clips by label, cycles found, problems, notice.

    Raises
    ------
    UsageError
        A number out of its range; `out` holds files already; independent classes, of which a cycle may have several.
    """
    for name, value, most in (
        ("--per-class", per_class, math.inf),
        ("--min-confidence", min_confidence, 1.0),
        ("--join", join_s or 0.0, math.inf),
        ("--pad", pad_s, 3600.0),
    ):
        if not 0 <= value <= most:
            raise UsageError(f"{name} {value:g}: expected 0 {'or more' if most == math.inf else f'to {most:g}'}")
    if model.label_set.independent:
        raise UsageError("segments are of one class each; this model's classes are independent")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: is there already and not empty; name a new folder")
    problems: list[str] = []
    sources, where = audio_reader.find_sources(paths, cycles)
    if audio_reader.STDIN in sources:
        raise UsageError("-: segments are cut out of files; write what stands on standard input into one and give that")
    found = pd.concat([table for table, _ in model.tables(sources, problems, cycles=where, progress=progress)])
    made_by = {name: found.attrs[name] for name in ("model", "version")}
    events = join_cycles(found, join_s).query("probability >= @min_confidence").assign(**made_by)
    if per_class:
        events = events.sort_values("probability", ascending=False).groupby("label", sort=False).head(per_class)
    files = {make_encodable(source): source for source in sources}
    clips = write_clips(events.sort_values(["path", "start_s"]), out, pad_s, files) if len(events) else events
    counts = {name: int((clips["label"] == name).sum()) for name in model.classes}
    return {"out": str(out), "cycles": len(found), "counts": counts, "problems": problems, "notice": NOTICE}


def join_cycles(table: pd.DataFrame, join_s: float | None) -> pd.DataFrame:
    """Table of predictions -> an event per judged cycle, or per run of neighbours of one label that are at most
    `join_s` apart: recording, path, label, start_s, end_s and the largest probability of the label."""
    judged = table[table["label"].notna()].sort_values(["path", "start_s"], kind="stable")
    rows: list[dict[str, Any]] = []
    for row in judged.to_dict("records"):
        chance = row[f"p_{row['label']}"]
        last = rows[-1] if rows else None
        same = last is not None and join_s is not None and (last["path"], last["label"]) == (row["path"], row["label"])
        if last is not None and same and row["start_s"] - last["end_s"] <= (join_s or 0.0) + 1e-6:
            last["end_s"], last["probability"] = row["end_s"], max(last["probability"], chance)
        else:
            taken = {name: row[name] for name in ("recording", "path", "label", "start_s", "end_s")}
            rows.append({**taken, "probability": chance})
    return pd.DataFrame(rows, columns=COLUMNS[1:])


def write_clips(events: pd.DataFrame, out: Path, pad_s: float, files: Mapping[str, str]) -> pd.DataFrame:
    """Events, and the file of each `path` in them -> the same with the column `clip`, the file of each below `out`,
    where segments.csv lists them. What no model has answered for has no probability (NaN)."""
    clips: list[str] = []
    for path, rows in events.groupby("path", sort=False):
        spans = [
            (max(0.0, start - pad_s), end + pad_s) for start, end in zip(rows["start_s"], rows["end_s"], strict=True)
        ]
        with audio_reader.local_copy(files[str(path)]) as file:
            sounds = read_segments(file, spans)
            for row, (wave, rate_hz) in zip(rows.itertuples(index=False), sounds, strict=True):
                clip = name_clip(row, out)
                make_folder(clip.parent)
                with atomic_write(clip) as beside:
                    soundfile.write(beside, wave, rate_hz, subtype="PCM_16", format="WAV")
                clips.append(clip.relative_to(out).as_posix())
    listed = events.assign(clip=clips)[[*COLUMNS, *(column for column in events if column not in COLUMNS)]]
    write_csv(out / LIST, listed)
    return listed


def name_clip(row: Any, out: Path) -> Path:
    """Event -> a file that is not there yet, whose name sorts by recording and time. Errors: a name of class or
    recording that leads out of `out`."""
    name, times = one_line(row.recording), f"_{row.start_s:08.3f}-{row.end_s:08.3f}"
    times += "" if math.isnan(row.probability) else f"_{row.probability:.2f}"
    clip, number = out / str(row.label) / fit_file_name(name, f"{times}.wav"), 1
    if not clip.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{clip}: would lie outside {out}; nothing is written there")
    while clip.exists():  # of a recording of the same name in another folder
        number += 1
        clip = clip.with_name(fit_file_name(name, f"{times}_{number}.wav"))
    return clip
