"""One artefact from waveform to probabilities: the answers of the network, whoever runs it, or a sentence."""

import dataclasses
import importlib.util
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import rales
from rales.cli import main
from rales.errors import UsageError
from rales.export import artefact, engine_selection, parity, torch_export
from rales.export.artefact import open_artefact
from rales.export.build import export_model
from rales.export.load import load_with_engine
from rales.files import seals
from rales.inference import predictor
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from rales.training import run_folder
from tests import tiny
from tests.attack.flips import Case, anywhere, in_the_seal, trials
from tests.recorder import recording

NEEDED = ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extras export and quantize"
)
P = [f"p_{name}" for name in CLASSES]
SAMPLES = 32000  # 2 s


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, a model in `model.safetensors`, and its artefacts in float32."""
    folder = tmp_path_factory.mktemp("export")
    tiny.write_folder(folder / "data")
    tiny.save(tiny.model(), folder / "model.safetensors")
    export_model(folder / "model.safetensors", folder / "model.onnx")
    export_model(folder / "model.safetensors", folder / "model.xml", "openvino")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def kept_engines(place: Path, own_cache: None) -> None:
    """Both engines of the model are in the cache, as an earlier command has left them."""
    kept = engine_selection.engine_cache_file(load_model(place / "model.safetensors"))
    kept.parent.mkdir(parents=True)
    for suffix in (".onnx", ".xml", ".bin"):
        shutil.copy(place / f"model{suffix}", kept.with_suffix(suffix))


@pytest.fixture(scope="module")
def waves() -> np.ndarray:
    """Noise, loud and quiet, a pure tone, clicks, silence; 11 clips, more than an engine takes at once."""
    random = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 300 * np.arange(SAMPLES) / 16000)
    clicks = np.zeros(SAMPLES)
    clicks[::1999] = 1
    clips = [level * random.standard_normal(SAMPLES) for level in (0.3, 0.1, 1e-3, 1e-5, 0.1, 0.1, 0.02)]
    return np.stack([*clips, 0.9 * tone, clicks, np.zeros(SAMPLES), 0.5 * tone + 1e-4 * clips[0]]).astype(np.float32)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_the_answers_of_the_network_alone_and_in_a_batch(place: Path, waves: np.ndarray, name: str) -> None:
    expected = load_model(place / "model.safetensors").probabilities(waves)
    assert expected.std(axis=0).max() > 0.05  # the clips have answers of their own
    model = rales.load(place / name)
    together = model.probabilities(waves)
    assert np.abs(together - expected).max() < 1e-5
    alone = np.concatenate([model.probabilities(clip[None]) for clip in waves])
    assert np.abs(alone - together).max() < 1e-6
    kept = together.copy()
    model.probabilities(waves[::-1].copy())
    assert np.array_equal(together, kept)  # an engine's next answer does not write over the last one


def test_other_programs_run_the_files(place: Path, waves: np.ndarray) -> None:
    """With the public runtimes alone, as a stranger would, float32 asked for."""
    import onnx
    import onnxruntime
    import openvino

    expected = load_model(place / "model.safetensors").probabilities(waves)
    session = onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"wave": waves})
    assert np.abs(found - expected).max() < 1e-5
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(place / "model.xml"), "CPU", hint)
    assert np.abs(compiled({"wave": waves})["probabilities"] - expected).max() < 1e-5
    assert session.get_inputs()[0].shape[1] == SAMPLES
    graph = onnx.load(place / "model.onnx")
    nodes = [*graph.graph.node, *(node for function in graph.functions for node in function.node)]
    assert not any(node.doc_string or node.metadata_props for node in nodes)  # no trace of the machine that made it


def test_the_command_gives_the_same_whatever_computes(place: Path, tmp_path: Path) -> None:
    tables = {}
    given = {
        "torch": ["--model", f"{place / 'model.safetensors'}", "--engine", "torch"],
        "auto": ["--model", f"{place / 'model.safetensors'}"],
        "onnx": ["--model", f"{place / 'model.safetensors'}", "--engine", "onnx"],
        "artefact": ["--model", f"{place / 'model.xml'}"],
    }
    for name, words in given.items():
        out = tmp_path / f"{name}.csv"
        with pytest.raises(SystemExit) as ended:
            main(["predict", f"{place / 'data'}", "--out", f"{out}", *words])
        assert ended.value.code == 0
        tables[name] = pd.read_csv(out)
    for table in tables.values():
        assert table["recording"].tolist() == tables["torch"]["recording"].tolist()
        assert np.abs(table[P].to_numpy() - tables["torch"][P].to_numpy()).max() < 1e-5
    assert list((tmp_path / "cache" / "engines").glob("*.onnx"))


@pytest.mark.parametrize(("to", "precision"), [("openvino", "bf16"), ("onnx", "int8"), ("openvino", "int8")])
def test_narrow_numbers_drift_as_reported(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, precision: str
) -> None:
    out = tmp_path / ("x.onnx" if to == "onnx" else "x.xml")
    words = (
        f"export {place / 'model.safetensors'} --to {to} --precision {precision} --data {place / 'data'} --out {out}"
    )
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--json"])
    assert ended.value.code == 0
    report = json.loads(capsys.readouterr().out)
    drift = report["drift"]
    assert (report["format"], report["precision"], drift["cycles"]) == (to, precision, 12)
    assert 0 < drift["mean_difference"] <= drift["max_difference"] < 0.3
    assert report["bytes"] == sum(Path(file).stat().st_size for file in report["files"])

    plain, narrow = rales.load(place / "model.safetensors"), rales.load(out)
    assert plain.digest != narrow.digest
    test = [path for path in (place / "data").glob("*.wav") if int(path.name[:3]) in tiny.TEST]
    before, after = plain.predict(test), narrow.predict(test)
    apart = np.abs(before[P].to_numpy() - after[P].to_numpy())
    assert apart.max() == pytest.approx(drift["max_difference"], abs=1e-4)
    flipped = before["label"] != after["label"]
    assert {(f["recording"], f["cycle"], f["from"], f["to"]) for f in drift["flips"]} == set(
        zip(
            before["recording"][flipped],
            before["cycle"][flipped],
            before["label"][flipped],
            after["label"][flipped],
            strict=True,
        )
    )


def test_drift_lists_every_flip() -> None:
    rows = pd.DataFrame({"recording": ["a", "a", "b"], "cycle": [1, 2, 1]})
    before = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.35, 0.15, 0.1], [0.25, 0.25, 0.24, 0.26]])
    after = before + np.array([[0.01, 0, 0, -0.01], [-0.04, 0.04, 0, 0], [0, 0, 0, 0]])
    found = parity.measure_drift(rows, before, after)
    assert found["max_difference"] == pytest.approx(0.04)
    assert found["mean_difference"] == pytest.approx(0.1 / 12)
    (flip,) = found["flips"]
    assert (flip["recording"], flip["cycle"], flip["from"], flip["to"]) == ("a", 2, "normal", "crackle")
    assert flip["margin"] == pytest.approx(0.05)


# Who is asked


LOADED = """
import rales, sys
for path in sys.argv[1:]:
    rales.load(path)
import nncf, ray, rales.export
"""


def test_engines_ask_nobody_and_leave_no_name_in_the_home_folder(place: Path, tmp_path: Path) -> None:
    with recording(tmp_path / "bare") as recorder:
        assert recorder.run("-c", "import onnxruntime, openvino").returncode == 0
        assert recorder.asked, "the recorder has not seen what OpenVINO is known to ask"
        assert len({path.split("/")[0] for path in recorder.left()}) > 1, "both libraries are known to leave a name"
    with recording(tmp_path / "ours") as recorder:
        ended = recorder.run("-c", LOADED, place / "model.xml", place / "model.onnx")
        assert ended.returncode == 0, ended.stderr
        assert (recorder.asked, recorder.left()) == ([], [])


# What is refused


def test_words_that_cannot_be_served(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = place / "model.safetensors"
    with pytest.raises(UsageError, match=r"--precision bf16: --to onnx has float32, int8"):
        export_model(model, tmp_path / "x.onnx", "onnx", "bf16")
    with pytest.raises(UsageError, match=r"x.onnx: expected a name that ends in .xml for --to openvino"):
        export_model(model, tmp_path / "x.onnx", "openvino")
    with pytest.raises(UsageError, match=r"--precision int8: expected --data"):
        export_model(model, tmp_path / "x.xml", "openvino", "int8")
    with pytest.raises(UsageError, match=r"--engine torch: .*model.onnx is an artefact for onnx"):
        load_with_engine(place / "model.onnx", "torch")
    with pytest.raises(ValueError, match=r"model.onnx: an artefact of `rales export` gives probabilities only"):
        load_model(place / "model.onnx")
    with pytest.raises(ValueError, match="holds no vectors, only probabilities; give the run folder"):
        rales.load(place / "model.onnx").embed(place / "data")
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r'needs the package onnx, which is not installed: pip install "rales\[export\]"'
    ):
        export_model(model, tmp_path / "x.onnx")
    with pytest.raises(
        UsageError, match=r'needs the package openvino, which is not installed: pip install "rales\[openvino\]"'
    ):
        load_with_engine(place / "model.xml")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_artefact(place: Path, tmp_path: Path) -> None:
    import onnx

    for name in ("model.onnx", "model.xml", "model.bin"):
        content = (place / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model.onnx: not an artefact of `rales export`, or cut or damaged"):
        load_with_engine(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"model.xml: not an artefact of `rales export`, or cut or damaged"):
        load_with_engine(tmp_path / "model.xml")
    shutil.copy(place / "model.xml", tmp_path / "model.xml")
    with pytest.raises(ValueError, match=r"model.xml: (damaged|model.bin beside it is damaged)"):
        load_with_engine(tmp_path / "model.xml")
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ValueError, match=r"model.xml: its weights are missing; copy model.bin beside it"):
        load_with_engine(tmp_path / "model.xml")

    stranger = onnx.load(place / "model.onnx")
    del stranger.metadata_props[:]
    onnx.save(stranger, tmp_path / "stranger.onnx")
    with pytest.raises(ValueError, match=r"stranger.onnx: not an artefact of `rales export`, or cut or damaged"):
        load_with_engine(tmp_path / "stranger.onnx")


def test_weights_of_another_model_are_found(place: Path, tmp_path: Path) -> None:
    import onnx

    shutil.copy(place / "model.xml", tmp_path / "model.xml")
    content = bytearray((place / "model.bin").read_bytes())
    content[1000] ^= 64
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.bin beside it is damaged, cut or of another model"):
        load_with_engine(tmp_path / "model.xml")

    changed = onnx.load(place / "model.onnx")
    head = next(value for value in changed.graph.initializer if sorted(value.dims) == [4, 48])
    head.CopyFrom(onnx.numpy_helper.from_array(0.5 * onnx.numpy_helper.to_array(head), head.name))
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(ValueError, match=r"changed.onnx: an artefact of .* that was damaged or changed"):
        load_with_engine(tmp_path / "changed.onnx")
    seals.seal_file(tmp_path / "changed.onnx")
    with pytest.raises(ValueError, match=r"changed.onnx: its answers are .* away from those it was made with"):
        load_with_engine(tmp_path / "changed.onnx")


def test_single_bits_of_artefacts_are_noticed(place: Path) -> None:
    """Few of them, the seal's among them; many are turned over in tests/attack."""
    for name, file in (("model.onnx", "model.onnx"), ("model.xml", "model.xml"), ("model.bin", "model.xml")):
        case = Case(name, place / name, partial(rales.load, place / file))
        seal = in_the_seal(case)[::10] if name == file else []
        assert trials(case, [*anywhere(case, 5, seed=1), *seal]) == []


def test_a_graph_that_computes_something_else_is_not_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = dataclasses.replace(
        artefact.EXPORT_TARGETS["onnx"], compile=lambda *_: lambda waveforms: 0 * waveforms[:, :4]
    )
    monkeypatch.setitem(artefact.EXPORT_TARGETS, "onnx", half)
    with pytest.raises(ValueError, match=r"the onnx graph answers .* away from the network, more than 1e-05"):
        export_model(place / "model.safetensors", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_answers_that_depend_on_neighbours_are_refused() -> None:
    model = tiny.model("audio.scope=batch")
    with pytest.raises(UsageError, match=r"audio.scope=batch, where .* depend on its neighbours"):
        torch_export.wave_to_probabilities(model)


# Which engine


@pytest.mark.usefixtures("kept_engines")
def test_auto_takes_the_fastest_that_agrees(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    seconds = {"torch": 0.024, "openvino": 0.008, "onnx": 0.016}  # of 8 clips
    monkeypatch.setattr(engine_selection, "time_engines", lambda turns: {name: [seconds[name]] for name in turns})
    monkeypatch.setattr(
        engine_selection, "time_in_own_process", lambda path, _: engine_selection.time_available_engines(path)
    )
    model = place / "model.safetensors"
    few = load_with_engine(model, recordings=3, tell=said.append)
    assert few.engine == few.torch_engine
    assert said == []
    many = load_with_engine(model, recordings=64, tell=said.append)
    assert many.engine != many.torch_engine
    assert said[-1] == "engine openvino (torch 3.0, openvino 1.0, onnx 2.0 ms a cycle)"
    monkeypatch.setattr(engine_selection, "time_engines", None)
    again = load_with_engine(model)  # remembered
    assert again.engine != again.torch_engine
    clips = artefact.make_probe(many.recipe)
    assert np.abs(again.probabilities(clips) - few.probabilities(clips)).max() < 1e-5


@pytest.mark.usefixtures("kept_engines")
@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_many_recordings_are_scored_side_by_side_with_the_same_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr(artefact, "count_processors", lambda: 3)
    monkeypatch.setattr(predictor, "BATCH_CYCLES", 2)
    few = load_with_engine(place / "model.safetensors", engine)
    many = load_with_engine(place / "model.safetensors", engine, recordings=64)
    assert (few.workers, many.workers) == (1, 3)
    names = set()
    inner = many.engine

    def counted(waves: np.ndarray) -> np.ndarray:
        names.add(threading.current_thread().name)
        return inner(waves)

    one, other = few.predict(place / "data"), many.with_engine(counted, many.workers).predict(place / "data")
    assert len(names) > 1
    assert len(one) > 6
    assert one["recording"].tolist() == other["recording"].tolist()
    np.testing.assert_allclose(one[P], other[P], atol=1e-5)


def test_auto_leaves_out_what_disagrees_or_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def refuse(model: Predictor, to: str, tell: object = None) -> object:
        raise UsageError("not installed") if to == "onnx" else ValueError("not equal")

    monkeypatch.setattr(engine_selection, "load_or_make_engine", refuse)
    monkeypatch.setattr(
        engine_selection, "time_in_own_process", lambda path, _: engine_selection.time_available_engines(path)
    )
    model = load_with_engine(place / "model.safetensors", recordings=1000, tell=said.append)
    assert model.engine == model.torch_engine
    assert "engine openvino is left out: not equal" in said
    assert "engine onnx is left out: not installed" in said


@pytest.mark.usefixtures("kept_engines")
def test_a_damaged_file_in_the_cache_is_made_again(place: Path, tmp_path: Path) -> None:
    first = load_with_engine(place / "model.safetensors", "onnx")
    (path,) = (tmp_path / "cache" / "engines").glob("*.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    again = load_with_engine(place / "model.safetensors", "onnx")
    clips = artefact.make_probe(first.recipe)
    assert np.array_equal(again.probabilities(clips), first.probabilities(clips))
    assert open_artefact(path, "onnx").digest == first.digest


def test_the_record_travels(place: Path) -> None:
    _, record = run_folder.read_checkpoint(place / "model.safetensors")
    for name in ("model.onnx", "model.xml"):
        model = rales.load(place / name)
        assert {key: model.record[key] for key in record} == record
        assert model.digest == rales.load(place / "model.safetensors").digest
        assert model.classes == CLASSES


def test_one_file_of_any_kind_has_one_answer(place: Path, tmp_path: Path) -> None:
    sound, rate_hz = soundfile.read(next((place / "data").glob("*.wav")))
    soundfile.write(tmp_path / "a.flac", sound, rate_hz)
    soundfile.write(tmp_path / "b.wav", np.stack([sound, sound], axis=1), rate_hz, subtype="PCM_24")
    expected = rales.load(place / "model.safetensors").predict(tmp_path)
    found = rales.load(place / "model.onnx").predict(tmp_path)
    assert np.abs(found[P].to_numpy() - expected[P].to_numpy()).max() < 1e-5


def test_the_probe_is_always_the_same() -> None:
    clips = parity.make_probe_clips(32000, 16000)
    assert clips.shape == (3, 32000)
    assert clips.dtype == np.float32
    assert not clips[2].any()
    assert clips[0, 1000] == np.float32(parity.make_probe_clips(64000, 16000)[0, 1000])
    assert clips[:2, 12345].tolist() == pytest.approx(PROBE_AT_12345, abs=1e-7)


PROBE_AT_12345 = [0.038654453, -0.135099202]
