"""scripts/gpu_check.sh runs to its end on a processor, in small, and finds what it should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY


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
