"""Read folders and manifests into the cycles table, split it, cache waveforms and make batches."""

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rales.data import annotation_dialects, class_folders, hf_lung, icbhi, kauh, manifest, sprsound
from rales.data.event_readers import read_events
from rales.data.reader import Audit, DatasetContents, DatasetReader, audit_of, check_contents, cycles_table
from rales.data.sprsound_tasks import take_recordings
from rales.errors import UsageError
from rales.labels import CLASSES, ICBHI, RECORDING_TASKS, LabelSet
from rales.registry import READERS

if TYPE_CHECKING:
    from pandas import DataFrame

LAYOUTS = (sprsound, kauh, hf_lung)  # each knows its own folders; what is none of them is read as ICBHI's

__all__ = ["CLASSES", "Audit", "audit_data", "read_cycles", "read_events"]


def read_cycles(
    path: str | Path,
    *,
    skip_damaged: bool = False,
    audio: bool = True,
    needs_split: bool = True,
    label_set: LabelSet = ICBHI,
) -> "DataFrame":
    """Read a data folder or a manifest into the cycles table, one row per cycle.

    Columns: recording, cycle, patient, start_s, end_s, crackle, wheeze, label, device, location, mode, split, path, and
    what the layout adds.

    Parameters
    ----------
    path
        Folder in ICBHI, SPRSound or HF_Lung_V1 layout, one with a folder of clips per class or a pattern of those
        (`clips/{label}/{patient}_*.wav`), or a table file (.csv, .tsv, .parquet, .json); READER:PATH for what an own
        reader reads, FILE.py:NAME or one that is registered.
    skip_damaged
        Read every sample and leave out the damaged recordings; else any problem is a ValueError that names the first.
    audio
        Ask for the audio files; without, the annotations alone are read.
    needs_split
        Whether what is wrong with the split counts; folds need none.
    label_set
        Whose labels the column `label` has: those of ICBHI, or own classes, which are looked up in the dataset's words.
    """
    contents = read_contents(path, audio=audio, decode=skip_damaged, label_set=label_set)
    return cycles_table(contents, skip_damaged=skip_damaged, audio=audio, needs_split=needs_split, label_set=label_set)


def audit_data(path: str | Path, *, label_set: LabelSet = ICBHI) -> Audit:
    """Find everything that is wrong or notable in a data folder or a manifest; reads every sample.

    Parameters
    ----------
    path
        As of `read_cycles`, or a KAUH folder.
    label_set
        The classes that its words are checked against and counted by.
    """
    return audit_of(read_contents(path, audio=True, decode=True, label_set=label_set), label_set)


def read_contents(
    path: str | Path,
    *,
    audio: bool,
    decode: bool,
    true_labels: bool = False,
    confirmed: bool = False,
    label_set: LabelSet = ICBHI,
) -> DatasetContents:
    """Path -> what the reader of its layout found; `true_labels`, `confirmed` and `label_set` as for
    `manifest.find_recordings`. With the classes of one of the tasks about recordings, those of SPRSound are the rows.
    Errors: an own reader that is none."""
    if class_folders.is_pattern(Path(path)) or _is_class_folder(Path(path), label_set):
        return class_folders.find_recordings(Path(path), audio=audio, decode=decode, label_set=label_set)
    reader, place = _choose_reader(Path(path))
    if reader is manifest.find_recordings:  # which rows are judged, and what a wrong word is, depends on the classes
        return manifest.find_recordings(
            place, audio=audio, decode=decode, true_labels=true_labels, confirmed=confirmed, label_set=label_set
        )
    expected = "expected a function (path, *, audio, decode) -> DatasetContents"
    try:
        inspect.signature(reader).bind(place, audio=audio, decode=decode)
    except TypeError as error:
        raise UsageError(f"{path}: its reader cannot be called ({error}); {expected}") from error

    contents = reader(place, audio=audio, decode=decode)
    if not isinstance(contents, DatasetContents):
        raise UsageError(f"{path}: its reader gave a {type(contents).__name__}; {expected}")
    if reader is sprsound.find_recordings and label_set.task in RECORDING_TASKS:
        contents = take_recordings(contents, label_set.task)
    own = reader not in tuple(layout.find_recordings for layout in (*LAYOUTS, icbhi))
    return check_contents(contents) if own else contents


def _is_class_folder(path: Path, label_set: LabelSet) -> bool:
    """Whether a path is a folder of clips per class, and not a database in whose folders such a name occurs."""
    return class_folders.is_layout(path, label_set) and not any(layout.is_layout(path) for layout in LAYOUTS)


def split_reader(path: str | Path) -> tuple[str, Path]:
    """Path, or READER:PATH -> the word for the reader ("" for those of the package) and the path."""
    named = re.fullmatch(r"(.+?\.py:\w+|\w+):(.+)", str(path))
    if not named or Path(path).exists():
        return "", Path(path)
    of_file = named[1].partition(":")[0].endswith(".py")
    return (named[1], Path(named[2])) if of_file or named[1] in READERS.list_names() else ("", Path(path))


def make_portable(path: str | Path) -> Path:
    """Path, or READER:PATH -> the same for a process that is in another folder."""
    word, place = split_reader(path)
    return Path(f"{READERS.make_portable(word)}:{place.resolve()}") if word else place.resolve()


def _choose_reader(path: Path) -> tuple[DatasetReader, Path]:
    """Path -> the reader of its layout, and the path without the reader's name."""
    word, place = split_reader(path)
    if word:
        return READERS.find(word), place
    if path.is_file() or path.suffix.lower() in annotation_dialects.SUFFIXES:
        return manifest.find_recordings, path
    layout = next((layout for layout in LAYOUTS if layout.is_layout(path)), icbhi)
    return layout.find_recordings, path
