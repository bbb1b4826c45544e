"""Many visitors, many sessions, many uploads, many damaged files: figures of the page's service."""

import io
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from rales.web.store import Store
from tests.attack.editors import assert_none_lost
from tests.attack.page import Services, add, services
from tests.served import new_session, recording, upload
from tests.test_web_hostile import damaged, encoded

EDITORS, SAVES = 50, 20
SESSIONS, OF_EACH = 1000, 3  # and recordings of each
UPLOADS, WARM = 500, 50
FUZZED = 1000
MIB = 2**20
SLOWEST_LIST_S = 2.0  # of 1,000 sessions, on a machine that is busy with other work


@pytest.fixture
def running(place: Path, tmp_path: Path) -> Iterator[Services]:
    with services(place / "runs" / "first", tmp_path / "temporary") as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("recordings", [1, 10])
def test_fifty_people_at_once(place: Path, tmp_path: Path, running: Services, recordings: int) -> None:
    """All at one recording, or five at each of ten; those name the revision that they have seen."""
    each = EDITORS // recordings
    with closing(running.start(tmp_path / "store")) as client:
        session = new_session(client)
        ids = [upload(client, session, recording(place))["id"] for _ in range(recordings)]
        began = time.monotonic()
        edit = partial(assert_none_lost, client, editors=each, saves=SAVES, based=recordings > 1)
        with ThreadPoolExecutor(recordings) as pool:
            again = sum(pool.map(edit, ids))
        took_s = time.monotonic() - began
    how = f"each from the revision that stands, {again} made anew" if recordings > 1 else "without a base"
    print(
        f"\n{EDITORS} editors x {SAVES} saves of {recordings} recordings ({how}): 0 of {EDITORS * SAVES} lost, "
        f"revisions distinct, {took_s:.0f} s"
    )


@pytest.mark.slow
def test_a_thousand_sessions(tmp_path: Path, running: Services) -> None:
    """Filled beside the service, which reads them from its database all the same."""
    folder = tmp_path / "store"
    with closing(running.start(folder)) as client:
        with Store(folder).open() as db:
            for number in range(SESSIONS):
                session = f"{number:016x}"
                db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (session, f"session {number}", float(number)))
                for each in range(OF_EACH):
                    row = (f"{number:08x}{each:08x}", session, f"r{each}", float(each), 4.0, 4000, 1, "ready")
                    columns = "id, session, name, added, duration_s, rate_hz, channels, status"
                    db.execute(f"INSERT INTO recordings ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        took_s = []
        for _ in range(9):
            began = time.monotonic()
            listed = client.get("/sessions").json()
            took_s.append(time.monotonic() - began)
        assert len(listed) == SESSIONS
        assert {line["recordings"] for line in listed} == {OF_EACH}
    running.kill()
    began = time.monotonic()
    running.start(folder).close()
    print(
        f"\n{SESSIONS} sessions of {OF_EACH} recordings listed in {statistics.median(took_s):.3f} s (median of 9; most "
        f"{max(took_s):.3f} s); the service starts on them in {time.monotonic() - began:.1f} s"
    )
    assert statistics.median(took_s) < SLOWEST_LIST_S


def figures(service: int) -> dict[str, float]:
    """-> memory in MiB, open files and processes of a service and of its decoder."""
    process = psutil.Process(service)
    below = process.children(recursive=True)
    return {
        "service MiB": process.memory_info().rss / MIB,
        "decoder MiB": sum(each.memory_info().rss for each in below) / MIB,
        "open files": process.num_fds() + sum(each.num_fds() for each in below),
        "threads": process.num_threads(),
        "processes": 1 + len(below),
    }


@pytest.mark.slow
def test_five_hundred_uploads(place: Path, tmp_path: Path, running: Services) -> None:
    """Memory, open files and processes stay as they were after the first fifty."""
    sound = recording(place).read_bytes()
    with closing(running.start(tmp_path / "store")) as client:
        session = new_session(client)

        def send(many: int) -> None:
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: add(client, session, sound), range(many)))
            assert Counter(answer.status_code for answer in answers) == {201: many}
            settle(client, session)

        send(WARM)
        before = figures(running.process)
        began = time.monotonic()
        send(UPLOADS)
        took_s, after = time.monotonic() - began, figures(running.process)
        listed = client.get(f"/sessions/{session}").json()["recordings"]
    assert [line["status"] for line in listed] == ["ready"] * (WARM + UPLOADS)
    print(f"\n{UPLOADS} uploads after {WARM} in {took_s:.0f} s:")
    for name in before:
        print(f"  {name}: {before[name]:.0f} before, {after[name]:.0f} after")
    assert after["service MiB"] - before["service MiB"] < 40
    assert after["decoder MiB"] - before["decoder MiB"] < 20
    assert after["open files"] - before["open files"] <= 4
    assert after["processes"] == before["processes"]


def settle(client: httpx.Client, session: str) -> None:
    """Wait until the model has answered for all recordings."""
    while any(line["status"] == "waiting" for line in client.get(f"/sessions/{session}").json()["recordings"]):
        time.sleep(0.2)


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path: Path, running: Services) -> None:
    """A sentence or an answer of numbers for each, and nothing of them stays."""
    folder, whole = tmp_path / "store", kinds()
    with closing(running.start(folder)) as client:
        statuses = Counter[int]()
        for number in range(FUZZED):
            name, content = whole[number % len(whole)]
            answer = client.post("/predict", files={"audio": (name, damaged(content, random.Random(number)))})
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                rows = answer.json()["cycles"]
                assert all((row["label"] is None) == (row["p_normal"] is None) for row in rows), answer.text
            else:
                said = answer.json()["detail"]
                assert len(said) > 10
                assert not any(word in said for word in ("Traceback", "object has no attribute", str(tmp_path))), said
        left = [*(folder / "arriving").iterdir(), *(tmp_path / "temporary").iterdir()]
        processes = figures(running.process)["processes"]
    answered = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(f"\n{FUZZED} damaged files of {len(whole)} kinds to /predict: {answered}; {len(left)} files left")
    assert max(statuses) < 500
    assert left == []
    assert processes == 2
    assert statuses[200] > 20 < statuses[422]


def kinds() -> list[tuple[str, bytes]]:
    """-> names and contents of recordings in the formats that are taken."""
    forms = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "PCM_24"), ("FLAC", "PCM_24")]
    forms += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("RF64", "PCM_16")]
    found = [(f"a.{kind.lower()}", encoded(kind, subtype)) for kind, subtype in forms]
    odd = io.BytesIO()
    soundfile.write(odd, np.full((4000, 2), 1e25), 8000, format="WAV", subtype="FLOAT")
    return [*found, ("large.wav", odd.getvalue()), *fragmented()]


def fragmented() -> list[tuple[str, bytes]]:
    """-> what telephones write, where the package that reads it is there."""
    try:
        import av
    except ImportError:
        return []
    found = []
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 16000)).astype(np.float32)
    for name, form, options in (("a.m4a", "mp4", {}), ("b.m4a", "mp4", {"movflags": "frag_keyframe+empty_moov"})):
        content = io.BytesIO()
        with av.open(content, "w", form, options=options) as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            for start in range(0, noise.shape[1], 1024):
                piece = noise[:, start : start + 1024].copy()
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        found.append((name, content.getvalue()))
    return found
