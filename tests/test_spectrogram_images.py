"""Pictures of the earlier systems: shapes, places of known tones, blank rows by hand, cepstra against scipy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.audio.logmel import htk_mel_filters, slaney_mel_filters
from rales.audio.spectrogram_images import (
    MelAndCepstrum,
    MelDecibel,
    RespireNetImage,
    SquareImage,
    count_blank_rows,
    crop_blank_rows,
    dct_matrix,
    draw_spectrogram,
    lungattn_image,
    lungattn_waveform,
    lungrn_image,
    stft_decibel,
    warp_hz,
    warped_mel_filters,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tone(frequency_hz: float, rate_hz: int, seconds: float = 2) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz).astype(np.float32)


# LungRN+NL and LungAttn


@pytest.mark.parametrize("rate_hz", [4000, 10_000, 44_100])
def test_lungrn_shape_whatever_the_cycle(rate_hz: int) -> None:
    for seconds in (0.2, 1.7):
        picture = lungrn_image(noise(int(seconds * rate_hz)).numpy(), rate_hz)
        assert picture.shape == (1, 128, 128)
        assert (float(picture.min()), float(picture.max())) == (0, 1)


def test_decibels_are_below_the_maximum_and_not_below_80() -> None:
    wave = torch.from_numpy(tone(500, 4000))[None]
    decibel = stft_decibel(wave, 80)
    assert decibel.shape == (1, 41, 201)
    assert (float(decibel.max()), float(decibel.min())) == (0, -80)
    assert decibel[0, :, 100].argmax() == 10  # 500 Hz in bins of 50 Hz
    assert torch.allclose(decibel, stft_decibel(0.01 * wave, 80), atol=0.1)
    assert (stft_decibel(torch.zeros(1, 400), 80) == 0).all()
    assert stft_decibel(torch.ones(1, 30), 80).shape == (1, 41, 1)  # shorter than half a window


def axis(frequency_hz: float) -> float:
    """Height above the bottom on librosa's log axis, in units of 65.4 Hz and octaves."""
    return frequency_hz / 65.4 if frequency_hz <= 65.4 else 1 + math.log2(frequency_hz / 65.4)


@pytest.mark.parametrize(("frequency_hz", "rate_hz"), [(400, 44_100), (2000, 44_100), (400, 4000)])
def test_a_tone_lies_where_the_warped_axis_has_it(frequency_hz: float, rate_hz: int) -> None:
    """Rows span 0 to 11,025 Hz nominally: true at 44.1 kHz, at 4 kHz 2,000 Hz stand there."""
    picture = lungrn_image(tone(frequency_hz, rate_hz), rate_hz)[0]
    nominal_hz = frequency_hz if rate_hz == 44_100 else frequency_hz * 11_025 / 2000
    bin_hz = 50 * (1 if rate_hz == 44_100 else 11_025 / 2000)
    rows = picture[:, 64]
    brightest = torch.nonzero(rows == rows.max()).flatten().double().mean()
    wanted = 128 * (1 - axis(nominal_hz) / axis(11_025))
    half_bin = 128 * (axis(nominal_hz + bin_hz / 2) - axis(nominal_hz - bin_hz / 2)) / axis(11_025) / 2
    assert abs(float(brightest) - wanted) <= half_bin + 2


def test_linear_part_of_the_axis() -> None:
    """Below 65.4 Hz: 11.9 % of the height with 11,025 Hz on top, 10.6 % with 22,050, 16.9 % with 2,000."""
    for top_hz, share in ((11_025, 0.119), (22_050, 0.106), (2000, 0.169)):
        fine = torch.arange(20_000.0)[None, :, None] * (top_hz / 19_999) <= 65.4
        picture = draw_spectrogram(fine.float().expand(1, 20_000, 4), top_hz=top_hz, size=480)
        assert picture.mean().item() == pytest.approx(share, abs=0.003)


def test_the_mean_of_a_4_khz_cycle() -> None:
    """Min-max leaves a constant, which would be the brightest row."""
    wave = noise(8000).numpy()
    kept = lungrn_image(wave, 4000, remove_mean=False)[0]
    assert kept[-8:].mean() > 0.9
    assert lungrn_image(wave, 4000)[0, -8:].mean() < 0.9
    assert abs(float(lungattn_waveform(wave, 4000).mean())) < 1e-6
    assert lungattn_waveform(wave, 4000, remove_mean=False).min() == 0
    assert lungattn_waveform(wave, 44_100).shape == (8000,)


def test_lungattn_shape_and_channels() -> None:
    parts = [noise(6000, seed=seed).numpy() for seed in range(3)]
    picture = lungattn_image(parts[0], parts[1], parts[2], 4000)
    assert picture.shape == (3, 224, 224)
    assert (picture.amin(dim=(1, 2)) == 0).all()
    assert (picture.amax(dim=(1, 2)) == 1).all()
    low = stft_decibel(torch.from_numpy(parts[1])[None], 80)
    assert torch.equal(picture[0], draw_spectrogram(low, top_hz=2000, size=224)[0, 0])
    one = noise(20_000).numpy()
    assert lungattn_image(one, one, one, 44_100).shape == (3, 224, 224)


# RespireNet


def test_respirenet_shape_and_colours() -> None:
    model = RespireNetImage()
    wave = noise(2, 32_000)
    assert MelDecibel()(wave).shape == (2, 1, 64, 251)
    picture = model.picture(wave)
    assert picture.shape == model(wave).shape == (2, 3, 192, 753)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert torch.allclose(model(wave)[:, 1], (picture[:, 1] - 0.1739) / 0.1285, atol=1e-5)
    silent = model(torch.zeros(1, 32_000))
    assert silent.isfinite().all()


def test_a_clip_does_not_depend_on_its_batch() -> None:
    wave = noise(3, 32_000)
    for model in (
        RespireNetImage(),
        MelAndCepstrum(),
        SquareImage("imagenet", sample_rate_hz=4000, fft_samples=256, hop_samples=128, mels=64),
    ):
        assert torch.allclose(model(wave)[1:2], model(wave[1:2]), atol=1e-5)


def test_blank_rows_from_the_top_on() -> None:
    black = torch.zeros(4, 6, 10, dtype=torch.bool)
    black[0, :3] = True
    black[1, 1:4] = True  # not from the top
    black[2, 0, :8] = True  # 80 %
    black[2, 1, :7] = True  # 70 %
    black[3] = True
    assert count_blank_rows(black).tolist() == [3, 0, 1, 6]


@pytest.mark.parametrize("fidelity", ["corrected", "original"])
def test_clipping_cuts_k_rows_or_k_plus_one(fidelity: str) -> None:
    picture = torch.arange(192.0)[None, None, :, None].expand(5, 3, 192, 7)
    blank = torch.tensor([0, 1, 10, 63, 64])
    clipped = crop_blank_rows(picture, blank, 64, fidelity=fidelity)  # type: ignore[arg-type]
    assert clipped.shape == picture.shape
    for row, k in enumerate(blank.tolist()):
        cut = 3 * (k + (fidelity == "original"))
        kept = picture[row : row + 1, :, cut:] if cut < 192 else picture[row : row + 1]
        wanted = F.interpolate(kept, size=(192, 7), mode="bilinear", align_corners=False)
        assert torch.allclose(clipped[row : row + 1], wanted, atol=1e-3)
    assert torch.equal(clipped[4], picture[4])  # all blank: left alone


def test_a_band_limited_clip_loses_its_blank_top() -> None:
    spectrum = torch.fft.rfft(noise(1, 32_000))
    spectrum[:, 4000:] = 0  # nothing above 500 Hz
    wave = torch.fft.irfft(spectrum)
    model = RespireNetImage()
    level = (255 * (1 + model.decibel(wave)[:, 0] / 80)).long().flip(1)  # its lowest value is -80 dB
    blank = int(count_blank_rows(model.black[level]))
    assert 10 < blank < 50
    clipped, colour = model.picture(wave), model.colours[level].permute(0, 3, 1, 2)
    large = F.interpolate(colour, scale_factor=3, mode="bilinear", align_corners=False)
    wanted = F.interpolate(large[:, :, 3 * blank :], size=(192, 753), mode="bilinear", align_corners=False)
    assert torch.allclose(clipped, wanted, atol=1e-4)


# Squares, warps, cepstra


def test_square_pictures() -> None:
    wang = SquareImage("imagenet", sample_rate_hz=4000, fft_samples=256, hop_samples=128, mels=64)(noise(2, 32_000))
    assert wang.shape == (2, 3, 224, 224)
    assert wang[:, 0].min() == pytest.approx(-0.485 / 0.229, abs=1e-5)
    nguyen = SquareImage("standardised", sample_rate_hz=16_000, fft_samples=1024, hop_samples=512, mels=128)
    picture = nguyen(noise(2, 128_000))
    assert picture.shape == (2, 3, 224, 224)
    assert torch.equal(picture[:, 0], picture[:, 2])
    assert picture.mean(dim=(1, 2, 3)).abs().max() < 1e-4
    assert picture[:, 0].std(dim=(1, 2)) == pytest.approx([1, 1], abs=1e-3)


def test_no_mel_filter_of_the_default_is_empty() -> None:
    """16 kHz, 1024, 128 bands of 50 to 2000 Hz."""
    filters = htk_mel_filters(sample_rate_hz=16_000, fft_samples=1024, mels=128, low_hz=50, high_hz=2000)
    assert (filters.sum(axis=1) > 0).all()


def test_a_warp_of_one_changes_nothing() -> None:
    nguyen = SquareImage("standardised", sample_rate_hz=16_000, fft_samples=1024, hop_samples=512, mels=128)
    wave = noise(2, 16_000)
    same = nguyen(wave, torch.tensor([[1.0, 3500.0], [1.0, 3200.0]]))
    assert torch.allclose(nguyen(wave), same, atol=1e-3)
    plain = htk_mel_filters(sample_rate_hz=16_000, fft_samples=1024, mels=128, low_hz=50, high_hz=2000)
    assert np.abs(warped_mel_filters(1.0, 3500, 16_000, 1024, 128, 50, 2000).numpy() - plain).max() < 1e-5
    assert not torch.allclose(nguyen(wave), nguyen(wave, torch.tensor([[0.9, 3500.0], [1.1, 3500.0]])), atol=0.1)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.9, 1.1), st.floats(3200, 3800))
def test_the_warp_is_linear_to_its_corner_and_keeps_the_ends(alpha: float, corner_hz: float) -> None:
    corner = corner_hz * min(alpha, 1) / alpha
    places = np.array([0.0, 100.0, corner, 8000.0])
    assert warp_hz(places, alpha, corner_hz, 8000) == pytest.approx([0, 100 * alpha, corner_hz * min(alpha, 1), 8000])
    fine = warp_hz(np.linspace(0, 8000, 500), alpha, corner_hz, 8000)
    assert (np.diff(fine) > 0).all()


def test_cepstrum_is_scipys_dct_and_the_matrix_is_orthogonal() -> None:
    from scipy.fft import dct

    matrix = dct_matrix(64)
    assert torch.allclose(matrix @ matrix.T, torch.eye(64), atol=1e-5)
    pictures = MelAndCepstrum().pictures(noise(1, 32_000))
    assert pictures.shape == (1, 2, 64, 251)
    wanted = dct(pictures[0, 0].double().numpy(), type=2, axis=0, norm="ortho")
    assert np.abs(pictures[0, 1].numpy() - wanted).max() < 2e-3


def test_given_row_statistics_are_used() -> None:
    wave = noise(4, 8000)
    model = MelAndCepstrum()
    deviation, mean = torch.std_mean(model.pictures(wave), dim=(0, 3))
    fitted = MelAndCepstrum(torch.stack([mean, deviation]))(wave)
    assert fitted.mean(dim=(0, 3)).abs().max() < 1e-3
    assert fitted.std(dim=(0, 3)).flatten() == pytest.approx(torch.ones(128), abs=1e-3)


def test_mel_decibels_in_numpy() -> None:
    wave = noise(1, 4000)
    padded = np.pad(wave[0].double().numpy(), 128, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    frames = np.stack([padded[i : i + 256] * window for i in range(0, padded.size - 255, 128)], axis=1)
    power = np.abs(np.fft.rfft(frames, axis=0)) ** 2
    mel = slaney_mel_filters(sample_rate_hz=4000, fft_samples=256, mels=64, low_hz=50, high_hz=2000) @ power
    decibel = 10 * np.log10(np.maximum(mel, 1e-10))
    wanted = np.maximum(decibel - decibel.max(), -80)
    assert np.abs(MelDecibel()(wave)[0, 0].numpy() - wanted).max() < 1e-3
