"""What a supervised run was asked for, on which data, and whose recordings it or the models before it have heard."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pandas as pd

from rales.data import splits
from rales.data.splits import digest_cycles
from rales.environment import describe_environment
from rales.evaluation import predictions
from rales.models.hub import find_checkpoint
from rales.settings import RunSettings, to_dict
from rales.training import run_folder
from rales.training.recipe import Recipe
from rales.training.trained_model import find_trained_model, read_trained_model


def run_record(recipe: Recipe, table: pd.DataFrame, command: str) -> dict[str, Any]:
    """-> config.json: what was asked, on which data, with which software."""
    used, label_set = table[table["split"] != ""], recipe.settings.label_set
    parts = {
        part: {
            "recordings": int(rows["recording"].nunique()),
            "patients": int(rows["patient"].nunique()),
            "cycles": len(rows),
            "classes": label_set.count_labels(rows["label"]),
        }
        for part, rows in used.groupby("split")
    }

    return {
        "recipe": recipe.name,
        "provenance": recipe.provenance,
        **({"recipe_source": dict(recipe.source)} if recipe.source else {}),
        "config": to_dict(recipe.settings),
        "overrides": dict(recipe.overrides),
        "seed": recipe.settings.seed,
        **({"asked": {"config": to_dict(recipe.asked.settings)}} if recipe.asked else {}),
        **label_set.to_record(),
        "split": {
            "name": recipe.settings.split.name,
            "digest": digest_cycles(used),
            "data_digest": digest_cycles(table.assign(split="")),
            "whole_database": predictions.is_whole_database(table),
            "overlap_patients": splits.overlap_patients(table),
            **find_heard(recipe.settings, used),
            **{str(part): facts for part, facts in parts.items()},
            "left_out": table.attrs.get("left_out", []),
        },
        "command": command,
        **describe_environment(),
    }


def find_heard(settings: RunSettings, used: pd.DataFrame) -> dict[str, Any]:
    """Settings, rows of the run -> `trained_recordings`, digests of the names of those that this run or the models it
    goes on from were trained on or chose their epoch by; with such a model also `test_recordings_heard`, how many of
    the test side are among its own. Neither where a model's record does not tell."""
    own = set(map(splits.digest_name, set(used.loc[used["split"] != "test", "recording"])))
    for teacher in settings.distil.teachers if hasattr(settings, "distil") else ():  # none has heard a test patient
        own |= set(read_trained_model(find_trained_model(teacher)).record["split"].get("trained_recordings", ()))
    if settings.from_model:
        start = read_trained_model(find_trained_model(settings.from_model)).record
        before = start.get("split", {}).get("trained_recordings")
        if before is None:
            return {}
    elif not (before := find_heard_by_encoder(getattr(settings, "weights", ""))):
        return {"trained_recordings": sorted(own)}
    tested = set(map(splits.digest_name, set(used.loc[used["split"] == "test", "recording"])))
    return {"trained_recordings": sorted(own | set(before)), "test_recordings_heard": len(tested & set(before))}


def find_heard_by_encoder(weights: str) -> list[str]:
    """Name or file of weights -> digests of the recordings whose labels trained them, where they are of a trained model
    of ours."""
    if not weights:
        return []
    with suppress(OSError, ValueError):  # a public checkpoint, whatever it is
        return list(
            run_folder.read_checkpoint(find_checkpoint(weights))[1].get("split", {}).get("trained_recordings", [])
        )
    return []


def leak_warning(record: Mapping[str, Any]) -> str:
    """Record of a run -> what is to be said of test recordings that the model it goes on from knows; "" if none is."""
    if not record["config"].get("from_model") and "test_recordings_heard" not in record["split"]:
        return ""
    heard = record["split"].get("test_recordings_heard")
    if heard is None:
        return "the model that this run goes on from does not tell what it was trained on; maybe test recordings, too"
    return f"the model that this run goes on from was trained on {heard} of the test recordings" if heard else ""
