"""What trained models teach a run: the divergence by hand, their answers asked once, and who may not be a teacher."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rales
from rales.data import read_cycles
from rales.data.dataset import CycleDataset, expand_rows
from rales.data.splits import digest_cycles, digest_name, divide_cycles
from rales.errors import UsageError
from rales.labels import CLASSES
from rales.recipes.registry import make_recipe, rebuild_recipe
from rales.settings import replace_field
from rales.training import distillation, finetune
from rales.training.distillation import add_soft_answers, check_teacher
from rales.training.distributed import init_distributed
from rales.training.losses import soft_divergence
from rales.training.run_folder import read_checkpoint, read_json, read_metrics
from rales.training.trained_model import TrainedModel
from tests import tiny

CONTEXT = init_distributed("cpu", "float32")


@pytest.fixture(scope="module")
def cycles(trained: Path) -> pd.DataFrame:
    return read_cycles(trained / "data")


def student(trained: Path, *words: str, teachers: tuple[str, ...] = ("first",)) -> Any:
    named = ",".join(str(trained / "runs" / name) for name in teachers)
    return tiny.recipe(f"distil.teachers={named}", "train.epochs=1", *words)


def test_the_divergence_by_hand() -> None:
    """Student (1/4, 3/4), teachers (1/2, 1/2): KL = (ln 2 + ln(2/3)) / 2 = 0.14384."""
    soft, apart = torch.tensor([[0.5, 0.5]]), 0.5 * (math.log(2) + math.log(2 / 3))
    assert soft_divergence(torch.tensor([[0.0, math.log(3)]]), soft, 1.0, 1).item() == pytest.approx(apart)
    # at temperature 2 logits twice as far apart are as soft, and count four times; a micro-batch is one of two rows
    assert soft_divergence(torch.tensor([[0.0, 2 * math.log(3)]]), soft, 2.0, 2).item() == pytest.approx(4 * apart / 2)
    assert soft_divergence(soft.log(), soft, 1.0, 1).item() == pytest.approx(0, abs=1e-7)


def test_answers_are_the_mean_of_the_teachers_and_asked_once(trained: Path, cycles: pd.DataFrame) -> None:
    settings = student(trained, "distil.temperature=2", teachers=("first", "second")).settings
    table = divide_cycles(cycles, settings)

    def ask(rebuild: Any) -> pd.DataFrame:
        return add_soft_answers(table, CONTEXT, trained / "cache", settings=settings, rebuild=rebuild)

    taught, names = ask(rebuild_recipe), [f"soft_{number}" for number in range(4)]
    train = taught[taught["split"] == "train"]
    expected = np.zeros((len(train), 4))
    for name in ("first", "second"):
        answers = rales.load(trained / "runs" / name, device="cpu").predict(sorted(set(train["path"])))
        softened = np.sqrt(answers[[f"p_{word}" for word in CLASSES]].to_numpy())  # p^(1/2), as logits / 2
        expected += softened / softened.sum(axis=1, keepdims=True) / 2
    assert np.abs(train.sort_values(["recording", "cycle"])[names].to_numpy() - expected).max() < 1e-5
    assert not taught.loc[taught["split"] != "train", names].to_numpy().any()
    again = ask(lambda *_: pytest.fail("a teacher was asked again"))
    assert again[names].equals(taught[names])


def test_a_run_follows_its_teacher_and_comes_back_without_it(
    trained: Path, cycles: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(trained / "runs" / "first", tmp_path / "runs" / "teacher")
    recipe = student(tmp_path, "distil.weight=3", "train.micro_batch=4", teachers=("teacher",))
    recipe.run(recipe, cycles, tmp_path / "run", cache_folder=trained / "cache")
    plain = tiny.recipe("train.epochs=1")
    plain.run(plain, cycles, tmp_path / "plain", cache_folder=trained / "cache")
    losses = [read_metrics(tmp_path / name)[0]["loss"] for name in ("run", "plain")]
    assert losses[0] > losses[1] + 1e-4

    record = read_json(tmp_path / "run" / "config.json")
    assert {"distil.teachers", "distil.weight"} < set(record["overrides"])
    assert "distil.digest" not in record["overrides"]
    assert len(record["config"]["distil"]["digest"]) == 64
    # who goes on from it asks its teacher only if that is said again
    going_on = make_recipe(None, from_model=str(tmp_path / "run"))
    assert (going_on.settings.distil.teachers, going_on.settings.distil.digest, going_on.teach) == ((), "", None)
    shutil.rmtree(tmp_path / "runs")
    assert len(rales.load(tmp_path / "run", device="cpu").predict(cycles["path"].iloc[0])) == 4


def test_who_may_not_teach(trained: Path, cycles: pd.DataFrame, tmp_path: Path) -> None:
    _, record = read_checkpoint(trained / "runs" / "first" / "best.safetensors")
    settings = tiny.recipe().settings
    table = divide_cycles(cycles, settings)
    check_teacher("first", record, table, settings.label_set)

    other = tiny.recipe("classes=normal,crackle").settings.label_set
    with pytest.raises(UsageError, match="tells normal, crackle, wheeze, both apart, and this run normal, crackle;"):
        check_teacher("first", record, table, other)
    folds = divide_cycles(cycles, tiny.recipe("split.name=folds", "split.folds=3", "split.fold=1").settings)
    with pytest.raises(UsageError, match=r"was trained on \d of the patients who validate or test here \(recording 10"):
        check_teacher("first", record, folds, settings.label_set)
    silent = {**record, "split": {key: value for key, value in record["split"].items() if "recordings" not in key}}
    with pytest.raises(UsageError, match="does not tell which recordings it was trained on"):
        check_teacher("first", silent, table, settings.label_set)


def test_validation_patients_chose_the_epoch_of_a_teacher_of_the_same_division_alone(
    trained: Path, cycles: pd.DataFrame
) -> None:
    """A teacher of all train patients knows those whom this run holds out; one of the same division does not."""
    _, record = read_checkpoint(trained / "runs" / "first" / "best.safetensors")
    settings = tiny.recipe("train.select=validation", "train.validation_share=0.4").settings
    table = divide_cycles(cycles, settings)
    with pytest.raises(UsageError, match="take a teacher of the same split"):
        check_teacher("first", record, table, settings.label_set)
    split = {**record["split"], "digest": digest_cycles(table)}
    check_teacher("first", {**record, "split": split}, table, settings.label_set)
    started = {**record, "split": {**split, "test_recordings_heard": 1}}
    with pytest.raises(UsageError, match="take a teacher of the same split"):
        check_teacher("first", started, table, settings.label_set)


def test_cycles_of_a_recording_on_both_sides_want_a_teacher_of_the_same_division(
    trained: Path, cycles: pd.DataFrame
) -> None:
    _, record = read_checkpoint(trained / "runs" / "first" / "best.safetensors")
    settings = tiny.recipe("split.name=leaky_cycles").settings
    table = divide_cycles(cycles, settings)
    with pytest.raises(UsageError, match="take a teacher of the same split"):
        check_teacher("first", record, table, settings.label_set)
    names = sorted(set(table.loc[table["split"] == "train", "recording"].map(digest_name)))
    same = {**record["split"], "digest": digest_cycles(table), "trained_recordings": names}
    check_teacher("first", {**record, "split": same}, table, settings.label_set)


def test_a_teacher_hears_each_cycle_once_as_it_is(
    trained: Path, cycles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """nguyen copies the train cycles that hold a wheeze: its answers must not be of the copies."""
    asked: list[pd.DataFrame] = []

    def answer(network: Any, frontend: Any, dataset: Any, part: str, context: Any) -> tuple[pd.DataFrame, torch.Tensor]:
        asked.append(dataset.table.iloc[dataset.rows(part)])
        return asked[0], torch.arange(len(asked[0]))[:, None].repeat(1, 4)

    monkeypatch.setattr(distillation, "load_dataset", lambda table, recipe, **_: prepare_nothing(table, recipe))
    monkeypatch.setattr(finetune, "part_logits", answer)
    monkeypatch.setattr(finetune, "load_tensors", lambda *_: None)
    teacher = make_recipe("nguyen_cotuning")
    plain = SimpleNamespace(
        rows=teacher.rows,
        settings=teacher.settings,
        build_frontend=lambda _: torch.nn.Identity(),
        build_model=lambda _: torch.nn.Identity(),
    )
    table = divide_cycles(cycles, tiny.recipe().settings)
    train = table[table["split"] == "train"]
    model = TrainedModel(trained / "runs" / "first" / "best.safetensors", {}, {})
    answers = distillation.answer_train_cycles(model, table, CONTEXT, tmp_path, lambda *_: plain)  # type: ignore[arg-type]
    assert len(expand_rows(table, teacher)) > len(table)
    assert [asked[0][["recording", "cycle"]].to_numpy().tolist(), len(answers)] == [
        train[["recording", "cycle"]].to_numpy().tolist(),
        len(train),
    ]


def prepare_nothing(table: pd.DataFrame, recipe: Any) -> CycleDataset:
    rows = expand_rows(table, recipe)
    return CycleDataset(rows, np.zeros((len(rows), 1), np.float32))


def test_what_does_not_go_with_teachers(trained: Path, cycles: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compares probabilities that add up to 1"):
        student(trained, "classes=crackle,wheeze", "independent=true")
    with pytest.raises(UsageError, match=r"digest: is filled in from the file"):
        tiny.recipe("distil.digest=1")
    recipe = student(trained)
    heard = json.loads((trained / "runs" / "first" / "config.json").read_text())["split"]["trained_recordings"]
    assert digest_name(cycles.loc[cycles["split"] == "train", "recording"].iloc[0]) in heard
    changed = replace_field(recipe.settings, "distil.digest", "0" * 64)
    with pytest.raises(ValueError, match="have changed since this run began"):
        add_soft_answers(cycles, CONTEXT, None, settings=changed, rebuild=rebuild_recipe)
