"""Pure signal functions: files to waves, waves to log-mels, augmentation."""

from rales.audio.augment import mix_logmels, spec_augment, time_warp
from rales.audio.logmel import IcbhiLogMel, M2DLogMel, htk_mel_filters, slaney_mel_filters
from rales.audio.wave import WaveInfo, fade, icbhi_cycle, info, read, resample

__all__ = [
    "IcbhiLogMel",
    "M2DLogMel",
    "WaveInfo",
    "fade",
    "htk_mel_filters",
    "icbhi_cycle",
    "info",
    "mix_logmels",
    "read",
    "resample",
    "slaney_mel_filters",
    "spec_augment",
    "time_warp",
]
