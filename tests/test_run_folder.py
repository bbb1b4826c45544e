"""The run folder: files appear whole or not at all, and a folder of something else is never touched."""

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from rales.data.splits import digest_cycles
from rales.environment import describe_environment
from rales.files.atomic import atomic_write, lock_folder
from rales.files.json_files import flatten_json
from rales.files.writers import copy_file, write_csv, write_json
from rales.settings import to_dict
from rales.training import run_folder
from tests import tiny

RECORD: dict[str, Any] = {
    "recipe": "m2d_fusion",
    "config": {"train": {"lr": 1e-4, "epochs": 3}, "model": {"layers": (1, 2)}},
    "command": "rales train …",
    "versions": {"torch": "2"},
    "commit": "abc",
}


def other(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(RECORD)), **changes}


def everything(folder: Path) -> dict[str, bytes]:
    """Folder -> content of every file in it, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# begin


def test_a_new_folder_is_made_with_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    assert run_folder.begin_run(folder, RECORD) is False
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert run_folder.read_json(folder / "config.json") == json.loads(json.dumps(RECORD))


def test_the_same_run_goes_on_until_it_is_done(tmp_path: Path) -> None:
    run_folder.begin_run(tmp_path, RECORD)
    (tmp_path / "resume.safetensors").touch()
    changed = other(command="rales train --json", versions={"torch": "3"}, commit="def+changes")
    assert run_folder.begin_run(tmp_path, changed) is False
    (tmp_path / "done").touch()
    assert run_folder.begin_run(tmp_path, changed) is True
    assert run_folder.begin_run(tmp_path, changed) is True
    assert run_folder.read_json(tmp_path / "config.json")["commit"] == "abc"


def test_a_run_that_stopped_before_its_first_epoch_may_start_again_with_other_settings(tmp_path: Path) -> None:
    run_folder.begin_run(tmp_path, RECORD)
    assert run_folder.begin_run(tmp_path, other(recipe="m2d_fusion", seed=5)) is False
    assert run_folder.read_json(tmp_path / "config.json")["seed"] == 5


@pytest.mark.parametrize("name", ["resume.safetensors", "done"])
def test_a_run_of_other_settings_is_left_alone(tmp_path: Path, name: str) -> None:
    run_folder.begin_run(tmp_path, RECORD)
    (tmp_path / name).write_bytes(b"weights")
    before = everything(tmp_path)
    config = {"train": {"lr": 1e-3, "epochs": 4}, "model": {"layers": [1, 2]}}
    with pytest.raises(ValueError, match="other settings") as told:
        run_folder.begin_run(tmp_path, other(config=config))
    assert str(told.value) == (
        f"{tmp_path}: holds a run of other settings (config.train.lr is 0.0001 there, 0.001 here, and 1 more); "
        "choose another --out or remove the folder"
    )
    assert everything(tmp_path) == before


def test_recomputed_activations_are_no_other_run(tmp_path: Path) -> None:
    def record(recompute: bool) -> dict[str, Any]:
        config = {"model": {"recompute": recompute}, "encoder": {"recompute": recompute}}
        return other(config=config, asked={"config": config})

    run_folder.begin_run(tmp_path, record(False))
    (tmp_path / "resume.safetensors").touch()
    changed = record(True)
    assert run_folder.begin_run(tmp_path, changed) is False
    run_folder.check_same_run(tmp_path, run_folder.read_json(tmp_path / "config.json"), changed)


def test_a_run_of_the_version_before_goes_on(tmp_path: Path) -> None:
    """Its record, and that of what a stage was asked, lack a setting that this version has at its default."""
    made = tiny.recipe()
    record = other(config=to_dict(made.settings), asked={"config": to_dict(made.settings)})
    before = json.loads(json.dumps(record))
    for part in (before, before["asked"]):
        del part["config"]["train"]["sam_rho"], part["config"]["model"]["recompute"]
    run_folder.begin_run(tmp_path, before)
    (tmp_path / "done").touch()
    assert run_folder.begin_run(tmp_path, record, type(made.settings)) is True
    run_folder.check_same_run(tmp_path, before, record)

    record["config"] = to_dict(tiny.recipe("train.sam_rho=0.05").settings)
    with pytest.raises(ValueError, match=r"other settings \(config.train.sam_rho is 0.0 there, 0.05 here\)"):
        run_folder.begin_run(tmp_path, record, type(made.settings))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"not a run folder, but it holds thesis.tex; choose an empty --out"):
        run_folder.begin_run(tmp_path, RECORD)
    assert everything(tmp_path) == before


def test_a_config_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"not a run folder, its config.json is of something else; choose an empty"):
        run_folder.begin_run(tmp_path, RECORD)
    assert everything(tmp_path) == before


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"")
    assert run_folder.begin_run(tmp_path, RECORD) is False


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_place_that_cannot_hold_a_folder_is_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(OSError, match=rf"{place}: cannot write there \(.+\); choose another --out"):
        run_folder.begin_run(tmp_path / place, RECORD)
    assert (tmp_path / "file").read_text() == "here first"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot write there \(Permission denied\)"):
        run_folder.begin_run(tmp_path, RECORD)


def test_a_damaged_record_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"config.json: not valid JSON .* damaged"):
        run_folder.begin_run(tmp_path, RECORD)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config.json: holds a JSON list, expected an object"):
        run_folder.begin_run(tmp_path, RECORD)


def test_stored_precision(tmp_path: Path) -> None:
    assert run_folder.stored_precision(tmp_path) is None
    run_folder.begin_run(tmp_path, {**RECORD, "computed_in": {"precision": "bf16"}})
    assert run_folder.stored_precision(tmp_path) is None, "nothing is done yet, so nothing binds the continuation"
    (tmp_path / "resume.safetensors").touch()
    assert run_folder.stored_precision(tmp_path) == "bf16"


def test_a_run_folder_has_one_trainer_and_the_second_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock_folder(folder):
        run_folder.begin_run(folder, RECORD)
        before = (folder / "config.json").read_bytes()
        with pytest.raises(ValueError, match="another process is at work there"), lock_folder(folder):
            pytest.fail("claimed twice")
        assert (folder / "config.json").read_bytes() == before
    with lock_folder(folder):  # free again
        pass


def test_flatten_writes_values_as_json_stores_them() -> None:
    flat = flatten_json({"a": {"b": (1, 2), "c": {"d": None}}, "e": []})
    assert flat == {"a.b": [1, 2], "a.c.d": None, "e": []}
    assert flatten_json(json.loads(json.dumps(RECORD))) == flatten_json(RECORD)


# Writing: whole or not at all

Write = Callable[[Path], None]
WRITERS: Mapping[str, Write] = {
    "save_tensors": lambda path: run_folder.save_tensors(path, {"w": torch.ones(1000)}, {}),
    "write_json": lambda path: write_json(path, {"a": 1}),
    "write_csv": lambda path: write_csv(path, pd.DataFrame({"a": [1, 2]})),
    "copy_file": lambda path: copy_file(Path(__file__), path),
    "truncate_metrics": lambda path: run_folder.truncate_metrics(path.parent, 0),
    "append_metrics": lambda path: run_folder.append_metrics(path.parent, [{"epoch": 3}]),
}


def disk_full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full_in_rust(_tensors: Any, path: Path, **__: Any) -> Any:
    path.write_bytes(b"half a fi")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


FAILURES = [
    pytest.param("save_tensors", "rales.training.run_folder.save_file", disk_full, id="tensors"),
    pytest.param("save_tensors", "rales.training.run_folder.save_file", disk_full_in_rust, id="tensors in rust"),
    pytest.param("write_json", "pathlib.Path.write_text", disk_full, id="json"),
    pytest.param("write_csv", "pandas.DataFrame.to_csv", disk_full, id="table"),
    pytest.param("copy_file", "shutil.copyfile", disk_full, id="copy_file"),
    pytest.param("truncate_metrics", "pathlib.Path.write_text", disk_full, id="forgotten metrics"),
    pytest.param("append_metrics", "pathlib.Path.write_text", disk_full, id="metrics"),
]


@pytest.mark.parametrize(("writer", "broken", "failure"), FAILURES)
def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, broken: str, failure: Any
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n')
    before = everything(tmp_path)
    monkeypatch.setattr(broken, failure)
    with pytest.raises(OSError, match="the disk is full") as told:
        WRITERS[writer](path)
    monkeypatch.undo()
    assert told.value.errno == errno.ENOSPC
    assert str(path) in str(told.value)
    assert "MiB free" in str(told.value)
    assert "make room and run the same command again" in str(told.value)
    assert everything(tmp_path) == before  # nor a .part beside it
    WRITERS[writer](path)
    assert everything(tmp_path) != before


def test_an_interruption_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    before = everything(tmp_path)
    monkeypatch.setattr("pathlib.Path.write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"new": 2})
    assert everything(tmp_path) == before


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with atomic_write(path) as beside:
        beside.write_text("{")
        assert run_folder.read_json(path) == {"old": 1}
        beside.write_text('{"new": 2}')
    assert run_folder.read_json(path) == {"new": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("name", ["folder", "file/x.csv", "file/deep/x.csv"])
def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("here first")
    with pytest.raises(OSError, match=rf"{name}: cannot be written \(.+\)"):
        write_csv(tmp_path / name, pd.DataFrame({"a": [1]}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_csv(tmp_path / "a" / "b" / "x.csv", pd.DataFrame({"a": [1]}))
    assert (tmp_path / "a" / "b" / "x.csv").read_text() == "a\n1\n"


# Checkpoints


def test_tensors_and_record_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(2), "c": torch.zeros(0)}
    run_folder.save_tensors(tmp_path / "x.safetensors", tensors, {"epoch": 3, "score": float("nan"), "layers": (1, 2)})
    found, record = run_folder.read_checkpoint(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert record == {"epoch": 3, "score": None, "layers": [1, 2]}


def test_all_files_of_a_run_have_the_usual_permissions(tmp_path: Path) -> None:
    """Colleagues read each other's run folders; safetensors alone would write for the owner only."""
    (tmp_path / "usual").touch()
    for name, write in WRITERS.items():
        write(tmp_path / "metrics.jsonl")
        mode = stat.S_IMODE((tmp_path / "metrics.jsonl").stat().st_mode)
        assert mode == stat.S_IMODE((tmp_path / "usual").stat().st_mode), name
        (tmp_path / "metrics.jsonl").unlink()


def test_a_file_that_is_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"x.safetensors: no such checkpoint"):
        run_folder.read_checkpoint(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"x.safetensors: .*without a Rales record.*--weights"):
        run_folder.read_checkpoint(path)
    run_folder.save_tensors(path, {"w": torch.ones(100)}, {})
    content = path.read_bytes()
    for damaged in (content[:-7], b"<html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x.safetensors: damaged, cut or not a safetensors file"):
            run_folder.read_checkpoint(path)


# Metrics


def test_metrics_survive_a_cut_last_line(tmp_path: Path) -> None:
    assert run_folder.read_metrics(tmp_path) == []
    run_folder.append_metrics(tmp_path, [{"epoch": 1, "score": np.float64(0.5)}, {"epoch": 1, "score": float("nan")}])
    run_folder.append_metrics(tmp_path, [{"epoch": 2, "score": np.int64(1)}])
    lines = [{"epoch": 1, "score": 0.5}, {"epoch": 1, "score": None}, {"epoch": 2, "score": 1}]
    assert run_folder.read_metrics(tmp_path) == lines
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "sco')
    assert run_folder.read_metrics(tmp_path) == lines
    run_folder.truncate_metrics(tmp_path, 1)
    assert run_folder.read_metrics(tmp_path) == lines[:2]
    run_folder.append_metrics(tmp_path, [{"epoch": 2}])
    assert run_folder.read_metrics(tmp_path) == [*lines[:2], {"epoch": 2}]


# Digest


def cycles(rows: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "recording": [f"r{i // 2}" for i in range(rows)],
            "start_s": [i * 0.5 for i in range(rows)],
            "end_s": [i * 0.5 + 0.5 for i in range(rows)],
            "label": ["normal", "crackle"] * (rows // 2),
            "split": ["train"] * (rows // 2) + ["test"] * (rows - rows // 2),
            "path": "/somewhere",
        }
    )


@given(st.permutations(range(4)))
def test_the_digest_is_of_the_rows_not_of_their_order_or_place(order: list[int]) -> None:
    moved = cycles().iloc[order].assign(path="/elsewhere").reset_index(drop=True)
    assert digest_cycles(moved) == digest_cycles(cycles())


@pytest.mark.parametrize("column", ["recording", "start_s", "end_s", "label", "split"])
def test_the_digest_sees_every_change(column: str) -> None:
    other_values = {"recording": "r9", "start_s": 1.25, "end_s": 1.25, "label": "both", "split": "train"}
    values = cycles()[column].tolist()
    values[2] = other_values[column]
    assert digest_cycles(cycles().assign(**{column: values})) != digest_cycles(cycles())


def test_environment_names_versions_and_commit() -> None:
    found = describe_environment()
    assert torch.__version__.startswith(found["versions"]["torch"])  # PyPI's builds do not name theirs: 2.15.0+cu132
    assert set(found["versions"]) >= {"python", "rales", "numpy", "pandas", "soundfile", "soxr", "safetensors"}
    assert isinstance(found["commit"], str)


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: a device or a pipe, which would be replaced; give the name of a file"):
        write_json(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_fifo()
