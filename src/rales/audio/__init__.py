"""Signal functions: read audio files, compute log-mel spectrograms, augment waveforms and spectrograms."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rales.audio.io import AudioInfo, fade_edges, icbhi_cycle, read_audio_info, read_waveform, resample_waveform

if TYPE_CHECKING:
    from rales.audio.feature_augment import mix_logmels, spec_augment, time_warp
    from rales.audio.logmel import IcbhiLogMel, M2DLogMel, htk_mel_filters, slaney_mel_filters

__all__ = [
    "AudioInfo",
    "IcbhiLogMel",
    "M2DLogMel",
    "fade_edges",
    "htk_mel_filters",
    "icbhi_cycle",
    "mix_logmels",
    "read_audio_info",
    "read_waveform",
    "resample_waveform",
    "slaney_mel_filters",
    "spec_augment",
    "time_warp",
]
# What computes in torch, whose import takes seconds, is loaded when it is asked for
_IN_TORCH = dict.fromkeys(("IcbhiLogMel", "M2DLogMel", "htk_mel_filters", "slaney_mel_filters"), "rales.audio.logmel")
_IN_TORCH |= dict.fromkeys(("mix_logmels", "spec_augment", "time_warp"), "rales.audio.feature_augment")


def __getattr__(name: str) -> Any:
    if name in _IN_TORCH:
        return getattr(import_module(_IN_TORCH[name]), name)
    raise AttributeError(f"module 'rales.audio' has no attribute {name!r}")
