"""Files that are to be written, compared with those that are read and with one another before anything is computed."""

import csv
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data import sprsound
from rales.data.annotation_dialects import SUFFIXES, file_identity, read_table
from rales.data.reader import parse_number, read_text
from rales.errors import UsageError
from rales.files.stores import refuse_url
from rales.labels import JOINED, NOTHING
from rales.models.hub import SHIPPED

RECORDING = "a recording"

_ANNOTATIONS = (".raven.txt", ".audacity.txt", ".txt", ".json")  # the longest first
_OURS_IF = {"p_normal", "quality_reason", "vector"}  # columns of the cycles and of the vectors that Rales writes
_OUR_OTHERS = ({"status", "sentence"}, {"not_judged", "abnormal"})  # of its tables of recordings
_OUR_BANDS = (("50.000000", "8000.000000"), ("50.0", "8000.0"))  # of every selection for Raven: as now, as formerly
# of whatever classes: a label, and its probability with two digits
_AUDACITY_LINE = re.compile(r"\d+\.\d{6}\t\d+\.\d{6}\t(not judged: .*|(uncertain: )?[^\t]+ \d\.\d\d)")


def check_outputs(planned: Mapping[str, Iterable[Path]], inputs: Mapping[str, Iterable[str | Path]]) -> None:
    """Options with the files they would write, and what each input is with its files -> nothing, or a UsageError.

    No output may be an input, the annotation of a recording (`SOUND`), a table of annotations that somebody made, or
    another output; through links too, and where only the case of letters tells them apart. Nor may it be a URL.
    """
    read = {key: what for what, paths in inputs.items() for path in paths for key in file_keys(str(path))}
    beside = {
        key: "the annotation of a recording that is read"
        for path in inputs.get(RECORDING, ())
        for key in _annotation_keys(os.path.splitext(str(path))[0])
    }
    written: dict[str, str] = {}
    for option, paths in planned.items():
        for path in paths:
            refuse_url(path, option)
            mine = set(file_keys(str(path)))
            for key in mine:
                if what := read.get(key) or beside.get(key):
                    raise UsageError(f"{option} {path}: is {what}, which would be replaced; choose another name")
                if key in written:
                    other = f"{option} and {written[key]}" if written[key] != option else f"two files of {option}"
                    raise UsageError(f"{other} would be the same file, {path}; give each a name of its own")
            if what := describe_handmade_file(path):
                raise UsageError(f"{option} {path}: is {what}, which would be replaced; choose another name")
            written |= dict.fromkeys(mine, option)


def _annotation_keys(stem: str) -> Iterator[str]:
    """Path of a recording without suffix -> the keys of its annotation: that of `stem.txt` also where there is none
    yet, since it would be read as one."""
    for ending in _ANNOTATIONS:
        for path in (stem + ending, stem + ending.upper()):
            if ending == ".txt" or ("://" not in path and describe_handmade_file(Path(path))):
                yield from file_keys(path)


def file_keys(path: str) -> Iterator[str]:
    """Path -> what it shares with every other path of the same file: the place without links, the file on the disk."""
    if "://" in path:
        return
    whole = os.path.realpath(path)
    yield unicodedata.normalize("NFC", whole).casefold()
    if found := file_identity(whole):
        yield found


def describe_handmade_file(path: Path) -> str:
    """File that is there -> what it is, if people make such files and Rales has not written it, else "".

    Labels for Audacity and Raven may have been corrected since. They are ours where every label is the predicted one,
    and numbers are written as we write them; Audacity's beside a recording, which are read as its annotation, never,
    since moved boundaries leave no trace in them.
    """
    path = Path(os.path.realpath(path))
    if not os.path.isfile(path):  # unlike Path.is_file without an error for names that are too long
        return ""
    name = path.name.lower()
    ending = next((ending for ending in _ANNOTATIONS if name.endswith(ending)), "")
    beside = ending and _has_sound(path.parent / path.name[: len(name) - len(ending)])
    if ending in (".raven.txt", ".audacity.txt"):
        ours = _is_our_raven(path) if ending == ".raven.txt" else not beside and _is_our_audacity(path)
        return "" if ours else "labels that somebody made or changed"

    columns = set[str]()
    if path.suffix.lower() in SUFFIXES:
        with suppress(ValueError, OSError):
            columns = set(read_table(path).columns)
        of_cycles = _OURS_IF & columns and not columns & {"split", "confirmed"}
        if of_cycles or any(each <= columns for each in _OUR_OTHERS):
            return ""
        if {"path", "file_name"} & {column.lower() for column in columns}:
            return "a table of recordings that somebody made"
    if beside or "event_annotation" in columns or (ending == ".json" and sprsound.is_annotation(path)):
        return "the annotation of the recording beside it" if beside else "the annotation of a recording"
    return ""


def _has_sound(stem: Path) -> bool:
    """Path without suffix -> whether a recording of that name is there."""
    endings = (f"{each}" for suffix in AUDIO_SUFFIXES for each in (suffix, suffix.upper(), suffix.title()))
    return any(os.path.exists(f"{stem}{ending}") for ending in endings)


def _is_our_audacity(path: Path) -> bool:
    """Label file -> whether every line of it is one of `audacity_labels`."""
    try:
        return all(_AUDACITY_LINE.fullmatch(line) for line in read_text(path).splitlines())
    except (ValueError, OSError):
        return False


def _is_our_raven(path: Path) -> bool:
    """Label file -> whether every row of it is one of `raven_selections`; Raven writes numbers with other digits."""
    try:
        rows = list(csv.DictReader(read_text(path).splitlines(), delimiter="\t"))
    except (ValueError, OSError, csv.Error):
        return False
    for row in rows:
        frequencies = (row.get("Low Freq (Hz)"), row.get("High Freq (Hz)"))
        if row.get("Class") not in _raven_labels(row) or frequencies not in _OUR_BANDS or "Confirmed" in row:
            return False
    return True


def _raven_labels(row: Mapping[str, str]) -> set[str]:
    """Row of a Raven table of ours -> which label it may have been written with. Formerly `Predicted Class` was not
    there: the most probable, at thresholds of 0.5."""
    if (predicted := row.get("Predicted Class")) is not None:
        return {predicted}
    p = {column[2:]: parse_number(cell) for column, cell in row.items() if column and column.startswith("p_")}
    known = {name: value for name, value in p.items() if value is not None}
    if not p or len(known) < len(p):
        return {"not judged"}
    if abs(sum(known.values()) - 1) > 0.01:  # of independent classes
        return {JOINED.join(name for name, value in known.items() if value > 0.5) or NOTHING}
    return {name for name, value in known.items() if value == max(known.values())}  # of six digits, so two may be


def model_files(model: str | Path | None) -> list[Path]:
    """Run folder, checkpoint or artefact -> its files, none for a name of a model that comes with the package."""
    if model is None or str(model) in SHIPPED or not os.path.exists(model):
        return []
    path = Path(model)
    return [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path, path.with_suffix(".bin")]
