"""Logits of every epoch in the run folder: the figures of metrics.jsonl to the last digit, whatever stops a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rales.data import read_cycles
from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.evaluation.predictions import FIGURES
from rales.labels import CLASSES
from rales.training import epoch_logits, finetune, run_folder
from tests import tiny

FLOATS = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([0.0, 1e-7, 2e-7, 1e-30, 1.0, 1.0 + 2.0**-23]))


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=FLOATS))
def test_half_logits_keep_the_most_probable_class(logits: np.ndarray) -> None:
    half = epoch_logits.half_logits(torch.from_numpy(logits))
    assert half.dtype == torch.float16
    assert torch.isfinite(half).all()
    assert half.numpy().argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()
    exact, kept = (torch.softmax(values.double(), dim=1) for values in (torch.from_numpy(logits), half))
    assert float((exact - kept).abs().max()) < 2e-4


def test_plain_rounding_would_change_a_class() -> None:
    """Why `half_logits` is not `.half()`: these two are one number in float16, and then the first class wins."""
    close = torch.tensor([[5.0, 5.001, 0.0, 0.0]])
    assert int(close.half().numpy().argmax()) == 0
    assert int(epoch_logits.half_logits(close).numpy().argmax()) == 1


def test_a_repeated_epoch_replaces_itself_and_what_came_after(tmp_path: Path) -> None:
    for epoch, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, -2.0), (3, -3.0)):
        test = torch.full((5, 4), value, dtype=torch.float16)
        epoch_logits.append_epoch(
            tmp_path, epoch, {"test": test, "layer_weights": torch.ones(2), "layers": torch.arange(2)}
        )
    found = epoch_logits.read_epochs(tmp_path)
    assert found["epoch"].tolist() == [1, 2, 3]
    assert found["test"][:, 0, 0].tolist() == [1, -2, -3]
    assert (found["test"].shape, found["layer_weights"].shape, found["layers"].shape) == ((3, 5, 4), (3, 2), (2,))
    assert epoch_logits.read_epochs(tmp_path / "nothing") == {}


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    epoch_logits.append_epoch(tmp_path, 1, {"test": torch.zeros(5, 4).half()})
    (tmp_path / epoch_logits.FILE).write_bytes((tmp_path / epoch_logits.FILE).read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"epochs\.safetensors: damaged"):
        epoch_logits.read_epochs(tmp_path)


@pytest.mark.parametrize("words", [(), ("train.select=validation",), ("train.evaluate_every=2",)])
def test_a_run_keeps_the_figures_of_every_scored_epoch(tmp_path: Path, words: tuple[str, ...]) -> None:
    cycles = read_cycles(tiny.write_folder(tmp_path / "data"))
    finetune.run(tiny.recipe("train.lr=0.01", *words), cycles, tmp_path / "run", cache_folder=tmp_path / "cache")
    found, lines = epoch_logits.read_epochs(tmp_path / "run"), run_folder.read_metrics(tmp_path / "run")
    parts = {"test": "predictions", "validation": "predictions_validation"}
    for part in parts if "train.select=validation" in words else ("test",):
        table = pd.read_csv(tmp_path / "run" / f"{parts[part]}.csv")
        true = [CLASSES.index(label) for label in table["true_label"]]
        watched = [line for line in lines if line["split"] == part]
        assert found["epoch"].tolist() == [line["epoch"] for line in watched]
        for logits, line in zip(found[part], watched, strict=True):
            scores = icbhi_scores(confusion_matrix(true, logits.argmax(axis=1)))
            assert scores == {name: line[name] for name in FIGURES}  # to the last digit
    weights = run_folder.read_json(tmp_path / "run" / "layer_weights.json")
    assert found["layers"].tolist() == weights["layers"]
    assert found["layer_weights"].shape == (len(found["epoch"]), 2)
    if not words:
        assert found["layer_weights"][-1].tolist() == pytest.approx(weights["raw"])
        assert found["layer_weights"][0].tolist() != found["layer_weights"][-1].tolist()


@pytest.mark.parametrize("words", [("train.evaluate_every=2",), ("split.name=folds", "split.folds=2")])
def test_a_folder_that_another_run_left_in_its_first_epoch_holds_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Stopped between the logits of epoch 1 and the file that a run resumes from; then the folder is anyone's."""
    cycles = read_cycles(tiny.write_folder(tmp_path / "data"))
    save = run_folder.save_tensors

    def stopped(path: Path, *arguments: object) -> None:
        if path.name == "resume.next.safetensors":
            raise KeyboardInterrupt
        save(path, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_tensors", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(tiny.recipe(), cycles, tmp_path / "run", cache_folder=tmp_path / "cache")
    assert epoch_logits.read_epochs(tmp_path / "run")["epoch"].tolist() == [1]

    for out in ("run", "fresh"):
        finetune.run(tiny.recipe(*words), cycles, tmp_path / out, cache_folder=tmp_path / "cache")
    again, fresh = (epoch_logits.read_epochs(tmp_path / out) for out in ("run", "fresh"))
    assert again.keys() == fresh.keys()
    assert all(np.array_equal(again[name], fresh[name]) for name in fresh)


def test_of_equal_aurocs_the_score_and_then_the_later_epoch_count() -> None:
    state: dict[str, Any] = {"best_score": None, "best_epoch": None}
    train = {"select": "validation", "select_by": "auroc"}
    figures = [(0.7, 0.5), (0.9, 0.5), (0.9, 0.4), (0.9, 0.6), (0.9, 0.6), (0.8, 0.9), (float("nan"), 0.9)]
    kept = []
    for epoch, (auroc, score) in enumerate(figures, start=1):
        line = {"split": "validation", "epoch": epoch, "auroc": auroc, "score": score}
        kept.append(finetune.is_best(train, [line], state))
    assert kept == [True, True, False, True, True, False, False]
    assert state["best_epoch"] == 5

    state = {"best_score": None, "best_epoch": None}
    tests = [{"split": "test", "epoch": epoch, "score": score} for epoch, score in ((1, 0.6), (2, 0.6), (3, 0.7))]
    assert [finetune.is_best({"select": "test_best"}, [line], state) for line in tests] == [True, False, True]
