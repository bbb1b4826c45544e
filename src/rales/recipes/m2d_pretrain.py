"""M2D and M2D-X pre-training: a ViT learns to predict one encoder's view of what another cannot see of a sound.

Papers: Niizumi et al., "Masked Modeling Duo" (ICASSP 2023) and "Masked Modeling Duo: Towards a Universal Audio
Pre-training Framework" (TASLP 2024, M2D-X). The public further pre-training on ICBHI 2017 (nttcslab/m2d,
app/icbhi_sprs) starts from an AudioSet checkpoint with units of 200 frames and patches of 16 x 4, 600 epochs of 10,000
crops of the 539 train recordings; Score after fine-tuning, mean of 4 x 5 runs, epoch chosen on the test set:

    no further pre-training                          61.93
    M2D on ICBHI, no noise                           60.12
    M2D on ICBHI, noise ratio 0.3                    62.66
    M2D-X on ICBHI, noise ratio 0.3 and a teacher    63.29 +- 0.22

Command: rales pretrain --data ICBHI_final_database --noise FSD50K --noise-ratio 0.3
    --weights m2d_vit_base-80x200p16x4-230529 --teacher m2d_vit_base-80x200p16x4-230529
    --set crops.min_items=10000 --set pretrain.warmup_epochs=20 --epochs 600 --out RUN

Known from that code: mixing of log-mel powers less each collection's mean; statistics of 5,000 random crops; the
teacher sees whole crops, normalised as the collection is; its features (all patches of a time column side by side) are
predicted by one linear layer from latents and predictions, with M2D's own loss over all columns.

A teacher that is no M2D (ours): a MobileNet of EfficientAT hears the crop itself, and one vector of its pooled blocks
is predicted from the mean over time columns (`rales.training.teachers`).

Our reading: with noise both encoders of M2D see the mixture (the target its masked patches) and only the teacher hears
the clean crop. That code names its pairs (clean, mixed) and hands the first to the model, by which noise would reach
the teacher alone (crops.noise_heard_by=teacher); the publication, the code's comments and the effect of noise without a
teacher say otherwise.

Deviations: crops are cut from the sound and not from its log-mel, so the outermost frames reflect at the cut; silent
crops are drawn again and silent recordings passed over; a batch is 128 and not 2,048 unless set; the learning rate
rises over a fifteenth of the epochs, where that code has 20 of any number (pretrain.warmup_epochs=20); a missing
predictor or target has its own start.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rales.data.corpus import Corpus
from rales.errors import UsageError
from rales.models import M2D, ViT
from rales.models.hub import find_checkpoint, sha256_of
from rales.models.m2d_checkpoints import build_encoder, read_tensors, record_of
from rales.models.pretrained_backbones import find_mobilenet_prefix
from rales.models.vit import recompute_activations
from rales.settings import parse_words, set_fields
from rales.training import pretrain
from rales.training.pretrain import Probe
from rales.training.pretrain_settings import SIZES, Encoder, PretrainConfig
from rales.training.teachers import ClipTeacher, ColumnTeacher, Teacher, load_teacher


def settings(size: str | None = None, weights: str | None = None, words: list[str] | None = None) -> PretrainConfig:
    """Size of a random start, or checkpoint to go on from, and `name.of.field=value` words -> all numbers of a run."""
    if weights:
        model = M2D.from_checkpoint(find_checkpoint(weights))
        base = next((known for known in SIZES.values() if known.encoder.dim == model.size.dim), SIZES["base"])
        decoder = {
            "decoder_dim": model.decoder_embed.out_features,
            "decoder_depth": len(model.decoder_blocks),
            "decoder_heads": model.decoder_heads,
        }
        own: dict[str, Any] = {"patch": model.patch, "unit_frames": model.unit_frames, **decoder}
        config = replace(base, encoder=Encoder(*model.size, **own, weights=weights))
    elif (size or "base") in SIZES:
        config = SIZES[size or "base"]
    else:
        raise UsageError(f"size {size!r} is unknown; expected one of {', '.join(SIZES)}")
    config = set_fields(config, parse_words(words or []))
    files = (config.encoder.weights, config.encoder.teacher)
    of_weights, of_teacher = (sha256_of(find_checkpoint(file)) if file else "" for file in files)
    return replace(config, encoder=replace(config.encoder, weights_digest=of_weights, teacher_digest=of_teacher))


def run(
    config: PretrainConfig,
    data: Corpus,
    out: Path,
    *,
    noise: Corpus | None = None,
    probe: Probe | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`pretrain.run` with this system's networks, once the settings are known to fit together."""
    check(config, noise)
    return pretrain.run(config, data, out, build=build, noise=noise, probe=probe, **options)


def what_is_taken(config: PretrainConfig) -> list[str]:
    """Settings -> the sentences about what of checkpoint and teacher goes on and what does not."""
    here = f"pre-training hears M2D's log-mel at 16000 Hz, statistics {config.crops.statistics}"
    found = []
    for word, heads in ((config.encoder.weights, config.encoder.heads), (config.encoder.teacher, None)):
        if not word:
            continue
        path = find_checkpoint(word)
        tensors, metadata = read_tensors(path)
        if word == config.encoder.teacher and find_mobilenet_prefix(tensors) is not None:
            views = "as it is and four times faster, through its own front-end"
            found.append(f"{path}: its blocks are learned from, pooled; it hears each clean crop {views}")
            continue
        vit = build_encoder(tensors, metadata, path, heads=heads)
        taken = f"encoder (width {vit.dim}, depth {vit.depth}, {vit.heads} heads, units of {vit.unit_frames} frames)"
        if word == config.encoder.weights:
            whole = any(name.startswith("target_norm.") for name in tensors)
            taken += ", predictor and target are taken" if whole else " is taken; predictor and target are new"
        settings = record_of(metadata, path).get("config", {})
        audio = settings.get("audio")
        left = ""
        if isinstance(audio, dict):  # a fine-tuning of ours
            rate_hz = audio.get("rate_hz")
            left = f"front-end {settings.get('frontend', '')} at {rate_hz} Hz and its head are not: "
        found.append(f"{path}: {taken}; {left}{here}")
    return found


def check(config: PretrainConfig, noise: Corpus | None) -> None:
    if not 0 <= config.crops.noise_ratio < 1:
        raise UsageError(f"noise ratio {config.crops.noise_ratio}, expected 0 (none) up to below 1")
    if config.crops.noise_heard_by == "teacher" and not config.encoder.teacher:
        raise UsageError("crops.noise_heard_by=teacher, but there is no teacher to hear it; give --teacher")
    if (noise is not None) != (config.crops.noise_ratio > 0):
        raise UsageError("background noise needs both a folder (--noise) and a ratio above 0 (--noise-ratio 0.3)")
    if config.crops.statistics == "weights" and not config.encoder.weights:
        raise UsageError("crops.statistics=weights, but no checkpoint to take them from; give --weights")


def build(config: PretrainConfig) -> tuple[M2D, Teacher | None]:
    """Config -> the network, and the frozen teacher if there is one."""
    word = config.encoder.teacher
    teacher = load_teacher(find_checkpoint(word), pretrain.RATE_HZ) if word else None
    return build_model(config, teacher), teacher


def build_model(config: PretrainConfig, teacher: Teacher | None) -> M2D:
    """Config -> the network, from a checkpoint or at random. Errors: sizes that the checkpoint does not have."""
    sizes, numbers = config.encoder, config.pretrain
    options: dict[str, Any] = {
        "decoder_dim": sizes.decoder_dim,
        "decoder_depth": sizes.decoder_depth,
        "decoder_heads": sizes.decoder_heads,
        "standardise": numbers.standardise,
        "loss": numbers.loss,
        "target_init": sizes.target_start,
        "teacher_dim": teacher.width if teacher else 0,
        "m2d_weight": numbers.m2d_weight,
        "teacher_weight": numbers.teacher_weight,
    }

    if not sizes.weights:
        encoder = ViT(
            sizes.dim, sizes.depth, sizes.heads, unit_frames=sizes.unit_frames, patch=(sizes.patch[0], sizes.patch[1])
        )
        model = M2D(encoder, mask_ratio=numbers.mask_ratio, **options)
    else:
        model = M2D.from_checkpoint(find_checkpoint(sizes.weights), numbers.mask_ratio, heads=sizes.heads, **options)

    recompute_activations(model, sizes.recompute)

    # a checkpoint brings its own sizes, which the record must name
    loaded = (*model.size, model.patch, model.unit_frames)
    if loaded != (sizes.dim, sizes.depth, sizes.heads, tuple(sizes.patch), sizes.unit_frames):
        raise UsageError(
            f"{sizes.weights}: its width, depth, heads, patch and unit are {loaded}; --set cannot change them"
        )
    if isinstance(teacher, ColumnTeacher):
        columns = sizes.unit_frames // teacher.encoder.patch[1]
        if columns != model.columns:
            raise UsageError(
                f"{sizes.teacher}: makes {columns} time columns of a crop where the model makes {model.columns}; the "
                f"teacher's patches must be {model.patch[1]} frames long"
            )
    if isinstance(teacher, ClipTeacher) and config.crops.noise_heard_by == "teacher":
        raise UsageError(
            f"crops.noise_heard_by=teacher: noise is mixed into M2D's log-mel, and {sizes.teacher} hears the crop "
            "through a front-end of its own; leave it at model"
        )
    return model
