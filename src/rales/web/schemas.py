"""What goes over the wire, as plain dataclasses from which FastAPI makes the checks and the OpenAPI description."""

from dataclasses import dataclass, field
from typing import Literal

from rales.scoring import NOTICE

Label = Literal["normal", "crackle", "wheeze", "both"]
ExportForm = Literal["icbhi", "csv", "audacity", "raven"]
Status = Literal["waiting", "ready", "failed"]


@dataclass
class Health:
    status: Literal["ok"]
    version: str
    notice: str = NOTICE


@dataclass
class ModelFacts:
    name: str
    default: bool
    recipe: str
    classes: list[str]


@dataclass
class Span:
    start_s: float
    end_s: float


@dataclass
class MarkedCycle:
    """A cycle as a person marked it; `confirmed` if the label was looked at."""

    start_s: float
    end_s: float
    label: Label
    confirmed: bool = False


@dataclass
class ScoredSpan:
    start_s: float
    end_s: float
    label: Label
    p_normal: float
    p_crackle: float
    p_wheeze: float
    p_both: float


@dataclass
class PredictedCycle:
    """A row of `rales predict`."""

    recording: str
    cycle: int
    start_s: float
    end_s: float
    label: Label
    p_normal: float
    p_crackle: float
    p_wheeze: float
    p_both: float
    source: str
    true_label: Label | None = None


@dataclass
class Prediction:
    recording: str
    duration_s: float
    model: str
    cycles: list[PredictedCycle]
    notice: str = NOTICE


@dataclass
class Annotation:
    """The corrected cycles of a recording of a session."""

    recording: str
    cycles: list[MarkedCycle]


@dataclass
class Saved:
    recording: str
    revision: int
    saved: float


@dataclass
class ScoreRequest:
    """Stretches of a recording to score, without a model's name by the default model."""

    cycles: list[Span]
    model: str | None = None


@dataclass
class Scores:
    model: str
    cycles: list[ScoredSpan]
    notice: str = NOTICE


@dataclass
class Name:
    name: str


@dataclass
class Review:
    reviewed: bool


@dataclass
class Session:
    id: str
    name: str
    created: float
    recordings: int
    reviewed: int


@dataclass
class RecordingFacts:
    """A recording in the list: `ahead` says how many wait before it, `findings` counts its cycles by label, and
    `uncertainty` is 1 - the largest probability of its least certain cycle that nobody has confirmed."""

    id: str
    name: str
    duration_s: float
    status: Status
    problem: str
    reviewed: bool
    ahead: int | None
    edited: bool
    findings: dict[str, int]
    uncertainty: float | None


@dataclass
class SessionContent:
    id: str
    name: str
    recordings: list[RecordingFacts]


@dataclass
class RecordingDetail:
    """A recording, what each model said of its cycles, and its cycles as they stand; `source` says whose they
    are: person, annotation, segment (breaths found in the sound) or window."""

    id: str
    session: str
    name: str
    duration_s: float
    rate_hz: int
    status: Status
    problem: str
    reviewed: bool
    scores: dict[str, list[ScoredSpan]]
    cycles: list[MarkedCycle]
    source: str
    revision: int
    notice: str = NOTICE


@dataclass
class Explanation:
    """How much each part of the log-mel picture spoke for a label: values -1..1, band 0 the lowest, row by row."""

    model: str
    label: Label
    start_s: float
    end_s: float
    low_hz: list[float]
    high_hz: list[float]
    from_s: list[float]
    to_s: list[float]
    values: list[list[float]] = field(default_factory=list)
    method: str = ""
    notice: str = NOTICE


@dataclass
class RunFacts:
    name: str
    recipe: str
    finished: bool
    score: float | None
