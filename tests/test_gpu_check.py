"""scripts/gpu_check.sh runs to its end on a processor, in small, and finds what it should."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from benchmarks import gpu_check

from .conftest import REPOSITORY


def test_a_system_that_raises_costs_no_other_and_none_compared_is_not_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu_check.tiny.SYSTEMS", ["whole", "cut"])
    losses = {"whole-0": [1.0, 2.0], "whole-1": [1.0, 2.0], "cut-0": [1.0, 2.0], "cut-1": [1.0]}
    monkeypatch.setattr(gpu_check, "three_losses", lambda name, data, out, device: losses[out.name])
    check = gpu_check.Check(torch.device("cpu"), tmp_path / "first", time.monotonic() + 1000)
    found = gpu_check.compare_systems(check)
    assert (found["differences"]["whole"], found["equal"]) == (0.0, False)
    assert found["differences"]["cut"].startswith("ValueError: zip() argument 2 is longer")
    check = gpu_check.Check(torch.device("cpu"), tmp_path / "second", time.monotonic())
    assert gpu_check.compare_systems(check) == {"skipped": "no time was left"}


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_on_a_processor(tmp_path: Path) -> None:
    command = [
        str(REPOSITORY / "scripts" / "gpu_check.sh"),
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
        "--minutes",
        "30",
    ]
    env = {**os.environ, "PYTHON": sys.executable, "RALES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    compared = {name: part["equal"] for name, part in found.items() if "equal" in part}
    assert compared == dict.fromkeys(
        ("frontends", "encoder", "pretraining", "choices", "resume", "processes", "memory", "systems"), True
    )
    assert found["systems"]["systems"] == found["systems"]["of"]
    assert "| - rales, float32, batch 2 |" in (tmp_path / "gpu_check.md").read_text()
