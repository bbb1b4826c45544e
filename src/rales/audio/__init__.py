"""Signal functions: read audio files, compute log-mel spectrograms, augment waveforms and spectrograms."""

from rales.audio.io import AudioInfo, fade_edges, icbhi_cycle, read_audio_info, read_waveform, resample_waveform
from rales.audio.logmel import IcbhiLogMel, M2DLogMel, htk_mel_filters, slaney_mel_filters
from rales.audio.spec_augment import mix_logmels, spec_augment, time_warp

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
