"""Every number can be set by its name; wrong words are sentences; settings survive their file; a run reads each."""

import dataclasses
import json
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from rales.data import read_cycles
from rales.errors import UsageError
from rales.recipes.m2d_fusion import Settings
from rales.recipes.registry import find_settings, make_recipe
from rales.registry import RECIPES
from rales.settings import (
    Training,
    describe_fields,
    find_differences,
    find_nearest,
    format_value,
    from_dict,
    get_values,
    list_fields,
    parse_words,
    set_fields,
    split_bounds,
    to_dict,
)
from rales.training.pretrain_settings import PretrainConfig
from tests import tiny

FIELDS = list_fields(Settings)


def set_words(*words: str) -> Settings:
    return set_fields(Settings(), parse_words(words))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("seed=3", 3),
        ("train.epochs=12", 12),
        ("train.lr=0.001", 0.001),
        ("train.lr=1e-3", 0.001),
        ("audio.duration_s=2", 2.0),
        ("audio.mean=-7.1", -7.1),
        ("train.micro_batch=0", 0),
        ("frontend=m2d", "m2d"),
        ("model.learned=true", True),
        ("augment.published_gate=Yes", True),
        ("model.layers=5,11", (5, 11)),
        ("model.layers=[5, 11]", (5, 11)),
        ("model.layers=1", (1,)),
        ("classes=normal, fine crackle", ("normal", "fine crackle")),
        ("independent=yes", True),
        ("weights=some/file=1.pth", "some/file=1.pth"),
        ("train.device=cuda:1", "cuda:1"),
        (" train.lr = 0.5 ", 0.5),
    ],
)
def test_each_type_of_value(word: str, value: object) -> None:
    name = word.partition("=")[0].strip()
    changed = set_words(word)
    assert find_differences(Settings(), changed) == {name: value}
    assert type(get_values(changed)[name]) is type(value)


def test_values_that_are_two_types_and_lists_of_words() -> None:
    lungrn = make_recipe("lungrn_nl", ["rate=4000"]).settings
    assert lungrn.rate == 4000
    assert type(lungrn.rate) is int
    respirenet = find_settings("respirenet")()
    assert set_fields(respirenet, {"devices": "Meditron,LittC2SE"}).devices == ("Meditron", "LittC2SE")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="--set devices=Phone: expected one of AKGC417L, LittC2SE"):
        set_fields(respirenet, {"devices": "Phone"})


def test_later_words_win_and_nothing_is_shared() -> None:
    assert set_words("train.lr=1", "train.epochs=2", "train.lr=3").train == dataclasses.replace(
        Training(), lr=3.0, epochs=2
    )
    assert Settings() == Settings()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.epoch=3", "--set train.epoch: no such field; the nearest is train.epochs"),
        ("lr=3", "--set lr: no such field; the nearest is train.lr"),
        ("train.learning_rate=1", "--set train.learning_rate: no such field; the nearest is train.lr"),
        ("train.wd=1", "--set train.wd: no such field; the nearest is train.weight_decay"),
        ("model.rate=1", "--set model.rate: no such field; the nearest is model."),
        ("train=3", "--set train: no such field; the nearest is"),
        ("train.lr", "--set train.lr: expected name.of.field=value, for example train.lr=0.001"),
        ("train.lr=fast", "--set train.lr=fast: expected a number"),
        ("train.epochs=1.5", "--set train.epochs=1.5: expected a whole number"),
        ("train.epochs=", "--set train.epochs=: expected a whole number"),
        ("model.learned=maybe", "--set model.learned=maybe: expected true or false"),
        ("model.layers=1,b", "--set model.layers=1,b: expected a list of whole numbers"),
        ("model.patch=16", "--set model.patch=16: expected a list of whole numbers"),
        ("independent=both", "--set independent=both: expected true or false"),
        ("train.batch_size=0", "--set train.batch_size=0: expected a number above 0"),
        ("train.micro_batch=-1", "--set train.micro_batch=-1: expected a finite number, 0 or more"),
        ("audio.duration_s=nan", "--set audio.duration_s=nan: expected a finite number, 0.1 or more"),
        ("audio.duration_s=inf", "--set audio.duration_s=inf: expected a finite number, 0.1 or more"),
        ("audio.rate_hz=10", "--set audio.rate_hz=10: expected a finite number, 1000 or more"),
        ("audio.mean=nan", "--set audio.mean=nan: expected a finite number"),
        ("train.validation_share=1", "--set train.validation_share=1: expected a number between 0 and 1"),
        ("model.layers=0,3", "--set model.layers=0,3: expected a number above 0"),
        ("model.depth=1000000000", "--set model.depth=1000000000: expected a number up to 128"),
        ("model.layers=1,129", "--set model.layers=1,129: expected a number up to 128"),
        ("audio.duration_s=1e9", "--set audio.duration_s=1e9: expected a number up to 600"),
        ("train.epochs=1000000001", "--set train.epochs=1000000001: expected a number up to 1000000000"),
        (f"seed={2**63}", f"--set seed={2**63}: expected a number up to {2**63 - 1}"),
        ("audio.pad=mirror", "--set audio.pad=mirror: expected one of repeat, zero"),
        ("train.momentum=2", "--set train.momentum=2: expected a number up to 1"),
        ("train.step_factor=0", "--set train.step_factor=0: expected a number above 0"),
        ("train.step_factor=10", "--set train.step_factor=10: expected a number up to 1"),
        ("split.folds=1", "--set split.folds=1: expected a finite number, 2 or more"),
        ("banana=1", "--set banana: no such field; there are train.…, split.…, seed, "),
    ],
)
def test_wrong_words_are_usage_errors(word: str, sentence: str) -> None:
    with pytest.raises(UsageError) as told:
        set_words(word)
    assert str(told.value).startswith(sentence)


def test_where_there_is_no_such_group_the_last_part_of_a_name_counts() -> None:
    assert find_nearest("audio.rate_hz", list(list_fields(find_settings("lungrn_nl")))) == "rate"
    assert find_nearest("depth", list(FIELDS)) == "model.depth"
    assert find_nearest("audio.duration_s", list(list_fields(find_settings("lungrn_nl")))) is None


def make_values(kind: Any) -> st.SearchStrategy[Any]:
    """Type of a field -> values of it that fit its bounds."""
    bare, bounds = split_bounds(kind)
    if typing.get_origin(bare) is typing.Literal:
        return st.sampled_from(typing.get_args(bare))
    if typing.get_origin(bare) is tuple:
        if typing.get_args(bare)[0] is str:
            return st.lists(st.text("ab1é.", min_size=1, max_size=8), min_size=1, max_size=4).map(tuple)
        length = 2 if Ellipsis not in typing.get_args(bare) else None
        inner = st.text("abé.:", min_size=1) if typing.get_args(bare)[0] is str else st.integers(1, 99)
        return st.lists(inner, min_size=length or 1, max_size=length or 4).map(tuple)
    least = max(1, int(bounds.least)) if bounds.least > 0 else 1
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(least, least + 100),
        float: st.floats(0.1, 0.999),
        str: st.text("ab1é=.,/:-", max_size=8),
    }
    return simple[bare]


changes = st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), make_values(FIELDS[name])))


@limits(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(changes, max_size=6))
def test_settings_survive_the_command_line_and_their_file(wanted: list[tuple[str, Any]]) -> None:
    changed = set_words(*(f"{name}={format_value(value)}" for name, value in wanted))
    assert {name: get_values(changed)[name] for name, _ in wanted} == dict(wanted)
    assert from_dict(Settings, json.loads(json.dumps(to_dict(changed))), "here") == changed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train": {"inertia": 0.9}}, "unknown settings inertia; it was written by another version"),
        ({"audio": 5}, "its audio is a number, expected an object"),
        ({"audio": {"rate_hz": 1e4}}, "audio.rate_hz is 10000.0, expected a whole number"),
        ({"audio": {"rate_hz": 10}}, "audio.rate_hz is 10, expected a finite number, 1000 or more"),
        ({"audio": {"pad": "none"}}, "audio.pad is 'none', expected one of repeat, zero"),
        ({"model": {"depth": 10**9}}, "model.depth is 1000000000, expected a number up to 128"),
        ({"model": {"layers": [1.5]}}, "model.layers is [1.5], expected a whole number"),
        ({"model": {"patch": [16]}}, "model.patch is [16], expected a list of whole numbers"),
        ({"model": {"learned": 1}}, "model.learned is 1, expected true or false"),
        ({"size": None}, "size is None, expected one of base, small, tiny"),
        ({"classes": ["a", 1]}, "classes is ['a', 1], expected text"),
    ],
)
def test_stored_settings_that_cannot_be_are_sentences(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^old/run: ") as told:
        from_dict(Settings, change, "old/run")
    assert sentence in str(told.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.layers=13"], "model.layers=[13]: the encoder has 12 layers"),
        (["model.layers=5,11,5"], "model.layers=[5, 11, 5]: a layer is fused once; name each once"),
        (["split.name=folds", "split.fold=5"], "split.fold=5: split.folds=5 are counted from 0 to 4"),
        (["split.name=device"], "split.device=(none) with split.name=device: split.name=device and the device that"),
        (["split.device=Meditron"], "split.device=Meditron with split.name=official: split.name=device and the device"),
        (["audio.duration_s=600", "audio.rate_hz=192000"], "115200000 samples a cycle, expected 20000000 at most"),
        (["frontend=m2d", "audio.floor=clip"], "audio.floor=clip: goes with frontend=m2d_clip, not with m2d"),
        (["size=tiny", "audio.scope=batch"], "leave it out, or use --set frontend=icbhi"),
    ],
)
def test_settings_that_do_not_go_together(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as told:
        make_recipe("m2d_fusion", words)
    assert sentence in str(told.value)


def test_missing_settings_take_their_default() -> None:
    assert from_dict(Settings, {"train": {"epochs": 3}}, "here") == set_words("train.epochs=3")


@pytest.mark.parametrize("section", [*(find_settings(name) for name in RECIPES.built_in), PretrainConfig])
def test_every_field_says_what_it_is(section: type) -> None:
    """A docstring below each field, as `--help` prints it."""
    assert [name for name, said in describe_fields(section).items() if len(said) < 10] == []


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().train.lr = 1.0  # type: ignore[misc]


# Each field of each recipe is read in a run

OWN_FRAMES = ("dataclasses", "rales.settings")  # they copy and compare all fields


def record_reads(settings: Any, seen: set[str], prefix: str = "") -> Any:
    """Settings -> the same of a class that writes the dotted name of every field that is read into `seen`."""
    kind = type(settings)
    names = {field.name: f"{prefix}{field.name}" for field in dataclasses.fields(kind)}

    def read(self: Any, name: str) -> Any:
        caller = sys._getframe(1)
        name_of, own = caller.f_code.co_name, caller.f_globals.get("__name__") in OWN_FRAMES
        copying = (own and name_of != "label_set") or name_of in ("__eq__", "__hash__")
        if name in names and not copying:
            seen.add(names[name])
        return object.__getattribute__(self, name)

    recording = type(kind.__name__, (kind,), {"__getattribute__": read})
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}
    groups = {
        name: record_reads(v, seen, f"{prefix}{name}.") for name, v in values.items() if dataclasses.is_dataclass(v)
    }
    return recording(**{**values, **groups})


QUICK = {
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.device": "cpu",
    "train.precision": "float32",
    "audio.duration_s": 0.5,
    "device_epochs": 1,
    "probe_epochs": 1,
}
OTHERS: list[dict[str, Any]] = [  # they read what the first run has no use for, where a recipe has such fields
    {
        "loss": "device_adversarial",
        "frontend": "icbhi",
        "train.optimiser": "sgd",
        "train.schedule": "step",
        "train.select": "validation",
        "train.validation_share": 0.4,
        "split.name": "device",
        "split.device": "Meditron",
    },
    {
        "loss": "pafa",
        "variant": "all_learned",
        "fidelity": "corrected",
        "split.name": "folds",
        "split.folds": 3,
        "train.warmup_epochs": 1,
        "train.schedule": "cosine",
    },
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("settings")
    tiny.write_folder(place / "data")
    return place


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_every_setting_of_a_recipe_is_read_in_some_run(name: str, place: Path, tmp_path: Path) -> None:
    seen = set[str]()
    section = find_settings(name)
    known = list_fields(section)
    make = RECIPES.find(name)
    cycles = read_cycles(place / "data")
    for number, others in enumerate([{"loss": "supcon"}, *OTHERS]):
        words: dict[str, Any] = {"size": "tiny", **QUICK, **others}
        words = {field: value for field, value in words.items() if field in known}
        recording = record_reads(set_fields(section(), words), seen)
        presets = recording.with_presets(frozenset(words))
        settings = set_fields(presets, {field: value for field, value in words.items() if "." in field})
        recipe = make(settings)
        recipe.run(recipe, cycles, tmp_path / str(number), cache_folder=place / "cache")
    of_the_record = {"weights_digest", "encoder_digest", "from_digest"}  # tells files of one name apart
    # of one loss option and of teachers, the same code in all recipes: test_loss_terms.py and test_distillation.py
    of_the_record |= {"term.mask_share", "term.noise", "distil.digest", "distil.temperature", "distil.weight"}
    assert sorted(set(known) - seen - of_the_record) == []
