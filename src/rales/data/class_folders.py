"""Clips in a folder per class -> recordings of one cycle each.

    clips/crackle/a.wav, clips/normal/b.wav                  every clip is for training
    clips/train/crackle/a.wav, clips/test/normal/b.wav       the split is that of the folders above
    'clips/{label}/{patient}_*.wav'                          a pattern says where class, patient, split … stand

Who a clip is from is said by the pattern, by `metadata.csv` in the folder (columns file_name, patient, and split,
device, location if known), or by a name as in ICBHI 2017. Otherwise every clip counts as a patient of its own, and a
note says so.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.annotation_dialects import TableRow, read_table
from rales.data.icbhi import SPLIT_FILES, parse_recording_name
from rales.data.manifest import recordings_of_rows
from rales.data.reader import DatasetContents, list_files, list_some, locked_problems, unread_note
from rales.errors import FileError, UsageError
from rales.labels import LabelSet

FIELDS = ("label", "patient", "split", "device", "location", "recording")
SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
METADATA = "metadata.csv"
FACTS = ("patient", "split", "device", "location")  # columns that are taken from it


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern of this layout."""
    return "{label}" in str(path)


def is_layout(folder: Path, label_set: LabelSet) -> bool:
    """Folder -> whether folders in it, or in its `train` and `test`, are called as classes and hold recordings.

    Not where any recording in it has a text beside it, which would be an annotation, or a split list is there.
    """
    if not folder.is_dir():
        return False
    above = [folder, *(each for each in _list_folders(folder) if each.name.lower() in SPLITS)]
    named = [each for place in above for each in _list_folders(place) if find_class(each.name, label_set)]
    if not any(file.suffix.lower() in AUDIO_SUFFIXES for each in named for file in list_files(each, [])):
        return False
    files = list_files(folder, [])
    sounds = {file.with_suffix("") for file in files if file.suffix.lower() in AUDIO_SUFFIXES}
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    return not any(file.name.lower() in SPLIT_FILES or file.with_suffix("") in sounds for file in texts)


def _list_folders(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []


def find_class(word: str, label_set: LabelSet) -> str | None:
    """Name of a folder, with or without a plural -> the label that it stands for, None if it is none."""
    return label_set.find_label(word) or label_set.find_label(word.removesuffix("s"))


def find_recordings(path: Path, *, audio: bool, decode: bool, label_set: LabelSet) -> DatasetContents:
    """Folder or pattern -> its clips, each a recording of one cycle; `decode` reads all samples.

    Errors: a pattern with other fields, or that no clip fits; clips whose length nobody asks for (`audio` False).
    """
    folder, pattern = split_pattern(path) if is_pattern(path) else (path, None)
    if not audio:
        raise FileError(path, "clips in folders have no cycles without their sound; this needs annotations with times")
    locked = list[Path]()
    paths = list_files(folder, locked)
    clips = [each for each in paths if each.suffix.lower() in AUDIO_SUFFIXES]
    told = read_metadata(folder)

    rows, strays = list[TableRow](), list[str]()
    for clip in clips:
        inside = clip.relative_to(folder).as_posix()
        said = _match(pattern, inside) if pattern else _read_places(inside)
        row = told.pop(inside, {})
        if said is None:
            strays.append(inside)
            continue
        label = find_class(said["label"], label_set) or said["label"]
        split = said.get("split", "")
        cells = {**row, **{name: word for name, word in said.items() if word}}
        cells |= {"path": str(clip), "label": label}
        cells |= {"split": SPLITS.get(split.lower(), split)} if split else {}
        rows.append(TableRow(str(clip), {name: cells.get(name, "") for name in (*FIELDS, "path")}))
    if not rows:
        expected = f"none of {len(clips)} recordings fits it" if clips else f"no recording in {folder}"
        raise FileError(path, f"{expected}; expected FOLDER/CLASS/CLIP.wav, or a pattern with {{label}}")

    has_split = any(row.cells["split"] for row in rows)
    recordings, problems = recordings_of_rows(folder, rows, label_set, has_split=has_split, audio=True, decode=decode)
    problems += [f"{folder / METADATA}: {name} is not there" for name in told]
    unset = [row.where for row in rows if has_split and not row.cells["split"]]
    split_problems = [f"{unset[0]}: is neither in train nor in test, and {len(unset) - 1} more"] if unset else []
    notes = [*_list_notes(path, rows, strays, has_split=has_split), *unread_note(folder, paths)]
    return DatasetContents(
        folder, recordings, [*locked_problems(locked), *problems], notes, split_problems=split_problems
    )


def _list_notes(path: Path, rows: list[TableRow], strays: list[str], *, has_split: bool) -> Iterator[str]:
    """What the folders leave open, and how it is taken."""
    nobody = [row for row in rows if not row.cells["patient"] and not parse_recording_name(Path(row.where).stem)]
    if nobody:
        yield (
            f"{path}: patients are unknown for {len(nobody)} of {len(rows)} clips; each counts as one of its own, so a "
            f"patient's clips may train and test; give {METADATA} (file_name, patient) or a pattern with {{patient}}"
        )
    if not has_split:
        yield f"{path}: no folders train and test; every clip counts as train"
    if strays:
        yield f"{path}: recordings in no folder of a class, left out: {len(strays)} ({list_some(strays)})"


def _read_places(inside: str) -> dict[str, str] | None:
    """Relative path of a clip -> label and split that its folders say, None if it is in none."""
    *folders, _ = inside.split("/")
    split = folders.pop(0) if folders and folders[0].lower() in SPLITS else ""
    return {"label": folders[0], "split": split} if folders else None


def split_pattern(path: Path) -> tuple[Path, re.Pattern[str]]:
    """Pattern -> the folder before its first field or *, and the expression for paths in it. Errors: other fields."""
    parts = path.parts
    first = next(number for number, part in enumerate(parts) if re.search(r"[{*]", part))
    inner = "/".join(parts[first:])
    fields = re.findall(r"\{(\w*)\}", inner)
    if wrong := [name for name in fields if name not in FIELDS]:
        raise UsageError(f"{path}: no field {{{wrong[0]}}}; there are {', '.join(f'{{{name}}}' for name in FIELDS)}")
    if doubled := [name for name in fields if fields.count(name) > 1]:
        raise UsageError(f"{path}: {{{doubled[0]}}} stands there twice; put * in one of the places")
    expression = ""
    for piece in re.split(r"(\{\w*\}|\*)", inner):
        field = re.fullmatch(r"\{(\w+)\}", piece)
        expression += f"(?P<{field[1]}>[^/]+?)" if field else "[^/]*" if piece == "*" else re.escape(piece)
    return Path(*parts[:first]), re.compile(expression)


def _match(pattern: re.Pattern[str], inside: str) -> dict[str, str] | None:
    found = pattern.fullmatch(inside)
    return found.groupdict() if found else None


def read_metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Folder -> relative path of a clip -> what its metadata.csv says of it. Errors: no column file_name or path."""
    path = folder / METADATA
    if not path.is_file():
        return {}
    columns, rows, _ = read_table(path)
    name = next((each for each in ("file_name", "path") if each in columns), None)
    if name is None:
        raise FileError(path, f"no column file_name (found: {', '.join(columns)}); it names the clip of each row")
    told = {}
    for row in rows:
        inside = os.path.normpath(row.cells[name]).replace(os.sep, "/")
        told[inside] = {each: row.cells[each] for each in FACTS if row.cells.get(each)}
    return told
