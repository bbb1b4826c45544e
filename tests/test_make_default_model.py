"""The chain that makes the model of the package, on small folders, and the file that comes out of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors import safe_open

import make_default_model
import rales
from rales.data import read_cycles
from rales.files.atomic import lock_folder
from rales.files.json_files import flatten_json, to_jsonable
from rales.models.m2d_checkpoints import read_safetensors
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from rales.settings import to_dict
from tests import tiny

KINDS = ("Normal", "Fine Crackle", "Wheeze", "Wheeze+Crackle")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Folders of ICBHI and SPRSound layout and one of noise."""
    place = tmp_path_factory.mktemp("sounds")
    icbhi, sprsound, noise = tiny.write_folder(place / "icbhi"), place / "sprsound", place / "noise"
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
    noise.mkdir()
    soundfile.write(noise / "rain.wav", 0.1 * np.random.default_rng(0).standard_normal(20_000), tiny.RATE_HZ)
    return icbhi, sprsound, noise


@pytest.fixture(scope="module")
def made(folders: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        sizes = [word for word in tiny.PRETRAINING if not word.startswith("encoder.unit")]
        patch.setattr(make_default_model, "ENCODER", [*sizes, "encoder.patch=80,4", "encoder.unit_frames=40"])
        patch.setenv("RALES_CACHE", str(out / "cache"))
        icbhi, sprsound, noise = folders
        make_default_model.make_default_model(icbhi, sprsound, out, noise=noise, pretrain_epochs=1, epochs=1)
    return out


def test_patients_of_two_databases_stay_apart_and_only_one_of_them_validates(folders: tuple[Path, Path, Path]) -> None:
    icbhi, sprsound, _ = folders
    table = make_default_model.join_databases(read_cycles(icbhi), read_cycles(sprsound))
    sides = table.groupby("split")["patient"].agg(set)
    assert sides["validation"].isdisjoint(sides["train"] | sides["test"])
    assert {"101", "sprsound_101"} <= set(table["patient"])
    assert {name for name in sides["train"] if name.startswith("sprsound")} == {"sprsound_101", "sprsound_102"}
    assert not any(name.startswith("sprsound") for name in sides["validation"] | sides["test"])


def test_the_file_holds_half_precision_and_no_path(made: Path, folders: tuple[Path, Path, Path]) -> None:
    file = made / "model.safetensors"
    with safe_open(file, framework="pt") as stored:
        kinds = {str(stored.get_tensor(name).dtype) for name in stored.keys()}  # noqa: SIM118
        words = json.dumps(stored.metadata())
    assert kinds == {"torch.float16"}
    assert str(made) not in words
    assert str(folders[0]) not in words
    assert json.loads(json.loads(words)["rales"])["split"]["train"]["patients"] >= 5


def test_the_file_answers_as_the_run_it_came_from(made: Path, folders: tuple[Path, Path, Path]) -> None:
    run, file = rales.load(made / "model"), rales.load(made / "model.safetensors")
    columns = [f"p_{name}" for name in run.classes]
    there, here = (model.predict(folders[0])[columns].to_numpy() for model in (run, file))
    assert np.abs(there - here).max() < 5e-3
    assert isinstance(file.predict(folders[0]), pd.DataFrame)


def test_pretraining_without_noise_is_a_sentence(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--noise"):
        make_default_model.make_default_model(*folders[:2], tmp_path, pretrain_epochs=1)


def test_the_second_of_two_in_a_folder_is_told(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"), pytest.raises(ValueError, match="another process is at work there"):
        make_default_model.make_default_model(*folders[:2], tmp_path / "out", epochs=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_what_is_made_is_what_ships() -> None:
    """The numbers of the shipped file's record, field by field; a field that is newer than the file is not in it."""
    _, metadata = read_safetensors(make_default_model.FILE)
    shipped = flatten_json(json.loads(metadata["rales"])["config"])
    words = [f"train.epochs={make_default_model.EPOCHS}"]
    here = flatten_json(to_jsonable(to_dict(make_default_model.classifier_recipe("", words).settings)))
    assert shipped["model.dim"] == 96
    assert {name: here[name] for name in shipped} == shipped


def test_size_tiny_is_the_network_that_ships_and_can_be_pretrained() -> None:
    shipped, tiny_ = make_default_model.classifier_recipe("").settings, make_recipe("m2d_fusion", size="tiny").settings
    assert replace(shipped.model, learned=True) == tiny_.model
    assert (shipped.audio, shipped.augment) == (tiny_.audio, tiny_.augment)
    assert replace(shipped.train, select="last", device="auto", precision="float32") == tiny_.train
    encoder = m2d_pretrain.settings("tiny").encoder
    for name in ("dim", "depth", "heads", "patch", "unit_frames"):
        assert getattr(encoder, name) == getattr(tiny_.model, name), name


def test_the_published_front_end_of_size_tiny_hears_16_khz() -> None:
    recipe = make_recipe("m2d_fusion", ["frontend=icbhi"], size="tiny")
    assert (recipe.settings.audio.rate_hz, recipe.settings.audio.mean) == (16000, 0.3690)
    assert recipe.build_frontend(recipe.settings)(torch.randn(1, 32000)).shape == (1, 1, 80, 201)


def test_weights_of_that_width_train_with_its_numbers() -> None:
    tiny_, further = (
        make_recipe("m2d_fusion", **given).settings for given in ({"size": "tiny"}, {"weights": "rales-small"})
    )
    assert (further.train, further.augment) == (tiny_.train, tiny_.augment)
    assert further.audio == tiny_.audio
    assert further.model.heads == tiny_.model.heads


def test_train_cycles_are_normal_breaths_with_something_laid_over_them(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    icbhi, sprsound, _ = folders
    table = make_default_model.join_databases(read_cycles(icbhi), read_cycles(sprsound))
    made = make_default_model.overlay_events(table, tmp_path / "overlay")
    for part in ("validation", "test"):  # real ones alone
        assert made[made["split"] == part]["path"].tolist() == table[table["split"] == part]["path"].tolist()
    train = made[made["split"] == "train"]
    normal = table[(table["split"] == "train") & (table["label"] == "normal")]
    assert len(train) == make_default_model.VARIANTS * len(normal)
    assert {Path(path).parent for path in train["path"]} == {tmp_path / "overlay"}
    assert set(train["patient"]) == set(normal["patient"])
