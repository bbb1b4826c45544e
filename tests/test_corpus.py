"""Collections of recordings: which are used, and the crops that come of them."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from rales.audio import M2DLogMel, io, mix_logmels
from rales.data import random_crops as crops_module
from rales.data import read_cycles, sprsound
from rales.data.corpus import Corpus, read_corpus
from rales.data.noisy_logmel import NoisyLogMel, measure_logmel_statistics
from rales.data.random_crops import CropDataset, epoch_order, read_crop_chunks, sample_crops
from tests import tiny

RATE_HZ = 4000


def write(path: Path, seconds: float = 1.0, *, level: float = 0.1, rate_hz: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(abs(hash(path.name)) % 2**32)
    sound = level * random.uniform(-1, 1, round(seconds * rate_hz))
    soundfile.write(path, sound, rate_hz, subtype="PCM_16")
    return path


def names(collection: Corpus) -> list[str]:
    return [collection.path(i).name for i in range(len(collection))]


# Which recordings


def test_a_folder_is_searched_through_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.wav", "a.WAV", "deep/er/d.flac", "deep/c.wav", ".hidden.wav", ".cache/x.wav", "__MACOSX/y.wav"):
        write(tmp_path / "some" / name)
    (tmp_path / "some" / "notes.txt").write_text("no sound")
    found = read_corpus([tmp_path / "some"])
    assert names(found) == ["a.WAV", "b.wav", "c.wav", "d.flac"]
    assert all(found.path(i).is_file() for i in range(4))
    assert found.facts()["folders"][0]["layout"] == "folder"


def test_several_folders_one_after_the_other(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / f"one/{i}.wav")
        write(tmp_path / f"two/{i + 5}.wav")
    found = read_corpus([tmp_path / "two", tmp_path / "one"])
    assert names(found) == [f"{i}.wav" for i in (5, 6, 7, 8, 9, 0, 1, 2, 3, 4)]


def test_of_an_icbhi_folder_only_the_train_part_is_used(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "data")
    found = read_corpus([tmp_path / "data"])
    assert sorted(int(name[:3]) for name in names(found)) == list(tiny.TRAIN)
    facts = found.facts()
    assert (facts["recordings"], facts["left_out"], facts["part"]) == (5, 3, "train")
    assert len(read_corpus([tmp_path / "data"], part="all")) == 8


def test_the_recording_that_the_list_calls_by_another_device_is_not_lost(icbhi_folder: Path) -> None:
    found = read_corpus([icbhi_folder])
    assert len(found) == 65
    assert "226_1b1_Pl_sc_LittC2SE.flac" in names(found)
    assert found.facts()["left_out"] == 61


def test_of_an_sprsound_folder_only_the_train_part_is_used(tmp_path: Path) -> None:
    event = {"record_annotation": "Normal", "event_annotation": [{"start": "0", "end": "900", "type": "Normal"}]}
    for name, side in (("1_2.0_0_p1_1", "train"), ("2_2.0_0_p1_2", "train"), ("3_2.0_0_p1_3", "test")):
        write(tmp_path / f"{side}_wav" / f"{name}.wav")
        folder = tmp_path / ("train_json" if side == "train" else "test_json/inter_test_json")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(event))
    found = read_corpus([tmp_path])
    assert names(found) == ["1_2.0_0_p1_1.wav", "2_2.0_0_p1_2.wav"]
    assert found.facts()["folders"][0]["layout"] == "sprsound"


SIDES = {
    "Classification/train_classification": "train",
    "Classification/valid_classification": "test",
    "Detection/valid_detection": "test",
    "BioCAS2022/train2022": "train",
    "BioCAS2022/test2022": "test",
    "train": "train",
    "TEST": "test",
}
EVENT = {"record_annotation": "Normal", "event_annotation": [{"start": "0", "end": "900", "type": "Normal"}]}


@pytest.mark.parametrize("inner", ["", "/2022/inter_test_json", "/2023", "/intra_test_json"])
@pytest.mark.parametrize("side", SIDES)
def test_no_test_side_of_any_release_of_sprsound_is_used(tmp_path: Path, side: str, inner: str) -> None:
    """The folder in question beside a plain train folder."""
    folders = {"40000001_1.0_0_p1_1": "train_json", "40000002_2.0_1_p2_2": f"{side}_json{inner}"}
    expected = "test" if "test" in inner else SIDES[side]
    for name, folder in folders.items():
        write(tmp_path / "SPRSound" / folder.replace("_json", "_wav") / f"{name}.wav")
        (tmp_path / "SPRSound" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "SPRSound" / folder / f"{name}.json").write_text(json.dumps(EVENT))
    used = [f"{name}.wav" for name in folders][: 2 if expected == "train" else 1]
    assert sorted(names(read_corpus([tmp_path / "SPRSound"]))) == used
    assert read_cycles(tmp_path / "SPRSound", audio=False)["split"].tolist() == ["train", expected]


@pytest.mark.parametrize("annotated", [False, True])
def test_recordings_of_sprsound_without_its_folders_are_refused(tmp_path: Path, annotated: bool) -> None:
    """Neither recordings alone nor annotations in a folder that names no side become a plain folder."""
    write(tmp_path / "some" / "40000001_1.0_0_p1_1.wav")
    if annotated:
        (tmp_path / "some" / "annotation").mkdir()
        (tmp_path / "some" / "annotation" / "40000001_1.0_0_p1_1.json").write_text(json.dumps(EVENT))
        assert (
            "nothing says whether these are for training"
            in sprsound.find_recordings(tmp_path / "some", audio=False, decode=False).split_problems[0]
        )
    with pytest.raises(ValueError, match="those of SPRSound, and nothing says which are for training"):
        read_corpus([tmp_path / "some"])
    (tmp_path / "own.csv").write_text("path\nsome/40000001_1.0_0_p1_1.wav\n")
    with pytest.raises(ValueError, match="those of SPRSound without saying which are for training"):
        read_corpus([tmp_path / "own.csv"])


def test_a_recording_annotated_for_train_and_for_test_is_not_used(tmp_path: Path) -> None:
    for name in ("40000001_1.0_0_p1_1", "40000002_2.0_1_p2_2"):
        write(tmp_path / "train_wav" / f"{name}.wav")
        for side in ("train_json", "test_json"):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / f"{name}.json").write_text(json.dumps(EVENT))
    (tmp_path / "test_json" / "40000002_2.0_1_p2_2.json").unlink()
    assert names(read_corpus([tmp_path])) == ["40000002_2.0_1_p2_2.wav"]
    (problem,) = sprsound.find_recordings(tmp_path, audio=False, decode=False).split_problems
    assert "40000001_1.0_0_p1_1 is annotated for train and for test" in problem


@pytest.mark.parametrize("name", ["101_1b1_Al_sc_Meditron.wav", "147_2b2_Pl_mc_AKGC417L_cycle03.wav"])
def test_icbhi_names_without_a_split_list_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "some" / name)
    with pytest.raises(ValueError, match=r"nothing says which are for training; put ICBHI_challenge_train_test.txt"):
        read_corpus([tmp_path / "some"])
    assert len(read_corpus([tmp_path / "some"], part="all")) == 1


def test_an_own_manifest(tmp_path: Path) -> None:
    lines = ["path,start_s,end_s,label,split", "a.wav,0,1,normal,train", "a.wav,1,2,both,train", "b/b.wav,0,1,wheeze,"]
    lines += ["c.wav,0,1,normal,test", "d.wav,0,1,normal,train", "d.wav,1,2,normal,test"]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    found = read_corpus([tmp_path / "own.csv"])
    assert [found.path(i) for i in range(len(found))] == [tmp_path / "a.wav", tmp_path / "b/b.wav"]
    assert found.facts()["left_out"] == 2  # c, and d, which has a test row too
    assert len(read_corpus([tmp_path / "own.csv"], part="all")) == 4


def test_one_file_counts_once_and_on_one_side(tmp_path: Path) -> None:
    """Else a recording could be trained on in spite of its test row."""
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    (tmp_path / "link.wav").symlink_to("c.wav")
    lines = ["path,split", "b.wav,train", "a.wav,train", f"{tmp_path}/a.wav,test", "./b.wav,train", "d.wav,train"]
    lines += ["c.wav,train", "link.wav,test"]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    found = read_corpus([tmp_path / "own.csv"])
    assert [found.path(i).name for i in range(len(found))] == ["b.wav", "d.wav"]
    assert found.facts()["left_out"] == 2
    assert len(read_corpus([tmp_path / "own.csv"], part="all")) == 5  # without a split, links are not followed


def test_sharded_parquet_manifests(tmp_path: Path) -> None:
    for shard in range(3):
        folder = tmp_path / "shards" / f"{shard % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = {"file_name": [f"clip{shard}_{i}.wav" for i in range(4)] + [f"/far/{shard}.wav"]}
        pd.DataFrame(rows).to_parquet(folder / f"part-{shard}.parquet")
    found = read_corpus([tmp_path / "shards"])
    paths = [found.path(i) for i in range(len(found))]
    assert len(paths) == 15
    assert paths[0] == tmp_path / "shards/0/clip0_0.wav"
    assert Path("/far/2.wav") in paths
    assert tmp_path / "shards/1/clip1_3.wav" in paths


def test_a_manifest_of_icbhi_recordings_must_name_the_split(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("path\n101_1b1_Al_sc_Meditron.wav\n")
    with pytest.raises(ValueError, match="add a column `split`"):
        read_corpus([tmp_path / "own.csv"])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "no such folder or manifest"),
        (lambda p: p.mkdir(), r"no recording to pre-train on \(none\)"),
        (lambda p: p.write_text("x"), "expected a folder or a manifest"),
    ],
)
def test_what_is_no_collection_is_a_sentence(tmp_path: Path, make: Callable[[Path], Any], sentence: str) -> None:
    make(tmp_path / "it")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        read_corpus([tmp_path / "it"])


@pytest.mark.parametrize(("name", "text"), [("m.csv", "file\na.wav\n"), ("m.parquet", "no parquet"), ("m.csv", "")])
def test_a_manifest_that_is_none_is_a_sentence(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(
        ValueError, match=f"{name}: (columns (file|none), expected `path`|not a Parquet file that can be read)"
    ):
        read_corpus([tmp_path / name])


def test_the_digest_is_that_of_the_recordings_wherever_they_are(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"here/{i}.wav")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (read_corpus([tmp_path / name]).facts() for name in ("here", "there"))
    assert here["digest"] == there["digest"]
    write(tmp_path / "there/3.wav")
    assert read_corpus([tmp_path / "there"]).facts()["digest"] != here["digest"]


def test_the_index_of_a_large_collection_is_compact(tmp_path: Path) -> None:
    paths = [f"folder{i // 1000:04d}/recording_{i:07d}.flac" for i in range(200_000)]
    pd.DataFrame({"path": paths}).to_parquet(tmp_path / "large.parquet")
    found = read_corpus([tmp_path / "large.parquet"])
    assert sum(source.used.nbytes for source in found.sources) < 60 * len(found)
    assert found.path(123_456) == tmp_path / paths[123_456]
    found.write_table(tmp_path / "written.parquet")
    written = pd.read_parquet(tmp_path / "written.parquet")
    assert written["path"].tolist() == paths
    assert written["used"].all()


# Crops


def ramp(path: Path, frames: int) -> Path:
    """Sample i is i + 1, in units of the 16-bit step."""
    soundfile.write(path, (np.arange(frames) + 1).astype(np.int16), RATE_HZ, subtype="PCM_16")
    return path


def of_folder(folder: Path, samples: int = 4000, **options: Any) -> CropDataset:
    return CropDataset(read_corpus([folder]), samples, rate_hz=RATE_HZ, **options)


def test_a_crop_is_a_stretch_of_the_recording_and_starts_anywhere(tmp_path: Path) -> None:
    ramp(tmp_path / "ramp.wav", 4010)
    crops = of_folder(tmp_path)
    starts = []
    for item in range(300):
        sound, notes = crops.crop(item, seed=0, epoch=1)
        steps = np.round(sound * 2**15).astype(int)
        assert np.array_equal(steps, np.arange(steps[0], steps[0] + 4000))
        starts.append(int(steps[0]))
        assert notes == []
    assert set(starts) == set(range(1, 11))  # 4001 frames are read for 4000 samples


def test_crops_follow_from_seed_epoch_and_item(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", 30)
    crops = of_folder(tmp_path)
    first = crops.crop(0, seed=0, epoch=1).wave
    assert np.array_equal(first, of_folder(tmp_path).crop(0, seed=0, epoch=1).wave)
    for other in ((1, 0, 1), (0, 1, 1), (0, 0, 2)):
        item, seed, epoch = other
        assert not np.array_equal(first, crops.crop(item, seed=seed, epoch=epoch).wave)


def test_only_the_stretch_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours at 1000 Hz; a crop of 1 s."""
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", random.integers(-99, 99, 7_200_000, dtype=np.int16), 1000)
    spans, read = [], io.read_waveform
    monkeypatch.setattr(io, "read_waveform", lambda path, a, b: spans.append(b - a) or read(path, a, b))  # type: ignore[func-returns-value]
    sound, notes = CropDataset(read_corpus([tmp_path]), 16000).crop(3, seed=0, epoch=1)
    assert sound.shape == (16000,)
    assert spans == [pytest.approx(1.001, abs=1e-6)]
    assert [(note["what"], note["why"]) for note in notes] == [
        ("cropped", "7200 s long; every item of an epoch is one crop of it")
    ]


def test_a_short_recording_is_filled(tmp_path: Path) -> None:
    ramp(tmp_path / "short.wav", 1500)
    zero = of_folder(tmp_path).crop(0, seed=0, epoch=1).wave
    assert np.array_equal(np.round(zero * 2**15), np.r_[np.arange(1, 1501), np.zeros(2500)])
    again = of_folder(tmp_path, pad="repeat").crop(0, seed=0, epoch=1).wave
    assert np.array_equal(np.round(again * 2**15), np.resize(np.arange(1, 1501), 4000))


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    t = np.arange(44100 * 3) / 44100
    soundfile.write(tmp_path / "tone.flac", 0.5 * np.sin(2 * np.pi * 440 * t), 44100, subtype="PCM_24")
    sound = CropDataset(read_corpus([tmp_path]), 16000).crop(0, seed=0, epoch=1).wave
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(16000)))
    assert int(spectrum.argmax()) == 440
    assert float(np.abs(sound).max()) == pytest.approx(0.5, abs=0.03)


@pytest.fixture
def troubled(tmp_path: Path) -> Path:
    """Good recordings between a silent, a very short, a damaged, a truncated, an empty one and one of NaN."""
    for i in range(3):
        write(tmp_path / f"{2 * i}good.wav", 2)
    soundfile.write(tmp_path / "1silent.wav", np.zeros(9000), RATE_HZ)
    write(tmp_path / "1tenth.wav", 0.1)
    (tmp_path / "3noise.flac").write_bytes(b"fLaC" + bytes(range(200)))
    whole = write(tmp_path / "3truncated.wav", 2).read_bytes()
    (tmp_path / "3truncated.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "5empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "5nan.wav", np.full(9000, np.nan), RATE_HZ, subtype="FLOAT")
    return tmp_path


def test_unusable_recordings_are_passed_over_with_a_sentence_each(troubled: Path) -> None:
    crops = of_folder(troubled)
    assert len(crops.collection) == 9
    found = [crops.crop(item, seed=0, epoch=1) for item in range(9)]
    assert all(crop.wave.shape == (4000,) and crop.wave.any() for crop in found)
    notes = {Path(n["recording"]).name: n["why"] for crop in found for n in crop.notes if n["what"] == "passed over"}
    assert set(notes) == {*("1silent.wav", "1tenth.wav", "3noise.flac", "3truncated.wav", "5empty.wav", "5nan.wav")}
    assert "digital silence" in notes["1silent.wav"]
    assert "0.100 s long, expected 0.2 s or more" in notes["1tenth.wav"]
    assert "truncated" in notes["3truncated.wav"]
    # once known, they are not opened again, and the crops are the same
    assert {crops.collection.path(number).name for number in crops.broken} == set(notes) - {"5nan.wav"}
    again = [crops.crop(item, seed=0, epoch=1) for item in range(9)]
    assert all(np.array_equal(a.wave, b.wave) for a, b in zip(found, again, strict=True))
    assert {Path(n["recording"]).name for crop in again for n in crop.notes} == {"5nan.wav"}


@pytest.mark.parametrize("silent_s", [6, 60])
def test_a_silent_stretch_is_drawn_again(tmp_path: Path, silent_s: int) -> None:
    sound = np.r_[np.zeros(silent_s * RATE_HZ), 0.1 * np.ones(2 * RATE_HZ), np.zeros(RATE_HZ)]
    soundfile.write(tmp_path / "half.wav", sound, RATE_HZ)
    crops = of_folder(tmp_path)
    assert all(crops.crop(item, seed=0, epoch=1).wave.any() for item in range(30))
    assert not crops.broken


def test_nothing_usable_is_a_sentence(tmp_path: Path) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(9000), RATE_HZ)
    with pytest.raises(ValueError, match=r"0.wav: this and the .* cannot be used \(.*digital silence"):
        of_folder(tmp_path).crop(0, seed=0, epoch=1)


# Batches


@pytest.fixture
def ten(tmp_path: Path) -> CropDataset:
    for i in range(10):
        write(tmp_path / f"{i}.wav", 3)
    return of_folder(tmp_path)


def waves(crops: CropDataset, **options: Any) -> list[torch.Tensor]:
    """-> the crops of each batch of an epoch."""
    known: dict[str, Any] = {"items": 10, "seed": 0, "epoch": 1, **options}
    batches: dict[int, list[torch.Tensor]] = {}
    for piece in read_crop_chunks(crops, 4, **known):
        batches.setdefault(piece.step, []).append(piece.wave)
    return [torch.cat(some) for some in batches.values()]


def test_an_epoch_is_whole_batches_in_a_seeded_order(ten: CropDataset) -> None:
    assert sorted(epoch_order(10, seed=0, epoch=1)) == list(range(10))
    assert epoch_order(10, seed=0, epoch=1).tolist() != epoch_order(10, seed=0, epoch=2).tolist()
    one, two = waves(ten)
    assert one.shape == two.shape == (4, 4000)
    expected = [ten.crop(int(item), seed=0, epoch=1).wave for item in epoch_order(10, seed=0, epoch=1)[:4]]
    assert np.array_equal(one.numpy(), np.stack(expected))
    assert len(waves(ten, items=26)) == 6  # the list repeats


@pytest.mark.parametrize("options", [{"most": 1}, {"most": 3}, {"threads": 1}, {"threads": 5, "most": 2}])
def test_pieces_and_threads_change_nothing(ten: CropDataset, options: dict[str, int]) -> None:
    for one, two in zip(waves(ten), waves(ten, **options), strict=True):
        assert torch.equal(one, two)


def test_an_epoch_goes_on_from_any_batch(ten: CropDataset) -> None:
    assert torch.equal(waves(ten, items=20, first=3)[0], waves(ten, items=20)[3])


def test_processes_share_every_batch(ten: CropDataset) -> None:
    parts = [waves(ten, part=(rank, 3)) for rank in range(3)]
    for whole, *some in zip(waves(ten), *parts, strict=True):
        assert torch.equal(whole, torch.cat(some))
    for piece in read_crop_chunks(ten, 4, items=10, seed=0, epoch=1, part=(1, 3), most=1):
        assert (piece.rows, piece.last) == (slice(1, 2), True)


def test_every_crop_gets_noise_of_its_own(ten: CropDataset, tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"noise/{i}.wav", 0.5)
    noise = of_folder(tmp_path / "noise", pad="repeat", stream=crops_module.NOISE)
    found = [piece.noise for piece in read_crop_chunks(ten, 4, items=40, seed=0, epoch=1, noise=noise)]
    sounds = torch.cat([part for part in found if part is not None])
    assert sounds.shape == (40, 4000)
    assert len({tuple(sound[:50].tolist()) for sound in sounds}) == 4


def test_leaving_early_ends_the_threads(ten: CropDataset) -> None:
    import threading

    before = threading.active_count()
    for _ in read_crop_chunks(ten, 4, items=1000, seed=0, epoch=1):
        break
    assert threading.active_count() == before


def test_memory_does_not_grow_with_the_collection(tmp_path: Path) -> None:
    """The large version is benchmarks/pretrain_stream.py."""
    template = write(tmp_path / "template.wav", 1.5)

    def peak(recordings: int) -> int:
        folder = tmp_path / f"{recordings}"
        folder.mkdir()
        for i in range(recordings):
            (folder / f"{i:05d}.wav").hardlink_to(template)
        crops = of_folder(folder)
        for _ in read_crop_chunks(crops, 32, items=recordings, seed=0, epoch=1, most=8):
            pass
        tracemalloc.start()
        for _ in read_crop_chunks(crops, 32, items=recordings, seed=0, epoch=2, most=8):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    all_crops = 640 * 4 * 4000
    assert peak(640) - peak(64) < all_crops / 4


# What is heard


def test_noise_mixing_by_hand() -> None:
    clean, noise = torch.tensor([0.0, 1.0, -60.0]), torch.tensor([2.0, -1.0, -60.0])
    expected = np.log([0.7 + 0.3 * np.e**2, 0.7 * np.e + 0.3 / np.e, 2.0**-23])
    assert np.allclose(mix_logmels(clean, noise, 0.3).numpy(), expected, atol=1e-6)
    assert clean.tolist() == [0.0, 1.0, -60.0]  # the teacher still needs it


def test_the_model_hears_the_mixture_and_the_teacher_the_clean_sound() -> None:
    sound, other = torch.randn(2, 16000) * 0.1, torch.randn(2, 16000) * 0.01
    frontend = M2DLogMel()
    hearing = NoisyLogMel(frontend, mean=-5.0, std=2.0, noise_mean=-9.0, noise_ratio=0.25, noise_heard_by="model")
    mixed, clean = hearing(sound, other)
    a, b = frontend(sound), frontend(other)
    assert torch.allclose(clean, (a + 5) / 2)
    assert torch.allclose(mixed, ((0.75 * (a + 5).exp() + 0.25 * (b + 9).exp()).log()) / 2, atol=1e-5)
    mixed, clean = hearing(sound, None)
    assert torch.equal(mixed, clean)


def test_statistics_are_those_of_the_crops(ten: CropDataset) -> None:
    crops = CropDataset(ten.collection, 16000)
    notes: list[dict[str, str]] = []
    mean, std = measure_logmel_statistics(crops, 30, seed=0, threads=2, notes=notes, progress=False)
    sounds = torch.from_numpy(np.stack([crop.wave for crop in sample_crops(crops, 30, seed=0)]))
    values = M2DLogMel()(sounds).double()
    assert (mean, std) == pytest.approx((values.mean().item(), values.std().item()), rel=1e-6)
