"""Learn from what people have confirmed: a model calibrated for this clinic, or trained on, beside the old one.

The confirmed cycles of a session become a manifest with patients. One job at a time works on it in a process of its
own (`learn_job.py`), in the folder `learning` of the service; what it has prepared of the sound is removed when it
ends. Then a person decides: the model is used, and stands in `models` from now on, or it is removed.
"""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import TypeAdapter

from rales.data.splits import FOLDS, assign_folds, digest_name
from rales.errors import count_noun
from rales.files.json_files import read_json
from rales.files.writers import write_csv, write_json
from rales.inference.calibrate import describe_missing_finding
from rales.labels import LabelSet
from rales.typing import Row
from rales.web import cycle_edits
from rales.web.model_registry import MODEL
from rales.web.schemas_learn import Job
from rales.web.security import ApiError
from rales.web.store import remove_tree

if TYPE_CHECKING:
    from rales.web.service import Service

LEAST_TO_CALIBRATE = 10  # patients; nine can promise 90 % coverage
LEAST_TO_TRAIN = 5  # patients, two of whom are held out
LEAST_UNHEARD = 4  # patients new to the old model from which on the held-out ones are of these alone
MOST_EPOCHS = 200
LOOK_S = 0.5  # between two looks at the process
LAST_S = 4.0  # that a job has to end
FROZEN = {"head": "encoder", "all": "none"}  # what learns -> what stays frozen
COLUMNS = ["id", "recording", "patient", "device", "location", "start_s", "end_s", "label"]
IDLE: Row = {"status": "none"}
log = logging.getLogger(__name__)


def list_confirmed(service: "Service", session: str) -> tuple[pd.DataFrame, list[str], int]:
    """-> the usable cycles of a session that a person has confirmed (COLUMNS), sentences on recordings that are left
    out, and how many recordings count as a patient each, since nothing names theirs."""
    rows, left_out = [], []
    for row in service.session_rows(session):
        cycles = [cycle for cycle in row["cycles"] if cycle["confirmed"] and not cycle.get("unusable")]
        if cycles and (why := service.missing_sound(row)):
            left_out.append(f"{cycle_edits.recording_title(row['path'])}: {why}")
        elif cycles:
            rows.append({**row, "cycles": cycles})
    patients, names = name_patients(rows), name_recordings(rows)
    table = pd.DataFrame(
        [
            {
                **{name: row[name] for name in ("id", "device", "location")},
                "recording": names[row["id"]],
                "patient": patients[row["id"]],
                **{name: cycle[name] for name in ("start_s", "end_s", "label")},
            }
            for row in rows
            for cycle in row["cycles"]
        ],
        columns=COLUMNS,
    )
    return table, left_out, sum(not row["patient"] for row in rows)


def name_patients(rows: list[Row]) -> dict[str, str]:
    """Recordings (id, path, patient, digest) -> id -> patient: as the name says, else the recording itself. The same
    sound is of one patient, whatever it is called."""
    owners, found = dict[str, str](), dict[str, str]()
    for row in sorted(rows, key=lambda row: not row["patient"]):
        name = row["patient"] or cycle_edits.recording_title(row["path"])
        found[row["id"]] = owners.setdefault(row["digest"] or row["id"], name)
    return found


def name_recordings(rows: list[Row]) -> dict[str, str]:
    """Recordings (id, path) -> id -> its name with the folders, numbered where others have it too: a manifest with a
    name twice would get other names, by which nobody could tell later what a model was trained on."""
    names, taken = dict[str, str](), set[str]()
    for row in rows:
        title = cycle_edits.recording_title(row["path"])
        numbered = (f"{title} ({number})" for number in count(2))
        names[row["id"]] = next(name for name in chain([title], numbered) if name not in taken)
        taken.add(names[row["id"]])
    return names


def find_heard(recordings: "pd.Series[str]", digests: Collection[str]) -> "pd.Series[bool]":
    """Names of `name_recordings`, and `trained_recordings` of a model's record, which knows files of one folder by
    their name alone -> which of them the model was trained on."""
    alone = recordings.map(lambda name: name.rpartition("/")[2])
    return recordings.map(digest_name).isin(digests) | alone.map(digest_name).isin(digests)


def hold_out_patients(cycles: pd.DataFrame, heard: set[str], normal: str) -> "pd.Series[str]":
    """Confirmed cycles, patients on whom the old model was trained, the normal class -> `split` of the cycles: a fifth
    of the patients, two or more, tests; of those whom the old model does not know, where they are enough."""
    unheard = cycles[~cycles["patient"].isin(heard)]
    drawn = unheard if unheard["patient"].nunique() >= LEAST_UNHEARD else cycles
    folds = drawn.groupby(assign_folds(drawn, min(FOLDS, drawn["patient"].nunique() // 2)))

    def can_be_measured(rows: pd.DataFrame) -> tuple[bool, bool]:
        """Of two patients there are intervals, of normal and abnormal cycles there is a Score."""
        return rows["patient"].nunique() > 1, (rows["label"] == normal).nunique() > 1

    best = max((rows for _, rows in folds), key=can_be_measured)
    tests = set(best["patient"])
    return cycles["patient"].map(lambda patient: "test" if patient in tests else "train").rename("split")


class Learning:
    """The job of a service, if there is one, and the models that were learned before."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.folder = service.store.folder / "learning"
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.thread: threading.Thread | None = None
        self.stopping = threading.Event()
        if self.is_done():  # what is done waits for a decision
            self.clear()
        else:  # of a service that was ended
            remove_tree(self.folder)

    def is_done(self) -> bool:
        """Whether the folder, which may have come with somebody's project, holds a job that has ended."""
        try:
            job = TypeAdapter(Job).validate_python(self.state())
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return job.status == "failed" or (job.status == "done" and (self.folder / MODEL).is_file())

    # What is possible

    def survey(self, session: str, model: str) -> Row:
        """A session and the name of a model -> `schemas_learn.Survey`: what is confirmed, and what can be learned."""
        table, left_out, unnamed = list_confirmed(self.service, session)
        heard, problem = self.heard_patients(table, model)
        return {
            **count_cycles(table),
            "recordings": int(table["id"].nunique()),
            "unnamed": unnamed,
            "heard": None if heard is None else len(heard),
            "classes": self.service.label_set.count_labels(table["label"]),
            **{kind: problem or self.why_not(kind, table, heard or set()) for kind in ("calibrate", "train")},
            "left_out": left_out,
        }

    def heard_patients(self, table: pd.DataFrame, model: str) -> tuple[set[str] | None, str]:
        """-> the patients on whom a model was trained, None where its record does not tell; and why it cannot learn."""
        try:
            record = self.service.models.record(model)
        except (ValueError, OSError):
            return None, f"{model} is no run folder or checkpoint that can be read, and nothing else can learn"
        if LabelSet.from_record(record) != self.service.label_set:
            return None, f"{model} tells other classes apart than these sessions have"
        names = record.get("split", {}).get("trained_recordings")
        if names is None:
            return None, ""
        return set(table.loc[find_heard(table["recording"], names), "patient"]), ""

    def why_not(self, kind: str, table: pd.DataFrame, heard: set[str]) -> str:
        return self.why_not_calibrate(table, heard) if kind == "calibrate" else self.why_not_train(table)

    def why_not_calibrate(self, table: pd.DataFrame, heard: set[str]) -> str:
        table = table[~table["patient"].isin(heard)]
        if lack := describe_lack(table, LEAST_TO_CALIBRATE):
            return lack + (", beside those on whom the model was trained" if heard else "")
        return describe_missing_finding(table, self.service.label_set)

    def why_not_train(self, table: pd.DataFrame) -> str:
        return describe_lack(table, LEAST_TO_TRAIN)

    # The job

    def begin(self, session: Row, kind: str, model: str, learns: str, epochs: int) -> None:
        """Start a job on a session (id, name). Errors: ApiError where there is one, or too little is confirmed."""
        if not 1 <= epochs <= MOST_EPOCHS:
            raise ApiError(422, f"{epochs} epochs, expected 1 to {MOST_EPOCHS}")
        table, left_out, _ = list_confirmed(self.service, session["id"])
        heard, problem = self.heard_patients(table, model)
        heard = heard or set()
        if problem := problem or self.why_not(kind, table, heard):
            raise ApiError(409, problem)
        if kind == "calibrate":
            table = table[~table["patient"].isin(heard)]
        task: Row = {"kind": kind, "model": model, "source": self.service.models.sources[model], "learns": learns}
        task |= {"freeze": FROZEN[learns], "epochs": epochs, "session": session["id"], "session_name": session["name"]}
        task |= {**count_cycles(table), "left_out": left_out, "begun": time.time()}
        with self.lock:
            if self.state()["status"] in ("running", "done"):
                raise ApiError(409, "a job is there already; stop it, or use or discard what it has made, first")
            if self.thread is not None and self.thread.is_alive():  # it would write into the folder of this one
                raise ApiError(409, "the job that was stopped is still ending; try again in a moment")
            remove_tree(self.folder)
            self.folder.mkdir()
            write_json(self.folder / "task.json", task)
            self.stopping.clear()
            self.thread = threading.Thread(
                target=self.work, args=(table, heard, task), name="rales-learning", daemon=True
            )
            self.thread.start()

    def work(self, table: pd.DataFrame, heard: set[str], task: Row) -> None:
        """Prepare the manifest, have the process do its work, and clear away what only that needed."""
        try:
            table, left_out = self.copy_sound(table)
            if left_out:  # the task says what it is about from here on
                task |= {**count_cycles(table), "left_out": [*task["left_out"], *left_out]}
                write_json(self.folder / "task.json", task)
                if problem := self.why_not(task["kind"], table, heard):
                    raise RuntimeError(". ".join([problem, *left_out]))
            split = (
                "" if task["kind"] == "calibrate" else hold_out_patients(table, heard, self.service.label_set.normal)
            )
            write_csv(self.folder / "manifest.csv", table.assign(split=split).drop(columns="id"))
            self.watch_process(set(table["id"]))
            if not (self.folder / "result.json").is_file():
                raise RuntimeError("the process ended without a result; the service's terminal shows more")
        except Exception as error:
            sentence = getattr(error, "sentence", None) if isinstance(error, ApiError) else str(error)
            if not isinstance(error, ApiError | ValueError | OSError | RuntimeError):
                log.exception("a learning job")
            with suppress(OSError):
                write_json(self.folder / "result.json", {"problem": str(sentence)})
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove what a job needs only while it runs: the sound of patients, and what is made of it."""
        for name in ("sound", "cache", "run"):
            remove_tree(self.folder / name)
        (self.folder / "manifest.csv").unlink(missing_ok=True)

    def copy_sound(self, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
        """Confirmed cycles -> those whose sound is there, with `path`, and sentences on the recordings whose file is
        another one or gone. The copy stays beside the job until it ends: the service keeps sound of few recordings."""
        paths, left_out, place = dict[str, str](), list[str](), self.folder / "sound"
        place.mkdir()
        for recording, name in dict(zip(table["id"], table["recording"], strict=True)).items():
            if self.stopping.is_set():
                raise RuntimeError("stopped")
            sound = self.service.store.place(recording) / "audio.wav"
            try:
                self.service.ensure_sound(recording)
                paths[recording] = str(shutil.copy(sound, place / f"{recording}.wav"))
            except ApiError as error:
                if error.status == 503:  # the decoder is out of order, not this recording
                    raise
                left_out.append(error.sentence)
            except FileNotFoundError:
                left_out.append(f"{name}: its sound was removed")
        return table[table["id"].isin(paths)].assign(path=lambda rows: rows["id"].map(paths)), left_out

    def watch_process(self, recordings: set[str]) -> None:
        """Start the process and wait for its end; it is ended where that is asked for, or a recording that it learns
        from has been removed. Errors: RuntimeError, why it was ended."""
        self.process = start_process(self.folder)
        try:
            while self.process.poll() is None:
                session = read_json(self.folder / "task.json")["session"]
                rows = self.service.store.rows("SELECT id FROM recordings WHERE session = ?", session)
                if recordings - {row["id"] for row in rows}:
                    raise RuntimeError("a recording that it learned from was removed; begin again")
                if self.stopping.wait(LOOK_S):
                    raise RuntimeError("stopped")
        finally:
            end_process(self.process)
        if self.process.returncode < 0:
            raise RuntimeError(
                "the system ended the process, maybe for lack of memory; close other programs, or train less"
            )

    def state(self) -> Row:
        """-> the job (see `schemas_learn.Job`), read anew."""
        try:
            task = read_json(self.folder / "task.json")
        except (OSError, ValueError):
            return IDLE
        known = {name: task[name] for name in ("kind", "model", "learns", "epochs", "session", "session_name")}
        known |= {name: task[name] for name in ("cycles", "patients")}
        if self.thread is not None and self.thread.is_alive():
            return {**IDLE, "status": "running", **self.progress(), **known}
        try:
            result = read_json(self.folder / "result.json")
        except (OSError, ValueError):
            return IDLE
        if "problem" in result:
            return {**IDLE, "status": "failed", **known, "problem": self.without_paths(result["problem"])}
        held_out = {"tested_cycles": result["cycles"], "tested_patients": result["patients"]}
        notes = [*result["notes"], *(f"left out: {sentence}" for sentence in task.get("left_out", ()))]
        known["seed"] = result.get("seed")
        return {"status": "done", **known, **held_out, "figures": result["figures"], "notes": notes}

    def progress(self) -> Row:
        try:
            return dict(read_json(self.folder / "progress.json"))
        except (OSError, ValueError):
            return {"phase": "prepare"}

    def without_paths(self, sentence: str) -> str:
        """A sentence in which no visitor reads where this machine keeps things."""
        for folder in (self.folder, self.service.store.folder):
            sentence = sentence.replace(f"{folder}{os.sep}", "")
        return sentence

    def discard(self) -> None:
        """End the job that runs, or remove what it has made. Errors: ApiError where there is none."""
        with self.lock:
            if self.state()["status"] == "none":
                raise ApiError(404, "there is no job to stop and no model to discard")
            self.end()
            remove_tree(self.folder)

    def stop(self) -> None:
        """End the job that runs, as the service ends."""
        with self.lock:
            running = self.thread is not None and self.thread.is_alive()
            self.end()
            if running:
                remove_tree(self.folder)

    def end(self) -> None:
        self.stopping.set()
        if self.process is not None:
            end_process(self.process)
        if self.thread is not None:
            self.thread.join(LAST_S)

    # The models

    def use(self, name: str) -> None:
        """What the job has made becomes a model that can be chosen. Errors: ApiError for a name that is taken, or
        nothing that is done."""
        name = cycle_edits.clean_line(name)
        if not 1 <= len(name) <= 60:
            raise ApiError(422, f"the name has {len(name)} letters, expected 1 to 60")
        with self.lock:
            state = self.state()
            if state["status"] != "done":
                raise ApiError(409, "no model waits for a decision; calibrate or train one first")
            if name.lower() in map(str.lower, self.service.models.sources):
                raise ApiError(409, f"there is a model {name} already; choose another name")
            made = time.strftime("%Y-%m-%d", time.localtime())
            place = self.service.store.folder / "models" / secrets.token_hex(8)
            place.mkdir(parents=True)
            write_json(place / "learned.json", {"name": name, "origin": describe_origin(state, made)})
            os.utime(self.folder / MODEL)  # it answers from now on: an older answer of its name is another model's
            (self.folder / MODEL).rename(place / MODEL)
            remove_tree(self.folder)
            self.service.models.look()

    def remove(self, learned: str) -> None:
        """Remove a model that was learned, and what it said. Errors: ApiError where there is none of that id."""
        with self.lock:
            model = self.service.models.forget(learned)
            if model is None:
                raise ApiError(404, "no such model; it may have been removed, or it was not learned here")
            remove_tree(model.source.parent)
            self.service.store.change("DELETE FROM scores WHERE model = ?", model.name)


def count_cycles(table: pd.DataFrame) -> Row:
    return {"cycles": len(table), "patients": int(table["patient"].nunique())}


def describe_lack(table: pd.DataFrame, least: int) -> str:
    """-> how many patients are missing, "" where they are enough."""
    have = table["patient"].nunique()
    return "" if have >= least else f"{have} of {least} confirmed patients: {least - have} more needed"


def describe_origin(job: Row, made: str) -> str:
    """A job that is done, and the day -> where its model is from, in one line."""
    what = {"calibrate": "calibrated", "train": "trained on"}[job["kind"]]
    how = f", {describe_training(job)}" if job["kind"] == "train" else ""
    about = f"{count_noun(job['cycles'], 'confirmed cycle')} of {count_noun(job['patients'], 'patient')}"
    origin = f"{job['model']}, {what} here{how}: {about} of {job['session_name']}, {made}"
    if job["kind"] == "train":
        new = job["figures"][0]["new"]["value"]
        score = "unknown" if new is None else f"{new:.2f}"
        origin += f"; Score {score} on {count_noun(job['tested_patients'], 'patient')} held out"
    return origin


def describe_training(job: Row) -> str:
    """A job that has trained -> what of the model learned, how long, and from which seed, where its record tells."""
    what = "head only" if job["learns"] == "head" else "all of it"
    seed = "" if job["seed"] is None else f", seed {job['seed']}"
    return f"{what}, {count_noun(job['epochs'], 'epoch')}{seed}"


def start_process(folder: Path) -> "subprocess.Popen[bytes]":
    """-> the process of a job, in a session of its own, so that it ends with all that it has started."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rales.web.learn_job", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_process(process: Any) -> None:
    """End a job's process, if it has not ended, with everything that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
