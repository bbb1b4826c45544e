"""The pre-training loop on a tiny folder: it learns, repeats itself, and goes on where it was stopped."""

import hashlib
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from rales.audio import io
from rales.data import read_cycles
from rales.data.corpus import read_corpus
from rales.errors import UsageError
from rales.inference.load_model import load_model
from rales.jobs.layer_search import quick_probe
from rales.models import M2D, load_m2d
from rales.models.hub import find_checkpoint
from rales.models.mobilenet import MobileNet
from rales.recipes import m2d_pretrain
from rales.recipes.registry import make_recipe
from rales.report.load_runs import read_runs
from rales.training import pretrain, run_folder
from tests import tiny
from tests.run_folders import check_two_processes, furthest, lines, start_script, tensors, train_in_two_processes

FILES = {"config.json", "metrics.jsonl", "statistics.json", "recordings.parquet", "last.safetensors", "done"}
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("pretrain") / "data")


@pytest.fixture(scope="module")
def job(data: Path) -> Run:
    """(run folder, words, options) -> what came of it."""

    def job(out: Path, *words: str, folder: Path = data, **options: Any) -> dict[str, Any]:
        return m2d_pretrain.run(tiny.pretraining(*words), read_corpus([folder]), out, **options)

    return job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, job: Run) -> Path:
    """The run folder of the plain settings."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    job(out)
    return out


def same_run(one: Path, two: Path) -> None:
    assert {p.name for p in one.glob("[!.]*")} == {p.name for p in two.glob("[!.]*")} == FILES
    assert lines(one) == lines(two)
    first, second = tensors(one), tensors(two)
    assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())


# What a run leaves behind


def test_the_run_folder(undisturbed: Path, data: Path) -> None:
    assert {path.name for path in undisturbed.glob("[!.]*")} == FILES
    config = run_folder.read_json(undisturbed / "config.json")
    assert (config["recipe"], config["seed"]) == ("pretrain", 0)
    assert config["config"]["pretrain"]["mask_ratio"] == 0.7
    assert (config["data"]["recordings"], config["data"]["left_out"], config["data"]["part"]) == (5, 3, "train")
    assert config["data"]["folders"] == [
        {"given": str(data), "layout": "icbhi", "recordings": 5, "left_out": 3, "notes": []},
    ]
    table = pd.read_parquet(undisturbed / "recordings.parquet")
    assert {int(path[:3]) for path in table.loc[table["used"], "path"]} == set(tiny.TRAIN)
    assert {int(path[:3]) for path in table.loc[~table["used"], "path"]} == set(tiny.TEST)
    assert config["computed_in"] == {"device": "cpu", "precision": "float32", "processes": 1}

    found = lines(undisturbed)
    assert [(line["epoch"], line["split"], line["steps"]) for line in found] == [(e, "train", 3) for e in (1, 2, 3)]
    stats = run_folder.read_json(undisturbed / "statistics.json")
    assert tensors(undisturbed)["norm_stats"].tolist() == pytest.approx([stats["mean"], stats["std"]])


def test_schedules_are_those_of_the_reference(undisturbed: Path) -> None:
    config = tiny.pretraining("pretrain.epochs=300", "pretrain.lr=3e-4", "pretrain.batch_size=2048")
    facts = json.loads((Path(__file__).parent / "golden/pretrain_step/step.json").read_text())
    for epoch, expected in facts["lr_schedule"]["lr_at_epoch"].items():
        assert pretrain.lr_at(config, float(epoch)) == pytest.approx(expected, rel=1e-6, abs=1e-18)
    for step, expected in facts["ema_schedule"]["tau_at_step"].items():
        assert pretrain.ema_at(config, int(step), 1000) == pytest.approx(expected, abs=1e-15)
    scaled = tiny.pretraining("pretrain.ema_steps=293000")
    assert pretrain.ema_at(scaled, 0, 2930) == pytest.approx(1 - 100 * 5e-5)
    assert pretrain.ema_at(scaled, 2929, 2930) == pytest.approx(1 - 100 * 1e-5)

    # as the run used them: nine steps, lr per step of warm-up and cosine, the last step of each epoch recorded
    plain = tiny.pretraining()
    for line in lines(undisturbed):
        assert line["lr"] == pytest.approx(pretrain.lr_at(plain, line["epoch"] - 1 / 3))
        assert line["ema"] == pytest.approx(pretrain.ema_at(plain, 3 * line["epoch"] - 1, 9), abs=1e-15)


def test_the_rise_is_a_share_of_the_epochs_or_a_number_of_them() -> None:
    share, number = (
        m2d_pretrain.settings(words=["pretrain.epochs=600", "pretrain.batch_size=256", *words])
        for words in ([], ["pretrain.warmup_epochs=20"])
    )
    lr = share.pretrain.lr
    assert [pretrain.lr_at(share, epoch) for epoch in (10, 40)] == pytest.approx([lr / 4, lr])
    assert [pretrain.lr_at(number, epoch) for epoch in (10, 20, 310)] == pytest.approx([lr / 2, lr, lr / 2])


def test_it_learns(tmp_path: Path, job: Run) -> None:
    figures = job(tmp_path / "run", "pretrain.epochs=25", "pretrain.lr=0.1", "pretrain.ema_end=0.9999")
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[0] == pytest.approx(2, abs=0.35)  # two unrelated directions
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    assert figures["loss"] == {"first_epoch": losses[0], "last_epoch": losses[-1]}


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path, job: Run, undisturbed: Path) -> None:
    job(tmp_path / "again")
    same_run(tmp_path / "again", undisturbed)
    job(tmp_path / "other", "seed=1", "pretrain.epochs=1")
    assert lines(tmp_path / "other")[0]["loss"] != lines(undisturbed)[0]["loss"]


def test_a_finished_run_is_returned_as_it_is(job: Run, undisturbed: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in undisturbed.glob("[!.]*")}
    figures = job(undisturbed)
    assert figures["epochs"] == 3
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in undisturbed.glob("[!.]*")} == before
    with pytest.raises(ValueError, match=r"holds a run of other settings \(config.pretrain.lr is 0.01 there, 0.1 here"):
        job(undisturbed, "pretrain.lr=0.1")


def test_recordings_may_move_but_not_change(tmp_path: Path, job: Run, undisturbed: Path, data: Path) -> None:
    shutil.copytree(data, tmp_path / "moved")
    job(undisturbed, folder=tmp_path / "moved")
    next((tmp_path / "moved").glob("101*.wav")).unlink()
    with pytest.raises(ValueError, match=r"holds a run of other settings \(data.recordings is 5 there, 4 here"):
        job(undisturbed, folder=tmp_path / "moved")


def test_only_train_recordings_are_opened(
    tmp_path: Path, job: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, read = set[str](), io.read_waveform

    def watched(path: Any, *span: float) -> Any:
        opened.add(Path(path).name)
        return read(path, *span)

    monkeypatch.setattr(io, "read_waveform", watched)
    job(tmp_path / "run")
    assert {int(name[:3]) for name in opened} == set(tiny.TRAIN)
    config, everything = tiny.pretraining("crops.min_items=0"), read_corpus([data], part="all")
    m2d_pretrain.run(config, everything, tmp_path / "all")
    assert {int(name[:3]) for name in opened} == {*tiny.TRAIN, *tiny.TEST}
    assert run_folder.read_json(tmp_path / "all/config.json")["data"]["part"] == "all"


# Stopped and gone on

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from rales.training import pretrain
from rales.data.corpus import read_corpus
from rales.recipes import m2d_pretrain
from rales.report.load_runs import read_runs
from tests import tiny

torch.set_num_threads(1)
data, out, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
clip, steps = pretrain.clip_grad_norm_, 0

def clip_grad_norm_(*arguments):
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return clip(*arguments)

pretrain.clip_grad_norm_ = clip_grad_norm_
m2d_pretrain.run(tiny.pretraining(*sys.argv[4:]), read_corpus([data]), out)
"""


@pytest.mark.parametrize(
    ("kill_at", "words", "point"),
    [
        pytest.param(5, (), (1, 0), id="in epoch 2, which begins again"),
        pytest.param(6, ("pretrain.keep_every=1",), (1, 2), id="in epoch 2, which goes on after two steps"),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    tmp_path: Path, data: Path, job: Run, undisturbed: Path, kill_at: int, words: tuple[str, ...], point: Any
) -> None:
    out = tmp_path / "killed"
    killed = start_script(KILLED, data, out, kill_at, *words)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [line["epoch"] for line in lines(out)] == [1]
    state = run_folder.read_checkpoint(out / "resume.safetensors")[1]["state"]
    assert (state["epoch"], state["step"]) == point
    with pytest.raises(ValueError, match="the run is not finished; the same command goes on with it"):
        find_checkpoint(out)
    job(out, *words)
    same_run(out, undisturbed)


@pytest.mark.parametrize(
    ("function", "calls"),
    [("append_metrics", 1), ("append_metrics", 3), ("save_tensors", 2), ("save_tensors", 4), ("write_json", 1)],
)
def test_stopped_at_any_write(
    tmp_path: Path, job: Run, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, function: str, calls: int
) -> None:
    module = pretrain if hasattr(pretrain, function) else run_folder
    original, count = getattr(module, function), itertools.count(1)

    def stopping(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if next(count) == calls:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, function, stopping)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "stopped")
    monkeypatch.undo()
    job(tmp_path / "stopped")
    same_run(tmp_path / "stopped", undisturbed)


@pytest.mark.parametrize("words", [(), ("pretrain.keep_every=1",)])
def test_a_damaged_resume_is_told_and_the_one_before_is_taken(
    tmp_path: Path,
    job: Run,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    words: tuple[str, ...],
) -> None:
    """The one before is of whole epochs, or of the middle of one."""
    out, keep, count = tmp_path / "run", pretrain.save_progress, itertools.count(1)

    def stopping(*given: Any) -> None:
        keep(*given)
        if next(count) == (5 if words else 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "save_progress", stopping)
    with pytest.raises(KeyboardInterrupt):
        job(out, *words)
    monkeypatch.undo()
    path = out / run_folder.RESUME
    path.write_bytes(path.read_bytes()[:-100])
    job(out, *words)
    (said,) = caplog.records
    assert f"{path}: damaged" in said.getMessage()
    assert "the run goes on from the one before it" in said.getMessage()
    same_run(out, undisturbed)


def test_settings_of_a_run_that_was_stopped_at_once_leave_nothing(
    tmp_path: Path, data: Path, job: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statistics among them, and a checkpoint that the other run would not have written."""

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    other = tiny.write_folder(tmp_path / "other")
    for file in other.glob("*.wav"):
        sound, rate_hz = soundfile.read(file)
        soundfile.write(file, 0.1 * sound, rate_hz)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "save_progress", stopped)
        with pytest.raises(KeyboardInterrupt):
            job(tmp_path / "run", "pretrain.save_every=1", folder=other)
    assert (tmp_path / "run" / "checkpoint-1.safetensors").exists()
    job(tmp_path / "run")
    job(tmp_path / "fresh")
    same_run(tmp_path / "run", tmp_path / "fresh")
    assert run_folder.read_json(tmp_path / "run/statistics.json") == run_folder.read_json(
        tmp_path / "fresh/statistics.json"
    )


# What the settings do


@pytest.mark.parametrize("micro_batch", [1, 3, 0])
def test_gradient_accumulation_gives_the_same_weights(
    tmp_path: Path, job: Run, undisturbed: Path, micro_batch: int
) -> None:
    job(tmp_path / "pieces", f"pretrain.micro_batch={micro_batch}")
    assert furthest(tmp_path / "pieces", undisturbed) < 2e-4  # Adam divides rounding noise by itself
    losses = [[line["loss"] for line in lines(out)] for out in (tmp_path / "pieces", undisturbed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


TOGETHER = """
import sys
from pathlib import Path
import torch
from rales.data.corpus import read_corpus
from rales.recipes import m2d_pretrain
from rales.report.load_runs import read_runs
from tests import tiny

torch.set_num_threads(1)
for _ in range(2):  # the second time the run is finished and only returned
    m2d_pretrain.run(tiny.pretraining(*sys.argv[3:]), read_corpus([sys.argv[1]]), Path(sys.argv[2]))
"""


def test_two_processes_train_as_one(tmp_path: Path, data: Path, job: Run) -> None:
    words = ["pretrain.micro_batch=1", "pretrain.batch_size=5", "pretrain.epochs=2", "pretrain.keep_every=1"]
    job(tmp_path / "one", *words)
    train_in_two_processes(TOGETHER, data, tmp_path / "two", *words)
    check_two_processes(tmp_path / "two", tmp_path / "one", FILES, weights_within=2e-4)


@pytest.mark.parametrize(
    "word",
    [
        "pretrain.mask_ratio=0.5",
        "pretrain.standardise=no",
        "pretrain.loss=mse",
        "pretrain.clip=0.001",
        "pretrain.warmup_epochs=1",
        "pretrain.weight_decay=0",
        "pretrain.ema_start=0.5",
        "pretrain.precision=bf16",
        "encoder.target_start=online",
        "encoder.patch=16,8",
        "encoder.unit_frames=80",
        "encoder.decoder_depth=2",
        "crops.pad=repeat",
        "crops.shortest_s=3",
        "crops.min_items=6",
        "crops.statistics_crops=3",
        "crops.statistics=given",
    ],
)
def test_every_other_choice_runs_and_matters(tmp_path: Path, job: Run, undisturbed: Path, word: str) -> None:
    more = ("encoder.unit_frames=480",) if word.startswith(("crops.pad", "crops.shortest")) else ()
    one_epoch = "pretrain.epochs=1"
    job(tmp_path / "run", word, one_epoch, *more)
    job(tmp_path / "plain", one_epoch, *more)
    if word == "crops.shortest_s=3":  # all recordings are longer
        assert furthest(tmp_path / "run", tmp_path / "plain") == 0
        return
    first, second = tensors(tmp_path / "run"), tensors(tmp_path / "plain")
    assert first.keys() != second.keys() or any(
        first[name].shape != second[name].shape or not torch.equal(first[name], second[name]) for name in first
    )


def test_a_loss_that_is_no_number_is_a_sentence(tmp_path: Path, job: Run) -> None:
    with pytest.raises(ValueError, match=r"the loss is nan in epoch .*; use a lower pretrain.lr"):
        job(tmp_path / "run", "pretrain.lr=1e30", "pretrain.warmup_share=0")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrain.mask_ratio=1"], "expected a number between 0 and 1"),
        (["pretrain.maskratio=0.5"], "no such field; the nearest is pretrain.mask_ratio"),
        (["pretrain.epochs=0"], "expected a number above 0"),
        (["crops.noise_ratio=1.5"], "noise ratio 1.5, expected 0"),
        (["crops.noise_ratio=0.3"], "background noise needs both"),
        (["crops.statistics=weights"], "no checkpoint to take them from"),
        (["crops.noise_heard_by=teacher"], "there is no teacher to hear it; give --teacher"),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(tmp_path: Path, job: Run, words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        job(tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


# Recordings that cannot be used


def test_troubled_recordings_get_a_line_in_the_log(tmp_path: Path, job: Run) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", 0.1 * random.uniform(-1, 1, 8000), 4000)
    soundfile.write(folder / "silent.wav", np.zeros(8000), 4000)
    soundfile.write(folder / "tenth.wav", 0.1 * random.uniform(-1, 1, 400), 4000)
    (folder / "broken.flac").write_bytes(b"no sound")
    long = random.integers(-50, 50, 2 * 3600 * 1000, dtype=np.int16)
    soundfile.write(folder / "hours.wav", long, 1000)
    figures = job(tmp_path / "run", "pretrain.batch_size=7", folder=folder)
    notes = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    found = sorted((note["what"], Path(note["recording"]).name) for note in notes)
    assert found == [
        ("cropped", "hours.wav"),
        *(("passed over", n) for n in ("broken.flac", "silent.wav", "tenth.wav")),
    ]
    assert all(note["why"] for note in notes)
    assert figures["passed_over"] == 3


# Noise and teacher


def test_noise_is_mixed_in(tmp_path: Path, job: Run, undisturbed: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for i in range(3):
        soundfile.write(tmp_path / f"noise/{i}.wav", 0.2 * random.uniform(-1, 1, 3000), 8000)
    noise = read_corpus([tmp_path / "noise"])
    job(tmp_path / "run", "crops.noise_ratio=0.3", noise=noise)
    config, stats = (run_folder.read_json(tmp_path / "run" / name) for name in ("config.json", "statistics.json"))
    assert config["noise"]["recordings"] == 3
    assert stats["noise_mean"] > stats["mean"]  # louder
    without = run_folder.read_json(undisturbed / "statistics.json")
    assert (stats["mean"], stats["std"]) == (without["mean"], without["std"])
    assert lines(tmp_path / "run")[0]["loss"] != lines(undisturbed)[0]["loss"]


def test_a_teacher_is_learned_from(tmp_path: Path, job: Run, undisturbed: Path) -> None:
    job(tmp_path / "run", f"encoder.teacher={undisturbed}", "pretrain.epochs=30", "pretrain.lr=0.1")
    found = lines(tmp_path / "run")
    for line in found:
        assert line["loss"] == pytest.approx(line["m2d_loss"] + line["teacher_loss"], abs=1e-6)
    assert found[-1]["teacher_loss"] < 0.7 * found[0]["teacher_loss"]
    assert tensors(tmp_path / "run")["offline_predictor.weight"].shape == (5 * 24, 5 * 24)
    M2D.from_checkpoint(tmp_path / "run/last.safetensors")  # without a teacher its predictor is left behind


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNet of EfficientAT with two blocks."""
    path = tmp_path_factory.mktemp("teacher") / "mn.safetensors"
    torch.manual_seed(3)
    save_file(MobileNet(0.4, blocks=2).state_dict(), path)
    return path


def test_a_mobilenet_is_learned_from(tmp_path: Path, job: Run, mobilenet: Path, undisturbed: Path) -> None:
    words = (f"encoder.teacher={mobilenet}", "pretrain.teacher_weight=2")
    job(tmp_path / "run", *words, "pretrain.epochs=10", "pretrain.lr=0.05")
    found = lines(tmp_path / "run")
    for line in found:
        assert line["loss"] == pytest.approx(line["m2d_loss"] + 2 * line["teacher_loss"], abs=1e-5)
    assert np.mean([line["teacher_loss"] for line in found[-3:]]) < 0.95 * found[0]["teacher_loss"]

    own = tensors(tmp_path / "run").keys() - tensors(undisturbed).keys()  # nothing of the teacher
    assert own == {"offline_predictor.weight", "offline_predictor.bias"}
    assert {path.name for path in (tmp_path / "run").glob("[!.]*")} == {*FILES, "teacher_statistics.safetensors"}
    encoder = run_folder.read_json(tmp_path / "run" / "config.json")["config"]["encoder"]
    assert encoder["teacher"] == str(mobilenet)
    assert encoder["teacher_digest"] == hashlib.sha256(mobilenet.read_bytes()).hexdigest()
    (said,) = m2d_pretrain.what_is_taken(tiny.pretraining(*words))
    assert "four times faster, through its own front-end" in said


def test_a_run_with_a_mobilenet_goes_on_to_the_same_end(
    tmp_path: Path, job: Run, mobilenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(mobilenet, teacher)
    words = (f"encoder.teacher={teacher}", "pretrain.keep_every=1", "pretrain.epochs=2", "pretrain.precision=bf16")
    job(tmp_path / "whole", *words)
    keep, count = pretrain.save_progress, itertools.count(1)

    def stopping(*given: Any) -> None:
        keep(*given)
        if next(count) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "save_progress", stopping)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "stopped", *words)
    monkeypatch.undo()
    job(tmp_path / "stopped", *words)
    one, two = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")

    save_file(MobileNet(0.4, blocks=2).state_dict(), teacher)
    with pytest.raises(ValueError, match=r"holds a run of other settings \(config.encoder.teacher_digest is"):
        job(tmp_path / "stopped", *words)
    teacher.unlink()
    with pytest.raises(FileNotFoundError, match=r"teacher.safetensors: no such file or folder"):
        job(tmp_path / "stopped", *words)


def test_a_mobilenet_hears_no_noise(tmp_path: Path, job: Run, mobilenet: Path, data: Path) -> None:
    words = (f"encoder.teacher={mobilenet}", "crops.noise_heard_by=teacher", "crops.noise_ratio=0.3")
    with pytest.raises(UsageError, match="hears the crop through a front-end of its own; leave it at model"):
        job(tmp_path / "run", *words, noise=read_corpus([data]))


def test_the_model_hears_the_noise_or_the_teacher_does(tmp_path: Path, job: Run, undisturbed: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for i in range(3):
        soundfile.write(tmp_path / f"noise/{i}.wav", 0.2 * random.uniform(-1, 1, 3000), 8000)
    noise = read_corpus([tmp_path / "noise"])
    still = (f"encoder.teacher={undisturbed}", "pretrain.epochs=1", "pretrain.lr=1e-12")  # losses of the start
    job(tmp_path / "quiet", *still)
    for who in ("model", "teacher"):
        job(tmp_path / who, *still, "crops.noise_ratio=0.3", f"crops.noise_heard_by={who}", noise=noise)
    quiet, model, teacher = (lines(tmp_path / name)[0] for name in ("quiet", "model", "teacher"))
    assert teacher["m2d_loss"] == pytest.approx(quiet["m2d_loss"], abs=1e-6)
    assert abs(model["m2d_loss"] - quiet["m2d_loss"]) > 1e-4
    assert abs(teacher["teacher_loss"] - quiet["teacher_loss"]) > 1e-4
    assert abs(teacher["teacher_loss"] - model["teacher_loss"]) > 1e-4


def test_a_teacher_of_other_columns_is_a_sentence(tmp_path: Path, job: Run, undisturbed: Path) -> None:
    with pytest.raises(UsageError, match=r"makes 6 time columns of a crop where the model makes 12"):
        job(tmp_path / "run", f"encoder.teacher={undisturbed}", "encoder.patch=16,8")


# Further pre-training and what comes after


def test_training_goes_on_from_a_run_folder(tmp_path: Path, undisturbed: Path, data: Path) -> None:
    words = ["pretrain.epochs=1", "pretrain.batch_size=5", "pretrain.lr=0", "crops.statistics=weights"]
    with pytest.raises(UsageError, match="expected a number above 0"):
        m2d_pretrain.settings(weights=str(undisturbed), words=words)
    words[2:3] = ["pretrain.lr=1e-12", "pretrain.ema_start=1", "pretrain.ema_end=1"]
    config = m2d_pretrain.settings(weights=str(undisturbed), words=words)
    assert (config.encoder.dim, config.encoder.unit_frames, config.encoder.decoder_heads) == (24, 96, 2)
    content = (undisturbed / "last.safetensors").read_bytes()
    assert config.encoder.weights_digest == hashlib.sha256(content).hexdigest()
    assert config.encoder.teacher_digest == ""
    m2d_pretrain.run(config, read_corpus([data]), tmp_path / "on")
    assert furthest(tmp_path / "on", undisturbed) < 1e-6
    other = m2d_pretrain.settings(weights=str(undisturbed), words=[*words, "encoder.dim=48"])
    with pytest.raises(UsageError, match="--set cannot change them"):
        m2d_pretrain.run(other, read_corpus([data]), tmp_path / "other")


def test_every_public_form_can_be_gone_on_with(golden: Path) -> None:
    for file in ("full.safetensors", "enconly.safetensors"):
        config = m2d_pretrain.settings(weights=str(golden / "checkpoints" / file))
        model, teacher = m2d_pretrain.build(config)
        assert (model.size.dim, model.unit_frames, model.patch, teacher) == (48, 608, (16, 16), None)
        assert model.norm_stats.tolist() == pytest.approx([-6.8, 4.1])
    assert config.encoder.decoder_dim == 512  # of an encoder alone the predictor is new


def test_fine_tuning_takes_the_run_folder_or_the_file(undisturbed: Path) -> None:
    stats = run_folder.read_json(undisturbed / "statistics.json")
    for weights in (undisturbed, undisturbed / "last.safetensors"):
        recipe = make_recipe("m2d_fusion", weights=str(weights), frontend="m2d")
        encoder = recipe.build_model(recipe.settings).get_submodule("encoder")
        known = tensors(undisturbed)
        assert torch.equal(encoder.get_parameter("blocks.1.mlp.fc2.weight"), known["blocks.1.mlp.fc2.weight"])
        assert recipe.settings.audio.mean == pytest.approx(stats["mean"])
        assert (recipe.settings.model.heads, recipe.settings.model.unit_frames) == (2, 96)


def test_an_encoder_alone_predicts_nothing(undisturbed: Path) -> None:
    with pytest.raises(ValueError, match="a pre-trained encoder, which names no classes; fine-tune it"):
        load_model(undisturbed)
    with pytest.raises(ValueError, match="a pre-training, which has no scores of its own"):
        read_runs([undisturbed])


def test_files_in_the_layout_of_the_reference(tmp_path: Path, job: Run) -> None:
    job(tmp_path / "run", "pretrain.reference_file=yes", "pretrain.save_every=2")
    path = tmp_path / "run/m2d_vit-80x96p16x16-rales/checkpoint-3.pth"
    stored = torch.load(path, weights_only=False)
    assert (stored["epoch"], stored["args"].input_size) == (3, (80, 96))
    ours = tensors(tmp_path / "run")
    assert all(torch.equal(stored["model"][name], value) for name, value in ours.items())
    assert stored["model"].keys() == ours.keys()
    encoder = load_m2d(path, heads=2)
    assert encoder.unit_frames == 96
    _, record = run_folder.read_checkpoint(tmp_path / "run/checkpoint-2.safetensors")
    assert record["epoch"] == 2
    assert find_checkpoint(tmp_path / "run").name == "last.safetensors"


# Linear probe


@pytest.mark.parametrize("patients", [2, 4])
def test_the_probe_has_as_many_folds_as_patients_if_these_are_few(data: Path, tmp_path: Path, patients: int) -> None:
    cycles = read_cycles(data)
    few = sorted(set(cycles.loc[cycles["split"] == "train", "patient"]))[:patients]
    probe = quick_probe(cycles[cycles["patient"].isin(few)], cache_folder=tmp_path)
    assert probe.facts["folds"] == patients


def test_the_probe_is_scored_before_between_and_after(tmp_path: Path, job: Run, undisturbed: Path, data: Path) -> None:
    cycles = read_cycles(data)
    probe = quick_probe(cycles, folds=3, cache_folder=tmp_path / "cache")
    assert (probe.facts["recordings"], probe.facts["cycles"]) == (5, 20)
    figures = job(tmp_path / "run", "pretrain.probe_every=2", probe=probe)
    found = [line for line in lines(tmp_path / "run") if line["split"] == "probe"]
    assert [line["epoch"] for line in found] == [0, 2, 3]
    assert all(0 <= line[name] <= 1 for line in found for name in ("score", "score_last_layer", "sensitivity"))
    assert figures["probe"] == {"start": found[0], "last": found[-1]}
    assert [line for line in lines(tmp_path / "run") if line["split"] == "train"] == lines(undisturbed)
    last = probe.score(M2D.from_checkpoint(tmp_path / "run/last.safetensors").encoder())
    assert {name: found[-1][name] for name in last} == last
