"""Write one report from run folders: tables, plots, and published scores beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rales.files.atomic import atomic_write, lock_folder
from rales.files.csv_cells import make_encodable
from rales.files.writers import write_csv
from rales.optional_packages import require_packages
from rales.report import comparison, page, tables
from rales.report.headline import one_label
from rales.report.literature import TABLE1, TABLE2, paper_rows
from rales.report.load_runs import UnusedFolder, read_runs
from rales.report.pool_folds import pool_complete_folds
from rales.report.protocols import PROTOCOLS
from rales.report.sections import build_sections, comparability_warnings, describe_classes, lead_blocks, left_out_blocks
from rales.report.systems import System, group_by_label_set, group_into_systems, ranking_figure
from rales.report.worst_cycles import locate_recordings

TITLE = "Rales: report on respiratory-sound classification"


def write_report(paths: Sequence[Path], out: Path, data: Path | None = None) -> Path:
    """Run folders, or folders that hold some -> `out`/report.html; beside it report.md, three CSV files and the PNGs.

    With the `data` that the runs were tested on, the page also shows how the worst mistakes look and sound.

    A run that is unfinished, broken or a repetition is named in the report with the reason. Runs of each label set have
    sections of their own, ICBHI's first. ValueError if no run can be used, UsageError if a package is missing, OSError
    where `out` cannot be written.
    """
    check_packages()
    runs, left_out = read_runs(paths)
    groups = [group_into_systems(pool_complete_folds(group)) for group in group_by_label_set(runs)]
    recordings = None if data is None else locate_recordings(data)
    of_icbhi = groups[0] if groups[0][0].label_set.is_icbhi else []
    table1 = comparison.paper_pairs(paper_rows(TABLE1), of_icbhi, ratio_named=True)
    table2 = comparison.paper_pairs(paper_rows(TABLE2), of_icbhi)
    lead, parts = lead_blocks(groups[0], left_out), build_sections(groups[0], left_out, table1, table2, recordings)
    if len(groups) > 1:
        lead, parts = join_label_sets(groups, left_out, parts, recordings)

    with lock_folder(out):
        for block in (block for part in parts for block in part.blocks):
            if isinstance(block, page.Picture):
                write_content(out / block.file, block.png)
        write_csv(out / "runs.csv", pd.concat([tables.runs_frame(systems) for systems in groups], ignore_index=True))
        write_csv(out / "table1.csv", comparison.paper_frame(table1))
        write_csv(out / "table2.csv", comparison.paper_frame(table2))
        write_content(out / "report.md", make_encodable(page.render_markdown(TITLE, lead, parts)).encode())
        write_content(out / "report.html", make_encodable(page.render_html(TITLE, lead, parts)).encode())
    return out / "report.html"


def join_label_sets(
    groups: list[list[System]],
    left_out: list[UnusedFolder],
    first: list[page.Section],
    recordings: Mapping[str, Path] | None,
) -> tuple[list[page.Block], list[page.Section]]:
    """Systems of several label sets, and the sections of the first -> the report's lead, and the sections of all."""
    parts: list[page.Section] = []
    for number, systems in enumerate(groups, start=1):
        names = describe_classes(systems[0].label_set)
        sections = first if number == 1 else build_sections(systems, [], [], [], recordings)
        parts.append(page.Section(f"set-{number}", f"Label set {number}: {names}", lead_blocks(systems, left_out)))
        parts += [page.number_section(section, number) for section in sections]
    lead = page.Text(
        f"These runs tell {len(groups)} sets of classes apart. Each set has its own sections; no figure is compared or "
        "pooled between them.",
        warning=True,
    )
    return [lead], parts


def check_packages() -> None:
    """UsageError if a report cannot be written for want of a package: to be called before work whose end it is."""
    require_packages("a report", "report", "jinja2", "matplotlib")


def rank_systems(paths: Sequence[Path]) -> dict[str, Any]:
    """Run folders, or folders that hold some -> how their systems rank, for the end of a sweep: `order` says by what,
    `systems` has a row each, best first (means over seeds, fractions; None where there are no validation patients;
    `constant_predictions` names the class for each seed that calls every test cycle the same)."""
    groups = [group_into_systems(pool_complete_folds(group)) for group in group_by_label_set(read_runs(paths)[0])]
    names = ("validation_auroc", "validation_score", "specificity", "sensitivity", "score")
    rows = [
        {
            "system": s.name,
            "seeds": len(s.runs),
            "epoch": PROTOCOLS[s.select],
            **({} if s.label_set.is_icbhi else s.label_set.to_record()),
            "ranked_by": f"validation_{ranking_figure(systems)}" if s.is_validated else "test_score",
            **{name: None if (mean := float(s.figures[name].mean())) != mean else mean for name in names},
            "constant_predictions": [called for run in s.runs if (called := one_label(run.predictions))],
        }
        for systems in groups
        for s in systems
    ]
    return {"order": " ".join(dict.fromkeys(map(tables.order_note, groups))), "systems": rows}


def paper_text(paths: Sequence[Path]) -> str:
    """Run folders, or folders that hold some -> as Markdown, the rows of the paper's tables that were run, beside the
    printed figures, what was run and is none, and every way to choose the epoch that the runs tell of. Runs of other
    classes than ICBHI's are left out."""
    runs = [run for run in read_runs(paths)[0] if run.label_set.is_icbhi]
    if not runs:
        return "No run here is of the four classes of ICBHI 2017, so none stands beside the paper's tables."
    systems = group_into_systems(pool_complete_folds(runs))
    rows = list(dict.fromkeys([*paper_rows(TABLE1), *paper_rows(TABLE2)]))
    pairs = [pair for pair in comparison.paper_pairs(rows, systems) if pair.system]
    whole = any(run.whole_database for s in systems for run in s.runs)
    paper = comparison.paper_table("The paper's rows", pairs, whole) if pairs else None
    blocks = [
        paper,
        *comparison.missing_rows_text(systems),
        tables.protocols_table(systems),
        tables.oracle_gaps_table(systems),
    ]
    return "\n\n".join(page.markdown_block(block) for block in blocks if block)


def scores_table(paths: Sequence[Path]) -> str:
    """Run folders, or folders that hold some -> the main table as Markdown, and what was left out."""
    runs, left_out = read_runs(paths)
    blocks: list[page.Block] = []
    for group in group_by_label_set(runs):
        systems = group_into_systems(pool_complete_folds(group))
        blocks += [tables.main_table(systems), *comparability_warnings(systems)]
    return "\n\n".join(map(page.markdown_block, [*blocks, *left_out_blocks(left_out)]))


def write_content(path: Path, content: bytes) -> None:
    with atomic_write(path) as beside:
        beside.write_bytes(content)
