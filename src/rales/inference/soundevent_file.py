"""Answers as AOEF, the JSON of the soundevent package, which whombat and other tools of bioacoustics read and write."""

from pathlib import Path
from typing import Any

import pandas as pd

from rales.audio.io import read_audio_info
from rales.evaluation.predictions import NOTICE
from rales.optional_packages import require_packages

KEY = "rales_label"


def write_aoef(table: pd.DataFrame, out: Path, audio_dir: Path | None = None) -> None:
    """Table of predictions -> a prediction set: a clip per recording, a sound event per judged cycle with its times, a
    tag per class with its probability, the label's first, and the label's probability as the score.

    Parameters
    ----------
    audio_dir
        Paths of recordings are written relative to it, if it is given.

    Raises
    ------
    UsageError
        soundevent is not installed (extra `soundevent`).
    """
    require_packages("AOEF", "soundevent", "soundevent")
    from soundevent import data, io

    term = data.Term(name=KEY, label="Rales label", definition=f"What a model of Rales calls a cycle. {NOTICE}")
    clips = []
    for path, rows in table.groupby("path", sort=False):
        about = read_audio_info(str(path))
        recording = data.Recording(
            path=Path(str(path)).absolute(),
            duration=about.duration_s,
            channels=about.channels,
            samplerate=about.rate_hz,
        )
        events = []
        for row in rows[rows["label"].notna()].to_dict("records"):
            chances = {str(name)[2:]: float(value) for name, value in row.items() if str(name).startswith("p_")}
            named = sorted(chances, key=lambda name: (name != row["label"], -chances[name]))
            interval = data.TimeInterval(coordinates=[row["start_s"], row["end_s"]])
            tags = [data.PredictedTag(tag=data.Tag(term=term, value=name), score=chances[name]) for name in named]
            event = data.SoundEvent(recording=recording, geometry=interval)
            events.append(data.SoundEventPrediction(sound_event=event, score=tags[0].score, tags=tags))
        clip = data.Clip(recording=recording, start_time=0, end_time=about.duration_s)
        clips.append(data.ClipPrediction(clip=clip, sound_events=events))
    found = data.PredictionSet(name="Rales", description=NOTICE, clip_predictions=clips)
    io.save(found, out, audio_dir=audio_dir)


def read_aoef(path: Path, audio_dir: Path | None = None) -> pd.DataFrame:
    """Annotation set or prediction set -> a manifest table of its intervals: path, start_s, end_s, and the first tag as
    label."""
    require_packages("AOEF", "soundevent", "soundevent")
    from soundevent import data, io

    found: Any = io.load(path, audio_dir=audio_dir)
    clips = found.clip_annotations if isinstance(found, data.AnnotationSet) else found.clip_predictions
    rows = []
    for event in (event for clip in clips for event in clip.sound_events):
        geometry, tags = event.sound_event.geometry, [getattr(tag, "tag", tag) for tag in event.tags]
        if isinstance(geometry, data.TimeInterval | data.BoundingBox) and tags:
            start, end = geometry.coordinates[0], geometry.coordinates[len(geometry.coordinates) // 2]
            rows.append((str(event.sound_event.recording.path), start, end, tags[0].value))
    return pd.DataFrame(rows, columns=["path", "start_s", "end_s", "label"])
