"""Which annotations belong to a recording, in whatever layout it lies: the one place that decides.

The text beside a recording comes first, since that is what a person corrects; then SPRSound's JSON and the labels of
HF_Lung_V1. What a table or an own reader says of recordings is read by `read_named_cycles`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rales.data import hf_lung, read_contents, split_reader, sprsound
from rales.data.annotation_dialects import SUFFIXES, TableRow, comparable_path, locate_file, mend_path, read_table
from rales.data.annotations import Annotation, annotation_beside, read_annotation
from rales.data.manifest import spans_of
from rales.errors import FileError
from rales.labels import ICBHI, LabelSet

NamedCycles = Mapping[str, "list[TableRow] | Annotation"]  # path of a recording -> what is said of its cycles


def find_annotations(recording: Path) -> Iterator[Path]:
    """Recording -> its annotations, the one that counts most first. Errors: two of one layout that differ."""
    for find in (annotation_beside, sprsound.find_annotation, hf_lung.find_annotation):
        if (found := find(recording)) is not None:
            yield found


def read_any_annotation(
    path: Path, duration_s: float | None, name: str | None = None, label_set: LabelSet = ICBHI
) -> Annotation:
    """File of `find_annotations`, length of its recording if known, and what people know it by -> what is in it;
    nothing is raised."""
    if path.suffix.lower() == ".json":
        return sprsound.read_annotation(path, duration_s)
    if hf_lung.is_annotation(path):
        return hf_lung.read_annotation(path, duration_s)
    return read_annotation(path, duration_s, name, label_set)


def is_named_source(given: str) -> bool:
    """Whether a path names recordings instead of being one: a table, or READER:PATH."""
    return bool(split_reader(given)[0]) or (Path(given).suffix.lower() in SUFFIXES and Path(given).is_file())


def read_named_cycles(given: str) -> tuple[list[str], NamedCycles]:
    """Table or READER:PATH -> the recordings that it names, and of those whose cycles it tells, these.

    Errors: no such reader, no table, and an address in a table, which may be a stranger's.
    """
    return read_reader_cycles(given) if split_reader(given)[0] else read_table_cycles(Path(given))


def read_reader_cycles(given: str) -> tuple[list[str], NamedCycles]:
    """READER:PATH -> its recordings and their cycles; one that has problems is not to be heard without them."""
    recordings = [one for one in read_contents(given, audio=True, decode=False).recordings if one.path]
    form = split_reader(given)[0].rpartition(":")[2]
    cycles = {
        one.path: Annotation(form, list(one.cycles), list(one.problems))
        for one in recordings
        if one.cycles or one.problems
    }
    return [one.path for one in recordings], cycles


def read_table_cycles(path: Path) -> tuple[list[str], NamedCycles]:
    """Table with a column `path` -> its recordings, each place once, and the rows that give the cycles of some."""
    places: dict[str, str] = {}
    for where, cells in read_table(path).rows:
        if name := cells.get("path") or cells.get("file_name", ""):
            if "://" in name:
                raise FileError(where, "names an address, which is asked only with --manifest and --urls")
            name = mend_path(path.parent, name)
            places.setdefault(comparable_path(path.parent, name), name)
    if not places:
        raise FileError(path, "no column path with a recording in it; give a recording, a folder, or a table of them")
    spans = spans_of(path)
    located = {name: str(locate_file(path.parent, name)) for name in places.values()}
    return list(located.values()), {located[name]: rows for name, rows in spans.items() if name in located}
