"""The front-ends without an FFT: the same pictures, whatever the loudness."""

import numpy as np
import pytest
import torch
from torch import nn

from rales.audio import IcbhiLogMel, M2DLogMel
from rales.export.conv_stft import ConvMelPower, replace_fft


def clips() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 16000, generator=random)
    time_s = torch.arange(16000) / 16000
    noise *= torch.tensor([0.3, 0.01, 1e-4, 1e-4, 0.1, 0.0])[:, None]
    noise[3] += 0.8 * torch.sin(2 * torch.pi * 200 * time_s)  # 80 dB above the noise beside it
    noise[4] *= time_s < 0.3
    return noise


FRONTENDS = {"icbhi": IcbhiLogMel(), "m2d": M2DLogMel(), "floor per clip": M2DLogMel(floor_per_clip=True)}


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_the_same_pictures(frontend: nn.Module) -> None:
    wave = clips()
    expected, found = frontend(wave), replace_fft(frontend)(wave)
    assert expected.shape == found.shape == (6, 1, 80, 101)
    assert (found - expected).abs().max() < 2e-4
    assert (found - expected).abs().mean() < 1e-5
    assert torch.equal(found[5], expected[5])  # silence


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_the_same_pictures_beside_an_offset(frontend: nn.Module) -> None:
    noise = torch.randn(8, 16000, generator=torch.Generator().manual_seed(0))
    wave = torch.tensor([1e-4, 0.05]).repeat(4)[:, None] * noise
    wave += torch.tensor([0.1, 0.3, -0.5, 0.9]).repeat_interleave(2)[:, None]
    assert (replace_fft(frontend)(wave) - frontend(wave)).abs().max() < 5e-5


def test_a_loud_tone_does_not_fill_empty_bands() -> None:
    """Against float64 from start to end, where a tone of 200 Hz leaves next to nothing above 4 kHz."""
    wave = (
        0.9 * torch.sin(2 * torch.pi * 200 * torch.arange(32000) / 16000).double() * torch.hann_window(32000)
    ).float()
    power = IcbhiLogMel().mel_power
    frames = torch.nn.functional.pad(wave[None], (200, 200), mode="reflect")[0].double().unfold(0, 400, 160)
    window = power.window.double()  # of float32, as that of the public implementations
    exact = torch.fft.rfft(frames * window).abs().square() @ power.filters.double().T
    empty = exact < 1e-8  # a third of the picture: the window's own leakage is above it elsewhere
    assert empty.float().mean() > 0.3
    for computed in (power, ConvMelPower(power)):
        found = computed(wave[None])[0].T.double()
        assert (found - exact)[empty].abs().max() < 2e-12
    plain = torch.stft(wave[None], 400, 160, window=window.float(), center=True, return_complex=True)[0].abs().square()
    assert ((power.filters @ plain).T.double() - exact)[empty].abs().max() > 5e-12  # what the float64 is for


def test_the_frontend_itself_stays_as_it_was() -> None:
    frontend = nn.Sequential(M2DLogMel(), nn.Identity())
    before = [type(module) for module in frontend.modules()]
    other = replace_fft(frontend)
    assert [type(module) for module in frontend.modules()] == before
    assert any(isinstance(module, ConvMelPower) for module in other.modules())
    assert np.isfinite(other(torch.zeros(1, 8000)).numpy()).all()
