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

Deviations from the public code that the paper follows (ilyassmoummad/scl_icbhi2017), each a setting, and all of them
undone by fidelity=published (`PUBLISHED`): a better resampler (audio.resampler=sinc); min-max per clip, not per batch
of 64 (audio.scope=batch); SpecAugment on every batch, not on 84.1 % of them (augment.published_gate=true); the cosine
runs over all epochs, not down and up again every 40 (train.cosine_epochs=40); bfloat16 where it pays
(train.precision=float32); the head starts nearly at zero (model.head_start=default). What no option decides for the
user: the last epoch is kept unless `--select` says otherwise.

From the paper's printed text: SpecAugment's widths are 20 bands and 40 frames as in that code, not 40 and 20
(masks=paper), and a cycle is faded as in that code. From the code: time warping, which only the paper has
(augment.time_warp_frames=0). With `--weights` of a run of ours the encoder and what it hears are that run's; the head
and the weights of the layers are new. Without `--weights` the start is random, which the paper never does: then the
learning rate warms up, and the sizes `small` and `tiny` (ours, for machines without a GPU) have a higher one and
smaller batches. `tiny` also hears and augments otherwise.
"""

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor, nn

from rales.audio import IcbhiLogMel, M2DLogMel
from rales.audio.spec_augment import simulate_other_device, time_warp
from rales.config import Audio, Augmentation, Config, Model, Recipe, Training, build, one_of, override, stored
from rales.errors import UsageError
from rales.models.classifier import FusionClassifier
from rales.models.hub import find_checkpoint
from rales.models.m2d_checkpoints import build_encoder, fingerprint_encoder, load_m2d, read_tensors, record_of
from rales.models.vit import ViT
from rales.training import finetune
from rales.training.recipe_defaults import masked, weighted_loss

PAPER_LAYERS = {"vanilla": (12,), "pair_5_12": (5, 12), "pair_5_11": (5, 11), "triple_4_7_10": (4, 7, 10)}
VARIANTS = (*PAPER_LAYERS, "all_fixed", "all_learned")

PUBLISHED = {
    "audio.resampler": "sinc",
    "audio.scope": "batch",
    "augment.published_gate": "true",
    "model.head_start": "default",
    "train.cosine_epochs": "40",
    "train.precision": "float32",
}
"""What fidelity=published sets: the fields in which our defaults are not those of the public code behind the paper."""

# Ours, of a size that a processor trains in minutes. A patch is 80 ms of all mel bands, so that 4 s are 50 of them.
# Most recordings hold nothing above 4 kHz, and at 8 kHz the front-end costs half. Half of the usual clip is enough,
# since a breath takes 2.7 s on average. The full SpecAugment keeps so small a model from fitting anything.
TINY = Config(
    audio=Audio(frontend="m2d_clip", rate_hz=8000, duration_s=4.0, fade_samples=500, floor="clip", mean=0.0, std=1.0),
    augment=Augmentation(frequency_width=12, time_width=24, time_warp_frames=0, device_gain=0.3, device_band_limit=0.5),
    model=Model(dim=96, depth=3, heads=4, patch=(80, 8), unit_frames=200),
    train=Training(
        lr=1e-3,
        weight_decay=0.0,
        warmup_epochs=1,
        batch_size=32,
        micro_batch=32,
        class_weights="none",
        precision="float32",
    ),
)
SIZES = {  # of a random start
    "base": Config(train=Training(warmup_epochs=5)),
    "small": Config(model=Model(dim=384, depth=12, heads=6), train=Training(lr=3e-4, warmup_epochs=5, batch_size=32)),
    "tiny": TINY,
}


def recipe(
    variant: str = "all_learned",
    size: str = "",
    weights: str = "",
    frontend: str = "",
    masks: str = "code",
    fidelity: str = "corrected",
) -> Recipe:
    """-> the system of one row of Table 2. Errors: unknown words, and a checkpoint that is no M2D encoder.

    `size` is that of a random start (base) and brings its own numbers of sound, augmentation and training. With
    `weights` it has no effect: the network is the checkpoint's, and the other numbers are the paper's, or those of
    `tiny` if a run of ours made a network of just that size; the options then say size=tiny.

    `frontend` is that of the size or of the checkpoint's run, if they have one, else icbhi. `masks` is the order of
    SpecAugment's widths: 20 mel bands and 40 frames as in the public code, or as the paper's sentence literally reads,
    exchanged. `fidelity` is "corrected", our defaults, or "published": sound, augmentation and training are those of
    the public code, of whatever size the network is and whatever a run of ours heard (a random start warms up, too).
    """
    check_words(variant, size, frontend, masks, fidelity)
    start = start_of(find_checkpoint(weights)) if weights else None
    published = fidelity == "published"
    like = size or "base"
    if start:
        like = "tiny" if is_tiny(start) and not published else ""
    numbers = numbers_of("base" if published and not start else like)

    model = model_of(start, weights) if start else SIZES[like].model
    audio = numbers.audio if published else audio_of(start, frontend, numbers.audio)
    widths = numbers.augment.frequency_width, numbers.augment.time_width
    bands, frames = widths[::-1] if masks == "paper" else widths
    config = Config(
        audio=audio,
        augment=replace(numbers.augment, frequency_width=bands, time_width=frames),
        model=replace(model, layers=layers_of(variant, model.depth), learned=variant == "all_learned"),
        train=numbers.train,
    )
    if published:
        config = override(config, [f"{name}={value}" for name, value in PUBLISHED.items()])

    return Recipe(
        name="m2d_fusion",
        options={
            "variant": variant,
            "size": like,
            "weights": weights,
            "frontend": audio.frontend,
            "masks": masks,
            "fidelity": fidelity,
        },
        config=config,
        frontend=build_frontend,
        model=build_model,
        augment=augment,
        batch_loss=weighted_loss,
        run=finetune.run,
        notes=notes_of(start, config.audio, size if size != like else "") if start else (),
    )


def check_words(variant: str, size: str, frontend: str, masks: str, fidelity: str) -> None:
    """Errors: an option of `recipe` that is unknown, and a front-end that is not the published one's."""
    one_of("fidelity", fidelity, ("corrected", "published"))
    one_of("variant", variant, VARIANTS)
    one_of("size", size or "base", tuple(SIZES))
    one_of("frontend", frontend or "icbhi", ("icbhi", "m2d", "m2d_clip"))
    if fidelity == "published" and frontend not in ("", "icbhi"):
        raise UsageError(f"fidelity=published has the front-end of the ICBHI code; leave frontend={frontend} out")
    one_of("masks", masks, ("code", "paper"))


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


def model_of(start: Start, weights: str) -> Model:
    """Checkpoint, and the word that named it -> the encoder as its run had it; what is fused of it is chosen anew."""
    names = ("dim", "depth", "heads", "patch", "unit_frames", "long_input", "raw_last")
    theirs = start.config.get("model")
    layout = theirs.get("layout", Model.layout) if isinstance(theirs, dict) else Model.layout
    layout = stored(layout, get_type_hints(Model)["layout"], "model.layout", str(start.path))
    own = {name: getattr(start.encoder, name) for name in names}
    return Model(**own, layout=layout, weights=weights, weights_digest=start.digest)


def is_tiny(start: Start) -> bool:
    """Whether a run of ours made the checkpoint, and its network is of size tiny in all that makes a size."""
    names = ("dim", "depth", "heads", "patch", "unit_frames")
    return bool(start.config) and all(getattr(start.encoder, name) == getattr(TINY.model, name) for name in names)


def numbers_of(size: str) -> Config:
    """Size, "" for the paper's own start from public weights -> the numbers of sound, augmentation and training."""
    return SIZES[size] if size else Config()


def audio_of(start: Start | None, frontend: str, audio: Audio) -> Audio:
    """Checkpoint, the front-end asked for ("": none in particular) and the size's sound -> what the network hears.

    With a checkpoint of ours it is what its run heard: all settings of a fine-tuning, M2D's log-mel after a
    pre-training. Another front-end that is asked for keeps rate, length and padding; but icbhi is at 16 kHz, since some
    of its bands hear nothing at half of that.
    """
    if start and "audio" in start.config:
        audio = build(Audio, start.config["audio"], str(start.path), "audio.")
    elif start and start.config:
        mean, std = start.norm_stats
        audio = Audio(frontend="m2d", duration_s=audio.duration_s, mean=mean, std=std)
    if frontend in ("", audio.frontend):
        return audio
    if frontend == "icbhi":
        audio = replace(audio, rate_hz=Audio.rate_hz, fade_samples=Audio.fade_samples)
    m2d = start.norm_stats if start else (-7.1, 4.2)
    mean, std = {"icbhi": (Audio.mean, Audio.std), "m2d": m2d, "m2d_clip": (0.0, 1.0)}[frontend]
    floor = audio.floor if frontend == "m2d_clip" else Audio.floor
    return replace(audio, frontend=frontend, floor=floor, scope=Audio.scope, mean=mean, std=std)  # type: ignore[arg-type]


def notes_of(start: Start, audio: Audio, ignored: str) -> tuple[str, ...]:
    """Checkpoint, what is heard before --set, and the size that was asked for in vain -> sentences for the user."""
    said = f"size={ignored} changes nothing: it is that of a start without --weights, and these are given"
    return (what_was_taken(start, audio), *([said] if ignored else []))


def what_was_taken(start: Start, audio: Audio) -> str:
    """Checkpoint, and what is heard before --set -> the sentence that says what of the file goes on and what not."""
    vit = start.encoder
    sizes = (
        f"width {vit.dim}, depth {vit.depth}, {vit.heads} heads, patches of {vit.patch[0]} x {vit.patch[1]}, units of "
        f"{vit.unit_frames} frames"
    )
    if not start.config:
        heard = f"front-end {audio.frontend} at {audio.rate_hz} Hz, {audio.duration_s:g} s"
        return f"{start.path}: its encoder is taken ({sizes}); it says nothing of what it heard, so that is {heard}"

    theirs = audio_of(start, "", audio)
    of_pretraining = ["frontend", "rate_hz", "mean", "std"]
    known = [field.name for field in fields(Audio)] if "audio" in start.config else of_pretraining
    pairs = {name: (words_of(getattr(audio, name)), words_of(getattr(theirs, name))) for name in known}
    heard = ", ".join(f"{name} {ours}" for name, (ours, its) in pairs.items() if ours == its)
    asked = ", ".join(f"{name} {ours} (its run: {its})" for name, (ours, its) in pairs.items() if ours != its)
    asked = f", but as asked for: {asked}" if asked else ""
    left = "predictor and target are" if "encoder" in start.config else "head, layer weights and calibration are"
    return f"{start.path}: encoder ({sizes}) and sound ({heard}) are taken from its run{asked}; its {left} not"


def words_of(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def build_frontend(config: Config) -> nn.Module:
    """Config -> module (B, samples) -> (B, 1, 80, frames), standardised.

    Windows of 25 ms every 10 ms at any rate; below 16 kHz the 80 bands share what there is below half the rate.
    """
    audio, rate_hz = config.audio, config.audio.rate_hz
    sound: dict[str, Any] = {
        "sample_rate_hz": rate_hz,
        "fft_samples": round(0.025 * rate_hz),
        "hop_samples": round(0.010 * rate_hz),
        "high_hz": min(8000, rate_hz / 2),
    }
    if audio.floor != "fixed" and audio.frontend != "m2d_clip":
        raise UsageError(f"audio.floor={audio.floor}: goes with frontend=m2d_clip, not with {audio.frontend}")
    if audio.frontend == "icbhi":
        return IcbhiLogMel(scope=audio.scope, mean=audio.mean, std=audio.std, **sound)
    scale = Standardise(audio.mean, audio.std) if audio.frontend == "m2d" else StandardiseClip()
    return nn.Sequential(M2DLogMel(**sound, floor_per_clip=audio.floor == "clip"), scale)


class Standardise(nn.Module):
    """(x - mean) / std with given numbers."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, logmel: Tensor) -> Tensor:
        return (logmel - self.mean) / self.std


class StandardiseClip(nn.Module):
    """(B, 1, F, T) -> the same with mean 0 and standard deviation 1 in each clip; a constant clip becomes 0."""

    def forward(self, logmel: Tensor) -> Tensor:
        # Less the lowest value first: the rounded mean of silence would be far from it, next to a deviation of 0
        above = logmel - logmel.amin(dim=(1, 2, 3), keepdim=True).detach()
        centred = above - above.mean(dim=(1, 2, 3), keepdim=True)
        return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-3)


def build_model(config: Config) -> FusionClassifier:
    """Config -> ViT (pre-trained or random), fusion, pooling, head."""
    model = config.model
    if model.weights:
        encoder = load_m2d(
            find_checkpoint(model.weights), heads=model.heads, long_input=model.long_input, raw_last=model.raw_last
        )
        loaded = (encoder.dim, encoder.depth, encoder.patch, encoder.unit_frames)
        if loaded != (model.dim, model.depth, tuple(model.patch), model.unit_frames):
            raise UsageError(
                f"{model.weights}: its width, depth, patch and unit are {loaded}; --set cannot change them"
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
    if model.freeze_patch_embed:
        encoder.patch_embed.requires_grad_(False)
    return FusionClassifier(
        encoder,
        model.layers,
        model.learned,
        layout=model.layout,
        norm_layers=model.norm_layers,
        head_start=model.head_start,
    )


def augment(config: Config, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 80, frames) -> the same, time-warped and masked. Masks write what a 0 of the [0, 1] picture becomes, as in
    the published code; with the m2d front-end, the mean level."""
    numbers, audio = config.augment, config.audio
    nothing = (0.0 - audio.mean) / audio.std if audio.frontend == "icbhi" else 0.0
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
    return masked(config, features, nothing, generator)
