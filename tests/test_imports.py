"""Who may import whom, what stands on optional packages, and how fast the package comes up."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rales
from tests.conftest import REPOSITORY

SOURCE = Path(rales.__file__).parent
READERS = (
    "borrowed_encoder.py",
    "named_encoder.py",
    "m2d_checkpoints.py",
    "pretrained_backbones.py",
    "hub.py",
    "model_hub.py",
    "open_audio.py",
    "io.py",
)


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    """File -> dotted name inside the package, "" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    return name.partition(".")[0]


def test_arrows_point_down_only() -> None:
    """As the contracts in pyproject.toml say."""
    ended = subprocess.run(["lint-imports", "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout


def test_every_part_has_its_floor() -> None:
    """A new package or module on the top floor says in pyproject.toml what it stands on."""
    layers = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    listed = {name.removeprefix("rales.") for layer in layers for name in layer.split(" | ")}
    assert {part_of(name_of(path)) for path in modules()} - {""} == listed


@pytest.mark.parametrize("part", ["models", "audio", "training.losses", "evaluation.metrics"])
def test_tensors_and_numbers_only(part: str) -> None:
    """No tables below the data; those that read checkpoints and sounds alone may open files."""
    files = [path for path in modules() if f"{name_of(path)}.".startswith(f"{part}.")]
    assert files
    for path in files:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        imported = {name.split(".")[0] for name in imported}
        assert "pandas" not in imported, path
        if path.name not in READERS:
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
    "PIL",
    "jinja2",
    "optuna",
    "transformers",
    "timm",
    "torchvision",
    "ray",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "nncf",
    "huggingface_hub",
    "soundevent",
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
    """PyTorch, of the extra `train`, is there: without it tests/test_first_answer.py runs the command."""
    names = [f"rales.{name_of(path)}".rstrip(".") for path in modules() if name_of(path) != "__main__"]
    ended = python(WITHOUT.format(blocked=OPTIONAL, names=names, lazy=["requests"]))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("module", ["rales", "rales.cli", "rales.settings", "rales.cli.result_lines"])
def test_the_package_and_its_command_come_up_without_the_heavy_packages(module: str) -> None:
    heavy = ["torch", "pandas", "sklearn", "scipy", "pyarrow", "soundfile"]
    ended = python(WITHOUT.format(blocked=[], names=[module], lazy=heavy))
    assert ended.returncode == 0, ended.stderr


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    """Whichever is imported first would hide the other."""
    for package in ("rales", "rales.audio", "rales.models", "rales.data"):
        found = importlib.import_module(package)
        assert not set(found.__all__) & {module.name for module in pkgutil.iter_modules(found.__path__)}


def test_the_parts_are_there_by_attribute() -> None:
    code = (
        "import rales; rales.data.read_cycles; rales.audio.M2DLogMel; rales.models.load_m2d; rales.metrics.icbhi_scores"
    )
    ended = python(code)
    assert ended.returncode == 0, ended.stderr
    with pytest.raises(AttributeError, match="module 'rales' has no attribute 'nothing'"):
        _ = rales.nothing
