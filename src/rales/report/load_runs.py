"""Load and check run folders; each one that cannot be used is listed with the reason."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from rales.errors import FileProblem
from rales.evaluation import metrics
from rales.files.csv_cells import restore_table
from rales.files.json_files import flatten_json
from rales.labels import LabelSet
from rales.training import epoch_logits, run_folder
from rales.training.run_records import OwnFigure, check_evaluation, check_record, check_value

RUN_FILES = ("config.json", "metrics.jsonl", "predictions.csv")
SCORES = ["specificity", "sensitivity", "score"]
WATCHED = [*SCORES, "auroc"]
CANNOT_CHANGE_A_SYSTEM = ("seed", "train.device", "train.micro_batch", "model.recompute")
SAME = 0.001  # a tenth of a point: what two computations of one score may differ by
LATE_EPOCHS = 10  # at most so many at the end, and a quarter of all, are averaged
NEAR = 0.01  # a point: earlier versions scored epochs in the training's precision, predictions.csv in float32


class UnusedFolder(NamedTuple):
    """A folder that does not count, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Run:
    """One finished run, as its folder tells it."""

    folder: Path
    recipe: str
    overrides: dict[str, Any]
    """Settings that are not those that size, checkpoint and the like bring."""
    seed: int
    config: dict[str, Any]
    """Dotted name -> value."""
    split: dict[str, Any]
    record: dict[str, Any]
    """The whole config.json, for versions, commit and command."""
    epochs: pd.DataFrame
    """epoch, split, loss, specificity, sensitivity, score, auroc (fractions); one row per epoch and split."""
    scores: dict[str, dict[int, dict[str, float]]]
    """Split -> epoch -> specificity, sensitivity, score, auroc; epochs ascending, those without a score left out."""
    predictions: pd.DataFrame | None
    """Test cycles; true and predicted numbers of `LabelSet.encode_rows` in `true` and `predicted`. None if there is no
    predictions.csv."""
    layer_weights: pd.Series | None
    """Layer number -> weight, sum 1; only where the weights were learned."""
    evaluation: dict[str, Any]
    """evaluation.json, empty if there is no readable one."""
    validation: dict[str, float]
    """specificity, sensitivity, score, auroc of the validation cycles at the epoch used; empty if there are none."""
    labels: dict[str, NDArray[np.int64]]
    """Protocol (a key of protocols.PROTOCOLS) -> (k, n) numbers of `LabelSet.encode_rows` that it gives the rows of
    `predictions`."""
    trajectory: pd.DataFrame | None
    """A row per scored epoch, a column per fused layer: weights, sum 1; only where the weights were learned."""

    @property
    def label_set(self) -> LabelSet:
        return LabelSet.from_record(self.record)

    @property
    def select(self) -> str:
        return str(self.config.get("train.select", "last"))

    @property
    def select_by(self) -> str:
        """Which validation figure chooses the epoch; runs of before there was a choice went by the Score."""
        return str(self.config.get("train.select_by", "score"))

    @property
    def whole_database(self) -> bool:
        return self.split.get("whole_database") is True


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], list[UnusedFolder]]:
    """Run folders, or folders that hold some at any depth -> finished runs, and what was left out.

    ValueError if there is no usable run at all. The same system and seed count once.
    """
    found: list[Run] = []
    left_out: list[UnusedFolder] = []
    for folder in run_folders(paths):
        try:
            found.append(read_run(folder))
        except (OSError, ValueError) as error:
            left_out.append(UnusedFolder(folder, sentence_inside(error, folder)))
    empty = [path for path in paths if not run_folders([path])]
    left_out += [UnusedFolder(path, "no run folder in it" if path.exists() else "no such folder") for path in empty]
    first: dict[str, Run] = {}
    for run in found:
        twin = first.setdefault(f"{system_identity(run)} seed {run.seed}", run)
        if twin is not run:
            left_out.append(UnusedFolder(run.folder, f"the same system and seed as {twin.folder}, which is counted"))
    if not first:
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in left_out[:3])
        raise ValueError(f"no finished run to report on ({reasons}); give run folders that `rales train` wrote")
    return list(first.values()), left_out


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """Folders at any depth that hold a file of a run, each once, in order; but no stage inside another run."""
    folders = {file.parent.resolve(): file.parent for path in paths for name in RUN_FILES for file in path.rglob(name)}
    return sorted(folders[folder] for folder in folders if not set(folder.parents) & folders.keys())


def system_identity(run: Run) -> str:
    """What makes two runs seeds of one system: everything but the seed, where the file of an own recipe lies, and
    what cannot change a result."""
    config = {k: v for k, v in run.config.items() if k not in CANNOT_CHANGE_A_SYSTEM}
    source = {key: value for key, value in (run.record.get("recipe_source") or {}).items() if key != "file"}
    return repr((run.recipe, sorted(source.items()), sorted(config.items()), run.split.get("digest"), run.label_set))


def read_run(folder: Path) -> Run:
    """Run folder -> run; ValueError or OSError with the reason why it cannot count."""
    record = run_folder.read_json(folder / "config.json")
    if record.get("recipe") == "pretrain":
        raise ValueError("a pre-training, which has no scores of its own")
    check_record(record, "config.json")
    for key in ("seed", "split"):  # by which runs are told apart
        if key not in record:
            raise ValueError(f"config.json has no usable `{key}`; it is not the record of a training run")
    if not (folder / "done").exists():
        raise ValueError("unfinished (no file `done`); run its command again to finish it")

    config = flatten_json(record["config"])
    parts = {part: record["split"].get(part) for part in ("train", "test")}
    split = {**record["split"], **{part: found if isinstance(found, dict) else {} for part, found in parts.items()}}
    lines = read_epochs(folder)
    learned = config.get("model.learned") is True
    run = Run(
        folder=folder,
        recipe=record["recipe"],
        overrides=record.get("overrides", {}),
        seed=record["seed"],
        config=config,
        split=split,
        record=record,
        epochs=lines,
        scores={part: scores_by_epoch(lines, part) for part in ("train", "validation", "test")},
        predictions=read_predictions(
            folder / "predictions.csv", split["test"].get("cycles"), LabelSet.from_record(record)
        ),
        layer_weights=read_layer_weights(folder) if learned else None,
        evaluation=read_evaluation(folder / "evaluation.json"),
        validation={},
        labels={},
        trajectory=None,
    )

    if run.select not in ("last", "validation", "test_best"):
        raise ValueError(f"train.select is {run.select!r}, expected last, validation or test_best")
    if run.predictions is None and selected_epoch(run, run.select) is None:
        raise ValueError(f"no predictions.csv, and metrics.jsonl has no test score of the `{run.select}` epoch")
    stored = epoch_logits.read_epochs(folder)
    return replace(
        run,
        validation=validation_metrics(run),
        labels=labels_by_protocol(run, stored),
        trajectory=weight_trajectory(stored) if learned else None,
    )


def read_epochs(folder: Path) -> pd.DataFrame:
    """metrics.jsonl -> one row per epoch and split; a repeated epoch counts as it was last written."""
    lines = run_folder.read_metrics(folder)
    table = pd.DataFrame(lines)
    if not {"epoch", "split"} <= set(table.columns):
        raise ValueError("metrics.jsonl is missing, empty or damaged: no line with `epoch` and `split`")
    if len(table) < len((folder / "metrics.jsonl").read_bytes().splitlines()):
        raise ValueError(f"metrics.jsonl is damaged after {len(table)} lines, though the run is marked as done")
    for number, line in enumerate(lines, start=1):
        wrong = [name for name in ("loss", *WATCHED) if type(line.get(name, 0.0)) not in (int, float, type(None))]
        wrong += [] if isinstance(line.get("split"), str) else ["split"]
        wrong += [name for name in WATCHED if name not in wrong and not 0 <= (line.get(name) or 0) <= 1]
        if wrong:
            raise ValueError(
                f"metrics.jsonl, line {number}: {wrong[0]} is {line.get(wrong[0])!r}, expected another kind of value"
            )
    table = table.reindex(columns=["epoch", "split", "loss", *WATCHED])
    table = table.astype(dict.fromkeys(("epoch", "loss", *WATCHED), np.float64))
    return table.drop_duplicates(["epoch", "split"], keep="last").reset_index(drop=True)


def read_predictions(path: Path, cycles: int | None, label_set: LabelSet) -> pd.DataFrame | None:
    """predictions.csv -> its rows with numbers of their labels, `true` and `predicted` (`LabelSet.encode_rows`), or
    None if there is no such file."""
    if not path.exists():
        return None
    if not path.is_file():
        raise ValueError("predictions.csv is no file")
    words = dict.fromkeys(("recording", "patient", "device", "location", "label", "true_label"), str)
    try:
        table = restore_table(pd.read_csv(path, dtype=words))
    except ValueError as error:  # of the reader, which does not say of which file
        raise ValueError(f"predictions.csv: {str(error).strip()}") from error
    expected = ["recording", "cycle", "start_s", "end_s", "label", *label_set.columns, "true_label", "patient"]
    missing = [name for name in expected if name not in table.columns]
    if missing:
        raise ValueError(f"predictions.csv has no column {', '.join(missing)}")
    numbers = {name: number_labels(table[name], name, label_set) for name in ("true_label", "label")}
    if len(table) == 0 or (cycles is not None and len(table) != cycles):
        raise ValueError(f"predictions.csv holds {len(table)} cycles, config.json says {cycles}")
    for name in ("cycle", "start_s", "end_s"):
        if not pd.api.types.is_numeric_dtype(table[name]) or not np.isfinite(table[name]).all():
            raise ValueError(f"predictions.csv: {name} is not a number in every line")
    if len(twice := table.index[table[["recording", "cycle"]].duplicated() | table["recording"].isna()]):
        raise ValueError(f"predictions.csv, line {twice[0] + 2}: a cycle of no recording, or one that was there before")
    try:
        metrics.as_probabilities(table[list(label_set.columns)].to_numpy(np.float64), label_set)
    except ValueError as error:
        raise ValueError(f"predictions.csv: {error}") from error
    # A recording without a known patient is its own patient.
    return table.assign(
        patient=table["patient"].fillna(table["recording"]), true=numbers["true_label"], predicted=numbers["label"]
    )


def number_labels(labels: pd.Series, name: str, label_set: LabelSet) -> NDArray[np.int64]:
    """Column of labels and its name -> their numbers (`LabelSet.encode_rows`). ValueError for one that is none."""
    number_of: dict[Any, int] = {}
    for label in labels.unique():
        try:
            number_of[label] = int(label_set.encode_rows(label_set.make_targets([str(label)]))[0])
        except ValueError:
            line = labels.index[labels.isna() if pd.isna(label) else labels == label][0] + 2
            raise ValueError(f"predictions.csv, line {line}: {name} is {label!r}, not a class") from None
    return labels.map(number_of).to_numpy(np.int64)


def number_logits(logits: NDArray[Any], label_set: LabelSet) -> NDArray[np.int64]:
    """(..., classes) logits -> (...) numbers of the labels they give (`LabelSet.encode_rows`)."""
    if label_set.independent:
        return label_set.encode_rows((logits > 0).astype(np.int64))
    return np.asarray(logits.argmax(axis=-1), np.int64)


def read_layer_weights(folder: Path) -> pd.Series | None:
    """layer_weights.json -> layer number -> normalised weight; None if they were not recorded."""
    if not (folder / "layer_weights.json").exists():
        return None
    record = run_folder.read_json(folder / "layer_weights.json")
    layers, weights = record.get("layers"), record.get("normalised")
    if not isinstance(layers, list) or not isinstance(weights, list) or not len(layers) == len(weights) > 0:
        raise ValueError("layer_weights.json does not hold one normalised weight for each of its layers")
    if not all(type(layer) is int for layer in layers):
        raise ValueError("layer_weights.json: its layers are not whole numbers")
    series = pd.to_numeric(pd.Series(weights, index=layers), errors="coerce")
    if not abs(series.sum(skipna=False) - 1) < 0.01:
        raise ValueError(f"layer_weights.json: the normalised weights sum to {series.sum():.3f}, expected 1")
    return series


def sentence_inside(error: Exception, folder: Path) -> str:
    """Error about a file of a folder -> its sentence, with the file's path from there on."""
    if isinstance(error, FileProblem) and folder in Path(error.path).parents:
        return error.sentence(str(Path(error.path).relative_to(folder)))
    return str(error)


def read_evaluation(path: Path) -> dict[str, Any]:
    """evaluation.json -> its object, empty if there is no readable one: predictions.csv is what counts."""
    try:
        return run_folder.read_json(path)
    except (OSError, ValueError):
        return {}


def evaluation_problems(path: Path) -> list[str]:
    """evaluation.json -> a sentence if it is not what an evaluation leaves, since figures of it may be missing."""
    try:
        check_evaluation(run_folder.read_json(path), path.name)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        return [sentence_inside(error, path.parent)]
    return []


def scores_by_epoch(epochs: pd.DataFrame, split: str) -> dict[int, dict[str, float]]:
    rows = epochs[epochs["split"] == split].dropna(subset="score").sort_values("epoch")
    return {int(row["epoch"]): {name: float(row[name]) for name in WATCHED} for row in rows.to_dict("records")}


def selected_epoch(run: Run, select: str) -> int | None:
    """The epoch that `last`, `validation` or `test_best` chooses, or None where its test score was not recorded."""
    test, validation, last = run.scores["test"], run.scores["validation"], int(run.epochs["epoch"].max())
    chosen = None
    if select == "last":
        chosen = last
    elif select == "test_best" and test and (len(test) > 1 or last == 1):  # one test score is no choice among many
        chosen = max(test, key=lambda epoch: test[epoch]["score"])
    elif select == "validation":
        by = {epoch: found[run.select_by] for epoch, found in validation.items() if found[run.select_by] > -1}
        keys: dict[int, tuple[float, ...]] = {epoch: (by[epoch],) for epoch in by}
        if run.select_by == "auroc":  # as finetune.is_best
            keys = {epoch: (by[epoch], max(validation[epoch]["score"], -1.0), epoch) for epoch in by}
        chosen = max(keys, key=lambda epoch: keys[epoch]) if keys else last if validation else None
    return chosen if chosen in test else None


def validation_metrics(run: Run) -> dict[str, float]:
    """-> figures of the validation cycles at the epoch used, as evaluation.json has them or else metrics.jsonl."""
    metrics = run.evaluation.get("validation")
    if not isinstance(metrics, dict):
        epoch = selected_epoch(run, run.select)
        metrics = run.scores["validation"].get(epoch, {}) if epoch is not None else {}
    return {name: float(metrics[name]) for name in WATCHED if isinstance(metrics.get(name), float)}


def own_figures(run: Run) -> dict[str, Any]:
    """-> figures of metrics from outside the package, as evaluation.json has them: name -> value, ci95."""
    own = run.evaluation.get("own")
    try:
        check_value(own, dict[str, OwnFigure], "own", "evaluation.json")
    except ValueError:  # damaged, which the notes on runs say
        return {}
    return own or {}


def labels_by_protocol(run: Run, stored: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """Run and its epochs.safetensors -> `Run.labels`. Without that file there are those of predictions.csv alone, which
    also speak for the run's own protocol otherwise: they are of float32, whatever the training computed in."""
    if run.predictions is None:
        return {}
    own = {run.select: run.predictions["predicted"].to_numpy(np.int64)[None]}
    if "test" not in stored:
        return own
    logits, numbers = stored["test"], stored["epoch"].tolist()
    if logits.shape[1] != len(run.predictions):
        raise ValueError(
            f"{epoch_logits.FILE} holds {logits.shape[1]} test cycles, predictions.csv {len(run.predictions)}"
        )
    predicted = number_logits(logits, run.label_set)
    chosen = {select: selected_epoch(run, select) for select in ("last", "validation", "test_best")}
    labels = {select: predicted[[numbers.index(epoch)]] for select, epoch in chosen.items() if epoch in numbers}
    late = min(LATE_EPOCHS, len(numbers) // 4)
    if late > 1:
        averaged = average_epochs(logits[-late:], run.label_set)
        labels |= {"late_mean": predicted[-late:], "late_average": number_logits(averaged, run.label_set)[None]}
    return labels | own


def average_epochs(logits: NDArray[Any], label_set: LabelSet) -> NDArray[np.float64]:
    """(epochs, n, classes) logits -> (n, classes) mean probabilities; of independent classes minus a half, so that they
    are named where that is positive."""
    if label_set.independent:
        return np.asarray(expit(logits.astype(np.float64)).mean(axis=0) - 0.5)
    powers = np.exp(logits.astype(np.float64))
    return np.asarray((powers / powers.sum(axis=2, keepdims=True)).mean(axis=0))


def weight_trajectory(stored: dict[str, NDArray[Any]]) -> pd.DataFrame | None:
    """epochs.safetensors -> `Run.trajectory`."""
    if "layer_weights" not in stored:
        return None
    table = pd.DataFrame(stored["layer_weights"], index=stored["epoch"], columns=stored["layers"], dtype=np.float64)
    return table.div(table.sum(axis=1), axis=0)


def epochs_unlike_lines(run: Run) -> list[int]:
    """-> epochs whose test figures, made from epochs.safetensors, are not those of metrics.jsonl."""
    found: list[int] = []
    if run.predictions is None:
        return found
    true, stored = run.predictions["true"], epoch_logits.read_epochs(run.folder)
    for epoch, logits in zip(stored.get("epoch", []), stored.get("test", []), strict=True):
        line = run.scores["test"].get(int(epoch))
        scores = strict_scores(true, number_logits(logits, run.label_set))
        if line is not None and any(abs(scores[name] - line[name]) > 1e-9 for name in SCORES):
            found.append(int(epoch))
    return found


def strict_scores(true: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """(N,) numbers of `LabelSet.encode_rows` -> specificity, sensitivity and score."""
    return metrics.outcome_scores(metrics.count_outcomes(true, predicted))


def run_notes(run: Run) -> list[str]:
    """What in the folder does not fit together or must be known of its figures, as sentences."""
    warnings = run.evaluation.get("warnings")
    sentences = [str(warning) for warning in warnings] if isinstance(warnings, list) else []
    sentences += evaluation_problems(run.folder / "evaluation.json")
    if run.predictions is None:
        return [*sentences, "no predictions.csv: its scores are those of metrics.jsonl, and there is no interval"]
    if unlike := epochs_unlike_lines(run):
        sentences.append(f"epochs.safetensors and metrics.jsonl differ in the test figures of epoch {unlike[0]}")
    score = strict_scores(run.predictions["true"], run.predictions["predicted"])["score"]
    epoch = selected_epoch(run, run.select)
    recorded = score if epoch is None else run.scores["test"][epoch]["score"]
    if abs(recorded - score) > NEAR:
        sentences.append(
            f"predictions.csv gives Score {100 * score:.2f}, metrics.jsonl {100 * recorded:.2f} (epoch {epoch})"
        )
    evaluated = run.evaluation.get("score")
    if isinstance(evaluated, float) and abs(evaluated - score) > SAME:
        sentences.append(f"predictions.csv gives Score {100 * score:.2f}, evaluation.json {100 * evaluated:.2f}")
    probabilities = run.predictions[list(run.label_set.columns)].to_numpy()
    most_probable = run.label_set.encode_rows(metrics.predict_at_threshold(probabilities, None, run.label_set))
    moved = int((most_probable != run.predictions["predicted"]).sum())
    if moved:
        sentences.append(f"{moved} labels are not the most probable class; Sp, Se and Score follow the labels")
    return sentences
