"""What a run folder says of its run, as fields with types: files are held against these when they are read.

A field without a default must be there. Names that are not listed are allowed, since a newer version may say more;
those of the settings are not, since they decide what is computed.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rales.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration
from rales.evaluation.conformal import COVERAGES
from rales.evaluation.metrics import icbhi_scores, two_class_scores
from rales.labels import LabelSet
from rales.settings import DAMAGED, AnyNumber, RunSettings, Seed, check_stored, from_dict, of_kind, split_bounds


@dataclass(frozen=True)
class Side:
    """How much data is in one part of a split."""

    recordings: int = 0
    patients: int = 0
    cycles: int | None = None
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Which data a run saw."""

    name: str = ""
    digest: str = ""
    whole_database: bool = False
    trained_recordings: list[str] = field(default_factory=list)
    train: Side | None = None
    test: Side | None = None


@dataclass(frozen=True)
class ComputedIn:
    """What of the machine can change a result."""

    precision: Literal["float32", "bf16"]
    device: str = ""
    processes: int = 1


@dataclass(frozen=True)
class State:
    """Where an unfinished training stands."""

    epoch: int
    best_score: list[AnyNumber] | None
    best_epoch: int | None


@dataclass(frozen=True)
class Export:
    """What is said of an artefact."""

    precision: Literal["float32", "bf16", "int8"]
    digest: str
    probe: list[list[float]]
    probe_difference: float
    whole_cycles: bool = False
    """Whether a cycle becomes one waveform as `config.audio` says, so that nothing else of the recipe is needed."""


@dataclass(frozen=True)
class Record:
    """config.json of a training run, and the record in its checkpoints."""

    recipe: str
    config: dict[str, Any]
    classes: list[str]
    independent: bool = False
    recipe_source: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: Seed = 0
    epoch: int = 0
    provenance: str = ""
    command: str = ""
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    calibration: Calibration | None = None
    computed_in: ComputedIn | None = None
    export: Export | None = None


@dataclass(frozen=True)
class Scores:
    """Fractions, null where there are no cycles of a kind."""

    specificity: float | None
    sensitivity: float | None
    score: float | None


@dataclass(frozen=True)
class Detection:
    """How well one kind of sound is found."""

    auroc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Intervals:
    """Ends of intervals."""

    score: list[float | None]


@dataclass(frozen=True)
class Protocol:
    """What must be known of figures."""

    split: str
    select: str
    selected_epoch: int
    epochs: int
    seed: Seed
    cycles: int
    patients: int
    whole_database: bool
    recipe: str = ""
    provenance: str = ""
    select_by: str | None = None


@dataclass(frozen=True)
class Validation:
    """Figures of the validation cycles."""

    cycles: int
    specificity: float | None
    sensitivity: float | None
    score: float | None
    auroc: float | None


@dataclass(frozen=True)
class Threshold:
    """A threshold that validation patients chose, and the figures at it."""

    threshold: float | None
    specificity: float | None = None
    sensitivity: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Temperature:
    """A temperature that validation patients chose, and the calibration error with and without it."""

    temperature: float
    ece: float
    ece_calibrated: float


@dataclass(frozen=True)
class OwnFigure:
    """A figure of a metric from outside the package."""

    value: AnyNumber | None
    ci95: list[AnyNumber | None]


@dataclass(frozen=True)
class ChallengeTask:
    """Scores of a task of SPRSound's challenges: side -> figures of `rales.evaluation.challenge_scores.score_task`."""

    task: str
    rows: str
    sides: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """evaluation.json, as far as somebody reads it again."""

    specificity: float | None
    sensitivity: float | None
    score: float | None
    macro_recall: float | None
    ci95: Intervals
    two_class: Scores
    majority: Scores
    protocol: Protocol
    classes: list[str] = field(default_factory=list)  # with `independent` of other sets than ICBHI's
    independent: bool = False
    confusion: list[list[int]] | None = None  # none of independent classes
    confusion_per_class: dict[str, list[list[int]]] = field(default_factory=dict)
    crackle_present: Detection | None = None
    wheeze_present: Detection | None = None
    by_class: dict[str, Detection] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    own: dict[str, OwnFigure] = field(default_factory=dict)
    sprsound_task: ChallengeTask | None = None
    validation: Validation | None = None
    validation_threshold: Threshold | None = None
    validation_temperature: Temperature | None = None


def check_record(values: Any, origin: str | Path) -> RunSettings:
    """Record of a training run, and the file it is from -> those of its settings that every recipe has. Errors: a
    sentence for all that is no such record, and for classes that are not those that this version tells apart."""
    check_fields(Record, values, str(origin))
    label_set = LabelSet.from_record(values)
    if problem := label_set.describe_problem():
        raise ValueError(f"{origin}: its classes are {values['classes']}: {problem}; {DAMAGED}")
    check_calibration(values.get("calibration") or {}, label_set, origin)
    common = [known.name for known in dataclasses.fields(RunSettings)]
    shared = {name: value for name, value in values["config"].items() if name in common}
    settings = from_dict(RunSettings, shared, origin)
    if settings.label_set != label_set:
        expected = ", ".join(settings.classes) + (", independent" if settings.independent else "")
        raise ValueError(f"{origin}: its classes are {values['classes']}, expected {expected} in this order")
    return settings


def check_calibration(known: Mapping[str, Any], label_set: LabelSet, origin: str | Path) -> None:
    """`calibration` of a record, whose fields are right -> nothing. Errors: numbers that none can be."""
    temperature = known.get("temperature", 1)
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise ValueError(
            f"{origin}: its temperature is {temperature}, expected {MIN_TEMPERATURE} to {MAX_TEMPERATURE}; {DAMAGED}"
        )
    for finding, pooling in known.get("recordings", {}).items():
        if len(pooling["weights"]) != 3 or not all(map(math.isfinite, pooling["weights"])):
            raise ValueError(f"{origin}: calibration.recordings.{finding} has no three finite weights; {DAMAGED}")
    if other := sorted(set(known.get("classes", {})) - set(label_set.findings)):
        raise ValueError(f"{origin}: calibration.classes.{other[0]} is of no class; {DAMAGED}")
    conformal = known.get("conformal") or {"pooled": {"least": {}}, "devices": {}}
    for group in (conformal["pooled"], *conformal["devices"].values()):
        for coverage, least in group["least"].items():
            if not 0 <= least <= 1 or coverage not in map(str, COVERAGES):
                raise ValueError(f"{origin}: calibration.conformal has {least} at coverage {coverage}; {DAMAGED}")


def check_evaluation(values: Any, origin: str | Path) -> None:
    """evaluation.json, read -> nothing. Errors: what is none, or whose figures are not those of its own counts."""
    check_fields(Evaluation, values, str(origin))
    if len(values["ci95"]["score"]) != 2:
        raise ValueError(f"{origin}: ci95.score has {len(values['ci95']['score'])} ends, expected two; {DAMAGED}")
    label_set = LabelSet.from_record(values)
    if label_set.independent:
        check_answer_counts(values, label_set, origin)
        return
    if not values.get("confusion"):
        raise ValueError(f"{origin}: has no usable `confusion`; {DAMAGED}")
    for name in () if "by_class" in values else ("crackle_present", "wheeze_present"):
        if name not in values:
            raise ValueError(f"{origin}: has no usable `{name}`; {DAMAGED}")
    if [len(row) for row in values["confusion"]] != [len(label_set)] * len(label_set):
        raise ValueError(f"{origin}: confusion is not {len(label_set)} rows of {len(label_set)} counts; {DAMAGED}")
    strict, two_class = icbhi_scores(values["confusion"]), two_class_scores(values["confusion"])
    for prefix, told, found in (("", values, strict), ("two_class.", values["two_class"], two_class)):
        for name in ("specificity", "sensitivity", "score"):
            value = math.nan if told[name] is None else told[name]
            if not (abs(value - found[name]) < 1e-6 or (math.isnan(value) and math.isnan(found[name]))):
                raise ValueError(f"{origin}: {prefix}{name} is {told[name]}, its counts give {found[name]}; {DAMAGED}")


def check_answer_counts(values: Mapping[str, Any], label_set: LabelSet, origin: str | Path) -> None:
    """Figures of independent classes -> nothing. Errors: counts that are not those of one and the same cycles."""
    tables = values.get("confusion_per_class") or {}
    if tuple(tables) != label_set.classes or any([len(row) for row in table] != [2, 2] for table in tables.values()):
        raise ValueError(f"{origin}: confusion_per_class is not two rows of two counts for each class; {DAMAGED}")
    cycles = {name: sum(map(sum, table)) for name, table in tables.items()}
    for name, count in cycles.items():
        if count != values["protocol"]["cycles"]:
            expected = values["protocol"]["cycles"]
            raise ValueError(f"{origin}: confusion_per_class.{name} counts {count} cycles of {expected}; {DAMAGED}")


def check_fields(section: type, values: Any, origin: str, prefix: str = "") -> None:
    """Dataclass and the JSON object of it -> nothing. Errors: a sentence for a field that is missing or is no such
    thing; `prefix` is the dotted name of the object and its dot."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{origin}: {prefix.rstrip('.') or 'it'} is {of_kind(values)}, expected an object; {DAMAGED}")  # noqa: TRY004
    hints = typing.get_type_hints(section, include_extras=True)
    for known in dataclasses.fields(section):
        name = prefix + known.name
        if known.name in values:
            check_value(values[known.name], hints[known.name], name, origin)
        elif known.default is known.default_factory is dataclasses.MISSING:
            raise ValueError(f"{origin}: has no usable `{name}`; {DAMAGED}")


def check_value(value: Any, kind: Any, name: str, origin: str) -> None:
    """JSON value, the type of its field, the field's dotted name -> nothing. Errors: as `check`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):  # X | None, str | int; Annotated makes the second
        if value is None and type(None) in typing.get_args(kind):
            return
        kinds = typing.get_args(kind)
        kind = next((each for each in kinds if type(value) is split_bounds(each)[0]), kinds[0])
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if dataclasses.is_dataclass(kind):
        check_fields(typing.cast(type, kind), value, origin, f"{name}.")
    elif outer in (list, dict):
        if not isinstance(value, outer):
            expected = "a list" if outer is list else "an object"
            raise ValueError(f"{origin}: {name} is {of_kind(value)}, expected {expected}; {DAMAGED}")
        for part in value if isinstance(value, list) else value.values():
            check_value(part, inner[-1], name, origin)
    else:
        check_stored(value, kind, name, origin)
