"""HF_Lung_V1 folder (15 s recordings with phases of breathing and adventitious sounds) -> recordings and cycles.

Beside `steth_20190821_12_00_25.wav` lies `steth_20190821_12_00_25_label.txt`, a line for each phase or sound:

    I 00:00:00.340 00:00:01.900        inhalation, E exhalation, D discontinuous sounds (crackles),
    Wheeze 00:00:00.912 00:00:01.774   Wheeze, Rhonchi, Stridor: continuous sounds

A cycle is ours: an inhalation with the exhalations up to the next one, else a phase by itself. It holds the sounds that
share more than 50 ms with it. Patients are not told: recordings of one day count as those of one patient, which keeps
pieces of one session together (Hsu et al., PLOS ONE 16, 2021, e0254134).
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rales.audio.open_audio import AUDIO_SUFFIXES
from rales.data.annotations import Annotation
from rales.data.reader import (
    END_TOLERANCE_S,
    Cycle,
    DatasetContents,
    Recording,
    copies_note,
    group_by_stem,
    interval_problem,
    list_files,
    locked_problems,
    pair_files,
    read_text,
    sort_cycles,
    unread_note,
    without_copies,
)
from rales.labels import JOINED, NOTHING

NAME = r"(?:steth_\d{8}_|trunc_\d{4}-\d{2}-\d{2}-)[^/]*"
SUFFIX = "_label.txt"
DEVICES = {"steth": "Littmann 3200", "trunc": "HF-Type-1"}
PHASES = ("I", "E")
SOUNDS = {"D": "crackle", "Wheeze": "wheeze", "Rhonchi": "rhonchi", "Stridor": "stridor"}

_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")


def is_annotation(path: Path) -> bool:
    """Whether a path is that of a file of labels, by its name."""
    return path.name.endswith(SUFFIX) and bool(re.fullmatch(NAME, path.stem))


def is_layout(folder: Path) -> bool:
    """Folder -> whether it holds files of labels that are named as published."""
    return any(is_annotation(path) for path in list_files(folder))


def find_annotation(recording: Path) -> Path | None:
    """Recording -> the file of labels beside it, None if there is none."""
    beside = recording.with_name(recording.stem + SUFFIX)
    return beside if is_annotation(beside) and beside.is_file() else None


def read_annotation(path: Path, duration_s: float | None) -> Annotation:
    """File of labels and length of its recording, if known -> its cycles; nothing is raised."""
    cycles, problems, notes = read_labels(path, duration_s)
    return Annotation("HF_Lung_V1", cycles, problems, remark="; ".join(notes))


def find_recordings(folder: str | Path, *, audio: bool, decode: bool) -> DatasetContents:
    """HF_Lung_V1 folder -> its recordings, damaged or not; `decode` reads all samples instead of the headers only."""
    folder, locked = Path(folder), list[Path]()
    paths = list_files(folder, locked)
    sounds, copied_sounds = without_copies(group_by_stem(paths, AUDIO_SUFFIXES))
    texts: dict[str, list[Path]] = {}
    for path in filter(is_annotation, paths):
        texts.setdefault(path.name.removesuffix(SUFFIX), []).append(path)
    sides = {name: {find_side(path, folder) for path in same} for name, same in texts.items()}
    texts, copied_texts = without_copies(texts)
    with_audio = audio and bool(sounds)

    def read_one(name: str) -> Recording:
        heard = sounds.get(name, []) if with_audio else None
        recording = pair_files(name, texts.get(name, []), heard, suffix=SUFFIX, folder=folder, decode=decode)
        side = next(iter(sides[name])) if len(sides.get(name, ())) == 1 else ""
        return _add_labels(recording, texts.get(name, []), side)

    with ThreadPoolExecutor() as pool:
        recordings = list(pool.map(read_one, sorted(texts.keys() | sounds.keys()) if with_audio else sorted(texts)))
    notes = [
        f"{folder}: patients are not told; recordings of one day count as those of one patient",
        *copies_note(folder, copied_sounds + copied_texts),
        *unread_note(folder, paths),
    ]
    both = [f"{folder}: {name} is there for train and for test; keep one" for name, s in sides.items() if len(s) > 1]
    if any("" in side for side in sides.values()):
        both.append(f"{folder}: nothing says which are for training; keep the folders train and test of the release")
    problems = locked_problems(locked)
    return DatasetContents(folder, recordings, problems, notes, extra_columns=("date",), split_problems=both)


def find_side(path: Path, folder: Path) -> str:
    """Path in the data folder -> "train" or "test" by the innermost folder of that name (a copy may be `train 2`), the
    data folder at most, else ""."""
    inside = [folder.absolute().name, *path.parent.relative_to(folder).parts]
    found = (re.fullmatch(r"(train|test)(?: \d+)?", part) for part in reversed(inside))
    return next((match[1] for match in found if match), "")


def _add_labels(recording: Recording, texts: list[Path], side: str) -> Recording:
    """Recording and its files of labels -> the recording with cycles, and what its name says."""
    cycles, problems, notes = list[Cycle](), list(recording.problems), list(recording.notes)
    if len(texts) == 1:
        cycles, wrong, more = read_labels(texts[0], recording.info.duration_s if recording.info else None)
        problems, notes = problems + wrong, notes + more
    date = re.match(r"(?:steth|trunc)_(\d{4})-?(\d{2})-?(\d{2})", recording.name)
    place = re.search(r"-([A-Z]\w)_\d+$", recording.name)
    day = "".join(date.groups()) if date else ""
    return replace(
        recording,
        patient=day or recording.name,
        device=DEVICES.get(recording.name[:5], ""),
        location=place[1] if place else "",
        split=side,
        cycles=cycles,
        problems=problems,
        notes=notes,
        extra={"date": day},
    )


def read_labels(path: Path, duration_s: float | None) -> tuple[list[Cycle], list[str], list[str]]:
    """File of labels and length of its recording, if known -> cycles, a sentence per broken line, notes."""
    phases, sounds, problems = list[tuple[float, float, str]](), list[tuple[float, float, str]](), list[str]()
    try:
        lines = read_text(path).splitlines()
    except (ValueError, OSError) as error:
        return [], [str(error)], []
    for number, line in enumerate(lines, start=1):
        if not (cells := line.split()):
            continue
        found = _parse_line(cells, duration_s)
        if isinstance(found, str):
            problems.append(f"{path}, line {number}: {found}; fix or remove the line")
        else:
            (phases if cells[0] in PHASES else sounds).append(found)

    spans = join_phases(phases)
    cycles = [_make_cycle(start_s, end_s, sounds) for start_s, end_s in spans]
    outside = [each for each in sounds if not any(share_s(each, span) > END_TOLERANCE_S for span in spans)]
    notes = [f"{path}: sounds outside all breaths, in no cycle: {len(outside)}"] if outside else []
    if not spans and not problems:
        notes.append(f"{path}: no inhalation and no exhalation, so no cycles")
    return sort_cycles(cycles), problems, notes


def _parse_line(cells: list[str], duration_s: float | None) -> tuple[float, float, str] | str:
    """Words of a line -> start and end in s, word; or what is wrong with it."""
    if len(cells) != 3:
        return f"{len(cells)} words, expected a label, its start and its end"
    word, times = cells[0], [_TIME.fullmatch(cell) for cell in cells[1:]]
    if word not in (*PHASES, *SOUNDS):
        return f"label {word!r} is not known; expected one of {', '.join((*PHASES, *SOUNDS))}"
    if None in times:
        return f"start and end are {cells[1]!r} and {cells[2]!r}, expected hours:minutes:seconds"
    start_s, end_s = (3600 * float(t[1]) + 60 * float(t[2]) + float(t[3]) for t in times if t)
    return interval_problem(start_s, end_s, duration_s).replace("the cycle", f"its {word}") or (start_s, end_s, word)


def join_phases(phases: list[tuple[float, float, str]]) -> list[tuple[float, float]]:
    """Phases (start_s, end_s, I or E) -> cycles: each inhalation begins one, and exhalations behind it are its own."""
    spans = list[tuple[float, float]]()
    breathed_in = False  # whether the last span began with an inhalation
    for start_s, end_s, word in sorted(phases):
        if word == "E" and breathed_in:
            spans[-1] = (spans[-1][0], max(end_s, spans[-1][1]))
        else:
            spans.append((start_s, end_s))
        breathed_in = breathed_in or word == "I"
    return spans


def share_s(sound: tuple[float, float, str], span: tuple[float, float]) -> float:
    """Sound and stretch of time -> seconds that they have in common, negative if they are apart."""
    return min(sound[1], span[1]) - max(sound[0], span[0])


def _make_cycle(start_s: float, end_s: float, sounds: list[tuple[float, float, str]]) -> Cycle:
    inside = {SOUNDS[each[2]] for each in sounds if share_s(each, (start_s, end_s)) > END_TOLERANCE_S}
    crackle, wheeze = int("crackle" in inside), int(bool(inside - {"crackle"}))
    return Cycle(start_s, end_s, crackle, wheeze, JOINED.join(sorted(inside)) or NOTHING)
