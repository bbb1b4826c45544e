"""Files that are to be written, compared with those that are read and with one another before anything is computed."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rales.audio.opening import AUDIO_SUFFIXES
from rales.config import UsageError
from rales.data.dialects import on_disk, read_table

SOUND = "a recording"


def check_outputs(planned: Mapping[str, Iterable[Path]], inputs: Mapping[str, Iterable[str | Path]]) -> None:
    """Options with the files they would write, and what each input is with its files -> nothing, or a UsageError.

    No output may be an input, the annotation of a recording (`SOUND`), a table of annotations that somebody made, or
    another output; through links too, and where only the case of letters tells them apart.
    """
    read = {key: what for what, paths in inputs.items() for path in paths for key in keys(str(path))}
    beside = {
        key: "the annotation of a recording that is read"
        for path in inputs.get(SOUND, ())
        for key in keys(os.path.splitext(str(path))[0] + ".txt")
    }
    written: dict[str, str] = {}
    for option, paths in planned.items():
        for path in paths:
            mine = set(keys(str(path)))
            for key in mine:
                if what := read.get(key) or beside.get(key):
                    raise UsageError(f"{option} {path}: is {what}, which would be replaced; choose another name")
                if key in written:
                    other = f"{option} and {written[key]}" if written[key] != option else f"two files of {option}"
                    raise UsageError(f"{other} would be the same file, {path}; give each a name of its own")
            if what := made_by_hand(path):
                raise UsageError(f"{option} {path}: is {what}, which would be replaced; choose another name")
            written |= dict.fromkeys(mine, option)


def keys(path: str) -> Iterator[str]:
    """Path -> what it shares with every other path of the same file: the place without links, the file on the disk."""
    if "://" in path:
        return
    whole = os.path.realpath(path)
    yield unicodedata.normalize("NFC", whole).casefold()
    if found := on_disk(whole):
        yield found


def made_by_hand(path: Path) -> str:
    """File that is there -> what it is, if people make such files and Rales has not written it, else ""."""
    if not path.is_file():
        return ""
    if path.suffix.lower() == ".txt":
        sounds = (path.with_suffix(suffix) for suffix in AUDIO_SUFFIXES)
        return "the annotation of the recording beside it" if any(map(Path.exists, sounds)) else ""
    if path.suffix.lower() in (".csv", ".parquet"):
        try:
            columns = set(read_table(path).columns)
        except (ValueError, OSError):
            return ""
        ours = "p_normal" in columns or "label" not in columns
        if "path" in columns and (not ours or columns & {"split", "confirmed"}):
            return "a table of recordings that somebody made"
    return ""


def files_of(model: str | Path | None) -> list[Path]:
    """Run folder, checkpoint or artefact -> its files, none for a name of a model that comes with the package."""
    if model is None or not os.path.exists(model):
        return []
    path = Path(model)
    return [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path, path.with_suffix(".bin")]
