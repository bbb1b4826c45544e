"""Records of runs and evaluations are held against their fields."""

from collections.abc import Callable
from typing import Any

import pytest

from rales.evaluation import metrics, predictions
from rales.files.json_files import to_jsonable
from rales.labels import CLASSES
from rales.settings import RunSettings, to_dict
from rales.training.run_records import check_evaluation, check_record

Change = Callable[[dict[str, Any]], object]


def record() -> dict[str, Any]:
    found: dict[str, Any] = {"recipe": "m2d_fusion", "config": {**to_dict(RunSettings()), "own": 1}}
    found |= {
        "classes": CLASSES,
        "epoch": 3,
        "split": {"name": "official", "digest": "d", "train": {"cycles": 3}, "left_out": []},
    }
    return dict(to_jsonable({**found, "calibration": None, "something": {"new": [1]}}))


def test_a_record_gives_its_settings() -> None:
    assert check_record(record(), "x") == RunSettings()


def calibrated(least: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    pooled = {"patients": 9, "cycles": 90, "least": {"0.9": 0.2}}
    device = {"patients": 10, "cycles": 50, "least": least or {}}
    return {"temperature": 1.0, "conformal": {"pooled": pooled, "devices": {"one": device}}, **more}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.pop("classes"), "has no usable `classes`"),
        (lambda r: r.update(recipe=1), "recipe is 1, expected text"),
        (lambda r: r.update(epoch=True), "epoch is True, expected a whole number"),
        (lambda r: r.update(epoch=-1), "epoch is -1, expected a finite number, 0 or more"),
        (lambda r: r.update(recipe_source={"file": 5}), "recipe_source is 5, expected text"),
        (lambda r: r.update(split="official"), "split is text, expected an object"),
        (
            lambda r: r["split"].update(train={"cycles": "many"}),
            "split.train.cycles is 'many', expected a whole number",
        ),
        (lambda r: r.update(calibration={"threshold": 0.5}), "has no usable `calibration.temperature`"),
        (lambda r: r.update(calibration={"temperature": 1e-300}), "its temperature is 1e-300, expected 0.01 to 100"),
        (lambda r: r.update(calibration={"temperature": 1, "labels": "best"}), "calibration.labels is 'best'"),
        (
            lambda r: r.update(calibration=calibrated(classes={"both": {"threshold": 0.5}})),
            "classes.both is of no class",
        ),
        (lambda r: r.update(calibration=calibrated(least={"0.9": 1.5})), "has 1.5 at coverage 0.9"),
        (lambda r: r.update(calibration=calibrated(least={"most": 0.5})), "has 0.5 at coverage most"),
        (lambda r: r.update(config=[]), "config is a list, expected an object"),
        (lambda r: r["config"].update(train=5), "its train is a number, expected an object"),
        (lambda r: r["config"]["train"].update(validation_share=1), "validation_share is 1, expected a number between"),
        (lambda r: r["config"].update(seed=None), "seed is None, expected a whole number"),
    ],
)
def test_what_is_no_record_is_a_sentence(change: Change, sentence: str) -> None:
    found = record()
    change(found)
    with pytest.raises(ValueError, match=r"^run/config.json: ") as error:
        check_record(found, "run/config.json")
    assert sentence in str(error.value)


def evaluation() -> dict[str, Any]:
    counts = [[3, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    nothing = {"auroc": None, "average_precision": None}
    protocol = {"split": "official", "select": "last", "selected_epoch": 1, "epochs": 1, "seed": 0, "cycles": 9}
    scores = {**metrics.icbhi_scores(counts), "two_class": metrics.two_class_scores(counts), "confusion": counts}
    more = {"majority": {"specificity": 1.0, "sensitivity": 0.0, "score": 0.5}, "macro_recall": 0.5}
    protocol |= {"patients": 3, "whole_database": False, "select_by": None}
    found = {**scores, **more, "ci95": {"score": [0.2, None]}, "crackle_present": nothing, "wheeze_present": nothing}
    return dict(to_jsonable({**found, "protocol": protocol, "notice": predictions.NOTICE}))


def test_an_evaluation_is_one() -> None:
    check_evaluation(evaluation(), "x")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict.clear, "has no usable `specificity`"),
        (lambda e: e.update(score="high"), "score is 'high', expected a number"),
        (lambda e: e.update(score=0.9), "score is 0.9, its counts give"),
        (lambda e: e["two_class"].update(score=0.9), "two_class.score is 0.9, its counts give"),
        (lambda e: e.update(confusion=[[1]]), "confusion is not 4 rows of 4 counts"),
        (lambda e: e.update(confusion=[[1, 2], [3]]), "confusion is not 4 rows of 4 counts"),
        (lambda e: e["ci95"].update(score=[0.5]), "ci95.score has 1 ends, expected two"),
        (lambda e: e.update(warnings="none"), "warnings is text, expected a list"),
        (lambda e: e["protocol"].pop("seed"), "has no usable `protocol.seed`"),
        (lambda e: e.update(validation=[]), "validation is a list, expected an object"),
    ],
)
def test_what_is_no_evaluation_is_a_sentence(change: Change, sentence: str) -> None:
    found = evaluation()
    change(found)
    with pytest.raises(ValueError, match=r"^run/evaluation.json: ") as error:
        check_evaluation(found, "run/evaluation.json")
    assert sentence in str(error.value)
