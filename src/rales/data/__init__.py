"""Read folders and manifests into the cycles table, split it, cache waveforms and make batches."""

from pathlib import Path
from types import ModuleType

from pandas import DataFrame

from rales.data import annotation_dialects, icbhi, manifest, sprsound
from rales.data.reader import Audit
from rales.labels import CLASSES

__all__ = ["CLASSES", "Audit", "audit_data", "read_cycles"]


def read_cycles(
    path: str | Path, *, skip_damaged: bool = False, audio: bool = True, needs_split: bool = True
) -> DataFrame:
    """Read a data folder or a manifest into the cycles table, one row per cycle.

    Columns: recording, cycle, patient, start_s, end_s, crackle, wheeze, label, device, location, mode, split, path, and
    what the layout adds.

    Parameters
    ----------
    path
        Folder in ICBHI or SPRSound layout, or a table file (.csv, .tsv, .parquet, .json).
    skip_damaged
        Read every sample and leave out the damaged recordings; else any problem is a ValueError that names the first.
    audio
        Ask for the audio files; without, the annotations alone are read.
    needs_split
        Whether what is wrong with the split counts; folds need none.
    """
    rows: DataFrame = _choose_reader(Path(path)).read_cycles(
        path, skip_damaged=skip_damaged, audio=audio, needs_split=needs_split
    )
    return rows


def audit_data(path: str | Path) -> Audit:
    """Find everything that is wrong or notable in a data folder or a manifest; reads every sample.

    Parameters
    ----------
    path
        Folder in ICBHI or SPRSound layout, or a manifest file.
    """
    report: Audit = _choose_reader(Path(path)).audit_data(path)
    return report


def _choose_reader(path: Path) -> ModuleType:
    """Path -> the module that reads its layout."""
    if path.is_file() or path.suffix.lower() in annotation_dialects.SUFFIXES:
        return manifest
    return sprsound if sprsound.is_layout(path) else icbhi
