"""Write a file whole or not at all: beside its place, then renamed."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales.files.atomic import atomic_write
from rales.files.csv_cells import defuse_table
from rales.files.json_files import to_jsonable

if TYPE_CHECKING:
    import pandas as pd


def write_json(path: Path, value: Any) -> None:
    """JSON-able value -> file, indented, renamed into place."""
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(to_jsonable(value), indent=2) + "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Table -> CSV, renamed into place."""
    with atomic_write(path) as beside:
        defuse_table(table).to_csv(beside, index=False)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, renamed into place."""
    with atomic_write(target, bytes_needed=source.stat().st_size) as beside:
        shutil.copyfile(source, beside)
