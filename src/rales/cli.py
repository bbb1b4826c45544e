"""The command `rales`: one function a word, each a few lines that call a job.

Exit codes: 0 done, 1 the job ran and found a problem it reports, 2 wrong usage. With `--json` one JSON document goes
to stdout; everything else a person reads goes to stderr.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from rales import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from rales.sweep import Trial

app = App(
    name="rales",
    help="Crackles and wheezes in the breathing cycles of a stethoscope recording. A research tool, not a diagnosis.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document on stdout.")]
SetWords = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set", negative="", help="name.of.field=value of the config, or option=value of the recipe; repeatable."
    ),
]
SkipFlag = Annotated[
    bool,
    Parameter(
        name="--skip-damaged", negative="", help="Leave damaged recordings out instead of stopping at the first."
    ),
]
Data = Annotated[Path, Parameter(help="ICBHI or SPRSound folder, or an own manifest (CSV, Parquet).")]
Recordings = Annotated[str, Parameter(required=True, help="Recordings, or folders that are searched through.")]
Run = Annotated[str | None, Parameter(name="--model", help="Run folder of `rales train`, or its checkpoint file.")]
Weights = Annotated[
    str | None,
    Parameter(name="--weights", help="Pre-trained M2D checkpoint: a file, or a name that `rales weights` lists."),
]
Size = Annotated[
    Literal["tiny", "small", "base"] | None, Parameter(name="--size", help="Size of the encoder without weights.")
]
Epochs = Annotated[int | None, Parameter(name="--epochs", help="Passes over the training cycles (150 in the paper).")]
Select = Annotated[
    Literal["last", "validation", "test_best"] | None,
    Parameter(
        name="--select",
        help="Which epoch is kept. test_best is the paper's protocol and looks at the test set; the report says so.",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(help="local: processes on this machine. ray: a Ray cluster whose nodes share the folders."),
]
Processes = Annotated[int | None, Parameter(name="--processes", help="Work at a time; all processors by default.")]
Address = Annotated[
    str | None, Parameter(name="--address", help="Ray cluster to join; without it one is started on this machine.")
]
Form = Literal["csv", "json", "parquet", "audacity", "raven"]


def main(words: list[str] | None = None) -> None:
    """Run the command line; errors become a sentence on stderr and an exit code."""
    words = sys.argv[1:] if words is None else words
    # Threads that wait must sleep: where other work runs on the same cores, spinning makes training ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value") or 0
        sys.stdout.flush()  # now, since a reader that has left cannot be caught at the interpreter's end
        sys.exit(code)
    except CycloptsError as error:
        fail(f"{error}".strip() + " (see rales --help)", 2)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) has left
        sys.exit(0)
    except (ValueError, OSError) as error:
        if os.environ.get("RALES_TRACEBACK"):
            raise
        from rales.config import UsageError

        fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        fail("out of memory; use a smaller --set train.micro_batch, the result is the same, or a smaller --size", 1)


def fail(sentence: str, code: int) -> None:
    print(f"rales: {sentence}", file=sys.stderr)
    sys.exit(code)


@app.command
def check(data: Path, /, *, json: JsonFlag = False) -> int:
    """Audit a data folder: counts, splits, patients on both sides, and every problem with its file and line.

    Reads ICBHI 2017 folders, SPRSound folders and own manifests (CSV, Parquet). Exit code 1 if there is a problem.

    Example: rales check ICBHI_final_database
    """
    from rales import terminal
    from rales.data import audit

    found = audit(data)
    show(found.to_dict(), json, terminal.audit_lines)
    return 1 if found.problems else 0


@app.command
def synth(
    folder: Path, /, *, recordings: int = 12, seed: int = 0, processes: Processes = None, json: JsonFlag = False
) -> None:
    """Write a synthetic folder in ICBHI layout: breath sounds, crackles and wheezes from a physical simulator.

    Example: rales synth synthetic --recordings 40 --seed 1

    Parameters
    ----------
    folder
        New or empty folder.
    recordings
        Number of recordings.
    seed
        The same seed writes the same folder.
    """
    from rales.data.synthetic import write_folder

    write_folder(folder, recordings, seed, processes=processes or (os.cpu_count() or 1 if recordings >= 200 else 1))
    if json:
        show({"folder": str(folder), "recordings": recordings}, json, list)
    say(f"{recordings} synthetic recordings in {folder}; `rales check {folder}` counts their cycles")


@app.command
def train(
    recipe: str,
    /,
    *,
    data: Data,
    out: Path,
    weights: Weights = None,
    seed: int = 0,
    size: Size = None,
    variant: str | None = None,
    epochs: Epochs = None,
    select: Select = None,
    set_: SetWords = (),
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Train a system and score it; goes on where it stopped if OUT holds an unfinished run of the same settings.

    Several GPUs: torchrun --nproc-per-node 4 -m rales train …

    Example: rales train m2d_fusion --data ICBHI_final_database --weights mr7 --out runs/m2d --seed 1

    Parameters
    ----------
    recipe
        System to train: m2d_fusion.
    out
        Run folder to write.
    seed
        Seed of the random start, the order of cycles and the augmentation.
    variant
        Row of the paper's Table 2: vanilla, pair_5_12, pair_5_11, triple_4_7_10, all_fixed, all_learned.
    """
    from rales import recipes, terminal
    from rales.data import read_cycles

    given = {"seed": seed, "train.epochs": epochs, "train.select": select}
    words = [*(f"{name}={value}" for name, value in given.items() if value is not None), *set_]
    chosen = recipes.make(recipe, words, weights=weights, size=size, variant=variant)
    cycles = read_cycles(data, skip_damaged=skip_damaged)
    command = shlex.join(["rales", *sys.argv[1:]])
    figures = chosen.run(chosen, cycles, out, command=command, progress=True)
    if figures:  # several processes: only the first has them
        show(figures, json, terminal.figure_lines)
        say(f"run folder: {out}")


@app.command
def evaluate(run: Path, /, *, data: Path, skip_damaged: SkipFlag = False, json: JsonFlag = False) -> None:
    """Score a run on the test part of its split: strict four-class figures, two-class, per device and location, and
    both leak-free repairs of the official split.

    Example: rales evaluate runs/m2d --data ICBHI_final_database --json

    Parameters
    ----------
    run
        Run folder of `rales train`.
    """
    from rales import predict as job
    from rales import terminal
    from rales.data import read_cycles

    figures = job.evaluate(run, read_cycles(data, skip_damaged=skip_damaged), progress=True)
    show(figures, json, terminal.figure_lines)


@app.command(name="predict")
def predict_(
    *paths: Recordings,
    model: Run = None,
    out: Path | None = None,
    format: Form = "csv",
    json: JsonFlag = False,
) -> int:
    """Classify the breathing cycles of recordings. Cycles come from an annotation beside the recording, else from
    consecutive windows. Not a diagnosis.

    Exit code 1 if a recording could not be read; the others are unaffected.

    Example: rales predict 101_1b1_Al_sc_Meditron.wav --model runs/m2d --out cycles.csv

    Parameters
    ----------
    out
        File to write; without it the table is printed.
    format
        csv, json and parquet hold all recordings; audacity and raven write one label file per recording.
    """
    from rales import predict, terminal

    problems: list[str] = []
    table = predict.load(default_model(model)).predict(paths, problems)
    if out is not None and len(table):
        written = predict.write(table, out, format)
        more = f" and {len(written) - 1} more" if len(written) > 1 else ""
        count = table["path"].nunique()
        say(f"{len(table)} cycles of {count} recording{'s' if count > 1 else ''}: {written[0]}{more}")
    document = {"cycles": records(table), "problems": problems, "notice": predict.NOTICE}
    if json or out is None:
        show(document, json, terminal.prediction_lines)
    for problem in problems:
        print(f"rales: {problem}", file=sys.stderr)
    if not json and out is not None:
        say(predict.NOTICE)
    return 1 if problems else 0


@app.command
def embed(*paths: Recordings, out: Path, model: Run = None, json: JsonFlag = False) -> int:
    """One fused vector per breathing cycle, for search, clustering or an own classifier.

    Exit code 1 if a recording could not be read; the others are unaffected.

    Example: rales embed recordings/ --model runs/m2d --out cycles.npz

    Parameters
    ----------
    out
        .npz (arrays `vectors`, `recording`, `cycle`, `start_s`, `end_s`) or .parquet (one column `vector`).
    """
    from rales import predict

    problems: list[str] = []
    predict.check_vectors_name(out)
    vectors = predict.load(default_model(model)).embed_table(paths, problems)
    document = {"vectors": len(vectors), "out": str(out), "problems": problems, "notice": predict.NOTICE}
    if len(vectors):
        predict.write_vectors(vectors, out)
        document["width"] = len(vectors["vector"].iloc[0])
    if json:
        show(document, json, list)
    say(f"{len(vectors)} vectors of {document.get('width', 0)} numbers: {out}")
    for problem in problems:
        print(f"rales: {problem}", file=sys.stderr)
    return 1 if problems else 0


@app.command
def weights(name: str | None = None, /, *, json: JsonFlag = False) -> None:
    """List the public M2D checkpoints, or fetch one into the cache folder and print its path.

    Example: rales weights m2d_vit_base-80x608p16x16-221006-mr7

    Parameters
    ----------
    name
        Checkpoint to fetch.
    """
    from rales import terminal
    from rales.models import downloads

    if name is None:
        show({"weights": downloads.listing()}, json, terminal.weight_lines)
    else:
        path = downloads.fetch(name)
        show({"name": name, "path": str(path)}, json, lambda found: [found["path"]])


@app.command
def sweep(
    recipe: str,
    /,
    *,
    data: Data,
    out: Path,
    grid: Annotated[tuple[str, ...], Parameter(name="--grid", negative="")] = (),
    seeds: int = 1,
    size: Size = None,
    epochs: Epochs = None,
    weights: Weights = None,
    select: Select = None,
    set_: SetWords = (),
    engine: Engine = "local",
    processes: Processes = None,
    address: Address = None,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> int:
    """Train every combination of a grid with several seeds; each trial is one ordinary run folder in OUT.

    A second call does only what is missing: finished runs are skipped, broken ones go on, failed ones are tried
    again. Exit code 1 if a trial failed; the others are unaffected.

    Example: rales sweep m2d_fusion --data ICBHI_final_database --out sweep --grid variant=vanilla,all_learned --seeds 5

    Parameters
    ----------
    recipe
        System to train: m2d_fusion.
    out
        Folder of the run folders and of sweep.json.
    grid
        option=value,value of the recipe, or name.of.field=value,value; repeatable. A list is one value: [5,11].
    seeds
        Seeds 0, 1, … of every combination.
    """
    from rales import sweep as jobs

    given = {"size": size, "weights": weights, "train.epochs": epochs, "train.select": select}
    fixed = [*(f"{name}={value}" for name, value in given.items() if value is not None), *set_]
    planned = jobs.trials(recipe, jobs.grid_of(grid), seeds, fixed)
    return run_sweep(planned, data, out, engine, processes, address, skip_damaged, json)


def run_sweep(
    planned: "Sequence[Trial]",
    data: Data,
    out: Path,
    engine: str,
    processes: int | None,
    address: str | None,
    skip_damaged: bool,
    as_json: bool,
) -> int:
    from rales import sweep as jobs
    from rales import terminal

    command = shlex.join(["rales", *sys.argv[1:]])
    outcomes = jobs.run(
        planned,
        data,
        out,
        engine=engine,
        processes=processes,
        address=address,
        skip_damaged=skip_damaged,
        command=command,
        progress=True,
    )
    show({"trials": [vars(outcome) for outcome in outcomes]}, as_json, terminal.outcome_lines)
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


@app.command
def reproduce(
    what: Literal["table1", "table2", "figure3", "all"],
    /,
    *,
    data: Data,
    out: Path,
    seeds: int = 5,
    weights: Weights = None,
    size: Size = None,
    epochs: Epochs = None,
    select: Select = None,
    set_: SetWords = (),
    engine: Engine = "local",
    processes: Processes = None,
    address: Address = None,
    skip_damaged: SkipFlag = False,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    json: JsonFlag = False,
) -> int:
    """The paper's Table 1, Table 2 or Figure 3: a sweep (in OUT/runs) and its report (in OUT/report).

    The report sets the paper's printed numbers beside ours, under all selection protocols that the runs recorded.

    Example: rales reproduce table2 --data ICBHI_final_database --weights mr7 --out paper

    Parameters
    ----------
    what
        Part of the paper.
    out
        Folder to write.
    seeds
        Seeds of every row; the paper has 5.
    dry_run
        Only list the trials and estimate time and disk.
    """
    from rales import sweep as jobs
    from rales.data import read_cycles
    from rales.report import report as write_report
    from rales.report import scores_table

    given = {"size": size, "weights": weights, "train.epochs": epochs, "train.select": select}
    fixed = [*(f"{name}={value}" for name, value in given.items() if value is not None), *set_]
    planned = jobs.paper_trials(what, seeds, fixed)
    cycles = read_cycles(data, skip_damaged=skip_damaged)
    cost = jobs.estimate(planned, cycles, processes or os.cpu_count() or 1)
    say(f"{what}: {cost}")
    if dry_run:
        document = {"trials": [vars(trial) for trial in planned], **vars(cost)}
        show(document, json, lambda found: [trial["name"] for trial in found["trials"]])
        return 0
    code = run_sweep(planned, data, out / "runs", engine, processes, address, skip_damaged, json)
    page = write_report([out / "runs"], out / "report")
    if not json:
        print(scores_table([out / "runs"]))
    say(f"report: {page}")
    return code


@app.command
def report(*paths: Annotated[Path, Parameter(required=True)], out: Path, json: JsonFlag = False) -> None:
    """Tables and figures from run folders: report.html, report.md, CSV and PNG.

    Example: rales report runs --out report

    Parameters
    ----------
    paths
        Run folders, or folders that hold them.
    out
        Folder to write.
    """
    from rales.report import report as write_report
    from rales.report import scores_table

    page = write_report(paths, out)
    show({"report": str(page)}, json, lambda _: [scores_table(paths), f"report: {page}"])


def default_model(name: str | None) -> str:
    if name is None:
        from rales.config import UsageError

        raise UsageError("no --model given, and this version ships none; give a run folder of `rales train`")
    return name


def show(document: dict[str, Any], as_json: bool, lines: Any) -> None:
    """A job's result, as one JSON document or as lines for a person."""
    from rales.runs import clean

    print(json.dumps(clean(document), indent=1) if as_json else "\n".join(lines(document)))


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    return [{str(k): (None if v != v else v) for k, v in row.items()} for row in table.to_dict("records")]


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


if __name__ == "__main__":
    main()
