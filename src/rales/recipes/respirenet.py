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

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.padding import pad_by_repetition, split_long_cycle
from rales.audio.spectrogram_images import RespireNetImage, normalise_channels
from rales.audio.waveform_augment import augment_one_of_five, concatenation_pairs, shift_circularly
from rales.config import (
    Audio,
    Config,
    Model,
    Recipe,
    Split,
    Step,
    Training,
    base_or_tiny,
    count_of_option,
    is_original,
    number_of_option,
    one_of,
)
from rales.data import splits
from rales.data.dataset import (
    SECOND,
    CycleDataset,
    class_numbers,
    number_words,
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
from rales.training import finetune, multistage
from rales.training.recipe_defaults import unchanged

CLASS_WEIGHTS = (0.1, 0.3, 0.3, 0.3)
TRAINING = Training(
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


def recipe(
    size: str = "base",
    weights: str = "",
    fidelity: str = "corrected",
    joined: str = "",
    device_epochs: str = "",
    statistics: str = "",
    devices: str = "",
) -> Recipe:
    """-> the system. `devices` are those that have a network of their own, which a finished run knows.

    `statistics` standardise the colours in stage 2: those of stage 1 for all ("stage1"), or each "device"'s own.
    """
    size = base_or_tiny(size, weights)
    original = is_original(fidelity)
    joined = joined or ("0" if original else "1")
    device_epochs = device_epochs or ("50" if size == "base" else "1")
    count_of_option("device_epochs", device_epochs, 0)
    statistics = statistics or ("device" if original else "stage1")
    one_of("statistics", statistics, ("stage1", "device"))
    own = tuple(name for name in devices.split("+") if name)
    for name in own:
        one_of("devices", name, DEVICES)
    return Recipe(
        name="respirenet",
        options={
            "size": size,
            "weights": weights,
            "fidelity": fidelity,
            "joined": joined,
            "device_epochs": device_epochs,
            "statistics": statistics,
            "devices": devices,
        },
        config=Config(
            audio=Audio(frontend="own", rate_hz=4000, pad="duplicate", fade_samples=0),
            model=Model(weights=weights),
            train=replace(TRAINING, epochs=200 if size == "base" else 2, precision="float32" if original else "auto"),
        ),
        frontend=partial(
            Pictures,
            fidelity="original" if original else "corrected",
            devices=own if statistics == "device" else (),
        ),
        model=partial(build_model, size=size, devices=own),
        augment=unchanged,
        batch_loss=fixed_weight_loss,
        run=run,
        provenance="code-verified",
        rows=partial(with_pieces, joined=number_of_option("joined", joined)),
        prepare=partial(prepare, random_side=original),
        fit=fit,
        wave_augment=augment_wave,
        whole_batches=True,
    )


def run(recipe: Recipe, cycles: pd.DataFrame, out: Path, **options: Any) -> dict[str, Any]:
    """All devices in out/stage1, each device from there on in out/stage2_DEVICE, their networks together in `out`."""
    epochs = int(recipe.options["device_epochs"])
    if epochs == 0:
        return finetune.run(recipe, cycles, out, **options)
    table = splits.divide_cycles(cycles, recipe.config)
    parts = set(table["split"]) - {""}
    shares = {device: table[table["device"] == device] for device in DEVICES}
    tuned = [device for device, rows in shares.items() if parts <= set(rows["split"])]

    config = replace(recipe.config, train=replace(recipe.config.train, epochs=epochs, lr=recipe.config.train.lr / 10))
    measured = tuned if recipe.options["statistics"] == "device" else []
    last = replace(
        recipe,
        options={**recipe.options, "devices": "+".join(tuned)},
        config=config,
        frontend=partial(recipe.frontend, devices=tuple(measured)),  # type: ignore[call-arg]
        model=partial(recipe.model, devices=tuple(tuned)),  # type: ignore[call-arg]
        asked=recipe,
    )
    if figures := multistage.reserved(last, cycles, out, options.get("command", "")):
        return figures

    finetune.run(recipe, cycles, out / "stage1", **options)
    second = replace(recipe, config=replace(config, split=Split(name="official")))  # `table` is divided already
    best = "best.safetensors"
    for device in tuned:
        started = multistage.started_from(second, out / "stage1" / best)
        started = replace(started, fit=fit if measured else None)
        finetune.run(started, shares[device], out / f"stage2_{device}", **options)

    networks = {ALL: out / "stage1" / best, **{device: out / f"stage2_{device}" / best for device in tuned}}
    prefixes = {f"networks.{name}.": (path, f"networks.{ALL}.") for name, path in networks.items()}
    for device in measured:
        for statistic in ("mean", "std"):
            prefixes[f"frontend.{statistic}_{device}"] = (networks[device], f"frontend.{statistic}")
    return multistage.put_together(last, cycles, out, prefixes, epochs=epochs, **options)


def with_pieces(config: Config, table: pd.DataFrame, *, joined: float) -> pd.DataFrame:
    """Divided table -> with joined train cycles behind it, and every row as often as it has pieces."""
    train, random = train_positions(table), np.random.default_rng(config.split.seed)
    pairs = np.zeros((0, 3), np.int64)
    if len(train) and joined:
        pairs = concatenation_pairs(class_numbers(table.iloc[train]), joined, random)
    rows = with_concatenated(table, train[pairs[:, :2]], pairs[:, 2])
    seconds = rows["end_s"] - rows["start_s"] + rows["second_end_s"] - rows["second_start_s"]
    longer = (seconds - config.audio.duration_s).to_numpy()
    count = np.where(longer > 0, 2 + np.floor(2 * longer / config.audio.duration_s), 1).astype(np.int64)
    rows = rows.assign(device_number=number_words(rows["device"], DEVICES))
    repeated = rows.loc[rows.index.repeat(count)]
    return repeated.assign(piece=np.concatenate([np.arange(n) for n in count])).reset_index(drop=True)


def prepare(config: Config, *, random_side: bool) -> Preparation:
    """Config -> preparation of one waveform a piece with the number of its device behind it."""
    settings = {**wave_settings(config), "random_side": random_side}
    return Preparation(clip, settings, settings["samples"] + 1, (*SECOND, "piece", "device_number"))


def clip(
    path: str | Path,
    start_s: float,
    end_s: float,
    second_path: str,
    second_start_s: float,
    second_end_s: float,
    piece: int,
    device_number: int,
    *,
    rate_hz: int,
    samples: int,
    resampler: Literal["soxr", "sinc"],
    random_side: bool,
) -> NDArray[np.float32]:
    """A piece of one cycle, or of two in a row -> (samples + 1,): the piece, filled from the whole; its device."""
    cycles = [(path, start_s, end_s), (second_path, second_start_s, second_end_s)]
    wave = np.concatenate(read_row_segments(cycles, rate_hz=rate_hz, resampler=resampler))
    found = split_long_cycle(wave, samples)
    chosen = found[min(piece, len(found) - 1)]  # rounding may leave one less than the seconds promise
    coin = np.random.default_rng([round(1000 * start_s), round(1000 * end_s), piece]).integers(2)
    filled = pad_by_repetition(chosen, samples, side="before" if random_side and coin else "after", filler=wave)
    return np.append(filled, np.float32(device_number))


def augment_wave(config: Config, items: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N + 1) -> the same: half of the waves changed in one of five ways and filled again, half of all rolled."""
    waves = items[:, :-1].clone()
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    for wave in waves:
        if random.random() < 0.5:
            changed = augment_one_of_five(wave.numpy(), config.audio.rate_hz, random)
            wave.copy_(torch.from_numpy(pad_by_repetition(changed[: len(wave)], len(wave))))
    return torch.cat([shift_circularly(waves, generator=generator), items[:, -1:]], dim=1)


class Pictures(nn.Module):
    """(B, samples + 1) -> (B, 4, 192, frames): colours, standardised over the train cycles; number of the device.

    The number stands in every place of a fourth channel, as a picture is all that the network gets. Rows of `devices`
    are standardised over the train cycles of their own device.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: Config, *, fidelity: Literal["corrected", "original"], devices: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.source, self.devices = RespireNetImage(fidelity=fidelity), devices
        for suffix in ("", *(f"_{device}" for device in devices)):
            self.register_buffer(f"mean{suffix}", torch.tensor(self.source.mean))
            self.register_buffer(f"std{suffix}", torch.tensor(self.source.std))

    def forward(self, items: Tensor) -> Tensor:
        colours = self.source.picture(items[:, :-1])
        picture = self.standardised(colours, "")
        for device in self.devices:
            rows = items[:, -1].round() == DEVICES.index(device)
            picture[rows] = self.standardised(colours[rows], f"_{device}")
        device_number = items[:, -1, None, None, None].expand(-1, 1, *picture.shape[2:])
        return torch.cat([picture, device_number], dim=1)

    def standardised(self, colours: Tensor, suffix: str) -> Tensor:
        """(B, 3, H, W) -> the same, standardised with the statistics of that name."""
        mean, std = (self.get_buffer(f"{statistic}{suffix}").tolist() for statistic in ("mean", "std"))
        return normalise_channels(colours, tuple(mean), tuple(std))


def fit(config: Config, frontend: nn.Module, model: nn.Module, data: CycleDataset, device: torch.device) -> None:
    """Mean of the train cycles' pictures per channel, and mean of their deviations, as the published code has it."""
    assert isinstance(frontend, Pictures)
    means, deviations = [], []
    for batch in ordered_batches(data.waves, data.labels, 16, rows=data.rows("train")):
        deviation, mean = torch.std_mean(frontend.source.picture(batch.wave[:, :-1].to(device)), dim=(2, 3))
        means.append(mean.cpu())
        deviations.append(deviation.cpu())
    frontend.mean.copy_(torch.cat(means).mean(dim=0))
    frontend.std.copy_(torch.cat(deviations).mean(dim=0))


class PerDevice(nn.Module):
    """(B, 4, H, W) as of `Pictures` -> (B, 4) logits of the network of each row's device, or of the one for all."""

    def __init__(self, networks: dict[str, BackboneWithHead]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, features: Tensor) -> Tensor:
        return self.routed(features, "forward")

    def embed(self, features: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, D) pooled features."""
        return self.routed(features, "embed")

    def routed(self, features: Tensor, function: str) -> Tensor:
        """Each row through the function of its device's network."""
        picture, device = features[:, :-1], features[:, -1, 0, 0].round().long()
        names = [DEVICES[i] if i < len(DEVICES) and DEVICES[i] in self.networks else ALL for i in device.tolist()]
        places = {name: [row for row, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        answers = [getattr(self.networks[name], function)(picture[rows]) for name, rows in places.items()]
        order = torch.tensor([row for rows in places.values() for row in rows]).argsort()
        return torch.cat(answers)[order.to(features.device)]


def build_model(config: Config, *, size: str, devices: tuple[str, ...]) -> PerDevice:
    """Config -> one ResNet-34 (pre-trained or random) with its head for all devices, and one for each of `devices`."""

    def network() -> BackboneWithHead:
        backbone = ResNet(34) if size == "base" else ResNet(10, width=16)
        if config.model.weights:
            backbone.load_state_dict(resnet_tensors(config.model.weights, 34))
        return BackboneWithHead(backbone, build_respirenet_head(backbone.dim))

    return PerDevice({name: network() for name in (ALL, *devices)})


def fixed_weight_loss(model: nn.Module, features: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the published weights, on batches whose classes are drawn equally often already."""
    logits = model(features)
    return F.cross_entropy(logits.float(), step.label, logits.new_tensor(CLASS_WEIGHTS, dtype=torch.float32)), logits
