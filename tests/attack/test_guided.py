"""Coverage-guided fuzzing of every reader, RALES_FUZZ_SECONDS each: ten in `make test-slow`, half an hour on demand:

    RALES_FUZZ_SECONDS=1800 RALES_FUZZ_FOLDER=fuzz pytest -m slow -s tests/attack/test_guided.py

With RALES_FUZZ_FOLDER what was found is kept there, and the next call goes on from it.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.targets import TARGETS
from tests.run_folders import environment

SECONDS = int(os.environ.get("RALES_FUZZ_SECONDS", "10"))
STARTING_S = 120


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed; it comes for Linux on x86_64, by make setup",
)
@pytest.mark.parametrize("target", TARGETS)
def test_guided_by_coverage(target: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("RALES_FUZZ_FOLDER", tmp_path)) / target
    words = [sys.executable, "-m", "tests.attack.guided", target, str(folder), str(SECONDS)]
    ended = subprocess.run(words, env=environment(), capture_output=True, timeout=2 * SECONDS + STARTING_S, check=False)
    log = ended.stderr.decode(errors="replace") + ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, log[-2000:]

    covered = [int(found) for found in re.findall(r"\bcov: (\d+)", log)]
    executed = re.findall(r"number_of_executed_units: (\d+)", log)
    findings = sorted((folder / "findings").glob("*.txt"))
    print(f"\n{target}: {executed[0]} executions, coverage {covered[0]} -> {covered[-1]}, {len(findings)} findings")
    assert int(executed[0]) > 10 * min(SECONDS, 10)
    assert covered[-1] >= covered[0] > 50
    assert not list((folder / "findings").iterdir()), "\n".join(path.read_text() for path in findings)
