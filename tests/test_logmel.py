"""Log-mel front-ends against the public implementations' numbers, and what they do with odd input."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rales.audio import IcbhiLogMel, M2DLogMel, htk_mel_filters, icbhi_cycle, slaney_mel_filters
from rales.audio.logmel import StandardiseClip

BAND = {"sample_rate_hz": 16000, "fft_samples": 400, "mels": 80, "low_hz": 50, "high_hz": 8000}
FRONTENDS = [M2DLogMel, IcbhiLogMel]


def noise(batch: int, samples: int, seed: int = 0) -> Tensor:
    """Waves of very different levels, as recordings of different devices are."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.logspace(-3, 0, batch)[:, None]
    return 0.3 * levels * torch.randn(batch, samples, generator=generator)


@pytest.fixture(scope="module")
def cycles(golden: Path) -> Tensor:
    """The three golden waves as cycles of 8 s, in the order of the golden file (3, 128000)."""
    waves = np.load(golden / "frontend" / "waveforms.npz")
    names = np.load(golden / "icbhi_frontend" / "icbhi_frontend.npz")["cycle_names"]
    return torch.stack([icbhi_cycle(torch.from_numpy(waves[name])) for name in names])


# M2D


def test_slaney_filters_golden(golden: Path) -> None:
    constants = np.load(golden / "frontend" / "constants.npz")
    filters = slaney_mel_filters(**BAND)
    assert filters.dtype == np.float64
    assert np.abs(filters - constants["mel_basis"]).max() < 1e-8
    assert (filters.max(axis=1) > 0).all()
    window = dict(M2DLogMel().named_buffers())["mel_power.window"]
    assert np.abs(window.numpy() - constants["window"]).max() < 1e-6


@pytest.mark.parametrize("name", ["breath_2p7s", "noise_8s", "clicks_0p2s"])
def test_m2d_golden(golden: Path, name: str) -> None:
    wave = torch.from_numpy(np.load(golden / "frontend" / "waveforms.npz")[name])
    expected = np.load(golden / "frontend" / "logmel.npz")
    logmel = M2DLogMel()(wave[None])
    assert logmel.shape == (1, 1, 80, 1 + wave.numel() // 160)
    assert logmel.dtype == torch.float32
    assert np.abs(logmel[0, 0].numpy() - expected[f"{name}.logmel"]).max() < 5e-4
    assert np.abs((logmel[0, 0].numpy() + 7.1) / 4.2 - expected[f"{name}.normalized"]).max() < 1.2e-4


@settings(deadline=None, max_examples=20)
@given(gain=st.sampled_from([1e-3, 0.1, 0.5, 2.0, 30.0]), seed=st.integers(0, 1000))
def test_a_floor_per_clip_makes_gain_one_number(gain: float, seed: int) -> None:
    wave = noise(3, 8000, seed)
    wave[:, 2000:5000] *= 1e-4  # below either floor
    frontend = M2DLogMel(floor_per_clip=True)
    plain = frontend(wave)
    torch.testing.assert_close(frontend(gain * wave), plain + 2 * np.log(gain), atol=1e-3, rtol=0)
    standardised = StandardiseClip()
    torch.testing.assert_close(standardised(frontend(gain * wave)), standardised(plain), atol=1e-4, rtol=0)
    assert (M2DLogMel()(gain * wave) - M2DLogMel()(wave) - 2 * np.log(gain)).abs().max() > 0.1


def test_a_floor_per_clip_is_that_of_m2d_at_minus_25_decibel() -> None:
    wave = noise(1, 8000)
    wave *= 10 ** (-25 / 20) / wave.square().mean().sqrt()
    torch.testing.assert_close(M2DLogMel(floor_per_clip=True)(wave), M2DLogMel()(wave), atol=1e-4, rtol=0)
    silence = M2DLogMel(floor_per_clip=True)(torch.zeros(2, 3200))
    assert torch.isfinite(silence).all()
    assert not StandardiseClip()(silence).any()


def test_m2d_silence_is_the_floor() -> None:
    logmel = M2DLogMel()(torch.zeros(2, 3200))
    assert torch.allclose(logmel, torch.tensor(2.0**-23).log(), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(201, 5000), batch=st.integers(1, 9))
def test_frames(samples: int, batch: int) -> None:
    for frontend in FRONTENDS:
        logmel = frontend()(noise(batch, samples))
        assert logmel.shape == (batch, 1, 80, 1 + samples // 160)
        assert torch.isfinite(logmel).all()


def test_m2d_of_32_khz() -> None:
    frontend = M2DLogMel(sample_rate_hz=32000, fft_samples=800, hop_samples=320, high_hz=16000, mels=64)
    assert frontend(noise(1, 32000)).shape == (1, 1, 64, 101)


def test_a_tone_is_in_the_band_that_holds_it() -> None:
    wave = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)[None]
    bins_hz = np.arange(201) * 40
    for frontend, filters in ((M2DLogMel(), slaney_mel_filters), (IcbhiLogMel(), htk_mel_filters)):
        band = filters(**BAND)[:, bins_hz == 1000].argmax()
        assert (frontend(wave)[0, 0, :, 5:-5].argmax(dim=0) == int(band)).all()


# ICBHI


def test_htk_filters_golden(golden: Path) -> None:
    constants = np.load(golden / "icbhi_frontend" / "constants.npz")
    filters = htk_mel_filters(**BAND)
    assert np.abs(filters.T - constants["mel_filterbank"]).max() < 5e-5


def test_icbhi_golden(golden: Path, cycles: Tensor) -> None:
    expected = np.load(golden / "icbhi_frontend" / "icbhi_frontend.npz")
    frontend = IcbhiLogMel(scope="batch")
    assert np.abs(frontend.decibel(cycles)[:, 0].numpy() - expected["db"]).max() < 5e-3
    assert np.abs(frontend.minmax(cycles)[:, 0].numpy() - expected["minmax"]).max() < 5e-5
    standardised = frontend(cycles)
    assert standardised.shape == (3, 1, 80, 801)
    assert np.abs(standardised[:, 0].numpy() - expected["standardized_paper"]).max() < 2e-4


def test_batch_scope_depends_on_the_neighbours_and_clip_scope_does_not(cycles: Tensor) -> None:
    batch, clip = IcbhiLogMel(scope="batch"), IcbhiLogMel(scope="clip")
    together, apart = clip(cycles), torch.cat([clip(cycle[None]) for cycle in cycles])
    assert torch.equal(together, apart)
    assert torch.equal(apart, torch.cat([batch(cycle[None]) for cycle in cycles]))
    assert (batch(cycles) - together).abs().max() > 0.1


@pytest.mark.parametrize("frontend", [M2DLogMel(), IcbhiLogMel()], ids=["m2d", "icbhi"])
def test_one_input_one_answer(frontend: torch.nn.Module) -> None:
    waves = noise(11, 8000)
    together = frontend(waves)
    for start, stop in ((0, 1), (3, 5), (4, 11), (10, 11)):
        torch.testing.assert_close(frontend(waves[start:stop]), together[start:stop], rtol=0, atol=1e-6)


def test_clip_scope_fills_zero_to_one(cycles: Tensor) -> None:
    minmax = IcbhiLogMel().minmax(cycles)
    assert (minmax.amin(dim=(1, 2, 3)) == 0).all()
    assert (minmax.amax(dim=(1, 2, 3)) == 1).all()


def test_mean_std_and_fill(cycles: Tensor) -> None:
    frontend = IcbhiLogMel(mean=0.3671, std=0.2391)
    torch.testing.assert_close(frontend(cycles), (frontend.minmax(cycles) - 0.3671) / 0.2391)
    assert frontend.fill == pytest.approx(-0.3671 / 0.2391)
    assert frontend(cycles).min().item() == pytest.approx(frontend.fill, abs=1e-6)
    assert IcbhiLogMel().fill == pytest.approx(-0.3690 / 0.2550)


@pytest.mark.parametrize("scope", ["clip", "batch"])
def test_silence_is_fill(scope: Literal["clip", "batch"]) -> None:
    frontend = IcbhiLogMel(scope=scope)
    silence = frontend(torch.zeros(2, 128000))
    assert torch.allclose(silence, torch.tensor(frontend.fill), rtol=0, atol=1e-6)
    with_sound = frontend(torch.cat([torch.zeros(1, 8000), noise(1, 8000)]))
    assert torch.isfinite(with_sound).all()
    assert torch.allclose(with_sound[0], torch.tensor(frontend.fill), rtol=0, atol=1e-6)


# Both


@pytest.mark.parametrize("frontend", [M2DLogMel(), IcbhiLogMel()], ids=["m2d", "icbhi"])
def test_input_kinds_and_autocast(frontend: torch.nn.Module) -> None:
    waves = noise(3, 16000).half().float()  # values that survive float16
    expected = frontend(waves)
    untouched = waves.clone()
    assert torch.equal(frontend(waves.double()), expected)
    assert torch.equal(frontend(waves.half()), expected)
    strided = torch.stack([waves, -waves], dim=2)[:, :, 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(frontend(strided), expected, rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = frontend(waves)
    assert torch.equal(under_autocast, expected)
    assert torch.equal(waves, untouched)


@pytest.mark.parametrize("make", FRONTENDS)
def test_a_model_cast_to_bfloat16_keeps_an_exact_frontend(make: type[torch.nn.Module]) -> None:
    waves = noise(2, 16000)
    model = torch.nn.Sequential(make()).to(torch.bfloat16)
    assert torch.equal(model(waves), make()(waves))
    assert all(buffer.is_meta for buffer in model.to("meta").buffers())


@pytest.mark.parametrize("make", FRONTENDS)
def test_state_dict_is_empty(make: type[torch.nn.Module]) -> None:
    assert not make().state_dict()


@pytest.mark.parametrize("make", FRONTENDS)
@pytest.mark.parametrize("shape", [(1, 200), (1, 0), (2000,), (1, 1, 2000)])
def test_impossible_waves(make: type[torch.nn.Module], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, N\) with more than 200 samples"):
        make()(torch.zeros(shape))
    assert make()(torch.zeros(1, 201)).shape == (1, 1, 80, 2)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match=r"50 to 8000 Hz was asked for at 8000 Hz; expected .* <= 4000"):
        M2DLogMel(sample_rate_hz=8000)
    with pytest.raises(ValueError, match="0 <= low_hz < high_hz"):
        IcbhiLogMel(low_hz=2000, high_hz=2000)
    with pytest.raises(ValueError, match='scope "file" is unknown'):
        IcbhiLogMel(scope="file")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", FRONTENDS)
def test_gradient_reaches_the_wave(make: type[torch.nn.Module]) -> None:
    waves = noise(2, 8000).requires_grad_()
    weight = torch.linspace(-1, 1, 51)  # a sum would be flat where the two ends of min-max are fixed
    (make()(waves) * weight).sum().backward()
    assert waves.grad is not None
    assert torch.isfinite(waves.grad).all()
    assert (waves.grad.abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("make", FRONTENDS)
def test_exported_graph_takes_any_batch_and_length(make: type[torch.nn.Module]) -> None:
    sizes = ({0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("samples", min=401, max=10**7)},)
    graph = torch.export.export(make(), (noise(6, 8000),), dynamic_shapes=sizes).module()
    for waves in (noise(1, 12345), noise(9, 3200)):
        torch.testing.assert_close(graph(waves), make()(waves), rtol=0, atol=1e-5)


def test_a_clip_standardised_by_itself_is_0_where_silent() -> None:
    """Exactly: the rounding of a mean, over a deviation of nothing, would be another picture in every engine."""
    logmel = M2DLogMel()(torch.stack([torch.zeros(64000), noise(1, 64000)[0]]))
    silent, sounding = StandardiseClip()(logmel)
    assert not silent.any()
    assert sounding.mean().abs() < 1e-5
    assert sounding.std() == pytest.approx(1, abs=1e-4)


def test_bands_between_the_bins_are_refused() -> None:
    with pytest.raises(ValueError, match=r"80 mel bands up to 4000 Hz are narrower than the 40 Hz between FFT bins"):
        IcbhiLogMel(sample_rate_hz=8000, fft_samples=200, hop_samples=80, high_hz=4000)
