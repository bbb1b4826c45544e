"""Cycles cut out of a recording that was faded as a whole, as the code of Patch-Mix and of its descendants has them."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rales.audio import fade_edges, read_audio_info
from rales.data.dataset import wave_settings
from rales.data.waveform_cache import Preparation, read_resampled_segment
from rales.settings import Waveform


def prepare_faded_recordings(audio: Waveform, fade_samples: int) -> Preparation:
    """Settings of the waveform -> preparation of one waveform a cycle, faded where the recording begins and ends."""
    how = {**wave_settings(audio), "fade_samples": fade_samples}
    return Preparation(faded_recording, how, (how["samples"],))


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
