"""The systems by name: the command word leads to the file that holds everything of that system."""

import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rales.errors import UsageError
from rales.models.hub import sha256_of
from rales.registry import METRICS, RECIPES
from rales.settings import (
    DAMAGED,
    RunSettings,
    check_together,
    find_differences,
    from_dict,
    list_fields,
    parse_words,
    replace_field,
    set_fields,
)
from rales.training.recipe import Recipe
from rales.training.run_records import check_record

MakeRecipe = Callable[[Any], Recipe]  # (its own Settings) -> Recipe


def find_settings(word: str) -> type[RunSettings]:
    """Recipe -> the dataclass of its settings. Errors: an unknown recipe, and a function that is none."""
    return settings_of(RECIPES.find(word), word)


def settings_of(make: MakeRecipe, word: str) -> type[RunSettings]:
    """Function of a recipe, and the word for it -> the dataclass that is the type of its only parameter."""
    hints = typing.get_type_hints(make) if callable(make) else {}
    kinds = [kind for name, kind in hints.items() if name != "return"]
    if len(kinds) != 1 or not (isinstance(kinds[0], type) and issubclass(kinds[0], RunSettings)):
        raise UsageError(f"recipe {word!r}: expected a function of its Settings (a subclass of RunSettings) -> Recipe")
    return kinds[0]


def make_recipe(word: str, words: Iterable[str] | Mapping[str, Any] = (), **chosen: Any) -> Recipe:
    """Recipe with its settings.

    Fields without a dot (size, weights, fidelity, variant …) bring defaults for others; whatever else is set counts
    last.

    Parameters
    ----------
    word
        Its name, or FILE.py:NAME.
    words
        `name.of.field=value` words, or dotted name -> value.
    **chosen
        Further fields without a dot; None leaves one as it is.
    """
    make: MakeRecipe = RECIPES.find(word)
    section = settings_of(make, word)
    values = {name: value for name, value in chosen.items() if value is not None}
    values |= words if isinstance(words, Mapping) else parse_words(words)
    if values.get("weights") and "weights" not in list_fields(section):
        raise UsageError(f"{word} has no pre-trained weights; leave --weights out")

    if filled_in := [name for name in values if name.endswith("_digest")]:
        raise UsageError(f"--set {filled_in[0]}: is filled in from the file that the other setting names; leave it out")

    plain = {name: value for name, value in values.items() if "." not in name}
    asked = set_fields(section(), plain, f" of {word}")
    base = name_by_digest(asked.with_presets(frozenset(plain)))
    settings = set_fields(base, {name: value for name, value in values.items() if "." in name}, f" of {word}")
    check_together(settings)
    settings = name_metrics(settings)

    idle = [
        f"{name}={value} changes nothing here: it is {getattr(base, name) or 'that of the weights'}"
        for name, value in plain.items()
        if getattr(asked, name) != getattr(base, name)
    ]
    overrides = find_differences(base, settings)
    made = make(base)
    if not isinstance(made, Recipe):
        raise UsageError(f"recipe {word!r}: its function gave a {type(made).__name__}, expected a Recipe")
    notes = (*describe_start(made, overrides), *idle)
    return replace(make(settings), overrides=overrides, source=RECIPES.describe_source(word), notes=notes)


def name_by_digest(settings: RunSettings) -> RunSettings:
    """Settings -> the same, which name the content of the file they start from, not its path alone."""
    weights = getattr(settings, "weights", "")
    if getattr(settings, "weights_digest", "") or not Path(weights).is_file():  # a missing one is named when it is read
        return settings
    return replace_field(settings, "weights_digest", sha256_of(Path(weights)))


def name_metrics(settings: RunSettings) -> RunSettings:
    """Settings -> the same, whose own metrics another process finds too. Errors: one that is not there."""
    for word in settings.train.metrics:
        METRICS.find(word)
    return replace_field(settings, "train.metrics", tuple(map(METRICS.make_portable, settings.train.metrics)))


def describe_start(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Recipe and what --set changed -> the sentences about its checkpoint, if it starts from one."""
    weights = getattr(recipe.settings, "weights", "")
    if not weights:
        return recipe.notes
    notes = recipe.notes or (f"{weights}: the backbone is taken; the head for our classes is new",)
    changed = [f"{name} {value}" for name, value in overrides.items() if name.startswith(("audio.", "model."))]
    return (*notes, f"--set changes {', '.join(changed)}") if changed else notes


def rebuild_recipe(record: dict[str, Any], origin: str) -> Recipe:
    """Record of a checkpoint -> its recipe, without the pre-trained file that it once started from. Errors: a damaged
    record, a recipe of a file or package that is not there."""
    name, source = record.get("recipe"), record.get("recipe_source") or {}
    if not (isinstance(name, str) and isinstance(source, dict) and all(isinstance(v, str) for v in source.values())):
        check_record(record, origin)  # says so
    try:
        make: MakeRecipe = RECIPES.find_again(str(name), source, origin)  # first, since its settings may be unknown too
        check_record(record, origin)
        settings = from_dict(settings_of(make, record["recipe"]), record["config"], origin)
        check_together(settings)
        recipe = make(replace_field(settings, "weights", "") if hasattr(settings, "weights") else settings)
    except UsageError as error:
        raise ValueError(f"{origin}: {error}; {DAMAGED}") from error
    return replace(recipe, source=source)
