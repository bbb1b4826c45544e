"""Request and response bodies as dataclasses, from which FastAPI makes the checks and the OpenAPI description.

A record that holds all fields of another one inherits them: these are lists of fields, without behaviour. What comes in
as JSON must be of just the described type: no "1" for a number, no 0 for false.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, WithJsonSchema, model_validator

from rales.evaluation.predictions import NOTICE
from rales.labels import LabelSet

LONGEST_NAME = 60  # of a reader
MOST_ROUNDS = 99

# Which labels there are depends on the model that is served; `describe_labels` puts them in the place of this.
Label = Annotated[str, WithJsonSchema({"type": "string", "format": "label"})]
ExportForm = Literal["icbhi", "csv", "audacity", "raven"]
EventForm = Literal["raven", "audacity", "icbhi", "sprsound", "aoef"]
EventKind = Literal["wheeze", "rhonchus", "stridor", "crackle", "fine crackle", "coarse crackle", "expiration"]
# In the address of a request: whose annotation, without a name what stands for all; and the round of that reader
ReaderName = Annotated[str, Field(max_length=LONGEST_NAME)]
RoundNumber = Annotated[int, Field(ge=1, le=MOST_ROUNDS)]
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
    events: int
    shortest_cycle_s: float


@dataclass
class ModelFacts:
    """`answers` is the sentence that must stand beside the default model's answers for whole recordings. `learned` is
    the id of a model that was learned here, `origin` says from what; `digest` says which weights and settings it is (""
    as long as nobody has asked it)."""

    name: str
    default: bool
    recipe: str
    classes: list[str]
    independent: bool = False
    answers: str = ""
    learned: str = ""
    origin: str = ""
    digest: str = ""


@dataclass
class Span:
    start_s: StrictFloat  # a whole number is one too
    end_s: StrictFloat


@dataclass
class MarkedCycle(Span):
    """A cycle as a person marked it; `confirmed` if the label was looked at, `unusable` if it can have none.
    `note` is one free line."""

    label: Label
    confirmed: StrictBool = False
    unusable: StrictBool = False
    note: str = ""


@dataclass
class MarkedEvent(Span):
    """A sound inside a cycle, or the moment at which expiration begins. A point starts where it ends; lowest and
    highest frequency are both known or none is."""

    kind: EventKind
    low_hz: StrictFloat | None = None
    high_hz: StrictFloat | None = None


class ScoredSpan(BaseModel):
    """What a model says of a stretch; without label and probabilities where the sound cannot be judged, for which
    `quality` names the class and `quality_reason` says why. A probability, p_…, stands there for each class.
    `prediction_set` names the labels that it may have (evaluation/conformal.py, 90 %), "" of a model without sets."""

    model_config = ConfigDict(extra="allow")

    start_s: float
    end_s: float
    label: Label | None
    quality: str = ""
    quality_reason: str = ""
    prediction_set: str = ""

    @model_validator(mode="before")
    @classmethod
    def select_columns(cls, row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name in cls.model_fields or name.startswith("p_")}


class PredictedCycle(ScoredSpan):
    """A row of `rales predict`: which cycle of which recording, counted from 1."""

    recording: str
    cycle: int
    source: str
    true_label: Label | None = None


@dataclass
class Prediction:
    """`notes` are sentences about what was wrong with the file and how it was read all the same; `digest` says which
    weights and settings the model is, `version` which Rales answered."""

    recording: str
    duration_s: float
    model: str
    digest: str
    version: str
    cycles: list[PredictedCycle]
    notes: list[str]
    notice: str = NOTICE


@dataclass
class Annotation:
    """The corrected cycles of a recording of a session, and the events that are marked in it; without `events` those
    that stand stay. `base` is the revision that they were made from: given, an annotation that somebody else has
    changed since is not overwritten (409). `reader` and `round` say whose it is, without a name what stands for all."""

    recording: str
    cycles: list[MarkedCycle]
    base: StrictInt | None = None
    events: list[MarkedEvent] | None = None
    reader: str = ""
    round: StrictInt = 1


@dataclass
class Revision:
    """A saved state of an annotation: how many cycles it has, how many of them were confirmed, and which labels it
    holds. Revision 0, which nobody saved, is what the model said first or the annotation that came along."""

    revision: int
    saved: float | None
    cycles: int
    confirmed: int
    findings: dict[str, int]
    events: int


@dataclass
class FileText:
    """The text of a file of events or of an annotation, and its name."""

    name: str
    text: str


@dataclass
class ReadCycles:
    """The cycles of an annotation, which is not kept by that; `notes` say what was left out of it."""

    cycles: list[MarkedCycle]
    notes: list[str]


@dataclass
class ReadEvents:
    """What a file of events holds, which is not kept by that; `form` says what it was read as, `notes` what was left
    out of it."""

    form: EventForm
    events: list[MarkedEvent]
    notes: list[str]


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
    about the file and the text that came with it, `revision` is that of its annotation, 0 as long as nobody has saved
    one, and `patient`, `location` and `device` are what was said of them, else what a name of ICBHI 2017 or SPRSound
    says, else ""."""

    path: str
    duration_s: float
    status: Status
    problem: str
    notes: list[str]
    reviewed: bool
    revision: int
    patient: str
    location: str
    device: str


@dataclass
class RecordingFacts(Recording):
    """A recording in the list: of two states of a line the one with the larger `changed` is the later one, `turn` is
    its number among those that wait for the model, `findings` counts its usable cycles by label, and `uncertainty` is
    1 - the largest probability of its least certain cycle that nobody has confirmed. `answers` are the probabilities
    that it holds anything abnormal, any crackle, any wheeze, where the classes are those of ICBHI 2017 (see
    ModelFacts.answers). `ambiguous` counts the cycles that nobody has confirmed and whose set has several labels.

    `judged` is false where the default model could judge none of it; `quality_reason` says why, or what is wrong
    with a part of it.
    """

    changed: int
    turn: int | None
    edited: bool
    cycles: int
    confirmed: int
    answers: dict[str, float] | None
    findings: dict[str, int]
    uncertainty: float | None
    ambiguous: int
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
class SessionPart:
    """A part of a session's list in the order the recordings came; `next` is what the next part is asked for with, null
    behind the last one. Of all parts, the first `mark` is what the stream of changes begins from; `begun` is the turn
    that the model works on, `taken` how many files of a folder are taken in, of how many."""

    recordings: list[RecordingFacts]
    next: str | None
    mark: str
    begun: int
    taken: tuple[int, int] | None


@dataclass
class RecordingDetail(Recording):
    """A recording, what each model said of its cycles, and its cycles and events as they stand; `source` says whose the
    cycles are: person, annotation, segment (breaths found in the sound), window or simulated. `annotated` are those of
    the annotation that came along. What could not be judged is no cycle. `named` is what the recording's name says of
    `patient`, `location` and `device`, `facts_revision` is that of these and of `note`."""

    session: str
    rate_hz: int
    scores: dict[str, list[ScoredSpan]]
    cycles: list[MarkedCycle]
    source: str
    annotated: list[MarkedCycle]
    events: list[MarkedEvent]
    judged: bool
    quality: str
    quality_reason: str
    note: str
    named: dict[str, str]
    facts_revision: int
    notice: str = NOTICE


@dataclass
class Facts:
    """What a person says of a recording; what is null stays. A value that its name says too is then taken as the
    name's. `base` is the revision that this was made from: given, facts that somebody else has changed since are not
    overwritten (409)."""

    patient: str | None = None
    location: str | None = None
    device: str | None = None
    note: str | None = None
    base: StrictInt | None = None


@dataclass
class SavedFacts:
    """`facts` is the recording's line in the list as it now is."""

    revision: int
    facts: RecordingFacts


@dataclass
class NewLive(Name):
    """`rate_hz` is that of the samples which will come."""

    rate_hz: StrictInt


@dataclass
class LiveFacts(Named):
    """A recording that is being made, or (`left`: no sound comes any more) was left unfinished; `samples` have come."""

    session: str
    rate_hz: int
    samples: int
    duration_s: float
    left: bool


@dataclass
class LiveAnswers:
    """What is said of a recording while it is made: the cycles that have ended, and whether its newest sound can be
    judged. All of it is provisional: the recording that is kept is judged anew, as a file."""

    duration_s: float
    cycles: list[ScoredSpan]
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


def describe_labels(part: Any, label_set: LabelSet) -> None:
    """Put the labels and probabilities of a set into the OpenAPI description, whole or in part."""
    if isinstance(part, dict):
        if part.get("format") == "label":
            del part["format"]
            part |= {} if label_set.independent else {"enum": list(label_set.classes)}
        if part.get("title") in (ScoredSpan.__name__, PredictedCycle.__name__):
            share = {"anyOf": [{"type": "number"}, {"type": "null"}]}
            part["properties"] |= dict.fromkeys(label_set.columns, share)
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        describe_labels(inner, label_set)
