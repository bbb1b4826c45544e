"""Turn probabilities and true classes into the prediction table and the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rales.errors import UsageError
from rales.evaluation import bootstrap
from rales.evaluation.calibration import VALIDATION, calibrated_metrics, cool_probabilities
from rales.evaluation.challenge_scores import KEY, score_challenge
from rales.evaluation.conformal import SetRule, describe_sets, find_confidence, find_possible, name_sets
from rales.evaluation.metrics import (
    compute_metrics,
    normal_threshold,
    predict_at_class_thresholds,
    predict_at_threshold,
    safe_ratio,
    scores_at_threshold,
)
from rales.evaluation.own_metrics import own_metrics_with_intervals
from rales.evaluation.recordings import group_rows
from rales.labels import ICBHI, LabelSet
from rales.typing import Columns, IntArray, Probabilities

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

NOTICE = "Research tool, not a diagnosis."
SETS_COLUMN = "prediction_set"
FIGURES = ("specificity", "sensitivity", "score")


def pool_cycle_logits(
    rows: pd.DataFrame, logits: NDArray[np.float32], label_set: LabelSet = ICBHI
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Rows, several of which may be pieces of one cycle, and their (n, classes) logits -> one row and logits a cycle.

    The pieces vote, and the cycle's probabilities are the mean over those that voted with the majority (of equally
    frequent classes the lowest), so its most probable class is the majority's. Of independent classes it is the mean
    over all pieces. Where every cycle is one row, nothing changes.
    """
    import pandas as pd
    from scipy.special import expit, logit

    parent, _ = pd.factorize(rows["recording"].astype(str) + "/" + rows["cycle"].astype(str))
    first = np.unique(parent, return_index=True)[1]
    if len(first) == len(rows):
        return rows, logits
    if label_set.independent:
        means = np.zeros((len(first), logits.shape[1]))
        np.add.at(means, parent, expit(logits) / np.bincount(parent)[parent, None])
        return rows.iloc[first], logit(means.clip(1e-7, 1 - 1e-7)).astype(np.float32)
    votes = logits.argmax(axis=1)
    cast = np.zeros((len(first), logits.shape[1]))
    np.add.at(cast, (parent, votes), 1)
    agreeing = votes == cast.argmax(axis=1)[parent]
    sums = np.zeros_like(cast)
    np.add.at(sums, parent[agreeing], np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[agreeing])
    means = sums / sums.sum(axis=1, keepdims=True)
    return rows.iloc[first], np.log(np.maximum(means, np.finfo(np.float32).tiny)).astype(np.float32)


def pool_cycle_probabilities(
    rows: pd.DataFrame, probabilities: Probabilities, label_set: LabelSet = ICBHI
) -> tuple[pd.DataFrame, Probabilities]:
    """Rows, which may be pieces of one cycle, and their probabilities -> one row and its probabilities a cycle."""
    from scipy.special import expit, logit

    if label_set.independent:
        cycles, logits = pool_cycle_logits(rows, logit(probabilities.clip(1e-7, 1 - 1e-7)), label_set)
        return cycles, probabilities if len(cycles) == len(rows) else expit(logits.astype(np.float64))
    cycles, logits = pool_cycle_logits(rows, np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
    return cycles, probabilities if len(cycles) == len(rows) else np.exp(logits.astype(np.float64))


def check_numbers(rows: pd.DataFrame, answers: NDArray[np.floating[Any]]) -> None:
    """Rows with `recording` and `cycle`, and a model's (n, classes) answers to them: ValueError that names the first
    cycle whose answer is not a finite number, since the largest of such numbers would be a label nevertheless."""
    wrong = np.flatnonzero(~np.isfinite(answers).all(axis=1))
    if len(wrong):
        recording, cycle = rows[["recording", "cycle"]].iloc[wrong[0]]
        raise ValueError(
            f"{recording}, cycle {cycle}: the model's answer is not a number, one of {len(wrong)} such; its "
            "weights are damaged, or its training diverged and needs a lower train.lr"
        )


@dataclass(frozen=True)
class Decision:
    """How probabilities become labels: temperature and threshold come from validation patients, or are None."""

    temperature: float | None = None
    threshold: float | None = None
    """p_normal (the first class) from which a cycle is normal, below it the most probable other class; None: the most
    probable class. Of independent classes the probability above which each is named; None: 0.5."""
    thresholds: Mapping[str, float] | None = None
    """Instead: finding -> the probability from which on it is named (`metrics.predict_at_class_thresholds`)."""
    sets: SetRule | None = None
    """How a cycle's set of labels is made; None: there is none."""
    origin: str = VALIDATION
    """Who taught temperature, thresholds and sets."""
    min_confidence: float = 0.0
    """A cycle whose label is less probable is marked `uncertain`: the model abstains."""
    caution: str = ""
    """What else must be known of this model's answers."""
    label_set: LabelSet = ICBHI
    """The classes of the model."""

    def __post_init__(self) -> None:
        for name, value in (("--min-confidence", self.min_confidence), ("--threshold", self.threshold)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} {value}: expected a probability, 0 to 1")

    @property
    def notice(self) -> str:
        """What must stand beside these labels and probabilities."""
        sentences = [NOTICE]
        if self.temperature is not None:
            sentences.append(f"Probabilities calibrated on {self.origin} (temperature {self.temperature:.3f}).")
        if self.threshold is not None:
            first = self.label_set.classes[0]
            sentences.append(
                f"Classes named above a probability of {self.threshold:.3f}."
                if self.label_set.independent
                else f"{first.capitalize()} from p_{first} {self.threshold:.3f} on."
            )
        if self.thresholds is not None:
            named = ", ".join(f"{name} from {limit:.3f} on" for name, limit in self.thresholds.items())
            sentences.append(f"Labels by a threshold for each finding: {named}.")
        if self.sets is not None:
            sentences.append(describe_sets(self.sets, self.origin))
        if self.caution:
            sentences.append(self.caution)
        return " ".join(sentences)

    def cool(self, probabilities: Probabilities) -> Probabilities:
        """(n, classes) probabilities of a network -> the same at the temperature, if there is one."""
        if self.temperature is None:
            return probabilities
        return cool_probabilities(probabilities, self.temperature, self.label_set)

    def choose(self, probabilities: Probabilities) -> IntArray:
        """(n, classes) probabilities at the temperature -> the label of each, as `LabelSet.make_targets` has it."""
        if self.thresholds is not None:
            return predict_at_class_thresholds(probabilities, self.thresholds, self.label_set)
        return predict_at_threshold(probabilities, self.threshold, self.label_set)


def label_columns(
    probabilities: Probabilities, decision: Decision, devices: Sequence[str] | None = None
) -> dict[str, Any]:
    """(n, classes) probabilities, and the devices of the rows ("" where unknown) -> the columns of the answers: label,
    p_…, the set of labels, `uncertain`.

    A row of NaN probabilities, whose sound could not be judged, has no label, and its set holds any.
    """
    label_set = decision.label_set
    is_judged = np.logical_not(np.isnan(probabilities).any(axis=1, keepdims=True))[:, 0]
    cooled = probabilities.copy()
    cooled[is_judged] = decision.cool(probabilities[is_judged])
    chosen = decision.choose(cooled)
    labels = np.array(label_set.name_targets(chosen), dtype=object)
    labels[~is_judged] = None

    columns: dict[str, Any] = {"label": labels, **dict(zip(label_set.columns, cooled.T, strict=True))}
    if decision.sets is not None:
        least = decision.sets.find_least(devices or [""] * len(probabilities))
        columns[SETS_COLUMN] = name_sets(find_possible(probabilities, least, label_set), label_set)
    if decision.min_confidence:
        columns["uncertain"] = find_confidence(cooled, chosen, label_set) < decision.min_confidence
    return columns


def predictions_table(
    rows: pd.DataFrame, probabilities: Probabilities, decision: Decision | None = None
) -> pd.DataFrame:
    """Rows of the cycles table and their (n, classes) probabilities -> the prediction columns of every output, as
    `label_columns` has them; the classes are those of the decision."""
    decision = decision or Decision()
    devices = list(rows["device"]) if "device" in rows else None
    table = rows[["recording", "cycle", "start_s", "end_s"]].reset_index(drop=True)
    answers = label_columns(probabilities, decision, devices)
    last = {name: answers.pop(name) for name in ("uncertain",) if name in answers}
    known = (("label", "true_label"), ("patient",) * 2, ("device",) * 2, ("location",) * 2)
    told = {ours: rows[theirs].to_numpy() for theirs, ours in known if theirs in rows}
    return table.assign(**answers, **told, **last)


def unjudged_sentences(status: Columns) -> list[str]:
    """Status of recordings (see predictor.make_status) -> a sentence for each that has cycles without a label."""
    columns = (status[name] for name in ("path", "cycles", "not_judged", "quality_reason"))
    return [
        f"{path}: " + ("" if not_judged == cycles else f"{not_judged} of {cycles} cycles ") + f"not judged: {reason}"
        for path, cycles, not_judged, reason in zip(*columns, strict=True)
        if not_judged > 0
    ]


def summarise_recordings(table: pd.DataFrame, label_set: LabelSet = ICBHI) -> pd.DataFrame:
    """Prediction table of whole recordings -> `count_answers` of it as a table, with its notice."""
    import pandas as pd

    counts = pd.DataFrame(count_answers(table, label_set))
    counts.attrs.update(table.attrs)
    return counts


def count_answers(table: Columns, label_set: LabelSet = ICBHI) -> dict[str, Any]:
    """Prediction columns of whole recordings -> a row each: recording, path, cycles, not_judged, uncertain, a count per
    class, abnormal (of the cycles that are judged and certain), their share with its 95 % Wilson interval. Of
    independent classes a cycle may count for several, and for `normal` without any.

    The interval speaks of how few cycles there are; it takes them for independent and the labels for right.
    """
    groups, names = group_rows(table["path"]), list(table["recording"])
    labels = [label if isinstance(label, str) else None for label in table["label"]]
    unsure = np.asarray(table["uncertain"] if "uncertain" in table else np.zeros(len(labels)), dtype=np.bool_)

    def count(marks: Any) -> IntArray:
        return np.array([np.count_nonzero(np.asarray(marks)[rows]) for rows in groups.values()], dtype=np.int64)

    answers = [label_set.count_labels([] if label is None else [label]) for label in labels]
    of_class = {
        name: np.array([answer[name] for answer in answers], dtype=np.bool_) & ~unsure
        for name in label_set.count_labels([])
    }
    counts = {"cycles": count(np.ones(len(labels))), "not_judged": count([label is None for label in labels])}
    counts |= {"uncertain": count(unsure), **{name: count(marks) for name, marks in of_class.items()}}
    abnormal = count(np.any([of_class[name] for name in label_set.abnormal], axis=0))

    decided = counts["cycles"] - counts["not_judged"] - counts["uncertain"]
    ends = [bootstrap.wilson_interval(int(k), int(n)) for k, n in zip(abnormal, decided, strict=True)]
    return {
        "recording": [names[rows[0]] for rows in groups.values()],
        "path": list(groups),
        **counts,
        "abnormal": abnormal,
        "abnormal_share": safe_ratio(abnormal, decided),
        "low": np.array([low for low, _ in ends], dtype=np.float64),
        "high": np.array([high for _, high in ends], dtype=np.float64),
    }


def evaluation_metrics(
    rows: pd.DataFrame,
    probabilities: Probabilities,
    *,
    selected_epoch: int,
    record: dict[str, Any],
    whole_database: bool,
    metrics: Sequence[str] = (),
    called: IntArray | None = None,
) -> dict[str, Any]:
    """Test rows, probabilities, names of own metrics, and what was predicted if not the most probable class -> every
    figure of an evaluation, with the protocol it was made under."""
    config, label_set, patients = record["config"], LabelSet.from_record(record), rows["patient"].to_numpy()
    targets = label_set.make_targets(rows["label"].tolist())
    called = predict_at_threshold(probabilities, None, label_set) if called is None else called
    true = label_set.encode_rows(targets)

    figures = compute_metrics(targets, probabilities, label_set, called)
    interval = bootstrap.bootstrap_intervals(true, label_set.encode_rows(called), patients)
    own = own_metrics_with_intervals(metrics, targets, probabilities, patients)
    challenge = score_challenge(rows, targets, called, label_set)

    # The figure that chose the epoch; on the test set it is the Score alone
    select = config["train"]["select"]
    select_by = {"validation": config["train"].get("select_by", "score"), "test_best": "score"}.get(select)
    return {
        **figures,
        "ci95": {name: list(interval[name]) for name in FIGURES},
        **({"own": own} if own else {}),
        **({KEY: challenge} if challenge else {}),
        "warnings": constant_warnings(figures["constant_prediction"], true, selected_epoch),
        "protocol": {
            "split": config["split"]["name"],
            "recipe": record.get("recipe", ""),
            "provenance": record.get("provenance", "ours"),
            "select": select,
            "select_by": select_by,
            "selected_epoch": selected_epoch,
            "epochs": config["train"]["epochs"],
            "seed": config["seed"],
            "cycles": len(rows),
            "patients": int(rows["patient"].nunique()),
            "whole_database": whole_database,
            "interval": "95 %, patients resampled",
        },
    }


def constant_warnings(called: str | None, true: NDArray[Any], epoch: int) -> list[str]:
    """The class that all test cycles are called, if it is one, and their true ones -> what must be said of the weights;
    nothing where all cycles are of one class."""
    if called is None or len(np.unique(true)) == 1:
        return []
    return [
        f"the kept weights (epoch {epoch}) call each of the {len(true)} test cycles {called}: these figures are those "
        "of a constant answer, not of a model that hears a difference"
    ]


def is_whole_database(table: pd.DataFrame) -> bool:
    """Cycles table -> whether it holds all of ICBHI 2017, so that its scores can stand beside published ones."""
    return bool(table["recording"].nunique() == 920 and len(table) == 6898)


def metrics_from_validation(
    true: dict[str, IntArray], scored: dict[str, Probabilities], label_set: LabelSet = ICBHI
) -> dict[str, Any]:
    """Classes and probabilities of validation and test cycles -> the figures of the validation cycles, and what may be
    tuned on them without looking at the test set: the threshold for "normal", the temperature of the probabilities."""
    figures = compute_metrics(true["validation"], scored["validation"], label_set)
    of_classes = ("crackle_present", "wheeze_present") if label_set.is_icbhi else ("by_class",)
    confusion = "confusion_per_class" if label_set.independent else "confusion"
    reported = (*FIGURES, "auroc", *of_classes, confusion, "constant_prediction")
    return {
        "validation": {"cycles": len(true["validation"]), **{name: figures[name] for name in reported}},
        "validation_threshold": thresholded_metrics(true, scored, label_set),
        "validation_temperature": calibrated_metrics(true, scored, label_set),
    }


def thresholded_metrics(
    true: dict[str, IntArray], scored: dict[str, Probabilities], label_set: LabelSet = ICBHI
) -> dict[str, Any]:
    """Classes and probabilities of validation and test cycles -> test figures at the threshold for "normal" that suits
    the validation patients best."""
    try:
        threshold = normal_threshold(true["validation"], scored["validation"], label_set)
    except ValueError as error:  # validation patients without normal or without abnormal cycles
        return {"threshold": None, "reason": str(error)}
    return {"threshold": threshold, **scores_at_threshold(true["test"], scored["test"], threshold, label_set)}


def layer_weights(layers: list[int], weight: Tensor) -> dict[str, Any]:
    """Fused layers and their weights -> raw numbers, and the same normalised to sum 1 (paper Fig. 3)."""
    raw = weight.detach().cpu().double()
    return {"layers": layers, "raw": raw.tolist(), "normalised": (raw / raw.sum()).tolist()}
