"""SPRSound's tasks: scores computed by hand, and whole recordings as rows from the release to a run's figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rales.cli.result_lines import challenge_lines
from rales.data import audit_data, read_cycles
from rales.evaluation.challenge_scores import score_challenge, score_task
from rales.labels import ICBHI, RECORDING_TASKS, TASKS, LabelSet
from rales.recipes.registry import make_recipe
from rales.training import finetune
from tests import tiny
from tests.test_sprsound import INTER, INTRA, TRAIN, add_sound, event, write_json

SETS = {name: LabelSet(classes) for name, classes in TASKS.items()}


def rows_of(counts: dict[tuple[int, int], int]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([pair for pair, count in counts.items() for _ in range(count)])
    return pairs[:, 0], pairs[:, 1]


def test_task_2_2_by_hand() -> None:
    # normal, poor quality, cas, das, cas & das: 30 of 40 normal ones right; of 20 adventitious 6 + 3 + 1 right
    counts = {(0, 0): 30, (0, 3): 10, (1, 1): 4, (1, 0): 3, (2, 2): 6, (2, 3): 4, (3, 3): 3, (3, 0): 5, (4, 4): 1}
    true, called = rows_of({**counts, (4, 1): 1})
    found = score_task(true, called, np.arange(len(true)) % 9, [1])
    assert (found["rows"], found["se"], found["sp"], found["as"]) == (60, 0.5, 0.75, 0.625)
    assert found["hs"] == pytest.approx(0.6)
    assert found["score"] == pytest.approx(0.6125)
    assert (found["poor_quality"], found["poor_quality_found"]) == (7, 4)
    low, high = found["as_ci95"]
    assert low < 0.625 < high
    blind = score_task(np.array([0, 2]), np.array([2, 0]), np.array(["a", "b"]), [])
    assert (blind["hs"], blind["score"]) == (0, 0)
    assert np.isnan(score_task(np.array([0]), np.array([0]), np.array(["a"]), [])["score"])


def test_each_task_has_its_sides() -> None:
    rows = pd.DataFrame({"test_part": ["inter", "inter", "intra", ""], "patient": list("abcd")})
    true, called = np.array([0, 2, 3, 1]), np.array([0, 1, 3, 1])
    found = score_challenge(rows, true, called, ICBHI)
    assert (found["task"], found["rows"]) == ("1-1", "events")  # crackle for wheeze is right: both are adventitious
    assert {side: (one["rows"], one["se"]) for side, one in found["sides"].items()} == {
        "all": (4, 1.0),
        "inter": (2, 1.0),
        "intra": (1, 1.0),
    }
    strict = score_challenge(rows, true, called, SETS["sprsound_1_2"])["sides"]
    assert (strict["all"]["se"], strict["inter"]["se"]) == (2 / 3, 0)
    poor = score_challenge(rows, true, called, SETS["sprsound_2_2"])
    assert (poor["task"], poor["rows"], poor["sides"]["all"]["se"]) == ("2-2", "recordings", 0.5)
    assert score_challenge(rows, true, called, LabelSet(("normal", "rhonchi", "wheeze", "stridor"))) == {}
    assert score_challenge(rows.drop(columns="test_part"), true, called, ICBHI) == {}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A recording of CAS for training, one of poor quality and one of both sounds for testing."""
    write_json(tmp_path, "train_json", TRAIN, "CAS", [event(100, 800, "Normal"), event(900, 1500, "Stridor")])
    write_json(tmp_path, "test_json/intra_test_json", INTRA, "Poor Quality", [])
    write_json(tmp_path, "test_json/inter_test_json", INTER, "CAS & DAS", [event(10, 1990, "Wheeze+Crackle")])
    for place, name in (("train_wav", TRAIN), ("test_wav", INTRA), ("test_wav", INTER)):
        add_sound(tmp_path, place, name)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("sprsound_1_1", ["normal", "abnormal", "abnormal"]),
        ("sprsound_1_2", ["normal", "stridor", "wheeze+crackle"]),
        ("sprsound_2_1", ["abnormal", "poor quality", "abnormal"]),
        ("sprsound_2_2", ["cas", "poor quality", "cas & das"]),
    ],
)
def test_rows_of_a_task(release: Path, task: str, labels: list[str]) -> None:
    label_set = make_recipe("moummad_ce", size="tiny", classes=task).settings.label_set
    assert (label_set, label_set.task) == (SETS[task], task)
    cycles = read_cycles(release, label_set=label_set)
    assert cycles["label"].tolist() == labels
    assert audit_data(release, label_set=label_set).cycles.equals(cycles)
    if task in RECORDING_TASKS:
        assert cycles[["recording", "start_s", "end_s"]].to_numpy().tolist() == [
            [TRAIN, 0.0, 2.0],
            [INTRA, 0.0, 2.0],
            [INTER, 0.0, 2.0],
        ]
        assert cycles["wheeze"].fillna(-1).tolist() == [1, -1, 1]
        assert cycles["crackle"].fillna(-1).tolist() == [0, -1, 1]
        assert cycles["test_part"].tolist() == ["", "intra", "inter"]
        assert not any("poor quality" in note for note in audit_data(release, label_set=label_set).notes)


def test_which_classes_are_a_task() -> None:
    assert LabelSet(("Normal", "CAS & DAS", "DAS", "CAS", "poor_quality")).task == "sprsound_2_2"
    assert LabelSet(("abnormal", "normal")).task == ""
    assert ICBHI.task == ""
    assert LabelSet(TASKS["sprsound_1_2"][1:], independent=True).task == ""


def test_a_run_on_whole_recordings(release: Path) -> None:
    write_json(release, "train_json", "300_3.5_0_p1_1", "Normal", [event(100, 800, "Normal")])
    add_sound(release, "train_wav", "300_3.5_0_p1_1")
    label_set, recipe = SETS["sprsound_2_1"], tiny.recipe("classes=sprsound_2_1", "train.epochs=1")
    cycles = read_cycles(release, label_set=label_set)
    figures = finetune.run(recipe, cycles, release / "run", cache_folder=release / "cache")
    stored = pd.read_csv(release / "run" / "predictions.csv")
    assert stored["true_label"].tolist() == ["poor quality", "abnormal"]  # recordings, also that without events
    sides = figures["sprsound_task"]["sides"]
    assert (sides["intra"]["rows"], sides["intra"]["poor_quality"], sides["inter"]["rows"]) == (0, 1, 1)
    assert sides["inter"]["se"] == (stored["label"][1] == "abnormal")
    lines = "\n".join(challenge_lines(figures["sprsound_task"]))
    assert "SPRSound task 2-1, inter, 1 recording: SE" in lines
    assert "of 1 of poor quality found, not scored" in lines
