"""Every number of a run (Config) and every behaviour that one system changes (Recipe)."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rales.errors import UsageError

if TYPE_CHECKING:  # the command's --help and the cache's workers must not wait for torch
    import torch
    from _typeshed import DataclassInstance
    from pandas import DataFrame
    from torch import Tensor, nn


ABOVE_ZERO = tuple(
    f"{section}.{name}"
    for section, names in {
        "audio": "rate_hz duration_s std",
        "model": "dim depth heads patch unit_frames layers",
        "train": "batch_size lr head_lr_factor step_epochs interpolate epochs evaluate_every",
        "split": "folds",
        "encoder": "dim depth heads patch unit_frames decoder_dim decoder_depth decoder_heads",
        "crops": "shortest_s statistics_crops std threads",
        "pretrain": "epochs batch_size lr",
    }.items()
    for name in names.split()
)
SHARES = ("train.validation_share", "pretrain.mask_ratio")  # above 0 and below 1
AT_MOST = {  # far above anything sensible: nothing is made of a size that a slip or a damaged file asks for
    "rate_hz": 192_000,
    "duration_s": 600,
    "fade_samples": 10**7,
    "dim": 2**16,
    "decoder_dim": 2**16,
    "depth": 128,
    "decoder_depth": 128,
    "heads": 2**16,
    "decoder_heads": 2**16,
    "patch": 2**16,
    "unit_frames": 10**6,
    "layers": 128,
    "seed": 2**63 - 1,  # as far as JSON and torch go
}
LEAST_HZ, LEAST_S = 1000, 0.1
MOST_SAMPLES = 20_000_000  # of a cycle: 80 MB
MOST = 10**9  # of any other whole number


@dataclass(frozen=True)
class Audio:
    """From a cycle's sound to what the network sees."""

    frontend: Literal["icbhi", "m2d", "m2d_clip", "own"] = "icbhi"
    """icbhi: HTK log-mel in dB, min-max, standardised, as the published ICBHI recipes; m2d: as M2D was pre-trained;
    m2d_clip: M2D's log-mel, each clip brought to mean 0 and deviation 1 (ours); own: the picture that the recipe's file
    describes."""
    floor: Literal["fixed", "clip"] = "fixed"
    """Of m2d_clip: the power that M2D adds before the logarithm, the same for all sounds, or in proportion to the power
    of the clip, so that no gain changes an answer (ours; docs/recordings.md says how much it does otherwise)."""
    rate_hz: int = 16000
    """Sample rate after resampling (paper 4.3.1)."""
    duration_s: float = 8.0
    """Length of every cycle after cutting or padding (paper 4.3.1)."""
    pad: Literal["repeat", "zero", "duplicate", "reflect"] = "repeat"
    """How a shorter cycle is filled: repeated from its start (paper 4.3.1), with silence, whole and then repeated
    (RespireNet), or by its mirror image (Nguyen & Pernkopf)."""
    fade_samples: int = 1000
    """Linear fade at both ends of the cycle and at the end of the clip (public code of [11], not in the paper)."""
    resampler: Literal["soxr", "sinc"] = "soxr"
    """soxr HQ (ours), or the short windowed sinc of the published code, which lets more through above half of a low
    native rate: the pictures of 4 and 10 kHz recordings are others (docs/ablations.md)."""
    scope: Literal["clip", "batch"] = "clip"
    """Of icbhi: min-max of each clip, or of the whole batch as published. Then a score depends on its neighbours in a
    batch of train.batch_size, in the order of the table."""
    mean: float = 0.3690
    """Mean of the standardisation (paper 4.3.1; the m2d front-end takes the checkpoint's, else -7.1)."""
    std: float = 0.2550
    """Standard deviation of the standardisation (paper 4.3.1; m2d: the checkpoint's, else 4.2)."""


@dataclass(frozen=True)
class Augmentation:
    """SpecAugment with time warping, training only (paper 4.3.1)."""

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
    time_warp_frames: int = 40
    """Largest shift of the warp's anchor, in 10 ms frames; 0 turns warping off (the published code has none)."""
    device_gain: float = 0.0
    """Size of a smooth random gain over frequency, in standard deviations of the picture (ours; 0 = none)."""
    device_band_limit: float = 0.0
    """Share of cycles that lose everything above a random frequency, as at a low sample rate (ours; 0 = none)."""


@dataclass(frozen=True)
class Model:
    """The encoder and what is fused of it."""

    dim: int = 768
    """Width D of the ViT (paper 4.3)."""
    depth: int = 12
    """Transformer blocks L (paper 4.3)."""
    heads: int = 12
    """Attention heads (paper 4.3)."""
    patch: tuple[int, int] = (16, 16)
    """Mel bands and frames of one patch (paper 4.3)."""
    unit_frames: int = 608
    """Frames that the encoder sees at once (paper 4.3: grid 5 x 38 of 16 x 16 patches)."""
    layers: tuple[int, ...] = (12,)
    """Fused layers, numbered from 1 (Table 2)."""
    learned: bool = False
    """Layer weights w_i are learned (eq. 1) or fixed at 1.0."""
    layer_weight_update: Literal["step", "per_epoch"] = "step"
    """Learned w_i move with every step, or once after every epoch by its mean gradient and at the sum of its steps'
    learning rates, so that they get as far (paper 4.3, other reading)."""
    layout: Literal["flat", "stacked"] = "flat"
    """T counts patches (D = 768 as in the paper) or time columns (D = 3840 as in M2D's runtime)."""
    long_input: Literal["chunks", "resample_positions"] = "chunks"
    """8 s as units of 608 and 193 frames (M2D), or one pass with a stretched position table."""
    raw_last: bool = False
    """Take layer L before the final LayerNorm."""
    head_start: Literal["zero", "default"] = "zero"
    """Start of the classification layer: nearly zero, or torch's own for a linear layer, as in the published code. Only
    w_i times the head's weights matters, so the head's start decides which way a learned w_i goes."""
    norm_layers: bool = False
    """LayerNorm without parameters on every layer before fusion (ablation)."""
    freeze_patch_embed: bool = False
    """Keep the patch embedding as pre-trained (ablation; the later public M2D recipe does)."""
    weights: str = ""
    """Name or file of the pre-trained checkpoint; empty = random start."""
    weights_digest: str = ""
    """SHA-256 of that file, or of the M2D encoder in it: filled in, since a file of the same name may hold another."""


@dataclass(frozen=True)
class Training:
    """The supervised loop (paper 4.3)."""

    epochs: int = 150
    """Passes over the training cycles."""
    batch_size: int = 64
    """Cycles an optimiser step."""
    micro_batch: int = 16
    """Cycles in memory at once; gradients of a batch add up over its pieces, the result is the same; 0 = all."""
    drop_last: bool = False
    """Leave out the last batch of an epoch if it is not full."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Adam (paper 4.3), or SGD with momentum (most earlier systems)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    lr: float = 1e-4
    """Learning rate at the start."""
    head_lr_factor: float = 1.0
    """Learning rate of the new classification layer, as a multiple of `lr`."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls, epoch by epoch."""
    lr_floor: float = 1e-6
    """Learning rate at the end of the cosine (public code of [11])."""
    step_epochs: int = 50
    """Epochs between two falls of schedule=step."""
    step_factor: float = 0.1
    """What schedule=step multiplies the learning rate with."""
    weight_decay: float = 1e-4
    """Coupled (L2) weight decay."""
    interpolate: float = 1.0
    """Share of the new weights and buffers after every step; the rest stays as it was before it (AST: 0.5)."""
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
    validation_share: float = 0.2
    """Share of the training cycles (whole patients) held out when `select` is validation."""
    evaluate_every: int = 1
    """Record validation and test figures every this many epochs (the last epoch always)."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of the training alone, scores are always of float32. auto: bfloat16 where a short measurement shows that the
    processor gains from it; published code trains in float32 (AST: half precision)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps …"""


@dataclass(frozen=True)
class Split:
    """Which recordings train and which test."""

    name: Literal["official", "official_drop", "official_move", "folds"] = "official"
    """The official 60/40 list, one of its two leak-free repairs, or patient-disjoint folds over all recordings."""
    folds: int = 5
    """Number of folds when `name` is folds."""
    fold: int = 0
    """The fold that tests, from 0."""
    seed: int = 0
    """Seed of the folds and of the validation patients (not of the training)."""


@dataclass(frozen=True)
class Config:
    """All numbers of one run; any of them can be set by its dotted name."""

    audio: Audio = field(default_factory=Audio)
    augment: Augmentation = field(default_factory=Augmentation)
    model: Model = field(default_factory=Model)
    train: Training = field(default_factory=Training)
    split: Split = field(default_factory=Split)
    seed: int = 0
    """Seed of the random start, the order of cycles and the augmentation."""


@dataclass(frozen=True)
class Step:
    """What a loss may know of its batch, beside the features. `label` and `group` are those of the piece at hand."""

    config: Config
    label: "Tensor"
    """(b,) class numbers."""
    whole_label: "Tensor"
    """(B,) class numbers of the whole batch, over all pieces and processes."""
    weight: "Tensor"
    """(classes,) loss weights."""
    group: "Tensor"
    """(b,) metadata group of the patient, negative where unknown."""
    generator: "torch.Generator"
    """For whatever the loss draws: mixtures, second views."""


Provenance = Literal["ours", "code-verified", "secondary", "reconstruction"]
FIDELITIES = ("corrected", "original")  # published quirks are mended, or stay


@dataclass(frozen=True)
class Recipe:
    """Everything one system changes. Numbers are in `config`; behaviour is in the functions."""

    name: str
    options: Mapping[str, Any]
    """The words that chose this variant, enough to build the recipe again."""
    config: Config
    frontend: "Callable[[Config], nn.Module]"
    """(B, samples) -> standardised features. Its persistent buffers are kept in the checkpoint."""
    model: "Callable[[Config], nn.Module]"
    """Features -> (B, classes) logits; loads pre-trained weights if the config names some."""
    augment: "Callable[[Config, Tensor, torch.Generator], Tensor]"
    """(config, features, generator) -> features; training only."""
    batch_loss: "Callable[[nn.Module, Tensor, Step], tuple[Tensor, Tensor]]"
    """(model, features, step) -> scalar loss, logits of the (b, classes) rows that it was given."""
    run: Callable[..., dict[str, Any]]
    """(recipe, cycles, out folder, …) -> figures: `finetune.run`, or a system's own stages."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Dotted fields in which `config` is not the one that the options make, and their values."""
    provenance: Provenance = "ours"
    """How sure it is that this is the published system: checked against its authors' code, against others' re-use of
    it, or rebuilt from an abstract. Printed beside its scores."""
    rows: "Callable[[Config, DataFrame], DataFrame] | None" = None
    """(config, divided cycles table) -> the rows that are prepared: several pieces of a long cycle, joined copies of
    train cycles. None: one row a cycle."""
    prepare: Callable[[Config], Any] | None = None
    """Config -> `cache.Preparation`, how a row becomes what the front-end gets. None: a waveform as `audio` says."""
    fit: "Callable[[Config, nn.Module, nn.Module, Any, torch.device], None] | None" = None
    """(config, front-end, model, `CycleDataset`, device): sets their buffers from the train rows, before epoch 1."""
    wave_augment: "Callable[[Config, Tensor, torch.Generator], Tensor] | None" = None
    """(config, what was prepared, generator) -> what the front-end gets; training only."""
    whole_batches: bool = False
    """Loss or normalisation compare the rows of a batch: it cannot be cut into pieces or shared among processes."""
    asked: "Recipe | None" = None
    """In the last of several stages, whose numbers are its own: the recipe that the user asked for."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever trains: what was taken of a checkpoint, and what was not."""


def one_of(option: str, value: str, known: Sequence[str]) -> None:
    """A recipe's option and what it may be; anything else is a UsageError."""
    if value not in known:
        raise UsageError(f"{option} {value!r} is unknown; expected one of {', '.join(known)}")


def number_of_option(option: str, text: str) -> float:
    """A recipe's option in words -> a finite number, 0 or more; anything else is a UsageError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"{option} {text!r}: expected a finite number, 0 or more")
    return value


def count_of_option(option: str, text: str, least: int) -> int:
    """A recipe's option in words -> a whole number, `least` or more; anything else is a UsageError."""
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise UsageError(f"{option} {text!r}: expected a whole number, {least} or more")
    return int(text)


def base_or_tiny(size: str, weights: str) -> str:
    """Options of a system whose public files are of its full size -> "base" or "tiny". Errors: another size."""
    one_of("size", size, ("base", "tiny"))
    return "base" if weights else size


def is_original(fidelity: str) -> bool:
    """A recipe's option -> whether it is "original". Errors: neither of the two."""
    one_of("fidelity", fidelity, FIDELITIES)
    return fidelity == "original"


def no_weights(name: str, weights: str) -> None:
    """A system without public weights refuses a file of some."""
    if weights:
        raise UsageError(f"{name} has no pre-trained weights; leave --weights out")


Settings = TypeVar("Settings", bound="DataclassInstance")  # Config, or PretrainConfig


def override(config: Settings, assignments: list[str]) -> Settings:
    """Config and `name.of.field=value` words -> config; unknown names and unfit values are UsageErrors."""
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected name.of.field=value, for example train.lr=0.001")
        config = replace_field(config, name.strip(), value.strip())
    return config


def replace_field(config: Settings, name: str, text: str) -> Settings:
    known = field_types(type(config))
    if name not in known:
        raise UsageError(f"--set {name}: no such field; the nearest is {nearest_field(name, list(known))}")
    value = parse(text, known[name], name)
    if expected := what_is_possible(value, name):
        raise UsageError(f"--set {name}={text}: expected {expected}")
    head, _, tail = name.partition(".")
    if not tail:
        return dataclasses.replace(config, **{head: value})
    section = dataclasses.replace(getattr(config, head), **{tail: value})
    return dataclasses.replace(config, **{head: section})


def nearest_field(name: str, known: list[str]) -> str:
    """A name that is no field -> the field that was meant. `train.learning_rate` and train.lr, `train.wd` and
    train.weight_decay have the same initials."""
    section, _, tail = name.rpartition(".")

    def initials(words: str) -> str:
        return "".join(word[0] for word in words.split("_") if word)

    tails = {field: field.rpartition(".")[2] for field in known}
    short = [field for field, theirs in tails.items() if theirs == initials(tail) or initials(theirs) == tail]
    own = [field for field in short or known if field.startswith(f"{section}.")]
    return difflib.get_close_matches(name, own or short or known, n=1, cutoff=0.0)[0]


def what_is_possible(value: Any, name: str) -> str:
    """Value of the right type and its field -> what the field can be at all, "" if the value is possible: no field is
    infinite, hardly any negative, and no network is larger than AT_MOST."""
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float):
            continue
        least_fits = number > 0 if name in ABOVE_ZERO else number >= 0 or name.endswith(("mean", "best_score"))
        if not least_fits or not math.isfinite(number):
            return "a number above 0" if name in ABOVE_ZERO else "a finite number, 0 or more"
        most = AT_MOST.get(name.rpartition(".")[2], MOST if isinstance(number, int) else math.inf)
        if number > most:
            return f"a number up to {most}"
    if name in SHARES and not 0 < value < 1:
        return "a share between 0 and 1"
    return ""


def check_fit(config: Config) -> None:
    """Settings that are possible one by one: UsageError for those that do not go together."""
    model, audio = config.model, config.audio
    if not model.layers or max(model.layers) > model.depth:
        raise UsageError(f"model.layers={list(model.layers)}: the encoder has {model.depth} layers")
    if audio.rate_hz < LEAST_HZ or audio.duration_s < LEAST_S:
        raise UsageError(
            f"audio.rate_hz={audio.rate_hz} and audio.duration_s={audio.duration_s:g}: expected {LEAST_HZ} and "
            f"{LEAST_S:g} at least, of which no picture can be made otherwise"
        )
    if audio.rate_hz * audio.duration_s > MOST_SAMPLES:
        raise UsageError(
            f"audio.duration_s={audio.duration_s:g} at {audio.rate_hz} Hz: {audio.rate_hz * audio.duration_s:.0f} "
            f"samples a cycle, expected {MOST_SAMPLES} at most"
        )


def field_types(section: type) -> dict[str, Any]:
    """Dataclass -> dotted field name -> type."""
    types_ = typing.get_type_hints(section)
    known: dict[str, Any] = {}
    for f in dataclasses.fields(section):
        if dataclasses.is_dataclass(types_[f.name]):
            known |= {f"{f.name}.{inner}": t for inner, t in field_types(types_[f.name]).items()}
        else:
            known[f.name] = types_[f.name]
    return known


def parse(text: str, kind: Any, name: str) -> Any:
    """Words of the command line -> a value of the field's type."""
    try:
        if typing.get_origin(kind) is Literal:
            if text not in typing.get_args(kind):
                raise UsageError(f"--set {name}={text}: expected one of {', '.join(typing.get_args(kind))}")
            return text
        if typing.get_origin(kind) is tuple:
            numbers = tuple(int(part) for part in text.strip("[]()").split(",") if part)
            if Ellipsis not in typing.get_args(kind) and len(numbers) != len(typing.get_args(kind)):
                raise ValueError("wrong number of numbers")
            return numbers
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        wanted = "list of whole numbers" if typing.get_origin(kind) is tuple else kind.__name__
        raise UsageError(f"--set {name}={text}: expected a value of type {wanted}") from error


def to_dict(config: "DataclassInstance") -> dict[str, Any]:
    """Config -> plain JSON values."""
    return dataclasses.asdict(config)


def differences(before: Config, after: Config) -> dict[str, Any]:
    """Two configs -> dotted name -> value in the second, for fields in which they differ."""
    found: dict[str, Any] = {}
    for section, values in to_dict(after).items():
        if isinstance(values, dict):
            old = to_dict(before)[section]
            found |= {f"{section}.{name}": value for name, value in values.items() if value != old[name]}
        elif values != to_dict(before)[section]:
            found[section] = values
    return found


def from_dict(values: Any, origin: str | Path = "config") -> Config:
    """Plain JSON values -> Config; fields that a newer or older version lacks, and values that no field can have, are a
    sentence."""
    config: Config = build(Config, values, str(origin))
    return config


def build(section: type, values: Any, origin: str, prefix: str = "") -> Any:
    """Dataclass, the JSON object of it, and what is at fault if it is none -> the dataclass. `prefix` is the dotted
    name of the object and its dot, "" of all settings."""
    hints = typing.get_type_hints(section)
    if not isinstance(values, Mapping):
        raise ValueError(f"{origin}: its {prefix.rstrip('.') or 'config'} is {of_kind(values)}, expected an object")  # noqa: TRY004
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{origin}: unknown settings {', '.join(unknown)}; it was written by another version of Rales")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = build(typing.cast(type, hints[name]), value, origin, f"{prefix}{name}.")
        else:
            arguments[name] = stored(value, hints[name], prefix + name, origin)
    return section(**arguments)


def stored(value: Any, kind: Any, name: str, origin: str) -> Any:
    """JSON value and type of its field -> the value. Errors: one that the field cannot have."""
    given, expected = value, ""
    if typing.get_origin(kind) is Literal:
        expected = "" if value in typing.get_args(kind) else f"one of {', '.join(typing.get_args(kind))}"
    elif typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        value = tuple(value) if isinstance(value, list | tuple) else ()
        right = all(type(number) is int for number in value) and (Ellipsis in parts or len(value) == len(parts))
        expected = "" if value and right else "a list of whole numbers"
    elif not (type(value) is kind or (kind is float and type(value) is int)):
        expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
    if expected := expected or what_is_possible(value, name):
        shown = of_kind(given) if isinstance(given, dict | list) and not isinstance(value, tuple) else repr(given)[:80]
        raise ValueError(
            f"{origin}: {name} is {shown}, expected {expected}; the file is damaged or was changed by hand"
        )
    return value


def of_kind(value: object) -> str:
    """JSON value -> what it is, in words."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
