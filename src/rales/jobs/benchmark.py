"""How fast this machine computes a model by every path that it has, beside how fast it multiplies at best."""

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rales.errors import UsageError
from rales.export.artefact import EXPORT_TARGETS, make_probe
from rales.export.engine_selection import speed_ratio, time_engines
from rales.export.make_artefact import make_artefact
from rales.files.atomic import temporary_folder
from rales.files.json_files import to_jsonable
from rales.inference.engines import Engine, Waveforms
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.inference.torch_engine import TorchEngine
from rales.labels import CLASSES
from rales.optional_packages import package_versions
from rales.recipes.registry import make_recipe
from rales.settings import to_dict

RECORDING_S, RECORDING_HZ = 20.0, 44100  # of a recording as those of ICBHI, for the path from the disk
CALIBRATION_CLIPS = 8
MOST_TIMES_SLOWER = 3.0  # than in float32 that products of bfloat16 may be, for torch's path to take part
UNITS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def run_benchmark(
    path_or_name: str | Path | None = None,
    size: str = "base",
    batches: tuple[int, ...] = (1, 8),
    rounds: int = 5,
    tell: Callable[[str], None] = lambda _: None,
    peer: Callable[[Predictor], Engine] | None = None,
) -> dict[str, Any]:
    """Model, or the size of an untrained one with all layers fused -> times of every path, and the machine's peaks.

    All paths take turns, round after round; figures are medians, ratios medians of the rounds' ratios to torch's plain
    float32, or to a `peer` that takes part.
    """
    model = make_untrained_predictor(size) if path_or_name is None else load_model(path_or_name, "cpu")
    peaks = {name: measure_peak_gflops(name) for name in PRODUCTS}
    gflop = gflop_per_clip(model)
    engines, left_out = dict[str, Engine](), list[str]()
    if peer is not None:
        engines[PEER] = peer(model)
    for name, make in engine_paths(model):
        tell(f"making {name}")
        try:
            engines[name] = make()
        except UsageError as error:
            left_out.append(f"{name}: {error}")
    base = next(iter(engines))
    rows = []
    for batch in batches:
        waves = np.resize(make_probe(model.recipe)[:2], (batch, make_probe(model.recipe).shape[1]))
        seconds = time_engines({name: partial(engine, waves) for name, engine in engines.items()}, rounds)
        rows += [timing_row(name, batch, values, seconds[base], gflop, peaks) for name, values in seconds.items()]
    return {
        "machine": describe_machine(peaks),
        "peak_gflops": peaks,
        "gflop_a_clip": gflop,
        "model": str(path_or_name) if path_or_name else f"untrained ViT of size {size}, all layers fused",
        "times_as_fast_as": base,
        "rows": rows,
        "from_disk": time_from_disk(model, engines, rounds),
        "left_out": left_out,
    }


EAGER, PEER = "torch float32, plain", "peer float32"


def engine_paths(model: Predictor) -> Iterator[tuple[str, Callable[[], Engine]]]:
    """Model -> every path by name, and what makes its engine (UsageError: a package is missing)."""
    torch_engine = model.torch_engine
    variant = partial(TorchEngine, torch_engine.frontend, torch_engine.network, torch_engine.device)
    yield EAGER, lambda: variant(precision=None)
    yield "torch float32, packed", lambda: torch_engine
    yield "torch bf16, packed", partial(build_bf16_engine, variant)
    clips = np.resize(make_probe(model.recipe)[:2], (CALIBRATION_CLIPS, make_probe(model.recipe).shape[1]))
    for to, target in EXPORT_TARGETS.items():
        for precision in target.precisions:
            yield f"{to} {precision}", partial(build_artefact_engine, model, to, precision, clips)


def build_bf16_engine(variant: Callable[..., Engine]) -> Engine:
    """Maker of torch's engines -> that in bfloat16. Errors: `find_bf16_problem` (UsageError)."""
    if problem := find_bf16_problem():
        raise UsageError(problem)
    return variant(precision="bf16")


def find_bf16_problem() -> str:
    """-> why bfloat16 takes no part in a measurement of torch here: emulated, a turn might take minutes; "" if it does,
    whatever `train.precision=auto` takes."""
    float32, bf16 = (measure_peak_gflops(name) or 0.0 for name in ("float32", "bf16"))
    if bf16 < float32 / MOST_TIMES_SLOWER:
        return f"products reach {bf16:.0f} GFLOP/s here, {float32:.0f} in float32: no units for it"
    return ""


def build_artefact_engine(model: Predictor, to: str, precision: str, clips: Waveforms) -> Engine:
    EXPORT_TARGETS[to].require_packages(precision)
    return make_artefact(model, to, precision, clips).engine


def make_untrained_predictor(size: str) -> Predictor:
    """Size -> a classifier of that size from a random start: as fast as a trained one."""
    recipe = make_recipe("m2d_fusion", size=size)
    torch.manual_seed(0)
    record = {"recipe": recipe.name, "classes": list(CLASSES)}
    record["config"] = to_jsonable(to_dict(recipe.settings))
    return Predictor.from_network(recipe, recipe.build_model(recipe.settings), record)


def timing_row(
    name: str, batch: int, seconds: list[float], base: list[float], gflop: float, peaks: Mapping[str, float | None]
) -> dict[str, Any]:
    """Seconds of a path's rounds -> its line: ms a clip, times as fast as the base, share of the machine's peak.

    The share counts the network's products alone, so the front-end lowers it.
    """
    clip_s = statistics.median(seconds) / batch
    peak = peaks[next(precision for precision in PRODUCTS if precision in name)]
    return {
        "path": name,
        "batch": batch,
        "ms_a_clip": 1000 * clip_s,
        "times": speed_ratio(seconds, base),
        "gflops": gflop / clip_s,
        "share_of_peak": gflop / clip_s / peak if peak else None,
    }


def time_from_disk(model: Predictor, engines: Mapping[str, Engine], rounds: int) -> list[dict[str, Any]]:
    """-> seconds by every path from a recording on the disk (24 bits) to its table of cycles, and times real time."""
    noise = np.random.default_rng(0).normal(0, 0.05, round(RECORDING_S * RECORDING_HZ)).clip(-1, 1)
    with temporary_folder() as folder:
        recording = Path(folder, "recording.wav")
        soundfile.write(recording, noise, RECORDING_HZ, subtype="PCM_24")

        def turn(engine: Engine) -> None:
            model.with_engine(engine).predict(recording, quality=False)  # noise, so that the engine has work

        seconds = time_engines({name: partial(turn, engine) for name, engine in engines.items()}, rounds)
    return [
        {"path": name, "seconds": statistics.median(values), "times_real_time": RECORDING_S / statistics.median(values)}
        for name, values in seconds.items()
    ]


def gflop_per_clip(model: Predictor) -> float:
    """Model -> 1e9 multiplications and additions of the network's products for one clip."""
    features = model.torch_engine.frontend(torch.from_numpy(make_probe(model.recipe)[:1]))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.network(features)
    return float(counter.get_total_flops()) / 1e9


def measure_peak_gflops(precision: str) -> float | None:
    """Precision -> the most 1e9 operations a second that a large product of matrices reaches here; None: cannot."""
    function, rows = PRODUCTS[precision], 1024
    left, right = torch.rand(rows, rows), torch.rand(rows, rows)
    try:
        turn = function(left, right)
        best_s = min(time_engines({"": turn}, rounds=8)[""])
    except RuntimeError:
        return None
    return 2 * rows**3 / best_s / 1e9


def prepare_int8_product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], object]:
    return partial(torch._int_mm, (127 * left).to(torch.int8), (127 * right).to(torch.int8))


PRODUCTS: dict[str, Callable[[torch.Tensor, torch.Tensor], Callable[[], object]]] = {
    "float32": lambda left, right: partial(F.linear, left, right),
    "bf16": lambda left, right: partial(F.linear, left.bfloat16(), right.bfloat16()),
    "int8": prepare_int8_product,
}


def describe_machine(peaks: Mapping[str, float | None]) -> dict[str, Any]:
    """Measured peaks -> what bounds the figures: processor, its units for narrow numbers, threads, load, packages."""
    fields = {}
    if (known := Path("/proc/cpuinfo")).is_file():
        lines = [line.partition(":") for line in known.read_text().splitlines()]
        fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "units": [unit for unit in UNITS if unit in flags],
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "bf16_pays": (peaks["bf16"] or 0.0) > (peaks["float32"] or 0.0),
        "packages": package_versions(("torch", "onnxruntime", "openvino", "nncf")),
    }
