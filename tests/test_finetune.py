"""The supervised loop on a tiny folder: it learns, repeats itself, and goes on where it was stopped."""

import itertools
import math
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import rales
from rales.cli.result_lines import figure_lines
from rales.data import read_cycles, splits
from rales.evaluation.metrics import confusion_matrix, icbhi_scores
from rales.evaluation.predictions import FIGURES
from rales.files.writers import write_json
from rales.labels import CLASSES
from rales.settings import RunSettings, Training
from rales.training import epoch_logits, finetune, run_folder
from rales.training.recipe import Recipe
from tests import tiny
from tests.run_folders import (
    check_two_processes,
    furthest,
    lines,
    start_script,
    tensors,
    train_in_two_processes,
    train_under_torchrun,
)

FILES = {"config.json", "metrics.jsonl", "predictions.csv", "last.safetensors", "best.safetensors"}
FILES |= {"layer_weights.json", "evaluation.json", "epochs.safetensors", "done"}
PLAIN = ("augment.frequency_width=0", "augment.time_width=0", "augment.time_warp_frames=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and `cache` for the waveforms."""
    folder = tmp_path_factory.mktemp("finetune")
    tiny.write_folder(folder / "data")
    return folder


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data")


Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def train(place: Path, cycles: pd.DataFrame) -> Train:
    """(run folder, words or a recipe) -> figures."""

    def train(out: Path, *words: str, recipe: Recipe | None = None) -> dict[str, Any]:
        return finetune.run(recipe or tiny.recipe(*words), cycles, out, cache_folder=place / "cache")

    return train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """The run folder of the plain settings."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(out)
    return out


def epoch_of(out: Path, name: str = "best") -> int:
    return int(run_folder.read_checkpoint(out / f"{name}.safetensors")[1]["epoch"])


def same_run(one: Path, two: Path) -> None:
    """Everything that a run leaves behind is equal but for times and dates."""
    assert {p.name for p in one.glob("[!.]*")} == {p.name for p in two.glob("[!.]*")} == FILES
    assert lines(one) == lines(two)
    for name in ("best", "last"):
        first, second = tensors(one, name), tensors(two, name)
        assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())
    for name in ("predictions.csv", "layer_weights.json", "evaluation.json", "epochs.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


# What a run leaves behind


def test_the_run_folder_holds_what_the_contract_says(undisturbed: Path) -> None:
    assert {path.name for path in undisturbed.glob("[!.]*")} == FILES
    config = run_folder.read_json(undisturbed / "config.json")
    assert (config["recipe"], config["seed"], config["classes"]) == ("m2d_fusion", 0, list(CLASSES))
    assert config["config"]["train"]["epochs"] == 3
    assert config["split"]["train"]["classes"] == dict.fromkeys(CLASSES, 5)
    assert config["split"]["whole_database"] is False
    assert config["computed_in"] == {"device": "cpu", "precision": "float32", "processes": 1}
    assert config["versions"]["torch"] == torch.__version__
    assert "commit" in config

    found = lines(undisturbed)
    assert [(line["epoch"], line["split"]) for line in found] == [(e, s) for e in (1, 2, 3) for s in ("train", "test")]
    assert all({"loss", "specificity", "sensitivity", "score"} <= set(line) for line in found)

    weights = run_folder.read_json(undisturbed / "layer_weights.json")
    assert weights["layers"] == [1, 2]
    assert weights["raw"] == tensors(undisturbed, "best")["fusion.weight"].double().tolist()
    assert weights["raw"] != [1.0, 1.0]
    assert sum(weights["normalised"]) == pytest.approx(1)


def test_predictions_and_evaluation_agree(undisturbed: Path, cycles: pd.DataFrame) -> None:
    table = pd.read_csv(undisturbed / "predictions.csv")
    assert list(table.columns[:9]) == ["recording", "cycle", "start_s", "end_s", "label", *(f"p_{c}" for c in CLASSES)]
    test = cycles[cycles["split"] == "test"]
    assert table[["recording", "cycle"]].to_numpy().tolist() == test[["recording", "cycle"]].to_numpy().tolist()
    assert table["true_label"].tolist() == test["label"].tolist()
    probabilities = table[[f"p_{name}" for name in CLASSES]].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert [CLASSES[i] for i in probabilities.argmax(axis=1)] == table["label"].tolist()

    figures = run_folder.read_json(undisturbed / "evaluation.json")
    true, predicted = ([CLASSES.index(word) for word in table[column]] for column in ("true_label", "label"))
    counts = confusion_matrix(true, predicted)
    assert figures["confusion"] == counts.tolist()
    assert {name: figures[name] for name in FIGURES} == pytest.approx(icbhi_scores(counts))
    assert all(len(figures["ci95"][name]) == 2 for name in FIGURES)
    assert figures["protocol"]["selected_epoch"] == 3
    assert figures["protocol"]["cycles"] == 12
    last = lines(undisturbed)[-1]
    assert {name: last[name] for name in FIGURES} == {name: figures[name] for name in FIGURES}


def test_it_learns(tmp_path: Path, train: Train) -> None:
    train(tmp_path / "run", "train.epochs=25", "train.lr=0.003", "train.evaluate_every=25", *PLAIN)
    losses = [line["loss"] for line in lines(tmp_path / "run") if line["split"] == "train"]
    assert losses[0] == pytest.approx(math.log(4), abs=0.2)  # the head starts near zero
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert [line["epoch"] for line in lines(tmp_path / "run") if line["split"] == "test"] == [25]


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path, train: Train, undisturbed: Path) -> None:
    train(tmp_path / "again")
    same_run(tmp_path / "again", undisturbed)
    train(tmp_path / "other", "seed=1")
    assert lines(tmp_path / "other")[0]["loss"] != lines(undisturbed)[0]["loss"]


def test_a_finished_run_is_returned_as_it_is(train: Train, undisturbed: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in undisturbed.glob("[!.]*")}
    figures = train(undisturbed)
    assert figures == run_folder.read_json(undisturbed / "evaluation.json")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in undisturbed.glob("[!.]*")} == before
    with pytest.raises(ValueError, match=r"holds a run of other settings \(config.train.lr is 0.001 there, 0.1 here\)"):
        train(undisturbed, "train.lr=0.1")


# Stopped and gone on


def stop_after(function: str, calls: int, *, before: bool = False) -> Callable[[pytest.MonkeyPatch], None]:
    """Ctrl-C at a given call of a function of `finetune`, `run_folder` or `epoch_logits`, after it or instead of it."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        module = next(module for module in (finetune, run_folder, epoch_logits) if hasattr(module, function))
        original, count = getattr(module, function), 0

        def stopping(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == calls and before:
                raise KeyboardInterrupt
            result = original(*arguments, **options)
            if count == calls:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(module, function, stopping)

    return patch


@pytest.mark.parametrize(
    ("moment", "epochs_kept"),
    [
        pytest.param(stop_after("save_epoch", 1), 1, id="after epoch 1"),
        pytest.param(stop_after("train_epoch", 1), 0, id="in epoch 1"),
        pytest.param(stop_after("append_metrics", 2), 1, id="metrics of epoch 2 written, weights not"),
        pytest.param(stop_after("append_epoch", 2), 1, id="logits of epoch 2 written, weights not"),
        pytest.param(stop_after("save_tensors", 5), 1, id="best of epoch 2 written, resume not"),
        pytest.param(stop_after("save_tensors", 9), 3, id="last written"),
        pytest.param(stop_after("write_csv", 1, before=True), 3, id="before predictions"),
        pytest.param(stop_after("write_json", 2), 3, id="before done"),
    ],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    tmp_path: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    moment: Callable[[pytest.MonkeyPatch], None],
    epochs_kept: int,
) -> None:
    words = ("train.select=test_best",)
    planned = [0.2, 0.6, 0.4]
    plan_scores(monkeypatch, planned)
    train(tmp_path / "undisturbed", *words)
    moment(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", *words)
    monkeypatch.undo()
    plan_scores(monkeypatch, planned)
    assert not (tmp_path / "stopped" / "done").exists()
    if epochs_kept:
        _, record = run_folder.read_checkpoint(tmp_path / "stopped" / "resume.safetensors")
        assert record["epoch"] == epochs_kept
    train(tmp_path / "stopped", *words)
    same_run(tmp_path / "stopped", tmp_path / "undisturbed")
    assert epoch_of(tmp_path / "stopped") == 2


@pytest.mark.parametrize("change", ["recompute", "version"])
def test_a_run_that_went_on_with_what_is_no_other_run_can_be_loaded(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, change: str
) -> None:
    """With recomputed activations, or after a version that lacked a setting."""
    stop_after("save_epoch", 1)(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    monkeypatch.undo()
    if change == "version":
        record = run_folder.read_json(tmp_path / "run" / "config.json")
        del record["config"]["train"]["sam_rho"]
        write_json(tmp_path / "run" / "config.json", record)
    train(tmp_path / "run", *(["model.recompute=yes"] if change == "recompute" else []))
    rales.load(tmp_path / "run")
    assert lines(tmp_path / "run") == lines(undisturbed)


def plan_scores(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Make the watched figures of each epoch a given number."""
    evaluate = finetune.evaluate_part

    def planned(job: finetune.Training, part: str, epoch: int) -> Any:
        line, logits = evaluate(job, part, epoch)
        return {**line, "score": scores[epoch - 1], "auroc": scores[epoch - 1]}, logits

    monkeypatch.setattr(finetune, "evaluate_part", planned)


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from rales.training import finetune
from rales.data import read_cycles
from tests import tiny

torch.set_num_threads(1)
place, out = map(Path, sys.argv[1:])
recipe, steps = tiny.recipe(), 0

def batch_loss(*arguments):
    global steps
    steps += 1
    if steps == 5:  # three steps an epoch: the middle of epoch 2
        os.kill(os.getpid(), signal.SIGKILL)
    return recipe.loss(*arguments)

cycles = read_cycles(place / "data")
finetune.run(replace(recipe, loss=batch_loss), cycles, out, cache_folder=place / "cache")
"""


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, place: Path, train: Train, undisturbed: Path) -> None:
    out = tmp_path / "killed"
    killed = start_script(KILLED, place, out)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [line["epoch"] for line in lines(out)] == [1, 1]
    assert not (out / "done").exists()
    train(out)
    same_run(out, undisturbed)


# Which epoch is kept


@pytest.mark.parametrize(
    ("select", "scores", "kept"),
    [
        ("last", [0.2, 0.9, 0.3], 3),
        ("test_best", [0.2, 0.9, 0.3], 2),
        ("test_best", [0.9, 0.9, 0.3], 1),
        ("test_best", [math.nan, 0.3, 0.4], 3),
        ("test_best", [math.nan, math.nan, math.nan], 3),
        ("validation", [0.2, 0.9, 0.3], 2),
    ],
)
def test_select(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, select: str, scores: list[float], kept: int
) -> None:
    plan_scores(monkeypatch, scores)
    words = [f"train.select={select}", "train.cosine_epochs=3"]
    figures = train(tmp_path / "run", *words)
    assert epoch_of(tmp_path / "run") == figures["protocol"]["selected_epoch"] == kept
    assert epoch_of(tmp_path / "run", "last") == 3
    assert figures["protocol"]["select"] == select
    # The weights are those of a run that ends with that epoch.
    monkeypatch.undo()
    train(tmp_path / "short", *words, f"train.epochs={kept}")
    assert furthest(tmp_path / "run", tmp_path / "short", "best", "last") == 0


ALL_NORMAL = [[3.0, 0.0, 0.0, 0.0]] * 4
HEARS = [[0.0, 0.5, 0.0, 0.0], [0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0, 1.0], [0.0, 3.0, 2.9, 2.5]]  # of each class


def plan_logits(monkeypatch: pytest.MonkeyPatch, logits: list[list[list[float]]]) -> None:
    """Make the network say, after each epoch in turn and at the end, these logits of a cycle of each class."""
    found, said = finetune.part_logits, {"validation": iter(logits), "test": iter([*logits, logits[0]])}
    last = list[list[list[float]]]()

    def planned(model: Any, frontend: Any, data: Any, part: str, context: Any) -> tuple[pd.DataFrame, Tensor]:
        cycles, _ = found(model, frontend, data, part, context)
        rows = next(said[part], last[0] if last else logits[0])
        last[:] = [rows]
        return cycles, torch.tensor([rows[CLASSES.index(label)] for label in cycles["label"]])

    monkeypatch.setattr(finetune, "part_logits", planned)


@pytest.mark.parametrize(("words", "kept"), [((), 2), (("train.select_by=score",), 1)])
def test_a_constant_answer_does_not_win_the_validation(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], kept: int
) -> None:
    """HEARS has Score 33.3 (no normal cycle and two of three abnormal ones) and ranks both sounds without a fault."""
    plan_logits(monkeypatch, [ALL_NORMAL, HEARS, ALL_NORMAL])
    figures = train(tmp_path / "run", "train.select=validation", *words)
    watched = [line for line in lines(tmp_path / "run") if line["split"] == "validation"]
    assert [line["score"] for line in watched] == pytest.approx([0.5, 1 / 3, 0.5])
    assert [line["auroc"] for line in watched] == [0.5, 1.0, 0.5]
    assert figures["protocol"]["selected_epoch"] == kept
    assert figures["protocol"]["select_by"] == ("score" if words else "auroc")


def test_weights_that_call_one_class_only_are_said_to(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan_logits(monkeypatch, [ALL_NORMAL] * 3)
    train(tmp_path / "run", "train.select=validation")
    stored = run_folder.read_json(tmp_path / "run" / "evaluation.json")
    assert stored["constant_prediction"] == stored["validation"]["constant_prediction"] == "normal"
    assert "call each of the 12 test cycles normal" in caplog.text
    assert any(line.startswith("warning: the kept weights (epoch 3)") for line in figure_lines(stored))


def test_weights_that_tell_classes_apart_are_not_warned_of(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan_logits(monkeypatch, [HEARS] * 3)
    figures = train(tmp_path / "run")
    assert figures["constant_prediction"] is None
    assert not caplog.records
    assert not any("warning" in line for line in figure_lines(figures))


@pytest.mark.parametrize(
    ("labels", "by_auroc", "by_score"),
    [
        (["normal", "crackle", "wheeze", "both"], True, True),
        (["normal", "crackle"], True, True),  # no wheeze: crackles choose
        (["crackle", "wheeze"], True, False),
        (["normal"], False, False),
        (["both"], False, False),
        ([], False, False),
    ],
)
def test_validation_cycles_that_lack_a_class(labels: list[str], by_auroc: bool, by_score: bool) -> None:
    numbers = np.array([CLASSES.index(label) for label in labels], np.int64)
    ways: list[tuple[Literal["auroc", "score"], bool]] = [("auroc", by_auroc), ("score", by_score)]
    for by, possible in ways:
        problem = finetune.selection_problem(RunSettings(Training(select="validation", select_by=by)), numbers)
        assert (problem == "") == possible
        assert possible or f"cannot choose an epoch by train.select_by={by}" in problem
    assert finetune.selection_problem(RunSettings(), numbers) == ""


def test_validation_cycles_that_cannot_choose_are_a_warning(
    tmp_path: Path, cycles: pd.DataFrame, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = cycles["patient"] == "101"
    only_normal = cycles.assign(split=cycles["split"].mask(held_out, "validation"))
    only_normal = only_normal[~held_out | (cycles["label"] == "normal")]
    figures = finetune.run(
        tiny.recipe("train.select=validation"), only_normal, tmp_path / "run", cache_folder=place / "cache"
    )
    found = "the validation cycles (1 normal, 0 crackle, 0 wheeze, 0 both) cannot choose an epoch"
    assert caplog.text.count(found) == 2  # before the first epoch, and at the end
    assert figures["protocol"]["selected_epoch"] == 3
    assert any(found in warning for warning in figures["warnings"])


def test_a_leaky_split_calibrates_nothing(tmp_path: Path, train: Train) -> None:
    figures = train(tmp_path / "run", "train.select=validation", "split.name=leaky_cycles", "train.epochs=1")
    assert any("leaky split" in warning for warning in figures["warnings"])
    assert not run_folder.read_checkpoint(tmp_path / "run" / "best.safetensors")[1].get("calibration")
    assert not (tmp_path / "run" / "predictions_validation.csv").exists()


def test_validation_patients_are_whole_and_neither_trained_on_nor_tested(
    tmp_path: Path, train: Train, cycles: pd.DataFrame
) -> None:
    figures = train(tmp_path / "run", "train.select=validation")
    table = splits.divide_cycles(cycles, tiny.recipe("train.select=validation").settings)
    assert sorted(set(table["split"])) == ["test", "train", "validation"]
    assert (table.groupby("patient")["split"].nunique() == 1).all()
    assert table.loc[table["split"] == "test", "recording"].nunique() == 3
    parts = [line["split"] for line in lines(tmp_path / "run")]
    assert parts == ["train", "validation", "test"] * 3
    assert set(figures["validation_threshold"]) >= {"threshold", "score"}
    watched = [line for line in lines(tmp_path / "run") if line["split"] == "validation"]
    kept = next(line for line in watched if line["epoch"] == figures["protocol"]["selected_epoch"])
    assert kept["auroc"] == max(line["auroc"] for line in watched)
    for name in (*FIGURES, "auroc"):
        assert figures["validation"][name] == pytest.approx(kept[name])
    said = pd.read_csv(tmp_path / "run" / "predictions_validation.csv")
    assert said["true_label"].tolist() == table.loc[table["split"] == "validation", "label"].tolist()
    right = (said["label"] == said["true_label"])[said["true_label"] != "normal"].mean()
    assert right == pytest.approx(figures["validation"]["sensitivity"])
    config = run_folder.read_json(tmp_path / "run" / "config.json")
    assert config["split"]["train"]["cycles"] + config["split"]["validation"]["cycles"] == 20


def test_evaluate_every(tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_scores(monkeypatch, [0.9, 0.2, 0.3, 0.1, 0.1])
    train(tmp_path / "run", "train.select=test_best", "train.epochs=5", "train.evaluate_every=2")
    assert [line["epoch"] for line in lines(tmp_path / "run") if line["split"] == "test"] == [2, 4, 5]
    assert epoch_of(tmp_path / "run") == 2


# What the settings do


@pytest.mark.parametrize("micro_batch", [3, 1, 0])
def test_gradient_accumulation_gives_the_same_weights(
    tmp_path: Path, train: Train, undisturbed: Path, micro_batch: int
) -> None:
    train(tmp_path / "pieces", f"train.micro_batch={micro_batch}")
    assert furthest(tmp_path / "pieces", undisturbed, "best") < 1e-5
    losses = [[line["loss"] for line in lines(out)] for out in (tmp_path / "pieces", undisturbed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def watched(recipe: Recipe, seen: list[list[float]]) -> Recipe:
    """Recipe -> the same, noting the layer weights at every step."""

    def batch_loss(model: nn.Module, *arguments: Any) -> tuple[Tensor, Tensor]:
        seen.append(model.get_parameter("fusion.weight").tolist())
        return recipe.loss(model, *arguments)

    return replace(recipe, loss=batch_loss)


def test_layer_weights_move_with_every_step_or_once_an_epoch(tmp_path: Path, train: Train) -> None:
    every_step: list[list[float]] = []
    train(tmp_path / "step", recipe=watched(tiny.recipe(), every_step))
    assert len(every_step) == 9
    assert all(one != two for one, two in itertools.pairwise(every_step))

    per_epoch: list[list[float]] = []
    words = ("model.layer_weight_update=per_epoch", "train.warmup_epochs=0")
    train(tmp_path / "epoch", recipe=watched(tiny.recipe(*words), per_epoch))
    first, second, third = per_epoch[:3], per_epoch[3:6], per_epoch[6:]
    assert first == [[1.0, 1.0]] * 3
    assert second == [second[0]] * 3
    assert third == [third[0]] * 3
    # Adam's first step has the size of its learning rate: that of the epoch's three steps together
    assert np.abs(np.subtract(second[0], 1)) == pytest.approx([3e-3, 3e-3], rel=1e-3)
    assert third[0] != second[0]
    assert tensors(tmp_path / "epoch", "best")["fusion.weight"].tolist() != third[0]


def test_layer_weights_that_move_once_an_epoch_get_as_far_as_with_every_step(tmp_path: Path, train: Train) -> None:
    words = ("train.batch_size=2", "train.micro_batch=2", "train.epochs=6", *PLAIN)  # ten steps an epoch
    moved = {}
    for update in ("step", "per_epoch"):
        train(tmp_path / update, *words, f"model.layer_weight_update={update}")
        moved[update] = (tensors(tmp_path / update, "last")["fusion.weight"] - 1).abs().max().item()
    assert moved["step"] > 5e-3
    assert 1 / 3 < moved["per_epoch"] / moved["step"] < 3, moved


def test_an_epoch_is_scored_in_float32_whatever_it_trains_in(tmp_path: Path, train: Train) -> None:
    train(tmp_path / "run", "train.precision=bf16", "train.lr=0.003", *PLAIN)
    assert run_folder.read_json(tmp_path / "run" / "config.json")["computed_in"]["precision"] == "bf16"
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    right = np.array([row[f"p_{row['true_label']}"] for _, row in table.iterrows()])
    last = lines(tmp_path / "run")[-1]
    assert (last["epoch"], last["split"]) == (3, "test")
    assert last["loss"] == pytest.approx(-np.log(right).mean(), abs=1e-6)  # classes are even, so are their weights


def test_per_epoch_layer_weights_survive_an_interruption(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model.layer_weight_update=per_epoch",)
    train(tmp_path / "undisturbed", *words)
    stop_after("save_epoch", 2)(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", *words)
    monkeypatch.undo()
    train(tmp_path / "stopped", *words)
    same_run(tmp_path / "stopped", tmp_path / "undisturbed")


def test_a_frozen_patch_embedding_stays(tmp_path: Path, train: Train, undisturbed: Path) -> None:
    recipe = tiny.recipe("model.freeze_patch_embed=yes")
    torch.manual_seed(0)
    recipe.build_frontend(recipe.settings)
    start = recipe.build_model(recipe.settings).state_dict()
    train(tmp_path / "run", recipe=recipe)
    end = tensors(tmp_path / "run", "best")
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert not moved & {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias", "encoder.pos_embed"}
    assert {"encoder.blocks.0.attn.qkv.weight", "fusion.weight", "head.weight", "encoder.cls_token"} <= moved
    trained = tensors(undisturbed, "best")["encoder.patch_embed.proj.weight"]
    assert not torch.equal(trained, start["encoder.patch_embed.proj.weight"])


@pytest.mark.parametrize(
    ("word", "changes_training"),
    [
        ("audio.scope=batch", True),
        ("audio.pad=zero", True),
        ("frontend=m2d", True),
        ("train.sampler=balanced", True),
        ("train.class_weights=none", False),  # the classes of this folder are even
        ("model.layout=stacked", True),
        ("model.long_input=resample_positions", True),
        ("model.unit_frames=96", True),
        ("model.raw_last=yes", True),
        ("model.norm_layers=yes", True),
        ("model.learned=no", True),
        ("augment.time_warp_frames=20", True),
        ("augment.published_gate=yes", False),  # three draws, none of which left a batch as it is
        ("train.precision=bf16", True),
        ("split.name=official_move", False),  # no patient of this folder is on both sides
        ("split.name=folds", True),
    ],
)
def test_every_other_choice_runs(
    tmp_path: Path, train: Train, undisturbed: Path, word: str, changes_training: bool
) -> None:
    figures = train(tmp_path / "run", word, "train.epochs=1", "train.cosine_epochs=3")
    assert 0 <= figures["score"] <= 1
    losses = [lines(out)[0]["loss"] for out in (tmp_path / "run", undisturbed)]
    assert losses == pytest.approx([math.log(4)] * 2, abs=0.3)
    assert (losses[0] != losses[1]) == changes_training


def test_fixed_layer_weights_stay_one(tmp_path: Path, train: Train) -> None:
    train(tmp_path / "run", "model.learned=no", "train.epochs=1")
    weights = run_folder.read_json(tmp_path / "run" / "layer_weights.json")
    assert weights == {"layers": [1, 2], "raw": [1.0, 1.0], "normalised": [0.5, 0.5]}


def test_a_split_without_test_cycles_is_a_sentence(cycles: pd.DataFrame, tmp_path: Path) -> None:
    only_train = cycles[cycles["split"] == "train"]
    with pytest.raises(ValueError, match=r"no test cycles under split 'official'; the data has only \['train'\]"):
        finetune.run(tiny.recipe(), only_train, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_not_there_does_not_spoil_the_run_folder(tmp_path: Path, train: Train) -> None:
    with pytest.raises(ValueError, match="the encoder has 2 layers"):
        train(tmp_path / "run", "model.layers=3")
    train(tmp_path / "run", "train.epochs=1")


# Several processes

TOGETHER = """
import sys
from pathlib import Path
import torch
from rales.training import finetune
from rales.data import read_cycles
from tests import tiny

torch.set_num_threads(1)
place, out = map(Path, sys.argv[1:3])
cycles = read_cycles(place / "data")
for _ in range(2):  # the second time the run is finished and only returned
    finetune.run(tiny.recipe(*sys.argv[3:]), cycles, out, cache_folder=place / "cache")
"""


@pytest.mark.parametrize("start", [train_in_two_processes, pytest.param(train_under_torchrun, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path: Path, place: Path, train: Train, start: Callable[..., None]) -> None:
    # The last block is not fused, so it gets no gradient; the last batch has one row, so one process has none.
    words = ["model.layers=1", "train.batch_size=19", "train.micro_batch=4", "train.epochs=2", *PLAIN]
    train(tmp_path / "one", *words)
    start(TOGETHER, place, tmp_path / "two", *words)
    check_two_processes(tmp_path / "two", tmp_path / "one", FILES, weights_within=1e-4, name="best")
    figures = [run_folder.read_json(tmp_path / out / "evaluation.json") for out in ("one", "two")]
    assert figures[0]["confusion"] == figures[1]["confusion"]


# The file that a run goes on from


@pytest.mark.parametrize("damage", ["cut", "not a number", "gone", "without its state"])
def test_a_damaged_resume_is_told_and_the_one_before_is_taken(
    tmp_path: Path,
    train: Train,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    out = tmp_path / "run"
    stop_after("save_epoch", 2)(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(out)
    monkeypatch.undo()
    assert [
        run_folder.read_checkpoint(out / name)[1]["epoch"] for name in (run_folder.PREVIOUS, run_folder.RESUME)
    ] == [1, 2]

    path = out / run_folder.RESUME
    plain, record = run_folder.read_checkpoint(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "not a number":
        run_folder.save_tensors(path, {**plain, "head.bias": torch.full((4,), math.nan)}, record)
    elif damage == "without its state":
        run_folder.save_tensors(path, plain, {name: value for name, value in record.items() if name != "state"})
    else:
        path.unlink()

    begun = []
    train_epoch = finetune.train_epoch

    def watched(job: finetune.Training, epoch: int) -> Any:
        begun.append((epoch, {line["epoch"] for line in lines(out)}, set(epoch_logits.read_epochs(out)["epoch"])))
        return train_epoch(job, epoch)

    monkeypatch.setattr(finetune, "train_epoch", watched)
    train(out)
    assert begun[0] == (2, {1}, {1})  # nothing of what it repeats is left
    told = f"{path}: .*; the run goes on from the one before it, resume.previous.safetensors"
    assert [bool(re.search(told, said.getMessage())) for said in caplog.records] == [True] * (damage != "gone")
    same_run(out, undisturbed)


def test_a_damaged_resume_without_one_before_is_named(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after("save_epoch", 1)(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / run_folder.RESUME).write_bytes(b"")
    with pytest.raises(ValueError, match=r"resume.safetensors: damaged, cut or not a safetensors file"):
        train(tmp_path / "run")
