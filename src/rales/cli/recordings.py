"""Words about people's own recordings."""

import sys
from pathlib import Path

from rales.cli.options import Cycles, Form, JsonFlag, Recordings, Run
from rales.cli.output import records, say, show


def predict(
    *paths: Recordings,
    model: Run = None,
    out: Path | None = None,
    format: Form | None = None,
    cycles: Cycles = "auto",
    json: JsonFlag = False,
) -> int:
    """Classify the breathing cycles of recordings. Cycles come from an annotation beside the recording, else
    breaths are found in the sound, else consecutive windows are taken. Not a diagnosis.

    Exit code 1 if a recording could not be read; the others are unaffected.

    Example: rales predict 101_1b1_Al_sc_Meditron.wav --model runs/m2d --out cycles.csv

    Parameters
    ----------
    out
        File to write; without it the table is printed.
    format
        csv (the default), json and parquet hold all recordings; audacity and raven write one label file per recording.
    """
    from rales import predict as job
    from rales import terminal
    from rales.config import UsageError

    if format is not None and out is None:
        raise UsageError(f"--format {format}: expected --out with it; --json prints a document instead")
    problems: list[str] = []
    table = job.load(default_model(model)).predict(paths, problems, cycles=cycles)
    if out is not None and len(table):
        written = job.write(table, out, format or "csv")
        more = f" and {len(written) - 1} more" if len(written) > 1 else ""
        count = table["path"].nunique()
        say(f"{len(table)} cycles of {count} recording{'s' if count > 1 else ''}: {written[0]}{more}")
    document = {"cycles": records(table), "problems": problems, "notice": job.NOTICE}
    if json or out is None:
        show(document, json, terminal.prediction_lines)
    for problem in problems:
        print(f"rales: {problem}", file=sys.stderr)
    if not json and out is not None:
        say(job.NOTICE)
    return 1 if problems else 0


def embed(*paths: Recordings, out: Path, model: Run = None, cycles: Cycles = "auto", json: JsonFlag = False) -> int:
    """One fused vector per breathing cycle, for search, clustering or an own classifier.

    Exit code 1 if a recording could not be read; the others are unaffected.

    Example: rales embed recordings/ --model runs/m2d --out cycles.npz

    Parameters
    ----------
    out
        .npz (arrays `vectors`, `recording`, `cycle`, `start_s`, `end_s`) or .parquet (one column `vector`).
    """
    from rales import predict as job

    problems: list[str] = []
    job.check_vectors_name(out)
    vectors = job.load(default_model(model)).embed_table(paths, problems, cycles=cycles)
    document = {"vectors": len(vectors), "out": str(out), "problems": problems, "notice": job.NOTICE}
    if len(vectors):
        job.write_vectors(vectors, out)
        document["width"] = len(vectors["vector"].iloc[0])
    if json:
        show(document, json, list)
    say(
        f"{len(vectors)} vectors of {document['width']} numbers: {out}"
        if len(vectors)
        else "no vector, no file written"
    )
    for problem in problems:
        print(f"rales: {problem}", file=sys.stderr)
    return 1 if problems else 0


def default_model(name: str | None) -> str:
    if name is None:
        from rales.config import UsageError

        raise UsageError("no --model given, and this version ships none; give a run folder of `rales train`")
    return name
