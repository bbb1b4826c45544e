"""Sweeps: the same run folders from one process, from several and from Ray; nothing is lost when one dies."""

import dataclasses
import hashlib
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

from rales.cli import app, main
from rales.data import read_cycles, splits
from rales.data.dataset import expand_rows, index_extras, make_preparation, read_extras, select_extras
from rales.errors import SettingError, UsageError
from rales.files.atomic import lock_folder
from rales.files.writers import write_json
from rales.jobs import gpu_estimate, reproduce, sweep
from rales.recipes.registry import find_settings, make_recipe
from rales.registry import RECIPES
from rales.report.literature import TABLE2, paper_rows
from rales.settings import list_fields
from rales.training import run_folder
from rales.training.recipe import LossContext, Recipe
from tests import tiny
from tests.conftest import GOLDEN, REPOSITORY

WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make setup")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("sweep") / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path_factory.getbasetemp() / "sweep_cache"))


def planned(grid: dict[str, list[str]] | None = None, seeds: int = 1) -> list[sweep.Trial]:
    return sweep.trials("m2d_fusion", grid or {}, seeds, ["size=tiny", *tiny.SETTINGS, "train.epochs=1"])


def same_predictions(one: Path, other: Path) -> bool:
    return (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()


def test_grid_words() -> None:
    assert sweep.grid_of(["variant=vanilla,all_fixed", "model.layers=[1,2],[2]"]) == {
        "variant": ["vanilla", "all_fixed"],
        "model.layers": ["[1,2]", "[2]"],
    }
    for wrong in ("variant", "variant="):
        with pytest.raises(UsageError, match="expected option=value"):
            sweep.grid_of([wrong])
    for wrong in ("model.layers=[5,11", "model.layers=5,11]", "train.lr=1,,2"):
        with pytest.raises(UsageError, match="other half"):
            sweep.grid_of([wrong])


def test_trials_are_the_grid_times_the_seeds_and_unknown_words_stop_them() -> None:
    found = sweep.trials("m2d_fusion", {"variant": ["vanilla", "all_fixed"]}, 3, ["size=tiny"])
    assert len({trial.name for trial in found}) == len(found) == 6
    assert found[-1].words == ("size=tiny", "variant=all_fixed", "seed=2")
    with pytest.raises(UsageError, match="vanila"):
        sweep.trials("m2d_fusion", {"variant": ["vanila"]}, 1)


def test_the_paper_is_a_sweep() -> None:
    table2 = reproduce.paper_trials("table2", 5, ["size=tiny", "frontend=icbhi"])
    assert len(table2) == 190  # six rows and 13 earlier systems, with and without validation patients
    others = {"m2d_ntt", "mn04_fusion", "encoder_fusion", *reproduce.LATER}  # not of the paper
    assert {trial.recipe for trial in table2} == set(RECIPES.built_in) - others
    printed = {row.recipe for row in paper_rows(TABLE2)}
    assert printed < set(RECIPES.built_in)
    assert len(reproduce.paper_trials("figure3", 5, ["size=tiny"], select="test_best")) == 5
    ratios = [str(GOLDEN / "checkpoints" / f"{name}.safetensors") for name in ("full", "enconly")]
    table1 = reproduce.paper_trials("table1", 1, [], weights=ratios, select="last")
    assert [trial.words[0] for trial in table1] == [f"weights={ratio}" for ratio in (*ratios, *ratios)]
    assert ["model.pool=mean" in trial.words for trial in table1] == [False, False, True, True]
    everything = reproduce.paper_trials("all", 1, [], weights=ratios, select="last")
    assert len(everything) == 22  # vanilla with the second checkpoint is in both tables, all_learned in two parts
    with pytest.raises(UsageError, match="size is that of a random start"):
        reproduce.paper_trials("all", 1, ["size=tiny"])
    with pytest.raises(UsageError, match="Table 1 takes two"):
        reproduce.paper_trials("table1", 1, [], weights=ratios[:1])
    with pytest.raises(UsageError, match="--set tpyo: no such field"):
        reproduce.paper_trials("table2", 1, ["size=tiny", "tpyo=1"])
    with pytest.raises(UsageError, match="table3"):
        reproduce.paper_trials("table3", 5, [])
    for word, option in (("train.select=last", "--select"), ("weights=mr7", "--weights")):
        with pytest.raises(SettingError, match=f"{word}: the study sets this for each of its runs; give {option}"):
            reproduce.paper_trials("table2", 5, ["size=tiny", word])


def test_named_sets_of_layers_are_written_out() -> None:
    found = sweep.trials("m2d_fusion", {"model.layers": ["pairs", "[2,3]", "[1,2,3]"]}, 1, ["size=tiny"])
    words = [trial.words[1].removeprefix("model.layers=") for trial in found]
    assert words == ["[1,2]", "[1,3]", "[2,3]", "[1,2,3]"]
    everything = sweep.trials("m2d_fusion", {"model.layers": ["subsets"]}, 1, ["size=tiny"])
    assert len({make_recipe(t.recipe, t.words).settings.model.layers for t in everything}) == 7
    by_size = sweep.trials("m2d_fusion", {"model.layers": ["pairs"], "size": ["tiny", "small"]}, 1)
    assert len(by_size) == 3 + 66  # of three and of twelve layers
    with pytest.raises(UsageError, match="the encoder has 3 layers"):
        sweep.trials("m2d_fusion", {"model.layers": ["[1,5]"]}, 1, ["size=tiny"])


def ablations() -> list[str]:
    return re.findall(r"`rales (sweep [^`]+)`", (REPOSITORY / "docs" / "ablations.md").read_text())


# What the document asks for beside --size tiny, and lines whose values another part of the training reads
AT_TINY = {
    "audio.scope": ["frontend=icbhi"],
    "model.layout": ["model.patch=16,16", "model.unit_frames=208"],
}
READ_ELSEWHERE = ("train.", "split.", "model.layer_weight_update", "statistics")  # statistics: of the second stage


@pytest.mark.parametrize("line", ablations())
def test_every_ablation_of_the_docs_changes_what_a_small_network_computes(line: str, data: Path) -> None:
    app.parse_args(line, exit_on_error=False, print_error=False)
    [grid] = re.findall(r"--grid (\S+)", line)
    read = list_fields(find_settings(line.split()[1]))
    length = ["audio.duration_s=2"] if "audio.duration_s" in read else []
    words = ["size=tiny", *length, *AT_TINY.get(grid.split("=")[0], [])]
    found = sweep.trials(line.split()[1], sweep.grid_of([grid]), 1, words)
    made = [make_recipe(trial.recipe, trial.words) for trial in found]
    assert len({repr(recipe.settings) for recipe in made}) == len(found) > 1
    computed = [computed_by(recipe, data) for recipe in made]
    if not grid.startswith(READ_ELSEWHERE):
        assert len(set(computed)) == len(found)


def computed_by(recipe: Recipe, data: Path) -> str:
    """-> features, augmented features, loss, logits and gradients of the first cycles, from one start."""
    rows = expand_rows(splits.divide_cycles(read_cycles(data), recipe.settings), recipe).head(4)
    torch.manual_seed(0)
    inputs = torch.from_numpy(make_preparation(recipe).of_rows(rows))
    model, generator = recipe.build_model(recipe.settings), torch.Generator().manual_seed(0)
    extras = index_extras(read_extras(rows, recipe), slice(None))
    frontend = recipe.build_frontend(recipe.settings)
    features = frontend(inputs, **select_extras(frontend, extras))
    seen = [features, *(recipe.augment(recipe.settings, features, generator) for _ in range(16))]
    label = torch.arange(len(inputs)) % 4
    step = LossContext(recipe.settings, label, label, torch.ones(4), {"group": label, **extras}, generator)
    loss, logits = recipe.loss(model, seen[-1], step)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in [*seen, loss, logits, *gradients])).hexdigest()


def test_the_document_says_what_a_line_needs_at_size_tiny() -> None:
    text = (REPOSITORY / "docs" / "ablations.md").read_text()
    for grid, words in AT_TINY.items():
        assert f"`{grid}` needs `" + " ".join(f"--set {word}" for word in words) + "`" in re.sub(r"\s+", " ", text)


def test_size_tiny_has_one_row_of_patches_and_no_batch_to_take_a_minimum_of() -> None:
    with pytest.raises(UsageError, match=r"audio.scope=batch: only the icbhi log-mel .* or use --set frontend=icbhi"):
        sweep.trials("m2d_fusion", {"audio.scope": ["clip", "batch"]}, 1, ["size=tiny"])
    config = make_recipe("m2d_fusion", size="tiny").settings
    assert config.model.patch[0] == 80  # so the document sends model.layout=flat,stacked to other patches


@pytest.mark.usefixtures("jobs_in_this_process")
def test_finished_runs_are_skipped_and_a_trial_that_raises_stops_no_other(data: Path, tmp_path: Path) -> None:
    trials = planned({"train.device": ["cuda:7", "cpu"]})
    first = sweep.run(trials, data, tmp_path, processes=2)
    assert [outcome.state for outcome in first] == ["failed", "done"]
    assert "cuda:7" in first[0].error
    assert "Traceback" in first[0].trace
    recorded = run_folder.read_json(tmp_path / "sweep.json")["trials"]
    assert [row["state"] for row in recorded] == ["failed", "done"]
    before = (tmp_path / trials[1].name / "done").stat().st_mtime_ns
    second = sweep.run(trials, data, tmp_path, processes=2)
    assert [outcome.state for outcome in second] == ["failed", "skipped"]
    assert (tmp_path / trials[1].name / "done").stat().st_mtime_ns == before


def test_a_killed_trial_is_reported_and_a_second_call_completes_it(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """That the process takes no other with it is a matter of tests/test_parallel.py."""
    trials = planned()
    killed: list[int] = []

    def kill_the_first() -> None:
        while not killed:
            for child in multiprocessing.active_children():
                if child.pid and (tmp_path / trials[0].name / "config.json").exists():
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    break
            time.sleep(0.001)

    threading.Thread(target=kill_the_first, daemon=True).start()
    first = sweep.run(trials, data, tmp_path, processes=1)
    assert [outcome.state for outcome in first] == ["failed"]
    assert "SIGKILL" in first[0].error
    request.getfixturevalue("jobs_in_this_process")
    second = sweep.run(trials, data, tmp_path, processes=1)
    assert [outcome.state for outcome in second] == ["done"]
    undisturbed = sweep.run(trials, data, tmp_path / "again", processes=1)
    assert undisturbed[0].state == "done"
    assert same_predictions(tmp_path / trials[0].name, tmp_path / "again" / trials[0].name)


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_damaged_finished_folder_fails_alone(data: Path, tmp_path: Path) -> None:
    trials = planned(seeds=2)
    sweep.run(trials, data, tmp_path, processes=2)
    (tmp_path / trials[0].name / "config.json").write_text("{}")
    second = sweep.run(trials, data, tmp_path, processes=1)
    assert [outcome.state for outcome in second] == ["failed", "skipped"]
    assert "config.json" in second[0].error


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_finished_trial_of_the_version_before_or_with_other_memory_is_skipped(data: Path, tmp_path: Path) -> None:
    (trial,) = planned()
    sweep.run([trial], data, tmp_path, processes=1)
    record = run_folder.read_json(tmp_path / trial.name / "config.json")
    del record["config"]["train"]["sam_rho"]
    write_json(tmp_path / trial.name / "config.json", record)
    for word in ("model.recompute=no", "model.recompute=yes"):
        again = dataclasses.replace(trial, words=(*trial.words, word))
        assert [outcome.state for outcome in sweep.run([again], data, tmp_path, processes=1)] == ["skipped"]
    other = dataclasses.replace(trial, words=(*trial.words, "train.sam_rho=0.05"))
    (outcome,) = sweep.run([other], data, tmp_path, processes=1)
    assert "(config.train.sam_rho is 0.0 there, 0.05 here)" in outcome.error


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_second_sweep_in_the_folder_is_told_and_one_after_a_kill_clears_up(data: Path, tmp_path: Path) -> None:
    trials = planned()
    sweep.run(trials, data, tmp_path, processes=1)
    # Killed between `done` and the removal of what it would have gone on from
    left = [tmp_path / trials[0].name / name for name in (run_folder.RESUME, run_folder.PREVIOUS, run_folder.NEXT)]
    for path in left:
        path.touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with (
        lock_folder(tmp_path),
        pytest.raises(ValueError, match=r"another process is at work there; wait for it or"),
    ):
        sweep.run([*trials, *planned(seeds=2)[1:]], data, tmp_path, processes=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [outcome.state for outcome in sweep.run(trials, data, tmp_path, processes=1)] == ["skipped"]
    assert not any(path.exists() for path in left)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_trials_end_with_a_sweep_that_is_killed(data: Path, tmp_path: Path) -> None:
    words = ["-m", "rales", "sweep", "m2d_fusion", "--data", str(data), "--out", str(tmp_path), "--size", "tiny"]
    words += [word for setting in (*tiny.SETTINGS, "train.epochs=10000") for word in ("--set", setting)]
    sweeping = subprocess.Popen([sys.executable, *words, "--processes", "1"], stderr=subprocess.DEVNULL)
    run = tmp_path / "m2d_fusion-seed0"
    wait_until(lambda: (run / "metrics.jsonl").exists())
    children = [int(p.name) for p in Path("/proc").glob("[0-9]*") if alive(p) and sweeping.pid in parents(int(p.name))]
    assert children
    sweeping.kill()
    sweeping.wait()
    wait_until(lambda: not any(alive(Path(f"/proc/{child}")) for child in children))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="a terminal as POSIX has it")
@pytest.mark.parametrize("job", ["sweep", "manifest", "synth"])
def test_ctrl_c_is_told_once_and_its_workers_end(data: Path, tmp_path: Path, job: str) -> None:
    """The terminal sends it to all processes of the command; two of them are at work."""
    words = ["sweep", "m2d_fusion", "--data", str(data), "--out", str(tmp_path / "out"), "--seeds", "2"]
    words += ["--size", "tiny", *(w for s in (*tiny.SETTINGS, "train.epochs=10000") for w in ("--set", s))]
    ends, begun = "goes on where it stopped", "*/metrics.jsonl"
    if job == "manifest":
        recording = sorted(data.glob("*.wav"))[0].read_bytes()
        for number in range(400):
            (tmp_path / f"{number}.wav").write_bytes(recording)
        (tmp_path / "all.csv").write_text("path\n" + "".join(f"{number}.wav\n" for number in range(400)))
        words = ["predict", "--manifest", str(tmp_path / "all.csv"), "--out", str(tmp_path / "out"), "--shard", "20"]
        begun = "status/*.parquet"
    elif job == "synth":
        words = ["synth", str(tmp_path / "out"), "--recordings", "400"]
        ends, begun = "starts anew", "../.out.*.part/part/*.wav"
    command = [sys.executable, "-m", "rales", *words, "--processes", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: any((tmp_path / "out").parent.glob(f"out/{begun}" if job != "synth" else begun[3:])))
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    told = [line for line in re.split("[\r\n]+", said) if line and "%|" not in line and "it/s" not in line]
    assert [line for line in told if line.startswith(("rales:", "Traceback", "Process", "Exception"))] == [
        f"rales: interrupted; the same command {ends}"
    ]
    assert "KeyboardInterrupt" not in said
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert not list(tmp_path.glob(".out.*.part"))


def alive(process: Path) -> bool:
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except OSError:
        return False


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


@WITH_RAY
def test_ray_makes_the_same_runs_and_survives_a_trial_that_raises(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trials = planned({"train.device": ["cuda:7", "cpu"]})
    on_ray = sweep.run(trials, data, tmp_path / "ray", engine="ray", processes=2)
    assert [outcome.state for outcome in on_ray] == ["failed", "done"]
    request.getfixturevalue("jobs_in_this_process")
    sweep.run(trials[1:], data, tmp_path / "local", processes=1)
    assert same_predictions(tmp_path / "ray" / trials[1].name, tmp_path / "local" / trials[1].name)


def parents(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(re.findall(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[0])
        found.append(pid)
    return found


@pytest.mark.slow
@WITH_RAY
def test_a_killed_ray_worker_stops_no_other_trial(data: Path, tmp_path: Path) -> None:
    trials = planned(seeds=2)

    def kill_the_first() -> None:
        while True:
            for process in Path("/proc").glob("[0-9]*"):
                try:  # of the session that this test has begun, not of another test or another person
                    at_work = b"ray::run_trial" in (process / "cmdline").read_bytes()
                    at_work &= os.getpid() in parents(int(process.name))
                except OSError:
                    continue
                if at_work and (tmp_path / trials[0].name / "config.json").exists():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
            time.sleep(0.005)

    threading.Thread(target=kill_the_first, daemon=True).start()
    first = sweep.run(trials, data, tmp_path, engine="ray", processes=1)
    assert sorted(outcome.state for outcome in first) == ["done", "failed"]
    second = sweep.run(trials, data, tmp_path, engine="ray", processes=1)
    assert sorted(outcome.state for outcome in second) == ["done", "skipped"]


@pytest.mark.usefixtures("jobs_in_this_process")
def test_reproduce_through_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for setting in (*tiny.SETTINGS, "train.epochs=2") for word in ("--set", setting)]
    words = ["reproduce", "figure3", "--data", str(data), "--out", str(tmp_path), "--seeds", "2", "--size", "tiny"]
    with pytest.raises(SystemExit):
        main([*words, *settings, "--tflops", "30"])
    assert "--tflops 30: is of --dry-run alone" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*words, *settings, "--dry-run", "--json"])
    planned_there = json.loads(capsys.readouterr().out)
    assert (ended.value.code, len(planned_there["trials"])) == (0, 4)
    assert planned_there["hours"] > 0
    assert [cost["runs"] for cost in planned_there["systems"]] == [4]  # however its epoch is chosen, a step is a step
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit) as ended:
        main([*words, *settings, "--processes", "2"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    everyone, fewer = "all training patients", "without validation patients"
    for trained, epoch in (
        (everyone, "last epoch"),
        (everyone, "best on the test set"),
        (fewer, "best on validation patients"),
    ):
        row = next(line for line in said.splitlines() if f"{trained} | {epoch} | 2" in line)
        assert re.search(r"\d ± \d[^|]* \[\d[^|]*\] \|$", row), row  # mean, deviation and interval
    assert (tmp_path / "report" / "figure3.png").stat().st_size > 1000
    assert "not the whole" in (tmp_path / "report" / "report.md").read_text().lower()
    table = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert table["select"].value_counts().to_dict() == {"last": 2, "validation": 2}


def test_reproduce_looks_for_what_its_report_needs_before_it_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda name: None if name == "matplotlib" else name)
    settings = [word for setting in (*tiny.SETTINGS, "train.epochs=1") for word in ("--set", setting)]
    words = ["reproduce", "figure3", "--data", str(data), "--out", str(tmp_path / "out"), "--seeds", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--size", "tiny", *settings])
    assert ended.value.code == 2
    assert "a report needs the package matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_sweep_ends_with_the_ranking_and_says_what_it_is_by(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for setting in (*tiny.SETTINGS, "train.epochs=1") for word in ("--set", setting)]
    words = ["sweep", "m2d_fusion", "--data", str(data), "--size", "tiny", *settings, "--processes", "2"]
    for select, by in (("validation", "validation_auroc"), ("last", "test_score")):
        out = str(tmp_path / select)
        with pytest.raises(SystemExit) as ended:
            main([*words, "--out", out, "--select", select, "--grid", "train.lr=0.01,0.000001"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert "1. m2d_fusion" in said
        assert ("a ranking by test" in said) == (by == "test_score")
        with pytest.raises(SystemExit):  # everything is finished, and ranked again
            main([*words, "--out", out, "--select", select, "--grid", "train.lr=0.01,0.000001", "--json"])
        ranking = json.loads(capsys.readouterr().out)["ranking"]["systems"]
        assert [row["ranked_by"] for row in ranking] == [by] * 2
        figures = [row[by.removeprefix("test_")] for row in ranking]
        assert figures == sorted(figures, reverse=True)
        stored = run_folder.read_json(next(Path(out).glob("*0.01*")) / "evaluation.json")
        mine = next(row for row in ranking if "0.01" in row["system"])
        assert mine["score"] == stored["score"]
        if select == "validation":
            assert mine["validation_auroc"] == stored["validation"]["auroc"]


def test_the_estimate_times_scoring_in_float32_as_it_is_done() -> None:
    asked = list[tuple[bool, bool]]()
    made = tiny.recipe("train.precision=bf16")

    def build_watched(settings: Any) -> torch.nn.Module:
        model = made.build_model(settings)
        model.register_forward_pre_hook(
            lambda *_: asked.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        )
        return model

    trained_s, scored_s, size = reproduce.step_cost(dataclasses.replace(made, build_model=build_watched))
    assert asked == 2 * [(True, True), (False, False)]
    assert min(trained_s, scored_s, size) > 0


def test_operations_and_memory_of_a_step_are_counted() -> None:
    """A layer from 5 to 4: two operations a weight, cycle and view forward, as many for the gradient."""
    made = tiny.recipe("train.batch_size=6", "train.micro_batch=3")

    def loss(model: torch.nn.Module, inputs: torch.Tensor, about: Any) -> tuple[torch.Tensor, torch.Tensor]:
        model(inputs)  # a second view, which scoring does not look at
        logits = model(inputs)
        return (logits * about.weight).sum(), logits

    made = dataclasses.replace(
        made, build_model=lambda _: torch.nn.Linear(5, 4), build_frontend=lambda _: OnlyFive(), loss=loss
    )
    for device in ("meta", "cpu"):
        found = gpu_estimate.run_step(made, 2, device)
        assert (found.train_flop, found.score_flop, found.checkpoint_bytes) == (120, 40, 96)
        # weights, gradients and two moments; for the backward pass the inputs of a micro-batch, and the class weights,
        # which the two cycles of this step share
        assert found.memory_bytes == 4 * 96 + 3 * (5 * 4) + 3 / 2 * 16


class OnlyFive(torch.nn.Module):
    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        return waves[:, :5]


def test_the_paper_is_counted_without_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        reproduce.paper_trials("table1", 1, [])
    planned = reproduce.paper_trials("table1", 5, ["train.epochs=10"], stand_in=True)
    assert len(planned) == 2 * 2 * 2 * 5  # masking ratios, poolings, protocols, seeds
    assert sum("weights=mr6" in trial.name for trial in planned) == 20

    step = gpu_estimate.StepCount(3e9, 1e9, 100, 2e9)
    monkeypatch.setattr(gpu_estimate, "count_step", lambda recipe: step)
    rows = [("a", "train")] * 3 + [("b", "train")] + [("c", "test")] * 2
    cycles = pd.DataFrame({"patient": [patient for patient, _ in rows], "split": [split for _, split in rows]})
    cycles["recording"], cycles["cycle"], cycles["label"] = cycles["patient"], range(6), "normal"
    last = [trial for trial in planned if "train.select=last" in trial.name]
    found = gpu_estimate.estimate_on_gpu(last, cycles, tflops=2)
    # 20 runs of 10 epochs: 4 cycles trained and 2 scored
    assert found.hours == pytest.approx(20 * 10 * (4 * 3e9 + 2 * 1e9) / 2e12 / 3600)
    assert (found.memory_gigabytes, len(found.systems)) == (2.0, 4)
    for none in (0.0, -5.0, float("nan")):
        with pytest.raises(UsageError, match=f"--tflops {none:g}: expected above 0"):
            gpu_estimate.estimate_on_gpu(last, cycles, tflops=none)


def test_seeds_of_a_sweep_are_not_set_otherwise() -> None:
    with pytest.raises(UsageError, match="--set seed=3: the seeds of a sweep are 0, 1, …, so many as --seeds says"):
        sweep.trials("m2d_fusion", {}, 2, ["size=tiny", "seed=3"])


def test_whether_the_data_needs_a_split_is_read_from_the_settings(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[bool]()

    def note(*_: object, needs_split: bool, **__: object) -> None:
        asked.append(needs_split)
        raise ValueError("stop")

    monkeypatch.setattr(sweep, "read_cycles", note)
    for word in ("split.name = folds", "split.name=official"):
        with pytest.raises(ValueError, match="stop"):
            sweep.run(sweep.trials("m2d_fusion", {}, 1, ["size=tiny", word]), data, tmp_path)
    assert asked == [False, True]


def test_a_trial_whose_worker_is_gone_says_how_long_it_took() -> None:
    (trial,) = sweep.trials("m2d_fusion", {}, 1, ["size=tiny"])
    begun = dict[str, float]()

    def workers(taken: Iterator[sweep.Trial]) -> Generator[tuple[sweep.Trial, Any]]:
        for each in taken:
            begun[each.name] -= 5
            yield each, RuntimeError("killed")

    (outcome,) = sweep.outcomes(workers(sweep.time_starts([trial], begun)), begun)
    assert (outcome.state, outcome.error) == ("failed", "killed")
    assert 5 <= outcome.seconds < 60
