"""Every command with every engine, behind a proxy that records and refuses: nobody is asked, and nothing is left in the
home folder by which this machine could be known again."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest

from tests import tiny
from tests.recorder import Recorder, recording
from tests.served import until

NEEDED = ("openvino", "nncf", "onnx", "onnxruntime", "onnxscript", "matplotlib", "jinja2", "usearch", "fastapi")
WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make setup")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs all extras: make setup"
    ),
]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """One home for all commands, which the `work` folder beside it is for."""
    folder = tmp_path_factory.mktemp("contact")
    work = folder / "work"
    tiny.write_folder(work / "data")
    tiny.save(tiny.model(), work / "model.safetensors")
    (work / "many").mkdir()
    for sound in (work / "data").glob("*.wav"):
        for number in range(8):
            (work / "many" / f"{number}_{sound.name}").write_bytes(sound.read_bytes())
    names = [str(path) for path in sorted((work / "data").glob("*.wav"))]
    pd.DataFrame({"path": names}).to_csv(work / "rows.csv", index=False)
    with recording(folder / "home") as found:
        yield found


def run(recorder: Recorder, words: str) -> subprocess.CompletedProcess[str]:
    """Words of the command, in `work`."""
    work = recorder.home.parent / "work"
    return recorder.run("-m", "rales", *words.split(), cwd=work, timeout_s=900)


COMMANDS = (  # in this order: some take what others made
    "--help",
    "check data",
    "synth synthetic --recordings 6 --patients 4 --seed 1",
    "train m2d_fusion --data data --size tiny --epochs 1 --out run",
    "evaluate run --data data",
    "pretrain --data data --size tiny --epochs 1 --out pre --set crops.min_items=4",
    "sweep m2d_fusion --data data --size tiny --epochs 1 --out sweep",
    "layers --data data --size tiny --out layers",
    "report run --out report",
    "weights",
    "export model.safetensors --to onnx --out model.onnx",
    "export model.safetensors --to openvino --out model.xml",
    "export model.safetensors --to onnx --precision int8 --data data --out int8.onnx",
    "export model.safetensors --to openvino --precision int8 --data data --out int8.xml",
    "export model.safetensors --to openvino --precision bf16 --data data --out bf16.xml",
    "predict data --model model.onnx --out a.csv",
    "predict data --model model.xml --out b.csv",
    "predict data --model int8.xml --out c.parquet",
    "predict data --model model.safetensors --engine openvino --out d.csv",
    "predict data --model model.safetensors --engine openvino --out e.csv",  # kept
    "predict data --model model.safetensors --engine onnx --out f.csv",
    "predict data --model model.safetensors --engine onnx --out g.csv",
    "predict many --model model.safetensors --out h.csv",  # looks for the fastest engine
    "predict many --out i.csv",  # the model of the package
    "predict --manifest rows.csv --model model.xml --out batch",
    "embed data --model model.safetensors --out vectors.npz",
    "search 101_1b1_Tc_sc_Litt3200 --in vectors.npz",
    "explain data/101_1b1_Tc_sc_Litt3200.wav --model model.safetensors --cycle 1 --out why.png",
    "bench --model model.safetensors --batch 1 --rounds 1",
    pytest.param("predict --manifest rows.csv --model model.xml --out on_ray --cluster ray", marks=WITH_RAY),
    pytest.param(
        "sweep m2d_fusion --data data --size tiny --epochs 1 --out ray_sweep --engine ray --processes 1", marks=WITH_RAY
    ),
)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_asks_nobody(recorder: Recorder, words: str) -> None:
    ended = run(recorder, words)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (recorder.asked, recorder.left()) == ([], [])
    if "ray" in words:
        assert (recorder.home / ".ray" / "auth_token").is_file(), "its ports are open to whoever reaches this machine"


@pytest.mark.parametrize("model", ["model.safetensors", "model.xml", "model.onnx"])
def test_the_page_asks_nobody(recorder: Recorder, model: str) -> None:
    """Served as anyone would, and a recording sent to it."""
    work = recorder.home.parent / "work"
    words = [sys.executable, "-m", "rales", "serve", "--model", str(work / model), "--port", "0"]
    log, token = work / "serve.log", "0123456789abcdef"
    environment = {**recorder.environment, "RALES_TOKEN": token}
    with (
        log.open("w") as said,
        subprocess.Popen(words, env=environment, cwd=work, stdout=said, stderr=said) as process,
    ):
        try:
            address = until(lambda: next(iter(found_address(log.read_text())), ""), patience_s=120)
            sound = next((work / "data").glob("*.wav")).read_bytes()
            known = {"authorization": f"Bearer {token}"}
            with httpx.Client(base_url=address, headers=known, trust_env=False, timeout=120) as client:
                until(lambda: client.get("/health").status_code == 200, patience_s=120)
                page = client.get("/")
                answer = client.post("/predict", files={"audio": ("a.wav", sound)})
            assert (page.status_code, answer.status_code) == (200, 200), answer.text
        finally:
            process.terminate()
            process.wait(timeout=60)
    assert (recorder.asked, recorder.left()) == ([], [])


def found_address(log: str) -> list[str]:
    """What `rales serve` says -> the addresses in it."""
    return [word.rstrip(".,") for word in log.split() if word.startswith("http://127.0.0.1")]


def test_the_recorder_sees_the_one_command_that_asks(recorder: Recorder, tmp_path: Path) -> None:
    """Else all of this would show nothing: `rales weights NAME` does ask, and says that it could not."""
    with recording(tmp_path / "home") as other:
        ended = other.run("-m", "rales", "weights", "mr7", cwd=tmp_path)
        assert other.asked, ended.stderr
