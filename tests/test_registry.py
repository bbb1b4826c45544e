"""An own recipe of a file, of a package and of Python code goes through all words; a missing one is a sentence."""

import functools
import importlib.metadata
import importlib.util
import json
import py_compile
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import rales
from rales.data import read_cycles
from rales.errors import UsageError
from rales.jobs import sweep
from rales.recipes import m2d_fusion
from rales.recipes.registry import find_settings, make_recipe, rebuild_recipe
from rales.registry import ENCODERS, EXPORT_TARGETS, METRICS, READERS, RECIPES, Registry
from rales.training.recipe import Recipe
from tests import tiny
from tests.command import command

CONTRIBUTING_FILE = Path(__file__).parent.parent / "CONTRIBUTING.md"
CONTRIBUTING = CONTRIBUTING_FILE.read_text()
WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make setup")
OWN = CONTRIBUTING.split("## A new system")[1].split("```python\n")[1].split("```")[0]  # as documented
SETTINGS = ["--size", "tiny", "--epochs", "1", "--device", "cpu", "--audio.duration_s", "1", "--dropout", "0.25"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> folder of `data`, the file `own.py` and the run `runs/own` of its recipe."""
    place = tmp_path_factory.mktemp("own")
    tiny.write_folder(place / "data")
    (place / "own.py").write_text(OWN)
    words = ["train", f"{place / 'own.py'}:recipe", "--data", str(place / "data"), "--out", str(place / "runs" / "own")]
    with pytest.raises(SystemExit) as ended:
        rales_main([*words, *SETTINGS])
    assert not ended.value.code
    return place


def rales_main(words: list[str]) -> None:
    from rales.cli import main

    main(words)


def test_the_record_names_the_file_and_all_settings(place: Path) -> None:
    record = json.loads((place / "runs" / "own" / "config.json").read_text())
    assert record["recipe"] == "dropout"
    assert record["recipe_source"]["file"] == str(place / "own.py")
    assert re.fullmatch("[0-9a-f]{64}", record["recipe_source"]["sha256"])
    assert record["config"]["dropout"] == 0.25
    assert record["config"]["audio"]["duration_s"] == 1


def test_a_run_whose_recipe_moved_before_it_went_on_can_be_loaded(place: Path, tmp_path: Path) -> None:
    cycles, first, second = read_cycles(place / "data"), tmp_path / "own.py", tmp_path / "moved" / "own.py"
    first.write_text(OWN)

    def train(file: Path, *, stop: bool) -> None:
        def after_epoch(_: object) -> None:
            if stop:
                raise KeyboardInterrupt

        made = make_recipe(f"{file}:recipe", ["train.epochs=2", "train.device=cpu", "audio.duration_s=1"], size="tiny")
        made.run(made, cycles, tmp_path / "run", after_epoch=after_epoch)

    with pytest.raises(KeyboardInterrupt):
        train(first, stop=True)
    second.parent.mkdir()
    first.rename(second)
    train(second, stop=False)
    assert rales.load(tmp_path / "run").recipe.source["file"] == str(second)


def test_its_run_predicts_embeds_evaluates_and_is_reported(place: Path, capsys: Any, tmp_path: Path) -> None:
    model = rales.load(place / "runs" / "own")
    assert model.recipe.name == "dropout"
    sound = next((place / "data").glob("*.wav"))
    assert len(model.predict(sound)) == len(model.embed(sound)) == 4
    code, out, _ = command(capsys, "evaluate", str(place / "runs" / "own"), "--data", str(place / "data"), "--json")
    assert code == 0
    assert json.loads(out)["protocol"]["recipe"] == "dropout"
    code, _, _ = command(capsys, "report", str(place / "runs"), "--out", str(tmp_path / "report"))
    assert code == 0
    assert "dropout" in (tmp_path / "report" / "report.md").read_text()
    runs = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert len(runs) == 1


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=(pytest.mark.slow, WITH_RAY))])
def test_a_sweep_finds_it_in_processes_of_their_own(place: Path, tmp_path: Path, monkeypatch: Any, engine: str) -> None:
    monkeypatch.chdir(place)
    shutil.copy(CONTRIBUTING_FILE.parent / "examples" / "own_metric.py", place)
    fixed = ["size=tiny", "train.epochs=1", "train.device=cpu", "audio.duration_s=1"]
    fixed += ["train.metrics=own_metric.py:brier_score"]
    trials = sweep.trials("own.py:recipe", {"dropout": ["0.1", "0.2"]}, 1, fixed)
    assert [trial.name for trial in trials] == ["dropout-dropout=0.1-seed0", "dropout-dropout=0.2-seed0"]
    monkeypatch.chdir(tmp_path)  # a worker may be anywhere
    (outcome,) = sweep.run(trials[:1], place / "data", tmp_path / "out", processes=1, engine=engine)
    assert (outcome.state, outcome.error) == ("done", "")
    assert "brier_score" in json.loads((tmp_path / "out" / outcome.name / "evaluation.json").read_text())["own"]
    (outcome,) = sweep.run(trials[:1], place / "data", tmp_path / "out", processes=1, engine=engine)
    assert outcome.state == "skipped"


def test_its_settings_are_listed_and_a_wrong_one_is_refused(place: Path, capsys: Any) -> None:
    word = f"{place / 'own.py'}:recipe"
    code, out, _ = command(capsys, "train", word, "--help")
    assert code == 0
    assert "--dropout" in out
    assert "Share of the features that training hides" in " ".join(out.replace("│", " ").split())
    code, _, told = command(capsys, "train", word, "--data", "d", "--out", "o", "--set", "dropuot=1")
    assert code == 2
    assert "no such field of" in told
    assert "the nearest is dropout" in told


def test_a_file_that_is_gone_or_has_changed_is_a_sentence_and_nothing_of_it_runs(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs" / "own", tmp_path / "run")
    kept = (place / "own.py").read_text()
    try:
        (place / "own.py").write_text("raise SystemExit('run')\n")
        with pytest.raises(ValueError, match=r"made by recipe 'dropout' of .*own.py, which has changed since"):
            rales.load(tmp_path / "run")
        (place / "own.py").unlink()
        with pytest.raises(
            ValueError, match=r"made by recipe 'dropout' of .*own.py, which is not there; put that file"
        ):
            rales.load(tmp_path / "run")
    finally:
        (place / "own.py").write_text(kept)
    assert len(rales.load(tmp_path / "run").classes) == 4


def test_a_strangers_run_folder_runs_no_code(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record may name a file that came with it; only files that a person has named are run."""
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(ValueError, match=r"of .*own.py, which is code that nobody has named here yet; read it, and if"):
        rales.load(place / "runs" / "own")
    make_recipe(f"{place / 'own.py'}:recipe")
    assert rales.load(place / "runs" / "own").recipe.name == "dropout"


def test_what_was_read_is_what_is_run_not_a_compiled_file_beside_it(tmp_path: Path) -> None:
    own, evil = tmp_path / "own.py", tmp_path / "evil.py"
    own.write_text("def thing():\n    return 'ours'\n")
    evil.write_text("def thing():\n    return 'of a stranger'\n")
    compiled = importlib.util.cache_from_source(str(own))
    py_compile.compile(str(evil), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    registry: Registry[Any] = Registry("thing", "rales.things", {})
    assert registry.find(f"{own}:thing")() == "ours"


def test_only_what_is_registered_here_stands_for_a_file_of_the_same_name(place: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(RECIPES, "registered", {"dropout": own_recipe})
    assert rales.load(place / "runs" / "own").recipe.settings.dropout == 0.25, "the file's recipe, not the namesake"
    cell: dict[str, Any] = {}
    exec(compile("def cell(settings):\n    return settings\n", "/nowhere/cell.py", "exec"), cell)  # as in a notebook
    rales.register_encoder("cell", cell["cell"])
    assert ENCODERS.find("cell") is cell["cell"]
    assert ENCODERS.make_portable("cell") == "cell"
    rales.register_encoder("partial", functools.partial(own_recipe))
    monkeypatch.setattr(ENCODERS, "registered", {})


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (None, "recipe", r"none.py: no such file; expected the recipe as FILE.py:NAME"),
        ("import nowhere", "recipe", r"none.py: cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1", "recipe", r"none.py: holds no 'recipe'; expected the recipe as FILE.py:NAME"),
        ("x = 1", "x", r"expected a function of its Settings"),
        ("def f(size: int) -> int: ...", "f", r"expected a function of its Settings"),
    ],
)
def test_a_file_that_holds_no_recipe(tmp_path: Path, content: str | None, name: str, sentence: str) -> None:
    if content is not None:
        (tmp_path / "none.py").write_text(content)
    with pytest.raises(UsageError, match=sentence):
        make_recipe(f"{tmp_path / 'none.py'}:{name}")


def own_recipe(settings: m2d_fusion.Settings) -> Recipe:
    return m2d_fusion.recipe(settings)


def test_a_recipe_is_registered_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RECIPES, "registered", {})
    rales.register_recipe("own", own_recipe)
    recipe = make_recipe("own", ["variant=vanilla"], size="tiny")
    assert recipe.settings.model.layers == (3,)
    assert recipe.source["file"] == str(Path(__file__).resolve())
    assert RECIPES.make_portable("own") == f"{Path(__file__).resolve()}:own_recipe"
    assert "own" in RECIPES.list_names()
    with pytest.raises(UsageError, match="recipe 'm2d_fusion' is one of this package"):
        rales.register_recipe("m2d_fusion", own_recipe)
    with pytest.raises(UsageError, match="no recipe 'onw'; the nearest is 'own'"):
        make_recipe("onw")


def test_readers_and_encoders_have_registries_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, register in (
        (READERS, rales.register_reader),
        (ENCODERS, rales.register_encoder),
        (METRICS, rales.register_metric),
        (EXPORT_TARGETS, rales.register_export_target),
    ):
        monkeypatch.setattr(registry, "registered", {})
        register("own", sys)
        assert registry.find("own") is sys


def test_an_installed_package_announces_a_recipe(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = importlib.metadata.EntryPoint("theirs", f"{__name__}:own_recipe", "rales.recipes")
    announced = SimpleNamespace(name="theirs", load=known.load, dist=SimpleNamespace(name="their-package", version="2"))
    monkeypatch.setattr("rales.registry.entry_points", lambda group: [announced] if group == "rales.recipes" else [])
    recipe = make_recipe("theirs", size="tiny")
    assert recipe.source == {"package": "their-package", "version": "2", "word": "theirs"}
    assert "theirs" in RECIPES.list_names()
    record = {**tiny.record_of(recipe), "recipe": "theirs", "recipe_source": dict(recipe.source)}
    assert rebuild_recipe(record, "run").settings == recipe.settings
    assert caplog.messages == []
    announced.dist.version = "3"
    assert rebuild_recipe(record, "run").settings == recipe.settings
    (told,) = caplog.messages
    assert told == "run: made by recipe 'theirs' of their-package 2, here is 3: its answers may be others"
    monkeypatch.setattr("rales.registry.entry_points", lambda group: [])
    with pytest.raises(ValueError, match=r"^run: made by recipe 'theirs' of their-package, which is not here; install"):
        rebuild_recipe(record, "run")


def test_a_registry_loads_what_it_names() -> None:
    empty: Registry[Any] = Registry("thing", "rales.things", {})
    with pytest.raises(UsageError, match="no thing 'other'; none is registered here or announced"):
        empty.find("other")
    registry: Registry[Any] = Registry("thing", "rales.things", {"settings": "rales.recipes.registry:find_settings"})
    assert registry.find("settings") is find_settings
    assert registry.describe_source("settings") == {}
    with pytest.raises(ValueError, match="run: made by thing 'other', which this version does not have"):
        registry.find_again("other", {}, "run")
