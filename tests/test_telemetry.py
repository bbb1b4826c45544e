"""Nobody is told that Rales is used: not by Rales, and not by a library that it uses."""

import ast
import sys
from pathlib import Path

import pytest

import rales

from .recorder import recording

SOURCE = Path(rales.__file__).parent
REPORTING = {"openvino", "nncf", "onnxruntime", "ray", "transformers", "huggingface_hub", "openvino_telemetry"}


def imported_by(path: Path, *, at_the_top: bool) -> set[str]:
    """Python file -> names of the packages it imports, anywhere or as it is itself imported."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_the_top else list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in found}


def test_it_is_refused_before_anything_else_is_imported() -> None:
    """The package's own file comes before each of its modules, whoever imports which; nothing may stand before it."""
    body = ast.parse((SOURCE / "__init__.py").read_text()).body
    refusal = next(
        number for number, node in enumerate(body) if ast.unparse(node) == "refuse_telemetry()"
    )  # StopIteration: it is not called
    before = {
        name.split(".")[0]
        for node in body[:refusal]
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([str(node.module)] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert before <= set(sys.stdlib_module_names) | {"rales"}
    assert imported_by(SOURCE / "telemetry.py", at_the_top=False) == {"os", "sys"}
    for path in SOURCE.rglob("*.py"):
        assert not imported_by(path, at_the_top=True) & REPORTING, path  # nor in a process that only reads `--help`
    scripts = [*(SOURCE.parent.parent / "benchmarks").glob("*.py"), *(SOURCE.parent.parent / "scripts").glob("*.py")]
    for path in scripts:
        assert not imported_by(path, at_the_top=True) & REPORTING, path


@pytest.mark.parametrize("module", ["rales", "rales.export.openvino"])
def test_whichever_module_comes_first(module: str, tmp_path: Path) -> None:
    code = (
        f"import {module}, os, sys; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'; "
        "assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'\n"
        "try:\n    import openvino_telemetry\nexcept ImportError:\n    sys.exit(7)"
    )
    with recording(tmp_path / "home") as recorder:
        ended = recorder.run("-c", code)
    assert ended.returncode == 7, ended.stderr
