"""Every number can be set by its name; wrong words are sentences; a config survives its file."""

import ast
import dataclasses
import inspect
import json
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rales import config
from rales.config import Config, field_types, from_dict, override, to_dict
from rales.errors import UsageError

FIELDS = field_types(Config)


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
        ("audio.frontend=m2d", "m2d"),
        ("model.learned=true", True),
        ("model.learned=No", False),
        ("model.learned=1", True),
        ("model.layers=5,11", (5, 11)),
        ("model.layers=[5, 11]", (5, 11)),
        ("model.layers=12", (12,)),
        ("model.weights=some/file=1.pth", "some/file=1.pth"),
        ("train.device=cuda:1", "cuda:1"),
        (" train.lr = 0.5 ", 0.5),
    ],
)
def test_each_type_of_value(word: str, value: object) -> None:
    changed = override(Config(), [word])
    section: Any = changed
    for part in word.partition("=")[0].strip().split("."):
        section = getattr(section, part)
    assert section == value
    assert type(section) is type(value)
    flat = {name: getter(changed) for name, getter in getters().items()}
    default = {name: getter(Config()) for name, getter in getters().items()}
    assert {name for name in flat if flat[name] != default[name]} <= {word.partition("=")[0].strip()}


def getters() -> dict[str, Any]:
    """Field name -> function that reads it off a Config."""

    def getter(name: str) -> Any:
        section, _, field = name.rpartition(".")
        return lambda c: getattr(getattr(c, section) if section else c, field)

    return {name: getter(name) for name in FIELDS}


def test_later_words_win_and_nothing_is_shared() -> None:
    first = Config()
    assert override(first, ["train.lr=1", "train.epochs=2", "train.lr=3"]).train == dataclasses.replace(
        first.train, lr=3.0, epochs=2
    )
    assert first == Config()


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
        ("train.lr=fast", "--set train.lr=fast: expected a value of type float"),
        ("train.epochs=1.5", "--set train.epochs=1.5: expected a value of type int"),
        ("train.epochs=", "--set train.epochs=: expected a value of type int"),
        ("model.learned=maybe", "--set model.learned=maybe: expected a value of type bool"),
        ("model.layers=1,b", "--set model.layers=1,b: expected a value of type list of whole numbers"),
        ("model.patch=16", "--set model.patch=16: expected a value of type list of whole numbers"),
        ("train.batch_size=0", "--set train.batch_size=0: expected a number above 0"),
        ("train.micro_batch=-1", "--set train.micro_batch=-1: expected a finite number, 0 or more"),
        ("audio.duration_s=nan", "--set audio.duration_s=nan: expected a number above 0"),
        ("audio.duration_s=inf", "--set audio.duration_s=inf: expected a number above 0"),
        ("audio.mean=nan", "--set audio.mean=nan: expected a finite number, 0 or more"),
        ("model.layers=0,3", "--set model.layers=0,3: expected a number above 0"),
        ("model.depth=1000000000", "--set model.depth=1000000000: expected a number up to 128"),
        ("model.layers=1,129", "--set model.layers=1,129: expected a number up to 128"),
        ("audio.duration_s=1e9", "--set audio.duration_s=1e9: expected a number up to 600"),
        ("train.epochs=1000000001", "--set train.epochs=1000000001: expected a number up to 1000000000"),
        (f"seed={2**63}", f"--set seed={2**63}: expected a number up to {2**63 - 1}"),
        ("audio.pad=mirror", "--set audio.pad=mirror: expected one of repeat, zero"),
    ],
)
def test_wrong_words_are_usage_errors(word: str, sentence: str) -> None:
    with pytest.raises(UsageError) as told:
        override(Config(), [word])
    assert str(told.value).startswith(sentence)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Type of a field -> values of it."""
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        length = 2 if Ellipsis not in typing.get_args(kind) else None
        return st.lists(st.integers(1, 99), min_size=length or 1, max_size=length or 4).map(tuple)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(1, 128),  # all that a depth may be
        float: st.floats(1e-9, 0.999),  # a share must stay below 1
        str: st.text("ab1é=.,/:-", max_size=8),
    }
    return simple[kind]


changes = st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), values(FIELDS[name])))


@given(st.lists(changes, max_size=6))
def test_a_config_survives_the_command_line_and_its_file(wanted: list[tuple[str, Any]]) -> None:
    words = [f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in wanted]
    changed = override(Config(), words)
    assert {name: getters()[name](changed) for name, _ in wanted} == dict(wanted)
    assert from_dict(json.loads(json.dumps(to_dict(changed)))) == changed


def test_settings_of_another_version_are_named() -> None:
    stored = to_dict(Config())
    stored["train"]["inertia"] = 0.9
    with pytest.raises(ValueError, match=r"old/run: unknown settings inertia; it was written by another version"):
        from_dict(stored, "old/run")


def test_missing_settings_take_their_default() -> None:
    assert from_dict({"train": {"epochs": 3}}) == override(Config(), ["train.epochs=3"])


def test_every_field_says_what_it_is() -> None:
    """A docstring below each field, as the page of settings prints them."""
    tree = ast.parse(inspect.getsource(config))
    sections = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name in ("Audio", "Augmentation", "Model", "Training", "Split"):
        body = sections[name].body[1:]
        for field, below in zip(body[::2], body[1::2], strict=True):
            assert isinstance(field, ast.AnnAssign), name
            assert isinstance(below, ast.Expr), ast.unparse(field)
            assert isinstance(below.value, ast.Constant), ast.unparse(field)


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.lr = 1.0  # type: ignore[misc]
