"""Reading, resampling, fading and padding waves: exactness, and a sentence for every bad file."""

import csv
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rales.audio import fade_edges, icbhi_cycle, read_audio_info, read_waveform, resample_waveform
from rales.audio.io import read_blocks
from rales.audio.open_audio import open_recording


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).uniform(-0.5, 0.5, samples)).astype(np.float32)


def saved(path: Path, wave: NDArray[Any], rate_hz: int = 8000, subtype: str = "PCM_16", format: str = "WAV") -> Path:
    soundfile.write(path, wave, rate_hz, subtype=subtype, format=format)
    return path


# read


@pytest.mark.parametrize(
    ("format", "subtype", "bits", "tolerance"),
    [
        ("WAV", "PCM_U8", 8, 2**-7),
        ("WAV", "PCM_16", 16, 2**-15),
        ("WAV", "PCM_24", 24, 2**-23),
        ("WAV", "PCM_32", 32, 2**-24),
        ("WAV", "FLOAT", 32, 0),
        ("WAV", "DOUBLE", 64, 0),
        ("RF64", "PCM_16", 16, 2**-15),
        ("FLAC", "PCM_16", 16, 2**-15),
        ("FLAC", "PCM_24", 24, 2**-23),
        ("AIFF", "PCM_16", 16, 2**-15),
    ],
)
def test_formats_without_loss(tmp_path: Path, format: str, subtype: str, bits: int, tolerance: float) -> None:
    wave = noise(8001)
    path = saved(tmp_path / "recording", wave, 44100, subtype, format)
    found, rate_hz = read_waveform(path)
    assert rate_hz == 44100
    assert found.dtype == np.float32
    assert found.shape == (8001,)
    assert np.abs(found - wave).max() <= tolerance
    about = read_audio_info(str(path))
    assert (about.rate_hz, about.frames, about.channels, about.bits) == (44100, 8001, 1, bits)
    assert about.duration_s == pytest.approx(8001 / 44100)


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_formats_with_loss(tmp_path: Path, format: str, subtype: str) -> None:
    wave = (0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)).astype(np.float32)
    path = saved(tmp_path / "recording", wave, 16000, subtype, format)
    found, rate_hz = read_waveform(path)
    assert (rate_hz, found.size) == (16000, 32000)
    assert np.abs(found - wave)[1000:-1000].max() < 0.02
    assert read_audio_info(path).bits == 0


def test_24_bit_values_are_exact(tmp_path: Path) -> None:
    values = np.array([0, 1, -1, 255, 256, -256, 65537, 8388607, -8388608], dtype=np.int32)
    path = saved(tmp_path / "a.wav", values << 8, subtype="PCM_24")
    assert (read_waveform(path)[0].astype(np.float64) * 2**23 == values).all()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_whole_numbers_are_those_of_libsndfile(tmp_path: Path, form: str, subtype: str) -> None:
    """The ends of the scale, and every byte in two channels: whole, a stretch, and blocks; a byte of padding behind."""
    random = np.random.default_rng(0)
    values = random.integers(-(2**31), 2**31, (1001, 2), dtype=np.int32)
    values[:3, 0] = (-(2**31), 2**31 - 1, 0)
    path = saved(tmp_path / "a.wav", values, subtype=subtype, format=form)
    expected = soundfile.read(path, dtype="float32")[0]
    assert np.array_equal(np.concatenate([block for block, _ in read_blocks(path, 0.01)]), expected)
    with open_recording(path) as found:
        assert found.samples_at is not None  # this is about the way past libsndfile
        assert np.array_equal(found.frames(500, 703), expected[500:703])
        assert np.array_equal(found.frames(990, 2000), expected[990:])
    assert np.array_equal(read_waveform(path)[0], expected.mean(axis=1))


@pytest.mark.parametrize(("form", "endian"), [("AIFF", "FILE"), ("WAV", "BIG"), ("W64", "FILE"), ("RF64", "FILE")])
def test_other_whole_numbers_are_left_to_libsndfile(tmp_path: Path, form: str, endian: str) -> None:
    values = np.random.default_rng(0).integers(-(2**31), 2**31, 1001, dtype=np.int32)
    path = tmp_path / "a.wav"
    soundfile.write(path, values, 4000, subtype="PCM_24", format=form, endian=endian)
    with open_recording(path) as found:
        assert found.samples_at is None
    assert np.array_equal(read_waveform(path)[0], soundfile.read(path, dtype="float32")[0])


def test_24_bits_that_stand_in_32(tmp_path: Path) -> None:
    """A header of 4 bytes a sample of which 24 bits count, as some recorders write."""
    values = np.random.default_rng(0).integers(-(2**23), 2**23, 1001, dtype=np.int32) << 8
    path = saved(tmp_path / "a.wav", values, subtype="PCM_32")
    content = bytearray(path.read_bytes())
    content[34:36] = (24).to_bytes(2, "little")
    path.write_bytes(content)
    assert np.array_equal(read_waveform(path)[0], soundfile.read(path, dtype="float32")[0])


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = noise(1000, seed=1), noise(1000, seed=2)
    path = saved(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_waveform(path)[0], (left + right) / 2, atol=1e-7)
    assert read_audio_info(path).channels == 2


@settings(deadline=None, max_examples=60)
@given(start=st.floats(0, 0.99), length=st.floats(0.001, 2), format=st.sampled_from(["WAV", "FLAC"]))
def test_segment_is_int_of_seconds_times_rate(
    tmp_path_factory: pytest.TempPathFactory, start: float, length: float, format: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"segment.{format}"
    if not path.exists():
        saved(path, noise(10000), 10000, format=format)
    whole = read_waveform(path)[0]
    begin, end = int(start * 10000), min(int((start + length) * 10000), 10000)
    if begin < end:
        assert (read_waveform(path, start, start + length)[0] == whole[begin:end]).all()
    assert (read_waveform(path, start)[0] == whole[begin:]).all()


def test_end_past_the_last_frame_is_clipped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", noise(8000))
    assert read_waveform(path, 0.5, 1.00013)[0].size == 4000
    assert read_waveform(path, None, math.inf)[0].size == 8000


@pytest.mark.parametrize(
    ("start_s", "end_s", "sentence"),
    [
        (1.0, 2.0, "starts past the end of the recording, which is 1.000 s long"),
        (0.5, 0.5, "expected 0 <= start < end"),
        (0.5, 0.4, "expected 0 <= start < end"),
        (-0.1, 0.4, "expected 0 <= start < end"),
        (math.nan, 0.4, "expected 0 <= start < end"),
        (0.1, math.nan, "expected 0 <= start < end"),
        (0.5, 0.50001, "holds no sample at 8000 Hz"),
    ],
)
def test_impossible_segments(tmp_path: Path, start_s: float, end_s: float, sentence: str) -> None:
    path = saved(tmp_path / "a.wav", noise(8000))
    with pytest.raises(ValueError, match=f"a.wav: the segment {start_s} s .*{sentence}"):
        read_waveform(path, start_s, end_s)


def test_missing_file(tmp_path: Path) -> None:
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
            reader(tmp_path / "gone.wav")


@pytest.mark.parametrize("content", [b"0.1\t0.9\t0\t1\n" * 50, b"", b"RIFF", b"RIFF\0\0\0\0WAVEdata", bytes(1000)])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.raw"])
def test_not_audio(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=rf"{name}: not a readable audio file"):
            reader(tmp_path / name)


def test_folder_is_not_audio(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a readable audio file"):
        read_waveform(tmp_path)


def with_sizes(path: Path, data_bytes: int, riff_bytes: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", data_bytes)
    if riff_bytes is not None:
        content[4:8] = struct.pack("<I", riff_bytes)
    path.write_bytes(content)


@pytest.mark.parametrize("behind", [b"", b"LIST\x04\0\0\0INFO"])
def test_zero_samples(tmp_path: Path, behind: bytes) -> None:
    path = saved(tmp_path / "a.wav", noise(0))
    path.write_bytes(path.read_bytes() + behind)
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.wav: holds no samples"):
            reader(path)


@pytest.mark.parametrize("riff_bytes", [None, 0, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("data_bytes", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_streamed_wav_is_read_to_its_end(tmp_path: Path, data_bytes: int, riff_bytes: int | None, subtype: str) -> None:
    path = saved(tmp_path / "a.wav", noise(8000), subtype=subtype)
    expected = read_waveform(path)[0]
    with_sizes(path, data_bytes, riff_bytes)
    assert (read_waveform(path)[0] == expected).all()
    assert (read_waveform(path, 0.25, 0.5)[0] == expected[2000:4000]).all()
    assert read_audio_info(path).frames == 8000


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16")]
)
def test_truncated_wav(tmp_path: Path, format: str, subtype: str) -> None:
    path = saved(tmp_path / "a.wav", noise(8000), subtype=subtype, format=format)
    path.write_bytes(path.read_bytes()[:-2001])
    for reader in (read_waveform, read_audio_info):
        with pytest.raises(ValueError, match=r"a\.wav: truncated, its header promises \d+ bytes of sound .* holds \d+"):
            reader(path)


def test_chunks_around_the_sound(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", noise(8000))
    expected = read_waveform(path)[0]
    content = path.read_bytes()
    at = content.index(b"data")
    odd = b"note\x03\0\0\0abc\0"  # a chunk of odd length is padded to an even one
    path.write_bytes(content[:at] + odd + content[at:] + odd)
    assert (read_waveform(path)[0] == expected).all()


def test_truncated_flac(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.flac", noise(80000), format="FLAC")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.flac: .*truncated"):
        read_waveform(path)
    with pytest.raises(ValueError, match=r"a\.flac: .*truncated"):
        read_waveform(path, 9, 9.5)
    assert read_waveform(path, 1, 2)[0].size == 8000  # what is there can be had


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.flac", noise(8000), format="FLAC")
    expected = read_waveform(path)[0]
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36-bit number of samples in STREAMINFO
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert (read_waveform(path)[0] == expected).all()
    assert read_audio_info(path).frames == 8000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    wave = noise(8000)
    wave[[6000, 7000]] = bad
    path = saved(tmp_path / "a.wav", wave, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav: 2 of 8000 samples are NaN or infinite, the first at 0\.750000 s"):
        read_waveform(path)
    with pytest.raises(ValueError, match=r"1 of 1000 samples .* first at 0\.875000 s"):
        read_waveform(path, 0.875)
    assert read_waveform(path, 0, 0.75)[0].size == 6000


def test_real_recordings_have_the_length_of_the_manifest(shared_data: Path) -> None:
    with (shared_data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {(row["folder"], row["sample_rate_hz"], row["bits"]): row for row in rows}
    assert len(kinds) >= 4
    for row in kinds.values():
        path = shared_data / row["folder"] / row["file"]
        wave, rate_hz = read_waveform(path)
        about = read_audio_info(path)
        assert rate_hz == about.rate_hz == int(row["sample_rate_hz"])
        assert about.bits == int(row["bits"])
        assert wave.size == about.frames
        assert about.duration_s == pytest.approx(float(row["duration_s"]), abs=1e-3)
        assert 0 < np.abs(wave).max() <= 1
        cycle = icbhi_cycle(resample_waveform(read_waveform(path, 0.5, 3.2)[0], rate_hz))
        assert cycle.shape == (128000,)
        assert np.isfinite(cycle).all()


# resample


@pytest.mark.parametrize("method", ["soxr", "sinc"])
@pytest.mark.parametrize("rate_hz", [4000, 8000, 10000, 11025, 22050, 44100, 48000])
def test_a_sine_keeps_its_amplitude_and_frequency(rate_hz: int, method: Any) -> None:
    hertz, amplitude = 1234.5, 0.4
    wave = (amplitude * np.sin(2 * np.pi * hertz * np.arange(2 * rate_hz) / rate_hz)).astype(np.float32)
    resampled = resample_waveform(wave, rate_hz, 16000, method)
    assert resampled.dtype == np.float32
    assert resampled.shape == (32000,)
    expected = amplitude * np.sin(2 * np.pi * hertz * np.arange(32000) / 16000)
    assert np.abs(resampled - expected)[1000:-1000].max() < (1e-3 if method == "soxr" else 1e-2)


@pytest.mark.parametrize("rate_hz", [22050, 44100, 48000])
def test_what_lies_above_the_new_half_rate_is_removed(rate_hz: int) -> None:
    wave = np.sin(2 * np.pi * 10000 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    assert np.abs(resample_waveform(wave, rate_hz)[500:-500]).max() < 1e-4
    assert np.abs(resample_waveform(wave, rate_hz, method="sinc")[500:-500]).max() < 0.02


def test_methods_agree_in_band() -> None:
    rng = np.random.default_rng(5)
    seconds = np.arange(44100) / 44100
    tones = zip(rng.uniform(60, 5000, 20), rng.uniform(0, 6, 20), strict=True)
    wave = sum(0.04 * np.sin(2 * np.pi * hertz * seconds + phase) for hertz, phase in tones)
    difference = resample_waveform(wave, 44100) - resample_waveform(wave, 44100, method="sinc")
    assert np.abs(difference)[500:-500].max() < 5e-3


@settings(deadline=None, max_examples=60)
@given(
    rate_hz=st.sampled_from([4000, 8000, 10000, 11025, 22050, 32000, 44100, 48000, 15999]),
    to_hz=st.sampled_from([4000, 16000, 22050]),
    samples=st.integers(1, 700),
)
def test_sinc_is_the_published_formula(rate_hz: int, to_hz: int, samples: int) -> None:
    wave = noise(samples, seed=samples)
    resampled = resample_waveform(wave, rate_hz, to_hz, "sinc")
    if rate_hz == to_hz:
        assert resampled is wave
        return
    common = math.gcd(rate_hz, to_hz)
    old, new = rate_hz // common, to_hz // common
    assert resampled.shape == (math.ceil(new * samples / old),)
    base = min(old, new) * 0.99
    # output j at time j / new is the windowed sum over all inputs n at time n / old
    t = (np.arange(samples)[None] / old - np.arange(resampled.size)[:, None] / new) * base
    kernel = np.sinc(t) * np.cos(np.clip(t, -6, 6) * np.pi / 12) ** 2 * base / old
    np.testing.assert_allclose(resampled, kernel @ wave.astype(np.float64), atol=2e-6)


def test_resample_of_equal_rates_and_bad_arguments() -> None:
    wave = noise(100)
    assert resample_waveform(wave, 16000) is wave
    with pytest.raises(ValueError, match='"linear" is unknown'):
        resample_waveform(wave, 8000, 16000, "linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0 Hz to 16000 Hz"):
        resample_waveform(wave, 0)


# fade and icbhi_cycle


def test_fade_is_linear_and_leaves_its_input_alone() -> None:
    wave = np.ones(5000, dtype=np.float32)
    faded = fade_edges(wave, 1000)
    np.testing.assert_allclose(faded[:1000], np.linspace(0, 1, 1000), atol=1e-7)
    np.testing.assert_allclose(faded[-1000:], np.linspace(1, 0, 1000), atol=1e-7)
    assert (faded[1000:-1000] == 1).all()
    assert (wave == 1).all()
    assert (fade_edges(wave, into=False)[:4000] == 1).all()
    assert (fade_edges(wave, out=False)[1000:] == 1).all()
    assert (fade_edges(wave, 0) == 1).all()


def test_fade_of_waves_shorter_than_the_ramps() -> None:
    ramp = np.linspace(0, 1, 1000)
    np.testing.assert_allclose(fade_edges(np.ones(1000)), ramp * ramp[::-1], atol=1e-7)
    expected = np.ones(1500)
    expected[:1000] *= ramp
    expected[-1000:] *= ramp[::-1]
    np.testing.assert_allclose(fade_edges(np.ones(1500)), expected, atol=1e-7)
    short = np.linspace(0, 1, 30)
    np.testing.assert_allclose(fade_edges(np.ones(30)), short * short[::-1], atol=1e-7)


def test_cycle_golden(golden: Path) -> None:
    expected = np.load(golden / "icbhi_frontend" / "icbhi_frontend.npz")
    waves = np.load(golden / "frontend" / "waveforms.npz")
    for name, padded in zip(expected["cycle_names"], expected["padded_waveform"], strict=True):
        assert np.abs(icbhi_cycle(waves[name]) - padded).max() < 1e-6


def test_a_long_cycle_keeps_its_beginning_without_a_new_fade() -> None:
    cycle = icbhi_cycle(np.ones(128001, dtype=np.float32))
    assert cycle.shape == (128000,)
    assert cycle[0] == 0
    # the fade-out of the whole cycle is cut off one sample before its end
    np.testing.assert_allclose(cycle[-999:], np.linspace(1, 0, 1000)[:-1], atol=1e-7)


def test_a_cycle_of_exactly_the_length_is_faded_out_twice() -> None:
    cycle = icbhi_cycle(np.ones(128000, dtype=np.float32))
    np.testing.assert_allclose(cycle[-1000:], np.linspace(1, 0, 1000) ** 2, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 9000), samples=st.sampled_from([3200, 4801]), fade_samples=st.sampled_from([0, 10, 1000]))
def test_repeated_cycle_is_periodic(length: int, samples: int, fade_samples: int) -> None:
    wave = noise(length, seed=length)
    cycle = icbhi_cycle(wave, samples, fade_samples=fade_samples)
    assert cycle.shape == (samples,)
    faded = fade_edges(wave, fade_samples)
    untouched = np.arange(samples if length > samples else max(samples - fade_samples, 0))
    assert (cycle[untouched] == faded[untouched % length]).all()
    if length <= samples and fade_samples > 1:
        assert cycle[-1] == 0


@pytest.mark.parametrize("length", [4801, 4800, 3201, 50])
def test_zero_padding_is_in_the_middle_of_silence(length: int) -> None:
    wave = noise(length)
    cycle = icbhi_cycle(wave, 4801, pad="zero")
    before = (4801 - length) // 2
    assert cycle.shape == (4801,)
    assert (cycle[before : before + length] == fade_edges(wave)).all()
    assert not cycle[:before].any()
    assert not cycle[before + length :].any()


def test_a_tensor_gives_the_same_tensor() -> None:
    wave = noise(5000)
    for tensor in (torch.from_numpy(wave), torch.from_numpy(np.repeat(wave, 2))[::2].requires_grad_()):
        cycle = icbhi_cycle(tensor)
        assert isinstance(cycle, torch.Tensor)
        assert cycle.dtype == torch.float32
        assert (cycle.numpy() == icbhi_cycle(wave)).all()
    assert (wave == noise(5000)).all()
    assert icbhi_cycle(torch.from_numpy(wave).half()).dtype == torch.float32
    assert icbhi_cycle(wave.astype(np.float64)).dtype == np.float32


def test_impossible_cycles() -> None:
    for wave in (np.zeros(0), np.zeros((1, 100)), torch.zeros(0), torch.zeros(2, 100)):
        with pytest.raises(ValueError, match=r"expected one channel of at least one sample"):
            icbhi_cycle(wave)
    with pytest.raises(ValueError, match='padding "reflect" is unknown'):
        icbhi_cycle(np.ones(10), pad="reflect")  # type: ignore[call-overload]
