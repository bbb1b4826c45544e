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

from rales.config import to_dict
from rales.errors import UsageError
from rales.export.artefact import FORMATS, made, need, probe_of
from rales.export.engine_selection import race, times_as_fast
from rales.export.parity import Engine, Waves
from rales.files.atomic import temporary_folder
from rales.inference import predictor
from rales.inference.predictor import Model
from rales.labels import CLASSES
from rales.models.cpu_inference import bf16_is_faster, prepack_for_cpu
from rales.recipes.registry import make_recipe
from rales.training import run_folder

RECORDING_S, RECORDING_HZ = 20.0, 44100  # of a recording as those of ICBHI, for the path from the disk
CALIBRATION_CLIPS = 8
UNITS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def bench(
    path_or_name: str | Path | None = None,
    size: str = "base",
    batches: tuple[int, ...] = (1, 8),
    rounds: int = 5,
    tell: Callable[[str], None] = lambda _: None,
    peer: Callable[[Model], Engine] | None = None,
) -> dict[str, Any]:
    """Model, or the size of an untrained one with all layers fused -> times of every path, and the machine's peaks.

    All paths take turns, round after round; figures are medians, ratios medians of the rounds' ratios to torch's plain
    float32, or to a `peer` that takes part.
    """
    model = untrained(size) if path_or_name is None else predictor.load(path_or_name, "cpu")
    peaks = {name: peak_gflops(name) for name in PRODUCTS}
    gflop = gflop_a_clip(model)
    engines, left_out = dict[str, Engine](), list[str]()
    if peer is not None:
        engines[PEER] = peer(model)
    for name, make in paths(model):
        tell(f"making {name}")
        try:
            engines[name] = make()
        except UsageError as error:
            left_out.append(f"{name}: {error}")
    base = next(iter(engines))
    rows = []
    for batch in batches:
        waves = np.resize(probe_of(model.recipe)[:2], (batch, probe_of(model.recipe).shape[1]))
        seconds = race({name: partial(engine, waves) for name, engine in engines.items()}, rounds)
        rows += [row(name, batch, values, seconds[base], gflop, peaks) for name, values in seconds.items()]
    return {
        "machine": machine(),
        "peak_gflops": peaks,
        "gflop_a_clip": gflop,
        "model": str(path_or_name) if path_or_name else f"untrained ViT of size {size}, all layers fused",
        "times_as_fast_as": base,
        "rows": rows,
        "from_disk": from_disk(model, engines, rounds),
        "left_out": left_out,
    }


EAGER, PEER = "torch float32, plain", "peer float32"


def paths(model: Model) -> Iterator[tuple[str, Callable[[], Engine]]]:
    """Model -> every path by name, and what makes its engine (UsageError: a package is missing)."""
    yield EAGER, lambda: partial(model.in_torch, network=model.plain)
    yield "torch float32, packed", lambda: model.in_torch
    if bf16_is_faster():  # else a turn may take ten times as long
        yield "torch bf16, packed", lambda: partial(model.in_torch, network=prepack_for_cpu(model.plain, "bf16"))
    clips = np.resize(probe_of(model.recipe)[:2], (CALIBRATION_CLIPS, probe_of(model.recipe).shape[1]))
    for to, file in FORMATS.items():
        for precision in file.PRECISIONS:
            yield f"{to} {precision}", partial(build, model, to, precision, clips)


def build(model: Model, to: str, precision: str, clips: Waves) -> Engine:
    file = FORMATS[to]
    need(file.PACKAGES | (file.TO_QUANTIZE if precision == "int8" else {}))
    return made(model, to, precision, clips).engine


def untrained(size: str) -> Model:
    """Size -> a classifier of that size from a random start: as fast as a trained one."""
    recipe = make_recipe("m2d_fusion", size=size)
    torch.manual_seed(0)
    record = {"recipe": recipe.name, "options": dict(recipe.options), "classes": list(CLASSES)}
    record["config"] = run_folder.clean(to_dict(recipe.config))
    return Model(recipe, recipe.model(recipe.config), record, torch.device("cpu"))


def row(
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
        "times": times_as_fast(seconds, base),
        "gflops": gflop / clip_s,
        "share_of_peak": gflop / clip_s / peak if peak else None,
    }


def from_disk(model: Model, engines: Mapping[str, Engine], rounds: int) -> list[dict[str, Any]]:
    """-> seconds by every path from a recording on the disk (24 bits) to its table of cycles, and times real time."""
    noise = np.random.default_rng(0).normal(0, 0.05, round(RECORDING_S * RECORDING_HZ)).clip(-1, 1)
    with temporary_folder() as folder:
        recording = Path(folder, "recording.wav")
        soundfile.write(recording, noise, RECORDING_HZ, subtype="PCM_24")

        def turn(engine: Engine) -> None:
            model.engine = engine
            model.predict(recording, quality=False)  # noise, so that the engine has work

        seconds = race({name: partial(turn, engine) for name, engine in engines.items()}, rounds)
    model.engine = model.in_torch
    return [
        {"path": name, "seconds": statistics.median(values), "times_real_time": RECORDING_S / statistics.median(values)}
        for name, values in seconds.items()
    ]


def gflop_a_clip(model: Model) -> float:
    """Model -> 1e9 multiplications and additions of the network's products for one clip."""
    features = model.frontend(torch.from_numpy(probe_of(model.recipe)[:1]))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.plain(features)
    return float(counter.get_total_flops()) / 1e9


def peak_gflops(precision: str) -> float | None:
    """Precision -> the most 1e9 operations a second that a large product of matrices reaches here; None: cannot."""
    function, rows = PRODUCTS[precision], 1024
    left, right = torch.rand(rows, rows), torch.rand(rows, rows)
    try:
        turn = function(left, right)
        best_s = min(race({"": turn}, rounds=8)[""])
    except RuntimeError:
        return None
    return 2 * rows**3 / best_s / 1e9


def int8_product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], object]:
    return partial(torch._int_mm, (127 * left).to(torch.int8), (127 * right).to(torch.int8))


PRODUCTS: dict[str, Callable[[torch.Tensor, torch.Tensor], Callable[[], object]]] = {
    "float32": lambda left, right: partial(F.linear, left, right),
    "bf16": lambda left, right: partial(F.linear, left.bfloat16(), right.bfloat16()),
    "int8": int8_product,
}


def machine() -> dict[str, Any]:
    """-> what bounds the figures: processor, its units for narrow numbers, threads, load, packages."""
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
        "bf16_pays": bf16_is_faster(),
        "packages": run_folder.versions(("torch", "onnxruntime", "openvino", "nncf")),
    }
