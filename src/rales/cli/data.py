"""Commands on data folders and on this installation: `rales check`, `synth`, `data` and `doctor`."""

import os

from rales.cli import result_lines
from rales.cli.console import print_message, print_result
from rales.cli.options import (
    Classes,
    Device,
    Independent,
    JsonFlag,
    LocalPath,
    LocalPathOrNone,
    Processes,
    read_label_set,
)


def check(
    data: LocalPath, /, *, classes: Classes = None, independent: Independent = False, json: JsonFlag = False
) -> int:
    """Audit a data folder: counts, splits, patients on both sides, and every problem with its file and line.

    Reads folders of ICBHI 2017, SPRSound and KAUH and own manifests (CSV, Parquet). Exit code 1 if there is a problem.

    Example: rales check ICBHI_final_database
    """
    from rales.data import audit_data

    found = audit_data(data, label_set=read_label_set(classes, independent=independent))
    print_result(found.to_dict(), json, result_lines.audit_lines)
    return 1 if found.problems else 0


def synth(
    folder: LocalPath,
    /,
    *,
    recordings: int = 12,
    patients: int | None = None,
    seed: int = 0,
    processes: Processes = None,
    json: JsonFlag = False,
) -> None:
    """Make up recordings to try things with: simulated breath sounds, crackles and wheezes in ICBHI layout.

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


def data(name: str | None = None, folder: LocalPathOrNone = None, /, *, json: JsonFlag = False) -> int:
    """List public databases of respiratory sounds: size, licence, where to get and how to cite them.

    With the name of one and the folder you downloaded it to, compare that with what its publishers state. Nothing is
    downloaded.

    Example: rales data ICBHI ICBHI_final_database

    Parameters
    ----------
    name
        One of them: ICBHI, SPRSound, KAUH, HF_Lung_V1.
    folder
        Where you have put it. Exit code 1 if it is not as published.
    """
    from rales.data import databases

    found = databases.list_databases() if name is None else [databases.find_database(name)]
    problems = databases.check_database(name, folder) if name is not None and folder is not None else []
    document = {"databases": found, **({"problems": problems, "folder": str(folder)} if folder else {})}
    print_result(document, json, result_lines.database_lines)
    return 1 if problems else 0


def doctor(*, device: Device = None, json: JsonFlag = False) -> int:
    """Check this installation: versions, extras, devices, folders, and the model's answers to a known sound.

    Exit code 1 if something keeps Rales from working.

    Example: rales doctor --device cpu
    """
    from rales.jobs.doctor import diagnose

    found = diagnose(device or "auto")
    print_result(found, json, result_lines.doctor_lines)
    return 1 if found["problems"] else 0
