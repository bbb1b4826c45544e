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
    """Folder in ICBHI or SPRSound layout, or a table file (.csv, .tsv, .parquet, .json) -> one row per cycle.

    Columns: recording, cycle, patient, start_s, end_s, crackle, wheeze, label, device, location, mode, split, path
    (and what the layout adds). See the reader of each layout for what it checks and what `skip_damaged` and
    `audio` do. `needs_split=False`: what is wrong with the split does not count, as for folds.
    """
    rows: DataFrame = _choose_reader(Path(path)).read_cycles(
        path, skip_damaged=skip_damaged, audio=audio, needs_split=needs_split
    )
    return rows


def audit_data(path: str | Path) -> Audit:
    """Folder in ICBHI or SPRSound layout, or a manifest file -> what is wrong or notable in it; reads every sample."""
    report: Audit = _choose_reader(Path(path)).audit_data(path)
    return report


def _choose_reader(path: Path) -> ModuleType:
    """Path -> the module that reads its layout."""
    if path.is_file() or path.suffix.lower() in annotation_dialects.SUFFIXES:
        return manifest
    return sprsound if sprsound.is_layout(path) else icbhi
