"""SPRSound folder (children's recordings, JSON annotations) -> cycles table (one row per event) and audit.

The release keeps `train_wav` beside `train_json`, and `test_wav` beside `test_json/intra_test_json` (patients who are
in train too) and `test_json/inter_test_json` (new patients); later releases put the year into the folder names, and
today's has `Classification/train_classification_json` and `valid_classification_json/2022/inter_test_json`, once more
under `Detection`: what is for validation there is the test side of the challenges.
"""

from __future__ import annotations

import difflib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.annotation_dialects import cell_text
from rales.data.annotations import Annotation
from rales.data.reader import (
    Cycle,
    DatasetContents,
    Recording,
    copies_note,
    group_by_stem,
    interval_problem,
    list_files,
    list_some,
    locked_problems,
    overlap_note,
    pair_files,
    parse_number,
    read_text,
    repeated_problems,
    unread_note,
    without_copies,
)
from rales.data.sprsound_tasks import NO_ROWS
from rales.errors import FileError
from rales.files.json_files import parse_json

DEVICE = "Yunting"
EVENT_FLAGS = {  # event type -> (crackle, wheeze); continuous sounds count as wheezes
    "Normal": (0, 0),
    "Rhonchi": (0, 1),
    "Wheeze": (0, 1),
    "Stridor": (0, 1),
    "Coarse Crackle": (1, 0),
    "Fine Crackle": (1, 0),
    "Wheeze+Crackle": (1, 1),
}
RECORD_LABELS = ("Normal", "CAS", "DAS", "CAS & DAS", "Poor Quality")
# Of a name -> in ICBHI's words; what p1 to p4 are says the README of the release
SITES = {"p1": "Pl", "p2": "Ll", "p3": "Pr", "p4": "Lr"}
EXTRA_COLUMNS = ("record_label", "test_part")

NAME = r"\d{8}_\d+\.\d+_[01]_p\d_\d+"  # patient_age_sex_location_number

_JSON_FOLDER = re.compile(r"(train|test|valid|val|inter_test|intra_test)[a-z0-9]*(_[a-z0-9]+)*_json", re.I)


def is_layout(folder: Path) -> bool:
    """Folder -> whether it or a sub-folder has the release's JSON folders, or annotations named as in the release."""
    return any(is_annotation(path) for path in list_files(folder))


def is_annotation(path: Path) -> bool:
    """Whether a path is that of an annotation, by its folder or by its name."""
    return path.suffix.lower() == ".json" and bool(json_folder(path) or re.fullmatch(NAME, path.stem))


def parse_recording_name(name: str) -> dict[str, str]:
    """Name of a recording without its ending -> its patient, location in ICBHI's words and device, {} if it is not
    named as in the release."""
    if not re.fullmatch(NAME, name):
        return {}
    patient, _, _, place, _ = name.split("_")
    return {"patient": patient, "location": SITES.get(place, place), "device": DEVICE}


def find_annotation(recording: Path) -> Path | None:
    """Recording -> its annotation, beside it or where the release keeps that of `train_wav/…`, in `train_json/…`; None
    if there is none. Errors: two that differ."""
    name = f"{recording.stem}.json"
    beside = recording.with_name(name)
    if os.path.isfile(beside) and is_annotation(beside):  # a name that is too long is not there; Path would raise
        return beside
    for folder in recording.absolute().parents[:3]:
        if not folder.name.lower().endswith("wav"):
            continue
        place = folder.with_name(folder.name[:-3] + "json")
        if os.path.isfile(place / name):
            return place / name
        found = [Path(parent, name) for parent, _, names in os.walk(place) if name in names]
        unlike = without_copies({name: found})[0][name]
        if len(unlike) > 1:
            raise FileError(recording, f"annotated {len(unlike)} times ({list_some(unlike)}); keep one")
        if unlike:
            return unlike[0]
    return None


def read_annotation(path: Path, duration_s: float | None) -> Annotation:
    """Annotation file and length of its recording, if known -> what is in it; nothing is raised."""
    label, cycles, problems = _read_sprsound_annotation(path, duration_s)
    remark = f"its record is {label}, without events" if label else ""
    return Annotation("SPRSound", cycles, problems + repeated_problems(str(path), cycles), remark=remark)


def find_recordings(folder: str | Path, *, audio: bool, decode: bool) -> DatasetContents:
    """SPRSound folder -> its recordings, damaged or not; `decode` reads all samples instead of the headers only.

    Events are flagged as `EVENT_FLAGS` says: none for Normal, wheeze for Rhonchi, Wheeze and Stridor, crackle for the
    coarse and fine ones. `test_part` is intra, inter or ""; recordings of poor quality have no events and give no rows.
    """
    folder = Path(folder)
    locked = list[Path]()
    paths = list_files(folder, locked)
    sounds, copied_sounds = without_copies(group_by_stem(paths, AUDIO_SUFFIXES))
    annotations = group_by_stem((path for path in paths if is_annotation(path)), (".json",))
    if not annotations:
        raise ValueError(
            f"{folder}: no annotation in SPRSound layout (train_json/*.json, test_json/*_test_json/*.json); give the "
            "folder that holds train_json and train_wav"
        )
    sides = {name: {json_folder(path) for path in same} for name, same in annotations.items()}
    annotations, copied = without_copies(annotations)
    with_audio = audio and bool(sounds)
    names = sorted(annotations.keys() | sounds.keys()) if with_audio else sorted(annotations)

    def read_one(name: str) -> Recording:
        heard = sounds.get(name, []) if with_audio else None
        split = next(iter(sides[name])) if len(sides.get(name, ())) == 1 else ""
        return _pair_sprsound_files(name, annotations.get(name, []), heard, split, folder=folder, decode=decode)

    with ThreadPoolExecutor() as pool:
        recordings = list(pool.map(read_one, names))
    notes = copies_note(folder, copied_sounds + copied) + unread_note(folder, paths)
    poor = sum(recording.extra["record_label"] == "Poor Quality" for recording in recordings)
    if poor:
        notes.append(f"{folder}: {NO_ROWS}: {poor}")
    if not sounds:
        notes.append(f"{folder}: annotations only, no recording")
    return DatasetContents(
        folder,
        recordings,
        problems=locked_problems(locked),
        notes=notes,
        extra_columns=EXTRA_COLUMNS,
        split_problems=_split_problems(folder, sides, annotations),
    )


def _split_problems(folder: Path, sides: dict[str, set[str]], annotations: dict[str, list[Path]]) -> list[str]:
    """Names, the sides their annotations lie on, and these without copies -> a sentence for each copy that is on both
    sides, one for those that are on none."""
    problems = [
        f"{folder}: {name} is annotated for train and for test; keep one"
        for name, found in sides.items()
        if len(found) > 1 and len(annotations[name]) == 1
    ]
    nowhere = [name for name, found in sides.items() if found == {""}]
    if nowhere:
        problems.append(
            f"{folder}: nothing says whether these are for training: {list_some(nowhere)}; keep the release's folders "
            "train_json and test_json"
        )
    return problems


def _pair_sprsound_files(
    name: str, annotations: list[Path], sounds: list[Path] | None, split: str, *, folder: Path, decode: bool
) -> Recording:
    """The files of one name -> the recording; `sounds` is None where audio is not asked for."""
    recording = pair_files(name, annotations, sounds, suffix=".json", folder=folder, decode=decode)
    problems, notes = list(recording.problems), list(recording.notes)
    parts = name.split("_")
    if len(parts) != 5:
        problems.append(f"{(annotations or sounds or [folder])[0]}: the name is not patient_age_sex_location_number")
        parts = [""] * 5
    label = test_part = ""
    cycles: list[Cycle] = []
    if annotations:
        path = annotations[0]
        label, cycles, wrong = _read_sprsound_annotation(path, recording.info.duration_s if recording.info else None)
        problems += wrong
        problems += repeated_problems(str(path), cycles)
        notes += overlap_note(str(path), cycles)
        if not cycles and not wrong and label != "Poor Quality":
            notes.append(f"{path}: no events, though the recording is {label}")
        inner = next(filter(None, (re.match(r"(intra|inter)_test", part) for part in path.parent.parts[::-1])), None)
        test_part = inner[1] if inner else ""
    return replace(
        recording,
        patient=parts[0],
        device=DEVICE,
        location=parts[3],
        split=split,
        cycles=cycles,
        problems=problems,
        notes=notes,
        extra={"record_label": label, "test_part": test_part},
    )


def _read_sprsound_annotation(path: Path, duration_s: float | None) -> tuple[str, list[Cycle], list[str]]:
    """Annotation file -> (record label, events sorted by start, a sentence per broken thing)."""
    try:
        document = parse_json(read_text(path), str(path), "replace it by the published file")
    except (ValueError, OSError) as error:
        return "", [], [str(error)]
    if not isinstance(document, dict) or not {"record_annotation", "event_annotation"} <= document.keys():
        return "", [], [f"{path}: expected a JSON object with record_annotation and event_annotation"]
    label, events = cell_text(document["record_annotation"]), document["event_annotation"]
    problems = []
    if label not in RECORD_LABELS:
        problems.append(f"{path}: record_annotation {label!r}, expected one of {', '.join(RECORD_LABELS)}")
    if not isinstance(events, list):
        return label, [], [*problems, f"{path}: event_annotation is no list of events"]
    cycles = []
    for event_number, event in enumerate(events, start=1):
        cycle = _cycle_of_event(event, duration_s)
        if isinstance(cycle, Cycle):
            cycles.append(cycle)
        else:
            problems.append(f"{path}, event {event_number}: {cycle}; fix or remove the event")
    return label, sorted(cycles), problems


def _cycle_of_event(event: object, duration_s: float | None) -> Cycle | str:
    """One event (times are milliseconds, as text or numbers) -> the cycle, or what is wrong with the event."""
    if not isinstance(event, dict) or not {"start", "end", "type"} <= event.keys():
        return "expected start, end and type"
    start, end, kind = (cell_text(event[name]) for name in ("start", "end", "type"))
    start_ms, end_ms = parse_number(start), parse_number(end)
    if start_ms is None or end_ms is None:
        return f"start and end are {start!r} and {end!r}, expected milliseconds"
    if kind not in EVENT_FLAGS:
        close = difflib.get_close_matches(kind, EVENT_FLAGS, n=1, cutoff=0.0)[0]
        return f"type {kind!r} is not known; did you mean {close!r}?"
    wrong = interval_problem(start_ms / 1000, end_ms / 1000, duration_s)
    return wrong or Cycle(start_ms / 1000, end_ms / 1000, *EVENT_FLAGS[kind], kind)


def json_folder(path: Path) -> str:
    """Path -> "train" or "test" by the innermost JSON folder of the release that it lies in, else ""."""
    for name in reversed(path.parent.parts):
        if match := _JSON_FOLDER.fullmatch(name):
            return "train" if match[1].lower() == "train" else "test"
    return ""
