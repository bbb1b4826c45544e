"""Public checkpoints: every download goes to a server of this test on 127.0.0.1."""

import hashlib
import http.server
import io
import json
import random
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rales.models import hub

NAME = "m2d_vit_base-80x608p16x16-221006-mr7"
WEIGHTS = random.Random(1).randbytes(300_000)  # incompressible, as real weights nearly are


def zipped(members: Mapping[Any, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """{name or ZipInfo: content} -> the bytes of a zip."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return memory.getvalue()


RELEASE = zipped({f"{NAME}/": b"", f"{NAME}/checkpoint-300.pth": WEIGHTS, f"{NAME}/log.txt": b"done\n"})


class Cut(NamedTuple):
    """An answer whose connection ends before byte `at` of the file."""

    at: int


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` at any address; each entry of `script` spoils one answer, by a status code or a Cut."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}/mr7.zip"
        self.body = RELEASE
        self.script: list[int | Cut] = []
        self.requests = 0
        self.gate = threading.Event()  # answers wait for it
        self.gate.set()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        spoiled = server.script.pop(0) if server.script else Cut(len(server.body))
        if not isinstance(spoiled, Cut):
            self.send_error(spoiled)
            return
        server.gate.wait(10)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body[: spoiled.at])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))  # between tries
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "weights"


def fetch(server: Server) -> Path:
    return hub.fetch_checkpoint("mr7", progress=False, address=server.address)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_the_table_is_whole() -> None:
    assert set(hub.ALIASES.values()) <= set(hub.PUBLIC)
    assert hub.ALIASES["mr7"] == NAME
    for name, public in hub.PUBLIC.items():
        assert name == public.name
        assert public.address.startswith(("https://github.com/nttcslab/", "https://github.com/fschmid56/EfficientAT/"))
        assert public.address.endswith(".pt" if public.is_bare else f"/{name}.zip")
        assert public.sha256 or not public.is_bare  # nothing else would tell a page of a proxy from it
        assert public.note
        assert public.licence


def test_fetch_unpacks_records_and_is_found(server: Server, cache: Path) -> None:
    checkpoint = fetch(server)
    assert checkpoint == cache / NAME / "checkpoint-300.pth"
    assert checkpoint.read_bytes() == WEIGHTS
    assert (cache / NAME / "log.txt").read_bytes() == b"done\n"
    assert left_in(cache) == [NAME, f"{NAME}.json"]
    record = json.loads((cache / f"{NAME}.json").read_text())
    assert record["size_bytes"] == len(RELEASE)
    assert record["sha256"] == hashlib.sha256(RELEASE).hexdigest()
    assert record["files"] == {"checkpoint-300.pth": hashlib.sha256(WEIGHTS).hexdigest()}
    assert hub.find_checkpoint("mr7") == hub.find_checkpoint(NAME) == checkpoint
    row = {row["name"]: row for row in hub.list_checkpoints()}[NAME]
    assert (row["path"], row["size_bytes"], row["sha256"]) == (checkpoint, len(RELEASE), record["sha256"])
    assert "not an open-source licence" in row["licence"]
    assert fetch(server) == checkpoint
    assert server.requests == 1  # the second call asked nothing


def test_listing_before_anything_is_fetched(cache: Path) -> None:
    rows = hub.list_checkpoints()
    assert [row["name"] for row in rows] == list(hub.PUBLIC)
    assert all(row["path"] is row["size_bytes"] is None for row in rows)
    assert {row["name"] for row in rows if row["sha256"]} == {"mn04_as"}
    assert not cache.exists()


def test_a_busy_server_and_a_cut_connection_are_tried_again(server: Server, cache: Path) -> None:
    server.script = [503, Cut(100_000), Cut(200_000)]
    assert fetch(server).read_bytes() == WEIGHTS
    assert server.requests == 1 + hub.RETRIES
    assert left_in(cache) == [NAME, f"{NAME}.json"]


@pytest.mark.parametrize(
    ("spoiled", "said"), [(503, "the server answered 503"), (Cut(100_000), "no connection to http:.*100000 bytes read")]
)
def test_a_server_that_never_answers_is_given_up(server: Server, cache: Path, spoiled: int | Cut, said: str) -> None:
    server.script = [spoiled] * 9
    with pytest.raises(ConnectionError, match=rf"{said}.*it elsewhere.*--file FILE`$"):
        fetch(server)
    assert server.requests == 1 + hub.RETRIES
    assert left_in(cache) == []
    server.script = []
    assert fetch(server).read_bytes() == WEIGHTS


def test_a_redirection_to_an_address_that_is_not_encrypted_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers come from this server though https is asked for, as they would after a redirection."""
    import requests

    def get(_: str, **options: Any) -> requests.Response:
        return requests.api.request("get", server.address, **options)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(hub, "check_connection", lambda *_, **__: None)
    with pytest.raises(OSError, match=rf"redirected to {server.address}, which is not encrypted"):
        hub.fetch_checkpoint("mr7", progress=False)


def test_a_later_download_must_agree_with_the_first(server: Server, cache: Path) -> None:
    checkpoint = fetch(server)
    checkpoint.unlink()
    server.body = zipped({"checkpoint-300.pth": b"other weights"})
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; it was not kept"):
        fetch(server)
    assert left_in(cache) == [f"{NAME}.json"]
    server.body = RELEASE
    assert fetch(server) == checkpoint


def test_a_stated_sha256_is_checked_at_the_first_download(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = hub.PublicCheckpoint(NAME, server.address, "note", sha256="0" * 64)
    monkeypatch.setitem(hub.PUBLIC, NAME, public)
    with pytest.raises(ValueError, match=f"expected {'0' * 64}"):
        hub.fetch_checkpoint(NAME, progress=False)
    assert left_in(cache) == []
    public = hub.PublicCheckpoint(NAME, server.address, "note", sha256=hashlib.sha256(RELEASE).hexdigest())
    monkeypatch.setitem(hub.PUBLIC, NAME, public)
    assert hub.fetch_checkpoint(NAME, progress=False).read_bytes() == WEIGHTS


def test_a_bare_checkpoint_is_kept_as_it_is(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is a zip, as torch's files are."""
    address = server.address.replace("mr7.zip", "bare_1.pt")
    public = hub.PublicCheckpoint("bare", address, "note", sha256=hashlib.sha256(RELEASE).hexdigest())
    monkeypatch.setitem(hub.PUBLIC, "bare", public)
    assert hub.fetch_checkpoint("bare", progress=False) == cache / "bare" / "bare_1.pt"
    assert hub.find_checkpoint("bare").read_bytes() == RELEASE
    hub.find_checkpoint("bare").write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged or replaced; fetch it again with `rales weights bare`"):
        hub.find_checkpoint("bare")
    server.body = b"<!DOCTYPE html>"
    with pytest.raises(ValueError, match=r"SHA-256 .*it was not kept"):
        hub.fetch_checkpoint("bare", progress=False)
    assert left_in(cache) == ["bare.json"]


def test_a_file_that_was_downloaded_elsewhere_is_checked_and_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "elsewhere.zip"
    release.write_bytes(RELEASE)
    monkeypatch.setattr(hub, "_download_archive", lambda *_: pytest.fail("nothing is to be fetched"))
    assert hub.fetch_checkpoint(NAME, file=release).read_bytes() == WEIGHTS
    assert release.read_bytes() == RELEASE
    assert hub.find_checkpoint(NAME) == cache / NAME / "checkpoint-300.pth"

    monkeypatch.setitem(hub.PUBLIC, NAME, replace(hub.PUBLIC[NAME], sha256="0" * 64))
    for path, said in ((tmp_path / "none.zip", "no such file"), (release, "expected 0000")):
        (cache / NAME / "checkpoint-300.pth").unlink(missing_ok=True)
        with pytest.raises((FileNotFoundError, ValueError), match=said):
            hub.fetch_checkpoint(NAME, file=path)


def test_a_damaged_checkpoint_is_refused_and_fetched_again(server: Server) -> None:
    checkpoint = fetch(server)
    checkpoint.write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(ValueError, match=f"damaged or replaced; fetch it again with `rales weights {NAME}`"):
        hub.find_checkpoint("mr7")
    for path in (checkpoint, checkpoint.parent):  # by whatever name it is called
        with pytest.raises(ValueError, match="damaged or replaced; fetch it again"):
            hub.find_checkpoint(path)
    assert fetch(server).read_bytes() == WEIGHTS
    assert server.requests == 2


def test_a_damaged_record_of_a_download_is_a_sentence(server: Server) -> None:
    record = fetch(server).parent.with_suffix(".json")
    assert record.is_file()
    record.write_bytes(record.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"{NAME}.json: not valid JSON .*delete it and "):
        hub.find_checkpoint("mr7")
    record.unlink()
    assert hub.find_checkpoint("mr7").read_bytes() == WEIGHTS


def link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


def claiming(body: bytes, size_bytes: int) -> bytes:
    """A zip -> the same, all of whose headers say that the member is `size_bytes` long when unpacked."""
    for header, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        for found in re.finditer(re.escape(header), body):
            at = found.start() + offset
            body = body[:at] + size_bytes.to_bytes(4, "little") + body[at + 4 :]
    return body


BAD = {
    "a page": (b"<!DOCTYPE html><title>Log in to this network</title>", "File is not a zip file"),
    "up": (zipped({"good.pth": b"x", "../evil.pth": b"x"}), "outside the folder"),
    "up in the middle": (zipped({"a/../../evil.pth": b"x"}), "outside the folder"),
    "absolute": (zipped({"/tmp/evil.pth": b"x"}), "outside the folder"),
    "drive": (zipped({"C:/evil.pth": b"x"}), "outside the folder"),
    "backslash": (zipped({"..\\evil.pth": b"x"}), "outside the folder"),
    "link": (zipped({"good.pth": b"x", link("evil.pth"): b"/etc/passwd"}), "symbolic link"),
    "twice": (zipped({"a/x.pth": b"x", "b/x.pth": b"x"}), "two members are called 'x.pth'"),
    "nothing": (zipped({"readme.txt": b"x"}), "no .ckpt, .pt, .pth, .safetensors file inside"),
    "method": (zipped({"x.pth": b"x" * 99}, zipfile.ZIP_BZIP2), "method 12"),
    "says less": (claiming(zipped({"checkpoint.pth": b"0" * 1_000_000}), 1000), "CRC"),
    "spoiled": (RELEASE[:5000] + b"spoiled" + RELEASE[5007:], "CRC|decompress"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_zip_is_refused_and_leaves_nothing(server: Server, cache: Path, case: str) -> None:
    server.body, reason = BAD[case]
    with pytest.raises(ValueError, match=r"not a zip that holds a checkpoint .*it was not kept") as caught:
        fetch(server)
    assert caught.match(reason)
    assert left_in(cache) == []
    assert sorted(path.name for path in cache.parent.parent.iterdir()) == ["cache"]
    server.body = RELEASE  # and it is not remembered as the right one
    assert fetch(server).read_bytes() == WEIGHTS


def test_a_zip_bomb_is_refused_by_what_its_headers_claim(server: Server, cache: Path) -> None:
    server.body = claiming(zipped({"a.pth": b"0", "b.pth": b"0"}), 3 * 2**30)
    with pytest.raises(ValueError, match=f"{6 * 2**30} bytes when unpacked, expected {4 * 2**30} at most"):
        fetch(server)
    assert left_in(cache) == []


PIECES = st.lists(st.sampled_from(["..", ".", "", "a", "/", "\\", "C:", "x.pth", "y.txt", "__MACOSX", "._x.pth"]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES.map("/".join), max_size=4, unique=True))
def test_no_member_name_writes_outside_the_target(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    place = tmp_path_factory.mktemp("zip")
    (place / "target").mkdir()
    (place / "packed.zip").write_bytes(zipped({"good.pth": b"x"} | {name: b"y" for name in names if name}))
    try:
        hub._unpack_archive(place / "packed.zip", place / "target")
    except ValueError:
        assert names
    assert sorted(path.name for path in place.iterdir()) == ["packed.zip", "target"]
    assert {path.name for path in place.rglob("*") if path.is_file()} <= {"packed.zip", "good.pth", "x.pth", "y.txt"}
    assert all(path.parent == place / "target" for path in place.rglob("*.*") if path.name != "packed.zip")


def test_macos_companions_are_left_out(server: Server) -> None:
    server.body = zipped({"m/checkpoint-50.pth": WEIGHTS, "__MACOSX/m/._checkpoint-50.pth": b"attributes"})
    assert fetch(server).read_bytes() == WEIGHTS


def test_several_checkpoints_in_one_release(server: Server, cache: Path) -> None:
    server.body = zipped({"checkpoint-100.pth": b"1", "checkpoint-300.pth": b"3"})
    with pytest.raises(ValueError, match=r"2 checkpoints \(checkpoint-100.pth, checkpoint-300.pth\), expected one"):
        fetch(server)
    assert hub.find_checkpoint(cache / NAME / "checkpoint-100.pth").read_bytes() == b"1"
    assert {row["name"]: row for row in hub.list_checkpoints()}[NAME]["path"] == cache / NAME


def test_no_connection_is_one_sentence_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it asks again"))
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/mr7.zip"

        def fetch_missing() -> None:
            try:
                hub.find_fetched("mr7")
            except FileNotFoundError:  # which is not what keeps it from being fetched
                hub.fetch_checkpoint("mr7", progress=False, address=address)

        with pytest.raises(OSError, match=f"^no connection to {address} .*refused.*elsewhere.*--file FILE`$"):
            fetch_missing()
    assert left_in(cache) == []


def test_what_only_requests_stumbles_over_is_left_to_who_fetches(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that it does not know, a proxy that it cannot use: another library may."""
    encrypted = server.address.replace("http:", "https:")  # which is no TLS
    hub.check_connection(encrypted, "")
    monkeypatch.setenv("HTTPS_PROXY", server.address)
    monkeypatch.setenv("NO_PROXY", "")
    hub.check_connection("https://example.invalid", "")
    monkeypatch.setenv("HTTPS_PROXY", "socks9://127.0.0.1")
    hub.check_connection("https://example.invalid", "")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:{}", "http://proxy.invalid:{}"])
def test_a_proxy_that_is_not_there_is_no_connection(cache: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """Whoever fetches: all would ask it again and again."""
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it asks again"))
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", proxy.format(taken.getsockname()[1]))
        with pytest.raises(ConnectionError, match=r"^no connection to https://example.invalid \(.*\); later$"):
            hub.check_connection("https://example.invalid", "later")


def test_what_requests_stumbles_over_is_told_at_once_where_it_fetches(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it asks again"))
    with pytest.raises(ConnectionError, match=r"^no connection to https://127.0.0.1.* \(.*SSL.*\); try again later"):
        hub.fetch_checkpoint("mr7", progress=False, address=server.address.replace("http:", "https:"))


def test_a_missing_file_is_not_asked_for_again(server: Server) -> None:
    server.script = [404]
    with pytest.raises(OSError, match="the server answered 404 Not Found"):
        fetch(server)
    assert server.requests == 1


def test_a_full_disk_is_said_before_anything_is_written(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * len(RELEASE) - 1))
    with pytest.raises(OSError, match=r"0\.00 GB free, 0\.00 GB needed; make room or set RALES_CACHE"):
        fetch(server)
    assert left_in(cache) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * len(RELEASE)))
    assert fetch(server).read_bytes() == WEIGHTS


def test_threads_and_processes_download_once(server: Server) -> None:
    server.gate.clear()  # nobody is served before all of them are asking
    script = "import sys; from rales.models import hub; print('ready', flush=True);"
    script += "print(hub.fetch_checkpoint('mr7', False, sys.argv[1]))"
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server))) for _ in range(3)]
    with subprocess.Popen([sys.executable, "-c", script, server.address], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for thread in threads:
            thread.start()
        threading.Timer(0.3, server.gate.set).start()
        for thread in threads:
            thread.join()
        printed = process.stdout.read()
    assert {*map(str, found), printed.strip()} == {str(hub.find_checkpoint("mr7"))}
    assert len(found) == 3
    assert server.requests == 1


def test_find_a_file_and_a_folder(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    with pytest.raises(ValueError, match="release: 0 checkpoints, expected one"):
        hub.find_checkpoint(release)
    (release / "checkpoint-300.pth").write_bytes(b"x")
    (release / "notes.txt").write_bytes(b"x")
    (release / "._checkpoint-300.pth").write_bytes(b"x")
    assert hub.find_checkpoint(str(release)) == release / "checkpoint-300.pth"
    odd = tmp_path / "weights.bin"
    odd.write_bytes(b"x")
    assert hub.find_checkpoint(odd) == odd
    (tmp_path / "release.zip").write_bytes(b"x")
    with pytest.raises(ValueError, match="unpack it and pass the file or folder inside"):
        hub.find_checkpoint(tmp_path / "release.zip")


def test_find_says_how_to_fetch_and_names_the_nearest(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"mr7: .*not on this machine; fetch it with `rales weights {NAME}`"):
        hub.find_checkpoint("mr7")
    with pytest.raises(FileNotFoundError, match=f"no such file or folder, .*the nearest is {NAME} "):
        hub.find_checkpoint(NAME.replace("mr7", "mr8"))
    with pytest.raises(FileNotFoundError, match="the nearest is mr6 "):
        hub.find_checkpoint("m6")
    with pytest.raises(ValueError, match=r"^mr-7: no public checkpoint of that name; the nearest is mr7 "):
        hub.fetch_checkpoint("mr-7")
    with pytest.raises(ValueError, match="expected an address that begins with https:// or http://"):
        hub.fetch_checkpoint("mr7", address="file:///etc/passwd")
    assert not cache.exists()


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hub.checkpoint_folder() == tmp_path / "cache" / "weights"
    monkeypatch.delenv("RALES_CACHE")
    assert hub.checkpoint_folder().parts[-2:] == ("rales", "weights")
