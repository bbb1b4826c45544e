"""Words that train one system, and score it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from rales.cli import result_lines
from rales.cli.console import print_message, print_messages_once, print_result
from rales.cli.options import (
    Classes,
    Config,
    Data,
    Databases,
    Device,
    Epochs,
    Freeze,
    From,
    Independent,
    JsonFlag,
    LocalPathOrNone,
    Log,
    Model,
    Out,
    Part,
    Select,
    SetWords,
    Size,
    SkipFlag,
    Weights,
    add_settings_file,
    command_line,
    read_local_path,
    read_model_word,
    words_of,
)
from rales.cli.settings_options import add_help, add_settings
from rales.errors import UsageError
from rales.registry import METRICS, RECIPES, split_file_word

FLAGS = ("--json", "--skip-damaged", "--independent", "--help", "-h")  # options without a value


def train(
    recipe: str | None = None,
    /,
    *,
    data: Data,
    out: Out,
    weights: Weights = None,
    from_: From = None,
    freeze: Freeze = None,
    seed: int | None = None,
    size: Size = None,
    variant: str | None = None,
    epochs: Epochs = None,
    select: Select = None,
    classes: Classes = None,
    independent: Independent = False,
    device: Device = None,
    config: Config = None,
    set_: SetWords = (),
    log: Log = (),
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Train a system and score it; goes on where it stopped if OUT holds an unfinished run of the same settings.

    Several GPUs: torchrun --nproc-per-node 4 -m rales train …

    Example: rales train m2d_fusion --data ICBHI_final_database --weights mr7 --out runs/m2d --seed 1

    Example: rales train --from runs/m2d --freeze 6 --data own.csv --out runs/own

    Parameters
    ----------
    recipe
        System to train, or FILE.py:NAME of an own one; with --from that of the model. `rales train RECIPE --help` lists
        its settings.
    out
        Run folder to write.
    seed
        Seed of the random start, the order of cycles and the augmentation; 0 if not given.
    variant
        Of m2d_fusion, its row of Table 2: vanilla, pair_5_12, pair_5_11, triple_4_7_10, all_fixed, all_learned.
    """
    from rales.data import read_cycles, splits
    from rales.recipes import registry
    from rales.training.callbacks import make_callbacks

    given: dict[str, object] = {"seed": seed, "train.epochs": epochs, "train.select": select, "train.device": device}
    given |= {"classes": classes, "independent": independent or None, "size": size, "variant": variant}
    given |= {"weights": weights, "from_model": from_, "freeze": freeze}
    with add_settings_file(config, [*words_of(given), *set_]) as words:
        chosen = registry.make_recipe(recipe, words)
    watched = {"callbacks": make_callbacks(log)} if log else {}
    print_messages_once(chosen.notes)
    needs_split, label_set = splits.needs_list(chosen.settings.split.name), chosen.settings.label_set
    cycles = read_cycles(data, skip_damaged=skip_damaged, needs_split=needs_split, label_set=label_set)
    figures = chosen.run(chosen, cycles, out, command=command_line(), progress=True, **watched)
    if figures:  # several processes: only the first has them
        print_result(figures, json, result_lines.figure_lines)
        print_message(f"run folder: {out}")


def add_recipe(words: Sequence[str]) -> Callable[..., Any]:
    """Words behind `train` -> the function of the word, with the settings of the recipe among them as options."""
    known = RECIPES.list_names()
    recipe = find_first_argument(words)
    recipe = recipe if recipe and (recipe in known or split_file_word(recipe)) else None
    model = next((word for flag, word in pairwise(words) if flag == "--from"), None)
    if recipe is None and model is None:
        return add_help(
            train, "recipe", f"System to train: {', '.join(known)}; or FILE.py:NAME of an own one; with --from its own."
        )
    from rales.recipes.registry import find_settings, make_recipe

    if recipe is None:
        with suppress(ValueError, OSError):  # what is wrong with the model is said by the word
            return add_settings(train, make_recipe(None, from_model=model).settings, str(model))
        return train
    return add_settings(train, find_settings(recipe)().with_presets(frozenset()), recipe)


def find_first_argument(words: Sequence[str]) -> str | None:
    """Words behind `train` -> the first that is neither an option nor the value of one."""
    before = ""
    for word in words:
        is_value = before.startswith("-") and "=" not in before and before not in FLAGS
        if not (is_value or word.startswith("-")):
            return word
        before = "" if is_value else word
    return None


def pretrain(
    *,
    data: Databases,
    out: Out,
    weights: Weights = None,
    size: Size = None,
    epochs: int | None = None,
    seed: int | None = None,
    mask_ratio: float | None = None,
    noise: Annotated[tuple[Path, ...], Parameter(negative="", converter=read_local_path)] = (),
    noise_ratio: float | None = None,
    teacher: Annotated[str | None, Parameter(converter=read_model_word)] = None,
    teacher_weight: float | None = None,
    probe_data: LocalPathOrNone = None,
    part: Part = "train",
    device: Device = None,
    config: Config = None,
    set_: SetWords = (),
    log: Log = (),
    json: JsonFlag = False,
) -> None:
    """Pre-train an encoder on recordings without labels (M2D, M2D-X).

    It goes on where it stopped if OUT holds an unfinished run of the same settings. `rales train --weights OUT` takes
    the result.

    Several GPUs: torchrun --nproc-per-node 4 -m rales pretrain …

    Example: rales pretrain --data ICBHI_final_database --noise FSD50K --noise-ratio 0.3 --weights mr7 --out runs/m2d

    Parameters
    ----------
    data
        Folder of recordings of any length, manifest of them (CSV, Parquet; column `path`), or folder of manifests;
        repeatable. Of ICBHI and SPRSound folders only the official train part is used.
    out
        Run folder to write.
    epochs
        Passes over the recordings.
    seed
        Seed of the random start, the order of recordings, crops and masks; 0 if not given.
    mask_ratio
        Share of the patches hidden from the encoder (0.7).
    noise
        Folder or manifest of background noise to mix in; repeatable.
    noise_ratio
        Share of the noise in the mixture, for example 0.3.
    teacher
        Frozen network to learn from too (M2D-X): name, file or run of an M2D encoder, whose patches are as long as the
        model's, or of a MobileNet of EfficientAT (mn04_as).
    teacher_weight
        Weight of the teacher's loss beside M2D's own (1).
    probe_data
        Labelled ICBHI folder or manifest: its train cycles score the encoder every pretrain.probe_every epochs.
    part
        train: test recordings are left out wherever a split is known; all: every recording is used.
    """
    from rales.data import read_cycles
    from rales.data.corpus import read_corpus
    from rales.jobs.layer_search import quick_probe
    from rales.recipes import m2d_pretrain as job
    from rales.training.callbacks import make_callbacks

    given: dict[str, object] = {"seed": seed, "pretrain.epochs": epochs, "pretrain.mask_ratio": mask_ratio}
    given |= {"crops.noise_ratio": noise_ratio, "encoder.teacher": teacher, "pretrain.device": device}
    given |= {"pretrain.teacher_weight": teacher_weight, "encoder.weights": weights}
    with add_settings_file(config, [*words_of(given), *set_]) as words:
        settings = job.settings(size, weights, words)
    print_messages_once(job.what_is_taken(settings))
    figures = job.run(
        settings,
        read_corpus(data, part=part),
        out,
        noise=read_corpus(noise, part=part) if noise else None,
        probe=quick_probe(read_cycles(probe_data, skip_damaged=True)) if probe_data else None,
        command=command_line(),
        progress=True,
        callbacks=make_callbacks(log),
    )
    if figures:  # several processes: only the first has them
        print_result(figures, json, result_lines.pretrain_lines)
        print_message(f"run folder: {out}")


def add_pretraining(words: Sequence[str]) -> Callable[..., Any]:
    """Words behind `pretrain` -> the function of the word, with all settings of a pre-training as options."""
    from rales.training.pretrain_settings import PretrainConfig

    return add_settings(pretrain, PretrainConfig(), "a pre-training")


def evaluate(
    *model: Annotated[Model, Parameter(required=True)],
    data: Data,
    split: str | None = None,
    shifts: Annotated[Literal["none", "m2d2"] | None, Parameter(name="--shifts")] = None,
    metric: Annotated[tuple[str, ...], Parameter(name="--metric", negative="")] = (),
    events: Annotated[bool, Parameter(name="--events", negative="")] = False,
    thresholds: LocalPathOrNone = None,
    device: Device = None,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> int:
    """Score any model on annotated data.

    Strict figures of its classes, two-class, AUROC of each finding, per device and location, per recording; of a run
    also both leak-free repairs of the official split. Labels of whole recordings
    (KAUH) are scored by recording alone. Exit code 1 if one of those could not be read.

    Example: rales evaluate runs/m2d --data ICBHI_final_database --json

    Parameters
    ----------
    model
        Run folder of `rales train`, its checkpoint file, artefact of `rales export`, rales or rales-mn04. Several runs
        of one split are scored as one, as with --shifts.
    shifts
        none or m2d2: score runs on their own test cycles with M2D2's decision layer, the mean over runs and (m2d2)
        seven shifts in time of up to 0.35 s, and a threshold for "normal" of their validation patients.
    split
        Part to score: test, train, validation, all, or inter or intra of SPRSound. Without it the test side, where the
        run's split or the data has one, else all.
    metric
        Own metric beside ours, its name or FILE.py:NAME of a function (class numbers (n,), of independent classes
        (n, classes) of 0 and 1, probabilities (n, classes)) -> figure, or figures by name; repeatable.
    events
        Instead of classifying annotated cycles, find breaths in the sound and score place and class together:
        event-based F and error rate.
    thresholds
        CSV file to write: for each class and finding, and each threshold from 0.05 to 0.95, how many cycles have that
        probability, and the precision and recall of a review of these.
    """
    from rales.evaluation.decision_layer import SHIFTS_S
    from rales.export.load import artefact_format, load_with_engine
    from rales.inference.ensemble import evaluate_ensemble
    from rales.inference.evaluate import evaluate_data
    from rales.inference.evaluate_events import evaluate_events

    as_one = len(model) > 1 or shifts is not None
    check_evaluation_options(metric, thresholds, events=events, as_one=as_one, with_split=bool(split))
    reading: dict[str, Any] = {"skip_damaged": skip_damaged, "progress": True}
    classifiers = [
        load_with_engine(each, "auto" if artefact_format(Path(each)) else "torch", device or "auto", tell=print_message)
        for each in model
    ]
    if events:
        found = evaluate_events(classifiers[0], data, part=split, **reading)
        print_result(found, json, result_lines.event_lines)
        return 1 if found["problems"] else 0
    if as_one:
        chosen = SHIFTS_S if shifts == "m2d2" else (0.0,)
        figures = evaluate_ensemble(classifiers, data, shifts_s=chosen, **reading)
    else:
        figures = evaluate_data(classifiers[0], data, part=split, metrics=metric, **reading)
    if thresholds:
        write_thresholds(thresholds, figures)
    print_result(figures, json, result_lines.evaluation_lines)
    return 1 if figures.get("problems") else 0


def check_evaluation_options(
    metric: Sequence[str],
    thresholds: Path | None,
    *,
    events: bool,
    as_one: bool,
    with_split: bool,
) -> None:
    """Options of `evaluate`. Errors: UsageError for those that do not go together, before any data is read."""
    if thresholds and (events or thresholds.exists()):
        why = (
            "is there already; name a new file" if thresholds.exists() else "is of annotated cycles; leave --events out"
        )
        raise UsageError(f"--thresholds {thresholds}: {why}")
    if events and metric:
        raise UsageError(f"--metric {metric[0]} --events: an own metric is of annotated cycles; leave one out")
    for word in metric:
        METRICS.find(word)  # says that there is none of that name
    if as_one and (with_split or metric or events):
        raise UsageError(
            "several runs, or --shifts: they are scored on their own test cycles; leave --split, --metric and --events "
            "out"
        )


def write_thresholds(out: Path, figures: dict[str, Any]) -> None:
    """Figures of an evaluation -> a CSV file with a row for each class and threshold. Errors: UsageError where cycles
    are not labelled."""
    import pandas as pd

    from rales.files.writers import write_csv

    if "thresholds" not in figures:
        raise UsageError(f"--thresholds {out}: these recordings are labelled as a whole, not by cycle; leave it out")
    rows = [{"class": name, **row} for name, table in figures["thresholds"].items() for row in table]
    write_csv(out, pd.DataFrame(rows))


def calibrate(
    model: Model,
    /,
    *,
    data: Data,
    out: Out,
    aim: float | Literal["balanced"] = 0.2,
    labels: Literal["probable", "thresholds"] = "probable",
    split: str | None = None,
    trained: Annotated[bool, Parameter(negative="")] = False,
    device: Device = None,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Calibrate a trained model for other patients, such as those of a clinic, without training.

    Temperature, a threshold for each finding, prediction sets per device and answers for whole recordings, from
    labelled cycles of five or more patients; ten or more for sets that hold the true label for 90 % of a new patient's
    cycles.

    Example: rales calibrate rales --data clinic.csv --out clinic.safetensors

    Parameters
    ----------
    model
        Run folder of `rales train`, its checkpoint file, or rales.
    out
        Checkpoint (.safetensors) to write, which every --model takes; none is replaced.
    aim
        What a finding's threshold is for: the share of cycles without it that may be named, or balanced for the highest
        sum of sensitivity and specificity.
    labels
        What a cycle is called from now on: the most probable class, or what the thresholds say.
    split
        Part of the data to learn from; without it all but its test side, by which a model is measured.
    trained
        Take patients on whom the model was trained, too.
    """
    from rales.inference.calibrate import describe_change
    from rales.inference.load_model import load_model

    before = load_model(model, device or "auto")
    rule = "thresholds" if labels == "thresholds" else "most probable"
    options = {"aim": aim, "labels": rule, "part": split, "trained": trained, "skip_damaged": skip_damaged}
    after = before.calibrate(data, out, progress=True, **options)
    found = {"out": str(out), **describe_change(before.calibration, after)}
    print_result(found, json, result_lines.calibration_lines)


def weights(name: str | None = None, /, *, file: LocalPathOrNone = None, json: JsonFlag = False) -> None:
    """List the public checkpoints, or fetch one into the cache folder and print its path.

    Example: rales weights m2d_vit_base-80x608p16x16-221006-mr7

    Parameters
    ----------
    name
        Checkpoint to fetch.
    file
        The publisher's file where it was downloaded elsewhere: it is checked and copied, and nothing is fetched.
    """
    from rales.models import hub

    if name is None:
        print_result({"weights": hub.list_checkpoints()}, json, result_lines.weight_lines)
    else:
        path = hub.fetch_checkpoint(name, file=file)
        print_result({"name": name, "path": str(path)}, json, lambda found: [found["path"]])
