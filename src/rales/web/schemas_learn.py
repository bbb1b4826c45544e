"""Request and response bodies about learning, as those of `schemas.py`."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import StrictInt

from rales.evaluation.predictions import NOTICE

Kind = Literal["calibrate", "train"]
Learns = Literal["head", "all"]


@dataclass
class Survey:
    """What of a session is confirmed: cycles by class, patients (`unnamed` recordings count as one each, `heard` of the
    patients trained the model, null where its record does not tell), and why it cannot be calibrated or trained, ""
    where it can."""

    cycles: int
    recordings: int
    patients: int
    unnamed: int
    heard: int | None
    classes: dict[str, int]
    calibrate: str
    train: str
    left_out: list[str]
    notice: str = NOTICE


@dataclass
class LearnRequest:
    """Calibrate a model by the confirmed cycles, or train it on: its head or all of it, so many epochs. Without a name
    the default model."""

    kind: Kind
    model: str = ""
    learns: Learns = "head"
    epochs: StrictInt = 30


@dataclass
class Measured:
    """A figure with its interval of 95 % by patient; null for what does not exist."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class LearnedFigure:
    """A figure of the old and of the new model, and the difference new - old where it has an interval."""

    name: str
    old: Measured
    new: Measured
    difference: Measured | None = None


@dataclass
class Job:
    """The learning job: none, running, done (its model waits to be used or discarded) or failed, then `problem` says
    why. Figures of one that was trained, by its `seed`, are of `tested_patients` who did not train; those of one that
    was calibrated are of the patients who taught it."""

    status: Literal["none", "running", "done", "failed"]
    kind: Kind = "calibrate"
    model: str = ""
    learns: Learns = "head"
    session: str = ""
    session_name: str = ""
    cycles: int = 0
    patients: int = 0
    phase: Literal["prepare", "train", "measure"] = "prepare"
    epoch: int = 0
    epochs: int = 0
    epoch_s: float = 0.0
    seed: int | None = None
    problem: str = ""
    tested_cycles: int = 0
    tested_patients: int = 0
    figures: list[LearnedFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    notice: str = NOTICE
