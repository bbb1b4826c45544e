"""The chain that makes the models of the package, on small folders and a random teacher, and the files that ship."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

import make_models
import rales
from rales.audio.efficientat_logmel import EfficientATLogMel
from rales.data import read_cycles
from rales.data.waveform_cache import read_cycle_waveform
from rales.files.atomic import lock_folder
from rales.files.json_files import flatten_json
from rales.models import borrowed_encoder, hub
from rales.models.m2d_checkpoints import read_safetensors
from rales.models.mobilenet import MobileNet
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from rales.training import run_folder
from tests import tiny
from tests.conftest import SHARED

KINDS = ("Normal", "Fine Crackle", "Wheeze", "Wheeze+Crackle")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of ICBHI and SPRSound layout."""
    place = tmp_path_factory.mktemp("sounds")
    icbhi, sprsound = tiny.write_folder(place / "icbhi"), place / "sprsound"
    for part in ("train", "test"):
        (sprsound / f"{part}_wav").mkdir(parents=True)
        (sprsound / f"{part}_json" / ("" if part == "train" else "inter_test_json")).mkdir(parents=True)
    for patient, part in ((101, "train"), (102, "train"), (900, "test")):  # 101 is a patient of the other folder, too
        name = f"{patient}_3.2_0_p1_1"
        events = [{"start": str(1000 * i), "end": str(1000 * i + 900), "type": kind} for i, kind in enumerate(KINDS)]
        inner = sprsound / f"{part}_json" / ("" if part == "train" else "inter_test_json")
        document = {"record_annotation": "CAS & DAS", "event_annotation": events}
        (inner / f"{name}.json").write_text(json.dumps(document))
        wave = np.concatenate([tiny.breath(label, seed=patient) for label in range(4)])
        soundfile.write(sprsound / f"{part}_wav" / f"{name}.wav", wave, tiny.RATE_HZ)
    return icbhi, sprsound


@pytest.fixture(scope="module")
def made(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the models, made of the folders; the teacher is the public checkpoint of that name meanwhile."""
    out = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as kept, pytest.MonkeyPatch.context() as patch:
        kept.setenv("RALES_CACHE", str(out / "cache"))
        torch.manual_seed(0)
        public = hub.checkpoint_folder() / make_models.TEACHER
        public.mkdir(parents=True)
        save_file(MobileNet(0.4, blocks=2).state_dict(), public / "mn.safetensors")

        patch.setattr(make_models, "FOLDS", 2)
        for numbers in (make_models.STUDENT, make_models.CLASSIFIER, make_models.HEADS):
            patch.setitem(numbers, "train.epochs", 1)
        patch.setitem(make_models.STUDENT, "model.depth", 2)
        patch.setitem(make_models.STUDENT, "model.dim", 16)
        make_models.make_models(*folders, out, teacher=make_models.TEACHER)
        patch.undo()
        yield out


@pytest.mark.parametrize("name", ["rales", "rales-mn04"])
def test_the_file_answers_as_the_run_it_came_from(made: Path, folders: tuple[Path, Path], name: str) -> None:
    run, file = rales.load(made / name), rales.load(made / f"{name}.safetensors")
    file.calibration = {}
    columns = [f"p_{word}" for word in run.classes]
    some = [str(path) for path in sorted(folders[0].glob("*.wav"))[::4]]
    there, here = (model.predict(some)[columns].to_numpy() for model in (run, file))
    assert np.abs(there - here).max() < 5e-3


@pytest.mark.parametrize("name", ["rales", "rales-mn04"])
def test_the_file_holds_half_precision_no_path_and_what_held_out_patients_taught(
    made: Path, folders: tuple[Path, Path], name: str
) -> None:
    tensors, metadata = read_safetensors(made / f"{name}.safetensors")
    words = json.dumps(metadata)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert str(made) not in words
    assert str(folders[0]) not in words
    train = make_models.join_databases(*(read_cycles(folder) for folder in folders)).query("split == 'train'")
    learned = json.loads(metadata["rales"])["calibration"]
    assert learned["patients"] == train.loc[~make_models.of_sprsound(train), "patient"].nunique()


def test_no_fold_is_trained_on_what_it_tests(made: Path, folders: tuple[Path, Path]) -> None:
    cycles = make_models.join_databases(*(read_cycles(folder) for folder in folders))
    overlaid = make_models.overlay_events(cycles, made / "overlay")
    tested: list[str] = []
    for divided in make_models.train_side_folds(cycles):
        rows = make_models.training_rows(divided, cycles, overlaid)
        held_out = rows[rows["split"] == "test"]
        learned = rows[rows["split"] == "train"]
        assert set(held_out["patient"]).isdisjoint(learned["patient"])
        assert learned["recording"].str.contains("_overlay").any()
        assert make_models.of_sprsound(learned).any()
        tested += held_out["recording"].unique().tolist()
    icbhi = cycles[~make_models.of_sprsound(cycles)]
    assert sorted(tested) == sorted(icbhi.loc[icbhi["split"] == "train", "recording"].unique())


def test_heads_on_a_public_encoder_ship_without_it(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made / "rales-mn04.safetensors"
    tensors, _ = read_safetensors(file)
    assert not [name for name in tensors if "features" in name]
    public = next((made / "cache" / "weights" / make_models.TEACHER).glob("*.safetensors"))

    fetched: list[str] = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return public

    monkeypatch.setenv("RALES_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "fetch_checkpoint", fetch)
    model = rales.load(file)
    assert fetched == [make_models.TEACHER]
    found = {name: value for name, value in model.network.state_dict().items() if "features" in name}
    assert all(torch.equal(value, found[f"encoder.network.{name}"]) for name, value in load_file(public).items())

    other = {name: value + 1 for name, value in load_file(public).items()}
    save_file(other, tmp_path / "other.safetensors")
    monkeypatch.setattr(hub, "fetch_checkpoint", lambda name: tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds another network than the mn04_as"):
        rales.load(file)
    with pytest.raises(ValueError, match="does not hold the tensors of mn04_as"):
        borrowed_encoder.leave_out_encoder(model.network.state_dict(), "mn04_as", tmp_path / "other.safetensors")


def test_the_classifier_begins_with_the_encoder_that_was_taught(made: Path) -> None:
    taught, _ = run_folder.read_checkpoint(made / "student" / "best.safetensors")
    recipe = make_models.classifier_recipe(made / "student")
    model = recipe.build_model(recipe.settings)
    own = {name: value for name, value in taught.items() if name.startswith("encoder.")}
    assert len(own) > 10
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in own.items())
    assert recipe.settings.model.layers == (1, 2)
    assert recipe.settings.audio.rate_hz == make_models.RATE_HZ


def test_what_is_taught_is_of_the_train_side_alone(made: Path, folders: tuple[Path, Path]) -> None:
    record = run_folder.read_json(made / "student" / "config.json")
    cycles = make_models.join_databases(read_cycles(folders[0]), read_cycles(folders[1]))
    train = cycles[cycles["split"] == "train"]
    assert record["split"]["train"]["patients"] == train["patient"].nunique()
    overlaid = make_models.overlay_events(cycles, made / "overlay")
    crops = make_models.crop_recordings(train, 0)
    assert len(overlaid) > 0 < len(crops)
    assert record["split"]["train"]["cycles"] == len(train) + len(overlaid) + len(crops)
    predicted = pd.read_csv(made / "student" / "predictions.csv")
    assert set(predicted["recording"].str.removesuffix("_watched")) <= set(train["recording"])


def test_the_teacher_hears_both_speeds_at_one_level(made: Path, folders: tuple[Path, Path]) -> None:
    path = min(folders[0].glob("*.wav"))
    settings: dict[str, Any] = {
        "rate_hz": 8000,
        "samples": 16000,
        "teacher": str(hub.find_checkpoint(make_models.TEACHER)),
        "sha256": "",
    }
    found = make_models.hear_clip(path, 0.0, 2.0, **settings)
    wave = torch.from_numpy(read_cycle_waveform(path, 0.0, 2.0, rate_hz=8000, samples=16000, fade_samples=0))[None]
    wave = wave * 0.05 / wave.square().mean().sqrt()
    network = make_models.load_teacher(settings["teacher"], 8000).network
    maps = [m for speed in (1, 4) for m in network.maps(EfficientATLogMel(8000, speed=speed)(wave))[:-1]]
    expected = torch.cat([part for m in maps for part in (m.mean((2, 3))[0], m.amax((2, 3))[0])])
    assert np.allclose(found, expected.detach().numpy(), atol=1e-4)
    assert len(found) == 2 * 2 * (8 + 16)


def test_components_are_those_of_what_is_known() -> None:
    known = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32) * np.arange(1, 11)
    known[:, 1] = known[:, 0] * 2
    targets = make_models.find_components(known.astype(np.float32), known.astype(np.float32), 0)
    assert targets.shape == (60, 10)
    assert (targets**2).mean() == pytest.approx(1, abs=1e-5)
    assert np.abs(np.corrcoef(targets[:, :9].T) - np.eye(9)).max() < 1e-2
    assert targets[:, 0].std() > targets[:, 1].std() > targets[:, 8].std()


def test_crops_lie_in_their_recordings(folders: tuple[Path, Path]) -> None:
    cycles = make_models.join_databases(read_cycles(folders[0]), read_cycles(folders[1]))
    train = cycles[cycles["split"] == "train"]
    crops = make_models.crop_recordings(train, 0)
    assert (crops["start_s"] >= 0).all()
    assert (crops["end_s"] - crops["start_s"] <= make_models.CROP_S + 1e-9).all()
    assert set(crops["path"]) == set(train["path"])
    pd.testing.assert_frame_equal(crops, make_models.crop_recordings(train, 0))


def test_the_second_of_two_in_a_folder_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"), pytest.raises(ValueError, match="another process is at work there"):
        make_models.make_models(*folders, tmp_path / "out", teacher="none")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_what_is_made_is_what_ships() -> None:
    """Numbers of the shipped files' records that the script sets."""
    for name, numbers in (("rales", make_models.CLASSIFIER), ("rales-mn04", make_models.HEADS)):
        shipped = flatten_json(run_folder.read_checkpoint(hub.SHIPPED[name])[1]["config"])
        assert {key: shipped[key] for key in numbers} == numbers
    shipped = flatten_json(run_folder.read_checkpoint(hub.SHIPPED["rales"])[1]["config"])
    sizes = {key: value for key, value in make_models.STUDENT.items() if key.startswith("model.")}
    assert {key: shipped[key] for key in sizes} == sizes
    assert shipped["model.layers"] == [1, 2, 3, 4]


def test_a_pretrained_encoder_of_size_tiny_is_its_network() -> None:
    network, encoder = make_recipe("m2d_fusion", size="tiny").settings.model, m2d_pretrain.settings("tiny").encoder
    for name in ("dim", "depth", "heads", "patch", "unit_frames"):
        assert getattr(encoder, name) == getattr(network, name), name


@pytest.mark.skipif(
    not (SHARED / "weights" / "mn04_as.safetensors").is_file(), reason="mn04 is not beside the repository"
)
def test_the_heads_that_ship_answer_with_the_published_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path))
    (tmp_path / "weights" / "mn04_as").mkdir(parents=True)
    shutil.copy(SHARED / "weights" / "mn04_as.safetensors", tmp_path / "weights" / "mn04_as")
    model = rales.load("rales-mn04", "cpu")
    wave = np.random.default_rng(0).normal(size=(2, 8 * 32000)).astype(np.float32) * 0.05
    assert np.allclose(model.probabilities(wave).sum(axis=1), 1)


def test_the_published_front_end_of_size_tiny_hears_16_khz() -> None:
    recipe = make_recipe("m2d_fusion", ["frontend=icbhi"], size="tiny")
    assert (recipe.settings.audio.rate_hz, recipe.settings.audio.mean) == (16000, 0.3690)
    assert recipe.build_frontend(recipe.settings)(torch.randn(1, 32000)).shape == (1, 1, 80, 201)


def test_the_encoder_that_ships_trains_with_the_numbers_of_tiny() -> None:
    tiny_, further = (make_recipe("m2d_fusion", **given).settings for given in ({"size": "tiny"}, {"weights": "rales"}))
    assert (further.train, further.augment) == (tiny_.train, tiny_.augment)
    assert further.audio == tiny_.audio
    assert (further.model.dim, further.model.depth) == (
        make_models.STUDENT["model.dim"],
        make_models.STUDENT["model.depth"],
    )
