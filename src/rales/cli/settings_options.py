"""The settings of a recipe as options of a word: `rales train lungattn --help` lists them, `--train.lr 1e-3` sets one.

Values stay words here: `--train.lr 1e-3` and `--set train.lr=1e-3` are read by the same `rales.settings`.
"""

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from rales.errors import UsageError
from rales.settings import describe_fields, format_value, get_values, list_fields, split_bounds

ELSEWHERE = (
    "seed",
    "size",
    "weights",
    "variant",
    "classes",
    "independent",
    "weights_digest",
    "encoder_digest",
    "teacher_digest",
    "from_model",
    "from_digest",
    "freeze",
)  # options of the word, or filled in


def add_settings(word: Callable[..., Any], settings: Any, name: str) -> Callable[..., Any]:
    """Function of a word of the command that takes `set_` -> the same with an option for every field of the settings.

    Parameters
    ----------
    word
        Function of the word.
    settings
        Those of the recipe, with its defaults.
    name
        Whose settings they are, for the head of their list.
    """
    group = Group(f"Settings of {name}, also --set NAME=VALUE", sort_key=99)
    described, kinds = describe_fields(type(settings)), list_fields(type(settings))
    signature = inspect.signature(word)
    options = {
        field.replace(".", "__"): (field, describe_option(field, kinds[field], described[field], default, group))
        for field, default in get_values(settings).items()
        if field not in ELSEWHERE
    }
    added = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for key, (_, annotation) in options.items()
    ]

    def word_with_settings(*positional: Any, **given: Any) -> Any:
        named = {field: given.pop(key) for key, (field, _) in options.items() if given.get(key) is not None}
        for field, value in named.items():
            short = field.rpartition(".")[2]  # --epochs is train.epochs
            if given.get(short) is not None and format_value(given[short]) != value:
                raise UsageError(f"--{short} {given[short]} and --{field} {value}: both say {field}; give one of them")
        passed = {key: value for key, value in given.items() if key not in options}
        chosen = [f"{field}={value}" for field, value in named.items()]
        return word(*positional, **{**passed, "set_": (*chosen, *given.get("set_", ()))})  # the last word is --set's

    word_with_settings.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    word_with_settings.__annotations__ = {**word.__annotations__, **{key: kind for key, (_, kind) in options.items()}}
    word_with_settings.__name__, word_with_settings.__doc__ = word.__name__, word.__doc__
    return word_with_settings


def add_help(word: Callable[..., Any], option: str, help_text: str) -> Callable[..., Any]:
    """Function of a word -> the same, which says something else of one of its options."""
    word.__annotations__[option] = Annotated[str | None, Parameter(help=help_text)]
    return word


def describe_option(field: str, kind: Any, described: str, default: Any, group: Group) -> Any:
    """Dotted field, its type, docstring and default -> the annotated type that cyclopts lists."""
    bare, _ = split_bounds(kind)
    shapes = {int: "INT", float: "FLOAT", bool: "true|false", str: "TEXT"}
    choices = f" One of {', '.join(map(str, typing.get_args(bare)))}." if typing.get_origin(bare) is Literal else ""
    return Annotated[
        str | None,
        Parameter(
            name=f"--{field}",
            help=f"{described}{choices} [default: {format_value(default) or 'none'}]",
            metavar=shapes.get(bare, "CHOICE" if choices else "LIST"),
            group=group,
            show_default=False,
            negative="",
            allow_leading_hyphen=True,
        ),
    ]
