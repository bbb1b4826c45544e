"""A run that goes on from a trained model: what it keeps, what stays frozen, what it refuses; from Python too."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import rales
from rales.data import read_cycles
from rales.data.manifest import write_manifest
from rales.data.splits import digest_name
from rales.errors import UsageError
from rales.inference import train as inference_train
from rales.inference.load_model import load_model
from rales.jobs import sweep
from rales.models.hub import SHIPPED, sha256_of
from rales.recipes.registry import make_recipe
from rales.settings import find_differences
from rales.training import finetune, run_folder
from rales.training.optim import freeze_parameters
from tests import tiny
from tests.command import command
from tests.run_folders import lines, tensors, train_in_two_processes

QUICK = {"train.epochs": 1, "train.device": "cpu", "train.precision": "float32"}
OWN_LABELS = ["normal", "wheeze", "crackle", "both"]  # our classes in another order


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, a finished `run` with fixed layer weights and held-out patients, and `mlp` of a CNN."""
    folder = tmp_path_factory.mktemp("from_model")
    cycles = read_cycles(tiny.write_folder(folder / "data"))
    words = ("model.learned=yes", "train.epochs=1", "train.select=validation", "split.name=folds", "split.folds=3")
    recipe = tiny.recipe(*words, "frontend=m2d_clip", "audio.rate_hz=8000", "seed=4", "train.lr=0.002")
    finetune.run(recipe, cycles, folder / "run", cache_folder=folder / "cache")
    assert "calibration" in run_folder.read_checkpoint(folder / "run" / "best.safetensors")[1]
    return folder


def go_on(place: Path, out: Path, model: Path | str | None = None, **values: Any) -> dict[str, Any]:
    """Train from `place`/run, or another model, with dotted settings whose dots are double underscores."""
    asked = {name.replace("__", "."): value for name, value in values.items()}
    recipe = make_recipe(None, {**QUICK, "from_model": str(model or place / "run"), **asked})
    return finetune.run(recipe, read_cycles(place / "data"), out, cache_folder=place / "cache")


def settings_from(place: Path, **values: Any) -> Any:
    return make_recipe(None, {"from_model": str(place / "run"), **values}).settings


# What goes on


def test_sound_network_and_layers_are_the_models_and_training_is_slower(place: Path) -> None:
    theirs = load_model(place / "run").recipe.settings
    ours = settings_from(place)
    assert find_differences(theirs, ours) == {
        "train.epochs": 30,
        "train.lr": pytest.approx(0.0002),
        "train.warmup_epochs": 0,
        "train.select": "last",
        "train.device": "auto",
        "split.name": "official",
        "split.folds": 5,
        "seed": 0,
        "from_model": str(place / "run"),
        "from_digest": sha256_of(place / "run" / "best.safetensors"),
    }
    given = settings_from(place, **{"train.lr": 0.01, "augment.time_masks": 1, "seed": 3})
    assert (given.train.lr, given.augment.time_masks, given.seed, given.train.epochs) == (0.01, 1, 3, 30)


@pytest.mark.parametrize("form", ["run", "run/best.safetensors"])
def test_before_the_first_step_it_is_the_model_itself(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Head and front-end too; and with a step of size 0 it stays so, but for the calibration."""
    seen = []

    def watched(job: finetune.Training, epoch: int) -> Any:
        seen.append({name: value.clone() for name, value in finetune.tensors_of(job.model, job.frontend).items()})
        return train_epoch(job, epoch)

    train_epoch = finetune.train_epoch
    monkeypatch.setattr(finetune, "train_epoch", watched)
    go_on(place, tmp_path / "on", place / form)
    before = tensors(place / "run", "best")
    assert seen[0].keys() == before.keys()
    assert all(torch.equal(seen[0][name], before[name]) for name in before)

    record = run_folder.read_checkpoint(tmp_path / "on" / "best.safetensors")[1]
    assert "calibration" not in record  # that of the other run would be stale
    config = run_folder.read_json(tmp_path / "on" / "config.json")["config"]
    assert config["from_model"] == str(place / form)
    assert config["from_digest"] == sha256_of(place / "run" / "best.safetensors")


def test_held_out_patients_calibrate_anew(place: Path, tmp_path: Path) -> None:
    asked = {"train.select": "validation", "train.validation_share": 0.4}
    recipe = make_recipe(None, {**QUICK, "from_model": str(place / "run"), **asked})
    finetune.run(recipe, read_cycles(place / "data"), tmp_path / "on", cache_folder=place / "cache")
    ours, theirs = (run_folder.read_checkpoint(run / "best.safetensors")[1] for run in (tmp_path / "on", place / "run"))
    assert ours["calibration"] != theirs["calibration"]
    assert ours["calibration"]["cycles"] == ours["split"]["validation"]["cycles"]


def test_the_shipped_model_goes_on_by_name(place: Path, tmp_path: Path) -> None:
    figures = go_on(place, tmp_path / "on", "rales")
    assert 0 <= figures["score"] <= 1
    ours, theirs = load_model(tmp_path / "on").recipe.settings, load_model().recipe.settings
    assert (ours.audio, ours.model, ours.frontend) == (theirs.audio, theirs.model, theirs.frontend)
    assert ours.from_digest == sha256_of(SHIPPED["rales"])


def test_a_head_of_other_classes_is_new(place: Path, tmp_path: Path) -> None:
    found = run_folder.read_checkpoint(place / "run" / "best.safetensors")
    run_folder.save_tensors(tmp_path / "other.safetensors", found[0], {**found[1], "classes": OWN_LABELS})
    settings = settings_from(place)
    recipe = make_recipe("m2d_fusion", {"from_model": str(place / "run")})
    torch.manual_seed(1)
    model, frontend = recipe.build_model(settings), recipe.build_frontend(settings)
    fresh = model.get_parameter("head.weight").detach().clone()
    other = replace(settings, from_model=str(tmp_path / "other.safetensors"))
    other = replace(other, from_digest=sha256_of(tmp_path / "other.safetensors"))
    finetune.load_start(other, model, frontend)
    assert torch.equal(model.get_parameter("head.weight"), fresh)
    assert torch.equal(model.get_parameter("fusion.weight"), found[0]["fusion.weight"])
    finetune.load_start(settings, model, frontend)
    assert torch.equal(model.get_parameter("head.weight"), found[0]["head.weight"])


def test_a_finished_run_needs_its_model_no_more_and_an_unfinished_one_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes((place / "run" / "best.safetensors").read_bytes())
    go_on(place, tmp_path / "one", start, train__epochs=2, train__ema=0.9)
    save = finetune.save_epoch

    def stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "save_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        go_on(place, tmp_path / "two", start, train__epochs=2, train__ema=0.9)
    monkeypatch.undo()
    go_on(place, tmp_path / "two", start, train__epochs=2, train__ema=0.9)
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors(tmp_path / "one").values(), tensors(tmp_path / "two").values(), strict=True)
    )

    with pytest.raises(ValueError, match=r"holds a run of other settings \(config.from_model is .*start.safetensors"):
        go_on(place, tmp_path / "one", place / "run", train__epochs=2, train__ema=0.9)
    start.unlink()
    table = rales.load(tmp_path / "one").predict(next((place / "data").glob("*.wav")))
    assert len(table) == 4


# What stays frozen


@pytest.mark.parametrize(
    ("freeze", "moves"),
    [
        ("0", {"encoder.blocks.0", "encoder.blocks.1", "encoder.norm", "fusion", "head"}),
        ("1", {"encoder.blocks.1", "encoder.norm", "fusion", "head"}),
        ("encoder", {"fusion", "head"}),
    ],
)
def test_what_is_frozen_does_not_move(place: Path, tmp_path: Path, freeze: str, moves: set[str]) -> None:
    go_on(place, tmp_path / "on", freeze=freeze)
    before, after = tensors(place / "run", "best"), tensors(tmp_path / "on")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {"blocks": 3, "encoder": 2, "fusion": 1, "head": 1}

    def part_of(name: str) -> str:
        words = name.split(".")
        return ".".join(words[: parts["blocks"] if "blocks" in words else parts[words[0]]])

    assert {part_of(name) for name in moved} == moves


def test_frozen_batch_norms_keep_their_statistics() -> None:
    recipe = make_recipe("wang_splice", {"freeze": "encoder"}, size="tiny")
    model = recipe.build_model(recipe.settings)
    freeze_parameters(model, "encoder")
    finetune.set_training_mode(model)
    norms = [m for m in model.get_submodule("backbone").modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert model.get_submodule("head").training
    assert model.training


@pytest.mark.parametrize(
    ("name", "freeze", "sentence"),
    [
        ("m2d_fusion", "4", r"freeze=4: the encoder has 3 blocks"),
        ("moummad_ce", "1", r"freeze=1: the network of this recipe has no list of blocks \(`blocks`\)"),
    ],
)
def test_what_cannot_be_frozen(name: str, freeze: str, sentence: str) -> None:
    recipe = make_recipe(name, {"freeze": freeze}, size="tiny")
    with pytest.raises(UsageError, match=sentence):
        freeze_parameters(recipe.build_model(recipe.settings), freeze)


def test_what_a_network_or_its_stages_do_not_have() -> None:
    with pytest.raises(UsageError, match=r"freeze=encoder: the network of this recipe has no classification layer"):
        freeze_parameters(nn.Sequential(nn.Linear(2, 2)), "encoder")
    with pytest.raises(UsageError, match=r"freeze=encoder: moummad_scl trains in stages of its own"):
        make_recipe("moummad_scl", {"freeze": "encoder"}, size="tiny")


def test_fixed_weights_of_layers_stay_fixed() -> None:
    recipe = tiny.recipe("model.learned=no", "freeze=encoder")
    model = recipe.build_model(recipe.settings)
    freeze_parameters(model, "encoder")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("freeze", ["all", "-1", "1.5", ""])
def test_words_that_are_no_part(freeze: str) -> None:
    with pytest.raises(UsageError, match="expected none, encoder, or how many of the first blocks"):
        make_recipe("m2d_fusion", {"freeze": freeze})


# What is refused


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model.layers": "1"}, r"model.layers=1: --from .*run keeps its model.layers, 1,2; leave it out"),
        ({"audio.duration_s": 3}, r"audio.duration_s=3.0: --from .*run keeps its audio.duration_s, 2.0; leave it out"),
        ({"weights": "mr7"}, r"weights=mr7: --from .*run keeps its weights, none; leave it out"),
        ({"size": "base"}, r"size=base: --from .*run keeps its size, tiny; leave it out"),
        ({"from_digest": "ab"}, r"--set from_digest: is filled in"),
        ({"train.sped": 1}, r"no such field of m2d_fusion; the nearest is"),
    ],
)
def test_settings_that_are_the_models(place: Path, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        settings_from(place, **values)


def test_how_its_network_computes_may_be_chosen_again(place: Path) -> None:
    assert settings_from(place, **{"model.recompute": True}).model.recompute


def test_another_recipe_is_refused_and_its_own_is_not(place: Path) -> None:
    assert make_recipe("m2d_fusion", {"from_model": str(place / "run")}).name == "m2d_fusion"
    with pytest.raises(UsageError, match=r"recipe 'lungattn': .*run was made by 'm2d_fusion', which goes on with it"):
        make_recipe("lungattn", {"from_model": str(place / "run")})
    with pytest.raises(UsageError, match=r"no recipe 'lungatn'"):
        make_recipe("lungatn", {"from_model": str(place / "run")})
    with pytest.raises(UsageError, match=r"expected a recipe: m2d_fusion, .*; or FILE.py:NAME, or --from of a model"):
        make_recipe(None)


OWN = """
from dataclasses import replace
from rales.recipes import m2d_fusion

def recipe(settings: m2d_fusion.Settings):
    return replace(m2d_fusion.recipe(settings), name="own")
"""


def test_a_recipe_of_a_file_goes_on_if_that_file_is_here(place: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN)
    made = make_recipe(f"{own}:recipe", size="tiny")
    torch.manual_seed(0)
    record = {**tiny.record_of(made), "recipe_source": dict(made.source)}
    network = made.build_model(made.settings)
    run_folder.save_tensors(tmp_path / "own.safetensors", network.state_dict(), record)
    for word in (None, f"{own}:recipe"):
        recipe = make_recipe(word, {"from_model": str(tmp_path / "own.safetensors")})
        assert (recipe.name, recipe.source) == ("own", made.source)
    with pytest.raises(UsageError, match=r"recipe 'm2d_fusion': .* was made by 'own'"):
        make_recipe("m2d_fusion", {"from_model": str(tmp_path / "own.safetensors")})
    own.unlink()
    with pytest.raises(ValueError, match=r"own.py, which is not there; put that file back"):
        make_recipe(None, {"from_model": str(tmp_path / "own.safetensors")})


def test_a_sweep_over_what_is_frozen(place: Path) -> None:
    planned = sweep.trials("m2d_fusion", sweep.grid_of(["freeze=none,1"]), 2, [f"from_model={place / 'run'}"])
    assert [trial.name for trial in planned] == [
        f"m2d_fusion-freeze={f}-seed{s}" for f in ("none", "1") for s in (0, 1)
    ]
    with pytest.raises(UsageError, match=r"model.depth=3: --from .* keeps its model.depth, 2"):
        sweep.trials("m2d_fusion", {"model.depth": ["2", "3"]}, 1, [f"from_model={place / 'run'}"])


def test_stages_of_their_own_start_from_no_model(tmp_path: Path) -> None:
    recipe = make_recipe("moummad_scl", size="tiny")
    torch.manual_seed(0)
    model, frontend = recipe.build_model(recipe.settings), recipe.build_frontend(recipe.settings)
    file = tmp_path / "model.safetensors"
    run_folder.save_tensors(file, finetune.tensors_of(model, frontend), tiny.record_of(recipe))
    with pytest.raises(UsageError, match=r"moummad_scl trains in stages of its own, none of which starts from"):
        make_recipe(None, {"from_model": str(file)})


@pytest.mark.parametrize(
    ("word", "error", "sentence"),
    [
        ("mr7", UsageError, r"--from mr7: a pre-trained encoder, which names no classes; --weights mr7 starts from it"),
        (
            "some.pth",
            UsageError,
            r"--from some.pth: no checkpoint of `rales train`; a pre-trained encoder goes in with",
        ),
        ("model.onnx", UsageError, r"an artefact of `rales export`, whose weights cannot be trained"),
        ("nowhere", UsageError, r"--from nowhere: expected the folder of a finished run, its checkpoint"),
        ("config.json", UsageError, r"--from config.json: expected the folder of a finished run"),
        ("empty", ValueError, r"no run folder"),
    ],
)
def test_what_is_no_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, error: type[Exception], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(error, match=sentence):
        make_recipe(None, {"from_model": word})


def test_a_model_that_has_changed_since_is_told(place: Path, tmp_path: Path) -> None:
    settings = settings_from(place)
    changed = replace(settings, from_digest="0" * 64)
    recipe = tiny.recipe()
    with pytest.raises(ValueError, match="has changed since this run began to go on from it"):
        finetune.load_start(changed, recipe.build_model(settings), recipe.build_frontend(settings))


# What the model has heard before


def test_recordings_that_the_model_was_trained_on_are_no_strangers(place: Path, tmp_path: Path) -> None:
    """Its own split tests others than that of the run which goes on from it: those that both know are counted."""
    theirs = json.loads((place / "run" / "config.json").read_text())["split"]["trained_recordings"]
    figures = go_on(place, tmp_path / "child", split__name="folds", split__folds=3, split__fold=1)
    split = json.loads((tmp_path / "child" / "config.json").read_text())["split"]
    predicted = pd.read_csv(tmp_path / "child" / "predictions.csv")
    tested = set(map(digest_name, set(predicted["recording"])))
    heard = len(tested & set(theirs))
    assert heard > 0
    assert split["test_recordings_heard"] == heard
    assert set(theirs) < set(split["trained_recordings"])
    assert f"was trained on {heard} of the test recordings" in figures["warnings"][-1]
    again = rales.load(tmp_path / "child").evaluate(place / "data")["protocol"]
    known = predicted["recording"].map(digest_name).isin(split["trained_recordings"])
    assert again["cycles_trained_on"] == known.sum() > 0


def test_a_model_that_does_not_tell_what_it_was_trained_on(place: Path, tmp_path: Path) -> None:
    tensors, record = run_folder.read_checkpoint(place / "run" / "best.safetensors")
    del record["split"]["trained_recordings"]
    run_folder.save_tensors(tmp_path / "silent.safetensors", tensors, record)
    figures = go_on(place, tmp_path / "child", tmp_path / "silent.safetensors")
    assert "does not tell what it was trained on" in figures["warnings"][-1]
    assert rales.load(tmp_path / "child").evaluate(place / "data")["protocol"]["cycles_trained_on"] is None


def test_a_strangers_model_brings_no_code(place: Path, tmp_path: Path) -> None:
    """Own metrics of its training are those of whoever trained it."""
    tensors, record = run_folder.read_checkpoint(place / "run" / "best.safetensors")
    (tmp_path / "evil.py").write_text("raise SystemExit('a stranger code ran')\n")
    record["config"]["train"]["metrics"] = [f"{tmp_path / 'evil.py'}:metric"]
    run_folder.save_tensors(tmp_path / "model.safetensors", tensors, record)
    recipe = make_recipe(None, {"from_model": str(tmp_path / "model.safetensors")})
    assert recipe.settings.train.metrics == ()
    with pytest.raises(UsageError, match=r"nope\.py: no such file"):
        settings_from(place, **{"train.metrics": "nope.py:x"})


# From the command and from Python


def test_the_command_needs_no_recipe_and_lists_the_settings_of_the_models(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(capsys, "train", "--help")  # what that leaves in this process does no harm, pydantic or not
    import pydantic  # noqa: F401

    words = ["train", "--from", str(place / "run"), "--data", str(place / "data"), "--out", str(tmp_path / "on")]
    code, out, err = command(
        capsys, *words, "--freeze", "1", "--epochs", "1", "--train.lr", "1e-5", "--device", "cpu", "--json"
    )
    assert code == 0, err
    assert set(json.loads(out)) >= {"specificity", "sensitivity", "score"}
    assert "sound, network, layers and classification layer go on, its calibration does not; the first 1 blocks" in err
    assert "train.lr=1e-05, train.epochs=1, train.optimiser=adam, train.batch_size=8" in err
    config = run_folder.read_json(tmp_path / "on" / "config.json")["config"]
    assert (config["freeze"], config["train"]["lr"], config["model"]["dim"]) == ("1", 1e-5, 24)


def own_table(place: Path) -> pd.DataFrame:
    """Cycles as a user has them: no split, and a column of the user's."""
    cycles = read_cycles(place / "data")
    return cycles[["path", "start_s", "end_s", "label", "patient"]].assign(comment="mine")


def test_a_model_is_fine_tuned_with_a_table(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    model = rales.load(place / "run", device="cpu")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    tuned = model.finetune(own_table(place), tmp_path / "on", freeze=1, epochs=1, lr=1e-3, seed=2)
    config = run_folder.read_json(tmp_path / "on" / "config.json")["config"]
    assert (config["split"]["name"], config["split"]["folds"], config["train"]["lr"]) == ("folds", 5, 1e-3)
    assert (config["seed"], config["freeze"], config["train"]["epochs"]) == (2, "1", 1)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert not torch.equal(tuned.network.state_dict()["head.weight"], before["head.weight"])
    assert tuned.classes == model.classes
    assert len(tuned.predict(next((place / "data").glob("*.wav")))) == 4


def test_training_from_python_is_that_of_the_command(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    write_manifest(read_cycles(place / "data"), tmp_path / "cycles.csv")
    words = {"train.epochs": 1, "train.batch_size": 10, "audio.duration_s": 1, "train.device": "cpu"}
    said = [part for name, value in words.items() for part in ("--set", f"{name}={value}")]
    _, out, _ = command(
        capsys,
        "train",
        "m2d_fusion",
        "--size",
        "tiny",
        "--data",
        str(tmp_path / "cycles.csv"),
        "--out",
        str(tmp_path / "one"),
        *said,
        "--json",
    )
    figures = rales.train(
        "m2d_fusion",
        read_cycles(place / "data"),
        tmp_path / "two",
        size="tiny",
        epochs=1,
        batch_size=10,
        duration_s=1,
        train__device="cpu",
    )
    assert json.loads(out)["score"] == figures["score"]
    assert (tmp_path / "one" / "predictions.csv").read_bytes() == (tmp_path / "two" / "predictions.csv").read_bytes()


def test_names_that_are_none_or_several(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"seed_: no such field of m2d_fusion; the nearest is seed"):
        rales.train("m2d_fusion", place / "data", place / "x", seed_=3)
    (tmp_path / "rales.yaml").write_text("size: tiny\nlr: fast\n")
    with pytest.raises(UsageError, match=r"rales\.yaml, line 2: train\.lr=fast: expected a number"):
        rales.train("m2d_fusion", place / "data", place / "x", config=tmp_path / "rales.yaml")
    with pytest.raises(UsageError, match=r"width: could be a.width or b.width; write a__width"):
        inference_train.expand_name("width", ["a.width", "b.width"])


def test_an_artefact_has_nothing_to_train() -> None:
    model = tiny.model()
    with pytest.raises(UsageError, match=r"only a model of a run folder, a checkpoint or a name can be fine-tuned"):
        model.finetune("data", "out")


TOGETHER = """
import sys
from pathlib import Path
import torch
from rales.data import read_cycles
from rales.recipes.registry import make_recipe

torch.set_num_threads(1)
data, out, *words = sys.argv[1:]
recipe = make_recipe(None, words)
recipe.run(recipe, read_cycles(data), Path(out), cache_folder=Path(out).parent / "cache")
"""


@pytest.mark.slow
def test_two_processes_go_on_as_one(place: Path, tmp_path: Path) -> None:
    still = {f"augment.{name}": 0 for name in ("frequency_width", "time_width", "time_warp_frames")}
    words: dict[str, Any] = {**QUICK, "freeze": "1", **still}
    go_on(place, tmp_path / "one", **words)
    said = [f"{name}={value}" for name, value in words.items()]
    train_in_two_processes(TOGETHER, place / "data", tmp_path / "two", f"from_model={place / 'run'}", *said)
    for name, value in tensors(tmp_path / "one").items():
        assert torch.allclose(value, tensors(tmp_path / "two")[name], atol=2e-3), name
