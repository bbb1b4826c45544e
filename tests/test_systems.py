"""Every earlier system on the harness: it trains on a tiny folder, answers from its checkpoint alone, and goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rales
from rales import finetune, predict, recipes, runs
from rales.config import Recipe, UsageError
from rales.data import read_cycles
from rales.metrics import CLASSES
from rales.recipes import RECIPES
from tests import tiny

SYSTEMS = [name for name in RECIPES if name != "m2d_fusion"]
WORDS = ("audio.duration_s=0.8", "train.epochs=2", "train.device=cpu", "train.precision=float32", "train.batch_size=8")
FILES = {"config.json", "metrics.jsonl", "predictions.csv", "last.safetensors", "best.safetensors", "done"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and `cache`."""
    folder = tmp_path_factory.mktemp("systems")
    tiny.write_folder(folder / "data")
    return folder


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data")


def made(name: str, *words: str) -> Recipe:
    return recipes.make(name, [*WORDS, *words], size="tiny")


def train(recipe: Recipe, cycles: pd.DataFrame, place: Path, out: Path) -> dict[str, Any]:
    figures: dict[str, Any] = recipe.run(recipe, cycles, out, cache_folder=place / "cache")
    return figures


@pytest.fixture(scope="module")
def trained(place: Path, cycles: pd.DataFrame) -> Any:
    """Name -> the run folder of its plain settings, trained once."""

    def trained(name: str) -> Path:
        if not (place / name / "done").exists():
            train(made(name), cycles, place, place / name)
        return place / name

    return trained


def furthest(one: Path, two: Path) -> float:
    """Two run folders -> the largest difference between their last weights."""
    first, second = (runs.read_checkpoint(run / "last.safetensors")[0] for run in (one, two))
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_is_scored_again_from_its_checkpoint(
    name: str, trained: Any, cycles: pd.DataFrame, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(name)
    assert {path.name for path in run.iterdir()} >= FILES
    assert runs.read_json(run / "config.json")["provenance"] == made(name).provenance != "ours"
    table = pd.read_csv(run / "predictions.csv")
    test = cycles[cycles["split"] == "test"]
    assert table[["recording", "cycle"]].to_numpy().tolist() == test[["recording", "cycle"]].to_numpy().tolist()
    columns = [f"p_{word}" for word in CLASSES]
    model = rales.load(run, device="cpu")
    again = model.predict(sorted(set(test["path"])))
    assert np.abs(again[columns].to_numpy() - table[columns].to_numpy()).max() < 1e-5
    figures = runs.read_json(run / "evaluation.json")
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    evaluated = predict.evaluate(run, cycles, device="cpu")
    assert evaluated["confusion"] == figures["confusion"]
    assert evaluated["protocol"]["provenance"] == made(name).provenance
    vectors = model.embed(test["path"].iloc[0])
    assert vectors.shape[0] == 4
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("name", SYSTEMS)
def test_fidelity_changes_the_system_or_is_refused(name: str) -> None:
    plain, original = made(name), made(name, "fidelity=original")
    assert original.options["fidelity"] == "original"
    assert plain.options["fidelity"] == "corrected"
    with pytest.raises(UsageError, match="fidelity 'exact' is unknown; expected one of corrected, original"):
        made(name, "fidelity=exact")


def stopped_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Ctrl-C after so many epochs in all, whatever the stage."""
    keep, count = finetune.keep, 0

    def stopping(*arguments: Any) -> None:
        nonlocal count
        keep(*arguments)
        count += 1
        if count == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "keep", stopping)


INTERRUPTED = [
    *(("moummad_scl", 1), ("moummad_scl", 2), ("moummad_scl", 3)),  # inside, between and inside the second stage
    *(("respirenet", 1), ("respirenet", 3)),  # in stage 1, after the first device
    *((name, 1) for name in ("lungrn_nl", "lungattn", "nguyen_cotuning", "nguyen_stochnorm", "ast_patchmix_cl")),
]


@pytest.mark.parametrize(("name", "epochs"), INTERRUPTED)
def test_a_stopped_run_ends_as_an_undisturbed_one(
    name: str,
    epochs: int,
    trained: Any,
    cycles: pd.DataFrame,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = trained(name)
    with monkeypatch.context() as patch:
        stopped_after(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            train(made(name), cycles, place, tmp_path / "run")
    assert not (tmp_path / "run" / "done").exists()
    train(made(name), cycles, place, tmp_path / "run")
    assert furthest(tmp_path / "run", undisturbed) == 0
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == (undisturbed / "predictions.csv").read_bytes()


def test_losses_over_whole_batches_refuse_pieces(cycles: pd.DataFrame, place: Path, tmp_path: Path) -> None:
    recipe = made("moummad_ce", "train.micro_batch=2")
    with pytest.raises(ValueError, match="moummad_ce compares the cycles of a whole batch"):
        train(recipe, cycles, place, tmp_path / "run")


def test_the_probe_trains_its_layer_alone(trained: Any) -> None:
    run = trained("moummad_scl")
    first, last = (runs.read_checkpoint(path / "last.safetensors")[0] for path in (run / "stage1", run))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"head.weight", "head.bias"}
