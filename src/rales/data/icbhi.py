"""ICBHI 2017 folder -> cycles table (one row per breathing cycle) and audit.

The published archive holds `<recording>.wav` beside `<recording>.txt` (lines `start end crackles wheezes`) and the
official split `ICBHI_challenge_train_test.txt`. Found here too: FLAC in place of WAV, files in sub-folders, the split
list beside the folder or as `official_split.txt`, archives that hold the tree twice, annotations without any audio,
recordings of one's own beside annotations in any form of `annotations`, some of them not annotated, or with one name
in several folders.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.annotations import PROGRAMS, read_annotation, unlabelled_problem
from rales.data.reader import (
    Cycle,
    DatasetContents,
    Recording,
    copies_note,
    group_by_stem,
    list_files,
    list_some,
    locked_problems,
    overlap_note,
    pair_files,
    parse_number,
    read_text,
    same_content,
    unread_note,
    without_copies,
)

DEVICES = ("AKGC417L", "LittC2SE", "Litt3200", "Meditron")
LOCATIONS = ("Tc", "Al", "Ar", "Pl", "Pr", "Ll", "Lr")
MODES = ("sc", "mc")
SPLIT_FILE = "ICBHI_challenge_train_test.txt"
SPLIT_FILES = (SPLIT_FILE.lower(), "official_split.txt")  # the second in copies that come with later papers' code
DEMOGRAPHICS_FILE = "ICBHI_Challenge_demographic_information.txt"
ADULT_YEARS = 18  # nobody in the database is between 16 and 19

# Text files that the database or its mirrors bring along and that annotate no recording. `_events.txt` is the
# annotators' second set (single crackles and wheezes), which some copies unpack into the same folder.
_NO_ANNOTATION = re.compile(
    r"icbhi_challenge_.*|official_split|filename_(format|differences)|.*_events(\.\w+)?|.*(licen[cs]e|readme|diagnosis|demographic).*",
    re.I,
)
_OF_DATABASE = re.compile(r"\d{3}_\d+[a-z]\d+_")  # how all its names begin; one that then differs is a mistake


def find_recordings(folder: str | Path, *, audio: bool, decode: bool) -> DatasetContents:
    """ICBHI folder -> its recordings, damaged or not; `decode` reads all samples instead of the headers only.

    An empty folder raises ValueError, a missing one FileNotFoundError.
    """
    folder = Path(folder)
    locked = list[Path]()
    paths = list_files(folder, locked)
    sounds = group_by_stem(paths, AUDIO_SUFFIXES)
    texts = _annotations_by_name(paths, sounds)
    lists = [path for path in paths if path.name.lower() in SPLIT_FILES] or _split_lists_beside(folder)
    strays = [stem for stem in texts if stem not in sounds and not re.match(r"\d+_", stem)]
    for stem in list(texts):
        if stem in strays or (stem not in sounds and _NO_ANNOTATION.fullmatch(stem)):
            del texts[stem]
    sounds, texts = _separate_namesakes(folder, sounds, texts)
    sounds, copied_sounds = without_copies(sounds)
    texts, copied_texts = without_copies(texts)
    names = sorted(texts.keys() | sounds.keys()) if audio else sorted(texts)
    if not names:
        raise ValueError(
            f"{folder}: no recording and no annotation in ICBHI layout (101_1b1_Al_sc_Meditron.wav or .flac beside "
            "101_1b1_Al_sc_Meditron.txt); give the folder that the database was unpacked to"
        )

    splits, split_problems, notes = _read_splits(folder, lists, names)
    notes += copies_note(folder, copied_sounds + copied_texts)
    own = [name for name in names if _is_own(name)]
    unmarked = {name for name in own if name not in texts} if texts.keys() & sounds.keys() else set[str]()
    if not lists and len(own) == len(names):  # nobody has published a split of these; `splits` asks for one to train
        notes, split_problems = [*notes, *split_problems], []
    if own:
        notes.append(
            f"{folder}: not named as in ICBHI 2017, so each counts as a patient of its own: {list_some(own)}; a "
            "manifest (CSV) can name patients"
        )
    if unmarked:
        notes.append(f"{folder}: recordings without annotation, which give no rows: {list_some(sorted(unmarked))}")
    unknown = [f"{stem}.txt" for stem in strays if not _NO_ANNOTATION.fullmatch(stem)]
    if unknown:
        notes.append(f"{folder}: not taken for annotations: {list_some(unknown)}")
    notes += unread_note(folder, paths)
    if not sounds:
        notes.append(f"{folder}: annotations only, no recording")

    with_audio = audio and bool(sounds)

    def read_one(name: str) -> Recording:
        heard = sounds.get(name, []) if with_audio else None
        marks, split = texts.get(name, []), splits.get(name, "")
        return _pair_icbhi_files(name, marks, heard, split, folder=folder, decode=decode, needed=name not in unmarked)

    with ThreadPoolExecutor() as pool:  # files are read outside the interpreter lock
        recordings = list(pool.map(read_one, names))
    return DatasetContents(
        folder, recordings, problems=locked_problems(locked), notes=notes, split_problems=split_problems
    )


def _annotations_by_name(paths: Iterable[Path], sounds: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Files, recordings by name -> text files by name; anna.raven.txt is that of anna where there is no anna.txt, or
    none in the folder that holds both it and a recording anna."""
    texts = group_by_stem(paths, (".txt",))
    for program in PROGRAMS:
        plain = {stem: {path.parent for path in same} for stem, same in texts.items()}
        for stem in list(texts):
            name = stem.removesuffix(program)
            if name == stem or stem in sounds or name not in sounds:
                continue
            heard = {path.parent for path in sounds[name]} - plain.get(name, set())
            taken = [path for path in texts[stem] if name not in plain or path.parent in heard]
            left = [path for path in texts.pop(stem) if path not in taken]
            texts |= {key: same for key, same in ((name, texts.get(name, []) + taken), (stem, left)) if same}
    return texts


def _separate_namesakes(
    folder: Path, sounds: dict[str, list[Path]], texts: dict[str, list[Path]]
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Recordings and annotations by name -> the same, with unlike recordings of one own name in several folders
    (visit1/anna, visit2/anna) named by their folder too, each with the annotation beside it.

    One of the database is there once: two that differ stay under one name, and are a problem of `pair_files`.
    """
    sounds, texts = dict(sounds), dict(texts)
    for stem in list(sounds):
        unlike = without_copies({stem: sounds[stem]})[0][stem]
        if not _is_own(stem) or len({path.parent for path in unlike}) < 2:
            continue
        named = {path: path.relative_to(folder).with_name(stem).as_posix() for path in unlike}
        names = {path: next(named[other] for other in unlike if same_content(path, other)) for path in sounds[stem]}
        places = {path.parent: name for path, name in names.items()}
        if not all(path.parent in places for path in texts.get(stem, [])):
            continue

        del sounds[stem]
        for path, name in names.items():
            sounds.setdefault(name, []).append(path)
        for path in texts.pop(stem, []):
            texts.setdefault(places[path.parent], []).append(path)
    return sounds, texts


def _is_own(name: str) -> bool:
    """Whether a recording is not named as in the database, nor as by a mistake in such a name."""
    stem = name.rpartition("/")[2]
    return not parse_recording_name(stem) and not _OF_DATABASE.match(stem)


def read_cycle_annotation(path: Path, duration_s: float | None) -> tuple[list[Cycle], list[str]]:
    """Annotation file in any form of `annotations` and length of its recording, if known -> (cycles sorted by start, a
    sentence per fault)."""
    annotation = read_annotation(path, duration_s)
    return annotation.cycles, [*annotation.problems, *unlabelled_problem(path, annotation)]


def parse_recording_name(stem: str) -> dict[str, str]:
    """Name of a recording without its ending -> its patient, location, mode and device, {} if it is not named as in the
    database."""
    parts = stem.split("_")
    if len(parts) != 5 or parts[2] not in LOCATIONS or parts[3] not in MODES or parts[4] not in DEVICES:
        return {}
    return {"patient": parts[0], "location": parts[2], "mode": parts[3], "device": parts[4]}


def device_of(stem: str) -> str:
    """Name of a recording without its ending -> its device, "" if it is not named as in the database."""
    device = stem.split("_")[-1]
    return device if device in DEVICES else ""


def sex_and_age(recordings: Iterable[str]) -> dict[str, int]:
    """Paths of recordings -> patient -> group: 0 boy, 1 girl, 2 man, 3 woman, -1 where sex or age is not known.

    The demographic file lies beside the recordings or in the folder above: patient, age in years, sex, adult's BMI,
    child's weight and height, NA where unknown (patient 223: all of it). Errors: no such file, or a line that is none.
    """
    given = list(map(Path, recordings))
    folders = sorted({path.absolute().parent for path in given} | {path.resolve().parent for path in given})
    places = [place / DEMOGRAPHICS_FILE for folder in folders for place in (folder, folder.parent)]
    split_list = next((path for path in places if path.is_file()), None)
    if split_list is None:
        raise ValueError(f"{folders[0]}: no {DEMOGRAPHICS_FILE} in it or in the folder above, which tells sex and age")
    groups = {}
    for line_number, line in enumerate(read_text(split_list).splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) < 3 or columns[2] not in ("F", "M", "NA"):
            raise ValueError(
                f"{split_list}, line {line_number}: {line.strip()!r}, expected `patient age sex(F|M|NA) …`"
            )
        years = parse_number(columns[1])
        known = years is not None and columns[2] != "NA"
        groups[columns[0]] = (columns[2] == "F") + 2 * (years >= ADULT_YEARS) if known and years is not None else -1
    return groups


def _pair_icbhi_files(
    name: str, texts: list[Path], sounds: list[Path] | None, split: str, *, folder: Path, decode: bool, needed: bool
) -> Recording:
    """The files of one name -> the recording; `sounds` is None where audio is not asked for, `needed` says whether
    there must be an annotation."""
    recording = pair_files(name, texts, sounds, suffix=".txt", folder=folder, decode=decode, needed=needed)
    problems, notes = list(recording.problems), list(recording.notes)
    facts = parse_recording_name(name) if "/" not in name else {}
    if not facts and not _is_own(name):
        problems.append(
            f"{(texts or sounds or [folder])[0]}: the name is not patient_session_location_mode_device with a "
            f"location of {', '.join(LOCATIONS)}, a mode of {', '.join(MODES)} and a device of {', '.join(DEVICES)}; "
            "rename the file, or describe your own recordings in a manifest (CSV)"
        )

    cycles: list[Cycle] = []
    if texts:
        marks = read_annotation(texts[0], recording.info.duration_s if recording.info else None)
        cycles = marks.cycles
        problems += [*marks.problems, *unlabelled_problem(texts[0], marks)]
        notes += overlap_note(str(texts[0]), cycles)
        notes += filter(None, [marks.note(texts[0])])

    return replace(
        recording,
        patient=facts.get("patient", name),
        location=facts.get("location", ""),
        mode=facts.get("mode", ""),
        device=facts.get("device", ""),
        split=split,
        cycles=cycles,
        problems=problems,
        notes=notes,
    )


def _split_lists_beside(folder: Path) -> list[Path]:
    """Folder -> the split lists in its parent, where some archives keep them."""
    with suppress(OSError):  # a folder above that may not be read is none of ours
        return [path for path in sorted(folder.resolve().parent.iterdir()) if path.name.lower() in SPLIT_FILES]
    return []


def _read_splits(folder: Path, lists: list[Path], names: list[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Split lists and recording names -> (split per recording, problems, notes).

    Names are joined whole first. The published list calls 226_1b1_Pl_sc_LittC2SE by another device; so a recording
    that the list does not name takes the one line left over that differs in the device only. Copies of the list that
    repaired this line, or hold both names, need no such step.
    """
    if not lists:
        missing = (
            f"{folder}: no {SPLIT_FILE} (or {SPLIT_FILES[1]}) in it, its sub-folders or beside it; put the official "
            "split there, or say `rales train --set split.name=folds`, which needs none"
        )
        return {}, [missing], []
    sides, problems = _read_lists(lists)
    both = [name for name, found in sides.items() if len(found) > 1]
    problems += [f"{lists[0]}: {name} is listed as both train and test; keep one line" for name in both]

    left_over, waiting = defaultdict(list), defaultdict(list)
    for name in sides.keys() - set(names):
        left_over[name.rpartition("_")[0]].append(name)
    for name in names:
        if name not in sides:
            waiting[name.rpartition("_")[0]].append(name)
    splits = {name: next(iter(sides[name])) for name in names if name in sides and name not in both}
    notes = []
    for place, unlisted in waiting.items():
        if place and len(unlisted) == len(left_over[place]) == 1 and left_over[place][0] not in both:
            alias = left_over[place][0]
            splits[unlisted[0]] = next(iter(sides[alias]))
            notes.append(f"{lists[0]}: {unlisted[0]} is listed as {alias} ({splits[unlisted[0]]})")
        else:
            problems += [f"{lists[0]}: {name} is in no split; add a line `{name} train` or test" for name in unlisted]

    listed = {name.rpartition("_")[0]: min(found) for name, found in sides.items()}
    if len(splits) < len(listed):
        here, all_ = Counter(splits.values()), Counter(listed.values())
        counts = ", ".join(f"{here[side]} of {all_[side]} {side}" for side in ("train", "test"))
        notes.append(f"{folder}: holds part of the {len(listed)} recordings of the split list: {counts}")
    return splits, problems, notes


def _read_lists(lists: list[Path]) -> tuple[dict[str, set[str]], list[str]]:
    """Split lists (several copies may lie in sub-folders) -> (sides named for each recording, problems)."""
    sides: dict[str, set[str]] = defaultdict(set)
    problems = []
    for path in lists:
        try:
            lines = read_text(path).splitlines()
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        for line_number, line in enumerate(lines, start=1):
            columns = line.split()
            if len(columns) == 2 and columns[1].lower() in ("train", "test"):
                sides[columns[0]].add(columns[1].lower())
            elif columns:
                problems.append(f"{path}, line {line_number}: {line.strip()!r}, expected `recording train` or test")
    return dict(sides), problems
