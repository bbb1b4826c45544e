"""A first answer by the model of the package: without PyTorch and pandas, and the same as with them."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import rales
from rales.export import artefact, load
from rales.inference.load_model import load_model
from rales.labels import CLASSES
from rales.models import hub
from tests.command import command
from tests.conftest import REPOSITORY

P = [f"p_{name}" for name in CLASSES]
TOLERANCE = 1e-4  # of a probability; the graph was held to 1e-5 of the network's answers to three clips
BLOCKED = ("torch", "pandas", "scipy", "sklearn", "pyarrow")

WITHOUT = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
for name in {blocked}:
    sys.modules[name] = None  # whoever imports it gets an ImportError
from rales.cli import main
said = []
for words in json.loads(sys.argv[1]):
    for name in ("pandas", "scipy", "pyarrow") if words[0] != "predict" else ():
        sys.modules.pop(name, None)  # which a core installation has
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            exec(words[1]) if words[0] == "python" else main(words)
        except ValueError as error:  # of Python; the command has made a sentence of it
            print(f"rales: {{error}}", file=sys.stderr)
            code = 2
        except SystemExit as ended:
            code = ended.code or 0
    said.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


def breath(rate_hz: int, seconds: float, seed: int = 0) -> np.ndarray:
    """-> (N,) noise that rises and falls every three seconds, with a whistle in every other one."""
    time_s = np.arange(round(rate_hz * seconds)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(len(time_s)).cumsum()
    noise = np.diff(noise - np.convolve(noise, np.ones(9) / 9, "same"), prepend=0)
    whistle = 0.1 * np.sin(2 * np.pi * 410 * time_s) * (time_s % 6 > 3)
    return np.asarray((0.02 * noise + whistle) * np.sin(np.pi * time_s / 3) ** 2)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """-> recordings of many kinds: rates, channels, lengths, silence, with an annotation, none at all."""
    folder = tmp_path_factory.mktemp("first")
    slow, fast = breath(8000, 12), breath(44100, 7, 1)
    kinds = {
        "slow": (slow, 8000),
        "stereo": (np.stack([fast, 0.5 * fast], axis=1), 44100),
        "short": (slow[: 8000 // 2], 8000),
        "silent": (np.zeros(24000), 4000),
        "annotated": (slow, 8000),
    }
    for name, (samples, rate_hz) in kinds.items():
        soundfile.write(folder / f"{name}.wav", samples, rate_hz, subtype="PCM_16")
    (folder / "annotated.txt").write_text("0.5 3.0 0 0\n3.0 6.0 0 1\n6.0 9.5 1 1\n")
    return [str(folder / f"{name}.wav") for name in (*kinds, "missing")]


def run_without(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Commands -> exit code, stdout and stderr of each, in a process that has none of BLOCKED."""
    code = WITHOUT.format(blocked=BLOCKED)
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return [(code, out, err) for code, out, err in json.loads(ended.stdout)]


def test_the_command_answers_without_torch_as_with_it(
    recordings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["predict", *recordings]
    as_json = [*asked, "--json", "--sets", "0.9", "--min-confidence", "0.5"]
    trained = ["train", "m2d_fusion", "--data", "nowhere", "--out", "nowhere/run"]
    python = {
        "Predictor.evaluate": "rales.load().evaluate('nowhere')",
        "Predictor.explain": "rales.load().explain('nowhere.wav', 1)",
        "Predictor.calibrate": "rales.load().calibrate('nowhere')",
        "Predictor.finetune": "rales.load().finetune('nowhere', 'nowhere/run')",
        "Predictor.push_to_hub": "rales.load().push_to_hub('user/name')",
        "rales.report": "rales.report",
        "rales.audio.IcbhiLogMel": "from rales.audio import *",
        "rales.models.ViT": "rales.models.ViT",
    }
    table, document, *refused = run_without(
        *(asked, as_json, trained, [*asked, "--model", "rales-mn04"], [*asked, "--engine", "openvino"]),
        ["report", "nowhere", "--out", "nowhere/report"],
        *(["python", f"import rales; {line}"] for line in python.values()),
    )

    assert table == command(capsys, *asked, "--engine", "torch")
    code, out, err = command(capsys, *as_json, "--engine", "torch")
    assert (document[0], document[2]) == (code, err) == (1, err)
    ours, theirs = json.loads(document[1]), json.loads(out)
    assert ours.keys() == theirs.keys()
    assert {row["recording"] for row in ours["cycles"]} == {"slow", "stereo", "short", "silent", "annotated"}
    for part in ours:
        assert_alike(ours[part], theirs[part])

    asked_for = dict.fromkeys(("rales train", "the model rales-mn04", "--engine openvino for the model rales"), "train")
    asked_for |= {"rales report": "report,train"} | dict.fromkeys(python, "train")
    for (code, out, err), (what, extra) in zip(refused, asked_for.items(), strict=True):
        assert (code, out) == (2, "")
        assert err == f'rales: {what} needs the package torch, which is not installed: pip install "rales[{extra}]"\n'


def assert_alike(ours: object, theirs: object) -> None:
    """JSON values are the same, but for the rounding of probabilities."""
    if isinstance(ours, float) and isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=TOLERANCE)
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert_alike(value, theirs[name])
    elif isinstance(ours, list) and isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
    else:
        assert ours == theirs


def test_the_graph_is_of_the_model_that_ships() -> None:
    """Else `rales export rales --out src/rales/default/rales.onnx` was forgotten."""
    graph, network = rales.load("rales"), load_model("rales", "cpu")
    assert {name: value for name, value in graph.record.items() if name != "export"} == network.record
    assert graph.digest == network.digest
    assert graph.name == network.name == "rales"


def test_in_python_it_is_one_model(recordings: list[str]) -> None:
    graph, network = rales.load(), load_model("rales", "cpu")
    ours, theirs = (model.predict(recordings[:5]) for model in (graph, network))
    assert ours.drop(columns=P).equals(theirs.drop(columns=P))
    assert (ours.dtypes == theirs.dtypes).all()
    assert ours.attrs == theirs.attrs
    np.testing.assert_allclose(ours[P], theirs[P], atol=TOLERANCE)

    assert "exported" in repr(graph)
    assert np.array_equal(graph.embed(recordings[0]), network.embed(recordings[0]))
    assert graph.recipe.settings == network.recipe.settings
    assert np.array_equal(graph.to("cpu").predict(recordings[:5])[P], theirs[P], equal_nan=True)


def test_a_clip_has_the_same_answer_in_every_company() -> None:
    model = rales.load()
    clips = np.random.default_rng(0).standard_normal((5, 32000)).astype(np.float32)
    alone = np.concatenate([model.engine(clips[n : n + 1]) for n in range(5)])
    assert np.array_equal(model.engine(clips), alone)


def test_an_offset_does_not_part_graph_and_network() -> None:
    noise = np.random.default_rng(0).standard_normal((2, 32000)) * [[1e-4], [0.05]]
    clips = np.concatenate([noise + offset for offset in (0, 0.1, 0.3, 0.5)]).astype(np.float32)
    expected = np.asarray(load_model("rales", "cpu").engine(clips))
    np.testing.assert_allclose(rales.load().engine(clips), expected, atol=TOLERANCE / 2)


def test_a_damaged_graph_is_told_and_torch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(hub.GRAPHS["rales"].read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "rales.onnx").write_bytes(content)
    monkeypatch.setitem(hub.GRAPHS, "rales", tmp_path / "rales.onnx")
    said: list[str] = []
    model = load.load_with_engine(tell=said.append)
    assert model.engine is model.torch_engine
    (sentence,) = said
    assert "so torch computes" in sentence
    monkeypatch.setattr(load, "is_installed", lambda _: False)
    with pytest.raises(ValueError, match="damaged or changed"):
        load.load_with_engine()


def test_the_model_goes_to_another_process() -> None:
    """By its file: what is pickled is small, and the copy is checked as whatever is opened."""
    model = rales.load()
    pickled = pickle.dumps(model)
    assert len(pickled) < 100_000
    clips = np.random.default_rng(0).standard_normal((2, 32000)).astype(np.float32)
    again = pickle.loads(pickled)
    assert np.array_equal(again.engine(clips), model.engine(clips))
    assert (again.digest, again.classes) == (model.digest, model.classes)


def test_many_recordings_share_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact, "count_processors", lambda: 3)
    monkeypatch.setattr(artefact, "count_threads", lambda: 1)
    assert load.load_with_engine(recordings=64).workers == 3


def test_the_shipped_graph_tells_nothing_of_the_machine_that_made_it() -> None:
    content = (REPOSITORY / "src" / "rales" / "default" / "rales.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b"stack_trace" not in content
