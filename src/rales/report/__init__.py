"""Run folders -> one report: tables, pictures, and the published figures beside them."""

from collections.abc import Sequence
from pathlib import Path

from rales.extras import require_packages
from rales.report import comparison, page, tables
from rales.report.contents import comparability, lead_blocks, left_out_blocks, sections
from rales.report.folders import read_runs
from rales.report.folds import pooled
from rales.report.published import TABLE1, TABLE2, paper_rows
from rales.report.systems import systems
from rales.runs import replacing, write_table

TITLE = "Rales: report on respiratory-sound classification"


def report(paths: Sequence[Path], out: Path) -> Path:
    """Run folders, or folders that hold some -> `out`/report.html; beside it report.md, three CSV files and the PNGs.

    A run that is unfinished, broken or a repetition is named in the report with the reason. ValueError if no run can
    be used, UsageError if a package is missing, OSError where `out` cannot be written.
    """
    require()
    runs, left_out = read_runs(paths)
    found = systems(pooled(runs))
    table1 = comparison.paper_pairs(paper_rows(TABLE1), found, ratio_named=True)
    table2 = comparison.paper_pairs(paper_rows(TABLE2), found)
    lead, parts = lead_blocks(found, left_out), sections(found, left_out, table1, table2)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out}: cannot make this folder ({error.strerror}); choose another --out") from error
    for block in (block for part in parts for block in part.blocks):
        if isinstance(block, page.Picture):
            write(out / block.file, block.png)
    write_table(out / "runs.csv", tables.runs_frame(found))
    write_table(out / "table1.csv", comparison.paper_frame(table1))
    write_table(out / "table2.csv", comparison.paper_frame(table2))
    write(out / "report.md", page.markdown(TITLE, lead, parts).encode())
    write(out / "report.html", page.html(TITLE, lead, parts).encode())
    return out / "report.html"


def require() -> None:
    """UsageError where a report could not be written; asked before runs that end in one, too."""
    require_packages("a report", "report", "jinja2", "matplotlib")


def scores_table(paths: Sequence[Path]) -> str:
    """Run folders, or folders that hold some -> the main table as Markdown, and what was left out."""
    runs, left_out = read_runs(paths)
    found = systems(pooled(runs))
    blocks = [tables.scores(found), *comparability(found), *left_out_blocks(left_out)]
    return "\n\n".join(map(page.markdown_block, blocks))


def write(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)
