"""All of schemathesis, with all of its checks, over the whole service."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.served import served
from tests.test_web_described import described

EXAMPLES = 150  # of each operation in each phase that makes them up
SEED = 1
# What a description cannot say: which bytes are a recording. Everything else that it calls right is taken.
CONFIG = """
{operations}
[generation]
deterministic = true
"""
OPERATION = """
[[operations]]
include-name = "{name}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429"]
"""


@pytest.mark.slow
def test_every_check_of_schemathesis(place: Path, tmp_path: Path) -> None:
    operations = ("POST /predict", "POST /sessions/{session}/recordings")
    config = CONFIG.format(operations="".join(OPERATION.format(name=name) for name in operations))
    (tmp_path / "schemathesis.toml").write_text(config)
    with served(place, runs=place / "runs", folder=tmp_path / "store") as client:
        (tmp_path / "openapi.json").write_text(json.dumps(narrowed(described(client, place))))
        told = [f"{name}: {value}" for name, value in client.headers.items() if name.lower() == "authorization"]
        words = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", "openapi.json"]
        words += ["--url", str(client.base_url), "--checks", "all", "--phases", "coverage,fuzzing,stateful"]
        words += ["--max-examples", str(EXAMPLES), "--seed", str(SEED), "--continue-on-failure"]
        words += ["--suppress-health-check", "all", "--warnings", "off", *(f"--header={each}" for each in told)]
        hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.attack.described_sounds", "NO_COLOR": "1"}
        hooks["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        run = subprocess.run(words, cwd=tmp_path, env=hooks, capture_output=True, text=True, errors="replace")
        assert client.get("/health").status_code == 200
    found = re.search(r"(\d+) generated", run.stdout)
    assert found, run.stdout[-4000:] + run.stderr[-2000:]
    failures = re.findall(r"❌ (ST\d+ .*?): \d+", run.stdout)
    print(f"\nschemathesis, all checks: {found[1]} requests, {len(failures)} kinds of failures")
    assert run.returncode == 0, run.stdout[-8000:]
    assert int(found[1]) > 1000


def narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    """A description -> the same with what it cannot say filled in: times that fit the recordings, which last 4 s, names
    of models that are there, and in bodies, too, recordings that are there."""
    known: dict[str, Any] = {"start_s": [0, 0.5], "end_s": [1.5, 3.25], "model": ["first", "second"]}
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    parameter["schema"] = {"enum": known[parameter["name"]]}

    parts = schema["components"]["schemas"]
    cycle: dict[str, Any] = {"type": "object", "required": ["start_s", "end_s"]}
    cycle["properties"] = {name: {"enum": known[name]} for name in ("start_s", "end_s")}
    label = {"label": {"enum": ["normal", "crackle", "wheeze", "both"]}}
    marked = {**cycle, "required": [*cycle["required"], "label"], "properties": {**cycle["properties"], **label}}
    one = {"type": "array", "maxItems": 1}  # two could be alike
    (recording,) = schema["paths"]["/recordings/{recording}"]["get"]["parameters"]
    parts["Annotation"]["properties"] |= {"recording": recording["schema"], "cycles": {**one, "items": marked}}
    parts["ScoreRequest"]["properties"] |= {
        "cycles": {**one, "items": cycle},
        "model": {"enum": [*known["model"], None]},
    }
    for name in (name for name in parts if name.startswith("Body")):
        if "model" in parts[name]["properties"]:
            parts[name]["properties"]["model"] = {"enum": known["model"]}
    return schema
