"""The systems by name: the command word leads to the file that holds everything of that system."""

import dataclasses
import typing
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rales.errors import SettingError, UsageError
from rales.models.hub import sha256_of
from rales.registry import METRICS, RECIPES
from rales.settings import (
    DAMAGED,
    RunSettings,
    Split,
    Training,
    check_together,
    find_differences,
    format_value,
    from_dict,
    get_values,
    list_fields,
    parse_words,
    replace_field,
    set_fields,
)
from rales.training import finetune
from rales.training.distillation import add_teachers, digest_teachers
from rales.training.loss_terms import Distillation
from rales.training.recipe import Recipe
from rales.training.run_records import check_record
from rales.training.trained_model import find_trained_model, read_trained_model

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


def make_recipe(word: str | None, words: Iterable[str] | Mapping[str, Any] = (), **chosen: Any) -> Recipe:
    """Recipe with its settings.

    Fields without a dot (size, weights, fidelity, variant …) bring defaults for others; whatever else is set counts
    last.

    Parameters
    ----------
    word
        Its name, or FILE.py:NAME; with `from_model` it may be None.
    words
        `name.of.field=value` words, or dotted name -> value.
    **chosen
        Further fields without a dot; None leaves one as it is.
    """
    values = {name: value for name, value in chosen.items() if value is not None}
    values |= words if isinstance(words, Mapping) else parse_words(words)
    if filled_in := [name for name in values if name.endswith(("_digest", ".digest"))]:
        raise SettingError(filled_in[0], "is filled in from the file that the other setting names; leave it out")
    check_freeze(str(values.get("freeze", "none")))
    if values.get("from_model"):
        return make_finetuning(word, values)
    if word is None:
        raise UsageError(f"expected a recipe: {', '.join(RECIPES.list_names())}; or FILE.py:NAME, or --from of a model")

    make: MakeRecipe = RECIPES.find(word)
    section = settings_of(make, word)
    if filled_in := [name for name in values if name in section.FILLED_IN]:
        raise SettingError(filled_in[0], "is filled in by what another setting names; leave it out")
    if values.get("weights") and "weights" not in list_fields(section):
        raise UsageError(f"{word} has no pre-trained weights; leave --weights out")

    plain = {name: value for name, value in values.items() if "." not in name}
    asked = set_fields(section(), plain, f" of {word}")
    base = name_by_digest(asked.with_presets(frozenset(plain)))
    dotted = {name: value for name, value in values.items() if "." in name}
    settings = set_fields(base, dotted, f" of {word}").with_consequences(frozenset(dotted))
    check_together(settings)
    settings = name_teachers(name_metrics(settings))

    idle = [
        f"{name}={value} changes nothing here: it is {getattr(base, name) or 'that of the weights'}"
        for name, value in plain.items()
        if getattr(asked, name) != getattr(base, name)
    ]
    overrides = list_overrides(base, settings, dotted)
    made = make(base)
    if not isinstance(made, Recipe):
        raise UsageError(f"recipe {word!r}: its function gave a {type(made).__name__}, expected a Recipe")
    if settings.freeze != "none" and made.run is not finetune.run:
        raise UsageError(
            f"freeze={settings.freeze}: {made.name} trains in stages of its own, and each says what learns"
        )
    if settings.freeze != "none" and trains_updates(settings):
        raise UsageError(
            f"freeze={settings.freeze}: model.low_rank keeps all of the encoder as it starts but for its updates, "
            "which would not learn either; leave one of the two out"
        )
    notes = (*describe_start(made, overrides), *idle)
    made = replace(make(settings), overrides=overrides, source=RECIPES.describe_source(word), notes=notes)
    return add_teachers(made, rebuild_recipe)


FINE_TUNING_EPOCHS = 30
CHOSEN_AGAIN = (
    *("train.", "distil.", "split.", "augment.", "seed", "freeze", "classes", "independent", "from_model"),
    "model.recompute",
)
"""Settings, or beginnings of their names, that a run which goes on from a trained model may have otherwise."""


def make_finetuning(word: str | None, values: Mapping[str, Any]) -> Recipe:
    """Recipe that goes on from a trained model: sound, network and layers are the model's.

    Its training begins as `finetuning_defaults` says, on a split of its own; what is asked for wins.

    Parameters
    ----------
    word
        The model's recipe, which may be left out.
    values
        Dotted name -> value of what was asked for, among them `from_model`.
    """
    if "classes" in values:  # of the model's own kind only if that is asked for
        values = {"independent": False, **values}
    name = str(values["from_model"])
    path, _, record = read_trained_model(find_trained_model(name))
    theirs = rebuild_recipe(record, str(path))
    if word is not None and not is_recipe_of(word, record):
        raise UsageError(
            f"recipe {word!r}: {name} was made by {theirs.name!r}, which goes on with it; leave {word} out"
        )
    if theirs.run is not finetune.run:
        raise UsageError(
            f"--from {name}: {theirs.name} trains in stages of its own, none of which starts from a trained model; "
            "choose a model of another system"
        )

    source = theirs.source
    make: MakeRecipe = RECIPES.find_again(record["recipe"], source, str(path))
    start = replace_field(theirs.settings, "train", finetuning_defaults(theirs.settings))
    start = dataclasses.replace(start, split=Split(), seed=0, freeze="none", from_model=name)
    start = dataclasses.replace(start, from_digest=sha256_of(path))
    if hasattr(start, "distil"):
        start = replace_field(start, "distil", Distillation())  # its teachers taught the model, not this run
    if hasattr(start, "weights_digest"):
        start = replace_field(start, "weights_digest", "")  # its weights are the model's
    settings = set_fields(start, values, f" of {theirs.name}")
    for field, value in find_differences(start, settings).items():
        if not field.startswith(CHOSEN_AGAIN):
            own = format_value(get_values(start)[field]) or "none"
            raise UsageError(f"{field}={format_value(value)}: --from {name} keeps its {field}, {own}; leave it out")
    settings = name_teachers(name_metrics(settings))
    check_together(settings)
    if theirs.fit is not None and not finetune.keeps_head(record, settings):
        raise UsageError(
            f"--classes {','.join(settings.classes)}: {theirs.name} has more that is fitted to its classes "
            f"({', '.join(record['classes'])}) than a classification layer; leave them out"
        )
    made = replace(
        make(settings),
        overrides=list_overrides(start, settings, values),
        source=source,
        notes=describe_finetuning(name, record, settings),
    )
    return add_teachers(made, rebuild_recipe)


def finetuning_defaults(settings: RunSettings) -> Training:
    """Settings of a model -> the training that another run which goes on from it begins with: a tenth of the learning
    rate (its own if it went on from another itself), without warm-up, 30 epochs, and neither the device nor the choice
    of the epoch that were that model's."""
    train = settings.train
    lr = train.lr if settings.from_model else train.lr / 10
    return replace(
        train,
        epochs=FINE_TUNING_EPOCHS,
        lr=lr,
        lr_floor=min(train.lr_floor, lr / 10),
        warmup_epochs=0,
        cosine_epochs=0,
        cosine_start_epoch=0,
        select="last",
        evaluate_every=1,
        metrics=(),  # code of whoever made the model
        device="auto",
    )


def describe_finetuning(name: str, record: Mapping[str, Any], settings: RunSettings) -> tuple[str, ...]:
    """Model that a run goes on from, its record, settings of the run -> the sentences about what goes on and what is
    new."""
    train = settings.train
    kept, new = "sound, network, layers and classification layer go on", "its calibration does not"
    if not finetune.keeps_head(record, settings):
        kept = "sound, network and layers go on"
        own = "independent " * settings.independent + ", ".join(settings.classes)
        new = (
            f"its classification layer (of {', '.join(record['classes'])}) and its calibration do not: it has {own} now"
        )
    all_of_it = "the low-rank updates, classification layer and weights of layers learn"
    frozen = {
        "none": all_of_it if trains_updates(settings) else "everything learns",
        "encoder": "only classification layer and weights of layers learn",
    }
    learns = frozen.get(settings.freeze, f"the first {settings.freeze} blocks and what is below stay as they are")
    return (
        f"{name}: {kept}, {new}; {learns}",
        f"its training goes on, too, but shorter, slower and without warm-up: train.lr={train.lr:g}, "
        f"train.epochs={train.epochs}, train.optimiser={train.optimiser}, train.batch_size={train.batch_size}",
    )


def is_recipe_of(word: str, record: Mapping[str, Any]) -> bool:
    """Whether a recipe, by name or FILE.py:NAME, is the one that made a record."""
    RECIPES.find(word)  # an unknown one is named
    source, theirs = RECIPES.describe_source(word), record.get("recipe_source") or {}
    if not theirs:
        return not source and word == record["recipe"]
    return bool(source) and all(source.get(key) == theirs.get(key) for key in ("sha256", "name", "package", "module"))


def check_freeze(freeze: str) -> None:
    """Errors: words that are neither none, nor encoder, nor a number of blocks."""
    if freeze not in ("none", "encoder") and not (freeze.isdecimal() and len(freeze) < 4):
        raise UsageError(f"freeze={freeze}: expected none, encoder, or how many of the first blocks stay as they are")


def trains_updates(settings: RunSettings) -> bool:
    """Whether low-rank updates of the encoder learn, and not the encoder itself."""
    return bool(get_values(settings).get("model.low_rank"))


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


def list_overrides(before: RunSettings, after: RunSettings, given: Container[str]) -> dict[str, Any]:
    """Settings as they were brought, those of a run, names of what was set -> dotted name -> value of what was set and
    differs."""
    return {name: value for name, value in find_differences(before, after).items() if name in given}


def name_teachers(settings: RunSettings) -> RunSettings:
    """Settings -> the same, which name the content of the models that the run learns from. Errors: one that is not
    there, or is no trained model."""
    teachers = settings.distil.teachers if hasattr(settings, "distil") else ()
    return replace_field(settings, "distil.digest", digest_teachers(teachers)) if teachers else settings


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
