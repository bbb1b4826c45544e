"""What is optional, broken or cramped: the main jobs end as without it. `make test-slow` runs the long half."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import soundfile

from rales.export.load import AUTO_ENGINE_MIN_RECORDINGS
from tests import tiny
from tests.conftest import REPOSITORY

BREAKS = {  # optional package -> what its import does
    "onnx": "import no_such_module",
    "onnxruntime": "raise OSError('libgomp.so.1: cannot open shared object file')",
    "onnxscript": "raise ModuleNotFoundError(\"No module named 'torch.onnx._x'\", name='torch.onnx._x')",
    "openvino": "raise RuntimeError('Exception from core.cpp')",
    "nncf": "raise AttributeError('module has no attribute x')",
    "av": "raise ImportError('libavcodec.so.61: undefined symbol')",
    "usearch": "raise Exception('anything')",
    "matplotlib": "raise TypeError('descriptors cannot be created directly')",
    "jinja2": "import jinja2.no_such_module",
    "fastapi": "this is no Python",
    "uvicorn": "raise AssertionError",
    "ray": "raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')",
    "s3fs": "raise ImportError('botocore')",
    "transformers": "raise ImportError('torch')",
    "IPython": "raise ImportError('traitlets')",
    "ipywidgets": "raise ImportError('traitlets')",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `many` recordings, a data folder, a model, and packages that are installed and `broken`."""
    folder = tmp_path_factory.mktemp("optional")
    tiny.save(tiny.model(), folder / "model.safetensors")
    tiny.write_folder(folder / "data")
    (folder / "many").mkdir()
    for number in range(AUTO_ENGINE_MIN_RECORDINGS):
        soundfile.write(folder / "many" / f"r{number:02d}.wav", tiny.breath(number % 4, number), tiny.RATE_HZ)
    for package, breaks in BREAKS.items():
        (folder / "broken" / package).mkdir(parents=True)
        (folder / "broken" / package / "__init__.py").write_text(breaks + "\n")
    return folder


def rales(
    place: Path, words: str, *, broken: bool = False, limit: str = "", cache: str = ""
) -> subprocess.CompletedProcess[str]:
    """Words of the command, with all optional packages broken or under a limit of the shell -> how it ended."""
    paths = [*([str(place / "broken")] if broken else []), str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
    # A thread more or less must not decide whether the memory is enough
    changes = {"RALES_CACHE": cache or str(place / f"cache{limit}"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}
    # Some libraries complain for ever where memory is short, which must not fill that of the test
    job = f'{limit or "true"} && exec "{sys.executable}" -m rales {words}'
    line = f"({job}) 2>&1 | head -c 200000; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["timeout", "-k", "5", "900", "bash", "-c", line],
        env=environment,
        cwd=place,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.mark.slow
def test_with_every_optional_package_broken_prediction_is_the_same(place: Path) -> None:
    words = "predict many --model model.safetensors --quality off --out "
    with_torch = rales(place, f"{words} torch.csv --engine torch")
    assert with_torch.returncode == 0, with_torch.stdout
    ended = rales(place, f"{words} broken.csv", broken=True)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("is left out") == 2
    assert "Traceback" not in ended.stdout
    assert (place / "broken.csv").read_text() == (place / "torch.csv").read_text()


MAIN_JOBS = (
    "check data",
    "synth synthetic --recordings 6 --patients 4 --seed 1",
    "train m2d_fusion --data data --size tiny --epochs 1 --out run",
    "evaluate run --data data",
    "pretrain --data data --size tiny --epochs 1 --out pre --set crops.min_items=4",
    "predict data --model model.safetensors --out one.json",
    "predict data --model model.safetensors --out labels --format audacity",
    "embed data --model model.safetensors --out vectors.npz",
    "sweep m2d_fusion --data data --size tiny --epochs 1 --seeds 1 --out sweep",
    "weights",
    "bench --model model.safetensors --batch 1 --rounds 1",
)
ASKED_FOR = {
    "report run --out report": "matplotlib|jinja2",
    "layers --data data --size tiny --out layers": "matplotlib",
    "explain many/r01.wav --model model.safetensors --cycle 1 --out why.png": "matplotlib",
    "search r01 --in vectors.npz": "usearch",
    "export model.safetensors --out model.onnx": "onnx",
    "export model.safetensors --out model.xml": "openvino",
    "predict many/r01.wav --model model.safetensors --engine onnx": "onnx",
    "predict many/r01.wav --model model.safetensors --engine openvino": "openvino",
    "serve": "fastapi|uvicorn",
    "sweep m2d_fusion --data data --size tiny --epochs 1 --out on_ray --engine ray": "ray",
}


@pytest.mark.slow
def test_every_main_job_ends_and_what_is_asked_for_is_a_sentence(place: Path) -> None:
    failed = []
    for words in MAIN_JOBS:
        ended = rales(place, words, broken=True)
        if ended.returncode or "Traceback" in ended.stdout:
            failed.append((words, ended.returncode, ended.stdout[-2000:]))
    for words, packages in ASKED_FOR.items():
        ended = rales(place, words, broken=True)
        told = any(f"needs the package {package}" in ended.stdout for package in packages.split("|"))
        if ended.returncode != 2 or not told or "Traceback" in ended.stdout:
            failed.append((words, ended.returncode, ended.stdout[-2000:]))
    print(f"{len(BREAKS)} packages broken: {len(MAIN_JOBS) + len(ASKED_FOR)} commands, {len(failed)} failures")
    assert not failed


LIMITS = (
    *(f"ulimit -f {blocks}" for blocks in (64, 256, 1024, 4096)),
    *(f"ulimit -v {mebibytes * 1024}" for mebibytes in (1200, 1400, 1600, 1800, 2000, 2500, 3000, 4000)),
    *(f"ulimit -n {files}" for files in (64, 256)),
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
def test_under_a_limit_prediction_ends_where_torch_alone_does(place: Path) -> None:
    """Whatever the limit does to the search, to torch alone it does the same or nothing."""
    failed, enough = [], 0
    words = "predict many --model model.safetensors --quality off --out"
    for number, limit in enumerate(("", *LIMITS)):
        alone = rales(place, f"{words} alone{number}.csv --engine torch", limit=limit)
        if alone.returncode:  # not enough for torch either
            continue
        enough += 1
        ended = rales(place, f"{words} auto{number}.csv", limit=limit)
        if ended.returncode or "Traceback" in ended.stdout:
            failed.append((limit, ended.returncode, ended.stdout[-2000:]))
    print(f"{len(LIMITS) + 1} limits, enough for torch {enough}: {len(failed)} failures")
    assert not failed
    assert enough > len(LIMITS) // 2


@pytest.mark.slow
def test_a_cache_in_no_place_stops_nothing(place: Path) -> None:
    """Read only for everyone, root too: a file is no folder; `/proc` takes none."""
    (place / "file").write_text("")
    words = "predict many --model model.safetensors --quality off"
    for number, cache in enumerate((str(place / "file" / "cache"), "/proc/cache", "/dev/null/x")):
        ended = rales(place, f"{words} --out cache{number}.csv", cache=cache)
        assert ended.returncode == 0, ended.stdout
        assert ended.stdout.count("no faster engine can be had here, so torch computes: ") == 1


@pytest.mark.slow
def test_an_interrupt_ends_the_search_and_its_process(place: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rales", *["predict", "many", "--model", "model.safetensors", "--out", "never.csv"]]
    environment = {**os.environ, "RALES_CACHE": str(tmp_path), "PYTHONPATH": str(REPOSITORY / "src")}
    import psutil

    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a job in the background does not hear
    with subprocess.Popen(
        words, cwd=place, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "looking for the fastest" in line:
                break
        children = until_children(process.pid)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not (place / "never.csv").exists()


def until_children(pid: int) -> list:  # type: ignore[type-arg]
    """Process -> its children, once there are some."""
    import psutil

    from tests.served import until

    return list(until(lambda: psutil.Process(pid).children(recursive=True)))
