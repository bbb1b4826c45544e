"""What is no breath gets no class, and breaths get theirs: measures on made-up sound, and the gate before the model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray

from rales.audio import io, quality
from rales.data.manifest import spans_of
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.inference import attribution, audio_reader
from rales.inference.engines import Waveforms
from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from tests import tiny
from tests.command import command

Sound = NDArray[np.float32]
P = [f"p_{name}" for name in CLASSES]


def single(wave: NDArray[np.floating]) -> Sound:
    return np.asarray(wave, dtype=np.float32)


def breathing(seconds: float = 12.0, rate_hz: int = 8000, seed: int = 0) -> Sound:
    """Noise that falls off as through a chest, 18 dB an octave from 150 Hz on, and swells every 2.5 s."""
    samples = round(seconds * rate_hz)
    time_s = np.arange(samples) / rate_hz
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1 / rate_hz)
    wave = np.fft.irfft(spectrum / (1 + (hz / 150) ** 3), samples)
    swell = 0.05 + np.maximum(np.sin(2 * np.pi * time_s / 2.5), 0) ** 2
    return single(0.1 * wave / wave.std() * swell)


def noise(seconds: float = 10.0, rate_hz: int = 8000, fall: float = 0.0) -> Sound:
    """Steady noise whose power falls with frequency to that power: white 0, pink 1, brown 2."""
    samples = round(seconds * rate_hz)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(samples))
    wave = np.fft.irfft(spectrum * np.maximum(np.arange(len(spectrum)), 1.0) ** (-fall / 2), samples)
    return single(0.1 * wave / wave.std())


def mains(seconds: float = 10.0, rate_hz: int = 8000, hz: float = 50.0) -> Sound:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return single(0.2 * np.sum([np.sin(2 * np.pi * hz * k * time_s) / k for k in (1, 2, 3)], axis=0))


def voice(seconds: float = 8.0, rate_hz: int = 8000) -> Sound:
    """Syllables: the harmonics of a gliding pitch around 200 Hz, in and out four times a second."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = 200 + 30 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    wave = np.sum([np.sin(k * phase) / k**1.5 for k in range(1, 9)], axis=0)
    return single(0.1 * wave * np.maximum(np.sin(2 * np.pi * 4 * time_s), 0))


REFUSED = {
    "zeros": (np.zeros(80_000, np.float32), "no_signal"),
    "one value, not zero": (np.full(80_000, 0.25, np.float32), "no_signal"),
    "the last bit of 16": (single(np.random.default_rng(0).integers(-1, 2, 80_000) / 32768), "no_signal"),
    "ten samples": (breathing()[:10], "too_short"),
    "a tenth of a second": (breathing()[:800], "too_short"),
    "antiphase": (np.stack([breathing(), -breathing()], axis=1), "antiphase"),
    "antiphase of other gain": (np.stack([breathing(), -0.8 * breathing()], axis=1), "antiphase"),
    "square": (np.sign(breathing()) * np.float32(0.9), "clipped"),
    "white noise": (noise(), "no_breathing"),
    "pink noise": (noise(fall=1), "no_breathing"),
    "brown noise": (noise(fall=2), "no_breathing"),
    "a second of white noise": (noise(1), "not_chest"),
    "50 Hz": (mains(), "hum"),
    "60 Hz": (mains(hz=60), "hum"),
    "noise that swells": (noise(12) * (0.02 + np.abs(breathing())), "not_chest"),
    "a voice": (voice(), "voice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_judged_is_named(name: str) -> None:
    sound, expected = REFUSED[name]
    found = quality.judge_quality(sound, 8000)
    assert (found.quality, found.judged) == (expected, False)
    assert found.reason


REMARKED = {
    "dead channel": (np.stack([breathing(), np.zeros(96_000, np.float32)], axis=1), "dead_channel"),
    "nearly dead channel": (np.stack([1e-4 * breathing(seed=1), breathing()], axis=1), "dead_channel"),
    "a tenth clipped": (np.clip(12 * breathing(), -0.9, 0.9), "clipped"),
    "offset": (breathing() + np.float32(0.3), "dc_offset"),
    "offset that clips": (np.clip(breathing() + np.float32(0.9), -1, 0.95), "dc_offset"),
    "quiet": (breathing() * np.float32(1e-3), "quiet"),
    "hum under breathing": (breathing() + mains(12), "hum"),
}


@pytest.mark.parametrize("name", REMARKED)
def test_what_is_poor_is_said_and_judged(name: str) -> None:
    sound, expected = REMARKED[name]
    found = quality.judge_quality(sound, 8000)
    assert (found.quality, found.judged) == (expected, True)
    assert found.reason
    assert ("do not trust them" in found.reason) == (expected == "dc_offset")  # the only one that moves the class


@pytest.mark.parametrize("rate_hz", [4000, 8000, 10_000, 16_000, 44_100, 48_000])
def test_breathing_passes_at_every_rate_and_level(rate_hz: int) -> None:
    sounds = [breathing(rate_hz=rate_hz, seed=seed) for seed in range(3)]  # made once, which takes longest
    for gain in (1.0, 0.5, 0.1):
        for seed, sound in enumerate(sounds):
            assert quality.judge_quality(gain * sound, rate_hz) == quality.OK, (gain, seed)
    both = sounds[0]
    assert quality.judge_quality(np.stack([both, both], axis=1), rate_hz) == quality.OK
    assert quality.judge_quality(both[: round(1.2 * rate_hz)], rate_hz).judged  # one breath alone has no rhythm to miss


def test_a_channel_that_is_mixed_is_not_called_dead(tmp_path: Path) -> None:
    """45 dB below the other one, or silent for 30 s of 90: what is mixed is known of the whole recording alone."""
    one, other = breathing(90, seed=1), breathing(90, seed=2)
    pausing = np.where((np.arange(one.size) // 240_000) == 1, 0, other)
    for second, live in ((10 ** (-45 / 20) * other, None), (pausing, None), (10 ** (-55 / 20) * other, (0,))):
        path = tmp_path / "a.flac"
        soundfile.write(path, np.stack([one, second], axis=1), 8000, subtype="PCM_24")
        about = io.read_audio_info(path)
        assert about.live == live
        parts = list(quality.judge_segments(io.read_blocks(path, 30), about.live))
        assert {part.verdict.quality for part in parts} == {"ok" if live is None else "dead_channel"}
        assert {part.verdict.reason for part in parts} == {"" if live is None else "no sound in channel 2"}


@pytest.mark.parametrize("samples", [1, quality.CHUNK - 1, quality.CHUNK, 100_001])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.9])
def test_variances_are_those_of_each_channel(samples: int, offset: float) -> None:
    """Beside an offset too, of a channel alone and of one of several, whose samples do not lie side by side."""
    sound = (np.random.default_rng(0).standard_normal((samples, 2)) * (0.1, 1e-4) + offset).astype(np.float32)
    expected = sound.astype(np.float64).var(axis=0)
    assert quality.channel_variances(sound) == pytest.approx(expected, rel=1e-6, abs=1e-14)
    assert quality.channel_variances(sound[:, 1:].copy()) == pytest.approx(expected[1:], rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("channels", [1, 2])
def test_an_offset_does_not_hide_a_quiet_sound(channels: int) -> None:
    quiet, white = breathing() * np.float32(5e-3), noise(12) * np.float32(5e-3)
    for offset in np.array([0.2, 0.3, 0.9], np.float32):
        for sound, expected in ((quiet, "dc_offset"), (white, "no_breathing")):
            stereo = np.stack([sound + offset] * channels, axis=1)
            assert quality.judge_quality(stereo, 8000).quality == expected
        found = quality.measure_quality(np.full((80_000, channels), offset, np.float32), 8000)
        assert (found.offset, found.cancelled) == (0, 1)
        assert found.silent.all()


def test_two_unlike_channels_are_no_antiphase() -> None:
    unlike = np.stack([breathing(seed=seed) for seed in range(4)], axis=1)
    assert quality.measure_quality(unlike, 8000).cancelled == pytest.approx(0.25, abs=0.1)
    assert quality.judge_quality(unlike, 8000).judged


def test_measures_by_hand() -> None:
    tone = single(0.5 * np.sin(2 * np.pi * 200 * np.arange(32_000) / 8000))
    found = quality.measure_quality(tone, 8000)
    assert found.level_db == pytest.approx(10 * np.log10(0.125), abs=0.1)
    assert found.high < 1e-6
    assert found.fall_db > 60
    assert found.steady_db < 0.01
    assert quality.measure_quality(np.sign(tone), 8000).clipped > 0.9 > 0.1 > found.clipped
    assert quality.measure_quality(tone + 1, 8000).offset == pytest.approx(1 / 0.125**0.5, rel=1e-3)
    assert found.hum == pytest.approx(1, abs=1e-3)  # 200 Hz is a multiple of 50, and of 60 it is not
    assert quality.measure_quality(single(0.5 * np.sin(2 * np.pi * 217 * np.arange(32_000) / 8000)), 8000).hum < 0.01


def test_silence_is_found_where_it_is() -> None:
    """20 s of silence before 40 s of breathing, as recordings put together from clips have."""
    sound = np.concatenate([np.zeros(160_000, np.float32), breathing(40)])[:, None]
    parts = list(quality.judge_segments([(sound[:240_000], 8000), (sound[240_000:], 8000)]))
    assert [(part.start_s, part.end_s) for part in parts] == [(0, 30), (30, 60)]
    assert quality.verdict_of_span(parts, 2, 6).quality == "no_signal"
    assert quality.verdict_of_span(parts, 14, 20).quality == "no_signal"
    assert quality.verdict_of_span(parts, 21, 25) == quality.OK
    assert quality.verdict_of_span(parts, 28, 32) == quality.OK
    assert quality.verdict_of_span(parts, 18, 22) == quality.OK  # half of it sounds


# In front of the model


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings that are none, one with a dead channel, and one that breathes."""
    place = tmp_path_factory.mktemp("visit")
    soundfile.write(place / "antiphase.wav", REFUSED["antiphase"][0], 8000)
    soundfile.write(place / "breathing.wav", breathing(), 8000)
    soundfile.write(place / "dead.wav", REMARKED["dead channel"][0], 8000)
    soundfile.write(place / "noise.wav", noise(), 8000)
    soundfile.write(place / "ten.wav", breathing()[:10], 44_100)
    soundfile.write(place / "zeros.wav", np.zeros(80_000), 8000)
    return place


NOT_JUDGED = {"antiphase": "antiphase", "noise": "no_breathing", "ten": "too_short", "zeros": "no_signal"}


def test_no_class_where_nothing_can_be_judged(folder: Path, model: Predictor) -> None:
    table = model.predict(folder)
    for name in sorted(set(table["recording"])):
        rows = table[table["recording"] == name]
        if name in NOT_JUDGED:
            assert set(rows["quality"]) == {NOT_JUDGED[name]}
            assert rows["quality_reason"].all()
            assert rows["label"].isna().all()
            assert rows[P].isna().all(axis=None)
        else:
            assert set(rows["label"]) <= set(CLASSES)
            assert rows[P].notna().all(axis=None)
    assert set(table.query("recording == 'dead'")["quality"]) == {"dead_channel"}
    names = list(table.columns)
    assert names[names.index("quality") : names.index("path") + 1] == ["quality", "quality_reason", "source", "path"]


def test_judged_cycles_are_answered_as_if_the_others_were_not_there(folder: Path, model: Predictor) -> None:
    alone, gated = model.predict(folder / "breathing.wav"), model.predict(folder)
    off = model.predict(folder, quality=False)
    assert gated.query("recording == 'breathing'")[P].to_numpy().tolist() == alone[P].to_numpy().tolist()
    assert off["label"].notna().all()
    assert set(off["quality"]) == {"not_checked"}
    kept = gated["label"].notna()
    assert gated.loc[kept, P].to_numpy().tolist() == off.loc[kept, P].to_numpy().tolist()
    assert gated[["recording", "cycle", "start_s", "end_s"]].equals(off[["recording", "cycle", "start_s", "end_s"]])


def test_the_model_is_not_asked_about_silence(folder: Path) -> None:
    model, asked = tiny.model(), list[int]()
    plain = model.engine

    def counting(waves: Waveforms) -> NDArray[np.floating]:
        asked.append(len(waves))
        return plain(waves)

    assert model.with_engine(counting).predict(folder / "zeros.wav")["label"].isna().all()
    assert asked == []


def test_a_silent_stretch_costs_only_its_own_cycles(tmp_path: Path, model: Predictor) -> None:
    sound = np.concatenate([np.zeros(160_000, np.float32), breathing(60)])
    soundfile.write(tmp_path / "late.flac", sound, 8000)
    for cycles in ("windows", "auto"):
        table = model.predict(tmp_path / "late.flac", cycles=cycles)
        assert table.loc[table["end_s"] <= 20, "label"].isna().all()
        assert table.loc[table["start_s"] >= 20, "label"].notna().all()
        assert (table["start_s"] >= 20).sum() >= 10


@pytest.mark.parametrize("frames", [8000 * 70, 8000 * 700])
def test_channels_are_looked_at_before_the_mix_in_long_recordings_too(
    tmp_path: Path, model: Predictor, frames: int
) -> None:
    """Longer than what is decoded at once, and than what is searched for breaths at once; the last part cancels."""
    one = np.resize(breathing(30), frames)
    other = np.where(np.arange(frames) < frames - 8000 * 30, one, -one)
    soundfile.write(tmp_path / "night.flac", np.stack([one, other], axis=1), 8000)
    table = model.predict(tmp_path / "night.flac", cycles="windows")
    late = table["start_s"] > frames / 8000 - 24
    assert set(table.loc[late, "quality"]) <= {"antiphase", "no_signal"}
    assert table.loc[late, "label"].isna().all()
    early = table["end_s"] < frames / 8000 - 36
    assert early.any()
    assert table.loc[early, "label"].notna().all()


def test_annotated_cycles_keep_their_class_unless_they_hold_no_sound(tmp_path: Path, model: Predictor) -> None:
    sound = np.concatenate([noise(4), np.zeros(16_000, np.float32), noise(2)])
    soundfile.write(tmp_path / "visit.wav", sound, 8000)
    (tmp_path / "visit.txt").write_text("0\t2\t0\t0\n2\t4\t1\t0\n4\t6\t0\t0\n6\t8\t0\t1\n")
    table = model.predict(tmp_path)
    assert table["label"].isna().tolist() == [False, False, True, False]
    assert table["true_label"].tolist() == ["normal", "crackle", "normal", "wheeze"]
    assert table["quality"].tolist()[2] == "no_signal"


@pytest.mark.parametrize(
    ("columns", "cells", "person"),
    [
        ("label", "crackle", True),
        ("crackle,wheeze", "1,0", True),
        ("patient", "x", True),  # times alone
        ("true_label,label,p_normal", "normal,crackle,0.1", True),
        ("true_label,label,p_normal", ",crackle,0.1", False),  # times that may be found in the sound
        ("label,p_normal", "crackle,0.1", False),
        ("label,p_normal,confirmed", "crackle,0.1,True", True),
        ("label,p_normal,confirmed", "crackle,0.1,False", False),
    ],
)
def test_breaths_that_a_person_has_marked_in_a_table_keep_their_class(
    tmp_path: Path, model: Predictor, columns: str, cells: str, person: bool
) -> None:
    soundfile.write(tmp_path / "visit.wav", np.concatenate([noise(4), np.zeros(16_000, np.float32)]), 8000)
    manifest = tmp_path / "cycles.csv"
    spans = [(0, 2), (2, 4), (4, 6)]
    lines = [f"visit.wav,{start},{end},{cells}\n" for start, end in spans]
    manifest.write_text(f"path,start_s,end_s,{columns}\n{''.join(lines)}")
    rows = {str(tmp_path / name): found for name, found in spans_of(manifest).items()}
    ((table, _),) = model.tables([str(tmp_path / "visit.wav")], cycles=rows)
    assert set(table["source"]) == {"manifest"}
    assert table["label"].notna().tolist() == [person, person, False]
    assert table["quality"].tolist()[2] == "no_signal"


def test_databases_are_scored_as_before(tmp_path: Path, model: Predictor) -> None:
    """Annotated noise is what the tests train on: all of it has a label, the same with and without the gate."""
    data = tiny.write_folder(tmp_path / "data")
    gated, off = model.predict(data), model.predict(data, quality=False)
    assert gated["label"].notna().all()
    assert gated[["label", *P]].equals(off[["label", *P]])


def test_counts_leave_out_what_is_not_judged(folder: Path, model: Predictor) -> None:
    ((table, status),) = model.tables(audio_reader.find_recordings(folder), [])
    summary = predictions.summarise_recordings(table).set_index("recording")
    for name in NOT_JUDGED:
        row = summary.loc[name]
        assert row["not_judged"] == row["cycles"] > 0
        assert np.isnan(row["abnormal_share"])
        assert (row["low"], row["high"]) == (0, 1)
        assert row[list(CLASSES)].sum() == 0
    row = summary.loc["breathing"]
    assert row["not_judged"] == 0
    assert row[list(CLASSES)].sum() == row["cycles"]
    told = status.assign(recording=[Path(path).stem for path in status["path"]]).set_index("recording")
    assert told.loc[list(NOT_JUDGED), "quality"].to_dict() == NOT_JUDGED
    assert (told["status"] == "ok").all()
    assert told.loc[list(NOT_JUDGED), "not_judged"].equals(told.loc[list(NOT_JUDGED), "cycles"].rename("not_judged"))
    sentences = predictions.unjudged_sentences(status)
    assert len(sentences) == len(NOT_JUDGED)
    assert all(": not judged: " in sentence for sentence in sentences)


@pytest.mark.parametrize("temperature", [None, 1.7])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_row_without_an_answer_has_no_label(temperature: float | None, threshold: float | None) -> None:
    rows = pd.DataFrame({"recording": "x", "cycle": [1, 2], "start_s": [0.0, 1.0], "end_s": [1.0, 2.0]})
    probabilities = np.array([[np.nan] * 4, [0.1, 0.2, 0.3, 0.4]])
    decision = predictions.Decision(temperature, threshold, min_confidence=0.9)
    table = predictions.predictions_table(rows, probabilities, decision)
    assert table["label"].isna().tolist() == [True, False]
    assert table["label"][1] == "both"
    assert table["uncertain"].tolist() == [False, True]
    assert np.isnan(probabilities[0]).all()
    assert probabilities[1, 0] == 0.1


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_tables_have_empty_cells(folder: Path, model: Predictor, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"cycles.{form}"
    tiny.write_predictions(model.tables([str(folder / "zeros.wav"), str(folder / "breathing.wav")], []), out, form, [])
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form]
    again = read(out)  # type: ignore[operator]
    silent = again["recording"] == "zeros"
    assert again.loc[silent, ["label", *P]].isna().all(axis=None)
    assert again.loc[~silent, ["label", *P]].notna().all(axis=None)
    assert set(again.loc[silent, "quality"]) == {"no_signal"}
    if form == "csv":
        assert ",,,,," in out.read_text().splitlines()[1]


def test_labels_for_other_programs_say_it(folder: Path, model: Predictor, tmp_path: Path) -> None:
    paths = [str(folder / "zeros.wav")]
    (labels,) = tiny.write_predictions(model.tables(paths, []), tmp_path, "audacity", paths)
    texts = [line.split("\t")[2] for line in labels.read_text().splitlines()]
    assert texts
    assert all(text.startswith("not judged: digital silence") for text in texts)
    (selections,) = tiny.write_predictions(model.tables(paths, []), tmp_path, "raven", paths)
    table = pd.read_csv(selections, sep="\t")
    assert set(table["Class"]) == {"not judged"}
    assert table[P].isna().all(axis=None)


def test_embed_leaves_out_and_explain_refuses(folder: Path, model: Predictor) -> None:
    table = model.embed_table([folder / "zeros.wav", folder / "breathing.wav"])
    assert set(table["recording"]) == {"breathing"}
    assert table.attrs["not_judged"] == [f"{folder / 'zeros.wav'}: not judged: digital silence"]
    assert set(model.embed_table(folder / "zeros.wav", per="recording", quality=False)["recording"]) == {"zeros"}
    with pytest.raises(ValueError, match=r"zeros\.wav: not judged: digital silence"):
        model.embed(folder / "zeros.wav")
    with pytest.raises(ValueError, match="cycle 1: not judged, so there is nothing to explain: digital silence"):
        attribution.explain_cycle(model, str(folder / "zeros.wav"), 1)
    with pytest.raises(UsageError, match="has cycles 1 to 3"):
        attribution.explain_cycle(model, str(folder / "zeros.wav"), 4)


def test_explained_cycle_is_the_one_of_that_number(tmp_path: Path, model: Predictor) -> None:
    """Those before it that are not judged are counted too."""
    soundfile.write(tmp_path / "x.wav", np.concatenate([np.zeros(64_000, np.float32), breathing(30)]), 8000)
    found = attribution.explain_cycle(model, str(tmp_path / "x.wav"), 4, cycles="windows")
    assert (found.start_s, found.end_s) == (12, 16)
    row = model.predict(tmp_path / "x.wav", cycles="windows").iloc[3]
    told = [found.probabilities[name] for name in CLASSES]
    assert np.allclose(told, row[P].to_numpy(dtype=float), atol=1e-6)


# The command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny.save(tiny.model(), path)
    return path


def test_the_command_says_it(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = ("--out", tmp_path / "c.csv", "--status", tmp_path / "s.csv", "--summary", tmp_path / "r.csv")
    code, _, err = command(capsys, "predict", folder, "--model", checkpoint, *tables)
    assert code == 0
    assert "zeros.wav: not judged: digital silence" in err
    assert "ten.wav: not judged: lasts 0.227 ms" in err
    status = pd.read_csv(tmp_path / "s.csv")
    assert status["not_judged"].gt(0).sum() == len(NOT_JUDGED)
    assert pd.read_csv(tmp_path / "r.csv")["not_judged"].gt(0).sum() == len(NOT_JUDGED)

    code, out, _ = command(capsys, "predict", folder / "zeros.wav", "--model", checkpoint)
    assert code == 0
    assert "not judged: digital silence" in out
    code, out, _ = command(capsys, "predict", folder / "zeros.wav", "--model", checkpoint, "--json")
    document = json.loads(out)
    assert {(row["label"], row["p_normal"], row["quality"]) for row in document["cycles"]} == {
        (None, None, "no_signal")
    }
    assert document["recordings"][0]["not_judged"] == document["status"][0]["not_judged"] == 2 + 1
    code, out, _ = command(capsys, "predict", folder / "zeros.wav", "--model", checkpoint, "--quality", "off")
    assert code == 0
    assert "not judged" not in out


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_batch_job_counts_it(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(path) for path in sorted(folder.glob("*.wav"))]
    pd.DataFrame({"path": names}).to_csv(tmp_path / "manifest.csv", index=False)
    words = ["predict", "--manifest", tmp_path / "manifest.csv", "--model", checkpoint, "--out", tmp_path / "out"]
    code, out, err = command(capsys, *words, "--processes", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    cycles = pd.read_parquet(tmp_path / "out" / "cycles")
    assert found["not_judged"] == cycles["label"].isna().sum() > 0
    shutil.rmtree(tmp_path / "out")


# On real recordings


def real(folder: Path, pattern: str, count: int) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"no real recordings: {folder / pattern} is not there")
    return found[:: max(1, len(found) // count)]


def verdict_of(path: Path) -> quality.Verdict:
    sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return quality.judge_quality(sound, rate_hz)


@pytest.mark.parametrize("pattern", ["icbhi/*.wav", "icbhi_rebuilt/*.flac", "icbhi_16k/*.flac", "kauh/*.flac"])
def test_recordings_of_chests_pass(shared_data: Path, pattern: str) -> None:
    verdicts = [verdict_of(path) for path in real(shared_data, pattern, 15)]
    assert sum(verdict.judged for verdict in verdicts) >= 0.93 * len(verdicts), verdicts


def test_everyday_sounds_do_not(shared_data: Path) -> None:
    verdicts = [verdict_of(path) for path in real(shared_data, "esc10/*.wav", 20)]
    assert sum(not verdict.judged for verdict in verdicts) >= 12, verdicts
