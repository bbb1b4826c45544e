"""List recordings for pre-training, from folders and manifests, in a compact index of their paths.

Nothing is opened here but split lists and manifests. Paths stand in Arrow arrays, one relative to each source: two
million of them take some 100 MB and no Python object each.
"""

import bisect
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from rales.audio.open_audio import AUDIO_SUFFIXES, UNREAD_SUFFIXES
from rales.data import class_folders, hf_lung, icbhi, sprsound
from rales.data.annotation_dialects import (
    SUFFIXES,
    comparable_path,
    file_identity,
    mend_path,
    parquet_sentences,
    read_table,
)
from rales.data.reader import DatasetContents, list_some, locked_problems, unread_note, walk_folders
from rales.files.csv_cells import one_line
from rales.labels import ICBHI

Part = Literal["train", "all"]
MANIFESTS = (".csv", ".tsv", ".parquet")  # in a folder, where JSON is for annotations
SPLITS_OF = {
    "icbhi": icbhi.SPLIT_FILE,
    "sprsound": "its folders train_json and test_json",
    "hf_lung": "the files of labels of its folders train and test",
}
PATH_COLUMNS = ("path", "file_name")  # ours, and that of M2D's lists
CHUNK = 65536
# Names of published databases, also with something after them: cycles cut out of a test recording are test data too.
DATABASES = {
    "ICBHI 2017": r"(^|/)\d{3}_[^/_]+_("
    + "|".join(icbhi.LOCATIONS)
    + ")_("
    + "|".join(icbhi.MODES)
    + ")_("
    + "|".join(icbhi.DEVICES)
    + ")[^/]*$",
    "SPRSound": f"(^|/){sprsound.NAME}[^/]*$",
    "HF_Lung_V1": f"(^|/){hf_lung.NAME}$",
}


@dataclass(frozen=True)
class CorpusSource:
    """One folder or manifest: what is used of it, what not, as paths relative to `base` (or absolute)."""

    given: Path
    base: Path
    layout: Literal["icbhi", "sprsound", "hf_lung", "classes", "folder", "manifest"]
    used: Any  # Arrow array of large strings
    left_out: Any  # the same
    notes: Sequence[str] = ()  # why some are left out that are no test recordings

    def facts(self) -> dict[str, Any]:
        counts = {"recordings": len(self.used), "left_out": len(self.left_out)}
        return {"given": str(self.given.absolute()), "layout": self.layout, **counts, "notes": list(self.notes)}


@dataclass(frozen=True)
class Corpus:
    """Recordings numbered from 0, source after source; `part` says whether test recordings were kept out."""

    sources: Sequence[CorpusSource]
    part: Part

    def __len__(self) -> int:
        return sum(len(source.used) for source in self.sources)

    def path(self, number: int) -> Path:
        """Number -> the recording's file."""
        ends = list(accumulate(len(source.used) for source in self.sources))
        source = self.sources[place := bisect.bisect_right(ends, number)]
        return source.base / str(source.used[number - ends[place] + len(source.used)])

    def facts(self) -> dict[str, Any]:
        """-> which recordings these are, for a run's record: the same recordings elsewhere have the same digest."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(b"source\n")
            for names in iterate_strings(source.used):
                digest.update("\n".join([*names, ""]).encode("utf-8", "surrogateescape"))
        return {
            "part": self.part,
            "recordings": len(self),
            "left_out": sum(len(source.left_out) for source in self.sources),
            "digest": digest.hexdigest(),
            "folders": [source.facts() for source in self.sources],
        }

    def write_table(self, path: Path) -> None:
        """Write a Parquet file of all recordings found: source, path, and whether it is used."""
        import pyarrow.parquet as pq

        columns: dict[str, list[Any]] = {"source": [], "path": [], "used": []}
        for source in self.sources:
            for names, used in ((source.used, True), (source.left_out, False)):
                columns["source"].append(pa.repeat(str(source.given), len(names)))
                columns["path"].append(names)
                columns["used"].append(pa.repeat(used, len(names)))
        kinds = {"source": pa.string(), "path": pa.large_string(), "used": pa.bool_()}
        arrays = {name: pa.chunked_array(flatten_chunks(parts), kinds[name]) for name, parts in columns.items()}
        pq.write_table(pa.table(arrays), path)


def read_corpus(sources: Sequence[str | Path], *, part: Part = "train") -> Corpus:
    """Folders, manifests (.csv, .tsv, .parquet) and folders of manifests -> their recordings, in a fixed order.

    Of a folder in ICBHI or SPRSound layout only the official train part is used unless `part` is "all"; likewise of a
    manifest with a column `split`. A manifest lists paths (column `path` or `file_name`, relative to itself), each
    recording once or more often; a recording with a test row is left out whole. Errors: nothing there, no recording
    left, recordings named as those of ICBHI 2017 of which nothing says whether they are for training.
    """
    corpus = Corpus([read_source(Path(source), part) for source in sources], part)
    for source in corpus.sources:
        if not len(source.used):
            left = f"{len(source.left_out)} recordings, none of them for training" if len(source.left_out) else "none"
            raise ValueError(
                f"{source.given}: no recording to pre-train on ({left}); expected {', '.join(AUDIO_SUFFIXES)} or a "
                "manifest of them, and --part all takes test recordings too"
            )
    return corpus


def read_source(given: Path, part: Part) -> CorpusSource:
    if not given.exists():
        raise FileNotFoundError(f"{given}: no such folder or manifest; give what holds or lists the recordings")
    if given.is_file():
        if given.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{given}: expected a folder or a manifest ({', '.join(SUFFIXES)})")
        return manifest_source(given, [given], part)
    sounds, unusable, manifests, jsons = walk_folder(given)
    if not len(sounds) and manifests:
        return manifest_source(given, manifests, part)
    if part == "train" and jsons:
        contents = sprsound.find_recordings(given, audio=True, decode=False)
        return split_source(given, "sprsound", contents, sounds, unusable)
    if part == "train" and class_folders.is_layout(given, ICBHI):
        contents = class_folders.find_recordings(given, audio=True, decode=False, label_set=ICBHI)
        if any(recording.split == "test" for recording in contents.recordings):
            return split_source(given, "classes", contents, sounds, unusable)
    database = database_of(sounds) if part == "train" else ""
    if database == "ICBHI 2017":
        return split_source(given, "icbhi", icbhi.find_recordings(given, audio=True, decode=False), sounds, unusable)
    if database == "HF_Lung_V1":
        return split_source(
            given, "hf_lung", hf_lung.find_recordings(given, audio=True, decode=False), sounds, unusable
        )
    if database:
        raise ValueError(
            f"{given}: its recordings are named as those of {database}, and nothing says which are for training; give "
            "the folder that holds the annotations (train_json, test_json) too, or pass --part all to use every one"
        )
    return CorpusSource(given, given.absolute(), "folder", sounds, to_python_strings(unusable.names), unusable.notes)


class UnusableFiles(NamedTuple):
    """Files that look like recordings and cannot be used, by their names as they are shown, and why."""

    names: list[str]
    notes: list[str]


def walk_folder(folder: Path) -> tuple[Any, UnusableFiles, list[Path], bool]:
    """Folder -> relative paths of all sounds in it (Arrow), of what only looks like one, manifests, whether it has
    SPRSound's JSON folders.

    Every folder's names are sorted by themselves, so that the order is fixed without all paths in memory at once.
    """
    done, names, manifests, jsons = [], list[str](), list[Path](), False
    unread, unnamed, locked = list[str](), list[str](), list[Path]()
    for parent, files in walk_folders(folder, locked):
        inside = os.path.relpath(parent, folder)
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            path = name if inside == "." else f"{inside}/{name}"
            if suffix in UNREAD_SUFFIXES:
                unread.append(one_line(path))
            elif suffix in AUDIO_SUFFIXES and path != path.encode("utf-8", "replace").decode():
                unnamed.append(one_line(path))
            elif suffix in AUDIO_SUFFIXES:
                names.append(path)
            elif suffix in MANIFESTS:
                manifests.append(Path(parent, name))
            elif suffix == ".json" and not jsons:
                jsons = sprsound.is_annotation(Path(parent, name))
        if len(names) >= CHUNK:
            done.append(to_python_strings(names))
            names = []

    notes = unread_note(folder, unread)
    if unnamed:
        notes.append(f"{folder}: {len(unnamed)} recordings left out, their names are not UTF-8: {list_some(unnamed)}")
    notes += locked_problems(locked)
    shut = [one_line(os.path.relpath(path, folder)) for path in locked]
    left = UnusableFiles([*unread, *unnamed, *shut], notes)
    return pa.chunked_array([*done, to_python_strings(names)]), left, sorted(manifests), jsons


def split_source(
    given: Path,
    layout: Literal["icbhi", "sprsound", "hf_lung", "classes"],
    found: DatasetContents,
    sounds: Any,
    unusable: UnusableFiles,
) -> CorpusSource:
    """What a layout's reader found -> the recordings of its train part; all others are left out."""
    if not any(recording.split for recording in found.recordings):
        raise ValueError(
            f"{given}: its recordings are named as those of {database_of(sounds) or layout}, and nothing says which "
            f"are for training; put {SPLITS_OF[layout]} into it or beside it, or pass --part all to use every one"
        )
    train = {os.path.relpath(r.path, given) for r in found.recordings if r.split == "train" and r.path}
    chosen = pc.is_in(sounds, value_set=to_python_strings(sorted(train)))
    others = pa.chunked_array([*flatten_chunks([sounds.filter(pc.invert(chosen))]), to_python_strings(unusable.names)])
    return CorpusSource(given, given.absolute(), layout, sounds.filter(chosen), others, unusable.notes)


def manifest_source(given: Path, manifests: Sequence[Path], part: Part) -> CorpusSource:
    """Manifest files -> their recordings, each once."""
    base = given.absolute() if given.is_dir() else given.absolute().parent
    paths, splits = [], []
    for manifest in manifests:
        path, split = columns_of(manifest)
        inside = os.path.relpath(manifest.parent.absolute(), base)
        if inside != ".":  # a shard in a sub-folder lists paths relative to itself
            joined = pc.binary_join_element_wise(to_large_string(inside), path, to_large_string("/"))
            path = pc.if_else(pc.starts_with(path, "/"), path, joined)
        paths.append(path)
        splits.append(split)
    path, split = (
        pa.chunked_array(flatten_chunks(paths), pa.large_string()),
        pa.chunked_array(flatten_chunks(splits), pa.string()),
    )
    place = comparable_paths(base, path)
    if part == "all":
        return CorpusSource(given, base, "manifest", first_of_each(path, place), to_python_strings([]))
    if database := database_of(path.filter(pc.is_null(split)) if split.null_count < len(split) else path):
        raise ValueError(
            f"{given}: lists recordings named as those of {database} without saying which are for training; add a "
            "column `split` (train, test), or pass --part all to use every one"
        )
    is_train = pc.fill_null(pc.equal(split, "train"), True)
    if pc.all(is_train).as_py():
        return CorpusSource(given, base, "manifest", first_of_each(path, place), to_python_strings([]))
    place = files_at(base, place)  # a link to a test recording is one
    tested = pc.is_in(place, value_set=pc.unique(place.filter(pc.invert(is_train))))
    used, others = (first_of_each(path.filter(mask), place.filter(mask)) for mask in (pc.invert(tested), tested))
    return CorpusSource(given, base, "manifest", used, others)


def comparable_paths(base: Path, paths: Any) -> Any:
    """Arrow array of paths -> the same with one text for each place, however it is written."""
    odd = pc.match_substring_regex(paths, r"^/|(^|/)\.{0,2}(/|$)")  # absolute, or with a part that is empty, . or ..
    if not pc.any(pc.and_not(odd, pc.match_substring(paths, "://"))).as_py():
        return paths
    return pa.chunked_array(
        [
            to_python_strings([comparable_path(base, path) for path in some_paths])
            for some_paths in iterate_strings(paths)
        ],
        pa.large_string(),
    )


def files_at(base: Path, paths: Any) -> Any:
    """The same with one text for each file, links followed, which asks the disk for every path."""

    def file(path: str) -> str:
        whole = path if "://" in path else os.path.join(base, path)
        return file_identity(whole) or path

    return pa.chunked_array(
        [to_python_strings([file(path) for path in some_paths]) for some_paths in iterate_strings(paths)],
        pa.large_string(),
    )


def first_of_each(paths: Any, place: Any) -> Any:
    """Arrow arrays of paths and of their places -> the first path of each place, in order."""
    if place is paths:
        return pc.unique(paths)
    rows = pa.table({"place": place, "row": pa.array(range(len(place)), pa.int64())})
    first = rows.group_by("place", use_threads=False).aggregate([("row", "min")])["row_min"]
    return paths.take(first.take(pc.sort_indices(first)))


def columns_of(manifest: Path) -> tuple[Any, Any]:
    """Manifest -> its column of paths and its column `split` (null where it has none)."""
    if manifest.suffix.lower() != ".parquet":
        return text_columns_of(manifest)
    with parquet_sentences(manifest):
        return parquet_columns_of(manifest)


def parquet_columns_of(manifest: Path) -> tuple[Any, Any]:
    """The same of Parquet. Errors: those of Arrow, too."""
    import pyarrow.parquet as pq

    names = pq.read_schema(manifest).names
    table = pq.read_table(manifest, columns=[name for name in (*PATH_COLUMNS, "split") if name in names])
    named = [name for name in PATH_COLUMNS if name in table.column_names]
    if not named:
        raise describe_missing_paths(manifest, names)
    split = table["split"].cast(pa.string()) if "split" in table.column_names else None
    path = table[named[0]].cast(pa.large_string())
    if pc.any(pc.match_substring(path, "\\")).as_py():
        path = to_python_strings([mend_path(manifest.parent, name) if name else name for name in path.to_pylist()])
    is_path = pc.is_valid(path)
    splits = split if split is not None else pa.chunked_array([pa.nulls(len(table), pa.string())])
    return path.filter(is_path), splits.filter(is_path)


def text_columns_of(manifest: Path) -> tuple[Any, Any]:
    """The same of CSV, TSV and JSON, as every reader of tables takes them."""
    columns, rows, _ = read_table(manifest)
    named = [name for name in PATH_COLUMNS if name in columns]
    if not named:
        raise describe_missing_paths(manifest, columns)
    done, paths, splits = list[tuple[Any, Any]](), list[str](), list[str | None]()
    for row in rows:
        if given := row.cells[named[0]]:
            paths.append(mend_path(manifest.parent, given))
            splits.append(row.cells.get("split") or None)
        if len(paths) >= CHUNK:
            done.append((to_python_strings(paths), pa.array(splits, pa.string())))
            paths, splits = [], []
    done.append((to_python_strings(paths), pa.array(splits, pa.string())))
    path, split = zip(*done, strict=True)
    return pa.chunked_array(path), pa.chunked_array(split)


def describe_missing_paths(manifest: Path, columns: Sequence[str]) -> ValueError:
    return ValueError(
        f"{manifest}: columns {', '.join(columns) or 'none'}, expected `path`: audio files, relative to the manifest's "
        "folder or absolute"
    )


def database_of(paths: Any) -> str:
    """Arrow array of paths -> the published database as whose recordings some of them are named, "" if none is."""
    for database, name in DATABASES.items():
        if len(paths) and pc.any(pc.match_substring_regex(paths, name)).as_py():
            return database
    return ""


def iterate_strings(names: Any) -> Iterator[list[str]]:
    """Arrow array of strings -> its strings, some at a time."""
    for start in range(0, len(names), CHUNK):
        yield names.slice(start, CHUNK).to_pylist()


def to_large_string(text: str) -> Any:
    return pa.scalar(text, pa.large_string())


def to_python_strings(names: Sequence[str]) -> Any:
    return pa.array(names, pa.large_string())


def flatten_chunks(arrays: Sequence[Any]) -> list[Any]:
    """Arrays, some of them chunked -> their chunks."""
    return [chunk for array in arrays for chunk in getattr(array, "chunks", [array])]
