"""Waveform augmentation of the earlier systems: concatenate, splice, stretch, shift, warp. Training only.

Randomness comes from a numpy generator. RespireNet uses nlpaug for five of them; ours keep its ranges (factors, and the
middle 20 % to 80 % of the clip for all but the vocal tract), with the formulas of the textbooks.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.audio.spectrogram_images import warp_hz
from rales.typing import IntArray, Waveform

# RespireNet's joins: class of the result -> (share, class of the first cycle, class of the second).
JOINS: dict[int, tuple[tuple[float, int, int], ...]] = {
    0: ((1.0, 0, 0),),
    1: ((0.6, 1, 1), (0.2, 1, 0), (0.2, 0, 1)),
    2: ((0.6, 2, 2), (0.2, 2, 0), (0.2, 0, 2)),
    3: ((0.5, 3, 3), (0.2, 1, 2), (0.1, 2, 1), (0.1, 3, 0), (0.1, 0, 3)),
}


def concatenation_pairs(labels: Sequence[int] | IntArray, scale: float, random: np.random.Generator) -> IntArray:
    """(N,) classes -> (n, 3): first cycle, second cycle, class of the two in a row (RespireNet's CBA).

    As many as raise every class to `scale` times the number of normal cycles. A join whose classes have no cycle is
    replaced by one that has; a class that cannot be made stays as it is.
    """
    label = np.asarray(labels)
    rows = [np.flatnonzero(label == c) for c in range(4)]
    pairs = []
    for wanted, joins in JOINS.items():
        possible = [join for join in joins if len(rows[join[1]]) and len(rows[join[2]])]
        missing = round(scale * len(rows[0])) - len(rows[wanted])
        if not possible or missing <= 0:
            continue
        share = np.array([join[0] for join in possible])
        for kind in random.choice(len(possible), size=missing, p=share / share.sum()):
            _, first, second = possible[kind]
            pairs.append((random.choice(rows[first]), random.choice(rows[second]), wanted))
    return np.array(pairs, dtype=np.int64).reshape(-1, 3)


def domain_pairs(
    labels: Sequence[int] | IntArray,
    domains: Sequence[str] | NDArray[np.object_],
    wanted: Sequence[int] | IntArray,
    random: np.random.Generator,
) -> IntArray:
    """(N,) classes and devices, (n,) wanted classes -> (n, 2): cycles of two devices whose union is the wanted class.

    Crackles and wheezes add up (classes as two bits). A class that no two devices can make gives -1, -1. Part of our
    RECONSTRUCTION of Wang & Wang; draw `wanted` inversely to the class frequencies for a balanced epoch.
    """
    label, domain = np.asarray(labels), np.asarray(domains)
    pairs = []
    for target in np.asarray(wanted):
        chosen = (-1, -1)
        for first in random.permutation(np.flatnonzero((label | target) == target)):
            seconds = np.flatnonzero(((label | label[first]) == target) & (domain != domain[first]))
            if len(seconds):
                chosen = (int(first), int(random.choice(seconds)))
                break
        pairs.append(chosen)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def splice_waveforms(first: Waveform, second: Waveform, ratio: float, fade_samples: int) -> Waveform:
    """(N,), (M,) -> the first `ratio` of one and the last 1 - ratio of the other, with a linear cross-fade between.

    RECONSTRUCTION of Wang & Wang: ratio ~ U(0.3, 0.7), 50 ms (200 samples at 4 kHz).
    """
    head, tail = first[: max(1, round(ratio * first.size))], second[round(ratio * second.size) :]
    fade_samples = min(fade_samples, head.size, tail.size)
    rising = np.linspace(0, 1, fade_samples, dtype=np.float32)
    middle = head[head.size - fade_samples :] * (1 - rising) + tail[:fade_samples] * rising
    return np.concatenate([head[: head.size - fade_samples], middle, tail[fade_samples:]])


def augment_one_of_five(wave: Waveform, rate_hz: int, random: np.random.Generator) -> Waveform:
    """(N,) -> (M,): noise, speed, loudness, vocal tract or pitch, each as likely (RespireNet).

    Speed 0.5 to 2 changes the length, so the caller pads again. Noise has the standard deviation 1 / sqrt(length of the
    middle), loudness 0.5 to 2, pitch -1 to 3 semitones, the vocal tract's alpha 0.9 to 1.1 with nlpaug's corner of
    4800 Hz brought down to 0.6 of half the rate (at 4 kHz it lies outside).
    """
    begin, end = int(0.2 * wave.size), int(0.8 * wave.size)
    middle = wave[begin:end]
    kind = random.integers(5)
    if kind == 0:
        changed = middle + np.float32(random.standard_normal(middle.size) / max(middle.size, 1) ** 0.5)
    elif kind == 1:
        changed = stretch_time(torch.from_numpy(middle.copy())[None], random.uniform(0.5, 2))[0].numpy()
    elif kind == 2:
        changed = middle * np.float32(random.uniform(0.5, 2))
    elif kind == 3:
        corner_hz = min(4800.0, 0.6 * rate_hz / 2)
        whole = torch.from_numpy(wave.copy())[None]
        return np.asarray(warp_vocal_tract(whole, rate_hz, random.uniform(0.9, 1.1), corner_hz)[0].numpy())
    else:
        changed = shift_pitch(torch.from_numpy(middle.copy())[None], random.uniform(-1, 3))[0].numpy()
    return np.concatenate([wave[:begin], changed, wave[end:]]).astype(np.float32)


def shift_circularly(wave: Tensor, *, probability: float = 0.5, generator: torch.Generator) -> Tensor:
    """(B, N) -> (B, N): each clip, with a probability, turned round by its own uniform number of samples."""
    batch, samples = wave.shape
    shift = (torch.rand(batch, generator=generator) * samples).long()
    shift[torch.rand(batch, generator=generator) >= probability] = 0
    place = (torch.arange(samples) - shift[:, None]) % samples
    return wave.gather(1, place.to(wave.device, non_blocking=True))


def stretch_time(wave: Tensor, rate: float, fft_samples: int = 512) -> Tensor:
    """(B, N) -> (B, about N / rate) at the same pitch: a phase vocoder with a hop of a quarter window."""
    spectrum, window = _vocoder_stft(wave, fft_samples)
    frames, magnitude = spectrum.shape[2], spectrum.abs()
    time = torch.arange(0, frames, rate, dtype=torch.float64, device=wave.device)
    left = time.long().clamp(max=frames - 1)
    right = (left + 1).clamp(max=frames - 1)
    level = torch.lerp(magnitude[..., left], magnitude[..., right], (time - left).to(wave.dtype))
    length = max(1, round(wave.shape[-1] / rate))
    return _from_advance(level, spectrum.angle()[..., left], _phase_advance(spectrum)[..., left], window, length)


def shift_pitch(wave: Tensor, semitones: float) -> Tensor:
    """(B, N) -> (B, N) higher by so many semitones: stretched, then resampled (band-limited) to its old length."""
    longer = stretch_time(wave, 2 ** (-semitones / 12))
    samples = wave.shape[-1]
    spectrum = torch.fft.rfft(longer)[..., : samples // 2 + 1]
    shorter: Tensor = torch.fft.irfft(spectrum, n=samples) * (samples / longer.shape[-1])
    return shorter


def warp_vocal_tract(wave: Tensor, rate_hz: int, alpha: float, corner_hz: float, fft_samples: int = 512) -> Tensor:
    """(B, N) -> (B, N): frequencies moved as `warp_hz` says.

    Each STFT bin takes its magnitude from the place that moves onto it, and turns on from frame to frame faster or
    slower by the ratio of the two frequencies (nlpaug leaves the phases as they were, which smears tones).
    """
    spectrum, window = _vocoder_stft(wave, fft_samples)
    bins = spectrum.shape[1]
    places_hz = np.linspace(0, rate_hz / 2, bins)
    origin = torch.from_numpy(np.interp(places_hz, warp_hz(places_hz, alpha, corner_hz, rate_hz / 2), np.arange(bins)))
    left, nearest = origin.long().clamp(max=bins - 2), origin.round().long()
    level = torch.lerp(spectrum.abs()[:, left], spectrum.abs()[:, left + 1], (origin - left).to(wave.dtype)[:, None])
    faster = torch.arange(bins, dtype=torch.float64) / origin.clamp_min(1e-9)
    faster[0] = 1
    advance = _phase_advance(spectrum)[:, nearest] * faster[:, None]
    return _from_advance(level, spectrum.angle()[:, nearest], advance, window, wave.shape[-1])


def _vocoder_stft(wave: Tensor, fft_samples: int) -> tuple[Tensor, Tensor]:
    """(B, N) -> (B, bins, frames) with a hop of a quarter window, and the window: the largest of at most that length
    (a multiple of 4) whose reflected edges the wave allows."""
    fft_samples = max(4, min(fft_samples, (2 * wave.shape[-1] - 2) // 4 * 4))
    window = torch.hann_window(fft_samples, dtype=wave.dtype, device=wave.device)
    mode = "reflect" if wave.shape[-1] > fft_samples // 2 else "constant"
    return torch.stft(wave, fft_samples, fft_samples // 4, window=window, pad_mode=mode, return_complex=True), window


def _phase_advance(spectrum: Tensor) -> Tensor:
    """(B, bins, frames) -> (B, bins, frames) float64: by how much each bin's phase turns until the next frame.

    A bin's own frequency turns it by a known number of half circles; what was measured beyond is less than half a turn.
    """
    phase = spectrum.angle().double()
    expected = (torch.arange(spectrum.shape[1], device=spectrum.device) * (torch.pi / 2))[:, None]  # hop: a quarter
    beyond = phase.diff(dim=2, append=phase[..., -1:]) - expected
    return beyond - 2 * torch.pi * (beyond / (2 * torch.pi)).round() + expected


def _from_advance(level: Tensor, phase: Tensor, advance: Tensor, window: Tensor, length: int) -> Tensor:
    """Magnitudes, phases of the middle one, turns from each frame to the next, all (B, bins, T) -> wave (B, length).

    Phases add up from the middle frame to both ends: in the first frame, half of it reflected, neighbouring bins of one
    tone do not fit together, and would not all the way.
    """
    turned = torch.cat([torch.zeros_like(advance[..., :1]), advance[..., :-1]], dim=2).cumsum(dim=2)
    middle = turned.shape[2] // 2
    phases = phase[..., middle, None].double() + turned - turned[..., middle, None]
    spectrum = torch.polar(level.double(), phases).to(torch.promote_types(level.dtype, torch.complex32))
    return torch.istft(spectrum, len(window), len(window) // 4, window=window, length=length)
