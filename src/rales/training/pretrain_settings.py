"""Every number of a pre-training run."""

from dataclasses import dataclass, field
from typing import Literal

from rales.settings import AnyNumber, Count, Depth, Fraction, FrameCount, Positive, Seed, TransformerSize, Width


@dataclass(frozen=True)
class Encoder(TransformerSize):
    """The network of pre-training; with `weights` all sizes but those of a missing predictor are the checkpoint's."""

    patch: tuple[Width, Width] = (16, 16)
    """Mel bands and frames of one patch; the public further pre-training on ICBHI has (16, 4)."""
    unit_frames: FrameCount = 608
    """Length of a crop in 10 ms frames; the public further pre-training on ICBHI has 200."""
    decoder_dim: Width = 512
    """Width of the predictor."""
    decoder_depth: Depth = 8
    """Blocks of the predictor."""
    decoder_heads: Width = 16
    """Attention heads of the predictor."""
    weights: str = ""
    """Name or file of the checkpoint to go on from; empty = random start."""
    teacher: str = ""
    """Name, file or run of a frozen encoder whose features are predicted too (M2D-X): of an M2D encoder those of every
    time column, of a MobileNet of EfficientAT (mn04_as) one vector a crop; empty = none."""
    target_start: Literal["random", "online"] = "random"
    """Start of a target encoder that no checkpoint holds: own random weights (M2D), or a copy of the online encoder."""
    weights_digest: str = ""
    """SHA-256 of the file that `weights` names, filled in: a file of the same name may hold another encoder."""
    teacher_digest: str = ""
    """The same of `teacher`."""


@dataclass(frozen=True)
class CropSettings:
    """From recordings to what pre-training sees."""

    pad: Literal["zero", "repeat"] = "zero"
    """How a recording shorter than a crop is filled: with silence (M2D) or from its start again."""
    shortest_s: Positive = 0.2
    """Shorter recordings are passed over."""
    min_items: int = 0
    """Crops an epoch at least; the list of recordings repeats (M2D-X on ICBHI: 10000)."""
    noise_ratio: float = 0.0
    """Share of background noise in the mixed power (M2D-X: 0.3 on ICBHI, 0.01 on SPRSound); 0 = none."""
    noise_heard_by: Literal["model", "teacher"] = "model"
    """Who hears the noise: the model, as M2D-X is published, or the teacher, as its released code literally does."""
    statistics: Literal["measured", "weights", "given"] = "measured"
    """Mean and standard deviation of the log-mel: of random crops (M2D), the checkpoint's, or `mean` and `std`."""
    statistics_crops: Count = 5000
    """Random crops that they are measured on, but at most eight times as many as recordings (M2D: 5000)."""
    mean: AnyNumber = -7.1
    """Mean in ln units if `statistics` is given (M2D's of AudioSet)."""
    std: Positive = 4.2
    """Standard deviation in ln units if `statistics` is given (M2D's of AudioSet)."""
    threads: Count = 2
    """Threads that decode and resample."""


@dataclass(frozen=True)
class Pretraining:
    """The M2D loop; defaults are those of nttcslab/m2d, but its batch of 2048 on four GPUs."""

    epochs: Count = 300
    """Passes over the recordings (public further pre-training on ICBHI: 600)."""
    batch_size: Count = 128
    """Crops an optimiser step, over all processes."""
    micro_batch: int = 16
    """Crops in memory at once in each process; gradients add up; 0 = all."""
    mask_ratio: Fraction = 0.7
    """Share of the patches hidden from the online encoder."""
    lr: Positive = 3e-4
    """AdamW's learning rate for a batch of 256; it grows with batch_size."""
    weight_decay: float = 0.05
    """Decoupled weight decay, not of vectors and biases."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: float = 0.95
    """AdamW's decay of the mean squared gradient."""
    warmup_share: float = 20 / 300
    """Share of the epochs over which the learning rate rises from 0, step by step; then half a cosine down to 0."""
    warmup_epochs: int = 0
    """The rise in epochs, whatever their number (M2D: 20, also of 600); 0 = warmup_share of them."""
    clip: float = 3.0
    """Largest L2 norm of the gradient; 0 = no limit."""
    ema_start: float = 0.99995
    """Share of itself that the target keeps at the first step."""
    ema_end: float = 0.99999
    """The same at the last step."""
    ema_steps: int = 0
    """Steps that ema_start and ema_end are meant for (M2D: 293000); in a run of n steps 1 - ema is then multiplied by
    ema_steps / n, so that the target follows as fast in proportion to the run. 0 = as they are."""
    standardise: bool = True
    """Bring every target token to mean 0 and variance 1."""
    loss: Literal["norm_mse", "mse"] = "norm_mse"
    """Squared distance of prediction and target at unit length, or as they are."""
    m2d_weight: float = 1.0
    """Weight of M2D's own loss where there is a teacher."""
    teacher_weight: float = 1.0
    """Weight of the teacher's loss (M2D-X on ICBHI: 1.0)."""
    keep_every: int = 1000
    """Steps after which a long epoch is saved for going on; the end of an epoch always is."""
    save_every: int = 0
    """Epochs after which a checkpoint of its own is left behind (M2D: 100); 0 = the last alone."""
    probe_every: int = 10
    """Epochs after which the linear probe is scored, if there is one; the last epoch always."""
    reference_file: bool = False
    """Leave a checkpoint-N.pth in the layout of nttcslab/m2d behind, too."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bfloat16 on an x86 processor with AMX, an AMD one with avx512_bf16, or an NVIDIA GPU that has units for
    it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps …"""


@dataclass(frozen=True)
class PretrainConfig:
    """All numbers of one pre-training run; any of them can be set by its dotted name."""

    encoder: Encoder = field(default_factory=Encoder)
    crops: CropSettings = field(default_factory=CropSettings)
    pretrain: Pretraining = field(default_factory=Pretraining)
    seed: Seed = 0
    """Seed of the random start, the order of recordings, the crops and the masks."""


SIZES = {
    "base": PretrainConfig(),
    "small": PretrainConfig(
        encoder=Encoder(dim=384, depth=12, heads=6, decoder_dim=256, decoder_depth=4, decoder_heads=8),
        pretrain=Pretraining(batch_size=64, lr=1.2e-3, ema_steps=293_000),
    ),
    "tiny": PretrainConfig(
        encoder=Encoder(
            dim=96,
            depth=3,
            heads=4,
            patch=(80, 8),
            unit_frames=200,
            decoder_dim=96,
            decoder_depth=2,
            decoder_heads=4,
        ),
        pretrain=Pretraining(batch_size=32, micro_batch=32, lr=4e-3, ema_steps=293_000, precision="float32"),
    ),
}
