"""Read the annotation file beside a recording, in the format of ICBHI, Audacity or Raven.

    0.0  2.5  1  0                          ICBHI 2017: start, end, crackles, wheezes
    0.0  2.5  crackle 0.62                  Audacity labels, with or without the rows of frequencies
    Selection  View  Begin Time (s)  …      Raven selection table
    0.0  2.5                                begin and end alone

The Audacity and Raven files that Rales writes are read back; what they say is `not judged` is no cycle.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.raven_tables import RAVEN_TIMES, Selection, read_selections, times_in_file
from rales.data.reader import (
    Cycle,
    interval_problem,
    list_some,
    parse_number,
    read_text,
    read_text_bytes,
    repeated_problems,
    sort_cycles,
)
from rales.errors import FileError, FileProblem
from rales.labels import CLASSES, ICBHI, LabelSet

RAVENS_OWN = ".Table.1.selections"  # what Raven proposes
PROGRAMS = ("", ".raven", ".audacity", RAVENS_OWN)  # anna.txt goes before anna.raven.txt
NOT_JUDGED = "not judged"  # how the label of a cycle without a class begins in the files of `formats`
RAVEN_LABELS = ("class", "label", "annotation")  # columns, the first that is there


class Annotation(NamedTuple):
    """Cycles sorted by start, a sentence per fault, and in which form they stood there.

    `form` is ICBHI, Audacity, Raven, times, SPRSound, the name of an own reader, or "" (a text of another kind: no
    cycles). `labelled`: their flags are those of the file, or its words; else they are all 0 and say nothing. `other`
    are labels that are none of the `classes`, `left_out` counts cycles without a label among others that have one, and
    those that were not judged. `remark` says why there may be no cycles. `notes` are further sentences about it.
    """

    form: str
    cycles: list[Cycle]
    problems: list[str]
    labelled: bool = True
    other: Sequence[str] = ()
    left_out: int = 0
    classes: Sequence[str] = CLASSES
    remark: str = ""
    notes: Sequence[str] = ()

    @property
    def passed_over(self) -> str:
        """Why this is no annotation to hear a recording by, "" if it is one, be it with faults."""
        if self.other:
            rest = f"; none of its {len(self.cycles)} cycles counts until they are changed" * (len(self.cycles) > 1)
            return f"labels other than {', '.join(self.classes)}: {list_some(self.other)}{rest}"
        if self.form and (self.cycles or self.problems):
            return ""
        return f"{self.left_out} cycles, none of them judged" if self.left_out else self.remark or "no cycles in it"

    def note(self, name: str | Path) -> str:
        """What is to be said of a file of this name that is no plain annotation of a database, else ""."""
        if self.form in ("ICBHI", "SPRSound", ""):
            return ""
        classes = "" if self.labelled or not self.cycles else ", without classes"
        left = f", {self.left_out} cycles without a label left out" if self.left_out else ""
        return "; ".join([f"{name}: read as {self.form}{classes}{left}", *self.notes])


class _Line(NamedTuple):
    number: int
    start: str
    end: str
    label: str


def annotation_beside(path: Path) -> Path | None:
    """Recording -> the text beside it that is its annotation, the first of `names_beside` that is there, else None.

    A name that is too long for the file system is not there (os.path; Path would raise).
    """
    for text in names_beside(path):
        if os.path.isfile(text) and not (text.stem != path.stem and _annotates_another(text)):
            return text
    return None


def names_beside(path: Path) -> Iterator[Path]:
    """anna.wav -> anna.txt, then anna.raven.txt and the others of PROGRAMS, each also in other cases of `.txt`."""
    endings = ["".join(letters) for letters in itertools.product(*zip("txt", "TXT", strict=True))]
    for program, ending in itertools.product(PROGRAMS, endings):
        yield path.with_name(f"{path.stem}{program}.{ending}")


def annotated_name(text: Path) -> str:
    """Annotation -> the recording that it lies beside, without suffix: the undoing of `names_beside`."""
    return text.stem.removesuffix(next((each for each in PROGRAMS if each and text.stem.endswith(each)), ""))


def _annotates_another(text: Path) -> bool:
    """Whether anna.raven.txt has a recording of its very name, anna.raven.wav."""
    return any(os.path.exists(text.with_suffix(suffix)) for each in AUDIO_SUFFIXES for suffix in (each, each.upper()))


def read_annotation(
    path: Path, duration_s: float | None, name: str | None = None, label_set: LabelSet = ICBHI, recording: str = ""
) -> Annotation:
    """Annotation file and length of its recording, if known -> what is in it; nothing is raised. Sentences about it
    have its `name`, and `recording` is that of the recording, where its path does not say them. Labels of Audacity and
    Raven are those of the set."""
    try:
        lines = read_text(path).splitlines()
    except FileProblem as error:
        rough = list[str]()
        with suppress(ValueError):
            rough = [] if isinstance(error, OSError) else read_text_bytes(path).decode("latin-1").splitlines()
        is_one = isinstance(error, OSError) or any(map(_is_icbhi, rough))  # not to be passed over
        return Annotation("ICBHI" if is_one else "", [], [error.sentence(name)])
    name = name or str(path)
    written = [(place, line) for place, line in enumerate(lines, start=1) if line.strip()]
    if not written:
        return Annotation("", [], [f"{name}: empty, expected a line `start end crackles wheezes` per cycle"])
    header = [name.strip().lower() for name in written[0][1].split("\t")]
    if set(RAVEN_TIMES) <= set(header):
        notes = list[str]()
        try:
            rows = read_selections(header, written[1:], name, recording or annotated_name(path), notes)
        except FileError as error:
            return Annotation("Raven", [], [str(error)])
        lines_of_labels, note = _raven_lines(header, rows, label_set)
        notes += [f"{name}: {note}"] if note else []
        return _read_labelled_lines(name, "Raven", lines_of_labels, duration_s, label_set)._replace(notes=notes)
    if (labels := _audacity_lines(written)) is not None:
        return _read_labelled_lines(name, "Audacity", labels, duration_s, label_set)
    if not any(_is_icbhi(line) for _, line in written) and all(len(line.split()) == 2 for _, line in written):
        times = [_Line(place, line.split()[0], line.split()[1], "") for place, line in written]
        if all(parse_number(line.start) is not None and parse_number(line.end) is not None for line in times):
            return _read_labelled_lines(name, "times", times, duration_s, label_set)
    return _read_icbhi_lines(name, written, duration_s)


_COMMAS = "its times have decimal commas (0,5), expected decimal points (0.5)"


def _has_decimal_comma(columns: Sequence[str]) -> bool:
    """Whether a time, of several columns, is a number such as 0,5."""
    return len(columns) > 1 and any(re.fullmatch(r"\d+,\d+", column) for column in columns[:2])


def _is_icbhi(line: str) -> bool:
    """Whether a line is, or is meant to be, one of an ICBHI annotation."""
    columns = line.split()
    if len(columns) < 3 or parse_number(columns[0]) is None:
        return False
    return all(parse_number(column) is not None for column in columns[1:3]) or columns[2:4] in (
        ["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]
    )  # fmt: skip


def _read_icbhi_lines(name: str, written: Sequence[tuple[int, str]], duration_s: float | None) -> Annotation:
    cycles, problems = [], []
    for place, line in written:
        cycle = _cycle_of_line(line.split(), duration_s)
        if isinstance(cycle, Cycle):
            cycles.append(cycle)
        else:
            problems.append(f"{name}, line {place}: {cycle}; fix or remove the line")
    cycles.sort()
    remark = _COMMAS if not cycles and any(map(_has_decimal_comma, (line.split() for _, line in written))) else ""
    form = "ICBHI" if cycles or any(_is_icbhi(line) for _, line in written) else ""
    return Annotation(form, cycles, problems + repeated_problems(name, cycles), remark=remark)


def _cycle_of_line(columns: list[str], duration_s: float | None) -> Cycle | str:
    """The columns of one line -> the cycle, or what is wrong with the line."""
    if _has_decimal_comma(columns):
        return _COMMAS
    if len(columns) != 4:
        return f"{len(columns)} columns, expected 4 (start end crackles wheezes)"
    start_s, end_s = parse_number(columns[0]), parse_number(columns[1])
    if start_s is None or end_s is None:
        return f"start and end are {columns[0]!r} and {columns[1]!r}, expected numbers of seconds"
    if not {columns[2], columns[3]} <= {"0", "1"}:
        return f"crackles and wheezes are {columns[2]!r} and {columns[3]!r}, expected 0 or 1"
    wrong = interval_problem(start_s, end_s, duration_s)
    return wrong or Cycle(start_s, end_s, int(columns[2]), int(columns[3]))


def _audacity_lines(written: Sequence[tuple[int, str]]) -> list[_Line] | None:
    """Lines -> those of an Audacity label track; None if they are none."""
    labels = []
    for place, line in written:
        if line.startswith("\\"):  # the frequencies of the label before
            continue
        columns = [column.strip() for column in line.split("\t")]
        times = [parse_number(column) for column in columns[:2]]
        if not 2 <= len(columns) <= 3 or None in times or len(times) < 2:
            return None
        label = columns[2] if len(columns) == 3 else ""
        if parse_number(label) is not None:
            return None
        if len(columns) == 3 or line.endswith("\t"):
            labels.append(_Line(place, columns[0], columns[1], label))
        else:
            return None  # two columns and nothing behind them: begin and end
    return labels or None


def _raven_lines(header: Sequence[str], rows: Sequence[Selection], label_set: LabelSet) -> tuple[list[_Line], str]:
    """Columns and selections of a Raven table -> its lines, and a note where the labels are in no column of that
    name."""
    column, note = next((name for name in RAVEN_LABELS if name in header), None), ""
    if column is None:
        column = next((name for name in header if _holds_labels([row.get(name, "") for _, row in rows], label_set)), "")
        expected = ", ".join(name.title() for name in RAVEN_LABELS)
        note = f"its labels are those of the column {column}" if column else f"it has no column of labels ({expected})"
    return [_Line(place, *times_in_file(row), row.get(column, "")) for place, row in rows], note


def _holds_labels(cells: Sequence[str], label_set: LabelSet) -> bool:
    """Whether one of the cells is a label of the set; a class called as a number is not looked for."""
    return any(cell and parse_number(cell) is None and _read_label(cell, label_set) is not None for cell in cells)


# what Rales puts around a label: `uncertain: crackle 0.62`; once with a sentence behind it
_LABEL = re.compile(r"(?:uncertain: )?(.+?)(?: \d?\.\d+)?(?: \(.*\))?", re.I)


def _read_label(text: str, label_set: LabelSet) -> tuple[int | None, int | None, str] | None:
    """Text of a label -> crackle and wheeze, and its label in the set where that is not ICBHI's; None: neither."""
    if not (known := _LABEL.fullmatch(text)):
        return None
    for word in (text, known[1], re.sub("s$", "", known[1], flags=re.I)):
        number = CLASSES.index(word.lower()) if word.lower() in CLASSES else None
        flags = (None, None) if number is None else (number % 2, number // 2)
        if label_set.is_icbhi and number is not None:
            return (*flags, "")
        with suppress(ValueError):
            if not label_set.is_icbhi:
                return (*flags, label_set.label_cycle(word, *flags))
    return None


def _read_labelled_lines(
    name: str, form: str, lines: Sequence[_Line], duration_s: float | None, label_set: LabelSet
) -> Annotation:
    """Stretches with the text of their labels -> their cycles. Points (start = end) are no cycles and left out."""
    with_label, without, problems, other = list[Cycle](), list[Cycle](), list[str](), list[str]()
    not_judged = 0
    for line in lines:
        start_s, end_s = parse_number(line.start), parse_number(line.end)
        known, judged = _read_label(line.label, label_set), not line.label.lower().startswith(NOT_JUDGED)
        if line.label and judged and not known:
            other.append(line.label)
        if start_s is None or end_s is None:
            problems.append(
                f"{name}, line {line.number}: start and end are {line.start!r} and {line.end!r}, expected numbers"
            )
        elif wrong := start_s != end_s and interval_problem(start_s, end_s, duration_s):
            problems.append(f"{name}, line {line.number}: {wrong}; fix or remove the line")
        elif not judged:
            not_judged += 1
        elif start_s != end_s:
            (with_label if known else without).append(Cycle(start_s, end_s, *(known or (0, 0))))
    if other:
        cycles = sort_cycles(with_label + without)
        return Annotation(form, cycles, problems, labelled=False, other=other, classes=label_set.classes)
    cycles = sort_cycles(with_label or without)
    problems += repeated_problems(name, cycles)
    left_out = not_judged + (len(without) if with_label else 0)
    classes = label_set.classes
    return Annotation(form, cycles, problems, labelled=bool(with_label), left_out=left_out, classes=classes)


def unlabelled_problem(path: Path, found: Annotation) -> list[str]:
    """An annotation that is to tell classes -> the sentence for one that does not."""
    if found.labelled or found.problems or (found.left_out and not found.cycles):  # none of them was judged
        return []
    what = "times without labels" if found.cycles else "no cycle"
    what = f"labels that are no class ({list_some(found.other)})" if found.other else what
    return [
        f"{path}: {what}; expected {', '.join(found.classes)} as label of each cycle, or `start end crackles wheezes`"
    ]
