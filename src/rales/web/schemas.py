"""Request and response bodies as dataclasses, from which FastAPI makes the checks and the OpenAPI description.

A record that holds all fields of another one inherits them: these are lists of fields, without behaviour. What comes in
as JSON must be of just the described type: no "1" for a number, no 0 for false.
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import StrictBool, StrictFloat, StrictInt, WithJsonSchema

from rales.evaluation.predictions import NOTICE

Label = Literal["normal", "crackle", "wheeze", "both"]
ExportForm = Literal["icbhi", "csv", "audacity", "raven"]
Status = Literal["waiting", "ready", "failed"]
OPTIONAL_FILE = WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"})  # forms know no null


@dataclass
class Health:
    status: Literal["ok"]
    version: str
    notice: str = NOTICE


@dataclass
class Accepted:
    """What the service takes."""

    suffixes: list[str]
    upload_bytes: int
    duration_s: float
    cycles: int
    shortest_cycle_s: float


@dataclass
class ModelFacts:
    name: str
    default: bool
    recipe: str
    classes: list[str]


@dataclass
class Span:
    start_s: StrictFloat  # a whole number is one too
    end_s: StrictFloat


@dataclass
class MarkedCycle(Span):
    """A cycle as a person marked it; `confirmed` if the label was looked at."""

    label: Label
    confirmed: StrictBool = False


@dataclass
class ScoredSpan(Span):
    """What a model says of a stretch; without label and probabilities where the sound cannot be judged, for which
    `quality` names the class and `quality_reason` says why."""

    label: Label | None
    p_normal: float | None
    p_crackle: float | None
    p_wheeze: float | None
    p_both: float | None
    quality: str = field(default="", kw_only=True)
    quality_reason: str = field(default="", kw_only=True)


@dataclass
class Place:
    """Which cycle of which recording, counted from 1."""

    recording: str
    cycle: int


@dataclass
class PredictedCycle(ScoredSpan, Place):
    """A row of `rales predict`. A dataclass takes its fields from the last base first, so they stand in that order."""

    source: str
    true_label: Label | None = None


@dataclass
class Prediction:
    """`notes` are sentences about what was wrong with the file and how it was read all the same."""

    recording: str
    duration_s: float
    model: str
    cycles: list[PredictedCycle]
    notes: list[str]
    notice: str = NOTICE


@dataclass
class Annotation:
    """The corrected cycles of a recording of a session. `base` is the revision that they were made from: given, an
    annotation that somebody else has changed since is not overwritten (409)."""

    recording: str
    cycles: list[MarkedCycle]
    base: StrictInt | None = None


@dataclass
class Revision:
    """A saved state of an annotation: how many cycles it has, how many of them were confirmed, and which labels it
    holds. Revision 0, which nobody saved, is what the model said first or the annotation that came along."""

    revision: int
    saved: float | None
    cycles: int
    confirmed: int
    findings: dict[str, int]


@dataclass
class ScoreRequest:
    """Stretches of a recording to score, without a model's name by the default model."""

    cycles: list[Span]
    model: str | None = None


@dataclass
class Name:
    name: str


@dataclass
class Review:
    reviewed: StrictBool


@dataclass
class Named:
    id: str
    name: str


@dataclass
class Session(Named):
    created: float
    recordings: int
    reviewed: int


@dataclass
class Recording(Named):
    """`path` is where it lay in what was dropped, `problem` a sentence where `status` is failed, `notes` are some
    about the file and the text that came with it, and `revision` that of its annotation, 0 as long as nobody has
    saved one."""

    path: str
    duration_s: float
    status: Status
    problem: str
    notes: list[str]
    reviewed: bool
    revision: int


@dataclass
class RecordingFacts(Recording):
    """A recording in the list: `ahead` says how many wait before it, `findings` counts its cycles by label, and
    `uncertainty` is 1 - the largest probability of its least certain cycle that nobody has confirmed.

    `judged` is false where the default model could judge none of it; `quality_reason` says why, or what is wrong
    with a part of it.
    """

    ahead: int | None
    edited: bool
    findings: dict[str, int]
    uncertainty: float | None
    judged: bool
    quality: str
    quality_reason: str


@dataclass
class Saved:
    """`facts` is the recording's line in the list as it now is."""

    recording: str
    revision: int
    saved: float
    facts: RecordingFacts


@dataclass
class Scores:
    """`facts` is the recording's line in the list as it now is."""

    model: str
    cycles: list[ScoredSpan]
    facts: RecordingFacts
    notice: str = NOTICE


@dataclass
class SessionContent(Named):
    recordings: list[RecordingFacts]


@dataclass
class RecordingDetail(Recording):
    """A recording, what each model said of its cycles, and its cycles as they stand; `source` says whose they
    are: person, annotation, segment (breaths found in the sound) or window. What could not be judged is no cycle."""

    session: str
    rate_hz: int
    scores: dict[str, list[ScoredSpan]]
    cycles: list[MarkedCycle]
    source: str
    judged: bool
    quality: str
    quality_reason: str
    notice: str = NOTICE


@dataclass
class Explanation(Span):
    """How much each part of the log-mel picture spoke for a label: values -1..1, band 0 the lowest, row by row."""

    model: str
    label: Label
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
