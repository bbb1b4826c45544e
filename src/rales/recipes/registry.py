"""The systems by name: the command word leads to the file that holds everything of that system."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rales.config import Config, Recipe, check_fit, differences, field_types, nearest_field, override
from rales.errors import UsageError
from rales.models.hub import sha256_of
from rales.recipes import arscnet, ast, lungattn, lungrn_nl, m2d_fusion, moummad, nguyen, respirenet, wang_splice
from rales.training.run_records import WRONG, check_record

RECIPES: dict[str, Callable[..., Recipe]] = {
    "m2d_fusion": m2d_fusion.recipe,
    "lungrn_nl": lungrn_nl.recipe,
    "lungattn": lungattn.recipe,
    "wang_splice": wang_splice.recipe,
    "respirenet": respirenet.recipe,
    "arscnet": arscnet.recipe,
    "nguyen_cotuning": nguyen.cotuning,
    "nguyen_stochnorm": nguyen.stochnorm,
    "moummad_scl": moummad.scl,
    "moummad_mscl": moummad.mscl,
    "moummad_hybrid": moummad.hybrid,
    "moummad_ce": moummad.ce,
    "ast_ft": ast.fine_tuned,
    "ast_patchmix_cl": ast.patch_mix,
}


def make_recipe(name: str, assignments: Sequence[str] = (), **options: str | None) -> Recipe:
    """Recipe name, options (None: the recipe's default) and `name=value` words -> Recipe.

    A word without a dot that names an option of the recipe (`variant=pair_5_11`) sets that option, any other word a
    field of the config (`train.lr=0.001`).
    """
    builder = find_builder(name)
    own = inspect.signature(builder).parameters
    chosen = {key: value for key, value in options.items() if value is not None}
    fields = []
    for word in assignments:
        key, equals, value = word.partition("=")
        if equals and key in own:
            chosen[key] = value
        elif equals and "." not in key and key not in field_types(Config):
            close = nearest_field(key, [*own, *field_types(Config)])
            raise UsageError(f"--set {key}: no such field, and no such option of {name}; the nearest is {close}")
        else:
            fields.append(word)
    unknown = [key for key in chosen if key not in own]
    if unknown:
        raise UsageError(f"recipe {name} has no option {unknown[0]!r}; it has {', '.join(own)}")
    recipe = named_by_digest(builder(**chosen))
    config = override(recipe.config, fields)
    if config.audio.frontend != recipe.config.audio.frontend:  # its constants come with it
        raise UsageError(f"--set audio.frontend={config.audio.frontend}: use --set frontend={config.audio.frontend}")
    if config.audio.scope == "batch" and config.audio.frontend != "icbhi":
        theirs = "own picture" if config.audio.frontend == "own" else f"front-end {config.audio.frontend}"
        raise UsageError(
            f"audio.scope=batch: only the icbhi log-mel has a minimum and maximum of the batch, and {name} has its "
            f"{theirs} here; leave it out" + (", or use --set frontend=icbhi" if "frontend" in own else "")
        )
    check_fit(config)
    overrides = differences(recipe.config, config)
    return replace(recipe, config=config, overrides=overrides, notes=notes_of(recipe, overrides))


def named_by_digest(recipe: Recipe) -> Recipe:
    """Recipe -> the same, whose settings name the content of the file it starts from, not its path alone."""
    model = recipe.config.model
    if model.weights_digest or not Path(model.weights).is_file():  # a missing file is named where it is read
        return recipe
    model = replace(model, weights_digest=sha256_of(Path(model.weights)))
    return replace(recipe, config=replace(recipe.config, model=model))


def notes_of(recipe: Recipe, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Recipe and what --set changed -> the sentences about its checkpoint, if it starts from one."""
    if not recipe.config.model.weights:
        return recipe.notes
    notes = recipe.notes or (f"{recipe.config.model.weights}: the backbone is taken; the head for our classes is new",)
    changed = [f"{name} {value}" for name, value in overrides.items() if name.startswith(("audio.", "model."))]
    return (*notes, f"--set changes {', '.join(changed)}") if changed else notes


def rebuild_recipe(record: dict[str, Any], origin: str) -> Recipe:
    """Record of a checkpoint -> its recipe, without the pre-trained file that it once started from."""
    name = record.get("recipe")
    if isinstance(name, str) and name not in RECIPES:  # its settings may be unknown too
        raise ValueError(f"{origin}: made by recipe {name!r}, which this version does not have")
    config = check_record(record, origin)
    unknown = record["options"].keys() - inspect.signature(RECIPES[record["recipe"]]).parameters.keys()
    if unknown:
        raise ValueError(f"{origin}: unknown options {', '.join(sorted(unknown))}; another version of Rales wrote it")
    try:
        recipe = RECIPES[record["recipe"]](**{**record["options"], "weights": ""})
    except UsageError as error:
        raise ValueError(f"{origin}: {error}; {WRONG}") from error
    return replace(recipe, config=replace(config, model=replace(config.model, weights="")))


def find_builder(name: str) -> Callable[..., Recipe]:
    """Command word -> the function that makes the recipe; an unknown word names the nearest."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise UsageError(f"no recipe {name!r}; the nearest is {close!r} (known: {', '.join(RECIPES)})")
    return RECIPES[name]
