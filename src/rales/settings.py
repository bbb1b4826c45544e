"""Settings of a run: what a field may be, how words of the command become its value, the groups that recipes share.

A recipe composes its `Settings` of those groups whose every field it reads, and adds its own. A field has a type, a
default, a docstring below it, and where its type allows more than makes sense, `Bounds`. `--set name.of.field=value`,
`--name.of.field value`, a sweep's `--grid` and the record of a finished run are all read here.
"""

import ast
import dataclasses
import difflib
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from rales.errors import SettingError, UsageError
from rales.labels import CLASSES, TASKS, LabelSet

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LARGEST_COUNT = 10**9
MOST_SAMPLES = 20_000_000  # of a cycle: 80 MB
ALIKE, ALIKE_NAMES = 0.7, 0.5  # of difflib: last parts of names in other groups, whole names
DAMAGED = "the file is damaged or was changed by hand"


@dataclass(frozen=True)
class Bounds:
    """What a number may be; without any, 0 or more. All numbers are finite."""

    least: float = 0
    above: float | None = None
    most: float | None = None
    """Far above anything sensible: nothing is made of a size that a slip or a damaged file asks for."""
    below: float | None = None

    def describe_expected(self, number: float) -> str:
        """Number -> what it should have been, "" if it is that."""
        if self.above is not None and self.below is not None:
            return "" if self.above < number < self.below else f"a number between {self.above:g} and {self.below:g}"
        finite = isinstance(number, int) or math.isfinite(number)  # a large int is no float
        if self.above is not None and not (number > self.above and finite):
            return f"a number above {self.above:g}"
        if self.above is None and not (number >= self.least and finite):
            return "a finite number" + (f", {self.least:g} or more" if math.isfinite(self.least) else "")
        most = self.most if self.most is not None else LARGEST_COUNT if isinstance(number, int) else math.inf
        return f"a number up to {most}" if number > most else ""


Count = Annotated[int, Bounds(above=0)]
Positive = Annotated[float, Bounds(above=0)]
Fraction = Annotated[float, Bounds(above=0, below=1)]
Share = Annotated[float, Bounds(most=1)]
AnyNumber = Annotated[float, Bounds(least=-math.inf)]
Seed = Annotated[int, Bounds(most=2**63 - 1)]  # as far as JSON and torch go
Width = Annotated[int, Bounds(above=0, most=2**16)]
Depth = Annotated[int, Bounds(above=0, most=128)]
FrameCount = Annotated[int, Bounds(above=0, most=10**6)]
Resampler = Literal["soxr", "sinc"]
Fidelity = Literal["corrected", "original"]
SplitName = Literal[
    "official",
    "official_drop",
    "official_move",
    "folds",
    "patients",
    "device",
    "respirenet",
    "leaky_recordings",
    "leaky_cycles",
]


@dataclass(frozen=True)
class Waveform:
    """From a cycle's sound to the waveform that a recipe prepares."""

    rate_hz: Annotated[int, Bounds(least=1000, most=192_000)] = 16000
    """Sample rate after resampling (paper 4.3.1)."""
    duration_s: Annotated[float, Bounds(least=0.1, most=600)] = 8.0
    """Length of every cycle after cutting or padding (paper 4.3.1)."""
    resampler: Resampler = "soxr"
    """soxr HQ (ours), or the short windowed sinc of the published code, which lets more through above half of a low
    native rate: the pictures of 4 and 10 kHz recordings are others (docs/ablations.md)."""

    def check(self) -> None:
        """Errors: more samples a cycle than fit in memory."""
        if self.rate_hz * self.duration_s > MOST_SAMPLES:
            raise UsageError(
                f"audio.duration_s={self.duration_s:g} at {self.rate_hz} Hz: {self.rate_hz * self.duration_s:.0f} "
                f"samples a cycle, expected {MOST_SAMPLES} at most"
            )


@dataclass(frozen=True)
class PaddedWaveform(Waveform):
    """A waveform of a fixed length, filled and faded."""

    pad: Literal["repeat", "zero", "duplicate", "reflect"] = "repeat"
    """How a shorter cycle is filled: repeated from its start (paper 4.3.1), with silence, whole and then repeated
    (RespireNet), or by its mirror image (Nguyen & Pernkopf)."""
    fade_samples: Annotated[int, Bounds(most=10**7)] = 1000
    """Linear fade at both ends of the cycle and at the end of the clip (public code of [11], not in the paper)."""


@dataclass(frozen=True)
class StandardisedAudio(PaddedWaveform):
    """A waveform and the standardisation of its log-mel."""

    scope: Literal["clip", "batch"] = "clip"
    """Of the icbhi log-mel: min-max of each clip, or of the whole batch as published. Then a score depends on its
    neighbours in a batch of train.batch_size, in the order of the table."""
    mean: AnyNumber = 0.3690
    """Mean of the standardisation (paper 4.3.1; the m2d front-end takes the checkpoint's, else -7.1)."""
    std: Positive = 0.2550
    """Standard deviation of the standardisation (paper 4.3.1; m2d: the checkpoint's, else 4.2)."""


def scales_batches(audio: object) -> bool:
    """Settings of a waveform, or None -> whether an answer depends on the others of its batch (audio.scope=batch)."""
    return getattr(audio, "scope", "clip") == "batch"


def scored_together(recipe: Any, usual: int) -> int:
    """Recipe -> how many rows are scored at a time, wherever a model is asked: `usual`, unless audio.scope=batch makes
    an answer depend on the others of its batch. Then they are those of a part alone, in the order of the table, as many
    as train together, so that training, evaluation and prediction give one answer."""
    return recipe.settings.train.batch_size if recipe.scales_batches else usual


@dataclass(frozen=True)
class SpecAugment:
    """Stripes of a spectrogram that training hides (paper 4.3.1)."""

    frequency_masks: int = 2
    """Stripes over frequency."""
    frequency_width: int = 20
    """Upper bound of a stripe's mel bands; the published code's order (the paper's sentence literally reads 40)."""
    time_masks: int = 2
    """Stripes over time."""
    time_width: int = 40
    """Upper bound of a stripe's 10 ms frames (the paper's sentence literally reads 20)."""
    published_gate: bool = False
    """Applied with probability 0.841, as a slip in published code has it: one draw per batch (AST: per clip)."""


@dataclass(frozen=True)
class Training:
    """The supervised loop (paper 4.3)."""

    epochs: Count = 150
    """Passes over the training cycles."""
    batch_size: Count = 64
    """Cycles an optimiser step."""
    micro_batch: int = 16
    """Cycles in memory at once; gradients of a batch add up over its pieces, the result is the same; 0 = all."""
    drop_last: bool = False
    """Leave out the last batch of an epoch if it is not full."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Adam (paper 4.3), or SGD with momentum (most earlier systems)."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    lr: Positive = 1e-4
    """Learning rate at the start."""
    head_lr_factor: Positive = 1.0
    """Learning rate of the new classification layer, as a multiple of `lr`."""
    layer_decay: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """What the learning rate is multiplied with from each block of the encoder to the one below: with d and L blocks,
    block i learns at lr * d^(L + 1 - i), what is below the first at lr * d^(L + 1), the rest at lr (BEiT). 1 = off."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls, epoch by epoch."""
    lr_floor: float = 1e-6
    """Learning rate at the end of the cosine (public code of [11])."""
    step_epochs: Count = 50
    """Epochs between two falls of schedule=step."""
    step_factor: Annotated[float, Bounds(above=0, most=1)] = 0.1
    """What schedule=step multiplies the learning rate with."""
    weight_decay: float = 1e-4
    """Coupled (L2) weight decay."""
    interpolate: Positive = 1.0
    """Share of the new weights and buffers after every step; the rest stays as it was before it (AST: 0.5)."""
    ema: Annotated[float, Bounds(most=0.999999)] = 0.0
    """Share of itself that a moving average of the weights and buffers keeps at each step, for example 0.999; what is
    scored and kept is the average. At step t it keeps (1 + t) / (10 + t) at most, so that the start is forgotten. 0 =
    off."""
    mixup: Annotated[float, Bounds(most=100)] = 0.0
    """Alpha of mixup: each clip's features are mixed with those of another one of its batch, at a share of Beta(alpha,
    alpha) that the batch has in common, and so are their losses (Zhang et al. 2018). 0 = off."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread evenly over all classes. 0 = off."""
    sam_rho: Annotated[float, Bounds(most=10)] = 0.0
    """Radius of sharpness-aware minimisation: the step's gradient is taken where the weights have moved by so much up
    the batch's own, at twice the time (Foret et al. 2021: 0.05). 0 = off."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate rises from 0 (the paper has none; a random start needs some)."""
    cosine_epochs: int = 0
    """Half period of the cosine in epochs; 0 = all epochs. The published code's 40 makes the rate go up again."""
    cosine_start_epoch: int = 0
    """Epochs of the cosine that are over when the first epoch begins (AST's code counts epochs from 1)."""
    class_weights: Literal["inverse", "none"] = "inverse"
    """Loss weights 1 / class frequency of the training table, summing to 1, or none."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Every cycle once an epoch, or classes drawn equally often (then class_weights=none, else both correct for it)."""
    select: Literal["last", "validation", "test_best"] = "last"
    """Which epoch's weights are kept as `best`; `test_best` is the paper's protocol and looks at the test set."""
    select_by: Literal["auroc", "score"] = "auroc"
    """What chooses among epochs on validation cycles: the mean AUROC of "crackles present" and "wheezes present", which
    no constant answer wins, or the ICBHI Score, of which calling every cycle normal has 50. test_best: the Score."""
    validation_share: Fraction = 0.2
    """Share of the training cycles (whole patients) held out when `select` is validation."""
    evaluate_every: Count = 1
    """Record validation and test figures every this many epochs (the last epoch always)."""
    metrics: tuple[str, ...] = ()
    """Own metrics to record beside ours: names, or FILE.py:NAME of functions (class numbers (n,), of independent
    classes (n, classes) of 0 and 1, probabilities (n, classes)) -> figure, or figures by name."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the training alone, scores are always of float32. auto: bfloat16 on an x86 processor with AMX, an AMD one with
    avx512_bf16, or an NVIDIA GPU that has units for it; published code trains in float32 (AST: half precision)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps …"""


@dataclass(frozen=True)
class Split:
    """Which recordings train and which test."""

    name: SplitName = "official"
    """The official 60/40 list, one of its two leak-free repairs (official_drop, official_move), patient-disjoint folds
    over all recordings, patients at random (60/40), all recordings of one device as the test, or RespireNet's published
    80/20 folds of patients. leaky_recordings and leaky_cycles draw recordings or cycles at random (60/40), so that
    patients of the test train too: to measure what that is worth, not to report."""
    folds: Annotated[int, Bounds(least=2)] = 5
    """Number of folds when `name` is folds."""
    fold: int = 0
    """The fold that tests, from 0."""
    device: str = ""
    """The device that tests when `name` is device, as the data calls it."""
    seed: Seed = 0
    """Seed of the folds, of what is drawn at random and of the validation patients (not of the training)."""

    def check(self) -> None:
        """Errors: a fold that is none of them, a device without its split or the other way round."""
        if self.name == "folds" and self.fold >= self.folds:
            raise UsageError(f"split.fold={self.fold}: split.folds={self.folds} are counted from 0 to {self.folds - 1}")
        if (self.name == "device") != bool(self.device):
            raise UsageError(
                f"split.device={self.device or '(none)'} with split.name={self.name}: split.name=device and the device "
                "that tests go together"
            )


@dataclass(frozen=True)
class RunSettings:
    """What every recipe's `Settings` begin with, since the training loop and the splits read it."""

    FILLED_IN: ClassVar[tuple[str, ...]] = ()
    """Dotted names of fields that other settings bring, and nobody sets."""
    train: Training = field(default_factory=Training)
    split: Split = field(default_factory=Split)
    seed: Seed = 0
    """Seed of the random start, the order of cycles and the augmentation."""
    classes: tuple[str, ...] = CLASSES
    """What is told apart, 2 to 20 names; the first means that nothing abnormal is heard. sprsound_1_1, sprsound_1_2,
    sprsound_2_1 and sprsound_2_2 stand for the classes of those tasks."""
    independent: bool = False
    """Whether each class is a yes or no of its own (1 to 20 names, none of them for nothing), or one excludes the
    others."""
    from_model: str = ""
    """Trained model that the run goes on from (--from): name, run folder or checkpoint; empty = none."""
    from_digest: str = ""
    """SHA-256 of its checkpoint, filled in."""
    freeze: str = "none"
    """What stays as it starts: none; encoder = all but the classification layer and the weights of fused layers; a
    number N = the first N blocks of the encoder and what is below them."""

    @property
    def label_set(self) -> LabelSet:
        """The classes as a label set."""
        return LabelSet(self.classes, self.independent)

    def with_presets(self, given: AbstractSet[str]) -> Self:
        """Names of the fields without a dot that the user has set -> these settings, with what follows from them for
        the others: a size or a checkpoint brings its own numbers."""
        return self

    def default_layers(self) -> tuple[int, ...] | None:
        """Layers that are fused at this depth if none are named; None if this system has no choice of layers."""
        return None

    def with_consequences(self, given: AbstractSet[str]) -> Self:
        """What follows from fields with a dot that were set, `given`, unless it was set itself: of another depth the
        layers that are fused."""
        layers = self.default_layers()
        if layers is None or "model.depth" not in given or "model.layers" in given:
            return self
        return replace_field(self, "model.layers", layers)

    def check(self) -> None:
        """Errors: settings that are possible one by one, but not together."""


def check_classes(settings: RunSettings) -> None:
    """Errors: classes that are none, and what independent ones do not have."""
    if problem := settings.label_set.describe_problem():
        raise UsageError(f"--classes {','.join(settings.classes)}: {problem}")
    if settings.independent and settings.train.sampler == "balanced":
        raise UsageError(
            "train.sampler=balanced: draws exclusive classes equally often, and these are independent; use shuffle"
        )


def require_classes(settings: RunSettings, why: str, *, icbhi: bool = False) -> None:
    """Errors: independent classes, or with `icbhi` all but the four of ICBHI 2017; `why` a system cannot have them."""
    if icbhi and not settings.label_set.is_icbhi:
        raise UsageError(f"--classes {','.join(settings.classes)}: {why}, so it has {', '.join(CLASSES)} only")
    if settings.independent:
        raise UsageError(f"--independent: {why}, so its classes exclude one another; leave it out")


@dataclass(frozen=True)
class BackboneSettings(RunSettings):
    """What the `Settings` of an earlier system begin with whose network may start from a pre-trained backbone."""

    size: Literal["base", "tiny"] = "base"
    """Of a random start, and with it of the training; with weights it is base."""
    weights: str = ""
    """File of the pre-trained backbone; empty = random start."""
    weights_digest: str = ""
    """SHA-256 of that file, filled in."""


@dataclass(frozen=True)
class TransformerSize:
    """The blocks of a transformer."""

    dim: Width = 768
    """Width D of the tokens."""
    depth: Depth = 12
    """Transformer blocks L."""
    heads: Width = 12
    """Attention heads."""
    recompute: bool = False
    """Training keeps of every block only what goes into it and computes the rest again on the way back: the same
    numbers in less memory, for a quarter more time."""


@dataclass(frozen=True)
class AdaptedTransformer(TransformerSize):
    """The blocks of a transformer, and what of them may learn."""

    low_rank: Annotated[int, Bounds(most=2**12)] = 0
    """Features of low-rank updates of keys and values (LoRA): only these, the layer weights and the head learn, the
    encoder stays as it starts. LoRA-RSC has 8 on AST, 0.3 million parameters. 0 = none."""


Group = TypeVar("Group", bound="DataclassInstance")


def parse_words(words: Iterable[str]) -> dict[str, str]:
    """`name.of.field=value` words -> name -> value in words; of two with one name the later counts."""
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word}: expected name.of.field=value, for example train.lr=0.001")
        values[name.strip()] = value.strip()
    return values


def set_fields(settings: Group, values: Mapping[str, Any], where: str = "") -> Group:
    """Settings with some fields replaced.

    Parameters
    ----------
    settings
        A dataclass of values and further dataclasses.
    values
        Dotted name -> value, or the value in words. A name that is no field, and a value that the field cannot have,
        are UsageErrors.
    where
        Whose settings they are, for the sentence about a name that is none.
    """
    known = list_fields(type(settings))
    for name, value in values.items():
        if name not in known:
            nearest = find_nearest(name, list(known))
            groups = dict.fromkeys(each.partition(".")[0] + ".…" * ("." in each) for each in known)
            hint = f"the nearest is {nearest}" if nearest else f"there are {', '.join(groups)}"
            raise SettingError(name, f"no such field{where}; {hint}")
        parsed = parse_value(format_value(value), known[name], name)
        if name == "classes" and len(parsed) == 1:
            parsed = TASKS.get(parsed[0], parsed)
        settings = replace_field(settings, name, parsed)
    return settings


def replace_field(settings: Group, name: str, value: Any) -> Group:
    """Settings, dotted name and value -> the settings with that value."""
    head, _, tail = name.partition(".")
    return dataclasses.replace(
        settings, **{head: replace_field(getattr(settings, head), tail, value) if tail else value}
    )


def set_defaults(settings: Group, given: AbstractSet[str], defaults: Mapping[str, Any]) -> Group:
    """Settings with other defaults (dotted name -> value), but for the fields that were given."""
    for name, value in defaults.items():
        if name not in given:
            settings = replace_field(settings, name, value)
    return settings


def find_nearest(name: str, known: list[str]) -> str | None:
    """A name that is no field -> the field that was meant. `train.learning_rate` and train.lr, `train.wd` and
    train.weight_decay have the same initials; where there is no such group, the last part of the name counts alone, and
    None is like it enough."""
    section, _, tail = name.rpartition(".")

    def find_initials(words: str) -> str:
        return "".join(word[0] for word in words.split("_") if word)

    tails = {each: each.rpartition(".")[2] for each in known}
    if same := [each for each, theirs in tails.items() if theirs == tail]:
        return same[0]
    short = [each for each, theirs in tails.items() if theirs == find_initials(tail) or find_initials(theirs) == tail]
    own = [each for each in short or known if each.startswith(f"{section}.")]
    if section and not own and not short:
        closest = difflib.get_close_matches(tail, list(tails.values()), n=1, cutoff=ALIKE)
        return next((each for each, theirs in tails.items() if theirs in closest), None)
    close = difflib.get_close_matches(name, own or short or known, n=1, cutoff=0.0 if own or short else ALIKE_NAMES)
    return close[0] if close else None


def list_fields(section: type) -> dict[str, Any]:
    """Dataclass -> dotted field name -> its type, with its bounds."""
    hints = typing.get_type_hints(section, include_extras=True)
    known: dict[str, Any] = {}
    for each in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[each.name]):
            inner = list_fields(typing.cast(type, hints[each.name]))
            known |= {f"{each.name}.{name}": kind for name, kind in inner.items()}
        else:
            known[each.name] = hints[each.name]
    return known


def describe_fields(section: type) -> dict[str, str]:
    """Dataclass -> dotted field name -> the docstring below the field, in one line."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for above, below in pairwise(getattr(node, "body", [])):
            if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(below, ast.Expr):
                found[above.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    for name, kind in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{inner}": said for inner, said in describe_fields(typing.cast(type, kind)).items()}
    return {name: found.get(name, "") for name in list_fields(section)}


def split_bounds(kind: Any) -> tuple[Any, Bounds]:
    """Type of a field -> the type without its annotations, and its bounds."""
    if typing.get_origin(kind) is not Annotated:
        return kind, Bounds()
    bare, *extras = typing.get_args(kind)
    return bare, next((extra for extra in extras if isinstance(extra, Bounds)), Bounds())


def describe_expected(value: Any, kind: Any) -> str:
    """A value and the type of its field -> what it should have been, "" if it fits."""
    bare, bounds = split_bounds(kind)
    if typing.get_origin(bare) is Literal:
        choices = typing.get_args(bare)
        fits = any(value == choice and type(value) is type(choice) for choice in choices)
        return "" if fits else f"one of {', '.join(map(str, choices))}"
    if typing.get_origin(bare) is tuple:
        inner = typing.get_args(bare)
        if not isinstance(value, tuple) or (Ellipsis not in inner and len(value) != len(inner)):
            return name_type(bare)
        return next((said for part in value if (said := describe_expected(part, inner[0]))), "")
    if not (type(value) is bare or (bare is float and type(value) is int)):
        return name_type(bare)
    return bounds.describe_expected(value) if bare in (int, float) else ""


def name_type(kind: Any) -> str:
    """Type without annotations -> what it is called in a sentence."""
    if typing.get_origin(kind) is tuple:
        inner, _ = split_bounds(typing.get_args(kind)[0])
        plain = {int: "whole numbers", str: "words"}
        return f"a list of {plain.get(inner) or ', '.join(map(str, typing.get_args(inner)))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]


def parse_value(text: str, kind: Any, name: str) -> Any:
    """Words of the command line -> a value of the field's type. Errors: words that are none."""
    try:
        value = read_text(text, split_bounds(kind)[0])
    except (ValueError, KeyError) as error:
        raise SettingError(name, f"expected {name_type(split_bounds(kind)[0])}", text) from error
    if expected := describe_expected(value, kind):
        raise SettingError(name, f"expected {expected}", text)
    return value


def read_text(text: str, bare: Any) -> Any:
    """Words and a type without annotations -> the value. Errors: ValueError or KeyError."""
    if typing.get_origin(bare) is Literal:
        return next((choice for choice in typing.get_args(bare) if str(choice) == text), text)
    if typing.get_origin(bare) is tuple:
        inner, _ = split_bounds(typing.get_args(bare)[0])
        return tuple(read_text(part.strip(), inner) for part in text.strip("[]()").split(",") if part)
    if bare is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    return bare(text)


def format_value(value: Any) -> str:
    """Value of a field -> the words that `parse_value` reads as the same."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def check_together(settings: "DataclassInstance") -> None:
    """Errors: what a group of the settings, or all of them, say does not go together."""
    for each in dataclasses.fields(settings):
        if dataclasses.is_dataclass(value := getattr(settings, each.name)):
            check_together(typing.cast("DataclassInstance", value))
    if isinstance(settings, RunSettings):
        check_classes(settings)
    if callable(check := getattr(settings, "check", None)):
        check()


def to_dict(settings: "DataclassInstance") -> dict[str, Any]:
    """Settings -> plain JSON values."""
    return dataclasses.asdict(settings)


def get_values(settings: "DataclassInstance") -> dict[str, Any]:
    """Settings -> dotted name -> value."""
    found = {}
    for name in list_fields(type(settings)):
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


def find_differences(before: Group, after: Group) -> dict[str, Any]:
    """Two settings of one kind -> dotted name -> value in the second, of the fields in which they differ."""
    values = get_values(before)
    return {name: value for name, value in get_values(after).items() if value != values[name]}


def from_dict(section: type[Group], values: Any, origin: str | Path, prefix: str = "") -> Group:
    """Plain JSON values -> settings.

    Parameters
    ----------
    section
        The dataclass; fields that the values lack have its defaults.
    values
        What was read. A ValueError says which of them no such field can have, or that there is no such field.
    origin
        What is at fault then, a file.
    prefix
        Dotted name of the object and its dot, "" of all settings.
    """
    hints = typing.get_type_hints(section, include_extras=True)
    if not isinstance(values, Mapping):
        raise ValueError(f"{origin}: its {prefix.rstrip('.') or 'config'} is {of_kind(values)}, expected an object")  # noqa: TRY004
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"{origin}: unknown settings {', '.join(unknown)}; it was written by another version of Rales")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            kind = typing.cast("type[DataclassInstance]", hints[name])
            arguments[name] = from_dict(kind, value, origin, f"{prefix}{name}.")
        else:
            arguments[name] = check_stored(value, hints[name], prefix + name, origin)
    return section(**arguments)


def check_stored(value: Any, kind: Any, name: str, origin: str | Path) -> Any:
    """JSON value and type of its field -> the value. Errors: one that the field cannot have."""
    given = value
    if typing.get_origin(split_bounds(kind)[0]) is tuple and isinstance(value, list):
        value = tuple(value)
    if expected := describe_expected(value, kind):
        shown = of_kind(given) if isinstance(given, dict | list) and not isinstance(value, tuple) else repr(given)[:80]
        raise ValueError(f"{origin}: {name} is {shown}, expected {expected}; {DAMAGED}")
    return value


def of_kind(value: object) -> str:
    """JSON value -> what it is, in words."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", types.NoneType: "null"}
    return kinds.get(type(value), "a number")
