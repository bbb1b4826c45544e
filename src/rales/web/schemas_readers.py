"""Request and response bodies about readers, as those of `schemas.py`."""

from dataclasses import dataclass

from pydantic import StrictInt

from rales.evaluation.predictions import NOTICE
from rales.web.schemas import MarkedCycle


@dataclass
class Progress:
    """How far a reader is in a round: recordings begun, cycles of these, and how many are decided."""

    reader: str
    round: int
    recordings: int
    cycles: int
    confirmed: int


@dataclass
class NewReaderName:
    """A reader of a session, and the name that this one is to have."""

    reader: str
    name: str


@dataclass
class ReaderChange:
    """When a reader was given another name, or ("") removed."""

    made: float
    reader: str
    became: str


@dataclass
class OtherReading:
    """The decided cycles of another reader that may be seen."""

    reader: str
    round: int
    cycles: list[MarkedCycle]


@dataclass
class Figure:
    """A kappa or alpha with its interval by patient; null where it does not exist. `agreed` is the share of equal pairs
    of judgements."""

    value: float | None
    ci95: list[float | None]
    agreed: float
    cycles: int
    patients: int


@dataclass
class Pair:
    """Cohen's kappa of two readers, and how often the first (rows) and the second (columns) said which."""

    readers: list[str]
    kappa: Figure | None
    confusion: list[list[int]] | None


@dataclass
class Finding:
    alpha: Figure | None
    fleiss_kappa: Figure | None
    pairs: list[Pair]


@dataclass
class Difference:
    """A cycle that readers call differently: who calls it what; "(unusable)" is no class."""

    recording: str
    title: str
    patient: str
    start_s: float
    end_s: float
    labels: dict[str, str]


@dataclass
class Agreement(Finding):
    """How far the readers of a round agree, for the classes (nothing of independent ones) and for each finding."""

    round: int
    readers: list[str]
    cycles: int
    patients: int
    recordings: int
    findings: dict[str, Finding]
    differences: list[Difference]
    notice: str = NOTICE


@dataclass
class Round:
    round: StrictInt


@dataclass
class Settled:
    """How many recordings were changed, cycles took the label that all gave, and readers call or cut differently."""

    recordings: int
    settled: int
    differ: int
