"""What a killed command left behind goes at the next start, also where the file itself was whole already."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rales.export import engine_selection
from rales.inference import similarity_search
from rales.models import hub
from tests import tiny


def abandoned(place: Path, name: str) -> Path:
    """-> the folder in which a process has written a file and was killed when it was in its place."""
    folder = place / f"{name}.0a1b2c3d.part"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    return folder


def test_beside_an_index(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    table = tiny.model().embed_table([tiny.write_folder(tmp_path / "data")], quality=False)
    similarity_search.write_vectors(table, tmp_path / "e.npz")
    seal = similarity_search.read_rows(tmp_path / "e.npz")[0].attrs["seal"]
    similarity_search.open_index(tmp_path / "e.npz", seal)
    left, other = abandoned(tmp_path, ".e.npz.usearch"), abandoned(tmp_path, ".somebody")
    similarity_search.open_index(tmp_path / "e.npz", seal)
    assert not left.exists()
    assert other.exists(), "only its own: the folder may be anybody's"


def test_beside_an_engine_and_in_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = tiny.model()
    monkeypatch.setattr(engine_selection, "open_artefact", lambda *_: model)
    engine_selection.engine_cache_file(model).parent.mkdir(parents=True)
    engine_selection.engine_cache_file(model).with_suffix(".onnx").touch()
    left = [abandoned(tmp_path / "cache" / "engines", ".a.onnx"), abandoned(tmp_path, "rales")]
    assert engine_selection.load_or_make_engine(model, "onnx") == model.engine
    assert not any(folder.exists() for folder in left)


def test_beside_a_public_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it was downloaded."""
    monkeypatch.setenv("RALES_CACHE", str(tmp_path))
    name = next(iter(hub.PUBLIC))
    place = hub.checkpoint_folder() / name
    place.mkdir(parents=True)
    np.save(place / "checkpoint.npy", np.zeros(1))
    (place / "checkpoint.npy").rename(place / "checkpoint-300.pth")
    (place.parent / f"{name}.json").write_text(json.dumps({"files": {}}))
    left = [abandoned(place.parent, f".{name}.json"), abandoned(place.parent, f".{name}")]
    assert hub.fetch_checkpoint(name, progress=False) == place / "checkpoint-300.pth"
    assert not any(path.exists() for path in left)
