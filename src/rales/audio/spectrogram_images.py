"""Spectrogram images of the earlier systems: warped STFT, magma-coloured log-mel, square log-mel, cepstrum."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.audio.filters import band_pass, scale_min_max
from rales.audio.logmel import MelPower, htk_mel_filters, slaney_mel_filters, triangular_filters
from rales.audio.magma_colours import decode_magma_colours
from rales.typing import Waveform

AXIS_CORNER_HZ = 65.4  # C2: librosa's log axis is linear below it
DRAWN = (480, 640)  # height and width of the figures that LungRN+NL and LungAttn saved and read back
RESPIRENET_MEAN = (0.5091, 0.1739, 0.4363)  # of its training log; its std is the mean of the pictures' stds
RESPIRENET_STD = (0.2288, 0.1285, 0.0743)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def lungrn_image(wave: Waveform, rate_hz: int, *, remove_mean: bool = True, size: int = 128) -> Tensor:
    """One cycle (N,) of any length at its native rate -> (1, size, size) in [0, 1]; LungRN+NL.

    Min-max, band-pass 1 to 4000 Hz above 4 kHz, STFT of 20 ms every 10 ms in dB, lower half of the bins (at 4 kHz all),
    drawn on the warped axis with the nominal 11,025 Hz that the published code leaves it at. At 4 kHz its min-max
    leaves a constant of about 0.5; `remove_mean=False` keeps it (fidelity=original).
    """
    wave = scale_min_max(wave)
    if rate_hz > 4000:
        wave = band_pass(wave, rate_hz, low_hz=1, high_hz=4000)
    elif remove_mean:
        wave = wave - wave.mean()
    decibel = stft_decibel(torch.from_numpy(wave)[None], round(0.02 * rate_hz))
    kept_bins = decibel.shape[1] // 2 if rate_hz > 4000 else decibel.shape[1]
    return draw_spectrogram(decibel[:, :kept_bins], top_hz=11025, size=size)[0]


def lungattn_waveform(wave: Waveform, rate_hz: int, *, remove_mean: bool = True) -> Waveform:
    """One cycle (N,) -> (N,): min-max, and above 4 kHz a band-pass of 50 to 2000 Hz; what LungAttn decomposes.

    Without the filter the constant of min-max is removed (our correction; `remove_mean=False` keeps it).
    """
    wave = scale_min_max(wave)
    if rate_hz > 4000:
        return band_pass(wave, rate_hz, low_hz=50, high_hz=2000)
    return np.asarray(wave - wave.mean(), dtype=np.float32) if remove_mean else wave


def lungattn_image(high: Waveform, low: Waveform, rest: Waveform, rate_hz: int, *, size: int = 224) -> Tensor:
    """High-Q, low-Q and residual part (N,) of one cycle -> (3, size, size) in [0, 1]; LungAttn.

    Channels: low-Q under 20 ms windows, high-Q under 80 ms, residual under 200 ms, each up to 2 kHz, in dB re its own
    maximum, on the warped axis, min-max. Which three pictures the published loader takes is not provable from its code;
    this is the trio that its names and the paper's title say.
    """
    pictures = []
    for part, seconds in ((low, 0.02), (high, 0.08), (rest, 0.2)):
        decibel = stft_decibel(torch.from_numpy(np.ascontiguousarray(part))[None], round(seconds * rate_hz))
        kept_bins = int(decibel.shape[1] * 4000 / rate_hz)
        pictures.append(draw_spectrogram(decibel[:, :kept_bins], top_hz=rate_hz / 2, size=size)[0])
    return torch.cat(pictures)


def stft_decibel(wave: Tensor, window_samples: int, top_db: float = 80) -> Tensor:
    """(B, N) -> (B, bins, frames): magnitude in dB re the clip's maximum, not below -top_db; Hann, half overlap.

    Edges are reflected, or in a wave of half a window or less filled with zeros. Digital silence is 0 everywhere.
    """
    magnitude = torch.stft(
        wave,
        window_samples,
        window_samples // 2,
        window=torch.hann_window(window_samples, dtype=wave.dtype, device=wave.device),
        pad_mode="reflect" if wave.shape[-1] > window_samples // 2 else "constant",
        return_complex=True,
    ).abs()
    return _below_maximum(20 * magnitude.clamp_min(1e-5).log10(), top_db)


def draw_spectrogram(picture: Tensor, *, top_hz: float, size: int) -> Tensor:
    """(B, bins, frames) from 0 to top_hz -> (B, 1, size, size) in [0, 1], high frequencies on top.

    As if drawn without margins on librosa's log axis into a figure of 640 x 480 and reduced: height is f / 65.4 up to
    65.4 Hz, then 1 + log2(f / 65.4); nearest bin and frame for each dot, then an averaging bilinear reduction. The
    colour map of the published figures is monotone in dB, so dB themselves stand for its brightness.
    """
    height, width = DRAWN
    top = 1 + math.log2(top_hz / AXIS_CORNER_HZ)
    u = torch.linspace(top, 0, height, dtype=torch.float64, device=picture.device)
    frequency_hz = torch.where(u <= 1, u, 2 ** (u - 1)) * AXIS_CORNER_HZ
    rows = (frequency_hz / top_hz * (picture.shape[1] - 1)).round().long().clamp(max=picture.shape[1] - 1)
    columns = torch.arange(width, device=picture.device) * picture.shape[2] // width
    figure = picture[:, rows][:, :, columns][:, None]
    return _min_max(F.interpolate(figure, size=(size, size), mode="bilinear", antialias=True))


class MelDecibel(nn.Module):
    """Wave (B, N) -> (B, 1, mels, 1 + N // hop_samples): mel power in dB re the clip's maximum, not below -80 dB."""

    def __init__(
        self,
        *,
        sample_rate_hz: int = 4000,
        fft_samples: int = 256,
        hop_samples: int = 128,
        mels: int = 64,
        low_hz: float = 50,
        high_hz: float = 2000,
        scale: Literal["slaney", "htk"] = "slaney",
    ) -> None:
        super().__init__()
        make = slaney_mel_filters if scale == "slaney" else htk_mel_filters
        filters = make(
            sample_rate_hz=sample_rate_hz, fft_samples=fft_samples, mels=mels, low_hz=low_hz, high_hz=high_hz
        )
        self.mel_power = MelPower(filters, fft_samples, hop_samples)

    def forward(self, wave: Tensor) -> Tensor:
        return _mel_decibel(self.mel_power(wave))


class RespireNetImage(nn.Module):
    """Wave (B, 32000) at 4 kHz -> (B, 3, 192, 753): the log-mel in the colours of magma, blank top rows clipped.

    Min-max of the dB to 256 levels, colours, three times as large (bilinear), high frequencies on top, then
    (x - mean) / std per channel. Source: microsoft/RespireNet. `fidelity` is that of `crop_blank_rows`.
    """

    colours: Tensor
    black: Tensor

    def __init__(self, *, fidelity: Literal["corrected", "original"] = "corrected") -> None:
        super().__init__()
        self.decibel = MelDecibel()
        self.fidelity: Literal["corrected", "original"] = fidelity
        self.mean, self.std = RESPIRENET_MEAN, RESPIRENET_STD
        self.register_buffer("colours", decode_magma_colours().float() / 255, persistent=False)  # (256, 3)
        grey = decode_magma_colours().double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        self.register_buffer("black", grey.round() < 10, persistent=False)  # (256,): too dark a colour

    def forward(self, wave: Tensor) -> Tensor:
        return normalise_channels(self.picture(wave), self.mean, self.std)

    def picture(self, wave: Tensor) -> Tensor:
        """(B, 32000) -> (B, 3, 192, 753) in [0, 1], before normalisation."""
        level = (255 * _min_max(self.decibel(wave))[:, 0]).long().flip(1)  # (B, 64, 251), rounded down
        colour = self.colours[level].permute(0, 3, 1, 2)
        large = F.interpolate(colour, scale_factor=3, mode="bilinear", align_corners=False)
        return crop_blank_rows(large, count_blank_rows(self.black[level]), level.shape[1], fidelity=self.fidelity)


def count_blank_rows(black: Tensor) -> Tensor:
    """(B, rows, columns) bool -> (B,): how many rows from the top on are at least 80 % black."""
    return (black.float().mean(dim=2) >= 0.8).long().cumprod(dim=1).sum(dim=1)


def crop_blank_rows(
    picture: Tensor, blank: Tensor, rows: int, *, fidelity: Literal["corrected", "original"] = "corrected"
) -> Tensor:
    """(B, C, H, W), (B,) blank rows of `rows` -> (B, C, H, W): they are cut off the top, the rest stretched (bilinear).

    The published code cuts one row more, the first one with a sound in it (fidelity="original"). An entirely blank
    picture stays as it is. One row of `rows` is H / rows rows of the picture.
    """
    height = picture.shape[2]
    cut = blank + (1 if fidelity == "original" else 0)
    cut = torch.where(cut < rows, cut, 0) * (height // rows)
    place = torch.arange(height, device=picture.device)
    source = (place + 0.5) * ((height - cut) / height)[:, None] - 0.5  # as bilinear resizing places its samples
    source = source.clamp(min=0) + cut[:, None]
    above = source.floor().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    weight = (source - above).to(picture.dtype)[:, None, :, None]
    wide = (*picture.shape,)
    return torch.lerp(
        picture.gather(2, above.long()[:, None, :, None].expand(wide)),
        picture.gather(2, below.long()[:, None, :, None].expand(wide)),
        weight,
    )


class SquareImage(nn.Module):
    """Wave (B, N) -> (B, 3, size, size): one log-mel, resized (bilinear), three times.

    style="imagenet" (our reconstruction of Wang & Wang): min-max, then ImageNet's mean and std. style="standardised"
    (Nguyen & Pernkopf): each clip to mean 0 and variance 1. `warp` (B, 2) makes a vocal tract length perturbation:
    alpha and the corner in hertz of each clip's filter bank (see `warped_mel_filters`).
    """

    def __init__(
        self,
        style: Literal["imagenet", "standardised"],
        *,
        size: int = 224,
        sample_rate_hz: int,
        fft_samples: int,
        hop_samples: int,
        mels: int,
        low_hz: float = 50,
        high_hz: float = 2000,
    ) -> None:
        super().__init__()
        self.style, self.size = style, size
        self.sizes = (sample_rate_hz, fft_samples, mels, low_hz, high_hz)
        self.decibel = MelDecibel(
            sample_rate_hz=sample_rate_hz,
            fft_samples=fft_samples,
            hop_samples=hop_samples,
            mels=mels,
            low_hz=low_hz,
            high_hz=high_hz,
            scale="slaney" if style == "imagenet" else "htk",
        )

    def forward(self, wave: Tensor, warp: Tensor | None = None) -> Tensor:
        decibel = self.decibel(wave) if warp is None else self.warped(wave, warp)
        picture = F.interpolate(decibel, size=(self.size, self.size), mode="bilinear", align_corners=False)
        if self.style == "imagenet":
            return normalise_channels(_min_max(picture).expand(-1, 3, -1, -1), IMAGENET_MEAN, IMAGENET_STD)
        deviation, mean = torch.std_mean(picture, dim=(1, 2, 3), keepdim=True)
        return ((picture - mean) / deviation.clamp_min(1e-5)).expand(-1, 3, -1, -1)

    def warped(self, wave: Tensor, warp: Tensor) -> Tensor:
        """(B, N), (B, 2) -> (B, 1, mels, frames) dB with each clip's own filter bank."""
        rate_hz, fft_samples, mels, low_hz, high_hz = self.sizes
        hop = self.decibel.mel_power.hop_samples
        window = torch.hann_window(fft_samples, device=wave.device)
        power = torch.stft(wave, fft_samples, hop, window=window, return_complex=True).abs().square()
        filters = [
            warped_mel_filters(alpha, corner_hz, rate_hz, fft_samples, mels, low_hz, high_hz)
            for alpha, corner_hz in warp.tolist()
        ]
        return _mel_decibel(torch.stack(filters).to(power) @ power)


def warped_mel_filters(
    alpha: float, corner_hz: float, rate_hz: int, fft_samples: int, mels: int, low_hz: float, high_hz: float
) -> Tensor:
    """-> (mels, bins): HTK triangles whose edges f moved to alpha f, above a corner linearly back to (fs / 2, fs / 2).

    Vocal tract length perturbation (Jaitly & Hinton 2013): the corner is corner_hz * min(alpha, 1) / alpha, where
    alpha f reaches corner_hz * min(alpha, 1). A corner above half the rate is brought down to 0.95 of it.
    """
    half_hz = rate_hz / 2
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = warp_hz(700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1), alpha, corner_hz, half_hz)
    return torch.from_numpy(triangular_filters(edges, rate_hz, fft_samples)).float()


def warp_hz(frequency_hz: NDArray[np.float64], alpha: float, corner_hz: float, half_hz: float) -> NDArray[np.float64]:
    """Frequencies -> warped frequencies, 0 and half_hz fixed: slope alpha up to the corner, then a straight line."""
    reached_hz = min(corner_hz, 0.95 * half_hz) * min(alpha, 1)
    corner = reached_hz / alpha
    beyond = half_hz - (half_hz - reached_hz) / (half_hz - corner) * (half_hz - frequency_hz)
    return np.where(frequency_hz <= corner, alpha * frequency_hz, beyond)


class MelAndCepstrum(nn.Module):
    """Wave (B, N) at 4 kHz -> (B, 2, 64, 1 + N // 128): log-mel in dB and its 64 cepstral coefficients (ARSC-Net).

    The wave is standardised first, which changes nothing but the floor. Each picture is then (x - mean) / std of its
    rows: `statistics` (2, 2, 64) holds means and deviations of the training cycles' rows, without them rows of the clip
    itself serve. RECONSTRUCTION.
    """

    dct: Tensor

    def __init__(self, statistics: Tensor | None = None, mels: int = 64) -> None:
        super().__init__()
        self.decibel = MelDecibel(mels=mels)
        self.register_buffer("dct", dct_matrix(mels), persistent=False)
        self.statistics = statistics

    def forward(self, wave: Tensor) -> Tensor:
        pictures = self.pictures(wave)
        if self.statistics is None:
            deviation, mean = torch.std_mean(pictures, dim=3, keepdim=True)
        else:
            mean, deviation = (part[None, :, :, None].to(pictures) for part in self.statistics)
        return (pictures - mean) / deviation.clamp_min(1e-5)

    def pictures(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, 2, 64, frames) before standardisation."""
        deviation, mean = torch.std_mean(wave, dim=1, keepdim=True)
        mel = self.decibel((wave - mean) / deviation.clamp_min(1e-8))
        return torch.cat([mel, self.dct @ mel], dim=1)


def dct_matrix(size: int) -> Tensor:
    """-> (size, size) orthogonal matrix of the DCT-II; row k is coefficient k."""
    row, column = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    matrix = torch.cos(math.pi / size * (column + 0.5) * row) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def normalise_channels(picture: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, C, H, W) -> (x - mean) / std of each channel."""
    shape = (1, -1, 1, 1)
    return (picture - picture.new_tensor(mean).view(shape)) / picture.new_tensor(std).view(shape)


def _mel_decibel(power: Tensor) -> Tensor:
    """(B, mels, frames) power -> (B, 1, mels, frames) dB re each clip's maximum, not below -80 dB."""
    return _below_maximum(10 * power.clamp_min(1e-10).log10(), 80)[:, None]


def _below_maximum(decibel: Tensor, top_db: float) -> Tensor:
    """(B, bands, frames) -> dB re each clip's maximum, not below -top_db."""
    decibel = decibel - decibel.amax(dim=(1, 2), keepdim=True)
    return decibel.clamp_min(-top_db)


def _min_max(picture: Tensor) -> Tensor:
    """(B, 1, H, W) -> [0, 1] per clip; a constant picture is 0."""
    low, high = torch.aminmax(picture.flatten(1), dim=1)
    shape = (-1, 1, 1, 1)
    return (picture - low.view(shape)) / (high - low).clamp_min(1e-10).view(shape)
