"""RespireNet: ImageNet's ResNet-34 on coloured log-mels, joined cycles, blank bands cut, fine-tuned for each device.

Paper: Gairola et al., "RespireNet: a deep neural network for accurately detecting abnormal lung sounds in limited data
setting", EMBC 2021 (arXiv 2011.00196). Table 2, official split, epoch chosen on the test set:

    CNN 71.4 / 39.0 / 55.2   + joined cycles and clipping 71.8 / 39.6 / 55.7   + devices Sp 72.30  Se 40.10  Score 56.20

Command: rales train respirenet --data ICBHI_final_database --weights resnet34-b627a593.pth --out RUN

Provenance: code-verified (microsoft/RespireNet; its 60/40 split and the number of joined cycles are not in that code).

Deviations, undone by fidelity=original: exactly the blank rows are clipped, not one more; a short cycle is filled
behind, not on a side drawn once; joined cycles (`joined=1`: as many of every class as there are normal cycles) take
part, which as released cannot run; stage 2 keeps the mean and deviation of the colours that stage 1 has measured, and
does not measure those of its device (`statistics=device`); bfloat16 where it pays (train.precision=float32). That code
resamples with librosa's long Kaiser-windowed sinc, to which soxr is nearer than the short one (audio.resampler=sinc).
Pieces of a long cycle vote; its probabilities are those of the pieces that voted with the majority. Stage 2 starts from
the selected epoch of stage 1 for every device that has cycles in all parts (on the official split not LittC2SE), the
others keep stage 1; `device_epochs=0` leaves it out. --epochs is that of stage 1. --select test_best looks at the
Score, that code at the accuracy; the joined network has one scored epoch, so a report shows its Score under each way to
choose only from runs of that way.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.feature_augment import keep_features
from rales.audio.padding import pad_by_repetition, split_long_cycle
from rales.audio.spectrogram_images import RespireNetImage, normalise_channels
from rales.audio.waveform_augment import augment_one_of_five, concatenation_pairs, shift_circularly
from rales.data import splits
from rales.data.dataset import (
    SECOND,
    Batch,
    CycleDataset,
    class_numbers,
    number_words,
    select_extras,
    train_positions,
    wave_settings,
    with_concatenated,
)
from rales.data.icbhi import DEVICES
from rales.data.loader import ordered_batches
from rales.data.waveform_cache import Preparation, read_row_segments
from rales.models.heads import BackboneWithHead, build_respirenet_head
from rales.models.pretrained_backbones import resnet_tensors
from rales.models.resnet import ResNet
from rales.settings import BackboneSettings, Fidelity, Split, Training, Waveform, require_classes, set_defaults
from rales.training import finetune, multistage
from rales.training.recipe import LossContext, Recipe

CLASS_WEIGHTS = (0.1, 0.3, 0.3, 0.3)
Device = Literal["AKGC417L", "LittC2SE", "Litt3200", "Meditron"]
TRAINING = Training(
    epochs=200,
    batch_size=64,
    micro_batch=0,
    optimiser="sgd",
    lr=1e-3,
    schedule="constant",
    weight_decay=5e-4,
    class_weights="none",
    sampler="balanced",
)
ALL = "all"  # the network of devices without one of their own


@dataclass(frozen=True)
class Settings(BackboneSettings):
    """Numbers of the authors' code, of both stages."""

    fidelity: Fidelity = "corrected"
    """corrected: published quirks are mended; original: they stay."""
    joined: float = 1.0
    """Joined cycles of every class, as a multiple of the normal ones; 0 = none (the default of fidelity=original)."""
    device_epochs: int = 50
    """Epochs of stage 2; 0 leaves it out."""
    statistics: Literal["stage1", "device"] = "stage1"
    """What standardises the colours in stage 2: the numbers of stage 1 for all, or each device's own (the default of
    fidelity=original)."""
    devices: tuple[Device, ...] = ()
    """Those that have a network of their own: filled in by a run that has trained them."""
    audio: Waveform = Waveform(rate_hz=4000)
    train: Training = TRAINING

    def with_presets(self, given: AbstractSet[str]) -> Self:
        settings = replace(self, size="base") if self.weights else self
        defaults: dict[str, Any] = {} if settings.size == "base" else {"device_epochs": 1, "train.epochs": 2}
        if self.fidelity == "original":
            defaults |= {"joined": 0.0, "statistics": "device", "train.precision": "float32"}
        return set_defaults(settings, given, defaults)

    def check(self) -> None:
        """Errors: classes that its joined cycles and its loss do not know."""
        require_classes(self, "respirenet joins cycles of the four classes and has a loss weight for each", icbhi=True)


def recipe(settings: Settings) -> Recipe:
    """-> the system."""
    return Recipe(
        name="respirenet",
        settings=settings,
        build_frontend=Pictures,
        build_model=build_model,
        augment=keep_features,
        loss=fixed_weight_loss,
        run=run,
        provenance="code-verified",
        rows=with_pieces,
        prepare=prepare,
        fit=fit,
        wave_augment=augment_waveforms,
        extras=("device_number",),
        whole_batches=True,
    )


def run(recipe: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """All devices in out/stage1, each device from there on in out/stage2_DEVICE, their networks together in `out`."""
    settings: Settings = recipe.settings
    epochs = settings.device_epochs
    if epochs == 0:
        return finetune.run(recipe, cycles, out, **options)
    table = splits.divide_cycles(cycles, settings)
    parts = set(table["split"]) - {""}
    shares = {device: table[table["device"] == device] for device in DEVICES}
    tuned = [device for device, rows in shares.items() if parts <= set(rows["split"])]

    second = replace(settings, train=replace(settings.train, epochs=epochs, lr=settings.train.lr / 10))
    measured = tuned if settings.statistics == "device" else []
    last = replace(recipe, settings=replace(second, devices=cast("tuple[Device, ...]", tuple(tuned))), asked=recipe)
    if figures := multistage.reserve_run_folder(last, cycles, out, options.get("command", "")):
        return figures

    finetune.run(recipe, cycles, out / "stage1", **options)
    divided = replace(recipe, settings=replace(second, split=Split(name="official")))  # `table` is it already
    best = "best.safetensors"
    for device in tuned:
        started = multistage.start_from(divided, out / "stage1" / best)
        started = replace(started, fit=fit if measured else None)
        finetune.run(started, shares[device], out / f"stage2_{device}", **options)

    networks = {ALL: out / "stage1" / best, **{device: out / f"stage2_{device}" / best for device in tuned}}
    prefixes = {f"networks.{name}.": (path, f"networks.{ALL}.") for name, path in networks.items()}
    for device in measured:
        for statistic in ("mean", "std"):
            prefixes[f"frontend.{statistic}_{device}"] = (networks[device], f"frontend.{statistic}")
    return multistage.assemble_model(last, cycles, out, prefixes, epochs=epochs, **options)


def with_pieces(settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    """Divided table -> with joined train cycles behind it, and every row as often as it has pieces."""
    train, random = train_positions(table), np.random.default_rng(settings.split.seed)
    pairs = np.zeros((0, 3), np.int64)
    if len(train) and settings.joined:
        pairs = concatenation_pairs(class_numbers(table.iloc[train]), settings.joined, random)
    rows = with_concatenated(table, train[pairs[:, :2]], pairs[:, 2])
    seconds = rows["end_s"] - rows["start_s"] + rows["second_end_s"] - rows["second_start_s"]
    longer = (seconds - settings.audio.duration_s).to_numpy()
    count = np.where(longer > 0, 2 + np.floor(2 * longer / settings.audio.duration_s), 1).astype(np.int64)
    rows = rows.assign(device_number=number_words(rows["device"], DEVICES))
    repeated = rows.loc[rows.index.repeat(count)]
    return repeated.assign(piece=np.concatenate([np.arange(n) for n in count])).reset_index(drop=True)


def prepare(settings: Settings) -> Preparation:
    """Settings -> preparation of one waveform a piece."""
    how = {**wave_settings(settings.audio), "random_side": settings.fidelity == "original"}
    return Preparation(clip, how, (how["samples"],), (*SECOND, "piece"))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    second_path: str,
    second_start_s: float,
    second_end_s: float,
    piece: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
    random_side: bool,
) -> NDArray[np.float32]:
    """A piece of one cycle, or of two in a row -> (samples,): the piece, filled from the whole."""
    cycles = [(path, start_s, end_s), (second_path, second_start_s, second_end_s)]
    wave = np.concatenate(read_row_segments(cycles, rate_hz=rate_hz, resampler=resampler))
    found = split_long_cycle(wave, samples)
    chosen = found[min(piece, len(found) - 1)]  # rounding may leave one less than the seconds promise
    coin = np.random.default_rng([round(1000 * start_s), round(1000 * end_s), piece]).integers(2)
    return pad_by_repetition(chosen, samples, side="before" if random_side and coin else "after", filler=wave)


def augment_waveforms(settings: Settings, batch: Batch, generator: torch.Generator) -> Batch:
    """Waveforms (B, N) -> half of them changed in one of five ways and filled again, half of all rolled."""
    waveforms = batch.inputs.clone()
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    for waveform in waveforms:
        if random.random() < 0.5:
            changed = augment_one_of_five(waveform.numpy(), settings.audio.rate_hz, random)
            waveform.copy_(torch.from_numpy(pad_by_repetition(changed[: len(waveform)], len(waveform))))
    return replace(batch, inputs=shift_circularly(waveforms, generator=generator))


class Pictures(nn.Module):
    """Waveforms (B, samples), device numbers (B,) -> (B, 3, 192, frames): colours, standardised over the train cycles.

    Rows of `devices` are standardised over the train cycles of their own device.
    """

    takes = ("device_number",)

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.source = RespireNetImage(fidelity=settings.fidelity)
        self.devices = settings.devices if settings.statistics == "device" else ()
        for suffix in ("", *(f"_{device}" for device in self.devices)):
            self.register_buffer(f"mean{suffix}", torch.tensor(self.source.mean))
            self.register_buffer(f"std{suffix}", torch.tensor(self.source.std))

    def forward(self, waveforms: Tensor, device_number: Tensor) -> Tensor:
        colours = self.source.picture(waveforms)
        pictures = self.standardised(colours, "")
        for device in self.devices:
            rows = device_number == DEVICES.index(device)
            pictures[rows] = self.standardised(colours[rows], f"_{device}")
        return pictures

    def standardised(self, colours: Tensor, suffix: str) -> Tensor:
        """(B, 3, H, W) -> the same, standardised with the statistics of that name."""
        mean, std = (self.get_buffer(f"{statistic}{suffix}").tolist() for statistic in ("mean", "std"))
        return normalise_channels(colours, tuple(mean), tuple(std))


def fit(settings: Settings, frontend: nn.Module, model: nn.Module, dataset: CycleDataset, device: torch.device) -> None:
    """Mean of the train cycles' pictures per channel, and mean of their deviations, as the published code has it."""
    assert isinstance(frontend, Pictures)
    means, deviations = [], []
    for batch in ordered_batches(dataset, 16, rows=dataset.rows("train")):
        deviation, mean = torch.std_mean(frontend.source.picture(batch.inputs.to(device)), dim=(2, 3))
        means.append(mean.cpu())
        deviations.append(deviation.cpu())
    frontend.mean.copy_(torch.cat(means).mean(dim=0))
    frontend.std.copy_(torch.cat(deviations).mean(dim=0))


class PerDevice(nn.Module):
    """Pictures (B, 3, H, W), device numbers (B,) -> (B, 4) logits of the network of each row's device, or of the one
    for all."""

    takes = ("device_number",)

    def __init__(self, networks: dict[str, BackboneWithHead]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, pictures: Tensor, device_number: Tensor) -> Tensor:
        return self.routed("forward", pictures, device_number)

    def embed(self, pictures: Tensor, device_number: Tensor) -> Tensor:
        """(B, 3, H, W), (B,) -> (B, D) pooled features."""
        return self.routed("embed", pictures, device_number)

    def routed(self, function: str, pictures: Tensor, device_number: Tensor) -> Tensor:
        """Each row through the function of its device's network."""
        devices = device_number.tolist()
        names = [DEVICES[i] if i < len(DEVICES) and DEVICES[i] in self.networks else ALL for i in devices]
        places = {name: [row for row, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        answers = [getattr(self.networks[name], function)(pictures[rows]) for name, rows in places.items()]
        order = torch.tensor([row for rows in places.values() for row in rows]).argsort()
        return torch.cat(answers)[order.to(pictures.device)]


def build_model(settings: Settings) -> PerDevice:
    """Settings -> a ResNet-34 (pre-trained or random) with its head for all devices, and one for each of `devices`."""

    def network() -> BackboneWithHead:
        backbone = ResNet(34) if settings.size == "base" else ResNet(10, width=16)
        if settings.weights:
            backbone.load_state_dict(resnet_tensors(settings.weights, 34))
        return BackboneWithHead(backbone, build_respirenet_head(backbone.dim, len(settings.classes)))

    return PerDevice({name: network() for name in (ALL, *settings.devices)})


def fixed_weight_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the published weights, on batches whose classes are drawn equally often already."""
    logits = model(features, **select_extras(model, step.extras))
    return F.cross_entropy(logits.float(), step.label, logits.new_tensor(CLASS_WEIGHTS, dtype=torch.float32)), logits
