"""Very many recordings: a manifest in, Parquet shards out, in processes here or on a Ray cluster.

A shard is a fixed stretch of the manifest, and the same whoever computes it. Its file in `status`, one row a recording,
is written last: where it stands the shard is done and never computed again. So a job that was stopped, or whose workers
died, goes on with the same command, and every recording is in the output exactly once. A store that does not answer
leaves its shards open: nothing is known of their recordings.
"""

import functools
import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rales import parallel, slurm
from rales.data import manifest as table
from rales.data.annotation_dialects import TableRow
from rales.data.corpus import CorpusSource, iterate_strings, read_corpus
from rales.environment import count_processors, count_threads, limit_threads
from rales.errors import FileError, FileSystemError, UsageError
from rales.evaluation import predictions, recordings
from rales.export.load import Tell, load_with_engine
from rales.files.csv_cells import one_line
from rales.files.json_files import to_jsonable
from rales.files.stores import ask_only, is_inside, is_url
from rales.inference import prediction_writers
from rales.inference.predictor import Predictor
from rales.jobs.shard_folders import open_shard_folder
from rales.models.hub import SHIPPED
from rales.optional_packages import summarise_error
from rales.progress import progress_bar

SHARD_RECORDINGS = 1000  # recordings: some 7,000 cycles, 1 MB; ten million recordings are 10,000 shards
RETRIES = 3  # of a shard whose worker died
GIVE_UP = 3  # shards one after another that a file, a disk or a store keeps from being computed, then the job ends


class Shard(NamedTuple):
    """A stretch of the manifest by its number; `rows` give the cycles of those recordings that have some in it."""

    number: int
    paths: tuple[str, ...]
    rows: dict[str, list[TableRow]]

    def __hash__(self) -> int:
        return hash(self.number)


def predict_manifest(
    manifest: Path,
    out: str | Path,
    *,
    model: str | None = None,
    cluster: str = "local",
    processes: int | None = None,
    address: str | None = None,
    sbatch: Sequence[str] = (),
    shard: int = SHARD_RECORDINGS,
    cycles: str = "auto",
    min_confidence: float = 0.0,
    threshold: Any = None,
    sets: float | None = None,
    quality: bool = True,
    urls: Sequence[str] = (),
    progress: bool = False,
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """Manifest (CSV or Parquet with a column `path`) -> OUT/cycles, OUT/summary and OUT/status, a Parquet file a shard;
    -> counts, and the sentences of what failed. OUT is a folder or a URL of an object store.

    Where it has start_s and end_s, these are the cycles, unless `cycles` says where else to take them from. Paths are
    relative to the manifest, absolute, or URLs; each place counts once, however it is written. `cluster`
    is "local" (`processes` at a time), "ray" (the cluster at `address`, or one started here) or "slurm" (jobs with the
    `sbatch` options); model, recordings and out must be on a file system that its nodes share, or at URLs.
    `urls` are the beginnings of addresses that the manifest may name: it may be a stranger's, and an address is asked
    from this machine, with the user's rights. `tell` takes sentences about the engine: on one thread
    the fastest is looked for here and remembered, so that workers on this machine take it too.
    Errors: no manifest, no model, an OUT of another job, an address that is not allowed, a store that does not answer.
    """
    if cluster not in ("local", "ray", "slurm"):
        raise UsageError(f"--cluster {cluster}: expected local, ray or slurm")
    if sbatch and cluster != "slurm":
        raise UsageError("--sbatch: is of --cluster slurm; add that, or leave it out")
    if shard < 1 or (processes or 1) < 1:
        raise UsageError("--shard and --processes: expected 1 or more")
    folder = open_shard_folder(out)
    if cluster == "slurm" and is_url(folder.address):
        raise UsageError(f"--out {out}: --cluster slurm writes its logs there, too; give a folder that all nodes share")
    collection = read_corpus([manifest], part="all")
    (source,) = collection.sources
    check_urls(manifest, source, urls)
    rows = read_manifest_rows(manifest, source) if cycles == "auto" else {}
    # An engine is remembered for its number of threads, and workers have one
    classifier = load_with_engine(model, recordings=len(source.used) if count_threads() == 1 else 0, tell=tell)
    decision = classifier.decision(min_confidence, threshold, sets)
    of_model = ("caution", "label_set")
    told = {name: value for name, value in asdict(decision).items() if name not in of_model}
    job = {"recordings": collection.facts()["digest"], "model": classifier.digest, "shard": shard}
    job |= {"cycles": cycles, "quality": quality, "decision": told, **({"rows": digest_rows(rows)} if rows else {})}
    is_path = model and model not in SHIPPED and Path(model).exists()
    file = str(Path(str(model)).resolve()) if is_path else model
    shared = (folder.address, file, decision, cycles, quality, tuple(urls))

    with folder.lock():
        check_same_job(out, folder.claim(job), job)
        done = folder.list_done()
        shards = split_into_shards(source, shard, rows)
        waiting = (part for part in shards if shard_file_name(part.number) not in done)
        found = start_shards(waiting, shared, cluster=cluster, processes=processes, address=address, sbatch=sbatch)
        total = -(-len(source.used) // shard) - len(done)
        with closing(found):  # also after Ctrl-C, when it would wait for its workers
            ended = progress_bar(found, shown=progress, total=total, desc="predict", unit="shard")
            failed = collect_failures(out, ended)
    return count_outcome(out, len(source.used), failed)


def collect_failures(out: str | Path, ended: Iterable[tuple[Shard, Any]]) -> list[str]:
    """Shards as they end, each with None or its error -> a sentence for each that failed. Errors: FileSystemError,
    after GIVE_UP of them in a row that a file, a disk or a store kept from being computed."""
    failed, in_row = list[str](), 0
    for part, error in ended:
        in_row = in_row + 1 if isinstance(error, OSError) else 0
        if error is not None:
            which = f"{len(part.paths)} recordings from {part.paths[0]} on"
            failed.append(f"shard {part.number} ({which}): {error}")
        if in_row == GIVE_UP:
            what = f"{GIVE_UP} shards one after another failed at a file or a store"
            hint = "what is done is kept, and the same command goes on"
            raise FileSystemError(out, f"{what}, so the job ended ({failed[-1]}); {hint}")
    return failed


def start_shards(
    waiting: Iterable[Shard],
    shared: tuple[Any, ...],
    *,
    cluster: str,
    processes: int | None,
    address: str | None,
    sbatch: Sequence[str] = (),
) -> Generator[tuple[Shard, Any]]:
    """Shards to compute -> each with None or its error, as they end on this machine or on a cluster."""
    if cluster == "slurm":
        logs = Path(shared[0]) / "slurm"
        return slurm.run_on_slurm(
            predict_shard, waiting, shared, folder=logs, options=sbatch, processes=processes, retries=RETRIES
        )
    if cluster == "ray":
        return parallel.run_on_ray(
            predict_shard, waiting, shared, processes=processes, address=address, retries=RETRIES
        )
    return parallel.run_in_processes(
        predict_shard, waiting, shared, processes=processes or count_processors(), retries=RETRIES
    )


def check_urls(manifest: Path, source: CorpusSource, allowed: Sequence[str]) -> None:
    """Recordings of a manifest, and beginnings of addresses -> a UsageError if it names another address."""
    import pyarrow.compute as pc

    # what is inside at a glance is not looked at one by one, and of the rest some at a time: there may be millions
    named = source.used.filter(pc.match_substring(source.used, "://"))
    for place in allowed:
        plain = pc.invert(pc.match_substring_regex(named, r"%|::|\.\."))
        named = named.filter(pc.invert(pc.and_(plain, pc.starts_with(named, place.rstrip("/") + "/"))))
    count, first = 0, ""
    for names in iterate_strings(named):
        refused = [url for url in names if not any(is_inside(url, place) for place in allowed)]
        count, first = count + len(refused), first or next(iter(refused), "")
    if count:
        place = first[: first.find("/", first.find("://") + 3) + 1] or first
        raise UsageError(
            f"{manifest}: names {count} address{'es' * (count > 1)} that this machine would ask, first "
            f"{one_line(first)}; if you trust the manifest, allow it with --urls {one_line(place)}"
        )


def predict_shard(
    part: Shard,
    out: str,
    model: str | None,
    decision: predictions.Decision,
    where: str = "auto",
    quality: bool = True,
    urls: Sequence[str] = (),
) -> None:
    """Write one shard's files, in a worker. Errors: StoreError, and nothing is written that says more of a recording
    than is known."""
    classifier, name = load_worker_model(model), shard_file_name(part.number)
    status, summary, problems = list[pd.DataFrame](), list[pd.DataFrame](), list[str]()
    with ask_only(urls) as session, open_shard_folder(out).write(name) as folder:
        with prediction_writers.open_table(folder / "cycles" / name) as append:
            tables = classifier.tables(part.paths, problems, decision, cycles=part.rows or where, quality=quality)
            for cycles, state in tables:
                if session.fault:
                    raise session.fault
                append(cycles)
                counts = predictions.summarise_recordings(cycles, decision.label_set)
                summary.append(recordings.add_answers(counts, cycles, classifier.calibration.get("recordings")))
                status.append(state)

        prediction_writers.write_table(summary, folder / "summary" / name)
        prediction_writers.write_table(status, folder / "status" / name)


@functools.cache
def load_worker_model(model: str | None) -> Predictor:
    """One model a worker, on one thread: there is a worker for every processor."""
    limit_threads(1)
    return load_with_engine(model)


def read_manifest_rows(manifest: Path, source: CorpusSource) -> dict[str, list[TableRow]]:
    """Manifest -> recording -> the rows that give its cycles; a folder of manifests gives none."""
    if manifest.is_dir():
        return {}
    return {locate_recording(source, name): rows for name, rows in table.spans_of(manifest).items()}


def digest_rows(rows: Mapping[str, list[TableRow]]) -> str:
    """Rows -> SHA-256: with other cycles it is another job."""
    digest, before = hashlib.sha256(b"["), ""
    for path in sorted(rows):  # the repr of one sorted list, which is never whole in memory
        for told in sorted((path, *sorted(row.cells.items())) for row in rows[path]):
            digest.update(f"{before}{told!r}".encode("utf-8", "surrogateescape"))
            before = ", "
    digest.update(b"]")
    return digest.hexdigest()


def locate_recording(source: CorpusSource, name: str) -> str:
    """Recording as its manifest names it -> its path or URL."""
    return name if is_url(name) else str(source.base / name)


def split_into_shards(
    source: CorpusSource, size: int, rows: Mapping[str, list[TableRow]] | None = None
) -> Iterator[Shard]:
    """Recordings of a manifest, and rows that give the cycles of some -> its stretches, in order."""
    rows = rows or {}
    for number, start in enumerate(range(0, len(source.used), size)):
        paths = tuple(locate_recording(source, name) for name in source.used.slice(start, size).to_pylist())
        yield Shard(number, paths, {path: rows[path] for path in paths if path in rows})


def shard_file_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def check_same_job(out: str | Path, stored: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Errors: a folder of another job."""
    differs = [key for key in job if to_jsonable(job[key]) != stored.get(key)]
    if differs:
        raise FileError(out, f"holds a job of other {', '.join(differs)}; choose another --out")


def count_outcome(out: str | Path, expected: int, failed_shards: Sequence[str]) -> dict[str, Any]:
    """Finished shards, and a sentence for each that failed -> counts. Errors: a recording that is missing though no
    shard failed."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    problems = list(failed_shards)
    counts = {"recordings": 0, "ok": 0, "failed": 0, "cycles": 0, "not_judged": 0, "seconds_of_sound": 0.0}
    folder = open_shard_folder(out)
    for path, file in folder.read_status(folder.list_done()):
        try:
            shard = pq.read_table(file, columns=["path", "status", "sentence", "duration_s", "cycles", "not_judged"])
            failed = shard.filter(pc.equal(shard["status"], "failed"))
            sums = [pc.sum(shard[name]).as_py() or 0 for name in ("cycles", "not_judged", "duration_s")]
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise FileError(
                path,
                f"damaged, no status of a shard ({summarise_error(error)}); remove it, and the same command "
                "computes the shard again",
            ) from error
        counts["recordings"] += len(shard)
        counts["failed"] += len(failed)
        counts["cycles"] += sums[0]
        counts["not_judged"] += sums[1]
        counts["seconds_of_sound"] += sums[2]
        problems += failed["sentence"].to_pylist()[: max(0, 20 - len(problems))]
    counts["ok"] = counts["recordings"] - counts["failed"]
    if counts["recordings"] != expected and not failed_shards:
        raise FileError(out, f"{counts['recordings']} of {expected} recordings; remove the folder and start again")
    return {**counts, "waiting": expected - counts["recordings"], "problems": problems, "notice": predictions.NOTICE}
