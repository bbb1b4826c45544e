"""The cycles table and the one policy for damaged data that every reader follows.

A reader (that of icbhi, sprsound or manifest, or an own one) turns its files into a `DatasetContents`: one `Recording`
per recording, with its cycles or with the problems that make it unusable. From that, `cycles_table` builds the
DataFrame of training and `audit_of` the report of `rales check`, so the two can never disagree about what is damaged.
"""

from __future__ import annotations

import codecs
import filecmp
import itertools
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rales.audio.io import AudioInfo, read_audio_info, read_blocks
from rales.audio.open_audio import UNREAD_SUFFIXES, NoRoom, check_is_file, reraise_as_sentences
from rales.data.splits import overlap_patients
from rales.errors import FileError, FileSystemError, MissingFileError
from rales.files.csv_cells import one_line
from rales.labels import CLASSES, ICBHI, LabelSet

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "recording",
    "cycle",
    "patient",
    "start_s",
    "end_s",
    "crackle",
    "wheeze",
    "label",
    "device",
    "location",
    "mode",
    "split",
    "path",
)

# How far a cycle may end past the last sample. Published times have three decimals or more, so rounding explains
# 0.5 ms and one sample (0.25 ms at 4 kHz); no ICBHI or SPRSound recording that could be checked needs more. 50 ms
# leaves room for re-encoded copies and is a quarter of the shortest cycle (0.2 s), so that clipping is harmless.
END_TOLERANCE_S = 0.05
BLOCK_S = 60.0  # of a recording that is in memory while all of it is read
SAME_S = 0.003  # two cycles whose ends are this near are one written twice: other programs round to milliseconds
MOST_TEXT = 1 << 26  # bytes of an annotation or a list; the longest published one has 30 kB
NOT_OURS = ("__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN")  # folders
MIN_CYCLE_S = 0.001  # below this a cycle may hold no sample at 4 kHz; the shortest published one lasts 0.2 s


class Cycle(NamedTuple):
    """One annotated cycle (or event): times in seconds from the start of the recording, flags 0 or 1 (None where only a
    word is known), and the dataset's own word for what is heard, if it has one."""

    start_s: float
    end_s: float
    crackle: int | None = None
    wheeze: int | None = None
    label: str = ""


class Findings(NamedTuple):
    """What a recording holds anywhere in it, flags 0 or 1: the label of the whole, or any of its cycles' labels."""

    abnormal: int
    crackle: int
    wheeze: int


@dataclass(frozen=True)
class Recording:
    """One recording as found: its facts and cycles, or the problems for which it is left out whole.

    `findings` is its label where the data labels whole recordings; then it may have no cycles, and those that a model
    is asked about are found in its sound.
    """

    name: str
    patient: str = ""
    device: str = ""
    location: str = ""
    mode: str = ""
    split: str = ""
    path: str = ""
    info: AudioInfo | None = None
    cycles: Sequence[Cycle] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    extra: dict[str, str] = field(default_factory=dict)
    findings: Findings | None = None


@dataclass(frozen=True)
class DatasetContents:
    """Everything a reader found under `source`; `problems` and `notes` here belong to no single recording's content.

    A recording whose split is unknown stays usable (its split is ""), so that fact is one of `split_problems`, which
    count only where the split that comes with the data is asked for.
    """

    source: Path
    recordings: Sequence[Recording]
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    extra_columns: Sequence[str] = ()
    split_problems: Sequence[str] = ()


class DatasetReader(Protocol):
    """Reads one layout: a function of ours, of an own file, or of a package (entry points `rales.readers`)."""

    def __call__(self, path: Path, /, *, audio: bool, decode: bool) -> DatasetContents:
        """Find the recordings.

        Parameters
        ----------
        path
            Folder or file.
        audio
            Whether sounds are asked for; without, annotations alone are read.
        decode
            Whether every sample is read, so that damage is found (`probe_audio`), or headers alone.
        """


@dataclass(frozen=True)
class Audit:
    """What `rales check` reports: the usable cycles, problems (damage) and notes (facts worth knowing)."""

    cycles: DataFrame
    problems: list[str]
    notes: list[str]
    recordings: list[Recording]  # the usable ones, also those without cycles
    damaged: list[str]  # names of the recordings left out
    label_set: LabelSet = ICBHI

    def to_dict(self) -> dict[str, object]:
        """-> the JSON document of `rales check`; every count is over the usable recordings."""
        durations_s = [recording.info.duration_s for recording in self.recordings if recording.info]
        rates_hz = Counter(str(recording.info.rate_hz) for recording in self.recordings if recording.info)
        names = sorted({recording.split for recording in self.recordings} - {"", "train", "test"})
        return {
            **_count_classes(self.recordings, self.label_set),
            "patients": len({recording.patient for recording in self.recordings}),
            "splits": {
                name: _count_classes([each for each in self.recordings if each.split == name], self.label_set)
                for name in ("train", "test", *names)
            },
            **_count_findings(self.recordings),
            "overlap_patients": overlap_patients(self.cycles),
            "devices": dict(sorted(Counter(recording.device for recording in self.recordings).items())),
            "sample_rates_hz": dict(sorted(rates_hz.items(), key=lambda item: int(item[0]))),
            "duration_s": round(math.fsum(durations_s), 3) if durations_s else None,
            "damaged_recordings": self.damaged,
            "problems": self.problems,
            "notes": self.notes,
        }


def cycles_table(
    found: DatasetContents, *, skip_damaged: bool, audio: bool, needs_split: bool = True, label_set: LabelSet = ICBHI
) -> DataFrame:
    """What a reader found -> one row per cycle, sorted by recording and start; columns COLUMNS, then the reader's own.

    `label` is that of the label set; a cycle that has none of its classes damages its recording. The first problem
    stops with a ValueError unless `skip_damaged`, which leaves the damaged recordings out, logs a warning for each
    problem and keeps them in `.attrs["left_out"]`. `audio` says whether audio files were asked for;
    where there are none at all, that is a ValueError. `needs_split=False`: what is wrong with the split does not count.
    """
    if audio and found.recordings and not any(recording.path for recording in found.recordings):
        raise FileError(found.source, "annotations only, no recording; pass audio=False to read them alone")
    found = label_contents(found, label_set)
    problems = refuse_damage(found, skip_damaged=skip_damaged, needs_split=needs_split)
    rows = _cycles_frame(found)
    if rows.empty and any(recording.findings for recording in found.recordings):
        raise FileError(
            found.source,
            "labels of whole recordings, none of cycles to train on; `rales evaluate` scores a model on it",
        )
    if rows.empty:
        raise FileError(
            found.source, f"no recording with cycles is left; `rales check {found.source}` says what is wrong"
        )
    for problem in problems:
        logging.getLogger(__name__).warning("left out: %s", problem)
    rows.attrs["left_out"] = problems
    return rows


def refuse_damage(found: DatasetContents, *, skip_damaged: bool, needs_split: bool) -> list[str]:
    """What a reader found -> its problems, for which recordings are left out. Errors: the first, unless
    `skip_damaged`."""
    problems = _all_problems(found, needs_split=needs_split)
    if problems and not skip_damaged:
        more = f"more problems: {len(problems) - 1}; " if len(problems) > 1 else ""
        raise ValueError(
            f"{problems[0]}\n({more}`rales check {found.source}` lists all problems, and "
            "skip_damaged=True (--skip-damaged) leaves the damaged recordings out)"
        )
    return problems


def labels_recordings_alone(found: DatasetContents) -> bool:
    """Whether the usable recordings are labelled as a whole, and none of their cycles."""
    usable = [recording for recording in found.recordings if not recording.problems]
    return not any(one.cycles for one in usable) and any(one.findings for one in usable)


def recordings_table(found: DatasetContents) -> DataFrame:
    """What a reader found -> one row per usable recording with a label: recording, patient, device, location, mode,
    split, path, the flags of `Findings`, then the reader's own columns."""
    from pandas import DataFrame  # not with the module, which a first answer loads

    rows = []
    for recording in found.recordings:
        said = find_findings(recording)
        if said is not None and not recording.problems:
            facts = (recording.device, recording.location, recording.mode, recording.split, recording.path)
            own = (recording.extra[column] for column in found.extra_columns)
            rows.append((recording.name, recording.patient, *facts, *said, *own))
    columns = ["recording", "patient", "device", "location", "mode", "split", "path", *Findings._fields]
    return DataFrame(rows, columns=[*columns, *found.extra_columns])


def find_findings(recording: Recording) -> Findings | None:
    """-> the label of the whole recording, else what any of its cycles has; None if there is neither."""
    if recording.findings is not None or not recording.cycles:
        return recording.findings
    if any(cycle.crackle is None or cycle.wheeze is None for cycle in recording.cycles):
        return None  # the data has words of its own
    crackle = max(cycle.crackle or 0 for cycle in recording.cycles)
    wheeze = max(cycle.wheeze or 0 for cycle in recording.cycles)
    return Findings(max(crackle, wheeze), crackle, wheeze)


def audit_of(found: DatasetContents, label_set: LabelSet = ICBHI) -> Audit:
    """What a reader found -> the usable cycles with the labels of a set, all problems and notes."""
    found = label_contents(found, label_set)
    good = [recording for recording in found.recordings if not recording.problems]
    rows = _cycles_frame(found)
    notes = [*found.notes, *(note for recording in found.recordings for note in recording.notes)]
    stereo = [recording.name for recording in good if recording.info and recording.info.channels > 1]
    if stereo:
        notes.append(f"recordings with more than one channel, mixed to one when read: {list_some(stereo)}")
    overlap = overlap_patients(rows)
    if overlap:
        notes.append(
            f"patients in both train and test: {list_some(overlap)}; test scores may gain from it, and the splits "
            "official_drop and official_move repair it"
        )
    notes = [one_line(note) for note in notes]
    damaged = [one_line(recording.name) for recording in found.recordings if recording.problems]
    problems = _all_problems(found, needs_split=True)
    return Audit(rows, problems, notes, recordings=good, damaged=damaged, label_set=label_set)


def check_contents(found: DatasetContents) -> DatasetContents:
    """What an own reader found -> the same; a recording with cycles or a split that cannot be is damaged."""
    return replace(found, recordings=[check_recording(recording) for recording in found.recordings])


def check_recording(recording: Recording) -> Recording:
    """Recording -> the same, with a problem for each cycle, flag and split that no recording can have."""
    where, problems = recording.path or recording.name, list(recording.problems)
    duration_s = recording.info.duration_s if recording.info else None
    for cycle in recording.cycles:
        if problem := interval_problem(cycle.start_s, cycle.end_s, duration_s):
            problems.append(f"{where}: {problem}")
        words_alone = cycle.label and cycle.crackle is None and cycle.wheeze is None
        if not words_alone and not {cycle.crackle, cycle.wheeze} <= {0, 1}:
            flags = f"crackle {cycle.crackle} and wheeze {cycle.wheeze}"
            problems.append(f"{where}: the cycle {cycle.start_s:g}-{cycle.end_s:g} s has {flags}, expected 0 or 1 each")
    if not problems:
        problems += repeated_problems(where, recording.cycles)
    if recording.split not in ("train", "test", ""):
        problems.append(f"{where}: split {recording.split!r}, expected train, test or none")
    return replace(recording, problems=problems)


def label_of(crackle: int, wheeze: int) -> str:
    """Two flags (0 or 1) -> the class word of CLASSES."""
    return CLASSES[crackle + 2 * wheeze]


def label_contents(found: DatasetContents, label_set: LabelSet) -> DatasetContents:
    """What a reader found -> the same, each cycle with its label in the set instead of the dataset's own word."""
    return replace(found, recordings=[label_recording(recording, label_set) for recording in found.recordings])


def label_recording(recording: Recording, label_set: LabelSet) -> Recording:
    """Recording -> the same with labels of the set, and a problem for each cycle that has none of its classes."""
    where, cycles, problems = recording.path or recording.name, list[Cycle](), list(recording.problems)
    for cycle in recording.cycles:
        try:
            label = label_set.label_cycle(cycle.label, cycle.crackle, cycle.wheeze)
        except ValueError as error:
            problems.append(f"{where}: the cycle {cycle.start_s:g}-{cycle.end_s:g} s: {error}")
        else:
            cycles.append(cycle._replace(label=label))
    return replace(recording, cycles=cycles, problems=problems)


def sort_cycles(cycles: Iterable[Cycle]) -> list[Cycle]:
    """Cycles in order of their times; of equal ones without flags the word decides."""
    return sorted(cycles, key=lambda cycle: (*cycle[:2], cycle.crackle or 0, cycle.wheeze or 0, cycle.label))


def list_files(folder: Path, locked: list[Path] | None = None) -> list[Path]:
    """Folder -> all files in it and its sub-folders, sorted; hidden files and macOS archive leftovers are not seen.

    A missing folder raises FileNotFoundError, a file in its place NotADirectoryError, one that cannot be opened an
    OSError; sub-folders that cannot be opened are added to `locked`.
    """
    if not folder.exists():
        raise MissingFileError(folder, "no such folder; give the folder that holds the recordings")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: a file, expected the folder that holds the recordings")
    return sorted(Path(parent, name) for parent, names in walk_folders(folder, locked) for name in names)


def walk_folders(folder: Path, locked: list[Path] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Folder -> it and all folders in it, each with its files, sorted: what every search for recordings sees.

    Hidden names and what systems leave on every disk are not seen. Links to folders elsewhere are followed, each place
    once. Errors and `locked` as for `list_files`.
    """
    places = [os.path.realpath(folder)]

    def cannot_be_opened(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise FileSystemError(
                folder, f"cannot be opened ({error.strerror}); give a folder that you may read"
            ) from error
        if locked is not None:
            locked.append(Path(error.filename))

    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=cannot_be_opened):
        seen = [name for name in sorted(subfolders) if not name.startswith((".", *NOT_OURS))]
        subfolders[:] = [name for name in seen if is_new_folder(os.path.join(parent, name), places)]
        yield parent, sorted(name for name in names if not name.startswith("."))


def locked_problems(locked: Iterable[Path]) -> list[str]:
    """Folders that cannot be opened -> a sentence for each."""
    return [f"{folder}: a folder that cannot be opened; change its permissions or move it away" for folder in locked]


def is_new_folder(folder: str, places: list[str]) -> bool:
    """Whether a folder is walked through from here: any but a link to where the walk has been or will come by itself.
    A link's place is added to `places`."""
    if not os.path.islink(folder):
        return True
    real = os.path.realpath(folder)
    if any(os.path.commonpath([real, place]) in (real, place) for place in places):
        return False
    places.append(real)
    return True


def unread_note(folder: Path, paths: Iterable[Path | str]) -> list[str]:
    """Files of a folder -> a note on those that are recordings in a format that is not read, if there are any."""
    unread = sorted(str(path) for path in paths if os.path.splitext(path)[1].lower() in UNREAD_SUFFIXES)
    if not unread:
        return []
    return [f"{folder}: {len(unread)} recordings in formats that are not read, export them as WAV: {list_some(unread)}"]


def group_by_stem(paths: Iterable[Path], suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Paths -> those with one of the suffixes (any letter case), grouped by file name without suffix."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in suffixes:
            groups[path.stem].append(path)
    return dict(groups)


def read_text(path: Path) -> str:
    """Text file -> its text (UTF-8, or UTF-16 with a byte-order mark); other bytes, and what is no file, raise a
    ValueError sentence."""
    content = read_text_bytes(path)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            path, f"not a UTF-8 text file (byte {error.start + 1} cannot be read); replace it by the published file"
        ) from None


def read_text_bytes(path: Path) -> bytes:
    """Text file -> its bytes. Errors: no file, a pipe or a device, which would be waited for, more than a text has."""
    with reraise_as_sentences(path):
        check_is_file(path, "text file")
        if (size := path.stat().st_size) > MOST_TEXT:
            raise FileError(path, f"{size / 2**20:.0f} MB, expected a text of at most {MOST_TEXT >> 20}")
        return path.read_bytes()


def without_copies(groups: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], int]:
    """Files by name -> the same without files of equal content under one name, and how many those were.

    Archives of Kaggle hold the whole tree twice. Files of one name that differ stay, and are a problem of `pair_files`.
    """
    kept: dict[str, list[Path]] = {}
    for name, same in groups.items():
        unlike = list[Path]()
        for path in same:
            if not any(same_content(path, other) for other in unlike):
                unlike.append(path)
        kept[name] = unlike
    return kept, sum(map(len, groups.values())) - sum(map(len, kept.values()))


def same_content(one: Path, other: Path) -> bool:
    """Whether two files are equal; what cannot be read is equal to itself alone."""
    try:
        return one == other or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def copies_note(folder: Path, copies: int) -> list[str]:
    """Number of files that `without_copies` left out -> the note that says so, if there are any."""
    return [f"{folder}: files that are there again with the same content, counted once: {copies}"] if copies else []


def pair_files(
    name: str,
    annotations: list[Path],
    sounds: list[Path] | None,
    *,
    suffix: str,
    folder: Path,
    decode: bool,
    needed: bool = True,
) -> Recording:
    """The files of one name -> a recording with its path and header, or the problems of the pair.

    `suffix` is that of annotations, `needed` whether there must be one; `sounds` is None where audio is not asked for.
    """
    problems = [
        f"{folder}: {name} is there {len(same)} times ({list_some(same)}); keep one"
        for same in (annotations, sounds or [])
        if len(same) > 1
    ]
    if name != one_line(name):
        problems.append(f"{folder}: the name {name} is not UTF-8 or holds control characters; rename the file")

    if sounds is None:
        return Recording(name=name, problems=problems)
    if not sounds:
        missing = f"{annotations[0]}: no recording {name}.wav or .flac; add it or remove the annotation"
        return Recording(name=name, problems=[*problems, missing])
    if needed and not annotations:
        problems.append(f"{sounds[0]}: no annotation {name}{suffix}; add it or remove the recording")
    facts, wrong, notes = probe_audio(sounds[0], decode=decode)
    return Recording(name=name, path=str(sounds[0]), info=facts, problems=[*problems, *wrong], notes=notes)


def probe_audio(path: Path, *, decode: bool) -> tuple[AudioInfo | None, list[str], list[str]]:
    """Audio file -> (header facts or None, problems, notes); `decode` also reads every sample, to find NaN and cuts."""
    try:
        facts = read_audio_info(path)
        notes = [f"{path}: {note}" for note in facts.notes]
        if decode and sum(block.any() for block, _ in read_blocks(path, BLOCK_S)) == 0:  # to the last block
            notes.append(f"{path}: digital silence, every sample is zero")
    except NoRoom:
        raise
    except (ValueError, OSError) as error:
        return None, [str(error)], []
    return facts, [], notes


def parse_number(text: object) -> float | None:
    """Text -> a finite number, or None where it is not one (Python's 1_000 is none either)."""
    try:
        value = float(str(text).replace("_", "?"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def interval_problem(start_s: float, end_s: float, duration_s: float | None) -> str:
    """Times of a cycle and the length of its recording (None: unknown) -> what is wrong with them, or ""."""
    if start_s < 0:
        return f"the cycle starts at {start_s:g} s, before the recording"
    if end_s <= start_s:
        return f"the cycle ends at {end_s:g} s, not after its start at {start_s:g} s"
    if duration_s is not None and end_s > duration_s + END_TOLERANCE_S:
        return f"the cycle {start_s:g}-{end_s:g} s lies past the end of the recording, which lasts {duration_s:.3f} s"
    if min(end_s, duration_s or end_s) - start_s < MIN_CYCLE_S:
        return f"the cycle {start_s:g}-{end_s:g} s holds less than {MIN_CYCLE_S:g} s of sound"
    return ""


def overlap_note(where: str, cycles: Sequence[Cycle]) -> list[str]:
    """Cycles sorted by start -> a note on the first two that overlap by more than the tolerance, if any do."""
    for position, (before, after) in enumerate(itertools.pairwise(cycles), start=1):
        if after.start_s < before.end_s - END_TOLERANCE_S:
            return [
                f"{where}: cycles {position} ({before.start_s:g}-{before.end_s:g} s) and {position + 1} "
                f"({after.start_s:g}-{after.end_s:g} s) overlap"
            ]
    return []


def repeated_problems(where: str, cycles: Sequence[Cycle]) -> list[str]:
    """Cycles sorted by start -> a sentence for every stretch of time, to SAME_S, that stands there more than once."""
    stretches = list[list[Cycle]]()
    for cycle in cycles:
        for same in reversed(stretches):
            if cycle.start_s - same[0].start_s > SAME_S:
                stretches.append([cycle])
                break
            middle_s = (same[0].start_s + same[0].end_s) / 2  # a click may be shorter than the tolerance
            if abs(cycle.end_s - same[0].end_s) <= SAME_S and cycle.start_s < middle_s:
                same.append(cycle)
                break
        else:
            stretches.append([cycle])
    problems = []
    for same in stretches:
        labels = list(dict.fromkeys(describe_cycle(cycle) for cycle in same))
        stretch = f"{where}: the cycle {same[0].start_s:g}-{same[0].end_s:g} s"
        if len(labels) > 1:
            problems.append(f"{stretch} stands there as {' and as '.join(labels)}; keep the right one")
        elif len(same) > 1:
            problems.append(f"{stretch} ({labels[0]}) stands there {len(same)} times; keep one")
    return problems


def describe_cycle(cycle: Cycle) -> str:
    """Cycle -> what is heard in it, in a word: by its flags, or the dataset's own word where there are none."""
    return cycle.label if cycle.crackle is None or cycle.wheeze is None else label_of(cycle.crackle, cycle.wheeze)


def list_some(names: Sequence[object], limit: int = 5) -> str:
    """Names -> "a, b, c", at most `limit` of them and how many more there are."""
    listed = ", ".join(str(name) for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"


def _all_problems(found: DatasetContents, *, needs_split: bool) -> list[str]:
    of_split = found.split_problems if needs_split else ()
    of_recordings = (problem for recording in found.recordings for problem in recording.problems)
    return [one_line(problem) for problem in (*of_split, *found.problems, *of_recordings)]


def _cycles_frame(found: DatasetContents) -> DataFrame:
    from pandas import DataFrame

    rows = [
        (
            *(recording.name, position, recording.patient, cycle.start_s, cycle.end_s, cycle.crackle, cycle.wheeze),
            *(cycle.label, recording.device, recording.location, recording.mode),
            *(recording.split, recording.path, *(recording.extra[column] for column in found.extra_columns)),
        )
        for recording in sorted(found.recordings, key=lambda recording: recording.name)
        if not recording.problems
        for position, cycle in enumerate(recording.cycles, start=1)
    ]
    table = DataFrame(rows, columns=[*COLUMNS, *found.extra_columns])
    flags = "Int64" if table[["crackle", "wheeze"]].isna().any(axis=None) else int  # pandas' own takes what is missing
    return table.astype({"cycle": int, "start_s": float, "end_s": float, "crackle": flags, "wheeze": flags})


def _count_findings(recordings: Sequence[Recording]) -> dict[str, object]:
    """-> how many recordings are labelled as a whole, and as what; {} where none is."""
    said = [recording.findings for recording in recordings if recording.findings is not None]
    if not said:
        return {}
    counts = {name: sum(getattr(one, name) for one in said) for name in Findings._fields}
    return {"recording_labels": {"recordings": len(said), "normal": len(said) - counts["abnormal"], **counts}}


def _count_classes(recordings: Sequence[Recording], label_set: LabelSet) -> dict[str, object]:
    labels = [cycle.label for recording in recordings for cycle in recording.cycles]
    return {"recordings": len(recordings), "cycles": len(labels), "classes": label_set.count_labels(labels)}
