"""Batch jobs: every good recording exactly once, every bad one listed once, whatever dies on the way."""

import importlib.util
import shutil
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile

from rales.data.corpus import read_corpus
from rales.errors import FileSystemError, MissingFileError, UsageError
from rales.export.load import load_with_engine
from rales.inference import audio_reader
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.jobs import batch_predict
from rales.jobs.shard_folders import KINDS, DiskFolder
from rales.labels import CLASSES
from tests import tiny

P = [f"p_{name}" for name in CLASSES]
WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make setup")
BAD = {3: b"", 11: b"not a sound", 17: None, 24: b"RIFF\x24\x00\x00\x00WAVEfmt "}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 recordings, four of them damaged or missing, in `manifest.parquet`, and a `model.safetensors`."""
    folder = tmp_path_factory.mktemp("batch")
    write_recordings(folder, 30)
    for number, content in BAD.items():
        path = folder / f"{number:05d}.wav"
        path.unlink() if content is None else path.write_bytes(content)
    tiny.save(tiny.model(), folder / "model.safetensors")
    return folder


def write_recordings(folder: Path, count: int, duration_s: float = 3.0) -> None:
    """Noise bursts, each its own, and the manifest of all."""
    for number in range(count):
        random = np.random.default_rng(number)
        breath = np.abs(np.sin(np.arange(round(duration_s * 4000)) / 4000 * 2))
        soundfile.write(folder / f"{number:05d}.wav", 0.1 * breath * random.standard_normal(len(breath)), 4000)
    names = [f"{number:05d}.wav" for number in range(count)]
    pd.DataFrame({"path": names}).to_parquet(folder / "manifest.parquet")


def job(place: Path, out: str | Path, **words: object) -> dict[str, object]:
    options = {"model": str(place / "model.safetensors"), "shard": 4, "cycles": "windows", "quality": False, **words}
    return batch_predict.predict_manifest(place / "manifest.parquet", out, **options)  # type: ignore[arg-type]


def exactly_once(place: Path, out: Path, count: int, bad: set[int]) -> None:
    """The output against the manifest and against the model asked directly."""
    status, cycles = pd.read_parquet(out / "status"), pd.read_parquet(out / "cycles")
    paths = [str(place / f"{number:05d}.wav") for number in range(count)]
    assert sorted(status["path"]) == paths
    failed = status[status["status"] == "failed"]
    assert sorted(failed["path"]) == [paths[number] for number in sorted(bad)]
    assert all(Path(path).name in sentence for path, sentence in zip(failed["path"], failed["sentence"], strict=True))
    good = [path for number, path in enumerate(paths) if number not in bad]
    assert sorted(cycles["path"]) == good  # one window each
    asked = load_model(place / "model.safetensors").predict(good[:5], cycles="windows", quality=False)
    stored = cycles.set_index("path").loc[good[:5]]
    assert np.abs(stored[P].to_numpy() - asked[P].to_numpy()).max() < 1e-5
    assert sorted(pd.read_parquet(out / "summary")["path"]) == good
    assert not list(out.rglob(".*.part"))


@pytest.mark.usefixtures("jobs_in_this_process")
def test_local_job(place: Path, tmp_path: Path) -> None:
    found = job(place, tmp_path / "out", processes=1)
    assert (found["recordings"], found["ok"], found["failed"], found["waiting"]) == (30, 26, 4, 0)
    assert len(found["problems"]) == 4  # type: ignore[arg-type]
    exactly_once(place, tmp_path / "out", 30, set(BAD))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    (tmp_path / "out" / "status" / "part-000002.parquet").unlink()  # as if stopped before it was written
    job(place, tmp_path / "out", processes=1)
    exactly_once(place, tmp_path / "out", 30, set(BAD))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert {path.name for path in after if after[path] != before[path]} == {"part-000002.parquet"}


def test_a_job_ends_after_three_shards_in_a_row_that_cannot_be_written() -> None:
    """A disk that is full stays full; a worker that was killed says nothing of the next."""

    def end_with(*errors: Exception | None) -> list[tuple[batch_predict.Shard, Exception | None]]:
        return [(batch_predict.Shard(number, ("a.wav",), {}), error) for number, error in enumerate(errors)]

    full, killed = OSError("the disk is full"), RuntimeError("killed")
    told = batch_predict.collect_failures("out", end_with(full, full, None, full, full, killed, full))
    assert told[0] == "shard 0 (1 recordings from a.wav on): the disk is full"
    assert len(told) == 6
    missing = MissingFileError("m.safetensors", "no such checkpoint")
    for error, said in ((full, "the disk is full"), (missing, "m.safetensors: no such checkpoint")):
        with pytest.raises(
            FileSystemError,
            match=rf"^out: 3 shards one after another failed at a file or a store, so .* \(shard 3 .*: {said}\); what",
        ):
            batch_predict.collect_failures("out", end_with(None, error, error, error))


def test_workers_are_told_a_folder_by_its_full_path(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was given as a URL: each has a folder of its own to which a path could be relative."""
    told = list[tuple[str, str]]()

    def start(waiting: object, shared: tuple[str, ...], *, cluster: str, **_: object) -> Generator[Any]:
        told.append((cluster, shared[0]))
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch_predict, "start_shards", start)
    for cluster, out in (("local", "out"), ("local", "file://out"), ("slurm", "file://out")):
        with pytest.raises(KeyboardInterrupt):
            job(place, out, cluster=cluster)
    assert told == [(cluster, str(tmp_path / "out")) for cluster in ("local", "local", "slurm")]


class Killer(threading.Thread):
    """Kills one worker (by the words of its command line) once a first shard is done."""

    def __init__(self, out: Path, words: str) -> None:
        super().__init__(daemon=True)
        self.out, self.words, self.killed, self.job_ended = out, words, False, False

    def run(self) -> None:
        while not (self.killed or self.job_ended):
            if list(self.out.glob("status/part-*.parquet")):
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        if not self.killed and self.words in " ".join(process.cmdline()):
                            process.kill()
                            self.killed = True
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [("local", "spawn_main"), pytest.param("ray", "ray::predict_shard", marks=[WITH_RAY, pytest.mark.slow])],
)
def test_a_killed_worker_costs_nothing(place: Path, tmp_path: Path, cluster: str, words: str) -> None:
    killer = Killer(tmp_path / "out", words)
    killer.start()
    try:
        found = job(place, tmp_path / "out", cluster=cluster, processes=1)
    finally:
        killer.job_ended = True
        killer.join()
    assert killer.killed, "no worker was there to be killed"
    assert (found["ok"], found["failed"], found["waiting"]) == (26, 4, 0)
    exactly_once(place, tmp_path / "out", 30, set(BAD))


@pytest.mark.usefixtures("jobs_in_this_process")
def test_the_fastest_engine_is_looked_for_once_and_for_workers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[int]()

    def load(model: str | None, **words: Any) -> Predictor:
        asked.append(words.get("recordings", 0))
        return load_with_engine(model)

    monkeypatch.setattr(batch_predict, "load_with_engine", load)
    monkeypatch.setattr(batch_predict, "count_threads", lambda: 1)
    batch_predict.load_worker_model.cache_clear()
    job(place, tmp_path / "out", shard=30)
    assert asked == [30, 0]


def test_the_manifest_may_repeat_itself_and_name_urls(place: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put_file(str(place / "00000.wav"), "/chest/a.wav")
    rows = pd.DataFrame({"path": ["00001.wav", "memory://chest/a.wav", "00001.wav", str(place / "00002.wav")]})
    rows.to_csv(place / "rows.csv", index=False)
    model = str(place / "model.safetensors")
    (source,) = read_corpus([place / "rows.csv"], part="all").sources
    (only,) = batch_predict.split_into_shards(source, 10)
    assert only.paths == (str(place / "00001.wav"), "memory://chest/a.wav", str(place / "00002.wav"))
    for kind in KINDS:
        (tmp_path / kind).mkdir()
    batch_predict.predict_shard(only, str(tmp_path), model, load_model(model).decision(), "windows")
    assert pd.read_parquet(tmp_path / "status")["status"].tolist() == ["ok"] * 3
    assert pd.read_parquet(tmp_path / "cycles")["path"].tolist() == list(only.paths)


URLS = {  # beginning that is allowed, address in the manifest -> whether it is asked
    ("s3://bucket/", "s3://bucket/a.wav"): True,
    ("s3://bucket", "s3://bucket/deep/a.wav"): True,
    ("s3://", "s3://bucket/a.wav"): True,
    ("https://host/data", "https://host/data/a.wav?signed=1"): True,
    ("s3://bucket", "s3://bucket-of-another/a.wav"): False,
    ("https://host", "https://host.elsewhere/a.wav"): False,
    ("https://host", "https://host@elsewhere/a.wav"): False,
    ("https://host", "http://host/a.wav"): False,
    ("https://host/data/", "https://host/data/../secret/a.wav"): False,
    ("https://host/data/", "https://host/data/%2e%2e/secret/a.wav"): False,
    ("https://host/data/", "https://host/data/%252e%252e/secret/a.wav"): False,
    ("https://host/data/", "https://host/data/%25252e.%252fsecret/a.wav"): False,
    ("s3://bucket/", "s3://bucket/a.zip::https://elsewhere/a.wav"): False,
    ("s3://bucket/", "simplecache::s3://bucket/a.wav"): False,
    ("s3://bucket/", " s3://bucket/a.wav"): False,
    ("s3://bucket/", "file:///etc/passwd"): False,
}


@pytest.mark.parametrize(("allowed", "url", "asked"), [(*pair, asked) for pair, asked in URLS.items()])
def test_a_manifest_asks_only_where_the_user_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, url: str, asked: bool
) -> None:
    """What is allowed gets as far as the model, which is not there."""

    def ask(url: str) -> None:
        raise AssertionError(f"{url} was asked")

    monkeypatch.setattr(audio_reader, "open_file_system", ask)
    pd.DataFrame({"path": ["a.wav", url, "b.wav"]}).to_parquet(tmp_path / "rows.parquet")
    refused = "names 1 address that this machine would ask, first .*; .* allow it with --urls "
    expected = {True: (FileNotFoundError, "no such checkpoint"), False: (UsageError, refused)}
    for places in ([allowed], []):
        kind, sentence = expected[asked and places == [allowed]]
        with pytest.raises(kind, match=sentence):
            batch_predict.predict_manifest(
                tmp_path / "rows.parquet", tmp_path / "out", model=str(tmp_path / "no"), urls=places
            )
    assert not (tmp_path / "out").exists()


def test_folders_of_something_else_are_sentences(place: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"it holds notes.txt; choose an empty --out"):
        job(place, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    DiskFolder(out).claim({"recordings": "a", "model": "m", "shard": 4, "decision": {}})
    with pytest.raises(ValueError, match=r"holds a job of other recordings, model, cycles, quality, decision"):
        job(place, out)
    with pytest.raises(UsageError, match="--cluster cloud: expected local, ray or slurm"):
        job(place, out, cluster="cloud")
    with pytest.raises(FileNotFoundError, match="no such folder or manifest"):
        batch_predict.predict_manifest(tmp_path / "gone.parquet", out)
    shutil.copy(place / "00000.wav", tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: not a Parquet file that can be read"):
        batch_predict.predict_manifest(tmp_path / "x.parquet", out)


@pytest.mark.usefixtures("jobs_in_this_process")
def test_the_cycles_of_the_manifest_are_used(place: Path, tmp_path: Path) -> None:
    """Two recordings with times, one without; a bad row is that of its recording alone."""
    lines = ["path;start_s;end_s;label", "00000.wav;0;1,5;normal", "00000.wav;1,5;;crackle", "00001.wav;0,5;1;"]
    lines += ["00002.wav;;;", "00004.wav;2;1;normal"]
    manifest = place / "times.csv"
    manifest.write_text("\n".join(lines) + "\n")
    words = {"model": str(place / "model.safetensors"), "processes": 1}
    found = batch_predict.predict_manifest(manifest, tmp_path / "out", **words)  # type: ignore[arg-type]
    cycles = pd.read_parquet(tmp_path / "out" / "cycles")
    told = cycles[cycles["source"] == "manifest"]
    assert told[["recording", "start_s", "end_s"]].to_numpy().tolist() == [
        ["00000", 0.0, 1.5], ["00000", 1.5, 3.0], ["00001", 0.5, 1.0]
    ]  # fmt: skip
    assert told["true_label"].tolist()[:2] == ["normal", "crackle"]
    assert told["true_label"].isna().tolist() == [False, False, True]
    assert set(cycles.loc[cycles["source"] != "manifest", "recording"]) == {"00002"}
    assert found["problems"] == [f"{manifest}, line 6: the cycle ends at 1 s, not after its start at 2 s"]
    manifest.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match="holds a job of other rows"):
        batch_predict.predict_manifest(manifest, tmp_path / "out", **words)  # type: ignore[arg-type]
    batch_predict.predict_manifest(manifest, tmp_path / "asked", cycles="windows", **words)  # type: ignore[arg-type]
    assert set(pd.read_parquet(tmp_path / "asked" / "cycles")["source"]) == {"window"}


@pytest.mark.usefixtures("jobs_in_this_process")
@pytest.mark.parametrize(
    ("form", "other"),
    [
        ("csv", "x/../00000.wav"),
        ("parquet", "whole"),
        ("csv", ".\\00000.wav"),
        *(
            pytest.param(form, other, marks=pytest.mark.slow)
            for form, other in [("csv", "whole"), ("parquet", "x/../00000.wav"), ("parquet", ".\\00000.wav")]
        ),
    ],
)
def test_the_rows_of_a_recording_are_its_cycles_however_its_path_is_written(
    place: Path, tmp_path: Path, other: str, form: str
) -> None:
    """Also a row without times: it is the whole recording, as for every reader."""
    path = str(place / "00000.wav") if other == "whole" else other
    rows = [("00000.wav", "0", "1", "normal"), (path, "1", "2.5", "wheeze"), (path, "", "", "both"), (path, "", "", "")]
    manifest = place / f"written.{form}"
    table = pd.DataFrame(rows, columns=["path", "start_s", "end_s", "label"])
    table.to_csv(manifest, index=False) if form == "csv" else table.to_parquet(manifest)
    words = {"model": str(place / "model.safetensors"), "processes": 1, "quality": False}
    found = batch_predict.predict_manifest(manifest, tmp_path / "out", **words)  # type: ignore[arg-type]
    cycles = pd.read_parquet(tmp_path / "out" / "cycles")
    assert (found["recordings"], found["problems"]) == (1, [])
    assert cycles[["path", "start_s", "end_s", "true_label"]].to_numpy().tolist() == [
        [str(place / "00000.wav"), *times] for times in ((0.0, 1.0, "normal"), (0.0, 3.0, "both"), (1.0, 2.5, "wheeze"))
    ]


@pytest.mark.usefixtures("jobs_in_this_process")
def test_the_answers_of_a_model_are_no_true_labels(place: Path, tmp_path: Path) -> None:
    model = load_model(place / "model.safetensors")
    table = model.predict(place / "00000.wav", cycles="windows", quality=False)
    table.to_csv(tmp_path / "predicted.csv", index=False)
    words = {"model": str(place / "model.safetensors"), "processes": 1, "quality": False}
    batch_predict.predict_manifest(tmp_path / "predicted.csv", tmp_path / "out", **words)  # type: ignore[arg-type]
    again = pd.read_parquet(tmp_path / "out" / "cycles")
    assert again[["start_s", "end_s"]].equals(table[["start_s", "end_s"]])
    assert again["true_label"].isna().all()
    assert np.abs(again[P].to_numpy() - table[P].to_numpy()).max() < 1e-6
