"""Pool the runs of a cross-validation: every cycle is tested once, by the run that did not train on its patient."""

import hashlib
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd

from rales.report.load_runs import WATCHED, Run, system_identity


def pool_complete_folds(runs: list[Run]) -> list[Run]:
    """Runs -> the same, with the runs of all folds of one system and seed put together; incomplete sets stay as they
    are, since the cycles of some folds only are another test set."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[f"{system_identity(without_fold(run))} seed {run.seed}"].append(run)
    pooled = []
    for group in groups.values():
        numbers = sorted(int(run.config.get("split.fold", 0)) for run in group)
        complete = group[0].split.get("name") == "folds" and numbers == list(range(group[0].config["split.folds"]))
        predicted = all(run.predictions is not None for run in group)
        pooled += [merge_folds(group)] if complete and predicted else group
    return pooled


def without_fold(run: Run) -> Run:
    """Run -> the same without what differs between the folds of one cross-validation."""
    if run.split.get("name") != "folds":
        return run
    config = {name: value for name, value in run.config.items() if name != "split.fold"}
    return replace(run, config=config, split={**run.split, "digest": run.split.get("data_digest", "")})


def merge_folds(group: list[Run]) -> Run:
    """Runs of all folds -> one run that tests every cycle. The curves are means over folds; test scores of single
    epochs are left out, since a mean of folds is not the score of the pooled cycles."""
    group = sorted(group, key=lambda run: run.config["split.fold"])
    first = group[0]
    lines = pd.concat([run.epochs for run in group])
    curves = lines.groupby(["epoch", "split"], as_index=False, sort=False)[["loss", *WATCHED]].mean()
    curves.loc[curves["split"] == "test", WATCHED] = float("nan")
    digests = "".join(str(run.split.get("digest")) for run in group)
    tests = [run.split["test"] for run in group]
    counted = {name: sum(test.get(name, 0) for test in tests) for name in ("recordings", "patients", "cycles")}
    classes = pd.DataFrame([test.get("classes", {}) for test in tests]).sum().astype(int).to_dict()
    split = {
        "name": f"folds, {len(group)} pooled",
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
        "whole_database": first.split.get("whole_database"),
        "left_out": first.split.get("left_out"),
        "train": {},
        "test": {**counted, "classes": classes},
    }
    common = [name for name in first.validation if all(name in run.validation for run in group)]
    weights = [run.layer_weights for run in group if run.layer_weights is not None]
    return replace(
        without_fold(first),
        folder=first.folder.parent,
        split=split,
        epochs=curves,
        scores={part: {} for part in first.scores},
        predictions=pd.concat([run.predictions for run in group], ignore_index=True),
        layer_weights=pd.concat(weights, axis=1).mean(axis=1) if weights else None,
        evaluation={},
        validation={name: float(np.mean([run.validation[name] for run in group])) for name in common},
        labels={
            protocol: np.concatenate([run.labels[protocol] for run in group], axis=1)
            for protocol in first.labels
            if all(protocol in run.labels for run in group)
        },
        trajectory=None,
    )
