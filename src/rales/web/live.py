"""Recordings that are being made: what a microphone hears is kept on the disk as it comes, and judged meanwhile.

`live/ID/sound.wav` (mono, float32, at the rate of the device) is a whole file after every piece that was answered for,
and `live/ID/about.json` says whose it is, so neither a page that is closed nor a service that is ended loses what was
confirmed. The cycles that are found meanwhile are provisional: a recording that is kept goes the way of an upload.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from rales.audio import quality
from rales.files.atomic import make_folder
from rales.inference import breath_segmentation
from rales.inference.predictor import Predictor
from rales.typing import Row, Waveform
from rales.web import cycle_edits, model_answers
from rales.web.security import ApiError
from rales.web.settings import Limits
from rales.web.store import OURS, remove_tree, sync_path

LOWEST_HZ, HIGHEST_HZ = 4000, 48_000
WINDOW_S = 45.0  # of the newest sound in which breaths are looked for, as much as has one tempo in a file
JUDGED_S = 10.0  # of the newest sound that the quality gate hears
SETTLED_S = 1.0  # of sound behind the end of a cycle, without which nobody knows that it ended
SAME_S = 0.1  # that a boundary may move without the model being asked again
WAITS_S = 5.0  # without a new piece, after which a recording is one that somebody has left
log = logging.getLogger(__name__)


@dataclass
class LiveRecording:
    """One recording that is being made; `cycles` are those that were found and judged so far."""

    id: str
    folder: Path
    session: str
    name: str
    rate_hz: int
    samples: int = 0
    heard: float = 0.0  # when the last piece came
    ended: bool = False
    cycles: list[Row] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sound(self) -> Path:
        return self.folder / "sound.wav"

    def facts(self) -> Row:
        about = {name: getattr(self, name) for name in ("id", "session", "name", "rate_hz", "samples")}
        waits = time.monotonic() - self.heard > WAITS_S
        return {**about, "duration_s": self.samples / self.rate_hz, "left": waits}


class LiveRecordings:
    """All recordings that are being made, or were when a page or the service ended."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.known = dict[str, LiveRecording]()
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            try:
                self.known[place.name] = read_live(place)
            except (
                OSError,
                ValueError,
                KeyError,
                TypeError,
                soundfile.SoundFileError,
            ) as error:  # one of them must not cost the others
                log.warning("%s: an unfinished recording that cannot be read (%s)", place, error)

    def begin(self, session: str, name: str, rate_hz: int) -> Row:
        """A session, a name and the rate of the device -> the facts of a new recording. Errors: ApiError."""
        if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
            raise ApiError(422, f"rate_hz {rate_hz}: expected {LOWEST_HZ} to {HIGHEST_HZ}")
        if len(self.known) >= self.limits.live:
            raise ApiError(507, f"{self.limits.live} unfinished recordings are kept already; keep or discard one")
        folder = self.folder / secrets.token_hex(8)
        live = LiveRecording(folder.name, folder, session, name, rate_hz, heard=time.monotonic())
        make_folder(folder)
        soundfile.write(live.sound, np.empty(0, np.float32), rate_hz, subtype="FLOAT")
        about = {"session": session, "name": name}
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        for path in (live.sound, folder / "about.json", folder, self.folder):
            sync_path(path)
        self.known[live.id] = live
        return live.facts()

    def find(self, live: str) -> LiveRecording:
        """Errors: ApiError."""
        if live not in self.known:
            raise ApiError(404, "no such unfinished recording; it may have been kept or discarded")
        return self.known[live]

    def listed(self, session: str) -> list[Row]:
        """-> facts of the unfinished recordings of a session, the oldest first."""
        return [live.facts() for live in list(self.known.values()) if live.session == session]

    def append(self, recording: str, at: int, content: bytes) -> Row:
        """Add float32 samples (little-endian, mono) that begin at sample `at`; what is there already is not added
        again, so a page that has not heard an answer may send the same again. Errors: ApiError."""
        live = self.find(recording)
        if not content or len(content) % 4:
            raise ApiError(422, f"{len(content)} bytes, expected float32 samples of 4 bytes each")
        samples = np.frombuffer(content, "<f4")
        if not np.isfinite(samples).all():
            raise ApiError(422, "samples that are no numbers; send float32 in -1 to 1")
        with live.lock:
            if live.ended:
                raise ApiError(409, f"{live.name}: has been ended; begin a new recording")
            if at > live.samples:
                raise ApiError(409, f"the piece begins at sample {at}, but {live.samples} have come; send those first")
            new = samples[live.samples - at :]
            if live.samples + len(new) > self.limits.duration_s * live.rate_hz:
                raise ApiError(
                    413, f"longer than the {self.limits.duration_s / 60:g} minutes that a recording may last"
                )
            if len(new):
                with soundfile.SoundFile(live.sound, "r+") as file:
                    file.seek(live.samples)
                    file.write(new)
                sync_path(live.sound)
                live.samples += len(new)
            live.heard = time.monotonic()
        return live.facts()

    def judge(self, recording: str, model: Predictor) -> Row:
        """-> duration_s, cycles (those that ended so far, with the model's answers), and what the quality gate says of
        the newest sound; done in the model's thread. Errors: ApiError."""
        live = self.find(recording)
        with live.lock:
            duration_s = live.samples / live.rate_hz
            first = max(0, live.samples - round(WINDOW_S * live.rate_hz))
            window, _ = soundfile.read(live.sound, start=first, dtype="float32")
        newest = window[-round(JUDGED_S * live.rate_hz) :]
        enough = len(newest) >= quality.SHORTEST_RHYTHM_S * live.rate_hz
        verdict = quality.judge_quality(newest, live.rate_hz) if enough else quality.OK

        # more sound may move a boundary, so what lies in the window is found anew; only what moved is asked again
        begin_s = first / live.rate_hz
        spans = find_ended_breaths(window, live.rate_hz, begin_s)
        before = [row for row in live.cycles if not spans or row["start_s"] + row["end_s"] < 2 * spans[0][0]]
        known = [next((row for row in live.cycles if is_near(row, span)), None) for span in spans]
        new = [span for span, row in zip(spans, known, strict=True) if row is None]
        rows: list[Row] = [{"label": None, "quality": verdict.quality, "quality_reason": verdict.reason} for _ in new]
        if new and verdict.judged:
            place = live.folder / "window.wav"
            soundfile.write(place, window, live.rate_hz, subtype="FLOAT")
            rows = model_answers.score_spans(model, place, [(a - begin_s, b - begin_s) for a, b in new])
        told = [{**row, "start_s": a, "end_s": b} for row, (a, b) in zip(rows, new, strict=True)]
        answers = iter(cycle_edits.in_milliseconds(row, duration_s) for row in told)
        live.cycles = before + [row or next(answers) for row in known]
        said = {"judged": verdict.judged, "quality": verdict.quality, "quality_reason": verdict.reason}
        return {"duration_s": duration_s, "cycles": live.cycles, **said}

    def end(self, recording: str) -> LiveRecording:
        """Take no further sound of a recording. Errors: ApiError where it has been ended already."""
        live = self.find(recording)
        with live.lock:
            if live.ended:
                raise ApiError(409, f"{live.name}: is being kept already")
            live.ended = True
        return live

    def discard(self, recording: str) -> None:
        """Remove a recording and its sound. Errors: ApiError."""
        live = self.find(recording)
        with live.lock:
            live.ended = True
            if not remove_tree(live.folder):
                raise ApiError(500, "its sound cannot be removed; the service's terminal shows why")
            self.known.pop(recording, None)

    def sweep(self, sessions: Iterable[str]) -> None:
        """Remove the recordings of sessions that are not among those given."""
        for live in [live for live in self.known.values() if live.session not in set(sessions)]:
            self.discard(live.id)


def read_live(place: Path) -> LiveRecording:
    """Folder of an unfinished recording -> the recording. Errors: OSError, ValueError, KeyError for what is none."""
    sound, about = place / "sound.wav", place / "about.json"
    if not OURS.fullmatch(place.name):
        raise ValueError("not a folder that Rales has made")
    said, found = json.loads(about.read_text(encoding="utf-8")), soundfile.info(sound)
    return LiveRecording(place.name, place, str(said["session"]), str(said["name"]), found.samplerate, found.frames)


def find_ended_breaths(window: Waveform, rate_hz: int, first_s: float) -> list[model_answers.Span]:
    """Newest sound (N,) of a recording, and where in it that begins -> (start, end) in s of the breaths that have ended
    in it; one that begins before it is not among them."""
    if not len(window):
        return []
    last_s = len(window) / rate_hz - SETTLED_S
    found = breath_segmentation.find_breaths(window, rate_hz)
    return [(first_s + a, first_s + b) for a, b in found if b <= last_s and (a > 0.0 or first_s == 0.0)]


def is_near(row: Row, span: model_answers.Span) -> bool:
    """Whether a cycle that is known is that breath."""
    return bool(max(abs(row["start_s"] - span[0]), abs(row["end_s"] - span[1])) < SAME_S)
