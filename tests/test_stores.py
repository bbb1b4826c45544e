"""Batch jobs whose recordings and shards lie in an object store (moto speaks S3 here), and stores that fail."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.errors import FileError, FileSystemError, MissingFileError, UsageError
from rales.files import stores
from rales.inference import audio_reader
from rales.jobs import batch_predict
from rales.jobs.shard_folders import KINDS, DiskFolder, StoreFolder, open_shard_folder
from rales.settings import PaddedWaveform
from tests import tiny
from tests.object_store import Store, refuse, serve_store

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: make setup")
pytest.importorskip("moto", reason="moto is not installed: make setup")
BAD = {3: b"", 5: b"not a sound", 6: None}
WITH_ANNOTATION = 0


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Store, Any]]:
    """The server, and its file system."""
    with serve_store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # tries of botocore, before ours
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store, s3fs.S3FileSystem()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def store(running: tuple[Store, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The server as it should be, and waits of a moment between tries."""
    monkeypatch.setattr(stores, "WAITS_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(running[1], "retries", 1)  # of s3fs
    running[0].asked.clear()
    yield running[0]
    running[0].spoil = lambda request: None


@pytest.fixture(scope="module")
def place(running: tuple[Store, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 recordings in s3://chest/in, three of them damaged or missing, one annotated; `manifest.parquet`, the same
    files here in `here.parquet`, and a `model.safetensors`."""
    folder, files = tmp_path_factory.mktemp("stored"), running[1]
    files.mkdir("chest")
    for number in range(8):
        sound = folder / f"{number}.wav"
        soundfile.write(sound, 0.1 * np.random.default_rng(number).standard_normal(12000), 4000)
        if number in BAD:
            content = BAD[number]
            sound.unlink() if content is None else sound.write_bytes(content)
    (folder / f"{WITH_ANNOTATION}.txt").write_text("0.0\t1.0\t1\t0\n1.0\t3.0\t0\t0\n")
    for file in folder.iterdir():
        files.put_file(str(file), f"chest/in/{file.name}", ACL="public-read")  # as of a web server
    names = [f"{number}.wav" for number in range(8)]
    pd.DataFrame({"path": names}).to_parquet(folder / "here.parquet")
    pd.DataFrame({"path": [f"s3://chest/in/{name}" for name in names]}).to_parquet(folder / "manifest.parquet")
    tiny.save(tiny.model(), folder / "model.safetensors")
    return folder


def job(place: Path, out: str | Path, manifest: str = "manifest.parquet", **words: Any) -> dict[str, Any]:
    options = {"model": str(place / "model.safetensors"), "shard": 3, "quality": False, "processes": 1, **words}
    return batch_predict.predict_manifest(place / manifest, out, **{"urls": ["s3://chest/in/"], **options})


def read_out(files: Any, place: str, to: Path) -> dict[str, pd.DataFrame]:
    shutil.rmtree(to, ignore_errors=True)
    files.invalidate_cache()
    files.get(place, str(to), recursive=True)
    return {kind: pd.read_parquet(to / kind) for kind in KINDS}


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_job_from_a_store_into_a_store(place: Path, store: Store, running: tuple[Store, Any], tmp_path: Path) -> None:
    """The same answers as of files here, each recording once, the status of a shard last; a restart does what is
    missing alone."""
    files = running[1]
    found = job(place, "s3://chest/out")
    assert (found["recordings"], found["ok"], found["failed"], found["waiting"]) == (8, 5, 3, 0)
    here = job(place, tmp_path / "here", "here.parquet")
    assert [found[name] for name in ("ok", "failed", "cycles")] == [here[name] for name in ("ok", "failed", "cycles")]

    stored = read_out(files, "chest/out", tmp_path / "copy")
    for kind, table in stored.items():
        local = pd.read_parquet(tmp_path / "here" / kind)
        table["path"] = table["path"].str.replace("s3://chest/in", str(place))
        alike = [name for name in table if name != "sentence"]
        pd.testing.assert_frame_equal(table[alike], local[alike], rtol=1e-5)
    assert stored["cycles"]["source"].tolist()[:2] == ["annotation"] * 2
    failed = stored["status"].query("status == 'failed'")["sentence"].tolist()
    assert failed[0].startswith("s3://chest/in/3.wav: not a readable audio file")
    assert "not a readable audio file" in failed[1]
    assert failed[2].startswith("s3://chest/in/6.wav: cannot be fetched (FileNotFoundError: ")
    puts = [each.rpartition("out/")[2] for each in store.asked if each.startswith("PUT /chest/out/")]
    assert puts[:4] == ["job.json", *(f"{kind}/part-000000.parquet" for kind in KINDS)]

    files.rm("chest/out/status/part-000001.parquet")
    store.asked.clear()
    assert job(place, "s3://chest/out")["ok"] == 5
    puts = [each.rpartition("out/")[2] for each in store.asked if each.startswith("PUT ")]
    assert puts == [f"{kind}/part-000001.parquet" for kind in KINDS]

    with pytest.raises(ValueError, match=r"s3://chest/out: holds a job of other cycles; choose another --out"):
        job(place, "s3://chest/out", cycles="windows")
    assert json.loads(files.cat("chest/out/job.json"))["cycles"] == "auto"
    with pytest.raises(ValueError, match=r"s3://chest: not a folder of predictions, but it holds in; choose an empty"):
        job(place, "s3://chest")


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_store_that_fails_leaves_its_shards_open(place: Path, store: Store, running: tuple[Store, Any]) -> None:
    """Expired credentials say nothing of the recordings: no shard has a status, and the same command goes on."""

    def expire(request: Any) -> Any:
        if request["PATH_INFO"].startswith("/chest/in/4"):
            return refuse("400 Bad Request", "ExpiredToken", "The provided token has expired.")
        return None

    store.spoil = expire
    found = job(place, "s3://chest/expired")
    assert (found["recordings"], found["failed"], found["waiting"]) == (5, 1, 3)
    assert r"s3://chest/in/4.wav: the store takes no such credentials (ExpiredToken" in found["problems"][0]
    assert sum(each.startswith("GET /chest/in/4") for each in store.asked) == 1  # not again and again
    store.spoil = lambda request: expire({"PATH_INFO": "/chest/in/4"})
    with pytest.raises(
        stores.StoreError, match=r"s3://chest/expired: the store takes no such credentials .*; renew them"
    ):
        job(place, "s3://chest/expired")
    store.spoil = lambda request: None
    assert job(place, "s3://chest/expired")["waiting"] == 0

    with pytest.raises(stores.StoreError, match=r"s3://nowhere/out: there is no such bucket"):
        job(place, "s3://nowhere/out")
    with pytest.raises(UsageError, match=r"--out s3://chest/x: --cluster slurm writes its logs there"):
        job(place, "s3://chest/x", cluster="slurm")


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_job_ends_where_its_store_is_gone(
    place: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.spoil = lambda request: refuse("503 Service Unavailable", "SlowDown")
    monkeypatch.setattr(batch_predict, "GIVE_UP", 2)
    with pytest.raises(FileSystemError, match=r"2 shards one after another failed .*; what is done is kept"):
        job(place, tmp_path / "gone")
    assert not list((tmp_path / "gone" / "status").iterdir())
    store.spoil = lambda request: None
    assert job(place, tmp_path / "gone")["waiting"] == 0


# what the server does to the first two requests -> whether the third is made
HALF = ("200 OK", [("Content-Length", "1000")], b"RIFF")
PASSING = [refuse("503 Slow Down", "SlowDown"), refuse("500 Internal Error", "InternalError"), HALF]


def fetch(url: str) -> bytes:
    with audio_reader.local_copy(url, annotated=True) as file:
        return file.read_bytes()


@pytest.mark.parametrize("scheme", ["s3", "http"])
@pytest.mark.parametrize("fault", PASSING, ids=["slow down", "internal", "half an object"])
def test_what_passes_is_asked_again(place: Path, store: Store, scheme: str, fault: Any) -> None:
    """Of an annotation, too: that no answer came does not mean that there is none."""
    times, host = Counter[str](), store.url if scheme == "http" else "s3:/"

    def fail_twice(request: Any) -> Any:
        times[path := request["PATH_INFO"]] += 1
        return fault if times[path] <= 2 and path.endswith((".wav", ".txt")) else None

    store.spoil = fail_twice
    with audio_reader.local_copy(f"{host}/chest/in/0.wav", annotated=True) as file:
        assert file.read_bytes() == (place / "0.wav").read_bytes()
        assert file.with_suffix(".txt").read_bytes() == (place / "0.txt").read_bytes()
    store.spoil = lambda request: fault
    with pytest.raises(stores.StoreError, match=rf"{host}/chest/in/0.wav: no answer after 4 tries \("):
        fetch(f"{host}/chest/in/0.wav")


def test_no_annotation_is_asked_for_where_cycles_are_known(place: Path, store: Store) -> None:
    audio = PaddedWaveform(rate_hz=4000, duration_s=4.0)
    for where, requests in (("windows", 1), ("auto", 7)):
        store.asked.clear()
        list(audio_reader.read_chunks("s3://chest/in/1.wav", audio, where))
        assert len([each for each in store.asked if "/chest/in/" in each]) == requests


@pytest.mark.parametrize("header", ["Location", "URI"])  # aiohttp follows both
def test_a_web_server_sends_on_only_to_what_is_allowed(place: Path, store: Store, header: str) -> None:
    """The manifest may be a stranger's, and so may the server."""
    secret = f"{store.url}/chest/in/0.wav"
    store.spoil = lambda request: (
        ("302 Found", [(header, secret)], b"") if request["PATH_INFO"].startswith("/away") else None
    )
    away = f"{store.url}/away/0.wav"
    assert fetch(away) == (place / "0.wav").read_bytes()  # who gives the address himself
    with stores.ask_only([f"{store.url}/away/"]) as session:
        with pytest.raises(FileError, match=rf"away/0.wav: cannot be fetched \(RedirectError: it sends on to {secret}"):
            fetch(away)
        assert session.fault is None
    with stores.ask_only([f"{store.url}/"]):
        assert fetch(away) == (place / "0.wav").read_bytes()
        store.spoil = lambda request: ("302 Found", [], b"RIFF")
        with pytest.raises(FileError, match="it sends on and does not say where"):
            fetch(away)
    store.spoil = lambda request: ("403 Forbidden", [], b"")
    with pytest.raises(FileError, match=r"x.wav: cannot be fetched \(ClientResponseError: 403"):
        fetch(f"{store.url}/away/x.wav")


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required"])
def test_a_web_server_that_wants_credentials_says_nothing_of_the_file(store: Store, status: str) -> None:
    store.spoil = lambda request: (status, [], b"")
    with pytest.raises(stores.StoreError, match=rf"x.wav: the store takes no such credentials .*{status[:3]}.*; renew"):
        fetch(f"{store.url}/chest/x.wav")
    assert store.asked == ["GET /chest/x.wav"]  # not again and again


def test_shards_share_the_connections_to_a_web_server(store: Store) -> None:
    found = list[Any]()
    for place in ("http://one/", "http://two/"):
        with stores.ask_only([place]):
            found.append(stores.open_file_system(f"{place}x.wav")[0])
    assert found[0] is found[1]
    assert found[0] is not stores.open_file_system("http://one/x.wav")[0]  # which may be sent on anywhere


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_store_that_takes_no_shards_ends_the_job(
    place: Path, store: Store, running: tuple[Store, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that does not answer does, and not after all shards were computed in vain."""

    def refuse_shards(request: Any) -> Any:
        if request["REQUEST_METHOD"] == "PUT" and "/part-" in request["PATH_INFO"]:
            return refuse("403 Forbidden", "AccessDenied")
        return None

    store.spoil = refuse_shards
    monkeypatch.setattr(batch_predict, "GIVE_UP", 2)
    with pytest.raises(FileSystemError, match=r"2 shards .* failed at a file or a store, .* \(shard 1 .*refuses that"):
        job(place, "s3://chest/full", cycles="windows")
    assert not any("/chest/in/6" in request for request in store.asked)  # of the third shard

    for content, sentence in ((b"[]", "job.json: holds a JSON list, expected an object"), (b"{", "not valid JSON")):
        running[1].pipe_file("chest/full/job.json", content)
        with pytest.raises(FileError, match=sentence):
            job(place, "s3://chest/full", cycles="windows")


def test_what_passes_is_asked_again_when_shards_are_counted(
    running: tuple[Store, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure among the answers of a store, which older versions of fsspec give back whatever they are told."""
    folder = StoreFolder("s3://chest/counted")
    answers = [[b"one", OSError("cut off")], [b"one", b"two"]]
    monkeypatch.setattr(folder.files, "cat_ranges", lambda *_, **__: answers.pop(0))
    assert [file.read() for _, file in folder.read_status({"a", "b"})] == [b"one", b"two"]


def test_a_status_that_is_removed_before_it_is_counted_is_told_as_that(running: tuple[Store, Any]) -> None:
    running[1].pipe_file("chest/emptied/status/part-000000.parquet", b"one")
    names = {"part-000000.parquet", "part-000001.parquet"}
    with pytest.raises(
        MissingFileError, match=r"^s3://chest/emptied/status: a file of it was removed meanwhile; the same"
    ):
        list(StoreFolder("s3://chest/emptied").read_status(names))


def test_a_job_that_was_faster_stays(running: tuple[Store, Any], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look whether a place is anybody's and the claim of it."""
    folder, read = StoreFolder("s3://chest/raced"), StoreFolder._read_job

    def arrive(folder: StoreFolder) -> dict[str, Any]:
        monkeypatch.setattr(StoreFolder, "_read_job", read)
        raise FileNotFoundError

    running[1].pipe_file("chest/raced/job.json", b'{"model": "theirs"}')
    monkeypatch.setattr(StoreFolder, "_read_job", arrive)
    monkeypatch.setattr(folder, "_list", lambda place: set())
    assert folder.claim({"model": "ours"}) == {"model": "theirs"}


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///",
        "s3:///x",
        "memory://x",
        "sftp://host/x",
        "http://host/x",
        "simplecache::s3://bucket/x",
        "file://",
    ],
)
def test_shards_go_to_folders_and_object_stores_alone(url: str) -> None:
    with pytest.raises(UsageError, match=rf"--out {url}: expected a folder, or one in a bucket of an object store"):
        open_shard_folder(url)


def test_the_url_of_a_folder_here_is_that_folder(tmp_path: Path) -> None:
    folder = open_shard_folder(f"file://{tmp_path}/out")
    assert isinstance(folder, DiskFolder)
    assert folder.place == tmp_path / "out"
