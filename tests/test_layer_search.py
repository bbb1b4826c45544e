"""Layer search: pooled layers, the files of a whole search, which recordings take part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rales.data import read_cycles
from rales.errors import UsageError
from rales.jobs import layer_search, linear_probe
from rales.labels import LabelSet
from rales.models import ViT, mean_plus_max
from tests import tiny


def test_pooled_layers_and_weights_of_any_sign() -> None:
    torch.manual_seed(0)
    encoder = ViT(24, 2, 2, unit_frames=64).eval()
    waves = torch.randn(5, 80 * 96).numpy()

    frontend = torch.nn.Unflatten(1, (1, 80, 96))
    pooled = layer_search.features(encoder, frontend, waves, [4, 0, 2], precision="float32", batch=2)
    weight = [0.7, -1.3]
    with torch.inference_mode():
        outputs = encoder(frontend(torch.from_numpy(waves[[4, 0, 2]])))
        expected = torch.stack([mean_plus_max(w * z) for w, z in zip(weight, outputs, strict=True)], dim=1)
    assert pooled["mean"].shape == (3, 2, 24)
    assert np.abs(linear_probe.weighted(pooled, weight) - expected.numpy()).max() < 1e-4
    wrong = expected[:, 1].numpy() - -1.3 * (pooled["mean"] + pooled["max"])[:, 1]
    assert np.abs(wrong).max() > 0.1

    normed = layer_search.features(encoder, frontend, waves, [4], precision="float32", norm_layers=True)
    with torch.inference_mode():
        tokens = encoder(frontend(torch.from_numpy(waves[[4]])))[0]
    tokens = (tokens - tokens.mean(dim=-1, keepdim=True)) / (
        tokens.var(dim=-1, correction=0, keepdim=True) + 1e-6
    ).sqrt()
    assert normed["mean"][:, 0] == pytest.approx(tokens.mean(dim=1).numpy(), abs=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("layers") / "data")


def test_a_search_from_folder_to_picture(
    folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    out, cycles = tmp_path / "out", read_cycles(folder)
    again: dict[str, Any] = {"size": "tiny", "folds": 3, "cache_folder": tmp_path_factory.mktemp("cache")}
    found = layer_search.search(cycles, "", out, command="rales layers", **again)
    assert len(found) == 7
    assert sorted(file.name for file in out.glob("[!.]*")) == [
        *("best_by_size.csv", "cka.csv", "counts.safetensors", "features.safetensors"),
        *("layers.json", "layers.png", "leave_one_out.csv", "subsets.csv"),
    ]
    written = pd.read_csv(out / "subsets.csv", dtype={"layers": str})
    pd.testing.assert_frame_equal(written, found)
    best = pd.read_csv(out / "best_by_size.csv", dtype={"layers": str})
    assert best["score"].tolist() == [found.loc[found["size"] == size, "score"].max() for size in (1, 2, 3)]
    assert (out / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(found["rank_by_auroc"]) == list(range(1, 8))
    assert found.loc[found["rank_by_auroc"] == 1, "auroc"].item() == found["auroc"].max()
    record = json.loads((out / "layers.json").read_text())
    assert record["best_by_auroc"]["auroc"] == found["auroc"].max()
    assert [row["layer"] for row in record["leave_one_out"]] == [1, 2, 3]
    assert np.diag(record["cka"]).tolist() == pytest.approx([1, 1, 1])
    assert record["finished"]
    assert record["command"] == "rales layers"
    assert record["settings"]["data"]["cycles"] == 4 * len(tiny.TRAIN)  # the test recordings chose nothing
    assert record["settings"]["data"]["part"] == "train"
    assert sum(record["learned"]["normalised"]) == pytest.approx(1)
    notes = " ".join(record["notes"])
    for words in ("test set chose nothing", "50.0", "Not the whole", "not comparable", "random weights"):
        assert words in notes

    def not_needed(*_: object, **__: object) -> None:
        raise AssertionError("the pooled layers were kept")

    monkeypatch.setattr(layer_search, "features", not_needed)
    shuffled = cycles.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(layer_search.search(shuffled, "", out, **again), found)
    with pytest.raises(ValueError, match=r"other settings \(c is 0.001 there, 0.1 here\)"):
        layer_search.search(cycles, "", out, c=0.1, **again)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        layer_search.search(cycles, "", tmp_path / "other", **again)


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the search."""
    monkeypatch.setattr(layer_search, "draw_search", lambda *_: None)


@pytest.mark.usefixtures("no_picture")
def test_all_recordings_only_when_asked_for(folder: Path, tmp_path: Path) -> None:
    cycles = read_cycles(folder)
    with pytest.raises(ValueError, match="no cycle is in the train split"):
        layer_search.search(cycles.assign(split=""), "", tmp_path / "none", size="tiny")
    settings: dict[str, Any] = {
        "size": "tiny",
        "folds": 2,
        "sizes": [1],
        "part": "all",
        "cache_folder": tmp_path / "cache",
    }
    assert len(layer_search.search(cycles, "", tmp_path / "all", **settings)) == 3
    record = json.loads((tmp_path / "all" / "layers.json").read_text())
    assert record["settings"]["data"]["cycles"] == len(cycles)
    assert any("has seen the test set" in note for note in record["notes"])


@pytest.mark.usefixtures("no_picture")
def test_own_classes(folder: Path, tmp_path: Path) -> None:
    """Three of the own data's, and none of which a cycle may have several."""
    words = {"normal": "healthy", "crackle": "rhonchi", "wheeze": "stridor", "both": "stridor"}
    cycles, label_set = read_cycles(folder), LabelSet(("healthy", "rhonchi", "stridor"))
    cycles = cycles.assign(label=cycles["label"].map(words))
    settings: dict[str, Any] = {"size": "tiny", "folds": 2, "sizes": [1], "cache_folder": tmp_path / "cache"}
    found = layer_search.search(cycles, "", tmp_path / "out", label_set=label_set, **settings)
    assert len(found) == 3
    record = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert record["settings"]["data"]["classes"] == {"healthy": 5, "rhonchi": 5, "stridor": 10}
    assert any("Every cycle called healthy: 50.0" in note for note in record["notes"])
    with pytest.raises(UsageError, match="rhonchi, stridor are independent; leave --independent out"):
        layer_search.search(cycles, "", tmp_path / "x", label_set=LabelSet(("rhonchi", "stridor"), True), **settings)
