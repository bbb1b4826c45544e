"""AST, an audio spectrogram transformer, fine-tuned; and the same with Patch-Mix contrastive learning.

Paper: Bae et al., "Patch-Mix contrastive learning with audio spectrogram transformer on respiratory sound
classification", Interspeech 2023. Official split, five seeds, epoch chosen on the test set:

    recipe            loss                                   Sp      Se      Score
    ast_ft            weighted cross-entropy                 77.14   41.97   59.55
    ast_patchmix_cl   cross-entropy + Patch-Mix contrastive  81.66   43.07   62.37±0.61

Command: rales train ast_ft --data ICBHI_final_database --weights audioset_10_10_0.4593.pth --out RUN
Command: rales train ast_patchmix_cl --data ICBHI_final_database --weights audioset_10_10_0.4593.pth --out RUN

Provenance: code-verified (raymin0223/patch-mix_contrastive_learning, YuanGongND/ast). Not in the paper's Table 2.

Deviations, undone by fidelity=original: a better resampler (audio.resampler=sinc); positions meet the patches they were
learnt for, where that code exchanges height and width of the grid; SpecAugment on every clip, not on 84.1 % of them
(augment.published_gate=true); the cosine begins at its top and does not quite reach its floor, where that code counts
epochs from 1 (train.cosine_start_epoch=1). Kept: after every step weights and buffers are half the old, half the new
ones. Never done: a cycle is cut out before it is resampled and faded as its recording, where that code resamples the
whole recording first, so that a filter's length at both ends of a cycle is otherwise; half precision is bfloat16 where
it pays and not float16, and scores are of float32; that code keeps no epoch whose sensitivity is below 5. Without
weights the start is random.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio import fade_edges, read_audio_info
from rales.audio.kaldi_fbank import HOP, WINDOW, KaldiFbank
from rales.config import Audio, Augmentation, Config, Model, Recipe, Step, Training, is_original, one_of
from rales.data.dataset import wave_settings
from rales.data.waveform_cache import Preparation, read_resampled_segment
from rales.models.ast import AST, SIZES, ASTClassifier, draw_patch_mix
from rales.models.heads import build_patch_mix_projector
from rales.models.m2d_checkpoints import default_heads
from rales.models.pretrained_backbones import ast_tensors
from rales.models.vit import ViTSize
from rales.training import finetune
from rales.training.losses import patch_mix_contrastive, weighted_cross_entropy
from rales.training.recipe_defaults import masked, weighted_loss


def fine_tuned(size: str = "base", weights: str = "", fidelity: str = "corrected") -> Recipe:
    """-> AST with weighted cross-entropy."""
    return system("ast_ft", size, weights, fidelity)


def patch_mix(size: str = "base", weights: str = "", fidelity: str = "corrected") -> Recipe:
    """-> AST with cross-entropy of the clean clips and a contrastive loss of the mixed ones."""
    recipe = system("ast_patchmix_cl", size, weights, fidelity)
    train = replace(recipe.config.train, class_weights="none")
    return replace(
        recipe,
        config=replace(recipe.config, train=train),
        batch_loss=patch_mix_loss,
        whole_batches=True,
    )


def system(name: str, size: str, weights: str, fidelity: str) -> Recipe:
    """-> what both have in common."""
    one_of("size", size, tuple(SIZES))
    original = is_original(fidelity)
    sizes = of_file(weights) if weights else SIZES[size]
    return Recipe(
        name=name,
        options={"size": size, "weights": weights, "fidelity": fidelity},
        config=Config(
            audio=Audio(frontend="own", resampler="sinc" if original else "soxr"),
            augment=Augmentation(frequency_width=48, time_width=160, published_gate=original, time_warp_frames=0),
            model=Model(dim=sizes.dim, depth=sizes.depth, heads=sizes.heads, layers=(sizes.depth,), weights=weights),
            train=Training(
                epochs=50 if size == "base" or weights else 2,
                batch_size=8,
                micro_batch=0,
                drop_last=True,
                lr=5e-5,
                lr_floor=5e-8,
                cosine_start_epoch=1 if original else 0,
                weight_decay=1e-6,
                interpolate=0.5,
            ),
        ),
        frontend=build_frontend,
        model=partial(
            build_model,
            layout="original" if original else "aligned",
            projecting=name == "ast_patchmix_cl",
        ),
        augment=augment,
        batch_loss=weighted_loss,
        run=finetune.run,
        provenance="code-verified",
        prepare=prepare,
    )


def prepare(config: Config) -> Preparation:
    """Config -> preparation of one waveform a cycle, faded where the recording begins and ends."""
    settings = {**wave_settings(config), "fade_samples": config.audio.fade_samples}
    return Preparation(faded_recording, settings, settings["samples"])


def faded_recording(
    path: str | Path,
    start_s: float,
    end_s: float,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
    fade_samples: int,
) -> NDArray[np.float32]:
    """One cycle -> (samples,): cut from its faded recording, then cut, or repeated and faded out."""
    wave = read_resampled_segment(path, start_s, end_s, rate_hz=rate_hz, resampler=resampler)
    last = round(read_audio_info(path).duration_s * rate_hz) - 1
    place = round(start_s * rate_hz) + np.arange(wave.size)
    ramp = np.clip(np.minimum(place, last - place) / max(fade_samples - 1, 1), 0, 1) if fade_samples else 1
    wave = np.asarray(wave * ramp, dtype=np.float32)
    return wave[:samples] if wave.size > samples else fade_edges(np.resize(wave, samples), fade_samples, into=False)


def build_frontend(config: Config) -> KaldiFbank:
    """Config -> module (B, 128000) -> (B, 1, 128, 798)."""
    return KaldiFbank()


def build_model(config: Config, *, layout: Literal["aligned", "original"], projecting: bool) -> ASTClassifier:
    """Config -> AST (pre-trained or random), head and, for Patch-Mix, projector."""
    frames = 1 + (round(config.audio.rate_hz * config.audio.duration_s) - WINDOW) // HOP
    encoder = AST(config.model.dim, config.model.depth, config.model.heads, frames=frames)
    if config.model.weights:
        encoder.load_state_dict(ast_tensors(config.model.weights, frames=frames, layout=layout))
    return ASTClassifier(encoder, projector=build_patch_mix_projector(encoder.dim) if projecting else None)


def of_file(weights: str) -> ViTSize:
    """Checkpoint -> its width, depth and heads."""
    tensors = ast_tensors(weights)
    dim, depth = tensors["cls_token"].shape[2], len({n.split(".")[1] for n in tensors if n.startswith("blocks.")})
    return ViTSize(dim, depth, default_heads(dim))


def augment(config: Config, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 128, frames) -> the same, masked with each clip's mean."""
    return masked(config, features, features.mean(dim=(1, 2, 3)), generator, gate_each=True)


def patch_mix_loss(model: nn.Module, features: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the clean clips + how well mixed clips find their two sources among them."""
    assert isinstance(model, ASTClassifier)
    mix = draw_patch_mix(len(features), model.encoder.columns, generator=step.generator)
    logits, clean, mixed = model.clean_and_mixed(features, mix)
    contrastive = patch_mix_contrastive(mixed, clean, mix.order.to(mixed.device), mix.kept)
    return weighted_cross_entropy(logits, step.label, step.whole_label, step.weight) + contrastive, logits
