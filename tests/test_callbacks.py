"""What watches a run is told what the run folder holds, cannot stop it, and stays on this machine."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rales.data import read_cycles
from rales.errors import UsageError
from rales.training import finetune, run_folder
from rales.training.callbacks import Watchers, make_callbacks
from rales.training.trackers import TRACKERS, MlflowCallback, last_epoch
from tests import tiny

WORDS = ("train.epochs=2", "train.batch_size=32", "train.micro_batch=0")
RECORD = {"config": {"size": "tiny", "train": {"lr": 0.5, "metrics": ["a", "b"]}}}
EPOCHS = [
    [{"epoch": n, "split": "train", "loss": 1 / n, "lr": 0.5}, {"epoch": n, "split": "test", "score": n / 4}]
    for n in (1, 2)
]


class Seen:
    """A callback that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start_run(self, *about: Any) -> None:
        self.told.append(("start", *about))

    def end_epoch(self, *about: Any) -> None:
        self.told.append(("epoch", *about))

    def end_run(self, figures: Mapping[str, float], *, finished: bool) -> None:
        self.told.append(("end", figures, finished))


class Failing(Seen):
    def end_epoch(self, *about: Any) -> None:
        raise OSError("the disk is full")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("callbacks")
    tiny.write_folder(folder / "data")
    return folder


def test_a_run_that_is_stopped_and_goes_on_is_told_as_its_folder_has_it(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cycles, out, seen, failing = read_cycles(place / "data"), tmp_path / "run", Seen(), Failing()

    def train(**options: Any) -> dict[str, Any]:
        callbacks = [failing, seen]
        return finetune.run(
            tiny.recipe(*WORDS), cycles, out, cache_folder=place / "cache", callbacks=callbacks, **options
        )

    def stop(lines: list[dict[str, Any]]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(after_epoch=stop)
    figures = train()
    train()  # it is finished: nothing to tell

    assert last_epoch(out) == 2  # of what stands under final/
    assert [told[0] for told in seen.told] == ["start", "epoch", "end", "start", "epoch", "end"]
    (_, folder, settings, run_id), again = seen.told[0], seen.told[3]
    assert folder == out
    assert again[3] == run_id
    assert len(run_id) == 16
    assert settings["train.epochs"] == 2
    assert settings["size"] == "tiny"
    assert settings["model.layers"] == "1,2"
    assert seen.told[2] == ("end", {}, False)
    lines = run_folder.read_metrics(out)
    for epoch, told in ((1, seen.told[1]), (2, seen.told[4])):
        assert told[1] == epoch
        for line in (line for line in lines if line["epoch"] == epoch):
            assert told[2][f"{line['split']}/loss"] == line["loss"]
        assert told[2]["train/lr"] > 0
        assert not any("epoch" in name for name in told[2])
    _, last, finished = seen.told[5]
    assert finished
    assert last["score"] == figures["score"]
    assert "confusion" not in last

    warnings = [record.getMessage() for record in caplog.records if "Failing" in record.getMessage()]
    assert warnings == ["Failing failed (OSError: the disk is full); the run goes on without it"] * 2  # once each time
    assert [told[0] for told in failing.told] == ["start", "start"]


def test_numbers_alone_are_figures_and_nothing_goes_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Printing(Seen):
        def end_epoch(self, *about: Any) -> None:
            print("hello")
            super().end_epoch(*about)

    seen = Printing()
    line = {"epoch": 3, "split": "test", "loss": float("nan"), "best": True, "own": {"kappa": 0.5}, "note": "x"}
    Watchers([seen]).end_epoch([line])
    assert seen.told == [("epoch", 3, {"test/own.kappa": 0.5})]
    assert capsys.readouterr() == ("", "hello\n")


def test_words_and_objects_that_are_no_callbacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'tensorbord': expected one of tensorboard, wandb, mlflow, trackio"):
        make_callbacks(["tensorbord"])
    with pytest.raises(UsageError, match="has no start_run"):
        make_callbacks([object()])
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'logging to wandb needs the package wandb.*pip install "rales\[wandb\]"'):
        make_callbacks(["wandb"])


def read_back(name: str, place: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    """Tracker that was told of `place`/run -> figure -> its steps and values, and all settings as one text."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(place / "run" / "tensorboard")).Reload()
        figures = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
        texts = [e.tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"] for e in found.Tensors(tag)]
        return figures, " ".join(texts)
    if name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(str(place / "mlruns"))
        (run,) = client.search_runs([client.get_experiment_by_name("rales").experiment_id])
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        assert run.info.status == "FINISHED"
        return {key: [(m.step, m.value) for m in m_all] for key, m_all in history.items()}, str(run.data)
    if name == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        (run,) = SQLiteStorage.get_runs("rales")
        rows = SQLiteStorage.get_logs("rales", run)
        names = {key for row in rows for key in row if "/" in key}
        config = json.dumps(SQLiteStorage.get_run_config("rales", run))
        return {key: [(row["step"], row[key]) for row in rows if key in row] for key in names}, config
    (file,) = (place / "run" / "wandb").glob("offline-run-*/*.wandb")
    from wandb.proto import wandb_internal_pb2

    content, figures, text, at = (
        file.read_bytes(),
        dict[str, list[tuple[int, float]]](),
        "",
        7,
    )  # behind the file's head
    while at + 7 < len(content):  # check sum, length, kind, record: a log as of LevelDB, in one block
        size = int.from_bytes(content[at + 4 : at + 6], "little")
        record = wandb_internal_pb2.Record.FromString(content[at + 7 : at + 7 + size])
        at += 7 + size
        text += str(record.run)
        items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for key, value in items.items():
            if "/" in key:
                figures.setdefault(key, []).append((record.history.step.num, json.loads(value)))
        for item in record.summary.update:
            if item.key.startswith("final/"):
                figures[item.key] = [(2, json.loads(item.value_json))]
    return figures, text


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_holds_what_it_was_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in [each for each in os.environ if each.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(name, reason=f'{name} is not here: pip install "rales[{name}]"')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    watchers = Watchers(make_callbacks([name]))
    watchers.start_run(tmp_path / "run", RECORD)
    for number, lines in enumerate(EPOCHS):
        if name == "mlflow" and number:  # as after an interruption: it is the same run that goes on
            watchers = Watchers(make_callbacks([name]))
            watchers.start_run(tmp_path / "run", RECORD)
        watchers.end_epoch(lines)
    assert watchers.callbacks  # none has failed
    watchers.end_run({"score": 0.75, "confusion": [[1]]})

    figures, settings = read_back(name, tmp_path)
    assert figures["train/loss"] == [(1, 1.0), (2, 0.5)]
    assert figures["test/score"] == [(1, 0.25), (2, 0.5)]
    assert figures["final/score"] == [(2, 0.75)]
    assert "train.lr" in settings
    assert "a,b" in settings
    assert str(tmp_path / "run") in settings


def test_runs_of_mlflow_that_begin_at_once_share_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason='mlflow is not here: pip install "rales[mlflow]"')
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    callback, client = MlflowCallback(), MlflowClient(str(tmp_path / "mlruns"))
    callback.client, look, unseen = client, client.get_experiment_by_name, [None]
    made = client.create_experiment("rales")  # by another, between the look and the making
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: unseen.pop() if unseen else look(name))
    assert callback._find_experiment("rales") == made
    assert unseen == []


def test_trackers_are_offline_unless_their_variables_say_otherwise() -> None:
    """Those who report to their makers are told not to before they are imported (rales/telemetry.py)."""
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
