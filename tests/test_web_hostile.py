"""Strangers, their files and their headers: a status, a sentence, and the service stays up."""

import asyncio
import csv
import io
import json
import os
import random
import signal
import socket
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from rales.files.csv_cells import one_line
from rales.web import page_address
from rales.web.decoding import Decoder, Undecodable
from rales.web.settings import Limits
from tests.served import new_session, recording, served, token, until


@pytest.fixture
def sound(place: Path) -> bytes:
    return recording(place).read_bytes()


def encoded(kind: str, subtype: str) -> bytes:
    """Half a second of noise in a format."""
    content = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(4000)
    soundfile.write(content, noise, 8000, format=kind, subtype=subtype)
    return content.getvalue()


def sentence(answer: httpx.Response) -> str:
    """-> what the service says, which is one sentence and no traceback or path of the service."""
    said = str(answer.json()["detail"])
    assert "Traceback" not in said
    assert "/arriving/" not in said
    assert len(said) > 10
    return said


# Files


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")],
)
def test_damaged_files_of_each_format(client: httpx.Client, kind: str, subtype: str) -> None:
    """A few; tests/attack has thousands."""
    whole = encoded(kind, subtype)
    statuses = []
    for number in range(12):
        answer = client.post("/predict", files={"audio": (f"{number}.wav", damaged(whole, random.Random(number)))})
        assert answer.status_code in (200, 413, 422), answer.text
        if answer.status_code != 200:
            sentence(answer)
        statuses.append(answer.status_code)
    assert len(set(statuses)) > 1 or kind == "OGG"  # some were only scratched; Ogg has a checksum everywhere
    assert client.get("/health").status_code == 200


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """A file -> the same cut, with bytes changed at its head or anywhere, or with a piece repeated."""
    content = bytearray(whole)
    for _ in range(chance.randint(1, 8)):
        there = chance.randrange(64 if chance.random() < 0.6 else len(content))
        match chance.randrange(3):
            case 0:
                content[there % len(content)] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
            case 1:
                content[there : there + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 2:
                content[there:there] = content[there : there + chance.randrange(1, 200)]
    return bytes(content[: chance.randrange(1, len(content))] if chance.random() < 0.3 else content)


def test_files_that_are_something_else(client: httpx.Client) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    for content in (
        bomb.getvalue(),
        b"",
        b"\0",
        b"<script>alert(1)</script>",
        os.urandom(5000),
        b"RIFF\xff\xff\xff\xffWAVE",
    ):
        answer = client.post("/predict", files={"audio": ("breath.wav", content)})
        assert (answer.status_code, sentence(answer)[:8]) == (422, "breath: ")


@pytest.mark.parametrize("ending", ["m4a", "AAC"])
def test_what_telephones_record(client: httpx.Client, ending: str) -> None:
    """FFmpeg reads it, in the same process with limits, but no list that names other files."""
    av = pytest.importorskip("av")
    content = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 2 * 16000)).astype(np.float32)
    with av.open(content, "w", "adts" if ending == "AAC" else "mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, noise.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(noise[:, start : start + 1024].copy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    answer = client.post("/predict", files={"audio": (f"breath.{ending}", content.getvalue())})
    assert answer.status_code == 200, answer.text
    assert answer.json()["recording"] == "breath"
    assert answer.json()["duration_s"] == pytest.approx(2.0, abs=0.15)
    listed = client.post("/predict", files={"audio": (f"list.{ending}", b"ffconcat version 1.0\nfile audio.txt\n")})
    assert (listed.status_code, "list: not a readable audio file" in sentence(listed)) == (422, True)


def test_three_hours_of_silence(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "night.flac"
    with soundfile.SoundFile(path, "w", 4000, 1, "PCM_16") as file:
        for _ in range(180):
            file.write(np.zeros(60 * 4000, np.int16))
    answer = client.post("/predict", files={"audio": ("night.flac", path.read_bytes())})
    assert answer.status_code == 413
    assert sentence(answer) == ("night: lasts 3:00:00, at most 10:00 minutes are taken; cut it into shorter recordings")


def test_many_channels_and_strange_rates(client: httpx.Client) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.zeros((20_000, 900)), 500, format="WAV")
    answer = client.post("/predict", files={"audio": ("wide.wav", content.getvalue())})
    assert answer.status_code == 200  # 40 s of 36 MB, within all limits
    for rate_hz in (1, 2_000_000_000):
        content = io.BytesIO()
        soundfile.write(content, np.ones(400) * 0.1, rate_hz, format="WAV")
        answer = client.post("/predict", files={"audio": ("rate.wav", content.getvalue())})
        assert answer.status_code == 422, answer.text


def test_decoding_has_limits(tmp_path: Path, sound: bytes) -> None:
    """A file that takes its decoder too long, one that fills the memory, a pipe, and a decoder that is killed."""
    (tmp_path / "good").write_bytes(sound)
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * 44100)
    soundfile.write(tmp_path / "short.mp3", noise, 44100, format="MP3")
    (tmp_path / "long.mp3").write_bytes(200 * (tmp_path / "short.mp3").read_bytes())  # more than an hour
    soundfile.write(tmp_path / "large.wav", np.zeros(3_000_000, np.int16), 8000)
    os.mkfifo(tmp_path / "endless")
    (tmp_path / "out").mkdir()

    async def run() -> None:
        decoder = Decoder(Limits(decode_s=1, decode_bytes=1 << 32, duration_s=100_000))
        try:
            with pytest.raises(Undecodable, match="takes longer than 1 s to decode"):
                await decoder.decode(tmp_path / "long.mp3", tmp_path / "out")
        finally:
            await decoder.stop()
        decoder = Decoder(Limits(decode_s=1, decode_bytes=8_000_000))
        try:
            with pytest.raises(Undecodable, match="a pipe or a device"):
                await decoder.decode(tmp_path / "endless", tmp_path / "out")
            with pytest.raises(Undecodable, match="takes 22 MiB when decoded") as refused:
                await decoder.decode(tmp_path / "large.wav", tmp_path / "out")
            assert refused.value.large
            assert decoder.process is not None
            decoder.process.kill()
            await decoder.process.wait()
            facts = await decoder.decode(tmp_path / "good", tmp_path / "out")
            assert (facts["duration_s"], facts["rate_hz"], facts["channels"]) == (4.0, 4000, 1)
        finally:
            await decoder.stop()

    asyncio.run(run())


def test_a_stuck_sandbox_costs_no_other_file(tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file loses its patience first ends the sandbox; the other one is decoded by the next."""
    monkeypatch.setattr("rales.web.decoding.PATIENCE", 2)
    (tmp_path / "good").write_bytes(sound)

    async def run() -> None:
        decoder = Decoder(Limits(decode_s=1))
        try:
            stuck = await decoder.started()
            os.kill(stuck.pid, signal.SIGSTOP)
            first = asyncio.create_task(decoder.decode(tmp_path / "good", out("first")))
            await asyncio.sleep(0.8)
            second = asyncio.create_task(decoder.decode(tmp_path / "good", out("second")))
            with pytest.raises(Undecodable, match="takes longer than 1 s to decode"):
                await first
            assert (await second)["duration_s"] == 4.0
            assert decoder.process is not stuck
        finally:
            await decoder.stop()

    def out(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    asyncio.run(run())


def test_memory_that_a_header_does_not_tell_of(tmp_path: Path) -> None:
    """Resampling needs many times what a file of 500 Hz seems to; the limit of the process stops it."""
    soundfile.write(tmp_path / "slow.wav", np.ones(3_000_000) * 0.1, 500)

    async def run() -> str:
        decoder = Decoder(Limits(duration_s=1e6, decode_bytes=30_000_000))
        (tmp_path / "out").mkdir()
        try:
            with pytest.raises(Undecodable) as refused:
                await decoder.decode(tmp_path / "slow.wav", tmp_path / "out")
            return str(refused.value)
        finally:
            await decoder.stop()

    assert asyncio.run(run()) == "needs more than 28 MiB of memory to decode"


# Requests


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "..\\..\\boot.ini", "/etc/shadow", "a/../../b.wav", "\0.wav", "CON"]
)
def test_names_are_only_shown(place: Path, client: httpx.Client, sound: bytes, name: str) -> None:
    before = {path for path in place.rglob("*") if "store" not in path.parts}
    session = new_session(client)
    files = {"audio": (name, sound)}
    answer = client.post(f"/sessions/{session}/recordings", files=files)
    if answer.status_code == 400:  # some names cannot even be sent
        return
    assert answer.status_code == 201
    assert not set(answer.json()["name"]) & set("/\\\0")
    until(lambda: client.get(f"/recordings/{answer.json()['id']}").json()["status"] == "ready")
    inside = client.get(f"/recordings/{answer.json()['id']}/export").headers["content-disposition"]
    assert not set(inside.split("filename=")[1].split(";")[0]) & set("/\\")
    assert {path for path in place.rglob("*") if "store" not in path.parts} == before


def test_no_export_holds_a_formula_or_a_control_character(client: httpx.Client, sound: bytes) -> None:
    """Whatever recordings and sessions are called, in every form, alone and in the zip."""
    session = new_session(client, "=name\x1b[31m\r\nForged: yes")
    names = [
        "=cmd|' C'!A0",
        "+1+1",
        "@SUM(1,1)",
        "-2+3",
        "a\rb",
        "\x1b[31mred",
        "tab\t=1",
        "line\n=1",
        "\x9b31m",
        "\u2028x",
    ]
    added = [
        client.post(f"/sessions/{session}/recordings", files={"audio": ("a.wav", sound)}, data={"path": f"{name}.wav"})
        for name in names
    ]
    ids = [answer.json()["id"] for answer in added]
    until(lambda: all(client.get(f"/recordings/{one}").json()["status"] == "ready" for one in ids))
    for form in ("icbhi", "csv", "audacity", "raven"):
        alone = [client.get(f"/recordings/{one}/export", params={"format": form}) for one in ids]
        whole = client.get(f"/sessions/{session}/export", params={"format": form})
        with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
            texts = {name: archive.read(name).decode() for name in archive.namelist()}
        assert len(texts) == len(names) + (2 if form == "csv" else 1)
        assert not any(line.startswith("Forged") for line in texts["README.txt"].splitlines())
        said = [*texts, *(answer.headers["content-disposition"] for answer in (*alone, whole))]
        for text in (*texts.values(), *said, *(answer.text for answer in alone)):
            assert one_line(text.replace("\n", "").replace("\t", "")) == text.replace("\n", "").replace("\t", "")
        for text in [text for name, text in texts.items() if name.endswith(".csv")] + [each.text for each in alone]:
            if form == "csv":
                cells = [cell for line in csv.reader(text.splitlines()) for cell in line]
                assert len(cells) > 10
                assert not any(cell.startswith(("=", "+", "@", "-")) for cell in cells)


def test_paths_lead_nowhere(client: httpx.Client) -> None:
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/recordings/..%2f..%2fetc/audio",
    ):
        answer = client.get(path)
        assert (answer.status_code, "import" in answer.text) == (404, False)
    for path in ("/recordings/0000000000000000", "/recordings/x/audio", "/recordings/x/spectrogram", "/sessions/x"):
        assert "removed" in sentence(client.get(path))


def test_nothing_is_learned_from_nothing(client: httpx.Client, place: Path) -> None:
    session = new_session(client)
    survey = client.get(f"/sessions/{session}/learning").json()
    assert (survey["cycles"], survey["calibrate"]) == (0, "0 of 10 confirmed patients: 10 more needed")
    assert "not a diagnosis" in survey["notice"]
    for body, status in (
        ({"kind": "calibrate"}, 409),
        ({"kind": "train", "epochs": 0}, 422),
        ({"kind": "train", "epochs": 10**30}, 422),
        ({"kind": "train", "epochs": "30"}, 422),
        ({"kind": "train", "model": "../../runs/first"}, 422),
        ({"kind": "train", "learns": "everything"}, 422),
        ({"kind": "guess"}, 422),
    ):
        answer = client.post(f"/sessions/{session}/learning", json=body)
        assert (answer.status_code, len(sentence(answer)) > 10) == (status, True), body
    assert client.post("/sessions/x/learning", json={"kind": "train"}).status_code == 404
    assert client.get(f"/sessions/{session}/learning?model=..%2Ffirst").status_code == 422
    assert client.get("/learning").json()["status"] == "none"
    assert client.post("/learning/use", json={"name": "x"}).status_code == 409
    for path in ("/learning", "/models/first", "/models/..", "/models/..%2f..%2fruns%2ffirst"):
        assert client.delete(path).status_code in (404, 405), path
    assert (place / "runs" / "first" / "best.safetensors").is_file()
    assert not (place / "store" / "learning").exists()


def test_wrong_content_types(client: httpx.Client, sound: bytes) -> None:
    for kind in ("audio/wav", "application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/predict", content=sound, headers={"content-type": kind})
        assert (answer.status_code, sentence(answer)) == (415, f"the body is {kind}, expected multipart/form-data")
    assert client.post("/annotations", files={"a": ("a", b"b")}).status_code == 415
    answer = client.post("/annotations", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    broken = client.post("/predict", content=b"x", headers={"content-type": "multipart/form-data; boundary=y"})
    assert broken.status_code in (400, 422)
    assert "at /nothing" in sentence(client.get("/nothing"))
    assert "DELETE is not possible here" in sentence(client.delete("/health"))


def test_foreign_names_and_pages(client: httpx.Client) -> None:
    for host in ("rebound.example", "localhost.evil.example", "10.0.0.1", "", "[", "127.0.0.1.nip.example:80"):
        answer = client.get("/health", headers={"host": host})
        assert answer.status_code in (400, 421), host
    for host in ("localhost", "127.0.0.1:1", "[::1]:9", "LOCALHOST."):
        assert client.get("/health", headers={"host": host}).status_code == 200
    own = str(client.base_url).rstrip("/")
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": own + "0"},
    ):
        answer = client.post("/sessions", json={"name": "x"}, headers=headers)
        assert (answer.status_code, "another page" in sentence(answer)) == (403, True)
    for headers in ({"origin": own, "sec-fetch-site": "same-origin"}, {}):
        assert client.post("/sessions", json={"name": "x"}, headers=headers).status_code == 201


def test_a_missing_token(place: Path, tmp_path: Path) -> None:
    with served(
        place, folder=tmp_path, host="0.0.0.0", token="0123456789abcdef", allow_hosts=("ward.example",)
    ) as client:
        del client.headers["authorization"]
        assert client.get("/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"cookie": "rales-80=wrong; rales-page=99999999999.0"},
            {"authorization": "Basic x"},
        ):
            answer = client.get("/sessions", headers=headers)
            assert (answer.status_code, "asks for its token" in sentence(answer)) == (401, True)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/static/index.html").status_code == 401
        assert client.get("/sessions?token=0123456789abcdef").status_code == 401  # tokens in logs: only at the door
        bearer = {"authorization": "Bearer 0123456789abcdef"}
        for host in ("192.168.1.5:80", "ward.example", socket.gethostname(), "[fe80::1]"):
            assert client.get("/sessions", headers={**bearer, "host": host}).status_code == 200
        assert client.get("/sessions", headers={**bearer, "host": "evil.example"}).status_code == 421
        door = client.get("/?token=0123456789abcdef&x=1")
        assert (door.status_code, door.headers["refresh"]) == (200, "0; url=/?x=1")
        assert client.get("/sessions").status_code == 200


def test_rate_and_size(place: Path, sound: bytes, tmp_path: Path) -> None:
    few = Limits(burst=3, per_second=0.1, upload_bytes=200_000, body_bytes=1000)
    with served(place, folder=tmp_path, limits=few) as client:
        large = client.post("/predict", files={"audio": ("a.wav", bytes(300_000))})
        assert (large.status_code, "larger than the" in sentence(large)) == (413, True)
        chunks = iter([b"--y\r\nContent-Disposition: form-data; name=audio; filename=a\r\n\r\n", *[bytes(50_000)] * 8])
        streamed = client.post("/predict", content=chunks, headers={"content-type": "multipart/form-data; boundary=y"})
        assert streamed.status_code == 413
        assert client.post("/sessions", json={"name": "x" * 2000}).status_code == 413
        answer = client.post("/sessions", json={"name": "x"})
        assert (answer.status_code, 1 <= int(answer.headers["retry-after"]) <= 30) == (429, True)
        assert "more than 3 such requests in 30 s" in sentence(answer)
        assert client.get("/sessions").status_code == 200


def test_costly_looks_have_a_rate_and_an_origin_too(place: Path, sound: bytes, tmp_path: Path) -> None:
    """They are counted apart: who has looked too often can still save, and the list is always there."""
    few = Limits(burst=3, per_second=0.1)
    with served(place, folder=tmp_path, runs=place / "runs", limits=few) as client:
        session = new_session(client)
        looks = [f"/recordings/x/{end}" for end in ("spectrogram", "export", "explanation?start_s=0&end_s=1")]
        for path in (*looks, f"/sessions/{session}/export", f"/sessions/{session}/learning", "/runs/report"):
            foreign = client.get(path, headers={"sec-fetch-site": "cross-site"})
            assert (foreign.status_code, "another page" in sentence(foreign)) == (403, True)
        assert [client.get(path).status_code for path in looks] == [404, 404, 404]
        for path in (*looks, "/runs/report"):
            answer = client.get(path)
            assert (answer.status_code, 1 <= int(answer.headers["retry-after"]) <= 30) == (429, True)
        assert client.get(f"/sessions/{session}").status_code == 200
        assert client.get("/learning").status_code == 200  # which a page asks every second
        assert client.patch(f"/sessions/{session}", json={"name": "saved"}).status_code == 200


@pytest.mark.parametrize("content", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET / HTTP/9.9.9\r\n\r\n"])
def test_what_is_no_http(client: httpx.Client, content: bytes) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as line:
        line.sendall(content)
        head, _, body = b"".join(iter(lambda: line.recv(4000), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert f"content-length: {len(body)}".encode() in head
    assert "not valid HTTP" in json.loads(body)["detail"]


def test_a_token_of_any_characters(place: Path, tmp_path: Path) -> None:
    """It comes in by the printed address, which is changed for a cookie, or as a bearer."""
    token = 'a+b&c%25;d=e,f"g Lungengeräusch 肺音'
    with served(place, folder=tmp_path, token=token) as client:
        printed = httpx.URL(page_address("127.0.0.1", client.base_url.port or 0, token))
        del client.headers["authorization"]
        door = client.get(printed)
        assert (door.status_code, door.headers["refresh"]) == (200, "0; url=/")
        assert client.get("/sessions").status_code == 200  # with the cookie that it has set
        client.cookies.clear()
        assert client.get("/sessions").status_code == 401
        for sent in (b"Bearer " + token.encode(), b"Bearer " + token.encode() + b"x"):
            found = client.get("/sessions", headers={b"authorization": sent})
            assert found.status_code == (401 if sent.endswith(b"x") else 200)


def half_an_upload(client: httpx.Client) -> bytes:
    """-> a request that lacks most of its body."""
    return (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token(client)}\r\n"
        "Content-Length: 5000\r\nContent-Type: multipart/form-data; boundary=y\r\n\r\n--y\r\n"
    ).encode()


def test_an_upload_that_stands_still(place: Path, tmp_path: Path) -> None:
    with served(place, folder=tmp_path, limits=Limits(pause_s=0.3)) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as line:
            line.sendall(half_an_upload(client))
            assert line.recv(4000).startswith(b"HTTP/1.1 408")
        assert client.get("/health").status_code == 200


def test_headers_of_every_answer(client: httpx.Client) -> None:
    for path in ("/", "/health", "/nothing", "/static/index.html"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    page = client.get("/").text
    assert "{{nonce}}" not in page
