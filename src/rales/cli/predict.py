"""Commands on recordings: `rales predict`, `embed`, `search` and `explain`."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rales.cli import result_lines
from rales.cli.console import column_records, print_message, print_result, table_records
from rales.cli.options import (
    Address,
    ComputedBy,
    Cycles,
    Device,
    Engine,
    Form,
    Gate,
    JsonFlag,
    LocalPath,
    LocalPathOrNone,
    Out,
    OutOrNone,
    PlaceOrNone,
    Processes,
    Recordings,
    Run,
    Sbatch,
)
from rales.environment import limit_threads
from rales.errors import UsageError
from rales.files.csv_cells import one_line
from rales.files.stores import is_url, refuse_url
from rales.labels import LabelSet
from rales.optional_packages import require_packages

if TYPE_CHECKING:
    import pandas as pd

    from rales.inference.predictor import Predictor

MOST_NOTES = 20


def predict(
    *paths: Recordings,
    model: Run = None,
    out: PlaceOrNone = None,
    format: Form | None = None,
    status: LocalPathOrNone = None,
    summary: LocalPathOrNone = None,
    cycles: Cycles = "auto",
    quality: Gate = "on",
    min_confidence: float = 0.0,
    threshold: float | Literal["validation", "classes", "none"] | None = None,
    sets: float | None = None,
    manifest: LocalPathOrNone = None,
    cluster: Engine = "local",
    processes: Processes = None,
    address: Address = None,
    sbatch: Sbatch = (),
    shard: int = 1000,
    urls: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    watch: Annotated[bool, Parameter(negative="")] = False,
    engine: ComputedBy = "auto",
    device: Device = None,
    json: JsonFlag = False,
) -> int:
    """Say of each breathing cycle of recordings whether it holds crackles, wheezes, both or neither.

    Cycles come from the recording's annotation, else breaths are found in the sound, else consecutive windows are
    taken. A table (CSV, Parquet, JSON) or FILE.py:READER:PATH may name the recordings; - is the one on standard input.
    Not a diagnosis.

    A recording without a sound to judge (silence, steady noise, a voice, no stethoscope) gets no class but the reason.
    Exit code 1 if a recording could not be read; the others are unaffected.

    Example: rales predict recording.wav --out cycles.csv

    Parameters
    ----------
    out
        File to write; without it the table is printed, or of many recordings its beginning. With --manifest a folder,
        or a URL of an object store such as s3://bucket/folder.
    format
        csv, json and parquet hold all recordings (the suffix of --out says which, else csv); audacity and raven write
        one label file per recording into a folder, raven also one combined table into a file (--out cycles.txt).
    status
        File (.csv, .json, .parquet) with a row per recording: read or failed, why, length, cycles, how many of them
        are not judged, what the sound is like, and which model (its digest) and version of Rales answered.
    summary
        File with a row per recording, the most suspicious first: the probability that any of its cycles is abnormal,
        crackles or wheezes, cycles of each class, share of abnormal ones with a 95 % interval.
    min_confidence
        A cycle whose label is less probable than this is marked uncertain and left out of the share.
    threshold
        p_normal from which a cycle is normal; `validation` is what suited the run's validation patients best,
        `classes` the model's own threshold for each finding, `none` the most probable class, which is the label where
        the model's calibration says nothing else. Of independent classes the probability above which each is named.
    sets
        Nominal coverage, such as 0.9: a column prediction_set holds the labels that a cycle may have ("crackle |
        normal", any for all), so that the true one is among them for that share of a new patient's cycles on average.
        Of models with validation patients or after `rales calibrate`.
    manifest
        CSV or Parquet file with a column `path`, for very many recordings: --out is then a folder of Parquet shards
        (cycles, summary, status). Columns start_s and end_s give the cycles. The same command goes on where it
        stopped; no recording is done twice.
    cluster
        Where the shards are computed, one model a worker.
    shard
        Recordings of a shard.
    urls
        Where recordings may lie that a manifest names by address, such as s3://bucket/ or https://host/folder/;
        repeatable. Without it a manifest names files of this machine alone.
    watch
        Go on until Ctrl-C: answer recordings as they arrive in the folders given, each once, as soon as it is whole,
        and add its rows to --out (CSV). The same command goes on where it stopped.
    """
    if bool(paths) == (manifest is not None):
        raise UsageError("expected paths of recordings, or --manifest with a list of them")

    gate = quality == "on"
    decision: dict[str, Any] = {"min_confidence": min_confidence, "threshold": threshold, "sets": sets}
    if manifest is not None:
        refuse_with_manifest(engine, device, watch)
        words = {"cluster": cluster, "processes": processes, "address": address, "sbatch": sbatch, "shard": shard}
        words |= {"model": model, "urls": urls, "cycles": cycles, "quality": gate}
        return predict_manifest(manifest, out, format, [status, summary], json, **words, **decision)
    refuse_url(out or "", "--out")
    asked = Asked(paths, model, None if out is None else Path(out), engine, device, cycles, gate, decision, json)
    if watch:
        refused = {"--format": format not in (None, "csv"), "--status": status, "--summary": summary, "--urls": urls}
        return predict_arriving(asked, refused)
    if urls:
        raise UsageError("--urls: is for the addresses in a --manifest; those given as paths are asked anyway")
    return predict_now(asked, format, status, summary)


@dataclass(frozen=True)
class Asked:
    """What is asked of `predict` on this machine, now or as recordings arrive."""

    paths: tuple[str, ...]
    model: str | None
    out: Path | None
    engine: str
    device: str | None
    cycles: str
    quality: bool
    decision: dict[str, Any]
    """As `Predictor.decision` takes it."""
    as_json: bool

    def load(self, recordings: int = 0) -> "Predictor":
        """-> the model, for so many recordings. Errors: as those of `load_with_engine`."""
        from rales.export.load import load_with_engine

        device = self.device or "auto"
        return load_with_engine(self.model, self.engine, device, recordings=recordings, tell=print_message)


def predict_now(asked: Asked, form: str | None, status: Path | None, summary: Path | None) -> int:
    """The job of `predict` over recordings that are there."""
    from rales.data.recording_annotations import is_named_source
    from rales.export.load import AUTO_ENGINE_MIN_RECORDINGS
    from rales.inference import audio_reader, prediction_writers
    from rales.inference.predictor import make_tables

    out = asked.out
    form = check_prediction_format(out, form, status, summary)
    sources, where = audio_reader.find_sources(asked.paths, asked.cycles)
    named = [path for path in asked.paths if is_named_source(path)]
    check_prediction_files(out, form, status, summary, sources, named, asked.model)

    if len(sources) >= AUTO_ENGINE_MIN_RECORDINGS:
        limit_threads(1)  # and recordings side by side: the threads of a small network mostly wait
    classifier = asked.load(len(sources))
    decided, printed = classifier.decision(**asked.decision), asked.as_json or out is None
    said = classifier.describe_answers(decided)
    collected = PredictionSummary(cycles=printed, label_set=classifier.label_set, said=said)
    collected.pooling = classifier.calibration.get("recordings")

    files = prediction_writers.open_predictions(out, form, sources) if out else nullcontext()
    with files as append:  # each table is written as it comes, so that there is never a list of all cycles
        how: dict[str, Any] = {"cycles": where, "quality": asked.quality, "progress": True}
        answers = classifier.answers(sources, collected.problems, decided, **how)
        for table, state in answers:
            collected.add(table, state, append(*make_tables(table, state, said)) if append else [])
    if out:
        print_message(collected.sentence())
    if status is not None:
        made_by = {name: said[name] for name in ("model", "version")}  # a CSV of cycles has no place for it
        prediction_writers.write_table((make_table(rows).assign(**made_by) for rows in collected.status), status)
    if summary is not None:
        prediction_writers.write_table([collected.summary_table()], summary)

    about = {"calibration": classifier.calibration or None, **said}
    return print_predictions(
        collected, about, as_json=asked.as_json, in_file=out is not None, summarised=summary is not None
    )


def print_predictions(
    collected: "PredictionSummary", about: dict[str, Any], *, as_json: bool, in_file: bool, summarised: bool
) -> int:
    """What was predicted and what is to be said of the model -> the exit code; the cycles themselves are printed unless
    they are in a file, recordings only where a summary is asked for."""
    printed = as_json or not in_file
    if as_json or (printed and (collected.rows or not collected.problems)):
        print_result(collected.document() | about, as_json, result_lines.prediction_lines)
    if summarised and not as_json and collected.label_set.is_icbhi:  # answers of recordings are about its findings
        notices = [collected.pooling_notice(), *([] if printed else [about["notice"]])]
        print_result(
            {"recordings": collected.ranked_recordings(), "notices": notices}, as_json, result_lines.recording_lines
        )
        about["notice"] = ""  # said
    print_notes(collected.status)
    for sentence in [] if printed else shorten_list(collected.not_judged()):
        print_message(sentence)
    return print_problems(collected.problems, "" if printed else about["notice"])


def predict_arriving(asked: Asked, refused: dict[str, Any]) -> int:
    """The endless job of `predict`; `refused` are options that do not go with it, and whether they are given."""
    from rales.inference.output_paths import check_outputs, model_files
    from rales.jobs.watch_folders import answer_arriving

    out, folders = asked.out, asked.paths
    if out is None or out.suffix.lower() != ".csv":
        raise UsageError("--watch: expected --out FILE.csv, to which the rows of each recording are added")
    if named := [option for option, given in refused.items() if given]:
        raise UsageError(f"{named[0]} does not go with --watch, which adds rows to one CSV file; leave it out")
    if others := [folder for folder in folders if not Path(folder).is_dir()]:
        raise UsageError(f"--watch: {others[0]} is no folder of this machine; expected folders that recordings come to")
    check_outputs({"--out": [out]}, {"a file of the model": model_files(asked.model)})
    classifier = asked.load()
    how: dict[str, Any] = {"cycles": asked.cycles, "quality": asked.quality, "tell": print_message}
    found = answer_arriving(classifier, list(map(Path, folders)), out, classifier.decision(**asked.decision), **how)
    print_result({"out": str(out), **found}, asked.as_json, result_lines.arrived_lines)
    return 1 if found["failed"] else 0


def refuse_with_manifest(engine: str, device: str | None, watch: bool) -> None:
    """Options that a batch job does not take. Errors: UsageError where one is given."""
    if watch:
        raise UsageError("--watch with --manifest: expected folders that recordings come to, or a list of them")
    if engine != "auto":
        raise UsageError(f"--engine {engine} with --manifest: give an artefact of it as --model (rales export)")
    if device is not None:
        raise UsageError(f"--device {device} with --manifest: its workers choose for themselves; leave it out")


def check_prediction_format(out: Path | None, form: str | None, status: Path | None, summary: Path | None) -> str:
    """Options of `predict` -> the format of `out`. Errors: UsageError, before any recording is looked for."""
    from rales.inference import prediction_writers

    if form is not None and out is None:
        raise UsageError(f"--format {form}: expected --out with it; --json prints a document instead")
    prediction_writers.check_table_name("--status", status)
    prediction_writers.check_table_name("--summary", summary)
    form = "csv" if out is None else form or prediction_writers.table_format(out)
    if out is not None:
        prediction_writers.check_format(out, form)
    return form


def check_prediction_files(
    out: Path | None,
    form: str,
    status: Path | None,
    summary: Path | None,
    sources: list[str],
    tables: list[str],
    model: str | None,
) -> None:
    """Files that `predict` is to write, and those that it reads. Errors: UsageError where one would replace another."""
    from rales.inference import prediction_writers
    from rales.inference.output_paths import RECORDING, check_outputs, model_files

    files = {"--status": [status] if status else [], "--summary": [summary] if summary else []}
    files["--out"] = prediction_writers.planned_files(out, form, sources) if out is not None else []
    read: dict[str, Iterable[str | Path]] = {
        RECORDING: sources,
        "a table that is read": tables,
        "a file of the model": model_files(model),
    }
    check_outputs(files, read)


def predict_manifest(
    manifest: Path, out: str | None, form: str | None, others: list[Path | None], json: bool, **words: Any
) -> int:
    """The batch job of `predict`."""
    from rales.inference.output_paths import check_outputs, model_files
    from rales.jobs import batch_predict

    if out is None or form not in (None, "parquet") or any(others):
        raise UsageError("--manifest: expected --out FOLDER; it holds Parquet shards of cycles, summary and status")
    files = [] if is_url(out) else [Path(out)]
    check_outputs({"--out": files}, {"the manifest": [manifest], "a file of the model": model_files(words["model"])})
    limit_threads(1)  # as the workers, which take the engine that is found here
    found = batch_predict.predict_manifest(manifest, out, progress=True, tell=print_message, **words)
    print_result({"out": str(out), **found}, json, result_lines.batch_lines)
    return print_problems(found["problems"])


@dataclass
class PredictionSummary:
    """What `predict` says besides its tables; all `cycles` only if they are printed."""

    cycles: bool
    label_set: LabelSet
    said: dict[str, str] = field(default_factory=dict)
    pooling: dict[str, Any] | None = None
    tables: list[dict[str, Any]] = field(default_factory=list)
    status: list[dict[str, Any]] = field(default_factory=list)
    summary: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    files: dict[Path, None] = field(default_factory=dict)
    rows: int = 0

    def add(self, table: dict[str, Any], status: dict[str, Any], files: list[Path]) -> None:
        """Columns of cycles and of the status of some recordings, and the files that they are in."""
        from rales.evaluation.predictions import count_answers
        from rales.evaluation.recordings import answer_columns

        self.rows += len(table["cycle"])
        self.files |= dict.fromkeys(files)
        self.status.append(status)
        counts = count_answers(table, self.label_set)
        self.summary.append(counts | answer_columns(table, self.pooling) if self.label_set.is_icbhi else counts)
        if self.cycles:
            self.tables.append(table)

    def not_judged(self) -> list[str]:
        from rales.evaluation.predictions import unjudged_sentences

        return [sentence for columns in self.status for sentence in unjudged_sentences(columns)]

    def ranked_recordings(self) -> list[dict[str, Any]]:
        """-> a row per recording, the most likely abnormal ones first, those without an answer last."""
        from rales.evaluation.recordings import COLUMNS

        rows = [row for columns in self.summary for row in column_records(columns)]
        answers = [row.get(COLUMNS[0]) for row in rows]
        ranked = sorted(range(len(rows)), key=lambda n: (answers[n] is None, -(answers[n] or 0)))
        return [rows[number] for number in ranked]

    def summary_table(self) -> "pd.DataFrame":
        """-> the same as a table, with what is said of it."""
        import pandas as pd

        from rales.evaluation.recordings import sort_by_answer

        filled = [columns for columns in self.summary if len(columns["path"])] or self.summary[:1]
        ranked = sort_by_answer(pd.concat(map(make_table, filled), ignore_index=True))
        ranked.attrs.update(self.said)
        return ranked

    def pooling_notice(self) -> str:
        from rales.evaluation.recordings import pooling_notice

        return pooling_notice(self.pooling)

    def sentence(self) -> str:
        if not self.files:
            return "no cycle, no file written"
        count = sum(len(columns["path"]) for columns in self.summary)
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.rows} cycles of {count} recording{'s' if count > 1 else ''}: {next(iter(self.files))}{more}"

    def document(self) -> dict[str, Any]:
        cycles = [row for columns in self.tables for row in column_records(columns)]
        if not any(row["true_label"] for row in cycles):
            cycles = [{name: value for name, value in row.items() if name != "true_label"} for row in cycles]
        return {
            "cycles": cycles,
            "recordings": self.ranked_recordings(),
            **({"recordings_notice": self.pooling_notice()} if self.label_set.is_icbhi else {}),
            "status": [row for columns in self.status for row in column_records(columns)],
            "problems": self.problems,
        }


def make_table(columns: dict[str, Any]) -> "pd.DataFrame":
    """Columns -> table; pandas is imported where one is asked for."""
    import pandas as pd

    return pd.DataFrame(columns)


def print_notes(status: list[dict[str, Any]]) -> None:
    """What there is to say of recordings that were read, on stderr; of very many the first."""
    rows = [row for columns in status for row in column_records(columns)]
    notes = [
        sentence if sentence.startswith(splitext(path)[0]) else f"{path}: {sentence}"  # of its annotation, or its own
        for path, sentence in ((one_line(row["path"]), row["sentence"]) for row in rows if row["status"] == "ok")
        if sentence
    ]
    for note in notes[:MOST_NOTES]:
        print_message(f"note: {note}")
    if len(notes) > MOST_NOTES:
        print_message(f"note: {len(notes) - MOST_NOTES} recordings more have a note, which --status FILE lists")


def shorten_list(sentences: list[str], most: int = 10) -> list[str]:
    """Sentences -> the first ones, and how many are left."""
    left = len(sentences) - most
    return sentences if left <= 0 else [*sentences[:most], f"and {left} more; the column quality_reason has all"]


def print_problems(problems: list[str], notice: str = "") -> int:
    """Sentences of a job on stderr -> its exit code."""
    for problem in problems:
        print_message(f"rales: {problem}")
    if notice:
        print_message(notice)
    return 1 if problems else 0


def segments(
    *paths: Annotated[Recordings, Parameter(required=True)],
    out: Out,
    model: Run = None,
    per_class: int = 0,
    min_confidence: float = 0.0,
    join: float | None = None,
    pad: float = 0.0,
    cycles: Cycles = "auto",
    device: Device = None,
    json: JsonFlag = False,
) -> int:
    """Cut what the model found out of recordings, as clips to listen to: a folder per class.

    Clips can be deleted or moved to another folder, which labels them anew. Not a diagnosis. Exit code 1 if nothing
    was cut or a recording could not be read.

    Example: rales segments visit1 --out clips --per-class 20

    Parameters
    ----------
    out
        New folder: LABEL/RECORDING_START-END_PROBABILITY.wav at the recording's own rate, and segments.csv.
    per_class
        Clips of each class at most, the most probable first; all if not given.
    min_confidence
        A label that is less probable is left out.
    join
        Neighbouring cycles of one label, at most so many seconds apart, become one clip.
    pad
        Seconds of sound before and behind each clip.
    """
    from rales.export.load import load_with_engine
    from rales.inference.segments import cut_segments

    classifier = load_with_engine(model, device=device or "auto")
    found = cut_segments(
        classifier,
        paths,
        out,
        per_class=per_class,
        min_confidence=min_confidence,
        join_s=join,
        pad_s=pad,
        cycles=cycles,
        progress=True,
    )
    print_result(found, json, result_lines.segment_lines)
    print_problems(found["problems"])
    return 1 if found["problems"] or not sum(found["counts"].values()) else 0


def embed(
    *paths: Annotated[Recordings, Parameter(required=True)],
    out: Out,
    model: Run = None,
    layer: int | Literal["fused"] = "fused",
    per: Literal["cycle", "recording"] = "cycle",
    cycles: Cycles = "auto",
    device: Device = None,
    quality: Gate = "on",
    json: JsonFlag = False,
) -> int:
    """Write one vector per breathing cycle or recording, for search, clustering or a classifier of your own.

    Cycles whose sound cannot be judged are left out and told.
    Exit code 1 if a recording could not be read; the others are unaffected.

    Example: rales embed recordings/ --model runs/m2d --out cycles.npz

    Parameters
    ----------
    out
        .npz (arrays `vectors`, `recording`, `cycle`, `start_s`, `end_s`, `path`) or .parquet (one column `vector`).
    layer
        fused: what the classifier's last layer sees. A number: mean + maximum of that layer, counted from 1.
    per
        recording: the mean of its cycles' vectors.
    """
    from rales.evaluation import predictions
    from rales.inference import audio_reader
    from rales.inference import similarity_search as sets
    from rales.inference.load_model import load_model
    from rales.inference.output_paths import RECORDING, check_outputs, model_files

    problems: list[str] = []
    sets.check_vectors_name(out)
    sources = audio_reader.find_recordings(paths)
    check_outputs({"--out": [out]}, {RECORDING: sources, "a file of the model": model_files(model)})
    classifier = load_model(model, device or "auto")
    chosen, gate = None if layer == "fused" else layer, quality == "on"
    vectors = classifier.embed_table(
        sources, problems, layer=chosen, per=per, cycles=cycles, quality=gate, progress=True
    )
    left_out = vectors.attrs["not_judged"]
    document = {"vectors": len(vectors), "out": str(out), "problems": problems, "notice": predictions.NOTICE}
    document["not_judged"] = left_out
    if len(vectors):
        about = {"model": classifier.digest, "layer": layer, "per": per, "cycles": cycles, "quality": quality}
        sets.write_vectors(vectors, out, about)
        document["width"] = len(vectors["vector"].iloc[0])
    if json:
        print_result(document, json, list)
    print_message(
        f"{len(vectors)} vectors of {document['width']} numbers: {out}"
        if len(vectors)
        else "no vector, no file written"
    )
    for sentence in shorten_list(left_out):
        print_message(sentence)
    return print_problems(problems)


def search(
    query: str,
    /,
    *,
    inside: Annotated[LocalPath, Parameter(name="--in", help="Embedding file of `rales embed`.")],
    top: int = 10,
    model: Run = None,
    json: JsonFlag = False,
) -> None:
    """Find the cycles (or recordings) of an embedding file that sound most like a given one to the model.

    The index is kept beside the file (FILE.usearch). A query that is in the file needs no model; any other is embedded
    with --model, which must be the one that made the file.

    Example: rales search 101_1b1_Al_sc_Meditron#3 --in cycles.npz

    Parameters
    ----------
    query
        A recording, by its name in the file or its path; `#3` behind it means its third cycle, else all are averaged.
        A name that several recordings have is refused: give the path.
    top
        How many to show.
    """
    from rales.inference import similarity_search as job

    if top < 1:
        raise UsageError(f"--top {top}: expected 1 or more")
    found = job.search_similar(query, inside, top, model)
    document = {"query": query, "nearest": table_records(found), "namesakes": found.attrs["namesakes"]}
    document["notice"] = result_lines.NOT_A_DIAGNOSIS
    print_result(document, json, result_lines.nearest_lines)


def explain(
    recording: str,
    /,
    *,
    cycle: int,
    cycles: Cycles = "auto",
    quality: Gate = "on",
    model: Run = None,
    target: str | None = None,
    out: OutOrNone = None,
    device: Device = None,
    json: JsonFlag = False,
) -> None:
    """Show which patches of time and frequency moved the decision on one cycle.

    What each patch added to the log-odds of a class, as a picture or a table. Not a diagnosis.

    Example: rales explain 101_1b1_Al_sc_Meditron.wav --cycle 3 --model runs/m2d --out why.png

    Parameters
    ----------
    cycle
        Number of the cycle in the table of `rales predict`, from 1.
    target
        The class to explain; without it the one predicted.
    out
        PNG to write; the numbers are written beside it as .csv (columns hz, time_s, recording_s, contribution).
    """
    from rales.inference import attribution as job
    from rales.inference import prediction_writers
    from rales.inference.load_model import load_model
    from rales.inference.output_paths import RECORDING, check_outputs, model_files

    if out is not None:
        if out.suffix.lower() != ".png":
            raise UsageError(f"--out {out}: expected a name that ends in .png")
        require_packages("a picture", "report", "matplotlib")
        files = [out, out.with_suffix(".csv")]
        check_outputs({"--out": files}, {RECORDING: [recording], "a file of the model": model_files(model)})
    classifier = load_model(model, device or "auto")
    found = job.explain_cycle(classifier, recording, cycle, target, cycles=cycles, quality=quality == "on")
    if out is not None:
        job.plot_explanation(found, out)
        prediction_writers.write_table([job.make_patch_table(found)], out.with_suffix(".csv"))
        print_message(f"{out} and {out.with_suffix('.csv')}")
    if json or out is None:
        print_result(job.explanation_document(found), json, result_lines.explain_lines)
