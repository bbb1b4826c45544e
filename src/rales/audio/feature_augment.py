"""Augmentation of batches of spectrograms: masked bands and frames, time warping, mixtures added to the batch."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rales.settings import SpecAugment


def spec_augment(
    logmel: Tensor,
    *,
    frequency_masks: int = 2,
    frequency_width: int = 20,
    time_masks: int = 2,
    time_width: int = 40,
    fill: float | Tensor = 0.0,
    probability: float = 1.0,
    published_gate: bool = False,
    generator: torch.Generator,
) -> Tensor:
    """Mask random frequency bands and time intervals of spectrograms (B, 1, F, T); returns a new tensor.

    Each mask is floor(U * width) wide and starts at floor(U * (size - width)), U uniform in [0, 1). The default widths
    are those of the public code that the paper follows (ilyassmoummad/scl_icbhi2017); the paper's sentence read
    literally swaps them (frequency 40, time 20).

    Parameters
    ----------
    logmel
        Spectrograms (B, 1, F, T).
    frequency_masks, time_masks
        Number of masks of each kind.
    frequency_width, time_width
        Largest width of a mask, in mel bins and in frames.
    fill
        The value of masked places: a number, or one a clip (B,).
    probability
        Probability with which a clip is masked.
    published_gate
        Add the gate of the public code, one draw for the whole batch: masks are applied when 1.0 is greater than a
        normal deviate, so 15.9 % of the batches stay as they are.
    generator
        Source of randomness.
    """
    batch, _, bands, frames = logmel.shape
    masked_bands = _draw_stripes(batch, bands, frequency_masks, frequency_width, generator)  # (B, F)
    masked_frames = _draw_stripes(batch, frames, time_masks, time_width, generator)  # (B, T)
    applied = _draw_uniform((batch,), generator) < probability  # (B,)
    if published_gate:
        applied &= torch.randn((), generator=generator, device=generator.device) < 1.0
    masked_bands = _send_draws(masked_bands & applied[:, None], logmel)[:, None, :, None]
    masked_frames = _send_draws(masked_frames & applied[:, None], logmel)[:, None, None, :]
    masked = masked_bands | masked_frames
    if not isinstance(fill, Tensor):
        return logmel.masked_fill(masked, fill)
    return torch.where(masked, fill.to(logmel.dtype).view(-1, 1, 1, 1), logmel)


def time_warp(logmel: Tensor, *, max_shift_frames: int = 80, generator: torch.Generator) -> Tensor:
    """Warp the time axis of spectrograms (B, 1, F, T): stretched on one side of an anchor frame, squeezed on the other.

    The anchor, uniform in [W, T - 1 - W), moves by a uniform draw in [-W, W); first and last frame stay, and between
    the three points time is linear. SpecAugment (arXiv:1904.08779, section 2; W = 80 there as here, at the same hop of
    10 ms), with linear interpolation where that paper has a spline image warp.

    Parameters
    ----------
    logmel
        Spectrograms (B, 1, F, T).
    max_shift_frames
        W, used up to (T - 1) / 2; 0 returns the input itself.
    generator
        Source of randomness.
    """
    batch, channels, bands, frames = logmel.shape
    shift_frames = min(float(max_shift_frames), (frames - 1) / 2)
    if shift_frames == 0:
        return logmel
    last = frames - 1
    anchor = shift_frames + _draw_uniform((batch, 1), generator) * (last - 2 * shift_frames)
    # clamp: a float32 sum could round onto an end, where one side would have no length
    moved = (anchor + (2 * _draw_uniform((batch, 1), generator) - 1) * shift_frames).clamp(0.01, last - 0.01)
    frame = torch.arange(frames, device=generator.device)  # (T,)
    before = frame * (anchor / moved)
    after = last - (last - frame) * ((last - anchor) / (last - moved))
    source = torch.where(frame < moved, before, after).clamp(0, last)  # (B, T)
    # at the last frame left = last - 1 and weight = 1, so that left + 1 exists
    left = source.floor().clamp(max=last - 1)
    weight = _send_draws((source - left).to(logmel.dtype), logmel)[:, None, None]
    left = _send_draws(left.long(), logmel)[:, None, None]
    shape = (batch, channels, bands, frames)
    # two expanded indices: adding 1 after expanding would write out an index for every element (9 times slower)
    return torch.lerp(logmel.gather(3, left.expand(shape)), logmel.gather(3, (left + 1).expand(shape)), weight)


def simulate_other_device(
    logmel: Tensor, *, gain: float = 0.0, band_limit: float = 0.0, fill: float = 0.0, generator: torch.Generator
) -> Tensor:
    """(B, 1, F, T) -> the same as another stethoscope might have heard it.

    A smooth random gain over frequency is added, normal deviates of size `gain` at six mel bands and straight lines
    between them; with probability `band_limit` everything above a random band of the upper half becomes `fill`, as
    recordings of low sample rates have it. Ours: in ICBHI 2017 devices, rates and patients go together.
    """
    batch, _, bands, _ = logmel.shape
    points = gain * torch.randn((batch, 1, 6), generator=generator, device=generator.device)
    curve = F.interpolate(points, bands, mode="linear", align_corners=True)[..., None]  # (B, 1, F, 1)
    limited = _draw_uniform((batch,), generator) < band_limit
    limit = torch.where(limited, bands * (0.5 + 0.5 * _draw_uniform((batch,), generator)), float(bands))  # (B,)
    above = (torch.arange(bands, device=generator.device) >= limit[:, None])[:, None, :, None]
    return (logmel + _send_draws(curve.to(logmel.dtype), logmel)).masked_fill(_send_draws(above, logmel), fill)


def shift_frames(logmel: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, F, T) -> each clip turned in time by a random number of frames, its end before its beginning (ours)."""
    batch, _, bands, frames = logmel.shape
    shift = (_draw_uniform((batch, 1), generator) * frames).long()
    source = (torch.arange(frames, device=generator.device) - shift) % frames  # (B, T)
    return logmel.gather(3, _send_draws(source, logmel)[:, None, None, :].expand(-1, 1, bands, -1))


def append_mixup(
    picture: Tensor, target: Tensor, *, alpha: float = 0.5, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(B, ...) pictures, (B, classes) targets -> (2 B, ...), (2 B, classes): the batch, and behind it its mixtures.

    One share ~ Beta(alpha, alpha) for the whole batch, partners by a random permutation (LungRN+NL).
    """
    share = float(_draw_beta(1, alpha, generator))
    order = _send_draws(torch.randperm(len(picture), generator=generator), picture)
    return (
        torch.cat([picture, share * picture + (1 - share) * picture[order]]),
        torch.cat([target, share * target + (1 - share) * target[order]]),
    )


def append_class_mixtures(
    picture: Tensor, label: Tensor, *, alpha: float = 0.5, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(B, ...) pictures, (B,) classes -> (B', ...), (B', 4): the batch, and behind it mixtures of classes (LungAttn).

    Normal + crackle, 2 / 3 of the scarcer one; normal + wheeze and crackle + wheeze, each twice with the first partner
    shuffled anew. Every mixture has its own share ~ Beta(alpha, alpha), in the first two pairs at least a half for the
    abnormal one; their targets are mixed alike, crackle + wheeze is "both" outright. A batch of 32 grows to about 53.
    """
    rows = [torch.nonzero(label.cpu() == c).flatten() for c in range(4)]
    pictures, targets = [picture], [F.one_hot(label, 4).float()]
    for first, second, copies, portion, hard in ((0, 1, 1, 2 / 3, False), (0, 2, 2, 1.0, False), (1, 2, 2, 1.0, True)):
        scarcer = min(len(rows[first]), len(rows[second]))
        # 2 / 3 of 3 is 2, whatever binary fractions make of it
        count = int(portion * scarcer + 1e-9)
        partners = rows[second][torch.randperm(len(rows[second]), generator=generator)[:count]].to(label.device)
        for _ in range(copies):
            others = rows[first][torch.randperm(len(rows[first]), generator=generator)[:count]].to(label.device)
            share = _draw_beta(count, alpha, generator).to(label.device)
            if not hard:
                share = torch.maximum(share, 1 - share)
            weight = share.to(picture.dtype).view(-1, *[1] * (picture.ndim - 1))
            pictures.append(weight * picture[partners] + (1 - weight) * picture[others])
            target = torch.zeros(count, 4, device=label.device)
            if hard:
                target[:, 3] = 1
            else:
                target[:, second], target[:, first] = share, 1 - share
            targets.append(target)
    return torch.cat(pictures), torch.cat(targets)


def _draw_beta(count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """-> (count,) draws of Beta(alpha, alpha); torch's own takes no generator, so it seeds one that does."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, size=count)).float()


def mix_logmels(clean: Tensor, noise: Tensor, ratio: float) -> Tensor:
    """Mix two log-mels by power: ln of ratio * noise + (1 - ratio) * clean. Source: nttcslab/m2d, M2D-X.

    Taking the means away first makes the ratio one of loudness above the usual level.

    Parameters
    ----------
    clean, noise
        Log-mels of one shape, each less the mean of its corpus.
    ratio
        Fraction of the noise's power.
    """
    power = clean.exp().mul_(1 - ratio).add_(noise.exp(), alpha=ratio)
    return power.clamp_min_(torch.finfo(power.dtype).eps).log_()


def _draw_stripes(batch: int, size: int, masks: int, max_width: int, generator: torch.Generator) -> Tensor:
    """Sizes -> (batch, size) bool, true inside any of `masks` random stripes."""
    width = (_draw_uniform((batch, masks, 1), generator) * min(max_width, size)).floor()
    start = (_draw_uniform((batch, masks, 1), generator) * (size - width)).floor()
    place = torch.arange(size, device=generator.device)
    return ((place >= start) & (place < start + width)).any(dim=1)


def _send_draws(drawn: Tensor, like: Tensor) -> Tensor:
    """Random numbers -> the same where another tensor is. A copy that is waited for would wait for all the work that a
    GPU has been given before it, so that it idles while the next is prepared."""
    return drawn.to(like.device, non_blocking=True)


def _draw_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Drawn where the generator lives, so that one seed gives the same augmentation on every device."""
    return torch.rand(shape, generator=generator, device=generator.device)


BELOW_ONE = 0.8413  # share of normal deviates below 1, which the published gates compare


def mask_features(
    numbers: SpecAugment, features: Tensor, fill: float | Tensor, generator: torch.Generator, *, gate_each: bool = False
) -> Tensor:
    """(B, 1, F, T) -> the same, masked with `fill` as the numbers say; `gate_each`: a published gate draws for
    every sample, not for the batch."""
    return spec_augment(
        features,
        frequency_masks=numbers.frequency_masks,
        frequency_width=numbers.frequency_width,
        time_masks=numbers.time_masks,
        time_width=numbers.time_width,
        probability=BELOW_ONE if numbers.published_gate and gate_each else 1.0,
        published_gate=numbers.published_gate and not gate_each,
        fill=fill,
        generator=generator,
    )


def keep_features(settings: object, features: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation of the features."""
    return features
