"""Commands on data folders: `rales check` and `rales synth`."""

import os
from pathlib import Path

from rales.cli.console import print_message, print_result
from rales.cli.options import Classes, Independent, JsonFlag, Processes, read_label_set


def check(data: Path, /, *, classes: Classes = None, independent: Independent = False, json: JsonFlag = False) -> int:
    """Audit a data folder: counts, splits, patients on both sides, and every problem with its file and line.

    Reads folders of ICBHI 2017, SPRSound and KAUH and own manifests (CSV, Parquet). Exit code 1 if there is a problem.

    Example: rales check ICBHI_final_database
    """
    from rales.cli import result_lines
    from rales.data import audit_data

    found = audit_data(data, label_set=read_label_set(classes, independent=independent))
    print_result(found.to_dict(), json, result_lines.audit_lines)
    return 1 if found.problems else 0


def synth(
    folder: Path,
    /,
    *,
    recordings: int = 12,
    patients: int | None = None,
    seed: int = 0,
    processes: Processes = None,
    json: JsonFlag = False,
) -> None:
    """Write a synthetic folder in ICBHI layout: breath sounds, crackles and wheezes from a physical simulator.

    Example: rales synth synthetic --recordings 40 --seed 1

    Parameters
    ----------
    folder
        New or empty folder.
    recordings
        Number of recordings.
    patients
        Number of people they are of; about a seventh of the recordings, as in ICBHI 2017, if not given, at least eight.
    seed
        The same seed writes the same folder.
    """
    from rales.errors import UsageError
    from rales.synthesis.database import write_folder

    if recordings < 1:
        raise UsageError(f"--recordings {recordings}: expected 1 or more")

    processes = processes or (os.cpu_count() or 1 if recordings >= 200 else 1)
    write_folder(folder, recordings, seed, patients=patients, processes=processes)
    if json:
        print_result({"folder": str(folder), "recordings": recordings}, json, list)
    print_message(f"{recordings} synthetic recordings in {folder}; `rales check {folder}` counts their cycles")
