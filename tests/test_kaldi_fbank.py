"""The filter bank against a frame written out in numpy, against transformers, and its shape."""

import numpy as np
import pytest
import torch

from rales.audio.kaldi_fbank import AUDIOSET_MEAN, AUDIOSET_STD, KaldiFbank, kaldi_mel_filters
from rales.models.named_encoder import declare_torchvision_operators


def waves(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))


def test_shape_of_eight_seconds() -> None:
    assert KaldiFbank()(waves(128_000)).shape == (2, 1, 128, 798)


def test_one_frame_in_numpy() -> None:
    wave = waves(1000)
    frame = wave[1, 320:720].double().numpy()
    frame = frame - frame.mean()
    frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
    frame = frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399))
    power = np.abs(np.fft.fft(frame, 512)[:256]) ** 2
    mel = 1127 * np.log(1 + np.arange(256) * 31.25 / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    wanted = []
    for m in range(128):
        left, centre, right = edges[m : m + 3]
        height = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clip(0)
        wanted.append(np.log(max(float(height @ power), 1.1920929e-07)))
    found = KaldiFbank()(wave)[1, 0, :, 2]
    assert np.abs(found.numpy() - (np.array(wanted) + 4.2677393) / (2 * 4.5689974)).max() < 1e-4


def test_silence_is_the_floor() -> None:
    floor = (np.log(np.finfo(np.float32).eps) - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)
    assert torch.allclose(KaldiFbank()(torch.zeros(1, 800)), torch.tensor(float(floor)))


def test_every_filter_sees_a_bin_but_the_lowest() -> None:
    heights = kaldi_mel_filters(128).sum(axis=1)
    assert (heights[20:] > 0).all()
    assert kaldi_mel_filters(128).shape == (128, 256)


def test_equal_to_transformers() -> None:
    declare_torchvision_operators()
    transformers = pytest.importorskip(
        "transformers", reason="the independent filter bank comes with the extra `bench`"
    )
    extractor = transformers.ASTFeatureExtractor(max_length=798)
    wave = waves(128_000)
    wanted = extractor(list(wave.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    assert (KaldiFbank()(wave)[:, 0].transpose(1, 2) - wanted).abs().max() < 3e-4


def test_a_short_wave_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 399\) was given, expected \(B, N\) with at least 400 samples"):
        KaldiFbank()(torch.zeros(1, 399))
