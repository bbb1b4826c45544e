"""Damaged run folders, embeddings and weights: a sentence that names the file, or the answer of the undamaged one."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

from rales.cli import main
from rales.data import read_cycles
from rales.errors import UsageError
from rales.inference import similarity_search
from rales.inference.load_model import load_model
from rales.jobs import batch_predict, layer_search, sweep
from rales.recipes.registry import make_recipe
from rales.report.load_runs import read_runs, run_notes
from rales.training import epoch_logits, finetune, pretrain, run_folder
from rales.training.optim import make_optimisers
from rales.web import routes_reports
from rales.web.model_registry import ModelRegistry
from tests import tiny
from tests.attack.damage import CHECKPOINT, CONFIG, STATE, TABLES, Damage, cut, damaged
from tests.attack.forked import Commands, Ended, commands

SETTINGS = [*tiny.SETTINGS, "train.epochs=2", "train.select=validation", "train.validation_share=0.4"]
OFTEN = ["train.lr=0.01", "train.warmup_epochs=0"]  # so that labels differ


class Place(NamedTuple):
    """What there is to damage."""

    folder: Path
    data: Path
    run: Path
    """Finished."""
    unfinished: Path
    """All epochs done, not finished."""
    encoder: Path
    """Finished pre-training."""
    unfinished_encoder: Path
    layers: Path
    """Interrupted layer search."""

    @property
    def sound(self) -> Path:
        return min(self.data.glob("106*.wav"))


def train_words(data: Path, out: Path) -> list[object]:
    sets = [word for setting in [*SETTINGS, *OFTEN] for word in ("--set", setting)]
    return ["train", "m2d_fusion", "--data", data, "--size", "tiny", *sets, "--out", out]


def pretrain_words(data: Path, out: Path) -> list[object]:
    sets = [word for setting in [*tiny.PRETRAINING, "pretrain.epochs=2"] for word in ("--set", setting)]
    return ["pretrain", "--data", data, "--part", "all", "--size", "tiny", *sets, "--probe-data", data, "--out", out]


def layers_words(data: Path, encoder: Path, out: Path) -> list[object]:
    return ["layers", "--data", data, "--weights", encoder, "--folds", "2", "--out", out]


def call(words: Sequence[object], code: int = 0) -> None:
    """A command in this process, that ends with the code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert (ended.value.code or 0) == code


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(folder.parent / "cache"))
        call(train_words(tiny.write_folder(folder / "data"), folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Place:
    """All that there is to damage."""
    folder = tmp_path_factory.mktemp("damaged")
    names = ("unfinished", "encoder", "unfinished_encoder", "layers")
    found = Place(folder, finished.parent / "data", finished, *(folder / name for name in names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(folder / "cache"))
        call(pretrain_words(found.data, found.encoder))
        for module, name in ((finetune, "finish_training"), (pretrain, "finish_pretraining"), (layer_search, "write")):
            patch.setattr(module, name, interrupt)
        call(train_words(found.data, found.unfinished), 130)
        call(pretrain_words(found.data, found.unfinished_encoder), 130)
        call(layers_words(found.data, found.run, found.layers), 130)
    return found


# In this process: what the commands stand on. Of a hundred damages a part, for the minute; below are all.


def of_file(damages: dict[str, Damage], *names: str) -> dict[str, Damage]:
    return {name: damage for name, damage in damages.items() if name.startswith(names)}


def few(damages: dict[str, Damage], every: int) -> dict[str, Damage]:
    return dict(list(damages.items())[::every])


def error_of(function: Callable[..., Any], *words: Any) -> Exception | None:
    """Function and what it is given -> the sentence that it raised, None if it did not."""
    try:
        function(*words)
    except (ValueError, OSError) as error:
        return error
    return None


def is_named(error: Exception, run: Path, name: str) -> bool:
    """Whether a sentence names the damaged file, or its run folder; and is no words of a library."""
    text = str(error)
    return (str(run) in text or name.split()[0] in text) and not text.startswith(("[Errno", "'"))


@pytest.mark.parametrize("name", few({**CHECKPOINT, **CONFIG}, 6))
def test_a_damaged_run_is_not_loaded_or_answers_as_before(name: str, finished: Path, tmp_path: Path) -> None:
    run = damaged(finished, tmp_path / "run", {**CHECKPOINT, **CONFIG}[name])
    if error := error_of(load_model, run):
        assert is_named(error, run, name), error
        assert not isinstance(error, UsageError)
        return
    model, before = load_model(run), load_model(finished)
    assert model.digest == before.digest
    assert model.calibration == before.calibration


@pytest.mark.parametrize("name", few({**TABLES, **CONFIG}, 8))
def test_a_damaged_run_is_left_out_of_reports_or_said(name: str, finished: Path, tmp_path: Path) -> None:
    run = damaged(finished, tmp_path / "runs" / "run", {**TABLES, **CONFIG}[name])
    if error := error_of(read_runs, [run]):
        assert is_named(error, run, name), error
    else:
        ((before,), _), ((found,), left_out) = read_runs([finished]), read_runs([run])
        same = (found.predictions is None) == (before.predictions is None)
        if found.predictions is not None and before.predictions is not None:
            same = found.predictions.equals(before.predictions)
        assert left_out or run_notes(found) != run_notes(before) or (same and found.validation == before.validation)
    shelf = ModelRegistry(str(finished), tmp_path / "runs")
    assert {model["name"] for model in shelf.listed()} <= {"run", "run (runs)"}
    assert len(routes_reports.list_runs(tmp_path / "runs")) <= 1


@pytest.fixture(scope="module")
def stopped(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped when its epochs were done."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RALES_CACHE", str(finished.parent.parent / "cache"))
        patch.setattr(finetune, "finish_training", interrupt)
        call(train_words(finished.parent / "data", out), 130)
    return out


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with the epoch before"])
def test_a_run_does_not_go_on_from_a_damaged_epoch(alone: bool, stopped: Path, tmp_path: Path) -> None:
    words = [*SETTINGS, *OFTEN]
    recipe = make_recipe("m2d_fusion", words, size="tiny")
    record = json.loads((stopped / "config.json").read_text())
    model, frontend = recipe.build_model(recipe.settings), recipe.build_frontend(recipe.settings)
    optimisers = make_optimisers(model, recipe.settings)

    def resumed(run: Path) -> int:
        return int(finetune.resume_training(run, model, frontend, optimisers, record)["epoch"])

    assert resumed(stopped) == 2
    for name, damage in STATE.items():
        run = damaged(stopped, tmp_path / "run", damage)
        if alone:
            (run / run_folder.PREVIOUS).unlink()
            error = error_of(resumed, run)
            known = name == "resume.safetensors epoch 10^6"  # which its metrics do not have, see below
            assert error is not None or known, name
            assert error is None or is_named(error, run, name), error
        else:
            assert resumed(run) == 1 or name == "resume.safetensors epoch 10^6", name


def test_a_run_goes_on_beside_whole_files_only(stopped: Path, tmp_path: Path) -> None:
    record = json.loads((stopped / "config.json").read_text())

    def begun(run: Path) -> None:
        run_folder.stored_precision(run)
        assert not run_folder.begin_run(run, record)
        run_folder.truncate_metrics(run, 2)
        epoch_logits.truncate_logits(run, 2, {1, 2})

    begun(damaged(stopped, tmp_path / "run", lambda _: None))
    with pytest.raises(ValueError, match=r"metrics.jsonl: holds nothing of epoch 3"):
        run_folder.truncate_metrics(tmp_path / "run", 10**6)
    for name, damage in {**CONFIG, **of_file(TABLES, "metrics", "epochs")}.items():
        run = damaged(stopped, tmp_path / "run", damage)
        error = error_of(begun, run)
        assert error is None or is_named(error, run, name), error
        # Lines that reports refuse, and rows of which the next epoch finds that they are not its own
        assert error is not None or name.startswith(("metrics.jsonl s", "epochs.safetensors fewer cycles")), name
    damaged(stopped, tmp_path / "run", TABLES["epochs.safetensors fewer cycles"])
    logits = {part: torch.zeros(12, 4).half() for part in ("test", "validation")}
    with pytest.raises(ValueError, match=r"epochs.safetensors: what it holds of earlier epochs is not of these cycles"):
        epoch_logits.append_epoch(tmp_path / "run", 3, logits)


@pytest.mark.parametrize("name", few(CONFIG, 6))
def test_a_damaged_trial_of_a_sweep_is_not_taken_for_finished(name: str, finished: Path, tmp_path: Path) -> None:
    words = ("size=tiny", *SETTINGS, *OFTEN)
    cycles = read_cycles(finished.parent / "data")
    trial = sweep.Trial("run", "m2d_fusion", words)
    assert sweep.is_finished(trial, finished, cycles)
    run = damaged(finished, tmp_path / "run", CONFIG[name])
    assert not sweep.is_finished(trial, run, cycles)


@pytest.mark.parametrize("change", ["cut", "other bytes", "no columns", "counts in words"])
def test_a_damaged_status_of_a_batch_job_is_named(change: str, tmp_path: Path) -> None:
    path = tmp_path / "status" / "part-000000.parquet"
    path.parent.mkdir()
    columns = {"path": ["a"], "status": ["ok"], "sentence": [""], "duration_s": [1.0], "cycles": [1], "not_judged": [0]}
    pd.DataFrame(columns).to_parquet(path)
    assert batch_predict.count_outcome(tmp_path, 1, [])["ok"] == 1
    if change == "cut":
        cut(path.name, 0.5)(path.parent)
    elif change == "other bytes":
        path.write_bytes(b"PAR1 and nothing else")
    else:
        wrong = {"path": ["a"]} if change == "no columns" else {**columns, "cycles": ["many"]}
        pd.DataFrame(wrong).to_parquet(path)
    with pytest.raises(ValueError, match=r"part-000000.parquet: damaged, no status of a shard .*remove it, and"):
        batch_predict.count_outcome(tmp_path, 1, [])


# Every command, each in a process of its own


class Trial(NamedTuple):
    """A command on a damaged copy of a folder."""

    command: str
    damage: str
    ended: Ended
    same: bool


def undamaged_and_damaged(run: Commands, place: Place, tmp_path: Path, command: str) -> list[Trial]:
    """Name of a command -> all trials of it; the first is of the undamaged folder."""
    source, damages = PLANS[command](place)
    target, trials, expected = tmp_path / "copy", list[Trial](), ""
    for name, damage in {"nothing": lambda _: None, **damages}.items():
        damaged(source, target, damage)
        out = tmp_path / "out"
        if out.is_dir():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)
        ended = run.run(*words_of(command, place, target, tmp_path))
        told = comparable(command, ended, target, tmp_path)
        expected = expected or told
        said = name.split()[0] in ended.err + ended.out or str(target) in ended.err
        trials.append(Trial(command, name, ended, told == expected or (ended.how == "answered" and said)))
    assert trials[0].ended.how == "answered", trials[0].ended.err
    return trials


def words_of(command: str, place: Place, run: Path, scratch: Path) -> list[object]:
    """Name of a command, damaged copy -> its words."""
    data, sound, out = place.data, place.sound, scratch / "out"
    few = ["--set", "model.layers=1"]
    return {
        "predict": ["predict", sound, "--model", run],
        "evaluate": ["evaluate", run, "--data", data, "--json"],
        "explain": ["explain", sound, "--cycle", "1", "--model", run, "--json"],
        "embed": ["embed", sound, "--model", run, "--out", scratch / "out.npz"],
        "export": ["export", run, "--to", "onnx", "--out", scratch / "out.onnx"],
        "weights": [*train_words(data, out), *few, "--epochs", "1", "--weights", run],
        "layers": layers_words(data, run, out),
        "report": ["report", run, place.run, "--out", out],
        "train": train_words(data, run),
        "resume": train_words(data, run),
        "pretrain": pretrain_words(data, run),
        "pretrain resume": pretrain_words(data, run),
        "layers resume": layers_words(data, place.run, run),
    }[command]


PLANS: dict[str, Any] = {
    "predict": lambda place: (place.run, {**CHECKPOINT, **CONFIG}),
    "evaluate": lambda place: (place.run, few({**CHECKPOINT, **CONFIG}, 3)),
    "explain": lambda place: (place.run, few(CHECKPOINT, 5)),
    "embed": lambda place: (place.run, few(CHECKPOINT, 6)),
    "export": lambda place: (place.run, few(CHECKPOINT, 9)),
    "weights": lambda place: (place.run, {**few(CHECKPOINT, 3), **few(CONFIG, 9)}),
    "layers": lambda place: (place.run, few(CHECKPOINT, 7)),
    "report": lambda place: (place.run, {**TABLES, **CONFIG}),
    "train": lambda place: (place.run, {**CONFIG, **of_file(TABLES, "evaluation.json")}),
    "resume": lambda place: (place.unfinished, {**STATE, **CONFIG, **of_file(TABLES, "metrics", "epochs")}),
    "pretrain": lambda place: (place.encoder, {**few(CONFIG, 2), **of_pretraining(place, "metrics.jsonl")}),
    "pretrain resume": lambda place: (place.unfinished_encoder, {**STATE, **of_pretraining(place, "metrics.jsonl")}),
    "layers resume": lambda place: (place.layers, of_search()),
}


def of_pretraining(place: Place, *names: str) -> dict[str, Damage]:
    from tests.attack.damage import content, document, odd_json

    return {
        **of_file(TABLES, *names),
        **odd_json("statistics.json"),
        "statistics.json mean in words": document("statistics.json", lambda d: d.update(mean="low")),
        "statistics.json no deviation": document("statistics.json", lambda d: d.pop("std")),
        "log.jsonl list": content("log.jsonl", "[1]\n"),
        "log.jsonl nested": content("log.jsonl", "[" * 5000 + "\n"),
        "log.jsonl no recording": content("log.jsonl", '{"what": "passed over"}\n'),
    }


def of_search() -> dict[str, Damage]:
    from tests.attack.damage import odd_files, odd_json, one_value, record_text, tensors

    found = odd_json("layers.json")
    for name in ("features.safetensors", "counts.safetensors"):
        found |= odd_files(name)
        found[f"{name} record list"] = record_text("[]", name)
        found[f"{name} no key"] = record_text("{}", name)
        found[f"{name} tensor gone"] = tensors(lambda t: t.pop(min(t)), name)
        found[f"{name} flat"] = tensors(lambda t: t.update({min(t): t[min(t)].flatten()}), name)
    found["features.safetensors NaN"] = tensors(one_value(float("nan")), "features.safetensors")
    return found


def comparable(command: str, ended: Ended, run: Path, scratch: Path) -> str:
    """How a command ended -> what must be as before, "" of one that did not answer."""
    if ended.how != "answered":
        return "none"
    told = ended.out
    if command == "embed":
        told = repr(similarity_search.read_vectors(scratch / "out.npz").tolist())
    if command == "report":
        told = (scratch / "out" / "runs.csv").read_text()
    if command in ("resume", "weights"):
        folder = run if command == "resume" else scratch / "out"
        told = (folder / "predictions.csv").read_text() + (folder / "evaluation.json").read_text()
    if command == "layers resume":
        told = (run / "subsets.csv").read_text()
    if command == "layers":
        told = (scratch / "out" / "subsets.csv").read_text()
    if command in ("export", "pretrain resume"):
        told = ""  # its files are compared with the network, its folder with itself
    return told or "answered"


@pytest.mark.slow
@pytest.mark.parametrize("command", PLANS)
def test_every_command_on_damaged_folders(command: str, place: Place, tmp_path: Path) -> None:
    with commands(tmp_path, place.folder / "cache") as run:
        trials = undamaged_and_damaged(run, place, tmp_path, command)[1:]
    how = Counter(trial.ended.how for trial in trials)
    print(f"\n{command}: {len(trials)} damaged folders, {dict(how)}, {sum(t.ended.seconds for t in trials):.0f} s")
    wrong = list[Trial]()
    for trial in trials:
        if trial.ended.how == "sentence":
            where = trial.damage.split()[0]
            if not trial.ended.sentence or not (where in trial.ended.err or str(tmp_path) in trial.ended.sentence):
                wrong.append(trial)
        elif trial.ended.how != "answered" or not trial.same:
            wrong.append(trial)
    assert not wrong, "\n".join(f"{t.damage}: {t.ended.how}: {t.ended.err[-700:]}" for t in wrong)
