"""No room in TMPDIR, or beside a file that a library writes by itself: a sentence, and no recording is to blame."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.audio.open_audio import NoRoom, temporary_sound
from rales.data import random_crops
from rales.data.corpus import read_corpus
from rales.files import atomic
from rales.inference import prediction_writers, similarity_search
from rales.jobs import batch_predict
from tests import tiny

FULL = Path("/dev/full")
WITH_FULL = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full, which is a full disk")


@pytest.fixture
def full_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every temporary file is one on a full disk."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FULL.open("r+b", buffering=0))


def write_m4a(path: Path) -> Path:
    """-> a recording that is decoded to a temporary file before it is read."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        sound = np.concatenate([tiny.breath(label, seed=1) for label in range(4)]).astype(np.float32)
        for start in range(0, len(sound) - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@WITH_FULL
@pytest.mark.usefixtures("full_tmpdir")
def test_a_recording_that_there_is_no_room_to_decode_is_not_a_bad_one(tmp_path: Path) -> None:
    write_m4a(tmp_path / "a.m4a")
    problems: list[str] = []
    with pytest.raises(NoRoom, match=r"a\.m4a: no room in .* to decode it \(No space left on device\); make room"):
        tiny.model().predict([tmp_path / "a.m4a"], problems=problems)
    assert problems == []


def test_a_disk_that_takes_a_part_before_it_is_full_is_to_blame(tmp_path: Path) -> None:
    """A limit to the size of files does the same as such a disk."""
    resource = pytest.importorskip("resource")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_001, limits[1]))
    try:
        with pytest.raises(NoRoom, match=r"a\.m4a: no room in .* to decode it \(File too large\)"):  # noqa: SIM117
            with temporary_sound(tmp_path / "a.m4a", 4000, 1, "FLOAT") as (sound, _):
                sound.write(np.zeros(8000, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@WITH_FULL
@pytest.mark.usefixtures("full_tmpdir")
def test_pre_training_does_not_pass_it_over(tmp_path: Path) -> None:
    write_m4a(tmp_path / "a.m4a")
    soundfile.write(tmp_path / "b.wav", tiny.breath(0, seed=0), tiny.RATE_HZ)
    heard = random_crops.CropDataset(read_corpus([tmp_path], part="all"), 800)
    (bad,) = [n for n in range(2) if heard.collection.path(n).suffix == ".m4a"]
    with pytest.raises(NoRoom):
        heard.crop(bad, seed=0, epoch=0)


@WITH_FULL
@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_batch_job_leaves_it_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard without room is not done: given room, the same command reads the recording."""
    write_m4a(tmp_path / "a.m4a")
    pd.DataFrame({"path": ["a.m4a"]}).to_csv(tmp_path / "manifest.csv", index=False)
    tiny.save(tiny.model(), tmp_path / "model.safetensors")

    words = {"model": str(tmp_path / "model.safetensors"), "processes": 1, "quality": False}
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", lambda **_: FULL.open("r+b", buffering=0))
        first = batch_predict.predict_manifest(tmp_path / "manifest.csv", tmp_path / "out", **words)  # type: ignore[arg-type]
    assert (first["failed"], first["waiting"]) == (0, 1)
    again = batch_predict.predict_manifest(tmp_path / "manifest.csv", tmp_path / "out", **words)  # type: ignore[arg-type]
    assert (again["ok"], again["failed"], again["waiting"]) == (1, 0, 0)


def test_an_index_that_cannot_be_kept_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = pytest.importorskip("usearch.index")
    table = tiny.model().embed_table([tiny.write_folder(tmp_path / "data")], quality=False)
    similarity_search.write_vectors(table, tmp_path / "e.npz")

    def fails(*_: object) -> None:
        raise RuntimeError("Failed to serialize into stream")  # what usearch says of a full disk

    monkeypatch.setattr(index.Index, "save", fails)
    assert len(
        similarity_search.open_index(
            tmp_path / "e.npz", similarity_search.read_rows(tmp_path / "e.npz")[0].attrs["seal"]
        )
    ) == len(table)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "e.npz"}


def test_openvino_without_room_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own error is a RuntimeError that does not say why."""
    openvino = pytest.importorskip("openvino")
    from rales.export import openvino as openvino_file

    @contextmanager
    def no_folder() -> Iterator[Path]:
        yield tmp_path / "not" / "there"

    values = openvino.opset13.parameter([1, 2], np.float32)
    model = openvino.Model([openvino.opset13.relu(values)], [values])
    (tmp_path / "not").touch()
    monkeypatch.setattr("rales.export.openvino.temporary_folder", no_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match=r"model\.xml: cannot be written, .* MiB are free there .* set TMPDIR"):
        openvino_file.reread_graph(model)


def test_narrow_onnx_leaves_temporary_files_to_the_folder_that_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a model and not a file, ONNX Runtime makes a folder that outlives a kill."""
    onnx = pytest.importorskip("onnx")
    quantize = pytest.importorskip("onnxruntime.quantization.quantize")
    from rales.export import onnx as onnx_file

    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, [1, 4]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])

    def forbidden(*_: object) -> None:
        raise AssertionError("a folder of its own in TMPDIR")

    monkeypatch.setattr(quantize, "save_and_reload_model_with_shape_infer", forbidden)
    assert {each.op_type for each in onnx_file.quantize_graph(model).graph.node} >= {"MatMulInteger"}


def test_what_a_library_says_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"a\.bin: cannot be written.*basic_ios::clear"),
        atomic.written_by_library(tmp_path / "a.bin"),
    ):
        raise RuntimeError("basic_ios::clear: iostream error\nmore")
    with pytest.raises(KeyError), atomic.written_by_library(tmp_path / "a.bin"):
        raise KeyError


def test_a_table_does_not_take_the_blame_for_a_full_tmpdir(tmp_path: Path) -> None:
    def tables() -> Iterator[pd.DataFrame]:
        yield pd.DataFrame({"a": [1]})
        raise NoRoom("a.m4a", "no room in /tmp to decode it")

    with pytest.raises(NoRoom, match=r"^a\.m4a: no room in /tmp to decode it$"):
        prediction_writers.write_table(tables(), tmp_path / "cycles.csv")
    assert list(tmp_path.iterdir()) == []
