"""Who may import whom, what stands on optional packages, and how fast the package comes up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rales

SOURCE = Path(rales.__file__).parent
# Part of the package -> the parts it may import; its own is always allowed (but see recipes).
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "progress": set(),
    "extras": {"config"},
    "json_files": set(),
    "seals": set(),
    "telemetry": set(),
    "cells": set(),
    "losses": set(),
    "metrics": set(),
    "optim": set(),
    "audio": set(),
    "models": {"seals", "writing"},
    "statistics": {"metrics"},
    "scoring": {"metrics", "statistics", "config"},
    "devices": {"models"},
    "writing": {"cells"},
    "runs": {"config", "cells", "seals", "writing"},
    "records": {"config", "metrics", "statistics"},
    "epochs": {"runs", "metrics"},
    "data": {"audio", "config", "metrics", "cells", "spread", "writing"},
    "report": {"runs", "records", "epochs", "metrics", "statistics", "cells"},
    "outputs": {"audio", "config", "data", "metrics"},
    "rows": {"config", "audio", "data", "losses", "metrics"},
    "steps": {"audio", "config", "losses", "optim"},
    "finetune": {
        *{"rows", "steps", "data", "runs", "models", "losses", "metrics", "optim", "config", "scoring", "devices"},
        *{"epochs", "records"},
    },
    "stages": {"finetune", "rows", "runs", "data", "devices", "config", "models"},
    "pretrain_config": set(),
    "pretrain": {"data", "runs", "records", "audio", "models", "optim", "pretrain_config", "config", "devices"},
    "recipes": {
        *{"stages", "finetune", "pretrain", "rows", "steps", "audio", "data", "models", "losses", "config"},
        "pretrain_config",
        "records",
    },
    "segment": {"audio"},
    "recordings": {"segment", "audio", "data", "config", "metrics", "writing"},
    "formats": {"runs", "cells", "config", "metrics"},
    "predict": {
        *{"recipes", "recordings", "finetune", "rows", "scoring", "runs", "audio", "data", "config", "devices"},
        *{"metrics", "models", "cells", "progress"},
    },
    "export": {
        *{"predict", "recipes", "finetune", "rows", "runs", "data", "audio", "config", "metrics", "devices", "cells"},
        "seals",
    },
    "bench": {"export", "predict", "recipes", "runs", "models", "config", "metrics"},
    "search": {"predict", "recordings", "records", "runs", "config", "cells", "seals"},
    "explain": {"predict", "recordings", "scoring", "runs", "audio", "config", "cells"},
    "web": {
        *{"predict", "explain", "recordings", "formats", "scoring", "report", "runs", "data", "audio", "metrics"},
        *{"config", "export", "cells"},
        "",
    },
    "probe": {"metrics"},
    "layers": {
        *{"recipes", "pretrain", "rows", "probe", "scoring", "runs", "data", "devices", "metrics", "models"},
        "config",
    },
    "spread": {"config"},
    "batch": {
        *{"export", "predict", "recordings", "spread", "scoring", "formats", "runs", "data", "config", "devices"},
        "cells",
    },
    "sweep": {"recipes", "probe", "spread", "data", "runs", "records", "config"},
    "default_model": {"recipes", "data", "runs", "models", "config", "pretrain_config"},
    "reproduce": {"sweep", "recipes", "rows", "data", "config", "devices"},
    "terminal": {"metrics", "report"},
    "cli": {
        "cells",
        "outputs",
        "recipes",
        "predict",
        "recordings",
        "batch",
        "formats",
        "explain",
        "export",
        "bench",
        "scoring",
        "search",
        "web",
        "sweep",
        "reproduce",
        "layers",
        "default_model",
        "report",
        "data",
        "models",
        "config",
        "runs",
        "terminal",
        "",
    },
    "__main__": {"cli"},
    "": {"export", "predict", "telemetry"},  # the package itself: load()
}

# Bars, the sentence for a package that is not installed, and the one reader of JSON
ANYWHERE = {"progress", "extras", "json_files"}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    """File -> dotted name inside the package, "" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    return name.partition(".")[0]


def imports_of(path: Path) -> set[str]:
    """File -> dotted names inside the package that it imports, wherever in the file."""
    found = set()
    known = {name_of(module) for module in modules()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.split(".")[0] == "rales"]
            found |= {name.removeprefix("rales").lstrip(".") for name in ours}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if (node.module or "").split(".")[0] == "rales":
                module = (node.module or "").removeprefix("rales").lstrip(".")
                inner = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
                found |= {name if name in known else module for name in inner}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: name_of(path) or "rales")
def test_imports_go_down_only(path: Path) -> None:
    name = name_of(path)
    part = part_of(name)
    assert part in ALLOWED, f"a new part of the package: say in this test what {part} may import"
    for other in imports_of(path):
        assert part_of(other) in {part, *ALLOWED[part], *ANYWHERE}, f"rales.{name} imports rales.{other}"


def test_the_picture_has_no_cycle() -> None:
    order: list[str] = []
    left = dict(ALLOWED)
    while left:
        free = [part for part, below in left.items() if below <= {*order, ""}]
        assert free, f"a cycle among {', '.join(left)}"
        order += free
        left = {part: below for part, below in left.items() if part not in free}


def test_no_recipe_imports_another() -> None:
    for path in (SOURCE / "recipes").glob("*.py"):
        if path.name != "__init__.py":
            assert not [other for other in imports_of(path) if part_of(other) == "recipes"], path


@pytest.mark.parametrize("part", ["models", "audio", "losses", "metrics"])
def test_tensors_and_numbers_only(part: str) -> None:
    """No tables below the data; `weights`, `public_weights`, `downloads`, `opening` and `wave` alone may open files."""
    files = [path for path in modules() if part_of(name_of(path)) == part]
    assert files
    for path in files:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        imported = {name.split(".")[0] for name in imported}
        assert "pandas" not in imported, path
        if path.name not in ("weights.py", "public_weights.py", "downloads.py", "opening.py", "wave.py"):
            assert not imported & {"pathlib", "io", "json", "soundfile", "safetensors"}, path


WITHOUT = """
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, Missing())
for name in {names}:
    importlib.import_module(name)
loaded = [name for name in {lazy} if name in sys.modules]
assert not loaded, loaded
"""
OPTIONAL = [
    "matplotlib",
    "jinja2",
    "transformers",
    "ray",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "nncf",
    "sklearn",
    "IPython",
    "fastapi",
    "starlette",
    "limits",
    "uvicorn",
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_every_module_imports_with_core_dependencies_only() -> None:
    """scikit-learn is a core dependency that takes a second, so it too waits until it is needed."""
    names = [f"rales.{name_of(path)}".rstrip(".") for path in modules() if name_of(path) != "__main__"]
    ended = python(WITHOUT.format(blocked=OPTIONAL, names=names, lazy=["requests"]))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("module", ["rales", "rales.cli", "rales.config", "rales.terminal"])
def test_the_package_and_its_command_come_up_without_the_heavy_packages(module: str) -> None:
    heavy = ["torch", "pandas", "sklearn", "scipy", "pyarrow", "soundfile"]
    ended = python(WITHOUT.format(blocked=[], names=[module], lazy=heavy))
    assert ended.returncode == 0, ended.stderr


def test_the_parts_are_there_by_attribute() -> None:
    code = (
        "import rales; rales.data.read_cycles; rales.audio.M2DLogMel; rales.models.load_m2d; rales.metrics.icbhi_scores"
    )
    ended = python(code)
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(AttributeError, match="module 'rales' has no attribute 'nothing'"):
        _ = rales.nothing
