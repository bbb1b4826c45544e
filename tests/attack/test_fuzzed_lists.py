"""Damaged lists and annotations through every reader of them: each says what is wrong, and with which file.

2,800 reads by `make test-slow`, some 200 by `make test`; the bytes that broke something once are in BROKE.
"""

import json
import os
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from rales.data import audit_data, read_cycles
from rales.data.corpus import read_corpus
from tests import tiny
from tests.attack.targets import EVENTS, ICBHI, TARGETS, check_sentence, seeds

LONGEST_S = 20
WORDS = [
    *(b"\0", b"\xff", b"\n", b",", b"\t", b'"', b"'", b"nan", b"inf", b"-1", b"1e400", b"1e-400", b"9" * 20, b"0x10"),
    *(b"=1+1", b"../../etc/passwd", b"/dev/zero", b"/etc/passwd", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\xe2\x80\xa8"),
    *(b"[", b"{", b"]", b"null", b"true", b"1.5.2", b"-0", b"+3", b"1_0", "٣".encode(), b"http://127.0.0.1:1/x.wav"),
    *(b"\0\0\0", b" " * 50, b"A" * 5000, b"[" * 3000, b'"\\ud800"', b"a.wav\0", b"A" * 300 + b"/x", b"9" * 5000),
]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Text -> the same with up to eight damages."""
    text = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(6):
            case 0 if text:
                text[at % len(text)] = chance.randrange(256)
            case 1:
                text[at:at] = chance.choice(WORDS)
            case 2:
                text[at : at + chance.randrange(1, 30)] = chance.choice(WORDS)
            case 3:
                del text[at : at + chance.randrange(1, 40)]
            case 4:
                begin = chance.randrange(len(text) + 1)
                text[at:at] = text[begin : begin + chance.randrange(1, 60)]
            case _:
                del text[max(1, at) :]
    return bytes(text)


def read(folder: Path, source: Path, function: Callable[[], object]) -> str:
    """Call a reader of a source -> what came of it."""
    started = time.perf_counter()
    try:
        function()
    except (ValueError, OSError) as error:
        kind = "refused"
        try:
            check_sentence(folder, error)
        except AssertionError:
            kind = f"UNFORESEEN {source.name}: {error}"
    except Exception:  # whatever it is
        kind = f"CRASH {source.name}: {traceback.format_exc(limit=-3)}"
    else:
        kind = "read"
    return kind if time.perf_counter() - started < LONGEST_S else f"HANGS {source.name}"


def icbhi_folder(place: Path, chance: random.Random) -> Path:
    """A folder of the official layout in which two texts are damaged."""
    folder = place / "icbhi"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "good", folder)
    for path in chance.sample(sorted(folder.glob("*.txt")), 2):
        path.write_bytes(damaged(path.read_bytes(), chance))
    return folder


def sprsound_folder(place: Path, chance: random.Random) -> Path:
    """Annotations alone of SPRSound, two of three damaged."""
    folder = place / "sprsound"
    for number in range(3):
        path = folder / "train_json" / f"65075373_4.2_0_p1_{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(EVENTS).encode()
        path.write_bytes(damaged(text, chance) if number else text)
    return folder


def table_file(place: Path, chance: random.Random, suffix: str) -> Path:
    """A manifest of recordings that are there, damaged."""
    path = place / f"m{suffix}"
    sounds = [str(sound) for sound in sorted((place / "good").glob("*.wav"))[:4]]
    labels = ["normal", "crackle", "wheeze", "both"]
    rows = pd.DataFrame({"path": sounds, "start_s": 0.0, "end_s": 0.9, "label": labels})
    rows = rows.assign(patient=["p1", "p2", "p3", "p4"], split=["train", "train", "test", "test"])
    if suffix == ".parquet":
        rows.to_parquet(path)
    elif suffix == ".json":
        path.write_text(rows.to_json(orient="records"))
    else:
        rows.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    path.write_bytes(damaged(path.read_bytes(), chance))
    return path


def attack(rounds: int, seed: int, place: Path) -> Counter[str]:
    """Rounds of damages -> what came of the reads of each."""
    chance, counts = random.Random(seed), Counter[str]()
    tiny.write_folder(place / "good")
    for turn in range(rounds):
        sources = [table_file(place, chance, (".csv", ".tsv", ".json", ".parquet")[turn % 4])]
        sources += [icbhi_folder(place, chance), sprsound_folder(place, chance)] if turn % 3 == 0 else []
        for source in sources:
            heard = source.name != "sprsound"  # there is no sound beside it
            readers: list[Callable[[], object]] = [
                partial(read_cycles, source, audio=heard),
                partial(read_cycles, source, audio=heard, skip_damaged=True),
                partial(audit_data, source),
                partial(read_corpus, [source]),
                partial(read_corpus, [source], part="all"),
            ]
            counts.update(read(place, source, reader) for reader in readers)
        for name in ("annotation", "json"):
            text = damaged(chance.choice(list(seeds(name))), chance)
            (place / name).mkdir(exist_ok=True)
            counts[read(place, place / name, partial(TARGETS[name], text, place / name))] += 1
    return counts


def check(rounds: int, seed: int, place: Path) -> None:
    counts = attack(rounds, seed, place)
    wrong = [kind for kind in counts if kind not in ("read", "refused")]
    told = f"{counts['read']} read, {counts['refused']} refused, {len(wrong)} wrong"
    print(f"\n{counts.total()} reads of damaged lists: {told}")
    assert not wrong, "\n".join(wrong[:20])
    assert min(counts["read"], counts["refused"]) > counts.total() // 20


def test_some_damaged_lists(tmp_path: Path) -> None:
    check(12, 0, tmp_path)


@pytest.mark.slow
def test_damaged_lists(tmp_path: Path) -> None:
    check(int(os.environ.get("RALES_FUZZ_LISTS", "2800")) // 10, 1, tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_guided_fuzzer_begins_with(target: str, tmp_path: Path) -> None:
    chance = random.Random(0)
    for seed in seeds(target):
        TARGETS[target](seed, tmp_path)
        TARGETS[target](damaged(seed, chance), tmp_path)


BROKE: list[tuple[str, bytes]] = [  # what an attack found, made small
    ("manifest", b"\0\n"),  # half a letter of UTF-16
    ("manifest", b"path,label\n,normal\n"),  # no path at all
    ("manifest", b"path,label\nb.wav,normal\nb,normal\n"),  # two of one name, and none to tell them apart by
    ("manifest", b"path,label\n" + b"A" * 300 + b"/x,normal\n"),  # a folder of a name that no disk has
    ("manifest", b"path,label\na.wav\0,normal\n"),
    ("json", b'[{"path": "a.wav", "label": "normal", "split": "train"}, {"path": "b.wav", "label": "both"}]'),
    ("json", b"[" * 100_000),
    ("json", b'[{"path": "\\ud800.wav", "label": "normal"}]'),
    ("json", b'{"path": ' + b"9" * 5000 + b"}"),  # a number too long for Python
    ("json", b'[{"path": ' + b"[" * 900 + b"]" * 900 + b"}]"),
    ("wav", b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff" + bytes(20)),
    ("wav", b"riff" + bytes(36) + b"\xff" * 24 + bytes(40)),  # a chunk of 2^64 bytes
    ("annotation", ICBHI.decode().encode("utf-16")[:-1]),
]


@pytest.mark.parametrize(("target", "data"), BROKE)
def test_what_broke_a_reader_once(target: str, data: bytes, tmp_path: Path) -> None:
    TARGETS[target](data, tmp_path)


def test_sound_beside_lists(tmp_path: Path) -> None:
    """The good recordings of the attack are read, so that it is not refused as a whole."""
    folder = tiny.write_folder(tmp_path / "good")
    assert len(read_cycles(folder)) == 32
    assert soundfile.info(next(folder.glob("*.wav"))).samplerate == tiny.RATE_HZ
