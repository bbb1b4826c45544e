"""Folders that recordings arrive in: each is answered once, as soon as it is whole, and its rows go into one table.

The table is the record of what is done: a recording whose path stands there is not answered again, also after a
restart and by whatever way the folder is named. While rows are added `.FILE.adding` says how long the table was, so
that what a killed process left of them is cut off: all of a recording's are there or none. FILE.watch.json says what
answered, so that no other model or decision is mixed in.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import Timeout

from rales.data.annotation_dialects import read_table
from rales.data.reader import list_files
from rales.errors import FileError, FileSystemError, count_noun
from rales.evaluation.predictions import NOTICE, Decision
from rales.files.atomic import Lock, NoLocks, atomic_write, sync_file
from rales.files.csv_cells import make_encodable, one_line
from rales.files.json_files import read_json, to_jsonable
from rales.files.writers import write_json
from rales.inference.audio_reader import is_recording
from rales.inference.prediction_writers import format_csv
from rales.inference.predictor import Predictor

LOOK_S = 1.0  # between two looks into the folders
STILL_LOOKS = 2  # further looks at which a file must be as before: whoever copies it has ended

State = tuple[int, int]  # bytes of a file, and when it was changed, in ns


def answer_arriving(
    classifier: Predictor,
    folders: Sequence[Path],
    out: Path,
    decision: Decision,
    *,
    cycles: str = "auto",
    quality: bool = True,
    tell: Callable[[str], object] = lambda sentence: None,
    wait: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Answer what is in the folders and what comes, until Ctrl-C; -> counts of recordings, cycles and failed ones.

    Parameters
    ----------
    classifier : the model.
    folders : searched through, with the folders in them.
    out : CSV that gets the columns of `rales predict`.
    decision : how probabilities become labels.
    cycles, quality : as of `Predictor.tables`.
    tell : called with a sentence for each recording.
    wait : called with the seconds until the next look; a KeyboardInterrupt from it, too, is the end.

    Errors: OUT is a table of something else, or another process writes it; a folder that is gone.
    """
    told = {name: value for name, value in asdict(decision).items() if name not in ("caution", "label_set")}
    job = {"model": classifier.digest, "cycles": cycles, "quality": quality, "decision": told}

    counts, failed = Counter[str](), dict[str, State]()
    with claim_table(out):
        check_job(out, to_jsonable(job))
        cut_back(out)
        done = read_answered(out)
        if done:
            tell(f"{out}: goes on; {count_noun(len(done), 'recording')} answered before")

        with suppress(KeyboardInterrupt):
            for path, state in watch_files([folder.absolute() for folder in folders], wait):
                if (place := name_place(path)) in done or failed.get(path) == state:
                    continue

                problems = list[str]()
                tables = [
                    table
                    for table, _ in classifier.tables([path], problems, decision, cycles=cycles, quality=quality)
                    if len(table)
                ]
                if problems:
                    failed[path] = state  # it is tried again when it changes
                    tell(problems[0])
                    continue

                if tables:
                    append_rows(out, pd.concat(tables, ignore_index=True))
                failed.pop(path, None)
                done.add(place)
                rows = sum(map(len, tables))
                counts += Counter(recordings=1, cycles=rows)
                tell(f"{one_line(path)}: {count_noun(rows, 'cycle')}")
    return {"recordings": counts["recordings"], "cycles": counts["cycles"], "failed": len(failed), "notice": NOTICE}


def watch_files(folders: Sequence[Path], wait: Callable[[float], object]) -> Iterator[tuple[str, State]]:
    """Folders -> at every look each recording that has stayed the same for STILL_LOOKS looks, and its state."""
    before, looks = dict[str, State](), Counter[str]()
    while True:
        now = {path: state for folder in folders for path, state in list_states(folder).items()}
        looks = Counter({path: looks[path] + 1 for path, state in now.items() if before.get(path) == state})
        before = now
        yield from ((path, state) for path, state in now.items() if looks[path] >= STILL_LOOKS)
        wait(LOOK_S)


def list_states(folder: Path) -> dict[str, State]:
    """Folder -> path of each recording in it that is not empty -> its state."""
    found = {}
    for path in filter(is_recording, list_files(folder, [])):
        try:
            about = path.stat()
        except OSError:  # it went away meanwhile
            continue
        if about.st_size:
            found[str(path)] = (about.st_size, about.st_mtime_ns)
    return found


@contextmanager
def claim_table(out: Path) -> Iterator[None]:
    """`with claim_table(out):` no other process adds rows. Errors: one does."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(out.with_name(f".{out.name}.lock"))
    try:
        lock.take()
    except NoLocks:
        yield  # of a file system without locks
        return
    except Timeout as error:
        raise FileError(out, "another process adds to it; stop that one or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def check_job(out: Path, job: Mapping[str, Any]) -> None:
    """Table and what answers -> FILE.watch.json says so. Errors: it says otherwise, or the table is of something
    else."""
    record = out.with_name(f"{out.name}.watch.json")
    if record.exists():
        stored = read_json(record)
        if differs := [name for name, value in job.items() if stored.get(name) != value]:
            raise FileError(out, f"was answered with another {', '.join(differs)}; choose another --out")
    elif out.exists():
        raise FileError(out, f"is there already, and no {record.name} says that --watch wrote it; choose another --out")
    else:
        write_json(record, job)


def name_place(path: str) -> str:
    """Path of a recording -> one text for every way to write it, through links too."""
    return make_encodable(os.path.realpath(path))


def read_answered(out: Path) -> set[str]:
    """Table, if it is there -> the places of the recordings in it."""
    return {name_place(row.cells["path"]) for row in read_table(out).rows} if out.exists() else set()


def append_rows(out: Path, table: pd.DataFrame) -> None:
    """Rows of a recording -> they are in the table, all or none."""
    if not out.exists():
        with atomic_write(out) as beside:
            beside.write_text(format_csv(table, header=True), encoding="utf-8", newline="")
        return
    rows, mark = format_csv(table, header=False), adding_mark(out)
    try:
        mark.write_text(f"{out.stat().st_size}\n")
        with out.open("a", newline="", encoding="utf-8") as file:
            file.write(rows)
        sync_file(out)
    except OSError as error:
        cut_back(out)
        raise FileSystemError(
            out, f"cannot be written ({error.strerror}); make room and run the same command again"
        ) from error
    except BaseException:
        cut_back(out)
        raise
    mark.unlink()


def cut_back(out: Path) -> None:
    """Table to which rows were being added -> it is as long as before those."""
    mark = adding_mark(out)
    if not mark.exists():
        return
    before = re.fullmatch(r"(\d+)\n", mark.read_text())  # unfinished itself, it stands there before any row
    if before and out.exists():
        os.truncate(out, min(int(before[1]), out.stat().st_size))
    mark.unlink()


def adding_mark(out: Path) -> Path:
    return out.with_name(f".{out.name}.adding")
