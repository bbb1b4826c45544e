"""The oldest and the newest versions that pyproject.toml allows, each in a fresh environment, and the tests that touch
them. A maintainer's job before a release; needs uv (`pip install uv`), a network and some 6 GB a resolution.

    python scripts/resolutions.py                                  # this Python, oldest and newest
    python scripts/resolutions.py --python 3.12 3.13 --only highest
    python scripts/resolutions.py --python 3.14 --resolve          # whether versions exist, nothing installed
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RESOLUTIONS = ("lowest-direct", "highest")
SHOWN = ("torch", "numpy", "pandas", "openvino", "onnxruntime", "onnxscript", "ray", "fastapi", "starlette")
# Every direct dependency is behind one of these; the browser's own tests and the recipes' say nothing more about them
TESTS = (
    *(
        "cli",
        "extras",
        "imports",
        "runs",
        "cache",
        "wave",
        "opening",
        "quality",
        "predict",
        "batch",
        "finetune",
        "fast",
    ),
    *("export", "engine_failures", "telemetry", "search", "report", "explain", "sweep", "table", "formats", "progress"),
    *("web_service", "web_sessions", "web_hostile", "downloads"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=[platform.python_version()], help="versions or interpreters")
    parser.add_argument("--only", choices=RESOLUTIONS, help="one of the two resolutions")
    parser.add_argument("--resolve", action="store_true", help="only find the versions")
    parser.add_argument("--constraint", type=Path, help="for instance constraints/cpu.txt: torch without CUDA")
    parser.add_argument("--folder", type=Path, help="keep the environments there")
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory(prefix="rales-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for python in options.python:
            for resolution in [options.only] if options.only else RESOLUTIONS:
                said, works = tried(folder, python, resolution, options.constraint, resolve_only=options.resolve)
                print(f"Python {python}, {resolution}: {said}", flush=True)
                failures += not works
    return 1 if failures else 0


def tried(
    folder: Path, python: str, resolution: str, constraint: Path | None, *, resolve_only: bool
) -> tuple[str, bool]:
    """Python and resolution -> what was found, and whether it works."""
    name = f"{re.sub(r'[^0-9.]', '', Path(python).name)}-{resolution}"
    versions = folder / f"{name}.txt"
    words = ["pip", "compile", "pyproject.toml", "--extra", "all", "--extra", "dev", "--python", python]
    words += ["--resolution", resolution, "--output-file", str(versions), "--quiet"]
    words += ["--constraint", str(constraint), "--index-strategy", "unsafe-best-match"] if constraint else []
    found = uv(*words)
    if found.returncode:
        return f"no versions fit each other\n{found.stderr}", False
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", versions.read_text(encoding="utf-8"), re.MULTILINE))
    shown = ", ".join(f"{package} {pins[package]}" for package in SHOWN if package in pins)
    if resolve_only:
        return f"{len(pins)} packages, {shown}; resolved only", True

    environment = folder / name
    inside = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    for step in (
        ["venv", "--python", python, "--clear", environment],
        ["pip", "sync", "--python", inside, versions],
        ["pip", "install", "--python", inside, "--no-deps", "--editable", "."],
    ):
        done = uv(*step, "--quiet")
        if done.returncode:
            return f"{shown}; uv {step[0]} failed\n{done.stderr}", False
    files = [f"tests/test_{name}.py" for name in TESTS]
    tests = [inside, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files]
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(list(map(str, tests)), cwd=REPOSITORY, env=quiet, capture_output=True, text=True)
    (folder / f"{name}.log").write_text(ended.stdout + ended.stderr, encoding="utf-8")
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    last = ended.stdout.strip().rpartition("\n")[2]
    return "\n  ".join([f"{shown}; {last}", *lines]), ended.returncode == 0


def uv(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uv", *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True
    )


if __name__ == "__main__":
    sys.exit(main())
