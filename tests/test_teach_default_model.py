"""The chain that teaches a model by a public network before it learns labels, on small folders and a random teacher."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import make_default_model
import rales
import teach_default_model
from rales.audio.efficientat_logmel import EfficientATLogMel
from rales.data import read_cycles
from rales.data.waveform_cache import read_cycle_waveform
from rales.models.mobilenet import MobileNet
from rales.training import run_folder
from tests.test_make_default_model import folders

__all__ = ["folders"]


@pytest.fixture(scope="module")
def made(folders: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught")
    torch.manual_seed(0)
    save_file(MobileNet(0.4, blocks=2).state_dict(), out / "teacher.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(out / "cache"))
        for numbers in (teach_default_model.STUDENT, teach_default_model.CLASSIFIER):
            patch.setitem(numbers, "train.epochs", 1)
        patch.setitem(teach_default_model.STUDENT, "model.depth", 2)
        patch.setitem(teach_default_model.STUDENT, "model.dim", 16)
        teach_default_model.make_default_model(*folders[:2], out, teacher=str(out / "teacher.safetensors"))
    return out


def test_the_file_answers_as_the_run_it_came_from(made: Path, folders: tuple[Path, Path, Path]) -> None:
    run, file = rales.load(made / "model"), rales.load(made / "model.safetensors")
    columns = [f"p_{name}" for name in run.classes]
    there, here = (model.predict(folders[0])[columns].to_numpy() for model in (run, file))
    assert np.abs(there - here).max() < 5e-3
    assert file.recipe.name == "m2d_fusion"
    assert str(made) not in str(file.record)


def test_the_classifier_begins_with_the_encoder_that_was_taught(made: Path) -> None:
    taught, _ = run_folder.read_checkpoint(made / "student" / "best.safetensors")
    recipe = teach_default_model.classifier_recipe(made / "student")
    model = recipe.build_model(recipe.settings)
    own = {name: value for name, value in taught.items() if name.startswith("encoder.")}
    assert len(own) > 10
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in own.items())
    assert recipe.settings.model.layers == (1, 2)
    assert recipe.settings.audio.rate_hz == teach_default_model.RATE_HZ


def test_what_is_taught_is_of_the_train_side_alone(made: Path, folders: tuple[Path, Path, Path]) -> None:
    record = run_folder.read_json(made / "student" / "config.json")
    cycles = make_default_model.join_databases(read_cycles(folders[0]), read_cycles(folders[1]))
    train = cycles[cycles["split"] == "train"]
    assert record["split"]["train"]["patients"] == train["patient"].nunique()
    overlaid = teach_default_model.overlay_events(cycles, made / "overlay")
    crops = teach_default_model.crop_recordings(train, 0)
    assert len(overlaid) > 0 < len(crops)
    assert record["split"]["train"]["cycles"] == len(train) + len(overlaid) + len(crops)
    predicted = pd.read_csv(made / "student" / "predictions.csv")
    assert set(predicted["recording"].str.removesuffix("_watched")) <= set(train["recording"])


def test_the_teacher_hears_both_speeds_at_one_level(made: Path, folders: tuple[Path, Path, Path]) -> None:
    path = min(folders[0].glob("*.wav"))
    settings: dict[str, Any] = {
        "rate_hz": 8000,
        "samples": 16000,
        "teacher": str(made / "teacher.safetensors"),
        "sha256": "",
    }
    found = teach_default_model.hear_clip(path, 0.0, 2.0, **settings)
    wave = torch.from_numpy(read_cycle_waveform(path, 0.0, 2.0, rate_hz=8000, samples=16000, fade_samples=0))[None]
    wave = wave * 0.05 / wave.square().mean().sqrt()
    network = teach_default_model.load_teacher(settings["teacher"], 8000).network
    maps = [m for speed in (1, 4) for m in network.maps(EfficientATLogMel(8000, speed=speed)(wave))[:-1]]
    expected = torch.cat([part for m in maps for part in (m.mean((2, 3))[0], m.amax((2, 3))[0])])
    assert np.allclose(found, expected.detach().numpy(), atol=1e-4)
    assert len(found) == 2 * 2 * (8 + 16)


def test_components_are_those_of_what_is_known() -> None:
    known = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32) * np.arange(1, 11)
    known[:, 1] = known[:, 0] * 2
    targets = teach_default_model.find_components(known.astype(np.float32), known.astype(np.float32), 0)
    assert targets.shape == (60, 10)
    assert (targets**2).mean() == pytest.approx(1, abs=1e-5)
    assert np.abs(np.corrcoef(targets[:, :9].T) - np.eye(9)).max() < 1e-2
    assert targets[:, 0].std() > targets[:, 1].std() > targets[:, 8].std()


def test_crops_lie_in_their_recordings(folders: tuple[Path, Path, Path]) -> None:
    cycles = make_default_model.join_databases(read_cycles(folders[0]), read_cycles(folders[1]))
    train = cycles[cycles["split"] == "train"]
    crops = teach_default_model.crop_recordings(train, 0)
    assert (crops["start_s"] >= 0).all()
    assert (crops["end_s"] - crops["start_s"] <= teach_default_model.CROP_S + 1e-9).all()
    assert set(crops["path"]) == set(train["path"])
    pd.testing.assert_frame_equal(crops, teach_default_model.crop_recordings(train, 0))
