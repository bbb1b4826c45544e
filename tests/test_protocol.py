"""The study of protocols: which runs it takes, its steps against figures by hand, the command end to end."""

import json
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rales.data import read_cycles, splits
from rales.errors import UsageError
from rales.evaluation.bootstrap import Answers
from rales.jobs import baselines, protocol, sweep
from rales.labels import ICBHI
from rales.report import protocol_steps
from rales.report.protocol_steps import Row, measure_steps, steps_frame, steps_table
from tests import tiny
from tests.command import command

WORDS = ["size=tiny", *tiny.SETTINGS, "train.epochs=2", "train.validation_share=0.4", "audio.duration_s=0.5"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bootstrap_intervals", "unpaired_difference"):
        monkeypatch.setattr(protocol_steps, name, partial(getattr(protocol_steps, name), resamples=200))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("protocol") / "data")


@pytest.fixture(scope="module")
def cycles(data: Path) -> pd.DataFrame:
    return read_cycles(data)


def names(schemes: Sequence[protocol.Scheme]) -> list[str]:
    return [scheme.name for scheme in schemes]


def test_schemes_that_the_data_has_and_why_others_are_not_run(cycles: pd.DataFrame) -> None:
    found, notes = protocol.list_schemes(cycles, draws=2)
    devices = ["device Litt3200", "device Meditron"]
    assert names(found) == ["official", "patients", "folds", *devices, "respirenet", "leaky_recordings", "leaky_cycles"]
    assert notes == ["official_move: not run; no patient is on both sides of the list, so the repairs change nothing"]
    assert found[5].runs == (("split.name=respirenet", "split.fold=4"),)
    _, notes = protocol.list_schemes(cycles[cycles["patient"] != "102"])  # the only one in that fold
    assert notes[1] == "respirenet: not run; no fold 4; there are 0 to 3"
    crackles = cycles["label"].mask(cycles["split"] == "test", "crackle")
    _, notes = protocol.list_schemes(cycles.assign(label=crackles))
    assert notes[0] == "official: not run; its test cycles are all abnormal"
    assert found[1].runs == (("split.name=patients", "split.seed=1"), ("split.name=patients", "split.seed=2"))
    assert len(found[2].runs) == 1
    everything, _ = protocol.list_schemes(cycles, all_folds=True)
    assert len(everything[2].runs) == 5
    chosen, _ = protocol.list_schemes(cycles, wanted=["device", "leaky_cycles"])
    assert names(chosen) == [*devices, "leaky_cycles"]
    with pytest.raises(UsageError, match="--splits oficial: expected some of official, official_move, patients"):
        protocol.list_schemes(cycles, wanted=["oficial"])
    with pytest.raises(ValueError, match="no split can be run on this data: official: not run; no recording is in"):
        protocol.list_schemes(cycles.assign(split=""), wanted=["official"])


def test_one_run_a_split_and_one_more_for_the_batch(cycles: pd.DataFrame) -> None:
    schemes, _ = protocol.list_schemes(cycles, wanted=["official", "leaky_recordings"])
    planned, notes = protocol.plan_runs(["m2d_fusion", "lungrn_nl"], schemes, 1, ["size=tiny", "frontend=icbhi"])
    assert [(each.recipe, each.scheme) for each in planned] == [
        ("m2d_fusion", "official"),
        ("m2d_fusion", "leaky_recordings"),
        ("m2d_fusion", "official_batch_scope"),
        ("lungrn_nl", "official"),
        ("lungrn_nl", "leaky_recordings"),
    ]
    assert all("train.select=validation" in each.trial.words for each in planned)
    assert notes == ["lungrn_nl, official_batch_scope: not run; the system has no min-max of a clip or batch"]
    _, notes = protocol.plan_runs(["m2d_fusion"], schemes, 1, ["size=tiny"])
    assert "only the icbhi log-mel has a minimum and maximum of the batch" in notes[0]
    for word in ("split.name=folds", "seed=3", "train.select=last"):
        with pytest.raises(UsageError, match="the study sets this itself"):
            protocol.plan_runs(["m2d_fusion"], schemes, 1, [word])
    with pytest.raises(UsageError, match="no such field"):
        protocol.plan_runs(["m2d_fusion"], schemes, 1, ["tpyo=1"])
    with pytest.raises(UsageError, match="one set of classes that exclude one another"):
        protocol.check_classes(["m2d_fusion"], ["classes=crackle,wheeze", "independent=true"])


def answers(predicted: str, patients: str = "aabbccdd") -> Answers:
    """True classes are 0 1 0 1 0 1 0 2."""
    return Answers(np.array([0, 1, 0, 1, 0, 1, 0, 2]), np.array([int(each) for each in predicted]), list(patients))


def test_steps_by_hand() -> None:
    """Official: validation has Sp 4/4, Se 2/4; last 3/4, 2/4; best on test 4/4, 3/4; any abnormal as strict but for one
    cycle called 1 that is 2: Se 3/4. Without patient d 3/3 and 2/3. Leaky: 4/4 and 4/4."""
    of_official = {"validation": answers("01010001"), "last": answers("11010001"), "test_best": answers("01010101")}
    official = Row("official", "net", of_official, 1, ("d",))
    leaky = Row("leaky_cycles", "net", dict.fromkeys(of_official, answers("01010102")), 1, ("a", "b", "c", "d"))
    rows = [official, official.without_shared_patients("official_drop"), leaky]
    rows.append(Row("official", "SVM", {"fixed": answers("00000000")}, 1, ()))
    table = steps_frame(measure_steps(rows)).set_index(["system", "split", "selection", "scoring"])
    strict = table.xs("strict", level="scoring")
    score, worth = strict["score"].round(6).to_dict(), strict["worth"].round(6).to_dict()
    assert score["net", "official", "validation"] == 75
    assert (score["net", "official", "last"], worth["net", "official", "last"]) == (62.5, -12.5)
    assert (score["net", "official", "test_best"], worth["net", "official", "test_best"]) == (87.5, 12.5)
    assert score["net", "official_drop", "validation"] == pytest.approx(250 / 3, abs=1e-3)
    assert worth["net", "official_drop", "validation"] == pytest.approx(250 / 3 - 75, abs=1e-3)
    assert (score["net", "leaky_cycles", "validation"], worth["net", "leaky_cycles", "validation"]) == (100, 25)
    assert score["SVM", "official", "fixed"] == 50
    assert np.isnan(worth["net", "official", "validation"])  # nothing before it
    wanted = "system == 'net' and split == 'official' and selection == 'validation' and scoring == 'any_abnormal'"
    [lenient] = table.reset_index().query(wanted).to_dict("records")
    assert (lenient["sensitivity"], lenient["score"], lenient["worth"]) == (75, 87.5, 12.5)
    assert table["leaky"].tolist() == [split.startswith("leaky") for _, split, *_ in table.index]
    assert strict.loc[("net", "leaky_cycles", "last"), "of_them_in_train"] == 4


def test_every_header_of_a_leaky_split_says_so() -> None:
    selections = dict.fromkeys(("validation", "last", "test_best"), answers("01010001"))
    rows = [Row(name, "net", selections, 1, ()) for name in ("leaky_cycles", "official", *splits.LEAKY[:1])]
    shown = steps_table(measure_steps(rows)).rows
    assert [row[0].startswith("leaky: ") for row in shown] == [False, True, True, False]  # and the all-normal line
    leaky = [name for name in splits.LEAKY if not Row(name, "net", {}, 1, ()).title.startswith("leaky: ")]
    assert leaky == []


def test_statistics_of_a_cycle_and_what_is_fitted_on(
    cycles: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = baselines.load_statistics(cycles, folder=tmp_path)
    assert found.shape == (32, 240)
    assert (found[:, 160:] >= found[:, :80] - 1e-4).all()  # the maximum is above the mean
    labels, seen = cycles["label"].tolist(), []

    class Recorder:
        def fit(self, features: Any, label: Any) -> "Recorder":
            seen.append((features, label.tolist()))
            return self

        def predict(self, features: Any) -> Any:
            return np.full(len(features), 2)

    monkeypatch.setitem(baselines.BASELINES, "recorder", Recorder)
    answered = baselines.answer_test_cycles("recorder", found, cycles, ICBHI)
    train = (cycles["split"] == "train").to_numpy()
    assert (seen[0][0] == found[train]).all()
    assert seen[0][1] == [
        list(ICBHI.classes).index(label) for label, trains in zip(labels, train, strict=True) if trains
    ]
    assert answered.patients == cycles.loc[~train, "patient"].tolist()
    assert np.unique(np.asarray(answered.predicted)).tolist() == [2]
    one_class = cycles[cycles["label"] == "both"].assign(split=["train"] * 4 + ["test"] * 4)
    alone = baselines.answer_test_cycles("recorder", found[:8], one_class, ICBHI)
    assert np.unique(np.asarray(alone.predicted)).tolist() == [3]
    assert len(seen) == 1


def test_the_command_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole study on a tiny folder, in this process; a second call trains nothing."""
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    trained: list[str] = []

    def here(waiting: Sequence[sweep.Trial], job: tuple[Any, ...], *_: Any) -> Generator[sweep.Outcome]:
        for trial in waiting:
            trained.append(trial.name)
            yield sweep.run_trial(trial, *job)

    monkeypatch.setitem(sweep.ENGINES, "local", here)
    chosen = ["--splits", "official", "--splits", "leaky_cycles"]
    settings = [word for setting in WORDS[1:] for word in ("--set", setting)]
    words = ["protocol", "m2d_fusion", "--data", data, "--out", tmp_path / "out", "--size", "tiny", *chosen, *settings]
    code, printed, err = command(capsys, *words, "--json")
    assert code == 0, err
    document = json.loads(printed)
    assert len(trained) == 3
    table = pd.read_csv(tmp_path / "out" / "protocol.csv")
    assert len(table) == len(document["rows"]) == 3 * 6 + 4 * 2  # three selections or one, strict and not
    assert {path.name for path in (tmp_path / "out").glob("protocol.*")} == {
        f"protocol.{suffix}" for suffix in ("csv", "html", "md", "png", "svg")
    }
    text = (tmp_path / "out" / "protocol.md").read_text()
    assert "not a diagnosis" in text
    assert "leaky: cycles at random, 60/40" in text
    assert "every cycle called normal" in text
    assert (tmp_path / "out" / "protocol.svg").read_bytes().startswith(b"<?xml")

    code, printed, err = command(capsys, *words)
    assert code == 0, err
    assert len(trained) == 3  # answered from the folders
    assert "Research tool, not a diagnosis." in printed
    assert "leaky: cycles" in printed
    code, printed, err = command(capsys, *words, "--dry-run")
    assert printed.splitlines() == trained
