"""What frozen teachers make of crops: beside numbers computed another way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rales.audio.efficientat_logmel import EfficientATLogMel
from rales.data.corpus import read_corpus
from rales.data.random_crops import CropDataset, sample_crops
from rales.models import ViT
from rales.models.mobilenet import MobileNet
from rales.training import run_folder
from rales.training.teachers import (
    ClipTeacher,
    ColumnTeacher,
    load_teacher,
    load_teacher_statistics,
    measure_teacher_statistics,
)
from tests import tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> ClipTeacher:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teachers") / "mn.safetensors"
    save_file(MobileNet(0.4, blocks=2).state_dict(), path)
    found = load_teacher(path, 16000)
    assert isinstance(found, ClipTeacher)
    return found


def test_blocks_are_pooled_of_both_speeds_at_one_level(teacher: ClipTeacher) -> None:
    wave = 0.3 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(1))
    quiet = wave * torch.tensor([[1.0], [1e-3]])
    network, parts = teacher.encoder.network, []
    for speed in (1, 4):
        for layer in network(EfficientATLogMel(16000, speed=speed)(0.05 * wave / wave.square().mean(1, True).sqrt()))[
            :-1
        ]:
            parts += [layer.mean(1), layer.amax(1)]
    expected = torch.cat(parts, dim=1)
    assert expected.shape == (2, teacher.width) == (2, 2 * 2 * (8 + 16))
    assert torch.allclose(teacher.encoder(quiet), expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_features_are_standardised_by_what_was_measured(teacher: ClipTeacher, tmp_path: Path) -> None:
    crops = CropDataset(read_corpus([tiny.write_folder(tmp_path / "data")]), 8000)
    notes: list[dict[str, str]] = []
    found = measure_teacher_statistics(teacher, crops, 9, seed=0, threads=1, notes=notes, progress=False)
    waves = torch.from_numpy(np.stack([crop.wave for crop in sample_crops(crops, 9, seed=0)]))
    vectors = teacher.encoder(waves).double().numpy()
    assert np.allclose(found["mean"], vectors.mean(axis=0), atol=1e-4)
    assert np.allclose(found["std"], vectors.std(axis=0), atol=1e-3)

    run_folder.save_tensors(tmp_path / "measured.safetensors", found, {})
    load_teacher_statistics(teacher, tmp_path / "measured.safetensors")
    expected = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-3)
    heard = teacher(waves, torch.zeros(0))
    assert heard.shape == (9, 1, teacher.width)
    assert np.allclose(heard[:, 0], expected.clip(-8, 8), atol=1e-2)
    assert teacher(1000 * torch.eye(2, 8000), torch.zeros(0)).abs().max() == 8  # clicks are far from all of these
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(waves, torch.zeros(0)), heard)

    run_folder.save_tensors(tmp_path / "other.safetensors", {name: each[1:] for name, each in found.items()}, {})
    with pytest.raises(ValueError, match=r"other.safetensors: its tensors do not fit"):
        load_teacher_statistics(teacher, tmp_path / "other.safetensors")


def test_a_vit_gives_its_last_layer_and_other_networks_are_a_sentence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = ViT(16, 2, 2, unit_frames=96).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors", metadata={"heads": "2", "unit_frames": "96"})
    teacher = load_teacher(tmp_path / "vit.safetensors", 16000)
    assert isinstance(teacher, ColumnTeacher)
    logmel = torch.randn(2, 1, 80, 96)
    expected = vit(logmel)[-1].unflatten(1, (5, 6)).transpose(1, 2).flatten(2)
    assert torch.equal(teacher(torch.zeros(0), logmel), expected)
    assert teacher.width == expected.shape[2]
    save_file({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: a checkpoint of another architecture"):
        load_teacher(tmp_path / "other.safetensors", 16000)
