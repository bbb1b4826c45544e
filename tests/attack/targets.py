"""What any bytes may do to the readers, one function each: bytes and a folder -> nothing, or an error if they do more.

The coverage-guided fuzzer (guided.py) and the tests give them bytes; `seeds` are where it starts.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

import rales.data
from rales.audio import io, open_audio
from rales.data import manifest as table
from rales.data import sprsound
from rales.data.annotation_dialects import read_table
from rales.data.annotations import read_annotation
from rales.data.corpus import Part, read_corpus
from rales.files.csv_cells import make_encodable
from rales.inference.audio_reader import read_annotated_cycles
from tests.attack.sounds import bases

Target = Callable[[bytes, Path], None]
UNFORESEEN = re.compile(r"cannot be read \(\w+(Error|Exception)?: ")  # what the readers say of what nobody foresaw
RECORDING_S = 5.0


def check_sentence(path: Path, sentence: object) -> None:
    """An error or a problem -> it names the file and says something that somebody wrote."""
    told = str(sentence)
    assert told.startswith(str(path)), told
    assert not UNFORESEEN.search(told), told
    assert make_encodable(told) == told


def check_sentences(path: Path, read: Callable[[], object]) -> None:
    """Call a reader: it may refuse the file, in words."""
    try:
        read()
    except (ValueError, OSError) as error:
        check_sentence(path, error)


def wav(data: bytes, folder: Path) -> None:
    path = folder / "x.wav"
    path.write_bytes(data)
    open_audio.channel_mix_of_file.cache_clear()  # another file of the same name, size and hundredth of a second
    try:
        facts = io.read_audio_info(path)
        whole, rate_hz = io.read_waveform(path)
    except (ValueError, OSError) as error:
        check_sentence(path, error)
        return
    assert whole.size == facts.frames
    assert rate_hz == facts.rate_hz
    assert np.isfinite(whole).all()
    assert np.abs(whole).max() <= open_audio.HIGHEST
    if facts.bits and whole.size > 1:  # formats without a loss are cut where one says
        half_s = whole.size // 2 / rate_hz
        parts = [part for part, _ in io.read_segments(path, [(None, half_s), (half_s, None)])]
        assert np.array_equal(np.concatenate(parts), whole)


def annotation(data: bytes, folder: Path) -> None:
    path = folder / "x.txt"
    path.write_bytes(data)
    for duration_s in (None, RECORDING_S):
        found = read_annotation(path, duration_s)
        for problem in found.problems:
            check_sentence(path, problem)
        assert list(found.cycles) == sorted(found.cycles)
        for cycle in found.cycles:
            assert 0 <= cycle.start_s < cycle.end_s < float("inf")
            assert {cycle.crackle, cycle.wheeze} <= {0, 1}
            assert duration_s is None or cycle.end_s < duration_s + 0.1
        assert found.note(path) == "" or found.note(path).startswith(str(path))
    for where in ("auto", "annotation"):
        check_sentences(path, partial(read_annotated_cycles, path, RECORDING_S, where, str(path)))


def json_(data: bytes, folder: Path) -> None:
    path = folder / "train_json" / "65075373_4.2_0_p1_1.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    label, cycles, problems = sprsound._read_sprsound_annotation(path, RECORDING_S)
    for problem in problems:
        check_sentence(path, problem)
    assert cycles == sorted(cycles)
    assert label == make_encodable(label)
    check_sentences(path.parent, lambda: rales.data.read_cycles(path.parent, audio=False, skip_damaged=True))

    def rows() -> None:
        for row in read_table(path).rows:
            assert all(make_encodable(cell) == cell for cell in row.cells.values())

    check_sentences(path, rows)
    check_sentences(path, lambda: rales.data.read_cycles(path, audio=False, skip_damaged=True))
    check_sentences(path, lambda: read_corpus([path], part="all"))


def manifest(data: bytes, folder: Path) -> None:
    path = folder / ("m.tsv" if data[:1] == b"\t" else "m.csv")
    for name in ("a.wav", "b.wav"):
        if not (folder / name).exists():
            soundfile.write(folder / name, np.zeros(round(RECORDING_S * 4000)), 4000)
    path.write_bytes(data)
    check_sentences(path, lambda: rales.data.audit_data(path))
    check_sentences(path, lambda: rales.data.read_cycles(path))
    check_sentences(path, lambda: rales.data.read_cycles(path, skip_damaged=True, needs_split=False))
    check_sentences(path, lambda: rales.data.read_cycles(path, skip_damaged=True, audio=False))
    parts: tuple[Part, Part] = ("train", "all")
    for part in parts:
        check_sentences(path, partial(read_corpus, [path], part=part))

    def cycles() -> None:
        for rows in table.spans_of(path).values():
            found, labels, problems = table.cycles_of_rows(rows, RECORDING_S)
            assert len(found) == len(labels)
            for problem in problems:
                check_sentence(path, problem)

    check_sentences(path, cycles)


TARGETS: dict[str, Target] = {"wav": wav, "annotation": annotation, "json": json_, "manifest": manifest}

ICBHI = b"0.036\t0.579\t0\t0\n0.579\t2.45\t1\t0\n2.45\t3.893\t0\t1\n3.893\t4.9\t1\t1\n"
AUDACITY = b"0.0\t1.5\tcrackle 0.62\n\\\t50.0\t8000.0\n1.5\t3.0\tuncertain: wheeze 0.4\n3.0\t4.0\tnot judged: silence\n"
RAVEN = (
    b"Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tClass\n1\tWaveform 1\t1\t0.0\t1.5\tnormal\n"
    b"1\tSpectrogram 1\t1\t0.0\t1.5\tnormal\n2\tSpectrogram 1\t1\t1.5\t3.0\tboth\n"
)
MANIFEST = (
    b"path,start_s,end_s,label,patient,split\na.wav,0.0,2.4,normal,anna,train\na.wav,2.4,4.9,crackle,anna,train\n"
    b'"b.wav",0,"2,5",both,bert,test\nb.wav,2.5,,wheeze,bert,test\n'
)
EVENTS = {
    "record_annotation": "CAS & DAS",
    "event_annotation": [
        {"start": "0", "end": "1500", "type": "Normal"},
        {"start": "1500", "end": 3000, "type": "Wheeze+Crackle"},
    ],
}


def seeds(target: str) -> Iterable[bytes]:
    """Target -> inputs to begin with: one of every kind that its reader knows."""
    if target == "wav":
        return bases(seconds=0.2).values()
    if target == "annotation":
        wide = ICBHI.decode().encode("utf-16")
        return [ICBHI, AUDACITY, RAVEN, b"0.0\t2.5\n2.5\t4.5\n", wide, b"\xef\xbb\xbf" + ICBHI, b"a letter to anna\n"]
    if target == "json":
        rows = [
            {"path": path, "start_s": 0.5, "end_s": 2, "label": "normal", "split": "train"}
            for path in ("a.wav", "b.wav")
        ]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        documents = [EVENTS, rows, columns, {"notice": "x", "cycles": rows}]
        return [json.dumps(document).encode() for document in documents]
    wide = MANIFEST.decode().encode("utf-16")
    flags = b"sep=;\npath;crackle;wheeze\na.wav;1;0\nb.wav;0;1\n"
    answers = b"recording,cycle,path,start_s,end_s,label,p_normal\na,1,a,0,1,normal,0.9\n'=1+1,1,b.wav,0,1,,\n"
    return [
        MANIFEST,
        MANIFEST.replace(b",", b"\t"),
        MANIFEST.replace(b",", b";"),
        wide,
        flags,
        answers,
        b"path\na.wav\n",
    ]
