"""The command `rales agreement`."""

from typing import Annotated, Any

from cyclopts import Parameter

from rales.cli.console import print_messages_once, print_result
from rales.cli.options import (
    Classes,
    Independent,
    JsonFlag,
    OutOrNone,
    SkipFlag,
    read_label_set,
    read_local_path,
)
from rales.cli.result_lines import NOT_A_DIAGNOSIS, format_number, format_table
from rales.errors import count_noun

SHOWN = 20  # differences, and cycles without a partner, at the terminal


def agreement(
    *sources: Annotated[str, Parameter(required=True, converter=read_local_path)],
    names: Annotated[tuple[str, ...], Parameter(name="--name", negative="")] = (),
    least_overlap: float = 0.5,
    out: OutOrNone = None,
    classes: Classes = None,
    independent: Independent = False,
    seed: int = 0,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Measure how far readers agree, and list the cycles that they call differently.

    Cohen's kappa of every pair, Fleiss' kappa and Krippendorff's alpha of all, with intervals by patient, for the
    classes and for each finding.

    Cycles are matched by recording and overlap, and what was not matched is said. Of tables that say which labels a
    person has confirmed, only these count.

    Example: rales agreement anna/ ben.csv --out differences.csv

    Parameters
    ----------
    sources
        What each reader said: a folder of annotations (ICBHI, Audacity, Raven, SPRSound), one of them, a table as the
        page or `rales predict` write it, READER:PATH. A table with a column `reader` holds several readers.
    names
        What the readers are called, one for each; without, as their files are; repeatable.
    least_overlap
        Share of the time that two cycles cover which both must cover to be the same breath.
    out
        Table (.csv) of the cycles that are called differently.
    seed
        Seed of the intervals.
    """
    from rales.jobs import agreement as job

    label_set = read_label_set(classes, independent=independent)
    if out is not None:
        job.check_output(out, sources)
    found = job.compare_readers(
        sources, names=names, least_overlap=least_overlap, label_set=label_set, skip_damaged=skip_damaged, seed=seed
    )
    print_messages_once(found["notes"])
    if out is not None:
        job.write_differences(found, out)
    print_result(found, json, agreement_lines)


def agreement_lines(found: dict[str, Any]) -> list[str]:
    """Document of `rales agreement` -> lines."""
    shared = f"{count_noun(found['cycles'], 'cycle')} of {count_noun(found['patients'], 'patient')}"
    rows = [[each["name"], each["recordings"], each["cycles"], each["matched"]] for each in found["readers"]]
    lines = [
        f"{shared} that two readers or more judged",
        "",
        *format_table(["", "recordings", "cycles", "matched"], rows),
    ]

    head = ["", "value", "95 %", "agreed", "cycles", "patients"]
    parts = {"all classes": found} if "alpha" in found else {}
    for name, part in {**parts, **found["findings"]}.items():
        rows = [["Krippendorff's alpha", *_figure_cells(part["alpha"])]]
        if len(found["readers"]) > 2:
            rows.append(["Fleiss' kappa", *_figure_cells(part["fleiss_kappa"])])
        rows += [
            [f"Cohen's kappa {' / '.join(pair['readers'])}", *_figure_cells(pair["kappa"])] for pair in part["pairs"]
        ]
        lines += ["", *format_table([name, *head[1:]], rows)]

    lines += ["", f"{count_noun(len(found['differences']), 'cycle')} called differently"]
    lines += _first_lines([_name_place(row) + _name_labels(row["labels"]) for row in found["differences"]])
    lines += [f"{count_noun(len(found['unmatched']), 'cycle')} of one reader alone"]
    lines += _first_lines([f"{_name_place(row)}{row['reader']}: {row['label']}" for row in found["unmatched"]])
    return [*lines, "", NOT_A_DIAGNOSIS]


def _figure_cells(figure: dict[str, Any] | None) -> list[str]:
    if figure is None:
        return ["-", "no cycle in common", "-", "0", "0"]
    low, high = map(format_number, figure["ci95"])
    interval = "no interval" if "-" in (low, high) else f"{low} to {high}"
    agreed = f"{100 * figure['agreed']:.1f} %"
    return [format_number(figure["value"]), interval, agreed, str(figure["cycles"]), str(figure["patients"])]


def _name_place(row: dict[str, Any]) -> str:
    return f"  {row['recording']} {row['start_s']:.3f}-{row['end_s']:.3f} s  "


def _name_labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{reader}: {label}" for reader, label in labels.items())


def _first_lines(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"  and {more} more (--json has all)"] if more > 0 else [])]
