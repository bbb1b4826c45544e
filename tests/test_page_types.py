"""What the page's scripts are held against says what the service and index.html have."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from write_page_types import write_page_types

PAGE = '<main id="main"><input id="name"><p>no id</p></main>'
SPAN = {
    "properties": {
        "start_s": {"type": "number"},
        "label": {"anyOf": [{"type": "string", "enum": ["normal", "crackle", "wheeze", "both"]}, {"type": "null"}]},
        "status": {"type": "string", "enum": ["waiting", "ready"]},
        "taken": {"prefixItems": [{"type": "integer"}, {"type": "integer"}], "type": "array"},
        "findings": {"type": "object", "additionalProperties": {"type": "integer"}},
        "p_normal": {"type": "number"},
    },
    "additionalProperties": True,
}
SPANS = {"type": "array", "items": {"$ref": "#/components/schemas/Span"}}
SPAN_ANSWER = {"content": {"application/json": {"schema": SPANS}}}
NAMED = {"properties": {"name": {"type": "string"}, "base": {"type": "integer"}}, "required": ["name"]}
NAMES = {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Name"}}}}}
SOUND: dict[str, Any] = {"requestBody": {"content": {"application/octet-stream": {}}}}
FILES: dict[str, Any] = {"requestBody": {"content": {"multipart/form-data": {}}}}
SERVICE = {
    "components": {"schemas": {"Span": SPAN, "Name": NAMED}},
    "paths": {
        "/live/{live}": {"post": {"responses": {"201": {}}, **SOUND}},
        "/live/sound": {"post": {"responses": {"201": {}}, **FILES}},
        "/sessions/{session}": {
            "delete": {"responses": {"204": {}, "404": SPAN_ANSWER}},
            "patch": {"responses": {"204": {}}, **NAMES},
        },
        "/sessions/{session}/spans": {"get": {"responses": {"200": SPAN_ANSWER}}},
    },
}
TYPES = """interface PageElements {
  "main": Tags["main"];
  "name": Tags["input"];
}
declare namespace Service {
interface Span {
  start_s: number;
  label: string | null;
  status: "waiting" | "ready";
  taken: [number, number];
  findings: Record<string, number>;
  [share: `p_${string}`]: number | null;
}
interface Name {
  name: string;
  base: number;
}
type Route<Request> =
  Request extends ["POST", "live", "sound"] ? { sends: [body: FormData]; answer: null } :
  Request extends ["POST", "live", string] ? { sends: [body: ArrayBufferView<ArrayBuffer>]; answer: null } :
  Request extends ["DELETE", "sessions", string] ? { sends: []; answer: null } :
  Request extends ["PATCH", "sessions", string] ? { sends: [body: Sent.Name]; answer: null } :
  Request extends ["GET", "sessions", string, "spans"] ? { sends: []; answer: (Span)[] } :
  never;
}
declare namespace Sent {
interface Span {
  start_s?: number;
  label?: string | null;
  status?: "waiting" | "ready";
  taken?: [number, number];
  findings?: Record<string, number>;
  [share: `p_${string}`]: number | null;
}
interface Name {
  name: string;
  base?: number;
}
}
"""


def test_ids_records_and_routes_become_types() -> None:
    assert write_page_types(PAGE, SERVICE) == TYPES


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("goal", ["page-tools", "lint-page"])
def test_tools_of_an_older_lock_are_renewed(goal: str, tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for age_s, name in enumerate(
        ("node_modules/.package-lock.json", "package-lock.json", ".venv/installed", "pyproject.toml")
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age_s, 1e9 - age_s))
    command = ["make", "-n", "-o", "build/page.d.ts", goal]
    assert "ci --ignore-scripts" not in subprocess.check_output(command, cwd=tmp_path, text=True)
    (tmp_path / "package-lock.json").touch()
    assert "ci --ignore-scripts" in subprocess.check_output(command, cwd=tmp_path, text=True)
