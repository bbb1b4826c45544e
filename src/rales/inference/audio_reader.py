"""People's recordings: files, folders, globs and URLs -> prepared cycles, read by threads some way ahead, in order."""

from __future__ import annotations

import glob
import os
import queue
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import chain, compress, islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rales.audio import io, quality
from rales.audio.band_energy import to_4_khz
from rales.audio.open_audio import AUDIO_SUFFIXES, FULL, UNREAD_SUFFIXES, NoRoom, left_out_channels_note
from rales.audio.padding import prepare_waveform
from rales.audio.quality import Verdict
from rales.data.annotation_dialects import TableRow
from rales.data.annotations import RAVENS_OWN, Annotation, names_beside
from rales.data.manifest import cycles_of_rows, is_marked_by_person
from rales.data.reader import Cycle, list_files
from rales.data.recording_annotations import (
    find_annotations,
    is_named_source,
    read_any_annotation,
    read_named_cycles,
)
from rales.errors import FileError, FileProblem, UsageError
from rales.files.atomic import temporary_folder
from rales.files.stores import StoreError, ask_store, is_lasting, is_url, open_file_system
from rales.inference import breath_segmentation
from rales.inference.engines import Waveforms
from rales.labels import ICBHI, LabelSet
from rales.optional_packages import summarise_error
from rales.settings import PaddedWaveform, scales_batches

if TYPE_CHECKING:
    from pandas import DataFrame

    from rales.data.dataset import CycleDataset

CYCLES = ("auto", "annotation", "segment", "windows")  # where cycles come from
SECTION_S = 300.0  # of a recording in which breaths are looked for at a time
DECODE_ONCE_S = 60.0  # a longer recording is decoded again for its cycles, a shorter one (10 MB at 44.1 kHz) once
CHUNK_CYCLES = 32  # cycles of one recording that are in memory together: 16 MB of 8 s each
STDIN = "-"  # the path of a recording that another program hands over; a file of that name is ./-
READER_THREADS = 2
RECORDINGS_AHEAD = 8  # recordings that are read, or waiting to be scored, at a time

# a recording and stretches of it (start_s, end_s) -> what a recipe with rows of its own makes of them
PrepareSpans = Callable[[Path, Sequence[tuple[float, float]]], "CycleDataset"]
CyclesOfOne = str | Sequence[TableRow] | Annotation  # a word of CYCLES, rows of a table, what a reader says
CycleSource = str | Mapping[str, Sequence[TableRow] | Annotation]  # for all recordings, or what is said of some


class WholeSound(NamedTuple):
    """A recording of up to `DECODE_ONCE_S` as a mono waveform (N,), and what `to_4_khz` makes of it: breaths are found
    and quality is judged there."""

    wave: Waveforms
    rate_hz: int
    slow: Waveforms


class Cycles(NamedTuple):
    """Cycles of one recording; `true_label` is None without an annotation, `source` says where the times are from,
    `note` what there is to say of the annotation, `verdicts` (one a cycle) which cycles can be judged, `marked` whether
    a person has marked them as breaths."""

    start_s: Sequence[float]
    end_s: Sequence[float]
    true_label: Sequence[str | None] | None
    source: str
    note: str = ""
    verdicts: Sequence[Verdict] = ()
    marked: bool = False

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(cycles,) which of them a model is asked about."""
        return np.array([verdict.judged for verdict in self.verdicts], dtype=np.bool_)


class CycleChunk(NamedTuple):
    """Some consecutive cycles of one recording, or (`error`) what kept it from being read to its end.

    `cycles` are those of the whole recording. Of those that can be judged, this chunk has len(waveforms), (n, samples),
    after the chunks before it; of all of them with audio.scope=batch, where they are neighbours of one another. Where a
    recipe has rows of its own, `rows` are those of the whole recording, and this chunk has len(waveforms) of them.
    """

    path: str
    duration_s: float
    cycles: Cycles
    waveforms: Waveforms
    last: bool
    error: Exception | None = None
    notes: Sequence[str] = ()  # about its file, which was read all the same
    extras: Mapping[str, NDArray[Any]] = MappingProxyType({})  # (n, …) each, by name
    rows: DataFrame | None = None

    def cut(self, part: slice, *, last: bool) -> CycleChunk:
        """Some of its prepared cycles, as a chunk."""
        extras = {name: values[part] for name, values in self.extras.items()}
        return self._replace(waveforms=self.waveforms[part], extras=extras, last=last)


def find_recordings(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """Files, folders (searched through), globs and URLs of those -> recordings, each once, sorted inside a folder.

    A file that is not there, or a folder that cannot be opened, is left to the reader. Errors: a folder without audio,
    a glob that matches none.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    return list(dict.fromkeys(chain.from_iterable(expand_path(str(path)) for path in given)))


def find_sources(paths: str | Path | Iterable[str | Path], cycles: str = "auto") -> tuple[list[str], CycleSource]:
    """What `find_recordings` takes, tables (CSV, TSV, Parquet, JSON) and READER:PATH, and a word of CYCLES ->
    recordings, each once, and where their cycles come from: a table or a reader tells those of its own, unless other
    ones are asked for."""
    given = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    named = {path: read_named_cycles(path) for path in given if is_named_source(path)}
    found = chain.from_iterable(named[path][0] if path in named else expand_path(path) for path in given)
    told = {recording: said for _, cycles_of in named.values() for recording, said in cycles_of.items()}
    return list(dict.fromkeys(found)), told if told and cycles in ("auto", "annotation") else cycles


def expand_path(given: str) -> list[str]:
    """One path, glob or URL -> the recordings it stands for."""
    path = Path(given)
    if is_url(given):
        inside = find_remote(given)
    elif path.is_dir():
        inside = find_in_folder(path)
    elif glob.has_magic(given) and not path.exists():
        inside = sorted(p for p in glob.glob(given, recursive=True) if is_recording(Path(p)) and not Path(p).is_dir())
        above = next(p for p in path.parents if not glob.has_magic(str(p)))
        if not inside and above.is_dir() and not os.access(above, os.R_OK | os.X_OK):
            inside = [str(above)]
    else:
        return [given]
    if not inside:
        raise FileError(given, f"no recording in it; expected files that end in {', '.join(AUDIO_SUFFIXES)}")
    return inside


def find_in_folder(folder: Path) -> list[str]:
    """Folder -> the recordings in it, and the folders that cannot be opened, itself too: the reader tells of each, as
    of a recording that cannot be read."""
    locked = list[Path]()
    try:
        return [str(path) for path in list_files(folder, locked) if is_recording(path)] + list(map(str, locked))
    except OSError:
        return [str(folder)]


def is_recording(path: Path | PurePosixPath) -> bool:
    """Whether a file found in a folder is one, by its name; formats that are not read count, so that they are named."""
    return path.suffix.lower() in (*AUDIO_SUFFIXES, *UNREAD_SUFFIXES)


def find_remote(url: str) -> list[str]:
    """URL of a file, a folder or a glob (`*`) -> URLs of recordings."""
    if "*" not in url and PurePosixPath(url).suffix.lower() in AUDIO_SUFFIXES:
        return [url]
    files, path = open_file_system(url)

    def list_names() -> list[str]:
        found: list[str] = files.glob(path) if "*" in path else files.find(path) if files.isdir(path) else [path]
        return found

    try:
        names = ask_store(url, list_names)
    except Exception as error:
        if isinstance(error, StoreError):
            raise
        raise FileError(url, f"cannot be listed ({summarise_error(error)})") from error
    hidden = [part.partition("*")[0] for part in path.split("/")]  # what is asked for by name is not hidden
    sounds = [
        name
        for name in names
        if is_recording(PurePosixPath(name))
        and not any(part.startswith((".", "__MACOSX")) for part in name.split("/") if part not in hidden)
    ]
    return [url] if names == [path] else sorted(files.unstrip_protocol(name) for name in sounds)


@contextmanager
def local_copy(path: str, *, annotated: bool = False) -> Iterator[Path]:
    """Path, URL or STDIN -> a file on this machine; that of a URL is a copy, `annotated` with the annotation beside it,
    and goes again, as does that of standard input."""
    if path == STDIN:
        with temporary_folder() as folder:
            yield copy_stdin(folder / "stdin")
        return
    if not is_url(path):
        yield Path(path)
        return
    files, inner = open_file_system(path)
    with temporary_folder() as folder:
        unsigned = inner.partition("?")[0] if inner.startswith(("http:", "https:")) else inner
        copy = Path(folder, PurePosixPath(unsigned).name)
        try:
            ask_store(path, lambda: files.get_file(inner, str(copy)))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise NoRoom(path, f"no room in {folder} for a copy of it; make room there") from error
            if isinstance(error, StoreError):
                raise
            raise FileError(path, f"cannot be fetched ({summarise_error(error)})") from error
        if annotated:
            fetch_annotation(path, files, unsigned.rpartition("/")[0], copy)
        try:
            yield copy
        except FileProblem as error:
            if error.path != str(copy):
                raise
            raise type(error)(path, error.reason, error.line) from error


def copy_stdin(copy: Path) -> Path:
    """-> the file, which holds what was handed over. Errors: nothing was."""
    if sys.stdin is None or sys.stdin.isatty():
        raise FileError(STDIN, "standard input is a terminal; hand a recording over (rales predict - < recording.wav)")
    with copy.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if not copy.stat().st_size:
        raise FileError(STDIN, "standard input holds nothing; it is read once, as one recording")
    return copy


def fetch_annotation(url: str, files: Any, parent: str, copy: Path) -> None:
    """URL of a recording, its file system and folder there, its copy -> the annotation lies beside the copy too, if
    there is one. Errors: StoreError; that no answer came does not mean that there is none.

    A name in mixed case and Raven's own are not asked for: each that is not there costs a request.
    """
    names = [name for name in names_beside(copy) if name.suffix in (".txt", ".TXT") and RAVENS_OWN not in name.name]
    places = [f"{parent}/{name.name}" for name in names]

    def fetch_all() -> list[bytes | Exception]:
        """At once, where the store can."""
        found: list[bytes | Exception] = files.cat_ranges(places, None, None)
        for error in found:
            if isinstance(error, Exception) and not is_lasting(url, error):
                raise error
        return found

    for name, content in zip(names, ask_store(url, fetch_all), strict=True):
        if isinstance(content, bytes):
            name.write_bytes(content)
            return


def find_cycles(
    path: Path,
    duration_s: float,
    where: CyclesOfOne = "auto",
    sound: WholeSound | None = None,
    annotation_name: str | None = None,
    label_set: LabelSet = ICBHI,
) -> Cycles:
    """Recording, its length, a word of CYCLES (or what a table or a reader says), its sound if that has been read, what
    an annotation is called where its path says nothing, and the classes of its labels -> its cycles.

    auto takes the annotation of the recording (`find_annotations`), else breaths found in the sound (segment), else
    windows; segment takes windows too where no breath is found. `source` tells which it was.
    """
    if isinstance(where, Annotation):
        annotated = cycles_of_annotation(where, str(path), label_set)
        return annotated._replace(note="")  # its reader was asked for by name
    if not isinstance(where, str):
        cycles, labels, wrong = cycles_of_rows(where, duration_s, label_set)
        if wrong:
            raise ValueError(wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
        times = [mark.start_s for mark in cycles], [mark.end_s for mark in cycles]
        return Cycles(*times, labels if any(labels) else None, "manifest", marked=is_marked_by_person(where))
    notes = list[str]()
    if is_annotated(path, where):
        for annotation in list(find_annotations(path)) or [path.with_suffix(".txt")]:
            called = annotation_name or str(annotation)
            annotated = read_annotated_cycles(annotation, duration_s, where, called, label_set)
            if annotated.source:
                return annotated._replace(note="; ".join(filter(None, [*notes, annotated.note])))
            notes.append(annotated.note)
    found = find_breaths(path, duration_s, sound) if where != "windows" else []
    spans, source = found or breath_segmentation.cut_windows(duration_s), "segment" if found else "window"
    return Cycles([start for start, _ in spans], [end for _, end in spans], None, source, "; ".join(notes))


def is_annotated(path: Path, where: CyclesOfOne) -> bool:
    """Whether the cycles are those of an annotation; asked for by name, also of one that is not there."""
    return where == "annotation" or (where == "auto" and next(find_annotations(path), None) is not None)


def read_annotated_cycles(
    annotation: Path, duration_s: float, where: str, name: str, label_set: LabelSet = ICBHI
) -> Cycles:
    """Annotation of a recording -> its cycles; `source` is "" where auto passes over a file of another kind."""
    found = read_any_annotation(annotation, duration_s, name, label_set)
    if where == "auto" and found.passed_over:
        return Cycles([], [], None, "", f"{name}: {found.passed_over}; passed over")
    return cycles_of_annotation(found, name, label_set)


def cycles_of_annotation(found: Annotation, name: str, label_set: LabelSet = ICBHI) -> Cycles:
    """What is in an annotation, and what it is called -> its cycles. Errors: its first fault, or no cycles."""
    if found.problems:
        more = f" (and {len(found.problems) - 1} more lines)" if len(found.problems) > 1 else ""
        raise ValueError(f"{found.problems[0]}{more}; --cycles segment does without it")
    if not found.cycles:
        raise FileError(name, f"{found.passed_over}; --cycles segment does without it")
    labels = [find_true_label(mark, label_set) for mark in found.cycles] if found.labelled else None
    times = [mark.start_s for mark in found.cycles], [mark.end_s for mark in found.cycles]
    return Cycles(*times, labels, "annotation", found.note(name), marked=True)


def find_true_label(cycle: Cycle, label_set: LabelSet) -> str | None:
    """Annotated cycle -> its label in the set, None where the annotation speaks of other classes."""
    try:
        return label_set.label_cycle(cycle.label, cycle.crackle, cycle.wheeze)
    except ValueError:
        return None


def find_breaths(path: Path, duration_s: float, sound: WholeSound | None = None) -> list[tuple[float, float]]:
    """Recording -> the breathing cycles in its sound; a long one is heard in stretches, so that it fits into memory."""
    if sound is not None:
        found = breath_segmentation.find_breaths(sound.wave, sound.rate_hz, slow=sound.slow)
        return [(start_s, min(end_s, duration_s)) for start_s, end_s in found]
    begins = np.arange(0.0, duration_s, SECTION_S).tolist()
    stretches = io.read_segments(path, zip(begins, [*begins[1:], None], strict=True))
    return [
        (begin_s + start_s, min(begin_s + end_s, duration_s))
        for begin_s, (wave, rate_hz) in zip(begins, stretches, strict=True)
        for start_s, end_s in breath_segmentation.find_breaths(wave, rate_hz)
    ]


def source_for(where: CycleSource, path: str) -> CyclesOfOne:
    """Where cycles come from, for one recording: one that a table gives no times for is heard as by default."""
    return where if isinstance(where, str) else where.get(path, "auto")


def judge_cycles(
    path: Path, facts: io.AudioInfo, cycles: Cycles, where: Any, gate: bool, sound: WholeSound | None = None
) -> Cycles:
    """Cycles of a recording -> the same with a verdict on each, from its channels before they are mixed.

    Where a person has marked breaths, only a lack of sound leaves a cycle without a class; whatever else is wrong is
    said. Without the `gate` every cycle gets a class.
    """
    if not gate:
        return cycles._replace(verdicts=[quality.UNCHECKED] * len(cycles.start_s))
    if sound is not None and facts.channels == 1:
        stretches = list(quality.judge_segments([(sound.wave, sound.rate_hz)], slow=sound.slow))
    else:
        stretches = list(quality.judge_segments(io.read_blocks(path, quality.SEGMENT_S), facts.live))
    verdicts = [quality.verdict_of_span(stretches, *span) for span in zip(cycles.start_s, cycles.end_s, strict=True)]
    if cycles.marked:
        verdicts = [verdict._replace(judged=verdict.quality not in quality.NO_SOUND) for verdict in verdicts]
    elif cycles.source == "window" and where != "windows":
        verdicts = [quality.NO_RHYTHM if verdict == quality.OK else verdict for verdict in verdicts]
    return cycles._replace(verdicts=verdicts)


def read_chunks(
    path: str,
    audio: PaddedWaveform,
    where: CycleSource = "auto",
    gate: bool = False,
    prepare: PrepareSpans | None = None,
    label_set: LabelSet = ICBHI,
) -> Generator[CycleChunk, None, None]:
    """Recording, word of CYCLES, whether to leave out what cannot be judged -> its cycles as training saw them: as
    `prepare` makes them, or waveforms as `audio` says.

    Errors: ValueError or OSError if it cannot be read.
    """
    place = source_for(where, path)
    with local_copy(path, annotated=place in ("auto", "annotation")) as file:
        facts = io.read_audio_info(file)
        duration_s = facts.duration_s

        # the sound is read at once only where breaths are looked for in it
        known = not isinstance(place, str) or is_annotated(file, place)
        sound = None if duration_s > DECODE_ONCE_S or known else read_whole_sound(file)
        beside = f"the text beside {path}" if is_url(path) else None
        cycles = find_cycles(file, duration_s, place, sound, beside, label_set)
        cycles = judge_cycles(file, facts, cycles, place, gate, sound)
        notes = notes_to_tell(facts, cycles.verdicts)

        scored = cycles.judged | scales_batches(audio)
        spans = list(compress(zip(cycles.start_s, cycles.end_s, strict=True), scored))
        if prepare is not None:
            own = prepare(file, spans)
            whole = CycleChunk(
                path, duration_s, cycles, own.inputs, True, notes=notes, extras=own.extras, rows=own.table
            )
            for start in range(0, max(len(own), 1), CHUNK_CYCLES):
                yield whole.cut(slice(start, start + CHUNK_CYCLES), last=start + CHUNK_CYCLES >= len(own))
            return

        segments = io.read_segments(file, spans) if sound is None else io.cut_segments(file, sound[:2], spans)
        samples, left = round(audio.rate_hz * audio.duration_s), len(spans)
        if not spans:
            yield CycleChunk(path, duration_s, cycles, np.empty((0, samples), np.float32), last=True, notes=notes)
        while left:
            waveforms = np.empty((min(left, CHUNK_CYCLES), samples), np.float32)
            for row, (segment, native_hz) in zip(waveforms, islice(segments, len(waveforms)), strict=True):
                row[:] = prepare_cycle(segment, native_hz, audio)
            left -= len(waveforms)
            yield CycleChunk(path, duration_s, cycles, waveforms, last=not left, notes=notes)


def read_whole_sound(file: Path) -> WholeSound:
    """Recording -> all of its sound."""
    wave, rate_hz = io.read_waveform(file)
    return WholeSound(wave, rate_hz, to_4_khz(wave, rate_hz))


def notes_to_tell(facts: io.AudioInfo, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """-> the notes about a file, but for the one on dead channels where the verdict on its cycles says the same."""
    if facts.live is None or all(verdict.quality != "dead_channel" for verdict in verdicts):
        return facts.notes
    return tuple(note for note in facts.notes if note != left_out_channels_note(facts.live, facts.channels))


def prepare_cycle(segment: Waveforms, native_hz: int, audio: PaddedWaveform) -> Waveforms:
    """A cycle as it was read -> (samples,) as training saw it."""
    return prepare_waveform(
        segment,
        native_hz,
        rate_hz=audio.rate_hz,
        samples=round(audio.rate_hz * audio.duration_s),
        resampler=audio.resampler,
        pad=audio.pad,
        fade_samples=audio.fade_samples,
    )


def read_spans(file: Path, spans: Sequence[tuple[float, float]], audio: PaddedWaveform) -> Waveforms:
    """Recording and stretches (start_s, end_s) of it -> (n, samples), each as training saw a cycle."""
    waveforms = [prepare_cycle(segment, rate_hz, audio) for segment, rate_hz in io.read_segments(file, spans)]
    return np.array(waveforms, np.float32).reshape(-1, round(audio.rate_hz * audio.duration_s))


def read_ahead(
    paths: Iterable[str],
    audio: PaddedWaveform,
    where: CycleSource = "auto",
    threads: int = READER_THREADS,
    gate: bool = False,
    prepare: PrepareSpans | None = None,
    label_set: LabelSet = ICBHI,
) -> Generator[CycleChunk, None, None]:
    """Recordings -> their chunks in order. Threads read a bounded number of recordings ahead of who takes them.

    Each recording has a queue of two chunks: one of any length is read as fast as it is scored.
    """
    if isinstance(where, str) and where not in CYCLES:
        raise UsageError(f"--cycles {where}: expected one of {', '.join(CYCLES)}")
    stop, boxes = threading.Event(), deque[queue.Queue[CycleChunk]]()

    def fill(path: str, box: queue.Queue[CycleChunk]) -> None:
        try:
            with closing(read_chunks(path, audio, where, gate, prepare, label_set)) as reading:
                for chunk in reading:
                    box.put(chunk)
                    if stop.is_set():
                        break
        except Exception as caught:
            error = reading_error(path, caught)
            nothing = Cycles([], [], None, "")
            box.put(CycleChunk(path, float("nan"), nothing, np.empty((0, 0), np.float32), last=True, error=error))

    remaining = iter(paths)
    with ThreadPoolExecutor(threads, thread_name_prefix="rales-read") as pool:
        try:
            while True:
                for path in islice(remaining, RECORDINGS_AHEAD - len(boxes)):
                    boxes.append(queue.Queue(maxsize=2))
                    pool.submit(fill, path, boxes[-1])
                if not boxes:
                    return
                while not (chunk := boxes[0].get()).last:
                    yield chunk
                boxes.popleft()
                yield chunk
        finally:  # left early: who waits to put a chunk finds room, sees the flag and ends
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for box in boxes:
                with suppress(queue.Empty):
                    while True:
                        box.get_nowait()


def reading_error(path: str, error: Exception) -> Exception:
    """What reading one recording ended with -> the error that its row tells. One that nobody foresaw is of this
    recording alone, too: the others are read."""
    if isinstance(error, ValueError | OSError):
        return error
    return FileError(path, f"cannot be read ({summarise_error(error)}); save it again as WAV")


def fill_batches(chunks: Iterable[CycleChunk], size: int) -> Iterator[list[CycleChunk]]:
    """Chunks -> the same cycles in lists of `size` each, the last of what is left; a chunk may be cut for that."""
    batch, free = list[CycleChunk](), size
    for chunk in chunks:
        while len(chunk.waveforms) > free:
            if free:
                batch.append(chunk.cut(slice(free), last=False))
                chunk = chunk.cut(slice(free, None), last=chunk.last)
            yield batch
            batch, free = [], size
        batch.append(chunk)
        free -= len(chunk.waveforms)
    if batch:
        yield batch
