"""M2D2's decision layer: threshold by hand with each of its ties, shifts, and several runs as one."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rales.data import read_cycles
from rales.errors import UsageError
from rales.evaluation.decision_layer import SHIFTS_S, THRESHOLDS, ShiftedWaveforms, choose_frozen_threshold
from rales.inference.ensemble import evaluate_ensemble
from rales.inference.load_model import load_model
from rales.labels import CLASSES
from tests import tiny
from tests.command import command


def answers(*normal: float) -> np.ndarray:
    """Probabilities of "normal" -> (n, 4), the rest crackle."""
    p = np.array(normal)
    return np.stack([p, 1 - p, 0 * p, 0 * p], axis=1)


def test_the_middle_of_equal_thresholds() -> None:
    """Normal at 0.805, crackle at 0.395: 0.40 to 0.80 are right, and 0.60 is their middle."""
    assert pytest.approx([0.05 + 0.01 * i for i in range(91)]) == THRESHOLDS
    assert choose_frozen_threshold([0, 1], answers(0.805, 0.395), ["a", "a"]) == pytest.approx(0.60)


def test_of_equal_scores_that_of_the_patients_counts() -> None:
    """Two normal cycles at 0.705 and 0.505, two crackles at 0.605 and 0.305: from 0.31 to 0.50 both normal ones and a
    crackle are right, from 0.61 to 0.70 one and both crackles, Score 75 either way."""
    true, p = [0, 0, 1, 1], answers(0.705, 0.505, 0.605, 0.305)
    # a has a normal one, b one of each, c a crackle: 50 each in both ranges, so the middle of the 30: 0.45 and 0.46
    assert choose_frozen_threshold(true, p, ["a", "b", "b", "c"]) == pytest.approx(0.45)
    # with both crackles of b: a 50 and b 75 in the lower range, 50 and 50 in the upper one; its middle: 0.40 and 0.41
    assert choose_frozen_threshold(true, p, ["a", "b", "b", "b"]) == pytest.approx(0.40)


def test_a_side_without_one_kind_chooses_nothing() -> None:
    with pytest.raises(ValueError, match="all 2 cycles are normal"):
        choose_frozen_threshold([0, 0], answers(0.8, 0.4), ["a", "b"])


def test_a_shift_turns_the_clip_round() -> None:
    waves = np.arange(8, dtype=np.float32).reshape(2, 4)
    later = ShiftedWaveforms(waves, 1)
    assert later[np.array([1])].tolist() == [[7, 4, 5, 6]]
    assert ShiftedWaveforms(waves, -1)[np.array([0, 1])].tolist() == [[1, 2, 3, 0], [5, 6, 7, 4]]
    assert len(later) == 2
    assert SHIFTS_S == (-0.35, -0.2, -0.1, 0, 0.1, 0.2, 0.35)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and the runs 0 and 1, which hold the same validation patients out."""
    place = tmp_path_factory.mktemp("ensemble")
    cycles = read_cycles(tiny.write_folder(place / "data"))
    for seed in (0, 1):
        words = ("train.select=validation", "train.validation_share=0.4", "train.epochs=2", f"seed={seed}")
        recipe = tiny.recipe(*words, "train.lr=0.003")
        recipe.run(recipe, cycles, place / str(seed), cache_folder=place / "cache")
    return place


def test_runs_are_scored_as_one(runs: Path) -> None:
    cycles, models = read_cycles(runs / "data"), [load_model(runs / name, "cpu") for name in ("0", "1")]
    options: dict[str, Any] = {"cache_folder": runs / "cache"}
    figures = evaluate_ensemble(models, cycles, **options)
    layer = figures["decision_layer"]
    true, mean, keys = {}, {}, {}
    for part in ("", "_validation"):
        tables = [pd.read_csv(runs / name / f"predictions{part}.csv") for name in ("0", "1")]
        true[part] = tables[0]["true_label"].map(CLASSES.index).to_numpy()
        mean[part] = np.mean([table[[f"p_{name}" for name in CLASSES]].to_numpy() for table in tables], axis=0)
        keys[part] = tables[0][["recording", "cycle"]].itertuples(index=False)

    people = cycles.set_index(["recording", "cycle"])["patient"]
    patients = [people[tuple(key)] for key in keys["_validation"]]
    threshold = choose_frozen_threshold(true["_validation"], mean["_validation"], patients)
    assert layer["threshold"] == threshold
    called = np.where(mean[""][:, 0] >= threshold, 0, 1 + mean[""][:, 1:].argmax(axis=1))
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (true[""], called), 1)
    assert figures["confusion"] == confusion.tolist()
    assert (layer["runs"], layer["validation_cycles"], layer["validation_patients"]) == (2, 8, 2)
    for model, found in zip(("0", "1"), layer["most_probable"]["runs"], strict=True):
        assert found["score"] == json.loads((runs / model / "evaluation.json").read_text())["score"]

    shifted = evaluate_ensemble(models, cycles, shifts_s=(0.0, 2.0), **options)  # once round is as before
    assert shifted["confusion"] == figures["confusion"]


def test_what_is_not_one(runs: Path) -> None:
    model = load_model(runs / "0", "cpu")
    other = read_cycles(runs / "data").iloc[:-4]
    with pytest.raises(UsageError, match="expected the data that the run was trained on"):
        evaluate_ensemble([model], other)
    with pytest.raises(UsageError, match="expected models of the same classes"):
        evaluate_ensemble([model, tiny.model("classes=a,b")], other)
    chosen = replace(model.recipe.settings, train=replace(model.recipe.settings.train, select="test_best"))
    cheat = copy.copy(model)
    cheat.recipe = replace(model.recipe, settings=chosen)
    with pytest.raises(UsageError, match="chose their epochs in different ways"):
        evaluate_ensemble([model, cheat], read_cycles(runs / "data"))


def test_by_the_command(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(runs / "cache"))
    data = ("--data", runs / "data", "--device", "cpu")
    code, out, said = command(capsys, "evaluate", runs / "0", runs / "1", "--shifts", "m2d2", *data)
    assert code == 0, said
    assert "mean of 2 runs and 7 shifts in time" in out
    assert "not a diagnosis" in out
    code, _, said = command(capsys, "evaluate", runs / "0", "--shifts", "none", "--split", "all", *data)
    assert (code, "leave --split, --metric and --events out" in said) == (2, True)
