"""Supervised contrastive learning on a CNN6 of PANNs: SCL, M-SCL with metadata, hybrid, and plain cross-entropy.

Paper: Moummad & Farrugia, "Pretraining respiratory sound representations using metadata and contrastive learning",
WASPAA 2023 (arXiv 2210.16192), CNN6 pre-trained on AudioSet. Official split, mean of ten runs, epoch chosen on the test
set:

    recipe            loss                                        Sp           Se           Score
    moummad_scl       contrastive, then a linear probe            75.95±2.31   39.15±1.89   57.55±0.81   (Table 2)
    moummad_mscl      0.75 of classes + 0.25 of sex x age, probe  76.93        39.15        58.04±0.94
    moummad_hybrid    0.5 contrastive + 0.5 cross-entropy         70.47        43.29        56.89
    moummad_ce        weighted cross-entropy                      70.09        40.39        55.24

Command: rales train moummad_scl --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN
Command: rales train moummad_mscl --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN
Command: rales train moummad_hybrid --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN
Command: rales train moummad_ce --data ICBHI_final_database --weights Cnn6_mAP=0.343.pth --out RUN

Provenance: code-verified (ilyassmoummad/scl_icbhi2017, michiel-j/SCL_ICBHI2017). Table 2 prints the figure of
`moummad_scl`, which uses no metadata. Weights: Zenodo 3987831.

Deviations, undone by fidelity=original: a better resampler (audio.resampler=sinc); min-max per clip, not per batch
(audio.scope=batch); standard deviation 0.2550 as the paper says, not 0.0255 (audio.std=0.0255); SpecAugment on every
batch, not on 84.1 % of them (augment.published_gate=true); bfloat16 where it pays (train.precision=float32); kernels
see (time, frequency) as in pre-training; the two views of a batch pass the encoder together, so that batch-norm takes
its statistics over both and moves its running ones once a step (`views=apart`: one view after the other). Kept: the
cosine that rises again after 40 epochs. `moummad_mscl` needs the database's demographic file; patients whose sex or age
it does not know stay out of the metadata term. --epochs is that of the encoder, `probe_epochs` of the probe; the
encoder's last epoch goes on, --select chooses among the probe's. Without weights the learning rate is 1e-3, as in the
paper.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from rales.audio import IcbhiLogMel
from rales.config import (
    Audio,
    Augmentation,
    Config,
    Model,
    Recipe,
    Step,
    Training,
    base_or_tiny,
    count_of_option,
    is_original,
    one_of,
)
from rales.data.icbhi import sex_and_age
from rales.models.cnn import Cnn, CnnSize
from rales.models.heads import ContrastiveClassifier, build_projector
from rales.models.pretrained_backbones import cnn_tensors
from rales.training import finetune, multistage
from rales.training.losses import hybrid_sup_con, multi_sup_con, sup_con, weighted_cross_entropy
from rales.training.recipe_defaults import masked, unchanged, weighted_loss


def scl(
    size: str = "base", weights: str = "", fidelity: str = "corrected", probe_epochs: str = "", views: str = ""
) -> Recipe:
    """-> contrastive pre-training on the classes, then a linear probe."""
    recipe = with_views(system("moummad_scl", size, weights, fidelity), scl_loss, views)
    return two_stages(recipe, probe_epochs or ("50" if recipe.options["size"] == "base" else "2"))


def mscl(
    size: str = "base", weights: str = "", fidelity: str = "corrected", probe_epochs: str = "", views: str = ""
) -> Recipe:
    """-> contrastive pre-training on the classes and on sex x age, then a linear probe."""
    recipe = with_views(system("moummad_mscl", size, weights, fidelity), mscl_loss, views)
    return two_stages(recipe, probe_epochs or ("100" if recipe.options["size"] == "base" else "2"))


def hybrid(size: str = "base", weights: str = "", fidelity: str = "corrected", views: str = "") -> Recipe:
    """-> contrastive loss and cross-entropy together."""
    return with_views(system("moummad_hybrid", size, weights, fidelity), hybrid_loss, views)


def ce(size: str = "base", weights: str = "", fidelity: str = "corrected") -> Recipe:
    """-> cross-entropy alone, the baseline."""
    return replace(system("moummad_ce", size, weights, fidelity), augment=augment, batch_loss=weighted_loss)


def system(name: str, size: str, weights: str, fidelity: str) -> Recipe:
    """-> what the four have in common; their augmentation happens in the loss, which needs two views."""
    size = base_or_tiny(size, weights)
    original = is_original(fidelity)
    training = Training(
        epochs=400 if size == "base" else 2,
        batch_size=128 if size == "base" else 8,
        micro_batch=0,
        lr=1e-4 if weights else 1e-3,
        cosine_epochs=40,
        precision="float32" if original else "auto",
    )
    return Recipe(
        name=name,
        options={"size": size, "weights": weights, "fidelity": fidelity},
        config=Config(
            audio=Audio(resampler="sinc", scope="batch", std=0.0255) if original else Audio(),
            augment=Augmentation(published_gate=original, time_warp_frames=0),
            model=Model(weights=weights),
            train=training,
        ),
        frontend=build_frontend,
        model=partial(
            build_model,
            size=size,
            original=original,
            projectors=PROJECTORS[name],
            learns="encoder" if name in ("moummad_scl", "moummad_mscl") else "all",
        ),
        augment=unchanged,
        batch_loss=weighted_loss,
        run=finetune.run,
        provenance="code-verified",
        whole_batches=True,
    )


PROJECTORS = {"moummad_scl": 1, "moummad_mscl": 2, "moummad_hybrid": 1, "moummad_ce": 0}


def build_frontend(config: Config) -> IcbhiLogMel:
    """Config -> module (B, samples) -> (B, 1, 64, 1 + samples // 512), standardised."""
    audio = config.audio
    return IcbhiLogMel(
        scope=audio.scope,
        mean=audio.mean,
        std=audio.std,
        sample_rate_hz=audio.rate_hz,
        fft_samples=1024,
        hop_samples=512,
        mels=64,
        high_hz=2000,
    )


def build_model(
    config: Config,
    *,
    size: str,
    original: bool,
    projectors: int,
    learns: Literal["all", "encoder", "head"],
) -> ContrastiveClassifier:
    """Config -> CNN6, projectors and linear layer."""
    kind: CnnSize = "cnn6" if size == "base" else "tiny"
    encoder = Cnn(kind, axes="ft" if original else "tf")
    if config.model.weights:
        encoder.load_state_dict(cnn_tensors(config.model.weights, kind))
    return ContrastiveClassifier(encoder, [build_projector(encoder.dim) for _ in range(projectors)], learns=learns)


def augment(config: Config, features: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 64, frames) -> the same, masked with what a 0 of the [0, 1] picture becomes."""
    return masked(config, features, (0.0 - config.audio.mean) / config.audio.std, generator)


def with_views(recipe: Recipe, loss: Callable[..., tuple[Tensor, Tensor]], views: str) -> Recipe:
    """Recipe, loss of two views and how they pass the encoder ("": as the fidelity has it) -> with that loss."""
    views = views or ("apart" if is_original(recipe.options["fidelity"]) else "together")
    one_of("views", views, ("together", "apart"))
    options = {**recipe.options, "views": views}
    return replace(recipe, options=options, batch_loss=partial(loss, apart=views == "apart"))


def two_views(model: nn.Module, features: Tensor, step: Step, *, apart: bool) -> tuple[Tensor, Tensor]:
    """Model, clean features (B, …), step -> two augmentations, encoded (2 B, D), and their labels (2 B,).

    Batch-norm takes its statistics over both views, or `apart` over one after the other.
    """
    encoder = model.get_submodule("encoder")
    views = [augment(step.config, features, step.generator) for _ in range(2)]
    encoded: Tensor = torch.cat([encoder(view) for view in views]) if apart else encoder(torch.cat(views))
    return encoded, step.label.repeat(2)


def scl_loss(model: nn.Module, features: Tensor, step: Step, *, apart: bool) -> tuple[Tensor, Tensor]:
    """Contrastive loss on the classes; the logits are those of a layer that is not trained yet."""
    encoded, label = two_views(model, features, step, apart=apart)
    loss = sup_con(model.get_submodule("projectors.0")(encoded), label)
    return loss, model.get_submodule("head")(encoded[: len(features)].detach())


def mscl_loss(model: nn.Module, features: Tensor, step: Step, *, apart: bool) -> tuple[Tensor, Tensor]:
    """Contrastive loss on the classes and, through a projector of its own, on sex x age."""
    encoded, label = two_views(model, features, step, apart=apart)
    of_class, of_group = (model.get_submodule(f"projectors.{i}")(encoded) for i in range(2))
    loss = multi_sup_con(of_class, label, of_group, step.group.repeat(2))
    return loss, model.get_submodule("head")(encoded[: len(features)].detach())


def hybrid_loss(model: nn.Module, features: Tensor, step: Step, *, apart: bool) -> tuple[Tensor, Tensor]:
    """Contrastive loss and weighted cross-entropy of both views."""
    encoded, label = two_views(model, features, step, apart=apart)
    logits: Tensor = model.get_submodule("head")(encoded)
    of_views = weighted_cross_entropy(logits, label, label, step.weight)
    contrastive = sup_con(model.get_submodule("projectors.0")(encoded), label)
    return hybrid_sup_con(contrastive, of_views), logits[: len(features)]


def two_stages(recipe: Recipe, probe_epochs: str) -> Recipe:
    """Recipe of the encoder -> with the linear probe behind it."""
    count_of_option("probe_epochs", probe_epochs, 1)
    return replace(recipe, options={**recipe.options, "probe_epochs": probe_epochs}, run=run)


def run(recipe: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """Contrastive encoder in out/stage1, then the probe on it, frozen and without augmentation, in `out`."""
    if recipe.name == "moummad_mscl":
        groups = sex_and_age(cycles["path"])
        cycles = cycles.assign(group=[groups.get(patient, -1) for patient in cycles["patient"]])
    train = recipe.config.train
    encoder = replace(train, evaluate_every=train.epochs, select="last")
    if train.select == "validation":  # the probe's validation patients must be new to the encoder, too
        encoder = replace(encoder, select="validation")
    probe = replace(train, epochs=int(recipe.options["probe_epochs"]), lr=0.1, schedule="constant")
    last = replace(
        recipe,
        config=replace(recipe.config, train=probe),
        model=partial(recipe.model, learns="head"),  # type: ignore[call-arg]
        augment=unchanged,
        batch_loss=weighted_loss,
    )
    first = replace(recipe, config=replace(recipe.config, train=encoder))
    return multistage.run(first, replace(last, asked=recipe), cycles, out, **options)
