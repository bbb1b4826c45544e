"""Train on one database, test on another: what is tested, whose patients are shared, the command end to end."""

import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from rales.errors import UsageError
from rales.jobs import cross_databases, sweep
from rales.jobs.sweep import Outcome, Trial
from rales.labels import ICBHI, LabelSet
from tests import test_kauh, tiny
from tests.command import command

WORDS = [word for name in (*tiny.SETTINGS, "train.epochs=1", "audio.duration_s=0.5") for word in ("--set", name)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Patients 101 to 108 with a list of sides; 104 to 108 of them and three others without; whole recordings."""
    place = tmp_path_factory.mktemp("databases")
    listed = tiny.write_folder(place / "listed")
    unlisted = place / "unlisted"
    shutil.copytree(listed, unlisted)
    (unlisted / "ICBHI_challenge_train_test.txt").unlink()
    for path in [path for path in unlisted.iterdir() if path.name[:3] in ("101", "102", "103")]:
        path.rename(path.with_name(f"2{path.name[1:]}"))
    return [listed, unlisted, test_kauh.write_folder(place / "whole")]


def in_this_process(waiting: Sequence[Trial], job: tuple[Any, ...], *_: Any) -> Generator[Outcome]:
    for trial in waiting:
        yield sweep.run_trial(trial, *job)


def test_every_data_is_divided_once(folders: list[Path]) -> None:
    listed, unlisted, whole = cross_databases.read_databases(folders, ICBHI)
    assert sorted(set(listed.tests["patient"])) == ["106", "107", "108"]
    assert (listed.split, unlisted.split, whole.split) == (("split.name=official_drop",), ("split.name=patients",), ())
    sides = [set(rows["patient"]) for rows in (unlisted.train, unlisted.tests)]
    assert (len(sides[0]), len(sides[1]), sides[0] & sides[1]) == (4, 4, set())
    assert (len(whole.tests), len(whole.train)) == (5, 0)

    [note] = cross_databases.find_shared(unlisted, [listed, unlisted, whole])
    shared = sorted(sides[0] & {"106", "107", "108"})
    assert f"{len(shared)} patient" in note
    assert f"({', '.join(shared)})" in note
    assert "not of strangers" in note


@pytest.mark.parametrize("column", ["patient", "crackle"])
def test_kept_answers_are_of_these_labels_and_patients(folders: list[Path], column: str) -> None:
    for each in cross_databases.read_databases([folders[0], folders[2]], ICBHI):
        if column == "patient" or not each.split:  # the label of a cycle is in its digest already
            first = each.tests[column].iloc[0]
            changed = each.tests.assign(
                **{column: [1 - first if column == "crackle" else "900", *each.tests[column][1:]]}
            )
            assert replace(each, tests=changed).digest != each.digest
        assert replace(each, tests=each.tests.iloc[::-1]).digest == each.digest


def test_a_failed_run_says_which_data_and_a_flattering_choice_is_in_the_name(
    folders: list[Path], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, unlisted, _ = cross_databases.read_databases(folders, ICBHI)
    model = str(trained / "runs" / "first")

    def fail(planned: list[Trial], *_: Any, **__: Any) -> list[Outcome]:
        return [Outcome(trial.name, "failed", error="no room") for trial in planned]

    written: list[Any] = []
    monkeypatch.setattr(cross_databases, "run", fail)
    chosen = SimpleNamespace(digest="d", recipe=tiny.recipe("train.select=test_best"))
    monkeypatch.setattr(cross_databases, "load_model", lambda _: chosen)
    monkeypatch.setattr(cross_databases, "test_model", lambda *_: {})
    monkeypatch.setattr(cross_databases, "read_figures", lambda _: {"trained_rows": 0, "constant": ""})
    monkeypatch.setattr(cross_databases, "write_cross", lambda *given: written.append(given))
    cross_databases.run_cross(["m2d_fusion", model], [listed, unlisted], ["size=tiny"], tmp_path)
    assert {record["system"] for record in written[0][1]} == {f"{model} (epoch chosen on the test side)"}
    told = [line.partition(" on ")[2] for line in written[0][3]]
    assert told == ["listed: no room", "unlisted: no room"]


def test_patients_of_both_sides_are_not_tested(folders: list[Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "data")
    place = tmp_path / "data" / "ICBHI_challenge_train_test.txt"
    for path in [path for path in (tmp_path / "data").iterdir() if path.name.startswith("106")]:
        shutil.copy(path, path.with_name(path.name.replace("1b1", "2b1")))
    name = next(line.split()[0] for line in place.read_text().splitlines() if line.startswith("106"))
    place.write_text(place.read_text() + f"{name.replace('1b1', '2b1')}\ttrain\n")
    found = cross_databases.read_database("data", tmp_path / "data", ICBHI, skip_damaged=False)
    assert sorted(set(found.tests["patient"])) == ["107", "108"]


def test_what_cannot_be_asked_for_is_a_sentence(folders: list[Path], trained: Path) -> None:
    check, read = cross_databases.check_systems, cross_databases.read_databases
    with pytest.raises(UsageError, match="give it twice or more"):
        read(folders[:1], ICBHI)
    with pytest.raises(
        UsageError, match="labels of whole recordings by crackles and wheezes, and systems of normal, a"
    ):
        read(folders, LabelSet(("normal", "abnormal")))
    with pytest.raises(UsageError, match=r"split.name=folds: each data is divided by its own list"):
        check(["m2d_fusion"], ["split.name=folds"])
    with pytest.raises(UsageError, match="is trained already"):
        check([str(trained / "runs" / "first")], ["train.lr=1"])
    with pytest.raises(UsageError, match="tpyo"):
        check(["m2d_fusion"], ["tpyo=1"])
    with pytest.raises(UsageError, match="normal, crackle, wheeze, both, and m2d_fusion normal, abnormal"):
        check(["m2d_fusion", str(trained / "runs" / "first")], ["classes=sprsound_1_1"])
    with pytest.raises(UsageError, match="none of the data has labelled cycles to train on"):
        cross_databases.plan_cross(["m2d_fusion"], read([folders[2], folders[2]], ICBHI), [], Path())


def test_the_command_trains_on_rows_and_tests_on_columns(
    folders: list[Path],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    monkeypatch.setitem(sweep.ENGINES, "local", in_this_process)
    data = [word for folder in folders for word in ("--data", str(folder))]
    asked = (
        "cross",
        "m2d_fusion",
        trained / "runs" / "first",
        *data,
        "--out",
        tmp_path,
        "--size",
        "tiny",
        *WORDS,
        "--json",
    )
    code, out, err = command(capsys, *asked)
    assert code == 0, err
    document = json.loads(out)
    table = pd.read_csv(tmp_path / "cross.csv")
    assert table["trained_on"].tolist() == ["listed"] * 3 + ["unlisted"] * 3 + ["as it is"] * 3
    assert table["tested_on"].tolist() == ["listed", "unlisted", "whole"] * 3
    assert table["tested"].tolist() == [12, 16, 5] * 3
    assert table["unit"].tolist() == ["cycles", "cycles", "recordings"] * 3
    assert table["own"].tolist() == [True, *[False] * 3, True, *[False] * 4]
    assert table["score"].isna().tolist() == [False, False, True] * 3  # AUROC alone of whole recordings
    assert table["auroc_abnormal"].notna()[[0, 1, 3, 4]].all()
    assert any(note.startswith("listed trains and unlisted tests") for note in document["notes"])
    assert any("of what is tested trained this model" in note for note in document["notes"])  # of the same recordings
    page = (tmp_path / "cross.html").read_text()
    assert "not a diagnosis" in page
    assert "Tested on unlisted" in page
    assert "AUROC abnormal: trained on rows, tested on columns" in page

    # The figure of a run on its own data is that of the run; nothing is trained or tested again
    [own] = (json.loads(path.read_text()) for path in tmp_path.glob("runs/listed/*/evaluation.json"))
    assert table.loc[0, "score"] == pytest.approx(own["score"])
    for name in ("evaluate_cycles", "evaluate_recordings"):
        monkeypatch.setattr(cross_databases, name, None)
    code, out, err = command(capsys, *asked)
    assert (code, json.loads(out)) == (0, document), err
