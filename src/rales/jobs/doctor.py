"""What there is here and whether it works: versions, devices, folders, the shipped model's answers to a known sound."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path, user_data_path

from rales.environment import count_processors, count_threads, describe_environment
from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.export.load import load_with_engine
from rales.inference.predictor import Predictor
from rales.models.hub import DEFAULT_MODEL
from rales.optional_packages import find_missing_package, is_installed, require_torch
from rales.synthesis.simulator import Chest, simulate_recording
from rales.typing import Waveform

EXTRAS = {  # extra of the package -> what stands and falls with it
    "train": "torch",
    "report": "matplotlib",
    "web": "fastapi",
    "search": "usearch",
    "export": "onnxscript",
    "openvino": "openvino",
    "av": "av",
    "ray": "ray",
    "hub": "huggingface_hub",
    "soundevent": "soundevent",
    "cloud": "s3fs",
    "labels": "cleanlab",
    "tune": "optuna",
    "quantize": "nncf",
    "encoders": "timm",
    "slurm": "submitit",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
LEAST_FREE_BYTES = 10**9
RATE_HZ = 8000
BREATHS = np.array([[0.2, 1.6, 3.8], [4.2, 5.6, 7.8], [8.2, 9.6, 11.8]])  # start, turn and end in s
TOLERANCE = 0.01  # of a probability; what another processor rounds otherwise moves it by less
KNOWN = (  # the shipped model's answers to the three windows of 4 s, right or wrong
    (0.4206, 0.3541, 0.1071, 0.1183),
    (0.0077, 0.0158, 0.3576, 0.6188),
    (0.0340, 0.0198, 0.6566, 0.2896),
)


def diagnose(device: str = "auto") -> dict[str, Any]:
    """Device word -> environment, extras, devices, folders, self_check, notes, problems, for JSON.

    A problem keeps something from working; a note is worth knowing. Errors: a device that is not there.
    """
    if device not in ("auto", "cpu"):
        require_torch(f"--device {device}")
        from rales.training.distributed import choose_device

        try:
            choose_device(device, 0)
        except ValueError as error:
            raise UsageError(str(error)) from error
    devices = find_devices()

    folders = {
        "cache": Path(os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser(),
        "sessions of the page": user_data_path("rales") / "web",
    }
    places = {name: describe_folder(path) for name, path in folders.items()}
    checked = check_model(device)

    problems = [f"{place['path']}: cannot be written" for place in places.values() if not place["writable"]]
    notes = [
        f"{place['path']}: {place['free_bytes'] / 10**9:.1f} GB free"
        for place in places.values()
        if place["free_bytes"] < LEAST_FREE_BYTES
    ]
    if shutil.which("nvidia-smi") and is_installed("torch") and not any("cuda" in name for name in devices):
        notes.append(
            "a driver of NVIDIA is here, but this torch uses no GPU: install a torch with CUDA (docs/install.md)"
        )

    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **describe_environment(),
        "extras": {extra: find_missing_package(package, extra) for extra, package in EXTRAS.items()},
        "devices": devices,
        "folders": places,
        "self_check": checked,
        "notes": notes,
        "problems": problems + checked["problems"],
        "notice": NOTICE,
    }


def find_devices() -> list[str]:
    """-> where torch can compute, the processor first."""
    found = [f"cpu: {count_processors()} processors, {count_threads()} threads"]
    if not is_installed("torch"):
        return found
    import torch

    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number}: {about.name}, {about.total_memory / 2**30:.0f} GiB")
    return found + ["mps"] * torch.backends.mps.is_available()


def describe_folder(path: Path) -> dict[str, Any]:
    """Folder that need not be there -> path, writable, free_bytes, of it or of the first that is there above it."""
    there = next(place for place in (path, *path.parents) if place.is_dir())
    free_bytes = shutil.disk_usage(there).free
    return {"path": str(path), "writable": os.access(there, os.W_OK | os.X_OK), "free_bytes": free_bytes}


def make_known_sound() -> Waveform:
    """-> 12 s of simulated breaths at 8 kHz, the same wherever it is called."""
    chest = Chest(
        cutoff=1.2, heart_rate_hz=1.15, heart_level=0.5, fine_share=0.3, two_cycle=1.0, wheeze_hz=420.0, polyphony=0.3
    )
    wave = simulate_recording(
        BREATHS,
        np.array([False, True, False]),
        np.array([False, False, True]),
        chest=chest,
        location="Pr",
        device="AKGC417L",
        duration_s=12.0,
        rate_hz=RATE_HZ,
        rng=np.random.default_rng(8),
    )
    return wave.astype(np.float32)


def check_model(device: str = "auto", model: Predictor | None = None) -> dict[str, Any]:
    """Device word, or a model -> how far its answers to the known sound are from those of the shipped model; problems
    if that is more than rounding."""
    try:
        model = model or load_with_engine(DEFAULT_MODEL, device=device)
        table = model.predict(make_known_sound(), sample_rate=RATE_HZ, cycles="windows", quality=False)
    except (ValueError, OSError, RuntimeError) as error:
        return {"model": DEFAULT_MODEL, "difference": None, "problems": [f"{DEFAULT_MODEL}: {error}"]}
    given = table[list(model.label_set.columns)].to_numpy(dtype=float)
    difference = float(np.abs(given - np.array(KNOWN)).max()) if given.shape == np.shape(KNOWN) else 1.0
    problems = []
    if not difference <= TOLERANCE:
        problems.append(
            f"the model {DEFAULT_MODEL} answers a known sound {difference:.3f} of a probability otherwise than it "
            "should: a package of this environment computes something else, so no answer here can be trusted"
        )
    return {"model": model.name, "difference": difference, "problems": problems}
