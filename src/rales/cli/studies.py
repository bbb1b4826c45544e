"""Commands on many runs: `rales sweep`, `reproduce`, `layers` and `report`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rales.cli import result_lines
from rales.cli.console import print_message, print_messages_once, print_result, table_records
from rales.cli.options import (
    Changes,
    Classes,
    Cluster,
    Data,
    Databases,
    Freeze,
    From,
    Independent,
    JsonFlag,
    LocalPath,
    Out,
    Part,
    Processes,
    Select,
    Size,
    SkipFlag,
    Weights,
    command_line,
    read_label_set,
)
from rales.errors import UsageError

if TYPE_CHECKING:
    from rales.jobs.sweep import Trial


def sweep(
    recipe: str,
    /,
    *,
    data: Data,
    out: Out,
    grid: Annotated[tuple[str, ...], Parameter(name="--grid", negative="")] = (),
    seeds: int = 1,
    search: Literal["random", "bayesian"] | None = None,
    space: Annotated[tuple[str, ...], Parameter(name="--space", negative="")] = (),
    budget: int = 20,
    changes: Changes = Changes(),
    weights: Weights = None,
    from_: From = None,
    freeze: Freeze = None,
    select: Select = None,
    cluster: Cluster = Cluster(),
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> int:
    """Train every combination of a grid with several seeds; each trial is one ordinary run folder in OUT.

    A second call does only what is missing: finished runs are skipped, broken ones go on, failed ones are tried
    again. Exit code 1 if a trial failed; the others are unaffected. The ranking at the end is by the validation
    patients with --select validation; without, it is one by test, and says so.

    With --search bayesian --space train.lr=1e-5..1e-2,log --budget 30 settings are looked for instead, one trial after
    another, on validation patients alone: their AUROC decides, the test cycles have no part in it, and trials that fall
    behind are stopped.

    Example: rales sweep m2d_fusion --data ICBHI_final_database --out sweep --grid variant=vanilla,all_learned --seeds 5

    Parameters
    ----------
    recipe
        System to train, as for `rales train`.
    out
        Folder of the run folders and of sweep.json.
    grid
        name.of.field=value,value of the recipe's settings; repeatable. A list is one value: [5,11]. Of
        model.layers, singles, pairs, triples and subsets stand for all sets of so many layers.
    seeds
        Seeds 0, 1, … of every combination.
    search
        random, or bayesian: each trial where a model of the earlier ones expects most (TPE). The word needs optuna.
    space
        name=low..high of a setting, low..high,log for one that is tried over powers, or name=a,b,c; repeatable.
    budget
        Trials of a search in all; a later call with more goes on.
    """
    from rales.jobs import sweep as jobs

    start = {"weights": weights, "from_model": from_, "freeze": freeze}
    if search:
        refuse_with_search(
            cluster, {"--grid": grid, "--seeds": seeds != 1, "--select": select not in (None, "validation")}
        )
        with changes.read_words(select=select, varied=space, **start) as fixed:
            return run_search(recipe, space, data, out, search, budget, fixed, skip_damaged, json)
    if space or budget != 20:
        raise UsageError(
            f"{'--space' if space else '--budget'} goes with --search random or bayesian; without it, --grid names the "
            "values to try"
        )
    with changes.read_words(select=select, varied=grid, **start) as fixed:
        planned = jobs.trials(recipe, jobs.grid_of(grid), seeds, fixed)
    return run_sweep(planned, data, out, cluster, skip_damaged, json)


def refuse_with_search(cluster: Cluster, given: dict[str, Any]) -> None:
    """Options of a grid, and whether they are given. Errors: UsageError for the first that is, or of other machines."""
    given |= {"--engine": cluster.engine != "local", "--processes": cluster.processes not in (None, 1)}
    given |= {"--address": cluster.address, "--sbatch": cluster.sbatch, "--log": cluster.log}
    if refused := [name for name, present in given.items() if present]:
        raise UsageError(f"{refused[0]} does not go with --search, which runs one trial after another on validation")


def run_search(
    recipe: str,
    space: "Sequence[str]",
    data: Data,
    out: Path,
    method: Literal["random", "bayesian"],
    budget: int,
    fixed: "Sequence[str]",
    skip_damaged: bool,
    as_json: bool,
) -> int:
    from rales.jobs import hyperparameter_search as job

    about: dict[str, Any] = {"skip_damaged": skip_damaged, "command": command_line(), "progress": True}
    document = job.search_settings(recipe, space, data, out, method=method, budget=budget, fixed=fixed, **about)
    print_result(document, as_json, result_lines.search_lines)
    return 1 if any(each["state"] == "failed" for each in document["tried"]) else 0


def run_sweep(
    planned: "Sequence[Trial]", data: Data, out: Path, cluster: Cluster, skip_damaged: bool, as_json: bool
) -> int:
    """Trials -> they are run and ranked; -> exit code."""
    from rales.jobs import sweep as jobs
    from rales.recipes import registry
    from rales.report import rank_systems

    print_messages_once(note for trial in planned for note in registry.make_recipe(trial.recipe, trial.words).notes)
    about: dict[str, Any] = {"skip_damaged": skip_damaged, "command": command_line(), "progress": True}
    outcomes = jobs.run(planned, data, out, **vars(cluster), **about)
    document: dict[str, Any] = {"trials": [vars(outcome) for outcome in outcomes]}
    finished = [out / outcome.name for outcome in outcomes if outcome.state in ("done", "skipped")]
    if finished:
        document["ranking"] = rank_systems(finished)
    print_result(document, as_json, result_lines.outcome_lines)
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


def reproduce(
    what: Literal["table1", "table2", "figure3", "all"],
    /,
    *,
    data: Data,
    out: Out,
    seeds: int = 5,
    weights: Annotated[tuple[str, ...], Parameter(name="--weights", negative="")] = (),
    changes: Changes = Changes(),
    select: Select = None,
    cluster: Cluster = Cluster(),
    skip_damaged: SkipFlag = False,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    tflops: float | None = None,
    json: JsonFlag = False,
) -> int:
    """Reproduce the paper's Table 1, Table 2 or Figure 3: a sweep (in OUT/runs) and its report (in OUT/report).

    The report sets the paper's printed numbers beside ours. Every row is trained once per seed with all training
    patients: the run keeps what it said after every epoch, so the last epoch and the paper's protocol (the best epoch
    on the test set) both come from it, with intervals. Patients held out for validation cannot train, so that way to
    choose the epoch takes one more run per seed; --select last leaves it out.

    Example: rales reproduce table2 --data ICBHI_final_database --weights mr7 --out paper

    Parameters
    ----------
    what
        Part of the paper.
    out
        Folder to write.
    seeds
        Seeds of every row; the paper has 5.
    weights
        Pre-trained M2D checkpoint, a file or a name that `rales weights` lists; without it the public ones are taken,
        or a random start with --size. Table 1 compares two: give --weights twice, masking ratio 0.6 first.
        `system=FILE` is that of an earlier system, for example respirenet=resnet34-b627a593.pth; without, it starts at
        random.
    dry_run
        Only list the runs, and what they cost on one GPU: hours and memory, from the operations of a step of every
        system, counted here. Needs annotations alone, neither the sound nor the public checkpoints.
    tflops
        10^12 operations a second that the GPU of --dry-run is assumed to sustain; 50 if not given.
    """
    from rales.data import read_cycles, splits
    from rales.jobs import reproduce as job
    from rales.jobs.sweep import at_once
    from rales.report import check_packages, paper_text, scores_table, write_report
    from rales.settings import parse_words

    if not dry_run:
        if tflops is not None:
            raise UsageError(f"--tflops {tflops:g}: is of --dry-run alone; leave it out")
        check_packages()  # now, not after days of training
    with changes.read_words() as fixed:
        planned = job.paper_trials(what, seeds, fixed, weights, select, stand_in=dry_run)
    needs_split = splits.needs_list(parse_words(fixed).get("split.name", "official"))
    cycles = read_cycles(data, skip_damaged=skip_damaged, audio=not dry_run, needs_split=needs_split)
    if dry_run:
        from rales.jobs.gpu_estimate import TFLOPS, estimate_on_gpu

        cost = asdict(estimate_on_gpu(planned, cycles, TFLOPS if tflops is None else tflops))
        print_result({"trials": [vars(trial) for trial in planned], **cost}, json, result_lines.gpu_estimate_lines)
        return 0
    print_message(f"{what}: {job.estimate(planned, cycles, at_once(cluster.processes))}")
    code = run_sweep(planned, data, out / "runs", cluster, skip_damaged, json)
    page = write_report([out / "runs"], out / "report")
    if not json:
        print(scores_table([out / "runs"]))
        print(paper_text([out / "runs"]))
    print_message(f"report: {page}")
    return code


def protocol(
    *recipes: Annotated[str, Parameter(required=True)],
    data: Data,
    out: Out,
    seeds: int = 1,
    draws: int = 1,
    all_folds: Annotated[bool, Parameter(name="--all-folds", negative="")] = False,
    splits: Annotated[tuple[str, ...], Parameter(name="--splits", negative="")] = (),
    weights: Weights = None,
    changes: Changes = Changes(),
    cluster: Cluster = Cluster(),
    skip_damaged: SkipFlag = False,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    json: JsonFlag = False,
) -> int:
    """Measure what each choice of split, epoch and scoring is worth in points, of one system or several.

    The same system under the official list, its repairs, patients at random, folds of patients, without each device, in
    RespireNet's folds and, to show what that is worth, with recordings and cycles at random (leaky: patients who test
    also train). One run a split gives the last epoch, the best on validation cycles and the best on the test set, each
    with strict and any-abnormal sensitivity; one more run has the min-max of the batch, where a system has that. Two
    baselines of log-mel statistics stand beside it. Writes OUT/runs, protocol.csv, .md, .html, .png and .svg; a second
    call does only what is missing.

    Example: rales protocol m2d_fusion --data ICBHI_final_database --size tiny --epochs 10 --out protocol

    Parameters
    ----------
    recipes
        Systems, as for `rales train`; of the settings each takes those that it has.
    out
        Folder to write.
    seeds
        Seeds of every run.
    draws
        Draws of what is split at random.
    all_folds
        Run all folds of patients and of RespireNet; without, one of each.
    splits
        Only these, for example --splits official --splits leaky_recordings; the first is what the others are held
        against.
    dry_run
        Only list the runs and estimate time and disk.
    """
    from rales.data import read_cycles
    from rales.jobs import protocol as job
    from rales.jobs import sweep as runs
    from rales.jobs.reproduce import estimate
    from rales.report import check_packages

    check_packages()
    with changes.read_words(weights=weights) as fixed:
        label_set = job.check_classes(recipes, fixed)
        cycles = read_cycles(data, skip_damaged=skip_damaged, needs_split=False, label_set=label_set)
        schemes, notes = job.list_schemes(cycles, draws=draws, all_folds=all_folds, wanted=splits, label_set=label_set)
        planned, more = job.plan_runs(recipes, schemes, seeds, fixed)
    trials = [each.trial for each in planned]
    print_messages_once([f"protocol: {estimate(trials, cycles, runs.at_once(cluster.processes))}", *notes, *more])
    if dry_run:
        print_result({"trials": [vars(trial) for trial in trials]}, json, lambda _: [trial.name for trial in trials])
        return 0

    about: dict[str, Any] = {"skip_damaged": skip_damaged, "command": command_line(), "progress": True}
    outcomes = runs.run(trials, data, out / "runs", **vars(cluster), **about)
    document = job.report_protocol(planned, cycles, schemes, label_set, out, [*notes, *more], progress=True)
    document["trials"] = [vars(outcome) for outcome in outcomes]
    print_result(document, json, result_lines.protocol_table_lines)
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


def cross(
    *systems: Annotated[str, Parameter(required=True)],
    data: Databases,
    out: Out,
    changes: Changes = Changes(),
    weights: Weights = None,
    select: Select = None,
    processes: Processes = None,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> int:
    """Train on each of several databases and test on all of them: how far what is learned on one holds on another.

    A database is tested by the patients of its test side who do not train there too; without a list of sides 40 % of
    its patients test. Recordings labelled as a whole (KAUH) are tested on, never trained on. A trained model is tested
    as it is. Writes OUT/runs, cross.csv, cross.json and cross.html; a second call does only what is missing.

    Example: rales cross m2d_fusion rales --data ICBHI_final_database --data SPRSound --data KAUH --out cross

    Parameters
    ----------
    systems
        Systems, as for `rales train`, and models, as for `rales evaluate`.
    data
        Data folder or table; repeatable, twice or more.
    out
        Folder to write.
    """
    from rales.jobs import cross_databases as job
    from rales.report import check_packages

    check_packages()
    systems = tuple(dict.fromkeys(systems))
    with changes.read_words(weights=weights, select=select) as fixed:
        label_set = job.check_systems(systems, fixed)
    databases = job.read_databases(data, label_set, skip_damaged=skip_damaged)
    asked: dict[str, Any] = {"processes": processes, "skip_damaged": skip_damaged, "command": command_line()}
    document = job.run_cross(systems, databases, fixed, out, progress=True, **asked)
    print_result(document, json, result_lines.cross_lines)
    return 1 if document["failed"] else 0


def suspect(
    *runs: LocalPath,
    data: Data,
    out: Out,
    top: int = 50,
    folds: int | None = None,
    part: Part = "train",
    classes: Classes = None,
    independent: Independent = False,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Rank cycles by how likely their label is wrong (confident learning, cleanlab).

    The first are on a page with sound and spectrogram.

    The answers are those of RUNS to the cycles that they tested, for example the folds of a cross-validation; without
    runs, those of a logistic regression on log-mel statistics under folds of patients, which takes a minute. Writes
    OUT/suspects.html and OUT/suspects.csv. The page holds the sounds: it is as private as the recordings.

    Example: rales suspect --data ICBHI_final_database --out suspects

    Parameters
    ----------
    runs
        Run folders of `rales train`, or folders of several.
    out
        Folder to write.
    top
        Cycles on the page.
    folds
        Patient-disjoint folds without runs; 5, or as many as there are patients if these are fewer.
    part
        Without runs: train, only recordings of the train split; all, every recording.
    """
    from rales.data import read_cycles
    from rales.jobs import label_errors as job
    from rales.jobs.layer_search import check_exclusive

    if top < 1:
        raise UsageError(f"--top {top}: expected 1 or more")
    label_set = read_label_set(classes, independent=independent)
    job.check_packages()
    check_exclusive(label_set)
    cycles = read_cycles(data, skip_damaged=skip_damaged, needs_split=False, label_set=label_set)
    if runs:
        rows, origin = job.answer_by_runs(cycles, runs, label_set)
    else:
        chosen = cycles[cycles["split"] == "train"] if part == "train" and "train" in set(cycles["split"]) else cycles
        rows, origin = job.answer_by_statistics(
            chosen.reset_index(drop=True), label_set, folds=folds, progress=not json
        )
    found = job.write_suspects(job.rank_labels(rows, label_set), out, origin, top=top)
    print_result(found, json, result_lines.suspect_lines)


def layers(
    *,
    data: Data,
    out: Out,
    weights: Weights = None,
    encoder: str = "",
    size: Size = None,
    frontend: Literal["icbhi", "m2d", "m2d_clip"] | None = None,
    part: Part = "train",
    sizes: Annotated[tuple[int, ...], Parameter(name="--sizes", negative="")] = (),
    folds: int | None = None,
    seed: int = 0,
    c: float = 1e-3,
    norm_layers: Annotated[bool, Parameter(name="--norm-layers", negative="")] = False,
    classes: Classes = None,
    independent: Independent = False,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Find out which layers of a frozen encoder to fuse, by linear probes under patient-disjoint cross-validation.

    Every subset of its layers by Score and by AUROC; layer weights learned by one more probe; what is lost without each
    layer; how alike the layers are (CKA). Writes subsets.csv, leave_one_out.csv, cka.csv, layers.png and layers.json.

    The same subsets with fine-tuning: rales sweep m2d_fusion --set variant=all_fixed --grid model.layers=pairs …

    Example: rales layers --data ICBHI_final_database --weights mr7 --out layers

    Parameters
    ----------
    out
        Folder to write; an interrupted search there goes on.
    encoder
        Any encoder of timm (timm/NAME) or Hugging Face (hf/NAME_OR_FOLDER) in place of M2D's, with its own features, as
        `rales train encoder_fusion` takes it.
    frontend
        icbhi: the log-mel of the published ICBHI recipes; m2d: as M2D was pre-trained; m2d_clip: the same, each clip
        brought to mean 0 and deviation 1. Without it that of the checkpoint's run, if it is one of ours; icbhi with
        any other checkpoint; of a random start, that of its size (m2d_clip for tiny, else icbhi).
    part
        train: only recordings of the train split, so that the test set chooses nothing; all: every recording.
    sizes
        Numbers of layers in a subset, for example --sizes 1 --sizes 2; all of them by default.
    folds
        Patient-disjoint folds; 5 if not given, or as many as there are patients if these are fewer.
    seed
        Seed of the folds, and of the random start without weights.
    c
        Inverse strength of the probe's regularisation, as in scikit-learn.
    norm_layers
        Put a LayerNorm without parameters on every layer before it is pooled, as --set model.norm_layers=true does in
        training: no layer then counts for its scale.
    """
    from rales.data import read_cycles
    from rales.jobs import layer_search as job
    from rales.recipes import registry
    from rales.training import run_folder

    label_set = read_label_set(classes, independent=independent)
    job.check_packages()
    job.check_exclusive(label_set)
    if not encoder:
        print_messages_once(registry.make_recipe("m2d_fusion", weights=weights, frontend=frontend).notes)
    found = job.search(
        read_cycles(data, skip_damaged=skip_damaged, needs_split=part == "train", label_set=label_set),
        weights or "",
        out,
        encoder=encoder,
        size=size or "",
        frontend=frontend or "",
        part=part,
        folds=folds,
        seed=seed,
        c=c,
        sizes=sizes or None,
        norm_layers=norm_layers,
        label_set=label_set,
        command=command_line(),
        progress=True,
    )
    document = {**run_folder.read_json(out / "layers.json"), "subsets": table_records(found), "out": str(out)}
    print_result(document, json, result_lines.layer_lines)


def report(
    *paths: Annotated[LocalPath, Parameter(required=True)], out: Out, data: Data | None = None, json: JsonFlag = False
) -> None:
    """Write tables and figures from run folders: report.html, report.md, CSV and PNG.

    Example: rales report runs --out report --data ICBHI_final_database

    Parameters
    ----------
    paths
        Run folders, or folders that hold them.
    out
        Folder to write.
    data
        What the runs were tested on: the page then shows how the 50 worst mistakes look and sound, and so holds sound
        of patients.
    """
    from rales.inference.output_paths import check_outputs, model_files
    from rales.report import scores_table, write_report

    files = [out / name for name in ("report.html", "report.md", "runs.csv", "table1.csv", "table2.csv")]
    check_outputs({"--out": files}, {"a file of a run": [file for path in paths for file in model_files(path)]})
    page = write_report(paths, out, data)
    print_result({"report": str(page)}, json, lambda _: [scores_table(paths), f"report: {page}"])
