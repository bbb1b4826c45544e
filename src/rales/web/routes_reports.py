"""List a folder of runs for the page, and render the report of `rales report` once for each state."""

import hashlib
import threading
from pathlib import Path
from typing import Any

from rales import report
from rales.report.load_runs import run_folders
from rales.training import run_folder

drawing = threading.Lock()  # matplotlib's figures are global


def list_runs(folder: Path | None) -> list[dict[str, Any]]:
    """Folder of run folders -> name, recipe, finished and the score of each; unreadable ones are left out."""
    runs = []
    for name, run in runs_by_name(folder).items():
        try:
            recipe = str(run_folder.read_json(run / "config.json")["recipe"])
        except (OSError, ValueError, KeyError):
            continue
        runs.append(
            {"name": name, "recipe": recipe, "finished": (run / "done").is_file(), "score": score_of(run)},
        )
    return runs


def render_report(folder: Path | None, name: str, kept: Path) -> str:
    """Name of a run, or "" for all of them -> its report as one HTML page. KeyError for an unknown name."""
    known = runs_by_name(folder)
    if folder is None or not known:
        raise KeyError("no folder of runs is served; start `rales serve` with --runs")
    if name and name not in known:
        raise KeyError(f"no run {name!r} here; GET /runs lists those that are")
    chosen = [known[name]] if name else list(known.values())
    state = [(str(run), file.stat().st_mtime_ns) for run in chosen for file in sorted(run.glob("*.js*"))]
    out = kept / hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    with drawing:
        if not (out / "report.html").is_file():
            report.write_report(chosen, out)
    return (out / "report.html").read_text(encoding="utf-8")


def runs_by_name(folder: Path | None) -> dict[str, Path]:
    """-> name -> run folder; a name is the path inside `folder`."""
    folders = run_folders([folder]) if folder is not None else []
    return {run.relative_to(folder).as_posix() if run != folder else run.name: run for run in folders}  # type: ignore[arg-type]


def score_of(run: Path) -> float | None:
    """-> the ICBHI score of a run's own evaluation, a fraction."""
    try:
        score = run_folder.read_json(run / "evaluation.json").get("score")
    except (OSError, ValueError):
        return None
    return float(score) if isinstance(score, int | float) else None
