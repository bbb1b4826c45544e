"""M2DViT-Fusion: a ViT pre-trained with M2D, its layers concatenated with learnable weights, mean + max pooled.

Paper: Liu et al., "Masked Modeling Duo Vision Transformer with multi-layer feature fusion on respiratory sound
classification", Table 2, the six M2D rows. Official split, five seeds, epoch chosen on the test set (`test_best`):

    variant        fused layers   weights        Sp            Se            Score
    vanilla        12             -              75.78±5.84    39.51±4.64    57.64±0.86
    pair_5_12      5, 12          fixed 1.0      75.43±5.22    41.18±5.80    58.30±0.97
    pair_5_11      5, 11          fixed 1.0      82.05±4.16    38.06±3.24    60.05±1.00
    triple_4_7_10  4, 7, 10       fixed 1.0      79.69±2.68    39.96±1.56    59.83±0.72
    all_fixed      1 … 12         fixed 1.0      79.71±3.58    40.34±2.55    59.97±0.69
    all_learned    1 … 12         learnable      79.48±4.99    41.87±4.27    60.68±0.49

Command: rales train m2d_fusion --data ICBHI_final_database --weights m2d_vit_base-80x608p16x16-221006-mr7 --out RUN

The M2D group's own later recipe (`ntt_recipe`, code-verified; Score 61.93, 63.29±0.22 after further pre-training):
Command: rales train m2d_ntt --data ICBHI_final_database --weights m2d_vit_base-80x200p16x4-230529 --out RUN

Deviations from the public code that the paper follows (ilyassmoummad/scl_icbhi2017), each a setting, and all of them
undone by fidelity=published (`PUBLISHED`): a better resampler (audio.resampler=sinc); min-max per clip, not per batch
of 64 (audio.scope=batch); SpecAugment on every batch, not on 84.1 % of them (augment.published_gate=true); the cosine
runs over all epochs, not down and up again every 40 (train.cosine_epochs=40); bfloat16 where it pays
(train.precision=float32); the head starts nearly at zero (model.head_start=default); the last epoch is kept, not that
which is best on the test set (train.select=test_best).

From the paper's printed text: SpecAugment's widths are 20 bands and 40 frames as in that code, not 40 and 20
(masks=paper), and a cycle is faded as in that code. From the code: time warping, which only the paper has
(augment.time_warp_frames=0). With `--weights` of a run of ours the encoder and what it hears are that run's; the head
and the weights of the layers are new. Without `--weights` the start is random, which the paper never does: then the
learning rate warms up, and the sizes `small` and `tiny` (ours, for machines without a GPU) have a higher one and
smaller batches. `tiny` also hears and augments otherwise.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_type_hints

import torch
from torch import Tensor, nn

from rales.audio import IcbhiLogMel, M2DLogMel
from rales.audio.feature_augment import mask_features, shift_frames, simulate_other_device, time_warp
from rales.audio.logmel import StandardiseClip
from rales.errors import UsageError
from rales.models.classifier import FusionClassifier
from rales.models.hub import find_checkpoint
from rales.models.layer_fusion import Pool
from rales.models.low_rank import add_low_rank_updates
from rales.models.m2d_checkpoints import build_encoder, fingerprint_encoder, load_m2d, read_tensors, record_of
from rales.models.vit import ViT, recompute_activations
from rales.registry import ENCODERS, split_file_word
from rales.settings import (
    AdaptedTransformer,
    Depth,
    FrameCount,
    SpecAugment,
    StandardisedAudio,
    Width,
    check_stored,
    from_dict,
    set_defaults,
)
from rales.training import finetune
from rales.training.loss_terms import TermSettings, add_loss_term
from rales.training.losses import weighted_loss
from rales.training.recipe import Recipe

Variant = Literal["vanilla", "pair_5_12", "pair_5_11", "triple_4_7_10", "all_fixed", "all_learned"]
Frontend = Literal["icbhi", "m2d", "m2d_clip"]
PAPER_LAYERS = {"vanilla": (12,), "pair_5_12": (5, 12), "pair_5_11": (5, 11), "triple_4_7_10": (4, 7, 10)}
VARIANTS = (*PAPER_LAYERS, "all_fixed", "all_learned")

PUBLISHED = {
    "audio.resampler": "sinc",
    "audio.scope": "batch",
    "augment.published_gate": True,
    "model.head_start": "default",
    "train.cosine_epochs": 40,
    "train.precision": "float32",
    "train.select": "test_best",
}
"""What fidelity=published sets: the fields in which our defaults are not those of the public code behind the paper."""

# Ours, of a size that a processor trains in minutes. A patch is 80 ms of all mel bands, so that 4 s are 50 of them.
# Most recordings hold nothing above 4 kHz, and at 8 kHz the front-end costs half. Half of the usual clip is enough,
# since a breath takes 2.7 s on average. The full SpecAugment keeps so small a model from fitting anything.
TINY: dict[str, Any] = {
    "frontend": "m2d_clip",
    "audio.rate_hz": 8000,
    "audio.duration_s": 4.0,
    "audio.fade_samples": 500,
    "audio.floor": "clip",
    "audio.mean": 0.0,
    "audio.std": 1.0,
    "augment.frequency_width": 12,
    "augment.time_width": 24,
    "augment.time_warp_frames": 0,
    "augment.device_gain": 0.3,
    "augment.device_band_limit": 0.5,
    "model.dim": 96,
    "model.depth": 3,
    "model.heads": 4,
    "model.patch": (80, 8),
    "model.unit_frames": 200,
    "train.lr": 1e-3,
    "train.weight_decay": 0.0,
    "train.warmup_epochs": 1,
    "train.batch_size": 32,
    "train.micro_batch": 32,
    "train.class_weights": "none",
    "train.precision": "float32",
}
SMALL = {
    "model.dim": 384,
    "model.depth": 12,
    "model.heads": 6,
    "train.lr": 3e-4,
    "train.warmup_epochs": 5,
    "train.batch_size": 32,
}
SIZES: dict[str, dict[str, Any]] = {"base": {"train.warmup_epochs": 5}, "small": SMALL, "tiny": TINY}
"""What the size of a random start sets."""


NTT = {
    "audio.mean": 0.3671,
    "audio.std": 0.2391,
    "augment.time_warp_frames": 0,
    "model.layout": "stacked",
    "model.pool": "mean",
    "model.freeze_patch_embed": True,
    "train.lr": 5e-5,
    "train.drop_last": True,
}
"""What m2d_ntt, the M2D group's own later recipe, sets beside `PUBLISHED` (nttcslab/m2d, app/icbhi_sprs)."""


@dataclass(frozen=True)
class Audio(StandardisedAudio):
    """From a cycle's sound to what the network sees."""

    floor: Literal["fixed", "clip"] = "fixed"
    """Of m2d_clip: the power that M2D adds before the logarithm, the same for all sounds, or in proportion to the power
    of the clip, so that no gain changes an answer (ours; docs/recordings.md says how much it does otherwise)."""


@dataclass(frozen=True)
class Augmentation(SpecAugment):
    """SpecAugment with time warping, training only (paper 4.3.1)."""

    time_warp_frames: int = 40
    """Largest shift of the warp's anchor, in 10 ms frames; 0 turns warping off (the published code has none)."""
    device_gain: float = 0.0
    """Size of a smooth random gain over frequency, in standard deviations of the picture (ours; 0 = none)."""
    device_band_limit: float = 0.0
    """Share of cycles that lose everything above a random frequency, as at a low sample rate (ours; 0 = none)."""
    time_shift: bool = False
    """Turn each clip in time by a random number of frames (ours); a short cycle is repeated to its length anyway."""


@dataclass(frozen=True)
class Model(AdaptedTransformer):
    """The encoder and what is fused of it."""

    patch: tuple[Width, Width] = (16, 16)
    """Mel bands and frames of one patch (paper 4.3)."""
    unit_frames: FrameCount = 608
    """Frames that the encoder sees at once (paper 4.3: grid 5 x 38 of 16 x 16 patches)."""
    layers: tuple[Depth, ...] = (12,)
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
    pool: Pool = "mean_max"
    """What is taken of a fused layer over time: mean + maximum (eq. 2), or one of them. The paper does not say whether
    the vanilla rows pool so too, or by the mean alone as M2D's code does."""
    norm_layers: bool = False
    """LayerNorm without parameters on every layer before fusion (ablation)."""
    freeze_patch_embed: bool = False
    """Keep the patch embedding as pre-trained (ablation; the later public M2D recipe does)."""

    def check(self) -> None:
        """Errors: layers that the encoder does not have."""
        if not self.layers or max(self.layers) > self.depth:
            raise UsageError(f"model.layers={list(self.layers)}: the encoder has {self.depth} layers")
        if len(set(self.layers)) < len(self.layers):
            raise UsageError(f"model.layers={list(self.layers)}: a layer is fused once; name each once")


@dataclass(frozen=True)
class Settings(TermSettings):
    """Numbers of one row of Table 2."""

    variant: Variant = "all_learned"
    """Row of Table 2: which layers are fused, and whether their weights are learned."""
    size: Literal["base", "small", "tiny"] = "base"
    """Of a random start: it brings its own numbers of sound, augmentation and training. With weights the network is the
    checkpoint's, and the other numbers are the paper's, or those of tiny if a run of ours made a network that hears
    as tiny does and is at most twice as wide and as deep.
    """
    weights: str = ""
    """Name or file of the pre-trained checkpoint; empty = random start."""
    weights_digest: str = ""
    """SHA-256 of the M2D encoder in it: filled in, since a file of the same name may hold another."""
    encoder: str = ""
    """An own encoder instead of the ViT, FILE.py:NAME or one that is registered: a function of these settings -> module
    with `dim` and `depth`, (normalised log-mel (B, 1, 80, frames), layout) -> list of `depth` outputs (B, T, dim); with
    `layer_widths(layout)` in place of `dim`, each of its own width."""
    encoder_digest: str = ""
    """SHA-256 of its file, filled in."""
    frontend: Frontend = "icbhi"
    """icbhi: HTK log-mel in dB, min-max, standardised, as the published ICBHI recipes; m2d: as M2D was pre-trained;
    m2d_clip: M2D's log-mel, each clip brought to mean 0 and deviation 1 (ours). Unless it is set, that of the
    checkpoint's run or of the size, if they have one."""
    masks: Literal["code", "paper"] = "code"
    """Order of SpecAugment's widths: 20 mel bands and 40 frames as in the public code, or as the paper's sentence
    literally reads, exchanged."""
    fidelity: Literal["corrected", "published"] = "corrected"
    """corrected: our defaults; published: sound, augmentation and training of the public code, of whatever size the
    network is and whatever a run of ours heard (a random start warms up, too)."""
    audio: Audio = field(default_factory=Audio)
    augment: Augmentation = field(default_factory=Augmentation)
    model: Model = field(default_factory=Model)

    def with_presets(self, given: AbstractSet[str]) -> Self:
        """What variant, size, checkpoint and fidelity bring. Errors: a checkpoint that is no M2D encoder."""
        published = self.fidelity == "published"
        if published and "frontend" in given and self.frontend != "icbhi":
            word = f"frontend={self.frontend}"
            raise UsageError(f"fidelity=published has the front-end of the ICBHI code; leave {word} out")

        if self.encoder and self.weights:
            raise UsageError(f"encoder={self.encoder}: an own encoder loads its own weights; leave --weights out")

        # the network is that of the size or of the checkpoint; the other numbers are those of the size or the paper's
        start = start_of(find_checkpoint(self.weights)) if self.weights else None
        size = self.size
        if start:
            size = "tiny" if is_tiny(start) and not published else "base"
        network = {name: value for name, value in SIZES[size].items() if name.startswith("model.")}
        others = {} if start and size == "base" else SIZES["base"] if published else SIZES[size]
        settings = set_defaults(replace(self, size=size, frontend="icbhi"), set(), {**others, **network})
        if start:
            settings = replace(settings, model=model_of(start), weights_digest=start.digest)
        if self.encoder:  # named here by a person, and found again by its content
            ENCODERS.find(self.encoder)
            source = ENCODERS.describe_source(self.encoder)
            settings = replace(
                settings, encoder=ENCODERS.make_portable(self.encoder), encoder_digest=source.get("sha256", "")
            )
        if not published:
            asked = self.frontend if "frontend" in given else None
            frontend, audio = find_sound(settings.frontend, settings.audio, start, asked)
            settings = replace(settings, frontend=frontend, audio=audio)

        learned = self.variant == "all_learned"
        settings = replace(settings, model=replace(settings.model, layers=settings.default_layers(), learned=learned))
        if self.masks == "paper":
            bands, frames = settings.augment.frequency_width, settings.augment.time_width
            augment = replace(settings.augment, frequency_width=frames, time_width=bands)
            settings = replace(settings, augment=augment)
        whole = {} if self.loss == "cross_entropy" else {"train.micro_batch": 0}
        return set_defaults(settings, set(), {**(PUBLISHED if published else {}), **whole})

    def default_layers(self) -> tuple[int, ...]:
        """-> those of the variant."""
        return layers_of(self.variant, self.model.depth)

    def check(self) -> None:
        """Errors: what only one of the front-ends has, with another one; what the ViT has, with an own encoder."""
        if self.encoder:
            plain = Model()
            for name in ("layout", "long_input", "raw_last", "freeze_patch_embed", "low_rank", "recompute"):
                if (value := getattr(self.model, name)) != getattr(plain, name):
                    raise UsageError(f"model.{name}={value}: is of the ViT, not of an own encoder; leave it out")
        if self.audio.scope == "batch" and self.frontend != "icbhi":
            raise UsageError(
                "audio.scope=batch: only the icbhi log-mel has a minimum and maximum of the batch, and m2d_fusion has "
                f"its front-end {self.frontend} here; leave it out, or use --set frontend=icbhi"
            )
        if self.audio.floor != "fixed" and self.frontend != "m2d_clip":
            raise UsageError(f"audio.floor={self.audio.floor}: goes with frontend=m2d_clip, not with {self.frontend}")


def recipe(settings: Settings) -> Recipe:
    """-> the system of one row of Table 2."""
    once_an_epoch = settings.model.learned and settings.model.layer_weight_update == "per_epoch"
    if settings.encoder:
        find_own_encoder(settings)  # before anything is built, so that what is missing is named
    made = Recipe(
        name="m2d_fusion",
        settings=settings,
        build_frontend=build_frontend,
        build_model=build_model,
        augment=augment,
        loss=weighted_loss,
        run=finetune.run,
        silence=find_silence(settings),
        epoch_parameters=("fusion.weight",) if once_an_epoch else (),
        notes=(what_was_taken(start_of(find_checkpoint(settings.weights)), settings),) if settings.weights else (),
    )
    return add_loss_term(made, patch=settings.model.patch)


@dataclass(frozen=True)
class NttSettings(Settings):
    """Numbers of the M2D group's own recipe on ICBHI."""

    variant: Variant = "vanilla"
    """Which layers are fused; that recipe takes the last alone."""
    fidelity: Literal["corrected", "published"] = "published"
    """published: sound, augmentation and training of the public code; corrected: our defaults for what m2d_fusion
    corrects, the rest as there."""

    def with_presets(self, given: AbstractSet[str]) -> Self:
        """What variant, size, checkpoint and fidelity bring, and what this recipe has otherwise than m2d_fusion."""
        settings = super().with_presets(given)
        own = {
            name: value for name, value in NTT.items() if settings.frontend == "icbhi" or not name.startswith("audio.")
        }
        return set_defaults(settings, set(), own)


def ntt_recipe(settings: NttSettings) -> Recipe:
    """-> the M2D group's own later recipe (nttcslab/m2d, app/icbhi_sprs): the last layer with its frequency patches
    side by side, pooled by the mean, the patch embedding frozen.

    Printed Scores, official split, epoch chosen on the test set: 61.93 from AudioSet alone, 63.29 ± 0.22 after further
    pre-training on ICBHI's train side with FSD50K as noise (M2D-X; weights of `rales pretrain`). Weights there:
    m2d_vit_base-80x200p16x4-230529. On SPRSound they take train.epochs=50, train.lr=5e-6, audio.mean=0.2000,
    audio.std=0.2094. Deviation: their code sums the losses of four micro-batches without dividing them, which Adam
    undoes but for a weaker weight decay, and it takes min-max of 16 test cycles, not 64.
    """
    return replace(recipe(settings), name="m2d_ntt", provenance="code-verified")


def layers_of(variant: str, depth: int) -> tuple[int, ...]:
    """Row of Table 2 and depth of the ViT -> its fused layers, from 1.

    In a shallower one the paper's keep their relative depth, rounded down: 5, 11, 12 of 12 become 1, 2, 3 of 3 (where
    4, 7, 10 are 1, 2 as well).
    """
    if variant in PAPER_LAYERS:
        return tuple(sorted({max(1, layer * depth // 12) for layer in PAPER_LAYERS[variant]}))
    return tuple(range(1, depth + 1))


class Start(NamedTuple):
    """A checkpoint that a network starts from."""

    path: Path
    encoder: ViT  # without its weights
    digest: str  # of those weights
    norm_stats: tuple[float, float]  # mean and standard deviation of the log-mel that M2D's front-end makes for it
    config: dict[str, Any]  # all settings of the run of ours that made it, {} of anybody else's file


def start_of(path: Path) -> Start:
    """Checkpoint -> what it says; read once, as a sweep asks every trial."""
    return read_once(path, path.stat().st_mtime_ns)


@cache
def read_once(path: Path, modified_ns: int) -> Start:
    tensors, metadata = read_tensors(path)
    encoder = build_encoder(tensors, metadata, path)
    digest, (mean, std) = fingerprint_encoder(encoder), encoder.norm_stats.tolist()
    return Start(path, encoder.to("meta"), digest, (mean, std), record_of(metadata, path).get("config", {}))


def model_of(start: Start) -> Model:
    """Checkpoint -> the encoder as its run had it; what is fused of it is chosen anew."""
    names = ("dim", "depth", "heads", "patch", "unit_frames", "long_input", "raw_last")
    theirs = start.config.get("model")
    layout = theirs.get("layout", Model.layout) if isinstance(theirs, dict) else Model.layout
    layout = check_stored(layout, get_type_hints(Model)["layout"], "model.layout", start.path)
    return Model(**{name: getattr(start.encoder, name) for name in names}, layout=layout)


def is_tiny(start: Start) -> bool:
    """Whether a run of ours made the checkpoint, and its network hears as size tiny does and is at most twice as wide
    and as deep, as that of the package is."""
    same = all(getattr(start.encoder, name) == TINY[f"model.{name}"] for name in ("patch", "unit_frames"))
    tiny: dict[str, int] = {name: TINY[f"model.{name}"] for name in ("dim", "depth")}
    small = all(getattr(start.encoder, name) <= 2 * value for name, value in tiny.items())
    return bool(start.config) and same and small


def find_sound(frontend: Frontend, audio: Audio, start: Start | None, asked: Frontend | None) -> tuple[Frontend, Audio]:
    """Front-end and sound of the size, checkpoint and the front-end that is asked for -> those that are heard.

    With a checkpoint of ours it is what its run heard: all settings of a fine-tuning, M2D's log-mel after a
    pre-training. Another front-end that is asked for keeps rate, length and padding; but icbhi is at 16 kHz, since some
    of its bands hear nothing at half of that.
    """
    mean, std = start.norm_stats if start else (-7.1, 4.2)
    if start and "audio" in start.config:
        audio = from_dict(Audio, start.config["audio"], start.path, "audio.")
        frontend = check_stored(start.config.get("frontend", "icbhi"), Frontend, "frontend", start.path)
    elif start and start.config:
        frontend, audio = "m2d", Audio(duration_s=audio.duration_s, mean=mean, std=std)
    if asked is None or asked == frontend:
        return frontend, audio

    scale = {"icbhi": (Audio.mean, Audio.std), "m2d": (mean, std), "m2d_clip": (0.0, 1.0)}[asked]
    floor = audio.floor if asked == "m2d_clip" else Audio.floor
    audio = replace(audio, floor=floor, scope=Audio.scope, mean=scale[0], std=scale[1])
    if asked == "icbhi":
        audio = replace(audio, rate_hz=Audio.rate_hz, fade_samples=Audio.fade_samples)
    return asked, audio


def what_was_taken(start: Start, settings: Settings) -> str:
    """Checkpoint, and the settings -> the sentence that says what of the file goes on and what not."""
    vit, audio = start.encoder, settings.audio
    sizes = (
        f"width {vit.dim}, depth {vit.depth}, {vit.heads} heads, patches of {vit.patch[0]} x {vit.patch[1]}, units of "
        f"{vit.unit_frames} frames"
    )
    if not start.config:
        heard = f"front-end {settings.frontend} at {audio.rate_hz} Hz, {audio.duration_s:g} s"
        return f"{start.path}: its encoder is taken ({sizes}); it says nothing of what it heard, so that is {heard}"

    their_frontend, theirs = find_sound(settings.frontend, audio, start, None)
    of_pretraining = ["rate_hz", "mean", "std"]
    known = [each.name for each in fields(Audio)] if "audio" in start.config else of_pretraining
    pairs: dict[str, tuple[str, str]] = {"frontend": (settings.frontend, their_frontend)}
    pairs |= {name: (words_of(getattr(audio, name)), words_of(getattr(theirs, name))) for name in known}
    heard = ", ".join(f"{name} {ours}" for name, (ours, its) in pairs.items() if ours == its)
    asked = ", ".join(f"{name} {ours} (its run: {its})" for name, (ours, its) in pairs.items() if ours != its)
    asked = f", but as asked for: {asked}" if asked else ""
    left = (
        "predictor and target are"
        if isinstance(start.config.get("encoder"), dict)
        else "head, layer weights and calibration are"
    )
    return f"{start.path}: encoder ({sizes}) and sound ({heard}) are taken from its run{asked}; its {left} not"


def words_of(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def build_frontend(settings: Settings) -> nn.Module:
    """Settings -> module (B, samples) -> (B, 1, 80, frames), standardised.

    Windows of 25 ms every 10 ms at any rate; below 16 kHz the 80 bands share what there is below half the rate.
    """
    audio, rate_hz = settings.audio, settings.audio.rate_hz
    sound: dict[str, Any] = {
        "sample_rate_hz": rate_hz,
        "fft_samples": round(0.025 * rate_hz),
        "hop_samples": round(0.010 * rate_hz),
        "high_hz": min(8000, rate_hz / 2),
    }
    if settings.frontend == "icbhi":
        return IcbhiLogMel(scope=audio.scope, mean=audio.mean, std=audio.std, **sound)
    scale = Standardise(audio.mean, audio.std) if settings.frontend == "m2d" else StandardiseClip()
    return nn.Sequential(M2DLogMel(**sound, floor_per_clip=audio.floor == "clip"), scale)


class Standardise(nn.Module):
    """(x - mean) / std with given numbers."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, logmel: Tensor) -> Tensor:
        return (logmel - self.mean) / self.std


def find_own_encoder(settings: Settings) -> Callable[[Settings], nn.Module]:
    """The function of the encoder that the settings name. Errors: it is not here, has changed, or was never named."""
    found, source = split_file_word(settings.encoder), {"word": settings.encoder, "module": settings.encoder}
    if found:
        source = {"file": str(found[0]), "name": found[1], "sha256": settings.encoder_digest}
    build: Callable[[Settings], nn.Module] = ENCODERS.find_again(settings.encoder, source, "m2d_fusion")
    return build


def build_own_encoder(settings: Settings) -> nn.Module:
    """The encoder that the settings name. Errors: it has not the layers to be fused."""
    encoder = find_own_encoder(settings)(settings)
    needed = ("depth",) if hasattr(encoder, "layer_widths") else ("dim", "depth")
    missing = [name for name in needed if not isinstance(getattr(encoder, name, None), int)]
    if missing:
        raise UsageError(f"encoder={settings.encoder}: has no {' and no '.join(missing)}, expected whole numbers")
    return encoder


def build_model(settings: Settings) -> FusionClassifier:
    """Settings -> encoder (own, pre-trained or random), fusion, pooling, head."""
    model = settings.model
    encoder: Any
    if settings.encoder:
        encoder = build_own_encoder(settings)
    elif settings.weights:
        path = find_checkpoint(settings.weights)
        encoder = load_m2d(path, heads=model.heads, long_input=model.long_input, raw_last=model.raw_last)
        loaded = (encoder.dim, encoder.depth, encoder.patch, encoder.unit_frames)
        if loaded != (model.dim, model.depth, tuple(model.patch), model.unit_frames):
            raise UsageError(
                f"{settings.weights}: its width, depth, patch and unit are {loaded}; --set cannot change them"
            )
    else:
        encoder = ViT(
            model.dim,
            model.depth,
            model.heads,
            unit_frames=model.unit_frames,
            patch=(model.patch[0], model.patch[1]),
            long_input=model.long_input,
            raw_last=model.raw_last,
        )

    if model.freeze_patch_embed and not settings.encoder:
        encoder.patch_embed.requires_grad_(False)
    if not settings.encoder:
        add_low_rank_updates(encoder, model.low_rank)
        recompute_activations(encoder, model.recompute)
    return FusionClassifier(
        encoder,
        model.layers,
        model.learned,
        len(settings.classes),
        layout=model.layout,
        norm_layers=model.norm_layers,
        head_start=model.head_start,
        pool=model.pool,
    )


def find_silence(settings: Settings) -> float:
    """-> what a 0 of the [0, 1] picture becomes; with M2D's front-end, the mean level."""
    audio = settings.audio
    return (0.0 - audio.mean) / audio.std if settings.frontend == "icbhi" else 0.0


def augment(settings: Settings, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 80, frames) -> the same, time-warped and masked. Masks write what a 0 of the [0, 1] picture becomes, as in
    the published code; with the m2d front-end, the mean level."""
    numbers, nothing = settings.augment, find_silence(settings)
    if numbers.time_shift:
        features = shift_frames(features, generator)
    if numbers.device_gain or numbers.device_band_limit:
        features = simulate_other_device(
            features,
            gain=numbers.device_gain,
            band_limit=numbers.device_band_limit,
            fill=nothing,
            generator=generator,
        )
    if numbers.time_warp_frames:
        features = time_warp(features, max_shift_frames=numbers.time_warp_frames, generator=generator)
    return mask_features(numbers, features, nothing, generator)
