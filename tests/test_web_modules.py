"""The modules of the page fit together: one name that is not exported leaves the whole page blank."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

SCRIPTS = Path(str(files("rales.web"))) / "static" / "js"
NAMED = re.compile(r'^import\s*\{([^}]*)\}\s*from\s*"\./([\w.]+)"', re.M)
WHOLE = re.compile(r'^import\s*\*\s*as\s+(\w+)\s+from\s*"\./([\w.]+)"', re.M)
EXPORTED = re.compile(r"^export\s+(?:async\s+)?(?:function\*?|const|let|class)\s+(\w+)", re.M)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.js")), ids=lambda script: script.name)
def test_what_a_module_imports_is_exported(script: Path) -> None:
    text = script.read_text()
    wanted = [
        (module, name.split(" as ")[0].strip())
        for names, module in NAMED.findall(text)
        for name in names.split(",")
        if name.strip()
    ]
    wanted += [
        (module, member)
        for word, module in WHOLE.findall(text)
        for member in re.findall(rf"(?<![.\w]){word}\.(\w+)\(", text)
    ]
    missing = [f"{module}: {name}" for module, name in wanted if name not in exported(SCRIPTS / module)]
    assert not missing


def exported(script: Path) -> set[str]:
    return set(EXPORTED.findall(script.read_text())) if script.is_file() else set()


def test_a_name_that_is_gone_is_found() -> None:
    found = exported(SCRIPTS / "listing.js")
    assert "refresh" in found
    assert "gone" not in found
